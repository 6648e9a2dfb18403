//! What the world shows in, phases out; beside each the sets that follow from it.

use super::*;
use crate::app::{AbortRule, Step, Strategy, sample};
use crate::fault::FaultKind;
use crate::id::{Incarnation, InstanceId, Slot, SlotId};
use crate::instance::{ExitCause, Failure, SlotState};
use crate::rollout::{Scaled, ScaledBy, Scales, Silence, Streak};
use crate::route::outlier::{self, Outliers};
use crate::route::{Cohort, PoolId};
use crate::scale::Machine;
use crate::units::{Bytes, Share};
use crate::verdict::{Counted, Counters};

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn plan(stable: bool, replicas: u16) -> Plan {
    let mut app = sample::app("shop", &["web"]);
    app.services.get_mut(&web()).unwrap().scale.min = replicas;
    Plan::new(stable.then_some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &BTreeMap::new())
}

fn count(ready: u16, total: u16) -> Count {
    Count { ready, total, ..Count::default() }
}

/// So many of the stable release, and of its baseline.
fn beside(stable: u16, baseline: u16) -> Count {
    Count { baseline, ..count(stable + baseline, stable + baseline) }
}

fn failing(crashes: u32) -> Count {
    let slot = SlotId { key: sample::key("local", "shop"), service: web(), release: ReleaseNumber(2), slot: Slot(0) };
    let last = Failure {
        instance: InstanceId { slot, incarnation: Incarnation(crashes) },
        cause: FailureCause::Exited(ExitCause::Code(1)),
        was: SlotState::Starting,
        health: None,
        last_lines: Vec::new(),
    };
    Count { failing: Some(Failing { crashes, last }), ..count(0, 1) }
}

fn at(seconds: u64) -> Mono {
    Mono(Duration::from_secs(seconds))
}

/// Shows the world again and again, until nothing follows from it any more. The edge takes whatever it is told.
fn look(rollout: &mut Rollout, (counts, traffic): (&Counts, &Traffic), now: u64) -> Vec<Entered> {
    let mut all = Vec::new();
    loop {
        let entered = rollout.handle(Input::Observed(counts, traffic, &Word::Taken), at(now));
        if entered.is_empty() {
            return all;
        }
        all.extend(entered);
    }
}

/// Shows the counts of releases 1 and 2; compares the phases entered, and then `r1:replicas/weight r2:replicas/weight`.
#[track_caller]
fn check(rollout: &mut Rollout, now: u64, (one, two): (Count, Count), entered: &[&str], sets: &str) {
    let counts = Counts::from([((web(), ReleaseNumber(1)), one), ((web(), ReleaseNumber(2)), two)]);
    let phases = look(rollout, (&counts, &Traffic::new()), now);
    compare(rollout, &phases, entered, sets);
}

#[track_caller]
fn compare(rollout: &Rollout, phases: &[Entered], entered: &[&str], sets: &str) {
    let phases: Vec<String> = phases.iter().map(|entered| entered.phase.to_string()).collect();
    let of = |set: &Set| format!("r{}:{}/{}", set.release, set.replicas, set.weight.get());
    assert_eq!(
        (phases.iter().map(String::as_str).collect(), rollout.sets().iter().map(of).collect::<Vec<_>>().join(" ")),
        (entered.to_vec(), sets.to_owned())
    );
}

fn abort(rollout: &mut Rollout, now: u64, entered: &[&str], sets: &str) {
    let phases = rollout.handle(Input::Abort(Fault::new(FaultKind::Failed, "enough")), at(now));
    compare(rollout, &phases, entered, sets);
}

#[test]
fn a_first_release_starts_at_once_and_is_done_when_it_is_ready() {
    let mut rollout = Rollout::start(plan(false, 2), at(0));
    check(&mut rollout, 0, (count(0, 0), count(0, 0)), &["step 0"], "r2:2/100");
    check(&mut rollout, 1, (count(0, 0), count(1, 2)), &[], "r2:2/100");
    check(&mut rollout, 2, (count(0, 0), count(2, 2)), &["promote", "watch", "done"], "r2:2/100");
    check(&mut rollout, 3, (count(0, 0), count(0, 2)), &[], "r2:2/100");
}

#[test]
fn the_second_takes_over_by_instances_that_are_ready() {
    let mut rollout = Rollout::start(plan(true, 1), at(0));
    check(&mut rollout, 0, (count(1, 1), count(0, 0)), &["step 0"], "r1:1/100 r2:1/0");
    check(&mut rollout, 1, (count(1, 1), count(0, 1)), &[], "r1:1/100 r2:1/0");
    check(&mut rollout, 2, (count(1, 1), count(1, 1)), &["step 1", "promote", "watch", "done"], "r2:1/100");
}

#[test]
fn one_that_crashes_too_often_is_taken_back_and_the_stable_one_goes_on() {
    let mut rollout = Rollout::start(plan(true, 1), at(0));
    check(&mut rollout, 0, (count(1, 1), count(0, 0)), &["step 0"], "r1:1/100 r2:1/0");
    check(&mut rollout, 1, (count(1, 1), failing(MAX_CRASHES - 1)), &[], "r1:1/100 r2:1/0");
    let steps = ["abort clear 0", "abort restore 0", "abort drain"];
    check(&mut rollout, 2, (count(1, 1), failing(MAX_CRASHES)), &steps, "r1:1/100");
    check(&mut rollout, 3, (count(1, 1), count(0, 1)), &[], "r1:1/100");
    check(&mut rollout, 4, (count(1, 1), count(0, 0)), &["rolled back"], "r1:1/100");
    assert!(rollout.reason().is_some_and(|reason| reason.message.contains("web fails")), "{:?}", rollout.reason());
}

#[test]
fn a_first_release_that_never_gets_ready_leaves_nothing() {
    let mut rollout = Rollout::start(plan(false, 1), at(0));
    check(&mut rollout, 0, (count(0, 0), count(0, 0)), &["step 0"], "r2:1/100");
    let patience = rollout.next_deadline().unwrap().0.as_secs();
    check(&mut rollout, patience - 1, (count(0, 0), count(0, 1)), &[], "r2:1/100");
    check(&mut rollout, patience, (count(0, 0), count(0, 1)), &["abort drain"], "");
    check(&mut rollout, patience + 1, (count(0, 0), count(0, 0)), &["failed"], "");
    assert_eq!((rollout.live(), rollout.next_deadline()), (None, None));
}

#[test]
fn what_is_still_made_is_not_given_up_and_has_its_whole_time_then() {
    let mut rollout = Rollout::start(plan(false, 1), at(0));
    check(&mut rollout, 0, (count(0, 0), count(0, 0)), &["step 0"], "r2:1/100");
    let patience = rollout.next_deadline().unwrap().0.as_secs();
    let made = || Count { preparing: 1, ..count(0, 1) };
    check(&mut rollout, 1, (count(0, 0), made()), &[], "r2:1/100");
    check(&mut rollout, 7 * patience, (count(0, 0), made()), &[], "r2:1/100");
    check(&mut rollout, 8 * patience - 1, (count(0, 0), count(0, 1)), &[], "r2:1/100");
    check(&mut rollout, 8 * patience, (count(0, 0), count(0, 1)), &["abort drain"], "");
}

