//! How long a client that sends or takes something in pieces is waited for.

use std::time::Duration;

/// What is counted in.
pub const TICK: Duration = Duration::from_millis(TICK_MS as u64);
const TICK_MS: u32 = 100;

/// Bytes a second for which a sender is waited on: what IIS and Kestrel ask of clients; Apache asks for twice as much.
const LEAST_RATE: u64 = 240;

const NEVER: u64 = u64::MAX;

/// The ticks that `duration` takes, rounded up; one more, because the present tick has partly passed.
pub fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(NEVER).saturating_add(1)
}

/// With whoever sends or takes something in pieces: so long in all, and as much longer as what comes takes at [`LEAST_RATE`], but at no time longer
/// than at the beginning. A deadline that each piece sets anew is none for who drips. Packed, since each connection has room for one.
#[derive(Debug)]
pub struct Patience {
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
    pub fn new(whole: Duration) -> Self {
        let whole_ms = u32::try_from(whole.as_millis()).unwrap_or(u32::MAX);
        Self { whole_ms, left_ms: whole_ms, since: Self::NOT_WAITING, counted: 0 }
    }

    /// More is waited for. Returns the tick at which it is at its end.
    pub fn waits(&mut self, now: u64) -> u64 {
        if self.since == Self::NOT_WAITING {
            self.since = tick(now);
        }
        // What is left is not rounded up: pieces that come more often than ticks would have that much more each time.
        let is_over = self.left_ms < TICK_MS.min(self.whole_ms);
        let left = if is_over { 0 } else { ticks(Duration::from_millis(self.left_ms.into())) };
        u64::from(self.since).saturating_add(left)
    }

    /// Something has moved, `bytes` in all by now, and more is not waited for yet.
    pub fn moved(&mut self, now: u64, bytes: u64) {
        let since = std::mem::replace(&mut self.since, Self::NOT_WAITING);
        let waited =
            if since == Self::NOT_WAITING { 0 } else { tick(now).saturating_sub(since).saturating_mul(TICK_MS) };
        let earned = bytes.saturating_sub(self.counted).saturating_mul(1000) / LEAST_RATE;
        self.counted = bytes;
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.left_ms = self.left_ms.saturating_sub(waited).saturating_add(earned).min(self.whole_ms);
    }

    /// Whether some of it has been used, and was not earned again.
    pub fn is_used(&self) -> bool {
        self.left_ms < self.whole_ms
    }
}

fn tick(now: u64) -> u32 {
    u32::try_from(now).unwrap_or(Patience::NOT_WAITING - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
