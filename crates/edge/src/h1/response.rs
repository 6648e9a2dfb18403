//! Bytes of an upstream → interim responses and one final response.

use std::mem::MaybeUninit;
use std::time::Duration;

use super::body::Framing;
use super::field::{Field, FieldKind, Kinds, Line, Options, Span, Spare, collect, parse_length, read_options};
use super::gate::{RequestHead, Version};
use super::head::{HeadScan, Scanned};
use super::refusal::BadUpstream;
use super::write::ResponseLine;
use super::{MAX_FIELDS, MAX_HEAD, MAX_INTERIM};

/// Reads the responses to one request.
#[derive(Debug, Clone)]
pub struct ResponseParser {
    to_head: bool,
    /// The protocol asked for. Only then does it allocate.
    upgrade: Option<Box<str>>,
    interim: u8,
    scan: HeadScan,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ResponseStep {
    /// Read more behind the input and call again with all of it.
    NeedMore,
    /// A 1xx other than 101, dropped: a client that waits for 100 is answered by the edge. Call again behind `consumed`.
    Interim { status: u16, consumed: usize },
    /// The final response, 101 included: behind it comes its body or the tunnel.
    Head { head: ResponseHead, consumed: usize },
    /// Answer 502 and close the upstream's connection.
    Bad(BadUpstream),
}

impl ResponseParser {
    /// For the response to a request that was sent with `head.line()`.
    pub fn new(head: &RequestHead) -> Self {
        Self::for_request(head.is_head(), head.upgrade_token())
    }

    /// `to_head`: the method was HEAD. `upgrade`: the protocol that was asked for.
    pub fn for_request(to_head: bool, upgrade: Option<&str>) -> Self {
        Self { to_head, upgrade: upgrade.map(Into::into), interim: 0, scan: HeadScan::default() }
    }

    /// Reads `input`, all that was received since the request or since the last interim response. Each byte is looked
    /// at once; the outcome does not depend on the pieces they came in.
    pub fn read(&mut self, input: &[u8], spare: &mut Spare) -> ResponseStep {
        if !input.iter().zip(b"HTTP/1.").all(|(read, wanted)| read == wanted) {
            return ResponseStep::Bad(BadUpstream::StatusLine);
        }
        // Mostly the whole head is there at once, and is fine. Else the scan says what is wrong, or waits.
        let parsed = self.scan.is_fresh().then(|| self.parse(input, spare)).and_then(Result::ok);
        let (parsed, consumed) = match parsed {
            Some(parsed) => parsed,
            None => match self.scan.scan(input, MAX_HEAD) {
                Scanned::NeedMore => return ResponseStep::NeedMore,
                Scanned::BareLf => return ResponseStep::Bad(BadUpstream::BareLf),
                Scanned::TooLarge | Scanned::FirstLineTooLong => return ResponseStep::Bad(BadUpstream::HeadTooLarge),
                Scanned::End(length) => match self.parse(&input[..length], spare) {
                    Ok(parsed) => parsed,
                    Err(bad) => return ResponseStep::Bad(bad),
                },
            },
        };
        self.scan = HeadScan::default();
        match parsed {
            Parsed::Final(head) => ResponseStep::Head { head, consumed },
            Parsed::Interim(status) if self.interim < MAX_INTERIM => {
                self.interim += 1;
                ResponseStep::Interim { status, consumed }
            }
            Parsed::Interim(_) => ResponseStep::Bad(BadUpstream::TooManyInterim),
        }
    }

    /// The head that `input` begins with, and its length.
    fn parse(&self, input: &[u8], spare: &mut Spare) -> Result<(Parsed, usize), BadUpstream> {
        let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let head = match parser.parse_response_with_uninit_headers(&mut response, input, &mut headers) {
            Ok(httparse::Status::Complete(length)) if length > MAX_HEAD => return Err(BadUpstream::HeadTooLarge),
            Ok(httparse::Status::Complete(length)) => &input[..length],
            Ok(httparse::Status::Partial) => return Err(BadUpstream::StatusLine),
            Err(error) => return Err(blame(error)),
        };
        let (Some(version), Some(status @ 100..)) = (response.version, response.code) else {
            return Err(BadUpstream::StatusLine);
        };
        if matches!(status, 100 | 102..200) {
            let mut lines = Vec::new();
            collect(head, response.headers, &mut lines).ok_or(BadUpstream::BareLf)?;
            return Ok((Parsed::Interim(status), head.len()));
        }
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        let mut lines = spare.lines.take();
        let kinds = collect(head, response.headers, &mut lines).ok_or(BadUpstream::BareLf)?;
        let mut text = spare.texts.take();
        text.clear();
        text.extend_from_slice(head);
        self.assemble(text, lines, kinds, status, version).map(|parsed| (Parsed::Final(parsed), head.len()))
    }

