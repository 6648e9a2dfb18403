//! The last table that an edge accepted, as bytes: what a starting daemon feeds its edge before the store is open.
//!
//! It holds TLS keys; `secrets` seals it before it reaches the disk.

mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{BodyLimit, HostName, PathPrefix, Protocol};
use bowline_core::id::{AppKey, AppName, EnvName, Generation, ReleaseNumber, RouteName, ServiceName};
use bowline_core::route::{
    Action, ApiSite, Certificate, Cohort, EdgeDesired, Files, Flow, Pool, PoolId, Rule, RuleId, Site, SiteTls, Split,
    Table,
};
use bowline_core::secret::Secret;
use bowline_core::units::{Bytes, Share, Weight};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::policy::PoliciesForm;

/// Version of the form below. Another version is not read: the edge then waits for the store.
pub(crate) const VERSION: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("it is not a snapshot")]
    Json(#[source] serde_json::Error),
    #[error("it has version {0}, this daemon reads {VERSION}")]
    Version(u32),
    #[error("it holds {0:?}, which is not what belongs there")]
    Value(String),
}

/// The snapshot in clear. Holds keys: seal it.
pub(crate) fn encode(desired: &EdgeDesired) -> Zeroizing<Vec<u8>> {
    let form = SnapshotForm {
        generation: desired.table.generation.0,
        sites: desired.table.sites.iter().map(|(host, site)| (host.to_string(), site_form(site))).collect(),
        pools: desired.table.pools.iter().map(|(id, pool)| (pool_id_form(id), pool_form(pool))).collect(),
        h2c: desired
            .table
            .pools
            .iter()
            .filter(|(_, pool)| pool.protocol == Protocol::H2c)
            .map(|(id, _)| pool_id_form(id))
            .collect(),
        certificates: desired.certificates.iter().map(|(host, c)| (host.to_string(), certificate_form(c))).collect(),
        trusted_proxies: policy::networks_form(&desired.table.trusted_proxies),
        proxy_protocol: desired.table.proxy_protocol,
        sample: desired.table.sample.map(Share::ppm),
        api: desired.table.api.as_ref().map(|api| ApiForm { host: api.host.to_string(), socket: api.socket.clone() }),
    };
    Zeroizing::new(serde_json::to_vec(&form).expect("the form has string keys and no failing serialisers"))
}

pub(crate) fn decode(version: u32, bytes: &[u8]) -> Result<EdgeDesired, SnapshotError> {
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let form: SnapshotForm = serde_json::from_slice(bytes).map_err(SnapshotError::Json)?;
    let sites = form
        .sites
        .into_iter()
        .map(|(h, s)| Ok((host(&h)?, Arc::new(site(s)?))))
        .collect::<Result<_, SnapshotError>>()?;
    let mut pools: BTreeMap<_, Pool> =
        form.pools.into_iter().map(|(id, p)| Ok((pool_id(id)?, pool(p)?))).collect::<Result<_, SnapshotError>>()?;
    for id in form.h2c {
        if let Some(pool) = pools.get_mut(&pool_id(id)?) {
            pool.protocol = Protocol::H2c;
        }
    }
    let pools = pools.into_iter().map(|(id, pool)| (id, Arc::new(pool))).collect();
    let certificates = form
        .certificates
        .into_iter()
        .map(|(h, c)| Ok((host(&h)?, Arc::new(Certificate { chain: c.chain, key: Secret::new(c.key.as_bytes()) }))))
        .collect::<Result<_, SnapshotError>>()?;
    let trusted_proxies = policy::networks(&form.trusted_proxies)?.into();
    // Whoever was leaving when it was sealed is told by the next table.
    let leaving = BTreeSet::new();
    // Orders do not outlive the daemon.
    let challenges = BTreeMap::new();
    let api = form.api.map(|api| Ok(Arc::new(ApiSite { host: host(&api.host)?, socket: api.socket }))).transpose()?;
    let (generation, proxy_protocol) = (Generation(form.generation), form.proxy_protocol);
    let sample = form.sample.and_then(Share::from_ppm);
    let table = Table { generation, sites, pools, leaving, trusted_proxies, proxy_protocol, api, challenges, sample };
    Ok(EdgeDesired { table: Arc::new(table), certificates: Arc::new(certificates) })
}

#[derive(Serialize, Deserialize)]
struct SnapshotForm {
    generation: u64,
    sites: BTreeMap<String, SiteForm>,
    pools: Vec<(PoolIdForm, PoolForm)>,
    /// Those of them that speak HTTP/2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    h2c: Vec<PoolIdForm>,
    certificates: BTreeMap<String, CertificateForm>,
    trusted_proxies: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    proxy_protocol: bool,
    /// In parts per million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sample: Option<u32>,
    #[serde(default)]
    api: Option<ApiForm>,
}

