//! A connection that is closed for writing and then read to its end, for a while: one that is closed with bytes unread is reset, and the
//! reset destroys what the client has not read yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{LINGER, LINGER_BYTES};
use crate::deadline::Deadline;
use crate::stream::Resets;

/// What is read at once to be forgotten.
const PIECE: usize = 4 << 10;

/// `poll_shutdown` is ready when the client has closed its side, too, or has had [`LINGER`] for it, or sent [`LINGER_BYTES`].
#[derive(Debug)]
pub(super) struct Lingering<S> {
    stream: S,
    deadline: Deadline,
    /// How much may still come; `None`: it is open for writing.
    left: Option<usize>,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S, deadline: Deadline) -> Self {
        Self { stream, deadline, left: None }
    }
}

impl<S: Resets> Resets for Lingering<S> {
    fn resets(&self) {
        self.stream.resets();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, deadline, left } = self.get_mut();
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
