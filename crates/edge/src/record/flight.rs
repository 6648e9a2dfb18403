//! For how long requests are in flight together: what the number of instances follows.
//!
//! The time between two changes counts as often as requests were in flight: an average over any span is then exact, however short
//! requests are. Each worker counts alone.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bowline_core::route::network;

use crate::policy::site;
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
    held: u64,
    failed: BTreeMap<&'static str, u64>,
}

/// What a worker has seen of them since its last report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Flown {
    pub(crate) busy: Duration,
    /// Now, not since.
    pub(crate) waiting: u32,
    /// Those that began to wait.
    pub(crate) held: u64,
    /// Those that were not let wait, or waited in vain, by the code of the reason.
    pub(crate) failed: BTreeMap<&'static str, u64>,
}

/// Between two reports that are made because somebody begins to wait: whoever comes and goes again and again keeps nobody busy.
const NEWS_EVERY: Duration = Duration::from_millis(100);

/// One worker's requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flying: RefCell<HashMap<LabelId, Flying>>,
    /// Those that wait, by who has asked. No others are remembered.
    clients: RefCell<HashMap<(LabelId, Client), u32>>,
    /// When it was told last that somebody begins to wait, of each route in the last moment.
    told: RefCell<HashMap<LabelId, Instant>>,
}

/// What counts as one of those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// [`network`]: an IPv4 address, or an IPv6 network of 2⁶⁴.
    Network(u64),
    /// [`site`]
    Site(u64),
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) network: Client,
    /// Of an IPv6 address.
    pub(crate) site: Option<Client>,
}

impl Who {
    pub(crate) fn of(client: IpAddr) -> Self {
        Self { network: Client::Network(network(client)), site: site(client).map(Client::Site) }
    }

    fn each(self) -> impl Iterator<Item = Client> {
        [Some(self.network), self.site].into_iter().flatten()
    }
}

impl Flights {
    fn change(&self, labels: LabelId, now: Instant, change: impl FnOnce(&mut Flying)) {
        let mut flights = self.flying.borrow_mut();
        let (held, failed) = (0, BTreeMap::new());
        let new = Flying { in_flight: 0, waiting: 0, since: now, busy: Duration::ZERO, held, failed };
        let flying = flights.entry(labels).or_insert(new);
        flying.pass(now);
        change(flying);
    }

    /// How many wait, on this route.
    pub(crate) fn waiting(&self, labels: LabelId) -> u32 {
        self.flying.borrow().get(&labels).map_or(0, |flying| flying.waiting)
    }

    /// How many of one client do.
    pub(crate) fn waiting_of(&self, labels: LabelId, client: Client) -> u32 {
        self.clients.borrow().get(&(labels, client)).copied().unwrap_or(0)
    }

    /// One was not let wait, or waited in vain.
    pub(crate) fn failed(&self, labels: LabelId, reason: &'static str, now: Instant) {
        self.change(labels, now, |flying| *flying.failed.entry(reason).or_default() += 1);
    }

    fn enter(&self, labels: LabelId, who: Who) {
        let mut clients = self.clients.borrow_mut();
        who.each().for_each(|client| *clients.entry((labels, client)).or_default() += 1);
    }

    fn leave(&self, labels: LabelId, who: Who) {
        let mut clients = self.clients.borrow_mut();
        for client in who.each() {
            if let Some(count) = clients.get_mut(&(labels, client)) {
                *count -= 1;
                if *count == 0 {
                    clients.remove(&(labels, client));
                }
            }
        }
    }