#[test]
fn a_stable_one_that_is_still_made_is_waited_for_before_the_candidate_goes() {
    let mut rollout = Rollout::resume(plan(true, 1), Phase::Abort(AbortStage::Restore(0)), None, at(0));
    check(&mut rollout, 0, (count(0, 0), count(1, 1)), &[], "r1:1/0 r2:1/100");
    let patience = rollout.next_deadline().unwrap().0.as_secs();
    let made = || Count { preparing: 1, ..count(0, 1) };
    check(&mut rollout, 7 * patience, (made(), count(1, 1)), &[], "r1:1/0 r2:1/100");
    check(&mut rollout, 8 * patience - 1, (count(0, 1), count(1, 1)), &[], "r1:1/0 r2:1/100");
    check(&mut rollout, 8 * patience, (count(0, 1), count(1, 1)), &["abort drain"], "r1:1/100");
}

#[test]
fn a_stable_one_that_can_not_be_made_holds_up_no_abort() {
    let mut rollout = Rollout::resume(plan(true, 1), Phase::Abort(AbortStage::Restore(0)), None, at(0));
    check(&mut rollout, 0, (count(0, 0), count(1, 1)), &[], "r1:1/0 r2:1/100");
    let patience = rollout.next_deadline().unwrap().0.as_secs();
    let made = |crashes| Count { preparing: 1, ..failing(crashes) };
    check(&mut rollout, patience - 1, (made(MAX_CRASHES - 1), count(1, 1)), &[], "r1:1/0 r2:1/100");
    check(&mut rollout, 2 * patience - 2, (made(MAX_CRASHES), count(1, 1)), &[], "r1:1/0 r2:1/100");
    check(&mut rollout, 2 * patience - 1, (made(MAX_CRASHES), count(1, 1)), &["abort drain"], "r1:1/100");
}

#[test]
fn abort_wins_once_and_is_nothing_after_the_end() {
    let mut rollout = Rollout::start(plan(true, 1), at(0));
    check(&mut rollout, 0, (count(1, 1), count(0, 0)), &["step 0"], "r1:1/100 r2:1/0");
    // What was counted before says nothing of the candidate that was ordered since.
    abort(&mut rollout, 1, &["abort clear 0", "abort restore 0", "abort drain"], "r1:1/100");
    abort(&mut rollout, 2, &[], "r1:1/100");
    check(&mut rollout, 3, (count(1, 1), count(0, 0)), &["rolled back"], "r1:1/100");
    abort(&mut rollout, 4, &[], "r1:1/100");
}

#[test]
fn a_rollout_goes_on_where_its_stored_phase_says() {
    let mut rollout = Rollout::resume(plan(true, 1), Phase::Step(0), None, at(50));
    assert_eq!(rollout.next_deadline(), None, "the world was not seen yet");
    check(&mut rollout, 51, (count(1, 1), count(1, 1)), &["step 1", "promote", "watch", "done"], "r2:1/100");
    let mut rollout = Rollout::resume(plan(true, 1), Phase::Abort(AbortStage::Drain), None, at(50));
    check(&mut rollout, 51, (count(1, 1), count(0, 1)), &[], "r1:1/100");
    check(&mut rollout, 52, (count(1, 1), count(0, 0)), &["rolled back"], "r1:1/100");
}

fn canary_rollout(rules: &str) -> crate::app::Rollout {
    let step = |percent, seconds| Step { weight: Weight::new(percent).unwrap(), hold: Duration::from_secs(seconds) };
    crate::app::Rollout {
        strategy: Strategy::Canary { steps: vec![step(10, 60), step(50, 120)] },
        abort: match rules {
            "" => Vec::new(),
            _ => vec![AbortRule::ErrorRate(Share::from_ppm(10_000).unwrap())],
        },
        watch: Duration::from_secs(600),
    }
}

/// A canary of two steps, 10% and 50%, of `web` with two instances.
fn canary(rules: &str) -> Rollout {
    let mut app = sample::app("shop", &["web", "worker"]);
    app.environment.name = crate::id::EnvName::new("production").unwrap();
    app.services.get_mut(&web()).unwrap().scale.min = 2;
    route_to(&mut app, &["web"]);
    app.rollout = canary_rollout(rules);
    Rollout::start(Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &BTreeMap::new()), at(0))
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// Routes that lead to each of these, in place of those that it had.
fn route_to(app: &mut crate::app::App, services: &[&str]) {
    let route = |(at, name): (usize, &&str)| {
        let route = crate::app::Route {
            hosts: vec![crate::app::HostName::new("shop.example.com").unwrap()],
            path: crate::app::PathPrefix::new(&format!("/{at}")).unwrap(),
            strip: false,
            to: crate::app::RouteTo::Service(service(name)),
            tls: crate::app::Tls::Auto,
            access: crate::app::Access::default(),
            limit: crate::app::Limit::default(),
            upload: None,
            transfer: crate::app::Transfer::default(),
        };
        (crate::id::RouteName::new(name).unwrap(), route)
    };
    app.routes = services.iter().enumerate().map(route).collect();
}

/// From one file to another, in production.
fn between(mut old: crate::app::App, mut new: crate::app::App) -> Plan {
    for app in [&mut old, &mut new] {
        app.environment.name = crate::id::EnvName::new("production").unwrap();
    }
    Plan::new(Some((ReleaseNumber(1), &old)), (ReleaseNumber(2), &new), &BTreeMap::new())
}

/// Of `web`: requests and failures of stable, baseline and canary; all else is ready.
#[track_caller]
fn judged(rollout: &mut Rollout, now: u64, seen: [(u64, u64); 3], entered: &[&str], sets: &str) {
    judged_by(rollout, (now, 7), seen, entered, sets);
}

/// `began`: which edge has counted them.
#[track_caller]
fn judged_by(rollout: &mut Rollout, (now, began): (u64, u64), seen: [(u64, u64); 3], entered: &[&str], sets: &str) {
    let worker = ServiceName::new("worker").unwrap();
    let counts = [(1, beside(9, 9)), (2, count(9, 9))].into_iter().flat_map(|(release, count)| {
        let of = |service: ServiceName| ((service, ReleaseNumber(release)), count.clone());
        [of(web()), of(worker.clone())]
    });
    let counted =
        |(requests, failures)| Counted { began, counters: Counters { requests, failures, ..Counters::default() } };
    let of = [(1, Cohort::Whole), (1, Cohort::Baseline), (2, Cohort::Whole)];
    let traffic = of
        .into_iter()
        .zip(seen)
        .map(|((release, cohort), seen)| ((web(), ReleaseNumber(release), cohort), counted(seen)));
    let phases = look(rollout, (&counts.collect(), &traffic.collect()), now);
    let phases: Vec<String> = phases.iter().map(|entered| entered.phase.to_string()).collect();
    let of = |set: &Set| {
        let role = if set.role == Role::Baseline { "b" } else { "" };
        format!("r{}{role}:{}/{}", set.release, set.replicas, set.weight.get())
    };
    let of_web: Vec<String> = rollout.sets().iter().filter(|set| set.service == web()).map(of).collect();
    assert_eq!((phases.join(", "), of_web.join(" ")), (entered.join(", "), sets.to_owned()));
}

const NONE: [(u64, u64); 3] = [(0, 0); 3];

