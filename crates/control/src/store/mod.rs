//! What must outlive the daemon: apps, revisions, rollouts, runs of jobs, events, secrets.
//!
//! One thread owns the writing connection of an SQLite database (WAL, `synchronous=FULL`) and commits in groups; an
//! answer is given when the commit and its record in the head file are on disk. Every row carries a keyed checksum,
//! every commit a digest of all rows and a chain, so that flipped bits, missing rows, a cut log or an old copy of the
//! files are named and refused instead of read.
//!
//! Architecture invariant: logs, metrics and per-tick observations never enter the store. No SQL leaves this module.
//! Damage is never repaired by guessing; the one thing set right at opening is a head that is one commit behind,
//! which is what a crash between the two writes leaves.

mod checksum;
mod commit;
mod engine;
mod error;
mod events;
mod head;
mod record;
mod row;
mod schema;
mod table;
#[cfg(test)]
mod tests;
mod tx;
mod view;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use checksum::{ChecksumKey, Keys};
pub use error::StoreError;
pub use events::{EVENTS_DROPPED_EVERY, EVENTS_KEPT, EVENTS_MOST, EVENTS_OF_ACCESS_KEPT};
pub use record::{
    AppRecord, EdgePorts, EventRecord, JobRecord, NewEvent, NewRevision, ResourceRecord, RevisionRecord, RevisionState,
    RolloutRecord, RunRecord, SealedValue, SecretRecord, TokenRecord, Wanted,
};
pub(crate) use row::{read_scales, write_scales};
pub use tx::Tx;
pub(crate) use view::AnyRevision;
pub use view::View;

use crate::lock::lock_after_the_dying;
use commit::Commit;
use engine::Engine;
use schema::MIGRATIONS;
use writer::{QUEUE, Request, Work, Writer};

/// The newest runs of each job that are kept; older ones are dropped as new ones end.
pub const RUNS_KEPT: u32 = 50;

/// Tokens that are kept, those that are revoked or over included; these go first.
pub const TOKENS_KEPT: usize = 1_000;

/// First user id given to an app or a database, one per app and environment, never given to another app: above what distributions give to people
/// and to their subordinate ids, and above systemd's containers (524,288 to 1,879,048,191, `systemd.io/UIDS-GIDS`); the
/// one below it is the edge's.
pub const UID_BASE: u32 = 1_900_000_000;

/// Last of them, of all states of a machine.
pub const UID_LAST: u32 = UID_BASE + Users::BLOCKS * Users::IN_BLOCK - 1;

/// The user ids that one state gives out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Users {
    first: u32,
}

impl Users {
    /// User ids of one state.
    pub const IN_BLOCK: u32 = 65_536;

    /// Blocks of a machine: as many as there are below 2³¹, where some tools take an id for negative.
    pub const BLOCKS: u32 = 3_776;

    /// The block of this number, from 0.
    pub fn block(number: u32) -> Option<Self> {
        (number < Self::BLOCKS).then_some(Self { first: UID_BASE + number * Self::IN_BLOCK })
    }

    pub fn first(self) -> u32 {
        self.first
    }

    pub fn last(self) -> u32 {
        self.first + Self::IN_BLOCK - 1
    }
}

/// Block 0.
impl Default for Users {
    fn default() -> Self {
        Self { first: UID_BASE }
    }
}

/// What was found when the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// There was none; it is new and empty.
    Created,
    /// Everything was as it was left.
    Clean,
    /// The last commit was in the database, its record not yet in the head file: a crash. Now it is.
    HeadRepaired,
}