    /// Somebody begins to wait: whether that is to be told at once, or with the next report. Of each route for itself: whoever waits for
    /// one service is not let wait by those who come for another.
    pub(crate) fn is_news(&self, labels: LabelId, now: Instant) -> bool {
        let mut told = self.told.borrow_mut();
        told.retain(|_, at| now.saturating_duration_since(*at) < NEWS_EVERY);
        match told.entry(labels) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(now);
                true
            }
        }
    }

    /// Whether anybody waits.
    pub(crate) fn has_waiting(&self) -> bool {
        self.flying.borrow().values().any(|flying| flying.waiting > 0)
    }

    pub(crate) fn report(&self, now: Instant) -> HashMap<LabelId, Flown> {
        let mut flights = self.flying.borrow_mut();
        let flown = |(labels, flying): (&LabelId, &mut Flying)| {
            flying.pass(now);
            let (busy, held) = (std::mem::take(&mut flying.busy), std::mem::take(&mut flying.held));
            (*labels, Flown { busy, waiting: flying.waiting, held, failed: std::mem::take(&mut flying.failed) })
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
    /// Whose it is, if it waits.
    waits: Option<Who>,
}

impl Flight {
    /// An instance has it.
    pub(crate) fn begin(worker: &Rc<Worker>, labels: LabelId) -> Self {
        Self::new(worker, labels, None)
    }

    /// It waits for an instance.
    pub(crate) fn waiting(worker: &Rc<Worker>, labels: LabelId, who: Who) -> Self {
        worker.shard.flights.enter(labels, who);
        Self::new(worker, labels, Some(who))
    }

    fn new(worker: &Rc<Worker>, labels: LabelId, waits: Option<Who>) -> Self {
        worker.shard.flights.change(labels, Instant::now(), |flying| {
            flying.in_flight += 1;
            flying.waiting += u32::from(waits.is_some());
            flying.held += u64::from(waits.is_some());
        });
        Self { worker: Rc::clone(worker), labels, waits }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let flights = &self.worker.shard.flights;
        flights.change(self.labels, Instant::now(), |flying| {
            flying.in_flight = flying.in_flight.saturating_sub(1);
            flying.waiting = flying.waiting.saturating_sub(u32::from(self.waits.is_some()));
        });
        if let Some(who) = self.waits {
            flights.leave(self.labels, who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_as_often_as_requests_are_in_flight() {
        let (flights, begun, labels) = (Flights::default(), Instant::now(), LabelId(0));
        let at = |ms| begun + Duration::from_millis(ms);
        let report = |ms| flights.report(at(ms)).remove(&labels).unwrap_or_default();
        flights.change(labels, at(0), |flying| (flying.in_flight, flying.waiting) = (2, 1));
        flights.change(labels, at(100), |flying| flying.in_flight = 3);
        assert_eq!(report(200), Flown { busy: Duration::from_millis(500), waiting: 1, ..Flown::default() });
        flights.change(labels, at(210), |flying| (flying.in_flight, flying.waiting) = (0, 0));
        assert_eq!(report(1000), Flown { busy: Duration::from_millis(30), ..Flown::default() });
        assert_eq!(report(2000), Flown::default());
        assert!(flights.flying.borrow().is_empty(), "what rests is forgotten");
    }

    #[test]
    fn nobody_is_remembered_who_does_not_wait() {
        let (flights, labels) = (Flights::default(), LabelId(0));
        let [one, near, far, none] =
            ["2001:db8::1", "2001:db8:0:1::1", "2001:db8:1::1", "192.0.2.1"].map(|at| Who::of(at.parse().unwrap()));
        for who in [one, one, near, far] {
            flights.enter(labels, who);
        }
        let of = |client| flights.waiting_of(labels, client);
        assert_eq!([one, near, far, none].map(|who| of(who.network)), [2, 1, 1, 0]);
        assert_eq!([one, near, far, none].map(|who| who.site.map(of)), [Some(3), Some(3), Some(1), None]);
        for who in [one, one, near, far] {
            flights.leave(labels, who);
        }
        assert!(flights.clients.borrow().is_empty());
        flights.failed(labels, "too-many-wait", Instant::now());
        let told = flights.report(Instant::now()).remove(&labels).unwrap();
        assert_eq!(told.failed, BTreeMap::from([("too-many-wait", 1)]));
        assert!(flights.report(Instant::now()).is_empty(), "what was told is told once");
    }

    #[test]
    fn whoever_comes_again_and_again_is_not_told_each_time() {
        let (flights, begun) = (Flights::default(), Instant::now());
        let is_news = |of, ms| flights.is_news(LabelId(of), begun + Duration::from_millis(ms));
        let told = (0..1000).filter(|ms| is_news(0, *ms));
        assert_eq!(told.collect::<Vec<_>>(), (0..10).map(|i| i * 100).collect::<Vec<_>>());
        assert!(is_news(1, 1000) && !is_news(1, 1001), "another service is told of for itself");
        assert_eq!(flights.told.borrow().len(), 1, "what was told long ago is forgotten");
    }
}
