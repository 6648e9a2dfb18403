//! What became of what there was to send, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Signal;
use super::outbox::Reason;

#[derive(Debug)]
pub(crate) struct Tally(Mutex<BTreeMap<Signal, Counts>>);

/// Of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Spans, log lines or data points that the collector has taken.
    pub(crate) exported: u64,
    /// Requests that it has taken, and tries that it has not.
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) dropped: BTreeMap<Reason, u64>,
    /// What waits now, in bytes.
    pub(crate) waiting: u64,
}

impl Default for Counts {
    /// Every reason has its series from the beginning.
    fn default() -> Self {
        let dropped = Reason::ALL.map(|reason| (reason, 0)).into();
        Self { exported: 0, requests: 0, failures: 0, dropped, waiting: 0 }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self(Mutex::new(Signal::ALL.map(|signal| (signal, Counts::default())).into()))
    }
}

impl Tally {
    pub(crate) fn totals(&self) -> BTreeMap<Signal, Counts> {
        self.lock().clone()
    }

    pub(super) fn count(&self, signal: Signal, count: impl FnOnce(&mut Counts)) {
        count(self.lock().entry(signal).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Signal, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
