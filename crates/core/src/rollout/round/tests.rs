//! What the slots show in, phases out; beside each how many instances are wanted, and which one gives way.

use super::*;
use crate::app::sample;
use crate::id::{InstanceId, Port};
use crate::instance::Awaited;
use crate::instance::{ExitCause, FailureCause};
use crate::rollout::machine::MAX_CRASHES;

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn shop(replicas: u16) -> App {
    let mut app = sample::app("shop", &["web"]);
    app.services.get_mut(&web()).unwrap().scale.min = replicas;
    app
}

fn restart(app: &App) -> Round {
    Round::start(RoundPlan::restart((ReleaseNumber(1), app), &Scales::new(), &[web()].into()), at(0))
}

fn at(seconds: u64) -> Mono {
    Mono(Duration::from_secs(seconds))
}

fn status(slot: u16, incarnation: u32, state: SlotState) -> (SlotId, SlotStatus) {
    let key = sample::key("local", "shop");
    let id = SlotId { key, service: web(), release: ReleaseNumber(1), slot: Slot(slot) };
    let instance = InstanceId { slot: id.clone(), incarnation: Incarnation(incarnation) };
    let status = SlotStatus { instance, state, waits_on: None, port: None, restarts: 0, crashes: 0, failure: None };
    (id, status)
}

/// Slots as `incarnation` where ready, `incarnation~` where not, `incarnation!` where its image is made: `1 1 2~ 1!`.
fn slots(text: &str) -> BTreeMap<SlotId, SlotStatus> {
    let one = |(slot, word): (u16, &str)| {
        let state = if word.ends_with(['~', '!']) { SlotState::Starting } else { SlotState::Ready };
        let (id, mut status) = status(slot, word.trim_end_matches(['~', '!']).parse().unwrap(), state);
        status.waits_on =
            word.ends_with('!').then_some(WaitsOn::Preparation { awaited: Awaited::Image, since: Duration::ZERO });
        (id, status)
    };
    (0..).zip(text.split(' ')).map(one).collect()
}

/// `phase replicas [slot.incarnation that gives way]`
#[track_caller]
fn check(round: &mut Round, now: u64, shown: &str, expected: &str) {
    round.handle(RoundInput::Observed(&slots(shown)), at(now));
    compare(round, expected);
}

#[track_caller]
fn compare(round: &Round, expected: &str) {
    let old = round.replaced().map(|(_, slot, incarnation)| format!(" {slot}.{}", incarnation.0)).unwrap_or_default();
    assert_eq!(format!("{} {}{old}", round.phase(), round.sets()[0].replicas), expected);
}

fn abort(round: &mut Round, now: u64) {
    round.handle(RoundInput::Abort(Fault::new(FaultKind::Failed, "enough")), at(now));
}

#[test]
fn a_restart_adds_one_replaces_each_and_takes_the_one_away() {
    let mut round = restart(&shop(2));
    check(&mut round, 0, "1 1", "move 0 3");
    check(&mut round, 1, "1 1 1~", "move 0 3");
    check(&mut round, 2, "1 1 1", "move 1 3 0.1");
    // It still drains.
    check(&mut round, 3, "1~ 1 1", "move 1 3 0.1");
    check(&mut round, 4, "2~ 1 1", "move 1 3 0.1");
    check(&mut round, 5, "2 1 1", "move 2 3 1.1");
    check(&mut round, 6, "2 2 1", "move 3 2");
    check(&mut round, 7, "2 2 1~", "move 3 2");
    check(&mut round, 8, "2 2", "done 2");
}

#[test]
fn what_has_a_fixed_port_is_stopped_first() {
    let mut app = shop(1);
    app.services.get_mut(&web()).unwrap().fixed_port = Port::new(3000);
    let mut round = restart(&app);
    check(&mut round, 0, "4", "move 0 1 0.4");
    check(&mut round, 1, "5", "done 1");
}

#[test]
fn a_new_number_is_reached_from_both_sides() {
    let scale = |to| RoundPlan::scale((ReleaseNumber(1), &shop(2)), &Scales::new(), &web(), to);
    let mut more = Round::start(scale(3), at(0));
    check(&mut more, 0, "1 1", "move 0 3");
    check(&mut more, 1, "1 1 1~", "move 0 3");
    check(&mut more, 2, "1 1 1", "done 3");
    let mut fewer = Round::start(scale(1), at(0));
    check(&mut fewer, 0, "1 1", "move 0 1");
    check(&mut fewer, 1, "1 1~", "move 0 1");
    check(&mut fewer, 2, "1", "done 1");
    let mut same = Round::start(scale(2), at(0));
    check(&mut same, 0, "1 1", "move 0 2");
    check(&mut same, 0, "1 1", "done 2");
}

