//! The `.env` beside a `bowline.toml`: defaults for environment `local`, and only there.
//!
//! The grammar is the one that dotenv tools agree on: `NAME=value` per line, `export ` allowed before it, `#` starts a
//! comment (after a blank in an unquoted value), single quotes keep everything as it is, double quotes know `\n`, `\r`,
//! `\t`, `\"`, `\\` and `\$`; quoted values may span lines. Nothing is expanded: a `$` in a value is a `$`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bowline_core::app::{VarName, VarNameError};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::SecretName;
use bowline_core::secret::Secret;

use super::small_file::read_small;

/// Largest file that is read: variables, not data; the kernel takes none of over 128 KiB (execve(2)).
const MAX_BYTES: u64 = 96 * 1024;

/// The variables of a `.env`, and which file they came from.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct DotEnv {
    pub(crate) path: PathBuf,
    pub(crate) values: BTreeMap<VarName, String>,
    /// Variables that every instance is given by Bowline, left out: `PORT`.
    pub(crate) ignored: Vec<String>,
}

/// Values of a `.env` are often secrets: names only.
impl std::fmt::Debug for DotEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DotEnv").field("path", &self.path).field("names", &self.values.keys()).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DotEnvError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it has {0} bytes, at most {MAX_BYTES} are read")]
    TooLarge(u64),
    #[error("it is not UTF-8")]
    Encoding,
    #[error("line {line}: {why}")]
    Line { line: usize, why: LineError },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("NAME=value is wanted")]
    NoEquals,
    #[error("a variable's name is made of A to Z, a to z, 0 to 9 and '_', and does not start with a digit")]
    Name,
    #[error("the quote that starts here is never closed")]
    Unclosed,
    #[error("after the closing quote only a comment may follow")]
    AfterQuote,
    #[error("a value cannot hold a NUL byte")]
    Nul,
}

impl DotEnv {
    /// Reads `.env` in `folder`; `None` if there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Fault> {
        let path = folder.join(".env");
        match read_text(&path).and_then(|text| text.map(|t| parse(&t)).transpose()) {
            Ok(None) => Ok(None),
            Ok(Some((values, ignored))) => Ok(Some(Self { path, values, ignored })),
            Err(error) => Err(Fault::new(FaultKind::Invalid, format!("the file {} is refused", path.display()))
                .source(&error)
                .hint("correct the line, or remove the file: it is read in environment local only")),
        }
    }
}

/// The variables of a file as `.env` is one, `PORT` and the like left out. `None` if there is none.
///
/// # Errors
/// It cannot be read, or a line of it.
pub fn read_variables(path: &Path) -> Result<Option<BTreeMap<String, String>>, Fault> {
    let refused = |error: DotEnvError| {
        Fault::new(FaultKind::Invalid, format!("the file {} is refused", path.display()))
            .source(&error)
            .hint("correct the line, or move the file aside")
    };
    let parsed = read_text(path).and_then(|text| text.map(|text| parse(&text)).transpose()).map_err(refused)?;
    Ok(parsed.map(|(values, _)| values.into_iter().map(|(k, v)| (k.as_str().to_owned(), v)).collect()))
}

/// The secret that holds a `.env` in the store: versioned, sealed and pinned by a release as any other. Not a name that
/// an app can use: see [`is_reserved`].
pub(crate) fn secret_name() -> SecretName {
    SecretName::new(RESERVED).expect("the name follows the rule of names")
}

const RESERVED: &str = "bowline-dotenv";

/// Secrets of this name belong to Bowline.
pub(crate) fn is_reserved(name: &SecretName) -> bool {
    name.as_str() == RESERVED
}

/// A secret as a person knows it.
pub(crate) fn spelled(name: &SecretName) -> String {
    if is_reserved(name) { ".env".to_owned() } else { name.to_string() }
}

/// What is said of a secret, as a person knows it: nobody else's has that name.
pub(crate) fn spelled_in(said: &str) -> String {
    said.replace(&format!("secret {RESERVED}"), ".env")
}

/// The variables as the value of one secret.
pub(crate) fn packed(file: &DotEnv) -> Secret {
    let values: BTreeMap<&str, &str> = file.values.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    Secret::new(serde_json::to_vec(&values).expect("a map of texts is JSON"))
}

/// What [`packed`] made.
pub(crate) fn unpacked(secret: &Secret) -> BTreeMap<String, Secret> {
    let values: BTreeMap<String, String> = serde_json::from_slice(secret.expose()).unwrap_or_default();
    values.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
}

fn read_text(path: &Path) -> Result<Option<String>, DotEnvError> {
    let bytes = match read_small(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DotEnvError::Read(error)),
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(DotEnvError::TooLarge(fs::metadata(path).map_or(bytes.len() as u64, |meta| meta.len())));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| DotEnvError::Encoding)
}

type Parsed = (BTreeMap<VarName, String>, Vec<String>);

