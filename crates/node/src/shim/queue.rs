//! What waits to be written to the log, between the thread that reads the app and the one that writes.
//!
//! A write to a disk that hangs returns when the disk does, and nothing ends it before. So it has a thread of its own, and
//! whoever reads the app waits for it at most [`PATIENCE`]: a disk that is busy holds an app back for a moment, as a full pipe
//! does; one that hangs costs lines, which are counted and told in their place.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::log::{LogFile, Tag};
use super::outer::now_ms;

/// What waits at most: as much as a pipe of an app holds.
const ROOM: usize = 256 << 10;
/// Written at once, if there is as much.
const BATCH: usize = 32 << 10;
/// Not more than the number, the tag and the incarnation before a line's text, and its end.
const FRAME: usize = 40;
/// A batch is taken by a disk that works in far less, with a whole file to remove before it.
const PATIENCE: Duration = Duration::from_millis(100);
/// For what is left at the end; less than the daemon leaves a shim to get done.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// It calls nothing that is deep.
const STACK: usize = 64 << 10;

/// The reading side.
pub(super) struct Log {
    queue: Arc<Queue>,
    incarnation: u32,
}

impl Log {
    /// Architecture invariant: whoever calls this forks no more.
    ///
    /// # Errors
    /// The machine is out of processes or memory.
    pub(super) fn start(file: LogFile, incarnation: u32) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(PATIENCE));
        let to_write = queue.clone();
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        // Never joined: it may hang for as long as the disk does.
        thread.spawn(move || to_write.write_all(file))?;
        Ok(Self { queue, incarnation })
    }

    pub(super) fn line(&mut self, now_ms: u64, tag: Tag, text: &[u8]) {
        self.queue.push(now_ms, tag, self.incarnation, text);
    }

    /// What has been said so far is written soon.
    pub(super) fn flush(&mut self) {
        self.queue.flush();
    }

    /// The last line, which always finds room.
    pub(super) fn close(&mut self, now_ms: u64, tag: Tag, text: &[u8]) {
        self.queue.close(framed(now_ms, tag, self.incarnation, text));
    }

    /// Waits until everything was written, or failed to be, but not for a disk that hangs.
    pub(super) fn settle(&mut self) {
        self.queue.settle(LAST_PATIENCE);
    }
}

fn framed(now_ms: u64, tag: Tag, incarnation: u32, text: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + FRAME);
    frame(&mut line, now_ms, tag, incarnation, text);
    line
}

fn frame(into: &mut Vec<u8>, now_ms: u64, tag: Tag, incarnation: u32, text: &[u8]) {
    // Writing to a vector cannot fail.
    let _ = write!(into, "{now_ms} {}{incarnation} ", tag.letter());
    into.extend_from_slice(text);
    into.push(b'\n');
}

/// Whole lines, before which `missed` others found no room.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    missed: u64,
    lines: Vec<u8>,
}

struct Queue {
    patience: Duration,
    waiting: Mutex<Waiting>,
    /// There is something to write.
    filled: Condvar,
    /// There is room again, or all is done.
    taken: Condvar,
}

struct Waiting {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Found no room since the last batch.
    missed: u64,
    /// The last batch is to be written although it could be larger.
    flushed: bool,
    /// Since when the writer has had nothing to do, or what it does now.
    since: Instant,
    idle: bool,
    closed: bool,
    done: bool,
}

