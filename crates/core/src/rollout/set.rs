//! What a rollout speaks of: sets of equal instances, and how many of each are ready.

use std::collections::BTreeMap;

use crate::app::{App, Origin, Scale, Service, Strategy};
use crate::id::{InstanceId, ReleaseNumber, ServiceName};
use crate::instance::Failure;
use crate::route::{Cohort, LOCAL};
use crate::units::Weight;

/// What a release is in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The release that carried the traffic before, or carries it when no rollout runs.
    Stable,
    /// More of the same release, as fresh as a canary and with its weight: what the canary is compared with.
    Baseline,
    /// The release that takes its place.
    Candidate,
}

impl Role {
    pub fn cohort(self) -> Cohort {
        match self {
            Self::Stable | Self::Candidate => Cohort::Whole,
            Self::Baseline => Cohort::Baseline,
        }
    }
}

/// Equal instances of one release of one service. The same words drive processes, containers and Deployments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub service: ServiceName,
    pub release: ReleaseNumber,
    pub role: Role,
    /// Of a baseline: besides those of the stable set. 0 for static files, which have no process.
    pub replicas: u16,
    /// The weights of a service's sets sum to 100.
    pub weight: Weight,
}

/// The instances of each release: those of its set, and so many of a baseline that come after them.
pub fn with_baselines(sets: &[Set]) -> impl Iterator<Item = (&Set, u16)> {
    let baseline = |of: &Set| {
        let is_its = |set: &&Set| set.role == Role::Baseline && set.service == of.service && set.release == of.release;
        sets.iter().find(is_its).map_or(0, |set| set.replicas)
    };
    sets.iter().filter(|set| set.role != Role::Baseline).map(move |set| (set, baseline(set)))
}

/// How a set is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Count {
    /// They may get traffic.
    pub ready: u16,
    /// Of those, the ones of a baseline.
    pub baseline: u16,
    /// All that exist or are on order, draining ones included.
    pub total: u16,
    /// Of those, the ones for which something is made first, which has a limit of its own.
    pub preparing: u16,
    /// The instance that failed most often in a row, if one does.
    pub failing: Option<Failing>,
    /// Those whose last requests have all failed, whatever their health says: an edge leaves them out.
    pub streaks: Vec<Streak>,
}

/// Requests in a row that an instance has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streak {
    pub instance: InstanceId,
    /// It is one of a baseline.
    pub baseline: bool,
    /// So many, [`crate::route::outlier::FAILURES`] at least.
    pub failed: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Failing {
    /// In a row.
    pub crashes: u32,
    pub last: Failure,
}

pub type Counts = BTreeMap<(ServiceName, ReleaseNumber), Count>;

/// A number of instances that stands in for the one of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaled {
    /// The least that the file said then.
    pub over: u16,
    pub to: u16,
    pub by: ScaledBy,
}

/// Who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaledBy {
    /// A person. It stands for `over`, wherever a file says just that: another number in the file is a later word.
    Hand,
    /// The load, within the bounds of the file.
    Load,
}

impl Scaled {
    pub fn by_hand(over: u16, to: u16) -> Self {
        Self { over, to, by: ScaledBy::Hand }
    }

    /// Whether the file has not answered it since: with another number, or with a port that only one process can have. What
    /// the load has said holds as long as the load is asked.
    pub fn holds(self, service: &Service) -> bool {
        match self.by {
            ScaledBy::Hand => {
                self.over == service.scale.min && service.fixed_port.is_none() && !service.scale.is_automatic()
            }
            ScaledBy::Load => service.scale.is_automatic(),
        }
    }
}

/// What stands in for numbers of the file, by service.
pub type Scales = BTreeMap<ServiceName, Scaled>;

/// How many instances of a service a release has; static files have none.
pub(super) fn replicas(name: &ServiceName, service: &Service, scales: &Scales) -> u16 {
    let Scale { min, max, .. } = service.scale;
    let scaled = scales.get(name).filter(|scaled| scaled.holds(service)).map(|scaled| scaled.to);
    match (&service.origin, service.scale.is_automatic()) {
        (Origin::Static { .. }, _) => 0,
        // Before there is any load to go by, one at least shows that it gets ready.
        (_, true) => scaled.map_or(min.max(1), |to| to.clamp(min, max)),
        (_, false) if service.fixed_port.is_some() => min.min(1),
        (_, false) => scaled.unwrap_or(min),
    }
}

/// How many either release has while one takes the place of the other: as many as there were, and never none where there could be
/// some.
pub(super) fn replicas_to_start(name: &ServiceName, service: &Service, scales: &Scales) -> u16 {
    let replicas = replicas(name, service, scales);
    let has_process = !matches!(service.origin, Origin::Static { .. });
    if service.scale.is_automatic() && has_process { replicas.max(1) } else { replicas }
}

/// Of what stands in for numbers of a file, what holds where this release is the one that serves after a rollout, its own or that of
/// one that was undone.
pub fn scales_for(app: &App, scales: &Scales) -> Scales {
    // What rested was woken.
    let rests = |scaled: &Scaled| scaled.by == ScaledBy::Load && scaled.to == 0;
    let holds = |(name, scaled): &(&ServiceName, &Scaled)| {
        !rests(scaled) && app.services.get(*name).is_some_and(|service| scaled.holds(service))
    };
    scales.iter().filter(holds).map(|(name, scaled)| (name.clone(), *scaled)).collect()
}

/// What counts otherwise than this file alone says, where it is brought out; one line each.
pub fn notes(app: &App, scales: &Scales) -> Vec<String> {
    let strategy = match app.rollout.strategy {
        Strategy::Rolling => None,
        Strategy::Canary { .. } => Some("canary"),
        Strategy::BlueGreen => Some("blue-green"),
    };
    let elsewhere = strategy.filter(|_| app.environment.name.as_str() == LOCAL);
    let rolls = elsewhere
        .map(|strategy| format!("{LOCAL} rolls one by one: `strategy = {strategy:?}` is for other environments"));
    rolls.into_iter().chain(by_hand(app, scales)).collect()
}

/// What becomes of the numbers of instances that were said by hand.
fn by_hand(app: &App, scales: &Scales) -> Vec<String> {
    let line = |(name, scaled): (&ServiceName, &Scaled)| {
        let service = app.services.get(name).filter(|_| scaled.by == ScaledBy::Hand)?;
        let written = service.scale.min;
        Some(match (scaled.holds(service), service.fixed_port) {
            (false, _) if service.scale.is_automatic() => {
                format!("{name}: {} by hand ends, as the load says how many now", scaled.to)
            }
            (true, _) => format!("{name}: {} by hand stays, as the file says scale = {written} as before", scaled.to),
            (false, Some(_)) => format!("{name}: {} by hand ends, as only one process can have its `port`", scaled.to),
            (false, None) => format!("{name}: {} by hand ends, as the file says scale = {written} now", scaled.to),
        })
    };
    scales.iter().filter_map(line).collect()
}

/// The sets of a release that no rollout touches.
pub fn steady(app: &App, release: ReleaseNumber, scales: &Scales) -> Vec<Set> {
    let set = |(name, service): (&ServiceName, &Service)| Set {
        service: name.clone(),
        release,
        role: Role::Stable,
        replicas: replicas(name, service, scales),
        weight: Weight::ALL,
    };
    app.services.iter().map(set).collect()
}
