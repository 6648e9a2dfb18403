//! The steps of a rollout, decided before the first is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::set::{Scales, replicas_to_start};
use crate::app::{AbortRule, App, Probe, Rollout, Service, Step, Strategy};
use crate::id::{Port, ReleaseNumber, ServiceName};
use crate::instance::Readiness;
use crate::route::{LOCAL, is_reached, routed};
use crate::units::Weight;

/// When a step is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// All instances of the candidate that it asks for are ready; in the first step of a plan with shares, those of the stable
    /// release as well.
    Ready,
    /// No instance of the stable release of these services is left: stop-first.
    Stopped(BTreeSet<ServiceName>),
    /// The candidate was judged for at least this long, and is not worse than it may be.
    Judged(Duration),
    /// Somebody has looked at it and says so.
    Promoted,
}

/// How many instances of either release a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replicas {
    pub stable: u16,
    /// Of the stable release, too.
    pub baseline: u16,
    pub candidate: u16,
}

/// Which of the releases has a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Stable,
    Candidate,
    /// In both as processes: traffic moves instance by instance.
    Both,
    /// In both, and at least one has no process: traffic moves with the promotion.
    Switched,
}

/// How one service changes. It prints as a line for people, without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It has no instances yet.
    Starts { replicas: u16 },
    /// Instance by instance.
    Rolls { from: u16, to: u16 },
    /// What the stable release runs of it, or what has its port, is stopped before it starts.
    StopsFirst { from: u16, to: u16 },
    /// With a share that grows step by step while it is judged.
    Canary { from: u16, to: u16 },
    /// Beside each other, then all at once.
    BlueGreen { from: u16, to: u16 },
    /// At once, with the traffic.
    Switches,
    /// The candidate has none of it.
    Ends,
}

impl Transition {
    /// Without numbers: they change with the load, and the way does not.
    #[must_use]
    pub fn whatever_the_load(self) -> Self {
        match self {
            Self::Starts { .. } => Self::Starts { replicas: 0 },
            Self::Rolls { .. } => Self::Rolls { from: 0, to: 0 },
            Self::StopsFirst { .. } => Self::StopsFirst { from: 0, to: 0 },
            Self::Canary { .. } => Self::Canary { from: 0, to: 0 },
            Self::BlueGreen { .. } => Self::BlueGreen { from: 0, to: 0 },
            Self::Switches => Self::Switches,
            Self::Ends => Self::Ends,
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starts { replicas } => write!(f, "new, {replicas} to start"),
            Self::Rolls { from, to } => write!(f, "one by one, {from} to {to}, none fewer"),
            Self::Canary { from, to } => write!(f, "as a canary that is judged, {from} to {to}, none fewer"),
            Self::BlueGreen { from, to } => write!(f, "beside each other, then at once, {from} to {to}, none fewer"),
            Self::StopsFirst { .. } => f.write_str("stopped first, because only one process can have its port"),
            Self::Switches => f.write_str("switched at once when the new release carries the traffic"),
            Self::Ends => f.write_str("stopped after the new release carries the traffic"),
        }
    }
}

/// One step: what is wanted of every service, and what ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    pub replicas: BTreeMap<ServiceName, Replicas>,
    /// What the candidate gets of the services that are [`Plan::shared`]. `None`: in proportion to what is ready.
    pub share: Option<Weight>,
    pub until: Until,
}

