//! One request and its response: what may happen to either connection after it.
//!
//! Architecture invariant: a connection with unread or unsent bytes is never used again.

use std::time::Duration;

use super::body::Framing;
use super::gate::{RequestHead, Version};
use super::refusal::{BadUpstream, Refusal};
use super::response::ResponseHead;

/// How long an idle upstream connection lives when the upstream does not say: gunicorn closes after 2 s.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(1);
/// How long it lives at most, whatever the upstream says.
pub const UPSTREAM_IDLE_MAX: Duration = Duration::from_secs(60);

/// What to do with the client's connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterClient {
    /// Something is still to be sent.
    Wait,
    /// Read the next request; bytes already received begin it.
    Reuse,
    /// The client is done sending: close.
    Close,
    /// The client may still be sending: shut down writing, read on up to a limit, then close. Closing at once would send
    /// a reset that can destroy the answer on its way.
    Linger,
    /// The connection is a tunnel.
    Tunnel,
}

/// What to do with the upstream's connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterUpstream {
    /// The response is not complete.
    Wait,
    /// Keep it for another request, at most for so long.
    Pool {
        idle: Duration,
    },
    Close,
    Tunnel,
}

/// How far the response has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    Awaited,
    /// The upstream's head was read.
    Begun,
    /// The upstream's last byte was read.
    Received,
    /// The edge answers itself.
    Here,
}

/// The facts of one exchange, told as they happen; in any order that the network allows.
#[derive(Debug, Clone)]
pub struct Exchange {
    client_version: Version,
    client_keep_alive: bool,
    /// It only looks (RFC 9110, 9.2.1).
    safe: bool,
    idempotent: bool,
    bodiless: bool,
    awaits_continue: bool,
    request_received: bool,
    request_begun: bool,
    request_sent: bool,
    response: Response,
    response_sent: bool,
    tunnel: bool,
    client_ended: bool,
    client_close: bool,
    upstream_close: bool,
    upstream_idle: Duration,
}

impl Exchange {
    /// `buffered`: bytes received behind the head. Behind an upgrade request there must be none before it is accepted:
    /// were it not, they would be read as another request.
    pub fn new(head: &RequestHead, buffered: usize) -> Result<Self, Refusal> {
        if head.upgrade().is_some() && buffered > 0 {
            return Err(Refusal::BytesBeforeUpgrade);
        }
        let safe = matches!(head.method(), "GET" | "HEAD" | "OPTIONS");
        Ok(Self {
            client_version: head.version(),
            client_keep_alive: head.keep_alive(),
            safe,
            idempotent: safe || matches!(head.method(), "PUT" | "DELETE"),
            bodiless: head.body().is_empty(),
            awaits_continue: head.expects_continue(),
            request_received: head.body().is_empty(),
            request_begun: false,
            request_sent: false,
            response: Response::Awaited,
            response_sent: false,
            tunnel: false,
            client_ended: false,
            client_close: false,
            upstream_close: false,
            upstream_idle: UPSTREAM_IDLE,
        })
    }

    /// The request body's end was read from the client. Known from the start where there is none.
    pub fn request_received(&mut self) {
        self.request_received = true;
    }

    /// The client closed its side.
    pub fn client_ended(&mut self) {
        self.client_ended = true;
    }

    /// The first byte of the request went to the upstream.
    pub fn request_begun(&mut self) {
        self.request_begun = true;
    }

    /// The last byte of the request went to the upstream.
    pub fn request_sent(&mut self) {
        self.request_begun = true;
        self.request_sent = true;
    }

    /// A write to the upstream failed: keep reading, it may have answered.
    pub fn upstream_write_failed(&mut self) {
        self.upstream_close = true;
    }

