//! Rounds: what is done to the instances of the release that serves. A rolling restart, and another number of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::machine::is_enough;
use super::plan::patience;
use super::set::{Scales, replicas};
use super::{PhaseError, Set, Waiting, steady};
use crate::app::App;
use crate::fault::{Fault, FaultKind};
use crate::id::{Incarnation, ReleaseNumber, ServiceName, Slot, SlotId};
use crate::instance::{Failure, SlotState, SlotStatus, WaitsOn};
use crate::time::{Humane, Mono};

/// One step: how many instances a service has, and which of them gives way to its next incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub service: ServiceName,
    pub replicas: u16,
    pub replaced: Option<Slot>,
}

/// Every choice of a round, made before its first step.
///
/// A restart goes service by service: one more instance is started, each of the others is replaced in turn, and the one
/// more goes again: none fewer serve at any time. What has a fixed port is replaced stop-first.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundPlan {
    release: ReleaseNumber,
    /// At least one.
    moves: Vec<Move>,
    /// Of all services, without the round.
    before: Vec<Set>,
    patience: BTreeMap<ServiceName, Duration>,
}

impl RoundPlan {
    /// Of these services, which run processes.
    pub fn restart((release, app): (ReleaseNumber, &App), scales: &Scales, services: &BTreeSet<ServiceName>) -> Self {
        let mut moves = Vec::new();
        for (name, service) in app.services.iter().filter(|(name, _)| services.contains(*name)) {
            let count = replicas(name, service, scales);
            let surge = if service.fixed_port.is_some() { count } else { count.saturating_add(1) };
            let one = |replicas, replaced| Move { service: name.clone(), replicas, replaced };
            moves.extend((surge > count && count > 0).then(|| one(surge, None)));
            moves.extend((0..count).map(|slot| one(surge, Some(Slot(slot)))));
            moves.extend((surge > count && count > 0).then(|| one(count, None)));
        }
        Self::new((release, app), scales, moves)
    }

    /// Another number of instances of one service.
    pub fn scale(of: (ReleaseNumber, &App), scales: &Scales, service: &ServiceName, replicas: u16) -> Self {
        Self::new(of, scales, vec![Move { service: service.clone(), replicas, replaced: None }])
    }

    fn new((release, app): (ReleaseNumber, &App), scales: &Scales, moves: Vec<Move>) -> Self {
        let patience = app.services.iter().map(|(name, service)| (name.clone(), patience(service))).collect();
        Self { release, moves, before: steady(app, release, scales), patience }
    }

    /// Nothing runs that could be moved.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    fn count_before(&self, service: &ServiceName) -> u16 {
        self.before.iter().find(|set| set.service == *service).map_or(0, |set| set.replicas)
    }
}

/// Where a round is. Stored by its `Display`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoundPhase {
    /// Decided, nothing changed yet.
    Prepare,
    /// At this move, counted from 0.
    Move(u16),
    Done,
    /// Undone at this move: what gave way is brought back first.
    Restore(u16),
    /// What it added at this move goes.
    Clear(u16),
    Undone,
}

impl RoundPhase {
    /// Nothing follows.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Done | Self::Undone => true,
            Self::Prepare | Self::Move(_) | Self::Restore(_) | Self::Clear(_) => false,
        }
    }
}

impl fmt::Display for RoundPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare => f.write_str("prepare"),
            Self::Move(i) => write!(f, "move {i}"),
            Self::Done => f.write_str("done"),
            Self::Restore(i) => write!(f, "restore {i}"),
            Self::Clear(i) => write!(f, "clear {i}"),
            Self::Undone => f.write_str("undone"),
        }
    }
}

impl FromStr for RoundPhase {
    type Err = PhaseError;

