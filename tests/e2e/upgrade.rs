//! `bowline serve --upgrade` under load: the daemon is another binary in the same process, its edge another process with the
//! same sockets, and no request is lost. `BOWLINE_UPGRADES=N` says how often (`make upgrades`: 100).

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, text, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::server::{deployed, is_ready, only_copy};

/// How often, where nothing else is said.
const UPGRADES: usize = 5;

fn upgrades() -> usize {
    std::env::var("BOWLINE_UPGRADES").ok().and_then(|text| text.parse().ok()).unwrap_or(UPGRADES)
}

pub(crate) fn upgraded(bowline: &Bowline, to: &Path) -> Value {
    let output = bowline.command_of(to, &["serve", "--upgrade", "--json"]).output().expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The binary that a process was started from.
pub(crate) fn program(pid: u32) -> String {
    Process { pid }.arguments().first().cloned().unwrap_or_default()
}

#[test]
fn daemon_and_edge_are_swapped_again_and_again_and_no_request_is_lost() {
    let bowline = Bowline::new();
    let mut server = Server::start(&bowline);
    let url = deployed(&bowline, "upgrade-load");
    let copy = only_copy(&bowline, "upgrade-load");
    let binaries = [bowline.other_binary(0), bowline.other_binary(1)];
    let load = Load::start_whole(&url, "/", &bowline.ca());
    let (mut edge, mut programs) = (bowline.edge(), vec![program(server.pid())]);
    let mut took = Vec::new();
    for round in 0..upgrades() {
        let began = Instant::now();
        let told = upgraded(&bowline, &binaries[round % 2]);
        took.push(began.elapsed());
        assert_eq!(told["pid"], server.pid(), "the main process stays: {told}");
        server.hears("RELOADING=1", "the supervisor is told");
        server.hears("READY=1", "the supervisor is told");
        let next = bowline.edge();
        assert_ne!(next, edge, "another edge");
        assert_eq!(program(next), program(server.pid()), "both are the new binary");
        assert_ne!(programs.last(), Some(&program(server.pid())), "another binary");
        (edge, programs) = (next, vec![program(server.pid())]);
        load.more();
    }
    let tally = load.stop();
    tally.expect_no_failure("while daemon and edge were swapped");
    took.sort_unstable();
    tell(&format!(
        "{} upgrades of daemon and edge: {} requests, {} failed; {:?} each in the middle, {:?} at most",
        took.len(),
        tally.succeeded,
        tally.failed.len(),
        took[took.len() / 2],
        took[took.len() - 1],
    ));
    assert_eq!(only_copy(&bowline, "upgrade-load"), copy, "the instance never noticed");
    assert_eq!(upgraded(&bowline, &binaries[(upgrades() - 1) % 2])["changed"], false, "it is that binary already");
    // Those that retire end with their last connections; none is left over, and none stays a zombie.
    wait("the edges before are gone", SOON * 2, || (edges(&bowline) == [edge]).then_some(()));
    wait("every edge is waited for", SOON, || {
        let mut own = bowline_tests::machine::processes().into_iter().filter(|p| p.parent() == Some(server.pid()));
        own.all(|p| p.runs()).then_some(())
    });
}

#[test]
fn a_stop_that_comes_while_the_binary_is_swapped_is_not_lost() {
    let bowline = Bowline::new();
    let mut server = Server::start(&bowline);
    let other = bowline.other_binary(0);
    let mut upgrade = bowline.command_of(&other, &["serve", "--upgrade"]);
    let mut upgrade = upgrade.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    server.hears(
        "RELOADING=1",
        "it is decided that the other binary takes over, and nobody listens for signals any more",
    );
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success(), "the binary that took over ends as it was told to");
    // It may have been too late to see the other binary answer.
    upgrade.wait().expect("the client ends");
}

#[expect(clippy::print_stderr, reason = "figures of a longer run are to be read")]
fn tell(line: &str) {
    eprintln!("{line}");
}

