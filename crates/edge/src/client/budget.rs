//! What a client of HTTP/2 may send beside requests and their bodies. PING and SETTINGS each want an answer, PRIORITY, WINDOW_UPDATE and what nobody knows
//! cost this side more than the other, and no library counts them (CVE-2019-9512, CVE-2019-9513, CVE-2019-9515). They are read here as they come, and
//! those that are too many are not passed on. On the way back nothing is offered to TLS that it would keep: what counts as taken is taken by the socket.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::SMALL_FRAME;
use super::line::Line;
use crate::deadline::{Sweep, TICK};

/// Before the first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Of a frame: length, type, flags, stream.
const HEAD: usize = 9;

/// Frames that may come at once: a client that has read a burst of answers of 20 MB in the end may say so for each 2 KiB.
const BURST: u32 = 10_000;
/// Frames a second for which nothing else has to move, which take a core less than a hundredth of its time.
const RATE: u32 = 1000;
const PER_TICK: u64 = RATE as u64 * TICK.as_millis() as u64 / 1000;
/// What is sent to a client pays for more, as DATA does alone: for each frame of it two, which a client of gRPC answers each piece with that measures its
/// line, and for its bytes one for each so many. What has fewer bytes than a message of gRPC without contents pays by byte: a client that lets them go one by one, by a
/// WINDOW_UPDATE for each, does not pay for those (CVE-2019-9511).
const PIECE: u32 = 2;
const PIECE_BYTES: u32 = 5;
const BYTES_EACH: u32 = 2 << 10;

/// Frames that are neither a request's head nor its body, against what is sent.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// The tick until which [`RATE`] was granted.
    granted: u64,
    /// In small pieces and in all, bytes that are not yet granted for.
    small: u32,
    bytes: u32,
    read: Frames,
    written: Frames,
    /// What has come of a body in pieces of less than [`SMALL_FRAME`] bytes, and of none.
    pieces: Pieces,
}

/// Small frames of data, but for the last ones of their streams.
#[derive(Debug, Default)]
struct Pieces {
    empty: u32,
    cost: usize,
}

/// How far the frames of one direction have come.
#[derive(Debug, PartialEq, Eq)]
enum Frames {
    Preface(usize),
    Head([u8; HEAD], usize),
    Payload(u32),
}

/// What a frame's head says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data {
        /// The stream ends with it.
        is_last: bool,
    },
    /// A request's beginning, or more of it.
    Headers,
    Control,
}

impl Kind {
    /// RFC 9113, 6.
    fn of(code: u8, flags: u8) -> Self {
        match code {
            0 => Self::Data { is_last: flags & 1 != 0 },
            1 | 9 => Self::Headers,
            _ => Self::Control,
        }
    }
}

impl Frames {
    const BEGIN: Self = Self::Head([0; HEAD], 0);

    /// The kind and length of the next frame whose head is whole; `None`: the bytes are at their end.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<(Kind, u32)> {
        while !bytes.is_empty() {
            match self {
                Self::Preface(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    *bytes = &bytes[taken..];
                    if *left == 0 {
                        *self = Self::BEGIN;
                    }
                }
                Self::Head(head, seen) => {
                    let taken = bytes.len().min(HEAD - *seen);
                    head[*seen..*seen + taken].copy_from_slice(&bytes[..taken]);
                    *seen += taken;
                    *bytes = &bytes[taken..];
                    if *seen == HEAD {
                        let (kind, length) =
                            (Kind::of(head[3], head[4]), u32::from_be_bytes([0, head[0], head[1], head[2]]));
                        *self = if length == 0 { Self::BEGIN } else { Self::Payload(length) };
                        return Some((kind, length));
                    }
                }
                Self::Payload(left) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= u32::try_from(taken).unwrap_or(*left);
                    *bytes = &bytes[taken..];
                    if *left == 0 {
                        *self = Self::BEGIN;
                    }
                }
            }
        }
        None
    }
}

impl Pieces {
    fn count(&mut self, length: u32) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match length {
            0 => self.empty += 1,
            1.. => self.cost += SMALL_FRAME.saturating_sub(length),
        }
    }
}

impl Budget {
    fn new(now: u64) -> Self {
        let (read, written) = (Frames::Preface(PREFACE), Frames::BEGIN);
        Self { left: BURST, granted: now, small: 0, bytes: 0, read, written, pieces: Pieces::default() }
    }

