//! Frames and file descriptors over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroize;

/// Largest frame: a table of ten thousand routes with its certificates is about 20 MiB.
pub const MAX_FRAME: usize = 64 << 20;

/// Descriptors that one frame may carry.
const MAX_FDS: usize = 8;

/// How much is read at once.
const READ_SIZE: usize = 16 << 10;

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the control connection failed")]
    Io(#[from] io::Error),
    #[error("a frame of {0} bytes is larger than {MAX_FRAME}")]
    TooLarge(usize),
    #[error("a frame cannot be understood")]
    Malformed(#[from] serde_json::Error),
    #[error("the control connection ended inside a frame")]
    Truncated,
    #[error("the peer is user {peer}, not {own} or root")]
    Peer { peer: u32, own: u32 },
}

/// One end of a control connection. Buffers are wiped when they are dropped: certificates' keys pass here.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Channel {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, input: Vec::new(), fds: Vec::new() }
    }

    /// Refuses a peer that is neither this process's user nor root nor, if given, `other`.
    pub fn check_peer(&self, other: Option<u32>) -> Result<(), ChannelError> {
        let peer = nix::sys::socket::getsockopt(&self.stream, sockopt::PeerCredentials).map_err(io::Error::from)?;
        let own = nix::unistd::geteuid().as_raw();
        let allowed = peer.uid() == own || peer.uid() == 0 || Some(peer.uid()) == other;
        if allowed { Ok(()) } else { Err(ChannelError::Peer { peer: peer.uid(), own }) }
    }

    /// Sends one frame.
    pub async fn send<T: Serialize>(&mut self, frame: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut bytes = encode(frame)?;
        let sent = self.send_bytes(&bytes, fds).await;
        bytes.zeroize();
        sent
    }

    async fn send_bytes(&mut self, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut rights = if raw.is_empty() { None } else { Some(ControlMessage::ScmRights(&raw)) };
        while !bytes.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let parts = [IoSlice::new(bytes)];
                    let socket = self.stream.as_raw_fd();
                    Ok(sendmsg::<()>(socket, &parts, rights.as_slice(), MsgFlags::MSG_NOSIGNAL, None)?)
                })
                .await?;
            rights = None;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// The next frame and the descriptors that came with it; `None` when the peer closed between frames. May be
    /// cancelled: what was read stays.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        loop {
            if let Some(length) = self.complete()? {
                let frame = serde_json::from_slice(&self.input[4..4 + length]);
                self.input[..4 + length].zeroize();
                self.input.drain(..4 + length);
                self.input.shrink_to(READ_SIZE);
                return Ok(Some((frame?, std::mem::take(&mut self.fds))));
            }
            if self.read_some().await? == 0 {
                return if self.input.is_empty() { Ok(None) } else { Err(ChannelError::Truncated) };
            }
        }
    }

    /// Length of the first frame, if all of it is here.
    fn complete(&self) -> Result<Option<usize>, ChannelError> {
        let Some(head) = self.input.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(ChannelError::TooLarge(length));
        }
        Ok((self.input.len() >= 4 + length).then_some(length))
    }

    async fn read_some(&mut self) -> Result<usize, ChannelError> {
        loop {
            self.stream.readable().await?;
            // Nothing is awaited while the buffer is longer than what was read: this may be cancelled.
            let start = self.input.len();
            self.input.resize(start + READ_SIZE, 0);
            let Self { stream, input, fds } = self;
            let read = stream.try_io(Interest::READABLE, || read_message(stream, &mut input[start..], fds));
            self.input.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Ok(read?),
            }
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.input.zeroize();
    }
}

fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, ChannelError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame)?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_FRAME => {
            bytes[..4].copy_from_slice(&prefix.to_le_bytes());
            Ok(bytes)
        }
        Ok(_) | Err(_) => Err(ChannelError::TooLarge(length)),
    }
}

#[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
fn read_message(stream: &UnixStream, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nothing else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FromEdge, ToEdge};
    use std::os::fd::AsFd;

    #[tokio::test]
    async fn frames_and_descriptors_arrive_together() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut left, mut right) = (Channel::new(left), Channel::new(right));
        left.send(&ToEdge::Listeners, &[]).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        left.send(&FromEdge::Listeners { http: true, https: false }, &[listener.as_fd()]).await.unwrap();
        drop(left);

        let (frame, fds) = right.receive::<ToEdge>().await.unwrap().unwrap();
        assert!(matches!(frame, ToEdge::Listeners));
        assert!(fds.len() <= 1, "the kernel may deliver the descriptors with the frame before");
        let (_, late) = right.receive::<FromEdge>().await.unwrap().unwrap();
        let fd = fds.into_iter().chain(late).next().unwrap();
        let copy = std::net::TcpListener::from(fd);
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(right.receive::<FromEdge>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_large_frame_passes_in_pieces_and_a_cut_one_is_an_error() {
        use tokio::io::AsyncWriteExt;
        let (left, right) = UnixStream::pair().unwrap();
        let (mut left, mut right) = (Channel::new(left), Channel::new(right));
        let reason = "x".repeat(1 << 20);
        let frame = FromEdge::Refused { generation: 3, reason: reason.clone() };
        let (sent, received) = tokio::join!(left.send(&frame, &[]), right.receive::<FromEdge>());
        sent.unwrap();
        let Some((FromEdge::Refused { reason: got, .. }, _)) = received.unwrap() else { panic!("another frame") };
        assert_eq!(got, reason);

        left.stream.write_all(&[200, 0, 0, 0, b'{']).await.unwrap();
        drop(left);
        assert!(matches!(right.receive::<FromEdge>().await, Err(ChannelError::Truncated)));
    }

    #[tokio::test]
    async fn a_read_that_was_given_up_loses_and_adds_nothing() {
        use tokio::io::AsyncWriteExt;
        let (mut left, right) = UnixStream::pair().unwrap();
        let mut right = Channel::new(right);
        let bytes = encode(&ToEdge::Listeners).unwrap();
        for byte in bytes {
            tokio::select! {
                biased;
                _ = right.receive::<ToEdge>() => panic!("the frame is not whole yet"),
                () = tokio::task::yield_now() => {}
            }
            left.write_all(&[byte]).await.unwrap();
        }
        assert!(matches!(right.receive::<ToEdge>().await, Ok(Some((ToEdge::Listeners, _)))));
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
        use tokio::io::AsyncWriteExt;
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        assert!(matches!(Channel::new(right).receive::<FromEdge>().await, Err(ChannelError::TooLarge(_))));
    }
}
