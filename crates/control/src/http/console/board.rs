//! What is told to whoever looks: made once for all of them, and only while somebody looks.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::EdgeObservation;
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::history::Reader;
use super::page;
use super::shape::{Longer, Shown, Traffic};
use crate::http::answer::Refusal;
use crate::reconcile::request::{Answer, Door, Request};
use crate::store::Store;
use crate::traffic::Window;
use crate::traffic::kept::Kept;

/// Pages that may look at once: each costs a connection and an answer in the making.
const SEATS: usize = 16;

/// How often traffic is counted and told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often the window is kept on the disk, and longer looks back are told: so many seconds are lost with a daemon that dies.
const KEEP_EVERY: u64 = 5;

/// Between two looks at the world: a rollout makes many steps at once.
const SHORTEST_LOOK: Duration = Duration::from_millis(200);

/// Where the board is seen from, and what it is made of.
pub(crate) struct Watched {
    pub(crate) door: Door,
    pub(crate) edge: watch::Receiver<Arc<EdgeObservation>>,
    /// Without a store there are no events to tell.
    pub(crate) store: Option<Store>,
    /// Something has changed: it is told at once, not at the next second.
    pub(crate) moved: Arc<Notify>,
    /// The file that keeps the live window.
    pub(crate) window: PathBuf,
}

/// The newest of everything.
#[derive(Debug, Clone, Default)]
struct Newest {
    /// Milliseconds since 1970.
    at: u64,
    shown: Told,
    history: Told,
    longer: Told,
}

/// An event in the words of the stream, and which one it is. Empty and 0: not known yet.
#[derive(Debug, Clone, Default)]
struct Told {
    serial: u64,
    bytes: Bytes,
}

impl Told {
    fn put(&mut self, bytes: Bytes) {
        if self.bytes != bytes {
            *self = Self { serial: self.serial + 1, bytes };
        }
    }
}

/// Where seats are taken.
#[derive(Debug)]
pub(crate) struct Board {
    seats: Arc<Semaphore>,
    window: Mutex<Window>,
    newest: watch::Receiver<Newest>,
    moved: Arc<Notify>,
}

impl Board {
    /// It is kept until the daemon's loop has ended; then all streams end.
    pub(crate) fn start(watched: Watched) -> Arc<Self> {
        let (sender, newest) = watch::channel(Newest::default());
        let seats = Arc::new(Semaphore::new(SEATS));
        let moved = Arc::clone(&watched.moved);
        let (kept, window) = Kept::open(watched.window.clone(), now() / 1000);
        let board = Arc::new(Self { seats, window: Mutex::new(window), newest, moved });
        let kept = Some(kept);
        let keeper = Keeper { board: Arc::clone(&board), watched, newest: sender, history: Reader::default(), kept };
        tokio::spawn(keeper.keep());
        board
    }

    /// Takes a seat.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Viewer, Refusal> {
        let seat = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            let fault = Fault::new(FaultKind::Refused, format!("{SEATS} consoles are open already"));
            Refusal::unavailable(fault.hint("close one of them"))
        })?;
        let mut newest = self.newest.clone();
        newest.mark_changed();
        self.moved.notify_one();
        Ok(Viewer { board: Arc::clone(self), newest, second: None, known: [0; 3], is_over: false, _seat: seat })
    }

    fn is_watched(&self) -> bool {
        self.seats.available_permits() < SEATS
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever looks, and what it was told.
pub(super) struct Viewer {
    board: Arc<Board>,
    newest: watch::Receiver<Newest>,
    second: Option<u64>,
    /// Which status, history and look back it was told.
    known: [u64; 3],
    is_over: bool,
    _seat: OwnedSemaphorePermit,
}

impl Viewer {
    /// What is new, as soon as something is; the last word is that the daemon ends. One that reads slowly is told the newest, not
    /// everything.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if self.newest.changed().await.is_err() {
            self.is_over = true;
            return Some(told("ended", &()));
        }
        let newest = self.newest.borrow_and_update().clone();
        let mut out = Vec::new();
        for (known, now) in self.known.iter_mut().zip([&newest.shown, &newest.history, &newest.longer]) {
            if std::mem::replace(known, now.serial) != now.serial {
                out.extend_from_slice(&now.bytes);
            }
        }
        let window = self.board.window();
        out.extend_from_slice(&told("traffic", &Traffic::new(newest.at, &window, self.second)));
        self.second = Some(window.newest());
        Some(out.into())
    }
}

