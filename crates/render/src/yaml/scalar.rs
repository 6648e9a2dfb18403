//! How a text is written: plain where every reader takes it for that text, else in quotes, else as a block of lines.

use serde_json::Value;

/// Texts that YAML 1.1 or 1.2 takes for something else, in lower case (types `null`, `bool`, `merge`, `value`, and floats without digits).
const WORDS: [&str; 21] = [
    "~", "null", "y", "n", "yes", "no", "on", "off", "true", "false", ".inf", "+.inf", "-.inf", ".nan", "<<", "=",
    "inf", "+inf", "-inf", "nan", "-",
];

/// With these no text begins unquoted.
const INDICATORS: &str = "-?:,[]{}#&*!|>'\"%@`";

pub(super) enum Scalar<'t> {
    /// Within its line.
    Line(String),
    /// `|` or `|-`, and lines below it.
    Block { head: &'static str, lines: &'t str },
}

/// How to write it as a value.
pub(super) fn of(text: &str) -> Scalar<'_> {
    if !is_block(text) {
        return Scalar::Line(line(text));
    }
    let head = if text.ends_with('\n') { "|" } else { "|-" };
    Scalar::Block { head, lines: text }
}

pub(super) fn key(text: &str) -> String {
    line(text)
}

/// Of what holds no other value, without blocks.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if number.is_f64() => float(&number.to_string()),
        Value::Number(number) => number.to_string(),
        Value::String(text) => line(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
    }
}

/// YAML 1.1 has floats with a point and a signed exponent alone.
fn float(text: &str) -> String {
    let (mantissa, exponent) =
        text.split_once('e').map_or((text, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    match exponent {
        None => format!("{mantissa}{point}"),
        Some(exponent) if exponent.starts_with(['-', '+']) => format!("{mantissa}{point}e{exponent}"),
        Some(exponent) => format!("{mantissa}{point}e+{exponent}"),
    }
}

fn line(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let has_marks = text.contains(['"', '\\']);
    match has_marks && text.chars().all(is_shown) {
        true => format!("'{}'", text.replace('\'', "''")),
        false => quoted(text),
    }
}

/// Whether all readers take it for this text without quotes.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let second_is_word = text.chars().nth(1).is_some_and(|c| c.is_ascii_alphanumeric() || c == '-');
    let begins = !INDICATORS.contains(first) || first == '-' && second_is_word && !text.starts_with("---");
    begins
        && !text.starts_with("...")
        && !text.starts_with(' ')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(is_shown)
        && !is_another(text)
}

/// Whether some reader takes it for no text: a word, a number in any of its forms, a date.
pub(super) fn is_another(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&lower.as_str()) {
        return true;
    }
    // Integers (also 0x, 0o, 0b, and by 60 as in 12:30), floats, dates and times, wherever they are not sure to be none.
    let begins = lower.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit());
    let of_numbers = |c: char| c.is_ascii_hexdigit() || "+-._:xot z".contains(c);
    (begins || lower.chars().all(|c| "+-._".contains(c))) && lower.chars().all(of_numbers)
}

/// It prints in one line and every reader leaves it as it is.
fn is_shown(c: char) -> bool {
    match c {
        ' '..='~' | '\u{a0}'..='\u{d7ff}' => !matches!(c, '\u{2028}' | '\u{2029}'),
        '\u{e000}'..='\u{fffd}' => c != '\u{feff}',
        c => c >= '\u{10000}',
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_shown(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Several lines of plain characters: readers cut nothing off them.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_clean =
        |line: &str| (line.is_empty() || !line.trim().is_empty()) && line.chars().all(|c| is_shown(c) || c == '\t');
    text.contains('\n')
        && !body.is_empty()
        && !body.ends_with('\n')
        && !body.starts_with([' ', '\t', '\n'])
        && body.split('\n').all(is_clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [&str; 14] = [
        "a",
        "hello world",
        "64Mi 100m 30s",
        "10.0.0.0/8",
        "-c",
        "--flag",
        "registry.example.com:5000/a",
        "a#b",
        "bin/hello",
        "$(X)",
        "é",
        "0 3 * * *",
        "nobody",
        "a=\"b\"",
    ];

    /// Apart by blanks, and some that hold some.
    const OTHERS: &str = "on Yes n null ~ 1 1.4 1e3 0x1f 0o7 1_000 12:30 2026-11-27 .5 +1 - -- --- ... -.inf << = a: * &a !x %x @x `x \
                          [a {a #a ? 1.2.3";

    #[test]
    fn quotes_are_where_some_reader_needs_them() {
        let check = |text: &str, expected: &str| assert_eq!(line(text), expected);
        PLAIN.iter().for_each(|plain| check(plain, plain));
        let others = OTHERS.split_whitespace().chain(["", " a", "a ", "a: b", "a #b", ": a", "0 3"]);
        others.for_each(|other| check(other, &format!("\"{other}\"")));
        check("{a=\"b\"}", "'{a=\"b\"}'");
        check("#'\"", "'#''\"'");
        check("a\tb", "\"a\\tb\"");
        check("\u{7}\u{2028}", "\"\\u0007\\u2028\"");
    }

    #[test]
    fn floats_are_floats_to_all() {
        let check = |text: &str, expected: &str| assert_eq!(float(text), expected);
        check("0.5", "0.5");
        check("1e16", "1.0e+16");
        check("1.5e+16", "1.5e+16");
        check("-1.5e-7", "-1.5e-7");
    }

    #[test]
    fn blocks_are_for_lines_that_stay_as_they_are() {
        let check = |text: &str, expected: bool| assert_eq!(is_block(text), expected, "{text:?}");
        check("a\nb", true);
        check("a\n\n  b\n", true);
        check("a\tb\nc", true);
        check("a", false);
        check(" a\nb", false);
        check("\na", false);
        check("a\n\n", false);
        check("a\n \nb", false);
        check("a\r\nb", false);
        check("\n", false);
    }
}
