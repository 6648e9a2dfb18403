//! A cluster of Kubernetes as a place where releases run: objects are applied to it by server-side apply, looked at until they are
//! ready or cannot be, and taken away again when nobody wants them.
//!
//! Architecture invariant: what is decided is decided by functions of values (`look`, `operated`, `leads`, `change`, `lack`, `prune`, `history`, `way`, `held`, `disk`); what asks the
//! server decides nothing.
//! Architecture invariant: no value of a secret is ever read but by who sets one.

pub mod change;
mod cluster;
mod disk;
mod exec;
#[cfg(test)]
mod fake;
mod foresee;
pub mod held;
pub mod history;
mod judge;
pub mod lack;
mod leads;
pub mod look;
mod major;
mod object;
pub mod operated;
mod prune;
mod refusal;
mod replicas;
mod rollout;
pub mod secrets;
mod settle;
mod survey;
mod undo;
mod way;

pub use cluster::{Begun, Cluster, Deletion, How, MANAGER};
pub use exec::{End, Session};
pub use foresee::Plan;
pub use object::{Id, Object, Owner, Stage};
pub use prune::{Prune, prune};
pub use refusal::{Conflict, Refusal};
pub use rollout::{Done, Order, Planned, Rollout, Told, now_ms};
pub use survey::{Found, Wanted, survey};
pub use way::runs_before;
