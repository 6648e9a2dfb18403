//! Heads out: serialised from parsed values only.
//!
//! Upstream, every request is HTTP/1.1 with keep-alive. Left out: what is for one hop (by name, or named by any
//! `Connection` line), what frames (written anew), what says who the client is (written anew), names with `_`,
//! `X-Bowline-*`, and whatever the edge sets itself. Everything else goes on in order, `traceparent` included.
//!
//! To the client, `Server` and `Date` of the upstream pass; a missing `Date` is added when the edge gives one (RFC 9110,
//! 6.6.1). The reason phrase is the registered one: an upstream's own has no meaning (RFC 9110, 15.1).

use std::net::IpAddr;

use super::body::Framing;
use super::field::{Field, FieldKind};
use super::forwarded;
use super::gate::Version;
use super::target::Authority;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What a client's own `X-Forwarded-*` and `Forwarded` are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anyone: what it says about itself is dropped.
    None,
    /// A proxy on the operator's list: what it says is kept, and its address appended.
    Proxy,
}

/// Who sent a request, as the upstream is told. Rendered once per connection.
#[derive(Debug, Clone)]
pub struct Forwarding {
    peer: IpAddr,
    scheme: Scheme,
    /// By which a request left its client, if nothing else says so.
    said: Scheme,
    trust: Trust,
    /// What never changes: the lines for the peer and the scheme up to the host, then `Forwarded` up to the host. Apart, since who
    /// holds it moves it about, and connections are many.
    text: Box<str>,
    /// Where the second of them begins.
    second: usize,
}

impl Forwarding {
    /// `peer`: the address at the other end (or of the PROXY header); IPv4-mapped IPv6 becomes IPv4.
    pub fn new(peer: IpAddr, scheme: Scheme, trust: Trust) -> Self {
        let peer = peer.to_canonical();
        let mut this = Self { peer, scheme, said: scheme, trust, text: Box::default(), second: 0 };
        let scheme = scheme.as_str();
        let first = format!("X-Forwarded-For: {peer}\r\nX-Forwarded-Proto: {scheme}\r\nX-Forwarded-Host: ");
        this.second = first.len();
        this.text = format!("{first}\r\nForwarded: {};host=\"", this.element()).into();
        this
    }

    /// The peer, canonical.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// RFC 7239: an IPv6 address is bracketed and quoted.
    fn element(&self) -> String {
        let scheme = self.scheme.as_str();
        match self.peer {
            IpAddr::V4(peer) => format!("for={peer};proto={scheme}"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\";proto={scheme}"),
        }
    }

    fn write<'a>(&self, out: &mut Vec<u8>, authority: &str, fields: impl Iterator<Item = Field<'a>> + Clone) {
        if self.trust == Trust::Proxy {
            return self.append(out, authority, fields);
        }
        let (first, second) = self.text.as_bytes().split_at(self.second);
        out.extend_from_slice(first);
        out.extend_from_slice(authority.as_bytes());
        out.extend_from_slice(second);
        out.extend_from_slice(authority.as_bytes());
        out.extend_from_slice(b"\"\r\n");
    }

    /// What a proxy that is believed says of the scheme in `X-Forwarded-Proto`, once and as one of two words.
    pub fn scheme_said<'a>(&self, fields: impl Iterator<Item = Field<'a>>) -> Option<Scheme> {
        let believed = self.trust == Trust::Proxy;
        match one(fields, FieldKind::ForwardedProto).filter(|_| believed)? {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        }
    }

    /// The same for a request that came to its first proxy by this scheme, where no `X-Forwarded-Proto` says it.
    pub fn for_scheme(&self, scheme: Scheme) -> Self {
        Self { said: scheme, ..self.clone() }
    }

    /// Behind a trusted proxy: its lists go on, with it appended; its one scheme and host count if they are valid. Where it speaks
    /// in `Forwarded` only, what that says is said in the other list, too.
    fn append<'a>(&self, out: &mut Vec<u8>, authority: &str, fields: impl Iterator<Item = Field<'a>> + Clone) {
        let lists = [
            (FieldKind::ForwardedFor, "X-Forwarded-For", self.peer.to_string()),
            (FieldKind::Forwarded, "Forwarded", format!("{};host=\"{authority}\"", self.element())),
        ];
        for (kind, name, own) in lists {
            push(out, &[name.as_bytes(), b": "]);
            let mut values = fields.clone().filter(|field| field.kind == kind).peekable();
            if kind == FieldKind::ForwardedFor && values.peek().is_none() {
                hops(out, fields.clone());
            }
            for field in values.filter(|field| !field.value.is_empty()) {
                push(out, &[field.value, b", "]);
            }
            push(out, &[own.as_bytes(), b"\r\n"]);
        }
        let host = one(fields.clone(), FieldKind::ForwardedHost).map(str::to_ascii_lowercase);
        let host = host.filter(|host| Authority::parse(&mut host.clone().into_bytes()).is_ok());
        let scheme = self.scheme_said(fields).unwrap_or(self.said);
        line(out, "X-Forwarded-Proto", scheme.as_str().as_bytes());
        line(out, "X-Forwarded-Host", host.as_deref().unwrap_or(authority).as_bytes());
    }
}

