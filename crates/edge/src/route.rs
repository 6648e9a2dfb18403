//! The table as a worker looks it up: compiled once, where it arrives; only hosts that changed are compiled again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{BodyLimit, HostName, PathPrefix, PlainHttp};
use bowline_core::id::{AppKey, Generation, InstanceId, ReleaseNumber, ServiceName};
use bowline_core::resource::data::MAX_ARCHIVE;
use bowline_core::route::{
    Action, ApiSite, CHALLENGE_PATH, Challenge, Cohort, Flow, Pool, PoolId, RateLimit, Rule, RuleId, Site, SiteTls,
    Split, Table,
};
use bowline_core::units::{Bytes, Weight};
use tokio::sync::Notify;

use crate::balance::Endpoint;
use crate::files::Folder;
use crate::places::Places;
use crate::policy::{Guard, Limiter, Networks};

/// How long the daemon may take, and say nothing: logs and changes are followed, and jobs waited for. It ends by itself what it does
/// not want to go on, and a request without a token at once.
const API_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long whoever asks the daemon may leave what it says unread.
const API_READING: Duration = Duration::from_secs(30);

/// The same for whom it has let in: a person who scrolls back in a log. The daemon gives as long.
pub(crate) const API_RESTING: Duration = Duration::from_secs(10 * 60);

/// What fills a volume is the largest that the daemon takes. It bounds each by itself, and by what there is room for.
const API_BODY: BodyLimit = BodyLimit(Bytes(MAX_ARCHIVE));

/// A whole table. Shared by the workers, never changed.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) generation: Option<Generation>,
    exact: HashMap<Box<str>, Arc<Host>>,
    /// `*.example.com` under `example.com`.
    wildcard: HashMap<Box<str>, Arc<Host>>,
    pub(crate) trusted: Arc<Networks>,
    /// Connections of `trusted` begin with a PROXY header.
    pub(crate) proxied: bool,
    /// By host, the token that an authority asks for over plain HTTP, and the answer.
    challenges: HashMap<Box<str>, (Box<str>, Arc<str>)>,
    /// An instance is drained.
    leaving: bool,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) https: bool,
    rules: Vec<Arc<Route>>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) prefix: PathPrefix,
    pub(crate) strip: bool,
    pub(crate) target: Target,
    /// What does not come over HTTPS is sent there.
    pub(crate) https_only: bool,
    /// Answers are compressed for whoever takes it.
    pub(crate) compress: bool,
    /// `Strict-Transport-Security` of its answers.
    pub(crate) hsts: Option<String>,
    /// `None`: everyone gets in.
    pub(crate) guard: Option<Box<Guard>>,
    pub(crate) body: BodyLimit,
    pub(crate) timeout: Duration,
    pub(crate) idle: Duration,
    /// How long a client may read nothing of an answer that waits for it, whatever else moves.
    pub(crate) reading: Duration,
    /// `None`: the number of instances behind it does not change with the load.
    pub(crate) counting: Option<Counting>,
    /// The series of what has no release: redirects, refusals. `None`: of no app.
    pub(crate) labels: Option<LabelId>,
    /// `"app":"…","env":"…","route":"…"` for the access log.
    pub(crate) log: String,
}

impl Route {
    /// One of those that it is forwarded to, by its position.
    pub(crate) fn backend(&self, position: Option<usize>) -> Option<&Backend> {
        self.backends()?.get(position?)
    }

    /// `None`: it is not forwarded to instances.
    pub(crate) fn backends(&self) -> Option<&[Backend]> {
        match &self.target {
            Target::Forward(backends) => Some(backends),
            Target::Files { .. } | Target::Redirect(_) | Target::Deny | Target::Api { .. } => None,
        }
    }

    /// What finds no instance is held.
    pub(crate) fn holds(&self) -> bool {
        self.counting.as_ref().is_some_and(|counting| counting.held)
    }

    fn is_guarded(&self) -> bool {
        self.guard.is_some() || matches!(self.target, Target::Deny)
    }
}

/// How requests for a service are counted whose number of instances changes with the load.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) labels: LabelId,
    /// What finds no instance is held.
    pub(crate) held: bool,
    /// Told when somebody waits.
    pub(crate) news: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) enum Target {
    Forward(Vec<Backend>),
    Files {
        folder: Folder,
        release: ReleaseNumber,
        labels: LabelId,
        log: String,
    },
    Redirect(String),
    Deny,
    /// The daemon, on this socket.
    Api {
        socket: PathBuf,
        places: Arc<Places>,
    },
}

/// The instances of one release.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) weight: u8,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// The number, as `x-bowline-release` says it.
    pub(crate) release: String,
    pub(crate) cohort: Cohort,
    /// A rollout goes by what it answers.
    pub(crate) judged: bool,
    pub(crate) labels: LabelId,
    /// `"service":"…","release":N` for the access log.
    pub(crate) log: String,
}

