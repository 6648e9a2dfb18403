//! An app that this daemon cannot read: stored by a newer one, or refused by a rule that came later. It keeps no other app from being
//! taken up. What runs of it is left as it is, and served as it was; whatever is brought out next takes its place.
//!
//! Nothing of it is started: what it would be given is what cannot be read. One that ends is not there any more; its servers, and a run
//! that is under way, go on. Its jobs stand still and keep their count.
//!
//! On which hosts it is served stands in the snapshot of the edge's table; where that cannot be used, an edge that is still there tells
//! what it serves. The first table waits for that, for a moment: held for longer, it would keep changes of all other apps from the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::access::Scope;
use bowline_core::app::{App, HostName, PathPrefix};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId, Port, ReleaseNumber, RunNumber};
use bowline_core::instance::{InstanceObservation, InstanceOrder, Observations, Phase};
use bowline_core::job::Task;
use bowline_core::resource::{Left, ResourceKey, ResourceSpec};
use bowline_core::rollout::Phase as RolloutPhase;
use bowline_core::route::{Claim, EdgeStatus, Maintenance, Pool, PoolId, Site, SiteTls, Table, canonical, claims};
use bowline_core::time::Timestamp;

use super::Loop;
use super::effects::{Now, Write};
use super::resources::Gate;
use super::world::{AppWorld, Apps};
use crate::store::ResourceRecord;

/// Why an app cannot be read, and what is known of it all the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reasons {
    pub(crate) why: Fault,
    /// The release that serves.
    pub(crate) stable: Option<ReleaseNumber>,
    /// Servers whose password does not open.
    pub(crate) shut: Vec<ResourceRecord>,
    /// Runs that are under way, and cannot be read.
    pub(crate) runs: Vec<RunNumber>,
    /// Its numbers of instances cannot be read.
    pub(crate) scales: bool,
    pub(crate) has_jobs: bool,
}

/// Why it cannot be read, and what an edge served of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unread {
    pub(crate) reasons: Reasons,
    /// It is known on which hosts it was served, if on any.
    is_placed: bool,
    /// Its rules alone.
    sites: BTreeMap<HostName, Site>,
    pools: BTreeMap<PoolId, Pool>,
    /// Of the release on its way: what runs on one of them gives way.
    ports: BTreeSet<Port>,
}

impl Unread {
    /// `table`: what an edge was told last.
    pub(crate) fn new(key: &AppKey, reasons: Reasons, table: Option<&Table>) -> Self {
        let (mut sites, mut pools) = (BTreeMap::new(), BTreeMap::new());
        if let Some(table) = table {
            let own = |site: &Site| Site {
                rules: site.rules.iter().filter(|rule| rule.id.key == *key).cloned().collect(),
                ..site.clone()
            };
            let each = table.sites.iter().map(|(host, site)| (host.clone(), own(site)));
            sites.extend(each.filter(|(_, site)| !site.rules.is_empty()));
            let of_app = table.pools.iter().filter(|(pool, _)| pool.key == *key);
            pools.extend(of_app.map(|(pool, served)| (pool.clone(), Pool::clone(served))));
        }
        Self { reasons, is_placed: table.is_some(), sites, pools, ports: BTreeSet::new() }
    }

    /// Those that it is served on over HTTPS.
    pub(crate) fn https_hosts(&self) -> impl Iterator<Item = &HostName> {
        self.sites.iter().filter(|(_, site)| site.tls == SiteTls::Both).map(|(host, _)| host)
    }

    /// Whether it is served on this host; with `path`: at just that path.
    fn is_on(&self, host: &HostName, path: Option<&PathPrefix>) -> bool {
        let at = |site: &Site| path.is_none_or(|path| site.rules.iter().any(|rule| rule.prefix == *path));
        self.sites.get(host).is_some_and(at)
    }
}

