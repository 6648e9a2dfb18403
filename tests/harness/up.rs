//! A running `bowline up`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Bowline;
use crate::port::Port;

/// `up` in the foreground, its output read line by line.
#[derive(Debug)]
pub struct Up {
    child: Child,
    lines: mpsc::Receiver<Value>,
    /// The line that said the app is ready.
    pub ready: Value,
}

impl Up {
    /// Starts `bowline up DIR` on any free ports and waits until the app is ready.
    pub fn start(bowline: &Bowline, dir: &Path, limit: Duration) -> Self {
        Self::start_with(bowline, dir, &[], limit)
    }

    /// With more arguments.
    pub fn start_with(bowline: &Bowline, dir: &Path, more: &[&str], limit: Duration) -> Self {
        Self::begin(bowline, dir, ["0", "0"], more, limit)
    }

    /// On these ports of HTTP and HTTPS, which nobody else is given while neither daemon nor edge has them.
    pub fn start_on(bowline: &Bowline, dir: &Path, ports: &[Port; 2], limit: Duration) -> Self {
        let [http, https] = ports.each_ref().map(|port| port.number.to_string());
        Self::begin(bowline, dir, [&http, &https], &[], limit)
    }

    fn begin(bowline: &Bowline, dir: &Path, [http, https]: [&str; 2], more: &[&str], limit: Duration) -> Self {
        let dir = dir.to_str().expect("paths of tests are UTF-8");
        let mut command = bowline.command(&["up", dir, "--json", "--http", http, "--https", https, "--admin", "0"]);
        command.args(more);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}"));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        let ready = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line["kind"] == "ready" => break line,
                Ok(line) => seen.push(line.to_string()),
                Err(error) => {
                    // Ends only what this test started.
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("`up {dir}` did not get ready: {error}\n{}", seen.join("\n"));
                }
            }
        };
        Self { child, lines, ready }
    }

    /// The first URL with this scheme.
    pub fn url(&self, scheme: &str) -> String {
        let urls = self.ready["urls"].as_array().expect("urls");
        let found = urls.iter().filter_map(Value::as_str).find(|u| u.starts_with(&format!("{scheme}://")));
        found.unwrap_or_else(|| panic!("no {scheme} in {urls:?}")).trim_end_matches('/').to_owned()
    }

    pub fn https(&self) -> String {
        self.url("https")
    }

    pub fn http(&self) -> String {
        self.url("http")
    }

    /// `http://ADDRESS` of the admin port.
    pub fn admin(&self) -> String {
        format!("http://{}", self.ready["admin"].as_str().expect("the admin port"))
    }

    /// Waits for a line that matches.
    pub fn line(&self, what: &str, limit: Duration, matches: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if matches(&line) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line that is {what}: {error}"),
            }
        }
    }

    /// Kills the client alone: what it started goes on, and nobody brings a daemon back that dies.
    pub fn abandon(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("the client is this test's child");
    }

    /// Ctrl-C, and waits for the end.
    pub fn interrupt(mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("the child is there");
        self.end("`up` ends after Ctrl-C", Duration::from_secs(60))
    }

    /// Waits until it ends by itself.
    pub fn ended(mut self, limit: Duration) -> ExitStatus {
        self.end("`up` ends by itself", limit)
    }

    fn end(&mut self, what: &str, limit: Duration) -> ExitStatus {
        crate::wait(what, limit, || self.child.try_wait().expect("the child can be waited for"))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // The daemon is stopped with its `Bowline`; this ends only the client, if a test failed before it ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
