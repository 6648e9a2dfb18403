//! What the loop knows: apps, and the latest word of node and edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_api::wire;
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, Incarnation, ReleaseNumber, ServiceName, Slot};
use bowline_core::instance::{SlotState, Slots, Wanted as WantedInstances};
use bowline_core::rollout::{Phase, Round, Scales, Set, steady, with_baselines};
use bowline_core::route::{Cohort, Maintenance, PoolId};
use bowline_core::scale::Scaler;
use bowline_core::time::Mono;

use super::change::{Change, ChangeId, RollingOut, Stage};
use super::collect::Roots;
use super::effects::{JobId, Ticket};
use super::release::{Parts, Release};
use super::rounds::Rounding;
use super::unread::{Reasons, Unread};
use crate::store::{AppRecord, Wanted};

/// One app in one environment.
#[derive(Debug)]
pub(crate) struct AppWorld {
    pub(crate) record: AppRecord,
    pub(crate) stable: Option<Stable>,
    /// It is wanted, and what the store has of it cannot be read, until another release has taken over or it is stopped.
    pub(crate) unread: Option<Unread>,
    /// What of it could not be read when the daemon started, also of one that is stopped, until another release has taken over.
    pub(crate) reasons: Option<Reasons>,
    pub(crate) change: Option<Change>,
    /// What is wanted now. It follows the rollout only when the phase that it comes from is stored.
    pub(crate) sets: Vec<Set>,
    /// The release whose routes are served; none, where that is what cannot be read.
    pub(crate) live: Option<ReleaseNumber>,
    /// The phase that is being stored.
    pub(crate) storing: Option<JobId>,
    /// The incarnation that gives way to the next one of its slot; it follows the round as `sets` does.
    pub(crate) replaced: Option<(ServiceName, Slot, Incarnation)>,
    /// Numbers of instances that were said by hand or by the load.
    pub(crate) scales: Scales,
    /// One for each service whose load says how many instances it has.
    pub(crate) scalers: BTreeMap<ServiceName, Scaler>,
    /// Numbers that the load says are being stored.
    pub(crate) rescaling: bool,
    /// How the last change ended, if it failed.
    pub(crate) fault: Option<Fault>,
    /// How the last rollout went, until another change begins or it is stopped.
    pub(crate) rolled: Option<Box<wire::Rollout>>,
    /// Promoted; whoever follows is told when the edge serves it.
    pub(crate) promoted: Option<Promoted>,
    /// Those who wait until nothing of it runs any more.
    pub(crate) stops: Vec<StopTicket>,
    /// It answers only some.
    pub(crate) maintenance: Option<Maintenance>,
    /// Where the artifacts lie of each release that has not been given up.
    pub(crate) roots: BTreeMap<ReleaseNumber, Roots>,
    /// Releases that have a row, of which it is not known where their artifacts lie.
    pub(crate) unrooted: BTreeSet<ReleaseNumber>,
    /// The releases of `roots` that have been promoted: what may be gone back to.
    pub(crate) served: BTreeSet<ReleaseNumber>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopTicket {
    pub(crate) ticket: Ticket,
    pub(crate) shutdown_when_idle: bool,
}

/// The end of a change that is not told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promoted {
    pub(crate) change: ChangeId,
    pub(crate) release: ReleaseNumber,
    pub(crate) cached: bool,
    /// Told by then, whatever the edge does.
    pub(crate) until: Mono,
}

/// The release that was promoted last.
#[derive(Debug, Clone)]
pub(crate) struct Stable {
    pub(crate) release: Arc<Release>,
    /// Why it cannot be run any more: a secret that it pins was revoked.
    pub(crate) parts: Result<Parts, Fault>,
}

impl AppWorld {
    pub(crate) fn new(record: AppRecord) -> Self {
        Self {
            record,
            stable: None,
            unread: None,
            reasons: None,
            change: None,
            sets: Vec::new(),
            live: None,
            storing: None,
            replaced: None,
            scales: Scales::new(),
            scalers: BTreeMap::new(),
            rescaling: false,
            fault: None,
            rolled: None,
            promoted: None,
            stops: Vec::new(),
            maintenance: None,
            roots: BTreeMap::new(),
            unrooted: BTreeSet::new(),
            served: BTreeSet::new(),
        }
    }

    pub(crate) fn rolling(&self) -> Option<&RollingOut> {
        match &self.change.as_ref()?.stage {
            Stage::Rollout(rolling) => Some(rolling),
            Stage::Build { .. } | Stage::Release { .. } | Stage::Round(_) => None,
        }
    }

    pub(crate) fn rolling_mut(&mut self) -> Option<&mut RollingOut> {
        match &mut self.change.as_mut()?.stage {
            Stage::Rollout(rolling) => Some(rolling),
            Stage::Build { .. } | Stage::Release { .. } | Stage::Round(_) => None,
        }
    }

    pub(crate) fn rounding(&self) -> Option<&Rounding> {
        match &self.change.as_ref()?.stage {
            Stage::Round(round) => Some(round),
            Stage::Build { .. } | Stage::Release { .. } | Stage::Rollout(_) => None,
        }
    }

