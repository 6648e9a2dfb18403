//! One life of an edge, as its daemon sees it.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::Generation;
use bowline_core::route::{EdgeDesired, EdgeObservation, EdgeStatus, Part, Refusal};
use bowline_fault_points::{Point, reach};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::line::Line;
use super::spawn::Kind;
use super::succession::{self, Remaining, Remains, Successor};
use super::{LinkConfig, address, spawn, stray};
use crate::process::Sockets;
use crate::wire::{Channel, ChannelError, FromEdge, PROTOCOL, ToEdge};

/// How long an edge may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// How often an edge is asked whether it is alive …
const PING_EVERY: Duration = Duration::from_secs(3);
/// … how many questions in a row it may leave unanswered …
const MAX_UNANSWERED: u32 = 5;
/// … and how long it may take to take up a frame.
const SILENCE: Duration = PING_EVERY.saturating_mul(MAX_UNANSWERED);

/// How long it takes until another successor is tried after one that did not come to serve.
const RENEW_PAUSE: Duration = Duration::from_secs(15);

/// How much longer than its own limit a draining edge may take.
const DRAIN_SLACK: Duration = Duration::from_secs(5);

pub(super) type Requests = mpsc::Receiver<(Duration, oneshot::Sender<()>)>;

/// How a session ended.
pub(super) enum Ended {
    /// As asked; the one who asked is to be told.
    Shutdown(oneshot::Sender<()>),
    /// The daemon lets go; the edge goes on.
    Left,
    Lost(Fault),
}

pub(super) struct Session {
    config: LinkConfig,
    wanted: watch::Receiver<Arc<EdgeDesired>>,
    observed: watch::Sender<Arc<EdgeObservation>>,
    /// See [`super::Handle::renew`].
    may_renew: watch::Receiver<bool>,
    /// What was last heard of this edge alone.
    own: Remaining,
    /// It has told what it does: before that nobody knows what one that is to retire still has to answer.
    heard: bool,
    /// The process of an edge that is about to retire, if it is this process's child.
    leaving: Option<Child>,
    /// The latest table that it did not take.
    refused: Option<Generation>,
    /// Edges before this one that retire.
    remains: watch::Sender<Remains>,
    sockets: Option<Sockets>,
    child: Option<Child>,
}

pub(super) struct Greeting {
    pid: u32,
    protocol: u32,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    pub(super) serving: Option<u64>,
    /// It takes changes.
    pub(super) changes: bool,
    /// Came behind the hello.
    pub(super) frames: Vec<FromEdge>,
}

/// Why [`Session::stay`] returned.
enum Stayed {
    Ended(Ended),
    /// The edge is of another binary, and is to be replaced.
    Renew(Line),
}

pub(super) fn lost(error: &dyn std::error::Error, what: &str) -> Fault {
    Fault::new(FaultKind::Failed, what).source(error).hint("bowline starts it again by itself")
}

impl Session {
    pub(super) fn new(
        config: LinkConfig,
        wanted: watch::Receiver<Arc<EdgeDesired>>,
        observed: watch::Sender<Arc<EdgeObservation>>,
        may_renew: watch::Receiver<bool>,
    ) -> Self {
        let (own, remains) = (Remaining::default(), watch::Sender::default());
        let (leaving, sockets, child) = (None, None, None);
        Self { config, wanted, observed, may_renew, own, heard: false, leaving, refused: None, remains, sockets, child }
    }

    pub(super) fn publish(&self, change: impl FnOnce(&mut EdgeObservation)) {
        self.observed.send_modify(|seen| change(Arc::make_mut(seen)));
    }

    /// Finds or starts an edge and stays with it, and with each that takes its place.
    pub(super) async fn run(&mut self, requests: &mut Requests) -> Ended {
        let (mut line, greeting) = match self.edge().await {
            Ok(edge) => edge,
            Err(fault) => return Ended::Lost(fault),
        };
        let mut pid = greeting.pid;
        self.welcome(greeting);
        stray::retire_all_but(pid, &self.config.log_dir);
        let mut rested = Instant::now();
        loop {
            let renew_at = (!spawn::is_of(&self.config, pid)).then_some(rested);
            let before = match self.stay(line, pid, renew_at, requests).await {
                Stayed::Ended(ended) => return ended,
                Stayed::Renew(before) => before,
            };
            match self.succeed().await {
                Ok((next, greeting)) => {
                    self.retire(before, pid);
                    (line, pid) = (next, greeting.pid);
                    self.welcome(greeting);
                }
                Err(fault) => {
                    tracing::error!(%fault, causes = ?fault.causes, detail = fault.detail, "the edge before serves on");
                    (line, rested) = (before, Instant::now() + RENEW_PAUSE);
                }
            }
        }
    }

