//! Canaries and blue-green releases: the edge counts, the verdict decides, a person may decide instead.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_tests::client::curl;
use bowline_tests::load::Load;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, path, text, wait};
use serde_json::Value;

const ENV: [&str; 2] = ["--env", "production"];

/// An app on a server, released once. `rollout`: its table.
pub(crate) fn released(bowline: &Bowline, name: &str, rollout: &str) -> (PathBuf, String) {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    let toml = format!(
        "{plain}\n[route.main]\nto = \"web\"\n[rollout]\n{rollout}\n\
         [environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n"
    );
    std::fs::write(&file, toml).expect("a file of the test");
    let first = bowline.run(&deploy(&folder));
    assert!(first.status.success(), "{}", text(&first));
    let https = bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
    let port = https.rsplit_once(':').expect("a port").1;
    (folder, format!("https://{name}.localhost:{port}"))
}

fn deploy(folder: &Path) -> Vec<&str> {
    [&["deploy", path(folder)][..], &ENV].concat()
}

/// Another release of it, in which this takes the place of the answer.
pub(crate) fn answering(folder: &Path, body: &str) {
    let file = folder.join("server.py");
    let code = std::fs::read_to_string(&file).expect("the fixture's file");
    let answer =
        "            self.answer(b\"hello from \" + os.environ.get(\"BOWLINE_INSTANCE\", \"nowhere\").encode())";
    assert!(code.contains(answer), "the fixture answers as it did");
    std::fs::write(file, code.replace(answer, &format!("            {body}"))).expect("a file of the test");
}

pub(crate) fn begin(bowline: &Bowline, folder: &Path) -> Child {
    let mut command: Command = bowline.command(&deploy(folder));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn waits(bowline: &Bowline) -> String {
    bowline.status()["apps"][0]["change"]["waits_on"].to_string()
}

pub(crate) fn release(bowline: &Bowline) -> Value {
    bowline.status()["apps"][0]["release"].clone()
}

pub(crate) const CANARY: &str =
    "strategy = \"canary\"\nsteps = [\"20% for 2s\", \"50% for 2s\"]\nabort = [\"error_rate > 20%\"]\nwatch = \"3s\"";

#[test]
fn a_good_canary_takes_its_steps_and_everything_without_a_lost_request() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, url) = released(&bowline, "canary-good", CANARY);
    let load = Load::start_whole(&url, "/", &bowline.ca());
    answering(&folder, "self.answer(b\"second\")");
    let deploying = begin(&bowline, &folder);
    // Beside the canary stands a fresh instance of the stable release.
    wait("a baseline is there", SOON, || (bowline.processes_of("canary-good").len() >= 3).then_some(()));
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(release(&bowline), 2);
    let events = text(&bowline.run(&[&["events", "canary-good"][..], &ENV].concat()));
    for step in [
        "release 2: step 1 of 2, it carries 20%",
        "release 2: step 2 of 2, it carries 50%",
        "release 2: the edge is told its routes",
        "release 2 carries everything, and is watched for 3s",
        "release 2 has taken over",
    ] {
        assert!(events.contains(step), "{step}: {events}");
    }
    wait("what is left over is gone", SOON, || (bowline.processes_of("canary-good").len() == 1).then_some(()));
    load.stop().expect_no_failure("while a canary took over");
}

#[test]
fn a_canary_that_fails_is_taken_back_and_says_by_how_much() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    taken_back(&bowline, "canary-bad");
}

/// A canary that fails all but its health, whichever edge counts.
pub(crate) fn taken_back(bowline: &Bowline, name: &str) {
    let (folder, url) = released(bowline, name, CANARY);
    let load = Load::start_whole(&url, "/health", &bowline.ca());
    let asking = Load::start_whole(&url, "/", &bowline.ca());
    answering(&folder, "self.answer(b\"\") if self.path == \"/health\" else self.send_error(500)");
    let output = bowline.run(&deploy(&folder));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("release 2 is worse than it may be") && said.contains("web: canary "), "{said}");
    assert_eq!(release(bowline), 1);
    let before = asking.stop();
    let after = Load::start_whole(&url, "/", &bowline.ca());
    after.more();
    after.stop().expect_no_failure("after the canary was taken back");
    assert!(before.failed.iter().all(|failed| failed.why.contains("500")), "only its own errors: {:?}", before.failed);
    drop(load);
}

