//! Work that may block, away from the thread that serves: a disk that hangs (a file server that is away, a dying SSD) holds up who asks for
//! its files, and nobody else. What hangs cannot be ended, only left behind: it is bounded in number.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::answer::Reason;
use crate::deadline::Deadline;
use crate::worker::BUFFER;

/// Threads of one worker that may hang; the runtime ends one that has had nothing to do for 10 s.
pub(crate) const THREADS: usize = 8;

/// Openings that wait for one of them while others hang. What is more is refused.
const WAITING: usize = 64;

/// Longest that anything is waited for: a disk that was asleep takes less.
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
    /// Threads for whose end nobody waits any more.
    given_up: usize,
}

/// What the disk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The beginning of an answer.
    Opening,
    /// More of an answer that has begun: to refuse it is to cut the answer.
    Piece,
}

/// What is told of one piece of work by whoever does it and by whoever waits for it, in any order.
#[derive(Debug)]
struct Work {
    counts: Arc<Mutex<Counts>>,
    stage: Mutex<Stage>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stage {
    /// A thread does it.
    begun: bool,
    /// Nobody waits for it.
    left: bool,
    over: bool,
}

impl Stage {
    fn is_given_up(self) -> bool {
        self.begun && self.left && !self.over
    }
}

impl Work {
    fn new(disk: &Disk) -> Arc<Self> {
        lock(&disk.counts).under_way += 1;
        Arc::new(Self { counts: Arc::clone(&disk.counts), stage: Mutex::default() })
    }

    fn note(&self, change: impl FnOnce(&mut Stage)) {
        let (before, after) = {
            let (mut stage, mut counts) = (lock(&self.stage), lock(&self.counts));
            let (was, before) = (*stage, counts.given_up);
            change(&mut stage);
            counts.under_way -= usize::from(stage.over && !was.over);
            counts.given_up = before + usize::from(stage.is_given_up()) - usize::from(was.is_given_up());
            (before, counts.given_up)
        };
        // Whoever writes it may wait too: nothing is locked meanwhile.
        match (before, after) {
            (0, 1..) => tracing::warn!("the disk does not answer in time"),
            (1.., 0) => tracing::info!("the disk answers again"),
            _ => {}
        }
    }
}

/// Held by whoever does it: also what panics, or was never begun, is over.
struct Doing(Arc<Work>);

impl Drop for Doing {
    fn drop(&mut self) {
        self.0.note(|stage| stage.over = true);
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
        self.work.note(|stage| stage.left = true);
    }
}

impl Disk {
    /// Does `work`, and waits for it for so long, at most [`LIMIT`].
    ///
    /// # Errors
    /// It took longer; or too much hangs already: then it is not begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        ask: Ask,
        (deadline, within): (&Deadline, Duration),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Reason> {
        if self.refuses(ask) {
            return Err(Reason::DiskBusy);
        }
        let mut awaited = self.begin(work);
        deadline.set(within.min(LIMIT));
        poll_fn(|cx| match Pin::new(&mut awaited.handle).poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map_err(|_| Reason::Internal)),
            Poll::Pending if deadline.passed(cx) => Poll::Ready(Err(Reason::DiskTimeout)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Where nothing hangs, all wait: each has its deadline.
    fn refuses(&self, ask: Ask) -> bool {
        let counts = lock(&self.counts);
        let is_crowded = counts.given_up > 0 && counts.under_way >= THREADS + WAITING;
        counts.given_up >= THREADS || (ask == Ask::Opening && is_crowded)
    }

    fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Awaited<T> {
        let begun = Work::new(self);
        let handle = tokio::task::spawn_blocking(doing(Arc::clone(&begun), work));
        Awaited { handle, work: begun }
    }

    /// Closes it in a thread. That is never refused: what is not closed stays open.
    fn close(&self, file: File) {
        // Where no thread begins it any more, the process ends, which closes it: whoever drops it here would wait.
        let file = ManuallyDrop::new(file);
        let Ok(runtime) = Handle::try_current() else { return };
        let work = Work::new(self);
        let closed = runtime.spawn_blocking(doing(Arc::clone(&work), move || drop(ManuallyDrop::into_inner(file))));
        runtime.spawn(async move {
            let _ = timeout(LIMIT, closed).await;
            work.note(|stage| stage.left = true);
        });
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
            Box::new(hanging) as Box<dyn std::any::Any>
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

fn doing<T>(work: Arc<Work>, act: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let doing = Doing(work);
    move || {
        doing.0.note(|stage| stage.begun = true);
        let done = act();
        drop(doing);
        done
    }
}

/// What files lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Memory,
    /// A disk of this machine: what memory has of it, and closing, is not waited for.
    Disk,
    /// Perhaps a server: whatever is asked of it may wait.
    Elsewhere,
}

impl Medium {
    /// Asks only what the kernel knows by itself: a file system that is asked may ask its server.
    fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find(|line| line.split(' ').next() == Some(id))?;
        // Before it come optional fields, none of which is a single dash.
        Some(match mount.split_once(" - ")?.1.split(' ').next()? {
            "tmpfs" | "ramfs" => Self::Memory,
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => Self::Disk,
            _ => Self::Elsewhere,
        })
    }
}

/// A mount of this machine.
type Mount = (u64, u32, u32);

/// Never waits for a disk of this machine, nor, but where its cache is void, for a server.
fn mount_of(fd: BorrowedFd<'_>) -> Option<Mount> {
    /// `STATX_MNT_ID_UNIQUE`, since Linux 6.8, which no library knows. Before, another mount gets the number of one that is gone.
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let stat = statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID | UNIQUE).ok()?;
    // Within one mount of btrfs there are many devices.
    let is_unique = stat.stx_mask & UNIQUE.bits() != 0;
    let device = if is_unique { (0, 0) } else { (stat.stx_dev_major, stat.stx_dev_minor) };
    Some((stat.stx_mnt_id, device.0, device.1))
}

/// Where a folder lies.
#[derive(Debug)]
pub(crate) struct Place {
    medium: Medium,
    /// `None`: elsewhere.
    mount: Option<Mount>,
}

impl Place {
    pub(crate) fn of(root: impl AsFd) -> Self {
        let medium = Medium::of(root.as_fd()).filter(|medium| *medium != Medium::Elsewhere);
        let mount = medium.and_then(|_| mount_of(root.as_fd()));
        Self { medium: medium.filter(|_| mount.is_some()).unwrap_or(Medium::Elsewhere), mount }
    }

