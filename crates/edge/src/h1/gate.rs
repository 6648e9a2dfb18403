//! Bytes of a client → exactly one well-formed request, or a refusal.

use std::mem::MaybeUninit;

use super::body::Framing;
use super::diagnose::diagnose;
use super::field::{Field, FieldKind, Kinds, Line, Span, Spare, collect, is_token, parse_length, read_options};
use super::head::{HeadScan, Scanned};
use super::refusal::Refusal;
use super::target::{Authority, canonical_path, check_authority, check_query};
use super::write::RequestLine;
use super::{MAX_FIELDS, MAX_HEAD, MAX_METHOD, MAX_TARGET};

/// Longest request line with its CRLF: longer, and the target is too long whatever its method.
const MAX_LINE: usize = MAX_METHOD + 1 + MAX_TARGET + " HTTP/1.1\r\n".len();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// The protocol that a request asks to change to. `h2c` and lists are ignored, as RFC 9110 (7.8) allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade<'a> {
    WebSocket,
    /// Another protocol's token, as it came.
    Other(&'a str),
}

/// Reads request heads from one connection.
#[derive(Debug, Clone, Default)]
pub struct RequestGate {
    scan: HeadScan,
}

#[derive(Debug, PartialEq, Eq)]
pub enum GateStep {
    /// The input holds no whole head yet. Read more behind it and call again with all of it.
    NeedMore,
    /// One request. `consumed` bytes of the input were its head; its body follows.
    Head { head: RequestHead, consumed: usize },
    /// Answer with [`Refusal::status`] and close. The input is not to be read any further.
    Refuse(Refusal),
}

impl RequestGate {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `input`, all that was received since the last request's end. Work already done on a prefix is not done
    /// again. After a head the gate is ready for the next request. The outcome depends on the bytes alone, not on the
    /// pieces they came in.
    pub fn read(&mut self, input: &[u8], spare: &mut Spare) -> GateStep {
        // RFC 9112 (2.2): a server should ignore at least one empty line before the request line.
        let skipped = match input {
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => return GateStep::NeedMore,
            [b'\r', ..] => return GateStep::Refuse(Refusal::BareCr),
            [b'\n', ..] => return GateStep::Refuse(Refusal::BareLf),
            [..] => 0,
        };
        let input = &input[skipped..];
        match input.first() {
            None => return GateStep::NeedMore,
            Some(b'\r' | b'\n') => return GateStep::Refuse(Refusal::LeadingLines),
            // A TLS ClientHello or other noise: told at its first byte, without waiting for a deadline.
            Some(first) if !is_token(*first) => return GateStep::Refuse(Refusal::Method),
            Some(_) => {}
        }
        // Mostly the whole head is there at once, and is fine. Else the scan says what is wrong, or waits.
        let parsed = self.scan.is_fresh().then(|| parse(input, spare)).and_then(Result::ok);
        let (head, length) = match parsed {
            Some(parsed) => parsed,
            None => match self.scan.scan(input, MAX_LINE) {
                Scanned::NeedMore => return GateStep::NeedMore,
                Scanned::BareLf => return GateStep::Refuse(Refusal::BareLf),
                Scanned::TooLarge => return GateStep::Refuse(Refusal::HeadTooLarge),
                Scanned::FirstLineTooLong => return GateStep::Refuse(Refusal::UriTooLong),
                Scanned::End(length) => match parse(&input[..length], spare) {
                    Ok(parsed) => parsed,
                    Err(refusal) => return GateStep::Refuse(refusal),
                },
            },
        };
        self.scan = HeadScan::default();
        GateStep::Head { head, consumed: skipped + length }
    }

    /// True when a request has begun to arrive: the head deadline applies, not the idle time.
    pub fn started(input: &[u8]) -> bool {
        !matches!(input, [] | [b'\r'] | [b'\r', b'\n'])
    }
}

