//! The rollout machine.

mod ready;
mod standing;
mod warmth;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::jury::{Case, Excused, Jury, LOOKS, Sentence, Traffic, is_dark};
use super::plan::{Presence, Replicas, StepPlan, Until};
use super::{AbortStage, Count, Counts, Failing, Phase, Plan, Role, Set, Word};
use crate::fault::Fault;
use crate::id::{ReleaseNumber, ServiceName};
use crate::instance::FailureCause;
use crate::time::Mono;
use crate::units::Weight;

pub use standing::{Leg, Stage, Standing, Style};
pub use warmth::Memory;

/// Failures in a row of one instance of the candidate that end the rollout.
pub const MAX_CRASHES: u32 = 3;

/// A step without enough requests asks somebody this long after its time is over; it is held on.
pub const ASKS_AFTER: Duration = Duration::from_secs(300);

/// Fewer for one that used up its whole grace: it runs, and still does not answer.
pub const MAX_NOT_READY: u32 = 2;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// The world, at any time: what runs, what the edge has counted, and its word ([`Rollout::word`]) on the phase that it is in. Call it only
    /// when the node has adopted what runs.
    Observed(&'a Counts, &'a Traffic, &'a Word),
    /// Somebody takes it as it is: nothing is judged or watched any more. Without effect once it is being undone, or has ended.
    Promote,
    /// Somebody wants it undone. Without effect once it is being undone, or has ended.
    Abort(Fault),
}

/// A phase was entered. To be stored, as an event and as the rollout's place, before what follows from it (`sets`,
/// `live`) is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Entered {
    pub was: Phase,
    pub phase: Phase,
    /// Why it is aborted; stored with the phase.
    pub reason: Option<Fault>,
    /// [`Rollout::is_cold`].
    pub cold: bool,
}

/// `what` cannot go on before `on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub what: String,
    pub on: String,
}

/// One release taking the place of another. One per app and environment.
#[derive(Debug)]
pub struct Rollout {
    plan: Plan,
    phase: Phase,
    entered: Mono,
    /// In this phase before that, by daemons that have looked at it.
    spent: Duration,
    reason: Option<Fault>,
    /// The latest.
    counts: Counts,
    /// They were taken after this phase was entered: only then does `none left` mean anything.
    fresh: bool,
    /// The edge's latest, on this phase.
    word: Word,
    /// The world was seen at all. Until then there is nothing to wake up for.
    looked: bool,
    /// When it was last asked: what was to happen until then has happened.
    asked: Mono,
    /// When all of the candidate that is wanted was ready last, and all that a step waits for beside it; else when this phase was entered. While
    /// the edge is silent all of it may be ready for hours, and what fails then has its whole time.
    whole: Mono,
    beside: Mono,
    jury: Jury,
    excused: Excused,
    /// Until the promotion the latest; from there on the one that it went by.
    memory: Memory,
    /// Of the phase that was judged last, and is over.
    before: Option<(Phase, Jury)>,
}

impl Rollout {
    /// A new rollout.
    pub fn start(plan: Plan, now: Mono) -> Self {
        Self::resume(plan, Phase::Prepare, None, now)
    }

    /// After a crash: what was stored last. Its deadlines begin anew, but for [`Self::having_spent`]. A step that the plan does not have, as another version
    /// of Bowline may have stored it, is its last one.
    pub fn resume(plan: Plan, phase: Phase, reason: Option<Fault>, now: Mono) -> Self {
        let last = u16::try_from(plan.steps.len() - 1).unwrap_or(u16::MAX);
        let phase = if let Phase::Step(i) = phase { Phase::Step(i.min(last)) } else { phase };
        let (counts, jury, excused) = (Counts::new(), Jury::default(), Excused::new());
        let (fresh, looked, before, spent) = (false, false, None, Duration::ZERO);
        let (entered, asked, whole, beside) = (now, now, now, now);
        let (memory, word) = (Memory::default(), Word::of_nothing(&plan));
        Self {
            plan,
            phase,
            entered,
            spent,
            reason,
            counts,
            fresh,
            word,
            looked,
            asked,
            whole,
            beside,
            jury,
            excused,
            memory,
            before,
        }
    }

