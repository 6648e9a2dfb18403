//! The member: joins the instance, starts the command, and adopts what it leaves behind.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, pipe2};

use super::contract::{Ended, Order};
use crate::cage::Lack;
use crate::cage::entry::{Entry, View};
use crate::cgroup::Membership;
use crate::driver::pidfd::Pidfd;
use crate::shim::child::{self, Plan, Program, Step, Streams};
use crate::shim::contract::Refusal;
use crate::shim::{inner, outer};

/// Leaves when nothing is below it any more; the keeper kills what would stay.
pub(super) fn run(order: Order, streams: Streams, app: &Pidfd, keeper: OwnedFd) -> ExitCode {
    let told = |ended: &Ended| {
        // A keeper that is gone has closed the socket, which ends the command.
        let _ = outer::send(&keeper, &serde_json::to_vec(ended).unwrap_or_default());
    };
    match start(order, streams, app) {
        Ok((command, signals)) => {
            inner::leave_streams();
            let mut member = Member { command, signals, keeper: &keeper, ended: false };
            member.watch(told);
        }
        Err(ended) => told(&ended),
    }
    ExitCode::SUCCESS
}

/// As the instance was started, in what it was started in.
fn start(order: Order, streams: Streams, app: &Pidfd) -> Result<(Pid, SignalFd), Ended> {
    let refused = |error: &dyn std::error::Error| {
        Ended::Refused(Refusal::new(format!("cannot prepare a process in {}", order.id)).caused_by(error))
    };
    let doors = order.cgroup.as_ref().map(Membership::doors);
    if order.contained {
        setns(app, CloneFlags::CLONE_NEWNS).map_err(|error| refused(&error))?;
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| refused(&error))?;
    // Nothing that the app may be allowed to do to its own user's processes reaches this one.
    nix::sys::prctl::set_dumpable(false).map_err(|error| refused(&error))?;
    let signals = inner::watched_signals().map_err(|error| refused(&error))?;
    let (gate, gate_end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| refused(&error))?;
    let (report, report_end) = pipe2(OFlag::O_CLOEXEC).map_err(|error| refused(&error))?;
    let plan = Plan {
        program: Program::Named(arguments(&order).map_err(Ended::Refused)?),
        environment: environment(&order).map_err(Ended::Refused)?,
        entry: Entry {
            view: if order.contained { View::Joined } else { View::Bare },
            uid: order.uid,
            bound_to: Some(getpid()),
            dir: &order.root,
            grants: order.grants.clone(),
        },
        tolerated: Some(Lack::named(&order.unenforced)),
        streams,
        socket: None,
        gate,
        report: report_end,
    };
    let command = inner::fork_app(plan, &order.id).map_err(Ended::Refused)?;
    let lost = doors.map(|doors| doors.join(command.as_raw())).unwrap_or_default();
    if let Some(limit) = lost.iter().find(|limit| !order.unenforced.contains(limit)) {
        // It waits at the gate, and has not run.
        let _ = kill(command, Signal::SIGKILL);
        return Err(refused(&io::Error::other(format!("its {limit} cannot be enforced"))));
    }
    nix::unistd::write(&gate_end, b"!").map_err(|error| refused(&error))?;
    match child::read_report(report).failed {
        None => Ok((command, signals)),
        Some((Step::Exec, error)) => Err(Ended::NotExecuted(error.raw_os_error().unwrap_or(libc::EIO))),
        Some((step, error)) => Err(Ended::Refused(step.refusal(&order.id, &order.root, order.uid, &error))),
    }
}

fn arguments(order: &Order) -> Result<Vec<CString>, Refusal> {
    order.arguments.iter().map(|argument| inner::c_string(argument.as_bytes(), "an argument")).collect()
}

fn environment(order: &Order) -> Result<Vec<CString>, Refusal> {
    let pair = |(name, value): &(String, crate::shim::contract::Clear)| {
        inner::c_string(&[name.as_bytes(), b"=", &value.0].concat(), &format!("the value of {name}"))
    };
    order.env.iter().map(pair).collect()
}

struct Member<'k> {
    /// Leads a process group of its own. Its number is not another's before it is reaped here.
    command: Pid,
    signals: SignalFd,
    keeper: &'k OwnedFd,
    ended: bool,
}

impl Member<'_> {
    /// Until there is nobody to wait for.
    fn watch(&mut self, told: impl Fn(&Ended)) {
        let mut attended = true;
        loop {
            let keeper = attended.then(|| PollFd::new(self.keeper.as_fd(), PollFlags::POLLIN));
            let mut all: Vec<PollFd<'_>> =
                std::iter::once(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)).chain(keeper).collect();
            // Interrupted or failing, the round looks at everything anyway.
            let _ = poll(&mut all, PollTimeout::NONE);
            let asked = all.get(1).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
            if asked && !self.pass_on() {
                attended = false;
            }
            while let Ok(Some(_)) = self.signals.read_signal() {}
            if self.reap(&told).is_none() {
                return;
            }
        }
    }

    /// A signal for the command, from the keeper; `false`: it is gone, and the command with it.
    fn pass_on(&self) -> bool {
        match outer::receive(self.keeper) {
            Ok((message, _)) => {
                let signal = message.first().and_then(|number| Signal::try_from(i32::from(*number)).ok());
                if let Some(signal) = signal.filter(|_| !self.ended) {
                    // It may have no process left in its group but those that have ended.
                    let _ = killpg(self.command, signal);
                }
                true
            }
            Err(_) => {
                if !self.ended {
                    let _ = killpg(self.command, Signal::SIGKILL);
                }
                false
            }
        }
    }

    /// `None`: nobody is left.
    fn reap(&mut self, told: impl Fn(&Ended)) -> Option<()> {
        loop {
            let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ended::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ended::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return Some(()),
                Err(Errno::ECHILD) => return None,
                Ok(_) | Err(_) => continue,
            };
            if pid == self.command {
                self.ended = true;
                told(&ended);
            }
        }
    }
}
