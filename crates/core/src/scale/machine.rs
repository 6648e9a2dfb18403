//! The machine of one service.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::usage::{Asked, Usage};
use super::window::{Average, Window};
use super::{Bound, Policy, Report, Room, Signal};
use crate::id::InstanceId;
use crate::time::Mono;

/// Over which it is averaged, and how long it is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Between two looks.
    pub every: Duration,
    /// Over which requests are averaged.
    pub stable: Duration,
    /// Over which they are averaged in a rush.
    pub panic: Duration,
    /// How long fewer must be enough before there are fewer.
    pub stabilisation: Duration,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(2),
            stable: Duration::from_secs(60),
            panic: Duration::from_secs(6),
            stabilisation: Duration::from_secs(300),
        }
    }
}

/// So many times what is ready is a rush.
const PANIC_FACTOR: u16 = 2;

/// A rush asks for at most so many times what is ready when it begins.
const MOST_AT_ONCE: u16 = 10;

/// So many falls of ready instances, for each that there is, say that requests may be too many for it.
const FALLS: usize = 3;

/// How many instances that are found in this way: twice as many each time. From there on what holds out is measured, and what does not is
/// broken whatever comes in.
const MOST_BY_FALLS: u16 = 4;

/// What an edge tells of the requests for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Tells one counting from another, as [`Counted::began`](crate::verdict::Counted) does: it is compared and never ordered.
    pub began: u64,
    /// For how long requests were in flight, all added up, since that counting began: it grows by two seconds a second where two are
    /// in flight.
    pub busy: Duration,
    /// Held because no instance is there.
    pub waiting: u32,
}

/// One look at the world.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    pub policy: Policy,
    /// The number that is in effect.
    pub target: u16,
    /// Instances that get requests.
    pub ready: u16,
    /// `None`: no edge tells it.
    pub demand: Option<Demand>,
    /// Processor time since its start, of each ready instance of which it is known.
    pub cpu: &'a BTreeMap<InstanceId, Duration>,
    pub room: Room,
    pub may: May,
}

/// What of the number may change now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    Change,
    /// A release is watched: fewer would be its doing, more do no harm.
    Rise,
    /// Instances of the app are replaced, one for one: what rests is none of them, and whoever waits for it is heard.
    Wake,
    /// Another change of the app moves the same instances.
    Stay,
}

impl May {
    fn turn(self, was: u16, to: u16) -> bool {
        match self {
            Self::Change => to != was,
            Self::Rise => to > was,
            Self::Wake => was == 0 && to > 0,
            Self::Stay => false,
        }
    }
}

/// Another number of instances, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub was: u16,
    pub to: u16,
    pub report: Report,
}

/// Decides about one service. It keeps no number of its own: what is in effect comes with every look.
#[derive(Debug)]
pub struct Scaler {
    windows: Windows,
    /// The next look that counts. `None`: there was none yet.
    next: Option<Mono>,
    /// What the last one was about.
    last: Option<(Policy, u16)>,
    requests: Window,
    usage: Usage,
    /// What was asked for, within the time of stabilisation.
    asked: VecDeque<(Mono, u16)>,
    /// A rush, until then.
    panics: Option<Mono>,
    /// Since when it is looked at, and the most that it may ask for.
    rush: Option<(Mono, u16)>,
    /// Since when as many are ready as were asked for.
    settled: Option<Mono>,
    /// The last look found somebody who waits.
    woken: bool,
    /// When ready instances fell, within the time of stabilisation; as many as matter.
    falls: VecDeque<Mono>,
    report: Option<Report>,
}

/// What a look asks for.
struct Wanted {
    instances: u16,
    signal: Signal,
    /// Of all targets something is known.
    known: bool,
}

/// How many wait for what rests.
fn wakes(policy: &Policy, target: u16, demand: Option<Demand>) -> Option<u32> {
    let waiting = demand.map(|demand| demand.waiting).filter(|waiting| *waiting > 0);
    waiting.filter(|_| target == 0 && policy.rests())
}

impl Scaler {
    pub fn new(windows: Windows) -> Self {
        Self {
            windows,
            next: None,
            last: None,
            requests: Window::default(),
            usage: Usage::default(),
            asked: VecDeque::new(),
            panics: None,
            rush: None,
            settled: None,
            woken: false,
            falls: VecDeque::new(),
            report: None,
        }
    }

    /// An instance that got requests has failed, or does not answer its health any more. What has fallen again and again while others
    /// wait is given company: alone it may never live for long enough to be measured.
    pub fn fell(&mut self, now: Mono) {
        self.falls.push_back(now);
        self.forget_falls(now);
    }

