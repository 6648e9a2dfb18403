//! Whether `bowline bench` counts as `wrk` and `h2load` do: throughput of a closed loop against the same server.
//!
//! The server has core 0 and is what limits, since it answers at a pace of its own; the load has core 1. Rounds take turns, so that
//! whatever else the machine does falls on all alike; medians are compared.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::figure::Runs;
use crate::peer::{self, Peer};
use crate::{bowline, say, setting};

/// How long the server may take to listen.
const READY: Duration = Duration::from_secs(20);
/// Kept connections over HTTP/1.1.
const CONNECTIONS: &str = "32";
/// Connections of HTTP/2, and requests at once on each.
const MULTIPLEXED: (&str, &str) = ("4", "8");

/// One way to load the server.
struct Way {
    name: &'static str,
    protocol: &'static str,
    command: fn(&Place) -> anyhow::Result<Command>,
    /// Requests a second, from what it printed.
    read: fn(&str) -> Option<f64>,
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
        let url = |port: u16| format!("http://127.0.0.1:{port}/answer.txt");
        let place = Place { http1: url(server.http.port()), http2: url(server.https.port()), seconds };
        measure(&place, rounds)
    });
    server.stop();
    Ok(report(&measured?))
}

fn wait(server: &Peer) -> anyhow::Result<()> {
    let until = std::time::Instant::now() + READY;
    while !server.listens() {
        ensure!(std::time::Instant::now() < until, "nginx does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn measure(place: &Place, rounds: u32) -> anyhow::Result<Vec<Runs>> {
    let mut values: Vec<Vec<f64>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (way, values) in WAYS.iter().zip(&mut values) {
            let output = (way.command)(place)?.stdin(Stdio::null()).output().context(way.name)?;
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            values.push((way.read)(&text).with_context(|| format!("{}: {text}{errors}", way.name))?);
        }
    }
    Ok(values.into_iter().map(Runs::new).collect())
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

/// A run that is not valid, or had failures, is no figure.
fn ours(text: &str) -> Option<f64> {
    let report: Value = serde_json::from_str(text).ok()?;
    let good = report["valid"] == true && report["counts"]["failed"] == 0;
    report["completed_per_second"].as_f64().filter(|_| good)
}

/// `finished in 5.00s, 12345.60 req/s, 3.21MB/s`
fn theirs(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("finished in"))?;
    line.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()
}

fn after(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

fn report(measured: &[Runs]) -> Value {
    say("| | | requests/s, median (min–max) | `bowline bench` to it |");
    say("|---|---|---|---|");
    let mut result = Map::new();
    for (way, runs) in WAYS.iter().zip(measured) {
        let own =
            WAYS.iter().zip(measured).find(|(own, _)| own.protocol == way.protocol).map(|(_, runs)| runs.median());
        let ratio = own.unwrap_or(f64::NAN) / runs.median();
        say(&format!(
            "| {} | {} | {:.0} ({:.0}–{:.0}) | {ratio:.3} |",
            way.protocol,
            way.name,
            runs.median(),
            runs.min(),
            runs.max(),
        ));
        result.insert(
            format!("{} {}", way.protocol, way.name),
            json!({ "requests_per_second": runs.json(), "ours_to_it": ratio }),
        );
    }
    result.into()
}
