//! The way to an instance: bytes of HTTP/1.1 on a connection of its own, or a stream of HTTP/2 beside others.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_core::app::Protocol;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::{After, Relay, Step};
use crate::answer::Reason;
use crate::balance::Ticket;
use crate::client::Client;
use crate::grpc::Code;
use crate::h1::{BadUpstream, Framing};
use crate::h2c::{self, Piece};
use crate::request::Request;
use crate::upstream::Upstream;
use crate::worker::BUFFER;

#[derive(Debug)]
pub(super) enum Leg {
    Bytes(Upstream),
    Stream(Box<h2c::Stream>),
}

impl Leg {
    /// One to this instance, and whether its connection was used before.
    pub(super) async fn to(request: &Request<'_>, ticket: Ticket, reuse: bool) -> Result<(Self, bool), Reason> {
        let worker = request.worker;
        let endpoint = Arc::clone(ticket.endpoint());
        match endpoint.protocol {
            Protocol::Http1 => {
                let kept = worker.pools.take(endpoint.serial, worker.sweep.now()).filter(|_| reuse);
                let pooled = kept.is_some();
                let stream = match kept {
                    Some(stream) => stream,
                    // Rare, and every connection would have room for it.
                    None => Box::pin(worker.connect(endpoint.address)).await?,
                };
                Ok((Self::Bytes(Upstream::Instance(stream, ticket)), pooled))
            }
            Protocol::H2c => {
                let kept = worker.streams.take(endpoint.serial).filter(|_| reuse);
                let pooled = kept.is_some();
                let lease = match kept {
                    Some(lease) => lease,
                    None => Box::pin(worker.streams.open(worker, &endpoint)).await?,
                };
                Ok((Self::Stream(Box::new(h2c::Stream::new(lease, ticket))), pooled))
            }
        }
    }

    /// The same, if it is there before the client of a call waits no longer.
    pub(super) async fn in_time(
        request: &Request<'_>,
        until: u64,
        ticket: Ticket,
        reuse: bool,
    ) -> Result<(Self, bool), Reason> {
        if request.is_out_of_time() {
            return Err(Reason::DeadlineExceeded);
        }
        let mut leg = pin!(Self::to(request, ticket, reuse));
        request.deadline.clear();
        request.deadline.set_no_later(until);
        poll_fn(|cx| match leg.as_mut().poll(cx) {
            Poll::Pending if request.deadline.passed(cx) => Poll::Ready(Err(Reason::DeadlineExceeded)),
            led @ (Poll::Ready(_) | Poll::Pending) => led,
        })
        .await
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// How a body goes out on it: HTTP/2 frames it by itself, and only its length is watched here.
    pub(super) fn framing(&self, body: Framing) -> Framing {
        match (self, body) {
            (Self::Stream(_), Framing::Chunked) => Framing::UntilClose,
            (Self::Bytes(_) | Self::Stream(_), body) => body,
        }
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Bytes(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Stream(stream) => stream.poll_send(cx, bytes),
        }
    }

    /// All of the request was sent.
    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) {
        match self {
            // The instance is not asked whether it reads them: most do not.
            Self::Bytes(_) => {}
            Self::Stream(stream) => stream.end(trailers),
        }
    }
}

impl<C: Client> Relay<'_, '_, C> {
    /// A stream begins with its head, which is then sent for good.
    pub(super) fn begin(&mut self) -> Result<(), Reason> {
        let Some(Leg::Stream(stream)) = &mut self.leg else { return Ok(()) };
        let trailers = self.client.carries_trailers()
            && self.request.head.all("te").any(|value| value.eq_ignore_ascii_case(b"trailers"));
        self.request.exchange.request_begun();
        stream.begin(&self.output, trailers, self.body_read)?;
        self.output.clear();
        Ok(())
    }

    pub(super) fn fill(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        if self.input.capacity() == 0 {
            self.input = self.request.worker.take_buffer();
        } else if self.input.len() == self.input.capacity() {
            self.input.reserve(BUFFER);
        }
        let filled = match &mut self.leg {
            None => return Ok(Step::Stuck),
            Some(Leg::Bytes(_)) => self.fill_bytes(cx),
            Some(Leg::Stream(_)) => self.fill_frames(cx),
        };
        if self.input.is_empty() {
            self.request.worker.give_buffer(std::mem::take(&mut self.input));
        }
        filled
    }

    fn fill_bytes(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        let Some(Leg::Bytes(stream)) = &mut self.leg else { return Ok(Step::Stuck) };
        match pin!(stream.read_buf(&mut self.input)).poll(cx) {
            Poll::Ready(Ok(0)) => self.input_ended(),
            Poll::Ready(Ok(_)) => Ok(Step::Moved),
            Poll::Ready(Err(_)) => match &self.response {
                None => Err(Reason::UpstreamClosed),
                Some(_) => Err(BadUpstream::BodyTruncated.into()),
            },
            Poll::Pending => Ok(Step::Stuck),
        }
    }

    fn fill_frames(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        let Some(Leg::Stream(stream)) = &mut self.leg else { return Ok(Step::Stuck) };
        if self.response.is_none() {
            return Ok(match stream.poll_head(cx, self.request.head.is_head(), &mut self.input)? {
                Poll::Ready(()) => Step::Moved,
                Poll::Pending => Step::Stuck,
            });
        }
        match stream.poll_piece(cx)? {
            Poll::Pending => Ok(Step::Stuck),
            Poll::Ready(Piece::Data(data)) => {
                self.input.extend_from_slice(&data);
                Ok(Step::Moved)
            }
            Poll::Ready(Piece::End(trailers)) => {
                if let Some(trailers) = trailers {
                    if self.is_call {
                        let code = trailers.get("grpc-status");
                        self.request.journal.call_ended(code.map(|code| Code::said(code.as_bytes())));
                    }
                    self.client.send_trailers(trailers);
                }
                self.input_ended()
            }
        }
    }

    /// What comes although the client has no room: of a stream, whose frames would wait one by one.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Step {
        let (Some(Leg::Stream(stream)), Some(_)) = (&mut self.leg, &self.response) else { return Step::Stuck };
        let mut step = Step::Stuck;
        while let Poll::Ready(data) = stream.poll_ahead(cx) {
            self.input.extend_from_slice(&data);
            step = Step::Moved;
        }
        step
    }

    fn input_ended(&mut self) -> Result<Step, Reason> {
        match &mut self.response {
            None if self.input.is_empty() => Err(Reason::UpstreamClosed),
            None => Err(BadUpstream::HeadTruncated.into()),
            Some(decoder) => {
                decoder.end_of_input().map_err(BadUpstream::from)?;
                self.end_response(0)
            }
        }
    }

    /// Whether more may come behind what is a whole body: HTTP/2 says its end by itself, with trailers perhaps.
    pub(super) fn goes_on(&self) -> bool {
        match &self.leg {
            Some(Leg::Stream(stream)) => stream.goes_on(),
            Some(Leg::Bytes(_)) | None => false,
        }
    }

    /// The exchange went through: the connection has been released, or becomes a tunnel.
    pub(super) fn finish(&mut self) -> After {
        match self.leg.take() {
            Some(Leg::Bytes(stream)) if self.upgraded => {
                let received = self.input.split_off(self.start);
                After::Tunnel { stream, received, idle: self.route.idle }
            }
            Some(_) | None => {
                self.request.exchange.response_sent();
                After::Done
            }
        }
    }
}
