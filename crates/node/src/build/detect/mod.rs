//! What a folder is, how it is built and how it is served: decided from names and texts, before anything runs.
//!
//! `up` and `look` decide here, so that what one shows is what the other does.

mod go;
pub(super) mod javascript;
mod poetry;
pub(super) mod python;
mod rust;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bowline_core::app::{Command, Origin, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use sha2::Sha256;

use super::interpreter;
use super::source::{self, Listing};

/// A manifest is read whole; what is longer is something else.
const MAX_MANIFEST: u64 = 4 << 20;

/// Everything about a build that its digest covers, besides the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// `None`: nothing but what the file says.
    pub stack: Option<Stack>,
    /// A virtual environment is made, of an interpreter like this.
    pub python: Option<interpreter::Wanted>,
    /// Another runtime that must be there in this version.
    pub tool: Option<Tool>,
    pub steps: Vec<Step>,
    pub serve: Serve,
    /// Variables of the instance that the stack expects.
    pub env: BTreeMap<String, String>,
    /// Folders below the app's that its commands are in.
    pub bins: Vec<PathBuf>,
    /// What was found and why, one line each.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stack {
    Python,
    JavaScript,
    Rust,
    Go,
    /// Files that are served as they are.
    Files,
}

/// `node`, `20`: a program that says this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    pub name: String,
    /// Empty: any.
    pub version: String,
    /// Instances run it: their users must reach it. Otherwise only the build does.
    pub at_run: bool,
}

/// One command of a build, run by `/bin/sh -c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// As it is shown to people.
    pub shown: String,
    pub script: String,
}

impl Step {
    /// A command that could be written as `build`.
    pub(super) fn plain(command: impl Into<String>) -> Self {
        let command = command.into();
        Self { shown: command.clone(), script: command }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.shown == self.script
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Serve {
    /// `run` of each service.
    AsWritten,
    Run(Command),
    /// Below the source's root; and what is served where no file matches.
    Files {
        dir: PathBuf,
        fallback: Option<String>,
    },
    /// An application object that is still to be found in the source.
    Python,
}

impl Plan {
    pub(super) fn feed(&self, hash: &mut Sha256) {
        let mut field = |text: &str| source::field(hash, text.as_bytes());
        for step in &self.steps {
            field(&step.script);
        }
        match &self.serve {
            Serve::AsWritten => field("as written"),
            Serve::Run(command) => field(&format!("run {}", command.0)),
            Serve::Files { dir, fallback } => field(&format!("files {} {fallback:?}", dir.display())),
            Serve::Python => field("python"),
        }
        field(if self.python.is_some() { "venv" } else { "" });
    }
}

/// What one stack makes of a folder.
#[derive(Debug, Clone, Default)]
struct Recipe {
    steps: Vec<Step>,
    /// `None`: it can be built, but what runs must be written; the reason is the fault.
    serve: Option<Serve>,
    /// Why `serve` is `None`: what was found, and what to write.
    doubt: Option<(String, String)>,
    env: BTreeMap<String, String>,
    bins: Vec<PathBuf>,
    notes: Vec<String>,
}

/// The folder of a service and what is written about its build.
#[derive(Debug)]
pub(super) struct Written<'s> {
    pub dir: &'s str,
    pub build: Option<&'s Command>,
    /// `static.dir`.
    pub files: Option<&'s str>,
    pub run: Option<&'s Command>,
    pub runtime: Option<&'s str>,
}

impl<'s> Written<'s> {
    /// # Errors
    /// What this engine does not build, naming the key. `BuildOf` must have been followed.
    pub(super) fn of(name: &ServiceName, service: &'s Service) -> Result<Self, Fault> {
        let (dir, build, files) = match &service.origin {
            Origin::Folder { dir, build } => (dir, build, None),
            Origin::Static { dir, build, files } => (dir, build, Some(files.dir.as_str())),
            Origin::Image(_) => return Err(unsupported(name, "image")),
            Origin::Dockerfile { .. } => return Err(unsupported(name, "dockerfile")),
            Origin::BuildOf(other) => {
                return Err(Fault::new(
                    FaultKind::Invalid,
                    format!("service {name} is built by {other}, which is built by no folder"),
                ));
            }
        };
        Ok(Self { dir, build: build.as_ref(), files, run: service.run.as_ref(), runtime: service.runtime.as_deref() })
    }

    /// A command that installs what it needs by itself.
    pub(super) fn has_build_command(&self) -> bool {
        self.build.is_some_and(|b| !b.0.trim().is_empty())
    }

    /// Whether packages are installed anew, so that those that lie about are left out.
    pub(super) fn installs(&self, base: &Path) -> bool {
        let manifest = base.join(self.dir).join(javascript::FILE);
        self.has_build_command() || (!self.says_no_build() && manifest.is_file())
    }

