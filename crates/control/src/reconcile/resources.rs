//! Databases and caches: which are wanted, what instances wait for, and what is said of them.
//!
//! A release's instances are let in when all resources of its file are ready; those that run stay, whatever becomes of
//! the resources later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_api::wire::{self, Waiting};
use bowline_core::app::{App, DatabaseSource, RedisSource, ResourceKind};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber, SecretName};
use bowline_core::instance::{Observations, Wanted as WantedInstances};
use bowline_core::resource::{
    Access, External, InitScript, Managed, ResourceId, ResourceKey, ResourceObservation, ResourcePhase, ResourceSpec,
    Server, own_name,
};
use bowline_core::route::PoolId;
use bowline_core::secret::Secret;

use super::Loop;
use super::effects::Now;
use super::events;
use super::release::Release;
use super::world::{AppWorld, runs};
use crate::store::{ResourceRecord, Wanted};

/// Failures in a row of a resource that end the change which waits for it.
const MAX_FAILURES: u32 = 3;

/// A server that Bowline runs, as the store knows it, its secrets in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) record: ResourceRecord,
    pub(crate) password: Secret,
    pub(crate) admin: Option<Secret>,
    /// Identity of the environment.
    pub(crate) environment: String,
}

pub(crate) fn password_name(id: &ResourceId) -> SecretName {
    SecretName::of_resource(id.kind.as_str(), &id.name, "password")
}

/// Only Redis cannot tell the daemon from an app by its user.
pub(crate) fn admin_name(id: &ResourceId) -> Option<SecretName> {
    match id.kind {
        ResourceKind::Redis => Some(SecretName::of_resource(id.kind.as_str(), &id.name, "admin")),
        ResourceKind::Postgres | ResourceKind::MariaDb => None,
    }
}

/// A resource as a file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared<'a> {
    Managed { version: Option<u16>, persist: bool, init: Option<&'a str> },
    External { url: &'a SecretName, ca: Option<&'a SecretName> },
}

/// All resources of a file.
pub(crate) fn declared(app: &App) -> BTreeMap<ResourceId, Declared<'_>> {
    let databases = app.databases.iter().map(|((kind, name), database)| {
        let what = match &database.source {
            DatabaseSource::Managed { version } => {
                Declared::Managed { version: *version, persist: true, init: database.init.as_deref() }
            }
            DatabaseSource::External { url, ca } => Declared::External { url, ca: ca.as_ref() },
        };
        (ResourceId { kind: (*kind).into(), name: name.clone() }, what)
    });
    let redis = app.redis.iter().map(|(name, redis)| {
        let what = match &redis.source {
            RedisSource::Managed { version, persist } => {
                Declared::Managed { version: *version, persist: *persist, init: None }
            }
            RedisSource::External { url, ca } => Declared::External { url, ca: ca.as_ref() },
        };
        (ResourceId { kind: ResourceKind::Redis, name: name.clone() }, what)
    });
    databases.chain(redis).collect()
}

/// Whether the instances of a release may start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Gate {
    Open,
    Waits(Vec<Waiting>),
    /// What it waits for will not come.
    Failed(Fault),
}

impl Loop {
    /// What the store knows now.
    pub(crate) fn take_up_resources(&mut self, kept: Vec<Kept>) {
        self.resources.extend(kept.into_iter().map(|one| (one.record.key.clone(), one)));
    }

    /// What the node is to run or to ask. An app's are wanted as long as anything of it runs: it may still write.
    pub(crate) fn wanted_resources(&self, now: Now) -> BTreeMap<ResourceKey, Arc<ResourceSpec>> {
        let mut wanted = BTreeMap::new();
        for (key, app) in &self.apps {
            let older = |release: ReleaseNumber| app.release(release).is_none();
            let outlives = self.jobs.runs_of(key).any(|run| older(run.release))
                || self.one_offs_of(key).any(older)
                || (wanted_releases(app).is_empty() && (runs(&self.slots, now.mono, key) || self.jobs.lives(key)));
            if outlives {
                let before = self.published.resources().iter().filter(|(resource, _)| resource.app == *key);
                wanted.extend(before.map(|(resource, spec)| (resource.clone(), Arc::clone(spec))));
            }
            wanted.extend(self.unread_servers(app));
            wanted.extend(self.resources_of(app));
        }
        wanted
    }

    /// What an app's releases want.
    fn resources_of(&self, app: &AppWorld) -> BTreeMap<ResourceKey, Arc<ResourceSpec>> {
        let mut wanted = BTreeMap::new();
        let stable = app.stable.as_ref().map(|stable| declared(stable.release.app())).unwrap_or_default();
        for release in wanted_releases(app) {
            for (id, declared) in declared(release.app()) {
                let declared = until_promoted(declared, stable.get(&id));
                let resource = ResourceKey { app: app.record.key.clone(), id };
                if let Some(spec) = self.spec(&resource, &declared, release) {
                    wanted.insert(resource, Arc::new(spec));
                }
            }
        }
        wanted
    }

