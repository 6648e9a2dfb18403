//! What an example's Makefile does with its Dockerfile: `make build push`, with a real Docker and a real registry.
//!
//! No image can be pulled here: what the Dockerfile of `hello` (Go) and that of `board` (Node.js, npm's registry) begin from is made of this
//! machine's. Those of `timestamps`, `uploads` and `users` compile some hundred crates for release, minutes each: what their images would run is
//! built and driven by their own tests.

use std::path::Path;
use std::process::{Command, Stdio};

use bowline_tests::engine::{Engine, Kind};
use bowline_tests::port::Port;
use bowline_tests::registry::Registry;
use bowline_tests::{Bowline, SOON, copy, path, root, set_mode, text, wait};
use serde_json::{Value, json};

/// Which image the Dockerfile of an example begins from, and what becomes of it.
struct Example {
    name: &'static str,
    /// As `FROM` names it.
    base: &'static str,
    /// A script that lays what that image holds below the folder `$0`, by [`HOLDS`].
    stage: &'static str,
    /// What the image of that name says of itself, where it is what is pulled.
    settings: &'static [&'static str],
    /// What its first words are, as one who runs it sees them.
    entrypoint: &'static [&'static str],
    health: &'static str,
    env: &'static str,
    most_bytes: u64,
}

/// A program and what it loads, `hold PROGRAM…`.
const HOLDS: &str = r#"
set -eu
mkdir -p "$0/bin" "$0/tmp"
chmod 1777 "$0/tmp"
lay() {
  mkdir -p "$0$(dirname "$1")"
  [ -e "$0$1" ] || cp -L "$1" "$0$1"
}
hold() {
  for program in "$@"; do
    cp -L "$program" "$0/bin/"
    for library in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*'); do lay "$library"; done
  done
}
hold /bin/sh
"#;

/// Made of Go's own library alone.
const HELLO: Example = Example {
    name: "hello",
    base: "golang:1.25.4-bookworm",
    // What tests the library, or is the toolchain's own source, is no part of a build. Debian's Go is links.
    stage: r#"
go=$(go env GOROOT)
hold "$go/bin/go"
mkdir -p "$0/usr/local/go"
tar -h -C "$go" --exclude='*_test.go' --exclude=testdata --exclude=src/cmd -cf - bin/go go.env VERSION pkg/tool pkg/include src |
  tar -xf - -C "$0/usr/local/go"
rm "$0/bin/go"
"#,
    settings: &[
        "ENV PATH=/usr/local/go/bin:/bin",
        "ENV GOROOT=/usr/local/go",
        "ENV GOPATH=/go",
        "ENV GOCACHE=/tmp/cache",
        "ENV GOTOOLCHAIN=local",
    ],
    entrypoint: &["/hello"],
    health: "/health",
    env: "AUTH_TOKEN=0123456789abcdef0123456789abcdef",
    // A static binary of Go's that serves HTTP has some six; what is beside it in the image is nothing.
    most_bytes: 12 << 20,
};

