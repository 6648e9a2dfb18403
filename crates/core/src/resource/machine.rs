//! The machine that keeps resources as they are wanted.
//!
//! ```text
//! wanted → preparing → Running: slot starts → provisioning → made ── the slot restarts: provisioned again
//!             ↑  │                               ↑  │         │
//!             └──┴─ trouble, after a while ──────┴──┘         └─ the server is to be another one: preparing, while the
//!                                                                one before it runs; Replacing; Running
//! ```
//!
//! A server elsewhere only has the first half: it is probed. Once it has answered it is asked again and again, and counts as
//! there until it does not answer.
//!
//! Architecture invariant: a server is ended for another one only when the other one is prepared: what cannot be had
//! costs the apps that run nothing.
//!
//! Architecture invariant: of one resource, one preparation runs at a time: two would write the same configuration.
//!
//! Architecture invariant: a server that was left running by an earlier daemon is neither stopped nor started before
//! it has been prepared: until then its order is to be kept. One that is only to be left is not prepared at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Left, Managed, Nature, Prepared, ResourceKey, ResourceObservation, ResourcePhase, ResourceSpec, Server, Trouble,
};
use crate::fault::{Fault, FaultKind};
use crate::id::{Incarnation, InstanceId};
use crate::instance::backoff::{LONGEST, delay, mix};
use crate::instance::{
    Failure, FailureCause, InstanceObservation, InstanceOrder, InstanceSpec, Observations, Phase, SlotState,
    SlotStatus, Slots, Usage, Wanted, World,
};
use crate::route::{Cohort, PoolId, Reachable};
use crate::time::Mono;

/// Between two attempts at what is not there yet.
const SOON: Duration = Duration::from_millis(250);

/// Between two looks at a server elsewhere that answers.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// Rounds of looking until nothing changes: a slot may end, and its entry then be prepared and started.
const MAX_ROUNDS: usize = 8;

/// Which attempt an answer belongs to: one that is not the latest is of no interest any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Round(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    Desired(&'a BTreeMap<ResourceKey, Arc<ResourceSpec>>),
    /// All that the driver sees; instances of services are not looked at.
    Node(&'a Observations),
    Prepared(ResourceKey, Round, Result<Prepared, Trouble>),
    /// Of a server elsewhere: its version, where it tells.
    Probed(ResourceKey, Round, Result<Option<String>, Trouble>),
    Provisioned(ResourceKey, Round, Result<(), Trouble>),
    /// A deadline has passed.
    Tick,
}

/// What is to be done beside the machine. Each ends in an input of the same round.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Find the server's binary, make its folder and its configuration. Harmless while the server runs.
    Prepare(ResourceKey, Round, Arc<ResourceSpec>),
    /// Ask a server elsewhere.
    Probe(ResourceKey, Round, Arc<ResourceSpec>),
    /// Make role, database and contents what they should be; what is so already stays. May run again at any time.
    Provision(ResourceKey, Round, Arc<ResourceSpec>),
}

/// All resources of a node. Holds nothing that must survive.
#[derive(Debug, Default)]
pub struct Resources {
    entries: BTreeMap<ResourceKey, Entry>,
    slots: Slots,
    node: Observations,
    /// Something was wanted once: until then nothing may be stopped.
    ordered: bool,
    /// Preparations that have not answered, also those of no interest any more.
    underway: BTreeMap<ResourceKey, Round>,
    round: Round,
}

#[derive(Debug)]
struct Entry {
    spec: Arc<ResourceSpec>,
    stage: Stage,
    preparation: Preparation,
    attempts: u32,
    /// Why the last attempt failed.
    trouble: Option<Trouble>,
    version: Option<String>,
}

/// Of what the spec says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preparation {
    /// To be begun at this moment.
    Due(Mono),
    /// `Prepare` or `Probe` is under way.
    Underway(Round),
    Done,
}

#[derive(Debug)]
enum Stage {
    /// Nothing was prepared yet. What an earlier daemon left running goes on.
    Absent,
    Running(Running),
    /// The server is to end; then this one takes its place. `None`: it has to be prepared first.
    Replacing(Option<Running>),
    /// A server elsewhere has answered, and is asked again when its preparation is due.
    Reached,
}

/// A server as it was prepared.
#[derive(Debug, Clone)]
struct Running {
    server: Server,
    prepared: Arc<InstanceSpec>,
    roles: Roles,
}

impl Running {
    /// Whether another process has to take its place. A version that only says what runs already needs none.
    fn serves_as(&self, next: &Self) -> bool {
        let unversioned = |server: &Server| Server { version: None, ..server.clone() };
        unversioned(&self.server) == unversioned(&next.server) && self.prepared == next.prepared
    }
}

