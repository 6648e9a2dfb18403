//! From tables to routes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bowline_core::app::{HostName, PathPrefix, PlainHttp};
use bowline_core::id::{AppKey, Generation, InstanceId, ReleaseNumber, ServiceName};
use bowline_core::route::{
    Action, ApiSite, Challenge, Changes, Cohort, Flow, Policies, Pool, PoolId, RateLimit, Rule, RuleId, Site, SiteTls,
    Split, Table,
};
use tokio::sync::Notify;

use super::uses::Uses;
use super::{API_BODY, API_READING, API_TIME, Backend, Counting, Host, LabelId, Labels, Route, Routes, Target};
use crate::balance::Endpoint;
use crate::files::Folder;
use crate::places::Places;
use crate::policy::{Guard, Limiter, Networks};
use crate::trace::Sampling;

/// Turns tables into [`Routes`], keeping what did not change: endpoints with their counts, labels, hosts.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    table: Table,
    routes: Arc<Routes>,
    uses: Uses,
    /// Pools that have changed, and names of groups that have, since [`Self::take_changed`].
    changed: BTreeSet<PoolId>,
    endpoints: BTreeMap<InstanceId, Arc<Endpoint>>,
    last_serial: u32,
    labels: BTreeMap<Arc<Labels>, LabelId>,
    /// No number is given twice.
    by_id: BTreeMap<LabelId, Arc<Labels>>,
    last_label: u32,
    /// Of routes that have been replaced.
    replaced: Vec<LabelId>,
    drained: Arc<Notify>,
    /// What was counted towards a limit outlives a table.
    limiters: BTreeMap<RuleId, Arc<Limiter>>,
    places: Arc<Places>,
}

impl Compiler {
    #[cfg(test)]
    pub(crate) fn with_one_label() -> Self {
        let instance: InstanceId = "local/board.web.r1.0.1".parse().expect("an instance");
        let (service, release, cohort) = (None, None, Cohort::Whole);
        let labels = Labels { key: instance.slot.key, service, release, cohort, prefix: PathPrefix::root() };
        Self { by_id: [(LabelId(0), Arc::new(labels))].into(), ..Self::default() }
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.routes.generation
    }

