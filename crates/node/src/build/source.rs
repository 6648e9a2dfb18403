//! The source of a build: which files belong to it, what they contain, and a copy of them.
//!
//! Architecture invariant: nothing outside the folder is read. Every file is opened below the folder's descriptor
//! without following a link, so a folder that changes under the reader cannot lead it elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::units::Bytes;
use ignore::{DirEntry, WalkBuilder};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use sha2::{Digest as _, Sha256};

use super::hashes::{Hashes, Stat};

/// Ours, beside `.gitignore`; its patterns win, so `!dist` brings back what git leaves out.
pub(super) const IGNORE_FILE: &str = ".bowlineignore";

/// An app's source is code: a folder with more files holds something that was installed or generated, and copying it
/// for each release would fill the disk unseen.
const MAX_FILES: usize = 50_000;

/// Beyond this it is data, which belongs on a volume, not in each release.
const MAX_BYTES: u64 = 2 << 30;

/// Patterns, not data; they are read whole.
const MAX_IGNORE_FILE: u64 = 1 << 20;

/// One read: large enough that the system call does not count, small enough for a thread's stack.
const CHUNK: usize = 64 << 10;

/// Version control and what an editor or an interpreter leaves behind. Never part of a release.
const LEFT_OUT: [&str; 6] = [".git", ".hg", ".svn", "__pycache__", ".DS_Store", IGNORE_FILE];

/// What git leaves out of a repository.
const GIT_IGNORE: &str = ".gitignore";

/// What makes a folder a virtual environment of Python.
const VENV: &str = "pyvenv.cfg";

/// What cargo, pytest, mypy and others write into a folder that can be made again. <https://bford.info/cachedir/>
const CACHE_FILE: &str = "CACHEDIR.TAG";
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Which part of which folder is built.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The folder of `bowline.toml`, whose ignore files hold for `dir` too.
    pub base: PathBuf,
    /// Below `base`, as written; `.` for all of it.
    pub dir: String,
    /// Nothing left out here, even if somebody keeps the state inside the folder.
    pub state_dir: PathBuf,
    /// A build command will install them again.
    pub without_node_modules: bool,
    /// `.bowlineignore` itself, for whoever reads the folder again elsewhere.
    pub with_ignore_files: bool,
    /// It holds what was built: nothing is left out because it could be made again, and nothing comes that would say so where it is read next.
    pub built: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File {
        executable: bool,
        size: u64,
        hash: [u8; 32],
    },
    /// Leads to a place within the folder.
    Link(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Below the source's root.
    pub path: PathBuf,
    pub kind: Kind,
}

/// A folder as it was read at one moment.
#[derive(Debug)]
pub(super) struct Source {
    pub root: PathBuf,
    /// Sorted by path, a folder before what is in it.
    pub entries: Vec<Entry>,
}

