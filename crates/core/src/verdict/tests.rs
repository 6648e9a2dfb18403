//! The statistics: against cases computed elsewhere, exactly where they can be enumerated, and by simulation with fixed
//! seeds.

use std::time::Duration;

use super::evidence::{above, below, worse};
use super::*;
use crate::app::AbortRule;
use crate::units::Share;

const MS: Duration = Duration::from_millis(1);

/// splitmix64
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }
}

fn percent(hundredths: u32) -> Share {
    Share::from_ppm(hundredths * 100).unwrap()
}

/// So many requests, of which so many failed and the others took 10 ms.
fn counters(failures: u64, requests: u64) -> Counters {
    let mut latency = Histogram::default();
    latency.add(10 * MS, requests - failures);
    Counters { requests, failures, latency, left: Histogram::default() }
}

/// None failed; so many took a second, the others 10 ms.
fn slow(slow: u64, requests: u64) -> Counters {
    let mut latency = Histogram::default();
    latency.add(10 * MS, requests - slow);
    latency.add(1000 * MS, slow);
    Counters { requests, failures: 0, latency, left: Histogram::default() }
}

fn compared(rules: &[AbortRule], canary: &Counters, baseline: &Counters, stable: &Counters) -> Judgement {
    judge(rules, canary, Some(Against { baseline, stable, serves: true }))
}

const ONE_PERCENT: fn() -> AbortRule = || AbortRule::ErrorRate(percent(100));

fn usual() -> [AbortRule; 4] {
    let p99 = percent(9900);
    [
        ONE_PERCENT(),
        AbortRule::Latency { quantile: p99, limit: 500 * MS },
        AbortRule::ErrorRateAboveStable(percent(50)),
        AbortRule::LatencyAboveStable { quantile: p99, above: 50 * MS },
    ]
}

fn close(log: f64, expected: f64) {
    assert!((log.exp() / expected - 1.0).abs() < 1e-9, "{} instead of {expected}", log.exp());
}

/// The expected values are sums of exact fractions (Python's `fractions`), rounded once.
#[test]
fn evidence_is_what_exact_fractions_give() {
    let one = |f: fn(Tally, f64) -> f64, bad, of, limit, expected| close(f(Tally::new(bad, of), limit), expected);
    one(above, 0, 1, 0.01, 0.8900245062330361);
    one(above, 1, 1, 0.01, 11.887573882929429);
    one(above, 3, 100, 0.01, 1.600636309598012);
    one(above, 41, 2100, 0.01, 297.23294078109785);
    one(above, 2, 2, 0.5, 2.5510881670693193);
    one(above, 30, 30, 1.0, 1.0);
    one(below, 0, 299, 0.01, 9.989596859295958);
    one(below, 3, 2080, 0.01, 43395.13344770286);
    one(below, 5, 10, 0.5, 0.33015517252200166);
    let two = |canary: (u64, u64), baseline: (u64, u64), margin, expected| {
        close(worse(Tally::new(canary.0, canary.1), Tally::new(baseline.0, baseline.1), margin), expected);
    };
    two((1, 1), (0, 1), 0.0, 1.6337069160997733);
    two((10, 100), (0, 100), 0.0, 113.24518788744837);
    two((41, 2100), (3, 2080), 0.0, 16164467.257031428);
    two((41, 2100), (3, 2080), 0.005, 4663.23199252726);
    two((5, 10), (5, 10), 0.0, 0.35945743537995895);
    two((700, 1000), (500, 1000), 0.0, 7829628287705982.0);
    // Ten times the requests with the same share: a sticky session, not a worse release.
    two((260, 13000), (140, 7000), 0.0, 0.09215550485001989);
}

/// Enumerates all paths: the probability that evidence ever reaches 100 within so many requests of a release at the
/// limit.
fn ever_proven(limit: f64, requests: u64) -> f64 {
    let (mut alive, mut proven) = (vec![1.0], 0.0);
    for of in 1..=requests {
        let mut next = vec![0.0; alive.len() + 1];
        for (bad, p) in alive.iter().enumerate() {
            next[bad] += p * (1.0 - limit);
            next[bad + 1] += p * limit;
        }
        for (bad, p) in next.iter_mut().enumerate() {
            if above(Tally::new(bad as u64, of), limit) >= 100_f64.ln() {
                proven += std::mem::take(p);
            }
        }
        while next.last().is_some_and(|p| *p < 1e-18) {
            next.pop();
        }
        alive = next;
    }
    proven
}