    /// Publishes what an edge says of itself when it is met.
    fn welcome(&mut self, greeting: Greeting) {
        let [http, https] = [greeting.http, greeting.https].map(|at| at.map(tracing::field::display));
        tracing::info!(pid = greeting.pid, http, https, "connected to the edge");
        // Counters begin anew with the process: what is known of another one is forgotten.
        self.publish(|seen| {
            let fresh = EdgeObservation {
                status: EdgeStatus::Connected,
                http: greeting.http,
                https: greeting.https,
                serving: greeting.serving.map(Generation),
                pid: greeting.pid,
                ..EdgeObservation::default()
            };
            let same = std::mem::take(seen);
            *seen = if same.pid == greeting.pid {
                EdgeObservation { status: EdgeStatus::Connected, ..same }
            } else {
                fresh
            };
            succession::add(&self.remains.borrow(), seen);
        });
        self.own = Remaining { serving: greeting.serving.map(Generation), ..Remaining::default() };
        self.heard = false;
        for frame in greeting.frames {
            self.hear(frame);
        }
    }

    /// Another edge on the same sockets, which serves what is wanted.
    async fn succeed(&mut self) -> Result<(Line, Greeting), Fault> {
        let Some(sockets) = &self.sockets else {
            return Err(Fault::new(FaultKind::Failed, "the listening sockets are not known"));
        };
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        let wanted = (wanted.table.generation > Generation(0)).then_some(wanted);
        let Successor { line, greeting, child, sockets } = succession::start(&self.config, sockets, wanted).await?;
        self.sockets = Some(sockets);
        let before = self.child.replace(child);
        self.leaving = before;
        Ok((line, greeting))
    }

    /// Lets the edge before go in its own time.
    fn retire(&mut self, line: Line, pid: u32) {
        // Before the next edge is published: at no moment is a request of this one not counted.
        self.remains.send_modify(|remains| drop(remains.insert(pid, self.own.clone())));
        let before = (pid, self.leaving.take());
        tokio::spawn(succession::retire(line, before, self.wanted.clone(), self.remains.clone()));
    }

    fn socket_path(&self) -> PathBuf {
        self.config.run_dir.join("edge.sock")
    }

    /// A connection to an edge with the right sockets.
    async fn edge(&mut self) -> Result<(Line, Greeting), Fault> {
        if self.sockets.is_none()
            && let Some((mut channel, mut greeting)) = self.running().await?
        {
            if self.fits(&greeting) {
                let sockets = take_sockets(&mut channel, &mut greeting.frames).await?;
                if greeting.protocol == PROTOCOL {
                    self.sockets = Some(sockets);
                    return Ok((Line::new(channel, &greeting), greeting));
                }
                return self.replace_foreign(channel, &greeting, &sockets).await;
            }
            self.replace(channel).await?;
        }
        let sockets = match self.sockets.take() {
            Some(sockets) => sockets,
            None => {
                stray::end(&self.config.log_dir).await;
                self.bind()?
            }
        };
        let started = spawn::start(&self.config, &sockets, Kind::First);
        self.sockets = Some(sockets);
        self.child = Some(started.map_err(|error| {
            let what = format!("the edge cannot be started from {}", self.config.exe.display());
            Fault::new(FaultKind::Failed, what)
                .source(&error)
                .hint("is its file system mounted noexec? --state DIR chooses another folder")
        })?);
        self.connect_to_child().await
    }