#[test]
fn an_abort_brings_back_what_gave_way_before_it_takes_away_what_was_added() {
    let mut round = restart(&shop(2));
    check(&mut round, 0, "1 1", "move 0 3");
    check(&mut round, 1, "1 1 1", "move 1 3 0.1");
    check(&mut round, 2, "1~ 1 1", "move 1 3 0.1");
    abort(&mut round, 3);
    compare(&round, "restore 1 3");
    check(&mut round, 4, "2~ 1 1", "restore 1 3");
    abort(&mut round, 4);
    compare(&round, "restore 1 3");
    check(&mut round, 5, "2 1 1", "clear 1 2");
    check(&mut round, 6, "2 1 1~", "clear 1 2");
    check(&mut round, 7, "2 1", "undone 2");
    assert!(round.waits(at(7)).is_empty());
    abort(&mut round, 8);
    compare(&round, "undone 2");
}

#[test]
fn fewer_that_is_aborted_is_as_many_again() {
    let plan = RoundPlan::scale((ReleaseNumber(1), &shop(2)), &Scales::new(), &web(), 1);
    let mut round = Round::start(plan, at(0));
    check(&mut round, 0, "1 1", "move 0 1");
    abort(&mut round, 1);
    compare(&round, "restore 0 2");
    check(&mut round, 2, "1 2~", "restore 0 2");
    check(&mut round, 3, "1 2", "clear 0 2");
    check(&mut round, 4, "1 2", "undone 2");
}

#[test]
fn what_is_still_made_is_not_given_up_and_has_its_whole_time_then() {
    let mut round = restart(&shop(1));
    check(&mut round, 0, "1", "move 0 2");
    let patience = round.next_deadline().unwrap().0.as_secs();
    check(&mut round, 1, "1 1!", "move 0 2");
    check(&mut round, 7 * patience, "1 1!", "move 0 2");
    check(&mut round, 8 * patience - 1, "1 1~", "move 0 2");
    check(&mut round, 8 * patience, "1 1~", "restore 0 2");
}

#[test]
fn one_that_does_not_get_ready_ends_it_and_says_why() {
    let mut round = restart(&shop(1));
    check(&mut round, 0, "1", "move 0 2");
    let late = round.next_deadline().unwrap().0.as_secs();
    check(&mut round, late, "1 1~", "restore 0 2");
    assert!(round.reason().unwrap().message.contains("web of release 1"));
    check(&mut round, late + 1, "1 1~", "clear 0 1");

    let mut round = restart(&shop(1));
    check(&mut round, 0, "1", "move 0 2");
    let mut shown = slots("1 3~");
    let crashed = shown.values_mut().last().unwrap();
    crashed.crashes = MAX_CRASHES;
    crashed.failure = Some(Failure {
        instance: crashed.instance.clone(),
        cause: FailureCause::Exited(ExitCause::Code(7)),
        was: SlotState::Starting,
        health: None,
        last_lines: Vec::new(),
    });
    round.handle(RoundInput::Observed(&shown), at(1));
    compare(&round, "restore 0 2");
    assert!(round.reason().unwrap().causes[0].contains("code 7"));
}

#[test]
fn a_restart_goes_on_after_a_crash_where_it_was() {
    let app = shop(1);
    let place = RoundPlace { phase: RoundPhase::Move(1), old: Some(Incarnation(1)), reason: None };
    let plan = RoundPlan::restart((ReleaseNumber(1), &app), &Scales::new(), &[web()].into());
    let mut round = Round::resume(plan, place, at(0));
    assert_eq!(round.next_deadline(), None, "nothing was seen yet");
    compare(&round, "move 1 2 0.1");
    check(&mut round, 1, "1 1", "move 1 2 0.1");
    check(&mut round, 2, "2 1", "move 2 1");
    check(&mut round, 3, "2", "done 1");
}

#[test]
fn phases_round_trip() {
    use RoundPhase::{Clear, Done, Move, Prepare, Restore, Undone};
    for phase in [Prepare, Move(0), Move(u16::MAX), Done, Restore(3), Clear(0), Undone] {
        assert_eq!(phase.to_string().parse(), Ok(phase));
    }
    for bad in ["", "move", "move -1", "move 65536", "done 1", "clear x"] {
        assert!(bad.parse::<RoundPhase>().is_err(), "{bad}");
    }
}
