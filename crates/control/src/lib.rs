//! The control room: the reconcile loop, the store, secrets, certificates, the API and the admin port.
//!
//! Architecture invariant: rooms do not know each other. Node and edge are channels of `core` values; a fake is a
//! channel, too.

mod apply;
pub mod certs;
mod change;
mod config;
mod degraded;
mod dotenv;
mod effects;
mod events;
mod form;
mod http;
mod jobs;
mod load;
mod metrics;
mod pending;
mod publish;
mod reading;
mod reconcile;
mod release;
mod request;
mod rollout;
mod run;
mod secret_verbs;
pub mod secrets;
mod small_file;
mod snapshot;
mod status;
mod stop;
pub mod store;
#[cfg(test)]
mod tests;
mod world;

/// What metrics are registered into.
pub use prometheus_client::registry::Registry;

pub use config::{BuildCall, ControlConfig, Ended, Links, LogCall, Mode};
pub use run::run;
pub use small_file::read_small;
