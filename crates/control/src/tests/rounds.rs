//! Restarts, other numbers of instances, and changes that are aborted.

use bowline_api::wire::{AppState, ChangeStep};
use bowline_core::rollout::Phase;

use super::*;

const MACHINE: Machine = Machine { memory: Bytes(8 << 30), cores: 4 };

fn toml(scale: u16, more: &str) -> String {
    format!("app = \"shop\"\n[service.web]\nrun = \"serve\"\nscale = {scale}\n{more}[route.main]\nto = \"web\"\n")
}

fn serving(scale: u16, more: &str) -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    world.write("bowline.toml", &toml(scale, more));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.running().len(), usize::from(scale));
    (world, daemon)
}

fn restart(world: &mut World, daemon: &mut Daemon, service: Option<&str>) -> Ticket {
    let service = service.map(str::to_owned);
    world.ask(daemon, Request::Restart { key: shop(), service, by_uid: Some(1000) })
}

fn scale(world: &mut World, daemon: &mut Daemon, replicas: u16) -> Ticket {
    let request = Request::Scale { key: shop(), service: None, replicas, machine: MACHINE, by_uid: Some(1000) };
    let ticket = world.ask(daemon, request);
    world.run(daemon);
    ticket
}

fn abort(world: &mut World, daemon: &mut Daemon) -> Ticket {
    world.ask(daemon, Request::Abort { key: shop(), by_uid: Some(1000) })
}

fn aborted(world: &World, ticket: Ticket) -> Option<u64> {
    let Answer::Aborted(aborted) = world.answer(ticket) else { panic!("{:?}", world.answers[&ticket]) };
    aborted.change
}

fn failure(world: &World) -> wire::Fault {
    match world.last_end() {
        Some(ChangeStep::Failed { fault }) => fault.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_restart_is_the_same_release_in_new_instances() {
    let (mut world, mut daemon) = serving(2, "");
    let ticket = restart(&mut world, &mut daemon, None);
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::Accepted(_)));
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })), "{:?}", world.last_end());
    assert_eq!(world.running(), ["local/shop.web.r1.0.2", "local/shop.web.r1.1.2"]);
    assert_eq!((world.served(), world.outages), (world.running(), 0));
    let before = world.specs.keys().map(ToString::to_string).filter(|id| id.contains(".2.")).collect::<Vec<_>>();
    assert_eq!(before, ["local/shop.web.r1.2.1"], "one more was started first");
}

#[test]
fn a_restart_of_a_single_instance_drops_nothing() {
    let (mut world, mut daemon) = serving(1, "");
    restart(&mut world, &mut daemon, Some("web"));
    world.run(&mut daemon);
    assert_eq!((world.running(), world.outages), (vec!["local/shop.web.r1.0.2".to_owned()], 0));
    let ticket = restart(&mut world, &mut daemon, Some("worker"));
    world.run(&mut daemon);
    assert!(world.refusal(ticket).hint.unwrap().contains("web"));
}

#[test]
fn a_restart_that_comes_to_nothing_takes_nothing_away() {
    let (mut world, mut daemon) = serving(2, "");
    world.behaviour = Behaviour::Exits;
    restart(&mut world, &mut daemon, None);
    world.run(&mut daemon);
    let fault = failure(&world);
    assert!(fault.caused_by.iter().any(|cause| cause.contains("code 3")), "{fault:?}");
    assert_eq!(world.served(), ["local/shop.web.r1.0.1", "local/shop.web.r1.1.1"]);
    let app = world.status(&mut daemon).apps.remove(0);
    assert_eq!((app.state, app.change), (AppState::Ready, None));
}

/// Crashed after any effect: each slot has one copy, all of them ready, and none was missing.
#[test]
fn a_restart_survives_a_crash_after_every_effect() {
    for slow_store in [false, true] {
        for effects in 0.. {
            let (mut world, mut daemon) = serving(2, "");
            world.slow_store = slow_store;
            let ticket = restart(&mut world, &mut daemon, None);
            daemon.effects_left = Some(effects);
            let crashed = world.run(&mut daemon) == End::Crashed;
            let accepted = matches!(world.answers.get(&ticket), Some(Ok(_)));
            drop(daemon);
            let mut daemon = world.start();
            assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
            let app = world.status(&mut daemon).apps.remove(0);
            assert_eq!((app.state, app.change), (AppState::Ready, None), "after {effects} effects");
            let running = world.running();
            let slots: Vec<&str> = running.iter().map(|id| id.rsplit_once('.').unwrap().0).collect();
            assert_eq!(slots, ["local/shop.web.r1.0", "local/shop.web.r1.1"], "after {effects} effects");
            assert!(!accepted || running.iter().all(|id| !id.ends_with(".1")), "after {effects} effects: {running:?}");
            assert_eq!((world.served(), world.outages), (running, 0), "after {effects} effects");
            if !crashed {
                assert!(effects > 20);
                break;
            }
        }
    }
}

