//! Desired state on its way out: what the node should run and what the edge should serve, each under a generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::acme::Want;
use bowline_core::app::HostName;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Generation, InstanceId, RouteName, ServiceName};
use bowline_core::instance::{InstanceOrder, NodeDesired, Observations};
use bowline_core::resource::{ResourceKey, ResourceSpec};
use bowline_core::rollout::{Asked, Phase};
use bowline_core::route::{
    Certificate, Certificates, Challenge, Compiler, Credentials, EdgeDesired, Pool, PoolId, Serving, SiteTls, Table,
    Tables,
};
use bowline_core::time::{Mono, Timestamp};

use super::effects::Effect;
use super::release::Place;
use super::unread::{replaces_unread, serve_unread};
use super::world::{AppWorld, Apps, Stable};
use crate::certs::Leaf;

/// Generations of one daemon's life: the upper half is the epoch, which the store counts.
const EPOCH_SHIFT: u32 = 32;

/// How long a host waits for its certificate after it could not be made.
const RETRY: std::time::Duration = std::time::Duration::from_secs(60);

/// What was handed to node and edge last, and what that needs.
#[derive(Debug)]
pub(crate) struct Published {
    generation: Generation,
    node: Option<Arc<NodeDesired>>,
    edge: Option<Arc<EdgeDesired>>,
    compiler: Compiler,
    pub(crate) tables: Tables,
    pub(crate) leaves: BTreeMap<HostName, Leaf>,
    /// The last look found another table than was handed out: it waits for a certificate.
    waiting: bool,
    /// Why what is wanted makes no table. The edge goes on with the one that it has.
    uncompiled: Option<Fault>,
    /// Hosts whose certificate is being made.
    certifying: BTreeSet<HostName>,
    /// Hosts without one, and when it is tried again.
    uncertified: BTreeMap<HostName, Mono>,
    /// The generation that was sealed last.
    sealed: Generation,
    /// What is handed out leads to a release that is about to take the place of one that cannot be read: what was served of that is known from
    /// the table that was sealed last alone.
    replaces_unread: bool,
    ordered: Ordered,
    /// What the edge was last told to answer authorities, and the first table that said so.
    challenged: BTreeMap<HostName, (Challenge, Generation)>,
    /// Rollouts, and the tables that they ask about.
    asked: BTreeMap<AppKey, Asking>,
    serving: Option<Generation>,
}

/// Since when the edge's word counts for a rollout.
#[derive(Debug)]
struct Asking {
    /// The first table that was there in this rollout.
    began: Generation,
    /// The phase in which it waits, and the first table since.
    waits: Option<(Phase, Generation)>,
}

/// What comes from an authority, as far as it has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ordered {
    pub(crate) names: Arc<BTreeMap<HostName, Want>>,
    pub(crate) certificates: Arc<Certificates>,
    /// When each of them is good for nothing any more.
    pub(crate) ends: Arc<BTreeMap<HostName, Timestamp>>,
    /// Those of the names that the local CA signs for until then. All others have no certificate: one of the local CA would only teach
    /// people to click warnings away.
    pub(crate) meanwhile: Arc<BTreeSet<HostName>>,
    /// Hosts of apps that cannot be read which had no certificate: they waited for an authority's.
    pub(crate) bare: Arc<BTreeSet<HostName>>,
    /// What it is to be answered.
    pub(crate) challenges: BTreeMap<HostName, Challenge>,
}

impl Ordered {
    /// The local CA signs for this host.
    fn is_made_here(&self, host: &HostName) -> bool {
        let is_others = self.names.contains_key(host) || self.bare.contains(host);
        !is_others || self.meanwhile.contains(host)
    }
}

impl Published {
    pub(crate) fn new(epoch: u64, snapshot: Option<&EdgeDesired>) -> Self {
        let before = snapshot.map_or(Generation(0), |s| s.table.generation);
        Self {
            generation: before.max(Generation(epoch << EPOCH_SHIFT)),
            node: None,
            edge: None,
            compiler: Compiler::default(),
            tables: Tables::new(),
            leaves: BTreeMap::new(),
            waiting: true,
            uncompiled: None,
            certifying: BTreeSet::new(),
            uncertified: BTreeMap::new(),
            sealed: Generation(0),
            replaces_unread: false,
            ordered: Ordered::default(),
            challenged: BTreeMap::new(),
            asked: BTreeMap::new(),
            serving: None,
        }
    }

    pub(crate) fn edge_generation(&self) -> Generation {
        self.edge.as_ref().map_or(Generation(0), |edge| edge.table.generation)
    }

