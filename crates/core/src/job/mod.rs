//! Jobs: commands that run once and end, on a schedule, on demand, or before a release.
//!
//! A run is one instance of a release under a service name that no file can spell ([`Task::service`]); its number is the
//! instance's incarnation. The driver starts an incarnation once and never again, adopts it after a crash, and cages it like
//! any other. [`Jobs`] decides what runs when; the store knows of every run before it starts.

mod clock;
mod machine;
mod run;
mod schedule;

pub use machine::{Counted, Effect, Input, Jobs, Kept, KeptRun, Moment, Start, Stored, Wanted, World};
pub use run::{Ended, Finished, Outcome, Run, RunId, Stage, Task, TaskError, TaskKey, Trigger};
