//! A look at a folder with somebody's app: what stands out in its code, and what other tools' files say about it.
//!
//! Architecture invariant: nothing is run and nothing is written, every read is bounded, and no value of a secret
//! leaves `secrets`.

mod code;
pub mod compose;
mod dependencies;
mod dockerfile;
mod draft;
mod folder;
mod secrets;
mod start;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::readiness::{Seen, Sighting, is_below};

pub use dockerfile::Dockerfile;
pub use draft::{Draft, Left};
pub use secrets::{is_secret_name, secret_in};

/// A line with this word is looked at by nobody: for what a person has judged to be right.
pub const ALLOW: &str = "bowline:allow";

/// What was found in a folder.
#[derive(Debug, Clone)]
pub struct Survey {
    root: PathBuf,
    /// Regular files that belong to the app, with `/`, below the folder.
    pub files: BTreeSet<String>,
    /// Sorted by place.
    pub sightings: Vec<Sighting>,
    /// Why only a part was looked at, if so.
    pub partial: Option<String>,
}

/// Looks at all text files that belong to the app. Blocks on the disk.
///
/// # Errors
/// The folder cannot be read.
pub fn survey(root: &Path) -> Result<Survey, Fault> {
    let (files, partial) = folder::list(root).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("{} cannot be read", root.display()))
            .source(&error)
            .hint("name a folder that this user may read")
    })?;
    let mut survey = Survey { root: root.to_owned(), files, sightings: Vec::new(), partial };
    let mut found = Vec::new();
    let mut budget = folder::MAX_TOTAL;
    for file in &survey.files {
        let Some(text) = folder::text_of(&survey.root, file) else { continue };
        budget = budget.saturating_sub(text.len());
        if budget == 0 {
            survey.partial = Some(format!("only {} MiB of it were read", folder::MAX_TOTAL >> 20));
            break;
        }
        found.extend(secrets::sightings(file, &text));
        found.extend(code::sightings(file, &text));
        found.extend(dependencies::sightings(file, &text, &survey.files));
        found.extend(dockerfile::sightings(file, &text));
    }
    if folder::tracks_env_file(root) {
        found.push(Sighting { file: ".env".to_owned(), line: 0, seen: Seen::EnvFileTracked });
    }
    found.sort();
    found.dedup();
    survey.sightings = found;
    Ok(survey)
}

impl Survey {
    /// The text of a file of the app; `None` if it has none such, or it is no text of a readable size.
    pub fn text(&self, file: &str) -> Option<String> {
        self.files.contains(file).then(|| folder::text_of(&self.root, file)).flatten()
    }

    /// What stands out below a folder of the app.
    fn below<'s>(&'s self, dir: &'s str) -> impl Iterator<Item = &'s Sighting> {
        self.sightings.iter().filter(move |sighting| is_below(&sighting.file, dir))
    }

    /// What a Dockerfile of the app says.
    pub fn dockerfile(&self, file: &str) -> Option<Dockerfile> {
        self.text(file).as_deref().and_then(dockerfile::parse)
    }
}

/// What kind of file it is, by its name, as far as the rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// Code of the app.
    Code,
    /// `key: value` and `key = value` without quotes.
    Config,
    /// Examples and words: only what cannot be anything else is told.
    Prose,
    /// Tests, locks, generated and foreign files: nothing in there is the app's own.
    Foreign,
}

const CODE: [&str; 26] = [
    "py", "js", "mjs", "cjs", "ts", "jsx", "tsx", "go", "rs", "rb", "php", "java", "kt", "cs", "scala", "ex", "exs",
    "sh", "bash", "lua", "pl", "swift", "dart", "vue", "svelte", "clj",
];
const CONFIG: [&str; 10] = ["yaml", "yml", "toml", "ini", "cfg", "conf", "properties", "json", "xml", "tf"];
const PROSE: [&str; 12] =
    ["md", "rst", "txt", "adoc", "html", "htm", "example", "sample", "template", "dist", "ipynb", "tmpl"];

/// Folders of what the app is tested with, shown by, or did not write itself.
const FOREIGN_FOLDERS: [&str; 24] = [
    "test",
    "tests",
    "spec",
    "specs",
    "__tests__",
    "__mocks__",
    "mocks",
    "fixtures",
    "testdata",
    "test-data",
    "test_data",
    "e2e",
    "cypress",
    "vendor",
    "third_party",
    "node_modules",
    "bower_components",
    "site-packages",
    "examples",
    "snapshots",
    "__snapshots__",
    "locale",
    "locales",
    "i18n",
];
const LOCKS: [&str; 14] = [
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    "Cargo.lock",
    "go.sum",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "Pipfile.lock",
    "Gemfile.lock",
    "composer.lock",
    "flake.lock",
];

fn ground(file: &str) -> Ground {
    let (folders, name) = file.rsplit_once('/').unwrap_or(("", file));
    let lower = name.to_ascii_lowercase();
    let is_test = lower.starts_with("test_")
        || lower == "conftest.py"
        || ["_test.", ".test.", "_spec.", ".spec.", "-test."].iter().any(|mark| lower.contains(mark));
    let is_made = [".min.js", ".min.css", ".map", ".bundle.js"].iter().any(|end| lower.ends_with(end));
    let is_foreign = folders.split('/').any(|folder| FOREIGN_FOLDERS.contains(&folder));
    if is_test || is_made || is_foreign || LOCKS.contains(&name) {
        return Ground::Foreign;
    }
    let extension = lower.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        _ if lower.contains("example") || lower.contains("sample") => Ground::Prose,
        e if CODE.contains(&e) => Ground::Code,
        e if CONFIG.contains(&e) => Ground::Config,
        e if PROSE.contains(&e) => Ground::Prose,
        _ if matches!(name, "Dockerfile" | "Procfile" | "Makefile" | "Jenkinsfile") => Ground::Config,
        _ => Ground::Prose,
    }
}

/// Longer lines were written by a program.
const MAX_LINE: usize = 1000;

fn is_long(line: &str) -> bool {
    line.len() > MAX_LINE
}

/// The lines of a text that somebody wrote, see [`all_lines`].
fn lines<'t>(file: &str, text: &'t str) -> impl Iterator<Item = (u32, &'t str, &'t str)> {
    all_lines(file, text).filter(|(_, line, _)| !is_long(line))
}

/// The lines of a text with their numbers from 1, and the line after each. Where Rust's tests begin in a file, they are the
/// rest of it.
fn all_lines<'t>(file: &str, text: &'t str) -> impl Iterator<Item = (u32, &'t str, &'t str)> {
    let next = text.lines().skip(1).chain(std::iter::once(""));
    let numbered = (1u32..).zip(text.lines().zip(next));
    let is_rust = file.ends_with(".rs");
    let begins_tests = |line: &str, next: &str| {
        let next = next.trim();
        line.trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{')
    };
    numbered
        .map(|(n, (line, next))| (n, line, next))
        .take_while(move |(_, line, next)| !(is_rust && begins_tests(line, next)))
        .filter(|(_, line, _)| !line.contains(ALLOW))
}

/// Whether a line says nothing to the machine.
fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    ["#", "//", "*", "/*", "--", "<!--", ";"].iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests;
