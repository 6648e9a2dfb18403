//! What a slot is doing and what it waits on, for people.

use std::fmt;
use std::time::Duration;

use super::{Awaited, Failure};
use crate::id::{InstanceId, Port};

/// The six states of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotState {
    /// Ordered; it has not been ready yet.
    Starting,
    /// It may get traffic.
    Ready,
    /// It was ready and runs, but its health fails.
    Unready,
    /// Out of the table for good: it finishes what it has and is stopped. It never becomes ready again.
    Draining,
    /// Nothing runs, and nothing is wanted.
    Stopped,
    /// It failed; the next incarnation waits for its backoff.
    Crashed,
}

impl SlotState {
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Ready, Self::Unready, Self::Draining, Self::Stopped, Self::Crashed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
        }
    }
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a slot that is not ready waits on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitsOn {
    /// What it is started from, or by, is not there yet.
    Preparation { awaited: Awaited, since: Duration },
    /// The node has not started the process yet.
    Start { since: Duration },
    /// It runs; its health has not passed yet.
    Health { reason: Option<String>, since: Duration, grace: Duration },
    /// It has no health check: it counts as ready when it has stayed up this long.
    StayingUp { since: Duration, wanted: Duration },
    /// It was ready; its health has failed this often in a row.
    HealthAgain { reason: String, failures: u32 },
    /// Until the edge serves a table without it.
    Edge { since: Duration, limit: Duration },
    /// Requests and tunnels that are not finished.
    Outstanding { requests: u32, since: Duration, limit: Duration },
    /// TERM was ordered; KILL follows after its grace time.
    Stop,
    /// The next start.
    Backoff { left: Duration, crashes: u32 },
    /// Another incarnation of the same slot must end first.
    Predecessor(InstanceId),
}

impl fmt::Display for WaitsOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparation { awaited, since } => write!(f, "{awaited}, for {}", Rough(*since)),
            Self::Start { since } => write!(f, "start: ordered {} ago", Rough(*since)),
            Self::Health { reason: Some(reason), since, grace } => {
                write!(f, "health: {reason}, {} of {}", Rough(*since), Rough(*grace))
            }
            Self::Health { reason: None, since, grace } => {
                write!(f, "health: not asked yet, {} of {}", Rough(*since), Rough(*grace))
            }
            Self::StayingUp { since, wanted } => write!(f, "staying up: {} of {}", Rough(*since), Rough(*wanted)),
            Self::HealthAgain { reason, failures } => write!(f, "health: {reason}, failed {}", Times(*failures)),
            Self::Edge { since, limit } => {
                write!(f, "drain: the edge to take it out, {} of {}", Rough(*since), Rough(*limit))
            }
            Self::Outstanding { requests, since, limit } => {
                write!(f, "drain: {requests} outstanding requests, {} of {}", Rough(*since), Rough(*limit))
            }
            Self::Stop => f.write_str("stop: told to end"),
            Self::Backoff { left, crashes } => {
                write!(f, "backoff: next start in {}, failed {}", Rough(*left), Times(*crashes))
            }
            Self::Predecessor(id) => write!(f, "{id} to end"),
        }
    }
}

/// `once`, `3 times`
pub(crate) struct Times(pub(crate) u32);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            n => write!(f, "{n} times"),
        }
    }
}

/// A duration for reading: whole seconds above ten seconds, tenths below.
pub(crate) struct Rough(pub(crate) Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            d if d >= Duration::from_secs(10) || d.subsec_millis() == 0 => write!(f, "{}s", d.as_secs()),
            d => write!(f, "{:.1}s", d.as_secs_f64()),
        }
    }
}

/// One slot, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotStatus {
    /// The incarnation that runs, or the last one.
    pub instance: InstanceId,
    pub state: SlotState,
    /// `None`: it is ready, or stopped.
    pub waits_on: Option<WaitsOn>,
    pub port: Option<Port>,
    /// Incarnations before this one.
    pub restarts: u32,
    /// Failures in a row, without 60 s of health between them.
    pub crashes: u32,
    /// Why an earlier incarnation ended, if one failed.
    pub failure: Option<Failure>,
}

/// A slot changed its state: for the log and for events.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    pub instance: InstanceId,
    pub was: SlotState,
    pub state: SlotState,
    /// Set when a failure is the reason.
    pub failure: Option<Failure>,
}

impl Transition {
    /// It got requests, and does not any more, though nobody has told it to stop.
    pub fn fell(&self) -> bool {
        self.was == SlotState::Ready && (self.state == SlotState::Unready || self.failure.is_some())
    }
}