#[test]
fn a_release_at_its_limit_is_wrongly_proven_above_it_in_less_than_one_of_a_hundred_exactly() {
    for (limit, requests) in [(0.001, 20_000), (0.01, 5_000), (0.1, 2_000), (0.5, 1_000)] {
        let proven = ever_proven(limit, requests);
        assert!(proven <= 0.01 && proven > 0.001, "{limit}: {proven}");
    }
}

/// The first look, one request of each more every time, that aborts a canary of which this part fails beside a sound release.
fn half_aborts_after(fails: f64, beside: bool) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
    let failed = |of: u64| (of as f64 * fails).ceil() as u64;
    let aborts = |of: &u64| {
        let (canary, sound) = (counters(failed(*of), *of), counters(0, *of));
        let against = beside.then_some(Against { baseline: &sound, stable: &sound, serves: true });
        matches!(judge(&[], &canary, against).verdict, Verdict::Fail(_))
    };
    (1..10_000).find(aborts).unwrap()
}

#[test]
fn a_dead_release_is_aborted_after_a_dozen_requests() {
    let after = [(1.0, true), (0.8, true), (0.55, true), (1.0, false), (0.8, false), (0.55, false)];
    assert_eq!(after.map(|(fails, beside)| half_aborts_after(fails, beside)), [10, 11, 15, 10, 24, 1_311]);
}

/// Looks each so many requests at two releases whose bad shares are these at each moment; how many of the runs find the
/// canary worse.
fn runs_that_find_it_worse(seed: u64, share: impl Fn(u64, &mut Rng) -> (f64, f64), of_canary: f64, margin: f64) -> u32 {
    let mut rng = Rng(seed);
    let mut found = 0;
    for _ in 0..RUNS {
        let (mut canary, mut baseline) = (Tally::default(), Tally::default());
        for request in 1..=REQUESTS {
            let (p, r) = share(request, &mut rng);
            let (tally, p) = if rng.chance(of_canary) { (&mut canary, p) } else { (&mut baseline, r) };
            tally.of += 1;
            tally.bad += u64::from(rng.chance(p));
            if request % 40 == 0 && worse(canary, baseline, margin) >= 100_f64.ln() {
                found += 1;
                break;
            }
        }
    }
    found
}

const RUNS: u32 = 1_000;
const REQUESTS: u64 = 4_000;

#[test]
fn an_equal_release_is_found_worse_in_less_than_one_of_a_hundred_runs_at_any_share_over_all_looks() {
    for (seed, p) in [(1, 0.001), (2, 0.01), (3, 0.1), (4, 0.5), (5, 0.9)] {
        let found = runs_that_find_it_worse(seed, |_, _| (p, p), 0.5, 0.0);
        assert!(found <= RUNS / 100, "{p}: {found} of {RUNS}");
    }
    let at_margin = runs_that_find_it_worse(6, |_, _| (0.03, 0.02), 0.5, 0.01);
    assert!(at_margin <= RUNS / 100, "{at_margin}");
}

#[test]
fn a_fault_that_both_share_and_sessions_that_stick_prove_nothing() {
    let outage = |request, _: &mut Rng| if (1_000..2_000).contains(&request) { (0.4, 0.4) } else { (0.002, 0.002) };
    let found = runs_that_find_it_worse(7, outage, 0.5, 0.0);
    assert!(found <= RUNS / 100, "outage: {found}");
    for (seed, of_canary) in [(8, 0.3), (9, 0.7)] {
        let found = runs_that_find_it_worse(seed, |_, _| (0.02, 0.02), of_canary, 0.0);
        assert!(found <= RUNS / 100, "{of_canary} of the requests: {found}");
    }
}

#[test]
fn a_worse_release_is_found() {
    let found = runs_that_find_it_worse(10, |_, _| (0.03, 0.01), 0.5, 0.0);
    assert!(found > RUNS * 8 / 10, "{found}");
}

