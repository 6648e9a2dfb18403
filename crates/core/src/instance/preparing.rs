//! How long a node may wait for what a container needs before it can start.

use std::mem::discriminant;
use std::time::Duration;

use super::{Awaited, Phase};
use crate::time::Mono;

/// To make its image.
const PREPARE_LIMIT: Duration = Duration::from_secs(900);
/// For its engine to answer: as long, so that a release does not wait for ever for one that is gone.
const ENGINE_LIMIT: Duration = Duration::from_secs(900);
/// Images of others are made one after the other before it: some of them may take as long as they may.
const TURN_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preparing {
    /// Since when that is awaited.
    pub since: Mono,
    pub awaited: Awaited,
}

impl Preparing {
    /// `None`: nothing is awaited any more. What is awaited next has its time anew.
    pub(crate) fn next(was: Option<&Self>, phase: &Phase, now: Mono) -> Option<Self> {
        let Phase::Preparing(awaited) = phase else { return None };
        let same = was.filter(|was| discriminant(&was.awaited) == discriminant(awaited));
        Some(Self { since: same.map_or(now, |same| same.since), awaited: awaited.clone() })
    }

    /// How long it may take, and from when on.
    pub(crate) fn limit(&self) -> (Mono, Duration) {
        let within = match self.awaited {
            Awaited::Turn => TURN_LIMIT,
            Awaited::Image => PREPARE_LIMIT,
            Awaited::Engine { .. } => ENGINE_LIMIT,
        };
        (self.since, within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_has_its_time_from_its_turn_on() {
        let at = |seconds| Mono(Duration::from_secs(seconds));
        let away = |why: &str| Phase::Preparing(Awaited::Engine { why: why.to_owned() });
        let mut preparing = None;
        for (now, phase, expected) in [
            (10, Phase::Preparing(Awaited::Turn), Some((at(10), TURN_LIMIT))),
            (2_000, Phase::Preparing(Awaited::Turn), Some((at(10), TURN_LIMIT))),
            (3_000, Phase::Preparing(Awaited::Image), Some((at(3_000), PREPARE_LIMIT))),
            (3_500, Phase::Preparing(Awaited::Image), Some((at(3_000), PREPARE_LIMIT))),
            (3_600, Phase::Starting, None),
            (3_700, away("one"), Some((at(3_700), ENGINE_LIMIT))),
            (3_800, away("another"), Some((at(3_700), ENGINE_LIMIT))),
        ] {
            preparing = Preparing::next(preparing.as_ref(), &phase, at(now));
            assert_eq!(preparing.as_ref().map(Preparing::limit), expected, "{now}");
        }
    }
}
