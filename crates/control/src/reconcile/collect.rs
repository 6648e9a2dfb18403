//! Which releases are kept, and so which artifacts: decided here, where it is known what runs and what may run again; the
//! node removes the rest. The newest release is always kept, so that no number is given out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bowline_core::id::{AppKey, ReleaseNumber};
use bowline_core::instance::{InstanceObservation, Phase};
use bowline_core::release::{Artifact, Kept};
use bowline_core::resource::ResourceKey;

use super::Loop;
use super::change::Stage;
use super::effects::{Effect, Job, Write};
use super::pending::Pending;
use super::world::AppWorld;

/// Releases of an app that can be gone back to, the newest ones: a mistake is noticed within a few of them, and each may be
/// hundreds of megabytes. Of those that never served, so many as well: they are shown, and built from what did not change.
pub(crate) const KEPT_RELEASES: usize = 5;

/// Where the artifacts of a release lie.
pub(crate) type Roots = BTreeSet<PathBuf>;

pub(crate) fn roots<'a>(artifacts: impl IntoIterator<Item = &'a Artifact>) -> Roots {
    artifacts.into_iter().map(|artifact| artifact.root.clone()).collect()
}

impl Loop {
    /// At the start and after a rollout, once it is known what runs. What is being built is in no release yet: it is
    /// waited for, and so is an app that cannot be read.
    pub(crate) fn collect(&mut self) {
        let going_back = self.pending.values().any(|p| matches!(p, Pending::Back { .. }));
        let building = self.apps.values().any(|app| {
            let stage = app.change.as_ref().map(|change| &change.stage);
            matches!(stage, Some(Stage::Build { .. } | Stage::Release { .. }))
        });
        let waits = building || going_back || self.takes_snapshot() || self.has_unread();
        if !self.to_collect || waits || !self.node.adopted {
            return;
        }
        self.to_collect = false;
        let runs = self.running_releases();
        let known = |(key, number): &(AppKey, ReleaseNumber)| {
            self.apps.get(key).is_some_and(|app| app.roots.contains_key(number))
        };
        if !runs.iter().all(known) {
            tracing::warn!("something runs of a release that is not known: no artifact is removed");
            return;
        }
        let mut forgotten = Vec::new();
        for (key, app) in &mut self.apps {
            let kept = kept(app, |number| runs.contains(&(key.clone(), number)));
            let gone = app.roots.keys().filter(|number| !kept.contains_key(number));
            forgotten.extend(gone.map(|number| Write::ForgetRevision(key.clone(), *number)));
            app.served.retain(|number| kept.contains_key(number));
            app.roots = kept;
        }
        let roots = self.apps.values().flat_map(|app| app.roots.values().flatten().cloned());
        let roots = roots.chain(self.kept_snapshots()).collect();
        let of = |(key, app): (&AppKey, &AppWorld)| -> Vec<_> { app.roots.keys().map(|n| (key.clone(), *n)).collect() };
        let releases = self.apps.iter().flat_map(of).collect();
        self.effects.push(Effect::Collect(Arc::new(Kept { roots, releases })));
        // What is not stored now is found again by the next look of the next daemon.
        if !forgotten.is_empty() {
            self.store(Job::Write(forgotten), Pending::Nothing);
        }
    }

    /// Of services, runs of jobs, those that still wait included, and one-offs: servers of databases run from no artifact.
    fn running_releases(&self) -> BTreeSet<(AppKey, ReleaseNumber)> {
        let lives = |seen: &InstanceObservation| match seen.phase {
            Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. } => true,
            Phase::Exited(_) | Phase::Refused(_) => false,
        };
        let slots = self.node.instances.iter().filter(|(_, seen)| lives(seen)).map(|(id, _)| &id.slot);
        let slots = slots.filter(|slot| ResourceKey::of_slot(slot).is_none());
        let slots = slots.map(|slot| (slot.key.clone(), slot.release));
        let runs = self.apps.keys().flat_map(|key| self.jobs.runs_of(key).map(|run| (key.clone(), run.release)));
        slots.chain(runs).chain(self.one_offs.values().cloned()).collect()
    }
}

/// The newest releases of those that served and of those that did not, the stable one, the first after it, the one on its way, and what runs.
fn kept(app: &AppWorld, runs: impl Fn(ReleaseNumber) -> bool) -> BTreeMap<ReleaseNumber, Roots> {
    let newest = |served: bool| {
        let numbers = app.roots.keys().rev().filter(move |number| app.served.contains(number) == served);
        numbers.take(KEPT_RELEASES).copied()
    };
    let newest: BTreeSet<ReleaseNumber> = newest(true).chain(newest(false)).collect();
    // Data were kept before the first one after the stable: what it has done to them is not undone by those after it.
    let stable = app.stable.as_ref().map(|stable| stable.release.number());
    let first = stable.and_then(|stable| app.roots.keys().find(|number| **number > stable).copied());
    let named = |number: ReleaseNumber| app.release(number).is_some() || first == Some(number);
    let kept = app.roots.iter().filter(|(number, _)| newest.contains(number) || named(**number) || runs(**number));
    kept.map(|(number, roots)| (*number, roots.clone())).collect()
}