    /// These have come. False: they are too many.
    fn read(&mut self, mut bytes: &[u8], now: u64) -> bool {
        let since = now.saturating_sub(self.granted);
        self.granted = self.granted.max(now);
        self.grant(u32::try_from(since.saturating_mul(PER_TICK)).unwrap_or(BURST));
        while let Some((kind, length)) = self.read.next(&mut bytes) {
            match kind {
                Kind::Data { is_last: false } => self.pieces.count(length),
                Kind::Data { is_last: true } => {}
                // Whoever asks may say as often how much it reads, or that it reads no more.
                Kind::Headers => self.grant(1),
                Kind::Control => match self.left.checked_sub(1) {
                    Some(left) => self.left = left,
                    None => return false,
                },
            }
        }
        true
    }

    /// These were sent.
    fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some((kind, length)) = self.written.next(&mut bytes) {
            if matches!(kind, Kind::Data { .. }) {
                self.small += length.min(PIECE_BYTES) * PIECE;
                self.bytes += length;
                self.grant(self.small / PIECE_BYTES + self.bytes / BYTES_EACH);
                self.small %= PIECE_BYTES;
                self.bytes %= BYTES_EACH;
            }
        }
    }

    fn grant(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(BURST);
    }
}

/// A connection on which nothing more is read once the budget is used up. It may still be written and closed.
#[derive(Debug)]
pub(super) struct Budgeted<S> {
    stream: S,
    sweep: Rc<Sweep>,
    budget: Budget,
    line: Rc<Line>,
}