    fn says_no_build(&self) -> bool {
        self.build.is_some() && !self.has_build_command()
    }
}

fn unsupported(name: &ServiceName, key: &str) -> Fault {
    Fault::new(FaultKind::Invalid, format!("service.{name}.{key} is not supported by the process engine"))
        .caused_by("instances are processes here, not containers")
        .hint(format!("remove `{key}` and write `run = …` (and `build = …` where something must be built first)"))
}

/// Decides. Reads small text files of the source only.
pub(super) fn plan(name: &ServiceName, written: &Written<'_>, listing: &Listing) -> Result<Plan, Fault> {
    let runtime = Runtime::of(name, written.runtime)?;
    let stack = stack(listing, written)?;
    let recipe = match stack {
        Some(Stack::Python) => python::recipe(name, listing)?,
        Some(Stack::JavaScript) => javascript::recipe(name, listing, written.files.is_some())?,
        Some(Stack::Rust) => rust::recipe(name, listing)?,
        Some(Stack::Go) => go::recipe(listing)?,
        Some(Stack::Files) => Recipe {
            serve: Some(Serve::Files { dir: PathBuf::new(), fallback: None }),
            notes: vec!["index.html → static files".to_owned()],
            ..Recipe::default()
        },
        None => Recipe::default(),
    };
    let serve = match (written.files, written.run, recipe.serve) {
        (Some(files), _, _) => Serve::Files { dir: PathBuf::from(files), fallback: None },
        (None, Some(_), _) => Serve::AsWritten,
        (None, None, Some(Serve::Python)) if written.says_no_build() => {
            return Err(Fault::new(FaultKind::Invalid, format!("service {name} is not built, and has no `run`"))
                .caused_by("without a build there is no place to install its server")
                .hint("write `run = …`, or have it built: without --artifact and `build = \"\"`"));
        }
        (None, None, Some(serve)) => serve,
        (None, None, None) => return Err(undecided(name, stack, recipe.doubt, listing)),
    };
    let builds_itself = written.build.is_none() && (written.files.is_none() || needs_build(written, listing));
    let steps = match written.build {
        Some(command) if written.has_build_command() => vec![Step::plain(command.0.clone())],
        Some(_) => Vec::new(),
        None if builds_itself => recipe.steps,
        None => Vec::new(),
    };
    let has_venv = stack == Some(Stack::Python)
        && !written.says_no_build()
        && (written.files.is_none() || written.has_build_command());
    let (python, tool) = match (runtime, stack) {
        (Runtime::Python(wanted), _) => (Some(wanted), None),
        (Runtime::Tool(tool), _) => (None, Some(tool)),
        (Runtime::Any, Some(Stack::Python)) if has_venv && python::needs_venv(listing, &serve) => {
            (Some(interpreter::Wanted::default()), None)
        }
        (Runtime::Any, Some(Stack::JavaScript)) if !matches!(serve, Serve::Files { .. }) => {
            (None, Some(Tool { name: "node".to_owned(), version: String::new(), at_run: true }))
        }
        (Runtime::Any, _) => (None, None),
    };
    let (env, bins) = (recipe.env, recipe.bins);
    Ok(Plan { stack, python, tool, steps, serve, env, bins, notes: recipe.notes })
}

/// `static = { dir = "dist" }` of a folder that its own `build` script makes it in.
fn needs_build(written: &Written<'_>, listing: &Listing) -> bool {
    written.files.is_some_and(|dir| !listing.has_folder(Path::new(dir))) && listing.has_file(javascript::FILE)
}

/// By its manifest; then by what is lying about.
fn stack(listing: &Listing, written: &Written<'_>) -> Result<Option<Stack>, Fault> {
    let stacks = [
        (python::is_project(listing)?, Stack::Python),
        (listing.has_file(go::FILE), Stack::Go),
        (listing.has_file(rust::FILE), Stack::Rust),
        (listing.has_file(javascript::FILE), Stack::JavaScript),
    ];
    if let Some((_, stack)) = stacks.into_iter().find(|(is, _)| *is) {
        return Ok(Some(stack));
    }
    if listing.has_file("index.html") {
        return Ok(Some(Stack::Files));
    }
    // Python of the machine runs a script that is named; only an application needs an environment for its server.
    let has_python = written.run.is_none() && listing.files().any(|path| path.extension().is_some_and(|x| x == "py"));
    Ok(has_python.then_some(Stack::Python))
}

/// `runtime`, read.
enum Runtime {
    Any,
    Python(interpreter::Wanted),
    Tool(Tool),
}

impl Runtime {
    /// `python 3.11` → an interpreter; any other name → a tool that must say this version.
    fn of(name: &ServiceName, written: Option<&str>) -> Result<Self, Fault> {
        let Some(text) = written else { return Ok(Self::Any) };
        let (tool, version) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        let version = version.trim();
        let is_name = !tool.is_empty() && tool.bytes().all(|b| b.is_ascii_lowercase());
        let wanted = interpreter::Wanted::parse(version);
        match tool {
            _ if !is_name || (!version.is_empty() && wanted.is_none()) => {
                Err(Fault::new(FaultKind::Invalid, format!("service.{name}.runtime = {text:?} is no runtime"))
                    .hint("write a tool and a version: `runtime = \"python 3.11\"`"))
            }
            "python" => Ok(Self::Python(wanted.unwrap_or_default())),
            // What they make needs them no more.
            "go" | "rust" => Ok(Self::Tool(Tool { name: tool.to_owned(), version: version.to_owned(), at_run: false })),
            _ => Ok(Self::Tool(Tool { name: tool.to_owned(), version: version.to_owned(), at_run: true })),
        }
    }
}

/// Files of ecosystems that are known but not built by themselves, and what to write for each.
const KNOWN: [(&str, &str); 6] = [
    (
        "Pipfile",
        "build = \"pip install pipenv && pipenv install --system --deploy\", runtime = \"python 3\" and run = …",
    ),
    ("Gemfile", "build = \"bundle install --path vendor\" and run = \"bundle exec puma -b tcp://0.0.0.0:$PORT\""),
    ("pom.xml", "build = \"mvn -q package\" and run = \"java -jar target/NAME.jar\""),
    ("composer.json", "build = \"composer install --no-dev\" and run = \"php -S 0.0.0.0:$PORT -t public\""),
    ("deno.json", "run = \"deno run --allow-net main.ts\""),
    ("Dockerfile", "run = …, as its CMD says"),
];

/// Nothing is known to run.
fn undecided(name: &ServiceName, stack: Option<Stack>, doubt: Option<(String, String)>, listing: &Listing) -> Fault {
    let root = listing.root.display();
    let fault = Fault::new(FaultKind::Invalid, format!("nothing that can run was found in {root}"));
    if let (Some(_), Some((cause, hint))) = (stack, doubt) {
        return fault.caused_by(cause).hint(format!("write into [service.{name}]: {hint}"));
    }
    match KNOWN.iter().find(|(file, _)| listing.has_file(file)) {
        Some((file, lines)) => fault
            .caused_by(format!("{file} is there, but is not built by itself"))
            .hint(format!("write into [service.{name}]: {lines}")),
        None => {
            let fault = fault.caused_by(
                "looked for Python (requirements.txt, pyproject.toml, a WSGI or ASGI application), package.json, go.mod, \
                 Cargo.toml, a Procfile, and index.html (static files)",
            );
            fault.hint(match elsewhere(listing) {
                Some(dir) => format!("{dir} looks like an app: write into [service.{name}]: dir = \"{dir}\""),
                None => format!("write into [service.{name}]: run = \"./server --port $PORT\", with your own command"),
            })
        }
    }
}

/// The first folder that holds what the root was searched for.
fn elsewhere(listing: &Listing) -> Option<String> {
    const MANIFESTS: [&str; 6] =
        ["requirements.txt", "pyproject.toml", javascript::FILE, go::FILE, rust::FILE, "index.html"];
    let manifest = |path: &&Path| path.iter().count() == 2 && MANIFESTS.iter().any(|name| path.ends_with(name));
    let found = listing.files().find(manifest)?;
    found.parent().map(|dir| dir.display().to_string())
}

/// What a manifest that cannot be read is answered with.
fn unreadable(file: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(FaultKind::Invalid, format!("{file} cannot be read"))
        .source(error)
        .hint(format!("mend {file}, or write `build` and `run` into bowline.toml"))
}

/// Below the source's root, a folder that must be there after the build. `is_built`: something is done to make it.
pub(super) fn served_folder(name: &ServiceName, app: &Path, files: &Path, is_built: bool) -> Result<PathBuf, Fault> {
    let hint = match is_built {
        true => {
            "check the path, the `build` that should make it, and .gitignore (`!DIR` in .bowlineignore brings it back)"
        }
        false => {
            "check the path: nothing is built here, so an artifact must hold it; of a folder that is none, .gitignore may leave it out"
        }
    };
    let missing = |why: &str| {
        Fault::new(FaultKind::Invalid, format!("service.{name}.static.dir = {:?} cannot be served", files.display()))
            .caused_by(why)
            .hint(hint)
    };
    let folder = app.join(files);
    let none = if is_built { "there is no such folder after the build" } else { "there is no such folder" };
    let real = folder.canonicalize().map_err(|_| missing(none))?;
    let app = app.canonicalize().map_err(|e| missing(&e.to_string()))?;
    match real.starts_with(&app) && real.is_dir() {
        true => Ok(folder),
        false => Err(missing("it is not a folder within the service's own")),
    }
}

/// A word for `/bin/sh`.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:+=,^".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
