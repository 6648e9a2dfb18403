//! Autoscaling: each service whose file says bounds is looked at, and a number that changes is stored before it takes effect.
//!
//! It is no change of the app: it waits for nothing, nothing is undone, and whoever brings out a release is not kept waiting. While a
//! change moves the same instances the number stays as it is; a release that is watched may have more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::app::{Limits, Service};
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, InstanceId, ReleaseNumber, ServiceName};
use bowline_core::rollout::{Role, Scaled, ScaledBy, Set};
use bowline_core::route::EdgeStatus;
use bowline_core::scale::{Bound, Demand, Look, May, Policy, Report, Scaler, Signal, Target};
use bowline_core::time::Mono;

use super::Loop;
use super::change::{Change, Stage};
use super::effects::{Job, Now, Outcome, Write};
use super::events;
use super::ledger::Ledger;
use super::pending::{Pending, unexpected};
use super::release::Release;
use super::world::AppWorld;
use crate::metrics::ScalerVitals;
use crate::store::Wanted;

/// Numbers of one app that the load has changed.
pub(crate) type Targets = BTreeMap<ServiceName, Target>;

impl Loop {
    /// Looks at every service that is due, and at those that are about to be: so many looks come together, and not one by one.
    pub(crate) fn drive_scaling(&mut self, now: Now) {
        let due = self.next_scaling().is_some_and(|at| at <= now.mono);
        let mut ledger = None;
        let keys: Vec<_> = self.apps.iter().filter(|(_, app)| runs(app)).map(|(key, _)| key.clone()).collect();
        for key in keys.into_iter().filter(|key| !self.is_stopping(key) && !self.begins_round(key)).collect::<Vec<_>>()
        {
            let targets = self.look_at(&key, due, &mut ledger, now.mono);
            if targets.is_empty() {
                continue;
            }
            let event = |(service, target): (&ServiceName, &Target)| {
                Write::Event(events::scaled_by_load(&key, service, target, now.wall))
            };
            let mut writes: Vec<Write> = targets.iter().map(event).collect();
            let Some(app) = self.apps.get_mut(&key) else { continue };
            let mut scales = app.scales.clone();
            scales.extend(targets.iter().map(|(name, target)| (name.clone(), by_load(app, name, *target))));
            writes.push(Write::Scales(key.clone(), scales));
            app.rescaling = true;
            self.store(Job::Write(writes), Pending::Scaled { key, targets });
        }
        for app in self.apps.values_mut() {
            match runs(app) {
                true => app.scalers.values_mut().for_each(|scaler| scaler.skip(now.mono)),
                // What was before says nothing of what is when it runs again.
                false => app.scalers.clear(),
            }
        }
    }

    /// A round is being stored, which is planned with the numbers of now.
    fn begins_round(&self, key: &AppKey) -> bool {
        self.pending.values().any(|pending| matches!(pending, Pending::BeginRound { key: k, .. } if k == key))
    }

    /// When one is due.
    pub(crate) fn next_scaling(&self) -> Option<Mono> {
        self.apps.values().flat_map(|app| app.scalers.values().filter_map(Scaler::next_deadline)).min()
    }

