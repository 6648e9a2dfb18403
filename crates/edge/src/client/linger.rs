//! A connection that is closed for writing and then read to its end, for a while: one that is closed with bytes unread is reset, and the
//! reset destroys what the client has not read yet. One whose client has not read even what it was offered is reset.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::line::Line;
use super::{LINGER, LINGER_BYTES};
use crate::deadline::Deadline;
use crate::stream::ResetOnDrop;

/// What is read at once to be forgotten.
const PIECE: usize = 4 << 10;

/// `poll_shutdown` is ready when the client has closed its side, too, or has had [`LINGER`] for it, or sent [`LINGER_BYTES`].
#[derive(Debug)]
pub(super) struct Lingering<S: ResetOnDrop> {
    stream: S,
    deadline: Deadline,
    line: Rc<Line>,
    /// How much may still come; `None`: it is open for writing.
    left: Option<usize>,
}

impl<S: ResetOnDrop> Lingering<S> {
    /// `line` says in the end whether its client was given up.
    pub(super) fn new(stream: S, deadline: Deadline, line: Rc<Line>) -> Self {
        Self { stream, deadline, line, left: None }
    }
}

impl<S: ResetOnDrop> Drop for Lingering<S> {
    fn drop(&mut self) {
        if self.line.is_given_up.get() {
            self.stream.reset_on_drop();
        }
    }
}

impl<S: AsyncRead + ResetOnDrop + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + ResetOnDrop + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, deadline, left, .. } = self.get_mut();
        let mut more = match *left {
            Some(more) => more,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                deadline.set(LINGER);
                *left.insert(LINGER_BYTES)
            }
        };
        while !deadline.passed(cx) {
            let mut piece = [0; PIECE];
            let mut buffer = ReadBuf::new(&mut piece);
            // An error is the end as well.
            let is_read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)).is_ok();
            let came = buffer.filled().len();
            if !is_read || came == 0 || came >= more {
                break;
            }
            more -= came;
            *left = Some(more);
        }
        Poll::Ready(Ok(()))
    }
}