impl<S> Budgeted<S> {
    /// `line` is told of what happens while this is read and written.
    pub(super) fn new(stream: S, sweep: Rc<Sweep>, line: Rc<Line>) -> Self {
        let budget = Budget::new(sweep.now());
        Self { stream, sweep, budget, line }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Budgeted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, sweep, budget, line } = self.get_mut();
        if line.used_up.get() {
            // Whoever polls this sees that it is, and closes.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        if !budget.read(&buffer.filled()[before..], sweep.now()) {
            line.used_up.set(true);
            buffer.set_filled(before);
            return Poll::Pending;
        }
        let Pieces { empty, cost } = std::mem::take(&mut budget.pieces);
        line.empty.set(line.empty.get().saturating_add(empty));
        line.small.set(line.small.get().saturating_add(cost));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Budgeted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, budget, line, .. } = self.get_mut();
        // TLS would keep what no socket takes, which looks as if the client had read on.
        let wrote = match Pin::new(&mut *stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => Pin::new(stream).poll_write(cx, bytes),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        line.wrote(&wrote);
        if let Poll::Ready(Ok(count)) = wrote {
            budget.wrote(&bytes[..count]);
        }
        wrote
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, line, .. } = self.get_mut();
        let flushed = Pin::new(stream).poll_flush(cx);
        line.flushed(&flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], &vec![7; payload]].concat()
    }

    /// A budget behind the preface.
    fn begun() -> Budget {
        let mut budget = Budget::new(0);
        assert!(budget.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0));
        budget
    }

    /// How many frames come in before one is too many, `each` of them every tick, within 1000 ticks.
    fn passed(kind: u8, each: usize, between: impl Fn(&mut Budget)) -> Option<usize> {
        let (mut budget, frame) = (begun(), frame(kind, 8));
        (0..1000 * each).find(|n| {
            between(&mut budget);
            !budget.read(&frame, (n / each) as u64)
        })
    }

    #[test]
    fn floods_end_and_what_is_usual_does_not() {
        for kind in [2, 3, 4, PING, 7, 8, 0x10, 0xff] {
            assert_eq!(passed(kind, usize::MAX / 1000, |_| ()), Some(BURST as usize), "{kind}");
            assert_eq!(passed(kind, 100, |_| ()), None, "{kind}: a thousand a second");
            assert!(passed(kind, 200, |_| ()).is_some(), "{kind}");
        }
        assert_eq!(passed(0, 10_000, |_| ()), None, "data is bounded otherwise");
        let pays = |payload: usize| move |budget: &mut Budget| budget.wrote(&frame(0, payload));
        assert!(passed(PING, 10_000, |budget| budget.wrote(&frame(PING, 8))).is_some(), "its own answer");
        assert!(passed(8, 10_000, |budget| budget.wrote(&frame(1, 400))).is_some(), "the head of an answer");
        assert!(passed(8, 10_000, pays(1)).is_some(), "who lets a body go byte by byte");
        assert!(passed(8, 10_000, |budget| assert!(budget.read(&frame(0, 16 << 10), 0))).is_some(), "what comes");
        assert_eq!(passed(PING, 10_000, pays(1400)), None, "one with each piece that it reads");
        let small = |budget: &mut Budget| {
            budget.wrote(&frame(0, 5));
            assert!(budget.read(&frame(8, 4), 0));
            budget.wrote(&frame(PING, 8));
        };
        assert_eq!(passed(PING, 10_000, small), None, "measuring a line on which each round trip has one small piece");
        // Of what is downloaded, at most ten for each 16 KiB.
        let download = |more: usize| {
            move |budget: &mut Budget| {
                budget.wrote(&frame(0, 16 << 10));
                (0..9 + more).for_each(|_| _ = budget.read(&frame(8, 4), 0));
            }
        };
        assert_eq!(passed(8, 10_000, download(0)), None);
        assert!(passed(8, 10_000, download(1)).is_some());
        assert_eq!(passed(3, 10_000, |budget| assert!(budget.read(&frame(1, 30), 0))), None, "counted elsewhere");
    }

    /// A layer that keeps what the stream below has not taken yet, as TLS does.
    struct Keeping {
        below: tokio::io::DuplexStream,
        kept: Vec<u8>,
    }

    impl AsyncWrite for Keeping {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            const ROOM: usize = 64 << 10;
            let keeping = self.get_mut();
            let taken = bytes.len().min(ROOM - keeping.kept.len());
            keeping.kept.extend_from_slice(&bytes[..taken]);
            let flushed = Pin::new(keeping).poll_flush(cx)?;
            if taken == 0 && flushed.is_pending() { Poll::Pending } else { Poll::Ready(Ok(taken)) }
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let Self { below, kept } = self.get_mut();
            while !kept.is_empty() {
                let count = std::task::ready!(Pin::new(&mut *below).poll_write(cx, kept))?;
                kept.drain(..count);
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_a_layer_keeps_is_not_taken() {
        let (mut client, below) = tokio::io::duplex(1 << 10);
        let line = Rc::new(Line::default());
        let keeping = Keeping { below, kept: Vec::new() };
        let mut stream = Budgeted::new(keeping, Rc::new(Sweep::default()), Rc::clone(&line));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let piece = [7; 4 << 10];
        let mut offer = |cx: &mut Context<'_>| Pin::new(&mut stream).poll_write(cx, &piece).is_ready();
        assert!(offer(&mut cx), "the first is taken, or kept");
        let written = line.written();
        for _ in 0..100 {
            assert!(!offer(&mut cx));
        }
        assert!(line.is_blocked());
        assert_eq!(line.written(), written, "nobody has read a byte");
        let mut read = 0;
        while !offer(&mut cx) {
            let mut buffer = [0; 256];
            let mut buffer = ReadBuf::new(&mut buffer);
            assert!(Pin::new(&mut client).poll_read(&mut cx, &mut buffer).is_ready());
            read += buffer.filled().len();
        }
        assert!(line.written() > written && read >= piece.len() - (1 << 10), "it goes on once that is read");
    }

    proptest! {
        #[test]
        fn frames_are_found_however_they_come(
            frames in prop::collection::vec((0_u8..12, 0_usize..40), 0..40),
            cuts in prop::collection::vec(1_usize..30, 1..20),
        ) {
            let all: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, *payload)).collect();
            let mut whole = begun();
            whole.left -= 1000;
            prop_assert!(whole.read(&all, 0));
            whole.wrote(&all);
            let (mut cut, mut rest) = (begun(), &all[..]);
            cut.left -= 1000;
            let mut written = Vec::new();
            for at in cuts.iter().cycle() {
                let (piece, more) = rest.split_at((*at).min(rest.len()));
                prop_assert!(cut.read(piece, 0));
                written.push(piece);
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            written.iter().for_each(|piece| cut.wrote(piece));
            let state = |budget: &Budget| (budget.left, budget.small, budget.bytes);
            prop_assert_eq!(state(&cut), state(&whole));
            for budget in [&cut, &whole] {
                prop_assert!(matches!((&budget.read, &budget.written), (Frames::Head(_, 0), Frames::Head(_, 0))));
            }
        }
    }
}
