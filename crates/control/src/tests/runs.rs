//! Jobs, and what runs before a release: recorded first, at most once, whatever is killed.

use bowline_api::wire::{AppState, ChangePhase, ChangeStep};
use bowline_core::id::{JobName, RunNumber};
use bowline_core::instance::EnvValue;
use bowline_core::job::{RunId, TaskKey};

use super::*;

const FILE: &str = "app = \"shop\"\n[service.web]\nrun = \"serve\"\nlimits = { memory = \"64MiB\" }\n\
                    [route.main]\nto = \"web\"\n[env]\nA = \"app\"\nB = \"app\"\n";

const JOBS: &str = "[job.cleanup]\nrun = \"clean\"\nschedule = \"0 3 * * *\"\ntimeout = \"5m\"\n\
                    [job.cleanup.env]\nB = \"job\"\n[job.report]\nrun = \"report\"\n";

/// A world whose app has jobs.
fn with_jobs() -> (World, Daemon) {
    let mut world = World::new();
    world.write("bowline.toml", &format!("{FILE}{JOBS}"));
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.status(&mut daemon).apps[0].state, AppState::Ready);
    (world, daemon)
}

fn run_job(world: &mut World, daemon: &mut Daemon, job: &str) -> Ticket {
    let ticket = world.ask(daemon, Request::RunJob { key: shop(), job: job.into(), by_uid: Some(1_000) });
    world.run(daemon);
    ticket
}

fn job(world: &mut World, daemon: &mut Daemon, name: &str) -> wire::JobStatus {
    let app = world.status(daemon).apps.remove(0);
    app.jobs.into_iter().find(|job| job.name == name).expect("the job is shown")
}

/// Time passes until the machine of jobs has something to do, at most this long.
fn pass(world: &mut World, daemon: &mut Daemon, time: Duration) {
    let end = world.now.mono + time;
    while let Some(at) = daemon.machine.jobs.next_deadline().filter(|at| *at <= end) {
        world.wait_until(daemon, at);
        world.run(daemon);
    }
    world.wait_until(daemon, end);
    world.run(daemon);
}

fn kinds(daemon: &Daemon) -> Vec<String> {
    let events = daemon.store.read(|view| view.last_events(Some(&shop()), 1_000)).unwrap();
    events.into_iter().map(|event| event.kind).filter(|kind| kind.starts_with("run.")).collect()
}

#[test]
fn a_job_runs_on_demand_in_the_cage_of_its_service() {
    let (mut world, mut daemon) = with_jobs();
    world.jobs = JobBehaviour::Stay;
    let ticket = run_job(&mut world, &mut daemon, "cleanup");
    let Answer::RunStarted(run) = world.answer(ticket) else { panic!("{:?}", world.answers[&ticket]) };
    assert_eq!(
        (run.number, run.task.as_str(), run.trigger.as_str(), run.by_uid),
        (1, "job.cleanup", "hand", Some(1_000))
    );
    assert_eq!(world.runs(), ["local/shop.job_cleanup.r1.0.1"]);
    let (id, web) = ("local/shop.job_cleanup.r1.0.1".parse().unwrap(), "local/shop.web.r1.0.1".parse().unwrap());
    let (spec, web) = (&world.specs[&id], &world.specs[&web]);
    assert_eq!((spec.uid, spec.limits, &spec.root), (web.uid, web.limits, &web.root));
    let value = |name: &str| match &spec.env[name] {
        EnvValue::Clear(text) => text.as_str(),
        EnvValue::Secret(_) => "secret",
    };
    assert_eq!(["A", "B", "PATH", "BOWLINE_JOB"].map(value), ["app", "job", "/venv/bin", "job.cleanup"]);
    let under_way = job(&mut world, &mut daemon, "cleanup").run.unwrap();
    assert_eq!((under_way.state.as_str(), under_way.began), ("running", Some(world.now.wall.0)));

    let again = run_job(&mut world, &mut daemon, "cleanup");
    let fault = world.refusal(again);
    assert_eq!(fault.kind, FaultKind::Refused);
    assert!(fault.causes[0].contains("run 1 of release 1, started by hand"), "{fault:?}");

    let wait =
        world.ask(&mut daemon, Request::FollowRun { run: RunId { app: shop(), number: RunNumber(1) }, wait: true });
    world.run(&mut daemon);
    assert!(!world.answers.contains_key(&wait), "answered when it is over");
    world.finish_run(3);
    world.run(&mut daemon);
    assert!(matches!(world.answer(wait), Answer::RunOver(_)));
    let last = job(&mut world, &mut daemon, "cleanup").last.unwrap();
    assert_eq!((last.state.as_str(), last.exit_code), ("failed", Some(3)));
    assert_eq!(last.fault.unwrap().detail.as_deref(), Some("migrating"));
    assert_eq!(kinds(&daemon), ["run.recorded", "run.began", "run.ended"]);
    assert!(world.instances.keys().all(|id| id.slot.service.as_str() == "web"), "the node cleans up");
    let service = &world.status(&mut daemon).apps[0].services;
    assert_eq!(service.len(), 1, "a run is no service");
}

