//! Bodies: framed bytes → payload without a copy, and payload → framed bytes.

use std::ops::Range;

use super::MAX_CHUNK_EXTRAS;
use super::field::is_token;
use super::refusal::{BadUpstream, Refusal};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none and none is announced.
    None,
    Length(u64),
    Chunked,
    /// The end of the connection (responses only).
    UntilClose,
}

impl Framing {
    /// True when there is nothing to read.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }

    /// The length where it is known.
    pub fn length(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Length(n) => Some(n),
            Self::Chunked | Self::UntilClose => None,
        }
    }
}

/// Why bytes are not a body as announced. The connection is not to be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("chunk-size")]
    ChunkSize,
    #[error("chunk-size-overflow")]
    ChunkSizeOverflow,
    #[error("chunk-line")]
    ChunkLine,
    #[error("chunk-extension")]
    ChunkExtension,
    #[error("chunk-end")]
    ChunkEnd,
    #[error("chunk-extras-too-long")]
    ExtrasTooLong,
    #[error("trailer")]
    Trailer,
    #[error("trailer-framing-field")]
    TrailerFramingField,
    #[error("body-truncated")]
    Truncated,
}

impl From<BodyFault> for Refusal {
    fn from(fault: BodyFault) -> Self {
        if fault == BodyFault::Truncated { Self::BodyTruncated } else { Self::Body }
    }
}

impl From<BodyFault> for BadUpstream {
    fn from(fault: BodyFault) -> Self {
        if fault == BodyFault::Truncated { Self::BodyTruncated } else { Self::Body }
    }
}

/// One step: `payload` is a range of the input to pass on, `consumed` bytes of the input are done with.
/// An empty payload means: more input is needed, or the body is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub payload: Range<usize>,
    pub consumed: usize,
}

/// Takes a body out of its framing.
#[derive(Debug, Clone)]
pub struct BodyDecoder {
    state: State,
    /// Payload bytes so far.
    payload: u64,
    /// Bytes of chunk extensions and trailers so far.
    extras: usize,
}

/// Where in a body the next byte stands. The chunk grammar (RFC 9112, 7.1) with CRLF only, and without blanks before an
/// extension (they are bad whitespace there, and a smuggler's tool).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Payload of known length; `u64` is what is left.
    Length(u64),
    UntilClose,
    Size {
        size: u64,
        digits: bool,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    TrailerStart,
    TrailerName(TrailerName),
    TrailerValue,
    TrailerLf,
    LastLf,
    Complete,
}

/// Follows a trailer's name as far as needed to know a framing field: all names that begin with one are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TrailerName {
    length: u8,
    /// One bit for each of [`FORBIDDEN_TRAILERS`] that the name may still be.
    candidates: u8,
}

/// Fields that frame, route or authenticate a message: never in a trailer (RFC 9110, 6.5.1).
pub(crate) const FORBIDDEN_TRAILERS: [&[u8]; 8] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"trailer",
    b"upgrade",
    b"authorization",
    b"content-encoding",
];

impl TrailerName {
    fn start(first: u8) -> Result<Self, BodyFault> {
        Self { length: 0, candidates: u8::MAX }.push(first)
    }

    fn push(self, b: u8) -> Result<Self, BodyFault> {
        if !is_token(b) {
            return Err(BodyFault::Trailer);
        }
        let at = usize::from(self.length);
        let stays = |name: &[u8]| name.get(at).is_some_and(|wanted| *wanted == b.to_ascii_lowercase());
        let candidates = FORBIDDEN_TRAILERS
            .iter()
            .enumerate()
            .filter(|(bit, name)| self.candidates & (1 << bit) != 0 && stays(name))
            .fold(0, |mask, (bit, _)| mask | 1 << bit);
        Ok(Self { length: self.length.saturating_add(1), candidates })
    }

    fn end(self) -> Result<(), BodyFault> {
        let whole =
            |(bit, name): (usize, &&[u8])| self.candidates & (1 << bit) != 0 && name.len() == usize::from(self.length);
        if FORBIDDEN_TRAILERS.iter().enumerate().any(whole) { Err(BodyFault::TrailerFramingField) } else { Ok(()) }
    }
}

