//! On the way from fork to exec: everything that a caged process gives up, in the one order in which it can.

use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Gid, Pid, Uid, chdir, getppid, setgroups, setresgid, setresuid};
use rustix::thread::CapabilitySet;

use super::files::{self, Grants};
use super::veil::{Torn, Veil};
use super::{Lack, calls, privileges};

/// Open files a process may have, where the machine allows as many: servers hold a descriptor per connection, and
/// programs that walk all possible descriptors still start at once.
pub(crate) const OPEN_FILES: u64 = 65_536;

/// What becomes of the machine's files before the locks are installed.
#[derive(Debug)]
pub(crate) enum View<'c> {
    /// This process has a mount namespace: what is not its own is covered in one of its own.
    Draw(Veil<'c>),
    /// There is none.
    Bare,
    /// This process has joined one in which it is drawn already.
    Joined,
}

/// What it keeps.
#[derive(Debug)]
pub(crate) struct Entry<'c> {
    pub view: View<'c>,
    /// Change to this user and group, with no other groups.
    pub uid: Option<u32>,
    /// The process whose death must kill this one by signal.
    pub bound_to: Option<Pid>,
    /// Working directory.
    pub dir: &'c Path,
    /// Without what depends on the view, see [`Grants::shared`].
    pub grants: Grants,
}

/// Where it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Prepare,
    Veil,
    User,
    Folder,
    Volumes,
}

impl Entry<'_> {
    /// There is no way back. Returns what lacks.
    pub(crate) fn enter(&self) -> Result<Vec<Lack>, (Stage, io::Error)> {
        let at = |stage: Stage| move |error: nix::Error| (stage, io::Error::from(error));
        set_limits().map_err(at(Stage::Prepare))?;
        let mut lacks = draw(&self.view)?;
        let own_view = !lacks.contains(&Lack::Hiding);
        let bounded = privileges::bound(CapabilitySet::empty());
        if let Some(uid) = self.uid {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
            setgroups(&[]).map_err(at(Stage::User))?;
            setresgid(gid, gid, gid).map_err(at(Stage::User))?;
            setresuid(uid, uid, uid).map_err(at(Stage::User))?;
        }
        nix::sys::prctl::set_no_new_privs().map_err(at(Stage::Prepare))?;
        if bounded.and_then(|()| privileges::drop_all()).is_err() {
            lacks.push(Lack::Capabilities);
        }
        if let Some(parent) = self.bound_to {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(at(Stage::Prepare))?;
            if getppid() != parent {
                return Err((Stage::Prepare, io::Error::from_raw_os_error(libc::ESRCH)));
            }
        }
        // As the user: a folder that only root may enter is of no use to it.
        chdir(self.dir).map_err(at(Stage::Folder))?;
        default_signals().map_err(at(Stage::Prepare))?;
        close_on_exec().map_err(|error| (Stage::Prepare, error))?;
        lacks.extend(lock(&self.grants.clone().shared(own_view)));
        Ok(lacks)
    }
}

/// Covers what is not the process's; returns what lacks.
fn draw(view: &View<'_>) -> Result<Vec<Lack>, (Stage, io::Error)> {
    match view {
        View::Joined => Ok(Vec::new()),
        View::Bare => Ok(vec![Lack::Hiding]),
        View::Draw(veil) => match veil.draw() {
            Ok(()) => Ok(Vec::new()),
            Err(Torn::Half(error)) => Err((Stage::Veil, error)),
            Err(Torn::Volume(error)) => Err((Stage::Volumes, error)),
            Err(Torn::NotBegun) if !veil.volumes.is_empty() => Ok(vec![Lack::Hiding, Lack::Volumes]),
            Err(Torn::NotBegun) => Ok(vec![Lack::Hiding]),
        },
    }
}

/// The locks that hold for good.
fn lock(grants: &Grants) -> Vec<Lack> {
    let mut lacks = files::enter(grants);
    let filtered = calls::Filters::new().ok().is_some_and(|filters| filters.install().is_ok());
    lacks.extend((!filtered).then_some(Lack::Calls));
    lacks
}

fn set_limits() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(OPEN_FILES), most)?;
    // Core files hold secrets.
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

/// Nothing but the three streams reaches the program.
#[expect(unsafe_code, reason = "no safe wrapper of close_range(2) is at hand")]
fn close_on_exec() -> io::Result<()> {
    // SAFETY: it only sets a flag on descriptors; CLOSE_RANGE_CLOEXEC closes none of them now.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
