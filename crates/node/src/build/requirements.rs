//! What `requirements.txt` asks for, as far as detection needs it: names, not versions. pip itself resolves them.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::source::{Listing, SourceError};

pub(super) const FILE: &str = "requirements.txt";

/// A requirements file is a list of names; what is longer is something else.
const MAX_FILE: u64 = 1 << 20;

/// `-r` within `-r`: deeper than this is a circle.
const MAX_DEPTH: usize = 8;

/// Normalised names of packages: lower case, runs of `-_.` as one `-` (PEP 503).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Requirements(BTreeSet<String>);

impl Requirements {
    /// Reads the file and those it includes. `None` if there is none.
    pub(super) fn read(listing: &Listing) -> Result<Option<Self>, SourceError> {
        let mut names = BTreeSet::new();
        match include(listing, Path::new(FILE), &mut names, 0)? {
            true => Ok(Some(Self(names))),
            false => Ok(None),
        }
    }

    /// As `pyproject.toml` lists them: `flask>=3`.
    pub(super) fn of(lines: &[String]) -> Self {
        let names = lines.iter().filter_map(|line| match parse(line) {
            Line::Name(name) => Some(name),
            Line::Include(_) | Line::Other => None,
        });
        Self(names.collect())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// The first of `names` that is asked for.
    pub(super) fn first<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().find(|n| self.has(n)).copied()
    }
}

fn include(listing: &Listing, path: &Path, names: &mut BTreeSet<String>, depth: usize) -> Result<bool, SourceError> {
    let Some(text) = listing.read_text(path, MAX_FILE)? else { return Ok(false) };
    for line in text.lines() {
        match parse(line) {
            Line::Name(name) => _ = names.insert(name),
            Line::Include(other) if depth < MAX_DEPTH => {
                let other = beside(path, other);
                include(listing, &other, names, depth + 1)?;
            }
            Line::Include(_) | Line::Other => {}
        }
    }
    Ok(true)
}

/// `other` as written in `path`, without `.` and `..`.
fn beside(path: &Path, other: &str) -> PathBuf {
    let mut result = path.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(other).components() {
        match part {
            Component::ParentDir => _ = result.pop(),
            Component::Normal(name) => result.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    result
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'l> {
    Name(String),
    Include(&'l str),
    /// Options, addresses, comments.
    Other,
}

fn parse(line: &str) -> Line<'_> {
    let line = line.split(" #").next().unwrap_or("").trim();
    for option in ["-r", "--requirement"] {
        if let Some(rest) = line.strip_prefix(option) {
            return Line::Include(rest.trim_start_matches(['=', ' ', '\t']));
        }
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    match name {
        "" => Line::Other,
        _ if name.starts_with('-') || rest.starts_with(':') || rest.starts_with('/') => Line::Other,
        _ => Line::Name(normalise(name)),
    }
}

pub(super) fn normalise(name: &str) -> String {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|p| !p.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_pip_reads_them() {
        let check = |line, expected| assert_eq!(parse(line), expected, "{line}");
        let name = |n: &str| Line::Name(n.to_owned());
        check("flask", name("flask"));
        check("Flask_SQLAlchemy>=3 # the ORM", name("flask-sqlalchemy"));
        check("uvicorn[standard]==0.30 ; python_version > '3.8'", name("uvicorn"));
        check("zope.interface", name("zope-interface"));
        check("mylib @ https://example.com/mylib.whl", name("mylib"));
        check("-r base.txt", Line::Include("base.txt"));
        check("--requirement=base.txt", Line::Include("base.txt"));
        check("--index-url https://example.com/simple", Line::Other);
        check("https://example.com/a.whl", Line::Other);
        check("# flask", Line::Other);
        check("", Line::Other);
    }
}
