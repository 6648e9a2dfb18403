//! A release that a real Envoy refuses goes back by itself; an Envoy that is away refuses nothing.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::{Bowline, SOON, envoy, path, text, wait};
use nix::sys::signal::Signal;

use crate::canary::{CANARY, begin, release, released};
use crate::envoy::START;

const ENV: [&str; 2] = ["--env", "production"];

/// So many steps a regular expression of this Envoy may have. Bowline's own have fewer, but that of a long path which is guarded.
const STEPS: u32 = 1000;

/// An Envoy that refuses what is harmless, and does not start as long as the file beside it is there.
struct Strict {
    exe: PathBuf,
    held: PathBuf,
}

impl Strict {
    fn new(bowline: &Bowline) -> Self {
        let folder = bowline.folder("strict");
        let (exe, held) = (folder.join("envoy"), folder.join("held"));
        let level = format!(r#"{{"re2.max_program_size.error_level": {STEPS}}}"#);
        let layer = format!(r#"{{"layered_runtime": {{"layers": [{{"name": "strict", "static_layer": {level}}}]}}}}"#);
        let (real, held_is) = (envoy(), path(&held));
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in --version) exec {real} \"$@\";; esac\n\
             while [ -e {held_is} ]; do sleep 0.05; done\nexec {real} \"$@\" --config-yaml '{layer}'\n",
            real = path(&real)
        );
        std::fs::write(&exe, script).expect("a file of the test");
        std::fs::set_permissions(&exe, Permissions::from_mode(0o755)).expect("a file of the test");
        Self { exe, held }
    }

    fn server(&self, bowline: &Bowline) -> Server {
        assert!(envoy().exists(), "run scripts/setup first: {} is missing", envoy().display());
        let variable = format!("BOWLINE_ENVOY={}", path(&self.exe));
        Server::start_with(bowline, &["env", &variable], &[&ANY_PORTS[..], &["--edge", "envoy"]].concat())
    }

    /// The next one waits until it is let go on.
    fn hold(&self) {
        std::fs::write(&self.held, "").expect("a file of the test");
    }

    fn let_go(&self) {
        std::fs::remove_file(&self.held).expect("it was held");
    }
}

/// In production.
fn hosts(name: &str) -> String {
    format!("hosts = [\"{name}.localhost\"]\n")
}

/// Of a path that is long enough, in every spelling.
fn refused_route(hosts: &str) -> String {
    format!("[route.hidden]\n{hosts}path = \"/{}\"\ndeny = true\n", "hidden".repeat(STEPS as usize / 5))
}

/// The next release has another route.
fn with_route(folder: &Path, route: &str) {
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("the test's file");
    std::fs::write(&file, format!("{toml}{route}")).expect("the test's file");
}

fn deploy(bowline: &Bowline, folder: &Path) -> std::process::Output {
    bowline.run(&[&["deploy", path(folder)][..], &ENV].concat())
}

fn events(bowline: &Bowline, app: &str) -> String {
    text(&bowline.run(&[&["events", app][..], &ENV].concat()))
}

/// Release 2 of it is refused, said so everywhere, and release 1 loses no request.
fn goes_back(bowline: &Bowline, name: &str, rollout: &str) {
    let (folder, url) = released(bowline, name, rollout);
    let load = Load::start_whole(&url, "/", &bowline.ca());
    with_route(&folder, &refused_route(&hosts(name)));
    let output = deploy(bowline, &folder);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "error: the edge refuses release 2",
        &format!("caused by: Envoy refused routes of production/{name}"),
        &format!("hidden, main on {name}.localhost"),
        "max program size",
        "caused by: release 2 was rolled back: release 1 serves again",
        "hint: change what it refuses",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let status = bowline.status();
    let app = &status["apps"][0];
    assert_eq!((&app["release"], &app["state"]), (&1.into(), &"ready".into()), "{app}");
    assert_eq!(app["fault"]["error"], "the edge refuses release 2", "{app}");
    assert!(status["edge"]["fault"].is_null(), "it has all that is wanted now: {}", status["edge"]);
    let events = events(bowline, name);
    for part in ["release 2: the edge is told its routes", "release 2 was rolled back: the edge refuses release 2"] {
        assert!(events.contains(part), "{part}: {events}");
    }
    assert!(!events.contains("release 2 carries everything"), "{events}");
    load.more();
    load.stop().expect_no_failure("while a release was refused");
}