    /// An edge that an earlier daemon left.
    async fn running(&self) -> Result<Option<(Channel, Greeting)>, Fault> {
        let Ok(stream) = UnixStream::connect(self.socket_path()).await else { return Ok(None) };
        let mut channel = Channel::new(stream);
        match greet(&mut channel, self.config.uid).await {
            Ok(greeting) => Ok(Some((channel, greeting))),
            Err(error) => Err(lost(&error, "an edge is running, but does not answer")
                .hint("end that process (its command is `bowline edge`), then try again")),
        }
    }

    /// An edge that speaks another protocol can be told nothing but to go. New connections wait in the sockets' queues until
    /// the next edge has its first table.
    async fn replace_foreign(
        &mut self,
        mut channel: Channel,
        greeting: &Greeting,
        sockets: &Sockets,
    ) -> Result<(Line, Greeting), Fault> {
        tracing::info!(pid = greeting.pid, protocol = greeting.protocol, own = PROTOCOL, "replacing a foreign edge");
        let next = succession::start(&self.config, sockets, None).await?;
        self.sockets = Some(next.sockets);
        self.child = Some(next.child);
        say(&mut channel, &ToEdge::Retire).await.map_err(|e| lost(&e, "the edge before cannot be told to retire"))?;
        Ok((next.line, next.greeting))
    }

    fn fits(&self, greeting: &Greeting) -> bool {
        let same = |wanted: Option<SocketAddr>, held: Option<SocketAddr>| match (wanted, held) {
            (Some(wanted), Some(held)) => {
                wanted.ip() == held.ip() && (wanted.port() == 0 || wanted.port() == held.port())
            }
            (wanted, held) => wanted.is_none() && held.is_none(),
        };
        same(Some(self.config.http), greeting.http) && same(self.config.https, greeting.https)
    }

