//! An edge that takes its time with tables, and holds requests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Generation, InstanceId, ReleaseNumber, RouteName, ServiceName};
use bowline_core::rollout::Traffic;
use bowline_core::route::outlier::{self, FAILURES, Outliers};
use bowline_core::route::{
    self, Action, Cohort, EdgeObservation, EdgeStatus, Part, PoolId, Refusal, Site, Split, Table,
};
use bowline_core::scale::Demand;
use bowline_core::time::Mono;
use bowline_core::units::Weight;
use bowline_core::verdict::{Counted, Counters};

use crate::cover::Strike;
use crate::manner::{Behaviour, Manner, Turn};
use crate::rng::Rng;
use crate::script::{is_odd, is_odd_protocol};

pub(crate) struct Edge {
    pub(crate) table: Option<Table>,
    pending: Option<(Mono, Table)>,
    /// The last one, for who takes its place when it has died.
    told: Option<Table>,
    was_told: bool,
    refusals: Vec<Refusal>,
    /// What it refuses of a host was not there before: nobody is led anywhere by it.
    is_bare: bool,
    /// Until then it takes nothing; and is not there at all.
    fate: Option<(Mono, Fate)>,
    fates: Option<Rng>,
    pub(crate) struck: Vec<Strike>,
    requests: BTreeMap<InstanceId, Vec<Mono>>,
    /// Since it counted anew.
    counted: BTreeMap<PoolId, Counters>,
    /// How often it did.
    anew: u64,
    /// All that was ever answered.
    all: BTreeMap<PoolId, Counters>,
    /// When each release has first answered.
    answered: BTreeMap<ReleaseNumber, Mono>,
    /// Releases that have carried everything.
    promoted: BTreeSet<ReleaseNumber>,
    outliers: Outliers,
    /// Requests in a row that each has failed.
    streaks: BTreeMap<InstanceId, u32>,
    rng: Rng,
    flow: Flow,
    /// Requests are held, where the table says so.
    holds: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Deaf,
    Dead,
}

/// Later on it is always there: all comes to an end.
const FATES_END: Duration = Duration::from_secs(300);

/// What a service's requests go to, by the table.
struct Service<'t> {
    splits: &'t [Split],
    judged: bool,
    holds: bool,
}

/// The requests that are in flight for `web` of `shop`, besides those that are sent one by one.
#[derive(Debug, Default)]
struct Flow {
    level: u32,
    began: u64,
    busy: Duration,
    at: Mono,
    /// Since when they wait for an instance.
    held: Option<Mono>,
}

fn refused(what: &str) -> Fault {
    Fault::new(FaultKind::Failed, format!("the edge refused {what}")).caused_by("it has no words for that")
}

/// What the routes are called, and whose they are.
fn names(table: &Table) -> BTreeSet<(AppKey, RouteName)> {
    let rules = table.sites.values().flat_map(|site| &site.rules);
    rules.map(|rule| (rule.id.key.clone(), rule.id.route.clone())).collect()
}

/// How a request fared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    To(InstanceId),
    /// No endpoint: 503.
    Nowhere,
    /// No route: 404.
    Unknown,
    /// Nobody is there.
    Away,
}

impl Edge {
    pub(crate) fn new(rng: Rng, holds: bool, fates: Option<u64>) -> Self {
        Self {
            table: None,
            pending: None,
            told: None,
            was_told: false,
            refusals: Vec::new(),
            is_bare: false,
            fate: None,
            fates: fates.map(Rng),
            struck: Vec::new(),
            requests: BTreeMap::new(),
            counted: BTreeMap::new(),
            anew: 0,
            all: BTreeMap::new(),
            answered: BTreeMap::new(),
            promoted: BTreeSet::new(),
            outliers: Outliers::default(),
            streaks: BTreeMap::new(),
            rng,
            flow: Flow::default(),
            holds,
        }
    }

    pub(crate) fn serve(&mut self, table: Table, now: Mono) {
        (self.told, self.was_told) = (Some(table.clone()), true);
        self.meet_fate(&table, now);
        let at = match &self.pending {
            Some((at, _)) => *at,
            None => now + Duration::from_millis(1 + self.rng.below(600)),
        };
        self.pending = Some((at, table));
    }

    /// With other routes more often than with what else changes.
    fn meet_fate(&mut self, table: &Table, now: Mono) {
        let is_other = names(table) != self.table.as_ref().map(names).unwrap_or_default();
        if self.fate.is_some() || now.0 > FATES_END {
            return;
        }
        let Some(rng) = self.fates.as_mut().filter(|_| self.table.is_some()) else { return };
        if rng.below(if is_other { 3 } else { 60 }) > 0 {
            return;
        }
        let until = now + Duration::from_millis(100 + rng.below(20_000));
        let fate = if rng.below(2) == 0 { Fate::Dead } else { Fate::Deaf };
        self.fate = Some((until, fate));
        match fate {
            Fate::Deaf => self.struck.push(Strike::EdgeDeaf),
            Fate::Dead => {
                self.struck.push(Strike::EdgeDies);
                self.table = None;
                self.refusals.clear();
                self.requests.clear();
                self.streaks.clear();
                self.outliers = Outliers::default();
                self.counts_anew();
            }
        }
    }

