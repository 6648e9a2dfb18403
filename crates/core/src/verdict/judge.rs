use std::time::Duration;

use super::evidence::{Tally, above, below, worse};
use super::{Counters, Histogram, PER_OCTAVE};
use crate::app::AbortRule;
use crate::units::Share;

/// The probability that a step aborts a release which is as good as it must be, over all looks: at most this.
pub const FALSE_ABORT: f64 = 0.01;

/// The probability that a release whose share is at a limit shows no bad request in as many as [`needs`] says.
pub const MISSED: f64 = 0.05;

/// What no release may fail, whatever its rules are.
const HALF: f64 = 0.5;

/// Requests below which nothing is said of [`HALF`]; so few prove nothing either.
pub const HALF_NEEDS: u64 = 10;

/// What a limit of 0 % needs is what this one does, since no number of requests shows that none ever fails.
pub const LEAST_LIMIT: Share = Share::from_ppm(1_000).expect("0.1 % is a share");

/// What to do with a step, by [`judge`].
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// There are enough requests for every rule, and none is broken as far as seen. Not that the step's time is over.
    Pass,
    /// This rule is broken, and not by the stable release as well.
    Fail(Finding),
    /// Neither can be said yet: hold the step.
    TooFewData,
    /// The stable release itself breaks this rule, the canary is shown to be better, and no other rule is seen to be
    /// broken: the fix may go ahead, though not every rule has its requests yet.
    StableBroken(Finding),
}

/// What one look says. `Display` is a sentence for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// "Over half fail" first, then the rules in the file's order.
    pub findings: Vec<Finding>,
    /// The canary is seen above a limit and above the stable release, enough requests or not.
    pub doubted: bool,
}

/// What one rule says of one look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    pub subject: Subject,
    pub limit: Limit,
    pub canary: Tally,
    /// The baseline; `None` where there is none by plan.
    pub baseline: Option<Tally>,
    /// The stable release as a whole, the baseline included.
    pub stable: Option<Tally>,
    /// The stable release breaks this limit of its own beyond doubt.
    pub stable_breaks: bool,
    pub state: State,
}

/// What makes a request a bad one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Failed,
    /// It took longer than this, without having failed.
    Slower(Duration),
}

/// How many may be bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// This part of the canary's.
    Share(Share),
    /// As many as of the baseline's, and this part more.
    AboveStable(Share),
    /// What lies above this quantile, where [`Subject::Slower`] is the baseline's own quantile and `above` more.
    Quantile { quantile: Share, above: Duration },
    /// Half of them: each release is held to it.
    Half,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Enough requests, and not above the limit.
    Within,
    /// Above the limit beyond doubt, and the stable release is not.
    Exceeded,
    /// Above the limit as seen, which may be chance.
    Doubtful,
    /// Above the limit beyond doubt, and nothing has come to the stable release that would say whose fault it is.
    NothingBeside,
    /// Above the limit beyond doubt, and the stable release has no instance that is ready.
    StableAway,
    /// Above the limit, where the stable release is, too: the canary is not shown to be worse.
    StableToo,
    /// So many requests are needed, of the canary and, for a comparison, of the baseline.
    TooFew(u64),
}

/// What a canary is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Against<'a> {
    /// Instances of the stable release that are as fresh as the canary and carry the same weight.
    pub baseline: &'a Counters,
    /// All that the stable release answered in the same time, the baseline's included or not.
    pub stable: &'a Counters,
    /// An instance of the stable release is ready.
    pub serves: bool,
}

/// Requests without a bad one that show a share below `limit`: ln 0.05 / ln(1 − limit), and at least [`HALF_NEEDS`].
/// For 1 %: 299.
pub fn needs(limit: Share) -> u64 {
    let limit = if limit.ppm() == 0 { LEAST_LIMIT } else { limit };
    let exact = MISSED.ln() / (-limit.as_fraction()).ln_1p();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to three million: a share has six digits"
    )]
    let rounded = exact.ceil() as u64;
    rounded.max(HALF_NEEDS)
}