    /// Ends an edge that listens elsewhere than wanted.
    async fn replace(&self, mut channel: Channel) -> Result<(), Fault> {
        let what = "an edge that listens on other addresses does not end";
        tracing::info!("replacing an edge that listens on other addresses");
        let ended = timeout(HELLO_TIME, async {
            channel.send(&ToEdge::Shutdown { limit_ms: 1000 }, &[]).await?;
            while channel.receive::<FromEdge>().await?.is_some() {}
            Ok::<_, ChannelError>(())
        });
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost(&error, what)),
            Err(error) => Err(lost(&error, what)),
        }
    }

    fn bind(&self) -> Result<Sockets, Fault> {
        let http = address::bind("the edge", "--http", self.config.http, self.config.holder_of)?;
        let https = self
            .config
            .https
            .map(|https| address::bind("the edge", "--https", https, self.config.holder_of))
            .transpose()?;
        let path = self.socket_path();
        let control = bind_control(&path).map_err(|error| {
            Fault::new(FaultKind::Failed, format!("the control socket {} cannot be made", path.display()))
                .source(&error)
                .hint("is there room on its disk, and may this user write there?")
        })?;
        Ok(Sockets { control, http: Some(http), https })
    }

    async fn connect_to_child(&mut self) -> Result<(Line, Greeting), Fault> {
        let (path, uid, log_dir) = (self.socket_path(), self.config.uid, self.config.log_dir.clone());
        let hello = async {
            let stream = UnixStream::connect(&path).await?;
            let mut channel = Channel::new(stream);
            let greeting = greet(&mut channel, uid).await?;
            Ok::<_, ChannelError>((Line::new(channel, &greeting), greeting))
        };
        let died = async {
            match &mut self.child {
                Some(child) => child.wait().await,
                None => std::future::pending().await,
            }
        };
        let fault = tokio::select! {
            hello = hello => match hello {
                Ok(edge) => return Ok(edge),
                Err(error) => lost(&error, "the edge was started, but does not answer"),
            },
            status = died => {
                let fault = Fault::new(FaultKind::Failed, "the edge ended as soon as it was started");
                match status {
                    Ok(status) => fault.caused_by(status.to_string()),
                    Err(error) => fault.source(&error),
                }
            }
        };
        self.end_child().await;
        Err(match spawn::last_lines(&log_dir) {
            Some(lines) => fault.detail(lines),
            None => fault,
        })
    }

    /// Makes sure that a child that is of no use is gone: two edges must not share the sockets.
    async fn end_child(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "the edge cannot be ended");
        }
    }

    /// Feeds the edge and listens to it, until it is lost or no longer wanted.
    /// `renew_at`: when it may be replaced.
    async fn stay(&mut self, mut line: Line, pid: u32, renew_at: Option<Instant>, requests: &mut Requests) -> Stayed {
        // Questions are counted, not time: a daemon that was itself stopped, as by a suspended machine or one short of
        // memory, has not listened, and must not take that for the edge's silence.
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        // What was set before this edge came.
        if self.wanted.borrow().table.generation > Generation(0) {
            self.wanted.mark_changed();
        }
        let (mut may_renew, mut remains) = (self.may_renew.clone(), self.remains.subscribe());
        let mut renew = std::pin::pin!(async {
            match renew_at {
                // The daemon is gone when nobody can say so any more.
                Some(at) if may_renew.wait_for(|may| *may).await.is_ok() => tokio::time::sleep_until(at).await,
                Some(_) | None => std::future::pending().await,
            }
        });
        loop {
            let heard = self.heard;
            let step = tokio::select! {
                () = &mut renew, if heard => return Stayed::Renew(line),
                Ok(()) = remains.changed() => {
                    self.add_remains();
                    Ok(())
                }
                received = line.receive() => {
                    unanswered = 0;
                    match received {
                        Ok(Some((FromEdge::WantsWhole { generation }, _))) => {
                            tracing::info!(generation, "the edge wants the whole");
                            self.wanted.mark_changed();
                            Ok(())
                        }
                        Ok(Some((frame, _))) => {
                            self.hear(frame);
                            Ok(())
                        }
                        Ok(None) => return Stayed::Ended(Ended::Lost(self.death(pid).await)),
                        Err(error) => Err(error),
                    }
                }
                changed = self.wanted.changed() => match changed {
                    Ok(()) => {
                        let wanted = Arc::clone(&self.wanted.borrow_and_update());
                        line.serve(&wanted).await
                    }
                    Err(_) => return Stayed::Ended(Ended::Left),
                },
                request = requests.recv() => match request {
                    Some((limit, done)) => {
                        self.drain(line, limit).await;
                        return Stayed::Ended(Ended::Shutdown(done));
                    }
                    None => return Stayed::Ended(Ended::Left),
                },
                _ = ping.tick() => {
                    if unanswered >= MAX_UNANSWERED {
                        kill(pid);
                        self.end_child().await;
                        let what = format!("the edge (process {pid}) was silent for {} s", SILENCE.as_secs());
                        return Stayed::Ended(Ended::Lost(Fault::new(FaultKind::Failed, what)));
                    }
                    unanswered += 1;
                    line.say(&ToEdge::Hello { protocol: PROTOCOL }).await
                }
            };
            if let Err(error) = step {
                let fault = self.death(pid).await;
                return Stayed::Ended(Ended::Lost(fault.source(&error)));
            }
        }
    }

    fn hear(&mut self, frame: FromEdge) {
        match frame {
            FromEdge::Observation(frame) => {
                self.heard = true;
                // Whoever says what is served need not be told.
                let is_told = self.wanted.borrow().table.generation > Generation(0);
                let (own, remains) = (&mut self.own, self.remains.borrow());
                let is_later = self.refused.is_some_and(|refused| frame.serving >= Some(refused.0));
                self.refused.take_if(|_| is_later);
                self.observed.send_modify(|seen| {
                    let seen = Arc::make_mut(seen);
                    frame.apply(seen);
                    if is_later {
                        (seen.refusal, seen.refusals) = (None, Vec::new());
                    }
                    if is_told {
                        seen.table = None;
                    }
                    *own = Remaining::of(seen);
                    succession::add(&remains, seen);
                });
            }
            // The observation behind it says so, too, and what is outstanding by then: with what was known before, an instance that has
            // just left the table and has had its last request meanwhile would be taken for done, and ended under that request.
            FromEdge::Serving { .. } => reach(Point::TableAcknowledgementHeard),
            FromEdge::Refused { generation, reason } => {
                tracing::error!(generation, reason, "the edge refused a desired state");
                self.refuse(Generation(generation), &reason);
            }
            FromEdge::Hello { .. } | FromEdge::Listeners { .. } | FromEdge::WantsWhole { .. } => {}
        }
    }

    /// It goes on with what it serves. Who holds a later table than it was told has nothing to learn from the one before.
    fn refuse(&mut self, generation: Generation, reason: &str) {
        if self.own.serving >= Some(generation) {
            return;
        }
        self.refused = Some(generation);
        let fault = Fault::new(FaultKind::Failed, "the edge refused what it is to serve").caused_by(reason);
        self.publish(|seen| {
            seen.refusal = Some(fault.clone());
            seen.refusals = vec![Refusal { apps: BTreeSet::new(), part: Part::Table, fault }];
        });
    }

    /// Publishes anew what this edge does, with what those before it still do.
    fn add_remains(&mut self) {
        let (own, remains) = (self.own.clone(), self.remains.borrow().clone());
        self.publish(|seen| {
            own.put(seen);
            succession::add(&remains, seen);
        });
    }

    /// The connection ended: makes sure that the process did, too, and says how.
    async fn death(&mut self, pid: u32) -> Fault {
        let fault = Fault::new(FaultKind::Failed, format!("the edge (process {pid}) ended"));
        let Some(mut child) = self.child.take() else {
            kill(pid);
            return fault;
        };
        let status = match timeout(Duration::from_millis(200), child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                // It closed its connection but lives: it is not fit to serve.
                drop(child.start_kill());
                child.wait().await
            }
        };
        match status {
            Ok(status) => fault.caused_by(status.to_string()),
            Err(error) => fault.source(&error),
        }
    }

    async fn drain(&mut self, mut line: Line, limit: Duration) {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let ended = timeout(limit + DRAIN_SLACK, async {
            line.say(&ToEdge::Shutdown { limit_ms }).await?;
            while let Some((frame, _)) = line.receive().await? {
                self.hear(frame);
            }
            Ok::<_, ChannelError>(())
        });
        if !matches!(ended.await, Ok(Ok(()))) {
            tracing::warn!("the edge did not drain in time");
        }
        if let Some(mut child) = self.child.take()
            && timeout(DRAIN_SLACK, child.wait()).await.is_err()
        {
            drop(child.kill().await);
        }
        self.sockets = None;
        // Those that retire still have nobody left to lead requests to.
        stray::end(&self.config.log_dir).await;
        // Gone already, or in the way of nobody.
        drop(std::fs::remove_file(self.socket_path()));
    }
}