#[test]
fn what_is_no_job_is_refused_with_what_to_say() {
    let (mut world, mut daemon) = with_jobs();
    let refused = |world: &mut World, daemon: &mut Daemon, job: &str| {
        let ticket = run_job(world, daemon, job);
        world.refusal(ticket)
    };
    let fault = refused(&mut world, &mut daemon, "claenup");
    assert_eq!(fault.hint.as_deref(), Some("did you mean `cleanup`?"));
    let ticket = world.ask(&mut daemon, Request::StopJob { key: shop(), job: "cleanup".into(), by_uid: None });
    world.run(&mut daemon);
    assert!(world.refusal(ticket).message.contains("no run of job.cleanup"));
    world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    assert!(refused(&mut world, &mut daemon, "cleanup").message.contains("it is stopped"));
    assert_eq!(world.runs(), [""; 0]);
}

#[test]
fn a_schedule_fires_and_says_when_it_fires_next() {
    const HOUR: u64 = 3_600_000;
    let (mut world, mut daemon) = with_jobs();
    let next = job(&mut world, &mut daemon, "cleanup").next.unwrap();
    assert_eq!((next % (24 * HOUR), next > world.now.wall.0), (3 * HOUR, true));
    assert_eq!(job(&mut world, &mut daemon, "report").next, None);
    let left = Timestamp(next - 1).since(world.now.wall);
    pass(&mut world, &mut daemon, left);
    assert_eq!(world.runs(), [""; 0]);
    pass(&mut world, &mut daemon, Duration::from_millis(1));
    assert_eq!(world.runs(), ["local/shop.job_cleanup.r1.0.1"]);
    let status = job(&mut world, &mut daemon, "cleanup");
    let last = status.last.unwrap();
    assert_eq!((last.state.as_str(), last.due, last.trigger.as_str()), ("succeeded", Some(next), "schedule"));
    assert_eq!((status.next, status.last_success), (Some(next + 24 * HOUR), last.ended));
    drop(daemon);
    // Days without a daemon: one run, and not again by the daemon after it.
    world.now.wall = Timestamp(next + 80 * HOUR);
    for _ in 0..2 {
        let mut daemon = world.start();
        world.run(&mut daemon);
        assert_eq!(world.runs(), ["local/shop.job_cleanup.r1.0.1", "local/shop.job_cleanup.r1.0.2"]);
        let last = job(&mut world, &mut daemon, "cleanup").last.unwrap();
        assert_eq!((last.number, last.due), (2, Some(next + 24 * HOUR)));
    }
}

#[test]
fn one_that_takes_too_long_or_is_told_to_is_ended() {
    let (mut world, mut daemon) = with_jobs();
    world.jobs = JobBehaviour::Stay;
    run_job(&mut world, &mut daemon, "cleanup");
    pass(&mut world, &mut daemon, Duration::from_secs(299));
    assert!(job(&mut world, &mut daemon, "cleanup").run.is_some());
    pass(&mut world, &mut daemon, Duration::from_secs(1));
    let last = job(&mut world, &mut daemon, "cleanup").last.unwrap();
    assert_eq!(last.state, "timed_out");
    run_job(&mut world, &mut daemon, "report");
    let ticket = world.ask(&mut daemon, Request::StopJob { key: shop(), job: "report".into(), by_uid: None });
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::RunOver(run) if run.number == RunNumber(2)));
    assert_eq!(job(&mut world, &mut daemon, "report").last.unwrap().state, "stopped");
    assert!(kinds(&daemon).contains(&"run.stopping".to_owned()));
}

#[test]
fn a_daemon_that_is_killed_loses_no_run_and_repeats_none() {
    for slow_store in [false, true] {
        let mut complete = false;
        for effects in 0..40 {
            let (mut world, mut daemon) = with_jobs();
            (world.jobs, world.slow_store) = (JobBehaviour::Exits(7), slow_store);
            daemon.effects_left = Some(effects);
            let ticket = world.ask(&mut daemon, Request::RunJob { key: shop(), job: "report".into(), by_uid: None });
            let crashed = world.run(&mut daemon) == End::Crashed;
            let promised = world.answers.contains_key(&ticket);
            drop(daemon);
            let mut daemon = world.start();
            world.run(&mut daemon);
            let last = job(&mut world, &mut daemon, "report").last;
            let ran = world.runs().len();
            assert!(ran <= 1 && (ran == 1 || !promised), "after {effects} effects: promised, and not run");
            let end = last.map(|last| (last.state, last.exit_code));
            let expected = (ran == 1).then(|| ("failed".to_owned(), Some(7)));
            assert_eq!(end, expected, "after {effects} effects");
            assert_eq!(job(&mut world, &mut daemon, "report").run, None);
            complete |= !crashed;
        }
        assert!(complete, "some run was not killed");
    }
}

