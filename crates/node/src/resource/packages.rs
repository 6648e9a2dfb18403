//! Which servers are installed, where Debian puts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::{ResourceKey, Trouble};

use super::failure;

/// An installed server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Installed {
    pub major: u16,
    /// As it calls itself: `15.8`.
    pub version: String,
    pub binary: PathBuf,
}

impl Installed {
    /// `10.11`: what MariaDB calls a release series. Another one writes other system tables.
    pub(super) fn series(&self) -> String {
        series(&self.version)
    }
}

/// The first two numbers of a version.
pub(super) fn series(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Servers of PostgreSQL: one folder per major version.
pub(super) fn postgres() -> Vec<Installed> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<Installed> = versions
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            let binary = entry.path().join("bin/postgres");
            let version = version_of(&binary)?;
            Some(Installed { major, version, binary })
        })
        .collect();
    found.sort();
    found
}

/// The one server of a kind that Debian installs at a time.
pub(super) fn only(paths: &[&str]) -> Option<Installed> {
    paths.iter().find_map(|path| {
        let binary = PathBuf::from(path);
        let version = version_of(&binary)?;
        let major = version.split('.').next()?.parse().ok()?;
        Some(Installed { major, version, binary })
    })
}

/// The first word of `--version` that begins with a digit (`v=7.0.15` counts, too).
fn version_of(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").env_clear().current_dir("/").output().ok()?;
    first_version(&String::from_utf8_lossy(&output.stdout))
}

fn first_version(text: &str) -> Option<String> {
    let word = text.split_ascii_whitespace().map(|word| word.strip_prefix("v=").unwrap_or(word));
    let word = word.into_iter().find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))?;
    let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
    Some(word[..end].trim_end_matches('.').to_owned())
}

/// No server that fits is installed.
pub(super) fn missing(key: &ResourceKey, wanted: Option<u16>, found: &[Installed], package: &str) -> Trouble {
    let version = wanted.map_or_else(String::new, |version| format!(" {version}"));
    let fault = Fault::new(FaultKind::Invalid, format!("{} of {} needs {}{version}", key.id, key.app, key.id.kind));
    let fault = match found {
        [] => fault.caused_by(format!("no server of {} is installed on this machine", key.id.kind)),
        found => {
            let versions: Vec<&str> = found.iter().map(|one| one.version.as_str()).collect();
            fault.caused_by(format!("installed: {}", versions.join(", ")))
        }
    };
    failure::lasting(fault.hint(format!("apt install {package}")))
}

/// The data were made by another major version.
pub(super) fn other_version(key: &ResourceKey, data: &str, wanted: impl std::fmt::Display, how: &str) -> Trouble {
    let fault = Fault::new(
        FaultKind::Refused,
        format!("the data of {} of {} were made by version {data}, not {wanted}", key.id, key.app),
    )
    .caused_by("another major version cannot read them as they are");
    failure::lasting(fault.hint(how.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_servers_say() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(first_version(text).as_deref(), expected);
        check("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)", Some("15.8"));
        check("mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64", Some("10.11.19"));
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", Some("7.0.15"));
        check("postgres (PostgreSQL) 17beta1", None);
        check("", None);
    }
}
