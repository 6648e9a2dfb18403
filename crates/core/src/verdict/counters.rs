//! What a release answered since a step began.

use std::time::Duration;

use super::Histogram;

/// A response with this status or a higher one is a failure: the app's or Bowline's own fault, not the client's (RFC
/// 9110, section 15.6). The edge's 502, 503 and 504 are among them, where no instance of the release answered.
pub const FIRST_FAILURE: u16 = 500;

/// The client left before it had an answer. What it would have been nobody knows: of a release that hangs such requests are
/// no success, and too many of them leave too few others for a verdict. That it would have come later is known.
pub const CLIENT_LEFT: u16 = 499;

/// A response that opens a tunnel, and lasts as long as it (RFC 9110, section 15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// What one counting has counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Tells one counting from another, as the start time of OpenTelemetry's sums does: whoever counts anew, another edge or the
    /// same one, says another. It is compared and never ordered; 0 where it is not known.
    pub began: u64,
    pub counters: Counters,
}

impl Counted {
    /// What came since; all of it, where the counting began anew in between.
    pub fn since(&self, before: &Self) -> Counters {
        let same = (self.began == before.began).then_some(&before.counters);
        same.and_then(|before| self.counters.since(before)).unwrap_or_else(|| self.counters.clone())
    }
}

/// Requests that an edge handed to a release, or failed for want of it; not those that a policy refused before or that a
/// client did not wait for, which say nothing of a release. A try that another instance made good is one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    pub requests: u64,
    /// Of them, those answered with [`FIRST_FAILURE`] or above.
    pub failures: u64,
    /// Times that instances took until the heads of their responses, of those that did not fail: a release that fails at once
    /// does not look fast. What a client takes to send or to read is not in it. Tunnels are not in it.
    pub latency: Histogram,
    /// The same times until clients left without an answer: it took longer than that, and nobody knows how much.
    pub left: Histogram,
}

impl Counters {
    /// One request that has ended. `status`: as sent, or 499 where the client left before.
    pub fn record(&mut self, status: u16, took: Duration) {
        if status != CLIENT_LEFT {
            self.requests = self.requests.saturating_add(1);
        }
        match status {
            FIRST_FAILURE.. => self.failures = self.failures.saturating_add(1),
            SWITCHING_PROTOCOLS => {}
            CLIENT_LEFT => self.left.record(took),
            _ => self.latency.record(took),
        }
    }

    /// Adds what another worker, or another service of the release, counted.
    pub fn merge(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.latency.merge(&other.latency);
        self.left.merge(&other.left);
    }

    /// What came since; `None` where they are not what was counted on from there.
    pub fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            requests: self.requests.checked_sub(before.requests)?,
            failures: self.failures.checked_sub(before.failures)?,
            latency: self.latency.since(&before.latency)?,
            left: self.left.since(&before.left)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_faults_are_failures_and_tell_nothing_of_its_speed() {
        let mut counters = Counters::default();
        for status in [101, 200, 304, 404, 429, 499, 500, 502, 503, 504, 599] {
            counters.record(status, Duration::from_millis(5));
        }
        // Whoever left has had no answer: neither a failure nor the success of a release that hangs.
        assert_eq!((counters.requests, counters.failures, counters.latency.total()), (10, 5, 4));
        assert_eq!(counters.left.total(), 1);
    }

    #[test]
    fn what_another_counting_has_counted_is_all_new() {
        let counted = |began, requests| {
            let mut counters = Counters::default();
            (0..requests).for_each(|_| counters.record(200, Duration::from_millis(5)));
            Counted { began, counters }
        };
        let gained = |before: &Counted, now: &Counted| now.since(before).requests;
        assert_eq!(gained(&counted(7, 100), &counted(7, 130)), 30);
        assert_eq!(gained(&counted(7, 100), &counted(8, 30)), 30, "it began anew");
        assert_eq!(gained(&counted(7, 100), &counted(8, 130)), 130, "and has overtaken");
        assert_eq!(gained(&counted(0, 100), &counted(0, 30)), 30, "which shows by itself where it has not");
    }

    #[test]
    fn counters_add_up_and_subtract() {
        let (mut first, mut second) = (Counters::default(), Counters::default());
        first.record(200, Duration::from_millis(5));
        first.record(500, Duration::from_millis(5));
        second.record(200, Duration::from_secs(5));
        second.record(499, Duration::from_secs(5));
        let mut both = first.clone();
        both.merge(&second);
        assert_eq!(both.since(&first), Some(second.clone()));
        assert_eq!(first.since(&both), None);
        assert_eq!(second.since(&first), None);
    }
}
