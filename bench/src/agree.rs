//! Whether `bowline bench` counts as `wrk` and `h2load` do: throughput of a closed loop against the same server, which is what limits,
//! since it answers at a pace of its own. And how much each generates where no pace is kept, of which nothing is asserted.
//!
//! The server has core 0, the load core 1. Rounds take turns, so that whatever else the machine does falls on all alike; medians are
//! compared.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::{Map, Value, json};

use crate::figure::Runs;
use crate::peer::{self, Peer};
use crate::{FAULTS, bowline, say, setting};

/// How long the server may take to listen.
const READY: Duration = Duration::from_secs(20);
/// Kept connections over HTTP/1.1.
const CONNECTIONS: &str = "32";
/// Connections of HTTP/2, and requests at once on each.
const MULTIPLEXED: (&str, &str) = ("4", "8");

/// How far the counts of `bowline bench` may be from each of the others'.
const WITHIN: f64 = 0.05;

/// One way to load the server.
struct Way {
    name: &'static str,
    protocol: &'static str,
    command: fn(&Place) -> anyhow::Result<Command>,
    /// What it printed.
    read: fn(&str) -> Option<Counted>,
}

/// What a generator says of its run.
#[derive(Clone, Copy)]
struct Counted {
    per_second: f64,
    /// It says itself that it was what limited.
    is_own_limit: bool,
}

impl From<f64> for Counted {
    fn from(per_second: f64) -> Self {
        Self { per_second, is_own_limit: false }
    }
}

/// What the server does with who is too fast.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    /// It answers 4,000 requests a second.
    Pace,
    None,
}

/// The runs of one way.
struct Measured {
    per_second: Runs,
    /// Processor time of the generator for a request, in microseconds.
    cpu_us: Runs,
}

/// What the commands are told.
struct Place {
    http1: String,
    http2: String,
    seconds: u32,
}

const WAYS: [Way; 5] = [
    Way { name: "bowline bench", protocol: "HTTP/1.1", command: |place| bench(&place.http1, place, &[]), read: ours },
    Way { name: "wrk", protocol: "HTTP/1.1", command: wrk, read: |text| after(text, "Requests/sec:") },
    Way { name: "h2load", protocol: "HTTP/1.1", command: |place| h2load(&place.http1, place, true), read: theirs },
    Way {
        name: "bowline bench",
        protocol: "HTTP/2",
        command: |place| bench(&place.http2, place, &["--http2"]),
        read: ours,
    },
    Way { name: "h2load", protocol: "HTTP/2", command: |place| h2load(&place.http2, place, false), read: theirs },
];

pub(crate) fn run() -> anyhow::Result<Value> {
    let (rounds, seconds) = (setting("BENCH_ROUNDS", 7)?, setting("BENCH_SECONDS", 5)?);
    let server = peer::answers()?;
    let measured = wait(&server).and_then(|()| {
        let place = |file: &str| {
            let url = |port: u16| format!("http://127.0.0.1:{port}/{file}");
            Place { http1: url(server.http.port()), http2: url(server.https.port()), seconds }
        };
        measure([(Limit::Pace, place("answer.txt")), (Limit::None, place("small.txt"))], rounds)
    });
    server.stop();
    let [paced, free] = measured?;
    let (counting, faults) = show_counting(&paced);
    Ok(json!({ "counting": counting, "generating": show_generating(&free), FAULTS: faults }))
}

