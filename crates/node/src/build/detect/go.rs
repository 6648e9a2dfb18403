//! Go: `go.mod`, and the folder of the main package.

use std::collections::BTreeSet;
use std::path::Path;

use bowline_core::app::Command;
use bowline_core::fault::Fault;

use super::super::source::Listing;
use super::{MAX_MANIFEST, Recipe, Serve, Step, quoted};

pub(super) const FILE: &str = "go.mod";

/// Of several commands, the one that serves is called like this.
const USUAL: [&str; 4] = ["server", "web", "api", "app"];

pub(super) fn recipe(listing: &Listing) -> Result<Recipe, Fault> {
    let text = listing.read_text(Path::new(FILE), MAX_MANIFEST)?.unwrap_or_default();
    let module = module(&text).unwrap_or("app");
    let mut recipe = Recipe { notes: vec![format!("{FILE} → Go, module {module}")], ..Recipe::default() };
    let name = program(module);
    let has_main = |folder: &str| {
        let within = Path::new(folder);
        let sources = listing.files().filter(|path| path.parent() == Some(within) && is_source(path));
        sources.filter_map(|path| listing.read_text(path, MAX_MANIFEST).ok()?).any(|text| is_main(&text))
    };
    let target = if has_main("") {
        Some((".".to_owned(), name.to_owned()))
    } else {
        let commands: BTreeSet<&str> = listing
            .files()
            .filter(|path| path.iter().count() == 3 && path.starts_with("cmd") && is_source(path))
            .filter_map(|path| path.parent()?.file_name()?.to_str())
            .filter(|command| has_main(&format!("cmd/{command}")))
            .collect();
        let usual = || [name].into_iter().chain(USUAL).find(|usual| commands.contains(usual));
        let only = match commands.len() {
            1 => commands.first().copied(),
            _ => usual(),
        };
        if only.is_none() {
            recipe.doubt = Some(doubt(&commands));
        }
        only.map(|command| (format!("./cmd/{command}"), command.to_owned()))
    };
    if let Some((package, program)) = target {
        recipe.notes.push(format!("package main in {package} → bin/{program}"));
        // No `.git` is copied, and that of a folder above says nothing about this one.
        let build =
            format!("go build -trimpath -buildvcs=false -o {} {}", quoted(&format!("bin/{program}")), quoted(&package));
        recipe.steps.push(Step::plain(build));
        recipe.serve = Some(Serve::Run(Command(quoted(&format!("bin/{program}")))));
    }
    Ok(recipe)
}

fn doubt(commands: &BTreeSet<&str>) -> (String, String) {
    let cause = match commands.is_empty() {
        true => format!("{FILE} is there, but no `package main` at its root or in cmd/NAME"),
        false => {
            let names: Vec<&str> = commands.iter().copied().collect();
            format!("cmd/ has several commands: {}", names.join(", "))
        }
    };
    let which = commands.first().unwrap_or(&"NAME");
    (cause, format!("build = \"go build -o bin/{which} ./cmd/{which}\" and run = \"bin/{which}\""))
}

fn is_source(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.ends_with(".go") && !name.ends_with("_test.go")
}

/// `package main` before anything but comments.
fn is_main(text: &str) -> bool {
    let clause = text.lines().map(str::trim).find(|line| line.starts_with("package "));
    clause.is_some_and(|line| line.split_whitespace().nth(1) == Some("main"))
}

fn module(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix("module ")).map(|path| path.trim().trim_matches('"'))
}

/// The last part of a module's path, as `go build` would name it: `example.com/shop/v2` → `shop`.
fn program(module: &str) -> &str {
    let is_version = |part: &str| part.strip_prefix('v').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let mut parts = module.rsplit('/').filter(|part| !part.is_empty());
    let last = parts.next().unwrap_or("app");
    match is_version(last) {
        true => parts.next().unwrap_or(last),
        false => last,
    }
}
