//! Where a head ends, whatever pieces it comes in.

use memchr::memchr_iter;

use super::MAX_HEAD;

/// Looks for the blank line. Each byte is looked at once, so that a head sent byte by byte costs no more than another.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadScan {
    scanned: usize,
    line: usize,
    first_line_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    NeedMore,
    /// The length of the head with its blank line.
    End(usize),
    BareLf,
    TooLarge,
    FirstLineTooLong,
}

impl HeadScan {
    /// Nothing was looked at yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.scanned == 0
    }

    /// `input`: all bytes of the head so far. `first_line`: most bytes of the first line with its CRLF.
    /// The outcome depends on the bytes alone, not on the pieces they came in.
    pub(super) fn scan(&mut self, input: &[u8], first_line: usize) -> Scanned {
        if !self.first_line_done {
            if let Some(outcome) = self.advance(input, first_line) {
                return outcome;
            }
            if !self.first_line_done {
                return if input.len() >= first_line { Scanned::FirstLineTooLong } else { Scanned::NeedMore };
            }
        }
        match self.advance(input, MAX_HEAD) {
            Some(outcome) => outcome,
            None if input.len() >= MAX_HEAD => Scanned::TooLarge,
            None => Scanned::NeedMore,
        }
    }

    /// Goes through `input` up to `limit`; stops after the first line.
    fn advance(&mut self, input: &[u8], limit: usize) -> Option<Scanned> {
        let seen = &input[..input.len().min(limit)];
        let from = self.scanned.min(seen.len());
        for at in memchr_iter(b'\n', &seen[from..]).map(|at| from + at) {
            match at.checked_sub(self.line) {
                Some(1) if seen[at - 1] == b'\r' && self.first_line_done => return Some(Scanned::End(at + 1)),
                Some(1..) if seen[at - 1] == b'\r' => {}
                _ => return Some(Scanned::BareLf),
            }
            self.line = at + 1;
            if !self.first_line_done {
                self.first_line_done = true;
                self.scanned = at + 1;
                return None;
            }
        }
        self.scanned = seen.len();
        None
    }
}
