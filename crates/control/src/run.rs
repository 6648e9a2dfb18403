//! The rim: the loop's inputs from channels, its effects to channels. The only place of this crate that awaits.
//!
//! Order at the start: master key → the edge is fed its last snapshot → the store is opened → the loop.

mod signals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bowline_api::wire::{self, ChangeEvent};
use bowline_core::acme::{self, Pace};
use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, EnvName, ReleaseNumber};
use bowline_core::resource::data::{DataDone, DataOrder};
use bowline_core::route::{ApiSite, EdgeDesired, EdgeEngine};
use bowline_core::scale::Windows;
use bowline_core::time::{Mono, Timestamp};
use bowline_fault_points::{Point, reach};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::certs::acme::{Clerk, Keep, Report};
use crate::certs::{self, CertCache, LocalCa};
use crate::config::{Acme, ControlConfig, Ended, ForesightCall, Links};
use crate::http::answer::Refusal;
use crate::http::journal::Journals;
use crate::http::scrape::Metrics;
use crate::http::{Kept, listen, memory};
use crate::metrics::World;
use crate::otlp::Exporter;
use crate::reconcile::acme::Authority;
use crate::reconcile::change::ChangeId;
use crate::reconcile::credentials::Salt;
use crate::reconcile::degraded::Degraded;
use crate::reconcile::effects::{Effect, Input, Job, JobId, Now, Purpose, ReadOrder, Reading, Ticket};
use crate::reconcile::given::Given;
use crate::reconcile::load::load;
use crate::reconcile::release::Place;
use crate::reconcile::request::{Answer, Asked, Door, Reply};
use crate::reconcile::{About, Loop};
use crate::secrets::{Keyring, Vault, snapshot as sealed};
use crate::sources::Sources;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::{folder, jobs, snapshot, steps};
use signals::Signals;

/// Results of work beside the loop that wait for it; more wait where they come from.
const WAITING_INPUTS: usize = 256;

/// Jobs that wait for the store. Each app has at most a few under way, and events are few.
const WAITING_JOBS: usize = 4_096;

/// Lines of a build on their way to the loop.
const BUILD_LINES: usize = 256;

/// Between two ticks: a deadline that does not move costs no processor.
const SHORTEST_TICK: Duration = Duration::from_millis(5);

/// Runs the control room until it is told to end. Answers how it ended; the binary then stops the edge, or leaves it.
/// `at_begin` is told whether the store could be opened, and decides whether to go on without: degraded. `at_end` is called
/// when nothing more is begun, before the API's socket is closed.
///
/// # Errors
/// Only what keeps it from serving at all: a listener that cannot be used, or the answer of `at_begin`. A store that is
/// refused does not by itself: the daemon then runs degraded and says so.
pub async fn run(
    mut config: ControlConfig,
    links: Links,
    at_begin: impl FnOnce(Result<(), &Fault>) -> Result<(), Fault>,
    at_end: impl FnOnce(Ended),
) -> Result<Ended, Fault> {
    // Before anybody is told that it serves.
    let signals = Signals::catch()?;
    let clock = Clock::start();
    let now = clock.now();
    let opened = open(&config, &links, now).await;
    at_begin(opened.as_ref().map(drop))?;
    let (door, requests) = Door::new();
    let journals = Journals::default();
    let admin_address = config.admin.local_addr().ok().map(|address| address.to_string());
    let about = About {
        version: config.version.clone(),
        pid: std::process::id(),
        mode: config.mode,
        started: now.wall,
        admin: admin_address,
        edge: config.edge,
        state_dir: config.state_dir.clone(),
    };
    let kept = opened.as_ref().map_err(Clone::clone).and_then(Opened::kept);
    let moved = Arc::new(Notify::new());
    let (inputs, results) = mpsc::channel(WAITING_INPUTS);
    let store = opened.as_ref().ok().map(|opened| opened.store.clone());
    let world = World::new(&config, &links, store, now.wall);
    let metrics = Metrics::new(std::mem::take(&mut config.registry), world, door.clone(), config.edge_stats.take());
    let exporter = Exporter::start(&config, &links, &metrics, &inputs).await?;
    let servers = listen::serve(config, &links, door, journals.clone(), kept, (metrics, Arc::clone(&moved)))?;
    let mut rim = Rim::new(links, journals, clock, inputs, moved, opened.as_ref().ok());
    let (machine, effects) = match opened {
        Ok(opened) => {
            let snapshot = opened.snapshot.as_deref();
            let (machine, effects) = Loop::start(about, opened.place, opened.loaded, snapshot, clock.now());
            (Machine::Whole(Box::new(machine)), effects)
        }
        Err(fault) => {
            tracing::error!(error = %fault, causes = ?fault.causes, "store refused, serving degraded");
            (Machine::Degraded(Box::new(Degraded::new(about, fault))), Vec::new())
        }
    };
    let ended = rim.drive(machine, effects, requests, results, signals).await;
    at_end(ended);
    rim.finish().await;
    if let Some(exporter) = exporter {
        exporter.end().await;
    }
    servers.end().await;
    Ok(ended)
}

