//! What a run came to: the shape that `bowline bench --json` prints and `--compare` reads. Fields are only ever added.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::plan::{Gaps, Pace, Plan};
use crate::tally::{Counts, Failure, Kind, Tally, Timeline};
use crate::verdict::{Doubt, P90, QUANTILES, quantile, validity};

/// Of a report's shape. Fields are added without another; what they mean is not changed without one.
pub const VERSION: u32 = 1;

/// Of a distribution's picture, steps per factor of two.
const STEPS: u32 = 4;

/// One run. Times are since the measurement began, after the warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of this shape: [`VERSION`].
    pub version: u32,
    pub run: Run,
    /// How long was measured.
    pub seconds: f64,
    pub counts: Counts,
    /// Requests a second that were due; in a closed loop, that were begun.
    pub offered_per_second: f64,
    /// Answers a second, expected or not.
    pub completed_per_second: f64,
    /// Bytes of the bodies of answers, and of the requests that were answered.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// By status, how many answers.
    pub statuses: BTreeMap<u16, u64>,
    /// By kind, how many requests failed.
    pub errors: BTreeMap<Kind, u64>,
    /// The first ones that failed.
    pub failures: Vec<Failure>,
    /// From when a request was due to the end of its answer.
    pub latency: Distribution,
    /// From when it was sent: what a client that waits for its turn would have seen.
    pub service: Distribution,
    /// Of the connections that requests made for themselves, handshakes included.
    pub connecting: Distribution,
    /// How late the generator itself was.
    pub lag: Distribution,
    /// The part of the time that the busiest thread of the generator was on a processor.
    pub busy: f64,
    pub timeline: Times,
    /// Whether the figures may be believed, and why not.
    pub valid: bool,
    pub invalid: Vec<String>,
    /// Whether what was expected holds, and what does not.
    pub met: bool,
    pub unmet: Vec<String>,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub url: String,
    /// The address that was loaded.
    pub address: String,
    pub protocol: String,
    #[serde(rename = "loop")]
    pub pace: Loop,
    pub warm_up_seconds: f64,
    pub connections: usize,
    /// The part of the requests with a connection of their own.
    pub new_connections: f64,
    pub threads: usize,
    pub timeout_seconds: f64,
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Loop {
    /// Requests a second at the beginning and at the end.
    Open {
        from: f64,
        to: f64,
        poisson: bool,
    },
    Closed,
}

/// Microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub samples: u64,
    pub mean_us: f64,
    pub min_us: u64,
    pub max_us: u64,
    pub quantiles: Vec<QuantileValue>,
    /// A picture of it: how many samples up to each bound, and above the one before.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct QuantileValue {
    /// In millionths: 990000 is p99.
    pub ppm: u32,
    /// Absent where it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Doubt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub up_to_us: u64,
    pub samples: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Times {
    pub width_ms: u64,
    pub slots: Vec<Time>,
}

/// One slot of the run. Latencies are of the requests that were due in it; absent where none was answered, p90 where there are too
/// few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    pub due: u64,
    pub failed: u64,
    /// Answers that ended in it, whenever their requests were due.
    pub answered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_us: Option<u64>,
}

impl Report {
    /// Of a run that went on for `measured` after its warm-up. `busy`: processor time of the busiest thread against the run's.
    pub fn new(plan: &Plan, address: String, tally: &Tally, measured: Duration, busy: f64) -> Self {
        let closed = plan.pace == Pace::Closed;
        let invalid: Vec<String> = validity(tally, closed.then_some(busy)).iter().map(ToString::to_string).collect();
        let unmet = plan.goals.unmet(tally);
        let seconds = measured.as_secs_f64();
        let lag = (!closed).then_some(&tally.lag);
        Self {
            version: VERSION,
            run: Run::of(plan, address),
            seconds: rounded(seconds),
            counts: tally.counts,
            offered_per_second: per_second(tally.counts.offered, seconds),
            completed_per_second: per_second(tally.counts.completed, seconds.max(tally.last.as_secs_f64())),
            received_bytes: tally.received,
            sent_bytes: tally.sent,
            statuses: tally.statuses.clone(),
            errors: tally.errors.clone(),
            failures: tally.failures.clone(),
            latency: Distribution::of(&tally.latency, lag),
            service: Distribution::of(&tally.service, None),
            connecting: Distribution::of(&tally.connecting, None),
            lag: Distribution::of(&tally.lag, None),
            busy: rounded(busy),
            timeline: Times::of(&tally.timeline),
            valid: invalid.is_empty(),
            invalid,
            met: unmet.is_empty(),
            unmet,
        }
    }
}

