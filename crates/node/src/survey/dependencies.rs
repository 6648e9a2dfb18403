//! Whether what an app depends on has versions.

use std::collections::BTreeSet;

use bowline_core::readiness::{Seen, Sighting};

use super::{Ground, ground};

/// A list of dependencies, the lock files any of which pins it, and the command that writes the first.
const LISTS: [(&str, &[&str], &str, &str); 6] = [
    (
        "package.json",
        &["package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb"],
        "package-lock.json",
        "npm install --package-lock-only",
    ),
    ("Cargo.toml", &["Cargo.lock"], "Cargo.lock", "cargo generate-lockfile"),
    ("go.mod", &["go.sum"], "go.sum", "go mod tidy"),
    (
        "pyproject.toml",
        &["uv.lock", "poetry.lock", "pdm.lock", "requirements.txt", "Pipfile.lock", "pylock.toml"],
        "uv.lock",
        "uv lock",
    ),
    ("Gemfile", &["Gemfile.lock"], "Gemfile.lock", "bundle lock"),
    ("composer.json", &["composer.lock"], "composer.lock", "composer update --no-install"),
];

pub(super) fn sightings(file: &str, text: &str, files: &BTreeSet<String>) -> Vec<Sighting> {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    if folder.split('/').any(|part| ground(&format!("{part}/x.py")) == Ground::Foreign) {
        return Vec::new();
    }
    if name == "requirements.txt" {
        return unpinned(file, text, folder, files).into_iter().collect();
    }
    let Some((_, locks, lock, command)) = LISTS.iter().find(|(list, ..)| *list == name) else { return Vec::new() };
    if !depends(name, text) || locks.iter().any(|lock| is_at_or_above(folder, lock, files)) {
        return Vec::new();
    }
    vec![Sighting { file: file.to_owned(), line: 0, seen: Seen::NoLock { lock, command } }]
}

/// A workspace keeps one lock file for all of its members.
fn is_at_or_above(folder: &str, lock: &str, files: &BTreeSet<String>) -> bool {
    let mut folder = folder;
    loop {
        let path = if folder.is_empty() { lock.to_owned() } else { format!("{folder}/{lock}") };
        match folder {
            _ if files.contains(&path) => return true,
            "" => return false,
            _ => folder = folder.rsplit_once('/').map_or("", |(above, _)| above),
        }
    }
}

/// Whether it asks for anything at all.
fn depends(name: &str, text: &str) -> bool {
    match name {
        "package.json" => {
            let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            json["dependencies"].as_object().is_some_and(|all| !all.is_empty())
        }
        "composer.json" => {
            let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            json["require"].as_object().is_some_and(|all| all.keys().any(|name| name.contains('/')))
        }
        "go.mod" => text.lines().any(|line| line.starts_with("require")),
        "Gemfile" => text.lines().any(|line| line.trim_start().starts_with("gem ")),
        "Cargo.toml" => text.lines().any(|line| line.trim() == "[dependencies]" || line.starts_with("[dependencies.")),
        // PEP 621, and the tables of poetry.
        "pyproject.toml" => text.lines().any(|line| {
            let line: String = line.chars().filter(|c| !c.is_whitespace()).collect();
            line.starts_with("dependencies=[") && line != "dependencies=[]" || line == "[tool.poetry.dependencies]"
        }),
        _ => false,
    }
}

fn unpinned(file: &str, text: &str, folder: &str, files: &BTreeSet<String>) -> Option<Sighting> {
    let locked = ["uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"];
    let constrained = text.lines().any(|line| line.starts_with("-c") || line.starts_with("--constraint"));
    if constrained || locked.iter().any(|lock| is_at_or_above(folder, lock, files)) {
        return None;
    }
    let loose: Vec<(u32, &str)> = (1u32..).zip(text.lines()).filter_map(|(n, line)| Some((n, loose(line)?))).collect();
    let (line, first) = *loose.first()?;
    let seen = Seen::Unpinned { first: first.to_owned(), count: loose.len() };
    Some(Sighting { file: file.to_owned(), line, seen })
}

/// The name of a requirement without an exact version or a place (PEP 440, PEP 508).
fn loose(line: &str) -> Option<&str> {
    let line = line.split('#').next().unwrap_or("").trim();
    let line = line.split(';').next().unwrap_or("").trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_address = rest.starts_with([':', '/', '+', '@', '\\']) || rest.contains(" @ ") || name.ends_with(".whl");
    (is_name && !is_address && !rest.contains("==")).then_some(name)
}
