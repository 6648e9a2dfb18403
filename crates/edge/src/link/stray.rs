//! Edges that cannot be reached any more: the folder of their control socket was removed under them. They hold the
//! ports and can be told nothing, so they are ended before another one is started.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// How long connections of such an edge may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Lets every edge but `serving` retire: one that a daemon was about to replace, or to start, when it was killed.
pub(super) fn retire_all_but(serving: u32, log_dir: &Path) {
    for pid in edges_of(log_dir).into_iter().filter(|pid| pid.as_raw().cast_unsigned() != serving) {
        tracing::info!(%pid, "an edge that is not this daemon's retires");
        // Gone meanwhile, or somebody else's, which says nothing about the one that serves.
        let _ = kill(pid, Signal::SIGUSR1);
    }
}

/// Ends every edge that writes its logs to `log_dir`, which one state has alone.
pub(super) async fn end(log_dir: &Path) {
    for pid in edges_of(log_dir) {
        tracing::warn!(%pid, "an edge that cannot be reached is ended");
        let deadline = Instant::now() + GRACE;
        let mut signal = Signal::SIGTERM;
        while alive(pid, log_dir) {
            if kill(pid, signal) == Err(Errno::EPERM) {
                break;
            }
            if Instant::now() >= deadline {
                signal = Signal::SIGKILL;
            }
            sleep(LOOK).await;
        }
    }
}

fn edges_of(log_dir: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| alive(*pid, log_dir)).collect()
}

/// Whether the process is an edge with this folder of logs. One that has ended and is not reaped has no command line.
fn alive(pid: Pid, log_dir: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let wanted = log_dir.as_os_str().as_encoded_bytes();
    words.iter().any(|word| *word == b"--control-fd")
        && words.windows(2).any(|pair| pair[0] == b"--log-dir" && pair[1] == wanted)
}
