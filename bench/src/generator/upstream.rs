//! The app behind the proxies: whatever is asked is answered at once, from memory.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, bail, ensure};

use super::echo;
use super::pattern::{self, Body};

/// The answer to most requests.
pub(crate) const SMALL: &[u8] = b"hello world\n";
const SMALL_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n";

/// Length of the answer that is downloaded.
pub(crate) const LARGE: u64 = 1 << 20;

/// What nearly every request begins with: it is not looked at any further.
const USUAL: &[u8] = b"GET /small ";

/// Of a request's head.
const MAX_HEAD: usize = 16 << 10;

/// One connection of a proxy.
#[derive(Debug)]
pub(super) struct Upstream {
    stream: TcpStream,
    state: State,
    /// What has come of a head, or of a frame.
    input: Vec<u8>,
    /// What the socket did not take yet, then the body.
    output: Vec<u8>,
    body: Body,
    /// Nothing follows what is being sent.
    closes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// A body that comes in: how much has come, of how much.
    Taking {
        taken: u64,
        length: u64,
    },
    Echo,
}

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Open { waits_to_write: bool },
    Closed,
}

impl Upstream {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (input, output, body) = (Vec::new(), Vec::new(), Body::default());
        Self { stream, state: State::Head, input, output, body, closes: false }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads, answers and writes as far as the socket goes. `taken` grows by the bytes of bodies.
    pub(super) fn ready(&mut self, scratch: &mut [u8], taken: &mut u64) -> anyhow::Result<After> {
        match self.moved(scratch, taken) {
            Ok(after) => Ok(after),
            Err(error) => match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
                // A proxy may give up a connection whenever it likes.
                Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(After::Closed),
                Some(_) | None => Err(error),
            },
        }
    }

    fn moved(&mut self, scratch: &mut [u8], taken: &mut u64) -> anyhow::Result<After> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Ok(After::Closed),
                Ok(n) => {
                    self.heard(&scratch[..n], taken)?;
                    if n < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.flush()?;
        let waits_to_write = !self.output.is_empty() || !self.body.is_sent();
        Ok(if self.closes && !waits_to_write { After::Closed } else { After::Open { waits_to_write } })
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.body.write_to(&mut self.stream)?)
    }

    fn heard(&mut self, bytes: &[u8], count: &mut u64) -> anyhow::Result<()> {
        match self.state {
            State::Head if self.input.is_empty() && bytes.starts_with(USUAL) && bytes.ends_with(b"\r\n\r\n") => {
                self.output.extend_from_slice(SMALL_ANSWER);
                Ok(())
            }
            State::Head => {
                self.input.extend_from_slice(bytes);
                let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n").map(|at| at + 4) else {
                    ensure!(self.input.len() <= MAX_HEAD, "a proxy sent a head that does not end");
                    return Ok(());
                };
                let input = std::mem::take(&mut self.input);
                self.answer(&input[..end])?;
                if input.len() > end { self.heard(&input[end..], count) } else { Ok(()) }
            }
            State::Taking { taken, length } => {
                ensure!(pattern::is_at(taken, bytes), "a proxy changed the body of a request");
                let taken = taken + bytes.len() as u64;
                *count += bytes.len() as u64;
                ensure!(taken <= length, "a proxy sent more than it said");
                self.state = State::Taking { taken, length };
                if taken == length {
                    self.state = State::Head;
                    self.say(length.to_string().as_bytes());
                }
                Ok(())
            }
            State::Echo => {
                self.input.extend_from_slice(bytes);
                echo::answer(&mut self.input, &mut self.output)
            }
        }
    }

    /// Answers a head, or goes on to what follows it.
    fn answer(&mut self, head: &[u8]) -> anyhow::Result<()> {
        let text = std::str::from_utf8(head).context("a proxy sent a head that is no text")?;
        let mut words = text.split(' ');
        match (words.next(), words.next()) {
            (Some("GET"), Some("/small")) => self.output.extend_from_slice(SMALL_ANSWER),
            (Some("GET"), Some("/seen")) => {
                self.closes = field(text, "connection").is_some_and(|option| option.eq_ignore_ascii_case("close"));
                self.say(head);
            }
            (Some("GET"), Some("/large")) => {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                self.output.extend_from_slice(answer.as_bytes());
                self.body = Body::of(LARGE);
            }
            (Some("GET"), Some("/echo")) => {
                self.output.extend_from_slice(echo::ACCEPTED);
                self.state = State::Echo;
            }
            (Some("POST"), Some("/upload")) => {
                let length = field(text, "content-length").context("a proxy sent an upload without its length")?;
                self.state = State::Taking { taken: 0, length: length.parse()? };
            }
            _ => bail!("a proxy asked for what nobody has asked it for: {:?}", text.lines().next()),
        }
        Ok(())
    }

    fn say(&mut self, body: &[u8]) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
        self.output.extend_from_slice(head.as_bytes());
        self.output.extend_from_slice(body);
    }
}

/// The value of the first field of this name.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}
