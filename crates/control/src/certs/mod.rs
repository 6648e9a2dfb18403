//! Certificates: those of the local CA, made, cached and trusted, and those of an ACME authority.
//!
//! Time is an argument. Keys lie on disk either sealed or, for the roots, in files of mode 0600.

pub(crate) mod acme;
mod authority;
mod cache;
mod error;
mod scope;
#[cfg(test)]
mod tests;
mod trust;

pub(crate) use authority::end;
pub use authority::{Leaf, LocalCa, Root};
pub use cache::CertCache;
pub use error::CertError;
pub use scope::Scope;
pub use trust::{Outcome, Step, SystemStore, TrustPlaces, TrustStatus};