/// On a server the apps are wanted again: what is told of a change is that it goes on, and it does.
#[test]
fn a_server_that_is_stopped_leaves_its_changes_to_the_next() {
    let mut left = 0;
    for effects in 0..60 {
        let mut world = World::new();
        world.mode = Mode::Server;
        let mut daemon = world.start();
        world.write("bowline.toml", &toml(2, ""));
        world.apply(&mut daemon);
        world.run(&mut daemon);
        world.told.clear();
        let ticket = restart(&mut world, &mut daemon, None);
        for _ in 0..effects {
            match daemon.queue.pop_front() {
                Some(effect) => drop(world.carry_out(&mut daemon, effect)),
                None => drop(world.show(&mut daemon)),
            }
        }
        world.ask(&mut daemon, Request::Shutdown);
        assert_eq!(world.run(&mut daemon), End::Exited(Ended::Stopped), "after {effects} effects");
        let accepted = matches!(world.answers.get(&ticket), Some(Ok(_)));
        let over = |(_, step): &(u64, ChangeStep)| matches!(step, ChangeStep::Done { .. });
        let failed = |(_, step): &(u64, ChangeStep)| matches!(step, ChangeStep::Failed { .. });
        assert!(!world.told.iter().any(failed), "after {effects} effects: {:?}", world.told);
        left += usize::from(accepted && !world.told.iter().any(over));
        drop(daemon);
        let mut daemon = world.start();
        assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
        assert!(!world.told.iter().any(failed), "after {effects} effects: {:?}", world.told);
        let events = daemon.store.read(|view| view.last_events(Some(&shop()), 1_000)).unwrap();
        let done = events.iter().any(|event| event.kind == "restart.done");
        assert!(!accepted || done, "after {effects} effects: {:?}", world.told);
        assert_eq!(world.served().len(), 2, "after {effects} effects");
    }
    assert!(left > 10, "{left}");
}

#[test]
fn a_scale_by_hand_holds_until_the_file_says_another() {
    let (mut world, mut daemon) = serving(2, "");
    scale(&mut world, &mut daemon, 3);
    assert_eq!((world.served().len(), world.outages), (3, 0));
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.served().len(), 3, "over a restart of the daemon");
    // A release whose file says 2 as before.
    world.source = 2;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!((world.served().len(), world.served()[0].contains(".r2.")), (3, true), "{:?}", world.served());
    let notes = world.status(&mut daemon).apps.remove(0).notes;
    assert!(notes.iter().any(|note| note.contains("3 instances by hand")), "{notes:?}");
    // One whose file says something else.
    world.write("bowline.toml", &toml(1, ""));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.served().len(), 1);
    world.write("bowline.toml", &toml(2, ""));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.served().len(), 2, "what has ended does not come back");
}

#[test]
fn fewer_are_drained_and_the_files_own_number_ends_it() {
    let (mut world, mut daemon) = serving(3, "");
    scale(&mut world, &mut daemon, 1);
    assert_eq!((world.running(), world.outages), (vec!["local/shop.web.r1.0.1".to_owned()], 0));
    scale(&mut world, &mut daemon, 3);
    assert_eq!(world.served().len(), 3);
    assert!(daemon.store.read(|view| view.scales(&shop())).unwrap().is_empty());
}

#[test]
fn a_scale_stays_within_file_and_machine() {
    let check = |more: &str, replicas, kind, words: &str| {
        let (mut world, mut daemon) = serving(1, more);
        let ticket = scale(&mut world, &mut daemon, replicas);
        let fault = world.refusal(ticket);
        let said = format!("{fault}: {:?}", fault.causes);
        assert!(fault.kind == kind && said.contains(words) && fault.hint.is_some(), "{fault:?}");
        assert_eq!(world.running().len(), 1);
    };
    check("", 0, FaultKind::Invalid, "nothing would answer");
    check("", 101, FaultKind::Refused, "at most 100");
    check("port = 3000\n", 2, FaultKind::Refused, "fixed `port`");
    check("limits = { memory = \"3GiB\" }\n", 3, FaultKind::Refused, "at most 2");
    check("limits = { cpu = 1.5 }\n", 3, FaultKind::Refused, "at most 2");
}

#[test]
fn a_scale_that_comes_to_nothing_is_undone() {
    let (mut world, mut daemon) = serving(2, "");
    world.behaviour = Behaviour::NeverHealthy;
    scale(&mut world, &mut daemon, 4);
    assert!(failure(&world).caused_by.iter().any(|cause| cause.contains("as many instances as before")));
    assert_eq!(world.running().len(), 2);
    assert!(daemon.store.read(|view| view.scales(&shop())).unwrap().is_empty());
}

#[test]
fn an_abort_of_nothing_is_nothing() {
    let (mut world, mut daemon) = serving(1, "");
    let events = |daemon: &Daemon| daemon.store.read(|view| view.newest_event()).unwrap();
    let before = events(&daemon);
    let ticket = abort(&mut world, &mut daemon);
    world.run(&mut daemon);
    assert_eq!((aborted(&world, ticket), events(&daemon)), (None, before));
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
}

