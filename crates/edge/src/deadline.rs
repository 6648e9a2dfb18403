//! Deadlines without a timer each: one coarse sweep per worker looks at all of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// How often a worker looks. A deadline passes at most this much late.
pub(crate) const TICK: Duration = Duration::from_millis(TICK_MS as u64);
const TICK_MS: u32 = 100;

/// All deadlines of one worker.
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

/// Bytes a second for which a sender is waited on: what IIS and Kestrel ask of clients; Apache asks for twice as much.
const LEAST_RATE: u64 = 240;

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

/// The ticks that `duration` takes, rounded up; one more, because the present tick has partly passed.
pub(crate) fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(NEVER).saturating_add(1)
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

/// With whoever sends or takes something in pieces: so long in all, and as much longer as what comes takes at [`LEAST_RATE`], but at no time longer
/// than at the beginning. A deadline that each piece sets anew is none for who drips. Packed, since each connection has room for one.
#[derive(Debug)]
pub(crate) struct Patience {
    whole_ms: u32,
    left_ms: u32,
    /// The tick since which more is waited for; [`Self::NOT_WAITING`]. They last for 13 years.
    since: u32,
    /// Bytes that have counted.
    counted: u64,
}

impl Patience {
    const NOT_WAITING: u32 = u32::MAX;

    /// Longer ones than 49 days are as long.
    pub(crate) fn new(whole: Duration) -> Self {
        let whole_ms = u32::try_from(whole.as_millis()).unwrap_or(u32::MAX);
        Self { whole_ms, left_ms: whole_ms, since: Self::NOT_WAITING, counted: 0 }
    }

    /// More is waited for. Returns the tick at which it is at its end.
    pub(crate) fn waits(&mut self, now: u64) -> u64 {
        if self.since == Self::NOT_WAITING {
            self.since = tick(now);
        }
        // What is left is not rounded up: pieces that come more often than ticks would have that much more each time.
        let is_over = self.left_ms < TICK_MS.min(self.whole_ms);
        let left = if is_over { 0 } else { ticks(Duration::from_millis(self.left_ms.into())) };
        u64::from(self.since).saturating_add(left)
    }

    /// Something has moved, `bytes` in all by now, and more is not waited for yet.
    pub(crate) fn moved(&mut self, now: u64, bytes: u64) {
        let since = std::mem::replace(&mut self.since, Self::NOT_WAITING);
        let waited =
            if since == Self::NOT_WAITING { 0 } else { tick(now).saturating_sub(since).saturating_mul(TICK_MS) };
        let earned = bytes.saturating_sub(self.counted).saturating_mul(1000) / LEAST_RATE;
        self.counted = bytes;
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.left_ms = self.left_ms.saturating_sub(waited).saturating_add(earned).min(self.whole_ms);
    }

    /// Whether some of it has been used, and was not earned again.
    pub(crate) fn is_used(&self) -> bool {
        self.left_ms < self.whole_ms
    }
}

fn tick(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(Patience::NOT_WAITING - 1)
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
    fn who_drips_is_waited_for_no_longer_than_who_sends_nothing() {
        const WHOLE: Duration = Duration::from_secs(60);
        let second = ticks(Duration::from_secs(1)) - 1;
        // Pieces of so many bytes, one each so many seconds: the second at which it is over, within an hour.
        let over = |bytes: u64, seconds: u64| {
            let mut patience = Patience::new(WHOLE);
            (1..3600 / seconds).find_map(|n| {
                let (since, now) = ((n - 1) * seconds * second, n * seconds * second);
                let until = patience.waits(since);
                patience.moved(now, n * bytes);
                (until < now).then_some(until.div_ceil(second))
            })
        };
        assert_eq!(over(1, 59), Some(61));
        assert_eq!(over(1, 1), Some(61));
        assert_eq!(over(120, 1), Some(120));
        assert_eq!(over(240, 1), None);
        assert_eq!(over(59 * 240, 59), None);
        assert_eq!(over(1 << 20, 61), Some(61), "what came before is no reason to wait for longer");
    }

    #[test]
    fn pieces_that_come_more_often_than_ticks_earn_nothing_by_that() {
        let mut patience = Patience::new(TICK * 10);
        let mut received = 0;
        let over = (0..1000).find(|now| {
            (0..5).any(|_| {
                received += 1;
                let is_over = patience.waits(*now) <= *now;
                patience.moved(*now, received);
                is_over || patience.waits(*now) <= *now
            })
        });
        // 50 bytes a second earn a fifth of the time.
        assert_eq!(over, Some(12));
    }

    #[test]
    fn what_the_other_side_takes_is_nobodys_time() {
        let mut patience = Patience::new(TICK * 10);
        let until = patience.waits(0);
        assert_eq!((until, patience.waits(5)), (11, 11), "it is waited for since then");
        patience.moved(8, 0);
        assert_eq!(patience.waits(1000), 1003);
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
