//! The daemon is killed after every effect of an apply, and the next one ends where none was killed.

use bowline_api::wire::{AppState, ChangeStep};

use super::*;

/// Runs `script` with a crash after `n` effects, then lets the next daemon go on.
struct Crash {
    world: World,
    crashed: bool,
}

fn crash_after(effects: usize, mut world: World) -> Crash {
    let mut daemon = world.start();
    world.run(&mut daemon);
    daemon.effects_left = Some(effects);
    world.apply(&mut daemon);
    let crashed = world.run(&mut daemon) == End::Crashed;
    drop(daemon);
    Crash { world, crashed }
}

/// Most effects of one apply.
const MANY: usize = 400;

/// A first apply, crashed anywhere: it is done, or it is as if it had never been, and can be applied again.
#[test]
fn a_first_apply_survives_a_crash_after_every_effect() {
    [false, true].into_iter().for_each(check_first);
}

fn check_first(slow_store: bool) {
    for effects in 0..MANY {
        let Crash { mut world, crashed } = crash_after(effects, World { slow_store, ..World::new() });
        let mut daemon = world.start();
        assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
        let state = world.status(&mut daemon).apps.first().map(|app| app.state);
        match state {
            None | Some(AppState::Failed) => {
                assert_eq!(world.running(), Vec::<String>::new(), "after {effects} effects");
                world.apply(&mut daemon);
                world.run(&mut daemon);
            }
            Some(AppState::Ready) => {}
            Some(other) => panic!("after {effects} effects: {other:?}"),
        }
        assert_eq!(world.status(&mut daemon).apps[0].state, AppState::Ready, "after {effects} effects");
        assert_eq!(world.running().len(), 1, "after {effects} effects: {:?}", world.running());
        assert_eq!(world.served(), world.running(), "after {effects} effects");
        assert_rising(&world.generations.0);
        assert_rising(&world.generations.1);
        if !crashed {
            return assert!(effects > 10, "the apply took only {effects} effects");
        }
    }
    panic!("an apply took more than {MANY} effects");
}

/// A second release, crashed anywhere: there is no outage, and it ends with one of the two, whole.
#[test]
fn a_second_release_survives_a_crash_after_every_effect() {
    [false, true].into_iter().for_each(check_second);
}

fn check_second(slow_store: bool) {
    let mut ends = [0, 0];
    for effects in 0..MANY {
        let mut world = World { slow_store, ..World::new() };
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        drop(daemon);
        world.source = 2;
        let Crash { mut world, crashed } = crash_after(effects, world);
        let mut daemon = world.start();
        assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
        let app = world.status(&mut daemon).apps.remove(0);
        assert_eq!(app.state, AppState::Ready, "after {effects} effects");
        assert_eq!(app.change, None, "after {effects} effects");
        let release = app.release.unwrap();
        ends[usize::try_from(release - 1).unwrap()] += 1;
        assert_eq!(world.running().len(), 1, "after {effects} effects: {:?}", world.running());
        assert!(world.running()[0].contains(&format!(".r{release}.")), "after {effects} effects");
        assert_eq!((world.served(), world.outages), (world.running(), 0), "after {effects} effects");
        assert_rising(&world.generations.0);
        assert_rising(&world.generations.1);
        if !crashed {
            return assert!(ends.iter().all(|n| *n > 3), "{ends:?}");
        }
    }
    panic!("an apply took more than {MANY} effects");
}

/// A bad second release, crashed anywhere: the first serves all the time.
#[test]
fn a_rollback_survives_a_crash_after_every_effect() {
    [false, true].into_iter().for_each(check_rollback);
}

fn check_rollback(slow_store: bool) {
    for effects in 0..MANY {
        let mut world = World { slow_store, ..World::new() };
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        drop(daemon);
        (world.source, world.behaviour) = (2, Behaviour::Exits);
        let Crash { mut world, crashed } = crash_after(effects, world);
        let mut daemon = world.start();
        assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
        let app = world.status(&mut daemon).apps.remove(0);
        assert_eq!((app.state, app.release), (AppState::Ready, Some(1)), "after {effects} effects");
        assert_eq!(world.running(), ["local/shop.web.r1.0.1"], "after {effects} effects");
        assert_eq!((world.served(), world.outages), (world.running(), 0), "after {effects} effects");
        if !crashed {
            return assert!(effects > 10);
        }
    }
    panic!("an apply took more than {MANY} effects");
}

