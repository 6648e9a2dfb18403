//! Folders that were sent from elsewhere: `STATE/sources`.
//!
//! | path | what |
//! |---|---|
//! | `contents/DIGEST` | what a file holds, sent and not yet put into its place |
//! | `ENV/APP/DIGEST.json` | what a folder is made of |
//! | `ENV/APP/DIGEST/` | the folder, whole |
//!
//! Contents are told by their digest: what has arrived once is not sent again, and who was cut off goes on where it was.
//! The app belongs to `ENV/APP`, whichever folder below it was sent last.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, Digest, EnvName};
use bowline_core::source::{Entry, MAX_BYTES, Manifest};
use bowline_core::units::Bytes;
use http_body_util::BodyExt;
use sha2::{Digest as _, Sha256};

/// How long what was sent is kept without having come to anything.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// How long a folder is kept after another one was sent for the app: a build may still read it.
const REPLACED: Duration = Duration::from_secs(3_600);
/// Left free on the disk, whatever is sent.
const RESERVE: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub(crate) struct Sources {
    dir: PathBuf,
}

impl Sources {
    pub(crate) fn new(state: &Path) -> Self {
        Self { dir: state.join("sources") }
    }

    /// What is missing of a folder. Blocks.
    pub(crate) fn offer(&self, key: &AppKey, manifest: &Manifest) -> Result<wire::Offered, Fault> {
        let source = digest(manifest);
        let place = self.app(key);
        let offered = || -> io::Result<Vec<(Digest, u64)>> {
            make(&place)?;
            make(&self.contents())?;
            remove_older(&self.contents(), KEPT, |_| false)?;
            let text = serde_json::to_vec(&wire::Source::from(manifest)).map_err(io::Error::other)?;
            write_whole(&place.join(format!("{source}.json")), &text)?;
            let there = self.found(key);
            let is_there =
                |content: &Digest| there.contains_key(content) || self.contents().join(content.to_string()).exists();
            Ok(manifest.contents().into_iter().filter(|(content, _)| !is_there(content)).collect())
        };
        let missing = offered().map_err(|error| failed(key, "take", &error))?;
        let needed: u64 = missing.iter().map(|(_, size)| size).sum();
        self.room(key, needed)?;
        let missing = missing.into_iter().map(|(content, _)| content.to_string()).collect();
        Ok(wire::Offered { source: source.to_string(), missing })
    }