    /// The response's head arrived, with `buffered` bytes behind it. More than its announced length is not a response to
    /// this request, and nothing of it is passed on. A body where none belongs (HEAD, 204, 304) is only not read: apps
    /// are careless there, and it goes nowhere.
    pub fn response_head(&mut self, head: &ResponseHead, buffered: usize) -> Result<(), BadUpstream> {
        self.response = Response::Begun;
        self.tunnel = head.is_upgrade();
        match head.body() {
            Framing::Length(length) if buffered as u64 > length => {
                self.upstream_close = true;
                return Err(BadUpstream::OverlongBody);
            }
            Framing::None => self.upstream_close |= buffered > 0 && !self.tunnel,
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {}
        }
        let unknown_length = head.body().length().is_none();
        self.client_close |= unknown_length && self.client_version == Version::Http10;
        self.upstream_close |= !head.keep_alive() && !self.tunnel;
        match head.keep_alive_timeout() {
            Some(timeout) if timeout.is_zero() => self.upstream_close = true,
            // A second less than it says, so that it does not close while a request is on its way.
            Some(timeout) => {
                let early = timeout.saturating_sub(Duration::from_secs(1)).max(timeout.min(UPSTREAM_IDLE) / 2);
                self.upstream_idle = early.min(UPSTREAM_IDLE_MAX);
            }
            None => {}
        }
        Ok(())
    }

    /// The response's end was read, with `surplus` bytes behind it.
    pub fn response_received(&mut self, surplus: usize) {
        self.response = Response::Received;
        self.upstream_close |= surplus > 0;
    }

    /// The edge answers itself (an error, a redirect, a file): no upstream's response goes to the client.
    pub fn answered_here(&mut self) {
        self.response = Response::Here;
        self.upstream_close = true;
        self.tunnel = false;
    }

    /// The last byte of the response went to the client.
    pub fn response_sent(&mut self) {
        self.response_sent = true;
    }

    /// Close the client's connection after this exchange (drain, refusal, deadline).
    pub fn close_client(&mut self) {
        self.client_close = true;
    }

    /// Never use the upstream's connection again (bad framing, deadline, reset).
    pub fn close_upstream(&mut self) {
        self.upstream_close = true;
    }

    /// Whether to say keep-alive to the client: to be asked when the response's head is written, after
    /// [`Self::response_head`] or [`Self::answered_here`].
    pub fn keep_alive(&self) -> bool {
        let unread = self.response == Response::Here && !self.request_received;
        self.client_keep_alive && !self.client_close && !unread
    }

    /// True once, when `100 Continue` is to be sent: the body is waited for and no response has begun.
    pub fn continue_due(&mut self) -> bool {
        let due = self.awaits_continue && !self.request_received && self.response == Response::Awaited;
        self.awaits_continue &= !due;
        due
    }

    /// True when another upstream may be tried: nothing was sent, or the request is idempotent, has no body and no byte
    /// of a response came (RFC 9110, 9.2.2).
    pub fn may_retry(&self) -> bool {
        let repeatable = self.idempotent && self.bodiless;
        self.response == Response::Awaited && !self.response_sent && (!self.request_begun || repeatable)
    }

    /// The same of an upstream that counts what it is asked: what it has done already, it would say that it cannot do. Nothing was
    /// sent, or the request only looks.
    pub fn may_look_again(&self) -> bool {
        self.may_retry() && (self.safe || !self.request_begun)
    }

    /// Forget the failed upstream, before another try.
    pub fn retry(&mut self) {
        self.request_begun = false;
        self.request_sent = false;
        self.upstream_close = false;
        self.upstream_idle = UPSTREAM_IDLE;
    }

    pub fn client(&self) -> AfterClient {
        let reusable = self.client_keep_alive && !self.client_close;
        match () {
            () if !self.response_sent => AfterClient::Wait,
            () if self.tunnel => AfterClient::Tunnel,
            () if self.client_ended => AfterClient::Close,
            () if reusable && self.request_received => AfterClient::Reuse,
            () => AfterClient::Linger,
        }
    }

    pub fn upstream(&self) -> AfterUpstream {
        match self.response {
            Response::Awaited => AfterUpstream::Wait,
            Response::Begun if self.tunnel => AfterUpstream::Tunnel,
            Response::Begun => AfterUpstream::Wait,
            Response::Received if self.upstream_close || !self.request_sent => AfterUpstream::Close,
            Response::Received => AfterUpstream::Pool { idle: self.upstream_idle },
            Response::Here => AfterUpstream::Close,
        }
    }

    /// How a response made by the edge itself with a body of unknown length is framed for this client.
    pub fn unknown_length(&self) -> Framing {
        match self.client_version {
            Version::Http10 => Framing::UntilClose,
            Version::Http11 => Framing::Chunked,
        }
    }
}
