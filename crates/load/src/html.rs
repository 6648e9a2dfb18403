//! A run as one page that needs nothing else: no scripts, no fonts, no network.

mod chart;

use std::fmt::Write;

use crate::compare::{Comparison, Judgement, Unit};
use crate::report::{Distribution, Report};
use crate::verdict::{Doubt, QUANTILES};

const STYLE: &str = include_str!("html/style.css");

/// `when`: for people, in the head of the page.
pub fn page(report: &Report, when: &str, comparison: Option<&Comparison>) -> String {
    let run = &report.run;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>bench of {url}</title>\n<style>\n{STYLE}</style>\n<main>\n<h1>{url}</h1>\n<p class=\"faint\">{about}</p>\n",
        url = escaped(&run.url),
        about = escaped(&about(report, when)),
    );
    page.push_str(&verdict(report));
    page.push_str(&tiles(report));
    let open = report.run.pace != crate::report::Loop::Closed;
    let hint = if open { "by when the requests were due" } else { "by when the requests were sent" };
    section(&mut page, "Latency over time", hint, &chart::latency(&report.timeline));
    section(&mut page, "Requests over time", "each second", &chart::rates(&report.timeline));
    section(&mut page, "Latency by part of the requests", "so many were answered within", &chart::quantiles(report));
    section(&mut page, "Figures", "", &figures(report));
    if !report.errors.is_empty() {
        section(&mut page, "Failures", "", &failures(report));
    }
    if let Some(comparison) = comparison {
        section(&mut page, "Compared with the run before", "", &compared(comparison));
    }
    page.push_str("</main>\n</html>\n");
    page
}

fn section(page: &mut String, title: &str, hint: &str, content: &str) {
    let _ = write!(page, "<section>\n<h2>{title} <small>{hint}</small></h2>\n{content}</section>\n");
}

fn about(report: &Report, when: &str) -> String {
    let run = &report.run;
    format!(
        "{when} · {} · {} · {:.1} s after {:.1} s of warm-up · {} connections, {:.0} % of the requests on new ones · {}",
        run.protocol,
        run.pace,
        report.seconds,
        run.warm_up_seconds,
        run.connections,
        100.0 * run.new_connections,
        run.address,
    )
}

fn verdict(report: &Report) -> String {
    let (class, words) = match (report.valid, report.met) {
        (false, _) => ("bad", "Not valid: the figures below are not the server's"),
        (true, false) => ("bad", "Not what was expected"),
        (true, true) => ("good", "Valid, and as expected"),
    };
    let reasons: String =
        report.invalid.iter().chain(&report.unmet).map(|reason| format!("<li>{}</li>\n", escaped(reason))).collect();
    let list = if reasons.is_empty() { String::new() } else { format!("<ul>\n{reasons}</ul>\n") };
    format!("<div class=\"verdict {class}\"><strong>{words}</strong>\n{list}</div>\n")
}

fn tiles(report: &Report) -> String {
    let counts = report.counts;
    let p = |ppm| report.latency.us(ppm).map_or_else(|| "–".to_owned(), time);
    let all = [
        ("answers a second", format!("{:.0}", report.completed_per_second)),
        ("p50", p(500_000)),
        ("p99", p(990_000)),
        ("slowest", time(report.latency.max_us)),
        ("answered", grouped(counts.completed)),
        ("failed", grouped(counts.failed)),
    ];
    let tile = |(name, value): (&str, String)| {
        let class = if name == "failed" && value != "0" { " bad" } else { "" };
        format!("<div class=\"tile{class}\"><b>{value}</b><span>{name}</span></div>\n")
    };
    format!("<div class=\"tiles\">\n{}</div>\n", all.into_iter().map(tile).collect::<String>())
}

fn figures(report: &Report) -> String {
    let head: String = QUANTILES.iter().map(|quantile| format!("<th>{quantile}</th>")).collect();
    let rows = [
        ("latency", "from when a request was due", &report.latency),
        ("service", "from when it was sent", &report.service),
        ("connecting", "new connections, handshakes included", &report.connecting),
        ("generator", "how late it was itself", &report.lag),
    ];
    let row = |(name, hint, of): (&str, &str, &Distribution)| {
        let cells: String =
            of.quantiles.iter().map(|value| format!("<td>{}</td>", said(value.us, value.refused))).collect();
        format!(
            "<tr><th>{name} <small>{hint}</small></th>{cells}<td>{}</td><td>{}</td></tr>\n",
            time(of.max_us),
            grouped(of.samples)
        )
    };
    let rows: String = rows.into_iter().filter(|(_, _, of)| of.samples > 0).map(row).collect();
    let counts = report.counts;
    format!(
        "<div class=\"wide\"><table>\n<tr><th></th>{head}<th>max</th><th>samples</th></tr>\n{rows}</table></div>\n\
         <p>{} offered, {} sent, {} answered, {} late, {} dropped, {} unfinished; {} in the warm-up. {} received, {} sent. \
         The generator was busy for {:.0} % of the time. Seed {}.</p>\n",
        grouped(counts.offered),
        grouped(counts.sent),
        grouped(counts.completed),
        grouped(counts.late),
        grouped(counts.dropped),
        grouped(counts.unfinished),
        grouped(counts.warm_up),
        bytes(report.received_bytes),
        bytes(report.sent_bytes),
        100.0 * report.busy,
        report.run.seed,
    )
}

