//! Folders that know nothing of Bowline, one of each stack: built and run by what lies in them, and left as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cage::nothing_is_unenforced;
use bowline_tests::client::curl;
use bowline_tests::port::Port;
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, text, wait};

/// All files below a folder with what they hold.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a folder of a test").map(|entry| entry.expect("its entry")) {
            match entry.file_type().expect("its kind").is_dir() {
                true => open.push(entry.path()),
                false => drop(found.insert(entry.path(), std::fs::read(entry.path()).expect("its content"))),
            }
        }
    }
    found
}

/// `up` of a fixture says these, and each path answers with 200 and this text; the folder stays as it was, and a second
/// `up` builds nothing.
fn check(name: &str, fixture: &str, says: &[&str], answers: &[(&str, &str)]) -> (Bowline, PathBuf) {
    let bowline = Bowline::new();
    let folder = bowline.app(name, fixture);
    let before = content(&folder);
    let path = folder.to_str().expect("UTF-8");
    let first = bowline.run(&["up", path, "--detach", "--http", "0", "--https", "0", "--admin", "0"]);
    let said = text(&first);
    assert!(first.status.success(), "{said}");
    for words in says {
        assert!(said.contains(words), "{words:?} is not said:\n{said}");
    }
    let up = Up::start(&bowline, &folder, SOON);
    assert_eq!(up.ready["cached"], true);
    for (path, expected) in answers {
        let answer = curl(&bowline.ca(), &format!("{}{path}", up.https()), &[]);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.text().contains(expected), "{path}: {}", answer.text());
    }
    assert_eq!(content(&folder), before, "the folder was changed");
    nothing_is_unenforced(&bowline, name);
    drop(up);
    (bowline, folder)
}

fn commands(bowline: &Bowline, app: &str) -> Vec<String> {
    bowline.processes_of(app).iter().map(|process| process.arguments().join(" ")).collect()
}

#[test]
fn python_locked_by_uv() {
    let says = ["uv.lock → Python", "uv sync --frozen", "gunicorn>=23,<24 is added", "[service.web]"];
    check("stack-uv", "python-uv", &says, &[("/", "hello from bottle 0.13.4")]);
}

#[test]
fn python_locked_by_poetry() {
    let says = ["poetry.lock → Python", "--require-hashes (1 packages"];
    check("stack-poetry", "python-poetry", &says, &[("/", "hello from bottle 0.13.4")]);
}

#[test]
fn an_asgi_application_gets_a_server() {
    let says = ["starlette is required → an ASGI application", "uvicorn>=0.30,<1 is added"];
    let (bowline, _) = check("stack-asgi", "python-asgi", &says, &[("/", "hello from ASGI")]);
    let servers = commands(&bowline, "stack-asgi");
    assert!(servers.iter().any(|line| line.contains("uvicorn") && line.contains("--workers")), "{servers:?}");
}

#[test]
fn django_with_its_static_files() {
    let says =
        ["manage.py → Django, settings shop.settings", "$ python manage.py collectstatic", "shop.wsgi:application"];
    let answers = [("/", "hello from Django"), ("/static/style.css", "teal")];
    check("stack-django", "django", &says, &answers);
}

#[test]
fn node_installed_by_npm() {
    let says = ["package-lock.json → Node.js", "npm ci --omit=dev", "run = \"node server.js\""];
    let (bowline, _) = check("stack-npm", "node-npm", &says, &[("/", "hello after 1m")]);
    let servers = commands(&bowline, "stack-npm");
    assert!(servers.iter().all(|line| !line.contains("npm")), "nothing stands between: {servers:?}");
}

#[test]
fn node_installed_by_yarn() {
    let says = ["yarn.lock → Node.js", "npx --yes yarn@1.22.22 install --frozen-lockfile"];
    check("stack-yarn", "node-yarn", &says, &[("/", "hello after 1m")]);
}

#[test]
fn node_installed_by_pnpm() {
    let says = ["pnpm-lock.yaml → Node.js", "pnpm@10 install --frozen-lockfile --prod"];
    check("stack-pnpm", "node-pnpm", &says, &[("/", "hello after 1m")]);
}

#[test]
fn a_site_that_is_built_is_served_for_any_path() {
    let says = ["script `build` and no `start`", "static = { dir = \"dist\", fallback = \"index.html\" }"];
    let answers = [("/", "made 1m ago"), ("/deep/in/the/app", "made 1m ago")];
    let (bowline, _) = check("stack-site", "node-site", &says, &answers);
    assert!(commands(&bowline, "stack-site").is_empty(), "no process");
}

#[test]
fn rust_is_compiled() {
    let says = ["Cargo.toml → Rust", "binary greeter → target/release/greeter", "--locked"];
    check("stack-rust", "rust", &says, &[("/", "hello from Rust")]);
}

