//! The wire form of a desired state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{BodyLimit, HostName, PathPrefix, Protocol};
use bowline_core::id::{AppKey, AppName, EnvName, Generation, InstanceId, ReleaseNumber, RouteName, ServiceName};
use bowline_core::route::{
    Action, ApiSite, Certificate, Challenge, Cohort, EdgeDesired, Files, Flow, Pool, PoolId, Rule, RuleId, Site,
    SiteTls, Split, Table,
};
use bowline_core::secret::Secret;
use bowline_core::units::{Bytes, Share, Weight};
use serde::{Deserialize, Serialize};

use super::policy::{PoliciesFrame, TransferFrame, networks, parse_networks};

/// Why a frame is not a table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("{what} {text:?} is not valid")]
    Text { what: &'static str, text: String },
    #[error("a rule refers to pool {0}, which is not listed")]
    Pool(usize),
    #[error("a weight of {0} is more than 100")]
    Weight(u8),
    #[error("a rate of nothing lets nobody in")]
    Rate,
    #[error("a share of {0} in a million is more than all")]
    Sample(u32),
}

/// A whole [`EdgeDesired`]. Pools are referred to by their position.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DesiredFrame {
    pub generation: u64,
    sites: Vec<SiteFrame>,
    pools: Vec<PoolFrame>,
    certificates: Vec<CertificateFrame>,
    trusted_proxies: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    proxy_protocol: bool,
    /// A daemon of an earlier version says nothing of them.
    #[serde(default)]
    leaving: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api: Option<ApiFrame>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    challenges: Vec<ChallengeFrame>,
    /// In parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sample: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChallengeFrame {
    Http { host: String, token: String, answer: String },
    Tls(CertificateFrame),
}