impl Waiting {
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= ROOM
    }

    /// With what was missed before it, if that is not told yet.
    fn batch(&mut self) -> &mut Batch {
        let fits = self.missed == 0 && self.batches.back().is_some_and(|last| last.lines.len() < BATCH);
        if !fits {
            let missed = std::mem::take(&mut self.missed);
            self.batches.push_back(Batch { missed, lines: Vec::new() });
        }
        self.batches.back_mut().expect("there is one, or it was made")
    }

    fn append(&mut self, line: impl FnOnce(&mut Vec<u8>)) {
        let lines = &mut self.batch().lines;
        let before = lines.len();
        line(lines);
        let more = lines.len() - before;
        self.bytes += more;
        self.flushed = false;
        if std::mem::take(&mut self.idle) {
            self.since = Instant::now();
        }
    }

    fn next(&mut self) -> Option<Batch> {
        let ready = self.flushed || self.closed || self.batches.len() > 1;
        let batch = match self.batches.pop_front_if(|_| ready) {
            Some(batch) => batch,
            // Told although nothing more is said.
            None if ready && self.missed > 0 => Batch { missed: std::mem::take(&mut self.missed), lines: Vec::new() },
            None => return None,
        };
        self.bytes -= batch.lines.len();
        self.since = Instant::now();
        Some(batch)
    }
}

