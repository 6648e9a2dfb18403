//! Starting Envoy's process, and knowing when it ends.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use super::LinkConfig;

/// Last lines of its log that a fault shows, and the bytes at its end in which they are looked for.
const LAST_LINES: usize = 10;
const TAIL: u64 = 8 << 10;

/// A log of what Envoy said that is this large is begun anew with the next one.
const MAX_LOG: u64 = 8 << 20;

/// How soon lines of the access log are there to be counted.
const FLUSH_MS: &str = "200";

/// How long connections are told to close one by one, in seconds, before what is left of them is cut.
const DRAIN_SECONDS: &str = "5";

/// Ports below this one need a capability.
const UNPRIVILEGED: u16 = 1024;

/// Where Envoy's administration answers: its user, and root.
pub fn admin_socket(run_dir: &Path) -> PathBuf {
    admin_dir(run_dir).join("admin.sock")
}

/// In the same folder: the filter runs as Envoy's user.
pub(super) fn upload_socket(run_dir: &Path) -> PathBuf {
    admin_dir(run_dir).join("upload.sock")
}

fn admin_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("envoy")
}

impl LinkConfig {
    pub(super) fn xds_socket(&self) -> PathBuf {
        self.run_dir.join("envoy.xds.sock")
    }

    /// Envoy makes it itself, in a folder that is its own.
    pub(super) fn admin_socket(&self) -> PathBuf {
        admin_socket(&self.run_dir)
    }

    /// The filter makes it itself.
    pub(super) fn upload_socket(&self) -> PathBuf {
        upload_socket(&self.run_dir)
    }

    fn admin_dir(&self) -> PathBuf {
        admin_dir(&self.run_dir)
    }

    fn bootstrap_file(&self) -> PathBuf {
        self.run_dir.join("envoy.json")
    }

    pub(super) fn access_log(&self) -> PathBuf {
        self.log_dir.join("access.log")
    }

    /// Whose files and sockets Envoy's are.
    fn user(&self) -> Option<u32> {
        self.uid.filter(|_| nix::unistd::geteuid().is_root())
    }

    /// Gives a file or a socket to Envoy's user, and to nobody else.
    pub(super) fn give(&self, path: &Path, mode: u32) -> io::Result<()> {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        self.user().map_or(Ok(()), |uid| chown(path, Some(uid), Some(uid)))
    }
}

/// Starts Envoy in a session of its own: alive when the daemon dies.
pub(super) fn start(config: &LinkConfig, bootstrap: &Value, ports: &[u16]) -> io::Result<Child> {
    prepare(config, bootstrap)?;
    let log = open_log(&config.log_file)?;
    let mut command = Command::new(&config.exe);
    command.arg("--config-path").arg(config.bootstrap_file());
    command.args(["--disable-hot-restart", "--reject-unknown-dynamic-fields", "--log-level", "warning"]);
    command.args(["--file-flush-interval-msec", FLUSH_MS, "--drain-time-s", DRAIN_SECONDS]);
    // Who supervises the daemon is told nothing by Envoy.
    command.env_remove("NOTIFY_SOCKET");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    become_its_user(&mut command, config.user(), ports.iter().any(|port| *port < UNPRIVILEGED));
    command.spawn()
}

/// Starts the upload filter likewise.
pub(super) fn start_filter(config: &LinkConfig) -> io::Result<Child> {
    make_admin_dir(config)?;
    let log = open_log(&config.upload_log)?;
    let mut command = Command::new(&config.own_exe);
    command.arg("upload-filter").arg("--socket").arg(config.upload_socket());
    command.env_remove("NOTIFY_SOCKET");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    become_its_user(&mut command, config.user(), false);
    command.spawn()
}

fn make_admin_dir(config: &LinkConfig) -> io::Result<()> {
    std::fs::create_dir_all(config.admin_dir())?;
    config.give(&config.admin_dir(), 0o700)
}

