//! Names whose certificates come from an authority: what is ordered, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bowline_core::acme::{self, Orders, Pace, Validity, World};
use bowline_core::app::HostName;
use bowline_core::time::{Humane, Mono, Timestamp};

use super::effects::{Effect, Now};
use super::unread::Unread;
use super::{Loop, events};
use crate::certs::Leaf;
use crate::certs::acme::{Kept, Report};

/// The wall clock may be set: no deadline that follows it is further away than this.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What the daemon before has left of an authority, and how much that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) kept: Kept,
    pub(crate) pace: Pace,
}

/// One authority.
#[derive(Debug)]
pub(crate) struct Acme {
    orders: Orders,
    /// Of names that are wanted and of others.
    leaves: BTreeMap<HostName, Leaf>,
    /// The names of the table that are not the local CA's.
    names: BTreeSet<HostName>,
    deadline: Option<Mono>,
}

impl Acme {
    pub(crate) fn new(authority: &Authority, random: u64) -> Self {
        let Authority { kept, pace } = authority.clone();
        let orders = Orders::new(kept.ledger, pace, random);
        Self { orders, leaves: kept.leaves, names: BTreeSet::new(), deadline: None }
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.deadline
    }

    /// Where a name is; `None`: no authority is asked for it.
    pub(crate) fn report(&self, host: &HostName, now: Now) -> Option<(Option<&Leaf>, acme::Report)> {
        self.names.contains(host).then(|| {
            let leaf = self.leaves.get(host);
            (leaf, self.orders.report(host, leaf.map(validity), now.wall))
        })
    }

    /// Orders in a row that gave no certificate, by name.
    pub(crate) fn failed(&self, now: Now) -> impl Iterator<Item = (String, u32)> {
        self.names.iter().map(move |host| (host.to_string(), self.orders.report(host, None, now.wall).tries))
    }

    /// The certificates that are served, and their ends.
    pub(crate) fn served(&self) -> impl Iterator<Item = (&HostName, &Leaf)> {
        self.leaves.iter().filter(|(host, _)| self.names.contains(*host))
    }
}

impl Loop {
    /// An order has gone on, or is over.
    pub(crate) fn reported(&mut self, report: Report, now: Now) {
        let Some(acme) = &mut self.acme else { return };
        match report {
            Report::Challenged(host, challenge) => acme.orders.challenged(&host, challenge),
            Report::Issued(host, leaf) => {
                let taken = acme.orders.issued(&host, validity(&leaf), now.wall);
                let event = match &taken {
                    Ok(()) => events::certificate_issued(&host, &left(leaf.not_after, now.wall), now.wall),
                    Err(reason) => events::certificate_failed(&host, reason, None, now.wall),
                };
                tracing::info!(%host, not_after = leaf.not_after.0, ?taken, "an authority has issued a certificate");
                if taken.is_ok() {
                    acme.leaves.insert(host, leaf);
                }
                self.record(vec![event]);
            }
            Report::Failed(host, failure) => {
                let kept = acme.leaves.get(&host).map(|leaf| left(leaf.not_after, now.wall));
                tracing::warn!(%host, reason = failure.reason, pause = ?failure.pause, "no certificate of an authority");
                let event = events::certificate_failed(&host, &failure.reason, kept.as_deref(), now.wall);
                acme.orders.failed(&host, failure, now.wall);
                self.record(vec![event]);
            }
        }
    }

    /// The certificate of a host is in files, also where these hold none that can be served.
    pub(crate) fn has_files(&self, host: &HostName) -> bool {
        let is_api = self.place.api.as_ref().is_some_and(|api| api.host == *host);
        self.place.given.contains_key(host) || is_api && self.place.refused.is_some()
    }

    /// Before a table is made, which answers what authorities ask.
    pub(crate) fn drive_acme(&mut self, now: Now) {
        if self.ending.is_some() {
            return;
        }
        let Some(mut acme) = self.acme.take() else { return };
        let live = self.apps.iter().filter_map(|(key, app)| Some((key, app.release(app.live?)?.0.app())));
        acme.names = acme::names(live);
        let api = self.place.api.as_ref().map(|api| &api.host).filter(|host| host.is_public());
        acme.names.extend(api.filter(|host| !self.has_files(host)).cloned());
        // Of an app that cannot be read it is not known what it wants: what it has is served and renewed.
        let unread = self.apps.values().filter_map(|app| app.unread.as_ref()).flat_map(Unread::https_hosts);
        acme.names.extend(unread.filter(|host| acme.leaves.contains_key(*host)).cloned());
        let held = acme.leaves.iter().map(|(host, leaf)| (host.clone(), validity(leaf))).collect();
        let answered = self.published.answered();
        let world = World { wanted: &acme.names, held: &held, answered: &answered };
        for effect in acme.orders.handle(world, now.wall, now.random) {
            if let acme::Effect::Forget(host) = &effect {
                acme.leaves.remove(host);
            }
            self.effects.push(Effect::Acme(effect));
        }
        let until = acme.orders.next_deadline();
        acme.deadline = until.map(|at| now.mono + at.since(now.wall).min(LONGEST_WAIT));
        let leaves = acme.served().map(|(host, leaf)| (host.clone(), leaf.certificate.clone())).collect();
        self.published.ordered(acme.names.clone(), leaves, acme.orders.challenges());
        self.acme = Some(acme);
    }
}

fn validity(leaf: &Leaf) -> Validity {
    Validity { not_before: leaf.not_before, not_after: leaf.not_after }
}

/// For people: `ends in 29d`, `ends in 5h`, `has ended`.
fn left(until: Timestamp, now: Timestamp) -> String {
    const HOUR: u64 = 3600;
    let seconds = until.since(now).as_secs();
    let whole = |unit: u64| Humane(Duration::from_secs(seconds / unit * unit));
    match seconds {
        0 => "has ended".to_owned(),
        _ if seconds < 60 => format!("ends in {seconds}s"),
        _ if seconds < HOUR => format!("ends in {}", whole(60)),
        _ if seconds < 48 * HOUR => format!("ends in {}h", seconds / HOUR),
        _ => format!("ends in {}d", seconds / (24 * HOUR)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_certificate_is_rounded_down() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(left(Timestamp(seconds * 1000), Timestamp(0)), expected);
        };
        check(0, "has ended");
        check(59, "ends in 59s");
        check(3599, "ends in 59m");
        check(47 * 3600 + 1, "ends in 47h");
        check(30 * 86_400 - 1, "ends in 29d");
    }
}
