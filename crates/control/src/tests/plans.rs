//! A plan says what an apply does, and an apply that is held to one does that or nothing.

use bowline_api::wire::{ChangeStep, Plan, PlanOutcome};
use bowline_core::app::PathPrefix;
use bowline_core::id::{Digest, EnvironmentId, ReleaseNumber, SecretName};
use bowline_core::route::{Method, Series, SeriesKey};
use bowline_core::secret::Secret;

use super::*;

const BETA: &str = "beta";

fn plan(world: &mut World, daemon: &mut Daemon, env: &str) -> Plan {
    let order = world.order(env);
    let ticket = world.ask(daemon, Request::Plan(order, Scope::default()));
    world.run(daemon);
    let Answer::Plan(plan) = world.answer(ticket) else { panic!("another answer than a plan") };
    *plan
}

/// Held to a plan, or not.
fn apply(world: &mut World, daemon: &mut Daemon, env: &str, plan: Option<&str>) -> Result<(), Fault> {
    let (order, plan) = (world.order(env), plan.map(|hash| hash.parse::<Digest>().unwrap()));
    let ticket = world.ask(daemon, Request::Apply(order, plan, Scope::default()));
    world.run(daemon);
    match world.answers.remove(&ticket) {
        Some(Ok(Answer::Accepted(_))) => Ok(()),
        Some(Err(refusal)) => Err(refusal.fault),
        other => panic!("{other:?}"),
    }
}

fn done(world: &World) -> u32 {
    match world.last_end() {
        Some(ChangeStep::Done { release, .. }) => *release,
        other => panic!("{other:?}"),
    }
}

/// All that is stored of changes and releases.
fn stored(daemon: &Daemon) -> (usize, usize) {
    let key = AppKey { env: EnvName::new(BETA).unwrap(), app: AppName::new("shop").unwrap() };
    let began = |kind: &str| kind == "change.began";
    daemon
        .store
        .read(|view| {
            let events = view.last_events(None, 1_000)?;
            Ok((view.revisions(&key)?.len(), events.iter().filter(|event| began(&event.kind)).count()))
        })
        .unwrap()
}

fn with_file(more: &str) -> World {
    let world = World::new();
    write(&world, more);
    world
}

fn write(world: &World, more: &str) {
    let text = format!("app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n{more}");
    world.write("bowline.toml", &text);
}

#[test]
fn a_plan_does_nothing_and_is_what_the_apply_does() {
    let mut world = with_file("");
    let mut daemon = world.start();
    let first = plan(&mut world, &mut daemon, BETA);
    assert_eq!((first.outcome, first.release, first.stable), (PlanOutcome::Release, 1, None));
    assert_eq!(stored(&daemon), (0, 0), "nothing is stored of a plan");
    assert_eq!(world.running(), Vec::<String>::new());
    apply(&mut world, &mut daemon, BETA, Some(&first.hash)).unwrap();
    assert_eq!(done(&world), 1);

    assert_eq!(plan(&mut world, &mut daemon, BETA).outcome, PlanOutcome::Unchanged);
    write(&world, "[env]\nA = \"1\"\n");
    world.source = 2;
    let second = plan(&mut world, &mut daemon, BETA);
    assert_eq!((second.outcome, second.release, second.stable), (PlanOutcome::Release, 2, Some(1)));
    assert_eq!(second.differences.len(), 1, "{second:?}");
    assert_eq!(second.builds.len(), 1, "{second:?}");
    assert_ne!(second.hash, first.hash);
    assert_eq!(plan(&mut world, &mut daemon, BETA).hash, second.hash, "the same again is the same plan");
    apply(&mut world, &mut daemon, BETA, Some(&second.hash)).unwrap();
    assert_eq!(done(&world), 2);
    let again = plan(&mut world, &mut daemon, BETA);
    apply(&mut world, &mut daemon, BETA, Some(&again.hash)).unwrap();
    assert_eq!((done(&world), stored(&daemon).0), (2, 2), "nothing changes, as it was shown");
}

