//! The live window: what each release answered, every second for 15 minutes and every 10 seconds for a day, from the edge's counters.
//! [`kept`] has it outlive the daemon.
//!
//! Architecture invariant: there is no clock here; whoever adds a second says which one it is.

pub(crate) mod kept;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bowline_core::id::{AppKey, ReleaseNumber};
use bowline_core::route::{DURATION_BOUNDS, EdgeObservation, EdgeStatus, SeriesKey};
use bowline_core::units::float;

/// Seconds that the small charts of the console show.
pub(crate) const SHOWN: u64 = 120;

/// Seconds that are kept one by one.
const FINE: u64 = 15 * 60;

/// Beyond them so many are kept as one.
const SPAN: u64 = 10;

/// Seconds after which nothing is kept.
const DAY: u64 = 24 * 3600;

/// Kept of all releases together: about 16 releases that answered all day, or 15 MB. The oldest spans go first.
const MAX_CELLS: usize = 150_000;

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

    /// Also what is kept of another time.
    fn add_cell(&mut self, cell: &Cell) {
        self.requests += u64::from(cell.requests);
        self.errors += u64::from(cell.errors);
        for (bucket, count) in &cell.duration {
            if let Some(mine) = self.duration.get_mut(usize::from(*bucket)) {
                *mine += u64::from(*count);
            }
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

/// The same, as it is kept: most releases answer within two or three buckets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Cell {
    requests: u32,
    errors: u32,
    duration: Box<[(u8, u32)]>,
}

impl From<&Answered> for Cell {
    fn from(answered: &Answered) -> Self {
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let some = (0..).zip(answered.duration).filter(|(_, count)| *count > 0);
        Self {
            requests: small(answered.requests),
            errors: small(answered.errors),
            duration: some.map(|(bucket, count)| (bucket, small(count))).collect(),
        }
    }
}

/// What one carrier answered: only times in which it did, the oldest first.
#[derive(Debug, Default, PartialEq)]
struct Answers {
    seconds: VecDeque<(u64, Cell)>,
    /// By their first second.
    spans: VecDeque<(u64, Cell)>,
}

/// Adds to the newest, or begins another; what is older than the newest is not added.
fn record(cells: &mut VecDeque<(u64, Cell)>, at: u64, answered: &Answered) {
    match cells.back_mut() {
        Some((newest, _)) if *newest > at => {}
        Some((newest, cell)) if *newest == at => {
            let mut sum = *answered;
            sum.add_cell(cell);
            *cell = Cell::from(&sum);
        }
        Some(_) | None => cells.push_back((at, Cell::from(answered))),
    }
}

impl Answers {
    fn forget(&mut self, newest: u64) {
        let forget = |cells: &mut VecDeque<(u64, Cell)>, kept: u64| {
            while cells.front().is_some_and(|(at, _)| *at + kept <= newest) {
                cells.pop_front();
            }
        };
        forget(&mut self.seconds, FINE);
        forget(&mut self.spans, DAY);
    }

    fn cells(&self) -> usize {
        self.seconds.len() + self.spans.len()
    }
}

/// What was answered in the last day.
#[derive(Debug, Default)]
pub(crate) struct Window {
    newest: u64,
    /// The counters at the end of the newest second.
    before: Option<Arc<EdgeObservation>>,
    rows: BTreeMap<Carrier, Answers>,
}

/// What one of the window's rows has to tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row<'w> {
    pub(crate) carrier: &'w Carrier,
    /// Those asked for.
    pub(crate) seconds: Vec<(u64, Answered)>,
    /// All of the last minute.
    pub(crate) minute: Answered,
}

/// How far back a longer look goes, and in which steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    QuarterHour,
    Day,
}

impl Range {
    /// Seconds in all, and of a step.
    pub(crate) fn seconds(self) -> (u64, u64) {
        match self {
            Self::QuarterHour => (FINE, 5),
            Self::Day => (DAY, 300),
        }
    }
}

impl Window {
    /// Adds the second that has just ended. Counters of an edge that was running before the first second are what later ones are
    /// counted from; those of one that came later are counted from zero.
    pub(crate) fn add(&mut self, second: u64, seen: &Arc<EdgeObservation>) {
        self.newest = second;
        if matches!(seen.status, EdgeStatus::Connected) {
            if let Some(before) = &self.before {
                for (carrier, answered) in difference(before, seen) {
                    let row = self.rows.entry(carrier).or_default();
                    record(&mut row.seconds, second, &answered);
                    record(&mut row.spans, second - second % SPAN, &answered);
                }
            }
            self.before = Some(Arc::clone(seen));
        }
        self.forget();
    }

