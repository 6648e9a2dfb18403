//! A client that speaks HTTP/1.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::{Body, Client, LINGER, LINGER_BYTES, Peer, Raw};
use crate::answer::Reason;
use crate::deadline::{Deadline, ticks};
use crate::h1::{
    AfterClient, BodyDecoder, BodyEncoder, Exchange, Framing, GateStep, Refusal, RequestGate, RequestHead, Version,
    write,
};
use crate::request;
use crate::stream::Stream;
use crate::worker::{BUFFER, Worker};

/// How long a connection that has not sent its first request is served while draining.
const DRAIN_FIRST: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    worker: Rc<Worker>,
    stream: Option<Stream>,
    peer: Peer,
    /// Received and not yet used: `input[start..]`. Without memory while nothing is there.
    input: Vec<u8>,
    start: usize,
    /// To be sent: `output[written..]`.
    output: Vec<u8>,
    written: usize,
    sent: u64,
    unflushed: bool,
    decoder: BodyDecoder,
    encoder: BodyEncoder,
    version: Version,
    ended: bool,
}

/// What came of waiting for a request.
enum Next {
    Head(RequestHead),
    Closed,
    Refused(Refusal),
}

/// Serves one connection until it ends. What an `async fn` is given it keeps twice, and there are many connections that rest.
pub(crate) fn serve(worker: Rc<Worker>, stream: Stream, peer: Peer) -> impl Future<Output = ()> {
    let deadline = worker.sweep.deadline();
    let mut client = Http1::new(worker, stream, peer);
    async move {
        let mut gate = RequestGate::new();
        let mut first = true;
        loop {
            let head = match client.next(&mut gate, &deadline, first).await {
                Next::Head(head) => head,
                Next::Closed => return,
                Next::Refused(refusal) => {
                    request::refuse(&client.worker.clone(), &mut client, refusal, &deadline).await;
                    return client.linger(&deadline).await;
                }
            };
            first = false;
            let after = client.exchange(&head, &deadline).await;
            head.recycle(&mut client.worker.spare.borrow_mut());
            match after {
                // Behind the end of a client that closed its side, requests may still be waiting.
                AfterClient::Reuse if !client.ended || client.start < client.input.len() => {}
                AfterClient::Linger => return client.linger(&deadline).await,
                AfterClient::Close | AfterClient::Reuse => return client.close(&deadline).await,
                AfterClient::Wait | AfterClient::Tunnel => return,
            }
        }
    }
}

impl Http1 {
    fn new(worker: Rc<Worker>, stream: Stream, peer: Peer) -> Self {
        Self {
            worker,
            stream: Some(stream),
            peer,
            input: Vec::new(),
            start: 0,
            output: Vec::new(),
            written: 0,
            sent: 0,
            unflushed: false,
            decoder: BodyDecoder::new(Framing::None),
            encoder: BodyEncoder::new(Framing::None),
            version: Version::Http11,
            ended: false,
        }
    }

