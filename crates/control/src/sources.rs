//! Folders that were sent from elsewhere: `STATE/sources`.
//!
//! | path | what |
//! |---|---|
//! | `.contents/ENV/APP/DIGEST` | what a file of that app holds, as it was sent; no environment is called `.contents` |
//! | `ENV/APP/DIGEST.json` | what a folder is made of |
//! | `ENV/APP/DIGEST/` | the folder, whole |
//!
//! Contents are told by their digest, each app's by themselves: what has arrived once is not sent again, and who was cut off goes on where it
//! was. Whoever knows the digest of another app's file is neither told that it is there nor given it.
//! The app belongs to `ENV/APP`, whichever folder below it was sent last.

mod room;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, Digest, EnvName};
use bowline_core::resource::data::MAX_ARCHIVE;
use bowline_core::source::{Entry, MAX_BYTES, Manifest};
use bowline_core::units::Bytes;
use bowline_fault_points::{Point, reach};
use bytes::BytesMut;
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::room::{Claim, Full, Room};

/// How long what was sent is kept after it was last asked for: whoever was cut off goes on.
const KEPT: Duration = Duration::from_secs(3_600);
/// So many folders of an app are kept for that long, to copy from.
const FOLDERS: usize = 3;
/// How long the others are: a build may still read one.
const READ: Duration = Duration::from_secs(15 * 60);
/// No environment has this name.
const CONTENTS: &str = ".contents";
/// Of what is not whole yet.
const NEW: &str = "new-";
/// So many folders of an app that were offered, and not sent, are remembered.
const OFFERED: usize = 8;
/// Room is claimed for so many bytes of what arrives at a time.
const STEP: u64 = 8 << 20;
/// So many manifests are read at once: each may take several times its size in memory.
const OFFERS: usize = 2;
/// So many folders are put together at once.
const PLACES: usize = 2;
/// So many threads write what arrives, however many send: the others of the daemon's pool are for what runs.
const WRITES: usize = 4;
/// Bytes that are written at once.
const PIECE: usize = 256 << 10;
/// So many uploads gather as much before they write: 16 MiB in all. The others write what comes as it comes, so that whoever sends in
/// many connections takes time and no memory.
const PIECES: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct Sources {
    dir: PathBuf,
    room: Room,
    offers: Arc<Semaphore>,
    places: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
}

/// What a volume is to be filled with, with room for it once more: it is about to be unpacked. Gone when it is dropped, which blocks.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Temporary,
    _room: Claim,
}

impl Archive {
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }
}

/// A manifest that has arrived, and is not read yet.
#[derive(Debug)]
pub(crate) struct Taken(Temporary);

impl Sources {
    /// Of a daemon that has the state for itself: what an earlier one did not finish goes.
    pub(crate) fn open(state: &Path) -> Self {
        let dir = state.join("sources");
        let [offers, places, writes, pieces] =
            [OFFERS, PLACES, WRITES, PIECES].map(|most| Arc::new(Semaphore::new(most)));
        let sources = Self { room: Room::of(&dir), dir, offers, places, writes, pieces };
        let apps = folders(&sources.dir).into_iter().flat_map(|environment| folders(&environment));
        for folder in apps.chain(sources.all_contents()) {
            if let Err(error) = remove(&folder, |entry| entry.name.starts_with(NEW)) {
                tracing::warn!(folder = %folder.display(), %error, "what was sent by half is left");
            }
        }
        sources
    }

    /// A folder is offered in turn.
    pub(crate) async fn turn_to_offer(&self) -> Result<OwnedSemaphorePermit, Fault> {
        turn(&self.offers).await
    }

