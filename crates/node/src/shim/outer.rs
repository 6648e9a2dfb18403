//! The outer process: lock, namespaces, fork, record, answer.

use std::fs;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use bowline_fault_points::{Point, reach};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, setsockopt, socketpair,
    sockopt,
};
use nix::unistd::{ForkResult, setsid};

use super::container;
use super::contract::{Config, End, ExitRecord, FORMAT, OLDEST, Record, Refusal, Reply};
use super::inner::{self, Verdict};
use crate::cage::namespaces;
use crate::{procfs, slice};

/// How long a predecessor that is being killed may still hold the slot.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Larger than any message of the inner process.
const MAX_MESSAGE: usize = 64 << 10;

pub(super) fn run() -> ExitCode {
    slice::of_an_instance();
    let outcome = settle_signals().and_then(|()| read_config()).and_then(start);
    let (reply, code) = match outcome {
        Ok(Outcome::Started(record)) => (Reply::Started(record), ExitCode::SUCCESS),
        Ok(Outcome::Ended(code)) => return code,
        Err(refusal) => (Reply::Refused(refusal), ExitCode::FAILURE),
    };
    let line = serde_json::to_vec(&reply).unwrap_or_default();
    // A daemon that died meanwhile finds the record.
    let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    code
}

enum Outcome {
    /// In the outer process.
    Started(Box<Record>),
    /// In the inner process, at its end.
    Ended(ExitCode),
}

/// TERM and CHLD are read from a descriptor; a closing terminal, Ctrl-C and the file size limit are survived.
pub(super) fn settle_signals() -> Result<(), Refusal> {
    let failed = |error: nix::Error| Refusal::new("the shim cannot set up its signals").caused_by(&error);
    let mut waited_for = SigSet::empty();
    waited_for.add(Signal::SIGTERM);
    waited_for.add(Signal::SIGCHLD);
    waited_for.thread_block().map_err(failed)?;
    for ignored in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
        Signal::SIGXFSZ,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
    ] {
        ignore(ignored).map_err(failed)?;
    }
    // Fails only for the leader of a session, which has no terminal to lose.
    let _ = setsid();
    Ok(())
}

#[expect(unsafe_code, reason = "installing a signal disposition is unsafe in nix because of handlers")]
fn ignore(ignored: Signal) -> nix::Result<()> {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { signal(ignored, SigHandler::SigIgn) }.map(drop)
}

fn read_config() -> Result<Config, Refusal> {
    let mut text = zeroize::Zeroizing::new(Vec::new());
    io::stdin()
        .lock()
        .read_to_end(&mut text)
        .map_err(|error| Refusal::new("the shim cannot read its configuration").caused_by(&error))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| {
        // serde_json may quote a value in its message, and values are secrets: only the place is told.
        let (line, column) = (error.line(), error.column());
        Refusal::new(format!("the shim does not understand its configuration (line {line}, column {column})"))
            .hint("`bowline shim` is started by the daemon, not by hand")
    })?;
    match config.format {
        OLDEST..=FORMAT => Ok(config),
        other => Err(Refusal::new(format!("the shim does not know format {other} of its configuration"))
            .hint("the daemon is newer than this binary by more than two releases")),
    }
}

fn start(config: Config) -> Result<Outcome, Refusal> {
    let lock = take_lock(&config.lock)?;
    reach(Point::ShimLocked);
    let contained = match config.namespaces {
        true => namespaces::enter(CloneFlags::empty()).map_err(|error| {
            Refusal::new(format!("cannot set up the namespaces of {}", config.id)).caused_by(&error)
        })?,
        false => false,
    };
    let failed = |error: nix::Error| Refusal::new(format!("cannot start the shim of {}", config.id)).caused_by(&error);
    let (outer, inner) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
    setsockopt(&outer, sockopt::PassCred, &true).map_err(failed)?;
    match namespaces::fork_now().map_err(failed)? {
        ForkResult::Child => {
            drop(outer);
            Ok(Outcome::Ended(match config.container.is_some() {
                true => container::run(config, inner, lock),
                false => inner::run(config, inner, lock, contained),
            }))
        }
        ForkResult::Parent { child } => {
            drop(inner);
            let pid = child.as_raw().unsigned_abs();
            supervise_start(&config, &outer, pid, contained).map(|record| Outcome::Started(Box::new(record)))
        }
    }
}

