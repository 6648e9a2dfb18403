//! Instances that speak HTTP/2 without TLS: few connections to each, shared by the requests that are under way.
//!
//! A request goes out as the text that an instance of HTTP/1.1 would be sent, put into a head of HTTP/2; the head of an answer is put into
//! text and read by the parser of HTTP/1.1. What goes through in one protocol goes through in the other, and nothing else does.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason as Code, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::answer::Reason;
use crate::balance::{Endpoint, Ticket};
use crate::deadline::ticks;
use crate::h1::body::FORBIDDEN_TRAILERS;
use crate::h1::{BadUpstream, FieldKind, MAX_HEAD, MAX_INTERIM, Refusal};
use crate::worker::Worker;

/// Requests at once on one connection, where the instance does not say fewer.
const MAX_STREAMS: u32 = 100;
/// What an instance may send ahead of a client that reads slowly. A connection has room for all of its streams: who is slow
/// keeps nobody else waiting.
const STREAM_WINDOW: u32 = 32 << 10;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// What frames with little in them may cost beside their payload, 256 bytes each by the count of `h2`, before the connection ends, and all
/// of its requests with it. What nobody reads waits as bytes ([`Stream::poll_ahead`]) and costs nothing any more; what comes late for a request
/// that was given up is never given back.
const SMALL_FRAMES: usize = 64 << 20;
/// Requests that were given up here before their answer was whole, of which a connection takes nothing new: they have left what [`SMALL_FRAMES`] bounds,
/// each as much as has room in a stream's window.
const MAX_GIVEN_UP: u32 = 32;
/// Streams that are remembered for a second after they were given up. What is still on its way for others costs a frame in return.
const RESET_STREAMS: usize = 10 * MAX_STREAMS as usize;
/// Requests in the life of a connection to an instance that writes an empty frame of data in each answer: `h2` takes a hundred such frames and
/// ends the connection at the next one, which nobody can set.
const MAX_WORN: u32 = 100;
/// What one stream may hold to be sent.
const SEND_BUFFER: usize = 64 << 10;
/// How long a connection without requests is kept. An instance that wants it to end says so (GOAWAY), and nothing is lost by that.
const IDLE: Duration = Duration::from_secs(60);

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_reset_streams(RESET_STREAMS)
        // Counted over a connection's life: clients that give up their own requests would end everybody's.
        .max_local_error_reset_streams(None)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// One worker's connections, by the endpoint's serial.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    all: RefCell<HashMap<u32, Vec<Connection>>>,
    /// Those that are being opened: whoever comes meanwhile waits for them.
    opening: RefCell<HashMap<u32, Rc<Opening>>>,
}

#[derive(Debug, Default)]
struct Opening {
    over: Notify,
    /// Why there is none.
    failed: Cell<Option<Reason>>,
}

/// Whoever opens it: that is over when this is dropped, however it ends.
struct Opens<'a> {
    connections: &'a Connections,
    serial: u32,
    opening: Rc<Opening>,
}

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.connections.opening.borrow_mut().remove(&self.serial);
        self.opening.over.notify_waiters();
    }
}

#[derive(Debug)]
struct Connection {
    send: SendRequest<Bytes>,
    endpoint: Arc<Endpoint>,
    load: Rc<Load>,
}

/// What is under way on one connection.
#[derive(Debug, Default)]
struct Load {
    streams: Cell<usize>,
    /// In its whole life.
    begun: Cell<u32>,
    /// Of those.
    given_up: Cell<u32>,
    /// Nothing new is begun on it: it has ended, is about to, or has left somebody waiting.
    retired: Cell<bool>,
    /// For so many ticks there was nothing.
    rested: Cell<u64>,
}

impl Connection {
    fn has_room(&self) -> bool {
        self.load.streams.get() < self.send.current_max_send_streams().min(MAX_STREAMS as usize)
    }

    /// `None`: the instance takes nothing new on it.
    fn lease(&self) -> Option<Lease> {
        let mut send = self.send.clone();
        // A handle that has begun nothing waits for nothing.
        if !matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.load.retired.set(true);
            return None;
        }
        self.load.streams.set(self.load.streams.get() + 1);
        self.load.rested.set(0);
        self.load.begun.set(self.load.begun.get().saturating_add(1));
        if self.endpoint.wears_out() && self.load.begun.get() >= MAX_WORN {
            self.load.retired.set(true);
        }
        Some(Lease { send, load: Rc::clone(&self.load) })
    }
}

/// Room for one request on a connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    send: SendRequest<Bytes>,
    load: Rc<Load>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.streams.set(self.load.streams.get() - 1);
    }
}