    /// What is too old, and what is too much.
    fn forget(&mut self) {
        let newest = self.newest;
        self.rows.retain(|_, row| {
            row.forget(newest);
            row.cells() > 0
        });
        let mut cells: usize = self.rows.values().map(Answers::cells).sum();
        while cells > MAX_CELLS {
            let longest = self.rows.values_mut().max_by_key(|row| row.spans.len());
            let Some(longest) = longest.filter(|row| !row.spans.is_empty()) else { return };
            let over = (cells - MAX_CELLS).min(longest.spans.len().div_ceil(8));
            longest.spans.drain(..over);
            cells -= over;
        }
    }

    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Each carrier of the last [`SHOWN`], with its seconds after this one.
    pub(crate) fn after(&self, second: Option<u64>) -> impl Iterator<Item = Row<'_>> {
        let first = |seconds: u64| (self.newest + 1).saturating_sub(seconds);
        let (minute, shown) = (first(MINUTE), first(SHOWN));
        let is_new = move |at: u64| at >= shown && second.is_none_or(|second| at > second);
        self.rows.iter().filter(move |(_, row)| row.seconds.back().is_some_and(|(at, _)| *at >= shown)).map(
            move |(carrier, row)| {
                let newest = row.seconds.iter().rev().take_while(|(at, _)| *at >= shown);
                let mut sum = Answered::default();
                newest.clone().filter(|(at, _)| *at >= minute).for_each(|(_, cell)| sum.add_cell(cell));
                let mut seconds: Vec<_> =
                    newest.filter(|(at, _)| is_new(*at)).map(|(at, cell)| (*at, Answered::from(cell))).collect();
                seconds.reverse();
                Row { carrier, seconds, minute: sum }
            },
        )
    }

    /// Each carrier, with what it answered in each step of a range, by the step's first second.
    pub(crate) fn range(&self, range: Range) -> impl Iterator<Item = (&Carrier, BTreeMap<u64, Answered>)> {
        let (all, step) = range.seconds();
        let first = (self.newest + 1).saturating_sub(all);
        self.rows.iter().filter_map(move |(carrier, row)| {
            let cells = match range {
                Range::QuarterHour => &row.seconds,
                Range::Day => &row.spans,
            };
            let mut steps: BTreeMap<u64, Answered> = BTreeMap::new();
            for (at, cell) in cells.iter().filter(|(at, _)| *at >= first) {
                steps.entry(at - at % step).or_default().add_cell(cell);
            }
            (!steps.is_empty()).then_some((carrier, steps))
        })
    }
}

impl From<&Cell> for Answered {
    fn from(cell: &Cell) -> Self {
        let mut all = Self::default();
        all.add_cell(cell);
        all
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
        rows.map(|(at, answered)| (at, answered.requests, answered.errors)).collect()
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
    fn seconds_are_kept_for_a_quarter_of_an_hour_and_spans_for_a_day() {
        let mut window = Window::default();
        window.add(0, &edge(7, 0, 0));
        for second in 1..=FINE * 2 {
            window.add(second, &edge(7, second, 0));
        }
        let shown = seconds(&window, None);
        assert_eq!((shown.len(), shown[0].0), (120, FINE * 2 + 1 - SHOWN));
        let (carrier, row) = window.rows.first_key_value().unwrap();
        assert_eq!((row.seconds.len(), row.seconds[0].0), (900, FINE + 1));
        assert_eq!((row.spans.len(), row.spans[1].0), (181, 10));
        let of = |range| window.range(range).next().map(|(who, steps)| (who == carrier, steps)).unwrap();
        let (same, quarter) = of(Range::QuarterHour);
        assert!(same && quarter.values().map(|one| one.requests).sum::<u64>() == FINE, "{quarter:?}");
        let (_, day) = of(Range::Day);
        assert_eq!((day.len(), day[&0].requests, day[&300].requests), (7, 299, 300));
        let last = edge(7, FINE * 2, 0);
        window.add(FINE * 4, &last);
        assert_eq!((window.after(None).count(), window.range(Range::Day).count()), (0, 1));
        window.add(DAY * 2, &last);
        assert_eq!(window.range(Range::Day).count(), 0, "and with it the releases that answer no more");
    }

    #[test]
    fn however_many_releases_answer_what_is_kept_is_bounded() {
        let mut window = Window::default();
        let answered = Answered { requests: 1, ..Answered::default() };
        for release in 0..40 {
            let row = window.rows.entry((shop(), Some(ReleaseNumber(release)))).or_default();
            (0..DAY / SPAN).for_each(|span| record(&mut row.spans, span * SPAN, &answered));
        }
        window.newest = DAY - 1;
        window.forget();
        let kept: Vec<usize> = window.rows.values().map(|row| row.spans.len()).collect();
        assert!((MAX_CELLS - 40..=MAX_CELLS).contains(&kept.iter().sum()), "{kept:?}");
        assert!(kept.iter().all(|cells| *cells > 3_000), "of each the newest: {kept:?}");
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