/// Roles and contents, of one incarnation of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roles {
    Due(Mono),
    Making(Round, Incarnation),
    Made(Incarnation),
}

impl Entry {
    fn new(spec: Arc<ResourceSpec>, now: Mono) -> Self {
        let preparation = if is_left(&spec) { Preparation::Done } else { Preparation::Due(now) };
        Self { spec, stage: Stage::Absent, preparation, attempts: 0, trouble: None, version: None }
    }

    fn server(&self) -> Option<&Server> {
        match &*self.spec {
            ResourceSpec::Managed(Managed { server, .. }) => Some(server),
            ResourceSpec::External(_) | ResourceSpec::Left(_) => None,
        }
    }

    /// Takes up another spec.
    fn change(&mut self, spec: &Arc<ResourceSpec>, now: Mono) {
        if self.spec == *spec {
            return;
        }
        self.spec = Arc::clone(spec);
        (self.attempts, self.trouble) = (0, None);
        if is_left(spec) {
            return self.preparation = Preparation::Done;
        }
        let wanted = self.server().cloned();
        match &mut self.stage {
            Stage::Running(running) => {
                running.roles = Roles::Due(now);
                // One that is prepared may have written its configuration over that of the one that runs.
                let untouched = self.preparation == Preparation::Done;
                if untouched && wanted.as_ref() == Some(&running.server) {
                    return;
                }
            }
            Stage::Replacing(next) => *next = None,
            // The next server waits until one that ran before has ended.
            Stage::Reached => self.stage = Stage::Replacing(None),
            Stage::Absent => {}
        }
        self.preparation = Preparation::Due(now);
    }

    /// The server that is wanted is prepared.
    fn take_up(&mut self, next: Running) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Absent) {
            Stage::Running(running) if running.serves_as(&next) => {
                Stage::Running(Running { server: next.server, ..running })
            }
            Stage::Absent => Stage::Running(next),
            Stage::Running(_) | Stage::Replacing(_) | Stage::Reached => Stage::Replacing(Some(next)),
        };
    }

    /// Notes a failure; when it is tried again.
    fn failed(&mut self, trouble: Trouble, now: Mono, random: u64) -> Mono {
        let wait = match trouble.nature {
            Nature::Soon => SOON,
            Nature::Passing => {
                self.attempts = self.attempts.saturating_add(1);
                delay(self.attempts, random)
            }
            Nature::Lasting => {
                self.attempts = self.attempts.saturating_add(1);
                LONGEST
            }
        };
        self.trouble = Some(trouble);
        now + wait
    }

    fn succeeded(&mut self) {
        (self.attempts, self.trouble) = (0, None);
    }

    /// Roles and contents that are to be made at a moment. While another server is prepared, none are.
    fn roles_due(&self) -> Option<Mono> {
        match (&self.stage, self.preparation) {
            (Stage::Running(Running { roles: Roles::Due(at), .. }), Preparation::Done) if !is_left(&self.spec) => {
                Some(*at)
            }
            (Stage::Running(_) | Stage::Absent | Stage::Replacing(_) | Stage::Reached, _) => None,
        }
    }
}

impl Resources {
    pub fn new() -> Self {
        Self::default()
    }

    /// `random` spreads the backoffs.
    pub fn handle(&mut self, input: Input<'_>, now: Mono, random: u64) -> Vec<Effect> {
        match input {
            Input::Desired(desired) => self.desire(desired, now),
            Input::Node(node) => self.see(node),
            Input::Prepared(key, round, result) => self.prepared(&key, round, result, now, random),
            Input::Probed(key, round, result) => self.probed(&key, round, result, now, random),
            Input::Provisioned(key, round, result) => self.provisioned(&key, round, result, now, random),
            Input::Tick => {}
        }
        let mut effects = Vec::new();
        if !self.ordered || !self.node.adopted {
            return effects;
        }
        for _ in 0..MAX_ROUNDS {
            let before = effects.len();
            let transitions = self.drive_slots(now, random);
            let settled = self.replaced(now);
            self.begin(now, &mut effects);
            if transitions == 0 && settled == 0 && effects.len() == before {
                break;
            }
        }
        effects
    }

    fn desire(&mut self, desired: &BTreeMap<ResourceKey, Arc<ResourceSpec>>, now: Mono) {
        self.ordered = true;
        self.entries.retain(|key, _| desired.contains_key(key));
        for (key, spec) in desired {
            match self.entries.get_mut(key) {
                Some(entry) => entry.change(spec, now),
                None => drop(self.entries.insert(key.clone(), Entry::new(Arc::clone(spec), now))),
            }
        }
    }

