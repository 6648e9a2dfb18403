//! How far the occurrences of one job's schedule are dealt with.

use std::time::Duration;

use super::Moment;
use crate::app::Schedule;
use crate::time::{Mono, Timestamp};

/// A wall clock that is set back by less stands still for schedules; by more, and it is believed. The rule of Debian's
/// cron(8).
const BELIEVED: Duration = Duration::from_secs(3 * 3600);

/// The wall clock may be set, and a machine may sleep: it is looked at that often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Clock {
    schedule: Schedule,
    /// All occurrences up to here have had their run, or count for nothing.
    counted: Timestamp,
    next: Option<Timestamp>,
}

/// Whether what was counted has changed, and is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Counted,
}

impl Clock {
    pub(super) fn new(schedule: &Schedule, counted: Timestamp) -> Self {
        let next = schedule.next_after(counted);
        Self { schedule: schedule.clone(), counted, next }
    }

    pub(super) fn text(&self) -> &str {
        &self.schedule.text
    }

    pub(super) fn counted(&self) -> Timestamp {
        self.counted
    }

    /// The next occurrence, or the first that was missed.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Takes up another schedule, which counts from now on, and a wall clock that was set back.
    pub(super) fn look(&mut self, schedule: &Schedule, now: Moment) -> Change {
        if self.schedule != *schedule {
            *self = Self::new(schedule, now.wall);
            return Change::Counted;
        }
        if self.counted > now.wall + BELIEVED {
            self.count(now.wall);
            return Change::Counted;
        }
        Change::None
    }

    /// The occurrence that is due, the first of those that were missed.
    pub(super) fn due(&self, now: Moment) -> Option<Timestamp> {
        self.next.filter(|next| *next <= now.wall)
    }

    pub(super) fn count(&mut self, until: Timestamp) {
        self.counted = until;
        self.next = self.schedule.next_after(until);
    }

    /// The run of this occurrence came to nothing.
    pub(super) fn missed(&mut self, due: Timestamp) {
        self.next = Some(due);
    }

    pub(super) fn next_deadline(&self, now: Moment) -> Option<Mono> {
        let wait = self.next?.since(now.wall).min(LOOK_AGAIN);
        Some(now.mono + wait)
    }
}
