//! An app that cannot be read leaves the others as they are, and is left as it is.

use bowline_api::wire::{AppState, ChangeStep};
use bowline_core::app::ResourceKind;
use bowline_core::id::ResourceName;
use bowline_core::instance::InstanceOrder;
use bowline_core::resource::data::DataId;
use bowline_core::resource::{Left, ResourceId, ResourceKey, ResourceSpec};

use super::*;
use crate::reconcile::request::DataVerb;
use crate::reconcile::resources::password_name;
use crate::store::{NewRevision, RevisionState};

fn beside() -> AppKey {
    AppKey { env: EnvName::new("beside").unwrap(), ..shop() }
}

const FILE: &str = "app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n\
    [environment.beside]\nroute.main.hosts = [\"beside.localhost\"]\nroute.main.tls = \"local\"\n";

/// The same app in two environments, of which the store then has one as no daemon reads it.
fn two() -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    world.write("bowline.toml", FILE);
    for env in ["local", "beside"] {
        let order = world.order(env);
        world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
        world.run(&mut daemon);
    }
    assert_eq!(world.served().len(), 2);
    let row = daemon.store.read(|view| view.revision(&beside(), ReleaseNumber(1))).unwrap().unwrap();
    let app = row.app.replace("\"v\":1", "\"v\":99");
    assert_ne!(app, row.app);
    let new = NewRevision { app, artifacts: row.artifacts, secrets: row.secrets, created: row.created };
    let stored = daemon.store.commit(move |tx| {
        let number = tx.add_revision(&beside(), new)?.number;
        tx.set_revision_state(&beside(), ReleaseNumber(1), RevisionState::Retired)?;
        tx.set_revision_state(&beside(), number, RevisionState::Active)
    });
    world.runtime.block_on(stored).unwrap();
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    (world, daemon)
}

fn hosts(world: &World) -> Vec<String> {
    let table = &world.table.as_ref().unwrap().table;
    table.sites.iter().filter(|(_, site)| !site.rules.is_empty()).map(|(host, _)| host.to_string()).collect()
}

fn of_beside(world: &mut World, daemon: &mut Daemon) -> wire::AppStatus {
    let apps = world.status(daemon).apps;
    apps.into_iter().find(|app| app.env == "beside").unwrap()
}

#[test]
fn an_app_that_cannot_be_read_is_left_as_it_is_beside_one_that_can() {
    let (mut world, mut daemon) = two();
    assert_eq!(world.running(), ["beside/shop.web.r1.0.1", "local/shop.web.r1.0.1"]);
    assert_eq!(world.served(), world.running());
    assert_eq!(hosts(&world), ["beside.localhost", "shop.localhost"]);
    let app = of_beside(&mut world, &mut daemon);
    let said = app.notes.join("; ");
    assert_eq!(app.state, AppState::Degraded);
    assert!(said.contains("cannot be read") && said.contains("version 99") && said.contains("1 instance is"), "{said}");
    let local = world.status(&mut daemon).apps.into_iter().find(|app| app.env == "local").unwrap();
    assert_eq!(local.state, AppState::Ready);
    // Another change of the other one, and another daemon: nothing of it is touched.
    world.source = 2;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.served(), ["beside/shop.web.r1.0.1", "local/shop.web.r2.0.1"]);
    // One that ends is not there any more, and is started by nobody.
    let id = world.instances.keys().find(|id| id.slot.key == beside()).unwrap().clone();
    let exit = Exit { cause: ExitCause::Code(3), at: world.now.wall, last_lines: Vec::new() };
    world.instances.get_mut(&id).unwrap().phase = Phase::Exited(exit);
    world.run(&mut daemon);
    assert_eq!(world.served(), ["local/shop.web.r2.0.1"]);
    assert_eq!(of_beside(&mut world, &mut daemon).state, AppState::Down);
}

#[test]
fn nobody_takes_the_place_of_what_cannot_be_read() {
    let (mut world, mut daemon) = two();
    let taker = "[environment.taker]\nroute.main.hosts = [\"beside.localhost\"]\nroute.main.tls = \"local\"\n";
    world.write("bowline.toml", &format!("{FILE}{taker}"));
    let order = world.order("taker");
    let ticket = world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
    world.run(&mut daemon);
    let Err(refusal) = &world.answers[&ticket] else { panic!("{:?}", world.answers[&ticket]) };
    assert_eq!(refusal.fault.causes, ["beside/shop, which cannot be read, is served there"]);
}