    /// `None`: it is not in the store yet, or a secret of it was revoked.
    fn spec(&self, resource: &ResourceKey, declared: &Declared<'_>, release: &Release) -> Option<ResourceSpec> {
        Some(match *declared {
            Declared::External { url, ca } => ResourceSpec::External(External {
                url: release.secrets.get(url)?.clone(),
                ca: match ca {
                    Some(ca) => Some(release.secrets.get(ca)?.clone()),
                    None => None,
                },
                release: release.number(),
            }),
            Declared::Managed { version, persist, init } => {
                let kept = self.resources.get(resource)?;
                ResourceSpec::Managed(self.managed(resource, kept, (version, persist), init))
            }
        })
    }

    /// `init`: the name of the file that fills it.
    pub(crate) fn managed(
        &self,
        resource: &ResourceKey,
        Kept { record, password, admin, environment }: &Kept,
        (version, persist): (Option<u16>, bool),
        init: Option<&str>,
    ) -> Managed {
        let script = |file: &str| {
            let sql = record.init.as_deref()?;
            Some(InitScript { file: file.to_owned(), sql: sql.into() })
        };
        Managed {
            server: Server {
                folder: self.place.resource(resource),
                version,
                persist,
                port: record.port,
                uid: self.place.uid(record.uid),
                admin: admin.clone(),
            },
            access: Access {
                user: own_name(&resource.id.name),
                database: own_name(&resource.id.name),
                password: password.clone(),
                environment: environment.clone(),
            },
            init: init.and_then(script),
        }
    }

    pub(crate) fn gate(&self, release: &Release) -> Gate {
        let mut waits = Vec::new();
        let wanted = self.apps.get(&release.revision.key).map(|app| self.resources_of(app)).unwrap_or_default();
        for (id, declared) in declared(release.app()) {
            let resource = ResourceKey { app: release.revision.key.clone(), id };
            // What was seen of another desired state says nothing about this one, and it may not be ordered yet.
            let ordered = wanted.contains_key(&resource)
                && self.published.resources().get(&resource) == wanted.get(&resource)
                && self.published.is_taken_up(&self.node);
            let current = ordered && self.is_asked(&resource, &declared, release);
            let seen = self.node.resources.get(&resource).filter(|_| current);
            let on = match seen.map(|seen| &seen.phase) {
                Some(ResourcePhase::Ready) => continue,
                Some(ResourcePhase::Failing { fault, attempts, lasting }) if *lasting || *attempts >= MAX_FAILURES => {
                    return Gate::Failed(fault.clone());
                }
                Some(phase) => phase.describe(),
                None => "the node".to_owned(),
            };
            waits.push(Waiting { what: resource.id.to_string(), on });
        }
        match waits.is_empty() {
            true => Gate::Open,
            false => Gate::Waits(waits),
        }
    }

    /// A server elsewhere answers each release by itself: for another URL it may be another one.
    fn is_asked(&self, resource: &ResourceKey, declared: &Declared<'_>, release: &Release) -> bool {
        match declared {
            Declared::Managed { .. } => true,
            Declared::External { .. } => {
                let ordered = self.published.resources().get(resource).map(|spec| &**spec);
                ordered.is_some() && ordered == self.spec(resource, declared, release).as_ref()
            }
        }
    }

    /// Pools whose instances may be started: once let in, they stay so as long as they are wanted.
    pub(crate) fn let_in(&mut self, wanted: BTreeMap<PoolId, WantedInstances>) -> BTreeMap<PoolId, WantedInstances> {
        let runs = |pool: &PoolId, node: &Observations| {
            let of_pool = |slot: &bowline_core::id::SlotId| {
                slot.key == pool.key && slot.service == pool.service && slot.release == pool.release
            };
            node.instances.keys().any(|id| of_pool(&id.slot))
        };
        let opens = |this: &Self, pool: &PoolId| {
            let release = this.apps.get(&pool.key).and_then(|app| app.release(pool.release));
            let open = release.is_none_or(|(release, _)| this.gate(release) == Gate::Open);
            this.opened.contains(pool) || runs(pool, &this.node) || open
        };
        let opened: BTreeSet<PoolId> = wanted.keys().filter(|pool| opens(self, pool)).cloned().collect();
        self.opened = opened;
        wanted.into_iter().filter(|(pool, _)| self.opened.contains(pool)).collect()
    }

    /// Whether a server of an app runs, or may have been started meanwhile.
    pub(crate) fn has_servers(&self, key: &AppKey) -> bool {
        let seen = self.node.resources.keys().any(|resource| resource.app == *key);
        let ordered = self.published.resources().keys().any(|resource| resource.app == *key);
        let unsure = self.resources.keys().any(|r| r.app == *key) && !self.published.is_taken_up(&self.node);
        seen || ordered || unsure
    }