#[test]
fn without_requests_a_canary_waits_for_somebody() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, _) = released(&bowline, "canary-idle", CANARY);
    answering(&folder, "self.answer(b\"second\")");
    let deploying = begin(&bowline, &folder);
    wait("it says what it waits for", SOON, || waits(&bowline).contains("more requests").then_some(()));
    bowline.kill_daemon();
    let promote = || bowline.run(&[&["promote", "canary-idle"][..], &ENV].concat());
    let _next = Server::start(&bowline);
    wait("the next daemon goes on with it", SOON, || waits(&bowline).contains("more requests").then_some(()));
    let promoted = promote();
    assert!(promoted.status.success(), "{}", text(&promoted));
    assert_eq!(release(&bowline), 2);
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    let again = bowline.fails(&[&["promote", "canary-idle"][..], &ENV].concat(), 3);
    assert!(again.contains("waits to be promoted") && again.contains("nothing of it is under way"), "{again}");
}

#[test]
fn a_browser_stays_with_the_release_that_it_has_had() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, url) =
        released(&bowline, "canary-sticky", "strategy = \"canary\"\nsteps = [\"50% for 1h\"]\nwatch = \"0s\"");
    answering(&folder, "self.answer(b\"second\")");
    let detached = bowline.run(&[deploy(&folder), vec!["--detach"]].concat());
    assert!(detached.status.success(), "{}", text(&detached));
    let ask = |more: &[&str]| curl(&bowline.ca(), &format!("{url}/"), more);
    let jar = bowline.folder("cookies").join("jar");
    let (jar, mut seen) = (path(&jar).to_owned(), Vec::new());
    wait("both answer", SOON, || {
        seen.push(ask(&[]).text());
        let second = seen.iter().filter(|text| *text == "second").count();
        (second > 0 && second < seen.len()).then_some(())
    });
    let first = ask(&["-c", &jar]).text();
    for _ in 0..20 {
        let again = ask(&["-b", &jar]).text();
        assert_eq!(again == "second", first == "second", "{again}");
    }
    for _ in 0..10 {
        assert_eq!(ask(&["-H", "x-bowline-preview: 2"]).text(), "second");
        assert_ne!(ask(&["-H", "x-bowline-preview: 1"]).text(), "second");
    }
    let aborted = bowline.run(&[&["abort", "canary-sticky"][..], &ENV].concat());
    assert!(aborted.status.success(), "{}", text(&aborted));
    assert_ne!(ask(&["-b", &jar]).text(), "second", "what is gone holds nobody");
}

#[test]
fn blue_and_green_wait_for_a_look() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, url) = released(&bowline, "canary-green", "strategy = \"blue-green\"\nwatch = \"0s\"");
    let load = Load::start_whole(&url, "/", &bowline.ca());
    answering(&folder, "self.answer(b\"second\")");
    let deploying = begin(&bowline, &folder);
    wait("it asks for a look", SOON, || waits(&bowline).contains("bowline promote").then_some(()));
    let ask = |more: &[&str]| curl(&bowline.ca(), &format!("{url}/"), more).text();
    assert_ne!(ask(&[]), "second");
    assert_eq!(ask(&["-H", "x-bowline-preview: 2"]), "second");
    let promoted = bowline.run(&[&["promote", "canary-green"][..], &ENV].concat());
    assert!(promoted.status.success(), "{}", text(&promoted));
    assert_eq!(ask(&[]), "second");
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    load.stop().expect_no_failure("while green took over");
}
