//! Keeps the upload filter running: finds the one that an earlier daemon left, starts one when a route needs it, and another one when it ends.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::Table;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::process::{self, Process};
use super::{BACKOFF, LOOK, LinkConfig, SHORT_LIFE};

/// How long one may take until it can be asked.
const START: Duration = Duration::from_secs(5);

/// How often one that runs is asked whether it answers, how long that may take, and how many times in a row it may not.
const ASK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);
const UNANSWERED: u32 = 3;

/// How long one that was told to end may take: as long as it gives the bodies that it judges, and a little more.
const END: Duration = Duration::from_secs(12);

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// No route needs it.
    Unneeded,
    /// It is being started.
    Away,
    Ready {
        pid: u32,
    },
    Failing(Fault),
}

/// The way to whoever keeps it. Dropped, the filter goes on alone.
#[derive(Debug)]
pub(super) struct Keeper {
    needed: watch::Sender<bool>,
    state: watch::Receiver<State>,
    ends: mpsc::Sender<oneshot::Sender<()>>,
}

/// Whether any route has its uploads judged.
pub(super) fn is_needed(table: &Table) -> bool {
    table.sites.values().flat_map(|site| &site.rules).any(|rule| rule.policies.upload.is_some())
}

impl Keeper {
    pub(super) fn new(config: LinkConfig) -> Self {
        let (needed, wanted) = watch::channel(false);
        let (told, state) = watch::channel(State::Unneeded);
        let (ends, asked) = mpsc::channel(1);
        tokio::spawn(Keeping { config, wanted, told, child: None }.run(asked));
        Self { needed, state, ends }
    }

    /// Why no upload can be judged.
    pub(super) fn fault(&self) -> Option<Fault> {
        match &*self.state.borrow() {
            State::Failing(fault) => Some(fault.clone()),
            State::Unneeded | State::Away | State::Ready { .. } => None,
        }
    }

    pub(super) fn needed(&self) {
        self.needed.send_replace(true);
    }

    /// Returns when it can be asked, or when that takes too long, and its absence is told to who asks.
    pub(super) async fn begun(&mut self) {
        let answers = self.state.wait_for(|state| match state {
            State::Ready { .. } | State::Failing(_) => true,
            State::Unneeded | State::Away => false,
        });
        drop(timeout(START, answers).await);
    }

    /// Ends it.
    pub(super) async fn end(&self) {
        let (done, gone) = oneshot::channel();
        if self.ends.send(done).await.is_ok() {
            drop(gone.await);
        }
    }
}

struct Keeping {
    config: LinkConfig,
    wanted: watch::Receiver<bool>,
    told: watch::Sender<State>,
    child: Option<Child>,
}