/// Ends an edge that is no child of this daemon.
fn kill(pid: u32) {
    let Ok(raw) = i32::try_from(pid) else { return };
    let is_edge = std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == b"--control-fd"));
    if is_edge {
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(raw), nix::sys::signal::Signal::SIGKILL);
    }
}

pub(super) fn bind_control(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends a frame to an edge that takes it up in time: one that does not read would block the session for good.
pub(super) async fn say(channel: &mut Channel, frame: &ToEdge) -> Result<(), ChannelError> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("it took up nothing for {} s", SILENCE.as_secs()));
    timeout(SILENCE, channel.send(frame, &[])).await.unwrap_or_else(|_| Err(late().into()))
}

pub(super) async fn greet(channel: &mut Channel, uid: Option<u32>) -> Result<Greeting, ChannelError> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "no hello in time");
    channel.check_peer(uid)?;
    let hello = timeout(HELLO_TIME, async {
        channel.send(&ToEdge::Hello { protocol: PROTOCOL }, &[]).await?;
        loop {
            match channel.receive::<FromEdge>().await? {
                Some((FromEdge::Hello { protocol, pid, http, https, serving, changes }, _)) => {
                    return Ok(Greeting { pid, protocol, http, https, serving, changes, frames: Vec::new() });
                }
                Some(_) => {}
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        }
    });
    hello.await.unwrap_or_else(|_| Err(silent().into()))
}