/// The open store. Clones share it; the last one dropped closes it.
#[derive(Debug, Clone)]
pub struct Store {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    /// After `requests`, so that the writer has been told to end when this waits for it.
    _closing: Arc<Closing>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

#[derive(Debug)]
struct Shared {
    reader: Mutex<Connection>,
    keys: Mutex<Keys>,
    acknowledged: AtomicU64,
    opening: Opening,
}

#[derive(Debug)]
struct Closing {
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held until the writer has ended.
    _lock: File,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl Store {
    /// Opens the store in the state folder `dir`, or makes it if there is no file of it. Verifies all of it.
    ///
    /// # Errors
    /// See [`StoreError`]. A store that is refused is left byte for byte as it was.
    pub fn open(dir: &Path, keys: Keys) -> Result<Self, StoreError> {
        let files = Files::of(dir);
        let lock = files.lock()?;
        let (engine, opening) = Engine::open(&files, &keys, MIGRATIONS)?;
        let shared = Arc::new(Shared {
            reader: Mutex::new(engine::connect_reader(&files.db)?),
            keys: Mutex::new(keys),
            acknowledged: AtomicU64::new(engine.sequence()),
            opening,
        });
        let (requests, receiver) = mpsc::channel(QUEUE);
        let writer = Writer { files, shared: Arc::clone(&shared), engine: Some(engine) };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(StoreError::io("start the writer of", dir))?;
        let closing = Arc::new(Closing { thread: Mutex::new(Some(thread)), _lock: lock });
        Ok(Self { requests, shared, _closing: closing })
    }

    /// What was found when it was opened.
    pub fn opening(&self) -> Opening {
        self.shared.opening
    }

    /// Runs `work` as one transaction, together with others that wait. When this returns, it is durable; when it
    /// returns an error of `work`'s own, nothing of it was kept.
    pub async fn commit<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let (work, answer) = Work::new(work);
        self.requests.send(Request::Commit(Box::new(work))).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// [`Store::commit`] for a thread that may block.
    pub fn commit_blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let (work, answer) = Work::new(work);
        self.requests.blocking_send(Request::Commit(Box::new(work))).map_err(|_| StoreError::Closed)?;
        answer.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// Reads one moment of the store; sees every commit answered before. Takes microseconds per row; does not block
    /// the writer.
    pub fn read<T>(&self, work: impl FnOnce(&View<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.at_commit(|conn, _, key| work(&View { conn, key }))
    }

    /// Verifies every row and the whole tree again, as opening does.
    pub fn verify(&self) -> Result<(), StoreError> {
        self.at_commit(|conn, commit, key| engine::verify(conn, commit, key, MIGRATIONS))
    }

    /// Whether the store is still under the key before: a rotation was cut short, see [`Store::rekey`].
    pub fn is_under_retiring_key(&self) -> Result<bool, StoreError> {
        let current = self.shared.keys().current.id();
        self.at_commit(|_, _, key| Ok(key.id() != current))
    }

    /// Puts every checksum under `keys.current` and every data key under what `rewrap` returns, in one transaction.
    /// Until it has returned, the key before must be kept, as `keys.retiring`.
    pub async fn rekey(
        &self,
        keys: Keys,
        rewrap: impl FnMut(&SecretRecord, &[u8]) -> Result<Vec<u8>, StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (answer, receiver) = oneshot::channel();
        let request = Request::Rekey { keys, rewrap: Box::new(rewrap), answer };
        self.requests.send(request).await.map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    fn at_commit<T>(
        &self,
        work: impl FnOnce(&Connection, &Commit, &ChecksumKey) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let reader = lock(&self.shared.reader);
        let want = self.shared.acknowledged.load(Ordering::Acquire);
        let moment = reader.unchecked_transaction()?;
        let commit = Commit::read(&moment)?.ok_or(StoreError::LostCommits { have: 0, want })?;
        let key = self.shared.keys().find(commit.key).cloned();
        let key = key.ok_or_else(|| StoreError::corrupt("commits", "its key is unknown"))?;
        commit.verify(&key)?;
        match commit.sequence {
            have if have < want => Err(StoreError::LostCommits { have, want }),
            _ => work(&moment, &commit, &key),
        }
    }
}

impl Shared {
    fn keys(&self) -> Keys {
        lock(&self.keys).clone()
    }

    fn set_keys(&self, keys: Keys) {
        *lock(&self.keys) = keys;
    }
}

/// What these mutexes guard stays whole when a holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the parts of the store lie.
#[derive(Debug, Clone)]
struct Files {
    db: PathBuf,
    wal: PathBuf,
    head: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn of(dir: &Path) -> Self {
        let at = |name| dir.join(name);
        Self { db: at("store.db"), wal: at("store.db-wal"), head: at("store.head"), lock: at("store.lock") }
    }

    /// A lock on a file of its own: closing any descriptor of `store.db` would drop SQLite's locks on it.
    fn lock(&self) -> Result<File, StoreError> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&self.lock);
        let file = file.map_err(StoreError::io("open", &self.lock))?;
        match lock_after_the_dying(&file) {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse(self.lock.clone())),
            Err(std::fs::TryLockError::Error(e)) => Err(StoreError::io("lock", &self.lock)(e)),
        }
    }

    /// Nothing of a store is here. Parts of one are never taken for none.
    fn are_absent(&self) -> Result<bool, StoreError> {
        match (length(&self.db)?, length(&self.wal)?, length(&self.head)?) {
            (None, None, None) => Ok(true),
            (_, _, Some(_)) => Ok(false),
            (Some(_), _, None) | (_, Some(_), None) => Err(StoreError::HeadMissing(self.head.clone())),
        }
    }

    /// SQLite would make a new database in place of a missing one, and delete the log of an empty one.
    fn expect_database(&self, sequence: u64) -> Result<(), StoreError> {
        match length(&self.db)? {
            Some(1..) => Ok(()),
            Some(0) | None if sequence == 0 && length(&self.wal)?.unwrap_or(0) == 0 => Ok(()),
            Some(0) | None => Err(StoreError::DatabaseMissing(self.db.clone())),
        }
    }
}

/// Length in bytes; `None` if there is no such file.
fn length(path: &Path) -> Result<Option<u64>, StoreError> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(Some(file.len())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("look at", path)(e)),
    }
}
