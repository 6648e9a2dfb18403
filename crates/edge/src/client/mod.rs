//! The client's side of an exchange, whatever protocol it speaks.

mod budget;
pub(crate) mod http1;
pub(crate) mod http2;
mod linger;

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;

use crate::answer::Reason;
use crate::h1::{Forwarding, Framing, Scheme, Trust, Version};
use crate::policy::Networks;
use crate::stream::Stream;

/// After an answer that the client may not have waited for: read on for so long, so that the answer is not destroyed
/// by a reset …
const LINGER: Duration = Duration::from_secs(2);
/// … or until so many bytes came; over HTTP/1, so many each tick.
const LINGER_BYTES: usize = 1 << 20;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) tls: Option<Secured>,
    pub(crate) forwarding: Forwarding,
    /// Whose word is taken for whom they forward.
    pub(crate) trusted: Arc<Networks>,
}

/// What a TLS handshake settled.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) version: &'static str,
    /// The name the client asked for, in lower case.
    pub(crate) name: Option<Box<str>>,
}

impl Peer {
    pub(crate) fn new(ip: IpAddr, tls: Option<Secured>, trusted: Arc<Networks>) -> Self {
        let ip = ip.to_canonical();
        let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
        let trust = if trusted.contain(ip) { Trust::Proxy } else { Trust::None };
        Self { ip, tls, forwarding: Forwarding::new(ip, scheme, trust), trusted }
    }

    /// The same over TLS, which a proxy has ended that forwards bytes.
    pub(crate) fn secured_before(self) -> Self {
        let forwarding = Forwarding::new(self.ip, Scheme::Https, self.forwarding.trust());
        Self { forwarding, ..self }
    }
}

/// What reading a body brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes of payload went into the sink.
    Data(usize),
    End,
}

/// A connection taken out of HTTP: its bytes go to an upgraded protocol.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: Stream,
    /// Received, but not part of a request.
    pub(crate) received: Vec<u8>,
    /// The response's head, not sent yet.
    pub(crate) unsent: Vec<u8>,
}

/// One request's client. All sending is buffered; [`Client::poll_flush`] hands it to the network.
pub(crate) trait Client {
    fn peer(&self) -> &Peer;

    /// `HTTP/1.1`, for logs.
    fn protocol(&self) -> &'static str;

    /// How a response's head is to be written.
    fn version(&self) -> Version;

    /// The next stretch of the request's body.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Reason>,
    ) -> Poll<Result<Body, Reason>>;

    /// What is said behind the end of the body, which has been read.
    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Reason>>;

    /// Payload of the body so far, in bytes.
    fn body_bytes(&self) -> u64;

    /// Ready when the client went away. To be polled while there is nothing else to do.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Reason>;

    /// Ready when the client went away, or will say nothing more: of who closes one side of a connection without TLS is not known
    /// whether the other is read. To be polled in place of [`Client::poll_gone`] where waiting takes what others want.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Reason>;

    /// It has sent so much behind its request that nothing more is read of it: if it goes away, nobody hears.
    fn is_full(&self) -> bool {
        false
    }

    /// Says `100 Continue`.
    fn send_continue(&mut self);

    /// The response's head; `write` renders it as HTTP/1.1 text.
    fn respond(&mut self, framing: Framing, write: &mut dyn FnMut(&mut Vec<u8>)) -> Result<(), Reason>;

    /// Whether more payload should be given now.
    fn has_room(&self) -> bool;

    fn send(&mut self, payload: &[u8]) -> Result<(), Reason>;

    /// Whether its protocol has them beside the body, so that they go both ways. What HTTP/1.1 has behind chunks, hardly anyone reads.
    fn carries_trailers(&self) -> bool;

    /// What goes behind the body; to be said before it is complete.
    fn send_trailers(&mut self, trailers: HeaderMap);

    /// The response is complete.
    fn finish(&mut self) -> Result<(), Reason>;

    /// Ready when everything given was taken by the network.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>>;

    /// Bytes taken by the network so far: tells progress from standstill.
    fn sent_bytes(&self) -> u64;

    /// The response cannot be completed: the client must see that it is cut.
    fn abort(&mut self, why: Reason);

    /// Takes the connection out of HTTP, where the protocol can.
    fn take_tunnel(&mut self) -> Option<Raw>;
}
