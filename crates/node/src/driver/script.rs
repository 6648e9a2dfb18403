//! The command of an instance, so written that a signal reaches the app and not a shell around it.

/// Words after which `exec` would change the meaning: parts of the shell's grammar, and built-ins without a program.
const NOT_PROGRAMS: [&str; 36] = [
    "!", "{", "}", "(", "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac",
    "function", ".", ":", "source", "exec", "eval", "export", "readonly", "set", "unset", "shift", "trap", "cd",
    "ulimit", "umask", "alias", "wait", "return", "exit", "local",
];

/// Puts `exec` before a simple command (XCU 2.9.1), after its assignments: `A=1 exec server`. Anything else is left as
/// it is; its shell passes no signal on, which is why the whole process group gets TERM.
pub(crate) fn with_exec(command: &str) -> String {
    let text = command.trim();
    match simple_start(text) {
        Some(at) => format!("{}exec {}", &text[..at], &text[at..]),
        None => text.to_owned(),
    }
}

/// Where the program's name begins, if `text` is one simple command.
fn simple_start(text: &str) -> Option<usize> {
    let words = split(text)?;
    let (start, word) = words.iter().find(|(_, word)| !is_assignment(word))?;
    (!NOT_PROGRAMS.contains(word) && !word.starts_with(['<', '>'])).then_some(*start)
}

fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Words and where they begin; `None` where an operator, a comment or an open quote makes it more than one simple command.
fn split(text: &str) -> Option<Vec<(usize, &str)>> {
    let bytes = text.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b' ' || bytes[at] == b'\t' {
            at += 1;
            continue;
        }
        if bytes[at] == b'#' {
            return None;
        }
        let end = word_end(bytes, at)?;
        words.push((at, &text[at..end]));
        at = end;
    }
    Some(words)
}

fn word_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    while at < bytes.len() {
        at = match bytes[at] {
            b' ' | b'\t' => return Some(at),
            b'\\' if at + 1 < bytes.len() && bytes[at + 1] != b'\n' => at + 2,
            b'\'' => at + 2 + bytes[at + 1..].iter().position(|b| *b == b'\'')?,
            b'"' => double_quoted(bytes, at + 1)?,
            b'$' if bytes.get(at + 1) == Some(&b'(') => substitution(bytes, at + 2)?,
            // Part of a redirection: 2>&1, &>file is an operator.
            b'&' if at > 0 && matches!(bytes[at - 1], b'>' | b'<') => at + 1,
            b'<' if bytes.get(at + 1) == Some(&b'<') => return None,
            b'\\' | b';' | b'|' | b'&' | b'(' | b')' | b'`' | b'\n' | b'\r' => return None,
            _ => at + 1,
        };
    }
    Some(at)
}

fn double_quoted(bytes: &[u8], mut at: usize) -> Option<usize> {
    while at < bytes.len() {
        at = match bytes[at] {
            b'"' => return Some(at + 1),
            b'\\' => at + 2,
            b'$' if bytes.get(at + 1) == Some(&b'(') => substitution(bytes, at + 2)?,
            b'`' => return None,
            _ => at + 1,
        };
    }
    None
}

/// After `$(`: any command may stand there; only its end matters.
fn substitution(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 1;
    while at < bytes.len() {
        match bytes[at] {
            // Quotes inside may hide a parenthesis: rare enough not to be taken apart.
            b'\'' | b'"' | b'\\' | b'`' => return None,
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_commands_get_exec_and_others_stay() {
        let check = |command: &str, expected: &str| assert_eq!(with_exec(command), expected);
        check("gunicorn app:app --bind 0.0.0.0:$PORT", "exec gunicorn app:app --bind 0.0.0.0:$PORT");
        check("  A=1 B='x y' node server.js ", "A=1 B='x y' exec node server.js");
        check("gunicorn -w $(nproc) app", "exec gunicorn -w $(nproc) app");
        check("server >log 2>&1", "exec server >log 2>&1");
        check("python -c 'import a; a.b()'", "exec python -c 'import a; a.b()'");
        check("echo \"a $(date) b\"", "exec echo \"a $(date) b\"");
        for command in [
            "a && b",
            "a; b",
            "a | b",
            "a & b",
            "a\nb",
            "(a)",
            "{ a; }",
            "if a; then b; fi",
            "cd x",
            "exec a",
            "A=1",
            "echo 'open",
            "a `b`",
            "! a",
            "a <<EOF",
            ". ./env",
            "a # b",
            ">log",
            "$(echo ')')",
            "&>x a",
            "",
        ] {
            check(command, command);
        }
    }
}