    /// Told when an instance that left the table has nothing outstanding any more.
    pub(crate) fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.drained)
    }

    /// `None`: they are forgotten.
    pub(crate) fn labels(&self, id: LabelId) -> Option<&Labels> {
        self.by_id.get(&id).map(|labels| &**labels)
    }

    /// Series that no route counts in any more, nor a request that is still under way: what the workers report from now on is the last of them.
    pub(crate) fn take_unused(&mut self) -> Vec<LabelId> {
        self.replaced.sort_unstable();
        self.replaced.dedup();
        // Known here by their number and by their name.
        let is_used = |labels: &Arc<Labels>| Arc::strong_count(labels) > 2;
        let by_id = &self.by_id;
        self.replaced.extract_if(.., |id| !by_id.get(id).is_some_and(is_used)).collect()
    }

    /// Their last reports have been added up.
    pub(crate) fn forget(&mut self, unused: Vec<LabelId>) {
        for id in unused {
            // A table that has come meanwhile may lead there again.
            if self.by_id.get(&id).is_some_and(|labels| Arc::strong_count(labels) > 2) {
                continue;
            }
            if let Some(labels) = self.by_id.remove(&id) {
                self.labels.remove(&labels);
            }
        }
    }

    /// Whether a rollout goes by the requests of this pool.
    pub(crate) fn is_judged(&self, pool: &PoolId) -> bool {
        self.uses.is_judged(pool)
    }

    /// The services whose requests are counted.
    pub(crate) fn counted(&self) -> BTreeSet<(AppKey, ServiceName)> {
        self.uses.counted().cloned().collect()
    }

    /// What is outstanding, by instance. Instances that left and have nothing outstanding are forgotten.
    pub(crate) fn outstanding(&mut self) -> BTreeMap<InstanceId, u32> {
        self.endpoints.retain(|_, endpoint| !endpoint.has_left() || endpoint.outstanding() > 0);
        let busy = self.endpoints.values().filter(|endpoint| endpoint.outstanding() > 0);
        busy.map(|endpoint| (endpoint.id.clone(), endpoint.outstanding())).collect()
    }

    /// The instances that answer instead of each other, of what has changed since this was asked last; `None`: nothing of them is left.
    /// They are those of a pool, and where no rollout goes by what each release answers, of all releases with a share.
    pub(crate) fn take_changed(&mut self) -> BTreeMap<PoolId, Option<BTreeSet<InstanceId>>> {
        let changed = std::mem::take(&mut self.changed);
        let groups: BTreeSet<&PoolId> = changed.iter().flat_map(|pool| [pool, self.uses.group(pool)]).collect();
        groups.into_iter().map(|group| (group.clone(), self.instances(group))).collect()
    }

    fn instances(&self, group: &PoolId) -> Option<BTreeSet<InstanceId>> {
        let mut pools = self.uses.members(group).filter_map(|pool| self.table.pools.get(pool)).peekable();
        pools.peek()?;
        Some(pools.flat_map(|pool| pool.endpoints.keys().cloned()).collect())
    }

    /// Who has failed often enough since this was asked last.
    pub(crate) fn failing(&self) -> Vec<InstanceId> {
        let failing = self.endpoints.values().filter(|endpoint| endpoint.take_failing());
        failing.map(|endpoint| endpoint.id.clone()).collect()
    }

    /// Instances of the table whose last requests have all failed, and how many those were.
    pub(crate) fn streaks(&self) -> BTreeMap<InstanceId, u32> {
        let there = self.endpoints.iter().filter(|(_, endpoint)| !endpoint.has_left());
        there.filter_map(|(id, endpoint)| Some((id.clone(), endpoint.streak()?))).collect()
    }

    /// What is served.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// These get no requests for now, all others do.
    pub(crate) fn leave_out(&self, instances: &BTreeSet<&InstanceId>) {
        for (id, endpoint) in &self.endpoints {
            endpoint.set_left_out(instances.contains(id));
        }
    }

    /// Makes all of a table that is not as it was before.
    pub(crate) fn compile(&mut self, table: &Table) -> Arc<Routes> {
        self.change(&Changes::of_tables(&self.table, table))
    }

    /// Makes what has changed since the table before.
    pub(crate) fn change(&mut self, changes: &Changes) -> Arc<Routes> {
        let after = &*changes.part.table;
        // Pools that only a changed site leads to are told, too.
        let pools = after.pools.iter().filter(|(id, pool)| self.table.pools.get(id) != Some(pool)).map(|(id, _)| id);
        let pools: BTreeSet<PoolId> = pools.chain(&changes.gone.pools).cloned().collect();
        let sites = after.sites.iter().filter(|(host, site)| self.table.sites.get(host) != Some(site));
        let sites: BTreeSet<HostName> = sites.map(|(host, _)| host).chain(&changes.gone.sites).cloned().collect();
        let api = (self.table.api.clone(), self.table.api != after.api);
        let admits_others = sites.iter().any(|host| admits_others(host, &self.table, changes));
        self.take_endpoints(after, &pools);
        let mut hosts: BTreeSet<HostName> = pools.iter().flat_map(|pool| self.uses.hosts(pool)).cloned().collect();
        for host in &sites {
            if let Some(site) = self.table.sites.get(host) {
                self.uses.forget(host, site);
            }
        }
        changes.apply_to_table(&mut self.table);
        for host in &sites {
            if let Some(site) = self.table.sites.get(host) {
                self.uses.add(host, site);
            }
        }
        hosts.extend(sites);
        let mut routes = self.routes(hosts, api);
        routes.admission = routes.admission.wrapping_add(u32::from(admits_others));
        for rule in self.uses.take_unlimited() {
            self.limiters.remove(&rule);
        }
        self.changed.extend(pools);
        self.changed.append(&mut self.uses.take_regrouped());
        self.routes = Arc::new(routes);
        Arc::clone(&self.routes)
    }

    /// Those of the table before, but for these hosts. `api`: where it was, and whether it is elsewhere now.
    fn routes(&mut self, mut hosts: BTreeSet<HostName>, api: (Option<Arc<ApiSite>>, bool)) -> Routes {
        let table = std::mem::take(&mut self.table);
        let mut routes = Routes::clone(&self.routes);
        let (before, has_moved) = api;
        if let Some(before) = before.filter(|_| has_moved) {
            routes.exact.remove(before.host.as_str());
            hosts.insert(before.host.clone());
        }
        for name in &hosts {
            let host = table.sites.get(name).map(|site| self.host(&table, site));
            let (names, key) = match name.as_str().strip_prefix("*.") {
                Some(rest) => (&mut routes.wildcard, rest.into()),
                None => (&mut routes.exact, name.shared()),
            };
            if let Some(before) = names.get(&key) {
                self.replaced.extend(before.rules.iter().flat_map(|rule| &rule.series).map(|(id, _)| *id));
            }
            match host {
                Some(host) => names.insert(key, host),
                None => names.remove(&key),
            }
        }
        if let Some(site) = table.api.as_ref().filter(|site| has_moved || hosts.contains(&site.host)) {
            routes.exact.insert(site.host.shared(), self.api(site));
        }
        routes.trusted = Arc::new(Networks::new(&table.trusted_proxies));
        routes.generation = Some(table.generation);
        routes.proxied = table.proxy_protocol;
        routes.sampling = Sampling::of(table.sample);
        routes.leaving = !table.leaving.is_empty();
        routes.challenges = challenges(&table);
        self.table = table;
        routes
    }

    /// Every instance of a pool that has changed gets its endpoint, the one it had if its address is the same.
    fn take_endpoints(&mut self, after: &Table, changed: &BTreeSet<PoolId>) {
        let listed = changed.iter().filter_map(|id| after.pools.get(id));
        let listed: BTreeMap<&InstanceId, _> =
            listed.flat_map(|pool| pool.endpoints.iter().map(|(id, at)| (id, (*at, pool.protocol)))).collect();
        let before = changed.iter().filter_map(|id| self.table.pools.get(id));
        for id in before.flat_map(|pool| pool.endpoints.keys()).filter(|id| !listed.contains_key(id)) {
            self.endpoints.get(id).into_iter().for_each(|endpoint| endpoint.set_left(true));
        }
        for (id, at) in listed {
            match self.endpoints.get(id).filter(|endpoint| (endpoint.address, endpoint.protocol) == at) {
                Some(endpoint) => endpoint.set_left(false),
                None => {
                    self.last_serial += 1;
                    let endpoint = Endpoint::new(id.clone(), self.last_serial, at, Arc::clone(&self.drained));
                    endpoint.set_leaving(after.leaving.contains(id));
                    self.endpoints.insert(id.clone(), Arc::new(endpoint));
                }
            }
        }
        for id in self.table.leaving.symmetric_difference(&after.leaving) {
            let is_leaving = after.leaving.contains(id);
            self.endpoints.get(id).into_iter().for_each(|endpoint| endpoint.set_leaving(is_leaving));
        }
    }

    fn host(&mut self, table: &Table, site: &Site) -> Arc<Host> {
        let https = match site.tls {
            SiteTls::Both => true,
            SiteTls::Off => false,
        };
        Arc::new(Host { https, rules: site.rules.iter().map(|rule| self.route(table, rule)).collect() })
    }

    fn api(&self, site: &ApiSite) -> Arc<Host> {
        let route = Route {
            prefix: PathPrefix::root(),
            strip: false,
            target: Target::Api { socket: site.socket.clone(), places: Arc::clone(&self.places) },
            https_only: false,
            compress: false,
            hsts: None,
            guard: None,
            body: API_BODY,
            timeout: API_TIME,
            idle: API_TIME,
            reading: API_READING,
            counting: None,
            labels: None,
            series: Vec::new(),
            log: "\"api\":true".to_owned(),
        };
        Arc::new(Host { https: true, rules: vec![Arc::new(route)] })
    }

    fn route(&mut self, table: &Table, rule: &Rule) -> Arc<Route> {
        let target = match &rule.action {
            Action::Forward { splits, judged, .. } => {
                Target::Forward(splits.iter().map(|split| self.backend(table, rule, split, *judged)).collect())
            }
            Action::Files(files) => Target::Files {
                folder: Arc::new(Folder::new(files)),
                release: files.release,
                labels: self.label(rule, Some((&files.service, Some(files.release), Cohort::Whole))),
                log: format!("\"service\":\"{}\",\"release\":{}", files.service, files.release),
            },
            Action::Redirect(to) => Target::Redirect(to.clone()),
            Action::Deny => Target::Deny,
        };
        let counting = match &rule.action {
            Action::Forward { flow: Flow::Uncounted, .. } | Action::Files(_) | Action::Redirect(_) | Action::Deny => {
                None
            }
            Action::Forward { service, flow, .. } => Some(Counting {
                labels: self.label(rule, Some((service, None, Cohort::Whole))),
                held: *flow == Flow::Held,
                news: Arc::clone(&self.drained),
            }),
        };
        let limiter = rule.policies.rate.map(|limit| self.limiter(&rule.id, limit));
        let labels = self.label(rule, None);
        let backends = match &target {
            Target::Forward(backends) => backends.as_slice(),
            Target::Files { .. } | Target::Redirect(_) | Target::Deny | Target::Api { .. } => &[],
        };
        let of_files = match &target {
            Target::Files { labels, .. } => Some(*labels),
            Target::Forward(_) | Target::Redirect(_) | Target::Deny | Target::Api { .. } => None,
        };
        let counted = counting.as_ref().map(|counting| counting.labels);
        let all = backends.iter().map(|backend| backend.labels).chain(of_files).chain(counted).chain([labels]);
        let series = all.filter_map(|id| Some((id, Arc::clone(self.by_id.get(&id)?)))).collect();
        Arc::new(Route {
            prefix: rule.prefix.clone(),
            strip: rule.strip,
            target,
            https_only: rule.transfer.http == PlainHttp::Redirect,
            compress: rule.transfer.compress,
            hsts: rule.transfer.hsts.map(|hsts| hsts.to_string()),
            guard: Guard::new(&rule.policies, limiter),
            body: rule.body,
            timeout: rule.timeout,
            idle: rule.idle,
            reading: rule.idle.min(rule.timeout),
            counting,
            labels: Some(labels),
            series,
            log: format!(
                "\"app\":\"{}\",\"env\":\"{}\",\"route\":\"{}\"",
                rule.id.key.app, rule.id.key.env, rule.id.route
            ),
        })
    }

    fn limiter(&mut self, id: &RuleId, limit: RateLimit) -> Arc<Limiter> {
        if let Some(known) = self.limiters.get(id).filter(|limiter| limiter.limit == limit) {
            return Arc::clone(known);
        }
        let limiter = Arc::new(Limiter::new(limit));
        self.limiters.insert(id.clone(), Arc::clone(&limiter));
        limiter
    }

    fn backend(&mut self, table: &Table, rule: &Rule, split: &Split, judged: bool) -> Backend {
        let PoolId { service, release, cohort, key: _ } = &split.pool;
        let empty = Pool::default();
        let pool = table.pools.get(&split.pool).map_or(&empty, |pool| &**pool);
        Backend {
            weight: split.weight.get(),
            endpoints: pool.endpoints.keys().filter_map(|id| self.endpoints.get(id).cloned()).collect(),
            release: release.to_string(),
            cohort: *cohort,
            judged,
            labels: self.label(rule, Some((service, Some(*release), *cohort))),
            log: format!("\"service\":\"{service}\",\"release\":{release}"),
        }
    }

    fn label(&mut self, rule: &Rule, serves: Option<(&ServiceName, Option<ReleaseNumber>, Cohort)>) -> LabelId {
        let labels = Labels {
            key: rule.id.key.clone(),
            service: serves.map(|(service, ..)| service.clone()),
            release: serves.and_then(|(_, release, _)| release),
            cohort: serves.map(|(.., cohort)| cohort).unwrap_or_default(),
            prefix: rule.prefix.clone(),
        };
        if let Some(id) = self.labels.get(&labels) {
            return *id;
        }
        self.last_label += 1;
        let id = LabelId(self.last_label);
        let labels = Arc::new(labels);
        self.by_id.insert(id, Arc::clone(&labels));
        self.labels.insert(labels, id);
        id
    }
}

