//! What makes one desired state of another: an edge that has the first is told no more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{EdgeDesired, PoolId, Table};
use crate::app::HostName;
use crate::id::Generation;

/// From one desired state to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The generation that they change.
    pub base: Generation,
    /// The new generation: of sites, pools and certificates those that are new or different, and all of what is few. The pools that its
    /// sites lead to are there in any case: it is a table by itself.
    pub part: EdgeDesired,
    pub gone: Gone,
}

/// What the new one does not have any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gone {
    pub sites: BTreeSet<HostName>,
    pub pools: BTreeSet<PoolId>,
    pub certificates: BTreeSet<HostName>,
}

impl Changes {
    /// What both share ([`Table::sharing`]) is not read.
    pub fn between(before: &EdgeDesired, after: &EdgeDesired) -> Self {
        let mut changes = Self::of_tables(&before.table, &after.table);
        if !Arc::ptr_eq(&before.certificates, &after.certificates) {
            let certificates = differences(&before.certificates, &after.certificates);
            (changes.part.certificates, changes.gone.certificates) = (Arc::new(certificates.0), certificates.1);
        }
        changes
    }

    /// The same without certificates.
    pub fn of_tables(before: &Table, after: &Table) -> Self {
        let (mut pools, gone_pools) = differences(&before.pools, &after.pools);
        let (mut sites, gone_sites) = differences(&before.sites, &after.sites);
        // Whoever is told of a site is told no pool of it that is not listed: with the pool, the site is another one to them.
        let is_listed_anew = |pool: &PoolId| pools.contains_key(pool) && !before.pools.contains_key(pool);
        if !gone_pools.is_empty() || pools.keys().any(|pool| !before.pools.contains_key(pool)) {
            let changed = |pool: &PoolId| gone_pools.contains(pool) || is_listed_anew(pool);
            let affected = after.sites.iter().filter(|(_, site)| site.pools().any(changed));
            sites.extend(affected.map(|(host, site)| (host.clone(), Arc::clone(site))).collect::<Vec<_>>());
        }
        for pool in sites.values().flat_map(|site| site.pools()) {
            if let Some(served) = after.pools.get(pool).filter(|_| !pools.contains_key(pool)) {
                pools.insert(pool.clone(), Arc::clone(served));
            }
        }
        let Table { generation, leaving, trusted_proxies, proxy_protocol, api, challenges, sample, sites: _, pools: _ } =
            after;
        let part = Table {
            generation: *generation,
            sites,
            pools,
            leaving: leaving.clone(),
            trusted_proxies: trusted_proxies.clone(),
            proxy_protocol: *proxy_protocol,
            api: api.clone(),
            challenges: challenges.clone(),
            sample: *sample,
        };
        let gone = Gone { sites: gone_sites, pools: gone_pools, certificates: BTreeSet::new() };
        let part = EdgeDesired { table: Arc::new(part), certificates: Arc::default() };
        Self { base: before.generation, part, gone }
    }

    /// Makes the new one of the one before.
    pub fn apply(&self, desired: &mut EdgeDesired) {
        self.apply_to_table(Arc::make_mut(&mut desired.table));
        if !self.part.certificates.is_empty() || !self.gone.certificates.is_empty() {
            let certificates = Arc::make_mut(&mut desired.certificates);
            replace(certificates, &self.part.certificates, &self.gone.certificates);
        }
    }

    /// The same without certificates.
    pub fn apply_to_table(&self, table: &mut Table) {
        let Table { generation, sites, pools, leaving, trusted_proxies, proxy_protocol, api, challenges, sample } =
            &*self.part.table;
        replace(&mut table.sites, sites, &self.gone.sites);
        replace(&mut table.pools, pools, &self.gone.pools);
        (table.generation, table.proxy_protocol, table.sample) = (*generation, *proxy_protocol, *sample);
        table.leaving.clone_from(leaving);
        table.trusted_proxies.clone_from(trusted_proxies);
        table.api.clone_from(api);
        table.challenges.clone_from(challenges);
    }
}

