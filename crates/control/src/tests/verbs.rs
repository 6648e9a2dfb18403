//! Each verb of the API, and how it ends.

use bowline_api::wire::{AppState, ChangeStep};
use bowline_core::fault::FaultKind;
use bowline_core::id::SecretName;
use bowline_core::instance::EnvValue;
use bowline_core::route::Action;
use bowline_core::secret::Secret;

use super::*;
use crate::http::answer::Refusal;
use crate::store::UID_BASE;

#[test]
fn an_apply_is_built_ordered_served_and_done() {
    let mut world = World::new();
    let mut daemon = world.start();
    let ticket = world.apply(&mut daemon);
    assert_eq!(world.run(&mut daemon), End::Quiet);
    assert!(matches!(world.answer(ticket), Answer::Accepted(accepted) if accepted.app == "shop"));
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
    assert_eq!(world.served(), ["local/shop.web.r1.0.1"]);
    let urls = vec!["http://shop.localhost:8080/".to_owned(), "https://shop.localhost:8443/".to_owned()];
    assert_eq!(world.last_end(), Some(&ChangeStep::Done { release: 1, cached: false, urls: urls.clone() }));
    let status = world.status(&mut daemon);
    let app = &status.apps[0];
    assert_eq!((app.state, app.release, &app.urls), (AppState::Ready, Some(1), &urls));
    assert_eq!((app.services[0].wanted, app.services[0].ready), (1, 1));
    assert!(world.table.as_ref().unwrap().certificates.keys().any(|host| host.as_str() == "shop.localhost"));
    assert_rising(&world.generations.0);
    assert_rising(&world.generations.1);
}

#[test]
fn an_unchanged_folder_is_no_new_release() {
    let mut world = World::new();
    let mut daemon = world.start();
    for _ in 0..2 {
        world.apply(&mut daemon);
        world.run(&mut daemon);
    }
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })));
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
}

#[test]
fn a_changed_folder_takes_over_without_an_outage() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    world.source = 2;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 2, .. })));
    assert_eq!(world.running(), ["local/shop.web.r2.0.1"]);
    assert_eq!(world.outages, 0);
}

#[test]
fn a_failing_build_changes_nothing() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    world.build = Err(fault("pip said no").detail("the end of its output"));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    match world.last_end() {
        Some(ChangeStep::Failed { fault }) => {
            assert_eq!((fault.error.as_str(), fault.detail.as_deref()), ("pip said no", Some("the end of its output")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.served(), ["local/shop.web.r1.0.1"]);
    let app = world.status(&mut daemon).apps.remove(0);
    assert_eq!((app.state, app.fault.unwrap().error.as_str()), (AppState::Ready, "pip said no"));
}

/// The root of what the edge serves by itself, and what runs.
fn files(world: &World) -> (Vec<PathBuf>, Vec<String>) {
    let table = &world.table.as_ref().unwrap().table;
    let rules = table.sites.values().flat_map(|site| &site.rules);
    let roots = rules.filter_map(|rule| match &rule.action {
        Action::Files(files) => Some(files.root.clone()),
        Action::Forward { .. } | Action::Redirect(_) | Action::Deny => None,
    });
    (roots.collect(), world.running())
}

#[test]
fn a_folder_found_to_be_static_is_served_by_the_edge_and_by_the_daemon_after_it() {
    let mut world = World::new();
    world.detected = None;
    world.write("bowline.toml", "app = \"shop\"\n");
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let served = (vec![world.state().join("artifacts/1")], Vec::new());
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { .. })), "{:?}", world.last_end());
    assert_eq!(files(&world), served);
    drop(daemon);
    world.mode = Mode::Server;
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(files(&world), served);
    world.write("bowline.toml", "app = \"shop\"\n[service.web]\nscale = 2\n");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let Some(ChangeStep::Failed { fault }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert!(fault.caused_by.iter().any(|cause| cause.contains("service.web.scale")), "{fault:?}");
    assert_eq!(files(&world), served);
}

#[test]
fn builds_run_as_the_app() {
    for mode in [Mode::Local, Mode::Server] {
        let mut world = World::new();
        world.mode = mode;
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        let uid = world.specs.values().next().unwrap().uid;
        assert!(uid.is_some(), "instances have a user of their own in every mode");
        assert_eq!(world.built_by, uid, "{mode:?}");
    }
}