/// The names in a folder: what detection decides by.
#[derive(Debug)]
pub(super) struct Listing {
    pub root: PathBuf,
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("folder {0} cannot be read")]
    Folder(PathBuf, #[source] io::Error),
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] io::Error),
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] io::Error),
    #[error("{0} cannot be searched")]
    Walk(PathBuf, #[source] ignore::Error),
    /// Not by its path: of what was sent that lies in a server's state.
    #[error("dir = {0:?} names nothing beside bowline.toml")]
    DirMissing(String),
    #[error("dir = {dir:?} leads out of {base}")]
    DirEscapes { dir: String, base: PathBuf },
    #[error("folder {0} is left out by .gitignore or .bowlineignore")]
    DirIgnored(PathBuf),
    #[error("symbolic link {path} leads out of the folder, to {target}")]
    LinkEscapes { path: PathBuf, target: PathBuf },
    #[error("{path} is a {what}, which cannot be part of a release")]
    Special { path: PathBuf, what: &'static str },
    #[error("{path} cannot say what is left out: it is {what}")]
    IgnoreFile { path: PathBuf, what: String },
    #[error("{root} holds more than {MAX_FILES} files; most of them are in {largest:?}")]
    TooManyFiles { root: PathBuf, largest: OsString },
    #[error("{root} holds more than {}; most of it is in {largest:?}", Bytes(MAX_BYTES))]
    TooLarge { root: PathBuf, largest: OsString },
    /// `is_all`: it is the whole source.
    #[error("{path} is a virtual environment, which works only where it was made")]
    Venv { path: PathBuf, is_all: bool },
    #[error("{0} changed while it was copied")]
    Changed(PathBuf),
    #[error("the build was cancelled")]
    Cancelled,
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        let hint = match &error {
            SourceError::DirIgnored(dir) => {
                let name = dir.file_name().unwrap_or_default().to_string_lossy();
                Some(format!("write `!{name}` into {IGNORE_FILE} to bring it back"))
            }
            SourceError::Venv { is_all: true, .. } => {
                Some("install the packages into a folder (pip install --target), beside what runs".to_owned())
            }
            SourceError::Venv { path, is_all: false } => Some(format!(
                "install the packages into a folder (pip install --target), or leave it out with `{}` in {IGNORE_FILE}",
                path.file_name().unwrap_or_default().to_string_lossy()
            )),
            SourceError::DirMissing(_) => Some(
                "check the service's `dir`; an artifact has the folders that bowline.toml names, as the app has"
                    .to_owned(),
            ),
            SourceError::DirEscapes { .. } => Some("write a folder below that of bowline.toml".to_owned()),
            SourceError::LinkEscapes { path, .. } => {
                Some(format!("copy the file in, or leave the link out with `{}` in {IGNORE_FILE}", path.display()))
            }
            SourceError::Special { path, .. } => {
                Some(format!("leave it out with `{}` in {IGNORE_FILE}", path.display()))
            }
            SourceError::IgnoreFile { .. } => {
                Some("make it a text file with one pattern per line, or remove it".to_owned())
            }
            SourceError::TooManyFiles { largest, .. } | SourceError::TooLarge { largest, .. } => Some(format!(
                "leave out what is data or can be built again, for example with `{}` in {IGNORE_FILE}; data belong on a volume",
                largest.display()
            )),
            SourceError::Write(_, e) if is_full(e) => {
                Some("free space on that disk, or choose another --state".to_owned())
            }
            SourceError::Folder(_, e) | SourceError::File(_, e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Some("make it readable for the user that runs Bowline".to_owned())
            }
            SourceError::File(path, e) if e.raw_os_error() == Some(libc::ELOOP) => {
                Some(format!("let the link lead to a file, or leave it out with `{}` in {IGNORE_FILE}", path.display()))
            }
            SourceError::Changed(_) => Some("try again when nothing writes there".to_owned()),
            SourceError::Folder(..)
            | SourceError::File(..)
            | SourceError::Write(..)
            | SourceError::Walk(..)
            | SourceError::Cancelled => None,
        };
        let is_theirs = !matches!(&error, SourceError::Write(..) | SourceError::Changed(_) | SourceError::Cancelled);
        let kind = if is_theirs { FaultKind::Invalid } else { FaultKind::Failed };
        let mut fault = Fault::new(kind, error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            fault = fault.source(source);
        }
        fault.hint = hint;
        fault
    }
}

/// The disk, or this user's share of it, has no room left.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Tells a blocking copy that nobody waits for it any more.
pub(super) type Cancel = AtomicBool;

/// Reads the folder: names, modes and contents of all that belongs to it.
pub(super) fn scan(wanted: &Wanted, hashes: &mut Hashes, cancel: &Cancel) -> Result<Source, SourceError> {
    let root = root(wanted)?;
    let found = walk(wanted, &root)?;
    let folder = open_root(&root)?;
    let mut entries = Vec::with_capacity(found.len());
    for Found { path, metadata } in found {
        if cancel.load(Ordering::Relaxed) {
            return Err(SourceError::Cancelled);
        }
        let kind = match metadata.file_type() {
            t if t.is_dir() => Kind::Folder,
            t if t.is_symlink() => Kind::Link(read_link(&root, &path)?),
            _ => read_file(&folder, &path, hashes)?,
        };
        entries.push(Entry { path, kind });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Source { root, entries })
}

/// Lists the folder without reading any content.
pub(super) fn list(wanted: &Wanted) -> Result<Listing, SourceError> {
    let root = root(wanted)?;
    let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for Found { path, metadata } in walk(wanted, &root)? {
        match metadata.file_type() {
            kind if kind.is_dir() => _ = folders.insert(path),
            kind if kind.is_file() => _ = files.insert(path),
            _ => {}
        }
    }
    Ok(Listing { root, files, folders })
}

