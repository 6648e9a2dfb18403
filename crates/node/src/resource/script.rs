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
    /// Begins with a backslash where it is a command of `psql`, which no server knows.
    pub text: &'s str,
    /// What follows `COPY … FROM stdin`, up to the line `\.`.
    pub data: Option<&'s str>,
}

/// All statements of a script, without the semicolons between them.
///
/// Quotes, dollar quotes and comments are passed over whole, and so are the bodies of SQL functions (`BEGIN ATOMIC … END`)
/// in PostgreSQL. MariaDB's `DELIMITER` lines, which only its client knows, are honoured.
pub(super) fn statements(sql: &str, dialect: Dialect) -> Vec<Statement<'_>> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut delimiter = ";";
    let mut bodies = Bodies::default();
    while at < sql.len() {
        if let Some((next, end)) = client_line(sql, start, at, dialect) {
            match next {
                ClientLine::Delimiter(next) => delimiter = next,
                ClientLine::Command => push(&mut found, sql, at..end, dialect),
                ClientLine::Harmless => {}
            }
            (start, at) = (end, end);
            continue;
        }
        if bodies.depth == 0 && sql[at..].starts_with(delimiter) {
            push(&mut found, sql, start..at, dialect);
            at += delimiter.len();
            if let Some(last) = found.last_mut().filter(|last| dialect == Dialect::Postgres && copies(last.text)) {
                let (data, end) = copied(sql, at);
                last.data = Some(data);
                at = end;
            }
            start = at;
            continue;
        }
        at = match word(sql, at) {
            Some(end) if dialect == Dialect::Postgres => {
                bodies.see(&sql[at..end], &sql[end..]);
                end
            }
            Some(end) => end,
            None => skip(sql, at, dialect),
        };
    }
    push(&mut found, sql, start..sql.len(), dialect);
    found
}

/// The line, counted from 1, and the text of the first statement that ends or begins a transaction, or is for `psql`
/// itself: with one of these, a script of PostgreSQL is not done whole or not at all.
#[must_use]
pub fn breaks_transaction(sql: &str) -> Option<(usize, &str)> {
    let breaks = |text: &str| {
        let mut words = text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase);
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match first.as_str() {
            "begin" | "commit" | "end" | "abort" => true,
            "start" | "prepare" => second == "transaction",
            "rollback" => second != "to" && words.next().is_none_or(|third| third != "to"),
            _ => false,
        }
    };
    let found = statements(sql, Dialect::Postgres).into_iter();
    let mut wrong = found.filter(|statement| breaks(statement.text) || commands(statement.text));
    wrong.next().map(|statement| (statement.line, statement.text.lines().next().unwrap_or_default()))
}

/// A backslash outside of quotes and comments: `psql` takes it from there, anywhere in a line.
fn commands(statement: &str) -> bool {
    let mut at = 0;
    while at < statement.len() {
        if statement.as_bytes()[at] == b'\\' {
            return true;
        }
        at = word(statement, at).unwrap_or_else(|| skip(statement, at, Dialect::Postgres));
    }
    false
}

/// How deep a script is in `BEGIN ATOMIC … END`, as `psql` counts it: `CASE` has an `END`, too.
#[derive(Debug, Default)]
struct Bodies {
    depth: usize,
}

impl Bodies {
    fn see(&mut self, word: &str, rest: &str) {
        let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
        let next = rest.split_ascii_whitespace().next().unwrap_or_default();
        match self.depth {
            0 if is(word, "begin") && is(next, "atomic") => self.depth = 1,
            0 => {}
            _ if is(word, "case") => self.depth += 1,
            _ if is(word, "end") => self.depth -= 1,
            _ => {}
        }
    }
}

/// A line that is for the client, not for the server.
enum ClientLine<'s> {
    Delimiter(&'s str),
    /// Of `psql`.
    Command,
    /// `\restrict KEY`, with which newer dumps guard `psql` against what they hold.
    Harmless,
}

/// The line at `at` if it is one for the client, and where it ends. Such lines stand between statements.
fn client_line(sql: &str, start: usize, at: usize, dialect: Dialect) -> Option<(ClientLine<'_>, usize)> {
    const DELIMITER: &str = "delimiter";
    let (first, fits) = match dialect {
        Dialect::Postgres => (b'\\', sql.as_bytes()[at] == b'\\'),
        Dialect::MariaDb => (b'd', sql.as_bytes()[at].eq_ignore_ascii_case(&b'd')),
    };
    if !fits || !without_lead(&sql[start..at], dialect).is_empty() {
        return None;
    }
    let line = sql[at..].lines().next()?;
    let end = at + line.len();
    let mut words = line.split_ascii_whitespace();
    let word = words.next()?;
    if first == b'\\' {
        let harmless = matches!(word, "\\restrict" | "\\unrestrict" | "\\.");
        return Some((if harmless { ClientLine::Harmless } else { ClientLine::Command }, end));
    }
    let next = words.next().filter(|_| word.eq_ignore_ascii_case(DELIMITER))?;
    Some((ClientLine::Delimiter(next), end))
}