/// Told at any moment of a release that hangs: the one before goes on, whole, and nothing is left of the other.
#[test]
fn a_release_is_aborted_whenever_it_is_asked_for() {
    let (mut ends, mut by_hand) = ([0, 0], 0);
    for effects in 0.. {
        let (mut world, mut daemon) = serving(2, "");
        (world.source, world.behaviour, world.slow_store) = (2, Behaviour::NeverHealthy, true);
        world.apply(&mut daemon);
        daemon.effects_left = Some(effects);
        let over = world.run(&mut daemon) != End::Crashed;
        daemon.effects_left = None;
        let ticket = abort(&mut world, &mut daemon);
        world.run(&mut daemon);
        let told = aborted(&world, ticket).is_some();
        ends[usize::from(told)] += 1;
        if told {
            let fault = failure(&world);
            // At its end it was given up already.
            let own = fault.error.contains("does not get ready");
            assert!(own || fault.error.contains("was aborted"), "after {effects} effects: {fault:?}");
            by_hand += u32::from(!own);
        }
        assert_eq!(world.served(), ["local/shop.web.r1.0.1", "local/shop.web.r1.1.1"], "after {effects} effects");
        assert_eq!((world.running(), world.outages), (world.served(), 0), "after {effects} effects");
        if over {
            break;
        }
    }
    assert!(ends[1] > 10 && by_hand > 10, "{ends:?}, {by_hand}");
}

/// A second release that is in its first step, and stays there.
fn hanging(slow_store: bool) -> (World, Daemon) {
    let (mut world, mut daemon) = serving(1, "");
    (world.source, world.behaviour, world.slow_store) = (2, Behaviour::NeverHealthy, slow_store);
    world.apply(&mut daemon);
    let steps = |daemon: &Daemon| {
        let app = &daemon.machine.apps[&shop()];
        app.storing.is_none() && app.rolling().is_some_and(|r| matches!(r.machine.phase(), Phase::Step(_)))
    };
    while !steps(&daemon) {
        daemon.effects_left = Some(1);
        assert_eq!(world.run(&mut daemon), End::Crashed, "it hangs in its first step");
    }
    daemon.effects_left = None;
    (world, daemon)
}

/// A daemon dies anywhere after an abort was asked for: whoever was told that it was taken finds it taken.
#[test]
fn an_abort_that_was_acknowledged_is_remembered() {
    let mut acknowledged = 0;
    for effects in 0..20 {
        let (mut world, mut daemon) = hanging(true);
        let ticket = abort(&mut world, &mut daemon);
        daemon.effects_left = Some(effects);
        world.run(&mut daemon);
        drop(daemon);
        let told = matches!(world.answers.get(&ticket), Some(Ok(Answer::Aborted(_))));
        let mut daemon = world.start();
        world.run(&mut daemon);
        let fault = world.status(&mut daemon).apps[0].fault.clone().expect("it was undone in any case");
        assert!(!told || fault.error.contains("was aborted"), "after {effects} effects: {fault:?}");
        acknowledged += u32::from(told);
    }
    assert!(acknowledged > 5, "{acknowledged}");
}

#[test]
fn an_abort_that_cannot_be_stored_is_refused_and_tried_again() {
    let (mut world, mut daemon) = hanging(false);
    world.refuse_phases = true;
    let ticket = abort(&mut world, &mut daemon);
    while !world.answers.contains_key(&ticket) {
        daemon.effects_left = Some(1);
        assert_eq!(world.run(&mut daemon), End::Crashed, "it is tried again and again");
    }
    assert!(world.refusal(ticket).hint.is_some_and(|hint| hint.contains("tried again every 2s")));
    (world.refuse_phases, daemon.effects_left) = (false, None);
    world.run(&mut daemon);
    assert!(failure(&world).error.contains("was aborted"), "{:?}", failure(&world));
}

#[test]
fn a_restart_and_a_scale_are_aborted_too() {
    let (mut world, mut daemon) = serving(2, "");
    world.behaviour = Behaviour::NeverHealthy;
    restart(&mut world, &mut daemon, None);
    daemon.effects_left = Some(6);
    assert_eq!(world.run(&mut daemon), End::Crashed);
    daemon.effects_left = None;
    let ticket = abort(&mut world, &mut daemon);
    world.run(&mut daemon);
    assert!(aborted(&world, ticket).is_some());
    assert!(failure(&world).caused_by.iter().any(|cause| cause.contains("was given up")), "{:?}", failure(&world));
    assert_eq!(world.running(), ["local/shop.web.r1.0.1", "local/shop.web.r1.1.1"]);
}

#[test]
fn one_change_at_a_time() {
    let (mut world, mut daemon) = serving(1, "");
    world.behaviour = Behaviour::NeverHealthy;
    restart(&mut world, &mut daemon, None);
    let ticket = restart(&mut world, &mut daemon, None);
    world.run(&mut daemon);
    assert!(world.refusal(ticket).message.contains("is being changed"));
    world.stop(&mut daemon);
    world.run(&mut daemon);
    let ticket = restart(&mut world, &mut daemon, None);
    world.run(&mut daemon);
    assert!(world.refusal(ticket).message.contains("nothing of local/shop is meant to run"));
}