#[test]
fn a_run_is_adopted_and_one_that_a_reboot_ended_is_not_repeated() {
    for reboot in [false, true] {
        let (mut world, mut daemon) = with_jobs();
        world.jobs = JobBehaviour::Stay;
        run_job(&mut world, &mut daemon, "report");
        drop(daemon);
        if reboot {
            world.boot = "boot-2".into();
            world.instances.clear();
            world.specs.clear();
        }
        let mut daemon = world.start();
        world.run(&mut daemon);
        if !reboot {
            assert_eq!(job(&mut world, &mut daemon, "report").run.unwrap().state, "running");
            world.finish_run(0);
            world.run(&mut daemon);
        }
        let last = job(&mut world, &mut daemon, "report").last.unwrap();
        assert_eq!(last.state, if reboot { "lost" } else { "succeeded" });
        assert_eq!(world.runs().len(), 1);
    }
}

#[test]
fn stopping_an_app_ends_its_runs_and_a_release_without_the_job_does_not() {
    let (mut world, mut daemon) = with_jobs();
    world.jobs = JobBehaviour::Stay;
    run_job(&mut world, &mut daemon, "report");
    world.write("bowline.toml", FILE);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let app = world.status(&mut daemon).apps.remove(0);
    assert_eq!((app.release, app.jobs.len()), (Some(2), 1), "one that runs is shown");
    assert_eq!(app.jobs[0].run.as_ref().map(|run| run.state.as_str()), Some("running"));
    let ticket = world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::Stopped(_)));
    assert_eq!(world.running(), [""; 0]);
    let key = TaskKey { app: shop(), task: Task::Job(JobName::new("report").unwrap()) };
    assert_eq!(daemon.machine.jobs.last(&key).unwrap().end.outcome.as_str(), "stopped");
}

const BEFORE: &str = "[release]\nbefore = \"migrate\"\n";

fn with_before() -> World {
    let world = World::new();
    world.write("bowline.toml", &format!("{FILE}{BEFORE}"));
    world
}

#[test]
fn what_is_to_run_before_a_release_runs_first_and_once() {
    let mut world = with_before();
    world.jobs = JobBehaviour::Stay;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.running(), ["local/shop.release_before.r1.0.1"], "nothing of the release runs yet");
    let status = world.status(&mut daemon);
    let waits = &status.apps[0].change.as_ref().unwrap().waits_on;
    assert_eq!((waits[0].what.as_str(), waits[0].on.as_str()), ("release 1", "release.before: running"));
    world.finish_run(0);
    world.run(&mut daemon);
    assert!(matches!(world.last_end(), Some(ChangeStep::Done { release: 1, .. })));
    assert_eq!(world.running(), ["local/shop.web.r1.0.1"]);
    // The same release, started again later.
    world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.running(), ["local/shop.web.r1.0.2"]);
    assert_eq!(world.runs(), ["local/shop.release_before.r1.0.1"]);
    world.jobs = JobBehaviour::Exits(0);
    world.source = 2;
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(world.runs(), ["local/shop.release_before.r1.0.1", "local/shop.release_before.r2.0.2"]);
}