/// A second release whose routes the edge refuses, crashed anywhere: the first serves all the time.
#[test]
fn a_refusal_of_the_edge_survives_a_crash_after_every_effect() {
    [false, true].into_iter().for_each(check_refused);
}

fn check_refused(slow_store: bool) {
    let plain = "app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n";
    for effects in 0..MANY {
        let mut world = World { slow_store, refuses: Some("odd"), ..World::new() };
        let mut daemon = world.start();
        world.write("bowline.toml", plain);
        world.apply(&mut daemon);
        world.run(&mut daemon);
        drop(daemon);
        world.source = 2;
        world.write("bowline.toml", &format!("{plain}[route.odd]\npath = \"/odd\"\nto = \"web\"\n"));
        let Crash { mut world, crashed } = crash_after(effects, world);
        let mut daemon = world.start();
        assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
        let app = world.status(&mut daemon).apps.remove(0);
        assert_eq!((app.state, app.release), (AppState::Ready, Some(1)), "after {effects} effects");
        let running = world.running();
        assert!(running.len() == 1 && running[0].contains(".r1."), "after {effects} effects: {running:?}");
        assert_eq!((world.served(), world.outages), (running, 0), "after {effects} effects");
        assert_eq!(world.edge.refusals, Vec::new(), "after {effects} effects");
        if !crashed {
            return assert!(effects > 20);
        }
    }
    panic!("an apply took more than {MANY} effects");
}

/// How an app is told to stop after `effects` of its apply.
#[derive(Debug, Clone, Copy)]
enum StopBy {
    Stop,
    Shutdown,
    /// The store refuses what it is asked last before the stop.
    ShutdownAfterARefusal,
}

/// A stop in the middle of an apply, anywhere: nothing runs, and the next daemon does not start it again.
#[test]
fn a_stop_after_every_effect_is_a_stop_for_the_next_daemon_too() {
    // A first release, one that is built already and started again, and a second one.
    for (before, source) in [(false, 1), (true, 1), (true, 2)] {
        for slow_store in [false, true] {
            check_stops(slow_store, StopBy::Stop, before, source);
        }
    }
    for by in [StopBy::Shutdown, StopBy::ShutdownAfterARefusal] {
        check_stops(true, by, true, 2);
    }
}

fn check_stops(slow_store: bool, by: StopBy, before: bool, source: u8) {
    let effects = (0..MANY).find(|effects| check_stop(slow_store, by, before, source, *effects));
    assert!(effects.is_some_and(|effects| effects > 4), "{by:?}: {effects:?}");
}

/// Whether the apply had ended before it was stopped.
fn check_stop(slow_store: bool, by: StopBy, before: bool, source: u8, effects: usize) -> bool {
    let said = format!("{by:?} after {effects} effects, slow store: {slow_store}, ran before: {before}, r{source}");
    let mut world = World { slow_store, ..World::new() };
    let mut daemon = world.start();
    if before {
        world.apply(&mut daemon);
        world.run(&mut daemon);
        world.stop(&mut daemon);
        assert_eq!(world.run(&mut daemon), End::Quiet);
    }
    world.source = source;
    world.run(&mut daemon);
    daemon.effects_left = Some(effects);
    world.apply(&mut daemon);
    let ended = world.run(&mut daemon) != End::Crashed;
    daemon.effects_left = None;
    let known = daemon.machine.apps.contains_key(&shop());
    let ticket = match by {
        StopBy::Stop => world.stop(&mut daemon),
        StopBy::Shutdown => world.ask(&mut daemon, Request::Shutdown),
        StopBy::ShutdownAfterARefusal => {
            world.refuse_phases = true;
            world.ask(&mut daemon, Request::Shutdown)
        }
    };
    let end = world.run(&mut daemon);
    if matches!(by, StopBy::Stop) && !known {
        return ended;
    }
    assert!(matches!(world.answer(ticket), Answer::Stopped(_)), "{said}");
    assert_eq!(end == End::Quiet, matches!(by, StopBy::Stop), "{said}");
    assert_eq!(world.running(), Vec::<String>::new(), "{said}");
    drop(daemon);
    world.refuse_phases = false;
    let started = world.specs.len();
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!((world.running(), world.specs.len()), (Vec::new(), started), "{said}");
    assert!(!matches!(world.status(&mut daemon).apps.first().map(|app| app.state), Some(AppState::Ready)), "{said}");
    ended
}

