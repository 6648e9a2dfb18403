//! How far a rollout is, in the steps of whoever wrote its file.

use std::time::Duration;

use super::super::jury::Look;
use super::{ASKS_AFTER, Rollout};
use crate::id::ServiceName;
use crate::rollout::{AbortStage, Phase, Plan, Presence, Replicas, Role, StepPlan, Until};
use crate::time::Mono;
use crate::units::Weight;

/// What a plan came to be: a canary of an app whose services get no requests rolls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Rolling,
    Canary,
    BlueGreen,
}

/// A step as a person counts them: one that is judged or looked at, with what has to become ready for it. A rolling
/// release has none of these, and each of its instances is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// What the candidate carries while it lasts.
    pub weight: Weight,
    /// How long it is judged at least.
    pub hold: Option<Duration>,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing has changed yet.
    Preparing,
    /// In this one of [`Plan::legs`], counted from 0.
    Leg(usize),
    /// All steps are done: what is left of the candidate starts, and its routes are told to the edge.
    Completing,
    /// It carries everything, and is still rolled back by itself.
    Watching,
    Undoing,
    Ended,
}

/// What can be said of a rollout at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub stage: Stage,
    /// What the candidate carries of the services that move by shares; where there are none, the mean of all its services.
    pub weight: Weight,
    /// The phase cannot end well before.
    pub ends: Option<Mono>,
    /// From here on somebody is asked to decide.
    pub asks: Option<Mono>,
    /// It is undone if it waits so long.
    pub gives_up: Option<Mono>,
}

impl Plan {
    pub fn style(&self) -> Style {
        match (self.shared.is_empty(), self.looked_at()) {
            (true, _) => Style::Rolling,
            (false, true) => Style::BlueGreen,
            (false, false) => Style::Canary,
        }
    }

    /// The steps as a person counts them.
    pub fn legs(&self) -> Vec<Leg> {
        let leg = |step: &StepPlan| match step.until {
            Until::Judged(hold) => Leg { weight: step.share.unwrap_or_default(), hold: Some(hold) },
            Until::Promoted => Leg { weight: step.share.unwrap_or_default(), hold: None },
            Until::Ready | Until::Stopped(_) => Leg { weight: self.proportion(step), hold: None },
        };
        self.steps.iter().filter(|step| self.is_leg(step)).map(leg).collect()
    }

    /// The one that a step of the plan belongs to; `None` after the last.
    pub fn leg(&self, step: u16) -> Option<usize> {
        let before = self.steps.iter().take(usize::from(step)).filter(|step| self.is_leg(step)).count();
        (before < self.steps.iter().filter(|step| self.is_leg(step)).count()).then_some(before)
    }

    fn is_leg(&self, step: &StepPlan) -> bool {
        let judged = |step: &StepPlan| matches!(step.until, Until::Judged(_) | Until::Promoted);
        judged(step) || !self.steps.iter().any(judged)
    }

    /// What the candidate carries in the end of a step without a share.
    fn proportion(&self, step: &StepPlan) -> Weight {
        mean(self.moving().map(|(service, presence)| {
            let Replicas { stable, candidate, .. } = step.replicas.get(service).copied().unwrap_or_default();
            let (stable, candidate) = (u32::from(stable), u32::from(candidate));
            match presence {
                Presence::Candidate => 100,
                Presence::Stable | Presence::Both | Presence::Switched => {
                    (candidate * 100).checked_div(stable + candidate).unwrap_or(0)
                }
            }
        }))
    }

    /// The services whose weights tell how far it is.
    fn moving(&self) -> impl Iterator<Item = (&ServiceName, Presence)> {
        let counts = |name: &ServiceName, presence: Presence| match self.shared.is_empty() {
            true => presence != Presence::Stable,
            false => self.shared.contains(name),
        };
        self.services.iter().map(|(name, presence)| (name, *presence)).filter(move |(name, p)| counts(name, *p))
    }
}

impl Rollout {
    pub fn standing(&self) -> Standing {
        let (ends, asks, gives_up) = self.limits();
        Standing { stage: self.stage(), weight: self.weight(), ends, asks, gives_up }
    }

    /// When the phase was entered, or taken up after a crash.
    pub fn entered(&self) -> Mono {
        self.entered
    }

    /// What the last look at each service said, in the phase that it is in.
    pub fn looks(&self) -> impl Iterator<Item = (&ServiceName, &Look)> {
        self.jury.looks()
    }

    /// What the last look said in the phase that was judged last, and is over.
    pub fn decided(&self) -> Option<(Phase, impl Iterator<Item = (&ServiceName, &Look)>)> {
        let (phase, jury) = self.before.as_ref()?;
        Some((*phase, jury.looks()))
    }