/// `COPY … FROM stdin …`
fn copies(statement: &str) -> bool {
    let mut words = statement.split_ascii_whitespace();
    if !words.next().is_some_and(|word| word.eq_ignore_ascii_case("copy")) {
        return false;
    }
    let words: Vec<&str> = words.collect();
    words.windows(2).any(|two| two[0].eq_ignore_ascii_case("from") && two[1].eq_ignore_ascii_case("stdin"))
}

/// The lines behind a `COPY`, and where the line that ends them does.
fn copied(sql: &str, at: usize) -> (&str, usize) {
    let begin = sql[at..].find('\n').map_or(sql.len(), |newline| at + newline + 1);
    let mut line = begin;
    for text in sql[begin..].split_inclusive('\n') {
        if text.trim_end_matches(['\r', '\n']) == "\\." {
            return (&sql[begin..line], line + text.len());
        }
        line += text.len();
    }
    (&sql[begin..], sql.len())
}

fn push<'s>(found: &mut Vec<Statement<'s>>, sql: &'s str, range: std::ops::Range<usize>, dialect: Dialect) {
    let text = &sql[range.clone()];
    let lead = text.len() - without_lead(text, dialect).len();
    let text = text[lead..].trim_end();
    if !text.is_empty() {
        let line = sql[..range.start + lead].bytes().filter(|b| *b == b'\n').count() + 1;
        found.push(Statement { line, text, data: None });
    }
}

/// Blanks and comments before a statement do not count as its beginning.
fn without_lead(mut text: &str, dialect: Dialect) -> &str {
    loop {
        let rest = text.trim_start();
        let rest = match rest.as_bytes() {
            // `/*!` and `/*M!` hold statements of MariaDB's own.
            [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] if dialect == Dialect::MariaDb => rest,
            _ => comment(rest, 0, dialect).map_or(rest, |end| &rest[end..]),
        };
        if rest.len() == text.len() {
            return rest;
        }
        text = rest;
    }
}

/// Where the comment that begins at `at` ends.
fn comment(sql: &str, at: usize, dialect: Dialect) -> Option<usize> {
    let rest = &sql[at..];
    let line = || at + rest.find('\n').unwrap_or(rest.len());
    match (rest.as_bytes(), dialect) {
        ([b'-', b'-', ..], Dialect::Postgres) => Some(line()),
        // `5--1` is arithmetic there.
        ([b'-', b'-', after @ ..], Dialect::MariaDb) => {
            after.first().is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_control()).then(line)
        }
        ([b'#', ..], Dialect::MariaDb) => Some(line()),
        ([b'/', b'*', ..], dialect) => Some(block_comment(sql, at, dialect)),
        _ => None,
    }
}