    /// With the [`Self::excused`] that were stored last.
    #[must_use]
    pub fn excusing(self, rules: impl IntoIterator<Item = (ServiceName, usize)>) -> Self {
        Self { excused: rules.into_iter().collect(), ..self }
    }

    /// With the [`Self::spent`] that was stored last. What was counted in that time is not known any more: the time goes on, and
    /// the evidence begins anew.
    #[must_use]
    pub fn having_spent(self, time: Duration) -> Self {
        let before = if self.lasts().is_some() { time } else { Duration::ZERO };
        Self { spent: before, ..self }
    }

    /// For how long it was looked at in this phase, by this daemon and those before it; the time in which there was none does not
    /// count. `None`: the phase has no time of its own. To be stored now and then while it has.
    pub fn spent(&self, now: Mono) -> Option<Duration> {
        self.lasts().map(|_| now.since(self.entered) + self.spent)
    }

    /// Rules, by their position, that the stable release was found to break while a service was judged: the watch does not go
    /// back to it for one of them. To be stored with the phase.
    pub fn excused(&self) -> impl Iterator<Item = (&ServiceName, usize)> {
        self.excused.iter().map(|(service, rule)| (service, *rule))
    }

    pub fn handle(&mut self, input: Input<'_>, now: Mono) -> Vec<Entered> {
        let mut entered = Vec::new();
        self.asked = now;
        let traffic = match input {
            Input::Observed(_, traffic, _) => Some(traffic),
            Input::Promote | Input::Abort(_) => None,
        };
        match input {
            Input::Observed(counts, traffic, word) => {
                self.counts.clone_from(counts);
                self.word.clone_from(word);
                self.fresh = true;
                self.looked = true;
                self.see_ready(now);
                self.look(traffic, now);
            }
            Input::Promote => entered.extend(self.promote(now)),
            Input::Abort(reason) => entered.extend(self.abort(reason, now)),
        }
        while let Some(next) = self.next(now) {
            entered.push(match next {
                Next::Enter(phase) => self.enter(phase, now),
                Next::Abort(reason) => match self.abort(reason, now) {
                    Some(step) => step,
                    None => break,
                },
            });
        }
        // What was counted before a step begins is known as it begins.
        if let Some(traffic) = traffic {
            self.look(traffic, now);
        }
        entered
    }

