//! Times to answer in buckets of constant relative width, which add up and subtract.
//!
//! Each octave (from a power of two seconds to the next) is cut into [`PER_OCTAVE`] buckets, each 2^(1/16) times as
//! long as the one before. These are the buckets of OpenTelemetry's exponential histogram with scale 4 and of
//! Prometheus's native one with schema 4 (upper bounds belong to them): bucket `b` from 1 on is Prometheus's number b −
//! 224, so that what is counted for a verdict can be exposed as it is. A value finds its bucket by its exponent and
//! four comparisons: whoever records allocates nothing and waits for nobody. The layout is fixed: counts of different
//! times, workers and processes go together bucket by bucket.

use std::fmt;
use std::time::Duration;

use crate::units::Share;

/// Buckets of an octave: a time is at most 4.5 % below its bucket's upper bound.
pub const PER_OCTAVE: usize = 16;

/// Times up to 2^-14 s (61 µs) share the first bucket.
const FIRST_OCTAVE: i32 = -14;

/// Times above 2^9 s (512 s) share the last bucket.
const END_OCTAVE: i32 = 9;

/// All of them: 370, or 3 KB of 64-bit counts.
pub const BUCKETS: usize = (END_OCTAVE - FIRST_OCTAVE) as usize * PER_OCTAVE + 2;

/// 2^(j/16), correctly rounded.
const BOUNDS: [f64; PER_OCTAVE] = [
    1.0,
    1.0442737824274138,
    1.0905077326652577,
    1.1387886347566916,
    1.189207115002721,
    1.241857812073484,
    1.2968395546510096,
    1.3542555469368927,
    std::f64::consts::SQRT_2,
    1.4768261459394993,
    1.5422108254079407,
    1.6104903319492543,
    1.681792830507429,
    1.7562521603732995,
    1.8340080864093424,
    1.9152065613971474,
];

/// The bits of a double's fraction, and where its exponent begins (IEEE 754).
const FRACTION: u64 = (1 << EXPONENT_AT) - 1;
const EXPONENT_AT: u32 = 52;
const BIAS: i32 = 1023;

/// How many requests took how long.
///
/// What is asked of it is answered with the error's side known: see [`Self::quantile`] and [`Self::slower`].
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram(Box<[u64; BUCKETS]>);

