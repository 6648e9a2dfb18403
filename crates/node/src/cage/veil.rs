//! What an app or a build does not see: other apps, the state, homes, all sockets of this machine (`/run`), its terminals,
//! `/tmp` of others.
//!
//! A second mount namespace, of its own: the shim of an app goes on seeing its record and its log. Whole folders are
//! covered, and what is needed of them is attached again where it was.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::layout;

const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Other people's and other programs' folders, on every machine.
///
/// `/run` whole: no lock of the cage has a say over connecting to a socket by its path.
const COVERED: [&str; 5] = ["/home", "/root", "/run", "/var/lib/bowline", "/var/lib/bowline-local"];

/// Of `/run`: how names are resolved, where a distribution keeps that.
const RESOLVERS: [&str; 5] =
    ["/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf", "/run/nscd", "/run/connman"];

/// What apps read of `/etc`, by the beginning of its name; its other folders are empty. Files at its top stay, see
/// `cage::files`.
const CONFIGURATION: [&str; 32] = [
    "ImageMagick",
    "OpenCL",
    "alternatives",
    "authselect",
    "ca-certificates",
    "crypto-policies",
    "dotnet",
    "fonts",
    "gnutls",
    "gss",
    "java",
    "krb5.conf.d",
    "ld.so.conf.d",
    "ldap",
    "locale",
    "mime",
    "my.cnf.d",
    "mysql",
    "nginx",
    "node",
    "npm",
    "openldap",
    "perl",
    "php",
    "pki",
    "python",
    "resolvconf",
    "sasl2",
    "ssl",
    "static",
    "terminfo",
    "xdg",
];
/// Keys below what is left.
const KEYS: [&str; 2] = ["/etc/ssl/private", "/etc/pki/tls/private"];

/// Everyone's folders for a while: each instance has its own.
const TEMPORARY: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];
/// Of the machine's memory, where the instance has no limit; where it has one, pages there count for it.
const TEMPORARY_SIZE: &str = "25%";
/// Of one instance: far above what a program makes for its children.
const TERMINALS: u32 = 64;
/// For the mount points of what is attached.
const COVER_OPTIONS: &str = "mode=0755,size=1m";

/// What one app or build keeps.
#[derive(Debug)]
pub(crate) struct Veil<'c> {
    /// The instance's or the build's own, where nobody else makes files.
    pub folder: &'c Path,
    /// Covered beside what is covered on every machine.
    pub hidden: &'c [PathBuf],
    /// Stays visible wherever it lies.
    pub kept: Vec<&'c Path>,
    /// Where each lies, and where it appears, in nothing that is covered.
    pub volumes: &'c [(PathBuf, PathBuf)],
    /// The instance's control groups: the only ones it sees of their hierarchies.
    pub groups: &'c [PathBuf],
    /// The instance's memory limit, in bytes: each of `/tmp` and `/dev/shm` may take half of it.
    pub memory: Option<u64>,
}

/// How far it got.
#[derive(Debug)]
pub(crate) enum Torn {
    /// Nothing is covered: the machine does not know how.
    NotBegun,
    /// Some of it is: no app can run there.
    Half(io::Error),
    /// All of it is, and a volume does not appear.
    Volume(io::Error),
}

/// A folder and what will be seen in its place.
type Attached<'c> = (&'c Path, OwnedFd);

