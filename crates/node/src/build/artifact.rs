//! The artifacts of a state: folders per digest, its lock and its seal.
//!
//! `artifacts/<digest>/` is built where it will run (a virtual environment cannot be moved), so a folder may be half
//! done. Only `<digest>.json`, written last, makes it an artifact. Whoever builds, removes or collects a digest holds
//! the lock `<digest>.lock`.
//!
//! What was changed after it was sealed is built again beside it, as the next generation (`<digest>.2`): instances may
//! run from what is there. The seal names the generation that is the artifact; those above it have never run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::id::Digest;
use bowline_fault_points::{Point, reach};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::freeze;
use super::serve::Served;
use super::summary::{Damage, Summary};
use super::tree;
use crate::walk;

/// How often a lock that another build holds is tried again: flock has no asynchronous form.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The generation that `<digest>/` without a number is.
const FIRST: u32 = 1;

/// The app in an artifact's folder.
pub(super) const APP: &str = "app";
/// What a build is given of that folder, which itself stays the node's: the app, and its virtual environment.
pub(super) const PARTS: [&str; 2] = [APP, "venv"];

/// Of the seal's form.
const SEAL_VERSION: u32 = 2;

/// What makes a folder an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    version: u32,
    generation: u32,
    summary: Summary,
    pub facts: Facts,
}

/// The facts about an artifact. What follows from them and from the file (the number of workers) is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub served: Served,
    /// `python 3.11.2`
    pub runtime: Option<String>,
    pub venv: bool,
    /// Variables of the instance that the stack expects.
    pub env: BTreeMap<String, String>,
    /// Folders below the app's that its commands are in.
    pub bins: Vec<PathBuf>,
    /// What was built as `build` would say it; `None`: it was said, or it cannot be said in one line.
    pub build: Option<String>,
    pub detected: Vec<String>,
}

/// What is there for a digest.
#[derive(Debug)]
pub(super) enum Known {
    Absent,
    Whole(Box<Seal>),
    Damaged(Damage),
}

/// The folder `artifacts` of a state.
#[derive(Debug, Clone)]
pub(super) struct Artifacts(PathBuf);

/// The sole right to build one digest, in any process of this machine, and where to.
#[derive(Debug)]
pub(super) struct Held {
    digest: Digest,
    generation: u32,
    pub folder: PathBuf,
    _lock: Flock<File>,
}

