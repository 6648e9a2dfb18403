//! Sessions, the daemon's half: bytes between the command and whoever is attached to it, until either ends.
//!
//! The command, and all that keeps it in its place, is `shim::session`. Both directions are bounded: a command that is not
//! listened to is not read from, and input that it does not read is not taken.

mod open;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId};
use bowline_core::instance::NodeDesired;
use bowline_core::session::{MAX_PIECE, SessionControl, SessionEnd, SessionOutput};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::open::{OneOff, Opened, Streams};
use crate::SessionCall;
use crate::driver::Context;
use crate::shim::session::contract::Ended;

/// Sessions at once: each has two processes of Bowline's own, and people sit before most of them.
const MOST: usize = 64;
/// How long output may still come when nothing of the session is left: somebody else may have been given its pipe.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Longest word of a keeper.
const MAX_WORD: u64 = 64 << 10;

/// Slots of one-off instances.
#[derive(Debug, Default)]
pub(crate) struct OneOffs {
    taken: Mutex<BTreeSet<u16>>,
}

impl OneOffs {
    /// The highest that is free; there are more than sessions.
    fn take(&self) -> u16 {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (0..=u16::MAX).rev().find(|slot| !taken.contains(slot)).unwrap_or(u16::MAX);
        taken.insert(slot);
        slot
    }

    fn give_back(&self, slot: u16) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }
}

/// Until nobody orders anything any more and every session has ended. Whoever might call has no part in that: connections that
/// go on hold a sender.
pub(crate) async fn take(
    context: Arc<Context>,
    desired: watch::Receiver<Arc<NodeDesired>>,
    mut calls: mpsc::Receiver<SessionCall>,
) {
    let one_offs = Arc::new(OneOffs::default());
    let mut sessions = JoinSet::new();
    let mut orders = desired.clone();
    let mut ended = std::pin::pin!(not_wanted(&mut orders, None));
    loop {
        let call = tokio::select! {
            call = calls.recv() => call,
            () = &mut ended => None,
            Some(_) = sessions.join_next() => continue,
        };
        match call {
            Some(call) if sessions.len() < MOST => {
                sessions.spawn(serve(context.clone(), one_offs.clone(), desired.clone(), call));
            }
            Some((.., end)) => {
                // Who asked may have gone away.
                let _ = end.send(SessionEnd::Broken(too_many()));
            }
            None => break,
        }
    }
    calls.close();
    while sessions.join_next().await.is_some() {}
}

fn too_many() -> Fault {
    Fault::new(FaultKind::Failed, format!("{MOST} sessions are open already")).hint("end one of them")
}

async fn serve(
    context: Arc<Context>,
    one_offs: Arc<OneOffs>,
    desired: watch::Receiver<Arc<NodeDesired>>,
    (spec, stdin, control, output, end): SessionCall,
) {
    let program = spec.command.first().cloned().unwrap_or_default();
    let opening = {
        let (context, one_offs) = (context.clone(), one_offs.clone());
        tokio::task::spawn_blocking(move || open::open(&context, &one_offs, &spec)).await
    };
    let ended = match opening {
        Ok(Ok(opened)) => attend(opened, stdin, control, output, desired, (&context, &one_offs)).await,
        Ok(Err(fault)) => Err(fault),
        Err(error) => Err(Fault::new(FaultKind::Failed, "starting a session broke off").source(&error)),
    };
    let told = ended.map_or_else(SessionEnd::Broken, |(id, ended)| word(ended, &id, &program));
    // Who asked may have gone away.
    let _ = end.send(told);
}

