//! What is kept of an authority: the account, what was ordered, and what was issued, sealed in the state folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bowline_core::acme::{Ledger, Tries};
use bowline_core::app::HostName;
use bowline_core::id;
use bowline_core::route::Certificate;
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::certs::{CertError, Leaf};
use crate::secrets::{Keyring, write_private};

/// Longer files are not read. A chain and a key take about 6 KiB, a ledger of 250 orders 4.
const LIMIT: u64 = 1 << 20;

const LEDGER: &str = "ledger";
const ACCOUNT: &str = "account";

/// The folder of one authority in a state folder: another directory is another account with certificates of its own, and none of a
/// rehearsal is taken for a real one.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    dir: PathBuf,
    keyring: Keyring,
}

/// What the daemon before has left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    pub(crate) ledger: Ledger,
    pub(crate) leaves: BTreeMap<HostName, Leaf>,
}

impl Keep {
    /// `directory`: the authority's URL.
    pub(crate) fn new(state: &Path, keyring: Keyring, directory: &str) -> Self {
        let name = id::Digest(Sha256::digest(directory).into());
        Self { dir: state.join("certs/acme").join(name.short()), keyring }
    }

    /// What does not open is left out, and said: it is ordered anew.
    pub(crate) fn load(&self) -> Kept {
        let names = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(SUFFIX)?.to_owned()));
        let mut kept = Kept::default();
        for name in names.filter(|name| name != ACCOUNT) {
            let found = match name == LEDGER {
                true => self.read::<LedgerForm>(&name).map(|form| kept.ledger = form.into()),
                false => self.read::<LeafForm>(&name).map(|form| kept.leaves.extend(form.parse())),
            };
            if found.is_none() {
                tracing::warn!(file = %self.path(&name).display(), "what was kept of an authority does not open");
            }
        }
        kept
    }

    pub(crate) fn note(&self, ledger: &Ledger) -> Result<(), CertError> {
        self.write(LEDGER, &LedgerForm::from(ledger))
    }

    pub(crate) fn leaf(&self, host: &HostName, leaf: &Leaf) -> Result<(), CertError> {
        self.write(&of(host), &LeafForm::from(host, leaf))
    }

    /// What cannot be removed is read again by the next daemon, and does no harm.
    pub(crate) fn forget(&self, host: &HostName) {
        drop(std::fs::remove_file(self.path(&of(host))));
    }

    pub(super) fn account<T: DeserializeOwned>(&self) -> Option<T> {
        self.read(ACCOUNT)
    }

    pub(super) fn write_account(&self, account: &impl Serialize) -> Result<(), CertError> {
        self.write(ACCOUNT, account)
    }

    pub(super) fn forget_account(&self) {
        drop(std::fs::remove_file(self.path(ACCOUNT)));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.path(name);
        let length = std::fs::metadata(&path).ok()?.len();
        let sealed = (length <= LIMIT).then(|| std::fs::read(&path).ok()).flatten()?;
        let clear = self.keyring.open_bytes(PURPOSE, &[self.bound().as_bytes(), name.as_bytes()], &sealed).ok()?;
        serde_json::from_slice(&clear).ok()
    }

    fn write(&self, name: &str, what: &impl Serialize) -> Result<(), CertError> {
        let clear =
            Zeroizing::new(serde_json::to_vec(what).expect("forms have string keys and no failing serialisers"));
        let sealed = self.keyring.seal_bytes(PURPOSE, &[self.bound().as_bytes(), name.as_bytes()], &clear);
        let sealed = sealed.map_err(CertError::Seal)?;
        std::fs::create_dir_all(&self.dir).map_err(CertError::io("create", &self.dir))?;
        let path = self.path(name);
        write_private(&path, &sealed).map_err(CertError::io("write", &path))
    }

    /// A file of one authority's folder opens in no other.
    fn bound(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

const SUFFIX: &str = ".sealed";
const PURPOSE: &str = "acme";

/// A host may be longer than the name of a file.
fn of(host: &HostName) -> String {
    id::Digest(Sha256::digest(host.as_str()).into()).to_string()
}

#[derive(Serialize, Deserialize)]
struct LedgerForm {
    orders: Vec<u64>,
    paused: u64,
    names: BTreeMap<String, TriesForm>,
}

#[derive(Serialize, Deserialize)]
struct TriesForm {
    count: u32,
    last: u64,
    next: u64,
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct LeafForm {
    host: String,
    not_before: u64,
    not_after: u64,
    chain: String,
    key: Zeroizing<String>,
}

impl From<&Ledger> for LedgerForm {
    fn from(ledger: &Ledger) -> Self {
        let names = ledger.names.iter().map(|(host, tries)| {
            let Tries { count, last, next, reason } = tries.clone();
            (host.to_string(), TriesForm { count, last: last.0, next: next.0, reason })
        });
        let orders = ledger.orders.iter().map(|at| at.0).collect();
        Self { orders, paused: ledger.paused.0, names: names.collect() }
    }
}

impl From<LedgerForm> for Ledger {
    fn from(form: LedgerForm) -> Self {
        let names = form.names.into_iter().filter_map(|(host, tries)| {
            let TriesForm { count, last, next, reason } = tries;
            let tries = Tries { count, last: Timestamp(last), next: Timestamp(next), reason };
            Some((HostName::new(&host).ok()?, tries))
        });
        let orders = form.orders.into_iter().map(Timestamp).collect();
        Self { orders, paused: Timestamp(form.paused), names: names.collect() }
    }
}

impl LeafForm {
    fn from(host: &HostName, leaf: &Leaf) -> Self {
        Self {
            host: host.to_string(),
            not_before: leaf.not_before.0,
            not_after: leaf.not_after.0,
            chain: leaf.certificate.chain.clone(),
            key: Zeroizing::new(String::from_utf8_lossy(leaf.certificate.key.expose()).into_owned()),
        }
    }

    fn parse(self) -> Option<(HostName, Leaf)> {
        let certificate = Certificate { chain: self.chain, key: Secret::new(self.key.as_bytes()) };
        let (not_before, not_after) = (Timestamp(self.not_before), Timestamp(self.not_after));
        Some((HostName::new(&self.host).ok()?, Leaf { certificate, not_before, not_after }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_sealed_and_found_again_by_the_same_authority_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open_or_create(dir.path()).unwrap();
        let keep = |directory: &str| Keep::new(dir.path(), keyring.clone(), directory);
        let host = HostName::new("shop.example.com").unwrap();
        let certificate = Certificate { chain: "a chain".to_owned(), key: Secret::new("hunter2") };
        let leaf = Leaf { certificate, not_before: Timestamp(1), not_after: Timestamp(2) };
        let tries = Tries { count: 2, last: Timestamp(3), next: Timestamp(4), reason: Some("no".to_owned()) };
        let ledger = Ledger {
            orders: vec![Timestamp(1), Timestamp(3)],
            paused: Timestamp(5),
            names: BTreeMap::from([(host.clone(), tries)]),
        };
        let first = keep("https://a.test/directory");
        assert_eq!(first.load(), Kept::default());
        first.note(&ledger).unwrap();
        first.leaf(&host, &leaf).unwrap();
        first.write_account(&"an account").unwrap();
        let kept = Kept { ledger, leaves: BTreeMap::from([(host.clone(), leaf)]) };
        assert_eq!(first.load(), kept);
        assert_eq!(first.account::<String>().as_deref(), Some("an account"));
        let second = keep("https://b.test/directory");
        assert_eq!(second.load(), Kept::default());
        for entry in std::fs::read_dir(&first.dir).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(7).any(|w| w == b"hunter2") && !bytes.windows(7).any(|w| w == b"example"));
            std::fs::create_dir_all(&second.dir).unwrap();
            std::fs::copy(&path, second.dir.join(path.file_name().unwrap())).unwrap();
        }
        assert_eq!(second.load(), Kept::default(), "it opens in its own folder alone");
        first.forget(&host);
        assert_eq!(first.load().leaves, BTreeMap::new());
    }
}
