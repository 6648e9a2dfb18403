//! The disk's space that what is sent may take: what several write at once is counted together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Of the disk of a folder, what may be taken, in bytes.
type Left = fn(&Path) -> Result<u64, Full>;

#[derive(Debug, Clone)]
pub(super) struct Room {
    dir: PathBuf,
    /// To those who are writing, in bytes.
    promised: Arc<Mutex<u64>>,
    left: Left,
}

impl Room {
    pub(super) fn of(dir: &Path) -> Self {
        Self::with(dir, left)
    }

    pub(super) fn with(dir: &Path, left: Left) -> Self {
        Self { dir: dir.to_owned(), promised: Arc::default(), left }
    }

    /// Room for so many bytes, until they are written or given back.
    ///
    /// # Errors
    /// Less is left beside what stays free, and what others are promised.
    pub(super) fn claim(&self, bytes: u64) -> Result<Claim, Full> {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let left = (self.left)(&self.dir)?.saturating_sub(*promised);
        if bytes > left {
            return Err(Full::Left(left));
        }
        *promised += bytes;
        drop(promised);
        Ok(Claim { bytes, promised: Arc::clone(&self.promised) })
    }
}

/// Why there is no room.
#[derive(Debug)]
pub(super) enum Full {
    /// So many bytes are left.
    Left(u64),
    /// Of the files and folders that the disk can hold, almost all are there: a file of one byte takes one.
    Files,
    Unknown(io::Error),
}

/// Bytes that are about to be written.
#[derive(Debug)]
pub(super) struct Claim {
    bytes: u64,
    promised: Arc<Mutex<u64>>,
}

impl Claim {
    /// So many are on the disk, which shows them by itself.
    pub(super) fn spend(&mut self, bytes: u64) {
        let spent = bytes.min(self.bytes);
        self.bytes -= spent;
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner) -= spent;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.spend(self.bytes);
    }
}

fn left(dir: &Path) -> Result<u64, Full> {
    let disk = nix::sys::statvfs::statvfs(dir).map_err(|error| Full::Unknown(error.into()))?;
    if disk.files_available() < bowline_core::disk::files_beside_uploads(disk.files()) {
        return Err(Full::Files);
    }
    Ok(beside_reserve(disk.blocks() * disk.fragment_size(), disk.blocks_available() * disk.fragment_size()))
}

fn beside_reserve(total: u64, free: u64) -> u64 {
    free.saturating_sub(bowline_core::disk::beside_uploads(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_promised_once() {
        let room = Room::with(Path::new("/"), |_| Ok(100));
        let mut first = room.claim(60).unwrap();
        assert!(matches!(room.claim(41), Err(Full::Left(40))));
        first.spend(20);
        let second = room.claim(60).unwrap();
        drop(first);
        assert!(matches!(room.claim(41), Err(Full::Left(40))));
        drop(second);
        assert!(room.claim(100).is_ok());
        let full = Room::with(Path::new("/"), |_| Ok(0));
        assert!(matches!(full.claim(1), Err(Full::Left(0))));
    }

    #[test]
    fn uploads_never_bring_a_disk_to_where_somebody_is_stopped() {
        for total in [1 << 30, 20 << 30, 100 << 30, 4 << 40] {
            let stopped_below = bowline_core::disk::reserve(total);
            let most = beside_reserve(total, total / 2);
            assert!(total / 2 - most > stopped_below, "{total}: what others write meanwhile has room, too");
        }
        assert_eq!(beside_reserve(100 << 30, 5 << 30), 0);
    }

    #[test]
    fn small_files_leave_inodes_for_what_runs() {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let disk = tempfile::tempdir().unwrap();
        let limits = Some("size=64m,nr_inodes=100");
        if !nix::unistd::geteuid().is_root()
            || mount(Some("tmpfs"), disk.path(), Some("tmpfs"), MsFlags::empty(), limits).is_err()
        {
            return;
        }
        let room = Room::of(disk.path());
        let before = room.claim(1).map(drop);
        (0..95).for_each(|number| std::fs::write(disk.path().join(number.to_string()), "").unwrap());
        let after = room.claim(1).map(drop);
        umount2(disk.path(), MntFlags::MNT_DETACH).unwrap();
        assert!(before.is_ok() && matches!(after, Err(Full::Files)));
    }
}
