//! The place an app runs in: its temporary folder, secret files, volumes, and an app folder it may write beside.
//!
//! It is made by the shim, which needs to go on seeing the machine; what is hidden and refused comes in `child`, on the
//! way to the app.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::contract::{Config, FileOfSecret, Mount, Refusal};
use super::layer::{self, Reach};
use crate::cage::files::Grants;
use crate::cage::namespaces;
use crate::cage::veil::Veil;
use crate::disk::DISK_LIMIT;
use crate::disk::image::{self, Purpose};
use crate::layout;

/// In the instance's folder, where it has a file system of its own: `tmp`, `overlay`.
pub(super) const SCRATCH: &str = "scratch";
/// Enough for any number of certificates; a tmpfs takes only what is used.
const SECRETS_SIZE: &str = "1m";

/// What the place gives to the environment, and what the machine does not enforce.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub variables: Vec<(String, PathBuf)>,
    /// `HOME` and `TMPDIR`.
    temporary: PathBuf,
    pub unenforced: Vec<String>,
    /// Where secret files are, if there are any.
    secrets: Option<PathBuf>,
    /// Where volumes lie, and where they are to appear.
    bound: Vec<(PathBuf, PathBuf)>,
    /// The release folder has a layer that takes what is written.
    layered: bool,
}

impl Place {
    /// What the app sees of what is covered.
    pub(super) fn veil<'c>(&'c self, config: &'c Config) -> Veil<'c> {
        let own = [config.root.as_path(), self.temporary.as_path()].into_iter().chain(self.secrets.as_deref());
        let given = config.volume_folders.iter().chain(&config.readable).map(PathBuf::as_path);
        Veil {
            folder: &config.folder,
            hidden: &config.hidden,
            kept: own.chain(given).collect(),
            volumes: &self.bound,
            groups: config.cgroup.as_ref().map_or(&[], |cgroup| cgroup.folders.as_slice()),
            memory: config.memory,
        }
    }

    /// Makes the folder that a volume is to cover in the app's own view. Never within another volume: what is there is the
    /// app's, links included.
    fn may_appear(&self, volume: &Mount, hidden: &[PathBuf]) -> bool {
        let within =
            self.bound.iter().any(|(_, other)| volume.path.starts_with(other) || other.starts_with(&volume.path));
        let made = !within && layout::make_folder(&volume.path, 0o755).is_ok();
        let real = crate::volume::real(&volume.path);
        made && !hidden.iter().any(|own| own.starts_with(&real) || real.starts_with(own))
    }

    /// Without what depends on the veil, see [`Grants::shared`].
    pub(super) fn grants(&self, config: &Config) -> Grants {
        let mut read = config.readable.clone();
        read.extend(self.secrets.clone());
        let mut write = config.volume_folders.clone();
        write.extend(self.bound.iter().map(|(_, path)| path.clone()));
        write.push(self.temporary.clone());
        match self.layered {
            true => write.push(config.root.clone()),
            false => read.push(config.root.clone()),
        }
        Grants { read, write, terminals: false, hidden: config.hidden.clone() }
    }
}

/// `contained`: this process has a mount namespace of its own.
pub(super) fn prepare(config: &Config, contained: bool) -> Result<Place, Refusal> {
    let failed = |what: &str, path: &Path, error: &io::Error| {
        Refusal::new(format!("cannot {what} {} for {}", path.display(), config.id)).caused_by(error)
    };
    let temporary = config.folder.join("tmp");
    let mut place = Place { temporary: temporary.clone(), ..Place::default() };
    private_folder(&temporary, config.uid).map_err(|error| failed("make", &temporary, &error))?;
    let mut written = config.folder.clone();
    if contained {
        let root = Path::new("/");
        namespaces::detach_mounts().map_err(|error| failed("detach the mounts of", root, &error))?;
        leave_other_volumes(config).map_err(|error| failed("leave the volumes of others in", root, &error))?;
        match attach_scratch(config, &temporary) {
            Ok(folder) => written = folder.unwrap_or(written),
            Err(error) => {
                // For whoever wants to know why; the app runs without.
                let _ = writeln!(io::stderr(), "{error}");
                place.unenforced.push(DISK_LIMIT.to_owned());
            }
        }
        note(&mut place, namespaces::mount_proc(), namespaces::OWN_PROC);
        let layer = layer::put_over(&config.root, &written, config.uid, &config.writable);
        place.layered = layer.is_ok();
        match layer {
            Ok(Reach::Whole) => {}
            Ok(Reach::Part) => place.unenforced.push("writable release folder in all its depth".to_owned()),
            Err(_) => place.unenforced.push("unchanging release folder".to_owned()),
        }
    } else {
        place.unenforced.extend([namespaces::PROCESSES, "unchanging release folder"].map(str::to_owned));
        place.unenforced.extend(config.scratch.as_ref().map(|_| DISK_LIMIT.to_owned()));
    }
    if !place.layered && !config.writable.is_empty() {
        place.unenforced.push(format!("writable {}", config.writable.join(", ")));
    }
    for volume in &config.volumes {
        if contained && place.may_appear(volume, &config.hidden) {
            place.bound.push((volume.source.clone(), volume.path.clone()));
        } else {
            let variable = volume_variable(&volume.name);
            place.unenforced.push(format!("volume {} at {} (use ${variable})", volume.name, volume.path.display()));
        }
    }
    if !config.secret_files.is_empty() {
        let folder = secret_folder(config, contained).map_err(|(folder, error)| failed("make", &folder, &error))?;
        for file in &config.secret_files {
            let path = write_secret(&folder, file, config.uid)
                .map_err(|error| failed("write the secret file", &folder.join(&file.name), &error))?;
            place.variables.push((file.variable.clone(), path));
        }
        if !is_memory(&folder) {
            place.unenforced.push("secret files in memory".to_owned());
        }
        place.secrets = Some(folder);
    }
    Ok(place)
}

