//! Volumes: folders that outlive releases, owned by the app's user.
//!
//! One with a size is a file system in a file beside its folder, mounted there while an instance uses it. All of the file
//! is reserved on the disk: no other app can take what was promised, and it cannot take more.
//!
//! | path | what |
//! |---|---|
//! | `volumes/ENV/APP/NAME/` | the data, or where they are mounted |
//! | `….img` | the file system, once it is whole |
//! | `….fresh`, `….filling/` | one that is being made, and where it is mounted for that |
//! | `….plain/` | data that move from a folder into it; the data, as long as there is no `.img` |
//! | `….lock` | held by whoever makes, checks or grows it |
//!
//! Architecture invariant: data are removed only when a whole and synced copy of them is in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId, ResourceName};
use bowline_core::instance::{VolumeMount, VolumeObservation};
use bowline_core::resource::ResourceKey;
use bowline_core::units::{Bytes, Round};

use crate::disk::image::{self, Detached, Purpose, ToolError};
use crate::disk::{self, Space};
use crate::layout;
use crate::walk;

/// What a file system keeps for itself, at most (tables of files, its journal): a part of it.
const OVERHEAD_PART: u64 = 16;

/// From the end of the last process that has a file system mounted until the kernel has let go of its file.
const LETTING_GO: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a volume cannot be given to an instance.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {what} its file system {}", image.display())]
    Tool { what: &'static str, image: PathBuf, source: ToolError },
    #[error("{size} cannot be reserved: {free} are free, and {reserve} of them stay free for all")]
    NoRoom { size: Round, free: Round, reserve: Round },
    #[error("its folder holds {used}, too much for a size of {size}")]
    TooSmall { used: Round, size: Round },
    #[error("there are files in {}, although its data lie in {}", folder.display(), image.display())]
    Hidden { folder: PathBuf, image: PathBuf },
    #[error("its data lie in {}, which only root can mount", image.display())]
    NeedsRoot { image: PathBuf },
    #[error("an earlier daemon is still at work on it")]
    Busy,
    #[error("instances use it, or somebody is in it")]
    InUse,
    #[error("this machine mounts no file")]
    Unmountable,
    #[error(transparent)]
    Content(Box<Fault>),
}

impl VolumeError {
    pub(crate) fn fault(&self, id: &InstanceId, volume: &VolumeMount) -> Fault {
        let name = &volume.name;
        let fault = Fault::new(FaultKind::Failed, format!("volume {name} cannot be given to {id}")).source(self);
        match self {
            Self::NoRoom { .. } => fault.hint(format!("free disk space, or write a smaller size into [volume.{name}]")),
            Self::TooSmall { .. } => fault.hint(format!("write a larger size into [volume.{name}]")),
            Self::Hidden { folder, .. } => {
                fault.hint(format!("nothing is mounted there now: move them out of {}", folder.display()))
            }
            Self::NeedsRoot { .. } => fault.hint("run Bowline as root, as before"),
            Self::Busy => fault.hint("it is tried again by itself"),
            Self::Tool { image, .. } => fault.hint(format!("look at it with: e2fsck -f {}", image.display())),
            Self::InUse => fault.hint("stop the app first"),
            Self::Unmountable => fault.hint("it needs loop devices, mount and e2fsprogs"),
            Self::File { .. } | Self::Content(_) => fault,
        }
    }
}

fn file<'p>(what: &'static str, path: &'p Path) -> impl Fn(io::Error) -> VolumeError + 'p {
    move |source| VolumeError::File { what, path: path.to_owned(), source }
}

/// Which instances use which volume of this state. Each volume has a lock of its own: data of one may take long to move.
#[derive(Debug)]
pub(crate) struct Volumes {
    /// `STATE/volumes`
    root: PathBuf,
    all: Mutex<BTreeMap<PathBuf, Arc<Mutex<Users>>>>,
}

type Users = BTreeSet<InstanceId>;

