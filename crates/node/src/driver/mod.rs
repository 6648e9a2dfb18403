//! The driver: brings the processes of this machine to the desired state, and reports what it sees.
//!
//! One loop owns all state; what blocks runs beside it and comes back as an event. Every event, every order and every
//! adopted shim leads to the same `reconcile`, which looks only at the desired state and the instances as they are: a
//! crash is a normal tick. The loop never awaits a send.

pub(crate) mod adopt;
mod awaited;
pub(crate) mod container;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod finish;
pub(crate) mod image;
mod keep;
mod measure;
pub(crate) mod pidfd;
mod port;
mod script;
pub(crate) mod start;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_core::id::{AppKey, InstanceId, Port, ResourceName};
use bowline_core::instance::{
    Busy, DiskObservation, HealthState, InstanceObservation, InstanceOrder, InstanceSpec, NodeDesired, Observations,
    Phase, Usage, VolumeObservation,
};
use bowline_core::time::Timestamp;
use bowline_fault_points::{Point, reach};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::NodeConfig;
use crate::cage::ports::{Gate, Others};
use crate::cgroup::Cgroups;
use crate::disk::watch::{self as watch_disk, Looked};
use crate::disk::{self, Space};
use crate::health;
use crate::layout::Layout;
use crate::procfs;
use crate::shim::contract::Record;
use crate::volume::Volumes;
use adopt::Found;
use awaited::Waiting;
use container::Preparing;
pub use keep::keep as keep_binary;
use pidfd::Pidfd;
use port::Ports;

/// Events that wait for the loop. Their senders wait, the loop never does.
const EVENTS: usize = 256;
/// How often memory and processor time are read.
const USAGE_EVERY: Duration = Duration::from_secs(5);
/// A shim that has not ended its tree so long after the grace time is stuck itself, and killed.
pub(crate) const SHIM_OVERTIME: Duration = Duration::from_secs(15);

/// What the parts that block share.
#[derive(Debug)]
pub(crate) struct Context {
    pub config: NodeConfig,
    pub layout: Layout,
    pub cgroups: Cgroups,
    pub ports: Ports,
    pub gate: Gate,
    pub volumes: Volumes,
    /// `None`: instances are processes of this machine.
    pub engines: Option<container::Engines>,
    /// The kept copy of the binary, made when the first instance starts.
    kept: Mutex<Option<PathBuf>>,
}

impl Context {
    pub(crate) fn new(config: NodeConfig) -> Self {
        let layout = Layout { state: config.state_dir.clone(), run: config.run_dir.clone() };
        let cgroups = Cgroups::discover(&layout.hash());
        let gate = Gate::new(&layout.state, &layout.hash(), Others { edge: config.edge_uid, admin: config.admin });
        let volumes = Volumes::new(layout.volumes());
        let engines = config.containers.clone().map(container::Engines::new);
        Self { config, layout, cgroups, ports: Ports::default(), gate, volumes, engines, kept: Mutex::default() }
    }

    pub(crate) fn exe(&self) -> io::Result<PathBuf> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = kept.as_ref().filter(|path| path.exists()) {
            return Ok(path.clone());
        }
        let path = keep::keep(&self.layout.state, &self.config.exe)?;
        *kept = Some(path.clone());
        Ok(path)
    }
}

/// Volumes in use, and those with a size.
type Held = BTreeMap<(AppKey, ResourceName), VolumeObservation>;

pub(crate) enum Event {
    Adopted(Vec<(InstanceId, Found)>, Held),
    /// What it is started from is made first, or has been.
    Prepares(InstanceId, Phase),
    /// With the volumes as they are then: a change that comes next is judged by them.
    Started(InstanceId, Result<(Box<Record>, Pidfd), Phase>, Held),
    Ended(InstanceId, Phase),
    Health(InstanceId, HealthState),
    Alive(InstanceId, HealthState),
    Measured(Measured),
    /// Who fills the disk, asked because there is little left.
    Looked(Option<Looked>),
    CleanedUp(InstanceId),
}

/// What is measured from time to time.
pub(crate) struct Measured {
    instances: Vec<measure::Measured>,
    volumes: Held,
    space: Option<Space>,
}

struct Instance {
    stage: Stage,
    observation: InstanceObservation,
    /// Its checks run until this is dropped.
    checks: Option<health::Checks>,
}

