//! Requests per second on one core, beside nginx and Envoy in the same run.
//!
//! The proxy has core 0, load and upstream share core 1. Rounds are interleaved, so that whatever else the machine
//! does falls on all alike; medians are compared.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::figure::Runs;
use crate::generator::{Generator, Round};
use crate::peer::{self, Peer};
use crate::{bowline, say, setting};

/// Like a browser's: ten header lines with the host.
pub(crate) const HEADERS: &str = "User-Agent: bowline-bench/1\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, br\r\nReferer: http://bench.localhost/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nCache-Control: no-cache\r\nPragma: no-cache\r\nDNT: 1\r\n";

/// How long a proxy may take to listen.
const READY: Duration = Duration::from_secs(20);

pub(crate) fn run() -> anyhow::Result<Value> {
    let time = Duration::from_secs(setting("BENCH_SECONDS", 5)?.into());
    let rounds = setting("BENCH_ROUNDS", 7)?;
    let mut generator = Generator::new()?;
    let upstream = generator.upstream()?;
    let mut peers = vec![peer::bowline(&bowline()?, &[], upstream)?];
    peers.extend(foreign(peer::nginx(&[], upstream), "nginx"));
    match std::env::var_os("ENVOY_BIN") {
        Some(path) => peers.push(peer::envoy(path.as_ref(), upstream)?),
        None => say("Envoy is not compared: ENVOY_BIN is not set.\n"),
    }
    pin()?;
    let measured = measure(&mut generator, &peers, rounds, time);
    peers.into_iter().for_each(Peer::stop);
    let figures: Vec<Figures> = measured?.iter().map(Figures::of).collect();
    report(&figures);
    Ok(figures.iter().map(|f| (f.name.to_owned(), f.json())).collect::<serde_json::Map<_, _>>().into())
}

/// Keeps load and upstream off the proxy's core.
pub(crate) fn pin() -> anyhow::Result<()> {
    let myself = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_setaffinity(myself, &peer::core(1)?).context("two cores are needed")
}

/// A peer, or why it is not compared.
pub(crate) fn foreign(peer: anyhow::Result<Peer>, name: &str) -> Option<Peer> {
    match peer {
        Ok(peer) => Some(peer),
        Err(error) => {
            say(&format!("{name} is not compared: {error:#}\n"));
            None
        }
    }
}

/// Waits until a proxy answers.
pub(crate) fn ready(generator: &mut Generator, peer: &Peer) -> anyhow::Result<()> {
    generator.serve_until(|| peer.answers(), READY).context(peer.name)
}

/// One peer's rounds, each with the proxy's processor time per request in microseconds.
struct Measured {
    name: &'static str,
    rounds: Vec<(Round, f64)>,
}

fn measure(generator: &mut Generator, peers: &[Peer], rounds: u32, time: Duration) -> anyhow::Result<Vec<Measured>> {
    for peer in peers {
        ready(generator, peer)?;
        generator.run(peer.address, peer::HOST, HEADERS, Duration::from_secs(1)).context(peer.name)?;
    }
    let mut measured: Vec<Measured> = peers.iter().map(|p| Measured { name: p.name, rounds: Vec::new() }).collect();
    for _ in 0..rounds {
        for (peer, result) in peers.iter().zip(&mut measured) {
            let before = peer.cpu()?;
            let round = generator.run(peer.address, peer::HOST, HEADERS, time).context(peer.name)?;
            #[expect(clippy::cast_precision_loss, reason = "counts of a run of seconds")]
            let cpu = (peer.cpu()? - before).as_secs_f64() * 1e6 / round.requests as f64;
            result.rounds.push((round, cpu));
        }
    }
    Ok(measured)
}

struct Figures {
    name: &'static str,
    rate: Runs,
    cpu: Runs,
    p50: Runs,
    p99: Runs,
    busy: Runs,
}

impl Figures {
    fn of(measured: &Measured) -> Self {
        let each = |f: fn(&Round) -> f64| Runs::new(measured.rounds.iter().map(|(round, _)| f(round)));
        Self {
            name: measured.name,
            rate: each(Round::rate),
            cpu: Runs::new(measured.rounds.iter().map(|(_, cpu)| *cpu)),
            p50: each(|round| f64::from(round.quantile(500))),
            p99: each(|round| f64::from(round.quantile(990))),
            busy: each(|round| round.busy),
        }
    }

    fn json(&self) -> Value {
        json!({
            "requests_per_second": self.rate.json(),
            "cpu_us_per_request": self.cpu.json(),
            "p50_us": self.p50.json(),
            "p99_us": self.p99.json(),
            "generator_busy": self.busy.json(),
        })
    }
}

fn report(figures: &[Figures]) {
    let rate_of = |name: &str| figures.iter().find(|f| f.name == name).map(|f| f.rate.median());
    say("| | requests/s, median (min–max) | to nginx | to Envoy | CPU µs a request | p50 µs | p99 µs | load busy |");
    say("|---|---|---|---|---|---|---|---|");
    for f in figures {
        let to = |name| rate_of(name).map_or_else(|| "–".to_owned(), |other| format!("{:.2}", f.rate.median() / other));
        say(&format!(
            "| {} | {:.0} ({:.0}–{:.0}) | {} | {} | {:.1} ({:.1}–{:.1}) | {:.0} | {:.0} | {:.0} % |",
            f.name,
            f.rate.median(),
            f.rate.min(),
            f.rate.max(),
            to("nginx"),
            to("envoy"),
            f.cpu.median(),
            f.cpu.min(),
            f.cpu.max(),
            f.p50.median(),
            f.p99.median(),
            100.0 * f.busy.median(),
        ));
    }
}
