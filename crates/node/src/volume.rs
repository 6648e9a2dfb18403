//! Volumes: folders that outlive releases, owned by the app's user.

use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_once_and_its_content_stays() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("volumes/local/a/files");
        ensure(&folder, None).unwrap();
        std::fs::write(folder.join("x"), "kept").unwrap();
        ensure(&folder, None).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("x")).unwrap(), "kept");
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(folder.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o711);
    }
}
