//! JavaScript: `package.json`, the package manager whose lock lies beside it, and what its scripts say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bowline_core::app::Command;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;
use semver::{Op, Version, VersionReq};
use serde::Deserialize;

use super::super::source::Listing;
use super::{MAX_MANIFEST, Recipe, Serve, Step, quoted, unreadable};

pub(super) const FILE: &str = "package.json";

/// Programs that serve sources to a developer. What is behind an edge is built.
const DEVELOPMENT: [&str; 9] = [
    "vite",
    "react-scripts start",
    "ng serve",
    "vue-cli-service serve",
    "webpack serve",
    "webpack-dev-server",
    "parcel",
    "astro dev",
    "next dev",
];

/// Where a site's tool leaves what it made, if not in `dist`; and whether its pages are each a file of their own.
const TOOLS: [(&str, &str, bool); 9] = [
    ("react-scripts", "build", false),
    ("next", "out", true),
    ("@11ty/eleventy", "_site", true),
    ("gatsby", "public", true),
    ("astro", "dist", true),
    ("vitepress", ".vitepress/dist", true),
    ("@docusaurus/core", "build", true),
    ("@sveltejs/adapter-static", "build", false),
    ("parcel", "dist", false),
];

#[derive(Debug, Deserialize)]
struct Package {
    main: Option<String>,
    #[serde(default)]
    scripts: BTreeMap<String, String>,
    #[serde(default)]
    dependencies: BTreeMap<String, serde_json::Value>,
    #[serde(default, rename = "devDependencies")]
    dev_dependencies: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "packageManager")]
    package_manager: Option<String>,
    engines: Option<serde_json::Value>,
}

/// `is_static`: the file says that what is built is served as files.
pub(super) fn recipe(service: &ServiceName, listing: &Listing, is_static: bool) -> Result<Recipe, Fault> {
    let text = listing.read_text(Path::new(FILE), MAX_MANIFEST)?.unwrap_or_default();
    let package: Package = serde_json::from_str(&text).map_err(|error| unreadable(FILE, &error))?;
    let manager = Manager::of(service, listing, &package)?;
    let mut recipe = Recipe { notes: vec![manager.note()], ..Recipe::default() };
    recipe.serve = match is_static {
        true => None,
        false => serve(listing, &package, &mut recipe.notes),
    };
    let is_site = is_static || matches!(recipe.serve, Some(Serve::Files { .. }));
    let builds = package.scripts.contains_key("build");
    if builds || is_site || !package.all().is_empty() {
        recipe.steps.push(manager.install(builds || is_site));
    }
    if builds {
        recipe.steps.push(Step::plain(format!("NODE_ENV=production {}", runs("build"))));
        recipe.notes.push(format!("script `build` → {}", package.scripts["build"]));
    }
    match is_site {
        // Only what was made is served.
        true => recipe.steps.push(Step::plain("rm -rf node_modules")),
        false if builds => recipe.steps.push(manager.prune()),
        false => {}
    }
    recipe.env.insert("NODE_ENV".to_owned(), "production".to_owned());
    recipe.bins.push(PathBuf::from("node_modules/.bin"));
    if recipe.serve.is_none() {
        recipe.doubt = Some((
            format!("{FILE} is there, but no `start` script, no server.js, and no `build` script"),
            "run = \"node YOUR-SERVER.js\"".to_owned(),
        ));
    }
    Ok(recipe)
}

impl Package {
    fn all(&self) -> BTreeSet<&str> {
        self.dependencies.keys().chain(self.dev_dependencies.keys()).map(String::as_str).collect()
    }

    /// `engines.node`, as written.
    fn engine(&self) -> Option<&str> {
        self.engines.as_ref()?.get("node")?.as_str()
    }
}

/// The range of versions that the folder's manifest names, and the key.
pub(in super::super) fn demand(listing: &Listing) -> Option<(&'static str, String)> {
    let text = listing.read_text(Path::new(FILE), MAX_MANIFEST).ok()??;
    let range = serde_json::from_str::<Package>(&text).ok()?.engine()?.to_owned();
    Some(("engines.node of package.json", range))
}

/// How a version of a runtime stands to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Fit {
    Fits,
    Older,
    Newer,
    /// Nobody reads this range here.
    Unknown,
}