enum Stage {
    /// Another incarnation of the slot is still there.
    Waiting,
    Starting {
        /// Set as soon as it is to stop: what is not made yet for it is not waited for.
        unwanted: Arc<AtomicBool>,
    },
    Live {
        shim: Arc<Pidfd>,
        record: Record,
        kill_at: Option<Instant>,
    },
    Ended {
        record: Option<Record>,
    },
    CleaningUp,
}

impl Stage {
    /// Whether the slot is taken.
    fn holds_slot(&self) -> bool {
        match self {
            Self::Starting { .. } | Self::Live { .. } => true,
            Self::Waiting | Self::Ended { .. } | Self::CleaningUp => false,
        }
    }
}

pub(crate) struct Driver {
    context: Arc<Context>,
    desired: watch::Receiver<Arc<NodeDesired>>,
    observed: watch::Sender<Arc<Observations>>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    busy: watch::Receiver<Arc<Busy>>,
    /// Whether an app has requests, for the checks of its instances.
    needed: BTreeMap<AppKey, watch::Sender<bool>>,
    held: Arc<NodeDesired>,
    /// A first desired state has come: until then nothing may be stopped.
    ordered: bool,
    adopted: bool,
    instances: BTreeMap<InstanceId, Instance>,
    volumes: Held,
    disk: Option<DiskObservation>,
    /// Somebody looks for who fills it.
    looking: bool,
}

impl Driver {
    pub(crate) fn new(
        context: Arc<Context>,
        desired: watch::Receiver<Arc<NodeDesired>>,
        observed: watch::Sender<Arc<Observations>>,
        busy: watch::Receiver<Arc<Busy>>,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let held = Arc::default();
        Self {
            context,
            desired,
            observed,
            events,
            sender,
            busy,
            needed: BTreeMap::new(),
            held,
            ordered: false,
            adopted: false,
            instances: BTreeMap::new(),
            volumes: BTreeMap::new(),
            disk: None,
            looking: false,
        }
    }