/// The value of a field that comes exactly once.
fn one<'a>(fields: impl Iterator<Item = Field<'a>>, kind: FieldKind) -> Option<&'a str> {
    let mut values = fields.filter(|field| field.kind == kind).map(|field| field.value);
    values.next().filter(|_| values.next().is_none()).and_then(|value| str::from_utf8(value).ok())
}

/// The addresses of `Forwarded`, as `X-Forwarded-For` lists them.
fn hops<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = Field<'a>> + Clone) {
    for hop in forwarded::chain(fields) {
        let name = hop.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        push(out, &[name.as_bytes(), b", "]);
    }
}

/// A request as it goes upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLine<'a> {
    pub method: &'a str,
    /// Canonical, starting with `/`.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// The Host field.
    pub authority: &'a str,
    pub body: Framing,
    /// The protocol token to ask for; only without a body.
    pub upgrade: Option<&'a str>,
    /// Send `Expect: 100-continue`. [`super::RequestHead::line`] says false: the edge answers it itself when it starts
    /// to read the body, after its policies have let the request through (many app servers never answer it).
    pub expect_continue: bool,
}

/// Appends a request head. `extra`: fields set by the edge; same-named ones of the client are left out.
/// `UntilClose` is no framing of a request and counts as no body.
pub fn request<'a>(
    out: &mut Vec<u8>,
    request: &RequestLine<'_>,
    fields: impl Iterator<Item = Field<'a>> + Clone,
    forwarding: &Forwarding,
    extra: &[(&str, &[u8])],
) {
    out.reserve(1024);
    push(out, &[request.method.as_bytes(), b" ", request.path.as_bytes()]);
    if let Some(query) = request.query {
        push(out, &[b"?", query.as_bytes()]);
    }
    push(out, &[b" HTTP/1.1\r\nHost: ", request.authority.as_bytes(), b"\r\n"]);
    for field in fields.clone() {
        if field.kind.goes_upstream() && !is_extra(&field, extra) {
            write_field(out, &field);
        }
    }
    forwarding.write(out, request.authority, fields);
    for (name, value) in extra {
        line(out, name, value);
    }
    if let Some(protocol) = request.upgrade {
        push(out, &[b"Connection: Upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]);
    }
    if request.expect_continue {
        line(out, "Expect", b"100-continue");
    }
    framing(out, request.body);
    out.extend_from_slice(b"\r\n");
}

/// A response as it goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseLine<'a> {
    pub status: u16,
    /// How the body goes to the client.
    pub body: Framing,
    /// `Content-Length` of a response that has no body here (HEAD, 304).
    pub announced: Option<u64>,
    /// The client's version.
    pub version: Version,
    /// False: `Connection: close`. Must be false where `body` is `UntilClose`.
    pub keep_alive: bool,
    /// 101: the protocol changed to.
    pub upgrade: Option<&'a str>,
    /// An HTTP date, written when the upstream sent none. The edge's coarse clock renders it once a second.
    pub date: Option<&'a str>,
}

/// Appends a response head. `extra`: fields set by the edge; same-named ones of the upstream are left out, but cookies, of which
/// each is another one.
pub fn response<'a>(
    out: &mut Vec<u8>,
    response: &ResponseLine<'_>,
    fields: impl Iterator<Item = Field<'a>> + Clone,
    extra: &[(&str, &str)],
) {
    status_line(out, response.status);
    let mut dated = false;
    for field in fields {
        if field.kind.goes_downstream() && !is_extra(&field, extra) {
            dated |= field.kind == FieldKind::Date;
            write_field(out, &field);
        }
    }
    if let Some(date) = response.date.filter(|_| !dated) {
        line(out, "Date", date.as_bytes());
    }
    for (name, value) in extra {
        line(out, name, value.as_bytes());
    }
    match response.upgrade {
        Some(protocol) => push(out, &[b"Connection: Upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]),
        None => connection(out, response.version, response.keep_alive),
    }
    match (response.body, response.announced) {
        (Framing::None, Some(length)) => framing(out, Framing::Length(length)),
        (body, _) => framing(out, body),
    }
    out.extend_from_slice(b"\r\n");
}

/// `HTTP/1.1 100 Continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A whole response made by the edge itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    /// `Retry-After`, `Location`, `X-Bowline-…`; a `Content-Type` other than plain text.
    pub extra: &'a [(&'a str, &'a str)],
    /// Empty: the status and its reason as one line of text. Never sent with 204 and 304.
    pub body: &'a str,
    /// The request was HEAD: send no body, but announce it.
    pub to_head: bool,
    pub version: Version,
    pub keep_alive: bool,
    pub date: Option<&'a str>,
}

/// Appends a whole response. It is never stored by caches.
pub fn answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let mut number = [0; 20];
    let status = decimal(&mut number, u64::from(answer.status));
    let page: [&[u8]; 4] = match answer.body {
        "" => [status, b" ", reason(answer.status).as_bytes(), b"\n"],
        body => [body.as_bytes(), b"", b"", b""],
    };
    let length: usize = page.iter().map(|part| part.len()).sum();
    let bodiless = matches!(answer.status, 204 | 304);
    status_line(out, answer.status);
    if let Some(date) = answer.date {
        line(out, "Date", date.as_bytes());
    }
    let set = |name: &str| answer.extra.iter().any(|(extra, _)| extra.eq_ignore_ascii_case(name));
    if !bodiless && !set("content-type") {
        line(out, "Content-Type", b"text/plain; charset=utf-8");
    }
    if !set("cache-control") {
        line(out, "Cache-Control", b"no-store");
    }
    for (name, value) in answer.extra {
        line(out, name, value.as_bytes());
    }
    connection(out, answer.version, answer.keep_alive);
    if !bodiless {
        framing(out, Framing::Length(length as u64));
    }
    out.extend_from_slice(b"\r\n");
    if !bodiless && !answer.to_head {
        push(out, &page);
    }
}

