//! What is known of the requests of a step, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::{Counts, Plan, Streak};
use crate::id::{InstanceId, ReleaseNumber, ServiceName};
use crate::route::Cohort;
use crate::route::outlier::FAILURES;
use crate::time::{Humane, Mono};
use crate::units::Share;
use crate::verdict::{Against, Counted, Counters, Judgement, Tally, Verdict, is_longer_than_chance, judge};

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

/// For so long at least an instance answers nobody until that is held against its release: an edge leaves it out for 10 s, lets it in,
/// and leaves it out for 20 s.
const DARK_FOR: Duration = Duration::from_secs(30);

/// So many requests at least have failed since it was left out first: it was let in twice, and each time all of them did.
const DARK_AGAIN: u32 = 2 * FAILURES;

/// What one look at a service said, and what it saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub judgement: Judgement,
    /// What it fails is kept away from it by the edge, and missing among what is judged.
    pub dark: Option<Dark>,
    pub canary: Figures,
    /// `None` where the candidate stands beside nothing.
    pub baseline: Option<Figures>,
    /// The stable release as a whole, the baseline included.
    pub stable: Option<Figures>,
}

/// An instance that answers nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dark {
    pub instance: InstanceId,
    /// It is the candidate's; else its baseline's.
    pub is_candidate: bool,
    /// Seen to be so for this long in this step.
    pub time: Duration,
    /// Requests in a row that it has failed.
    pub failed: u32,
    /// Its release is to blame: none of the stable release's instances is like that, and it is no chance.
    pub proven: bool,
}

/// What is to be done by one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    Pass,
    Fail,
    /// Hold the step.
    TooFewData,
    StableBroken,
}

impl Look {
    pub fn ruling(&self) -> Ruling {
        match (&self.judgement.verdict, &self.dark) {
            (Verdict::Fail(_), _) | (_, Some(Dark { proven: true, .. })) => Ruling::Fail,
            (Verdict::TooFewData, _) | (Verdict::Pass, Some(_)) => Ruling::TooFewData,
            (Verdict::Pass, None) => Ruling::Pass,
            // Of a stable release that is broken, instances are expected to be.
            (Verdict::StableBroken(_), Some(Dark { is_candidate: true, .. })) => Ruling::TooFewData,
            (Verdict::StableBroken(_), Some(_) | None) => Ruling::StableBroken,
        }
    }
}

/// What decided, or what it waits for.
impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.judgement.verdict, &self.dark, self.ruling()) {
            (Verdict::Fail(_), ..) | (_, None, _) | (.., Ruling::StableBroken) => self.judgement.fmt(f),
            (_, Some(dark), Ruling::Fail) => write!(f, "{dark}; aborting"),
            (_, Some(dark), Ruling::TooFewData | Ruling::Pass) => write!(f, "{dark}; holding"),
        }
    }
}

/// `instance 2 of the canary has answered nobody for 40s: its last 15 requests failed`
impl fmt::Display for Dark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u32::from(self.instance.slot.slot.0) + 1;
        let of = if self.is_candidate { "the canary" } else { "stable" };
        let time = Humane(Duration::from_secs(self.time.as_secs().max(1)));
        write!(f, "instance {number} of {of} has answered nobody for {time}: its last {} requests failed", self.failed)
    }
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
    rows: BTreeMap<InstanceId, Row>,
    /// When an instance of the candidate was last seen to answer nobody.
    shaken: Option<Mono>,
}

