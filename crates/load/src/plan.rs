//! What a run is: where it goes, how often, with what, and what is expected of the answers.

use std::fmt;
use std::time::Duration;

use bowline_core::units::Share;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::upload::Upload;
use crate::verdict::Goals;

/// Kept connections, and so requests under way at once over HTTP/1.1, unless a plan says otherwise.
pub const CONNECTIONS: usize = 64;
/// Requests under way at once on one connection of HTTP/2.
pub const STREAMS: usize = 32;
/// Connections at most: each takes a descriptor and some memory.
pub const MAX_CONNECTIONS: usize = 20_000;
/// How long a request may wait for a connection, and then for its answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Rates above this are not what one machine generates.
pub const MAX_RATE: f64 = 1_000_000.0;
/// Of an answer, so much is kept to be compared with an expected text.
pub(crate) const MAX_EXPECTED_BODY: usize = 1 << 20;

/// All that a run is made of. The same plan with the same seed asks for the same things at the same times.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: Target,
    /// PEM of the certificates that are trusted over TLS; nothing else is.
    pub roots: Vec<u8>,
    pub protocol: Protocol,
    pub pace: Pace,
    /// At the pace's first rate, before anything is measured.
    pub warm_up: Duration,
    pub duration: Duration,
    /// Kept connections at most, over all threads.
    pub connections: usize,
    /// Requests under way at once per connection of HTTP/2.
    pub streams: usize,
    /// The part of the requests that go over a connection of their own, with a whole TLS handshake.
    pub new_connections: Share,
    /// Drawn by their weights. Never empty.
    pub requests: Vec<Template>,
    /// Of every answer, until [`crate::Load::expect`] says otherwise.
    pub expect: Expect,
    /// Of the run as a whole.
    pub goals: Goals,
    pub timeout: Duration,
    /// Each has an event loop of its own, and takes every so-manieth request.
    pub threads: usize,
    pub seed: u64,
}

impl Plan {
    /// 100 requests of `GET` a second for 10 s, kept connections, any status from 200 to 299.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            roots: Vec::new(),
            protocol: Protocol::Http1,
            pace: Pace::Open { from: PerSecond(100.0), to: PerSecond(100.0), gaps: Gaps::Even },
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(10),
            connections: CONNECTIONS,
            streams: STREAMS,
            new_connections: Share::default(),
            requests: vec![Template::new(Method::GET)],
            expect: Expect::default(),
            goals: Goals::default(),
            timeout: TIMEOUT,
            threads: 1,
            seed: 1,
        }
    }

    /// Requests that can be under way at once on this thread, counted from 0.
    pub(crate) fn slots(&self, thread: usize) -> usize {
        self.connections_of(thread) * if self.protocol == Protocol::Http2 { self.streams } else { 1 }
    }

    /// Over all threads as many as were said.
    pub(crate) fn connections_of(&self, thread: usize) -> usize {
        self.connections / self.threads + usize::from(thread < self.connections % self.threads)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// By ALPN over TLS, with prior knowledge without.
    Http2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// By a schedule, whatever the server does. The rate goes evenly from `from` to `to`; equal, it is constant.
    Open { from: PerSecond, to: PerSecond, gaps: Gaps },
    /// The next one when the one before is answered, on every connection: what `wrk` and `h2load` do. It measures
    /// throughput; of latencies it hides what a stall delays, since nothing is asked meanwhile.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    Even,
    /// As independent visitors come: gaps are exponentially distributed.
    Poisson,
}

/// Requests a second: finite, from 0 to [`MAX_RATE`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct PerSecond(pub(crate) f64);

impl PerSecond {
    pub fn new(rate: f64) -> Option<Self> {
        (rate.is_finite() && (0.0..=MAX_RATE).contains(&rate)).then_some(Self(rate))
    }

    pub fn get(self) -> f64 {
        self.0
    }
}

/// One kind of request.
#[derive(Debug, Clone)]
pub struct Template {
    /// Against the weights of the others.
    pub weight: u32,
    pub method: Method,
    /// Besides `Host`, `User-Agent` and those of the body.
    pub headers: HeaderMap,
    pub body: Body,
}

impl Template {
    pub fn new(method: Method) -> Self {
        Self { weight: 1, method, headers: HeaderMap::new(), body: Body::None }
    }
}

#[derive(Debug, Clone)]
pub enum Body {
    None,
    Bytes(Bytes),
    /// Files of a folder, one per request, in turn.
    Upload(Upload),
}

/// What every answer must be; one that is not has failed.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    pub status: StatusExpect,
    pub headers: Vec<HeaderExpect>,
    /// Text that the body contains, in its first MiB.
    pub body: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatusExpect {
    /// 200 to 299.
    #[default]
    Success,
    /// By its first digit.
    Class(u16),
    Exactly(StatusCode),
}

#[derive(Debug, Clone)]
pub struct HeaderExpect {
    pub name: HeaderName,
    /// One of these; empty: any value.
    pub any_of: Vec<String>,
}