#[derive(Debug, Serialize, Deserialize)]
struct ApiFrame {
    host: String,
    socket: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct SiteFrame {
    host: String,
    https: bool,
    rules: Vec<RuleFrame>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleFrame {
    env: String,
    app: String,
    route: String,
    prefix: String,
    strip: bool,
    action: ActionFrame,
    policies: PoliciesFrame,
    body: u64,
    timeout_ms: u64,
    idle_ms: u64,
    /// A daemon of an earlier version says nothing of it.
    #[serde(default)]
    transfer: TransferFrame,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionFrame {
    Forward {
        service: String,
        splits: Vec<(usize, u8)>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        judged: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        counted: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        held: bool,
    },
    Files {
        service: String,
        release: u32,
        root: PathBuf,
        fallback: Option<String>,
        cache_ms: u64,
    },
    Redirect(String),
    Deny,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PoolFrame {
    env: String,
    app: String,
    service: String,
    release: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    baseline: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    h2c: bool,
    endpoints: BTreeMap<String, SocketAddr>,
}

#[derive(Serialize, Deserialize)]
struct CertificateFrame {
    host: String,
    chain: String,
    key: String,
}

impl std::fmt::Debug for CertificateFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateFrame").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Drop for CertificateFrame {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&EdgeDesired> for DesiredFrame {
    fn from(desired: &EdgeDesired) -> Self {
        let table = &desired.table;
        let positions: BTreeMap<&PoolId, usize> = table.pools.keys().enumerate().map(|(i, id)| (id, i)).collect();
        let certificates =
            desired.certificates.iter().map(|(host, certificate)| CertificateFrame::from(host, certificate));
        Self {
            generation: table.generation.0,
            sites: table.sites.iter().map(|(host, site)| SiteFrame::from(host, site, &positions)).collect(),
            pools: table.pools.iter().map(|(id, pool)| PoolFrame::from(id, pool)).collect(),
            certificates: certificates.collect(),
            trusted_proxies: networks(&table.trusted_proxies),
            proxy_protocol: table.proxy_protocol,
            leaving: table.leaving.iter().map(ToString::to_string).collect(),
            api: table.api.as_ref().map(|api| ApiFrame { host: api.host.to_string(), socket: api.socket.clone() }),
            challenges: table
                .challenges
                .iter()
                .map(|(host, challenge)| ChallengeFrame::from(host, challenge))
                .collect(),
            sample: table.sample.map(Share::ppm),
        }
    }
}

impl CertificateFrame {
    fn from(host: &HostName, certificate: &Certificate) -> Self {
        Self {
            host: host.to_string(),
            chain: certificate.chain.clone(),
            key: String::from_utf8_lossy(certificate.key.expose()).into_owned(),
        }
    }

    fn parse(&self) -> Result<(HostName, Certificate), TableError> {
        let certificate = Certificate { chain: self.chain.clone(), key: Secret::new(self.key.as_bytes()) };
        Ok((parse("host", &self.host, HostName::new)?, certificate))
    }
}

impl ChallengeFrame {
    fn from(host: &HostName, challenge: &Challenge) -> Self {
        match challenge {
            Challenge::Http { token, answer } => {
                Self::Http { host: host.to_string(), token: token.clone(), answer: answer.clone() }
            }
            Challenge::Tls(certificate) => Self::Tls(CertificateFrame::from(host, certificate)),
        }
    }

    fn parse(&self) -> Result<(HostName, Challenge), TableError> {
        match self {
            Self::Http { host, token, answer } => {
                let challenge = Challenge::Http { token: token.clone(), answer: answer.clone() };
                Ok((parse("host", host, HostName::new)?, challenge))
            }
            Self::Tls(frame) => frame.parse().map(|(host, certificate)| (host, Challenge::Tls(certificate))),
        }
    }
}

impl SiteFrame {
    fn from(host: &HostName, site: &Site, positions: &BTreeMap<&PoolId, usize>) -> Self {
        Self {
            host: host.to_string(),
            https: match site.tls {
                SiteTls::Both => true,
                SiteTls::Off => false,
            },
            rules: site.rules.iter().map(|rule| RuleFrame::from(rule, positions)).collect(),
        }
    }
}

impl RuleFrame {
    fn from(rule: &Rule, positions: &BTreeMap<&PoolId, usize>) -> Self {
        let action = match &rule.action {
            Action::Forward { service, splits, judged, flow } => ActionFrame::Forward {
                service: service.to_string(),
                judged: *judged,
                counted: *flow != Flow::Uncounted,
                held: *flow == Flow::Held,
                // A split whose pool is not listed has no endpoint: it is sent as a pool that does not exist.
                splits: splits
                    .iter()
                    .filter_map(|split| Some((*positions.get(&split.pool)?, split.weight.get())))
                    .collect(),
            },
            Action::Files(files) => ActionFrame::Files {
                service: files.service.to_string(),
                release: files.release.0,
                root: files.root.clone(),
                fallback: files.fallback.clone(),
                cache_ms: millis(files.cache),
            },
            Action::Redirect(to) => ActionFrame::Redirect(to.clone()),
            Action::Deny => ActionFrame::Deny,
        };
        Self {
            env: rule.id.key.env.to_string(),
            app: rule.id.key.app.to_string(),
            route: rule.id.route.to_string(),
            prefix: rule.prefix.to_string(),
            strip: rule.strip,
            action,
            policies: PoliciesFrame::from(&rule.policies),
            body: rule.body.0.0,
            timeout_ms: millis(rule.timeout),
            idle_ms: millis(rule.idle),
            transfer: TransferFrame::from(rule.transfer),
        }
    }
}

impl PoolFrame {
    pub(super) fn from(id: &PoolId, pool: &Pool) -> Self {
        Self {
            env: id.key.env.to_string(),
            app: id.key.app.to_string(),
            service: id.service.to_string(),
            release: id.release.0,
            baseline: id.cohort == Cohort::Baseline,
            h2c: pool.protocol == Protocol::H2c,
            endpoints: pool.endpoints.iter().map(|(id, address)| (id.to_string(), *address)).collect(),
        }
    }
}

pub(super) fn parse<T, E>(
    what: &'static str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, TableError> {
    parse(text).map_err(|_| TableError::Text { what, text: text.to_owned() })
}

fn app_key(env: &str, app: &str) -> Result<AppKey, TableError> {
    Ok(AppKey { env: parse("environment", env, EnvName::new)?, app: parse("app", app, AppName::new)? })
}

/// A table is told only up to this size, which is far from the bound of a frame.
const MOST_TOLD: usize = super::MAX_FRAME / 4;

impl DesiredFrame {
    /// A table as text, without keys; `None`: it is too large.
    pub(crate) fn text(table: &Table) -> Option<String> {
        let table = Table { challenges: BTreeMap::new(), ..table.clone() };
        let desired = EdgeDesired { table: Arc::new(table), certificates: Arc::default() };
        serde_json::to_string(&Self::from(&desired)).ok().filter(|text| text.len() <= MOST_TOLD)
    }

    /// What [`Self::text`] gave; `None`: another version's.
    pub(crate) fn read(text: &str) -> Option<Arc<Table>> {
        let frame: Self = serde_json::from_str(text).ok()?;
        Some(frame.parse().ok()?.table)
    }

    /// Parses everything; a frame that is wrong in any place is refused as a whole.
    pub fn parse(&self) -> Result<EdgeDesired, TableError> {
        let pools: Vec<(PoolId, Pool)> = self.pools.iter().map(PoolFrame::parse).collect::<Result<_, _>>()?;
        let mut sites = BTreeMap::new();
        for site in &self.sites {
            let rules = site.rules.iter().map(|rule| rule.parse(&pools)).collect::<Result<_, _>>()?;
            let tls = if site.https { SiteTls::Both } else { SiteTls::Off };
            sites.insert(parse("host", &site.host, HostName::new)?, Arc::new(Site { tls, rules }));
        }
        let certificates = self.certificates.iter().map(|frame| frame.parse().map(|(host, one)| (host, Arc::new(one))));
        let certificates = certificates.collect::<Result<_, _>>()?;
        let challenges = self.challenges.iter().map(ChallengeFrame::parse).collect::<Result<_, _>>()?;
        let generation = Generation(self.generation);
        let trusted_proxies = parse_networks(&self.trusted_proxies)?.into();
        let leaving = self.leaving.iter().map(|id| parse("instance", id, str::parse)).collect::<Result<_, _>>()?;
        let api = self
            .api
            .as_ref()
            .map(|api| Ok(ApiSite { host: parse("host", &api.host, HostName::new)?, socket: api.socket.clone() }));
        let api = api.transpose()?.map(Arc::new);
        let pools = pools.into_iter().map(|(id, pool)| (id, Arc::new(pool))).collect();
        let proxy_protocol = self.proxy_protocol;
        let sample = self.sample.map(|ppm| Share::from_ppm(ppm).ok_or(TableError::Sample(ppm))).transpose()?;
        let table =
            Table { generation, sites, pools, leaving, trusted_proxies, proxy_protocol, api, challenges, sample };
        Ok(EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates) })
    }
}

impl PoolFrame {
    pub(super) fn parse(&self) -> Result<(PoolId, Pool), TableError> {
        let id = PoolId {
            key: app_key(&self.env, &self.app)?,
            service: parse("service", &self.service, ServiceName::new)?,
            release: ReleaseNumber(self.release),
            cohort: if self.baseline { Cohort::Baseline } else { Cohort::Whole },
        };
        let endpoints = self
            .endpoints
            .iter()
            .map(|(id, address)| Ok((parse("instance", id, str::parse::<InstanceId>)?, *address)))
            .collect::<Result<_, TableError>>()?;
        let protocol = if self.h2c { Protocol::H2c } else { Protocol::Http1 };
        Ok((id, Pool { protocol, endpoints }))
    }
}

impl RuleFrame {
    fn parse(&self, pools: &[(PoolId, Pool)]) -> Result<Rule, TableError> {
        let id = RuleId { key: app_key(&self.env, &self.app)?, route: parse("route", &self.route, RouteName::new)? };
        Ok(Rule {
            id,
            prefix: parse("path", &self.prefix, PathPrefix::new)?,
            strip: self.strip,
            action: self.action.parse(pools)?,
            policies: self.policies.parse()?,
            body: BodyLimit(Bytes(self.body)),
            timeout: Duration::from_millis(self.timeout_ms),
            idle: Duration::from_millis(self.idle_ms),
            transfer: self.transfer.parse(),
        })
    }
}

impl ActionFrame {
    fn parse(&self, pools: &[(PoolId, Pool)]) -> Result<Action, TableError> {
        Ok(match self {
            Self::Forward { service, splits, judged, counted, held } => Action::Forward {
                judged: *judged,
                flow: match (counted, held) {
                    (_, true) => Flow::Held,
                    (true, false) => Flow::Counted,
                    (false, false) => Flow::Uncounted,
                },
                service: parse("service", service, ServiceName::new)?,
                splits: splits.iter().map(|split| parse_split(*split, pools)).collect::<Result<_, _>>()?,
            },
            Self::Files { service, release, root, fallback, cache_ms } => Action::Files(Files {
                service: parse("service", service, ServiceName::new)?,
                release: ReleaseNumber(*release),
                root: root.clone(),
                fallback: fallback.clone(),
                cache: Duration::from_millis(*cache_ms),
            }),
            Self::Redirect(to) => Action::Redirect(to.clone()),
            Self::Deny => Action::Deny,
        })
    }
}

fn parse_split((pool, weight): (usize, u8), pools: &[(PoolId, Pool)]) -> Result<Split, TableError> {
    let (id, _) = pools.get(pool).ok_or(TableError::Pool(pool))?;
    Ok(Split { pool: id.clone(), weight: Weight::new(weight).ok_or(TableError::Weight(weight))? })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bowline_core::app::{Hsts, PlainHttp, RateBy, Upload};
    use bowline_core::route::{Credentials, Gate, Maintenance, Policies, Proof, RateLimit, Transfer};
    use bowline_core::units::Rate;

    pub(crate) fn sample() -> EdgeDesired {
        let key = AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("uploads").unwrap() };
        let service = ServiceName::new("web").unwrap();
        let pool =
            PoolId { key: key.clone(), service: service.clone(), release: ReleaseNumber(3), cohort: Cohort::Baseline };
        let policies = Policies {
            maintenance: Some(Maintenance { allow: vec!["127.0.0.1/32".parse().unwrap()] }),
            allow: vec!["2001:db8::/32".parse().unwrap()],
            auth: Some(Gate {
                proof: Proof::Header("x-auth-token".to_owned()),
                credentials: Credentials { salt: [1; 16], digests: [[2; 32]].into() },
            }),
            rate: Some(RateLimit { rate: Rate { count: 5, per: Duration::from_secs(60) }, by: RateBy::Route }),
            upload: Some(Upload { extensions: vec!["png".to_owned()] }),
        };
        let rule = |prefix: &str, action| Rule {
            id: RuleId { key: key.clone(), route: RouteName::new("main").unwrap() },
            prefix: PathPrefix::new(prefix).unwrap(),
            strip: prefix != "/",
            action,
            policies: policies.clone(),
            body: BodyLimit(Bytes(1 << 20)),
            timeout: Duration::from_secs(60),
            idle: Duration::from_millis(1500),
            transfer: Transfer {
                http: PlainHttp::Redirect,
                hsts: Some(Hsts { age: Duration::from_secs(60), subdomains: true, preload: false }),
                compress: true,
            },
        };
        let files = Files {
            service: service.clone(),
            release: ReleaseNumber(3),
            root: "/srv".into(),
            fallback: Some("index.html".to_owned()),
            cache: Duration::from_secs(3600),
        };
        let rules = vec![
            rule("/static", Action::Files(files)),
            rule("/old", Action::Redirect("https://example.com".to_owned())),
            rule("/no", Action::Deny),
            rule(
                "/",
                Action::Forward {
                    service,
                    splits: vec![Split { pool: pool.clone(), weight: Weight::ALL }],
                    judged: true,
                    flow: Flow::Held,
                },
            ),
        ];
        let instance = "local/uploads.web.r3.0.12".parse().unwrap();
        let endpoints = BTreeMap::from([(instance, "127.0.0.1:4000".parse().unwrap())]);
        let host = HostName::new("*.uploads.localhost").unwrap();
        let certificate = Certificate { chain: "chain".to_owned(), key: Secret::new("hunter2") };
        let table = Table {
            generation: Generation(7),
            sites: BTreeMap::from([(host.clone(), Arc::new(Site { tls: SiteTls::Both, rules }))]),
            pools: BTreeMap::from([(pool, Arc::new(Pool { protocol: Protocol::H2c, endpoints }))]),
            leaving: ["local/uploads.web.r2.0.3".parse().unwrap()].into(),
            trusted_proxies: ["10.0.0.0/8".parse().unwrap()].into(),
            proxy_protocol: true,
            sample: Share::from_ppm(250_000),
            api: Some(Arc::new(ApiSite {
                host: HostName::new("api.example.com").unwrap(),
                socket: "/run/api.sock".into(),
            })),
            challenges: challenges(&certificate),
        };
        EdgeDesired { table: Arc::new(table), certificates: Arc::new(BTreeMap::from([(host, Arc::new(certificate))])) }
    }