/// Every choice of a rollout: the preview is the truth.
///
/// Rolling: service by service, one instance at a time, one more than wanted, none fewer; the last one of the stable
/// release stays until the edge has its routes. What shares a fixed port with
/// a service of the stable release replaces it stop-first. The first release starts all at once, and is not watched.
///
/// Canary: what has requests that can be judged gets the share of each step, beside a baseline with the same share and a
/// stable release that stays whole; then the candidate is made whole, and the rest rolls. Blue-green: the same without
/// shares; the candidate is whole before somebody has looked at it, and carries everything afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub stable: Option<ReleaseNumber>,
    pub candidate: ReleaseNumber,
    /// The services of either, static files included.
    pub services: BTreeMap<ServiceName, Presence>,
    /// At least one.
    pub steps: Vec<StepPlan>,
    /// Before anything changes: the stable release at full.
    pub before: BTreeMap<ServiceName, Replicas>,
    /// While the promoted candidate is watched: itself at full, and what is kept warm of the stable release, if memory allows.
    pub watched: BTreeMap<ServiceName, Replicas>,
    /// The candidate alone, at full.
    pub after: BTreeMap<ServiceName, Replicas>,
    /// Services of the candidate that cannot run beside the stable release: their own ones.
    pub exclusive: BTreeSet<ServiceName>,
    /// The candidate has routes, and they have hosts: the edge has something to say of it.
    pub reached: bool,
    /// Services that routes of both releases lead to, and that move by shares; none of a rolling one.
    pub shared: BTreeSet<ServiceName>,
    /// Services whose requests are looked at: those, and whatever gets requests while it is watched.
    pub judged: BTreeSet<ServiceName>,
    /// What aborts it.
    pub rules: Vec<AbortRule>,
    /// How long after its promotion the candidate is still rolled back by itself.
    pub watch: Duration,
    /// How long a step may take that waits for instances to become ready, by service.
    patience: BTreeMap<ServiceName, Duration>,
}

/// Two whole graces and what lies between them: once could be bad luck.
const ATTEMPTS: u32 = 2;

/// What starting, stopping and backing off between the attempts may take.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(45);

impl Plan {
    /// From the stable release, if there is one, to the candidate.
    pub fn new(stable: Option<(ReleaseNumber, &App)>, candidate: (ReleaseNumber, &App), scales: &Scales) -> Self {
        let (_, app) = candidate;
        // In front of whoever wrote it there is nobody to be careful with, and nothing to be measured. A first release has
        // nothing to go back to: what only fails now and then is better than nothing.
        let rollout = match (app.environment.name.as_str(), stable) {
            (LOCAL, _) | (_, None) => plainly(),
            (_, Some(_)) => app.rollout.clone(),
        };
        Self::by(rollout, stable, candidate, scales)
    }

    /// Back to a release that has served before: instance by instance, whatever its file says. Whoever goes back waits for no
    /// requests and nobody's look, and is not taken from there to what was left.
    pub fn back(stable: Option<(ReleaseNumber, &App)>, candidate: (ReleaseNumber, &App), scales: &Scales) -> Self {
        Self::by(plainly(), stable, candidate, scales)
    }

