//! Who says how many.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bowline_core::id::InstanceId;
use bowline_core::scale::{Demand, Look, May, Policy, Room, Windows};
use bowline_core::time::Mono;
use bowline_core::units::{MilliCpu, Share};

const MOST: u16 = 20;
pub(super) const IN_FLIGHT: u32 = 10;
const CPU: f64 = 0.7;

/// What there is to see, each second.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) now: f64,
    pub(super) target: u16,
    pub(super) ready: u16,
    /// In flight × seconds since the start.
    pub(super) busy: f64,
    /// Processor × seconds of one instance on average since the start.
    pub(super) used: f64,
}

pub(super) trait Scaler {
    /// How many there are to be.
    fn look(&mut self, seen: Seen) -> u16;
}

pub(super) struct Bowline {
    scaler: bowline_core::scale::Scaler,
    policy: Policy,
    /// Processor time of each instance, and of one on average when that was told.
    cpu: BTreeMap<InstanceId, Duration>,
    used: f64,
}

impl Bowline {
    pub(super) fn by_requests() -> Self {
        Self::new(Some(IN_FLIGHT), None)
    }

    pub(super) fn by_cpu() -> Self {
        Self::new(None, Share::from_ppm(700_000))
    }

    fn new(in_flight: Option<u32>, cpu: Option<Share>) -> Self {
        Self {
            scaler: bowline_core::scale::Scaler::new(Windows::default()),
            policy: Policy { min: 1, max: MOST, in_flight, cpu, cores: MilliCpu(1000) },
            cpu: BTreeMap::new(),
            used: 0.0,
        }
    }

    fn instance(slot: u16) -> Option<InstanceId> {
        format!("local/a.web.r1.{slot}.1").parse().ok()
    }
}

impl Scaler for Bowline {
    fn look(&mut self, seen: Seen) -> u16 {
        let gained = Duration::from_secs_f64((seen.used - self.used).max(0.0));
        self.used = seen.used;
        let known = std::mem::take(&mut self.cpu);
        let each = |id: InstanceId| (id.clone(), known.get(&id).copied().unwrap_or_default() + gained);
        self.cpu = (0..seen.ready).filter_map(Self::instance).map(each).collect();
        let look = Look {
            policy: self.policy,
            target: seen.target,
            ready: seen.ready,
            demand: Some(Demand { busy: Duration::from_secs_f64(seen.busy), ..Demand::default() }),
            cpu: &self.cpu,
            room: Room::default(),
            may: May::Change,
        };
        let now = Mono(Duration::from_secs_f64(seen.now));
        self.scaler.handle(look, now).map_or(seen.target, |target| target.to)
    }
}

/// <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/>, with its defaults.
pub(super) struct Hpa {
    by_cpu: bool,
    most: u16,
    samples: VecDeque<Seen>,
    /// What was recommended, within the time of stabilisation.
    recommended: VecDeque<(f64, u16)>,
    next: f64,
}

/// Seconds.
pub(super) const SYNC: f64 = 15.0;
const STABILISATION: f64 = 300.0;
const TOLERANCE: f64 = 0.1;

impl Hpa {
    pub(super) fn by_requests() -> Self {
        Self { by_cpu: false, most: MOST, samples: VecDeque::new(), recommended: VecDeque::new(), next: SYNC }
    }

    pub(super) fn at_most(self, most: u16) -> Self {
        Self { most, ..self }
    }

    pub(super) fn by_cpu() -> Self {
        Self { by_cpu: true, ..Self::by_requests() }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    fn desired(&self, seen: Seen) -> u16 {
        let Some(from) = self.samples.front() else { return seen.target };
        let span = (seen.now - from.now).max(1.0);
        let current = f64::from(seen.target);
        let ratio = match self.by_cpu {
            true => (seen.used - from.used) / span / CPU,
            false => (seen.busy - from.busy) / span / current / f64::from(IN_FLIGHT),
        };
        // What rounding adds to a whole number is no instance more.
        let wanted = (current * ratio - 1e-6).ceil().clamp(0.0, 1e4) as u16;
        if (ratio - 1.0).abs() <= TOLERANCE { seen.target } else { wanted }
    }
}

impl Scaler for Hpa {
    fn look(&mut self, seen: Seen) -> u16 {
        self.samples.push_back(seen);
        while self.samples.front().is_some_and(|oldest| seen.now - oldest.now > SYNC) {
            self.samples.pop_front();
        }
        if seen.now < self.next {
            return seen.target;
        }
        self.next += SYNC;
        let desired = self.desired(seen).clamp(1, self.most);
        self.recommended.push_back((seen.now, desired));
        while self.recommended.front().is_some_and(|(at, _)| seen.now - at > STABILISATION) {
            self.recommended.pop_front();
        }
        let largest = self.recommended.iter().map(|(_, one)| *one).max().unwrap_or(desired);
        let up = seen.target.saturating_mul(2).max(seen.target + 4);
        if desired > seen.target { desired.min(up) } else { largest.min(seen.target) }
    }
}
