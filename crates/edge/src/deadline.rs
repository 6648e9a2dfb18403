//! Deadlines without a timer each: one coarse sweep per worker looks at all of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

pub(crate) use bowline_core::patience::{Patience, TICK, ticks};

/// All deadlines of one worker, which looks at them once each [`TICK`]: one passes at most this much late.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    tick: Cell<u64>,
    entries: RefCell<Vec<Rc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// The tick at which it passes.
    at: Cell<u64>,
    position: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

const NEVER: u64 = u64::MAX;

impl Sweep {
    /// One tick has passed: wakes whose deadline passed.
    pub(crate) fn tick(&self) {
        let now = self.tick.get() + 1;
        self.tick.set(now);
        for entry in self.entries.borrow().iter().filter(|entry| entry.at.get() <= now) {
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Wakes every task that waits, whatever its deadline: something else happened that all must see.
    pub(crate) fn wake_all(&self) {
        for entry in self.entries.borrow().iter() {
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// How many ticks there were: a clock that costs nothing.
    pub(crate) fn now(&self) -> u64 {
        self.tick.get()
    }

    pub(crate) fn deadline(self: &Rc<Self>) -> Deadline {
        let mut entries = self.entries.borrow_mut();
        let entry = Entry { at: Cell::new(NEVER), position: Cell::new(entries.len()), waker: RefCell::new(None) };
        let entry = Rc::new(entry);
        entries.push(Rc::clone(&entry));
        Deadline { sweep: Rc::clone(self), entry }
    }
}

/// One deadline, moved on as work goes on.
#[derive(Debug)]
pub(crate) struct Deadline {
    sweep: Rc<Sweep>,
    entry: Rc<Entry>,
}

impl Deadline {
    pub(crate) fn set(&self, from_now: Duration) {
        self.entry.at.set(self.sweep.now().saturating_add(ticks(from_now)));
    }

    /// Moves it forward, never back.
    pub(crate) fn set_sooner(&self, from_now: Duration) {
        self.set_no_later(self.sweep.now().saturating_add(ticks(from_now)));
    }

    /// Moves it forward to this tick, never back.
    pub(crate) fn set_no_later(&self, tick: u64) {
        self.entry.at.set(self.entry.at.get().min(tick));
    }

    pub(crate) fn clear(&self) {
        self.entry.at.set(NEVER);
    }

    /// Whether it has passed. The task is woken when it does, also if it has and is set anew.
    pub(crate) fn passed(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.entry.at.get() <= self.sweep.now()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut entries = self.sweep.entries.borrow_mut();
        let position = self.entry.position.get();
        entries.swap_remove(position);
        if let Some(moved) = entries.get(position) {
            moved.position.set(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_never_early_and_wakes_once() {
        let sweep = Rc::new(Sweep::default());
        let deadlines: Vec<_> = (0..3).map(|_| sweep.deadline()).collect();
        let cx = Context::from_waker(Waker::noop());
        deadlines[1].set(TICK);
        let passed = |deadlines: &[Deadline]| deadlines.iter().map(|d| d.passed(&cx)).collect::<Vec<_>>();
        sweep.tick();
        assert_eq!(passed(&deadlines), [false, false, false]);
        sweep.tick();
        assert_eq!(passed(&deadlines), [false, true, false]);
        deadlines[1].clear();
        assert_eq!(passed(&deadlines), [false, false, false]);
    }

    #[test]
    fn who_saw_it_pass_and_sets_it_anew_is_woken_again() {
        struct Count(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let count = std::sync::Arc::new(Count(0.into()));
        let waker = Waker::from(std::sync::Arc::clone(&count));
        let sweep = Rc::new(Sweep::default());
        let deadline = sweep.deadline();
        deadline.set(Duration::ZERO);
        sweep.tick();
        assert!(deadline.passed(&Context::from_waker(&waker)));
        deadline.set(Duration::ZERO);
        sweep.tick();
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn deadlines_leave_in_any_order() {
        let sweep = Rc::new(Sweep::default());
        let (a, b, c) = (sweep.deadline(), sweep.deadline(), sweep.deadline());
        drop(a);
        drop(c);
        drop(b);
        assert!(sweep.entries.borrow().is_empty());
    }
}
