//! Forwarding: balance → connect → relay both bodies at once, in one task that owns both sockets.

mod clock;
mod leg;
mod response;

use std::future::poll_fn;
use std::num::NonZeroU64;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_core::route::CLIENT_FIELD;
use bowline_core::route::retry::Retry;
use http::HeaderMap;

use crate::answer::{Blame, Reason};
use crate::balance::{self, Ticket};
use crate::client::{Body, Client};
use crate::encoding::Gzip;
use crate::h1::{AfterUpstream, BodyDecoder, BodyEncoder, Refusal, ResponseParser, ResponseStep, write};
use crate::places::Places;
use crate::record::Flight;
use crate::request::{Kept, Request};
use crate::route::{Route, Target};
use crate::upstream::Upstream;
use crate::worker::BUFFER;
use crate::{hold, policy, sticky, tunnel};
use clock::Late;
use leg::Leg;

/// Instances that one request is tried on.
const MAX_TRIES: usize = 3;

/// A call that is given up sooner says nothing of the connection on which it has waited.
const IN_VAIN: Duration = Duration::from_secs(1);

/// W3C Trace Context, 3.3.
const TRACE_STATE: &str = "tracestate";

/// Times a stale connection out of the pool is replaced before a try counts.
const MAX_STALE: usize = 4;

/// Forwards a request to one of the route's instances.
///
/// Nothing is awaited between the lookup of `route` and the choice of an instance: whoever is told that a table is
/// served may rely on it that no request still goes to an instance that this table left out.
pub(crate) async fn run<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    route: &Arc<Route>,
) -> Result<(), Reason> {
    let mut tried = Vec::new();
    let mut route = Arc::clone(route);
    request.worker.count_request(&route);
    if request.upload.is_some() {
        Box::pin(request.first_judged(client, &route)).await?;
        route = again(request, client)?;
    }
    let (mut stale, mut held) = (0, false);
    loop {
        let (position, ticket) = match choose(request, &route, &tried) {
            Err(Reason::NoReadyInstance) if !held && route.holds() => {
                held = true;
                Box::pin(hold::until_ready(request, client, &route)).await?;
                route = again(request, client)?;
                continue;
            }
            chosen => chosen?,
        };
        request.journal.asks(position, ticket.endpoint());
        let serial = ticket.endpoint().serial;
        let leg = match request.until {
            None => Leg::to(request, ticket, stale < MAX_STALE).await,
            Some(until) => Box::pin(Leg::in_time(request, until, ticket, stale < MAX_STALE)).await,
        };
        let error = match leg {
            Ok((leg, pooled)) => {
                stale += usize::from(pooled);
                let result = Relay::new(request, client, &route, leg).run().await;
                match result {
                    Ok(After::Done) => return Ok(()),
                    Ok(After::Tunnel { stream, received, idle }) => {
                        // Boxed, like all that is rare and large: most requests should not carry its room.
                        return Box::pin(tunnel::run(request, client, (stream, received), idle)).await;
                    }
                    Err(Failure { reason, retry: false }) => return Err(reason),
                    // It lives, and says that it has too much to do.
                    Err(Failure { reason: Reason::StreamRefused, retry: true }) => Some(Reason::StreamRefused),
                    Err(Failure { reason, retry: true }) => (!pooled).then_some(reason),
                }
            }
            // Another instance would find no descriptor, either.
            Err(reason @ (Reason::DeadlineExceeded | Reason::Shortage)) => return Err(reason),
            Err(reason) => Some(reason),
        };
        // A connection that was idle may die at any time; the instance itself was not tried yet.
        if let Some(reason) = error {
            tried.push(serial);
            if tried.len() == MAX_TRIES || request.worker.may_retry(&route) == Retry::Refused {
                return Err(reason);
            }
            request.record_try(reason);
        }
        request.exchange.retry();
        route = again(request, client)?;
    }
}