    /// Until the sender of the desired state is dropped. Instances go on running.
    pub(crate) async fn run(mut self) {
        self.beside(|context| Event::Adopted(adopt::find(context), context.volumes.observe()));
        let mut ticker = tokio::time::interval(USAGE_EVERY);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut disk_ticker = tokio::time::interval(disk::LOOK_EVERY);
        disk_ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.take_order(),
                    Err(_) => return,
                },
                Some(event) = self.events.recv() => {
                    self.handle(event);
                    while let Ok(event) = self.events.try_recv() {
                        self.handle(event);
                    }
                }
                _ = ticker.tick() => self.tick(),
                Ok(()) = self.busy.changed() => {
                    self.tell_need();
                    continue;
                }
                _ = disk_ticker.tick() => {
                    self.look_at_disk();
                    continue;
                }
            }
            if self.adopted {
                self.reconcile();
            }
            self.publish();
        }
    }

    fn take_order(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        if self.ordered && desired.generation < self.held.generation {
            tracing::warn!(held = %self.held.generation, offered = %desired.generation, "an older desired state is refused");
            return;
        }
        self.held = desired;
        self.ordered = true;
    }

    /// Only those are woken whose app it concerns.
    fn tell_need(&mut self) {
        let busy = self.busy.borrow_and_update();
        self.needed.retain(|_, needed| !needed.is_closed());
        for (key, needed) in &self.needed {
            let now = busy.contains(key);
            needed.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
    }

    /// Runs what blocks beside the loop.
    fn beside(&self, work: impl FnOnce(&Context) -> Event + Send + 'static) {
        let (context, sender) = (self.context.clone(), self.sender.clone());
        tokio::task::spawn_blocking(move || {
            // The loop is gone: a later driver looks at the world itself.
            let _ = sender.blocking_send(work(&context));
        });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Adopted(found, volumes) => {
                self.volumes = volumes;
                found.into_iter().for_each(|(id, found)| self.adopt(id, found));
                self.adopted = true;
            }
            Event::Prepares(id, phase) => {
                if let Some(Instance { stage: Stage::Starting { .. }, observation, .. }) = self.instances.get_mut(&id) {
                    observation.phase = phase;
                }
            }
            Event::Started(id, outcome, volumes) => {
                self.volumes = volumes;
                match outcome {
                    Ok((record, shim)) => self.begin(id, *record, shim),
                    Err(phase) => self.conclude(&id, phase),
                }
            }
            Event::Ended(id, phase) => self.conclude(&id, phase),
            Event::Health(id, state) => self.observe(&id, |seen| seen.health = state),
            Event::Alive(id, state) => self.observe(&id, |seen| seen.alive = state),
            Event::Measured(Measured { instances, volumes, space }) => {
                for measure::Measured { id, usage, dropped_lines, container } in instances {
                    self.observe(&id, |seen| {
                        (seen.usage, seen.dropped_lines, seen.container) = (usage, dropped_lines, container);
                    });
                }
                self.volumes = volumes;
                let growing = self.disk.take().and_then(|disk| disk.growing);
                self.disk = space.map(|space| space.observed(growing.filter(|_| space.is_low())));
            }
            Event::Looked(looked) => self.looked(looked),
            Event::CleanedUp(id) => {
                self.instances.remove(&id);
            }
        }
    }

    /// Only of what lives: a late answer says nothing about what has ended.
    fn observe(&mut self, id: &InstanceId, change: impl FnOnce(&mut InstanceObservation)) {
        if let Some(Instance { stage: Stage::Live { .. }, observation, .. }) = self.instances.get_mut(id) {
            change(observation);
        }
    }

    fn adopt(&mut self, id: InstanceId, found: Found) {
        match found {
            Found::Alive { record, shim } => {
                tracing::info!(instance = %id, pid = record.pid, state = "running", was = "unknown", "adopted");
                self.begin(id, record, shim);
            }
            Found::Ended { record, phase } => {
                tracing::info!(instance = %id, state = ?phase, was = "unknown", "ended while no daemon ran");
                let observation = observation(phase);
                self.instances.insert(id, Instance { stage: Stage::Ended { record }, observation, checks: None });
            }
        }
    }

    /// A shim runs, started or found.
    fn begin(&mut self, id: InstanceId, record: Record, shim: Pidfd) {
        let Some(port) = Port::new(record.port) else { return };
        self.context.ports.hold(&id, port);
        let pid = record.child.unwrap_or(record.pid);
        let mut observation = observation(Phase::Running { pid, port, since: Timestamp(record.since_ms) });
        observation.unenforced.clone_from(&record.unenforced);
        observation.container = record.container.as_ref().map(|container| container.name.clone());
        let shim = Arc::new(shim);
        tokio::spawn(watch_exit(self.context.clone(), self.sender.clone(), id.clone(), record.clone(), shim.clone()));
        let stage = Stage::Live { shim, record, kill_at: None };
        self.instances.insert(id, Instance { stage, observation, checks: None });
    }

    fn conclude(&mut self, id: &InstanceId, phase: Phase) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        tracing::info!(instance = %id, state = ?phase, "ended");
        let record = match std::mem::replace(&mut instance.stage, Stage::CleaningUp) {
            Stage::Live { record, .. } => Some(record),
            Stage::Waiting | Stage::Starting { .. } | Stage::Ended { .. } | Stage::CleaningUp => None,
        };
        let observation = &mut instance.observation;
        *observation = InstanceObservation {
            phase,
            health: HealthState::Unknown,
            alive: HealthState::Unknown,
            ..observation.clone()
        };
        observation.usage = Usage::default();
        observation.container = None;
        instance.stage = Stage::Ended { record };
        instance.checks = None;
    }

    /// One look at what is wanted and what is there. Nothing is stopped before something was wanted.
    fn reconcile(&mut self) {
        if !self.ordered {
            return;
        }
        let held = self.held.clone();
        let known: Vec<InstanceId> = self.instances.keys().cloned().collect();
        for id in known {
            match held.instances.get(&id) {
                None => self.retire(&id),
                Some(InstanceOrder::Stop) => self.stop(&id),
                Some(InstanceOrder::Run(spec)) => self.check(&id, spec),
                Some(InstanceOrder::Keep) => {}
            }
        }
        for (id, order) in &held.instances {
            match order {
                InstanceOrder::Run(spec) => self.start(id, spec),
                InstanceOrder::Keep | InstanceOrder::Stop => {}
            }
        }
    }

    fn start(&mut self, id: &InstanceId, spec: &Arc<InstanceSpec>) {
        match self.instances.get(id).map(|instance| &instance.stage) {
            None | Some(Stage::Waiting) => {}
            Some(Stage::Starting { .. } | Stage::Live { .. } | Stage::Ended { .. } | Stage::CleaningUp) => return,
        }
        let same_slot = |other: &InstanceId| other != id && other.slot == id.slot;
        let taken = self.instances.iter().any(|(other, instance)| same_slot(other) && instance.stage.holds_slot());
        let unwanted = Arc::new(AtomicBool::new(false));
        let stage = if taken { Stage::Waiting } else { Stage::Starting { unwanted: Arc::clone(&unwanted) } };
        self.instances.insert(id.clone(), Instance { stage, observation: observation(Phase::Starting), checks: None });
        if taken {
            return;
        }
        tokio::spawn(start_beside(self.context.clone(), self.sender.clone(), spec.clone(), unwanted));
    }

    /// Begins the checks of an instance that was adopted or has just started.
    fn check(&mut self, id: &InstanceId, spec: &Arc<InstanceSpec>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.checks.is_some() {
            return;
        }
        if let (Stage::Live { .. }, Phase::Running { port, .. }) = (&instance.stage, &instance.observation.phase) {
            let uid = spec.uid.filter(|_| nix::unistd::geteuid().is_root());
            let mark = self.context.layout.mark(id);
            let key = &id.slot.key;
            let is_busy = || watch::Sender::new(self.busy.borrow().contains(key));
            let needed = self.needed.entry(key.clone()).or_insert_with(is_busy).subscribe();
            let checks = health::Checks::begin((id, spec, *port), &needed, mark, uid, &self.sender);
            instance.checks = Some(checks);
        }
    }

    /// TERM, once; the shim knows the grace time. A shim that does not get done is killed, and its tree with it.
    fn stop(&mut self, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        match &mut instance.stage {
            Stage::Live { shim, record, kill_at } => match kill_at {
                None => {
                    let deadline =
                        Instant::now() + Duration::from_millis(record.grace_ms).saturating_add(SHIM_OVERTIME);
                    *kill_at = Some(deadline);
                    reach(Point::InstanceStopping);
                    told(id, shim.terminate());
                    if let Phase::Running { pid, port, .. } = instance.observation.phase {
                        instance.observation.phase = Phase::Stopping { pid, port };
                    }
                    instance.checks = None;
                }
                Some(at) if Instant::now() >= *at => {
                    tracing::warn!(instance = %id, "its shim does not end it and is killed");
                    told(id, shim.kill());
                }
                Some(_) => {}
            },
            Stage::Waiting => {
                self.instances.remove(id);
            }
            Stage::Starting { unwanted } => unwanted.store(true, Ordering::Relaxed),
            Stage::Ended { .. } | Stage::CleaningUp => {}
        }
    }

    /// In no order any more: stopped if it lives, forgotten with all its files once it has ended.
    fn retire(&mut self, id: &InstanceId) {
        let Some(Instance { stage: Stage::Ended { record }, .. }) = self.instances.get(id) else {
            return self.stop(id);
        };
        let record = record.clone();
        let slot_is_free = !self.instances.iter().any(|(other, i)| other.slot == id.slot && i.stage.holds_slot());
        if let Some(instance) = self.instances.get_mut(id) {
            instance.stage = Stage::CleaningUp;
        }
        let id = id.clone();
        self.beside(move |context| {
            finish::clean_up(context, &id, record.as_ref(), slot_is_free);
            Event::CleanedUp(id)
        });
    }

    fn live(&self) -> Vec<(InstanceId, Record)> {
        let live = self.instances.iter().filter_map(|(id, instance)| match &instance.stage {
            Stage::Live { record, .. } => Some((id.clone(), record.clone())),
            Stage::Waiting | Stage::Starting { .. } | Stage::Ended { .. } | Stage::CleaningUp => None,
        });
        live.collect()
    }

    /// Measures beside the loop.
    fn tick(&mut self) {
        let live = self.live();
        // An engine that hangs holds up no measuring.
        let context = self.context.clone();
        tokio::task::spawn_blocking(move || container::remove_left(&context));
        self.beside(move |context| {
            let instances = live.into_iter().map(|(id, r)| measure::one(context, id, &r)).collect();
            let space = Space::of(&context.layout.state).ok();
            Event::Measured(Measured { instances, volumes: context.volumes.observe(), space })
        });
    }

    /// One system call, unless there is little left: then who fills the disk is looked for beside the loop.
    fn look_at_disk(&mut self) {
        let is_low = Space::of(&self.context.layout.state).is_ok_and(Space::is_low);
        if !is_low || self.looking {
            return;
        }
        self.looking = true;
        let live = self.live();
        self.beside(move |context| Event::Looked(watch_disk::look(&context.layout, &live)));
    }

    fn looked(&mut self, looked: Option<Looked>) {
        self.looking = false;
        let Some(Looked { space, growing, stop }) = looked else { return };
        self.disk = Some(space.observed(growing));
        if let Some(id) = stop
            && let Some(Instance { stage: Stage::Live { shim, .. }, .. }) = self.instances.get(&id)
        {
            told(&id, shim.kill());
        }
    }

    /// Coalesced: whoever looks sees the latest state; nobody is woken when nothing changed.
    fn publish(&self) {
        let seen = |(id, instance): (&InstanceId, &Instance)| (id.clone(), instance.observation.clone());
        let instances = self.instances.iter().map(seen).collect();
        let (volumes, disk) = (self.volumes.clone(), self.disk.clone());
        let now = Observations { adopted: self.adopted, instances, volumes, disk, ..Observations::default() };
        self.observed.send_if_modified(|before| {
            let differs = **before != now;
            if differs {
                *before = Arc::new(now);
            }
            differs
        });
    }
}