    /// Nobody is there, or nobody is led anywhere who would be by another edge.
    pub(crate) fn is_away(&self) -> bool {
        self.is_bare || self.table.is_none() && self.was_told
    }

    /// It refuses routes, and had taken nothing for a while before: by what it goes on with it leads to fewer instances than there are, but
    /// to some.
    pub(crate) fn is_behind(&self) -> bool {
        self.fates.is_some() && self.refusals.iter().any(|refusal| matches!(refusal.part, Part::Host(_)))
    }

    /// Where a release's instances are is refused.
    pub(crate) fn refuses_instances(&self) -> bool {
        self.refusals.iter().any(|refusal| matches!(refusal.part, Part::Pool(_)))
    }

    /// The daemon died: what it had sent may or may not have arrived.
    pub(crate) fn crash(&mut self) -> Option<Strike> {
        let lost = self.rng.below(2) == 0 && self.pending.take().is_some();
        if lost {
            self.told.clone_from(&self.table);
        }
        lost.then_some(Strike::LostTable)
    }

    /// What it tells of itself.
    pub(crate) fn seen(&self) -> EdgeObservation {
        let lost = || EdgeStatus::Lost(Fault::new(FaultKind::Failed, "it died"));
        let status = if matches!(self.fate, Some((_, Fate::Dead))) { lost() } else { EdgeStatus::Connected };
        let refusals = self.refusals.clone();
        EdgeObservation { status, serving: self.serving(), refusals, ..EdgeObservation::default() }
    }

    /// What it takes of a table: of a host whose routes it refuses what it had.
    fn take(&mut self, mut table: Table) {
        self.refusals.clear();
        self.is_bare = false;
        let is_refused = |site: &Site| site.rules.iter().any(|rule| is_odd(&rule.id.route));
        let hosts: Vec<HostName> =
            table.sites.iter().filter(|(_, site)| is_refused(site)).map(|(host, _)| host.clone()).collect();
        for host in hosts {
            let apps = table.sites[&host].rules.iter().map(|rule| rule.id.key.clone()).collect();
            match self.table.as_ref().and_then(|before| before.sites.get(&host)) {
                Some(site) => drop(table.sites.insert(host.clone(), site.clone())),
                None => {
                    self.is_bare = true;
                    table.sites.remove(&host);
                }
            }
            self.refusals.push(Refusal { apps, part: Part::Host(host), fault: refused("routes") });
            self.struck.push(Strike::RoutesRefused);
        }
        for (id, _) in table.pools.extract_if(.., |_, pool| is_odd_protocol(pool.protocol)) {
            let (apps, part) = ([id.key.clone()].into(), Part::Pool(id));
            self.refusals.push(Refusal { apps, part, fault: refused("a cluster") });
            self.struck.push(Strike::InstancesRefused);
        }
        self.table = Some(table);
    }

    /// What the routes of an app are called that it serves.
    pub(crate) fn routes_of(&self, key: &AppKey) -> BTreeSet<RouteName> {
        let names = self.table.as_ref().map(names).unwrap_or_default();
        names.into_iter().filter(|(of, _)| of == key).map(|(_, name)| name).collect()
    }

    pub(crate) fn advance(&mut self, now: Mono) {
        if let Some((_, fate)) = self.fate.take_if(|(until, _)| now >= *until)
            && fate == Fate::Dead
        {
            // Whoever starts it anew tells it what there is.
            self.pending = self.told.clone().map(|table| (now, table));
        }
        if self.fate.is_none()
            && let Some((_, table)) = self.pending.take_if(|(at, _)| now >= *at)
            && self.table.as_ref().is_none_or(|held| held.generation < table.generation)
        {
            let pools = table.pools.iter().map(|(id, pool)| (id.clone(), pool.endpoints.keys().cloned().collect()));
            self.outliers.handle(outlier::Input::Pools(pools.collect()), now);
            self.take(table);
        }
        self.outliers.handle(outlier::Input::Tick, now);
        self.requests.values_mut().for_each(|requests| requests.retain(|end| *end > now));
        self.requests.retain(|_, requests| !requests.is_empty());
    }