/// Every edge of this state.
fn edges(bowline: &Bowline) -> Vec<u32> {
    let folder = bowline.state().join("logs/edge").to_string_lossy().into_owned();
    let is_edge = |p: &Process| {
        let words = p.arguments();
        words.iter().any(|word| word == "--control-fd") && words.contains(&folder)
    };
    bowline_tests::machine::processes().into_iter().filter(is_edge).map(|p| p.pid).collect()
}

#[test]
fn a_binary_that_cannot_take_over_leaves_the_one_before() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let url = deployed(&bowline, "upgrade-refused");
    let (edge, before) = (bowline.edge(), bowline.status());
    let load = Load::start_whole(&url, "/", &bowline.ca());

    // A binary that is none, kept under the digest that is asked for: it shows when it is executed.
    let digest = "0".repeat(64);
    let kept = bowline.state().join("bin").join(&digest);
    std::fs::create_dir_all(&kept).expect("a folder of the test");
    std::fs::write(kept.join("bowline"), "no program").expect("a file of the test");
    bowline_tests::set_mode(&kept.join("bowline"), 0o755);
    let body = format!("{{\"binary\":\"{digest}\"}}");
    assert_eq!(post(&bowline, "/v1/upgrade", &body), 204);
    wait("the daemon before goes on", SOON, || {
        (bowline.status()["daemon"]["started"] != before["daemon"]["started"]).then_some(())
    });
    is_ready(&bowline);
    let refusal = std::fs::read_to_string(bowline.state().join("upgrade.refused")).expect("why");
    assert!(refusal.contains("cannot be executed"), "{refusal}");

    // A start that fails after the binary has taken over: the local CA cannot be read.
    let ca = bowline.ca().with_file_name("root.pem");
    let aside = ca.with_file_name("aside");
    std::fs::rename(&ca, &aside).and_then(|()| std::fs::create_dir(&ca)).expect("files of the test");
    let other = bowline.other_binary(7);
    let output = bowline.command_of(&other, &["serve", "--upgrade"]).output().expect("the binary runs");
    let said = text(&output);
    assert!(said.contains("this binary cannot take over: the one before goes on"), "{said}");
    assert!(said.contains("caused by:") && output.status.code() == Some(1), "{said}");
    std::fs::remove_dir(&ca).and_then(|()| std::fs::rename(&aside, &ca)).expect("files of the test");

    assert_eq!((bowline.daemon(), bowline.edge()), (server.pid(), edge), "the same process, the same edge");
    load.stop().expect_no_failure("while no binary could take over");
    assert_eq!(upgraded(&bowline, &other)["changed"], true, "nothing is in its way any more");
}

/// Notes what it was left, and is the binary before again.
fn pretender(bowline: &Bowline, digest: &str, real: &str, takes: Option<&str>) -> std::path::PathBuf {
    let (kept, noted) = (bowline.state().join("bin").join(digest), bowline.folder("noted").join(&digest[..1]));
    std::fs::create_dir_all(&kept).expect("a folder of the test");
    let script = format!(
        "#!/bin/sh\n{{ while read -r line; do case $line in SigBlk*) echo \"$line\";; esac; done < /proc/self/status\n\
         printf '%s\\n' \"$@\"; }} > {0}.new\nmv {0}.new {0}\nexec {real} \"$@\"\n",
        noted.display()
    );
    std::fs::write(kept.join("bowline"), script).expect("a file of the test");
    bowline_tests::set_mode(&kept.join("bowline"), 0o755);
    takes.into_iter().for_each(|takes| std::fs::write(kept.join("takes.json"), takes).expect("a file of the test"));
    noted
}

