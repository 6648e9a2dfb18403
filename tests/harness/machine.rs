//! What runs on this machine, read from /proc.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
}

pub fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(|pid| Process { pid });
    entries.filter_map(Result::ok).filter_map(pid).collect()
}

impl Process {
    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// The value of a variable that the process was started with.
    pub fn environment(&self, name: &str) -> Option<String> {
        let environ = std::fs::read(self.file("environ")).ok()?;
        let pair = environ.split(|b| *b == 0).find(|pair| pair.starts_with(format!("{name}=").as_bytes()))?;
        Some(String::from_utf8_lossy(&pair[name.len() + 1..]).into_owned())
    }

    /// The words of its command line.
    pub fn arguments(&self) -> Vec<String> {
        let bytes = std::fs::read(self.file("cmdline")).unwrap_or_default();
        bytes.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
    }

    fn status(&self, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.file("status")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// A set of signals, the first in the lowest bit: `SigBlk`, `SigCgt`, `ShdPnd` (proc_pid_status(5)).
    pub fn signals(&self, which: &str) -> Option<u64> {
        u64::from_str_radix(&self.status(which)?, 16).ok()
    }

    pub fn parent(&self) -> Option<u32> {
        self.status("PPid")?.parse().ok()
    }

    /// Where it is, as it sees that itself.
    pub fn folder(&self) -> Option<PathBuf> {
        std::fs::read_link(self.file("cwd")).ok()
    }

    /// Whether it is the first one of its own namespace of processes (`NSpid`, proc_pid_status(5)).
    pub fn is_first(&self) -> bool {
        self.status("NSpid").is_some_and(|all| all.split_whitespace().last() == Some("1"))
    }

    /// The real user id.
    pub fn uid(&self) -> Option<u32> {
        self.status("Uid")?.split_whitespace().next()?.parse().ok()
    }

    /// Alive and not a zombie.
    pub fn runs(&self) -> bool {
        self.status("State").is_some_and(|s| !s.starts_with('Z') && !s.starts_with('X'))
    }

    /// Bytes of memory that only this process uses.
    pub fn private_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.file("smaps_rollup")).ok()?;
        let kib = |key: &str| -> Option<u64> {
            text.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse().ok())
        };
        Some((kib("Private_Clean:")? + kib("Private_Dirty:")?) * 1024)
    }

    /// Begins to measure [`Self::peak_bytes`] anew (`/proc/PID/clear_refs`, proc(5)).
    pub fn reset_peak(&self) {
        std::fs::write(self.file("clear_refs"), "5").expect("a process of this test");
    }

    /// The most memory that it had at once, in bytes: what was held only for a moment counts.
    pub fn peak_bytes(&self) -> Option<u64> {
        Some(self.status("VmHWM")?.strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Stops it for this long and lets it go on: what a full disk, a swap or a busy host does to a server.
    pub fn stall(&self, time: Duration) {
        self.stop();
        let until = Instant::now() + time;
        crate::wait("the stall is over", time + crate::SOON, || (Instant::now() >= until).then_some(()));
        self.go_on();
    }

    /// For good, or until it is to [go on](Self::go_on).
    pub fn stop(&self) {
        self.send(Signal::SIGSTOP);
    }

    /// After [`Self::stop`].
    pub fn go_on(&self) {
        self.send(Signal::SIGCONT);
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.send(Signal::SIGKILL);
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a process of this test is there");
    }
}
