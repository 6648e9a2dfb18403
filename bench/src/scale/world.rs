//! Simulated requests of one service, and the instances that answer them.

use super::scalers::{Scaler, Seen};

/// Seconds that a request takes where there is room.
const TAKES: f64 = 0.1;

/// Requests that one instance answers at once.
const AT_ONCE: f64 = 14.0;

/// Seconds until a new instance is ready.
const STARTS: f64 = 3.0;

/// Between two steps of the simulation.
const DT: f64 = 0.05;

const STEPS_A_SECOND: u32 = 20;

pub(super) struct World {
    random: u64,
    now: f64,
    /// When each is ready.
    instances: Vec<f64>,
    in_flight: f64,
    /// In flight × seconds, and processor × seconds of one instance on average, since the start.
    busy: f64,
    used: f64,
    late: f64,
    all: f64,
    spent: f64,
}

impl World {
    pub(super) fn new(seed: u32) -> Self {
        Self {
            random: u64::from(seed) << 32,
            now: 0.0,
            instances: vec![0.0],
            in_flight: 0.0,
            busy: 0.0,
            used: 0.0,
            late: 0.0,
            all: 0.0,
            spent: 0.0,
        }
    }

    /// From 0 to 1, 1 excluded (splitmix64).
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many come, of so many on average (Knuth's product of uniforms).
    fn poisson(&mut self, mean: f64) -> f64 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0.0);
        while product > limit {
            product *= self.unit();
            count += 1.0;
        }
        count
    }

    /// One second at this rate; then the scaler looks.
    pub(super) fn second(&mut self, rate: f64, scaler: &mut dyn Scaler) {
        for _ in 0..STEPS_A_SECOND {
            let come = self.poisson(rate * DT);
            let room = f64::from(self.ready()) * AT_ONCE;
            let serving = self.in_flight.min(room);
            let waits = (self.in_flight - room).max(0.0) / (room / TAKES).max(1.0);
            self.all += come;
            self.late += if waits + TAKES > 1.0 { come } else { 0.0 };
            self.busy += self.in_flight * DT;
            self.used += serving / room.max(1.0) * DT;
            self.in_flight = (self.in_flight + come - serving / TAKES * DT).max(0.0);
            self.spent += self.instances.len() as f64 * DT;
            self.now += DT;
        }
        let seen = Seen { now: self.now, target: self.target(), ready: self.ready(), busy: self.busy, used: self.used };
        let wanted = scaler.look(seen);
        let starts = self.now + STARTS;
        self.instances.resize(usize::from(wanted), starts);
    }

    pub(super) fn target(&self) -> u16 {
        u16::try_from(self.instances.len()).unwrap_or(u16::MAX)
    }

    fn ready(&self) -> u16 {
        let ready = self.instances.iter().filter(|at| **at <= self.now).count();
        u16::try_from(ready).unwrap_or(u16::MAX)
    }

    /// Requests a second.
    pub(super) fn carries(&self) -> f64 {
        f64::from(self.ready()) * AT_ONCE / TAKES
    }

    pub(super) fn late(&self) -> f64 {
        self.late / self.all.max(1.0)
    }

    /// Instances × seconds.
    pub(super) fn spent(&self) -> f64 {
        self.spent
    }
}

/// Nobody queues.
pub(super) fn met(world: &World) -> bool {
    world.in_flight <= f64::from(world.ready()) * AT_ONCE
}
