//! A rollout as it moves is seen: by whoever follows it, in `status`, and after the death of a daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use bowline_tests::browser::Browser;
use bowline_tests::load::Load;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, path, terminal, text, wait};
use serde_json::Value;

const ENV: [&str; 2] = ["--env", "production"];

/// An app on a server, released once, and its folder with a second release; the answer of that one.
fn prepared(bowline: &Bowline, name: &str, steps: &str, second: &str) -> (PathBuf, String) {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    let toml = format!(
        "{plain}\n[route.main]\nto = \"web\"\n[rollout]\nstrategy = \"canary\"\nsteps = [{steps}]\n\
         abort = [\"error_rate > 20%\"]\nwatch = \"2s\"\n[environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n"
    );
    std::fs::write(&file, toml).expect("a file of the test");
    let first = bowline.run(&deploy(&folder));
    assert!(first.status.success(), "{}", text(&first));
    let code = std::fs::read_to_string(folder.join("server.py")).expect("the fixture's file");
    let answer =
        "            self.answer(b\"hello from \" + os.environ.get(\"BOWLINE_INSTANCE\", \"nowhere\").encode())";
    assert!(code.contains(answer), "the fixture answers as it did");
    let code = code.replace(answer, &format!("            {second}"));
    std::fs::write(folder.join("server.py"), code).expect("a file of the test");
    let https = bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
    let port = https.rsplit_once(':').expect("a port").1.to_owned();
    (folder, format!("https://{name}.localhost:{port}"))
}

fn deploy(folder: &Path) -> Vec<&str> {
    [&["deploy", path(folder)][..], &ENV].concat()
}

fn begin(bowline: &Bowline, folder: &Path, more: &[&str]) -> Child {
    let mut command = bowline.command(&[&deploy(folder)[..], more].concat());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn rollout(bowline: &Bowline) -> Value {
    bowline.status()["apps"][0]["change"]["rollout"].clone()
}

/// What the steps so far carried.
fn weights(rollout: &Value) -> Vec<u64> {
    let all = rollout["weights"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|one| one["weight"].as_u64()).collect()
}

#[test]
fn a_canary_that_is_followed_shows_its_weights_and_its_verdicts() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, url) = prepared(&bowline, "seen-good", "\"20% for 2s\", \"50% for 2s\"", "self.answer(b\"second\")");
    let load = Load::start_whole(&url, "/", &bowline.ca());
    let output = begin(&bowline, &folder, &[]).wait_with_output().expect("it was started");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for line in [
        "release 2 carries 20%, step 1 of 2",
        " · canary 0 of ",
        "step 1 of 2 is over, with 20%: web: canary 0 of ",
        "release 2 carries 50%, step 2 of 2",
        "step 2 of 2 is over, with 50%: ",
        "release 2 carries 100%, watched",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("judged for another"), "what counts down is no line: {said}");
    load.stop().expect_no_failure("while a canary took over");
}

/// Its lines that are drawn, in their order: the bar, and what was judged.
fn drawn(frame: &str) -> (Vec<&str>, Vec<&str>) {
    let judged = |line: &&str| line.starts_with("    web: ") && line.contains(" failed");
    (
        frame.lines().filter(|line| line.contains('░') || line.contains('█')).collect(),
        frame.lines().filter(judged).collect(),
    )
}

#[test]
fn on_a_terminal_a_canary_is_drawn_in_place_and_counts_down_without_news() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, url) = prepared(&bowline, "seen-tty", "\"50% for 12s\"", "self.answer(b\"second\")");
    let load = Load::start_whole(&url, "/", &bowline.ca());
    let (written, status) = terminal::run(bowline.command(&deploy(&folder)));
    assert!(status.success(), "{written}");
    load.stop().expect_no_failure("while a canary took over");
    let frames = terminal::seen(&written);
    let (end, moving) = frames.split_last().expect("the end is seen");
    let step = "  [██████████░░░░░░░░░░] 50%  step 1 of 1";
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for frame in moving {
        let (bars, verdicts) = drawn(frame);
        assert!(bars.len() <= 1 && verdicts.len() <= 1, "one is in the place of the other: {frame}");
        if let (Some(clock), [verdict]) = (bars.first().and_then(|bar| bar.strip_prefix(step)), &verdicts[..]) {
            left.entry(*verdict).or_default().insert(clock);
        }
    }
    assert!(left.keys().any(|verdict| verdict.starts_with("    web: passes · canary 0 of ")), "{left:?}");
    // Verdicts come every five seconds.
    let counted = left.values().map(BTreeSet::len).max();
    assert!(counted >= Some(3) && left.values().flatten().any(|clock| clock.ends_with(" left")), "{left:?}");
    let watched = "  [████████████████████] 100%  watched  0:0";
    assert!(moving.iter().any(|frame| drawn(frame).0.iter().any(|bar| bar.starts_with(watched))), "{written:?}");
    assert_eq!(drawn(end), (vec![], vec![]), "nothing of it is left");
    assert!(!end.contains('…') && !end.contains(" left"), "{end}");
    assert!(
        end.contains("    step 1 of 1 is over, with 50%: web: canary 0 of ")
            && end.contains("seen-tty serves: release 2"),
        "{end}"
    );
}

