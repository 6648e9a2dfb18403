//! Connections to instances: opened, kept for the next request, checked before they are used again. And to the daemon, whose are
//! used once.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::answer::Reason;
use crate::balance::{Endpoint, Ticket};
use crate::deadline::TICK;
use crate::places::Place;

/// How long opening a connection may take. Instances are on this machine or in its network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Idle connections kept per instance and worker: as many as the streams of five busy connections of HTTP/2 take at once.
const MAX_IDLE: usize = 512;

/// And of all instances.
const MAX_IDLE_OF_ALL: usize = 2_048;

/// Given up at once where descriptors are wanting.
const GIVEN_UP: usize = 32;

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
    idle: RefCell<HashMap<u32, Kept>>,
    /// Of all instances.
    count: Cell<usize>,
}

/// Of one instance.
#[derive(Debug)]
struct Kept {
    endpoint: Arc<Endpoint>,
    idle: Vec<Idle>,
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
        let kept = pools.get_mut(&serial)?;
        while let Some(connection) = kept.idle.pop() {
            self.count.set(self.count.get() - 1);
            if connection.until > now && is_quiet(&connection.stream) {
                return Some(connection.stream);
            }
        }
        None
    }

    /// Keeps a connection with nothing unread or unsent, for at most `idle`. Not to an instance that is told to end: it may wait for its
    /// connections.
    pub(crate) fn keep(&self, endpoint: &Arc<Endpoint>, stream: TcpStream, idle: Duration, now: u64) {
        let ticks = u64::try_from(idle.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        let mut pools = self.idle.borrow_mut();
        if is_ending(endpoint) {
            return;
        }
        let of_instance = pools.get_mut(&endpoint.serial).filter(|kept| kept.idle.len() >= MAX_IDLE);
        match of_instance {
            Some(kept) => drop(self.close_of(kept, 1)),
            // Nobody's connections keep others from having some.
            None if self.count.get() >= MAX_IDLE_OF_ALL => drop(self.close_oldest(&mut pools, 1)),
            None => {}
        }
        let new = || Kept { endpoint: Arc::clone(endpoint), idle: Vec::new() };
        let kept = pools.entry(endpoint.serial).or_insert_with(new);
        self.count.set(self.count.get() + 1);
        kept.idle.push(Idle { stream, until: now.saturating_add(ticks) });
    }

    /// Closes some for a connection that is needed and finds no descriptor. Whether there were any.
    pub(crate) fn give_up(&self) -> bool {
        self.close_oldest(&mut self.idle.borrow_mut(), GIVEN_UP) > 0
    }

    /// Those that were not used for longest, of the instance with most of them. How many there were.
    fn close_oldest(&self, pools: &mut HashMap<u32, Kept>, most: usize) -> usize {
        pools.values_mut().max_by_key(|kept| kept.idle.len()).map_or(0, |kept| self.close_of(kept, most))
    }

    /// Those of this instance.
    fn close_of(&self, kept: &mut Kept, most: usize) -> usize {
        let count = most.min(kept.idle.len());
        kept.idle.drain(..count);
        self.count.set(self.count.get() - count);
        count
    }

    /// Closes all that is idle.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.count.set(0);
    }

    /// Closes what was idle for too long, and what leads to an instance that is told to end.
    pub(crate) fn sweep(&self, now: u64) {
        let mut count = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            let is_ending = is_ending(&kept.endpoint);
            kept.idle.retain(|connection| connection.until > now && !is_ending);
            count += kept.idle.len();
            !kept.idle.is_empty()
        });
        self.count.set(count);
    }
}

fn is_ending(endpoint: &Endpoint) -> bool {
    endpoint.is_leaving() || endpoint.has_left()
}

/// Nothing arrived, not even its end. Costs no system call while nothing happened. It is asked past the budget of the task, at whose end
/// anything that polls would say that nothing has arrived: what an instance sent unasked would be the answer to the next request.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
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

#[cfg(test)]
mod tests {
    use bowline_core::app::Protocol;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    use super::*;

    const FOR: Duration = Duration::from_secs(60);

