//! Python: what is installed, from `requirements.txt`, a lock of uv or Poetry, or `pyproject.toml`; Django.

use std::path::{Path, PathBuf};

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use serde::Deserialize;
use toml::{Table, Value};

use super::super::requirements::{self, Requirements};
use super::super::source::Listing;
use super::{MAX_MANIFEST, Recipe, Serve, Step, poetry, quoted, unreadable};

const PROJECT: &str = "pyproject.toml";
const UV_LOCK: &str = "uv.lock";
const MANAGE: &str = "manage.py";

const WSGI_FRAMEWORKS: [&str; 8] = ["flask", "django", "bottle", "falcon", "pyramid", "dash", "apiflask", "connexion"];
const ASGI_FRAMEWORKS: [&str; 6] = ["fastapi", "starlette", "quart", "litestar", "sanic", "blacksheep"];

/// Reads its lock. It is taken from the package index into the build's cache, in a version whose options mean what is
/// written here.
const UV: (&str, &str) = ("uv", "uv>=0.13,<1");

/// Whether a manifest says that this is a Python app.
pub(super) fn is_project(listing: &Listing) -> Result<bool, Fault> {
    Ok(listing.has_file(requirements::FILE) || Project::read(listing)?.is_some_and(|p| p.names_dependencies()))
}

/// An application needs its server; a project needs its packages. Only a script without either needs neither.
pub(super) fn needs_venv(listing: &Listing, serve: &Serve) -> bool {
    *serve == Serve::Python || is_project(listing).unwrap_or(true)
}

/// The range of versions that the folder's manifest names, in npm's spelling, and the key.
pub(in super::super) fn demand(listing: &Listing) -> Option<(&'static str, String)> {
    let project = Project::read(listing).ok()??;
    let standard = project.project.as_ref().and_then(|project| project.requires_python.as_deref());
    let poetry = || project.poetry()?.dependencies.get("python")?.as_str();
    match (standard, poetry()) {
        (Some(specifiers), _) => Some(("requires-python of pyproject.toml", comparators(specifiers))),
        (None, Some(range)) => Some(("tool.poetry.dependencies.python of pyproject.toml", comparators(range))),
        (None, None) => None,
    }
}

/// PEP 440's specifiers in npm's words. A version that is left out by name is not looked at.
fn comparators(specifiers: &str) -> String {
    let one = |text: &str| -> Option<String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.starts_with("!=") {
            return None;
        }
        let Some(base) = text.strip_prefix("~=") else { return Some(text.replace("==", "")) };
        // `~=3.10` is `>=3.10, ==3.*`; `~=3.10.1` is `>=3.10.1, ==3.10.*`.
        let series = base.rsplit_once('.').map_or(base, |(series, _)| series);
        Some(format!(">={base} {series}.*"))
    };
    specifiers.split(',').filter_map(one).collect::<Vec<_>>().join(" ")
}

pub(super) fn recipe(name: &ServiceName, listing: &Listing) -> Result<Recipe, Fault> {
    let mut recipe = Recipe { serve: Some(Serve::Python), ..Recipe::default() };
    let project = Project::read(listing)?;
    let names = match (Requirements::read(listing)?, &project) {
        (Some(names), _) => {
            recipe.notes.push(format!("{} → Python", requirements::FILE));
            recipe.steps.push(Step::plain(format!("pip install -r {}", requirements::FILE)));
            names
        }
        (None, Some(project)) if project.names_dependencies() => {
            project.install(listing, &mut recipe)?;
            Requirements::of(&project.dependencies())
        }
        (None, _) => Requirements::default(),
    };
    for (frameworks, kind) in [(&WSGI_FRAMEWORKS[..], "a WSGI"), (&ASGI_FRAMEWORKS[..], "an ASGI")] {
        if let Some(framework) = names.first(frameworks) {
            recipe.notes.push(format!("{framework} is required → {kind} application"));
            break;
        }
    }
    if names.has("django") && listing.has_file(MANAGE) {
        django(name, listing, &names, &mut recipe)?;
    }
    Ok(recipe)
}

