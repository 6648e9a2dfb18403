//! `edge.snapshot`: what the edge served last, sealed, so that it can serve again before the store is open.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bowline_core::id::Generation;
use zeroize::Zeroizing;

use super::key::{Keyring, write_private};
use super::seal::{self, SealError, binding};

const MAGIC: &[u8; 8] = b"BOWLSNAP";
const HEADER: usize = 8 + 4 + 8;

/// A longer file is not read. A thousand routes with certificates take about 4 MiB.
const LIMIT: u64 = 256 << 20;

/// The edge's table and certificates as their owner encodes them. Holds TLS keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Version of the encoding.
    pub version: u32,
    pub generation: Generation,
    pub payload: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({}, {} bytes)", self.generation, self.payload.len())
    }
}

/// Why there is no snapshot to serve from.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{0} is not a snapshot")]
    Form(PathBuf),
    #[error("{path} cannot be opened")]
    Sealed {
        path: PathBuf,
        #[source]
        source: SealError,
    },
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Replaces the file: whole, durable, mode 0600.
pub fn seal(state: &Path, keyring: &Keyring, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let path = path(state);
    let header = header(snapshot.version, snapshot.generation);
    let key = keyring.current.derive("edge snapshot");
    let sealed = seal::seal(&key, &binding("edge snapshot", &[&header]), &snapshot.payload)
        .map_err(|source| SnapshotError::Sealed { path: path.clone(), source })?;
    write_private(&path, &[&header[..], &sealed].concat()).map_err(|source| SnapshotError::Io {
        what: "write",
        path,
        source,
    })
}

/// The last snapshot; `None` if none was ever written.
pub fn open(state: &Path, keyring: &Keyring) -> Result<Option<Snapshot>, SnapshotError> {
    let path = path(state);
    let mut bytes = Vec::new();
    match std::fs::File::open(&path).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SnapshotError::Io { what: "read", path, source }),
    }
    let Some((header, sealed)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(SnapshotError::Form(path));
    };
    let Some((version, generation)) = read_header(header) else { return Err(SnapshotError::Form(path)) };
    let bound_to = binding("edge snapshot", &[header]);
    let attempt = |key: &super::key::MasterKey| seal::open(&key.derive("edge snapshot"), &bound_to, sealed);
    let payload = match (attempt(&keyring.current), &keyring.retiring) {
        (Err(SealError::Refused), Some(retiring)) => attempt(retiring),
        (result, _) => result,
    };
    let payload = payload.map_err(|source| SnapshotError::Sealed { path, source })?;
    Ok(Some(Snapshot { version, generation, payload }))
}

fn path(state: &Path) -> PathBuf {
    state.join("edge.snapshot")
}

fn header(version: u32, generation: Generation) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&version.to_be_bytes());
    header[12..].copy_from_slice(&generation.0.to_be_bytes());
    header
}

fn read_header(header: &[u8; HEADER]) -> Option<(u32, Generation)> {
    let rest = header.strip_prefix(MAGIC)?;
    let (version, generation) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*version), Generation(u64::from_be_bytes(generation.try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_back_and_every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open_or_create(dir.path()).unwrap();
        assert_eq!(open(dir.path(), &keyring).unwrap(), None);
        let payload = Zeroizing::new(b"PRIVATE KEY of example".to_vec());
        let snapshot = Snapshot { version: 3, generation: Generation(77), payload };
        seal(dir.path(), &keyring, &snapshot).unwrap();
        assert_eq!(open(dir.path(), &keyring).unwrap(), Some(snapshot));

        let file = dir.path().join("edge.snapshot");
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(11).any(|w| w == b"PRIVATE KEY"));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&file, &flipped).unwrap();
            assert!(open(dir.path(), &keyring).is_err(), "byte {at}");
            std::fs::write(&file, &bytes[..at]).unwrap();
            assert!(open(dir.path(), &keyring).is_err(), "cut at {at}");
        }
    }
}
