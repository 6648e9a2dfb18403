//! Programs that work on data for the daemon, and end with it, however it ends: a dump that nobody waits for would hold its
//! transaction, and one that goes on writing would get in the way of the next daemon.
//!
//! The kernel kills a program when the *thread* that started it ends: a thread that waits for it, or one that lives for
//! that. What a program has started itself gets no such signal, but carries the same mark in its environment: the next
//! daemon ends all that carry it before it touches any data. Neither needs root or a control group.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::process::Child;
use tokio::sync::oneshot;

use crate::driver::pidfd::Pidfd;
use crate::layout::Layout;
use crate::procfs;

/// The variable that marks them, with [`Layout::hash`] of the state folder.
const MARK: &str = "BOWLINE_DATA";

/// How long killed processes may take to vanish. Only one that hangs in the kernel needs longer, and nothing helps it.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Starts programs for those who wait for them without a thread of their own. Dropping it kills those that run.
#[derive(Debug)]
pub(super) struct Starter {
    orders: mpsc::Sender<(Command, oneshot::Sender<io::Result<Child>>)>,
    mark: String,
}

impl Starter {
    /// On a tokio runtime.
    ///
    /// # Errors
    /// The machine gives no thread.
    pub(super) fn new(layout: &Layout) -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel::<(Command, oneshot::Sender<io::Result<Child>>)>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("data programs".into()).spawn(move || {
            let _entered = runtime.enter();
            for (command, started) in ordered {
                // One that nobody waits for any more is dropped, and so killed.
                let _ = started.send(tokio::process::Command::from(command).kill_on_drop(true).spawn());
            }
        })?;
        Ok(Self { orders, mark: layout.hash() })
    }

    /// Killed when it is dropped.
    ///
    /// # Errors
    /// It cannot be executed.
    pub(super) async fn start(&self, mut command: Command) -> io::Result<Child> {
        bind(&mut command, &self.mark);
        let (started, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts programs has ended");
        self.orders.send((command, started)).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

/// So much is kept of what a program says of its errors, the last of it: it may say something of each of a million files.
const SAID: usize = 16 << 10;

/// Runs one to its end; how it ended, and the last of what it said of its errors. Blocks.
///
/// # Errors
/// It cannot be executed.
pub(super) fn run(mut command: Command, layout: &Layout) -> io::Result<(ExitStatus, Vec<u8>)> {
    bind(&mut command, &layout.hash());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let said = child.stderr.take().map(last_of).transpose();
    Ok((child.wait()?, said?.unwrap_or_default()))
}

fn last_of(mut errors: impl Read) -> io::Result<Vec<u8>> {
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match errors.read(&mut part) {
            Ok(0) => break,
            Ok(read) => said.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if said.len() > 2 * SAID {
            said.drain(..said.len() - SAID);
        }
    }
    said.drain(..said.len().saturating_sub(SAID));
    Ok(said)
}

/// Kills it with the thread that starts it.
#[expect(unsafe_code, reason = "pre_exec: only the child itself can say what its parent's end means to it")]
fn bind(command: &mut Command, mark: &str) {
    let parent = nix::unistd::getpid();
    command.env(MARK, mark);
    // SAFETY: between fork and exec only system calls are made, all async-signal-safe, on no memory that another thread
    // could hold locked. The user was changed before, which would have taken the signal back.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            match nix::unistd::getppid() == parent {
                true => Ok(()),
                // It has died already.
                false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        });
    }
}

/// Runs it in a folder that is open, whatever its path leads to by then and whoever may pass there.
#[expect(unsafe_code, reason = "pre_exec: the standard library changes folders by path alone")]
pub(super) fn within(command: &mut Command, folder: OwnedFd) {
    // SAFETY: one system call between fork and exec, on a descriptor that the closure owns.
    unsafe {
        command.pre_exec(move || match libc::fchdir(folder.as_raw_fd()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Ends what those of an earlier daemon have left running. Blocks until it is gone.
pub(super) fn end_earlier(layout: &Layout) {
    let (mark, own) = (layout.hash(), std::process::id());
    let give_up = Instant::now() + GONE_WITHIN;
    loop {
        let mut left = procfs::carrying(MARK, &mark);
        left.retain(|pid| *pid != own);
        if left.is_empty() {
            return;
        }
        if Instant::now() >= give_up {
            tracing::warn!(pids = ?left, "programs that an earlier daemon ran on data do not end");
            return;
        }
        for pid in left {
            // A number may have passed to another process: it is held, and looked at again.
            if let Ok(process) = Pidfd::open(pid)
                && procfs::carries(pid, MARK, &mark)
            {
                tracing::info!(pid, "a program that an earlier daemon ran on data is ended");
                // It may have ended by itself.
                let _ = process.kill();
                process.wait(LOOK_AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn layout(folder: &Path) -> Layout {
        Layout { state: folder.join("state"), run: folder.join("run") }
    }

    /// One that ends with the pipe that is its input at the latest.
    fn endless() -> Command {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_ends_with_whoever_started_it() {
        let folder = tempfile::tempdir().unwrap();
        let starter = Starter::new(&layout(folder.path())).unwrap();
        let mut child = starter.start(endless()).await.unwrap();
        let _stdin = child.stdin.take();
        assert!(child.try_wait().unwrap().is_none());
        drop(starter);
        let ended = tokio::time::timeout(SOON, child.wait()).await.expect("it ends").unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(libc::SIGKILL));
    }

    #[test]
    fn of_what_a_program_says_the_last_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "yes 'tar: cannot make a device' | head -c 4000000 >&2; echo the end >&2; exit 3"]);
        let (status, said) = run(command, &layout(folder.path())).unwrap();
        assert_eq!((status.code(), said.len()), (Some(3), SAID));
        assert!(said.ends_with(b"the end\n"));
    }

    #[test]
    fn what_an_earlier_daemon_left_is_ended_and_nothing_else() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let start = |folder: &Path| endless().env(MARK, layout(folder).hash()).spawn().unwrap();
        let (mut left, mut stranger) = (start(own.path()), start(other.path()));
        let _stdin = left.stdin.take();
        let reaper = std::thread::spawn(move || left.wait().unwrap());
        end_earlier(&layout(own.path()));
        assert!(!reaper.join().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none());
        drop(stranger.stdin.take());
        assert!(stranger.wait().unwrap().success());
    }
}