/// A whole step of identical releases with these errors, two requests each per look; whether it is aborted.
fn aborts_identical(rng: &mut Rng, errors: f64, looks: u32) -> bool {
    let [mut canary, mut baseline, mut stable] = [(); 3].map(|()| Counters::default());
    for _ in 0..looks {
        for (counters, requests) in [(&mut canary, 20), (&mut baseline, 20), (&mut stable, 60)] {
            for _ in 0..requests {
                let status = if rng.chance(errors) { 500 } else { 200 };
                let took = if rng.chance(0.01) { 480 * MS } else { (10 + u32::try_from(rng.below(90)).unwrap()) * MS };
                counters.record(status, took);
            }
        }
        if let Verdict::Fail(_) = compared(&usual(), &canary, &baseline, &stable).verdict {
            return true;
        }
    }
    false
}

#[test]
fn identical_releases_are_aborted_in_at_most_one_of_a_hundred_steps_even_above_the_limit() {
    let mut rng = Rng(11);
    let runs = 600;
    let aborted = (0..runs).filter(|run| aborts_identical(&mut rng, 0.001 + 0.0001 * f64::from(run % 200), 60)).count();
    assert!(aborted <= 6, "{aborted} of {runs}");
}

/// A step of identical releases with these errors and few requests a look, without a rule; whether it is aborted. `beside`: there
/// is something to compare with.
fn half_aborts_identical(rng: &mut Rng, errors: f64, beside: bool) -> bool {
    let [mut canary, mut baseline, mut stable] = [(); 3].map(|()| Counters::default());
    for _ in 0..60 {
        for (counters, requests) in [(&mut canary, 4), (&mut baseline, 4), (&mut stable, 16)] {
            (0..requests).for_each(|_| counters.record(if rng.chance(errors) { 500 } else { 200 }, MS));
        }
        let mut whole = stable.clone();
        whole.merge(&baseline);
        let against = beside.then_some(Against { baseline: &baseline, stable: &whole, serves: true });
        if let Verdict::Fail(_) = judge(&[], &canary, against).verdict {
            return true;
        }
    }
    false
}

#[test]
fn over_half_aborts_identical_releases_in_at_most_one_of_a_hundred_steps_whatever_they_fail() {
    let runs = 800;
    for (seed, errors, beside) in [
        (21, 0.1, true),
        (22, 0.2, true),
        (23, 0.3, true),
        (24, 0.5, true),
        (25, 0.7, true),
        (26, 0.95, true),
        (27, 0.2, false),
        (28, 0.3, false),
        (29, 0.5, false),
    ] {
        let mut rng = Rng(seed);
        let aborted = (0..runs).filter(|_| half_aborts_identical(&mut rng, errors, beside)).count();
        assert!(aborted <= runs / 100, "{errors}, beside {beside}: {aborted} of {runs}");
    }
}

#[test]
fn a_limit_passes_only_after_enough_requests_without_a_failure() {
    for (hundredths, expected) in [(100, 299), (50, 598), (500, 59), (5000, 10), (10, 2_995), (0, 2_995), (10_000, 10)]
    {
        assert_eq!(needs(percent(hundredths)), expected, "{hundredths}");
    }
    assert_eq!(needs(Share::from_ppm(1).unwrap()), 2_995_731);
    let check = |canary: &Counters, expected: Verdict| {
        assert_eq!(judge(&[ONE_PERCENT()], canary, None).verdict, expected, "{canary:?}");
    };
    check(&counters(0, 0), Verdict::TooFewData);
    check(&counters(0, 298), Verdict::TooFewData);
    check(&counters(0, 299), Verdict::Pass);
    check(&counters(2, 299), Verdict::Pass);
    check(&counters(3, 299), Verdict::TooFewData);
}