    /// A folder is put together in turn.
    pub(crate) async fn turn_to_place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        turn(&self.places).await
    }

    /// Takes the manifest of a folder. It waits for its turn on the disk, not in memory.
    pub(crate) async fn take(&self, key: &AppKey, body: Body) -> Result<Taken, Fault> {
        let what = format!("the source of {key} cannot be taken");
        let (manifest, _) = self.receive(key, body, wire::MAX_MANIFEST as u64, &what).await?;
        Ok(Taken(manifest))
    }

    /// Takes what a volume of an app is to be filled with.
    pub(crate) async fn take_archive(&self, key: &AppKey, body: Body) -> Result<Archive, Fault> {
        let what = format!("what was sent for {key} cannot be taken");
        let (file, _) = self.receive(key, body, MAX_ARCHIVE, &what).await?;
        let size = file.file.metadata().map_err(|error| unwritten(&what, &error))?.len();
        Ok(Archive { _room: self.claim(key, size)?, file })
    }

    /// What is missing of a folder. Blocks.
    pub(crate) fn offer(&self, key: &AppKey, Taken(text): Taken) -> Result<wire::Offered, Fault> {
        let wrong = |error: &dyn std::error::Error| {
            Fault::new(FaultKind::Invalid, format!("the source of {key} cannot be taken")).source(error)
        };
        let failed = |error: io::Error| failed(key, "take", &error);
        let file = BufReader::new(File::open(&text.path).map_err(failed)?);
        let source: wire::Source = serde_json::from_reader(file).map_err(|error| wrong(&error))?;
        let manifest = Manifest::try_from(source).map_err(|error| wrong(&error))?;
        let (source, place) = (digest(&manifest).to_string(), self.app(key));
        make(&place).and_then(|()| self.tidy(key, &source)).map_err(failed)?;
        let missing = self.missing(key, &manifest.contents())?;
        let sent: u64 = missing.iter().map(|(_, size)| size).sum();
        drop(self.claim(key, sent.saturating_add(manifest.bytes()))?);
        text.rename(&place.join(format!("{source}.json"))).map_err(failed)?;
        reach(Point::SourceOffered);
        let missing = missing.into_iter().map(|(content, _)| content.to_string()).collect();
        Ok(wire::Offered { source, missing })
    }

    /// Of what a folder holds, with its sizes in bytes, what the app does not have.
    fn missing(&self, key: &AppKey, wanted: &BTreeMap<Digest, u64>) -> Result<Vec<(Digest, u64)>, Fault> {
        let there = self.found(key, wanted);
        let mut missing = Vec::new();
        for (content, size) in wanted {
            let sent = self.sent(key, content);
            let is_there = match fs::symlink_metadata(&sent) {
                // What is asked for is not old, whenever it was sent.
                Ok(meta) if meta.len() == *size => touch(&sent).is_ok(),
                Ok(_) if is(&sent, content).unwrap_or(false) => return Err(other_size(key, content, *size)),
                // A power cut has left less of it.
                Ok(_) => {
                    fs::remove_file(&sent).map_err(|error| failed(key, "take", &error))?;
                    false
                }
                Err(_) => false,
            };
            if !is_there && !there.contains_key(content) {
                missing.push((*content, *size));
            }
        }
        Ok(missing)
    }

    /// Room for so many bytes of what is sent, and of the folder.
    fn claim(&self, key: &AppKey, needed: u64) -> Result<Claim, Fault> {
        let refused = |why: String| {
            Fault::new(FaultKind::Refused, format!("there is no room for what is sent for {key}"))
                .caused_by(why)
                .hint("leave out what is not needed (of a source with .bowlineignore), or make room on the machine")
        };
        self.room.claim(needed).map_err(|full| match full {
            Full::Left(left) => {
                refused(format!("it needs {}, and {} may be taken of the disk", Bytes(needed), Bytes(left)))
            }
            Full::Files => refused("the disk can hold almost no more files".to_owned()),
            Full::Unknown(error) => failed(key, "take", &error),
        })
    }

    /// Takes what a file of the app holds, and nothing but what its digest says.
    pub(crate) async fn put(&self, key: &AppKey, content: Digest, body: Body) -> Result<(), Fault> {
        let what = format!("content {} of {key} cannot be taken", content.short());
        let (file, found) = self.receive(key, body, MAX_BYTES, &what).await?;
        if found != content {
            return Err(Fault::new(FaultKind::Invalid, what)
                .caused_by("it is something else")
                .hint("did the file change while it was sent? run the command again"));
        }
        reach(Point::ContentArrived);
        let to = self.sent(key, &content);
        self.beside(move || file.rename(&to)).await?.map_err(|error| unwritten(&what, &error))
    }

    /// Runs what blocks on the disk: a turn is of one piece, so that whoever sends slowly keeps nobody waiting.
    async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let turn = turn(&self.writes).await?;
        let done = tokio::task::spawn_blocking(move || {
            // Held to the end, also of work that nobody waits for any more.
            let _turn = turn;
            work()
        });
        done.await.map_err(|error| Fault::new(FaultKind::Failed, "taking a source broke off").source(&error))
    }

    /// Writes a body beside the app's contents, as far as there is room. Returns it with its digest.
    async fn receive(
        &self,
        key: &AppKey,
        mut body: Body,
        limit: u64,
        what: &str,
    ) -> Result<(Temporary, Digest), Fault> {
        let gathers = Arc::clone(&self.pieces).try_acquire_owned().ok();
        let piece = if gathers.is_some() { PIECE } else { 0 };
        let folder = self.contents(key);
        let begun = self.beside(move || make(&folder).and_then(|()| Temporary::new(&folder))).await?;
        let mut arriving = Arriving {
            file: begun.map_err(|error| unwritten(what, &error))?,
            hash: Sha256::new(),
            unwritten: BytesMut::new(),
        };
        let (mut size, mut claimed, mut claim) = (0_u64, 0_u64, None);
        while let Some(frame) = body.frame().await {
            let broken =
                |error| Fault::new(FaultKind::Failed, what).caused_by("it did not arrive whole").source(&error);
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            let length = data.len() as u64;
            if size + length > limit {
                let fault = Fault::new(FaultKind::Invalid, what);
                return Err(fault.caused_by(format!("it has more than {}", Bytes(limit))));
            }
            if size + length > claimed {
                // What was claimed for is on the disk then.
                arriving = self.write(arriving, what).await?;
                drop(claim.take());
                let step = STEP.max(length).min(limit - size);
                claim = Some(self.claim(key, step)?);
                claimed = size + step;
            }
            size += length;
            arriving.unwritten.extend_from_slice(&data);
            if arriving.unwritten.len() >= piece {
                arriving = self.write(arriving, what).await?;
            }
        }
        let Arriving { file, hash, .. } = self.write(arriving, what).await?;
        drop(claim);
        Ok((file, Digest(hash.finalize().into())))
    }

    /// Writes what has come of a file.
    async fn write(&self, arriving: Arriving, what: &str) -> Result<Arriving, Fault> {
        if arriving.unwritten.is_empty() {
            return Ok(arriving);
        }
        let written = self.beside(move || arriving.write()).await?;
        written.map_err(|error| unwritten(what, &error))
    }

    /// Removes what is old: contents of every app, and folders and offers of this one. Not what begins with `keep`; and not what is on
    /// its way, however long it takes: that goes with whoever brings it, or with the next start.
    fn tidy(&self, key: &AppKey, keep: &str) -> io::Result<()> {
        for contents in self.all_contents() {
            remove(&contents, |entry| entry.age > KEPT && !entry.name.starts_with(NEW))?;
        }
        let place = self.app(key);
        let is_placed = |entry: &Old| place.join(entry.name.trim_end_matches(".json")).is_dir();
        remove(&place, |entry| {
            let old = entry.age > KEPT || (entry.rank >= FOLDERS && entry.age > READ);
            let on_its_way = entry.name.starts_with(keep) || entry.name.starts_with(NEW);
            !on_its_way && (old || (entry.later >= OFFERED && !is_placed(entry)))
        })
    }

    /// Puts a folder together. Blocks.
    pub(crate) fn place(&self, key: &AppKey, source: Digest) -> Result<wire::Placed, Fault> {
        let (place, name) = (self.app(key), source.to_string());
        let unknown = || {
            Fault::new(FaultKind::Invalid, format!("no source {} of {key} was offered", source.short()))
                .hint("run the command again")
        };
        let manifest = read_manifest(&place.join(format!("{name}.json"))).ok_or_else(unknown)?;
        let folder = place.join(&name);
        if !is_whole(&folder, &manifest) {
            self.assemble(key, &manifest, &folder)?;
        }
        let tidied = touch(&folder).and_then(|()| self.tidy(key, &name));
        if let Err(error) = tidied {
            tracing::warn!(app = %key, %error, "older sources are left");
        }
        reach(Point::SourcePlaced);
        Ok(wire::Placed { dir: folder.display().to_string() })
    }

    /// Beside its place first: it appears whole or not at all.
    fn assemble(&self, key: &AppKey, manifest: &Manifest, folder: &Path) -> Result<(), Fault> {
        let there = self.found(key, &manifest.contents());
        let mut claim = self.claim(key, manifest.bytes())?;
        let failed = |error: io::Error| failed(key, "put together", &error);
        let new = tempfile::Builder::new().prefix(NEW).tempdir_in(self.app(key)).map_err(failed)?;
        for (path, entry) in manifest.entries() {
            let target = new.path().join(path);
            match entry {
                Entry::Folder => DirBuilder::new().mode(0o755).create(&target).map_err(failed)?,
                Entry::Link(to) => symlink(to, &target).map_err(failed)?,
                Entry::File { executable, content, size } => {
                    let sent = self.sent(key, content);
                    let from = if sent.exists() { Some(&sent) } else { there.get(content) };
                    let from = from.ok_or_else(|| not_sent(key, content))?;
                    if !copy(from, &target, *executable, (content, *size)).map_err(failed)? {
                        if is(from, content).map_err(failed)? {
                            return Err(other_size(key, content, *size));
                        }
                        // It is asked for the next time.
                        fs::remove_file(from).map_err(failed)?;
                        let spoilt = format!("{path} is not what it was; it is sent anew next time");
                        return Err(failed(io::Error::other(spoilt)));
                    }
                    claim.spend(*size);
                }
            }
        }
        let put = || -> io::Result<()> {
            fs::set_permissions(new.path(), Permissions::from_mode(0o755))?;
            // A power cut leaves the name with all that is in it, or none.
            rustix::fs::syncfs(File::open(new.path())?)?;
            reach(Point::SourceAssembled);
            if folder.is_dir() {
                // It lost something; what it still has was found there.
                fs::rename(folder, new.path().with_extension("old"))?;
            }
            fs::rename(new.path(), folder)
        };
        let put = put();
        let old = new.path().with_extension("old");
        if let Err(error) = fs::remove_dir_all(&old)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %old.display(), %error, "a damaged source is left");
        }
        match put {
            Ok(()) => Ok(()),
            // Another command has sent the same.
            Err(_) if is_whole(folder, manifest) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn sent(&self, key: &AppKey, content: &Digest) -> PathBuf {
        self.contents(key).join(content.to_string())
    }

    fn contents(&self, key: &AppKey) -> PathBuf {
        self.dir.join(CONTENTS).join(key.env.as_str()).join(key.app.as_str())
    }

    /// Of every app.
    fn all_contents(&self) -> Vec<PathBuf> {
        folders(&self.dir.join(CONTENTS)).iter().flat_map(|environment| folders(environment)).collect()
    }

    fn app(&self, key: &AppKey) -> PathBuf {
        self.dir.join(key.env.as_str()).join(key.app.as_str())
    }

    /// What of it the app's folders hold already. That it still is what it was is looked at when it is used.
    fn found(&self, key: &AppKey, wanted: &BTreeMap<Digest, u64>) -> BTreeMap<Digest, PathBuf> {
        let place = self.app(key);
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&place).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            let manifest = read_manifest(&entry.path().with_extension("json"));
            for (path, one) in manifest.iter().flat_map(|manifest| manifest.entries()) {
                if let Entry::File { content, size, .. } = one
                    && wanted.get(content) == Some(size)
                {
                    let path = entry.path().join(path);
                    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == *size) {
                        found.insert(*content, path);
                    }
                }
            }
        }
        found
    }
}

