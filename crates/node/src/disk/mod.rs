//! The disk: what is left of it, who fills it, and file systems in files that hold what is in them to a size.
//!
//! Nothing of a machine but root is counted on for a bound: project quotas need mount options, and a tmpfs is memory. A
//! file system in a file (`image`) needs a loop device. Where there is none, the watch (`watch`) is what is left.

pub(crate) mod image;
pub(crate) mod watch;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::instance::DiskObservation;
use bowline_core::units::{Bytes, Round};

/// What is not enforced where an instance's temporary folder and layer have no file system of their own.
pub(crate) const DISK_LIMIT: &str = "disk limit";

/// Of the disk, what Bowline keeps free: the store, logs and records of all apps are written there. A twentieth, as ext4
/// keeps for root; at least what a busy store and its logs write in minutes; at most what a fast disk takes between two
/// looks of the watch.
const RESERVE_PART: u64 = 20;
const LEAST_RESERVE: u64 = 32 << 20;
const MOST_RESERVE: u64 = 4 << 30;

/// Of the disk, what one instance may have in its temporary folder and beside its code: enough for an upload or two and a
/// cache, and a handful of instances together do not fill the disk.
const SCRATCH_PART: u64 = 8;
const LEAST_SCRATCH: u64 = 64 << 20;
const MOST_SCRATCH: u64 = 16 << 30;

/// How often what is left is looked at while something may fill it: one system call.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is left of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub total: u64,
    /// For ordinary users: what is kept for root is not counted.
    pub free: u64,
}

impl Space {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
    }

    pub(crate) fn reserve(self) -> u64 {
        (self.total / RESERVE_PART).clamp(LEAST_RESERVE, MOST_RESERVE)
    }

    /// What one instance may write outside of volumes.
    pub(crate) fn scratch(self) -> u64 {
        (self.total / SCRATCH_PART).clamp(LEAST_SCRATCH, MOST_SCRATCH)
    }

    pub(crate) fn is_low(self) -> bool {
        self.free < self.reserve()
    }

    pub(crate) fn observed(self, growing: Option<String>) -> DiskObservation {
        let (total, free) = (Bytes(self.total), Bytes(self.free));
        DiskObservation { total, free, reserve: Bytes(self.reserve()), growing }
    }
}

/// Bytes on the disk of a tree, of its first `most` entries. What vanishes meanwhile counts nothing.
pub(crate) fn usage(root: &Path, most: usize) -> u64 {
    const BLOCK: u64 = 512;
    let mut folders = VecDeque::from([root.to_owned()]);
    let (mut seen, mut bytes) = (0, 0);
    while let Some(folder) = folders.pop_front() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if seen == most {
                return bytes;
            }
            seen += 1;
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * BLOCK;
            if meta.is_dir() {
                folders.push_back(entry.path());
            }
        }
    }
    bytes
}

/// See [`filled_up`].
pub(crate) async fn filled_by_a_build(state: PathBuf) -> Fault {
    filled_up(state, "the build was ended").await
}

/// Resolves when what began now has filled the disk: it began with room, and there is less than the reserve now; or it began
/// with less, and took half of that. `end`: what becomes of it.
pub(crate) async fn filled_up(state: PathBuf, end: &str) -> Fault {
    let begun = Space::of(&state);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let (Ok(begun), Ok(now)) = (&begun, Space::of(&state))
            && now.free < now.reserve().min(begun.free / 2)
        {
            let text = |bytes| Round(Bytes(bytes));
            return Fault::new(FaultKind::Failed, format!("the disk is almost full, and {end}"))
                .caused_by(format!(
                    "{} of {} are free in {}, and {} were when it began",
                    text(now.free),
                    text(now.total),
                    state.display(),
                    text(begun.free)
                ))
                .hint("free space there, or choose another folder with --state; what ran before goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_disk_have_bounds() {
        let check = |total: u64, reserve: u64, scratch: u64| {
            let space = Space { total, free: 0 };
            assert_eq!((space.reserve(), space.scratch()), (reserve, scratch), "{total}");
        };
        check(100 << 20, 32 << 20, 64 << 20);
        check(20 << 30, 1 << 30, 20 << 27);
        check(4 << 40, 4 << 30, 16 << 30);
    }

    #[test]
    fn usage_counts_what_is_written_and_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/b"), vec![1; 1 << 20]).unwrap();
        assert!(usage(root.path(), 100) >= 1 << 20);
        assert!(usage(root.path(), 1) < 1 << 20);
        assert_eq!(usage(&root.path().join("none"), 100), 0);
    }
}
