//! What each change has told so far, for whoever follows it from its beginning.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::body::Bytes;
use bowline_api::wire::{ChangeEvent, ChangeStep};
use bowline_core::id::AppKey;
use tokio::sync::watch;

/// Steps kept of one change, and their bytes: the lines of a long build. Older ones are left out, and the reader is told.
const MAX_STEPS: usize = 4_000;
const MAX_BYTES: usize = 2 << 20;

/// Ended changes that can still be followed.
const MAX_ENDED: usize = 32;

/// Bytes kept of all changes. The oldest that have ended go first, then the oldest steps of whichever has the most.
const MAX_ALL: usize = 32 << 20;

/// A reader is given pieces of so many bytes, or of one step.
const PIECE: usize = 64 << 10;

/// What a step takes beside its text.
const BESIDE: usize = size_of::<Step>();

/// The journals of all changes of this daemon's life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journals(Arc<Mutex<BTreeMap<u64, Arc<Journal>>>>);

#[derive(Debug)]
struct Journal {
    pages: Mutex<Pages>,
    /// Counts what was written, to wake readers.
    written: watch::Sender<u64>,
    /// As soon as it is known.
    app: OnceLock<AppKey>,
}

#[derive(Debug, Default)]
struct Pages {
    steps: VecDeque<Step>,
    /// What they take.
    bytes: usize,
    /// Position of the first step kept.
    first: u64,
    ended: bool,
}

/// A step as it is sent: one line of JSON, shared by all who read it.
#[derive(Debug)]
struct Step {
    at: u64,
    line: Bytes,
}

impl Step {
    fn new(event: &ChangeEvent) -> Self {
        let mut line = serde_json::to_vec(event).expect("wire types have string keys and no failing serialisers");
        line.push(b'\n');
        line.shrink_to_fit();
        Self { at: event.at, line: line.into() }
    }

    fn size(&self) -> usize {
        BESIDE + self.line.len()
    }
}

