//! `$NAME` and `${NAME…}` in values, as the Compose specification defines them.

use std::collections::BTreeMap;

/// What a value became.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Interpolated {
    pub text: String,
    /// Variables without a value and a default, empty in `text`.
    pub missing: Vec<String>,
    /// It is nothing but this variable.
    pub whole: Option<String>,
}

pub(super) fn interpolate(text: &str, variables: &BTreeMap<String, String>) -> Interpolated {
    let mut done = Interpolated::default();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        done.text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match after.chars().next() {
            Some('$') => {
                done.text.push('$');
                &after[1..]
            }
            Some('{') => match end_of_braces(after) {
                Some(end) => {
                    expression(&after[1..end], variables, &mut done);
                    &after[end + 1..]
                }
                None => {
                    done.text.push('$');
                    after
                }
            },
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                expression(&after[..end], variables, &mut done);
                &after[end..]
            }
            Some(_) | None => {
                done.text.push('$');
                after
            }
        };
    }
    done.text.push_str(rest);
    done.whole = whole(text);
    done
}

fn whole(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|n| n.strip_suffix('}')).unwrap_or(name);
    let name = name.split([':', '-', '?', '+']).next().unwrap_or(name);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| name.to_owned())
}

/// `text` starts with `{`; defaults may hold braces themselves.
fn end_of_braces(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(i),
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// `NAME`, `NAME:-default`, `NAME-default`, `NAME:?error`, `NAME?error`, `NAME:+other`, `NAME+other`.
fn expression(text: &str, variables: &BTreeMap<String, String>, done: &mut Interpolated) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (empty_is_unset, operator) = match rest.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, rest),
    };
    let value = variables.get(name).filter(|value| !(empty_is_unset && value.is_empty()));
    let word = operator.get(1..).unwrap_or("");
    match (operator.chars().next(), value) {
        (Some('+'), Some(_)) => done.text.push_str(word),
        (Some('+'), None) => {}
        (_, Some(value)) => done.text.push_str(value),
        // A default may hold variables; one level is what people write.
        (Some('-'), None) => done.text.push_str(word),
        (_, None) => done.missing.push(name.to_owned()),
    }
}