/// Whose source this folder is: the folder that the app belongs to, and its key.
pub(crate) fn owner(state: &Path, folder: &Path) -> Option<(PathBuf, AppKey)> {
    let sources = fs::canonicalize(state.join("sources")).ok()?;
    let parts: Vec<&str> = folder.strip_prefix(&sources).ok()?.iter().filter_map(|part| part.to_str()).collect();
    let [env, app, digest] = parts.as_slice() else { return None };
    digest.parse::<Digest>().ok()?;
    let key = AppKey { env: EnvName::new(env).ok()?, app: AppName::new(app).ok()? };
    Some((sources.join(env).join(app), key))
}

fn digest(manifest: &Manifest) -> Digest {
    let mut hash = Sha256::new();
    manifest.canonical(|piece| hash.update(piece));
    Digest(hash.finalize().into())
}

fn read_manifest(path: &Path) -> Option<Manifest> {
    let source: wire::Source = serde_json::from_reader(BufReader::new(File::open(path).ok()?)).ok()?;
    source.try_into().ok()
}

fn failed(key: &AppKey, what: &str, error: &io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("cannot {what} the source of {key}"))
        .source(error)
        .hint("look at the space and the rights of the state folder")
}

/// Folders of the daemon's own user: a source is nobody else's.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

async fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Fault> {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.map_err(|error| Fault::new(FaultKind::Unreachable, "the daemon is about to exit").source(&error))
}