fn parse(text: &str) -> Result<Parsed, DotEnvError> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut values, mut ignored, mut line) = (BTreeMap::new(), Vec::new(), 1);
    while !rest.is_empty() {
        let at = |why| DotEnvError::Line { line, why };
        let (entry, after) = parse_line(rest).map_err(at)?;
        if let Some((name, value)) = entry {
            match VarName::new(name) {
                Ok(name) => drop(values.insert(name, value)),
                Err(VarNameError::Reserved(name)) => ignored.push(name),
                Err(VarNameError::Form) => return Err(at(LineError::Name)),
            }
        }
        line += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    Ok((values, ignored))
}

/// A name and its value.
type Entry<'t> = (&'t str, String);

/// One entry (none for a blank line or a comment) and what follows its line.
fn parse_line(text: &str) -> Result<(Option<Entry<'_>>, &str), LineError> {
    let (first, after) = text.split_once('\n').unwrap_or((text, ""));
    let trimmed = first.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return Ok((None, after));
    }
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.contains('\n')).ok_or(LineError::NoEquals)?;
    let name = name.trim();
    let name = name.strip_prefix("export").filter(|n| n.starts_with([' ', '\t'])).map_or(name, str::trim);
    let value = value.trim_start_matches([' ', '\t']);
    let (value, after) = match value.chars().next() {
        Some('\'') => quoted(&value[1..], '\'')?,
        Some('"') => quoted(&value[1..], '"')?,
        Some(_) | None => unquoted(value),
    };
    match value.contains('\0') {
        true => Err(LineError::Nul),
        false => Ok((Some((name, value)), after)),
    }
}

fn unquoted(text: &str) -> (String, &str) {
    let (line, after) = text.split_once('\n').unwrap_or((text, ""));
    let comment = line.char_indices().find(|(i, c)| *c == '#' && (*i == 0 || line[..*i].ends_with([' ', '\t'])));
    let value = comment.map_or(line, |(i, _)| &line[..i]);
    (value.trim_end().to_owned(), after)
}

/// `text` starts after the opening quote.
fn quoted(text: &str, quote: char) -> Result<(String, &str), LineError> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            c if c == quote => return end_of_quoted(value, &text[i + 1..]),
            '\\' if quote == '"' => match chars.next().ok_or(LineError::Unclosed)?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$') => value.push(c),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    Err(LineError::Unclosed)
}

fn end_of_quoted(value: String, text: &str) -> Result<(String, &str), LineError> {
    let (line, after) = text.split_once('\n').unwrap_or((text, ""));
    let line = line.trim();
    match line.is_empty() || line.starts_with('#') {
        true => Ok((value, after)),
        false => Err(LineError::AfterQuote),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let (values, _) = parse(text).unwrap();
        let got: Vec<_> = values.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, expected, "{text:?}");
    }

    fn check_error(text: &str, expected_line: usize, expected: LineError) {
        match parse(text) {
            Err(DotEnvError::Line { line, why }) => assert_eq!((line, why), (expected_line, expected), "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn entries_are_read_as_other_tools_read_them() {
        check("A=1\nB = two words # said\n\n# C=3\n", &[("A", "1"), ("B", "two words")]);
        check("export A=1\r\nexport\tB=2\r\n", &[("A", "1"), ("B", "2")]);
        check("exported=1", &[("exported", "1")]);
        check("URL=http://h/p#frag", &[("URL", "http://h/p#frag")]);
        check("A='x # \\n $Y' # c", &[("A", "x # \\n $Y")]);
        check(r#"A="x\n\"y\" \$Z \d""#, &[("A", "x\n\"y\" $Z \\d")]);
        check("KEY=\"-----BEGIN\nabc\n-----END\"\nB=2", &[("B", "2"), ("KEY", "-----BEGIN\nabc\n-----END")]);
        check("A=\nB=#\nC=\"\"", &[("A", ""), ("B", ""), ("C", "")]);
        check("A=1\nA=2", &[("A", "2")]);
        check("\u{feff}A=1", &[("A", "1")]);
    }

    #[test]
    fn what_bowline_sets_itself_is_left_out() {
        let (values, ignored) = parse("PORT=5000\nBOWLINE_X=1\nA=1").unwrap();
        assert_eq!(values.len(), 1);
        assert_eq!(ignored, ["PORT", "BOWLINE_X"]);
    }

    #[test]
    fn errors_name_the_line() {
        check_error("A=1\nnonsense\nB=2", 2, LineError::NoEquals);
        check_error("A=\"1\n2\"\n\n9X=1", 4, LineError::Name);
        check_error("A=1\nB='x\ny", 2, LineError::Unclosed);
        check_error("A='x' y", 1, LineError::AfterQuote);
        check_error("A=x\0", 1, LineError::Nul);
    }

    #[test]
    fn a_debug_print_shows_no_value() {
        let (values, ignored) = parse("TOKEN=canary-4711").unwrap();
        let printed = format!("{:?}", DotEnv { path: "/x/.env".into(), values, ignored });
        assert!(printed.contains("TOKEN") && !printed.contains("canary-4711"), "{printed}");
    }
}
