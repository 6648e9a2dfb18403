//! The API's socket, which comes back when its file is cleaned away under a daemon that runs.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep};

/// How often the file is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long accepting rests after an error, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// Connections from elsewhere at once: the daemon needs its descriptors for what it runs. More wait in the kernel's queue.
const OUTSIDE: usize = 512;

/// How long what is answered waits for whoever asked to read on. With the connection goes all that the answer holds.
const UNREAD: Duration = Duration::from_secs(10 * 60);

/// A listening socket and the file that leads to it.
#[derive(Debug)]
pub(crate) struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Who connects, where it is another user than the daemon's.
    for_user: Option<u32>,
    /// Connections that there is room for; `None`: as many as come.
    room: Option<Arc<Semaphore>>,
    gate: Gate,
}

/// Ends the taking of connections, from outside of the task that takes them.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Taking>);

#[derive(Debug)]
struct Taking {
    closed: watch::Sender<bool>,
    /// Connections that were taken and of which nothing was read yet.
    unheard: watch::Sender<usize>,
}

impl Gate {
    fn open() -> Self {
        Self(Arc::new(Taking { closed: watch::Sender::new(false), unheard: watch::Sender::new(0) }))
    }

    /// Takes no connection any more: what waits in the kernel's queue is the next daemon's. Returns when something was read of each
    /// that was taken: a server that ends closes those of which it has read nothing, and with them what was sent to it.
    pub(crate) async fn close(&self) {
        self.0.closed.send_replace(true);
        // The sender is held here.
        let _ = self.0.unheard.subscribe().wait_for(|unheard| *unheard == 0).await;
    }

    /// Returns when it is closed.
    async fn closed(&self) {
        let _ = self.0.closed.subscribe().wait_for(|closed| *closed).await;
    }

    fn took(&self) -> Unheard {
        self.0.unheard.send_modify(|unheard| *unheard += 1);
        Unheard(self.clone())
    }
}

/// A connection of which nothing was read yet.
#[derive(Debug)]
struct Unheard(Gate);

impl Drop for Unheard {
    fn drop(&mut self) {
        self.0.0.unheard.send_modify(|unheard| *unheard -= 1);
    }
}

/// An accepted connection, and the room that it takes.
#[derive(Debug)]
pub(crate) struct Accepted {
    stream: UnixStream,
    /// While nothing can be written: until when it may be so.
    unread: Option<Pin<Box<Sleep>>>,
    limit: Duration,
    patience: Patience,
    unheard: Option<Unheard>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Of one connection: whether it is a session's, in which a person may rest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patience(Arc<AtomicBool>);

impl Patience {
    pub(crate) fn is_without_end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Accepted {
    fn new(stream: UnixStream, unheard: Option<Unheard>, room: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, unread: None, limit: UNREAD, patience: Patience::default(), unheard, _room: room }
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience.clone()
    }

    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.patience.0.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let limit = self.limit;
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(unread.as_mut().poll(cx));
        tracing::info!("an answer was not read on for {} s and ends", limit.as_secs());
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// The user at the other end, told by the kernel.
    pub(crate) fn uid(&self) -> Option<u32> {
        self.stream.peer_cred().ok().map(|cred| cred.uid())
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.unheard = None;
        Poll::Ready(read)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.poll_unread(cx),
            written @ Poll::Ready(_) => {
                self.unread = None;
                written
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl ApiSocket {
    /// Of those from elsewhere only so many are in at once.
    pub(crate) fn outer(listener: UnixListener, for_user: Option<u32>) -> io::Result<Self> {
        Ok(Self { room: Some(Arc::new(Semaphore::new(OUTSIDE))), ..Self::new(listener, for_user)? })
    }

    /// `listener` is bound to a path.
    pub(crate) fn new(listener: UnixListener, for_user: Option<u32>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("the socket has no path"))?.to_owned();
        Ok(Self { listener, path, for_user, room: None, gate: Gate::open() })
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Binds anew if the file is gone. A file that is somebody else's stays.
    fn restore(&mut self) {
        match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => return,
        }
        match bind(&self.path, self.for_user).and_then(UnixListener::from_std) {
            Ok(listener) => {
                tracing::warn!(path = %self.path.display(), "the API's socket was gone and is back");
                self.listener = listener;
            }
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "the API's socket is gone"),
        }
    }
}

/// The socket behind the edge, in the place of what a daemon before has left there. `for_user`: the edge's, where it is another
/// than the daemon's.
pub fn bind_outer(path: &Path, for_user: Option<u32>) -> io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => bind(path, for_user),
    }
}

