//! An app that this daemon cannot read: stored by a newer one, or refused by a rule that came later. It keeps no other app from being
//! taken up. What runs of it is left as it is, and served as it was; whatever is brought out next takes its place.
//!
//! Nothing of it is started: what it would be given is what cannot be read. One that ends is not there any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::access::Scope;
use bowline_core::app::{App, HostName, PathPrefix};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, InstanceId, ReleaseNumber};
use bowline_core::instance::{InstanceOrder, Observations, Phase};
use bowline_core::job::Task;
use bowline_core::resource::{Access, Managed, ResourceKey, ResourceSpec, Server, own_name};
use bowline_core::route::{
    Action, Claim, EdgeDesired, Maintenance, Pool, PoolId, Site, SiteTls, Table, canonical, claims,
};

use super::Loop;
use super::resources::Kept;
use super::world::{AppWorld, Apps};

/// Why it cannot be read, and what an edge served of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unread {
    why: Fault,
    /// The release that serves.
    pub(crate) stable: Option<ReleaseNumber>,
    /// Its rules alone.
    sites: BTreeMap<HostName, Site>,
    pools: BTreeMap<PoolId, Pool>,
}

impl Unread {
    /// `stable`: the release that serves. `snapshot`: what an edge was told last.
    pub(crate) fn new(
        key: &AppKey,
        (why, stable): (Fault, Option<ReleaseNumber>),
        snapshot: Option<&EdgeDesired>,
    ) -> Self {
        let (mut sites, mut pools) = (BTreeMap::new(), BTreeMap::new());
        if let Some(table) = snapshot.map(|desired| &desired.table) {
            let own = |site: &Site| Site {
                rules: site.rules.iter().filter(|rule| rule.id.key == *key).cloned().collect(),
                ..site.clone()
            };
            let each = table.sites.iter().map(|(host, site)| (host.clone(), own(site)));
            sites.extend(each.filter(|(_, site)| !site.rules.is_empty()));
            let of_app = table.pools.iter().filter(|(pool, _)| pool.key == *key);
            pools.extend(of_app.map(|(pool, served)| (pool.clone(), served.clone())));
        }
        Self { why, stable, sites, pools }
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

/// Adds what is served of apps that cannot be read; where another app came to one of their places meanwhile, theirs stays.
pub(crate) fn serve_unread(table: &mut Table, apps: &Apps, endpoints: &BTreeMap<PoolId, Pool>) {
    for app in apps.values() {
        let Some(unread) = &app.unread else { continue };
        let networks = |maintenance: &Maintenance| maintenance.allow.iter().map(canonical).collect();
        let maintenance = app.maintenance.as_ref().map(|maintenance| Maintenance { allow: networks(maintenance) });
        for (host, own) in &unread.sites {
            let site = table.sites.entry(host.clone()).or_insert(Site { tls: SiteTls::Off, rules: Vec::new() });
            if own.tls == SiteTls::Both {
                site.tls = SiteTls::Both;
            }
            site.rules.retain(|rule| own.rules.iter().all(|one| one.prefix != rule.prefix));
            let mut rules = own.rules.clone();
            rules.iter_mut().for_each(|rule| rule.policies.maintenance.clone_from(&maintenance));
            site.rules.extend(rules);
            site.rules.sort_by_key(|rule| (std::cmp::Reverse(rule.prefix.as_str().len()), rule.prefix.clone()));
        }
        let forwards = unread.sites.values().flat_map(|site| &site.rules).filter_map(|rule| match &rule.action {
            Action::Forward { splits, .. } => Some(splits),
            Action::Files(_) | Action::Redirect(_) | Action::Deny => None,
        });
        for split in forwards.flatten() {
            table.pools.insert(split.pool.clone(), endpoints.get(&split.pool).cloned().unwrap_or_default());
        }
    }
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

    /// Whether nothing is known of an instance but that it is there.
    pub(crate) fn is_unread(&self, id: &InstanceId) -> bool {
        let app = self.apps.get(&id.slot.key).filter(|app| app.unread.is_some());
        app.is_some_and(|app| app.release(id.slot.release).is_none()) && ResourceKey::of_slot(&id.slot).is_none()
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
            self.node.instances.get(id).is_some_and(|seen| matches!(seen.phase, Phase::Running { .. }))
        };
        let pools = self.apps.values().filter_map(|app| app.unread.as_ref()).flat_map(|unread| &unread.pools);
        let running = |pool: &Pool| Pool {
            protocol: pool.protocol,
            endpoints: pool.endpoints.iter().filter(|(id, _)| runs(id)).map(|(id, at)| (id.clone(), *at)).collect(),
        };
        pools.map(|(id, pool)| (id.clone(), running(pool))).collect()
    }

    /// The servers that run for it: what it asks of them beyond their data is not known.
    pub(crate) fn unread_servers(&self, app: &AppWorld) -> BTreeMap<ResourceKey, Arc<ResourceSpec>> {
        if app.unread.is_none() {
            return BTreeMap::new();
        }
        let run: BTreeSet<ResourceKey> =
            self.node.instances.keys().filter_map(|id| ResourceKey::of_slot(&id.slot)).collect();
        let own = self.resources.iter().filter(|(key, _)| key.app == app.record.key && run.contains(key));
        own.map(|(key, kept)| (key.clone(), Arc::new(self.as_it_is(key, kept)))).collect()
    }

    fn as_it_is(&self, key: &ResourceKey, Kept { record, password, admin, environment }: &Kept) -> ResourceSpec {
        ResourceSpec::Managed(Managed {
            server: Server {
                folder: self.place.resource(key),
                version: None,
                persist: true,
                port: record.port,
                uid: self.place.uid(record.uid),
                admin: admin.clone(),
            },
            access: Access {
                user: own_name(&key.id.name),
                database: own_name(&key.id.name),
                password: password.clone(),
                environment: environment.clone(),
            },
            init: None,
        })
    }

    /// Instances of it that run.
    pub(crate) fn unread_running(&self, key: &AppKey) -> Vec<&InstanceId> {
        let runs = |id: &InstanceId| {
            self.node.instances.get(id).is_some_and(|seen| matches!(seen.phase, Phase::Running { .. }))
        };
        let own = self.node.instances.keys().filter(|id| id.slot.key == *key && self.is_unread(id));
        own.filter(|id| Task::of_service(&id.slot.service).is_none() && runs(id)).collect()
    }

    /// What a person is told of it.
    pub(crate) fn unread_note(&self, app: &AppWorld) -> Option<String> {
        let why = &app.unread.as_ref()?.why;
        let why = why.causes.iter().fold(why.message.clone(), |text, cause| format!("{text}: {cause}"));
        let left = match self.unread_running(&app.record.key).len() {
            0 => "nothing of it runs".to_owned(),
            1 => "1 instance is left as it is, and not started again where it ends".to_owned(),
            some => format!("{some} instances are left as they are, and not started again where they end"),
        };
        Some(format!("{why}; {left}. Bring its folder out again, or run the Bowline that can read it"))
    }
}
