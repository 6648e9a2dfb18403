//! Rust: `Cargo.toml` of a package or a workspace, and the binary that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bowline_core::app::Command;
use bowline_core::fault::Fault;
use bowline_core::id::ServiceName;
use serde::Deserialize;

use super::super::source::Listing;
use super::{MAX_MANIFEST, Recipe, Serve, Step, quoted, unreadable};

pub(super) const FILE: &str = "Cargo.toml";
const LOCK: &str = "Cargo.lock";

/// Of several binaries, the one that serves is called like this.
const USUAL: [&str; 4] = ["server", "web", "api", "app"];

/// More are built than anyone deploys from one folder.
const MAX_BINARIES: usize = 32;

#[derive(Debug, Deserialize)]
struct Manifest {
    package: Option<Package>,
    workspace: Option<Workspace>,
    #[serde(default)]
    bin: Vec<Binary>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    #[serde(rename = "default-run")]
    default_run: Option<String>,
    #[serde(default = "yes")]
    autobins: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
struct Workspace {
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Binary {
    name: String,
}

pub(super) fn recipe(service: &ServiceName, listing: &Listing) -> Result<Recipe, Fault> {
    let mut recipe = Recipe { notes: vec![format!("{FILE} → Rust")], ..Recipe::default() };
    let root = read(listing, Path::new(FILE))?;
    let mut binaries = BTreeMap::new();
    let mut default = None;
    for folder in packages(listing, &root) {
        let manifest = read(listing, &folder.join(FILE))?;
        let Some(package) = &manifest.package else { continue };
        default = default.or_else(|| package.default_run.clone());
        for name in binaries_of(listing, &folder, &manifest, package) {
            binaries.insert(name, package.name.clone());
        }
    }
    let names: Vec<&str> = binaries.keys().map(String::as_str).take(MAX_BINARIES).collect();
    let own = root.package.as_ref().map(|package| package.name.as_str());
    let usual = [Some(service.as_str()), own].into_iter().flatten().chain(USUAL);
    let chosen = match (default, names.as_slice()) {
        (Some(default), _) if names.contains(&default.as_str()) => Some(default),
        (_, [only]) => Some((*only).to_owned()),
        (_, names) => usual.into_iter().find(|usual| names.contains(usual)).map(str::to_owned),
    };
    if names.is_empty() {
        recipe.doubt = Some((
            format!("{FILE} is there, but no binary: no src/main.rs, src/bin or bin table"),
            "run = …".to_owned(),
        ));
        return Ok(recipe);
    }
    let locked = if listing.has_file(LOCK) { " --locked" } else { "" };
    if locked.is_empty() {
        recipe.notes.push(format!("no {LOCK} → the newest versions that fit are taken; commit one to pin them"));
    }
    let built: String =
        names.iter().map(|name| format!(" \"$BOWLINE_BUILD_CACHE\"/target/release/{}", quoted(name))).collect();
    let packages: BTreeSet<&str> = names.iter().filter_map(|name| binaries.get(*name)).map(String::as_str).collect();
    let packages: String = packages.iter().map(|package| format!(" -p {}", quoted(package))).collect();
    // What cargo keeps for the next build stays in the cache; only the programs become part of the release.
    let build = format!(
        "cargo build --release{locked}{packages} --bins --target-dir \"$BOWLINE_BUILD_CACHE/target\" && mkdir -p \
         target/release && cp{built} target/release/"
    );
    recipe.steps.push(Step::plain(build));
    match chosen {
        Some(name) => {
            let program = format!("target/release/{name}");
            recipe.notes.push(format!("binary {name} → {program}"));
            recipe.serve = Some(Serve::Run(Command(quoted(&program))));
        }
        None => {
            let cause = format!("{FILE} makes several binaries: {}", names.join(", "));
            recipe.doubt = Some((cause, format!("run = \"target/release/{}\"", names[0])));
        }
    }
    Ok(recipe)
}

fn read(listing: &Listing, path: &Path) -> Result<Manifest, Fault> {
    let text = listing.read_text(path, MAX_MANIFEST)?.unwrap_or_default();
    toml::from_str(&text).map_err(|error| unreadable(&path.display().to_string(), &error))
}

/// Folders of the packages: the root's own, and the members.
fn packages(listing: &Listing, root: &Manifest) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = root.package.iter().map(|_| PathBuf::new()).collect();
    let Some(workspace) = &root.workspace else { return folders };
    let matches = |folder: &Path, patterns: &[String]| patterns.iter().any(|pattern| fits(folder, Path::new(pattern)));
    let members = listing.files().filter(|path| path.ends_with(FILE)).filter_map(|path| path.parent());
    let members = members.filter(|folder| matches(folder, &workspace.members) && !matches(folder, &workspace.exclude));
    folders.extend(members.map(Path::to_owned));
    folders
}

/// `crates/*` fits `crates/shop`: `*` within one part, as in most manifests.
fn fits(folder: &Path, pattern: &Path) -> bool {
    let pattern: Vec<_> = pattern.components().filter(|c| *c != std::path::Component::CurDir).collect();
    folder.components().count() == pattern.len()
        && folder.components().zip(pattern).all(|(part, wanted)| {
            let (part, wanted) = (part.as_os_str().to_string_lossy(), wanted.as_os_str().to_string_lossy());
            match wanted.split_once('*') {
                Some((before, after)) => {
                    part.len() >= before.len() + after.len() && part.starts_with(before) && part.ends_with(after)
                }
                None => part == wanted,
            }
        })
}

fn binaries_of(listing: &Listing, folder: &Path, manifest: &Manifest, package: &Package) -> Vec<String> {
    let mut names: Vec<String> = manifest.bin.iter().map(|binary| binary.name.clone()).collect();
    if !package.autobins {
        return names;
    }
    // A [[bin]] that only renames src/main.rs does not add to it.
    if names.is_empty() && listing.has_file(folder.join("src/main.rs")) {
        names.push(package.name.clone());
    }
    let within = folder.join("src/bin");
    let files = listing.files().filter_map(|path| path.strip_prefix(&within).ok());
    let more = files.filter_map(|path| match path.iter().count() {
        1 => path.to_str()?.strip_suffix(".rs"),
        2 if path.ends_with("main.rs") => path.parent()?.to_str(),
        _ => None,
    });
    names.extend(more.map(str::to_owned));
    names
}
