//! One request, as a list: route → policy → action → record.

mod admission;
mod journal;
mod kept;

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bowline_core::route::Method;
use bowline_core::upload::UploadFault;

use crate::answer::{Blame, Reason, wants_html};
use crate::balance::Endpoint;
use crate::client::{Client, Peer};
use crate::deadline::{Deadline, Patience, ticks};
use crate::grpc::{self, Code};
use crate::h1::{Exchange, Framing, Refusal, RequestHead, ResponseLine, Scheme, Upgrade, Version, write};
use crate::policy::{Origin, Upload};
use crate::record::{Line, Sample, ShardKey};
use crate::route::{Lookup, Route, Target};
use crate::trace::Trace;
use crate::worker::Worker;
use crate::{files, forward, policy, sticky};
use journal::Journal;
pub(crate) use kept::Kept;

/// How long a client may take to read an answer of the edge itself.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// The usual port of HTTPS.
const HTTPS_PORT: u16 = 443;

/// Where a certificate authority looks whether a host is ours, over plain HTTP (RFC 8555, 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// RFC 6797, 6.1.
pub(crate) const HSTS: &str = "strict-transport-security";

/// A request under way.
pub(crate) struct Request<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) head: &'a RequestHead,
    /// Who asks, behind proxies that are trusted.
    pub(crate) client: IpAddr,
    /// By which it left the client.
    pub(crate) scheme: Scheme,
    pub(crate) exchange: Exchange,
    pub(crate) deadline: &'a Deadline,
    pub(crate) trace: Trace,
    pub(crate) journal: Journal,
    /// What its body has to pass; `None`: the body goes on as it comes.
    pub(crate) upload: Option<Box<Upload>>,
    /// With a client that sends its body, and then reads its answer.
    pub(crate) patience: Patience,
    /// Of a body that is on its way to an instance which may still say that it has not read it.
    pub(crate) kept: Option<Box<Kept>>,
    /// Among 100, drawn for a client that brings none: see [`sticky`].
    pub(crate) place: Option<u8>,
    /// A call of gRPC.
    pub(crate) is_call: bool,
    /// The tick after which its client waits no longer.
    pub(crate) until: Option<u64>,
    /// By which count of tables it was let in, or seen to be let in still.
    admission: u32,
    /// It would not be let in any more: the tick at which it ends. Else [`u32::MAX`]; each connection has room for it.
    ends: u32,
}

/// Serves one request; what may happen to the connection is in the exchange that comes back.
pub(crate) async fn run<C: Client>(
    worker: &Rc<Worker>,
    client: &mut C,
    head: &RequestHead,
    exchange: Exchange,
    deadline: &Deadline,
) -> Exchange {
    let (admission, sampling) = worker.with_routes(|routes| (routes.admission, routes.sampling));
    let trace = Trace::of(head, &worker.dice, sampling);
    let Origin { client: from, scheme } = policy::origin(client.peer(), head);
    let is_call = client.carries_trailers() && grpc::is_call(head);
    let waits = is_call.then(|| grpc::timeout(head)).flatten();
    let mut request = Request {
        worker,
        head,
        client: from,
        scheme,
        exchange,
        deadline,
        trace,
        journal: Journal { waits, ..Journal::begin() },
        upload: None,
        patience: Patience::new(Duration::MAX),
        kept: None,
        place: None,
        is_call,
        until: waits.map(|time| worker.sweep.now().saturating_add(ticks(time))),
        admission,
        ends: u32::MAX,
    };
    if let Err(reason) = request.serve(client).await {
        request.fail(client, reason).await;
    }
    request.record(client);
    request.exchange
}

/// Answers what is not a request, and counts it.
pub(crate) async fn refuse<C: Client>(worker: &Worker, client: &mut C, refusal: Refusal, deadline: &Deadline) {
    worker.shard.refused(refusal.code());
    let trace = Trace::fresh(&worker.dice);
    let reason = Reason::Refused(refusal);
    let page = reason.page(false, trace.request_id());
    let line = line(refusal.status(), page.len(), client.version(), false);
    let extra = [("content-type", "text/plain; charset=utf-8"), ("x-bowline-error", reason.code())];
    let head = |out: &mut Vec<u8>| respond(worker, out, &line, &extra);
    let sent = client.respond(line.body, &mut { head }).and_then(|()| client.send(page.as_bytes()));
    if sent.and_then(|()| client.finish()).is_ok() {
        deadline.set(ANSWER_TIME);
        let _ = flush(client, deadline).await;
    }
    log_refused(worker, (client.peer(), client.protocol()), &trace, (refusal.status(), page.len()), reason.code());
}