impl Connections {
    /// Room on a connection that is there, the oldest first: when there are more than are needed, the others come to rest.
    pub(crate) fn take(&self, serial: u32) -> Option<Lease> {
        let mut all = self.all.borrow_mut();
        let of = all.get_mut(&serial)?;
        let lease = of.iter().filter(|one| !one.load.retired.get() && one.has_room()).find_map(Connection::lease);
        of.retain(|one| !one.load.retired.get());
        lease
    }

    /// Room on a connection that is opened now, for this request and those that come meanwhile.
    pub(crate) async fn open(&self, worker: &Worker, endpoint: &Arc<Endpoint>) -> Result<Lease, Reason> {
        loop {
            let under_way = self.opening.borrow().get(&endpoint.serial).cloned();
            let Some(opening) = under_way else { break };
            opening.over.notified().await;
            if let Some(reason) = opening.failed.get() {
                return Err(reason);
            }
            if let Some(lease) = self.take(endpoint.serial) {
                return Ok(lease);
            }
        }
        let opening = Rc::new(Opening::default());
        self.opening.borrow_mut().insert(endpoint.serial, Rc::clone(&opening));
        let opens = Opens { connections: self, serial: endpoint.serial, opening };
        let opened = match worker.connect(endpoint.address).await {
            Ok(stream) => self.begin(endpoint, stream).await,
            Err(reason) => Err(reason),
        };
        opens.opening.failed.set(opened.as_ref().err().copied());
        opened
    }

    /// Begins to speak HTTP/2 on a connection that was just opened.
    async fn begin(&self, endpoint: &Arc<Endpoint>, stream: TcpStream) -> Result<Lease, Reason> {
        let (send, connection) = Box::pin(builder().handshake(stream)).await.map_err(|error| {
            tracing::debug!(%error, address = %endpoint.address, "an instance did not take the beginning of HTTP/2");
            Reason::ConnectFailed
        })?;
        let load = Rc::new(Load::default());
        let (ended, instance) = (Rc::clone(&load), Arc::clone(endpoint));
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to an instance failed");
                if is_bound(&error) {
                    instance.wore_out();
                }
            }
            ended.retired.set(true);
        });
        let connection = Connection { send, endpoint: Arc::clone(endpoint), load };
        let lease = connection.lease().ok_or(Reason::UpstreamClosed)?;
        self.all.borrow_mut().entry(endpoint.serial).or_default().push(connection);
        Ok(lease)
    }

    /// Closes all on which nothing is under way.
    pub(crate) fn clear(&self) {
        self.retain(|one| one.load.streams.get() > 0);
    }

    /// The same, for want of descriptors; whether there were any. They are closed when their tasks have run.
    pub(crate) fn give_up(&self) -> bool {
        let gives = |one: &Connection| one.load.streams.get() == 0 && !one.load.retired.get();
        let rests = self.all.borrow().values().flatten().any(gives);
        self.clear();
        rests
    }

    /// A tick has passed: closes what has rested for too long, or rests and is wanted by nobody.
    pub(crate) fn sweep(&self) {
        self.retain(|one| {
            if one.load.streams.get() > 0 {
                return !one.load.retired.get();
            }
            one.load.rested.set(one.load.rested.get() + 1);
            one.load.rested.get() < ticks(IDLE) && !one.endpoint.has_left() && !one.load.retired.get()
        });
    }

    /// One that is not kept ends with its last request.
    fn retain(&self, keep: impl Fn(&Connection) -> bool) {
        self.all.borrow_mut().retain(|_, of| {
            of.retain(&keep);
            !of.is_empty()
        });
    }
}

/// One request to an instance, and its answer.
#[derive(Debug)]
pub(crate) struct Stream {
    lease: Lease,
    _ticket: Ticket,
    /// `None`: all of the request is sent, or nothing yet.
    send: Option<SendStream<Bytes>>,
    answer: Option<ResponseFuture>,
    interim: u8,
    body: Option<RecvStream>,
    /// Bytes of the body that were taken before there was room for them: the instance may not send as many more yet.
    ahead: usize,
}

/// What came of an answer behind its head.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// With what the instance said at the end.
    End(Option<HeaderMap>),
}

impl Stream {
    pub(crate) fn new(lease: Lease, ticket: Ticket) -> Self {
        Self { lease, _ticket: ticket, send: None, answer: None, interim: 0, body: None, ahead: 0 }
    }