    fn stage(&self) -> Stage {
        match self.phase {
            Phase::Prepare => Stage::Preparing,
            Phase::Step(step) => self.plan.leg(step).map_or(Stage::Completing, Stage::Leg),
            Phase::Promote => Stage::Completing,
            Phase::Watch => Stage::Watching,
            Phase::Abort(AbortStage::Clear(_) | AbortStage::Restore(_) | AbortStage::Drain) => Stage::Undoing,
            Phase::Done | Phase::RolledBack | Phase::Failed => Stage::Ended,
        }
    }

    fn weight(&self) -> Weight {
        let replicas = self.replicas();
        mean(self.plan.moving().map(|(service, presence)| {
            let own = replicas.get(service).copied().unwrap_or_default();
            u32::from(self.weight_of_candidate(service, presence, own).get())
        }))
    }

    fn limits(&self) -> (Option<Mono>, Option<Mono>, Option<Mono>) {
        match self.phase {
            Phase::Step(step) => match self.plan.steps[usize::from(step)].until {
                Until::Judged(hold) => (Some(self.step_over(hold)), Some(self.over(hold + ASKS_AFTER)), None),
                // With the candidate ready it goes on in any case.
                Until::Ready => (None, None, self.deadline().filter(|_| !self.is_ready(Role::Candidate))),
                Until::Promoted => (None, Some(self.entered), None),
                Until::Stopped(_) => (None, None, None),
            },
            Phase::Watch => (Some(self.over(self.plan.watch)), None, None),
            Phase::Promote => (None, None, self.deadline()),
            Phase::Prepare | Phase::Abort(_) => (None, None, None),
            Phase::Done | Phase::RolledBack | Phase::Failed => (None, None, None),
        }
    }
}

/// Rounded down: not everything until it is everything.
fn mean(percents: impl Iterator<Item = u32>) -> Weight {
    let (sum, count) = percents.fold((0, 0), |(sum, count), percent| (sum + percent, count + 1));
    let mean = sum.checked_div(count).unwrap_or(0);
    u8::try_from(mean).ok().and_then(Weight::new).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::app::{App, Step, Strategy, sample};
    use crate::id::{EnvName, ReleaseNumber};
    use crate::rollout::{Counts, Input, Scales, Traffic, Word};

    fn plan(strategy: Strategy, replicas: u16) -> Plan {
        let mut app: App = sample::app("shop", &["web"]);
        app.environment.name = EnvName::new("production").unwrap();
        app.rollout.strategy = strategy;
        app.services.get_mut("web").unwrap().scale.min = replicas;
        Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &Scales::new())
    }

    fn canary(weights: &[u8]) -> Strategy {
        let step = |percent: &u8| Step { weight: Weight::new(*percent).unwrap(), hold: Duration::from_secs(60) };
        Strategy::Canary { steps: weights.iter().map(step).collect() }
    }

    /// Weights of the legs, and the leg of each step of the plan.
    fn check(plan: &Plan, style: Style, weights: &[u8], legs: &[Option<usize>]) {
        assert_eq!(plan.style(), style);
        assert_eq!(plan.legs().iter().map(|leg| leg.weight.get()).collect::<Vec<_>>(), weights);
        let steps = 0..u16::try_from(plan.steps.len()).unwrap();
        assert_eq!(steps.map(|step| plan.leg(step)).collect::<Vec<_>>(), legs);
    }

    #[test]
    fn a_person_counts_what_the_file_says() {
        check(&plan(canary(&[5, 25]), 1), Style::Canary, &[5, 25], &[Some(0), Some(0), Some(1), Some(1), None]);
        check(&plan(Strategy::BlueGreen, 1), Style::BlueGreen, &[0], &[Some(0), Some(0)]);
        check(&plan(Strategy::Rolling, 2), Style::Rolling, &[33, 66, 100], &[Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_rollout_says_where_it_stands() {
        let now = Mono(Duration::from_secs(100));
        let mut rollout = Rollout::start(plan(Strategy::Rolling, 1), now);
        assert_eq!((rollout.standing().stage, rollout.standing().weight), (Stage::Preparing, Weight::default()));
        rollout.handle(Input::Observed(&Counts::new(), &Traffic::new(), &Word::default()), now);
        let standing = rollout.standing();
        assert_eq!((standing.stage, standing.weight, standing.ends), (Stage::Leg(0), Weight::default(), None));
        assert!(standing.gives_up.is_some_and(|at| at > now));
        assert_eq!(BTreeMap::from_iter(rollout.looks()).len(), 0);
        rollout.handle(Input::Abort(crate::fault::Fault::new(crate::fault::FaultKind::Failed, "no")), now);
        assert_eq!(rollout.standing().stage, Stage::Undoing);
    }
}
