//! What an operator is told when something fails: `error:`, `caused by:`, `hint:`.

use std::error::Error;
use std::fmt;

/// Whose turn it is, and so the exit code of a command that ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// It was tried and failed, or was rolled back. Exit code 1.
    Failed,
    /// The command or the file is wrong. Exit code 2.
    Invalid,
    /// A guard or a role refuses. Exit code 3.
    Refused,
    /// The target cannot be reached. Exit code 4.
    Unreachable,
}

impl FaultKind {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Invalid => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
        }
    }
}

/// One failure as it is shown: what failed and on which object, why, and what to do next. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub message: String,
    /// From the nearest cause to the root.
    pub causes: Vec<String>,
    pub hint: Option<String>,
    /// Preformatted text that belongs to it: a snippet of the file with a caret, the end of a build's output.
    pub detail: Option<String>,
}

impl Fault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: None, detail: None }
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Appends `error` and its whole chain of sources.
    #[must_use]
    pub fn source(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // Some tell what is behind them themselves.
            if !self.causes.last().is_some_and(|said| said.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The fault and why.
    pub fn in_one_line(&self) -> String {
        std::iter::once(&self.message).chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// The end of what a tool wrote before it failed, as detail: at most 20 lines.
    #[must_use]
    pub fn said(self, output: &[u8]) -> Self {
        const LINES: usize = 20;
        let text = String::from_utf8_lossy(output);
        let lines: Vec<&str> = text.lines().collect();
        self.detail(lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }
}

/// The end of what a program says, for [`Fault::said`]: it may say something of each of a million files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords(Vec<u8>);

impl LastWords {
    /// Bytes that are kept.
    pub const MOST: usize = 16 << 10;

    /// What it has said since.
    pub fn hear(&mut self, words: &[u8]) {
        self.0.extend_from_slice(&words[words.len().saturating_sub(Self::MOST)..]);
        // Not for each word anew.
        if self.0.len() > 2 * Self::MOST {
            self.0.drain(..self.0.len() - Self::MOST);
        }
    }

    pub fn into_bytes(mut self) -> Vec<u8> {
        self.0.drain(..self.0.len().saturating_sub(Self::MOST));
        self.0
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_said_the_last_is_kept() {
        let check = |pieces: &[&[u8]], expected: &[u8]| {
            let mut words = LastWords::default();
            pieces.iter().for_each(|piece| words.hear(piece));
            assert!(words.0.len() <= 2 * LastWords::MOST);
            assert!(words.into_bytes() == expected, "{} pieces", pieces.len());
        };
        let (line, most) = ([b'x'; 1_000], LastWords::MOST);
        check(&[], b"");
        check(&[b"one ", b"two"], b"one two");
        let long: Vec<&[u8]> = [line.as_slice()].repeat(100).into_iter().chain([b"end".as_slice()]).collect();
        check(&long, &[&vec![b'x'; most - 3], b"end".as_slice()].concat());
        check(&[&vec![b'y'; 3 * most], b"end"], &[&vec![b'y'; most - 3], b"end".as_slice()].concat());
    }

    #[test]
    fn what_an_error_tells_of_its_source_is_told_once() {
        #[derive(Debug)]
        struct Chained(&'static str, Option<Box<Chained>>);
        impl fmt::Display for Chained {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl Error for Chained {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.1.as_deref().map(|source| source as _)
            }
        }
        let root = Chained("no such file", None);
        let twice = Chained("cannot read x: no such file", Some(Box::new(root)));
        let error = Chained("no settings", Some(Box::new(twice)));
        let fault = Fault::new(FaultKind::Failed, "it does not start").source(&error);
        assert_eq!(fault.causes, ["no settings", "cannot read x: no such file"]);
    }

    #[test]
    fn the_end_of_an_output_is_shown() {
        let output: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        let check = |output: &[u8], first: &str, lines: usize| {
            let detail = Fault::new(FaultKind::Failed, "x").said(output).detail.unwrap();
            assert_eq!((detail.lines().next().unwrap_or(""), detail.lines().count()), (first, lines));
        };
        check(output.as_bytes(), "line 11", 20);
        check(b"one", "one", 1);
        check(b"", "", 0);
        check(b"\xff\n", "\u{fffd}", 1);
    }
}