    /// Sends the head. `text`: as for HTTP/1.1. `trailers`: the client reads them.
    pub(crate) fn begin(&mut self, text: &[u8], trailers: bool, ended: bool) -> Result<(), Reason> {
        let mut request = request(text).ok_or(Refusal::TargetByte)?;
        if trailers {
            // All else that `TE` can say is of HTTP/1.1 (RFC 9113, 8.2.2).
            request.headers_mut().insert(http::header::TE, HeaderValue::from_static("trailers"));
        }
        let (answer, send) = self.lease.send.send_request(request, ended).map_err(|error| reason(&error, false))?;
        self.answer = Some(answer);
        self.send = Some(send).filter(|_| !ended);
        Ok(())
    }

    /// Sends of the body what there is room for.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, payload: &[u8]) -> Poll<io::Result<usize>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        send.reserve_capacity(payload.len());
        loop {
            let room = send.capacity().min(payload.len());
            if room > 0 {
                let sent = send.send_data(Bytes::copy_from_slice(&payload[..room]), false);
                return Poll::Ready(sent.map(|()| room).map_err(io::Error::other));
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Ends the body. What an instance does not take any more, it does not need.
    pub(crate) fn end(&mut self, trailers: Option<HeaderMap>) {
        let Some(mut send) = self.send.take() else { return };
        let ended = match trailers {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(Bytes::new(), true),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an instance does not wait for the end of a request");
        }
    }

    /// The head of the answer, as text behind what is in `out`.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        to_head: bool,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), Reason>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(Reason::Internal)) };
        while let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
            interim.map_err(|error| reason(&error, false))?;
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(BadUpstream::TooManyInterim.into()));
            }
        }
        let answer = ready!(Pin::new(answer).poll(cx)).map_err(|error| reason(&error, false))?;
        text(&answer, to_head, out);
        self.answer = None;
        self.body = Some(answer.into_body());
        Poll::Ready(Ok(()))
    }

    /// More comes behind the head.
    pub(crate) fn goes_on(&self) -> bool {
        self.body.as_ref().is_some_and(|body| !body.is_end_stream())
    }

    /// What comes next of the body. That it is taken makes room for more.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Reason>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Err(Reason::Internal)) };
        let ahead = std::mem::take(&mut self.ahead);
        if ahead > 0 {
            body.flow_control().release_capacity(ahead).map_err(|error| reason(&error, true))?;
        }
        match ready!(body.poll_data(cx)) {
            Some(Ok(data)) => {
                body.flow_control().release_capacity(data.len()).map_err(|error| reason(&error, true))?;
                Poll::Ready(Ok(Piece::Data(data)))
            }
            Some(Err(error)) => Poll::Ready(Err(reason(&error, true))),
            None => {
                let trailers = ready!(body.poll_trailers(cx)).map_err(|error| reason(&error, true))?;
                let trailers = trailers.map(|all| trailers_of(all, FieldKind::goes_downstream)).transpose();
                let end = trailers.map(|all| Piece::End(all.filter(|all| !all.is_empty())));
                Poll::Ready(end.map_err(|_| BadUpstream::Body.into()))
            }
        }
    }

    /// What has come of the body ahead of a client that does not read: as bytes it takes no more room than it has, which small frames do.
    /// No room is made for more, and an end is looked at when all before it has gone on.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(body) = &mut self.body else { return Poll::Pending };
        match ready!(body.poll_data(cx)) {
            Some(Ok(data)) => {
                self.ahead += data.len();
                Poll::Ready(data)
            }
            Some(Err(_)) | None => Poll::Pending,
        }
    }

    /// The answer is not waited for any more, and goes on.
    pub(crate) fn give_up(&self) {
        let load = &self.lease.load;
        load.given_up.set(load.given_up.get().saturating_add(1));
        if load.given_up.get() >= MAX_GIVEN_UP {
            load.retired.set(true);
        }
    }

    /// Somebody has waited in vain: whoever comes next is not to wait for a connection that leads nowhere.
    pub(crate) fn retire(&self) {
        self.lease.load.retired.set(true);
    }
}

/// A bound of this side, which nobody's one request has reached.
fn is_bound(error: &h2::Error) -> bool {
    error.is_library() && error.reason() == Some(Code::ENHANCE_YOUR_CALM)
}

