//! Verdicts in words.

use std::fmt;
use std::time::Duration;

use super::evidence::Tally;
use super::{Finding, Judgement, Limit, State, Subject, Verdict};
use crate::time::Humane;

/// `2,100`
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            0 => write!(f, "{}", self.0),
            above => write!(f, "{},{:03}", Grouped(above), self.0 % 1_000),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", Grouped(self.bad), Grouped(self.of))
    }
}

/// To the millisecond, rounded up: what is shown is never below what is meant.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Humane(Duration::from_millis(ms)).fmt(f)
    }
}

/// Those of a release: `3 of 2,080`, `none`
struct Seen(Tally);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.of == 0 { f.write_str("none") } else { self.0.fmt(f) }
    }
}

/// `1%`, `stable + 1%`, `50%`
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(limit) => write!(f, "{limit}"),
            Self::AboveStable(above) => write!(f, "stable + {above}"),
            Self::Quantile { quantile, .. } => write!(f, "{}", super::judge::rest(*quantile)),
            Self::Half => f.write_str("50%"),
        }
    }
}

impl Finding {
    /// What makes a request a bad one: `failed`, `slower than 500ms`.
    pub fn what(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| self.fault(f))
    }

    /// `slower than 412ms (stable's p99 + 100ms)`
    fn fault(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.subject, self.limit) {
            (Subject::Failed, _) => f.write_str("failed"),
            (Subject::Slower(limit), Limit::Quantile { quantile, above }) => {
                let quantile = quantile.to_string();
                let quantile = quantile.trim_end_matches('%');
                write!(f, "slower than {} (stable's p{quantile} + {})", Millis(limit), Millis(above))
            }
            (Subject::Slower(limit), Limit::Share(_) | Limit::AboveStable(_) | Limit::Half) => {
                write!(f, "slower than {}", Millis(limit))
            }
        }
    }

    fn limit(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {}", self.limit)
    }

    /// How many requests it still waits for, of the canary or, for a comparison, of whichever has had fewer.
    fn missing(&self) -> Option<u64> {
        let seen = match self.limit {
            Limit::Share(_) | Limit::Half => self.canary.of,
            Limit::AboveStable(_) | Limit::Quantile { .. } => {
                self.baseline.map_or(self.canary.of, |baseline| self.canary.of.min(baseline.of))
            }
        };
        match self.state {
            State::TooFew(needs) => Some(needs.saturating_sub(seen).max(1)),
            State::Within | State::Exceeded | State::Doubtful => None,
            State::NothingBeside | State::StableAway | State::StableToo => None,
        }
    }

    /// What a step that is held waits for.
    fn waits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            State::TooFew(_) => match self.missing().unwrap_or(1) {
                1 => f.write_str("waits for 1 more request"),
                missing => write!(f, "waits for {} more requests", Grouped(missing)),
            },
            State::Doubtful => f.write_str("above it, which may be chance; holding"),
            State::NothingBeside => f.write_str("above it, and stable has had no requests to compare with; holding"),
            State::StableAway => f.write_str("above it, and stable has no instance that is ready; holding"),
            State::StableToo => f.write_str("stable is above it as well; holding"),
            State::Within | State::Exceeded => f.write_str("holding"),
        }
    }

    /// `stable 90 of 2,080 failed, canary 2 of 100; limit 1%; stable itself is broken`
    fn of_stable(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stable {} ", self.stable.unwrap_or_default())?;
        self.fault(f)?;
        write!(f, ", canary {}; ", self.canary)?;
        self.limit(f)?;
        f.write_str("; stable itself is broken")
    }
}

/// `canary 41 of 2,100 failed, stable 3 of 2,080; limit 1%`, `no requests of the canary yet; limit 1%`; "stable" is the baseline
/// here, where there is one.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.canary.of == 0 {
            f.write_str("no requests of the canary yet; ")?;
            return self.limit(f);
        }
        write!(f, "canary {} ", self.canary)?;
        self.fault(f)?;
        if let Some(baseline) = self.baseline {
            write!(f, ", stable {}", Seen(baseline))?;
        }
        f.write_str("; ")?;
        self.limit(f)
    }
}

impl Judgement {
    /// What a step that is held is held by: what is above its limit; where nothing is, what waits for the most requests.
    fn holds(&self) -> Option<&Finding> {
        let above = |finding: &&Finding| match finding.state {
            State::Doubtful | State::NothingBeside | State::StableAway | State::StableToo => true,
            State::Within | State::Exceeded | State::TooFew(_) => false,
        };
        let most =
            || self.findings.iter().filter(|finding| finding.missing().is_some()).max_by_key(|one| one.missing());
        self.findings.iter().find(above).or_else(most)
    }
}

/// `canary 41 of 2,100 failed, stable 3 of 2,080; limit 1%; aborting`: what decided, or what it waits for.
impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Fail(finding) => write!(f, "{finding}; aborting"),
            Verdict::StableBroken(finding) => finding.of_stable(f),
            Verdict::TooFewData => match self.holds() {
                Some(finding) => {
                    write!(f, "{finding}; ")?;
                    finding.waits(f)
                }
                None => f.write_str("holding"),
            },
            Verdict::Pass => match self.findings.get(1).or(self.findings.first()) {
                Some(finding) => write!(f, "{finding}; passed"),
                None => f.write_str("passed"),
            },
        }
    }
}