    /// Whether a table was handed out, and not taken back for one that the edge had.
    pub(crate) fn has_table(&self) -> bool {
        self.edge.is_some()
    }

    /// The instances that the table leads to.
    pub(crate) fn routed(&self) -> BTreeSet<InstanceId> {
        let pools = self.edge.iter().flat_map(|edge| edge.table.pools.values());
        pools.flat_map(|pool| pool.endpoints.keys().cloned()).collect()
    }

    /// Whether the edge serves all that was last found worth serving.
    pub(crate) fn is_served(&self, serving: Option<Generation>) -> bool {
        !self.waiting
            && self.uncompiled.is_none()
            && self.edge.as_ref().is_some_and(|edge| Some(edge.table.generation) == serving)
    }

    fn next_generation(&mut self) -> Generation {
        self.generation = self.generation.next();
        self.generation
    }

    /// The edge may hold a table of a daemon whose store was lost: ours must be above it, or it is refused.
    /// What it serves is what the next daemon goes on with, unless that would know less than before.
    pub(crate) fn edge_serves(&mut self, serving: Option<Generation>, effects: &mut Vec<Effect>) {
        self.tables.serving(serving);
        self.serving = serving;
        let Some(serving) = serving else { return };
        if serving > self.generation {
            self.generation = serving;
            self.edge = None;
            self.challenged.clear();
            self.asked.clear();
        }
        let is_new = |edge: &&Arc<EdgeDesired>| edge.table.generation == serving && serving > self.sealed;
        if let Some(edge) = self.edge.as_ref().filter(|_| !self.replaces_unread).filter(is_new) {
            self.sealed = serving;
            effects.push(Effect::Snapshot(Arc::clone(edge)));
        }
    }

    /// The resources that were ordered last.
    pub(crate) fn resources(&self) -> &BTreeMap<ResourceKey, Arc<ResourceSpec>> {
        static NONE: BTreeMap<ResourceKey, Arc<ResourceSpec>> = BTreeMap::new();
        self.node.as_ref().map_or(&NONE, |node| &node.resources)
    }

    /// Whether the node's resources follow what was ordered last.
    pub(crate) fn is_taken_up(&self, seen: &Observations) -> bool {
        self.node.as_ref().is_none_or(|node| node.resources_since <= seen.ordered)
    }

    pub(crate) fn orders(
        &mut self,
        orders: BTreeMap<InstanceId, InstanceOrder>,
        resources: BTreeMap<ResourceKey, Arc<ResourceSpec>>,
        (running, watchers): (BTreeSet<AppKey>, BTreeSet<AppKey>),
        effects: &mut Vec<Effect>,
    ) {
        let same_resources = self.resources() == &resources;
        let same =
            |node: &Arc<NodeDesired>| node.instances == orders && node.running == running && node.watchers == watchers;
        if same_resources && self.node.as_ref().is_some_and(same) {
            return;
        }
        let generation = self.next_generation();
        let since = self.node.as_ref().filter(|_| same_resources).map_or(generation, |node| node.resources_since);
        let desired = Arc::new(NodeDesired {
            generation,
            instances: orders,
            running,
            watchers,
            resources,
            resources_since: since,
        });
        self.node = Some(Arc::clone(&desired));
        effects.push(Effect::Node(desired));
    }

    /// Compiles the table, has certificates made for its hosts, and hands it out if it is another than the last.
    pub(crate) fn table(
        &mut self,
        (apps, place): (&Apps, &Place),
        endpoints: &BTreeMap<PoolId, Pool>,
        leaving: BTreeSet<InstanceId>,
        (now, wall): (Mono, Timestamp),
        effects: &mut Vec<Effect>,
    ) {
        // A certificate of an authority is there, though it may be about to be renewed. To one that has ended nobody is led.
        let ends = self.ordered.ends.iter().filter(|(_, end)| **end > wall);
        let trusted = ends.map(|(host, _)| host.clone()).collect();
        let generation = self.edge_generation();
        let table = match compiled(&mut self.compiler, generation, apps, endpoints, &trusted) {
            Ok(table) => table,
            Err(fault) => return self.is_uncompiled(fault),
        };
        self.uncompiled = None;
        let (trusted_proxies, api) = (Arc::clone(&place.trusted_proxies), place.api.clone());
        let (proxy_protocol, challenges) = (place.proxy_protocol, self.ordered.challenges.clone());
        let sample = place.sample;
        let table = Table { trusted_proxies, proxy_protocol, leaving, api, challenges, sample, ..table };
        let table = match &self.edge {
            Some(edge) => table.sharing(&edge.table),
            None => table,
        };
        let given = place.given.as_ref().and_then(|given| Some((&given.host, given.certificate.as_ref()?)));
        self.waiting = self.request_leaves(&table, given.map(|(host, _)| host), (now, wall), effects);
        if self.waiting {
            return;
        }
        let certificates = self.certificates_of(&table, given);
        let unchanged = |edge: &&Arc<EdgeDesired>| *edge.table == table && *edge.certificates == certificates;
        let replaces_unread = replaces_unread(apps);
        if self.edge.as_ref().filter(unchanged).is_some() {
            self.replaces_unread &= replaces_unread;
            return;
        }
        self.replaces_unread = replaces_unread;
        let table = Table { generation: self.next_generation(), ..table };
        self.tables.sent(&table);
        self.challenge(&table);
        let same = self.edge.as_ref().filter(|edge| *edge.certificates == certificates);
        let certificates = same.map_or_else(|| Arc::new(certificates), |edge| Arc::clone(&edge.certificates));
        let desired = Arc::new(EdgeDesired { table: Arc::new(table), certificates });
        self.edge = Some(Arc::clone(&desired));
        effects.push(Effect::Edge(desired));
    }