    /// So many requests are in flight from now on.
    pub(crate) fn flows(&mut self, level: u32, (key, service): (&AppKey, &ServiceName), now: Mono) {
        let has_endpoint = self.service(key, service).is_some_and(|service| !self.open(&service).is_empty());
        let flow = &mut self.flow;
        flow.busy += now.since(flow.at) * flow.level;
        (flow.level, flow.at) = (level, now);
        flow.held = if has_endpoint || level == 0 { None } else { flow.held.or(Some(now)) };
    }

    /// What of ten thousand requests each instance of a service has now, by weight among what has endpoints.
    pub(crate) fn parts(&self, key: &AppKey, service: &ServiceName) -> Vec<(InstanceId, u32)> {
        let (Some(service), Some(table)) = (self.service(key, service), &self.table) else { return Vec::new() };
        let open = self.open(&service);
        let all: u32 = open.iter().map(|split| u32::from(split.weight.get())).sum();
        let each = open.into_iter().flat_map(|split| {
            let endpoints = &table.pools[&split.pool].endpoints;
            // What stands in, without a weight, has all.
            let weight = if all == 0 { 1 } else { u32::from(split.weight.get()) };
            let part = weight * 10_000 / (all.max(1) * u32::try_from(endpoints.len()).unwrap());
            endpoints.keys().map(move |id| (id.clone(), part))
        });
        each.collect()
    }

    /// Another edge takes over.
    pub(crate) fn counts_anew(&mut self) {
        (self.flow.began, self.flow.busy) = (self.flow.began + 1, Duration::ZERO);
        self.counts_answers_anew();
    }

    /// What it has counted of answers is gone.
    pub(crate) fn counts_answers_anew(&mut self) {
        self.anew += 1;
        self.counted.clear();
    }

    pub(crate) fn held(&self) -> Option<Mono> {
        self.flow.held
    }

    pub(crate) fn demand(&self) -> Demand {
        let waiting = if self.flow.held.is_some() { self.flow.level } else { 0 };
        Demand { began: self.flow.began, busy: self.flow.busy, waiting }
    }

