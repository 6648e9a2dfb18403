//! When requests are due, and which: everything that is drawn comes from the seed.

use std::time::Duration;

use bowline_core::units::Share;
use fastrand::Rng;

use crate::plan::{Gaps, Pace, PerSecond, Plan};

/// One request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// From 0, over all threads.
    pub number: u64,
    /// Since the run began, the warm-up included.
    pub at: Duration,
    pub draw: Draw,
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// It goes over a connection of its own.
    pub fresh: bool,
    /// Which of the plan's templates.
    pub template: usize,
}

/// Draws what requests are.
#[derive(Debug, Clone)]
pub struct Draws {
    rng: Rng,
    fresh: Share,
    weights: Vec<u32>,
    sum: u32,
}

impl Draws {
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let weights: Vec<u32> = plan.requests.iter().map(|template| template.weight).collect();
        let sum = weights.iter().fold(0_u32, |sum, weight| sum.saturating_add(*weight)).max(1);
        Self { rng: Rng::with_seed(seed), fresh: plan.new_connections, weights, sum }
    }

    pub fn draw(&mut self) -> Draw {
        let fresh = self.rng.u32(0..Share::WHOLE.ppm()) < self.fresh.ppm();
        let mut left = self.rng.u32(0..self.sum);
        let chosen = self.weights.iter().position(|weight| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        Draw { fresh, template: chosen.unwrap_or_default() }
    }
}

/// The schedule of an open loop, in order of time; ends with the plan's duration.
///
/// Arrivals lie in the integral of the rate: one unit apart, or exponentially distributed with a mean of one. Where the integral
/// reaches an arrival, it is due; so one rule serves constant rates, ramps and both kinds of gaps.
#[derive(Debug, Clone)]
pub struct Arrivals {
    draws: Draws,
    rng: Rng,
    curve: Curve,
    gaps: Gaps,
    /// In the integral, of the next arrival.
    position: f64,
    number: u64,
}

impl Arrivals {
    /// Nothing is due in a closed loop.
    pub fn new(plan: &Plan) -> Self {
        let (from, to, gaps) = match plan.pace {
            Pace::Open { from, to, gaps } => (from, to, gaps),
            Pace::Closed => (PerSecond(0.0), PerSecond(0.0), Gaps::Even),
        };
        let curve = Curve {
            from: from.get(),
            to: to.get(),
            warm_up: plan.warm_up.as_secs_f64(),
            ramp: plan.duration.as_secs_f64(),
        };
        // Times must not depend on how many values a draw takes.
        let mut rng = Rng::with_seed(plan.seed);
        let draws = Draws::new(plan, rng.u64(..));
        let mut arrivals = Self { draws, rng, curve, gaps, position: 0.0, number: 0 };
        if gaps == Gaps::Poisson {
            arrivals.position = arrivals.gap();
        }
        arrivals
    }

    fn gap(&mut self) -> f64 {
        match self.gaps {
            Gaps::Even => 1.0,
            // The uniform value is below 1, so the logarithm is finite.
            Gaps::Poisson => -(1.0 - self.rng.f64()).ln(),
        }
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let at = self.curve.reaches(self.position)?;
        let arrival = Arrival { number: self.number, at: Duration::from_secs_f64(at), draw: self.draws.draw() };
        // Even gaps are counted: their sum would drift.
        self.number += 1;
        #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^52 requests")]
        let position = match self.gaps {
            Gaps::Even => self.number as f64,
            Gaps::Poisson => self.position + self.gap(),
        };
        self.position = position;
        Some(arrival)
    }
}

/// The rate over time: `from` during the warm-up, then evenly to `to`. Seconds and requests a second.
#[derive(Debug, Clone, Copy)]
struct Curve {
    from: f64,
    to: f64,
    warm_up: f64,
    ramp: f64,
}

impl Curve {
    /// When the integral of the rate has this value, unless it never does.
    fn reaches(&self, value: f64) -> Option<f64> {
        let in_warm_up = self.from * self.warm_up;
        if value < in_warm_up {
            return Some(value / self.from);
        }
        // from·t + slope·t²/2 = rest, in the form that loses no digits where the slope is small.
        let rest = value - in_warm_up;
        let slope = (self.to - self.from) / self.ramp;
        let root = self.from.mul_add(self.from, 2.0 * slope * rest);
        let t = match rest > 0.0 {
            true => 2.0 * rest / (self.from + root.sqrt()),
            false => 0.0,
        };
        // A ramp down to nothing has no root beyond its end: NaN compares as not below.
        let busy = self.from > 0.0 || self.to > 0.0;
        (busy && t < self.ramp).then_some(self.warm_up + t)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Target, Template};

