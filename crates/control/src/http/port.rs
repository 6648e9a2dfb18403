//! The admin port's connections: a bounded number of them, and none that keeps its place by doing nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections at once: browsers keep six to one place, and scrapers one. More wait to be accepted.
const MOST: usize = 64;
/// How long neither direction may move. A console is told something each second.
const QUIET: Duration = Duration::from_secs(30);
/// What the kernel takes of an answer that nobody reads: a client that does not read is noticed within a minute.
const UNREAD: usize = 32 << 10;
/// How long accepting rests after an error, such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// The listening socket.
#[derive(Debug)]
pub(crate) struct AdminPort {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl AdminPort {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MOST)) }
    }
}

impl Listener for AdminPort {
    type Io = Bounded<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("it is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    if let Err(error) = setsockopt(&stream, sockopt::SndBuf, &UNREAD) {
                        tracing::debug!(%error, "the send buffer of an admin connection keeps its size");
                    }
                    return (Bounded::new(stream, QUIET, place), from);
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    sleep(REST).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A stream that breaks when neither direction has moved for a while.
#[derive(Debug)]
pub(crate) struct Bounded<S> {
    stream: S,
    limit: Duration,
    until: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Bounded<S> {
    fn new(stream: S, limit: Duration, place: OwnedSemaphorePermit) -> Self {
        Self { stream, limit, until: Box::pin(sleep(limit)), _place: place }
    }

    fn moved(&mut self) {
        let until = Instant::now() + self.limit;
        self.until.as_mut().reset(until);
    }

    /// Nothing can be done now.
    fn waits<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.until.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.waits(cx),
            ready => {
                self.moved();
                ready
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.waits(cx),
            ready => {
                self.moved();
                ready
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.waits(cx),
            ready => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending => self.waits(cx),
            ready => ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn bounded<S>(stream: S) -> Bounded<S> {
        Bounded::new(stream, LIMIT, Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap())
    }

    #[tokio::test]
    async fn a_client_that_does_nothing_is_let_go() {
        let (near, _far) = duplex(64);
        let began = Instant::now();
        let error = bounded(near).read_u8().await.unwrap_err();
        assert!(error.kind() == io::ErrorKind::TimedOut && began.elapsed() >= LIMIT, "{error}");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_let_go_and_one_that_only_reads_is_not() {
        let (near, mut far) = duplex(8);
        let (mut from, mut into) = tokio::io::split(bounded(near));
        let listens = tokio::spawn(async move { from.read_u8().await });
        let began = Instant::now();
        while began.elapsed() < 3 * LIMIT {
            into.write_all(b"event").await.unwrap();
            far.read_exact(&mut [0; 5]).await.unwrap();
        }
        assert!(!listens.is_finished(), "what was told counts for both directions");
        let error = into.write_all(b"more than the buffer takes").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn more_than_there_are_places_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut port = AdminPort { listener, places: Arc::new(Semaphore::new(1)) };
        let (_one, _two) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let (first, _) = port.accept().await;
        let mut second = std::pin::pin!(port.accept());
        tokio::select! {
            biased;
            _ = second.as_mut() => panic!("there was a place"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        second.await;
    }
}
