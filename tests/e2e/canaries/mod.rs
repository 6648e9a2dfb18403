//! Canaries that judge themselves, on the real daemon, under load, with a `kill -9` of the daemon while they are judged and another one
//! while they are undone: each ends as it should, and no request is lost but by the app's own fault.

mod scene;

use bowline_fault_points::Point;
use bowline_tests::{SOON, text, wait};

use scene::{Mood, Scene, own_failures};

/// What a canary goes through that is undone in its first step.
const UNDONE_AT_ONCE: [&str; 6] =
    ["step 0", "step 1", "abort clear 1", "abort restore 1", "abort drain", "rolled back"];

fn canary(steps: &str, abort: &str, watch: &str) -> String {
    format!("strategy = \"canary\"\nsteps = {steps}\nabort = [\"{abort}\"]\nwatch = \"{watch}\"")
}

/// A canary that is taken back in its first step by itself, whoever dies.
fn is_taken_back(name: &'static str, bad: Mood, rule: &str, says: &str) -> u64 {
    let mut scene = Scene::set(name, Mood::default());
    let (load, stable) = (scene.load(scene.url()), scene.pids());
    scene.bowline.arm(Point::AbortStored, 0);
    let following = scene.deploy(bad, &canary("[\"25% for 2s\", \"50% for 2s\"]", rule, "1s"));
    scene.comes_to("step 1");
    scene.kill();
    scene.dies_at(Point::AbortStored);
    let output = scene.told(following);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("release 2 is worse than it may be") && said.contains(says), "{said}");
    scene.settles(1);
    scene.tells(&UNDONE_AT_ONCE);
    assert_eq!(scene.pids(), stable, "what served before has never stopped");
    let own = own_failures(load);
    assert_eq!(own_failures(scene.load(scene.url())), 0, "nothing of it is left");
    own
}

#[test]
fn a_canary_that_fails_one_in_twenty_is_taken_back() {
    let bad = Mood { errors: 5, ..Mood::default() };
    let own = is_taken_back("canaries-errors", bad, "error_rate > 1%", "failed");
    assert!(own > 0, "it has failed some");
}

#[test]
fn a_slow_canary_is_taken_back() {
    let slow = Mood { delay_ms: 300, ..Mood::default() };
    let own = is_taken_back("canaries-slow", slow, "p90 > stable + 100ms", "slower");
    assert_eq!(own, 0, "slow is no failure");
}

#[test]
fn one_that_turns_bad_after_its_promotion_is_taken_back_to_the_warm_release() {
    let mut scene = Scene::set("canaries-leak", Mood::default());
    let (load, stable) = (scene.load(scene.url()), scene.pids());
    scene.bowline.arm(Point::AbortStored, 0);
    let leaking = Mood { good_for: Some(3_000), ..Mood::default() };
    let following = scene.deploy(leaking, &canary("[\"25% for 1s\", \"50% for 1s\"]", "error_rate > 5%", "1h"));
    scene.comes_to("watch");
    scene.kill();
    scene.dies_at(Point::AbortStored);
    let output = scene.told(following);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    scene.settles(1);
    let steps = ["step 0", "step 1", "step 2", "step 3", "step 4", "promote", "watch"];
    let undone = ["abort clear 5", "abort restore 5", "abort drain", "rolled back"];
    scene.tells(&[&steps[..], &undone].concat());
    assert_eq!(scene.pids(), stable, "it was warm all the time");
    assert!(own_failures(load) > 0, "it has failed some");
    assert_eq!(own_failures(scene.load(scene.url())), 0, "nothing of it is left");
}