    pub(crate) fn is_elsewhere(&self) -> bool {
        self.medium == Medium::Elsewhere
    }

    /// What this lies on. Where it is not of the same mount, that is not known.
    pub(crate) fn medium(&self, fd: impl AsFd) -> Medium {
        let is_here = self.mount.is_some() && mount_of(fd.as_fd()) == self.mount;
        if is_here { self.medium } else { Medium::Elsewhere }
    }
}

/// A file that is open. Where closing it may wait, a thread does it.
#[derive(Debug)]
pub(crate) struct Kept {
    /// `None`: no longer.
    file: Option<Arc<File>>,
    medium: Medium,
    /// Its file system does not say what memory has.
    refuses: bool,
    disk: Disk,
}

impl Kept {
    pub(crate) fn new(disk: &Disk, file: File, medium: Medium) -> Self {
        Self { file: Some(Arc::new(file)), medium, refuses: false, disk: disk.clone() }
    }

    /// Reads what lies in memory already, and never waits; `None`: nothing does, or that is not known of this file system. What is served
    /// often needs no other thread.
    fn read_in_place(&mut self, buffer: &mut [u8], at: u64) -> Option<usize> {
        let file = self.file.as_ref().filter(|_| !self.refuses)?;
        let read = match self.medium {
            Medium::Memory => read(file, buffer, at).ok(),
            Medium::Disk | Medium::Elsewhere => {
                let read = preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT);
                self.refuses = read == Err(Errno::OPNOTSUPP);
                read.ok()
            }
        };
        // At an end that comes too early, whoever may wait says what is wrong.
        read.filter(|read| *read > 0)
    }

