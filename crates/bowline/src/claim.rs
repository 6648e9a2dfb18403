//! What makes a process the daemon of its state: the lock and the sockets. A binary that takes the daemon's place in the same
//! process is handed them as descriptors, so that none of them is free or closed for a moment.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bowline_core::fault::{Fault, FaultKind};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Serialize};

use crate::args::Mode;
use crate::paths::Paths;

/// How long the kernel may take to close the admin port of a daemon that was killed, and how often it is tried.
const PORT_CLOSING: Duration = Duration::from_secs(3);
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// Held as long as the daemon is one; the kernel lets go of all of it with the process.
#[derive(Debug)]
pub(crate) struct Claim {
    lock: File,
    api: UnixListener,
    admin: TcpListener,
    /// Behind the edge, where the API is reached from elsewhere.
    outer: Mutex<Option<UnixListener>>,
}

/// A claim on its way through the execution of another binary: the word of `--handover`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Handover {
    lock: RawFd,
    api: RawFd,
    admin: RawFd,
    /// A binary of before says nothing of it, and binds it anew.
    #[serde(default)]
    outer: Option<RawFd>,
    /// The binary before, to which a binary that cannot start gives all of it back. `None`: this is the binary before.
    pub(crate) from: Option<PathBuf>,
}

/// What a binary takes of a handover beside what the first one did that could be replaced. What is about to be executed cannot be asked: each says
/// it beside its kept copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Takes {
    /// The socket behind the edge.
    outer: bool,
    /// Stops that wait, blocked.
    pub(crate) stops: bool,
}

impl Takes {
    const OWN: Self = Self { outer: true, stops: true };

    /// `kept`: the copy. A binary of before has said nothing.
    pub(crate) fn of(kept: &Path) -> Self {
        let said = std::fs::read(Self::file(kept)).ok();
        said.and_then(|said| serde_json::from_slice(&said).ok()).unwrap_or_default()
    }

    /// This binary's own word. Where it cannot be written, it is handed what every binary takes.
    pub(crate) fn say(kept: &Path) {
        if Self::of(kept) == Self::OWN {
            return;
        }
        let word = serde_json::to_vec(&Self::OWN).expect("it has only truth values");
        if let Err(error) = std::fs::write(Self::file(kept), word) {
            tracing::debug!(kept = %kept.display(), %error, "it is not said what this binary takes of a handover");
        }
    }

    fn file(kept: &Path) -> PathBuf {
        kept.with_file_name("takes.json")
    }
}

impl Claim {
    /// # Errors
    /// Another daemon has the state; the admin port is taken.
    pub(crate) fn take(paths: &Paths, mode: Mode, admin: AdminPort) -> Result<Self, Fault> {
        let lock = lock(paths, mode)?;
        Ok(Self { lock, api: api_socket(paths)?, admin: admin.bind()?, outer: Mutex::default() })
    }

    /// Takes what an earlier binary of this process left open.
    pub(crate) fn inherit(handover: &Handover, paths: &Paths) -> Result<Self, Fault> {
        let [lock, api, admin] = [handover.lock, handover.api, handover.admin].map(inherited);
        // A socket whose file was cleaned away was bound anew since; that one ended with the binary before.
        let api = match is_bound(&paths.api_socket()) {
            true => api?.into(),
            false => api_socket(paths)?,
        };
        let outer = handover.outer.map(inherited).transpose()?.map(UnixListener::from);
        let outer = Mutex::new(outer.filter(|_| is_bound(&paths.outer_socket())));
        Ok(Self { lock: lock?.into(), api, admin: admin?.into(), outer })
    }

    pub(crate) fn api(&self) -> Result<UnixListener, Fault> {
        self.api.try_clone().map_err(|e| unusable("the API's socket", &e))
    }

    /// The socket behind the edge, as a binary before has left it: what waits there is answered by this one. `for_user`: the edge's.
    pub(crate) fn outer(&self, paths: &Paths, for_user: Option<u32>) -> Result<UnixListener, Fault> {
        let mut outer = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        let path = paths.outer_socket();
        let held = match outer.take() {
            Some(held) => Ok(held),
            None => bowline_control::bind_outer(&path, for_user),
        };
        let cloned = held.and_then(|held| outer.insert(held).try_clone());
        cloned.map_err(|error| unusable(&path.display().to_string(), &error))
    }

    /// The API is not reached from elsewhere any more.
    pub(crate) fn close_outer(&self, paths: &Paths) {
        if self.outer.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            // Nobody listens there.
            let _ = std::fs::remove_file(paths.outer_socket());
        }
    }

    pub(crate) fn admin(&self) -> Result<TcpListener, Fault> {
        self.admin.try_clone().map_err(|e| unusable("the admin port", &e))
    }

    pub(crate) fn admin_address(&self) -> Result<SocketAddr, Fault> {
        self.admin.local_addr().map_err(|e| unusable("the admin port", &e))
    }

    /// Executes another binary in the place of this one. Signals stay blocked as they are. A descriptor that it does not know of is not left
    /// open. Returns only why it could not be.
    pub(crate) fn hand_over(&self, (to, takes): (&Path, Takes), args: &[OsString], from: Option<&Path>) -> Fault {
        let held = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        let outer = held.as_ref().filter(|_| takes.outer);
        let handover = Handover {
            lock: self.lock.as_raw_fd(),
            api: self.api.as_raw_fd(),
            admin: self.admin.as_raw_fd(),
            outer: outer.map(AsRawFd::as_raw_fd),
            from: from.map(Path::to_owned),
        };
        let word = serde_json::to_string(&handover).expect("a handover has only strings and numbers");
        let words = [to.as_os_str().to_owned()].into_iter().chain(args.iter().cloned());
        let words = words.chain(["--handover".into(), word.into()]);
        let outcome = words.map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>();
        let outcome = outcome.map_err(|_| nix::errno::Errno::EINVAL).and_then(|words| {
            let outer = outer.map(AsFd::as_fd);
            for fd in [self.lock.as_fd(), self.api.as_fd(), self.admin.as_fd()].into_iter().chain(outer) {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            nix::unistd::execv(&words[0], &words)
        });
        let Err(error) = outcome;
        Fault::new(FaultKind::Failed, format!("{} cannot be executed", to.display())).source(&error)
    }
}

