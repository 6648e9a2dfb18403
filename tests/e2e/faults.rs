//! Wrong files, missing tools, taken ports, apps that misbehave: one error with its cause and a hint, nothing left
//! running, nothing lost.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use bowline_tests::load::Load;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text, wait};
use serde_json::Value;

use crate::server::only_copy;

/// An app with this `bowline.toml` and these further files.
fn app(bowline: &Bowline, name: &str, toml: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = bowline.folder(name);
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    for (file, content) in files {
        std::fs::write(folder.join(file), content).expect("a test's file");
    }
    folder
}

fn up_args(folder: &Path) -> Vec<&str> {
    let folder = folder.to_str().expect("paths of tests are UTF-8");
    vec!["up", folder, "--detach", "--http", "0", "--https", "0", "--admin", "0"]
}

/// `up` must fail with this exit code, and say all of these in one error; nothing of the app may run afterwards.
fn check(name: &str, toml: &str, files: &[(&str, &str)], code: i32, says: &[&str]) {
    let said = check_failure(name, toml, files, code, says);
    assert_eq!(errors(&said), 1, "one failure is one error:\n{said}");
}

fn errors(said: &str) -> usize {
    said.lines().filter(|line| line.starts_with("error:")).count()
}

fn check_failure(name: &str, toml: &str, files: &[(&str, &str)], code: i32, says: &[&str]) -> String {
    let bowline = Bowline::new();
    let folder = app(&bowline, name, toml, files);
    let said = bowline.fails(&up_args(&folder), code);
    for words in says {
        assert!(said.contains(words), "{words:?} is not said:\n{said}");
    }
    assert!(said.starts_with("error:") && said.contains("hint:"), "{said}");
    let left = bowline.processes_of(name);
    assert!(left.is_empty(), "left running: {left:?}");
    assert!(!bowline.state().join("daemon.json").exists(), "the daemon that `up` started is stopped, too");
    said
}

#[test]
fn every_mistake_of_a_file_is_shown_at_once() {
    let toml = "[service.web]\nrnu = \"x\"\nscale = \"two\"\n[route.main]\nto = \"wbe\"\nlimit = { body = \"20MB\" }\n";
    let says = ["bowline.toml:2:1", "`run`", "bowline.toml:3:9", "bowline.toml:5:6", "`web`", "bowline.toml:6"];
    let said = check_failure("wrong-file", toml, &[], 2, &says);
    assert_eq!(errors(&said), 4, "each mistake is an error:\n{said}");
}

#[test]
fn what_no_backend_carries_yet_is_refused_by_its_key() {
    let toml = "[service.web]\nrun = \"true\"\n[bucket.media]\n";
    check("not-carried", toml, &[], 2, &["bucket.media", "bowline.toml:3"]);
}

#[test]
fn a_failing_build_shows_the_end_of_its_output() {
    let toml = "[service.web]\nrun = \"true\"\nbuild = \"echo first; echo the last words >&2; exit 7\"\n";
    check("failing-build", toml, &[], 1, &["the last words", "7"]);
}

#[test]
fn a_missing_tool_is_named() {
    let toml = "[service.web]\nrun = \"true\"\nbuild = \"no-such-compiler --version\"\n";
    check("missing-tool", toml, &[], 1, &["no-such-compiler", "hint:"]);
}

#[test]
fn a_folder_with_nothing_to_run_says_what_was_looked_for() {
    let bowline = Bowline::new();
    let folder = bowline.folder("empty-folder");
    let said = bowline.fails(&up_args(&folder), 2);
    for words in ["requirements.txt", "index.html", "run ="] {
        assert!(said.contains(words), "{words:?} is not said:\n{said}");
    }
}

#[test]
fn an_app_that_exits_at_once_shows_why() {
    let toml = "[service.web]\nrun = \"echo no database >&2; exit 3\"\n[route.main]\nto = \"web\"\n";
    check("exits-at-once", toml, &[], 1, &["no database", "3"]);
}

#[test]
fn an_app_that_never_gets_healthy_is_stopped_again() {
    let toml = "[service.web]\nrun = \"exec python3 -m http.server $PORT\"\n\
                health = { path = \"/missing\", interval = \"200ms\", grace = \"1s\" }\n[route.main]\nto = \"web\"\n";
    check("never-healthy", toml, &[], 1, &["404", "/missing"]);
}

#[test]
fn a_missing_secret_is_named_with_the_command_that_sets_it() {
    let toml = "[service.web]\nrun = \"true\"\nenv = { TOKEN = { secret = \"api-token\" } }\n";
    check("no-secret", toml, &[], 2, &["api-token", "bowline secret set no-secret api-token"]);
}

