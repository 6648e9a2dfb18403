//! What is shown of a canary, while it moves and when it is over.

use bowline_api::wire::{AppStatus, ChangeStep, InstanceRole, RolloutOutcome, RolloutStage};
use bowline_core::id::EnvName;

use super::*;
use crate::reconcile::back::BackTo;

const STEPS: &str = r#"["20% for 20s", "50% for 20s"]"#;

fn production() -> AppKey {
    AppKey { env: EnvName::new("production").unwrap(), ..shop() }
}

/// Brings out another release of two instances, and goes on until nothing moves by itself.
fn deploy(world: &mut World, daemon: &mut Daemon, variable: u8) {
    let rollout = format!("[rollout]\nstrategy = \"canary\"\nsteps = {STEPS}\nabort = [\"error_rate > 1%\"]\n");
    let app = "app = \"shop\"\n[service.web]\nrun = \"serve\"\nscale = 2\n[route.main]\nto = \"web\"\n";
    let hosts = "[environment.production]\nroute.main.hosts = [\"shop.example.com\"]\n";
    world.write("bowline.toml", &format!("{app}{rollout}[env]\nN = \"{variable}\"\n{hosts}"));
    let order = world.order("production");
    world.ask(daemon, Request::Apply(order, None, Scope::default()));
    world.run(daemon);
}

fn promote(world: &mut World, daemon: &mut Daemon) {
    let ticket = world.ask(daemon, Request::Promote { key: production(), by_uid: Some(0) });
    world.run(daemon);
    assert!(matches!(world.answer(ticket), Answer::Accepted(_)));
}

fn app(world: &mut World, daemon: &mut Daemon) -> AppStatus {
    world.status(daemon).apps.remove(0)
}

fn serving() -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    deploy(&mut world, &mut daemon, 1);
    assert_eq!(app(&mut world, &mut daemon).rolled, None, "the first release has taken the place of none");
    (world, daemon)
}