fn prepare(config: &LinkConfig, bootstrap: &Value) -> io::Result<()> {
    std::fs::create_dir_all(&config.log_dir)?;
    config.give(&config.log_dir, 0o750)?;
    let path = config.bootstrap_file();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(bootstrap.to_string().as_bytes())?;
    config.give(&path, 0o600)?;
    make_admin_dir(config)?;
    match std::fs::remove_file(config.admin_socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let is_large = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() >= MAX_LOG);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if is_large {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    options.open(path)
}

/// The end of what Envoy said, for a fault.
pub(super) fn last_lines(path: &Path) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let length = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    log.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let lines: Vec<_> = tail.lines().rev().take(LAST_LINES).collect();
    if lines.is_empty() { None } else { Some(lines.into_iter().rev().collect::<Vec<_>>().join("\n")) }
}

#[expect(unsafe_code, reason = "between fork and exec only a closure can act in the child")]
fn become_its_user(command: &mut Command, uid: Option<u32>, binds_low: bool) {
    let in_child = move || {
        nix::unistd::setsid()?;
        // As many connections as the machine lets this process have.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        match uid {
            Some(uid) if binds_low => keep_one_capability(uid),
            Some(_) | None => Ok(()),
        }
    };
    if let Some(uid) = uid.filter(|_| !binds_low) {
        // The standard library drops the supplementary groups with it.
        command.uid(uid).gid(uid);
    }
    // SAFETY: only system calls are made, and the closure neither allocates nor locks.
    unsafe { command.pre_exec(in_child) };
}

/// Changes to a user who may bind low ports, and nothing else (capabilities(7), ambient).
#[expect(unsafe_code, reason = "capset(2) and prctl(2) have no safe wrappers here")]
fn keep_one_capability(uid: u32) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const NET_BIND_SERVICE: u32 = 10;
    const NONE: libc::c_ulong = 0;
    const ONE: libc::c_ulong = 1;
    let check = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let header = Header { version: VERSION_3, pid: 0 };
    let bit = 1 << NET_BIND_SERVICE;
    let low = Data { effective: bit, permitted: bit, inheritable: bit };
    let data = [low, Data { effective: 0, permitted: 0, inheritable: 0 }];
    // SAFETY: plain system calls with numbers, and with structs of the layout that the kernel reads and that outlive the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, ONE, NONE, NONE, NONE).into())?;
        check(libc::syscall(libc::SYS_setgroups, NONE, std::ptr::null::<libc::gid_t>()))?;
        check(libc::syscall(libc::SYS_setgid, libc::c_ulong::from(uid)))?;
        check(libc::syscall(libc::SYS_setuid, libc::c_ulong::from(uid)))?;
        check(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()))?;
        check(
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                libc::c_ulong::from(NET_BIND_SERVICE),
                NONE,
                NONE,
            )
            .into(),
        )
    }
}

#[expect(unsafe_code, reason = "the descriptor that is watched must stay the same")]
fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is one and the same until it is closed, which is when it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// A process that may or may not be this one's child.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// The Envoy of this state, if it is that.
    pub(super) fn of(config: &LinkConfig, pid: u32) -> io::Result<Self> {
        Self::with(pid, config.bootstrap_file().as_os_str())
    }

    /// One of whose command line this is a word.
    pub(super) fn with(pid: u32, word: &OsStr) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let is_ours = line.split(|byte| *byte == 0).any(|one| one == word.as_encoded_bytes());
        match is_ours {
            true => Ok(Self { pid, fd: watched(fd)? }),
            false => Err(io::Error::other(format!("process {pid} is not of this state"))),
        }
    }

    pub(super) async fn ended(&self) {
        // An error says that nobody can tell any more: the next question to its administration does.
        if self.fd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Ended meanwhile.
        let _ = pidfd_send_signal(self.fd.get_ref(), signal);
    }

    /// Memory that only this process uses.
    pub(super) fn private_bytes(&self) -> Option<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let private = rollup.lines().filter(|line| line.starts_with("Private_"));
        let kibibytes = private.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
        Some(kibibytes.sum::<u64>() * 1024)
    }
}
