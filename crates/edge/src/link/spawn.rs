//! Starting the edge's process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::LinkConfig;
use crate::process::{EdgeArgs, Sockets};

/// `edge.log` is put aside when it is larger at a start.
const LOG_LIMIT: u64 = 4 << 20;

/// Last lines of `edge.log` that a fault shows.
const LAST_LINES: usize = 10;

/// Whether another edge serves on the same sockets meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    First,
    Successor,
}

/// Starts the edge with these sockets: its own session, its output to `edge.log`, alive when the daemon dies.
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
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
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

fn open_log(dir: &Path) -> io::Result<File> {
    let path = dir.join("edge.log");
    if std::fs::metadata(&path).is_ok_and(|log| log.len() > LOG_LIMIT) {
        std::fs::rename(&path, dir.join("edge.log.1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// The end of what the edge said, for a fault.
pub(super) fn last_lines(dir: &Path) -> Option<String> {
    let text = std::fs::read(dir.join("edge.log")).ok()?;
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
    let lines: Vec<_> = tail.lines().rev().take(LAST_LINES).collect();
    if lines.is_empty() { None } else { Some(lines.into_iter().rev().collect::<Vec<_>>().join("\n")) }
}
