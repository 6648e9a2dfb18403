//! Simulated requests of one service.

use std::time::Duration;

use bowline_core::verdict::Counters;

/// Seconds between two looks.
pub(super) const LOOK: u32 = 5;

/// The stable release's times: a log-normal distribution with median 40 ms and this deviation, whose p99 is 259 ms.
const MEDIAN_US: f64 = 40_000.0;
const DEVIATION: f64 = 0.803;

/// The stable release's p99: a canary's answer that comes later, and would not have, is late.
const P99: Duration = Duration::from_micros(259_000);

/// splitmix64: a seed repeats a run.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, 1 excluded.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        (2.0 * self.exponential()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Service {
    rng: Rng,
    /// Requests a second.
    pub(super) rate: f64,
    /// Share of the stable release's.
    pub(super) errors: f64,
}

impl Service {
    /// 1 to 500 requests a second, 0.1 to 2 % errors, both log-uniform.
    pub(super) fn drawn(seed: u32) -> Self {
        let mut rng = Rng(u64::from(seed) << 32);
        let mut between = |low: f64, high: f64| low * (high / low).powf(rng.unit());
        let (rate, errors) = (between(1.0, 500.0), between(0.001, 0.02));
        Self { rng, rate, errors }
    }

    pub(super) fn at_most(self, rate: f64) -> Self {
        Self { rate: self.rate.min(rate), ..self }
    }
}

/// What was answered: since the step began, and what a fixed rule wants to know of the canary.
#[derive(Debug)]
pub(super) struct Traffic {
    service: Service,
    /// Added to the canary's errors, and times that it takes.
    fault: (f64, f64),
    /// Times to answer at equally likely quantiles: a draw is a place in it.
    times: Vec<Duration>,
    pub(super) canary: Counters,
    pub(super) baseline: Counters,
    pub(super) stable: Counters,
    /// The canary's counters of each look of the last minute, the oldest first.
    minute: std::collections::VecDeque<Counters>,
    hurt: u64,
    /// Until the next request, in seconds.
    next: f64,
}

/// Places in the table of times: the last one is p99.98.
const TIMES: usize = 4_096;

impl Traffic {
    pub(super) fn new(mut service: Service, errors: f64, slower: f64) -> Self {
        let mut times: Vec<_> = (0..TIMES * 16).map(|_| MEDIAN_US * (DEVIATION * service.rng.normal()).exp()).collect();
        times.sort_by(f64::total_cmp);
        let times = times.chunks(16).map(|those| Duration::from_secs_f64(those.iter().sum::<f64>() / 16e6)).collect();
        let next = service.rng.exponential() / service.rate;
        Self {
            service,
            fault: (errors, slower),
            times,
            canary: Counters::default(),
            baseline: Counters::default(),
            stable: Counters::default(),
            minute: std::collections::VecDeque::new(),
            hurt: 0,
            next,
        }
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    pub(super) fn begin_step(&mut self) {
        for counters in [&mut self.canary, &mut self.baseline, &mut self.stable] {
            *counters = Counters::default();
        }
    }

    /// What the canary answered in the last minute.
    pub(super) fn last_minute(&self) -> Counters {
        let mut sum = Counters::default();
        self.minute.iter().for_each(|look| sum.merge(look));
        sum
    }

    /// The requests until the next look, with the canary and its baseline at this weight each.
    pub(super) fn look(&mut self, weight: u32) {
        if self.minute.len() >= usize::try_from(60 / LOOK).unwrap_or(1) {
            self.minute.pop_front();
        }
        let mut look = Counters::default();
        let weight = f64::from(weight) / 100.0;
        while self.next < f64::from(LOOK) {
            self.next += self.service.rng.exponential() / self.service.rate;
            let place = self.service.rng.unit();
            let (failure, draw) = (self.service.rng.unit(), self.service.rng.next());
            let time = self.times[usize::try_from(draw).unwrap_or(usize::MAX) % TIMES];
            if place < weight {
                let (errors, slower) = self.fault;
                let (status, took) = (status(failure < self.service.errors + errors), time.mul_f64(slower));
                let fails = status >= 500 && failure >= self.service.errors;
                self.hurt += u64::from(fails || took > P99 && time <= P99);
                look.record(status, took);
            } else {
                let status = status(failure < self.service.errors);
                self.stable.record(status, time);
                if place < 2.0 * weight {
                    self.baseline.record(status, time);
                }
            }
        }
        self.next -= f64::from(LOOK);
        self.canary.merge(&look);
        self.minute.push_back(look);
    }

    /// Requests so far that the canary answered worse than the stable release would have.
    #[expect(clippy::cast_precision_loss, reason = "counts of simulated requests")]
    pub(super) fn hurt(&self) -> f64 {
        self.hurt as f64
    }
}

fn status(failed: bool) -> u16 {
    if failed { 500 } else { 200 }
}
