//! An open-loop load generator: requests are sent when they are due, whether or not those before have been answered, and
//! latencies count from when they were due. What a server delays is so not left out because nobody asked meanwhile.
//!
//! The pure part: [`plan`] (what a run is), [`arrivals`] (when which request is due, from a seed), [`tally`] (what became of
//! them), [`verdict`] (which figures may be believed), [`report`] with [`compare`] and [`html`]. The rim: [`Load`], which runs a
//! plan on threads of its own.
//!
//! ```no_run
//! # use bowline_load::{Load, Plan, Target};
//! let mut plan = Plan::new(Target::parse("http://127.0.0.1:8080/")?);
//! plan.duration = std::time::Duration::from_secs(5);
//! let load = Load::start(plan)?;
//! // … do to the server what it must bear …
//! load.stop();
//! let report = load.report()?;
//! assert!(report.valid && report.met, "{:?}", report.failures);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Architecture invariant: no request is ever sent twice. One that a connection gave back unsent goes to another connection.

pub mod arrivals;
mod clock;
pub mod compare;
mod connect;
mod exchange;
mod expected;
pub mod html;
mod payload;
pub mod plan;
pub mod report;
mod run;
pub mod tally;
pub mod upload;
pub mod verdict;
mod worker;

/// What plans are made of.
pub use bowline_core::units::Share;
pub use bytes::Bytes;
pub use http::{HeaderName, Method, StatusCode};

pub use plan::{Expect, Gaps, HeaderExpect, Pace, PerSecond, Plan, Protocol, StatusExpect, Target, Template};
pub use report::Report;
pub use run::{Load, Progress, probe};