    fn by(
        rollout: Rollout,
        stable: Option<(ReleaseNumber, &App)>,
        candidate: (ReleaseNumber, &App),
        scales: &Scales,
    ) -> Self {
        let (number, app) = candidate;
        let old = stable.map(|(_, app)| &app.services);
        let names: BTreeSet<&ServiceName> = old.iter().flat_map(|old| old.keys()).chain(app.services.keys()).collect();
        let wanted = |name: &ServiceName| Replicas {
            // What rests is woken: it serves until another does, and nothing can be compared with what does not run.
            stable: old.and_then(|old| old.get(name)).map_or(0, |service| replicas_to_start(name, service, scales)),
            baseline: 0,
            candidate: app.services.get(name).map_or(0, |service| replicas_to_start(name, service, scales)),
        };
        let full: BTreeMap<ServiceName, Replicas> = names.iter().map(|name| ((*name).clone(), wanted(name))).collect();
        let before: BTreeMap<_, _> = full.iter().map(|(n, r)| (n.clone(), Replicas { candidate: 0, ..*r })).collect();
        let after: BTreeMap<_, _> = full.iter().map(|(n, r)| (n.clone(), Replicas { stable: 0, ..*r })).collect();
        let services: BTreeMap<_, _> = full
            .iter()
            .map(|(name, replicas)| {
                let has = (old.is_some_and(|old| old.contains_key(name)), app.services.contains_key(name));
                (name.clone(), presence(has, *replicas))
            })
            .collect();
        let holders = |name: &ServiceName| port_holders(stable.map(|(_, app)| app), &app.services[name]);
        let patience = names.iter().map(|name| {
            let of = |app: &App| app.services.get(*name).map(patience);
            let longest = of(app).max(stable.and_then(|(_, app)| of(app)));
            ((*name).clone(), longest.unwrap_or_default())
        });
        let exclusive: BTreeSet<_> = app.services.keys().filter(|name| !holders(name).is_empty()).cloned().collect();
        // Until the promotion these routes are served: what only the new ones lead to gets no requests.
        let routed_before = stable.map(|(_, app)| routed(app)).unwrap_or_default();
        let shared: BTreeSet<ServiceName> = match rollout.strategy {
            Strategy::Rolling => BTreeSet::new(),
            Strategy::Canary { .. } | Strategy::BlueGreen => routed(app)
                .into_iter()
                .filter(|name| routed_before.contains(name))
                .filter(|name| services.get(name) == Some(&Presence::Both) && !exclusive.contains(name))
                .collect(),
        };
        let answers = |name: &ServiceName| full.get(name).is_some_and(|full| full.candidate > 0);
        let judged = match rollout.watch.is_zero() {
            true => shared.clone(),
            false => routed(app).into_iter().filter(answers).collect(),
        };
        let steps = match stable {
            None => vec![StepPlan { replicas: full.clone(), share: None, until: Until::Ready }],
            Some(_) => Planner { full: &full, shared: &shared, holders: &holders }.steps(&rollout.strategy),
        };
        let is_warm = |name: &ServiceName| shared.contains(name) && !rollout.watch.is_zero();
        let watched = after.iter().map(|(name, replicas)| {
            let stable = if is_warm(name) { before[name].stable } else { 0 };
            (name.clone(), Replicas { stable, ..*replicas })
        });
        Self {
            stable: stable.map(|(number, _)| number),
            candidate: number,
            watched: watched.collect(),
            services,
            steps,
            before,
            after,
            exclusive,
            reached: is_reached(app),
            shared,
            judged,
            rules: rollout.abort,
            watch: rollout.watch,
            patience: patience.collect(),
        }
    }

    /// The step in which both releases come to stand beside each other: shares are of no use while one of them has nobody to
    /// answer.
    pub(super) fn brings_together(&self, step: u16) -> bool {
        step == 0 && !self.shared.is_empty()
    }

    /// How long instances of these services may take to become ready.
    pub(super) fn patience<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Duration {
        services.filter_map(|name| self.patience.get(name)).max().copied().unwrap_or_default()
    }

    /// How each service changes.
    pub fn transitions(&self) -> BTreeMap<ServiceName, Transition> {
        let transition = |(name, presence): (&ServiceName, &Presence)| {
            let (from, to) = (self.before[name].stable, self.after[name].candidate);
            let transition = match presence {
                Presence::Stable => Transition::Ends,
                Presence::Candidate => Transition::Starts { replicas: to },
                Presence::Switched => Transition::Switches,
                Presence::Both if self.exclusive.contains(name) => Transition::StopsFirst { from, to },
                Presence::Both if self.shared.contains(name) => match self.looked_at() {
                    true => Transition::BlueGreen { from, to },
                    false => Transition::Canary { from, to },
                },
                Presence::Both => Transition::Rolls { from, to },
            };
            (name.clone(), transition)
        };
        self.services.iter().map(transition).collect()
    }

    /// Somebody is to look at it before it carries anything.
    pub(super) fn looked_at(&self) -> bool {
        self.steps.iter().any(|step| step.until == Until::Promoted)
    }

