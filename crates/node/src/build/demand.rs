//! The version of its runtime that a folder asks for by other files than `bowline.toml`.
//!
//! A range of the app's own manifest is a promise of what it was written for: an older runtime is refused, a newer one is
//! said. A version that a developer's tools were pinned to is a wish: it is taken where it is there, and said where not.

use std::path::Path;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;

use super::detect::javascript::{self, Fit, fit};
use super::detect::python;
use super::interpreter::Wanted;
use super::source::Listing;

/// A line with a version; what is longer is something else.
const MAX_PIN: u64 = 4 << 10;

/// Files of one line, by the tools that read them.
const NODE_PINS: [&str; 2] = [".nvmrc", ".node-version"];
const PYTHON_PINS: [&str; 2] = [".python-version", "runtime.txt"];

/// Compares a runtime that is here with what the folder asks for; `tool` is as `runtime` names it.
///
/// # Errors
/// It is older than what the manifest admits.
pub(super) fn check(
    name: &ServiceName,
    listing: &Listing,
    (tool, version): (&str, &str),
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    let (what, range, pins, parts) = match tool {
        "node" => ("Node.js", javascript::demand(listing), NODE_PINS, 1),
        "python" => ("Python", python::demand(listing), PYTHON_PINS, 2),
        _ => return Ok(()),
    };
    if let Some((key, range)) = range {
        match fit(&range, version) {
            Fit::Fits => {}
            Fit::Newer => notes.push(format!("{key} is {range:?}, and here is the newer {version}")),
            Fit::Unknown => notes.push(format!("{key} is {range:?}, which is not understood; here is {version}")),
            Fit::Older => {
                return Err(Fault::new(FaultKind::Failed, format!("service {name} needs a newer {what}"))
                    .caused_by(format!("{key} is {range:?}, and here is {version}"))
                    .hint(format!("install that {what} where every user can run it, such as /usr/local")));
            }
        }
    }
    if let Some((file, pinned)) = pins.iter().find_map(|file| Some((*file, pin(listing, file)?))) {
        let wanted = &pinned[..pinned.len().min(parts)];
        let here = version.split('.').map(|part| part.parse::<u32>().ok());
        if !wanted.iter().map(|part| Some(*part)).eq(here.take(wanted.len())) {
            let shown: Vec<String> = wanted.iter().map(u32::to_string).collect();
            let shown = shown.join(".");
            notes.push(format!(
                "{file} asks for {what} {shown}, and here is {version}; `runtime = \"{tool} {shown}\"` insists on it"
            ));
        }
    }
    Ok(())
}

/// The Python that a folder would like best: major and minor version.
pub(super) fn preferred_python(listing: &Listing) -> Option<Wanted> {
    let pinned = PYTHON_PINS.iter().find_map(|file| pin(listing, file))?;
    Some(Wanted(pinned.into_iter().take(2).collect()))
}

/// `20.11.1`, `v20`, `python-3.11.4`; `None`: there is no such file, or it names no version (`lts/*`, `system`, `pypy3.9`).
fn pin(listing: &Listing, file: &str) -> Option<Vec<u32>> {
    let text = listing.read_text(Path::new(file), MAX_PIN).ok()??;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let line = line.strip_prefix("python-").or_else(|| line.strip_prefix('v')).unwrap_or(line);
    line.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::{self, Wanted as Folder};
    use super::*;

    /// What is said of a folder with these files, or the fault's first cause.
    fn said(tool: &str, files: &[(&str, &str)], version: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let wanted = Folder {
            base: dir.path().to_owned(),
            dir: ".".to_owned(),
            state_dir: std::path::PathBuf::new(),
            without_node_modules: true,
            with_ignore_files: false,
            built: false,
        };
        let listing = source::list(&wanted).unwrap();
        let (name, mut notes) = (ServiceName::new("web").unwrap(), Vec::new());
        match check(&name, &listing, (tool, version), &mut notes) {
            Ok(()) => notes.join("; "),
            Err(fault) => format!("refused: {}", fault.causes.join("; ")),
        }
    }

    fn check_said(tool: &str, files: &[(&str, &str)], version: &str, expected: &str) {
        let found = said(tool, files, version);
        let holds = if expected.is_empty() { found.is_empty() } else { found.contains(expected) };
        assert!(holds, "{files:?} with {version}: {found:?}, not {expected:?}");
    }

    #[test]
    fn ranges_of_the_manifest_are_promises() {
        let engines = [("package.json", r#"{"engines": {"node": ">=18"}}"#)];
        check_said("node", &engines, "20.1.0", "");
        check_said("node", &engines, "16.1.0", "refused: engines.node of package.json is \">=18\"");
        let python = |range: &str, version: &str, expected: &str| {
            let text = format!("[project]\nname = \"x\"\nrequires-python = \"{range}\"\n");
            check_said("python", &[("pyproject.toml", &text)], version, expected);
        };
        python(">=3.10", "3.11.2", "");
        python(">=3.10,<4", "3.11.2", "");
        python("~=3.10", "3.11.2", "");
        python("~=3.10.1", "3.11.2", "newer 3.11.2");
        python("==3.11.*", "3.11.2", "");
        python(">=3.10, !=3.11.3", "3.11.2", "");
        python(">=3.12", "3.11.2", "refused: requires-python");
        python("<3.10", "3.11.2", "newer 3.11.2");
        python("nonsense", "3.11.2", "not understood");
        let poetry = "[tool.poetry.dependencies]\npython = \"^3.12\"\n";
        check_said("python", &[("pyproject.toml", poetry)], "3.11.2", "refused: tool.poetry.dependencies.python");
    }

    #[test]
    fn pins_of_tools_are_wishes() {
        check_said("node", &[(".nvmrc", "v22.1.0\n")], "20.1.0", "asks for Node.js 22");
        check_said("node", &[(".nvmrc", "20\n")], "20.1.0", "");
        check_said("node", &[(".nvmrc", "lts/*\n")], "20.1.0", "");
        check_said("python", &[(".python-version", "3.12\n")], "3.11.2", "asks for Python 3.12");
        check_said("python", &[("runtime.txt", "python-3.11.9\n")], "3.11.2", "");
        check_said("python", &[(".python-version", "pypy3.9\n")], "3.11.2", "");
    }
}