/// What matters of `pyproject.toml`.
#[derive(Debug, Deserialize)]
struct Project {
    project: Option<Metadata>,
    tool: Option<Tools>,
    #[serde(rename = "build-system")]
    build_system: Option<Table>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Tools {
    poetry: Option<Poetry>,
}

#[derive(Debug, Deserialize)]
struct Poetry {
    #[serde(default)]
    dependencies: std::collections::BTreeMap<String, Value>,
}

impl Project {
    fn read(listing: &Listing) -> Result<Option<Self>, Fault> {
        let Some(text) = listing.read_text(Path::new(PROJECT), MAX_MANIFEST)? else { return Ok(None) };
        toml::from_str(&text).map(Some).map_err(|error| unreadable(PROJECT, &error))
    }

    fn poetry(&self) -> Option<&Poetry> {
        self.tool.as_ref()?.poetry.as_ref()
    }

    /// Many a `pyproject.toml` only configures a linter.
    fn names_dependencies(&self) -> bool {
        self.project.is_some() || self.poetry().is_some()
    }

    fn dependencies(&self) -> Vec<String> {
        let listed = self.project.iter().flat_map(|project| project.dependencies.clone());
        listed.chain(self.poetry().into_iter().flat_map(|poetry| poetry.dependencies.keys().cloned())).collect()
    }

    /// The packages among them, without what the ranges say.
    fn names(&self) -> Vec<String> {
        let word = |line: &String| {
            line.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).next().unwrap_or("").to_owned()
        };
        self.dependencies().iter().map(word).collect()
    }

    fn install(&self, listing: &Listing, recipe: &mut Recipe) -> Result<(), Fault> {
        if listing.has_file(UV_LOCK) {
            recipe.notes.push(format!("{UV_LOCK} → Python, installed by uv as locked"));
            recipe.steps.push(tool(UV));
            recipe.steps.push(Step {
                shown: "uv sync --frozen --no-dev".to_owned(),
                script: format!(
                    "{}; UV_PROJECT_ENVIRONMENT=\"$VIRTUAL_ENV\" UV_CACHE_DIR=\"$BOWLINE_BUILD_CACHE/uv\" \
                     UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_SYSTEM_CERTS=1 \"$T/bin/uv\" sync \
                     --frozen --no-dev --no-editable --inexact",
                    place(UV)
                ),
            });
        } else if let Some(lock) = listing.read_text(Path::new(poetry::LOCK), MAX_MANIFEST)? {
            let (requirements, count) = poetry::requirements(&lock, &self.names())?;
            recipe.notes.push(format!("{} → Python, installed as locked", poetry::LOCK));
            recipe.steps.push(Step {
                shown: format!("pip install --require-hashes ({count} packages of {})", poetry::LOCK),
                script: format!(
                    "cat > \"$TMPDIR/poetry.txt\" <<'END'\n{requirements}END\npip install --no-deps --require-hashes -r \
                     \"$TMPDIR/poetry.txt\""
                ),
            });
            // A package below `src` is found only when it is installed; others lie where the server starts.
            if listing.has_folder(Path::new("src")) && self.build_system.is_some() {
                recipe.steps.push(Step::plain("pip install --no-deps ."));
            }
        } else if self.project.is_none() {
            return Err(Fault::new(FaultKind::Invalid, format!("{PROJECT} has [tool.poetry] and no {}", poetry::LOCK))
                .caused_by("only Poetry itself reads its ranges of versions")
                .hint("run `poetry lock` and keep the file beside it, or write `build = …` into bowline.toml"));
        } else {
            recipe.notes.push(format!("{PROJECT} → Python"));
            recipe.notes.push(format!(
                "no lock beside {PROJECT} → the newest versions that fit are taken; `uv lock` writes one to commit"
            ));
            recipe.steps.extend(self.unlocked());
        }
        Ok(())
    }

    /// A package is installed whole; of a folder that is none, what it depends on.
    fn unlocked(&self) -> Option<Step> {
        let dependencies: Vec<String> = self.dependencies().iter().map(|one| quoted(one)).collect();
        match (&self.build_system, dependencies.as_slice()) {
            (Some(_), _) => Some(Step::plain("pip install .")),
            (None, []) => None,
            (None, dependencies) => Some(Step::plain(format!("pip install {}", dependencies.join(" ")))),
        }
    }
}

