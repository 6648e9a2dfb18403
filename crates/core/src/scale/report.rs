//! What is said of a decision.

use std::fmt;
use std::time::Duration;

use crate::units::Share;

/// What keeps a number from being the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// `scale.min` of the file.
    Min,
    /// `scale.max` of the file.
    Max,
    /// Memory of the machine.
    Memory,
    /// Cores of the machine.
    Cores,
}

impl Bound {
    pub const ALL: [Self; 4] = [Self::Min, Self::Max, Self::Memory, Self::Cores];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Memory => "memory",
            Self::Cores => "cores",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What asks for so many. It prints as the reason of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Requests in flight on average, in thousandths, of so many per instance.
    InFlight { milli: u64, target: u32 },
    /// The same over the last seconds: they ask for twice what is ready, or did a short while ago.
    Panic { milli: u64, target: u32 },
    /// How busy instances are on average, in millionths of what they may use, of so many.
    Cpu { ppm: u64, target: Share },
    /// Somebody asks for what has no instance.
    Waiting { requests: u32 },
    /// Nobody has asked for a while.
    Rest,
    /// It is not known what comes in, or what is used: nothing is taken away.
    Unknown,
}

impl Signal {
    /// One word: for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InFlight { .. } => "in_flight",
            Self::Panic { .. } => "panic",
            Self::Cpu { .. } => "cpu",
            Self::Waiting { .. } => "waiting",
            Self::Rest => "rest",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight { milli, target } => {
                write!(f, "{}.{} in flight, {target} each", milli / 1000, milli % 1000 / 100)
            }
            Self::Panic { milli, target } => {
                write!(f, "{}.{} in flight within seconds, {target} each", milli / 1000, milli % 1000 / 100)
            }
            Self::Cpu { ppm, target } => {
                write!(f, "{}% of their cores used, {}% wanted", ppm / 10_000, target.ppm() / 10_000)
            }
            Self::Waiting { requests: 1 } => f.write_str("a request waits"),
            Self::Waiting { requests } => write!(f, "{requests} requests wait"),
            Self::Rest => f.write_str("nobody asks for it"),
            Self::Unknown => f.write_str("its load is not known"),
        }
    }
}

/// The last look at a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What the signal asks for, whatever the bounds.
    pub wanted: u16,
    /// The most that the bounds allow now.
    pub allowed: u16,
    pub signal: Signal,
    /// `None`: so many as are wanted are allowed.
    pub bound: Option<Bound>,
    /// It has more than is wanted, and goes down to so many when this time has passed, if nothing asks for more.
    pub down: Option<(u16, Duration)>,
}
