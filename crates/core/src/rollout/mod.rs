//! Rollouts: how one release takes the place of another; and rounds, within one.

mod jury;
mod machine;
mod phase;
mod plan;
mod round;
mod set;
mod word;

pub use jury::{Dark, Figures, LOOKS, Look, Ruling, Traffic};
pub use machine::{
    ASKS_AFTER, Entered, Input, Leg, MAX_CRASHES, MAX_NOT_READY, Memory, Rollout, Stage, Standing, Style, Waiting,
};
pub use phase::{AbortStage, Phase, PhaseError};
pub use plan::{Plan, Presence, Replicas, StepPlan, Transition, Until};
pub use round::{Move, Round, RoundEntered, RoundInput, RoundPhase, RoundPlace, RoundPlan};
pub use set::{
    Count, Counts, Failing, Role, Scaled, ScaledBy, Scales, Set, Streak, notes, scales_for, steady, with_baselines,
};
pub use word::{Asked, Silence, Word};
