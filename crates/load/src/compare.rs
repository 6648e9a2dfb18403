//! Two runs, one beside the other.

use serde::Serialize;

use crate::report::{Distribution, Report, Run};
use crate::verdict::{QUANTILES, Quantile};

/// Changes up to this part are what two runs of the same thing differ by.
pub const NOISE: f64 = 0.05;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What was run differently, so that the figures do not compare; empty if nothing was.
    pub differs: Vec<String>,
    pub rows: Vec<Row>,
}

/// One figure. Absent where a run refuses it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: Unit,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
    /// As a part of what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<f64>,
    pub judgement: Judgement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    PerSecond,
    Requests,
    Us,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    Better,
    Worse,
    /// Within 5 %.
    Same,
    /// One of the runs does not say it.
    Unknown,
}

/// Whether more of it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    More,
    Less,
}

impl Comparison {
    pub fn of(before: &Report, after: &Report) -> Self {
        let mut rows = vec![
            Row::new(
                "answers",
                Unit::PerSecond,
                Good::More,
                Some(before.completed_per_second),
                Some(after.completed_per_second),
            ),
            Row::new("failed", Unit::Requests, Good::Less, count(before.counts.failed), count(after.counts.failed)),
        ];
        for (words, of) in [("latency", latency as fn(&Report) -> &Distribution), ("service", service)] {
            let at = |report, quantile: Quantile| of(report).us(quantile.ppm()).and_then(count);
            let row = |quantile: Quantile| {
                let (was, is) = (at(before, quantile), at(after, quantile));
                Row::new(&format!("{words} {quantile}"), Unit::Us, Good::Less, was, is)
            };
            rows.extend(QUANTILES.into_iter().map(row).filter(|row| row.before.or(row.after).is_some()));
            let max = |report| count(of(report).max_us);
            rows.push(Row::new(&format!("{words} max"), Unit::Us, Good::Less, max(before), max(after)));
        }
        Self { differs: differences(before, after), rows }
    }
}

fn latency(report: &Report) -> &Distribution {
    &report.latency
}

fn service(report: &Report) -> &Distribution {
    &report.service
}

#[expect(clippy::cast_precision_loss, reason = "counts and microseconds of a run are far below 2^52")]
#[expect(clippy::unnecessary_wraps, reason = "a figure may be absent")]
fn count(n: u64) -> Option<f64> {
    Some(n as f64)
}

impl Row {
    fn new(name: &str, unit: Unit, good: Good, before: Option<f64>, after: Option<f64>) -> Self {
        let both = before.zip(after);
        let change = both.filter(|(was, _)| *was > 0.0).map(|(was, is)| ((is / was - 1.0) * 1e4).round() / 1e4);
        let judgement = match both {
            None => Judgement::Unknown,
            Some((was, is)) if (is - was).abs() <= NOISE * was => Judgement::Same,
            Some((was, is)) if (is > was) == (good == Good::More) => Judgement::Better,
            Some(_) => Judgement::Worse,
        };
        Self { name: name.to_owned(), unit, before, after, change, judgement }
    }
}

/// In words, what was said differently, and which of the runs is not to be believed.
fn differences(before: &Report, after: &Report) -> Vec<String> {
    let (was, is) = (&before.run, &after.run);
    let part = |name: &str, of: fn(&Run) -> String| {
        let (was, is) = (of(was), of(is));
        (was != is).then(|| format!("{name}: {was} before, {is} now"))
    };
    let valid = |report: &Report, which: &str| (!report.valid).then(|| format!("the run {which} is not valid"));
    let parts = [
        part("URL", |run| run.url.clone()),
        part("protocol", |run| run.protocol.clone()),
        part("load", |run| run.pace.to_string()),
        part("connections", |run| run.connections.to_string()),
        part("new connections", |run| format!("{:.1} %", 100.0 * run.new_connections)),
        valid(before, "before"),
        valid(after, "now"),
    ];
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_figure_is_judged_by_which_way_is_good() {
        let check = |good, before, after, expected| {
            assert_eq!(Row::new("x", Unit::Us, good, before, after).judgement, expected, "{before:?} {after:?}");
        };
        check(Good::Less, Some(100.0), Some(104.0), Judgement::Same);
        check(Good::Less, Some(100.0), Some(106.0), Judgement::Worse);
        check(Good::More, Some(100.0), Some(106.0), Judgement::Better);
        check(Good::Less, Some(0.0), Some(1.0), Judgement::Worse);
        check(Good::Less, Some(0.0), Some(0.0), Judgement::Same);
        check(Good::Less, None, Some(1.0), Judgement::Unknown);
    }

    #[test]
    fn runs_are_compared_row_by_row() {
        let (fast, slow) = (report(1_500, Duration::from_millis(2)), report(1_500, Duration::from_millis(4)));
        let comparison = Comparison::of(&fast, &slow);
        assert!(comparison.differs.is_empty());
        let p99 = comparison.rows.iter().find(|row| row.name == "latency p99").unwrap();
        assert_eq!((p99.judgement, p99.change.map(f64::round)), (Judgement::Worse, Some(1.0)));
        assert!(comparison.rows.iter().all(|row| row.name != "latency p99.9"), "neither run says it");
        let mut other = slow.clone();
        other.run.protocol = "HTTP/2".to_owned();
        other.valid = false;
        let differs = Comparison::of(&fast, &other).differs;
        assert_eq!(differs, ["protocol: HTTP/1.1 before, HTTP/2 now", "the run now is not valid"]);
    }
}
