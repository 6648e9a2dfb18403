//! Both ends of a WebSocket (RFC 6455) over which short messages go to and fro.

use std::time::Instant;

use anyhow::ensure;

use super::Tally;

/// Length of a message.
const MESSAGE: usize = 64;
/// Of a frame's head; masked, there are four more.
const HEAD: usize = 2;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The example of RFC 6455, 1.3, and what must be answered to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What an app says to it.
pub(super) const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A whole, final, binary frame of [`MESSAGE`] bytes begins so.
const BINARY: u8 = 0x82;
const LENGTH: u8 = MESSAGE as u8;

/// The fields that ask for it.
pub(super) fn fields() -> String {
    format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n")
}

/// Answers all frames that are whole with what they brought.
pub(super) fn answer(input: &mut Vec<u8>, output: &mut Vec<u8>) -> anyhow::Result<()> {
    const WHOLE: usize = HEAD + MASK.len() + MESSAGE;
    let mut used = 0;
    while let Some(frame) = input.get(used..used + WHOLE) {
        ensure!(frame.starts_with(&[BINARY, 0x80 | LENGTH]), "a proxy changed a frame");
        let (mask, masked) = frame[HEAD..].split_at(MASK.len());
        output.extend([BINARY, LENGTH]);
        output.extend(masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        used += WHOLE;
    }
    input.drain(..used);
    Ok(())
}

/// The client's end.
#[derive(Debug)]
pub(super) struct Echo {
    open: bool,
    input: Vec<u8>,
    number: u64,
    since: Instant,
}

impl Echo {
    pub(super) fn new() -> Self {
        Self { open: false, input: Vec::new(), number: 0, since: Instant::now() }
    }

    fn message(&self) -> [u8; MESSAGE] {
        let mut message = [b'.'; MESSAGE];
        message[..8].copy_from_slice(&self.number.to_le_bytes());
        message
    }

    fn say(&mut self, now: Instant, out: &mut Vec<u8>) {
        self.number += 1;
        self.since = now;
        out.extend([BINARY, 0x80 | LENGTH]);
        out.extend(MASK);
        out.extend(self.message().iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    pub(super) fn heard(
        &mut self,
        bytes: &[u8],
        now: Instant,
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        self.input.extend_from_slice(bytes);
        if !self.open {
            let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n").map(|at| at + 4) else { return Ok(()) };
            let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
            ensure!(head.starts_with("HTTP/1.1 101"), "no WebSocket: {:?}", head.lines().next());
            ensure!(head.contains(PROOF), "a WebSocket without its proof");
            self.open = true;
            self.input.drain(..end);
            self.say(now, out);
        }
        while let Some(frame) = self.input.get(..HEAD + MESSAGE) {
            ensure!(frame[..HEAD] == [BINARY, LENGTH] && frame[HEAD..] == self.message(), "another message came back");
            self.input.drain(..HEAD + MESSAGE);
            tally.answered(now - self.since);
            self.say(now, out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back_and_nothing_else_counts() {
        let (mut echo, mut out, mut tally, now) = (Echo::new(), Vec::new(), Tally::default(), Instant::now());
        echo.heard(ACCEPTED, now, &mut out, &mut tally).unwrap();
        let mut back = Vec::new();
        answer(&mut out, &mut back).unwrap();
        echo.heard(&back[..10], now, &mut out, &mut tally).unwrap();
        assert_eq!(tally.answers(), 0, "the half is not an answer");
        echo.heard(&back[10..], now, &mut out, &mut tally).unwrap();
        assert_eq!(tally.answers(), 1);
        assert!(echo.heard(&back, now, &mut out, &mut tally).is_err(), "an old one is no answer to the next");
    }

    #[test]
    fn a_refusal_is_no_websocket() {
        let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert!(Echo::new().heard(refused, Instant::now(), &mut Vec::new(), &mut Tally::default()).is_err());
    }
}
