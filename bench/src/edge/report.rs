//! The tables, and the same as values.

use serde_json::{Value, json};

use super::aims::{Aim, TOO_BUSY, Wanted};
use super::connections::{self, COUNT};
use super::scenario::Scenario;
use super::{Figures, Results, Row, heading, routes};
use crate::figure::Runs;
use crate::generator::Round;
use crate::peer::Kind;
use crate::say;

/// A proxy's rounds of one scenario.
pub(super) struct Summary {
    /// A second.
    pub(super) rate: Runs,
    /// Of the core for one, in microseconds.
    pub(super) core: Runs,
    /// In microseconds.
    pub(super) p50: Runs,
    pub(super) p99: Runs,
    pub(super) p999: Runs,
    /// Share of the time that the core of load and upstream was busy.
    pub(super) busy: Runs,
}

/// `None`: it failed, or had no round.
pub(super) fn summary(scenario: &Scenario, row: &Row) -> Option<Summary> {
    let rounds = row.rounds.as_ref().ok().filter(|rounds| !rounds.is_empty())?;
    let each = |f: &dyn Fn(&Round) -> f64| Runs::new(rounds.iter().map(f));
    Some(Summary {
        rate: each(&|round| scenario.amount(round) / round.seconds),
        core: each(&|round| round.proxy.as_secs_f64() * 1e6 / scenario.amount(round).max(1.0)),
        p50: each(&|round| f64::from(round.quantile(500))),
        p99: each(&|round| f64::from(round.quantile(990))),
        p999: each(&|round| f64::from(round.quantile(999))),
        busy: each(&|round| round.busy),
    })
}

pub(super) fn timed(scenario: &Scenario, rows: &[Row]) {
    let (one, many) = scenario.unit.names();
    heading(scenario.name, scenario.about);
    say(&format!(
        "| | {many}, median (min–max) | to nginx | core µs a {one} | to nginx | p50 µs | p99 µs | p99.9 µs | load busy |"
    ));
    say("|---|---|---|---|---|---|---|---|---|");
    let nginx = super::aims::row(rows, Kind::Nginx).and_then(|row| summary(scenario, row));
    for row in rows {
        let name = match row.lost_lines {
            0 => row.kind.name().to_owned(),
            lost => format!("{}, **{lost} lines of its log lost**", row.kind.name()),
        };
        let Some(it) = summary(scenario, row) else {
            say(&failed(&name, row.rounds.as_ref().err(), 8));
            continue;
        };
        let to = |ours: &Runs, of: fn(&Summary) -> &Runs| {
            nginx.as_ref().map_or_else(|| "–".to_owned(), |nginx| format!("{:.2}", ours.median() / of(nginx).median()))
        };
        let latency =
            |runs: &Runs| if runs.median() > 0.0 { format!("{:.0}", runs.median()) } else { "–".to_owned() };
        let busy = format!("{:.0} %", 100.0 * it.busy.median());
        say(&format!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            spread(&it.rate, 0),
            to(&it.rate, |nginx| &nginx.rate),
            spread(&it.core, 1),
            to(&it.core, |nginx| &nginx.core),
            latency(&it.p50),
            latency(&it.p99),
            latency(&it.p999),
            if it.busy.median() > TOO_BUSY { format!("**{busy}**") } else { busy },
        ));
    }
    say("");
}

pub(crate) fn spread(runs: &Runs, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}–{:.digits$})", runs.median(), runs.min(), runs.max())
}

/// A row that says why there are no figures.
pub(crate) fn failed(name: &str, why: Option<&String>, columns: usize) -> String {
    let why = one_line(why.map_or("no round", String::as_str));
    format!("| {name} | {why}{} |", " |".repeat(columns - 1))
}

/// As much of a reason as a table has room for.
fn one_line(why: &str) -> String {
    const MOST: usize = 300;
    why.replace(['|', '\n', '\r'], " ").chars().take(MOST).collect()
}