    pub(crate) fn rounding_mut(&mut self) -> Option<&mut Rounding> {
        match &mut self.change.as_mut()?.stage {
            Stage::Round(round) => Some(round),
            Stage::Build { .. } | Stage::Release { .. } | Stage::Rollout(_) => None,
        }
    }

    /// The rollout, as long as nothing has changed yet.
    pub(crate) fn preparing(&self) -> Option<&RollingOut> {
        self.rolling().filter(|rolling| rolling.machine.phase() == Phase::Prepare)
    }

    /// A change begins: what was before is no news any more.
    pub(crate) fn begin(&mut self, change: Change) {
        self.change = Some(change);
        self.rolled = None;
    }

    /// Takes up what the rollout wants, or the stable release; nothing if it is stopped.
    pub(crate) fn settle(&mut self) {
        if self.storing.is_some() {
            return;
        }
        let round = self.rounding().filter(|_| self.record.wanted == Wanted::Running).map(|round| &round.machine);
        let replaced = round.and_then(Round::replaced);
        let rounds = round.map(Round::sets);
        self.replaced = replaced;
        (self.sets, self.live) = match (self.rolling(), &self.stable) {
            (Some(rolling), _) => {
                (self.risen(rolling), rolling.machine.live().filter(|_| self.is_served_as_told(rolling)))
            }
            (None, Some(stable)) if self.record.wanted == Wanted::Running => {
                let number = stable.release.number();
                let now = steady(stable.release.app(), number, &self.scales);
                let sets = rounds.map_or_else(|| now.clone(), |sets| woken(sets, &now));
                (sets, Some(number))
            }
            (None, Some(_) | None) => (Vec::new(), None),
        };
    }

    /// What cannot be read is served as it was until a release is promoted in its place.
    fn is_served_as_told(&self, rolling: &RollingOut) -> bool {
        self.unread.is_none() || matches!(rolling.machine.phase(), Phase::Promote | Phase::Watch | Phase::Done)
    }

    /// The release that has taken the place of another, and is still watched.
    pub(crate) fn watching(&self) -> Option<&Arc<Release>> {
        self.rolling().filter(|rolling| rolling.machine.phase() == Phase::Watch).map(|rolling| &rolling.candidate)
    }

    /// What a rollout wants; of a release that is watched, as many more as the load has asked for since.
    fn risen(&self, rolling: &RollingOut) -> Vec<Set> {
        let mut sets = rolling.machine.sets();
        let Some(watched) = self.watching() else { return sets };
        let by_load = steady(watched.app(), watched.number(), &self.scales);
        for set in sets.iter_mut().filter(|set| set.release == watched.number()) {
            let wanted = by_load.iter().find(|one| one.service == set.service).map_or(0, |one| one.replicas);
            set.replicas = set.replicas.max(wanted);
        }
        sets
    }

    /// A release of it that is known, and what it consists of.
    pub(crate) fn release(&self, number: ReleaseNumber) -> Option<(&Arc<Release>, Option<&Parts>)> {
        let rolling = self.rolling().map(|r| (&r.candidate, Some(&r.parts)));
        let stable = self.stable.as_ref().map(|s| (&s.release, s.parts.as_ref().ok()));
        [rolling, stable].into_iter().flatten().find(|(release, _)| release.number() == number)
    }

    /// The release that is served, else the one on its way, else the last one.
    pub(crate) fn shown(&self) -> Option<&Arc<Release>> {
        let live = self.live.and_then(|number| self.release(number)).map(|(release, _)| release);
        let rolling = || self.rolling().map(|r| &r.candidate);
        live.or_else(rolling).or_else(|| self.stable.as_ref().map(|s| &s.release))
    }

    /// What the machine of slots is to keep running.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (PoolId, WantedInstances)> {
        with_baselines(&self.sets).filter_map(|(set, baseline)| {
            let (_, parts) = self.release(set.release)?;
            let (key, service) = (self.record.key.clone(), set.service.clone());
            let pool = PoolId { key, service, release: set.release, cohort: Cohort::Whole };
            let replaced = self.replaced.as_ref().filter(|(service, ..)| *service == set.service);
            let wanted = parts?.wanted(set, baseline)?;
            let replaced = replaced.map(|(_, slot, incarnation)| (*slot, *incarnation));
            Some((pool, WantedInstances { replaced, ..wanted }))
        })
    }
}

/// What a round wants; of what rested when it began, what is wanted now.
fn woken(mut sets: Vec<Set>, now: &[Set]) -> Vec<Set> {
    for set in sets.iter_mut().filter(|set| set.replicas == 0) {
        set.replicas = now.iter().find(|one| one.service == set.service).map_or(0, |one| one.replicas);
    }
    sets
}

/// Whether anything of an app exists that is not stopped.
pub(crate) fn runs(slots: &Slots, now: Mono, key: &AppKey) -> bool {
    slots.status(now).iter().any(|(id, status)| id.key == *key && status.state != SlotState::Stopped)
}

/// The apps, by environment and name.
pub(crate) type Apps = BTreeMap<AppKey, AppWorld>;
