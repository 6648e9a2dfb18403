//! Tokens of whoever uses the API from elsewhere: made, looked up, revoked.
//!
//! Architecture invariant: a token is nowhere but in the answer that shows it once. The store and memory have its SHA-256.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bowline_core::access::{Role, Scope, TokenId};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{Digest, TokenName};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::secrets::{VaultError, generate};
use crate::store::{NewEvent, Store, StoreError, TOKENS_KEPT, TokenRecord};

/// Lets scanners of secrets find a token that was written where it does not belong.
const PREFIX: &str = "bowline_";

/// When it was used last is stored to the day: not every request is a write.
const COARSE: Duration = Duration::from_secs(24 * 60 * 60);

/// How often it is seen to by the clock that a token which is in use has ended: clocks are set.
const LOOKED_AT: Duration = Duration::from_secs(60);

/// All tokens, as the store has them.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    store: Store,
    known: Arc<RwLock<Vec<Arc<Token>>>>,
    /// `known` is another.
    moved: Arc<watch::Sender<()>>,
}

/// One token.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) record: TokenRecord,
    /// Milliseconds; 0: never, or not since the daemon started.
    used: AtomicU64,
}

impl Token {
    pub(crate) fn new(record: TokenRecord) -> Arc<Self> {
        let used = AtomicU64::new(record.used.map_or(0, |at| at.0));
        Arc::new(Self { record, used })
    }

    pub(crate) fn used(&self) -> Option<Timestamp> {
        Some(Timestamp(self.used.load(Ordering::Relaxed))).filter(|at| at.0 > 0)
    }

    fn holds(&self, now: Timestamp) -> bool {
        self.denied(now).is_none()
    }

    fn denied(&self, now: Timestamp) -> Option<Denied> {
        let id = self.record.id;
        match self.record.revoked {
            Some(_) => Some(Denied::Revoked(id)),
            None => self.record.expires.is_some_and(|at| now >= at).then_some(Denied::Expired(id)),
        }
    }
}

/// Why a token does not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    Unknown,
    Expired(TokenId),
    Revoked(TokenId),
}

impl Denied {
    /// For people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "this daemon does not know that token",
            Self::Expired(_) => "the token is over",
            Self::Revoked(_) => "the token was revoked",
        }
    }

    pub(crate) fn token(self) -> Option<TokenId> {
        match self {
            Self::Unknown => None,
            Self::Expired(id) | Self::Revoked(id) => Some(id),
        }
    }
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: TokenName,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    /// `None`: until it is revoked.
    pub(crate) time: Option<Duration>,
}

impl Tokens {
    pub(crate) fn open(store: Store) -> Result<Self, Fault> {
        let known = store.read(|view| view.tokens())?.into_iter().map(Token::new).collect();
        Ok(Self { store, known: Arc::new(RwLock::new(known)), moved: Arc::new(watch::Sender::new(())) })
    }

    fn known(&self) -> Vec<Arc<Token>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Token>> {
        self.known()
    }

    /// Whose token this is. Each is compared, and each in the same time.
    pub(crate) fn check(&self, token: &[u8], now: Timestamp) -> Result<Arc<Token>, Denied> {
        let digest = digest(token);
        let mut found = None;
        for one in self.known() {
            if bool::from(one.record.digest.0.ct_eq(&digest.0)) {
                found = Some(one);
            }
        }
        let found = found.ok_or(Denied::Unknown)?;
        found.denied(now).map_or(Ok(found), Err)
    }

    /// Comes back when a token that has let somebody in does so no more: nothing that it has opened goes on.
    pub(crate) async fn over(&self, id: TokenId) -> Denied {
        let mut moved = self.moved.subscribe();
        loop {
            moved.mark_unchanged();
            let found = self.known().into_iter().find(|one| one.record.id == id);
            let Some(token) = found else { return Denied::Unknown };
            let now = crate::run::wall();
            if let Some(denied) = token.denied(now) {
                return denied;
            }
            let left = token.record.expires.map_or(LOOKED_AT, |at| at.since(now).min(LOOKED_AT));
            // The sender is held by `self`.
            let _ = tokio::time::timeout(left, moved.changed()).await;
        }
    }

