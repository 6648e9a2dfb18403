//! `bowline bench` and the load generator behind it, against the real edge.

use std::path::Path;
use std::time::Duration;

use bowline_load::{Load, Pace, PerSecond, Plan, Report, Target};
use bowline_tests::machine::Process;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, text, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long the server is stopped.
const STALL: Duration = Duration::from_millis(500);
/// Far above what an answer takes, and half of the stall: of the requests that are due in it, half wait longer.
const SLOW_US: u64 = 250_000;
/// Requests a second: little enough for a busy machine.
const RATE: f64 = 200.0;
/// Of a closed loop: so many requests meet the stall, and no more.
const CONNECTIONS: usize = 2;

fn plan(url: &str, bowline: &Bowline) -> Plan {
    let mut plan = Plan::new(Target::parse(url).expect("a URL"));
    plan.roots = std::fs::read(bowline.ca()).expect("the local CA");
    plan.duration = Duration::from_secs(4);
    let rate = PerSecond::new(RATE).expect("a rate");
    plan.pace = Pace::Open { from: rate, to: rate, gaps: bowline_load::Gaps::Even };
    plan
}

/// Loads, and stops the edge once while it does.
fn with_a_stall(plan: Plan, bowline: &Bowline) -> Report {
    let edge = Process { pid: bowline.edge() };
    let load = Load::start(plan).expect("a load that can be generated");
    wait("the load goes on", SOON, || (load.progress().succeeded > 100).then_some(()));
    edge.stall(STALL);
    load.report().expect("the load ends")
}

/// Requests that took longer than [`SLOW_US`], of how many.
fn slow(report: &Report) -> (u64, u64) {
    let slow = report.latency.steps.iter().filter(|step| step.up_to_us > SLOW_US).map(|step| step.samples).sum();
    (slow, report.latency.samples)
}

/// A server that stands still for half a second makes everybody wait who comes meanwhile. An open loop says so; a closed one
/// asks nothing meanwhile, and its p99 looks as if nothing had been.
#[test]
fn an_open_loop_sees_a_stall_that_a_closed_loop_hides() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("bench-stall", "static-site"), SOON);

    let open = with_a_stall(plan(&up.https(), &bowline), &bowline);
    assert_eq!(open.counts.failed, 0, "{:?}", open.failures);
    assert!(open.latency.max_us >= 480_000, "{:?}", open.latency);
    let (waited, all) = slow(&open);
    assert!(waited * 50 >= all, "more than 2 % must have waited: {waited} of {all}");
    // What the server itself took is small for most, also of those that were due in the stall.
    assert!(open.service.us(500_000).is_some_and(|p50| p50 < SLOW_US), "{:?}", open.service);

    let mut closed = plan(&up.https(), &bowline);
    (closed.pace, closed.connections) = (Pace::Closed, CONNECTIONS);
    let closed = with_a_stall(closed, &bowline);
    assert_eq!(closed.counts.failed, 0, "{:?}", closed.failures);
    let (waited, all) = slow(&closed);
    assert!(waited > 0 && waited * 100 < all, "less than 1 % must have waited: {waited} of {all}");
}

fn answer(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

/// Everything that a request may be, over TLS with the local CA; what fails is told, with the exit code that says so.
#[test]
fn bench_judges_every_answer() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("bench-verb", "plain"), SOON);
    let url = up.https();
    let files = bowline.folder("bench-files");
    std::fs::write(files.join("a.txt"), "one").expect("a file");
    std::fs::write(files.join("b.bin"), vec![7; 100_000]).expect("a file");
    let short = ["--duration", "1s", "--warm-up", "200ms", "--rate", "50/s"];
    let run = |words: &[&str]| bowline.run(&[&["bench", "--json"], &short[..], words].concat());
    let check = |words: &[&str], code: i32| {
        let output = run(words);
        let report = answer(&output);
        // A generator that a busy machine delays says so, and ends with 1.
        let late = report["valid"] == false;
        assert!(output.status.code() == Some(code) || late, "{words:?}: {}", text(&output));
        assert_eq!(report["counts"]["offered"], 50, "{words:?}: {}", text(&output));
        report
    };
    let good = ["--new-connections", "50%", "--body", "hi", "--body-share", "10%", "--expect", "200"];
    let report = check(&[&[&url[..]], &good[..], &["--expect", "header:content-type"]].concat(), 0);
    assert_eq!(report["counts"]["succeeded"], 50, "{report}");
    assert!(report["connecting"]["samples"].as_u64().is_some_and(|n| (10..40).contains(&n)), "{report}");

    let report = check(&[&url, "--http2", "--expect", "body:hello from"], 0);
    assert_eq!((&report["counts"]["failed"], &report["run"]["protocol"]), (&0.into(), &"HTTP/2".into()), "{report}");

    let upload = files.to_str().expect("paths of tests are UTF-8");
    let report = check(&[&url, "--upload", upload], 0);
    assert_eq!(report["counts"]["failed"], 0, "{report}");
    assert!(report["sent_bytes"].as_u64().is_some_and(|sent| sent > 25 * 100_000), "{report}");

    for expected in ["404", "body:goodbye", "header:x-none", "max<1ms"] {
        let report = check(&[&url, "--expect", expected], 1);
        assert_eq!(report["met"], false, "{expected}: {report}");
    }
    assert!(bowline.fails(&["bench", "http://127.0.0.1:1/"], 4).contains("does not answer"));
    assert!(bowline.fails(&["bench", "app.localhost"], 2).contains("no scheme"));
}

/// A report for a browser, a comparison with the run before, and an interrupt that still reports.
#[test]
fn bench_reports_and_compares() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("bench-report", "plain"), SOON);
    let folder = bowline.folder("bench-reports");
    let path = |name: &str| folder.join(name).to_str().expect("paths of tests are UTF-8").to_owned();
    let (before, page) = (path("before.json"), path("page.html"));

    let mut child = bowline
        .command(&["bench", &up.https(), "--json", "--duration", "10m", "--warm-up", "0s"])
        .stdout(std::fs::File::create(&before).expect("a file"))
        .spawn()
        .expect("the binary runs");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // The edge's own count says that the load has begun.
    wait("the load goes on", SOON, || (requests(&up) > 50).then_some(()));
    kill(pid, Signal::SIGINT).expect("the child is there");
    let status = wait("bench ends after Ctrl-C", SOON, || child.try_wait().expect("the child can be waited for"));
    assert_eq!(status.code(), Some(130));
    let report: Value = serde_json::from_slice(&std::fs::read(&before).expect("a report")).expect("JSON");
    assert!(report["counts"]["succeeded"].as_u64().is_some_and(|n| n > 40), "{report}");
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds < 100.0), "{report}");

    let words = ["bench", &up.https(), "--duration", "1s", "--compare", &before, "--html", &page, "--poisson"];
    let output = bowline.run(&words);
    let said = text(&output);
    for words in ["only 127.0.0.1:", "latency", "offered", "before", "not the same: load"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let html = std::fs::read_to_string(Path::new(&page)).expect("the page");
    assert!(html.starts_with("<!doctype html>") && html.contains("Compared with the run before"), "{html}");
}

/// Requests that the edge has counted.
fn requests(up: &Up) -> u64 {
    let metrics = bowline_tests::client::curl(Path::new("/dev/null"), &format!("{}/metrics", up.admin()), &[]).text();
    let line = metrics.lines().find(|line| line.starts_with("http_server_request_duration_seconds_count"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}
