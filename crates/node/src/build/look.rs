//! What a folder is, said before anything is built: for whoever writes a `bowline.toml` for it.

use std::path::{Path, PathBuf};

use bowline_core::app::procfile::{self, Procfile};
use bowline_core::app::{Command, StaticFiles};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::ServiceName;

use super::detect::{self, Plan, Serve, Stack, Written};
use super::source::{self, Listing, Wanted};

/// What `up` makes of a folder that has no `bowline.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// One, or those of a Procfile in its order.
    pub services: Vec<FoundService>,
    /// `release:` of a Procfile: what runs before a release.
    pub release: Option<Command>,
    /// The services are those of a Procfile.
    pub procfile: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundService {
    pub name: ServiceName,
    /// Below the folder; `.` for itself.
    pub dir: String,
    /// `None`: nothing is known of it but its command.
    pub stack: Option<Stack>,
    /// The service whose build it runs in, if that is another one; then `build` and `why` are that one's.
    pub build_of: Option<ServiceName>,
    /// The commands of the build in their order, as they are shown when it runs. Leave `build` out, and these run.
    pub build: Vec<String>,
    /// `None`: static files, or a Python application that `up` finds and serves with a server of its size.
    pub run: Option<Command>,
    pub files: Option<StaticFiles>,
    /// Programs that must be on the machine: `python3`, `node`.
    pub tools: Vec<&'static str>,
    /// What was found and what follows from it, one line each.
    pub why: Vec<String>,
}

/// Looks at a folder as a build would. Reads names and small text files, runs nothing, writes nothing. Blocks on the
/// disk.
///
/// # Errors
/// What `up` would answer, too: a folder that cannot be read or is too large, a manifest that cannot be understood,
/// nothing that can run.
pub fn look(folder: &Path) -> Result<Found, Fault> {
    let wanted = Wanted {
        base: folder.to_owned(),
        dir: ".".to_owned(),
        state_dir: PathBuf::new(),
        without_node_modules: true,
        with_ignore_files: false,
        built: false,
    };
    let listing = source::list(&wanted)?;
    let procfile = read_procfile(&listing)?;
    let Some(builder) = procfile.builder() else {
        let web = ServiceName::new("web").expect("web is a name");
        let services = vec![service(&web, None, &listing)?];
        return Ok(Found { services, release: procfile.release, procfile: false });
    };
    let mut services = Vec::new();
    for (name, run) in &procfile.processes {
        let mut found = service(name, Some(run), &listing)?;
        found.build_of = (name != builder).then(|| builder.clone());
        services.push(found);
    }
    Ok(Found { services, release: procfile.release.clone(), procfile: true })
}

fn read_procfile(listing: &Listing) -> Result<Procfile, Fault> {
    /// Some lines; what is longer is something else.
    const MAX: u64 = 64 << 10;
    let text = listing.read_text(Path::new(procfile::FILE), MAX)?.unwrap_or_default();
    Procfile::parse(&text).map_err(|error| {
        Fault::new(FaultKind::Invalid, error.to_string())
            .hint(format!("mend {}, or write the services into bowline.toml", procfile::FILE))
    })
}

