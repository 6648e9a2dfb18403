//! What Cargo has built, by its lock.

use serde::Deserialize;

use super::{Component, Hash};

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    /// None: the app's own.
    source: Option<String>,
    checksum: Option<String>,
}

/// Of `Cargo.lock`. It does not say what only tests use: that is among them.
pub(super) fn of_lock(text: &str) -> Vec<Component> {
    let Ok(lock) = toml::from_str::<Lock>(text) else { return Vec::new() };
    let foreign = lock.package.into_iter().filter(|locked| locked.source.is_some());
    let component = |locked: Locked| {
        let sum = locked.checksum.filter(|sum| sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()));
        Component { hash: sum.map(Hash::Sha256), ..Component::new("cargo", None, &locked.name, &locked.version) }
    };
    foreign.map(component).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_named() {
        let sum = "0a".repeat(32);
        let text = format!(
            "version = 4\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"serde\"]\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nsource = \"registry+https://example.com\"\nchecksum = \"{sum}\"\n\n[[package]]\nname = \"fork\"\nversion = \"2.0.0\"\nsource = \"git+https://example.com\"\n"
        );
        let found = of_lock(&text);
        assert_eq!(
            found.iter().map(|one| one.purl.as_str()).collect::<Vec<_>>(),
            ["pkg:cargo/serde@1.0.1", "pkg:cargo/fork@2.0.0"]
        );
        assert_eq!((found[0].hash.clone(), found[1].hash.clone()), (Some(Hash::Sha256(sum)), None));
        assert_eq!(of_lock("nonsense"), []);
    }
}