#[test]
fn an_environment_keeps_its_identity_and_refuses_what_is_meant_for_another() {
    let mut world = with_file("");
    let mut daemon = world.start();
    let refused = |world: &mut World, daemon: &mut Daemon, id: &str, words: &str| {
        write(world, &format!("[environment.beta]\nid = \"{id}\"\n"));
        let refused = apply(world, daemon, BETA, None).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Refused);
        assert!(refused.causes.iter().any(|cause| cause.contains(words)), "{words}: {refused:?}");
    };
    let other = EnvironmentId([7; 16]).to_string();
    refused(&mut world, &mut daemon, &other, "no app has come to beta");
    write(&world, "");
    apply(&mut world, &mut daemon, BETA, None).unwrap();
    let beta = EnvName::new(BETA).unwrap();
    let held = |daemon: &Daemon| daemon.store.read(|view| view.environment(&beta)).unwrap().unwrap();
    let id = held(&daemon);
    assert!(
        world
            .told
            .iter()
            .any(|(_, step)| matches!(step, ChangeStep::Note { text, .. } if text.contains(&id.to_string())))
    );
    refused(&mut world, &mut daemon, &other, &id.to_string());
    drop(daemon);
    let mut daemon = world.start();
    refused(&mut world, &mut daemon, &other, &id.to_string());
    write(&world, &format!("[environment.beta]\nid = \"{id}\"\n"));
    apply(&mut world, &mut daemon, BETA, None).unwrap();
    assert_eq!((done(&world), held(&daemon)), (2, id));
}

/// What was looked at, then `change`, then the apply that is held to it.
fn check_moved(change: impl FnOnce(&mut World, &mut Daemon), words: &str) {
    let mut world = with_file("");
    let mut daemon = world.start();
    apply(&mut world, &mut daemon, BETA, None).unwrap();
    write(&world, "[env]\nA = \"1\"\n[secret.token]\ngenerate = true\n");
    let shown = plan(&mut world, &mut daemon, BETA);
    change(&mut world, &mut daemon);
    let before = stored(&daemon);
    let refused = apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Refused);
    assert!(refused.causes.iter().any(|cause| cause.contains(words)), "{words}: {refused:?}");
    assert!(refused.hint.is_some());
    assert_eq!(stored(&daemon), before, "nothing is stored of what is refused");
}

#[test]
fn whoever_is_refused_an_artifact_is_told_to_look_at_a_plan_of_one() {
    let mut world = with_file("[environment.beta]\nprotected = true\n");
    let mut daemon = world.start();
    let mut hint = |built, plan: Option<Digest>| {
        let order = wire::Apply { built, ..world.order(BETA) };
        let ticket = world.ask(&mut daemon, Request::Apply(order, plan, Scope::default()));
        world.run(&mut daemon);
        world.refusal(ticket).hint.expect("it says what to do")
    };
    for plan in [None, Some(Digest([7; 32]))] {
        assert!(hint(true, plan).contains("bowline plan --env beta --artifact DIR"));
        assert!(!hint(false, plan).contains("--artifact"));
    }
}

#[test]
fn an_apply_is_refused_whose_world_has_moved() {
    check_moved(
        |world, daemon| {
            let file = std::fs::read_to_string(world.folder().join("bowline.toml")).unwrap();
            write(world, "[env]\nB = \"1\"\n");
            apply(world, daemon, BETA, None).unwrap();
            world.write("bowline.toml", &file);
        },
        "release 2 serves now, the plan was made on release 1",
    );
    check_moved(|world, _| world.source = 2, "the folder has changed: web");
    check_moved(|world, _| write(world, "[env]\nA = \"2\"\n"), "env.A is 2 now, in the plan 1");
    check_moved(
        |world, _| (world.source, world.interpreter) = (2, Some("python 3.12".into())),
        "built for python 3.12",
    );
    let key = AppKey { env: EnvName::new(BETA).unwrap(), app: AppName::new("shop").unwrap() };
    let stop = key.clone();
    check_moved(
        move |world, daemon| {
            world.ask(daemon, Request::Stop { key: stop, shutdown_when_idle: false, by_uid: None });
            world.run(daemon);
        },
        "it was stopped since",
    );
    check_moved(
        move |world, daemon| {
            let machine = Machine { memory: Bytes(8 << 30), cores: 4 };
            world.ask(daemon, Request::Scale { key, service: None, replicas: 2, machine, by_uid: None });
            world.run(daemon);
        },
        "said by hand",
    );
}