#[test]
fn a_canary_takes_its_steps_beside_a_baseline_and_is_watched() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 5, NONE, &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 60, [(3000, 0), (300, 0), (299, 0)], &["step 2", "step 3"], "r1:2/0 r1b:1/50 r2:1/50");
    // What was counted before the step does not count.
    judged(&mut rollout, 65, [(3000, 0), (300, 0), (300, 0)], &[], "r1:2/0 r1b:1/50 r2:1/50");
    judged(&mut rollout, 70, [(3000, 0), (900, 0), (900, 0)], &[], "r1:2/0 r1b:1/50 r2:1/50");
    let entered = ["step 4", "step 5", "step 6", "promote", "watch"];
    judged(&mut rollout, 180, [(3000, 0), (900, 0), (900, 0)], &entered, "r1:2/0 r2:2/100");
    judged(&mut rollout, 480, [(3000, 0), (900, 0), (900, 0)], &[], "r1:2/0 r2:2/100");
    let left = rollout.waits(at(481)).pop().unwrap().on;
    assert_eq!(left, "watched for another 299s", "to its end, not to the next look");
    judged(&mut rollout, 779, [(3000, 0), (900, 0), (900, 0)], &[], "r1:2/0 r2:2/100");
    judged(&mut rollout, 780, [(3000, 0), (900, 0), (900, 0)], &["done"], "r2:2/100");
}

#[test]
fn a_canary_that_is_worse_is_taken_back_and_said_so() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 1, NONE, &[], "r1:2/80 r1b:1/10 r2:1/10");
    let entered = ["abort clear 1", "abort restore 1", "abort drain"];
    judged(&mut rollout, 10, [(3000, 3), (2000, 3), (2100, 141)], &entered, "r1:2/100");
    let reason = rollout.reason().unwrap();
    assert_eq!(reason.causes, ["web: canary 141 of 2,100 failed, stable 3 of 2,000; limit 1%; aborting"]);
}

#[test]
fn without_requests_a_canary_is_held_and_somebody_is_asked() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 60, NONE, &[], "r1:2/80 r1b:1/10 r2:1/10");
    let asks = 60 + ASKS_AFTER.as_secs();
    judged(&mut rollout, asks, [(90, 0), (9, 0), (9, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    let waits: Vec<String> =
        rollout.waits(at(asks)).into_iter().map(|one| format!("{}: {}", one.what, one.on)).collect();
    assert_eq!(waits[0], "web.r2: canary 0 of 9 failed, stable 0 of 9; limit 1%; waits for 290 more requests");
    assert!(waits[1].contains("bowline promote"), "{waits:?}");
    let phases = rollout.handle(Input::Promote, at(asks + 1));
    let phases: Vec<String> = phases.iter().map(|entered| entered.phase.to_string()).collect();
    assert_eq!(phases, ["step 4", "step 5", "step 6", "promote"]);
    judged(&mut rollout, asks + 1, NONE, &["watch"], "r1:2/0 r2:2/100");
    assert_eq!(rollout.handle(Input::Promote, at(asks + 2)), [], "who has promoted at the same time ends no watch");
    let phases = rollout.handle(Input::Promote, at(asks + 7));
    assert_eq!(phases.iter().map(|entered| entered.phase).collect::<Vec<_>>(), [Phase::Done], "nor is it watched");
    assert_eq!(rollout.handle(Input::Promote, at(asks + 13)), []);
}

#[test]
fn a_fix_for_what_is_broken_is_not_kept_waiting() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 1, NONE, &[], "r1:2/80 r1b:1/10 r2:1/10");
    let entered = ["step 4", "step 5", "step 6", "promote", "watch"];
    judged(&mut rollout, 10, [(3000, 2000), (300, 200), (300, 1)], &entered, "r1:2/0 r2:2/100");
}

#[test]
fn a_fix_is_not_taken_back_for_what_the_release_before_did_not_keep() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 1, NONE, &[], "r1:2/80 r1b:1/10 r2:1/10");
    let entered = ["step 4", "step 5", "step 6", "promote", "watch"];
    judged(&mut rollout, 10, [(3000, 600), (300, 60), (300, 6)], &entered, "r1:2/0 r2:2/100");
    let stored: Vec<_> = rollout.excused().map(|(service, rule)| (service.clone(), rule)).collect();
    assert_eq!(stored, [(web(), 0)]);
    judged(&mut rollout, 11, NONE, &[], "r1:2/0 r2:2/100");
    judged(&mut rollout, 100, [(0, 0), (0, 0), (5000, 100)], &[], "r1:2/0 r2:2/100");
    // The daemon after it knows, and over half is never excused.
    let plan = rollout.plan().clone();
    let mut rollout = Rollout::resume(plan, Phase::Watch, None, at(200)).excusing(stored);
    judged(&mut rollout, 201, NONE, &[], "r1:2/0 r2:2/100");
    judged(&mut rollout, 210, [(0, 0), (0, 0), (5000, 100)], &[], "r1:2/0 r2:2/100");
    let entered = ["abort clear 7", "abort restore 7", "abort drain"];
    judged(&mut rollout, 220, [(0, 0), (0, 0), (9000, 5000)], &entered, "r1:2/100");
}

#[test]
fn one_that_turns_bad_after_its_promotion_is_taken_back() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    rollout.handle(Input::Promote, at(1));
    judged(&mut rollout, 1, NONE, &["watch"], "r1:2/0 r2:2/100");
    judged(&mut rollout, 3, NONE, &[], "r1:2/0 r2:2/100");
    let last = "abort clear 7";
    judged(&mut rollout, 100, [(0, 0), (0, 0), (5000, 900)], &[last, "abort restore 7", "abort drain"], "r1:2/100");
    assert!(rollout.reason().unwrap().causes[0].contains("900 of 5,000"), "{:?}", rollout.reason());
}

