//! What passes between the daemon and the keeper of a session, which run from the same binary.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cage::files::Grants;
use crate::cgroup::Membership;
use crate::driver::pidfd::Pidfd;
use crate::shim::child::Streams;
use crate::shim::contract::{Clear, Refusal};

/// The order's memory file, the main process, the shim, three streams.
const PASSED: usize = 6;

/// What to start, and in which cage. Holds secrets in clear: it is passed in a memory file, never written to a disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Of the instance.
    pub id: String,
    /// The program, looked for in the `PATH` of `env`, and its arguments.
    pub arguments: Vec<String>,
    pub env: Vec<(String, Clear)>,
    /// The working directory.
    pub root: PathBuf,
    pub uid: Option<u32>,
    pub grants: Grants,
    /// What is not enforced for the instance, and so need not be here.
    pub unenforced: Vec<String>,
    pub cgroup: Option<Membership>,
    /// The instance has namespaces.
    pub contained: bool,
    /// The streams are a terminal.
    pub terminal: bool,
    /// The instance is there for this session: its shim is told to end with it.
    pub alone: bool,
    /// In the environment of everything that is started.
    pub mark: String,
}

/// The descriptors that come with an order.
pub(super) struct Passed {
    /// The instance's main process.
    pub app: Pidfd,
    pub shim: Pidfd,
    pub streams: Streams,
}

/// How a session ended: the keeper's only word, when nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
    /// With this error of `execve(2)`.
    NotExecuted(i32),
    /// It never ran.
    Refused(Refusal),
    /// The instance ended first.
    Outlived,
    /// Whoever was attached went away.
    Left,
    /// Who would have told was killed.
    Lost,
}

/// Hands an order over. The descriptors are the keeper's from then on; the caller drops its own.
pub(crate) fn send(
    link: &UnixStream,
    order: &fs::File,
    processes: [&Pidfd; 2],
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<()> {
    let [app, shim] = processes.map(AsFd::as_fd);
    let [stdin, stdout, stderr] = streams;
    let passed = [order.as_fd(), app, shim, stdin, stdout, stderr].map(|fd| fd.as_raw_fd());
    let rights = [ControlMessage::ScmRights(&passed)];
    sendmsg::<()>(link.as_raw_fd(), &[IoSlice::new(b"!")], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

pub(super) fn receive(link: &UnixStream) -> Result<(Order, Passed), Refusal> {
    let failed = |error: &dyn std::error::Error| {
        Refusal::new("the session does not understand its order")
            .caused_by(error)
            .hint("`bowline session` is started by the daemon, not by hand")
    };
    let fds = receive_fds(link).map_err(|error| failed(&error))?;
    let [order, app, shim, stdin, stdout, stderr] = <[OwnedFd; PASSED]>::try_from(fds)
        .map_err(|fds| failed(&io::Error::other(format!("{} descriptors instead of {PASSED}", fds.len()))))?;
    let mut text = Zeroizing::new(Vec::new());
    let mut file = fs::File::from(order);
    file.rewind().and_then(|()| file.read_to_end(&mut text)).map_err(|error| failed(&error))?;
    // serde_json may quote a value in its message, and values are secrets: only the place is told.
    let order: Order = serde_json::from_slice(&text)
        .map_err(|error| failed(&io::Error::other(format!("line {}, column {}", error.line(), error.column()))))?;
    let streams = Streams { stdin: Some(stdin), stdout, stderr, terminal: order.terminal };
    Ok((order, Passed { app: app.into(), shim: shim.into(), streams }))
}

#[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
fn receive_fds(link: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = nix::cmsg_space!([RawFd; PASSED]);
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(link.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nothing else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(fds)
}
