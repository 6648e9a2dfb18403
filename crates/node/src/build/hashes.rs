//! Remembers what unchanged files hash to, so that an unchanged folder is known at the price of listing it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Written into the file; another version is thrown away.
const VERSION: u32 = 1;

/// A file that changed so shortly before it was read could change again within the same tick of the file system's
/// clock, and look the same: it is read again next time. As git does with its index ("racy git").
const SETTLED: Duration = Duration::from_secs(2);

/// What tells that a file is the same as before. The inode's change time cannot be set back by its owner, so a tool
/// that restores modification times does not deceive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
    inode: u64,
    device: u64,
}

impl Stat {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            size: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos().cast_signed());
        self.changed_ns + SETTLED.as_nanos().cast_signed() < now
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    files: BTreeMap<PathBuf, (Stat, [u8; 32])>,
}

/// The hashes of one folder's files.
#[derive(Debug)]
pub(super) struct Hashes {
    file: PathBuf,
    known: BTreeMap<PathBuf, (Stat, [u8; 32])>,
    /// Seen in this scan; what is gone from the folder is forgotten.
    seen: BTreeMap<PathBuf, (Stat, [u8; 32])>,
}

impl Hashes {
    /// Those of `folder`, kept in `cache`. A file that is missing or cannot be understood is an empty one: it costs
    /// time, not truth.
    pub(super) fn load(cache: &Path, folder: &Path) -> Self {
        let name: [u8; 32] = Sha256::digest(folder.as_os_str().as_bytes()).into();
        let file = cache.join(format!("{}.json", bowline_core::id::Digest(name).short()));
        let stored: Stored = fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        let known = if stored.version == VERSION { stored.files } else { BTreeMap::new() };
        Self { file, known, seen: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, path: &Path, stat: &Stat) -> Option<[u8; 32]> {
        let (_, hash) = *self.known.get(path).filter(|(known, _)| known == stat)?;
        self.seen.insert(path.to_owned(), (*stat, hash));
        Some(hash)
    }

    pub(super) fn put(&mut self, path: &Path, stat: Stat, hash: [u8; 32]) {
        if stat.is_settled(SystemTime::now()) {
            self.seen.insert(path.to_owned(), (stat, hash));
        }
    }

    /// Keeps what was seen. Not synced: losing it costs time only.
    pub(super) fn save(self) -> io::Result<()> {
        if self.seen == self.known {
            return Ok(());
        }
        let stored = Stored { version: VERSION, files: self.seen };
        let folder = self.file.parent().expect("it was joined to the cache's folder");
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(&serde_json::to_vec(&stored).map_err(io::Error::other)?)?;
        temporary.persist(&self.file)?;
        Ok(())
    }
}
