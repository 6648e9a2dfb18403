//! What becomes of those who wait when a daemon ends: nobody is refused what the next one does.

use bowline_core::resource::data::DataId;

use super::*;
use crate::http::answer::RefusalReason;
use crate::reconcile::request::DataVerb;

const BINARY: Digest = Digest([7; 32]);

/// A server with one app that runs.
fn running() -> (World, Daemon) {
    let mut world = World::new();
    world.mode = Mode::Server;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    (world, daemon)
}

fn reason(world: &World, ticket: Ticket) -> RefusalReason {
    match world.answers.get(&ticket) {
        Some(Err(refusal)) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Carries out what comes before an effect, which is given back.
fn until(world: &mut World, daemon: &mut Daemon, is_it: impl Fn(&Effect) -> bool) -> Effect {
    while let Some(effect) = daemon.queue.pop_front() {
        if is_it(&effect) {
            return effect;
        }
        world.carry_out(daemon, effect);
    }
    panic!("it is not ordered")
}

fn end(world: &mut World, daemon: &mut Daemon, how: Ended) {
    match how {
        Ended::HandedOver(binary) => drop(world.ask(daemon, Request::HandOver(binary))),
        Ended::LeftRunning => world.input(daemon, Input::Terminate),
        Ended::Stopped => drop(world.ask(daemon, Request::Shutdown)),
    }
}

#[test]
fn what_has_not_begun_is_asked_of_the_next_daemon() {
    for how in [Ended::HandedOver(BINARY), Ended::LeftRunning] {
        let (mut world, mut daemon) = running();
        world.source = 2;
        let slow = world.apply(&mut daemon);
        let slow_read = until(&mut world, &mut daemon, |effect| matches!(effect, Effect::Read(..)));
        let never = world.apply(&mut daemon);
        until(&mut world, &mut daemon, |effect| matches!(effect, Effect::Read(..)));
        let id = DataId::parse("postgres.db").unwrap();
        let remove = DataVerb::Remove { force: true };
        let early = world.ask(&mut daemon, Request::Data { key: shop(), id, verb: remove, by_uid: None });
        world.stubborn = true;
        let stop = world.stop(&mut daemon);
        world.run(&mut daemon);
        let deferred = world.stop(&mut daemon);
        end(&mut world, &mut daemon, how);
        let order = world.order("local");
        let late = world.ask(&mut daemon, Request::Plan(order, Scope::default()));
        // Its folder is read by now: nothing of it is to begin any more.
        world.carry_out(&mut daemon, slow_read);
        assert_eq!(world.run(&mut daemon), End::Exited(how));
        for ticket in [slow, never, early, stop, deferred, late] {
            assert_eq!(reason(&world, ticket), RefusalReason::Leaving, "{ticket:?} of {how:?}");
        }
        assert!(daemon.store.read(|view| view.rollouts()).unwrap().is_empty(), "nothing was begun");
    }
}

#[test]
fn a_daemon_that_stops_all_has_no_next_one() {
    let (mut world, mut daemon) = running();
    world.stubborn = true;
    end(&mut world, &mut daemon, Ended::Stopped);
    world.run(&mut daemon);
    let late = world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(reason(&world, late), RefusalReason::Unavailable);
}

#[test]
fn a_build_is_not_broken_off_for_another_binary() {
    let (mut world, mut daemon) = running();
    world.source = 2;
    let ticket = world.apply(&mut daemon);
    let begin = until(&mut world, &mut daemon, |effect| matches!(effect, Effect::Store(..)));
    let beginning = world.ask(&mut daemon, Request::HandOver(BINARY));
    world.carry_out(&mut daemon, begin);
    let build = until(&mut world, &mut daemon, |effect| matches!(effect, Effect::Build(..)));
    let building = world.ask(&mut daemon, Request::HandOver(BINARY));
    world.carry_out(&mut daemon, build);
    assert_eq!(world.run(&mut daemon), End::Quiet);
    for refused in [beginning, building] {
        assert_eq!(reason(&world, refused), RefusalReason::Conflict);
        assert_eq!(world.refusal(refused).message, "a change of local/shop is under way");
    }
    assert!(matches!(world.answer(ticket), Answer::Accepted(_)));
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 2, .. })), "{:?}", world.last_end());
    world.ask(&mut daemon, Request::HandOver(BINARY));
    assert_eq!(world.run(&mut daemon), End::Exited(Ended::HandedOver(BINARY)));
}

#[test]
fn who_waits_for_the_edge_is_told_what_is_stored() {
    let (mut world, mut daemon) = running();
    let wanted = Some(bowline_core::route::Maintenance { allow: Vec::new() });
    let ticket = world.ask(&mut daemon, Request::Maintain { key: shop(), wanted, by_uid: None });
    let edge = until(&mut world, &mut daemon, |effect| matches!(effect, Effect::Edge(_)));
    world.ask(&mut daemon, Request::HandOver(BINARY));
    assert_eq!(world.run(&mut daemon), End::Exited(Ended::HandedOver(BINARY)), "without {edge:?}");
    let Answer::Maintained(answer) = world.answer(ticket) else { panic!("another answer") };
    assert!(answer.maintenance.is_some());
}
