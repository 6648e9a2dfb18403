//! What is remembered of requests: counters without a lock, and one line per request in the access log.
//!
//! Each worker counts alone. Every report takes what it counted since the last one; the process keeps the totals.

mod access;
mod flight;
mod totals;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bowline_core::route::retry::Retry;
use bowline_core::route::{DURATION_BOUNDS, Method, SIZE_BOUNDS};
use bowline_core::verdict::Counters;
// Of keys that nobody outside chooses, every request looks some up: what resists who does choose takes several times as long.
use hashbrown::HashMap;

pub(crate) use access::{AccessLog, Line, Writer};
pub(crate) use flight::{Flight, Flights, Flown, Who};
pub(crate) use totals::Totals;

use crate::route::LabelId;

/// Series that one worker counts between two reports; what is above is dropped and counted.
const MAX_SHARD: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ShardKey {
    pub(crate) labels: LabelId,
    pub(crate) method: Method,
    pub(crate) status: u16,
}

/// Counts of one series since the last report.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) duration: [u64; DURATION_BOUNDS.len() + 1],
    pub(crate) duration_sum: f64,
    pub(crate) request: [u64; SIZE_BOUNDS.len() + 1],
    pub(crate) request_sum: f64,
    pub(crate) response: [u64; SIZE_BOUNDS.len() + 1],
    pub(crate) response_sum: f64,
}

/// One finished request, as far as it is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) key: ShardKey,
    pub(crate) duration: Duration,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len())
}

#[expect(clippy::cast_precision_loss, reason = "sizes and durations far below 2^53")]
impl Counts {
    fn add(&mut self, sample: &Sample) {
        let seconds = sample.duration.as_secs_f64();
        let (request, response) = (sample.request_bytes as f64, sample.response_bytes as f64);
        self.duration[bucket(&DURATION_BOUNDS, seconds)] += 1;
        self.duration_sum += seconds;
        self.request[bucket(&SIZE_BOUNDS, request)] += 1;
        self.request_sum += request;
        self.response[bucket(&SIZE_BOUNDS, response)] += 1;
        self.response_sum += response;
    }
}

/// One worker's share of the counters.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    series: RefCell<HashMap<ShardKey, Counts>>,
    /// Of pools that a rollout goes by.
    traffic: RefCell<HashMap<LabelId, Counters>>,
    /// Of services whose number of instances changes with the load.
    pub(crate) flights: Flights,
    dropped: Cell<u64>,
    refused: RefCell<BTreeMap<&'static str, u64>>,
    retries: Cell<u64>,
    retries_refused: Cell<u64>,
    connections: Cell<u64>,
    connections_open: Cell<u64>,
    handshakes: Cell<u64>,
    handshakes_failed: Cell<u64>,
}

/// What a worker counted since its last report.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) series: HashMap<ShardKey, Counts>,
    pub(crate) traffic: HashMap<LabelId, Counters>,
    pub(crate) flown: std::collections::HashMap<LabelId, Flown>,
    pub(crate) dropped: u64,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) retries: u64,
    pub(crate) retries_refused: u64,
    pub(crate) connections: u64,
    /// Now, not since.
    pub(crate) connections_open: u64,
    pub(crate) handshakes: u64,
    pub(crate) handshakes_failed: u64,
}

fn increase(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Shard {
    pub(crate) fn count(&self, sample: &Sample) {
        let mut series = self.series.borrow_mut();
        if let Some(counts) = series.get_mut(&sample.key) {
            counts.add(sample);
        } else if series.len() < MAX_SHARD {
            series.entry(sample.key).or_default().add(sample);
        } else {
            increase(&self.dropped);
        }
    }

    /// The answer of a release that is judged. They are as many as there are releases on their way.
    pub(crate) fn judge(&self, labels: LabelId, status: u16, duration: Duration) {
        self.traffic.borrow_mut().entry(labels).or_default().record(status, duration);
    }

    /// A request that found no route. `reason` is one of a fixed set of codes.
    pub(crate) fn refused(&self, reason: &'static str) {
        *self.refused.borrow_mut().entry(reason).or_default() += 1;
    }

    /// A request that failed goes to another instance, or does not.
    pub(crate) fn retry(&self, retry: Retry) {
        increase(match retry {
            Retry::Granted => &self.retries,
            Retry::Refused => &self.retries_refused,
        });
    }

    pub(crate) fn handshake(&self, succeeded: bool) {
        increase(&self.handshakes);
        if !succeeded {
            increase(&self.handshakes_failed);
        }
    }

    pub(crate) fn connection_opened(&self) {
        increase(&self.connections);
        increase(&self.connections_open);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections_open.set(self.connections_open.get().saturating_sub(1));
    }

    pub(crate) fn open(&self) -> u64 {
        self.connections_open.get()
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            series: self.series.take(),
            traffic: self.traffic.take(),
            flown: self.flights.report(Instant::now()),
            dropped: self.dropped.take(),
            refused: self.refused.take(),
            retries: self.retries.take(),
            retries_refused: self.retries_refused.take(),
            connections: self.connections.take(),
            connections_open: self.connections_open.get(),
            handshakes: self.handshakes.take(),
            handshakes_failed: self.handshakes_failed.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(labels: u32, duration: Duration) -> Sample {
        let key = ShardKey { labels: LabelId(labels), method: Method::Get, status: 200 };
        Sample { key, duration, request_bytes: 0, response_bytes: 1025 }
    }

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let shard = Shard::default();
        shard.count(&sample(0, Duration::from_millis(5)));
        shard.count(&sample(0, Duration::from_secs(11)));
        let report = shard.report();
        let counts = report.series.values().next().unwrap();
        assert_eq!((counts.duration[0], counts.duration[14]), (1, 1));
        assert_eq!((counts.request[0], counts.response[1]), (2, 2));
        assert!(shard.report().series.is_empty(), "a report takes what it reports");
    }

    #[test]
    fn a_worker_counts_a_bounded_number_of_series() {
        let shard = Shard::default();
        for labels in 0..u32::try_from(MAX_SHARD).unwrap() + 3 {
            shard.count(&sample(labels, Duration::ZERO));
        }
        let report = shard.report();
        assert_eq!((report.series.len(), report.dropped), (MAX_SHARD, 3));
    }
}
