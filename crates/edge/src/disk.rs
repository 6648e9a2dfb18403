//! Work that may block, away from the thread that serves: a disk that hangs (a file server that is away, a dying SSD) holds up who asks for
//! its files, and nobody else. What hangs cannot be ended, only left behind: it is bounded in number.

use std::fs::File;
use std::future::poll_fn;
use std::io::IoSliceMut;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use crate::answer::Reason;
use crate::deadline::Deadline;

/// Threads of one worker that may hang; the runtime ends one that has had nothing to do for 10 s.
pub(crate) const THREADS: usize = 8;

/// Work that waits for one of them. What is more is refused.
const WAITING: usize = 64;

/// Longest that anything is waited for: a disk that was asleep takes less.
const LIMIT: Duration = Duration::from_secs(10);

/// One worker's way to the disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Waits for a thread, or has one.
    under_way: usize,
    /// Those of them for whose end nobody waits any more.
    given_up: usize,
}

/// What is told of one piece of work by whoever does it and by whoever waits for it, in any order.
#[derive(Debug)]
struct Work {
    counts: Arc<Mutex<Counts>>,
    stage: Mutex<Stage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    UnderWay,
    GivenUp,
    Over,
}

impl Work {
    fn begin(disk: &Disk) -> Result<Arc<Self>, Reason> {
        let mut counts = lock(&disk.counts);
        if counts.given_up >= THREADS || counts.under_way >= THREADS + WAITING {
            return Err(Reason::DiskBusy);
        }
        counts.under_way += 1;
        Ok(Arc::new(Self { counts: Arc::clone(&disk.counts), stage: Mutex::new(Stage::UnderWay) }))
    }

    fn give_up(&self) {
        let mut stage = lock(&self.stage);
        if *stage == Stage::UnderWay {
            *stage = Stage::GivenUp;
            let mut counts = lock(&self.counts);
            counts.given_up += 1;
            if counts.given_up == 1 {
                tracing::warn!("the disk does not answer in time");
            }
        }
    }

    fn is_over(&self) {
        let mut stage = lock(&self.stage);
        let mut counts = lock(&self.counts);
        counts.under_way -= 1;
        if *stage == Stage::GivenUp {
            counts.given_up -= 1;
            if counts.given_up == 0 {
                tracing::info!("the disk answers again");
            }
        }
        *stage = Stage::Over;
    }
}

/// Held by whoever does it: also what panics, or was never begun, is over.
struct Doing(Arc<Work>);

impl Drop for Doing {
    fn drop(&mut self) {
        self.0.is_over();
    }
}

/// Held by whoever waits for it.
#[derive(Debug)]
struct Awaited<T> {
    handle: JoinHandle<T>,
    work: Arc<Work>,
}

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        // Where no thread has begun it, none will.
        self.handle.abort();
        self.work.give_up();
    }
}

impl Disk {
    /// Does `work`, and waits for it for so long, at most [`LIMIT`].
    ///
    /// # Errors
    /// It took longer; or too much hangs, or waits, already: then it is not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        (deadline, within): (&Deadline, Duration),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Reason> {
        let mut awaited = self.begin(work)?;
        deadline.set(within.min(LIMIT));
        poll_fn(|cx| match Pin::new(&mut awaited.handle).poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map_err(|_| Reason::Internal)),
            Poll::Pending if deadline.passed(cx) => Poll::Ready(Err(Reason::DiskTimeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<Awaited<T>, Reason> {
        let begun = Work::begin(self)?;
        let doing = Doing(Arc::clone(&begun));
        let handle = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(doing);
            done
        });
        Ok(Awaited { handle, work: begun })
    }

    #[cfg(test)]
    pub(crate) fn given_up(&self) -> usize {
        lock(&self.counts).given_up
    }

    /// So many threads hang, from now on and until the end that comes back is dropped.
    #[cfg(test)]
    pub(crate) fn hang(&self, count: usize) -> Hanging {
        use std::sync::mpsc::channel;
        let ((end, ended), (begin, begun)) = (channel::<()>(), channel());
        let ended = Arc::new(Mutex::new(ended));
        let awaited = (0..count).map(|_| {
            let (ended, begin) = (Arc::clone(&ended), begin.clone());
            let hanging = self.begin(move || {
                begin.send(()).expect("the test waits for it");
                let _ = lock(&ended).recv();
            });
            Box::new(hanging.expect("there is room")) as Box<dyn std::any::Any>
        });
        let awaited = awaited.collect();
        begun.iter().take(count).for_each(drop);
        Hanging { awaited, _end: end }
    }
}

#[cfg(test)]
pub(crate) struct Hanging {
    pub(crate) awaited: Vec<Box<dyn std::any::Any>>,
    _end: std::sync::mpsc::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it is held")
}

/// Reads what lies in memory already, and never waits; `None`: nothing does, or that is not known of this file system. What is served often
/// needs no other thread.
pub(crate) fn read_cached(file: &File, buffer: &mut [u8], at: u64) -> Option<usize> {
    let read = preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT);
    // At an end that comes too early, whoever may wait says what is wrong.
    read.ok().filter(|read| *read > 0)
}
