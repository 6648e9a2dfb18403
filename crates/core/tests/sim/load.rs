//! Load that changes, and what the numbers of instances may do about it.

use std::time::Duration;

use bowline_core::rollout::Phase;
use bowline_core::scale::{Policy, Room, Windows};
use bowline_core::time::Mono;
use bowline_core::units::Share;

use crate::check::{Broken, Invariant, broken};
use crate::rng::Rng;

/// Those of the daemon, shortened, so that a run of two minutes sees some peaks and their ends.
pub(crate) const WINDOWS: Windows = Windows {
    every: Duration::from_secs(2),
    stable: Duration::from_secs(20),
    panic: Duration::from_secs(6),
    stabilisation: Duration::from_secs(60),
};

/// Requests at once that one instance is to carry.
pub(crate) const EACH: u32 = 10;

/// The part of its core that one instance is to use, which those requests take.
pub(crate) const BUSY: Share = Share::from_ppm(500_000).unwrap();

/// What a request in flight takes of a core, in thousandths.
pub(crate) const MILLI_EACH: u32 = 500 / EACH;

/// Over which processor time is averaged.
const USED_OVER: Duration = Duration::from_secs(30);

/// How long a request is held at most.
const HOLD: Duration = Duration::from_secs(30);

/// What comes in for `web`, what is told of it, and what the machine bears.
#[derive(Debug, Clone, Default)]
pub(crate) struct Load {
    /// Requests in flight, from each of these times on; the last for good.
    pub(crate) levels: Vec<(Mono, u32)>,
    /// In these no edge tells anything; after each there is another one, which counts anew.
    pub(crate) gaps: Vec<(Mono, Mono)>,
    pub(crate) rooms: Vec<(Mono, Room)>,
}

fn latest<T: Copy + Default>(all: &[(Mono, T)], now: Mono) -> T {
    all.iter().rev().find(|(at, _)| *at <= now).map(|(_, one)| *one).unwrap_or_default()
}

/// Whether it is in one of these.
pub(crate) fn is_within(spans: &[(Mono, Mono)], now: Mono) -> bool {
    spans.iter().any(|(from, to)| now >= *from && now < *to)
}

impl Load {
    pub(crate) fn any(rng: &mut Rng) -> Self {
        let secs = |n: u64| Duration::from_secs(n);
        let levels = [0, 0, 3, 12, 30, 120, 300];
        let mut at = Mono::default();
        let level = |rng: &mut Rng| levels[usize::try_from(rng.below(levels.len() as u64)).unwrap()];
        let mut all = vec![(at, level(rng))];
        for _ in 0..1 + rng.below(5) {
            let longest = if rng.below(3) == 0 { 200 } else { 60 };
            at = at + secs(10 + rng.below(longest));
            all.push((at, level(rng)));
        }
        let gap = |rng: &mut Rng| {
            let from = Mono(secs(rng.below(300)));
            (from, from + secs(if rng.below(2) == 0 { 5 + rng.below(20) } else { 90 + rng.below(90) }))
        };
        let room = |rng: &mut Rng| {
            let some = |rng: &mut Rng| (rng.below(2) == 0).then(|| u16::try_from(1 + rng.below(8)).unwrap());
            (Mono(secs(rng.below(200))), Room { memory: some(rng), cores: some(rng) })
        };
        let mut rooms: Vec<_> = (0..rng.below(3)).map(|_| room(rng)).collect();
        rooms.sort_by_key(|(at, _)| *at);
        Self { levels: all, gaps: (0..rng.below(2)).map(|_| gap(rng)).collect(), rooms }
    }

    /// A few requests at first and once in between, and some again soon after `until`; none for long before that.
    pub(crate) fn with_a_lull(until: Mono, rng: &mut Rng) -> Self {
        let secs = Duration::from_secs;
        let again = until + Duration::from_millis(rng.below(20_000));
        let between = Mono(until.0.saturating_sub(secs(200)));
        // A little more than so many carry is borne by processor time, which has a tolerance of a tenth.
        let mut level = || match u32::try_from(1 + rng.below(30)).unwrap() {
            level @ (11 | 21 | 22) => level + 2,
            level => level,
        };
        let levels = vec![
            (Mono::default(), level()),
            (Mono(secs(30)), 0),
            (between, level()),
            (between + secs(20), 0),
            (again, level()),
        ];
        Self { levels, ..Self::default() }
    }