/// It dies of its memory limit again and again, once it has all requests. Those that it had then and has not answered are asked of the
/// release before, which is warm: GET without a body may be. What would be lost is an answer that had begun, and the app writes
/// each at once.
#[test]
fn one_that_leaks_memory_after_its_promotion_is_taken_back_without_a_lost_request() {
    let mut scene = Scene::set("canaries-memory", Mood::default());
    let (load, stable) = (scene.load(scene.url()), scene.pids());
    scene.bowline.arm(Point::AbortStored, 0);
    let leaking = Mood { leaks_kib: 64, ..Mood::default() };
    let rollout = canary("[\"10% for 1s\"]", "error_rate > 5%", "1h");
    let following = scene.deploy(leaking, &format!("{rollout}\n[service.web.limits]\nmemory = \"96MiB\""));
    scene.comes_to("watch");
    scene.kill();
    scene.dies_at(Point::AbortStored);
    let output = scene.told(following);
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("it hit its memory limit"), "{said}");
    scene.settles(1);
    let undone = ["abort clear 3", "abort restore 3", "abort drain", "rolled back"];
    scene.tells(&[&["step 0", "step 1", "step 2", "promote", "watch"][..], &undone].concat());
    assert_eq!(scene.pids(), stable, "it was warm all the time");
    assert_eq!(own_failures(load), 0);
}

/// Daemon and edge become another binary in the middle of a step, of a watch, and while somebody is to look.
#[test]
fn an_upgrade_leaves_a_rollout_where_it_is() {
    let mut scene = Scene::set("canaries-upgrade", Mood::default());
    let load = scene.load(scene.url());
    let following =
        scene.deploy(Mood::default(), &canary("[\"25% for 25s\", \"50% for 15s\"]", "error_rate > 5%", "25s"));
    scene.comes_to("step 1");
    let table = text(&scene.bowline.run(&["status"]));
    assert!(table.contains("2 canary") && table.contains("1 baseline"), "{table}");
    scene.upgrade(0);
    scene.comes_to("watch");
    scene.upgrade(1);
    let output = scene.told(following);
    assert!(output.status.success(), "{}", text(&output));
    scene.tells(&["step 0", "step 1", "step 2", "step 3", "step 4", "promote", "watch", "done"]);
    scene.settles(2);

    let following = scene.deploy(Mood::default(), "strategy = \"blue-green\"\nwatch = \"0s\"");
    wait("somebody is to look", SOON, || scene.waits().contains("bowline promote").then_some(()));
    scene.upgrade(0);
    assert!(scene.waits().contains("bowline promote"), "{}", scene.waits());
    let promoted = scene.begin("promote").wait_with_output().expect("it was started");
    assert!(promoted.status.success(), "{}", text(&promoted));
    let output = scene.told(following);
    assert!(output.status.success(), "{}", text(&output));
    scene.settles(3);
    assert_eq!(own_failures(load), 0);
}

#[test]
fn without_requests_somebody_decides() {
    let mut scene = Scene::set("canaries-idle", Mood::default());
    let url = scene.neighbour("canaries-neighbour");
    let load = scene.load(&url);
    let rollout = canary("[\"25% for 1s\", \"50% for 1s\"]", "error_rate > 5%", "0s");
    let holds = |scene: &mut Scene| {
        scene.comes_to("step 1");
        for killed in [false, true] {
            if killed {
                scene.kill();
            }
            wait("it is held for want of requests", SOON, || {
                let waits = scene.waits();
                (waits.contains("more requests") && waits.contains("\"on\":\"requests\"")).then_some(())
            });
        }
    };
    let following = scene.deploy(Mood::default(), &rollout);
    holds(&mut scene);
    let promoting = scene.begin("promote");
    for client in [promoting, following] {
        let output = scene.told(client);
        assert!(output.status.success(), "{}", text(&output));
    }
    scene.settles(2);
    scene.tells(&["step 0", "step 1", "step 4", "promote", "watch", "done"]);
    let following = scene.deploy(Mood::default(), &rollout);
    holds(&mut scene);
    scene.bowline.arm(Point::UndoneUnstored, 0);
    let aborting = scene.begin("abort");
    scene.dies_at(Point::UndoneUnstored);
    let output = scene.told(aborting);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(scene.told(following).status.code(), Some(1));
    scene.settles(2);
    scene.tells(&UNDONE_AT_ONCE);
    assert_eq!(own_failures(load), 0, "whoever lives beside it noticed nothing");
}