fn replace<K: Ord + Clone, V>(all: &mut BTreeMap<K, Arc<V>>, new: &BTreeMap<K, Arc<V>>, gone: &BTreeSet<K>) {
    for key in gone {
        all.remove(key);
    }
    for (key, value) in new {
        all.insert(key.clone(), Arc::clone(value));
    }
}

/// What is new or different, and what is gone.
fn differences<K: Ord + Clone, V: Eq>(
    before: &BTreeMap<K, Arc<V>>,
    after: &BTreeMap<K, Arc<V>>,
) -> (BTreeMap<K, Arc<V>>, BTreeSet<K>) {
    let (mut new, mut gone) = (BTreeMap::new(), BTreeSet::new());
    let mut before = before.iter().peekable();
    for (key, value) in after {
        while let Some((left, _)) = before.next_if(|(other, _)| *other < key) {
            gone.insert(left.clone());
        }
        // The same `Arc` is not read: they are `Eq`.
        let same = before.next_if(|(other, _)| *other == key).is_some_and(|(_, other)| other == value);
        if !same {
            new.insert(key.clone(), Arc::clone(value));
        }
    }
    gone.extend(before.map(|(left, _)| left.clone()));
    (new, gone)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::app::{BodyLimit, PathPrefix, sample};
    use crate::id::{InstanceId, ReleaseNumber, RouteName, ServiceName};
    use crate::route::{
        Action, Certificate, Challenge, Cohort, Flow, Policies, Pool, Rule, RuleId, Site, SiteTls, Split, Transfer,
    };
    use crate::secret::Secret;
    use crate::units::{Bytes, Share, Weight};

    fn host(number: u8) -> HostName {
        HostName::new(&format!("h{number}.example.com")).unwrap()
    }

    fn pool_id(release: u32) -> PoolId {
        let service = ServiceName::new("web").unwrap();
        PoolId { key: sample::key("local", "shop"), service, release: ReleaseNumber(release), cohort: Cohort::Whole }
    }

    fn site(releases: &[u32], prefix: &str) -> Site {
        let split = |release: &u32| Split { pool: pool_id(*release), weight: Weight::ALL };
        let rule = Rule {
            id: RuleId { key: sample::key("local", "shop"), route: RouteName::new("main").unwrap() },
            prefix: PathPrefix::new(prefix).unwrap(),
            strip: false,
            action: Action::Forward {
                service: ServiceName::new("web").unwrap(),
                splits: releases.iter().map(split).collect(),
                judged: false,
                flow: Flow::Uncounted,
            },
            policies: Policies::default(),
            body: BodyLimit(Bytes(1)),
            timeout: Duration::from_secs(1),
            idle: Duration::from_secs(1),
            transfer: Transfer::default(),
        };
        Site { tls: SiteTls::Both, rules: vec![rule] }
    }

    fn pool(release: u32, instances: u8) -> Pool {
        let instance =
            |slot| -> (InstanceId, _) { (format!("local/shop.web.r{release}.{slot}.1").parse().unwrap(), address()) };
        Pool { endpoints: (0..instances).map(instance).collect(), ..Pool::default() }
    }

    fn address() -> std::net::SocketAddr {
        std::net::SocketAddr::from(([127, 0, 0, 1], 9))
    }

    /// Few hosts, releases and prefixes, so that two of them have much in common and much not.
    fn desired() -> impl Strategy<Value = EdgeDesired> {
        let sites = prop::collection::btree_map(0_u8..6, (prop::collection::vec(0_u32..4, 0..3), 0_usize..2), 0..6);
        let pools = prop::collection::btree_map(0_u32..4, 0_u8..3, 0..4);
        let certificates = prop::collection::btree_map(0_u8..6, 0_u8..2, 0..6);
        let few = (prop::collection::btree_set(0_u16..3, 0..3), any::<bool>(), prop::option::of(0_u8..2));
        (sites, pools, certificates, few).prop_map(|(sites, pools, certificates, (leaving, proxied, asked))| {
            let challenge = |of| (host(of), Challenge::Http { token: "t".to_owned(), answer: format!("t.{of}") });
            let sites = sites.into_iter().map(|(at, (of, path))| (host(at), Arc::new(site(&of, ["/", "/x"][path]))));
            let pools = pools.into_iter().map(|(release, count)| (pool_id(release), Arc::new(pool(release, count))));
            let leaving = leaving.into_iter().map(|slot| format!("local/shop.web.r9.{slot}.1").parse().unwrap());
            let certificates = certificates.into_iter().map(|(at, key)| {
                (host(at), Arc::new(Certificate { chain: "chain".to_owned(), key: Secret::new(vec![key]) }))
            });
            let table = Table {
                sites: sites.collect(),
                pools: pools.collect(),
                leaving: leaving.collect(),
                proxy_protocol: proxied,
                sample: proxied.then_some(Share::WHOLE),
                challenges: asked.map(challenge).into_iter().collect(),
                ..Table::default()
            };
            EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates.collect()) }
        })
    }

    fn numbered(desired: EdgeDesired, generation: u64) -> EdgeDesired {
        let table = Table { generation: Generation(generation), ..Table::clone(&desired.table) };
        EdgeDesired { table: Arc::new(table), ..desired }
    }

    /// As whoever is told a table has it: a split whose pool is not listed is not told.
    fn told(desired: &EdgeDesired) -> EdgeDesired {
        let mut table = Table::clone(&desired.table);
        let pools = table.pools.clone();
        for site in table.sites.values_mut() {
            for rule in &mut Arc::make_mut(site).rules {
                if let Action::Forward { splits, .. } = &mut rule.action {
                    splits.retain(|split| pools.contains_key(&split.pool));
                }
            }
        }
        EdgeDesired { table: Arc::new(table), certificates: Arc::clone(&desired.certificates) }
    }

    proptest! {
        #[test]
        fn what_has_changed_and_what_was_before_are_the_whole(before in desired(), after in desired()) {
            let (before, after) = (numbered(before, 1), numbered(after, 2));
            let mut one = before.clone();
            Changes::between(&before, &after).apply(&mut one);
            prop_assert_eq!(&one, &after);
            // What both have in common is found though they share nothing, and the other way round.
            let table = Table::clone(&after.table).sharing(&before.table);
            let shared = EdgeDesired { table: Arc::new(table), ..after.clone() };
            prop_assert_eq!(Changes::between(&before, &shared), Changes::between(&before, &after));
        }

        #[test]
        fn whoever_is_told_what_has_changed_has_what_they_would_be_told(before in desired(), after in desired()) {
            let (before, after) = (numbered(before, 1), numbered(after, 2));
            let changes = Changes::between(&before, &after);
            let mut one = told(&before);
            Changes { part: told(&changes.part), ..changes }.apply(&mut one);
            prop_assert_eq!(one, told(&after));
        }

        #[test]
        fn what_is_shared_is_the_same_table(before in desired(), after in desired()) {
            let shared = Table::clone(&after.table).sharing(&before.table);
            prop_assert_eq!(&shared, &*after.table);
            for (host, site) in &shared.sites {
                let same = before.table.sites.get(host).filter(|other| other == &site);
                prop_assert!(same.is_none_or(|other| Arc::ptr_eq(other, site)));
            }
        }
    }

    #[test]
    fn a_change_names_what_has_changed_and_nothing_else() {
        let sites = |of: &[(u8, u32)]| of.iter().map(|(at, of)| (host(*at), Arc::new(site(&[*of], "/")))).collect();
        let pools = |of: &[u32]| of.iter().map(|of| (pool_id(*of), Arc::new(pool(*of, 1)))).collect();
        let table =
            |hosts: &[(u8, u32)], of: &[u32]| Table { sites: sites(hosts), pools: pools(of), ..Table::default() };
        let (before, after) = (table(&[(0, 1), (1, 1), (2, 2)], &[1, 2]), table(&[(0, 1), (1, 3), (3, 1)], &[1, 3]));
        let Changes { part, gone, .. } = Changes::of_tables(&before, &after);
        assert_eq!(part.table.sites.keys().collect::<Vec<_>>(), [&host(1), &host(3)]);
        assert_eq!(
            part.table.pools.keys().collect::<Vec<_>>(),
            [&pool_id(1), &pool_id(3)],
            "1 is led to by a new site"
        );
        assert_eq!((gone.sites, gone.pools), ([host(2)].into(), [pool_id(2)].into()));
    }
}