/// Adds what is served of apps that cannot be read; where another app came to one of their places meanwhile, theirs stays. The routes of a
/// release that is promoted are all there is of its app: until the edge has taken them, what served before may be served on.
pub(crate) fn serve_unread(table: &mut Table, apps: &Apps, endpoints: &BTreeMap<PoolId, Pool>) {
    for app in apps.values() {
        let Some(unread) = &app.unread else { continue };
        if app.live.is_some() {
            unread.sites.values().flat_map(Site::pools).for_each(|pool| table.keep_pool(pool, endpoints));
            continue;
        }
        let networks = |maintenance: &Maintenance| maintenance.allow.iter().map(canonical).collect();
        let maintenance = app.maintenance.as_ref().map(|maintenance| Maintenance { allow: networks(maintenance) });
        for (host, own) in &unread.sites {
            let new = || Arc::new(Site { tls: SiteTls::Off, rules: Vec::new() });
            let site = Arc::make_mut(table.sites.entry(host.clone()).or_insert_with(new));
            if own.tls == SiteTls::Both {
                site.tls = SiteTls::Both;
            }
            site.rules.retain(|rule| own.rules.iter().all(|one| one.prefix != rule.prefix));
            let mut rules = own.rules.clone();
            rules.iter_mut().for_each(|rule| rule.policies.maintenance.clone_from(&maintenance));
            site.rules.extend(rules);
            site.rules.sort_by_key(|rule| (std::cmp::Reverse(rule.prefix.as_str().len()), rule.prefix.clone()));
        }
        for pool in unread.sites.values().flat_map(Site::pools) {
            let served = endpoints.get(pool).cloned().unwrap_or_default();
            table.pools.insert(pool.clone(), Arc::new(served));
        }
    }
}

/// Whether a release is about to take the place of one: of that there are no rules.
pub(crate) fn replaces_unread(apps: &Apps) -> bool {
    apps.values().any(|app| app.unread.is_some() && app.live.is_some())
}

impl Loop {
    /// What an app that cannot be read is served on stays its own, and so does its host for whoever does not speak for it.
    pub(crate) fn check_unread(&self, key: &AppKey, app: &App, scope: &Scope) -> Result<(), Fault> {
        let has = self.apps.get(key).and_then(|own| own.stable.as_ref()).map(|own| claims(key, own.release.app()));
        let own: Vec<HostName> = has.into_iter().flatten().map(|claim| claim.host).collect();
        let others = self.apps.iter().filter(|(other, _)| *other != key);
        for (other, unread) in others.filter_map(|(other, app)| Some((other, app.unread.as_ref()?))) {
            let is_taken = |claim: &Claim| {
                let is_foreign = !scope.covers(other) && !own.contains(&claim.host);
                unread.is_on(&claim.host, Some(&claim.path)) || is_foreign && unread.is_on(&claim.host, None)
            };
            if let Some(claim) = claims(key, app).iter().find(|claim| is_taken(claim)) {
                let fault =
                    Fault::new(FaultKind::Refused, format!("{key} cannot be served on {}{}", claim.host, claim.path));
                return Err(fault
                    .caused_by(format!("{other}, which cannot be read, is served there"))
                    .hint("give the route another host, or apply the other app again first"));
            }
        }
        Ok(())
    }

    /// Whether anything of this daemon's apps cannot be read.
    pub(crate) fn has_unread(&self) -> bool {
        self.apps.values().any(|app| app.unread.is_some())
    }