    /// `due`: of all services one is due. `ledger` is made when it is needed first.
    fn look_at(&mut self, key: &AppKey, due: bool, ledger: &mut Option<Ledger>, now: Mono) -> Targets {
        let mut targets = Targets::new();
        let (may, services) = self.automatic(key);
        for (name, release, policy, limits) in services {
            let Some(app) = self.apps.get(key) else { break };
            // A number by hand is the release's before, which may come back.
            let by_hand = app.scales.get(&name).is_some_and(|scaled| scaled.by == ScaledBy::Hand);
            let may = if may == May::Rise && by_hand { May::Stay } else { may };
            let Some(target) = number(&app.sets, &name, release) else { continue };
            let demand = self.demand(key, &name);
            let is_late = |scaler: &Scaler| scaler.is_due(&policy, target, demand, now) || due && scaler.is_near(now);
            if app.scalers.get(&name).is_some_and(|scaler| !is_late(scaler)) {
                continue;
            }
            let owner = (key.clone(), name.clone(), release);
            let ledger = ledger.get_or_insert_with(|| self.ledger());
            let counts = self.slots.counts(key);
            let ready = counts.get(&(name.clone(), release)).map_or(0, |count| count.ready);
            let cpu = policy.cpu.map(|_| self.used(key, &name, release)).unwrap_or_default();
            let look = Look { policy, target, ready, demand, cpu: &cpu, room: ledger.room(&owner, limits), may };
            let windows = self.place.windows;
            let Some(app) = self.apps.get_mut(key) else { break };
            let scaler = app.scalers.entry(name.clone()).or_insert_with(|| Scaler::new(windows));
            if let Some(target) = scaler.handle(look, now) {
                ledger.book(&owner, target.to);
                targets.insert(name, target);
            }
        }
        targets
    }

    /// The services of the release that serves whose load says how many instances they have; of others nothing is remembered.
    fn automatic(&mut self, key: &AppKey) -> (May, Vec<(ServiceName, ReleaseNumber, Policy, Limits)>) {
        let Some(app) = self.apps.get_mut(key) else { return (May::Stay, Vec::new()) };
        let Some((release, may)) = serving(app) else { return (May::Stay, Vec::new()) };
        let one = |(name, service): (&ServiceName, &Service)| {
            Some((name.clone(), release.number(), Policy::of(service)?, service.limits))
        };
        let all: Vec<_> = release.app().services.iter().filter_map(one).collect();
        app.scalers.retain(|name, _| all.iter().any(|(known, ..)| known == name));
        (may, all)
    }

    /// `None`: no edge counts it.
    fn demand(&self, key: &AppKey, name: &ServiceName) -> Option<Demand> {
        let connected = self.edge.status == EdgeStatus::Connected;
        self.edge.demand.get(&(key.clone(), name.clone())).filter(|_| connected).copied()
    }

    /// Processor time of the instances that have started; what was not measured yet is not known.
    fn used(&self, key: &AppKey, name: &ServiceName, release: ReleaseNumber) -> BTreeMap<InstanceId, Duration> {
        let own = self.node.instances.iter().filter(|(id, _)| is_of(id, key, name) && id.slot.release == release);
        let measured = own.filter(|(id, seen)| self.slots.has_started(id) && seen.usage.cpu_us > 0);
        measured.map(|(id, seen)| (id.clone(), Duration::from_micros(seen.usage.cpu_us))).collect()
    }

    /// All services that are scaled by their load and run.
    pub(crate) fn scaler_vitals(&self) -> Vec<ScalerVitals> {
        let of_app = |(key, app): (&AppKey, &AppWorld)| {
            let (release, _) = serving(app).filter(|_| runs(app))?;
            let counts = self.slots.counts(key);
            let of_service = |(name, service): (&ServiceName, &Service)| {
                let Policy { min, max, .. } = Policy::of(service)?;
                Some(ScalerVitals {
                    key: key.clone(),
                    service: name.clone(),
                    min,
                    max,
                    desired: number(&app.sets, name, release.number())?,
                    ready: counts.get(&(name.clone(), release.number())).map_or(0, |count| count.ready),
                    report: app.scalers.get(name).and_then(Scaler::report).copied(),
                })
            };
            Some(release.app().services.iter().filter_map(of_service).collect::<Vec<_>>())
        };
        self.apps.iter().filter_map(of_app).flatten().collect()
    }

    /// The numbers are stored: they take effect. Where they are not, the next look asks for them again.
    pub(crate) fn scaled_by_load(&mut self, key: &AppKey, targets: &Targets, result: Result<Outcome, Fault>) {
        let Some(app) = self.apps.get_mut(key) else { return };
        app.rescaling = false;
        match result {
            Ok(Outcome::Written) => {
                for (name, target) in targets {
                    tracing::info!(app = %key, service = %name, state = target.to, was = target.was, "scaled by load");
                    let scaled = by_load(app, name, *target);
                    app.scales.insert(name.clone(), scaled);
                }
                app.settle();
            }
            Ok(other) => tracing::error!(app = %key, error = %unexpected(&other), "numbers of instances not stored"),
            Err(fault) => {
                tracing::error!(app = %key, error = %fault, causes = ?fault.causes, "numbers of instances not stored");
            }
        }
    }
}

