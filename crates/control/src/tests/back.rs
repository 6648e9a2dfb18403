//! Going back to a release that has served.

use bowline_api::wire::{AppState, ChangeStep};
use bowline_core::id::{ReleaseNumber, SecretName};
use bowline_core::instance::EnvValue;
use bowline_core::secret::Secret;

use super::*;
use crate::reconcile::back::{BackTo, KeptReleases, target};
use crate::store::RevisionState;

/// What the API does, but that nothing looks at the artifact: there is none.
fn try_back(world: &mut World, daemon: &mut Daemon, release: Option<u32>) -> Result<Ticket, Fault> {
    let ticket = world.ask(daemon, Request::KeptReleases { key: shop(), for_change: true });
    world.run(daemon);
    let kept = match world.answers.remove(&ticket) {
        Some(Ok(Answer::KeptReleases(kept))) => kept,
        Some(Err(refusal)) => return Err(refusal.fault),
        other => panic!("{other:?}"),
    };
    let rows = daemon.store.read(|view| view.revisions(&shop())).unwrap();
    let row = target(&shop(), rows, &kept, release.map(ReleaseNumber))?;
    let app = bowline_spec::canonical::from_json(&row.app).unwrap();
    let to = BackTo { number: row.number, app: Arc::new(app), snapshots: vec![ReleaseNumber(row.number.0 + 1)] };
    Ok(world.ask(daemon, Request::RollBack { key: shop(), to, scope: Scope::default(), by_uid: Some(1000) }))
}

fn back(world: &mut World, daemon: &mut Daemon, release: Option<u32>) {
    // Whatever is built from here on fails: nothing is.
    world.build = Err(fault("there is no network"));
    let ticket = try_back(world, daemon, release).unwrap();
    world.run(daemon);
    assert!(matches!(world.answer(ticket), Answer::Accepted(_)), "{:?}", world.answers[&ticket]);
    world.build = Ok(());
}

/// Applied so often, each time another build.
fn with_releases(count: u8) -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    (1..=count).for_each(|source| apply_source(&mut world, &mut daemon, source));
    (world, daemon)
}

fn apply_source(world: &mut World, daemon: &mut Daemon, source: u8) {
    world.source = source;
    world.apply(daemon);
    world.run(daemon);
}

fn states(daemon: &Daemon) -> Vec<&'static str> {
    let name = |state| match state {
        RevisionState::Pending => "pending",
        RevisionState::Active => "active",
        RevisionState::Retired => "retired",
        RevisionState::Failed { .. } => "failed",
    };
    daemon.store.read(|view| view.revisions(&shop())).unwrap().into_iter().map(|row| name(row.state)).collect()
}