    fn forget_falls(&mut self, now: Mono) {
        let stabilisation = self.windows.stabilisation;
        let most = FALLS * usize::from(MOST_BY_FALLS);
        while self.falls.len() > most || self.falls.front().is_some_and(|at| now.since(*at) >= stabilisation) {
            self.falls.pop_front();
        }
    }

    /// One, two after three falls, four after six more of those.
    fn by_falls(&mut self, now: Mono) -> u16 {
        self.forget_falls(now);
        let (mut instances, mut explained) = (1, FALLS);
        while instances < MOST_BY_FALLS && self.falls.len() >= explained {
            instances *= 2;
            explained += FALLS * usize::from(instances);
        }
        instances
    }

    /// `Some`: another number, to be stored before it takes effect. Until it has, it is said again with every look.
    pub fn handle(&mut self, look: Look<'_>, now: Mono) -> Option<Target> {
        if !self.is_near(now) && !self.is_due(&look.policy, look.target, look.demand, now) {
            return None;
        }
        self.next = Some(now + self.windows.every);
        let last = self.last.replace((look.policy, look.target));
        let is_new = last.is_none_or(|(policy, target)| policy != look.policy || target < look.target);
        let waits = wakes(&look.policy, look.target, look.demand);
        self.woken = waits.is_some();
        if let Some(requests) = waits {
            return self.wake(look, requests, now);
        }
        // At first, after a release with other bounds, and after steps of a rollout that had fewer, what is there was wanted; and while
        // a rollout goes on, in which another release does a part of the work.
        if is_new || look.may == May::Stay {
            self.ask(look.target, now);
        }
        // Those who are held are in flight as well, for as long as nothing gets ready: that is no measure of what is needed.
        let answered = look.demand.filter(|demand| demand.waiting == 0);
        self.requests.take(answered.map(|demand| (demand.began, demand.busy)), self.windows.stable, now);
        self.usage.take(look.cpu, now);
        self.settled = if look.ready >= look.target { self.settled.or(Some(now)) } else { None };
        self.decide(look, now)
    }

    /// Whether a look at such a world says anything new. Whoever begins to wait is heard at once; what comes of it may be
    /// long in coming, and is asked for again with the next look.
    pub fn is_due(&self, policy: &Policy, target: u16, demand: Option<Demand>, now: Mono) -> bool {
        let begins_to_wait = !self.woken && wakes(policy, target, demand).is_some();
        self.next.is_none_or(|next| now >= next) || begins_to_wait
    }

    /// Whether it may be looked at with others that are due: looks that come together cost less. Earlier ones are without
    /// effect.
    pub fn is_near(&self, now: Mono) -> bool {
        self.next.is_none_or(|next| now + self.windows.every / 4 >= next)
    }

    /// There is nothing to look at now.
    pub fn skip(&mut self, now: Mono) {
        self.next = self.next.map(|next| if now >= next { now + self.windows.every } else { next });
    }