/// Why there is no answer, or no end of one that has `begun`.
fn reason(error: &h2::Error, begun: bool) -> Reason {
    match error.reason() {
        Some(Code::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Reason::StreamRefused,
        // Whatever the instance has read goes on: this one it has not (RFC 9113, 6.8).
        Some(_) if error.is_go_away() && error.is_remote() => Reason::UpstreamLeaving,
        Some(code) if error.is_reset() && error.is_remote() => Reason::StreamReset(code.into()),
        Some(_) if is_bound(error) => Reason::Http2Bounds,
        Some(_) if error.is_library() && error.is_reset() => BadUpstream::Http2Stream.into(),
        Some(_) if error.is_library() => BadUpstream::Http2.into(),
        Some(_) | None if begun => BadUpstream::BodyTruncated.into(),
        Some(_) | None => Reason::UpstreamClosed,
    }
}

/// What a head of HTTP/1.1 says of its connection, and HTTP/2 must not (RFC 9113, 8.2.2).
const OF_CONNECTION: [FieldKind; 4] =
    [FieldKind::Connection, FieldKind::TransferEncoding, FieldKind::KeepAlive, FieldKind::Upgrade];

/// A head that was written for HTTP/1.1. `None`: what it asks for cannot be said in HTTP/2.
fn request(text: &[u8]) -> Option<Request<()>> {
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(method).ok()?;
    let mut authority = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        let value = value[1..].trim_ascii();
        let kind = FieldKind::of(name);
        if kind == FieldKind::Host {
            authority = Some(value);
        } else if !OF_CONNECTION.contains(&kind) {
            let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
            request.headers_mut().append(name, value);
        }
    }
    *request.uri_mut() = Uri::builder().scheme("http").authority(authority?).path_and_query(target).build().ok()?;
    Some(request)
}

/// A head as HTTP/1.1 has it. What ends with it has no body, which HTTP/2 says without a length.
fn text(answer: &Response<RecvStream>, to_head: bool, out: &mut Vec<u8>) {
    let status = answer.status();
    let mut line = |parts: [&[u8]; 3]| {
        parts.into_iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(b"\r\n");
    };
    line([b"HTTP/1.1 ", status.as_str().as_bytes(), b" "]);
    for (name, value) in answer.headers() {
        line([name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    let has_none = to_head || matches!(status.as_u16(), 204 | 304);
    let is_said = answer.headers().contains_key(http::header::CONTENT_LENGTH);
    if answer.body().is_end_stream() && !has_none && !is_said {
        line([b"content-length: ", b"0", b""]);
    }
    line([b"", b"", b""]);
}

/// A field that frames, routes or authenticates a message stands in its trailers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ForbiddenTrailer;

/// Trailers as they go on: without what is for one hop or only an edge may say (`passes`).
pub(crate) fn trailers_of(all: HeaderMap, passes: fn(FieldKind) -> bool) -> Result<HeaderMap, ForbiddenTrailer> {
    let is_there = |name: &&[u8]| HeaderName::from_bytes(name).is_ok_and(|name| all.contains_key(name));
    if FORBIDDEN_TRAILERS.iter().any(is_there) {
        return Err(ForbiddenTrailer);
    }
    let mut name = None;
    let mut passed = HeaderMap::new();
    for (next, value) in all {
        // Further values of one name come without it.
        name = next.or(name);
        let Some(name) = name.as_ref().filter(|name| passes(FieldKind::of(name.as_str().as_bytes()))) else { continue };
        passed.append(name.clone(), value);
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_http_1_is_one_of_http_2_without_what_belongs_to_a_connection() {
        let text =
            b"POST /a.B/C?x=1 HTTP/1.1\r\nHost: a.test:80\r\nContent-Type: application/grpc\r\nX-A: 1\r\nX-A: 2\r\n\
            Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\nbody: x\r\n";
        let request = request(text).unwrap();
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "http://a.test:80/a.B/C?x=1")
        );
        assert_eq!(request.headers().len(), 3);
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert!(super::request(b"GET /a<b HTTP/1.1\r\nHost: a.test\r\n\r\n").is_none());
    }

    #[test]
    fn trailers_pass_without_what_is_for_one_hop_and_are_refused_where_they_frame() {
        let map = |fields: &[(&'static str, &'static str)]| -> HeaderMap {
            fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
        };
        let check = |fields: &[(&'static str, &'static str)], expected: Result<&[&str], ForbiddenTrailer>| {
            let passed = trailers_of(map(fields), FieldKind::goes_downstream);
            let names = passed.map(|all| all.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>());
            assert_eq!(names, expected.map(|names| names.iter().map(|n| (*n).to_owned()).collect()), "{fields:?}");
        };
        check(&[("grpc-status", "0"), ("grpc-message", "")], Ok(&["grpc-status", "grpc-message"]));
        check(&[("grpc-status", "0"), ("x-bowline-release", "9"), ("keep-alive", "1")], Ok(&["grpc-status"]));
        for name in ["content-length", "host", "authorization", "transfer-encoding", "trailer"] {
            check(&[("grpc-status", "0"), (name, "1")], Err(ForbiddenTrailer));
        }
    }
}