    fn from_str(text: &str) -> Result<Self, PhaseError> {
        let (word, number) = text.split_once(' ').map_or((text, None), |(word, number)| (word, number.parse().ok()));
        match (word, number) {
            ("prepare", None) => Ok(Self::Prepare),
            ("done", None) => Ok(Self::Done),
            ("undone", None) => Ok(Self::Undone),
            ("move", Some(i)) => Ok(Self::Move(i)),
            ("restore", Some(i)) => Ok(Self::Restore(i)),
            ("clear", Some(i)) => Ok(Self::Clear(i)),
            _ => Err(PhaseError::of(text)),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum RoundInput<'a> {
    /// The slots of the app, at any time. Call it only when the node has adopted what runs.
    Observed(&'a BTreeMap<SlotId, SlotStatus>),
    /// Without effect once it is being undone, or has ended.
    Abort(Fault),
}

/// A phase was entered: to be stored, with what it replaces, before anything follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundEntered {
    pub was: RoundPhase,
    pub phase: RoundPhase,
    /// The incarnation that gives way.
    pub old: Option<Incarnation>,
    pub reason: Option<Fault>,
}

/// What was stored last of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundPlace {
    pub phase: RoundPhase,
    pub old: Option<Incarnation>,
    pub reason: Option<Fault>,
}

/// One round of one app.
#[derive(Debug)]
pub struct Round {
    plan: RoundPlan,
    place: RoundPlace,
    entered: Mono,
    /// Until then an image was made for an instance that it waits for.
    made: Mono,
    slots: BTreeMap<SlotId, SlotStatus>,
    looked: bool,
    /// They were seen after this phase was entered: only then do they follow from it.
    fresh: bool,
}

impl Round {
    pub fn start(plan: RoundPlan, now: Mono) -> Self {
        Self::resume(plan, RoundPlace { phase: RoundPhase::Prepare, old: None, reason: None }, now)
    }

    /// After a crash. Its deadlines begin anew.
    pub fn resume(plan: RoundPlan, place: RoundPlace, now: Mono) -> Self {
        Self { plan, place, entered: now, made: now, slots: BTreeMap::new(), looked: false, fresh: false }
    }

    pub fn handle(&mut self, input: RoundInput<'_>, now: Mono) -> Vec<RoundEntered> {
        let mut entered = Vec::new();
        match input {
            RoundInput::Observed(slots) => {
                let of_release = slots.iter().filter(|(id, _)| id.release == self.plan.release);
                self.slots = of_release.map(|(id, status)| (id.clone(), status.clone())).collect();
                self.looked = true;
                self.fresh = true;
                self.see_made(now);
            }
            RoundInput::Abort(reason) => entered.extend(self.abort(reason, now)),
        }
        // One move at a time: the next one is for the world after it.
        if let Some(next) = self.next(now) {
            entered.extend(match next {
                Ok(phase) => Some(self.enter(phase, now)),
                Err(reason) => self.abort(reason, now),
            });
        }
        entered
    }

    pub fn phase(&self) -> RoundPhase {
        self.place.phase
    }

    /// Why it is or was undone.
    pub fn reason(&self) -> Option<&Fault> {
        self.place.reason.as_ref()
    }

    pub fn steps(&self) -> usize {
        self.plan.moves.len()
    }

    /// What is wanted now.
    pub fn sets(&self) -> Vec<Set> {
        let now = self.replicas_now();
        let set = |set: &Set| match &now {
            Some((service, replicas)) if set.service == *service => Set { replicas: *replicas, ..set.clone() },
            Some(_) | None => set.clone(),
        };
        self.plan.before.iter().map(set).collect()
    }

    /// The incarnation that is to give way to the next one of its slot.
    pub fn replaced(&self) -> Option<(ServiceName, Slot, Incarnation)> {
        let RoundPhase::Move(i) = self.place.phase else { return None };
        let step = self.plan.moves.get(usize::from(i))?;
        Some((step.service.clone(), step.replaced?, self.place.old?))
    }

    /// What it waits on now; empty once it has ended.
    pub fn waits(&self, now: Mono) -> Vec<Waiting> {
        let release = self.plan.release;
        let left = self.next_deadline().map(|deadline| deadline.since(now));
        let on_start = |what: String| Waiting { what, on: "the next look at the node".into() };
        match self.place.phase {
            RoundPhase::Prepare => vec![on_start(format!("r{release}"))],
            RoundPhase::Move(i) | RoundPhase::Restore(i) | RoundPhase::Clear(i) => {
                let Some(step) = self.step(i) else { return vec![on_start(format!("r{release}"))] };
                let open = self.open(i);
                let line = |slot: &Slot| {
                    let status = self.status(&step.service, *slot);
                    let on = status.and_then(|status| status.waits_on.as_ref()).map(ToString::to_string);
                    // One that is ready is the one that is to go.
                    let on = on.unwrap_or_else(|| if status.is_some() { "its end" } else { "its start" }.to_owned());
                    let left = left.map(|left| format!(", given up in {}s", left.as_secs())).unwrap_or_default();
                    Waiting { what: format!("{}.r{release}.{slot}", step.service), on: format!("{on}{left}") }
                };
                match open.is_empty() {
                    true => vec![on_start(format!("{}.r{release}", step.service))],
                    false => open.iter().map(line).collect(),
                }
            }
            RoundPhase::Done | RoundPhase::Undone => Vec::new(),
        }
    }

