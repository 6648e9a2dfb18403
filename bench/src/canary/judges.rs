//! Who decides on a canary.

use std::time::Duration;

use bowline_core::app::AbortRule;
use bowline_core::units::Share;
use bowline_core::verdict::{Against, Verdict, judge};

use super::traffic::Traffic;

pub(super) enum Move {
    Hold,
    /// The step is done.
    Next,
    /// All at once.
    Promote,
    Abort,
}

pub(super) trait Judge {
    /// `seconds` since the rollout began; `over`: the step's time has passed.
    fn look(&mut self, traffic: &Traffic, seconds: u32, over: bool) -> Move;
}

pub(super) struct Bowline;

fn verdict(traffic: &Traffic) -> Verdict {
    let share = |ppm| Share::from_ppm(ppm).unwrap_or_default();
    let p99 = share(990_000);
    let rules = [
        AbortRule::ErrorRate(share(10_000)),
        AbortRule::Latency { quantile: p99, limit: Duration::from_millis(500) },
        AbortRule::ErrorRateAboveStable(share(5_000)),
        AbortRule::LatencyAboveStable { quantile: p99, above: Duration::from_millis(50) },
    ];
    let against = Against { baseline: &traffic.baseline, stable: &traffic.stable, serves: true };
    judge(&rules, &traffic.canary, Some(against)).verdict
}

pub(super) fn fails(traffic: &Traffic) -> bool {
    matches!(verdict(traffic), Verdict::Fail(_))
}

impl Judge for Bowline {
    fn look(&mut self, traffic: &Traffic, _seconds: u32, over: bool) -> Move {
        match verdict(traffic) {
            Verdict::Fail(_) => Move::Abort,
            Verdict::StableBroken(_) => Move::Promote,
            Verdict::Pass if over => Move::Next,
            Verdict::Pass | Verdict::TooFewData => Move::Hold,
        }
    }
}

/// <https://docs.flagger.app/usage/metrics>, <https://docs.flagger.app/usage/how-it-works>: `interval: 1m`, `threshold:
/// 5`, `request-success-rate` at least 99 and `request-duration` at most 500 ms over 1 m. Without values a check has
/// failed (`pkg/controller/scheduler_metrics.go`), and checks that failed are counted over the whole analysis.
#[derive(Default)]
pub(super) struct Flagger {
    failed: u32,
    passed_in_step: u32,
    step: usize,
}

impl Judge for Flagger {
    fn look(&mut self, traffic: &Traffic, seconds: u32, _over: bool) -> Move {
        if !seconds.is_multiple_of(60) {
            return Move::Hold;
        }
        let seen = traffic.last_minute();
        let p99 = Share::from_ppm(990_000).and_then(|p99| seen.latency.quantile(p99));
        let success = seen.requests > 0 && (seen.requests - seen.failures) * 100 >= seen.requests * 99;
        if !success || p99.is_some_and(|p99| p99 > Duration::from_millis(500)) {
            self.failed += 1;
            return if self.failed >= 5 { Move::Abort } else { Move::Hold };
        }
        self.passed_in_step += 1;
        if self.passed_in_step * 60 < super::STEPS[self.step].1 {
            return Move::Hold;
        }
        (self.passed_in_step, self.step) = (0, (self.step + 1).min(super::STEPS.len() - 1));
        Move::Next
    }
}

/// <https://argoproj.github.io/argo-rollouts/features/analysis/>: `successCondition: result[0] >= 0.95`, `failureLimit:
/// 3`, in the background while steps go by time. Without values a measurement is an error; more than 4 in a row
/// (`consecutiveErrorLimit`) abort.
#[derive(Default)]
pub(super) struct Argo {
    failed: u32,
    errors: u32,
}

impl Judge for Argo {
    fn look(&mut self, traffic: &Traffic, seconds: u32, over: bool) -> Move {
        if seconds.is_multiple_of(60) {
            let seen = traffic.last_minute();
            self.errors = if seen.requests == 0 { self.errors + 1 } else { 0 };
            self.failed += u32::from((seen.requests - seen.failures) * 100 < seen.requests * 95);
            if self.failed > 3 || self.errors > 4 {
                return Move::Abort;
            }
        }
        if over { Move::Next } else { Move::Hold }
    }
}
