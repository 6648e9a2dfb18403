//! Requests that are lost by releases, rollbacks and upgrades of daemon and edge, under an open load through TLS: none may be.

use std::time::Duration;

use anyhow::ensure;
use bowline_tests::show::{Outcome, Report, Script};
use serde_json::{Value, json};

use crate::figure::Runs;
use crate::{say, setting};

pub(crate) fn run() -> anyhow::Result<Value> {
    let script = Script {
        rate: f64::from(setting("BENCH_RATE", 2_000)?),
        deploys: usize::try_from(setting("BENCH_DEPLOYS", 20)?)?,
        rollbacks: usize::try_from(setting("BENCH_ROLLBACKS", 5)?)?,
        upgrades: usize::try_from(setting("BENCH_UPGRADES", 100)?)?,
        sockets: 4,
    };
    ensure!(script.deploys > 0 && script.rate > 0.0, "a load and a deploy are the least");
    let outcome = bowline_tests::show::run(script);
    say(
        "| while | requests due | without their status, body and release header | sent late¹ | p50, ms | p99, ms | longest, ms | generator late² |",
    );
    say("|---|---|---|---|---|---|---|---|");
    for (what, report) in
        [("releases came and went", &outcome.releases), ("daemon and edge were swapped", &outcome.upgrades)]
    {
        let counts = report.counts;
        let ms = |ppm: u32| report.latency.us(ppm).map_or("-".to_owned(), |us| format!("{:.1}", us as f64 / 1e3));
        say(&format!(
            "| {what} | {} | {} | {} | {} | {} | {:.0} | p99 {} |",
            counts.offered,
            counts.offered - counts.succeeded,
            counts.late,
            ms(500_000),
            ms(990_000),
            report.latency.max_us as f64 / 1e3,
            report.lag.us(990_000).map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3)),
        ));
    }
    let shown = |what: &str, times: &[Duration]| {
        let runs = Runs::new(times.iter().map(Duration::as_secs_f64));
        say(&format!(
            "- {} {what}: {:.2} s each in the middle ({:.2}–{:.2})",
            times.len(),
            runs.median(),
            runs.min(),
            runs.max()
        ));
        runs.json()
    };
    say("");
    let figures = json!({
        "rate": script.rate,
        "deploy_s": shown("deploys, source to all traffic, the build included", &outcome.deploys),
        "rollback_s": shown("rollbacks", &outcome.rollbacks),
        "upgrade_s": shown("upgrades, each of daemon and edge", &outcome.swaps),
        "sockets": sockets(&outcome),
        "releases": figures_of(&outcome.releases)?,
        "upgrades": figures_of(&outcome.upgrades)?,
    });
    for (what, report) in [("releases", &outcome.releases), ("upgrades", &outcome.upgrades)] {
        report.invalid.iter().for_each(|why| say(&format!("- of the latencies under {what}: {why}")));
        report.failures.iter().for_each(|lost| say(&format!("- lost under {what}: {lost:?}")));
    }
    say("");
    say("¹ sent 10 ms or more after they were due. ² of the generator itself, which shares the cores.");
    Ok(figures)
}

/// Without its pictures, second by second.
fn figures_of(report: &Report) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    if let Some(all) = value.as_object_mut() {
        all.remove("timeline");
        all.values_mut().filter_map(Value::as_object_mut).for_each(|part| drop(part.remove("steps")));
    }
    Ok(value)
}

fn sockets(outcome: &Outcome) -> Value {
    let found = outcome.sockets;
    say(&format!(
        "- WebSockets: {} told (close 1001) before they were closed, {} cut, {} still open",
        found.told, found.cut, found.open
    ));
    json!({ "told": found.told, "cut": found.cut, "open": found.open })
}
