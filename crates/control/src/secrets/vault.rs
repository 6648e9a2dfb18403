//! The verbs: set, open, list, revoke, generate, rotate.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, SecretName};
use bowline_core::release::SecretVersion;
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use zeroize::Zeroizing;

use super::envelope::Place;
use super::key::{KeyError, Keyring, MasterKey, random};
use super::seal::SealError;
use super::snapshot::{self, SnapshotError};
use crate::certs::CertError;
use crate::store::{SecretRecord, Store, StoreError};

/// Why a verb on secrets failed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Certificates(#[from] CertError),
    #[error("the secret {name} of {key}, version {}, cannot be opened", .version.0)]
    Sealed {
        key: AppKey,
        name: SecretName,
        version: SecretVersion,
        #[source]
        source: SealError,
    },
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            VaultError::Key(error) => error.into(),
            VaultError::Certificates(error) => error.into(),
            VaultError::Snapshot(error) => Self::new(FaultKind::Failed, error.to_string())
                .source(std::error::Error::source(&error).unwrap_or(&SealError::Form)),
            VaultError::Sealed { ref key, ref name, ref source, .. } => {
                Self::new(FaultKind::Failed, error.to_string()).source(source).hint(format!(
                    "set it again with: {}; the versions before stay as they are",
                    key.command("secret set", name.as_str())
                ))
            }
        }
    }
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::Seal(match error {
            SealError::Form => "its form is unknown",
            SealError::Refused => "it was sealed for something else",
            SealError::Random => "the system gives no random numbers",
            SealError::Revoked => "it is revoked",
        })
    }
}

/// 32 random bytes as base64url without padding: 43 characters, safe in URLs, headers and shells.
pub fn generate() -> Result<Secret, KeyError> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bytes = random()?;
    // Sized for the whole, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(44));
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        let sextets = [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
        text.extend(&sextets[..=chunk.len()]);
    }
    Ok(Secret::new(text.as_slice()))
}

/// The keys as they are at each use: a rotation changes them for all that share them.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Arc<RwLock<Keyring>>);

impl Keys {
    #[cfg(test)]
    pub(crate) fn new(keyring: Keyring) -> Self {
        Self(Arc::new(RwLock::new(keyring)))
    }

    pub(crate) fn now(&self) -> Keyring {
        self.held(Keyring::clone)
    }

