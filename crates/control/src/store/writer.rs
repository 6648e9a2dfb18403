//! The one thread that writes: it takes what has come in, runs it as one transaction, and answers when it is durable.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::checksum::Keys;
use super::engine::{Engine, Rewrap};
use super::error::StoreError;
use super::schema::MIGRATIONS;
use super::tx::Tx;
use super::{Files, Shared};

/// Requests waiting for the writer; more wait in their senders.
pub(super) const QUEUE: usize = 256;

/// Requests committed together at most: one slow disk write is shared, and an answer never waits for an endless group.
const GROUP: usize = 64;

/// A request, its outcome and who waits for it.
pub(super) trait Job: Send {
    /// Whether what it did is to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Why it is not.
    fn error(&self) -> StoreError;
    /// Gives its own outcome if the group was committed.
    fn answer(self: Box<Self>, group: Result<(), StoreError>);
}

pub(super) enum Request {
    Commit(Box<dyn Job>),
    Rekey { keys: Keys, rewrap: Box<Rewrap>, answer: oneshot::Sender<Result<(), StoreError>> },
}

/// A closure as a [`Job`].
pub(super) struct Work<F, T> {
    work: Option<F>,
    outcome: Result<T, StoreError>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Work<F, T> {
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { work: Some(work), outcome: Err(StoreError::Closed), answer }, receiver)
    }
}

impl<F, T> Job for Work<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        let Some(work) = self.work.take() else { return false };
        // A defect in one request must not end the writer for all others; its transaction is rolled back.
        match catch_unwind(AssertUnwindSafe(|| work(tx))) {
            Ok(outcome) => self.outcome = outcome,
            Err(_) => tracing::error!("a store request panicked"),
        }
        self.outcome.is_ok()
    }

    fn error(&self) -> StoreError {
        self.outcome.as_ref().err().cloned().unwrap_or(StoreError::Closed)
    }

    fn answer(self: Box<Self>, group: Result<(), StoreError>) {
        let outcome = match (self.work, group) {
            // It was not run at all.
            (Some(_), Err(error)) => Err(error),
            // Its own error says more than the group's.
            (_, group) => self.outcome.and_then(|value| group.map(|()| value)),
        };
        // A receiver that is gone does not want to know.
        let _ = self.answer.send(outcome);
    }
}

pub(super) struct Writer {
    pub(super) files: Files,
    pub(super) shared: Arc<Shared>,
    /// `None` after an error that leaves the connection in doubt: opened and verified anew before the next commit.
    pub(super) engine: Option<Engine>,
}

impl Writer {
    /// Until every sender is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut next = Some(first);
            while let Some(request) = next.take() {
                match request {
                    Request::Commit(first) => {
                        let (group, rest) = gather(first, &mut requests);
                        self.commit(group);
                        next = rest;
                    }
                    Request::Rekey { keys, rewrap, answer } => {
                        let _ = answer.send(self.rekey(keys, rewrap));
                    }
                }
            }
            self.engine.iter().for_each(Engine::tidy);
        }
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Job>>) {
        let result = self.attempt(|engine| engine.commit(&mut group));
        group.into_iter().for_each(|job| job.answer(result.clone()));
    }

    fn rekey(&mut self, keys: Keys, mut rewrap: Box<Rewrap>) -> Result<(), StoreError> {
        let current = keys.current.clone();
        self.shared.set_keys(keys);
        self.attempt(|engine| engine.rekey(current, MIGRATIONS, rewrap.as_mut()))
    }

    fn attempt(&mut self, work: impl FnOnce(&mut Engine) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => Engine::open(&self.files, &self.shared.keys(), MIGRATIONS)?.0,
        };
        let result = work(&mut engine);
        match &result {
            Ok(()) => {
                self.shared.acknowledged.store(engine.sequence(), Ordering::Release);
                self.engine = Some(engine);
            }
            // Rolled back, or written and only to be confirmed once more: the connection is as good as before.
            Err(StoreError::DiskFull | StoreError::Unconfirmed(_)) => self.engine = Some(engine),
            Err(error) => tracing::error!(%error, "store commit failed"),
        }
        result
    }
}

/// What waits already, up to the size of a group; a rekey stays alone.
fn gather(first: Box<dyn Job>, requests: &mut mpsc::Receiver<Request>) -> (Vec<Box<dyn Job>>, Option<Request>) {
    let mut group = vec![first];
    while group.len() < GROUP {
        match requests.try_recv() {
            Ok(Request::Commit(job)) => group.push(job),
            Ok(rekey @ Request::Rekey { .. }) => return (group, Some(rekey)),
            Err(mpsc::error::TryRecvError::Empty | mpsc::error::TryRecvError::Disconnected) => break,
        }
    }
    (group, None)
}