/// Sets `$T` to the tool's folder: one for each version of Python, since its packages may be compiled.
fn place((name, requirement): (&str, &str)) -> String {
    let wanted: String = requirement.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    format!(
        "T=\"$BOWLINE_BUILD_CACHE/tools/{name}-{wanted}-$(python -c 'import sys; print(\"%d.%d\" % \
         sys.version_info[:2])')\""
    )
}

/// Puts it there, whole or not at all.
fn tool(which: (&str, &str)) -> Step {
    let requirement = which.1;
    Step {
        shown: format!("pip install '{requirement}' (for the build only)"),
        script: format!(
            "{}; [ -d \"$T\" ] || {{ rm -rf \"$T.new\" && pip install --quiet --target \"$T.new\" '{requirement}' && mv \
             \"$T.new\" \"$T\"; }}",
            place(which)
        ),
    }
}

/// Static files are collected; what makes Django answer 400 or serve no styles is said before anyone wonders.
fn django(name: &ServiceName, listing: &Listing, names: &Requirements, recipe: &mut Recipe) -> Result<(), Fault> {
    let manage = listing.read_text(Path::new(MANAGE), MAX_MANIFEST)?.unwrap_or_default();
    let Some(module) = settings_module(&manage) else { return Ok(()) };
    recipe.notes.push(format!("{MANAGE} → Django, settings {module}"));
    let base = module.replace('.', "/");
    let files = [PathBuf::from(format!("{base}.py")), Path::new(&base).join("__init__.py")];
    let Some(settings) = files.iter().find_map(|path| listing.read_text(path, MAX_MANIFEST).transpose()).transpose()?
    else {
        return Ok(());
    };
    if assigned(&settings, "STATIC_ROOT").is_some() {
        recipe.notes.push("STATIC_ROOT is set → static files are collected".to_owned());
        recipe.steps.push(Step::plain(COLLECT));
        if !names.has("whitenoise") {
            recipe.notes.push(
                "nothing serves STATIC_ROOT when DEBUG is off: add whitenoise, or a static service with a route"
                    .to_owned(),
            );
        }
    }
    let is_open = |hosts: &str| hosts.contains("'*'") || hosts.contains("\"*\"") || hosts.contains("localhost");
    if let Some(hosts) = assigned(&settings, "ALLOWED_HOSTS").filter(|hosts| hosts.starts_with('[') && !is_open(hosts))
    {
        recipe.notes.push(format!(
            "ALLOWED_HOSTS = {hosts}: when DEBUG is off, Django answers 400 to every other host; here {name} is asked as \
             APP.localhost, so add \".localhost\""
        ));
    }
    Ok(())
}

/// The command whose failure gets a hint of its own.
pub(in super::super) const COLLECT: &str = "python manage.py collectstatic --noinput";

/// `os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")`
fn settings_module(manage: &str) -> Option<String> {
    let rest = manage.split("DJANGO_SETTINGS_MODULE").nth(1)?;
    let rest = rest.split_once(',')?.1.trim_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let module = rest[1..].split(quote).next()?;
    let is_path = !module.is_empty() && module.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    is_path.then(|| module.to_owned())
}

/// What stands right of `name =` on one line at the top level.
fn assigned<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
    lines.map(|value| value.split(" #").next().unwrap_or(value).trim()).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_as_manage_names_them() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(settings_module(text).as_deref(), expected, "{text}");
        check("os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')", Some("shop.settings"));
        check("os.environ.setdefault(\n    \"DJANGO_SETTINGS_MODULE\",\n    \"a.b.c\",\n)", Some("a.b.c"));
        check("os.environ.setdefault('DJANGO_SETTINGS_MODULE', MODULE)", None);
        check("import os", None);
    }

    #[test]
    fn values_are_those_of_the_last_line_that_sets_them() {
        let check = |text, expected| assert_eq!(assigned(text, "STATIC_ROOT"), expected, "{text}");
        check("STATIC_ROOT = BASE_DIR / 'x'  # where", Some("BASE_DIR / 'x'"));
        check("STATIC_ROOT='a'\nSTATIC_ROOT = 'b'\n", Some("'b'"));
        check("    STATIC_ROOT = 'a'\n", None);
        check("STATIC_ROOT_OF = 'a'\n", None);
    }
}