/// Parses the head that `input` begins with, and gives its length. Of what is wrong it tells the right reason only when
/// the input ends with the head.
fn parse(input: &[u8], spare: &mut Spare) -> Result<(RequestHead, usize), Refusal> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length > MAX_HEAD => return Err(Refusal::HeadTooLarge),
        Ok(httparse::Status::Complete(length)) => &input[..length],
        Ok(httparse::Status::Partial) => return Err(Refusal::RequestLine),
        Err(error) => return Err(diagnose(input, error)),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::RequestLine);
    };
    check_method(method.as_bytes())?;
    if target.len() > MAX_TARGET {
        return Err(Refusal::UriTooLong);
    }
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let mut lines = spare.lines.take();
    let kinds = collect(head, request.headers, &mut lines).ok_or(Refusal::BareLf)?;
    let options = read_options(head, &mut lines, kinds).map_err(|_| Refusal::ConnectionOptions)?;
    let meaning = Meaning::read(head, &lines, kinds)?;
    let body = meaning.framing(head, version)?;
    let host = meaning.host.ok_or(Refusal::HostMissing)?.bytes(head);
    let target = Target::read(spare.targets.take(), method, target, host)?;
    let upgrade = match meaning.upgrade {
        Some(token) if options.upgrade && version == Version::Http11 => Asked::read(token, head),
        _ => Asked::Nothing,
    };
    if upgrade != Asked::Nothing && !body.is_empty() {
        return Err(Refusal::UpgradeWithBody);
    }
    let keep_alive = !options.close && (version == Version::Http11 || options.keep_alive);
    let expects_continue = meaning.expects_continue(version)? && !body.is_empty();
    let mut text = spare.texts.take();
    text.clear();
    text.extend_from_slice(head);
    let parsed = RequestHead { target, text, lines, kinds, version, body, keep_alive, expects_continue, upgrade };
    Ok((parsed, head.len()))
}

fn check_method(method: &[u8]) -> Result<(), Refusal> {
    match method {
        b"CONNECT" | b"TRACE" => Err(Refusal::MethodNotAllowed),
        _ if method.len() > MAX_METHOD => Err(Refusal::Method),
        _ => Ok(()),
    }
}

/// The fields that decide how a request is framed and routed.
#[derive(Default)]
struct Meaning {
    host: Option<Span>,
    length: Option<Span>,
    coding: Option<Span>,
    coding_repeated: bool,
    upgrade: Option<Span>,
    expectation: Option<bool>,
}

impl Meaning {
    fn read(text: &[u8], lines: &[Line], kinds: Kinds) -> Result<Self, Refusal> {
        let mut meaning = Self::default();
        if !kinds.has(FieldKind::Host) {
            return Err(Refusal::HostMissing);
        }
        let mut upgrades = 0;
        for line in lines {
            match line.kind {
                FieldKind::Host => {
                    if meaning.host.replace(line.value).is_some() {
                        return Err(Refusal::HostRepeated);
                    }
                }
                FieldKind::ContentLength => {
                    if meaning.length.replace(line.value).is_some() {
                        return Err(Refusal::ContentLengthRepeated);
                    }
                }
                FieldKind::TransferEncoding => {
                    meaning.coding_repeated |= meaning.coding.replace(line.value).is_some();
                }
                FieldKind::Upgrade => {
                    upgrades += 1;
                    meaning.upgrade = (upgrades == 1).then_some(line.value);
                }
                FieldKind::Expect => {
                    let known = line.value.bytes(text).eq_ignore_ascii_case(b"100-continue");
                    meaning.expectation = Some(known && meaning.expectation != Some(false));
                }
                FieldKind::EndToEnd
                | FieldKind::Connection
                | FieldKind::KeepAlive
                | FieldKind::HopByHop
                | FieldKind::Nominated
                | FieldKind::ForwardedFor
                | FieldKind::ForwardedProto
                | FieldKind::ForwardedHost
                | FieldKind::Forwarded
                | FieldKind::Identity
                | FieldKind::Reserved
                | FieldKind::Underscored
                | FieldKind::Date
                | FieldKind::Cookie
                | FieldKind::RequestId
                | FieldKind::TraceParent
                | FieldKind::TraceState => {}
            }
        }
        Ok(meaning)
    }