#[test]
fn what_the_edge_refuses_takes_no_place_of_what_cannot_be_read() {
    let (mut world, mut daemon) = two();
    let odd = "[route.odd]\npath = \"/odd\"\nto = \"web\"\nhosts = [\"beside.localhost\"]\ntls = \"local\"\n";
    let bring_out = |world: &mut World, daemon: &mut Daemon, more: &str| {
        world.write("bowline.toml", &FILE.replace("[environment", &format!("{more}[environment")));
        let order = world.order("beside");
        world.ask(daemon, Request::Apply(order, None, Scope::default()));
        world.run(daemon);
    };
    world.refuses = Some("odd");
    bring_out(&mut world, &mut daemon, odd);
    let Some(ChangeStep::Failed { fault, .. }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert!(fault.error.starts_with("the edge refuses release"), "{fault:?}");
    assert_eq!(world.served(), ["beside/shop.web.r1.0.1", "local/shop.web.r1.0.1"]);
    assert_eq!((hosts(&world).len(), world.outages), (2, 0));
    // Until the edge has answered, it may serve what was there before: whose instances it still knows.
    world.deaf_to = Some("more");
    bring_out(&mut world, &mut daemon, &odd.replace("odd", "more"));
    assert!(of_beside(&mut world, &mut daemon).change.is_some());
    let told = &world.unheard.as_ref().unwrap().table;
    assert!(told.pools.iter().any(|(pool, _)| pool.key == beside() && pool.release == ReleaseNumber(1)));
    assert!(world.running().iter().any(|id| id == "beside/shop.web.r1.0.1"), "{:?}", world.running());
    world.hears();
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    let running = world.running();
    assert!(!running.iter().any(|id| id == "beside/shop.web.r1.0.1") && world.outages == 0, "{running:?}");
}

#[test]
fn a_daemon_that_dies_while_a_release_takes_that_place_serves_what_was_there() {
    let (mut world, mut daemon) = two();
    // The edge has the table, and nobody is led by it yet.
    let fault = fault("Envoy refused a listener (`https`)").caused_by("address in use");
    world.always_refused = vec![Refusal { apps: [beside()].into(), part: Part::Listener, fault }];
    world.source = 2;
    let order = world.order("beside");
    world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
    world.run(&mut daemon);
    assert!(of_beside(&mut world, &mut daemon).change.is_some());
    let rules = |world: &World| {
        let table = &world.table.as_ref().unwrap().table;
        let pools = table.sites.values().flat_map(|site| site.pools());
        pools.filter(|pool| pool.key == beside()).map(|pool| pool.release.0).collect::<Vec<_>>()
    };
    assert_ne!(rules(&world), [1]);
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(rules(&world), [1]);
    assert!(world.served().contains(&"beside/shop.web.r1.0.1".to_owned()), "{:?}", world.served());
}

#[test]
fn what_is_brought_out_next_takes_the_place_of_what_cannot_be_read() {
    let (mut world, mut daemon) = two();
    let bring_out = |world: &mut World, daemon: &mut Daemon, source: u8| {
        world.source = source;
        let order = world.order("beside");
        world.ask(daemon, Request::Apply(order, None, Scope::default()));
        world.run(daemon);
    };
    // One that does not start leaves it as it was, for the next daemon, too.
    world.behaviour = Behaviour::Exits;
    bring_out(&mut world, &mut daemon, 2);
    assert!(matches!(world.last_end(), Some(ChangeStep::Failed { .. })), "{:?}", world.last_end());
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.served(), ["beside/shop.web.r1.0.1", "local/shop.web.r1.0.1"]);
    world.behaviour = Behaviour::Good;
    bring_out(&mut world, &mut daemon, 3);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    assert_eq!(world.served(), ["beside/shop.web.r4.0.1", "local/shop.web.r1.0.1"]);
    assert_eq!((world.running(), world.outages), (world.served(), 0));
    let app = of_beside(&mut world, &mut daemon);
    assert_eq!((app.state, app.notes), (AppState::Ready, Vec::new()));
    let rows = daemon.store.read(|view| view.revisions(&beside())).unwrap();
    let active = rows.iter().filter(|row| row.state == RevisionState::Active).map(|row| row.number.0);
    assert_eq!(active.collect::<Vec<_>>(), [4]);
}