#[test]
fn missing_data_is_no_success() {
    let (none, good) = (Counters::default(), counters(0, 100_000));
    let rules = usual();
    for (canary, baseline, stable) in
        [(&none, &good, &good), (&good, &none, &good), (&good, &none, &none), (&none, &none, &none)]
    {
        assert_eq!(compared(&rules, canary, baseline, stable).verdict, Verdict::TooFewData);
    }
    let no_latency = Counters { latency: Histogram::default(), ..good.clone() };
    assert_eq!(compared(&rules, &no_latency, &good, &good).verdict, Verdict::TooFewData);
    assert_eq!(compared(&rules, &good, &no_latency, &good).verdict, Verdict::TooFewData);
    assert_eq!(compared(&rules, &good, &good, &good).verdict, Verdict::Pass);
    assert_eq!(judge(&[], &none, None).verdict, Verdict::TooFewData);
    assert_eq!(judge(&[], &counters(0, 10), None).verdict, Verdict::Pass);
}

fn state(rules: &[AbortRule], canary: &Counters, baseline: &Counters, stable: &Counters) -> State {
    compared(rules, canary, baseline, stable).findings[1].state
}

#[test]
fn a_limit_that_stable_breaks_as_well_is_not_held_against_the_canary() {
    let rule = [ONE_PERCENT()];
    let check = |canary, baseline, stable, expected| assert_eq!(state(&rule, &canary, &baseline, &stable), expected);
    check(counters(60, 2_000), counters(1, 2_000), counters(1, 2_000), State::Exceeded);
    check(counters(60, 2_000), counters(55, 2_000), counters(550, 20_000), State::StableToo);
    // Without a baseline that says anything, the rest of the stable release clears the canary's judge.
    check(counters(60, 2_000), counters(0, 0), counters(20, 20_000), State::Exceeded);
    check(counters(60, 2_000), counters(0, 0), counters(0, 10), State::Doubtful);
    // Both break it, and the canary is much worse.
    check(counters(400, 2_000), counters(60, 2_000), counters(600, 20_000), State::Exceeded);
}

#[test]
fn a_broken_stable_lets_through_what_is_shown_to_be_better() {
    let rule = [ONE_PERCENT()];
    let (baseline, stable) = (counters(90, 2_000), counters(900, 20_000));
    let verdict = |canary: &Counters| compared(&rule, canary, &baseline, &stable).verdict;
    let fix = |verdict: Verdict| assert!(matches!(verdict, Verdict::StableBroken(_)), "{verdict:?}");
    fix(verdict(&counters(0, 700)));
    fix(verdict(&counters(20, 2_000)));
    assert_eq!(verdict(&Counters::default()), Verdict::TooFewData, "no data are no success");
    assert_eq!(verdict(&counters(0, 10)), Verdict::TooFewData);
    assert_eq!(verdict(&counters(80, 2_000)), Verdict::TooFewData, "as bad is no fix");
    assert!(matches!(verdict(&counters(600, 2_000)), Verdict::Fail(_)));
    // A fix of the errors that may be slow is held.
    let rules = [ONE_PERCENT(), AbortRule::Latency { quantile: percent(9900), limit: 500 * MS }];
    fix(compared(&rules, &slow(6, 700), &baseline, &stable).verdict);
    assert_eq!(compared(&rules, &slow(8, 700), &baseline, &stable).verdict, Verdict::TooFewData);
    // A dead release is replaced after a dozen requests of each, whatever the rules.
    let dead = counters(14, 14);
    fix(compared(&[], &counters(0, 14), &dead, &dead).verdict);
    assert_eq!(compared(&[], &counters(13, 14), &dead, &dead).verdict, Verdict::TooFewData);
}

#[test]
fn over_half_aborts_without_a_rule_as_soon_as_it_is_proven() {
    let good = counters(0, 100);
    let check = |canary, expected_beside, expected_alone| {
        assert_eq!(compared(&[], &canary, &good, &good).findings[0].state, expected_beside);
        assert_eq!(judge(&[], &canary, None).findings[0].state, expected_alone);
    };
    check(counters(9, 9), State::TooFew(10), State::TooFew(10));
    check(counters(5, 10), State::Within, State::Within);
    check(counters(6, 10), State::Exceeded, State::Doubtful);
    check(counters(16, 16), State::Exceeded, State::Exceeded);
    let beside = |canary: Counters, stable: Counters| compared(&[], &canary, &stable, &stable).findings[0].state;
    assert_eq!(beside(counters(16, 16), Counters::default()), State::NothingBeside);
    assert_eq!(beside(counters(6, 10), Counters::default()), State::Doubtful);
    assert_eq!(beside(counters(60, 100), counters(55, 100)), State::StableToo);
    assert_eq!(beside(counters(60, 100), counters(30, 100)), State::Exceeded);
}

