//! The edge's process: inherited sockets in, workers and control running, an exit when it is told to.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::control::Control;
use crate::record::Writer;
use crate::tls::{Tls, TlsError};
use crate::worker::{self, Farewell, Setup};

/// How long connections may take to end after SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// What `bowline edge` is started with. Sockets are descriptors that it inherits, already listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeArgs {
    pub control_fd: RawFd,
    pub http_fd: Option<RawFd>,
    pub https_fd: Option<RawFd>,
    /// `access.log` is written here.
    pub log_dir: PathBuf,
    /// Threads that serve. 0: one per core.
    pub workers: usize,
    /// Another edge serves on the same sockets until this one has its first table. Without one it accepts nothing, and ends.
    pub successor: bool,
}

impl EdgeArgs {
    /// The command line that parses to this: `--control-fd 3 --http-fd 4 --https-fd 5 --log-dir DIR --workers 1`.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--control-fd".into(), self.control_fd.to_string().into()];
        for (name, fd) in [("--http-fd", self.http_fd), ("--https-fd", self.https_fd)] {
            if let Some(fd) = fd {
                args.extend([name.into(), fd.to_string().into()]);
            }
        }
        args.extend(["--log-dir".into(), self.log_dir.clone().into_os_string()]);
        args.extend(["--workers".into(), self.workers.to_string().into()]);
        args.extend(self.successor.then(|| "--successor".into()));
        args
    }
}

/// How long and how much a client may take. The defaults are for an edge that anyone can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From a request's first byte to the end of its head; also from a connection's start to its first byte. 10 s.
    pub head: Duration,
    /// Between two requests of a connection. 60 s.
    pub idle: Duration,
    /// A TLS handshake. 10 s.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), idle: Duration::from_secs(60), handshake: Duration::from_secs(10) }
    }
}

/// Why the edge cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("descriptor {0} is not one that was inherited")]
    Descriptor(RawFd),
    #[error("a socket that was handed over cannot be used")]
    Socket(#[source] io::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no random numbers can be had")]
    Random(#[source] getrandom::Error),
}

impl From<TlsError> for EdgeError {
    fn from(error: TlsError) -> Self {
        Self::Tls(Box::new(error))
    }
}

/// The listening sockets, as any number of processes and workers may hold them.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) control: UnixListener,
    pub(crate) http: Option<TcpListener>,
    pub(crate) https: Option<TcpListener>,
}

impl Sockets {
    pub(crate) fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    pub(crate) fn https_address(&self) -> Option<SocketAddr> {
        self.https.as_ref().and_then(|socket| socket.local_addr().ok())
    }
}

/// Runs until SIGTERM or until the daemon says so, then drains; so it does with SIGUSR1, without haste, since another edge
/// has the sockets. SIGHUP and the parent's death are nothing.
pub fn run(args: &EdgeArgs) -> Result<(), EdgeError> {
    raise_descriptor_limit();
    let sockets = Sockets {
        control: UnixListener::from(inherit(args.control_fd)?),
        http: args.http_fd.map(inherit).transpose()?.map(TcpListener::from),
        https: args.https_fd.map(inherit).transpose()?.map(TcpListener::from),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(EdgeError::Thread)?;
    runtime.block_on(async {
        let (farewells, stop) = mpsc::channel(1);
        let caught = Signals::catch().map_err(EdgeError::Thread)?;
        tokio::spawn(caught.pass_on(farewells));
        serve(sockets, args, Limits::default(), stop).await
    })
}

struct Signals {
    hangup: Signal,
    retire: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            retire: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn pass_on(mut self, farewells: mpsc::Sender<Farewell>) {
        loop {
            let farewell = tokio::select! {
                _ = self.terminate.recv() => Farewell::within(TERM_LIMIT),
                _ = self.retire.recv() => Farewell::RETIREMENT,
                _ = self.hangup.recv() => continue,
            };
            if farewells.send(farewell).await.is_err() {
                return;
            }
        }
    }
}

/// Serves until `stop` or a daemon says how to end, then drains.
pub(crate) async fn serve(
    sockets: Sockets,
    args: &EdgeArgs,
    limits: Limits,
    stop: mpsc::Receiver<Farewell>,
) -> Result<(), EdgeError> {
    let writer = Writer::start(&args.log_dir).map_err(EdgeError::Thread)?;
    let tls = Arc::new(Tls::new()?);
    let count = match args.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let mut handles = Vec::with_capacity(count);
    for number in 0..count {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(EdgeError::Random)?;
        let setup = Setup {
            number,
            http: duplicate(sockets.http.as_ref())?,
            https: duplicate(sockets.https.as_ref())?,
            access: writer.log(),
            tls: Arc::clone(&tls),
            limits,
            is_successor: args.successor,
            seed: u64::from_le_bytes(seed),
        };
        handles.push(worker::start(setup).map_err(EdgeError::Thread)?);
    }
    let control = Control::new(sockets, handles, tls, writer).map_err(EdgeError::Socket)?;
    control.run(stop, args.successor).await;
    Ok(())
}

fn duplicate(socket: Option<&TcpListener>) -> Result<Option<TcpListener>, EdgeError> {
    let Some(socket) = socket else { return Ok(None) };
    socket.set_nonblocking(true).map_err(EdgeError::Socket)?;
    socket.try_clone().map(Some).map_err(EdgeError::Socket)
}

/// As many connections as the machine lets this process have.
pub(crate) fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[expect(unsafe_code, reason = "inherited descriptors are numbers until they are taken")]
fn inherit(fd: RawFd) -> Result<OwnedFd, EdgeError> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: only looked at, and only for this call; a number that is not open is an error, not taken.
    let known = fd > 2 && fcntl(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFD).is_ok();
    if !known {
        return Err(EdgeError::Descriptor(fd));
    }
    // SAFETY: the descriptor is open, was inherited for this purpose and is taken once, before anything else runs.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| EdgeError::Descriptor(fd))?;
    Ok(owned)
}