#[test]
fn what_cannot_be_read_can_be_stopped() {
    let (mut world, mut daemon) = two();
    let ticket = world.ask(&mut daemon, Request::Stop { key: beside(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::Stopped(_)), "{:?}", world.answers[&ticket]);
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
    let node = daemon.machine.unread_orders();
    assert!(!node.values().any(|order| matches!(order, InstanceOrder::Keep)), "{node:?}");
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(of_beside(&mut world, &mut daemon).state, AppState::Stopped);
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
}

/// Brings the folder out in `beside`.
fn bring_out(world: &mut World, daemon: &mut Daemon, source: u8) {
    world.source = source;
    let order = world.order("beside");
    world.ask(daemon, Request::Apply(order, None, Scope::default()));
    world.run(daemon);
}

/// What is stored of `beside` is as another version has it; another daemon.
fn rewritten(world: &mut World, daemon: Daemon, table: &'static str, column: &'static str) -> Daemon {
    let stored = daemon.store.commit(move |tx| match table {
        "scales" => tx.rewrite_scales(&beside(), column),
        _ => tx.rewrite(table, &beside(), column, "of a later version"),
    });
    world.runtime.block_on(stored).unwrap();
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    daemon
}

fn notes(world: &mut World, daemon: &mut Daemon) -> String {
    of_beside(world, daemon).notes.join("; ")
}

#[test]
fn a_value_of_another_version_makes_only_its_own_app_unread() {
    for (table, column) in [("revisions", "state"), ("revisions", "spec"), ("apps", "wanted"), ("scales", "web 1 x")] {
        let mut world = World::new();
        world.write("bowline.toml", FILE);
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        bring_out(&mut world, &mut daemon, 1);
        let mut daemon = rewritten(&mut world, daemon, table, column);
        let running = ["beside/shop.web.r1.0.1", "local/shop.web.r1.0.1"];
        assert_eq!((world.running(), world.served()), (running.map(String::from).to_vec(), world.running()), "{table}");
        let said = notes(&mut world, &mut daemon);
        assert!(said.contains("cannot be read") && said.contains("1 instance is left"), "{table}: {said}");
        // Others go on.
        world.source = 2;
        world.apply(&mut daemon);
        world.run(&mut daemon);
        assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{table}: {:?}", world.last_end());
        if table == "apps" {
            continue;
        }
        // What is brought out next is read by the next daemon as well.
        bring_out(&mut world, &mut daemon, 3);
        assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{table}: {:?}", world.last_end());
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        let app = of_beside(&mut world, &mut daemon);
        assert_eq!((app.state, app.notes), (AppState::Ready, Vec::new()), "{table}");
        assert_eq!(app.release, Some(2), "{table}");
    }
}

fn database(name: &str) -> ResourceKey {
    let id = ResourceId { kind: ResourceKind::Postgres, name: ResourceName::new(name).unwrap() };
    ResourceKey { app: beside(), id }
}

#[test]
fn servers_of_what_cannot_be_read_go_on_also_where_a_password_does_not_open() {
    let (world, daemon) = two();
    // One of them has its password.
    let (app, name) = (beside(), password_name(&database("kept").id));
    world.runtime.block_on(daemon.vault.ensure(&app, &name, world.now.wall, 0)).unwrap();
    let at = world.now.wall;
    let known = daemon.store.commit(move |tx| {
        tx.register_resource(&database("kept"), Port::new(15_000).unwrap(), at)?;
        tx.register_resource(&database("shut"), Port::new(15_001).unwrap(), at)
    });
    world.runtime.block_on(known).unwrap();
    let uids = daemon.store.read(|view| view.resources()).unwrap();
    drop(daemon);
    let mut world = world;
    let mut daemon = world.start();
    world.run(&mut daemon);
    let wanted = daemon.machine.wanted_resources(world.now);
    let left = |name: &str| match wanted.get(&database(name)).map(|spec| &**spec) {
        Some(ResourceSpec::Left(Left { port, uid, known })) => (port.get(), *uid, known.is_some()),
        other => panic!("{name}: {other:?}"),
    };
    let uid = |name: &str| uids.iter().find(|one| one.key == database(name)).map(|one| one.uid);
    assert_eq!(left("kept"), (15_000, uid("kept"), true));
    assert_eq!(left("shut"), (15_001, uid("shut"), false));
    let app = of_beside(&mut world, &mut daemon);
    let shown = app.resources.iter().map(|one| (one.name.as_str(), one.orphaned)).collect::<Vec<_>>();
    assert_eq!(shown, [("kept", false), ("shut", false)]);
    // Nobody takes their data either, whatever is forced.
    let taken_up = Observations {
        adopted: true,
        instances: world.instances.clone(),
        ordered: Generation(u64::MAX),
        ..Observations::default()
    };
    world.input(&mut daemon, Input::Node(Arc::new(taken_up)));
    for (force, id) in [(false, DataId::Server(database("kept").id)), (true, DataId::Server(database("shut").id))] {
        let verb = DataVerb::Remove { force };
        let ticket = world.ask(&mut daemon, Request::Data { key: beside(), id, verb, by_uid: None });
        world.run(&mut daemon);
        let fault = world.refusal(ticket);
        assert!(fault.message.starts_with("it is not known whether beside/shop needs postgres."), "{fault:?}");
        assert_eq!(fault.causes, ["what it consists of cannot be read"]);
    }
    let id = DataId::Volume(ResourceName::new("files").unwrap());
    let verb = DataVerb::Remove { force: true };
    let ticket = world.ask(&mut daemon, Request::Data { key: beside(), id, verb, by_uid: None });
    world.run(&mut daemon);
    assert_eq!(world.refusal(ticket).kind, FaultKind::Refused);
    // Stopped, it has none.
    world.ask(&mut daemon, Request::Stop { key: beside(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    assert!(daemon.machine.wanted_resources(world.now).is_empty());
}

#[test]
fn a_run_goes_on_to_its_end_and_the_next_release_waits_for_it() {
    for is_known in [true, false] {
        let mut world = World::new();
        world.write("bowline.toml", &format!("{FILE}[release]\nbefore = \"migrate\"\n"));
        let mut daemon = world.start();
        bring_out(&mut world, &mut daemon, 1);
        world.jobs = JobBehaviour::Stay;
        bring_out(&mut world, &mut daemon, 2);
        let both = ["beside/shop.release_before.r2.0.2", "beside/shop.web.r1.0.1"];
        assert_eq!(world.running(), both);
        // The releases cannot be read; in the second case, nothing of the run itself.
        let mut daemon = rewritten(&mut world, daemon, "revisions", "spec");
        if !is_known {
            daemon = rewritten(&mut world, daemon, "runs", "task");
        }
        assert_eq!(world.running(), both, "{is_known}");
        let said = notes(&mut world, &mut daemon);
        assert!(said.contains("what runs of its commands goes on to its end"), "{said}");
        world.jobs = JobBehaviour::Exits(0);
        bring_out(&mut world, &mut daemon, 3);
        assert_eq!(world.running(), both, "two of them would change the same data at once: {is_known}");
        world.finish_run(0);
        world.run(&mut daemon);
        assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 3, .. })), "{:?}", world.last_end());
        assert_eq!(world.running(), ["beside/shop.web.r3.0.1"], "{is_known}");
        assert_eq!(world.runs().last().unwrap(), "beside/shop.release_before.r3.0.3", "no number is given out twice");
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        let app = of_beside(&mut world, &mut daemon);
        assert_eq!((app.state, app.notes), (AppState::Ready, Vec::new()), "{is_known}");
    }
}

