//! A view of the machine of its own: processes, mounts, System V objects. Whoever makes one forks next: the child is the
//! first process there, and ends everything below it when it ends.

use std::fs;
use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork, getegid, geteuid};

/// What a process without one is not kept from seeing, as `bowline status` says it after "cannot enforce".
pub(crate) const PROCESSES: &str = "process isolation";
/// The machine's own is there instead.
pub(crate) const OWN_PROC: &str = "own /proc";

/// A PID, an IPC and a mount namespace, and `more`; for an ordinary user inside a user namespace that maps only them.
/// `false`: the machine does not allow it. An error: it allowed half of it, and this process cannot go back.
pub(crate) fn enter(more: CloneFlags) -> io::Result<bool> {
    let (uid, gid) = (geteuid(), getegid());
    let wanted = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | more;
    if uid.is_root() {
        return Ok(unshare(wanted).is_ok());
    }
    if unshare(wanted | CloneFlags::CLONE_NEWUSER).is_err() {
        return Ok(false);
    }
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    Ok(true)
}

#[expect(unsafe_code, reason = "fork is unsafe because of other threads")]
pub(crate) fn fork_now() -> nix::Result<ForkResult> {
    // SAFETY: shims and builders have one thread when they fork, so the child may do whatever the parent may.
    unsafe { fork() }
}

/// What is mounted here stays here; what the machine unmounts goes away here too, so that nothing is held busy.
pub(crate) fn detach_mounts() -> io::Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(())
}

/// Of the first process of the namespace. A container may forbid it by masking parts of /proc; then the machine's own
/// stays visible.
pub(crate) fn mount_proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?)
}
