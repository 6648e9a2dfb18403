//! The machine of orders.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::renewal::{Renewals, is_over};
use super::{Advice, ByName, Ledger, Pace, Tries, Validity, Want, of_name};
use crate::app::HostName;
use crate::route::Challenge;
use crate::time::{Humane, Timestamp};

/// What there is besides orders.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// See [`super::names`].
    pub wanted: &'a BTreeMap<HostName, Want>,
    /// The certificates that are kept, of names that are wanted and of others.
    pub held: &'a ByName<Validity>,
    /// Names whose challenge is answered by whichever edge accepts connections: it has acknowledged the table.
    pub answered: &'a BTreeSet<HostName>,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Keep the ledger.
    Note(Ledger),
    /// Keep the ledger, and only then order a certificate for this name. It is proven by the so-manieth method that the server can
    /// answer, counted from 0 and around.
    Begin { host: HostName, attempt: u32, ledger: Ledger },
    /// The edge answers: the authority may look.
    Answer(HostName),
    /// The order is not wanted any more.
    Drop(HostName),
    /// The certificate is of no use any more.
    Forget(HostName),
    /// Ask the authority when this name's certificate is to be renewed.
    Consult(HostName),
}

/// Why an order gave no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One line, for people.
    pub reason: String,
    /// The authority has said when to come back.
    pub pause: Option<Pause>,
}

/// Until when an authority wants not to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// For this name.
    Name(Timestamp),
    /// At all.
    All(Timestamp),
}

/// How far an order is, and so what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The authority was asked for an order, and for what it wants to see.
    Ordering,
    /// The edge is to acknowledge that it shows that.
    Publishing,
    /// The authority looks, and signs.
    Answering,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordering => "the authority takes the order",
            Self::Publishing => "the edge takes up what the authority will look for",
            Self::Answering => "the authority looks and signs",
        })
    }
}

/// Where a name is. `default`: no authority is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// `None`: no order is under way.
    pub stage: Option<Stage>,
    /// When the next one begins, if none is under way.
    pub next: Option<Timestamp>,
    /// Why the last one failed, if there was no other since.
    pub failure: Option<String>,
    /// Orders in a row that gave no certificate, the one under way among them.
    pub tries: u32,
}

#[derive(Debug, Clone)]
struct Order {
    begun: Timestamp,
    stage: Stage,
    /// What the edge is to answer.
    challenge: Option<Challenge>,
}

/// Why a certificate is refused that has just come.
pub const STALE: &str = "the certificate that came is out of date already: is this machine's clock right?";

/// All orders of one account.
#[derive(Debug, Clone)]
pub struct Orders {
    pace: Pace,
    pub(super) ledger: Ledger,
    /// The ledger is another than was noted last.
    unnoted: bool,
    under_way: BTreeMap<HostName, Order>,
    /// When authorities want certificates to be renewed.
    renewals: Renewals,
    /// Spreads renewals; drawn once, so that a date does not move.
    salt: u64,
    deadline: Option<Timestamp>,
}

impl Orders {
    /// `ledger`: as it was noted last; `random`: any number.
    pub fn new(ledger: Ledger, pace: Pace, random: u64) -> Self {
        let renewals = Renewals::default();
        Self { pace, ledger, unnoted: false, under_way: BTreeMap::new(), renewals, salt: random, deadline: None }
    }

    /// The ledger is lost: as if the account had ordered as much as it may until now.
    pub fn after_loss(pace: Pace, now: Timestamp, random: u64) -> Self {
        let ledger = Ledger { orders: vec![now], paused: now + Pace::WINDOW, ..Ledger::default() };
        Self { unnoted: true, ..Self::new(ledger, pace, random) }
    }

    /// The authority has taken the order, and this is what it wants to see.
    pub fn challenged(&mut self, host: &HostName, challenge: Challenge) {
        if let Some(order) = self.under_way.get_mut(host).filter(|order| order.stage == Stage::Ordering) {
            (order.stage, order.challenge) = (Stage::Publishing, Some(challenge));
        }
    }

