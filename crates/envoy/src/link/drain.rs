//! Instances that left the table and may not have answered all their requests: Envoy keeps them as drained, gives them none while anybody else is
//! well, and counts what they still have. One that Envoy forgot would be taken for done, and ended under its last request.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::id::{Generation, InstanceId};
use bowline_core::route::{Pool, PoolId, Table};

#[derive(Debug, Default)]
pub(super) struct Drains {
    pools: BTreeMap<PoolId, Pool>,
    /// The generation that left each of them out first.
    since: BTreeMap<InstanceId, Generation>,
}

impl Drains {
    pub(super) fn pools(&self) -> &BTreeMap<PoolId, Pool> {
        &self.pools
    }

    /// Another table is wanted.
    pub(super) fn table(&mut self, before: &Table, now: &Table) {
        let listed: BTreeSet<&InstanceId> = now.pools.values().flat_map(|pool| pool.endpoints.keys()).collect();
        for (id, pool) in &before.pools {
            for (instance, at) in pool.endpoints.iter().filter(|(instance, _)| !listed.contains(*instance)) {
                let empty = || Pool { protocol: pool.protocol, ..Pool::default() };
                self.pools.entry(id.clone()).or_insert_with(empty).endpoints.insert(instance.clone(), *at);
                self.since.entry(instance.clone()).or_insert(now.generation);
            }
        }
        self.forget(|instance| listed.contains(instance));
    }

    /// Forgets those that have nothing left, as far as Envoy serves a table without them: whether any was there.
    pub(super) fn done(&mut self, serving: Generation, is_busy: impl Fn(&InstanceId) -> bool) -> bool {
        let since = self.since.clone();
        let before = self.since.len();
        self.forget(|instance| since.get(instance).is_some_and(|since| *since <= serving) && !is_busy(instance));
        self.since.len() < before
    }

    fn forget(&mut self, is_over: impl Fn(&InstanceId) -> bool) {
        self.since.retain(|instance, _| !is_over(instance));
        for pool in self.pools.values_mut() {
            pool.endpoints.retain(|instance, _| self.since.contains_key(instance));
        }
        self.pools.retain(|_, pool| !pool.endpoints.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use bowline_core::app::Protocol;
    use bowline_core::id::{AppKey, AppName, EnvName, ReleaseNumber, ServiceName};
    use bowline_core::route::Cohort;

    fn instance(slot: u16) -> InstanceId {
        format!("local/shop.web.r1.{slot}.1").parse().unwrap()
    }

    fn table(generation: u64, slots: &[u16]) -> Table {
        let key = AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() };
        let service = ServiceName::new("web").unwrap();
        let id = PoolId { key, service, release: ReleaseNumber(1), cohort: Cohort::Whole };
        let endpoints = slots.iter().map(|slot| (instance(*slot), ([127, 0, 0, 1], *slot).into())).collect();
        let pools = BTreeMap::from([(id, Arc::new(Pool { protocol: Protocol::Http1, endpoints }))]);
        Table { generation: Generation(generation), pools, ..Table::default() }
    }

    fn drained(drains: &Drains) -> Vec<InstanceId> {
        drains.pools().values().flat_map(|pool| pool.endpoints.keys().cloned()).collect()
    }

    #[test]
    fn one_that_left_is_kept_until_it_has_nothing_in_a_table_without_it() {
        let mut drains = Drains::default();
        drains.table(&table(1, &[0, 1]), &table(2, &[1]));
        assert_eq!(drained(&drains), [instance(0)]);
        assert!(!drains.done(Generation(1), |_| false), "it may still be given requests");
        assert!(!drains.done(Generation(2), |one| *one == instance(0)));
        drains.table(&table(2, &[1]), &table(3, &[]));
        assert_eq!(drained(&drains), [instance(0), instance(1)]);
        assert!(drains.done(Generation(3), |one| *one == instance(1)));
        assert_eq!(drained(&drains), [instance(1)]);
        drains.table(&table(3, &[]), &table(4, &[1]));
        assert!(drained(&drains).is_empty(), "it is back");
    }
}