impl Pages {
    fn push(&mut self, step: Step) {
        self.bytes += step.size();
        self.steps.push_back(step);
        while self.steps.len() > MAX_STEPS || self.bytes > MAX_BYTES && self.steps.len() > 1 {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(step) = self.steps.pop_front() {
            self.bytes -= step.size();
            self.first += 1;
        }
    }

    /// Whoever still reads it is told how it ended, and that the rest is left out.
    fn keep_the_end(&mut self) {
        while self.steps.len() > 1 {
            self.drop_first();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journals {
    /// Appends a step. `Done` and `Failed` end the journal.
    pub(crate) fn write(&self, change: u64, event: ChangeEvent) {
        let mut journals = lock(&self.0);
        let journal = journals.entry(change).or_insert_with(Journal::new);
        journal.write(&event);
        bound(&mut journals);
    }

    /// A reader of a change that is about to be told of, if it was not yet.
    pub(crate) fn open(&self, change: u64) -> Reader {
        let journal = Arc::clone(lock(&self.0).entry(change).or_insert_with(Journal::new));
        let written = journal.written.subscribe();
        Reader { journal, written, next: 0 }
    }

    /// Whose change it is.
    pub(crate) fn belongs(&self, change: u64, app: AppKey) {
        let mut journals = lock(&self.0);
        // Said twice, it is the same.
        let _ = journals.entry(change).or_insert_with(Journal::new).app.set(app);
    }

    pub(crate) fn app(&self, change: u64) -> Option<AppKey> {
        lock(&self.0).get(&change)?.app.get().cloned()
    }

    /// A reader from the beginning; `None` if no such change is known.
    pub(crate) fn read(&self, change: u64) -> Option<Reader> {
        let journal = Arc::clone(lock(&self.0).get(&change)?);
        let written = journal.written.subscribe();
        Some(Reader { journal, written, next: 0 })
    }
}

/// Forgets what is too much.
fn bound(journals: &mut BTreeMap<u64, Arc<Journal>>) {
    let mut ended: VecDeque<u64> = journals.iter().filter(|(_, j)| lock(&j.pages).ended).map(|(id, _)| *id).collect();
    let mut bytes: usize = journals.values().map(|journal| lock(&journal.pages).bytes).sum();
    while ended.len() > MAX_ENDED || bytes > MAX_ALL {
        let Some(journal) = ended.pop_front().and_then(|id| journals.remove(&id)) else { break };
        let mut pages = lock(&journal.pages);
        bytes -= pages.bytes;
        pages.keep_the_end();
    }
    while bytes > MAX_ALL {
        // Of each the newest step is kept, however long.
        let many = journals.values().filter(|journal| lock(&journal.pages).steps.len() > 1);
        let Some(largest) = many.max_by_key(|journal| lock(&journal.pages).bytes) else { return };
        let mut pages = lock(&largest.pages);
        let before = pages.bytes;
        pages.drop_first();
        bytes -= before - pages.bytes;
    }
}

impl Journal {
    fn new() -> Arc<Self> {
        Arc::new(Self { pages: Mutex::default(), written: watch::Sender::new(0), app: OnceLock::new() })
    }

    fn write(&self, event: &ChangeEvent) {
        let mut pages = lock(&self.pages);
        pages.ended |= matches!(event.what, ChangeStep::Done { .. } | ChangeStep::Failed { .. });
        pages.push(Step::new(event));
        drop(pages);
        self.written.send_modify(|n| *n += 1);
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    journal: Arc<Journal>,
    written: watch::Receiver<u64>,
    next: u64,
}

impl Reader {
    /// What comes next, at least one step, as lines of JSON; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.written.borrow_and_update();
            let (piece, ended) = self.take();
            if !piece.is_empty() {
                return Some(piece);
            }
            if ended || self.written.changed().await.is_err() {
                return None;
            }
        }
    }

    fn take(&mut self) -> (Bytes, bool) {
        let pages = lock(&self.journal.pages);
        let left_out = pages.first.saturating_sub(self.next);
        self.next = self.next.max(pages.first);
        let from = usize::try_from(self.next - pages.first).unwrap_or(usize::MAX);
        let mut piece = Vec::new();
        for step in pages.steps.range(from.min(pages.steps.len())..) {
            if left_out > 0 && piece.is_empty() {
                piece.extend_from_slice(&Step::new(&earlier(left_out, step.at)).line);
            } else if !piece.is_empty() && piece.len() + step.line.len() > PIECE {
                break;
            }
            piece.extend_from_slice(&step.line);
            self.next += 1;
        }
        (piece.into(), pages.ended)
    }
}

fn earlier(left_out: u64, at: u64) -> ChangeEvent {
    ChangeEvent { at, what: ChangeStep::Note { service: None, text: format!("{left_out} earlier steps are left out") } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(at: u64) -> ChangeEvent {
        ChangeEvent { at, what: ChangeStep::Note { service: None, text: at.to_string() } }
    }

    fn done() -> ChangeEvent {
        ChangeEvent { at: 0, what: ChangeStep::Done { release: 1, cached: false, urls: Vec::new() } }
    }

    fn line(at: u64, bytes: usize) -> ChangeEvent {
        ChangeEvent { at, what: ChangeStep::Note { service: None, text: "x".repeat(bytes) } }
    }

    fn steps(piece: Option<Bytes>) -> Option<Vec<ChangeEvent>> {
        let lines = piece?.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let lines: Vec<Vec<u8>> = lines;
        Some(lines.iter().map(|line| serde_json::from_slice(line).unwrap()).collect())
    }

    async fn all(mut reader: Reader) -> Vec<ChangeEvent> {
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await {
            assert!(piece.len() <= PIECE + 1_000, "{}", piece.len());
            all.extend(steps(Some(piece)).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_reader_gets_every_step_once_and_then_the_end() {
        let journals = Journals::default();
        journals.write(7, note(1));
        let mut reader = journals.read(7).unwrap();
        assert_eq!(steps(reader.next().await), Some(vec![note(1)]));
        let (second, ()) = tokio::join!(reader.next(), async { journals.write(7, note(2)) });
        assert_eq!(steps(second), Some(vec![note(2)]));
        journals.write(7, done());
        assert_eq!(steps(reader.next().await), Some(vec![done()]));
        assert_eq!(reader.next().await, None);
        assert!(journals.read(8).is_none());
    }

    #[tokio::test]
    async fn a_long_change_keeps_its_end_and_says_what_is_left_out() {
        let journals = Journals::default();
        (0..MAX_STEPS as u64 + 4).for_each(|at| journals.write(1, note(at)));
        journals.write(1, done());
        let steps = all(journals.read(1).unwrap()).await;
        assert_eq!(steps.len(), MAX_STEPS + 1);
        assert!(matches!(&steps[0].what, ChangeStep::Note { text, .. } if text == "5 earlier steps are left out"));
        assert_eq!((&steps[1], steps.last()), (&note(5), Some(&done())));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_in_bytes_of_one_change_and_of_all() {
        let kept = |journals: &Journals| -> Vec<usize> {
            lock(&journals.0).values().map(|journal| lock(&journal.pages).bytes).collect()
        };
        let journals = Journals::default();
        (0..1_000).for_each(|at| journals.write(1, line(at, 16 << 10)));
        assert!(matches!(kept(&journals)[..], [1..=MAX_BYTES]), "{:?}", kept(&journals));
        let mut reader = journals.read(1).unwrap();
        journals.write(1, done());
        for id in 2..=40 {
            (0..140).for_each(|at| journals.write(id, line(at, 16 << 10)));
        }
        assert!(kept(&journals).iter().sum::<usize>() <= MAX_ALL);
        assert!(journals.read(1).is_none(), "of what has ended nothing is left");
        assert!(journals.read(40).is_some());
        let told = steps(reader.next().await).unwrap();
        assert!(matches!(&told[0].what, ChangeStep::Note { text, .. } if text == "1000 earlier steps are left out"));
        assert_eq!(told[1..], [done()], "whoever reads it is told the end");
        assert_eq!(reader.next().await, None);
        journals.write(41, line(0, 3 * MAX_BYTES));
        assert!(journals.read(41).unwrap().next().await.is_some(), "one step is kept, however long");
    }

    #[test]
    fn only_the_last_ended_changes_are_kept() {
        let journals = Journals::default();
        journals.write(0, note(0));
        (1..=40).for_each(|id| journals.write(id, done()));
        assert!(journals.read(0).is_some(), "it has not ended");
        assert!(journals.read(8).is_none());
        assert!(journals.read(9).is_some());
    }
}
