//! The client's end of HTTP/1.1: one request at a time, whose answer is looked at to its last byte.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::pattern::{self, Body};
use super::{Tally, upstream};

/// Of an answer's head.
const MAX_HEAD: usize = 16 << 10;

/// What is asked, and what must be answered to it with status 200.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) head: Vec<u8>,
    /// Length of the request's body.
    pub(crate) upload: u64,
    pub(crate) answer: Answer,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Text(Vec<u8>),
    /// So much of the pattern.
    Pattern(u64),
}

impl Answer {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Pattern(length) => *length,
        }
    }

    fn is_at(&self, position: u64, bytes: &[u8]) -> bool {
        match self {
            Self::Text(text) => {
                let at = usize::try_from(position).unwrap_or(usize::MAX);
                text.get(at..).is_some_and(|rest| rest.starts_with(bytes))
            }
            Self::Pattern(_) => pattern::is_at(position, bytes),
        }
    }
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Http1 {
    exchange: Arc<Exchange>,
    state: State,
    head: Vec<u8>,
    since: Instant,
    is_answered: bool,
    /// The request's, as far as it is not sent.
    pub(super) body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Head,
    /// How much of the answer has come.
    Body(u64),
}

impl Http1 {
    pub(super) fn new(exchange: Arc<Exchange>) -> Self {
        let (head, body) = (Vec::new(), Body::default());
        Self { exchange, state: State::Idle, head, since: Instant::now(), is_answered: false, body }
    }

    /// Whether what was asked has been answered; said once.
    pub(super) fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.is_answered)
    }

    /// `since`: when it was due.
    pub(super) fn ask(&mut self, since: Instant, out: &mut Vec<u8>) {
        self.since = since;
        self.state = State::Head;
        out.extend_from_slice(&self.exchange.head);
        self.body = Body::of(self.exchange.upload);
    }

    pub(super) fn heard(&mut self, bytes: &[u8], now: Instant, tally: &mut Tally) -> anyhow::Result<()> {
        match self.state {
            State::Idle => anyhow::bail!("an answer to nothing: {:?}", String::from_utf8_lossy(bytes)),
            State::Head if self.head.is_empty() => match end_of_head(bytes) {
                Some(end) => {
                    self.check(&bytes[..end])?;
                    self.body_came(0, &bytes[end..], now, tally)
                }
                None => {
                    self.head.extend_from_slice(bytes);
                    Ok(())
                }
            },
            State::Head => {
                self.head.extend_from_slice(bytes);
                ensure!(self.head.len() <= MAX_HEAD + pattern::CHUNK, "a head that does not end");
                let Some(end) = end_of_head(&self.head) else { return Ok(()) };
                let whole = std::mem::take(&mut self.head);
                self.check(&whole[..end])?;
                self.body_came(0, &whole[end..], now, tally)
            }
            State::Body(at) => self.body_came(at, bytes, now, tally),
        }
    }

    fn check(&self, head: &[u8]) -> anyhow::Result<()> {
        let text = std::str::from_utf8(head).context("a head that is no text")?;
        ensure!(
            text.starts_with("HTTP/1.1 200 "),
            "{:?} instead of status 200",
            text.lines().next().unwrap_or_default()
        );
        let length: u64 = upstream::field(text, "content-length").context("an answer without a length")?.parse()?;
        ensure!(length == self.exchange.answer.length(), "an answer of {length} bytes");
        Ok(())
    }

    fn body_came(&mut self, at: u64, bytes: &[u8], now: Instant, tally: &mut Tally) -> anyhow::Result<()> {
        let answer = &self.exchange.answer;
        ensure!(answer.is_at(at, bytes), "another body than the app's");
        let at = at + bytes.len() as u64;
        ensure!(at <= answer.length(), "an answer that is too long");
        tally.received(bytes.len() as u64);
        self.state = State::Body(at);
        if at == answer.length() {
            ensure!(self.body.is_sent(), "an answer before the request was sent");
            tally.answered(now.saturating_duration_since(self.since));
            (self.state, self.is_answered) = (State::Idle, true);
        }
        Ok(())
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Arc<Exchange> {
        let answer = Answer::Text(upstream::SMALL.to_vec());
        Arc::new(Exchange { head: b"GET /small HTTP/1.1\r\n\r\n".to_vec(), upload: 0, answer })
    }

    /// How many answers are counted of these pieces, or why they are none.
    fn check(pieces: &[&str], expected: Result<u64, &str>) {
        let (mut http, mut tally, now) = (Http1::new(small()), Tally::default(), Instant::now());
        http.ask(now, &mut Vec::new());
        let heard = pieces.iter().try_for_each(|piece| http.heard(piece.as_bytes(), now, &mut tally));
        let found = heard.map(|()| tally.answers()).map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{pieces:?}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found} for {pieces:?}"),
            (Ok(_) | Err(_), _) => panic!("{found:?} instead of {expected:?} for {pieces:?}"),
        }
    }

    #[test]
    fn only_the_apps_answer_counts() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n";
        check(&[head, "hello world\n"], Ok(1));
        check(&["HTTP/1.1 200 OK\r\ncon", "tent-length: 12\r\n\r\nhel", "lo world\n"], Ok(1));
        check(&[head, "hello"], Ok(0));
        check(&[head, "HELLO world\n"], Err("another body"));
        check(&[head, "hello world\n\n"], Err("another body"));
        check(&[head, "hello world\n", head], Err("answer to nothing"));
        check(&["HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nhello world\n"], Err("instead of status 200"));
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"], Err("11 bytes"));
        check(&["HTTP/1.1 200 OK\r\n\r\nhello world\n"], Err("without a length"));
    }
}
