//! What npm has installed, by its lock.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Component, Hash};

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    packages: BTreeMap<String, Locked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Locked {
    /// Where it is not what its folder is called.
    name: Option<String>,
    version: Option<String>,
    integrity: Option<String>,
    #[serde(default)]
    dev: bool,
    #[serde(default)]
    dev_optional: bool,
    /// A folder of the app itself.
    #[serde(default)]
    link: bool,
}

/// Of `package-lock.json`, version 2 or 3. What is only for development is not there when the app runs.
pub(super) fn of_lock(text: &str) -> Vec<Component> {
    let Ok(lock) = serde_json::from_str::<Lock>(text) else { return Vec::new() };
    let component = |(path, locked): (String, Locked)| {
        let folder = path.rsplit_once("node_modules/")?.1;
        let name = locked.name.as_deref().unwrap_or(folder);
        let version = locked.version.filter(|_| !locked.dev && !locked.dev_optional && !locked.link)?;
        let component = match name.split_once('/') {
            Some((scope, name)) => Component::new("npm", Some(scope), name, &version),
            None => Component::new("npm", None, name, &version),
        };
        Some(Component { hash: locked.integrity.as_deref().and_then(hash), ..component })
    };
    lock.packages.into_iter().filter_map(component).collect()
}

/// `sha512-BASE64`, as browsers have it; there may be several.
fn hash(integrity: &str) -> Option<Hash> {
    let text = integrity.split_whitespace().find_map(|one| one.strip_prefix("sha512-"))?;
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() == 64)?;
    Some(Hash::Sha512(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_for_development_is_not_there() {
        let sum = STANDARD.encode([0xab; 64]);
        let text = format!(
            r#"{{"name":"app","lockfileVersion":3,"packages":{{"":{{"name":"app","version":"1.0.0"}},
                "node_modules/express":{{"version":"4.19.2","integrity":"sha1-x sha512-{sum}"}},
                "node_modules/express/node_modules/@s/q":{{"version":"1.0.0","integrity":"sha512-short"}},
                "node_modules/alias":{{"name":"real","version":"2.0.0"}},
                "node_modules/mocha":{{"version":"1.0.0","dev":true}},
                "node_modules/own":{{"resolved":"own","link":true}},"own":{{"version":"1.0.0"}}}}}}"#
        );
        let found = of_lock(&text);
        let purls: Vec<&str> = found.iter().map(|one| one.purl.as_str()).collect();
        assert_eq!(purls, ["pkg:npm/real@2.0.0", "pkg:npm/express@4.19.2", "pkg:npm/%40s/q@1.0.0"]);
        assert_eq!(found[1].hash, Some(Hash::Sha512("ab".repeat(64))));
        assert_eq!((found[2].hash.as_ref(), found[2].name.as_str()), (None, "@s/q"));
        assert_eq!(of_lock("nonsense"), []);
        assert_eq!(of_lock(r#"{"lockfileVersion":1,"dependencies":{"a":{"version":"1"}}}"#), []);
    }
}
