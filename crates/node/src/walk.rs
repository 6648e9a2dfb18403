//! Trees that an app, an archive or a build has made: as deep and as wide as whoever made them liked.
//!
//! Nothing here recurses, keeps what a folder holds in memory, or opens a descriptor for each level. A folder is opened from the one that
//! it lies in, and no link is followed, whoever changes the tree meanwhile.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, Stat, fchmod, fstat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Folders within folders that are read. The deepest trees of packages have some thirty.
pub(crate) const MOST_LEVELS: usize = 256;
/// So many folders, each within the one before, are open at once while a tree is removed.
const MOST_OPEN: usize = 32;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a walk comes to.
pub(crate) struct Found<'w> {
    folder: BorrowedFd<'w>,
    name: &'w CStr,
    kind: FileType,
}

impl Found<'_> {
    pub(crate) fn is_folder(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Neither file, folder nor link: of no use without whoever made it.
    pub(crate) fn is_special(&self) -> bool {
        ![FileType::Directory, FileType::RegularFile, FileType::Symlink].contains(&self.kind)
    }

    /// Held without being opened: nothing waits for it, and no permission is asked.
    pub(crate) fn hold(&self) -> io::Result<OwnedFd> {
        Ok(hold(self.folder, self.name)?)
    }

    /// One that is no folder.
    pub(crate) fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(self.folder, self.name, AtFlags::empty())?)
    }
}

/// A folder that was left for one in it.
struct Left {
    is: (u64, u64),
    /// Where it is read on.
    at: i64,
}

