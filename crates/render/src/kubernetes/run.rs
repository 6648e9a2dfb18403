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
}
