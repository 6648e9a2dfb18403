//! Rollouts: how one release takes the place of another.

mod machine;
mod phase;
mod plan;
mod set;

pub use machine::{Entered, Input, MAX_CRASHES, MAX_NOT_READY, Rollout, Waiting};
pub use phase::{AbortStage, Phase, PhaseError};
pub use plan::{Plan, Presence, Replicas, StepPlan, Until};
pub use set::{Count, Counts, Failing, Role, Set, steady};