/// The others are served, wherever their instances are now, whatever becomes of the change.
#[test]
fn a_store_that_refuses_keeps_no_table_back() {
    let mut met = 0;
    for effects in 0..MANY {
        let mut world = World::new();
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        world.source = 2;
        daemon.effects_left = Some(effects);
        world.apply(&mut daemon);
        if world.run(&mut daemon) != End::Crashed {
            break;
        }
        drop(daemon);
        world.refuse_phases = true;
        let mut daemon = world.start();
        daemon.effects_left = Some(50);
        world.run(&mut daemon);
        if daemon.machine.apps.values().any(|app| app.storing.is_some()) {
            assert!(daemon.machine.published.has_table(), "after {effects} effects");
            met += 1;
        }
    }
    assert!(met > 0, "a daemon starts with something to store");
}

#[test]
fn an_interrupted_build_is_said_to_whoever_asks() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    while let Some(effect) = daemon.queue.pop_front() {
        if matches!(effect, Effect::Build(..)) {
            break;
        }
        world.carry_out(&mut daemon, effect);
    }
    drop(daemon);
    let change = world.told.last().unwrap().0;
    let mut daemon = world.start();
    world.run(&mut daemon);
    match world.told.last() {
        Some((id, ChangeStep::Failed { fault })) => {
            assert_eq!(*id, change);
            assert!(fault.error.contains("interrupted"), "{fault:?}");
        }
        other => panic!("{other:?}"),
    }
    // And by every daemon after it, until a change has come to its end.
    assert!(said_by_the_next(&mut world, daemon).unwrap().error.contains("interrupted"));
}

/// What the next daemon says of the last change.
fn said_by_the_next(world: &mut World, daemon: Daemon) -> Option<wire::Fault> {
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    world.status(&mut daemon).apps.remove(0).fault
}

#[test]
fn the_next_daemon_says_how_the_last_change_ended_and_no_other() {
    let serving_after_a_failure = || {
        let mut world = World::new();
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        world.behaviour = Behaviour::Exits;
        world.source = 2;
        world.apply(&mut daemon);
        world.run(&mut daemon);
        world.behaviour = Behaviour::Good;
        let said = world.status(&mut daemon).apps.remove(0).fault;
        assert!(said.is_some());
        (world, daemon, said)
    };
    let (mut world, daemon, said) = serving_after_a_failure();
    assert_eq!(said_by_the_next(&mut world, daemon), said);

    let (mut world, mut daemon, _) = serving_after_a_failure();
    world.ask(&mut daemon, Request::Restart { key: shop(), service: None, by_uid: None });
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    assert_eq!(said_by_the_next(&mut world, daemon), None);

    let (mut world, mut daemon, _) = serving_after_a_failure();
    (world.build, world.source) = (Err(fault("pip said no")), 3);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let said = said_by_the_next(&mut world, daemon).expect("the build failed");
    assert!(said.error.contains("pip said no"), "{said:?}");
}

/// A store that was set back must not make the edge refuse what comes: its generation is gone above.
#[test]
fn an_edge_that_is_ahead_is_overtaken() {
    let mut world = World::new();
    world.edge.serving = Some(Generation(77 << 32));
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(*world.generations.1.last().unwrap() > Generation(77 << 32));
    assert_eq!(world.served(), ["local/shop.web.r1.0.1"]);
}

/// A status right after the start does not say that nothing runs.
#[test]
fn a_status_waits_until_the_daemon_has_looked() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    drop(daemon);
    let mut daemon = world.start();
    let ticket = world.ask(&mut daemon, Request::Status);
    assert!(!daemon.queue.iter().any(|effect| matches!(effect, Effect::Answer(..))));
    world.run(&mut daemon);
    let Answer::Status(status) = world.answer(ticket) else { panic!("another answer than a status") };
    assert_eq!((status.apps[0].state, status.apps[0].services[0].instances.len()), (AppState::Ready, 1));
}

/// What runs is not touched before it is adopted, nor by a daemon that finds it.
#[test]
fn a_new_daemon_takes_over_what_runs() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    drop(daemon);
    let (before, served) = (world.running(), world.served());
    let ordered = world.generations.0.len();
    let mut daemon = world.start();
    while let Some(effect) = daemon.queue.pop_front() {
        assert!(!matches!(effect, Effect::Node(_)), "ordered before anything was adopted");
        world.carry_out(&mut daemon, effect);
    }
    world.run(&mut daemon);
    assert_eq!((world.running(), world.served(), world.outages), (before, served, 0));
    assert!(world.generations.0.len() > ordered);
}
