//! Hints of a Dockerfile: nothing is built from it here.

use bowline_core::readiness::{Seen, Sighting};

/// What its last stage says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dockerfile {
    /// From 1.
    pub from_line: u32,
    pub user: Option<String>,
    pub expose: Vec<u16>,
    /// As a shell reads it: `ENTRYPOINT` and `CMD`.
    pub command: Option<String>,
}

/// `None` if it has no `FROM`: then it is something else of that name.
pub(super) fn parse(text: &str) -> Option<Dockerfile> {
    let mut stage: Option<Dockerfile> = None;
    let (mut entrypoint, mut cmd) = (None, None);
    for (line, text) in instructions(text) {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let rest = rest.trim();
        match (word.to_ascii_uppercase().as_str(), &mut stage) {
            ("FROM", _) => {
                stage = Some(Dockerfile { from_line: line, ..Dockerfile::default() });
                (entrypoint, cmd) = (None, None);
            }
            ("USER", Some(stage)) => stage.user = Some(rest.to_owned()),
            ("EXPOSE", Some(stage)) => {
                let ports = rest.split_ascii_whitespace().filter_map(|p| p.split('/').next()?.parse::<u16>().ok());
                stage.expose.extend(ports);
            }
            ("CMD", Some(_)) => cmd = words(rest),
            ("ENTRYPOINT", Some(_)) => entrypoint = words(rest),
            (_, _) => {}
        }
    }
    let mut stage = stage?;
    stage.command = match (entrypoint, cmd) {
        (Some(entrypoint), Some(cmd)) => Some(format!("{entrypoint} {cmd}")),
        (one, other) => one.or(other),
    };
    Some(stage)
}

/// Logical lines: comments left out, `\` at the end joins.
fn instructions(text: &str) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String)> = Vec::new();
    let mut open = false;
    for (number, line) in (1u32..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, joins) = line.strip_suffix('\\').map_or((line, false), |part| (part.trim_end(), true));
        match found.last_mut().filter(|_| open) {
            Some((_, before)) => before.push_str(&format!(" {part}")),
            None => found.push((number, part.to_owned())),
        }
        open = joins;
    }
    found
}

/// `["a", "b c"]` (JSON) as a shell reads it, or the shell's own form.
fn words(text: &str) -> Option<String> {
    if !text.starts_with('[') {
        return Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    let words: Vec<String> = serde_json::from_str(text).ok()?;
    let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    Some(words.join(" ")).filter(|text| !text.is_empty())
}

/// A word as `/bin/sh` reads it. `$` keeps its meaning in what a Dockerfile's own shell form would expand.
pub(super) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,$".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

pub(super) fn sightings(file: &str, text: &str) -> Vec<Sighting> {
    let name = file.rsplit('/').next().unwrap_or(file);
    if name != "Dockerfile" && !name.starts_with("Dockerfile.") {
        return Vec::new();
    }
    let Some(stage) = parse(text) else { return Vec::new() };
    let user = stage.user.as_deref().map(|user| user.split(':').next().unwrap_or(user));
    match user {
        None | Some("root" | "0") => {
            vec![Sighting { file: file.to_owned(), line: stage.from_line, seen: Seen::DockerfileRoot }]
        }
        Some(_) => Vec::new(),
    }
}