async fn attend(
    opened: Opened,
    stdin: mpsc::Receiver<Vec<u8>>,
    mut control: mpsc::Receiver<SessionControl>,
    output: mpsc::Sender<SessionOutput>,
    mut desired: watch::Receiver<Arc<NodeDesired>>,
    (context, one_offs): (&Arc<Context>, &Arc<OneOffs>),
) -> Result<(InstanceId, Ended), Fault> {
    let Opened { id, link, mut keeper, streams, one_off } = opened;
    let broken =
        |error: &io::Error| Fault::new(FaultKind::Failed, format!("a session in {id} broke off")).source(error);
    let (over, is_over) = watch::channel(false);
    let carried = carry(streams, stdin, output, &is_over);
    let followed = match (link.set_nonblocking(true).and_then(|()| UnixStream::from_std(link)), &carried) {
        (Ok(link), Ok(carried)) => {
            let app = one_off.as_ref().map(OneOff::key);
            follow(link, &mut control, carried.terminal.as_ref(), &mut desired, app).await
        }
        (Err(error), _) => Err(error),
        (Ok(_), Err(error)) => Err(io::Error::from(error.kind())),
    };
    over.send_replace(true);
    let (context, one_offs) = (context.clone(), one_offs.clone());
    let cleaned = tokio::task::spawn_blocking(move || {
        // It has told its last word, or is about to notice that nobody listens.
        let _ = keeper.wait();
        one_off.into_iter().for_each(|one_off| one_off.end(&context, &one_offs));
    });
    if let Ok(carried) = carried {
        carried.finish().await;
    }
    if let Err(error) = cleaned.await {
        tracing::error!(instance = %id, %error, "what was left of a session could not be cleaned up");
    }
    followed.map(|ended| (id.clone(), ended)).map_err(|error| broken(&error))
}

/// Passes on what whoever is attached says, until the keeper says how it ended. When they leave, the keeper is left as well.
async fn follow(
    mut link: UnixStream,
    control: &mut mpsc::Receiver<SessionControl>,
    terminal: Option<&OwnedFd>,
    desired: &mut watch::Receiver<Arc<NodeDesired>>,
    app: Option<&AppKey>,
) -> io::Result<Ended> {
    let mut stopped = false;
    loop {
        tokio::select! {
            readable = link.readable() => {
                readable?;
                break;
            }
            said = control.recv() => match said {
                Some(SessionControl::Signal(signal)) => {
                    // Full of signals that were not taken yet: one more says nothing new.
                    let _ = link.try_write(&[signal.number()]);
                }
                Some(SessionControl::Resize(size)) => {
                    // A terminal that has ended has no size.
                    let _ = terminal.map(|terminal| open::resize(terminal, size));
                }
                None => break,
            },
            () = not_wanted(desired, app) => {
                stopped = true;
                break;
            }
        }
    }
    // Where the keeper has spoken this changes nothing.
    link.shutdown().await?;
    let mut word = Vec::new();
    link.take(MAX_WORD).read_to_end(&mut word).await?;
    match serde_json::from_slice(&word) {
        Ok(Ended::Left) if stopped => Ok(Ended::Outlived),
        Ok(ended) => Ok(ended),
        Err(_) => Ok(Ended::Lost),
    }
}

/// Until the daemon ends, or nothing of an app is to run any more.
async fn not_wanted(desired: &mut watch::Receiver<Arc<NodeDesired>>, app: Option<&AppKey>) {
    let is_wanted = |desired: &NodeDesired| app.is_none_or(|app| desired.running.contains(app));
    // An error: nobody orders anything any more.
    let _ = desired.wait_for(|desired| !is_wanted(desired)).await;
}

/// The tasks that carry bytes.
struct Carried {
    input: JoinSet<()>,
    output: JoinSet<()>,
    terminal: Option<OwnedFd>,
}

impl Carried {
    /// When everything that was written has been passed on, or nobody wants it.
    async fn finish(mut self) {
        while self.output.join_next().await.is_some() {}
        self.input.abort_all();
    }
}

