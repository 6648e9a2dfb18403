//! One worker: a thread with its own runtime, and all that its connections share.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_core::route::retry::{Retry, RetryBudget};
use bowline_core::time::Mono;
use hashbrown::HashMap;
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use crate::answer::Reason;
use crate::balance::Dice;
use crate::deadline::{Sweep, TICK};
use crate::disk::{Disk, KEPT, THREADS};
use crate::h1::Spare;
use crate::h2c::Connections;
use crate::listen;
use crate::process::Limits;
use crate::record::{AccessLog, Report, Shard};
use crate::route::{LabelId, Route, Routes};
use crate::tls::Tls;
use crate::upstream::{self, Pools};

/// Size of a buffer: what is read at once, and what waits to be written in one direction of one connection.
pub(crate) const BUFFER: usize = 16 << 10;

/// Buffers that a worker keeps for later.
const SPARE_BUFFERS: usize = 64;

/// Answers that a worker compresses at once: each takes about a third of a MiB, for as long as its client reads.
const MAX_ENCODERS: usize = 64;

/// How long tunnels may take to say that they close.
const CLOSING: Duration = Duration::from_secs(1);
/// How long whoever gives up a descriptor is waited for, time by time: HTTP/2's clients have to be told first.
const ROOM_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(50)];

/// How the end of a process is made known to its connections. Times are from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// Until then a connection on which nothing is under way may send one more request; then it is closed. Whoever sends one
    /// as it is closed gets no answer, so this is longer than most clients are idle between two requests.
    idle: Duration,
    /// Until then tunnels go on; then they are told to close as soon as nothing else is left.
    tunnels: Duration,
    /// Then everything is closed.
    limit: Duration,
}

impl Farewell {
    /// There will be nobody: all is to end soon.
    pub(crate) fn within(limit: Duration) -> Self {
        Self { idle: Duration::ZERO, tunnels: Duration::ZERO, limit }
    }

    /// Another process accepts new connections: nobody has to be hurried.
    pub(crate) const RETIREMENT: Self =
        Self { idle: Duration::from_secs(10), tunnels: Duration::from_secs(60), limit: Duration::from_secs(600) };
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve these from now on; the answer says that no request is being routed by older ones.
    Routes(Arc<Routes>, oneshot::Sender<()>),
    Report(oneshot::Sender<Report>),
    /// Stop accepting, finish what is under way, then end. One that is said later takes the place of the one before.
    Drain(Farewell),
}

/// What every connection of a worker shares.
#[derive(Debug)]
pub(crate) struct Worker {
    routes: RefCell<Arc<Routes>>,
    pub(crate) pools: Pools,
    /// Those that are shared.
    pub(crate) streams: Connections,
    /// By route.
    budgets: RefCell<HashMap<LabelId, RetryBudget>>,
    pub(crate) shard: Shard,
    pub(crate) access: AccessLog,
    pub(crate) sweep: Rc<Sweep>,
    pub(crate) dice: Dice,
    pub(crate) limits: Limits,
    /// Accepts nothing before it has a table, however long that takes.
    pub(crate) is_successor: bool,
    pub(crate) disk: Disk,
    pub(crate) tls: Arc<Tls>,
    /// `None`: nobody listens for HTTPS.
    pub(crate) https_port: Option<u16>,
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Bytes of bodies that may have to be sent once more.
    pub(crate) kept: Rc<Cell<usize>>,
    pub(crate) spare: RefCell<Spare>,
    phase: Cell<Phase>,
    tunnels: Cell<u64>,
    encoders: Cell<usize>,
    shortages: Cell<u64>,
    /// At which tick a request asked for that.
    room_made: Cell<Option<u64>>,
    ended: Cell<bool>,
}

/// How far the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Nothing new is accepted; who is connected may send one more request.
    Retiring,
    /// What is under way goes on.
    Draining,
    /// Only tunnels are left, or the time is up.
    Closing,
}

/// One tunnel; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct TunnelGuard(Rc<Worker>);

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
    }
}

/// One answer that is compressed; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct EncoderGuard(Rc<Worker>);

impl Drop for EncoderGuard {
    fn drop(&mut self) {
        self.0.encoders.set(self.0.encoders.get() - 1);
    }
}

/// What a worker's thread needs.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) number: usize,
    pub(crate) http: Option<TcpListener>,
    pub(crate) https: Option<TcpListener>,
    pub(crate) access: AccessLog,
    pub(crate) tls: Arc<Tls>,
    pub(crate) limits: Limits,
    pub(crate) is_successor: bool,
    pub(crate) seed: u64,
}

/// The rest of the process's hold on a worker.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) thread: JoinHandle<()>,
}

