//! What the proxies are asked, as values: a new line here is a new row of the tables, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::ensure;

use crate::generator::{Answer, Exchange, Fields, HOST, LARGE, Load, Round, SMALL, Sessions, Talk, tls_config};
use crate::peer::{Peer, TOKEN, TOKEN_FIELD};

/// Length of a request that is uploaded.
const UPLOAD: u64 = 100 << 20;

/// Of the handshakes of a round that is about resumed ones, so many must be; the first have nothing to resume.
const RESUMED: f64 = 0.95;

/// Of a hundred requests that are due in a round, so many must be answered in it.
const KEPT: u64 = 95;

/// Like a browser's: eleven fields with the host and the token.
const FIELDS: [(&str, &str); 10] = [
    ("user-agent", "bowline-bench/1"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, br"),
    ("referer", "http://bench.localhost/"),
    ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ("cache-control", "no-cache"),
    ("pragma", "no-cache"),
    ("dnt", "1"),
    (TOKEN_FIELD, TOKEN),
];

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) what: What,
    pub(crate) connections: usize,
    /// Requests are due at half of what the slowest proxy can do, and latencies count from when they were.
    pub(crate) is_paced: bool,
    pub(crate) unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Small,
    /// A connection for each request; `Some`: over TLS 1.3.
    Connection(Option<Sessions>),
    /// HTTP/2 over TLS, so many requests at once on each connection.
    Streams(usize),
    Download,
    Upload,
    Echo,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Requests,
    Handshakes,
    Messages,
    /// Of 10⁶ bytes.
    Megabytes,
}

impl Unit {
    /// One of it, and many in a second.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Requests => ("request", "requests/s"),
            Self::Handshakes => ("handshake", "handshakes/s"),
            Self::Messages => ("message", "messages/s"),
            Self::Megabytes => ("MB", "MB/s"),
        }
    }
}

const fn scenario(name: &'static str, about: &'static str, what: What, connections: usize, unit: Unit) -> Scenario {
    Scenario { name, about, what, connections, is_paced: false, unit }
}

pub(crate) const ALL: [Scenario; 10] = [
    scenario("small", "12-byte answers, 64 kept connections", What::Small, 64, Unit::Requests),
    scenario("connect", "a connection for each request, 32 at once", What::Connection(None), 32, Unit::Requests),
    scenario(
        "handshake",
        "a whole TLS 1.3 handshake for each request, 32 at once",
        What::Connection(Some(Sessions::Fresh)),
        32,
        Unit::Handshakes,
    ),
    scenario(
        "resume",
        "a resumed TLS 1.3 handshake for each request, 32 at once",
        What::Connection(Some(Sessions::Resumed)),
        32,
        Unit::Handshakes,
    ),
    scenario(
        "streams-10",
        "HTTP/2 over TLS, 4 connections with 10 requests each",
        What::Streams(10),
        4,
        Unit::Requests,
    ),
    scenario(
        "streams-100",
        "HTTP/2 over TLS, 4 connections with 100 requests each",
        What::Streams(100),
        4,
        Unit::Requests,
    ),
    scenario("download", "answers of 1 MiB, 8 kept connections", What::Download, 8, Unit::Megabytes),
    scenario("upload", "requests of 100 MiB, 4 kept connections", What::Upload, 4, Unit::Megabytes),
    scenario("echo", "WebSocket messages of 64 bytes to and fro, 64 connections", What::Echo, 64, Unit::Messages),
    Scenario {
        is_paced: true,
        ..scenario(
            "open",
            "12-byte answers at half of what the slowest can do, latency from when a request was due",
            What::Small,
            64,
            Unit::Requests,
        )
    },
];

impl Scenario {
    /// It at a proxy that listens there. What TLS keeps of a server is kept apart for each.
    pub(crate) fn load(&self, peer: &Peer) -> anyhow::Result<Load> {
        self.load_at(peer.http, peer.https, HOST)
    }

