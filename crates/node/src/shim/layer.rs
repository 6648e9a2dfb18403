//! A layer over the release folder that dies with the instance: most small apps write beside their code, and the
//! artifact never changes.
//!
//! An artifact is sealed: nothing in it can be written, and as root nothing in it is the app's. In the layer, and only
//! there, its folders and files are given to the app. Where overlayfs keeps changed metadata apart from content
//! (`metacopy`) that copies nothing.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Component, Path};

use nix::mount::{MsFlags, mount};

use crate::layout;

/// Folders and files given to the app; a source tree has far fewer. Some 20 µs each, before the app starts.
const MOST_ENTRIES: usize = 10_000;
/// Larger files stay as they are built. With `metacopy` their content is not copied now, but it is when they are changed.
const LARGEST: u64 = 64 << 20;
const LARGEST_COPIED: u64 = 1 << 20;
/// What tools put there, and no app writes to.
const NOT_CODE: [&str; 4] = ["node_modules", ".venv", "venv", ".git"];

/// How much of the folder the app may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Whole,
    /// There are more entries than [`MOST_ENTRIES`]; the deepest stay as built.
    Part,
}

/// Mounts it in this mount namespace. What is written lies in `folder`; `named` are folders in the release that the app says it
/// writes to: they are made if absent, and then it is those that must be given whole.
pub(super) fn put_over(root: &Path, folder: &Path, uid: Option<u32>, named: &[String]) -> io::Result<Reach> {
    let (upper, work) = (folder.join("overlay/upper"), folder.join("overlay/work"));
    // What is written there is the app's alone, whatever mode it gives to it.
    layout::make_folder(&folder.join("overlay"), 0o700)?;
    layout::make_folder(&upper, 0o755)?;
    layout::make_folder(&work, 0o755)?;
    let mut options = option("lowerdir=", root)?;
    options.push(option(",upperdir=", &upper)?);
    options.push(option(",workdir=", &work)?);
    let overlay = |extra: &str| {
        let mut options = options.clone();
        options.push(extra);
        mount(Some("overlay"), root, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_os_str()))
    };
    let largest = if !nix::unistd::geteuid().is_root() {
        overlay(",userxattr")?;
        LARGEST_COPIED
    } else if overlay(",metacopy=on").is_ok() {
        LARGEST
    } else {
        overlay("")?;
        LARGEST_COPIED
    };
    let reach = give(root, uid, largest, MOST_ENTRIES)?;
    let mut left = Reach::Whole;
    for name in named {
        if give_named(root, name, uid)? == Reach::Part {
            left = Reach::Part;
        }
    }
    Ok(if named.is_empty() { reach } else { left })
}

/// Never through a link: it could lead out of the release, and this process may be root.
fn give_named(root: &Path, name: &str, uid: Option<u32>) -> io::Result<Reach> {
    let mut path = root.to_owned();
    for part in Path::new(name).components() {
        let Component::Normal(part) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            // One file that the app writes to.
            Ok(found) if found.is_file() => return give_one(&path, uid, 0o600).map(|()| Reach::Whole),
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path)?;
                give_one(&path, uid, 0o700)?;
            }
            Err(error) => return Err(error),
        }
    }
    give(&path, uid, u64::MAX, MOST_ENTRIES)
}

/// Breadth first: if not all can be given, the folders at the top are.
fn give(root: &Path, uid: Option<u32>, largest: u64, most: usize) -> io::Result<Reach> {
    give_one(root, uid, 0o700)?;
    let mut folders = VecDeque::from([root.to_owned()]);
    let mut given = 0;
    while let Some(folder) = folders.pop_front() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if NOT_CODE.iter().any(|name| entry.file_name() == *name) || !(kind.is_dir() || kind.is_file()) {
                continue;
            }
            if given == most {
                return Ok(Reach::Part);
            }
            given += 1;
            if kind.is_dir() {
                give_one(&entry.path(), uid, 0o700)?;
                folders.push_back(entry.path());
            } else if entry.metadata()?.len() <= largest {
                give_one(&entry.path(), uid, 0o600)?;
            }
        }
    }
    Ok(Reach::Whole)
}

fn give_one(path: &Path, uid: Option<u32>, rights: u32) -> io::Result<()> {
    if let Some(uid) = uid {
        lchown(path, Some(uid), Some(uid))?;
    }
    let mode = fs::symlink_metadata(path)?.permissions().mode() & 0o777;
    match mode | rights {
        same if same == mode => Ok(()),
        mode => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    }
}

/// The kernel separates options by commas and layers by colons; both may be part of a path if escaped.
fn option(name: &str, path: &Path) -> io::Result<OsString> {
    let text = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let escaped = text.replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:");
    Ok(OsStr::new(&format!("{name}{escaped}")).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_options_escape_what_separates_them() {
        let check = |path: &str, expected: &str| assert_eq!(option("lowerdir=", Path::new(path)).unwrap(), expected);
        check("/a/b", "lowerdir=/a/b");
        check("/a:b,c\\d", "lowerdir=/a\\:b\\,c\\\\d");
    }

    #[test]
    fn a_named_folder_is_made_and_never_found_through_a_link() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        fs::create_dir(root.path().join("node_modules")).unwrap();
        fs::set_permissions(root.path().join("node_modules"), fs::Permissions::from_mode(0o555)).unwrap();
        assert_eq!(give_named(root.path(), "var/cache", None).unwrap(), Reach::Whole);
        assert!(root.path().join("var/cache").is_dir());
        assert_eq!(give_named(root.path(), "node_modules", None).unwrap(), Reach::Whole);
        assert_eq!(fs::metadata(root.path().join("node_modules")).unwrap().permissions().mode() & 0o777, 0o755);
        for bad in ["link", "link/x", "../x"] {
            assert!(give_named(root.path(), bad, None).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_and_files_are_given_from_the_top_within_their_bounds() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
        fs::create_dir_all(path("a/b")).unwrap();
        fs::create_dir_all(path("a/node_modules")).unwrap();
        fs::write(path("a/b/large"), "12345").unwrap();
        fs::write(path("a/small"), "1").unwrap();
        let seal = || {
            for (name, mode) in
                [("a/b/large", 0o444), ("a/small", 0o555), ("a/b", 0o555), ("a/node_modules", 0o555), ("a", 0o555)]
            {
                fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        seal();
        assert_eq!(give(root.path(), None, 4, 100).unwrap(), Reach::Whole);
        let expected =
            [("a", 0o755), ("a/b", 0o755), ("a/small", 0o755), ("a/b/large", 0o444), ("a/node_modules", 0o555)];
        expected.into_iter().for_each(|(name, expected)| assert_eq!(mode(name), expected, "{name}"));
        seal();
        assert_eq!(give(root.path(), None, 4, 1).unwrap(), Reach::Part);
        assert_eq!((mode("a"), mode("a/b")), (0o755, 0o555));
        give(root.path(), None, 4, 100).unwrap();
    }
}
