//! Programs that work on data for the daemon, and end with it, however it ends: a dump that nobody waits for would hold its
//! transaction, and one that goes on writing would get in the way of the next daemon.
//!
//! The kernel kills a program when the *thread* that started it ends: a thread that waits for it, or one that lives for
//! that. What a program has started itself gets no such signal, but carries the same mark in its environment: the next
//! daemon ends all that carry it before it touches any data. Neither needs root or a control group.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bowline_core::fault::{Fault, LastWords};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::oneshot;

use crate::disk::LOOK_EVERY;
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

/// Why one was not heard to its end.
#[derive(Debug)]
pub(super) enum Cut {
    /// It cannot be executed, or heard.
    Broken(io::Error),
    Stopped(Fault),
}

/// Runs one to its end; how it ended, and the last of what it said of its errors. It is killed, and gone, when `stop` says why: that is
/// asked over and over. Blocks.
///
/// # Errors
/// See [`Cut`].
pub(super) fn run(
    mut command: Command,
    layout: &Layout,
    stop: &dyn Fn() -> Option<Fault>,
) -> Result<(ExitStatus, Vec<u8>), Cut> {
    bind(&mut command, &layout.hash());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(Cut::Broken)?;
    let heard = child.stderr.take().map_or_else(|| Ok(Vec::new()), |errors| hear(errors, stop));
    if heard.is_err() {
        // It can only have ended by itself.
        let _ = child.kill();
    }
    let ended = child.wait().map_err(Cut::Broken);
    heard.and_then(|said| Ok((ended?, said)))
}

/// Until the end of all that it says, which is its own end.
fn hear(mut errors: ChildStderr, stop: &dyn Fn() -> Option<Fault>) -> Result<Vec<u8>, Cut> {
    let (mut said, mut part) = (LastWords::default(), [0; 4096]);
    loop {
        let mut fds = [PollFd::new(errors.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::MAX);
        // Interrupted: the next one waits again.
        let speaks = poll(&mut fds, limit).is_ok_and(|speaking| speaking > 0);
        if speaks {
            match errors.read(&mut part) {
                Ok(0) => return Ok(said.into_bytes()),
                Ok(read) => said.hear(&part[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Cut::Broken(error)),
            }
        }
        if let Some(fault) = stop() {
            return Err(Cut::Stopped(fault));
        }
    }
}

/// The end of what a program says, however much that is.
pub async fn last_words(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut said, mut part) = (LastWords::default(), vec![0; 4096]);
    while let Ok(length @ 1..) = from.read(&mut part).await {
        said.hear(&part[..length]);
    }
    said.into_bytes()
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

/// Bounds its memory: an archive may make it keep a note of each of a hundred million entries.
#[expect(unsafe_code, reason = "pre_exec: a limit of the child's own")]
pub(super) fn bounded(command: &mut Command, memory: u64) {
    // SAFETY: one system call between fork and exec, on constants.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_AS, memory, memory)?));
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
    fn a_program_takes_no_more_memory_than_it_may() {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v"]);
        bounded(&mut command, 1 << 30);
        assert_eq!(String::from_utf8(command.output().unwrap().stdout).unwrap().trim(), "1048576");
    }

    #[test]
    fn of_what_a_program_says_the_last_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "yes 'tar: cannot make a device' | head -c 4000000 >&2; echo the end >&2; exit 3"]);
        let (status, said) = run(command, &layout(folder.path()), &|| None).unwrap();
        assert_eq!((status.code(), said.len()), (Some(3), LastWords::MOST));
        assert!(said.ends_with(b"the end\n"));
    }

    #[test]
    fn a_program_that_is_stopped_is_gone_and_says_why() {
        use std::cell::Cell;
        let folder = tempfile::tempdir().unwrap();
        // One says nothing, and one does not end to speak.
        for script in ["exec sleep 1000", "exec yes >&2"] {
            let (asked, mut command) = (Cell::new(0), Command::new("sh"));
            command.args(["-c", script]);
            let stop = || {
                asked.set(asked.get() + 1);
                (asked.get() == 2).then(|| Fault::new(bowline_core::fault::FaultKind::Failed, "the disk is full"))
            };
            let cut = run(command, &layout(folder.path()), &stop).unwrap_err();
            assert!(matches!(cut, Cut::Stopped(fault) if fault.message == "the disk is full"), "{script}");
            assert_eq!(procfs::carrying(MARK, &layout(folder.path()).hash()), Vec::<u32>::new(), "{script}");
        }
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