    fn look(&mut self, traffic: &Traffic, now: Mono) {
        if self.is_judged() {
            let alone = self.is_alone();
            let case = Case { plan: &self.plan, excused: &self.excused, counts: &self.counts, alone };
            self.jury.look(case, traffic, now);
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The services whose requests are told apart by release now; `None`: of none, since nothing beside each other is compared, and no release
    /// is watched.
    pub fn judged(&self) -> Option<&BTreeSet<ServiceName>> {
        let compares = !self.plan.shared.is_empty() || matches!(self.phase, Phase::Promote | Phase::Watch);
        Some(&self.plan.judged).filter(|_| compares)
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why it is or was aborted.
    pub fn reason(&self) -> Option<&Fault> {
        self.reason.as_ref()
    }

    /// What is wanted now, of the stable release and of the candidate, service by service.
    pub fn sets(&self) -> Vec<Set> {
        let replicas = self.replicas();
        replicas.iter().flat_map(|(service, replicas)| self.sets_of(service, *replicas)).collect()
    }

    /// The release whose routes and static files are served; `None` after the first release failed.
    pub fn live(&self) -> Option<ReleaseNumber> {
        let (stable, candidate) = (self.plan.stable, self.plan.candidate);
        match self.phase {
            Phase::Prepare | Phase::Step(_) => Some(stable.unwrap_or(candidate)),
            Phase::Promote | Phase::Watch | Phase::Done => Some(candidate),
            Phase::Abort(AbortStage::Clear(step) | AbortStage::Restore(step)) if self.is_after(step) => Some(candidate),
            Phase::Abort(_) => Some(stable.unwrap_or(candidate)),
            Phase::RolledBack | Phase::Failed => stable,
        }
    }

    /// When to call `handle` again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        // What is left to wait for is the edge alone, and it has all the time that it takes.
        let waits_for_edge = |at: &Mono| self.asks_edge() && *at <= self.asked;
        self.deadline().filter(|at| self.looked && !waits_for_edge(at))
    }
}

impl Rollout {
    /// How long this phase is to be looked at, if that is what ends it.
    fn lasts(&self) -> Option<Duration> {
        match self.phase {
            Phase::Step(i) => match self.plan.steps[usize::from(i)].until {
                Until::Judged(hold) => Some(hold),
                Until::Ready | Until::Stopped(_) | Until::Promoted => None,
            },
            Phase::Watch => Some(self.plan.watch),
            Phase::Prepare | Phase::Promote | Phase::Done => None,
            Phase::Abort(_) | Phase::RolledBack | Phase::Failed => None,
        }
    }

    /// The same of a step, in which nobody of the candidate may have been seen to answer nobody for all of its time.
    fn step_over(&self, time: Duration) -> Mono {
        let calm = self.jury.shaken().map(|shaken| shaken + time);
        self.over(time).max(calm.unwrap_or_default())
    }

    /// When it will have been looked at for so long in this phase.
    fn over(&self, time: Duration) -> Mono {
        self.entered + time.saturating_sub(self.spent)
    }
}

fn too_often(Failing { crashes, last }: &Failing) -> bool {
    is_enough(*crashes, &last.cause)
}

/// Another try would not help one that has failed as often, this way last.
pub(super) fn is_enough(crashes: u32, last: &FailureCause) -> bool {
    let most = match last {
        FailureCause::NotReady { .. } | FailureCause::NotStarted { .. } => MAX_NOT_READY,
        FailureCause::Exited(_) | FailureCause::Refused(_) | FailureCause::NotAlive { .. } | FailureCause::Lost => {
            MAX_CRASHES
        }
    };
    crashes >= most
}

/// What follows from the world.
enum Next {
    Enter(Phase),
    Abort(Fault),
}

impl Rollout {
    fn deadline(&self) -> Option<Mono> {
        match self.phase {
            Phase::Prepare => Some(self.entered),
            Phase::Step(i) => match self.plan.steps[usize::from(i)].until {
                Until::Ready => self.waits_since(i).map(|since| since + self.patience_of_step(i)),
                Until::Judged(hold) => {
                    let all = [self.jury.next_look(), Some(self.step_over(hold))];
                    all.into_iter().flatten().filter(|at| *at > self.asked).min()
                }
                Until::Stopped(_) | Until::Promoted => None,
            },
            Phase::Watch => {
                let look = self.jury.next_look().filter(|_| !self.plan.judged.is_empty());
                look.into_iter().chain([self.over(self.plan.watch)]).min()
            }
            Phase::Abort(AbortStage::Restore(_)) => Some(self.entered.max(self.beside) + self.patience(Role::Stable)),
            Phase::Promote => (!self.is_ready(Role::Candidate)).then(|| self.whole + self.patience(Role::Candidate)),
            Phase::Abort(AbortStage::Clear(_) | AbortStage::Drain) => None,
            Phase::Done | Phase::RolledBack | Phase::Failed => None,
        }
    }

    fn next(&self, now: Mono) -> Option<Next> {
        let late = self.deadline().is_some_and(|deadline| now >= deadline);
        match self.phase {
            Phase::Prepare => Some(Next::Enter(Phase::Step(0))),
            Phase::Step(i) => self.next_of_step(i, late, now),
            Phase::Promote => self.next_of_promotion(late),
            Phase::Watch => match (self.failing(), self.jury.fails()) {
                (Some(last), _) => Some(Next::Abort(self.crashed(last))),
                (None, Some(verdict)) => Some(Next::Abort(self.condemned(&verdict))),
                (None, None) => (now >= self.over(self.plan.watch)).then_some(Next::Enter(Phase::Done)),
            },
            Phase::Abort(AbortStage::Clear(step)) => self
                .is_gone(&self.plan.exclusive, Role::Candidate)
                .then_some(Next::Enter(Phase::Abort(AbortStage::Restore(step)))),
            Phase::Abort(AbortStage::Restore(_)) => {
                (late || self.is_ready(Role::Stable)).then_some(Next::Enter(Phase::Abort(AbortStage::Drain)))
            }
            Phase::Abort(AbortStage::Drain) => {
                let end = if self.plan.stable.is_some() { Phase::RolledBack } else { Phase::Failed };
                self.is_gone(self.plan.services.keys(), Role::Candidate).then_some(Next::Enter(end))
            }
            Phase::Done | Phase::RolledBack | Phase::Failed => None,
        }
    }

    /// Its routes are told. What served before stays as it was until they are taken: it is what is gone back to if they are not. Meanwhile
    /// instances of the candidate may have ended: those that take their place are waited for, too.
    fn next_of_promotion(&self, late: bool) -> Option<Next> {
        match (&self.word, self.failing()) {
            (Word::Refused(why), _) => Some(Next::Abort(why.clone())),
            (Word::Silent(_) | Word::Taken, Some(last)) => Some(Next::Abort(self.crashed(last))),
            (Word::Silent(_) | Word::Taken, None) if late => Some(Next::Abort(self.too_late())),
            (Word::Taken, None) => self.is_ready(Role::Candidate).then_some(Next::Enter(Phase::Watch)),
            (Word::Silent(_), None) => None,
        }
    }

    fn next_of_step(&self, i: u16, late: bool, now: Mono) -> Option<Next> {
        if let Some(last) = self.failing() {
            return Some(Next::Abort(self.crashed(last)));
        }
        if let Word::Refused(why) = &self.word {
            return Some(Next::Abort(why.clone()));
        }
        let over = match &self.plan.steps[usize::from(i)].until {
            // A broken stable release does not keep its fix out.
            Until::Ready if self.is_ready(Role::Candidate) => {
                let is_taken = self.word == Word::Taken || !self.plan.comes_before_a_share(i);
                is_taken && (late || self.stable_to_come(i).is_empty())
            }
            Until::Ready if late => return Some(Next::Abort(self.too_late())),
            Until::Ready | Until::Promoted => false,
            Until::Stopped(services) => self.is_gone(services, Role::Stable),
            Until::Judged(hold) => match self.jury.verdict(&self.plan.shared) {
                Some(Sentence::Fail(verdict)) => return Some(Next::Abort(self.condemned(&verdict))),
                // What serves is broken: the fix is not kept waiting.
                Some(Sentence::StableBroken) => return Some(Next::Enter(Phase::Step(self.plan.unjudged()))),
                Some(Sentence::Pass) => now >= self.step_over(*hold) && !is_dark(&self.plan, &self.counts),
                None => false,
            },
        };
        let next = if self.is_after(i + 1) { Phase::Promote } else { Phase::Step(i + 1) };
        over.then_some(Next::Enter(next))
    }

    /// Straight to what is whole, or to the end of the watch; not of one that has just begun, as of two who promote at once
    /// the second means the same.
    fn promote(&mut self, now: Mono) -> Option<Entered> {
        let unjudged = self.plan.unjudged();
        match self.phase {
            Phase::Step(i) if i < unjudged && self.is_after(unjudged) => Some(self.enter(Phase::Promote, now)),
            Phase::Step(i) if i < unjudged => Some(self.enter(Phase::Step(unjudged), now)),
            Phase::Watch if now >= self.entered + LOOKS => Some(self.enter(Phase::Done, now)),
            Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_) => None,
            Phase::Done | Phase::RolledBack | Phase::Failed => None,
        }
    }

    /// Its requests tell something.
    fn is_judged(&self) -> bool {
        match self.phase {
            Phase::Step(i) => matches!(self.plan.steps[usize::from(i)].until, Until::Judged(_)),
            Phase::Watch => true,
            Phase::Prepare | Phase::Promote | Phase::Done => false,
            Phase::Abort(_) | Phase::RolledBack | Phase::Failed => false,
        }
    }

    /// It carries everything: nothing is left for a baseline, and nothing beside it that the rules could be about.
    fn is_alone(&self) -> bool {
        match self.phase {
            Phase::Step(i) => self.plan.steps[usize::from(i)].share == Some(Weight::ALL),
            Phase::Watch => true,
            Phase::Prepare | Phase::Promote | Phase::Done => false,
            Phase::Abort(_) | Phase::RolledBack | Phase::Failed => false,
        }
    }

    fn enter(&mut self, phase: Phase, now: Mono) -> Entered {
        let was = std::mem::replace(&mut self.phase, phase);
        (self.entered, self.spent) = (now, Duration::ZERO);
        (self.whole, self.beside) = (now, now);
        (self.fresh, self.word) = (false, Word::of_nothing(&self.plan));
        let jury = std::mem::take(&mut self.jury);
        self.excused.extend(jury.broken());
        if jury.looks().next().is_some() {
            self.before = Some((was, jury));
        }
        Entered { was, phase, reason: self.reason.clone(), cold: self.is_cold() }
    }

    /// Abort wins over everything but an end.
    fn abort(&mut self, reason: Fault, now: Mono) -> Option<Entered> {
        let step = match self.phase {
            Phase::Prepare => None,
            Phase::Step(i) => Some(i),
            // Nothing has changed since its last step but the routes.
            Phase::Promote => Some(self.last_step()),
            Phase::Watch => Some(self.last_step() + 1),
            Phase::Abort(_) | Phase::Done | Phase::RolledBack | Phase::Failed => return None,
        };
        self.reason = Some(reason);
        let stage = match (self.plan.stable, step) {
            (None, _) | (_, None) => AbortStage::Drain,
            (Some(_), Some(step)) => AbortStage::Clear(step),
        };
        Some(self.enter(Phase::Abort(stage), now))
    }

    fn last_step(&self) -> u16 {
        u16::try_from(self.plan.steps.len() - 1).unwrap_or(u16::MAX)
    }

    /// The last instance that an edge may still lead to by the routes that it has: it stays until other routes are taken.
    fn keeps_one(&self, service: &ServiceName) -> bool {
        let plan = &self.plan;
        let is_stopped = |step: &StepPlan| matches!(&step.until, Until::Stopped(held) if held.contains(service));
        plan.services[service] == Presence::Both
            && plan.before[service].stable > 0
            && !plan.exclusive.contains(service)
            && !plan.steps.iter().any(is_stopped)
    }

    fn is_after(&self, step: u16) -> bool {
        step > self.last_step()
    }

    fn replicas(&self) -> BTreeMap<ServiceName, Replicas> {
        let plan = &self.plan;
        let at = |step: u16| plan.steps.get(usize::from(step)).map_or(&plan.watched, |step| &step.replicas);
        let mut replicas = match self.phase {
            Phase::Prepare | Phase::Abort(AbortStage::Drain) | Phase::RolledBack | Phase::Failed => &plan.before,
            Phase::Step(step) | Phase::Abort(AbortStage::Clear(step) | AbortStage::Restore(step)) => at(step),
            Phase::Promote => at(self.last_step()),
            Phase::Watch => &plan.watched,
            Phase::Done => &plan.after,
        }
        .clone();
        let is_untaken = match self.phase {
            Phase::Step(_) | Phase::Promote => true,
            Phase::Abort(AbortStage::Clear(step) | AbortStage::Restore(step)) => !self.is_after(step),
            Phase::Prepare | Phase::Watch | Phase::Done => false,
            Phase::Abort(AbortStage::Drain) | Phase::RolledBack | Phase::Failed => false,
        };
        let (alone, whole) = match self.phase {
            Phase::Abort(AbortStage::Clear(_)) => (true, false),
            Phase::Abort(AbortStage::Restore(_)) => (true, true),
            Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Done => (false, false),
            Phase::Abort(AbortStage::Drain) | Phase::RolledBack | Phase::Failed => (false, false),
        };
        for (service, replicas) in &mut replicas {
            if is_untaken && self.keeps_one(service) {
                replicas.stable = replicas.stable.max(1);
            }
            if self.is_cold() {
                replicas.stable = 0;
            }
            if alone && plan.exclusive.contains(service) {
                replicas.candidate = 0;
            }
            if whole {
                replicas.stable = plan.before[service].stable;
            }
        }
        replicas
    }

    fn sets_of(&self, service: &ServiceName, replicas: Replicas) -> Vec<Set> {
        let presence = self.plan.services[service];
        let to_candidate = self.weight_of_candidate(service, presence, replicas);
        let to_baseline = self.weight_of_baseline(service, to_candidate, replicas);
        let to_stable = match presence {
            Presence::Stable if self.live() == Some(self.plan.candidate) => Weight::default(),
            Presence::Stable | Presence::Candidate | Presence::Both | Presence::Switched => {
                let rest = to_candidate.rest().get() - to_baseline.get();
                Weight::new(rest).unwrap_or_default()
            }
        };
        let set = |release, role, replicas, weight| Set { service: service.clone(), release, role, replicas, weight };
        let baseline = self.plan.stable.map(|release| set(release, Role::Baseline, replicas.baseline, to_baseline));
        let role = if self.phase == Phase::Done { Role::Stable } else { Role::Candidate };
        let new = set(self.plan.candidate, role, replicas.candidate, to_candidate);
        let old = self.plan.stable.map(|release| set(release, Role::Stable, replicas.stable, to_stable));
        let old = old.filter(|_| presence != Presence::Candidate);
        old.into_iter()
            .chain(baseline)
            .chain([new])
            .filter(|set| set.replicas > 0 || set.weight > Weight::default())
            .collect()
    }

    fn weight_of_candidate(&self, service: &ServiceName, presence: Presence, replicas: Replicas) -> Weight {
        let promoted = self.live() == Some(self.plan.candidate);
        match (self.phase, presence) {
            (Phase::Prepare | Phase::Abort(AbortStage::Drain) | Phase::RolledBack | Phase::Failed, _)
            | (_, Presence::Stable) => Weight::default(),
            (Phase::Promote | Phase::Watch | Phase::Done, _) | (_, Presence::Candidate) => Weight::ALL,
            (Phase::Step(_) | Phase::Abort(AbortStage::Clear(_) | AbortStage::Restore(_)), Presence::Switched) => {
                if promoted {
                    Weight::ALL
                } else {
                    Weight::default()
                }
            }
            (Phase::Step(_) | Phase::Abort(AbortStage::Clear(_) | AbortStage::Restore(_)), Presence::Both) => {
                self.share_of_step(service).unwrap_or_else(|| self.share_of_candidate(service, replicas))
            }
        }
    }

    /// What the step gives it, as long as it has an instance that is ready. It is the stable release as well: while that has no
    /// other one, its part is not the candidate's.
    fn weight_of_baseline(&self, service: &ServiceName, candidate: Weight, replicas: Replicas) -> Weight {
        let Count { ready, baseline, .. } = self.count(service, Role::Baseline);
        match (replicas.baseline > 0 && baseline > 0, ready > baseline) {
            (false, _) => Weight::default(),
            (true, true) => candidate.baseline(),
            (true, false) => candidate.rest(),
        }
    }

    /// The share of the step for what is judged; none while nothing of the candidate is ready.
    fn share_of_step(&self, service: &ServiceName) -> Option<Weight> {
        let (Phase::Step(i) | Phase::Abort(AbortStage::Clear(i) | AbortStage::Restore(i))) = self.phase else {
            return None;
        };
        let share = self.plan.steps.get(usize::from(i))?.share.filter(|_| self.plan.shared.contains(service))?;
        Some(if self.count(service, Role::Candidate).ready > 0 { share } else { Weight::default() })
    }

    /// In proportion to what is ready and stays, so that every instance gets the same share.
    fn share_of_candidate(&self, service: &ServiceName, replicas: Replicas) -> Weight {
        let ready = |role, wanted: u16| u32::from(self.count(service, role).ready.min(wanted));
        let (old, new) = (ready(Role::Stable, replicas.stable), ready(Role::Candidate, replicas.candidate));
        let percent = match (old, new) {
            (_, 0) if replicas.stable > 0 || replicas.candidate == 0 => 0,
            (0, _) => 100,
            (old, new) => (new * 100 / (old + new)).clamp(1, 99),
        };
        u8::try_from(percent).ok().and_then(Weight::new).unwrap_or_default()
    }

    fn count(&self, service: &ServiceName, role: Role) -> Count {
        let release = match role {
            Role::Stable | Role::Baseline => self.plan.stable,
            Role::Candidate => Some(self.plan.candidate),
        };
        release.and_then(|release| self.counts.get(&(service.clone(), release))).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
