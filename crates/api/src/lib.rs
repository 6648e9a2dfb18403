//! The API of the daemon: versioned wire types and the client.
//!
//! Wire types are apart from the domain's own: a change there does not change what clients read. A field is only
//! ever added within a version; a reader ignores what it does not know.

mod absence;
mod bound;
mod client;
mod dial;
mod https;
pub mod openapi;
mod patience;
pub mod session;
mod upload;
pub mod wire;

pub use absence::{Awaited, Reached};
pub use client::{Client, ClientError, Lines, NOT_BEGUN};
pub use dial::Dialer;
pub use https::{Https, HttpsError, MAX_TOKEN, trust};
