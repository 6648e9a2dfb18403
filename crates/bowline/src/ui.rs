//! The terminal. On one it is for reading: colour and tables; through a pipe it is plain; with `--json` every
//! answer is one JSON object per line.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    json: bool,
    colour: bool,
    terminal: bool,
}

/// What a piece of text is, not how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warning,
    Bad,
    Strong,
    Faint,
    Link,
    /// One of a few colours that tell sources apart.
    Source(usize),
}

impl Ui {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        Self { json, terminal, colour: terminal && wanted && !json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal && !self.json
    }

    pub(crate) fn has_colour(&self) -> bool {
        self.colour
    }

    /// `text` in the style of its tone; plain where colour is not wanted.
    pub(crate) fn paint(&self, tone: Tone, text: impl Display) -> String {
        if !self.colour {
            return text.to_string();
        }
        let style = style(tone);
        format!("{style}{text}{style:#}")
    }

    /// A line for people; nothing with `--json`.
    pub(crate) fn say(&self, line: impl Display) {
        if !self.json {
            out(&line);
        }
    }

    /// A line for people that is not part of the answer, on stderr; nothing with `--json`.
    pub(crate) fn aside(&self, line: impl Display) {
        if !self.json {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    /// A line on stderr whose place the next one takes: of what goes on. An empty one clears it. Only on a terminal.
    pub(crate) fn passing(&self, line: impl Display) {
        if self.is_terminal() && std::io::stderr().is_terminal() {
            let mut err = std::io::stderr().lock();
            // Nobody is left to tell when stderr is gone.
            let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
        }
    }

    /// A JSON object on a line of its own; nothing without `--json`.
    pub(crate) fn object(&self, value: &impl Serialize) {
        if self.json {
            out(&serde_json::to_string(value).expect("answers have string keys and no failing serialisers"));
        }
    }

    /// Text that is itself the answer: a schema, completions.
    pub(crate) fn raw(&self, text: &str) {
        out(&text.trim_end());
    }

    /// Prints a failure as it is meant to be read; the exit code says whose turn it is.
    pub(crate) fn fault(&self, fault: &Fault) -> ExitCode {
        if self.json {
            #[derive(Serialize)]
            struct Failure {
                fault: wire::Fault,
            }
            self.object(&Failure { fault: fault.clone().into() });
        } else {
            let mut err = std::io::stderr().lock();
            // Nobody is left to tell when stderr is gone.
            let _ = err.write_all(self.fault_text(fault, std::io::stderr().is_terminal()).as_bytes());
        }
        ExitCode::from(fault.kind.exit_code())
    }

    fn fault_text(&self, fault: &Fault, terminal: bool) -> String {
        let ui = Self { colour: terminal && (self.colour || !self.terminal), ..*self };
        let mut text = String::new();
        let mut line = |tone, label: &str, said: &str| {
            text.push_str(&format!("{} {}\n", ui.paint(tone, label), harmless(said)));
        };
        let detail = fault.detail.as_deref().map(str::trim_end);
        // The mistakes of a file are each an error with its place, and stand for the message. An app may print the same.
        let diagnostics = detail.filter(|d| fault.kind == FaultKind::Invalid && d.trim_start().starts_with("error"));
        match diagnostics {
            Some(_) => {}
            None => {
                line(Tone::Bad, "error:", &fault.message);
                detail.unwrap_or_default().lines().for_each(|words| line(Tone::Faint, "  │", words));
            }
        }
        fault.causes.iter().for_each(|cause| line(Tone::Warning, "caused by:", cause));
        fault.hint.iter().for_each(|hint| line(Tone::Good, "hint:", hint));
        let diagnostics = diagnostics.map(|text| format!("{}\n", harmless_but_colours(text)));
        diagnostics.unwrap_or_default() + &text
    }

    /// Aligned columns, two blanks apart; cells may be painted.
    pub(crate) fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        let columns = head.len();
        let width = |i: usize| {
            rows.iter().filter_map(|r| r.get(i)).map(|c| visible(c)).chain([head[i].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |cells: &[String]| {
            let mut text = String::from("  ");
            for (i, cell) in cells.iter().enumerate() {
                text.push_str(cell);
                if i + 1 < cells.len() {
                    text.push_str(&" ".repeat(widths[i].saturating_sub(visible(cell)) + 2));
                }
            }
            text.trim_end().to_owned()
        };
        let head: Vec<String> = head.iter().map(|h| self.paint(Tone::Faint, h)).collect();
        self.say(line(&head));
        for row in rows {
            self.say(line(row));
        }
    }
}

fn style(tone: Tone) -> Style {
    const SOURCES: [AnsiColor; 5] =
        [AnsiColor::Cyan, AnsiColor::Magenta, AnsiColor::Blue, AnsiColor::Yellow, AnsiColor::Green];
    let colour = |c: AnsiColor| Style::new().fg_color(Some(c.into()));
    match tone {
        Tone::Good => colour(AnsiColor::Green),
        Tone::Warning => colour(AnsiColor::Yellow),
        Tone::Bad => colour(AnsiColor::Red).bold(),
        Tone::Strong => Style::new().bold(),
        Tone::Faint => Style::new().dimmed(),
        Tone::Link => colour(AnsiColor::Cyan).underline(),
        Tone::Source(i) => colour(SOURCES[i % SOURCES.len()]),
    }
}

/// How many columns a painted text takes.
fn visible(text: &str) -> usize {
    let mut escaped = false;
    let shown = |c: &char| {
        match (escaped, *c) {
            (false, '\x1b') => escaped = true,
            (true, 'm') => {
                escaped = false;
                return false;
            }
            (false | true, _) => {}
        }
        !escaped
    };
    text.chars().filter(shown).count()
}

/// Ends the process quietly when the reader of a pipe is gone, as `bowline logs | head` expects.
fn out(line: &dyn Display) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// `1.2 MiB`, for people.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| n >= *unit) {
        #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
        Some((unit, name)) => format!("{:.1} {name}", n as f64 / *unit as f64),
        None => format!("{n} B"),
    }
}

/// Memory that is in use: none means that it was not measured yet.
pub(crate) fn measured(n: u64) -> String {
    if n == 0 { "-".to_owned() } else { bytes(n) }
}

/// `3d 4h`, `5m 2s`, `12s`: the two largest units.
pub(crate) fn duration(d: std::time::Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// Text from an app or a file without what would steer the terminal.
pub(crate) fn harmless(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\t' || is_bidi(c);
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// As [`harmless`], for text of several lines that may be painted (SGR, ECMA-48 section 8.3.117).
fn harmless_but_colours(text: &str) -> String {
    let piece = |after_escape: &str| {
        let numbers = after_escape.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match numbers.strip_prefix('m') {
            Some(rest) => format!("\x1b[{}{}", &after_escape[..after_escape.len() - rest.len()], harmless(rest)),
            None => format!("\u{fffd}[{}", harmless(after_escape)),
        }
    };
    let line = |line: &str| {
        let mut pieces = line.split("\x1b[");
        let plain = pieces.next().map(harmless);
        plain.into_iter().chain(pieces.map(piece)).collect::<String>()
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Marks that make a terminal show text in another order than it has (Unicode Standard Annex 9; CVE-2021-42574).
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_error_causes_and_hint() {
        let ui = Ui { json: false, colour: false, terminal: false };
        let fault = Fault::new(FaultKind::Failed, "port 8080 is taken")
            .caused_by("python3 (pid 12) listens on it")
            .hint("choose another with --http");
        assert_eq!(
            ui.fault_text(&fault, false),
            "error: port 8080 is taken\ncaused by: python3 (pid 12) listens on it\nhint: choose another with --http\n"
        );
    }

    /// An app's last words are its own: neither do they steer the terminal, nor stand for what Bowline says.
    #[test]
    fn the_words_of_an_app_in_a_fault_are_quoted() {
        let ui = Ui { json: false, colour: false, terminal: false };
        let said = "error: all is well\n\x1b]52;c;cm0gLXJm\x07\x1b[2J\x1b[31mred";
        let fault = Fault::new(FaultKind::Failed, "web.0 exited").detail(said).caused_by("\x1b[1Gcode 3");
        let text = ui.fault_text(&fault, false);
        assert!(text.starts_with("error: web.0 exited\n  │ error: all is well\n"), "{text:?}");
        assert!(!text.contains(['\x1b', '\x07']), "{text:?}");
    }

    #[test]
    fn the_mistakes_of_a_file_keep_their_colours_and_nothing_else() {
        let ui = Ui { json: false, colour: false, terminal: false };
        let detail = "error: \x1b[1;31mno\x1b[0m\n  run = \"\x1b[2J\x1b[\"";
        let fault = Fault::new(FaultKind::Invalid, "one mistake").detail(detail).hint("mend it");
        assert_eq!(
            ui.fault_text(&fault, false),
            "error: \x1b[1;31mno\x1b[0m\n  run = \"\u{fffd}[2J\u{fffd}[\"\nhint: mend it\n"
        );
    }

    #[test]
    fn painted_text_is_as_wide_as_plain_text() {
        let ui = Ui { json: false, colour: true, terminal: true };
        assert_eq!(visible(&ui.paint(Tone::Bad, "äb")), 2);
    }

    #[test]
    fn quantities_for_people() {
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(duration(std::time::Duration::from_secs(3_700)), "1h 1m");
    }

    #[test]
    fn output_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\tc"), "a\u{fffd}[2Jb\tc");
        assert_eq!(harmless("user\u{202e}nimda é"), "user\u{fffd}nimda é");
    }
}