/// A connection of HTTP/2 that broke the rules of all its streams, or sent too much beside them: it is told by the library, counted and logged here.
pub(crate) fn broken(worker: &Worker, peer: &Peer, code: &'static str) {
    worker.shard.refused(code);
    log_refused(worker, (peer, "HTTP/2.0"), &Trace::fresh(&worker.dice), (400, 0), code);
}

fn log_refused(
    worker: &Worker,
    (peer, protocol): (&Peer, &'static str),
    trace: &Trace,
    (status, bytes): (u16, usize),
    code: &'static str,
) {
    let line = Line {
        labels: [""; 3],
        method: "",
        host: "",
        path: "",
        status,
        duration: Duration::ZERO,
        waited: None,
        request_bytes: 0,
        response_bytes: bytes as u64,
        client: peer.ip,
        protocol,
        tls: tls_version(peer),
        trace: trace.trace_id(),
        span: None,
        request: trace.request_id_bytes(),
        call: None,
        fault: Some((Blame::Client.as_str(), code)),
    };
    worker.access.write(&line, Instant::now());
}

fn tls_version(peer: &Peer) -> &'static str {
    peer.tls.as_ref().map_or("", |tls| tls.version)
}

/// The head of an answer with a body of known length.
fn line(status: u16, length: usize, version: Version, keep_alive: bool) -> ResponseLine<'static> {
    let body = Framing::Length(length as u64);
    ResponseLine { status, body, announced: None, version, keep_alive, upgrade: None, date: None }
}

fn respond(worker: &Worker, out: &mut Vec<u8>, line: &ResponseLine<'_>, extra: &[(&str, &str)]) {
    worker.access.clock.with_date(|date| {
        write::response(out, &ResponseLine { date: Some(date), ..*line }, std::iter::empty(), extra);
    });
}

/// Waits until everything was taken by the network.
pub(crate) async fn flush<C: Client>(client: &mut C, deadline: &Deadline) -> Result<(), Reason> {
    poll_fn(|cx| {
        if deadline.passed(cx) {
            return Poll::Ready(Err(Reason::ClientStalled));
        }
        client.poll_flush(cx)
    })
    .await
}