    /// The step in which what is judged is whole, and everything else begins to roll: where a promotion leads.
    pub fn unjudged(&self) -> u16 {
        let last = self.steps.iter().rposition(|step| matches!(step.until, Until::Judged(_) | Until::Promoted));
        last.map_or(0, |last| u16::try_from(last + 1).unwrap_or(u16::MAX))
    }

    /// The same, one line each.
    pub fn describe(&self) -> Vec<String> {
        self.transitions().iter().map(|(name, transition)| format!("{name}: {transition}")).collect()
    }
}

/// Instance by instance, and not watched.
fn plainly() -> Rollout {
    Rollout { strategy: Strategy::Rolling, abort: Vec::new(), watch: Duration::ZERO }
}

fn presence((in_stable, in_candidate): (bool, bool), full: Replicas) -> Presence {
    match (in_stable, in_candidate) {
        (false, _) => Presence::Candidate,
        (true, false) => Presence::Stable,
        (true, true) if full.stable > 0 && full.candidate > 0 => Presence::Both,
        (true, true) => Presence::Switched,
    }
}

pub(super) fn patience(service: &Service) -> Duration {
    let grace = Readiness::of(service, true).map_or(Probe::default().grace, |health| health.probe().grace);
    grace * ATTEMPTS + BETWEEN_ATTEMPTS
}

/// The services of the stable release that have the fixed port of `service`.
fn port_holders(stable: Option<&App>, service: &Service) -> BTreeSet<ServiceName> {
    let Some((stable, port)) = stable.zip(service.fixed_port) else { return BTreeSet::new() };
    let holds = |other: &Service| other.fixed_port.map(Port::get) == Some(port.get());
    stable.services.iter().filter(|(_, other)| holds(other)).map(|(name, _)| name.clone()).collect()
}

/// The steps from the stable release alone to both beside each other only where the stable one has no counterpart.
struct Planner<'a> {
    full: &'a BTreeMap<ServiceName, Replicas>,
    shared: &'a BTreeSet<ServiceName>,
    holders: &'a dyn Fn(&ServiceName) -> BTreeSet<ServiceName>,
}

