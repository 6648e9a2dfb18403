//! A terminal: what a command writes to one, and what somebody in front of it sees.

use std::fs::File;
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};

use nix::pty::{Winsize, openpty};

const COLUMNS: u16 = 120;

/// Runs it to its end on a terminal of its own. What that got, both streams.
pub fn run(mut command: Command) -> (String, ExitStatus) {
    let size = Winsize { ws_row: 40, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(Some(&size), None).expect("a terminal");
    let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
    command.env("TERM", "xterm-test").env_remove("NO_COLOR").stdin(Stdio::null()).stdout(end()).stderr(end());
    let mut child = command.spawn().expect("the binary runs");
    // It holds copies.
    drop(command);
    drop(pair.slave);
    let mut written = Vec::new();
    // Linux says EIO when nobody has the other end any more.
    let _ = File::from(pair.master).read_to_end(&mut written);
    let status = child.wait().expect("it was started");
    (String::from_utf8(written).expect("UTF-8"), status)
}

/// What is seen after each time that something moved, and in the end. As high as it takes.
pub fn seen(written: &str) -> Vec<String> {
    let (mut screen, mut all) = (Screen { wraps: true, ..Screen::default() }, Vec::new());
    let mut rest = written;
    while let Some(c) = rest.chars().next() {
        match rest.strip_prefix("\u{1b}[") {
            Some(sequence) => {
                let end = sequence.find(|c: char| ('@'..='~').contains(&c)).expect("a whole sequence");
                screen.steer(&sequence[..end], &sequence[end..=end]);
                if &sequence[..=end] == "?7h" {
                    all.push(screen.text());
                }
                rest = &sequence[end + 1..];
            }
            None => {
                screen.put(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    all.push(screen.text());
    all
}

#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
    wraps: bool,
}

impl Screen {
    fn put(&mut self, c: char) {
        match c {
            '\r' => self.column = 0,
            '\n' => self.row += 1,
            _ => {
                let columns = usize::from(COLUMNS);
                match self.column < columns {
                    true => {}
                    false if self.wraps => (self.row, self.column) = (self.row + 1, 0),
                    false => self.column = columns - 1,
                }
                let column = self.column;
                let line = self.line();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                self.column += 1;
            }
        }
    }

    /// ECMA-48: CUU, ED, EL and SGR; DECAWM.
    fn steer(&mut self, parameters: &str, function: &str) {
        let column = self.column;
        match (function, parameters) {
            ("m", _) => {}
            ("A", rows) => self.row = self.row.checked_sub(rows.parse().expect("rows")).expect("a row above"),
            ("J", "") => {
                self.line().truncate(column);
                self.lines.truncate(self.row + 1);
            }
            ("K", "") => self.line().truncate(column),
            ("h" | "l", "?7") => self.wraps = function == "h",
            _ => panic!("nothing that this terminal knows: {parameters}{function}"),
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        self.lines.resize_with(self.lines.len().max(self.row + 1), Vec::new);
        &mut self.lines[self.row]
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
    }
}
