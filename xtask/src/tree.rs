//! Files: their names, their length, and the links of the documents.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// Longest Rust file, without its tests, in lines.
const MAX_FILE: usize = 650;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "helpers", "common", "misc"];

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in tracked(root)? {
        let name = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if EMPTY_NAMES.contains(&name.as_str()) {
            findings.push(format!("{}: name it after what is inside", file.display()));
        }
        let Ok(text) = std::fs::read_to_string(root.join(&file)) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("rs") => findings.extend(length(&file, &text)),
            Some("md") => findings.extend(links(root, &file, &text)),
            Some(_) | None => {}
        }
    }
    Ok(findings)
}

/// Every file that git knows or would add.
fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    anyhow::ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    Ok(text.split('\0').filter(|p| !p.is_empty()).map(PathBuf::from).filter(|p| root.join(p).exists()).collect())
}

fn length(file: &Path, text: &str) -> Option<String> {
    let of_tests = ["tests", "tests.rs", "fuzz"];
    let in_tests = file.components().any(|c| of_tests.iter().any(|t| c.as_os_str() == *t));
    let lines = text.lines().take_while(|l| l.trim() != "#[cfg(test)]").count();
    (!in_tests && lines > MAX_FILE)
        .then(|| format!("{}: {lines} lines without tests; split it by meaning (at most {MAX_FILE})", file.display()))
}

/// Relative links that lead nowhere.
fn links(root: &Path, file: &Path, text: &str) -> Vec<String> {
    let dir = root.join(file).parent().expect("a tracked file lies in a folder").to_owned();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let local = targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.starts_with("mailto:"));
    let path = |target: &str| target.split('#').next().unwrap_or_default().to_owned();
    local
        .filter(|target| !dir.join(path(target)).exists())
        .map(|target| format!("{}: the link {target} leads nowhere", file.display()))
        .collect()
}
