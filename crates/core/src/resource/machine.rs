//! The machine that keeps resources as they are wanted.
//!
//! ```text
//!                          ┌─ the server is to be another one ─┐
//!                          ↓                                   │
//! wanted → Preparing → Running: slot starts → Provisioning → Done ── the slot restarts: provisioned again
//!             ↑  │                                ↑  │
//!             └──┴─ trouble, after a while ───────┴──┘
//! ```
//!
//! A server elsewhere only has the first half: `Preparing` asks it. Once it has answered it is asked again and again,
//! and counts as there until it does not answer.
//!
//! Architecture invariant: a server that was left running by an earlier daemon is neither stopped nor started before
//! it has been prepared: until then its order is to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Managed, Nature, Prepared, ResourceKey, ResourceObservation, ResourcePhase, ResourceSpec, Server, Trouble,
};
use crate::fault::{Fault, FaultKind};
use crate::id::{Incarnation, InstanceId};
use crate::instance::backoff::{LONGEST, delay, mix};
use crate::instance::{
    Failure, FailureCause, InstanceObservation, InstanceOrder, Observations, Phase, SlotState, SlotStatus, Slots,
    Usage, Wanted, World,
};
use crate::route::{PoolId, Reachable};
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
    round: Round,
}

#[derive(Debug)]
struct Entry {
    spec: Arc<ResourceSpec>,
    stage: Stage,
    attempts: u32,
    /// Why the last attempt failed.
    trouble: Option<Trouble>,
    version: Option<String>,
}

