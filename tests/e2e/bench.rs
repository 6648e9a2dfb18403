//! `bowline bench` and the load generator behind it, against the real edge.

use std::path::Path;
use std::process::{Command, Stdio};
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
/// What a request waited that was there when the stall began: all of it, but for the moment until the edge would have read it.
const MET_US: u64 = 480_000;
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
    assert!(open.latency.max_us >= MET_US, "{:?}", open.latency);
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

/// Latencies as somebody else counts them, in microseconds.
#[derive(Debug)]
struct Counted {
    p99: u64,
    max: u64,
    /// Requests that were answered.
    sent: u64,
}

/// Runs another generator, stalls the edge once it loads, and returns what it says.
fn other_with_a_stall(up: &Up, bowline: &Bowline, command: &mut Command) -> String {
    let edge = Process { pid: bowline.edge() };
    let before = requests(up);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("wrk and nghttp2-client are installed by scripts/setup");
    wait("the load goes on", SOON, || (requests(up) > before + 100).then_some(()));
    edge.stall(STALL);
    let output = child.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// `1.20ms`, as `wrk` writes it.
fn wrk_us(word: &str) -> Option<u64> {
    let digits = word.find(|c: char| c.is_ascii_alphabetic())?;
    let times = match &word[digits..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some((word[..digits].parse::<f64>().ok()? * times) as u64)
}

fn wrk(up: &Up, bowline: &Bowline) -> Counted {
    // The name is the app's, in SNI and Host; only it is not asked of a resolver, which knows no names below localhost.
    let script = bowline.folder("wrk").join("resolve.lua");
    let resolve = "wrk.resolve = function(_, service) wrk.addrs = wrk.lookup('127.0.0.1', service) end\n";
    std::fs::write(&script, resolve).expect("a file of the test");
    let mut command = Command::new("wrk");
    let connections = CONNECTIONS.to_string();
    command.args(["--threads", "1", "--connections", &connections, "--duration", "4s", "--latency", "--script"]);
    let said = other_with_a_stall(up, bowline, command.arg(&script).arg(up.https()));
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    let words = |start: &str| {
        let lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.into_iter().find(|words| words.first() == Some(&start) && words.len() > 1)
    };
    let us = |start: &str, at: usize| words(start).and_then(|words| wrk_us(words.get(at)?));
    // Thread Stats: Avg, Stdev, Max, +/- Stdev.
    let (p99, max) = (us("99%", 1), us("Latency", 3));
    // `N requests in 4.00s, …`
    let sent = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let counted = p99.zip(max).zip(sent).map(|((p99, max), sent)| Counted { p99, max, sent });
    counted.unwrap_or_else(|| panic!("{said}"))
}

fn h2load(up: &Up, bowline: &Bowline) -> Counted {
    let (folder, connections) = (bowline.folder("h2load"), CONNECTIONS.to_string());
    let log = folder.join("requests");
    let (_, address) = bowline_tests::client::target(&up.https());
    let mut command = Command::new("h2load");
    command.args(["--clients", &connections, "--duration", "4", "--connect-to", &address.to_string(), "--log-file"]);
    let said = other_with_a_stall(up, bowline, command.arg(&log).arg(up.https()));
    // What it prints has no percentiles: they are of each request's time, in its own log.
    let log = std::fs::read_to_string(log).expect("its log");
    let rows: Vec<Vec<&str>> = log.lines().map(|line| line.split('\t').collect()).collect();
    assert!(rows.iter().all(|row| row[1] == "200"), "{said}");
    let mut times: Vec<u64> = rows.iter().map(|row| row[2].parse().expect("microseconds")).collect();
    times.sort_unstable();
    Counted { p99: times[times.len() * 99 / 100], max: *times.last().expect("requests"), sent: times.len() as u64 }
}

/// What a machine that does other things meanwhile may show at the next look only.
fn once(what: &str, look: impl Fn() -> Result<(), String>) {
    let seen: Vec<String> = (0..5).map_while(|_| look().err()).collect();
    assert!(seen.len() < 5, "{what}: {seen:?}");
}

/// What others count while the same happens. They ask nothing while they wait: of what they asked, [`CONNECTIONS`] requests met it.
/// `h2load` says so. `wrk` afterwards adds requests that it never sent, by how fast the others were answered: its p99 is a guess, of which
/// nothing is expected here (docs/decisions/0039).
#[test]
fn wrk_and_h2load_do_not_see_the_stall() {
    let bowline = Bowline::new();
    let up = Up::start(&bowline, &bowline.app("bench-others", "static-site"), SOON);

    once("h2load says that 99 % were quick", || {
        let h2load = h2load(&up, &bowline);
        (h2load.max >= MET_US && h2load.p99 < SLOW_US).then_some(()).ok_or(format!("{h2load:?}"))
    });
    once("99 % of what wrk sent did not meet it", || {
        let wrk = wrk(&up, &bowline);
        (wrk.max >= MET_US && wrk.sent > 100 * CONNECTIONS as u64).then_some(()).ok_or(format!("{wrk:?}"))
    });
    once("of what was sent, more than 2 % waited", || {
        let (waited, all) = slow(&with_a_stall(plan(&up.https(), &bowline), &bowline));
        (waited * 50 >= all).then_some(()).ok_or(format!("{waited} of {all}"))
    });
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