    fn plan(from: f64, to: f64, gaps: Gaps, warm_up: u64, duration: u64) -> Plan {
        let mut plan = Plan::new(Target::parse("http://localhost/").unwrap());
        plan.pace = Pace::Open { from: PerSecond(from), to: PerSecond(to), gaps };
        plan.warm_up = Duration::from_secs(warm_up);
        plan.duration = Duration::from_secs(duration);
        plan
    }

    #[test]
    fn a_constant_rate_is_even_and_does_not_drift() {
        let all: Vec<Arrival> = Arrivals::new(&plan(3.0, 3.0, Gaps::Even, 1, 9)).collect();
        assert_eq!(all.len(), 30);
        assert_eq!(all[0].at, Duration::ZERO);
        assert_eq!(all[27].at, Duration::from_secs(9));
        assert_eq!(all[1].at.as_micros(), 333_333);
    }

    #[test]
    fn a_ramp_offers_the_mean_of_its_ends() {
        for (from, to) in [(0.0, 100.0), (100.0, 0.0), (10.0, 90.0)] {
            let all: Vec<Arrival> = Arrivals::new(&plan(from, to, Gaps::Even, 0, 10)).collect();
            assert!((499..=501).contains(&all.len()), "{from}..{to}: {}", all.len());
            let half = all.iter().filter(|one| one.at < Duration::from_secs(5)).count();
            // A quarter of the way is the mean rate of the first half.
            let expected = 5.0 * (from + (to - from) / 4.0);
            #[expect(clippy::cast_precision_loss, reason = "hundreds")]
            let off = (half as f64 - expected).abs();
            assert!(off <= 1.0, "{from}..{to}: {half} of {expected}");
        }
    }

    #[test]
    fn nothing_is_due_in_a_closed_loop() {
        let mut plan = plan(1.0, 1.0, Gaps::Even, 0, 1);
        plan.pace = Pace::Closed;
        assert_eq!(Arrivals::new(&plan).next(), None);
    }

    /// Mean and variance of exponential gaps are equal to within what 100,000 draws allow.
    #[test]
    fn poisson_gaps_are_exponential() {
        let all: Vec<f64> =
            Arrivals::new(&plan(1_000.0, 1_000.0, Gaps::Poisson, 0, 100)).map(|one| one.at.as_secs_f64()).collect();
        let gaps: Vec<f64> = all.windows(2).map(|pair| (pair[1] - pair[0]) * 1_000.0).collect();
        #[expect(clippy::cast_precision_loss, reason = "a hundred thousand")]
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.05, "variance {variance}");
    }

    #[test]
    fn shares_and_weights_are_drawn_as_said() {
        let mut plan = plan(1_000.0, 1_000.0, Gaps::Even, 0, 100);
        plan.new_connections = Share::from_ppm(500_000).unwrap();
        plan.requests = vec![Template::new(http::Method::GET), Template::new(http::Method::POST)];
        plan.requests[0].weight = 9;
        let all: Vec<Arrival> = Arrivals::new(&plan).collect();
        let fresh = all.iter().filter(|one| one.draw.fresh).count();
        let second = all.iter().filter(|one| one.draw.template == 1).count();
        assert!((49_000..51_000).contains(&fresh), "{fresh}");
        assert!((9_500..10_500).contains(&second), "{second}");
    }

    proptest! {
        #[test]
        fn arrivals_are_in_order_within_the_run_and_the_same_again(
            from in 0.0..500.0, to in 0.0..500.0, poisson: bool, warm_up in 0..3_u64, duration in 1..5_u64, seed: u64,
        ) {
            let mut plan = plan(from, to, if poisson { Gaps::Poisson } else { Gaps::Even }, warm_up, duration);
            plan.seed = seed;
            let all: Vec<Arrival> = Arrivals::new(&plan).collect();
            prop_assert!(all.windows(2).all(|pair| pair[0].at <= pair[1].at && pair[0].number + 1 == pair[1].number));
            prop_assert!(all.last().is_none_or(|last| last.at < plan.warm_up + plan.duration));
            prop_assert_eq!(&all, &Arrivals::new(&plan).collect::<Vec<_>>());
            if !poisson {
                let expected = from * plan.warm_up.as_secs_f64() + f64::midpoint(from, to) * plan.duration.as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "thousands")]
                let off = (all.len() as f64 - expected).abs();
                prop_assert!(off <= 1.5, "{} of {expected}", all.len());
            }
        }
    }
}
