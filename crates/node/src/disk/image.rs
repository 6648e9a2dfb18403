//! A file system in a file, by the machine's own tools (e2fsprogs, util-linux).
//!
//! A loop device is never set up by hand: `mount` does it, reuses the device of a file that is attached already (two of
//! one file would destroy it), and leaves it to the kernel to let the device go with its last mount.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use nix::mount::{MntFlags, umount2};

/// What the kernel does not take from a file system that others write to.
const HARMLESS: &str = "nodev,nosuid,noatime";
/// Where the tools lie.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("{0} is not installed")]
    Missing(&'static str),
    #[error("cannot run {program}")]
    Spawn { program: &'static str, source: io::Error },
    #[error("{program} ended with {status}: {said}")]
    Failed { program: &'static str, status: ExitStatus, said: String },
}

/// What is to be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Data that survive a power cut. All of it is reserved already.
    Volume,
    /// What dies with an instance; it takes from the disk only what is in it.
    Scratch,
}

/// Makes an empty file system as large as the file. `lock` is held by the tool, too: it may outlive this process.
pub(crate) fn format(image: &Path, purpose: Purpose, lock: Option<&File>) -> Result<(), ToolError> {
    // Nothing is kept for root, and nothing is given back that was reserved.
    let mut command = tool("mkfs.ext4", lock);
    command.args(["-q", "-F", "-b", "4096", "-m", "0", "-E", "nodiscard,lazy_itable_init=1"]);
    match purpose {
        Purpose::Volume => {}
        Purpose::Scratch => drop(command.args(["-O", "^has_journal,^resize_inode"])),
    }
    command.arg(image);
    run("mkfs.ext4", command).map(drop)
}

/// Mounts it; the loop device goes with the mount.
pub(crate) fn attach(image: &Path, at: &Path, purpose: Purpose, lock: Option<&File>) -> Result<(), ToolError> {
    let options = match purpose {
        // Left to itself the kernel zeroes the tables of inodes by holes, and what was reserved is given back.
        Purpose::Volume => format!("loop,{HARMLESS},errors=remount-ro,noinit_itable"),
        // What is removed goes back to the disk, and nothing is written that nobody asked for.
        Purpose::Scratch => format!("loop,{HARMLESS},discard,noinit_itable"),
    };
    let mut command = tool("mount", lock);
    command.args(["-t", "ext4", "-o", &options]).arg(image).arg(at);
    run("mount", command)?;
    if let Err(error) = bypass_cache(at, lock) {
        tracing::debug!(at = %at.display(), %error, "what is written there is cached twice");
    }
    Ok(())
}

/// Lets the loop device below a mount read and write its file directly. Through the page cache everything would be copied and
/// written back once more, by the kernel's own threads, which no limit of the writer bounds.
fn bypass_cache(at: &Path, lock: Option<&File>) -> io::Result<()> {
    let number = fs::metadata(at)?.dev();
    let device = fs::canonicalize(format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number)))?;
    let mut command = tool("losetup", lock);
    command.arg("--direct-io=on").arg(Path::new("/dev").join(device.file_name().unwrap_or_default()));
    run("losetup", command).map(drop).map_err(io::Error::other)
}

