//! The stream that a connection becomes when a session has begun: frames in both directions.
//!
//! A frame is one byte that says what it is, four bytes of length, big-endian, and so many bytes. Sans-IO: [`Frames`] cuts what
//! arrives, in whatever pieces, and refuses what is no frame as soon as that is seen.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::ClientError;
use crate::wire;

/// What is asked for and agreed to in the `Upgrade` header.
pub const PROTOCOL: &str = "bowline-session/1";
/// The same of a connection to a server: bytes, as they come.
pub const TUNNEL: &str = "bowline-tunnel/1";
/// The field that says what is asked for where a body cannot.
pub const SPEC: &str = "bowline-session";
/// Longest value of it, in bytes: an edge takes heads of some more.
const MAX_SPEC: usize = 16 * 1024;
/// Longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

const HEAD: usize = 5;
/// Read from a connection at once.
const CHUNK: usize = 16 * 1024;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    /// Input. One such frame may be sent for each [`FromDaemon::Ready`].
    Stdin(Bytes),
    /// The input has ended.
    StdinEnd,
    /// The terminal has another size.
    Resize { columns: u16, rows: u16 },
    /// By its number on Linux.
    Signal(u8),
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDaemon {
    /// One more frame of input is taken.
    Ready,
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last frame.
    End(wire::SessionEnd),
}

/// Why what arrived is no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of kind {0} is not known")]
    Kind(u8),
    #[error("a frame of kind {kind} has {length} bytes")]
    Length { kind: u8, length: usize },
    #[error("what a frame of kind {0} holds is not understood")]
    Content(u8),
    #[error("the stream ended within a frame")]
    Cut,
}

/// The value of [`SPEC`]: JSON in ASCII. `None`: it is longer than a field may be.
pub(crate) fn spec(session: &wire::Session) -> Option<String> {
    let json = serde_json::to_string(session).expect("wire types have string keys and no failing serialisers");
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            ' '..='~' => text.push(character),
            // Only strings hold such characters, and there they may be escaped (RFC 8259, 7).
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    (text.len() <= MAX_SPEC).then_some(text)
}

/// A frame of one direction.
pub trait Frame: Sized {
    /// The lengths that a frame of this kind may have; `None`: there is no such kind.
    fn lengths(kind: u8) -> Option<std::ops::RangeInclusive<usize>>;

    /// # Errors
    /// The content is none of this kind.
    fn read(kind: u8, payload: Bytes) -> Result<Self, FrameError>;

    fn kind(&self) -> u8;

    fn payload(&self) -> Bytes;

    /// Appends the whole frame.
    fn write(&self, out: &mut BytesMut) {
        let payload = self.payload();
        out.put_u8(self.kind());
        // Longer payloads are cut by whoever makes them; see `MAX_PAYLOAD`.
        out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        out.put_slice(&payload);
    }
}

impl Frame for FromClient {
    fn lengths(kind: u8) -> Option<std::ops::RangeInclusive<usize>> {
        match kind {
            0 => Some(1..=MAX_PAYLOAD),
            1 => Some(0..=0),
            2 => Some(4..=4),
            3 => Some(1..=1),
            _ => None,
        }
    }

    fn read(kind: u8, mut payload: Bytes) -> Result<Self, FrameError> {
        match (kind, payload.len()) {
            (0, _) => Ok(Self::Stdin(payload)),
            (1, _) => Ok(Self::StdinEnd),
            (2, 4) => Ok(Self::Resize { columns: payload.get_u16(), rows: payload.get_u16() }),
            (3, 1) => Ok(Self::Signal(payload[0])),
            (kind, _) => Err(FrameError::Content(kind)),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Stdin(_) => 0,
            Self::StdinEnd => 1,
            Self::Resize { .. } => 2,
            Self::Signal(_) => 3,
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Stdin(bytes) => bytes.clone(),
            Self::StdinEnd => Bytes::new(),
            Self::Resize { columns, rows } => [columns.to_be_bytes(), rows.to_be_bytes()].concat().into(),
            Self::Signal(number) => Bytes::copy_from_slice(&[*number]),
        }
    }
}