#[test]
fn a_taken_port_names_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = holder.local_addr().expect("bound").port().to_string();
    let bowline = Bowline::new();
    let folder = bowline.app("taken-port", "plain");
    let folder = folder.to_str().expect("paths of tests are UTF-8");
    let said = bowline.fails(&["up", folder, "--http", &port, "--https", "0", "--admin", "0"], 1);
    let pid = std::process::id().to_string();
    for words in [port.as_str(), pid.as_str(), "--http"] {
        assert!(said.contains(words), "{words:?} is not said:\n{said}");
    }
}

#[test]
fn a_taken_port_of_the_edge_or_the_daemon_says_its_own_flag() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = holder.local_addr().expect("bound").port().to_string();
    for flag in ["--https", "--admin"] {
        let bowline = Bowline::new();
        let folder = bowline.app("taken-other", "plain");
        let folder = folder.to_str().expect("paths of tests are UTF-8");
        let free = ["--http", "--https", "--admin"].into_iter().filter(|other| *other != flag);
        let args: Vec<&str> =
            ["up", folder, flag, port.as_str()].into_iter().chain(free.flat_map(|f| [f, "0"])).collect();
        let said = bowline.fails(&args, 1);
        assert!(said.contains(&format!("another with {flag} PORT")) && said.contains(&port), "{said}");
    }
}

/// What was started for a command that failed is not left running, in a daemon that was joined, too.
#[test]
fn of_two_apps_the_good_one_is_stopped_when_the_other_fails() {
    let bowline = Bowline::new();
    let other = Up::start(&bowline, &bowline.app("pair-other", "plain"), SOON);
    let good = bowline.app("pair-good", "plain");
    let bad = app(&bowline, "pair-bad", "[service.web]\nrun = \"true\"\nbuild = \"exit 7\"\n", &[]);
    let [good, bad] = [&good, &bad].map(|path| path.to_str().expect("UTF-8"));
    for order in [[good, bad], [bad, good]] {
        let said = bowline.fails(&["up", order[0], order[1], "--detach"], 1);
        assert_eq!((errors(&said), said.contains("pair-bad")), (1, true), "{said}");
        assert!(bowline.processes_of("pair-good").is_empty(), "left running: {order:?}");
    }
    let status = bowline.status();
    let state = |name: &str| {
        let apps = status["apps"].as_array().expect("apps");
        apps.iter().find(|app| app["app"] == name).map(|app| app["state"].clone())
    };
    assert_eq!(state("pair-good"), Some("stopped".into()));
    assert_eq!(bowline_tests::client::curl(&bowline.ca(), &other.https(), &[]).status, 200, "what ran before goes on");
}

#[test]
fn an_app_that_ignores_term_and_one_that_double_forks_leave_nothing_behind() {
    let server = "import os,signal,sys,time\n\
                  from http.server import *\n\
                  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
                  if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\n\
                  HTTPServer(('127.0.0.1', int(os.environ['PORT'])), SimpleHTTPRequestHandler).serve_forever()\n";
    let bowline = Bowline::new();
    let toml = "[service.web]\nrun = \"python3 server.py\"\ndrain = \"1s\"\n";
    let folder = app(&bowline, "stubborn", toml, &[("server.py", server)]);
    let up = Up::start(&bowline, &folder, SOON);
    wait("both processes run", SOON, || (bowline.processes_of("stubborn").len() == 2).then_some(()));
    assert!(up.interrupt().success());
    assert!(bowline.processes_of("stubborn").is_empty(), "the whole tree is gone");
}

#[test]
fn the_same_name_from_another_folder_is_refused_naming_the_first() {
    let bowline = Bowline::new();
    let first = bowline.app("same-name", "plain");
    let _up = Up::start(&bowline, &first, SOON);
    let second = bowline.folder("elsewhere/same-name");
    bowline_tests::copy(&first, &second);
    let said = bowline.fails(&up_args(&second), 3);
    assert!(said.contains(first.to_str().expect("UTF-8")), "the first folder is named:\n{said}");
    assert_eq!(bowline.status()["apps"][0]["state"], "ready", "the first goes on");
}

#[test]
fn a_release_that_fails_leaves_the_one_before_serving() {
    let bowline = Bowline::new();
    let folder = bowline.app("bad-second", "plain");
    let up = Up::start(&bowline, &folder, SOON);
    std::fs::write(folder.join("server.py"), "import sys\nsys.exit('broken on purpose')\n").expect("a test's file");
    let said = bowline.fails(&up_args(&folder), 1);
    assert!(said.contains("broken on purpose"), "{said}");
    let answer = bowline_tests::client::curl(&bowline.ca(), &up.https(), &[]);
    assert_eq!((answer.status, answer.text().contains(".r1.")), (200, true), "{}", answer.text());
    assert_eq!(bowline.processes_of("bad-second").len(), 1, "nothing is left of the second");
}

