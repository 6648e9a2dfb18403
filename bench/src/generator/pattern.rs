//! Bytes that say where they stand: what moves large bodies wrongly is noticed, wherever it cuts them.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::LazyLock;

/// How much is written or compared at once.
pub(super) const CHUNK: usize = 128 << 10;

/// A prime, so that no buffer's size is a multiple of it.
const PERIOD: usize = 251;

static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..CHUNK + PERIOD).map(|at| u8::try_from(at % PERIOD).expect("less than 256")).collect());

/// At most [`CHUNK`] bytes of a body, from this position on.
fn from(position: u64, length: usize) -> &'static [u8] {
    let begin = usize::try_from(position % PERIOD as u64).expect("less than 256");
    &PATTERN[begin..begin + length.min(CHUNK)]
}

/// Whether these bytes stand where they should.
pub(super) fn is_at(position: u64, mut bytes: &[u8]) -> bool {
    let mut at = position;
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(bytes.len().min(CHUNK));
        if now != from(at, now.len()) {
            return false;
        }
        at += now.len() as u64;
        bytes = later;
    }
    true
}

/// A body that is on its way out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Body {
    at: u64,
    length: u64,
}

impl Body {
    pub(super) fn of(length: u64) -> Self {
        Self { at: 0, length }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.at == self.length
    }

    /// As much as the socket takes.
    pub(super) fn write_to(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        while !self.is_sent() {
            let left = usize::try_from(self.length - self.at).unwrap_or(CHUNK);
            match stream.write(from(self.at, left)) {
                Ok(sent) => self.at += sent as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_missing_doubled_or_changed_is_noticed() {
        let body = [from(0, CHUNK), from(CHUNK as u64, 1_000)].concat();
        assert!(is_at(0, &body));
        assert!(is_at(77, &body[77..]));
        assert!(!is_at(0, &body[1..]), "a byte is missing");
        assert!(!is_at(0, &[&body[..4_096], &body[..4_096]].concat()), "a block came twice");
        let mut changed = body.clone();
        changed[CHUNK + 3] ^= 1;
        assert!(!is_at(0, &changed));
    }
}
