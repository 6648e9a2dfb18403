//! Whether a new release is worse than it may be, from what it and the stable release answered since a step began.
//!
//! [`judge`] is asked every few seconds and looks at cumulative [`Counters`]: of the canary, of its baseline (fresh
//! instances of the stable release with the same weight), and of the stable release as a whole. It keeps nothing
//! between two looks. A release that is as good as it must be is aborted with a probability of at most [`FALSE_ABORT`]
//! per step, over all looks together; [`evidence`] says why, and `docs/decisions/0053` what it costs.
//!
//! Architecture invariant: there is no clock, no state and no randomness here. How long a step is held, and who is
//! asked when it has been held too long, is the rollout's.

mod counters;
mod evidence;
mod histogram;
mod judge;
mod report;
#[cfg(test)]
mod tests;

pub use counters::{CLIENT_LEFT, Counted, Counters, FIRST_FAILURE};
pub use evidence::Tally;
pub(crate) use evidence::is_longer_than_chance;
pub use histogram::{BUCKETS, Histogram, PER_OCTAVE, Slower};
pub use judge::{
    Against, FALSE_ABORT, Finding, HALF_NEEDS, Judgement, LEAST_LIMIT, Limit, MISSED, State, Subject, Verdict, judge,
    needs,
};
