//! What a daemon elsewhere goes through, seen by those who ask it: upgrades, restarts, certificates that are renewed, and strangers.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bowline_tests::client::{Connection, curl, tls};
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, path, text, wait};
use nix::sys::signal::Signal;

use super::{Outside, app, certificate, port};

/// How often the daemon is replaced.
const UPGRADES: usize = 5;

/// What is asked again and again while something else happens.
struct Asked<'o> {
    outside: &'o Outside,
    over: AtomicBool,
    times: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

impl Asked<'_> {
    fn again_and_again(&self, token: &str, args: &[&str]) {
        while !self.over.load(Ordering::Relaxed) {
            let output = self.outside.run(token, args);
            self.times.fetch_add(1, Ordering::Relaxed);
            if !output.status.success() {
                self.failed.lock().expect("no panic").push(format!("{args:?}: {}", text(&output)));
            }
        }
    }
}

/// A new binary takes the daemon's place; a change that is under way is waited for.
fn upgraded(bowline: &Bowline, to: &Path) {
    wait("nothing is under way, and the daemon is replaced", SOON, || {
        let output = bowline.command_of(to, &["serve", "--upgrade", "--json"]).output().expect("the binary runs");
        assert!(output.status.success() || output.status.code() == Some(3), "{}", text(&output));
        output.status.success().then_some(())
    });
}

#[test]
fn no_command_fails_while_the_daemon_is_replaced() {
    let outside = Outside::start();
    let token = outside.token("ops", &["--role", "admin"]);
    let folder = app(&outside.bowline, "https-upgrade");
    let deploy = ["deploy", path(&folder), "--env", "production"];
    outside.lines(&token, &deploy);
    let follow = ["logs", "https-upgrade", "--env", "production", "--follow", "--json"];
    let lines = outside.bowline.folder("lines").join("followed");
    let file = std::fs::File::create(&lines).expect("a file of the test");
    let mut follow = outside.command(&token, &follow);
    let mut follow = follow.stdout(file).stderr(Stdio::null()).spawn().expect("the binary runs");
    let binaries = [outside.bowline.other_binary(0), outside.bowline.other_binary(1)];
    let asked = Asked { outside: &outside, over: false.into(), times: 0.into(), failed: Mutex::default() };
    std::thread::scope(|scope| {
        scope.spawn(|| asked.again_and_again(&token, &["status"]));
        scope.spawn(|| asked.again_and_again(&token, &["events", "https-upgrade", "--env", "production"]));
        scope.spawn(|| asked.again_and_again(&token, &deploy));
        for round in 0..UPGRADES {
            upgraded(&outside.bowline, &binaries[round % 2]);
            let before = asked.times.load(Ordering::Relaxed);
            wait("commands go on", SOON, || (asked.times.load(Ordering::Relaxed) > before + 3).then_some(()));
        }
        asked.over.store(true, Ordering::Relaxed);
    });
    let failed = asked.failed.lock().expect("no panic");
    assert!(failed.is_empty(), "{} of {:?}: {}", failed.len(), asked.times, failed.join("\n"));
    // Whoever follows sees what is written after all of them, and nothing twice.
    let url = format!("https://https-upgrade.localhost:{}/followed", port(&outside.url));
    assert_eq!(curl(&outside.bowline.ca(), &url, &[]).status, 200);
    let text = wait("a line that was written later is followed", SOON, || {
        let text = std::fs::read_to_string(&lines).expect("a file of the test");
        text.contains("/followed").then_some(text)
    });
    assert!(follow.try_wait().expect("a child of this test").is_none(), "it goes on");
    follow.kill().and_then(|()| follow.wait()).expect("a child of this test");
    assert_eq!(text.matches("/followed").count(), 1, "{text}");
}