    /// It has let somebody in.
    pub(crate) async fn note_use(&self, token: &Token, now: Timestamp) -> Result<(), StoreError> {
        let before = Timestamp(token.used.swap(now.0, Ordering::Relaxed));
        if before.0 > 0 && now.since(before) < COARSE {
            return Ok(());
        }
        let id = token.record.id;
        let stored = self.store.commit(move |tx| match tx.token(id)? {
            Some(record) => tx.put_token(&TokenRecord { used: Some(now), ..record }),
            None => Ok(()),
        });
        stored.await
    }

    /// Makes one; the secret is the token, which is nowhere else. `by`: a user's id, or [`TokenId::actor`].
    pub(crate) async fn create(&self, wanted: Wanted, by: u32, now: Timestamp) -> Result<(Secret, Arc<Token>), Fault> {
        let random = generate().map_err(|error| Fault::from(VaultError::from(error)))?;
        let token = Secret::new([PREFIX.as_bytes(), random.expose()].concat());
        let digest = digest(token.expose());
        let name = wanted.name.clone();
        let made = self.store.commit(move |tx| {
            let known = tx.tokens()?;
            if known.iter().any(|one| one.name == wanted.name && Token::new(one.clone()).holds(now)) {
                return Ok(Err(taken(&wanted.name)));
            }
            let over: Vec<TokenId> =
                known.iter().filter(|one| !Token::new((*one).clone()).holds(now)).map(|one| one.id).collect();
            let newest = known.last().map_or(TokenId(0), |one| one.id);
            let mut surplus = (known.len() + 1).saturating_sub(TOKENS_KEPT);
            for id in over.into_iter().filter(|id| *id != newest) {
                if surplus > 0 {
                    tx.forget_token(id)?;
                    surplus -= 1;
                }
            }
            if surplus > 0 {
                return Ok(Err(too_many()));
            }
            let record = TokenRecord {
                id: TokenId(newest.0 + 1),
                name: wanted.name,
                digest,
                role: wanted.role,
                scope: wanted.scope,
                created: now,
                created_by: by,
                expires: wanted.time.map(|time| now + time),
                used: None,
                revoked: None,
            };
            tx.put_token(&record)?;
            tx.append_event(event(&record, "token.created", by, now))?;
            Ok(Ok(record))
        });
        let record = made.await.map_err(|error| failed("made", &name, error))??;
        self.read_anew()?;
        let found = self.known().into_iter().find(|one| one.record.id == record.id);
        Ok((token, found.unwrap_or_else(|| Token::new(record))))
    }

    /// By its name, of the one that holds, or by its id.
    pub(crate) async fn revoke(&self, which: &str, by: u32, now: Timestamp) -> Result<Arc<Token>, Fault> {
        let id: Option<u32> = which.parse().ok();
        let is_it = |token: &TokenRecord| Some(token.id.0) == id || token.name.as_str() == which;
        let found = self.known().into_iter().rev().find(|one| one.record.revoked.is_none() && is_it(&one.record));
        let Some(found) = found else {
            return Err(Fault::new(FaultKind::Invalid, format!("there is no token {which:?} that could be revoked"))
                .hint("`bowline token list` shows them with their ids"));
        };
        let record = TokenRecord { revoked: Some(now), used: found.used(), ..found.record.clone() };
        let stored = record.clone();
        let revoked = self.store.commit(move |tx| {
            tx.put_token(&stored)?;
            tx.append_event(event(&stored, "token.revoked", by, now))
        });
        revoked.await.map_err(|error| failed("revoked", &record.name, error))?;
        self.read_anew()?;
        Ok(Token::new(record))
    }

    /// As the store has them now; of those that are known it is kept when they were used.
    fn read_anew(&self) -> Result<(), Fault> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: whoever comes later reads what is newer.
        let fresh = self.store.read(|view| view.tokens())?;
        let take_up = |record: TokenRecord| {
            let before = known.iter().find(|one| one.record.id == record.id).and_then(|one| one.used());
            let token = Token::new(record);
            token.used.fetch_max(before.map_or(0, |at| at.0), Ordering::Relaxed);
            token
        };
        *known = fresh.into_iter().map(take_up).collect();
        self.moved.send_replace(());
        Ok(())
    }
}

fn digest(token: &[u8]) -> Digest {
    Digest(Sha256::digest(token).into())
}

