//! All slots of a node: wanted state and the world in, orders and endpoints out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::backoff::mix;
use super::slot::{BySlot, Look, Slot, is_gone};
use super::{InstanceOrder, InstanceSpec, Observations, SlotState, SlotStatus, Transition};
use crate::app::Protocol;
use crate::id::{AppKey, Incarnation, InstanceId, SlotId};
use crate::rollout::{Count, Counts, Failing, Streak};
use crate::route::{Cohort, Pool, PoolId, Reachable};
use crate::time::Mono;

/// What is wanted of one release of one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Slots 0 to `replicas` - 1 are kept filled; others are drained and stopped.
    pub replicas: u16,
    /// So many of them, the last ones, are the baseline of a canary: another pool.
    pub baseline: u16,
    /// What each runs; slot and incarnation of its id are replaced. A change is taken up by the next incarnation.
    pub spec: Arc<InstanceSpec>,
    /// How long outstanding requests may take before TERM.
    pub drain: Duration,
    /// This incarnation gives way to the next one of its slot, though the slot is wanted: drained and stopped first.
    pub replaced: Option<(crate::id::Slot, Incarnation)>,
}

/// All that the machine reads.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// What is not listed is not wanted. Of each release, its [`Cohort::Whole`].
    pub wanted: &'a BTreeMap<PoolId, Wanted>,
    pub node: &'a Observations,
    /// Who may still be given new requests by an edge: `route::Tables::reachable`.
    pub reachable: &'a Reachable,
    /// `EdgeObservation::outstanding`.
    pub outstanding: &'a BTreeMap<InstanceId, u32>,
}

/// Whether `endpoints()` tells the whole truth yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// Tables may be made from it.
    Now,
    /// Instances of an earlier daemon run whose health is not known yet. An edge goes on serving the table it has.
    Hold {
        /// At the latest; `None`: until the node has adopted what runs.
        until: Option<Mono>,
    },
}

/// The machine that keeps slots filled. It holds nothing that must survive: a new one takes over what it finds.
#[derive(Debug, Default)]
pub struct Slots {
    adopted: bool,
    /// Have ended, and an edge may still send there, or is about to connect: their ports must not become another's.
    lingering: BTreeSet<InstanceId>,
    slots: BTreeMap<SlotId, Slot>,
    /// Where the baseline of a release begins.
    baselines: BTreeMap<PoolId, crate::id::Slot>,
    /// The last incarnation of slots that rest and of which nothing is left: a number is never used twice in the
    /// daemon's life.
    resting: BTreeMap<SlotId, Incarnation>,
}

/// Steps one slot may take in one look: gone, stopped, started, and one to see that it rests.
const MAX_STEPS: usize = 8;

fn pool_of(id: &SlotId) -> PoolId {
    let SlotId { key, service, release, slot: _ } = id.clone();
    PoolId { key, service, release, cohort: Cohort::Whole }
}

/// What is wanted of slots, which are asked for in their order: those of one pool one after the other.
struct Wishes<'a> {
    wanted: &'a BTreeMap<PoolId, Wanted>,
    last: Option<(PoolId, Option<&'a Wanted>)>,
}

impl<'a> Wishes<'a> {
    fn new(wanted: &'a BTreeMap<PoolId, Wanted>) -> Self {
        Self { wanted, last: None }
    }

    fn of(&mut self, id: &SlotId) -> Option<&'a Wanted> {
        let same =
            |(pool, _): &&(PoolId, _)| pool.release == id.release && pool.service == id.service && pool.key == id.key;
        let wanted = match self.last.as_ref().filter(same) {
            Some((_, wanted)) => *wanted,
            None => {
                let pool = pool_of(id);
                let wanted = self.wanted.get(&pool);
                self.last = Some((pool, wanted));
                wanted
            }
        };
        wanted.filter(|wanted| id.slot.0 < wanted.replicas)
    }
}