/// Forwards a request to the daemon's API: once, where the daemon may have done something with what it did not answer. A daemon that is
/// just being replaced is waited for.
pub(crate) async fn to_daemon<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    route: &Route,
    socket: &Path,
    places: &Arc<Places>,
) -> Result<(), Reason> {
    for tries in 1.. {
        let place = places.take(request.client).await?;
        let until = async || Box::pin(hold::until_daemon(client, socket)).await;
        let stream = request.worker.with_room(until).await?;
        let relayed = Relay::new(request, client, route, Leg::Bytes(Upstream::Daemon(stream, place))).run().await;
        match relayed {
            Ok(After::Done) => return Ok(()),
            Ok(After::Tunnel { stream, received, idle }) => {
                return Box::pin(tunnel::run(request, client, (stream, received), idle)).await;
            }
            Err(Failure { retry: true, .. }) if tries < MAX_TRIES && request.exchange.may_look_again() => {
                request.exchange.retry();
            }
            Err(Failure { reason, .. }) if reason.blame() == Blame::Upstream => return Err(Reason::DaemonLost),
            Err(Failure { reason, .. }) => return Err(reason),
        }
    }
    unreachable!("the last try returns")
}

/// Time has passed: the table of now may lead elsewhere, and let others in.
fn again<C: Client>(request: &mut Request<'_>, client: &C) -> Result<Arc<Route>, Reason> {
    let route = request.route(client.peer())?;
    request.journal.looks_again(&route);
    if let Some(guard) = &route.guard {
        guard.check_again(request.client, request.head)?;
    }
    match route.target {
        Target::Deny => Err(Reason::Denied),
        Target::Forward(_) | Target::Files { .. } | Target::Redirect(_) => Ok(route),
        // A table that has made an app's host the API's: the request was for the app.
        Target::Api { .. } => Err(Reason::UnknownHost),
    }
}

fn choose(request: &mut Request<'_>, route: &Route, tried: &[u32]) -> Result<(usize, Ticket), Reason> {
    let Target::Forward(backends) = &route.target else { return Err(Reason::NoReadyInstance) };
    let dice = &request.worker.dice;
    let backend = match sticky::chosen(backends, request.head, tried, (&mut request.place, dice)) {
        Some(position) => &backends[position],
        None => balance::backend(backends, tried, route.holds(), dice).ok_or(Reason::NoReadyInstance)?,
    };
    // Who asks for one release is answered by no other.
    let is_kept = tried.is_empty() || sticky::is_look(request.head);
    let backend = if is_kept { backend } else { balance::untried(backends, backend, tried) };
    let position = backends.iter().position(|b| std::ptr::eq(b, backend)).ok_or(Reason::Internal)?;
    let endpoint = balance::endpoint(backend, tried, dice).ok_or(Reason::NoReadyInstance)?;
    let flight = route.counting.as_ref().map(|counting| Flight::begin(request.worker, counting.labels));
    Ok((position, Ticket::new(endpoint, flight)))
}

/// What follows a relay.
enum After {
    Done,
    /// The instance accepted an upgrade; it has already sent `received`.
    Tunnel {
        stream: Upstream,
        received: Vec<u8>,
        idle: Duration,
    },
}

struct Failure {
    reason: Reason,
    retry: bool,
}

/// One try at one instance.
struct Relay<'a, 'r, C> {
    request: &'a mut Request<'r>,
    client: &'a mut C,
    route: &'a Route,
    /// `None`: nothing more is wanted of it.
    leg: Option<Leg>,
    /// A call of gRPC, to an instance that speaks it.
    is_call: bool,
    /// To the instance: `output[written..]`.
    output: Vec<u8>,
    written: usize,
    /// Payload in, framing out.
    encoder: BodyEncoder,
    /// All of the request is in `output`, but for `trailers`.
    body_read: bool,
    trailers: Option<Box<HeaderMap>>,
    /// All of the request was sent, or the instance takes no more.
    sending_over: bool,
    write_failed: bool,
    /// From the instance: `input[start..]`.
    input: Vec<u8>,
    start: usize,
    parser: ResponseParser,
    response: Option<BodyDecoder>,
    /// `None`: the answer goes on as it comes.
    gzip: Option<Box<Gzip>>,
    upgraded: bool,
    response_read: bool,
    has_begun: bool,
    /// The tick until which the client must have read on; `None`: nothing waits for it.
    read_until: Option<NonZeroU64>,
    /// The tick until which more of its body must have come, and then, until which the instance must have begun to answer. `None`: nothing waits for
    /// it, or the answer has begun, and both may speak as they like.
    answer_until: Option<NonZeroU64>,
    /// With what the client still sends behind the beginning of the answer, since the instance has said something last. `None`: nothing.
    late: Option<Box<Late>>,
}

