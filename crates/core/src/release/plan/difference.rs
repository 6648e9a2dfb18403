//! What two files say differently, in the files' own words.

use std::collections::{BTreeMap, BTreeSet};

use super::Shown;

/// A file of one environment, key by key: `service.web.scale` → `2`. `spec` writes it; two apps that differ have two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Every key, defaults too. A table that holds nothing is a key with an empty text.
    pub all: BTreeMap<String, String>,
    /// The keys that a file would have to say.
    pub said: BTreeSet<String>,
}

/// One key, or a whole table that is new or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `service.web.scale`, `route.main`
    pub path: String,
    /// `None`: it is new.
    pub from: Option<Shown>,
    /// `None`: it is gone.
    pub to: Option<Shown>,
}

/// The table of the environment that the file is read for: there is always one.
const ENVIRONMENT: &str = "environment";

/// Tables of tables: the name behind the dot is part of what is added or removed.
const NAMED: [&str; 11] =
    ["service", "job", "env", "secret", "postgres", "mariadb", "redis", "volume", "bucket", "route", ENVIRONMENT];

/// All differences, by their paths. Without `old`, every table is new that says more than its defaults.
pub fn differences(old: Option<&Settings>, new: &Settings) -> Vec<Difference> {
    let (none, is_first) = (Settings::default(), old.is_none());
    let old = old.unwrap_or(&none);
    let (before, after) = (subjects(old), subjects(new));
    let mut found = Vec::new();
    for subject in before.union(&after) {
        let (old_keys, new_keys) = (keys(&old.all, subject), keys(&new.all, subject));
        match (before.contains(subject), after.contains(subject)) {
            (false, _) if is_first && !is_worth(subject, &new_keys, new) => {}
            (false, _) => {
                let to = Some(summary(subject, &new_keys, new));
                found.push(Difference { path: (*subject).to_owned(), from: None, to });
            }
            (true, false) => {
                let from = Some(summary(subject, &old_keys, old));
                found.push(Difference { path: (*subject).to_owned(), from, to: None });
            }
            (true, true) => {
                let all = between(&old_keys, &new_keys);
                let told: Vec<Difference> = all.iter().filter(|one| is_told(one, old, new)).cloned().collect();
                // What differs is never passed over, even if each side is the default of something.
                found.extend(if told.is_empty() { all } else { told });
            }
        }
    }
    found
}

/// Of a first release: neither its own name nor a table that has only defaults, but for one that is there by its name.
fn is_worth(subject: &str, keys: &BTreeMap<String, String>, settings: &Settings) -> bool {
    let is_there = subject.split_once('.').is_some_and(|(table, _)| NAMED.contains(&table) && table != ENVIRONMENT);
    let says = keys.keys().any(|path| is_said(settings, path));
    is_there || (says && subject != "app")
}

/// Key by key.
pub(super) fn between(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Difference> {
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let one = |path: &String| {
        let (from, to) = (old.get(path), new.get(path));
        // Where a table of no keys gets its first, that one says it.
        let empty = |text: Option<&String>| text.is_some_and(String::is_empty);
        let is_table = |map: &BTreeMap<String, String>| has_below(map, path);
        let filled = (empty(from) && is_table(new)) || (empty(to) && is_table(old));
        let shown = |text: &String| Shown::of(path, text);
        (from != to && !filled).then(|| Difference { path: path.clone(), from: from.map(shown), to: to.map(shown) })
    };
    paths.into_iter().filter_map(one).collect()
}

/// What has a default, and comes and goes with a key that is said, is not told apart.
fn is_told(difference: &Difference, old: &Settings, new: &Settings) -> bool {
    match (&difference.from, &difference.to) {
        (None, _) => is_said(new, &difference.path),
        (_, None) => is_said(old, &difference.path),
        (Some(_), Some(_)) => true,
    }
}

/// A key, or the word that stands for its table: `health = "tcp"`.
fn is_said(settings: &Settings, path: &str) -> bool {
    let mut at = path;
    loop {
        if settings.said.contains(at) {
            return true;
        }
        match at.rsplit_once('.') {
            Some((parent, _)) => at = parent,
            None => return false,
        }
    }
}

fn has_below(map: &BTreeMap<String, String>, path: &str) -> bool {
    let below = format!("{path}.");
    map.range(below.clone()..).next().is_some_and(|(key, _)| key.starts_with(&below))
}

/// What is added and removed whole.
fn subjects(settings: &Settings) -> BTreeSet<&str> {
    settings.all.keys().map(|path| subject(path)).collect()
}

fn subject(path: &str) -> &str {
    let Some((table, rest)) = path.split_once('.') else { return path };
    match NAMED.contains(&table) {
        true => &path[..table.len() + 1 + rest.find('.').unwrap_or(rest.len())],
        false => table,
    }
}

fn keys(all: &BTreeMap<String, String>, of: &str) -> BTreeMap<String, String> {
    all.iter().filter(|(path, _)| subject(path) == of).map(|(path, text)| (path.clone(), text.clone())).collect()
}

/// A table on one line: what a file would say of it.
fn summary(subject: &str, keys: &BTreeMap<String, String>, settings: &Settings) -> Shown {
    if let Some(text) = keys.get(subject) {
        return Shown::of(subject, text);
    }
    let told: Vec<String> = keys
        .iter()
        .filter(|(path, _)| is_said(settings, path))
        .map(|(path, text)| {
            let key = path.get(subject.len() + 1..).unwrap_or(path);
            format!("{key} = {}", Shown::of(path, text))
        })
        .collect();
    Shown::Text(told.join(", "))
}