impl Worker {
    fn new(
        access: AccessLog,
        (tls, https_port): (Arc<Tls>, Option<u16>),
        limits: Limits,
        is_successor: bool,
        seed: u64,
    ) -> Self {
        Self {
            routes: RefCell::default(),
            pools: Pools::default(),
            streams: Connections::default(),
            budgets: RefCell::default(),
            shard: Shard::default(),
            access,
            sweep: Rc::default(),
            dice: Dice::new(seed),
            limits,
            is_successor,
            disk: Disk::default(),
            tls,
            https_port,
            buffers: RefCell::default(),
            kept: Rc::default(),
            spare: RefCell::default(),
            phase: Cell::new(Phase::Serving),
            tunnels: Cell::new(0),
            encoders: Cell::new(0),
            shortages: Cell::new(0),
            room_made: Cell::new(None),
            ended: Cell::new(false),
        }
    }

    /// One whose sweep is ticked by hand: time passes as the test says.
    #[cfg(test)]
    pub(crate) fn for_test(folder: &std::path::Path, routes: Arc<Routes>) -> Self {
        let access = crate::record::Writer::start(folder).expect("a thread starts").log();
        let tls = Arc::new(Tls::new().expect("TLS of the tests"));
        let worker = Self::new(access, (tls, None), Limits::default(), false, 1);
        worker.routes.replace(routes);
        worker
    }

    /// Calls `f` with the table of now. What `f` does is done before another table is said to be served.
    pub(crate) fn with_routes<R>(&self, f: impl FnOnce(&Routes) -> R) -> R {
        f(&self.routes.borrow())
    }

    /// An empty buffer of [`BUFFER`] bytes.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER))
    }

    /// Gives a buffer back; one that grew is freed.
    pub(crate) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if (BUFFER..=2 * BUFFER).contains(&buffer.capacity()) && buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// What the coarse clock says.
    fn now(&self) -> Mono {
        Mono(TICK.saturating_mul(u32::try_from(self.sweep.now()).unwrap_or(u32::MAX)))
    }

    /// A request goes to the instances of this route.
    pub(crate) fn count_request(&self, route: &Route) {
        if let Some(labels) = route.labels {
            self.budgets.borrow_mut().entry(labels).or_default().request(self.now());
        }
    }

    /// Whether one that failed goes to another one of them.
    pub(crate) fn may_retry(&self, route: &Route) -> Retry {
        let Some(labels) = route.labels else { return Retry::Refused };
        let retry = self.budgets.borrow_mut().entry(labels).or_default().retry(self.now());
        self.shard.retry(retry);
        retry
    }

    /// A tick has passed.
    fn sweep(&self) {
        self.sweep.tick();
        self.pools.sweep(self.sweep.now());
        self.streams.sweep();
        let now = self.now();
        self.budgets.borrow_mut().retain(|_, budget| !budget.is_idle(now));
        self.access.tick();
    }

    /// Begins once; every task that waits on a deadline is woken then.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Serving
    }

    /// Connections on which nothing is under way are to end now.
    pub(crate) fn closes_idle(&self) -> bool {
        matches!(self.phase.get(), Phase::Draining | Phase::Closing)
    }

    /// Tunnels are to end now.
    pub(crate) fn is_closing(&self) -> bool {
        self.phase.get() == Phase::Closing
    }

    pub(crate) fn count_tunnel(self: &Rc<Self>) -> TunnelGuard {
        self.tunnels.set(self.tunnels.get() + 1);
        TunnelGuard(Rc::clone(self))
    }

    /// `None`: as many answers are being compressed as may be.
    pub(crate) fn count_encoder(self: &Rc<Self>) -> Option<EncoderGuard> {
        let room = self.encoders.get() < MAX_ENCODERS;
        room.then(|| {
            self.encoders.set(self.encoders.get() + 1);
            EncoderGuard(Rc::clone(self))
        })
    }

    /// The process is out of descriptors: connections on which nothing is under way are closed.
    pub(crate) fn make_room(&self) {
        self.shortages.set(self.shortages.get() + 1);
        self.pools.clear();
        self.streams.clear();
        self.sweep.wake_all();
    }

    /// Asks again for what finds no descriptor, in the room that others leave: each time those who are next to give up theirs.
    pub(crate) async fn with_room<T>(&self, mut ask: impl AsyncFnMut() -> Result<T, Reason>) -> Result<T, Reason> {
        let mut pauses = ROOM_AFTER.into_iter();
        loop {
            match (ask().await, pauses.next()) {
                (Err(Reason::Shortage), Some(pause)) => {
                    self.find_room().await;
                    tokio::time::sleep(pause).await;
                }
                (done, _) => return done,
            }
        }
    }

    /// A request finds no descriptor. Some connections to instances that are only kept are closed for it; where there are none, whatever
    /// nobody uses, as whoever accepts has it.
    async fn find_room(&self) {
        if self.pools.give_up() {
            return;
        }
        if self.streams.give_up() {
            return yield_now().await;
        }
        // Of many requests that find none the first one tells all clients: those of HTTP/1 are gone in a moment, those of HTTP/2 when
        // they have been told.
        if self.room_made.replace(Some(self.sweep.now())) != Some(self.sweep.now()) {
            self.make_room();
        }
        yield_now().await;
    }

    /// Opens a connection to an instance, for a request or for several.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<TcpStream, Reason> {
        self.with_room(async || upstream::connect(address).await).await
    }

    /// How often room had to be made. Who is idle while it rises goes.
    pub(crate) fn shortages(&self) -> u64 {
        self.shortages.get()
    }

    fn enter(&self, phase: Phase) {
        if self.phase.replace(phase) != phase {
            self.sweep.wake_all();
        }
    }
}

