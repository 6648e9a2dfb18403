//! `kill -9` of everything that can be killed, under load. After each: apps serve, and exactly one copy per slot runs.

use std::time::Duration;

use bowline_tests::client::Connection;
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::port::Port;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, client, wait};

/// A daemon with the app `name` running, and its HTTPS address.
fn serving(name: &str) -> (Bowline, Up, String) {
    let bowline = Bowline::new();
    let folder = bowline.app(name, "plain");
    let up = Up::start(&bowline, &folder, SOON);
    let url = up.https();
    (bowline, up, url)
}

/// The app's main process; fails if there is more than one copy.
fn only_copy(bowline: &Bowline, app: &str) -> Process {
    wait("exactly one copy runs", SOON, || match bowline.processes_of(app).as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    })
}

fn answers(bowline: &Bowline, url: &str) {
    let tls = client::tls(&bowline.ca());
    wait("the app answers", SOON, || match Connection::open(url, &tls).and_then(|mut c| c.get("/")) {
        Ok((200, _)) => Some(()),
        Ok(_) | Err(_) => None,
    });
}

#[test]
fn the_daemon_dies_and_nothing_is_lost() {
    let (bowline, _up, url) = serving("kill-daemon");
    let (daemon, edge, copy) = (bowline.daemon(), bowline.edge(), only_copy(&bowline, "kill-daemon"));
    let load = Load::start(&url, "/", &bowline.ca());
    Process { pid: daemon }.kill();
    wait("the daemon is gone", SOON, || (!Process { pid: daemon }.runs()).then_some(()));
    answers(&bowline, &url);
    // The next command brings it back, and it adopts what runs.
    wait("the app is adopted", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    assert_ne!(bowline.daemon(), daemon, "another daemon");
    assert_eq!(bowline.edge(), edge, "the same edge");
    assert_eq!(only_copy(&bowline, "kill-daemon"), copy, "the same instance");
    load.stop().expect_no_failure("while the daemon was killed and came back");
}

/// The kernel takes a moment to close what the daemon held: its socket, its locks, its port.
#[test]
fn a_command_right_after_the_kill_brings_the_daemon_back() {
    let (bowline, _up, url) = serving("kill-at-once");
    let (edge, copy) = (bowline.edge(), only_copy(&bowline, "kill-at-once"));
    for _ in 0..5 {
        let daemon = bowline.daemon();
        Process { pid: daemon }.kill();
        let status = bowline.status();
        assert_ne!(status["daemon"]["pid"], daemon, "another daemon");
    }
    answers(&bowline, &url);
    assert_eq!((bowline.edge(), only_copy(&bowline, "kill-at-once")), (edge, copy), "both went on");
}

/// While no daemon has it, the kernel may give a port of its choice to anybody.
#[test]
fn an_admin_port_that_somebody_else_was_given_meanwhile_gets_another_number() {
    let (bowline, mut up, url) = serving("kill-admin");
    let admin = |bowline: &Bowline| bowline.status()["daemon"]["admin"].as_str().expect("an address").to_owned();
    let (daemon, copy, before) = (bowline.daemon(), only_copy(&bowline, "kill-admin"), admin(&bowline));
    up.abandon();
    Process { pid: daemon }.kill();
    let theirs = wait("its port is free", SOON, || std::net::TcpListener::bind(&before).ok());
    assert_ne!(admin(&bowline), before);
    drop(theirs);
    answers(&bowline, &url);
    assert_eq!(only_copy(&bowline, "kill-admin"), copy, "the instance never noticed");
}

#[test]
fn the_edge_dies_and_comes_back_on_the_same_ports() {
    let (bowline, _up, url) = serving("kill-edge");
    let edge = bowline.edge();
    let load = Load::start(&url, "/", &bowline.ca());
    Process { pid: edge }.kill();
    let new = wait("another edge serves", SOON, || {
        let status = bowline.status();
        let pid = status["edge"]["pid"].as_u64().and_then(|p| u32::try_from(p).ok());
        pid.filter(|pid| *pid != edge && status["edge"]["state"] == "serving")
    });
    answers(&bowline, &url);
    let tally = load.stop();
    // Connections of the dead edge break; new ones wait in the listening sockets' queue, which never closes.
    let refused = tally.failed.iter().filter(|failed| failed.why.contains("refused")).count();
    assert_eq!(refused, 0, "the listening sockets stay open: {:?}", tally.failed);
    assert!(Process { pid: new }.runs());
}

#[test]
fn a_shim_dies_and_takes_its_app_along_and_one_copy_comes_back() {
    let (bowline, _up, url) = serving("kill-shim");
    let (copy, shims) = (only_copy(&bowline, "kill-shim"), bowline.shims_of("kill-shim"));
    let [shim] = shims.as_slice() else { panic!("one shim: {shims:?}") };
    let load = Load::start(&url, "/", &bowline.ca());
    shim.kill();
    wait("the copy of the dead shim is gone", SOON, || (!copy.runs()).then_some(()));
    answers(&bowline, &url);
    assert_ne!(only_copy(&bowline, "kill-shim"), copy);
    load.stop();
}

#[test]
fn an_instance_dies_and_one_copy_comes_back() {
    let (bowline, _up, url) = serving("kill-instance");
    let copy = only_copy(&bowline, "kill-instance");
    let load = Load::start(&url, "/", &bowline.ca());
    copy.kill();
    wait("the killed copy is gone", SOON, || (!copy.runs()).then_some(()));
    answers(&bowline, &url);
    assert_ne!(only_copy(&bowline, "kill-instance"), copy);
    load.stop();
    let restarts = bowline.status()["apps"][0]["services"][0]["instances"][0]["restarts"].clone();
    assert_eq!(restarts, 1, "the restart is counted");
}

#[test]
fn daemon_and_shim_die_together() {
    let (bowline, _up, url) = serving("kill-both");
    let (daemon, copy, shims) = (bowline.daemon(), only_copy(&bowline, "kill-both"), bowline.shims_of("kill-both"));
    Process { pid: daemon }.kill();
    shims.iter().for_each(Process::kill);
    wait("the copy of the dead shim is gone", SOON, || (!copy.runs()).then_some(()));
    wait("the app is back", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    answers(&bowline, &url);
    assert_ne!(only_copy(&bowline, "kill-both"), copy);
}

#[test]
fn daemon_and_edge_die_together_and_the_ports_come_back() {
    let bowline = Bowline::new();
    let (folder, ports) = (bowline.app("kill-front", "plain"), [Port::reserve(), Port::reserve()]);
    let up = Up::start_on(&bowline, &folder, &ports, SOON);
    let url = up.https();
    let (daemon, edge, copy) = (bowline.daemon(), bowline.edge(), only_copy(&bowline, "kill-front"));
    Process { pid: daemon }.kill();
    Process { pid: edge }.kill();
    wait("the daemon is gone", SOON, || (!Process { pid: daemon }.runs()).then_some(()));
    wait("the app is back", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    answers(&bowline, &url);
    assert_eq!(only_copy(&bowline, "kill-front"), copy, "the instance never noticed");
}

#[test]
fn up_in_the_foreground_brings_its_daemon_back() {
    let (bowline, up, url) = serving("kill-follow");
    let daemon = bowline.daemon();
    Process { pid: daemon }.kill();
    wait("another daemon answers", Duration::from_secs(30), || {
        let record = std::fs::read(bowline.state().join("daemon.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        (record["pid"].as_u64()? != u64::from(daemon)).then_some(())
    });
    answers(&bowline, &url);
    assert!(up.interrupt().success(), "Ctrl-C still stops what `up` started");
    assert!(bowline.processes_of("kill-follow").is_empty(), "nothing is left");
}