fn wait(server: &Peer) -> anyhow::Result<()> {
    let until = std::time::Instant::now() + READY;
    while !server.listens() {
        ensure!(std::time::Instant::now() < until, "nginx does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn measure(places: [(Limit, Place); 2], rounds: u32) -> anyhow::Result<[Vec<Measured>; 2]> {
    let mut values = places.each_ref().map(|_| WAYS.map(|_| (Vec::new(), Vec::new())));
    for _ in 0..rounds {
        for ((limit, place), values) in places.iter().zip(&mut values) {
            for (way, (per_second, cpu_us)) in WAYS.iter().zip(values) {
                let (counted, cpu) = one(way, *limit, place)?;
                per_second.push(counted);
                cpu_us.push(cpu.as_secs_f64() * 1e6 / (counted * f64::from(place.seconds)).max(1.0));
            }
        }
    }
    Ok(values.map(|ways| {
        let runs = |(per_second, cpu_us)| Measured { per_second: Runs::new(per_second), cpu_us: Runs::new(cpu_us) };
        ways.into_iter().map(runs).collect()
    }))
}

/// Requests a second, and the processor time of the generator.
fn one(way: &Way, limit: Limit, place: &Place) -> anyhow::Result<(f64, Duration)> {
    let before = children_time()?;
    let output = (way.command)(place)?.stdin(Stdio::null()).output().context(way.name)?;
    let took = children_time()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let counted = (way.read)(&text).filter(|counted| limit == Limit::None || !counted.is_own_limit);
    let counted = counted.with_context(|| format!("{}: {text}{errors}", way.name))?;
    Ok((counted.per_second, took))
}

/// Processor time of all children that have ended and were waited for.
fn children_time() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or_default();
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

/// On the core that the server does not have.
fn on_core_1(program: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program);
    command
}

const HEADER: &str = "Accept-Encoding: gzip";

fn bench(url: &str, place: &Place, more: &[&str]) -> anyhow::Result<Command> {
    let mut command = on_core_1(bowline()?.as_os_str());
    let time = format!("{}s", place.seconds);
    command.args(["bench", url, "--json", "--closed", "--warm-up", "0s", "--duration", &time, "--header", HEADER]);
    let (connections, streams) = MULTIPLEXED;
    match more.is_empty() {
        true => command.args(["--connections", CONNECTIONS]),
        false => command.args(more).args(["--connections", connections, "--streams", streams]),
    };
    Ok(command)
}

#[expect(clippy::unnecessary_wraps, reason = "as the other ways are")]
fn wrk(place: &Place) -> anyhow::Result<Command> {
    let mut command = on_core_1("wrk".as_ref());
    command.args(["-t1", "-c", CONNECTIONS, "-d", &format!("{}s", place.seconds), "-H", HEADER, &place.http1]);
    Ok(command)
}

#[expect(clippy::unnecessary_wraps, reason = "as the other ways are")]
fn h2load(url: &str, place: &Place, http1: bool) -> anyhow::Result<Command> {
    let mut command = on_core_1("h2load".as_ref());
    let (connections, streams) = if http1 { (CONNECTIONS, "1") } else { MULTIPLEXED };
    command.args(["-t1", "-c", connections, "-m", streams, "-D", &place.seconds.to_string(), "-H", HEADER]);
    if http1 {
        command.arg("--h1");
    }
    command.arg(url);
    Ok(command)
}

/// A run in which a request failed is no figure. One that is not valid without that was limited by the generator.
fn ours(text: &str) -> Option<Counted> {
    let report: Value = serde_json::from_str(text).ok()?;
    let per_second = report["completed_per_second"].as_f64().filter(|_| report["counts"]["failed"] == 0)?;
    Some(Counted { per_second, is_own_limit: report["valid"] != true })
}

/// `finished in 5.00s, 12345.60 req/s, 3.21MB/s`
fn theirs(text: &str) -> Option<Counted> {
    let line = text.lines().find(|line| line.starts_with("finished in"))?;
    line.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok().map(f64::into)
}

fn after(text: &str, name: &str) -> Option<Counted> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok().map(f64::into)
}

/// Each way with its runs, and those of `bowline bench` to it.
fn rows(measured: &[Measured]) -> impl Iterator<Item = (&'static Way, &Measured, f64)> {
    WAYS.iter().zip(measured).map(move |(way, runs)| {
        let own = WAYS.iter().zip(measured).find(|(own, _)| own.protocol == way.protocol);
        let own = own.map_or(f64::NAN, |(_, runs)| runs.per_second.median());
        (way, runs, own / runs.per_second.median())
    })
}

/// And where it counts otherwise.
fn show_counting(measured: &[Measured]) -> (Value, Vec<String>) {
    say("Counting, against a server that answers 4,000 requests a second:\n");
    say("| | | requests/s, median (min–max) | `bowline bench` to it |");
    say("|---|---|---|---|");
    let (mut result, mut faults) = (Map::new(), Vec::new());
    for (way, Measured { per_second, .. }, ratio) in rows(measured) {
        let name = format!("{} {}", way.protocol, way.name);
        let (median, min, max) = (per_second.median(), per_second.min(), per_second.max());
        say(&format!("| {} | {} | {median:.0} ({min:.0}–{max:.0}) | {ratio:.3} |", way.protocol, way.name));
        if !(1.0 - WITHIN..=1.0 + WITHIN).contains(&ratio) {
            faults.push(format!("{name}: `bowline bench` counts {ratio:.3} of it, beyond {WITHIN}"));
        }
        result.insert(name, json!({ "requests_per_second": per_second.json(), "ours_to_it": ratio }));
    }
    (result.into(), faults)
}

fn show_generating(measured: &[Measured]) -> Value {
    say("\nGenerating, against a server that answers 12 bytes as fast as its core can; of this nothing is asserted:\n");
    say(
        "| | | requests/s, median (min–max) | `bowline bench` to it | µs of its processor for a request, median (min–max) |",
    );
    say("|---|---|---|---|---|");
    let mut result = Map::new();
    for (way, Measured { per_second, cpu_us }, ratio) in rows(measured) {
        let shown = |runs: &Runs, digits: usize| {
            format!("{:.digits$} ({:.digits$}–{:.digits$})", runs.median(), runs.min(), runs.max())
        };
        let (rate, cpu) = (shown(per_second, 0), shown(cpu_us, 2));
        say(&format!("| {} | {} | {rate} | {ratio:.3} | {cpu} |", way.protocol, way.name));
        let value =
            json!({ "requests_per_second": per_second.json(), "ours_to_it": ratio, "cpu_us_a_request": cpu_us.json() });
        result.insert(format!("{} {}", way.protocol, way.name), value);
    }
    say(
        "\nWhere a request takes a generator less processor time than the server, the server limits its rate: compare the times.",
    );
    result.into()
}