fn taken(name: &TokenName) -> Fault {
    Fault::new(FaultKind::Refused, format!("there is a token {name} already"))
        .hint(format!("choose another name, or revoke it first: bowline token revoke {name}"))
}

fn too_many() -> Fault {
    Fault::new(FaultKind::Refused, format!("there are {TOKENS_KEPT} tokens that hold, and no room for another"))
        .hint("revoke those that nobody uses: `bowline token list` says when each was used")
}

fn failed(what: &str, name: &TokenName, error: StoreError) -> Fault {
    Fault::new(FaultKind::Failed, format!("token {name} cannot be {what}")).source(&error)
}

fn event(token: &TokenRecord, kind: &str, by: u32, at: Timestamp) -> NewEvent {
    let TokenRecord { id, name, role, scope, expires, .. } = token;
    let of = |names: Vec<String>| Some(names.join(", ")).filter(|names| !names.is_empty());
    let fields = json!({
        "token": name.as_str(), "token_id": id.0, "role": role.as_str(),
        "apps": of(scope.apps.iter().map(ToString::to_string).collect()),
        "environments": of(scope.environments.iter().map(ToString::to_string).collect()),
        "expires": expires.map(|at| at.0), "by_uid": by,
    });
    let what = kind.rsplit('.').next().unwrap_or(kind);
    let message = format!("token {name} ({role}) is {what}");
    NewEvent { at, key: None, kind: kind.to_owned(), message, fields: fields.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ChecksumKey, Keys};

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn store(dir: &std::path::Path) -> Store {
        let key = ChecksumKey::new(zeroize::Zeroizing::new([7; 32]));
        Store::open(dir, Keys { current: key, retiring: None }).unwrap()
    }

    fn wanted(name: &str, time: Option<Duration>) -> Wanted {
        Wanted { name: TokenName::new(name).unwrap(), role: Role::Viewer, scope: Scope::default(), time }
    }

    #[tokio::test]
    async fn a_token_lets_in_until_it_is_over_or_revoked_and_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3_600);
        let (token, short) = {
            let tokens = Tokens::open(store(dir.path())).unwrap();
            let (token, made) = tokens.create(wanted("ci", None), 0, NOW).await.unwrap();
            let text = String::from_utf8(token.expose().to_vec()).unwrap();
            assert!(text.starts_with("bowline_") && text.len() == 51, "{}", text.len());
            assert_eq!(tokens.check(token.expose(), NOW).unwrap().record.id, made.record.id);
            assert_eq!(tokens.check(b"bowline_other", NOW).unwrap_err(), Denied::Unknown);
            assert_eq!(tokens.check(b"", NOW).unwrap_err(), Denied::Unknown);
            let again = tokens.create(wanted("ci", None), 0, NOW).await.unwrap_err();
            assert_eq!(again.kind, FaultKind::Refused);
            let (short, _) = tokens.create(wanted("short", Some(hour)), 0, NOW).await.unwrap();
            (token, short)
        };
        let tokens = Tokens::open(store(dir.path())).unwrap();
        assert!(tokens.check(token.expose(), NOW).is_ok(), "it outlives the daemon");
        let used = tokens.check(short.expose(), NOW).unwrap();
        tokens.note_use(&used, NOW).await.unwrap();
        tokens.note_use(&used, NOW + hour).await.unwrap();
        let stored = tokens.store.read(|view| view.token(TokenId(2))).unwrap().unwrap().used;
        assert_eq!((used.used(), stored), (Some(NOW + hour), Some(NOW)), "to the day");
        assert_eq!(tokens.check(short.expose(), NOW + hour).unwrap_err(), Denied::Expired(TokenId(2)));
        tokens.revoke("ci", 0, NOW).await.unwrap();
        assert_eq!(tokens.check(token.expose(), NOW).unwrap_err(), Denied::Revoked(TokenId(1)));
        assert!(tokens.revoke("ci", 0, NOW).await.is_err(), "it is revoked already");
        let (_, next) = tokens.create(wanted("ci", None), 0, NOW).await.unwrap();
        assert_eq!(next.record.id, TokenId(3), "a name is free again, an id never is");
        tokens.revoke("3", 0, NOW).await.unwrap();
        let events = tokens.store.read(|view| view.last_events(None, 100)).unwrap();
        let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        let made = "token.created";
        assert_eq!(kinds, [made, made, "token.revoked", made, "token.revoked"]);
    }
}
