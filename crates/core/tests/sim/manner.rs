//! How releases answer, and how that changes under the machine.

use std::time::Duration;

use crate::rng::Rng;

/// As long as nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Of a hundred requests so many fail.
    pub(crate) errors: u64,
    /// How long its answers take, in tenths of how long a good release's take.
    pub(crate) pace: u64,
}

/// When a release begins to answer otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Never,
    /// So long after its first answer.
    After(Duration),
    /// With its first answer once it carries everything.
    Promoted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behaviour {
    pub(crate) first: Manner,
    pub(crate) turn: Turn,
    pub(crate) then: Manner,
    /// Whatever comes to the instances of this slot fails.
    pub(crate) dark: Option<u16>,
}

/// Its p90 is 49 ms at most, one in twenty takes longer than [`crate::script::SLOW`].
pub(crate) const GOOD: Manner = Manner { errors: 0, pace: 10 };

/// p90 by half longer: just at the limit, so that a verdict may go either way.
const BORDERLINE: Manner = Manner { errors: 0, pace: 15 };

impl Manner {
    /// So much that no luck lets it pass: over half of it fails, or takes longer than one in ten may.
    fn is_bad(self) -> bool {
        self.errors > 50 || self.pace >= 20
    }

    fn any(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 | 1 => Self { errors: 80, ..GOOD },
            2 => BORDERLINE,
            3 => Self { pace: 20, ..GOOD },
            4 => Self { pace: 30, ..GOOD },
            _ => GOOD,
        }
    }

    /// The status of one answer, and how long it takes.
    pub(crate) fn answer(self, rng: &mut Rng) -> (u16, Duration) {
        let status = if rng.below(100) < self.errors { 500 } else { 200 };
        let tail = rng.below(10) == 0;
        let took = if tail { 40 + rng.below(20) } else { 20 + rng.below(10) };
        (status, Duration::from_millis(took * self.pace / 10))
    }
}

impl Behaviour {
    pub(crate) fn steady(manner: Manner) -> Self {
        Self { first: manner, turn: Turn::Never, then: manner, dark: None }
    }

    pub(crate) fn any(rng: &mut Rng) -> Self {
        let first = Manner::any(rng);
        let turn = match rng.below(6) {
            0 => Turn::After(Duration::from_millis(rng.below(60_000))),
            1 => Turn::Promoted,
            _ => return Self::steady(first),
        };
        Self { first, turn, then: Manner::any(rng), dark: None }
    }

    /// Whatever happens, it is as good as it must be.
    pub(crate) fn is_good(self) -> bool {
        self.first == GOOD && (self.turn == Turn::Never || self.then == GOOD) && self.dark.is_none()
    }

    /// Whenever it is judged, it is worse than it may be.
    pub(crate) fn is_bad(self) -> bool {
        self.first.is_bad() && (self.turn == Turn::Never || self.then.is_bad())
    }
}