impl Backend {
    /// Whether it has an endpoint that is none of these.
    pub(crate) fn has_untried(&self, tried: &[u32]) -> bool {
        self.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.serial))
    }
}

#[cfg(test)]
impl Backend {
    pub(crate) fn for_test(release: ReleaseNumber, weight: u8, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let (cohort, judged) = (Cohort::Whole, false);
        Self { weight, endpoints, release: release.to_string(), cohort, judged, labels: LabelId(0), log: String::new() }
    }
}

/// What a lookup found.
#[derive(Debug)]
pub(crate) enum Lookup<'r> {
    NoHost,
    /// The host is known, but no rule matches the path.
    NoRule,
    Route(&'r Arc<Route>),
}

impl Routes {
    /// The first rule that matches, a guarded one also where an app may take the path for one of its own: no spelling
    /// leads past it. `host`: lower case, without port and trailing dot. `path`: canonical.
    pub(crate) fn lookup(&self, host: &str, path: &str) -> Lookup<'_> {
        let Some(host) = self.host(host) else { return Lookup::NoHost };
        let applies = |rule: &&Arc<Route>| match rule.is_guarded() {
            true => rule.prefix.covers(path),
            false => rule.prefix.matches(path),
        };
        host.rules.iter().find(applies).map_or(Lookup::NoRule, Lookup::Route)
    }

    /// An exact name before a wildcard.
    pub(crate) fn host(&self, name: &str) -> Option<&Arc<Host>> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// What an authority is answered that asks whether this host leads here.
    pub(crate) fn challenge(&self, host: &str, path: &str) -> Option<&Arc<str>> {
        if self.challenges.is_empty() {
            return None;
        }
        let asked = path.strip_prefix(CHALLENGE_PATH)?;
        self.challenges.get(host).filter(|(token, _)| **token == *asked).map(|(_, answer)| answer)
    }

    pub(crate) fn has_leaving(&self) -> bool {
        self.leaving
    }

    /// No table was given yet.
    pub(crate) fn is_initial(&self) -> bool {
        self.generation.is_none()
    }
}

/// Stands for the labels of a series but method and status; see [`Labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LabelId(pub(crate) u32);

/// The labels of a series that a route determines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Labels {
    pub(crate) key: AppKey,
    pub(crate) service: Option<ServiceName>,
    pub(crate) release: Option<ReleaseNumber>,
    pub(crate) cohort: Cohort,
    pub(crate) prefix: PathPrefix,
}

impl Labels {
    /// `None`: what no pool answered.
    pub(crate) fn pool(&self) -> Option<PoolId> {
        let (service, release) = (self.service.clone()?, self.release?);
        Some(PoolId { key: self.key.clone(), service, release, cohort: self.cohort })
    }
}

