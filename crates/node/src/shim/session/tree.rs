//! Killing everything below a process, though it may fork meanwhile.

use std::collections::BTreeSet;

use crate::driver::pidfd::Pidfd;
use crate::procfs;

/// Looks at a tree that grows while it is frozen. What is frozen goes on counting against the instance's limit of processes,
/// so that one that forks without end runs out of room.
const LOOKS: usize = 64;
/// Freezes what is found until nothing new is, then kills it all: a killed process makes room for another fork, a frozen one
/// does not.
pub(super) fn kill_below(root: u32) {
    let mut frozen = BTreeSet::new();
    for _ in 0..LOOKS {
        let found: BTreeSet<u32> = procfs::descendants(root).into_iter().collect();
        let fresh: Vec<u32> = found.difference(&frozen).copied().collect();
        if fresh.is_empty() {
            break;
        }
        let family = found.union(&BTreeSet::from([root])).copied().collect();
        fresh.iter().filter_map(|pid| held(*pid, &family)).for_each(|process| drop(process.freeze()));
        frozen.extend(found);
    }
    let family = frozen.union(&BTreeSet::from([root])).copied().collect();
    frozen.iter().filter_map(|pid| held(*pid, &family)).for_each(|process| drop(process.kill()));
}

/// A number may have passed to another process: it is held, looked at again, and only then told anything.
fn held(pid: u32, family: &BTreeSet<u32>) -> Option<Pidfd> {
    let process = Pidfd::open(pid).ok()?;
    procfs::stat(pid).filter(|stat| family.contains(&stat.parent)).map(|_| process)
}

/// What has left the tree because the process that would have adopted it was killed.
pub(super) fn kill_marked(mark: &str) {
    for _ in 0..LOOKS {
        let found = marked(mark);
        if found.is_empty() {
            return;
        }
        for pid in found {
            if let Ok(process) = Pidfd::open(pid)
                && procfs::carries(pid, crate::shim::SESSION_MARK, mark)
            {
                let _ = process.kill();
            }
        }
    }
}

fn marked(mark: &str) -> Vec<u32> {
    procfs::carrying(crate::shim::SESSION_MARK, mark)
}
