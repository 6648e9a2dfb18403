//! Secrets: the master key, values sealed under data keys, the sealed snapshot of the edge.
//!
//! Architecture invariant: a value in clear leaves this module only as a [`Secret`], and only towards an instance or
//! the edge. The store, events, answers and logs see names, versions and sealed bytes.

mod envelope;
mod key;
mod seal;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod vault;

pub use envelope::Place;
pub(crate) use key::write_private;
pub use key::{KeyError, Keyring};
pub use seal::SealError;
pub(crate) use vault::Keys;
pub use vault::{Vault, VaultError, generate};
