use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn answered(due: Duration, began: Duration, ended: Duration) -> Outcome {
    Outcome { due, began: Some(began), ended, connecting: None, status: Some(200), received: 5, sent: 0, failure: None }
}

fn failed(due: Duration, began: Option<Duration>, ended: Duration, kind: Kind) -> Outcome {
    Outcome { began, status: None, failure: Some((kind, "why".to_owned())), ..answered(due, due, ended) }
}

/// The heart of it: one that was due at 100 ms, sent at 600 ms and answered at 601 ms took 501 ms and not 1.
#[test]
fn latency_counts_from_when_a_request_was_due() {
    let mut tally = Tally::new(Duration::ZERO);
    tally.taken_up(100 * MS, 100 * MS);
    tally.ended(answered(100 * MS, 600 * MS, 601 * MS));
    assert!((500_000..502_000).contains(&tally.latency.max()), "{}", tally.latency.max());
    assert!((999..1_001).contains(&tally.service.max()), "{}", tally.service.max());
    assert_eq!((tally.counts.late, tally.lagged), (1, 0));
}

#[test]
fn the_warm_up_is_in_no_figure() {
    let mut tally = Tally::new(1_000 * MS);
    tally.taken_up(999 * MS, 1_500 * MS);
    tally.ended(answered(999 * MS, 1_500 * MS, 1_600 * MS));
    tally.taken_up(1_000 * MS, 1_000 * MS);
    tally.ended(answered(1_000 * MS, 1_000 * MS, 1_001 * MS));
    let expected = Counts { offered: 1, sent: 1, completed: 1, succeeded: 1, warm_up: 1, ..Counts::default() };
    assert_eq!(tally.counts, expected);
    assert_eq!((tally.latency.len(), tally.received, tally.lagged), (1, 5, 0));
}

#[test]
fn what_waited_in_vain_counts_with_the_time_waited() {
    let mut tally = Tally::new(Duration::ZERO);
    for (began, kind) in
        [(Some(Duration::ZERO), Kind::Timeout), (None, Kind::Dropped), (Some(Duration::ZERO), Kind::Refused)]
    {
        tally.taken_up(Duration::ZERO, Duration::ZERO);
        tally.ended(failed(Duration::ZERO, began, 2_000 * MS, kind));
    }
    assert_eq!(tally.latency.len(), 2, "a refusal is fast and must not make latencies look good");
    assert!(tally.latency.min() >= 1_999_000);
    assert_eq!((tally.counts.failed, tally.counts.dropped, tally.counts.sent), (3, 1, 2));
    assert_eq!(tally.errors, BTreeMap::from([(Kind::Timeout, 1), (Kind::Dropped, 1), (Kind::Refused, 1)]));
}

#[test]
fn only_the_first_failures_are_told_about() {
    let tally = |from: u32| {
        let mut tally = Tally::new(Duration::ZERO);
        for i in from..from + 30 {
            tally.taken_up(i * MS, i * MS);
            tally.ended(failed(i * MS, None, i * MS, Kind::Refused));
        }
        tally
    };
    let mut sum = tally(15);
    sum.merge(tally(0));
    assert_eq!(sum.counts.failed, 60);
    assert_eq!(sum.failures.len(), TOLD);
    assert!(sum.failures[0].at_ms < 0.1 && sum.failures[TOLD - 1].at_ms < 20.0);
}

#[test]
fn a_long_run_has_wider_slots() {
    let mut tally = Tally::new(Duration::ZERO);
    for second in 0..1_000 {
        let due = Duration::from_secs(second);
        tally.taken_up(due, due);
        tally.ended(answered(due, due, due + MS));
    }
    let timeline = &tally.timeline;
    assert_eq!(timeline.width(), Duration::from_millis(6_400));
    assert!(timeline.slots().len() <= SLOTS);
    assert_eq!(timeline.slots()[0].due, 7);
    assert!((990..1_010).contains(&timeline.slots()[3].latency.max()));
    assert_eq!(timeline.slots().iter().map(|slot| slot.answered).sum::<u64>(), 1_000);
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let kinds = [Kind::Refused, Kind::Timeout, Kind::Dropped, Kind::Status];
    (0..200_000_u64, 0..3_000_u64, 0..3_000_u64, proptest::option::of(0..kinds.len())).prop_map(
        move |(due, wait, took, kind)| {
            let (due, wait, took) =
                (Duration::from_millis(due), Duration::from_millis(wait), Duration::from_millis(took));
            match kind.map(|index| kinds[index]) {
                None => answered(due, due + wait, due + wait + took),
                Some(Kind::Dropped) => failed(due, None, due + wait, Kind::Dropped),
                Some(kind) => failed(due, Some(due + wait), due + wait + took, kind),
            }
        },
    )
}

fn count(outcomes: &[Outcome]) -> Tally {
    let mut tally = Tally::new(1_000 * MS);
    for outcome in outcomes {
        tally.taken_up(outcome.due, outcome.due);
        tally.ended(outcome.clone());
    }
    tally
}

proptest! {
    /// Every request that was due is in exactly one place, and threads add up to what one would have counted.
    #[test]
    fn counts_balance_and_threads_add_up(
        outcomes in proptest::collection::vec(any_outcome(), 0..300), split in 0..300_usize,
    ) {
        let whole = count(&outcomes);
        let counts = whole.counts;
        prop_assert_eq!(counts.offered, counts.succeeded + counts.failed);
        prop_assert_eq!(counts.offered, counts.sent + counts.dropped);
        prop_assert_eq!(counts.offered + counts.warm_up, outcomes.len() as u64);
        prop_assert_eq!(counts.failed, whole.errors.values().sum::<u64>());
        prop_assert_eq!(counts.completed, whole.statuses.values().sum::<u64>());

        let (first, second) = outcomes.split_at(split.min(outcomes.len()));
        let mut sum = count(first);
        sum.merge(count(second));
        prop_assert_eq!(sum.counts, whole.counts);
        prop_assert_eq!(&sum.latency, &whole.latency);
        prop_assert_eq!(&sum.service, &whole.service);
        prop_assert_eq!(sum.timeline.width(), whole.timeline.width());
        let slots = |tally: &Tally| -> Vec<(u64, u64, u64, u64)> {
            tally.timeline.slots().iter().map(|s| (s.due, s.failed, s.answered, s.latency.len())).collect()
        };
        prop_assert_eq!(slots(&sum), slots(&whole));
        prop_assert_eq!(slots(&whole).iter().map(|slot| slot.0).sum::<u64>(), counts.offered);
    }
}