impl Frame for FromDaemon {
    fn lengths(kind: u8) -> Option<std::ops::RangeInclusive<usize>> {
        match kind {
            16 => Some(0..=0),
            17 | 18 => Some(1..=MAX_PAYLOAD),
            19 => Some(2..=MAX_PAYLOAD),
            _ => None,
        }
    }

    fn read(kind: u8, payload: Bytes) -> Result<Self, FrameError> {
        match kind {
            16 => Ok(Self::Ready),
            17 => Ok(Self::Stdout(payload)),
            18 => Ok(Self::Stderr(payload)),
            kind => serde_json::from_slice(&payload).map(Self::End).map_err(|_| FrameError::Content(kind)),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Ready => 16,
            Self::Stdout(_) => 17,
            Self::Stderr(_) => 18,
            Self::End(_) => 19,
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Ready => Bytes::new(),
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.clone(),
            Self::End(end) => {
                serde_json::to_vec(end).expect("wire types have string keys and no failing serialisers").into()
            }
        }
    }
}

/// Cuts a stream into frames. Holds at most one frame and what was fed last.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and not ended.
    pub fn is_within(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame; `None` until more is fed.
    ///
    /// # Errors
    /// What was fed is no frame. Nothing that follows can be trusted.
    pub fn cut<F: Frame>(&mut self) -> Result<Option<F>, FrameError> {
        let Some(kind) = self.buffer.first().copied() else { return Ok(None) };
        let lengths = F::lengths(kind).ok_or(FrameError::Kind(kind))?;
        let Some(length) = self.buffer.get(1..HEAD) else { return Ok(None) };
        let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        if !lengths.contains(&length) {
            return Err(FrameError::Length { kind, length });
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        F::read(kind, self.buffer.split_to(length).freeze()).map(Some)
    }

    /// The next frame of a connection; `None` at its end. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or what arrived is no frame.
    pub async fn read<F: Frame>(&mut self, from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<F>> {
        let wrong = |error: FrameError| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        loop {
            if let Some(frame) = self.cut().map_err(wrong)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(CHUNK);
            match from.read_buf(&mut self.buffer).await? {
                0 if self.is_within() => return Err(wrong(FrameError::Cut)),
                0 => return Ok(None),
                _ => {}
            }
        }
    }
}

/// A session that has begun, as its client sees it.
#[derive(Debug)]
pub struct Session {
    pub reader: SessionReader,
    /// Dropping both is leaving: everything that the session started is killed.
    pub writer: SessionWriter,
}

impl Session {
    pub(crate) fn new(connection: Upgraded) -> Self {
        let (read, write) = tokio::io::split(TokioIo::new(connection));
        let reader = SessionReader { read, frames: Frames::default() };
        Self { reader, writer: SessionWriter { write, buffer: BytesMut::new() } }
    }
}

#[derive(Debug)]
pub struct SessionReader {
    read: ReadHalf<TokioIo<Upgraded>>,
    frames: Frames,
}

impl SessionReader {
    /// The next frame; the last one is an end. Cancel-safe.
    ///
    /// # Errors
    /// The daemon went away before it said how the session ended, or does not keep to the protocol.
    pub async fn next(&mut self) -> Result<FromDaemon, ClientError> {
        match self.frames.read(&mut self.read).await {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(ClientError::Broken("it ended before the session did".into())),
            Err(error) => Err(ClientError::Broken(error.into())),
        }
    }
}

#[derive(Debug)]
pub struct SessionWriter {
    write: WriteHalf<TokioIo<Upgraded>>,
    buffer: BytesMut,
}

impl SessionWriter {
    /// # Errors
    /// The daemon went away; the reader says more.
    pub async fn send(&mut self, frame: &FromClient) -> Result<(), ClientError> {
        self.buffer.clear();
        frame.write(&mut self.buffer);
        let written = async {
            self.write.write_all(&self.buffer).await?;
            self.write.flush().await
        };
        written.await.map_err(|error| ClientError::Broken(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn from_client() -> impl Strategy<Value = FromClient> {
        prop_oneof![
            vec(any::<u8>(), 1..300).prop_map(|bytes| FromClient::Stdin(bytes.into())),
            Just(FromClient::Stdin(vec![7; MAX_PAYLOAD].into())),
            Just(FromClient::StdinEnd),
            (any::<u16>(), any::<u16>()).prop_map(|(columns, rows)| FromClient::Resize { columns, rows }),
            any::<u8>().prop_map(FromClient::Signal),
        ]
    }

    fn from_daemon() -> impl Strategy<Value = FromDaemon> {
        let text = vec(any::<u8>(), 1..300);
        prop_oneof![
            Just(FromDaemon::Ready),
            text.clone().prop_map(|bytes| FromDaemon::Stdout(bytes.into())),
            text.prop_map(|bytes| FromDaemon::Stderr(bytes.into())),
            any::<i32>().prop_map(|code| FromDaemon::End(wire::SessionEnd::Exited { code })),
        ]
    }

    /// Whatever the pieces are that it arrives in.
    fn check<F: Frame + PartialEq + std::fmt::Debug>(sent: &[F], cuts: &[usize]) {
        let mut bytes = BytesMut::new();
        sent.iter().for_each(|frame| frame.write(&mut bytes));
        let (mut frames, mut got) = (Frames::default(), Vec::new());
        let mut left = &bytes[..];
        for cut in cuts.iter().chain([&usize::MAX]) {
            let (piece, rest) = left.split_at((*cut).min(left.len()));
            left = rest;
            frames.feed(piece);
            while let Some(frame) = frames.cut::<F>().unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, sent);
        assert!(!frames.is_within());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(sent in vec(from_client(), 0..12), cuts in vec(0..400_usize, 0..40)) {
            check(&sent, &cuts);
        }

        #[test]
        fn so_it_does_the_other_way(sent in vec(from_daemon(), 0..12), cuts in vec(0..400_usize, 0..40)) {
            check(&sent, &cuts);
        }

        #[test]
        fn nothing_that_arrives_panics_or_is_held_without_bound(pieces in vec(vec(any::<u8>(), 0..200), 0..40)) {
            let mut frames = Frames::default();
            'stream: for piece in pieces {
                frames.feed(&piece);
                loop {
                    match frames.cut::<FromClient>() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
                prop_assert!(frames.buffer.len() < HEAD + MAX_PAYLOAD);
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_it_is_seen() {
        let check = |bytes: &[u8], expected: FrameError| {
            let mut frames = Frames::default();
            frames.feed(bytes);
            assert_eq!(frames.cut::<FromClient>(), Err(expected), "{bytes:?}");
        };
        check(&[9], FrameError::Kind(9));
        check(&[17], FrameError::Kind(17));
        check(&[0, 0, 1, 0, 1], FrameError::Length { kind: 0, length: MAX_PAYLOAD + 1 });
        check(&[0, 255, 255, 255, 255], FrameError::Length { kind: 0, length: 0xffff_ffff });
        check(&[0, 0, 0, 0, 0], FrameError::Length { kind: 0, length: 0 });
        check(&[1, 0, 0, 0, 1], FrameError::Length { kind: 1, length: 1 });
        check(&[2, 0, 0, 0, 3], FrameError::Length { kind: 2, length: 3 });
        let mut frames = Frames::default();
        frames.feed(&[19, 0, 0, 0, 2, b'{', b'}']);
        assert_eq!(frames.cut::<FromDaemon>(), Err(FrameError::Content(19)));
    }
}