/// The lock belongs to the open file, which the inner process inherits: it is free when the last of both is gone.
fn take_lock(path: &Path) -> Result<fs::File, Refusal> {
    let failed = |error: &dyn std::error::Error| {
        Refusal::new(format!("cannot open the lock {} of this slot", path.display())).caused_by(error)
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(|error| failed(&error))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            // A node that cleans up removes the file while it holds the lock: then this is not the slot's file any more.
            Ok(()) if !is_still_at(&file, path) => {}
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(Refusal::new(format!("this slot is taken by the shim {}", holder.trim()))
                    .hint("one copy of an instance runs per slot; the daemon stops the other one first"));
            }
            Err(error) => return Err(failed(&error)),
        }
    }
}

fn is_still_at(file: &fs::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata().map(identity), fs::metadata(path).map(identity)), (Ok(a), Ok(b)) if a == b)
}

fn supervise_start(config: &Config, socket: &OwnedFd, pid: u32, contained: bool) -> Result<Record, Refusal> {
    let mut record = Record {
        format: FORMAT,
        id: config.id.clone(),
        pid,
        start_time: procfs::stat(pid).map(|stat| stat.start_time).unwrap_or(0),
        boot_id: procfs::boot_id(),
        port: config.port,
        open_to_machine: config.open_to_machine,
        uid: config.uid,
        child: None,
        since_ms: now_ms(),
        grace_ms: config.grace_ms,
        unenforced: config.unenforced.clone(),
        contained,
        mark: config.mark.clone(),
        cgroup: config.cgroup.clone(),
        secret_folder: config.secret_folder.clone(),
        entry: None,
        container: None,
        volumes: config.volume_folders.clone(),
    };
    // Before the inner process may start anything: a crash from here on leaves something to be found.
    write_record(&record, config)?;
    let _ = fs::write(&config.lock, pid.to_string());
    reach(Point::ShimRecorded);
    send(socket, b"go").map_err(|error| Refusal::new("the shim died while it started").caused_by(&error))?;
    loop {
        let (message, sender) = receive(socket).map_err(|error| {
            Refusal::new(format!("the shim of {} died while it started", config.id)).caused_by(&error)
        })?;
        if message == inner::HERE {
            record.child = sender;
            let _ = send(socket, sender.unwrap_or(0).to_string().as_bytes());
            continue;
        }
        match serde_json::from_slice(&message) {
            Ok(Verdict::Started { unenforced, entry, container }) => {
                record.unenforced = unenforced;
                record.entry = entry;
                record.child = container.as_ref().map(|container| container.pid).or(record.child);
                record.container = container.map(|container| *container);
                write_record(&record, config)?;
                reach(Point::ShimAnswers);
                return Ok(record);
            }
            Ok(Verdict::Refused(refusal)) => return Err(refusal),
            Err(error) => return Err(Refusal::new("the shim died while it started").caused_by(&error)),
        }
    }
}

fn write_record(record: &Record, config: &Config) -> Result<(), Refusal> {
    record.write(&config.folder).map_err(|error| {
        Refusal::new(format!("cannot write the record of {} in {}", config.id, config.folder.display()))
            .caused_by(&error)
            .hint("is the disk full?")
    })
}

/// What keeps a refusal for a daemon that was not there to hear it.
pub(super) fn record_refusal(config_folder: &Path, refusal: &Refusal) {
    let record = ExitRecord { format: FORMAT, at_ms: now_ms(), end: End::Refused(refusal.clone()) };
    // The refusal is also the answer; the record only matters if the daemon dies now.
    let _ = record.write(config_folder);
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    nix::sys::socket::send(socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// One message, and the process that sent it as this PID namespace numbers it. The end of the stream is an error.
pub(super) fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let mut ancillary = nix::cmsg_space!(UnixCredentials);
    let (length, sender) = {
        let mut into = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut ancillary), MsgFlags::empty())?;
        let sender = message.cmsgs()?.find_map(|ancillary| {
            let ControlMessageOwned::ScmCredentials(sender) = ancillary else { return None };
            u32::try_from(sender.pid()).ok()
        });
        (message.bytes, sender)
    };
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(length);
    Ok((buffer, sender.filter(|pid| *pid != 0)))
}