#[test]
fn the_picture_stays_until_another_change_begins() {
    let (mut world, mut daemon) = serving();
    deploy(&mut world, &mut daemon, 2);
    assert_eq!(app(&mut world, &mut daemon).rolled, None, "it is under way");
    promote(&mut world, &mut daemon);
    let shown = app(&mut world, &mut daemon);
    let rolled = shown.rolled.expect("it is over");
    assert_eq!((rolled.outcome, rolled.now.stage), (Some(RolloutOutcome::TookOver), RolloutStage::Ended));
    assert_eq!((rolled.now.candidate, rolled.now.weight, shown.change), (2, 100, None));
    assert!(rolled.now.since >= rolled.weights.last().unwrap().at, "{rolled:?}");

    deploy(&mut world, &mut daemon, 3);
    assert_eq!(app(&mut world, &mut daemon).rolled, None);
    world.ask(&mut daemon, Request::Abort { key: production(), by_uid: Some(0) });
    world.run(&mut daemon);
    let shown = app(&mut world, &mut daemon);
    let rolled = shown.rolled.expect("it is over");
    assert_eq!((rolled.outcome, rolled.now.weight), (Some(RolloutOutcome::TakenBack), 0));
    assert_eq!(rolled.steps.iter().map(|step| step.began.is_some()).collect::<Vec<_>>(), [true, false]);

    world.ask(&mut daemon, Request::Stop { key: production(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    assert_eq!(app(&mut world, &mut daemon).rolled, None, "it is stopped");
}

#[test]
fn as_many_are_ready_as_are_wanted_while_the_baseline_carries_all_that_is_left() {
    let (mut world, mut daemon) = serving();
    let counted = |world: &mut World, daemon: &mut Daemon| {
        let shown = app(world, daemon);
        let web = &shown.services[0];
        (web.instances.len(), web.wanted, web.ready)
    };
    assert_eq!(counted(&mut world, &mut daemon), (2, 2, 2));
    deploy(&mut world, &mut daemon, 2);
    assert_eq!(counted(&mut world, &mut daemon), (4, 4, 4));
    let web = app(&mut world, &mut daemon).services.remove(0);
    let roles: Vec<_> = web.instances.iter().map(|one| (one.release, one.role)).collect();
    let (baseline, canary) = (Some(InstanceRole::Baseline), Some(InstanceRole::Candidate));
    assert_eq!(roles, [(1, None), (1, None), (1, baseline), (2, canary)]);
    promote_a_step(&mut world, &mut daemon);
    assert_eq!(counted(&mut world, &mut daemon), (4, 2, 2), "two of the stable release carry nothing");
}

/// The first step is passed over by a file whose second is the only one.
fn promote_a_step(world: &mut World, daemon: &mut Daemon) {
    world.ask(daemon, Request::Abort { key: production(), by_uid: Some(0) });
    world.run(daemon);
    let toml = std::fs::read_to_string(world.folder().join("bowline.toml")).unwrap();
    world.write("bowline.toml", &toml.replace(STEPS, r#"["50% for 20s"]"#));
    let order = world.order("production");
    world.ask(daemon, Request::Apply(order, None, Scope::default()));
    world.run(daemon);
}

#[test]
fn an_instance_of_a_canary_that_answers_nobody_is_named() {
    let (mut world, mut daemon) = serving();
    deploy(&mut world, &mut daemon, 2);
    let dark = world.instances.keys().find(|id| id.slot.release == ReleaseNumber(2)).unwrap().clone();
    let waits = |world: &mut World, daemon: &mut Daemon| {
        world.run(daemon);
        app(world, daemon).change.unwrap().waits_on.remove(0).on
    };
    let held = "instance 1 of the canary has answered nobody for";
    world.edge.streaks = [(dark.clone(), 7)].into();
    let said = waits(&mut world, &mut daemon);
    assert!(said.starts_with(held) && said.ends_with("its last 7 requests failed; holding"), "{said}");
    // An edge of before tells only whom it leaves out.
    world.edge.streaks.clear();
    world.edge.left_out = [dark].into();
    let said = waits(&mut world, &mut daemon);
    assert!(said.starts_with(held) && said.ends_with("its last 5 requests failed; holding"), "{said}");
    world.edge.left_out.clear();
    assert!(waits(&mut world, &mut daemon).starts_with("no requests of the canary yet"));
}

/// Without a request, and without anybody who looks; also where a daemon dies on the way.
#[test]
fn a_rollback_rolls_whatever_its_release_came_out_by() {
    let (mut world, mut daemon) = serving();
    deploy(&mut world, &mut daemon, 2);
    promote(&mut world, &mut daemon);
    let row = daemon.store.read(|view| view.revisions(&production())).unwrap().remove(0);
    let app = bowline_spec::canonical::from_json(&row.app).unwrap();
    let to = BackTo { number: row.number, app: Arc::new(app), snapshots: Vec::new() };
    world.ask(&mut daemon, Request::RollBack { key: production(), to, scope: Scope::default(), by_uid: None });
    let rolls = |daemon: &Daemon| {
        let rolling = daemon.machine.apps[&production()].rolling()?;
        Some(rolling.machine.plan().shared.is_empty())
    };
    while rolls(&daemon).is_none() {
        let effect = daemon.queue.pop_front().expect("it is stored");
        world.carry_out(&mut daemon, effect);
    }
    assert_eq!(rolls(&daemon), Some(true));
    drop(daemon);
    let mut daemon = world.start();
    assert_eq!(rolls(&daemon), Some(true));
    let began = world.now.mono;
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })), "{:?}", world.last_end());
    assert!(world.now.mono.since(began) < Duration::from_secs(60) && world.outages == 0);
}

/// For days, if need be: nothing that is written meanwhile tells the next daemon anything.
#[test]
fn what_waits_for_somebody_writes_nothing() {
    let (mut world, mut daemon) = serving();
    deploy(&mut world, &mut daemon, 2);
    let mut written = |seconds: u32| {
        let mut written = 0;
        for _ in 0..seconds {
            world.wait_until(&mut daemon, world.now.mono + Duration::from_secs(1));
            while let Some(effect) = daemon.queue.pop_front() {
                written += u32::from(matches!(effect, Effect::Store(..)));
                world.carry_out(&mut daemon, effect);
            }
        }
        written
    };
    written(20 + 300);
    assert_eq!(written(600), 0);
    assert!(daemon.machine.apps[&production()].rolling().is_some());
}

#[test]
fn events_say_it_in_the_steps_of_the_file_and_hints_name_the_environment() {
    let (mut world, mut daemon) = serving();
    deploy(&mut world, &mut daemon, 2);
    world.ask(&mut daemon, Request::Abort { key: production(), by_uid: Some(0) });
    world.run(&mut daemon);
    let all = daemon.store.read(|view| view.events_after(0, 10_000)).unwrap();
    let told = all.into_iter().filter(|event| event.kind.starts_with("rollout.")).map(|event| event.message);
    let told: Vec<String> = told.filter(|message| message.starts_with("release 2")).collect();
    let why = "the change of production/shop was aborted: somebody asked for it";
    assert_eq!(
        told,
        [
            "release 2: step 1 of 2, instances for 20% start".to_owned(),
            "release 2: step 1 of 2, it carries 20%, and is judged".to_owned(),
            format!("release 2 is taken back: {why}"),
            "release 2 is taken back: what served before is made whole".to_owned(),
            "release 2 is taken back: it drains".to_owned(),
            format!("release 2 was rolled back: {why}"),
        ]
    );
    let hint = app(&mut world, &mut daemon).fault.expect("it failed").hint;
    let expected = "`bowline events shop --env production` says who; `bowline deploy --env production` begins anew";
    assert_eq!(hint.as_deref(), Some(expected));
}
