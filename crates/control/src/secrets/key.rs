//! The master key and its file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::store::{ChecksumKey, Keys};

const MAGIC: &[u8; 8] = b"BOWLKEY1";
const KEY: usize = 32;
const HASH: usize = 32;

/// Why there is no master key to work with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the master key is missing: {path}, but {witness} was written with it")]
    Missing { path: PathBuf, witness: PathBuf },
    #[error("the master key is not kept to its owner: {path} has mode {mode:04o}")]
    Mode { path: PathBuf, mode: u32 },
    #[error("the master key belongs to another user: {path} to uid {owner}, this process runs as uid {user}")]
    Owner { path: PathBuf, owner: u32, user: u32 },
    #[error("the master key is damaged: {path}: {what}")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("cannot {what} the master key {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

impl KeyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } => Some(
                "restore it from the backup of the state folder; no new one is made in its place, because secrets \
                 sealed with the old one could then never be opened"
                    .to_owned(),
            ),
            Self::Mode { path, .. } => {
                Some(format!("see who could have read it, then: chmod 0600 {}; if in doubt, rotate it", path.display()))
            }
            Self::Owner { path, owner, user } => {
                Some(format!("run as uid {owner}, or, if the file is yours: chown {user} {}", path.display()))
            }
            Self::Io { .. } | Self::Random(_) => None,
        }
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        let kind = match &error {
            KeyError::Mode { .. } | KeyError::Owner { .. } => FaultKind::Refused,
            KeyError::Missing { .. } | KeyError::Damaged { .. } | KeyError::Io { .. } | KeyError::Random(_) => {
                FaultKind::Failed
            }
        };
        let mut fault = Self::new(kind, error.to_string());
        if let Some(cause) = std::error::Error::source(&error) {
            fault = fault.source(cause);
        }
        match error.hint() {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// 32 random bytes. Nothing is encrypted with them directly: each use has a key derived from them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct MasterKey(Zeroizing<[u8; KEY]>);

impl MasterKey {
    pub(super) fn generate() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// A key for one use (HKDF-Expand of RFC 5869, one block; the master key is uniformly random).
    pub(super) fn derive(&self, label: &str) -> Zeroizing<[u8; KEY]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes a key of any length");
        mac.update(b"bowline ");
        mac.update(label.as_bytes());
        mac.update(&[1]);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

/// 32 bytes from the system's generator.
pub(super) fn random() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(KeyError::Random)?;
    Ok(bytes)
}

/// The master key, and while it is rotated the one before.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    pub(super) current: MasterKey,
    pub(super) retiring: Option<MasterKey>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(…)")
    }
}