    pub(crate) fn load_at(&self, http: SocketAddr, https: SocketAddr, host: &str) -> anyhow::Result<Load> {
        let small = || Answer::Text(SMALL.to_vec());
        let kept = |path, answer| Talk::Kept(Arc::new(Exchange { head: get(host, path, ""), upload: 0, answer }));
        let fresh = || Exchange { head: get(host, "/small", "Connection: close\r\n"), upload: 0, answer: small() };
        let (tls, talk) = match self.what {
            What::Small => (None, kept("/small", small())),
            What::Download => (None, kept("/large", Answer::Pattern(LARGE))),
            What::Connection(sessions) => {
                let tls = sessions.map(|sessions| tls_config(sessions, b"http/1.1")).transpose()?;
                (tls, Talk::Fresh(Arc::new(fresh())))
            }
            What::Streams(streams) => (
                Some(tls_config(Sessions::Fresh, b"h2")?),
                Talk::Streams(Fields::new(host, "/small", &FIELDS), streams),
            ),
            What::Upload => {
                let answer = Answer::Text(UPLOAD.to_string().into_bytes());
                let length = format!("Content-Length: {UPLOAD}\r\n");
                let head = head("POST", host, "/upload", &length).into_bytes();
                (None, Talk::Kept(Arc::new(Exchange { head, upload: UPLOAD, answer })))
            }
            What::Echo => (None, Talk::Echo(fields(host))),
        };
        let address = if tls.is_some() { https } else { http };
        Ok(Load { address, tls, talk, connections: self.connections, rate: None })
    }

    /// Whether a round was what it is about.
    pub(crate) fn check(&self, round: &Round) -> anyhow::Result<()> {
        if self.is_paced {
            ensure!(
                round.requests * 100 >= round.due * KEPT,
                "{} of {} requests were answered",
                round.requests,
                round.due
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
        let share = round.resumed as f64 / round.handshakes.max(1) as f64;
        match self.what {
            What::Connection(Some(Sessions::Fresh)) => {
                ensure!(round.resumed == 0, "{} handshakes were resumed", round.resumed);
            }
            What::Connection(Some(Sessions::Resumed)) => {
                ensure!(share >= RESUMED, "{:.0} % of the handshakes were resumed", 100.0 * share);
            }
            What::Small | What::Connection(None) | What::Streams(_) | What::Download | What::Upload | What::Echo => {}
        }
        Ok(())
    }

    /// How much was done in a round.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
    pub(crate) fn amount(&self, round: &Round) -> f64 {
        match (self.unit, self.what) {
            (Unit::Megabytes, What::Upload) => round.taken as f64 / 1e6,
            (Unit::Megabytes, _) => round.received as f64 / 1e6,
            (Unit::Requests | Unit::Handshakes | Unit::Messages, _) => round.requests as f64,
        }
    }
}

/// The fields of all requests, with the host.
fn fields(host: &str) -> String {
    let each = FIELDS.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    std::iter::once(format!("Host: {host}\r\n")).chain(each).collect()
}

fn head(method: &str, host: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\n{}{more}\r\n", fields(host))
}

/// A request without a body. `more`: further fields, each with its end of line.
pub(crate) fn get(host: &str, path: &str, more: &str) -> Vec<u8> {
    head("GET", host, path, more).into_bytes()
}

/// One that is let in by nothing that it says.
pub(crate) fn without_token(host: &str, path: &str, more: &str) -> Vec<u8> {
    let text = head("GET", host, path, more);
    let kept: Vec<&str> = text.split_inclusive("\r\n").filter(|line| !line.starts_with(TOKEN_FIELD)).collect();
    kept.concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_one_scenarios() {
        let mut names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn what_is_not_to_be_let_in_says_no_token() {
        let text = String::from_utf8(without_token("a", "/", "X: y\r\n")).unwrap();
        assert!(!text.contains(TOKEN));
        assert!(text.starts_with("GET / HTTP/1.1\r\nHost: a\r\n") && text.ends_with("X: y\r\n\r\n"), "{text}");
    }
}