/// Starts a worker's thread.
pub(crate) fn start(setup: Setup) -> std::io::Result<Handle> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let thread = std::thread::Builder::new().name(format!("edge-{}", setup.number));
    let thread = thread.spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder
            .enable_all()
            .max_blocking_threads(THREADS)
            .thread_keep_alive(KEPT)
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                drop(runtime.spawn_blocking(|| ()));
                runtime.block_on(run(setup, inbox));
                // What hangs on a disk is not waited for.
                runtime.shutdown_background();
            }
            Err(error) => tracing::error!(%error, "a worker cannot start"),
        }
    })?;
    Ok(Handle { commands, thread })
}

async fn run(setup: Setup, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let https_port = setup.https.as_ref().and_then(|socket| socket.local_addr().ok()).map(|address| address.port());
    let tls = (setup.tls, https_port);
    let worker = Rc::new(Worker::new(setup.access, tls, setup.limits, setup.is_successor, setup.seed));
    tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    for (listener, is_tls) in [(setup.http, false), (setup.https, true)] {
        if let Some(listener) = listener {
            tokio::task::spawn_local(listen::accept(Rc::clone(&worker), listener, is_tls));
        }
    }
    let farewell = loop {
        match inbox.recv().await {
            Some(Command::Drain(farewell)) => break farewell,
            Some(command) => obey(&worker, command),
            None => break Farewell::within(Duration::ZERO),
        }
    };
    drain(&worker, inbox, farewell).await;
}

fn obey(worker: &Worker, command: Command) {
    match command {
        Command::Routes(routes, served) => {
            let first = worker.with_routes(Routes::is_initial);
            let leaving = routes.has_leaving();
            let admits_others = worker.with_routes(|before| before.admission) != routes.admission;
            *worker.routes.borrow_mut() = routes;
            if first || leaving || admits_others || worker.shard.flights.has_waiting() {
                // Accepting waits for it; tunnels to instances that are drained are told; who is in may be let in no more; what is held may go on.
                worker.sweep.wake_all();
            }
            // The process ends when nobody waits for this.
            let _ = served.send(());
        }
        Command::Report(answer) => drop(answer.send(worker.shard.report())),
        Command::Drain(_) => {}
    }
}

/// Until no connection is left or the time is up. Tables and reports go on.
async fn drain(worker: &Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Command>, mut farewell: Farewell) {
    let mut begun = tokio::time::Instant::now();
    let mut closing = None;
    let mut tick = tokio::time::interval(TICK);
    worker.enter(Phase::Retiring);
    while worker.shard.open() > 0 {
        let passed = begun.elapsed();
        let only_tunnels = worker.shard.open() <= worker.tunnels.get();
        if closing.is_some() || passed >= farewell.limit || (passed >= farewell.tunnels && only_tunnels) {
            worker.enter(Phase::Closing);
            if closing.get_or_insert_with(tokio::time::Instant::now).elapsed() >= CLOSING {
                break;
            }
        } else if passed >= farewell.idle {
            worker.enter(Phase::Draining);
        }
        tokio::select! {
            _ = tick.tick() => {}
            Some(command) = inbox.recv() => match command {
                Command::Drain(sooner) => (farewell, begun) = (sooner, tokio::time::Instant::now()),
                command @ (Command::Routes(..) | Command::Report(_)) => obey(worker, command),
            },
        }
    }
    // The last word: the totals include what was under way.
    while let Ok(command) = inbox.try_recv() {
        obey(worker, command);
    }
    worker.ended.set(true);
    worker.access.flush();
}

/// The coarse clock: deadlines, idle upstream connections, log lines.
async fn sweep(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !worker.ended.get() {
        tick.tick().await;
        worker.sweep();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[tokio::test]
    async fn whoever_accepts_stops_when_draining_begins() {
        let draining = async {
            let folder = tempfile::tempdir().unwrap();
            let worker = Rc::new(Worker::for_test(folder.path(), Arc::default()));
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let accepting = spawn_local(listen::accept(Rc::clone(&worker), socket, false));
            // Long after it has begun, and nobody has come.
            for _ in 0..100 {
                worker.sweep.tick();
                yield_now().await;
            }
            assert!(!accepting.is_finished());
            worker.enter(Phase::Draining);
            yield_now().await;
            assert!(accepting.is_finished(), "the socket is open until somebody comes");
        };
        LocalSet::new().run_until(draining).await;
    }
}