impl Planner<'_> {
    fn steps(&self, strategy: &Strategy) -> Vec<StepPlan> {
        let mut at: BTreeMap<ServiceName, Replicas> =
            self.full.iter().map(|(name, r)| (name.clone(), Replicas { candidate: 0, ..*r })).collect();
        let mut steps = Vec::new();
        let share = match (strategy, self.shared.is_empty()) {
            (Strategy::Rolling, _) | (_, true) => None,
            (Strategy::Canary { steps: wanted }, false) => Some(self.canary(&mut at, wanted, &mut steps)),
            (Strategy::BlueGreen, false) => Some(self.blue_green(&mut at, &mut steps)),
        };
        self.roll(&mut at, share, &mut steps);
        if steps.is_empty() {
            steps.push(StepPlan { replicas: at, share, until: Until::Ready });
        }
        steps.dedup();
        steps
    }

    /// Each share, when what it takes is ready, for its time. Returns the last one.
    fn canary(&self, at: &mut BTreeMap<ServiceName, Replicas>, wanted: &[Step], steps: &mut Vec<StepPlan>) -> Weight {
        self.start_what_is_new(at);
        let mut share = Weight::default();
        for step in wanted {
            for name in self.shared {
                at.insert(name.clone(), beside(self.full[name], step.weight));
            }
            steps.push(StepPlan { replicas: at.clone(), share: Some(share), until: Until::Ready });
            share = step.weight;
            steps.push(StepPlan { replicas: at.clone(), share: Some(share), until: Until::Judged(step.hold) });
        }
        self.make_whole(at);
        steps.push(StepPlan { replicas: at.clone(), share: Some(share), until: Until::Ready });
        share
    }

    fn blue_green(&self, at: &mut BTreeMap<ServiceName, Replicas>, steps: &mut Vec<StepPlan>) -> Weight {
        self.start_what_is_new(at);
        self.make_whole(at);
        let share = Weight::default();
        for until in [Until::Ready, Until::Promoted] {
            steps.push(StepPlan { replicas: at.clone(), share: Some(share), until });
        }
        share
    }

    /// The candidate's requests may need what the stable release does not have.
    fn start_what_is_new(&self, at: &mut BTreeMap<ServiceName, Replicas>) {
        let is_new = |name: &ServiceName, full: &Replicas| full.stable == 0 && (self.holders)(name).is_empty();
        at.extend(
            self.full
                .iter()
                .filter(|(name, full)| full.candidate > 0 && is_new(name, full))
                .map(|(n, f)| (n.clone(), *f)),
        );
    }

    fn make_whole(&self, at: &mut BTreeMap<ServiceName, Replicas>) {
        at.extend(self.shared.iter().map(|name| (name.clone(), self.full[name])));
    }

    /// What has no share: service by service.
    fn roll(&self, at: &mut BTreeMap<ServiceName, Replicas>, share: Option<Weight>, steps: &mut Vec<StepPlan>) {
        let rest = self.full.iter().filter(|(name, wanted)| wanted.candidate > 0 && !self.shared.contains(*name));
        for (name, wanted) in rest {
            let held: BTreeSet<ServiceName> =
                (self.holders)(name).into_iter().filter(|held| at[held].stable > 0).collect();
            if !held.is_empty() {
                held.iter().for_each(|held| at.entry(held.clone()).or_default().stable = 0);
                steps.push(StepPlan { replicas: at.clone(), share, until: Until::Stopped(held) });
            }
            let stable = at[name].stable;
            let mut step = |stable, candidate| {
                at.insert(name.clone(), Replicas { stable, baseline: 0, candidate });
                steps.push(StepPlan { replicas: at.clone(), share, until: Until::Ready });
            };
            match stable {
                0 => step(0, wanted.candidate),
                _ => {
                    for candidate in 1..=wanted.candidate {
                        step(stable.saturating_sub(candidate - 1).max(1), candidate);
                    }
                    step(0, wanted.candidate);
                }
            }
        }
    }
}

