//! Which faults met which effects: a simulation in which something never happens proves nothing about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strike {
    /// The daemon dies at the effect itself; the others have struck since the change began.
    Crash,
    /// What the daemon had sent to the edge is lost with it.
    LostTable,
    /// A good instance exits.
    Exits,
    Hangs,
    /// Its health fails for a while.
    Flaps,
    /// It gets ready late, or too late.
    Slow,
    NeverReady,
    ExitsAtOnce,
    Refused,
    IgnoresTerm,
    /// The edge does not take the routes of a release.
    RoutesRefused,
    /// It does not take where its instances are.
    InstancesRefused,
    /// It takes nothing for a while, and goes on with what it has.
    EdgeDeaf,
    /// It dies, and comes back later with nothing.
    EdgeDies,
}

pub(crate) const STRIKES: [Strike; 14] = [
    Strike::Crash,
    Strike::LostTable,
    Strike::Exits,
    Strike::Hangs,
    Strike::Flaps,
    Strike::Slow,
    Strike::NeverReady,
    Strike::ExitsAtOnce,
    Strike::Refused,
    Strike::IgnoresTerm,
    Strike::RoutesRefused,
    Strike::InstancesRefused,
    Strike::EdgeDeaf,
    Strike::EdgeDies,
];

/// What the daemon does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// A phase is about to be stored.
    Store(&'static str),
    /// It is stored, and nothing has followed from it yet.
    Stored(&'static str),
    Order,
    Serve,
}

/// Phases that are entered, of rollouts and rounds.
pub(crate) const PHASES: [&str; 16] = [
    "step",
    "promote",
    "watch",
    "done",
    "abort clear",
    "abort restore",
    "abort drain",
    "rolled back",
    "failed",
    "round move",
    "round done",
    "round restore",
    "round clear",
    "round undone",
    SCALED,
    WATCHED,
];

/// No phase, but stored like one: another number of instances.
pub(crate) const SCALED: &str = "scaled";

/// A watch that takes its time: that of a first release is over as it begins.
pub(crate) const WATCHED: &str = "watched";

/// Those of them that a script comes to seldom.
pub(crate) const RARE: [&str; 9] = [
    "abort clear",
    "abort restore",
    "abort drain",
    "rolled back",
    "failed",
    "round done",
    "round restore",
    "round clear",
    "round undone",
];

/// Effects by what they are, whatever phase they belong to.
pub(crate) const KINDS: [&str; 4] = ["store", "stored", "order", "serve"];

impl Effect {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Store(_) => KINDS[0],
            Self::Stored(_) => KINDS[1],
            Self::Order => KINDS[2],
            Self::Serve => KINDS[3],
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(phase) | Self::Stored(phase) => write!(f, "{} {phase}", self.kind()),
            Self::Order | Self::Serve => f.write_str(self.kind()),
        }
    }
}

/// What a verdict did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sentence {
    FailsInAStep,
    SlowInAStep,
    /// One instance answers nobody.
    DarkInAStep,
    FailsWhileWatched,
    SlowWhileWatched,
    /// A step was left unjudged, since what serves is broken.
    Fix,
    /// A step was passed.
    Pass,
}

pub(crate) const SENTENCES: [Sentence; 7] = [
    Sentence::FailsInAStep,
    Sentence::SlowInAStep,
    Sentence::DarkInAStep,
    Sentence::FailsWhileWatched,
    Sentence::SlowWhileWatched,
    Sentence::Fix,
    Sentence::Pass,
];

/// How the load has changed a number of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turned {
    Up,
    Down,
    ToRest,
    Awake,
    UpWhileWatched,
}

pub(crate) const TURNS: [Turned; 5] = [Turned::Up, Turned::Down, Turned::ToRest, Turned::Awake, Turned::UpWhileWatched];

/// How often each effect met each fault.
#[derive(Debug, Default, Clone)]
pub(crate) struct Cover {
    said: BTreeMap<Sentence, u64>,
    turned: BTreeMap<Turned, u64>,
    /// Releases that were as good as they must be, over one that was, too; and those of them that a verdict has undone.
    pub(crate) equal: u64,
    pub(crate) wronged: u64,
    met: BTreeMap<(Effect, Strike), u64>,
    /// Since the change began.
    struck: BTreeSet<Strike>,
}

impl Cover {
    pub(crate) fn begin(&mut self) {
        self.struck.clear();
    }

    pub(crate) fn strike(&mut self, strikes: impl IntoIterator<Item = Strike>) {
        self.struck.extend(strikes);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        for strike in &self.struck {
            *self.met.entry((effect, *strike)).or_default() += 1;
        }
    }

    pub(crate) fn crash(&mut self, effect: Effect) {
        *self.met.entry((effect, Strike::Crash)).or_default() += 1;
    }

    pub(crate) fn say(&mut self, sentence: Sentence) {
        *self.said.entry(sentence).or_default() += 1;
    }

    pub(crate) fn turn(&mut self, turned: Turned) {
        *self.turned.entry(turned).or_default() += 1;
    }

    pub(crate) fn turned(&self, turned: Turned) -> u64 {
        self.turned.get(&turned).copied().unwrap_or_default()
    }

    pub(crate) fn said(&self, sentence: Sentence) -> u64 {
        self.said.get(&sentence).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sentence, count) in &other.said {
            *self.said.entry(*sentence).or_default() += count;
        }
        for (turned, count) in &other.turned {
            *self.turned.entry(*turned).or_default() += count;
        }
        self.equal += other.equal;
        self.wronged += other.wronged;
        for (met, count) in &other.met {
            *self.met.entry(*met).or_default() += count;
        }
    }

    pub(crate) fn of_kind(&self, kind: &str, strike: Strike) -> u64 {
        self.met.iter().filter(|((effect, s), _)| effect.kind() == kind && *s == strike).map(|(_, count)| count).sum()
    }

    /// Every effect, phases told apart, at which the daemon died.
    pub(crate) fn crashes(&self) -> BTreeMap<String, u64> {
        let crashes = self.met.iter().filter(|((_, strike), _)| *strike == Strike::Crash);
        crashes.map(|((effect, _), count)| (effect.to_string(), *count)).collect()
    }
}