impl Request<'_> {
    async fn serve<C: Client>(&mut self, client: &mut C) -> Result<(), Reason> {
        if client.peer().tls.is_none()
            && let Some(answer) = self.challenge()
        {
            return self.answer_authority(client, &answer).await;
        }
        let route = self.route(client.peer())?;
        self.journal.route = Some(Arc::clone(&route));
        if route.https_only
            && let Some(https) = self.over_https()
        {
            return Box::pin(self.redirect(client, &https)).await;
        }
        if let Some(guard) = &route.guard {
            guard.check(self.client, self.head, self.journal.begun)?;
        }
        policy::announced(route.body, self.head.body())?;
        self.patience = Patience::new(route.idle.min(route.timeout));
        if let Some(guard) = &route.guard {
            self.upload = guard.upload(self.head)?;
        }
        match &route.target {
            Target::Forward(_) => forward::run(self, client, &route).await,
            Target::Files { folder, release, .. } => {
                Box::pin(files::serve(self, client, &route, folder, *release)).await
            }
            Target::Redirect(to) => self.redirect(client, to).await,
            Target::Deny => Err(Reason::Denied),
            Target::Api { .. } if client.peer().tls.is_none() => Err(Reason::TlsWanted),
            Target::Api { socket, places } => Box::pin(forward::to_daemon(self, client, &route, socket, places)).await,
        }
    }

    /// The client of a call does not wait any longer.
    pub(crate) fn is_out_of_time(&self) -> bool {
        self.until.is_some_and(|until| until <= self.worker.sweep.now())
    }

    /// All of the body that was read, `read` bytes, is there to be sent once more.
    pub(crate) fn can_be_repeated(&self, read: u64) -> bool {
        read == 0 || self.kept.as_ref().is_some_and(|kept| kept.is_all())
    }

    fn challenge(&self) -> Option<Arc<str>> {
        let (host, path) = (self.head.authority().host, self.head.path());
        self.worker.with_routes(|routes| routes.challenge(host, path).cloned())
    }

    /// Before any route: whoever lets nobody in, or is not up yet, is to have a certificate all the same.
    async fn answer_authority<C: Client>(&mut self, client: &mut C, answer: &str) -> Result<(), Reason> {
        if !matches!(self.head.method(), "GET" | "HEAD") {
            return Err(Reason::FileMethod);
        }
        // Of this type, or of none (RFC 8555, 8.3).
        let fields = [("content-type", "application/octet-stream"), ("cache-control", "no-store")];
        self.answer(client, 200, &fields, answer.as_bytes()).await
    }

    /// One lookup in the table of now.
    pub(crate) fn route(&self, peer: &Peer) -> Result<Arc<Route>, Reason> {
        let host = self.head.authority().host;
        self.worker.with_routes(|routes| {
            if let Some(tls) = &peer.tls {
                let same = tls.name.as_deref().map_or(is_address(host), |name| name == host);
                if !same || routes.host(host).is_some_and(|host| !host.https) {
                    return Err(Reason::Misdirected);
                }
            }
            match routes.lookup(host, self.head.path()) {
                Lookup::Route(route) => Ok(Arc::clone(route)),
                Lookup::NoRule => Err(Reason::NoRoute),
                Lookup::NoHost if routes.is_initial() => Err(Reason::Starting),
                Lookup::NoHost => Err(Reason::UnknownHost),
            }
        })
    }

    /// Where the same is over HTTPS; `None`: it came that way, or there is nobody to answer. Whoever said a port is sent to the listener's
    /// own; whoever said none came to the usual one, which leads here, and so does the usual one of HTTPS.
    fn over_https(&self) -> Option<String> {
        let authority = self.head.authority();
        let listening = self.worker.https_port.filter(|_| self.scheme == Scheme::Http)?;
        if self.head.path().starts_with(CHALLENGES) || !self.worker.tls.has(authority.host) {
            return None;
        }
        Some(match authority.port {
            Some(_) if listening != HTTPS_PORT => format!("https://{}:{listening}", authority.host),
            Some(_) | None => format!("https://{}", authority.host),
        })
    }

    /// What browsers are told to remember of this host. What was not said over HTTPS does not count (RFC 6797, 7.2).
    pub(crate) fn hsts(&self) -> Option<&str> {
        self.journal.route.as_ref()?.hsts.as_deref().filter(|_| self.scheme == Scheme::Https)
    }

    async fn redirect<C: Client>(&mut self, client: &mut C, to: &str) -> Result<(), Reason> {
        let path = self.head.path();
        let mut location = format!("{}{path}", to.strip_suffix('/').unwrap_or(to));
        if let Some(query) = self.head.query() {
            location.push('?');
            location.push_str(query);
        }
        self.answer(client, 308, &[("location", &location)], b"").await
    }

    /// Whether the client may use its connection again: to be asked when an answer's head is written.
    pub(crate) fn keep_alive(&mut self) -> bool {
        if self.worker.is_draining() {
            self.exchange.close_client();
        }
        self.exchange.keep_alive()
    }

    /// Reads the body until some of it is judged, so that of a request which is refused at its first bytes nothing is sent.
    pub(crate) async fn first_judged<C: Client>(&mut self, client: &mut C, route: &Route) -> Result<(), Reason> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        let idle = route.idle.min(route.timeout);
        let restart = |request: &Self| {
            request.deadline.set(idle);
            request.deadline.set_no_later(request.until.unwrap_or(u64::MAX));
        };
        restart(self);
        poll_fn(|cx| {
            while upload.judged.is_empty() && !upload.ended {
                if self.exchange.continue_due() {
                    client.send_continue();
                }
                let _ = client.poll_flush(cx)?;
                let read = upload.poll(client, cx)?;
                policy::room(route.body, client.body_bytes())?;
                let now = self.worker.sweep.now();
                if read.is_pending() {
                    self.deadline.set_no_later(self.patience.waits(now));
                } else {
                    self.patience.moved(now, client.body_bytes());
                }
                match read {
                    Poll::Ready(_) => restart(self),
                    Poll::Pending if self.is_out_of_time() => return Poll::Ready(Err(Reason::DeadlineExceeded)),
                    Poll::Pending if self.deadline.passed(cx) => {
                        return Poll::Ready(Err(Reason::Refused(Refusal::BodyTimeout)));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        if upload.ended {
            self.exchange.request_received();
        }
        self.upload = Some(upload);
        Ok(())
    }

    /// Sends a whole answer of the edge itself.
    pub(crate) async fn answer<C: Client>(
        &mut self,
        client: &mut C,
        status: u16,
        extra: &[(&str, &str)],
        body: &[u8],
    ) -> Result<(), Reason> {
        let to_head = self.head.is_head();
        self.exchange.answered_here();
        let mut line = line(status, body.len(), client.version(), self.keep_alive());
        if to_head {
            (line.body, line.announced) = (Framing::None, Some(body.len() as u64));
        }
        self.begin_response(client, &line, extra)?;
        if !to_head && !body.is_empty() {
            client.send(body)?;
            self.journal.response_bytes += body.len() as u64;
        }
        self.end_response(client, ANSWER_TIME).await
    }

    /// Sends an answer that has no body by its nature (304).
    pub(crate) async fn answer_empty<C: Client>(
        &mut self,
        client: &mut C,
        status: u16,
        extra: &[(&str, &str)],
    ) -> Result<(), Reason> {
        self.exchange.answered_here();
        let line = line(status, 0, client.version(), self.keep_alive());
        self.begin_response(client, &ResponseLine { body: Framing::None, ..line }, extra)?;
        self.end_response(client, ANSWER_TIME).await
    }

    /// Writes the head of an answer of the edge itself.
    pub(crate) fn begin_response<C: Client>(
        &mut self,
        client: &mut C,
        line: &ResponseLine<'_>,
        extra: &[(&str, &str)],
    ) -> Result<(), Reason> {
        self.journal.status = line.status;
        let with;
        let extra = match self.hsts() {
            Some(hsts) => {
                with = [extra, &[(HSTS, hsts)]].concat();
                with.as_slice()
            }
            None => extra,
        };
        client.respond(line.body, &mut |out| respond(self.worker, out, line, extra))
    }

    /// All payload was given: sees it off.
    pub(crate) async fn end_response<C: Client>(&mut self, client: &mut C, within: Duration) -> Result<(), Reason> {
        client.finish()?;
        self.deadline.set(within);
        flush(client, self.deadline).await?;
        self.exchange.response_sent();
        Ok(())
    }

    /// Answers with a page, or cuts an answer that has begun.
    async fn fail<C: Client>(&mut self, client: &mut C, reason: Reason) {
        self.journal.fault = Some(reason);
        self.exchange.close_upstream();
        if self.is_call {
            self.journal.call.get_or_insert(Code::of(reason));
        }
        let nobody_there = matches!(reason, Reason::ClientGone | Reason::ClientStalled);
        if self.journal.status != 0 || nobody_there {
            self.exchange.close_client();
            client.abort(reason);
            if self.journal.status == 0 {
                self.journal.status = reason.status();
            }
            return;
        }
        if matches!(reason, Reason::Refused(_)) {
            self.exchange.close_client();
        }
        if self.is_call && client.carries_trailers() {
            return self.fail_call(client, reason).await;
        }
        let html = wants_html(self.head);
        let kind = if html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        let page = reason.page(html, self.trace.request_id());
        let id = self.trace.request_id().to_owned();
        let mut extra = vec![("content-type", kind), ("cache-control", "no-store"), ("x-request-id", &id)];
        extra.push(("x-bowline-error", reason.code()));
        let retry_after = reason.retry_after().map(|seconds| seconds.to_string());
        extra.extend(retry_after.as_deref().map(|seconds| ("retry-after", seconds)));
        extra.extend(reason.challenge().map(|challenge| ("www-authenticate", challenge)));
        if reason == Reason::Upload(UploadFault::Encoded) {
            extra.push(("accept-encoding", "identity"));
        }
        if reason.status() == 405 {
            extra.push(("allow", "GET, HEAD"));
        }
        if self.answer(client, reason.status(), &extra, page.as_bytes()).await.is_err() {
            self.exchange.close_client();
            client.abort(reason);
        }
    }

    /// The same as clients of gRPC read it: a head alone, which says how the call ended.
    async fn fail_call<C: Client>(&mut self, client: &mut C, reason: Reason) {
        let (code, id) = (Code::of(reason), self.trace.request_id().to_owned());
        self.journal.call = Some(code);
        let (number, message) = (code.0.to_string(), grpc::message(reason.sentence()));
        let extra = [
            ("content-type", grpc::TYPE),
            ("grpc-status", &number),
            ("grpc-message", &message),
            ("x-request-id", &id),
            ("x-bowline-error", reason.code()),
        ];
        if self.answer_empty(client, 200, &extra).await.is_err() {
            self.exchange.close_client();
            client.abort(reason);
        }
    }

    /// Whoever looks at a release of their choice takes no instance of it from the others.
    fn fails(&self, endpoint: &Endpoint) {
        if !sticky::is_look(self.head) {
            endpoint.failed();
        }
    }

    /// A try that another one follows: what comes of that says nothing of whoever has failed this one.
    pub(crate) fn record_try(&self, reason: Reason) {
        if let Some(endpoint) = self.journal.endpoint.as_ref().filter(|_| reason.blame() == Blame::Upstream) {
            self.fails(endpoint);
        }
        let counts = self.journal.is_judged() && reason.blame() == Blame::Upstream && !sticky::is_look(self.head);
        if let Some(labels) = self.journal.labels().filter(|_| counts) {
            self.worker.shard.judge(labels, reason.status(), self.journal.turn.took());
        }
    }

    /// Counts the request and writes its line.
    fn record<C: Client>(&self, client: &C) {
        let journal = &self.journal;
        match (&journal.endpoint, journal.is_failure()) {
            (Some(endpoint), Some(true)) => self.fails(endpoint),
            (Some(endpoint), Some(false)) => endpoint.answered(),
            (Some(_) | None, _) => {}
        }
        let now = Instant::now();
        let duration = now.saturating_duration_since(journal.begun);
        let method = self.head.method();
        let (request_bytes, response_bytes) = (client.body_bytes(), journal.response_bytes);
        match journal.labels() {
            Some(labels) => {
                let key = ShardKey { labels, method: Method::of(method.as_bytes()), status: journal.counted_status() };
                self.worker.shard.count(&Sample { key, duration, request_bytes, response_bytes });
                // What the edge itself could not do says nothing of a release.
                let is_ours = journal.fault.is_some_and(|reason| reason.blame() == Blame::Bowline);
                if journal.is_judged() && !is_ours && !sticky::is_look(self.head) {
                    self.worker.shard.judge(labels, journal.judged_status(), journal.turn.took());
                }
            }
            // What the daemon answers is in no series of an app.
            None => {
                if let Some(fault) = journal.fault {
                    self.worker.shard.refused(fault.code());
                }
            }
        }
        let line = Line {
            labels: journal.log(),
            method,
            host: self.head.authority().host,
            path: self.head.path(),
            status: journal.status,
            duration,
            waited: journal.first_byte.map(|at| at.duration_since(journal.begun)),
            request_bytes,
            response_bytes,
            client: self.client,
            protocol: client.protocol(),
            tls: tls_version(client.peer()),
            trace: self.trace.trace_id(),
            span: self.trace.span(),
            request: self.trace.request_id_bytes(),
            call: journal.call.map(|code| code.0),
            fault: journal.fault.map(|reason| (reason.blame().as_str(), reason.code())),
        };
        self.worker.access.write(&line, now);
    }

    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self.head.upgrade(), Some(Upgrade::WebSocket))
    }
}

fn is_address(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
}
