//! Work that may block, away from the thread that serves: a disk that hangs (a file server that is away, a dying SSD) holds up who asks for
//! its files, and nobody else. What hangs cannot be ended, only left behind: it is bounded in number.

use std::fs::File;
use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::answer::Reason;
use crate::deadline::Deadline;

/// Threads of one worker that may hang.
pub(crate) const THREADS: usize = 8;

/// How long a thread is kept that has nothing to do. The runtime ends with a panic where it needs one and cannot have it: the one that is
/// started with the worker stays.
pub(crate) const KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What may be under way, its threads included, before openings are refused while something hangs.
const WAITING: usize = THREADS + 64;

/// The same where nothing hangs: each has its deadline, but takes memory until a thread has seen that.
const QUEUE: usize = 4096;

/// Longest that anything is waited for: a disk that was asleep takes less. A thread that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// One worker's way to the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Waits for a thread, or has one.
    under_way: usize,
    /// What each thread does, and since when.
    begun: Vec<(u64, Instant)>,
    /// How much has been begun.
    count: u64,
    /// It was said that the disk does not answer.
    is_away: bool,
    /// Long buffers that are lent.
    buffers: usize,
}

impl Counts {
    /// How many threads hang. Nobody waits for those any more.
    fn hanging(&self) -> usize {
        self.begun.iter().filter(|(_, begun)| begun.elapsed() >= LIMIT).count()
    }
}

/// What the disk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The beginning of an answer.
    Opening,
    /// More of an answer that has begun: to refuse it is to cut the answer.
    Piece,
}

/// How long something is waited for.
pub(crate) struct Wait<'a> {
    pub(crate) deadline: &'a Deadline,
    /// At most [`LIMIT`].
    pub(crate) within: Duration,
    /// Whether whoever wants it is gone.
    pub(crate) gone: &'a mut dyn FnMut(&mut Context<'_>) -> Poll<Reason>,
}

/// Held by whoever does it: also what panics, or was never begun, is over.
struct Doing {
    counts: Arc<Mutex<Counts>>,
    /// `None`: not begun.
    number: Option<u64>,
}

impl Doing {
    fn new(disk: &Disk) -> Self {
        lock(&disk.counts).under_way += 1;
        Self { counts: Arc::clone(&disk.counts), number: None }
    }

    fn begin(&mut self) {
        let mut counts = lock(&self.counts);
        counts.count += 1;
        let number = counts.count;
        counts.begun.push((number, Instant::now()));
        self.number = Some(number);
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        let is_back = {
            let mut counts = lock(&self.counts);
            counts.under_way -= 1;
            counts.begun.retain(|(number, _)| self.number != Some(*number));
            counts.is_away && counts.hanging() == 0 && std::mem::take(&mut counts.is_away)
        };
        // Whoever writes it may wait too: nothing is locked meanwhile.
        if is_back {
            tracing::info!("the disk answers again");
        }
    }
}

/// Held by whoever waits for it.
#[derive(Debug)]
struct Awaited<T>(JoinHandle<T>);

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        // Where no thread has begun it, none will.
        self.0.abort();
    }
}

impl Disk {
    /// Does `work`, and waits for it.
    ///
    /// # Errors
    /// It took longer, or nobody wants it any more; or too much hangs already: then it is not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        ask: Ask,
        wait: Wait<'_>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Reason> {
        if self.refuses(ask) {
            return Err(Reason::DiskBusy);
        }
        let mut awaited = self.begin(work);
        wait.deadline.set(wait.within.min(LIMIT));
        poll_fn(|cx| {
            if let Poll::Ready(done) = Pin::new(&mut awaited.0).poll(cx) {
                return Poll::Ready(done.map_err(|_| Reason::Internal));
            }
            if let Poll::Ready(reason) = (wait.gone)(cx) {
                return Poll::Ready(Err(reason));
            }
            if wait.deadline.passed(cx) { Poll::Ready(Err(Reason::DiskTimeout)) } else { Poll::Pending }
        })
        .await
    }

    fn refuses(&self, ask: Ask) -> bool {
        let (hanging, under_way, is_news) = {
            let mut counts = lock(&self.counts);
            let hanging = counts.hanging();
            (hanging, counts.under_way, hanging > 0 && !std::mem::replace(&mut counts.is_away, hanging > 0))
        };
        if is_news {
            tracing::warn!("the disk does not answer in time");
        }
        let most = if hanging > 0 { WAITING } else { QUEUE };
        hanging >= THREADS || (ask == Ask::Opening && under_way >= most)
    }

    fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Awaited<T> {
        Awaited(tokio::task::spawn_blocking(doing(Doing::new(self), work)))
    }

    /// Closes it in a thread. That is never refused: what is not closed stays open.
    pub(crate) fn close(&self, file: File) {
        // Where no thread begins it any more, the process ends, which closes it: whoever drops it here would wait.
        let file = ManuallyDrop::new(file);
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn_blocking(doing(Doing::new(self), move || drop(ManuallyDrop::into_inner(file))));
    }

    /// One more long buffer, where there are fewer than this.
    pub(crate) fn lend(&self, most: usize) -> Option<Lent> {
        let mut counts = lock(&self.counts);
        (counts.buffers < most).then(|| {
            counts.buffers += 1;
            Lent(self.clone())
        })
    }

    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        lock(&self.counts).under_way
    }

    #[cfg(test)]
    pub(crate) fn hanging(&self) -> usize {
        lock(&self.counts).hanging()
    }

    /// So many threads do not go on, from now on and until the end that comes back is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self, count: usize) -> Held {
        use std::sync::mpsc::channel;
        let ((end, ended), (begin, begun)) = (channel::<()>(), channel());
        let ended = Arc::new(Mutex::new(ended));
        for _ in 0..count {
            let (ended, begin) = (Arc::clone(&ended), begin.clone());
            tokio::task::spawn_blocking(doing(Doing::new(self), move || {
                begin.send(()).expect("the test waits for it");
                let _ = lock(&ended).recv();
            }));
        }
        begun.iter().take(count).for_each(drop);
        Held { _end: end }
    }

    /// So many threads hang by now.
    #[cfg(test)]
    pub(crate) fn hang(&self, count: usize) -> Held {
        let held = self.hold(count);
        self.age(count);
        held
    }

    /// What so many threads do has taken long by now.
    #[cfg(test)]
    fn age(&self, count: usize) {
        let mut counts = lock(&self.counts);
        for (_, begun) in counts.begun.iter_mut().filter(|(_, begun)| begun.elapsed() < LIMIT).take(count) {
            *begun -= LIMIT;
        }
    }
}