fn check_failed_start(behaviour: Behaviour, cause: &str) {
    let mut world = World::new();
    world.behaviour = behaviour;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let Some(ChangeStep::Failed { fault }) = world.last_end().cloned() else { panic!("{:?}", world.last_end()) };
    assert!(fault.caused_by.iter().any(|c| c.contains(cause)), "{fault:?}");
    assert_eq!(world.running(), Vec::<String>::new());
    let app = world.status(&mut daemon).apps.remove(0);
    assert_eq!((app.state, app.release), (AppState::Failed, None));
    // And the daemon after it says the same.
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    let app = world.status(&mut daemon).apps.remove(0);
    assert_eq!((app.state, app.fault), (AppState::Failed, Some(fault)));
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn a_first_start_that_never_gets_healthy_is_stopped_and_says_why() {
    check_failed_start(Behaviour::NeverHealthy, "connection refused");
}

#[test]
fn a_first_start_that_exits_is_stopped_and_says_why() {
    check_failed_start(Behaviour::Exits, "code 3");
}

#[test]
fn the_end_of_the_output_is_part_of_the_fault() {
    let mut world = World::new();
    world.behaviour = Behaviour::Exits;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    match world.last_end() {
        Some(ChangeStep::Failed { fault }) => assert_eq!(fault.detail.as_deref(), Some("no module named flask")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_second_release_is_rolled_back_and_the_first_serves() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    (world.source, world.behaviour) = (2, Behaviour::Exits);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let Some(ChangeStep::Failed { fault }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert!(fault.caused_by.iter().any(|c| c.contains("rolled back")), "{fault:?}");
    assert_eq!(
        (world.running(), world.served(), world.outages),
        (vec!["local/shop.web.r1.0.1".to_owned()], vec!["local/shop.web.r1.0.1".to_owned()], 0,)
    );
}

#[test]
fn stop_takes_everything_away_and_start_brings_the_same_release_back() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let ticket = world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None });
    assert_eq!(world.run(&mut daemon), End::Quiet);
    assert!(matches!(world.answer(ticket), Answer::Stopped(stopped) if !stopped.daemon));
    assert_eq!((world.running(), world.served()), (Vec::new(), Vec::new()));
    assert_eq!(world.status(&mut daemon).apps[0].state, AppState::Stopped);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })));
    assert_eq!(world.running(), ["local/shop.web.r1.0.2"]);
}

#[test]
fn the_last_app_that_stops_ends_a_local_daemon() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let ticket = world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: true, by_uid: None });
    assert_eq!(world.run(&mut daemon), End::Exited(Ended::Stopped));
    assert!(
        matches!(world.answer(ticket), Answer::Stopped(stopped) if stopped.daemon && stopped.apps == ["local/shop"])
    );
    assert_eq!(world.running(), Vec::<String>::new());
}

#[test]
fn a_daemon_hands_over_and_leaves_all_running() {
    for mode in [Mode::Local, Mode::Server] {
        let mut world = World::new();
        world.mode = mode;
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        let binary = Digest([7; 32]);
        let ticket = world.ask(&mut daemon, Request::HandOver(binary));
        // Whoever wants it stopped is to ask the next one; whoever ends it now ends it.
        let late = world.ask(&mut daemon, Request::Shutdown);
        assert_eq!(world.run(&mut daemon), End::Exited(Ended::HandedOver(binary)), "{mode:?}");
        assert!(matches!(world.answer(ticket), Answer::HandedOver));
        assert_eq!(world.refusal(late), Refusal::leaving().fault);
        assert_eq!(world.running().len(), 1, "{mode:?}");
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        world.ask(&mut daemon, Request::HandOver(binary));
        world.input(&mut daemon, Input::Terminate);
        assert_eq!(world.run(&mut daemon), End::Exited(Ended::LeftRunning), "{mode:?}");
    }
}

fn check_end(mode: Mode, shutdown: bool, ended: Ended, running: usize, again: usize) {
    let mut world = World::new();
    world.mode = mode;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    match shutdown {
        true => drop(world.ask(&mut daemon, Request::Shutdown)),
        false => world.input(&mut daemon, Input::Terminate),
    }
    assert_eq!(world.run(&mut daemon), End::Exited(ended), "{mode:?}");
    assert_eq!(world.running().len(), running, "{mode:?}");
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.running().len(), again, "{mode:?}, the next daemon");
}

