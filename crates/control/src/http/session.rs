//! A session between its client and the node: frames on one side, channels on the other.
//!
//! Neither direction waits for the other: a client that does not read its output still has its signals taken, since input is
//! only sent where there is room for it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bowline_api::session::{Frame, Frames, FromClient, FromDaemon, PROTOCOL, SPEC};
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::session::{SessionControl, SessionEnd, SessionOutput, SessionSignal, SessionSpec, WindowSize};
use bytes::BytesMut;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::access::Caller;
use super::peer::Peer;
use super::{Api, Handled, app_key, read_json};
use crate::reconcile::request::{Answer, Request as Asked};
use crate::reconcile::session::SessionRecord;

/// Frames of input that a client may send ahead.
const INPUT: usize = 8;
/// Pieces of output on their way from the node.
const OUTPUT: usize = 4;
/// How long a client may take to hear that its token is over.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Signals and sizes that wait for the node.
const CONTROLS: usize = 16;

pub(super) async fn begin(
    State(api): State<Api>,
    caller: Caller,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((env, app)): Path<(String, String)>,
    mut request: Request,
) -> Handled {
    let key = app_key(&env, &app)?;
    api.kept()?;
    let upgrade = asked_for(&mut request, PROTOCOL)?;
    let wanted: wire::Session = match request.headers().get(SPEC) {
        Some(spec) => serde_json::from_slice(spec.as_bytes()).map_err(|error| {
            Fault::new(FaultKind::Invalid, format!("the field {SPEC} is not understood")).source(&error)
        })?,
        None => read_json(request.into_body()).await?,
    };
    let answer = api.door.ask(Asked::Session { key, wanted, by_uid: caller.actor() }).await?;
    let Answer::Session(granted) = answer else {
        return Err(Fault::new(FaultKind::Failed, "the session was answered by something else").into());
    };
    // A person may let it rest for as long as it is open.
    peer.patience.is_without_end();
    tokio::spawn(hold(api, caller, upgrade, *granted));
    Ok(agreed(PROTOCOL))
}

/// The connection, once it is agreed that it becomes this.
pub(super) fn asked_for(request: &mut Request, protocol: &str) -> Result<OnUpgrade, Fault> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let said = request.headers().get(header::UPGRADE);
    let is_meant = said.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()));
    let unasked = || Fault::new(FaultKind::Invalid, format!("this is asked for with `Upgrade: {protocol}`"));
    upgrade.filter(|_| is_meant).ok_or_else(unasked)
}

pub(super) fn agreed(protocol: &'static str) -> Response {
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, protocol)];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

async fn hold(api: Api, caller: Caller, upgrade: OnUpgrade, (record, spec): (SessionRecord, SessionSpec)) {
    let end = match upgrade.await {
        Ok(connection) => carry(TokioIo::new(connection), (&api, &caller), spec).await,
        Err(error) => {
            tracing::debug!(%error, "the client of a session went away before it began");
            SessionEnd::Left
        }
    };
    if let Err(refusal) = api.door.ask(Asked::SessionEnded { record, end }).await {
        tracing::debug!(error = %refusal.fault, "the end of a session is not recorded");
    }
}

/// What its token has opened is not left open.
pub(super) async fn is_over(api: &Api, caller: &Caller) -> Fault {
    match (caller, &api.kept) {
        (Caller::Token(token), Ok(kept)) => {
            Fault::new(FaultKind::Refused, kept.tokens.over(token.record.id).await.as_str())
        }
        (Caller::Token(_) | Caller::Owner { .. }, _) => std::future::pending().await,
    }
}

/// Until the session has ended; a client that leaves, says what is no frame, or has a token that is over, ends it.
async fn carry(
    connection: impl AsyncRead + AsyncWrite,
    (api, caller): (&Api, &Caller),
    spec: SessionSpec,
) -> SessionEnd {
    let (mut read, mut write) = tokio::io::split(connection);
    let (stdin, input) = mpsc::channel(INPUT);
    let (control, controls) = mpsc::channel(CONTROLS);
    let (output, mut outputs) = mpsc::channel(OUTPUT);
    let (told, mut end) = oneshot::channel();
    if api.sessions.send((spec, input, controls, output, told)).await.is_err() {
        return gone();
    }
    let (granted, grants) = mpsc::unbounded_channel();
    let (ended, input_ended) = oneshot::channel();
    let speaking = speak(&mut write, (stdin, granted, input_ended), &mut outputs, &mut end);
    let spoken = tokio::select! {
        spoken = speaking => spoken.ok_or(None),
        () = listen(&mut read, grants, control, ended) => Err(None),
        fault = is_over(api, caller) => Err(Some(fault)),
    };
    // What could be said to the node is dropped by now: that is leaving.
    drop(outputs);
    let denied = match spoken {
        Ok(end) => return end,
        Err(denied) => denied,
    };
    let left = end.await.unwrap_or_else(|_| gone());
    let Some(fault) = denied else { return left };
    let end = SessionEnd::Broken(fault);
    // Whoever does not read is not waited for.
    let _ = tokio::time::timeout(LAST_WORD, say(&mut write, &FromDaemon::End(form(&end)))).await;
    end
}

