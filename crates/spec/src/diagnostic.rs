//! Errors of a file: where, what, and what to do about it.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use bowline_core::fault::{Fault, FaultKind};

use crate::Parsed;
use crate::tree::Span;

/// How many errors are shown with their lines; a file with more is most likely not meant to be a `bowline.toml`.
const SHOWN: usize = 30;

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    /// The key it is about: `service.web.scale.min`. Empty: the file.
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// `None`: the file as a whole.
    pub(crate) span: Option<Span>,
    /// Other places that belong to it, each with a label.
    pub(crate) related: Vec<(Span, String)>,
    /// Something is not there. Of no use after a syntax error, which may have hidden it.
    pub(crate) missing: bool,
}

impl Diagnostic {
    pub(crate) fn new(path: impl Into<String>, span: Span, message: impl Into<String>) -> Self {
        Self::whole(path, message).at(span)
    }

    /// About the file as a whole.
    pub(crate) fn whole(path: impl Into<String>, message: impl Into<String>) -> Self {
        let (path, message) = (path.into(), message.into());
        Self { path, message, hint: None, span: None, related: Vec::new(), missing: false }
    }

    #[must_use]
    fn at(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    #[must_use]
    pub(crate) fn missing(mut self) -> Self {
        self.missing = true;
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    #[must_use]
    pub(crate) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    pub(crate) fn start(&self) -> usize {
        self.span.as_ref().map_or(0, |span| span.start)
    }
}

/// One error as `--json` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key it is about: `service.web.scale.min`. Empty: the file.
    pub key: String,
    pub message: String,
    pub hint: Option<String>,
}

/// All errors of one file, in the order of their lines. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostics {
    file: String,
    text: Arc<str>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn new(file: &str, text: Arc<str>, mut list: Vec<Diagnostic>) -> Self {
        list.sort_by_key(Diagnostic::start);
        Self { file: file.to_owned(), text, list }
    }

    /// An error found after parsing, at a key of the file: a route that the backend cannot carry, say. `path` is a
    /// key path as in [`Parsed::location`]; where nothing was written there, its nearest written parent is shown.
    pub fn at_key(parsed: &Parsed, path: &str, message: impl Into<String>, hint: Option<String>) -> Self {
        let span = parsed.location(path);
        let diagnostic = Diagnostic { span, ..Diagnostic::whole(path, message).hint(hint) };
        Self::new(parsed.file(), parsed.text(), vec![diagnostic])
    }

    /// Adds the errors of `other`, which must be of the same file.
    pub fn extend(&mut self, other: Self) {
        self.list.extend(other.list);
        self.list.sort_by_key(Diagnostic::start);
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Located> + '_ {
        self.list.iter().map(|d| {
            let (line, column) = position(&self.text, d.start());
            Located {
                file: self.file.clone(),
                line,
                column,
                key: d.path.clone(),
                message: d.message.clone(),
                hint: d.hint.clone(),
            }
        })
    }

    /// As a terminal shows them: each with its line, a caret and a hint.
    pub fn render(&self, colour: bool) -> String {
        let renderer = match colour {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut shown: Vec<String> = self.list.iter().take(SHOWN).map(|d| self.snippet(&renderer, d)).collect();
        if let Some(more) = self.list.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            shown.push(format!("and {more} more errors"));
        }
        shown.join("\n\n")
    }

    fn snippet(&self, renderer: &Renderer, diagnostic: &Diagnostic) -> String {
        let title = Level::ERROR.primary_title(&diagnostic.message);
        let mut group = match &diagnostic.span {
            None => annotate_snippets::Group::with_title(title),
            Some(span) => {
                let related = diagnostic
                    .related
                    .iter()
                    .map(|(span, label)| AnnotationKind::Context.span(clamp(&self.text, span)).label(label));
                let snippet = Snippet::source(&*self.text)
                    .path(&self.file)
                    .annotation(AnnotationKind::Primary.span(clamp(&self.text, span)))
                    .annotations(related);
                title.element(snippet)
            }
        };
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.with_name("hint").message(hint));
        }
        renderer.render(&[group])
    }
}

impl From<Diagnostics> for Fault {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::new(FaultKind::Invalid, diagnostics.to_string()).detail(diagnostics.render(false))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.list.len() {
            1 => write!(f, "{} has an error", self.file),
            n => write!(f, "{} has {n} errors", self.file),
        }
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Line and column, both from 1, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..floor(text, byte)];
    let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

fn floor(text: &str, byte: usize) -> usize {
    text.floor_char_boundary(byte.min(text.len()))
}

/// A span that lies in `text`, on the boundaries of its characters, and on its first line only.
fn clamp(text: &str, span: &Span) -> Span {
    let start = floor(text, span.start);
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    let line = text[start..end].find('\n').map_or(end, |at| start + at);
    start..line.max(start)
}
