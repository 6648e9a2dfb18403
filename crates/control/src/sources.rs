//! Folders that were sent from elsewhere: `STATE/sources`.
//!
//! | path | what |
//! |---|---|
//! | `.contents/DIGEST` | what a file holds, as it was sent; no environment has that name |
//! | `ENV/APP/DIGEST.json` | what a folder is made of |
//! | `ENV/APP/DIGEST/` | the folder, whole |
//!
//! Contents are told by their digest: what has arrived once is not sent again, and who was cut off goes on where it was.
//! The app belongs to `ENV/APP`, whichever folder below it was sent last.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, Digest, EnvName};
use bowline_core::source::{Entry, MAX_BYTES, Manifest};
use bowline_core::units::Bytes;
use bowline_fault_points::{Point, reach};
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};

/// How long what was sent is kept after it was last asked for: whoever was cut off goes on, and what several apps have
/// is sent once.
const KEPT: Duration = Duration::from_secs(3_600);
/// So many folders of an app are kept for that long, to copy from.
const FOLDERS: usize = 3;
/// How long the others are: a build may still read one.
const READ: Duration = Duration::from_secs(15 * 60);
/// Of what is not whole yet.
const NEW: &str = "new-";
/// Left free on the disk, whatever is sent.
const RESERVE: u64 = 1 << 30;
/// After so many bytes of a content it is looked whether that is still so.
const LOOK: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Sources {
    dir: PathBuf,
}

impl Sources {
    /// Of a daemon that has the state for itself: what an earlier one did not finish goes.
    pub(crate) fn open(state: &Path) -> Self {
        let sources = Self { dir: state.join("sources") };
        let environments = folders(&sources.dir);
        let unfinished = environments.iter().flat_map(|folder| folders(folder)).chain([sources.contents()]);
        for folder in unfinished {
            if let Err(error) = remove(&folder, |entry| entry.name.starts_with(NEW)) {
                tracing::warn!(folder = %folder.display(), %error, "what was sent by half is left");
            }
        }
        sources
    }

    /// What is missing of a folder. Blocks.
    pub(crate) fn offer(&self, key: &AppKey, manifest: &Manifest) -> Result<wire::Offered, Fault> {
        let source = digest(manifest);
        let place = self.app(key);
        let offered = || -> io::Result<Vec<(Digest, u64)>> {
            make(&place)?;
            make(&self.contents())?;
            remove(&self.contents(), |entry| entry.age > KEPT)?;
            let text = serde_json::to_vec(&wire::Source::from(manifest)).map_err(io::Error::other)?;
            write_whole(&place.join(format!("{source}.json")), &text)?;
            let there = self.found(key);
            // What is asked for is not old, whenever it was sent.
            let is_there = |content: &Digest| there.contains_key(content) || touch(&self.sent(content)).is_ok();
            Ok(manifest.contents().into_iter().filter(|(content, _)| !is_there(content)).collect())
        };
        let missing = offered().map_err(|error| failed(key, "take", &error))?;
        reach(Point::SourceOffered);
        let sent: u64 = missing.iter().map(|(_, size)| size).sum();
        self.room(key, sent.saturating_add(manifest.bytes()))?;
        let missing = missing.into_iter().map(|(content, _)| content.to_string()).collect();
        Ok(wire::Offered { source: source.to_string(), missing })
    }

