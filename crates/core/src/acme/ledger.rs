//! What was ordered, so that a daemon which starts again and again orders no more than one that runs.

use std::time::Duration;

use super::{ByName, of_name};
use crate::app::HostName;
use crate::time::Timestamp;

/// How much an authority is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure of a name, the second …, the last for all further ones. Four orders fit into an hour: authorities
    /// refuse a name for an hour after five failures in one.
    pub waits: [Duration; 6],
    /// Orders of the account within [`Pace::WINDOW`].
    pub orders: usize,
    /// Orders under way.
    pub at_once: usize,
    /// How long one may take.
    pub limit: Duration,
}

impl Pace {
    /// In which Let's Encrypt takes 300 orders of an account.
    pub const WINDOW: Duration = Duration::from_secs(3 * 3600);

    /// The longest that an authority's word keeps anybody from asking again.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 86_400);
}

impl Default for Pace {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        Self {
            waits: [minutes(1), minutes(5), minutes(15), minutes(60), minutes(180), minutes(360)],
            orders: 250,
            at_once: 3,
            limit: minutes(10),
        }
    }
}

/// The account's orders, and what became of those that gave no certificate. To be durable before an order goes out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Of the last [`Pace::WINDOW`], oldest first.
    pub orders: Vec<Timestamp>,
    /// The authority wants no order at all before.
    pub paused: Timestamp,
    /// Names whose last order has not given a certificate, or has not yet; at most [`Ledger::MOST_NAMES`].
    pub names: ByName<Tries>,
}

/// Orders of one name in a row that gave no certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tries {
    pub count: u32,
    /// When the last one began.
    pub last: Timestamp,
    /// No other before.
    pub next: Timestamp,
    /// Why the last one that ended failed. `None`: none has, or the daemon ended first.
    pub reason: Option<String>,
}

impl Ledger {
    /// Of more names it is not remembered how often they have failed. The account's limit lets so many be tried in half a day at the
    /// least, and so the one that is forgotten has waited its time.
    pub const MOST_NAMES: usize = 1024;

    /// What was written last was written at the latest now: where it seems to lie ahead, the clock was set back since, by however much, and all
    /// that was written moves with it. Nothing is waited for any shorter, and nobody waits until the clock has caught up. Whether
    /// anything has moved.
    pub(super) fn follow(&mut self, now: Timestamp) -> bool {
        let last = self.orders.iter().chain(self.names.values().map(|tries| &tries.last)).max();
        let ahead = last.map_or(Duration::ZERO, |last| last.since(now));
        if ahead.is_zero() {
            return false;
        }
        let latest = now + Pace::LONGEST_PAUSE;
        self.orders.iter_mut().for_each(|at| *at = *at - ahead);
        self.paused = (self.paused - ahead).min(latest);
        for tries in self.names.values_mut() {
            (tries.last, tries.next) = (tries.last - ahead, (tries.next - ahead).min(latest));
        }
        true
    }

    /// When an order of any name may begin, as far as is known now.
    pub(super) fn open_at(&self, pace: &Pace, now: Timestamp) -> Timestamp {
        let paused = if self.paused.since(now) <= Pace::LONGEST_PAUSE { self.paused } else { Timestamp(0) };
        let recent: Vec<Timestamp> = self.recent(now).collect();
        let full = recent.len().checked_sub(pace.orders).map_or(Timestamp(0), |first| recent[first] + Pace::WINDOW);
        paused.max(full)
    }

    /// Until when this name waits for itself.
    pub(super) fn waits(&self, host: &HostName) -> Timestamp {
        self.names.get(host).map_or(Timestamp(0), |tries| tries.next)
    }

    fn recent(&self, now: Timestamp) -> impl Iterator<Item = Timestamp> {
        self.orders.iter().copied().filter(move |at| now.since(*at) < Pace::WINDOW)
    }

    /// No more names can be remembered.
    pub(super) fn is_full(&self) -> bool {
        self.names.len() >= Self::MOST_NAMES
    }

    /// An order counts as failed until it has given a certificate: who dies in between has asked all the same.
    pub(super) fn begin(&mut self, host: &HostName, pace: &Pace, now: Timestamp, random: u64) {
        self.orders = self.recent(now).chain([now]).collect();
        while self.is_full() && !self.names.contains_key(host) {
            let oldest = self.names.iter().min_by_key(|(_, tries)| tries.last).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.names.remove(&name));
        }
        let tries = self.names.entry(host.clone()).or_default();
        tries.count = tries.count.saturating_add(1);
        let last = pace.waits.len() - 1;
        let wait = pace.waits[usize::try_from(tries.count - 1).unwrap_or(last).min(last)];
        // Longer by up to a quarter, so that names which fail together are not tried together.
        let jitter = wait / 4 * u32::try_from(of_name(host, random) % 1024).unwrap_or(0) / 1024;
        (tries.last, tries.next) = (now, now + wait + jitter);
    }

    pub(super) fn failed(&mut self, host: &HostName, reason: String) {
        self.names.entry(host.clone()).or_default().reason = Some(reason);
    }

    /// The authority has said when to come back.
    pub(super) fn pause(&mut self, host: &HostName, until: Timestamp) {
        let tries = self.names.entry(host.clone()).or_default();
        tries.next = tries.next.max(until);
    }

    pub(super) fn succeeded(&mut self, host: &HostName) {
        self.names.remove(host);
    }
}