    fn service(&self, key: &AppKey, service: &ServiceName) -> Option<Service<'_>> {
        let rules = self.table.as_ref()?.sites.values().flat_map(|site| &site.rules);
        rules.filter(|rule| rule.id.key == *key).find_map(|rule| match &rule.action {
            Action::Forward { service: to, splits, judged, flow } if to == service => {
                Some(Service { splits, judged: *judged, holds: self.holds && *flow == route::Flow::Held })
            }
            Action::Forward { .. } | Action::Files(_) | Action::Redirect(_) | Action::Deny => None,
        })
    }

    fn is_ready(&self, pool: &PoolId) -> bool {
        let pools = self.table.as_ref().map(|table| &table.pools);
        pools.and_then(|pools| pools.get(pool)).is_some_and(|pool| !pool.endpoints.is_empty())
    }

    /// As the edge chooses (`balance::backend`): what has endpoints and weight; where there is no such, what stands in.
    fn open<'t>(&self, service: &Service<'t>) -> Vec<&'t Split> {
        let Service { splits, holds, .. } = *service;
        let ready = |split: &&Split| self.is_ready(&split.pool);
        let carries: Vec<&Split> =
            splits.iter().filter(|split| split.weight > Weight::default()).filter(ready).collect();
        if !carries.is_empty() {
            return carries;
        }
        let candidate = splits.iter().rposition(|split| split.pool.cohort == Cohort::Whole);
        let others = splits.iter().enumerate().filter(|(at, _)| !holds || Some(*at) != candidate);
        others.map(|(_, split)| split).find(ready).into_iter().collect()
    }

    /// Any endpoint of what this ticket hits, by weight.
    fn choose<'t>(&'t self, service: &Service<'t>, ticket: u64, which: u64) -> Option<(&'t Split, &'t InstanceId)> {
        let open = self.open(service);
        let weight = |split: &Split| u64::from(split.weight.get());
        let mut ticket = ticket % open.iter().map(|split| weight(split)).sum::<u64>().max(1);
        let hit = open.iter().find(|split| {
            let hit = ticket < weight(split);
            ticket = ticket.saturating_sub(weight(split));
            hit
        });
        let split = *hit.or(open.first())?;
        let all = &self.table.as_ref()?.pools.get(&split.pool)?.endpoints;
        let out: BTreeSet<&InstanceId> = self.outliers.left_out().map(|(id, _)| id).collect();
        let endpoints: Vec<_> = all.keys().filter(|id| !out.contains(id)).collect();
        let endpoints = if endpoints.is_empty() { all.keys().collect() } else { endpoints };
        let which = usize::try_from(which % u64::try_from(endpoints.len()).ok()?).ok()?;
        Some((split, endpoints.get(which)?))
    }

    /// What each release carries of a service, and whether it has anybody to answer.
    pub(crate) fn carried(&self, key: &AppKey, service: &ServiceName) -> BTreeMap<ReleaseNumber, (u8, bool)> {
        let mut carried: BTreeMap<ReleaseNumber, (u8, bool)> = BTreeMap::new();
        for split in self.service(key, service).map_or(&[][..], |service| service.splits) {
            let (weight, ready) = carried.entry(split.pool.release).or_default();
            *weight += split.weight.get();
            *ready |= self.is_ready(&split.pool);
        }
        carried
    }

    pub(crate) fn serving(&self) -> Option<Generation> {
        self.table.as_ref().map(|table| table.generation)
    }

    pub(crate) fn newest(&self) -> Generation {
        self.serving().max(self.told.as_ref().map(|table| table.generation)).unwrap_or_default()
    }

    pub(crate) fn outstanding(&self) -> BTreeMap<InstanceId, u32> {
        self.requests.iter().map(|(id, requests)| (id.clone(), u32::try_from(requests.len()).unwrap())).collect()
    }

    pub(crate) fn next_event(&self, now: Mono) -> Option<Mono> {
        let until = self.fate.map(|(until, _)| until);
        let pending = self.pending.iter().map(|(at, _)| until.map_or(*at, |until| until.max(*at))).chain(until);
        let back = self.outliers.next_deadline();
        pending.chain(back).chain(self.requests.values().flatten().copied()).filter(|at| *at > now).min()
    }

    /// What was counted of an app.
    pub(crate) fn traffic(&self, key: &AppKey) -> Traffic {
        let own = self.counted.iter().filter(|(pool, _)| pool.key == *key);
        let counted = |counters: &Counters| Counted { began: self.anew + 1, counters: counters.clone() };
        own.map(|(pool, counters)| ((pool.service.clone(), pool.release, pool.cohort), counted(counters))).collect()
    }

    /// What there was to count, whoever was told of it.
    pub(crate) fn answers(&self, pool: &PoolId) -> Counters {
        self.all.get(pool).cloned().unwrap_or_default()
    }

    /// How a release answers now.
    fn manner(&mut self, of: Behaviour, release: ReleaseNumber, weight: Weight, now: Mono) -> Manner {
        let first = *self.answered.entry(release).or_insert(now);
        if weight == Weight::ALL {
            self.promoted.insert(release);
        }
        let turned = match of.turn {
            Turn::Never => false,
            Turn::After(time) => now >= first + time,
            Turn::Promoted => self.promoted.contains(&release),
        };
        if turned { of.then } else { of.first }
    }

    /// One request for a service, by the weights, to any endpoint. `behaviour`: of a release.
    pub(crate) fn request(
        &mut self,
        key: &AppKey,
        service: &ServiceName,
        behaviour: &dyn Fn(ReleaseNumber) -> Behaviour,
        now: Mono,
    ) -> Sent {
        let (ticket, which) = (self.rng.next(), self.rng.next());
        if self.is_away() {
            return Sent::Away;
        }
        let Some(service) = self.service(key, service) else { return Sent::Unknown };
        let judged = service.judged;
        let Some((split, chosen)) = self.choose(&service, ticket, which) else { return Sent::Nowhere };
        let (Split { pool, weight }, chosen) = (split.clone(), chosen.clone());
        let manner = self.manner(behaviour(pool.release), pool.release, weight, now);
        let (status, took) = manner.answer(&mut self.rng);
        let is_dark = behaviour(pool.release).dark == Some(chosen.slot.slot.0);
        let status = if is_dark { 502 } else { status };
        self.follow(&chosen, status >= 500, now);
        if judged {
            self.counted.entry(pool.clone()).or_default().record(status, took);
            self.all.entry(pool).or_default().record(status, took);
        }
        // Most are over before anything else happens.
        if self.rng.below(8) == 0 {
            let takes = Duration::from_millis(100 + self.rng.below(30_000));
            self.requests.entry(chosen.clone()).or_default().push(now + takes);
        }
        Sent::To(chosen)
    }

    fn follow(&mut self, instance: &InstanceId, has_failed: bool, now: Mono) {
        if !has_failed {
            self.streaks.remove(instance);
            return;
        }
        let streak = self.streaks.entry(instance.clone()).or_default();
        *streak += 1;
        if streak.is_multiple_of(FAILURES) {
            self.outliers.handle(outlier::Input::Failing(instance.clone()), now);
        }
    }

    /// Those whose last requests have all failed.
    pub(crate) fn streaks(&self) -> BTreeMap<InstanceId, u32> {
        let long = self.streaks.iter().filter(|(_, failed)| **failed >= FAILURES);
        long.map(|(id, failed)| (id.clone(), *failed)).collect()
    }

    /// The requests of an instance that is gone have ended with it.
    pub(crate) fn forget(&mut self, lives: impl Fn(&InstanceId) -> bool) {
        self.requests.retain(|id, _| lives(id));
        self.streaks.retain(|id, _| lives(id));
    }
}
