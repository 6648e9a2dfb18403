//! The phases of a rollout, and their stored form.

use std::fmt;
use std::str::FromStr;

/// Where a rollout is. Stored by its `Display`, so that a rollout goes on after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Decided, nothing changed yet.
    Prepare,
    /// At this step of the plan, counted from 0.
    Step(u16),
    /// The candidate carries everything; its routes are served from here on.
    Promote,
    /// Still rolled back by itself.
    Watch,
    /// The candidate is the stable release.
    Done,
    Abort(AbortStage),
    /// The stable release carries everything again, and nothing is left of the candidate.
    RolledBack,
    /// There was no release to go back to; nothing is left of the candidate.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbortStage {
    /// First, what of the candidate cannot run beside the stable release is stopped. The step that was aborted; the
    /// number of steps if all were done.
    Clear(u16),
    /// The stable release is brought back to full capacity; until then the candidate stays as it was at this step.
    Restore(u16),
    /// It carries everything; the candidate is drained and stopped.
    Drain,
}

impl Phase {
    /// It ended: nothing follows.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Done | Self::RolledBack | Self::Failed => true,
            Self::Prepare | Self::Step(_) | Self::Promote | Self::Watch | Self::Abort(_) => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare => f.write_str("prepare"),
            Self::Step(i) => write!(f, "step {i}"),
            Self::Promote => f.write_str("promote"),
            Self::Watch => f.write_str("watch"),
            Self::Done => f.write_str("done"),
            Self::Abort(AbortStage::Clear(i)) => write!(f, "abort clear {i}"),
            Self::Abort(AbortStage::Restore(i)) => write!(f, "abort restore {i}"),
            Self::Abort(AbortStage::Drain) => f.write_str("abort drain"),
            Self::RolledBack => f.write_str("rolled back"),
            Self::Failed => f.write_str("failed"),
        }
    }
}

/// Why a text is not a phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a phase of a rollout: {0:?}")]
pub struct PhaseError(String);

impl PhaseError {
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Phase {
    type Err = PhaseError;

    fn from_str(text: &str) -> Result<Self, PhaseError> {
        let wrong = || PhaseError(text.to_owned());
        Ok(match text {
            "prepare" => Self::Prepare,
            "promote" => Self::Promote,
            "watch" => Self::Watch,
            "done" => Self::Done,
            "abort drain" => Self::Abort(AbortStage::Drain),
            "rolled back" => Self::RolledBack,
            "failed" => Self::Failed,
            _ => {
                let (phase, step) = text.rsplit_once(' ').ok_or_else(wrong)?;
                let step = step.parse().map_err(|_| wrong())?;
                match phase {
                    "step" => Self::Step(step),
                    "abort clear" => Self::Abort(AbortStage::Clear(step)),
                    "abort restore" => Self::Abort(AbortStage::Restore(step)),
                    _ => return Err(wrong()),
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_round_trip() {
        let abort = [AbortStage::Clear(0), AbortStage::Restore(7), AbortStage::Drain].map(Phase::Abort);
        let others = [
            Phase::Prepare,
            Phase::Step(0),
            Phase::Step(u16::MAX),
            Phase::Promote,
            Phase::Watch,
            Phase::Done,
            Phase::RolledBack,
            Phase::Failed,
        ];
        for phase in abort.into_iter().chain(others) {
            assert_eq!(phase.to_string().parse(), Ok(phase));
        }
        for bad in ["", "step", "step -1", "step 65536", "abort", "abort clear", "abort drain 1"] {
            assert!(bad.parse::<Phase>().is_err(), "{bad}");
        }
    }
}