/// A canary of this share: the stable release stays whole, and its baseline has as much as there is left for it.
fn beside(full: Replicas, share: Weight) -> Replicas {
    let part = |of: u16, percent: u8| {
        let rounded = (u32::from(of) * u32::from(percent)).div_ceil(u32::from(Weight::ALL.get()));
        u16::try_from(rounded).unwrap_or(u16::MAX)
    };
    Replicas {
        stable: full.stable,
        baseline: part(full.stable, share.baseline().get()),
        candidate: part(full.candidate, share.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sample;

    fn app(services: &[(&str, u16, Option<u16>)]) -> App {
        let names: Vec<&str> = services.iter().map(|(name, ..)| *name).collect();
        let mut app = sample::app("shop", &names);
        for (name, replicas, port) in services {
            let service = app.services.get_mut(*name).unwrap();
            service.scale.min = *replicas;
            service.fixed_port = port.and_then(Port::new);
        }
        app
    }

    /// The steps of each service as `stable+candidate`, and `!` where the stable one must have stopped.
    fn steps_of(stable: Option<&App>, candidate: &App) -> Vec<String> {
        let plan = Plan::new(stable.map(|app| (ReleaseNumber(1), app)), (ReleaseNumber(2), candidate), &Scales::new());
        let line = |step: &StepPlan| {
            let stop = if step.until == Until::Ready { "" } else { "!" };
            let all: Vec<String> =
                step.replicas.values().map(|r| format!("{}+{}{stop}", r.stable, r.candidate)).collect();
            all.join(" ")
        };
        plan.steps.iter().map(line).collect()
    }

    fn check(old: Option<u16>, new: u16, expected: &[&str]) {
        let old = old.map(|old| app(&[("web", old, None)]));
        assert_eq!(steps_of(old.as_ref(), &app(&[("web", new, None)])), expected);
    }

    #[test]
    fn one_by_one_one_more_none_fewer() {
        check(None, 3, &["0+3"]);
        check(Some(1), 1, &["1+1", "0+1"]);
        check(Some(2), 2, &["2+1", "1+2", "0+2"]);
        check(Some(1), 3, &["1+1", "1+2", "1+3", "0+3"]);
        check(Some(3), 1, &["3+1", "0+1"]);
    }

    /// The whole space of small scales: surge 1, unavailable 0, the stable release last, one instance at a time.
    #[test]
    fn every_step_keeps_the_bounds() {
        for (old, new) in (1..=8).flat_map(|old| (1..=8).map(move |new| (old, new))) {
            let (old_app, new_app) = (app(&[("web", old, None)]), app(&[("web", new, None)]));
            let plan = Plan::new(Some((ReleaseNumber(1), &old_app)), (ReleaseNumber(2), &new_app), &Scales::new());
            let mut before = plan.before["web"];
            for step in &plan.steps {
                let now = step.replicas["web"];
                assert!(now.candidate - before.candidate <= 1, "{old} to {new}: {now:?}");
                assert!(now.stable + now.candidate <= old.max(new) + 1, "{old} to {new}: {now:?}");
                assert!(now.stable + before.candidate >= old.min(new), "{old} to {new}: {now:?}");
                assert!(now.stable > 0 || before.candidate == new, "{old} to {new}: {now:?}");
                before = now;
            }
            assert_eq!(before, plan.after["web"]);
        }
    }

    #[test]
    fn one_process_per_fixed_port_stops_first() {
        let (old, new) = (app(&[("web", 1, Some(3000))]), app(&[("web", 1, Some(3000))]));
        assert_eq!(steps_of(Some(&old), &new), ["0+0!", "0+1"]);
        let moved = app(&[("web", 1, Some(3001))]);
        assert_eq!(steps_of(Some(&old), &moved), ["1+1", "0+1"]);
        let renamed = app(&[("site", 1, Some(3000))]);
        assert_eq!(steps_of(Some(&old), &renamed), ["0+0! 0+0!", "0+1 0+0"]);
    }

    #[test]
    fn a_way_back_rolls_whatever_the_file_says() {
        let step = Step { weight: Weight::new(10).unwrap(), hold: Duration::from_secs(60) };
        for strategy in [Strategy::Canary { steps: vec![step] }, Strategy::BlueGreen] {
            let mut app = app(&[("web", 2, None)]);
            app.environment.name = crate::id::EnvName::new("production").unwrap();
            app.rollout = Rollout { strategy, abort: Vec::new(), watch: Duration::from_secs(600) };
            let (stable, candidate) = (Some((ReleaseNumber(2), &app)), (ReleaseNumber(1), &app));
            let forth = Plan::new(stable, candidate, &Scales::new());
            assert!(!forth.shared.is_empty() && !forth.watch.is_zero(), "{forth:?}");
            let back = Plan::back(stable, candidate, &Scales::new());
            assert_eq!((back.transitions()["web"], back.watch), (Transition::Rolls { from: 2, to: 2 }, Duration::ZERO));
            assert!(back.steps.iter().all(|step| step.share.is_none() && step.until == Until::Ready), "{back:?}");
            assert_eq!((back.judged.len(), back.rules.len()), (0, 0));
        }
    }

    #[test]
    fn services_come_one_after_the_other_and_old_ones_go_last() {
        let old = app(&[("gone", 2, None), ("web", 1, None)]);
        let new = app(&[("api", 2, None), ("web", 1, None)]);
        assert_eq!(
            steps_of(Some(&old), &new),
            ["0+2 2+0 0+0 1+0", "0+2 2+0 1+1", "0+2 2+0 0+1"].map(|s| s.replace("0+0 1+0", "1+0"))
        );
    }
}