    fn see(&mut self, node: &Observations) {
        let servers = node.instances.iter().filter(|(id, _)| ResourceKey::of_slot(&id.slot).is_some());
        self.node = Observations {
            adopted: node.adopted,
            instances: servers.map(|(id, seen)| (id.clone(), seen.clone())).collect(),
            ..Observations::default()
        };
    }

    /// What an earlier daemon left running and is not prepared yet: it is not shown to the slots.
    fn held(&self) -> BTreeSet<InstanceId> {
        let waits = |key: &ResourceKey| self.entries.get(key).is_some_and(|entry| matches!(entry.stage, Stage::Absent));
        let held = |id: &&InstanceId| {
            !self.slots.knows(&id.slot) && ResourceKey::of_slot(&id.slot).is_some_and(|key| waits(&key))
        };
        self.node.instances.keys().filter(held).cloned().collect()
    }

    /// How many slots changed their state.
    fn drive_slots(&mut self, now: Mono, random: u64) -> usize {
        let held = self.held();
        let mut node = self.node.clone();
        node.instances.retain(|id, _| !held.contains(id));
        let wanted = self.entries.iter().filter_map(|(key, entry)| match &entry.stage {
            Stage::Running(Running { prepared, .. }) => {
                let slot = key.slot();
                let pool =
                    PoolId { key: slot.key, service: slot.service, release: slot.release, cohort: Cohort::Whole };
                Some((
                    pool,
                    Wanted {
                        replicas: 1,
                        baseline: 0,
                        spec: Arc::clone(prepared),
                        drain: Duration::ZERO,
                        replaced: None,
                    },
                ))
            }
            Stage::Absent | Stage::Reached | Stage::Replacing(_) => None,
        });
        let wanted = wanted.collect();
        let world = World {
            wanted: &wanted,
            node: &node,
            reachable: &Reachable::Only(BTreeSet::new()),
            outstanding: &BTreeMap::new(),
        };
        self.slots.handle(world, now, random).len()
    }

    /// Servers that have ended so that others take their place; how many.
    fn replaced(&mut self, now: Mono) -> usize {
        let status = self.slots.status(now);
        let mut count = 0;
        for (key, entry) in &mut self.entries {
            let gone = status.get(&key.slot()).is_none_or(|slot| slot.state == SlotState::Stopped);
            if let (Stage::Replacing(next), true) = (&mut entry.stage, gone) {
                entry.stage = next.take().map_or(Stage::Absent, Stage::Running);
                count += 1;
            }
        }
        count
    }

    /// Begins what is due.
    fn begin(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let status = self.slots.status(now);
        for (key, entry) in &mut self.entries {
            let mut next = || {
                self.round = Round(self.round.0 + 1);
                self.round
            };
            match entry.preparation {
                Preparation::Due(at) if at <= now && !self.underway.contains_key(key) => {
                    let (round, spec) = (next(), Arc::clone(&entry.spec));
                    effects.push(match &*entry.spec {
                        ResourceSpec::Managed(_) | ResourceSpec::Left(_) => Effect::Prepare(key.clone(), round, spec),
                        ResourceSpec::External(_) => Effect::Probe(key.clone(), round, spec),
                    });
                    self.underway.insert(key.clone(), round);
                    entry.preparation = Preparation::Underway(round);
                }
                Preparation::Due(_) | Preparation::Underway(_) | Preparation::Done => {}
            }
            let slot = status.get(&key.slot()).filter(|slot| slot.state == SlotState::Ready);
            let (Stage::Running(running), Preparation::Done, Some(slot)) = (&mut entry.stage, entry.preparation, slot)
            else {
                continue;
            };
            let current = slot.instance.incarnation;
            let due = !is_left(&entry.spec)
                && match running.roles {
                    Roles::Due(at) => at <= now,
                    Roles::Making(_, of) | Roles::Made(of) => of != current,
                };
            if due {
                let round = next();
                effects.push(Effect::Provision(key.clone(), round, Arc::clone(&entry.spec)));
                running.roles = Roles::Making(round, current);
            }
        }
    }

    fn prepared(&mut self, key: &ResourceKey, of: Round, result: Result<Prepared, Trouble>, now: Mono, random: u64) {
        let Some(entry) = self.preparing(key, of) else { return };
        let Some(server) = entry.server().cloned() else { return };
        match result {
            Ok(Prepared { spec, version }) => {
                entry.succeeded();
                entry.version = Some(version);
                entry.preparation = Preparation::Done;
                entry.take_up(Running { server, prepared: spec, roles: Roles::Due(now) });
            }
            Err(trouble) => entry.preparation = Preparation::Due(entry.failed(trouble, now, mix(random, of.0))),
        }
    }

