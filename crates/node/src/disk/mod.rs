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

use bowline_core::disk::{beside_uploads, files_beside_uploads, files_reserve, reserve};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::instance::DiskObservation;
use bowline_core::units::{Bytes, Round};

/// What is not enforced where an instance's temporary folder and layer have no file system of their own.
pub(crate) const DISK_LIMIT: &str = "disk limit";

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
        reserve(self.total)
    }

    /// What one instance may write outside of volumes.
    pub(crate) fn scratch(self) -> u64 {
        (self.total / SCRATCH_PART).clamp(LEAST_SCRATCH, MOST_SCRATCH)
    }

    pub(crate) fn is_low(self) -> bool {
        self.free < self.reserve()
    }

    /// Whether so much may be written, by whoever rules the machine.
    fn takes(self, bytes: u64) -> bool {
        let left = self.free.checked_sub(bytes);
        left.is_some_and(|left| left >= Filler::Own.least(self.free, self.reserve(), 0))
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

/// Before so much is written in `folder`. `end`: what becomes of it where there is no room.
///
/// # Errors
/// There is not: less would be left than is kept for what serves.
pub fn room_for(folder: &Path, bytes: u64, end: &str) -> Result<(), Fault> {
    match Space::of(folder) {
        Ok(space) if !space.takes(bytes) => {
            let text = |bytes| Round(Bytes(bytes));
            let fault = Fault::new(FaultKind::Failed, format!("the disk has too little room, and {end}"));
            let (free, total, reserve) = (text(space.free), text(space.total), text(space.reserve()));
            let there = format!("{free} of {total} are free in {}", folder.display());
            Err(fault
                .caused_by(format!("it takes {}; {there}, of which {reserve} are kept", text(bytes)))
                .hint("free space there, or choose another folder with --state; what ran before goes on"))
        }
        // One that cannot be looked at says so when it is written to.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// See [`filled_up`].
pub(crate) async fn filled_by_a_build(state: PathBuf) -> Fault {
    filled_up(state, "the build was ended").await
}

/// Resolves when what began now has filled the disk; see [`Begun::filled`].
pub(crate) async fn filled_up(state: PathBuf, end: &str) -> Fault {
    let begun = Begun::now(&state, Filler::Own);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(fault) = begun.filled(end) {
            return fault;
        }
    }
}

/// Files and folders that a file system can still hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Files {
    total: u64,
    /// For ordinary users.
    free: u64,
}

impl Files {
    /// `None`: their number is not bounded, or cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(path).ok()?;
        (found.f_files > 0).then_some(Self { total: found.f_files, free: found.f_favail })
    }

    fn reserve(self) -> u64 {
        files_reserve(self.total)
    }

    fn beside_uploads(self) -> u64 {
        files_beside_uploads(self.total)
    }
}

/// Whose disk space it is that something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filler {
    /// Of whoever rules the machine.
    Own,
    /// Of somebody who was let in from elsewhere: it ends before anybody is stopped for it.
    Sent,
}

impl Filler {
    /// What it leaves free. `begun`: what was free when it began; `reserve`, `more`: what is kept, and what is kept beside uploads.
    fn least(self, begun: u64, reserve: u64, more: u64) -> u64 {
        match self {
            Self::Own if begun >= reserve => reserve,
            // It began with less than that, and may take half of it.
            Self::Own => begun / 2,
            Self::Sent => more,
        }
    }
}

/// What there was of a disk when something began that may fill it.
#[derive(Debug)]
pub(crate) struct Begun {
    folder: PathBuf,
    filler: Filler,
    space: Option<Space>,
    files: Option<Files>,
}

impl Begun {
    /// `folder` lies on that disk.
    pub(crate) fn now(folder: &Path, filler: Filler) -> Self {
        Self { folder: folder.to_owned(), filler, space: Space::of(folder).ok(), files: Files::of(folder) }
    }

    /// Why it is to be ended, where it has filled the disk. `end`: what becomes of it.
    pub(crate) fn filled(&self, end: &str) -> Option<Fault> {
        let now = Self::now(&self.folder, self.filler);
        let folder = self.folder.display();
        if let (Some(begun), Some(now)) = (self.space, now.space)
            && now.free < self.filler.least(begun.free, now.reserve(), beside_uploads(now.total))
        {
            let text = |bytes| Round(Bytes(bytes));
            let fault = Fault::new(FaultKind::Failed, format!("the disk is almost full, and {end}"));
            let (free, total, before) = (text(now.free), text(now.total), text(begun.free));
            return Some(
                fault
                    .caused_by(format!("{free} of {total} are free in {folder}, and {before} were when it began"))
                    .hint("free space there, or choose another folder with --state; what ran before goes on"),
            );
        }
        if let (Some(begun), Some(now)) = (self.files, now.files)
            && now.free < self.filler.least(begun.free, now.reserve(), now.beside_uploads())
        {
            let fault = Fault::new(FaultKind::Failed, format!("the disk has almost no inodes left, and {end}"));
            let (free, total, before) = (now.free, now.total, begun.free);
            return Some(
                fault
                    .caused_by(format!("{free} of {total} are free in {folder}, and {before} were when it began"))
                    .hint("remove files there, or choose another folder with --state; what ran before goes on"),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_disk_have_bounds() {
        let check = |total: u64, files: u64, scratch: u64| {
            assert_eq!(Space { total, free: 0 }.scratch(), scratch, "{total}");
            assert_eq!(Files { total, free: 0 }.reserve(), files, "{total}");
        };
        check(100 << 20, 100_000, 64 << 20);
        check(20 << 30, 100_000, 20 << 27);
        check(4 << 40, 100_000, 16 << 30);
        check(2_000, 100, 64 << 20);
    }

    #[test]
    fn whoever_began_with_room_keeps_the_reserve_and_whoever_had_less_half_of_it() {
        let check = |begun, least: u64| assert_eq!(Filler::Own.least(begun, 100, 150), least, "{begun}");
        check(1_000, 100);
        check(150, 100);
        check(100, 100);
        check(60, 30);
        check(0, 0);
    }

    #[test]
    fn what_is_too_large_for_a_disk_is_not_begun() {
        // Of 100 GiB, as much is kept as is kept of it for everybody.
        let reserve = Space { total: 100 << 30, free: 0 }.reserve();
        let takes = |free, bytes| Space { total: 100 << 30, free }.takes(bytes);
        assert!(takes(reserve + 10, 10) && !takes(reserve + 10, 11));
        // It has less than that already: half of it.
        assert!(takes(reserve / 2, reserve / 4) && !takes(reserve / 2, reserve / 4 + 1));
        assert!(!takes(0, 1) && !takes(10, u64::MAX));
        let folder = tempfile::tempdir().unwrap();
        assert!(room_for(folder.path(), 1, "it is not made").is_ok());
        let fault = room_for(folder.path(), u64::MAX / 2, "it is not made").unwrap_err();
        assert!(fault.message.ends_with("and it is not made") && fault.hint.is_some(), "{fault:?}");
    }

    #[test]
    fn what_was_sent_ends_before_somebody_is_stopped_for_it_whatever_there_was() {
        for begun in [1_000, 150, 100, 60] {
            assert_eq!(Filler::Sent.least(begun, 100, 150), 150, "{begun}");
        }
        let files = Files { total: 2_000, free: 0 };
        assert_eq!((files.reserve(), files.beside_uploads()), (100, 150));
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