fn unwritten(what: &str, error: &io::Error) -> Fault {
    let fault = Fault::new(FaultKind::Failed, what).caused_by("it cannot be written");
    fault.source(error).hint("look at the disk's space")
}

fn not_sent(key: &AppKey, content: &Digest) -> Fault {
    Fault::new(FaultKind::Invalid, format!("content {} of {key} was not sent", content.short()))
        .hint("run the command again: it goes on where it was")
}

fn other_size(key: &AppKey, content: &Digest, size: u64) -> Fault {
    Fault::new(FaultKind::Invalid, format!("content {} of {key} has another size", content.short()))
        .caused_by(format!("what was offered says {size} bytes"))
        .hint("did the file change while it was sent? run the command again")
}

fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::now())
}

/// Whether what was copied has the digest and the size.
fn copy(from: &Path, to: &Path, executable: bool, of: (&Digest, u64)) -> io::Result<bool> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut target = File::options().write(true).create_new(true).mode(mode).open(to)?;
    target.set_permissions(Permissions::from_mode(mode))?;
    holds(from, of, &mut target)
}

/// Whether a file holds just this; what was read of it is written to `to`.
fn holds(file: &Path, (content, size): (&Digest, u64), to: &mut dyn io::Write) -> io::Result<bool> {
    let mut from =
        File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file)?.take(size + 1);
    let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 64 << 10], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(length == size && Digest(hash.finalize().into()) == *content),
            n => {
                length += n as u64;
                hash.update(&buffer[..n]);
                to.write_all(&buffer[..n])?;
            }
        }
    }
}

