//! multipart/form-data, judged while it streams (RFC 7578, RFC 2046).
//!
//! Bytes go in and come out as they are, as soon as nothing that is still to come can make them bad: a part is held back
//! until its head and the first [`HEAD`] bytes of its content are judged, and the last delimiter until the body has ended.
//! What comes first decides, and the outcome depends on the bytes alone, not on the pieces they came in.

use std::sync::Arc;

use memchr::memmem;

use super::UploadFault;
use super::kind::{Content, HEAD};
use super::name::Extensions;
use super::part::{self, Part};

/// Bytes of a part's head. Names have at most 255, and may be written twice, percent-encoded.
const MAX_HEAD: usize = 8 << 10;

/// Parts of one body: each costs more than its bytes.
const MAX_PARTS: usize = 1000;

#[derive(Debug)]
pub(super) struct Multipart {
    extensions: Arc<Extensions>,
    /// `--BOUNDARY`.
    needle: memmem::Finder<'static>,
    /// Received and not passed on. Bounded by what is fed at once, a part's head and [`HEAD`].
    held: Vec<u8>,
    /// `held[..at]` is read and waits to be passed on.
    at: usize,
    state: State,
    parts: usize,
}

#[derive(Debug)]
enum State {
    /// Before the first delimiter.
    Start,
    /// Behind a delimiter.
    Delimiter,
    /// In the head of a part.
    Head,
    /// Before the first byte of a field.
    BeginField,
    /// In the first bytes of a file.
    Begin(Content),
    /// In a part that is passed on while it comes; `None`: the value of a field.
    Body(Option<Content>),
    /// Behind the last delimiter.
    End,
}

/// What a step came to.
enum Step {
    Again(State),
    NeedMore,
}

impl Multipart {
    pub(super) fn new(boundary: &str, extensions: Arc<Extensions>) -> Self {
        let needle = memmem::Finder::new(format!("--{boundary}").as_bytes()).into_owned();
        Self { extensions, needle, held: Vec::new(), at: 0, state: State::Start, parts: 0 }
    }

