//! SQL scripts, statement by statement, so that an error has its line.

/// What a dialect does differently where statements end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    MariaDb,
}

/// A statement, and the line on which it begins, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement<'s> {
    pub line: usize,
    pub text: &'s str,
}

/// All statements of a script, without the semicolons between them.
///
/// Quotes, dollar quotes and comments are passed over whole. MariaDB's `DELIMITER` lines, which only its client knows,
/// are honoured.
pub(super) fn statements(sql: &str, dialect: Dialect) -> Vec<Statement<'_>> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut delimiter = ";";
    while at < sql.len() {
        let begins = dialect == Dialect::MariaDb && sql[start..at].trim().is_empty();
        if let Some((next, end)) = delimiter_line(sql, at).filter(|_| begins) {
            delimiter = next;
            (start, at) = (end, end);
            continue;
        }
        if sql[at..].starts_with(delimiter) {
            push(&mut found, sql, start, at);
            at += delimiter.len();
            start = at;
            continue;
        }
        at = skip(sql, at, dialect);
    }
    push(&mut found, sql, start, sql.len());
    found
}

/// `DELIMITER //` at the start of a line: the new delimiter, and where the line ends.
fn delimiter_line(sql: &str, at: usize) -> Option<(&str, usize)> {
    const WORD: &str = "delimiter";
    let line = sql[at..].lines().next()?;
    let word = line.get(..WORD.len())?;
    let rest = line.get(WORD.len()..)?;
    if !word.eq_ignore_ascii_case(WORD) || !rest.starts_with([' ', '\t']) {
        return None;
    }
    Some((rest.split_ascii_whitespace().next()?, at + line.len()))
}

fn push<'s>(found: &mut Vec<Statement<'s>>, sql: &'s str, start: usize, end: usize) {
    let text = &sql[start..end];
    let lead = text.len() - without_lead(text).len();
    let text = text[lead..].trim_end();
    if !text.is_empty() {
        let line = sql[..start + lead].bytes().filter(|b| *b == b'\n').count() + 1;
        found.push(Statement { line, text });
    }
}

/// Blanks and comments before a statement do not count as its beginning.
fn without_lead(mut text: &str) -> &str {
    loop {
        let rest = text.trim_start();
        let rest = match rest.as_bytes() {
            [b'-', b'-', ..] => &rest[rest.find('\n').unwrap_or(rest.len())..],
            // `/*!` holds statements of MariaDB's own.
            [b'/', b'*', next, ..] if *next != b'!' => &rest[block_comment(rest, 0)..],
            _ => rest,
        };
        if rest.len() == text.len() {
            return rest;
        }
        text = rest;
    }
}

/// The end of whatever begins at `at`: one character, or a quote or comment as a whole.
fn skip(sql: &str, at: usize, dialect: Dialect) -> usize {
    let rest = &sql[at..];
    let bytes = rest.as_bytes();
    match bytes {
        [b'\'', ..] => {
            // E'…' of PostgreSQL and every string of MariaDB know backslashes.
            let escapes = dialect == Dialect::MariaDb || (at > 0 && matches!(sql.as_bytes()[at - 1], b'e' | b'E'));
            quoted(sql, at, b'\'', escapes)
        }
        [b'"', ..] => quoted(sql, at, b'"', dialect == Dialect::MariaDb),
        [b'`', ..] if dialect == Dialect::MariaDb => quoted(sql, at, b'`', false),
        [b'-', b'-', ..] => at + rest.find('\n').unwrap_or(rest.len()),
        [b'#', ..] if dialect == Dialect::MariaDb => at + rest.find('\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(sql, at),
        [b'$', ..] if dialect == Dialect::Postgres => dollar(sql, at),
        _ => at + rest.chars().next().map_or(1, char::len_utf8),
    }
}

fn quoted(sql: &str, at: usize, quote: u8, escapes: bool) -> usize {
    let bytes = sql.as_bytes();
    let mut i = at + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if escapes => i += 2,
            b if b == quote => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// Nested, as in the standard.
fn block_comment(sql: &str, at: usize) -> usize {
    let bytes = sql.as_bytes();
    let (mut i, mut depth) = (at, 0);
    while i < bytes.len() {
        match &bytes[i..] {
            [b'/', b'*', ..] => (i, depth) = (i + 2, depth + 1),
            [b'*', b'/', ..] => {
                (i, depth) = (i + 2, depth - 1);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    bytes.len()
}

/// `$tag$ … $tag$`; a `$1` is one character.
fn dollar(sql: &str, at: usize) -> usize {
    let rest = &sql[at + 1..];
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let length = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
    let is_tag = rest[length..].starts_with('$') && !rest.starts_with(|c: char| c.is_ascii_digit());
    let inside_name = sql[..at].ends_with(word);
    if !is_tag || inside_name {
        return at + 1;
    }
    let tag = &sql[at..at + length + 2];
    let body = at + tag.len();
    sql[body..].find(tag).map_or(sql.len(), |end| body + end + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, sql: &str, expected: &[(usize, &str)]) {
        let got: Vec<(usize, &str)> = statements(sql, dialect).iter().map(|s| (s.line, s.text)).collect();
        assert_eq!(got, expected, "{sql}");
    }

    #[test]
    fn statements_end_at_their_semicolons_only() {
        let check = |sql, expected: &[(usize, &str)]| check(Dialect::Postgres, sql, expected);
        check("", &[]);
        check(" ; ;\n-- nothing\n", &[]);
        check(
            "SELECT 1;\n\n-- the second\nSELECT ';' ; SELECT 3",
            &[(1, "SELECT 1"), (4, "SELECT ';'"), (4, "SELECT 3")],
        );
        check("a \"x;y\" 'it''s;' /* ; /* ; */ ; */ b; c", &[(1, "a \"x;y\" 'it''s;' /* ; /* ; */ ; */ b"), (1, "c")]);
        check(
            "DO $$ BEGIN a; END $$;\nb $x$ $$ ; $x$; c$1;d",
            &[(1, "DO $$ BEGIN a; END $$"), (2, "b $x$ $$ ; $x$"), (2, "c$1"), (2, "d")],
        );
        check("x E'\\';' y; 'ü;' z", &[(1, "x E'\\';' y"), (1, "'ü;' z")]);
        check("open 'quote ; never", &[(1, "open 'quote ; never")]);
    }

    #[test]
    fn mariadb_has_its_own_quotes_and_delimiters() {
        let check = |sql, expected: &[(usize, &str)]| check(Dialect::MariaDb, sql, expected);
        check("a `x;` '\\';' # ;\nb; c", &[(1, "a `x;` '\\';' # ;\nb"), (2, "c")]);
        check("DELIMITER //\nCREATE x BEGIN a; END//\nDELIMITER ;\nb;", &[(2, "CREATE x BEGIN a; END"), (4, "b")]);
        check("/*!40101 SET NAMES utf8 */;\na", &[(1, "/*!40101 SET NAMES utf8 */"), (2, "a")]);
    }
}
