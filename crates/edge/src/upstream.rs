//! Connections to instances: opened, kept for the next request, checked before they are used again. And to the daemon, whose are
//! used once.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::answer::Reason;
use crate::balance::Ticket;
use crate::deadline::TICK;
use crate::places::Place;

/// How long opening a connection may take. Instances are on this machine or in its network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Idle connections kept per instance and worker: as many as the streams of five busy connections of HTTP/2 take at once.
const MAX_IDLE: usize = 512;

/// Whoever answers a request that goes on, and what the request takes there: given back together.
#[derive(Debug)]
pub(crate) enum Upstream {
    Instance(TcpStream, Ticket),
    /// Behind the API's host.
    Daemon(UnixStream, Place),
}

impl Upstream {
    /// The instance is drained.
    pub(crate) fn is_leaving(&self) -> bool {
        match self {
            Self::Instance(_, ticket) => ticket.endpoint().is_leaving(),
            Self::Daemon(..) => false,
        }
    }

    /// The head of the answer has come. True: of the daemon's, which has let whoever asks in.
    pub(crate) fn answered(&mut self, status: u16) -> bool {
        match self {
            Self::Instance(..) => false,
            Self::Daemon(_, place) => place.answered(status),
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Instance(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            Self::Daemon(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Instance(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Self::Daemon(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Instance(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Daemon(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Instance(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Daemon(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// One worker's idle connections, by the endpoint's serial.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    idle: RefCell<HashMap<u32, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    /// The tick from which on it is closed.
    until: u64,
}

impl Pools {
    /// The connection used last, if it is still good.
    pub(crate) fn take(&self, serial: u32, now: u64) -> Option<TcpStream> {
        let mut pools = self.idle.borrow_mut();
        let idle = pools.get_mut(&serial)?;
        while let Some(connection) = idle.pop() {
            if connection.until > now && is_quiet(&connection.stream) {
                return Some(connection.stream);
            }
        }
        None
    }

    /// Keeps a connection with nothing unread or unsent, for at most `idle`.
    pub(crate) fn keep(&self, serial: u32, stream: TcpStream, idle: Duration, now: u64) {
        let ticks = u64::try_from(idle.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        let mut pools = self.idle.borrow_mut();
        let kept = pools.entry(serial).or_default();
        if kept.len() < MAX_IDLE {
            kept.push(Idle { stream, until: now.saturating_add(ticks) });
        }
    }

    /// Closes all that is idle.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes what was idle for too long.
    pub(crate) fn sweep(&self, now: u64) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|connection| connection.until > now);
            !idle.is_empty()
        });
    }
}

/// Nothing arrived, not even its end. Costs no system call while nothing happened.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    match stream.poll_read_ready(&mut cx) {
        Poll::Pending => true,
        Poll::Ready(Ok(())) => {
            matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }
        Poll::Ready(Err(_)) => false,
    }
}

/// Whether the process or the machine has no descriptor or memory left.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Opens a connection to the daemon's socket. That folder is the daemon's: nobody else can listen there while it is away.
pub(crate) async fn connect_to_daemon(socket: &Path) -> Result<UnixStream, Reason> {
    match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_shortage(&error) => Err(Reason::Shortage),
        Ok(Err(error)) => {
            tracing::debug!(%error, socket = %socket.display(), "connecting to the daemon failed");
            Err(Reason::DaemonAway)
        }
        Err(_) => Err(Reason::DaemonAway),
    }
}

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Reason> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Without it, small requests wait for an acknowledgement; a failure costs time only.
            drop(stream.set_nodelay(true));
            Ok(stream)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Reason::ConnectRefused),
        Ok(Err(error)) if is_shortage(&error) => Err(Reason::Shortage),
        Ok(Err(error)) => {
            tracing::debug!(%error, %address, "connecting to an instance failed");
            Err(Reason::ConnectFailed)
        }
        Err(_) => Err(Reason::ConnectTimeout),
    }
}