/// Duplicates of the sockets that a running edge serves.
async fn take_sockets(channel: &mut Channel, frames: &mut Vec<FromEdge>) -> Result<Sockets, Fault> {
    let what = "the running edge does not hand over its sockets";
    let asked = timeout(HELLO_TIME, async {
        channel.send(&ToEdge::Listeners, &[]).await?;
        // The kernel may deliver descriptors with the frame before theirs.
        let mut fds: Vec<OwnedFd> = Vec::new();
        loop {
            let Some((frame, some)) = channel.receive::<FromEdge>().await? else {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            };
            fds.extend(some);
            match frame {
                FromEdge::Listeners { http, https } => return Ok((fds, http, https)),
                other @ (FromEdge::Hello { .. }
                | FromEdge::Serving { .. }
                | FromEdge::Refused { .. }
                | FromEdge::WantsWhole { .. }
                | FromEdge::Observation(_)) => frames.push(other),
            }
        }
    });
    let (fds, http, https) = match asked.await {
        Ok(Ok(listeners)) => listeners,
        Ok(Err::<_, ChannelError>(error)) => return Err(lost(&error, what)),
        Err(error) => return Err(lost(&error, what)),
    };
    let mut fds = fds.into_iter();
    let control = fds.next().map(UnixListener::from);
    let mut next = |is_there: bool| if is_there { fds.next().map(TcpListener::from) } else { None };
    let (http_socket, https_socket) = (next(http), next(https));
    match control {
        Some(control) if http_socket.is_some() == http && https_socket.is_some() == https => {
            Ok(Sockets { control, http: http_socket, https: https_socket })
        }
        Some(_) | None => Err(Fault::new(FaultKind::Failed, what)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::ObservationFrame;

    fn session() -> Session {
        let config = LinkConfig {
            exe: PathBuf::new(),
            args: Vec::new(),
            run_dir: PathBuf::new(),
            log_dir: PathBuf::new(),
            http: ([127, 0, 0, 1], 0).into(),
            https: None,
            uid: None,
            workers: 1,
            holder_of: |_| None,
        };
        let (wanted, observed, may_renew) =
            (watch::channel(Arc::default()).1, watch::channel(Arc::default()).0, watch::channel(false).1);
        Session::new(config, wanted, observed, may_renew)
    }

    #[test]
    fn a_table_is_served_when_what_is_outstanding_by_then_is_known() {
        let mut session = session();
        let observation = |generation, outstanding: &[(&str, u32)]| {
            let outstanding = outstanding.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
            FromEdge::Observation(Box::new(ObservationFrame {
                serving: Some(generation),
                outstanding,
                ..ObservationFrame::default()
            }))
        };
        let seen = |session: &Session| {
            let seen = session.observed.borrow();
            (seen.serving, seen.outstanding.clone())
        };
        session.hear(observation(7, &[]));
        // Its last request came after that, and the next table has no place for it.
        session.hear(FromEdge::Serving { generation: 8 });
        assert_eq!(seen(&session), (Some(Generation(7)), BTreeMap::new()));
        let instance = "local/shop.web.r1.0.1";
        session.hear(observation(8, &[(instance, 1)]));
        let outstanding = BTreeMap::from([(instance.parse().unwrap(), 1)]);
        assert_eq!(seen(&session), (Some(Generation(8)), outstanding));
    }

    #[test]
    fn what_is_refused_is_said_until_something_later_is_served() {
        let mut session = session();
        let serves = |session: &mut Session, generation| {
            let frame = ObservationFrame { serving: Some(generation), ..ObservationFrame::default() };
            session.hear(FromEdge::Observation(Box::new(frame)));
        };
        let refuses = |session: &mut Session, generation| {
            session.hear(FromEdge::Refused { generation, reason: "no such certificate".to_owned() });
        };
        let said = |session: &Session| {
            let seen = session.observed.borrow();
            assert_eq!(seen.refusal.is_some(), !seen.refusals.is_empty());
            let is_whole = |refusal: &Refusal| refusal.part == Part::Table && refusal.apps.is_empty();
            assert!(seen.refusals.iter().all(is_whole), "{:?}", seen.refusals);
            seen.refusal.as_ref().map(Fault::in_one_line)
        };
        serves(&mut session, 7);
        refuses(&mut session, 6);
        assert_eq!(said(&session), None, "it holds a later one");
        refuses(&mut session, 8);
        serves(&mut session, 7);
        assert_eq!(said(&session).as_deref(), Some("the edge refused what it is to serve: no such certificate"));
        serves(&mut session, 9);
        assert_eq!(said(&session), None);
    }
}