    pub(crate) fn level(&self, now: Mono) -> u32 {
        latest(&self.levels, now)
    }

    pub(crate) fn room(&self, now: Mono) -> Room {
        latest(&self.rooms, now)
    }

    pub(crate) fn is_told(&self, now: Mono) -> bool {
        !is_within(&self.gaps, now)
    }

    pub(crate) fn next_event(&self, now: Mono) -> Option<Mono> {
        let changes = self.levels.iter().map(|(at, _)| *at).chain(self.rooms.iter().map(|(at, _)| *at));
        changes.chain(self.gaps.iter().flat_map(|(from, to)| [*from, *to])).filter(|at| *at > now).min()
    }

    /// When anything of it has changed last.
    fn constant_since(&self, now: Mono) -> Mono {
        let changes = self.levels.iter().map(|(at, _)| *at).chain(self.rooms.iter().map(|(at, _)| *at));
        changes
            .chain(self.gaps.iter().flat_map(|(from, to)| [*from, *to]))
            .filter(|at| *at <= now)
            .max()
            .unwrap_or_default()
    }

    /// Until when nothing was told; `None`: it always was.
    fn unknown_until(&self, now: Mono) -> Option<Mono> {
        self.gaps.iter().filter(|(from, _)| *from <= now).map(|(_, to)| (*to).min(now)).max()
    }

    /// The most that was needed at any moment of which an average may know something.
    fn most_of_late(&self, policy: &Policy, now: Mono) -> u16 {
        let starts = self.levels.iter().map(|(at, _)| *at);
        let ends = self.levels.iter().skip(1).map(|(at, _)| *at).chain([now]);
        let is_late = |(start, end): &(Mono, Mono)| *start <= now && now.since(*end) <= USED_OVER + WINDOWS.every * 2;
        let late = starts.zip(ends).filter(is_late);
        late.map(|(start, _)| needs(self.level(start), policy, self.room(now))).max().unwrap_or(policy.min)
    }

    /// The end of the last time in which more than `number` were needed, for so long that every average says so.
    fn peaked(&self, number: u16, policy: &Policy, now: Mono) -> Option<Mono> {
        let longest = if policy.cpu.is_some() { USED_OVER } else { WINDOWS.stable };
        let ends = self.levels.iter().skip(1).map(|(at, _)| *at).chain([now]);
        let spans = self
            .levels
            .iter()
            .zip(ends)
            .filter(|((from, _), to)| *to <= now && to.since(*from) > longest + WINDOWS.every * 2);
        spans.filter(|((_, level), to)| needs(*level, policy, self.room(*to)) > number).map(|(_, to)| to).max()
    }
}

/// How many a load needs in the end.
pub(crate) fn needs(level: u32, policy: &Policy, room: Room) -> u16 {
    let least = u16::from(level > 0 || !policy.rests());
    let by_load = u16::try_from(level.div_ceil(EACH)).unwrap().max(least);
    by_load.clamp(policy.min, most(policy, room))
}

/// How many the file and the machine allow.
fn most(policy: &Policy, room: Room) -> u16 {
    [room.memory, room.cores].into_iter().flatten().fold(policy.max, u16::min).max(policy.min)
}

/// A number of instances that the load has changed, and what was the case then.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scaling {
    pub(crate) at: Mono,
    pub(crate) was: u16,
    pub(crate) to: u16,
    pub(crate) policy: Policy,
    /// Of the rollout that was under way.
    pub(crate) during: Option<Phase>,
    /// Instances were being replaced.
    pub(crate) in_round: bool,
}

/// What is known of the numbers so far, seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// Changes that were looked at.
    seen: usize,
    rose: Option<Mono>,
    /// This daemon is there since.
    pub(crate) started: Mono,
    /// Since when all that is wanted is ready, and nothing is under way.
    settled: Option<Mono>,
    /// Since when there is a release that could answer, and a daemon that is told who waits.
    serves: Option<Mono>,
}