fn said(us: Option<u64>, refused: Option<Doubt>) -> String {
    match (us, refused) {
        (Some(us), _) => time(us),
        (None, Some(Doubt::Generator)) => "<small>generator</small>".to_owned(),
        (None, Some(Doubt::FewSamples) | None) => "<small>too few</small>".to_owned(),
    }
}

fn failures(report: &Report) -> String {
    let kinds: String = report
        .errors
        .iter()
        .map(|(kind, n)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escaped(kind.words()), grouped(*n)))
        .collect();
    let first: String = report
        .failures
        .iter()
        .map(|one| {
            let (kind, detail) = (escaped(one.kind.words()), escaped(&one.detail));
            format!(
                "<tr><td>{:.2} s</td><td class=\"left\">{kind}</td><td class=\"left\">{detail}</td></tr>\n",
                one.at_ms / 1e3
            )
        })
        .collect();
    format!("<table>\n{kinds}</table>\n<h3>The first ones</h3>\n<div class=\"wide\"><table>\n{first}</table></div>\n")
}

fn compared(comparison: &Comparison) -> String {
    let value = |value: Option<f64>, unit| value.map_or_else(|| "–".to_owned(), |value| figure(value, unit));
    let row = |row: &crate::compare::Row| {
        let class = match row.judgement {
            Judgement::Better => "good",
            Judgement::Worse => "bad",
            Judgement::Same | Judgement::Unknown => "faint",
        };
        let change = row.change.map_or_else(String::new, |change| format!("{:+.1} %", 100.0 * change));
        format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td class=\"{class}\">{change}</td></tr>\n",
            escaped(&row.name),
            value(row.before, row.unit),
            value(row.after, row.unit),
        )
    };
    let rows: String = comparison.rows.iter().map(row).collect();
    let differs: String = comparison.differs.iter().map(|words| format!("<li>{}</li>\n", escaped(words))).collect();
    let differs = if differs.is_empty() { differs } else { format!("<ul class=\"bad\">\n{differs}</ul>\n") };
    format!("{differs}<table>\n<tr><th></th><th>before</th><th>now</th><th>change</th></tr>\n{rows}</table>\n")
}

/// A figure of a comparison, for people.
pub fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond => format!("{value:.0}/s"),
        Unit::Requests => format!("{value:.0}"),
        Unit::Us => milliseconds(value / 1e3),
    }
}

/// `85 µs`, `1.2 ms`, `540 ms`, `1.3 s`.
pub fn time(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    match us {
        0..1_000 => format!("{us} µs"),
        _ => milliseconds(us as f64 / 1e3),
    }
}

fn milliseconds(ms: f64) -> String {
    if ms < 1.0 {
        format!("{:.0} µs", ms * 1e3)
    } else if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1e3)
    }
}

/// `60,000`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (i, digit) in digits[first..].chars().enumerate() {
        if i % 3 == 0 && !text.is_empty() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(n: u64) -> String {
    bowline_core::units::Round(bowline_core::units::Bytes(n)).to_string()
}

/// A server's words neither become markup, nor turn around the text beside them (Unicode Standard Annex 9).
fn escaped(text: &str) -> String {
    let steers = |c: char| {
        let is_bidi =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        is_bidi || c.is_control() && !c.is_whitespace()
    };
    let text: String = text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::tests::report;
    use crate::tally::{Failure, Kind};

    #[test]
    fn a_page_stands_alone_and_escapes_what_a_server_said() {
        let mut report = report(1_500, Duration::from_millis(3));
        let detail = "status 500: <script>alert(1)</script>\u{202e}\u{1b}".to_owned();
        report.errors.insert(Kind::Status, 1);
        report.failures.push(Failure { at_ms: 5.0, kind: Kind::Status, detail });
        report.run.url = "http://localhost/?a=\"b\"&c".to_owned();
        let comparison = Comparison::of(&report, &report);
        let page = page(&report, "today", Some(&comparison));
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
        for outside in ["<script", "src=", "@import", "href=", "NaN", "inf", "\u{202e}", "\u{1b}"] {
            assert!(!page.contains(outside), "{outside}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), 3);
    }

    #[test]
    fn quantities_for_people() {
        let times: Vec<String> = [85, 1_234, 12_345, 540_000, 1_300_000].into_iter().map(time).collect();
        assert_eq!(times, ["85 µs", "1.23 ms", "12.3 ms", "540 ms", "1.30 s"]);
        let numbers: Vec<String> = [0, 999, 1_000, 60_000, 1_234_567].into_iter().map(grouped).collect();
        assert_eq!(numbers, ["0", "999", "1,000", "60,000", "1,234,567"]);
    }
}