    /// RFC 9112 (6.3), without any of its ways to mend a message.
    fn framing(&self, text: &[u8], version: Version) -> Result<Framing, Refusal> {
        match (self.length, self.coding) {
            (None, None) => Ok(Framing::None),
            (Some(_), Some(_)) => Err(Refusal::LengthAndChunked),
            (Some(length), None) => parse_length(length.bytes(text)).map(Framing::Length).ok_or(Refusal::ContentLength),
            (None, Some(_)) if self.coding_repeated || version == Version::Http10 => Err(Refusal::TransferEncoding),
            (None, Some(coding)) => match coding.bytes(text) {
                coding if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
                coding if is_other_coding(coding) => Err(Refusal::TransferCodingNotSupported),
                _ => Err(Refusal::TransferEncoding),
            },
        }
    }

    /// HTTP/1.0 has no expectations (RFC 9110, 10.1.1): they are ignored there.
    fn expects_continue(&self, version: Version) -> Result<bool, Refusal> {
        match (self.expectation, version) {
            (None, _) | (_, Version::Http10) => Ok(false),
            (Some(true), Version::Http11) => Ok(true),
            (Some(false), Version::Http11) => Err(Refusal::Expectation),
        }
    }
}

/// A registered coding, alone or before one `chunked`: well-formed, but not carried here.
fn is_other_coding(value: &[u8]) -> bool {
    let last = memchr::memrchr(b',', value).map_or(0, |at| at + 1);
    let coding = match value[last..].trim_ascii() {
        end if end.eq_ignore_ascii_case(b"chunked") => value[..last].strip_suffix(b",").unwrap_or_default(),
        _ => value,
    };
    ["gzip", "x-gzip", "deflate", "compress", "x-compress"]
        .iter()
        .any(|known| coding.trim_ascii().eq_ignore_ascii_case(known.as_bytes()))
}

/// Method, target and authority, as text of their own: all ASCII, and made canonical.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// The method, the target as it came, the Host field; path and host then changed in place.
    text: String,
    method: Span,
    path: Span,
    query: Option<Span>,
    authority: Span,
    host: Span,
    port: Option<u16>,
}

impl Target {
    /// Origin-form, or absolute-form with the authority of the Host field.
    fn read(mut text: Vec<u8>, method: &str, target: &str, host: &[u8]) -> Result<Self, Refusal> {
        text.clear();
        text.extend_from_slice(method.as_bytes());
        text.extend_from_slice(target.as_bytes());
        text.extend_from_slice(host);
        let (start, end) = (method.len(), method.len() + target.len());
        let (line, authority) = text.split_at_mut(end);
        let (host, port) = check_authority(authority).ok_or(Refusal::HostInvalid)?;
        let path = match line[start] {
            b'/' => start,
            _ => after_authority(line, start, authority)?,
        };
        let (path_end, query) = match memchr::memchr(b'?', &line[path..]) {
            Some(at) => (path + at, Some(Span::new(path + at + 1, end))),
            None => (end, None),
        };
        if let Some(query) = query {
            check_query(query.bytes(line))?;
        }
        let path = if path == path_end {
            // `http://host` and `http://host?query` mean `/`: the first slash before the authority stands for it.
            let slash = start + memchr::memchr(b'/', &line[start..]).ok_or(Refusal::TargetForm)?;
            Span::new(slash, slash + 1)
        } else {
            Span::new(path, path + canonical_path(&mut line[path..path_end])?)
        };
        let (authority, host) = (Span::new(end, text.len()), Span::new(end, end + host));
        let text = String::from_utf8(text).map_err(|_| Refusal::TargetByte)?;
        Ok(Self { text, method: Span::new(0, start), path, query, authority, host, port })
    }

    fn get(&self, part: Span) -> &str {
        &self.text[part.range()]
    }
}

