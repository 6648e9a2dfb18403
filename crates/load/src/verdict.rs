//! Which figures may be believed, and whether what was expected of a run holds.

use std::fmt;
use std::time::Duration;

use bowline_core::units::Share;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::tally::{LATE, Tally};

/// What is reported of a distribution, in millionths.
pub const QUANTILES: [Quantile; 5] = [Quantile(500_000), P90, Quantile(990_000), Quantile(999_000), Quantile(999_900)];

pub(crate) const P90: Quantile = Quantile(900_000);

/// A quantile needs so many samples above it: with fewer, it is the word of a few requests.
pub const SAMPLES_ABOVE: u64 = 10;

/// A run is invalid if more than this part of its requests, in millionths, was taken up late.
pub const MAX_LAGGED: u32 = 10_000;

/// A closed loop whose generator was busy for more than this part of the time measures the generator.
pub const MAX_BUSY: f64 = 0.95;

/// Where a quantile of the generator's own lag is above this, and more than half of the latency's, the latency is its work.
const CLOUDING_LAG: u64 = 1_000;

/// A part of a distribution, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantile(u32);

impl Quantile {
    /// `None` outside of 0 to 1,000,000, both excluded.
    pub fn from_ppm(ppm: u32) -> Option<Self> {
        (1..1_000_000).contains(&ppm).then_some(Self(ppm))
    }

    pub fn ppm(self) -> u32 {
        self.0
    }

    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// Samples that it needs.
    pub fn needs(self) -> u64 {
        (SAMPLES_ABOVE * 1_000_000).div_ceil(u64::from(1_000_000 - self.0))
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 10_000, self.0 % 10_000);
        match part {
            0 => write!(f, "p{whole}"),
            _ => write!(f, "p{whole}.{}", format!("{part:04}").trim_end_matches('0')),
        }
    }
}

/// Why a quantile is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// It has fewer than ten samples above it.
    FewSamples,
    /// The generator's own lateness is most of it.
    Generator,
}

/// A quantile in microseconds, or why it is not said. `lag`: the generator's, where it has a part in the figure.
///
/// # Errors
/// A [`Doubt`].
pub fn quantile(of: &Histogram<u64>, lag: Option<&Histogram<u64>>, quantile: Quantile) -> Result<u64, Doubt> {
    if of.len() < quantile.needs() {
        return Err(Doubt::FewSamples);
    }
    let value = of.value_at_quantile(quantile.fraction());
    let lag = lag.map_or(0, |lag| lag.value_at_quantile(quantile.fraction()));
    match lag > CLOUDING_LAG && lag > value / 2 {
        true => Err(Doubt::Generator),
        false => Ok(value),
    }
}

/// Why no figure of a run may be believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Invalid {
    /// Nothing was due after the warm-up.
    Nothing,
    /// Not one request came to an end.
    Unanswered,
    /// So many of so many requests were taken up late, the last one by so much.
    GeneratorLate { lagged: u64, offered: u64, worst: Duration },
    /// So many requests failed at a limit of this machine.
    OwnLimit { failed: u64 },
    /// A closed loop that was limited by the generator.
    GeneratorBusy { busy: f64 },
}

impl fmt::Display for Invalid {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing was measured: it ended before the warm-up did"),
            Self::Unanswered => f.write_str("not one request came to an end: nothing was measured"),
            Self::GeneratorLate { lagged, offered, worst } => write!(
                f,
                "the generator itself was late: {:.1} % of the requests were taken up {} ms or more after they were due, at \
                 worst {:.0} ms",
                100.0 * *lagged as f64 / (*offered).max(1) as f64,
                LATE.as_millis(),
                worst.as_secs_f64() * 1e3,
            ),
            Self::OwnLimit { failed } => {
                write!(f, "{failed} requests failed at a limit of this machine, not of the server")
            }
            Self::GeneratorBusy { busy } => write!(
                f,
                "the generator was busy for {:.0} % of the time: this is its own speed, not the server's",
                100.0 * busy
            ),
        }
    }
}

/// Whether the figures may be believed. `busy`: processor time of the busiest thread against the time of a closed loop.
pub fn validity(tally: &Tally, busy: Option<f64>) -> Vec<Invalid> {
    let counts = tally.counts;
    if counts.offered == 0 {
        return vec![Invalid::Nothing];
    }
    if counts.succeeded + counts.failed == 0 {
        return vec![Invalid::Unanswered];
    }
    let own: u64 = tally.errors.iter().filter(|(kind, _)| kind.is_own_limit()).map(|(_, n)| n).sum();
    let late = u128::from(tally.lagged) * 1_000_000 > u128::from(counts.offered) * u128::from(MAX_LAGGED);
    let late = late.then(|| Invalid::GeneratorLate {
        lagged: tally.lagged,
        offered: counts.offered,
        worst: Duration::from_micros(tally.lag.max()),
    });
    let own = (own > 0).then_some(Invalid::OwnLimit { failed: own });
    let busy = busy.filter(|busy| *busy > MAX_BUSY).map(|busy| Invalid::GeneratorBusy { busy });
    [late, own, busy].into_iter().flatten().collect()
}

/// What a run as a whole is expected to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Goals {
    /// The part of the requests that may fail; none unless said.
    pub failed: Share,
    /// Latencies that must be below these.
    pub below: Vec<(Measure, Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Quantile(Quantile),
    Max,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantile(quantile) => quantile.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}