#[test]
fn programs_are_told_each_step_of_a_rollout_and_why_it_was_taken_back() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let second = "self.answer(b\"\") if self.path == \"/health\" else self.send_error(500)";
    let (folder, url) = prepared(&bowline, "seen-bad", "\"40% for 1h\"", second);
    let asking = Load::start_whole(&url, "/", &bowline.ca());
    let output = begin(&bowline, &folder, &["--json"]).wait_with_output().expect("it was started");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let steps: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let told: Vec<&Value> =
        steps.iter().map(|line| &line["step"]["rollout"]).filter(|rollout| rollout.is_object()).collect();
    let judged = told.iter().find(|now| now["weight"] == 40).expect("it carries something");
    assert_eq!((&judged["strategy"], &judged["stage"]), (&"canary".into(), &"step".into()), "{judged}");
    assert_eq!((&judged["step"], &judged["of"], &judged["stable"]), (&1.into(), &1.into(), &1.into()), "{judged}");
    let hold = judged["ends"].as_u64().expect("an end") - judged["since"].as_u64().expect("a beginning");
    assert!((3_600_000..3_700_000).contains(&hold), "{judged}");
    assert!(told.iter().any(|now| now["stage"] == "undoing"), "{told:?}");
    asking.stop();
}

#[test]
fn status_has_the_figures_and_the_next_daemon_knows_the_steps_before() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let (folder, url) = prepared(&bowline, "seen-on", "\"20% for 1s\", \"50% for 1h\"", "self.answer(b\"second\")");
    let load = Load::start_whole(&url, "/", &bowline.ca());
    let deploying = begin(&bowline, &folder, &[]);
    let judged = || {
        let now = rollout(&bowline);
        let passes = now["verdicts"][0]["verdict"] == "pass";
        (now["step"] == 2 && now["weight"] == 50 && passes).then_some(now)
    };
    let before = wait("the second step is judged", SOON, judged);
    let verdict = &before["verdicts"][0];
    assert_eq!((&verdict["service"], &verdict["canary"]["failed"]), (&"web".into(), &0.into()), "{verdict}");
    assert!(verdict["canary"]["requests"].as_u64() > Some(10), "{verdict}");
    assert!(verdict["baseline"]["p99_us"].as_u64() > Some(0), "{verdict}");
    assert_eq!(verdict["rules"][1]["limit"], "20%", "{verdict}");
    assert_eq!(before["steps"][0]["verdicts"][0]["verdict"], "pass", "{before}");
    assert_eq!(weights(&before), [0, 20, 50], "{before}");
    let shown = text(&bowline.run(&[&["status", "seen-on"][..], &ENV].concat()));
    for line in ["step 1 of 2: 20% for ", "[██████████░░░░░░░░░░] 50%  step 2 of 2  59:", "web: passes · canary "]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    bowline.kill_daemon();
    drop(server);
    let _next = Server::start(&bowline);
    let after = wait("the next daemon judges it", SOON, judged);
    assert_eq!(after["steps"][0], before["steps"][0], "what was decided before is known");
    assert_eq!(after["since"], before["since"]);
    assert_eq!(weights(&after), [0, 20, 50], "{after}");
    let aborted = bowline.run(&[&["abort", "seen-on"][..], &ENV].concat());
    assert!(aborted.status.success(), "{}", text(&aborted));
    let output = deploying.wait_with_output().expect("it was started");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    load.stop();
}

