//! Load and upstream in one thread: 64 keep-alive connections in a closed loop on one side, a fixed answer on the other.
//!
//! One epoll loop over raw sockets, without allocation per request, so that the proxy between is what saturates; how
//! busy this side was is reported with every figure.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Connections of the load.
const CONNECTIONS: usize = 64;

const BODY: &[u8] = b"hello world\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n";

/// One round's figures.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Sorted, in microseconds.
    latencies: Vec<u32>,
    /// Share of the time that this thread was on a core.
    pub(crate) busy: f64,
}

impl Round {
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
        let requests = self.requests as f64;
        requests / self.seconds
    }

    /// The latency in microseconds that this share of requests stays below.
    pub(crate) fn quantile(&self, per_mille: usize) -> u32 {
        let index = (self.latencies.len() * per_mille / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).copied().unwrap_or(0)
    }
}

enum Socket {
    Upstream(TcpStream),
    Client { stream: TcpStream, sent: Instant },
}

/// The upstream's socket and whatever is connected to it.
pub(crate) struct Generator {
    listener: TcpListener,
    epoll: Epoll,
    sockets: Vec<Option<Socket>>,
}

const LISTENER: u64 = u64::MAX;

impl Generator {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Self { listener, epoll, sockets: Vec::new() })
    }

    pub(crate) fn upstream(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers what comes for a moment, so that a proxy's first connections find somebody.
    pub(crate) fn serve_until(&mut self, mut done: impl FnMut() -> bool, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        let mut round = Counters::default();
        while !done() {
            ensure!(Instant::now() < deadline, "not ready within {} s", limit.as_secs());
            self.turn(&mut round, b"", 20)?;
        }
        Ok(())
    }

    /// Loads `proxy` with requests for `host` until the time is over.
    pub(crate) fn run(
        &mut self,
        proxy: SocketAddr,
        host: &str,
        headers: &str,
        time: Duration,
    ) -> anyhow::Result<Round> {
        let request = format!("GET /bench HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").into_bytes();
        let first = self.sockets.len();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(proxy).context("the proxy")?;
            stream.set_nodelay(true)?;
            stream.write_all(&request)?;
            stream.set_nonblocking(true)?;
            self.add(Socket::Client { stream, sent: Instant::now() })?;
        }
        let mut counters = Counters::default();
        let (began, cpu) = (Instant::now(), thread_time()?);
        while began.elapsed() < time {
            self.turn(&mut counters, &request, 100)?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let busy = (thread_time()? - cpu).as_secs_f64() / seconds;
        for socket in self.sockets.iter_mut().skip(first).filter(|s| matches!(s, Some(Socket::Client { .. }))) {
            *socket = None;
        }
        counters.latencies.sort_unstable();
        Ok(Round { requests: counters.requests, seconds, latencies: counters.latencies, busy })
    }

    fn add(&mut self, socket: Socket) -> anyhow::Result<()> {
        let index = u64::try_from(self.sockets.len())?;
        let stream = match &socket {
            Socket::Upstream(stream) | Socket::Client { stream, .. } => stream.as_fd(),
        };
        self.epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
        self.sockets.push(Some(socket));
        Ok(())
    }

    fn turn(&mut self, counters: &mut Counters, request: &[u8], wait_ms: u16) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); 128];
        let ready = self.epoll.wait(&mut events, EpollTimeout::from(wait_ms))?;
        for event in &events[..ready] {
            if event.data() == LISTENER {
                self.accept()?;
                continue;
            }
            let index = usize::try_from(event.data())?;
            let open = match self.sockets.get_mut(index).and_then(Option::as_mut) {
                None => true,
                Some(Socket::Upstream(stream)) => answer(stream)?,
                Some(Socket::Client { stream, sent }) => {
                    ensure!(counters.answered(stream, sent, request)?, "the proxy closed a kept connection");
                    true
                }
            };
            if !open {
                self.sockets[index] = None;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    self.add(Socket::Upstream(stream))?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Answers one request; `false` when the proxy closed. A head that comes in pieces is answered at its end.
fn answer(stream: &mut TcpStream) -> anyhow::Result<bool> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => {
            if buffer[..n].ends_with(b"\r\n\r\n") {
                stream.write_all(ANSWER)?;
            }
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[derive(Default)]
struct Counters {
    requests: u64,
    latencies: Vec<u32>,
}

impl Counters {
    /// Reads an answer and asks again; `false` when the proxy closed.
    fn answered(&mut self, stream: &mut TcpStream, sent: &mut Instant, request: &[u8]) -> anyhow::Result<bool> {
        let mut buffer = [0; 4096];
        let n = match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if !buffer[..n].ends_with(BODY) {
            return Ok(true);
        }
        ensure!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..n]));
        let now = Instant::now();
        self.latencies.push(u32::try_from((now - *sent).as_micros())?);
        self.requests += 1;
        *sent = now;
        stream.write_all(request)?;
        Ok(true)
    }
}

/// Processor time of this thread.
fn thread_time() -> anyhow::Result<Duration> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(Duration::from(time))
}