enum Step {
    /// Something was done: look again.
    Moved,
    /// Nothing to do until a socket is ready.
    Stuck,
}

impl<'a, 'r, C: Client> Relay<'a, 'r, C> {
    fn new(request: &'a mut Request<'r>, client: &'a mut C, route: &'a Route, leg: Leg) -> Self {
        let head = request.head;
        // A stream cannot become a tunnel: the instance is asked as if nobody had spoken of one.
        let upgrade = head.line().upgrade.filter(|_| !leg.is_stream());
        let keeps = leg.is_stream() && request.upload.is_none() && client.body_bytes() == 0;
        if keeps && !head.body().is_empty() {
            let all = &request.worker.kept;
            request.kept.get_or_insert_with(|| Box::new(Kept::new(Rc::clone(all))));
        }
        let mut relay = Self {
            encoder: BodyEncoder::new(leg.framing(head.body())),
            parser: ResponseParser::for_request(head.is_head(), upgrade),
            is_call: request.is_call && leg.is_stream(),
            leg: Some(leg),
            output: Vec::new(),
            written: 0,
            body_read: head.body().is_empty(),
            trailers: None,
            sending_over: false,
            write_failed: false,
            input: Vec::new(),
            start: 0,
            response: None,
            gzip: None,
            upgraded: false,
            response_read: false,
            has_begun: false,
            read_until: None,
            answer_until: None,
            late: None,
            request,
            client,
            route,
        };
        relay.write_head();
        relay
    }

    /// What of the body is judged already, or has been sent to one who did not read it, goes with the head, again with every try.
    fn write_judged(&mut self) -> Result<(), Reason> {
        if let Some(kept) = self.request.kept.as_ref().filter(|kept| !kept.is_empty()) {
            self.encoder.encode(&kept.payload, &mut self.output).map_err(|_| Refusal::Body)?;
            if kept.ended {
                self.trailers = kept.trailers.clone().map(Box::new);
                self.end_body()?;
            }
        }
        if let Some(upload) = &self.request.upload {
            self.encoder.encode(&upload.judged, &mut self.output).map_err(|_| Refusal::Body)?;
            if upload.ended {
                self.end_body()?;
            }
        }
        Ok(())
    }

    fn end_body(&mut self) -> Result<(), Reason> {
        let end = self.encoder.finish().map_err(|_| Refusal::BodyTruncated)?;
        self.output.extend_from_slice(end);
        self.body_read = true;
        Ok(())
    }

    fn write_head(&mut self) {
        let head = self.request.head;
        let mut line = head.line();
        line.upgrade = line.upgrade.filter(|_| !self.leg.as_ref().is_some_and(Leg::is_stream));
        if self.route.strip {
            line.path = self.route.prefix.strip(head.path());
        }
        self.output = self.request.worker.take_buffer();
        let trace = &self.request.trace;
        let parent = trace.parent();
        // Nobody but the edge says it to the daemon, and no instance is told.
        let asks = matches!(self.route.target, Target::Api { .. }).then(|| self.request.client.to_string());
        let all = [
            (CLIENT_FIELD, asks.as_deref().unwrap_or_default().as_bytes()),
            ("x-request-id", trace.request_id_bytes()),
            ("traceparent", &parent),
        ];
        let extra = &all[usize::from(asks.is_none())..if trace.is_told() { 3 } else { 2 }];
        let forwarding = &self.client.peer().forwarding;
        let told;
        let forwarding = match self.request.scheme {
            scheme if scheme == forwarding.scheme() => forwarding,
            scheme => {
                told = forwarding.for_scheme(scheme);
                &told
            }
        };
        let guard = self.route.guard.as_ref().filter(|guard| guard.keeps_any());
        let cookies = sticky::stripped(head);
        // Of a trace that is begun here, nobody has said anything.
        let is_stray = trace.begun && head.first(TRACE_STATE).is_some();
        if guard.is_none() && cookies.is_empty() && !is_stray {
            return write::request(&mut self.output, &line, head.fields(), forwarding, extra);
        }
        let fields = head.fields().filter(|field| !guard.is_some_and(|guard| guard.keeps(field)));
        let fields = fields.filter(|field| !is_stray || !field.name.eq_ignore_ascii_case(TRACE_STATE.as_bytes()));
        let fields = fields.filter_map(|field| sticky::passed(field, &cookies));
        write::request(&mut self.output, &line, fields, forwarding, extra);
    }