/// Visits all below a folder, a folder before what is in it. One descriptor is open at a time.
///
/// # Errors
/// It cannot be read, or changes under the walk; folders are nested more than [`MOST_LEVELS`] deep ([`io::ErrorKind::InvalidData`]);
/// whatever `visit` says.
pub(crate) fn each(top: &Path, visit: &mut dyn FnMut(&Found<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut here = Dir::new(openat(CWD, top, FOLDER, Mode::empty())?)?;
    let mut way: Vec<Left> = Vec::new();
    loop {
        let Some(entry) = here.read() else {
            let Some(left) = way.pop() else { return Ok(()) };
            here = go_back(&here, &left)?;
            continue;
        };
        let entry = entry?;
        if is_itself(&entry) {
            continue;
        }
        let folder = here.fd()?;
        let found = Found { folder, name: entry.file_name(), kind: kind(folder, &entry)? };
        visit(&found)?;
        if found.is_folder() {
            if way.len() + 1 == MOST_LEVELS {
                let what = format!("folders are nested too deeply: more than {MOST_LEVELS} within each other");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            let inner = openat(folder, entry.file_name(), FOLDER, Mode::empty())?;
            way.push(Left { is: identity(&fstat(folder)?), at: entry.offset() });
            here = Dir::new(inner)?;
        }
    }
}

fn go_back(from: &Dir, left: &Left) -> io::Result<Dir> {
    let outer = openat(from.fd()?, c"..", FOLDER, Mode::empty())?;
    if identity(&fstat(&outer)?) != left.is {
        return Err(io::Error::other("a folder was moved while it was read"));
    }
    let mut outer = Dir::new(outer)?;
    outer.seek(left.at)?;
    Ok(outer)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_itself(entry: &DirEntry) -> bool {
    [c".", c".."].contains(&entry.file_name())
}

fn kind(folder: BorrowedFd<'_>, entry: &DirEntry) -> rustix::io::Result<FileType> {
    let said = entry.file_type();
    if said != FileType::Unknown {
        return Ok(said);
    }
    // Not every file system says so.
    let stat = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn hold(folder: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Sets the permissions of what is held; of a link there are none.
pub(crate) fn permit(held: &OwnedFd, mode: u32) -> io::Result<()> {
    fs::set_permissions(format!("/proc/self/fd/{}", held.as_raw_fd()), fs::Permissions::from_mode(mode))
}

/// Removes a tree, also one whose folders forbid it to their owner (overlayfs leaves such a `work`); a file or a link, too. What is not
/// there is removed.
///
/// # Errors
/// The first that cannot be removed; what comes after it is left.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match open_wide(CWD, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if is_no_folder(&error) => gone(unlinkat(CWD, path, AtFlags::empty())),
        Err(error) => Err(error),
        Ok(top) => {
            empty(top)?;
            gone(unlinkat(CWD, path, AtFlags::REMOVEDIR))
        }
    }
}

/// Where folders lie deeper than may be open, they are moved up to the top, each with all that is in it, and emptied there.
fn empty(top: OwnedFd) -> io::Result<()> {
    let mark = getrandom::u64().map_err(io::Error::from)?;
    let moved_name = |number: u64| CString::new(format!("{mark:016x}.{number}")).map_err(io::Error::other);
    let mut open = Open { top: Dir::new(top)?, way: Vec::new() };
    let (mut moved, mut emptied) = (0_u64, 0_u64);
    loop {
        match open.innermost_mut().read().transpose()? {
            Some(entry) if is_itself(&entry) => {}
            Some(entry) => {
                let (name, folder) = (entry.file_name(), open.innermost().fd()?);
                if kind(folder, &entry)? != FileType::Directory {
                    gone(unlinkat(folder, name, AtFlags::empty()))?;
                } else if open.way.len() < MOST_OPEN {
                    open.enter(name.to_owned())?;
                } else {
                    move_up(folder, name, open.top.fd()?, &moved_name(moved)?)?;
                    moved += 1;
                }
            }
            None => match open.way.pop() {
                Some((name, _)) => gone(unlinkat(open.innermost().fd()?, &name, AtFlags::REMOVEDIR))?,
                None if emptied < moved => {
                    open.enter(moved_name(emptied)?)?;
                    emptied += 1;
                }
                None => return Ok(()),
            },
        }
    }
}

/// The top of a tree that is removed, and folders on the way down, with their names in the one before.
struct Open {
    top: Dir,
    way: Vec<(CString, Dir)>,
}

impl Open {
    fn innermost(&self) -> &Dir {
        self.way.last().map_or(&self.top, |(_, folder)| folder)
    }

    fn innermost_mut(&mut self) -> &mut Dir {
        self.way.last_mut().map_or(&mut self.top, |(_, folder)| folder)
    }

    /// One that is gone already is not entered.
    fn enter(&mut self, name: CString) -> io::Result<()> {
        match open_wide(self.innermost().fd()?, name.as_c_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(inner) => {
                self.way.push((name, Dir::new(inner)?));
                Ok(())
            }
        }
    }
}

fn move_up(folder: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, to: &CStr) -> io::Result<()> {
    match renameat(folder, name, top, to) {
        // With its parent changes what is written in it.
        Err(Errno::ACCESS) => {
            permit(&hold(folder, name)?, 0o700)?;
            Ok(renameat(folder, name, top, to)?)
        }
        moved => Ok(moved?),
    }
}

/// A folder whose entries can be taken out by its owner from now on.
fn open_wide(around: impl AsFd, name: impl Arg + Copy) -> io::Result<OwnedFd> {
    let open = || openat(around.as_fd(), name, FOLDER, Mode::empty());
    let folder = match open() {
        Err(Errno::ACCESS) => {
            let held = hold(around.as_fd(), name)?;
            if FileType::from_raw_mode(fstat(&held)?.st_mode) == FileType::Directory {
                permit(&held, 0o700)?;
            }
            open()?
        }
        folder => folder?,
    };
    if fstat(&folder)?.st_mode & 0o700 != 0o700 {
        // Where it is somebody else's, root needs none of it, and for others removing fails, which says why.
        let _ = fchmod(&folder, Mode::RWXU);
    }
    Ok(folder)
}

fn is_no_folder(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP))
}

fn gone(removed: rustix::io::Result<()>) -> io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    /// Folders within folders, deeper than any path can say; the innermost holds a file.
    pub(crate) fn deep(top: &Path, levels: usize) {
        let mut here = openat(CWD, top, FOLDER, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&here, c"f", Mode::RWXU).unwrap();
            here = openat(&here, c"f", FOLDER, Mode::empty()).unwrap();
        }
        openat(&here, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    /// Runs the test of this name in a process of its own, in which few descriptors may be open; whether this is that one.
    fn has_few_descriptors(test: &str) -> bool {
        const FEW: &str = "BOWLINE_TEST_FEW_DESCRIPTORS";
        if std::env::var_os(FEW).is_some() {
            return true;
        }
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""]);
        limited.arg(std::env::current_exe().unwrap()).arg(format!("walk::tests::{test}")).env(FEW, "1");
        let output = limited.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        false
    }

    #[test]
    fn a_tree_is_removed_however_deep_it_is() {
        if !has_few_descriptors("a_tree_is_removed_however_deep_it_is") {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        for folder in ["tree", "tree/one", "tree/two", "outside"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, tree.join("one/link")).unwrap();
        deep(&tree.join("one"), 3_000);
        deep(&tree.join("two"), 3_000);
        fs::write(tree.join("two/file"), "").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_removed_itself() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        fs::write(&file, "").unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        symlink(root.path().join("folder"), &link).unwrap();
        remove_tree(&link).unwrap();
        remove_tree(&file).unwrap();
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["folder"]);
    }

    #[test]
    fn a_folder_that_forbids_its_owner_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("a");
        fs::create_dir_all(tree.join("b/c")).unwrap();
        fs::write(tree.join("b/file"), "").unwrap();
        fs::set_permissions(tree.join("b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn all_is_visited_once_and_a_folder_first() {
        let root = tempfile::tempdir().unwrap();
        let mut made = std::collections::BTreeSet::new();
        // More than is read at once, around folders that are entered.
        for number in 0..500 {
            let folder = root.path().join(format!("folder{number}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(format!("file{number}")), "").unwrap();
            made.extend([format!("folder{number}"), format!("file{number}")]);
        }
        symlink("/", root.path().join("link")).unwrap();
        made.insert("link".to_owned());
        let mut seen = Vec::new();
        each(root.path(), &mut |found| {
            seen.push(found.name.to_str().unwrap().to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen.len(), made.len());
        for (at, name) in seen.iter().enumerate() {
            let around = name.strip_prefix("file").map(|number| format!("folder{number}"));
            assert!(around.is_none_or(|around| seen[at - 1] == around), "{name} comes after its folder");
        }
        assert_eq!(seen.into_iter().collect::<std::collections::BTreeSet<_>>(), made);
    }

    #[test]
    fn a_walk_goes_no_deeper_than_it_says() {
        if !has_few_descriptors("a_walk_goes_no_deeper_than_it_says") {
            return;
        }
        let check = |levels: usize, expected: Result<u64, io::ErrorKind>| {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("tree")).unwrap();
            deep(&root.path().join("tree"), levels);
            let mut files = 0;
            let walked = each(&root.path().join("tree"), &mut |found| {
                files += u64::from(!found.is_folder());
                Ok(())
            });
            assert_eq!(walked.map(|()| files).map_err(|error| error.kind()), expected, "{levels}");
            remove_tree(&root.path().join("tree")).unwrap();
        };
        check(MOST_LEVELS - 1, Ok(1));
        check(MOST_LEVELS, Err(io::ErrorKind::InvalidData));
        check(3_000, Err(io::ErrorKind::InvalidData));
    }
}