impl Listing {
    /// Below the root, sorted.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    pub(super) fn has_file(&self, path: impl AsRef<Path>) -> bool {
        self.files.contains(path.as_ref())
    }

    pub(super) fn has_folder(&self, path: &Path) -> bool {
        self.folders.contains(path)
    }

    /// The text of a small file; `None` if it is not part of the folder.
    pub(super) fn read_text(&self, path: &Path, limit: u64) -> Result<Option<String>, SourceError> {
        if !self.has_file(path) {
            return Ok(None);
        }
        let file = open_below(&open_root(&self.root)?, path)?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|e| SourceError::File(path.to_owned(), e))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl Source {
    /// The names of all that belongs to it.
    pub(super) fn listing(&self) -> Listing {
        let entries = self.entries.iter().map(|entry| (entry.path.clone(), matches!(entry.kind, Kind::File { .. })));
        let (files, others) = entries.partition::<Vec<_>, _>(|(_, is_file)| *is_file);
        let folders = others.into_iter().filter(|(path, _)| self.is_folder(path));
        Listing {
            root: self.root.clone(),
            files: files.into_iter().map(|(path, _)| path).collect(),
            folders: folders.map(|(path, _)| path).collect(),
        }
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.entries
            .binary_search_by(|e| e.path.as_path().cmp(path))
            .is_ok_and(|i| self.entries[i].kind == Kind::Folder)
    }

    /// Feeds paths, modes and contents to a hash. Each field has its length before it, so no two sources collide.
    pub(super) fn feed(&self, hash: &mut Sha256) {
        for entry in &self.entries {
            field(hash, entry.path.as_os_str().as_bytes());
            match &entry.kind {
                Kind::Folder => field(hash, b"folder"),
                Kind::File { executable, hash: content, .. } => {
                    field(hash, if *executable { b"program" } else { b"file" });
                    field(hash, content);
                }
                Kind::Link(target) => {
                    field(hash, b"link");
                    field(hash, target.as_os_str().as_bytes());
                }
            }
        }
    }

    /// Copies everything to `to`, an empty folder. Times of files are kept, so that `Last-Modified` means something;
    /// modes become 0755 and 0644.
    ///
    /// # Errors
    /// `Changed` if a file is not what `scan` saw: the copy would not be what its digest says.
    pub(super) fn copy(&self, to: &Path, cancel: &Cancel) -> Result<(), SourceError> {
        let folder = open_root(&self.root)?;
        for entry in &self.entries {
            if cancel.load(Ordering::Relaxed) {
                return Err(SourceError::Cancelled);
            }
            let target = to.join(&entry.path);
            let written = |e| SourceError::Write(target.clone(), e);
            match &entry.kind {
                Kind::Folder => fs::create_dir(&target).map_err(written)?,
                Kind::Link(link) => std::os::unix::fs::symlink(link, &target).map_err(written)?,
                Kind::File { executable, hash, .. } => copy_file(&folder, &entry.path, &target, *executable, hash)?,
            }
        }
        Ok(())
    }
}

/// Adds one length-prefixed field to a hash.
pub(super) fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn root(wanted: &Wanted) -> Result<PathBuf, SourceError> {
    let canonical = |path: &Path| fs::canonicalize(path).map_err(|e| SourceError::Folder(path.to_owned(), e));
    let base = canonical(&wanted.base)?;
    let root = match canonical(&base.join(&wanted.dir)) {
        Err(SourceError::Folder(_, e)) if e.kind() == io::ErrorKind::NotFound => {
            return Err(SourceError::DirMissing(wanted.dir.clone()));
        }
        root => root?,
    };
    match root.starts_with(&base) {
        true if root.is_dir() => Ok(root),
        true => Err(SourceError::Folder(root, io::Error::from(io::ErrorKind::NotADirectory))),
        false => Err(SourceError::DirEscapes { dir: wanted.dir.clone(), base }),
    }
}

struct Found {
    path: PathBuf,
    metadata: Metadata,
}

