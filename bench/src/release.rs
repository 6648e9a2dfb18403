//! How long it takes until all traffic goes to another release: one that was built before, and the one before by `rollback`.
//!
//! An app of two instances is asked each millisecond on a kept TLS connection, and says which release answers. What counts is
//! the time from the spawn of the command to the last answer of the release that it takes the place of.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bowline_tests::client::{Connection, tls};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path};
use serde_json::{Map, Value, json};

use crate::figure::Runs;
use crate::{say, setting};

const EVERY: Duration = Duration::from_millis(1);

/// After a command has ended, whatever the release before still answers is not missed.
const AFTER: Duration = Duration::from_millis(300);

/// Aims in seconds.
const AIMS: [(&str, f64); 2] = [("a release built before", 2.0), ("rollback", 1.0)];

const FILE: &str = "[service.web]\nrun = \"python3 server.py\"\nscale = 2\nhealth = { path = \"/health\" }\n";

pub(crate) fn run() -> anyhow::Result<Value> {
    let rounds = setting("BENCH_ROUNDS", 7)?;
    let bowline = Bowline::new();
    let folder = bowline.app("bench-release", "plain");
    std::fs::write(folder.join("bowline.toml"), FILE)?;
    let up = Up::start(&bowline, &folder, SOON);
    let (https, server) = (up.https(), folder.join("server.py"));
    let source = std::fs::read_to_string(&server)?;
    let change = |number: u32| std::fs::write(&server, format!("{source}\n# {}\n", number % 2));
    // Both are built once, and found again from then on.
    for number in 0..2 {
        change(number)?;
        after(&bowline, &https, &["up", path(&folder), "--detach"])?;
    }
    let (mut releases, mut rollbacks) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        change(number)?;
        releases.push(after(&bowline, &https, &["up", path(&folder), "--detach"])?);
        rollbacks.push(after(&bowline, &https, &["rollback", "bench-release"])?);
        restore(&bowline, &folder)?;
    }
    up.interrupt();
    Ok(report([releases, rollbacks]))
}

/// The release that was gone back from serves again, so that the next one is another.
fn restore(bowline: &Bowline, folder: &Path) -> anyhow::Result<()> {
    let output = bowline.run(&["up", path(folder), "--detach"]);
    ensure!(output.status.success(), "`up` ended with {}", output.status);
    Ok(())
}

struct Taken {
    /// Until the command had ended, in seconds.
    command: f64,
    /// Until the last answer of the release before, in seconds.
    traffic: f64,
}

fn after(bowline: &Bowline, url: &str, args: &[&str]) -> anyhow::Result<Taken> {
    let watch = Watch::start(bowline, url)?;
    let began = Instant::now();
    let status = bowline.command(args).stdout(Stdio::null()).status().context("bowline")?;
    let command = began.elapsed().as_secs_f64();
    ensure!(status.success(), "`bowline {}` ended with {status}", args.join(" "));
    std::thread::sleep(AFTER);
    let answers = watch.stop()?;
    let newest = answers.last().context("there was no answer")?.1.clone();
    let old = answers.iter().rfind(|(_, release)| *release != newest).context("nothing has taken over")?;
    Ok(Taken { command, traffic: old.0.saturating_duration_since(began).as_secs_f64() })
}

/// When each answer came, and of which release.
type Answers = Vec<(Instant, String)>;

/// Asks, and writes down who answers.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<Answers>>,
}

impl Watch {
    fn start(bowline: &Bowline, url: &str) -> anyhow::Result<Self> {
        let mut connection = Connection::open(url, &tls(&bowline.ca()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let (status, body) = connection.get("/")?;
                ensure!(status == 200, "status {status} while a release took over");
                answers.push((Instant::now(), release(&body)?));
                std::thread::sleep(EVERY);
            }
            Ok(answers)
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> anyhow::Result<Answers> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("asking broke off"))?
    }
}

/// Of `hello from local/APP.web.r3.0.1`: `r3`.
fn release(body: &[u8]) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(body);
    Ok(text.split('.').nth(2).with_context(|| format!("no release in {text:?}"))?.to_owned())
}

fn report(measured: [Vec<Taken>; 2]) -> Value {
    say("| | until all traffic, s, median (min–max) | until the command ends, s | aim, s |");
    say("|---|---|---|---|");
    let mut result = Map::new();
    for ((name, aim), taken) in AIMS.into_iter().zip(measured) {
        let traffic = Runs::new(taken.iter().map(|one| one.traffic));
        let command = Runs::new(taken.iter().map(|one| one.command));
        let shown = |runs: &Runs| format!("{:.3} ({:.3}–{:.3})", runs.median(), runs.min(), runs.max());
        say(&format!("| {name} | {} | {} | {aim} |", shown(&traffic), shown(&command)));
        let figures = json!({ "traffic_s": traffic.json(), "command_s": command.json(), "aim_s": aim });
        result.insert(name.to_owned(), figures);
    }
    result.into()
}
