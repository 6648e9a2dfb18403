//! The client of registries, against real ones and such that no registry should be.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod real;
mod servers;
