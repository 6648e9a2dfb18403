//! The live seconds: what each release answered in every one of the last two minutes, from the edge's counters.
//!
//! Architecture invariant: there is no clock here; whoever adds a second says which one it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bowline_core::id::{AppKey, ReleaseNumber};
use bowline_core::route::{DURATION_BOUNDS, EdgeObservation, EdgeStatus, SeriesKey};

/// Seconds that are kept: about 90 bytes for each in which a release answered anything.
pub(crate) const SECONDS: u64 = 120;

/// What a summary is over.
const MINUTE: u64 = 60;

/// Answers from here on are errors: the app's or Bowline's fault, not the client's (RFC 9110, section 15.6).
const FIRST_ERROR: u16 = 500;

/// Who answered. `None`: the edge itself, with a redirect or a refusal.
pub(crate) type Carrier = (AppKey, Option<ReleaseNumber>);

type Buckets = [u64; DURATION_BOUNDS.len() + 1];

/// What was answered in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Answered {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    duration: Buckets,
}

impl Answered {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        for (mine, more) in self.duration.iter_mut().zip(other.duration) {
            *mine += more;
        }
    }

    /// The time within which this part of the requests was answered, in milliseconds, interpolated within a bucket as
    /// Prometheus's `histogram_quantile` does it: no finer than the buckets, and at most the highest bound. `None`: no requests.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let total: u64 = self.duration.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = part * float(total);
        let (mut below, mut lower) = (0.0, 0.0);
        for (count, upper) in self.duration.iter().zip(DURATION_BOUNDS) {
            let count = float(*count);
            if count > 0.0 && below + count >= rank {
                return Some(1000.0 * (lower + (upper - lower) * (rank - below).max(0.0) / count));
            }
            below += count;
            lower = upper;
        }
        Some(1000.0 * lower)
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests of two minutes are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The last [`SECONDS`].
#[derive(Debug, Default)]
pub(crate) struct Window {
    newest: u64,
    /// The counters at the end of the newest second.
    before: Option<Arc<EdgeObservation>>,
    /// Only seconds in which something was answered, the oldest first.
    rows: BTreeMap<Carrier, VecDeque<(u64, Answered)>>,
}

/// What one of the window's rows has to tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row<'w> {
    pub(crate) carrier: &'w Carrier,
    /// Those asked for.
    pub(crate) seconds: Vec<&'w (u64, Answered)>,
    /// All of the last minute.
    pub(crate) minute: Answered,
}

impl Window {
    /// Adds the second that has just ended. Counters of an edge that was running before the first second are what later ones are
    /// counted from; those of one that came later are counted from zero.
    pub(crate) fn add(&mut self, second: u64, seen: &Arc<EdgeObservation>) {
        self.newest = second;
        if matches!(seen.status, EdgeStatus::Connected) {
            if let Some(before) = &self.before {
                for (carrier, answered) in difference(before, seen) {
                    self.rows.entry(carrier).or_default().push_back((second, answered));
                }
            }
            self.before = Some(Arc::clone(seen));
        }
        let oldest = (second + 1).saturating_sub(SECONDS);
        self.rows.retain(|_, row| {
            while row.front().is_some_and(|(at, _)| *at < oldest) {
                row.pop_front();
            }
            !row.is_empty()
        });
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Each carrier of the window, with its seconds after this one.
    pub(crate) fn after(&self, second: Option<u64>) -> impl Iterator<Item = Row<'_>> {
        let minute = (self.newest + 1).saturating_sub(MINUTE);
        self.rows.iter().map(move |(carrier, row)| {
            let mut sum = Answered::default();
            row.iter().filter(|(at, _)| *at >= minute).for_each(|(_, answered)| sum.add(answered));
            let seconds = row.iter().filter(|(at, _)| second.is_none_or(|second| *at > second)).collect();
            Row { carrier, seconds, minute: sum }
        })
    }
}

fn difference(before: &Arc<EdgeObservation>, now: &Arc<EdgeObservation>) -> BTreeMap<Carrier, Answered> {
    let mut sums: BTreeMap<Carrier, Answered> = BTreeMap::new();
    if Arc::ptr_eq(before, now) {
        return sums;
    }
    let same_edge = before.pid == now.pid;
    for (key, series) in &now.series {
        let old = before.series.get(key).filter(|_| same_edge).map_or(&[][..], |old| &old.duration.counts);
        let answered = answered(key, old, &series.duration.counts);
        if answered.requests > 0 {
            sums.entry((key.key.clone(), key.release)).or_default().add(&answered);
        }
    }
    sums
}

