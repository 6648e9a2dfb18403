//! How long a slot waits after it failed.

use std::time::Duration;

/// After the first failure; doubled by each further one.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// So long without a failure, and the count starts anew.
pub(super) const RESET: Duration = Duration::from_secs(60);

/// The wait after `crashes` failures in a row, counted from 1: 1 s doubling to 60 s, less up to a quarter by `random`,
/// so that instances which failed together do not start together.
pub(crate) fn delay(crashes: u32, random: u64) -> Duration {
    let doublings = crashes.saturating_sub(1).min(6);
    let whole = (FIRST * 2u32.pow(doublings)).min(LONGEST);
    let jitter = whole / 4 * u32::try_from(random % 1024).unwrap_or(0) / 1024;
    whole - jitter
}

/// The next number of a stream (splitmix64, Steele, Lea and Flood 2014): one random argument serves many slots.
pub(crate) fn mix(random: u64, salt: u64) -> u64 {
    let mut z = random.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_one_second_to_a_minute_and_never_waits_longer() {
        let check = |crashes, longest: u64| {
            let whole = Duration::from_secs(longest);
            assert_eq!(delay(crashes, 0), whole);
            assert!((1..2000).all(|r| (whole * 3 / 4..=whole).contains(&delay(crashes, r))));
        };
        for (crashes, longest) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (u32::MAX, 60)] {
            check(crashes, longest);
        }
    }
}