/// `BOWLINE_VOLUME_FILES` of `files`.
pub(crate) fn volume_variable(name: &str) -> String {
    format!("BOWLINE_VOLUME_{}", name.to_ascii_uppercase().replace('-', "_"))
}

fn note<E: std::fmt::Display>(place: &mut Place, outcome: Result<(), E>, what: &str) {
    if outcome.is_err() {
        place.unenforced.push(what.to_owned());
    }
}

/// They would be kept alive, wherever they are unmounted.
fn leave_other_volumes(config: &Config) -> io::Result<()> {
    config.all_volumes.as_deref().map_or(Ok(()), |all| image::leave_below(all, &config.volume_folders))
}

/// The file system of the temporary folder and the layer, only in this mount namespace: it goes with the instance,
/// whatever ends it. Where the layer goes; `None`: there is no such file system.
fn attach_scratch(config: &Config, temporary: &Path) -> Result<Option<PathBuf>, Box<dyn std::error::Error>> {
    let Some(file) = &config.scratch else { return Ok(None) };
    let folder = config.folder.join(SCRATCH);
    layout::make_folder(&folder, 0o755)?;
    image::attach(file, &folder, Purpose::Scratch, None)?;
    let inside = folder.join("tmp");
    private_folder(&inside, config.uid)?;
    mount(Some(&inside), temporary, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(Some(folder))
}

/// Whether what lies there is on no disk.
pub(super) fn is_memory(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == libc::TMPFS_MAGIC)
}

/// A tmpfs that only this mount namespace sees; else a folder below the run folder, which lies on one where the machine has one for that.
fn secret_folder(config: &Config, contained: bool) -> Result<PathBuf, (PathBuf, io::Error)> {
    if contained {
        let folder = config.folder.join("secrets");
        if mount_secrets(&folder, config.uid).is_ok() {
            return Ok(folder);
        }
    }
    let folder = &config.secret_folder;
    let made = folder.parent().map_or(Ok(()), |parent| layout::make_folder(parent, 0o711));
    made.and_then(|()| private_folder(folder, config.uid)).map_err(|error| (folder.clone(), error))?;
    Ok(folder.clone())
}

pub(super) fn mount_secrets(folder: &Path, uid: Option<u32>) -> io::Result<()> {
    layout::make_folder(folder, 0o700)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=0700,size={SECRETS_SIZE}");
    mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(options.as_str()))?;
    own(folder, uid)
}

pub(super) fn write_secret(folder: &Path, file: &FileOfSecret, uid: Option<u32>) -> io::Result<PathBuf> {
    // The name comes from a parsed file, yet a path here would write anywhere as root.
    if file.name.is_empty() || file.name.contains('/') || file.name.starts_with('.') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = folder.join(&file.name);
    let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
    open.write_all(&file.value.0)?;
    own(&path, uid)?;
    Ok(path)
}

pub(super) fn private_folder(folder: &Path, uid: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?,
    }
    own(folder, uid)
}

pub(super) fn own(path: &Path, uid: Option<u32>) -> io::Result<()> {
    uid.map_or(Ok(()), |uid| chown(path, Some(uid), Some(uid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_names_become_variables() {
        assert_eq!(volume_variable("user-files2"), "BOWLINE_VOLUME_USER_FILES2");
    }

    #[test]
    fn a_secret_file_stays_in_its_folder_and_is_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let value = || super::super::contract::Clear(zeroize::Zeroizing::new(b"s".to_vec()));
        let file = |name: &str| FileOfSecret { variable: "V".into(), name: name.into(), value: value() };
        for bad in ["../x", "/etc/x", "", ".."] {
            assert!(write_secret(folder.path(), &file(bad), None).is_err(), "{bad}");
        }
        let path = write_secret(folder.path(), &file("ca"), None).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o400);
    }
}
