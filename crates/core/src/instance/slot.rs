//! One slot: exactly one incarnation at a time, from its start to its end.
//!
//! ```text
//!            ┌──────────── health again ────────────┐
//! Stopped → Starting → Ready → Unready ─────────────┘
//!    ↑         │         │        │
//!    │         ├─────────┴────────┤ retired, not alive
//!    │         │                  ↓
//!    │         │ not ready     Draining → Stopping
//!    │         └─────────────────────────────↑ │
//!    └────────────── retired ────────────────┼─┤
//!              Starting ← Crashed ← failed ──┴─┘ (or it ended by itself)
//! ```
//!
//! Architecture invariant: nothing leads from Draining or Stopping back to Ready but the end of the process.

use std::collections::btree_map;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use super::backoff;
use super::preparing::Preparing;
use super::{
    Failure, FailureCause, HealthState, InstanceObservation, InstanceOrder, InstanceSpec, Observations, Phase,
    SlotState, SlotStatus, WaitsOn, Wanted,
};
use crate::app::Protocol;
use crate::id::{Incarnation, InstanceId, Port, SlotId};
use crate::time::Mono;

/// An instance without a health check counts as ready when it has stayed up this long.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// The node must get a process to run in this time; the service's own grace counts from there.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

/// A ready instance whose health fails this often in a row gets no new requests. One slow answer changes nothing.
pub(super) const UNREADY_AFTER: u32 = 3;

/// Failures in a row of `alive` that restart an instance.
pub(super) const DEAD_AFTER: u32 = 3;

/// What an instance that is not alive is given to finish its requests: it does not answer anyway.
pub(super) const DEAD_DRAIN: Duration = Duration::from_secs(5);

/// Drain of an instance whose service is not known any more: the file's default.
pub(super) const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// An instance that was ordered to run, never seen and ordered to stop is believed not to exist after this long. (The
/// node's lock per slot holds beyond that.)
pub(super) const UNSEEN: Duration = Duration::from_secs(2);

/// So long after it was taken over, an instance of an earlier daemon run is judged by what is known.
pub(super) const JUDGE_WITHIN: Duration = Duration::from_secs(5);

/// What one slot reads.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) wanted: Option<&'a Wanted>,
    pub(super) seen: Seen<'a>,
    pub(super) reachable: bool,
    pub(super) outstanding: u32,
    pub(super) now: Mono,
    pub(super) random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Starting { ordered: Mono, running: Option<Mono> },
    Ready { since: Mono },
    Unready,
    Draining { since: Mono, limit: Duration, why: Why },
    Stopping { since: Mono, why: Why },
    Crashed { until: Mono },
}

/// Why an instance is brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Not wanted any more. If it is wanted again by then, the next incarnation starts at once.
    Retired,
    /// The next incarnation waits for its backoff.
    Failed,
}

#[derive(Debug)]
pub(super) struct Slot {
    id: SlotId,
    state: State,
    /// Of the instance that is, or was last. 0: none yet.
    incarnation: Incarnation,
    /// What this incarnation runs; `None` for one that was taken over and is not wanted.
    spec: Option<Arc<InstanceSpec>>,
    drain: Duration,
    /// The node has reported this incarnation.
    seen: bool,
    /// What the node waits for.
    preparing: Option<Preparing>,
    /// It ran before this machine did.
    inherited: Option<Mono>,
    /// It was ready, or may have been.
    exposed: bool,
    crashes: u32,
    port: Option<Port>,
    /// The last failed health check: how often in a row, and why.
    health: Option<(u32, String)>,
    reachable: bool,
    outstanding: u32,
    failure: Option<Failure>,
    /// Another incarnation that has not ended.
    predecessor: Option<InstanceId>,
}

/// Whether nothing of an instance is left.
pub(super) fn is_gone(seen: &InstanceObservation) -> bool {
    match seen.phase {
        Phase::Exited(_) | Phase::Refused(_) => true,
        Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. } => false,
    }
}

/// All that the node reports of one slot, by incarnation.
pub(super) type Seen<'a> = &'a [(&'a InstanceId, &'a InstanceObservation)];

/// Hands out what a node reports, slot by slot. Slots are asked for in their order, so that one walk does for all of them: a search for
/// each is most of the cost of a look at thousands.
pub(super) struct BySlot<'a> {
    left: Peekable<btree_map::Iter<'a, InstanceId, InstanceObservation>>,
    seen: Vec<(&'a InstanceId, &'a InstanceObservation)>,
}