/// How an answer is not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Status,
    Header,
    Body,
}

impl StatusExpect {
    fn holds(self, status: StatusCode) -> bool {
        match self {
            Self::Success => status.is_success(),
            Self::Class(first) => status.as_u16() / 100 == first,
            Self::Exactly(one) => status == one,
        }
    }
}

impl Expect {
    /// `body`: its first MiB; what comes later is not looked at.
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Wrong> {
        if !self.status.holds(status) {
            return Some(Wrong::Status);
        }
        if !self.headers.iter().all(|expected| expected.holds(headers)) {
            return Some(Wrong::Header);
        }
        let found = self.body.as_ref().is_none_or(|text| memchr::memmem::find(body, text).is_some());
        (!found).then_some(Wrong::Body)
    }

    /// Whether the status alone tells that it failed.
    pub(crate) fn refuses(&self, status: StatusCode) -> bool {
        !self.status.holds(status)
    }
}

impl HeaderExpect {
    fn holds(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match self.any_of.as_slice() {
            [] => values.next().is_some(),
            wanted => values.any(|value| wanted.iter().any(|one| one.as_bytes() == value.as_bytes())),
        }
    }
}

/// Where a load goes: one host, one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub https: bool,
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("it is no URL")]
    Malformed,
    #[error("it has no scheme: http:// or https:// is wanted")]
    NoScheme,
    #[error("{0}:// is not http:// or https://")]
    Scheme(String),
    #[error("it holds a user or a password: say a header instead")]
    Credentials,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]` or `https://…`.
    ///
    /// # Errors
    /// Texts that are something else.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let uri: http::Uri = url.parse().map_err(|_| TargetError::Malformed)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(other) => return Err(TargetError::Scheme(other.to_owned())),
            None => return Err(TargetError::NoScheme),
        };
        let authority = uri.authority().ok_or(TargetError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::Credentials);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let default = if https { 443 } else { 80 };
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None => default,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(TargetError::Malformed)?,
        };
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { https, host, port, path })
    }

    /// As the `Host` header and `:authority` say it: without the scheme's own port.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Names that always mean this machine (RFC 6761, section 6.3).
    pub fn is_local_name(&self) -> bool {
        let host = self.host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        host == "localhost" || host.ends_with(".localhost")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written() {
        let check = |url: &str, https, host: &str, port, path: &str, written: &str| {
            let target = Target::parse(url).unwrap();
            let expected = Target { https, host: host.to_owned(), port, path: path.to_owned() };
            assert_eq!(target, expected, "{url}");
            assert_eq!(target.to_string(), written);
        };
        check("http://a.localhost", false, "a.localhost", 80, "/", "http://a.localhost/");
        check("https://a.b:8443/x?y=1", true, "a.b", 8443, "/x?y=1", "https://a.b:8443/x?y=1");
        check("https://[::1]:443/", true, "::1", 443, "/", "https://[::1]/");
    }

    #[test]
    fn threads_share_the_connections_that_were_said() {
        let mut plan = Plan::new(Target::parse("http://localhost/").unwrap());
        (plan.connections, plan.threads, plan.protocol) = (10, 4, Protocol::Http2);
        let all: Vec<usize> = (0..plan.threads).map(|thread| plan.connections_of(thread)).collect();
        assert_eq!((all, plan.slots(3)), (vec![3, 3, 2, 2], 2 * plan.streams));
    }

    #[test]
    fn what_is_no_target_says_why() {
        assert_eq!(Target::parse("localhost:8080"), Err(TargetError::NoScheme));
        assert_eq!(Target::parse("/x"), Err(TargetError::NoScheme));
        assert_eq!(Target::parse("ftp://a/"), Err(TargetError::Scheme("ftp".to_owned())));
        assert_eq!(Target::parse("http://u:p@a/"), Err(TargetError::Credentials));
        for bad in ["", "http://", "http://a:99999/", "http://a:0/", "http://a:/", "http://a b/"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_judged_by_status_then_headers_then_body() {
        let name = HeaderName::from_static("x-release");
        let expect = Expect {
            status: StatusExpect::Class(2),
            headers: vec![HeaderExpect { name: name.clone(), any_of: vec!["3".to_owned(), "4".to_owned()] }],
            body: Some(Bytes::from_static(b"hello")),
        };
        let check = |status: u16, release: Option<&str>, body: &str, expected| {
            let headers = release.map(|value| (name.clone(), value.parse().unwrap())).into_iter().collect();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(expect.judge(status, &headers, body.as_bytes()), expected, "{status} {release:?} {body}");
        };
        check(204, Some("4"), "say hello", None);
        check(301, Some("4"), "hello", Some(Wrong::Status));
        check(200, Some("5"), "hello", Some(Wrong::Header));
        check(200, None, "hello", Some(Wrong::Header));
        check(200, Some("3"), "help", Some(Wrong::Body));
    }
}