    fn endpoint(at: SocketAddr) -> Arc<Endpoint> {
        let id = "local/a.web.r1.0.1".parse().unwrap();
        Arc::new(Endpoint::new(id, 1, (at, Protocol::Http1), Arc::new(Notify::new())))
    }

    /// As many connections that are kept, the instance, and its ends of them.
    async fn kept(count: usize) -> (Pools, Arc<Endpoint>, TcpListener, Vec<TcpStream>) {
        let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pools, endpoint) = (Pools::default(), endpoint(instance.local_addr().unwrap()));
        let mut ends = Vec::new();
        for _ in 0..count {
            let stream = connect(endpoint.address).await.unwrap();
            ends.push(instance.accept().await.unwrap().0);
            pools.keep(&endpoint, stream, FOR, 0);
        }
        (pools, endpoint, instance, ends)
    }

    /// A task may poll about a hundred things in one go, and is then told that nothing is ready.
    #[tokio::test]
    async fn however_many_have_an_answer_that_nobody_asked_for_none_of_them_is_used() {
        crate::process::raise_descriptor_limit();
        let (pools, endpoint, _instance, mut ends) = kept(300).await;
        for end in &mut ends {
            end.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        }
        let idle = std::mem::take(&mut pools.idle.borrow_mut().get_mut(&endpoint.serial).unwrap().idle);
        for connection in &idle {
            connection.stream.readable().await.unwrap();
        }
        pools.idle.borrow_mut().get_mut(&endpoint.serial).unwrap().idle = idle;
        tokio::task::yield_now().await;
        assert!(pools.take(endpoint.serial, 1).is_none());
        assert_eq!(pools.count.get(), 0);
    }

    #[tokio::test]
    async fn what_is_good_is_used_and_what_is_kept_is_bounded() {
        let (pools, endpoint, _instance, ends) = kept(3).await;
        assert!(pools.take(endpoint.serial, 1).is_some());
        assert_eq!(pools.count.get(), 2);
        // As if there were as many as may be: one goes for the next.
        pools.count.set(MAX_IDLE_OF_ALL);
        pools.keep(&endpoint, connect(endpoint.address).await.unwrap(), FOR, 0);
        assert_eq!(pools.count.get(), MAX_IDLE_OF_ALL);
        pools.sweep(1);
        assert_eq!((pools.count.get(), ends.len()), (2, 3));
        assert_eq!((pools.give_up(), pools.give_up(), pools.count.get()), (true, false, 0));
        pools.keep(&endpoint, connect(endpoint.address).await.unwrap(), FOR, 0);
        pools.sweep(u64::MAX);
        assert_eq!(pools.count.get(), 0);
    }

    #[tokio::test]
    async fn of_one_instance_the_oldest_goes_for_the_next() {
        crate::process::raise_descriptor_limit();
        let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pools, endpoint) = (Pools::default(), endpoint(instance.local_addr().unwrap()));
        let mut ports = Vec::new();
        for _ in 0..=MAX_IDLE {
            let stream = connect(endpoint.address).await.unwrap();
            ports.push(stream.local_addr().unwrap());
            drop(instance.accept().await.unwrap());
            pools.keep(&endpoint, stream, FOR, 0);
        }
        let idle = &pools.idle.borrow()[&endpoint.serial].idle;
        let kept: Vec<_> = idle.iter().map(|one| one.stream.local_addr().unwrap()).collect();
        assert_eq!((kept.as_slice(), pools.count.get()), (&ports[1..], MAX_IDLE));
    }

    #[tokio::test]
    async fn an_instance_that_is_told_to_end_has_no_connections_to_wait_for() {
        let (pools, endpoint, _instance, mut ends) = kept(2).await;
        endpoint.set_leaving(true);
        pools.sweep(1);
        for end in &mut ends {
            assert_eq!(end.read(&mut [0]).await.unwrap(), 0, "it is closed");
        }
        pools.keep(&endpoint, connect(endpoint.address).await.unwrap(), FOR, 0);
        assert!(pools.take(endpoint.serial, 1).is_none());
    }
}