impl<'a> BySlot<'a> {
    pub(super) fn new(node: &'a Observations) -> Self {
        Self { left: node.instances.iter().peekable(), seen: Vec::new() }
    }

    /// Of a slot that comes after all that were asked for before.
    pub(super) fn of(&mut self, slot: &SlotId) -> Seen<'_> {
        self.seen.clear();
        while self.left.next_if(|(id, _)| id.slot < *slot).is_some() {}
        while let Some(seen) = self.left.next_if(|(id, _)| id.slot == *slot) {
            self.seen.push(seen);
        }
        &self.seen
    }
}

impl Slot {
    /// A slot as the node has it: whatever lives in it is taken over. `before`: the last incarnation that is known.
    pub(super) fn found(id: SlotId, before: Incarnation, seen: Seen<'_>, now: Mono) -> Self {
        let last = seen.last().map_or(before, |(id, _)| id.incarnation.max(before));
        let alive = seen.iter().rfind(|(_, seen)| !is_gone(seen)).map(|(id, _)| id.incarnation);
        Self {
            state: alive.map_or(State::Stopped, |_| State::Starting { ordered: now, running: None }),
            incarnation: alive.unwrap_or(last),
            id,
            spec: None,
            drain: DEFAULT_DRAIN,
            seen: alive.is_some(),
            preparing: None,
            inherited: alive.map(|_| now),
            exposed: alive.is_some(),
            crashes: 0,
            port: None,
            health: None,
            reachable: false,
            outstanding: 0,
            failure: None,
            predecessor: None,
        }
    }

    /// Of one that is stopped and not wanted. Answers whether the node has nothing of it either.
    pub(super) fn forget_spec(&mut self, node: &Observations) -> bool {
        self.spec = None;
        let at = |incarnation| InstanceId { slot: self.id.clone(), incarnation: Incarnation(incarnation) };
        self.predecessor.is_none() && node.instances.range(at(0)..=at(u32::MAX)).next().is_none()
    }

    pub(super) fn instance(&self) -> InstanceId {
        InstanceId { slot: self.id.clone(), incarnation: self.incarnation }
    }

    pub(super) fn state(&self) -> SlotState {
        match self.state {
            State::Stopped => SlotState::Stopped,
            State::Starting { .. } => SlotState::Starting,
            State::Ready { .. } => SlotState::Ready,
            State::Unready => SlotState::Unready,
            State::Draining { .. } | State::Stopping { .. } => SlotState::Draining,
            State::Crashed { .. } => SlotState::Crashed,
        }
    }

    /// Before it is told to stop.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// What it is started from is not there yet.
    pub(super) fn is_preparing(&self) -> bool {
        matches!(self.state, State::Starting { running: None, .. }) && self.preparing.is_some()
    }

    pub(super) fn crashes(&self) -> u32 {
        self.crashes
    }