    /// The guard refuses such an app before it gets here.
    fn is_uncompiled(&mut self, fault: Fault) {
        if self.uncompiled.as_ref() != Some(&fault) {
            tracing::error!(error = %fault, "table not compiled");
            self.uncompiled = Some(fault);
        }
    }

    pub(crate) fn uncompiled(&self) -> Option<&Fault> {
        self.uncompiled.as_ref()
    }

    /// Asks for the certificates that are missing or end soon; whether the table waits for one.
    fn request_leaves(
        &mut self,
        table: &Table,
        given: Option<&HostName>,
        (now, wall): (Mono, Timestamp),
        effects: &mut Vec<Effect>,
    ) -> bool {
        let is_made_here = |host: &&HostName| Some(*host) != given && self.ordered.is_made_here(host);
        let hosts: BTreeSet<_> = tls_hosts(table).filter(is_made_here).collect();
        self.uncertified.retain(|host, _| hosts.contains(host));
        self.leaves.retain(|host, _| hosts.contains(host));
        let is_fresh = |host: &HostName| self.leaves.get(host).is_some_and(|leaf| wall < leaf.renew_at());
        let waits = |host: &HostName| self.uncertified.get(host).is_some_and(|until| *until > now);
        let is_wanted = |host: &&HostName| !is_fresh(host) && !self.certifying.contains(*host) && !waits(host);
        let wanted: Vec<HostName> = hosts.iter().copied().filter(is_wanted).cloned().collect();
        if !wanted.is_empty() {
            self.certifying.extend(wanted.iter().cloned());
            effects.push(Effect::Certify(wanted));
        }
        self.certifying.iter().any(|host| hosts.contains(host) && !self.leaves.contains_key(host))
    }

    fn certificates_of(&self, table: &Table, given: Option<(&HostName, &Arc<Certificate>)>) -> Certificates {
        let made = |host: &HostName| self.leaves.get(host).map(|leaf| &leaf.certificate);
        let of = |host: &HostName| match given.filter(|(of, _)| *of == host) {
            Some((_, certificate)) => Some(certificate),
            None if self.ordered.is_made_here(host) => made(host),
            None => self.ordered.certificates.get(host),
        };
        tls_hosts(table).filter_map(|host| Some((host.clone(), Arc::clone(of(host)?)))).collect()
    }

    /// Hosts that are served with a certificate of the local CA.
    pub(crate) fn served_here(&self) -> impl Iterator<Item = &HostName> {
        let served = |host: &HostName| self.edge.as_ref().and_then(|edge| edge.certificates.get(host));
        let made = self.leaves.iter().filter(move |(host, leaf)| served(host) == Some(&leaf.certificate));
        made.map(|(host, _)| host)
    }

    pub(crate) fn ordered(&mut self, ordered: Ordered) {
        self.ordered = ordered;
    }

    /// Names whose challenge is answered by the edge that accepts connections.
    pub(crate) fn answered(&self) -> BTreeSet<HostName> {
        let serves = |since: Generation| self.serving.is_some_and(|serving| serving >= since);
        let current = |host: &HostName, told: &Challenge| self.ordered.challenges.get(host) == Some(told);
        let answered = self.challenged.iter().filter(|(host, (told, since))| serves(*since) && current(host, told));
        answered.map(|(host, _)| host.clone()).collect()
    }

    fn challenge(&mut self, table: &Table) {
        self.challenged.retain(|host, (told, _)| table.challenges.get(host) == Some(told));
        for (host, challenge) in &table.challenges {
            let fresh = || (challenge.clone(), table.generation);
            self.challenged.entry(host.clone()).or_insert_with(fresh);
        }
    }

