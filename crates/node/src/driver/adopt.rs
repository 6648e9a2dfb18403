//! What an earlier daemon left: living shims are taken over, dead ones concluded.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bowline_core::id::{InstanceId, Port};
use bowline_core::instance::{Phase, Reach};

use super::pidfd::Pidfd;
use super::{Context, container, finish};
use crate::cage::ports::{GateError, Owner};
use crate::procfs;
use crate::shim::contract::Record;

/// How long a shim whose daemon died may take from its lock to its record.
const RECORD_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) enum Found {
    Alive {
        record: Record,
        shim: Pidfd,
    },
    /// Ended, with everything below it.
    Ended {
        record: Option<Record>,
        phase: Phase,
    },
}

/// Blocks. Every incarnation that has a folder.
pub(super) fn find(context: &Context) -> Vec<(InstanceId, Found)> {
    let ids = ids(&context.layout.instances());
    sweep_locks(context, &ids);
    // Asked once: while one hangs, each question takes seconds, and what runs waits to be taken up.
    let answers = container::answers(context);
    let found: Vec<(InstanceId, Found)> =
        ids.into_iter().map(|id| (id.clone(), look_at(context, &id, answers))).collect();
    let in_use = found.iter().filter_map(|(id, found)| match found {
        Found::Alive { record, .. } => Some((id.clone(), record.volumes.clone())),
        Found::Ended { .. } => None,
    });
    context.volumes.settle(in_use);
    let alive = found.iter().filter(|(_, found)| matches!(found, Found::Alive { .. }));
    if answers {
        container::sweep(context, alive.map(|(id, _)| id));
    }
    let owners = found.iter().filter_map(|(id, found)| Some((id.clone(), owner(found)?))).collect();
    match context.gate.adopt(owners) {
        Ok(()) | Err(GateError::NotRoot) => {}
        Err(error) => tracing::warn!(%error, "the rules of the network are as an earlier daemon left them"),
    }
    found
}

/// Locks of slots without an incarnation: a daemon died between removing the last one's folder and its lock. Whoever starts
/// a shim has made the folder before.
fn sweep_locks(context: &Context, ids: &[InstanceId]) {
    let kept: BTreeSet<PathBuf> = ids.iter().map(|id| context.layout.lock(&id.slot)).collect();
    let all = fs::read_dir(context.layout.locks()).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).filter(|lock| !kept.contains(lock)).for_each(|lock| finish::remove_lock(&lock));
}

fn owner(found: &Found) -> Option<Owner> {
    let record = match found {
        Found::Alive { record, .. } => record,
        // An edge may still send there.
        Found::Ended { record, .. } => record.as_ref()?,
    };
    let reach = if record.open_to_machine { Reach::App } else { Reach::Edge };
    Some(Owner { port: Port::new(record.port)?, uid: record.uid, reach })
}

/// Of every incarnation that has a folder.
pub(super) fn ids(instances: &Path) -> Vec<InstanceId> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut found = Vec::new();
    for env in names(instances) {
        for app in names(&instances.join(&env)) {
            for name in names(&instances.join(&env).join(&app)) {
                match format!("{env}/{app}.{name}").parse() {
                    Ok(id) => found.push(id),
                    Err(error) => tracing::warn!(%error, "a folder among the instances is none"),
                }
            }
        }
    }
    found
}

/// `answers`: the engine does, or none is asked.
fn look_at(context: &Context, id: &InstanceId, answers: bool) -> Found {
    let record = record_of(context, id);
    if let Some(record) = &record
        && let Some(shim) = alive(record)
    {
        let mut record = record.clone();
        // The outer process died before it could say.
        record.child = record.child.or_else(|| procfs::children(record.pid).first().copied());
        return Found::Alive { record, shim };
    }
    let phase = match answers {
        true => finish::conclude(context, id, record.as_ref()),
        false => finish::conclude_here(context, id, record.as_ref()),
    };
    Found::Ended { record, phase }
}

/// The record; a shim that holds the lock but has none yet is given time to write it.
fn record_of(context: &Context, id: &InstanceId) -> Option<Record> {
    let folder = context.layout.instance(id);
    let deadline = Instant::now() + RECORD_WITHIN;
    loop {
        match Record::read(&folder) {
            Ok(Some(record)) => return Some(record),
            Ok(None) if Instant::now() < deadline && is_locked(&context.layout.lock(&id.slot)) => {
                std::thread::sleep(LOOK_AGAIN);
            }
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(instance = %id, %error, "its record cannot be used");
                return None;
            }
        }
    }
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

/// The process is opened first and compared afterwards: from then on the number cannot pass to another.
pub(crate) fn alive(record: &Record) -> Option<Pidfd> {
    if record.boot_id != procfs::boot_id() {
        return None;
    }
    let shim = Pidfd::open(record.pid).ok()?;
    let same = procfs::stat(record.pid).is_some_and(|stat| stat.start_time == record.start_time);
    (same && !shim.has_ended()).then_some(shim)
}