impl Veil<'_> {
    pub(crate) fn draw(&self) -> Result<(), Torn> {
        let empty = self.folder.join("empty");
        let covered = covered(self.hidden);
        let temporary = real(TEMPORARY.iter().map(Path::new));
        let all: BTreeSet<&Path> = covered.union(&temporary).map(PathBuf::as_path).collect();
        let kept = unshare(CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            .and_then(|()| layout::make_folder(&empty, 0o555))
            .and_then(|()| self.detach(&all))
            .map_err(|_| Torn::NotBegun)?;
        let volumes = self.volumes.iter().map(|(source, path)| Ok((path.as_path(), open_tree(CWD, source, TREE)?)));
        let volumes: Vec<Attached<'_>> = volumes.collect::<io::Result<_>>().map_err(Torn::Volume)?;
        hide_groups(self.groups).and_then(|()| own_terminals()).map_err(Torn::Half)?;
        self.cover(&all, &temporary, &kept, &empty).map_err(Torn::Half)?;
        volumes.iter().try_for_each(|(path, tree)| appear(path, tree)).map_err(Torn::Volume)
    }

    /// What is kept of what will be covered, in its present form with all that is mounted in it.
    fn detach(&self, covered: &BTreeSet<&Path>) -> io::Result<Vec<(PathBuf, OwnedFd)>> {
        let resolver = resolver();
        let kept = self.kept.iter().copied().chain(RESOLVERS.iter().map(Path::new));
        let kept: BTreeSet<PathBuf> = kept.map(Path::to_owned).chain(resolver).collect();
        let is_covered = |path: &Path| covered.iter().any(|folder| path.starts_with(folder));
        let within = |path: &Path| kept.iter().any(|other| other != path && path.starts_with(other));
        let wanted = kept.iter().filter(|path| is_covered(path) && !within(path) && path.exists());
        wanted.map(|path| Ok((path.clone(), open_tree(CWD, path, TREE)?))).collect()
    }

    fn cover(
        &self,
        all: &BTreeSet<&Path>,
        temporary: &BTreeSet<PathBuf>,
        kept: &[(PathBuf, OwnedFd)],
        empty: &Path,
    ) -> io::Result<()> {
        hide_configuration(empty)?;
        let size = self.memory.map_or_else(|| TEMPORARY_SIZE.to_owned(), |bytes| (bytes / 2).to_string());
        let size = format!("mode=1777,size={size}");
        let covered: Vec<&Path> = all.iter().copied().filter(|folder| is_outermost(folder, all)).collect();
        for folder in &covered {
            let options = if temporary.contains(*folder) { size.as_str() } else { COVER_OPTIONS };
            mount(Some("tmpfs"), *folder, Some("tmpfs"), HARMLESS, Some(options))?;
        }
        for (path, tree) in kept {
            make_point(path, tree)?;
            move_mount(tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        // What was made for the attached folders is no place to write.
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | HARMLESS;
        for folder in covered.iter().filter(|folder| !temporary.contains(**folder)) {
            mount(None::<&str>, *folder, None::<&str>, read_only, None::<&str>)?;
        }
        Ok(())
    }
}

/// The folders that are covered and whose folders above what is attached again are new ones, which everyone may pass.
pub(crate) fn covered(hidden: &[PathBuf]) -> BTreeSet<PathBuf> {
    real(COVERED.iter().map(Path::new).chain(hidden.iter().map(PathBuf::as_path)))
}

/// Everything mounted in it, too.
const TREE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_RECURSIVE);

/// A folder as the app will see it at its path.
fn appear(path: &Path, tree: &OwnedFd) -> io::Result<()> {
    move_mount(tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(mount(None::<&str>, path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | HARMLESS, None::<&str>)?)
}

/// What `/etc/resolv.conf` leads to: its folder, for it is replaced by a rename; itself where that is `/run`.
fn resolver() -> Option<PathBuf> {
    let file = fs::canonicalize("/etc/resolv.conf").ok()?;
    match file.parent() {
        Some(folder) if folder.starts_with("/run") && folder != Path::new("/run") => Some(folder.to_owned()),
        Some(_) | None => Some(file),
    }
}

/// The names and the memory of other apps are in their control groups. Programs find their own limits at the top, as in a
/// container.
fn hide_groups(own: &[PathBuf]) -> io::Result<()> {
    // Names of groups as `/proc` tells them; where it is not allowed, they are what they are.
    let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
    own.iter().try_for_each(|folder| {
        let device = fs::metadata(folder)?.dev();
        let same = |part: &&Path| fs::metadata(part).is_ok_and(|meta| meta.dev() == device);
        let top = folder.ancestors().take_while(same).last().unwrap_or(folder);
        // The top of a hierarchy is everyone's to read.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        bind(folder, top)
    })
}

/// Terminals of its own: those of others are out of sight, and theirs are not used up.
fn own_terminals() -> io::Result<()> {
    let (folder, maker) = (Path::new("/dev/pts"), Path::new("/dev/ptmx"));
    if !folder.is_dir() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = format!("newinstance,ptmxmode=0666,mode=0620,max={TERMINALS}");
    mount(Some("devpts"), folder, Some("devpts"), flags, Some(options.as_str()))?;
    match fs::symlink_metadata(maker) {
        Ok(meta) if !meta.is_symlink() => bind(&folder.join("ptmx"), maker),
        // It leads there.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Links followed; what is not there is left out.
fn real<'p>(paths: impl Iterator<Item = &'p Path>) -> BTreeSet<PathBuf> {
    paths.filter_map(|path| fs::canonicalize(path).ok()).collect()
}

/// What lies in a covered folder is covered with it.
fn is_outermost(folder: &Path, all: &BTreeSet<&Path>) -> bool {
    folder.is_dir() && !all.iter().any(|other| *other != folder && folder.starts_with(other))
}

fn hide_configuration(empty: &Path) -> io::Result<()> {
    for entry in fs::read_dir("/etc")? {
        let entry = entry?;
        let name = entry.file_name();
        let is_read = name.to_str().is_some_and(|name| CONFIGURATION.iter().any(|known| name.starts_with(known)));
        if !is_read && entry.file_type()?.is_dir() {
            bind(empty, &entry.path())?;
        }
    }
    KEYS.iter().map(Path::new).filter(|folder| folder.is_dir()).try_for_each(|folder| bind(empty, folder))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// A folder, or a file, to attach a tree to.
fn make_point(path: &Path, tree: &OwnedFd) -> io::Result<()> {
    let is_dir = fs::File::from(tree.try_clone()?).metadata()?.is_dir();
    if is_dir {
        return layout::make_folder(path, 0o755);
    }
    path.parent().map_or(Ok(()), |parent| layout::make_folder(parent, 0o755))?;
    fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop)
}
