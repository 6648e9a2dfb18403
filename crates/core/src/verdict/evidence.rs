//! How strongly counts speak against a release, in a measure that may be looked at as often as one likes.
//!
//! Evidence is the wealth of somebody who starts with 1 and bets on each request that the release is worse than it may
//! be, at odds that are fair or better for the bank as long as it is not. Such wealth is a non-negative
//! supermartingale, and by Ville's inequality it ever reaches 1/α with probability α at most, over all looks together
//! and whoever stops when (Ville 1939; Shafer 2021; Waudby-Smith and Ramdas, "Estimating means of bounded random
//! variables by betting", 2023). Nobody knows how much worse a release is, so the start is divided among several
//! bettors; their mean is a supermartingale, too (Robbins's method of mixtures, 1970). It is exact for any number of
//! requests: no approximation by a normal distribution is in it.
//!
//! Each bettor's wealth is a product of one factor per request, so that it depends on the counts alone, not on the
//! looks: a look that is missed, or repeated after a crash, changes nothing.
//!
//! All results are natural logarithms, finite or infinite, never NaN.

use crate::units::float;

/// Bad ones among so many. Counts up to 2^53 are exact; above they are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub bad: u64,
    pub of: u64,
}

impl Tally {
    /// `bad` is cut to `of`: snapshots of counters that are read one after the other may be one request apart.
    pub fn new(bad: u64, of: u64) -> Self {
        Self { bad: bad.min(of), of }
    }

    /// 0 of none.
    pub fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { float(self.bad) / float(self.of) }
    }

    /// More than this part of them; an empty tally is not above anything.
    pub(super) fn exceeds(self, limit: f64) -> bool {
        self.of > 0 && self.share() > limit
    }

    fn split(self) -> (f64, f64) {
        (float(self.bad), float(self.of - self.bad.min(self.of)))
    }
}

/// The probability that an instance which fails as many as any other shows a row that [`is_longer_than_chance`] calls one.
const FALSE_ROW: f64 = 1e-4;

/// Whether so many failures in a row, anywhere among `of` requests, are more than chance where each fails with the share that `beside`
/// shows; `None`: with one half. A row that begins at the j-th request is a bet on each from there on, which starts with 1/j²
/// of the wealth: over all beginnings and looks together it is wrong with [`FALSE_ROW`] at most. The share is taken as high as
/// what was seen allows (by the rule of three, where nothing failed): of what nothing was seen nothing is shown.
pub(crate) fn is_longer_than_chance(row: u32, of: u64, beside: Option<Tally>) -> bool {
    let share = beside.map_or(0.5, |seen| (float(seen.bad) + 3.0) / (float(seen.of) + 3.0));
    let places = float(of.max(u64::from(row)).max(1));
    f64::from(row) * -share.ln() >= 2.0 * places.ln() - FALSE_ROW.ln()
}

/// Times the odds of the limit at which each bettor believes the share to lie. A bettor that is off by half still earns
/// most of what the best one would.
const ABOVE: [f64; 8] = [1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0];

/// The same below a limit.
const BELOW: [f64; 8] = [0.85, 0.65, 0.5, 0.35, 0.2, 0.1, 0.03, 0.01];

/// What speaks for a share of bad ones above `limit`, as if it were at most that: Wald's likelihood ratio of each
/// bettor's odds to the limit's. The factor of a bad one is m/d, of another one 1/d, with d = 1 + limit·(m − 1), the
/// mean of the numerator at the limit; below the limit the mean factor is less than 1.
pub(super) fn above(seen: Tally, limit: f64) -> f64 {
    match (limit <= 0.0, seen.bad) {
        (true, 0) => 0.0,
        // Where none may be bad, one is proof.
        (true, _) => f64::INFINITY,
        (false, _) => against(seen, limit, &ABOVE),
    }
}

/// What speaks for a share of bad ones below `limit`, as if it were at least that.
pub(super) fn below(seen: Tally, limit: f64) -> f64 {
    if limit <= 0.0 { 0.0 } else { against(seen, limit, &BELOW) }
}

fn against(seen: Tally, limit: f64, odds: &[f64]) -> f64 {
    let limit = limit.min(1.0);
    let (bad, of) = (float(seen.bad), float(seen.of));
    mean(odds.iter().map(|m| bad * m.ln() - of * (limit * (m - 1.0)).ln_1p()))
}

/// Shares of the baseline around which bettors compare. Where few are bad, as nearly always, it hardly matters which.
const CENTRES: [f64; 5] = [0.0, 0.02, 0.1, 0.3, 0.6];

/// Parts of the highest stake at which nobody can be ruined by one request.
const STAKES: [f64; 8] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95];

/// What speaks for a canary whose share of bad ones is above the baseline's by more than `margin`, as if it were not.
///
/// Requests come to either with the same probability. With stake λ and centre q, the factor of a request of the canary
/// is 1 + λ·(bad − q − margin), of one of the baseline 1 − λ·(bad − q). If p and r are their shares at that moment, the
/// mean factor is 1 + λ/2·(p − r − margin): at most 1 as long as the canary is no worse, whatever the shares are and
/// however they change meanwhile. With q = 0 and no margin only bad ones count, and each is a toss of a fair coin
/// between the two.
///
/// A user whose session sticks to one of them may bring it more requests than the other gets, and a bettor far from the
/// true share would take that for evidence. So the result is at most the wealth with the centre where canary and
/// baseline together put it, which no such difference moves. Being smaller, it keeps the bound.
pub(super) fn worse(canary: Tally, baseline: Tally, margin: f64) -> f64 {
    if canary.of == 0 || baseline.of == 0 || margin >= 1.0 {
        return 0.0;
    }
    let fixed = mean(CENTRES.iter().flat_map(|centre| bets(canary, baseline, margin, centre * (1.0 - margin))));
    let (bad, of) = (float(canary.bad) + float(baseline.bad), float(canary.of) + float(baseline.of));
    let common = ((bad - margin * float(canary.of)) / of).clamp(0.0, 1.0 - margin);
    fixed.min(mean(bets(canary, baseline, margin, common)))
}

fn bets(canary: Tally, baseline: Tally, margin: f64, centre: f64) -> impl Iterator<Item = f64> + Clone {
    let ((canary_bad, canary_good), (baseline_bad, baseline_good)) = (canary.split(), baseline.split());
    let highest = (1.0 / (centre + margin)).min(1.0 / (1.0 - centre));
    STAKES.iter().map(move |part| {
        let stake = part * highest;
        canary_bad * (stake * (1.0 - centre - margin)).ln_1p()
            + canary_good * (-stake * (centre + margin)).ln_1p()
            + baseline_bad * (-stake * (1.0 - centre)).ln_1p()
            + baseline_good * (stake * centre).ln_1p()
    })
}

/// The logarithm of the mean of what these are the logarithms of.
fn mean(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let (count, highest) = logs.clone().fold((0.0, f64::NEG_INFINITY), |(n, high), log| (n + 1.0, log.max(high)));
    let sum: f64 = logs.map(|log| (log - highest).exp()).sum();
    highest + (sum / count).ln()
}