#[derive(Serialize, Deserialize)]
struct ApiForm {
    host: String,
    socket: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct SiteForm {
    tls: bool,
    rules: Vec<RuleForm>,
}

#[derive(Serialize, Deserialize)]
struct RuleForm {
    env: String,
    app: String,
    route: String,
    prefix: String,
    strip: bool,
    action: ActionForm,
    policies: PoliciesForm,
    body: u64,
    timeout: Duration,
    idle: Duration,
    #[serde(default)]
    transfer: policy::TransferForm,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionForm {
    Forward {
        service: String,
        splits: Vec<(PoolIdForm, u8)>,
        #[serde(default)]
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
        cache: Duration,
    },
    Redirect(String),
    Deny,
}

#[derive(Serialize, Deserialize)]
struct PoolIdForm {
    env: String,
    app: String,
    service: String,
    release: u32,
    #[serde(default)]
    baseline: bool,
}

type PoolForm = BTreeMap<String, SocketAddr>;

#[derive(Serialize, Deserialize)]
struct CertificateForm {
    chain: String,
    key: Zeroizing<String>,
}

fn site_form(site: &Site) -> SiteForm {
    SiteForm { tls: matches!(site.tls, SiteTls::Both), rules: site.rules.iter().map(rule_form).collect() }
}

fn rule_form(rule: &Rule) -> RuleForm {
    RuleForm {
        env: rule.id.key.env.to_string(),
        app: rule.id.key.app.to_string(),
        route: rule.id.route.to_string(),
        prefix: rule.prefix.to_string(),
        strip: rule.strip,
        action: action_form(&rule.action),
        policies: policy::form(&rule.policies),
        body: rule.body.0.0,
        timeout: rule.timeout,
        idle: rule.idle,
        transfer: policy::transfer_form(rule.transfer),
    }
}

fn action_form(action: &Action) -> ActionForm {
    match action {
        Action::Forward { service, splits, judged, flow } => ActionForm::Forward {
            service: service.to_string(),
            judged: *judged,
            counted: *flow != Flow::Uncounted,
            held: *flow == Flow::Held,
            splits: splits.iter().map(|s| (pool_id_form(&s.pool), s.weight.get())).collect(),
        },
        Action::Files(files) => ActionForm::Files {
            service: files.service.to_string(),
            release: files.release.0,
            root: files.root.clone(),
            fallback: files.fallback.clone(),
            cache: files.cache,
        },
        Action::Redirect(url) => ActionForm::Redirect(url.clone()),
        Action::Deny => ActionForm::Deny,
    }
}

fn pool_id_form(id: &PoolId) -> PoolIdForm {
    PoolIdForm {
        env: id.key.env.to_string(),
        app: id.key.app.to_string(),
        service: id.service.to_string(),
        release: id.release.0,
        baseline: id.cohort == Cohort::Baseline,
    }
}

fn pool_form(pool: &Pool) -> PoolForm {
    pool.endpoints.iter().map(|(id, address)| (id.to_string(), *address)).collect()
}

fn certificate_form(certificate: &Certificate) -> CertificateForm {
    let key = String::from_utf8_lossy(certificate.key.expose()).into_owned();
    CertificateForm { chain: certificate.chain.clone(), key: Zeroizing::new(key) }
}

/// Parses a text of the form into a domain type, naming the text if it cannot be one.
fn parsed<T, E>(text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, SnapshotError> {
    parse(text).map_err(|_| SnapshotError::Value(text.to_owned()))
}

fn host(text: &str) -> Result<HostName, SnapshotError> {
    parsed(text, HostName::new)
}

fn app_key(env: &str, app: &str) -> Result<AppKey, SnapshotError> {
    Ok(AppKey { env: parsed(env, EnvName::new)?, app: parsed(app, AppName::new)? })
}

fn site(form: SiteForm) -> Result<Site, SnapshotError> {
    let tls = if form.tls { SiteTls::Both } else { SiteTls::Off };
    Ok(Site { tls, rules: form.rules.into_iter().map(rule).collect::<Result<_, _>>()? })
}

fn rule(form: RuleForm) -> Result<Rule, SnapshotError> {
    Ok(Rule {
        id: RuleId { key: app_key(&form.env, &form.app)?, route: parsed(&form.route, RouteName::new)? },
        prefix: parsed(&form.prefix, PathPrefix::new)?,
        strip: form.strip,
        action: action(form.action)?,
        policies: policy::policies(form.policies)?,
        body: BodyLimit(Bytes(form.body)),
        timeout: form.timeout,
        idle: form.idle,
        transfer: policy::transfer(form.transfer),
    })
}

fn action(form: ActionForm) -> Result<Action, SnapshotError> {
    Ok(match form {
        ActionForm::Forward { service, splits, judged, counted, held } => Action::Forward {
            judged,
            flow: match (counted, held) {
                (_, true) => Flow::Held,
                (true, false) => Flow::Counted,
                (false, false) => Flow::Uncounted,
            },
            service: parsed(&service, ServiceName::new)?,
            splits: splits.into_iter().map(split).collect::<Result<_, _>>()?,
        },
        ActionForm::Files { service, release, root, fallback, cache } => Action::Files(Files {
            service: parsed(&service, ServiceName::new)?,
            release: ReleaseNumber(release),
            root,
            fallback,
            cache,
        }),
        ActionForm::Redirect(url) => Action::Redirect(url),
        ActionForm::Deny => Action::Deny,
    })
}

fn split((id, weight): (PoolIdForm, u8)) -> Result<Split, SnapshotError> {
    let weight = Weight::new(weight).ok_or_else(|| SnapshotError::Value(weight.to_string()))?;
    Ok(Split { pool: pool_id(id)?, weight })
}

fn pool_id(form: PoolIdForm) -> Result<PoolId, SnapshotError> {
    Ok(PoolId {
        key: app_key(&form.env, &form.app)?,
        service: parsed(&form.service, ServiceName::new)?,
        release: ReleaseNumber(form.release),
        cohort: if form.baseline { Cohort::Baseline } else { Cohort::Whole },
    })
}

fn pool(form: PoolForm) -> Result<Pool, SnapshotError> {
    let endpoints = form.into_iter().map(|(id, address)| Ok((parsed(&id, str::parse)?, address)));
    let protocol = Protocol::default();
    Ok(Pool { protocol, endpoints: endpoints.collect::<Result<_, SnapshotError>>()? })
}