    /// When to call `handle` again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.deadline().filter(|_| self.looked)
    }
}

impl Round {
    fn deadline(&self) -> Option<Mono> {
        match self.place.phase {
            RoundPhase::Prepare => Some(self.entered),
            RoundPhase::Move(i) | RoundPhase::Restore(i) => {
                let service = &self.step(i)?.service;
                // What only waits for an end has the time that ends take.
                Some(self.entered.max(self.made) + self.plan.patience.get(service).copied().unwrap_or_default())
                    .filter(|_| self.waits_for_a_start(i))
            }
            RoundPhase::Clear(_) | RoundPhase::Done | RoundPhase::Undone => None,
        }
    }

    fn next(&self, now: Mono) -> Option<Result<RoundPhase, Fault>> {
        if !self.fresh {
            return None;
        }
        let late = self.deadline().is_some_and(|deadline| now >= deadline);
        match self.place.phase {
            RoundPhase::Prepare if self.plan.is_empty() => Some(Ok(RoundPhase::Done)),
            RoundPhase::Prepare => Some(Ok(RoundPhase::Move(0))),
            RoundPhase::Move(i) if self.open(i).is_empty() => {
                let is_last = usize::from(i) + 1 >= self.plan.moves.len();
                Some(Ok(if is_last { RoundPhase::Done } else { RoundPhase::Move(i + 1) }))
            }
            RoundPhase::Move(i) => match self.failing(i) {
                Some(last) => Some(Err(self.fault(i, Some(&last)))),
                None => late.then(|| Err(self.fault(i, None))),
            },
            RoundPhase::Restore(i) => (late || self.open(i).is_empty()).then_some(Ok(RoundPhase::Clear(i))),
            RoundPhase::Clear(i) => self.open(i).is_empty().then_some(Ok(RoundPhase::Undone)),
            RoundPhase::Done | RoundPhase::Undone => None,
        }
    }

    /// `None`: a stored phase of a plan that had more of them.
    fn step(&self, i: u16) -> Option<&Move> {
        self.plan.moves.get(usize::from(i))
    }

    /// The slots that the phase still waits for.
    fn open(&self, i: u16) -> Vec<Slot> {
        let Some(step) = self.step(i) else { return Vec::new() };
        let before = self.plan.count_before(&step.service);
        let (wanted, replaced) = match self.place.phase {
            RoundPhase::Move(_) => (step.replicas, step.replaced),
            RoundPhase::Restore(_) | RoundPhase::Clear(_) => (before, None),
            RoundPhase::Prepare | RoundPhase::Done | RoundPhase::Undone => return Vec::new(),
        };
        let of_service = self.slots.iter().filter(|(id, _)| id.service == step.service);
        let beyond = of_service.map(|(id, _)| id.slot).filter(|slot| slot.0 >= wanted);
        match (self.place.phase, replaced) {
            (RoundPhase::Move(_), Some(slot)) => {
                Some(slot).filter(|slot| !self.is_ready(&step.service, *slot, self.place.old)).into_iter().collect()
            }
            // One more is the new one; fewer wait for those beyond; a new number waits for both.
            (RoundPhase::Move(_), None) => {
                let new = before..wanted;
                let missing = new.map(Slot).filter(|slot| !self.is_ready(&step.service, *slot, None));
                missing.chain(beyond).collect()
            }
            (RoundPhase::Restore(_), _) => {
                (0..wanted).map(Slot).filter(|slot| !self.is_ready(&step.service, *slot, None)).collect()
            }
            (RoundPhase::Clear(_), _) => beyond.collect(),
            (RoundPhase::Prepare | RoundPhase::Done | RoundPhase::Undone, _) => Vec::new(),
        }
    }

