//! A plan: what bringing an app out would change, decided before anything of it is done.
//!
//! The preview and the change itself come from the one [`plan`]: before a change it is asked with what a build is foreseen
//! to give, and again with what the build gave. What both are made from has one canonical form, so that a plan that was
//! looked at can be held to by its hash.
//!
//! Architecture invariant: a plan holds names, versions and digests of secrets' and folders' contents, never a value of a
//! secret; and nothing that only looks at what goes on now (traffic, readiness) is part of its canonical form.

mod basis;
mod difference;
mod risk;
mod shown;

use std::collections::{BTreeMap, BTreeSet};

pub use basis::{Basis, Pin};
pub use difference::{Difference, Settings, differences};
pub use risk::{Lost, Risk};
pub use shown::Shown;

use super::{Foreseen, SecretVersion};
use crate::app::App;
use crate::id::{AppKey, Digest, ReleaseNumber, SecretName, ServiceName};
use crate::resource::ResourceId;
use crate::rollout::{self, Scales, Transition};

/// What a release is made of, as it was built or as a build is foreseen to make it.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Settled: what is static files says so.
    pub app: &'a App,
    pub settings: &'a Settings,
    pub builds: &'a BTreeMap<ServiceName, Foreseen>,
    pub secrets: &'a BTreeMap<SecretName, Pin>,
}

/// The release that was promoted last.
#[derive(Debug, Clone, Copy)]
pub struct Stable<'a> {
    pub number: ReleaseNumber,
    pub side: Side<'a>,
    /// It is meant to run, and can.
    pub runs: bool,
    /// It can be run: no secret that it pins was removed.
    pub usable: bool,
}

/// All that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'a> {
    pub key: &'a AppKey,
    pub stable: Option<Stable<'a>>,
    /// The number that the next release gets.
    pub next: ReleaseNumber,
    pub wanted: Side<'a>,
    /// Of the app's canonical text.
    pub configuration: Digest,
    /// Of the SQL that fills empty databases.
    pub scripts: &'a BTreeMap<ResourceId, Digest>,
    pub scales: &'a Scales,
    /// Services of the stable release that were seen to have WebSockets.
    pub websockets: &'a BTreeSet<ServiceName>,
}

/// What becomes of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new release takes over, or is the first.
    Release(ReleaseNumber),
    /// Nothing has changed since this one, and it is started again.
    Again(ReleaseNumber),
    /// Nothing has changed since this one, which runs.
    Unchanged(ReleaseNumber),
}

/// How what a service runs from comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildChange {
    pub service: ServiceName,
    /// `None`: the stable release has no such service.
    pub was: Option<Digest>,
    pub is: Digest,
    /// `python 3.11.2`
    pub runtime: Option<String>,
    /// It is there already.
    pub cached: bool,
}

/// What becomes of the version of a secret that instances are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretChange {
    pub name: SecretName,
    /// `None`: the stable release has none of this name.
    pub was: Option<SecretVersion>,
    /// `None`: the release will have none of this name.
    pub is: Option<Pin>,
}

/// What bringing an app out would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub key: AppKey,
    pub outcome: Outcome,
    /// Of the files, by their keys. With no stable release, each table is one difference.
    pub differences: Vec<Difference>,
    /// Of the services that run from another build than before.
    pub builds: Vec<BuildChange>,
    /// Of the secrets that are not as they were.
    pub secrets: Vec<SecretChange>,
    /// How each service changes; empty where nothing does.
    pub services: BTreeMap<ServiceName, Transition>,
    /// What becomes of the numbers of instances that were said by hand, one line each.
    pub notes: Vec<String>,
    pub risks: Vec<Risk>,
    pub basis: Basis,
}

/// Decides. The same proposal gives the same plan.
pub fn plan(proposal: Proposal<'_>) -> Plan {
    let Proposal { key, stable, next, wanted, scales, .. } = proposal;
    let old = stable.map(|stable| stable.side);
    let outcome = outcome(stable, wanted, next);
    let from = stable.filter(|stable| stable.runs).map(|stable| (stable.number, stable.side.app));
    let rollout = match outcome {
        Outcome::Release(number) => Some(rollout::Plan::new(from, (number, wanted.app), scales)),
        Outcome::Again(number) => Some(rollout::Plan::new(None, (number, wanted.app), scales)),
        Outcome::Unchanged(_) => None,
    };
    let services = rollout.as_ref().map(rollout::Plan::transitions).unwrap_or_default();
    let (differences, builds, secrets) = match outcome {
        Outcome::Release(_) => {
            (differences(old.map(|old| old.settings), wanted.settings), builds(old, wanted), secrets(old, wanted))
        }
        Outcome::Again(_) | Outcome::Unchanged(_) => (Vec::new(), Vec::new(), Vec::new()),
    };
    let risks = match (outcome, &rollout) {
        (Outcome::Release(_), Some(rollout)) => risk::risks(proposal, rollout),
        (Outcome::Release(_) | Outcome::Again(_) | Outcome::Unchanged(_), _) => Vec::new(),
    };
    let notes = if rollout.is_some() { rollout::notes(wanted.app, scales) } else { Vec::new() };
    let basis = Basis::of(proposal, outcome);
    Plan { key: key.clone(), outcome, differences, builds, secrets, services, notes, risks, basis }
}

/// A new release, or the stable one again if nothing that runs would be another.
fn outcome(stable: Option<Stable<'_>>, wanted: Side<'_>, next: ReleaseNumber) -> Outcome {
    match stable.filter(|stable| stable.usable && is_same(stable.side, wanted)) {
        Some(stable) if stable.runs => Outcome::Unchanged(stable.number),
        Some(stable) => Outcome::Again(stable.number),
        None => Outcome::Release(next),
    }
}

fn is_same(old: Side<'_>, new: Side<'_>) -> bool {
    // Where it lies and what is run there count: what was damaged is built again beside itself, under the same digest.
    let ran = |builds: &BTreeMap<ServiceName, Foreseen>| -> Option<Vec<_>> {
        let part = |(name, build): (&ServiceName, &Foreseen)| {
            let artifact = build.artifact.as_ref()?;
            Some((name.clone(), build.digest, artifact.root.clone(), artifact.run.clone(), artifact.env.clone()))
        };
        builds.iter().map(part).collect()
    };
    let built = ran(new.builds);
    old.app == new.app && old.secrets == new.secrets && built.is_some() && ran(old.builds) == built
}

fn builds(old: Option<Side<'_>>, new: Side<'_>) -> Vec<BuildChange> {
    let change = |(service, build): (&ServiceName, &Foreseen)| {
        let was = old.and_then(|old| old.builds.get(service)).map(|build| build.digest);
        let (is, runtime, cached) = (build.digest, build.runtime.clone(), build.artifact.is_some());
        (was != Some(is) || !cached).then(|| BuildChange { service: service.clone(), was, is, runtime, cached })
    };
    new.builds.iter().filter_map(change).collect()
}

fn secrets(old: Option<Side<'_>>, new: Side<'_>) -> Vec<SecretChange> {
    let none = BTreeMap::new();
    let before = old.map_or(&none, |old| old.secrets);
    let names: BTreeSet<&SecretName> = before.keys().chain(new.secrets.keys()).collect();
    let change = |name: &SecretName| {
        let was = before.get(name).and_then(|pin| pin.version());
        let is = new.secrets.get(name).copied();
        (was != is.and_then(Pin::version) || is.is_some_and(|pin| pin.version().is_none())).then(|| SecretChange {
            name: name.clone(),
            was,
            is,
        })
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests;