fn observation(phase: Phase) -> InstanceObservation {
    InstanceObservation {
        phase,
        health: HealthState::Unknown,
        alive: HealthState::Unknown,
        usage: Usage::default(),
        unenforced: Vec::new(),
        dropped_lines: 0,
        container: None,
    }
}

fn told(id: &InstanceId, outcome: io::Result<()>) {
    // It has ended by itself: the event is on its way.
    if let Err(error) = outcome {
        tracing::debug!(instance = %id, %error, "its shim takes no signal");
    }
}

/// Keeps no thread while its engine is waited for.
async fn start_beside(
    context: Arc<Context>,
    sender: mpsc::Sender<Event>,
    spec: Arc<InstanceSpec>,
    unwanted: Arc<AtomicBool>,
) {
    let waiting = Waiting { context: &context, spec: &spec, unwanted: &unwanted, told: &sender };
    let turn = waiting.wait().await;
    let started = tokio::task::spawn_blocking(move || {
        let id = &spec.id;
        // The loop is gone: nobody waits for it, and a later driver looks at the world itself.
        let tells = |phase| drop(sender.blocking_send(Event::Prepares(id.clone(), phase)));
        let is_wanted = || !unwanted.load(Ordering::Relaxed);
        let outcome = start_and_hold(&context, &spec, Preparing { turn, tells: &tells, is_wanted: &is_wanted });
        drop(sender.blocking_send(Event::Started(id.clone(), outcome, context.volumes.observe())));
    });
    // A panic has been told.
    drop(started.await);
}

