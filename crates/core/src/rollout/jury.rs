//! What is known of the requests of a step, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Counts, Plan};
use crate::id::{ReleaseNumber, ServiceName};
use crate::route::Cohort;
use crate::time::Mono;
use crate::units::Share;
use crate::verdict::{Against, Counted, Counters, Judgement, Verdict, judge};

/// How often a step is looked at.
pub const LOOKS: Duration = Duration::from_secs(5);

/// What an edge has counted, by service, release and cohort.
pub type Traffic = BTreeMap<(ServiceName, ReleaseNumber, Cohort), Counted>;

/// A rule of the plan, by its position, that is not applied to a service: the stable release did not keep it.
pub(super) type Excused = BTreeSet<(ServiceName, usize)>;

/// What requests are looked at with.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) plan: &'a Plan,
    pub(super) excused: &'a Excused,
    pub(super) counts: &'a Counts,
    /// The candidate carries everything, beside nothing, and is not held to what is excused.
    pub(super) alone: bool,
}

/// What one look at a service said, and what it saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub judgement: Judgement,
    pub canary: Figures,
    /// `None` where the candidate stands beside nothing.
    pub baseline: Option<Figures>,
    /// The stable release as a whole, the baseline included.
    pub stable: Option<Figures>,
}

/// What a release answered since a step began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub requests: u64,
    pub failed: u64,
    /// Within this, so many of those that did not fail were answered; `None` of none.
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
}

impl Figures {
    fn of(counters: &Counters) -> Self {
        let quantile = |percent: u32| counters.latency.quantile(Share::from_ppm(percent * 10_000).unwrap_or_default());
        Self { requests: counters.requests, failed: counters.failures, p50: quantile(50), p99: quantile(99) }
    }
}

/// What came in since a step began.
#[derive(Debug, Default)]
pub(super) struct Jury {
    gained: BTreeMap<(ServiceName, ReleaseNumber, Cohort), Gained>,
    last: Option<Mono>,
    looks: BTreeMap<ServiceName, Look>,
}

/// Of one pool.
#[derive(Debug)]
struct Gained {
    seen: Counted,
    all: Counters,
}

/// Of all services together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sentence {
    Fail(String),
    StableBroken,
    Pass,
}

impl Jury {
    /// Takes in what was counted; looks at it when it is time.
    pub(super) fn look(&mut self, case: Case<'_>, traffic: &Traffic, now: Mono) {
        let judged = &case.plan.judged;
        for (id @ (service, ..), counted) in traffic {
            if !judged.contains(service) {
                continue;
            }
            match self.gained.get_mut(id) {
                Some(gained) => gained.take(counted),
                // What was counted before belongs to no step: an edge that a new daemon has just found has counted in all of them.
                None => {
                    self.gained.insert(id.clone(), Gained { seen: counted.clone(), all: Counters::default() });
                }
            }
        }
        if self.last.is_some_and(|last| now < last + LOOKS) {
            return;
        }
        self.last = Some(now);
        self.looks = judged.iter().map(|service| (service.clone(), self.judge(case, service))).collect();
    }

    fn judge(&self, Case { plan, excused, counts, alone }: Case<'_>, service: &ServiceName) -> Look {
        let of = |release: ReleaseNumber, cohort| {
            self.gained.get(&(service.clone(), release, cohort)).map(|gained| gained.all.clone()).unwrap_or_default()
        };
        let canary = of(plan.candidate, Cohort::Whole);
        let beside = plan.stable.filter(|_| !alone).map(|release| {
            let baseline = of(release, Cohort::Baseline);
            let mut stable = of(release, Cohort::Whole);
            stable.merge(&baseline);
            (baseline, stable)
        });
        let ready = |release| counts.get(&(service.clone(), release)).is_some_and(|count| count.ready > 0);
        let serves = plan.stable.is_some_and(ready);
        let against = beside.as_ref().map(|(baseline, stable)| Against { baseline, stable, serves });
        let holds = |rule: &usize| !alone || !excused.contains(&(service.clone(), *rule));
        let rules: Vec<_> = (0..plan.rules.len()).filter(holds).map(|rule| plan.rules[rule]).collect();
        Look {
            judgement: judge(&rules, &canary, against),
            canary: Figures::of(&canary),
            baseline: beside.as_ref().map(|(baseline, _)| Figures::of(baseline)),
            stable: beside.as_ref().map(|(_, stable)| Figures::of(stable)),
        }
    }

    /// The rules that the stable release was found to break.
    pub(super) fn broken(&self) -> impl Iterator<Item = (ServiceName, usize)> {
        // "Over half fail" comes before the rules, and holds for everybody.
        self.looks.iter().flat_map(|(service, look)| {
            let rules = look.judgement.findings.iter().skip(1).enumerate();
            rules.filter(|(_, finding)| finding.stable_breaks).map(|(rule, _)| (service.clone(), rule))
        })
    }

    pub(super) fn next_look(&self) -> Option<Mono> {
        self.last.map(|last| last + LOOKS)
    }

    pub(super) fn judgements(&self) -> impl Iterator<Item = (&ServiceName, &Judgement)> {
        self.looks.iter().map(|(service, look)| (service, &look.judgement))
    }

    pub(super) fn looks(&self) -> impl Iterator<Item = (&ServiceName, &Look)> {
        self.looks.iter()
    }

    /// Why it is to be undone.
    pub(super) fn fails(&self) -> Option<String> {
        self.judgements().find_map(|(service, judgement)| match judgement.verdict {
            Verdict::Fail(_) => Some(format!("{service}: {judgement}")),
            Verdict::Pass | Verdict::TooFewData | Verdict::StableBroken(_) => None,
        })
    }

    /// One that fails is enough; to pass, all must, and a fix of one takes along no other that is in doubt. `None`: hold.
    pub(super) fn verdict(&self, judged: &BTreeSet<ServiceName>) -> Option<Sentence> {
        if let Some(why) = self.fails() {
            return Some(Sentence::Fail(why));
        }
        let is = |wanted: fn(&Verdict) -> bool| {
            let passes = |service| self.looks.get(service).is_some_and(|one| wanted(&one.judgement.verdict));
            judged.iter().filter(|service| passes(*service)).count()
        };
        let doubted = || self.looks.values().any(|look| look.judgement.doubted);
        match (is(|one| matches!(one, Verdict::StableBroken(_))), is(|one| *one == Verdict::Pass)) {
            (1.., _) => (!doubted()).then_some(Sentence::StableBroken),
            (0, passed) => (passed == judged.len()).then_some(Sentence::Pass),
        }
    }
}

impl Gained {
    fn take(&mut self, counted: &Counted) {
        self.all.merge(&counted.since(&self.seen));
        self.seen.clone_from(counted);
    }
}