/// Ends a mount. One that somebody is still in disappears now and ends with them; the answer says so.
pub(crate) fn detach(at: &Path) -> io::Result<Detached> {
    match umount2(at, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Detached::Whole),
        Err(nix::errno::Errno::EBUSY) => {
            umount2(at, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?;
            Ok(Detached::Held)
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detached {
    Whole,
    Held,
}

/// The loop device that a file is attached to, if it is: its file system may be mounted where this process cannot see it.
pub(crate) fn device(image: &Path) -> Result<Option<PathBuf>, ToolError> {
    let mut command = tool("losetup", None);
    command.args(["--noheadings", "--output", "NAME", "--associated"]).arg(image);
    let said = run("losetup", command)?;
    Ok(said.lines().map(str::trim).find(|line| !line.is_empty()).map(PathBuf::from))
}

/// Replays its journal and mends what can be mended without a question. Not while it is mounted.
pub(crate) fn check(image: &Path, lock: &File) -> Result<(), ToolError> {
    /// Errors were found and corrected.
    const CORRECTED: i32 = 1;
    let mut command = tool("e2fsck", Some(lock));
    command.arg("-p").arg(image);
    match run("e2fsck", command) {
        Err(ToolError::Failed { status, .. }) if status.code() == Some(CORRECTED) => Ok(()),
        other => other.map(drop),
    }
}

/// Lets the file system grow to the size of its file, which is not attached.
pub(crate) fn grow(image: &Path, lock: &File) -> Result<(), ToolError> {
    let mut command = tool("e2fsck", Some(lock));
    command.args(["-f", "-p"]).arg(image);
    match run("e2fsck", command) {
        Err(ToolError::Failed { status, .. }) if status.code() == Some(1) => {}
        other => drop(other?),
    }
    let mut command = tool("resize2fs", Some(lock));
    command.arg(image);
    run("resize2fs", command).map(drop)
}

/// The same while it is in use; the kernel does that for a process with `CAP_SYS_RESOURCE`.
pub(crate) fn grow_device(device: &Path, lock: &File) -> Result<(), ToolError> {
    let mut command = tool("losetup", Some(lock));
    command.arg("--set-capacity").arg(device);
    run("losetup", command)?;
    let mut command = tool("resize2fs", Some(lock));
    command.arg(device);
    run("resize2fs", command).map(drop)
}

/// Copies what is in one folder to another, with owners, times, links and attributes.
pub(crate) fn copy(from: &Path, to: &Path, lock: &File) -> Result<(), ToolError> {
    let mut command = tool("cp", Some(lock));
    command.args(["--archive", "--no-target-directory"]).arg(from).arg(to);
    run("cp", command).map(drop)
}

/// The bytes that the file system in a file takes itself to have, from its superblock (kernel documentation,
/// `filesystems/ext4/super.rst`: blocks at 0x4, the block size at 0x18).
pub(crate) fn formatted_bytes(image: &Path) -> io::Result<u64> {
    const SUPERBLOCK: u64 = 1024;
    let mut bytes = [0; 0x20];
    let mut file = File::open(image)?;
    file.seek(SeekFrom::Start(SUPERBLOCK))?;
    file.read_exact(&mut bytes)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok(u64::from(word(0x4)) << (10 + word(0x18).min(6)))
}

/// Mount points at or below a folder, the deepest last.
pub(crate) fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    found.sort();
    Ok(found)
}

/// Unmounts, in this mount namespace alone, what is mounted below a folder, but for what lies on the way to `own`. A mount
/// that stays in a namespace keeps its file system alive, wherever else it is unmounted.
pub(crate) fn leave_below(folder: &Path, own: &[PathBuf]) -> io::Result<()> {
    let Ok(folder) = fs::canonicalize(folder) else { return Ok(()) };
    let own: Vec<PathBuf> = own.iter().filter_map(|folder| fs::canonicalize(folder).ok()).collect();
    let is_own = |at: &PathBuf| own.iter().any(|folder| folder.starts_with(at) || at.starts_with(folder));
    let mounts = mounts_below(&folder)?;
    let mut others = mounts.iter().rev().filter(|at| **at != folder && !is_own(at));
    others.try_for_each(|at| match detach(at) {
        // The machine has unmounted it meanwhile, and so it is gone here.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done.map(drop),
    })
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(at: &Path) -> io::Result<bool> {
    match fs::canonicalize(at) {
        Ok(real) => Ok(mounts_below(&real)?.contains(&real)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The kernel writes blanks and backslashes in octal (`\040`).
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| bytes[at] == b'\\') {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

fn tool(program: &'static str, lock: Option<&File>) -> Command {
    let mut command = Command::new(program);
    let stdin = lock.and_then(|lock| lock.try_clone().ok()).map_or_else(Stdio::null, Stdio::from);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/").stdin(stdin);
    command
}

/// What it printed.
fn run(program: &'static str, mut command: Command) -> Result<String, ToolError> {
    let output = command.output().map_err(|source| match source.kind() == io::ErrorKind::NotFound {
        true => ToolError::Missing(program),
        false => ToolError::Spawn { program, source },
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = [output.stderr, output.stdout].concat();
            let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
            Err(ToolError::Failed { program, status: output.status, said })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let check = |text: &str, expected: &str| assert_eq!(unescape(text), Path::new(expected));
        check("/a/b", "/a/b");
        check("/a\\040b\\134", "/a b\\");
        check("/a\\04", "/a\\04");
    }

    #[test]
    fn a_file_knows_how_large_its_file_system_is() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        format(&image, Purpose::Volume, None).unwrap();
        assert_eq!(formatted_bytes(&image).unwrap(), 32 << 20);
        File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
        grow(&image, &File::open(&image).unwrap()).unwrap();
        assert_eq!(formatted_bytes(&image).unwrap(), 64 << 20);
    }

    #[test]
    fn a_tool_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::write(&image, "no file system").unwrap();
        let said = check(&image, &File::open(&image).unwrap()).unwrap_err().to_string();
        assert!(said.starts_with("e2fsck ended with exit status: 8: e2fsck: "), "{said}");
    }
}