#[test]
fn another_secret_is_another_plan() {
    let mut world = with_file("[env]\nTOKEN = { secret = \"token\" }\n");
    let mut daemon = world.start();
    let key = AppKey { env: EnvName::new(BETA).unwrap(), app: AppName::new("shop").unwrap() };
    let set = |world: &mut World, daemon: &mut Daemon, value: &str| {
        let (key, name) = (key.clone(), SecretName::new("token").unwrap());
        world.ask(daemon, Request::SetSecret { key, name, value: Secret::new(value), by_uid: None });
        world.run(daemon);
    };
    set(&mut world, &mut daemon, "canary-1");
    let shown = plan(&mut world, &mut daemon, BETA);
    assert_eq!((shown.secrets[0].from, shown.secrets[0].to), (None, Some(1)));
    set(&mut world, &mut daemon, "canary-2");
    let refused = apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap_err();
    assert!(refused.causes[0].contains("secret token is version 2 now, in the plan version 1"), "{refused:?}");
    let said = format!("{refused:?}{}", serde_json::to_string(&plan(&mut world, &mut daemon, BETA)).unwrap());
    assert!(!said.contains("canary"), "{said}");
}

/// Secrets that make themselves, and what is read from files, have no version before: the plan holds all the same.
#[test]
fn what_gets_its_version_on_the_way_is_as_planned() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one").unwrap();
    let more = format!(
        "[env]\nMADE = {{ secret = \"made\" }}\nREAD = {{ secret = \"read\" }}\n[secret.made]\ngenerate = true\n\
         [secret.read]\nsource = \"file:{}\"\n",
        file.path().display()
    );
    let mut world = with_file(&more);
    let mut daemon = world.start();
    let shown = plan(&mut world, &mut daemon, BETA);
    assert!(shown.secrets[0].made && shown.secrets[1].read, "{shown:?}");
    apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap();
    assert_eq!(done(&world), 1);
    assert_eq!(plan(&mut world, &mut daemon, BETA).outcome, PlanOutcome::Unchanged);
    std::fs::write(file.path(), "two").unwrap();
    let shown = plan(&mut world, &mut daemon, BETA);
    assert_eq!((shown.secrets.len(), shown.secrets[0].from, shown.secrets[0].read), (1, Some(1), true), "{shown:?}");
    apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap();
    assert_eq!(done(&world), 2);
}

#[test]
fn a_dotenv_that_is_another_is_called_what_it_is() {
    let mut world = World::new();
    world.write(".env", "A=canary-1\n");
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    world.source = 2;
    let shown = plan(&mut world, &mut daemon, "local");
    assert_eq!(shown.secrets, []);
    world.write(".env", "A=canary-2\n");
    let refused = apply(&mut world, &mut daemon, "local", Some(&shown.hash)).unwrap_err();
    assert_eq!(refused.causes, [".env is the contents of its file now, in the plan version 1"]);
    let shown = plan(&mut world, &mut daemon, "local");
    assert_eq!((shown.secrets[0].name.as_str(), shown.secrets[0].read), (".env", true));
    apply(&mut world, &mut daemon, "local", Some(&shown.hash)).unwrap();
    assert_eq!(done(&world), 2);
}

#[test]
fn a_build_that_gives_something_else_is_no_release() {
    let mut world = with_file("");
    let mut daemon = world.start();
    let shown = plan(&mut world, &mut daemon, BETA);
    let order = world.order(BETA);
    world.ask(&mut daemon, Request::Apply(order, Some(shown.hash.parse().unwrap()), Scope::default()));
    // Read and accepted; when it is built, another interpreter is there.
    while let Some(effect) = daemon.queue.pop_front() {
        if matches!(effect, Effect::Build(..)) {
            (world.source, world.interpreter) = (2, Some("python 3.12".into()));
        }
        world.carry_out(&mut daemon, effect);
    }
    world.run(&mut daemon);
    let Some(ChangeStep::Failed { fault }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert!(fault.caused_by[0].contains("built for python 3.12 now"), "{fault:?}");
    assert_eq!(fault.kind, wire::FaultKind::Refused);
    assert_eq!((stored(&daemon).0, world.running()), (0, Vec::<String>::new()));
}

#[test]
fn a_plan_holds_over_the_life_of_a_daemon_by_its_hash() {
    let mut world = with_file("");
    let mut daemon = world.start();
    let shown = plan(&mut world, &mut daemon, BETA);
    drop(daemon);
    let mut daemon = world.start();
    let wrong = apply(&mut world, &mut daemon, BETA, Some(&"7".repeat(64))).unwrap_err();
    assert!(wrong.causes[0].contains("no such plan"), "{wrong:?}");
    apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap();
    assert_eq!(done(&world), 1);
}

#[test]
fn a_protected_environment_wants_a_plan_until_one_says_otherwise() {
    const PROTECTED: &str = "[environment.beta]\nprotected = true\n";
    let mut world = with_file(PROTECTED);
    let mut daemon = world.start();
    let refused = |world: &mut World, daemon: &mut Daemon| {
        let fault = apply(world, daemon, BETA, None).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Refused);
        assert!(fault.message.contains("beta is protected"), "{fault:?}");
        assert!(fault.hint.is_some_and(|hint| hint.contains("bowline plan --env beta")));
    };
    refused(&mut world, &mut daemon);
    let shown = plan(&mut world, &mut daemon, BETA);
    apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap();
    // Taking it out of the file is a change, too, and is looked at.
    write(&world, "");
    refused(&mut world, &mut daemon);
    let shown = plan(&mut world, &mut daemon, BETA);
    assert!(shown.risks.iter().any(|risk| risk.kind == "unprotects"), "{shown:?}");
    apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap();
    write(&world, "[env]\nA = \"1\"\n");
    apply(&mut world, &mut daemon, BETA, None).unwrap();
    assert_eq!(done(&world), 3);
}