#[test]
fn slowness_is_judged_as_failures_are() {
    let rule = |above| [AbortRule::LatencyAboveStable { quantile: percent(9900), above }];
    let absolute = [AbortRule::Latency { quantile: percent(9900), limit: 500 * MS }];
    assert_eq!(state(&absolute, &slow(60, 2_000), &slow(1, 2_000), &slow(1, 2_000)), State::Exceeded);
    assert_eq!(state(&absolute, &slow(19, 2_000), &slow(1, 2_000), &slow(1, 2_000)), State::Within);
    assert_eq!(state(&absolute, &slow(60, 2_000), &slow(60, 2_000), &slow(600, 20_000)), State::StableToo);
    assert_eq!(state(&rule(100 * MS), &slow(80, 2_000), &slow(1, 2_000), &slow(1, 2_000)), State::Exceeded);
    assert_eq!(state(&rule(2_000 * MS), &slow(80, 2_000), &slow(1, 2_000), &slow(1, 2_000)), State::Within);
    assert_eq!(state(&rule(Duration::ZERO), &slow(80, 2_000), &slow(80, 2_000), &slow(1, 2_000)), State::Within);
    assert_eq!(state(&rule(Duration::ZERO), &slow(3, 298), &slow(0, 298), &slow(1, 2_000)), State::TooFew(299));
    // A limit within a bucket: what may be on either side of it neither aborts nor passes.
    let mut near = Histogram::default();
    near.add(495 * MS, 2_000);
    let near = Counters { requests: 2_000, failures: 0, latency: near, left: Histogram::default() };
    let within_a_bucket = [AbortRule::Latency { quantile: percent(9900), limit: 490 * MS }];
    assert_eq!(state(&within_a_bucket, &near, &slow(0, 2_000), &slow(0, 2_000)), State::Doubtful);
    assert_eq!(state(&absolute, &near, &slow(0, 2_000), &slow(0, 2_000)), State::Within);
}

/// Of these requests so many clients have left without an answer, after this time.
fn given_up(answered: &Counters, times: u64, after: Duration) -> Counters {
    let mut all = answered.clone();
    (0..times).for_each(|_| all.record(499, after));
    all
}

#[test]
fn whoever_left_was_not_answered_quickly() {
    let rules = [AbortRule::Latency { quantile: percent(9900), limit: 500 * MS }];
    let good = slow(0, 2_000);
    // Of a release that hangs, before the limit: it is not known how they would have fared.
    assert_eq!(state(&rules, &given_up(&slow(0, 250), 49, 400 * MS), &good, &good), State::TooFew(299));
    // None of them hides others that were slow.
    assert_eq!(state(&rules, &given_up(&slow(60, 2_000), 9_000, MS), &good, &good), State::Exceeded);
    // And who has waited for longer than the limit was not answered within it.
    assert_eq!(state(&rules, &given_up(&slow(0, 1_940), 60, 700 * MS), &good, &good), State::Exceeded);
    let above = [AbortRule::LatencyAboveStable { quantile: percent(9900), above: 100 * MS }];
    assert_eq!(state(&above, &given_up(&slow(0, 1_920), 80, 700 * MS), &good, &good), State::Exceeded);
    assert_eq!(state(&above, &given_up(&slow(0, 2_000), 80, 10 * MS), &good, &good), State::Within);
}

/// A step of identical releases that are just as slow as they may be, beside clients who do not wait; whether it is aborted.
fn impatience_aborts(rng: &mut Rng) -> bool {
    let rules = [AbortRule::Latency { quantile: percent(9000), limit: 500 * MS }];
    let mut canary = Counters::default();
    for _ in 0..200 {
        for _ in 0..10 {
            let takes = if rng.chance(0.1) { 600 * MS } else { 20 * MS };
            let waits = MS * u32::try_from(1 + rng.below(1_000)).unwrap();
            let (status, took) = if waits < takes { (499, waits) } else { (200, takes) };
            canary.record(status, took);
        }
        if let Verdict::Fail(_) = judge(&rules, &canary, None).verdict {
            return true;
        }
    }
    false
}

