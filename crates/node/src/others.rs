//! Files in folders of another user, who may put other files in their place at any moment.
//!
//! Architecture invariant: nothing here goes by a path twice. What is looked at is held by a descriptor, links are not
//! followed, and a file that has a second name, perhaps outside, is refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat};

/// Folders in folders; each level holds two descriptors. No program here makes a tenth of it.
const DEEPEST: usize = 64;

/// Gives a tree to a user and the group of the same number, the top last.
///
/// # Errors
/// What belongs neither to the user nor to one of `from`, has another name as well, or lies too deep is refused; what
/// was given until then stays given.
pub(crate) fn give(tree: &Path, to: u32, from: &[u32]) -> io::Result<()> {
    let top = openat(CWD, tree, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    hand_over(&top, to, from, DEEPEST)
}

fn hand_over(held: &OwnedFd, to: u32, from: &[u32], levels: usize) -> io::Result<()> {
    let found = fstat(held)?;
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if found.st_uid != to && !from.contains(&found.st_uid) {
        return refused(format!("something in it belongs to user {}", found.st_uid));
    }
    let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if is_folder {
        let Some(levels) = levels.checked_sub(1) else { return refused("its folders are too deep".to_owned()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(held, ".", flags, Mode::empty())?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            hand_over(&openat(&folder, name, flags, Mode::empty())?, to, from, levels)?;
        }
    } else if found.st_nlink > 1 {
        return refused("a file in it has a second name".to_owned());
    }
    let (uid, gid) = (Uid::from_raw(to), Gid::from_raw(to));
    Ok(chownat(held, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// A regular file. Waits for no writer.
///
/// # Errors
/// Anything else in its place: `InvalidData`, or the system's for a link.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file")),
    }
}

/// A regular file of at most `most` bytes.
///
/// # Errors
/// As of [`open_file`]; it is larger.
pub(crate) fn read_small(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > most {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use nix::sys::stat::Mode as NixMode;

    use super::*;

    #[test]
    fn only_a_small_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("small"), "15\n").unwrap();
        fs::write(path("large"), vec![b'x'; 17]).unwrap();
        symlink(path("small"), path("link")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), NixMode::S_IRWXU).unwrap();
        assert_eq!(read_small(&path("small"), 16).unwrap(), b"15\n");
        for name in ["large", "link", "zero", "fifo", "."] {
            assert!(read_small(&path(name), 16).is_err(), "{name}");
        }
        assert_eq!(read_small(&path("none"), 16).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tree_is_given_and_what_a_link_leads_to_is_not() {
        let own = nix::unistd::geteuid().as_raw();
        let to = if own == 0 { 1_900_065_000 } else { own };
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        fs::write(&outside, "root's").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink(dir.path(), tree.join("folder")).unwrap();
        let uid = |path: &Path| path.symlink_metadata().unwrap().uid();

        give(&tree, to, &[own]).unwrap();
        for name in ["", "a", "a/b", "a/b/file", "a/link", "folder"] {
            assert_eq!(uid(&tree.join(name)), to, "{name}");
        }
        assert_eq!((uid(&outside), uid(dir.path())), (own, own), "links are not followed");

        fs::hard_link(&outside, tree.join("a/second")).unwrap();
        let error = give(&tree, to, &[own]).unwrap_err();
        assert!(error.to_string().contains("second name"), "{error}");
        assert_eq!(uid(&outside), own);
        assert!(give(&outside, to, &[]).is_err() || own == to, "what is of neither is refused");
        let top = dir.path().join("top-link");
        symlink(&tree, &top).unwrap();
        give(&top, to, &[own]).unwrap();
        assert_eq!(uid(&top), to, "the link itself");
    }
}
