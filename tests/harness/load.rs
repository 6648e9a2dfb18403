//! Steady load while something is killed.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Connection, tls};

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub succeeded: u64,
    pub failed: Vec<Failed>,
}

/// A request that did not succeed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// When it began and when it had failed.
    pub during: RangeInclusive<Instant>,
    pub why: String,
}

impl Failed {
    /// Whether it was under way at any moment of this.
    pub fn meets(&self, other: &RangeInclusive<Instant>) -> bool {
        self.during.start() <= other.end() && other.start() <= self.during.end()
    }
}

/// Two threads that ask for `path` again and again: one on a kept connection, one on a new one each time.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Tally>>,
}

/// More requests than this in one test would measure the machine, not the fault.
const MAX_REQUESTS: u64 = 20_000;

impl Load {
    pub fn start(url: &str, path: &str, ca: &Path) -> Self {
        Self::with_limit(url, path, ca, MAX_REQUESTS)
    }

    /// One that does not end by itself.
    pub fn start_whole(url: &str, path: &str, ca: &Path) -> Self {
        Self::with_limit(url, path, ca, u64::MAX)
    }

    fn with_limit(url: &str, path: &str, ca: &Path, most: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let thread = |kept: bool| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (url, path, tls) = (url.to_owned(), path.to_owned(), tls(ca));
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) && tally.succeeded < most {
                    let began = Instant::now();
                    let result = match connection.take() {
                        Some(open) => Ok(open),
                        None => Connection::open(&url, &tls),
                    }
                    .and_then(|mut open| open.get(&path).map(|(status, _)| (open, status)));
                    match result {
                        Ok((open, 200)) => {
                            tally.succeeded += 1;
                            done.fetch_add(1, Ordering::Relaxed);
                            connection = (kept && !open.closes()).then_some(open);
                        }
                        Ok((_, status)) => tally.fail(began, format!("status {status}")),
                        Err(error) => tally.fail(began, error.to_string()),
                    }
                    // About 200 requests a second: enough to notice, without taking the machine from what is tested.
                    std::thread::park_timeout(Duration::from_millis(if tally.failed.is_empty() { 5 } else { 10 }));
                }
                tally
            })
        };
        let threads = vec![thread(true), thread(false)];
        let load = Self { stop, done, threads };
        load.more();
        load
    }

    /// Waits until some more requests have succeeded.
    pub fn more(&self) {
        const SOME: u64 = 20;
        let before = self.done.load(Ordering::Relaxed);
        crate::wait("the load goes on", crate::SOON, || {
            (self.done.load(Ordering::Relaxed) >= before + SOME).then_some(())
        });
    }

    /// Ends it, once it has gone on for a little while after whatever was done to it.
    pub fn stop(self) -> Tally {
        self.more();
        self.stop.store(true, Ordering::Relaxed);
        let tallies = self.threads.into_iter().map(|t| t.join().expect("a load thread does not panic"));
        tallies.fold(Tally::default(), |mut sum, tally| {
            sum.succeeded += tally.succeeded;
            sum.failed.extend(tally.failed);
            sum
        })
    }
}

/// One thread that adds one name after another, and keeps those that were acknowledged.
#[derive(Debug)]
pub struct Writes {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Writes {
    /// Posts to `/` of an app.
    pub fn start(url: &str, ca: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (ended, kept) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let (url, tls) = (url.to_owned(), tls(ca));
        let thread = std::thread::spawn(move || {
            for number in 0..MAX_REQUESTS {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // Each its own: what was sent and not acknowledged may be there or not.
                let name = format!("name-{number}");
                let result = Connection::open(&url, &tls).and_then(|mut open| open.post("/", &name));
                match result {
                    Ok((200, _)) => kept.lock().expect("no panic while it is held").push(name),
                    Ok(_) | Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
                }
            }
        });
        let writes = Self { stop, acknowledged, thread };
        writes.more();
        writes
    }

    /// Waits until some more have been acknowledged.
    pub fn more(&self) {
        const SOME: usize = 5;
        let count = || self.acknowledged.lock().expect("no panic while it is held").len();
        let before = count();
        crate::wait("writes are acknowledged", crate::SOON, || (count() >= before + SOME).then_some(()));
    }

    /// Ends it after some more; gives what was acknowledged.
    pub fn stop(self) -> Vec<String> {
        self.more();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a load thread does not panic");
        std::mem::take(&mut self.acknowledged.lock().expect("no panic while it is held"))
    }
}

impl Tally {
    fn fail(&mut self, began: Instant, why: String) {
        self.failed.push(Failed { during: began..=Instant::now(), why });
    }

    pub fn expect_no_failure(&self, what: &str) {
        assert!(self.failed.is_empty(), "{what}: {} succeeded, failed: {:?}", self.succeeded, self.failed);
    }
}
