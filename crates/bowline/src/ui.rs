//! The terminal. On one it is for reading: colour and tables; through a pipe it is plain; with `--json` every
//! answer is one JSON object per line.
//!
//! Most of what is shown was written by somebody else: an app, a file, a daemon that may be anybody's. Nothing of it steers the
//! terminal, whoever prints it: all that goes out is cleaned here, and only what [`Ui::paint`] has put in is let through.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

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

    fn colours_stderr(&self) -> bool {
        self.colour && std::io::stderr().is_terminal()
    }

    /// `text` in the style of its tone; plain where colour is not wanted. To be printed by one of the methods here.
    pub(crate) fn paint(&self, tone: Tone, text: impl Display) -> String {
        if !self.colour {
            return text.to_string();
        }
        let style = style(tone);
        marked(&format!("{style}")) + &text.to_string() + &marked(&format!("{style:#}"))
    }

    /// A line for people; nothing with `--json`. Blank lines may be before and behind it.
    pub(crate) fn say(&self, line: impl Display) {
        if !self.json {
            out(&rendered_line(&line.to_string(), self.colour));
        }
    }

    /// A line for people that is not part of the answer, on stderr; nothing with `--json`.
    pub(crate) fn aside(&self, line: impl Display) {
        if !self.json {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(std::io::stderr(), "{}", rendered_line(&line.to_string(), self.colours_stderr()));
        }
    }

    /// A question on stderr, which is answered on its line.
    pub(crate) fn ask(&self, question: impl Display) -> std::io::Result<()> {
        write!(std::io::stderr(), "{} ", rendered(&question.to_string(), self.colours_stderr()))
    }

    /// A line on stderr whose place the next one takes: of what goes on. An empty one clears it. Only on a terminal.
    pub(crate) fn passing(&self, line: impl Display) {
        if self.is_terminal() && std::io::stderr().is_terminal() {
            let mut err = std::io::stderr().lock();
            let line = rendered(&line.to_string(), self.colour);
            // Nobody is left to tell when stderr is gone.
            let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
        }
    }

    /// Lines may be written over: it is a terminal, and may be steered.
    pub(crate) fn moves(&self) -> bool {
        self.is_terminal() && self.colour
    }

    /// How wide the terminal is; what is usual where it does not say.
    pub(crate) fn columns(&self) -> usize {
        const USUAL: usize = 80;
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(USUAL)
    }

    /// The same on stdout, of several lines, in the place of so many that were shown last; cut by a terminal that is too narrow instead
    /// of wrapped. Returns how many are shown now: none where nothing moves.
    pub(crate) fn moving(&self, lines: &[String], shown: usize) -> usize {
        const UNWRAPPED: &str = "\x1b[?7l";
        const WRAPPED: &str = "\x1b[?7h";
        if !self.moves() {
            return 0;
        }
        let mut out = std::io::stdout().lock();
        let lines: Vec<String> = lines.iter().map(|line| rendered(line, self.colour)).collect();
        // The next line that stays says whether anybody reads.
        let text = format!("{}{UNWRAPPED}{}{WRAPPED}", away(shown), lines.join("\n"));
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        lines.len()
    }

    /// Takes so many lines away that [`Self::moving`] has shown.
    pub(crate) fn moved(&self, shown: usize) {
        if shown > 0 {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(away(shown).as_bytes()).and_then(|()| out.flush());
        }
    }

    /// A JSON object on a line of its own; nothing without `--json`.
    pub(crate) fn object(&self, value: &impl Serialize) {
        if self.json {
            out(&object(value));
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
            text.push_str(&format!("{}\n", rendered(&format!("{} {said}", ui.paint(tone, label)), ui.colour)));
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
        let diagnostics = diagnostics.unwrap_or_default().lines().map(|line| rendered(line, ui.colour) + "\n");
        diagnostics.collect::<String>() + &text
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

/// From the end of the last of these lines to the empty place where the first began (ECMA-48: CUU, ED).
fn away(shown: usize) -> String {
    match shown {
        0 | 1 => "\r\x1b[K".to_owned(),
        lines => format!("\r\x1b[{}A\x1b[J", lines - 1),
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

/// What stands for ESC in painted text. Nobody who could have written a part of the text knows it. `None`: there is no
/// randomness, and so no colour.
fn mark() -> Option<&'static str> {
    static MARK: OnceLock<Option<String>> = OnceLock::new();
    MARK.get_or_init(|| getrandom::u64().ok().map(|random| format!("\x1b{random:016x}"))).as_deref()
}

/// Escapes that are meant, until they are printed.
fn marked(escapes: &str) -> String {
    mark().map_or_else(String::new, |mark| escapes.replace('\x1b', mark))
}

/// Text that this process has painted by other means, to be printed in its colours: the mistakes of a file. Of its escapes only
/// SGR is meant (ECMA-48, 8.3.117).
pub(crate) fn painted(text: &str) -> String {
    let mut pieces = text.split('\x1b');
    let mut all = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        all += &if sgr(piece).is_some() { marked("\x1b") } else { "\x1b".to_owned() };
        all += piece;
    }
    all
}

/// What stands behind ESC: the rest of a sequence that paints, and what follows it.
fn sgr(text: &str) -> Option<(&str, &str)> {
    let numbers = text.strip_prefix('[')?.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    let rest = numbers.strip_prefix('m')?;
    Some((&text[..text.len() - rest.len()], rest))
}

/// As it is printed: of what steers a terminal, there is what [`Ui::paint`] and [`painted`] have put in.
fn rendered(text: &str, colour: bool) -> String {
    let Some(mark) = mark() else { return harmless(text) };
    let mut pieces = text.split(mark);
    let mut all = harmless(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (escape, rest) = sgr(piece).unwrap_or(("", piece));
        if colour && !escape.is_empty() {
            all.push('\x1b');
            all += escape;
        }
        all += &harmless(rest);
    }
    all
}

/// One that begins or ends with blank lines; within it there are none, so that no words of others stand on a line of their own.
fn rendered_line(text: &str, colour: bool) -> String {
    let line = text.trim_start_matches('\n');
    let before = text.len() - line.len();
    let words = line.trim_end_matches('\n');
    format!("{}{}{}", "\n".repeat(before), rendered(words, colour), "\n".repeat(line.len() - words.len()))
}

/// How many columns a painted text takes.
fn visible(text: &str) -> usize {
    rendered(text, false).chars().count()
}

/// JSON on one line. Its strings hold the only characters that are not printable ASCII, and there they may be escaped (RFC 8259, 7):
/// serde_json leaves DEL, C1 and the marks of direction as they are.
fn object(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("answers have string keys and no failing serialisers");
    if !json.contains(steers) {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match steers(c) {
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    text
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

/// Text without what would steer the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

fn steers(c: char) -> bool {
    c.is_control() && c != '\t' || is_bidi(c)
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
        let coloured = Ui { json: false, colour: true, terminal: true };
        let check = |detail: &str, ui: &Ui, expected: &str| {
            let fault = Fault::new(FaultKind::Invalid, "one mistake").detail(detail);
            assert_eq!(ui.fault_text(&fault, ui.colour), expected);
        };
        let detail = "error: \x1b[1;31mno\x1b[0m\n  run = \"\x1b[2J\x1b[\"";
        let expected = "error: \x1b[1;31mno\x1b[0m\n  run = \"\u{fffd}[2J\u{fffd}[\"\n";
        check(&painted(detail), &coloured, expected);
        let plain = Ui { json: false, colour: false, terminal: false };
        check(&painted(detail), &plain, "error: no\n  run = \"\u{fffd}[2J\u{fffd}[\"\n");
        // From elsewhere they come without: whoever sends some paints what is not its own.
        check("error: \x1b[8mno", &coloured, "error: \u{fffd}[8mno\n");
    }

    /// Whatever text is in a line, and wherever: none of it steers, and what is painted is painted.
    #[test]
    fn only_what_is_painted_here_reaches_the_terminal_as_it_is() {
        let ui = Ui { json: false, colour: true, terminal: true };
        let hostile = "\x1b]0;x\x07\x1b[31mred\u{9b}2J\u{202e}\nhint: do it";
        let line = format!("\n  {} {hostile}\n", ui.paint(Tone::Good, hostile));
        let clean = "\u{fffd}]0;x\u{fffd}\u{fffd}[31mred\u{fffd}2J\u{fffd}\u{fffd}hint: do it";
        assert_eq!(rendered_line(&line, true), format!("\n  \x1b[32m{clean}\x1b[0m {clean}\n"));
        assert_eq!(rendered_line(&line, false), format!("\n  {clean} {clean}\n"));
        assert_eq!(visible(&ui.paint(Tone::Bad, hostile)), clean.chars().count());
        assert_eq!(rendered_line("\n\n", true), "\n\n");
    }

    #[test]
    fn an_object_is_the_same_to_programs_and_steers_no_terminal() {
        let value = "a\x1b[2J\u{7f}\u{80}\u{9b}\u{9f}\u{202e}\u{2066} é\u{a0}";
        let text = object(&value);
        assert!(!text.contains(steers), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn painted_text_is_as_wide_as_plain_text() {
        let ui = Ui { json: false, colour: true, terminal: true };
        assert_eq!(visible(&ui.paint(Tone::Bad, "äb")), 2);
    }

    #[test]
    fn lines_that_move_are_taken_away_from_the_first() {
        assert_eq!([away(0), away(1), away(3)], ["\r\x1b[K", "\r\x1b[K", "\r\x1b[2A\x1b[J"]);
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