impl Volumes {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, all: Mutex::default() }
    }

    fn users(&self, folder: &Path) -> Arc<Mutex<Users>> {
        Arc::clone(lock(&self.all).entry(folder.to_owned()).or_default())
    }

    /// Makes and mounts it, and holds it for an instance until [`Volumes::release`]. Answers with what cannot be enforced.
    /// Blocks.
    pub(crate) fn attach(
        &self,
        id: &InstanceId,
        volume: &VolumeMount,
        uid: Option<u32>,
    ) -> Result<Option<String>, VolumeError> {
        let folder = &volume.source;
        if !folder.starts_with(&self.root) {
            // A database's own folders.
            ensure(folder, uid).map_err(file("cannot make", folder))?;
            return Ok(None);
        }
        let users = self.users(folder);
        let mut users = lock(&users);
        let lacks = Home::of(folder).prepare(volume, uid, users.is_empty())?;
        users.insert(id.clone());
        Ok(lacks)
    }

    /// What nobody uses any more is not mounted. Blocks until its data are on the disk.
    pub(crate) fn release(&self, id: &InstanceId) {
        // Only its app's: another's may be locked for as long as its data are copied.
        let AppKey { env, app } = &id.slot.key;
        let own = self.root.join(env.as_str()).join(app.as_str());
        let all = lock(&self.all);
        let own = all.iter().filter(|(folder, _)| folder.starts_with(&own));
        let own: Vec<_> = own.map(|(folder, users)| (folder.clone(), Arc::clone(users))).collect();
        drop(all);
        for (folder, users) in own {
            let mut users = lock(&users);
            if users.remove(id) && users.is_empty() {
                leave(&folder);
            }
        }
    }

    /// Whether its data lie in a file system of its own.
    pub(crate) fn is_sized(folder: &Path) -> bool {
        Home::of(folder).image.exists()
    }

    /// What lies beside a volume's folder and belongs to it; nothing of a database's.
    pub(crate) fn parts(folder: &Path) -> Vec<PathBuf> {
        let is_volume = folder.extension().is_none();
        let beside = ["img", "plain", "fresh", "lock"].iter().filter(|_| is_volume);
        beside.map(|extension| folder.with_extension(extension)).collect()
    }

    /// Whether an instance uses it, a run or a one-off included.
    pub(crate) fn is_used(&self, folder: &Path) -> bool {
        !lock(&self.users(folder)).is_empty()
    }

    /// Does something to a volume while nothing begins to use it, or ends; it is told whether an instance uses it. Blocks.
    pub(crate) fn at_rest<T>(&self, folder: &Path, work: impl FnOnce(bool) -> T) -> T {
        let users = self.users(folder);
        let users = lock(&users);
        work(!users.is_empty())
    }

    /// Puts other contents in the place of what a volume with a size holds: whole, or it is as it was. Needs the room of
    /// another one of its size meanwhile. `put` is given the empty folder. Blocks.
    ///
    /// # Errors
    /// It is in use; it is not empty, and `replace` is not set (`Ok(None)`); the disk; whatever `put` says.
    pub(crate) fn refill(
        &self,
        folder: &Path,
        uid: Option<u32>,
        replace: bool,
        put: &mut dyn FnMut(&Path) -> Result<u64, Fault>,
    ) -> Result<Option<u64>, VolumeError> {
        let users = self.users(folder);
        let users = lock(&users);
        let home = Home::of(folder);
        match home.may_refill(users.is_empty(), replace)? {
            true => home.refill(uid, put).map(Some),
            false => Ok(None),
        }
    }

    /// Whether [`Self::refill`] would find it empty, or is to replace what it holds. Blocks.
    ///
    /// # Errors
    /// It is in use; the disk.
    pub(crate) fn may_refill(&self, folder: &Path, replace: bool) -> Result<bool, VolumeError> {
        let users = self.users(folder);
        let users = lock(&users);
        Home::of(folder).may_refill(users.is_empty(), replace)
    }

    /// Unmounts what is about to be removed. Blocks.
    ///
    /// # Errors
    /// It is in use.
    pub(crate) fn let_go(&self, folder: &Path) -> Result<(), VolumeError> {
        let users = self.users(folder);
        if !lock(&users).is_empty() {
            return Err(VolumeError::InUse);
        }
        leave(folder);
        match image::is_mounted(folder).map_err(file("cannot look at", folder))? {
            true => Err(VolumeError::InUse),
            false => Ok(()),
        }
    }

    /// After a crash: what instances that live use is held for them, and whatever else is mounted is not.
    pub(crate) fn settle(&self, in_use: impl Iterator<Item = (InstanceId, Vec<PathBuf>)>) {
        for (id, folders) in in_use {
            for folder in folders.iter().filter(|folder| folder.starts_with(&self.root)) {
                lock(&self.users(folder)).insert(id.clone());
            }
        }
        let Ok(root) = fs::canonicalize(&self.root) else { return };
        let used: BTreeSet<PathBuf> =
            lock(&self.all).keys().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
        let own = |at: &PathBuf| at.extension().is_some() || at.with_extension("img").exists();
        match image::mounts_below(&root) {
            Ok(mounts) => mounts.iter().rev().filter(|at| own(at) && !used.contains(*at)).for_each(|at| leave(at)),
            Err(error) => tracing::warn!(%error, "volumes that nobody uses may still be mounted"),
        }
    }

    /// All that are used, and all that have a size.
    pub(crate) fn observe(&self) -> BTreeMap<(AppKey, ResourceName), VolumeObservation> {
        let mut seen = BTreeMap::new();
        for (folder, users) in &*lock(&self.all) {
            // One that is being made or checked now is seen the next time.
            let Ok(users) = users.try_lock() else { continue };
            let of_app = users.iter().find(|id| ResourceKey::of_slot(&id.slot).is_none());
            let name = folder.file_name().and_then(|name| ResourceName::new(name.to_str()?).ok());
            if let (Some(id), Some(name)) = (of_app, name) {
                seen.insert((id.slot.key.clone(), name), VolumeObservation::default());
            }
        }
        for (key, image) in images(&self.root) {
            let size = fs::metadata(&image).ok().map(|meta| Bytes(meta.len()));
            seen.insert(key, VolumeObservation { size, used: used(&image.with_extension("")) });
        }
        seen
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every file system of a volume below `STATE/volumes`.
fn images(root: &Path) -> Vec<((AppKey, ResourceName), PathBuf)> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let key = |path: &Path| {
        let mut words = path.strip_prefix(root).ok()?.components().map(|part| part.as_os_str().to_str());
        let (env, app, name) = (words.next()??, words.next()??, words.next()??);
        let key = AppKey { env: env.parse().ok()?, app: app.parse().ok()? };
        Some((key, ResourceName::new(name.strip_suffix(".img")?).ok()?))
    };
    let all = entries(root).flat_map(|env| entries(&env)).flat_map(|app| entries(&app));
    all.filter_map(|path| Some((key(&path)?, path))).collect()
}

