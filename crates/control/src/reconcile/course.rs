//! How a rollout came to where it is: the steps that it has taken, how each was decided, and its weights over time.
//!
//! It is stored with the rollout's place, so that the next daemon knows it, too. What happened between two phases is in the
//! memory of one daemon only: its next look says it again.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_api::wire;
use bowline_core::id::ServiceName;
use bowline_core::rollout::{Figures, Look, Phase, Rollout, Ruling, Stage, Style};
use bowline_core::time::{Mono, Timestamp};
use bowline_core::verdict::{Finding, State, Tally};
use serde::{Deserialize, Serialize};

use super::effects::Now;

/// The time of a phase is stored so often: the next daemon may ask for so much of it again.
const KEPT_EVERY: Duration = Duration::from_secs(30);

/// Weights that are kept of one rollout: a step adds one, an instance that gets ready or is lost may add one. Of more, every
/// second one is left out.
const MAX_WEIGHTS: usize = 240;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub(crate) struct Course {
    /// Where it was noted last, and since when.
    place: Option<Place>,
    /// By their number, counted from 0.
    steps: BTreeMap<u32, Taken>,
    weights: Vec<wire::RolloutWeight>,
    /// Of [`Rollout::spent`].
    #[serde(default)]
    spent_ms: u64,
    /// When it was stored last, by this daemon.
    #[serde(skip)]
    kept: Option<Mono>,
    /// The phase that the machine counts from, and when it was entered by both clocks: one that is taken up counts anew.
    #[serde(skip)]
    entered: Option<(Phase, Mono, Timestamp)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Place {
    stage: wire::RolloutStage,
    /// In [`wire::RolloutStage::Step`].
    step: Option<u32>,
    since: u64,
}

/// A step that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Taken {
    began: u64,
    ended: Option<u64>,
    verdicts: Vec<wire::RolloutVerdict>,
}

impl Course {
    /// Takes down where it is now; to be called whenever the machine was shown something, before its place is stored. Returns what
    /// is to be told of a step that has just passed.
    ///
    /// `weighs`: what the machine gives the new release is what an edge is told. It is not while a daemon does not know yet how the
    /// instances are that it has found: then the edge goes on with what it has.
    pub(crate) fn note(&mut self, machine: &Rollout, weighs: bool, now: Now) -> Option<String> {
        let phase = machine.phase();
        if self.entered.is_none_or(|(was, at, _)| (was, at) != (phase, machine.entered())) {
            self.entered = Some((phase, machine.entered(), now.wall));
            self.kept = Some(now.mono);
        }
        self.spent_ms = machine.spent(now.mono).map_or(0, millis);
        let standing = machine.standing();
        let present = self.place.and_then(|place| place.step);
        self.enter(standing.stage, now.wall.0);
        let mut passed = None;
        if let Some((Phase::Step(step), looks)) = machine.decided()
            && let Some(taken) = machine.plan().leg(step).and_then(|leg| self.steps.get_mut(&number(leg)))
        {
            taken.verdicts = looks.map(verdict).collect();
            let is_over =
                present == machine.plan().leg(step).map(number) && self.place.map(|place| place.step) != Some(present);
            passed = (is_over && standing.stage != Stage::Undoing).then(|| said(machine, step, &taken.verdicts));
        }
        if weighs {
            self.weigh(standing.weight.get(), now.wall.0);
        }
        passed
    }