    /// Takes the next bytes of the body; what may go on is appended to `out`.
    pub(super) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), UploadFault> {
        self.held.extend_from_slice(input);
        loop {
            let state = std::mem::replace(&mut self.state, State::End);
            let step = match state {
                State::Start => self.start()?,
                State::Delimiter => self.delimiter()?,
                State::Head => self.head()?,
                State::BeginField => self.begin_field(out),
                State::Begin(content) => self.begin(content, out)?,
                State::Body(content) => self.body(content, out)?,
                State::End => self.behind()?,
            };
            match step {
                Step::Again(state) => self.state = state,
                Step::NeedMore => return Ok(()),
            }
        }
    }

    /// The body has ended.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> Result<(), UploadFault> {
        if !matches!(self.state, State::End) {
            return Err(UploadFault::Truncated);
        }
        match &self.held[self.at..] {
            b"" | b"\r\n" => {
                out.append(&mut self.held);
                self.at = 0;
                Ok(())
            }
            _ => Err(UploadFault::Delimiter),
        }
    }

    fn wait(&mut self, state: State) -> Step {
        self.state = state;
        Step::NeedMore
    }

    fn pass(&mut self, length: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.held[..length]);
        self.held.drain(..length);
    }

    /// A body begins with its first delimiter; one CRLF before it is let through.
    fn start(&mut self) -> Result<Step, UploadFault> {
        let skipped = match self.held.as_slice() {
            [] | [b'\r'] => return Ok(self.wait(State::Start)),
            [b'\r', b'\n', ..] => 2,
            [..] => 0,
        };
        let (needle, held) = (self.needle.needle(), &self.held[skipped..]);
        let common = needle.len().min(held.len());
        if held[..common] != needle[..common] {
            return Err(UploadFault::Delimiter);
        }
        if common < needle.len() {
            return Ok(self.wait(State::Start));
        }
        self.at = skipped + needle.len();
        Ok(Step::Again(State::Delimiter))
    }

    fn delimiter(&mut self) -> Result<Step, UploadFault> {
        let Some(behind) = self.held.get(self.at..self.at + 2) else { return Ok(self.wait(State::Delimiter)) };
        let state = match behind {
            b"\r\n" => State::Head,
            b"--" => State::End,
            _ => return Err(UploadFault::Delimiter),
        };
        self.at += 2;
        if matches!(state, State::Head) {
            self.parts += 1;
            if self.parts > MAX_PARTS {
                return Err(UploadFault::TooManyParts);
            }
        }
        Ok(Step::Again(state))
    }

    fn head(&mut self) -> Result<Step, UploadFault> {
        // The line end of the delimiter may be the first of the two that end an empty head.
        let from = self.at - 2;
        let end = memmem::find(&self.held[from..], b"\r\n\r\n").map(|found| from + found + 2);
        if end.unwrap_or(self.held.len()) - self.at > MAX_HEAD {
            return Err(UploadFault::PartHead);
        }
        let Some(end) = end else { return Ok(self.wait(State::Head)) };
        let head = &self.held[self.at..end];
        if self.needle.find(head).is_some() {
            return Err(UploadFault::Delimiter);
        }
        let part = part::read(head, &self.extensions)?;
        self.at = end + 2;
        Ok(Step::Again(match part {
            Part::File(extension) => State::Begin(Content::of(&extension)),
            Part::NoFile => State::Begin(Content::nothing()),
            Part::Field => State::BeginField,
        }))
    }

    /// Something is always held back: a body that ends here has no end, and must not have gone on whole.
    fn begin_field(&mut self, out: &mut Vec<u8>) -> Step {
        if self.held.len() == self.at {
            return self.wait(State::BeginField);
        }
        self.pass(self.at, out);
        Step::Again(State::Body(None))
    }

    /// The first bytes of a file, held back until they are judged.
    fn begin(&mut self, content: Content, out: &mut Vec<u8>) -> Result<Step, UploadFault> {
        let begun = &self.held[self.at..];
        match self.needle.find(begun) {
            Some(found) if found < HEAD + 2 => content.head(&begun[..line_end(begun, found)?])?,
            None if begun.len() < HEAD + self.needle.needle().len() + 1 => return Ok(self.wait(State::Begin(content))),
            Some(_) | None => content.head(&begun[..HEAD])?,
        }
        self.pass(self.at, out);
        Ok(Step::Again(State::Body(Some(content))))
    }

    fn body(&mut self, mut content: Option<Content>, out: &mut Vec<u8>) -> Result<Step, UploadFault> {
        let found = self.needle.find(&self.held);
        // Without a delimiter, its beginning may be here; and before it, a line end that is not content.
        let length =
            found.map_or(self.held.len().saturating_sub(self.needle.needle().len() + 1), |at| at.saturating_sub(2));
        if let Some(content) = &mut content {
            content.more(&self.held[..length])?;
        }
        if let Some(found) = found {
            line_end(&self.held, found)?;
            content.map_or(Ok(()), |content| content.end())?;
            self.pass(length, out);
            self.at = 2 + self.needle.needle().len();
            return Ok(Step::Again(State::Delimiter));
        }
        self.pass(length, out);
        Ok(self.wait(State::Body(content)))
    }

    /// A line end may follow the last delimiter, and nothing else.
    fn behind(&mut self) -> Result<Step, UploadFault> {
        match &self.held[self.at..] {
            [] | [b'\r'] | [b'\r', b'\n'] => Ok(self.wait(State::End)),
            [..] => Err(UploadFault::Delimiter),
        }
    }
}

/// Where the line before a boundary ends. A boundary anywhere but at the beginning of a line is one that another parser
/// might see.
fn line_end(content: &[u8], boundary: usize) -> Result<usize, UploadFault> {
    let end = boundary.checked_sub(2).ok_or(UploadFault::Delimiter)?;
    if content[end..boundary] == *b"\r\n" { Ok(end) } else { Err(UploadFault::Delimiter) }
}
