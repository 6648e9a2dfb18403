//! How a built service runs: the command line of its server, sized from its limits.

use bowline_core::app::{Command, Limits};
use bowline_core::time::Humane;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Installed for apps that bring no server. A major version is a promise that these options mean the same.
pub(super) const GUNICORN: &str = "gunicorn>=23,<24";
pub(super) const UVICORN: &str = "uvicorn>=0.30,<1";

/// Requests at once in one worker. Threads wait for disks and databases at the price of a stack; the interpreter's
/// lock keeps more of them from being of use.
const THREADS: u32 = 8;

/// More workers than this are better had as more instances, which can be health-checked and replaced one by one.
const MAX_WORKERS: u32 = 8;

/// Without a limit, how many processors one instance counts on: it is not alone on the machine.
const UNLIMITED_CPUS: u32 = 2;

/// What one worker with a small framework and its libraries takes, and what the process above the workers takes.
const WORKER_MEMORY: u64 = 64 << 20;
const MASTER_MEMORY: u64 = 32 << 20;

/// What is known about running it, apart from what the limits say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Served {
    /// `run` as it was written: it is read from the file each time.
    AsWritten,
    /// As its stack runs it.
    Run(String),
    /// No process; this folder, below the source's, is served, and `fallback` where no file matches.
    Files { dir: PathBuf, fallback: Option<String> },
    /// A Python application object, by this server.
    Python { server: Server, target: Target },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Server {
    Gunicorn,
    Waitress,
    Uvicorn,
    Hypercorn,
}

/// `module:name`, or a function that makes the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub module: String,
    pub name: String,
    pub factory: bool,
}

impl Server {
    /// The command that serves `target` on every address at `$PORT`.
    pub(super) fn command(self, target: &Target, limits: &Limits, drain: Duration, cpus: u32) -> Command {
        let Target { module, name, factory } = target;
        let workers = workers(limits, cpus);
        let drain = drain.as_secs().max(1);
        Command(match self {
            // The heartbeat file must not lie on a disk that can stall; requests outlast `drain` never.
            Self::Gunicorn => {
                let call = if *factory { format!("'{module}:{name}()'") } else { format!("{module}:{name}") };
                format!(
                    "gunicorn --bind 0.0.0.0:$PORT --workers {workers} --threads {THREADS} --worker-tmp-dir /dev/shm \
                     --graceful-timeout {drain} {call}"
                )
            }
            Self::Waitress => {
                let call = if *factory { "--call " } else { "" };
                // One process only: its threads are all there is.
                format!("waitress-serve --listen=0.0.0.0:$PORT --threads={} {call}{module}:{name}", THREADS * 2)
            }
            Self::Uvicorn => {
                let call = if *factory { "--factory " } else { "" };
                format!(
                    "uvicorn --host 0.0.0.0 --port $PORT --workers {workers} --timeout-graceful-shutdown {drain} \
                     {call}{module}:{name}"
                )
            }
            Self::Hypercorn => {
                let call = if *factory { format!("'{module}:{name}()'") } else { format!("{module}:{name}") };
                format!("hypercorn --bind 0.0.0.0:$PORT --workers {workers} --graceful-timeout {drain} {call}")
            }
        })
    }

    /// Why it has so many workers, for people.
    pub(super) fn sizing(self, limits: &Limits, drain: Duration, cpus: u32) -> String {
        let drain = Humane(drain);
        match self {
            Self::Waitress => format!("{} threads; {drain} to finish", THREADS * 2),
            Self::Gunicorn => {
                format!("{} workers × {THREADS} threads, from its limits; {drain} to finish", workers(limits, cpus))
            }
            Self::Uvicorn | Self::Hypercorn => {
                format!("{} workers, from its limits; {drain} to finish", workers(limits, cpus))
            }
        }
    }
}

/// `min(⌈cpu⌉ + 1, (memory − 32 MiB) / 64 MiB, 8)`, at least 1: one worker per processor, since the interpreter's lock
/// keeps a worker on one, and one more that runs while another is stuck; never more than fit into the memory.
fn workers(limits: &Limits, cpus: u32) -> u32 {
    let cpus = limits.cpu.map_or(cpus.min(UNLIMITED_CPUS), |cpu| cpu.0.div_ceil(1000));
    let fitting = limits.memory.map_or(u64::from(MAX_WORKERS), |m| m.0.saturating_sub(MASTER_MEMORY) / WORKER_MEMORY);
    let fitting = u32::try_from(fitting).unwrap_or(MAX_WORKERS);
    (cpus + 1).min(fitting).clamp(1, MAX_WORKERS)
}

#[cfg(test)]
mod tests {
    use bowline_core::units::{Bytes, MilliCpu};

    use super::*;

    #[test]
    fn workers_follow_the_limits() {
        let check = |memory: Option<u64>, cpu: Option<u32>, expected| {
            let limits = Limits { memory: memory.map(|m| Bytes(m << 20)), cpu: cpu.map(MilliCpu) };
            assert_eq!(workers(&limits, 16), expected, "{limits:?}");
        };
        check(None, None, 3);
        check(None, Some(250), 2);
        check(None, Some(4000), 5);
        check(None, Some(64_000), 8);
        check(Some(256), Some(1000), 2);
        check(Some(128), Some(1000), 1);
        check(Some(16), Some(1000), 1);
    }

    #[test]
    fn commands_are_what_each_server_expects() {
        let check = |server: Server, factory, expected| {
            let target = Target { module: "app".into(), name: "app".into(), factory };
            let limits = Limits { memory: None, cpu: Some(MilliCpu(1000)) };
            assert_eq!(server.command(&target, &limits, Duration::from_secs(30), 2).0, expected);
        };
        check(
            Server::Gunicorn,
            true,
            "gunicorn --bind 0.0.0.0:$PORT --workers 2 --threads 8 --worker-tmp-dir /dev/shm --graceful-timeout 30 'app:app()'",
        );
        check(Server::Waitress, true, "waitress-serve --listen=0.0.0.0:$PORT --threads=16 --call app:app");
        check(
            Server::Uvicorn,
            false,
            "uvicorn --host 0.0.0.0 --port $PORT --workers 2 --timeout-graceful-shutdown 30 app:app",
        );
    }
}