#[test]
fn what_was_stopped_and_is_brought_out_again_is_read_by_the_next_daemon() {
    for is_restarted in [false, true] {
        let mut world = World::new();
        world.write("bowline.toml", FILE);
        let mut daemon = world.start();
        bring_out(&mut world, &mut daemon, 1);
        let mut daemon = rewritten(&mut world, daemon, "scales", "web 1 x");
        assert!(notes(&mut world, &mut daemon).contains("cannot be read"));
        world.ask(&mut daemon, Request::Stop { key: beside(), shutdown_when_idle: false, by_uid: None });
        world.run(&mut daemon);
        if is_restarted {
            drop(daemon);
            daemon = world.start();
            world.run(&mut daemon);
        }
        assert_eq!(of_beside(&mut world, &mut daemon).state, AppState::Stopped);
        bring_out(&mut world, &mut daemon, 2);
        assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
        let rows = daemon.store.read(|view| view.revisions(&beside())).unwrap();
        let active = rows.iter().filter(|row| row.state == RevisionState::Active).map(|row| row.number.0);
        assert_eq!(active.collect::<Vec<_>>(), [2], "{is_restarted}");
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        let app = of_beside(&mut world, &mut daemon);
        assert_eq!((app.state, app.notes), (AppState::Ready, Vec::new()), "{is_restarted}");
    }
}

