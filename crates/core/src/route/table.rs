//! The table that an edge serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::claim::routed;
use super::policy::Policies;
use crate::app::{App, BodyLimit, HostName, Hsts, PathPrefix, PlainHttp, Protocol};
use crate::id::{AppKey, Generation, InstanceId, ReleaseNumber, RouteName, ServiceName};
use crate::secret::Secret;
use crate::units::{Share, Weight};

/// Which proxy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EdgeEngine {
    /// Bowline's own edge.
    #[default]
    Bowline,
    /// A real Envoy, told over xDS.
    Envoy,
}

impl EdgeEngine {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bowline => "bowline",
            Self::Envoy => "envoy",
        }
    }
}

/// All that an edge should serve. An edge refuses a lower generation than it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgeDesired {
    pub table: Arc<Table>,
    pub certificates: Arc<Certificates>,
}

/// By host, exact or wildcard (`*.example.com`).
pub type Certificates = BTreeMap<HostName, Arc<Certificate>>;

/// A chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub chain: String,
    pub key: Secret,
}

/// Sites and pools are shared with the tables before it as far as they are the same: see [`Table::sharing`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    pub generation: Generation,
    pub sites: BTreeMap<HostName, Arc<Site>>,
    /// The endpoints that may get new requests. An instance that is drained is not listed; an edge keeps its
    /// outstanding count until it is zero.
    pub pools: BTreeMap<PoolId, Arc<Pool>>,
    /// Instances that are drained, in no pool any more and never again: WebSockets to them are told, since they have no end
    /// of their own that could be waited for.
    pub leaving: BTreeSet<InstanceId>,
    /// Whose `X-Forwarded-*` and `Forwarded` are believed. Counts for connections that are opened from then on.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Connections of theirs begin with a PROXY header, which says whose they are; counts as `trusted_proxies` does.
    pub proxy_protocol: bool,
    /// `None`: the daemon's API is not reached through the edge.
    pub api: Option<Arc<ApiSite>>,
    /// What authorities are answered that ask whether a name leads here, whatever the sites say.
    pub challenges: BTreeMap<HostName, Challenge>,
    /// Of the traces that begin at the edge, those that are recorded; it is a span of each. `None`: it is a span of none, and passes on what
    /// it is told of them.
    pub sample: Option<Share>,
}

/// How a name is proven to an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Plain HTTP, `/.well-known/acme-challenge/TOKEN`: this is the answer. Both are of the alphabet of base64url, the answer with a
    /// dot (RFC 8555, 8.1 and 8.3).
    Http { token: String, answer: String },
    /// A handshake that offers `acme-tls/1` alone (RFC 8737).
    Tls(Certificate),
}

/// Where an authority asks for [`Challenge::Http`].
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// The host on which an edge leads to the daemon's API, whatever the sites say. Over TLS only: requests carry tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSite {
    pub host: HostName,
    /// The Unix socket on which the daemon answers whoever has a token.
    pub socket: PathBuf,
}

/// The field in which the edge tells the daemon who asks, one address: it knows which proxies are believed. What a client says in it
/// goes nowhere.
pub const CLIENT_FIELD: &str = "bowline-client";

impl Table {
    /// The instances of these releases stay known to which the routes of `app` have led, though no rule leads to them any more. A service
    /// that was shared between two releases has some of both.
    pub fn keep(&mut self, key: &AppKey, app: &App, releases: [ReleaseNumber; 2], endpoints: &BTreeMap<PoolId, Pool>) {
        for service in routed(app) {
            for release in releases {
                for cohort in [Cohort::Whole, Cohort::Baseline] {
                    let id = PoolId { key: key.clone(), service: service.clone(), release, cohort };
                    self.keep_pool(&id, endpoints);
                }
            }
        }
    }

    /// The instances of a pool stay known, if there are any.
    pub fn keep_pool(&mut self, id: &PoolId, endpoints: &BTreeMap<PoolId, Pool>) {
        if let Some(pool) = endpoints.get(id).filter(|pool| !pool.endpoints.is_empty()) {
            self.pools.entry(id.clone()).or_insert_with(|| Arc::new(pool.clone()));
        }
    }

    /// The same table, in which each site and pool that the one before has as well is that one's: what has changed is then found
    /// without reading what has not.
    #[must_use]
    pub fn sharing(mut self, before: &Self) -> Self {
        share(&mut self.sites, &before.sites);
        share(&mut self.pools, &before.pools);
        self
    }
}