/// The folder may be searched by others, as the edge's user has to; the socket is its user's alone.
fn bind(path: &Path, for_user: Option<u32>) -> io::Result<std::os::unix::net::UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o711))?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    // The daemon's mask has made it so already; where it is another, others are kept out from here on.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    if for_user.is_some() {
        std::os::unix::fs::chown(path, for_user, for_user)?;
    }
    Ok(listener)
}

impl Listener for ApiSocket {
    type Io = Accepted;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Accepted, Self::Addr) {
        let room = match &self.room {
            Some(room) => Some(Arc::clone(room).acquire_owned().await.expect("it is never closed")),
            None => None,
        };
        let gate = self.gate();
        // Before it is looked whether the gate is closed: whoever closes it waits for what is taken from then on.
        let mut unheard = Some(gate.took());
        loop {
            tokio::select! {
                biased;
                () = gate.closed() => {
                    unheard = None;
                    std::future::pending().await
                }
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => return (Accepted::new(stream, unheard, room), from),
                    Err(error) => {
                        tracing::warn!(%error, "the API cannot accept");
                        sleep(REST).await;
                    }
                },
                () = sleep(LOOK) => self.restore(),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_and_a_session_does_not() {
        let whole = vec![0; 8 << 20];
        let pair = |limit| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (Accepted { limit, ..Accepted::new(ours, None, None) }, theirs)
        };
        let (mut unread, _theirs) = pair(Duration::from_millis(20));
        let written = timeout(Duration::from_secs(5), unread.write_all(&whole)).await.unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut session, _theirs) = pair(Duration::from_millis(1));
        session.patience().is_without_end();
        assert!(timeout(Duration::from_millis(50), session.write_all(&whole)).await.is_err(), "it waits");
        let (mut read, mut theirs) = pair(UNREAD);
        let (mut got, end) = (Vec::new(), async {
            read.write_all(&whole).await.unwrap();
            drop(read);
        });
        tokio::join!(end, async { theirs.read_to_end(&mut got).await.unwrap() });
        assert_eq!(got.len(), whole.len());
    }

    #[tokio::test]
    async fn what_was_sent_before_the_end_is_read_and_what_comes_later_waits_for_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let mut socket = ApiSocket::new(UnixListener::bind(&path).unwrap(), None).unwrap();
        let gate = socket.gate();
        let mut first = UnixStream::connect(&path).await.unwrap();
        let (mut taken, _) = socket.accept().await;
        let mut closing = tokio::spawn(async move { gate.close().await });
        assert!(timeout(Duration::from_millis(50), &mut closing).await.is_err(), "it may have asked for something");
        let _late = UnixStream::connect(&path).await.unwrap();
        assert!(timeout(Duration::from_millis(50), socket.accept()).await.is_err(), "it is in the queue");
        first.write_all(b"POST").await.unwrap();
        taken.read_u8().await.unwrap();
        timeout(Duration::from_secs(5), closing).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_is_about_to_take_a_connection_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let mut socket = ApiSocket::new(UnixListener::bind(&path).unwrap(), None).unwrap();
        let gate = socket.gate();
        let mut taking = Box::pin(socket.accept());
        assert!(taking.as_mut().now_or_never().is_none());
        // One more is taken by it, unless it has seen before that the gate is closed.
        let mut closing = Box::pin(gate.close());
        assert!(closing.as_mut().now_or_never().is_none(), "it may be taken this very moment");
        assert!(taking.as_mut().now_or_never().is_none());
        timeout(Duration::from_secs(5), closing).await.unwrap();
        let _late = UnixStream::connect(&path).await.unwrap();
        assert!(taking.as_mut().now_or_never().is_none(), "it is in the queue");
    }

    #[tokio::test]
    async fn a_socket_whose_folder_was_cleaned_away_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("api.sock");
        let mut socket = ApiSocket::new(UnixListener::bind(&path).unwrap(), None).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let server = tokio::spawn(async move { socket.accept().await });
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&path).await.is_err() {
            assert!(Instant::now() < deadline, "it does not come back");
            tokio::task::yield_now().await;
        }
        timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
