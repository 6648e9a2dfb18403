//! The edge's side of the control socket: tables in, acknowledgements and observations out.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bowline_core::app::HostName;
use bowline_core::id::Generation;
use bowline_fault_points::{Point, reach};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::outliers::Watch;
use crate::process::Sockets;
use crate::record::{Totals, Writer};
use crate::route::{Compiler, Routes};
use crate::tls::{Tls, TlsError};
use crate::wire::{ChangesFrame, Channel, ChannelError, DesiredFrame, FromEdge, ObservationFrame, PROTOCOL, ToEdge};
use crate::worker::{Command, Farewell, Handle};

/// How often changes are reported.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How often memory is measured, in ticks: the kernel walks all pages for it.
const MEASURE_EVERY: u32 = 8;

/// How long a successor waits for its first table: whoever started it has given it up after that.
const SUCCESSION: Duration = Duration::from_secs(30);

/// Frames that wait for a daemon. What one that takes none misses is made up for when it takes some again.
const OUTBOX_SIZE: usize = 64;

/// The way to one daemon.
type Outbox = mpsc::Sender<Arc<FromEdge>>;

/// A daemon that follows what is observed.
struct Daemon {
    outbox: Outbox,
    /// It missed what changed, and is owed the whole.
    behind: bool,
    /// An answer that it had no room for, and has to do something about.
    owed: Option<Arc<FromEdge>>,
}

impl Daemon {
    fn new(outbox: Outbox) -> Self {
        Self { outbox, behind: true, owed: None }
    }

    /// Never waits: a daemon may be stopped or swapped out for as long as it likes, and finds its edge when it is back.
    /// Answers whether it is still there. `news`: what changed since the frame before, if anything has.
    fn tell(&mut self, news: Option<&Arc<FromEdge>>, whole: impl FnOnce() -> Arc<FromEdge>) -> bool {
        if let Some(TrySendError::Full(owed)) = self.owed.take().and_then(|owed| self.outbox.try_send(owed).err()) {
            self.owed = Some(owed);
        }
        let frame = match (self.behind, news) {
            (true, _) if self.outbox.capacity() > 0 => whole(),
            (false, Some(news)) => Arc::clone(news),
            (true | false, _) => return !self.outbox.is_closed(),
        };
        match self.outbox.try_send(frame) {
            Ok(()) => self.behind = false,
            Err(TrySendError::Full(_)) => self.behind = true,
            Err(TrySendError::Closed(_)) => return false,
        }
        true
    }
}

/// What a daemon's connection asks of the control task.
enum Event {
    Joined(Outbox),
    Desired(Wanted, Outbox),
    End(Farewell),
}

/// What is to be served.
enum Wanted {
    Whole(Box<DesiredFrame>),
    Changes(Box<ChangesFrame>),
}

impl Wanted {
    fn generation(&self) -> Generation {
        Generation(match self {
            Self::Whole(frame) => frame.generation,
            Self::Changes(frame) => frame.generation(),
        })
    }
}

/// Why it is not served.
enum Unserved {
    /// They are changes of something else than is held.
    OfAnother,
    Refused(String),
}

/// What connections need to answer by themselves.
struct Facts {
    sockets: Sockets,
    serving: std::sync::Mutex<Option<Generation>>,
}

/// All that is not a worker's.
pub(crate) struct Control {
    listener: UnixListener,
    facts: Arc<Facts>,
    workers: Vec<Handle>,
    tls: Arc<Tls>,
    writer: Writer,
    compiler: Compiler,
    /// Whose table is held. A generation alone does not say so: there might be two of the same number.
    told_by: Option<mpsc::WeakSender<Arc<FromEdge>>>,
    outliers: Watch,
    totals: Totals,
    daemons: Vec<Daemon>,
    last: ObservationFrame,
    private_bytes: u64,
    /// In milliseconds since 1970.
    began: u64,
    ticks: u32,
}