/// Whether `version` is one that a range names, in npm's spelling.
pub(in super::super) fn fit(range: &str, version: &str) -> Fit {
    let Ok(version) = Version::parse(version) else { return Fit::Unknown };
    let alternatives: Option<Vec<VersionReq>> = range.split("||").map(comparators).collect();
    let Some(alternatives) = alternatives else { return Fit::Unknown };
    if alternatives.iter().any(|one| one.matches(&version)) {
        return Fit::Fits;
    }
    let begins_later = |one: &VersionReq| {
        let lower = one.comparators.iter().filter(|c| !matches!(c.op, Op::Less | Op::LessEq));
        lower.map(|c| (c.major, c.minor.unwrap_or(0))).any(|from| from > (version.major, version.minor))
    };
    match alternatives.iter().all(begins_later) {
        true => Fit::Older,
        false => Fit::Newer,
    }
}

/// npm's spelling of a range in cargo's: blanks between comparators are commas, a bare version is meant exactly as far
/// as it is written.
fn comparators(range: &str) -> Option<VersionReq> {
    let range = range.trim();
    if matches!(range, "" | "*" | "x" | "latest" | "node") {
        return Some(VersionReq::STAR);
    }
    if let Some((from, to)) = range.split_once(" - ") {
        return VersionReq::parse(&format!(">={}, <={}", from.trim(), to.trim())).ok();
    }
    let mut joined = range.split_whitespace().collect::<Vec<_>>().join(" ");
    for operator in [">=", "<=", ">", "<", "=", "^", "~"] {
        joined = joined.replace(&format!("{operator} "), operator);
    }
    let each = joined.split(' ').map(|one| {
        let one = one.replace('v', "");
        let is_bare = one.starts_with(|c: char| c.is_ascii_digit()) && !one.contains(['x', 'X', '*']);
        if is_bare { format!("={one}") } else { one }
    });
    VersionReq::parse(&each.collect::<Vec<_>>().join(", ")).ok()
}

fn serve(listing: &Listing, package: &Package, notes: &mut Vec<String>) -> Option<Serve> {
    let builds = package.scripts.contains_key("build");
    let start = package.scripts.get("start").map(|script| script.trim());
    let develops = |script: &str| DEVELOPMENT.iter().any(|tool| is_call(script, tool));
    match start {
        Some(script) if builds && develops(script) => {
            notes.push(format!("script `start` is a development server ({script}) → the site is built and served"));
            return Some(site(package, notes));
        }
        Some(script) => {
            notes.push(format!("script `start` → {script}"));
            return Some(Serve::Run(Command(started(package, script, notes))));
        }
        None => {}
    }
    let own = |file: &str| listing.has_file(file).then(|| file.to_owned());
    if let Some(file) = own("server.js") {
        notes.push("server.js → node server.js, as `npm start` would".to_owned());
        return Some(Serve::Run(Command(format!("node {file}"))));
    }
    if builds {
        notes.push("script `build` and no `start` → a site of static files".to_owned());
        return Some(site(package, notes));
    }
    let main = package.main.as_deref().and_then(own).or_else(|| own("index.js")).or_else(|| own("app.js"))?;
    notes.push(format!("{main} is its main module → node {main}"));
    Some(Serve::Run(Command(format!("node {}", quoted(&main)))))
}

/// The script's own command: a package manager in between would only hide its signals. Hooks around it need one.
fn started(package: &Package, script: &str, notes: &mut Vec<String>) -> String {
    if package.scripts.contains_key("prestart") || package.scripts.contains_key("poststart") {
        return runs("start");
    }
    let Some(rest) = script.strip_prefix("nodemon ") else { return script.to_owned() };
    // Its own options and other programs are not Node's.
    match rest.split_whitespace().next().is_some_and(is_module) {
        true => {
            notes.push("nodemon restarts what a developer changes → node runs it".to_owned());
            format!("node {rest}")
        }
        false => {
            notes.push("nodemon is for developers: say what runs the program with `run`".to_owned());
            script.to_owned()
        }
    }
}

/// A file that Node.js runs by itself.
fn is_module(word: &str) -> bool {
    !word.starts_with('-') && [".js", ".mjs", ".cjs"].iter().any(|end| word.ends_with(end))
}