/// A long buffer that is lent, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lent(Disk);

impl Drop for Lent {
    fn drop(&mut self) {
        lock(&self.0.counts).buffers -= 1;
    }
}

#[cfg(test)]
pub(crate) struct Held {
    _end: std::sync::mpsc::Sender<()>,
}

/// With as many threads as a worker has.
#[cfg(test)]
pub(crate) fn with_threads(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(THREADS).build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
    runtime.shutdown_background();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it is held")
}

fn doing<T>(mut doing: Doing, act: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        doing.begin();
        let done = act();
        drop(doing);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;

    use nix::sys::socket::{setsockopt, sockopt};
    use tokio::task::yield_now;

    use super::*;
    use crate::deadline::Sweep;

    fn refused(disk: &Disk) -> (bool, bool) {
        (disk.refuses(Ask::Opening), disk.refuses(Ask::Piece))
    }

    async fn is_done(disk: &Disk) {
        while disk.under_way() > 0 {
            yield_now().await;
        }
    }

    #[test]
    fn where_nothing_hangs_all_wait_and_who_goes_says_nothing_of_the_disk() {
        with_threads(async {
            let disk = Disk::default();
            let held = disk.hold(THREADS);
            let mut waiting: Vec<_> = (0..500).map(|number| disk.begin(move || number)).collect();
            assert_eq!(refused(&disk), (false, false));
            waiting.truncate(400);
            assert_eq!((disk.hanging(), refused(&disk)), (0, (false, false)));
            disk.age(1);
            assert_eq!((disk.hanging(), refused(&disk)), (1, (true, false)));
            disk.age(THREADS);
            assert_eq!((disk.hanging(), refused(&disk)), (THREADS, (true, true)));
            drop(held);
            for (number, mut awaited) in waiting.into_iter().enumerate() {
                assert_eq!((&mut awaited.0).await.expect("it is begun"), number);
            }
            is_done(&disk).await;
            assert_eq!((disk.hanging(), refused(&disk)), (0, (false, false)));
        });
    }

    #[test]
    fn what_waits_has_an_end_though_nothing_hangs() {
        with_threads(async {
            let (disk, sweep) = (Disk::default(), Rc::<Sweep>::default());
            let deadline = sweep.deadline();
            let held = disk.hold(THREADS);
            let open = async |gone: Poll<Reason>| {
                let wait = Wait { deadline: &deadline, within: LIMIT, gone: &mut |_| gone };
                disk.run(Ask::Opening, wait, || 7).await
            };
            while disk.under_way() < QUEUE {
                // Whoever wants it goes at once: it stays in the queue.
                assert_eq!(open(Poll::Ready(Reason::ClientGone)).await, Err(Reason::ClientGone));
            }
            assert_eq!(open(Poll::Pending).await, Err(Reason::DiskBusy));
            drop(held);
            is_done(&disk).await;
            assert_eq!(open(Poll::Pending).await, Ok(7));
        });
    }

    /// Closing it waits for whoever is at the other end.
    fn lingering() -> (TcpStream, File) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (far, _) = listener.accept().expect("it is there");
        setsockopt(&near, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 600 }).expect("it is allowed");
        near.set_nonblocking(true).expect("it is a socket");
        while near.write(&[0; 64 << 10]).is_ok() {}
        (far, File::from(OwnedFd::from(near)))
    }

    #[test]
    fn a_close_hangs_once_it_takes_too_long_and_not_because_it_has_waited() {
        with_threads(async {
            let disk = Disk::default();
            let held = disk.hang(THREADS);
            let ends: Vec<_> = (0..THREADS).map(|_| lingering()).collect();
            let (far, files): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
            files.into_iter().for_each(|file| disk.close(file));
            assert_eq!((disk.under_way(), refused(&disk)), (2 * THREADS, (true, true)));
            drop(held);
            while lock(&disk.counts).begun.len() != THREADS || disk.under_way() != THREADS {
                yield_now().await;
            }
            assert_eq!((disk.hanging(), refused(&disk)), (0, (false, false)), "each has only begun");
            disk.age(THREADS);
            assert_eq!(refused(&disk), (true, true));
            for mut end in far {
                let _ = end.set_nonblocking(false);
                let _ = end.read(&mut [0; 1]);
            }
            is_done(&disk).await;
            assert_eq!(refused(&disk), (false, false));
        });
    }
}
