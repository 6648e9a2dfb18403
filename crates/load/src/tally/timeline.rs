use std::time::Duration;

use hdrhistogram::Histogram;

/// Slots at most: a longer run has wider ones.
pub const SLOTS: usize = 240;
/// The width of a slot at first.
const NARROW: Duration = Duration::from_millis(100);
/// Two digits are enough for a picture, and keep a slot at some kilobytes.
const DIGITS: u8 = 2;

/// What happened over time, in slots of equal width. Its memory is bounded: when the slots are used up, each two become one.
#[derive(Debug, Clone)]
pub struct Timeline {
    width: Duration,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone)]
pub struct Slot {
    /// Requests due in this slot.
    pub due: u64,
    /// Of those, the ones that failed.
    pub failed: u64,
    /// Answers that ended in this slot, whenever their requests were due.
    pub answered: u64,
    /// Latencies of the requests due in this slot, in microseconds.
    pub latency: Histogram<u32>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { width: NARROW, slots: Vec::new() }
    }
}

impl Default for Slot {
    fn default() -> Self {
        // It grows to what it must hold.
        Self { due: 0, failed: 0, answered: 0, latency: Histogram::new(DIGITS).expect("two digits are in the range") }
    }
}

impl Timeline {
    pub fn width(&self) -> Duration {
        self.width
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn due(&mut self, at: Duration) {
        self.slot(at).due += 1;
    }

    pub(super) fn failed(&mut self, at: Duration) {
        self.slot(at).failed += 1;
    }

    pub(super) fn answered(&mut self, ended: Duration) {
        self.slot(ended).answered += 1;
    }

    pub(super) fn took(&mut self, at: Duration, latency: u64) {
        // A histogram that grows takes any value up to the longest one.
        let _ = self.slot(at).latency.record(latency.clamp(1, super::LONGEST));
    }

    pub(super) fn merge(&mut self, mut other: Self) {
        while self.width < other.width {
            self.widen();
        }
        while other.width < self.width {
            other.widen();
        }
        if self.slots.len() < other.slots.len() {
            std::mem::swap(&mut self.slots, &mut other.slots);
        }
        for (sum, part) in self.slots.iter_mut().zip(&other.slots) {
            sum.add(part);
        }
    }

    fn slot(&mut self, at: Duration) -> &mut Slot {
        let mut index = self.index(at);
        while index >= SLOTS {
            self.widen();
            index = self.index(at);
        }
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        &mut self.slots[index]
    }

    fn index(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX)
    }

    fn widen(&mut self) {
        self.width *= 2;
        let pairs = self.slots.chunks(2).map(|pair| {
            let mut sum = pair[0].clone();
            pair[1..].iter().for_each(|part| sum.add(part));
            sum
        });
        self.slots = pairs.collect();
    }
}

impl Slot {
    fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.failed += other.failed;
        self.answered += other.answered;
        self.latency.add(&other.latency).expect("a histogram that grows takes any other");
    }
}