/// Blocks. The shim is held before anything else can happen to its number.
fn start_and_hold(
    context: &Context,
    spec: &InstanceSpec,
    preparing: Preparing<'_>,
) -> Result<(Box<Record>, Pidfd), Phase> {
    let record = start::start(context, spec, preparing).map_err(Phase::Refused)?;
    match Pidfd::open(record.pid) {
        Ok(shim) if procfs::stat(record.pid).is_some_and(|s| s.start_time == record.start_time) => Ok((record, shim)),
        // It has ended already.
        Ok(_) | Err(_) => Err(finish::conclude(context, &spec.id, Some(&record))),
    }
}

async fn watch_exit(
    context: Arc<Context>,
    sender: mpsc::Sender<Event>,
    id: InstanceId,
    record: Record,
    shim: Arc<Pidfd>,
) {
    let ended = match watch_end(&shim) {
        Ok(watched) => watched.readable().await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::warn!(instance = %id, %error, "its shim cannot be waited for; looking again and again");
        poll_exit(&shim).await;
    }
    shim.reap();
    reach(Point::InstanceEnded);
    let ended = id.clone();
    let phase = tokio::task::spawn_blocking(move || finish::conclude(&context, &ended, Some(&record))).await;
    reach(Point::InstanceConcluded);
    match phase {
        Ok(phase) => drop(sender.send(Event::Ended(id, phase)).await),
        Err(error) => tracing::error!(instance = %id, %error, "its end could not be concluded"),
    }
}

#[expect(unsafe_code, reason = "registering a descriptor with tokio needs a promise that it stays open")]
fn watch_end(shim: &Arc<Pidfd>) -> io::Result<AsyncFd<Arc<Pidfd>>> {
    // SAFETY: the registration owns a share of the descriptor, which is closed only when the last share is dropped.
    Ok(unsafe { AsyncFd::register(shim.clone()) }?)
}

/// Where the kernel cannot tell: it has no room for one more watched descriptor.
async fn poll_exit(shim: &Pidfd) {
    const LOOK_AGAIN: Duration = Duration::from_millis(200);
    while !shim.has_ended() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