    /// Waits for a whole head: for its first byte as long as a connection may idle, then as long as a head may take.
    async fn next(&mut self, gate: &mut RequestGate, deadline: &Deadline, first: bool) -> Next {
        let limits = self.worker.limits;
        let shortages = self.worker.shortages();
        let mut started = false;
        deadline.set(if first { limits.head } else { limits.idle });
        let mut parsed = false;
        poll_fn(|cx| {
            loop {
                if !parsed && self.start < self.input.len() {
                    let spare = &mut self.worker.spare.borrow_mut();
                    match gate.read(&self.input[self.start..], spare) {
                        GateStep::Head { head, consumed } => {
                            self.start += consumed;
                            return Poll::Ready(Next::Head(head));
                        }
                        GateStep::Refuse(refusal) => return Poll::Ready(Next::Refused(refusal)),
                        GateStep::NeedMore => parsed = true,
                    }
                    if !started && RequestGate::started(&self.input[self.start..]) {
                        started = true;
                        deadline.set(limits.head);
                    }
                }
                if deadline.passed(cx) {
                    let refused = started.then_some(Next::Refused(Refusal::HeadTimeout));
                    return Poll::Ready(refused.unwrap_or(Next::Closed));
                }
                match self.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Closed),
                    Poll::Ready(Ok(_)) => parsed = false,
                    // Only now is it known that no request is waiting, which closing would reset away.
                    Poll::Pending => {
                        let draining = self.worker.closes_idle();
                        if !started && !first && (draining || self.worker.shortages() != shortages) {
                            return Poll::Ready(Next::Closed);
                        }
                        if !started && draining {
                            deadline.set_sooner(DRAIN_FIRST);
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// One request and its answer.
    async fn exchange(&mut self, head: &RequestHead, deadline: &Deadline) -> AfterClient {
        self.decoder = BodyDecoder::new(head.body());
        self.version = head.version();
        let worker = Rc::clone(&self.worker);
        match Exchange::new(head, self.input.len() - self.start) {
            Ok(exchange) => request::run(&worker, self, head, exchange, deadline).await.client(),
            Err(refusal) => {
                request::refuse(&worker, self, refusal, deadline).await;
                AfterClient::Linger
            }
        }
    }

    /// Reads behind what is there. A buffer is held only while it holds something.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(0)) };
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        if self.input.capacity() == 0 {
            self.input = self.worker.take_buffer();
        } else if self.input.len() == self.input.capacity() {
            self.input.reserve(BUFFER);
        }
        let read = pin!(stream.read_buf(&mut self.input)).poll(cx);
        if self.input.is_empty() {
            self.worker.give_buffer(std::mem::take(&mut self.input));
        }
        self.ended |= matches!(read, Poll::Ready(Ok(0)));
        read
    }

    /// Sends what is left, and over TLS that it was all. That a plain connection is over its end says, which follows.
    async fn close(&mut self, deadline: &Deadline) {
        deadline.set(LINGER);
        poll_fn(|cx| {
            if deadline.passed(cx) || ready!(self.poll_flush(cx)).is_err() {
                return Poll::Ready(());
            }
            match &mut self.stream {
                Some(stream @ Stream::Tls(_)) => Pin::new(stream).poll_shutdown(cx).map(drop),
                Some(Stream::Plain(_)) | None => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Closes for writing and reads on, so that what is still on its way does not reset the answer away. Much at once waits for the next tick and
    /// is not the end: whoever sends more than that before it reads would have lost its answer to how fast it is.
    async fn linger(&mut self, deadline: &Deadline) {
        self.close(deadline).await;
        poll_fn(|cx| match &mut self.stream {
            Some(stream @ Stream::Plain(_)) => Pin::new(stream).poll_shutdown(cx).map(drop),
            Some(Stream::Tls(_)) | None => Poll::Ready(()),
        })
        .await;
        let end = self.worker.sweep.now().saturating_add(ticks(LINGER));
        let mut left = LINGER_BYTES;
        deadline.set(Duration::ZERO);
        poll_fn(|cx| {
            loop {
                if deadline.passed(cx) {
                    if self.worker.sweep.now() >= end {
                        return Poll::Ready(());
                    }
                    left = LINGER_BYTES;
                    deadline.set(Duration::ZERO);
                    continue;
                }
                if left == 0 {
                    return Poll::Pending;
                }
                self.input.clear();
                self.start = 0;
                match ready!(self.poll_fill(cx)) {
                    Ok(n) if n > 0 => left = left.saturating_sub(n),
                    Ok(_) | Err(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.worker.give_buffer(std::mem::take(&mut self.input));
        self.worker.give_buffer(std::mem::take(&mut self.output));
    }
}

impl Client for Http1 {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }

    fn version(&self) -> Version {
        self.version
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
    ) -> Poll<Result<Body, Reason>> {
        loop {
            if self.decoder.is_complete() {
                return Poll::Ready(Ok(Body::End));
            }
            if self.start < self.input.len() {
                let input = &self.input[self.start..];
                let decoded = self.decoder.decode(input).map_err(Refusal::from)?;
                let payload = &input[decoded.payload];
                let length = payload.len();
                if length > 0 {
                    sink(payload)?;
                }
                self.start += decoded.consumed;
                if length > 0 {
                    return Poll::Ready(Ok(Body::Data(length)));
                }
                if self.decoder.is_complete() {
                    continue;
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Reason::ClientGone)),
                Ok(_) => {}
            }
        }
    }

    /// They are read by rule, and dropped (RFC 9110, 6.5).
    fn poll_trailers(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Reason>> {
        Poll::Ready(Ok(None))
    }

    fn carries_trailers(&self) -> bool {
        false
    }

    fn send_trailers(&mut self, _: HeaderMap) {}

    fn body_bytes(&self) -> u64 {
        self.decoder.payload_bytes()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        // Bytes of a next request may come: they are kept, up to one buffer.
        while !self.ended && !self.is_full() {
            match ready!(self.poll_fill(cx)) {
                // A client may close its side and read on (RFC 9112, 9.6). Where TLS ends, the whole connection does.
                Ok(0) if matches!(self.stream, Some(Stream::Plain(_))) => {}
                Ok(0) | Err(_) => return Poll::Ready(Reason::ClientGone),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    fn is_full(&self) -> bool {
        self.input.len() - self.start >= BUFFER
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let gone = self.poll_gone(cx);
        if self.ended { Poll::Ready(Reason::ClientGone) } else { gone }
    }

    fn send_continue(&mut self) {
        self.output.extend_from_slice(write::CONTINUE);
    }

    fn respond(&mut self, framing: Framing, write: &mut dyn FnMut(&mut Vec<u8>)) -> Result<(), Reason> {
        if self.output.capacity() == 0 {
            self.output = self.worker.take_buffer();
        }
        self.encoder = BodyEncoder::new(framing);
        write(&mut self.output);
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.output.len() - self.written < BUFFER
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Reason> {
        if self.output.capacity() == 0 {
            self.output = self.worker.take_buffer();
        }
        // Of who reads slowly something is always left: what is sent does not stay before it.
        self.output.drain(..std::mem::take(&mut self.written));
        self.encoder.encode(payload, &mut self.output).map_err(|_| crate::h1::BadUpstream::OverlongBody.into())
    }

    fn finish(&mut self) -> Result<(), Reason> {
        let end = self.encoder.finish().map_err(|_| crate::h1::BadUpstream::BodyTruncated)?;
        self.output.extend_from_slice(end);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        while self.written < self.output.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.output[self.written..])) {
                Ok(n) if n > 0 => {
                    self.written += n;
                    self.sent += n as u64;
                    self.unflushed = true;
                }
                Ok(_) | Err(_) => return Poll::Ready(Err(Reason::ClientGone)),
            }
        }
        if self.unflushed {
            if ready!(Pin::new(stream).poll_flush(cx)).is_err() {
                return Poll::Ready(Err(Reason::ClientGone));
            }
            self.unflushed = false;
            self.written = 0;
            self.worker.give_buffer(std::mem::take(&mut self.output));
        }
        Poll::Ready(Ok(()))
    }

    fn sent_bytes(&self) -> u64 {
        self.sent
    }

    fn abort(&mut self, _: Reason) {
        // What was given is not sent either: a client must never take a part for the whole. Closing without the end
        // of a chunked body, or short of its length, says so.
        self.output.clear();
        self.written = 0;
        self.unflushed = false;
        if let Some(stream) = self.stream.take() {
            stream.reset();
        }
    }

    fn take_tunnel(&mut self) -> Option<Raw> {
        let stream = self.stream.take()?;
        let received = self.input.split_off(self.start);
        let unsent = self.output.split_off(self.written);
        Some(Raw { stream, received, unsent })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

    use super::*;

    /// A client, and the edge's side of its connection; time passes as the test says.
    struct Raw {
        stream: TcpStream,
        serving: JoinHandle<()>,
        worker: Rc<Worker>,
        _folder: tempfile::TempDir,
    }

    impl Raw {
        async fn connect() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let worker = Rc::new(Worker::for_test(folder.path(), Arc::default()));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (edge, from) = listener.accept().await.unwrap();
            let peer = Peer::new(from.ip(), None, Arc::default());
            let serving = spawn_local(serve(Rc::clone(&worker), Stream::Plain(edge), peer));
            Self { stream, serving, worker, _folder: folder }
        }

        /// Sends this, and reads an answer that ends so.
        async fn ask(&mut self, request: &str, end: &str) {
            self.stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(end.as_bytes()) {
                let read = self.stream.read_buf(&mut answer).await.unwrap();
                assert!(read > 0, "{}", answer.escape_ascii());
            }
        }

        /// So much time goes by; whether the connection has ended since.
        async fn ends_within(&self, time: Duration) -> bool {
            for _ in 0..ticks(time) {
                self.worker.sweep.tick();
                for _ in 0..10 {
                    yield_now().await;
                }
            }
            self.serving.is_finished()
        }
    }

    #[tokio::test]
    async fn who_reads_slowly_takes_no_more_room_than_who_reads_at_once() {
        use nix::sys::socket::{setsockopt, sockopt};
        let folder = tempfile::tempdir().unwrap();
        let worker = Rc::new(Worker::for_test(folder.path(), Arc::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        setsockopt(&listener, sockopt::SndBuf, &1).unwrap();
        let slow = TcpSocket::new_v4().unwrap();
        slow.set_recv_buffer_size(16 << 10).unwrap();
        let mut slow = slow.connect(listener.local_addr().unwrap()).await.unwrap();
        let (edge, from) = listener.accept().await.unwrap();
        let mut client = Http1::new(worker, Stream::Plain(edge), Peer::new(from.ip(), None, Arc::default()));
        client.respond(Framing::Length(u64::MAX), &mut |_| ()).unwrap();
        let (mut read, mut left) = (0, 0);
        while left < 500 {
            while client.has_room() {
                client.send(&[7; BUFFER]).unwrap();
            }
            assert!(client.output.capacity() <= 4 * BUFFER, "{} bytes behind {read}", client.output.capacity());
            let (flushed, taken) = poll_fn(|cx| {
                let (flushed, mut room) = (client.poll_flush(cx), [0; 2 << 10]);
                let mut room = ReadBuf::new(&mut room);
                let taken = Pin::new(&mut slow).poll_read(cx, &mut room);
                taken.map(|_| (flushed, room.filled().len()))
            })
            .await;
            left = if flushed.is_pending() { left + 1 } else { 0 };
            read += taken;
            assert!(read < 64 << 20, "nothing is ever left");
        }
    }

    #[tokio::test]
    async fn a_connection_may_rest_for_a_while() {
        let resting = async {
            let mut raw = Raw::connect().await;
            raw.ask("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", "\r\n\r\n").await;
            let idle = raw.worker.limits.idle;
            assert!(!raw.ends_within(idle - Duration::from_secs(1)).await, "too early");
            raw.ask("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", "\r\n\r\n").await;
            assert!(!raw.ends_within(idle - Duration::from_secs(1)).await, "it begins anew");
            assert!(raw.ends_within(Duration::from_secs(2)).await, "it is open for ever");
        };
        LocalSet::new().run_until(resting).await;
    }

    #[tokio::test]
    async fn who_was_refused_is_read_on_for_a_while() {
        let lingering = async {
            let mut raw = Raw::connect().await;
            raw.ask("GET /%00 HTTP/1.1\r\nHost: a.test\r\n\r\n", ")\n").await;
            for _ in 0..4 {
                raw.stream.write_all(&[0; 64 << 10]).await.expect("it is read, and forgotten");
                assert!(!raw.ends_within(Duration::from_millis(200)).await, "it would be reset");
            }
            assert!(raw.ends_within(LINGER).await, "it is open for ever");
        };
        LocalSet::new().run_until(lingering).await;
    }
}