/// What is needed to do more than to say why not.
struct Opened {
    edge: EdgeEngine,
    store: Store,
    vault: Vault,
    ca: LocalCa,
    certs: CertCache,
    acme: Option<(Acme, Keep)>,
    place: Place,
    loaded: crate::reconcile::load::Loaded,
    snapshot: Option<Arc<EdgeDesired>>,
}

impl Opened {
    fn kept(&self) -> Result<Kept, Fault> {
        let (store, vault) = (self.store.clone(), self.vault.clone());
        Ok(Kept { tokens: Tokens::open(store.clone())?, sources: Sources::open(vault.state()), store, vault })
    }
}

async fn open(config: &ControlConfig, links: &Links, now: Now) -> Result<Opened, Fault> {
    let (state_dir, ca_dir) = (config.state_dir.clone(), config.ca_dir.clone());
    let keyring = Keyring::open_or_create(&state_dir)?;
    let snapshot = feed_edge(config, links, &keyring);
    let opening = tokio::task::spawn_blocking(move || {
        let ca = LocalCa::open_or_create(&ca_dir, now.wall)?;
        let store = Store::open(&state_dir, keyring.store_keys())?;
        Ok::<_, Fault>((ca, store, keyring))
    });
    let (ca, store, keyring) = opening.await.expect("opening the store does not panic")?;
    let vault = Vault::open(&config.state_dir, keyring, store.clone()).await?;
    let loaded = load(&store, &vault, &config.version, now.wall).await?;
    let acme = config.acme.clone().map(|acme| {
        let keep = Keep::new(&config.state_dir, vault.keys(), &acme.directory);
        (acme, keep)
    });
    let certs = CertCache::new(&config.state_dir);
    let served = snapshot.as_ref().map(|served| &*served.certificates);
    let left = || certs::acme::left(&config.state_dir, &vault.keys(), served, now.wall);
    let place = Place {
        state_dir: config.state_dir.clone(),
        is_root: nix::unistd::geteuid().is_root(),
        users: config.users,
        edge_http: links.edge.borrow().http,
        metrics: config.admin.local_addr().ok().map(|address| format!("http://{address}/metrics")),
        salt: Salt::fresh()?,
        trusted_proxies: config.trusted_proxies.as_slice().into(),
        proxy_protocol: config.proxy_protocol,
        sample: config.otlp.as_ref().map(|otlp| otlp.sample),
        api: config.outside.as_ref().map(|way| ApiSite { host: way.host.clone(), socket: way.socket.clone() }.into()),
        given: config.outside.as_ref().and_then(|way| Given::of(way, snapshot.as_deref(), &ca, now.wall)),
        acme: acme.as_ref().map(|(settings, keep)| {
            let local = certs.hosts(&ca, &vault.keyring(), served, now.wall);
            Authority { kept: keep.load(), pace: pace(), api: settings.api, local }
        }),
        left: if acme.is_none() { left() } else { BTreeMap::new() },
        build_time: config.build_time,
        windows: windows(),
        machine: memory::machine(),
        boot: boot_id()?,
    };
    let edge = config.edge;
    Ok(Opened { edge, store, vault, ca, certs, acme, place, loaded, snapshot })
}