fn is_extra<V>(field: &Field<'_>, extra: &[(&str, V)]) -> bool {
    if field.name.eq_ignore_ascii_case(b"set-cookie") {
        return false;
    }
    extra.iter().any(|(name, _)| name.as_bytes().eq_ignore_ascii_case(field.name))
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    let mut number = [0; 20];
    push(out, &[b"HTTP/1.1 ", decimal(&mut number, u64::from(status)), b" ", reason(status).as_bytes(), b"\r\n"]);
}

fn connection(out: &mut Vec<u8>, version: Version, keep_alive: bool) {
    match (version, keep_alive) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => line(out, "Connection", b"keep-alive"),
        (_, false) => line(out, "Connection", b"close"),
    }
}

fn framing(out: &mut Vec<u8>, body: Framing) {
    match body {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => line(out, "Content-Length", decimal(&mut [0; 20], length)),
        Framing::Chunked => line(out, "Transfer-Encoding", b"chunked"),
    }
}

fn write_field(out: &mut Vec<u8>, field: &Field<'_>) {
    match field.written {
        Some(line) => out.extend_from_slice(line),
        None => push(out, &[field.name, b": ", field.value, b"\r\n"]),
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    push(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A number as text.
pub(crate) fn decimal(digits: &mut [u8; 20], mut number: u64) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        let digit = (number % 10) as u8;
        digits[at] = b'0' + digit;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The reason phrase of a status (RFC 9110 and the IANA registry); empty for others.
pub fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}
