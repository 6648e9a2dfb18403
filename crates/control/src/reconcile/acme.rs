//! Names whose certificates come from an authority: what is ordered, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::acme::{self, Orders, Pace, Validity, Want, World};
use bowline_core::app::{HostName, Tls};
use bowline_core::id::AppKey;
use bowline_core::route::places;
use bowline_core::time::{Humane, Mono, Timestamp};

use super::effects::{Effect, Now};
use super::publish::Ordered;
use super::release::Release;
use super::unread::Unread;
use super::world::AppWorld;
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
    /// The API's host gets its certificate there, too.
    pub(crate) api: bool,
    /// Hosts whose certificate was the local CA's: see [`crate::certs::CertCache::hosts`].
    pub(crate) local: BTreeSet<HostName>,
}

/// One authority, or what is left of those that are not asked any more.
#[derive(Debug)]
pub(crate) struct Acme {
    /// `None`: nobody is asked, and a certificate that is there is served until it ends.
    orders: Option<Orders>,
    /// Of names that are wanted and of others.
    leaves: BTreeMap<HostName, Leaf>,
    /// When they are good.
    held: BTreeMap<HostName, Validity>,
    /// What is served, but for the challenges.
    ordered: Ordered,
    /// Hosts that were served with a certificate of the local CA, which goes on until the authority's is there.
    local: BTreeSet<HostName>,
    /// What the names follow from. `None`: a certificate has come or gone since.
    basis: Option<Vec<Basis>>,
    deadline: Option<Mono>,
}

/// Of one app.
#[derive(Debug)]
struct Basis {
    key: AppKey,
    live: Option<Arc<Release>>,
    /// Where it is served over HTTPS if it cannot be read.
    unread: Option<Vec<HostName>>,
}

impl Basis {
    fn of(key: &AppKey, app: &AppWorld) -> Self {
        let hosts = |unread: &Unread| unread.https_hosts().cloned().collect();
        Self { key: key.clone(), live: live(app).cloned(), unread: app.unread.as_ref().map(hosts) }
    }

    /// Whether it is of this app as it is now.
    fn holds(&self, key: &AppKey, app: &AppWorld) -> bool {
        let same_hosts = match (&self.unread, &app.unread) {
            (Some(hosts), Some(unread)) => unread.https_hosts().eq(hosts),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.key == *key && self.live.as_ref().map(Arc::as_ptr) == live(app).map(Arc::as_ptr) && same_hosts
    }
}

fn live(app: &AppWorld) -> Option<&Arc<Release>> {
    app.release(app.live?).map(|(release, _)| release)
}

impl Acme {
    pub(crate) fn new(authority: &Authority, now: Now) -> Self {
        let Authority { kept, pace, local, api: _ } = authority.clone();
        let orders = match kept.lost {
            true => Orders::after_loss(pace, now.wall, now.random),
            false => Orders::new(kept.ledger, pace, now.random),
        };
        Self { local, ..Self::over(Some(orders), kept.leaves) }
    }

    /// `left`: see [`crate::certs::acme::left`]. `None`: nothing is.
    pub(crate) fn left(left: &BTreeMap<HostName, Leaf>) -> Option<Self> {
        (!left.is_empty()).then(|| Self::over(None, left.clone()))
    }

    fn over(orders: Option<Orders>, leaves: BTreeMap<HostName, Leaf>) -> Self {
        let (held, ordered, local) = (BTreeMap::new(), Ordered::default(), BTreeSet::new());
        Self { orders, leaves, held, ordered, local, basis: None, deadline: None }
    }

    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.deadline
    }

    /// Where a name is; `None`: no authority signs for it.
    pub(crate) fn report(&self, host: &HostName, now: Now) -> Option<(Option<&Leaf>, acme::Report)> {
        self.ordered.names.contains_key(host).then(|| {
            let leaf = self.leaves.get(host);
            let report = self.orders.as_ref().map(|orders| orders.report(host, leaf.map(validity), now.wall));
            (leaf, report.unwrap_or_default())
        })
    }