#[test]
fn a_binary_of_before_is_handed_only_what_it_knows() {
    const STOPS: u64 = 1 << (Signal::SIGTERM as u64 - 1) | 1 << (Signal::SIGINT as u64 - 1);
    let bowline = Bowline::new();
    let config = bowline.folder("etc").join("server.toml");
    std::fs::write(&config, "[api]\nhost = \"bowline-api.localhost\"\n").expect("a file of the test");
    let args = [bowline_tests::server::ANY_PORTS.as_slice(), &["--config", bowline_tests::path(&config)]].concat();
    let mut server = Server::start_with(&bowline, &[], &args);
    let real = program(server.pid());
    for (digit, takes) in [("1", None), ("2", Some(r#"{"outer":true,"stops":true}"#))] {
        let digest = digit.repeat(64);
        let noted = pretender(&bowline, &digest, &real, takes);
        assert_eq!(post(&bowline, "/v1/upgrade", &format!("{{\"binary\":\"{digest}\"}}")), 204);
        let noted = wait("it was executed", SOON, || std::fs::read_to_string(&noted).ok());
        let blocked = noted.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask").trim();
        let blocked = u64::from_str_radix(blocked, 16).expect("hexadecimal");
        let word = noted.lines().last().expect("the word of the handover");
        let word: Value = serde_json::from_str(word).expect("JSON");
        let left = (blocked & STOPS, word["outer"].is_u64());
        assert_eq!(left, if takes.is_some() { (STOPS, true) } else { (0, false) }, "{noted}");
        server.hears("READY=1", "the binary before goes on");
        assert_eq!(program(server.pid()), real);
    }
    assert!(server.end(Signal::SIGTERM).success());
}

/// The status that the API answers with.
fn post(bowline: &Bowline, path: &str, body: &str) -> u16 {
    let output = std::process::Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket"])
        .arg(bowline.api_socket())
        .args(["--data", body, &format!("http://bowline{path}")])
        .output()
        .expect("curl is installed by scripts/setup");
    text(&output).parse().expect("a status")
}

#[test]
fn whatever_is_killed_in_the_middle_of_an_upgrade_one_edge_serves_in_the_end() {
    let bowline = Bowline::new();
    let mut server = Server::start(&bowline);
    let url = deployed(&bowline, "upgrade-killed");
    let copy = only_copy(&bowline, "upgrade-killed");
    let tls = bowline_tests::client::tls(&bowline.ca());
    // When the other binary is executed, when it is recorded, when its edge is started, when its edge is the one that is found.
    for round in 0..8 {
        let other = bowline.other_binary(round);
        let (before, daemon, sockets) =
            (edges(&bowline), server.pid(), bowline.api_socket().with_file_name("edge.next.sock"));
        let (program_before, record) = (program(daemon), bowline.state().join("daemon.json"));
        let recorded = std::fs::read(&record).expect("the record");
        let upgrade = bowline.command_of(&other, &["serve", "--upgrade"]).stderr(Stdio::null()).spawn();
        let mut upgrade = upgrade.expect("the binary runs");
        wait("the moment has come", SOON, || {
            let has_come = match round % 4 {
                0 => program(daemon) != program_before,
                1 => std::fs::read(&record).is_ok_and(|now| now != recorded),
                2 => edges(&bowline) != before,
                _ => edges(&bowline) != before && !sockets.exists(),
            };
            has_come.then_some(())
        });
        server.end(Signal::SIGKILL);
        // It has done it, or says that the daemon ended.
        upgrade.wait().expect("the child can be waited for");
        server = Server::start(&bowline);
        is_ready(&bowline);
        wait("exactly one edge is left, and is this binary", SOON * 3, || {
            let edge = bowline.edge();
            let is_own = program(edge) == recorded_binary(&record);
            (is_own && edges(&bowline) == [edge]).then_some(())
        });
        assert_eq!(only_copy(&bowline, "upgrade-killed"), copy);
        let answer = bowline_tests::client::Connection::open(&url, &tls).and_then(|mut open| open.get("/"));
        assert_eq!(answer.expect("an answer").0, 200);
    }
}

/// The kept binary that the daemon says it is.
fn recorded_binary(record: &Path) -> String {
    let record: Value = serde_json::from_slice(&std::fs::read(record).expect("the record")).expect("JSON");
    record["binary"].as_str().unwrap_or_default().to_owned()
}