#[derive(Debug)]
enum Stage {
    /// To be prepared at this moment.
    Due(Mono),
    /// `Prepare` or `Probe` is under way.
    Preparing(Round),
    Running {
        prepared: Arc<crate::instance::InstanceSpec>,
        roles: Roles,
    },
    /// A server elsewhere has answered; it is asked again at this moment.
    Reached(Mono),
    /// It is being asked again.
    Asking(Round),
    /// The server is to end: then it is prepared anew.
    Replacing,
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
        Self { spec, stage: Stage::Due(now), attempts: 0, trouble: None, version: None }
    }

    fn server(&self) -> Option<&Server> {
        match &*self.spec {
            ResourceSpec::Managed(Managed { server, .. }) => Some(server),
            ResourceSpec::External(_) => None,
        }
    }

    /// Takes up another spec.
    fn change(&mut self, spec: &Arc<ResourceSpec>, now: Mono) {
        if self.spec == *spec {
            return;
        }
        let before = self.server().cloned();
        self.spec = Arc::clone(spec);
        (self.attempts, self.trouble) = (0, None);
        let same_server = self.server().is_some() && self.server() == before.as_ref();
        match &mut self.stage {
            Stage::Running { roles, .. } if same_server => *roles = Roles::Due(now),
            Stage::Running { .. } if before.is_some() => self.stage = Stage::Replacing,
            Stage::Replacing => {}
            Stage::Due(_) | Stage::Preparing(_) | Stage::Running { .. } | Stage::Reached(_) | Stage::Asking(_) => {
                self.stage = Stage::Due(now);
            }
        }
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

    fn next_deadline(&self) -> Option<Mono> {
        match &self.stage {
            Stage::Due(at) | Stage::Reached(at) | Stage::Running { roles: Roles::Due(at), .. } => Some(*at),
            Stage::Preparing(_) | Stage::Running { .. } | Stage::Asking(_) | Stage::Replacing => None,
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
        let waits = |key: &ResourceKey| {
            self.entries.get(key).is_some_and(|entry| matches!(entry.stage, Stage::Due(_) | Stage::Preparing(_)))
        };
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
            Stage::Running { prepared, .. } => {
                let slot = key.slot();
                let pool = PoolId { key: slot.key, service: slot.service, release: slot.release };
                Some((pool, Wanted { replicas: 1, spec: Arc::clone(prepared), drain: Duration::ZERO }))
            }
            Stage::Due(_) | Stage::Preparing(_) | Stage::Reached(_) | Stage::Asking(_) | Stage::Replacing => None,
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
            if matches!(entry.stage, Stage::Replacing) && gone {
                entry.stage = Stage::Due(now);
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
            match &mut entry.stage {
                Stage::Due(at) if *at <= now => {
                    let (round, spec) = (next(), Arc::clone(&entry.spec));
                    effects.push(match &*entry.spec {
                        ResourceSpec::Managed(_) => Effect::Prepare(key.clone(), round, spec),
                        ResourceSpec::External(_) => Effect::Probe(key.clone(), round, spec),
                    });
                    entry.stage = Stage::Preparing(round);
                }
                Stage::Reached(at) if *at <= now => {
                    let round = next();
                    effects.push(Effect::Probe(key.clone(), round, Arc::clone(&entry.spec)));
                    entry.stage = Stage::Asking(round);
                }
                Stage::Running { roles, .. } => {
                    let Some(slot) = status.get(&key.slot()).filter(|slot| slot.state == SlotState::Ready) else {
                        continue;
                    };
                    let current = slot.instance.incarnation;
                    let due = match *roles {
                        Roles::Due(at) => at <= now,
                        Roles::Making(_, of) | Roles::Made(of) => of != current,
                    };
                    if due {
                        let round = next();
                        effects.push(Effect::Provision(key.clone(), round, Arc::clone(&entry.spec)));
                        *roles = Roles::Making(round, current);
                    }
                }
                Stage::Due(_) | Stage::Preparing(_) | Stage::Reached(_) | Stage::Asking(_) | Stage::Replacing => {}
            }
        }
    }

    fn prepared(&mut self, key: &ResourceKey, of: Round, result: Result<Prepared, Trouble>, now: Mono, random: u64) {
        let Some(entry) = self.preparing(key, of) else { return };
        match result {
            Ok(Prepared { spec, version }) => {
                entry.succeeded();
                entry.version = Some(version);
                entry.stage = Stage::Running { prepared: spec, roles: Roles::Due(now) };
            }
            Err(trouble) => entry.stage = Stage::Due(entry.failed(trouble, now, mix(random, of.0))),
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
        let Some(entry) = self.entries.get_mut(key) else { return };
        if !matches!(entry.stage, Stage::Preparing(round) | Stage::Asking(round) if round == of) {
            return;
        }
        match result {
            Ok(version) => {
                entry.succeeded();
                entry.version = version;
                entry.stage = Stage::Reached(now + LOOK_AGAIN);
            }
            Err(trouble) => entry.stage = Stage::Due(entry.failed(trouble, now, mix(random, of.0))),
        }
    }

    fn preparing(&mut self, key: &ResourceKey, of: Round) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key)?;
        matches!(entry.stage, Stage::Preparing(round) if round == of).then_some(entry)
    }

    fn provisioned(&mut self, key: &ResourceKey, of: Round, result: Result<(), Trouble>, now: Mono, random: u64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Stage::Running { prepared, roles: Roles::Making(round, incarnation) } = &entry.stage else { return };
        if *round != of {
            return;
        }
        let (prepared, incarnation) = (Arc::clone(prepared), *incarnation);
        let roles = match result {
            Ok(()) => {
                entry.succeeded();
                Roles::Made(incarnation)
            }
            Err(trouble) => Roles::Due(entry.failed(trouble, now, mix(random, of.0))),
        };
        entry.stage = Stage::Running { prepared, roles };
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
        let wanted = self.entries.iter().map(|(key, entry)| {
            let slot = status.get(&key.slot());
            (key.clone(), self.observation(key, phase(key, entry, slot), entry.version.clone(), slot))
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
            Some(Phase::Starting | Phase::Exited(_) | Phase::Refused(_)) | None => (None, None),
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
        let ready = |key: &ResourceKey, entry: &Entry| {
            // What is due only once its server is ready is begun when that is seen.
            !matches!(entry.stage, Stage::Running { .. })
                || self.slots.status(Mono::default()).get(&key.slot()).is_some_and(|s| s.state == SlotState::Ready)
        };
        let entries = self.entries.iter().filter(|(key, entry)| ready(key, entry));
        entries.filter_map(|(_, entry)| entry.next_deadline()).chain(self.slots.next_deadline()).min()
    }
}

fn is_gone(seen: &InstanceObservation) -> bool {
    match seen.phase {
        Phase::Exited(_) | Phase::Refused(_) => true,
        Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. } => false,
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
    match (&entry.stage, slot) {
        (Stage::Due(_) | Stage::Preparing(_), _) => failing.unwrap_or(ResourcePhase::Preparing),
        (Stage::Reached(_) | Stage::Asking(_), _) => ResourcePhase::Ready,
        (Stage::Replacing, _) => starting("the server before it to end".to_owned()),
        (Stage::Running { .. }, None) => starting("the node".to_owned()),
        (Stage::Running { roles, .. }, Some(slot)) => match (slot.state, roles) {
            (SlotState::Ready, Roles::Made(of)) if *of == slot.instance.incarnation => ResourcePhase::Ready,
            (SlotState::Ready, _) => {
                let on = entry.trouble.as_ref().map_or("its roles and contents", |t| t.fault.message.as_str());
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
    fault.hint(format!("read its output: bowline logs {} --service {}", key.app.app, key.id))
}
