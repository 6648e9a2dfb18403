//! An upgraded connection: bytes both ways until one side ends, nothing moves for too long, the instance is drained, or the
//! edge closes.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::answer::Reason;
use crate::client::Client;
use crate::deadline::ticks;
use crate::h1::websocket::{FrameTracker, close_frame};
use crate::request::Request;
use crate::stream::Stream;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// Going away (RFC 6455, 7.4.1).
const GOING_AWAY: u16 = 1001;

/// What let it in lets nobody in any more.
const POLICY_VIOLATION: u16 = 1008;

/// How long the last bytes may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Carries bytes until the tunnel ends. `received`: what came behind the 101.
pub(crate) async fn run<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    (stream, received): (Upstream, Vec<u8>),
    idle: Duration,
) -> Result<(), Reason> {
    let _counted = request.worker.count_tunnel();
    let raw = client.take_tunnel().ok_or(Reason::Internal)?;
    let mut frames = FrameTracker::new();
    frames.pass(&received);
    let mut down = Pipe { buffer: raw.unsent, ..Pipe::default() };
    down.buffer.extend_from_slice(&received);
    let mut tunnel = Tunnel {
        worker: request.worker,
        client: raw.stream,
        upstream: stream,
        up: Pipe { buffer: raw.received, ..Pipe::default() },
        down,
        frames: request.is_websocket().then_some(frames),
        closing: false,
        is_shut_out: false,
    };
    let deadline = request.deadline;
    deadline.set(idle);
    // Whatever frame goes on until then.
    let mut ends = u64::MAX;
    poll_fn(|cx| {
        loop {
            request.look_again(client.peer());
            if request.ends() < u64::MAX && !std::mem::replace(&mut tunnel.is_shut_out, true) {
                ends = request.worker.sweep.now().saturating_add(ticks(LAST_WORDS));
            }
            if request.worker.sweep.now() >= ends || tunnel.is_shut_out && tunnel.frames.is_none() {
                return Poll::Ready(());
            }
            match tunnel.step(cx) {
                Poll::Ready(Ok(true)) if !tunnel.closing => deadline.set(idle),
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    if tunnel.begin_close() {
                        deadline.set(LAST_WORDS);
                        continue;
                    }
                    deadline.set_no_later(ends);
                    return if deadline.passed(cx) { Poll::Ready(()) } else { Poll::Pending };
                }
            }
        }
    })
    .await;
    request.journal.response_bytes = tunnel.down.passed;
    if tunnel.is_shut_out { Err(Reason::Revoked) } else { Ok(()) }
}

/// One direction.
#[derive(Default)]
struct Pipe {
    buffer: Vec<u8>,
    written: usize,
    passed: u64,
    /// The reading side said that nothing more comes.
    ended: bool,
    /// The writing side was told.
    shut: bool,
}

struct Tunnel<'a> {
    worker: &'a Worker,
    client: Stream,
    upstream: Upstream,
    up: Pipe,
    down: Pipe,
    /// Follows what the client is sent; `None`: not a WebSocket.
    frames: Option<FrameTracker>,
    closing: bool,
    /// Who has opened it would not be let in any more.
    is_shut_out: bool,
}

impl Tunnel<'_> {
    /// True: something moved. False: both directions are over.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Self { worker, client, upstream, up, down, frames, closing, .. } = self;
        if *closing {
            // The close frame is the last that the client gets. What it sends meanwhile is read: with that unread, what it has not read would be lost.
            ready!(down.write(client, cx))?;
            ready!(Pin::new(&mut *client).poll_shutdown(cx))?;
            up.buffer.clear();
            let read = ready!(pin!(client.read_buf(&mut up.buffer)).poll(cx))?;
            return Poll::Ready(Ok(read > 0));
        }
        let down_step = down.step(worker, upstream, client, cx, &mut |bytes| {
            if let Some(frames) = frames {
                frames.pass(bytes);
            }
        });
        let down_step = down_step.map_err(Broken::into_inner)?;
        let up_step = match up.step(worker, client, upstream, cx, &mut |_| ()) {
            // The instance may have said its last words before it closed: reading goes on.
            Err(Broken::Writing(_)) => {
                up.shut = true;
                Poll::Ready(())
            }
            step => step.map_err(Broken::into_inner)?,
        };
        if down.shut && up.shut {
            return Poll::Ready(Ok(false));
        }
        if down_step.is_ready() || up_step.is_ready() { Poll::Ready(Ok(true)) } else { Poll::Pending }
    }

    /// Says why to the client, once, when the edge closes, the instance is drained or nobody is let in with what it has brought, and a frame of our own
    /// may be sent.
    fn begin_close(&mut self) -> bool {
        let Some(frames) = &self.frames else { return false };
        let is_over = self.worker.is_closing() || self.upstream.is_leaving() || self.is_shut_out;
        if self.closing || !is_over || !frames.at_boundary() {
            return false;
        }
        self.down.buffer.extend_from_slice(&close_frame(if self.is_shut_out { POLICY_VIOLATION } else { GOING_AWAY }));
        self.closing = true;
        true
    }
}

/// The side of a pipe that failed.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

impl Broken {
    fn into_inner(self) -> io::Error {
        match self {
            Self::Reading(error) | Self::Writing(error) => error,
        }
    }
}

impl Pipe {
    fn step<R, W>(
        &mut self,
        worker: &Worker,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<Poll<()>, Broken>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.shut {
            return Ok(Poll::Pending);
        }
        match self.write(to, cx) {
            Poll::Ready(written) => written.map_err(Broken::Writing)?,
            Poll::Pending => return Ok(Poll::Pending),
        }
        if self.ended {
            let shut = Pin::new(to).poll_shutdown(cx).map_err(Broken::Writing)?;
            self.shut = shut.is_ready();
            return Ok(shut);
        }
        if self.buffer.capacity() == 0 {
            self.buffer = worker.take_buffer();
        }
        let read = pin!(from.read_buf(&mut self.buffer)).poll(cx).map_err(Broken::Reading)?;
        match read {
            Poll::Ready(0) => self.ended = true,
            Poll::Ready(_) => seen(&self.buffer),
            Poll::Pending => {}
        }
        if self.buffer.is_empty() {
            worker.give_buffer(std::mem::take(&mut self.buffer));
        }
        Ok(read.map(drop))
    }

    /// Writes all that is there, then gives the memory back.
    fn write<W: AsyncWrite + Unpin>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.buffer.len() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.passed += n as u64;
        }
        ready!(Pin::new(to).poll_flush(cx))?;
        self.written = 0;
        self.buffer.clear();
        Poll::Ready(Ok(()))
    }
}