fn used(folder: &Path) -> Option<Bytes> {
    image::is_mounted(folder).ok().filter(|mounted| *mounted)?;
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(Bytes((found.f_blocks - found.f_bfree) * found.f_frsize))
}

fn leave(folder: &Path) {
    if !image::is_mounted(folder).unwrap_or(false) {
        return;
    }
    match image::detach(folder) {
        Ok(Detached::Whole) => {}
        Ok(Detached::Held) => {
            tracing::warn!(volume = %folder.display(), "somebody is in it; it is unmounted when they leave")
        }
        Err(error) => tracing::warn!(volume = %folder.display(), %error, "it stays mounted"),
    }
}

/// The paths of one volume.
struct Home {
    folder: PathBuf,
    image: PathBuf,
    fresh: PathBuf,
    filling: PathBuf,
    plain: PathBuf,
}

impl Home {
    fn of(folder: &Path) -> Self {
        // Names of volumes have no dots.
        let beside = |extension| folder.with_extension(extension);
        let (image, fresh, filling, plain) = (beside("img"), beside("fresh"), beside("filling"), beside("plain"));
        Self { folder: folder.to_owned(), image, fresh, filling, plain }
    }

    /// `idle`: no instance uses it.
    fn prepare(&self, volume: &VolumeMount, uid: Option<u32>, idle: bool) -> Result<Option<String>, VolumeError> {
        let name = &volume.name;
        let root = nix::unistd::geteuid().is_root();
        let plain = || ensure(&self.folder, uid).map_err(file("cannot make", &self.folder));
        if let Some(parent) = self.folder.parent() {
            layout::make_folder(parent, 0o711).map_err(file("cannot make", parent))?;
        }
        if idle && root {
            self.recover()?;
        }
        match (self.image.exists(), volume.size) {
            (true, _) if !root => Err(VolumeError::NeedsRoot { image: self.image.clone() }),
            (true, wanted) => {
                let held = self.open(wanted)?;
                let wanted = wanted.filter(|wanted| *wanted != held);
                Ok(wanted.map(|wanted| match wanted > held {
                    true => format!("size of volume {name} ({held} until nothing uses it)"),
                    false => format!("size of volume {name} ({held}, it is never shrunk)"),
                }))
            }
            (false, None) => plain().map(|()| None),
            (false, Some(_)) if !root => plain().map(|()| Some(format!("size of volume {name}"))),
            (false, Some(size)) => {
                let elsewhere = image::is_mounted(&self.folder).map_err(file("cannot look at", &self.folder))?;
                if !idle || elsewhere {
                    let until = if elsewhere { "something is mounted there" } else { "until nothing uses it" };
                    return plain().map(|()| Some(format!("size of volume {name} ({until})")));
                }
                plain()?;
                let made = self.make(size.0, uid)?;
                Ok((made == Made::Unavailable).then(|| format!("size of volume {name}")))
            }
        }
    }