/// Whether what a file holds is this, however much it is.
fn is(file: &Path, content: &Digest) -> io::Result<bool> {
    let size = fs::symlink_metadata(file)?.len();
    holds(file, (content, size), &mut io::sink())
}

/// Whether a folder is what it was put together as: one that lost something gives way.
fn is_whole(folder: &Path, manifest: &Manifest) -> bool {
    let is_it = |path: &Path, entry: &Entry| match (fs::symlink_metadata(path), entry) {
        (Ok(meta), Entry::Folder) => meta.is_dir(),
        (Ok(meta), Entry::Link(to)) => meta.is_symlink() && fs::read_link(path).is_ok_and(|link| link == Path::new(to)),
        (Ok(meta), Entry::File { executable, size, content }) => {
            meta.is_file()
                && (meta.permissions().mode() & 0o100 != 0) == *executable
                && holds(path, (content, *size), &mut io::sink()).unwrap_or(false)
        }
        (Err(_), _) => false,
    };
    folder.is_dir() && manifest.entries().iter().all(|(path, entry)| is_it(&folder.join(path), entry))
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// What lies in a folder.
struct Old {
    name: String,
    /// Since it was touched.
    age: Duration,
    /// Among the folders there: how many were touched later.
    rank: usize,
    /// Among all that is there.
    later: usize,
}

/// Removes what is chosen. Others put and take at the same time: what is gone already is gone.
fn remove(folder: &Path, is_chosen: impl Fn(&Old) -> bool) -> io::Result<()> {
    let gone_is_fine = |error: io::Error| match error.kind() == io::ErrorKind::NotFound {
        true => Ok(()),
        false => Err(error),
    };
    let entries = match fs::read_dir(folder) {
        Err(error) => return gone_is_fine(error),
        Ok(entries) => entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            Some((meta.modified().ok()?, meta.is_dir(), entry))
        }),
    };
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(touched, ..)| std::cmp::Reverse(*touched));
    let mut rank = 0;
    for (later, (touched, is_dir, entry)) in entries.into_iter().enumerate() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A clock that was set back makes nothing old.
        let old = Old { name, age: touched.elapsed().unwrap_or_default(), rank, later };
        rank += usize::from(is_dir);
        if is_chosen(&old) {
            let removed = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            removed.or_else(gone_is_fine)?;
        }
    }
    Ok(())
}

/// A file on its way.
struct Arriving {
    file: Temporary,
    /// Of what is written.
    hash: Sha256,
    unwritten: BytesMut,
}

impl Arriving {
    fn write(mut self) -> io::Result<Self> {
        self.hash.update(&self.unwritten);
        self.file.file.write_all(&self.unwritten)?;
        // With what it has grown to.
        self.unwritten = BytesMut::new();
        Ok(self)
    }
}

/// A file that is gone unless it gets a name.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
    named: bool,
}

