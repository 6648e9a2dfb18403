//! The disk's space that what is sent may take: what several write at once is counted together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Left free on the disk, whatever is sent.
pub(super) const RESERVE: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub(super) struct Room {
    dir: PathBuf,
    /// To those who are writing, in bytes.
    promised: Arc<Mutex<u64>>,
    /// On the disk of a folder, in bytes.
    free: fn(&Path) -> io::Result<u64>,
}

impl Room {
    pub(super) fn of(dir: &Path) -> Self {
        Self::with(dir, free)
    }

    pub(super) fn with(dir: &Path, free: fn(&Path) -> io::Result<u64>) -> Self {
        Self { dir: dir.to_owned(), promised: Arc::default(), free }
    }

    /// Room for so many bytes, until they are written or given back.
    ///
    /// # Errors
    /// Less is left beside the reserve and what others are promised.
    pub(super) fn claim(&self, bytes: u64) -> Result<Claim, Full> {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (self.free)(&self.dir).map_err(Full::Unknown)?;
        let left = free.saturating_sub(*promised).saturating_sub(RESERVE);
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

fn free(dir: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(dir)?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_promised_once() {
        let room = Room::with(Path::new("/"), |_| Ok(RESERVE + 100));
        let mut first = room.claim(60).unwrap();
        assert!(matches!(room.claim(41), Err(Full::Left(40))));
        first.spend(20);
        let second = room.claim(60).unwrap();
        drop(first);
        assert!(matches!(room.claim(41), Err(Full::Left(40))));
        drop(second);
        assert!(room.claim(100).is_ok());
        let full = Room::with(Path::new("/"), |_| Ok(RESERVE - 1));
        assert!(matches!(full.claim(1), Err(Full::Left(0))));
    }
}
