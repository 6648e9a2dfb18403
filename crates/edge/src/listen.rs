//! Accepting connections. The sockets are shared by all workers: whoever is free takes the next one.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::client::{Peer, http1, http2};
use crate::deadline::ticks;
use crate::policy::Networks;
use crate::proxy::{self, Source};
use crate::route::Routes;
use crate::stream::Stream;
use crate::tls;
use crate::upstream::is_shortage;
use crate::worker::Worker;

/// Bytes of a connection that the kernel takes beyond what it may send at once. Without a bound it takes megabytes, and says that there is room again
/// once a third of them is gone: a client on a slow line, which reads all the time, looks for minutes as if it read nothing.
const UNSENT: u32 = 128 << 10;

/// How long accepting rests when the process has no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(100);

/// How often that is told: a shortage may come and go many times a second.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How long a new edge leaves connections in the sockets' queues until it is told what to serve: an edge that replaces
/// one that died answers them then, as if nothing had happened.
const FIRST_TABLE: Duration = Duration::from_secs(2);

/// Accepts until the worker drains.
pub(crate) async fn accept(worker: Rc<Worker>, listener: TcpListener, secure: bool) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
    };
    prepare(&SockRef::from(&listener));
    let wait = worker.sweep.deadline();
    if !worker.is_successor {
        wait.set(FIRST_TABLE);
    }
    let mut waited = false;
    let mut silent_until = 0;
    loop {
        let accepted = std::future::poll_fn(|cx| {
            // Also registers for being woken when a table comes and when draining begins.
            if wait.passed(cx) {
                waited = true;
                wait.clear();
            }
            if worker.is_draining() {
                return Poll::Ready(None);
            }
            if !waited && worker.with_routes(Routes::is_initial) {
                return Poll::Pending;
            }
            listener.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => return,
            Some(Ok((stream, peer))) => {
                tokio::task::spawn_local(connection(Rc::clone(&worker), stream, peer, secure));
            }
            Some(Err(error)) if is_shortage(&error) => {
                if worker.sweep.now() >= silent_until {
                    tracing::warn!(%error, "accepting pauses");
                    silent_until = worker.sweep.now() + ticks(WARN_EVERY);
                }
                worker.make_room();
                tokio::time::sleep(PAUSE).await;
            }
            Some(Err(error)) => tracing::debug!(%error, "a connection was gone before it was accepted"),
        }
    }
}

/// One connection; counted until it is dropped, also by a panic.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.shard.connection_opened();
        Self(Rc::clone(worker))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shard.connection_closed();
    }
}

async fn connection(worker: Rc<Worker>, mut stream: TcpStream, peer: SocketAddr, secure: bool) {
    let _counted = Counted::new(&worker);
    let (mut trusted, proxied) = worker.with_routes(|routes| (Arc::clone(&routes.trusted), routes.proxied));
    let (mut from, mut secured) = (peer.ip().to_canonical(), false);
    if proxied && trusted.contain(from) {
        match introduced(&worker, &mut stream, peer).await {
            Some(Source::Client { address, secured: over_tls }) => (from, secured) = (address, over_tls),
            Some(Source::Proxy) => {}
            // The address is the proxy's, and what comes from it is not.
            Some(Source::Unnamed) => trusted = Arc::new(Networks::new(&[])),
            None => return,
        }
    }
    if !secure {
        let peer = Peer::new(from, None, trusted);
        let peer = if secured { peer.secured_before() } else { peer };
        return http1::serve(worker, Stream::Plain(stream), peer).await;
    }
    let Some((stream, peer)) = handshake(&worker, stream, from, trusted).await else { return };
    match stream {
        // Boxed, like what is rare: no other connection carries its room.
        Stream::Tls(stream) if tls::is_challenge(&stream) => Box::pin(close(*stream)).await,
        // Boxed: a connection that speaks HTTP/1 does not carry its room.
        Stream::Tls(stream) if tls::is_http2(&stream) => {
            Box::pin(http2::serve(worker, *stream, peer)).await;
        }
        Stream::Tls(_) | Stream::Plain(_) => http1::serve(worker, stream, peer).await,
    }
}

/// What its connections have from it. A failure costs time, or memory, only.
fn prepare(listener: &SockRef<'_>) {
    // Without it, small answers wait for an acknowledgement.
    drop(listener.set_tcp_nodelay(true));
    drop(listener.set_tcp_notsent_lowat(UNSENT));
}

/// Whose connection a proxy has brought; `None`: it did not say so as it must, which is the end of the connection.
async fn introduced(worker: &Worker, stream: &mut TcpStream, peer: SocketAddr) -> Option<Source> {
    // Boxed, like what is rare.
    let reading = Box::pin(tokio::time::timeout(worker.limits.head, proxy::read(stream)));
    let code = match reading.await {
        Ok(Ok(source)) => return Some(source),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, %peer, "a connection has no PROXY header");
            "proxy-header"
        }
        Err(_) => "proxy-header-timeout",
    };
    worker.shard.refused(code);
    None
}

/// Says that nothing follows. Who does not take that up has had its handshake all the same.
async fn close(mut stream: TlsStream<TcpStream>) {
    drop(tokio::time::timeout(PAUSE, stream.shutdown()).await);
}

/// Boxed: its state is large and lives only for a moment.
async fn handshake(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: IpAddr,
    trusted: Arc<Networks>,
) -> Option<(Stream, Peer)> {
    let local = stream.local_addr().ok()?.ip();
    let shaking = Box::pin(worker.tls.accept(stream, local));
    let shaken = tokio::time::timeout(worker.limits.handshake, shaking).await;
    worker.shard.handshake(matches!(shaken, Ok(Ok(_))));
    match shaken {
        Ok(Ok(stream)) => {
            let peer = Peer::new(peer, Some(tls::secured(&stream)), trusted);
            Some((Stream::Tls(Box::new(stream)), peer))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "a TLS handshake took too long");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ten thousand connections that rest need is this, ten thousand times, and little else.
    #[tokio::test]
    async fn a_connection_takes_little_room() {
        let folder = tempfile::tempdir().unwrap();
        let worker = Rc::new(Worker::for_test(folder.path(), Arc::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let room = size_of_val(&connection(worker, stream, address, false));
        assert!(room <= 2_256, "{room} bytes");
    }

    #[test]
    fn a_connection_has_what_its_listener_was_given() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        prepare(&SockRef::from(&listener));
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