/// Whether somebody who was let in at this host may be refused there now. A host that comes may have been a wildcard's, and one that goes may be one's
/// from now on; one that goes for good refuses nobody: its instances are drained.
fn admits_others(host: &HostName, before: &Table, after: &Changes) -> bool {
    let after = &after.part.table;
    let wildcard = || HostName::new(&format!("*.{}", host.as_str().split_once('.')?.1)).ok();
    let covered =
        |table: &Table| !table.sites.is_empty() && wildcard().is_some_and(|host| table.sites.contains_key(&host));
    let asked = |site: &Arc<Site>| {
        let of = |rule: &Rule| {
            let Policies { auth, allow, .. } = &rule.policies;
            (rule.prefix.clone(), matches!(rule.action, Action::Deny), auth.clone(), allow.clone())
        };
        site.rules.iter().map(of).collect::<Vec<_>>()
    };
    match (before.sites.get(host), after.sites.get(host)) {
        (Some(before), Some(after)) => asked(before) != asked(after),
        (None, Some(_)) => covered(before),
        (Some(_), None) => covered(before) || covered(after),
        (None, None) => false,
    }
}

/// Those of handshakes are served where these are made.
fn challenges(table: &Table) -> HashMap<Box<str>, (Box<str>, Arc<str>)> {
    let of = |(host, challenge): (&HostName, &Challenge)| match challenge {
        Challenge::Http { token, answer } => {
            Some((host.as_str().into(), (token.as_str().into(), answer.as_str().into())))
        }
        Challenge::Tls(_) => None,
    };
    table.challenges.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Ticket;
    use crate::route::Lookup;
    use bowline_core::app::{BodyLimit, RateBy};
    use bowline_core::id::{AppName, EnvName, RouteName};
    use bowline_core::route::Transfer;
    use bowline_core::units::{Bytes, Rate, Weight};
    use proptest::prelude::*;
    use std::fmt::Write as _;
    use std::time::Duration;

    fn key() -> AppKey {
        AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("a").unwrap() }
    }

    fn pool_id() -> PoolId {
        PoolId {
            key: key(),
            service: ServiceName::new("web").unwrap(),
            release: ReleaseNumber(1),
            cohort: Cohort::Whole,
        }
    }

    fn rule(prefix: &str) -> Rule {
        let splits = vec![Split { pool: pool_id(), weight: Weight::ALL }];
        Rule {
            id: RuleId { key: key(), route: RouteName::new("main").unwrap() },
            prefix: PathPrefix::new(prefix).unwrap(),
            strip: false,
            action: Action::Forward {
                service: ServiceName::new("web").unwrap(),
                splits,
                judged: false,
                flow: Flow::Uncounted,
            },
            policies: Policies::default(),
            body: BodyLimit(Bytes(1)),
            timeout: Duration::from_secs(1),
            idle: Duration::from_secs(1),
            transfer: Transfer::default(),
        }
    }

    fn table(generation: u64, sites: &[(&str, &[&str])], instances: &[&str]) -> Table {
        let site = |prefixes: &[&str]| {
            Arc::new(Site { tls: SiteTls::Both, rules: prefixes.iter().map(|p| rule(p)).collect() })
        };
        let endpoints = instances.iter().map(|id| (id.parse().unwrap(), "127.0.0.1:9".parse().unwrap()));
        Table {
            generation: Generation(generation),
            sites: sites.iter().map(|(name, rules)| (HostName::new(name).unwrap(), site(rules))).collect(),
            pools: BTreeMap::from([(pool_id(), Arc::new(Pool { endpoints: endpoints.collect(), ..Pool::default() }))]),
            leaving: [].into(),
            trusted_proxies: [].into(),
            proxy_protocol: false,
            sample: None,
            api: None,
            challenges: BTreeMap::new(),
        }
    }

    #[test]
    fn releases_that_share_a_route_answer_for_each_other_where_none_is_judged() {
        let check = |weights: [u8; 2], judged: bool, expected: &[usize]| {
            let mut one = table(1, &[("a.x.org", &["/"])], &["local/a.web.r1.0.1"]);
            let next = PoolId { release: ReleaseNumber(2), ..pool_id() };
            let endpoints = ["local/a.web.r2.0.1", "local/a.web.r2.1.1"];
            let endpoints = endpoints.map(|id| (id.parse().unwrap(), "127.0.0.1:9".parse().unwrap()));
            one.pools.insert(next.clone(), Arc::new(Pool { endpoints: endpoints.into(), ..Pool::default() }));
            let weights = weights.map(|weight| Weight::new(weight).unwrap());
            let shares = [pool_id(), next].into_iter().zip(weights).map(|(pool, weight)| Split { pool, weight });
            for rule in one.sites.values_mut().flat_map(|site| &mut Arc::make_mut(site).rules) {
                let Action::Forward { splits, judged: is_judged, .. } = &mut rule.action else { panic!("it forwards") };
                (*splits, *is_judged) = (shares.clone().collect(), judged);
            }
            let mut compiler = Compiler::default();
            compiler.compile(&one);
            let sizes: Vec<usize> = compiler.take_changed().values().flatten().map(BTreeSet::len).collect();
            assert_eq!(sizes, expected);
        };
        check([33, 67], false, &[3]);
        check([33, 67], true, &[1, 2]);
        check([0, 100], false, &[1, 2]);
    }

    #[test]
    fn an_exact_host_wins_over_a_wildcard_and_the_first_rule_that_matches_is_taken() {
        let sites: &[(&str, &[&str])] = &[("*.x.org", &["/"]), ("a.x.org", &["/api/v1", "/api"])];
        let routes = Compiler::default().compile(&table(1, sites, &[]));
        let check = |host: &str, path: &str, expected: Result<&str, &str>| {
            let got = match routes.lookup(host, path) {
                Lookup::NoHost => Err("host"),
                Lookup::NoRule => Err("rule"),
                Lookup::Route(route) => Ok(route.prefix.as_str()),
            };
            assert_eq!(got, expected, "{host}{path}");
        };
        check("a.x.org", "/api/v1/x", Ok("/api/v1"));
        check("a.x.org", "/api/v2", Ok("/api"));
        check("a.x.org", "/", Err("rule"));
        check("b.x.org", "/", Ok("/"));
        check("c.b.x.org", "/", Err("host"));
        check("x.org", "/", Err("host"));
    }

    #[test]
    fn counts_survive_a_swap_and_an_instance_that_left_is_forgotten_when_it_is_done() {
        let mut compiler = Compiler::default();
        let sites: &[(&str, &[&str])] = &[("a", &["/"])];
        let first = compiler.compile(&table(1, sites, &["local/a.web.r1.0.1", "local/a.web.r1.1.1"]));
        let Lookup::Route(route) = first.lookup("a", "/") else { panic!("no route") };
        let Target::Forward(backends) = &route.target else { panic!("not forwarded") };
        let ticket = Ticket::new(&backends[0].endpoints[0], None);
        let id = ticket.endpoint().id.clone();

        let second = compiler.compile(&table(2, sites, &["local/a.web.r1.1.1"]));
        let Lookup::Route(route) = second.lookup("a", "/") else { panic!("no route") };
        let Target::Forward(after) = &route.target else { panic!("not forwarded") };
        assert!(Arc::ptr_eq(&after[0].endpoints[0], &backends[0].endpoints[1]));
        assert_eq!(compiler.outstanding(), BTreeMap::from([(id, 1)]));
        drop(ticket);
        assert_eq!(compiler.outstanding(), BTreeMap::new());
        assert_eq!(compiler.endpoints.len(), 1);
    }

    #[test]
    fn series_are_forgotten_with_the_last_who_counts_in_them() {
        let mut compiler = Compiler::default();
        let of = |generation: u64, release: u32| {
            let mut table = table(generation, &[("a", &["/"])], &[]);
            for rule in table.sites.values_mut().flat_map(|site| &mut Arc::make_mut(site).rules) {
                let Action::Forward { splits, .. } = &mut rule.action else { panic!("it forwards") };
                splits[0].pool.release = ReleaseNumber(release);
            }
            table
        };
        let first = compiler.compile(&of(1, 1));
        let Lookup::Route(route) = first.lookup("a", "/") else { panic!("no route") };
        let (under_way, labels) = (Arc::clone(route), route.backends().unwrap()[0].labels);
        drop(first);
        compiler.compile(&of(2, 2));
        assert_eq!(compiler.take_unused(), [], "a request of it is under way");
        drop(under_way);
        let unused = compiler.take_unused();
        assert_eq!(unused, [labels]);
        // Until it is reported, it is known.
        assert!(compiler.labels(labels).is_some());
        compiler.compile(&of(3, 1));
        compiler.forget(unused);
        assert!(compiler.labels(labels).is_some(), "it is led to again");
        for generation in 4..100 {
            compiler.compile(&of(generation, u32::try_from(generation).unwrap()));
            let unused = compiler.take_unused();
            compiler.forget(unused);
            assert_eq!((compiler.by_id.len(), compiler.labels.len()), (2, 2), "its own, and the release's");
        }
    }

    #[test]
    fn only_hosts_that_changed_are_compiled_again() {
        let mut compiler = Compiler::default();
        let first = compiler.compile(&table(1, &[("a", &["/"]), ("b", &["/"])], &["local/a.web.r1.0.1"]));
        let second = compiler.compile(&table(2, &[("a", &["/"]), ("b", &["/x"])], &["local/a.web.r1.0.1"]));
        assert!(Arc::ptr_eq(first.host("a").unwrap(), second.host("a").unwrap()));
        assert!(!Arc::ptr_eq(first.host("b").unwrap(), second.host("b").unwrap()));
        let third = compiler.compile(&table(3, &[("a", &["/"])], &[]));
        assert!(!Arc::ptr_eq(second.host("a").unwrap(), third.host("a").unwrap()));
    }

    /// A rule: its path, the releases it leads to, whether it is judged, its flow, whether it is limited.
    type Drawn = (usize, Vec<u32>, bool, usize, bool);

    const NAMES: [&str; 6] = ["a.org", "b.org", "*.b.org", "c.org", "*.c.org", "api.org"];

    fn drawn_rule((path, releases, judged, flow, limited): &Drawn) -> Rule {
        let mut rule = rule(["/", "/x", "/x/y"][*path]);
        rule.id.route = RouteName::new(["main", "other", "third"][*path]).unwrap();
        let pool = |release: &u32| PoolId { release: ReleaseNumber(*release), ..pool_id() };
        rule.action = Action::Forward {
            service: ServiceName::new("web").unwrap(),
            splits: releases.iter().map(|of| Split { pool: pool(of), weight: Weight::ALL }).collect(),
            judged: *judged,
            flow: [Flow::Uncounted, Flow::Counted, Flow::Held][*flow],
        };
        let limit = RateLimit { rate: Rate { count: 5, per: Duration::from_secs(1) }, by: RateBy::Client };
        rule.policies.rate = limited.then_some(limit);
        rule
    }

    /// Few names, releases and instances, so that two tables have much in common and much not.
    fn drawn() -> impl Strategy<Value = Table> {
        let rules = prop::collection::vec(
            (0_usize..3, prop::collection::vec(0_u32..3, 0..3), any::<bool>(), 0_usize..3, any::<bool>()),
            0..3,
        );
        let sites = prop::collection::btree_map(0..NAMES.len(), (any::<bool>(), rules), 0..5);
        let pools = prop::collection::btree_map(0_u32..3, prop::collection::btree_map(0_u16..3, 1_u16..3, 0..3), 0..3);
        let few = (prop::collection::btree_set((0_u32..3, 0_u16..3), 0..2), prop::option::of(0..NAMES.len()));
        (sites, pools, few).prop_map(|(sites, pools, (leaving, api))| {
            let name = |at: usize| HostName::new(NAMES[at]).unwrap();
            let instance = |release, slot| format!("local/a.web.r{release}.{slot}.1").parse().unwrap();
            let site = |(at, (secure, rules)): (usize, (bool, Vec<Drawn>))| {
                let tls = if secure { SiteTls::Both } else { SiteTls::Off };
                (name(at), Arc::new(Site { tls, rules: rules.iter().map(drawn_rule).collect() }))
            };
            let pool = |(release, instances): (u32, BTreeMap<u16, u16>)| {
                let endpoints =
                    instances.iter().map(|(slot, port)| (instance(release, *slot), ([127, 0, 0, 1], *port).into()));
                let pool = Pool { endpoints: endpoints.collect(), ..Pool::default() };
                (PoolId { release: ReleaseNumber(release), ..pool_id() }, Arc::new(pool))
            };
            Table {
                sites: sites.into_iter().map(site).collect(),
                pools: pools.into_iter().map(pool).collect(),
                leaving: leaving.into_iter().map(|(release, slot)| instance(release, slot)).collect(),
                api: api.map(|at| Arc::new(ApiSite { host: name(at), socket: "/run/api.sock".into() })),
                ..Table::default()
            }
        })
    }

    /// All that workers look up.
    fn picture(routes: &Routes) -> String {
        let mut text = format!("{:?} {}\n", routes.generation, routes.leaving);
        for name in NAMES.into_iter().map(|name| name.replace('*', "any")) {
            let Some(host) = routes.host(&name) else { continue };
            writeln!(text, "{name} {}", host.https).unwrap();
            for route in &host.rules {
                let guard = route.guard.is_some();
                writeln!(text, "  {} {guard} {} {}", route.prefix, route.counting.is_some(), route.log).unwrap();
                for backend in route.backends().into_iter().flatten() {
                    let endpoints: Vec<_> =
                        backend.endpoints.iter().map(|one| (one.id.to_string(), one.address)).collect();
                    writeln!(text, "    {} {} {endpoints:?}", backend.release, backend.judged).unwrap();
                }
            }
        }
        text
    }

    proptest! {
        #[test]
        fn what_is_made_by_changes_is_what_is_made_of_the_whole(tables in prop::collection::vec(drawn(), 1..6)) {
            let (mut compiler, mut pools) = (Compiler::default(), BTreeMap::new());
            for (generation, table) in (1..).zip(tables) {
                let table = Table { generation: Generation(generation), ..table };
                let mut fresh = Compiler::default();
                let (one, other) = (compiler.compile(&table), fresh.compile(&table));
                prop_assert_eq!(picture(&one), picture(&other));
                prop_assert_eq!(&compiler.table, &table);
                prop_assert_eq!(&compiler.uses, &fresh.uses);
                prop_assert!(compiler.limiters.keys().eq(fresh.limiters.keys()));
                for (id, endpoint) in &compiler.endpoints {
                    prop_assert_eq!(endpoint.has_left(), !fresh.endpoints.contains_key(id));
                    prop_assert_eq!(endpoint.is_leaving(), table.leaving.contains(id));
                }
                for (id, instances) in compiler.take_changed() {
                    match instances {
                        Some(instances) => drop(pools.insert(id, instances)),
                        None => drop(pools.remove(&id)),
                    }
                }
                let all = fresh.take_changed().into_iter().filter_map(|(id, instances)| Some((id, instances?)));
                prop_assert_eq!(&pools, &all.collect::<BTreeMap<_, _>>());
            }
        }
    }
}