/// How long scaling waits: a test of the whole may have it wait a fraction of that.
fn windows() -> Windows {
    let Windows { every, stable, panic, stabilisation } = Windows::default();
    let faster = bowline_fault_points::faster();
    let [every, stable, panic, stabilisation] = [every, stable, panic, stabilisation].map(|time| time / faster);
    Windows { every, stable, panic, stabilisation }
}

/// How long an order that failed is waited with, likewise.
fn pace() -> Pace {
    let pace = Pace::default();
    Pace { waits: pace.waits.map(|wait| wait / bowline_fault_points::faster()), ..pace }
}

/// What tells this boot of the machine from any other.
fn boot_id() -> Result<String, Fault> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let read = std::fs::read_to_string(PATH);
    let read = read.map_err(|e| Fault::new(FaultKind::Failed, format!("{PATH} cannot be read")).source(&e))?;
    Ok(read.trim().to_owned())
}

/// The edge serves what it served last, before it is known whether the store can be read.
fn feed_edge(config: &ControlConfig, links: &Links, keyring: &Keyring) -> Option<Arc<EdgeDesired>> {
    let opened = sealed::open(&config.state_dir, keyring)
        .inspect_err(|error| tracing::warn!(error = %Chain(error), "edge snapshot not used"))
        .ok()??;
    let desired = snapshot::decode(opened.version, &opened.payload)
        .inspect_err(|error| tracing::warn!(error = %Chain(error), "edge snapshot not used"))
        .ok()?;
    let desired = Arc::new(desired);
    links.edge_desired.send_replace(Arc::clone(&desired));
    Some(desired)
}

/// An error and its sources on one line.
struct Chain<'e>(&'e dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

/// The machine that the rim drives.
enum Machine {
    Whole(Box<Loop>),
    Degraded(Box<Degraded>),
}

impl Machine {
    fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        match self {
            Self::Whole(machine) => machine.handle(input, now),
            Self::Degraded(machine) => machine.handle(input, now.mono),
        }
    }

    fn next_deadline(&self) -> Option<Mono> {
        match self {
            Self::Whole(machine) => machine.next_deadline(),
            Self::Degraded(machine) => machine.next_deadline(),
        }
    }
}

/// The wall clock, where the loop's is not at hand.
pub(crate) fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The process's clocks, and its random numbers.
#[derive(Debug, Clone, Copy)]
struct Clock {
    zero: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { zero: Instant::now() }
    }

    fn mono(self) -> Mono {
        Mono(self.zero.elapsed())
    }

    fn wall() -> Timestamp {
        wall()
    }

    fn now(self) -> Now {
        // Random numbers only spread backoffs: where the system gives none, the time of day does.
        let random = getrandom::u64().unwrap_or_else(|_| Self::wall().0);
        Now { mono: self.mono(), wall: Self::wall(), random }
    }
}

/// Carries out effects.
struct Rim {
    links: Links,
    journals: Journals,
    clock: Clock,
    inputs: mpsc::Sender<Input>,
    /// Told of each transition, so that whoever looks need not ask.
    moved: Arc<Notify>,
    replies: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    next_ticket: u64,
    builds: BTreeMap<ChangeId, AbortHandle>,
    /// Snapshots under way.
    taking: BTreeMap<(AppKey, ReleaseNumber), AbortHandle>,
    work: Option<Work>,
    /// Of orders.
    reports: mpsc::Receiver<Report>,
}

/// What effects are carried out with when the store is open.
struct Work {
    edge: EdgeEngine,
    jobs: mpsc::Sender<(JobId, Job)>,
    worker: tokio::task::JoinHandle<()>,
    snapshots: watch::Sender<Option<Arc<EdgeDesired>>>,
    sealer: tokio::task::JoinHandle<()>,
    vault: Vault,
    ca: LocalCa,
    certs: CertCache,
    acme: Option<mpsc::UnboundedSender<acme::Effect>>,
}

