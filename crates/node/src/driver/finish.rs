//! The end of an incarnation: what its shim recorded, or, if the shim was killed, what it left behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bowline_core::fault::Fault;
use bowline_core::id::InstanceId;
use bowline_core::instance::{Exit, ExitCause, Phase};
use bowline_core::time::Timestamp;
use bowline_fault_points::{Point, reach};

use super::pidfd::Pidfd;
use super::{Context, container};
use crate::cage::ports::GateError;
use crate::cgroup::Membership;
use crate::logs;
use crate::procfs;
use crate::shim::contract::{Contained, End, ExitRecord, Record};
use crate::shim::outer::now_ms;
use crate::walk;

/// A process that was sent KILL may still be in the kernel for a while; one that waits for a dead disk, for ever.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(10);
/// Releases of an app whose logs are kept; each slot's are bounded by themselves.
const RELEASES_WITH_LOGS: usize = 20;
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Blocks. Called when the shim is gone; nothing of the tree is left afterwards.
pub(crate) fn conclude(context: &Context, id: &InstanceId, record: Option<&Record>) -> Phase {
    let record = record.map(|record| record.completed(&context.layout.instance(id)));
    let record = record.as_deref();
    container::remove(context, id, record);
    conclude_here(context, id, record)
}

/// The same, and whatever its engine has of it stays until it answers.
pub(super) fn conclude_here(context: &Context, id: &InstanceId, record: Option<&Record>) -> Phase {
    let folder = context.layout.instance(id);
    let of_container = record.and_then(|record| record.container.as_ref()).map(Contained::own_groups);
    let groups = of_container.unwrap_or_else(|| groups(context, id, record));
    kill_leftovers(&context.layout.mark(id), Some(&groups));
    remove_secrets(context, id);
    context.volumes.release(id);
    let exit = |cause, at| Phase::Exited(Exit { cause, at, last_lines: last_lines(context, id) });
    match ExitRecord::read(&folder) {
        Ok(Some(ExitRecord { end: End::Refused(refusal), .. })) => Phase::Refused(Fault::from(refusal)),
        Ok(Some(record)) => exit(record.end.cause().unwrap_or(ExitCause::ShimLost), Timestamp(record.at_ms)),
        Ok(None) => {
            tell_lost(context, id);
            exit(ExitCause::ShimLost, Timestamp(now_ms()))
        }
        Err(error) => {
            tracing::warn!(instance = %id, %error, folder = %folder.display(), "its exit record cannot be used");
            exit(ExitCause::ShimLost, Timestamp(now_ms()))
        }
    }
}

/// They may be a file system of their own.
pub(super) fn remove_secrets(context: &Context, id: &InstanceId) {
    crate::shim::remove_given(&context.layout.secrets(id));
}

/// By its record; without one, where they would be: who died before it could write one may have made them.
fn groups(context: &Context, id: &InstanceId, record: Option<&Record>) -> Membership {
    record.and_then(|record| record.cgroup.clone()).unwrap_or_else(|| context.cgroups.of(id))
}

/// A process that was killed leaves its group when it is waited for, which somebody else may still have to do.
fn remove_groups(groups: &Membership) -> io::Result<()> {
    let deadline = Instant::now() + LEFTOVERS_WITHIN;
    loop {
        match groups.remove() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(LOOK_AGAIN);
            }
            other => return other,
        }
    }
}

/// Nobody sends there any more.
pub(super) fn give_up_port(context: &Context, id: &InstanceId) {
    context.ports.release(id);
    match context.gate.forget(id) {
        Ok(()) | Err(GateError::NotRoot) => {}
        Err(error) => tracing::debug!(instance = %id, %error, "a rule of the network stays until the next change"),
    }
}

