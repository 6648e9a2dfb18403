//! The embedded edge: Bowline's own proxy, its own process.
//!
//! A request reads as a list: [`listen`] → [`proxy`] → [`tls`] → gate ([`h1`]) → [`route`] → [`policy`] → [`balance`] →
//! [`forward`] → [`record`]. Each worker is one thread with one runtime and owns its pools, buffers and counters, so
//! that no lock is taken and nothing is awaited but the network; only requests to the daemon's API share [`places`], and what may wait for a disk
//! goes to threads of [`disk`]. The
//! daemon's half is [`link`]; what the two say to each other is [`wire`].
//!
//! Architecture invariant: the edge has no store and makes no choice that outlives it; it serves the last table it
//! was given, whether or not a daemon is there.

mod answer;
mod balance;
mod by_name;
mod client;
mod control;
mod deadline;
mod disk;
mod encoding;
mod files;
mod forward;
mod grpc;
pub mod h1;
mod h2c;
mod hold;
pub mod link;
mod listen;
mod outliers;
mod places;
mod policy;
mod process;
mod proxy;
mod record;
mod request;
mod route;
mod sticky;
mod stream;
mod tls;
mod trace;
mod tunnel;
mod upstream;

/// The reader of PROXY headers by itself, for whoever tests it against bytes.
pub mod proxy_header {
    pub use crate::proxy::{BadHeader, Source, Step, belonging, step};
}

/// What is answered to a ClientHello by itself, likewise.
pub mod client_hello {
    pub use crate::tls::Tls;
}

pub mod wire;
mod worker;

pub use process::{EdgeArgs, EdgeError, Limits, run};
pub use tls::{TlsError, check as check_certificate};