/// The end of whatever begins at `at`: one character, or a quote or comment as a whole.
fn skip(sql: &str, at: usize, dialect: Dialect) -> usize {
    if let Some(end) = comment(sql, at, dialect) {
        return end;
    }
    let rest = &sql[at..];
    match rest.as_bytes() {
        [b'\'', ..] => {
            // E'…' of PostgreSQL and every string of MariaDB know backslashes.
            let before = &sql[..at];
            let marked = before.ends_with(['e', 'E']) && !before[..at - 1].ends_with(is_word);
            quoted(sql, at, b'\'', dialect == Dialect::MariaDb || marked)
        }
        [b'"', ..] => quoted(sql, at, b'"', dialect == Dialect::MariaDb),
        [b'`', ..] if dialect == Dialect::MariaDb => quoted(sql, at, b'`', false),
        [b'$', ..] if dialect == Dialect::Postgres => dollar(sql, at),
        _ => at + rest.chars().next().map_or(1, char::len_utf8),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The end of the word that begins at `at`.
fn word(sql: &str, at: usize) -> Option<usize> {
    let rest = &sql[at..];
    let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
    (length > 0).then_some(at + length)
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

/// Nested in PostgreSQL, as in the standard; in MariaDB the first end is the end.
fn block_comment(sql: &str, at: usize, dialect: Dialect) -> usize {
    let bytes = sql.as_bytes();
    let (mut i, mut depth) = (at + 2, 1);
    while i < bytes.len() {
        match &bytes[i..] {
            [b'/', b'*', ..] if dialect == Dialect::Postgres => (i, depth) = (i + 2, depth + 1),
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
    let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
    let is_tag = rest[length..].starts_with('$') && !rest.starts_with(|c: char| c.is_ascii_digit());
    let inside_name = sql[..at].ends_with(is_word);
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
        check("DATE'\\'; b", &[(1, "DATE'\\'"), (1, "b")]);
        check("open 'quote ; never", &[(1, "open 'quote ; never")]);
        check("SELECT 5--1;\n;b", &[(1, "SELECT 5--1;"), (2, "b")]);
    }

    #[test]
    fn what_breaks_a_transaction_is_found() {
        let check = |sql: &str, expected| assert_eq!(breaks_transaction(sql).map(|(line, _)| line), expected, "{sql}");
        check("CREATE TABLE t (a text);\nCOPY t FROM stdin;\nCOMMIT;\n\\N\n\\.\n", None);
        check("SELECT 1;\nCOMMIT;", Some(2));
        check("SELECT 1;\n-- the end\n  end ;", Some(3));
        check("/* a */ Start  Transaction;", Some(1));
        check("ROLLBACK", Some(1));
        check("SAVEPOINT a; ROLLBACK TO a; ROLLBACK WORK TO SAVEPOINT a", None);
        check("PREPARE q AS SELECT 1; prepare transaction 'x'", Some(1));
        check("\\restrict x\nSELECT E'\\\\';\n\\unrestrict x", None);
        check("SELECT 1;\n\\! true", Some(2));
        check("SELECT 'COMMIT' \\gexec", Some(1));
        check("DO $$ BEGIN COMMIT; END $$; SELECT '\\'", None);
        check("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;", None);
    }

    #[test]
    fn bodies_of_sql_functions_are_one_statement() {
        let check = |sql: &str, expected: &[(usize, &str)]| check(Dialect::Postgres, sql, expected);
        let body = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC\nSELECT CASE WHEN true THEN 1 END; SELECT 2; END";
        let script = format!("{body}; SELECT 3");
        check(&script, &[(1, body), (2, "SELECT 3")]);
        check("BEGIN; SELECT 1; END; b", &[(1, "BEGIN"), (1, "SELECT 1"), (1, "END"), (1, "b")]);
        check(
            "SELECT begin_atomic; \"begin\" atomic; c",
            &[(1, "SELECT begin_atomic"), (1, "\"begin\" atomic"), (1, "c")],
        );
    }

    #[test]
    fn what_pg_dump_writes_is_taken_apart() {
        let sql = "-- a dump\n\\restrict x;y\nCREATE TABLE t (a text);\nCOPY public.t (a) FROM stdin;\nit's; one\n\\N\n\\.\n\n\
                   \\connect other\nSELECT 1;\nCOPY t FROM STDIN WITH (FORMAT csv);\n";
        let got: Vec<_> = statements(sql, Dialect::Postgres).iter().map(|s| (s.line, s.text, s.data)).collect();
        let expected = [
            (3, "CREATE TABLE t (a text)", None),
            (4, "COPY public.t (a) FROM stdin", Some("it's; one\n\\N\n")),
            (9, "\\connect other", None),
            (10, "SELECT 1", None),
            (11, "COPY t FROM STDIN WITH (FORMAT csv)", Some("")),
        ];
        assert_eq!(got, expected);
        assert!(!copies("COPY t TO STDOUT") && !copies("SELECT 'copy t from stdin'") && !copies("COPY t FROM 'stdin'"));
    }

    #[test]
    fn mariadb_has_its_own_quotes_comments_and_delimiters() {
        let check = |sql, expected: &[(usize, &str)]| check(Dialect::MariaDb, sql, expected);
        check("a `x;` '\\';' # ;\nb; c", &[(1, "a `x;` '\\';' # ;\nb"), (2, "c")]);
        check("DELIMITER //\nCREATE x BEGIN a; END//\nDELIMITER ;\nb;", &[(2, "CREATE x BEGIN a; END"), (4, "b")]);
        check("-- first\ndelimiter $$\na;b$$", &[(3, "a;b")]);
        check("/*!40101 SET NAMES utf8 */;\na", &[(1, "/*!40101 SET NAMES utf8 */"), (2, "a")]);
        check("/* a /* b */ CREATE x; c", &[(1, "CREATE x"), (1, "c")]);
        check("SELECT 5--1; b -- ;\n; c", &[(1, "SELECT 5--1"), (1, "b -- ;"), (2, "c")]);
        check("BEGIN NOT ATOMIC a; END; \\x", &[(1, "BEGIN NOT ATOMIC a"), (1, "END"), (1, "\\x")]);
    }
}