#[test]
fn a_command_waits_for_a_daemon_that_is_started_again_and_says_so() {
    let mut outside = Outside::start();
    let token = outside.token("ops", &["--role", "viewer"]);
    outside.server.take().expect("it runs").end(Signal::SIGKILL);
    let mut status = outside.command(&token, &["status"]);
    let mut waits = status.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut said = String::new();
    BufReader::new(waits.stderr.as_mut().expect("a pipe")).read_line(&mut said).expect("it says something");
    assert!(said.contains("the daemon is away: it is waited for"), "{said}");
    let args: Vec<&str> = outside.args.iter().map(String::as_str).collect();
    outside.server = Some(Server::start_with(&outside.bowline, &[], &args));
    let output = waits.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_renewed_certificate_is_taken_without_a_restart() {
    let bowline = Bowline::new();
    let (live, next) = (bowline.folder("live"), bowline.folder("next"));
    let (chain, key) = certificate(&live);
    let files = format!("certificate = \"{}\"\nkey = \"{}\"\n", path(&chain), path(&key));
    let outside = Outside::start_with(bowline, &files);
    let token = outside.token("ci", &["--role", "viewer"]);
    let before = std::fs::read(&chain).expect("a file of the test");
    let old = outside.bowline.folder("old").join("chain.pem");
    std::fs::write(&old, &before).expect("a file of the test");
    let trusting = |ca: &Path| -> Output {
        outside.command(&token, &["status"]).env("BOWLINE_CA", ca).output().expect("the binary runs")
    };
    // It is under way when the certificate is renewed, and after that.
    let mut kept = Connection::open(&outside.url, &tls(&old)).expect("it is served");
    let mut asks = || kept.get("/v1/version").expect("a connection goes on").0;
    assert_eq!(asks(), 401);
    assert!(trusting(&old).status.success());
    let event = |name: &str| outside.bowline.json_text(&["events"]).contains(name);

    // A key that is none of the chain's, as a renewal that broke off leaves it.
    let (next_chain, next_key) = certificate(&next);
    std::fs::rename(&next_key, &key).expect("files of the test");
    wait("it is refused", SOON, || event("certificate.refused").then_some(()));
    assert!(trusting(&old).status.success(), "the one before goes on");

    std::fs::rename(&next_chain, &chain).expect("files of the test");
    wait("it is taken", SOON, || event("certificate.taken").then_some(()));
    wait("it is served", SOON, || trusting(&chain).status.success().then_some(()));
    assert!(!trusting(&old).status.success(), "the one before is not served any more");
    assert_eq!(asks(), 401);
    assert!(outside.bowline.json_text(&["events"]).matches("certificate.taken").count() == 1);
}

#[test]
fn files_that_hold_no_certificate_keep_no_daemon_from_starting_again() {
    let bowline = Bowline::new();
    let (live, next) = (bowline.folder("live"), bowline.folder("next"));
    let (chain, key) = certificate(&live);
    let files = format!("certificate = \"{}\"\nkey = \"{}\"\n", path(&chain), path(&key));
    let mut outside = Outside::start_with(bowline, &files);
    let token = outside.token("ci", &["--role", "viewer"]);
    let old = outside.bowline.folder("old").join("chain.pem");
    std::fs::copy(&chain, &old).expect("files of the test");
    // The edge has what it is to serve when no daemon is there.
    let serves = |outside: &Outside, ca: &Path| {
        let asked = outside.command(&token, &["status"]).env("BOWLINE_CA", ca).output().expect("the binary runs");
        asked.status.success()
    };
    assert!(serves(&outside, &old));
    let (next_chain, next_key) = certificate(&next);
    std::fs::rename(&next_key, &key).expect("files of the test");
    outside.restart();
    wait("what was served before goes on", SOON, || serves(&outside, &old).then_some(()));
    let said = text(&outside.bowline.run(&["status"]));
    assert!(said.contains("note: bowline-api.localhost keeps its certificate, which ends in"), "{said}");
    let admin = outside.bowline.status()["daemon"]["admin"].as_str().expect("an address").to_owned();
    let metrics = curl(&outside.bowline.ca(), &format!("http://{admin}/metrics"), &[]).text();
    let end = "bowline_certificate_expiry_timestamp_seconds{host=\"bowline-api.localhost\"}";
    assert!(metrics.contains(end), "{metrics}");
    std::fs::rename(&next_chain, &chain).expect("files of the test");
    wait("the next one is served", SOON, || serves(&outside, &chain).then_some(()));
    assert!(!text(&outside.bowline.run(&["status"])).contains("note:"));
    // Whoever starts a server for the first time is told what is wrong.
    outside.server.take().expect("it runs").end(Signal::SIGKILL);
    assert!(outside.bowline.run(&["down"]).status.success());
    std::fs::write(&key, "no key").expect("a file of the test");
    let args: Vec<&str> = outside.args.iter().map(String::as_str).collect();
    let said = outside.bowline.fails(&[&["serve"], args.as_slice()].concat(), 2);
    assert!(said.contains("the certificate of [api] cannot be used"), "{said}");
}

#[test]
fn strangers_behind_a_proxy_are_counted_by_themselves() {
    let text = "trusted_proxies = [\"127.0.0.0/8\"]\n\n[api]\nhost = \"bowline-api.localhost\"\n";
    let outside = Outside::start_of(Bowline::new(), text);
    let ask = |from: &str, more: &str| {
        let (from, url) = (format!("X-Forwarded-For: {from}"), format!("{}/v1/status", outside.url));
        let args = ["-H", "Authorization: Bearer bowline_wrong", "-H", &from, "-H", more];
        curl(&outside.bowline.ca(), &url, &args).status
    };
    let tried: Vec<u16> = (0..20).map(|_| ask("192.0.2.1", "X-None: 1")).collect();
    assert!(tried.contains(&401) && tried.last() == Some(&429), "{tried:?}");
    assert_eq!(ask("192.0.2.2", "X-None: 1"), 401, "another one is not kept out");
    assert_eq!(ask("192.0.2.3, 192.0.2.1", "X-None: 1"), 429, "nobody is somebody else by saying so");
    assert_eq!(ask("192.0.2.1", "Bowline-Client: 192.0.2.9"), 429, "nor by saying it in the edge's own words");
    for n in 0..12 {
        ask(&format!("2001:db8::{n}"), "X-None: 1");
    }
    assert_eq!(ask("2001:db8::ffff", "X-None: 1"), 429, "a network of IPv6 is one client");
    let log = std::fs::read_to_string(outside.bowline.folder("parent").join("journal")).expect("the daemon's log");
    assert!(log.contains("192.0.2.1") && !log.contains("192.0.2.9"), "{log}");
}
