//! Autoscaling: how many instances a service is to have, by what comes in and by what its instances use.
//!
//! The rules are those of two that are well proven. By requests in flight: the average of a minute, and the average of six
//! seconds where that asks for twice what is ready (Knative's pod autoscaler, "panic"). By processor time: `ceil(current ·
//! used / target)` with a tolerance of a tenth (the HorizontalPodAutoscaler of Kubernetes). Of several, the largest counts. Up
//! is at once; down is to the largest that was asked for within five minutes, so that noise moves nothing to and fro. A rush asks for at most
//! ten times what is ready, and for more only when that has been ready for a while: a queue is no measure of what is needed.
//!
//! Architecture invariant: what is not known never takes an instance away.

mod machine;
mod policy;
mod report;
mod room;
mod usage;
mod window;

pub use machine::{Demand, Look, May, Scaler, Target, Windows};
pub use policy::{IN_FLIGHT, Policy};
pub use report::{Bound, Report, Signal};
pub use room::{Machine, Room, Taken};

#[cfg(test)]
mod tests;