impl Run {
    fn of(plan: &Plan, address: String) -> Self {
        let pace = match plan.pace {
            Pace::Open { from, to, gaps } => {
                Loop::Open { from: from.get(), to: to.get(), poisson: gaps == Gaps::Poisson }
            }
            Pace::Closed => Loop::Closed,
        };
        Self {
            url: plan.target.to_string(),
            address,
            protocol: plan.protocol.to_string(),
            pace,
            warm_up_seconds: plan.warm_up.as_secs_f64(),
            connections: plan.connections,
            new_connections: plan.new_connections.as_fraction(),
            threads: plan.threads,
            timeout_seconds: plan.timeout.as_secs_f64(),
            seed: plan.seed,
        }
    }
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed loop"),
            Self::Open { from, to, poisson } => {
                f.write_str(if *poisson { "open loop, Poisson, " } else { "open loop, " })?;
                if (from - to).abs() > f64::EPSILON {
                    write!(f, "{from} to {to} requests/s")
                } else {
                    write!(f, "{from} requests/s")
                }
            }
        }
    }
}

impl Distribution {
    fn of(histogram: &Histogram<u64>, lag: Option<&Histogram<u64>>) -> Self {
        let one = |wanted| match quantile(histogram, lag, wanted) {
            Ok(us) => QuantileValue { ppm: wanted.ppm(), us: Some(us), refused: None },
            Err(doubt) => QuantileValue { ppm: wanted.ppm(), us: None, refused: Some(doubt) },
        };
        let empty = histogram.is_empty();
        Self {
            samples: histogram.len(),
            mean_us: rounded(histogram.mean()),
            min_us: if empty { 0 } else { histogram.min() },
            max_us: if empty { 0 } else { histogram.max() },
            quantiles: QUANTILES.into_iter().map(one).collect(),
            steps: steps(histogram),
        }
    }

    /// A quantile by its millionths, if it is said.
    pub fn us(&self, ppm: u32) -> Option<u64> {
        self.quantiles.iter().find(|quantile| quantile.ppm == ppm)?.us
    }
}

/// From the first step that holds a sample to the last one.
fn steps(histogram: &Histogram<u64>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for recorded in histogram.iter_recorded() {
        let up_to_us = bound(recorded.value_iterated_to());
        match steps.last_mut() {
            Some(step) if step.up_to_us == up_to_us => step.samples += recorded.count_at_value(),
            Some(_) | None => steps.push(Step { up_to_us, samples: recorded.count_at_value() }),
        }
    }
    steps
}

/// The bound of the step that a value lies in: powers of two, each cut into [`STEPS`].
fn bound(us: u64) -> u64 {
    let below = us.max(2).next_power_of_two() / 2;
    let step = (below / u64::from(STEPS)).max(1);
    below + (us.saturating_sub(below)).div_ceil(step).max(1) * step
}

impl Times {
    fn of(timeline: &Timeline) -> Self {
        let slots = timeline.slots().iter().map(|slot| {
            let some = !slot.latency.is_empty();
            let at = |fraction| some.then(|| slot.latency.value_at_quantile(fraction));
            Time {
                due: slot.due,
                failed: slot.failed,
                answered: slot.answered,
                p50_us: at(0.5),
                p90_us: (slot.latency.len() >= P90.needs()).then(|| slot.latency.value_at_quantile(P90.fraction())),
                max_us: some.then(|| slot.latency.max()),
            }
        });
        Self { width_ms: u64::try_from(timeline.width().as_millis()).unwrap_or(u64::MAX), slots: slots.collect() }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 }
}

/// To three decimals: more would pretend.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::Target;
    use crate::tally::Outcome;

    pub(crate) fn report(requests: u64, latency: Duration) -> Report {
        let mut tally = Tally::new(Duration::ZERO);
        for i in 0..requests {
            let due = Duration::from_millis(i);
            tally.taken_up(due, due);
            let (began, ended) = (Some(due), due + latency);
            tally.ended(Outcome {
                due,
                began,
                ended,
                connecting: None,
                status: Some(200),
                received: 10,
                sent: 0,
                failure: None,
            });
        }
        let plan = Plan::new(Target::parse("http://localhost:1/").unwrap());
        Report::new(&plan, "127.0.0.1:1".to_owned(), &tally, Duration::from_millis(requests), 0.1)
    }

    #[test]
    fn a_report_survives_json() {
        let report = report(1_500, Duration::from_millis(3));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        for key in ["\"version\":1", "\"loop\":{\"kind\":\"open\"", "\"ppm\":999000,\"refused\":\"few_samples\""] {
            assert!(text.contains(key), "{key}: {text}");
        }
        assert!(report.valid && report.met);
        assert_eq!(report.latency.us(990_000).map(|us| us / 1_000), Some(3));
        assert_eq!(report.latency.us(999_000), None);
    }

    #[test]
    fn answers_after_the_end_do_not_make_the_rate_higher() {
        let slow = report(1_000, Duration::from_secs(1));
        assert!((slow.offered_per_second - 1_000.0).abs() < 1.0);
        assert!((slow.completed_per_second - 500.0).abs() < 1.0, "{}", slow.completed_per_second);
    }

    #[test]
    fn steps_bound_what_is_in_them() {
        for us in (1..5_000).chain([600_000_000]) {
            let bound = bound(us);
            assert!(bound >= us && bound <= us.max(2) * 3 / 2, "{us}: {bound}");
        }
        let report = report(100, Duration::from_millis(3));
        assert_eq!(report.latency.steps, [Step { up_to_us: 3_072, samples: 100 }]);
    }
}