fn service(name: &ServiceName, run: Option<&Command>, listing: &Listing) -> Result<FoundService, Fault> {
    let written = Written { dir: ".", build: None, files: None, run, runtime: None };
    let Plan { stack, steps, serve, notes, .. } = detect::plan(name, &written, listing)?;
    let (run, files) = match serve {
        Serve::AsWritten => (run.cloned(), None),
        Serve::Run(command) => (Some(command), None),
        Serve::Python => (None, None),
        Serve::Files { dir, fallback } => {
            let dir = if dir.as_os_str().is_empty() { ".".to_owned() } else { dir.display().to_string() };
            (None, Some(StaticFiles { dir, fallback, cache: StaticFiles::CACHE }))
        }
    };
    let tools = match stack {
        Some(Stack::Python) => &["python3"][..],
        Some(Stack::JavaScript) => &["node", "npm"],
        Some(Stack::Rust) => &["cargo"],
        Some(Stack::Go) => &["go"],
        Some(Stack::Files) | None => &[],
    };
    let build = steps.into_iter().map(|step| step.shown).collect();
    let tools = tools.to_vec();
    Ok(FoundService {
        name: name.clone(),
        dir: ".".to_owned(),
        stack,
        build_of: None,
        build,
        run,
        files,
        tools,
        why: notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at a folder of these files; gives what was found in the order of [`FoundService`], or the fault's words.
    fn shown(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        match look(folder.path()) {
            Err(fault) => format!("{}; {}", fault.causes.join("; "), fault.hint.unwrap_or_default()),
            Ok(found) => found.services.iter().map(service_shown).collect::<Vec<_>>().join("\n"),
        }
    }

    fn service_shown(found: &FoundService) -> String {
        let stack = found.stack.map_or_else(|| "?".to_owned(), |stack| format!("{stack:?}"));
        let build = match &found.build_of {
            Some(other) => format!("of {other}"),
            None => found.build.join(" && "),
        };
        let served = match (&found.run, &found.files) {
            (Some(run), _) => run.0.clone(),
            (None, Some(files)) => format!("files {} {:?}", files.dir, files.fallback),
            (None, None) => "an application".to_owned(),
        };
        format!("{}: {stack}; {build}; {served}", found.name)
    }

    fn check(files: &[(&str, &str)], expected: &str) {
        let shown = shown(files);
        assert!(shown.contains(expected), "{files:?}:\n{shown}\nis not\n{expected}");
    }

    #[test]
    fn python_is_installed_as_its_manifest_or_lock_says() {
        check(
            &[("requirements.txt", "flask"), ("app.py", "")],
            "web: Python; pip install -r requirements.txt; an application",
        );
        check(&[("app.py", "")], "web: Python; ; an application");
        let project = "[project]\nname = \"x\"\ndependencies = [\"flask>=3\"]\n";
        check(&[("pyproject.toml", project)], "web: Python; pip install 'flask>=3'; an application");
        check(&[("pyproject.toml", project), ("uv.lock", "")], "uv sync --frozen --no-dev; an application");
        let lock = "[[package]]\nname = 'flask'\nversion = '3'\ngroups = ['main']\n";
        let by_hash = "pip install --require-hashes (1 packages of poetry.lock); an application";
        check(&[("pyproject.toml", project), ("poetry.lock", lock)], by_hash);
        let poetry = ("pyproject.toml", "[tool.poetry.dependencies]\nflask = \"^3\"\n");
        check(&[poetry, ("poetry.lock", lock)], by_hash);
        check(&[poetry], "run `poetry lock`");
        check(&[("pyproject.toml", "[tool.ruff]\n"), ("index.html", "")], "web: Files; ; files . None");
        check(&[("pyproject.toml", "project = 1"), ("app.py", "")], "mend pyproject.toml");
        let django = [
            ("requirements.txt", "Django"),
            ("manage.py", "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')"),
            ("shop/settings.py", "STATIC_ROOT = BASE_DIR / 'static'\n"),
        ];
        check(&django, "pip install -r requirements.txt && python manage.py collectstatic --noinput; an application");
    }

    #[test]
    fn javascript_is_installed_by_whoever_locked_it() {
        let start = "{\"scripts\":{\"start\":\"node server.js\"},\"dependencies\":{\"express\":\"5\"}}";
        let with = |lock: &str, text: &str, expected: &str| check(&[("package.json", start), (lock, text)], expected);
        with("package-lock.json", "{}", "web: JavaScript; npm ci --omit=dev --no-audit --no-fund; node server.js");
        with("README", "", "npm install --omit=dev");
        with("pnpm-lock.yaml", "lockfileVersion: '6.0'\n", "npx --yes pnpm@8 install --frozen-lockfile --prod");
        with("yarn.lock", "# yarn lockfile v1\n", "npx --yes yarn@1.22.22 install --frozen-lockfile");
        with("yarn.lock", "__metadata:\n  version: 8\n", "npx --yes @yarnpkg/cli-dist@4 install --immutable");
        with("bun.lock", "", "bun's lock");
        let pinned = "{\"packageManager\":\"pnpm@9.1.0+sha512.abc\",\"scripts\":{\"start\":\"x\"},\"dependencies\":{\"a\":\"1\"}}";
        check(
            &[("package.json", pinned), ("pnpm-lock.yaml", "lockfileVersion: '9.0'")],
            "npx --yes pnpm@9.1.0 install",
        );
    }

    #[test]
    fn scripts_say_whether_it_is_a_server_or_a_site() {
        let with = |scripts: &str, expected: &str| {
            check(
                &[("package.json", &format!("{{\"scripts\":{{{scripts}}}}}")), ("package-lock.json", "{}")],
                expected,
            );
        };
        with(r#""start":"nodemon app.js""#, "node app.js");
        with(r#""start":"nodemon --exec ts-node src/a.ts""#, "; nodemon --exec ts-node src/a.ts");
        with(r#""start":"node a.js","prestart":"x""#, "; npm run start");
        with(
            r#""build":"vite build""#,
            "NODE_ENV=production npm run build && rm -rf node_modules; files dist Some(\"index.html\")",
        );
        with(r#""build":"vite build","start":"vite""#, "files dist");
        with(
            r#""build":"tsc","start":"node dist/a.js""#,
            "npm run build && npm prune --omit=dev --no-audit --no-fund; node dist/a.js",
        );
        with(r#""test":"x""#, "no `start` script");
        let eleventy = "{\"scripts\":{\"build\":\"eleventy\"},\"devDependencies\":{\"@11ty/eleventy\":\"3\"}}";
        check(&[("package.json", eleventy)], "files _site None");
        check(&[("package.json", "{}"), ("server.js", "")], "web: JavaScript; ; node server.js");
        check(&[("package.json", "{"), ("server.js", "")], "mend package.json");
    }

    #[test]
    fn rust_and_go_run_the_program_that_they_make() {
        let package = ("Cargo.toml", "[package]\nname = \"shop\"\n");
        check(&[package, ("src/main.rs", ""), ("Cargo.lock", "")], "cargo build --release --locked -p shop --bins");
        check(&[package, ("src/main.rs", "")], "; target/release/shop");
        check(&[package, ("src/bin/a.rs", ""), ("src/bin/b/main.rs", "")], "several binaries: a, b");
        check(&[package, ("src/bin/a.rs", ""), ("src/bin/web.rs", "")], "; target/release/web");
        check(&[package, ("src/lib.rs", "")], "no binary");
        let workspace = [
            ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\n"),
            ("crates/a/Cargo.toml", "[package]\nname = \"a\"\n"),
            ("crates/a/src/lib.rs", ""),
            ("crates/b/Cargo.toml", "[package]\nname = \"b\"\n[[bin]]\nname = \"serve\"\npath = \"src/main.rs\"\n"),
            ("crates/b/src/main.rs", ""),
        ];
        check(&workspace, "-p b --bins");
        check(&workspace, "; target/release/serve");
        let module = ("go.mod", "module example.com/shop/v2\n\ngo 1.22\n");
        check(
            &[module, ("main.go", "package main\n")],
            "web: Go; go build -trimpath -buildvcs=false -o bin/shop .; bin/shop",
        );
        check(
            &[module, ("shop.go", "package shop\n"), ("cmd/api/main.go", "package main\n")],
            "-o bin/api ./cmd/api; bin/api",
        );
        check(&[module, ("cmd/a/a.go", "package main"), ("cmd/b/b.go", "package main")], "several commands: a, b");
        check(&[module, ("main_test.go", "package main")], "no `package main`");
    }

    #[test]
    fn a_procfile_names_the_services() {
        let files = [("Procfile", "worker: python work.py\nweb: ./serve\n"), ("requirements.txt", "flask")];
        check(&files, "worker: Python; of web; python work.py\nweb: Python; pip install -r requirements.txt; ./serve");
        check(&[("Procfile", "web: ./serve\n")], "web: ?; ; ./serve");
        check(&[("Procfile", "nonsense\n")], "mend Procfile");
    }

    #[test]
    fn nothing_to_run_says_where_else_it_might_be() {
        check(&[("README.md", "")], "looked for Python");
        check(&[("README.md", ""), ("api/go.mod", "module x")], "dir = \"api\"");
    }
}
