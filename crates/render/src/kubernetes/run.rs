//! A command of the file as words of a container.

/// Words with which the shell does something itself.
const BUILT_IN: [&str; 20] = [
    ".", ":", "cd", "eval", "exec", "exit", "export", "if", "for", "while", "until", "case", "set", "source", "trap",
    "ulimit", "umask", "unset", "wait", "test",
];

/// Without a shell where none is needed, so that images without one run it and a signal reaches the program.
pub(crate) fn words(command: &str) -> Vec<String> {
    let text = command.trim();
    let is_simple = |c: char| c.is_ascii_alphanumeric() || " _./:=,@%+-".contains(c);
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let program = words.first().is_some_and(|word| !word.contains('=') && !BUILT_IN.contains(word));
    match text.chars().all(is_simple) && program {
        true => words.into_iter().map(str::to_owned).collect(),
        false => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    }
}

/// Words that a kubelet hands on as they are: in a container's command it reads `$$` as `$`, and `$(NAME)` as a variable. What it would leave
/// alone stays as it is written: other words would be other pods.
pub(super) fn literal(words: Vec<String>) -> Vec<String> {
    words.into_iter().map(|word| escaped(&word)).collect()
}

fn escaped(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    let mut all = word.chars().peekable();
    while let Some(c) = all.next() {
        text.push(c);
        if c == '$' && matches!(all.peek(), Some('$' | '(')) {
            text.push('$');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_there_for_what_needs_one() {
        let check = |command: &str, expected: &[&str]| assert_eq!(words(command), expected);
        check("bin/hello", &["bin/hello"]);
        check(" node --max-old-space-size=128  src/main.js ", &["node", "--max-old-space-size=128", "src/main.js"]);
        for shell in ["gunicorn --bind 0.0.0.0:$PORT", "A=1 b", "cd x", "a && b", "echo 'x'", "ls *.c", "a\nb", "é"] {
            check(shell, &["/bin/sh", "-c", shell]);
        }
    }

    /// As third_party/forked/golang/expansion of Kubernetes reads it where no variable is known.
    fn read(text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let (taken, known) = match behind.chars().next() {
                None => ("$".to_owned(), 0),
                Some('$') => ("$".to_owned(), 1),
                Some('(') => match behind.find(')') {
                    Some(end) => ("VALUE".to_owned(), end + 1),
                    None => ("$(".to_owned(), 1),
                },
                Some(c) => (format!("${c}"), c.len_utf8()),
            };
            out.push_str(&taken);
            rest = &behind[known..];
        }
        out + rest
    }

    #[test]
    fn a_kubelet_reads_the_words_of_the_file() {
        let check = |word: &str, expected: &str| {
            assert_eq!(escaped(word), expected);
            assert_eq!(read(expected), word);
        };
        check("echo $(date) $$", "echo $$(date) $$$");
        check("echo $PORT ${PORT} é$", "echo $PORT ${PORT} é$");
        check("echo $$$(date)$$$x$é$", "echo $$$$$$(date)$$$$$x$é$");
    }
}