    fn challenges(proof: &Certificate) -> BTreeMap<HostName, Challenge> {
        let http = Challenge::Http { token: "token".to_owned(), answer: "token.thumb".to_owned() };
        BTreeMap::from([
            (HostName::new("a.example.com").unwrap(), http),
            (HostName::new("b.example.com").unwrap(), Challenge::Tls(proof.clone())),
        ])
    }

    #[test]
    fn a_desired_state_survives_the_wire() {
        let desired = sample();
        let text = serde_json::to_string(&DesiredFrame::from(&desired)).unwrap();
        let frame: DesiredFrame = serde_json::from_str(&text).unwrap();
        assert_eq!(frame.parse().unwrap(), desired);
        assert!(!format!("{frame:?}").contains("hunter2"));
    }

    #[test]
    fn a_wrong_frame_is_refused_whole() {
        let check = |change: fn(&mut DesiredFrame), expected: &str| {
            let mut frame = DesiredFrame::from(&sample());
            change(&mut frame);
            assert_eq!(frame.parse().unwrap_err().to_string(), expected);
        };
        check(|f| f.sites[0].host = "a b".to_owned(), "host \"a b\" is not valid");
        check(|f| f.sites[0].rules[0].prefix = "/../x".to_owned(), "path \"/../x\" is not valid");
        check(|f| f.pools.clear(), "a rule refers to pool 0, which is not listed");
    }
}
