//! From what a build left to what instances run from: nothing in it can be written, and nothing in it is anyone else's.
//!
//! What built may have been hostile, and whoever reads the folder later may be root. So links are never followed here;
//! what is neither file, folder nor link is taken out; and a file that has another name outside is copied, since whoever
//! holds that name could go on writing to it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::artifact::APP;
use crate::walk::MOST_LEVELS;

/// Takes all write permission away, gives everyone what its owner may read or run, and makes the node's user the owner:
/// the instance that runs from it, under another user or the builder's own, cannot change it. `parts` are the folders in
/// it that a build could write to. Gives what was taken out.
pub(super) fn freeze(folder: &Path, parts: &[&str]) -> io::Result<Vec<PathBuf>> {
    for part in parts.iter().map(|part| folder.join(part)) {
        match fs::symlink_metadata(&part) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(refused(&part, "the build put something else in the place of a folder")),
            // An app without a virtual environment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !part.ends_with(APP) => {}
            Err(error) => return Err(error),
        }
    }
    let mut names = BTreeMap::new();
    each(folder, &mut |_, metadata| {
        if metadata.is_file() && metadata.nlink() > 1 {
            *names.entry((metadata.dev(), metadata.ino())).or_insert(0) += 1;
        }
        Ok(())
    })?;
    let has_others = |metadata: &Metadata| {
        let here = names.get(&(metadata.dev(), metadata.ino()));
        here.is_some_and(|here| *here < metadata.nlink())
    };
    let mut taken_out = Vec::new();
    each(folder, &mut |path, metadata| {
        if is_special(metadata) {
            fs::remove_file(path)?;
            taken_out.push(path.to_owned());
            return Ok(());
        }
        if metadata.is_file() && has_others(metadata) {
            copy_in_place(path)?;
        }
        freeze_one(path, metadata)
    })?;
    Ok(taken_out)
}

/// Sockets, pipes and devices: of no use without whoever made them.
fn is_special(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device()
}

fn freeze_one(path: &Path, metadata: &Metadata) -> io::Result<()> {
    // Also takes set-uid and set-gid bits away from a file.
    lchown(path, Some(nix::unistd::geteuid().as_raw()), Some(nix::unistd::getegid().as_raw()))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let owner = metadata.mode() & 0o500;
    let mode = owner | owner >> 3 | owner >> 6;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn copy_in_place(path: &Path) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut copy = tempfile::NamedTempFile::new_in(folder)?;
    io::copy(&mut fs::File::open(path)?, copy.as_file_mut())?;
    copy.persist(path)?;
    Ok(())
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
}

/// Visits `path` and all below it, a folder after what is in it. Links are not followed.
pub(super) fn each(path: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    each_below(path, MOST_LEVELS, visit)
}

fn each_below(path: &Path, levels: usize, visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        let levels = levels.checked_sub(1).ok_or_else(|| refused(path, "folders are nested too deeply"))?;
        // Read to its end first: a folder that is open on each level is a descriptor on each level.
        for entry in fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()? {
            each_below(&entry.path(), levels, visit)?;
        }
    }
    visit(path, &metadata)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_build_left_is_made_harmless() {
        let root = tempfile::tempdir().unwrap();
        let (folder, outside) = (root.path().join("artifact"), root.path().join("outside"));
        let app = folder.join("app");
        fs::create_dir_all(&app).unwrap();
        fs::write(&outside, "kept by somebody").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o644)).unwrap();
        fs::hard_link(&outside, app.join("shared")).unwrap();
        fs::write(app.join("one"), "1").unwrap();
        fs::hard_link(app.join("one"), app.join("two")).unwrap();
        fs::write(app.join("program"), "#!").unwrap();
        fs::set_permissions(app.join("program"), fs::Permissions::from_mode(0o6755)).unwrap();
        symlink("/etc/passwd", app.join("link")).unwrap();
        nix::unistd::mkfifo(&app.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(app.join("socket")).unwrap();

        let mut taken_out = freeze(&folder, &["app", "venv"]).unwrap();
        taken_out.sort();
        assert_eq!(taken_out, [app.join("pipe"), app.join("socket")]);
        let of = |path: &Path| fs::symlink_metadata(path).unwrap();
        let mode = |path: &Path| of(path).mode() & 0o7777;
        assert_eq!((mode(&app.join("program")), mode(&app.join("shared")), mode(&app)), (0o555, 0o444, 0o555));
        assert_ne!(of(&outside).ino(), of(&app.join("shared")).ino(), "nobody outside can write to it");
        assert_eq!(fs::read_to_string(app.join("shared")).unwrap(), "kept by somebody");
        assert_eq!((mode(&outside), of(&outside).nlink()), (0o644, 1), "and what is outside is left alone");
        assert_eq!(of(&app.join("one")).ino(), of(&app.join("two")).ino());
        assert!(of(&app.join("link")).is_symlink());
        fs::set_permissions(&app, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_folder_that_leads_elsewhere_is_no_part_of_an_artifact() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/etc", folder.path().join("app")).unwrap();
        assert!(freeze(folder.path(), &["app"]).unwrap_err().to_string().contains("in the place of a folder"));
    }

    #[test]
    fn levels_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let deep = (0..MOST_LEVELS).fold(folder.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(&deep).unwrap();
        assert!(each(folder.path(), &mut |_, _| Ok(())).unwrap_err().to_string().contains("too deeply"));
        assert!(each(&folder.path().join("d/d"), &mut |_, _| Ok(())).is_ok());
    }
}
