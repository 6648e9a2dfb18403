//! What a folder is, how it is built and how it is served: decided from names and texts, before anything runs.

use std::path::{Path, PathBuf};

use bowline_core::app::{Command, Origin, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use sha2::Sha256;

use super::python;
use super::requirements::{self, Requirements};
use super::serve::GUNICORN;
use super::source::{self, Source};

const WSGI_SERVERS: [&str; 2] = ["gunicorn", "waitress"];
const ASGI_FRAMEWORKS: [&str; 6] = ["fastapi", "starlette", "quart", "litestar", "sanic", "blacksheep"];
const WSGI_FRAMEWORKS: [&str; 8] = ["flask", "django", "bottle", "falcon", "pyramid", "dash", "apiflask", "connexion"];

/// Everything about a build that its digest covers, besides the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// A virtual environment is made, of an interpreter like this.
    pub python: Option<python::Wanted>,
    /// Another runtime that must be there in this version: `node`, `20`.
    pub tool: Option<(String, String)>,
    pub steps: Vec<Step>,
    pub serve: Serve,
    /// What was found and why, one line each.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// `pip install`, with the requirements file or without, and these packages besides.
    Pip {
        requirements: bool,
        packages: Vec<String>,
    },
    Shell(String),
}

impl Step {
    /// As it is shown to people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Shell(command) => command.clone(),
            Self::Pip { requirements, packages } => {
                let file = if *requirements { format!(" -r {}", requirements::FILE) } else { String::new() };
                let packages: String = packages.iter().map(|p| format!(" '{p}'")).collect();
                format!("pip install{file}{packages}")
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Serve {
    AsWritten,
    /// Below the source's root.
    Files(PathBuf),
    /// An application object that is still to be found in the source.
    Python,
}

impl Plan {
    pub(super) fn feed(&self, hash: &mut Sha256) {
        for step in &self.steps {
            source::field(hash, step.shown().as_bytes());
        }
        source::field(
            hash,
            match &self.serve {
                Serve::AsWritten => "as written".to_owned(),
                Serve::Files(dir) => format!("files {}", dir.display()),
                Serve::Python => "python".to_owned(),
            }
            .as_bytes(),
        );
        source::field(hash, if self.python.is_some() { b"venv" } else { b"" });
    }
}

/// The folder of a service and what is written about its build.
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
}

fn unsupported(name: &ServiceName, key: &str) -> Fault {
    Fault::new(FaultKind::Invalid, format!("service.{name}.{key} is not supported by the process engine"))
        .caused_by("instances are processes here, not containers")
        .hint(format!("remove `{key}` and write `run = …` (and `build = …` where something must be built first)"))
}

/// Decides. Reads small text files of the source only.
pub(super) fn plan(name: &ServiceName, written: &Written<'_>, source: &Source) -> Result<Plan, Fault> {
    let requirements = Requirements::read(source)?;
    let (runtime, tool) = runtime(name, written.runtime)?;
    let mut plan = Plan { python: None, tool, steps: Vec::new(), serve: Serve::AsWritten, notes: Vec::new() };
    let no_build = written.build.is_some() && !written.has_build_command();

    plan.serve = match (written.files, written.run) {
        (Some(files), _) => Serve::Files(PathBuf::from(files)),
        (None, Some(_)) => Serve::AsWritten,
        (None, None) => detect(name, source, requirements.as_ref(), no_build, &mut plan.notes)?,
    };
    if let (Some(_), true) = (&requirements, written.files.is_none()) {
        plan.notes.push(format!("{} → Python", requirements::FILE));
    }
    let installs = requirements.is_some() && (written.files.is_none() || written.has_build_command()) && !no_build;
    if installs || runtime.is_some() || plan.serve == Serve::Python {
        plan.python = Some(runtime.unwrap_or_default());
    }
    let server = match &plan.serve {
        Serve::Python => server_to_install(requirements.as_ref(), &mut plan.notes),
        Serve::AsWritten | Serve::Files(_) => None,
    };
    let packages: Vec<String> = server.map(str::to_owned).into_iter().collect();
    match written.build {
        Some(command) if written.has_build_command() => {
            plan.steps.push(Step::Shell(command.0.clone()));
            if !packages.is_empty() {
                plan.steps.push(Step::Pip { requirements: false, packages });
            }
        }
        Some(_) => {}
        None if installs || !packages.is_empty() => {
            plan.steps.push(Step::Pip { requirements: installs, packages });
        }
        None => {}
    }
    Ok(plan)
}

/// `python 3.11` → an interpreter; any other name → a tool that must say this version.
#[expect(clippy::type_complexity, reason = "two alternatives, named by the caller at once")]
fn runtime(
    name: &ServiceName,
    written: Option<&str>,
) -> Result<(Option<python::Wanted>, Option<(String, String)>), Fault> {
    let Some(text) = written else { return Ok((None, None)) };
    let (tool, version) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
    let version = version.trim();
    let is_name = !tool.is_empty() && tool.bytes().all(|b| b.is_ascii_lowercase());
    let is_version = version.is_empty() || python::Wanted::parse(version).is_some();
    match tool {
        _ if !is_name || !is_version => {
            Err(Fault::new(FaultKind::Invalid, format!("service.{name}.runtime = {text:?} is no runtime"))
                .hint("write a tool and a version: `runtime = \"python 3.11\"`"))
        }
        "python" => Ok((Some(python::Wanted::parse(version).unwrap_or_default()), None)),
        _ => Ok((None, Some((tool.to_owned(), version.to_owned())))),
    }
}

fn detect(
    name: &ServiceName,
    source: &Source,
    requirements: Option<&Requirements>,
    no_build: bool,
    notes: &mut Vec<String>,
) -> Result<Serve, Fault> {
    let has_python = source.entries.iter().any(|e| e.path.extension().is_some_and(|x| x == "py"));
    let is_python = requirements.is_some() || (has_python && !source.has_file("index.html"));
    if is_python && no_build {
        return Err(Fault::new(FaultKind::Invalid, format!("service {name} has build = \"\" and no `run`"))
            .caused_by("without a build there is no place to install its server")
            .hint("remove `build = \"\"`, or write `run = …`"));
    }
    if is_python {
        return Ok(Serve::Python);
    }
    if source.has_file("index.html") && !source.has_file("package.json") {
        notes.push("index.html → static files".to_owned());
        return Ok(Serve::Files(PathBuf::new()));
    }
    Err(nothing_detected(name, source))
}

/// Files of ecosystems that are known but not built by themselves, and what to write for each.
const KNOWN: [(&str, &str); 9] = [
    ("package.json", "build = \"npm ci\" and run = \"npm start\" (or static = { dir = \"dist\" } for a site)"),
    (
        "pyproject.toml",
        "build = \"pip install .\", runtime = \"python 3\" and run = \"gunicorn --bind 0.0.0.0:$PORT …\"",
    ),
    ("Pipfile", "a requirements.txt (pipenv requirements > requirements.txt)"),
    ("go.mod", "build = \"go build -o bin/app .\" and run = \"bin/app\""),
    (
        "Cargo.toml",
        "build = 'cargo build --release --target-dir \"$BOWLINE_BUILD_CACHE\" && install -D \"$BOWLINE_BUILD_CACHE/release/NAME\" bin/NAME' and run = \"bin/NAME\"",
    ),
    ("Gemfile", "build = \"bundle install --path vendor\" and run = \"bundle exec puma -b tcp://0.0.0.0:$PORT\""),
    ("pom.xml", "build = \"mvn -q package\" and run = \"java -jar target/NAME.jar\""),
    ("composer.json", "build = \"composer install --no-dev\" and run = \"php -S 0.0.0.0:$PORT -t public\""),
    ("Dockerfile", "run = …, as its CMD says"),
];

fn nothing_detected(name: &ServiceName, source: &Source) -> Fault {
    let root = source.root.display();
    let fault = Fault::new(FaultKind::Invalid, format!("nothing that can run was found in {root}"));
    match KNOWN.iter().find(|(file, _)| source.has_file(file)) {
        Some((file, lines)) => fault
            .caused_by(format!("{file} is there, but is not built by itself"))
            .hint(format!("write into [service.{name}]: {lines}")),
        None => fault
            .caused_by(format!(
                "looked for {} and Python files (a WSGI application), and for index.html (static files)",
                requirements::FILE
            ))
            .hint(format!("write into [service.{name}]: run = \"./server --port $PORT\", with your own command")),
    }
}

/// The server that is added, if the app brings none.
fn server_to_install(requirements: Option<&Requirements>, notes: &mut Vec<String>) -> Option<&'static str> {
    let none = Requirements::default();
    let requirements = requirements.unwrap_or(&none);
    let framework = requirements.first(&WSGI_FRAMEWORKS);
    if let Some(framework) = framework {
        notes.push(format!("{framework} in {} → a WSGI application", requirements::FILE));
    }
    if let Some(server) = requirements.first(&WSGI_SERVERS) {
        notes.push(format!("{server} in {} → served by it", requirements::FILE));
        return None;
    }
    if let (None, Some(framework)) = (framework, requirements.first(&ASGI_FRAMEWORKS)) {
        notes.push(format!("{framework} in {} → an ASGI application", requirements::FILE));
        return None;
    }
    notes.push(format!("no server in {} → {GUNICORN} is added", requirements::FILE));
    Some(GUNICORN)
}

/// Below the source's root, a folder that must be there after the build.
pub(super) fn served_folder(name: &ServiceName, app: &Path, files: &Path) -> Result<PathBuf, Fault> {
    let missing = |why: String| {
        Fault::new(FaultKind::Invalid, format!("service.{name}.static.dir = {:?} cannot be served", files.display()))
            .caused_by(why)
            .hint("check the path, the `build` that should make it, and .gitignore (`!DIR` in .bowlineignore brings it back)")
    };
    let folder = app.join(files);
    let real = folder.canonicalize().map_err(|_| missing("there is no such folder after the build".to_owned()))?;
    let app = app.canonicalize().map_err(|e| missing(e.to_string()))?;
    match real.starts_with(&app) && real.is_dir() {
        true => Ok(folder),
        false => Err(missing("it is not a folder within the service's own".to_owned())),
    }
}