    /// What a crash left of the making of a file system.
    fn recover(&self) -> Result<(), VolumeError> {
        if self.plain.exists() {
            match self.image.exists() {
                true => walk::remove_tree(&self.plain).map_err(file("cannot remove", &self.plain))?,
                false => self.put_back()?,
            }
        }
        Ok(())
    }

    /// The data are again where they were.
    fn put_back(&self) -> Result<(), VolumeError> {
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("cannot replace", &self.folder)(error)),
            Ok(()) | Err(_) => fs::rename(&self.plain, &self.folder).map_err(file("cannot put back", &self.folder)),
        }
    }

    fn lock(&self) -> Result<File, VolumeError> {
        let path = self.folder.with_extension("lock");
        let lock = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(file("cannot open", &path))?;
        lock.try_lock().map_err(|_| VolumeError::Busy)?;
        Ok(lock)
    }

    fn tool(&self, what: &'static str) -> impl Fn(ToolError) -> VolumeError + '_ {
        move |source| VolumeError::Tool { what, image: self.image.clone(), source }
    }

    /// Out of a plain folder, which may hold data.
    fn make(&self, size: u64, uid: Option<u32>) -> Result<Made, VolumeError> {
        let lock = self.lock()?;
        let is_empty = fs::read_dir(&self.folder).map_err(file("cannot read", &self.folder))?.next().is_none();
        if !is_empty {
            let used = disk::usage(&self.folder, usize::MAX);
            if used > size - size / OVERHEAD_PART {
                return Err(VolumeError::TooSmall { used: Round(Bytes(used)), size: Round(Bytes(size)) });
            }
            fs::rename(&self.folder, &self.plain).map_err(file("cannot move", &self.folder))?;
        }
        let made = self.fill(size, uid, &lock, &mut |filling| match self.plain.exists() {
            true => image::copy(&self.plain, filling, &lock).map_err(self.tool("move the data into")),
            false => Ok(()),
        });
        leave(&self.filling);
        let _ = fs::remove_dir(&self.filling);
        if !matches!(made, Ok(Made::Whole)) {
            let _ = fs::remove_file(&self.fresh);
            if self.plain.exists() {
                self.put_back()?;
            }
            return made;
        }
        layout::make_folder(&self.folder, 0o700).map_err(file("cannot make", &self.folder))?;
        walk::remove_tree(&self.plain).map_err(file("cannot remove", &self.plain))?;
        image::attach(&self.image, &self.folder, Purpose::Volume, Some(&lock)).map_err(self.tool("mount"))?;
        Ok(Made::Whole)
    }

    /// Whether no process has it mounted. One that has just ended may hold it for a moment more.
    fn is_let_go(&self) -> Result<bool, VolumeError> {
        leave(&self.folder);
        let deadline = Instant::now() + LETTING_GO;
        while image::device(&self.image).map_err(self.tool("look at"))?.is_some() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(true)
    }

    /// Of one with a size, which nothing uses.
    fn is_empty(&self) -> Result<bool, VolumeError> {
        self.open(None)?;
        let entries = fs::read_dir(&self.folder).map_err(file("cannot read", &self.folder));
        let empty = entries.map(|entries| entries.flatten().all(|entry| entry.file_name() == "lost+found"));
        leave(&self.folder);
        empty
    }

    /// `idle`: no instance uses it.
    fn may_refill(&self, idle: bool, replace: bool) -> Result<bool, VolumeError> {
        if !idle || !self.is_let_go()? {
            return Err(VolumeError::InUse);
        }
        self.recover()?;
        if !replace && !self.is_empty()? {
            return Ok(false);
        }
        // It was mounted for that look.
        match self.is_let_go()? {
            true => Ok(true),
            false => Err(VolumeError::InUse),
        }
    }

    fn refill(&self, uid: Option<u32>, put: &mut dyn FnMut(&Path) -> Result<u64, Fault>) -> Result<u64, VolumeError> {
        let lock = self.lock()?;
        let size = fs::metadata(&self.image).map_err(file("cannot read", &self.image))?.len();
        let mut files = 0;
        let made = self.fill(size, uid, &lock, &mut |folder| {
            files = put(folder).map_err(|fault| VolumeError::Content(Box::new(fault)))?;
            Ok(())
        });
        leave(&self.filling);
        let _ = fs::remove_dir(&self.filling);
        if !matches!(made, Ok(Made::Whole)) {
            let _ = fs::remove_file(&self.fresh);
        }
        match made? {
            Made::Whole => Ok(files),
            Made::Unavailable => Err(VolumeError::Unmountable),
        }
    }

    /// The new file system with all that `put` gives it, in its place when it is whole and synced.
    fn fill(
        &self,
        size: u64,
        uid: Option<u32>,
        lock: &File,
        put: &mut dyn FnMut(&Path) -> Result<(), VolumeError>,
    ) -> Result<Made, VolumeError> {
        leave(&self.filling);
        let _ = fs::remove_file(&self.fresh);
        let open = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&self.fresh);
        let file_system = open.map_err(file("cannot make", &self.fresh))?;
        self.reserve(&file_system, 0, size)?;
        match image::format(&self.fresh, Purpose::Volume, Some(lock)) {
            Err(ToolError::Missing(_)) => return Ok(Made::Unavailable),
            other => other.map_err(self.tool("make"))?,
        }
        layout::make_folder(&self.filling, 0o700).map_err(file("cannot make", &self.filling))?;
        if let Err(error) = image::attach(&self.fresh, &self.filling, Purpose::Volume, Some(lock)) {
            tracing::warn!(error = %error, volume = %self.folder.display(), "this machine mounts no file; its size is not enforced");
            return Ok(Made::Unavailable);
        }
        // Only e2fsck wants it, and makes it again.
        let _ = fs::remove_dir(self.filling.join("lost+found"));
        fs::set_permissions(&self.filling, fs::Permissions::from_mode(0o700))
            .and_then(|()| chown(&self.filling, uid, uid))
            .map_err(file("cannot give away", &self.filling))?;
        put(&self.filling)?;
        let unmounted = image::detach(&self.filling).and_then(|_| file_system.sync_all());
        unmounted.map_err(file("cannot write", &self.fresh))?;
        let synced = fs::rename(&self.fresh, &self.image).and_then(|()| match self.image.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        });
        synced.map_err(file("cannot put in place", &self.image))?;
        Ok(Made::Whole)
    }

    /// Mounts one that is whole, if it is not; lets it grow. Answers with what it may hold then.
    fn open(&self, wanted: Option<Bytes>) -> Result<Bytes, VolumeError> {
        let lock = self.lock()?;
        let open =
            File::options().read(true).write(true).open(&self.image).map_err(file("cannot open", &self.image))?;
        let length = open.metadata().map_err(file("cannot read", &self.image))?.len();
        let wanted = wanted.map_or(length, |wanted| wanted.0.max(length));
        let mounted = image::is_mounted(&self.folder).map_err(file("cannot look at", &self.folder))?;
        if !mounted {
            layout::make_folder(&self.folder, 0o700).map_err(file("cannot make", &self.folder))?;
            if fs::read_dir(&self.folder).map_err(file("cannot read", &self.folder))?.next().is_some() {
                return Err(VolumeError::Hidden { folder: self.folder.clone(), image: self.image.clone() });
            }
        }
        if wanted > length {
            self.reserve(&open, length, wanted)?;
        } else if let Err(error) = self.reserve(&open, 0, length) {
            // `fstrim` of the machine may have given some of it back.
            tracing::warn!(volume = %self.folder.display(), error = %error, "not all of it is reserved");
        }
        let formatted = || image::formatted_bytes(&self.image).map_err(file("cannot read", &self.image));
        // It may be mounted where nobody can see it: then nothing touches it but the kernel.
        let device = image::device(&self.image).map_err(self.tool("look at"))?;
        let is_small = formatted()? < wanted / BLOCK * BLOCK;
        match (&device, is_small) {
            (None, true) => image::grow(&self.image, &lock).map_err(self.tool("let grow"))?,
            (None, false) => image::check(&self.image, &lock).map_err(self.tool("check"))?,
            (Some(_), _) => {}
        }
        if !mounted {
            image::attach(&self.image, &self.folder, Purpose::Volume, Some(&lock)).map_err(self.tool("mount"))?;
        }
        match device.filter(|_| is_small).map(|device| image::grow_device(&device, &lock)) {
            Some(Err(error)) => {
                tracing::info!(error = %error, volume = %self.folder.display(), "it grows when nothing uses it");
                Ok(Bytes(formatted()?))
            }
            Some(Ok(())) | None => Ok(Bytes(wanted)),
        }
    }

    /// Takes it from the disk, but for what stays free for all.
    fn reserve(&self, open: &File, from: u64, to: u64) -> Result<(), VolumeError> {
        let space =
            Space::of(self.image.parent().unwrap_or(&self.image)).map_err(file("cannot look at", &self.image))?;
        let meta = open.metadata().map_err(file("cannot read", &self.image))?;
        let (length, held) = (meta.len(), meta.blocks() * 512);
        let missing = to.saturating_sub(held);
        let refused = VolumeError::NoRoom {
            size: Round(Bytes(to - from)),
            free: Round(Bytes(space.free)),
            reserve: Round(Bytes(space.reserve())),
        };
        if missing > 0 && space.free < missing.saturating_add(space.reserve()) {
            return Err(refused);
        }
        match rustix::fs::fallocate(open, rustix::fs::FallocateFlags::empty(), from, to - from) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOSPC) => Err(refused),
            // A disk whose file system cannot reserve: it is bounded all the same.
            Err(rustix::io::Errno::OPNOTSUPP) if to > length => {
                open.set_len(to).map_err(file("cannot let grow", &self.image))
            }
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(file("cannot reserve", &self.image)(error.into())),
        }
    }
}

/// Of the file systems made here.
const BLOCK: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Whole,
    /// The machine has no tools for it, or no loop devices.
    Unavailable,
}

/// Makes the folder of a volume (`<state>/volumes/<env>/<app>/<name>`) if it is missing. What is in it is not touched;
/// only the folder itself is given to `uid`, where this process may.
pub(crate) fn ensure(folder: &Path, uid: Option<u32>) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        layout::make_folder(parent, 0o711)?;
    }
    layout::make_folder(folder, 0o700)?;
    match uid {
        Some(uid) if nix::unistd::geteuid().is_root() && folder.metadata()?.uid() != uid => {
            chown(folder, Some(uid), Some(uid))
        }
        Some(_) | None => Ok(()),
    }
}

/// Where a path leads through the links that are there; what is not there yet is taken as written.
pub(crate) fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
    match there {
        Some((part, real)) => path.strip_prefix(part).map_or_else(|_| real.clone(), |rest| real.join(rest)),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests;