    /// They stay as they are while this runs.
    pub(crate) fn held<T>(&self, run: impl FnOnce(&Keyring) -> T) -> T {
        run(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody else holds them while this runs.
    pub(crate) fn alone<T>(&self, run: impl FnOnce(&Keyring) -> T) -> T {
        run(&self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The secrets of the store, with the keys to open them. Clones share both.
#[derive(Debug, Clone)]
pub struct Vault {
    store: Store,
    state: PathBuf,
    keyring: Arc<RwLock<Keyring>>,
    /// One rotation at a time: a second one would drop the key that the first still needs.
    rotation: Arc<tokio::sync::Mutex<()>>,
}

impl Vault {
    /// `state` is the folder of `master.key`. Ends a rotation that a crash cut short.
    pub async fn open(state: &Path, keyring: Keyring, store: Store) -> Result<Self, VaultError> {
        let unfinished = keyring.retiring.is_some();
        let keyring = Arc::new(RwLock::new(keyring));
        let vault = Self { store, state: state.to_owned(), keyring, rotation: Arc::default() };
        if unfinished {
            vault.finish_rotation().await?;
        }
        Ok(vault)
    }

    /// The store that holds the sealed values.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The folder of `master.key`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// For what is sealed beside the store, and sealed anew by a rotation.
    pub(crate) fn keys(&self) -> Keys {
        Keys(Arc::clone(&self.keyring))
    }

    /// The keys as they are now: for the edge's snapshot.
    pub fn keyring(&self) -> Keyring {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores a new version.
    pub async fn set(
        &self,
        key: &AppKey,
        name: &SecretName,
        value: Secret,
        now: Timestamp,
        created_by: u32,
    ) -> Result<SecretVersion, VaultError> {
        let (keyring, key, name) = (Arc::clone(&self.keyring), key.clone(), name.clone());
        let stored = self.store.commit(move |tx| {
            // Read by the writer, in the order of its commits: never sealed with a key that is already gone.
            let keyring = keyring.read().unwrap_or_else(PoisonError::into_inner);
            tx.add_secret(&key, &name, now, created_by, |version| {
                Ok(keyring.seal(&Place { key: &key, name: &name, version }, &value)?)
            })
        });
        Ok(stored.await?.version)
    }

    /// The newest valid version, made from random bytes if there is none.
    pub async fn ensure(
        &self,
        key: &AppKey,
        name: &SecretName,
        now: Timestamp,
        created_by: u32,
    ) -> Result<SecretVersion, VaultError> {
        let fresh = generate()?;
        let (keyring, key, name) = (Arc::clone(&self.keyring), key.clone(), name.clone());
        let version = self.store.commit(move |tx| {
            if let Some(known) = tx.newest_secret(&key, &name)? {
                return Ok(known.version);
            }
            let keyring = keyring.read().unwrap_or_else(PoisonError::into_inner);
            let record = tx.add_secret(&key, &name, now, created_by, |version| {
                Ok(keyring.seal(&Place { key: &key, name: &name, version }, &fresh)?)
            })?;
            Ok(record.version)
        });
        Ok(version.await?)
    }

    /// The value of one version. A revoked one never returns.
    pub fn reveal(&self, key: &AppKey, name: &SecretName, version: SecretVersion) -> Result<Secret, VaultError> {
        let record = self.store.read(|view| view.secret(key, name, version))?;
        let record = record.ok_or_else(|| StoreError::NoSecret { key: key.clone(), name: name.clone() })?;
        let keyring = self.keyring.read().unwrap_or_else(PoisonError::into_inner);
        let opened = match &record.value {
            Some(value) => keyring.open(&Place::of(&record), value),
            None => Err(SealError::Revoked),
        };
        let (key, name) = (key.clone(), name.clone());
        opened.map_err(|source| VaultError::Sealed { key, name, version, source })
    }

    /// All versions, without their values in clear.
    pub fn list(&self, key: &AppKey) -> Result<Vec<SecretRecord>, VaultError> {
        Ok(self.store.read(|view| view.secrets(key))?)
    }

    /// Revokes all versions of a secret and wipes their sealed values. Returns how many there were.
    pub async fn revoke(&self, key: &AppKey, name: &SecretName, now: Timestamp) -> Result<u32, VaultError> {
        let (key, name) = (key.clone(), name.clone());
        Ok(self.store.commit(move |tx| tx.revoke_secret(&key, &name, now)).await?)
    }

    /// Replaces the master key: every data key is wrapped anew, values stay as they are. A crash at any point leaves a
    /// key file that opens everything; [`Vault::open`] then ends what was begun.
    pub async fn rotate_master(&self) -> Result<(), VaultError> {
        let _alone = self.rotation.lock().await;
        if self.keyring().retiring.is_some() {
            self.finish_rotation().await?;
        }
        let next = Keyring { current: MasterKey::generate()?, retiring: Some(self.keyring().current) };
        next.write(&self.state)?;
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.finish_rotation().await
    }

    async fn finish_rotation(&self) -> Result<(), VaultError> {
        let keyring = self.keyring();
        let wrapper = keyring.clone();
        self.store
            .rekey(keyring.store_keys(), move |record, wrapped| Ok(wrapper.rewrap(&Place::of(record), wrapped)?))
            .await?;
        match snapshot::open(&self.state, &keyring) {
            Ok(Some(snapshot)) => snapshot::seal(&self.state, &keyring, &snapshot)?,
            Ok(None) => {}
            // It could not be served from before either; the next table replaces it.
            Err(error) => tracing::warn!(%error, "edge snapshot not resealed"),
        }
        crate::certs::acme::reseal(&self.state, &self.keys())?;
        let alone = Keyring { current: keyring.current, retiring: None };
        alone.write(&self.state)?;
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = alone;
        Ok(())
    }
}
