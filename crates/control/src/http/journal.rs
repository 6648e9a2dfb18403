//! What each change has told so far, for whoever follows it from its beginning.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bowline_api::wire::{ChangeEvent, ChangeStep};
use bowline_core::id::AppKey;
use tokio::sync::watch;

/// Steps kept of one change: the lines of a long build. Older ones are left out, and the reader is told.
const MAX_STEPS: usize = 4_000;

/// Ended changes that can still be followed.
const MAX_ENDED: usize = 32;

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
    steps: VecDeque<ChangeEvent>,
    /// Position of the first step kept.
    first: u64,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journals {
    /// Appends a step. `Done` and `Failed` end the journal.
    pub(crate) fn write(&self, change: u64, event: ChangeEvent) {
        let mut journals = lock(&self.0);
        let journal = journals.entry(change).or_insert_with(Journal::new);
        journal.write(event);
        let ended: Vec<u64> = journals.iter().filter(|(_, j)| lock(&j.pages).ended).map(|(id, _)| *id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
            journals.remove(id);
        }
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

impl Journal {
    fn new() -> Arc<Self> {
        Arc::new(Self { pages: Mutex::default(), written: watch::Sender::new(0), app: OnceLock::new() })
    }

    fn write(&self, event: ChangeEvent) {
        let mut pages = lock(&self.pages);
        pages.ended |= matches!(event.what, ChangeStep::Done { .. } | ChangeStep::Failed { .. });
        pages.steps.push_back(event);
        if pages.steps.len() > MAX_STEPS {
            pages.steps.pop_front();
            pages.first += 1;
        }
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
    /// The steps since the last call, at least one; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Vec<ChangeEvent>> {
        loop {
            self.written.borrow_and_update();
            let (steps, ended) = self.take();
            if !steps.is_empty() {
                return Some(steps);
            }
            if ended || self.written.changed().await.is_err() {
                return None;
            }
        }
    }

    fn take(&mut self) -> (Vec<ChangeEvent>, bool) {
        let pages = lock(&self.journal.pages);
        let left_out = pages.first.saturating_sub(self.next);
        let from = usize::try_from(self.next.max(pages.first) - pages.first).unwrap_or(usize::MAX);
        let kept = pages.steps.iter().skip(from);
        let note = kept.clone().next().filter(|_| left_out > 0).map(|first| ChangeEvent {
            at: first.at,
            what: ChangeStep::Note { service: None, text: format!("{left_out} earlier steps are left out") },
        });
        let steps = note.into_iter().chain(kept.cloned()).collect();
        self.next = pages.first + pages.steps.len() as u64;
        (steps, pages.ended)
    }
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

    #[tokio::test]
    async fn a_reader_gets_every_step_once_and_then_the_end() {
        let journals = Journals::default();
        journals.write(7, note(1));
        let mut reader = journals.read(7).unwrap();
        assert_eq!(reader.next().await, Some(vec![note(1)]));
        let (steps, ()) = tokio::join!(reader.next(), async { journals.write(7, note(2)) });
        assert_eq!(steps, Some(vec![note(2)]));
        journals.write(7, done());
        assert_eq!(reader.next().await, Some(vec![done()]));
        assert_eq!(reader.next().await, None);
        assert!(journals.read(8).is_none());
    }

    #[tokio::test]
    async fn a_long_change_keeps_its_end_and_says_what_is_left_out() {
        let journals = Journals::default();
        (0..MAX_STEPS as u64 + 5).for_each(|at| journals.write(1, note(at)));
        let steps = journals.read(1).unwrap().next().await.unwrap();
        assert_eq!(steps.len(), MAX_STEPS + 1);
        assert!(matches!(&steps[0].what, ChangeStep::Note { text, .. } if text == "5 earlier steps are left out"));
        assert_eq!(steps[1], note(5));
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
