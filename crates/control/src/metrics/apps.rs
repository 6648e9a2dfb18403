//! Of apps: which releases share their traffic, what they may use and have promised, and how old their secrets are.

use std::collections::BTreeMap;

use bowline_core::app::Limits;
use bowline_core::id::{AppKey, InstanceId, Port, ReleaseNumber, SecretName};
use bowline_core::rollout::{Role, Set};
use bowline_core::time::Timestamp;
use bowline_core::units::{Share, float};

use super::{Families, Labels, of_app, of_instance, seconds};
use crate::folder::dotenv;
use crate::store::{Store, StoreError};

/// An app that is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AppVitals {
    pub(crate) key: AppKey,
    /// The release whose routes are served.
    pub(crate) live: Option<ReleaseNumber>,
    /// What is wanted of each release now.
    pub(crate) sets: Vec<Set>,
    /// A release, a rollback, a restart or another scale is under way.
    pub(crate) is_changing: bool,
    /// The share of requests that `[slo]` promises to answer without a server error.
    pub(crate) availability: Option<Share>,
    /// Of its instances that run, those whose service has limits.
    pub(crate) limits: Vec<(InstanceId, Limits)>,
    /// Of its instances that run, those that have metrics of their own.
    pub(crate) scraped: Vec<Scraped>,
}

/// Where an instance has metrics of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scraped {
    pub(crate) id: InstanceId,
    pub(crate) port: Port,
    pub(crate) path: String,
}

pub(super) fn encode(out: &mut Families, apps: &[AppVitals]) {
    out.gauge(
        "bowline_release_live",
        "1 for the release whose routes are served",
        apps.iter().filter_map(|app| Some((of_release(&app.key, app.live?), 1.0))),
    );
    let sets = || apps.iter().flat_map(|app| app.sets.iter().map(move |set| (of_set(&app.key, set), set)));
    out.gauge(
        "bowline_release_weight_ratio",
        "Share of a service's requests that a release is given",
        sets().map(|(labels, set)| (labels, f64::from(set.weight.get()) / 100.0)),
    );
    out.gauge(
        "bowline_release_wanted_instances",
        "Instances that a release is to have of a service",
        sets().map(|(labels, set)| (labels, f64::from(set.replicas))),
    );
    out.gauge(
        "bowline_change_running",
        "1 while a release, a rollback, a restart or another scale is under way",
        apps.iter().map(|app| (of_key(&app.key), app.is_changing.into())),
    );
    out.gauge(
        "bowline_slo_availability_ratio",
        "Share of requests that the app promises to answer without a server error",
        apps.iter().filter_map(|app| Some((of_key(&app.key), app.availability?.as_fraction()))),
    );
    let limits = || apps.iter().flat_map(|app| &app.limits);
    out.gauge(
        "bowline_instance_memory_limit_bytes",
        "Memory that an instance may use",
        limits().filter_map(|(id, limits)| Some((of_instance(id), float(limits.memory?.0)))),
    );
    out.gauge(
        "bowline_instance_cpu_limit_cores",
        "Cores that an instance may use",
        limits().filter_map(|(id, limits)| Some((of_instance(id), f64::from(limits.cpu?.0) / 1000.0))),
    );
}

/// When the newest version of each secret was set; values are not looked at.
pub(super) fn secrets(out: &mut Families, store: &Store, apps: &[AppVitals]) {
    let read = |key: &AppKey| store.read(|view| view.secrets(key));
    // A store that cannot be read is told of by `bowline_degraded`, and has no ages.
    let ages = apps.iter().filter_map(|app| Some((&app.key, newest(read(&app.key)).ok()?)));
    out.gauge(
        "bowline_secret_set_timestamp_seconds",
        "When the newest version of a secret was set",
        ages.flat_map(|(key, secrets)| {
            secrets.into_iter().map(move |(name, at)| {
                let mut labels = of_key(key);
                labels.push(("secret", name.to_string()));
                (labels, seconds(at))
            })
        }),
    );
}

fn newest(
    records: Result<Vec<crate::store::SecretRecord>, StoreError>,
) -> Result<BTreeMap<SecretName, Timestamp>, StoreError> {
    let mut newest: BTreeMap<SecretName, Timestamp> = BTreeMap::new();
    for record in records?.into_iter().filter(|one| one.revoked.is_none() && !dotenv::is_reserved(&one.name)) {
        let at = newest.entry(record.name).or_insert(record.created);
        *at = (*at).max(record.created);
    }
    Ok(newest)
}

fn of_key(key: &AppKey) -> Labels {
    vec![("app", key.app.to_string()), ("env", key.env.to_string())]
}

fn of_release(key: &AppKey, release: ReleaseNumber) -> Labels {
    let mut labels = of_key(key);
    labels.push(("release", release.to_string()));
    labels
}

fn of_set(key: &AppKey, set: &Set) -> Labels {
    let role = match set.role {
        Role::Stable => "stable",
        Role::Baseline => "baseline",
        Role::Candidate => "candidate",
    };
    let mut labels = of_app(key, Some(&set.service), Some(set.release));
    labels.push(("role", role.to_owned()));
    labels
}
