//! From fork to exec: what the app's main process becomes, and the cage it enters on the way.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setgroups, setresgid, setresuid, setsid,
};
use rustix::thread::CapabilitySet;

use super::contract::Refusal;
use super::veil::{Torn, Veil};
use super::{inner, outer};
use crate::cage::files::Grants;
use crate::cage::{self, Lack};

/// Open files an app may have, where the machine allows as many: servers hold a descriptor per connection, and programs
/// that walk all possible descriptors still start at once.
const OPEN_FILES: u64 = 65_536;

/// Everything prepared before the fork.
pub(super) struct Plan<'c> {
    pub root: &'c Path,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// Change to this user and group, with no other groups.
    pub uid: Option<u32>,
    /// Drawn where this process has a mount namespace.
    pub veil: Option<Veil<'c>>,
    pub grants: Grants,
    /// What no app sees.
    pub hidden: &'c [PathBuf],
    /// Whether the app must not run where anything lacks.
    pub required: bool,
    /// The shim's process, if its death must kill the app by signal.
    pub bound_to: Option<Pid>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Tells the outer process who this is.
    pub socket: OwnedFd,
    /// Opened by the parent once the control groups are joined.
    pub gate: OwnedFd,
    /// Takes what lacks; closed by a successful exec, else takes the step that failed.
    pub report: OwnedFd,
}

/// The steps, numbered for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Prepare,
    Streams,
    Veil,
    Folder,
    User,
    Cage,
    Exec,
    Volumes,
}

impl Step {
    const ALL: [Self; 8] =
        [Self::Prepare, Self::Streams, Self::Veil, Self::Folder, Self::User, Self::Cage, Self::Exec, Self::Volumes];

    pub(super) fn refusal(self, id: &str, root: &Path, uid: Option<u32>, error: &io::Error) -> Refusal {
        match self {
            Self::Prepare | Self::Streams => {
                Refusal::new(format!("cannot prepare the process of {id}")).caused_by(error)
            }
            Self::Veil => Refusal::new(format!("cannot hide the machine from {id}")).caused_by(error).hint(
                "the machine allows a mount namespace but not all of the mounts in it; `cage` needs both, or neither",
            ),
            Self::Volumes => Refusal::new(format!("cannot mount the volumes of {id} at their paths"))
                .caused_by(error)
                .hint("write another `path`, or none: the app finds each volume in $BOWLINE_VOLUME_NAME"),
            // Told by the list of what lacks.
            Self::Cage => Refusal::new(format!("cannot cage {id}")).caused_by(error),
            Self::Folder => {
                let uid = uid.map(|uid| format!(" as user {uid}")).unwrap_or_default();
                Refusal::new(format!("cannot enter the release folder {} of {id}{uid}", root.display()))
                    .caused_by(error)
                    .hint("every folder above it must be passable (x) for that user")
            }
            Self::User => Refusal::new(format!("cannot become user {} for {id}", uid.unwrap_or(0))).caused_by(error),
            Self::Exec => Refusal::new(format!("cannot execute /bin/sh for {id}"))
                .caused_by(error)
                .hint("Bowline runs commands with /bin/sh; is it there and executable for the app's user?"),
        }
    }
}

/// What a child reported before it was executed, or failed.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub lacks: Vec<Lack>,
    pub failed: Option<(Step, io::Error)>,
}

/// Each thing that lacks is one byte; a step that failed comes last, after this one.
const FAILED: u8 = 0xff;

/// Reads the report of a child, until it was executed or has ended.
pub(super) fn read_report(report: OwnedFd) -> Report {
    let mut text = Vec::new();
    // What was read until an error is what there is.
    let _ = fs::File::from(report).read_to_end(&mut text);
    let (lacks, failed) = match text.iter().position(|byte| *byte == FAILED) {
        Some(at) => text.split_at(at),
        None => (text.as_slice(), [].as_slice()),
    };
    let failed = match failed {
        [_, step, a, b, c, d] => {
            let step = Step::ALL.get(usize::from(*step)).copied().unwrap_or(Step::Prepare);
            Some((step, io::Error::from_raw_os_error(i32::from_ne_bytes([*a, *b, *c, *d]))))
        }
        _ => None,
    };
    Report { lacks: lacks.iter().copied().filter_map(Lack::from_code).collect(), failed }
}

/// Runs in the child; returns only with an exit code for a process that could not become the app.
pub(super) fn become_app(mut plan: Plan<'_>) -> i32 {
    let mut opened = [0];
    let gate = plan.gate.try_clone().map(fs::File::from);
    let told = outer::send(&plan.socket, inner::HERE);
    if told.is_err() || gate.and_then(|mut gate| gate.read_exact(&mut opened)).is_err() {
        // The shim died first.
        return 1;
    }
    let Err((step, error)) = exec(&mut plan);
    let [a, b, c, d] = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
    let _ = fs::File::from(plan.report).write_all(&[FAILED, step as u8, a, b, c, d]);
    1
}

