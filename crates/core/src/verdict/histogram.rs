//! Times to answer in buckets of constant relative width, which add up and subtract.
//!
//! Each octave (from a power of two microseconds to the next) is cut into [`PER_OCTAVE`] equal parts, as in HdrHistogram; a
//! value finds its bucket by its highest bits, so that whoever records needs one shift and one addition, and neither
//! allocation nor lock. The layout is fixed: counts of different times, workers and processes go together bucket by bucket.

use std::fmt;
use std::time::Duration;

use crate::units::Share;

/// Parts of an octave: a bucket's bounds lie at most 1/16 (6.25 %) apart.
pub const PER_OCTAVE: usize = 1 << PART_BITS;

const PART_BITS: u32 = 4;

/// Times below 2^6 µs (64 µs) share the first bucket.
const FIRST_OCTAVE: u32 = 6;

/// Times from 2^29 µs (537 s) on share the last bucket.
const END_OCTAVE: u32 = 29;

/// All of them: 370, or 3 KB of 64-bit counts.
pub const BUCKETS: usize = (END_OCTAVE - FIRST_OCTAVE) as usize * PER_OCTAVE + 2;

/// How many requests took how long.
///
/// A bucket holds its lower bound, and not its upper one; below a microsecond, times are cut. What is asked of it is
/// answered with the error's side known: see [`Self::quantile`] and [`Self::slower`].
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram(Box<[u64; BUCKETS]>);