#[test]
fn who_does_not_wait_aborts_no_release_that_is_fast_enough() {
    let mut rng = Rng(31);
    let aborted = (0..400).filter(|_| impatience_aborts(&mut rng)).count();
    assert!(aborted <= 4, "{aborted} of 400");
}

#[test]
fn beside_a_stable_release_that_cannot_answer_a_dead_canary_is_held_to_the_limit_alone() {
    let none = Counters::default();
    let verdict = |canary: &Counters, stable: &Counters, serves| {
        judge(&[ONE_PERCENT()], canary, Some(Against { baseline: &none, stable, serves })).verdict
    };
    let dead = counters(16, 16);
    assert_eq!(verdict(&dead, &none, true), Verdict::TooFewData, "it may just not have been asked");
    assert!(matches!(verdict(&dead, &none, false), Verdict::Fail(finding) if finding.limit == Limit::Half));
    assert!(matches!(verdict(&dead, &counters(0, 3), false), Verdict::Fail(_)), "it has answered a few before");
    assert_eq!(verdict(&counters(9, 16), &none, false), Verdict::TooFewData, "which may be chance");
    // What fails less is better than what does not answer at all, whatever its rules say.
    let better = counters(60, 2_000);
    assert_eq!(verdict(&better, &none, false), Verdict::TooFewData);
    let said = judge(&[ONE_PERCENT()], &better, Some(Against { baseline: &none, stable: &none, serves: false }));
    assert_eq!(
        said.to_string(),
        "canary 60 of 2,000 failed, stable none; limit 1%; above it, and stable has no instance that is ready; holding"
    );
}

#[test]
fn a_stable_release_that_fails_some_is_not_broken_because_of_an_unlucky_look() {
    let verdict = |canary: &Counters, stable: &Counters| compared(&usual(), canary, stable, stable).verdict;
    assert_eq!(verdict(&counters(0, 12), &counters(7, 12)), Verdict::TooFewData);
    assert!(matches!(verdict(&counters(0, 20), &counters(20, 20)), Verdict::StableBroken(_)));
}

/// A step of a sound canary beside a stable release that fails as many as this; whether its remaining steps are left out by "over
/// half", which no rule is there for.
fn half_lets_through(rng: &mut Rng, errors: f64) -> bool {
    let [mut canary, mut baseline, mut stable] = [(); 3].map(|()| Counters::default());
    for _ in 0..60 {
        for (counters, requests, errors) in
            [(&mut canary, 4, 0.0), (&mut baseline, 4, errors), (&mut stable, 16, errors)]
        {
            (0..requests).for_each(|_| counters.record(if rng.chance(errors) { 500 } else { 200 }, MS));
        }
        let mut whole = stable.clone();
        whole.merge(&baseline);
        let latency = [AbortRule::Latency { quantile: percent(9990), limit: 500 * MS }];
        if let Verdict::StableBroken(_) = compared(&latency, &canary, &baseline, &whole).verdict {
            return true;
        }
    }
    false
}

#[test]
fn steps_are_left_out_for_a_stable_release_that_is_broken_and_not_for_one_that_may_be() {
    let mut rng = Rng(32);
    let let_through = |rng: &mut Rng, errors| (0..400).filter(|_| half_lets_through(rng, errors)).count();
    for errors in [0.3, 0.4, 0.45] {
        let found = let_through(&mut rng, errors);
        assert!(found <= 4, "{errors}: {found} of 400");
    }
    assert!(let_through(&mut rng, 0.9) > 390);
}

#[test]
fn rules_that_compare_are_left_out_where_there_is_nothing_to_compare_with() {
    let judgement = judge(&usual(), &counters(0, 1_000), None);
    assert_eq!((judgement.findings.len(), judgement.verdict), (3, Verdict::Pass));
}