#[test]
fn go_is_compiled() {
    let says = ["go.mod → Go, module example.com/greeter", "package main in ./cmd/greeter → bin/greeter"];
    check("stack-go", "go", &says, &[("/", "hello from Go")]);
}

#[test]
fn a_procfile_starts_each_of_its_processes() {
    let says = ["Procfile → services web, worker"];
    let (bowline, _) = check("stack-procfile", "procfile", &says, &[("/", "hello from local/stack-procfile.web")]);
    wait("web and worker run", SOON, || (commands(&bowline, "stack-procfile").len() == 2).then_some(()));
}

#[test]
fn a_written_start_command_still_gets_its_packages() {
    let bowline = Bowline::new();
    let folder = bowline.app("stack-written", "node-npm");
    let version =
        std::process::Command::new("node").arg("--version").output().expect("node is installed by scripts/setup");
    let version = String::from_utf8_lossy(&version.stdout).trim().trim_start_matches('v').to_owned();
    let toml = "[service.web]\nrun = \"node server.js\"\nruntime = \"node VERSION\"\npackages = [\"ca-certificates\"]\nhealth = \"tcp\"\n\
                alive = { path = \"/\" }\n";
    std::fs::write(folder.join("bowline.toml"), toml.replace("VERSION", &version)).expect("a test's file");
    let up = Up::start(&bowline, &folder, BUILD);
    assert!(curl(&bowline.ca(), &up.https(), &[]).text().contains("hello after 1m"));
}

#[test]
fn a_node_that_is_too_old_is_refused() {
    let bowline = Bowline::new();
    let folder = bowline.app("stack-engine", "node-npm");
    let package = std::fs::read_to_string(folder.join("package.json")).expect("the fixture");
    std::fs::write(folder.join("package.json"), package.replace(">=18", ">=4000")).expect("a test's file");
    let said = bowline.fails(&["up", folder.to_str().expect("UTF-8"), "--detach", "--http", "0", "--https", "0"], 1);
    assert!(said.contains("needs a newer Node.js") && said.contains(">=4000") && said.contains("hint"), "{said}");
}

#[test]
fn an_app_that_ignores_its_port_is_told_so() {
    let bowline = Bowline::new();
    let folder = bowline.app("stack-port", "plain");
    let toml = "[service.web]\nrun = \"env PORT=0 python3 -c 'import socket, time; s = socket.create_server((\\\"127.0.0.1\\\", 0)); \
                print(s.getsockname()[1], flush=True); time.sleep(600)'\"\nhealth = { path = \"/\", interval = \"300ms\", grace = \"3s\" }\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
    let said = bowline.fails(&["up", folder.to_str().expect("UTF-8"), "--detach", "--http", "0", "--https", "0"], 1);
    assert!(said.contains("it listens on port") && said.contains("not on $PORT"), "{said}");
}

#[test]
fn a_monorepo_builds_its_folders_apart_and_shares_one_build() {
    let bowline = Bowline::new();
    let folder = bowline.app("stack-monorepo", "monorepo");
    // Whoever listens on a port of its own choice finds it taken on some machine.
    let held = Port::reserve();
    let port = held.number.to_string();
    std::fs::write(folder.join("legacy/port"), &port).expect("a test's file");
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("the fixture").replace("3000", &port);
    std::fs::write(&file, toml.replace("app = \"monorepo\"", "app = \"stack-monorepo\"")).expect("a test's file");
    let up = Up::start(&bowline, &folder, SOON);
    // Its routes are at one host; the first that is named is not that of the root.
    let host = up.https().trim_end_matches("/legacy").to_owned();
    let get = |path: &str| curl(&bowline.ca(), &format!("{host}{path}"), &[]).text();
    let (first, second) = (get("/"), get("/"));
    let visits = |text: &str| text.lines().next().and_then(|line| line.strip_prefix("visits=")?.parse::<u32>().ok());
    assert!(visits(&second) > visits(&first), "it writes beside its code: {first} {second}");
    for line in ["GREETING=hello from .env", "FOLDER=monorepo", "built=api"] {
        assert!(second.lines().any(|known| known == line), "{line:?} in {second}");
    }
    assert!(second.contains("LEGACY_URL=http://") && second.contains("/legacy"), "{second}");
    assert_eq!(get("/legacy"), "legacy");
    wait("the worker says whose build it runs in", SOON, || {
        bowline.json_text(&["logs", "stack-monorepo", "--service", "worker"]).contains("worker of api").then_some(())
    });
    let services = bowline.status()["apps"][0]["services"].clone();
    let of = |name: &str| {
        let all = services.as_array().expect("services");
        all.iter().find(|service| service["name"] == name).unwrap_or_else(|| panic!("{name} in {services}")).clone()
    };
    assert_eq!(of("legacy")["instances"][0]["port"], held.number, "it has the port that it insists on");
    assert!(!folder.join("api/built").exists() && !folder.join("api/var").exists(), "the folder stays as it was");
}
