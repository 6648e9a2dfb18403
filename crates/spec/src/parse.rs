//! The way of a text: syntax, then every environment laid over the base and read, then the errors of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_core::app::App;
use bowline_core::app::procfile::Procfile;
use bowline_core::id::{AppName, EnvName, MAX_NAME};
use toml::de::DeTable;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::grammar::{FILE, overridable};
use crate::nearest::suggestion;
use crate::read::{LOCAL, Pass, Reader, app, routes_with_hosts};
use crate::tree::{Data, Entry, Span, Table};

/// A file beyond this is not one that people wrote.
pub const MAX_FILE: usize = 1 << 20;
/// Every environment is read, so their number is bounded.
const MAX_ENVIRONMENTS: usize = 32;

/// What is known besides the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Defaults {
    /// The folder's name: the app's, when the file has none. Made a valid name.
    pub folder_name: String,
    /// The Procfile beside it: the services and `release.before` of a file that says nothing of them.
    pub procfile: Procfile,
}

/// A file that is right.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// In the environment asked for.
    pub app: App,
    /// Those that the file has a table for.
    pub environments: BTreeSet<EnvName>,
    locations: crate::read::Locations,
    file: String,
    text: Arc<str>,
}

impl Parsed {
    /// The bytes of the file where a key path was written: `route.main.allow`, `route.main.hosts[0]`. For a key that
    /// was not written, its nearest parent that was. `None`: nothing of it was.
    pub fn location(&self, path: &str) -> Option<Span> {
        let mut path = path;
        loop {
            if let Some(location) = self.locations.get(path) {
                return Some(location.key.clone());
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub(crate) fn text(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }
}

/// The text of a file; bytes that are not UTF-8 are an error at their place. Whoever reads takes one byte more than
/// [`MAX_FILE`], so that a file that is too large is known by its length; its end may be the middle of a character.
pub fn decode(bytes: &[u8], file_name: &str) -> Result<String, Diagnostics> {
    if bytes.len() > MAX_FILE {
        return Err(Diagnostics::new(file_name, "".into(), vec![too_large(file_name)]));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let text: Arc<str> = String::from_utf8_lossy(bytes).into();
            let at = error.valid_up_to();
            let end = at + char::REPLACEMENT_CHARACTER.len_utf8();
            let problem = Diagnostic::new("", at..end, "the file is not UTF-8");
            Err(Diagnostics::new(file_name, text, vec![problem]))
        }
    }
}

/// Reads a `bowline.toml` for one environment. All environments that the file has are validated.
///
/// `file_name` is what errors call the file. A leading byte order mark is ignored.
pub fn parse(text: &str, file_name: &str, env: &EnvName, defaults: &Defaults) -> Result<Parsed, Diagnostics> {
    let source: Arc<str> = text.into();
    let fail = |problems| Diagnostics::new(file_name, Arc::clone(&source), problems);
    let (root, syntax) = read_toml(text).map_err(|problem| fail(vec![*problem]))?;
    let folder = app_name(&defaults.folder_name);
    let (environments, mut problems) = environments(&root, env);
    let mut found = Found::default();
    let mut selected = None;
    for name in &environments.all {
        let (reader, app) = read_environment(&root, name, &folder, &defaults.procfile);
        found.add(name, &root, reader.problems);
        if name == env {
            selected = Some((app, reader.locations));
        }
    }
    problems.extend(found.problems(environments.all.len()));
    let problems = after_syntax(text, syntax, problems);
    match selected {
        Some((app, locations)) if problems.is_empty() => {
            let file = file_name.to_owned();
            Ok(Parsed { app, environments: environments.declared, locations, file, text: source })
        }
        Some(_) | None => Err(fail(problems)),
    }
}

/// The app that a folder without a `bowline.toml` is.
pub fn implicit(defaults: &Defaults, env: &EnvName) -> App {
    let folder = app_name(&defaults.folder_name);
    let (reader, app) = read_environment(&Table::default(), env, &folder, &defaults.procfile);
    assert!(reader.problems.is_empty(), "nothing is wrong with an empty file");
    app
}

/// A folder's name as an app's: lower case, other characters as `-`, at least one letter first.
fn app_name(folder: &str) -> AppName {
    let plain: String = folder
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let plain = plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let named = match plain.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => plain,
        false => format!("app-{plain}"),
    };
    let named = &named[..named.len().min(MAX_NAME)];
    AppName::new(named.trim_end_matches('-')).expect("made of what names are made of, a letter first")
}

fn too_large(file: &str) -> Diagnostic {
    Diagnostic::whole("", format!("{file} is larger than {} KiB", MAX_FILE >> 10))
}

/// The tree and the syntax errors; the tree holds what could be understood.
pub(crate) fn read_toml(text: &str) -> Result<(Table, Vec<Diagnostic>), Box<Diagnostic>> {
    if text.len() > MAX_FILE {
        return Err(Box::new(too_large("the file")));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let problem = |error: &toml::de::Error| {
        let span = error.span().unwrap_or(text.len()..text.len());
        Diagnostic::new("", span, error.message())
    };
    Ok((Table::from_toml(table.get_ref()), errors.iter().map(problem).collect()))
}

/// After syntax errors only those problems stand that they cannot have caused.
pub(crate) fn after_syntax(text: &str, syntax: Vec<Diagnostic>, problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if syntax.is_empty() {
        return problems;
    }
    let line = |d: &Diagnostic| text.as_bytes().iter().take(d.start()).filter(|b| **b == b'\n').count();
    let broken: BTreeSet<usize> = syntax.iter().map(line).collect();
    let stand = problems.into_iter().filter(|d| !d.missing && !broken.contains(&line(d)));
    let stand: Vec<Diagnostic> = stand.collect();
    // One error per line: what follows on it is most often its echo.
    let mut seen = BTreeSet::new();
    syntax.into_iter().filter(|d| seen.insert(line(d))).chain(stand).collect()
}

struct Environments {
    /// Those with a table.
    declared: BTreeSet<EnvName>,
    /// With `local` and the one asked for.
    all: BTreeSet<EnvName>,
}

fn environments(root: &Table, selected: &EnvName) -> (Environments, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    let table = root.get("environment");
    let tables = table.and_then(|entry| entry.node.data.table());
    let names = tables.into_iter().flat_map(|tables| tables.0.keys());
    let names: Vec<EnvName> = names.filter_map(|name| EnvName::new(name).ok()).collect();
    if names.len() > MAX_ENVIRONMENTS {
        let message = format!("a file has at most {MAX_ENVIRONMENTS} environments, this one has {}", names.len());
        problems.push(Diagnostic::new("environment", key_span(table), message));
    }
    let declared: BTreeSet<EnvName> = names.into_iter().collect();
    let local = EnvName::new(LOCAL).expect("local is a name");
    let known = declared.contains(selected) || *selected == local;
    if !known && declared.iter().any(|name| *name != local) {
        let message = format!("this file has no environment `{selected}`");
        let hint = suggestion(selected.as_str(), declared.iter().map(EnvName::as_str));
        problems.push(Diagnostic::new("environment", key_span(table), message).hint(hint).missing());
    }
    let mut all: BTreeSet<EnvName> = declared.iter().take(MAX_ENVIRONMENTS).cloned().collect();
    all.extend([local, selected.clone()]);
    (Environments { declared, all }, problems)
}

fn key_span(entry: Option<&Entry>) -> Span {
    entry.map_or(0..0, |entry| entry.key.clone())
}

fn read_environment(root: &Table, env: &EnvName, folder: &AppName, procfile: &Procfile) -> (Reader, App) {
    let overrides = overrides(root, env);
    let local_hosts = routes_with_hosts(&overrides);
    let merged = root.overridden(&overrides, &FILE);
    let mut reader = Reader::default();
    let pass = Pass { env, folder, procfile, local_hosts: Some(&local_hosts) };
    let app = app(&mut reader, &merged, &pass);
    (reader, app)
}

/// What an environment's table lays over the tables of the file.
fn overrides(root: &Table, env: &EnvName) -> Table {
    let tables = root.get("environment").and_then(|entry| entry.node.data.table());
    let table = tables.and_then(|tables| tables.get(env.as_str())).and_then(|entry| entry.node.data.table());
    let Some(table) = table else { return Table::default() };
    let tables = table.0.iter().filter(|(key, _)| overridable(key) && FILE.key(key).is_some());
    Table(tables.map(|(key, entry)| (key.clone(), entry.clone())).collect())
}

/// Problems of all environments, each once.
#[derive(Default)]
struct Found {
    /// By place and message; with the environments that have it.
    by_place: BTreeMap<(usize, String), (Diagnostic, Vec<EnvName>, bool)>,
}

impl Found {
    fn add(&mut self, env: &EnvName, root: &Table, problems: Vec<Diagnostic>) {
        if problems.is_empty() {
            return;
        }
        let own = starts(&overrides(root, env));
        for problem in problems {
            let place = (problem.start(), problem.message.clone());
            let evident = own.contains(&problem.start());
            let (_, envs, _) = self.by_place.entry(place).or_insert_with(|| (problem, Vec::new(), evident));
            if envs.last() != Some(env) {
                envs.push(env.clone());
            }
        }
    }

    /// Says in which environments a problem is, where its line does not say so.
    fn problems(self, environments: usize) -> impl Iterator<Item = Diagnostic> {
        self.by_place.into_values().map(move |(mut problem, envs, evident)| {
            if envs.len() < environments && !evident {
                let names: Vec<&str> = envs.iter().map(EnvName::as_str).collect();
                problem.message = format!("{} (in environment {})", problem.message, names.join(", "));
            }
            problem
        })
    }
}

/// Where the keys and values of a table begin.
fn starts(table: &Table) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![table];
    while let Some(table) = open.pop() {
        for entry in table.0.values() {
            found.extend([entry.key.start, entry.node.span.start]);
            match &entry.node.data {
                Data::Table(inner) => open.push(inner),
                Data::List(items) => found.extend(items.iter().map(|item| item.span.start)),
                Data::Text(_) | Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date => {}
            }
        }
    }
    found
}
