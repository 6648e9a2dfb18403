//! A run on the terminal.

use std::time::Duration;

use bowline_core::time::Humane;
use bowline_load::compare::{Comparison, Judgement};
use bowline_load::html::{figure, grouped, time};
use bowline_load::plan::Body;
use bowline_load::report::{Distribution, Loop};
use bowline_load::tally::Failure;
use bowline_load::verdict::{Doubt, QUANTILES};
use bowline_load::{Gaps, Pace, Plan, Progress, Protocol, Report};

use crate::cmd::bench::chart;
use crate::ui::{Tone, Ui, bytes};

/// Of the failures, so many are shown; `--json` and `--html` have more.
const SHOWN: usize = 5;
/// A generator that took so much of a processor may soon be what limits.
const NEARLY_BUSY: f64 = 0.8;

/// What is about to be done, and to whom.
pub(super) fn intent(plan: &Plan, address: &str, ui: &Ui) {
    let tls = if plan.target.https { " over TLS" } else { "" };
    ui.say(format!(
        "  {} {}  {}",
        requests(plan),
        ui.paint(Tone::Link, &plan.target),
        ui.paint(Tone::Faint, format!("{}{tls}, only {address} is asked", plan.protocol))
    ));
    let after = match plan.warm_up.is_zero() {
        true => String::new(),
        false => format!(" after {} of warm-up", Humane(plan.warm_up)),
    };
    let fresh = match plan.new_connections.ppm() {
        0 => String::new(),
        _ => format!(", {} of the requests on new ones", plan.new_connections),
    };
    let streams = match plan.protocol {
        Protocol::Http1 => String::new(),
        Protocol::Http2 => format!(" with {} requests at once", plan.streams),
    };
    ui.say(format!(
        "  {} for {}{after}; up to {} kept connections{streams}{fresh}\n",
        pace(plan.pace),
        Humane(plan.duration),
        plan.connections
    ));
}

fn requests(plan: &Plan) -> String {
    let all: u32 = plan.requests.iter().map(|request| request.weight).sum();
    let one = |request: &bowline_load::Template| {
        let what = match &request.body {
            Body::None => String::new(),
            Body::Bytes(body) => format!(" with {}", bytes(u64::try_from(body.len()).unwrap_or(u64::MAX))),
            Body::Upload(upload) => format!(" of {} files", upload.files()),
        };
        match request.weight == all {
            true => format!("{}{what}", request.method),
            false => {
                let part = 100.0 * f64::from(request.weight) / f64::from(all.max(1));
                format!("{}{what} ({part:.1} %)", request.method)
            }
        }
    };
    plan.requests.iter().filter(|request| request.weight > 0).map(one).collect::<Vec<_>>().join(" and ")
}

fn pace(pace: Pace) -> String {
    match pace {
        Pace::Closed => "closed loop, as fast as answers come,".to_owned(),
        Pace::Open { from, to, gaps } => {
            let gaps = if gaps == Gaps::Poisson { " at random times" } else { "" };
            match from == to {
                true => format!("open loop: {} requests/s{gaps}", from.get()),
                false => format!("open loop: from {} to {} requests/s{gaps}", from.get(), to.get()),
            }
        }
    }
}

/// One line that changes while it goes on.
pub(super) fn progress(progress: Progress, elapsed: Duration, whole: Duration, ui: &Ui) {
    let failed = match progress.failed {
        0 => String::new(),
        n => ui.paint(Tone::Bad, format!("  {} failed", grouped(n))),
    };
    ui.passing(format!(
        "  {:.0}s of {:.0}s  {} sent  {} answered{failed}",
        elapsed.min(whole).as_secs_f64(),
        whole.as_secs_f64(),
        grouped(progress.offered),
        grouped(progress.succeeded),
    ));
}

pub(super) fn report(report: &Report, ui: &Ui) {
    for line in chart::lines(&report.timeline, ui) {
        ui.say(line);
    }
    figures(report, ui);
    ui.say("");
    counts(report, ui);
    failures(report, ui);
}

fn figures(report: &Report, ui: &Ui) {
    let names: Vec<String> = QUANTILES.iter().map(ToString::to_string).collect();
    let head: Vec<&str> = [""].into_iter().chain(names.iter().map(String::as_str)).chain(["max", ""]).collect();
    let closed = report.run.pace == Loop::Closed;
    let rows = [
        ("latency", if closed { "from when it was sent" } else { "from when it was due" }, &report.latency),
        ("service", "from when it was sent", &report.service),
        ("connecting", "new connections, with handshakes", &report.connecting),
        ("generator", "its own lateness", &report.lag),
    ];
    // In a closed loop nothing is due: latency and service are one.
    let shown = |(name, _, of): &(&str, &str, &Distribution)| {
        of.samples > 0 && !(closed && matches!(*name, "service" | "generator"))
    };
    let row = |(name, hint, of): (&str, &str, &Distribution)| {
        let value = |one: &bowline_load::report::QuantileValue| match (one.us, one.refused) {
            (Some(us), _) => time(us),
            (None, Some(Doubt::Generator)) => ui.paint(Tone::Warning, "generator"),
            (None, Some(Doubt::FewSamples) | None) => ui.paint(Tone::Faint, "too few"),
        };
        let mut cells = vec![ui.paint(Tone::Strong, name)];
        cells.extend(of.quantiles.iter().map(value));
        cells.extend([time(of.max_us), ui.paint(Tone::Faint, hint)]);
        cells
    };
    ui.table(&head, &rows.into_iter().filter(shown).map(row).collect::<Vec<_>>());
}