    /// Each is there twice while its folder is put together.
    fn room(&self, key: &AppKey, needed: u64) -> Result<(), Fault> {
        let disk = nix::sys::statvfs::statvfs(&self.dir).map_err(|error| failed(key, "take", &error.into()))?;
        let free = disk.blocks_available() * disk.fragment_size();
        if needed.saturating_mul(2).saturating_add(RESERVE) <= free {
            return Ok(());
        }
        Err(Fault::new(FaultKind::Refused, format!("there is no room for the source of {key}"))
            .caused_by(format!("it has {} to be sent, and {} are free", Bytes(needed), Bytes(free)))
            .hint("leave out what is not needed with .bowlineignore, or make room on the machine"))
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
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| fault("it did not arrive whole").source(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            size += data.len() as u64;
            if size > MAX_BYTES {
                return Err(fault("it is larger than any source may be"));
            }
            hash.update(&data);
            tokio::io::AsyncWriteExt::write_all(&mut file, &data).await.map_err(|error| unwritten(&error))?;
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(|error| unwritten(&error))?;
        if Digest(hash.finalize().into()) != content {
            return Err(Fault { kind: FaultKind::Invalid, ..fault("it is something else") }
                .hint("did the file change while it was sent? run the command again"));
        }
        temporary.rename(&folder.join(content.to_string())).map_err(|error| unwritten(&error))
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
        if !folder.is_dir() {
            self.assemble(key, &manifest, &folder)?;
        }
        let tidied = touch(&folder).and_then(|()| remove_older(&place, REPLACED, |file| file.starts_with(&name)));
        if let Err(error) = tidied {
            tracing::warn!(app = %key, %error, "older sources are left");
        }
        for content in manifest.contents().keys() {
            // Another app's folder may need it, too; it is sent again.
            let _ = fs::remove_file(self.contents().join(content.to_string()));
        }
        Ok(wire::Placed { dir: folder.display().to_string() })
    }

    /// Beside its place first: it appears whole or not at all.
    fn assemble(&self, key: &AppKey, manifest: &Manifest, folder: &Path) -> Result<(), Fault> {
        let there = self.found(key);
        let missing = |content: &Digest| {
            Fault::new(FaultKind::Invalid, format!("content {} of {key} was not sent", content.short()))
                .hint("run the command again: it goes on where it was")
        };
        let new = tempfile::Builder::new().prefix("new-").tempdir_in(self.app(key));
        let new = new.map_err(|error| failed(key, "put together", &error))?;
        for (path, entry) in manifest.entries() {
            let target = new.path().join(path);
            let made = match entry {
                Entry::Folder => DirBuilder::new().mode(0o755).create(&target),
                Entry::Link(to) => symlink(to, &target),
                Entry::File { executable, content, .. } => {
                    let sent = self.contents().join(content.to_string());
                    let from = if sent.exists() { Some(&sent) } else { there.get(content) };
                    let from = from.ok_or_else(|| missing(content))?;
                    copy(from, &target, *executable, content).and_then(|same| match same {
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
        let put = fs::set_permissions(new.path(), Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(new.path(), folder));
        match put {
            Ok(()) => Ok(()),
            // Another command has sent the same.
            Err(_) if folder.is_dir() => Ok(()),
            Err(error) => Err(failed(key, "put together", &error)),
        }
    }

    fn contents(&self) -> PathBuf {
        self.dir.join("contents")
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

/// Whether what was copied has the digest.
fn copy(from: &Path, to: &Path, executable: bool, content: &Digest) -> io::Result<bool> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut source = File::open(from)?;
    let mut target = File::options().write(true).create_new(true).mode(mode).open(to)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match io::Read::read(&mut source, &mut buffer)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                target.write_all(&buffer[..n])?;
            }
        }
    }
    target.set_permissions(Permissions::from_mode(mode))?;
    Ok(Digest(hash.finalize().into()) == *content)
}

/// Removes what has not changed for so long.
fn remove_older(folder: &Path, age: Duration, is_kept: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let is_old = meta.modified()?.elapsed().is_ok_and(|since| since > age);
        if !is_old || is_kept(&entry.file_name().to_string_lossy()) {
            continue;
        }
        match meta.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
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
        let path = folder.join(format!("new-{random:016x}"));
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
            // The next one that is offered something removes it.
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
        let (sources, key) = (Sources::new(state.path()), key("a"));
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
        assert_eq!(fs::read_dir(sources.contents()).unwrap().count(), 0, "nothing is kept twice");
        assert_eq!(sources.place(&key, source).unwrap().dir, placed.display().to_string(), "the same again");

        let second = manifest(&[("a", "one"), ("sub/b", "three")]);
        let offered = sources.offer(&key, &second).unwrap();
        assert_eq!(offered.missing, [content("three").to_string()]);
        fs::write(placed.join("a"), "bad").unwrap();
        sources.put(content("three"), Body::from("three")).await.unwrap();
        let spoilt = sources.place(&key, offered.source.parse().unwrap()).unwrap_err();
        assert!(spoilt.causes[0].contains("not what it was"), "{spoilt:?}");
        assert_eq!(sources.offer(&key, &second).unwrap().missing.len(), 1, "it is sent anew");
    }

    #[test]
    fn a_folder_says_whose_source_it_is() {
        let state = tempfile::tempdir().unwrap();
        let sources = Sources::new(state.path());
        sources.offer(&key("a"), &manifest(&[("sub/b", "x")])).unwrap();
        let place = fs::canonicalize(sources.app(&key("a"))).unwrap();
        let folder = place.join(content("x").to_string());
        assert_eq!(owner(state.path(), &folder), Some((place.clone(), key("a"))));
        assert_eq!(owner(state.path(), &place), None);
        assert_eq!(owner(state.path(), Path::new("/srv/app")), None);
        let other = sources.place(&key("a"), content("never offered")).unwrap_err();
        assert_eq!(other.kind, FaultKind::Invalid);
    }

    #[test]
    fn what_is_old_goes_but_for_what_is_used() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["old", "kept", "young"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        for name in ["old", "kept"] {
            let file = File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
        }
        remove_older(folder.path(), Duration::from_secs(50), |name| name == "kept").unwrap();
        let left: BTreeSet<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["kept".into(), "young".into()].into());
    }
}
