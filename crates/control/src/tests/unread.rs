//! An app that cannot be read leaves the others as they are, and is left as it is.

use bowline_api::wire::{AppState, ChangeStep};
use bowline_core::instance::InstanceOrder;

use super::*;
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
    let ticket = world.ask(&mut daemon, Request::Stop { key: beside(), shutdown_when_idle: false });
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
