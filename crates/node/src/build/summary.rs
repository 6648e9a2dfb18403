//! What a sealed folder looks like from outside: enough to tell, at the price of listing it, that it was changed since.
//!
//! Contents are not read: whoever changes one changes its size or its time, and a disk that loses bits is the file
//! system's to notice. Compiled Python (`__pycache__`) is left out: interpreters make it again, and check it against
//! its source by themselves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::source::field;
use crate::walk::MOST_LEVELS;

/// Path parts by which entries are grouped: `app/server.py`, `venv/lib`. Deeper would only name the damage better.
const NAMED_PARTS: usize = 2;

const COMPILED: &str = "__pycache__";

/// Hashes over path, kind, mode, size, modification time and link target of all entries, one for each group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Summary(BTreeMap<String, String>);

/// How a folder differs from what was sealed: the first group that is gone, else the first that does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("{0} is gone")]
    Gone(String),
    #[error("{0} was changed")]
    Changed(String),
    #[error("{0} was added")]
    Added(String),
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

impl Summary {
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let mut groups = BTreeMap::new();
        walk(folder, (Path::new(""), MOST_LEVELS), &mut groups)?;
        let hex = |hash: Sha256| bowline_core::id::Digest(hash.finalize().into()).to_string();
        Ok(Self(groups.into_iter().map(|(name, hash)| (name, hex(hash))).collect()))
    }

    /// What has become of the folder that this was made of.
    pub(super) fn verify(&self, folder: &Path) -> Result<(), Damage> {
        let now = Self::of(folder).map_err(|e| Damage::Unreadable(e.to_string()))?;
        if let Some(name) = self.0.keys().find(|name| !now.0.contains_key(*name)) {
            return Err(Damage::Gone(name.clone()));
        }
        match now.0.iter().find(|(name, hash)| self.0.get(*name) != Some(hash)) {
            Some((name, _)) if self.0.contains_key(name) => Err(Damage::Changed(name.clone())),
            Some((name, _)) => Err(Damage::Added(name.clone())),
            None => Ok(()),
        }
    }
}

/// No deeper than anything is frozen.
fn walk(root: &Path, (below, levels): (&Path, usize), groups: &mut BTreeMap<String, Sha256>) -> io::Result<()> {
    let levels = levels.checked_sub(1).ok_or_else(|| io::Error::other("folders are nested too deeply"))?;
    let mut names = fs::read_dir(root.join(below))?
        .map(|entry| entry.map(|e| e.file_name()))
        .filter(|name| !name.as_ref().is_ok_and(|name| name == OsStr::new(COMPILED)))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let path = below.join(name);
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full)?;
        let parts: Vec<_> = path.iter().take(NAMED_PARTS).map(OsStr::to_string_lossy).collect();
        feed(groups.entry(parts.join("/")).or_default(), &path, &full, &metadata)?;
        if metadata.is_dir() {
            walk(root, (&path, levels), groups)?;
        }
    }
    Ok(())
}

fn feed(hash: &mut Sha256, path: &Path, full: &Path, metadata: &Metadata) -> io::Result<()> {
    field(hash, path.as_os_str().as_bytes());
    // Kind and permissions.
    field(hash, &metadata.mode().to_le_bytes());
    if metadata.is_symlink() {
        field(hash, fs::read_link(full)?.as_os_str().as_bytes());
    } else if !metadata.is_dir() {
        // A folder's own time says only that entries came or went, which the entries say better.
        field(hash, &metadata.size().to_le_bytes());
        field(hash, &metadata.mtime().to_le_bytes());
        field(hash, &metadata.mtime_nsec().to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn every_change_but_that_of_a_cache_is_damage() {
        let check = |change: &dyn Fn(&Path), expected: Result<(), Damage>| {
            let folder = tempfile::tempdir().unwrap();
            let app = folder.path().join("app");
            fs::create_dir_all(app.join("lib/deep/__pycache__")).unwrap();
            for file in ["run.py", "lib/deep/a.py", "lib/deep/__pycache__/a.pyc"] {
                fs::write(app.join(file), "1234").unwrap();
            }
            symlink("run.py", app.join("link")).unwrap();
            let summary = Summary::of(folder.path()).unwrap();
            assert_eq!(summary.verify(folder.path()), Ok(()));
            change(&app);
            assert_eq!(summary.verify(folder.path()), expected);
        };
        let changed = |name: &str| Err(Damage::Changed(name.to_owned()));
        check(&|app| fs::remove_file(app.join("run.py")).unwrap(), Err(Damage::Gone("app/run.py".to_owned())));
        check(&|app| fs::remove_file(app.join("lib/deep/a.py")).unwrap(), changed("app/lib"));
        check(&|app| fs::write(app.join("more"), "").unwrap(), Err(Damage::Added("app/more".to_owned())));
        check(&|app| fs::write(app.join("lib/more"), "").unwrap(), changed("app/lib"));
        check(&|app| fs::write(app.join("run.py"), "12345").unwrap(), changed("app/run.py"));
        let later = |app: &Path| {
            let file = fs::File::options().write(true).open(app.join("run.py")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        check(&later, changed("app/run.py"));
        let open = |app: &Path| fs::set_permissions(app.join("run.py"), fs::Permissions::from_mode(0o777)).unwrap();
        check(&open, changed("app/run.py"));
        let lead_elsewhere = |app: &Path| {
            fs::remove_file(app.join("link")).unwrap();
            symlink("lib", app.join("link")).unwrap();
        };
        check(&lead_elsewhere, changed("app/link"));
        check(&|app| fs::remove_dir_all(app).unwrap(), Err(Damage::Gone("app".to_owned())));
        check(&|app| fs::write(app.join("lib/deep/__pycache__/b.pyc"), "").unwrap(), Ok(()));
        check(&|app| fs::remove_dir_all(app.join("lib/deep/__pycache__")).unwrap(), Ok(()));
    }
}
