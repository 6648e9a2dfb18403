//! What builds may reuse: the homes of apps, and what their commands keep by themselves. Nobody needs any of it. What no
//! build has used for long goes; on a disk that is almost full, what was used longest ago goes first.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bowline_core::disk;
use rustix::fs::{FlockOperation, flock};

use super::artifact;
use crate::walk;

/// An app that is released once a month still finds what it downloaded.
const UNUSED: Duration = Duration::from_hours(31 * 24);
/// Each below the folder of the caches, and how many levels below that one cache lies.
const KINDS: [(&str, usize); 2] = [("homes", 2), ("build", 3)];

/// Nothing goes while it is held.
#[derive(Debug)]
pub(super) struct InUse {
    /// Held by being open.
    _lock: File,
}

/// Waits only for a folder to be renamed.
pub(super) fn hold(cache: &Path) -> io::Result<InUse> {
    let lock = lock_file(cache)?;
    flock(&lock, FlockOperation::LockShared)?;
    Ok(InUse { _lock: lock })
}

/// A build uses this one now.
pub(super) fn touch(one: &Path) -> io::Result<()> {
    File::open(one)?.set_modified(SystemTime::now())
}

/// Removes what is old, and more where `is_short` says so, but nothing while a build runs: a later collection does. Gives what
/// is gone. Blocks on the disk.
pub(super) fn collect(cache: &Path, now: SystemTime, is_short: impl Fn() -> bool) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for (kind, levels) in KINDS {
        find(&cache.join(kind), levels, &mut all)?;
    }
    all.sort();
    let mut gone = Vec::new();
    for (used, one) in all {
        let is_old = now.duration_since(used).is_ok_and(|age| age > UNUSED);
        if !is_old && !is_short() {
            break;
        }
        let Some(aside) = put_aside(cache, &one)? else { break };
        walk::remove_tree(&aside)?;
        gone.push(one);
    }
    Ok(gone)
}

/// Less of the disk is free than what is sent from elsewhere must leave.
pub(super) fn is_short(dir: &Path) -> bool {
    nix::sys::statvfs::statvfs(dir).is_ok_and(|found| {
        let free = found.blocks_available() * found.fragment_size();
        free < disk::beside_uploads(found.blocks() * found.fragment_size())
            || found.files_available() < disk::files_beside_uploads(found.files())
    })
}

fn lock_file(cache: &Path) -> io::Result<File> {
    artifact::make_folder(cache, 0o711)?;
    // Whoever could open it could hold it.
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(cache.join("lock"))
}

/// With the moment of their last use, which their owner cannot set: it is no modification time.
fn find(folder: &Path, levels: usize, all: &mut Vec<(SystemTime, PathBuf)>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        match levels {
            1 => {
                let about = entry.metadata()?;
                let seconds =
                    Duration::new(about.ctime().try_into().unwrap_or(0), about.ctime_nsec().try_into().unwrap_or(0));
                all.push((SystemTime::UNIX_EPOCH + seconds, entry.path()));
            }
            _ if entry.file_type()?.is_dir() => find(&entry.path(), levels - 1, all)?,
            _ => {}
        }
    }
    Ok(())
}

/// To where the next start removes what is left of it. `None`: a build runs.
fn put_aside(cache: &Path, one: &Path) -> io::Result<Option<PathBuf>> {
    let lock = lock_file(cache)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        other => other?,
    }
    let temporary = super::place::temporary(cache);
    artifact::make_folder(&temporary, 0o711)?;
    let aside = tempfile::Builder::new().prefix("cache").tempdir_in(&temporary)?.keep();
    fs::rename(one, aside.join("one"))?;
    // Only when empty: others share them.
    for above in one.ancestors().skip(1).take(2) {
        let _ = fs::remove_dir(above);
    }
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 3] = ["homes/local/a", "build/local/a/web", "homes/local/b"];

    /// Used in this order.
    fn caches() -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        for (n, one) in ALL.iter().enumerate() {
            let path = cache.path().join(one);
            fs::create_dir_all(path.join("downloads")).unwrap();
            // By the clock of the file system, which may be coarse.
            let used = |path: &Path| fs::metadata(path).map(|about| (about.ctime(), about.ctime_nsec())).unwrap();
            let before = n.checked_sub(1).map(|before| used(&cache.path().join(ALL[before])));
            while touch(&path).is_ok() && before.is_some_and(|before| used(&path) <= before) {}
        }
        cache
    }

    fn check(age: Duration, short: usize, expected: &[&str]) {
        let (cache, left) = (caches(), std::cell::Cell::new(short));
        let is_short = || left.replace(left.get().saturating_sub(1)) > 0;
        let gone = collect(cache.path(), SystemTime::now() + age, is_short).unwrap();
        assert_eq!(gone, expected.iter().map(|one| cache.path().join(one)).collect::<Vec<_>>());
        let there: Vec<&str> = ALL.into_iter().filter(|one| cache.path().join(one).exists()).collect();
        assert_eq!(there, ALL.into_iter().filter(|one| !expected.contains(one)).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(cache.path().join("tmp")).map_or(0, Iterator::count), 0, "nothing is left aside");
    }

    #[test]
    fn what_is_old_goes_and_on_a_full_disk_what_was_used_longest_ago() {
        check(Duration::ZERO, 0, &[]);
        check(UNUSED - Duration::from_mins(1), 0, &[]);
        check(UNUSED + Duration::from_mins(1), 0, &ALL);
        check(Duration::ZERO, 1, &ALL[..1]);
        check(Duration::ZERO, 2, &ALL[..2]);
        // A clock that was wrong removes nothing.
        assert!(collect(caches().path(), SystemTime::UNIX_EPOCH, || false).unwrap().is_empty());
    }

    #[test]
    fn nothing_goes_while_a_build_runs() {
        let cache = caches();
        let old = SystemTime::now() + UNUSED * 2;
        let builds = [hold(cache.path()).unwrap(), hold(cache.path()).unwrap()];
        for build in builds {
            assert!(collect(cache.path(), old, || true).unwrap().is_empty());
            drop(build);
        }
        // A child of another test has the lock, too, until it starts its program.
        let mut gone = 0;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while gone < ALL.len() && std::time::Instant::now() < deadline {
            gone += collect(cache.path(), old, || true).unwrap().len();
            std::thread::yield_now();
        }
        assert_eq!(gone, ALL.len());
        assert!(!cache.path().join("homes/local").exists() && cache.path().join("lock").exists());
    }

    #[test]
    fn there_need_not_be_any() {
        let cache = tempfile::tempdir().unwrap();
        assert!(collect(cache.path(), SystemTime::now(), || true).unwrap().is_empty());
        assert!(!is_short(Path::new("/proc/self/no such folder")));
    }
}
