//! The timed scenarios as one picture: for each, what the proxies did beside the best of them.

use std::fmt::Write;

use super::aims::TOO_BUSY;
use super::report::{Summary, summary};
use super::scenario::Scenario;
use super::{Results, Row};
use crate::peer::Kind;

const WIDTH: f64 = 960.0;
/// Of the bars: where they begin, and how long the best one is.
const LEFT: f64 = 150.0;
const LENGTH: f64 = 600.0;
const BAR: f64 = 13.0;
/// Above the bars of a scenario.
const TITLE: f64 = 34.0;

const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;fill:#24292f}.bar{fill:#afb8c1}.own{fill:#2f6feb}.limited{opacity:.45}\
    @media(prefers-color-scheme:dark){text{fill:#9aa4af}.title{fill:#e6edf3}.bar{fill:#57606a}}</style>\n";

/// One proxy in one scenario.
struct Bar {
    kind: Kind,
    /// `None`: it failed.
    value: Option<f64>,
    /// The load was too busy to rank it.
    is_limited: bool,
    /// It dropped some of its log.
    is_short: bool,
}

impl Bar {
    fn of(scenario: &Scenario, row: &Row) -> Self {
        let summary = summary(scenario, row);
        let shown = |it: &Summary| if scenario.is_paced { it.p99.median() } else { it.rate.median() };
        let value = summary.as_ref().map(shown);
        let is_limited = summary.is_some_and(|it| it.busy.median() > TOO_BUSY);
        Self { kind: row.kind, value, is_limited, is_short: row.lost_lines > 0 }
    }

    /// What stands beside it.
    fn label(&self) -> String {
        let Some(value) = self.value else { return "failed".to_owned() };
        let notes = [(self.is_limited, "load too busy"), (self.is_short, "log lost")];
        let notes: Vec<&str> = notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note).collect();
        if notes.is_empty() { format!("{value:.0}") } else { format!("{value:.0} ({})", notes.join(", ")) }
    }
}

/// An open load has no rate to compare: what it says is how late answers are, the 99th of a hundred.
pub(super) fn of(results: &Results) -> String {
    let (mut body, mut y) = (String::new(), 0.0);
    for (scenario, rows) in &results.timed {
        let all: Vec<Bar> = rows.iter().map(|row| Bar::of(scenario, row)).collect();
        let unit = if scenario.is_paced { "p99 in µs, less is better" } else { scenario.unit.names().1 };
        let _ = writeln!(body, "<text class=\"title\" x=\"0\" y=\"{:.1}\">{}: {unit}</text>", y + 22.0, scenario.about);
        y += TITLE;
        bars(&mut body, &mut y, &all);
    }
    let style = STYLE;
    let height = y + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"proxies beside each other\">\n{style}{body}</svg>\n"
    )
}

fn bars(body: &mut String, y: &mut f64, all: &[Bar]) {
    let greatest = all.iter().filter_map(|bar| bar.value).fold(0.0, f64::max);
    for bar in all {
        let (name, foot, label) = (bar.kind.name(), *y + BAR - 2.0, bar.label());
        let _ = write!(body, "<text x=\"{:.1}\" y=\"{foot:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0);
        let length = bar.value.filter(|_| greatest > 0.0).map_or(0.0, |value| LENGTH * value / greatest);
        let class = if bar.kind == Kind::Bowline { "own" } else { "bar" };
        let class = if bar.is_limited { format!("{class} limited") } else { class.to_owned() };
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\"/><text x=\"{:.1}\" y=\"{foot:.1}\">{label}</text>",
            BAR - 2.0,
            LEFT + length + 6.0,
        );
        *y += BAR + 2.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(all: &[(Kind, Option<f64>)], is_limited: bool, is_short: bool) -> String {
        let (mut body, mut y) = (String::new(), 0.0);
        let bar = |(kind, value): &(Kind, Option<f64>)| Bar { kind: *kind, value: *value, is_limited, is_short };
        bars(&mut body, &mut y, &all.iter().map(bar).collect::<Vec<_>>());
        body
    }

    #[test]
    fn the_best_has_the_longest_bar_and_what_failed_none() {
        let all = [(Kind::Bowline, Some(200.0)), (Kind::Nginx, Some(50.0)), (Kind::Envoy, None)];
        let body = drawn(&all, false, false);
        assert!(body.contains("class=\"own\" x=\"150\" y=\"0.0\" width=\"600.0\""), "{body}");
        assert!(body.contains("class=\"bar\" x=\"150\" y=\"15.0\" width=\"150.0\""), "{body}");
        assert!(body.contains("width=\"0.0\"") && body.contains("failed") && !body.contains('('), "{body}");
    }

    #[test]
    fn what_the_load_has_limited_and_who_lost_some_of_its_log_is_marked() {
        let check = |is_limited, is_short, class: &str, label: &str| {
            let body = drawn(&[(Kind::Haproxy, Some(200.0))], is_limited, is_short);
            assert!(body.contains(&format!("class=\"{class}\"")) && body.contains(&format!(">{label}<")), "{body}");
        };
        check(true, false, "bar limited", "200 (load too busy)");
        check(false, true, "bar", "200 (log lost)");
        check(true, true, "bar limited", "200 (load too busy, log lost)");
    }
}
