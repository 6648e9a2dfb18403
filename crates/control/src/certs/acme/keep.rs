//! What is kept of an authority: the account, what was ordered, and what was issued, sealed in the state folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::acme::{Ledger, Tries};
use bowline_core::app::HostName;
use bowline_core::id;
use bowline_core::route::{Certificate, Certificates};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::trouble;
use crate::certs::{CertError, Leaf};
use crate::secrets::{Keys, write_private};

/// Longer files are neither read nor written. A chain and a key take about 6 KiB. Of a ledger with all the names that it may have, each with
/// the longest reason, it takes most.
const LIMIT: u64 = 1 << 20;

const LEDGER: &str = "ledger";
const ACCOUNT: &str = "account";

/// The folder of one authority in a state folder: another directory is another account with certificates of its own, and none of a
/// rehearsal is taken for a real one.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    dir: PathBuf,
    keys: Keys,
}

/// What the daemon before has left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    pub(crate) ledger: Ledger,
    pub(crate) leaves: BTreeMap<HostName, Leaf>,
    /// There is a ledger, and it does not open.
    pub(crate) lost: bool,
}

impl Keep {
    /// `directory`: the authority's URL.
    pub(crate) fn new(state: &Path, keys: Keys, directory: &str) -> Self {
        let name = id::Digest(Sha256::digest(directory).into());
        Self { dir: state.join(FOLDER).join(name.short()), keys }
    }

    /// What does not open is left out, and said: certificates are ordered anew.
    pub(crate) fn load(&self) -> Kept {
        let names = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(SUFFIX)?.to_owned()));
        let mut kept = Kept::default();
        for name in names.filter(|name| name != ACCOUNT) {
            let found = match name == LEDGER {
                true => self.read::<LedgerForm>(&name).map(|form| kept.ledger = form.into()),
                false => self.read::<LeafForm>(&name).map(|form| kept.leaves.extend(form.parse())),
            };
            kept.lost |= name == LEDGER && found.is_none();
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

    /// The certificate that was kept last.
    pub(super) fn last(&self, host: &HostName) -> Option<Leaf> {
        self.read::<LeafForm>(&of(host))?.parse().map(|(_, leaf)| leaf)
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
        let sealed = sealed(&self.path(name))?;
        let clear = self.keys.now().open_bytes(PURPOSE, &[self.bound().as_bytes(), name.as_bytes()], &sealed).ok()?;
        serde_json::from_slice(&clear).ok()
    }

    fn write(&self, name: &str, what: &impl Serialize) -> Result<(), CertError> {
        let clear =
            Zeroizing::new(serde_json::to_vec(what).expect("forms have string keys and no failing serialisers"));
        let path = self.path(name);
        // What is written with a key that goes would not be found by whoever seals anew with the next.
        self.keys.held(|keyring| {
            let sealed = keyring.seal_bytes(PURPOSE, &[self.bound().as_bytes(), name.as_bytes()], &clear);
            let sealed = sealed.map_err(CertError::Seal)?;
            if u64::try_from(sealed.len()).is_ok_and(|length| length > LIMIT) {
                return Err(CertError::TooLong { path: path.clone(), limit: LIMIT });
            }
            std::fs::create_dir_all(&self.dir).map_err(CertError::io("create", &self.dir))?;
            write_private(&path, &sealed).map_err(CertError::io("write", &path))
        })
    }

    fn bound(&self) -> &str {
        bound(&self.dir)
    }
}

/// What authorities have signed and is good still, for a daemon that asks none any more. Where something else was `served` last, that goes on;
/// where that is not known and several have signed for a host, the one counts that ends last.
pub(crate) fn left(
    state: &Path,
    keys: &Keys,
    served: Option<&Certificates>,
    now: Timestamp,
) -> BTreeMap<HostName, Leaf> {
    let mut left: BTreeMap<HostName, Leaf> = BTreeMap::new();
    for dir in entries(&state.join(FOLDER)) {
        let kept = Keep { dir, keys: keys.clone() }.load();
        for (host, leaf) in kept.leaves.into_iter().filter(|(_, leaf)| leaf.not_after > now) {
            let last = served.and_then(|served| served.get(&host));
            let is_served = last.is_none_or(|last| *last == leaf.certificate);
            let is_later = left.get(&host).is_none_or(|known| known.not_after < leaf.not_after);
            if is_served && is_later {
                left.insert(host, leaf);
            }
        }
    }
    left
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Seals all that is kept of all authorities with the key of now. What does not open stays as it is: it did not open before either.
pub(crate) fn reseal(state: &Path, keys: &Keys) -> Result<(), CertError> {
    for dir in entries(&state.join(FOLDER)) {
        for path in entries(&dir).filter(|path| path.to_str().is_some_and(|path| path.ends_with(SUFFIX))) {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(SUFFIX)).unwrap_or_default();
            let bound = [bound(&dir).as_bytes(), name.as_bytes()];
            keys.alone(|keyring| {
                let clear = sealed(&path).and_then(|sealed| keyring.open_bytes(PURPOSE, &bound, &sealed).ok());
                let Some(clear) = clear else { return Ok(()) };
                let sealed = keyring.seal_bytes(PURPOSE, &bound, &clear).map_err(CertError::Seal)?;
                write_private(&path, &sealed).map_err(CertError::io("write", &path))
            })?;
        }
    }
    Ok(())
}

