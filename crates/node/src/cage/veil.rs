//! What an app or a build does not see: other apps, the state, homes, other sockets of this machine, `/tmp` of others.
//!
//! A second mount namespace, of its own: the shim of an app goes on seeing its record and its log. Whole folders are
//! covered, and what is needed of them is attached again where it was.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::layout;

const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Other people's and other programs' folders, on every machine.
const COVERED: [&str; 6] =
    ["/home", "/root", "/run/bowline", "/run/user", "/var/lib/bowline", "/var/lib/bowline-local"];

/// Sockets that give the machine away to whoever may write to them; their group may come with the user.
const SOCKETS: [&str; 4] =
    ["/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock"];

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
        self.cover(&all, &temporary, &kept, &empty).map_err(Torn::Half)
    }

    /// What is kept of what will be covered, in its present form with all that is mounted in it.
    fn detach(&self, covered: &BTreeSet<&Path>) -> io::Result<Vec<Attached<'_>>> {
        let kept: BTreeSet<&Path> = self.kept.iter().copied().collect();
        let is_covered = |path: &Path| covered.iter().any(|folder| path.starts_with(folder));
        let within = |path: &Path| kept.iter().any(|other| *other != path && path.starts_with(other));
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let wanted = kept.iter().filter(|path| is_covered(path) && !within(path) && path.exists());
        wanted.map(|path| Ok((*path, open_tree(CWD, *path, flags)?))).collect()
    }

    fn cover(
        &self,
        all: &BTreeSet<&Path>,
        temporary: &BTreeSet<PathBuf>,
        kept: &[Attached<'_>],
        empty: &Path,
    ) -> io::Result<()> {
        hide_configuration(empty)?;
        for socket in SOCKETS.iter().filter(|socket| Path::new(socket).exists()) {
            bind(Path::new("/dev/null"), Path::new(socket))?;
        }
        let size = self.memory.map_or_else(|| TEMPORARY_SIZE.to_owned(), |bytes| (bytes / 2).to_string());
        let size = format!("mode=1777,size={size}");
        let covered: Vec<&Path> = all.iter().copied().filter(|folder| is_outermost(folder, all)).collect();
        for folder in &covered {
            let options = if temporary.contains(*folder) { size.as_str() } else { COVER_OPTIONS };
            mount(Some("tmpfs"), *folder, Some("tmpfs"), HARMLESS, Some(options))?;
        }
        for (path, tree) in kept {
            make_point(path, tree)?;
            let (from, to) = (MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH, *path);
            move_mount(tree, c"", CWD, to, from)?;
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
