//! What became of the requests: counted, with latencies as HDR histograms. Gets times as arguments, all since the run began.

mod timeline;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::plan::Wrong;

pub use timeline::{SLOTS, Slot, Timeline};

/// A request sent this long after it was due, or later, is late; so is a generator that takes one up.
pub const LATE: Duration = Duration::from_millis(10);
/// Of the requests that failed, so many are told about in words: the first ones.
pub const TOLD: usize = 20;
/// The longest time that a histogram holds, in microseconds; longer ones count as this.
const LONGEST: u64 = 600_000_000;
/// Of a value, so many digits are kept (at most 0.1 % off).
const DIGITS: u8 = 3;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nobody listens.
    Refused,
    /// The connection could not be made for another cause.
    Connect,
    /// The handshake failed or the certificate is not trusted.
    Tls,
    /// No whole answer in time.
    Timeout,
    /// The connection, or the stream of HTTP/2, was reset.
    Reset,
    /// The connection ended before the answer did.
    Closed,
    /// The answer was not HTTP.
    Protocol,
    /// Not the expected status.
    Status,
    /// Not the expected header.
    Header,
    /// Not the expected body.
    Body,
    /// Never sent: no connection was free in time.
    Dropped,
    /// Not sent: this machine has no port left for a connection.
    NoPort,
    /// Not sent: this process has no descriptor left.
    NoDescriptor,
}

impl Kind {
    /// A limit of this machine and not of the server: figures beside it say nothing.
    pub fn is_own_limit(self) -> bool {
        matches!(self, Self::NoPort | Self::NoDescriptor)
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Connect => "connection not made",
            Self::Tls => "TLS failed",
            Self::Timeout => "no answer in time",
            Self::Reset => "reset",
            Self::Closed => "closed before the answer's end",
            Self::Protocol => "not HTTP",
            Self::Status => "unexpected status",
            Self::Header => "unexpected header",
            Self::Body => "unexpected body",
            Self::Dropped => "never sent: no connection was free in time",
            Self::NoPort => "no port left on this machine",
            Self::NoDescriptor => "no descriptor left in this process",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl From<Wrong> for Kind {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Status => Self::Status,
            Wrong::Header => Self::Header,
            Wrong::Body => Self::Body,
        }
    }
}

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub due: Duration,
    /// When it began: with its connection, if it made one. `None`: never.
    pub began: Option<Duration>,
    pub ended: Duration,
    /// How long its own connection took, handshakes included.
    pub connecting: Option<Duration>,
    /// Of the answer, if there was a whole one.
    pub status: Option<u16>,
    /// Of the answer's body.
    pub received: u64,
    /// Of the request's body.
    pub sent: u64,
    /// What was wrong, with words for the first ones.
    pub failure: Option<(Kind, String)>,
}

impl Outcome {
    /// Sent just now, and not answered yet.
    pub(crate) fn begun(due: Duration, now: Duration) -> Self {
        let (connecting, status, failure) = (None, None, None);
        Self { due, began: Some(now), ended: now, connecting, status, received: 0, sent: 0, failure }
    }
}

/// One request that failed, in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was due, since the measurement began.
    pub at_ms: f64,
    pub kind: Kind,
    pub detail: String,
}

/// Requests that were due after the warm-up. `offered = succeeded + failed + unfinished`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Due by the schedule; in a closed loop, begun.
    pub offered: u64,
    /// Begun: a connection was taken or asked for.
    pub sent: u64,
    /// Answered whole, as expected or not.
    pub completed: u64,
    /// As expected.
    pub succeeded: u64,
    /// Without the expected answer, for whatever cause.
    pub failed: u64,
    /// Sent 10 ms or more after they were due.
    pub late: u64,
    /// Never sent: no connection was free in time. They are among the failed.
    pub dropped: u64,
    /// Under way when a closed loop ended.
    pub unfinished: u64,
    /// Due in the warm-up: in no other figure.
    pub warm_up: u64,
}

/// What one thread counts; added up at the end.
#[derive(Debug, Clone)]
pub struct Tally {
    warm_up: Duration,
    pub counts: Counts,
    pub received: u64,
    pub sent: u64,
    pub statuses: BTreeMap<u16, u64>,
    pub errors: BTreeMap<Kind, u64>,
    pub failures: Vec<Failure>,
    /// From when a request was due to the end of its answer. Those that got none in time count with the time waited.
    pub latency: Histogram<u64>,
    /// From when a request was sent, and its own connection begun, to the end of its answer.
    pub service: Histogram<u64>,
    pub connecting: Histogram<u64>,
    /// How long after a request was due the generator took it up: its own lateness, no server has a part in it.
    pub lag: Histogram<u64>,
    /// Taken up [`LATE`] after they were due, or later.
    pub lagged: u64,
    pub timeline: Timeline,
    /// When the last answer ended, since the measurement began.
    pub last: Duration,
}

