//! An app's own metrics with Bowline's labels: what it wrote in Prometheus's text format (0.0.4), series by series.

use std::fmt::Write as _;

/// Series of one instance that are passed on: a label without bounds (an id, a path) must not fill somebody's disk.
pub(crate) const MOST_SERIES: usize = 2_000;

/// What is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relabelled {
    pub(crate) text: String,
    /// Series that were more than [`MOST_SERIES`].
    pub(crate) dropped: usize,
}

/// A line that is no series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of its metrics is no series: {text}")]
pub(crate) struct NoSeries {
    line: usize,
    text: String,
}

/// So much of a wrong line is shown.
const SHOWN: usize = 120;

/// Each series with `labels` before its own. An own label of such a name becomes `exported_NAME`, as Prometheus itself does it.
pub(crate) fn relabelled(text: &str, labels: &[(&'static str, String)], most: usize) -> Result<Relabelled, NoSeries> {
    let mut out = Relabelled { text: String::with_capacity(text.len() * 2), dropped: 0 };
    let mut written = 0;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            out.text.push_str(line);
            out.text.push('\n');
            continue;
        }
        let wrong = || NoSeries { line: at + 1, text: line.chars().take(SHOWN).collect() };
        let series = Series::parse(line).ok_or_else(wrong)?;
        if written == most {
            out.dropped += 1;
            continue;
        }
        written += 1;
        series.write(labels, &mut out.text);
    }
    Ok(out)
}

/// `NAME{LABEL="VALUE",…} REST`
struct Series<'t> {
    name: &'t str,
    /// Values as they were written, escaped.
    labels: Vec<(&'t str, &'t str)>,
    /// Value, and maybe a time.
    rest: &'t str,
}

impl<'t> Series<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let end = line.find(|c: char| !is_of_name(c) && c != ':')?;
        let (name, mut rest) = line.split_at(end);
        let is_name = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
        let mut labels = Vec::new();
        if let Some(inside) = rest.trim_start().strip_prefix('{') {
            rest = parse_labels(inside, &mut labels)?;
        }
        // What OpenMetrics says behind a value, an exemplar, the older format does not know.
        let rest = rest.split(" # ").next()?.trim();
        let value = rest.split_whitespace().next()?;
        let is_number = value.parse::<f64>().is_ok() || ["+Inf", "-Inf", "NaN", "Nan"].contains(&value);
        (is_name && is_number).then_some(Self { name, labels, rest })
    }

    fn write(&self, labels: &[(&'static str, String)], out: &mut String) {
        out.push_str(self.name);
        let mut separator = '{';
        for (name, value) in labels {
            // Names of apps and ids of instances hold nothing that would have to be escaped. A String takes it.
            let _ = write!(out, "{separator}{name}=\"{value}\"");
            separator = ',';
        }
        for (name, value) in &self.labels {
            let exported = if labels.iter().any(|(own, _)| own == name) { "exported_" } else { "" };
            let _ = write!(out, "{separator}{exported}{name}=\"{value}\"");
            separator = ',';
        }
        let close = if separator == ',' { "}" } else { "" };
        let _ = writeln!(out, "{close} {}", self.rest);
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Behind the brace that opens; gives what is behind the one that closes.
fn parse_labels<'t>(mut rest: &'t str, labels: &mut Vec<(&'t str, &'t str)>) -> Option<&'t str> {
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let end = rest.find(|c: char| !is_of_name(c))?;
        let (name, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let close = closing_quote(after)?;
        if name.is_empty() {
            return None;
        }
        labels.push((name, &after[..close]));
        rest = after[close + 1..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(more) => more,
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// Of a value in which a backslash escapes what follows it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<(&'static str, String)> {
        vec![("app", "shop".to_owned()), ("instance", "local/shop.web.r1.0.1".to_owned())]
    }

    fn check(text: &str, expected: Result<&str, usize>) {
        let got = relabelled(text, &own(), 10).map(|all| all.text).map_err(|wrong| wrong.line);
        assert_eq!(got, expected.map(str::to_owned), "{text}");
    }

    const OWN: &str = r#"app="shop",instance="local/shop.web.r1.0.1""#;

    #[test]
    fn labels_are_laid_over_each_series() {
        check("up 1\n", Ok(&format!("up{{{OWN}}} 1\n")));
        check("a{} 1", Ok(&format!("a{{{OWN}}} 1\n")));
        check("a:b{c=\"d\"} 2.5e3 1700000000000", Ok(&format!("a:b{{{OWN},c=\"d\"}} 2.5e3 1700000000000\n")));
        check("a { c = \"d\" , e=\"f\", } +Inf", Ok(&format!("a{{{OWN},c=\"d\",e=\"f\"}} +Inf\n")));
        check(
            "# HELP a A {}.\n# TYPE a counter\n\na NaN",
            Ok(&format!("# HELP a A {{}}.\n# TYPE a counter\n\na{{{OWN}}} NaN\n")),
        );
    }

    #[test]
    fn values_may_hold_what_looks_like_an_end() {
        check(r#"a{p="}\" 1",q="\\"} 1"#, Ok(&format!("a{{{OWN},p=\"}}\\\" 1\",q=\"\\\\\"}} 1\n")));
        check(r#"a{p="é,{="} 1"#, Ok(&format!("a{{{OWN},p=\"é,{{=\"}} 1\n")));
    }

    #[test]
    fn own_labels_of_the_same_names_are_kept_under_others() {
        check(
            r#"a{app="x",instance="y"} 1"#,
            Ok(&format!("a{{{OWN},exported_app=\"x\",exported_instance=\"y\"}} 1\n")),
        );
    }

    #[test]
    fn exemplars_are_left_out() {
        check(r#"a_total 5 # {trace_id="t"} 1 2"#, Ok(&format!("a_total{{{OWN}}} 5\n")));
    }

    #[test]
    fn what_is_no_series_is_refused_with_its_line() {
        for wrong in
            ["<html>", "a", "a{", "a{b} 1", "a{b=c} 1", "a{b=\"c} 1", "a one", "1a 1", "{} 1", "a{b=\"c\" d=\"e\"} 1"]
        {
            check(&format!("ok 1\n{wrong}\n"), Err(2));
        }
    }

    #[test]
    fn more_series_than_may_be_are_counted_and_dropped() {
        let text: String = (0..25).map(|n| format!("a{{n=\"{n}\"}} {n}\n")).collect();
        let all = relabelled(&text, &own(), 10).unwrap();
        assert_eq!((all.text.lines().count(), all.dropped), (10, 15));
    }
}