fn sealed(path: &Path) -> Option<Vec<u8>> {
    let length = std::fs::metadata(path).ok()?.len();
    (length <= LIMIT).then(|| std::fs::read(path).ok()).flatten()
}

/// A file of one authority's folder opens in no other.
fn bound(dir: &Path) -> &str {
    dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// In a state folder; each authority has one in it.
const FOLDER: &str = "certs/acme";
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
            // Earlier daemons have kept longer ones.
            let reason = reason.map(|reason| trouble::line(&reason));
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
        let certificate = Arc::new(Certificate { chain: self.chain, key: Secret::new(self.key.as_bytes()) });
        let (not_before, not_after) = (Timestamp(self.not_before), Timestamp(self.not_after));
        Some((HostName::new(&self.host).ok()?, Leaf { certificate, not_before, not_after }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Keyring;

    fn host() -> HostName {
        HostName::new("shop.example.com").unwrap()
    }

    fn leaf() -> Leaf {
        let certificate = Arc::new(Certificate { chain: "a chain".to_owned(), key: Secret::new("hunter2") });
        Leaf { certificate, not_before: Timestamp(1), not_after: Timestamp(2) }
    }

    #[test]
    fn no_file_is_written_that_would_not_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path(), Keys::new(Keyring::open_or_create(dir.path()).unwrap()), "https://a.test/");
        // The most that a ledger holds: see Ledger::MOST_NAMES, and what is kept of an authority's words.
        let reason = "\"".repeat(trouble::LONGEST);
        let at = Timestamp(u64::MAX);
        let tries = |_| Tries { count: u32::MAX, last: at, next: at, reason: Some(reason.clone()) };
        let name = |n: usize| {
            let labels = [format!("{n:063}"), "a".repeat(63), "b".repeat(63), "c".repeat(61)];
            HostName::new(&labels.join(".")).unwrap()
        };
        let names = (0..Ledger::MOST_NAMES).map(|n| (name(n), tries(n))).collect();
        let ledger = Ledger { orders: vec![at; 250], paused: at, names };
        keep.note(&ledger).unwrap();
        assert_eq!(keep.load().ledger, ledger);
        let wordy = Tries { reason: Some("x".repeat(2000)), ..tries(0) };
        keep.note(&Ledger { names: BTreeMap::from([(host(), wordy)]), ..Ledger::default() }).unwrap();
        let reason = keep.load().ledger.names.remove(&host()).and_then(|tries| tries.reason).unwrap();
        assert_eq!(reason.len(), trouble::LONGEST);
        keep.leaf(&host(), &leaf()).unwrap();
        let certificate = Certificate { chain: "x".repeat(1 << 20), key: Secret::new("k") };
        let long = Leaf { certificate: Arc::new(certificate), ..leaf() };
        assert!(matches!(keep.leaf(&host(), &long), Err(CertError::TooLong { .. })));
        assert_eq!(keep.load().leaves, BTreeMap::from([(host(), leaf())]), "what was there is there");
    }

    #[test]
    fn what_is_left_of_authorities_is_what_was_served_last_as_long_as_it_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(Keyring::open_or_create(dir.path()).unwrap());
        let leaf = |chain: &str, not_after: u64| {
            let certificate = Arc::new(Certificate { chain: chain.to_owned(), key: Secret::new("hunter2") });
            Leaf { certificate, not_before: Timestamp(0), not_after: Timestamp(not_after) }
        };
        for (directory, leaf) in [("https://a.test/", leaf("a", 10)), ("https://b.test/", leaf("b", 20))] {
            Keep::new(dir.path(), keys.clone(), directory).leaf(&host(), &leaf).unwrap();
        }
        let check = |served: Option<&str>, now: u64, expected: Option<&str>| {
            let served = served.map(|chain| BTreeMap::from([(host(), leaf(chain, 0).certificate)]));
            let left = left(dir.path(), &keys, served.as_ref(), Timestamp(now));
            let got = left.get(&host()).map(|leaf| leaf.certificate.chain.as_str());
            assert_eq!(got, expected, "{served:?} at {now}");
        };
        check(Some("a"), 9, Some("a"));
        check(Some("b"), 9, Some("b"));
        check(Some("a"), 10, None);
        check(Some("of the local CA"), 9, None);
        check(None, 9, Some("b"));
        check(None, 20, None);
    }

    #[test]
    fn a_ledger_that_does_not_open_is_not_one_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path(), Keys::new(Keyring::open_or_create(dir.path()).unwrap()), "https://a.test/");
        assert!(!keep.load().lost);
        keep.note(&Ledger::default()).unwrap();
        assert!(!keep.load().lost);
        std::fs::write(keep.path(LEDGER), "no seal").unwrap();
        assert!(keep.load().lost);
    }

    #[test]
    fn what_is_kept_is_sealed_and_found_again_by_the_same_authority_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(Keyring::open_or_create(dir.path()).unwrap());
        let keep = |directory: &str| Keep::new(dir.path(), keys.clone(), directory);
        let (host, leaf) = (host(), leaf());
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
        let kept = Kept { ledger, leaves: BTreeMap::from([(host.clone(), leaf.clone())]), lost: false };
        assert_eq!((first.load(), first.last(&host)), (kept, Some(leaf)));
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
        assert_eq!(second.load(), Kept { lost: true, ..Kept::default() }, "it opens in its own folder alone");
        first.forget(&host);
        assert_eq!(first.load().leaves, BTreeMap::new());
    }
}