    /// What was said last. `None`: it has not looked yet.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// When to call `handle` again if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.next
    }

    /// Whoever waits is not let wait for the next look.
    fn wake(&mut self, look: Look<'_>, requests: u32, now: Mono) -> Option<Target> {
        let (allowed, _) = look.room.bounds(&look.policy);
        let signal = Signal::Waiting { requests };
        let report = Report { wanted: 1, allowed, signal, bound: None, down: None };
        self.report = Some(report);
        if !look.may.turn(0, 1) {
            return None;
        }
        self.ask(1, now);
        Some(Target { was: 0, to: 1, report })
    }

    fn decide(&mut self, look: Look<'_>, now: Mono) -> Option<Target> {
        let Look { policy, target, .. } = look;
        let mut wanted = self.wanted(look, now);
        if !wanted.known && wanted.instances < target {
            wanted = Wanted { instances: target, signal: Signal::Unknown, known: false };
        }
        let (allowed, least) = look.room.bounds(&policy);
        let instances = wanted.instances.clamp(policy.min, allowed);
        let bound = match wanted.instances.cmp(&instances) {
            std::cmp::Ordering::Less => Some(Bound::Min),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(least),
        };
        self.ask(instances, now);
        let to = if instances > target { instances } else { self.settled(policy, target) };
        let report = Report {
            wanted: wanted.instances,
            allowed,
            signal: wanted.signal,
            bound,
            down: self.goes_down(instances, target.min(to), now),
        };
        self.report = Some(report);
        look.may.turn(target, to).then_some(Target { was: target, to, report })
    }

    /// Remembers it for the time of stabilisation.
    fn ask(&mut self, instances: u16, now: Mono) {
        let stabilisation = self.windows.stabilisation;
        while self.asked.front().is_some_and(|(at, _)| now.since(*at) >= stabilisation) {
            self.asked.pop_front();
        }
        self.asked.push_back((now, instances));
    }

    /// The largest that was asked for within the time of stabilisation: not more than there is.
    fn settled(&self, policy: Policy, target: u16) -> u16 {
        let largest = self.asked.iter().map(|(_, asked)| *asked).max().unwrap_or(target);
        // A file that has come since may say other bounds.
        largest.min(target).clamp(policy.min, policy.max)
    }

    /// To which number, and when at the earliest.
    fn goes_down(&self, wanted: u16, target: u16, now: Mono) -> Option<(u16, Duration)> {
        let last = self.asked.iter().rev().find(|(_, asked)| *asked > wanted);
        let (at, _) = last.filter(|_| wanted < target)?;
        Some((wanted, (*at + self.windows.stabilisation).since(now)))
    }

    fn wanted(&mut self, look: Look<'_>, now: Mono) -> Wanted {
        let Look { policy, target, .. } = look;
        // While somebody waits nothing is ready: what is used then is no measure of what is needed either.
        if let Some(requests) = look.demand.map(|demand| demand.waiting).filter(|waiting| *waiting > 0) {
            (self.panics, self.rush) = (None, None);
            let instances = target.max(self.by_falls(now));
            return Wanted { instances, signal: Signal::Waiting { requests }, known: true };
        }
        let long = self.requests.average(self.windows.stable, now);
        let by_requests = policy.in_flight.map(|each| self.by_requests(each, long, look, now));
        let current = target.max(look.ready);
        let by_cpu = policy.cpu.map(|share| {
            let asked = self.usage.asks(&policy, current, now);
            asked.map(|Asked { instances, ppm }| (instances, Signal::Cpu { ppm, target: share }))
        });
        let asks = [by_requests, by_cpu];
        let known = asks.iter().flatten().all(Option::is_some);
        let largest = asks.into_iter().flatten().flatten().max_by_key(|(instances, _)| *instances);
        let Some((instances, signal)) = largest else {
            // Nothing runs that could use a processor; whoever asks is heard of.
            let known = known || target == 0;
            return Wanted { instances: target, signal: Signal::Unknown, known };
        };
        if !policy.rests() {
            return Wanted { instances, signal, known };
        }
        match self.is_at_rest(look, long) {
            true => Wanted { instances: 0, signal: Signal::Rest, known: true },
            false if target == 0 => Wanted { instances: 0, signal: Signal::Rest, known },
            false => Wanted { instances: instances.max(1), signal, known },
        }
    }

    /// Nobody has asked for as long as requests are averaged.
    fn is_at_rest(&self, look: Look<'_>, long: Option<Average>) -> bool {
        let nobody_waits = look.demand.is_some_and(|demand| demand.waiting == 0);
        nobody_waits && long.is_some_and(|long| long.busy.is_zero() && long.span >= self.windows.stable)
    }

    fn by_requests(&mut self, each: u32, long: Option<Average>, look: Look<'_>, now: Mono) -> Option<(u16, Signal)> {
        let (long, short) = (long?, self.requests.average(self.windows.panic, now)?);
        // Who was held, or came while nobody counted, is worked off first.
        if short.span < self.windows.panic {
            return Some((
                long.instances(each).min(look.target),
                Signal::InFlight { milli: long.milli(), target: each },
            ));
        }
        // What is being worked off asks for no more.
        let last = self.requests.average(self.windows.every, now)?;
        let in_rush = short.instances(each).min(last.instances(each));
        if in_rush >= look.ready.max(1).saturating_mul(PANIC_FACTOR) {
            self.panics = Some(now + self.windows.stable);
        }
        if self.panics.is_none_or(|until| now >= until) {
            (self.panics, self.rush) = (None, None);
            let enough = short.instances(each).max(look.target);
            return Some((long.instances(each).min(enough), Signal::InFlight { milli: long.milli(), target: each }));
        }
        // In a rush nothing goes down.
        let asked = in_rush.min(self.most_in_rush(look, now)).max(look.target);
        Some((asked, Signal::Panic { milli: short.milli(), target: each }))
    }

    /// A rush is looked at for as long as it is averaged. Then what it has asked for is waited for, and looked at for as long
    /// again: where requests queue, what is in flight is the queue, and no measure of what is needed.
    fn most_in_rush(&mut self, look: Look<'_>, now: Mono) -> u16 {
        let Windows { panic, stable, .. } = self.windows;
        let new = (now, look.ready.max(1).saturating_mul(MOST_AT_ONCE));
        let (begun, most) = *self.rush.get_or_insert(new);
        let has_settled = self.settled.is_some_and(|since| now.since(since) >= panic);
        match now.since(begun) < panic {
            true => most,
            // Some may never get ready.
            false if has_settled || now.since(begun) >= stable => self.rush.insert(new).1,
            false => look.target,
        }
    }
}