impl Numbers {
    /// `settled`: as many are ready as are wanted, and nothing but the load moves them.
    pub(crate) fn check(&mut self, all: &[Scaling], load: &Load, settled: bool, now: Mono) -> Result<(), Broken> {
        for change in &all[self.seen..] {
            self.check_change(change, load)?;
            if change.to > change.was {
                self.rose = Some(change.at);
            }
        }
        self.seen = all.len();
        self.settled = if settled { self.settled.or(Some(now)) } else { None };
        Ok(())
    }

    fn check_change(&self, change: &Scaling, load: &Load) -> Result<(), Broken> {
        let Scaling { at, was, to, ref policy, during, in_round } = *change;
        let room = load.room(at);
        let text = |what: &str| format!("{was} to {to} {what}: {policy:?}, {room:?}");
        let least = if to > was { most(policy, room) } else { policy.max };
        if !(policy.min..=least).contains(&to) {
            return Err(broken(Invariant::Bounds, text("is beyond the bounds")));
        }
        let may = match (during, in_round) {
            (None, false) => true,
            (Some(Phase::Watch), _) => to > was,
            (None, true) => was == 0,
            (Some(_), _) => false,
        };
        if !may {
            return Err(broken(Invariant::StepsKeepNumbers, text(&format!("in {during:?}"))));
        }
        match to > was {
            true => self.check_rise(change, load),
            false => self.check_fall(change, load),
        }
    }

    fn check_fall(&self, change: &Scaling, load: &Load) -> Result<(), Broken> {
        let Scaling { at, was, to, ref policy, .. } = *change;
        let quick = |since: Mono, slack: Duration| at.since(since) + slack < WINDOWS.stabilisation;
        let look = WINDOWS.every * 2;
        // What has less room than before gives way to that, whatever is known.
        let by_room = to >= most(policy, load.room(at));
        // Processor time is told by the node.
        let by_requests = policy.in_flight.is_some();
        if let Some(until) = load.unknown_until(at).filter(|until| by_requests && quick(*until, look) && !by_room) {
            let text = format!("{was} to {to}, {:?} after nothing was known", at.since(until));
            return Err(broken(Invariant::UnknownTakesNothing, text));
        }
        let peak = load.peaked(to, policy, at).filter(|end| quick(*end, look));
        let rose = self.rose.filter(|rose| quick(*rose, Duration::ZERO));
        let started = Some(self.started).filter(|started| quick(*started, Duration::ZERO));
        match peak.or(rose).or(started) {
            Some(since) => {
                let text = format!("{was} to {to}, {:?} after more were needed", at.since(since));
                Err(broken(Invariant::Stabilised, text))
            }
            None => Ok(()),
        }
    }

    /// Where nothing has changed for long, all that is needed was asked for.
    fn check_rise(&self, change: &Scaling, load: &Load) -> Result<(), Broken> {
        let since = [Some(self.started), self.settled, Some(load.constant_since(change.at))];
        let quiet = change.at.since(since.into_iter().flatten().max().unwrap_or_default());
        if self.settled.is_some() && change.was > 0 && quiet > WINDOWS.stable * 3 {
            let Scaling { was, to, .. } = *change;
            return Err(broken(Invariant::NoFlapping, format!("{was} to {to} after {quiet:?} of the same load")));
        }
        let Scaling { at, was, to, ref policy, .. } = *change;
        let most = load.most_of_late(policy, at);
        if policy.in_flight.is_none() && to > most {
            return Err(broken(Invariant::NoMoreThanUsed, format!("{was} to {to}, where {most} are enough")));
        }
        Ok(())
    }

    /// Whoever is held since `held` has an instance or an answer in time. `serves`: there is a release that could answer, and a daemon
    /// that is told.
    pub(crate) fn check_held(&mut self, held: Option<Mono>, serves: bool, now: Mono) -> Result<(), Broken> {
        self.serves = if serves { self.serves.or(Some(now)) } else { None };
        let since = held.zip(self.serves).map(|(held, serves)| held.max(serves).max(self.started));
        let waits = since.map_or(Duration::ZERO, |since| now.since(since));
        match waits > HOLD {
            true => Err(broken(Invariant::HeldInTime, format!("requests wait for {waits:?}, and nothing is there"))),
            false => Ok(()),
        }
    }
}