/// With what its lock file names from npm's registry.
const BOARD: Example = Example {
    name: "board",
    base: "node:22.21.1-bookworm-slim",
    // The authorities of this machine, and what glibc looks for names with.
    stage: r#"
hold "$(command -v node)" /usr/bin/env /usr/bin/install
modules=$(dirname "$(dirname "$(dirname "$(readlink -f "$(command -v npm)")")")")
mkdir -p "$0/lib/node_modules" "$0/usr" "$0/etc/ssl/certs"
ln -s ../bin "$0/usr/bin"
cp -aL "$modules/npm" "$0/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$0/bin/npm"
cp -L /etc/ssl/certs/ca-certificates.crt "$0/etc/ssl/certs/"
for name in /lib/*-linux-gnu/libnss_dns.so.2 /lib/*-linux-gnu/libnss_files.so.2 /lib/*-linux-gnu/libresolv.so.2; do lay "$name"; done
"#,
    settings: &["ENV PATH=/bin", "ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"],
    entrypoint: &["node", "--max-old-space-size=128", "src/main.js"],
    health: "/readyz",
    env: "NODE_ENV=production",
    // All but some two are Node.js itself.
    most_bytes: 160 << 20,
};

/// Docker whose builds have the network of this machine: the engine of the tests has made none.
const DOCKER: &str = r#"#!/bin/sh
verb=$1
shift
[ "$verb" != build ] || set -- --network host "$@"
exec docker "$verb" "$@"
"#;

fn docker(engine: &Engine, args: &[&str]) -> String {
    let done = engine.command(args).output().expect("docker runs");
    assert!(done.status.success(), "{args:?}: {}", text(&done));
    String::from_utf8(done.stdout).expect("text")
}

/// Gives an engine that can pull nothing the image that the Dockerfile begins from.
fn provide(engine: &Engine, example: &Example, stage: &Path) {
    let script = format!("{HOLDS}{}", example.stage);
    let staged = Command::new("sh").args(["-c", &script, path(stage)]).output().expect("a shell runs");
    assert!(staged.status.success(), "{}", text(&staged));
    let mut packs = Command::new("tar").args(["-C", path(stage), "-cf", "-", "."]).stdout(Stdio::piped()).spawn();
    let packs = packs.as_mut().expect("tar runs");
    let changes = example.settings.iter().flat_map(|setting| ["--change", setting]);
    let args: Vec<&str> = ["import"].into_iter().chain(changes).chain(["-", example.base]).collect();
    let mut import = engine.command(&args);
    let done = import.stdin(packs.stdout.take().expect("it is piped")).output().expect("docker runs");
    assert!(packs.wait().expect("a child").success() && done.status.success(), "{}", text(&done));
}

fn inspected(engine: &Engine, kind: &str, name: &str, what: &str) -> Value {
    let said = docker(engine, &[kind, "inspect", "--format", &format!("{{{{json {what}}}}}"), name]);
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn an_example_of_go_is_built_and_pushed_by_its_makefile_and_runs_as_its_dockerfile_says() {
    is_built_pushed_and_runs(&HELLO);
}

#[test]
fn an_example_of_node_is_built_and_pushed_by_its_makefile_and_runs_as_its_dockerfile_says() {
    is_built_pushed_and_runs(&BOARD);
}

fn is_built_pushed_and_runs(example: &Example) {
    let (bowline, engine, registry) = (Bowline::new(), Engine::start(Kind::Docker), Registry::start());
    let folder = bowline.folder(example.name);
    copy(&root().join("examples").join(example.name), &folder);
    let dockerfile = std::fs::read_to_string(folder.join("deploy/Dockerfile")).expect("a Dockerfile");
    assert!(
        dockerfile.contains(&format!("FROM {} AS build", example.base)),
        "it begins from another image: {dockerfile}"
    );
    provide(&engine, example, &bowline.folder("stage"));
    let wrapper = bowline.folder("bin").join("docker");
    std::fs::write(&wrapper, DOCKER).expect("a file of the test");
    set_mode(&wrapper, 0o755);

    let pinned = pushed(&bowline, &engine, &registry, example, &wrapper);
    let image = |what: &str| inspected(&engine, "image", &pinned, what);
    assert_eq!((image(".Config.User"), image(".Config.Entrypoint")), (json!("65532:65532"), json!(example.entrypoint)));
    assert_eq!(image(".Config.Healthcheck.Test")[0], "CMD");
    let size = image(".Size").as_u64().expect("a number");
    assert!(size < example.most_bytes, "{size} bytes");

    let port = Port::reserve();
    let number = format!("PORT={}", port.number);
    let run = ["run", "--detach", "--network", "host", "--env", &number, "--env", example.env];
    let hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", &pinned];
    let id = docker(&engine, &[&run[..], &hardened].concat());
    let id = id.trim();
    let url = format!("http://127.0.0.1:{}{}", port.number, example.health);
    wait("it answers", SOON, || {
        let asked = Command::new("curl").args(["--silent", "--fail", &url]).output().expect("curl runs");
        asked.status.success().then_some(())
    });
    wait("its health check says so", SOON * 2, || {
        (inspected(&engine, "container", id, ".State.Health.Status") == "healthy").then_some(())
    });
    let pid = inspected(&engine, "container", id, ".State.Pid");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    assert!(status.contains("Uid:\t65532\t65532"), "{status}");
    docker(&engine, &["rm", "--force", "--volumes", id]);
}

/// By `make build push`; what is given is by its digest what the registry gives.
fn pushed(bowline: &Bowline, engine: &Engine, registry: &Registry, example: &Example, docker_command: &Path) -> String {
    let repository = format!("{}/acme/{}", registry.host(), example.name);
    let mut make = Command::new("make");
    make.args(["-C", path(&bowline.folder(example.name)), "build", "push", "VERSION=1"]);
    make.arg(format!("ENGINE={}", path(docker_command))).arg(format!("IMAGE={repository}"));
    make.env("DOCKER_HOST", engine.host()).env("DOCKER_CONFIG", bowline.folder("docker")).stdin(Stdio::null());
    let made = make.output().expect("make runs");
    assert!(made.status.success(), "{}", text(&made));
    let tag = format!("{repository}:1");
    assert_eq!(registry.asked(&format!("PUT /v2/acme/{}/manifests/1", example.name)), 1, "{}", text(&made));
    let digests = inspected(engine, "image", &tag, ".RepoDigests");
    let pinned = digests[0].as_str().expect("what was pushed has a digest").to_owned();
    assert!(text(&made).contains(pinned.split('@').nth(1).expect("a digest")), "`make push` says it: {}", text(&made));
    docker(engine, &["image", "rm", "--force", &tag]);
    docker(engine, &["pull", "--quiet", &pinned]);
    pinned
}