/// Turns tables into [`Routes`], keeping what did not change: endpoints with their counts, labels, hosts.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    table: Arc<Table>,
    routes: Arc<Routes>,
    endpoints: BTreeMap<InstanceId, Arc<Endpoint>>,
    last_serial: u32,
    labels: BTreeMap<Arc<Labels>, LabelId>,
    by_id: Vec<Arc<Labels>>,
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
        Self { by_id: vec![Arc::new(labels)], ..Self::default() }
    }

    pub(crate) fn generation(&self) -> Option<Generation> {
        self.routes.generation
    }

    /// Told when an instance that left the table has nothing outstanding any more.
    pub(crate) fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.drained)
    }

    pub(crate) fn labels(&self, id: LabelId) -> &Labels {
        &self.by_id[id.0 as usize]
    }

    /// The pools whose requests a rollout goes by.
    pub(crate) fn judged(&self) -> BTreeSet<&PoolId> {
        let rules = self.table.sites.values().flat_map(|site| &site.rules);
        let splits = rules.filter_map(|rule| match &rule.action {
            Action::Forward { splits, judged: true, .. } => Some(splits),
            Action::Forward { .. } | Action::Files(_) | Action::Redirect(_) | Action::Deny => None,
        });
        splits.flatten().map(|split| &split.pool).collect()
    }

    /// The services whose requests are counted.
    pub(crate) fn counted(&self) -> BTreeSet<(AppKey, ServiceName)> {
        let rules = self.table.sites.values().flat_map(|site| &site.rules);
        let counted = rules.filter_map(|rule| match &rule.action {
            Action::Forward { flow: Flow::Uncounted, .. } | Action::Files(_) | Action::Redirect(_) | Action::Deny => {
                None
            }
            Action::Forward { service, .. } => Some((rule.id.key.clone(), service.clone())),
        });
        counted.collect()
    }

    /// What is outstanding, by instance. Instances that left and have nothing outstanding are forgotten.
    pub(crate) fn outstanding(&mut self) -> BTreeMap<InstanceId, u32> {
        self.endpoints.retain(|_, endpoint| !endpoint.has_left() || endpoint.outstanding() > 0);
        let busy = self.endpoints.values().filter(|endpoint| endpoint.outstanding() > 0);
        busy.map(|endpoint| (endpoint.id.clone(), endpoint.outstanding())).collect()
    }

    /// The instances that answer instead of each other: those of a pool, and where no rollout goes by what each release answers,
    /// those of all releases with a share. Of a rolling release one alone may be all that there is of a pool.
    pub(crate) fn pools(&self) -> BTreeMap<PoolId, BTreeSet<InstanceId>> {
        let mut names = BTreeMap::new();
        for rule in self.table.sites.values().flat_map(|site| &site.rules) {
            let Action::Forward { splits, judged: false, .. } = &rule.action else { continue };
            let with_share = splits.iter().filter(|split| split.weight > Weight::default()).map(|split| &split.pool);
            let name = with_share.clone().next();
            names.extend(with_share.zip(name.into_iter().cycle()));
        }
        let mut pools = BTreeMap::<PoolId, BTreeSet<InstanceId>>::new();
        for (id, pool) in &self.table.pools {
            let name = names.get(id).copied().unwrap_or(id);
            pools.entry(name.clone()).or_default().extend(pool.endpoints.keys().cloned());
        }
        pools
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

    pub(crate) fn compile(&mut self, table: Arc<Table>) -> Arc<Routes> {
        self.take_endpoints(&table);
        let previous = Arc::clone(&self.routes);
        let trusted = Arc::new(Networks::new(&table.trusted_proxies));
        let leaving = !table.leaving.is_empty();
        let (generation, proxied) = (Some(table.generation), table.proxy_protocol);
        let mut routes = Routes { generation, trusted, proxied, leaving, ..Routes::default() };
        for (name, site) in &table.sites {
            let host = self.unchanged(&table, name, site, &previous).unwrap_or_else(|| self.host(&table, site));
            match name.as_str().strip_prefix("*.") {
                Some(rest) => routes.wildcard.insert(rest.into(), host),
                None => routes.exact.insert(name.as_str().into(), host),
            };
        }
        routes.challenges = challenges(&table);
        if let Some(site) = &table.api {
            routes.exact.insert(site.host.as_str().into(), self.api(site));
        }
        let rules = || table.sites.values().flat_map(|site| &site.rules);
        self.limiters.retain(|id, _| rules().any(|rule| rule.id == *id && rule.policies.rate.is_some()));
        self.table = table;
        self.routes = Arc::new(routes);
        Arc::clone(&self.routes)
    }

    /// Every instance of the table gets its endpoint, the one it had if its address is the same.
    fn take_endpoints(&mut self, table: &Table) {
        let of =
            |pool: &Pool| pool.endpoints.iter().map(|(id, at)| (id.clone(), (*at, pool.protocol))).collect::<Vec<_>>();
        let listed: BTreeMap<_, _> = table.pools.values().flat_map(of).collect();
        for endpoint in self.endpoints.values() {
            endpoint.set_left(!listed.contains_key(&endpoint.id));
            endpoint.set_leaving(table.leaving.contains(&endpoint.id));
        }
        for (id, at) in listed {
            if self.endpoints.get(&id).is_some_and(|endpoint| (endpoint.address, endpoint.protocol) == at) {
                continue;
            }
            self.last_serial += 1;
            let endpoint = Endpoint::new(id.clone(), self.last_serial, at, Arc::clone(&self.drained));
            self.endpoints.insert(id, Arc::new(endpoint));
        }
    }

    fn unchanged(&self, table: &Table, name: &HostName, site: &Site, routes: &Routes) -> Option<Arc<Host>> {
        let same_pools = || {
            site.rules.iter().all(|rule| match &rule.action {
                Action::Forward { splits, .. } => {
                    splits.iter().all(|split| self.table.pools.get(&split.pool) == table.pools.get(&split.pool))
                }
                Action::Files(_) | Action::Redirect(_) | Action::Deny => true,
            })
        };
        let same = self.table.sites.get(name) == Some(site) && same_pools();
        let compiled = match name.as_str().strip_prefix("*.") {
            Some(rest) => routes.wildcard.get(rest),
            None => routes.exact.get(name.as_str()),
        };
        if same { compiled.cloned() } else { None }
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
                folder: Folder::new(files),
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
            labels: Some(self.label(rule, None)),
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
        let pool = table.pools.get(&split.pool).unwrap_or(&empty);
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
        let id = LabelId(u32::try_from(self.by_id.len()).expect("fewer than four billion series in one process"));
        let labels = Arc::new(labels);
        self.by_id.push(Arc::clone(&labels));
        self.labels.insert(labels, id);
        id
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
    use bowline_core::id::{AppName, EnvName, RouteName};
    use bowline_core::route::{Policies, Transfer};
    use bowline_core::units::{Bytes, Weight};

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

    fn table(generation: u64, sites: &[(&str, &[&str])], instances: &[&str]) -> Arc<Table> {
        let site = |prefixes: &[&str]| Site { tls: SiteTls::Both, rules: prefixes.iter().map(|p| rule(p)).collect() };
        let endpoints = instances.iter().map(|id| (id.parse().unwrap(), "127.0.0.1:9".parse().unwrap()));
        Arc::new(Table {
            generation: Generation(generation),
            sites: sites.iter().map(|(name, rules)| (HostName::new(name).unwrap(), site(rules))).collect(),
            pools: BTreeMap::from([(pool_id(), Pool { endpoints: endpoints.collect(), ..Pool::default() })]),
            leaving: [].into(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            api: None,
            challenges: BTreeMap::new(),
        })
    }

    #[test]
    fn releases_that_share_a_route_answer_for_each_other_where_none_is_judged() {
        let check = |weights: [u8; 2], judged: bool, expected: &[usize]| {
            let mut one = Table::clone(&table(1, &[("a.x.org", &["/"])], &["local/a.web.r1.0.1"]));
            let next = PoolId { release: ReleaseNumber(2), ..pool_id() };
            let endpoints = ["local/a.web.r2.0.1", "local/a.web.r2.1.1"];
            let endpoints = endpoints.map(|id| (id.parse().unwrap(), "127.0.0.1:9".parse().unwrap()));
            one.pools.insert(next.clone(), Pool { endpoints: endpoints.into(), ..Pool::default() });
            let weights = weights.map(|weight| Weight::new(weight).unwrap());
            let shares = [pool_id(), next].into_iter().zip(weights).map(|(pool, weight)| Split { pool, weight });
            for rule in one.sites.values_mut().flat_map(|site| &mut site.rules) {
                let Action::Forward { splits, judged: is_judged, .. } = &mut rule.action else { panic!("it forwards") };
                (*splits, *is_judged) = (shares.clone().collect(), judged);
            }
            let mut compiler = Compiler::default();
            compiler.compile(Arc::new(one));
            let sizes: Vec<usize> = compiler.pools().values().map(BTreeSet::len).collect();
            assert_eq!(sizes, expected);
        };
        check([33, 67], false, &[3]);
        check([33, 67], true, &[1, 2]);
        check([0, 100], false, &[1, 2]);
    }

    #[test]
    fn an_exact_host_wins_over_a_wildcard_and_the_first_rule_that_matches_is_taken() {
        let sites: &[(&str, &[&str])] = &[("*.x.org", &["/"]), ("a.x.org", &["/api/v1", "/api"])];
        let routes = Compiler::default().compile(table(1, sites, &[]));
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
        let first = compiler.compile(table(1, sites, &["local/a.web.r1.0.1", "local/a.web.r1.1.1"]));
        let Lookup::Route(route) = first.lookup("a", "/") else { panic!("no route") };
        let Target::Forward(backends) = &route.target else { panic!("not forwarded") };
        let ticket = Ticket::new(&backends[0].endpoints[0], None);
        let id = ticket.endpoint().id.clone();

        let second = compiler.compile(table(2, sites, &["local/a.web.r1.1.1"]));
        let Lookup::Route(route) = second.lookup("a", "/") else { panic!("no route") };
        let Target::Forward(after) = &route.target else { panic!("not forwarded") };
        assert!(Arc::ptr_eq(&after[0].endpoints[0], &backends[0].endpoints[1]));
        assert_eq!(compiler.outstanding(), BTreeMap::from([(id, 1)]));
        drop(ticket);
        assert_eq!(compiler.outstanding(), BTreeMap::new());
        assert_eq!(compiler.endpoints.len(), 1);
    }

    #[test]
    fn only_hosts_that_changed_are_compiled_again() {
        let mut compiler = Compiler::default();
        let first = compiler.compile(table(1, &[("a", &["/"]), ("b", &["/"])], &["local/a.web.r1.0.1"]));
        let second = compiler.compile(table(2, &[("a", &["/"]), ("b", &["/x"])], &["local/a.web.r1.0.1"]));
        assert!(Arc::ptr_eq(first.host("a").unwrap(), second.host("a").unwrap()));
        assert!(!Arc::ptr_eq(first.host("b").unwrap(), second.host("b").unwrap()));
        let third = compiler.compile(table(3, &[("a", &["/"])], &[]));
        assert!(!Arc::ptr_eq(second.host("a").unwrap(), third.host("a").unwrap()));
    }
}
