//! Values that open only where they belong, and a master key that can be replaced at any time.

use std::path::Path;

use bowline_core::acme::Ledger;
use bowline_core::id::{AppKey, AppName, EnvName, Generation, SecretName};
use bowline_core::release::SecretVersion;
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use zeroize::Zeroizing;

use super::key::MasterKey;
use super::snapshot::{self, Snapshot};
use super::*;
use crate::certs::acme::Keep;
use crate::store::{SealedValue, Store, StoreError};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const CANARY: &str = "canary-3f9a-of-production";

fn key(env: &str, app: &str) -> AppKey {
    AppKey { env: EnvName::new(env).unwrap(), app: AppName::new(app).unwrap() }
}

fn name(name: &str) -> SecretName {
    SecretName::new(name).unwrap()
}

async fn vault(state: &Path) -> Vault {
    let keyring = Keyring::open_or_create(state).unwrap();
    let store = Store::open(state, keyring.store_keys()).unwrap();
    Vault::open(state, keyring, store).await.unwrap()
}

#[test]
fn a_value_opens_only_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = Keyring::open_or_create(dir.path()).unwrap();
    let (production, token) = (key("production", "shop"), name("token"));
    let place = Place { key: &production, name: &token, version: SecretVersion(2) };
    let sealed = keyring.seal(&place, &Secret::new(CANARY)).unwrap();
    assert_eq!(keyring.open(&place, &sealed).unwrap(), Secret::new(CANARY));

    let (beta, other_app, other_name) = (key("beta", "shop"), key("production", "board"), name("tokens"));
    let elsewhere = [
        Place { key: &beta, ..place },
        Place { key: &other_app, ..place },
        Place { name: &other_name, ..place },
        Place { version: SecretVersion(1), ..place },
        // The same letters, cut elsewhere.
        Place { key: &key("productions", "hop"), ..place },
    ];
    for place in elsewhere {
        assert_eq!(keyring.open(&place, &sealed), Err(SealError::Refused), "{place:?}");
    }
    let again = keyring.seal(&place, &Secret::new(CANARY)).unwrap();
    assert_ne!(again.sealed, sealed.sealed, "never the same bytes twice");
    // A data key does not open another value of the same place.
    let mixed = SealedValue { sealed: again.sealed, ..sealed };
    assert_eq!(keyring.open(&place, &mixed), Err(SealError::Refused));
}

#[test]
fn every_flipped_or_missing_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = Keyring::open_or_create(dir.path()).unwrap();
    let (key, name) = (key("local", "shop"), name("token"));
    let place = Place { key: &key, name: &name, version: SecretVersion(1) };
    let good = keyring.seal(&place, &Secret::new(CANARY)).unwrap();
    let check = |damage: &dyn Fn(&mut Vec<u8>)| {
        let (mut value, mut wrapped) = (good.clone(), good.clone());
        damage(&mut value.sealed);
        damage(&mut wrapped.wrapped_key);
        assert!(keyring.open(&place, &value).is_err());
        assert!(keyring.open(&place, &wrapped).is_err());
    };
    for at in 0..good.sealed.len().min(good.wrapped_key.len()) {
        check(&|bytes| bytes[at] ^= 1 << (at % 8));
        check(&|bytes| bytes.truncate(at));
    }
    check(&|bytes| bytes.push(0));
}

#[tokio::test]
async fn a_value_is_nowhere_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let (app, token) = (key("production", "shop"), name("token"));
    let vault = vault(dir.path()).await;
    vault.set(&app, &token, Secret::new(CANARY), NOW, 1000).await.unwrap();
    let held = vault.reveal(&app, &token, SecretVersion(1)).unwrap();
    assert_eq!(held.expose(), CANARY.as_bytes());
    let printed = format!("{vault:?} {held:?} {:?} {:?}", vault.list(&app).unwrap(), vault.keyring());
    assert!(!printed.contains("canary"), "{printed}");
    drop(vault);
    let key = std::fs::read(dir.path().join("master.key")).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"canary"), "{}", path.display());
        let holds_key = bytes.windows(32).any(|w| w == &key[8..40]);
        assert_eq!(holds_key, path.ends_with("master.key"), "{}", path.display());
    }
}