    /// Events of what has changed since the last look at the node.
    pub(crate) fn record_resources(&mut self, before: &Observations, now: Now) {
        let name = |seen: Option<&ResourceObservation>| seen.map(|seen| state(&seen.phase));
        let keys: BTreeSet<&ResourceKey> = before.resources.keys().chain(self.node.resources.keys()).collect();
        let mut recorded = Vec::new();
        for key in keys {
            let (was, is) = (before.resources.get(key), self.node.resources.get(key));
            if name(was) != name(is) {
                let (state, was) = (name(is).unwrap_or("stopped"), name(was).unwrap_or("stopped"));
                tracing::info!(resource = %key, state, was, "resource");
                recorded.push(events::resource(key, state, was, is.map(|seen| &seen.phase), now.wall));
            }
        }
        self.record(recorded);
    }

    /// Of one app, for `status`.
    pub(crate) fn resource_status(&self, app: &AppWorld) -> Vec<wire::ResourceStatus> {
        let key = &app.record.key;
        let shown = app.shown().map(|release| declared(release.app())).unwrap_or_default();
        let kept = self.resources.keys().filter(|resource| resource.app == *key).map(|resource| &resource.id);
        let shut = app.unread.iter().flat_map(|unread| &unread.reasons.shut).map(|record| &record.key.id);
        let ids: BTreeSet<&ResourceId> = kept.chain(shut).chain(shown.keys()).collect();
        let one = |id: &ResourceId| {
            let resource = ResourceKey { app: key.clone(), id: id.clone() };
            let external = matches!(shown.get(id), Some(Declared::External { .. }));
            let seen = self.node.resources.get(&resource);
            let phase = seen.map(|seen| &seen.phase);
            let fault = match phase {
                Some(ResourcePhase::Failing { fault, .. }) => Some(fault.clone().into()),
                Some(
                    ResourcePhase::Preparing
                    | ResourcePhase::Starting { .. }
                    | ResourcePhase::Ready
                    | ResourcePhase::Stopping,
                )
                | None => None,
            };
            wire::ResourceStatus {
                kind: id.kind.to_string(),
                name: id.name.to_string(),
                state: phase.map_or("stopped", state).to_owned(),
                on: phase.filter(|p| **p != ResourcePhase::Ready).map(ResourcePhase::describe),
                external,
                // Of an app that cannot be read nobody knows.
                orphaned: app.unread.is_none() && !shown.contains_key(id),
                version: seen.and_then(|seen| seen.version.clone()),
                port: self.resources.get(&resource).filter(|_| !external).map(|kept| kept.record.port.get()),
                pid: seen.and_then(|seen| seen.pid),
                since: seen.and_then(|seen| seen.since).map(|since| since.0),
                restarts: seen.map_or(0, |seen| seen.restarts),
                memory_bytes: seen.map_or(0, |seen| seen.usage.memory.0),
                cpu_us: seen.map_or(0, |seen| seen.usage.cpu_us),
                unenforced: seen.map(|seen| seen.unenforced.clone()).unwrap_or_default(),
                fault,
            }
        };
        ids.into_iter().map(one).collect()
    }
}

/// What a change does not take away while it may still be rolled back: whether data survive a restart. Everything else
/// that cannot be had fails before the server that runs is touched.
fn until_promoted<'a>(declared: Declared<'a>, stable: Option<&Declared<'_>>) -> Declared<'a> {
    match (declared, stable) {
        (Declared::Managed { version, persist: false, init }, Some(Declared::Managed { persist: true, .. })) => {
            Declared::Managed { version, persist: true, init }
        }
        (declared @ (Declared::Managed { .. } | Declared::External { .. }), _) => declared,
    }
}

/// The releases whose resources are wanted: the one on its way last, so that its file counts.
fn wanted_releases(app: &AppWorld) -> Vec<&Release> {
    let stable = app.stable.as_ref().filter(|_| app.record.wanted == Wanted::Running).map(|s| &*s.release);
    let candidate = app.rolling().map(|rolling| &*rolling.candidate);
    stable.into_iter().chain(candidate).collect()
}

fn state(phase: &ResourcePhase) -> &'static str {
    match phase {
        ResourcePhase::Preparing => "preparing",
        ResourcePhase::Starting { .. } => "starting",
        ResourcePhase::Ready => "ready",
        ResourcePhase::Failing { .. } => "failing",
        ResourcePhase::Stopping => "stopping",
    }
}

/// The URL of a server elsewhere cannot be used.
pub(crate) fn bad_url(key: &AppKey, id: &ResourceId, secret: &SecretName, error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultKind::Invalid, format!("the URL of {id} of {key} cannot be used"))
        .caused_by(format!("secret {secret}: {error}"))
        .hint(key.command("secret set", secret.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persistence_is_turned_off_only_with_the_promotion() {
        let redis = |persist| Declared::Managed { version: Some(7), persist, init: None };
        let older = Declared::Managed { version: None, persist: true, init: None };
        let check = |wanted, stable: Option<Declared<'_>>, persists| {
            assert_eq!(until_promoted(redis(wanted), stable.as_ref()), redis(persists));
        };
        check(false, Some(older), true);
        check(false, Some(redis(false)), false);
        check(false, None, false);
        check(true, Some(redis(false)), true);
    }
}