    /// Orders in a row that gave no certificate, by name.
    pub(crate) fn failed(&self, now: Now) -> impl Iterator<Item = (String, u32)> {
        self.orders.iter().flat_map(move |orders| {
            let tries = move |host: &HostName| orders.report(host, None, now.wall).tries;
            self.ordered.names.keys().map(move |host| (host.to_string(), tries(host)))
        })
    }

    /// The certificates that are served, and their ends.
    pub(crate) fn served(&self) -> impl Iterator<Item = (&HostName, &Leaf)> {
        self.leaves.iter().filter(|(host, _)| self.ordered.names.contains_key(*host))
    }
}

impl Loop {
    /// An order has gone on, or is over.
    pub(crate) fn reported(&mut self, report: Report, now: Now) {
        let Some(acme) = &mut self.acme else { return };
        let Some(orders) = &mut acme.orders else { return };
        match report {
            Report::Challenged(host, challenge) => orders.challenged(&host, challenge),
            Report::Issued(host, leaf) => {
                let taken = orders.issued(&host, validity(&leaf), now.wall);
                let event = match &taken {
                    Ok(()) => events::certificate_issued(&host, &left(leaf.not_after, now.wall), now.wall),
                    Err(reason) => events::certificate_failed(&host, reason, None, now.wall),
                };
                tracing::info!(%host, not_after = leaf.not_after.0, ?taken, "an authority has issued a certificate");
                if taken.is_ok() {
                    acme.local.remove(&host);
                    acme.leaves.insert(host, leaf);
                    acme.basis = None;
                }
                self.record(vec![event]);
            }
            Report::Failed(host, failure) => {
                let kept = acme.leaves.get(&host).map(|leaf| left(leaf.not_after, now.wall));
                tracing::warn!(%host, reason = failure.reason, pause = ?failure.pause, "no certificate of an authority");
                let event = events::certificate_failed(&host, &failure.reason, kept.as_deref(), now.wall);
                orders.failed(&host, failure, now.wall);
                self.record(vec![event]);
            }
            Report::Advised(host, advice) => orders.advised(&host, advice, now.wall),
        }
    }

    /// Before a table is made, which answers what authorities ask. Names that an edge may still tell are waited for: what nobody wants is
    /// forgotten.
    pub(crate) fn drive_acme(&mut self, now: Now) {
        if self.unplaced.is_some() {
            return;
        }
        let Some(mut acme) = self.acme.take() else { return };
        self.find_names(&mut acme, now);
        // A daemon that ends orders nothing any more. It knows the names all the same: for all others the local CA signs.
        if self.ending.is_none() {
            self.drive_orders(&mut acme, now);
        }
        acme.ordered.challenges = acme.orders.as_ref().map(Orders::challenges).unwrap_or_default();
        self.published.ordered(acme.ordered.clone());
        self.acme = Some(acme);
    }

    fn drive_orders(&mut self, acme: &mut Acme, now: Now) {
        let answered = self.published.answered();
        let world = World { wanted: &acme.ordered.names, held: &acme.held, answered: &answered };
        let effects = acme.orders.as_mut().map(|orders| orders.handle(world, now.wall, now.random));
        for effect in effects.unwrap_or_default() {
            if let acme::Effect::Forget(host) = &effect {
                acme.leaves.remove(host);
                acme.basis = None;
            }
            self.effects.push(Effect::Acme(effect));
        }
        let until = acme.orders.as_ref().and_then(Orders::next_deadline);
        let ends = acme.ordered.ends.values().copied().filter(|end| *end > now.wall).min();
        let until = until.into_iter().chain(ends).min();
        acme.deadline = until.map(|at| now.mono + at.since(now.wall).min(LONGEST_WAIT));
    }