impl Keeping {
    async fn run(mut self, mut ends: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut pause = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let process = tokio::select! {
                process = self.process() => process,
                asked = ends.recv() => return self.leave(None, asked).await,
            };
            match process {
                Ok(process) => {
                    self.told.send_replace(State::Ready { pid: process.pid });
                    let socket = self.config.upload_socket();
                    tokio::select! {
                        () = process.ended() => tracing::warn!(pid = process.pid, "the upload filter ended"),
                        () = unanswered(&socket) => {
                            tracing::warn!(pid = process.pid, "the upload filter answers no more, and is replaced");
                            process.kill();
                            // What even that does not end has no socket once the next one has.
                            drop(timeout(END, process.ended()).await);
                        }
                        asked = ends.recv() => return self.leave(Some(process), asked).await,
                    }
                    self.told.send_replace(State::Away);
                }
                Err(error) => {
                    let fault = self.fault(&error);
                    tracing::warn!(%fault, causes = ?fault.causes, "uploads cannot be judged");
                    self.told.send_replace(State::Failing(fault));
                }
            }
            self.end_child().await;
            if begun.elapsed() > SHORT_LIFE {
                pause = Duration::ZERO;
            }
            tokio::select! {
                () = sleep(pause) => {}
                asked = ends.recv() => return self.leave(None, asked).await,
            }
            // The first restart is at once.
            pause = (pause * 2).clamp(BACKOFF.0, BACKOFF.1);
        }
    }

    /// The one that runs, else a new one, once it is needed.
    async fn process(&mut self) -> io::Result<Process> {
        let found = running(&self.config.upload_socket()).await;
        if let Ok(process) = found {
            if process.is_of(&self.config.own_exe) {
                tracing::info!(pid = process.pid, "found the upload filter");
                return Ok(process);
            }
            tracing::info!(pid = process.pid, "an upload filter of another binary is replaced");
            // It ends by itself when another one is where it was.
            return self.start().await;
        }
        if self.wanted.wait_for(|wanted| *wanted).await.is_err() {
            // The daemon lets go: whoever keeps this hears of it, too.
            std::future::pending::<()>().await;
        }
        self.told.send_if_modified(|state| match state {
            State::Unneeded => {
                *state = State::Away;
                true
            }
            State::Away | State::Ready { .. } | State::Failing(_) => false,
        });
        self.start().await
    }

    async fn start(&mut self) -> io::Result<Process> {
        let child = process::start_filter(&self.config)?;
        let pid = child.id().unwrap_or_default();
        let child = self.child.insert(child);
        let socket = self.config.upload_socket();
        let answers = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return Err(io::Error::other(status.to_string()));
                }
                if let Ok(process) = running(&socket).await
                    && process.pid == pid
                {
                    return Ok(process);
                }
                sleep(LOOK).await;
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} does not answer in time"));
        let process = timeout(START, answers).await.map_err(late)??;
        tracing::info!(pid, "the upload filter is started");
        Ok(process)
    }

    fn fault(&self, error: &io::Error) -> Fault {
        let fault = Fault::new(FaultKind::Failed, "the upload filter cannot be started")
            .source(error)
            .hint("uploads are answered 503 until it runs; bowline starts it again by itself");
        match process::last_lines(&self.config.upload_log) {
            Some(lines) => fault.detail(lines),
            None => fault,
        }
    }

    /// One that has ended is waited for, and one that is of no use is ended.
    async fn end_child(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "the upload filter cannot be ended");
        }
    }

    /// `asked`: that it ends; `None`: it goes on.
    async fn leave(mut self, process: Option<Process>, asked: Option<oneshot::Sender<()>>) {
        let Some(done) = asked else { return };
        if let Some(process) = process {
            end(&process).await;
        }
        self.end_child().await;
        let _ = done.send(());
    }
}

/// Ends the one of this state, if one runs.
pub(super) async fn end_found(socket: &Path) {
    if let Ok(process) = running(socket).await {
        end(&process).await;
    }
}

async fn end(process: &Process) {
    process.signal(Signal::TERM);
    if timeout(END, process.ended()).await.is_err() {
        process.kill();
    }
}

/// Returns when one that runs has not answered for some time: Envoy has given it up by then.
async fn unanswered(socket: &Path) {
    let mut failed = 0;
    while failed < UNANSWERED {
        sleep(ASK).await;
        match timeout(ANSWER, asked(socket)).await {
            Ok(Ok(())) => failed = 0,
            Ok(Err(_)) | Err(_) => failed += 1,
        }
    }
}

/// Returns when it has answered anything, by the way that Envoy's questions take.
async fn asked(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket).await?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let request = http::Request::post("http://localhost/health").body(()).map_err(io::Error::other)?;
    let answered = async {
        let (answer, _) = sender.ready().await?.send_request(request, true)?;
        answer.await.map(drop)
    };
    tokio::select! {
        answered = answered => answered.map_err(io::Error::other),
        ended = connection => Err(ended.map_or_else(io::Error::other, |()| io::ErrorKind::ConnectionAborted.into())),
    }
}

/// Whoever listens on the socket, if it is a filter of this state.
async fn running(socket: &Path) -> io::Result<Process> {
    let stream = UnixStream::connect(socket).await?;
    let pid = stream.peer_cred()?.pid().ok_or_else(|| io::Error::other("nobody says which process it is"))?;
    Process::with(u32::try_from(pid).map_err(io::Error::other)?, socket.as_os_str())
}

impl Process {
    /// Whether it is of this binary. One that nobody can tell of is not.
    fn is_of(&self, exe: &Path) -> bool {
        let of = |path: &OsStr| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
        let own = of(OsStr::new(&format!("/proc/{}/exe", self.pid)));
        own.is_some() && own == of(exe.as_os_str())
    }
}
