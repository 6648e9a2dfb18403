//! The timed scenarios as one picture: for each, what the proxies did beside the best of them.

use std::fmt::Write;

use super::Results;
use super::report::summary;
use crate::peer::Kind;

const WIDTH: f64 = 960.0;
/// Of the bars: where they begin, and how long the best one is.
const LEFT: f64 = 150.0;
const LENGTH: f64 = 640.0;
const BAR: f64 = 13.0;
/// Above the bars of a scenario.
const TITLE: f64 = 34.0;

const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;fill:#24292f}.bar{fill:#afb8c1}.own{fill:#2f6feb}\
    @media(prefers-color-scheme:dark){text{fill:#9aa4af}.title{fill:#e6edf3}.bar{fill:#57606a}}</style>\n";

/// An open load has no rate to compare: what it says is how late answers are, the 99th of a hundred.
pub(super) fn of(results: &Results) -> String {
    let (mut body, mut y) = (String::new(), 0.0);
    for (scenario, rows) in &results.timed {
        let value = |row| {
            let summary = summary(scenario, row)?;
            Some(if scenario.is_paced { summary.p99.median() } else { summary.rate.median() })
        };
        let values: Vec<(Kind, Option<f64>)> = rows.iter().map(|row| (row.kind, value(row))).collect();
        let unit = if scenario.is_paced { "p99 in µs, less is better" } else { scenario.unit.names().1 };
        let _ = writeln!(body, "<text class=\"title\" x=\"0\" y=\"{:.1}\">{}: {unit}</text>", y + 22.0, scenario.about);
        y += TITLE;
        bars(&mut body, &mut y, &values);
    }
    let style = STYLE;
    let height = y + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"proxies beside each other\">\n{style}{body}</svg>\n"
    )
}

fn bars(body: &mut String, y: &mut f64, values: &[(Kind, Option<f64>)]) {
    let greatest = values.iter().filter_map(|(_, value)| *value).fold(0.0, f64::max);
    for (kind, value) in values {
        let (name, foot) = (kind.name(), *y + BAR - 2.0);
        let _ = write!(body, "<text x=\"{:.1}\" y=\"{foot:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0);
        let (length, label) = match value.filter(|_| greatest > 0.0) {
            Some(value) => (LENGTH * value / greatest, format!("{value:.0}")),
            None => (0.0, "failed".to_owned()),
        };
        let class = if *kind == Kind::Bowline { "own" } else { "bar" };
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

    #[test]
    fn the_best_has_the_longest_bar_and_what_failed_none() {
        let (mut body, mut y) = (String::new(), 0.0);
        bars(&mut body, &mut y, &[(Kind::Bowline, Some(200.0)), (Kind::Nginx, Some(50.0)), (Kind::Envoy, None)]);
        assert!(body.contains("class=\"own\" x=\"150\" y=\"0.0\" width=\"640.0\""), "{body}");
        assert!(body.contains("class=\"bar\" x=\"150\" y=\"15.0\" width=\"160.0\""), "{body}");
        assert!(body.contains("width=\"0.0\"") && body.contains("failed"), "{body}");
    }
}
