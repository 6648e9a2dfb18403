//! The proxies that are compared, each on the same core with one worker, with the same fields in its access log, the same policy of a token,
//! and its metrics on.

mod bowline;
mod foreign;
mod sink;

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use bowline::Bowline;
#[cfg(test)]
pub(crate) use bowline::start as start_bowline;
use sink::Sink;

use crate::generator::PROXY_CORE;
use crate::memory::Memory;

/// The header that lets requests in, and its value.
pub(crate) const TOKEN_FIELD: &str = "x-auth-token";
pub(crate) const TOKEN: &str = "7b1f0c6e9a3d4258";

/// How long a proxy may take to let go of its connections.
const DRAIN: Duration = Duration::from_secs(2);

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Bowline,
    Nginx,
    Haproxy,
    Caddy,
    Envoy,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Bowline, Self::Nginx, Self::Haproxy, Self::Caddy, Self::Envoy];

    /// Those that `BENCH_PEERS` names (`Bowline nginx`); all where it is not set.
    pub(crate) fn compared() -> anyhow::Result<Vec<Self>> {
        let Ok(named) = std::env::var("BENCH_PEERS") else { return Ok(Self::ALL.into()) };
        let of = |name: &str| Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
        named
            .split_whitespace()
            .map(|name| of(name).with_context(|| format!("BENCH_PEERS: `{name}` is no peer")))
            .collect()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bowline => "Bowline",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
            Self::Envoy => "Envoy",
        }
    }

    /// Starts it. `under`: what it is run under, with its arguments; nothing: by itself. `routes`: hosts beside the one of the load, named by
    /// [`route`].
    pub(crate) fn start(self, under: &[OsString], upstream: SocketAddr, routes: usize) -> anyhow::Result<Peer> {
        let started = match self {
            Self::Bowline => bowline::start(&crate::bowline()?, under, upstream, routes),
            Self::Nginx | Self::Haproxy | Self::Caddy | Self::Envoy => foreign::start(self, under, upstream, routes),
        };
        started.with_context(|| self.name())
    }
}

/// One of many hosts.
pub(crate) fn route(number: usize) -> String {
    format!("r{number}.localhost")
}

/// A proxy that runs.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    running: Running,
    files: tempfile::TempDir,
    /// Takes its access log.
    sink: Option<Sink>,
}

enum Running {
    /// A foreign proxy: the process started here and its children.
    Child {
        child: Child,
        settings: Vec<(&'static str, String)>,
    },
    Edge(Box<Bowline>),
}

impl Peer {
    /// The process started here and its children.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let root = match &self.running {
            Running::Child { child, .. } => child.id(),
            Running::Edge(edge) => edge.pid,
        };
        family(root)
    }

    /// Memory that nobody else uses, of all its processes, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let each = self.processes().into_iter().map(|pid| Memory::of(pid).map(|memory| memory.clean + memory.dirty));
        Ok(each.sum::<anyhow::Result<u64>>()? * 1024)
    }

    pub(crate) fn listens(&self) -> bool {
        let connects = |address| TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
        connects(self.http) && connects(self.https)
    }

    /// It was started, and is nobody any more.
    pub(crate) fn has_ended(&self) -> bool {
        let root = self.processes()[0];
        let stat = std::fs::read_to_string(format!("/proc/{root}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    }

    /// Tells it to serve so many routes from now on; returns at once, or when it has said that it does.
    pub(crate) fn swap(&mut self, routes: usize) -> anyhow::Result<()> {
        match &mut self.running {
            Running::Child { child, settings } => {
                foreign::swap(self.kind, child.id(), self.files.path(), settings, routes)
            }
            Running::Edge(edge) => {
                edge.swap(routes);
                Ok(())
            }
        }
    }

    /// Lines of its access log that it has dropped since it was started, as it says, within a second. The others drop none: they write as
    /// they go, or keep all in memory.
    pub(crate) fn lost_lines(&self) -> u64 {
        match &self.running {
            Running::Child { .. } => self.sink.as_ref().map_or(0, Sink::lost),
            Running::Edge(edge) => edge.lost_lines(),
        }
    }

    /// The end of what it said.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.files.path().join("output")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    pub(crate) fn stop(self) {
        match self.running {
            Running::Child { mut child, .. } => {
                // TERM lets a master take its workers along.
                let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
                let _ = child.wait();
            }
            Running::Edge(edge) => edge.stop(DRAIN),
        }
    }
}

/// An nginx that is no proxy and answers `/answer.txt` at a pace of its own, `/small.txt` as fast as it can. Its second address is that of HTTP/2 without TLS.
pub(crate) fn answers() -> anyhow::Result<Peer> {
    const LINES: usize = 400;
    let files = folder()?;
    let (http, http2) = (free_port()?, free_port()?);
    let text: String = (0..LINES).map(|i| format!("line {i} of an answer, {:x}\n", i * 2_654_435_761)).collect();
    std::fs::write(files.path().join("answer.txt"), text)?;
    let settings = [
        ("PORT", http.port().to_string()),
        ("HTTP2", http2.port().to_string()),
        ("DIR", files.path().display().to_string()),
    ];
    let path = write(files.path(), "answers.conf", include_str!("../../peers/answers.conf"), &settings)?;
    let mut command = on_proxy_core();
    command.arg("nginx").arg("-p").arg(files.path()).arg("-c").arg(path).arg("-e").arg("stderr");
    let running = Running::Child { child: spawn(command, files.path())?, settings: Vec::new() };
    Ok(Peer { kind: Kind::Nginx, http, https: http2, running, files, sink: None })
}

/// Workers of some are other users.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let files = tempfile::Builder::new().prefix("bench-").tempdir()?;
    std::fs::set_permissions(files.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(files)
}

/// Fills in a committed configuration: `@NAME@` for each setting.
fn write(files: &Path, name: &str, config: &str, settings: &[(&str, String)]) -> anyhow::Result<PathBuf> {
    let filled =
        settings.iter().fold(config.to_owned(), |text, (mark, value)| text.replace(&format!("@{mark}@"), value));
    let path = files.join(name);
    std::fs::write(&path, filled)?;
    Ok(path)
}

/// What it says is kept in a file, for when it does not start.
fn spawn(mut command: Command, files: &Path) -> anyhow::Result<Child> {
    let output = std::fs::File::create(files.join("output"))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().with_context(|| format!("{command:?}"))
}

fn on_proxy_core() -> Command {
    on_cores(&[PROXY_CORE])
}

/// A command that runs another one there, in the same process.
pub(crate) fn on_cores(cores: &[usize]) -> Command {
    let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
    let mut command = Command::new("taskset");
    command.args(["-c", &cores.join(",")]);
    command
}

pub(crate) fn core(index: usize) -> anyhow::Result<nix::sched::CpuSet> {
    cores(&[index])
}

pub(crate) fn cores(all: &[usize]) -> anyhow::Result<nix::sched::CpuSet> {
    let mut set = nix::sched::CpuSet::new();
    all.iter().try_for_each(|index| set.set(*index))?;
    Ok(set)
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A process and all that come from it.
fn family(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = text.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}
