//! Issued certificates, sealed in the state folder, so that a restart neither issues anew nor shows clients another.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::app::HostName;
use bowline_core::id;
use bowline_core::route::{Certificate, Certificates};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::authority::{Leaf, LocalCa, Root, names};
use super::error::CertError;
use crate::secrets::{Keyring, write_private};

/// Longer files are not read. A chain and a key take about 2 KiB.
const LIMIT: u64 = 1 << 20;

const SUFFIX: &str = ".sealed";

/// The folder `certs` of a state folder.
#[derive(Debug, Clone)]
pub struct CertCache {
    dir: PathBuf,
}

impl CertCache {
    pub fn new(state: &Path) -> Self {
        Self { dir: state.join("certs") }
    }

    /// The certificate for these hosts: the one issued before while it is good, else a new one. `renew_at` of the
    /// answer says when to ask again. A file that does not open is no error: it is issued anew.
    pub fn certificate(
        &self,
        ca: &LocalCa,
        keyring: &Keyring,
        hosts: &[HostName],
        now: Timestamp,
    ) -> Result<Leaf, CertError> {
        let root = ca.root_for(hosts, now)?;
        let name = name(&root, hosts);
        let path = self.dir.join(format!("{name}{SUFFIX}"));
        match self.read(&path, keyring, &name) {
            // Before its time: the clock went back; a new one would only be refused by others later.
            Some(leaf) if now < leaf.renew_at() && now >= leaf.not_before => return Ok(leaf),
            Some(_) | None => {}
        }
        let leaf = ca.issue(hosts, now)?;
        self.write(&path, keyring, &name, &leaf)?;
        tracing::info!(hosts = ?hosts, not_after = leaf.not_after.0, "certificate issued");
        Ok(leaf)
    }

    /// Hosts whose certificate is this CA's: of those that were `served` last; where that is not known, of those that were issued here and are
    /// good still, but for addresses, for which nobody else signs.
    pub(crate) fn hosts(
        &self,
        ca: &LocalCa,
        keyring: &Keyring,
        served: Option<&Certificates>,
        now: Timestamp,
    ) -> BTreeSet<HostName> {
        match served {
            Some(served) => ca.signed(served),
            None => ca.signed(&self.issued(keyring, now)),
        }
    }

    fn issued(&self, keyring: &Keyring, now: Timestamp) -> Certificates {
        let paths = std::fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let leaf = |path: PathBuf| {
            let name: id::Digest = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok()?;
            self.read(&path, keyring, &name).filter(|leaf| leaf.not_after > now)
        };
        let named =
            |leaf: Leaf| names(&leaf.certificate).into_iter().map(move |host| (host, Arc::clone(&leaf.certificate)));
        paths.filter_map(leaf).flat_map(named).collect()
    }

    fn read(&self, path: &Path, keyring: &Keyring, name: &id::Digest) -> Option<Leaf> {
        let length = std::fs::metadata(path).ok()?.len();
        let sealed = (length <= LIMIT).then(|| std::fs::read(path).ok()).flatten()?;
        let clear = keyring.open_bytes("certificate", &[&name.0], &sealed);
        let clear = clear.inspect_err(|error| tracing::warn!(%error, path = %path.display(), "certificate not reused"));
        decode(&clear.ok()?)
    }

    fn write(&self, path: &Path, keyring: &Keyring, name: &id::Digest, leaf: &Leaf) -> Result<(), CertError> {
        let sealed = keyring.seal_bytes("certificate", &[&name.0], &encode(leaf)).map_err(CertError::Seal)?;
        std::fs::create_dir_all(&self.dir).map_err(CertError::io("create", &self.dir))?;
        write_private(path, &sealed).map_err(CertError::io("write", path))
    }
}

/// Both times, the length of the chain, the chain, the key.
fn encode(leaf: &Leaf) -> Zeroizing<Vec<u8>> {
    let (chain, key) = (leaf.certificate.chain.as_bytes(), leaf.certificate.key.expose());
    // Sized for the whole, so that no copy of the key is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(24 + chain.len() + key.len()));
    bytes.extend(leaf.not_before.0.to_be_bytes());
    bytes.extend(leaf.not_after.0.to_be_bytes());
    bytes.extend((chain.len() as u64).to_be_bytes());
    bytes.extend(chain);
    bytes.extend(key);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Leaf> {
    let (numbers, rest) = bytes.split_first_chunk::<24>()?;
    let number = |at: usize| Some(u64::from_be_bytes(numbers.get(at..at + 8)?.try_into().ok()?));
    let (chain, key) = rest.split_at_checked(usize::try_from(number(16)?).ok()?)?;
    let certificate = Certificate { chain: String::from_utf8(chain.to_vec()).ok()?, key: Secret::new(key) };
    let certificate = Arc::new(certificate);
    Some(Leaf { certificate, not_before: Timestamp(number(0)?), not_after: Timestamp(number(8)?) })
}

/// Of the root and the set of hosts: another root or set is another certificate.
fn name(root: &Root, hosts: &[HostName]) -> id::Digest {
    let mut hosts: Vec<_> = hosts.iter().map(HostName::as_str).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut hash = Sha256::new();
    hash.update(root.fingerprint.0);
    hosts.iter().for_each(|host| {
        hash.update([u8::try_from(host.len()).expect("a host name has at most 253 characters")]);
        hash.update(host);
    });
    id::Digest(hash.finalize().into())
}