#[test]
fn a_release_whose_routes_envoy_refuses_goes_back_by_itself() {
    let bowline = Bowline::new();
    let _server = Strict::new(&bowline).server(&bowline);
    goes_back(&bowline, "refused-rolling", "strategy = \"rolling\"");
}

#[test]
fn a_canary_whose_routes_envoy_refuses_goes_back_by_itself() {
    let bowline = Bowline::new();
    let _server = Strict::new(&bowline).server(&bowline);
    goes_back(&bowline, "refused-canary", CANARY);
}

#[test]
fn a_first_release_that_envoy_refuses_stops_and_the_next_one_serves() {
    let bowline = Bowline::new();
    let strict = Strict::new(&bowline);
    let _server = strict.server(&bowline);
    let folder = bowline.app("refused-first", "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    let plain = format!("{plain}\n[route.main]\nto = \"web\"\n");
    std::fs::write(&file, format!("{plain}{}", refused_route(""))).expect("a file of the test");
    let output = bowline.run(&["up", path(&folder), "--detach", "--json"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let is_it = |line: &serde_json::Value| line.to_string().contains("the edge refuses release 1");
    assert!(lines.into_iter().any(|line| is_it(&line)), "{said}");
    assert!(said.contains("there was none before it to go back to"), "{said}");
    wait("nothing of it runs", SOON, || bowline.processes_of("refused-first").is_empty().then_some(()));
    std::fs::write(&file, plain).expect("a file of the test");
    let output = bowline.run(&["up", path(&folder), "--detach"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(release(&bowline), 2);
}

/// Nobody answers until the end: no release is taken back for that, and one that is refused is so by the next Envoy, asked by the next daemon.
#[test]
fn an_envoy_that_is_killed_refuses_nothing() {
    let bowline = Bowline::new();
    let strict = Strict::new(&bowline);
    let server = strict.server(&bowline);
    let (folder, _) = released(&bowline, "refused-killed", "strategy = \"rolling\"");
    let kill = || {
        let before = bowline.edge();
        strict.hold();
        Process { pid: before }.kill();
    };
    let waits = || bowline.status()["apps"][0]["change"]["waits_on"].to_string();
    let asks = || waits().contains("the edge's word on it: it is away, which refuses nothing").then_some(());

    let hosts = hosts("refused-killed");
    with_route(&folder, &format!("[route.more]\n{hosts}path = \"/more\"\nto = \"web\"\n"));
    kill();
    let deploying = begin(&bowline, &folder);
    wait("it waits for the edge", SOON, asks);
    strict.let_go();
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(release(&bowline), 2);

    with_route(&folder, &refused_route(&hosts));
    kill();
    let deploying = begin(&bowline, &folder);
    wait("it waits for the edge", SOON, asks);
    server.end(Signal::SIGKILL);
    strict.let_go();
    let _next = strict.server(&bowline);
    let output = deploying.wait_with_output().expect("it was started");
    drop(output);
    wait("the next daemon takes it back", START, || {
        let status = bowline.status();
        let app = &status["apps"][0];
        let is_back = app["change"].is_null() && app["release"] == 2;
        (is_back && app["fault"]["error"] == "the edge refuses release 3").then_some(())
    });
    // The next one was given other ports.
    let https = bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
    let port = https.rsplit_once(':').expect("a port").1;
    let load = Load::start_whole(&format!("https://refused-killed.localhost:{port}"), "/more", &bowline.ca());
    load.more();
    load.stop().expect_no_failure("after it was taken back");
}
