//! The dependency picture: an edge between the project's crates that is not drawn is a finding, and so is a drawn one
//! that is gone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// `from -> to`, one per line; development dependencies are not edges.
const GOLDEN: &str = "xtask/edges.txt";

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let golden = std::fs::read_to_string(root.join(GOLDEN)).context(GOLDEN)?;
    let drawn: BTreeSet<String> =
        golden.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
    let found = edges(root)?;
    let new = found.difference(&drawn).map(|edge| format!("{GOLDEN}: the edge {edge} is not in the picture"));
    let gone = drawn.difference(&found).map(|edge| format!("{GOLDEN}: the edge {edge} is drawn but not there"));
    Ok(new.chain(gone).collect())
}

fn edges(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut edges = BTreeSet::new();
    for package in packages {
        let from = package["name"].as_str().context("name")?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let to = dependency["name"].as_str().context("dependency")?;
            if names.contains(to) && dependency["kind"].is_null() {
                edges.insert(format!("{} -> {}", short(from), short(to)));
            }
        }
    }
    Ok(edges)
}

fn short(name: &str) -> &str {
    name.strip_prefix("bowline-").unwrap_or(name)
}