impl Rim {
    fn new(
        links: Links,
        journals: Journals,
        clock: Clock,
        inputs: mpsc::Sender<Input>,
        moved: Arc<Notify>,
        opened: Option<&Opened>,
    ) -> Self {
        let (told, reports) = mpsc::channel(WAITING_INPUTS);
        let work = opened.map(|opened| Work::start(opened, inputs.clone(), told));
        let (replies, builds, taking) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { links, journals, clock, inputs, moved, replies, next_ticket: 0, builds, taking, work, reports }
    }

    async fn drive(
        &mut self,
        mut machine: Machine,
        first: Vec<Effect>,
        mut requests: mpsc::Receiver<Asked>,
        mut results: mpsc::Receiver<Input>,
        mut signals: Signals,
    ) -> Ended {
        self.links.node.mark_changed();
        self.links.edge.mark_changed();
        let mut ticked = Instant::now();
        let mut ended = self.carry_out(first);
        loop {
            if let Some(ended) = ended {
                // What waits was not begun: the next daemon may be asked.
                requests.close();
                while let Ok(asked) = requests.try_recv() {
                    let _ = asked.reply.send(Err(Refusal::ending(ended)));
                }
                return ended;
            }
            let deadline = machine.next_deadline().map(|at| (self.clock.zero + at.0).max(ticked + SHORTEST_TICK));
            let input = tokio::select! {
                Some(asked) = requests.recv() => self.asked(asked),
                Some(result) = results.recv() => result,
                Ok(()) = self.links.node.changed() => Input::Node(Arc::clone(&self.links.node.borrow_and_update())),
                Ok(()) = self.links.edge.changed() => Input::Edge(Arc::clone(&self.links.edge.borrow_and_update())),
                Some(renewed) = self.links.renewals.recv() => Input::Renewed(renewed),
                Some(report) = self.reports.recv() => Input::Acme(report),
                () = sleep_until(deadline) => Input::Tick,
                () = signals.next() => Input::Terminate,
            };
            if matches!(input, Input::Tick) {
                ticked = Instant::now();
            }
            steps::at(&input).into_iter().for_each(reach);
            let effects = machine.handle(input, self.clock.now());
            ended = self.carry_out(effects);
        }
    }

    fn asked(&mut self, asked: Asked) -> Input {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.replies.insert(ticket, asked.reply);
        Input::Asked(ticket, asked.request)
    }

    /// Never waits: what takes time goes on beside the loop.
    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<Ended> {
        let mut ended = None;
        if effects.iter().any(|effect| matches!(effect, Effect::Tell(..) | Effect::Store(..))) {
            self.moved.notify_one();
        }
        for effect in effects {
            steps::before(&effect).into_iter().for_each(reach);
            match effect {
                Effect::Answer(ticket, reply) => self.answer(ticket, reply),
                Effect::Tell(change, what) => {
                    self.journals.write(change.0, ChangeEvent { at: Clock::wall().0, what });
                }
                Effect::Read(ticket, order) => self.read(ticket, order),
                Effect::Store(id, job) => self.store(id, job),
                Effect::Build(change, request) => self.build(change, request),
                Effect::CancelBuild(change) => self.cancel_build(change),
                // The node is gone only when the daemon ends.
                Effect::Collect(keep) => drop(self.links.collections.send(keep)),
                Effect::Certify(hosts) => self.certify(hosts),
                Effect::Acme(effect) => self.ask_authority(effect),
                Effect::Data(ticket, order) => drop(self.data(order, move |result| Input::Data(ticket, result))),
                Effect::TakeSnapshot(key, release, order) => {
                    let of = (key.clone(), release);
                    let task = self.data(order, move |result| Input::Snapshotted(key, release, result));
                    self.taking.retain(|_, task| !task.is_finished());
                    self.taking.insert(of, task);
                }
                // The receiver is dropped with the task: the node ends what nobody waits for.
                Effect::CancelSnapshot(key, release) => {
                    self.taking.remove(&(key, release)).into_iter().for_each(|task| task.abort());
                }
                Effect::Node(desired) => drop(self.links.node_desired.send_replace(desired)),
                Effect::Edge(desired) => drop(self.links.edge_desired.send_replace(desired)),
                Effect::Snapshot(desired) => self.snapshot(desired),
                Effect::Exit(how) => ended = Some(how),
            }
        }
        ended
    }

