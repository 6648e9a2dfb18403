//! A lock of Poetry as pip reads it: every package in its version and with its hashes, so that Poetry itself, which
//! brings some thirty packages of its own, is not needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bowline_core::fault::{Fault, FaultKind};
use serde::Deserialize;
use toml::Value;

use super::super::requirements::normalise;
use super::unreadable;

pub(super) const LOCK: &str = "poetry.lock";

/// The group of what runs.
const MAIN: &str = "main";

#[derive(Debug, Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    /// Where locks before version 2 have all hashes.
    #[serde(default)]
    files: BTreeMap<String, Vec<Distribution>>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Of an extra.
    #[serde(default)]
    optional: bool,
    /// Since lock 2.1.
    groups: Option<Vec<String>>,
    /// Since lock 2.1: for all groups, or for each.
    markers: Option<Value>,
    /// Until lock 1.1.
    category: Option<String>,
    #[serde(default)]
    dependencies: BTreeMap<String, Value>,
    #[serde(default)]
    files: Vec<Distribution>,
    source: Option<Source>,
}

#[derive(Debug, Deserialize)]
struct Distribution {
    hash: String,
}

#[derive(Debug, Deserialize)]
struct Source {
    #[serde(rename = "type")]
    kind: String,
}

/// The requirements of what runs, and how many they are. `direct`: names that the project asks for.
///
/// # Errors
/// A lock that cannot be read, or one of packages that no index has.
pub(super) fn requirements(text: &str, direct: &[String]) -> Result<(String, usize), Fault> {
    let lock: Lock = toml::from_str(text).map_err(|error| unreadable(LOCK, &error))?;
    let reached = reached(&lock, direct);
    let mut lines = String::new();
    let mut count = 0;
    for package in lock.package.iter().filter(|package| package.runs(&reached)) {
        if let Some(source) = package.source.as_ref().filter(|source| source.kind != "legacy") {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("{} of {LOCK} comes from no package index", package.name),
            )
            .caused_by(format!("its source is {}, which has no hash to check", source.kind))
            .hint("write `build = \"pip install poetry && poetry install --only main\"` into bowline.toml"));
        }
        let Package { name, version, .. } = package;
        count += 1;
        let _ = write!(lines, "{name}=={version}");
        if let Some(marker) = package.marker(&lock) {
            let _ = write!(lines, " ; {marker}");
        }
        let files = if package.files.is_empty() { lock.metadata.files.get(name) } else { Some(&package.files) };
        for file in files.into_iter().flatten() {
            let _ = write!(lines, " --hash={}", file.hash);
        }
        lines.push('\n');
    }
    Ok((lines, count))
}

/// What the project needs and what that needs, for locks that do not say it of each package.
fn reached(lock: &Lock, direct: &[String]) -> BTreeSet<String> {
    let mut open: Vec<String> = direct.iter().map(|name| normalise(name)).collect();
    let mut reached = BTreeSet::new();
    while let Some(name) = open.pop() {
        let packages = lock.package.iter().filter(|package| normalise(&package.name) == name);
        open.extend(
            packages
                .flat_map(|package| package.dependencies.keys().map(|name| normalise(name)))
                .filter(|n| !reached.contains(n)),
        );
        reached.insert(name);
    }
    reached
}

impl Package {
    fn runs(&self, reached: &BTreeSet<String>) -> bool {
        let in_main = match (&self.groups, &self.category) {
            (Some(groups), _) => groups.iter().any(|group| group == MAIN),
            (None, Some(category)) => category == MAIN,
            (None, None) => reached.contains(&normalise(&self.name)),
        };
        in_main && !self.optional
    }

    /// Where it is installed. Before lock 2.1: where anything that is locked asks for it.
    fn marker(&self, lock: &Lock) -> Option<String> {
        match (&self.markers, &self.groups) {
            (Some(Value::String(marker)), _) => return Some(marker.clone()),
            (Some(markers), _) => return markers.get(MAIN)?.as_str().map(str::to_owned),
            (None, Some(_)) => return None,
            (None, None) => {}
        }
        let own = normalise(&self.name);
        let edges = lock.package.iter().flat_map(|package| &package.dependencies);
        let edges = edges.filter(|(name, _)| normalise(name) == own).map(|(_, edge)| edge.get("markers"));
        let markers: Option<BTreeSet<&str>> = edges.map(|marker| marker?.as_str()).collect();
        let markers = markers.filter(|all| !all.is_empty())?;
        Some(markers.into_iter().map(|marker| format!("({marker})")).collect::<Vec<_>>().join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lock: &str, direct: &[&str], expected: Result<&str, &str>) {
        let direct: Vec<String> = direct.iter().map(ToString::to_string).collect();
        let read = requirements(lock, &direct).map(|(lines, _)| lines).map_err(|fault| fault.message);
        match (read, expected) {
            (Ok(lines), Ok(expected)) => assert_eq!(lines, expected, "{lock}"),
            (Err(message), Err(expected)) => assert!(message.contains(expected), "{message}"),
            (read, _) => panic!("{read:?} is not {expected:?}"),
        }
    }

    #[test]
    fn each_form_of_lock_gives_what_runs() {
        let newest = "
            [[package]]
            name = 'flask'
            version = '3.0.0'
            groups = ['main', 'dev']
            files = [{file = 'a', hash = 'sha256:aa'}, {file = 'b', hash = 'sha256:bb'}]
            [[package]]
            name = 'colorama'
            version = '0.4'
            groups = ['main']
            markers = 'sys_platform == \"win32\"'
            [[package]]
            name = 'tomli'
            version = '2'
            groups = ['main', 'dev']
            markers = {main = 'python_version < \"3.11\"', dev = 'x'}
            [[package]]
            name = 'pytest'
            version = '8'
            groups = ['dev']
            [[package]]
            name = 'extra'
            version = '1'
            optional = true
            groups = ['main']";
        check(
            newest,
            &[],
            Ok("flask==3.0.0 --hash=sha256:aa --hash=sha256:bb\ncolorama==0.4 ; sys_platform == \"win32\"\n\
                tomli==2 ; python_version < \"3.11\"\n"),
        );
        let without_groups = "
            [[package]]
            name = 'Flask'
            version = '3'
            dependencies = {click = '>=8', colorama = {version = '*', markers = 'sys_platform == \"win32\"'}}
            [[package]]
            name = 'click'
            version = '8'
            dependencies = {Flask = '*'}
            [[package]]
            name = 'colorama'
            version = '1'
            [[package]]
            name = 'pytest'
            version = '8'";
        check(without_groups, &["flask"], Ok("Flask==3\nclick==8\ncolorama==1 ; (sys_platform == \"win32\")\n"));
        let oldest = "
            [[package]]
            name = 'flask'
            version = '2'
            category = 'main'
            [[package]]
            name = 'pytest'
            version = '7'
            category = 'dev'
            [metadata.files]
            flask = [{file = 'a', hash = 'sha256:aa'}]";
        check(oldest, &[], Ok("flask==2 --hash=sha256:aa\n"));
    }

    #[test]
    fn what_has_no_hash_is_refused() {
        let git = "
            [[package]]
            name = 'own'
            version = '1'
            groups = ['main']
            source = {type = 'git', url = 'https://example.com/own'}";
        check(git, &[], Err("own of poetry.lock comes from no package index"));
        check("package = 1", &[], Err("poetry.lock cannot be read"));
    }
}
