//! What an edge does not take of an app: a release that brings it goes back, and what comes later is said for as long as it is so.

use bowline_core::app::HostName;

use super::*;

const PLAIN: &str = "app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n";

/// Of release 2.
const ODD: &str = "[route.odd]\npath = \"/odd\"\nto = \"web\"\n";

const MORE: &str = "[route.more]\npath = \"/more\"\nto = \"web\"\n";

/// Release 1 serves, and the edge takes no odd routes.
fn serving() -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    world.refuses = Some("odd");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    (world, daemon)
}

fn bring_out(world: &mut World, daemon: &mut Daemon, routes: &str) {
    world.write("bowline.toml", &format!("{PLAIN}{routes}"));
    world.apply(daemon);
    world.run(daemon);
}

fn failed(world: &World) -> Fault {
    match world.last_end() {
        Some(ChangeStep::Failed { fault, .. }) => fault.clone().into(),
        other => panic!("it did not fail: {other:?}"),
    }
}

fn messages(daemon: &Daemon, kind: &str) -> Vec<String> {
    let all = daemon.store.read(|view| view.events_after(0, 10_000)).unwrap();
    all.into_iter().filter(|event| event.kind.starts_with(kind)).map(|event| event.message).collect()
}

fn waits(world: &mut World, daemon: &mut Daemon) -> String {
    let change = world.status(daemon).apps.remove(0).change;
    format!("{:?}", change.expect("it is under way").waits_on)
}

#[test]
fn a_release_whose_routes_the_edge_refuses_goes_back_by_itself() {
    let (mut world, mut daemon) = serving();
    bring_out(&mut world, &mut daemon, ODD);
    let fault = failed(&world);
    assert_eq!(fault.message, "the edge refuses release 2");
    let end = "release 2 was rolled back: release 1 serves again";
    assert_eq!(fault.causes, ["Envoy refused routes of local/shop", "no such filter", end]);
    assert!(fault.hint.is_some_and(|hint| hint.contains("bring it out again")));
    assert_eq!((world.outages, world.edge.refusals.clone()), (0, Vec::new()), "the edge has all that is wanted");
    assert!(world.running().iter().all(|id| id.contains(".r1.")), "{:?}", world.running());
    let app = world.status(&mut daemon).apps.remove(0);
    assert_eq!((app.release, app.change, app.notes), (Some(1), None, Vec::<String>::new()));
    assert_eq!(app.fault.map(|fault| fault.error), Some("the edge refuses release 2".to_owned()));
    let told = messages(&daemon, "rollout.");
    assert!(told.iter().any(|one| one == "release 2: the edge is told its routes"), "{told:?}");
    let why =
        "release 2 was rolled back: the edge refuses release 2: Envoy refused routes of local/shop: no such filter";
    assert!(told.iter().any(|one| one.starts_with(why)), "{told:?}");
    assert!(!told.iter().any(|one| one.contains("release 2 carries everything")), "{told:?}");
    // The next one is one like any other.
    bring_out(&mut world, &mut daemon, MORE);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 3, .. })), "{:?}", world.last_end());
}

#[test]
fn a_first_release_that_is_refused_stops_and_says_why() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.refuses = Some("odd");
    bring_out(&mut world, &mut daemon, ODD);
    let fault = failed(&world);
    assert_eq!(fault.message, "the edge refuses release 1");
    assert!(fault.causes.iter().any(|cause| cause.contains("there was none before it")), "{:?}", fault.causes);
    assert_eq!((world.running(), world.edge.refusals.clone()), (Vec::<String>::new(), Vec::new()));
    bring_out(&mut world, &mut daemon, "");
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 2, .. })), "{:?}", world.last_end());
}

#[test]
fn a_release_waits_for_an_edge_that_is_away_and_another_daemon_asks_again() {
    for (name, routes, is_done) in [("more", MORE, true), ("odd", ODD, false)] {
        let (mut world, mut daemon) = serving();
        world.deaf_to = Some(name);
        bring_out(&mut world, &mut daemon, routes);
        let said = waits(&mut world, &mut daemon);
        assert!(said.contains("the edge's word on it: it was told, and has not answered yet"), "{said}");
        world.edge.status = EdgeStatus::Lost(fault("it died"));
        world.run(&mut daemon);
        let said = waits(&mut world, &mut daemon);
        assert!(said.contains("it is away, which refuses nothing"), "{said}");
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        assert!(waits(&mut world, &mut daemon).contains("the edge's word on it"));
        world.edge.status = EdgeStatus::Connected;
        world.hears();
        world.run(&mut daemon);
        let app = world.status(&mut daemon).apps.remove(0);
        assert_eq!((app.release, app.change.is_none()), (Some(if is_done { 2 } else { 1 }), true));
        assert_eq!((app.fault.is_none(), world.outages), (is_done, 0));
    }
}

/// Nothing of the release is refused, and nothing of it is taken.
#[test]
fn what_keeps_all_routes_from_an_edge_is_waited_for_by_its_name() {
    for (part, deaf_to) in [(Part::Table, Some("more")), (Part::Listener, None)] {
        let (mut world, mut daemon) = serving();
        let fault = fault("Envoy refused a listener (`http`)").caused_by("address in use");
        let apps = if part == Part::Listener { [shop()].into() } else { BTreeSet::new() };
        let why = Refusal { apps, part, fault };
        (world.deaf_to, world.always_refused, world.edge.refusals) = (deaf_to, vec![why.clone()], vec![why]);
        bring_out(&mut world, &mut daemon, MORE);
        let said = waits(&mut world, &mut daemon);
        let named = "Envoy refused a listener (`http`): address in use, and no routes are taken before that";
        assert!(said.contains(named), "{said}");
        world.always_refused.clear();
        world.edge.refusals.clear();
        world.hears();
        world.run(&mut daemon);
        let app = world.status(&mut daemon).apps.remove(0);
        assert_eq!((app.release, app.change.is_none(), world.outages), (Some(2), true, 0));
    }
}

#[test]
fn what_is_refused_of_no_release_is_told_with_its_end_and_shown() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.run(&mut daemon);
    world.always_refused = vec![Refusal {
        apps: [shop()].into(),
        part: Part::Certificate(HostName::new("shop.localhost").unwrap()),
        fault: fault("Envoy refused a certificate of local/shop").caused_by("no such key"),
    }];
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    let said = "Envoy refused a certificate of local/shop: no such key";
    let is_told = |(_, step): &(u64, ChangeStep)| matches!(step, ChangeStep::Note { text, .. } if text == said);
    assert!(world.told.iter().any(is_told), "{:?}", world.told);
    let is_shown = |world: &mut World, daemon: &mut Daemon| {
        let notes = world.status(daemon).apps.remove(0).notes;
        notes.iter().any(|note| note == said)
    };
    assert!(is_shown(&mut world, &mut daemon));
    world.edge.refusals.clear();
    world.run(&mut daemon);
    assert!(!is_shown(&mut world, &mut daemon));
}
