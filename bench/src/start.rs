//! From `bowline up` of an app that was built before to its first 200 through the edge, above the app's own start.
//!
//! The app's own start is the very command that its shim runs, started directly, to its first 200 on its own port. The
//! two are run in turns. The difference is what Bowline adds: daemon, edge, store, shim, the health check's wait.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use crate::figure::Runs;
use crate::{say, setting};

/// Between two tries to get an answer.
const POLL: Duration = Duration::from_millis(1);

/// How long anything may take to start or to end.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run() -> anyhow::Result<Value> {
    let runs = setting("BENCH_STARTS", 15)?;
    let mut result = Map::new();
    say("| app | `up` to the first 200, s, median (min–max) | the app alone | difference of medians |");
    say("|---|---|---|---|");
    for fixture in ["plain", "flask"] {
        let (up, alone) = measure(fixture, runs)?;
        let above = up.median() - alone.median();
        let shown = |runs: &Runs| format!("{:.3} ({:.3}–{:.3})", runs.median(), runs.min(), runs.max());
        say(&format!("| {fixture} | {} | {} | {above:.3} |", shown(&up), shown(&alone)));
        result.insert(fixture.to_owned(), json!({ "up_s": up.json(), "alone_s": alone.json(), "above_s": above }));
    }
    Ok(result.into())
}

fn measure(fixture: &str, runs: u32) -> anyhow::Result<(Runs, Runs)> {
    let bowline = Bowline::new();
    let folder = bowline.app(&format!("start-{fixture}"), fixture);
    let instance = {
        // Builds it, and shows what an instance is run as.
        let up = Up::start(&bowline, &folder, BUILD);
        let instance = Instance::of(&bowline, &format!("start-{fixture}"))?;
        ensure!(up.interrupt().success(), "`up` did not end well");
        instance
    };
    let host = format!("start-{fixture}.localhost");
    let (mut ups, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ups.push(first_answer_of_up(&bowline, &folder, &host)?.as_secs_f64());
        alone.push(instance.first_answer()?.as_secs_f64());
    }
    Ok((Runs::new(ups), Runs::new(alone)))
}

/// A daemon is not running before, and is gone after.
fn first_answer_of_up(bowline: &Bowline, folder: &Path, host: &str) -> anyhow::Result<Duration> {
    let http = free_port()?;
    let port = http.port().to_string();
    let folder = folder.to_str().context("a path that is not UTF-8")?;
    let mut command = bowline.command(&["up", folder, "--json", "--http", &port, "--https", "0", "--admin", "0"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let child = command.spawn().context("bowline")?;
    let took = first_200(http, host, began);
    end(child, Signal::SIGINT)?;
    took
}

/// The command that a shim runs, to be run without it.
struct Instance {
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    port: String,
}

impl Instance {
    fn of(bowline: &Bowline, app: &str) -> anyhow::Result<Self> {
        let own = bowline.processes_of(app);
        let is_root = |p: &&Process| p.parent().is_some_and(|parent| !own.iter().any(|other| other.pid == parent));
        let pid = own.iter().find(is_root).context("the app has no process")?.pid;
        let list = |name: &str| -> anyhow::Result<Vec<OsString>> {
            let bytes = std::fs::read(format!("/proc/{pid}/{name}"))?;
            let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|b| *b == 0);
            Ok(words.map(|word| OsStr::from_bytes(word).to_owned()).collect())
        };
        let pairs = list("environ")?.into_iter().filter_map(|pair| {
            let at = pair.as_bytes().iter().position(|b| *b == b'=')?;
            let (name, value) = (&pair.as_bytes()[..at], &pair.as_bytes()[at + 1..]);
            Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
        });
        let environment: Vec<_> = pairs.collect();
        let port = environment.iter().find(|(name, _)| name == "PORT").context("no PORT")?.1.clone();
        let port = port.into_string().map_err(|_| anyhow::anyhow!("PORT is not a number"))?;
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd"))?;
        Ok(Self { words: list("cmdline")?, environment, folder, port })
    }

    fn first_answer(&self) -> anyhow::Result<Duration> {
        let address = free_port()?;
        let port = address.port().to_string();
        let mut words = self.words.iter().map(|word| word.to_string_lossy().replace(&self.port, &port));
        let mut command = Command::new(words.next().context("no command")?);
        command.args(words).current_dir(&self.folder).env_clear().envs(self.environment.iter().cloned());
        // As under Bowline, nothing is written into the release's folder; what a shim made for the instance is gone.
        command.env("PORT", &port).env("TMPDIR", "/tmp").env("HOME", "/tmp").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let child = command.spawn().context("the app")?;
        let took = first_200(address, "localhost", began);
        end(child, Signal::SIGTERM)?;
        took
    }
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn end(mut child: Child, signal: Signal) -> anyhow::Result<()> {
    kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
    child.wait()?;
    Ok(())
}

/// Asks for `/` on new connections until it is answered with 200.
fn first_200(address: SocketAddr, host: &str, began: Instant) -> anyhow::Result<Duration> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    while began.elapsed() < LIMIT {
        if asks(address, &request).is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200")) {
            return Ok(began.elapsed());
        }
        std::thread::sleep(POLL);
    }
    anyhow::bail!("no 200 from {host} at {address} within {} s", LIMIT.as_secs())
}

fn asks(address: SocketAddr, request: &str) -> std::io::Result<[u8; 12]> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