/// Failures in a row of one instance, as they were followed.
#[derive(Debug, Clone, Copy)]
struct Row {
    began: Mono,
    failed: u32,
    /// From here on no instance of the stable release had any, and how many there were then.
    alone: Mono,
    before: u32,
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
        self.follow(case, now);
        if self.last.is_some_and(|last| now < last + LOOKS) {
            return;
        }
        self.last = Some(now);
        if is_dark(case.plan, case.counts) {
            self.shaken = Some(now);
        }
        self.looks = judged.iter().map(|service| (service.clone(), self.judge(case, service, now))).collect();
    }

    /// Rows go on until their instance answers somebody.
    fn follow(&mut self, Case { plan, counts, alone, .. }: Case<'_>, now: Mono) {
        let stable = plan.stable.filter(|_| !alone);
        let mut rows = BTreeMap::new();
        for service in &plan.judged {
            let of = |release: Option<ReleaseNumber>| streaks(counts, service, release);
            let is_shared = of(stable).next().is_some();
            for streak in of(Some(plan.candidate)).chain(of(stable)) {
                let begun = Row { began: now, failed: streak.failed, alone: now, before: streak.failed };
                let known = self.rows.get(&streak.instance).filter(|row| row.failed <= streak.failed);
                let row = match known {
                    Some(row) if is_shared => Row { began: row.began, ..begun },
                    Some(row) => Row { failed: streak.failed, ..*row },
                    None => begun,
                };
                rows.insert(streak.instance.clone(), row);
            }
        }
        self.rows = rows;
    }

    /// Of the candidate whoever has failed the most; of its baseline, where none of the candidate is like that.
    fn dark(&self, case: Case<'_>, service: &ServiceName, seen: &Seen, now: Mono) -> Option<Dark> {
        let Case { plan, counts, alone, .. } = case;
        let stable = plan.stable.filter(|_| !alone);
        let own = streaks(counts, service, Some(plan.candidate)).max_by_key(|streak| streak.failed);
        let beside = || streaks(counts, service, stable).filter(|one| one.baseline).max_by_key(|one| one.failed);
        let streak = own.or_else(beside)?;
        let row = self.rows.get(&streak.instance)?;
        let (again, time) = (row.failed - row.before, now.since(row.alone));
        let is_long = again >= DARK_AGAIN && time >= DARK_FOR;
        Some(Dark {
            instance: streak.instance.clone(),
            is_candidate: own.is_some(),
            time: now.since(row.began),
            failed: row.failed,
            proven: own.is_some() && is_long && is_longer_than_chance(again, seen.canary, seen.beside),
        })
    }

    /// Of the candidate, when an instance was last seen to answer nobody: a step is passed when none has been for all of its time.
    pub(super) fn shaken(&self) -> Option<Mono> {
        self.shaken
    }

    fn judge(&self, case: Case<'_>, service: &ServiceName, now: Mono) -> Look {
        let Case { plan, excused, counts, alone } = case;
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
        let tally = |counters: &Counters| Tally::new(counters.failures, counters.requests);
        let worse = |one: Tally, other: Tally| if one.share() > other.share() && one.of > 0 { one } else { other };
        let stables = beside.as_ref().map(|(baseline, stable)| worse(tally(baseline), tally(stable)));
        let seen = Seen { canary: canary.requests, beside: stables };
        Look {
            judgement: judge(&rules, &canary, against),
            dark: self.dark(case, service, &seen, now),
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

    pub(super) fn looks(&self) -> impl Iterator<Item = (&ServiceName, &Look)> {
        self.looks.iter()
    }

    /// Why it is to be undone.
    pub(super) fn fails(&self) -> Option<String> {
        let fails = |look: &Look| look.ruling() == Ruling::Fail;
        self.looks.iter().find(|(_, look)| fails(look)).map(|(service, look)| format!("{service}: {look}"))
    }

    /// One that fails is enough; to pass, all must, and a fix of one takes along no other that is in doubt. `None`: hold.
    pub(super) fn verdict(&self, judged: &BTreeSet<ServiceName>) -> Option<Sentence> {
        if let Some(why) = self.fails() {
            return Some(Sentence::Fail(why));
        }
        let is = |wanted: Ruling| {
            let passes = |service| self.looks.get(service).is_some_and(|one| one.ruling() == wanted);
            judged.iter().filter(|service| passes(*service)).count()
        };
        let in_doubt = |look: &Look| look.judgement.doubted || look.dark.as_ref().is_some_and(|dark| dark.is_candidate);
        let doubted = || self.looks.values().any(in_doubt);
        match (is(Ruling::StableBroken), is(Ruling::Pass)) {
            (1.., _) => (!doubted()).then_some(Sentence::StableBroken),
            (0, passed) => (passed == judged.len()).then_some(Sentence::Pass),
        }
    }
}

/// How many requests the candidate had, and what the stable release failed of its own; `None`: it stands beside nothing.
struct Seen {
    canary: u64,
    beside: Option<Tally>,
}

fn streaks<'a>(
    counts: &'a Counts,
    service: &ServiceName,
    release: Option<ReleaseNumber>,
) -> impl Iterator<Item = &'a Streak> + use<'a> {
    let count = release.and_then(|release| counts.get(&(service.clone(), release)));
    count.into_iter().flat_map(|count| &count.streaks)
}

/// Whether an instance of the candidate answers nobody.
pub(super) fn is_dark(plan: &Plan, counts: &Counts) -> bool {
    plan.judged.iter().any(|service| streaks(counts, service, Some(plan.candidate)).next().is_some())
}

impl Gained {
    fn take(&mut self, counted: &Counted) {
        self.all.merge(&counted.since(&self.seen));
        self.seen.clone_from(counted);
    }
}