#[test]
fn a_local_daemon_ends_with_its_apps_and_a_server_without() {
    check_end(Mode::Local, true, Ended::Stopped, 0, 0);
    check_end(Mode::Local, false, Ended::Stopped, 0, 0);
    check_end(Mode::Server, true, Ended::Stopped, 0, 1);
    check_end(Mode::Server, false, Ended::LeftRunning, 1, 1);
}

#[test]
fn the_same_name_from_another_folder_is_refused_naming_the_first() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("bowline.toml"), "app = \"shop\"\n[service.web]\nrun = \"x\"\n").unwrap();
    let apply = wire::Apply { dir: other.display().to_string(), env: "local".into(), plan: None, built: false };
    let ticket = world.ask(&mut daemon, Request::Apply(apply, None, Scope::default()));
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert_eq!(fault.kind, FaultKind::Refused);
    assert!(fault.causes[0].contains(&world.folder().display().to_string()), "{fault:?}");
}

/// The folder that holds the name is gone: it was moved, and its data stay the app's.
#[test]
fn an_app_whose_folder_was_moved_is_applied_from_the_new_one() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let uid = world.specs.values().next().unwrap().uid;
    let moved = std::fs::canonicalize(world.dir.path()).unwrap().join("moved");
    std::fs::rename(world.folder(), &moved).unwrap();
    world.source = 2;
    let apply = wire::Apply { dir: moved.display().to_string(), env: "local".into(), plan: None, built: false };
    let ticket = world.ask(&mut daemon, Request::Apply(apply, None, Scope::default()));
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::Accepted(_)));
    let said =
        world.told.iter().any(|(_, step)| matches!(step, ChangeStep::Note { text, .. } if text.contains("is gone")));
    assert!(said, "{:?}", world.told);
    assert_eq!(world.running(), ["local/shop.web.r2.0.1"]);
    assert!(world.specs.values().all(|spec| spec.uid == uid), "the same user, whose files the data are");
    let events = daemon.store.read(|view| view.events_after(0, 100)).unwrap();
    assert!(events.iter().any(|event| event.kind == "app.moved"), "{events:?}");
    assert_eq!(world.status(&mut daemon).apps[0].folder, moved.display().to_string());
}

/// A state that has claimed a block of its own gives new apps users of it; an app that is known keeps the one it had.
#[test]
fn apps_keep_their_users_when_a_state_claims_a_block() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    drop(daemon);
    let own = Users::block(5).unwrap();
    world.users = own;
    world.source = 2;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("bowline.toml"), "app = \"new\"\n[service.web]\nrun = \"x\"\n").unwrap();
    let apply = wire::Apply { dir: other.display().to_string(), env: "local".into(), plan: None, built: false };
    world.ask(&mut daemon, Request::Apply(apply, None, Scope::default()));
    world.run(&mut daemon);
    let uids = daemon.store.read(|view| view.apps()).unwrap().into_iter().map(|app| (app.key.app.to_string(), app.uid));
    assert_eq!(uids.collect::<Vec<_>>(), [("new".to_owned(), own.first()), ("shop".to_owned(), UID_BASE)]);
}

/// Both are checked before either is known to be on its way.
#[test]
fn two_apps_that_come_at_once_cannot_claim_one_host() {
    for slow_store in [false, true] {
        let mut world = World { slow_store, ..World::new() };
        let mut daemon = world.start();
        let other = world.dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let text = "app = \"thief\"\n[service.web]\nrun = \"x\"\n[route.main]\nto = \"web\"\n\
                    [environment.local]\nroute.main.hosts = [\"shop.localhost\"]\n";
        std::fs::write(other.join("bowline.toml"), text).unwrap();
        world.apply(&mut daemon);
        let apply = wire::Apply { dir: other.display().to_string(), env: "local".into(), plan: None, built: false };
        let ticket = world.ask(&mut daemon, Request::Apply(apply, None, Scope::default()));
        world.run(&mut daemon);
        assert!(world.refusal(ticket).message.contains("local/shop"));
        assert_eq!(world.served(), ["local/shop.web.r1.0.1"], "slow store: {slow_store}");
    }
}

#[test]
fn two_apps_cannot_claim_one_host() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let text = "app = \"thief\"\n[service.web]\nrun = \"x\"\n[route.main]\nto = \"web\"\n\
                [environment.local]\nroute.main.hosts = [\"shop.localhost\"]\n";
    std::fs::write(other.join("bowline.toml"), text).unwrap();
    let apply = wire::Apply { dir: other.display().to_string(), env: "local".into(), plan: None, built: false };
    let ticket = world.ask(&mut daemon, Request::Apply(apply, None, Scope::default()));
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert!(fault.message.contains("local/shop"), "{fault:?}");
    assert_eq!(world.served(), ["local/shop.web.r1.0.1"]);
}

