//! Averages over the last seconds of what only ever grows.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Mono;

/// The time that requests were in flight together, as it was told.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The counting that they are all of.
    began: u64,
    samples: VecDeque<(Mono, Duration)>,
}

/// What came in within a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Average {
    pub(super) busy: Duration,
    /// Not zero.
    pub(super) span: Duration,
}

impl Average {
    /// How many instances it takes, each with so many at once.
    pub(super) fn instances(self, target: u32) -> u16 {
        // To the nanosecond: what exactly so many carry takes no more, whatever is left over of both times.
        let each = self.span.as_nanos().saturating_mul(u128::from(target.max(1)));
        u16::try_from(self.busy.as_nanos().div_ceil(each.max(1))).unwrap_or(u16::MAX)
    }

    /// Requests at once, in thousandths.
    pub(super) fn milli(self) -> u64 {
        let milli = self.busy.as_micros().saturating_mul(1000) / self.span.as_micros().max(1);
        u64::try_from(milli).unwrap_or(u64::MAX)
    }
}

impl Window {
    /// Takes what is told now, and by which counting, and keeps what lies within `longest`. `None`: nothing is told. Another
    /// counting has begun anew, whether it has come further than the last or not.
    pub(super) fn take(&mut self, told: Option<(u64, Duration)>, longest: Duration, now: Mono) {
        let last = self.samples.back().map(|(_, busy)| (self.began, *busy));
        let goes_on = last.zip(told).is_some_and(|((was, before), (began, busy))| was == began && before <= busy);
        if !goes_on {
            self.samples.clear();
        }
        if let Some((began, busy)) = told {
            self.began = began;
            self.samples.push_back((now, busy));
        }
        // One that is older stays: a window begins there, or a little before.
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= longest) {
            self.samples.pop_front();
        }
    }

    /// Over this time, or since there is anything to tell. `None`: nothing is known yet.
    pub(super) fn average(&self, over: Duration, now: Mono) -> Option<Average> {
        let (_, busy) = *self.samples.back()?;
        let before = self.samples.iter().rev().find(|(at, _)| now.since(*at) >= over);
        let (from, was) = *before.or_else(|| self.samples.front())?;
        let span = now.since(from);
        (!span.is_zero()).then(|| Average { busy: busy.saturating_sub(was), span })
    }
}