impl Artifacts {
    /// Makes the folder: 0711, so that another user reaches an artifact but cannot list them.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("artifacts");
        make_folder(&folder, 0o711)?;
        Ok(Self(folder))
    }

    /// Where the artifact with this seal lies.
    pub(super) fn folder(&self, digest: Digest, seal: &Seal) -> PathBuf {
        self.generation(digest, seal.generation)
    }

    fn generation(&self, digest: Digest, generation: u32) -> PathBuf {
        match generation {
            FIRST => self.0.join(digest.to_string()),
            later => self.0.join(format!("{digest}.{later}")),
        }
    }

    fn seal_file(&self, digest: Digest) -> PathBuf {
        self.0.join(format!("{digest}.json"))
    }

    /// The artifact, if it is as it was sealed. Lists all of it: blocks.
    pub(super) fn look_up(&self, digest: Digest) -> Known {
        // What the seal says cannot be told: a build that holds the digest says so.
        let Ok(Sealed::As(seal)) = self.sealed(digest) else { return Known::Absent };
        match seal.summary.verify(&self.folder(digest, &seal)) {
            Ok(()) => Known::Whole(seal),
            Err(damage) => Known::Damaged(damage),
        }
    }

    /// # Errors
    /// It is there, perhaps, and cannot be read now: nothing may be made of that.
    fn sealed(&self, digest: Digest) -> io::Result<Sealed> {
        let bytes = match fs::read(self.seal_file(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sealed::Not),
            Err(error) => return Err(error),
        };
        Ok(match serde_json::from_slice::<Box<Seal>>(&bytes) {
            Ok(seal) if seal.version == SEAL_VERSION => Sealed::As(seal),
            Ok(_) | Err(_) => Sealed::Unreadable,
        })
    }

    /// Waits until nobody else builds or removes this digest.
    pub(super) async fn hold(&self, digest: Digest) -> io::Result<Held> {
        loop {
            if let Some(lock) = self.try_lock(digest)? {
                let there = self.generations()?.remove(&digest).unwrap_or_default();
                let frozen = |generation: &&u32| is_frozen(&self.generation(digest, **generation));
                let generation = match self.sealed(digest)? {
                    // Somebody took the seal away: what was frozen may run.
                    Sealed::Not => there.iter().rev().find(frozen).map_or(FIRST, |last| last + 1),
                    Sealed::As(seal) => seal.generation + 1,
                    Sealed::Unreadable => there.last().map_or(FIRST, |last| last + 1),
                };
                let folder = self.generation(digest, generation);
                return Ok(Held { digest, generation, folder, _lock: lock });
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    fn try_lock(&self, digest: Digest) -> io::Result<Option<Flock<File>>> {
        let path = self.0.join(format!("{digest}.lock"));
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e.into()),
        };
        // A collector may have removed the file between opening and locking: then this is a lock of nothing.
        let same = fs::metadata(&path).is_ok_and(|now| lock.metadata().is_ok_and(|mine| mine.ino() == now.ino()));
        Ok(same.then_some(lock))
    }

    /// An empty folder to build in; what a killed build left there is ended and removed first.
    pub(super) fn start(&self, held: &Held) -> io::Result<()> {
        remove_folder(&held.folder)?;
        make_folder(&held.folder, 0o755)?;
        reach(Point::ArtifactStarted);
        Ok(())
    }

    /// Removes what was built so far.
    pub(super) fn discard(&self, held: &Held) -> io::Result<()> {
        remove_folder(&held.folder)
    }

    /// Makes the artifact whole: read-only, owned by the node's own user, on the disk, and known as such. Nothing of the
    /// build may run any more. Gives also what was left out of it.
    pub(super) fn seal(&self, facts: Facts, held: &Held) -> io::Result<(Seal, Vec<PathBuf>)> {
        reach(Point::ArtifactBuilt);
        let left_out = freeze::freeze(&held.folder, &PARTS)?;
        let summary = Summary::of(&held.folder)?;
        let seal = Seal { version: SEAL_VERSION, generation: held.generation, summary, facts };
        let handle = File::open(&held.folder)?;
        // One call instead of an fsync for each of a virtual environment's thousands of files.
        nix::unistd::syncfs(&handle)?;
        reach(Point::ArtifactFrozen);
        self.write_seal(held.digest, &seal)?;
        reach(Point::ArtifactSealed);
        Ok((seal, left_out))
    }

    fn write_seal(&self, digest: Digest, seal: &Seal) -> io::Result<()> {
        let mut temporary = tempfile::Builder::new().prefix(".seal").tempfile_in(&self.0)?;
        temporary.write_all(&serde_json::to_vec(seal).map_err(io::Error::other)?)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.seal_file(digest))?;
        File::open(&self.0)?.sync_all()
    }

    /// Removes the folders that none of `keep` lies in and that nobody builds right now. Gives what is gone.
    pub(super) fn collect(&self, keep: &BTreeSet<PathBuf>) -> io::Result<Vec<PathBuf>> {
        self.remove_where(|_, folder, _| !keep.iter().any(|kept| kept.starts_with(folder)))
    }

    /// Removes what killed builds left. What was sealed once stays: something may run from it, also when its seal is
    /// gone.
    pub(super) fn remove_unsealed(&self) -> io::Result<Vec<PathBuf>> {
        self.remove_where(|sealed, folder, generation| match sealed {
            Sealed::Not => !is_frozen(folder),
            Sealed::As(seal) => generation > seal.generation,
            Sealed::Unreadable => false,
        })
    }

    fn remove_where(&self, unwanted: impl Fn(&Sealed, &Path, u32) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut gone = Vec::new();
        for (digest, generations) in self.generations()? {
            let Some(_lock) = self.try_lock(digest)? else { continue };
            let sealed = match self.sealed(digest) {
                Ok(sealed) => sealed,
                Err(error) => {
                    tracing::warn!(%digest, %error, "an artifact's seal cannot be read: the artifact stays");
                    continue;
                }
            };
            let drop = |generation: &u32| unwanted(&sealed, &self.generation(digest, *generation), *generation);
            let (dropped, kept): (BTreeSet<u32>, BTreeSet<u32>) = generations.into_iter().partition(drop);
            // The seal goes first, so that a crash leaves a leftover, not half an artifact.
            match (sealed, kept.last()) {
                (_, None) => ignore_missing(fs::remove_file(self.seal_file(digest)))?,
                // What is kept was damaged, or it would have been used; it is no leftover, all the same.
                (Sealed::As(seal), Some(last)) if dropped.contains(&seal.generation) => {
                    self.write_seal(digest, &Seal { generation: *last, ..*seal })?;
                }
                (Sealed::As(_) | Sealed::Not | Sealed::Unreadable, Some(_)) => {}
            }
            for generation in dropped {
                let folder = self.generation(digest, generation);
                remove_folder(&folder)?;
                gone.push(folder);
            }
            if kept.is_empty() {
                ignore_missing(fs::remove_file(self.0.join(format!("{digest}.lock"))))?;
            }
        }
        Ok(gone)
    }

    /// The digests with anything here, and the generations that have a folder.
    fn generations(&self) -> io::Result<BTreeMap<Digest, BTreeSet<u32>>> {
        let mut known: BTreeMap<Digest, BTreeSet<u32>> = BTreeMap::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let (digest, rest) = name.split_once('.').unwrap_or((&name, "1"));
            let Ok(digest) = digest.parse() else { continue };
            known.entry(digest).or_default().extend(rest.parse::<u32>());
        }
        Ok(known)
    }
}

/// What the seal's file says.
enum Sealed {
    Not,
    As(Box<Seal>),
    /// Of another version, or damaged: something may run from what it sealed.
    Unreadable,
}

/// Whether a build came to its end there: nothing else takes all write permission away from the top.
fn is_frozen(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.mode() & 0o222 == 0)
}

/// The caller holds the lock.
fn remove_folder(folder: &Path) -> io::Result<()> {
    tree::kill_marked(folder);
    // A build may have gone deeper than anything is frozen.
    walk::remove_tree(folder)
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

/// Hands `path` and everything below it to a user, links themselves included.
pub(super) fn give(path: &Path, uid: u32) -> io::Result<()> {
    freeze::each(path, &mut |path, _| lchown(path, Some(uid), Some(uid)))
}
