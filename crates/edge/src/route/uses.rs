//! What the rules of a table lead to and ask for, kept up to date site by site: nobody goes through ten thousand of them to know.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::HostName;
use bowline_core::id::{AppKey, ServiceName};
use bowline_core::route::{Action, Flow, PoolId, Rule, RuleId, Site};
use bowline_core::units::Weight;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// By pool, the hosts that lead to it.
    hosts: BTreeMap<PoolId, BTreeSet<HostName>>,
    /// How many rules go by the requests of a pool.
    judged: BTreeMap<PoolId, u32>,
    /// By pool that shares unjudged rules with others, the first of each of them, and how many rules that are: only while a release comes.
    groups: BTreeMap<PoolId, BTreeMap<PoolId, u32>>,
    /// Names of groups that some pool has come to or left.
    regrouped: BTreeSet<PoolId>,
    /// How many rules lead to a service whose requests are counted.
    counted: BTreeMap<(AppKey, ServiceName), u32>,
    /// How many hosts a rule is limited on.
    limited: BTreeMap<RuleId, u32>,
    /// Those that were on one and are on none; perhaps they are again.
    unlimited: BTreeSet<RuleId>,
}

impl Uses {
    /// The hosts that lead to a pool.
    pub(super) fn hosts(&self, pool: &PoolId) -> impl Iterator<Item = &HostName> {
        self.hosts.get(pool).into_iter().flatten()
    }

    pub(super) fn is_judged(&self, pool: &PoolId) -> bool {
        self.judged.contains_key(pool)
    }

    pub(super) fn counted(&self) -> impl Iterator<Item = &(AppKey, ServiceName)> {
        self.counted.keys()
    }

    /// The name of those that answer instead of each other, of which this pool is one; mostly it alone is.
    pub(super) fn group<'a>(&'a self, pool: &'a PoolId) -> &'a PoolId {
        self.groups.get(pool).and_then(|names| names.keys().next()).unwrap_or(pool)
    }

    /// The pools of a group.
    pub(super) fn members<'a>(&'a self, group: &'a PoolId) -> impl Iterator<Item = &'a PoolId> {
        let alone = Some(group).filter(|pool| !self.groups.contains_key(pool));
        self.groups.keys().filter(move |pool| self.group(pool) == group).chain(alone)
    }

    /// Names of groups that some pool has come to or left, since this was asked last.
    pub(super) fn take_regrouped(&mut self) -> BTreeSet<PoolId> {
        std::mem::take(&mut self.regrouped)
    }

    fn regroup(&mut self, rule: &Rule, mut change: impl FnMut(&mut BTreeMap<PoolId, u32>, &PoolId)) {
        for (pool, name) in grouped(rule) {
            self.regrouped.insert(self.group(pool).clone());
            let names = self.groups.entry(pool.clone()).or_default();
            change(names, name);
            if names.is_empty() {
                self.groups.remove(pool);
            }
            self.regrouped.insert(self.group(pool).clone());
        }
    }

    /// Rules that are limited no more, since this was asked last.
    pub(super) fn take_unlimited(&mut self) -> BTreeSet<RuleId> {
        let mut unlimited = std::mem::take(&mut self.unlimited);
        unlimited.retain(|rule| !self.limited.contains_key(rule));
        unlimited
    }

    pub(super) fn add(&mut self, host: &HostName, site: &Site) {
        for pool in site.pools() {
            self.hosts.entry(pool.clone()).or_default().insert(host.clone());
        }
        for rule in &site.rules {
            judged(rule).for_each(|pool| more(&mut self.judged, pool));
            self.regroup(rule, more);
            if let Some(service) = counted(rule) {
                more(&mut self.counted, &service);
            }
            if rule.policies.rate.is_some() {
                more(&mut self.limited, &rule.id);
            }
        }
    }

    /// `site`: as it was added.
    pub(super) fn forget(&mut self, host: &HostName, site: &Site) {
        for pool in site.pools() {
            if let Entry::Occupied(mut entry) = self.hosts.entry(pool.clone()) {
                entry.get_mut().remove(host);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
        for rule in &site.rules {
            for pool in judged(rule) {
                less(&mut self.judged, pool);
            }
            self.regroup(rule, |names, name| {
                less(names, name);
            });
            if let Some(service) = counted(rule) {
                less(&mut self.counted, &service);
            }
            if rule.policies.rate.is_some() && less(&mut self.limited, &rule.id) {
                self.unlimited.insert(rule.id.clone());
            }
        }
    }
}

fn judged(rule: &Rule) -> impl Iterator<Item = &PoolId> {
    let is_judged = matches!(rule.action, Action::Forward { judged: true, .. });
    rule.action.splits().iter().filter(move |_| is_judged).map(|split| &split.pool)
}

/// The pools among which a rule shares its requests, each with the name of them all, where no rollout goes by what each of them answers.
/// Of a rolling release one instance alone may be all that there is of a pool.
fn grouped(rule: &Rule) -> impl Iterator<Item = (&PoolId, &PoolId)> {
    let is_judged = matches!(rule.action, Action::Forward { judged: true, .. });
    let splits = rule.action.splits().iter().filter(move |split| !is_judged && split.weight > Weight::default());
    let pools = splits.map(|split| &split.pool);
    let name = pools.clone().next().filter(|_| pools.clone().nth(1).is_some());
    pools.filter_map(move |pool| Some((pool, name?)))
}

fn counted(rule: &Rule) -> Option<(AppKey, ServiceName)> {
    match &rule.action {
        Action::Forward { flow: Flow::Uncounted, .. } | Action::Files(_) | Action::Redirect(_) | Action::Deny => None,
        Action::Forward { service, .. } => Some((rule.id.key.clone(), service.clone())),
    }
}

fn more<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: &K) {
    *counts.entry(key.clone()).or_default() += 1;
}

/// Whether that was the last of them.
fn less<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: &K) -> bool {
    let Entry::Occupied(mut entry) = counts.entry(key.clone()) else { return false };
    *entry.get_mut() -= 1;
    let is_last = *entry.get() == 0;
    if is_last {
        entry.remove();
    }
    is_last
}
