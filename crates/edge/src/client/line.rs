//! What a connection of HTTP/2 shares with its streams: whether its socket takes what the library holds, and when it has taken a piece.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};

/// The connection as those see it who neither read nor write it.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// More was sent beside requests and their bodies than may be.
    pub(super) used_up: Cell<bool>,
    /// The longest that one of its answers waits for a client that does not read.
    pub(super) reading: Cell<Duration>,
    /// Frames of data that have come with nothing in them, but for the last ones of their streams.
    pub(super) empty: Cell<u32>,
    /// What small ones cost that have come and that nobody has taken yet, or ever will.
    pub(super) small: Cell<usize>,
    /// The connection has ended before the socket took all of it: the kernel keeps nothing of it for a client that reads nothing.
    pub(super) is_given_up: Cell<bool>,
    is_blocked: Cell<bool>,
    written: Cell<u64>,
}

impl Line {
    /// The socket has not taken all that it was offered last. All that the library is given is within the client's windows, so that nothing else keeps
    /// it there, but where a client has made them smaller since.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// Bytes in all.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    pub(super) fn wrote(&self, wrote: &Poll<io::Result<usize>>) {
        self.is_blocked.set(wrote.is_pending());
        if let Poll::Ready(Ok(count)) = wrote {
            self.written.set(self.written.get() + *count as u64);
        }
    }

    /// TLS holds some, too, that was written.
    pub(super) fn flushed(&self, flushed: &Poll<io::Result<()>>) {
        self.is_blocked.set(flushed.is_pending());
    }
}

/// A piece of a body, as the library holds it until the socket has taken it.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Bytes,
    way: Option<Rc<Way>>,
}

/// Where one stream's pieces are that were given while the socket took nothing.
#[derive(Debug, Default)]
pub(super) struct Way(RefCell<Option<Waker>>);

impl Way {
    /// Whether a piece is still on it.
    pub(super) fn is_taken(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }

    /// The same; the task is woken when one has gone.
    pub(super) fn waits(self: &Rc<Self>, cx: &Context<'_>) -> bool {
        let is_taken = self.is_taken();
        if is_taken {
            *self.0.borrow_mut() = Some(cx.waker().clone());
        }
        is_taken
    }
}

impl Piece {
    pub(super) fn new(bytes: Bytes, way: Option<Rc<Way>>) -> Self {
        Self { bytes, way }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(waker) = self.way.take().and_then(|way| way.0.borrow_mut().take()) {
            waker.wake();
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