fn done(world: &World) -> u32 {
    match world.last_end() {
        Some(ChangeStep::Done { release, .. }) => *release,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_release_before_takes_over_under_its_own_number() {
    let (mut world, mut daemon) = with_releases(3);
    back(&mut world, &mut daemon, None);
    assert_eq!((done(&world), world.running()), (2, vec!["local/shop.web.r2.0.2".to_owned()]));
    assert_eq!(states(&daemon), ["retired", "active", "retired"]);
    back(&mut world, &mut daemon, None);
    assert_eq!((done(&world), world.outages), (1, 0));
    let none = try_back(&mut world, &mut daemon, None).unwrap_err();
    assert!(none.causes[0].contains("older than release 1"), "{none:?}");
    // And forward again; the next daemon has the same.
    back(&mut world, &mut daemon, Some(3));
    drop(daemon);
    let mut daemon = world.start();
    world.run(&mut daemon);
    assert_eq!(world.served(), ["local/shop.web.r3.0.2"]);
    apply_source(&mut world, &mut daemon, 4);
    assert_eq!(done(&world), 4, "numbers are never used again");
}

#[test]
fn what_cannot_be_gone_back_to_is_refused_and_says_why() {
    let (mut world, mut daemon) = with_releases(1);
    world.behaviour = Behaviour::Exits;
    apply_source(&mut world, &mut daemon, 2);
    world.behaviour = Behaviour::Good;
    let mut check = |release, kind, words: &str| {
        let fault = try_back(&mut world, &mut daemon, release).unwrap_err();
        let said = format!("{fault}: {:?}", fault.causes);
        assert!(fault.kind == kind && said.contains(words) && fault.hint.is_some(), "{fault:?}");
    };
    check(Some(2), FaultKind::Refused, "it exited with code 3");
    check(Some(1), FaultKind::Refused, "stable one already");
    check(Some(9), FaultKind::Invalid, "no release 9");
    check(None, FaultKind::Refused, "no release to go back to");
    for source in 3..=9 {
        apply_source(&mut world, &mut daemon, source);
    }
    let gone = try_back(&mut world, &mut daemon, Some(1)).unwrap_err();
    assert!(gone.causes[0].contains("not kept any more"), "{gone:?}");
}

#[test]
fn while_another_change_is_under_way_it_is_refused() {
    let (mut world, mut daemon) = with_releases(2);
    world.behaviour = Behaviour::NeverHealthy;
    world.source = 3;
    world.apply(&mut daemon);
    while let Some(effect) = daemon.queue.pop_front() {
        world.carry_out(&mut daemon, effect);
    }
    let busy = try_back(&mut world, &mut daemon, None).unwrap_err();
    assert!(busy.message.contains("is being changed"), "{busy:?}");
}

#[test]
fn a_rollback_that_comes_to_nothing_is_undone_and_may_be_tried_again() {
    let (mut world, mut daemon) = with_releases(2);
    world.behaviour = Behaviour::NeverHealthy;
    back(&mut world, &mut daemon, None);
    let Some(ChangeStep::Failed { fault }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert!(fault.caused_by.iter().any(|c| c.contains("the rollback to release 1 was undone")), "{fault:?}");
    assert_eq!((world.served(), world.outages), (vec!["local/shop.web.r2.0.1".to_owned()], 0));
    assert_eq!(states(&daemon), ["retired", "active"]);
    world.behaviour = Behaviour::Good;
    back(&mut world, &mut daemon, None);
    assert_eq!(done(&world), 1);
}

const WITH_TOKEN: &str = "app = \"shop\"\n[service.web]\nrun = \"serve\"\nenv = { TOKEN = { secret = \"token\" } }\n\
                          [route.main]\nto = \"web\"\n";
const WITHOUT: &str = "app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n";

fn token() -> SecretName {
    SecretName::new("token").unwrap()
}

fn set(world: &mut World, daemon: &mut Daemon, value: &str) {
    let value = Secret::new(value.as_bytes());
    world.ask(daemon, Request::SetSecret { key: shop(), name: token(), value, by_uid: None });
    world.run(daemon);
}

fn given(world: &World, instance: &str) -> Vec<u8> {
    match &world.specs[&instance.parse::<InstanceId>().unwrap()].env["TOKEN"] {
        EnvValue::Secret(secret) => secret.expose().to_vec(),
        EnvValue::Clear(text) => panic!("{text}"),
    }
}

#[test]
fn secrets_are_those_that_it_was_made_with() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.write("bowline.toml", WITH_TOKEN);
    for value in ["one", "two"] {
        set(&mut world, &mut daemon, value);
        world.apply(&mut daemon);
        world.run(&mut daemon);
    }
    back(&mut world, &mut daemon, None);
    assert_eq!((done(&world), given(&world, "local/shop.web.r1.0.2")), (1, b"one".to_vec()));
}

/// Release 1 has a token, release 2, which serves, has none.
fn after_a_token() -> (World, Daemon) {
    let mut world = World::new();
    let mut daemon = world.start();
    world.write("bowline.toml", WITH_TOKEN);
    set(&mut world, &mut daemon, "one");
    world.apply(&mut daemon);
    world.run(&mut daemon);
    world.write("bowline.toml", WITHOUT);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    (world, daemon)
}

#[test]
fn a_removed_version_never_returns() {
    let (mut world, mut daemon) = after_a_token();
    let removed = world.ask(&mut daemon, Request::RemoveSecret { key: shop(), name: token(), by_uid: None });
    world.run(&mut daemon);
    assert!(matches!(world.answer(removed), Answer::SecretRemoved));

    let ticket = try_back(&mut world, &mut daemon, None).unwrap();
    world.run(&mut daemon);
    let none = world.refusal(ticket);
    assert!(none.causes[0].contains("secret token was removed"), "{none:?}");
    assert!(none.hint.unwrap().contains("bowline secret set shop token"));
    assert_eq!(world.served(), ["local/shop.web.r2.0.1"]);

    set(&mut world, &mut daemon, "two");
    back(&mut world, &mut daemon, None);
    // Another secret is another release; what it is like stays as it was.
    assert_eq!((done(&world), given(&world, "local/shop.web.r3.0.1")), (3, b"two".to_vec()));
    assert_eq!(states(&daemon), ["retired", "retired", "active"]);
    let said =
        |step: &ChangeStep| matches!(step, ChangeStep::Note { text, .. } if text.contains("version 1 was removed"));
    assert!(world.told.iter().any(|(_, step)| said(step)), "{:?}", world.told);
}

/// What it became is found again, not made again.
#[test]
fn a_release_with_another_secret_is_made_once() {
    let (mut world, mut daemon) = after_a_token();
    world.ask(&mut daemon, Request::RemoveSecret { key: shop(), name: token(), by_uid: None });
    world.run(&mut daemon);
    set(&mut world, &mut daemon, "two");
    for expected in [3, 2, 3, 2, 3] {
        back(&mut world, &mut daemon, Some(if expected == 3 { 1 } else { 2 }));
        assert_eq!(done(&world), expected);
    }
    assert_eq!(states(&daemon).len(), 3);
    let ticket = try_back(&mut world, &mut daemon, Some(1)).unwrap();
    world.run(&mut daemon);
    let there = world.refusal(ticket);
    assert!(there.causes[0].contains("stable one already"), "{there:?}");
}

#[test]
fn what_runs_before_a_release_does_not_run_for_a_rollback() {
    let mut world = World::new();
    let mut daemon = world.start();
    world.write("bowline.toml", &format!("{WITHOUT}[release]\nbefore = \"migrate\"\n"));
    (1..=2).for_each(|source| apply_source(&mut world, &mut daemon, source));
    assert_eq!(world.runs().len(), 2);
    back(&mut world, &mut daemon, None);
    assert_eq!((done(&world), world.runs().len()), (1, 2));
}

#[test]
fn a_stopped_app_starts_with_the_release_that_is_named() {
    let (mut world, mut daemon) = with_releases(2);
    world.stop(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.running(), Vec::<String>::new());
    back(&mut world, &mut daemon, Some(1));
    assert_eq!((done(&world), world.served()), (1, vec!["local/shop.web.r1.0.2".to_owned()]));
    assert_eq!(states(&daemon), ["active", "retired"]);
}

#[test]
fn what_is_gone_back_to_is_not_collected_meanwhile() {
    let (mut world, mut daemon) = with_releases(5);
    back(&mut world, &mut daemon, Some(1));
    apply_source(&mut world, &mut daemon, 6);
    let kept: KeptReleases = {
        let ticket = world.ask(&mut daemon, Request::KeptReleases { key: shop(), for_change: false });
        world.run(&mut daemon);
        let Answer::KeptReleases(kept) = world.answer(ticket) else { panic!("another answer") };
        kept
    };
    // What it has just taken the place of was still ending.
    assert_eq!(kept.numbers, (1..=6).map(ReleaseNumber).collect());
    assert_eq!(kept.live, Some(ReleaseNumber(6)));
}

/// Crashed after any effect: one of the two serves, whole, and there is no outage.
#[test]
fn a_rollback_that_is_asked_for_survives_a_crash_after_every_effect() {
    for slow_store in [false, true] {
        let mut ends = [0, 0];
        for effects in 0.. {
            let (mut world, mut daemon) = with_releases(2);
            world.slow_store = slow_store;
            let ticket = try_back(&mut world, &mut daemon, None).unwrap();
            daemon.effects_left = Some(effects);
            let crashed = world.run(&mut daemon) == End::Crashed;
            let accepted = world.answers.contains_key(&ticket);
            drop(daemon);
            let mut daemon = world.start();
            assert_eq!(world.run(&mut daemon), End::Quiet, "after {effects} effects");
            let app = world.status(&mut daemon).apps.remove(0);
            assert_eq!((app.state, app.change), (AppState::Ready, None), "after {effects} effects");
            let release = app.release.unwrap();
            assert!(!accepted || release == 1, "accepted is durable: after {effects} effects");
            ends[usize::try_from(release - 1).unwrap()] += 1;
            assert_eq!(world.running().len(), 1, "after {effects} effects: {:?}", world.running());
            assert_eq!((world.served(), world.outages), (world.running(), 0), "after {effects} effects");
            assert_rising(&world.generations.0);
            if !crashed {
                assert!(ends[0] > 5 && ends[1] > 0, "{ends:?}");
                break;
            }
        }
    }
}
