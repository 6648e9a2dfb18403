//! When an authority wants certificates to be renewed (RFC 9773): it is asked again and again, since what it says may change.

use std::time::Duration;

use super::{ByName, Validity, of_name};
use crate::app::HostName;
use crate::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// In which a certificate is to be renewed: in the past, at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: Timestamp,
    pub end: Timestamp,
}

/// An authority's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    pub said: Said,
    /// When it wants to be asked again, if it says so.
    pub again: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Renew(Window),
    /// It leaves it to whoever asks.
    Nothing,
    /// What it said before goes on.
    NoAnswer,
}

impl Window {
    /// A time in it. `None`: whoever went by it would have no certificate for a while.
    fn draw(self, held: Validity, random: u64) -> Option<Timestamp> {
        let is_window = self.start < self.end && self.end <= held.not_after;
        let length = u128::from(self.end.0.saturating_sub(self.start.0));
        let part = u64::try_from(length * u128::from(random % 1024) / 1024).unwrap_or(0);
        is_window.then_some(Timestamp(self.start.0.saturating_add(part)))
    }
}

/// What is known of one certificate.
#[derive(Debug, Clone, Copy)]
struct Known {
    window: Option<Window>,
    again: Timestamp,
}

/// All that was said, in the daemon's life: the next one asks anew, and not at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Renewals {
    known: ByName<Known>,
    /// Questions under way, and since when.
    asked: ByName<Timestamp>,
    /// The first look.
    since: Option<Timestamp>,
}

impl Renewals {
    /// When the certificate of this name is to be renewed. Of one that was just issued an authority is not believed that it be renewed at
    /// once: it would be asked for ever.
    pub(super) fn at(&self, host: &HostName, held: Validity, salt: u64) -> Timestamp {
        let random = of_name(host, salt);
        let drawn = self.known.get(host).and_then(|known| known.window?.draw(held, random));
        let soonest = held.not_before + DAY.min(held.life() / 3);
        drawn.map_or_else(|| held.renew_at(random), |at| at.max(soonest))
    }

    /// What was said was said of the certificate before.
    pub(super) fn renewed(&mut self, host: &HostName, now: Timestamp) {
        self.asked.remove(host);
        self.known.insert(host.clone(), Known { window: None, again: now + HOUR * 6 });
    }

    /// Of a question that nobody waits for any more nothing is taken.
    pub(super) fn advised(&mut self, host: &HostName, Advice { said, again }: Advice, now: Timestamp) {
        if self.asked.remove(host).is_none() {
            return;
        }
        let before = self.known.get(host).and_then(|known| known.window);
        let (window, usual) = match said {
            Said::Renew(window) => (Some(window), HOUR * 6),
            Said::Nothing => (None, DAY),
            Said::NoAnswer => (before, HOUR),
        };
        let again = again.unwrap_or(now + usual).clamp(now + MINUTE, now + DAY);
        self.known.insert(host.clone(), Known { window, again });
    }

    /// Of other names nothing is to be known.
    pub(super) fn retain(&mut self, wanted: impl Fn(&HostName) -> bool) {
        self.known.retain(|host, _| wanted(host));
    }

    /// `idle`: names that have a certificate, and no order that is to replace it; `(at_once, limit)`: so many questions under way, and so
    /// long. Returns the names to ask for.
    pub(super) fn handle<'a>(
        &mut self,
        idle: impl Iterator<Item = &'a HostName>,
        (at_once, limit): (usize, Duration),
        now: Timestamp,
        salt: u64,
    ) -> Vec<HostName> {
        self.since.get_or_insert(now);
        let late: Vec<HostName> =
            self.asked.iter().filter(|(_, at)| is_over(**at, limit, now)).map(|(host, _)| host.clone()).collect();
        late.iter().for_each(|host| self.advised(host, Advice { said: Said::NoAnswer, again: None }, now));
        let free = at_once.saturating_sub(self.asked.len());
        let idle = idle.filter(|host| !self.asked.contains_key(*host));
        let due = idle.map(|host| (self.again(host, now, salt), host));
        let mut due: Vec<(Timestamp, &HostName)> = due.filter(|(at, _)| *at <= now).collect();
        due.sort();
        let due: Vec<HostName> = due.into_iter().take(free).map(|(_, host)| host.clone()).collect();
        self.asked.extend(due.iter().map(|host| (host.clone(), now)));
        due
    }

    /// When to look again.
    pub(super) fn next<'a>(
        &self,
        idle: impl Iterator<Item = &'a HostName>,
        (at_once, limit): (usize, Duration),
        now: Timestamp,
        salt: u64,
    ) -> Option<Timestamp> {
        let room = self.asked.len() < at_once;
        let idle = idle.filter(|host| room && !self.asked.contains_key(*host));
        let limits = self.asked.values().map(|at| *at + limit);
        idle.map(|host| self.again(host, now, salt)).chain(limits).min()
    }

    /// A daemon that starts again and again asks for no name at each start.
    fn again(&self, host: &HostName, now: Timestamp, salt: u64) -> Timestamp {
        let first = || self.since.unwrap_or(now) + HOUR * u32::try_from(of_name(host, salt) % 1024).unwrap_or(0) / 1024;
        let at = self.known.get(host).map_or_else(first, |known| known.again);
        // So far in the future nothing is put off: the clock went back.
        if at.since(now) > DAY { now } else { at }
    }
}

/// So far in the future nothing has begun: the clock went back.
pub(super) fn is_over(begun: Timestamp, limit: Duration, now: Timestamp) -> bool {
    now.since(begun) >= limit || begun.since(now) >= limit
}
