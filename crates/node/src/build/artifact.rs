//! The artifacts of a state: one folder per digest, its lock and its seal.
//!
//! `artifacts/<digest>/` is built where it will run (a virtual environment cannot be moved), so a folder may be half
//! done. Only `<digest>.json`, written last, makes it an artifact. Whoever builds, removes or collects a digest holds
//! the lock `<digest>.lock`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::id::Digest;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::serve::Served;
use super::tree;

/// How often a lock that another build holds is tried again: flock has no asynchronous form.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Of the seal's form.
const SEAL_VERSION: u32 = 1;

/// The facts about an artifact. What follows from them and from the file (the number of workers) is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub version: u32,
    pub served: Served,
    /// `python 3.11.2`
    pub runtime: Option<String>,
    pub venv: bool,
    pub detected: Vec<String>,
}

impl Seal {
    pub(super) const VERSION: u32 = SEAL_VERSION;
}

/// The folder `artifacts` of a state.
#[derive(Debug, Clone)]
pub(super) struct Artifacts(PathBuf);

/// The sole right to build or remove one digest, in any process of this machine.
#[derive(Debug)]
pub(super) struct Held {
    _lock: Flock<File>,
}

impl Artifacts {
    /// Makes the folder: 0711, so that another user reaches an artifact but cannot list them.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("artifacts");
        make_folder(&folder, 0o711)?;
        Ok(Self(folder))
    }

    pub(super) fn folder(&self, digest: Digest) -> PathBuf {
        self.0.join(digest.to_string())
    }

    fn seal_file(&self, digest: Digest) -> PathBuf {
        self.0.join(format!("{digest}.json"))
    }

    /// The seal, if there is a whole artifact. A seal that cannot be understood is none: it is built again.
    pub(super) fn sealed(&self, digest: Digest) -> Option<Seal> {
        let seal: Seal = serde_json::from_slice(&fs::read(self.seal_file(digest)).ok()?).ok()?;
        (seal.version == SEAL_VERSION && self.folder(digest).is_dir()).then_some(seal)
    }

    /// Waits until nobody else builds or removes this digest.
    pub(super) async fn hold(&self, digest: Digest) -> io::Result<Held> {
        loop {
            if let Some(held) = self.try_hold(digest)? {
                return Ok(held);
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    fn try_hold(&self, digest: Digest) -> io::Result<Option<Held>> {
        let path = self.0.join(format!("{digest}.lock"));
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e.into()),
        };
        // A collector may have removed the file between opening and locking: then this is a lock of nothing.
        let same = fs::metadata(&path).is_ok_and(|now| lock.metadata().is_ok_and(|mine| mine.ino() == now.ino()));
        Ok(same.then_some(Held { _lock: lock }))
    }

    /// An empty folder to build in; what a killed build left there is ended and removed first.
    pub(super) fn start(&self, digest: Digest, _held: &Held) -> io::Result<PathBuf> {
        let folder = self.folder(digest);
        self.remove_folder(digest)?;
        make_folder(&folder, 0o755)?;
        Ok(folder)
    }

    /// Removes what was built so far.
    pub(super) fn discard(&self, digest: Digest, _held: &Held) -> io::Result<()> {
        self.remove_folder(digest)
    }

    /// Makes the artifact whole: read-only, owned by the node's own user, on the disk, and known as such.
    pub(super) fn seal(&self, digest: Digest, seal: &Seal, _held: &Held) -> io::Result<()> {
        let folder = self.folder(digest);
        freeze(&folder)?;
        let handle = File::open(&folder)?;
        // One call instead of an fsync for each of a virtual environment's thousands of files.
        nix::unistd::syncfs(&handle)?;
        let mut temporary = tempfile::Builder::new().prefix(".seal").tempfile_in(&self.0)?;
        temporary.write_all(&serde_json::to_vec(seal).map_err(io::Error::other)?)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.seal_file(digest))?;
        File::open(&self.0)?.sync_all()
    }

    /// Removes what is neither wanted nor being built right now. Gives the digests that are gone.
    pub(super) fn collect(&self, keep: &BTreeSet<Digest>) -> io::Result<Vec<Digest>> {
        let mut gone = Vec::new();
        for digest in self.known()? {
            if keep.contains(&digest) {
                continue;
            }
            let Some(_held) = self.try_hold(digest)? else { continue };
            self.remove(digest)?;
            gone.push(digest);
        }
        Ok(gone)
    }

    /// Removes what killed builds left. Sealed artifacts stay.
    pub(super) fn remove_unsealed(&self) -> io::Result<Vec<Digest>> {
        let sealed: BTreeSet<Digest> = self.known()?.into_iter().filter(|d| self.sealed(*d).is_some()).collect();
        self.collect(&sealed)
    }

    fn known(&self) -> io::Result<BTreeSet<Digest>> {
        let mut known = BTreeSet::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let name = name.strip_suffix(".json").or(name.strip_suffix(".lock")).unwrap_or(&name);
            known.extend(name.parse::<Digest>());
        }
        Ok(known)
    }

    /// The caller holds the lock. The seal goes first, so that a crash leaves a leftover, not half an artifact.
    fn remove(&self, digest: Digest) -> io::Result<()> {
        self.remove_folder(digest)?;
        ignore_missing(fs::remove_file(self.0.join(format!("{digest}.lock"))))
    }

    fn remove_folder(&self, digest: Digest) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.seal_file(digest)))?;
        let folder = self.folder(digest);
        tree::kill_marked(&folder);
        thaw(&folder)?;
        ignore_missing(fs::remove_dir_all(&folder))
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a folder with exactly this mode, whatever the umask; one that is there keeps its own.
pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.is_dir()) {
        make_folder(parent, 0o711)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

/// Hands everything below `path` to a user, links themselves included.
pub(super) fn give(path: &Path, uid: u32) -> io::Result<()> {
    each(path, &mut |path, _| lchown(path, Some(uid), Some(uid)))
}

/// Takes all write permission away, gives everyone what its owner may read or run, and makes the node's user the
/// owner: the instance that runs from it, under another user or the builder's own, cannot change it.
fn freeze(path: &Path) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    each(path, &mut |path, metadata| {
        if metadata.uid() != uid || metadata.gid() != gid {
            lchown(path, Some(uid), Some(gid))?;
        }
        if metadata.is_symlink() {
            return Ok(());
        }
        let owner = metadata.mode() & 0o500;
        let mode = owner | owner >> 3 | owner >> 6;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    })
}

/// Lets an ordinary user remove what it froze.
fn thaw(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.is_dir() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        thaw(&entry?.path())?;
    }
    Ok(())
}

/// Visits `path` and all below it, a folder after what is in it. Links are not followed.
fn each(path: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            each(&entry?.path(), visit)?;
        }
    }
    visit(path, &metadata)
}