    /// The same in a thread, to which the buffer is lent.
    async fn read(
        &self,
        clock: (&Deadline, Duration),
        mut lent: Vec<u8>,
        at: u64,
    ) -> Result<(Vec<u8>, io::Result<usize>), Reason> {
        let file = self.file.clone().ok_or(Reason::Internal)?;
        let work = move || {
            let read = read(&file, &mut lent, at);
            (lent, read)
        };
        self.disk.run(Ask::Piece, clock, work).await
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Whoever still reads it is a thread, and closes it.
        if let Some(file) = self.file.take().and_then(Arc::into_inner)
            && self.medium == Medium::Elsewhere
        {
            self.disk.close(file);
        }
    }
}

/// What is still to be sent of a file.
#[derive(Debug)]
pub(crate) struct Rest {
    file: Kept,
    at: u64,
    left: u64,
    buffer: Vec<u8>,
    /// What the buffer holds, and how much of that has been sent.
    read: usize,
    sent: usize,
}

/// What a thread reads at once where each piece needs one; elsewhere the kernel reads ahead.
const AHEAD: usize = 128 << 10;

impl Rest {
    /// So much from there on, read into this buffer.
    pub(crate) fn new(file: Kept, (at, left): (u64, u64), buffer: Vec<u8>) -> Self {
        Self { file, at, left, buffer, read: 0, sent: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// The next piece, of at most [`BUFFER`].
    pub(crate) async fn next(&mut self, clock: (&Deadline, Duration)) -> Result<&[u8], Reason> {
        if self.sent == self.read {
            self.read = self.fill(clock).await?;
            self.sent = 0;
            self.at += self.read as u64;
        }
        let from = self.sent;
        self.sent = self.read.min(from + BUFFER);
        self.left -= (self.sent - from) as u64;
        Ok(&self.buffer[from..self.sent])
    }

    async fn fill(&mut self, clock: (&Deadline, Duration)) -> Result<usize, Reason> {
        self.resize();
        if let Some(read) = self.file.read_in_place(&mut self.buffer, self.at) {
            return Ok(read);
        }
        self.resize();
        let lent = std::mem::take(&mut self.buffer);
        let (lent, read) = self.file.read(clock, lent, self.at).await?;
        self.buffer = lent;
        match read {
            // Release folders do not change; if a file shrinks all the same, the answer is cut.
            Ok(0) => Err(Reason::FileUnreadable),
            Ok(read) => Ok(read),
            Err(error) => {
                tracing::warn!(%error, "a file cannot be read");
                Err(Reason::FileUnreadable)
            }
        }
    }

    fn resize(&mut self) {
        let most = if self.file.refuses { AHEAD } else { BUFFER };
        self.buffer.resize(usize::try_from(self.left).unwrap_or(most).min(most), 0);
    }
}

fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::OwnedFd;

    use tokio::task::yield_now;

    use super::*;

    fn with_threads(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(THREADS).build().expect("a runtime").block_on(test);
    }

    #[test]
    fn where_nothing_hangs_all_wait_and_who_goes_says_nothing_of_the_disk() {
        with_threads(async {
            let disk = Disk::default();
            let refused = || (disk.refuses(Ask::Opening), disk.refuses(Ask::Piece));
            let mut slow = disk.hang(THREADS);
            let mut waiting: Vec<_> = (0..500).map(|number| disk.begin(move || number)).collect();
            assert_eq!(refused(), (false, false));
            waiting.truncate(400);
            assert_eq!((disk.given_up(), refused()), (0, (false, false)));
            slow.awaited.pop();
            assert_eq!((disk.given_up(), refused()), (1, (true, false)));
            slow.awaited.clear();
            assert_eq!((disk.given_up(), refused()), (THREADS, (true, true)));
            drop(slow);
            for (number, mut awaited) in waiting.into_iter().enumerate() {
                assert_eq!((&mut awaited.handle).await.expect("it is begun"), number);
            }
            while lock(&disk.counts).under_way > 0 {
                yield_now().await;
            }
            assert_eq!(refused(), (false, false));
        });
    }

    #[test]
    fn what_may_wait_when_it_is_closed_is_closed_by_a_thread() {
        with_threads(async {
            let disk = Disk::default();
            let file = || {
                let (reader, writer) = pipe().expect("a pipe");
                (reader, File::from(OwnedFd::from(writer)))
            };
            let ((mut here, at_once), (mut elsewhere, later)) = (file(), file());
            let hanging = disk.hang(THREADS);
            drop(Kept::new(&disk, at_once, Medium::Disk));
            assert_eq!(here.read(&mut [0]).expect("it is closed"), 0);
            drop(Kept::new(&disk, later, Medium::Elsewhere));
            assert_eq!(lock(&disk.counts).under_way, THREADS + 1);
            drop(hanging);
            assert_eq!(elsewhere.read(&mut [0]).expect("it is closed"), 0);
        });
    }
}