/// Lists what belongs to `root`, without reading any content.
fn walk(wanted: &Wanted, root: &Path) -> Result<Vec<Found>, SourceError> {
    let base = fs::canonicalize(&wanted.base).map_err(|e| SourceError::Folder(wanted.base.clone(), e))?;
    let mut builder = WalkBuilder::new(&base);
    builder
        .hidden(false)
        .parents(false)
        .ignore(false)
        .git_global(false)
        .git_exclude(false)
        .require_git(false)
        .git_ignore(!wanted.built);
    builder.add_custom_ignore_filename(IGNORE_FILE).follow_links(false);
    let (within, state) = (root.to_owned(), fs::canonicalize(&wanted.state_dir).ok());
    let (without_node_modules, with_ignore_files) = (wanted.without_node_modules, wanted.with_ignore_files);
    let built = wanted.built;
    // The walk opens and reads ignore files itself, whatever they are: a pipe would block it, a device never end.
    check_ignore_files(&base)?;
    if built && root.join(VENV).is_file() {
        return Err(SourceError::Venv { path: root.to_owned(), is_all: true });
    }
    let unreadable = Arc::new(Mutex::new(None));
    let refused = Arc::clone(&unreadable);
    builder.filter_entry(move |entry| {
        let on_the_way = within.starts_with(entry.path());
        let wanted = entry.path().starts_with(&within) && state.as_deref() != Some(entry.path());
        let enter = on_the_way
            || (wanted && !is_left_out(entry, without_node_modules, built))
            || (with_ignore_files && entry.file_name() == IGNORE_FILE);
        let checked = match built && entry.path().join(VENV).is_file() {
            true => Err(SourceError::Venv { path: entry.path().to_owned(), is_all: false }),
            false => check_ignore_files(entry.path()),
        };
        match checked {
            Err(error) if enter => {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                false
            }
            Ok(()) | Err(_) => enter,
        }
    });
    let mut tally = Tally::default();
    let (mut found, mut seen_root) = (Vec::new(), false);
    for entry in builder.build() {
        let entry = entry.map_err(|e| SourceError::Walk(root.to_owned(), e))?;
        let Ok(path) = entry.path().strip_prefix(root) else { continue };
        if path.as_os_str().is_empty() {
            seen_root = true;
            continue;
        }
        let metadata = entry.metadata().map_err(|e| SourceError::Walk(entry.path().to_owned(), e))?;
        tally.add(root, path, &metadata)?;
        found.push(Found { path: path.to_owned(), metadata });
    }
    if let Some(error) = unreadable.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    match seen_root {
        true => Ok(found),
        false => Err(SourceError::DirIgnored(root.to_owned())),
    }
}

/// Whether the ignore files of a folder are files of a size that can be read.
fn check_ignore_files(folder: &Path) -> Result<(), SourceError> {
    for name in [IGNORE_FILE, GIT_IGNORE] {
        let path = folder.join(name);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let what = match metadata.file_type() {
            t if t.is_file() && metadata.len() <= MAX_IGNORE_FILE => continue,
            t if t.is_file() => format!("larger than {}", Bytes(MAX_IGNORE_FILE)),
            t if t.is_dir() => continue,
            _ => format!("a {}", special(metadata.mode())),
        };
        return Err(SourceError::IgnoreFile { path, what });
    }
    Ok(())
}

/// What no release needs, whatever the ignore files say.
fn is_left_out(entry: &DirEntry, without_node_modules: bool, built: bool) -> bool {
    let name = entry.file_name();
    if LEFT_OUT.iter().any(|left_out| name == OsStr::new(left_out)) || is_env_file(name) {
        return true;
    }
    if !entry.file_type().is_some_and(|t| t.is_dir()) {
        return built && [GIT_IGNORE, CACHE_FILE].iter().any(|said| name == OsStr::new(said));
    }
    if built {
        return false;
    }
    (without_node_modules && name == OsStr::new("node_modules"))
        || entry.path().join(VENV).is_file()
        || is_cache(entry.path())
}

/// `.env` and its variants hold secrets of a developer's machine; an example of one does not.
fn is_env_file(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    match name.strip_prefix(".env") {
        Some("") => true,
        Some(rest) => rest.starts_with('.') && !matches!(rest, ".example" | ".sample" | ".template" | ".dist"),
        None => false,
    }
}

fn is_cache(folder: &Path) -> bool {
    let mut start = [0; CACHE_TAG.len()];
    // A pipe of this name must not be waited for.
    let tag = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(folder.join(CACHE_FILE));
    tag.and_then(|mut f| f.read_exact(&mut start)).is_ok() && start == CACHE_TAG
}

/// Counts against the bounds, by the first part of the path, so that an error can name the culprit.
#[derive(Default)]
struct Tally {
    files: usize,
    bytes: u64,
    by_name: BTreeMap<OsString, (usize, u64)>,
}

impl Tally {
    fn add(&mut self, root: &Path, path: &Path, metadata: &Metadata) -> Result<(), SourceError> {
        let size = if metadata.is_file() { metadata.len() } else { 0 };
        let name = path.iter().next().unwrap_or_default();
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), (0, 0));
        }
        let by_name = self.by_name.get_mut(name).expect("it was just inserted");
        *by_name = (by_name.0 + 1, by_name.1 + size);
        self.files += 1;
        self.bytes += size;
        let largest = |by: fn(&(usize, u64)) -> u64| {
            let most = self.by_name.iter().max_by_key(|(_, sums)| by(sums));
            most.map(|(name, _)| name.clone()).unwrap_or_default()
        };
        match () {
            () if self.files > MAX_FILES => {
                Err(SourceError::TooManyFiles { root: root.to_owned(), largest: largest(|s| s.0 as u64) })
            }
            () if self.bytes > MAX_BYTES => {
                Err(SourceError::TooLarge { root: root.to_owned(), largest: largest(|s| s.1) })
            }
            () => Ok(()),
        }
    }
}