/// The release whose number of instances is asked for, and what of it may change.
fn serving(app: &AppWorld) -> Option<(Arc<Release>, May)> {
    let stable = || app.stable.as_ref().map(|stable| Arc::clone(&stable.release));
    let busy = app.storing.is_some() || app.rescaling;
    match app.watching() {
        Some(candidate) => Some((Arc::clone(candidate), if busy { May::Stay } else { May::Rise })),
        None => {
            let may = if busy { May::Stay } else { app.change.as_ref().map_or(May::Change, beside) };
            Some((stable()?, may))
        }
    }
}

/// What may change beside a change of the app. A build may take minutes, and moves nothing: what is stored until it ends is known
/// when the rollout begins. A rollout has woken what rested; a round replaces what runs.
fn beside(change: &Change) -> May {
    match change.stage {
        Stage::Build { .. } => May::Change,
        Stage::Round(_) => May::Wake,
        Stage::Release { .. } | Stage::Rollout(_) => May::Stay,
    }
}

fn runs(app: &AppWorld) -> bool {
    app.record.wanted == Wanted::Running && app.stable.is_some()
}

fn is_of(id: &InstanceId, key: &AppKey, name: &ServiceName) -> bool {
    id.slot.key == *key && id.slot.service == *name
}

/// How many instances a service has now, besides a baseline.
fn number(sets: &[Set], name: &ServiceName, release: ReleaseNumber) -> Option<u16> {
    let its = |set: &&Set| set.service == *name && set.release == release && set.role != Role::Baseline;
    sets.iter().find(its).map(|set| set.replicas)
}

fn by_load(app: &AppWorld, name: &ServiceName, target: Target) -> Scaled {
    let service =
        serving(app).and_then(|(release, _)| release.app().services.get(name).map(|service| service.scale.min));
    Scaled { over: service.unwrap_or_default(), to: target.to, by: ScaledBy::Load }
}

/// What the bounds do to a number, for people. `None`: nothing.
pub(crate) fn bounded(Report { wanted, allowed, bound, .. }: &Report) -> Option<String> {
    Some(match bound.as_ref()? {
        Bound::Min => format!("{wanted} wanted, at least as many as the file says"),
        Bound::Max => format!("{wanted} wanted, {allowed} allowed by the file"),
        Bound::Memory => format!("{wanted} wanted, {allowed} allowed by memory"),
        Bound::Cores => format!("{wanted} wanted, {allowed} allowed by cores"),
    })
}

/// Of a service that is scaled by its load.
pub(crate) fn status(app: &AppWorld, name: &ServiceName) -> Option<wire::ScaleStatus> {
    let service = app.shown()?.app().services.get(name)?;
    let Policy { min, max, in_flight, cpu, .. } = Policy::of(service)?;
    let report = app.scalers.get(name).and_then(Scaler::report);
    let down = report.and_then(|report| report.down);
    Some(wire::ScaleStatus {
        min,
        max,
        in_flight,
        cpu_percent: cpu.map(|share| share.ppm() / 10_000),
        wanted: report.map(|report| report.wanted),
        allowed: report.map(|report| report.allowed),
        signal: report.map_or(Signal::Unknown, |report| report.signal).as_str().to_owned(),
        reason: report.map_or_else(|| Signal::Unknown.to_string(), |report| report.signal.to_string()),
        bound: report.and_then(|report| report.bound).map(|bound| bound.as_str().to_owned()),
        bounded: report.and_then(bounded),
        down_to: down.map(|(to, _)| to),
        down_in_s: down.map(|(_, within)| within.as_secs()),
    })
}