    /// The certificate is there, and kept.
    ///
    /// # Errors
    /// It is of no use, and counts as a failure, for this reason: whoever goes by a wrong clock would order for ever.
    pub fn issued(&mut self, host: &HostName, validity: Validity, now: Timestamp) -> Result<(), String> {
        self.under_way.remove(host);
        self.unnoted = true;
        if validity.is_stale(now) {
            self.ledger.failed(host, STALE.to_owned());
            return Err(STALE.to_owned());
        }
        self.ledger.succeeded(host);
        self.renewals.renewed(host, now);
        Ok(())
    }

    /// What the authority has answered when it was asked for a renewal's time.
    pub fn advised(&mut self, host: &HostName, advice: Advice, now: Timestamp) {
        self.renewals.advised(host, advice, now);
    }

    /// The order gave none.
    pub fn failed(&mut self, host: &HostName, failure: Failure, now: Timestamp) {
        self.under_way.remove(host);
        self.unnoted = true;
        // What the authority says of when to come back is said in the time of now.
        self.ledger.follow(now);
        self.ledger.failed(host, failure.reason);
        let bounded = |until: Timestamp| until.min(now + Pace::LONGEST_PAUSE);
        match failure.pause {
            Some(Pause::Name(until)) => self.ledger.pause(host, bounded(until)),
            Some(Pause::All(until)) => self.ledger.paused = self.ledger.paused.max(bounded(until)),
            None => {}
        }
    }

    /// One look at the world.
    pub fn handle(&mut self, world: World<'_>, now: Timestamp, random: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.unnoted |= self.ledger.follow(now);
        self.drop_unwanted(world, &mut effects);
        self.drop_late(now, &mut effects);
        // Of a name that nobody wants any more, what was written is kept for a while: it may come back in a minute.
        let before = self.ledger.names.len();
        let recent = |tries: &Tries| tries.next > now || now.since(tries.last) < Pace::WINDOW;
        self.ledger.names.retain(|host, tries| world.wanted.contains_key(host) || recent(tries));
        self.unnoted |= self.ledger.names.len() < before;
        for (host, order) in &mut self.under_way {
            if order.stage == Stage::Publishing && world.answered.contains(host) {
                order.stage = Stage::Answering;
                effects.push(Effect::Answer(host.clone()));
            }
        }
        let due = self.due(world, now);
        let free = self.pace.at_once.saturating_sub(self.under_way.len());
        for (_, host) in due.into_iter().filter(|(at, _)| *at <= now).take(free) {
            // Each begun order counts for the next.
            if self.ledger.open_at(&self.pace, now) <= now {
                self.begin(host, now, random, &mut effects);
            }
        }
        if std::mem::take(&mut self.unnoted) {
            effects.push(Effect::Note(self.ledger.clone()));
        }
        let expired =
            world.held.iter().filter(|(host, held)| !world.wanted.contains_key(*host) && held.not_after < now);
        effects.extend(expired.map(|(host, _)| Effect::Forget(host.clone())));
        self.renewals.retain(|host| world.held.contains_key(host) && world.wanted.contains_key(host));
        let idle = idle(world, &self.under_way);
        let consulted = self.renewals.handle(idle, (self.pace.at_once, self.pace.limit), now, self.salt);
        effects.extend(consulted.into_iter().map(Effect::Consult));
        self.deadline = self.next(world, now);
        effects
    }

    /// When to call `handle` again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// What the edge is to answer authorities.
    pub fn challenges(&self) -> ByName<Challenge> {
        let of = |(host, order): (&HostName, &Order)| Some((host.clone(), order.challenge.clone()?));
        self.under_way.iter().filter_map(of).collect()
    }

    /// Where a name is that is wanted; `held`: its certificate.
    pub fn report(&self, host: &HostName, held: Option<Validity>, now: Timestamp) -> Report {
        let stage = self.under_way.get(host).map(|order| order.stage);
        let tries = self.ledger.names.get(host);
        let at = held.map_or(Timestamp(0), |held| self.renewals.at(host, held, self.salt));
        let free = self.ledger.waits(host).max(self.ledger.open_at(&self.pace, now));
        Report {
            stage,
            next: stage.is_none().then(|| at.max(free).max(now)),
            failure: tries.and_then(|tries| tries.reason.clone()),
            tries: tries.map_or(0, |tries| tries.count),
        }
    }