fn exec(plan: &mut Plan<'_>) -> Result<Infallible, (Step, io::Error)> {
    let at = |step: Step| move |error: nix::Error| (step, io::Error::from(error));
    setsid().map_err(at(Step::Prepare))?;
    umask(Mode::from_bits_truncate(0o022));
    set_limits().map_err(at(Step::Prepare))?;
    let null = fs::File::open("/dev/null").map_err(|error| (Step::Streams, error))?;
    dup2_stdin(&null).map_err(at(Step::Streams))?;
    dup2_stdout(plan.stdout.as_fd()).map_err(at(Step::Streams))?;
    dup2_stderr(plan.stderr.as_fd()).map_err(at(Step::Streams))?;
    let mut lacks = draw(plan.veil.as_ref())?;
    let bounded = cage::privileges::bound(CapabilitySet::empty());
    if let Some(uid) = plan.uid {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setgroups(&[]).map_err(at(Step::User))?;
        setresgid(gid, gid, gid).map_err(at(Step::User))?;
        setresuid(uid, uid, uid).map_err(at(Step::User))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(at(Step::Prepare))?;
    if bounded.and_then(|()| cage::privileges::drop_all()).is_err() {
        lacks.push(Lack::Capabilities);
    }
    if let Some(parent) = plan.bound_to {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(at(Step::Prepare))?;
        if nix::unistd::getppid() != parent {
            return Err((Step::Prepare, io::Error::from_raw_os_error(libc::ESRCH)));
        }
    }
    // As the app's user: a folder that only root may enter is of no use to it.
    chdir(plan.root).map_err(at(Step::Folder))?;
    default_signals().map_err(at(Step::Prepare))?;
    close_on_exec().map_err(|error| (Step::Prepare, error))?;
    let own_view = !lacks.contains(&Lack::Hiding);
    lacks.extend(lock(&std::mem::take(&mut plan.grants).shared(own_view, plan.hidden)));
    tell(plan, &lacks)?;
    execve(c"/bin/sh", &plan.arguments, &plan.environment).map_err(at(Step::Exec))
}

/// Covers what is not the app's; returns what lacks.
fn draw(veil: Option<&Veil<'_>>) -> Result<Vec<Lack>, (Step, io::Error)> {
    match veil.map(|veil| (veil, veil.draw())) {
        Some((_, Ok(()))) => Ok(Vec::new()),
        Some((_, Err(Torn::Half(error)))) => Err((Step::Veil, error)),
        Some((_, Err(Torn::Volume(error)))) => Err((Step::Volumes, error)),
        Some((veil, Err(Torn::NotBegun))) if !veil.volumes.is_empty() => Ok(vec![Lack::Hiding, Lack::Volumes]),
        Some((_, Err(Torn::NotBegun))) | None => Ok(vec![Lack::Hiding]),
    }
}

/// The locks that hold for good: nothing but `execve` comes after them.
fn lock(grants: &Grants) -> Vec<Lack> {
    let mut lacks = cage::files::enter(grants);
    let filtered = cage::calls::Filters::new().ok().is_some_and(|filters| filters.install().is_ok());
    lacks.extend((!filtered).then_some(Lack::Calls));
    lacks
}

fn tell(plan: &Plan<'_>, lacks: &[Lack]) -> Result<(), (Step, io::Error)> {
    let codes: Vec<u8> = lacks.iter().map(|lack| lack.code()).collect();
    let told = plan.report.try_clone().and_then(|report| fs::File::from(report).write_all(&codes));
    told.map_err(|error| (Step::Cage, error))?;
    match plan.required && !lacks.is_empty() {
        true => Err((Step::Cage, io::Error::from_raw_os_error(libc::ENOSYS))),
        false => Ok(()),
    }
}

fn set_limits() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(OPEN_FILES), most)?;
    // Core files of an app hold its secrets.
    let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, most)
}

fn default_signals() -> nix::Result<()> {
    for each in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        set_default(each)?;
    }
    SigSet::empty().thread_set_mask()
}

#[expect(unsafe_code, reason = "installing a signal disposition is unsafe in nix because of handlers")]
fn set_default(each: Signal) -> nix::Result<()> {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { signal(each, SigHandler::SigDfl) }.map(drop)
}

/// Nothing but the three streams reaches the app.
#[expect(unsafe_code, reason = "no safe wrapper of close_range(2) is at hand")]
fn close_on_exec() -> io::Result<()> {
    // SAFETY: it only sets a flag on descriptors; CLOSE_RANGE_CLOEXEC closes none of them now.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