/// In the words a shim would have used; the log is free, for no other incarnation runs before this one is concluded.
fn tell_lost(context: &Context, id: &InstanceId) {
    let line = format!("{} b{} lost: its shim was killed, and everything below it\n", now_ms(), id.incarnation);
    let log = fs::OpenOptions::new().append(true).open(context.layout.log(&id.slot));
    if let Err(error) = log.and_then(|mut log| log.write_all(line.as_bytes())) {
        tracing::debug!(instance = %id, %error, "its log cannot be written");
    }
}

/// Kills whatever carries the mark or is in its groups, until nothing does: a process may have wiped its mark, and without groups of
/// version 2 nothing else ends it. Where there is a PID namespace the kernel has done it already.
pub(super) fn kill_leftovers(mark: &str, cgroup: Option<&Membership>) {
    let deadline = Instant::now() + LEFTOVERS_WITHIN;
    let left = || -> BTreeSet<u32> {
        let inside = cgroup.map(Membership::pids).unwrap_or_default();
        // Of other namespaces the kernel says 0.
        let inside = inside.into_iter().filter_map(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        procfs::marked(mark).into_iter().chain(inside).collect()
    };
    loop {
        if let Some(cgroup) = cgroup {
            cgroup.kill();
        }
        let found = left();
        if found.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            tracing::error!(pids = ?found, "processes of an instance cannot be killed");
            return;
        }
        found.into_iter().for_each(|pid| kill_left(pid, &left));
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The number may have passed to another process: it is held, looked at again, and only then killed.
fn kill_left(pid: u32, left: &impl Fn() -> BTreeSet<u32>) {
    if let Ok(process) = Pidfd::open(pid)
        && left().contains(&pid)
    {
        let _ = process.kill();
    }
}

fn last_lines(context: &Context, id: &InstanceId) -> Vec<String> {
    logs::last_lines(&context.layout.log(&id.slot), id.incarnation)
}

/// Removes what an incarnation left, once it is no longer wanted: until then its port is no one else's, for an edge may
/// still send there. Blocks.
pub(crate) fn clean_up(context: &Context, id: &InstanceId, record: Option<&Record>, slot_is_free: bool) {
    let folder = context.layout.instance(id);
    give_up_port(context, id);
    // One that ended while it was started was never reported as running.
    let record = record.cloned().or_else(|| Record::read(&folder).ok().flatten());
    if let Err(error) = remove_groups(&groups(context, id, record.as_ref())) {
        tracing::warn!(instance = %id, %error, "its control group cannot be removed");
    }
    reach(Point::InstanceCleaned);
    if let Err(error) = walk::remove_tree(&folder) {
        tracing::warn!(instance = %id, folder = %folder.display(), %error, "its folder cannot be removed");
    }
    // Only when empty: other incarnations and apps share them.
    let _ = folder.parent().map(fs::remove_dir);
    let _ = folder.parent().and_then(Path::parent).map(fs::remove_dir);
    logs::prune(&context.layout.app_logs(&id.slot.key), RELEASES_WITH_LOGS);
    if slot_is_free {
        remove_lock(&context.layout.lock(&id.slot));
    }
}

/// A shim that opened the file meanwhile sees that it is gone and opens the next one.
pub(super) fn remove_lock(path: &Path) {
    let Ok(file) = fs::File::open(path) else { return };
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_has_wiped_its_mark_is_killed_in_its_groups() {
        let group = tempfile::tempdir().unwrap();
        let processes = group.path().join("cgroup.procs");
        let mut wiped = std::process::Command::new("sleep").arg("60").env_clear().spawn().unwrap();
        // 0: one of another namespace.
        fs::write(&processes, format!("0\n{}\n", wiped.id())).unwrap();
        // It leaves its group when it has been waited for.
        let ended = std::thread::spawn(move || {
            let status = wiped.wait().unwrap();
            fs::write(processes, "0\n").unwrap();
            status.signal()
        });
        let groups = Membership { folders: vec![group.path().to_owned()], ..Membership::default() };
        kill_leftovers("a-mark-of-nobody", Some(&groups));
        assert_eq!(ended.join().unwrap(), Some(libc::SIGKILL));
    }
}