    /// To be called when the table is that of what is wanted now. Whether one of those who wait since is answered by what the edge serves
    /// already.
    pub(crate) fn ask(&mut self, asking: &BTreeMap<AppKey, Option<Phase>>) -> bool {
        self.asked.retain(|key, _| asking.contains_key(key));
        // Whoever is in another phase since has not been told of that one, whatever keeps tables back.
        for (key, asked) in &mut self.asked {
            asked.waits = asked.waits.filter(|(of, _)| asking.get(key) == Some(&Some(*of)));
        }
        let is_current = !self.waiting && self.uncompiled.is_none();
        let Some(generation) = self.edge.as_ref().filter(|_| is_current).map(|edge| edge.table.generation) else {
            return false;
        };
        let mut is_new = false;
        for (key, phase) in asking {
            let asked = self.asked.entry(key.clone()).or_insert(Asking { began: generation, waits: None });
            if asked.waits.map(|(of, _)| of) != *phase {
                asked.waits = phase.map(|phase| (phase, generation));
                is_new |= phase.is_some();
            }
        }
        is_new && self.serving.is_some_and(|serving| serving >= generation)
    }

    /// The tables of which the edge's word counts for a rollout in this phase.
    pub(crate) fn asked(&self, key: &AppKey, phase: Phase) -> Option<Asked> {
        let Asking { began, waits } = *self.asked.get(key)?;
        Some(Asked { began, since: waits.filter(|(of, _)| *of == phase).map(|(_, since)| since) })
    }

    pub(crate) fn certified(&mut self, host: HostName, leaf: Option<Leaf>, now: Mono) {
        self.certifying.remove(&host);
        match leaf {
            Some(leaf) => {
                self.uncertified.remove(&host);
                self.leaves.insert(host, leaf);
            }
            None => drop(self.uncertified.insert(host, now + RETRY)),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let waiting = self.uncertified.iter().filter(|(host, _)| !self.certifying.contains(*host));
        waiting.map(|(_, until)| *until).min()
    }
}

fn tls_hosts(table: &Table) -> impl Iterator<Item = &HostName> {
    let sites = table.sites.iter().filter(|(_, site)| matches!(site.tls, SiteTls::Both)).map(|(host, _)| host);
    let api = table.api.as_ref().map(|api| &api.host);
    // An app that had the host before it became the API's is counted once.
    sites.filter(move |host| Some(*host) != api).chain(api)
}

/// Of a release that cannot be run: its routes let nobody in.
static NO_CREDENTIALS: BTreeMap<RouteName, Credentials> = BTreeMap::new();

/// Of an app on which no rollout is under way.
static NOTHING: BTreeSet<ServiceName> = BTreeSet::new();

/// The table of what is served, apps in the order in which they became known.
fn compiled(
    compiler: &mut Compiler,
    generation: Generation,
    apps: &Apps,
    endpoints: &BTreeMap<PoolId, Pool>,
    trusted: &BTreeSet<HostName>,
) -> Result<Table, Fault> {
    let mut by_age: Vec<(&AppKey, &AppWorld)> = apps.iter().collect();
    by_age.sort_by_key(|(_, app)| app.record.created);
    let serving = by_age.iter().filter_map(|(key, app)| {
        let (release, parts) = app.release(app.live?)?;
        let credentials = parts.map_or(&NO_CREDENTIALS, |parts| &parts.credentials);
        let judged = app.rolling().and_then(|rolling| rolling.machine.judged()).unwrap_or(&NOTHING);
        let maintenance = app.maintenance.as_ref();
        Some(Serving { key, app: &release.revision.app, sets: &app.sets, credentials, maintenance, judged, trusted })
    });
    let serving: Vec<_> = serving.collect();
    let releases = apps.values().flat_map(|app| app.sets.iter().filter_map(|set| app.release(set.release)?.1));
    let files = releases.flat_map(|parts| parts.files.clone()).collect();
    let mut table = compiler
        .compile(generation, &serving, endpoints, &files)
        .map_err(|conflict| Fault::new(FaultKind::Refused, conflict.to_string()))?;
    // Until the edge has taken the routes of a release, those before it may be served on.
    for (key, app) in apps {
        // Of what is handed out, not of a phase that is being stored.
        let told = app.rolling().map(|rolling| rolling.candidate.number()).filter(|number| app.live == Some(*number));
        if let Some((Stable { release, .. }, candidate)) = app.stable.as_ref().zip(told) {
            table.keep(key, release.app(), [release.number(), candidate], endpoints);
        }
    }
    serve_unread(&mut table, apps, endpoints);
    Ok(table)
}