impl Temporary {
    fn new(folder: &Path) -> io::Result<Self> {
        let random = getrandom::u64().map_err(io::Error::from)?;
        let path = folder.join(format!("{NEW}{random:016x}"));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, named: false })
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            // The next daemon removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(app: &str) -> AppKey {
        AppKey { env: EnvName::new("production").unwrap(), app: AppName::new(app).unwrap() }
    }

    /// Of a disk with room for all that is sent here, however full the machine's is.
    fn opened(state: &Path) -> Sources {
        let sources = Sources::open(state);
        Sources { room: Room::with(&sources.dir, |_| Ok(1 << 40)), ..sources }
    }

    fn content(text: &str) -> Digest {
        Digest(Sha256::digest(text).into())
    }

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let file = |text: &str| Entry::File {
            executable: text.starts_with("#!"),
            size: text.len() as u64,
            content: content(text),
        };
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), file(text)));
        let others = [("sub".to_owned(), Entry::Folder), ("link".to_owned(), Entry::Link("sub/b".to_owned()))];
        Manifest::new(files.chain(others).collect()).unwrap()
    }

    async fn offer(sources: &Sources, key: &AppKey, manifest: &Manifest) -> Result<wire::Offered, Fault> {
        let text = serde_json::to_vec(&wire::Source::from(manifest)).unwrap();
        let taken = sources.take(key, Body::from(text)).await?;
        sources.offer(key, taken)
    }

    /// A folder with this file alone.
    fn of_one(text: &str, size: usize) -> Manifest {
        let file = Entry::File { executable: false, size: size as u64, content: content(text) };
        Manifest::new([("a".to_owned(), file)].into()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn what_one_app_was_sent_is_not_there_for_another() {
        let state = tempfile::tempdir().unwrap();
        let sources = opened(state.path());
        let (a, b, secret) = (key("a"), key("b"), of_one("secret", 6));
        offer(&sources, &a, &secret).await.unwrap();
        sources.put(&a, content("secret"), Body::from("secret")).await.unwrap();
        let offered = offer(&sources, &b, &secret).await.unwrap();
        assert_eq!(offered.missing, [content("secret").to_string()], "it is not told that it is there");
        let refused = sources.place(&b, offered.source.parse().unwrap()).unwrap_err();
        assert!(refused.message.contains("was not sent"), "{refused:?}");
        assert_eq!(offer(&sources, &a, &secret).await.unwrap().missing, Vec::<String>::new());
        sources.place(&a, offered.source.parse().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn many_uploads_at_once_take_few_threads() {
        let (state, key) = (tempfile::tempdir().unwrap(), key("a"));
        let sources = opened(state.path());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let one = |_| {
            let (sources, now, most) = (sources.clone(), Arc::clone(&now), Arc::clone(&most));
            let work = move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            };
            tokio::spawn(async move { sources.beside(work).await.unwrap() })
        };
        futures_util::future::try_join_all((0..64).map(one)).await.unwrap();
        assert!(most.load(Ordering::SeqCst) <= WRITES, "{most:?}");

        // All that an upload does on the disk is done in turn.
        let turns = Arc::clone(&sources.writes).acquire_many_owned(u32::try_from(WRITES).unwrap()).await.unwrap();
        let upload = |n: u8| {
            let (sources, key, digest) =
                (sources.clone(), key.clone(), Digest(Sha256::digest(vec![n; 1 << 20]).into()));
            let parts = (0..16).map(move |_| Ok::<_, io::Error>(vec![n; 64 << 10]));
            let body = Body::from_stream(futures_util::stream::iter(parts));
            tokio::spawn(async move { sources.put(&key, digest, body).await.unwrap() })
        };
        let uploads: Vec<_> = (0..64).map(upload).collect();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(&sources.contents(&key)), Vec::<String>::new());
        drop(turns);
        futures_util::future::try_join_all(uploads).await.unwrap();
        assert_eq!(names(&sources.contents(&key)).len(), 64);
    }

    #[tokio::test]
    async fn one_upload_too_many_writes_what_comes_as_it_comes() {
        let (state, key) = (tempfile::tempdir().unwrap(), key("a"));
        let sources = opened(state.path());
        let others = Arc::clone(&sources.pieces).acquire_many_owned(u32::try_from(PIECES).unwrap()).await.unwrap();
        let (sender, parts) = tokio::sync::mpsc::channel::<Result<Vec<u8>, io::Error>>(1);
        let parts = futures_util::stream::unfold(parts, async |mut parts| Some((parts.recv().await?, parts)));
        let text = "x".repeat(PIECE / 4);
        let (with, of, whole) = (sources.clone(), key.clone(), content(&text));
        let upload = tokio::spawn(async move { with.put(&of, whole, Body::from_stream(parts)).await });
        sender.send(Ok(text.clone().into_bytes())).await.unwrap();
        // It comes to no more than that, for now: whoever sends slowly keeps nothing in memory.
        let written = async {
            loop {
                let files = fs::read_dir(sources.contents(&key)).into_iter().flatten().flatten();
                if files.map(|file| file.metadata().unwrap().len()).sum::<u64>() == text.len() as u64 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), written).await.expect("it is written");
        drop(sender);
        upload.await.unwrap().unwrap();
        drop(others);
        assert_eq!(sources.pieces.available_permits(), PIECES, "who is done leaves room");
    }

    #[tokio::test]
    async fn what_fills_a_volume_has_room_twice_and_is_gone_afterwards() {
        let (state, key) = (tempfile::tempdir().unwrap(), key("a"));
        let mut sources = opened(state.path());
        make(&sources.dir).unwrap();
        sources.room = Room::with(&sources.dir, |_| Ok(STEP));
        let archive = sources.take_archive(&key, Body::from("archive")).await.unwrap();
        assert_eq!(fs::read_to_string(archive.path()).unwrap(), "archive");
        assert!(sources.room.claim(STEP).is_err(), "it is about to be unpacked");
        drop(archive);
        assert!(sources.room.claim(STEP).is_ok());
        assert_eq!(names(&sources.contents(&key)), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_on_its_way_is_not_too_old_for_anybody() {
        let state = tempfile::tempdir().unwrap();
        let (sources, a, b) = (opened(state.path()), key("a"), key("b"));
        let archive = sources.take_archive(&a, Body::from("archive")).await.unwrap();
        let assembled = sources.app(&b).join("new-folder");
        make(&assembled).unwrap();
        sources.put(&a, content("old"), Body::from("old")).await.unwrap();
        for path in [archive.path(), &assembled, &sources.sent(&a, &content("old"))] {
            File::open(path).unwrap().set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        }
        offer(&sources, &b, &of_one("text", 4)).await.unwrap();
        assert!(!sources.sent(&a, &content("old")).exists(), "what has arrived and is not asked for goes");
        assert_eq!(fs::read_to_string(archive.path()).unwrap(), "archive", "it waits to be unpacked");
        assert!(assembled.exists());
    }

    #[tokio::test]
    async fn a_wrong_size_is_refused_and_removes_nothing() {
        let state = tempfile::tempdir().unwrap();
        let (sources, key) = (opened(state.path()), key("a"));
        let (right, wrong) = (of_one("text", 4), of_one("text", 5));
        let offered = offer(&sources, &key, &right).await.unwrap();
        let early = offer(&sources, &key, &wrong).await.unwrap();
        sources.put(&key, content("text"), Body::from("text")).await.unwrap();
        let refused = offer(&sources, &key, &wrong).await.unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.ends_with("has another size")),
            (FaultKind::Invalid, true),
            "{refused:?}"
        );
        let refused = sources.place(&key, early.source.parse().unwrap()).unwrap_err();
        assert_eq!(
            (refused.kind, refused.message.ends_with("has another size")),
            (FaultKind::Invalid, true),
            "{refused:?}"
        );
        sources.place(&key, offered.source.parse().unwrap()).unwrap();
        // What a power cut has cut off is asked for.
        fs::remove_dir_all(sources.app(&key).join(&offered.source)).unwrap();
        fs::write(sources.sent(&key, &content("text")), "te").unwrap();
        assert_eq!(offer(&sources, &key, &right).await.unwrap().missing, [content("text").to_string()]);
    }

    #[tokio::test]
    async fn what_finds_no_room_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut sources = opened(state.path());
        let (key, small) = (key("a"), of_one("text", 4));
        make(&sources.dir).unwrap();
        sources.room = Room::with(&sources.dir, |_| Ok(0));
        let refused = offer(&sources, &key, &small).await.unwrap_err();
        assert!(refused.message.contains("no room"), "{refused:?}");
        let refused = sources.put(&key, content("text"), Body::from("text")).await.unwrap_err();
        assert!(refused.message.contains("no room"), "{refused:?}");
        // The manifest has room, and what it is of has none.
        sources.room = Room::with(&sources.dir, |_| Ok(STEP));
        let large = of_one("large", usize::try_from(STEP).unwrap());
        assert!(offer(&sources, &key, &large).await.unwrap_err().message.contains("no room"));
        assert_eq!((names(&sources.app(&key)), names(&sources.contents(&key))), (Vec::new(), Vec::new()));
        // Another one is writing.
        let claim = sources.room.claim(1).unwrap();
        assert!(sources.put(&key, content("text"), Body::from("text")).await.is_err());
        drop(claim);
        sources.put(&key, content("text"), Body::from("text")).await.unwrap();
        offer(&sources, &key, &small).await.unwrap();
    }

    #[tokio::test]
    async fn offers_that_nothing_follows_are_bounded() {
        let state = tempfile::tempdir().unwrap();
        let (sources, key) = (opened(state.path()), key("a"));
        for size in 0..3 * OFFERED {
            offer(&sources, &key, &of_one("text", size)).await.unwrap();
        }
        assert!(names(&sources.app(&key)).len() <= OFFERED + 1, "{:?}", names(&sources.app(&key)));
    }

    #[tokio::test]
    async fn what_was_sent_once_is_not_asked_for_again() {
        let state = tempfile::tempdir().unwrap();
        let (sources, key) = (opened(state.path()), key("a"));
        let first = manifest(&[("a", "one"), ("sub/b", "#!two"), ("same", "one")]);
        let offered = offer(&sources, &key, &first).await.unwrap();
        let source: Digest = offered.source.parse().unwrap();
        assert_eq!(
            BTreeSet::from_iter(offered.missing),
            [content("one"), content("#!two")].map(|c| c.to_string()).into()
        );
        sources.put(&key, content("one"), Body::from("one")).await.unwrap();
        assert_eq!(
            offer(&sources, &key, &first).await.unwrap().missing,
            [content("#!two").to_string()],
            "cut off, it goes on"
        );
        assert!(sources.place(&key, source).unwrap_err().message.contains("was not sent"));
        assert_eq!(
            sources.put(&key, content("#!two"), Body::from("other")).await.unwrap_err().kind,
            FaultKind::Invalid
        );
        sources.put(&key, content("#!two"), Body::from("#!two")).await.unwrap();
        let placed = PathBuf::from(sources.place(&key, source).unwrap().dir);
        assert_eq!(fs::read_to_string(placed.join("link")).unwrap(), "#!two");
        let mode = |name: &str| fs::metadata(placed.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("sub/b"), mode("same")), (0o644, 0o755, 0o644));
        assert_eq!(sources.place(&key, source).unwrap().dir, placed.display().to_string(), "the same again");

        let second = manifest(&[("a", "one"), ("sub/b", "three")]);
        let offered = offer(&sources, &key, &second).await.unwrap();
        assert_eq!(offered.missing, [content("three").to_string()]);
        sources.put(&key, content("three"), Body::from("three")).await.unwrap();
        // Of what was sent for the first one nothing is left but its folder, and that is spoilt.
        fs::remove_file(sources.sent(&key, &content("one"))).unwrap();
        fs::write(placed.join("a"), "bad").unwrap();
        fs::write(placed.join("same"), "bad").unwrap();
        let second_source: Digest = offered.source.parse().unwrap();
        let spoilt = sources.place(&key, second_source).unwrap_err();
        assert!(spoilt.causes[0].contains("not what it was"), "{spoilt:?}");
    }

    #[tokio::test]
    async fn a_folder_says_whose_source_it_is() {
        let state = tempfile::tempdir().unwrap();
        let sources = opened(state.path());
        offer(&sources, &key("a"), &manifest(&[("sub/b", "x")])).await.unwrap();
        let place = fs::canonicalize(sources.app(&key("a"))).unwrap();
        let folder = place.join(content("x").to_string());
        assert_eq!(owner(state.path(), &folder), Some((place.clone(), key("a"))));
        assert_eq!(owner(state.path(), &place), None);
        assert_eq!(owner(state.path(), Path::new("/srv/app")), None);
        let other = sources.place(&key("a"), content("never offered")).unwrap_err();
        assert_eq!(other.kind, FaultKind::Invalid);
    }

    #[tokio::test]
    async fn a_folder_that_lost_something_is_put_together_again() {
        let state = tempfile::tempdir().unwrap();
        let (sources, key) = (opened(state.path()), key("a"));
        let manifest = manifest(&[("a", "one"), ("sub/b", "two")]);
        let send = async || {
            loop {
                let offered = offer(&sources, &key, &manifest).await.unwrap();
                for missing in &offered.missing {
                    let text = if *missing == content("one").to_string() { "one" } else { "two" };
                    sources.put(&key, missing.parse().unwrap(), Body::from(text)).await.unwrap();
                }
                match sources.place(&key, offered.source.parse().unwrap()) {
                    Ok(placed) => return PathBuf::from(placed.dir),
                    Err(fault) => assert!(fault.causes[0].contains("sent anew"), "{fault:?}"),
                }
            }
        };
        let placed = send().await;
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::write(placed.join("a"), "").unwrap(),
            &|| fs::write(placed.join("a"), "eno").unwrap(),
            &|| fs::remove_file(placed.join("link")).unwrap(),
            &|| fs::remove_dir_all(placed.join("sub")).unwrap(),
        ];
        for spoil in spoil {
            spoil();
            // As if it was sent long ago.
            fs::remove_dir_all(sources.contents(&key)).unwrap();
            make(&sources.contents(&key)).unwrap();
            assert!(is_whole(&send().await, &manifest));
        }
        assert_eq!(folders(&sources.app(&key)), [placed], "nothing else is left");
    }

    #[tokio::test]
    async fn a_size_is_what_it_is_said_to_be() {
        let state = tempfile::tempdir().unwrap();
        let sources = opened(state.path());
        let liar = of_one("large", 0);
        let offered = offer(&sources, &key("a"), &liar).await.unwrap();
        sources.put(&key("a"), content("large"), Body::from("large")).await.unwrap();
        assert!(sources.place(&key("a"), offered.source.parse().unwrap()).is_err());
    }

    #[test]
    fn what_is_old_goes_and_what_was_not_finished() {
        let state = tempfile::tempdir().unwrap();
        let sources = opened(state.path());
        let app = sources.app(&key("a"));
        for folder in ["one", "two", "new-three"] {
            fs::create_dir_all(app.join(folder)).unwrap();
        }
        make(&sources.contents(&key("a"))).unwrap();
        fs::write(sources.contents(&key("a")).join("new-1"), "").unwrap();
        let hour = SystemTime::now() - Duration::from_secs(3_600);
        File::open(app.join("one")).unwrap().set_modified(hour).unwrap();
        let sources = opened(state.path());
        let mut left = folders(&app);
        left.sort();
        assert_eq!(left, [app.join("one"), app.join("two")]);
        assert_eq!(fs::read_dir(sources.contents(&key("a"))).unwrap().count(), 0);
        remove(&app, |entry| entry.rank >= 1 && entry.age > Duration::from_secs(60)).unwrap();
        assert_eq!(folders(&app), [app.join("two")]);
        remove(&state.path().join("nowhere"), |_| true).unwrap();
    }
}