/// Of the requests of a histogram, those that took longer than a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slower {
    /// In buckets that lie above the limit: never more than there were.
    pub surely: u64,
    /// In the bucket that the limit falls into, too: never less than there were. The same where the limit is a bucket's
    /// upper bound, as 500 ms and each power of two seconds is.
    pub perhaps: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Histogram {
    /// Of times above this one is known that they were, and no more: a limit beyond it is never exceeded.
    pub const LONGEST: Duration = Duration::from_secs(1 << END_OCTAVE);

    /// Counts by bucket, as [`Self::bucket`] numbers them.
    pub fn from_counts(counts: [u64; BUCKETS]) -> Self {
        Self(Box::new(counts))
    }

    pub fn counts(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// Where a time is counted. For those who keep the counts themselves, one per bucket.
    #[expect(clippy::cast_sign_loss, reason = "from the first octave on it is positive")]
    pub fn bucket(took: Duration) -> usize {
        let bits = took.as_secs_f64().to_bits();
        let octave = (bits >> EXPONENT_AT) as i32 - BIAS;
        if octave < FIRST_OCTAVE {
            return 0;
        }
        let within = f64::from_bits(bits & FRACTION | 1.0_f64.to_bits());
        let part = BOUNDS.partition_point(|bound| *bound < within);
        ((octave - FIRST_OCTAVE) as usize * PER_OCTAVE + part).min(BUCKETS - 1)
    }

    /// The longest time of a bucket, to the nanosecond; `bucket` is below [`BUCKETS`].
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "23 octaves")]
    #[expect(clippy::cast_sign_loss, reason = "a biased exponent and a time are positive")]
    pub fn upper_bound(bucket: usize) -> Duration {
        if bucket >= BUCKETS - 1 {
            return Duration::MAX;
        }
        let octave = FIRST_OCTAVE + (bucket / PER_OCTAVE) as i32;
        let power = f64::from_bits(((octave + BIAS) as u64) << EXPONENT_AT);
        Duration::from_nanos((BOUNDS[bucket % PER_OCTAVE] * power * 1e9).floor() as u64)
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

    /// A time within which at least this part of the requests was answered; `None` without requests. It is the upper
    /// bound of the bucket in which the quantile lies: never too short, too long by at most 4.5 % (by 61 µs below
    /// that), and [`Duration::MAX`] where it is above 512 s.
    pub fn quantile(&self, part: Share) -> Option<Duration> {
        let total = self.total();
        let rank = (u128::from(total) * u128::from(part.ppm())).div_ceil(u128::from(Share::WHOLE.ppm())).max(1);
        let mut within: u128 = 0;
        let bucket = self.0.iter().position(|count| {
            within += u128::from(*count);
            within >= rank
        });
        bucket.filter(|_| total > 0).map(Self::upper_bound)
    }

    /// How many took longer than `limit`. Above 512 s nothing surely did.
    pub fn slower(&self, limit: Duration) -> Slower {
        let at = Self::bucket(limit);
        let surely = self.0[at + 1..].iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let in_doubt = if limit < Self::upper_bound(at) { self.0[at] } else { 0 };
        Slower { surely, perhaps: surely.saturating_add(in_doubt) }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        f.debug_map().entries(used.map(|(bucket, count)| (Self::upper_bound(bucket), count))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_bucket_ends_where_the_next_begins_and_is_a_sixteenth_of_an_octave() {
        let nanosecond = Duration::from_nanos(1);
        for bucket in 0..BUCKETS - 1 {
            let upper = Histogram::upper_bound(bucket);
            assert_eq!(Histogram::bucket(upper), bucket, "{upper:?}");
            assert_eq!(Histogram::bucket(upper + nanosecond), bucket + 1, "{upper:?}");
            let exact = 2_f64.powf(f64::from(u32::try_from(bucket).unwrap()) / 16.0 - 14.0);
            assert!((upper.as_secs_f64() - exact).abs() <= 1e-9, "{bucket}: {upper:?}");
        }
        assert_eq!((Histogram::bucket(Duration::ZERO), Histogram::bucket(Duration::MAX)), (0, BUCKETS - 1));
        assert_eq!(Histogram::upper_bound(224), Duration::from_secs(1), "Prometheus's number 0");
        assert_eq!(Histogram::upper_bound(BUCKETS - 2), Histogram::LONGEST);
        assert_eq!(Histogram::LONGEST, Duration::from_secs(512));
    }

    #[test]
    fn a_quantile_is_never_too_short_and_hardly_too_long() {
        let mut seen = Histogram::default();
        assert_eq!(seen.quantile(Share::WHOLE), None);
        (1..=1000).for_each(|n| seen.record(n * MS));
        for (ppm, exact) in [(0, 1), (1, 1), (500_000, 500), (990_000, 990), (999_000, 999), (1_000_000, 1000)] {
            let found = seen.quantile(Share::from_ppm(ppm).unwrap()).unwrap();
            assert!(found >= exact * MS && found <= (exact * MS).mul_f64(1.045), "{ppm}: {found:?}");
        }
        assert_eq!(seen.quantile(Share::from_ppm(500_000).unwrap()), Some(500 * MS), "a bound is exact");
        seen.add(Duration::from_secs(3600), 100_000);
        assert_eq!(seen.quantile(Share::WHOLE), Some(Duration::MAX));
    }

    #[test]
    fn slower_than_a_limit_is_between_surely_and_perhaps() {
        let mut seen = Histogram::default();
        (1..=1000).for_each(|n| seen.record(n * MS));
        for limit in [1, 2, 63, 64, 100, 501, 999, 1000, 2000] {
            let exact = 1000_u64.saturating_sub(limit);
            let Slower { surely, perhaps } = seen.slower(u32::try_from(limit).unwrap() * MS);
            assert!(surely <= exact && exact <= perhaps && perhaps - surely <= limit / 22 + 1, "{limit}");
        }
        // On a bound there is no doubt.
        assert_eq!(seen.slower(500 * MS), Slower { surely: 500, perhaps: 500 });
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