    pub(super) fn is_crashed(&self) -> bool {
        self.state() == SlotState::Crashed
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The port of an instance that may get traffic.
    pub(super) fn endpoint(&self) -> Option<Port> {
        self.port.filter(|_| self.state() == SlotState::Ready)
    }

    /// What its instance speaks.
    pub(super) fn protocol(&self) -> Protocol {
        self.spec.as_ref().map(|spec| spec.protocol).unwrap_or_default()
    }

    /// One step; `true` if the state changed, so that another one may be due at once.
    pub(super) fn step(&mut self, look: Look<'_>) -> bool {
        let instance = self.instance();
        let seen = look.seen.iter().find(|(id, _)| **id == instance).map(|(_, seen)| *seen);
        let before = (self.state, self.incarnation);
        self.look(&instance, seen, look);
        match self.state {
            State::Stopped => self.start(look),
            State::Crashed { .. } if look.wanted.is_none() => self.state = State::Stopped,
            State::Crashed { until } if look.now < until => {}
            State::Crashed { .. } => self.start(look),
            State::Starting { .. }
            | State::Ready { .. }
            | State::Unready
            | State::Draining { .. }
            | State::Stopping { .. } => match seen {
                Some(seen) if is_gone(seen) => self.ended(Some(seen), look),
                None if self.seen => self.ended(None, look),
                Some(_) | None => self.live(seen, look),
            },
        }
        before != (self.state, self.incarnation)
    }

    /// Notes what is only remembered: for status, and for later steps.
    fn look(&mut self, instance: &InstanceId, seen: Option<&InstanceObservation>, look: Look<'_>) {
        if self.inherited.is_some_and(|since| look.now >= since + JUDGE_WITHIN) {
            self.inherited = None;
        }
        self.reachable = look.reachable;
        self.outstanding = look.outstanding;
        let other = |(id, seen): &(&InstanceId, &InstanceObservation)| *id != instance && !is_gone(seen);
        self.predecessor = look.seen.iter().find(|seen| other(seen)).map(|(id, _)| (*id).clone());
        if let Some(wanted) = look.wanted {
            self.drain = wanted.drain;
            if self.spec.is_none() && self.incarnation > Incarnation(0) {
                self.spec = Some(of_instance(wanted, self.instance()));
            }
        }
        let Some(seen) = seen else { return };
        self.seen = true;
        if let Phase::Running { port, .. } = seen.phase {
            self.port = Some(port);
        }
        match &seen.health {
            HealthState::Failing { failures, reason } => self.health = Some((*failures, reason.clone())),
            HealthState::Passing { .. } => self.health = None,
            HealthState::Unknown => {}
        }
    }

    /// The next incarnation, if one is wanted and no other one is left.
    fn start(&mut self, look: Look<'_>) {
        let (Some(wanted), None) = (look.wanted, &self.predecessor) else { return };
        let last = look.seen.last().map_or(Incarnation(0), |(id, _)| id.incarnation);
        self.incarnation = self.incarnation.max(last).next();
        self.spec = Some(of_instance(wanted, self.instance()));
        if self.state == State::Stopped {
            self.crashes = 0;
            self.failure = None;
        }
        self.state = State::Starting { ordered: look.now, running: None };
        self.seen = false;
        self.preparing = None;
        self.inherited = None;
        self.exposed = false;
        self.port = None;
        self.health = None;
    }

    /// The process is gone, whether it was told to or not.
    fn ended(&mut self, seen: Option<&InstanceObservation>, look: Look<'_>) {
        let why = match self.state {
            State::Draining { why, .. } | State::Stopping { why, .. } => {
                self.last_lines(seen);
                why
            }
            State::Starting { .. } | State::Ready { .. } | State::Unready if look.wanted.is_none() => Why::Retired,
            State::Starting { .. } | State::Ready { .. } | State::Unready => {
                self.fail(cause(seen), look.now);
                self.last_lines(seen);
                Why::Failed
            }
            State::Stopped | State::Crashed { .. } => return,
        };
        self.state = match why {
            Why::Retired => State::Stopped,
            Why::Failed => State::Crashed { until: look.now + backoff::delay(self.crashes, look.random) },
        };
    }

    /// It lives, or is about to.
    fn live(&mut self, seen: Option<&InstanceObservation>, look: Look<'_>) {
        let stopping = seen.is_some_and(|seen| matches!(seen.phase, Phase::Stopping { .. }));
        match self.state {
            State::Draining { since, limit, why } => {
                let finished = !look.reachable && look.outstanding == 0;
                if stopping || finished || look.now >= since + limit {
                    self.state = State::Stopping { since: look.now, why };
                }
            }
            State::Stopping { since, .. } => {
                if !self.seen && look.now >= since + UNSEEN {
                    self.ended(None, look);
                }
            }
            State::Starting { .. } | State::Ready { .. } | State::Unready if stopping => {
                self.state = State::Stopping { since: look.now, why: Why::Retired };
            }
            State::Starting { .. } | State::Ready { .. } | State::Unready if look.wanted.is_none() => {
                self.out(self.drain, Why::Retired, look.now);
            }
            State::Starting { .. } | State::Ready { .. } | State::Unready if self.gives_way(look) => {
                self.out(self.drain, Why::Retired, look.now);
            }
            State::Starting { ordered, running } => self.starting(ordered, running, seen, look.now),
            State::Ready { .. } | State::Unready => self.serving(seen, look.now),
            State::Stopped | State::Crashed { .. } => {}
        }
    }

    fn gives_way(&self, look: Look<'_>) -> bool {
        look.wanted.is_some_and(|wanted| wanted.replaced == Some((self.id.slot, self.incarnation)))
    }

    fn starting(&mut self, ordered: Mono, running: Option<Mono>, seen: Option<&InstanceObservation>, now: Mono) {
        let up = seen.filter(|seen| matches!(seen.phase, Phase::Running { .. }));
        let Some(seen) = up else {
            let was = self.preparing.take();
            self.preparing = seen.and_then(|seen| Preparing::next(was.as_ref(), &seen.phase, now));
            // What is there now is started in the time of any other.
            let ordered = if was.is_some() && self.preparing.is_none() { now } else { ordered };
            self.state = State::Starting { ordered, running };
            let (from, within) = self.start_limit(ordered);
            if now >= from + within {
                self.fail(FailureCause::NotStarted { within }, now);
                self.state = State::Stopping { since: now, why: Why::Failed };
            }
            return;
        };
        let running = running.unwrap_or(now);
        self.state = State::Starting { ordered, running: Some(running) };
        let grace = self.grace();
        let ready = match (&seen.health, grace) {
            (_, None) => now >= running + SETTLE,
            (HealthState::Passing { .. }, Some(_)) => true,
            (HealthState::Unknown | HealthState::Failing { .. }, Some(_)) => false,
        };
        if ready {
            self.state = State::Ready { since: now };
            self.exposed = true;
        } else if self.not_alive(seen, now) {
        } else if let Some(grace) = grace.filter(|grace| now >= running + *grace) {
            self.fail(FailureCause::NotReady { grace }, now);
            self.out(DEAD_DRAIN, Why::Failed, now);
        }
    }

    /// How long the node has, and from when on.
    fn start_limit(&self, ordered: Mono) -> (Mono, Duration) {
        self.preparing.as_ref().map_or((ordered, START_LIMIT), Preparing::limit)
    }

    fn serving(&mut self, seen: Option<&InstanceObservation>, now: Mono) {
        let Some(seen) = seen else { return };
        if self.not_alive(seen, now) {
            return;
        }
        match (&seen.health, self.state) {
            (HealthState::Failing { failures, .. }, State::Ready { since }) if *failures >= UNREADY_AFTER => {
                self.forgive(since, now);
                self.state = State::Unready;
            }
            (HealthState::Passing { .. }, State::Unready) => self.state = State::Ready { since: now },
            _ => {}
        }
    }

    /// Brings an instance to its end that is not alive.
    fn not_alive(&mut self, seen: &InstanceObservation, now: Mono) -> bool {
        let HealthState::Failing { failures: DEAD_AFTER.., reason } = &seen.alive else { return false };
        self.fail(FailureCause::NotAlive { reason: reason.clone() }, now);
        self.out(self.drain.min(DEAD_DRAIN), Why::Failed, now);
        true
    }

    /// Out of the table, then to its end; at once if it never was in one.
    fn out(&mut self, limit: Duration, why: Why, now: Mono) {
        self.state = match self.exposed {
            true => State::Draining { since: now, limit, why },
            false => State::Stopping { since: now, why },
        };
    }

    fn fail(&mut self, cause: FailureCause, now: Mono) {
        if let State::Ready { since } = self.state {
            self.forgive(since, now);
        }
        self.crashes = self.crashes.saturating_add(1);
        self.failure = Some(Failure {
            instance: self.instance(),
            cause,
            was: self.state(),
            health: self.health.as_ref().map(|(_, reason)| reason.clone()),
            last_lines: Vec::new(),
        });
    }

    /// Long enough healthy, and earlier failures say nothing any more.
    fn forgive(&mut self, since: Mono, now: Mono) {
        if now >= since + backoff::RESET {
            self.crashes = 0;
        }
    }

    /// The end of the output of an instance that failed is known when it has ended.
    fn last_lines(&mut self, seen: Option<&InstanceObservation>) {
        let (Some(failure), Some(Phase::Exited(exit))) = (&mut self.failure, seen.map(|seen| &seen.phase)) else {
            return;
        };
        if failure.instance.incarnation == self.incarnation {
            failure.last_lines.clone_from(&exit.last_lines);
        }
    }

    fn grace(&self) -> Option<Duration> {
        self.spec.as_ref().and_then(|spec| spec.health.as_ref()).map(|health| health.probe().grace)
    }

    /// What the node is told, of this incarnation and of others that should not be.
    pub(super) fn orders(&self) -> impl Iterator<Item = (InstanceId, InstanceOrder)> + use<> {
        let order = match (&self.state, &self.spec) {
            (State::Starting { .. } | State::Ready { .. } | State::Unready, Some(spec)) => {
                Some(InstanceOrder::Run(Arc::clone(spec)))
            }
            (State::Starting { .. } | State::Ready { .. } | State::Unready, None) | (State::Draining { .. }, _) => {
                Some(InstanceOrder::Keep)
            }
            (State::Stopping { .. }, _) => Some(InstanceOrder::Stop),
            (State::Stopped | State::Crashed { .. }, _) => None,
        };
        let own = order.map(|order| (self.instance(), order));
        own.into_iter().chain(self.predecessor.clone().map(|id| (id, InstanceOrder::Stop)))
    }

    /// Until when it is not known whether an instance that was taken over was ready all along.
    pub(super) fn undecided(&self) -> Option<Mono> {
        let settled = self.health.as_ref().is_some_and(|(failures, _)| *failures >= UNREADY_AFTER);
        match (self.state, self.inherited) {
            (State::Starting { running: Some(_), .. }, Some(since)) if !settled && self.grace().is_some() => {
                Some(since + JUDGE_WITHIN)
            }
            _ => None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        match self.state {
            State::Stopped | State::Ready { .. } | State::Unready => None,
            State::Starting { ordered, running: None } => {
                let (from, within) = self.start_limit(ordered);
                Some(from + within)
            }
            State::Starting { running: Some(running), .. } => Some(running + self.grace().unwrap_or(SETTLE)),
            State::Draining { since, limit, .. } => Some(since + limit),
            State::Stopping { since, .. } => (!self.seen).then(|| since + UNSEEN),
            State::Crashed { until } => self.predecessor.is_none().then_some(until),
        }
    }

    pub(super) fn status(&self, now: Mono) -> SlotStatus {
        SlotStatus {
            instance: self.instance(),
            state: self.state(),
            waits_on: self.waits_on(now),
            port: self.port,
            restarts: self.incarnation.0.saturating_sub(1),
            crashes: self.crashes,
            failure: self.failure.clone(),
        }
    }

    fn waits_on(&self, now: Mono) -> Option<WaitsOn> {
        match self.state {
            State::Stopped => self.predecessor.clone().map(WaitsOn::Predecessor),
            State::Ready { .. } => None,
            State::Starting { ordered, running: None } => Some(match &self.preparing {
                Some(Preparing { since, awaited }) => {
                    WaitsOn::Preparation { awaited: awaited.clone(), since: now.since(*since) }
                }
                None => WaitsOn::Start { since: now.since(ordered) },
            }),
            State::Starting { running: Some(running), .. } => {
                let (since, reason) = (now.since(running), self.health.as_ref().map(|(_, reason)| reason.clone()));
                Some(match self.grace() {
                    Some(grace) => WaitsOn::Health { reason, since, grace },
                    None => WaitsOn::StayingUp { since, wanted: SETTLE },
                })
            }
            State::Unready => {
                let (failures, reason) = self.health.clone().unwrap_or_default();
                Some(WaitsOn::HealthAgain { reason, failures })
            }
            State::Draining { since, limit, .. } => {
                let since = now.since(since);
                Some(match self.reachable {
                    true => WaitsOn::Edge { since, limit },
                    false => WaitsOn::Outstanding { requests: self.outstanding, since, limit },
                })
            }
            State::Stopping { .. } => Some(WaitsOn::Stop),
            State::Crashed { until } => Some(match self.predecessor.clone() {
                Some(id) => WaitsOn::Predecessor(id),
                None => WaitsOn::Backoff { left: until.since(now), crashes: self.crashes },
            }),
        }
    }
}

/// The service's spec for one incarnation.
fn of_instance(wanted: &Wanted, id: InstanceId) -> Arc<InstanceSpec> {
    Arc::new(InstanceSpec { id, ..(*wanted.spec).clone() })
}

/// Why an instance ended that was not told to.
fn cause(seen: Option<&InstanceObservation>) -> FailureCause {
    match seen.map(|seen| &seen.phase) {
        Some(Phase::Exited(exit)) => FailureCause::Exited(exit.cause.clone()),
        Some(Phase::Refused(fault)) => FailureCause::Refused(fault.clone()),
        Some(Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. }) | None => {
            FailureCause::Lost
        }
    }
}