    fn probed(
        &mut self,
        key: &ResourceKey,
        of: Round,
        result: Result<Option<String>, Trouble>,
        now: Mono,
        random: u64,
    ) {
        let Some(entry) = self.preparing(key, of) else { return };
        match result {
            Ok(version) => {
                entry.succeeded();
                entry.version = version;
                entry.preparation = Preparation::Due(now + LOOK_AGAIN);
                entry.stage = Stage::Reached;
            }
            Err(trouble) => entry.preparation = Preparation::Due(entry.failed(trouble, now, mix(random, of.0))),
        }
    }

    /// The entry that an answer is of interest to.
    fn preparing(&mut self, key: &ResourceKey, of: Round) -> Option<&mut Entry> {
        if self.underway.get(key) == Some(&of) {
            self.underway.remove(key);
        }
        self.entries.get_mut(key).filter(|entry| entry.preparation == Preparation::Underway(of))
    }

    fn provisioned(&mut self, key: &ResourceKey, of: Round, result: Result<(), Trouble>, now: Mono, random: u64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Stage::Running(Running { roles: Roles::Making(round, incarnation), .. }) = entry.stage else { return };
        if round != of {
            return;
        }
        let made = match result {
            Ok(()) => {
                entry.succeeded();
                Roles::Made(incarnation)
            }
            Err(trouble) => Roles::Due(entry.failed(trouble, now, mix(random, of.0))),
        };
        if let Stage::Running(running) = &mut entry.stage {
            running.roles = made;
        }
    }

    /// Orders for the servers; `None` until it is known what runs and what is wanted.
    pub fn orders(&self) -> Option<BTreeMap<InstanceId, InstanceOrder>> {
        let mut orders = self.slots.orders().filter(|_| self.ordered)?;
        orders.extend(self.held().into_iter().map(|id| (id, InstanceOrder::Keep)));
        Some(orders)
    }

    /// Every resource that is wanted, and every server that still runs.
    pub fn observe(&self, now: Mono) -> BTreeMap<ResourceKey, ResourceObservation> {
        let status = self.slots.status(now);
        let running = status.keys().chain(self.node.instances.keys().map(|id| &id.slot));
        let stopping = running.filter_map(ResourceKey::of_slot).filter(|key| !self.entries.contains_key(key));
        // Before anything was wanted nothing is known to be too much.
        let stopping: BTreeSet<ResourceKey> = stopping.filter(|key| self.ordered && self.lives(key)).collect();
        let there = self.entries.iter().filter(|(key, entry)| !is_left(&entry.spec) || self.lives(key));
        let wanted = there.map(|(key, entry)| {
            let slot = status.get(&key.slot());
            let phase = match &*entry.spec {
                ResourceSpec::Left(left) => phase_of_left(key, left),
                ResourceSpec::Managed(_) | ResourceSpec::External(_) => phase(key, entry, slot),
            };
            (key.clone(), self.observation(key, phase, entry.version.clone(), slot))
        });
        let stopping = stopping.into_iter().map(|key| {
            let slot = status.get(&key.slot());
            let seen = self.observation(&key, ResourcePhase::Stopping, None, slot);
            (key, seen)
        });
        wanted.chain(stopping).collect()
    }

    /// Whether anything of a server is left.
    fn lives(&self, key: &ResourceKey) -> bool {
        let slot = key.slot();
        self.node.instances.iter().any(|(id, seen)| id.slot == slot && !is_gone(seen))
    }

    fn observation(
        &self,
        key: &ResourceKey,
        phase: ResourcePhase,
        version: Option<String>,
        slot: Option<&SlotStatus>,
    ) -> ResourceObservation {
        let own = key.slot();
        let seen = self.node.instances.iter().rfind(|(id, seen)| id.slot == own && !is_gone(seen)).map(|(_, s)| s);
        let (pid, since) = match seen.map(|seen| &seen.phase) {
            Some(Phase::Running { pid, since, .. }) => (Some(*pid), Some(*since)),
            Some(Phase::Stopping { pid, .. }) => (Some(*pid), None),
            Some(Phase::Preparing(_) | Phase::Starting | Phase::Exited(_) | Phase::Refused(_)) | None => (None, None),
        };
        ResourceObservation {
            phase,
            version,
            pid,
            since,
            usage: seen.map_or_else(Usage::default, |seen| seen.usage),
            restarts: slot.map_or(0, |slot| slot.restarts),
            unenforced: seen.map(|seen| seen.unenforced.clone()).unwrap_or_default(),
        }
    }