#[test]
fn one_that_fails_stops_the_release_and_the_old_one_serves_on() {
    let mut world = with_before();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    (world.source, world.jobs) = (2, JobBehaviour::Exits(1));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let Some(ChangeStep::Failed { fault }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert_eq!(fault.error, "release.before of release 2 of local/shop failed");
    assert_eq!(fault.detail.as_deref(), Some("migrating"));
    assert_eq!(fault.caused_by[0], "it exited with code 1");
    assert_eq!((world.running(), world.outages), (vec!["local/shop.web.r1.0.1".to_owned()], 0));
    assert_eq!(world.status(&mut daemon).apps[0].release, Some(1));
}

#[test]
fn one_before_a_release_is_adopted_and_one_that_a_reboot_ended_fails_the_release() {
    for reboot in [false, true] {
        let mut world = with_before();
        let mut daemon = world.start();
        world.apply(&mut daemon);
        world.run(&mut daemon);
        (world.source, world.jobs) = (2, JobBehaviour::Stay);
        world.apply(&mut daemon);
        world.run(&mut daemon);
        let both = ["local/shop.release_before.r1.0.1", "local/shop.release_before.r2.0.2"];
        assert_eq!(world.runs(), both);
        drop(daemon);
        if reboot {
            world.boot = "boot-2".into();
            world.instances.clear();
            world.specs.clear();
        }
        // What the first daemon makes of it is what the one after it finds.
        for _ in 0..2 {
            let mut daemon = world.start();
            world.run(&mut daemon);
            if !reboot && world.running().contains(&both[1].to_owned()) {
                world.finish_run(0);
                world.run(&mut daemon);
            }
            let before = daemon.machine.jobs.before(&shop(), ReleaseNumber(2)).expect("it is over").end.clone();
            let (outcome, release) = if reboot { ("lost", 1) } else { ("succeeded", 2) };
            assert_eq!(before.outcome.as_str(), outcome);
            let app = world.status(&mut daemon).apps.remove(0);
            assert_eq!((app.state, app.release, app.change), (AppState::Ready, Some(release), None));
            assert_eq!(world.runs(), both, "nothing runs again");
        }
    }
}

const SNAPSHOT: &str = "snapshot = [\"files\"]\n[volume.files]\n";

fn with_snapshot() -> World {
    let world = with_before();
    let file = std::fs::read_to_string(world.folder().join("bowline.toml")).unwrap();
    world.write("bowline.toml", &format!("{file}{SNAPSHOT}"));
    world
}

#[test]
fn data_are_kept_before_it_and_without_that_nothing_begins() {
    let mut world = with_snapshot();
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    assert_eq!((world.snapshots.clone(), world.runs().len()), (vec![ReleaseNumber(1)], 1));
    (world.source, world.snapshot) = (2, Err(fault("the disk is full")));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let Some(ChangeStep::Failed { fault }) = world.last_end() else { panic!("{:?}", world.last_end()) };
    assert!(fault.error.contains("no snapshot of files"), "{fault:?}");
    assert!(fault.caused_by.iter().any(|cause| cause == "the disk is full"), "{fault:?}");
    assert_eq!((world.runs().len(), world.running()), (1, vec!["local/shop.web.r1.0.1".to_owned()]));
}

/// Asked for again by the next daemon, unless what it was for has begun.
#[test]
fn data_are_kept_before_it_whatever_is_killed() {
    for effects in 0..200 {
        let mut world = with_snapshot();
        let mut daemon = world.start();
        world.run(&mut daemon);
        daemon.effects_left = Some(effects);
        world.apply(&mut daemon);
        let crashed = world.run(&mut daemon) == End::Crashed;
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        assert!(world.runs().is_empty() || !world.snapshots.is_empty(), "after {effects} effects");
        if !crashed {
            assert!(effects > 10 && world.runs().len() == 1);
            break;
        }
    }
}

#[test]
fn a_change_that_is_given_up_takes_it_along() {
    let mut world = with_before();
    world.jobs = JobBehaviour::Stay;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let ticket = world.ask(&mut daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None });
    world.run(&mut daemon);
    assert!(matches!(world.answer(ticket), Answer::Stopped(_)));
    assert_eq!(world.running(), [""; 0]);
    let before = daemon.machine.jobs.before(&shop(), ReleaseNumber(1));
    assert_eq!(before.unwrap().end.outcome.as_str(), "stopped");
}

/// The daemon is killed after every effect of an apply; what ends well without, ends well.
#[test]
fn what_runs_before_a_release_runs_once_whatever_is_killed() {
    for (slow_store, effects) in [false, true].into_iter().flat_map(|slow| (0..200).map(move |n| (slow, n))) {
        let mut world = World { slow_store, ..with_before() };
        let mut daemon = world.start();
        world.run(&mut daemon);
        daemon.effects_left = Some(effects);
        world.apply(&mut daemon);
        let crashed = world.run(&mut daemon) == End::Crashed;
        drop(daemon);
        let mut daemon = world.start();
        world.run(&mut daemon);
        let ran = world.runs();
        match world.status(&mut daemon).apps.first().map(|app| app.state) {
            Some(AppState::Ready) => assert_eq!(ran, ["local/shop.release_before.r1.0.1"], "after {effects} effects"),
            None | Some(AppState::Failed) => assert!(ran.is_empty(), "after {effects} effects: {ran:?}"),
            Some(other) => panic!("after {effects} effects: {other:?}"),
        }
        if !crashed {
            assert!(effects > 10);
            break;
        }
    }
}

#[test]
fn what_waits_is_told_while_it_waits() {
    let mut world = with_before();
    world.jobs = JobBehaviour::Stay;
    let mut daemon = world.start();
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let rollout =
        world.told.iter().position(|(_, step)| matches!(step, ChangeStep::Phase { phase: ChangePhase::Rollout }));
    let told = &world.told[rollout.unwrap()..];
    let waits = |step: &ChangeStep| matches!(step, ChangeStep::Waiting { steps, .. } if steps.iter().any(|s| s.on.contains("release.before")));
    assert!(told.iter().any(|(_, step)| waits(step)), "{told:?}");
}