#[tokio::test]
async fn versions_count_up_and_a_revoked_one_never_returns() {
    let dir = tempfile::tempdir().unwrap();
    let (app, token) = (key("local", "shop"), name("token"));
    let vault = vault(dir.path()).await;
    let set = async |text: &str| vault.set(&app, &token, Secret::new(text), NOW, 7).await.unwrap();
    assert_eq!((set("one").await, set("two").await), (SecretVersion(1), SecretVersion(2)));
    assert_eq!(vault.reveal(&app, &token, SecretVersion(1)).unwrap(), Secret::new("one"));
    assert_eq!(vault.ensure(&app, &token, NOW, 7).await.unwrap(), SecretVersion(2), "there is one");
    assert_eq!(vault.revoke(&app, &token, NOW).await.unwrap(), 2);
    let revealed = vault.reveal(&app, &token, SecretVersion(2));
    assert!(matches!(revealed, Err(VaultError::Sealed { source: SealError::Revoked, .. })), "{revealed:?}");
    let again = vault.revoke(&app, &token, NOW).await;
    assert!(matches!(again, Err(VaultError::Store(StoreError::NoSecret { .. }))));
    assert_eq!(vault.ensure(&app, &token, NOW, 7).await.unwrap(), SecretVersion(3), "made");
    assert_eq!(vault.reveal(&app, &token, SecretVersion(3)).unwrap().expose().len(), 43);
}

#[test]
fn generated_values_are_base64url_of_32_bytes() {
    let (one, two) = (generate().unwrap(), generate().unwrap());
    assert_ne!(one, two);
    for value in [one, two] {
        assert_eq!(value.expose().len(), 43);
        assert!(value.expose().iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)));
        // 32 bytes end in the middle of a sextet: its last two bits are zero.
        assert!(b"AEIMQUYcgkosw048".contains(value.expose().last().unwrap()));
    }
}

/// Sets a value and a snapshot and keeps what was ordered of an authority, interrupts a rotation as given, opens again and looks at all.
async fn rotate(interrupt: impl AsyncFnOnce(&Path, &Vault)) {
    let dir = tempfile::tempdir().unwrap();
    let (app, token) = (key("local", "shop"), name("token"));
    let payload = Zeroizing::new(vec![1, 2, 3]);
    let snapshot = Snapshot { version: 1, generation: Generation(4), payload };
    let before = vault(dir.path()).await;
    before.set(&app, &token, Secret::new(CANARY), NOW, 0).await.unwrap();
    snapshot::seal(dir.path(), &before.keyring(), &snapshot).unwrap();
    let old = before.keyring();
    let keep = |vault: &Vault| Keep::new(dir.path(), vault.keys(), "https://a.test/directory");
    let ledger = |at| Ledger { paused: Timestamp(at), ..Ledger::default() };
    let during = keep(&before);
    during.note(&ledger(1)).unwrap();
    interrupt(dir.path(), &before).await;
    assert_eq!(during.load().ledger, ledger(1), "whoever held it before opens it");
    drop(before);

    let after = vault(dir.path()).await;
    assert_eq!(after.reveal(&app, &token, SecretVersion(1)).unwrap(), Secret::new(CANARY));
    assert_eq!(snapshot::open(dir.path(), &after.keyring()).unwrap(), Some(snapshot));
    assert_eq!(keep(&after).load().ledger, ledger(1));
    keep(&after).note(&ledger(2)).unwrap();
    let keyring = after.keyring();
    assert!(keyring.retiring.is_none() && keyring.current != old.current, "the rotation is at its end");
    let records = after.list(&app).unwrap();
    let opened = old.open(&Place::of(&records[0]), records[0].value.as_ref().unwrap());
    assert_eq!(opened, Err(SealError::Refused), "the old key opens nothing");
    assert!(snapshot::open(dir.path(), &old).is_err());
    drop(after);
    let store = Store::open(dir.path(), old.store_keys());
    assert!(matches!(store, Err(StoreError::ForeignKey)), "{store:?}");
}

#[tokio::test]
async fn the_master_key_is_replaced() {
    rotate(async |_, vault| vault.rotate_master().await.unwrap()).await;
    rotate(async |_, vault| {
        vault.rotate_master().await.unwrap();
        vault.rotate_master().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_rotation_cut_short_is_ended_at_the_next_opening() {
    let begin =
        |vault: &Vault| Keyring { current: MasterKey::generate().unwrap(), retiring: Some(vault.keyring().current) };
    // After the key file.
    rotate(async |state, vault| begin(vault).write(state).unwrap()).await;
    // After the store.
    rotate(async |state, vault| {
        let both = begin(vault);
        both.write(state).unwrap();
        let wrapper = both.clone();
        let rewrap =
            move |record: &crate::store::SecretRecord, wrapped: &[u8]| Ok(wrapper.rewrap(&Place::of(record), wrapped)?);
        vault.store().rekey(both.store_keys(), rewrap).await.unwrap();
    })
    .await;
}