#[test]
fn a_person_understands_the_reports() {
    let check = |judgement: Judgement, expected: &str| assert_eq!(judgement.to_string(), expected);
    let rule = [ONE_PERCENT()];
    let (few, many) = (counters(3, 2_080), counters(800, 20_000));
    check(
        compared(&rule, &counters(41, 2_100), &few, &few),
        "canary 41 of 2,100 failed, stable 3 of 2,080; limit 1%; aborting",
    );
    check(
        compared(&rule, &counters(0, 120), &few, &few),
        "canary 0 of 120 failed, stable 3 of 2,080; limit 1%; waits for 179 more requests",
    );
    check(
        compared(&rule, &counters(2, 2_100), &few, &few),
        "canary 2 of 2,100 failed, stable 3 of 2,080; limit 1%; passed",
    );
    check(
        compared(&rule, &counters(25, 2_100), &few, &few),
        "canary 25 of 2,100 failed, stable 3 of 2,080; limit 1%; above it, which may be chance; holding",
    );
    check(
        compared(&rule, &counters(2, 1_000), &counters(90, 2_080), &many),
        "stable 800 of 20,000 failed, canary 2 of 1,000; limit 1%; stable itself is broken",
    );
    check(
        compared(&[], &counters(8, 12), &counters(3, 12), &few),
        "canary 8 of 12 failed, stable 3 of 12; limit 50%; above it, which may be chance; holding",
    );
    check(judge(&rule, &counters(90, 2_100), None), "canary 90 of 2,100 failed; limit 1%; aborting");
    check(
        compared(&[], &counters(11, 12), &counters(0, 12), &few),
        "canary 11 of 12 failed, stable 0 of 12; limit 50%; aborting",
    );
    check(
        compared(&[AbortRule::ErrorRateAboveStable(percent(50))], &counters(4, 580), &counters(0, 1_580), &few),
        "canary 4 of 580 failed, stable 0 of 1,580; limit stable + 0.5%; waits for 18 more requests",
    );
    let p99 = percent(9900);
    check(
        compared(&[AbortRule::Latency { quantile: p99, limit: 500 * MS }], &slow(63, 2_100), &slow(2, 2_080), &few),
        "canary 63 of 2,100 slower than 500ms, stable 2 of 2,080; limit 1%; aborting",
    );
    let above = AbortRule::LatencyAboveStable { quantile: p99, above: 100 * MS };
    check(
        compared(&[above], &slow(93, 2_100), &slow(2, 2_080), &few),
        "canary 93 of 2,100 slower than 111ms (stable's p99 + 100ms), stable 2 of 2,080; limit 1%; aborting",
    );
    check(judge(&[], &counters(0, 1_234_567), None), "canary 0 of 1,234,567 failed; limit 50%; passed");
    let none = Counters::default();
    check(compared(&rule, &none, &none, &none), "no requests of the canary yet; limit 1%; waits for 299 more requests");
    check(judge(&[], &counters(0, 9), None), "canary 0 of 9 failed; limit 50%; waits for 1 more request");
    check(
        compared(&[], &counters(16, 16), &none, &none),
        "canary 16 of 16 failed, stable none; limit 50%; above it, and stable has had no requests to compare with; holding",
    );
    check(
        compared(&usual(), &counters(0, 20), &few, &few),
        "canary 0 of 20 failed, stable 3 of 2,080; limit stable + 0.5%; waits for 578 more requests",
    );
}

/// A count of any size up to 2^53, small ones as often as large ones.
fn any_count(rng: &mut Rng) -> u64 {
    let bits = rng.below(54);
    rng.below((1 << bits) + 1)
}

fn any_counters(rng: &mut Rng) -> Counters {
    let requests = any_count(rng);
    let failures = any_count(rng).min(requests);
    let mut latency = Histogram::default();
    for _ in 0..rng.below(4) {
        let took = Duration::from_micros(any_count(rng));
        latency.add(took, any_count(rng));
    }
    let mut left = Histogram::default();
    left.add(Duration::from_micros(any_count(rng)), any_count(rng));
    Counters { requests, failures, latency, left }
}

