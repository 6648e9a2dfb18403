//! Finds the application object of a Python source, by reading it with the interpreter's own parser.

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use serde::Deserialize;

use super::serve::Target;
use super::source::{Kind, Source};

/// Prints what it finds in the files named as arguments; runs nothing of them.
pub(super) const SCRIPT: &str = include_str!("target.py");

/// Where applications are by convention, the most telling name first. These are believed; other files only when
/// they leave no doubt.
const USUAL: [&str; 9] =
    ["wsgi.py", "asgi.py", "app.py", "application.py", "main.py", "server.py", "api.py", "run.py", "web.py"];

/// Names of the object, the most telling first.
const NAMES: [&str; 4] = ["application", "app", "api", "server"];

/// So many files are read at most: those of the first two levels of an ordinary app.
const MAX_FILES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Looked {
    path: String,
    #[serde(default)]
    found: Vec<Found>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Found {
    name: String,
    factory: bool,
    kind: Interface,
    /// The class or function that made it known.
    by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Interface {
    Wsgi,
    Asgi,
    /// An object that only holds one: its attribute `server` is the application.
    Dash,
}

/// The object that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub target: Target,
    pub interface: Interface,
    pub note: String,
}

/// The files to read: Python files at the root and one folder deep whose paths are module names, usual names first.
pub(super) fn candidates(source: &Source) -> Vec<String> {
    let mut paths: Vec<String> = source
        .entries
        .iter()
        .filter(|e| matches!(e.kind, Kind::File { .. }))
        .filter_map(|e| e.path.to_str())
        .filter(|path| module(path).is_some() && path.matches('/').count() <= 1)
        .map(str::to_owned)
        .collect();
    paths.sort_by_key(|path| (rank(path), path.clone()));
    paths.truncate(MAX_FILES);
    paths
}

/// `shop/wsgi.py` → `shop.wsgi`; `None` for what cannot be imported or is a test.
fn module(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".py")?;
    let stem = stem.strip_suffix("/__init__").unwrap_or(stem);
    let is_identifier = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let is_other = |part: &str| matches!(part, "tests" | "test" | "conftest" | "setup" | "manage" | "__init__");
    let parts: Vec<&str> = stem.split('/').collect();
    let fits = parts.iter().all(|p| is_identifier(p) && !is_other(p) && !p.starts_with("test_"));
    fits.then(|| parts.join("."))
}

/// Lower is believed earlier: the usual names at the root, then one folder deep, then packages, then the rest.
fn rank(path: &str) -> usize {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let deep = if folder.is_empty() { 0 } else { USUAL.len() };
    match USUAL.iter().position(|usual| *usual == file) {
        Some(at) => at + deep,
        None if file == "__init__.py" => 2 * USUAL.len(),
        None => UNUSUAL,
    }
}

const UNUSUAL: usize = 1000;

/// Takes the object of the most telling file.
pub(super) fn choose(name: &ServiceName, looked: &[Looked]) -> Result<Choice, Fault> {
    let mut unusual = Vec::new();
    for file in looked {
        let Some(choice) = best_of(file) else { continue };
        match rank(&file.path) {
            UNUSUAL => unusual.push(choice),
            _ => return Ok(choice),
        }
    }
    match unusual.len() {
        1 => Ok(unusual.remove(0)),
        0 => Err(none_found(name, looked)),
        _ => {
            let targets: Vec<String> =
                unusual.iter().map(|c| format!("{}:{}", c.target.module, c.target.name)).collect();
            Err(Fault::new(FaultKind::Invalid, format!("service {name} has several applications"))
                .caused_by(format!("found {}", targets.join(", ")))
                .hint(run_line(name, &targets[0])))
        }
    }
}

