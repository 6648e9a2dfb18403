//! A session: a command beside an instance's own, in the same cage, for as long as somebody is attached to it.
//!
//! The daemon starts `bowline session` with a socket as standard input, which brings the order and the descriptors. The
//! *keeper*, this process, stays outside of the instance: it watches the daemon and the instance, and when either goes away,
//! or the command has ended, it kills whatever the session has started. The *member* (`member`) joins the instance's
//! namespaces, starts the command in its control groups and its cage, and adopts whatever the command leaves behind, so that
//! the keeper finds it. The command's output goes to the daemon without passing through either.
//!
//! Architecture invariants: one thread, no tokio; nothing of a session outlives the socket to the daemon, the instance or the
//! command; a session runs under no fewer locks than its instance, or not at all.

pub(crate) mod contract;
mod member;
mod tree;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use self::contract::{Ended, Order, Passed};
use super::contract::Refusal;
use super::{inner, outer};
use crate::cage::namespaces;
use crate::driver::pidfd::Pidfd;

/// Milliseconds between two looks at what is being killed: forks in progress escape.
const LOOK_AGAIN: u8 = 20;
/// Milliseconds: what kills an instance kills its sessions in the same sweep, and may come to them first.
const SAME_SWEEP: u8 = 100;
/// It has to win against whatever it kills (setpriority(2)).
const FIRST: i32 = -20;
/// Signals taken from the daemon at once.
const SIGNALS: usize = 64;

pub(super) fn run() -> ExitCode {
    let Ok(link) = take_link() else { return ExitCode::FAILURE };
    match outer::settle_signals().and_then(|()| contract::receive(&link)) {
        Ok((order, passed)) => attend(order, passed, link),
        Err(refusal) => tell(&link, &Ended::Refused(refusal)),
    }
}

/// The socket that standard input is; from here on it is closed with its last owner.
fn take_link() -> io::Result<UnixStream> {
    let link = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(fs::File::open("/dev/null")?)?;
    Ok(link.into())
}

fn tell(mut link: &UnixStream, ended: &Ended) -> ExitCode {
    let told = serde_json::to_vec(ended).unwrap_or_default();
    // A daemon that died is told nothing.
    let _ = link.write_all(&told);
    ExitCode::SUCCESS
}

fn attend(order: Order, passed: Passed, link: UnixStream) -> ExitCode {
    let Passed { app, shim, streams } = passed;
    match split(&order, &app) {
        Ok(Side::Member { keeper }) => {
            drop((link, shim));
            member::run(order, streams, &app, keeper)
        }
        Ok(Side::Keeper { member, child, signals }) => {
            drop(streams);
            let Order { mark, alone, .. } = order;
            let mut keeper = Keeper { link: &link, member, app, signals, child, mark, ended: None };
            let ended = keeper.watch();
            if alone {
                // It has ended already, or was started for this session only.
                let _ = shim.terminate();
            }
            tell(&link, &ended)
        }
        Err(error) => {
            let refusal = Refusal::new(format!("cannot attach to {}", order.id)).caused_by(&error);
            tell(&link, &Ended::Refused(refusal))
        }
    }
}

enum Side {
    Keeper {
        member: OwnedFd,
        child: Pid,
        signals: SignalFd,
    },
    /// In the child.
    Member {
        keeper: OwnedFd,
    },
}

fn split(order: &Order, app: &Pidfd) -> nix::Result<Side> {
    if order.contained {
        join_namespaces(app)?;
    }
    let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok(match namespaces::fork_now()? {
        ForkResult::Child => Side::Member { keeper: far },
        ForkResult::Parent { child } => Side::Keeper { member: near, child, signals: inner::watched_signals()? },
    })
}

/// Only children of this process become members of the PID namespace; it goes on seeing the machine.
fn join_namespaces(app: &Pidfd) -> nix::Result<()> {
    let user = if nix::unistd::geteuid().is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    setns(app, CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | user)
}

struct Keeper<'l> {
    link: &'l UnixStream,
    member: OwnedFd,
    /// The instance's main process.
    app: Pidfd,
    signals: SignalFd,
    child: Pid,
    /// In the environment of everything that the session started.
    mark: String,
    /// How it ended, as soon as that is known: from then on everything is being killed.
    ended: Option<Ended>,
}

impl Keeper<'_> {
    /// Until nothing of the session is left.
    fn watch(&mut self) -> Ended {
        loop {
            self.wait();
            match &self.ended {
                None => self.listen(),
                Some(_) => tree::kill_below(self.child.as_raw().unsigned_abs()),
            }
            if self.has_left() {
                let ended = self.ended.take().unwrap_or(Ended::Lost);
                return if ended == Ended::Signal(libc::SIGKILL) && self.app_ends() { Ended::Outlived } else { ended };
            }
        }
    }

    fn wait(&self) {
        let looking = [self.link.as_fd(), self.app.as_fd(), self.member.as_fd()];
        let (patience, also) = match self.ended {
            None => (PollTimeout::NONE, looking.as_slice()),
            // They stay readable.
            Some(_) => (PollTimeout::from(LOOK_AGAIN), [].as_slice()),
        };
        let fds = std::iter::once(self.signals.as_fd()).chain(also.iter().copied());
        let mut all: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Interrupted or failing, the round looks at everything anyway.
        let _ = poll(&mut all, patience);
        while let Ok(Some(_)) = self.signals.read_signal() {}
    }

    /// The command's own end counts first: an instance that ends takes its sessions along, and both are seen at once.
    fn listen(&mut self) {
        if is_readable(self.member.as_fd()) {
            let told = outer::receive(&self.member).ok();
            let ended = told.and_then(|(message, _)| serde_json::from_slice(&message).ok());
            // Whatever ends the instance may end the member first.
            let silent = if self.app.has_ended() { Ended::Outlived } else { Ended::Lost };
            self.end(ended.unwrap_or(silent));
        } else if self.app.has_ended() {
            self.end(Ended::Outlived);
        } else if is_readable(self.link.as_fd()) {
            let mut signals = [0; SIGNALS];
            match (&mut &*self.link).read(&mut signals) {
                Ok(0) | Err(_) => self.end(Ended::Left),
                Ok(length) => signals[..length].iter().for_each(|signal| {
                    // It has ended: its word is on the way.
                    let _ = outer::send(&self.member, &[*signal]);
                }),
            }
        }
    }

    fn app_ends(&self) -> bool {
        let mut fds = [PollFd::new(self.app.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::from(SAME_SWEEP)), Ok(1..))
    }

    fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
        // An ordinary user may not, and is no worse off than without.
        let _ = rustix::process::setpriority_process(None, FIRST);
    }

    /// Whether the member is gone: it stays until everything below it is. If it was killed itself, what it leaves behind is
    /// found by its mark.
    fn has_left(&mut self) -> bool {
        let status = match waitpid(self.child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return false,
            status => status,
        };
        if self.ended.is_none() {
            self.listen();
        }
        if !matches!(status, Ok(WaitStatus::Exited(_, 0))) {
            tree::kill_marked(&self.mark);
        }
        true
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}
