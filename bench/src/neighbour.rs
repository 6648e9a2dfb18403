//! The latency of an app while another one beside it does its worst: forks, takes memory, spins, fills the disk.
//!
//! Both are run by one daemon, as they would be. The neighbour is asked at a steady rate on a kept TLS connection, and a
//! latency counts from when the request was due: what an attack delays is not left out because nobody asked meanwhile.
//! Rounds with and without an attack take turns, so that whatever else the machine does falls on all alike. Each has an attacker
//! of its own, which runs in all of them, also where it is not asked for anything.
//!
//! Clients are elsewhere: the one that measures gets a processor at once (`SCHED_FIFO`), so that what it waits for is Bowline.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bowline_tests::client::{Connection, tls};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON};
use serde_json::{Map, Value, json};

use crate::figure::Runs;
use crate::{say, setting};

/// Between two requests: far below what the neighbour could answer, so that only delays show.
const EVERY: Duration = Duration::from_millis(5);
/// Before an attack that ended its app is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// What the attacker (`tests/fixtures/attacker`) is asked to do, again and again until the round is over.
const ATTACKS: [(&str, Option<&str>); 5] = [
    ("alone", None),
    ("fork bomb", Some(r#"{"attempt": "fork_bomb", "arguments": [1]}"#)),
    ("memory bomb", Some(r#"{"attempt": "memory_bomb", "arguments": []}"#)),
    ("CPU hog", Some(r#"{"attempt": "cpu_bomb", "arguments": [1]}"#)),
    ("disk filler", Some(r#"{"attempt": "disk_bomb", "arguments": ["$TMPDIR"]}"#)),
];

pub(crate) fn run() -> anyhow::Result<Value> {
    let time = Duration::from_secs(setting("BENCH_SECONDS", 5)?.into());
    let rounds = setting("BENCH_ROUNDS", 7)?;
    let bowline = Bowline::new();
    let neighbour = Up::start(&bowline, &bowline.app("bench-neighbour", "plain"), SOON);
    let mut measured: Vec<Vec<Round>> = ATTACKS.iter().map(|_| Vec::new()).collect();
    for number in 0..rounds {
        for ((name, attack), results) in ATTACKS.iter().zip(&mut measured) {
            // A new one each time: one that was ended before waits for its backoff, and an attack that does not begin proves nothing.
            let app = format!("attacker-{number}-{}", name.to_lowercase().replace(' ', "-"));
            let attacker = Up::start(&bowline, &bowline.app(&app, "attacker"), SOON);
            let attack = attack.map(|body| Attack::start(&attacker.https(), &bowline, body));
            let mut round = ask(&neighbour.https(), &bowline, time)?;
            round.attacks = attack.map_or(0, Attack::stop);
            results.push(round);
            attacker.interrupt();
        }
    }
    Ok(report(&measured))
}

struct Round {
    /// Sorted, in microseconds.
    latencies: Vec<f64>,
    /// How often the attacker was asked.
    attacks: u64,
}

impl Round {
    fn quantile(&self, per_mille: usize) -> f64 {
        let index = (self.latencies.len() * per_mille / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).copied().unwrap_or(f64::NAN)
    }
}

fn ask(url: &str, bowline: &Bowline, time: Duration) -> anyhow::Result<Round> {
    let mut connection = Connection::open(url, &tls(&bowline.ca())).context("the neighbour")?;
    let _first = First::new()?;
    let began = Instant::now();
    let mut due = began;
    let mut latencies = Vec::new();
    while due < began + time {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (status, _) = connection.get("/").context("the neighbour")?;
        ensure!(status == 200, "the neighbour answered {status}");
        latencies.push(due.elapsed().as_secs_f64() * 1e6);
        due += EVERY;
    }
    latencies.sort_by(f64::total_cmp);
    Ok(Round { latencies, attacks: 0 })
}

/// This thread comes before all others until this is dropped.
struct First;

impl First {
    fn new() -> anyhow::Result<Self> {
        ensure!(schedule("--fifo", "10")?, "chrt ended with an error: are you root?");
        Ok(Self)
    }
}

impl Drop for First {
    fn drop(&mut self) {
        // The next round says what is wrong.
        let _ = schedule("--other", "0");
    }
}

fn schedule(policy: &str, priority: &str) -> anyhow::Result<bool> {
    let thread = nix::unistd::gettid().to_string();
    let status = Command::new("chrt").args([policy, "--pid", priority, &thread]).status();
    Ok(status.context("chrt (util-linux)")?.success())
}

/// A thread that asks the attacker for its worst, until it is stopped.
struct Attack {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Attack {
    fn start(url: &str, bowline: &Bowline, body: &'static str) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&asked));
        let (url, tls) = (url.to_owned(), tls(&bowline.ca()));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = Connection::open(&url, &tls).and_then(|mut open| open.post("/", body));
                if !matches!(answer, Ok((200, _))) {
                    std::thread::sleep(PAUSE);
                }
            }
        });
        Self { stop, asked, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        // It ends with its last attempt; a panic there has nothing to do with the figures.
        let _ = self.thread.join();
        self.asked.load(Ordering::Relaxed)
    }
}

fn report(measured: &[Vec<Round>]) -> Value {
    let figures = |rounds: &[Round], per_mille| Runs::new(rounds.iter().map(|round| round.quantile(per_mille)));
    let alone = measured.first().map(|rounds| (figures(rounds, 500).median(), figures(rounds, 990).median()));
    let (alone_p50, alone_p99) = alone.unwrap_or((f64::NAN, f64::NAN));
    say(
        "| the neighbour | p50 µs, median (min–max) | p99 µs, median (min–max) | p50 to alone | p99 to alone | attempts |",
    );
    say("|---|---|---|---|---|---|");
    let mut result = Map::new();
    for ((name, _), rounds) in ATTACKS.iter().zip(measured) {
        let (p50, p99) = (figures(rounds, 500), figures(rounds, 990));
        let (p50_ratio, p99_ratio) = (p50.median() / alone_p50, p99.median() / alone_p99);
        let attempts: u64 = rounds.iter().map(|round| round.attacks).sum();
        let shown = |runs: &Runs| format!("{:.0} ({:.0}–{:.0})", runs.median(), runs.min(), runs.max());
        let (shown50, shown99) = (shown(&p50), shown(&p99));
        say(&format!("| {name} | {shown50} | {shown99} | {p50_ratio:.2} | {p99_ratio:.2} | {attempts} |"));
        let figures = json!({
            "p50_us": p50.json(), "p99_us": p99.json(), "p50_to_alone": p50_ratio, "p99_to_alone": p99_ratio,
            "attempts": attempts,
        });
        result.insert((*name).to_owned(), figures);
    }
    result.into()
}
