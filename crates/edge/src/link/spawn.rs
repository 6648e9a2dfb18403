//! Starting the edge's process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use tokio::process::{Child, Command};

use super::LinkConfig;
use crate::process::{EdgeArgs, Sockets};

/// Last lines of `edge.log` that a fault shows, and the bytes at its end in which they are looked for.
const LAST_LINES: usize = 10;
const TAIL: u64 = 8 << 10;

/// Whether another edge serves on the same sockets meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    First,
    Successor,
}

/// Starts the edge with these sockets: its own session, its log to `edge.log`, which it puts aside itself when that has grown, alive when
/// the daemon dies.
pub(super) fn start(config: &LinkConfig, sockets: &Sockets, kind: Kind) -> io::Result<Child> {
    prepare_log_dir(config)?;
    let log = open_log(&config.log_dir)?;
    let control = sockets.control.as_raw_fd();
    let http = sockets.http.as_ref().map(AsRawFd::as_raw_fd);
    let https = sockets.https.as_ref().map(AsRawFd::as_raw_fd);
    let args = EdgeArgs {
        control_fd: control,
        http_fd: http,
        https_fd: https,
        log_dir: config.log_dir.clone(),
        workers: config.workers,
        successor: kind == Kind::Successor,
    };
    let mut command = Command::new(&config.exe);
    command.args(&config.args).args(args.to_args());
    // Who supervises the daemon is told nothing by the edge.
    command.env_remove("NOTIFY_SOCKET");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    if let Some(uid) = config.uid.filter(|_| nix::unistd::geteuid().is_root()) {
        // The standard library drops the supplementary groups with it.
        command.uid(uid).gid(uid);
    }
    inherit(&mut command, [Some(control), http, https].into_iter().flatten().collect());
    command.spawn()
}

/// Whether an edge was started from the binary that this daemon starts edges from.
pub(super) fn is_of(config: &LinkConfig, pid: u32) -> bool {
    // One that cannot be looked at is left alone.
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .map_or(true, |line| line.split(|byte| *byte == 0).next() == Some(config.exe.as_os_str().as_encoded_bytes()))
}

/// Lets the child keep these descriptors, and no other process that is started meanwhile.
#[expect(unsafe_code, reason = "between fork and exec only a closure can act in the child")]
fn inherit(command: &mut Command, fds: Vec<RawFd>) {
    let in_child = move || {
        nix::unistd::setsid()?;
        for fd in &fds {
            // SAFETY: the parent keeps the sockets open until the child was started; fcntl is async-signal-safe.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: setsid and fcntl are async-signal-safe, and the closure neither allocates nor locks.
    unsafe { command.pre_exec(in_child) };
}

fn prepare_log_dir(config: &LinkConfig) -> io::Result<()> {
    std::fs::create_dir_all(&config.log_dir)?;
    if let Some(uid) = config.uid.filter(|_| nix::unistd::geteuid().is_root()) {
        std::os::unix::fs::chown(&config.log_dir, Some(uid), Some(uid))?;
    }
    std::fs::set_permissions(&config.log_dir, std::fs::Permissions::from_mode(0o750))
}

/// The folder is the edge's own, and so what lies there may be anything: nothing is followed, and nothing waited for.
const WARY: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

fn open_log(dir: &Path) -> io::Result<File> {
    let path = dir.join("edge.log");
    match std::fs::symlink_metadata(&path) {
        Ok(there) if there.is_dir() => std::fs::rename(&path, aside(dir))?,
        Ok(there) if !there.is_file() => std::fs::remove_file(&path)?,
        Ok(_) | Err(_) => {}
    }
    is_file(OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(WARY).open(path)?)
}

/// A name that nothing has: no folder takes the place of another one that is not empty.
fn aside(dir: &Path) -> PathBuf {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    dir.join(format!("edge.log.{}", since.as_nanos()))
}

fn is_file(open: File) -> io::Result<File> {
    match open.metadata()?.is_file() {
        true => Ok(open),
        false => Err(io::Error::other("edge.log is no file")),
    }
}

/// The end of what the edge said, for a fault.
pub(super) fn last_lines(dir: &Path) -> Option<String> {
    let path = dir.join("edge.log");
    let mut log = OpenOptions::new().read(true).custom_flags(WARY).open(path).and_then(is_file).ok()?;
    let length = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    log.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let lines: Vec<_> = tail.lines().rev().take(LAST_LINES).collect();
    if lines.is_empty() { None } else { Some(lines.into_iter().rev().collect::<Vec<_>>().join("\n")) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_fault_shows_the_end_of_the_log_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open_log(dir.path()).unwrap();
        assert_eq!(last_lines(dir.path()), None);
        for n in 0..5_000 {
            writeln!(log, "line {n}").unwrap();
        }
        let last = last_lines(dir.path()).unwrap();
        assert_eq!((last.lines().count(), last.lines().next_back()), (LAST_LINES, Some("line 4999")));
        let log = dir.path().join("edge.log");
        std::fs::remove_file(&log).unwrap();
        let key = dir.path().join("master.key");
        std::fs::write(&key, "secret").unwrap();
        symlink(&key, &log).unwrap();
        assert_eq!(last_lines(dir.path()), None, "a link is not followed");
        std::fs::remove_file(&log).unwrap();
        mkfifo(&log, Mode::S_IRWXU).unwrap();
        assert_eq!(last_lines(dir.path()), None, "a pipe is not waited for");
    }

    #[test]
    fn what_is_no_log_keeps_no_edge_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let (log, other) = (dir.path().join("edge.log"), dir.path().join("other"));
        std::fs::write(&other, "as it was").unwrap();
        symlink(&other, &log).unwrap();
        open_log(dir.path()).unwrap().write_all(b"a line\n").unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "as it was");
        std::fs::remove_file(&log).unwrap();
        mkfifo(&log, Mode::S_IRWXU).unwrap();
        open_log(dir.path()).unwrap().write_all(b"a line\n").unwrap();
        assert_eq!(last_lines(dir.path()).as_deref(), Some("a line"));
        // Neither does what lies where an older log would.
        let full = |name: &str| std::fs::create_dir_all(dir.path().join(name).join("full")).unwrap();
        full("edge.log.1");
        let in_the_way: [&dyn Fn(); 2] = [&|| symlink(&other, &log).unwrap(), &|| full("edge.log")];
        for make in in_the_way {
            std::fs::remove_file(&log).unwrap();
            make();
            open_log(dir.path()).unwrap().write_all(b"another\n").unwrap();
            assert_eq!(last_lines(dir.path()).as_deref(), Some("another"));
        }
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "as it was");
    }
}