/// One event of the stream (HTML standard, section 9.2).
fn told<T: Serialize>(name: &str, data: &T) -> Bytes {
    let data = serde_json::to_string(data).expect("what is told has string keys and no failing serialisers");
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Counts, looks and writes the board.
struct Keeper {
    board: Arc<Board>,
    watched: Watched,
    newest: watch::Sender<Newest>,
    history: Reader,
    /// `None`: the disk takes it just now.
    kept: Option<Kept>,
}

impl Keeper {
    async fn keep(mut self) {
        let start = Instant::now();
        // Of both, so that no clock that is set moves what is counted.
        let first = self.board.window().newest();
        let mut ticker = interval(TELL_EVERY);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looked = start;
        loop {
            tokio::select! {
                _ = ticker.tick() => {
                    let edge = Arc::clone(&self.watched.edge.borrow());
                    let second = first + start.elapsed().as_secs();
                    self.board.window().add(second, &edge);
                    if second.is_multiple_of(KEEP_EVERY) {
                        self.write().await;
                    }
                }
                () = self.watched.moved.notified() => sleep_until((looked + SHORTEST_LOOK).into()).await,
                () = self.watched.door.closed() => return self.write().await,
            }
            looked = Instant::now();
            self.look().await;
        }
    }

    /// While nobody looks, nothing is kept but traffic.
    async fn look(&mut self) {
        if !self.board.is_watched() {
            self.history = Reader::default();
            return self.newest.send_modify(|newest| {
                newest.at = now();
                newest.shown.put(Bytes::new());
                newest.history.put(Bytes::new());
                newest.longer.put(Bytes::new());
            });
        }
        let shown = match self.watched.door.ask(Request::Status).await {
            Ok(Answer::Status(status)) => Some(told("status", &Shown::new(page::DIGEST.clone(), *status))),
            // The loop is about to end.
            Ok(_) | Err(_) => None,
        };
        let history = self.history().await;
        let is_unknown = self.newest.borrow().longer.bytes.is_empty();
        let longer = {
            let window = self.board.window();
            // Whoever has just come is told it at once.
            let is_due = is_unknown || window.newest().is_multiple_of(KEEP_EVERY);
            is_due.then(|| told("longer", &Longer::new(&window)))
        };
        self.newest.send_modify(|newest| {
            newest.at = now();
            shown.into_iter().for_each(|bytes| newest.shown.put(bytes));
            history.into_iter().for_each(|bytes| newest.history.put(bytes));
            longer.into_iter().for_each(|bytes| newest.longer.put(bytes));
        });
    }

    /// What of the window is not on the disk yet.
    async fn write(&mut self) {
        let Some(mut kept) = self.kept.take() else { return };
        let Some(draft) = kept.draft(&self.board.window()) else {
            self.kept = Some(kept);
            return;
        };
        let written = tokio::task::spawn_blocking(move || {
            kept.write(&draft);
            kept
        });
        // It panicked, or the runtime ends: then nothing is written any more.
        self.kept = written.await.ok();
    }

    /// What the store remembers, if something has happened.
    async fn history(&mut self) -> Option<Bytes> {
        let store = self.watched.store.clone()?;
        let mut reader = std::mem::take(&mut self.history);
        let reading = tokio::task::spawn_blocking(move || {
            let read = reader.read(&store);
            (reader, read)
        });
        // It panicked, or the runtime ends: the next look begins anew.
        let (reader, read) = reading.await.ok()?;
        self.history = reader;
        match read {
            Ok(history) => Some(told("history", &history?)),
            Err(error) => {
                tracing::warn!(%error, "history not shown on the console");
                None
            }
        }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
