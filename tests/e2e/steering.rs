//! Releases are shown, gone back to, restarted, scaled and aborted, and no request is lost by it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text, wait};
use serde_json::Value;

const TWO: &str = "[service.web]\nrun = \"python3 server.py\"\nscale = 2\n\
                   health = { path = \"/health\", interval = \"200ms\" }\n";

/// An app of its own name, with this file, that runs.
fn serving(bowline: &Bowline, name: &str, toml: &str) -> (PathBuf, Up) {
    let folder = bowline.app(name, "plain");
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let up = Up::start(bowline, &folder, SOON);
    (folder, up)
}

fn change_source(folder: &Path, line: &str) {
    let path = folder.join("server.py");
    let source = std::fs::read_to_string(&path).expect("a fixture's file");
    std::fs::write(path, format!("{source}\n# {line}\n")).expect("a test's file");
}

fn release_again(bowline: &Bowline, folder: &Path) {
    let output = bowline.run(&["up", folder.to_str().expect("UTF-8"), "--detach"]);
    assert!(output.status.success(), "{}", text(&output));
}

fn succeeds(bowline: &Bowline, args: &[&str]) -> String {
    let output = bowline.run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

/// Of the only app.
fn app(bowline: &Bowline) -> Value {
    bowline.status()["apps"][0].clone()
}

fn pids(bowline: &Bowline, name: &str) -> Vec<u32> {
    let mut pids: Vec<u32> = bowline.processes_of(name).iter().map(|process| process.pid).collect();
    pids.sort_unstable();
    pids
}

fn releases(bowline: &Bowline, name: &str) -> Vec<(u64, String, bool)> {
    let answer = bowline.json(&["releases", name]);
    let one = |r: &Value| {
        (r["number"].as_u64().expect("a number"), r["state"].as_str().expect("a state").to_owned(), r["serves"] == true)
    };
    answer["releases"].as_array().expect("releases").iter().map(one).collect()
}

#[test]
fn rollbacks_and_restarts_under_load_fail_no_request() {
    let bowline = Bowline::new();
    let (folder, up) = serving(&bowline, "steer-load", TWO);
    let url = up.https();
    let answer = || curl(&bowline.ca(), &url, &[]).text();
    change_source(&folder, "second");
    release_again(&bowline, &folder);
    let load = Load::start(&url, "/", &bowline.ca());
    assert!(answer().contains(".r2."), "{}", answer());
    let said = succeeds(&bowline, &["rollback", "steer-load"]);
    assert!(said.contains("release 1 serves again"), "{said}");
    assert!(answer().contains(".r1."), "{}", answer());
    succeeds(&bowline, &["rollback", "2"]);
    assert!(answer().contains(".r2."), "{}", answer());
    let before = pids(&bowline, "steer-load");
    let said = succeeds(&bowline, &["restart", "steer-load.web"]);
    assert!(said.contains("is restarted"), "{said}");
    load.stop().expect_no_failure("while it was rolled back twice and restarted");
    let after = pids(&bowline, "steer-load");
    assert!(after.len() == 2 && before.iter().all(|pid| !after.contains(pid)), "{before:?}, {after:?}");
    let states = releases(&bowline, "steer-load");
    assert_eq!(states, [(2, "stable".to_owned(), true), (1, "superseded".to_owned(), false)]);
    let table = succeeds(&bowline, &["releases"]);
    assert!(table.contains("serves") && table.contains("superseded"), "{table}");
}

#[test]
fn what_was_built_is_looked_at_before_it_is_gone_back_to() {
    let bowline = Bowline::new();
    let (folder, up) = serving(&bowline, "steer-gone", TWO);
    change_source(&folder, "second");
    release_again(&bowline, &folder);
    let first = bowline.json(&["releases", "steer-gone"])["releases"][1].clone();
    let digest = first["artifacts"]["web"].as_str().expect("a digest").to_owned();
    let artifact = bowline.state().join("artifacts").join(&digest);
    let thawed = Command::new("chmod").args(["-R", "u+w"]).arg(&artifact).status().expect("chmod runs");
    assert!(thawed.success());
    std::fs::remove_file(artifact.join("app/server.py")).expect("a file of the artifact");
    let damaged = bowline.fails(&["rollback", "steer-gone"], 3);
    assert!(damaged.contains("cannot go back to release 1") && damaged.contains("is gone"), "{damaged}");
    std::fs::remove_dir_all(&artifact).expect("the artifact");
    let gone = bowline.fails(&["rollback", "steer-gone", "1"], 3);
    assert!(gone.contains("cannot go back to release 1") && gone.contains("hint:"), "{gone}");
    assert!(curl(&bowline.ca(), &up.https(), &[]).text().contains(".r2."), "nothing is lost");
    assert_eq!((app(&bowline)["state"].clone(), app(&bowline)["change"].clone()), ("ready".into(), Value::Null));
    for (args, code, words) in [
        (["rollback", "steer-gone", "9"].as_slice(), 2, "no release 9"),
        (&["rollback", "steer-gone", "2"], 3, "stable one already"),
        (&["rollback", "nobody"], 2, "no app"),
        (&["releases", "nobody"], 2, "no app"),
    ] {
        let said = bowline.fails(args, code);
        assert!(said.contains(words) && said.contains("hint:"), "{said}");
    }
}

fn in_background(bowline: &Bowline, args: &[&str]) -> Child {
    bowline.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs")
}

/// Takes two seconds to get ready, so that there is a middle.
const SLOW: &str = "[service.web]\nrun = \"sleep 2 && python3 server.py\"\n\
                    health = { path = \"/health\", interval = \"200ms\" }\n";

#[test]
fn a_rollback_goes_on_over_the_death_of_the_daemon() {
    let bowline = Bowline::new();
    let (folder, mut up) = serving(&bowline, "steer-kill", SLOW);
    let url = up.https();
    change_source(&folder, "second");
    release_again(&bowline, &folder);
    up.abandon();
    let load = Load::start(&url, "/", &bowline.ca());
    let mut rollback = in_background(&bowline, &["rollback", "steer-kill"]);
    wait("the first release starts again", SOON, || {
        let starts = |p: &Process| p.environment("BOWLINE_RELEASE").as_deref() == Some("1");
        bowline.processes_of("steer-kill").iter().any(starts).then_some(())
    });
    bowline.kill_daemon();
    rollback.wait().expect("it is this test's child");
    wait("the rollback is done", SOON, || {
        let app = app(&bowline);
        (app["release"] == 1 && app["change"].is_null() && app["state"] == "ready").then_some(())
    });
    wait("one copy is left", SOON, || (bowline.processes_of("steer-kill").len() <= 2).then_some(()));
    assert!(curl(&bowline.ca(), &url, &[]).text().contains(".r1."));
    load.stop().expect_no_failure("while the daemon was killed in the middle of a rollback");
}

#[test]
fn more_and_fewer_instances_outlive_the_daemon() {
    let bowline = Bowline::new();
    let (_folder, up) = serving(&bowline, "steer-scale", TWO);
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let said = succeeds(&bowline, &["scale", "steer-scale.web", "3"]);
    assert!(said.contains("has 3 instances"), "{said}");
    assert_eq!(pids(&bowline, "steer-scale").len(), 3);
    bowline.kill_daemon();
    wait("the next daemon has three", SOON, || {
        let service = app(&bowline)["services"][0].clone();
        (service["wanted"] == 3 && service["ready"] == 3).then_some(())
    });
    succeeds(&bowline, &["scale", "steer-scale", "1"]);
    assert_eq!(pids(&bowline, "steer-scale").len(), 1);
    load.stop().expect_no_failure("while it was scaled up and down");
    let said = bowline.fails(&["scale", "steer-scale.web", "0"], 2);
    assert!(said.contains("hint:"), "{said}");
    let said = bowline.fails(&["scale", "steer-scale.web", "200"], 3);
    assert!(said.contains("at most 100"), "{said}");
    bowline.fails(&["scale", "steer-scale.other", "2"], 2);
}

#[test]
fn an_abort_takes_back_a_release_that_hangs() {
    let bowline = Bowline::new();
    let (folder, up) = serving(&bowline, "steer-abort", TWO);
    let said = succeeds(&bowline, &["abort", "steer-abort"]);
    assert!(said.contains("nothing to abort"), "{said}");
    let hangs = "[service.web]\nrun = \"sleep 600\"\nscale = 2\n\
                 health = { path = \"/health\", interval = \"200ms\", grace = \"120s\" }\n";
    std::fs::write(folder.join("bowline.toml"), hangs).expect("a test's file");
    let load = Load::start(&up.https(), "/", &bowline.ca());
    let mut release = in_background(&bowline, &["up", folder.to_str().expect("UTF-8"), "--detach"]);
    wait("the second release starts", SOON, || (pids(&bowline, "steer-abort").len() == 3).then_some(()));
    let busy = bowline.fails(&["rollback", "steer-abort"], 3);
    assert!(busy.contains("is being changed"), "{busy}");
    let said = succeeds(&bowline, &["abort", "steer-abort"]);
    assert!(said.contains("is as it was"), "{said}");
    assert_eq!(release.wait().expect("it is this test's child").code(), Some(1));
    wait("nothing is left of it", SOON, || (pids(&bowline, "steer-abort").len() == 2).then_some(()));
    load.stop().expect_no_failure("while a release hung and was aborted");
    let states = releases(&bowline, "steer-abort");
    assert_eq!(states, [(2, "failed".to_owned(), false), (1, "stable".to_owned(), true)]);
    let said = bowline.fails(&["rollback", "steer-abort", "2"], 3);
    assert!(said.contains("was rejected") && said.contains("was aborted"), "{said}");
}

/// A round without a step would be looked for in vain, by this daemon and by each that comes after it.
#[test]
fn a_service_without_instances_has_nothing_to_restart() {
    let bowline = Bowline::new();
    let folder = bowline.app("steer-none", "plain");
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("the fixture's file");
    std::fs::write(&file, toml.replacen("[service.web]", "[service.web]\nscale = 0", 1)).expect("a file of the test");
    let _up = Up::start(&bowline, &folder, SOON);
    let said = bowline.fails(&["restart", "steer-none"], 3);
    assert!(said.contains("nothing to restart"), "{said}");
    assert_eq!(bowline.status()["apps"][0]["app"], "steer-none", "the daemon goes on");
}