impl Control {
    pub(crate) fn new(sockets: Sockets, workers: Vec<Handle>, tls: Arc<Tls>, writer: Writer) -> std::io::Result<Self> {
        let listener = sockets.control.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            facts: Arc::new(Facts { sockets, serving: std::sync::Mutex::default() }),
            workers,
            tls,
            writer,
            compiler: Compiler::default(),
            told_by: None,
            outliers: Watch::new(),
            totals: Totals::default(),
            daemons: Vec::new(),
            last: ObservationFrame::default(),
            private_bytes: 0,
            began: now_in_millis(),
            ticks: 0,
        })
    }

    /// Serves daemons until one of them or `stop` ends it, then drains.
    pub(crate) async fn run(mut self, mut stop: mpsc::Receiver<Farewell>, is_successor: bool) {
        let (events, mut inbox) = mpsc::channel(16);
        let drained = self.compiler.drained();
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let begun = tokio::time::Instant::now();
        // After an error until the next tick: a shortage of descriptors would be met again at once.
        let mut resting = false;
        let farewell = loop {
            tokio::select! {
                Some(farewell) = stop.recv() => break farewell,
                accepted = self.listener.accept(), if !resting => {
                    resting = accepted.is_err();
                    self.accept(accepted.map(|(stream, _)| stream), &events);
                }
                Some(event) = inbox.recv() => match event {
                    Event::Joined(daemon) => self.join(daemon).await,
                    Event::Desired(wanted, daemon) => self.desired(wanted, &daemon).await,
                    Event::End(farewell) => break farewell,
                },
                _ = tick.tick() => {
                    resting = false;
                    self.measure();
                    self.report().await;
                    if self.workers.iter().any(|worker| worker.thread.is_finished()) {
                        tracing::error!("a worker died: the edge ends, to be started again whole");
                        break Farewell::within(Duration::ZERO);
                    }
                    if is_successor && self.compiler.generation().is_none() && begun.elapsed() > SUCCESSION {
                        tracing::warn!("nobody needs a successor any more");
                        break Farewell::within(Duration::ZERO);
                    }
                }
                () = drained.notified() => self.report().await,
            }
        };
        self.drain(farewell, &mut stop, &mut inbox, &drained, tick).await;
    }

    fn accept(&self, accepted: std::io::Result<UnixStream>, events: &mpsc::Sender<Event>) {
        match accepted {
            Ok(stream) => {
                let (facts, events) = (Arc::clone(&self.facts), events.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(Channel::new(stream), &facts, events).await {
                        tracing::warn!(%error, "a daemon's connection ended");
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "a daemon could not connect"),
        }
    }

    async fn join(&mut self, outbox: Outbox) {
        self.report().await;
        let mut daemon = Daemon::new(outbox);
        if daemon.tell(None, || self.all()) {
            self.daemons.push(daemon);
        }
    }

    async fn desired(&mut self, wanted: Wanted, daemon: &Outbox) {
        let generation = wanted.generation();
        reach(Point::TableReceived);
        let answer = match self.apply(&wanted, daemon).await {
            Ok(()) => FromEdge::Serving { generation: generation.0 },
            Err(Unserved::OfAnother) => {
                tracing::info!(%generation, "changes of something else than is held: the whole is wanted");
                FromEdge::WantsWhole { generation: generation.0 }
            }
            Err(Unserved::Refused(reason)) => {
                tracing::warn!(%generation, reason, "a desired state was refused");
                FromEdge::Refused { generation: generation.0, reason }
            }
        };
        reach(Point::TableServed);
        self.answer(daemon, Arc::new(answer));
        self.report().await;
        reach(Point::TableAcknowledged);
    }

    /// One that is gone asks again when it is back. To one that is behind, the whole says what is served, but not what it has to do.
    fn answer(&mut self, to: &Outbox, answer: Arc<FromEdge>) {
        if let Err(TrySendError::Full(answer)) = to.try_send(answer)
            && !matches!(*answer, FromEdge::Serving { .. })
            && let Some(daemon) = self.daemons.iter_mut().find(|daemon| daemon.outbox.same_channel(to))
        {
            daemon.owed = Some(answer);
        }
    }

    /// Swaps certificates and table; done when every worker serves it.
    async fn apply(&mut self, wanted: &Wanted, daemon: &Outbox) -> Result<(), Unserved> {
        let generation = wanted.generation();
        if let Some(held) = self.compiler.generation().filter(|held| *held > generation) {
            let why = format!("generation {generation} is older than {held}, which is served");
            return Err(Unserved::Refused(why));
        }
        let routes = match wanted {
            Wanted::Whole(frame) => self.take_whole(frame)?,
            Wanted::Changes(frame) if self.is_held(Generation(frame.base), daemon) => self.take_changes(frame)?,
            Wanted::Changes(_) => return Err(Unserved::OfAnother),
        };
        self.told_by = Some(daemon.downgrade());
        self.outliers.table(&mut self.compiler);
        let mut serving = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, served) = oneshot::channel();
            if worker.commands.send(Command::Routes(Arc::clone(&routes), done)).is_ok() {
                serving.push(served);
            }
        }
        for served in serving {
            served.await.map_err(|_| Unserved::Refused("a worker died".to_owned()))?;
        }
        *self.facts.serving.lock().expect("nothing panics while it is held") = Some(generation);
        tracing::info!(%generation, "serving");
        Ok(())
    }

    /// Whether this is what is held, and this daemon knows it.
    fn is_held(&self, base: Generation, daemon: &Outbox) -> bool {
        let told_by = self.told_by.as_ref().and_then(mpsc::WeakSender::upgrade);
        self.compiler.generation() == Some(base) && told_by.is_some_and(|told_by| told_by.same_channel(daemon))
    }

    fn take_whole(&mut self, frame: &DesiredFrame) -> Result<Arc<Routes>, Unserved> {
        let desired = frame.parse().map_err(|error| Unserved::Refused(error.to_string()))?;
        warn_of(self.tls.swap(&desired));
        Ok(self.compiler.compile(&desired.table))
    }

    fn take_changes(&mut self, frame: &ChangesFrame) -> Result<Arc<Routes>, Unserved> {
        let changes = frame.parse().map_err(|error| Unserved::Refused(error.to_string()))?;
        let routes = self.compiler.change(&changes);
        // Nobody routes by them yet.
        warn_of(self.tls.change(&changes, self.compiler.table()));
        Ok(routes)
    }

    /// Adds up what the workers counted and tells the daemons what changed.
    async fn report(&mut self) {
        let unused = self.compiler.take_unused();
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (answer, report) = oneshot::channel();
            if worker.commands.send(Command::Report(answer)).is_ok() {
                answers.push(report);
            }
        }
        let mut reports = Vec::with_capacity(answers.len());
        for answer in answers {
            // A worker that has ended has nothing more to say.
            reports.extend(answer.await.ok());
        }
        self.totals.add(reports, &self.compiler);
        self.compiler.forget(unused);
        self.outliers.look(&self.compiler);
        let mut frame = self.totals.changes();
        self.complete(&mut frame);
        let news = (frame != self.last).then(|| {
            self.last = ObservationFrame { series: Vec::new(), forgotten: Vec::new(), ..frame.clone() };
            Arc::new(FromEdge::Observation(Box::new(frame)))
        });
        let mut daemons = std::mem::take(&mut self.daemons);
        daemons.retain_mut(|daemon| daemon.tell(news.as_ref(), || self.whole()));
        self.daemons = daemons;
    }

    /// At ticks, and never when a table waits for it to be acknowledged.
    fn measure(&mut self) {
        if self.ticks.is_multiple_of(MEASURE_EVERY) {
            self.private_bytes = private_bytes().unwrap_or(self.private_bytes);
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    fn whole(&mut self) -> Arc<FromEdge> {
        let mut frame = self.totals.all();
        self.complete(&mut frame);
        Arc::new(FromEdge::Observation(Box::new(frame)))
    }

    /// The same for a daemon that has just come, with what is served: it may not know.
    fn all(&mut self) -> Arc<FromEdge> {
        let mut frame = self.totals.all();
        self.complete(&mut frame);
        frame.table = self.compiler.generation().and_then(|_| DesiredFrame::text(self.compiler.table()));
        Arc::new(FromEdge::Observation(Box::new(frame)))
    }

    /// Fills in what is not counted by workers.
    fn complete(&mut self, frame: &mut ObservationFrame) {
        let outstanding = self.compiler.outstanding();
        frame.outstanding = outstanding.into_iter().map(|(id, count)| (id.to_string(), count)).collect();
        let (left_out, total) = self.outliers.seen();
        frame.left_out = left_out.into_iter().map(ToString::to_string).collect();
        frame.left_out_total = total;
        frame.streaks = self.compiler.streaks().into_iter().map(|(id, failed)| (id.to_string(), failed)).collect();
        frame.serving = self.facts.serving.lock().expect("nothing panics while it is held").map(|g| g.0);
        frame.access_lines_dropped = self.writer.dropped();
        frame.private_bytes = self.private_bytes;
        frame.began = self.began;
    }

    fn say_farewell(&self, farewell: Farewell) {
        tracing::info!(?farewell, "draining");
        for worker in &self.workers {
            // One that has ended is drained.
            drop(worker.commands.send(Command::Drain(farewell)));
        }
    }

    /// Until every worker has ended; each bounds itself. Requests are still routed, so daemons are still heard.
    async fn drain(
        mut self,
        farewell: Farewell,
        stop: &mut mpsc::Receiver<Farewell>,
        inbox: &mut mpsc::Receiver<Event>,
        drained: &Notify,
        mut tick: tokio::time::Interval,
    ) {
        self.say_farewell(farewell);
        while self.workers.iter().any(|worker| !worker.thread.is_finished()) {
            let sooner = tokio::select! {
                _ = tick.tick() => {
                    self.measure();
                    None
                }
                () = drained.notified() => None,
                Some(farewell) = stop.recv() => Some(farewell),
                Some(event) = inbox.recv() => match event {
                    Event::Joined(daemon) => {
                        self.join(daemon).await;
                        None
                    }
                    Event::Desired(wanted, daemon) => {
                        self.desired(wanted, &daemon).await;
                        None
                    }
                    Event::End(farewell) => Some(farewell),
                },
            };
            // Retiring goes on as it began, however often it is said.
            if let Some(farewell) = sooner.filter(|farewell| *farewell != Farewell::RETIREMENT) {
                self.say_farewell(farewell);
            }
            self.report().await;
        }
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        self.writer.finish();
        tracing::info!("drained");
    }
}

/// One daemon, from its hello to its end.
async fn converse(mut channel: Channel, facts: &Facts, events: mpsc::Sender<Event>) -> Result<(), ChannelError> {
    channel.check_peer(None)?;
    let (outbox, mut outgoing) = mpsc::channel(OUTBOX_SIZE);
    // Only the control task holds the outbox: a daemon that it gives up is cut off.
    let weak = outbox.downgrade();
    let mut outbox = Some(outbox);
    let mut foreign = false;
    loop {
        tokio::select! {
            received = channel.receive::<ToEdge>() => {
                let Some((frame, _)) = received? else { return Ok(()) };
                let event = match (frame, outbox.take()) {
                    (ToEdge::Hello { protocol }, new) => {
                        channel.send(&hello(facts), &[]).await?;
                        if protocol != PROTOCOL {
                            tracing::warn!(protocol, own = PROTOCOL, "a daemon of another protocol may only replace this edge");
                            foreign = true;
                        }
                        new.filter(|_| !foreign).map(Event::Joined)
                    }
                    // Whoever does not say hello first is no daemon.
                    (
                        ToEdge::Desired(_)
                        | ToEdge::Changes(_)
                        | ToEdge::Listeners
                        | ToEdge::Retire
                        | ToEdge::Shutdown { .. },
                        Some(_),
                    ) => return Ok(()),
                    (ToEdge::Desired(_) | ToEdge::Changes(_), None) if foreign => return Ok(()),
                    (ToEdge::Desired(frame), None) => {
                        weak.upgrade().map(|outbox| Event::Desired(Wanted::Whole(frame), outbox))
                    }
                    (ToEdge::Changes(frame), None) => {
                        weak.upgrade().map(|outbox| Event::Desired(Wanted::Changes(frame), outbox))
                    }
                    (ToEdge::Listeners, None) => {
                        send_listeners(&mut channel, &facts.sockets).await?;
                        None
                    }
                    (ToEdge::Retire, None) => Some(Event::End(Farewell::RETIREMENT)),
                    (ToEdge::Shutdown { limit_ms }, None) => {
                        Some(Event::End(Farewell::within(Duration::from_millis(limit_ms))))
                    }
                };
                if let Some(event) = event && events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            frame = outgoing.recv(), if !foreign => match frame {
                Some(frame) => channel.send(&*frame, &[]).await?,
                None => return Ok(()),
            },
        }
    }
}

fn hello(facts: &Facts) -> FromEdge {
    FromEdge::Hello {
        protocol: PROTOCOL,
        pid: std::process::id(),
        http: facts.sockets.http_address(),
        https: facts.sockets.https_address(),
        serving: facts.serving.lock().expect("nothing panics while it is held").map(|generation| generation.0),
        changes: true,
    }
}

fn warn_of(wrong: Vec<(HostName, TlsError)>) {
    for (host, error) in wrong {
        tracing::warn!(%host, error = &error as &dyn std::error::Error, "a certificate cannot be used");
    }
}

async fn send_listeners(channel: &mut Channel, sockets: &Sockets) -> Result<(), ChannelError> {
    let mut fds: Vec<BorrowedFd<'_>> = vec![sockets.control.as_fd()];
    fds.extend(sockets.http.as_ref().map(AsFd::as_fd));
    fds.extend(sockets.https.as_ref().map(AsFd::as_fd));
    let frame = FromEdge::Listeners { http: sockets.http.is_some(), https: sockets.https.is_some() };
    channel.send(&frame, &fds).await
}

/// Memory that only this process uses.
fn now_in_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn private_bytes() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let kibibytes = private.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    Some(kibibytes.sum::<u64>() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(whole: bool) -> Arc<FromEdge> {
        Arc::new(FromEdge::Observation(Box::new(ObservationFrame { whole, ..ObservationFrame::default() })))
    }

    fn is_whole(frame: &FromEdge) -> bool {
        matches!(frame, FromEdge::Observation(frame) if frame.whole)
    }

    #[test]
    fn a_daemon_that_takes_nothing_for_long_is_kept_and_told_the_whole() {
        let (outbox, mut inbox) = mpsc::channel(1);
        let mut daemon = Daemon { behind: false, ..Daemon::new(outbox) };
        let unasked = || -> Arc<FromEdge> { panic!("there is no room for it") };
        for _ in 0..1_000 {
            assert!(daemon.tell(Some(&observation(false)), unasked), "it is only slow");
        }
        assert!(!is_whole(&inbox.try_recv().unwrap()));
        assert!(daemon.tell(None, || observation(true)), "owed, though nothing is new");
        assert!(is_whole(&inbox.try_recv().unwrap()));
        assert!(daemon.tell(Some(&observation(false)), unasked));
        assert!(!is_whole(&inbox.try_recv().unwrap()), "it has caught up");
        drop(inbox);
        assert!(!daemon.tell(None, unasked));
    }

    #[test]
    fn what_a_daemon_has_to_do_it_is_told_when_it_takes_something_again() {
        let (outbox, mut inbox) = mpsc::channel(1);
        let mut daemon = Daemon { behind: false, ..Daemon::new(outbox) };
        let unasked = || -> Arc<FromEdge> { panic!("nothing was missed") };
        assert!(daemon.tell(Some(&observation(false)), unasked));
        daemon.owed = Some(Arc::new(FromEdge::WantsWhole { generation: 7 }));
        assert!(daemon.tell(None, unasked), "there is no room for it");
        assert!(!is_whole(&inbox.try_recv().unwrap()));
        assert!(daemon.tell(None, unasked));
        assert!(matches!(*inbox.try_recv().unwrap(), FromEdge::WantsWhole { generation: 7 }));
        assert!(daemon.tell(None, unasked) && inbox.try_recv().is_err(), "it is told once");
    }
}