fn any_rules(rng: &mut Rng) -> Vec<AbortRule> {
    let share = |rng: &mut Rng| {
        let ends = [0, 1, 10_000, 500_000, 999_999, 1_000_000, u32::try_from(rng.below(1_000_001)).unwrap()];
        Share::from_ppm(ends[usize::try_from(rng.below(7)).unwrap()]).unwrap()
    };
    let rule = |rng: &mut Rng| match rng.below(4) {
        0 => AbortRule::ErrorRate(share(rng)),
        1 => AbortRule::ErrorRateAboveStable(share(rng)),
        2 => AbortRule::Latency { quantile: share(rng), limit: Duration::from_micros(any_count(rng)) },
        _ => AbortRule::LatencyAboveStable { quantile: share(rng), above: Duration::from_micros(any_count(rng)) },
    };
    (0..rng.below(5)).map(|_| rule(rng)).collect()
}

#[test]
fn no_counts_and_no_rules_make_it_stumble_and_more_failures_never_make_it_pass() {
    let (mut failed, mut passed) = (0, 0);
    for seed in 0..10_000 {
        let mut rng = Rng(seed);
        let rules = any_rules(&mut rng);
        let [mut canary, baseline, stable] = [(); 3].map(|()| any_counters(&mut rng));
        let limit = rng.unit();
        let (tally, other) =
            (Tally::new(canary.failures, canary.requests), Tally::new(baseline.failures, baseline.requests));
        for log in [above(tally, limit), below(tally, limit), worse(tally, other, 0.0), worse(tally, other, limit)] {
            assert!(!log.is_nan(), "seed {seed}");
        }
        let before = compared(&rules, &canary, &baseline, &stable);
        assert!(!before.to_string().is_empty());
        assert_eq!(before, compared(&rules, &canary, &baseline, &stable), "a look changes nothing");
        let alone = judge(&rules, &canary, None);
        passed += u32::from(before.verdict == Verdict::Pass);
        canary.failures += any_count(&mut rng).min(canary.requests - canary.failures);
        for (before, after) in
            [(before, compared(&rules, &canary, &baseline, &stable)), (alone, judge(&rules, &canary, None))]
        {
            failed += u32::from(matches!(before.verdict, Verdict::Fail(_)));
            let turned = matches!(before.verdict, Verdict::Fail(_)) && after.verdict == Verdict::Pass;
            assert!(!turned, "seed {seed}: {before}, then {after}");
        }
    }
    assert!(failed > 500 && passed > 50, "{failed} {passed}: the cases say something");
}

#[test]
fn more_bad_ones_are_more_evidence_and_more_of_the_baselines_are_less() {
    let mut rng = Rng(12);
    for _ in 0..20_000 {
        let (of, base) = (2 + rng.below(5_000), 2 + rng.below(5_000));
        let (bad, other, limit) = (rng.below(of), rng.below(base), 0.3 * rng.unit());
        let one = |bad| above(Tally::new(bad, of), limit);
        assert!(one(bad + 1) > one(bad) && below(Tally::new(bad + 1, of), limit) < below(Tally::new(bad, of), limit));
        let two = |bad, other| worse(Tally::new(bad, of), Tally::new(other, base), 0.0);
        if two(bad, other) > 0.0 {
            assert!(two(bad + 1, other) >= two(bad, other), "{bad} of {of}, {other} of {base}");
            assert!(two(bad, other + 1) <= two(bad, other), "{bad} of {of}, {other} of {base}");
        }
    }
}

#[test]
fn evidence_for_a_worse_canary_is_none_for_a_worse_baseline() {
    let mut rng = Rng(13);
    for _ in 0..5_000 {
        let (of, base) = (1 + rng.below(5_000), 1 + rng.below(5_000));
        let (canary, baseline) = (Tally::new(rng.below(of + 1), of), Tally::new(rng.below(base + 1), base));
        let (one, other) = (worse(canary, baseline, 0.0), worse(baseline, canary, 0.0));
        assert!(one <= 0.0 || other <= 0.0, "{canary} {baseline}");
        if one > 0.0 {
            assert!(canary.share() > baseline.share(), "{canary} {baseline}");
        }
    }
}