    fn answer(&mut self, ticket: Ticket, reply: Reply) {
        if let Ok(Answer::Accepted(wire::Accepted { change, env, app })) = &reply
            && let (Ok(env), Ok(app)) = (EnvName::new(env), AppName::new(app))
        {
            self.journals.belongs(*change, AppKey { env, app });
        }
        if let Some(waiting) = self.replies.remove(&ticket) {
            // Whoever asked may have gone away.
            let _ = waiting.send(reply);
        }
    }

    fn read(&mut self, ticket: Ticket, order: ReadOrder) {
        let Some(work) = &self.work else { return };
        let (vault, inputs, foresights) = (work.vault.clone(), self.inputs.clone(), self.links.foresights.clone());
        let edge = work.edge;
        tokio::spawn(async move {
            let reading = tokio::task::spawn_blocking(move || folder::read(&order, &vault, edge)).await;
            let reading = match reading.unwrap_or_else(|error| Err(defect("reading the folder", &error))) {
                Ok(reading) => foresee(&foresights, reading).await,
                Err(fault) => Err(fault),
            };
            send(&inputs, Input::Read(ticket, reading.map(Box::new))).await;
        });
    }

    fn store(&mut self, id: JobId, job: Job) {
        let refused = match &self.work {
            Some(work) => work.jobs.try_send((id, job)).is_err(),
            None => true,
        };
        if refused {
            let inputs = self.inputs.clone();
            let fault = Fault::new(FaultKind::Failed, "the store does not keep up")
                .caused_by(format!("{WAITING_JOBS} writes wait for it already"))
                .hint("look at the disk of the state folder (dmesg, df)");
            tokio::spawn(async move { send(&inputs, Input::Stored(id, Err(fault))).await });
        }
    }

    fn build(&mut self, change: ChangeId, request: bowline_core::release::BuildRequest) {
        let (builds, inputs) = (self.links.builds.clone(), self.inputs.clone());
        let task = tokio::spawn(async move {
            let (progress, mut lines) = mpsc::channel(BUILD_LINES);
            let (result, built) = oneshot::channel();
            let gone = || Fault::new(FaultKind::Failed, "the build was given up by the node");
            if builds.send((request, progress, result)).await.is_err() {
                return send(&inputs, Input::Built(change, Err(gone()))).await;
            }
            while let Some(line) = lines.recv().await {
                send(&inputs, Input::Progress(change, line)).await;
            }
            let built = built.await.unwrap_or_else(|_| Err(gone()));
            send(&inputs, Input::Built(change, built)).await;
        });
        self.builds.retain(|_, task| !task.is_finished());
        self.builds.insert(change, task.abort_handle());
    }

    fn data(
        &self,
        order: DataOrder,
        input: impl FnOnce(Result<DataDone, Fault>) -> Input + Send + 'static,
    ) -> AbortHandle {
        let (calls, inputs) = (self.links.data.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let gone = || Err(Fault::new(FaultKind::Failed, "the node gave up what was asked of it"));
            let (reply, done) = oneshot::channel();
            let result = match calls.send((order, reply)).await {
                Ok(()) => done.await.unwrap_or_else(|_| gone()),
                Err(_) => gone(),
            };
            send(&inputs, input(result)).await;
        })
        .abort_handle()
    }

    /// Both receivers are dropped with the task: the node ends a build that nobody waits for.
    fn cancel_build(&mut self, change: ChangeId) {
        if let Some(task) = self.builds.remove(&change) {
            task.abort();
        }
    }

    fn certify(&self, hosts: Vec<HostName>) {
        let Some(work) = &self.work else { return };
        let (ca, certs, keyring) = (work.ca.clone(), work.certs.clone(), work.vault.keyring());
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let asked = hosts.clone();
            let issue = move |host: HostName| {
                let leaf = certs.certificate(&ca, &keyring, std::slice::from_ref(&host), Clock::wall());
                (host, leaf.map_err(Fault::from))
            };
            let issued = tokio::task::spawn_blocking(move || hosts.into_iter().map(issue).collect()).await;
            let leaves = issued.unwrap_or_else(|error| {
                asked.into_iter().map(|host| (host, Err(defect("making a certificate", &error)))).collect()
            });
            send(&inputs, Input::Certified(leaves)).await;
        });
    }

    /// Whoever carries them out is gone only when the daemon ends.
    fn ask_authority(&self, effect: acme::Effect) {
        if let Some(clerk) = self.work.as_ref().and_then(|work| work.acme.as_ref()) {
            drop(clerk.send(effect));
        }
    }

    fn snapshot(&self, desired: Arc<EdgeDesired>) {
        if let Some(work) = &self.work {
            work.snapshots.send_replace(Some(desired));
        }
    }

    /// Waits until the store has done what it was given.
    async fn finish(self) {
        let Some(Work { jobs, worker, snapshots, sealer, .. }) = self.work else { return };
        drop((jobs, snapshots, self.inputs));
        for (what, task) in [("store", worker), ("snapshot", sealer)] {
            if task.await.is_err() {
                tracing::error!(what, "a worker panicked");
            }
        }
    }
}