    /// For how long the phase that it is in was looked at, as it was stored.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_millis(self.spent_ms)
    }

    /// Whether it is to be stored again, since the phase goes by its time. Then it counts as stored. Once somebody is asked to decide
    /// nothing depends on how long that takes.
    pub(crate) fn is_to_keep(&mut self, machine: &Rollout, now: Mono) -> bool {
        let goes_on = machine.spent(now).is_some() && machine.standing().asks.is_none_or(|asks| now < asks);
        let due = goes_on && self.kept.is_none_or(|kept| now.since(kept) >= KEPT_EVERY);
        if due {
            self.kept = Some(now);
        }
        due
    }

    fn enter(&mut self, stage: Stage, at: u64) {
        let (stage, step) = match stage {
            Stage::Preparing => (wire::RolloutStage::Preparing, None),
            Stage::Leg(leg) => (wire::RolloutStage::Step, Some(number(leg))),
            Stage::Completing => (wire::RolloutStage::Completing, None),
            Stage::Watching => (wire::RolloutStage::Watching, None),
            Stage::Undoing => (wire::RolloutStage::Undoing, None),
            Stage::Ended => (wire::RolloutStage::Ended, None),
        };
        if self.place.is_some_and(|place| (place.stage, place.step) == (stage, step)) {
            return;
        }
        for taken in self.steps.values_mut().filter(|taken| taken.ended.is_none()) {
            taken.ended = Some(at);
        }
        if let Some(step) = step {
            self.steps.insert(step, Taken { began: at, ended: None, verdicts: Vec::new() });
        }
        self.place = Some(Place { stage, step, since: at });
    }

    fn weigh(&mut self, weight: u8, at: u64) {
        if self.weights.last().is_some_and(|last| last.weight == weight) {
            return;
        }
        if self.weights.len() >= MAX_WEIGHTS {
            let mut kept = 0..;
            self.weights.retain(|_| kept.next().is_some_and(|n| n % 2 == 0));
        }
        self.weights.push(wire::RolloutWeight { at, weight });
    }

    /// Some of the new release were started.
    pub(crate) fn has_begun(&self) -> bool {
        !self.steps.is_empty()
    }

    /// It, and where the machine is now.
    pub(crate) fn told(&self, machine: &Rollout) -> wire::Rollout {
        let (plan, standing) = (machine.plan(), machine.standing());
        let place = self.place.unwrap_or(Place { stage: wire::RolloutStage::Preparing, step: None, since: 0 });
        let verdicts: Vec<_> = machine.looks().map(verdict).collect();
        let legs = plan.legs();
        let step = |(at, leg): (usize, &bowline_core::rollout::Leg)| {
            let taken = self.steps.get(&number(at));
            let is_present = place.step == Some(number(at)) && !verdicts.is_empty();
            wire::RolloutStep {
                weight: leg.weight.get(),
                hold_ms: leg.hold.map(millis),
                began: taken.map(|taken| taken.began),
                ended: taken.and_then(|taken| taken.ended),
                verdicts: match (is_present, taken) {
                    (true, _) => verdicts.clone(),
                    (false, Some(taken)) => taken.verdicts.clone(),
                    (false, None) => Vec::new(),
                },
            }
        };
        wire::Rollout {
            steps: legs.iter().enumerate().map(step).collect(),
            weights: self.weights.clone(),
            outcome: match machine.phase() {
                Phase::Done => Some(wire::RolloutOutcome::TookOver),
                Phase::RolledBack | Phase::Failed => Some(wire::RolloutOutcome::TakenBack),
                Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_) => None,
            },
            now: wire::RolloutNow {
                strategy: match plan.style() {
                    Style::Rolling => wire::RolloutStrategy::Rolling,
                    Style::Canary => wire::RolloutStrategy::Canary,
                    Style::BlueGreen => wire::RolloutStrategy::BlueGreen,
                },
                stable: plan.stable.map(|number| number.0),
                candidate: plan.candidate.0,
                stage: place.stage,
                step: place.step.map(|step| step + 1),
                of: number(legs.len()),
                weight: self.weights.last().map_or(0, |last| last.weight),
                since: place.since,
                ends: standing.ends.and_then(|at| self.wall(at)),
                asks: standing.asks.and_then(|at| self.wall(at)),
                gives_up: standing.gives_up.and_then(|at| self.wall(at)),
                verdicts,
            },
        }
    }

    /// A deadline of the phase, which is the same whenever it is asked for.
    fn wall(&self, at: Mono) -> Option<u64> {
        let (_, mono, wall) = self.entered?;
        Some((wall + at.since(mono)).0)
    }
}