#[test]
fn a_fix_of_what_is_broken_is_let_through() {
    let mut scene = Scene::set("canaries-fix", Mood { errors: 60, ..Mood::default() });
    let load = scene.load(scene.url());
    let following = scene.deploy(Mood::default(), &canary("[\"20% for 1h\", \"50% for 1h\"]", "error_rate > 5%", "1s"));
    scene.comes_to("step 1");
    scene.kill();
    let output = scene.told(following);
    assert!(output.status.success(), "{}", text(&output));
    scene.settles(2);
    scene.tells(&["step 0", "step 1", "step 4", "promote", "watch", "done"]);
    assert!(own_failures(load) > 0, "the release before has failed some");
    assert_eq!(own_failures(scene.load(scene.url())), 0, "it is fixed");
}

/// One that is aborted at the last phase that it has gone through; `promoted`: somebody has promoted it in its first step.
fn aborted(scene: &mut Scene, rollout: &str, through: &[&str], promoted: bool, point: Point) {
    let stable = scene.pids();
    let following = scene.deploy(Mood::default(), rollout);
    // Whoever promotes follows it, too.
    let promoting = promoted.then(|| {
        scene.comes_to("step 1");
        scene.begin("promote")
    });
    let last = through.last().expect("at least one phase");
    scene.comes_to(last);
    scene.kill();
    scene.bowline.arm(point, 0);
    let mut aborting = scene.begin("abort");
    scene.dies_at(point);
    // Whoever died before it answered has acknowledged nothing; what was acknowledged holds.
    if matches!(point, Point::AbortUnstored | Point::AbortStored) {
        let said = text(&scene.told(aborting));
        assert!(said.matches("error:").count() == 1 && said.contains("hint:"), "{said}");
        aborting = scene.begin("abort");
    }
    let output = scene.told(aborting);
    assert!(output.status.success(), "{}", text(&output));
    for client in [Some(following), promoting].into_iter().flatten() {
        let output = scene.told(client);
        assert!(output.status.code() == Some(1) && text(&output).contains("was aborted"), "{}", text(&output));
    }
    scene.settles(1);
    let at = last.strip_prefix("step ").map_or("7", |number| number);
    let undone = [format!("abort clear {at}"), format!("abort restore {at}")];
    let undone: Vec<&str> = undone.iter().map(String::as_str).chain(["abort drain", "rolled back"]).collect();
    scene.tells(&[through, &undone].concat());
    assert_eq!(scene.pids(), stable, "what served before has never stopped");
}

#[test]
fn one_that_is_aborted_by_hand_leaves_no_trace_at_any_step() {
    let mut scene = Scene::set("canaries-abort", Mood::default());
    let load = scene.load(scene.url());
    let steps = ["step 0", "step 1", "step 2", "step 3", "step 4", "step 5"];
    let plan = |held: usize| {
        let hold = |step: usize| if step == held { "1h" } else { "1s" };
        let steps = format!("[\"20% for {}\", \"40% for {}\", \"60% for {}\"]", hold(0), hold(1), hold(2));
        canary(&steps, "error_rate > 5%", "1h")
    };
    aborted(&mut scene, &plan(0), &steps[..2], false, Point::AbortUnstored);
    aborted(&mut scene, &plan(1), &steps[..4], false, Point::AbortStored);
    aborted(&mut scene, &plan(2), &steps[..6], false, Point::UndoneUnstored);
    let promoted = ["step 0", "step 1", "step 6", "promote", "watch"];
    aborted(&mut scene, &plan(0), &promoted, true, Point::UndoneStored);
    let look = "strategy = \"blue-green\"\nwatch = \"1h\"";
    aborted(&mut scene, look, &steps[..2], false, Point::AbortStored);
    assert_eq!(own_failures(load), 0);
}