    pub(crate) fn unread_apps(&self) -> BTreeSet<AppKey> {
        self.apps.iter().filter(|(_, app)| app.unread.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Whether nothing is known of an instance but that it is there, and it does not give way.
    pub(crate) fn is_unread(&self, id: &InstanceId) -> bool {
        let app = self.apps.get(&id.slot.key).filter(|app| app.unread.is_some());
        let is_unknown = app.is_some_and(|app| app.release(id.slot.release).is_none());
        is_unknown && ResourceKey::of_slot(&id.slot).is_none() && !self.gives_way(id)
    }

    /// Whether it has a port that the release on its way is to have.
    fn gives_way(&self, id: &InstanceId) -> bool {
        let ports = self.apps.get(&id.slot.key).and_then(|app| app.unread.as_ref()).map(|unread| &unread.ports);
        let port = self.node.instances.get(id).and_then(port_of);
        ports.zip(port).is_some_and(|(ports, port)| ports.contains(&port))
    }

    /// A release that is about to start has its own ports: what cannot be read gives way on them, drained like any other.
    pub(crate) fn make_way(&mut self, key: &AppKey) -> Gate {
        let Some(app) = self.apps.get(key) else { return Gate::Open };
        let (Some(rolling), Some(unread)) = (app.preparing(), &app.unread) else { return Gate::Open };
        let services = rolling.candidate.app().services.values();
        let ports: BTreeSet<Port> = services.filter_map(|service| service.fixed_port).collect();
        let is_in_the_way = |(id, seen): (&InstanceId, &InstanceObservation)| {
            let is_older = id.slot.key == *key && app.release(id.slot.release).is_none();
            let port = port_of(seen).filter(|port| is_older && ports.contains(port))?;
            let on = format!("its end: port {port} is release {}'s", rolling.candidate.number());
            Some(bowline_api::wire::Waiting { what: id.to_string(), on })
        };
        let waits: Vec<_> = self.node.instances.iter().filter_map(is_in_the_way).collect();
        if unread.ports != ports
            && let Some(unread) = self.apps.get_mut(key).and_then(|app| app.unread.as_mut())
        {
            unread.ports = ports;
        }
        if waits.is_empty() { Gate::Open } else { Gate::Waits(waits) }
    }

    /// Nothing is on its way any more that a port would be needed for.
    pub(crate) fn keep_ports(&mut self) {
        let starts = |app: &AppWorld| {
            app.rolling().is_some_and(|rolling| match rolling.machine.phase() {
                RolloutPhase::Prepare | RolloutPhase::Step(_) | RolloutPhase::Promote | RolloutPhase::Watch => true,
                RolloutPhase::Done => true,
                RolloutPhase::Abort(_) | RolloutPhase::RolledBack | RolloutPhase::Failed => false,
            })
        };
        for app in self.apps.values_mut().filter(|app| app.unread.is_some() && !starts(app)) {
            app.unread.iter_mut().for_each(|unread| unread.ports.clear());
        }
    }

    /// Whether the first table waits: an edge may still tell what it serves of apps that cannot be read.
    pub(crate) fn awaits_edge(&mut self, now: Now) -> bool {
        let Some(until) = self.unplaced else { return false };
        let edge = &self.edge;
        // One that serves nothing has nothing to tell; of one that is not there nothing is lost.
        let tells = match (&edge.status, &edge.table) {
            (EdgeStatus::Starting, _) => true,
            (EdgeStatus::Connected, None) => edge.serving.is_some(),
            (EdgeStatus::Connected, Some(_)) | (EdgeStatus::Lost(_), _) => false,
        };
        if tells && now.mono < until {
            return true;
        }
        let table = edge.table.clone();
        for (key, app) in &mut self.apps {
            if let Some(unread) = app.unread.as_mut().filter(|_| table.is_some()) {
                *unread = Unread::new(key, unread.reasons.clone(), table.as_deref());
            }
        }
        self.unplaced = None;
        false
    }

    /// The node as the machine of slots sees it, which stops what nobody wants.
    pub(crate) fn without_unread(&self) -> Arc<Observations> {
        if !self.has_unread() {
            return Arc::clone(&self.kept_running);
        }
        let mut rest = (*self.kept_running).clone();
        rest.instances.retain(|id, _| !self.is_unread(id));
        Arc::new(rest)
    }

    /// That they are left alone; runs of jobs as well, where those cannot be read.
    pub(crate) fn unread_orders(&self) -> BTreeMap<InstanceId, InstanceOrder> {
        let left = self.node.instances.keys().filter(|id| self.is_unread(id));
        left.map(|id| (id.clone(), InstanceOrder::Keep)).collect()
    }

    /// Those of them that still run, where an edge knows them.
    pub(crate) fn unread_endpoints(&self) -> BTreeMap<PoolId, Pool> {
        let runs = |id: &InstanceId| {
            let seen = self.node.instances.get(id).filter(|_| !self.gives_way(id));
            seen.is_some_and(|seen| matches!(seen.phase, Phase::Running { .. }))
        };
        let pools = self.apps.values().filter_map(|app| app.unread.as_ref()).flat_map(|unread| &unread.pools);
        let running = |pool: &Pool| Pool {
            protocol: pool.protocol,
            endpoints: pool.endpoints.iter().filter(|(id, _)| runs(id)).map(|(id, at)| (id.clone(), *at)).collect(),
        };
        pools.map(|(id, pool)| (id.clone(), running(pool))).collect()
    }

    /// Its servers: those that run go on, whatever it asks of them.
    pub(crate) fn unread_servers(&self, app: &AppWorld) -> BTreeMap<ResourceKey, Arc<ResourceSpec>> {
        let Some(Unread { reasons, .. }) = &app.unread else { return BTreeMap::new() };
        let left = |record: &ResourceRecord, known| {
            let (port, uid) = (record.port, self.place.uid(record.uid));
            (record.key.clone(), Arc::new(ResourceSpec::Left(Left { port, uid, known })))
        };
        let own = self.resources.iter().filter(|(key, _)| key.app == app.record.key);
        let open = own.map(|(key, kept)| left(&kept.record, Some(self.managed(key, kept, (None, true), None))));
        open.chain(reasons.shut.iter().map(|record| left(record, None))).collect()
    }

    /// What runs before a release of it that cannot be read: two of them would change the same data at once.
    pub(crate) fn unread_before(&self, key: &AppKey) -> impl Iterator<Item = &InstanceId> {
        let lives = |id: &InstanceId| match self.node.instances.get(id).map(|seen| &seen.phase) {
            Some(Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. }) => true,
            Some(Phase::Exited(_) | Phase::Refused(_)) | None => false,
        };
        let is_before = |id: &InstanceId| Task::of_service(&id.slot.service) == Some(Task::Before);
        let own = self.node.instances.keys().filter(move |id| id.slot.key == *key && is_before(id));
        own.filter(move |id| self.is_unread(id) && lives(id))
    }

    /// Instances of it that run.
    pub(crate) fn unread_running(&self, key: &AppKey) -> Vec<&InstanceId> {
        let runs = |id: &InstanceId| {
            self.node.instances.get(id).is_some_and(|seen| matches!(seen.phase, Phase::Running { .. }))
        };
        let own = self.node.instances.keys().filter(|id| id.slot.key == *key && self.is_unread(id));
        own.filter(|id| Task::of_service(&id.slot.service).is_none() && runs(id)).collect()
    }

    /// What is stored when another release has taken its place: by it the next daemon knows what it is.
    pub(crate) fn mended(&self, app: &AppWorld, now: Timestamp) -> Vec<Write> {
        let Some(reasons) = &app.reasons else { return Vec::new() };
        let key = &app.record.key;
        let runs = reasons.runs.iter().map(|run| Write::RunOver(key.clone(), *run, now));
        runs.chain(reasons.scales.then(|| Write::Scales(key.clone(), app.scales.clone()))).collect()
    }

    /// What a person is told of it.
    pub(crate) fn unread_note(&self, app: &AppWorld) -> Option<String> {
        let unread = app.unread.as_ref()?;
        let Unread { reasons, is_placed, .. } = unread;
        let (key, why) = (&app.record.key, &reasons.why);
        let mut told = vec![why.causes.iter().fold(why.message.clone(), |text, cause| format!("{text}: {cause}"))];
        told.push(match self.unread_running(key).len() {
            0 => "nothing of it runs".to_owned(),
            1 => "1 instance is left as it is, and not started again where it ends".to_owned(),
            some => format!("{some} instances are left as they are, and not started again where they end"),
        });
        if !is_placed {
            told.push("on which hosts it was served is not known: nobody is led to it".to_owned());
        }
        for host in self.bare_hosts(unread) {
            told.push(format!("{host} had no certificate and gets none meanwhile: HTTPS is refused"));
        }
        if self.jobs.runs_of(key).any(|run| run.key.task == Task::Before) || !reasons.runs.is_empty() {
            told.push("what runs of its commands goes on to its end".to_owned());
        }
        if reasons.has_jobs {
            told.push("its jobs do not run meanwhile".to_owned());
        }
        Some(format!("{}. Bring its folder out again, or run the Bowline that can read it", told.join("; ")))
    }
}

fn port_of(seen: &InstanceObservation) -> Option<Port> {
    match seen.phase {
        Phase::Running { port, .. } | Phase::Stopping { port, .. } => Some(port),
        Phase::Preparing(_) | Phase::Starting | Phase::Exited(_) | Phase::Refused(_) => None,
    }
}