/// `step 1 of 4 is over, with 5%: web: canary 3 of 2,100 failed, stable 2 of 2,080; limit 1%; passed`
fn said(machine: &Rollout, step: u16, verdicts: &[wire::RolloutVerdict]) -> String {
    let legs = machine.plan().legs();
    let at = machine.plan().leg(step).unwrap_or_default();
    let weight = legs.get(at).map_or(0, |leg| leg.weight.get());
    let each: Vec<String> = verdicts.iter().map(|one| format!("{}: {}", one.service, one.text)).collect();
    let is_decided = |one: &wire::RolloutVerdict| match one.verdict {
        wire::RolloutSentence::Pass | wire::RolloutSentence::StableBroken => true,
        wire::RolloutSentence::Fail | wire::RolloutSentence::TooFewData => false,
    };
    // One that held was ended by somebody who did not wait.
    let end = if verdicts.iter().all(is_decided) { "is over" } else { "was ended by hand" };
    format!("step {} of {} {end}, with {weight}%: {}", at + 1, legs.len(), each.join("; "))
}

fn number(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn verdict((service, look): (&ServiceName, &Look)) -> wire::RolloutVerdict {
    let Look { judgement, canary, baseline, stable, dark } = look;
    wire::RolloutVerdict {
        service: service.to_string(),
        verdict: match look.ruling() {
            Ruling::Pass => wire::RolloutSentence::Pass,
            Ruling::Fail => wire::RolloutSentence::Fail,
            Ruling::TooFewData => wire::RolloutSentence::TooFewData,
            Ruling::StableBroken => wire::RolloutSentence::StableBroken,
        },
        text: look.to_string(),
        canary: figures(*canary),
        baseline: baseline.map(figures),
        stable: stable.map(figures),
        dark: dark.as_ref().map(ToString::to_string),
        rules: judgement.findings.iter().map(rule).collect(),
    }
}

fn figures(seen: Figures) -> wire::RolloutFigures {
    // Beyond the last bucket nobody knows how long.
    let micros = |d: Duration| u64::try_from(d.as_micros()).ok().filter(|_| d < Duration::MAX);
    wire::RolloutFigures {
        requests: seen.requests,
        failed: seen.failed,
        p50_us: seen.p50.and_then(micros),
        p99_us: seen.p99.and_then(micros),
    }
}

fn rule(finding: &Finding) -> wire::RolloutRule {
    let tally = |Tally { bad, of }: Tally| wire::RolloutTally { bad, of };
    let (state, needs) = match finding.state {
        State::Within => ("within", None),
        State::Exceeded => ("exceeded", None),
        State::Doubtful => ("doubtful", None),
        State::NothingBeside => ("nothing_beside", None),
        State::StableAway => ("stable_away", None),
        State::StableToo => ("stable_too", None),
        State::TooFew(needs) => ("too_few", Some(needs)),
    };
    wire::RolloutRule {
        what: finding.what().to_string(),
        limit: finding.limit.to_string(),
        state: state.to_owned(),
        needs,
        canary: tally(finding.canary),
        baseline: finding.baseline.map(tally),
        stable: finding.stable.map(tally),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_rollout_keeps_its_first_weight_and_its_last() {
        let mut course = Course::default();
        for at in 0..10_000 {
            course.weigh(u8::try_from(at % 101).unwrap(), at);
            course.weigh(u8::try_from(at % 101).unwrap(), at + 1);
        }
        let at: Vec<u64> = course.weights.iter().map(|one| one.at).collect();
        assert!(at.len() <= MAX_WEIGHTS && at.is_sorted(), "{at:?}");
        assert_eq!((at.first(), at.last()), (Some(&0), Some(&9_999)));
    }

    #[test]
    fn steps_end_where_others_begin_and_are_known_to_the_next_daemon() {
        let mut course = Course::default();
        let stages = [Stage::Preparing, Stage::Leg(0), Stage::Leg(0), Stage::Leg(1), Stage::Undoing];
        for (at, stage) in (10..).zip(stages) {
            course.enter(stage, at);
        }
        let times: Vec<_> = course.steps.values().map(|taken| (taken.began, taken.ended)).collect();
        assert_eq!(times, [(11, Some(13)), (13, Some(14))]);
        assert_eq!(course.place.map(|place| place.since), Some(14));
        let stored = serde_json::to_string(&course).unwrap();
        assert_eq!(serde_json::from_str::<Course>(&stored).unwrap(), course);
    }
}