fn gone() -> SessionEnd {
    SessionEnd::Broken(
        Fault::new(FaultKind::Unreachable, "the daemon is about to exit")
            .caused_by("what a session runs ends with the daemon")
            .hint("run the command again when the next one is there: `bowline status`"),
    )
}

/// Room for one frame of input.
type Permit = mpsc::OwnedPermit<Vec<u8>>;
type Input = (mpsc::Sender<Vec<u8>>, mpsc::UnboundedSender<Permit>, oneshot::Receiver<()>);

/// To the client: output, and that there is room for input. `None`: it does not listen any more.
async fn speak(
    write: &mut (impl AsyncWrite + Unpin),
    (stdin, granted, mut input_ended): Input,
    outputs: &mut mpsc::Receiver<SessionOutput>,
    end: &mut oneshot::Receiver<SessionEnd>,
) -> Option<SessionEnd> {
    let mut stdin = Some(stdin);
    loop {
        let room = async {
            match &stdin {
                Some(stdin) => stdin.clone().reserve_owned().await.ok(),
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            _ = &mut input_ended, if stdin.is_some() => {
                stdin = None;
                continue;
            }
            // At most as many as there is room for: the channel of permits needs no bound of its own.
            permit = room => match permit.map(|permit| granted.send(permit)) {
                Some(Ok(())) => FromDaemon::Ready,
                Some(Err(_)) | None => {
                    stdin = None;
                    continue;
                }
            },
            output = outputs.recv() => match output {
                Some(SessionOutput::Stdout(piece)) => FromDaemon::Stdout(piece.into()),
                Some(SessionOutput::Stderr(piece)) => FromDaemon::Stderr(piece.into()),
                None => break,
            },
        };
        say(write, &frame).await?;
    }
    let end = end.await.unwrap_or_else(|_| gone());
    say(write, &FromDaemon::End(form(&end))).await;
    // A client that has gone by now has missed nothing that anyone could do something about.
    let _ = write.shutdown().await;
    Some(end)
}

async fn say(write: &mut (impl AsyncWrite + Unpin), frame: &FromDaemon) -> Option<()> {
    let mut buffer = BytesMut::new();
    frame.write(&mut buffer);
    write.write_all(&buffer).await.ok()?;
    write.flush().await.ok()
}

/// From the client, until it leaves or breaks the rules.
async fn listen(
    read: &mut (impl AsyncRead + Unpin),
    grants: mpsc::UnboundedReceiver<Permit>,
    control: mpsc::Sender<SessionControl>,
    ended: oneshot::Sender<()>,
) {
    let mut frames = Frames::default();
    let mut input = Some((grants, ended));
    loop {
        let frame = match frames.read(read).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => return tracing::debug!(%error, "a session is ended: its client breaks off"),
        };
        let said = match frame {
            FromClient::Stdin(piece) => {
                let permit = input.as_mut().and_then(|(grants, _)| grants.try_recv().ok());
                let Some(permit) = permit else {
                    return tracing::debug!("a session is ended: its client sends input that there is no room for");
                };
                drop(permit.send(piece.into()));
                continue;
            }
            FromClient::StdinEnd => {
                if let Some((_, ended)) = input.take() {
                    // Whoever grants is about to end.
                    let _ = ended.send(());
                }
                continue;
            }
            FromClient::Resize { columns, rows } => SessionControl::Resize(WindowSize { columns, rows }),
            FromClient::Signal(number) => match SessionSignal::of_number(number) {
                Some(signal) => SessionControl::Signal(signal),
                None => return tracing::debug!(number, "a session is ended: its client sends a signal that is none"),
            },
        };
        if control.send(said).await.is_err() {
            // It has ended; how is being told.
            std::future::pending::<()>().await;
        }
    }
}

fn form(end: &SessionEnd) -> wire::SessionEnd {
    match end {
        SessionEnd::Code(code) => wire::SessionEnd::Exited { code: *code },
        SessionEnd::Signal(signal) => wire::SessionEnd::Killed { signal: *signal },
        SessionEnd::NotExecuted { code, fault } => {
            wire::SessionEnd::NotExecuted { code: *code, fault: fault.clone().into() }
        }
        SessionEnd::Left => {
            wire::SessionEnd::Broken { fault: Fault::new(FaultKind::Failed, "whoever was attached has left").into() }
        }
        SessionEnd::Broken(fault) => wire::SessionEnd::Broken { fault: fault.clone().into() },
    }
}