pub(super) fn connections(rows: &[connections::Row]) {
    heading("connections", &format!("Memory of {COUNT} connections that have had an answer and are idle, for each"));
    say("| | plain, KB | TLS, KB |");
    say("|---|---|---|");
    let shown = |bytes: &Result<f64, String>| match bytes {
        Ok(bytes) => format!("{:.2}", bytes / 1e3),
        Err(why) => one_line(why),
    };
    for row in rows {
        say(&format!("| {} | {} | {} |", row.kind.name(), shown(&row.plain), shown(&row.tls)));
    }
    say("");
}

pub(super) fn routes(rows: &[routes::Row]) {
    heading(
        "routes",
        "10,000 hosts: the last of them beside a table of one, memory for each, and one more while it serves",
    );
    say(
        "| | core µs a request, one route | the last of 10,000 | KB a route | until one more is served, ms | slowest answer meanwhile, ms | requests lost |",
    );
    say("|---|---|---|---|---|---|---|");
    for row in rows {
        let name = row.kind.name();
        match &row.figures {
            Err(why) => say(&failed(name, Some(why), 6)),
            Ok(figures) => {
                let changes = match &figures.changes {
                    Ok(it) => format!("{} | {} | {}", spread(&it.swap, 1), spread(&it.stall, 1), it.lost),
                    Err(why) => format!("no figure: {why} | – | –"),
                };
                say(&format!(
                    "| {name} | {} | {} | {:.2} | {changes} |",
                    spread(&figures.alone, 1),
                    spread(&figures.last, 1),
                    figures.memory / 1e3,
                ));
            }
        }
    }
    say("");
}

pub(super) fn aims(aims: &[Aim]) {
    heading("aims", "Bowline's, by the medians above");
    say("| | aim | found | |");
    say("|---|---|---|---|");
    for aim in aims {
        let wanted = match aim.wanted {
            Wanted::AtLeast(least) => format!("≥ {least}"),
            Wanted::AtMost(most) => format!("≤ {most}"),
            Wanted::Below(bound) => format!("< {bound}"),
        };
        let found = aim.found.map_or_else(|| "–".to_owned(), |found| format!("{found:.2}"));
        let met = match aim.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        say(&format!("| {} | {wanted} | {found} | {met} |", aim.what));
    }
}

pub(super) fn json(results: &Results) -> Value {
    let mut all = Figures::new();
    for (scenario, rows) in &results.timed {
        let each = rows.iter().map(|row| (row.kind.name().to_owned(), timed_json(scenario, row)));
        all.insert(scenario.name.to_owned(), each.collect::<Figures>().into());
    }
    let bytes = |bytes: &Result<f64, String>| match bytes {
        Ok(bytes) => json!(bytes),
        Err(why) => json!({ "failed": why }),
    };
    let connections = results.connections.iter().map(|row| {
        let figures = json!({ "plain_bytes": bytes(&row.plain), "tls_bytes": bytes(&row.tls) });
        (row.kind.name().to_owned(), figures)
    });
    all.insert("connections".to_owned(), connections.collect::<Figures>().into());
    let routes = results.routes.iter().map(|row| (row.kind.name().to_owned(), routes_json(row)));
    all.insert("routes".to_owned(), routes.collect::<Figures>().into());
    all.into()
}

fn timed_json(scenario: &Scenario, row: &Row) -> Value {
    match summary(scenario, row) {
        None => json!({ "failed": row.rounds.as_ref().err() }),
        Some(it) => json!({
            "unit": scenario.unit.names().1,
            "rate": it.rate.json(),
            "core_us": it.core.json(),
            "p50_us": it.p50.json(),
            "p99_us": it.p99.json(),
            "p999_us": it.p999.json(),
            "load_busy": it.busy.json(),
            "log_lines_lost": row.lost_lines,
        }),
    }
}

fn routes_json(row: &routes::Row) -> Value {
    match &row.figures {
        Err(why) => json!({ "failed": why }),
        Ok(it) => json!({
            "core_us_one": it.alone.json(),
            "core_us_last": it.last.json(),
            "bytes_a_route": it.memory,
            "change": match &it.changes {
                Err(why) => json!({ "failed": why }),
                Ok(change) => json!({
                    "swap_ms": change.swap.json(),
                    "slowest_meanwhile_ms": change.stall.json(),
                    "lost": change.lost,
                }),
            },
        }),
    }
}