#[test]
fn a_run_that_was_over_before_a_release_was_made_is_nothing_to_it() {
    let mut world = World::new();
    world.write("bowline.toml", &format!("{FILE}[release]\nbefore = \"migrate\"\n"));
    let mut daemon = world.start();
    bring_out(&mut world, &mut daemon, 1);
    let mut daemon = rewritten(&mut world, daemon, "runs", "task");
    assert_eq!(notes(&mut world, &mut daemon), "");
    world.now.wall = world.now.wall + Duration::from_secs(60);
    world.jobs = JobBehaviour::Stay;
    bring_out(&mut world, &mut daemon, 2);
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert!(!notes(&mut world, &mut daemon).contains("cannot be read"));
    world.finish_run(0);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 2, .. })), "{:?}", world.last_end());
}

#[test]
fn data_that_were_kept_before_a_release_stay_where_it_cannot_be_read() {
    let mut world = World::new();
    world.write("bowline.toml", FILE);
    let mut daemon = world.start();
    bring_out(&mut world, &mut daemon, 1);
    bring_out(&mut world, &mut daemon, 2);
    world.ask(&mut daemon, Request::Stop { key: beside(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    for column in ["artifacts", "state"] {
        world.kept = None;
        daemon = rewritten(&mut world, daemon, "revisions", column);
        let kept = world.kept.as_ref().expect("something was collected");
        for release in [1, 2] {
            let path = daemon.machine.place.snapshot(&beside(), ReleaseNumber(release));
            assert!(kept.roots.contains(&path), "{column}: {kept:?}");
        }
    }
}

#[test]
fn what_has_the_port_of_the_next_release_gives_way_to_it() {
    let mut world = World::new();
    let file = |more: &str| FILE.replace("run = \"serve\"\n", &format!("run = \"serve\"\n{more}"));
    world.write("bowline.toml", &file("port = 3000\n"));
    let mut daemon = world.start();
    bring_out(&mut world, &mut daemon, 1);
    let Phase::Running { port, .. } = &mut world.instances.values_mut().next().unwrap().phase else { panic!() };
    *port = Port::new(3000).unwrap();
    world.run(&mut daemon);
    let mut daemon = rewritten(&mut world, daemon, "revisions", "spec");
    assert_eq!(world.served(), ["beside/shop.web.r1.0.1"]);
    // One that is not built takes nothing away.
    world.build = Err(fault("not today"));
    bring_out(&mut world, &mut daemon, 2);
    assert_eq!(world.served(), ["beside/shop.web.r1.0.1"]);
    world.build = Ok(());
    bring_out(&mut world, &mut daemon, 3);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    assert_eq!((world.running(), world.served()), (vec!["beside/shop.web.r2.0.1".to_owned()], world.running()));
    let waits = |step: &ChangeStep| {
        let ChangeStep::Waiting { steps, .. } = step else { return false };
        steps.iter().any(|one| one.on == "its end: port 3000 is release 2's")
    };
    let waited = world.told.iter().any(|(_, step)| waits(step));
    assert!(waited, "{:?}", world.told);
}

#[test]
fn where_no_snapshot_can_be_used_an_edge_tells_what_it_serves_or_it_is_said() {
    for tells in [true, false] {
        let (mut world, daemon) = two();
        drop(daemon);
        std::fs::remove_file(world.state().join("edge.snapshot")).unwrap();
        world.edge.table = world.table.as_ref().filter(|_| tells).map(|desired| Arc::clone(&desired.table));
        let mut daemon = world.start();
        world.run(&mut daemon);
        let both = ["beside.localhost", "shop.localhost"];
        assert_eq!(hosts(&world), both, "nothing was taken from the edge");
        if let Some(at) = daemon.machine.next_deadline().filter(|_| !tells) {
            world.wait_until(&mut daemon, at);
            world.run(&mut daemon);
        }
        let expected: &[&str] = if tells { &both } else { &["shop.localhost"] };
        assert_eq!(hosts(&world), expected);
        let said = notes(&mut world, &mut daemon);
        assert_eq!(said.contains("on which hosts it was served is not known: nobody is led to it"), !tells, "{said}");
    }
}

#[test]
fn jobs_of_what_cannot_be_read_stand_still_and_are_made_up_for_once() {
    let mut world = World::new();
    let job = "[job.cleanup]\nrun = \"cleanup\"\nschedule = \"0 * * * *\"\n";
    world.write("bowline.toml", &format!("{FILE}{job}"));
    let mut daemon = world.start();
    bring_out(&mut world, &mut daemon, 1);
    let mut daemon = rewritten(&mut world, daemon, "revisions", "spec");
    assert!(notes(&mut world, &mut daemon).contains("its jobs do not run meanwhile"));
    let refused = world.ask(&mut daemon, Request::RunJob { key: beside(), job: "cleanup".into(), by_uid: None });
    world.run(&mut daemon);
    assert_eq!(world.refusal(refused).causes, [""; 0]);
    assert!(world.refusal(refused).message.ends_with("what it consists of cannot be read"));
    world.now.wall = world.now.wall + Duration::from_secs(3 * 3_600);
    world.input(&mut daemon, Input::Tick);
    world.run(&mut daemon);
    assert_eq!(world.runs(), [""; 0]);
    bring_out(&mut world, &mut daemon, 2);
    assert_eq!(world.runs(), ["beside/shop.job_cleanup.r2.0.1"]);
}

#[test]
fn whatever_dies_while_it_is_brought_out_again_it_is_served() {
    for effects in 0.. {
        let (mut world, mut daemon) = two();
        (daemon.effects_left, world.source) = (Some(effects), 2);
        let order = world.order("beside");
        world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
        let has_died = world.run(&mut daemon) == End::Crashed;
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        let own = |all: Vec<String>| all.into_iter().filter(|id| id.starts_with("beside/")).collect::<Vec<_>>();
        assert!(!own(world.served()).is_empty() && world.outages == 0, "after {effects} effects: {:?}", world.served());
        assert_eq!(hosts(&world), ["beside.localhost", "shop.localhost"], "after {effects} effects");
        bring_out(&mut world, &mut daemon, 3);
        assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{effects}: {:?}", world.last_end());
        let runs = own(world.running());
        assert_eq!((runs.len(), &own(world.served()), world.outages), (1, &runs, 0), "after {effects} effects");
        if !has_died {
            assert!(effects > 20, "a whole change has more than {effects} effects");
            break;
        }
    }
}

/// What it asks for has a host of its own: as it goes, that of before has no certificate for a moment.
#[test]
fn whatever_dies_as_a_release_is_refused_what_cannot_be_read_is_served() {
    let odd =
        "[route.odd]\npath = \"/odd\"\nto = \"web\"\nhosts = [\"other.localhost\"]\ntls = \"local\"\n[environment";
    let file = FILE.replace("[environment", odd).replace("beside.localhost", "other.localhost");
    for effects in 0.. {
        let (mut world, mut daemon) = two();
        world.write("bowline.toml", &file);
        (daemon.effects_left, world.refuses) = (Some(effects), Some("odd"));
        let order = world.order("beside");
        world.ask(&mut daemon, Request::Apply(order, None, Scope::default()));
        let has_died = world.run(&mut daemon) == End::Crashed;
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        assert_eq!(hosts(&world), ["beside.localhost", "shop.localhost"], "after {effects} effects");
        assert!(world.served().contains(&"beside/shop.web.r1.0.1".to_owned()), "after {effects}: {:?}", world.served());
        if !has_died {
            assert!(effects > 20, "a whole change has more than {effects} effects");
            break;
        }
    }
}