#[test]
fn the_console_says_what_is_waited_for_and_who_is_to_decide() {
    let bowline = Bowline::new();
    let _server = Server::start(&bowline);
    let (folder, _) = prepared(&bowline, "seen-held", "\"50% for 1s\"", "self.answer(b\"second\")");
    let console = format!("http://{}/", bowline.status()["daemon"]["admin"].as_str().expect("an address"));
    let (held, mut browser) = (begin(&bowline, &folder, &[]), Browser::start());
    browser.open(&console, 1280, false);
    // Nobody asks.
    for text in ["release 2: 50%", "step 1 of 1, held", "no requests of the canary yet", "waits for 14 more requests"] {
        browser.sees(text);
    }
    browser.inspect("canary-held-light");
    let aborted = bowline.run(&[&["abort", "seen-held"][..], &ENV].concat());
    assert!(aborted.status.success(), "{}", text(&aborted));
    assert_eq!(held.wait_with_output().expect("it was started").status.code(), Some(1));
    browser.sees_no("step 1 of 1, held");

    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("a file of the test");
    let of_canary = "strategy = \"canary\"\nsteps = [\"50% for 1s\"]";
    assert!(toml.contains(of_canary), "{toml}");
    std::fs::write(&file, toml.replace(of_canary, "strategy = \"blue-green\"")).expect("a file of the test");
    let waits = begin(&bowline, &folder, &[]);
    browser.sees("step 1 of 1: promote or abort?");
    browser.inspect("blue-green-waits-light");
    let promoted = bowline.run(&[&["promote", "seen-held"][..], &ENV].concat());
    assert!(promoted.status.success(), "{}", text(&promoted));
    browser.sees_no("promote or abort?");
    assert!(waits.wait_with_output().expect("it was started").status.success());
}

#[test]
fn the_console_draws_a_rollout_as_it_moves() {
    let bowline = Bowline::new();
    let server = Server::start(&bowline);
    let (folder, url) = prepared(&bowline, "seen-page", "\"20% for 3s\", \"50% for 1h\"", "self.answer(b\"second\")");
    let load = Load::start_whole(&url, "/", &bowline.ca());
    let deploying = begin(&bowline, &folder, &[]);
    let console = format!("http://{}/", bowline.status()["daemon"]["admin"].as_str().expect("an address"));
    let mut browser = Browser::start();
    browser.open(&console, 1280, false);
    for text in ["Release 2 is to follow release 1", "release 2: 50%", "step 2 of 2, 59:", " of 1 h", "0 of "] {
        browser.sees(text);
    }
    let judged = ".judged li";
    assert_eq!(browser.count(judged), 2);
    wait("the second step passes, too", SOON, || {
        let all = browser.text();
        (all.matches("; limit 20%; passed").count() == 2).then_some(())
    });
    assert_eq!(browser.count("svg[aria-label=\"What release 2 of seen-page carried: 0%, then 20%, then 50%\"]"), 1);
    browser.inspect("canary-light");
    browser.open(&console, 1280, true);
    browser.sees("release 2: 50%");
    browser.inspect("canary-dark");
    browser.open(&console, 360, true);
    browser.sees("release 2: 50%");
    browser.inspect("canary-phone-dark");
    let promoted = bowline.run(&[&["promote", "seen-page"][..], &ENV].concat());
    assert!(promoted.status.success(), "{}", text(&promoted));
    browser.sees_no("release 2: 50%");
    assert!(deploying.wait_with_output().expect("it was started").status.success());
    // How it went stays in view.
    browser.sees("Release 2 took over from 1");
    assert_eq!(browser.count(judged), 2);
    browser.inspect("canary-over-phone-dark");
    load.stop().expect_no_failure("while it was looked at");

    // What was answered before is known to the next daemon, too.
    bowline.kill_daemon();
    drop(server);
    let _next = Server::start(&bowline);
    let console = format!("http://{}/", bowline.status()["daemon"]["admin"].as_str().expect("an address"));
    browser.open(&console, 360, false);
    browser.sees("2 min ago");
    let of = |range: &str| format!("svg[aria-label^=\"Requests of seen-page in the last {range}: \"]");
    for (button, range) in [("24 h", "24 h"), ("15 min", "15 min")] {
        browser.click(button);
        assert_eq!(browser.count(&of(range)), 1, "{range}");
        assert_eq!(browser.count(&format!("{} path.area.release-2", of(range))), 1, "{range}");
    }
    browser.inspect("history-phone-light");
}
