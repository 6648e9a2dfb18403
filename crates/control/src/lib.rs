//! The control room: the reconcile loop, the store, secrets, certificates, the API and the admin port.
//!
//! Architecture invariant: rooms do not know each other. Node and edge are channels of `core` values; a fake is a
//! channel, too.

pub mod certs;
mod config;
mod folder;
mod form;
mod http;
mod jobs;
mod lock;
mod metrics;
pub mod otlp;
mod reconcile;
mod run;
pub mod secrets;
mod snapshot;
mod sources;
mod steps;
pub mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod traffic;

/// What metrics are registered into.
pub use prometheus_client::registry::Registry;

pub use config::{
    Acme, BUILD_TIME, BuildCall, CheckCall, ControlConfig, DataCall, Ended, FeedCall, ForesightCall, Keep, Links,
    LogCall, Mode, Outside, SessionCall,
};
pub use folder::{SecretFileError, init_script, read_procfile, read_secret_file, read_small, read_variables};
pub use http::bind_outer;
pub use lock::lock_after_the_dying;
pub use reconcile::credentials::{CredentialsError, Salt, UsersError, credentials};
pub use run::run;
