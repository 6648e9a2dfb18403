//! Which versions this binary was built from, as its lock file has them.

use std::collections::BTreeMap;

use serde::Serialize;

const LOCK: &str = include_str!("../Cargo.lock");

/// Those whose version an operator asks for.
const DEPENDENCIES: [&str; 6] = ["axum", "hyper", "jiff", "prometheus-client", "redis", "tokio"];

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Version {
    name: &'static str,
    version: &'static str,
    dependencies: BTreeMap<&'static str, &'static str>,
}

impl Version {
    pub(crate) fn of_this_build() -> Self {
        let dependencies = locked(LOCK).filter(|(name, _)| DEPENDENCIES.contains(name)).collect();
        Self { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION"), dependencies }
    }
}

/// Name and version of each package in a lock file.
fn locked(lock: &str) -> impl Iterator<Item = (&str, &str)> {
    lock.split("[[package]]").filter_map(|package| Some((value(package, "name")?, value(package, "version")?)))
}

fn value<'l>(package: &'l str, key: &str) -> Option<&'l str> {
    let of_line = |line: &'l str| line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim().strip_prefix('"');
    package.lines().find_map(of_line)?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dependency_has_the_version_of_the_lock_file() {
        let version = Version::of_this_build();
        assert_eq!(version.dependencies.keys().copied().collect::<Vec<_>>(), DEPENDENCIES);
        for (name, version) in version.dependencies {
            assert!(LOCK.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{name} {version}");
        }
    }
}