impl BodyDecoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: false },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, payload: 0, extras: 0 }
    }

    /// Takes the next stretch of payload. Call again with the input behind `consumed` while there is payload.
    /// Never consumes a byte behind the body's end.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyFault> {
        let mut at = 0;
        while let Some(b) = input.get(at) {
            match self.state {
                State::Length(left) | State::Chunk(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    let left = left - length as u64;
                    self.state = match (self.state, left) {
                        (State::Chunk(_), 0) => State::ChunkCr,
                        (State::Chunk(_), _) => State::Chunk(left),
                        (_, 0) => State::Complete,
                        (_, _) => State::Length(left),
                    };
                    return Ok(self.found(at, length));
                }
                State::UntilClose => return Ok(self.found(at, input.len() - at)),
                State::Complete => break,
                State::Size { .. }
                | State::Extension { .. }
                | State::SizeLf { .. }
                | State::ChunkCr
                | State::ChunkLf
                | State::TrailerStart
                | State::TrailerName(_)
                | State::TrailerValue
                | State::TrailerLf
                | State::LastLf => self.state = self.step(*b)?,
            }
            at += 1;
        }
        Ok(Decoded { payload: at..at, consumed: at })
    }

    fn found(&mut self, at: usize, length: usize) -> Decoded {
        self.payload += length as u64;
        Decoded { payload: at..at + length, consumed: at + length }
    }

    /// One byte of what lies around the payload of chunks.
    fn step(&mut self, b: u8) -> Result<State, BodyFault> {
        Ok(match (self.state, b) {
            (State::Size { digits: true, size }, b'\r') => State::SizeLf { size },
            (State::Size { digits: true, size }, b';') => self.extra(State::Extension { size })?,
            (State::Size { size, .. }, _) => State::Size { size: push_digit(size, b)?, digits: true },
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { .. }, b'\t' | b' '..=b'~' | 0x80..) => self.extra(self.state)?,
            (State::Extension { .. }, _) => return Err(BodyFault::ChunkExtension),
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => State::Chunk(size),
            (State::SizeLf { .. }, _) => return Err(BodyFault::ChunkLine),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { size: 0, digits: false },
            (State::ChunkCr | State::ChunkLf, _) => return Err(BodyFault::ChunkEnd),
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart, _) => self.extra(State::TrailerName(TrailerName::start(b)?))?,
            (State::TrailerName(name), b':') => {
                name.end()?;
                self.extra(State::TrailerValue)?
            }
            (State::TrailerName(name), _) => self.extra(State::TrailerName(name.push(b)?))?,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => self.extra(self.state)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Complete,
            (State::TrailerValue | State::TrailerLf | State::LastLf, _) => return Err(BodyFault::Trailer),
            (State::Length(_) | State::Chunk(_) | State::UntilClose | State::Complete, _) => self.state,
        })
    }

    fn extra(&mut self, next: State) -> Result<State, BodyFault> {
        self.extras += 1;
        if self.extras > MAX_CHUNK_EXTRAS { Err(BodyFault::ExtrasTooLong) } else { Ok(next) }
    }

    /// The peer closed its side: fine only where the body is complete or ends so.
    pub fn end_of_input(&mut self) -> Result<(), BodyFault> {
        if matches!(self.state, State::UntilClose | State::Complete) {
            self.state = State::Complete;
            return Ok(());
        }
        Err(BodyFault::Truncated)
    }

    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Payload bytes so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload
    }
}

/// Hexadecimal digits only: no sign, no `0x`, no blank, no overflow. Leading zeros are fine, at most 16 digits matter.
fn push_digit(size: u64, b: u8) -> Result<u64, BodyFault> {
    let digit = char::from(b).to_digit(16).ok_or(BodyFault::ChunkSize)?;
    if size >> 60 != 0 {
        return Err(BodyFault::ChunkSizeOverflow);
    }
    Ok(size << 4 | u64::from(digit))
}

/// The bytes around a stretch of payload, for a vectored write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    prefix: [u8; 18],
    prefix_len: u8,
    suffix: &'static [u8],
}

impl Frame {
    fn chunk(length: u64) -> Self {
        let digits = (u64::BITS - length.leading_zeros()).div_ceil(4).max(1) as usize;
        let mut prefix = [0; 18];
        for (index, place) in prefix[..digits].iter_mut().enumerate() {
            *place = b"0123456789abcdef"[(length >> (4 * (digits - 1 - index)) & 0xf) as usize];
        }
        prefix[digits..digits + 2].copy_from_slice(b"\r\n");
        #[expect(clippy::cast_possible_truncation, reason = "at most 16 digits and two bytes")]
        Self { prefix, prefix_len: digits as u8 + 2, suffix: b"\r\n" }
    }

    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_len)]
    }
    pub fn suffix(&self) -> &'static [u8] {
        self.suffix
    }
}

/// What was given is not what was announced. The connection is not to be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LengthMismatch {
    #[error("more payload than announced")]
    Over,
    #[error("less payload than announced")]
    Under,
}

/// Puts payload into framing.
#[derive(Debug, Clone)]
pub struct BodyEncoder {
    /// `Length`: what is left.
    framing: Framing,
}

impl BodyEncoder {
    pub fn new(framing: Framing) -> Self {
        Self { framing }
    }

    /// The bytes around the next `len` bytes of payload.
    pub fn frame(&mut self, len: usize) -> Result<Frame, LengthMismatch> {
        let bare = Frame { prefix: [0; 18], prefix_len: 0, suffix: b"" };
        match self.framing {
            _ if len == 0 => Ok(bare),
            Framing::None => Err(LengthMismatch::Over),
            Framing::Length(left) => {
                let left = left.checked_sub(len as u64).ok_or(LengthMismatch::Over)?;
                self.framing = Framing::Length(left);
                Ok(bare)
            }
            Framing::Chunked => Ok(Frame::chunk(len as u64)),
            Framing::UntilClose => Ok(bare),
        }
    }

    /// Appends framed payload. Nothing for an empty one.
    pub fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), LengthMismatch> {
        let frame = self.frame(payload.len())?;
        out.extend_from_slice(frame.prefix());
        out.extend_from_slice(payload);
        out.extend_from_slice(frame.suffix());
        Ok(())
    }

    /// The payload is complete: the last bytes to send. Nothing may follow.
    pub fn finish(&mut self) -> Result<&'static [u8], LengthMismatch> {
        match std::mem::replace(&mut self.framing, Framing::None) {
            Framing::None | Framing::Length(0) | Framing::UntilClose => Ok(b""),
            Framing::Length(_) => Err(LengthMismatch::Under),
            Framing::Chunked => Ok(b"0\r\n\r\n"),
        }
    }
}