/// Of the requests of a histogram, those that took a limit or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slower {
    /// In buckets that lie above the limit: never more than there were.
    pub surely: u64,
    /// The bucket that the limit falls into, too: never less than there were.
    pub perhaps: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Histogram {
    /// Counts by bucket, as [`Self::bucket`] numbers them.
    pub fn from_counts(counts: [u64; BUCKETS]) -> Self {
        Self(Box::new(counts))
    }

    pub fn counts(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// Where a time is counted. For those who keep the counts themselves, one per bucket.
    pub fn bucket(took: Duration) -> usize {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let Some(octave) = us.checked_ilog2().filter(|octave| *octave >= FIRST_OCTAVE) else { return 0 };
        if octave >= END_OCTAVE {
            return BUCKETS - 1;
        }
        let part = (us >> (octave - PART_BITS)) as usize & (PER_OCTAVE - 1);
        1 + (octave - FIRST_OCTAVE) as usize * PER_OCTAVE + part
    }

    /// The least time of a bucket. `bucket` is below [`BUCKETS`].
    pub fn lower_bound(bucket: usize) -> Duration {
        let Some(above_first) = bucket.checked_sub(1) else { return Duration::ZERO };
        let (octave, part) = (above_first / PER_OCTAVE, above_first % PER_OCTAVE);
        Duration::from_micros(((PER_OCTAVE + part) as u64) << (FIRST_OCTAVE - PART_BITS) << octave)
    }

    pub fn record(&mut self, took: Duration) {
        self.add(took, 1);
    }

    /// So many requests that took this long.
    pub fn add(&mut self, took: Duration, requests: u64) {
        let count = &mut self.0[Self::bucket(took)];
        *count = count.saturating_add(requests);
    }

    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, more) in self.0.iter_mut().zip(other.0.iter()) {
            *mine = mine.saturating_add(*more);
        }
    }

    /// What came since; `None` where a bucket holds less than before, so that the counting began anew in between.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let mut rest = self.clone();
        for (mine, less) in rest.0.iter_mut().zip(before.0.iter()) {
            *mine = mine.checked_sub(*less)?;
        }
        Some(rest)
    }

    /// A time that at least this part of the requests stayed below; `None` without requests. It is the upper bound of the
    /// bucket in which the quantile lies: never too short, too long by at most 1/16 (by 64 µs below 1 ms), and 537 s for
    /// whatever was longer.
    pub fn quantile(&self, part: Share) -> Option<Duration> {
        let total = self.total();
        let rank = (u128::from(total) * u128::from(part.ppm())).div_ceil(u128::from(Share::WHOLE.ppm())).max(1);
        let mut below: u128 = 0;
        let bucket = self.0.iter().position(|count| {
            below += u128::from(*count);
            below >= rank
        });
        bucket.filter(|_| total > 0).map(|bucket| Self::lower_bound((bucket + 1).min(BUCKETS - 1)))
    }

    /// How many took `limit` or longer. Above 537 s nothing is surely longer.
    pub fn slower(&self, limit: Duration) -> Slower {
        let at = Self::bucket(limit);
        let above = self.0[at + 1..].iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let perhaps = above.saturating_add(self.0[at]);
        Slower { surely: if Self::lower_bound(at) >= limit { perhaps } else { above }, perhaps }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        f.debug_map().entries(used.map(|(bucket, count)| (Self::lower_bound(bucket), count))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_bucket_begins_where_the_one_before_ends_and_is_a_sixteenth_wide_at_most() {
        for bucket in 1..BUCKETS {
            let lower = Histogram::lower_bound(bucket);
            assert_eq!(Histogram::bucket(lower), bucket, "{lower:?}");
            assert_eq!(Histogram::bucket(lower - Duration::from_nanos(1)), bucket - 1, "{lower:?}");
            if (2..BUCKETS).contains(&bucket) {
                let before = Histogram::lower_bound(bucket - 1);
                assert!((lower - before) * u32::try_from(PER_OCTAVE).unwrap() <= before, "{before:?} {lower:?}");
            }
        }
        assert_eq!(Histogram::bucket(Duration::ZERO), 0);
        assert_eq!(Histogram::bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(Histogram::lower_bound(1), Duration::from_micros(64));
        assert_eq!(Histogram::lower_bound(BUCKETS - 1), Duration::from_micros(1 << 29));
    }

    #[test]
    fn a_quantile_is_never_too_short_and_at_most_a_sixteenth_too_long() {
        let mut seen = Histogram::default();
        assert_eq!(seen.quantile(Share::WHOLE), None);
        (1..=1000).for_each(|n| seen.record(n * MS));
        for (ppm, exact) in [(0, 1), (1, 1), (500_000, 500), (990_000, 990), (999_000, 999), (1_000_000, 1000)] {
            let found = seen.quantile(Share::from_ppm(ppm).unwrap()).unwrap();
            assert!(found > exact * MS && found <= exact * MS * 17 / 16, "{ppm}: {found:?}");
        }
        seen.add(Duration::from_secs(3600), 100_000);
        assert_eq!(seen.quantile(Share::WHOLE), Some(Duration::from_micros(1 << 29)));
    }

    #[test]
    fn slower_than_a_limit_is_between_surely_and_perhaps() {
        let mut seen = Histogram::default();
        (1..=1000).for_each(|n| seen.record(n * MS));
        for limit in [1, 2, 63, 64, 100, 500, 501, 999, 1000, 2000] {
            let exact = 1001_u64.saturating_sub(limit);
            let Slower { surely, perhaps } = seen.slower(u32::try_from(limit).unwrap() * MS);
            assert!(surely <= exact && exact <= perhaps && perhaps - surely <= limit / 16 + 1, "{limit}");
        }
        // On a bound there is no doubt.
        assert_eq!(seen.slower(Duration::from_micros(1 << 18)), Slower { surely: 738, perhaps: 738 });
        assert_eq!(seen.slower(Duration::ZERO), Slower { surely: 1000, perhaps: 1000 });
        seen.add(Duration::from_secs(3600), 7);
        assert_eq!(seen.slower(Duration::from_secs(900)), Slower { surely: 0, perhaps: 7 });
    }

    #[test]
    fn what_was_added_can_be_taken_away_again() {
        let (mut all, mut first) = (Histogram::default(), Histogram::default());
        for n in 0..500 {
            all.add(n * MS, u64::from(n));
            if n % 3 == 0 {
                first.add(n * MS, u64::from(n));
            }
        }
        let rest = all.since(&first).unwrap();
        assert_eq!(first.since(&all), None, "the counting began anew");
        let mut again = first.clone();
        again.merge(&rest);
        assert_eq!(again, all);
        assert_eq!(rest.total() + first.total(), all.total());
        assert_eq!(Histogram::from_counts(*all.counts()), all);
        let mut full = Histogram::from_counts([u64::MAX; BUCKETS]);
        full.merge(&all);
        assert_eq!(full.total(), u64::MAX);
    }
}