    async fn run(&mut self) -> Result<After, Failure> {
        self.restart_clock();
        let relayed = match self.begin().and_then(|()| self.write_judged()) {
            Ok(()) => poll_fn(|cx| self.poll(cx)).await,
            Err(reason) => Err(reason),
        };
        match relayed {
            Ok(()) => Ok(self.finish()),
            Err(reason) => Err(self.failure(reason)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        if self.request.look_again(self.client.peer()) {
            self.restart_clock();
        }
        if self.request.is_shut_out() {
            return Poll::Ready(Err(Reason::Revoked));
        }
        self.request.deadline.set_no_later(self.request.ends());
        loop {
            let moved = matches!(self.send_request(cx)?, Step::Moved) | matches!(self.read_response(cx)?, Step::Moved);
            if moved && !self.response_read && self.client.has_room() {
                // More may be there already: what is sent is sent in few pieces.
                self.restart_clock();
                continue;
            }
            if self.response_read && !self.upgraded {
                // Not once the client has read it: whoever reads slowly, or never, holds no connection to an instance.
                self.release();
            }
            self.flush_encoder()?;
            let before = self.client.sent_bytes();
            let flushed = self.client.poll_flush(cx)?.is_ready();
            if self.response_read && (flushed || self.upgraded) {
                return Poll::Ready(Ok(()));
            }
            let sent = self.client.sent_bytes() != before;
            // What was sent made room: the other side is looked at again, or nobody wakes this task for it.
            if self.watch_reading(flushed, sent) | moved | sent {
                self.restart_clock();
                continue;
            }
            if self.request.deadline.passed(cx) {
                return Poll::Ready(Err(self.stalled()));
            }
            if let Poll::Ready(reason) = self.poll_gone(cx) {
                return Poll::Ready(Err(reason));
            }
            return Poll::Pending;
        }
    }

    /// Client → instance: one stretch.
    fn send_request(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        if self.sending_over {
            return if self.response_read { self.discard(cx) } else { Ok(Step::Stuck) };
        }
        let flushed = self.write_some(cx);
        if self.write_failed {
            return Ok(Step::Moved);
        }
        if self.written < self.output.len() {
            return Ok(flushed);
        }
        self.output.clear();
        self.written = 0;
        if self.body_read {
            self.sending_over = true;
            self.request.exchange.request_sent();
            if let Some(leg) = &mut self.leg {
                leg.end(self.trailers.take().map(|trailers| *trailers));
            }
            self.request.worker.give_buffer(std::mem::take(&mut self.output));
            return Ok(Step::Moved);
        }
        // Pieces that are there go on together, however small they have come.
        let mut step = Step::Stuck;
        while !self.body_read && self.output.len() <= BUFFER / 2 {
            match self.read_body(cx)? {
                Step::Moved => step = Step::Moved,
                Step::Stuck => break,
            }
        }
        Ok(step)
    }

    fn write_some(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(leg) = &mut self.leg else { return Step::Stuck };
        let mut step = Step::Stuck;
        while self.written < self.output.len() {
            match leg.poll_send(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    if !std::mem::replace(&mut self.has_begun, true) {
                        self.request.exchange.request_begun();
                    }
                    self.written += n;
                    step = Step::Moved;
                }
                Poll::Ready(_) => {
                    // The instance may have answered before it closed: reading goes on.
                    self.request.exchange.upstream_write_failed();
                    self.write_failed = true;
                    self.sending_over = true;
                    return Step::Moved;
                }
                Poll::Pending => return step,
            }
        }
        step
    }

    fn read_body(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        if self.request.exchange.continue_due() {
            self.client.send_continue();
        }
        if self.output.capacity() == 0 {
            self.output = self.request.worker.take_buffer();
        }
        let Self { client, encoder, output, request, .. } = self;
        let Request { upload, kept, .. } = &mut **request;
        let mut encode = |payload: &[u8]| {
            if let Some(kept) = kept.as_mut() {
                kept.keep(payload);
            }
            encoder.encode(payload, output).map_err(|_| Reason::Refused(Refusal::Body))
        };
        let read = match upload {
            None => client.poll_body(cx, &mut encode)?,
            Some(upload) => {
                // What was judged before is sent.
                upload.judged.clear();
                let read = upload.poll(*client, cx)?;
                encode(&upload.judged)?;
                read
            }
        };
        self.request.journal.turn.is_clients(read.is_pending());
        self.watch_body(read.is_pending());
        policy::room(self.route.body, self.client.body_bytes())?;
        match read {
            Poll::Ready(Body::Data(_)) => Ok(Step::Moved),
            Poll::Ready(Body::End) => {
                let Poll::Ready(trailers) = self.client.poll_trailers(cx)? else { return Ok(Step::Stuck) };
                if let Some(kept) = &mut self.request.kept {
                    kept.end(trailers.as_ref());
                }
                self.trailers = trailers.map(Box::new);
                self.end_body()?;
                self.request.exchange.request_received();
                Ok(Step::Moved)
            }
            Poll::Pending => Ok(Step::Stuck),
        }
    }

    /// A client that is answered early may read the answer only when it has sent all.
    fn discard(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        if self.body_read || self.upgraded {
            return Ok(Step::Stuck);
        }
        let read = self.client.poll_body(cx, &mut |_| Ok(()))?;
        policy::room(self.route.body, self.client.body_bytes())?;
        match read {
            Poll::Ready(Body::Data(_)) => {}
            Poll::Ready(Body::End) => {
                self.body_read = true;
                self.request.exchange.request_received();
            }
            Poll::Pending => return Ok(Step::Stuck),
        }
        Ok(Step::Moved)
    }

    /// Instance → client: one stretch.
    fn read_response(&mut self, cx: &mut Context<'_>) -> Result<Step, Reason> {
        if self.response_read {
            return Ok(Step::Stuck);
        }
        if !self.client.has_room() {
            return Ok(self.read_ahead(cx));
        }
        if self.start < self.input.len() {
            let step = match &mut self.response {
                None => self.parse_head()?,
                Some(_) => self.pass_payload()?,
            };
            if matches!(step, Step::Moved) {
                return Ok(step);
            }
        }
        self.fill(cx)
    }

    fn parse_head(&mut self) -> Result<Step, Reason> {
        let worker = self.request.worker;
        let step = self.parser.read(&self.input[self.start..], &mut worker.spare.borrow_mut());
        match step {
            ResponseStep::NeedMore => Ok(Step::Stuck),
            ResponseStep::Interim { consumed, .. } => {
                self.start += consumed;
                Ok(Step::Moved)
            }
            ResponseStep::Head { head, consumed } => {
                self.start += consumed;
                let begun = self.begin_response(&head);
                head.recycle(&mut worker.spare.borrow_mut());
                begun
            }
            ResponseStep::Bad(bad) => Err(bad.into()),
        }
    }

    /// All of the response was read: the connection is kept or closed, and nothing is outstanding there any more.
    fn release(&mut self) {
        let worker = self.request.worker;
        self.sending_over = true;
        match (self.leg.take(), self.request.exchange.upstream()) {
            (Some(Leg::Bytes(Upstream::Instance(stream, ticket))), AfterUpstream::Pool { idle }) => {
                worker.pools.keep(ticket.endpoint(), stream, idle, worker.sweep.now());
            }
            (leg, _) => drop(leg),
        }
    }

    fn failure(&mut self, reason: Reason) -> Failure {
        let in_vain = matches!(reason, Reason::ResponseTimeout | Reason::UpstreamStalled)
            || reason == Reason::DeadlineExceeded && self.has_waited(IN_VAIN);
        match &self.leg {
            Some(Leg::Stream(stream)) if in_vain => stream.retire(),
            Some(Leg::Stream(stream)) if reason.blame() != Blame::Upstream => stream.give_up(),
            Some(Leg::Stream(_) | Leg::Bytes(_)) | None => {}
        }
        let unread = matches!(reason, Reason::StreamRefused | Reason::UpstreamLeaving);
        if unread && self.request.can_be_repeated(self.client.body_bytes()) {
            // It is as if nothing had been sent.
            self.request.exchange.retry();
        }
        let upstream = unread || matches!(reason, Reason::UpstreamClosed);
        let retry = upstream && self.response.is_none() && self.request.exchange.may_retry();
        Failure { reason, retry }
    }
}

impl<C> Drop for Relay<'_, '_, C> {
    fn drop(&mut self) {
        let worker = self.request.worker;
        worker.give_buffer(std::mem::take(&mut self.input));
        worker.give_buffer(std::mem::take(&mut self.output));
    }
}
