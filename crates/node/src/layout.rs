//! Where things of a node lie below its state folder.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bowline_core::id::{AppKey, Digest, InstanceId, SlotId};
use sha2::{Digest as _, Sha256};

/// In the folder of an incarnation: the file system of its temporary folder and its layer.
pub(crate) const SCRATCH: &str = "scratch.img";
/// In the folder of an incarnation that is a container: what it may write to of its release.
pub(crate) const WRITABLE: &str = "writable";

/// What a state is called in engines is made of it.
const ENGINE_ID: &str = "engine-id";

/// Paths below the state folder, computed in one place.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub state: PathBuf,
    /// For secret files where there is no mount namespace: the run folder lies on a tmpfs.
    pub run: PathBuf,
}

impl Layout {
    pub(crate) fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }

    /// Of every app.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// The folder of one incarnation: records, [`SCRATCH`], `tmp`; without a file system of their own, `tmp` and the upper
    /// layer of its overlay lie there themselves.
    pub(crate) fn instance(&self, id: &InstanceId) -> PathBuf {
        let SlotId { key, service, release, slot } = &id.slot;
        let name = format!("{service}.r{release}.{slot}.{}", id.incarnation);
        self.instances().join(key.env.as_str()).join(key.app.as_str()).join(name)
    }

    /// Of all slots.
    pub(crate) fn locks(&self) -> PathBuf {
        self.instances().join("locks")
    }

    /// The file that the shim of a slot locks for its whole life.
    pub(crate) fn lock(&self, slot: &SlotId) -> PathBuf {
        let SlotId { key, service, release, slot } = slot;
        self.locks().join(format!("{}.{}.{service}.r{release}.{slot}", key.env, key.app))
    }

    /// Of all apps, by environment, and of the edge.
    pub(crate) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub(crate) fn app_logs(&self, key: &AppKey) -> PathBuf {
        self.logs().join(key.env.as_str()).join(key.app.as_str())
    }

    /// One log per slot: its incarnations follow each other in it.
    pub(crate) fn log(&self, slot: &SlotId) -> PathBuf {
        let SlotId { key, service, release, slot } = slot;
        self.app_logs(key).join(format!("{service}.r{release}.{slot}.log"))
    }

    pub(crate) fn access_log(&self) -> PathBuf {
        self.logs().join("edge").join("access.log")
    }

    /// Secret files of an instance that has no mount namespace.
    pub(crate) fn secrets(&self, id: &InstanceId) -> PathBuf {
        self.run.join("secrets").join(&self.mark(id)[..16])
    }

    /// Tells this state folder from any other on the machine: twelve hexadecimal digits.
    pub(crate) fn hash(&self) -> String {
        digest(&[self.state.as_os_str().as_encoded_bytes()]).short()
    }

    /// Tells its containers and images from those of any other state that asks the same engine: twelve hexadecimal digits. Another one may lie
    /// at the same path, in a container of its own. The first call keeps `drawn`. Whoever calls it holds the lock of the state.
    ///
    /// # Errors
    /// What was kept cannot be read, or nothing can be kept.
    pub(crate) fn in_engines(&self, drawn: u64) -> io::Result<String> {
        let path = self.state.join(ENGINE_ID);
        let own = match fs::read(&path) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let own = format!("{drawn:016x}\n").into_bytes();
                replace(&path, &own, Durable::Yes)?;
                own
            }
            Err(error) => return Err(error),
        };
        Ok(digest(&[self.state.as_os_str().as_encoded_bytes(), b"\0", &own]).short())
    }

    /// What every process of an incarnation carries in its environment, unique on this machine.
    pub(crate) fn mark(&self, id: &InstanceId) -> String {
        let mark = digest(&[self.state.as_os_str().as_encoded_bytes(), b"\0", id.to_string().as_bytes()]);
        mark.to_string()[..32].to_owned()
    }
}

fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    Digest(hash.finalize().into())
}

/// Makes a folder and its parents; those that are new get `mode`, whatever the umask.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    /// A parent that was empty may be removed meanwhile, by whoever cleans up its last content.
    const ATTEMPTS: usize = 5;
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        outcome = make_once(path, mode);
        if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    outcome
}

fn make_once(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_once(parent, mode)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a write must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    /// It means nothing after the next start of the machine.
    No,
}

/// Replaces a file whole: whoever reads it sees the old or the new content.
pub(crate) fn replace(path: &Path, content: &[u8], durable: Durable) -> io::Result<()> {
    use std::io::Write;
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(content)?;
    if durable == Durable::Yes {
        file.sync_all()?;
    }
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) if durable == Durable::Yes => fs::File::open(folder)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(state: &str) -> Layout {
        Layout { state: state.into(), run: "/run/b".into() }
    }

    #[test]
    fn paths_are_those_of_the_documentation() {
        let id: InstanceId = "local/uploads.web.r3.0.12".parse().unwrap();
        let layout = layout("/s");
        let check = |got: PathBuf, expected: &str| assert_eq!(got, Path::new(expected));
        check(layout.instance(&id), "/s/instances/local/uploads/web.r3.0.12");
        check(layout.lock(&id.slot), "/s/instances/locks/local.uploads.web.r3.0");
        check(layout.log(&id.slot), "/s/logs/local/uploads/web.r3.0.log");
    }

    #[test]
    fn a_state_keeps_its_name_in_engines_and_no_other_has_it() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let layout = |folder: &tempfile::TempDir| layout(folder.path().to_str().unwrap());
        let name = layout(&one).in_engines(7).unwrap();
        assert_eq!(layout(&one).in_engines(8).unwrap(), name, "once");
        assert_ne!(layout(&other).in_engines(7).unwrap(), name, "of another path");
        fs::remove_file(one.path().join(ENGINE_ID)).unwrap();
        assert_ne!(layout(&one).in_engines(8).unwrap(), name, "at the same path");
        fs::remove_file(other.path().join(ENGINE_ID)).unwrap();
        fs::create_dir(other.path().join(ENGINE_ID)).unwrap();
        assert!(layout(&other).in_engines(7).is_err(), "never another one instead");
    }

    #[test]
    fn marks_differ_by_state_and_by_incarnation() {
        let id: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
        let next: InstanceId = "local/a.web.r1.0.2".parse().unwrap();
        assert_ne!(layout("/s").mark(&id), layout("/t").mark(&id));
        assert_ne!(layout("/s").mark(&id), layout("/s").mark(&next));
        assert_ne!(layout("/s").hash(), layout("/t").hash());
    }
}
