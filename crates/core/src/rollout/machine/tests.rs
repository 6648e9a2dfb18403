//! What the world shows in, phases out; beside each the sets that follow from it.

use super::*;
use crate::app::sample;
use crate::id::{Incarnation, InstanceId, Slot, SlotId};
use crate::instance::{ExitCause, SlotState};

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn plan(stable: bool, replicas: u16) -> Plan {
    let mut app = sample::app("shop", &["web"]);
    app.services.get_mut(&web()).unwrap().scale.min = replicas;
    Plan::new(stable.then_some((ReleaseNumber(1), &app)), (ReleaseNumber(2), &app), &BTreeMap::new())
}

fn count(ready: u16, total: u16) -> Count {
    Count { ready, total, failing: None }
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
    Count { failing: Some(super::super::Failing { crashes, last }), ..count(0, 1) }
}

fn at(seconds: u64) -> Mono {
    Mono(Duration::from_secs(seconds))
}

/// Shows the counts of releases 1 and 2; compares the phases entered, and then `r1:replicas/weight r2:replicas/weight`.
#[track_caller]
fn check(rollout: &mut Rollout, now: u64, (one, two): (Count, Count), entered: &[&str], sets: &str) {
    let counts = Counts::from([((web(), ReleaseNumber(1)), one), ((web(), ReleaseNumber(2)), two)]);
    let phases = rollout.handle(Input::Observed(&counts), at(now));
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
