//! The edge as the daemon runs it, with one worker; the daemon's half of the link is in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bowline_core::app::{BodyLimit, HostName, PathPrefix};
use bowline_core::id::{
    AppKey, AppName, EnvName, Generation, Incarnation, InstanceId, ReleaseNumber, RouteName, ServiceName, Slot, SlotId,
};
use bowline_core::route::{
    Action, Certificate, Certificates, Cohort, Credentials, EdgeDesired, Flow, Gate, Policies, Pool, PoolId, Proof,
    Rule, RuleId, Site, SiteTls, Split, Table, Transfer,
};
use bowline_core::secret::Secret;
use bowline_core::units::{Bytes, Weight};
use bowline_edge::link;
use sha2::{Digest, Sha256};

use super::{Kind, Peer, Running, TOKEN, TOKEN_FIELD, core, folder, route};
use crate::generator::{HOST, PROXY_CORE};

/// How long the edge may take to serve; under callgrind it takes seconds.
const START: Duration = Duration::from_secs(60);

/// More than is uploaded.
const BODY: Bytes = Bytes(1 << 30);

/// A running edge.
pub(super) struct Bowline {
    pub(super) pid: u32,
    handle: link::Handle,
    upstream: SocketAddr,
    certificates: Arc<Certificates>,
    /// What it was told last.
    table: Arc<Table>,
    runtime: tokio::runtime::Runtime,
}

pub(crate) fn start(binary: &Path, under: &[OsString], upstream: SocketAddr, routes: usize) -> anyhow::Result<Peer> {
    let files = folder()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let config = link_config(binary, under, files.path());
    let guard = runtime.enter();
    let handle = link::spawn(config);
    drop(guard);
    let certificates = Arc::new(certificates()?);
    let mut edge = Bowline { pid: 0, handle, upstream, certificates, table: Arc::default(), runtime };
    edge.swap(routes);
    let mut observed = edge.handle.observed.clone();
    let (http, https, pid) = edge.runtime.block_on(async {
        let serving = observed.wait_for(|o| o.serving == Some(Generation(1)));
        let seen = tokio::time::timeout(START, serving).await.context("the edge does not serve")??;
        anyhow::Ok((seen.http.context("no address")?, seen.https.context("no address of HTTPS")?, seen.pid))
    })?;
    edge.pid = pid;
    pin_threads(pid).context("pinning the edge")?;
    Ok(Peer { kind: Kind::Bowline, http, https, running: Running::Edge(Box::new(edge)), files, sink: None })
}

impl Bowline {
    /// From the new desired state on, as `core::route::compile` and [`Table::sharing`] give it: `reconcile` tells what making it takes.
    pub(super) fn swap(&mut self, routes: usize) {
        self.table = Arc::new(table(&self.table, self.upstream, routes));
        let (table, certificates) = (Arc::clone(&self.table), Arc::clone(&self.certificates));
        self.handle.desired.send_replace(Arc::new(EdgeDesired { table, certificates }));
    }

    /// Lines of its access log that it has dropped, as it said last.
    pub(super) fn lost_lines(&self) -> u64 {
        self.handle.observed.borrow().access_lines_dropped
    }

    pub(super) fn stop(self, limit: Duration) {
        self.runtime.block_on(self.handle.shutdown.edge(limit));
    }
}

fn link_config(binary: &Path, under: &[OsString], dir: &Path) -> link::LinkConfig {
    let mut words = under.iter().cloned().chain([binary.into(), "edge".into()]);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    link::LinkConfig {
        exe: words.next().unwrap_or_default().into(),
        args: words.collect(),
        run_dir: dir.to_owned(),
        log_dir: dir.to_owned(),
        http: any,
        https: Some(any),
        uid: None,
        workers: 1,
        holder_of: |_| None,
    }
}

/// For the host of the load: signed by itself, on the curve that all proxies take.
pub(super) fn certificate() -> anyhow::Result<(String, String)> {
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()])?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

fn certificates() -> anyhow::Result<Certificates> {
    let (chain, key) = certificate()?;
    Ok(BTreeMap::from([(HostName::new(HOST)?, Arc::new(Certificate { chain, key: Secret::new(key) }))]))
}

/// The next one, with so many hosts.
fn table(before: &Table, upstream: SocketAddr, routes: usize) -> Table {
    let key = AppKey { env: EnvName::new("local").expect("a name"), app: AppName::new("bench").expect("a name") };
    let service = ServiceName::new("web").expect("a name");
    let release = ReleaseNumber(1);
    let pool = PoolId { key: key.clone(), service: service.clone(), release, cohort: Cohort::Whole };
    let slot = SlotId { key, service, release, slot: Slot(0) };
    let endpoint = InstanceId { slot, incarnation: Incarnation(1) };
    let names = std::iter::once(HOST.to_owned()).chain((0..routes).map(route)).skip(before.sites.len());
    let site = Arc::new(Site { tls: SiteTls::Both, rules: vec![rule(&pool)] });
    let served = Pool { endpoints: BTreeMap::from([(endpoint, upstream)]), ..Pool::default() };
    let mut sites = before.sites.clone();
    sites.extend(names.map(|name| (HostName::new(&name).expect("a host"), Arc::clone(&site))));
    Table {
        api: None,
        generation: before.generation.next(),
        sites,
        pools: BTreeMap::from([(pool, Arc::new(served))]),
        trusted_proxies: [].into(),
        sample: None,
        proxy_protocol: false,
        leaving: BTreeSet::new(),
        challenges: BTreeMap::new(),
    }
}

fn rule(pool: &PoolId) -> Rule {
    Rule {
        id: RuleId { key: pool.key.clone(), route: RouteName::new("main").expect("a name") },
        prefix: PathPrefix::root(),
        strip: false,
        action: Action::Forward {
            service: pool.service.clone(),
            splits: vec![Split { pool: pool.clone(), weight: Weight::ALL }],
            judged: false,
            flow: Flow::Uncounted,
        },
        policies: Policies { auth: Some(token()), ..Policies::default() },
        body: BodyLimit(BODY),
        timeout: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        transfer: Transfer::default(),
    }
}

fn token() -> Gate {
    let salt = [7; 16];
    let digest = Sha256::new().chain_update(salt).chain_update(TOKEN).finalize().into();
    let credentials = Credentials { salt, digests: BTreeSet::from([digest]) };
    Gate { proof: Proof::Header(TOKEN_FIELD.to_owned()), credentials }
}

fn pin_threads(pid: u32) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid: i32 = entry?.file_name().to_string_lossy().parse()?;
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(tid), &core(PROXY_CORE)?)?;
    }
    Ok(())
}
