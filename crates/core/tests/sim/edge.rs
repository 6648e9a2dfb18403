//! An edge that takes its time with tables, and holds requests.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::id::{AppKey, Generation, InstanceId, ReleaseNumber, ServiceName};
use bowline_core::rollout::Traffic;
use bowline_core::route::{Action, PoolId, Table};
use bowline_core::time::Mono;
use bowline_core::verdict::Counters;

use crate::cover::Strike;
use crate::rng::Rng;

pub(crate) struct Edge {
    pub(crate) table: Option<Table>,
    pending: Option<(Mono, Table)>,
    requests: BTreeMap<InstanceId, Vec<Mono>>,
    counted: BTreeMap<PoolId, Counters>,
    rng: Rng,
}

/// How a request fared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    To(InstanceId),
    /// No endpoint: 503.
    Nowhere,
    /// No route: 404.
    Unknown,
}

impl Edge {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { table: None, pending: None, requests: BTreeMap::new(), counted: BTreeMap::new(), rng }
    }

    pub(crate) fn serve(&mut self, table: Table, now: Mono) {
        let at = match &self.pending {
            Some((at, _)) => *at,
            None => now + Duration::from_millis(1 + self.rng.below(600)),
        };
        self.pending = Some((at, table));
    }

    /// The daemon died: what it had sent may or may not have arrived.
    pub(crate) fn crash(&mut self) -> Option<Strike> {
        let lost = self.rng.below(2) == 0 && self.pending.take().is_some();
        lost.then_some(Strike::LostTable)
    }

    pub(crate) fn advance(&mut self, now: Mono) {
        if let Some((_, table)) = self.pending.take_if(|(at, _)| now >= *at)
            && self.table.as_ref().is_none_or(|held| held.generation < table.generation)
        {
            self.table = Some(table);
        }
        self.requests.values_mut().for_each(|requests| requests.retain(|end| *end > now));
        self.requests.retain(|_, requests| !requests.is_empty());
    }

    pub(crate) fn serving(&self) -> Option<Generation> {
        self.table.as_ref().map(|table| table.generation)
    }

    pub(crate) fn newest(&self) -> Generation {
        let pending = self.pending.as_ref().map(|(_, table)| table.generation);
        self.serving().max(pending).unwrap_or_default()
    }

    pub(crate) fn outstanding(&self) -> BTreeMap<InstanceId, u32> {
        self.requests.iter().map(|(id, requests)| (id.clone(), u32::try_from(requests.len()).unwrap())).collect()
    }

    pub(crate) fn next_event(&self, now: Mono) -> Option<Mono> {
        let pending = self.pending.iter().map(|(at, _)| *at);
        pending.chain(self.requests.values().flatten().copied()).filter(|at| *at > now).min()
    }

    /// What was counted of an app.
    pub(crate) fn traffic(&self, key: &AppKey) -> Traffic {
        let own = self.counted.iter().filter(|(pool, _)| pool.key == *key);
        own.map(|(pool, counters)| ((pool.service.clone(), pool.release, pool.cohort), counters.clone())).collect()
    }

    /// One request for a service, by the weights, to any endpoint. `errors`: how many of a hundred a release fails.
    pub(crate) fn request(
        &mut self,
        key: &AppKey,
        service: &ServiceName,
        errors: &dyn Fn(ReleaseNumber) -> u64,
        now: Mono,
    ) -> Sent {
        let Some(table) = &self.table else { return Sent::Unknown };
        let rules = table.sites.values().flat_map(|site| &site.rules);
        let splits = rules.filter(|rule| rule.id.key == *key).find_map(|rule| match &rule.action {
            Action::Forward { service: to, splits, judged, .. } if to == service => Some((splits, *judged)),
            Action::Forward { .. } | Action::Files(_) | Action::Redirect(_) | Action::Deny => None,
        });
        let Some((splits, judged)) = splits else { return Sent::Unknown };
        let mut ticket = self.rng.below(100);
        let pool = splits.iter().find(|split| {
            let weight = u64::from(split.weight.get());
            let hit = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            hit
        });
        let endpoints: Vec<&InstanceId> =
            pool.and_then(|split| table.pools.get(&split.pool)).iter().flat_map(|pool| pool.endpoints.keys()).collect();
        if endpoints.is_empty() {
            return Sent::Nowhere;
        }
        if let Some(split) = pool.filter(|_| judged) {
            let status = if self.rng.below(100) < errors(split.pool.release) { 500 } else { 200 };
            self.counted.entry(split.pool.clone()).or_default().record(status, Duration::from_millis(5));
        }
        let chosen = endpoints[usize::try_from(self.rng.below(endpoints.len() as u64)).unwrap()].clone();
        // Most are over before anything else happens.
        if self.rng.below(8) == 0 {
            let takes = Duration::from_millis(100 + self.rng.below(30_000));
            self.requests.entry(chosen.clone()).or_default().push(now + takes);
        }
        Sent::To(chosen)
    }

    /// The requests of an instance that is gone have ended with it.
    pub(crate) fn forget(&mut self, lives: impl Fn(&InstanceId) -> bool) {
        self.requests.retain(|id, _| lives(id));
    }
}