/// Where the path of an absolute-form begins, once its authority is found to be the Host.
#[cold]
fn after_authority(line: &mut [u8], start: usize, host: &[u8]) -> Result<usize, Refusal> {
    let start = start + absolute_form(&line[start..]).ok_or(Refusal::TargetForm)?;
    let length = line[start..].iter().position(|b| matches!(b, b'/' | b'?'));
    let end = length.map_or(line.len(), |length| start + length);
    check_authority(&mut line[start..end]).ok_or(Refusal::HostInvalid)?;
    if line[start..end] == *host { Ok(end) } else { Err(Refusal::HostMismatch) }
}

/// The length of `http://` or `https://`.
fn absolute_form(target: &[u8]) -> Option<usize> {
    ["http://", "https://"]
        .iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme.as_bytes())))
        .map(|scheme| scheme.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    WebSocket,
    Other(Span),
}

impl Asked {
    fn read(token: Span, text: &[u8]) -> Self {
        match token.bytes(text) {
            value if value.eq_ignore_ascii_case(b"websocket") => Self::WebSocket,
            value if value.is_empty() || value.eq_ignore_ascii_case(b"h2c") => Self::Nothing,
            value if value.iter().all(|b| is_token(*b) || *b == b'/') => Self::Other(token),
            _ => Self::Nothing,
        }
    }
}

/// A well-formed request's head. Owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    target: Target,
    /// The head as read, which `lines` are stretches of.
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Of them, as they came.
    kinds: Kinds,
    version: Version,
    body: Framing,
    keep_alive: bool,
    expects_continue: bool,
    upgrade: Asked,
}

impl RequestHead {
    /// A token: `GET`. Never `CONNECT` or `TRACE`.
    pub fn method(&self) -> &str {
        self.target.get(self.target.method)
    }

    pub fn is_head(&self) -> bool {
        self.method() == "HEAD"
    }

    /// The canonical path, starting with `/`: see [`super::target`].
    pub fn path(&self) -> &str {
        self.target.get(self.target.path)
    }

    /// What follows `?`, as it came.
    pub fn query(&self) -> Option<&str> {
        self.target.query.map(|query| self.target.get(query))
    }

    /// Host and port of the one Host field.
    pub fn authority(&self) -> Authority<'_> {
        let Target { authority, host, port, .. } = self.target;
        Authority { host: self.target.get(host), port, text: self.target.get(authority) }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Never `UntilClose`. `Length(0)` when the client said so.
    pub fn body(&self) -> Framing {
        self.body
    }

    /// The client wants to use the connection again.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// There is a body and it waits for `100 Continue`.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Never together with a body.
    pub fn upgrade(&self) -> Option<Upgrade<'_>> {
        match self.upgrade {
            Asked::Nothing => None,
            Asked::WebSocket => Some(Upgrade::WebSocket),
            Asked::Other(token) => Some(Upgrade::Other(token.token(&self.text))),
        }
    }

    /// All header lines in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.lines.iter().map(|line| line.field(&self.text))
    }

    /// The values of all fields of that name, in any case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = if self.kinds.has(FieldKind::of(name.as_bytes())) { self.lines.as_slice() } else { &[] };
        let named = move |line: &&Line| line.name.bytes(&self.text).eq_ignore_ascii_case(name.as_bytes());
        lines.iter().filter(named).map(|line| line.value.bytes(&self.text))
    }

    /// The value of the first field of that name.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// What to send upstream for this request; override what policies change (`path` after stripping a prefix).
    pub fn line(&self) -> RequestLine<'_> {
        RequestLine {
            method: self.method(),
            path: self.path(),
            query: self.query(),
            authority: self.target.get(self.target.authority),
            body: self.body,
            upgrade: self.upgrade_token(),
            expect_continue: false,
        }
    }

    pub(super) fn upgrade_token(&self) -> Option<&str> {
        self.upgrade().map(|upgrade| match upgrade {
            Upgrade::WebSocket => "websocket",
            Upgrade::Other(token) => token,
        })
    }

    /// Gives the memory back.
    pub fn recycle(self, spare: &mut Spare) {
        spare.targets.give(self.target.text.into_bytes());
        spare.texts.give(self.text);
        spare.lines.give(self.lines);
    }
}