    /// When to call `handle` with a tick if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        let status = self.slots.status(Mono::default());
        // What is due only once its server is ready is begun when that is seen.
        let ready = |key: &ResourceKey| status.get(&key.slot()).is_some_and(|s| s.state == SlotState::Ready);
        let roles = self.entries.iter().filter(|(key, _)| ready(key)).filter_map(|(_, entry)| entry.roles_due());
        let preparations = self.entries.iter().filter_map(|(key, entry)| match entry.preparation {
            // What waits for an earlier one begins with its answer.
            Preparation::Due(at) => Some(at).filter(|_| !self.underway.contains_key(key)),
            Preparation::Underway(_) | Preparation::Done => None,
        });
        roles.chain(preparations).chain(self.slots.next_deadline()).min()
    }
}

fn is_gone(seen: &InstanceObservation) -> bool {
    match seen.phase {
        Phase::Exited(_) | Phase::Refused(_) => true,
        Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. } => false,
    }
}

fn is_left(spec: &ResourceSpec) -> bool {
    matches!(spec, ResourceSpec::Left(_))
}

/// It runs, which is all that is known of it.
fn phase_of_left(key: &ResourceKey, left: &Left) -> ResourcePhase {
    match left.known {
        Some(_) => ResourcePhase::Ready,
        None => {
            let fault = Fault::new(FaultKind::Failed, format!("{} of {} is left as it runs", key.id, key.app));
            let fault = fault.caused_by("its password cannot be read");
            ResourcePhase::Failing { fault, attempts: 0, lasting: true }
        }
    }
}

fn phase(key: &ResourceKey, entry: &Entry, slot: Option<&SlotStatus>) -> ResourcePhase {
    let failing = entry.trouble.as_ref().filter(|trouble| trouble.nature != Nature::Soon);
    let failing = failing.map(|trouble| ResourcePhase::Failing {
        fault: trouble.fault.clone(),
        attempts: entry.attempts,
        lasting: trouble.nature == Nature::Lasting,
    });
    let starting = |on: String| ResourcePhase::Starting { on };
    let is_only_asked_again = matches!(entry.stage, Stage::Reached) && entry.trouble.is_none();
    if entry.preparation != Preparation::Done && !is_only_asked_again {
        return failing.unwrap_or(ResourcePhase::Preparing);
    }
    match (&entry.stage, slot) {
        (Stage::Absent, _) => ResourcePhase::Preparing,
        (Stage::Reached, _) => ResourcePhase::Ready,
        (Stage::Replacing(_), _) => starting("the server before it to end".to_owned()),
        (Stage::Running(_), None) => starting("the node".to_owned()),
        (Stage::Running(Running { roles, .. }), Some(slot)) => match (slot.state, roles) {
            (SlotState::Ready, Roles::Made(of)) if *of == slot.instance.incarnation => ResourcePhase::Ready,
            (SlotState::Ready, _) => {
                // While they are made, the attempt before is past.
                let before = entry.trouble.as_ref().filter(|_| matches!(roles, Roles::Due(_)));
                let on = before.map_or("its roles and contents", |t| t.fault.message.as_str());
                failing.unwrap_or_else(|| starting(on.to_owned()))
            }
            (
                SlotState::Starting
                | SlotState::Unready
                | SlotState::Draining
                | SlotState::Stopped
                | SlotState::Crashed,
                _,
            ) => match &slot.failure {
                Some(failure) if slot.crashes > 0 => ResourcePhase::Failing {
                    fault: server_failed(key, failure),
                    attempts: slot.crashes,
                    lasting: false,
                },
                Some(_) | None => starting(slot.waits_on.as_ref().map_or_else(String::new, ToString::to_string)),
            },
        },
    }
}

/// As it is told to an operator, who knows the resource and not the slot.
fn server_failed(key: &ResourceKey, failure: &Failure) -> Fault {
    let fault = Fault::new(FaultKind::Failed, format!("{} of {} failed", key.id, key.app));
    let fault = fault.caused_by(failure.cause.to_string());
    let fault = match &failure.cause {
        FailureCause::Refused(inner) => inner.causes.iter().fold(fault, |fault, cause| fault.caused_by(cause)),
        FailureCause::Exited(_)
        | FailureCause::NotReady { .. }
        | FailureCause::NotAlive { .. }
        | FailureCause::NotStarted { .. }
        | FailureCause::Lost => fault,
    };
    let fault = match failure.last_lines.as_slice() {
        [] => fault,
        lines => fault.detail(lines.join("\n")),
    };
    fault.hint(format!("read its output: bowline logs {} --service {}", key.app.command_words(), key.id))
}
