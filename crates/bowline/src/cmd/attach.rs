//! Being attached to a command: its streams are this process's, and its exit code becomes this process's.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::process::ExitCode;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bowline_api::session::{FromClient, FromDaemon, SessionReader, SessionWriter};
use bowline_api::{ClientError, wire};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppName, EnvName};
use bowline_core::session::{MAX_PIECE, SessionSignal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::target::Target;
use crate::ui::Ui;

/// Where a command is to be run, and how it is to be attached to.
pub(super) struct Attachment {
    pub(super) env: String,
    pub(super) app: String,
    pub(super) place: wire::SessionPlace,
    pub(super) service: Option<String>,
    pub(super) instance: Option<u16>,
    pub(super) tty: bool,
    pub(super) command: Vec<String>,
}

/// What a shell adds to the number of the signal that ended a command.
pub(super) const BY_SIGNAL: u8 = 128;
/// A program that writes to a pipe that nobody reads is ended by this signal (signal(7)).
pub(super) const BROKEN_PIPE: u8 = 13;

/// A piece of output with `--json`: bytes are bytes, so they are sent as base64.
#[derive(Serialize)]
struct Piece {
    kind: &'static str,
    base64: String,
}

pub(super) fn run(attachment: Attachment, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    check(&attachment, ui)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultKind::Failed, "the runtime cannot be started").source(&e))?;
    let ended = runtime.block_on(attach(attachment, target, ui));
    // A write that nobody takes must not keep a process that was interrupted.
    runtime.shutdown_background();
    match ended? {
        Way::Ended(end) => finish(end, ui),
        Way::Broken(error) => Err(error.into()),
        Way::By(signal) => Ok(ExitCode::from(BY_SIGNAL + signal)),
    }
}

pub(super) fn check(attachment: &Attachment, ui: &Ui) -> Result<(), Fault> {
    let wrong = |what: &str, text: &str, e: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, format!("{text:?} is not the name of {what}")).source(e)
    };
    AppName::new(&attachment.app).map_err(|e| wrong("an app", &attachment.app, &e))?;
    EnvName::new(&attachment.env).map_err(|e| wrong("an environment", &attachment.env, &e))?;
    if attachment.tty && ui.is_json() {
        let fault = Fault::new(FaultKind::Invalid, "--tty and --json do not go together");
        return Err(fault.hint("a terminal is for a person: leave one of them out"));
    }
    if attachment.tty && !std::io::stdin().is_terminal() {
        let fault = Fault::new(FaultKind::Invalid, "--tty: standard input is no terminal");
        return Err(fault.hint("leave --tty out: what is piped in is passed on to the command"));
    }
    Ok(())
}

/// How it came to its end here.
enum Way {
    Ended(wire::SessionEnd),
    Broken(ClientError),
    /// Left because of this signal, or as by it: the command is killed.
    By(u8),
}

pub(super) fn finish(end: wire::SessionEnd, ui: &Ui) -> Result<ExitCode, Fault> {
    ui.object(&end);
    // An exit status has eight bits (XCU 2.8.2), and more than that is not said here either.
    let code = |code: i32| ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1));
    match end {
        wire::SessionEnd::Exited { code: number } => Ok(code(number)),
        wire::SessionEnd::Killed { signal } => Ok(code(i32::from(BY_SIGNAL) + signal)),
        wire::SessionEnd::NotExecuted { code: number, fault } => {
            if !ui.is_json() {
                ui.fault(&fault.into());
            }
            Ok(code(number))
        }
        wire::SessionEnd::Broken { fault } if ui.is_json() => Ok(ExitCode::from(Fault::from(fault).kind.exit_code())),
        wire::SessionEnd::Broken { fault } => Err(fault.into()),
    }
}

async fn attach(attachment: Attachment, target: &Target, ui: &Ui) -> Result<Way, Fault> {
    let Attachment { env, app, place, service, instance, tty, command } = attachment;
    let terminal = tty.then(terminal).transpose()?;
    let mut signals = Signals::catch(tty)?;
    let client = target.join().await?.client;
    let wanted = wire::Session { place, service, instance, command, terminal };
    let session = client.session(&env, &app, &wanted).await?;
    let raw = tty.then(Raw::enter).transpose()?;
    let (asks, asked) = std::sync::mpsc::channel();
    let (pieces, input) = mpsc::channel(1);
    // Reading standard input cannot be cancelled: its thread ends with the process.
    std::thread::spawn(move || read_input(&asked, &pieces));
    let way = tokio::select! {
        way = listen(session.reader, asks, ui.is_json()) => way,
        way = speak(session.writer, input, &mut signals, tty) => way,
    };
    drop(raw);
    Ok(way)
}

/// From the daemon: output, and that there is room for one more piece of input.
async fn listen(mut reader: SessionReader, asks: std::sync::mpsc::Sender<()>, json: bool) -> Way {
    let (mut stdout, mut stderr) = match (beside(std::io::stdout()), beside(std::io::stderr())) {
        (Ok(stdout), Ok(stderr)) => (stdout, stderr),
        // There is no standard output to write to.
        (Err(_), _) | (_, Err(_)) => return Way::By(BROKEN_PIPE),
    };
    loop {
        let written = match reader.next().await {
            Ok(FromDaemon::Ready) => {
                // Its thread has ended with the input.
                let _ = asks.send(());
                continue;
            }
            Ok(FromDaemon::Stdout(piece)) if json => write(&mut stdout, &object("stdout", &piece)).await,
            Ok(FromDaemon::Stderr(piece)) if json => write(&mut stdout, &object("stderr", &piece)).await,
            Ok(FromDaemon::Stdout(piece)) => write(&mut stdout, &piece).await,
            Ok(FromDaemon::Stderr(piece)) => write(&mut stderr, &piece).await,
            Ok(FromDaemon::End(end)) => return Way::Ended(end),
            Err(error) => return Way::Broken(error),
        };
        if written.is_err() {
            // `bowline exec … | head` has seen enough.
            return Way::By(BROKEN_PIPE);
        }
    }
}

