//! Chores of the project: `cargo run -p xtask -- tidy` and `… reference`.

mod edges;
mod reference;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = root();
    let done = match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy(&root),
        Some("reference") => reference::write(&root),
        Some(_) | None => Err(anyhow::anyhow!("say `tidy` or `reference`")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs every check and reports all findings at once.
fn tidy(root: &Path) -> anyhow::Result<()> {
    let mut findings = edges::check(root)?;
    findings.extend(tree::check(root)?);
    findings.extend(reference::check(root)?);
    for finding in &findings {
        complain(finding);
    }
    anyhow::ensure!(findings.is_empty(), "tidy: {} findings", findings.len());
    Ok(())
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies in the root").to_owned()
}

#[expect(clippy::print_stderr, reason = "a chore talks to the terminal")]
fn complain(text: &str) {
    eprintln!("{text}");
}
