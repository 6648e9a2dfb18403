//! The domain of Bowline, pure.
//!
//! Architecture invariant: no tokio, no I/O, no clock, no randomness and no format crates here. `now` and random
//! numbers are arguments; effects are plain data that the rim carries out.

pub mod access;
pub mod acme;
pub mod app;
pub mod disk;
pub mod fault;
pub mod id;
pub mod instance;
pub mod job;
pub mod log;
pub mod patience;
pub mod readiness;
pub mod release;
pub mod resource;
pub mod rollout;
pub mod route;
pub mod scale;
pub mod secret;
pub mod session;
pub mod source;
pub mod time;
pub mod units;
pub mod upload;
pub mod verdict;
