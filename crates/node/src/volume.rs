//! Volumes: folders that outlive releases, owned by the app's user.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::layout;

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
mod tests {
    use super::*;

    #[test]
    fn a_path_is_followed_as_far_as_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        let check = |path: &str, expected: &str| assert_eq!(real(&root.join(path)), root.join(expected), "{path}");
        check("link/a/b", "a/b");
        check("a", "a");
        assert_eq!(real(&root.join("link")), root);
    }

    #[test]
    fn a_volume_is_made_once_and_its_content_stays() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("volumes/local/a/files");
        ensure(&folder, None).unwrap();
        fs::write(folder.join("x"), "kept").unwrap();
        ensure(&folder, None).unwrap();
        assert_eq!(fs::read_to_string(folder.join("x")).unwrap(), "kept");
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(folder.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o711);
    }
}
