//! For how long requests are in flight together: what the number of instances follows.
//!
//! The time between two changes counts as often as requests were in flight: an average over any span is then exact, however short
//! requests are. Each worker counts alone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::route::LabelId;
use crate::worker::Worker;

/// Of one route to one service.
#[derive(Debug)]
struct Flying {
    in_flight: u32,
    /// Of those, the ones that find no instance.
    waiting: u32,
    since: Instant,
    busy: Duration,
}

/// What a worker has seen of them since its last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flown {
    pub(crate) busy: Duration,
    /// Now, not since.
    pub(crate) waiting: u32,
}

/// Between two reports that are made because somebody begins to wait: whoever comes and goes again and again keeps nobody busy.
const NEWS_EVERY: Duration = Duration::from_millis(100);

/// One worker's requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flying: RefCell<HashMap<LabelId, Flying>>,
    /// When it was told last that somebody begins to wait.
    told: Cell<Option<Instant>>,
}

impl Flights {
    fn change(&self, labels: LabelId, now: Instant, change: impl FnOnce(&mut Flying)) {
        let mut flights = self.flying.borrow_mut();
        let new = Flying { in_flight: 0, waiting: 0, since: now, busy: Duration::ZERO };
        let flying = flights.entry(labels).or_insert(new);
        flying.pass(now);
        change(flying);
    }

    /// How many wait, on this route.
    pub(crate) fn waiting(&self, labels: LabelId) -> u32 {
        self.flying.borrow().get(&labels).map_or(0, |flying| flying.waiting)
    }

    /// Somebody begins to wait: whether that is to be told at once, or with the next report.
    pub(crate) fn is_news(&self, now: Instant) -> bool {
        let is_news = self.told.get().is_none_or(|told| now.saturating_duration_since(told) >= NEWS_EVERY);
        if is_news {
            self.told.set(Some(now));
        }
        is_news
    }

    /// Whether anybody waits.
    pub(crate) fn has_waiting(&self) -> bool {
        self.flying.borrow().values().any(|flying| flying.waiting > 0)
    }

    pub(crate) fn report(&self, now: Instant) -> HashMap<LabelId, Flown> {
        let mut flights = self.flying.borrow_mut();
        let flown = |(labels, flying): (&LabelId, &mut Flying)| {
            flying.pass(now);
            (*labels, Flown { busy: std::mem::take(&mut flying.busy), waiting: flying.waiting })
        };
        let report = flights.iter_mut().map(flown).collect();
        flights.retain(|_, flying| flying.in_flight > 0);
        report
    }
}

impl Flying {
    fn pass(&mut self, now: Instant) {
        self.busy += now.saturating_duration_since(self.since) * self.in_flight;
        self.since = now;
    }
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    worker: Rc<Worker>,
    labels: LabelId,
    waits: bool,
}

impl Flight {
    /// An instance has it.
    pub(crate) fn begin(worker: &Rc<Worker>, labels: LabelId) -> Self {
        Self::new(worker, labels, false)
    }

    /// It waits for an instance.
    pub(crate) fn waiting(worker: &Rc<Worker>, labels: LabelId) -> Self {
        Self::new(worker, labels, true)
    }

    fn new(worker: &Rc<Worker>, labels: LabelId, waits: bool) -> Self {
        worker.shard.flights.change(labels, Instant::now(), |flying| {
            flying.in_flight += 1;
            flying.waiting += u32::from(waits);
        });
        Self { worker: Rc::clone(worker), labels, waits }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.worker.shard.flights.change(self.labels, Instant::now(), |flying| {
            flying.in_flight = flying.in_flight.saturating_sub(1);
            flying.waiting = flying.waiting.saturating_sub(u32::from(self.waits));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_as_often_as_requests_are_in_flight() {
        let (flights, begun, labels) = (Flights::default(), Instant::now(), LabelId(0));
        let at = |ms| begun + Duration::from_millis(ms);
        let report = |ms| flights.report(at(ms)).get(&labels).copied().unwrap_or_default();
        flights.change(labels, at(0), |flying| (flying.in_flight, flying.waiting) = (2, 1));
        flights.change(labels, at(100), |flying| flying.in_flight = 3);
        assert_eq!(report(200), Flown { busy: Duration::from_millis(500), waiting: 1 });
        flights.change(labels, at(210), |flying| (flying.in_flight, flying.waiting) = (0, 0));
        assert_eq!(report(1000), Flown { busy: Duration::from_millis(30), waiting: 0 });
        assert_eq!(report(2000), Flown::default());
        assert!(flights.flying.borrow().is_empty(), "what rests is forgotten");
    }

    #[test]
    fn whoever_comes_again_and_again_is_not_told_each_time() {
        let (flights, begun) = (Flights::default(), Instant::now());
        let told = (0..1000).filter(|ms| flights.is_news(begun + Duration::from_millis(*ms)));
        assert_eq!(told.collect::<Vec<_>>(), (0..10).map(|i| i * 100).collect::<Vec<_>>());
    }
}