    fn begin(&mut self, host: HostName, now: Timestamp, random: u64, effects: &mut Vec<Effect>) {
        self.ledger.begin(&host, &self.pace, now, random);
        self.unnoted = false;
        let attempt = self.ledger.names.get(&host).map_or(0, |tries| tries.count.saturating_sub(1));
        self.under_way.insert(host.clone(), Order { begun: now, stage: Stage::Ordering, challenge: None });
        effects.push(Effect::Begin { host, attempt, ledger: self.ledger.clone() });
    }

    fn drop_unwanted(&mut self, world: World<'_>, effects: &mut Vec<Effect>) {
        self.under_way.retain(|host, _| {
            let wanted = world.wanted.contains_key(host);
            effects.extend((!wanted).then(|| Effect::Drop(host.clone())));
            wanted
        });
    }

    fn drop_late(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let limit = self.pace.limit;
        let late = |order: &Order| is_over(order.begun, limit, now);
        let late: Vec<_> =
            self.under_way.iter().filter(|(_, o)| late(o)).map(|(host, o)| (host.clone(), o.stage)).collect();
        for (host, stage) in late {
            effects.push(Effect::Drop(host.clone()));
            let reason = format!("it was not over within {}: {stage}", Humane(limit));
            self.failed(&host, Failure { reason, pause: None }, now);
        }
    }

    /// The names of which no order is under way and when their time comes, the most urgent first: new ones, then those whose
    /// certificate ends first. Last those that have failed and have none, those first that have failed least: however many they
    /// are, they take no order from a certificate that is to be renewed.
    fn due(&self, world: World<'_>, now: Timestamp) -> Vec<(Timestamp, HostName)> {
        let (open, is_full) = (self.ledger.open_at(&self.pace, now), self.ledger.is_full());
        let idle = world.wanted.keys().filter(|host| !self.under_way.contains_key(*host));
        let mut due: Vec<_> = idle
            .map(|host| {
                let held = world.held.get(host);
                let tries = self.ledger.names.get(host).map_or(0, |tries| tries.count);
                let at = held.map_or(Timestamp(0), |held| self.renewals.at(host, *held, self.salt));
                let at = at.max(self.ledger.waits(host)).max(open);
                let rank = match (held, tries) {
                    // Where not all can be remembered, one of whom nothing is may have failed; chance alone is fair to all of those.
                    (None, 0) if is_full => (2, Timestamp(0), 0, of_name(host, now.0)),
                    (None, 0) => (0, Timestamp(0), 0, 0),
                    (Some(held), _) => (1, held.not_after, tries, 0),
                    (None, _) => (2, Timestamp(0), tries, 0),
                };
                (rank, at, host.clone())
            })
            .collect();
        due.sort();
        due.into_iter().map(|(_, at, host)| (at, host)).collect()
    }

    fn next(&self, world: World<'_>, now: Timestamp) -> Option<Timestamp> {
        let limits = self.under_way.values().map(|order| order.begun + self.pace.limit);
        let room = self.under_way.len() < self.pace.at_once;
        let due = self.due(world, now).into_iter().map(|(at, _)| at).filter(|_| room).min();
        let unwanted = world.held.iter().filter(|(host, _)| !world.wanted.contains_key(*host));
        // A certificate is good up to and with its last moment.
        let expiries = unwanted.map(|(_, held)| held.not_after + Duration::from_millis(1));
        let idle = idle(world, &self.under_way);
        let consults = self.renewals.next(idle, (self.pace.at_once, self.pace.limit), now, self.salt);
        limits.chain(due).chain(expiries).chain(consults).min()
    }
}

/// Names that have a certificate, and no order that is to replace it.
fn idle<'a>(world: World<'a>, under_way: &BTreeMap<HostName, Order>) -> impl Iterator<Item = &'a HostName> {
    world.held.keys().filter(|host| world.wanted.contains_key(*host) && !under_way.contains_key(*host))
}