#[test]
fn limits_are_enforced_where_the_machine_can() {
    let hog = "import os,time\nfrom http.server import *\nimport threading\n\
               def eat():\n    time.sleep(0.5)\n    x = bytearray(200 << 20)\n    time.sleep(600)\n\
               threading.Thread(target=eat, daemon=True).start()\n\
               HTTPServer(('127.0.0.1', int(os.environ['PORT'])), SimpleHTTPRequestHandler).serve_forever()\n";
    let bowline = Bowline::new();
    let toml = "[service.web]\nrun = \"python3 hog.py\"\nlimits = { memory = \"64MiB\" }\n";
    let folder = app(&bowline, "memory-hog", toml, &[("hog.py", hog)]);
    let _up = Up::start(&bowline, &folder, SOON);
    wait("the cause is recorded", SOON, || {
        let output = bowline.run(&["logs", "memory-hog"]);
        text(&output).to_lowercase().contains("memory limit").then_some(())
    });
}

/// The longest wait that `status` has shown, in seconds, by how often it had failed.
type Backoffs = BTreeMap<u32, f64>;

fn backoff(instance: &Value) -> Option<(u32, f64)> {
    let said = instance["waits_on"].as_str()?.strip_prefix("backoff: next start in ")?;
    let (left, failed) = said.split_once("s, failed ")?;
    let times = if failed == "once" { 1 } else { failed.strip_suffix(" times")?.parse().ok()? };
    Some((times, left.parse().ok()?))
}

#[test]
fn an_app_that_dies_again_and_again_waits_longer_each_time_and_its_neighbour_serves_on() {
    let bowline = Bowline::new();
    let neighbour = Up::start(&bowline, &bowline.app("loop-neighbour", "plain"), SOON);
    let folder = bowline.app("loop-dies", "plain");
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the fixture's file");
    let code = file("server.py")
        .replace("            os._exit(3)\n", "            open(DIES, 'w')\n            os._exit(3)\n")
        .replace("\n\nclass Handler", "\nDIES = os.environ['BOWLINE_VOLUME_MARKS'] + '/dies'\n\n\nclass Handler")
        .replace("__main__\":\n", "__main__\":\n    if os.path.exists(DIES):\n        sys.exit(3)\n");
    assert_eq!(code.matches("DIES").count(), 3, "the fixture has such lines");
    std::fs::write(folder.join("server.py"), code).expect("a test's file");
    std::fs::write(folder.join("bowline.toml"), file("bowline.toml") + "\n[volume.marks]\n").expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    let (copy, load) = (only_copy(&bowline, "loop-neighbour"), Load::start(&neighbour.https(), "/", &bowline.ca()));
    let instance = || {
        let status = bowline.status();
        let apps = status["apps"].as_array().expect("apps");
        let app = apps.iter().find(|app| app["app"] == "loop-dies").expect("it is known");
        app["services"][0]["instances"][0].clone()
    };
    assert_eq!((instance()["state"].clone(), instance()["restarts"].clone()), ("ready".into(), 0.into()));
    let _ = bowline_tests::client::curl(&bowline.ca(), &format!("{}/crash", up.https()), &[]);
    let mut seen = Backoffs::new();
    // After three failures it is four seconds at most.
    wait("it waits for longer than at first", SOON, || {
        let instance = instance();
        let (times, left) = backoff(&instance)?;
        assert_eq!(instance["restarts"], times - 1, "each start is counted: {instance}");
        let longest = seen.entry(times).or_default();
        *longest = longest.max(left);
        (times > 3 && left > 4.0).then_some(())
    });
    let bounded = |(times, left): (&u32, &f64)| *left <= f64::from(1u32 << (times - 1)) + 0.1;
    assert!(seen.iter().all(bounded), "one second, doubled by each failure: {seen:?}");
    assert_eq!(only_copy(&bowline, "loop-neighbour"), copy, "the neighbour was left alone");
    std::fs::remove_file(bowline.state().join("volumes/local/loop-dies/marks/dies")).expect("the app has made it");
    wait("it is back when it dies no more", SOON, || (instance()["state"] == "ready").then_some(()));
    load.stop().expect_no_failure("beside an app that died again and again");
    assert_eq!(only_copy(&bowline, "loop-neighbour"), copy, "the neighbour was left alone");
}