    /// `needed`: of what is sent, and of the folder, in bytes.
    fn room(&self, key: &AppKey, needed: u64) -> Result<(), Fault> {
        let free = self.free().map_err(|error| failed(key, "take", &error))?;
        if needed.saturating_add(RESERVE) <= free {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Refused, format!("there is no room for the source of {key}"))
            .caused_by(format!("it needs {}, and {} are free", Bytes(needed), Bytes(free)))
            .hint("leave out what is not needed with .bowlineignore, or make room on the machine"))
    }

    /// On the disk, in bytes.
    fn free(&self) -> io::Result<u64> {
        let disk = nix::sys::statvfs::statvfs(&self.dir)?;
        Ok(disk.blocks_available() * disk.fragment_size())
    }

    /// Takes what a file holds, and nothing but what its digest says.
    pub(crate) async fn put(&self, content: Digest, body: Body) -> Result<(), Fault> {
        let fault = |what: &str| {
            Fault::new(FaultKind::Failed, format!("content {} cannot be taken", content.short())).caused_by(what)
        };
        let unwritten =
            |error: &io::Error| fault("it cannot be written").source(error).hint("look at the disk's space");
        let folder = self.contents();
        let temporary = make(&folder).and_then(|()| Temporary::new(&folder)).map_err(|error| unwritten(&error))?;
        let mut file = tokio::fs::File::from_std(temporary.file.try_clone().map_err(|error| unwritten(&error))?);
        let (mut hash, mut size, mut body) = (Sha256::new(), 0_u64, body);
        let mut looked = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| fault("it did not arrive whole").source(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            size += data.len() as u64;
            if size > MAX_BYTES {
                return Err(fault("it is larger than any source may be"));
            }
            if size >= looked {
                // What comes need not have been offered.
                if self.free().map_err(|error| unwritten(&error))? < RESERVE {
                    return Err(Fault { kind: FaultKind::Refused, ..fault("there is no room on the disk") });
                }
                looked = size + LOOK;
            }
            hash.update(&data);
            tokio::io::AsyncWriteExt::write_all(&mut file, &data).await.map_err(|error| unwritten(&error))?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(|error| unwritten(&error))?;
        if Digest(hash.finalize().into()) != content {
            return Err(Fault { kind: FaultKind::Invalid, ..fault("it is something else") }
                .hint("did the file change while it was sent? run the command again"));
        }
        reach(Point::ContentArrived);
        temporary.rename(&self.sent(&content)).map_err(|error| unwritten(&error))
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
        let tidied = touch(&folder).and_then(|()| {
            remove(&place, |entry| {
                !entry.name.starts_with(&name) && (entry.age > KEPT || (entry.rank >= FOLDERS && entry.age > READ))
            })
        });
        if let Err(error) = tidied {
            tracing::warn!(app = %key, %error, "older sources are left");
        }
        reach(Point::SourcePlaced);
        Ok(wire::Placed { dir: folder.display().to_string() })
    }

    /// Beside its place first: it appears whole or not at all.
    fn assemble(&self, key: &AppKey, manifest: &Manifest, folder: &Path) -> Result<(), Fault> {
        let there = self.found(key);
        let missing = |content: &Digest| {
            Fault::new(FaultKind::Invalid, format!("content {} of {key} was not sent", content.short()))
                .hint("run the command again: it goes on where it was")
        };
        let new = tempfile::Builder::new().prefix(NEW).tempdir_in(self.app(key));
        let new = new.map_err(|error| failed(key, "put together", &error))?;
        for (path, entry) in manifest.entries() {
            let target = new.path().join(path);
            let made = match entry {
                Entry::Folder => DirBuilder::new().mode(0o755).create(&target),
                Entry::Link(to) => symlink(to, &target),
                Entry::File { executable, content, size } => {
                    let sent = self.sent(content);
                    let from = if sent.exists() { Some(&sent) } else { there.get(content) };
                    let from = from.ok_or_else(|| missing(content))?;
                    copy(from, &target, *executable, (content, *size)).and_then(|same| match same {
                        true => Ok(()),
                        // It is asked for the next time.
                        false => fs::remove_file(from).and_then(|()| {
                            Err(io::Error::other(format!("{path} is not what it was; it is sent anew next time")))
                        }),
                    })
                }
            };
            made.map_err(|error| failed(key, "put together", &error))?;
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
            Err(error) => Err(failed(key, "put together", &error)),
        }
    }

    fn sent(&self, content: &Digest) -> PathBuf {
        self.contents().join(content.to_string())
    }

    fn contents(&self) -> PathBuf {
        self.dir.join(".contents")
    }

    fn app(&self, key: &AppKey) -> PathBuf {
        self.dir.join(key.env.as_str()).join(key.app.as_str())
    }

    /// What the app's folders hold already. That it still is what it was is looked at when it is used.
    fn found(&self, key: &AppKey) -> BTreeMap<Digest, PathBuf> {
        let place = self.app(key);
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&place).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            let manifest = read_manifest(&entry.path().with_extension("json"));
            for (path, one) in manifest.iter().flat_map(|manifest| manifest.entries()) {
                if let Entry::File { content, size, .. } = one {
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
    Digest(Sha256::digest(manifest.canonical()).into())
}

fn read_manifest(path: &Path) -> Option<Manifest> {
    let source: wire::Source = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
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

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = Temporary::new(path.parent().unwrap_or(Path::new(".")))?;
    temporary.file.write_all(content)?;
    temporary.rename(path)
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
    for (touched, is_dir, entry) in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A clock that was set back makes nothing old.
        let old = Old { name, age: touched.elapsed().unwrap_or_default(), rank };
        rank += usize::from(is_dir);
        if is_chosen(&old) {
            let removed = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
            removed.or_else(gone_is_fine)?;
        }
    }
    Ok(())
}

/// A file that is gone unless it gets a name.
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

    fn key(app: &str) -> AppKey {
        AppKey { env: EnvName::new("production").unwrap(), app: AppName::new(app).unwrap() }
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

    #[tokio::test]
    async fn what_was_sent_once_is_not_asked_for_again() {
        let state = tempfile::tempdir().unwrap();
        let (sources, key) = (Sources::open(state.path()), key("a"));
        let first = manifest(&[("a", "one"), ("sub/b", "#!two"), ("same", "one")]);
        let offered = sources.offer(&key, &first).unwrap();
        let source: Digest = offered.source.parse().unwrap();
        assert_eq!(
            BTreeSet::from_iter(offered.missing),
            [content("one"), content("#!two")].map(|c| c.to_string()).into()
        );
        sources.put(content("one"), Body::from("one")).await.unwrap();
        assert_eq!(sources.offer(&key, &first).unwrap().missing, [content("#!two").to_string()], "cut off, it goes on");
        assert!(sources.place(&key, source).unwrap_err().message.contains("was not sent"));
        assert_eq!(sources.put(content("#!two"), Body::from("other")).await.unwrap_err().kind, FaultKind::Invalid);
        sources.put(content("#!two"), Body::from("#!two")).await.unwrap();
        let placed = PathBuf::from(sources.place(&key, source).unwrap().dir);
        assert_eq!(fs::read_to_string(placed.join("link")).unwrap(), "#!two");
        let mode = |name: &str| fs::metadata(placed.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("sub/b"), mode("same")), (0o644, 0o755, 0o644));
        assert_eq!(sources.place(&key, source).unwrap().dir, placed.display().to_string(), "the same again");

        let second = manifest(&[("a", "one"), ("sub/b", "three")]);
        let offered = sources.offer(&key, &second).unwrap();
        assert_eq!(offered.missing, [content("three").to_string()]);
        sources.put(content("three"), Body::from("three")).await.unwrap();
        // Of what was sent for the first one nothing is left but its folder, and that is spoilt.
        fs::remove_file(sources.sent(&content("one"))).unwrap();
        fs::write(placed.join("a"), "bad").unwrap();
        fs::write(placed.join("same"), "bad").unwrap();
        let second_source: Digest = offered.source.parse().unwrap();
        let spoilt = sources.place(&key, second_source).unwrap_err();
        assert!(spoilt.causes[0].contains("not what it was"), "{spoilt:?}");
    }

    #[test]
    fn a_folder_says_whose_source_it_is() {
        let state = tempfile::tempdir().unwrap();
        let sources = Sources::open(state.path());
        sources.offer(&key("a"), &manifest(&[("sub/b", "x")])).unwrap();
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
        let (sources, key) = (Sources::open(state.path()), key("a"));
        let manifest = manifest(&[("a", "one"), ("sub/b", "two")]);
        let send = async || {
            loop {
                let offered = sources.offer(&key, &manifest).unwrap();
                for missing in &offered.missing {
                    let text = if *missing == content("one").to_string() { "one" } else { "two" };
                    sources.put(missing.parse().unwrap(), Body::from(text)).await.unwrap();
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
            fs::remove_dir_all(sources.contents()).unwrap();
            make(&sources.contents()).unwrap();
            assert!(is_whole(&send().await, &manifest));
        }
        assert_eq!(folders(&sources.app(&key)), [placed], "nothing else is left");
    }

    #[tokio::test]
    async fn a_size_is_what_it_is_said_to_be() {
        let state = tempfile::tempdir().unwrap();
        let sources = Sources::open(state.path());
        let file = Entry::File { executable: false, size: 0, content: content("large") };
        let liar = Manifest::new([("a".to_owned(), file)].into()).unwrap();
        let offered = sources.offer(&key("a"), &liar).unwrap();
        sources.put(content("large"), Body::from("large")).await.unwrap();
        assert!(sources.place(&key("a"), offered.source.parse().unwrap()).is_err());
    }

    #[test]
    fn what_is_old_goes_and_what_was_not_finished() {
        let state = tempfile::tempdir().unwrap();
        let sources = Sources::open(state.path());
        let app = sources.app(&key("a"));
        for folder in ["one", "two", "new-three"] {
            fs::create_dir_all(app.join(folder)).unwrap();
        }
        make(&sources.contents()).unwrap();
        fs::write(sources.contents().join("new-1"), "").unwrap();
        let hour = SystemTime::now() - Duration::from_secs(3_600);
        File::open(app.join("one")).unwrap().set_modified(hour).unwrap();
        let sources = Sources::open(state.path());
        let mut left = folders(&app);
        left.sort();
        assert_eq!(left, [app.join("one"), app.join("two")]);
        assert_eq!(fs::read_dir(sources.contents()).unwrap().count(), 0);
        remove(&app, |entry| entry.rank >= 1 && entry.age > Duration::from_secs(60)).unwrap();
        assert_eq!(folders(&app), [app.join("two")]);
        remove(&state.path().join("nowhere"), |_| true).unwrap();
    }
}
