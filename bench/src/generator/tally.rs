//! What is counted while a round lasts.

use std::time::Duration;

use anyhow::ensure;

/// Counts of a round that goes on.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Of each answer, in microseconds.
    latencies: Vec<u32>,
    /// Bytes of answers' bodies.
    received: u64,
    /// Bytes of requests' bodies that came to the upstream.
    pub(super) taken: u64,
    /// Requests that were due.
    pub(super) due: u64,
    handshakes: u64,
    resumed: u64,
}

impl Tally {
    pub(super) fn answered(&mut self, latency: Duration) {
        self.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.received += bytes;
    }

    pub(super) fn handshake(&mut self, is_resumed: bool) {
        self.handshakes += 1;
        self.resumed += u64::from(is_resumed);
    }

    pub(super) fn answers(&self) -> u64 {
        self.latencies.len() as u64
    }

    pub(super) fn into_round(mut self, seconds: f64, proxy: Duration, busy: f64) -> anyhow::Result<Round> {
        ensure!(!self.latencies.is_empty() || self.taken > 0, "nothing was answered");
        self.latencies.sort_unstable();
        Ok(Round {
            requests: self.latencies.len() as u64,
            received: self.received,
            taken: self.taken,
            due: self.due,
            handshakes: self.handshakes,
            resumed: self.resumed,
            seconds,
            proxy,
            busy,
            latencies: self.latencies,
        })
    }
}

/// One round's figures.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) requests: u64,
    pub(crate) received: u64,
    pub(crate) taken: u64,
    pub(crate) due: u64,
    pub(crate) handshakes: u64,
    pub(crate) resumed: u64,
    pub(crate) seconds: f64,
    /// For how long the proxy's core was busy, interrupts included.
    pub(crate) proxy: Duration,
    /// For which share of the time the core of load and upstream was busy.
    pub(crate) busy: f64,
    /// Sorted, in microseconds.
    latencies: Vec<u32>,
}

impl Round {
    /// For how long the two cores were busy.
    pub(crate) fn both(&self) -> Duration {
        self.proxy + Duration::from_secs_f64(self.busy * self.seconds)
    }

    /// The latency in microseconds that this share of requests stays below.
    pub(crate) fn quantile(&self, per_mille: usize) -> u32 {
        let index = (self.latencies.len() * per_mille / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).copied().unwrap_or(0)
    }
}