fn share<K: Ord, V: Eq>(all: &mut BTreeMap<K, Arc<V>>, before: &BTreeMap<K, Arc<V>>) {
    let mut before = before.iter().peekable();
    for (key, value) in all {
        while before.next_if(|(other, _)| *other < key).is_some() {}
        if let Some((_, other)) = before.next_if(|(other, _)| *other == key).filter(|(_, other)| *other == value) {
            *value = Arc::clone(other);
        }
    }
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub tls: SiteTls,
    /// The first that matches wins: sorted by falling length of the prefix.
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteTls {
    /// Served on the HTTPS listener, and on the HTTP listener too.
    Both,
    /// Only on the HTTP listener.
    Off,
}

/// Names a route of an app in metrics and logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId {
    pub key: AppKey,
    pub route: RouteName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub id: RuleId,
    pub prefix: PathPrefix,
    /// Remove the prefix before forwarding.
    pub strip: bool,
    pub action: Action,
    pub policies: Policies,
    pub body: BodyLimit,
    /// From the last byte of the request to the first of the response.
    pub timeout: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    pub transfer: Transfer,
}

/// How answers get to clients, whatever the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transfer {
    pub http: PlainHttp,
    /// Said over HTTPS only. `None`: browsers are told nothing.
    pub hsts: Option<Hsts>,
    /// Text is compressed for clients that take it.
    pub compress: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Weights sum to 100. Empty only while a service has no release: 503 with `Retry-After`.
    Forward {
        service: ServiceName,
        splits: Vec<Split>,
        /// A rollout goes by its requests: an edge counts them by pool, too, and keeps whoever had an answer of one pool there,
        /// as long as that pool has a weight.
        judged: bool,
        flow: Flow,
    },
    Files(Files),
    /// 308 to this URL, path and query appended.
    Redirect(String),
    /// 403.
    Deny,
}

impl Site {
    /// The pools that its rules lead to; one may come more than once.
    pub fn pools(&self) -> impl Iterator<Item = &PoolId> {
        self.rules.iter().flat_map(|rule| rule.action.splits()).map(|split| &split.pool)
    }
}

impl Action {
    /// Empty where it does not forward, too.
    pub fn splits(&self) -> &[Split] {
        match self {
            Self::Forward { splits, .. } => splits,
            Self::Files(_) | Self::Redirect(_) | Self::Deny => &[],
        }
    }
}

/// What an edge does for the scaling of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Flow {
    /// Nothing: the number of its instances does not change with the load.
    #[default]
    Uncounted,
    /// It counts the time that requests are in flight.
    Counted,
    /// Also, requests that find no instance are held for a while: one is started for them.
    Held,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub pool: PoolId,
    pub weight: Weight,
}

/// The instances of one release of one service that get the same share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    pub key: AppKey,
    pub service: ServiceName,
    pub release: ReleaseNumber,
    pub cohort: Cohort,
}

/// What instances of a release are there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Cohort {
    #[default]
    Whole,
    /// Fresh instances of the stable release beside a canary, with its weight: what it is compared with is as warm as it is.
    Baseline,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    /// What they speak, all of them: they are of one release.
    pub protocol: Protocol,
    pub endpoints: BTreeMap<InstanceId, SocketAddr>,
}

/// A folder that the edge serves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub service: ServiceName,
    pub release: ReleaseNumber,
    /// Absolute, readable by the edge's user.
    pub root: PathBuf,
    pub fallback: Option<String>,
    pub cache: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sample;
    use crate::id::Generation;

    #[test]
    fn what_the_routes_before_led_to_stays_known_and_what_the_table_says_holds() {
        let (app, key) = (sample::app("shop", &["web", "worker"]), sample::key("local", "shop"));
        let id = |release, cohort| {
            let service = ServiceName::new("web").unwrap();
            PoolId { key: key.clone(), service, release: ReleaseNumber(release), cohort }
        };
        let at = "127.0.0.1:9000".parse().unwrap();
        let instance = "local/shop.web.r1.0.1".parse().unwrap();
        let pool = Pool { endpoints: [(instance, at)].into(), ..Pool::default() };
        let all = [(1, Cohort::Whole), (1, Cohort::Baseline), (2, Cohort::Whole)].map(|(of, cohort)| id(of, cohort));
        let mut endpoints: BTreeMap<PoolId, Pool> = all.iter().map(|id| (id.clone(), pool.clone())).collect();
        endpoints.insert(id(2, Cohort::Baseline), Pool::default());
        let told = Arc::new(Pool::default());
        let mut table = Table { generation: Generation(1), ..Table::default() };
        table.pools.insert(all[2].clone(), Arc::clone(&told));
        table.keep(&key, &app, [ReleaseNumber(1), ReleaseNumber(2)], &endpoints);
        assert_eq!(table.pools.keys().cloned().collect::<BTreeSet<_>>(), all.iter().cloned().collect());
        assert!(Arc::ptr_eq(&table.pools[&all[2]], &told));
    }
}