/// Whether a script calls `tool`: `vite`, `vite --port 3000`, `PORT=3000 vite`, never `vite preview` or `vite-node`.
fn is_call(script: &str, tool: &str) -> bool {
    let words: Vec<&str> = script.split_whitespace().skip_while(|word| word.contains('=')).collect();
    let wanted: Vec<&str> = tool.split(' ').collect();
    let next = words.get(wanted.len()).copied();
    words.starts_with(&wanted) && next.is_none_or(|word| word.starts_with('-') || matches!(word, "dev" | "serve" | "."))
}

fn site(package: &Package, notes: &mut Vec<String>) -> Serve {
    let all = package.all();
    let tool = TOOLS.iter().find(|(tool, _, _)| all.contains(tool));
    let (dir, pages) = tool.map_or(("dist", false), |(_, dir, pages)| (*dir, *pages));
    let fallback = (!pages).then(|| "index.html".to_owned());
    let said = fallback.as_deref().map(|file| format!(", {file} where no file matches")).unwrap_or_default();
    notes.push(match tool {
        Some((tool, _, _)) => format!("{tool} → served from {dir}{said}"),
        None => format!("served from {dir}{said}"),
    });
    Serve::Files { dir: PathBuf::from(dir), fallback }
}

/// Who installs. Others than npm are called in their exact version by `npx`, which keeps them in npm's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Manager {
    kind: Kind,
    /// As npm would name it: `pnpm@9.1.0`.
    package: String,
    /// `None`: nothing is pinned.
    lock: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Npm,
    YarnClassic,
    Yarn,
    Pnpm,
}

const NPM_LOCKS: [&str; 2] = ["npm-shrinkwrap.json", "package-lock.json"];
const YARN_LOCK: &str = "yarn.lock";
const PNPM_LOCK: &str = "pnpm-lock.yaml";

/// The last version of yarn before it was rewritten; it gets no more.
const YARN_CLASSIC: &str = "yarn@1.22.22";

impl Manager {
    fn of(service: &ServiceName, listing: &Listing, package: &Package) -> Result<Self, Fault> {
        let wanted = package.package_manager.as_deref().and_then(|text| text.split_once('@'));
        let wanted = wanted.map(|(name, version)| (name, version.split('+').next().unwrap_or(version)));
        let pinned = |name: &str| wanted.filter(|(known, _)| *known == name).map(|(_, version)| version);
        if listing.has_file(PNPM_LOCK) {
            let text = listing.read_text(Path::new(PNPM_LOCK), MAX_MANIFEST)?.unwrap_or_default();
            let version = pinned("pnpm").unwrap_or_else(|| pnpm_of(&text));
            return Ok(Self { kind: Kind::Pnpm, package: format!("pnpm@{version}"), lock: Some(PNPM_LOCK) });
        }
        if listing.has_file(YARN_LOCK) {
            let text = listing.read_text(Path::new(YARN_LOCK), MAX_MANIFEST)?.unwrap_or_default();
            let lock = Some(YARN_LOCK);
            return Ok(match (text.contains("# yarn lockfile v1"), pinned("yarn")) {
                (true, None) => Self { kind: Kind::YarnClassic, package: YARN_CLASSIC.to_owned(), lock },
                (true, Some(v)) if v.starts_with("1.") => {
                    Self { kind: Kind::YarnClassic, package: format!("yarn@{v}"), lock }
                }
                (_, pinned) => {
                    let version = pinned.unwrap_or("4");
                    Self { kind: Kind::Yarn, package: format!("@yarnpkg/cli-dist@{version}"), lock }
                }
            });
        }
        let lock = NPM_LOCKS.into_iter().find(|lock| listing.has_file(lock));
        if lock.is_none() && (listing.has_file("bun.lock") || listing.has_file("bun.lockb")) {
            return Err(Fault::new(FaultKind::Invalid, format!("service {service} is locked by bun"))
                .caused_by("bun's lock says nothing to npm, yarn or pnpm")
                .hint(
                    "write `build = \"bun install --frozen-lockfile\"` and `run = …`, with bun installed for all users",
                ));
        }
        Ok(Self { kind: Kind::Npm, package: "npm".to_owned(), lock })
    }

    fn note(&self) -> String {
        match (self.kind, self.lock) {
            (Kind::Npm, Some(lock)) => format!("{FILE}, {lock} → Node.js, installed by npm as locked"),
            (Kind::Npm, None) => {
                format!(
                    "{FILE} without a lock → Node.js; the newest versions that fit are taken: commit package-lock.json"
                )
            }
            (Kind::YarnClassic | Kind::Yarn | Kind::Pnpm, lock) => {
                format!("{FILE}, {} → Node.js, installed by {} as locked", lock.unwrap_or_default(), self.package)
            }
        }
    }