impl Slots {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one look at the world. Without effect until the node has adopted what runs. `random` spreads the backoffs.
    pub fn handle(&mut self, world: World<'_>, now: Mono, random: u64) -> Vec<Transition> {
        if !world.node.adopted {
            return Vec::new();
        }
        self.adopted = true;
        let first = |wanted: &Wanted| crate::id::Slot(wanted.replicas.saturating_sub(wanted.baseline));
        let with_baseline = world.wanted.iter().filter(|(_, wanted)| wanted.baseline > 0);
        self.baselines = with_baseline.map(|(pool, wanted)| (pool.clone(), first(wanted))).collect();
        self.find(world, now);
        let sends = |id: &InstanceId| world.reachable.contains(id) || world.outstanding.contains_key(id);
        let lingering = world.node.instances.iter().filter(|(id, seen)| is_gone(seen) && sends(id));
        self.lingering = lingering.map(|(id, _)| id.clone()).collect();
        let mut transitions = Vec::new();
        let (mut node, mut wishes) = (BySlot::new(world.node), Wishes::new(world.wanted));
        for (salt, (id, slot)) in (1..).zip(&mut self.slots) {
            let (wanted, seen) = (wishes.of(id), node.of(id));
            for _ in 0..MAX_STEPS {
                let instance = slot.instance();
                let look = Look {
                    wanted,
                    seen,
                    reachable: world.reachable.contains(&instance),
                    outstanding: world.outstanding.get(&instance).copied().unwrap_or(0),
                    now,
                    random: mix(random, salt),
                };
                let (was, crashes) = (slot.state(), slot.crashes());
                let again = slot.step(look);
                if slot.state() != was {
                    let failure = slot.failure().filter(|_| slot.crashes() != crashes || slot.is_crashed()).cloned();
                    transitions.push(Transition { instance: slot.instance(), was, state: slot.state(), failure });
                }
                if !again {
                    break;
                }
            }
        }
        self.lay_to_rest(world);
        transitions
    }

    /// What is stopped and not wanted keeps nothing of what it ran, secrets least of all.
    fn lay_to_rest(&mut self, world: World<'_>) {
        let rests = |id: &SlotId, slot: &mut Slot| {
            let wanted = || world.wanted.get(&pool_of(id)).is_some_and(|wanted| id.slot.0 < wanted.replicas);
            slot.state() == SlotState::Stopped && !wanted() && slot.forget_spec(world.node)
        };
        let resting = self.slots.extract_if(.., rests).map(|(id, slot)| (id, slot.instance().incarnation));
        self.resting.extend(resting);
    }

    /// Whether it has looked after this slot before.
    pub fn knows(&self, id: &SlotId) -> bool {
        self.slots.contains_key(id) || self.resting.contains_key(id)
    }

    /// Makes a slot of all that is wanted and of all that lives.
    fn find(&mut self, world: World<'_>, now: Mono) {
        let mut missing = BTreeSet::new();
        for (PoolId { key, service, release, cohort: _ }, wanted) in world.wanted {
            let slot = |slot| {
                let (key, service) = (key.clone(), service.clone());
                SlotId { key, service, release: *release, slot: crate::id::Slot(slot) }
            };
            let known = self.slots.range(slot(0)..slot(wanted.replicas)).count();
            if known < usize::from(wanted.replicas) {
                missing.extend((0..wanted.replicas).map(slot).filter(|id| !self.slots.contains_key(id)));
            }
        }
        let mut known = self.slots.keys().peekable();
        for InstanceId { slot, .. } in world.node.instances.keys() {
            while known.next_if(|id| *id < slot).is_some() {}
            if known.peek() != Some(&slot) {
                missing.insert(slot.clone());
            }
        }
        let mut node = BySlot::new(world.node);
        for id in missing {
            let last = self.resting.remove(&id).unwrap_or(Incarnation(0));
            let slot = Slot::found(id.clone(), last, node.of(&id), now);
            self.slots.insert(id, slot);
        }
    }

    /// What the node should run; `None` until the node has adopted what runs: then nothing may be published, since an
    /// instance without an order is stopped.
    pub fn orders(&self) -> Option<BTreeMap<InstanceId, InstanceOrder>> {
        // Collected in their order, which is much cheaper than inserting one by one.
        let mut orders: BTreeMap<_, _> = self.slots.values().flat_map(Slot::orders).collect();
        for id in &self.lingering {
            orders.entry(id.clone()).or_insert(InstanceOrder::Keep);
        }
        self.adopted.then_some(orders)
    }