/// A stream that is written to beside the loop: one that nobody reads must not keep signals from being heard.
pub(super) fn beside(stream: impl AsFd) -> std::io::Result<tokio::fs::File> {
    Ok(tokio::fs::File::from_std(stream.as_fd().try_clone_to_owned()?.into()))
}

pub(super) fn object(kind: &'static str, piece: &[u8]) -> Vec<u8> {
    let piece = Piece { kind, base64: BASE64_STANDARD.encode(piece) };
    let mut line = serde_json::to_vec(&piece).expect("a piece has string keys and no failing serialisers");
    line.push(b'\n');
    line
}

pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// To the daemon: input, signals, and the terminal's size. A signal that asks to end is passed on, and obeyed when it comes again.
async fn speak(mut writer: SessionWriter, mut input: mpsc::Receiver<Vec<u8>>, signals: &mut Signals, tty: bool) -> Way {
    let mut ended = false;
    let mut asked_before = false;
    loop {
        let frame = tokio::select! {
            piece = input.recv(), if !ended => match piece {
                Some(piece) => FromClient::Stdin(piece.into()),
                None => {
                    ended = true;
                    FromClient::StdinEnd
                }
            },
            caught = signals.next() => match caught {
                Caught::Hangup => return Way::By(SessionSignal::Hangup.number()),
                Caught::Resized => match tcgetwinsize(std::io::stdin()) {
                    Ok(size) if tty => FromClient::Resize { columns: size.ws_col, rows: size.ws_row },
                    Ok(_) | Err(_) => continue,
                },
                Caught::Ask(signal) if asked_before => return Way::By(signal.number()),
                Caught::Ask(signal) => {
                    asked_before = true;
                    FromClient::Signal(signal.number())
                }
                Caught::PassOn(signal) => FromClient::Signal(signal.number()),
            },
        };
        if writer.send(&frame).await.is_err() {
            // The other direction knows why.
            std::future::pending::<()>().await;
        }
    }
}

/// One piece each time it is asked for, so that no input is taken that the command may never get.
pub(super) fn read_input(asked: &std::sync::mpsc::Receiver<()>, pieces: &mpsc::Sender<Vec<u8>>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; MAX_PIECE];
    while asked.recv().is_ok() {
        match stdin.read(&mut buffer) {
            // An error: there is no standard input.
            Ok(0) | Err(_) => return,
            Ok(length) if pieces.blocking_send(buffer[..length].to_vec()).is_err() => return,
            Ok(_) => {}
        }
    }
}

fn terminal() -> Result<wire::Terminal, Fault> {
    let size = tcgetwinsize(std::io::stdin()).map_err(|e| no_terminal(&e))?;
    let name = std::env::var("TERM").ok().filter(|name| !name.is_empty());
    Ok(wire::Terminal { columns: size.ws_col, rows: size.ws_row, name })
}

fn no_terminal(error: &rustix::io::Errno) -> Fault {
    Fault::new(FaultKind::Failed, "the terminal cannot be used").source(error).hint("leave --tty out")
}

/// The terminal passes every key on as it is, until this is dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> Result<Self, Fault> {
        let before = tcgetattr(std::io::stdin()).map_err(|e| no_terminal(&e))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(|e| no_terminal(&e))?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

pub(super) enum Caught {
    /// The terminal has gone.
    Hangup,
    Resized,
    /// It asks to end.
    Ask(SessionSignal),
    PassOn(SessionSignal),
}

pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    user1: Signal,
    user2: Signal,
    /// Only of a terminal's size.
    window: Option<Signal>,
}

impl Signals {
    pub(super) fn catch(tty: bool) -> Result<Self, Fault> {
        let catch = |kind: SignalKind| {
            signal(kind).map_err(|e| Fault::new(FaultKind::Failed, "signals cannot be caught").source(&e))
        };
        Ok(Self {
            hangup: catch(SignalKind::hangup())?,
            interrupt: catch(SignalKind::interrupt())?,
            quit: catch(SignalKind::quit())?,
            terminate: catch(SignalKind::terminate())?,
            user1: catch(SignalKind::user_defined1())?,
            user2: catch(SignalKind::user_defined2())?,
            window: tty.then(|| catch(SignalKind::window_change())).transpose()?,
        })
    }

    pub(super) async fn next(&mut self) -> Caught {
        let window = async {
            match &mut self.window {
                Some(window) => window.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.hangup.recv() => Caught::Hangup,
            _ = self.interrupt.recv() => Caught::Ask(SessionSignal::Interrupt),
            _ = self.quit.recv() => Caught::Ask(SessionSignal::Quit),
            _ = self.terminate.recv() => Caught::Ask(SessionSignal::Terminate),
            _ = self.user1.recv() => Caught::PassOn(SessionSignal::User1),
            _ = self.user2.recv() => Caught::PassOn(SessionSignal::User2),
            _ = window => Caught::Resized,
        }
    }
}