/// A count below the one before was begun anew: the edge had forgotten a series that rested.
fn answered(key: &SeriesKey, old: &[u64], new: &[u64]) -> Answered {
    let begun_anew = old.iter().sum::<u64>() > new.iter().sum::<u64>();
    let old = if begun_anew { &[] } else { old };
    let mut duration = Buckets::default();
    for (at, (bucket, count)) in duration.iter_mut().zip(new).enumerate() {
        *bucket = count.saturating_sub(old.get(at).copied().unwrap_or(0));
    }
    let requests = duration.iter().sum();
    Answered { requests, errors: if key.status >= FIRST_ERROR { requests } else { 0 }, duration }
}

#[cfg(test)]
mod tests {
    use bowline_core::app::PathPrefix;
    use bowline_core::id::{AppName, EnvName, ServiceName};
    use bowline_core::route::{Histogram, Method, Series};

    use super::*;

    fn shop() -> AppKey {
        AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() }
    }

    /// An edge that has counted so many answers of release 3: all within 5 ms, those of status 500 within 100 ms.
    fn edge(pid: u32, good: u64, bad: u64) -> Arc<EdgeObservation> {
        let series = |status, bucket: usize, count| {
            let mut counts = vec![0; DURATION_BOUNDS.len() + 1];
            counts[bucket] = count;
            let key = SeriesKey {
                key: shop(),
                service: Some(ServiceName::new("web").unwrap()),
                release: Some(ReleaseNumber(3)),
                method: Method::Get,
                route: PathPrefix::root(),
                status,
            };
            (key, Series { duration: Histogram { counts, sum: 0.0 }, ..Series::default() })
        };
        let series = BTreeMap::from([series(200, 0, good), series(500, 5, bad)]);
        Arc::new(EdgeObservation { status: EdgeStatus::Connected, pid, series, ..EdgeObservation::default() })
    }

    /// Second, requests, errors.
    fn seconds(window: &Window, after: Option<u64>) -> Vec<(u64, u64, u64)> {
        let rows = window.after(after).flat_map(|row| row.seconds);
        rows.map(|(at, answered)| (*at, answered.requests, answered.errors)).collect()
    }

    #[test]
    fn a_second_is_what_was_counted_in_it() {
        let mut window = Window::default();
        window.add(1, &edge(7, 1_000_000, 3));
        assert_eq!(seconds(&window, None), [], "what was counted before the daemon came is no second of it");
        window.add(2, &edge(7, 1_000_010, 5));
        window.add(3, &edge(7, 1_000_010, 5));
        window.add(4, &edge(7, 1_000_011, 5));
        assert_eq!(seconds(&window, None), [(2, 12, 2), (4, 1, 0)]);
        assert_eq!(seconds(&window, Some(2)), [(4, 1, 0)]);
        let row = window.after(None).next().unwrap();
        assert_eq!((row.minute.requests, row.minute.errors), (13, 2));
        assert_eq!(row.carrier, &(shop(), Some(ReleaseNumber(3))));
    }

    #[test]
    fn an_edge_that_comes_later_counts_from_zero_and_a_lost_one_counts_nothing() {
        let mut window = Window::default();
        window.add(1, &edge(7, 50, 0));
        window.add(2, &Arc::new(EdgeObservation::default()));
        window.add(3, &edge(8, 60, 0));
        assert_eq!(seconds(&window, None), [(3, 60, 0)]);
        window.add(4, &edge(8, 2, 0));
        assert_eq!(seconds(&window, Some(3)), [(4, 2, 0)], "a series that was forgotten begins anew");
    }

    #[test]
    fn what_is_older_than_the_window_is_gone() {
        let mut window = Window::default();
        window.add(0, &edge(7, 0, 0));
        for second in 1..=SECONDS * 2 {
            window.add(second, &edge(7, second, 0));
        }
        let kept = seconds(&window, None);
        assert_eq!((kept.len(), kept[0].0), (120, SECONDS + 1));
        let last = edge(7, SECONDS * 2, 0);
        window.add(SECONDS * 4, &last);
        assert_eq!(window.after(None).count(), 0, "and with it the releases that answer no more");
    }

    #[test]
    fn quantiles_are_no_finer_than_the_buckets() {
        let check = |good, bad, part, expected: Option<f64>| {
            let mut window = Window::default();
            window.add(0, &edge(7, 0, 0));
            window.add(1, &edge(7, good, bad));
            let sum = window.after(None).next().map(|row| row.minute).unwrap_or_default();
            assert_eq!(sum.quantile(part).map(|ms| (ms * 10.0).round() / 10.0), expected, "{good} {bad} {part}");
        };
        check(0, 0, 0.5, None);
        check(100, 0, 0.5, Some(2.5));
        check(90, 10, 0.5, Some(2.8));
        check(90, 10, 0.99, Some(97.5));
        let over = Answered {
            requests: 1,
            errors: 0,
            duration: {
                let mut all = Buckets::default();
                all[14] = 1;
                all
            },
        };
        assert_eq!(over.quantile(0.5), Some(10_000.0), "above the highest bound");
    }
}