#[test]
fn an_edge_that_counts_anew_takes_nothing_back() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, [(900, 0), (900, 0), (900, 0)], &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 1, [(900, 0), (900, 0), (900, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 30, [(990, 0), (990, 0), (1100, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 40, [(10, 0), (10, 0), (99, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 60, [(10, 0), (10, 0), (99, 0)], &["step 2", "step 3"], "r1:2/0 r1b:1/50 r2:1/50");
}

#[test]
fn an_edge_that_counts_anew_and_more_is_not_the_one_before() {
    let mut rollout = canary("1%");
    let (in_step, next) = ("r1:2/80 r1b:1/10 r2:1/10", "r1:2/0 r1b:1/50 r2:1/50");
    judged(&mut rollout, 0, [(90, 0), (90, 0), (90, 0)], &["step 0", "step 1"], in_step);
    judged(&mut rollout, 1, [(90, 0), (90, 0), (90, 0)], &[], in_step);
    // Between two looks another edge counts more than the one before had: all of it is of this step.
    judged_by(&mut rollout, (60, 8), [(310, 0), (310, 0), (310, 0)], &["step 2", "step 3"], next);
}

#[test]
fn what_an_edge_counted_before_it_was_found_belongs_to_no_step() {
    let plan = canary("1%").plan().clone();
    let mut rollout = Rollout::resume(plan, Phase::Step(1), None, at(0));
    let worker = ServiceName::new("worker").unwrap();
    let ready = |service: &ServiceName, release| ((service.clone(), ReleaseNumber(release)), count(9, 9));
    let counts = [ready(&web(), 1), ready(&web(), 2), ready(&worker, 1), ready(&worker, 2)].into();
    // The edge has not said anything yet.
    assert_eq!(look(&mut rollout, (&counts, &Traffic::new()), 0), []);
    judged(&mut rollout, 1, [(9000, 0), (900, 0), (900, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 60, [(9000, 0), (900, 0), (900, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 65, [(9300, 0), (1200, 0), (1200, 0)], &["step 2", "step 3"], "r1:2/0 r1b:1/50 r2:1/50");
}

#[test]
fn one_that_carries_everything_has_nothing_beside_it_and_is_held_to_its_limits() {
    let mut app = sample::app("shop", &["web"]);
    app.rollout = crate::app::Rollout {
        strategy: Strategy::Canary { steps: vec![Step { weight: Weight::ALL, hold: Duration::from_secs(60) }] },
        abort: vec![
            AbortRule::ErrorRate(Share::from_ppm(10_000).unwrap()),
            AbortRule::ErrorRateAboveStable(Share::from_ppm(10_000).unwrap()),
        ],
        watch: Duration::from_secs(600),
    };
    let plan = between(app.clone(), app);
    let check = |canary, entered: &[&str], sets| {
        let mut rollout = Rollout::start(plan.clone(), at(0));
        judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:1/0 r2:1/100");
        judged(&mut rollout, 60, [(0, 0), (0, 0), canary], entered, sets);
    };
    check((3000, 300), &["abort clear 1", "abort restore 1", "abort drain"], "r1:1/100");
    check((3000, 0), &["step 2", "promote", "watch"], "r1:1/0 r2:1/100");
}

#[test]
fn a_fix_of_one_service_does_not_take_along_another_that_is_seen_to_be_worse() {
    let mut app = sample::app("shop", &["web", "api"]);
    route_to(&mut app, &["web", "api"]);
    app.rollout = canary_rollout("1%");
    let plan = between(app.clone(), app);
    // Of `api`: requests and failures of the canary.
    let check = |api: (u64, u64), expected: Phase| {
        let mut rollout = Rollout::start(plan.clone(), at(0));
        let counts: Counts = ["web", "api"]
            .into_iter()
            .flat_map(|name| [1, 2].map(|release| ((service(name), ReleaseNumber(release)), count(9, 9))))
            .collect();
        let pools = [(1, Cohort::Whole), (1, Cohort::Baseline), (2, Cohort::Whole)];
        let traffic = |web: [(u64, u64); 3], api: [(u64, u64); 3]| -> Traffic {
            let of = |name: &'static str, seen: [(u64, u64); 3]| {
                pools.into_iter().zip(seen).map(move |((release, cohort), (requests, failures))| {
                    let counters = Counters { requests, failures, ..Counters::default() };
                    ((service(name), ReleaseNumber(release), cohort), Counted { began: 7, counters })
                })
            };
            of("web", web).chain(of("api", api)).collect()
        };
        look(&mut rollout, (&counts, &traffic(NONE, NONE)), 0);
        let seen = traffic([(3000, 2000), (300, 200), (300, 0)], [(1000, 0), (100, 0), api]);
        look(&mut rollout, (&counts, &seen), 10);
        assert_eq!(rollout.phase(), expected, "{api:?}");
    };
    check((100, 3), Phase::Step(1));
    check((100, 0), Phase::Watch);
}

fn instance(release: u32, slot: u16) -> InstanceId {
    let slot =
        SlotId { key: sample::key("local", "shop"), service: web(), release: ReleaseNumber(release), slot: Slot(slot) };
    InstanceId { slot, incarnation: Incarnation(1) }
}

/// Two of each, of which some fail in a row; what [`judged`] shows besides.
fn with_streaks(rollout: &mut Rollout, now: u64, seen: [(u64, u64); 3], rows: &[(u32, u16, u32)]) -> Vec<String> {
    let streak = |&(release, slot, failed): &(u32, u16, u32)| {
        let streak = Streak { instance: instance(release, slot), baseline: release == 1 && slot >= 2, failed };
        (release, streak)
    };
    let of = |number: u32| rows.iter().map(streak).filter(move |(release, _)| *release == number).map(|(_, one)| one);
    let counts = Counts::from([
        ((web(), ReleaseNumber(1)), Count { streaks: of(1).collect(), ..beside(2, 2) }),
        ((web(), ReleaseNumber(2)), Count { streaks: of(2).collect(), ..count(2, 2) }),
        ((service("worker"), ReleaseNumber(1)), count(9, 9)),
        ((service("worker"), ReleaseNumber(2)), count(9, 9)),
    ]);
    let pools = [(1, Cohort::Whole), (1, Cohort::Baseline), (2, Cohort::Whole)];
    let counted = |((release, cohort), (requests, failures)): ((u32, Cohort), (u64, u64))| {
        let counters = Counters { requests, failures, ..Counters::default() };
        ((web(), ReleaseNumber(release), cohort), Counted { began: 7, counters })
    };
    let traffic: Traffic = pools.into_iter().zip(seen).map(counted).collect();
    let entered = look(rollout, (&counts, &traffic), now);
    entered.iter().map(|entered| entered.phase.to_string()).collect()
}

/// In its first step that is judged: 60 s, limit 1%.
fn in_its_first_step() -> Rollout {
    let mut rollout = canary("1%");
    let entered = with_streaks(&mut rollout, 0, NONE, &[]);
    assert_eq!(entered, ["step 0", "step 1"]);
    rollout
}

/// So good that it passes.
const GOOD: [(u64, u64); 3] = [(3000, 0), (600, 0), (600, 5)];

fn first_wait(rollout: &Rollout, now: u64) -> String {
    rollout.waits(at(now)).remove(0).on
}

#[test]
fn an_instance_that_is_left_out_again_and_again_is_held_against_its_release() {
    let mut rollout = in_its_first_step();
    let bad = |failed| [(2, 1, failed)];
    assert_eq!(with_streaks(&mut rollout, 5, GOOD, &bad(5)), [""; 0]);
    assert_eq!(with_streaks(&mut rollout, 20, GOOD, &bad(10)), [""; 0]);
    let held = "instance 2 of the canary has answered nobody for 15s: its last 10 requests failed; holding";
    assert_eq!(first_wait(&rollout, 20), held);
    // Not for long enough yet.
    assert_eq!(with_streaks(&mut rollout, 30, GOOD, &bad(15)), [""; 0]);
    let entered = with_streaks(&mut rollout, 40, GOOD, &bad(15));
    assert_eq!(entered, ["abort clear 1", "abort restore 1", "abort drain"]);
    let said = "web: instance 2 of the canary has answered nobody for 35s: its last 15 requests failed; aborting";
    assert_eq!(rollout.reason().unwrap().causes, [said]);
}

#[test]
fn no_step_passes_before_everybody_of_the_candidate_has_answered_for_its_time() {
    let mut rollout = in_its_first_step();
    with_streaks(&mut rollout, 50, GOOD, &[(2, 1, 5)]);
    assert_eq!(with_streaks(&mut rollout, 65, GOOD, &[(2, 1, 5)]), [""; 0]);
    assert_eq!(with_streaks(&mut rollout, 70, GOOD, &[]), [""; 0]);
    assert_eq!(rollout.waits(at(70)).last().unwrap().on, "judged for another 55s");
    assert_eq!(with_streaks(&mut rollout, 120, GOOD, &[]), [""; 0]);
    assert_eq!(with_streaks(&mut rollout, 124, GOOD, &[]), [""; 0]);
    assert_eq!(with_streaks(&mut rollout, 125, GOOD, &[]), ["step 2", "step 3"]);
}

#[test]
fn what_the_stable_release_does_as_well_is_not_held_against_the_candidate() {
    // Its baseline alone: not yet, and as soon as it answers.
    let mut rollout = in_its_first_step();
    assert_eq!(with_streaks(&mut rollout, 65, GOOD, &[(1, 2, 5)]), [""; 0]);
    let held = "instance 3 of stable has answered nobody for 1s: its last 5 requests failed; holding";
    assert_eq!(first_wait(&rollout, 65), held);
    assert_eq!(with_streaks(&mut rollout, 70, GOOD, &[]), ["step 2", "step 3"]);
    // Both, as while what they need is away; the candidate's comes back later.
    let mut rollout = in_its_first_step();
    for now in 1..20 {
        let failed = u32::try_from(now).unwrap() * 5;
        assert_eq!(with_streaks(&mut rollout, now * 5, GOOD, &[(1, 0, failed), (2, 1, failed)]), [""; 0]);
    }
    assert_eq!(with_streaks(&mut rollout, 130, GOOD, &[(2, 1, 100)]), [""; 0], "it was not asked since");
    // One that the stable release's share of failures allows for, however often it happens.
    let mut rollout = in_its_first_step();
    let half = [(3000, 1200), (600, 240), (600, 240)];
    for now in 1..24 {
        let failed = 5 * u32::try_from(now % 6).unwrap();
        let rows = [(2, 1, failed)];
        let entered = with_streaks(&mut rollout, now * 10, half, &rows[..usize::from(failed > 0)]);
        assert_eq!(entered, [""; 0], "{now}");
    }
    // Of what nothing was seen nothing is proven.
    let mut rollout = in_its_first_step();
    for now in [5, 20, 40, 60] {
        let rows = [(2, 1, u32::try_from(now).unwrap())];
        assert_eq!(with_streaks(&mut rollout, now, [(0, 0), (0, 0), (600, 5)], &rows), [""; 0], "{now}");
    }
}

/// Whether a canary is taken back for an instance that answers nobody, where every request of it and of its baseline fails with the same
/// probability, and the edge leaves out whoever fails five in a row.
fn is_wronged(percent: u64, seed: u64) -> bool {
    let mut random = seed;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let pool = |release| PoolId {
        key: sample::key("local", "shop"),
        service: web(),
        release: ReleaseNumber(release),
        cohort: Cohort::Whole,
    };
    let pools = [(2, [instance(2, 0), instance(2, 1)]), (1, [instance(1, 2), instance(1, 3)])];
    let (mut outliers, mut rollout) = (Outliers::default(), in_its_first_step());
    let known = pools.iter().map(|(release, pool_of)| (pool(*release), pool_of.iter().cloned().collect()));
    outliers.handle(outlier::Input::Pools(known.collect()), at(0));
    let (mut rows, mut seen) = (BTreeMap::<InstanceId, u32>::new(), [(0, 0); 3]);
    for now in 1..240 {
        outliers.handle(outlier::Input::Tick, at(now));
        for (place, (_, all)) in [2, 1].into_iter().zip(&pools) {
            for _ in 0..15 {
                let out: Vec<_> = outliers.left_out().map(|(id, _)| id.clone()).collect();
                let open: Vec<_> = all.iter().filter(|id| !out.contains(id)).collect();
                let chosen = open[usize::try_from(below(open.len() as u64)).unwrap()];
                let fails = below(100) < percent;
                let row = rows.entry(chosen.clone()).or_default();
                *row = if fails { *row + 1 } else { 0 };
                if fails && row.is_multiple_of(outlier::FAILURES) {
                    outliers.handle(outlier::Input::Failing(chosen.clone()), at(now));
                }
                let (requests, failed): &mut (u64, u64) = &mut seen[place];
                (*requests, *failed) = (*requests + 1, *failed + u64::from(fails));
            }
        }
        let long = rows.iter().filter(|(_, failed)| **failed >= outlier::FAILURES);
        let long: Vec<_> = long.map(|(id, failed)| (id.slot.release.0, id.slot.slot.0, *failed)).collect();
        with_streaks(&mut rollout, now, seen, &long);
        if let Some(reason) = rollout.reason() {
            return reason.causes.iter().any(|cause| cause.contains("answered nobody"));
        }
    }
    false
}

#[test]
fn an_equal_canary_is_not_taken_back_for_whom_the_edge_leaves_out() {
    for percent in [10, 30, 50, 70] {
        let wronged = (0..100).filter(|seed| is_wronged(percent, *seed)).count();
        assert!(wronged <= 1, "{wronged} of 100 that fail {percent}%");
    }
}

#[test]
fn a_first_release_has_nothing_to_go_back_to_and_is_not_watched() {
    let mut app = sample::app("shop", &["web"]);
    app.environment.name = crate::id::EnvName::new("production").unwrap();
    app.rollout = canary_rollout("1%");
    let plan = Plan::new(None, (ReleaseNumber(2), &app), &BTreeMap::new());
    let mut rollout = Rollout::start(plan, at(0));
    judged(&mut rollout, 0, NONE, &["step 0", "promote", "watch", "done"], "r2:1/100");
}

#[test]
fn what_no_route_leads_to_yet_is_not_waited_for() {
    let (mut old, mut new) = (sample::app("shop", &["web", "api"]), sample::app("shop", &["web", "api"]));
    route_to(&mut old, &["web"]);
    route_to(&mut new, &["web", "api"]);
    new.rollout = canary_rollout("1%");
    let plan = between(old, new);
    assert_eq!(plan.shared, [web()].into());
    assert_eq!(plan.judged, [web(), service("api")].into(), "once they get requests");
}

#[test]
fn a_place_that_its_plan_does_not_have_is_its_last_step() {
    let plan = canary("1%").plan().clone();
    let last = u16::try_from(plan.steps.len() - 1).unwrap();
    let rollout = Rollout::resume(plan, Phase::Step(900), None, at(0));
    assert_eq!(rollout.phase(), Phase::Step(last));
    assert!(rollout.next_deadline().is_none() && !rollout.sets().is_empty());
}

#[test]
fn blue_and_green_stand_beside_each_other_until_somebody_has_looked() {
    let mut app = sample::app("shop", &["web"]);
    app.environment.name = crate::id::EnvName::new("production").unwrap();
    route_to(&mut app, &["web"]);
    app.rollout.strategy = Strategy::BlueGreen;
    let plan = Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &BTreeMap::new());
    let mut rollout = Rollout::start(plan, at(0));
    check(&mut rollout, 0, (count(1, 1), count(0, 0)), &["step 0"], "r1:1/100 r2:1/0");
    check(&mut rollout, 1, (count(1, 1), count(1, 1)), &["step 1"], "r1:1/100 r2:1/0");
    check(&mut rollout, 9_999, (count(1, 1), count(1, 1)), &[], "r1:1/100 r2:1/0");
    let phases = rollout.handle(Input::Promote, at(10_000));
    compare(&rollout, &phases, &["promote"], "r1:1/0 r2:1/100");
    check(&mut rollout, 10_001, (count(1, 1), count(1, 1)), &["watch", "done"], "r2:1/100");
}

/// Of `web`, between none and three by its load, which rests; in production, with the strategy of [`canary_rollout`].
fn over_one_that_rests(strategy: Strategy) -> (Plan, Plan) {
    let mut app = sample::app("shop", &["web"]);
    app.environment.name = crate::id::EnvName::new("production").unwrap();
    app.services.get_mut(&web()).unwrap().scale = crate::app::Scale { min: 0, max: 3, cpu: None, in_flight: None };
    app.rollout = crate::app::Rollout { strategy, ..canary_rollout("1%") };
    let rests = Scales::from([(web(), Scaled { over: 0, to: 0, by: ScaledBy::Load })]);
    let plan = |scales: &Scales| Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), scales);
    (plan(&rests), plan(&Scales::new()))
}

#[test]
fn what_rests_is_woken_by_a_release_and_its_canary_is_judged() {
    for strategy in [canary_rollout("").strategy, Strategy::BlueGreen, Strategy::Rolling] {
        let (resting, awake) = over_one_that_rests(strategy);
        assert_eq!(resting, awake, "whether it rests makes no other plan");
    }
    let (plan, _) = over_one_that_rests(canary_rollout("").strategy);
    let mut rollout = Rollout::start(plan, at(0));
    compare(&rollout, &[], &[], "r1:1/100");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:1/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 5, NONE, &[], "r1:1/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 60, [(3000, 0), (300, 0), (299, 0)], &["step 2", "step 3"], "r1:1/0 r1b:1/50 r2:1/50");
}

const BESIDE: &str = "r1:1/100 r1:1/0 r2:1/0";

/// A canary over what rested, or may have crashed: its instance is ready first.
fn first_ready(strategy: Strategy, beside: &str) -> Rollout {
    let (plan, _) = over_one_that_rests(strategy);
    let mut rollout = Rollout::start(plan, at(0));
    check(&mut rollout, 0, (count(0, 0), count(0, 0)), &["step 0"], beside);
    assert!(rollout.standing().gives_up.is_some());
    check(&mut rollout, 1, (count(0, 2), count(1, 1)), &[], beside);
    rollout
}

#[test]
fn shares_are_given_out_when_both_releases_can_carry_them() {
    let mut rollout = first_ready(canary_rollout("").strategy, BESIDE);
    let (waits, limit) = (rollout.waits(at(1)), rollout.next_deadline().unwrap().since(at(1)).as_secs());
    let expected = Waiting { what: "web.r1".into(), on: format!("0 of 2 ready, waited for another {limit}s") };
    assert_eq!((waits, rollout.standing().gives_up), (vec![expected], None));
    check(&mut rollout, 2, (beside(1, 0), count(1, 1)), &[], BESIDE);
    check(&mut rollout, 3, (beside(0, 1), count(1, 1)), &[], "r1:1/0 r1:1/100 r2:1/0");
    check(&mut rollout, 4, (beside(1, 1), count(1, 1)), &["step 1"], "r1:1/80 r1:1/10 r2:1/10");
    // Its only instance crashes: what it had is not the candidate's.
    check(&mut rollout, 5, (beside(0, 1), count(1, 1)), &[], "r1:1/0 r1:1/90 r2:1/10");
    check(&mut rollout, 6, (beside(1, 0), count(1, 1)), &[], "r1:1/90 r1:1/0 r2:1/10");
    let mut rollout = first_ready(Strategy::BlueGreen, "r1:1/100 r2:1/0");
    check(&mut rollout, 3, (count(1, 1), count(1, 1)), &["step 1"], "r1:1/100 r2:1/0");
    // What rolls takes its share by instances that are ready.
    let (plan, _) = over_one_that_rests(Strategy::Rolling);
    let mut rollout = Rollout::start(plan, at(0));
    check(&mut rollout, 0, (count(0, 0), count(0, 0)), &["step 0"], "r1:1/100 r2:1/0");
    check(&mut rollout, 1, (count(0, 1), count(1, 1)), &["step 1", "promote", "watch"], "r2:1/100");
}

#[test]
fn a_broken_stable_release_does_not_keep_its_fix_out() {
    let alone = "r1:1/90 r1:1/0 r2:1/10";
    let mut rollout = first_ready(canary_rollout("").strategy, BESIDE);
    let patience = rollout.next_deadline().unwrap().0.as_secs();
    check(&mut rollout, patience - 1, (count(0, 2), count(1, 1)), &[], BESIDE);
    check(&mut rollout, patience, (count(0, 2), count(1, 1)), &["step 1"], alone);
    let mut rollout = first_ready(canary_rollout("").strategy, BESIDE);
    check(&mut rollout, 2, (failing(MAX_CRASHES - 1), count(1, 1)), &[], BESIDE);
    check(&mut rollout, 3, (failing(MAX_CRASHES), count(1, 1)), &["step 1"], alone);
}

#[test]
fn a_dead_canary_beside_a_stable_release_with_nobody_ready_is_taken_back() {
    let (plan, _) = over_one_that_rests(canary_rollout("").strategy);
    let check = |ready: u16, expected: Phase| {
        let mut rollout = Rollout::resume(plan.clone(), Phase::Step(1), None, at(0));
        let of = |release| (web(), ReleaseNumber(release));
        let counts = Counts::from([(of(1), count(ready, 2)), (of(2), count(1, 1))]);
        let dead = |requests| {
            let counters = Counters { requests, failures: requests, ..Counters::default() };
            Traffic::from([((web(), ReleaseNumber(2), Cohort::Whole), Counted { began: 7, counters })])
        };
        look(&mut rollout, (&counts, &dead(0)), 0);
        look(&mut rollout, (&counts, &dead(30)), 10);
        assert_eq!(rollout.phase(), expected, "{:?}", rollout.waits(at(10)));
    };
    check(0, Phase::Abort(AbortStage::Restore(1)));
    check(2, Phase::Step(1));
}

/// Taken up by another daemon, with the time for which the one before has looked at the phase.
fn taken_up(phase: Phase, spent: u64) -> Rollout {
    let plan = canary("1%").plan().clone();
    Rollout::resume(plan, phase, None, at(1000)).having_spent(Duration::from_secs(spent))
}

#[test]
fn a_watch_goes_on_with_the_time_that_it_had() {
    let mut rollout = taken_up(Phase::Watch, 400);
    judged(&mut rollout, 1000, NONE, &[], "r1:2/0 r2:2/100");
    assert_eq!(rollout.standing().ends, Some(at(1200)));
    assert_eq!(rollout.waits(at(1000)).pop().unwrap().on, "watched for another 200s");
    judged(&mut rollout, 1199, NONE, &[], "r1:2/0 r2:2/100");
    assert_eq!(rollout.spent(at(1199)), Some(Duration::from_secs(599)));
    judged(&mut rollout, 1200, NONE, &["done"], "r2:2/100");
    assert_eq!(rollout.spent(at(1200)), None);
}

#[test]
fn a_step_goes_on_with_the_time_that_it_had_and_is_judged_anew() {
    let mut rollout = taken_up(Phase::Step(1), 50);
    judged(&mut rollout, 1000, [(9000, 0), (9000, 0), (9000, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    judged(&mut rollout, 1012, [(9000, 0), (9000, 0), (9000, 0)], &[], "r1:2/80 r1b:1/10 r2:1/10");
    assert_eq!(rollout.waits(at(1012)).pop().unwrap().on, "requests", "what was counted before is no evidence");
    let more = [(12_000, 0), (9300, 0), (9299, 0)];
    judged(&mut rollout, 1020, more, &["step 2", "step 3"], "r1:2/0 r1b:1/50 r2:1/50");
    assert_eq!(rollout.standing().ends, Some(at(1140)), "the next step has all of its time");
}

#[test]
fn what_waits_for_instances_begins_its_time_anew() {
    let (fresh, taken_up) =
        (Rollout::resume(canary("1%").plan().clone(), Phase::Step(0), None, at(1000)), taken_up(Phase::Step(0), 400));
    assert_eq!((taken_up.standing(), taken_up.spent(at(1001))), (fresh.standing(), None));
}

/// Shows so many of `web` of either release, and all of the other service; returns what was entered.
fn shown(rollout: &mut Rollout, now: u64, (one, two): (u16, u16)) -> Vec<String> {
    let of = |name: &str, release, ready| ((service(name), ReleaseNumber(release)), count(ready, ready));
    let counts = [of("web", 1, one), of("web", 2, two), of("worker", 1, 1), of("worker", 2, 1)].into();
    let entered = look(rollout, (&counts, &Traffic::new()), now);
    entered.iter().map(|entered| entered.phase.to_string()).collect()
}

#[test]
fn what_served_before_is_kept_warm_only_if_memory_allows() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    for memory in [Memory::Enough, Memory::Short] {
        rollout.see_memory(memory);
        judged(&mut rollout, 1, NONE, &[], "r1:2/80 r1b:1/10 r2:1/10");
    }
    let entered = rollout.handle(Input::Promote, at(2));
    assert!(entered.iter().all(|entered| !entered.cold), "it may still be refused: {entered:?}");
    sets_are(&rollout, "r1:2/0 r2:2/100");
    judged(&mut rollout, 2, NONE, &["watch"], "r2:2/100");
    assert!(rollout.is_cold());
    judged(&mut rollout, 3, NONE, &[], "r2:2/100");
    let waits = rollout.waits(at(3));
    let said = waits.iter().any(|one| one.what == "r1" && one.on.ends_with("its instances are not kept warm (memory)"));
    assert!(said, "{waits:?}");
    // Nothing is started because there is room again.
    rollout.see_memory(Memory::Enough);
    judged(&mut rollout, 4, NONE, &[], "r2:2/100");
    for (cold, sets) in [(true, "r2:2/100"), (false, "r1:2/0 r2:2/100")] {
        let plan = rollout.plan().clone();
        let mut next = Rollout::resume(plan, Phase::Watch, None, at(5)).being_cold(cold);
        judged(&mut next, 6, NONE, &[], sets);
    }
    // They are started anew before anything is taken from what serves.
    assert_eq!(shown(&mut rollout, 7, (0, 2)), <[&str; 0]>::default());
    let entered = rollout.handle(Input::Abort(Fault::new(FaultKind::Failed, "enough")), at(8));
    assert_eq!(entered.last().map(|entered| entered.phase), Some(Phase::Abort(AbortStage::Restore(7))));
    sets_are(&rollout, "r1:2/0 r2:2/100");
    assert_eq!(shown(&mut rollout, 9, (1, 2)), <[&str; 0]>::default());
    assert_eq!(shown(&mut rollout, 10, (2, 2)), ["abort drain"]);
    sets_are(&rollout, "r1:2/100");
}

#[track_caller]
fn sets_are(rollout: &Rollout, expected: &str) {
    let of = |set: &Set| format!("r{}:{}/{}", set.release, set.replicas, set.weight.get());
    let of_web: Vec<String> = rollout.sets().iter().filter(|set| set.service == web()).map(of).collect();
    assert_eq!(of_web.join(" "), expected);
}

#[test]
fn memory_is_short_where_both_do_not_fit() {
    // Two and two of one service; what rolls keeps nothing of the release before.
    let both = canary("1%").plan().memory_of_both(|name, release| match (name.as_str(), release.0) {
        ("web", 1) => Bytes(10),
        ("web", _) => Bytes(20),
        _ => Bytes(5),
    });
    assert_eq!(both, Bytes(2 * 10 + 2 * 20 + 5));
    let machine = Machine { memory: Bytes(100), cores: 1 };
    let of = |taken: u64| Memory::of(machine, Bytes(taken), both);
    assert_eq!((of(0), of(35), of(36), of(u64::MAX)), (Memory::Enough, Memory::Enough, Memory::Short, Memory::Short));
}

#[test]
fn a_rolling_release_that_is_watched_keeps_nothing_warm() {
    let mut app = sample::app("shop", &["web"]);
    app.environment.name = crate::id::EnvName::new("production").unwrap();
    route_to(&mut app, &["web"]);
    app.rollout = crate::app::Rollout { strategy: Strategy::Rolling, ..canary_rollout("1%") };
    let plan = Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &BTreeMap::new());
    let mut rollout = Rollout::start(plan, at(0));
    rollout.see_memory(Memory::Short);
    check(&mut rollout, 0, (count(1, 1), count(0, 0)), &["step 0"], "r1:1/100 r2:1/0");
    check(&mut rollout, 1, (count(1, 1), count(1, 1)), &["step 1", "promote", "watch"], "r2:1/100");
    assert!(!rollout.is_cold(), "nothing would have been kept");
}

/// Shows all as ready, and this word of the edge.
#[track_caller]
fn says(rollout: &mut Rollout, now: u64, word: &Word, entered: &[&str], sets: &str) {
    let of = |name: &str, release| ((service(name), ReleaseNumber(release)), count(9, 9));
    let counts = [of("web", 1), of("web", 2), of("worker", 1), of("worker", 2)].into();
    let phases = rollout.handle(Input::Observed(&counts, &Traffic::new(), word), at(now));
    let phases: Vec<String> = phases.iter().map(|entered| entered.phase.to_string()).collect();
    assert_eq!(phases, entered);
    sets_are(rollout, sets);
}

fn no() -> Word {
    Word::Refused(Fault::new(FaultKind::Failed, "the edge refuses release 2").caused_by("no such filter"))
}

fn away() -> Word {
    Word::Silent(Silence::Away)
}

#[test]
fn a_release_takes_over_when_the_edge_has_its_routes_and_waits_for_that_as_long_as_it_takes() {
    let mut rollout = Rollout::start(plan(true, 1), at(0));
    says(&mut rollout, 0, &Word::default(), &["step 0", "step 1", "promote"], "r1:1/0 r2:1/100");
    assert_eq!((rollout.live(), rollout.asks_edge()), (Some(ReleaseNumber(2)), true));
    for now in [1, 100, 1_000_000] {
        says(&mut rollout, now, &away(), &[], "r1:1/0 r2:1/100");
        assert_eq!(rollout.next_deadline(), None);
        assert_eq!(rollout.waits(at(now))[0].on, "the edge's word on it: it is away, which refuses nothing");
        assert_eq!(rollout.standing().stage, Stage::Completing);
    }
    says(&mut rollout, 1_000_001, &Word::Taken, &["watch", "done"], "r2:1/100");
}

#[test]
fn one_whose_routes_are_refused_goes_back_to_the_release_before() {
    let mut rollout = Rollout::start(plan(true, 1), at(0));
    says(&mut rollout, 0, &Word::default(), &["step 0", "step 1", "promote"], "r1:1/0 r2:1/100");
    let counts = |one, two| Counts::from([((web(), ReleaseNumber(1)), one), ((web(), ReleaseNumber(2)), two)]);
    let mut show = |one: u16, two: u16, now: u64| {
        let counts = counts(count(one, one), count(two, two));
        let entered = rollout.handle(Input::Observed(&counts, &Traffic::new(), &no()), at(now));
        let entered: Vec<_> = entered.iter().map(|entered| entered.phase.to_string()).collect();
        (entered.join(", "), rollout.live(), rollout.sets().len())
    };
    // What was there of the one before has gone since: the new one answers, by the routes of before, until it is back.
    let stable = Some(ReleaseNumber(1));
    assert_eq!(show(0, 1, 1), ("abort clear 1, abort restore 1".into(), stable, 2));
    assert_eq!(show(1, 1, 2), ("abort drain".into(), stable, 1));
    assert_eq!(show(1, 0, 3), ("rolled back".into(), stable, 1));
    assert_eq!(rollout.reason().unwrap().causes, ["no such filter"]);
}

#[test]
fn what_served_before_a_canary_is_whole_until_the_edge_has_its_routes() {
    let mut rollout = canary("1%");
    judged(&mut rollout, 0, NONE, &["step 0", "step 1"], "r1:2/80 r1b:1/10 r2:1/10");
    rollout.handle(Input::Promote, at(1));
    says(&mut rollout, 2, &away(), &[], "r1:2/0 r2:2/100");
    says(&mut rollout, 3, &no(), &["abort clear 6", "abort restore 6", "abort drain"], "r1:2/100");
    assert_eq!(rollout.live(), Some(ReleaseNumber(1)));
}

#[test]
fn no_share_is_given_before_the_edge_knows_who_is_to_have_it() {
    let mut rollout = canary("1%");
    let before = "r1:2/100 r1:1/0 r2:1/0";
    says(&mut rollout, 0, &Word::default(), &["step 0"], before);
    assert!(rollout.asks_edge());
    // Whoever is ready is not given up.
    says(&mut rollout, 1_000_000, &away(), &[], before);
    assert_eq!(rollout.next_deadline(), None);
    assert!(rollout.waits(at(1_000_000)).iter().any(|one| one.on.contains("the edge's word")));
    says(&mut rollout, 1_000_001, &Word::Taken, &["step 1"], "r1:2/90 r1:1/0 r2:1/10");
    assert!(!rollout.asks_edge());
    let mut rollout = canary("1%");
    says(&mut rollout, 0, &Word::default(), &["step 0"], before);
    says(&mut rollout, 1, &no(), &["abort clear 0", "abort restore 0", "abort drain"], "r1:2/100");
}

#[test]
fn an_abort_wins_while_the_edge_is_away() {
    let mut rollout = Rollout::start(plan(true, 1), at(0));
    says(&mut rollout, 0, &Word::default(), &["step 0", "step 1", "promote"], "r1:1/0 r2:1/100");
    abort(&mut rollout, 1, &["abort clear 1", "abort restore 1", "abort drain"], "r1:1/100");
    assert_eq!(rollout.live(), Some(ReleaseNumber(1)));
}

#[test]
fn a_first_release_that_is_refused_leaves_nothing() {
    let mut rollout = Rollout::start(plan(false, 1), at(0));
    says(&mut rollout, 0, &Word::default(), &["step 0", "promote"], "r2:1/100");
    says(&mut rollout, 1, &no(), &["abort drain"], "");
    check(&mut rollout, 2, (count(0, 0), count(0, 0)), &["failed"], "");
    assert_eq!(rollout.live(), None);
}

#[test]
fn another_daemon_asks_again() {
    let mut rollout = Rollout::resume(plan(true, 1), Phase::Promote, None, at(50));
    says(&mut rollout, 51, &Word::default(), &[], "r1:1/0 r2:1/100");
    assert!(rollout.asks_edge());
    says(&mut rollout, 52, &Word::Taken, &["watch", "done"], "r2:1/100");
}

/// Shows so many as ready of a release that replaces another, and this word of the edge.
fn told(rollout: &mut Rollout, now: u64, (one, two): (u16, u16), word: &Word) -> Vec<String> {
    let of = |release, ready| ((web(), ReleaseNumber(release)), count(ready, ready));
    let counts = [of(1, one), of(2, two)].into();
    let entered = rollout.handle(Input::Observed(&counts, &Traffic::new(), word), at(now));
    entered.iter().map(|entered| entered.phase.to_string()).collect()
}

#[test]
fn whoever_ends_while_the_edge_is_away_is_waited_for_before_the_release_takes_over() {
    let promoted = || {
        let mut rollout = Rollout::start(plan(true, 2), at(0));
        let phases = told(&mut rollout, 0, (2, 2), &away());
        assert_eq!(phases.last().map(String::as_str), Some("promote"), "{phases:?}");
        assert_eq!(told(&mut rollout, 10_000, (2, 2), &away()), [""; 0]);
        assert_eq!(told(&mut rollout, 10_001, (2, 1), &away()), [""; 0]);
        rollout
    };
    let mut rollout = promoted();
    assert_eq!(told(&mut rollout, 10_002, (2, 1), &Word::Taken), [""; 0]);
    let waits = rollout.waits(at(10_002));
    assert_eq!((waits.len(), waits[0].what.as_str()), (1, "web.r2"), "{waits:?}");
    assert!(waits[0].on.starts_with("1 of 2 ready, given up in "), "{waits:?}");
    let given_up = rollout.next_deadline().unwrap();
    assert!(given_up > at(10_000 + 45), "it has its whole time: {given_up:?}");
    assert_eq!(rollout.standing().gives_up, Some(given_up));
    assert_eq!(told(&mut rollout, 10_003, (2, 2), &Word::Taken), ["watch", "done"]);

    let mut rollout = promoted();
    let late = given_up.0.as_secs() + 1;
    let phases = told(&mut rollout, late, (2, 1), &Word::Taken);
    assert!(phases[0].starts_with("abort"), "{phases:?}");
    assert!(rollout.reason().unwrap().message.contains("does not get ready"));
}

#[test]
fn what_fails_before_its_first_share_has_its_whole_time_however_long_the_edge_was_away() {
    let shown = |rollout: &mut Rollout, now: u64, canary: u16, word: &Word| {
        let of = |name: &str, release, ready| ((service(name), ReleaseNumber(release)), count(ready, ready));
        let counts = [of("web", 1, 9), of("web", 2, canary), of("worker", 1, 9), of("worker", 2, 9)].into();
        let entered = rollout.handle(Input::Observed(&counts, &Traffic::new(), word), at(now));
        entered.iter().map(|entered| entered.phase.to_string()).collect::<Vec<_>>()
    };
    let mut rollout = canary("1%");
    assert_eq!(shown(&mut rollout, 0, 9, &away()), ["step 0"]);
    assert_eq!(shown(&mut rollout, 100_000, 9, &away()), [""; 0]);
    assert_eq!(shown(&mut rollout, 100_001, 0, &away()), [""; 0], "it has just ended");
    assert_eq!(shown(&mut rollout, 100_010, 9, &Word::Taken), ["step 1"]);
}

#[test]
fn a_release_that_no_edge_leads_to_waits_for_no_word() {
    let mut app = sample::app("shop", &["worker"]);
    app.environment.name = crate::id::EnvName::new("production").unwrap();
    let plan = Plan::new(Some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &BTreeMap::new());
    let mut rollout = Rollout::start(plan, at(0));
    let of = |release| ((service("worker"), ReleaseNumber(release)), count(9, 9));
    let counts = [of(1), of(2)].into();
    let entered = rollout.handle(Input::Observed(&counts, &Traffic::new(), &Word::Taken), at(0));
    let entered: Vec<_> = entered.iter().map(|entered| entered.phase.to_string()).collect();
    assert_eq!(entered, ["step 0", "step 1", "promote", "watch", "done"]);
}