/// Objects before factories; by name; the last one of a name is what the module ends up with.
fn best_of(file: &Looked) -> Option<Choice> {
    let place = |found: &Found| NAMES.iter().position(|n| *n == found.name).unwrap_or(NAMES.len());
    let found = file.found.iter().rev().min_by_key(|f| (f.kind == Interface::Dash, f.factory, place(f)))?;
    let module = module(&file.path)?;
    let (name, interface) = match found.kind {
        Interface::Dash => (format!("{}.server", found.name), Interface::Wsgi),
        Interface::Wsgi | Interface::Asgi => (found.name.clone(), found.kind),
    };
    let call = if found.factory { "()" } else { "" };
    let note = match found.by.as_str() {
        "factory" => format!("{}: {name}() makes the application", file.path),
        "function" => format!("{}: {name} is an application by its arguments", file.path),
        by => format!("{}: {name} = {by}(…)", file.path),
    };
    let note = format!("{note} → {module}:{name}{call}");
    Some(Choice { target: Target { module, name, factory: found.factory }, interface, note })
}

fn none_found(name: &ServiceName, looked: &[Looked]) -> Fault {
    let mut fault = Fault::new(FaultKind::Invalid, format!("service {name} has no application that can be served"));
    for Looked { path, error, .. } in looked {
        if let Some(error) = error {
            fault = fault.caused_by(format!("{path} is not Python that this interpreter reads: {error}"));
        }
    }
    let files: Vec<&str> = looked.iter().take(8).map(|l| l.path.as_str()).collect();
    let fault = match files.is_empty() {
        true => fault.caused_by("there is no Python file at its root or one folder deep"),
        false => fault.caused_by(format!(
            "looked in {} for `app = Flask(…)` and the like, `create_app()` and WSGI functions",
            files.join(", ")
        )),
    };
    fault.hint(run_line(name, "MODULE:NAME"))
}

fn run_line(name: &ServiceName, target: &str) -> String {
    format!(
        "write into [service.{name}]: run = \"gunicorn --bind 0.0.0.0:$PORT {target}\", and gunicorn into requirements.txt; or run = \"python worker.py\" for what is no web service"
    )
}

/// Reads what `SCRIPT` printed.
pub(super) fn parse(output: &str) -> Result<Vec<Looked>, serde_json::Error> {
    output.lines().map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(path: &str, found: &[(&str, bool, Interface)]) -> Looked {
        let found = found
            .iter()
            .map(|(name, factory, kind)| Found {
                name: (*name).to_owned(),
                factory: *factory,
                kind: *kind,
                by: "x.X".to_owned(),
            })
            .collect();
        Looked { path: path.to_owned(), found, error: None }
    }

    #[test]
    fn the_most_telling_object_is_taken() {
        use Interface::{Asgi, Dash, Wsgi};
        let check = |files: &[Looked], expected: Option<&str>| {
            let choice = choose(&ServiceName::new("web").unwrap(), files).ok();
            let shown = choice
                .map(|c| format!("{}:{}{}", c.target.module, c.target.name, ["", "()"][usize::from(c.target.factory)]));
            assert_eq!(shown.as_deref(), expected);
        };
        check(&[looked("app.py", &[("app", false, Wsgi)])], Some("app:app"));
        check(&[looked("app.py", &[("create_app", true, Wsgi)])], Some("app:create_app()"));
        check(&[looked("app.py", &[("create_app", true, Wsgi), ("thing", false, Asgi)])], Some("app:thing"));
        check(&[looked("app.py", &[("other", false, Wsgi), ("app", false, Wsgi)])], Some("app:app"));
        check(&[looked("app.py", &[("dash", false, Dash)])], Some("app:dash.server"));
        check(&[looked("app.py", &[]), looked("shop/__init__.py", &[("app", false, Wsgi)])], Some("shop:app"));
        check(&[looked("notes.py", &[("app", false, Wsgi)])], Some("notes:app"));
        check(&[looked("a.py", &[("app", false, Wsgi)]), looked("b.py", &[("app", false, Wsgi)])], None);
        check(&[looked("app.py", &[])], None);
    }

    #[test]
    fn only_importable_files_are_modules() {
        let check = |path, expected: Option<&str>| assert_eq!(module(path).as_deref(), expected, "{path}");
        check("shop/wsgi.py", Some("shop.wsgi"));
        check("shop/__init__.py", Some("shop"));
        check("my-app.py", None);
        check("2app.py", None);
        check("test_app.py", None);
        check("tests/app.py", None);
        check("app.txt", None);
    }
}
