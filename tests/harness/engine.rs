//! A container engine of a test's own: Debian's Docker, or Podman's service of the same API.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::machine::Process;
use crate::{SOON, path, wait};

/// Whose API it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
}

/// With images, containers and sockets in a folder of its own. Dropping it removes its containers and ends it.
#[derive(Debug)]
pub struct Engine {
    kind: Kind,
    child: Child,
    folder: tempfile::TempDir,
}

/// A container that an engine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    /// Its first process.
    pub first: Process,
}

impl Engine {
    /// Its containers go on when it is started anew, as a server's do.
    pub fn start(kind: Kind) -> Self {
        Self::start_as(kind, r#"{"live-restore": true}"#)
    }

    /// Its containers end with it, as Docker has it where nobody says otherwise.
    pub fn start_mortal(kind: Kind) -> Self {
        Self::start_as(kind, "{}")
    }

    fn start_as(kind: Kind, settings: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "{kind:?} is started by root");
        let folder = tempfile::Builder::new().prefix("engine-").tempdir().expect("a folder of the test");
        std::fs::write(folder.path().join("daemon.json"), settings).expect("a file of the test");
        let child = begin(kind, folder.path());
        let engine = Self { kind, child, folder };
        engine.answers();
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// `docker ARGS…` of it, with no login of the machine's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(args).env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.folder.path().join("config"));
        command.stdin(Stdio::null());
        command
    }

    /// All that it has on a disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it, and does not wait for its containers.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is this test's child");
        self.child.wait().expect("it ends");
    }

    /// Starts it where it was.
    pub fn go_on(&mut self) {
        self.child = begin(self.kind, self.folder.path());
        self.answers();
    }

    /// It takes connections and answers nobody, until what this gives is dropped; its containers run.
    #[must_use = "it hangs no longer than that"]
    pub fn hang(&self) -> Hanging {
        let process = Process { pid: self.child.id() };
        process.stop();
        Hanging(process)
    }

    fn answers(&self) {
        let log = self.folder.path().join("log");
        wait(&format!("{:?} answers; see {}", self.kind, log.display()), SOON * 3, || {
            matches!(self.try_ask("GET", "/_ping"), Some((200, _))).then_some(())
        });
    }

    fn try_ask(&self, method: &str, path: &str) -> Option<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
        Some((status, answer[end + 4..].to_vec()))
    }

    /// What it answers, as JSON.
    pub fn ask(&self, method: &str, path: &str) -> Value {
        let (status, body) = self.try_ask(method, path).expect("the engine answers");
        assert!(status < 400, "{method} {path}: {status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }

    pub fn inspect(&self, name: &str) -> Value {
        self.ask("GET", &format!("/containers/{name}/json"))
    }

    /// Those of an app that run.
    pub fn containers(&self, app: &str) -> Vec<Container> {
        let all = self.ask("GET", "/containers/json");
        let own = all.as_array().expect("a list").iter().filter(|one| one["Labels"]["bowline.app"] == app);
        let name = |one: &Value| Some(one["Names"][0].as_str()?.trim_start_matches('/').to_owned());
        let mut found: Vec<Container> = own
            .filter_map(name)
            .filter_map(|name| {
                let (200, body) = self.try_ask("GET", &format!("/containers/{name}/json"))? else { return None };
                let inspected: Value = serde_json::from_slice(&body).ok()?;
                let pid = u32::try_from(inspected["State"]["Pid"].as_u64()?).ok().filter(|pid| *pid != 0)?;
                Some(Container { name, first: Process { pid } })
            })
            .collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// Names of all images that it has.
    pub fn images(&self) -> Vec<String> {
        let all = self.ask("GET", "/images/json");
        let names = all.as_array().expect("a list").iter().filter_map(|one| one["RepoTags"].as_array());
        names.flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Names of all containers that it has, whatever they do.
    pub fn all(&self) -> Vec<String> {
        let all = self.ask("GET", "/containers/json?all=true");
        let names = all.as_array().expect("a list").iter().filter_map(|one| one["Names"][0].as_str());
        names.map(|name| name.trim_start_matches('/').to_owned()).collect()
    }
}

/// An engine that hangs.
#[derive(Debug)]
pub struct Hanging(Process);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

fn begin(kind: Kind, folder: &Path) -> Child {
    let at = |name: &str| folder.join(name);
    let url = format!("unix://{}", at("engine.sock").display());
    let log = std::fs::File::options().create(true).append(true).open(at("log")).expect("a file of the test");
    let mut command = match kind {
        Kind::Docker => {
            let mut command = Command::new("dockerd");
            command.args(["--config-file", path(&at("daemon.json")), "--data-root", path(&at("data"))]);
            command.args(["--exec-root", path(&at("run")), "--pidfile", path(&at("pid")), "--host", &url]);
            // Containers have the network of the machine; nothing of the machine's own is changed.
            command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
            command
        }
        Kind::Podman => {
            let mut command = Command::new("podman");
            command.args(["--root", path(&at("data")), "--runroot", path(&at("run")), "--tmpdir", path(&at("tmp"))]);
            command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]);
            command.args(["system", "service", "--time=0", &url]);
            command
        }
    };
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{kind:?} is there (scripts/setup): {error}"))
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.try_ask("GET", "/_ping").is_some() {
            for name in self.all() {
                let _ = self.try_ask("DELETE", &format!("/containers/{name}?force=true&v=true"));
            }
        }
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.child.wait();
        unmount_below(self.folder.path());
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
            say(&format!("--- the end of the engine's log, newest first\n{}", tail.join("\n")));
        }
    }
}

/// What an engine leaves mounted for its next start.
fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(folder));
    for at in own.collect::<Vec<_>>().into_iter().rev() {
        let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Of a failed test's engine, what is shown.
const LOG_LINES: usize = 15;

#[expect(clippy::print_stderr, reason = "a failed test shows why")]
fn say(text: &str) {
    eprintln!("{text}");
}