/// Judges a step by the rules of `abort` and by "over half fail". `against`: `None` where no stable release carries
/// traffic (after promotion) or none is to be compared with (rolling); rules that compare are left out then.
///
/// Each of the n rules, "over half fail" counted, may abort wrongly with a probability of [`FALSE_ABORT`] / n.
pub fn judge(rules: &[AbortRule], canary: &Counters, against: Option<Against<'_>>) -> Judgement {
    let rules: Vec<_> = rules.iter().filter(|rule| against.is_some() || !rule.compares()).collect();
    #[expect(clippy::cast_precision_loss, reason = "a handful of rules")]
    let proof = ((rules.len() + 1) as f64 / FALSE_ABORT).ln();
    let look = Look { canary, against, proof };
    let findings: Vec<_> = std::iter::once(look.half()).chain(rules.iter().map(|rule| look.rule(rule))).collect();
    let exceeded = findings.iter().find(|finding| finding.state == State::Exceeded);
    let doubted = findings.iter().any(|finding| look.doubts(finding));
    let fixes = || findings.iter().find(|finding| look.is_fix(finding)).filter(|_| !doubted);
    let verdict = match (exceeded, findings.iter().all(|finding| finding.state == State::Within)) {
        (Some(finding), _) => Verdict::Fail(*finding),
        (None, within) => match fixes() {
            Some(finding) => Verdict::StableBroken(*finding),
            None if within => Verdict::Pass,
            None => Verdict::TooFewData,
        },
    };
    Judgement { verdict, findings, doubted }
}

struct Look<'a> {
    canary: &'a Counters,
    against: Option<Against<'a>>,
    /// The evidence that a rule aborts at.
    proof: f64,
}

/// Twice: how many are surely bad, and how many may be.
#[derive(Clone, Copy)]
struct Bounds {
    surely: Tally,
    perhaps: Tally,
}

impl Subject {
    fn of(self, counters: &Counters) -> Bounds {
        match self {
            Self::Failed => {
                let failed = Tally::new(counters.failures, counters.requests);
                Bounds { surely: failed, perhaps: failed }
            }
            Self::Slower(limit) => {
                let (slower, total) = (counters.latency.slower(limit), counters.latency.total());
                // Whoever left later than that would have been answered later still; of the others nothing is known.
                let left = counters.left.slower(limit);
                let tally =
                    |slower: u64, left: u64| Tally::new(slower.saturating_add(left), total.saturating_add(left));
                Bounds { surely: tally(slower.surely, left.surely), perhaps: tally(slower.perhaps, left.perhaps) }
            }
        }
    }
}