fn open_root(root: &Path) -> Result<OwnedFd, SourceError> {
    let options = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(root, options, Mode::empty()).map_err(|e| SourceError::Folder(root.to_owned(), e.into()))
}

/// Opens a file of a source.
pub(super) fn open(root: &Path, path: &Path) -> Result<File, SourceError> {
    open_below(&open_root(root)?, path)
}

/// Opens a regular file below `folder`; no part of the path may be a link, and a pipe does not block.
fn open_below(folder: &OwnedFd, path: &Path) -> Result<File, SourceError> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let file = File::from(openat2(folder, path, how).map_err(|e| SourceError::File(path.to_owned(), e.into()))?);
    let metadata = file.metadata().map_err(|e| SourceError::File(path.to_owned(), e))?;
    match metadata.is_file() {
        true => Ok(file),
        false => Err(SourceError::Special { path: path.to_owned(), what: special(metadata.mode()) }),
    }
}

fn special(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => "named pipe",
        libc::S_IFSOCK => "socket",
        libc::S_IFBLK | libc::S_IFCHR => "device",
        _ => "special file",
    }
}

fn read_file(folder: &OwnedFd, path: &Path, hashes: &mut Hashes) -> Result<Kind, SourceError> {
    let failed = |e| SourceError::File(path.to_owned(), e);
    // A socket cannot be opened at all, so its kind is looked up first.
    let kind = nix::sys::stat::fstatat(folder, path, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|e| failed(e.into()))?;
    if kind.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(SourceError::Special { path: path.to_owned(), what: special(kind.st_mode) });
    }
    let mut file = open_below(folder, path)?;
    let metadata = file.metadata().map_err(failed)?;
    let stat = Stat::of(&metadata);
    let hash = match hashes.get(path, &stat) {
        Some(hash) => hash,
        None => {
            let hash = hash_file(&mut file, &mut io::sink()).map_err(failed)?;
            hashes.put(path, stat, hash);
            hash
        }
    };
    Ok(Kind::File { executable: metadata.mode() & 0o100 != 0, size: metadata.len(), hash })
}

/// Reads `from` to its end, writes it to `to`, and gives the SHA-256 of what passed.
fn hash_file(from: &mut File, to: &mut dyn Write) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut chunk = [0; CHUNK];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(hash.finalize().into()),
            n => {
                hash.update(&chunk[..n]);
                to.write_all(&chunk[..n])?;
            }
        }
    }
}

fn copy_file(
    folder: &OwnedFd,
    path: &Path,
    target: &Path,
    executable: bool,
    expected: &[u8; 32],
) -> Result<(), SourceError> {
    let written = |e| SourceError::Write(target.to_owned(), e);
    let mode = if executable { 0o755 } else { 0o644 };
    let mut from = open_below(folder, path)?;
    let mut to = File::options().write(true).create_new(true).mode(mode).open(target).map_err(written)?;
    let hash = hash_file(&mut from, &mut to).map_err(written)?;
    // The mode given at creation is cut by the process's umask.
    to.set_permissions(fs::Permissions::from_mode(mode)).map_err(written)?;
    if let Ok(modified) = from.metadata().and_then(|m| m.modified()) {
        to.set_times(FileTimes::new().set_modified(modified)).map_err(written)?;
    }
    match hash == *expected {
        true => Ok(()),
        false => Err(SourceError::Changed(path.to_owned())),
    }
}

/// A link may stay if it is relative and leads to a place within `root`, through whatever links are on its way.
fn read_link(root: &Path, path: &Path) -> Result<PathBuf, SourceError> {
    let full = root.join(path);
    let target = fs::read_link(&full).map_err(|e| SourceError::File(path.to_owned(), e))?;
    let escapes = || SourceError::LinkEscapes { path: path.to_owned(), target: target.clone() };
    if target.is_absolute() || climbs_out(path.parent().unwrap_or(Path::new("")), &target) {
        return Err(escapes());
    }
    match fs::canonicalize(&full) {
        Ok(real) if !real.starts_with(root) => Err(escapes()),
        Ok(_) => Ok(target),
        // Nothing is there yet: a build may put it there, and by its words it is within.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(target),
        Err(e) => Err(SourceError::File(path.to_owned(), e)),
    }
}

/// Whether `target`, taken from the folder `from` below the root, passes above the root.
fn climbs_out(from: &Path, target: &Path) -> bool {
    let mut depth = from.components().count();
    for part in target.components() {
        match part {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}