#[test]
fn hosts_that_another_app_holds_are_refused_naming_it() {
    let mut world = with_file("[environment.beta]\nroute.main.hosts = [\"shop.example.com\"]\n");
    let mut daemon = world.start();
    apply(&mut world, &mut daemon, BETA, None).unwrap();
    let other = world.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let text =
        "app = \"other\"\n[service.web]\nrun = \"x\"\n[route.main]\nhosts = [\"shop.example.com\"]\nto = \"web\"\n";
    std::fs::write(other.join("bowline.toml"), text).unwrap();
    let order = wire::Apply { dir: other.display().to_string(), ..world.order(BETA) };
    let ticket = world.ask(&mut daemon, Request::Plan(order, Scope::default()));
    world.run(&mut daemon);
    let fault = world.refusal(ticket);
    assert_eq!(fault.kind, FaultKind::Refused);
    assert!(format!("{fault:?}").contains("beta/shop"), "{fault:?}");
}

#[test]
fn static_files_that_a_build_finds_are_foreseen() {
    let mut world = World::new();
    world.detected = None;
    world.write("bowline.toml", "app = \"shop\"\n[route.main]\nto = \"web\"\n");
    let mut daemon = world.start();
    let shown = plan(&mut world, &mut daemon, BETA);
    assert!(format!("{:?}", shown.differences).contains("static"), "{shown:?}");
    apply(&mut world, &mut daemon, BETA, Some(&shown.hash)).unwrap();
    assert_eq!(done(&world), 1);
    assert_eq!(plan(&mut world, &mut daemon, BETA).outcome, PlanOutcome::Unchanged);
}

#[test]
fn websockets_that_the_edge_has_seen_are_a_risk() {
    let mut world = with_file("");
    let mut daemon = world.start();
    apply(&mut world, &mut daemon, BETA, None).unwrap();
    world.source = 2;
    let kinds = |plan: Plan| plan.risks.into_iter().map(|risk| risk.kind).collect::<Vec<_>>();
    assert_eq!(kinds(plan(&mut world, &mut daemon, BETA)), Vec::<String>::new());
    let tunnel = SeriesKey {
        key: AppKey { env: EnvName::new(BETA).unwrap(), app: AppName::new("shop").unwrap() },
        service: Some(ServiceName::new("web").unwrap()),
        release: Some(ReleaseNumber(1)),
        method: Method::Get,
        route: PathPrefix::root(),
        status: 101,
    };
    world.edge.series.insert(tunnel, Series::default());
    world.run(&mut daemon);
    assert_eq!(kinds(plan(&mut world, &mut daemon, BETA)), ["closes_websockets"]);
}

#[test]
fn nothing_is_planned_while_a_change_is_under_way() {
    let mut world = with_file("");
    world.behaviour = Behaviour::NeverHealthy;
    let mut daemon = world.start();
    let order = world.order(BETA);
    world.ask(&mut daemon, Request::Apply(order.clone(), None, Scope::default()));
    while let Some(effect) = daemon.queue.pop_front() {
        world.carry_out(&mut daemon, effect);
    }
    let ticket = world.ask(&mut daemon, Request::Plan(order, Scope::default()));
    while let Some(effect) = daemon.queue.pop_front() {
        world.carry_out(&mut daemon, effect);
    }
    assert!(world.refusal(ticket).message.contains("is being changed"));
}
