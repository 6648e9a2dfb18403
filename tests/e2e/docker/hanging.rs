//! An engine that hangs: it takes connections, and answers nobody.

use std::process::Stdio;
use std::time::{Duration, Instant};

use bowline_tests::engine::Kind;
use bowline_tests::load::Load;
use bowline_tests::{SOON, text, wait};

use super::Deploys;

/// What is asked of the daemon alone is answered in this, whatever the engine does.
const AT_ONCE: Duration = Duration::from_secs(15);

/// With an engine that hangs, an instance is gone in its grace, what its shim then gives the engine, and a busy machine's time.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn an_engine_that_hangs_holds_up_nobody_but_who_is_to_start() {
    let mut scene = Deploys::set(Kind::Docker, "docker-hangs", 2, "");
    scene.deploy(0);
    let load = Load::start(&scene.url(), "/", &scene.bowline.ca());
    let hangs = scene.engine.hang();
    // What runs goes on, and is told of.
    load.more();
    let began = Instant::now();
    assert_eq!(scene.bowline.status()["apps"][0]["state"], "ready");
    assert!(began.elapsed() < AT_ONCE, "status took {:?}", began.elapsed());
    // Who joins one does not ask the engine.
    let joined = scene.bowline.run(&["exec", &scene.name, "--env", "production", "--", "echo", "inside"]);
    assert_eq!(text(&joined), "inside\n");
    // A release waits for its engine, and says so.
    let mut deploy = scene.command(1);
    let deploying = deploy.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let said = format!("no container engine answers at {}", scene.engine.socket().display());
    let waits = |scene: &Deploys| scene.bowline.status()["apps"][0].to_string().contains(&said).then_some(());
    wait("a release says what it waits on", SOON, || waits(&scene));
    // The next daemon is no worse off.
    scene.bowline.kill_daemon();
    scene.next_daemon();
    wait("the next one says it, too", SOON, || waits(&scene));
    load.more();
    assert_eq!(scene.get(), "hello from 0");
    drop(hangs);
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(scene.get(), "hello from 1");
    let events = text(&scene.bowline.run(&["events", &scene.name, "--env", "production"]));
    let failed = ["could not be started", "did not start", "failed"].iter().any(|said| events.contains(said));
    assert!(!failed, "nothing of it is a failed start: {events}");
    load.stop().expect_no_failure("while the engine hung");
    wait("only what serves is left", SOON * 2, || (scene.engine.all().len() == 2).then_some(()));
    // One that dies meanwhile is there again when its engine is.
    let copies = scene.engine.containers(&scene.name);
    let hangs = scene.engine.hang();
    copies[0].first.kill();
    wait("it is gone", SOON, || (!copies[0].first.runs()).then_some(()));
    wait("the other one answers", SOON, || (scene.get() == "hello from 1").then_some(()));
    drop(hangs);
    wait("another one is there", SOON * 2, || {
        let now = scene.engine.containers(&scene.name);
        (now.len() == 2 && now.iter().all(|one| one.first != copies[0].first)).then_some(())
    });
}

#[test]
fn what_is_stopped_ends_though_its_engine_hangs() {
    let mut scene = Deploys::set(Kind::Docker, "docker-hangs-stop", 1, "");
    scene.deploy(0);
    let copies = scene.engine.containers(&scene.name);
    let hangs = scene.engine.hang();
    // A release that waits for it is aborted at once.
    let deploying = scene.command(1).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let waits = || scene.bowline.status()["apps"][0].to_string().contains("no container engine answers").then_some(());
    wait("a release waits", SOON, waits);
    let began = Instant::now();
    let aborted = scene.bowline.run(&["abort", &scene.name, "--env", "production"]);
    assert!(aborted.status.success() && began.elapsed() < AT_ONCE, "{:?} {}", began.elapsed(), text(&aborted));
    let output = deploying.wait_with_output().expect("it was started");
    assert!(!output.status.success() && scene.get() == "hello from 0", "{}", text(&output));
    let began = Instant::now();
    let down = scene.bowline.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down));
    assert!(began.elapsed() < STOPPED_WITHIN, "it took {:?}", began.elapsed());
    assert!(copies.iter().all(|copy| !copy.first.runs()), "nothing of it runs");
    drop(hangs);
    // What is left of it in the engine, the next daemon removes.
    scene.next_daemon();
    wait("another one is there", SOON * 2, || {
        let now = scene.engine.containers(&scene.name);
        (now.len() == 1 && now != copies && scene.engine.all().len() == 1).then_some(())
    });
}
