//! `bowline-bench edge|cost|start|memory|idle|release|reconcile|neighbour|agree|show|canary|scale|floor [--out DIR]`: the figures of `bench/README.md`, each
//! as a Markdown table and, with `--out`, as `DIR/WHAT.json`. `bowline-bench edge SCENARIO…`: only these. Exit status 2: the figures are there, and
//! something that must hold does not.
//!
//! Binaries: `BOWLINE_BIN`, `ENVOY_BIN`; nginx, HAProxy, Caddy, strace, valgrind, wrk and h2load from the PATH. What is missing is said and left
//! out, never silently. `BENCH_SECONDS` (5; `edge` and `floor`: 3), `BENCH_ROUNDS` (7) and `BENCH_STARTS` (15) make it shorter or longer;
//! `BENCH_PEERS` (`Bowline nginx`) leaves the others out of the timed scenarios, `cost` and `floor`; `show` goes by
//! `BENCH_RATE` (2000), `BENCH_DEPLOYS` (20), `BENCH_ROLLBACKS` (5) and `BENCH_UPGRADES` (100), `canary` by
//! `BENCH_CANARIES` (2000) and `BENCH_FAULTY` (500), `scale` by `BENCH_TRACES` (100) and `BENCH_STEP` (420; 0: no real step).

mod agree;
mod canary;
mod core_time;
mod cost;
mod edge;
mod figure;
mod floor;
mod forward;
mod generator;
mod idle;
mod memory;
mod neighbour;
mod peer;
mod reconcile;
mod release;
mod scale;
mod show;
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_default();
    if what == "forward" {
        return forward::run(args).map(|()| ExitCode::SUCCESS);
    }
    let (mut out, mut only) = (None, Vec::new());
    while let Some(word) = args.next() {
        match word.as_str() {
            "--out" => out = Some(PathBuf::from(args.next().context("say --out DIR")?)),
            _ if what == "edge" => only.push(word),
            other => bail!("`{other}` is not known; say --out DIR"),
        }
    }
    // Before a kind pins this process to one of them.
    let (cores, before) = (std::thread::available_parallelism()?.get(), figure::load());
    let result = match what.as_str() {
        "edge" => edge::run(&only, out.as_deref())?,
        "cost" => cost::run()?,
        "start" => start::run()?,
        "memory" => memory::run()?,
        "idle" => idle::run()?,
        "release" => release::run()?,
        "reconcile" => reconcile::run()?,
        "neighbour" => neighbour::run()?,
        "agree" => agree::run()?,
        "show" => show::run()?,
        "canary" => canary::run()?,
        "scale" => scale::run()?,
        "floor" => floor::run()?,
        other => {
            bail!(
                "`{other}` is not known; say edge, cost, start, memory, idle, release, reconcile, neighbour, agree, show, canary, scale or floor"
            )
        }
    };
    let faults: Vec<String> =
        result.get(FAULTS).map(|all| serde_json::from_value(all.clone())).transpose()?.unwrap_or_default();
    if let Some(dir) = out {
        save(&dir, &what, &json!({ "machine": machine(cores, &before)?, "result": result }))?;
    }
    faults.iter().for_each(|fault| complain(fault));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) })
}

/// Of a result: what must hold and does not. The figures are there all the same.
const FAULTS: &str = "faults";

/// The exit status of a run whose figures were taken and written, and have [`FAULTS`].
const FAULTY: u8 = 2;

/// What the figures were taken on, and how busy it was with other things.
fn machine(cores: usize, before: &str) -> anyhow::Result<Value> {
    let system = nix::sys::utsname::uname()?;
    Ok(json!({
        "kernel": system.release().to_string_lossy(),
        "architecture": system.machine().to_string_lossy(),
        "cores": cores,
        "load_before": before,
        "load_after": figure::load(),
    }))
}

fn save(dir: &Path, what: &str, value: &Value) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let path = dir.join(format!("{what}.json"));
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

/// The binary that is measured.
fn bowline() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("BOWLINE_BIN").context("BOWLINE_BIN is not set")?;
    std::fs::canonicalize(&path).with_context(|| PathBuf::from(path).display().to_string())
}

/// A number from the environment, or the default.
fn setting(name: &'static str, default: u32) -> anyhow::Result<u32> {
    match std::env::var(name) {
        Ok(text) => text.parse().context(name),
        Err(_) => Ok(default),
    }
}

#[expect(clippy::print_stdout, reason = "the result of a bench is its output")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "beside the result")]
fn complain(fault: &str) {
    eprintln!("bench: {fault}");
}
