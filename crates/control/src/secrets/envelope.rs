//! A secret's value under a data key of its own, the data key under the master key.

use bowline_core::id::{AppKey, SecretName};
use bowline_core::release::SecretVersion;
use bowline_core::secret::Secret;

use super::key::{Keyring, MasterKey, random};
use super::seal::{self, SealError, binding};
use crate::store::{SealedValue, SecretRecord};

/// Where a value belongs. It opens nowhere else: not in another environment, app, name or version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub key: &'a AppKey,
    pub name: &'a SecretName,
    pub version: SecretVersion,
}

impl<'a> Place<'a> {
    pub fn of(record: &'a SecretRecord) -> Self {
        Self { key: &record.key, name: &record.name, version: record.version }
    }

    fn binding(&self, purpose: &str) -> Vec<u8> {
        let Self { key, name, version } = self;
        let (app, env, name) = (key.app.as_str(), key.env.as_str(), name.as_str());
        binding(purpose, &[app.as_bytes(), env.as_bytes(), name.as_bytes(), &version.0.to_be_bytes()])
    }

    fn wrap(&self, master: &MasterKey, data_key: &[u8]) -> Result<Vec<u8>, SealError> {
        seal::seal(&master.derive("data keys"), &self.binding("data key"), data_key)
    }

    fn unwrap(&self, master: &MasterKey, wrapped: &[u8]) -> Result<zeroize::Zeroizing<[u8; 32]>, SealError> {
        let clear = seal::open(&master.derive("data keys"), &self.binding("data key"), wrapped)?;
        let key = <[u8; 32]>::try_from(clear.as_slice()).map_err(|_| SealError::Form)?;
        Ok(zeroize::Zeroizing::new(key))
    }
}

impl Keyring {
    pub fn seal(&self, place: &Place<'_>, value: &Secret) -> Result<SealedValue, SealError> {
        let data_key = random()?;
        Ok(SealedValue {
            sealed: seal::seal(&data_key, &place.binding("secret"), value.expose())?,
            wrapped_key: place.wrap(&self.current, data_key.as_slice())?,
        })
    }

    pub fn open(&self, place: &Place<'_>, value: &SealedValue) -> Result<Secret, SealError> {
        let data_key = self.data_key(place, &value.wrapped_key)?;
        let clear = seal::open(&data_key, &place.binding("secret"), &value.sealed)?;
        Ok(Secret::new(clear.as_slice()))
    }

    /// Seals what is no secret of an app: a certificate's key.
    pub(crate) fn seal_bytes(&self, purpose: &str, parts: &[&[u8]], clear: &[u8]) -> Result<Vec<u8>, SealError> {
        seal::seal(&self.current.derive(purpose), &binding(purpose, parts), clear)
    }

    pub(crate) fn open_bytes(
        &self,
        purpose: &str,
        parts: &[&[u8]],
        sealed: &[u8],
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, SealError> {
        let open = |master: &MasterKey| seal::open(&master.derive(purpose), &binding(purpose, parts), sealed);
        match (open(&self.current), &self.retiring) {
            (Err(SealError::Refused), Some(retiring)) => open(retiring),
            (result, _) => result,
        }
    }

    /// The data key under the current master key instead of the retiring one.
    pub(super) fn rewrap(&self, place: &Place<'_>, wrapped: &[u8]) -> Result<Vec<u8>, SealError> {
        let data_key = self.data_key(place, wrapped)?;
        place.wrap(&self.current, data_key.as_slice())
    }

    fn data_key(&self, place: &Place<'_>, wrapped: &[u8]) -> Result<zeroize::Zeroizing<[u8; 32]>, SealError> {
        match (place.unwrap(&self.current, wrapped), &self.retiring) {
            (Err(SealError::Refused), Some(retiring)) => place.unwrap(retiring, wrapped),
            (result, _) => result,
        }
    }
}