    /// The instances that may get traffic.
    pub fn endpoints(&self) -> BTreeMap<PoolId, Pool> {
        let mut pools: Vec<(PoolId, Protocol, Vec<_>)> = Vec::new();
        for (id, slot) in &self.slots {
            if let Some(port) = slot.endpoint() {
                let mut pool = pool_of(id);
                if self.is_baseline(id) {
                    pool.cohort = Cohort::Baseline;
                }
                let endpoint = (slot.instance(), port.on_loopback());
                // The slots of a pool lie beside each other.
                match pools.last_mut().filter(|(last, ..)| *last == pool) {
                    Some((.., endpoints)) => endpoints.push(endpoint),
                    None => pools.push((pool, slot.protocol(), vec![endpoint])),
                }
            }
        }
        let pool = |protocol, endpoints: Vec<_>| Pool { protocol, endpoints: endpoints.into_iter().collect() };
        pools.into_iter().map(|(id, protocol, endpoints)| (id, pool(protocol, endpoints))).collect()
    }

    fn is_baseline(&self, id: &SlotId) -> bool {
        self.baselines.get(&pool_of(id)).is_some_and(|first| id.slot >= *first)
    }

    /// Whether this instance is past its start: what one uses until then is no load.
    pub fn has_started(&self, id: &InstanceId) -> bool {
        self.slots.get(&id.slot).filter(|slot| slot.instance() == *id).is_some_and(|slot| match slot.state() {
            SlotState::Ready | SlotState::Unready => true,
            SlotState::Starting | SlotState::Draining | SlotState::Crashed | SlotState::Stopped => false,
        })
    }

    /// The instances that finish what they have and get nothing new, ever.
    pub fn leaving(&self) -> BTreeSet<InstanceId> {
        self.slots.values().filter(|slot| slot.is_draining()).map(Slot::instance).collect()
    }

    pub fn publish(&self) -> Publish {
        let undecided = self.slots.values().filter_map(Slot::undecided).min();
        match (self.adopted, undecided) {
            (false, _) => Publish::Hold { until: None },
            (true, Some(until)) => Publish::Hold { until: Some(until) },
            (true, None) => Publish::Now,
        }
    }

    /// Ready and existing instances of an app, by service and release: the input of its rollout.
    pub fn counts(&self, key: &AppKey) -> Counts {
        let mut counts = Counts::new();
        for (id, slot) in self.slots.iter().filter(|(id, _)| id.key == *key) {
            let count: &mut Count = counts.entry((id.service.clone(), id.release)).or_default();
            match slot.state() {
                SlotState::Stopped => continue,
                SlotState::Ready => {
                    count.ready += 1;
                    count.baseline += u16::from(self.is_baseline(id));
                }
                SlotState::Starting | SlotState::Unready | SlotState::Draining | SlotState::Crashed => {
                    count_failure(count, slot);
                }
            }
            count.total += 1;
            count.preparing += u16::from(slot.is_preparing());
        }
        counts
    }

    /// Adds to the counts of an app who of it fails whatever it is asked. `streaks`: as an edge tells them.
    pub fn add_streaks(&self, key: &AppKey, streaks: &BTreeMap<InstanceId, u32>, counts: &mut Counts) {
        let is_own = |id: &InstanceId| id.slot.key == *key;
        for (id, failed) in streaks.iter().filter(|(id, _)| is_own(id) && self.has_started(id)) {
            let count = counts.entry((id.slot.service.clone(), id.slot.release)).or_default();
            count.streaks.push(Streak { instance: id.clone(), baseline: self.is_baseline(&id.slot), failed: *failed });
        }
    }

    /// Every slot that is not stopped, or waits for an earlier incarnation to end.
    pub fn status(&self, now: Mono) -> BTreeMap<SlotId, SlotStatus> {
        let status = self.slots.iter().map(|(id, slot)| (id.clone(), slot.status(now)));
        status.filter(|(_, status)| status.state != SlotState::Stopped || status.waits_on.is_some()).collect()
    }

    /// When to call `handle` again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        let undecided = self.slots.values().filter_map(Slot::undecided);
        self.slots.values().filter_map(Slot::next_deadline).chain(undecided).min()
    }
}

/// Keeps the instance that failed most often.
fn count_failure(count: &mut Count, slot: &Slot) {
    let worst = count.failing.as_ref().map_or(0, |failing| failing.crashes);
    if let Some(last) = slot.failure().filter(|_| slot.crashes() > worst) {
        count.failing = Some(Failing { crashes: slot.crashes(), last: last.clone() });
    }
}

#[cfg(test)]
mod tests;
