//! Requests that are lost by releases, rollbacks and upgrades of daemon and edge, under an open load through TLS: none may be.

use std::time::Duration;

use anyhow::ensure;
use bowline_tests::show::{Outcome, Script, Stage};
use serde_json::{Value, json};

use crate::figure::{self, Runs};
use crate::{FAULTS, say, setting};

pub(crate) fn run() -> anyhow::Result<Value> {
    let script = Script {
        rate: f64::from(setting("BENCH_RATE", 2_000)?),
        deploys: usize::try_from(setting("BENCH_DEPLOYS", 20)?)?,
        rollbacks: usize::try_from(setting("BENCH_ROLLBACKS", 5)?)?,
        upgrades: usize::try_from(setting("BENCH_UPGRADES", 100)?)?,
        sockets: 4,
    };
    ensure!(script.deploys > 0 && script.rate > 0.0, "a load and a deploy are the least");
    ensure!(2 * script.rollbacks <= script.deploys, "a rollback goes to the deploy before the last: two for each");
    let outcome = bowline_tests::show::run(script);
    let stages = [("releases came and went", &outcome.releases), ("daemon and edge were swapped", &outcome.upgrades)];
    show_requests(&stages);
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
        "releases": figures_of(&outcome.releases)?,
        "upgrades": figures_of(&outcome.upgrades)?,
        FAULTS: faults(&outcome),
    });
    for (what, Stage { report, sockets, queues }) in stages {
        say(&format!(
            "- WebSockets while {what}: {} told (close 1001) before they were closed, {} cut, {} still open",
            sockets.told, sockets.cut, sockets.open
        ));
        say(&format!(
            "- accept queues³ while {what}: {} times full (`ListenOverflows`), {} connections dropped (`ListenDrops`)",
            queues.overflows, queues.drops
        ));
        report.invalid.iter().for_each(|why| say(&format!("- of the latencies while {what}: {why}")));
        report.failures.iter().for_each(|lost| say(&format!("- lost while {what}: {lost:?}")));
    }
    say("");
    say(
        "¹ sent 10 ms or more after they were due. ² of the generator itself, which shares the cores. ³ of all listeners of the machine, the edge's",
    );
    say(
        "among them: a connection that comes to a full one is tried again by its client's kernel after a second or more.",
    );
    Ok(figures)
}

fn show_requests(stages: &[(&str, &Stage)]) {
    say(
        "| while | requests due | without their status, body and release header | of these never sent | sent late¹ | p50, ms | p99, ms | longest, ms | generator late² |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    for (what, Stage { report, .. }) in stages {
        let counts = report.counts;
        let ms = |ppm: u32| report.latency.us(ppm).map_or("-".to_owned(), |us| format!("{:.1}", us as f64 / 1e3));
        say(&format!(
            "| {what} | {} | {} | {} | {} | {} | {} | {:.0} | p99 {} |",
            counts.offered,
            counts.offered - counts.succeeded,
            counts.dropped,
            counts.late,
            ms(500_000),
            ms(990_000),
            report.latency.max_us as f64 / 1e3,
            report.lag.us(990_000).map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3)),
        ));
    }
}

/// What must not be.
fn faults(outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    for (what, Stage { report, sockets, .. }) in [("releases", &outcome.releases), ("upgrades", &outcome.upgrades)] {
        let lost = report.counts.offered - report.counts.succeeded;
        if lost > 0 {
            faults.push(format!("{what}: {lost} requests were lost"));
        }
        if sockets.cut > 0 {
            faults.push(format!("{what}: {} WebSockets were cut", sockets.cut));
        }
        if !report.valid {
            faults.push(format!("{what}: the run is not valid: {}", report.invalid.join("; ")));
        }
    }
    if outcome.releases.sockets.open > 0 {
        faults.push(format!("{} WebSockets outlived their instances", outcome.releases.sockets.open));
    }
    faults
}

fn figures_of(stage: &Stage) -> anyhow::Result<Value> {
    let mut all = figure::of_load(&stage.report)?;
    let (sockets, queues) = (stage.sockets, stage.queues);
    all.insert("sockets".to_owned(), json!({ "told": sockets.told, "cut": sockets.cut, "open": sockets.open }));
    let queues = json!({ "listen_overflows": queues.overflows, "listen_drops": queues.drops });
    all.insert("accept_queues".to_owned(), queues);
    Ok(all.into())
}