    fn called(&self) -> String {
        match self.kind {
            Kind::Npm => "npm".to_owned(),
            // What Node.js finds by itself is installed, not what only yarn would find.
            Kind::Yarn => format!("YARN_NODE_LINKER=node-modules YARN_ENABLE_TELEMETRY=0 npx --yes {}", self.package),
            Kind::YarnClassic | Kind::Pnpm => format!("npx --yes {}", self.package),
        }
    }

    /// `with_tools`: those that only a build needs, too.
    fn install(&self, with_tools: bool) -> Step {
        let called = self.called();
        Step::plain(match (self.kind, self.lock) {
            (Kind::Npm, lock) => {
                let verb = if lock.is_some() { "ci" } else { "install" };
                let which = if with_tools { "--include=dev" } else { "--omit=dev" };
                format!("{called} {verb} {which} --no-audit --no-fund")
            }
            (Kind::YarnClassic, _) => {
                format!("{called} install --frozen-lockfile --non-interactive --production={}", !with_tools)
            }
            (Kind::Yarn, _) if with_tools => format!("{called} install --immutable"),
            (Kind::Yarn, _) => format!("{called} install --immutable && {}", self.focus()),
            (Kind::Pnpm, _) => {
                let which = if with_tools { " --prod=false" } else { " --prod" };
                format!("{called} install --frozen-lockfile{which}")
            }
        })
    }

    fn focus(&self) -> String {
        format!("{} workspaces focus --all --production", self.called())
    }

    /// Takes away what only the build needed.
    fn prune(&self) -> Step {
        let called = self.called();
        Step::plain(match self.kind {
            Kind::Npm => format!("{called} prune --omit=dev --no-audit --no-fund"),
            Kind::YarnClassic => {
                format!("{called} install --frozen-lockfile --non-interactive --production=true --ignore-scripts")
            }
            Kind::Yarn => self.focus(),
            Kind::Pnpm => format!("CI=true {called} prune --prod"),
        })
    }
}

/// Whoever installed: all of them read `scripts` alike, and npm is there when it runs, too.
fn runs(script: &str) -> String {
    format!("npm run {script}")
}

/// The major version of pnpm that wrote a lock and reads it without changing it.
fn pnpm_of(lock: &str) -> &'static str {
    let version = lock.lines().find_map(|line| line.strip_prefix("lockfileVersion:")).unwrap_or_default();
    let version = version.trim().trim_matches(['\'', '"']);
    match version.split('.').next() {
        Some("5") => "7",
        Some("6") => "8",
        Some(_) | None => "10",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_servers_are_known_by_how_they_are_called() {
        let check = |script: &str, expected: bool| {
            assert_eq!(DEVELOPMENT.iter().any(|tool| is_call(script, tool)), expected, "{script}");
        };
        check("vite", true);
        check("vite --port 3000", true);
        check("PORT=3000 react-scripts start", true);
        check("next dev", true);
        check("next start", false);
        check("vite preview --port $PORT", false);
        check("vite-node server.ts", false);
        check("node server.js", false);
    }

    #[test]
    fn ranges_are_read_as_npm_reads_them() {
        let check = |range, expected| assert_eq!(fit(range, "20.11.1"), expected, "{range}");
        for fits in
            ["*", "", ">=18", ">= 18 < 21", "20", "20.x", "^18 || ^20", "18 - 22", "v20.11.1", "~20.11", ">=20.0.0"]
        {
            check(fits, Fit::Fits);
        }
        for older in [">=22", "22.x", "^21 || ^22", "20.12"] {
            check(older, Fit::Older);
        }
        for newer in ["18", "18.x", ">=16 <19", "^18", "20.10"] {
            check(newer, Fit::Newer);
        }
        check("lts/iron", Fit::Unknown);
    }

    #[test]
    fn the_lock_says_which_pnpm_wrote_it() {
        let check = |lock, expected| assert_eq!(pnpm_of(lock), expected, "{lock}");
        check("lockfileVersion: '9.0'\n", "10");
        check("lockfileVersion: '6.0'\n", "8");
        check("lockfileVersion: 5.4\n", "7");
    }
}