impl Goals {
    /// What does not hold, in words; empty if all does.
    pub fn unmet(&self, tally: &Tally) -> Vec<String> {
        let counts = tally.counts;
        let allowed = u128::from(counts.offered) * u128::from(self.failed.ppm());
        let failed = u128::from(counts.failed) * 1_000_000 > allowed;
        let failed = failed.then(|| match self.failed.ppm() {
            0 => format!("{} of {} requests failed", counts.failed, counts.offered),
            _ => format!("{} of {} requests failed, more than {}", counts.failed, counts.offered, self.failed),
        });
        let slow = self.below.iter().filter_map(|(measure, limit)| exceeds(*measure, *limit, tally));
        failed.into_iter().chain(slow).collect()
    }
}

fn exceeds(measure: Measure, limit: Duration, tally: &Tally) -> Option<String> {
    let value = match measure {
        Measure::Max if tally.latency.is_empty() => Err(Doubt::FewSamples),
        Measure::Max => Ok(tally.latency.max()),
        Measure::Quantile(one) => quantile(&tally.latency, Some(&tally.lag), one),
    };
    match value {
        Ok(us) if Duration::from_micros(us) < limit => None,
        Ok(us) => Some(format!("{measure} is {:.1} ms, not below {:.1} ms", ms(us), limit.as_secs_f64() * 1e3)),
        Err(Doubt::FewSamples) => {
            Some(format!("{measure} cannot be said: {} answers are too few", tally.latency.len()))
        }
        Err(Doubt::Generator) => Some(format!("{measure} cannot be said: the generator's own lateness is most of it")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Kind, Outcome};

    /// As many requests, each taken up and answered so long after it was due.
    fn tally(requests: u64, lag: Duration, latency: Duration) -> Tally {
        let mut tally = Tally::new(Duration::ZERO);
        add(&mut tally, requests, lag, latency);
        tally
    }

    fn add(tally: &mut Tally, requests: u64, lag: Duration, latency: Duration) {
        for i in 0..requests {
            let due = Duration::from_millis(i);
            tally.taken_up(due, due + lag);
            tally.ended(Outcome {
                due,
                began: Some(due + lag),
                ended: due + latency,
                connecting: None,
                status: Some(200),
                received: 0,
                sent: 0,
                failure: None,
            });
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_quantile_needs_ten_samples_above_it() {
        let needs: Vec<u64> = QUANTILES.iter().map(|quantile| quantile.needs()).collect();
        assert_eq!(needs, [20, 100, 1_000, 10_000, 100_000]);
        let p99 = Quantile(990_000);
        assert_eq!(quantile(&tally(999, Duration::ZERO, MS).latency, None, p99), Err(Doubt::FewSamples));
        assert!(quantile(&tally(1_000, Duration::ZERO, MS).latency, None, p99).is_ok());
    }

    #[test]
    fn quantiles_are_named_as_the_field_does() {
        let names: Vec<String> = QUANTILES.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["p50", "p90", "p99", "p99.9", "p99.99"]);
    }

    #[test]
    fn a_quantile_that_is_mostly_the_generators_lateness_is_not_said() {
        let check = |lag: u32, latency: u32, expected: Option<Doubt>| {
            let tally = tally(1_000, lag * MS / 10, latency * MS / 10);
            let found = quantile(&tally.latency, Some(&tally.lag), Quantile(500_000));
            assert_eq!(found.err(), expected, "{lag} of {latency}");
        };
        check(50, 60, Some(Doubt::Generator));
        check(50, 200, None);
        // Below a millisecond it is what timers do.
        check(9, 10, None);
    }

    #[test]
    fn a_run_is_invalid_when_the_generator_was_late_for_more_than_a_hundredth() {
        let mut good = tally(990, Duration::ZERO, MS);
        add(&mut good, 10, LATE, 20 * MS);
        assert_eq!(validity(&good, None), []);
        add(&mut good, 1, 30 * MS, 30 * MS);
        let [Invalid::GeneratorLate { lagged: 11, offered: 1_001, worst }] = validity(&good, None)[..] else {
            panic!("{:?}", validity(&good, None))
        };
        assert!(worst >= 29 * MS, "{worst:?}");
    }

    #[test]
    fn a_run_without_requests_or_at_its_own_limits_is_invalid() {
        assert_eq!(validity(&Tally::new(Duration::ZERO), None), [Invalid::Nothing]);
        let mut tally = tally(100, Duration::ZERO, MS);
        assert_eq!(validity(&tally, Some(0.99)), [Invalid::GeneratorBusy { busy: 0.99 }]);
        tally.errors.insert(Kind::NoPort, 3);
        assert_eq!(validity(&tally, Some(0.5)), [Invalid::OwnLimit { failed: 3 }]);
    }

    #[test]
    fn goals_say_what_does_not_hold() {
        let mut tally = tally(1_000, Duration::ZERO, 20 * MS);
        let check = |tally: &Tally, failed: u32, below: &[(Measure, Duration)], expected: &[&str]| {
            let goals = Goals { failed: Share::from_ppm(failed).unwrap(), below: below.to_vec() };
            assert_eq!(goals.unmet(tally), expected);
        };
        let p99 = Measure::Quantile(Quantile(990_000));
        check(&tally, 0, &[(p99, 21 * MS), (Measure::Max, 21 * MS)], &[]);
        check(&tally, 0, &[(p99, 10 * MS)], &["p99 is 20.0 ms, not below 10.0 ms"]);
        let p999 = Measure::Quantile(Quantile(999_000));
        check(&tally, 0, &[(p999, 30 * MS)], &["p99.9 cannot be said: 1000 answers are too few"]);
        tally.counts.failed = 2;
        check(&tally, 0, &[], &["2 of 1000 requests failed"]);
        check(&tally, 1_000, &[], &["2 of 1000 requests failed, more than 0.1%"]);
        check(&tally, 2_000, &[], &[]);
    }
}