impl Tally {
    pub fn new(warm_up: Duration) -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds and digits are in their range");
        Self {
            warm_up,
            counts: Counts::default(),
            received: 0,
            sent: 0,
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            failures: Vec::new(),
            latency: histogram(),
            service: histogram(),
            connecting: histogram(),
            lag: histogram(),
            lagged: 0,
            timeline: Timeline::default(),
            last: Duration::ZERO,
        }
    }

    /// The generator takes up a request that is due.
    pub fn taken_up(&mut self, due: Duration, now: Duration) {
        let Some(at) = self.measured(due) else {
            self.counts.warm_up += 1;
            return;
        };
        self.counts.offered += 1;
        let lag = now.saturating_sub(due);
        self.lag.saturating_record(micros(lag));
        self.lagged += u64::from(lag >= LATE);
        self.timeline.due(at);
    }

    /// A request that was taken up has come to its end.
    pub fn ended(&mut self, outcome: Outcome) {
        let Some(at) = self.measured(outcome.due) else { return };
        let latency = outcome.ended.saturating_sub(outcome.due);
        if let Some(began) = outcome.began {
            self.counts.sent += 1;
            self.counts.late += u64::from(began.saturating_sub(outcome.due) >= LATE);
            self.sent += outcome.sent;
        }
        self.connecting_took(outcome.connecting);
        let waited_in_vain = matches!(outcome.failure, Some((Kind::Timeout | Kind::Dropped, _)));
        let ended = outcome.ended.saturating_sub(self.warm_up);
        if outcome.status.is_some() || waited_in_vain {
            self.latency.saturating_record(micros(latency));
            if let Some(began) = outcome.began {
                self.service.saturating_record(micros(outcome.ended.saturating_sub(began)));
            }
            self.timeline.took(at, micros(latency));
        }
        if let Some(status) = outcome.status {
            self.counts.completed += 1;
            self.received += outcome.received;
            *self.statuses.entry(status).or_default() += 1;
            self.timeline.answered(ended);
            self.last = self.last.max(ended);
        }
        match outcome.failure {
            None => self.counts.succeeded += 1,
            Some((kind, detail)) => self.failed(at, kind, detail),
        }
    }

    fn connecting_took(&mut self, connecting: Option<Duration>) {
        if let Some(took) = connecting {
            self.connecting.saturating_record(micros(took));
        }
    }

    fn failed(&mut self, at: Duration, kind: Kind, detail: String) {
        self.counts.failed += 1;
        self.counts.dropped += u64::from(kind == Kind::Dropped);
        *self.errors.entry(kind).or_default() += 1;
        self.timeline.failed(at);
        if self.failures.len() < TOLD {
            self.failures.push(Failure { at_ms: at.as_secs_f64() * 1e3, kind, detail });
        }
    }

    /// A closed loop has ended: what is under way will not be.
    pub fn cut(&mut self) {
        let ended = self.counts.succeeded + self.counts.failed;
        self.counts.unfinished = self.counts.offered.saturating_sub(ended);
        self.counts.sent += self.counts.unfinished;
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: Self) {
        self.counts += other.counts;
        self.received += other.received;
        self.sent += other.sent;
        self.lagged += other.lagged;
        self.last = self.last.max(other.last);
        for (status, n) in other.statuses {
            *self.statuses.entry(status).or_default() += n;
        }
        for (kind, n) in other.errors {
            *self.errors.entry(kind).or_default() += n;
        }
        self.failures.extend(other.failures);
        self.failures.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        self.failures.truncate(TOLD);
        let pairs = [
            (&mut self.latency, other.latency),
            (&mut self.service, other.service),
            (&mut self.connecting, other.connecting),
            (&mut self.lag, other.lag),
        ];
        for (sum, part) in pairs {
            sum.add(part).expect("all have the same bounds");
        }
        self.timeline.merge(other.timeline);
    }

    /// Since the measurement began; `None` in the warm-up.
    fn measured(&self, due: Duration) -> Option<Duration> {
        due.checked_sub(self.warm_up)
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.completed += other.completed;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.late += other.late;
        self.dropped += other.dropped;
        self.unfinished += other.unfinished;
        self.warm_up += other.warm_up;
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