impl Look<'_> {
    fn finding(&self, subject: Subject, limit: Limit, state: State) -> Finding {
        let tally = |counters: &Counters| subject.of(counters).surely;
        let stable = self.against.map(|against| tally(against.stable));
        Finding {
            subject,
            limit,
            canary: tally(self.canary),
            baseline: self.against.map(|against| tally(against.baseline)),
            stable,
            stable_breaks: stable.is_some_and(|stable| self.breaks(limit, stable)),
            state,
        }
    }

    fn breaks(&self, limit: Limit, stable: Tally) -> bool {
        match limit {
            Limit::Half => stable.of >= HALF_NEEDS && stable.exceeds(HALF) && above(stable, HALF) >= self.proof,
            Limit::Share(limit) => {
                let part = limit.as_fraction();
                stable.exceeds(part) && above(stable, part) >= self.proof
            }
            Limit::AboveStable(_) | Limit::Quantile { .. } => false,
        }
    }

    fn rule(&self, rule: &AbortRule) -> Finding {
        match *rule {
            AbortRule::ErrorRate(limit) => self.absolute(Subject::Failed, limit),
            AbortRule::Latency { quantile, limit } => self.absolute(Subject::Slower(limit), rest(quantile)),
            AbortRule::ErrorRateAboveStable(margin) => self.failures_compared(margin),
            AbortRule::LatencyAboveStable { quantile, above } => self.latency_compared(quantile, above),
        }
    }

    /// Over half of the requests failed, which is proven.
    fn half(&self) -> Finding {
        let failed = Subject::Failed.of(self.canary).surely;
        let state = match self.against {
            _ if failed.of < HALF_NEEDS => State::TooFew(HALF_NEEDS),
            _ if !failed.exceeds(HALF) => State::Within,
            _ if self.half_is_proven(failed) => State::Exceeded,
            Some(against) => Self::held((Subject::Failed, HALF), above(failed, HALF) >= self.proof, against),
            None => State::Doubtful,
        };
        self.finding(Subject::Failed, Limit::Half, state)
    }

    /// Beside a stable release: the canary fails more than its baseline, or over half where stable fails less. Each of the two ways
    /// gets half of the rule's probability; of an equal canary one of the second's two proofs is a false one, whatever both fail. Of
    /// a stable release without an instance that could answer nothing will ever be proven: the canary is held to the limit alone.
    fn half_is_proven(&self, failed: Tally) -> bool {
        let Some(against) = self.against else { return above(failed, HALF) >= self.proof };
        let proof = self.proof + std::f64::consts::LN_2;
        let [baseline, stable] = [against.baseline, against.stable].map(|seen| Subject::Failed.of(seen).perhaps);
        let is_canarys = !against.serves || below(stable, HALF) >= proof;
        worse(failed, baseline, 0.0) >= proof || above(failed, HALF) >= proof && is_canarys
    }

    /// A limit of its own, which the stable release may break as well: then the canary has to be worse than its
    /// baseline.
    fn absolute(&self, subject: Subject, limit: Share) -> Finding {
        let (seen, part) = (subject.of(self.canary), limit.as_fraction());
        let proven = seen.surely.exceeds(part) && above(seen.surely, part) >= self.proof;
        let state = match self.against {
            Some(against) if proven && !self.is_canarys(subject, part, against) => {
                Self::held((subject, part), true, against)
            }
            Some(_) | None if proven => State::Exceeded,
            Some(_) | None => match needs(limit) {
                needs if seen.perhaps.of < needs => State::TooFew(needs),
                _ if seen.perhaps.exceeds(part) => State::Doubtful,
                _ => State::Within,
            },
        };
        self.finding(subject, Limit::Share(limit), state)
    }

    /// What holds a canary above a limit that the stable release is not shown to keep. `proven`: it is above it beyond doubt.
    fn held((subject, limit): (Subject, f64), proven: bool, against: Against<'_>) -> State {
        let stable = subject.of(against.stable).surely;
        match (stable.exceeds(limit), proven) {
            (true, _) => State::StableToo,
            (false, true) if !against.serves => State::StableAway,
            (false, true) if stable.of == 0 => State::NothingBeside,
            (false, _) => State::Doubtful,
        }
    }

    /// That the stable release does not share the fault: it is below the limit, or below the canary. Each of the two
    /// ways gets half of the rule's probability.
    fn is_canarys(&self, subject: Subject, limit: f64, against: Against<'_>) -> bool {
        let (canary, baseline) = (subject.of(self.canary).surely, subject.of(against.baseline).perhaps);
        let proof = self.proof + std::f64::consts::LN_2;
        worse(canary, baseline, 0.0) >= proof || below(subject.of(against.stable).perhaps, limit) >= proof
    }

    fn failures_compared(&self, margin: Share) -> Finding {
        let canary = Subject::Failed.of(self.canary).surely;
        let baseline = self.baseline(Subject::Failed);
        let part = margin.as_fraction();
        let above = canary.exceeds(baseline.share() + part);
        let state = match needs(margin) {
            _ if above && worse(canary, baseline, part) >= self.proof => State::Exceeded,
            needs if canary.of < needs || baseline.of < needs => State::TooFew(needs),
            _ if above => State::Doubtful,
            _ => State::Within,
        };
        self.finding(Subject::Failed, Limit::AboveStable(margin), state)
    }

    /// The canary's quantile is longer than the baseline's, and `above` more.
    ///
    /// The baseline's quantile moves while it is looked at. So the evidence is that of one of [`RUNGS`] fixed times,
    /// and is divided among all of them: the quantile may choose which one counts, since the others' wealth is only
    /// left out.
    fn latency_compared(&self, quantile: Share, above: Duration) -> Finding {
        let (limit, part) = (Limit::Quantile { quantile, above }, rest(quantile).as_fraction());
        let baseline = self.against.map(|against| &against.baseline.latency);
        let stables = baseline.and_then(|latency| latency.quantile(quantile)).unwrap_or_default();
        let subject = Subject::Slower(stables.saturating_add(above));
        let (seen, baseline) = (subject.of(self.canary), baseline.map_or(0, Histogram::total));
        let evidence = || {
            let rung = rung(stables);
            let canary = Subject::Slower(rung.saturating_add(above)).of(self.canary).surely;
            worse(canary, self.baseline(Subject::Slower(rung)), 0.0) - f64::from(RUNGS).ln()
        };
        let state = match needs(rest(quantile)) {
            _ if seen.surely.exceeds(part) && evidence() >= self.proof => State::Exceeded,
            needs if seen.perhaps.of < needs || baseline < needs => State::TooFew(needs),
            _ if seen.perhaps.exceeds(part) => State::Doubtful,
            _ => State::Within,
        };
        self.finding(subject, limit, state)
    }

    fn baseline(&self, subject: Subject) -> Tally {
        self.against.map(|against| subject.of(against.baseline).perhaps).unwrap_or_default()
    }

    /// The stable release breaks this limit, and the canary is shown to keep it or to be better than its baseline.
    fn is_fix(&self, finding: &Finding) -> bool {
        let Some(against) = self.against else { return false };
        let canary = finding.subject.of(self.canary).perhaps;
        let limit = match finding.limit {
            Limit::Half => HALF,
            Limit::Share(limit) => limit.as_fraction(),
            Limit::AboveStable(_) | Limit::Quantile { .. } => return false,
        };
        let baseline = finding.subject.of(against.baseline).surely;
        finding.stable_breaks && (below(canary, limit) >= self.proof || worse(baseline, canary, 0.0) >= self.proof)
    }

    /// The canary is seen above this limit and above the stable release, enough requests or not.
    fn doubts(&self, finding: &Finding) -> bool {
        let seen = finding.subject.of(self.canary).perhaps;
        let stable = self.against.map(|against| finding.subject.of(against.stable).surely).unwrap_or_default().share();
        match finding.limit {
            Limit::Half => seen.exceeds(stable.max(HALF)),
            Limit::Share(limit) => seen.exceeds(stable.max(limit.as_fraction())),
            Limit::AboveStable(margin) => seen.exceeds(self.baseline(finding.subject).share() + margin.as_fraction()),
            Limit::Quantile { quantile, .. } => seen.exceeds(rest(quantile).as_fraction()),
        }
    }
}

/// What lies above a quantile.
pub(super) fn rest(quantile: Share) -> Share {
    Share::from_ppm(Share::WHOLE.ppm() - quantile.ppm()).unwrap_or_default()
}

/// Times at which a canary's latencies are compared with its baseline's: each half of an octave, 1 ms to 64 s.
const RUNGS: u32 = 33;

/// The bucket that ends at the first one, 2^-10 s.
const FIRST_RUNG: usize = 4 * PER_OCTAVE;

/// The least rung that is not below `time`, or the last one. Each is a bucket's upper bound, so that there is no doubt
/// about who is slower.
fn rung(time: Duration) -> Duration {
    let rungs = (FIRST_RUNG..).step_by(PER_OCTAVE / 2).take(RUNGS as usize).map(Histogram::upper_bound);
    let mut last = Duration::ZERO;
    rungs.inspect(|rung| last = *rung).find(|rung| *rung >= time).unwrap_or(last)
}