#[test]
fn a_second_apply_is_refused_while_one_runs() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.behaviour = Behaviour::NeverHealthy;
    let first = world.apply(&mut daemon);
    let second = world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.answer(first), Answer::Accepted(_)));
    assert!(world.refusal(second).message.contains("being changed"));
}

#[test]
fn what_this_version_cannot_do_is_refused_at_its_line() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.write("bowline.toml", "app = \"shop\"\n[service.web]\nrun = \"x\"\n\n[slo]\nlatency = \"99% under 300ms\"\n");
    let ticket = world.apply(&mut daemon);
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert!(fault.detail.as_ref().unwrap().contains("bowline.toml:6"), "{fault:?}");
    assert!(world.told.is_empty());
}

#[test]
fn a_refused_write_of_a_phase_is_tried_again() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    while world.told.iter().all(|(_, step)| !matches!(step, ChangeStep::Phase { phase: wire::ChangePhase::Rollout })) {
        let effect = daemon.queue.pop_front().unwrap();
        world.carry_out(&mut daemon, effect);
    }
    world.refuse_writes = 5;
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })), "{:?}", world.told);
    assert_eq!(world.refuse_writes, 0);
}

/// A stop that is not stored is a stop until the next daemon starts, and whoever asked for it is told so.
#[test]
fn an_end_that_could_not_be_stored_is_not_said_to_be_one() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    world.refuse_writes = u32::MAX;
    let ticket = world.ask(&mut daemon, Request::Shutdown);
    assert_eq!(world.run(&mut daemon), End::Exited(Ended::Stopped));
    let fault = world.refusal(ticket);
    assert!(fault.causes.iter().any(|cause| cause.contains("no space is left")), "{fault:?}");
    assert!(fault.hint.unwrap().contains("local/shop"));
    assert_eq!(world.running(), Vec::<String>::new());
    drop(daemon);
    world.refuse_writes = 0;
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.running().len(), 1, "as it was said");
}

/// The value is what the file held at the apply: pinned, a new version only where it has changed.
#[test]
fn a_secret_of_a_file_is_read_at_each_apply_and_pinned() {
    let mut world = World::new();
    let mut daemon = world.start();
    let file = std::fs::canonicalize(world.dir.path()).unwrap().join("value");
    with_secret(&world, &format!("[secret.token]\nsource = \"file:{}\"\n", file.display()));
    let ticket = world.apply(&mut daemon);
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert!(fault.message.contains("secret.token.source"), "{fault:?}");
    let given = |world: &World| {
        let spec = world.specs.values().last().unwrap();
        let EnvValue::Secret(secret) = &spec.env["TOKEN"] else { panic!("not a secret: {:?}", spec.env) };
        String::from_utf8(secret.expose().to_vec()).unwrap()
    };
    for (value, release) in [("one", 1), ("one", 1), ("two", 2)] {
        std::fs::write(&file, format!("{value}\n")).unwrap();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: r, .. }) if *r == release), "{value}");
        assert_eq!(given(&world), value);
    }
    // What runs goes on without the file, for the next daemon, too.
    std::fs::remove_file(&file).unwrap();
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!((world.running().len(), given(&world).as_str()), (1, "two"));
}

const CANARY: &str = "canary-8d1f-never-shown";

fn with_secret(world: &World, extra: &str) {
    let text = format!(
        "app = \"shop\"\n[service.web]\nrun = \"x\"\n[route.main]\nto = \"web\"\n[env]\nTOKEN = {{ secret = \"token\" }}\n{extra}"
    );
    world.write("bowline.toml", &text);
}

fn token() -> SecretName {
    SecretName::new("token").unwrap()
}

fn set(world: &mut World, daemon: &mut Daemon, value: &str) -> Ticket {
    let value = Secret::new(value.as_bytes());
    let ticket = world.ask(daemon, Request::SetSecret { key: shop(), name: token(), value, by_uid: Some(1000) });
    world.run(daemon);
    ticket
}