impl Work {
    fn start(opened: &Opened, inputs: mpsc::Sender<Input>, reports: mpsc::Sender<Report>) -> Self {
        let (jobs, mut waiting) = mpsc::channel(WAITING_JOBS);
        let (store, vault) = (opened.store.clone(), opened.vault.clone());
        let worker = tokio::spawn(async move {
            while let Some((id, job)) = waiting.recv().await {
                let around = steps::around(&job);
                around.into_iter().for_each(|(before, _)| reach(before));
                let result = jobs::run(&store, &vault, job).await;
                around.into_iter().for_each(|(_, after)| reach(after));
                send(&inputs, Input::Stored(id, result)).await;
            }
        });
        let acme = opened.acme.clone().map(|(settings, keep)| {
            let (effects, asked) = mpsc::unbounded_channel();
            tokio::spawn(Clerk::new(settings, keep, reports).run(asked));
            effects
        });
        let (snapshots, latest) = watch::channel(None);
        let sealer = tokio::spawn(seal_snapshots(latest, opened.vault.clone(), opened.place.state_dir.clone()));
        Self {
            edge: opened.edge,
            jobs,
            worker,
            snapshots,
            sealer,
            vault: opened.vault.clone(),
            ca: opened.ca.clone(),
            certs: opened.certs.clone(),
            acme,
        }
    }
}

/// What a build would give, where a plan is wanted.
async fn foresee(node: &mpsc::Sender<ForesightCall>, mut reading: Reading) -> Result<Reading, Fault> {
    if reading.purpose != Purpose::Apply {
        let gone = || Fault::new(FaultKind::Failed, "the node gave up looking at the folder");
        let (reply, answer) = oneshot::channel();
        node.send((reading.foresight(), reply)).await.map_err(|_| gone())?;
        reading.foreseen = Some(answer.await.unwrap_or_else(|_| Err(gone()))?);
    }
    Ok(reading)
}

/// One after the other, and only the latest: an older table never replaces a newer one.
async fn seal_snapshots(
    mut latest: watch::Receiver<Option<Arc<EdgeDesired>>>,
    vault: Vault,
    state: std::path::PathBuf,
) {
    while latest.changed().await.is_ok() {
        let Some(desired) = latest.borrow_and_update().clone() else { continue };
        let (keyring, state) = (vault.keyring(), state.clone());
        let sealing = tokio::task::spawn_blocking(move || {
            let snapshot = sealed::Snapshot {
                version: snapshot::VERSION,
                generation: desired.table.generation,
                payload: snapshot::encode(&desired),
            };
            sealed::seal(&state, &keyring, &snapshot)
        });
        match sealing.await {
            Ok(Ok(())) => reach(Point::SnapshotSealed),
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "edge snapshot not sealed"),
            Err(error) => tracing::error!(%error, "edge snapshot not sealed"),
        }
    }
}

/// The loop is gone only when the daemon ends: then nobody waits for it.
async fn send(inputs: &mpsc::Sender<Input>, input: Input) {
    let _ = inputs.send(input).await;
}

fn defect(what: &str, error: &tokio::task::JoinError) -> Fault {
    Fault::new(FaultKind::Failed, format!("{what} broke off")).source(error).hint("this is a defect of Bowline")
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