/// Whether somebody listens on a socket of this path. Nobody accepts yet where this process listens itself, and a queue that others have
/// filled meanwhile must not hold it up: one that is full is one that is there.
fn is_bound(path: &Path) -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|asks| connect(asks.as_raw_fd(), &UnixAddr::new(path)?));
    matches!(connected, Ok(()) | Err(nix::errno::Errno::EAGAIN))
}

#[expect(unsafe_code, reason = "inherited descriptors are numbers until they are taken")]
fn inherited(fd: RawFd) -> Result<OwnedFd, Fault> {
    let wrong = |errno: nix::errno::Errno| {
        Fault::new(FaultKind::Invalid, format!("descriptor {fd} was not handed over")).source(&errno)
    };
    if fd <= 2 {
        return Err(wrong(nix::errno::Errno::EBADF));
    }
    // SAFETY: only looked at, and only for this call; a number that is not open is an error, not taken.
    fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(wrong)?;
    // SAFETY: the descriptor is open, was left open for this purpose and is taken once, before anything else runs.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One daemon per state; the lock is the kernel's, so it goes with the process.
fn lock(paths: &Paths, mode: Mode) -> Result<File, Fault> {
    let path = paths.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| unusable(&path.display().to_string(), &e))?;
    match bowline_control::lock_after_the_dying(&file) {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = paths.recorded().map_or_else(String::new, |r| format!(" (pid {})", r.pid));
            let fault = Fault::new(FaultKind::Failed, format!("another daemon{pid} holds {}", paths.state.display()));
            Err(match mode {
                Mode::Local => fault
                    .caused_by("it does not answer on its socket")
                    .hint("it hangs: look at its log, and end that process"),
                Mode::Server => fault.hint(format!(
                    "one daemon serves a state; `bowline status --state {}` asks it",
                    paths.state.display()
                )),
            })
        }
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(&path.display().to_string(), &error)),
    }
}

fn api_socket(paths: &Paths) -> Result<UnixListener, Fault> {
    let path = paths.api_socket();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(unusable(&path.display().to_string(), &error));
        }
        Ok(()) | Err(_) => {}
    }
    // Others may search the folder; by the process's mask the socket is the owner's alone from its first moment.
    let socket = UnixListener::bind(&path).map_err(|e| unusable(&path.display().to_string(), &e))?;
    socket.set_nonblocking(true).map_err(|e| unusable(&path.display().to_string(), &e))?;
    Ok(socket)
}

/// Where the admin port is to listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdminPort {
    pub(crate) address: SocketAddr,
    /// After a crash, whose sockets the kernel may still be closing: an address that is taken is tried again for a while.
    pub(crate) again: bool,
    /// Its number was the kernel's choice. Between two daemons the kernel may have given it to a connection of anybody's; then another
    /// number is as good.
    pub(crate) any: bool,
}

impl AdminPort {
    fn bind(self) -> Result<TcpListener, Fault> {
        let bind = |address| bowline_edge::link::bind("the admin port", "--admin", address, bowline_node::listener);
        let deadline = Instant::now() + PORT_CLOSING;
        loop {
            match bind(self.address) {
                Err(_) if self.again && Instant::now() < deadline => std::thread::sleep(PORT_PAUSE),
                Err(fault) if self.any => {
                    tracing::warn!(error = %fault, causes = ?fault.causes, "the admin port gets another number");
                    return bind(SocketAddr::new(self.address.ip(), 0));
                }
                bound => return bound,
            }
        }
    }
}

pub(crate) fn unusable(what: &str, error: &std::io::Error) -> Fault {
    Fault::new(FaultKind::Failed, format!("{what} cannot be used"))
        .source(error)
        .hint("is there room on the disk, and may this user write there? --state DIR chooses another folder")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_binary_that_has_said_nothing_takes_what_the_first_one_took() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("bowline");
        assert_eq!(Takes::of(&kept), Takes { outer: false, stops: false });
        // One between, and one of later.
        std::fs::write(Takes::file(&kept), r#"{"outer":true,"more":1}"#).unwrap();
        assert_eq!(Takes::of(&kept), Takes { outer: true, stops: false });
        Takes::say(&kept);
        assert_eq!(Takes::of(&kept), Takes::OWN);
    }

    #[test]
    fn a_port_that_the_kernel_chose_and_gave_away_is_another_one_then() {
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let port = |any| AdminPort { address, again: false, any };
        let bound = port(true).bind().unwrap().local_addr().unwrap();
        assert!(bound.ip() == address.ip() && bound.port() != address.port(), "{bound}");
        let fault = port(false).bind().unwrap_err();
        assert!(fault.message.contains(&address.to_string()), "one that was said is kept to: {fault:?}");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_there_and_one_that_is_closed_is_not() {
        use nix::sys::socket::{Backlog, listen};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(!is_bound(&path), "there is no file");
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        // Closed again, and still in the queue, in which there is room for one.
        drop(UnixStream::connect(&path).unwrap());
        assert!((0..3).all(|_| is_bound(&path)), "nobody accepts");
        drop(listener);
        assert!(!is_bound(&path), "nobody listens");
    }
}