    /// Each try to make an image has a limit of its own, and what is there then as long as any other. Where that fails too often no
    /// try is waited for.
    fn see_made(&mut self, now: Mono) {
        let (RoundPhase::Move(i) | RoundPhase::Restore(i)) = self.place.phase else { return };
        let Some(service) = self.step(i).map(|step| step.service.clone()) else { return };
        let fails = |status: &SlotStatus| {
            status.failure.as_ref().is_some_and(|failure| is_enough(status.crashes, &failure.cause))
        };
        let is_made =
            |status: &SlotStatus| matches!(status.waits_on, Some(WaitsOn::Preparation { .. })) && !fails(status);
        if self.open(i).into_iter().any(|slot| self.status(&service, slot).is_some_and(is_made)) {
            self.made = now;
        }
    }

    fn waits_for_a_start(&self, i: u16) -> bool {
        let wanted = self.replicas_now().map_or(0, |(_, replicas)| replicas);
        self.open(i).iter().any(|slot| slot.0 < wanted)
    }

    fn status(&self, service: &ServiceName, slot: Slot) -> Option<&SlotStatus> {
        self.slots.iter().find(|(id, _)| id.service == *service && id.slot == slot).map(|(_, status)| status)
    }

    fn is_ready(&self, service: &ServiceName, slot: Slot, but: Option<Incarnation>) -> bool {
        let status = self.status(service, slot);
        status.is_some_and(|s| s.state == SlotState::Ready && Some(s.instance.incarnation) != but)
    }

    /// An instance that this move has started, and that fails too often.
    fn failing(&self, i: u16) -> Option<Failure> {
        let step = self.step(i)?;
        let status = self.open(i).into_iter().filter_map(|slot| self.status(&step.service, slot));
        let too_often = |status: &SlotStatus| {
            let failure = status.failure.as_ref()?;
            let own = step.replaced.is_none() || Some(failure.instance.incarnation) != self.place.old;
            (own && is_enough(status.crashes, &failure.cause)).then(|| failure.clone())
        };
        status.filter_map(too_often).next()
    }

    fn fault(&self, i: u16, last: Option<&Failure>) -> Fault {
        let service = self.step(i).map(|step| &step.service);
        let name = service.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let message = format!("{name} of release {} does not get ready again", self.plan.release);
        match last {
            Some(last) => Fault { message, ..last.fault() },
            None => {
                let within = Humane(service.and_then(|name| self.plan.patience.get(name)).copied().unwrap_or_default());
                Fault::new(FaultKind::Failed, message)
                    .caused_by(format!("a new instance was not ready within {within}"))
                    .hint("`bowline status` shows what it waits on")
            }
        }
    }

    fn enter(&mut self, phase: RoundPhase, now: Mono) -> RoundEntered {
        let was = std::mem::replace(&mut self.place.phase, phase);
        self.entered = now;
        self.fresh = false;
        self.place.old =
            match phase {
                RoundPhase::Move(i) => self.plan.moves.get(usize::from(i)).and_then(|step| {
                    self.status(&step.service, step.replaced?).map(|status| status.instance.incarnation)
                }),
                RoundPhase::Prepare
                | RoundPhase::Done
                | RoundPhase::Restore(_)
                | RoundPhase::Clear(_)
                | RoundPhase::Undone => None,
            };
        RoundEntered { was, phase, old: self.place.old, reason: self.place.reason.clone() }
    }

    fn abort(&mut self, reason: Fault, now: Mono) -> Option<RoundEntered> {
        let phase = match self.place.phase {
            RoundPhase::Prepare => RoundPhase::Undone,
            RoundPhase::Move(i) => RoundPhase::Restore(i),
            RoundPhase::Restore(_) | RoundPhase::Clear(_) | RoundPhase::Done | RoundPhase::Undone => return None,
        };
        self.place.reason = Some(reason);
        Some(self.enter(phase, now))
    }

    /// The service that is moved now, and how many it has.
    fn replicas_now(&self) -> Option<(ServiceName, u16)> {
        let at = |i: u16| self.plan.moves.get(usize::from(i));
        let (step, replicas) = match self.place.phase {
            RoundPhase::Prepare | RoundPhase::Undone => return None,
            RoundPhase::Move(i) => (at(i)?, at(i)?.replicas),
            // What it was going to take away stays; what it has added stays until all else is back.
            RoundPhase::Restore(i) => {
                let step = at(i)?;
                (step, step.replicas.max(self.plan.count_before(&step.service)))
            }
            RoundPhase::Clear(i) => (at(i)?, self.plan.count_before(&at(i)?.service)),
            RoundPhase::Done => (self.plan.moves.last()?, self.plan.moves.last()?.replicas),
        };
        Some((step.service.clone(), replicas))
    }
}

#[cfg(test)]
mod tests;
