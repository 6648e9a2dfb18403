//! `release.snapshot`: data kept as they are before `release.before` runs, which no rollback undoes.
//!
//! A daemon that is killed before what it is for has begun has it taken anew. It stays as long as its release is known.

use std::path::PathBuf;
use std::sync::Arc;

use bowline_api::wire::Waiting;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber, ResourceName};
use bowline_core::instance::VolumeMount;
use bowline_core::job::{Task, TaskKey};
use bowline_core::resource::ResourceKey;
use bowline_core::resource::data::{DataDone, DataOrder, SnapshotOf};

use super::Loop;
use super::change::RollingOut;
use super::effects::{Effect, Now};
use super::events;
use super::resources::{Declared, Gate, declared};

/// How far the snapshot of a release is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Taken {
    Asked,
    Done,
    Failed(Fault),
}

impl Loop {
    /// Asks the node for those that are due.
    pub(crate) fn drive_snapshots(&mut self) {
        let preparing = self.apps.iter().filter_map(|(key, app)| Some((key, app.preparing()?)));
        let due: Vec<(AppKey, ReleaseNumber, DataOrder)> = preparing
            .filter(|(key, rolling)| self.is_due(key, rolling))
            .map(|(key, rolling)| (key.clone(), rolling.candidate.number(), self.snapshot_order(key, rolling)))
            .collect();
        for (key, release, order) in due {
            self.snapshots.insert((key.clone(), release), Taken::Asked);
            self.effects.push(Effect::TakeSnapshot(key, release, order));
        }
        let apps = &self.apps;
        let is_on_its_way = |key: &AppKey, release: ReleaseNumber| {
            apps.get(key).and_then(|app| app.preparing()).is_some_and(|rolling| rolling.candidate.number() == release)
        };
        let gone: Vec<(AppKey, ReleaseNumber)> =
            self.snapshots.keys().filter(|(key, release)| !is_on_its_way(key, *release)).cloned().collect();
        for (key, release) in gone {
            if self.snapshots.remove(&(key.clone(), release)) == Some(Taken::Asked) {
                self.effects.push(Effect::CancelSnapshot(key, release));
            }
        }
    }

    /// Whether one is being taken.
    pub(crate) fn takes_snapshot(&self) -> bool {
        self.snapshots.values().any(|taken| *taken == Taken::Asked)
    }

    /// Whether a release waits for a snapshot, or has failed for want of it.
    pub(crate) fn gate_snapshot(&self, key: &AppKey, rolling: &RollingOut) -> Gate {
        let release = rolling.candidate.number();
        if !self.wants_snapshot(key, rolling) {
            return Gate::Open;
        }
        match self.snapshots.get(&(key.clone(), release)) {
            Some(Taken::Done) => Gate::Open,
            Some(Taken::Failed(fault)) => Gate::Failed(fault.clone()),
            Some(Taken::Asked) | None => {
                let on = format!("a snapshot of {}", names(&rolling.candidate.app().release.snapshot));
                Gate::Waits(vec![Waiting { what: format!("release {release}"), on }])
            }
        }
    }

    /// What runs before the release has not begun: data are not as they were from then on.
    fn wants_snapshot(&self, key: &AppKey, rolling: &RollingOut) -> bool {
        let task = TaskKey { app: key.clone(), task: Task::Before };
        rolling.before().is_some()
            && !rolling.candidate.app().release.snapshot.is_empty()
            && self.jobs.before(key, rolling.candidate.number()).is_none()
            && self.jobs.under_way(&task).is_none()
            && self.unread_before(key).next().is_none()
    }

    fn is_due(&self, key: &AppKey, rolling: &RollingOut) -> bool {
        self.wants_snapshot(key, rolling)
            && !self.snapshots.contains_key(&(key.clone(), rolling.candidate.number()))
            && self.gate(&rolling.candidate) == Gate::Open
    }

    fn snapshot_order(&self, key: &AppKey, rolling: &RollingOut) -> DataOrder {
        let (app, release) = (rolling.candidate.app(), rolling.candidate.number());
        let is_named = |name: &ResourceName| app.release.snapshot.contains(name);
        let managed = declared(app).into_iter().filter(|(_, what)| matches!(what, Declared::Managed { .. }));
        let servers = managed.filter(|(id, _)| is_named(&id.name)).filter_map(|(id, _)| {
            let key = ResourceKey { app: key.clone(), id };
            let server = Arc::clone(self.published.resources().get(&key)?);
            Some(SnapshotOf::Server { key, server })
        });
        let volumes = app.volumes.iter().filter(|(name, _)| is_named(name)).map(|(name, volume)| {
            let source = self.place.volume(key, name);
            let volume = VolumeMount { name: name.clone(), source, path: None, size: volume.size };
            SnapshotOf::Volume { app: key.clone(), volume }
        });
        let uid = self.apps.get(key).and_then(|app| self.place.uid(app.record.uid));
        DataOrder::Snapshot {
            into: self.place.snapshot(key, release),
            release,
            of: servers.chain(volumes).collect(),
            uid,
        }
    }

    /// The node has done it, or could not.
    pub(crate) fn snapshotted(
        &mut self,
        key: &AppKey,
        release: ReleaseNumber,
        result: Result<DataDone, Fault>,
        now: Now,
    ) {
        let app = self.apps.get(key).and_then(|app| app.preparing());
        let Some(rolling) = app.filter(|rolling| rolling.candidate.number() == release) else { return };
        let of = names(&rolling.candidate.app().release.snapshot);
        let taken = match result {
            Ok(DataDone::Snapshotted { bytes }) => {
                let path = self.place.snapshot(key, release);
                self.record(vec![events::snapshot_taken(key, release, (&of, bytes), &path, now.wall)]);
                Taken::Done
            }
            Ok(_) => {
                let fault = Fault::new(FaultKind::Failed, "the node has done something else than it was asked");
                Taken::Failed(fault.hint("this is a defect of Bowline: please report it"))
            }
            Err(fault) => {
                let begun =
                    Fault::new(fault.kind, format!("release {release} of {key} does not begin: no snapshot of {of}"));
                let begun = fault.causes.into_iter().fold(begun.caused_by(fault.message), Fault::caused_by);
                Taken::Failed(Fault { hint: fault.hint, detail: fault.detail, ..begun })
            }
        };
        self.snapshots.insert((key.clone(), release), taken);
    }

    /// Where those of the releases lie that have a row, whether it can be read or not: artifacts can be built again, and
    /// data as they were cannot be taken again.
    pub(crate) fn kept_snapshots(&self) -> impl Iterator<Item = PathBuf> {
        self.apps.iter().flat_map(|(key, app)| {
            app.roots.keys().chain(&app.unrooted).map(|release| self.place.snapshot(key, *release))
        })
    }
}

fn names(all: &[ResourceName]) -> String {
    all.iter().map(ResourceName::as_str).collect::<Vec<_>>().join(", ")
}