fn counts(report: &Report, ui: &Ui) {
    let counts = report.counts;
    let part = |n: u64, name: &str, tone| match n {
        0 => ui.paint(Tone::Faint, format!("0 {name}")),
        n => ui.paint(tone, format!("{} {name}", grouped(n))),
    };
    let mut parts = vec![
        part(counts.offered, "offered", Tone::Strong),
        part(counts.sent, "sent", Tone::Strong),
        part(counts.completed, "answered", Tone::Strong),
        part(counts.failed, "failed", Tone::Bad),
    ];
    match report.run.pace {
        Loop::Closed => parts.push(part(counts.unfinished, "under way at the end", Tone::Faint)),
        Loop::Open { .. } => {
            parts.extend([part(counts.late, "late", Tone::Warning), part(counts.dropped, "dropped", Tone::Bad)]);
        }
    }
    ui.say(format!("  {}", parts.join("  ")));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate of bytes is positive and far below 2^64"
    )]
    let rate = |total: u64| {
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        let per_second = total as f64 / report.seconds.max(1e-3);
        bytes(per_second as u64)
    };
    let mut line =
        format!("  {:.0} answers/s, {}/s received", report.completed_per_second, rate(report.received_bytes));
    if report.sent_bytes > 0 {
        line.push_str(&format!(", {}/s sent", rate(report.sent_bytes)));
    }
    if report.busy > NEARLY_BUSY {
        line.push_str(
            &ui.paint(Tone::Warning, format!("; the generator was busy for {:.0} % of the time", 100.0 * report.busy)),
        );
    }
    ui.say(line);
}

fn failures(report: &Report, ui: &Ui) {
    if report.errors.is_empty() {
        return;
    }
    ui.say("");
    for (kind, n) in &report.errors {
        ui.say(format!("  {} {kind}", ui.paint(Tone::Bad, format!("{:>8}", grouped(*n)))));
    }
    // The same words again say nothing new.
    let mut told: Vec<&Failure> = Vec::new();
    for one in &report.failures {
        if told.iter().all(|other| other.detail != one.detail) {
            told.push(one);
        }
    }
    for one in told.into_iter().take(SHOWN) {
        let at = format!("{:>7.2}s", one.at_ms / 1e3);
        ui.say(format!("  {}  {}", ui.paint(Tone::Faint, at), one.detail));
    }
}

pub(super) fn comparison(comparison: &Comparison, ui: &Ui) {
    ui.say("");
    for words in &comparison.differs {
        ui.say(format!("  {}", ui.paint(Tone::Warning, format!("not the same: {words}"))));
    }
    let row = |row: &bowline_load::compare::Row| {
        let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| figure(value, row.unit));
        let tone = match row.judgement {
            Judgement::Better => Tone::Good,
            Judgement::Worse => Tone::Bad,
            Judgement::Same | Judgement::Unknown => Tone::Faint,
        };
        let change = match (row.change, row.judgement) {
            (_, Judgement::Unknown) => "one of them does not say it".to_owned(),
            (Some(change), Judgement::Same) => format!("{:+.1} %, the same", 100.0 * change),
            (Some(change), Judgement::Better) => format!("{:+.1} %, better", 100.0 * change),
            (Some(change), Judgement::Worse) => format!("{:+.1} %, worse", 100.0 * change),
            (None, Judgement::Same) => "the same".to_owned(),
            (None, Judgement::Better) => "better".to_owned(),
            (None, Judgement::Worse) => "worse".to_owned(),
        };
        vec![row.name.clone(), value(row.before), value(row.after), ui.paint(tone, change)]
    };
    ui.table(&["", "before", "now", ""], &comparison.rows.iter().map(row).collect::<Vec<_>>());
}

/// The last word: whether it may be believed, and whether it is what was expected.
pub(super) fn verdict(report: &Report, ui: &Ui) {
    ui.say("");
    for reason in &report.invalid {
        ui.say(format!("  {} {reason}", ui.paint(Tone::Bad, "not valid:")));
    }
    for reason in &report.unmet {
        ui.say(format!("  {} {reason}", ui.paint(Tone::Bad, "not as expected:")));
    }
    if report.valid && report.met {
        ui.say(format!("  {}", ui.paint(Tone::Good, "valid, and as expected")));
    }
}