    /// Anew where apps have changed, or certificates.
    fn find_names(&self, acme: &mut Acme, now: Now) {
        let is_same = |known: &Vec<Basis>| {
            known.len() == self.apps.len() && known.iter().zip(&self.apps).all(|(of, (key, app))| of.holds(key, app))
        };
        let has_ended = acme.orders.is_none() && acme.ordered.ends.values().any(|end| *end <= now.wall);
        if acme.basis.as_ref().is_some_and(is_same) && !has_ended {
            return;
        }
        let names = self.wanted_names(acme, now.wall);
        acme.local.extend(self.published.served_here().filter(|host| names.contains_key(*host)).cloned());
        let is_meanwhile = |(host, want): &(&HostName, &Want)| {
            **want == Want::Better && acme.local.contains(*host) && !acme.leaves.contains_key(*host)
        };
        let meanwhile = names.iter().filter(is_meanwhile).map(|(host, _)| host.clone()).collect();
        let served = acme.leaves.iter().filter(|(host, _)| names.contains_key(*host));
        let ends = served.clone().map(|(host, leaf)| (host.clone(), leaf.not_after)).collect();
        let served = served.map(|(host, leaf)| (host.clone(), Arc::clone(&leaf.certificate)));
        let bare = self.bare(acme, &names);
        acme.held = acme.leaves.iter().map(|(host, leaf)| (host.clone(), validity(leaf))).collect();
        acme.ordered = Ordered {
            certificates: Arc::new(served.collect()),
            ends: Arc::new(ends),
            names: Arc::new(names),
            meanwhile: Arc::new(meanwhile),
            bare: Arc::new(bare),
            challenges: BTreeMap::new(),
        };
        acme.basis = Some(self.apps.iter().map(|(key, app)| Basis::of(key, app)).collect());
    }

    /// Where nobody is asked, those that have a certificate still; the local CA signs for all others.
    fn wanted_names(&self, acme: &Acme, now: Timestamp) -> BTreeMap<HostName, Want> {
        let mut names = acme::names(self.apps.iter().filter_map(|(key, app)| Some((key, live(app)?.app()))));
        let api = self.place.api.as_ref().map(|api| &api.host).filter(|host| host.is_public());
        let api = api.filter(|host| self.files_of(host).is_none());
        let api = api.filter(|_| self.place.acme.as_ref().is_none_or(|authority| authority.api));
        // Of an app that cannot be read it is not known what it wants: what it has is served and renewed.
        let unread = self.unread_hosts().filter(|host| acme.leaves.contains_key(*host));
        for host in api.into_iter().chain(unread) {
            names.entry(host.clone()).or_insert(Want::Better);
        }
        if acme.orders.is_none() {
            names.retain(|host, _| acme.leaves.get(host).is_some_and(|leaf| leaf.not_after > now));
        }
        names
    }

    /// Where an app that cannot be read has no certificate. What others are served on as well is theirs to say.
    fn bare(&self, acme: &Acme, names: &BTreeMap<HostName, Want>) -> BTreeSet<HostName> {
        if acme.orders.is_none() {
            return BTreeSet::new();
        }
        let has_none = |host: &&HostName| !names.contains_key(*host) && !acme.local.contains(*host);
        let none = self.unread_hosts().filter(has_none).filter(|host| acme::is_provable(host));
        let bare: BTreeSet<HostName> = none.cloned().collect();
        if bare.is_empty() {
            return bare;
        }
        let readable =
            self.apps.iter().filter_map(|(key, app)| Some((key, live(app).filter(|_| app.unread.is_none())?)));
        let places = readable.flat_map(|(key, release)| places(key, release.app()));
        let secure = places.filter(|(_, (_, route))| route.tls != Tls::Off).map(|((host, _), _)| host);
        let others: BTreeSet<HostName> = secure.chain(self.place.api.iter().map(|api| api.host.clone())).collect();
        &bare - &others
    }

    /// Where apps that cannot be read are served over HTTPS.
    fn unread_hosts(&self) -> impl Iterator<Item = &HostName> {
        self.apps.values().filter_map(|app| app.unread.as_ref()).flat_map(Unread::https_hosts)
    }

    /// Hosts of an app that cannot be read which have no certificate.
    pub(crate) fn bare_hosts<'u>(&self, unread: &'u Unread) -> Vec<&'u HostName> {
        let bare = self.acme.as_ref().map(|acme| &acme.ordered.bare);
        unread.https_hosts().filter(|host| bare.is_some_and(|bare| bare.contains(*host))).collect()
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