fn carry(
    streams: Streams,
    stdin: mpsc::Receiver<Vec<u8>>,
    output: mpsc::Sender<SessionOutput>,
    over: &watch::Receiver<bool>,
) -> io::Result<Carried> {
    let mut carried = Carried { input: JoinSet::new(), output: JoinSet::new(), terminal: None };
    match streams {
        Streams::Pipes { stdin: into, stdout, stderr } => {
            carried.input.spawn(feed(pipe::Sender::from_owned_fd(into)?, stdin));
            let (out, err) = (pipe::Receiver::from_owned_fd(stdout)?, pipe::Receiver::from_owned_fd(stderr)?);
            carried.output.spawn(drain(out, output.clone(), SessionOutput::Stdout, over.clone()));
            carried.output.spawn(drain(err, output, SessionOutput::Stderr, over.clone()));
        }
        Streams::Terminal(master) => {
            let into = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
            let out = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
            carried.input.spawn(feed(into, stdin));
            carried.output.spawn(drain(out, output, SessionOutput::Stdout, over.clone()));
            carried.terminal = Some(master);
        }
    }
    Ok(carried)
}

/// The end of the input closes the pipe; a terminal stays.
async fn feed(mut into: pipe::Sender, mut stdin: mpsc::Receiver<Vec<u8>>) {
    while let Some(piece) = stdin.recv().await {
        if into.write_all(&piece).await.is_err() {
            // The command reads no more; what still comes is taken, as it would be by a pipe that has ended.
            while stdin.recv().await.is_some() {}
        }
    }
}

/// Until the end of the stream, which for a terminal is an error.
async fn drain(
    mut from: pipe::Receiver,
    output: mpsc::Sender<SessionOutput>,
    piece: fn(Vec<u8>) -> SessionOutput,
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; MAX_PIECE];
    loop {
        let late = async {
            // An error: it is over as well.
            let _ = over.wait_for(|over| *over).await;
            tokio::time::sleep(LAST_OUTPUT).await;
        };
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = late => return,
        };
        let length = match read {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        if output.send(piece(buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

fn word(ended: Ended, id: &InstanceId, program: &str) -> SessionEnd {
    match ended {
        Ended::Code(code) => SessionEnd::Code(code),
        Ended::Signal(signal) => SessionEnd::Signal(signal),
        Ended::NotExecuted(error) => not_executed(error, id, program),
        Ended::Refused(refusal) => SessionEnd::Broken(refusal.into()),
        Ended::Outlived => SessionEnd::Broken(
            Fault::new(FaultKind::Failed, format!("{id} has ended, and the session with it"))
                .hint("`bowline events` says why"),
        ),
        Ended::Left => SessionEnd::Left,
        Ended::Lost => SessionEnd::Broken(
            Fault::new(FaultKind::Failed, format!("what kept the session in {id} was killed, and the session with it"))
                .hint("was the instance stopped, or the machine out of memory (dmesg)?"),
        ),
    }
}

/// 127 and 126 as in a shell (XCU 2.8.2).
fn not_executed(error: i32, id: &InstanceId, program: &str) -> SessionEnd {
    let (code, fault) = match error {
        libc::ENOENT => {
            let fault = Fault::new(FaultKind::Failed, format!("there is no program {program:?} in {id}"));
            (
                127,
                fault.hint("only what the app itself could run is there: its release, and the machine's own programs"),
            )
        }
        other => {
            let fault = Fault::new(FaultKind::Failed, format!("{program:?} cannot be executed in {id}"));
            (126, fault.source(&io::Error::from_raw_os_error(other)))
        }
    };
    SessionEnd::NotExecuted { code, fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_one_offs_count_down_and_are_used_again() {
        let one_offs = OneOffs::default();
        assert_eq!((one_offs.take(), one_offs.take()), (u16::MAX, u16::MAX - 1));
        one_offs.give_back(u16::MAX);
        assert_eq!(one_offs.take(), u16::MAX);
    }

    #[test]
    fn what_cannot_be_executed_ends_as_in_a_shell() {
        let id: InstanceId = "local/a.web.r1.0.1".parse().unwrap();
        let check = |error: i32, expected: i32| {
            let end = not_executed(error, &id, "x");
            assert!(matches!(end, SessionEnd::NotExecuted { code, .. } if code == expected), "{error}: {end:?}");
        };
        check(libc::ENOENT, 127);
        check(libc::EACCES, 126);
        check(libc::ENOEXEC, 126);
    }
}