impl Keyring {
    /// Reads `master.key` in the state folder, or makes it where nothing was written with one yet.
    pub fn open_or_create(state: &Path) -> Result<Self, KeyError> {
        let path = path(state);
        match File::open(&path) {
            Ok(file) => Self::read(file, &path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::create(state),
            Err(source) => Err(KeyError::Io { what: "open", path, source }),
        }
    }

    /// The keys of the store's checksums.
    pub fn store_keys(&self) -> Keys {
        let key = |master: &MasterKey| ChecksumKey::new(master.derive("store checksum"));
        Keys { current: key(&self.current), retiring: self.retiring.as_ref().map(key) }
    }

    fn create(state: &Path) -> Result<Self, KeyError> {
        let path = path(state);
        for name in ["store.db", "store.db-wal", "store.head", "edge.snapshot"] {
            let witness = state.join(name);
            if witness.exists() {
                return Err(KeyError::Missing { path, witness });
            }
        }
        let keyring = Self { current: MasterKey::generate()?, retiring: None };
        keyring.write(state)?;
        Ok(keyring)
    }

    fn read(file: File, path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io { what: "read", path: path.to_owned(), source };
        let meta = file.metadata().map_err(failed)?;
        let user = nix::unistd::geteuid().as_raw();
        if meta.uid() != user {
            return Err(KeyError::Owner { path: path.to_owned(), owner: meta.uid(), user });
        }
        if meta.mode() & 0o077 != 0 {
            return Err(KeyError::Mode { path: path.to_owned(), mode: meta.mode() & 0o7777 });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAGIC.len() + 2 * KEY + HASH));
        // One byte more than the longest: a file that is too long is seen, and never read whole.
        (&file).take((MAGIC.len() + 2 * KEY + HASH + 1) as u64).read_to_end(&mut bytes).map_err(failed)?;
        Self::decode(&bytes).map_err(|what| KeyError::Damaged { path: path.to_owned(), what })
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let keys = bytes.strip_prefix(MAGIC).ok_or("it does not start as a master key does")?;
        let (keys, hash) = keys.split_at_checked(keys.len().saturating_sub(HASH)).ok_or("it is too short")?;
        let body = &bytes[..bytes.len() - HASH.min(bytes.len())];
        let key = |bytes: &[u8]| -> Option<MasterKey> { Some(MasterKey(Zeroizing::new(bytes.try_into().ok()?))) };
        let (current, retiring) = match keys.len() {
            KEY => (key(keys), None),
            n if n == 2 * KEY => (key(&keys[..KEY]), key(&keys[KEY..])),
            _ => return Err("its length is wrong"),
        };
        if Sha256::digest(body)[..] != *hash {
            return Err("its checksum is wrong");
        }
        Ok(Self { current: current.ok_or("its length is wrong")?, retiring })
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAGIC.len() + 2 * KEY + HASH));
        bytes.extend(MAGIC);
        std::iter::once(&self.current).chain(&self.retiring).for_each(|key| bytes.extend(key.0.as_slice()));
        let hash = Sha256::digest(&bytes);
        bytes.extend(hash);
        bytes
    }

    /// Replaces the file whole: old or new after a crash, never a part.
    pub(super) fn write(&self, state: &Path) -> Result<(), KeyError> {
        let path = path(state);
        write_private(&path, &self.encode()).map_err(|source| KeyError::Io { what: "write", path, source })
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("master.key")
}

/// Writes a file of mode 0600, atomically and durably.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    // One left by a crash may have another mode; `create_new` is what sets it.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn state() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        (dir, path)
    }

    #[test]
    fn a_key_is_made_once_and_kept_to_its_owner() {
        let (dir, path) = state();
        let made = Keyring::open_or_create(dir.path()).unwrap();
        assert!(Keyring::open_or_create(dir.path()).unwrap() == made);
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(path.metadata().unwrap().len(), 72);
        assert!(made != Keyring::open_or_create(state().0.path()).unwrap(), "random");
    }

    #[test]
    fn no_new_key_is_made_where_an_old_one_was_used() {
        for name in ["store.db", "store.head", "edge.snapshot"] {
            let (dir, path) = state();
            std::fs::write(dir.path().join(name), "").unwrap();
            assert!(matches!(Keyring::open_or_create(dir.path()), Err(KeyError::Missing { .. })), "{name}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (dir, path) = state();
        Keyring::open_or_create(dir.path()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Keyring::open_or_create(dir.path()), Err(KeyError::Mode { mode: 0o640, .. })));
    }

    #[test]
    fn a_key_of_another_user_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return; // Only root can give a file away.
        }
        let (dir, path) = state();
        Keyring::open_or_create(dir.path()).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(matches!(Keyring::open_or_create(dir.path()), Err(KeyError::Owner { owner: 12_345, .. })));
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_noticed() {
        let (dir, _) = state();
        let mut ring = Keyring::open_or_create(dir.path()).unwrap();
        for retiring in [None, Some(MasterKey::generate().unwrap())] {
            ring.retiring = retiring;
            let bytes = ring.encode();
            assert!(Keyring::decode(&bytes).unwrap() == ring);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Keyring::decode(&flipped).is_err(), "bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(Keyring::decode(&bytes[..length]).is_err(), "length {length}");
            }
            assert!(Keyring::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn keys_of_different_uses_differ() {
        let key = MasterKey::generate().unwrap();
        assert_ne!(*key.derive("a"), *key.derive("b"));
        assert_ne!(*key.derive("a"), *key.0);
    }
}