fn given(world: &World, instance: &str, variable: &str) -> String {
    let spec = &world.specs[&instance.parse::<InstanceId>().unwrap()];
    match &spec.env[variable] {
        EnvValue::Clear(text) => text.clone(),
        EnvValue::Secret(secret) => String::from_utf8(secret.expose().to_vec()).unwrap(),
    }
}

#[test]
fn a_missing_secret_stops_the_apply_and_says_how_to_set_it() {
    let mut world = World::new();
    with_secret(&world, "");
    let mut daemon = world.start();
    let ticket = world.apply(&mut daemon);
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert!(fault.hint.as_ref().unwrap().contains("bowline secret set shop token"), "{fault:?}");
    set(&mut world, &mut daemon, CANARY);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(given(&world, "local/shop.web.r1.0.1", "TOKEN"), CANARY);
}

#[test]
fn a_generated_secret_is_made_once() {
    let mut world = World::new();
    with_secret(&world, "[secret.token]\ngenerate = true\n");
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let first = given(&world, "local/shop.web.r1.0.1", "TOKEN");
    world.source = 2;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(given(&world, "local/shop.web.r2.0.1", "TOKEN"), first);
    assert!(first.len() >= 32, "{first}");
}

#[test]
fn a_new_value_is_a_new_release() {
    let mut world = World::new();
    with_secret(&world, "");
    let mut daemon = world.start();
    set(&mut world, &mut daemon, "one");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    set(&mut world, &mut daemon, "two");
    assert_eq!(given(&world, "local/shop.web.r1.0.1", "TOKEN"), "one");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(given(&world, "local/shop.web.r2.0.1", "TOKEN"), "two");
}

#[test]
fn a_secret_in_use_is_not_removed() {
    let mut world = World::new();
    with_secret(&world, "");
    let mut daemon = world.start();
    set(&mut world, &mut daemon, "one");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let remove = || Request::RemoveSecret { key: shop(), name: token(), by_uid: Some(0) };
    let refused = world.ask(&mut daemon, remove());
    world.run(&mut daemon);
    assert_eq!(world.refusal(refused).kind, FaultKind::Refused);
    world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    let removed = world.ask(&mut daemon, remove());
    world.run(&mut daemon);
    assert_eq!(world.answer(removed), Answer::SecretRemoved);
    drop(daemon);
    let mut daemon = world.start();
    let ticket = world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(world.refusal(ticket).message.contains("token"));
}

#[test]
fn a_dotenv_gives_defaults_and_a_changed_one_is_a_new_release() {
    let mut world = World::new();
    world.write("bowline.toml", "app = \"shop\"\n[service.web]\nrun = \"x\"\n[env]\nLEVEL = \"info\"\n");
    world.write(".env", "LEVEL=debug\nEXTRA='from the file'\nPORT=1\n");
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(given(&world, "local/shop.web.r1.0.1", "LEVEL"), "info");
    assert_eq!(given(&world, "local/shop.web.r1.0.1", "EXTRA"), "from the file");
    let notes = world.status(&mut daemon).apps.remove(0).notes;
    assert!(notes.iter().any(|note| note.contains(".env")), "{notes:?}");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })));
    world.write(".env", "EXTRA=changed\n");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(given(&world, "local/shop.web.r2.0.1", "EXTRA"), "changed");
}

#[test]
fn a_planted_secret_shows_up_nowhere() {
    let mut world = World::new();
    with_secret(&world, "");
    world.write(".env", &format!("DOTENV={CANARY}\n"));
    let mut daemon = world.start();
    set(&mut world, &mut daemon, CANARY);
    world.behaviour = Behaviour::Exits;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    world.behaviour = Behaviour::Good;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(given(&world, "local/shop.web.r2.0.1", "TOKEN"), CANARY);
    assert_eq!(given(&world, "local/shop.web.r2.0.1", "DOTENV"), CANARY);
    let status = serde_json::to_string(&world.status(&mut daemon)).unwrap();
    let debug = format!("{:?} {:?} {:?} {:?}", daemon.machine, world.specs, world.answers, world.told);
    let events = format!("{:?}", daemon.store.read(|view| view.last_events(None, 1000)).unwrap());
    drop(daemon);
    let mut files = Vec::new();
    collect(&world.state(), &mut files);
    assert!(files.len() > 4);
    for (what, bytes) in [("status", status), ("debug", debug), ("events", events)] {
        assert!(!bytes.contains(CANARY), "{what}");
    }
    for (path, bytes) in files {
        assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()), "{path:?}");
    }
}

fn collect(dir: &std::path::Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
}