impl Queue {
    fn new(patience: Duration) -> Self {
        let waiting = Waiting {
            batches: VecDeque::new(),
            bytes: 0,
            missed: 0,
            flushed: false,
            since: Instant::now(),
            idle: true,
            closed: false,
            done: false,
        };
        Self { patience, waiting: Mutex::new(waiting), filled: Condvar::new(), taken: Condvar::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, now_ms: u64, tag: Tag, incarnation: u32, text: &[u8]) {
        let mut waiting = self.waiting();
        let bytes = text.len() + FRAME;
        while !waiting.has_room(bytes) {
            let left = self.patience.saturating_sub(waiting.since.elapsed());
            if left.is_zero() {
                waiting.missed += 1;
                return;
            }
            self.filled.notify_one();
            waiting = self.taken.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.append(|lines| frame(lines, now_ms, tag, incarnation, text));
    }

    fn flush(&self) {
        let mut waiting = self.waiting();
        if !waiting.batches.is_empty() || waiting.missed > 0 {
            waiting.flushed = true;
            self.filled.notify_one();
        }
    }

    fn close(&self, last: Vec<u8>) {
        let mut waiting = self.waiting();
        waiting.append(|lines| lines.extend_from_slice(&last));
        waiting.closed = true;
        self.filled.notify_one();
    }

    fn settle(&self, patience: Duration) {
        let waiting = self.waiting();
        let _ = self.taken.wait_timeout_while(waiting, patience, |waiting| !waiting.done);
    }

    fn write_all(&self, mut file: LogFile) {
        while let Some(Batch { missed, lines }) = self.take() {
            file.write(missed, &lines, now_ms());
        }
        self.waiting().done = true;
        self.taken.notify_one();
    }

    /// Waits for something to write. `None`: nothing will come any more.
    fn take(&self) -> Option<Batch> {
        let mut waiting = self.waiting();
        loop {
            if let Some(batch) = waiting.next() {
                self.taken.notify_one();
                return Some(batch);
            }
            if waiting.closed {
                return None;
            }
            waiting.idle = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn said(queue: &Queue, n: usize, text: &[u8]) {
        queue.push(n as u64, Tag::Out, 1, text);
    }

    fn taken(queue: &Queue) -> (u64, String) {
        let Batch { missed, lines } = queue.take().expect("something waits");
        (missed, String::from_utf8(lines).expect("text"))
    }

    #[test]
    fn what_was_said_is_written_in_order_and_the_last_line_last() {
        let queue = Queue::new(Duration::ZERO);
        said(&queue, 1, b"first");
        queue.push(2, Tag::Err, 1, b"second");
        queue.flush();
        assert_eq!(taken(&queue), (0, "1 o1 first\n2 e1 second\n".to_owned()));
        said(&queue, 3, b"third");
        queue.close(b"4 b1 exited\n".to_vec());
        assert_eq!(taken(&queue), (0, "3 o1 third\n4 b1 exited\n".to_owned()));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn what_finds_no_room_is_counted_where_it_is_missing() {
        let (queue, line) = (Queue::new(Duration::ZERO), [b'x'; 1000]);
        let held = (0..).take_while(|n| {
            said(&queue, *n, &line);
            queue.waiting().missed == 0
        });
        let held = held.count();
        assert!((250..=ROOM / 1000).contains(&held), "{held} lines");
        said(&queue, held, &line);
        let first = queue.take().expect("something waits");
        said(&queue, 7, b"there is room again");
        said(&queue, 8, b"and more");
        queue.close(b"9 b1 exited\n".to_vec());
        let rest: Vec<Batch> = std::iter::from_fn(|| queue.take()).collect();
        let (last, before) = rest.split_last().expect("more waits");
        assert!(first.missed == 0 && before.iter().all(|batch| batch.missed == 0));
        assert_eq!(last.missed, 2);
        assert_eq!(last.lines, b"7 o1 there is room again\n8 o1 and more\n9 b1 exited\n");
        let lines = |batch: &Batch| batch.lines.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(before.iter().chain([&first]).map(lines).sum::<usize>(), held);
    }

    #[test]
    fn a_loss_is_told_even_when_nothing_more_is_said() {
        let queue = Queue::new(Duration::ZERO);
        while queue.waiting().missed == 0 {
            said(&queue, 1, &[b'x'; 9000]);
        }
        queue.flush();
        let last = std::iter::from_fn(|| Some(queue.take()?.missed)).find(|missed| *missed > 0);
        assert_eq!(last, Some(1));
    }

    proptest! {
        /// Whatever is taken when: each line is taken or missed, in order, and what waits is within its bound.
        #[test]
        fn every_line_is_written_or_counted(steps in proptest::collection::vec((0usize..20_000, 0u8..4), 1..200)) {
            let queue = Queue::new(Duration::ZERO);
            let mut all = Vec::new();
            for (n, (length, step)) in steps.iter().enumerate() {
                said(&queue, n, &vec![b'x'; *length]);
                prop_assert!(queue.waiting().bytes <= ROOM);
                if *step == 0 {
                    queue.flush();
                    all.extend(queue.take());
                }
            }
            queue.close(format!("{} b1 exited\n", steps.len()).into_bytes());
            all.extend(std::iter::from_fn(|| queue.take()));
            prop_assert_eq!(queue.waiting().bytes, 0);
            let mut next = 0;
            for Batch { missed, lines } in all {
                next += missed;
                for line in String::from_utf8(lines).unwrap().lines() {
                    prop_assert_eq!(line.split(' ').next().unwrap().parse(), Ok(next));
                    next += 1;
                }
            }
            prop_assert_eq!(next, steps.len() as u64 + 1);
        }
    }

    /// A pipe that nobody reads from takes as little as a disk that hangs: it cannot even be opened.
    #[test]
    fn a_write_that_hangs_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let counter = crate::shim::contract::open_dropped(folder.path()).unwrap();
        let mut log = Log::start(LogFile::new(path.clone(), 1 << 30, 3, 1, Some(counter)), 1).unwrap();
        let before = Instant::now();
        for n in 0..1000 {
            log.line(n, Tag::Out, &[b'x'; 1000]);
            log.flush();
        }
        log.close(1000, Tag::Bowline, b"exited: code 0");
        log.settle();
        // Once for a write that takes long, and once for the end.
        assert!(before.elapsed() < (PATIENCE + LAST_PATIENCE) * 3, "{:?}", before.elapsed());
        let mut text = String::new();
        fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        log.settle();
        let lines: Vec<&str> = text.lines().collect();
        let [.., notice, last] = lines.as_slice() else { panic!("{text}") };
        assert_eq!(*last, "1000 b1 exited: code 0");
        let missed = 1000 - (lines.len() - 2);
        assert!(
            notice.ends_with(&format!(" b1 {missed} lines dropped: the disk did not take them in time")),
            "{notice}"
        );
        assert_eq!(crate::shim::contract::read_dropped(folder.path()), missed as u64);
    }
}