    fn assemble(
        &self,
        text: Vec<u8>,
        mut lines: Vec<Line>,
        kinds: Kinds,
        status: u16,
        version: Version,
    ) -> Result<ResponseHead, BadUpstream> {
        let options = read_options(&text, &mut lines, kinds).map_err(|_| BadUpstream::ConnectionOptions)?;
        let announced = Announced::read(&text, &lines)?;
        let framing = announced.framing(version)?;
        let bodiless = self.to_head || matches!(status, 101 | 204 | 304);
        let body = if bodiless { Framing::None } else { framing };
        let upgrade = match (status, announced.upgrade) {
            (101, Some(protocol)) => Some(self.accepted(&text, protocol, options)?),
            (101, None) => return Err(BadUpstream::UnaskedUpgrade),
            _ => None,
        };
        let persistent = !options.close && (version == Version::Http11 || options.keep_alive);
        let keep_alive = persistent && body != Framing::UntilClose && status != 101;
        let keep_alive_timeout = announced.keep_alive.and_then(|value| timeout(value.bytes(&text)));
        let content_length = announced.length.filter(|_| !matches!(status, 101 | 204));
        Ok(ResponseHead { status, body, content_length, keep_alive, keep_alive_timeout, upgrade, text, lines })
    }

    /// 101 must name the protocol that was asked for.
    fn accepted(&self, text: &[u8], protocol: Span, options: Options) -> Result<Span, BadUpstream> {
        let asked =
            self.upgrade.as_deref().is_some_and(|asked| protocol.bytes(text).eq_ignore_ascii_case(asked.as_bytes()));
        if asked && options.upgrade { Ok(protocol) } else { Err(BadUpstream::UnaskedUpgrade) }
    }
}

enum Parsed {
    Interim(u16),
    Final(ResponseHead),
}

#[cold]
fn blame(error: httparse::Error) -> BadUpstream {
    match error {
        httparse::Error::TooManyHeaders => BadUpstream::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => BadUpstream::Field,
        httparse::Error::Status | httparse::Error::Token | httparse::Error::Version => BadUpstream::StatusLine,
    }
}

/// What a response's fields say about its framing and its connection.
#[derive(Default)]
struct Announced {
    length: Option<u64>,
    chunked: bool,
    upgrade: Option<Span>,
    keep_alive: Option<Span>,
}

impl Announced {
    fn read(text: &[u8], lines: &[Line]) -> Result<Self, BadUpstream> {
        let mut announced = Self::default();
        for line in lines {
            let value = line.value.bytes(text);
            match line.kind {
                FieldKind::ContentLength => {
                    let length = parse_length(value).ok_or(BadUpstream::ContentLength)?;
                    if announced.length.replace(length).is_some() {
                        return Err(BadUpstream::ContentLengthRepeated);
                    }
                }
                FieldKind::TransferEncoding => {
                    if announced.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadUpstream::TransferEncoding);
                    }
                    announced.chunked = true;
                }
                FieldKind::Upgrade => announced.upgrade = Some(line.value),
                FieldKind::KeepAlive => announced.keep_alive = Some(line.value),
                FieldKind::EndToEnd
                | FieldKind::Host
                | FieldKind::Connection
                | FieldKind::Expect
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
        Ok(announced)
    }

    fn framing(&self, version: Version) -> Result<Framing, BadUpstream> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(BadUpstream::LengthAndChunked),
            (None, true) if version == Version::Http10 => Err(BadUpstream::TransferEncoding),
            (None, true) => Ok(Framing::Chunked),
            (Some(length), false) => Ok(Framing::Length(length)),
            (None, false) => Ok(Framing::UntilClose),
        }
    }
}

/// `timeout=5, max=100` → 5 s.
fn timeout(value: &[u8]) -> Option<Duration> {
    value.split(|b| *b == b',').find_map(|parameter| {
        let (name, seconds) = parameter.split_at(memchr::memchr(b'=', parameter)?);
        let named = name.trim_ascii().eq_ignore_ascii_case(b"timeout");
        named.then(|| parse_length(seconds[1..].trim_ascii()).map(Duration::from_secs))?
    })
}

/// A well-formed final response's head. Owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    text: Vec<u8>,
    lines: Vec<Line>,
    status: u16,
    body: Framing,
    content_length: Option<u64>,
    keep_alive: bool,
    keep_alive_timeout: Option<Duration>,
    upgrade: Option<Span>,
}

impl ResponseHead {
    /// 101, or 200 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How the body comes from the upstream. `None` for 101, 204, 304 and answers to HEAD.
    pub fn body(&self) -> Framing {
        self.body
    }

    /// What `Content-Length` says, also where there is no body (HEAD, 304).
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The upstream keeps the connection open.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// `Keep-Alive: timeout=SECONDS`.
    pub fn keep_alive_timeout(&self) -> Option<Duration> {
        self.keep_alive_timeout
    }

    /// 101: the connection is a tunnel from here on.
    pub fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// All header lines in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.lines.iter().map(|line| line.field(&self.text))
    }

    /// The values of all fields of that name, in any case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |line: &&Line| line.name.bytes(&self.text).eq_ignore_ascii_case(name.as_bytes());
        self.lines.iter().filter(named).map(|line| line.value.bytes(&self.text))
    }

    /// The value of the first field of that name.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// What to send to a client of this version: chunked or until close where the length is not known.
    pub fn line(&self, client: Version, keep_alive: bool) -> ResponseLine<'_> {
        let body = match (self.body, client) {
            (Framing::None | Framing::Length(_), _) => self.body,
            (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        };
        ResponseLine {
            status: self.status,
            body,
            announced: self.content_length,
            version: client,
            keep_alive: keep_alive && body != Framing::UntilClose,
            upgrade: self.upgrade.map(|protocol| protocol.token(&self.text)),
            date: None,
        }
    }

    /// Gives the memory back.
    pub fn recycle(self, spare: &mut Spare) {
        spare.texts.give(self.text);
        spare.lines.give(self.lines);
    }
}
