//! What an example's Makefile does with its Dockerfile: `make build push`, with a real Docker and a real registry.
//!
//! Of the five it is `hello` that can be built where nothing is reached: it is made of Go's own library alone. The Dockerfiles of the others
//! fetch while they build, `board` from npm's registry and `timestamps`, `uploads` and `users` from that of Rust, and no container here has
//! a way there. What their images would run is built and driven by their own tests.

use std::path::Path;
use std::process::{Command, Stdio};

use bowline_tests::engine::{Engine, Kind};
use bowline_tests::port::Port;
use bowline_tests::registry::Registry;
use bowline_tests::{Bowline, SOON, copy, path, root, text, wait};
use serde_json::{Value, json};

/// A static binary of Go's that serves HTTP has some six; what is beside it in the image is nothing.
const MOST_BYTES: u64 = 12 << 20;

/// As `FROM` of `hello` names it.
const BASE: &str = "golang:1.25.4-bookworm";

/// The machine's Go and a shell, and what these load, below a folder: `$0`. What tests the library, or is the toolchain's own source, is no
/// part of a build. Debian's Go is links.
const STAGE: &str = r#"
set -eu
go=$(go env GOROOT)
mkdir -p "$0/usr/local/go" "$0/bin" "$0/tmp"
chmod 1777 "$0/tmp"
tar -h -C "$go" --exclude='*_test.go' --exclude=testdata --exclude=src/cmd -cf - bin/go go.env VERSION pkg/tool pkg/include src |
  tar -xf - -C "$0/usr/local/go"
cp -L /bin/sh "$0/bin/sh"
for library in $(ldd /bin/sh "$go/bin/go" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*'); do
  mkdir -p "$0$(dirname "$library")"
  cp -L "$library" "$0$library"
done
"#;

/// What the image of that name says of itself, where it is what is pulled.
const SETTINGS: [&str; 5] = [
    "ENV PATH=/usr/local/go/bin:/bin",
    "ENV GOROOT=/usr/local/go",
    "ENV GOPATH=/go",
    "ENV GOCACHE=/tmp/cache",
    "ENV GOTOOLCHAIN=local",
];

fn docker(engine: &Engine, args: &[&str]) -> String {
    let done = engine.command(args).output().expect("docker runs");
    assert!(done.status.success(), "{args:?}: {}", text(&done));
    String::from_utf8(done.stdout).expect("text")
}

/// Gives an engine that can pull nothing the image that the Dockerfile begins from.
fn provide_go(engine: &Engine, stage: &Path) {
    let staged = Command::new("sh").args(["-c", STAGE, path(stage)]).output().expect("a shell runs");
    assert!(staged.status.success(), "{}", text(&staged));
    let mut packs = Command::new("tar").args(["-C", path(stage), "-cf", "-", "."]).stdout(Stdio::piped()).spawn();
    let packs = packs.as_mut().expect("tar runs");
    let changes = SETTINGS.iter().flat_map(|setting| ["--change", setting]);
    let args: Vec<&str> = ["import"].into_iter().chain(changes).chain(["-", BASE]).collect();
    let mut import = engine.command(&args);
    let done = import.stdin(packs.stdout.take().expect("it is piped")).output().expect("docker runs");
    assert!(packs.wait().expect("a child").success() && done.status.success(), "{}", text(&done));
}

fn inspected(engine: &Engine, kind: &str, name: &str, what: &str) -> Value {
    let said = docker(engine, &[kind, "inspect", "--format", &format!("{{{{json {what}}}}}"), name]);
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn an_example_is_built_and_pushed_by_its_makefile_and_runs_as_its_dockerfile_says() {
    let (bowline, engine, registry) = (Bowline::new(), Engine::start(Kind::Docker), Registry::start());
    let folder = bowline.folder("hello");
    copy(&root().join("examples/hello"), &folder);
    let dockerfile = std::fs::read_to_string(folder.join("deploy/Dockerfile")).expect("a Dockerfile");
    assert!(dockerfile.contains(&format!("FROM {BASE} AS build")), "it begins from another image: {dockerfile}");
    provide_go(&engine, &bowline.folder("stage"));

    let repository = format!("{}/acme/hello", registry.host());
    let mut make = Command::new("make");
    make.args(["-C", path(&folder), "build", "push", "ENGINE=docker", "VERSION=1"]).arg(format!("IMAGE={repository}"));
    make.env("DOCKER_HOST", engine.host()).env("DOCKER_CONFIG", bowline.folder("docker")).stdin(Stdio::null());
    let made = make.output().expect("make runs");
    assert!(made.status.success(), "{}", text(&made));
    let tag = format!("{repository}:1");
    assert_eq!(registry.asked("PUT /v2/acme/hello/manifests/1"), 1, "{}", text(&made));

    // What runs is what the registry gives.
    let digests = inspected(&engine, "image", &tag, ".RepoDigests");
    let pinned = digests[0].as_str().expect("what was pushed has a digest").to_owned();
    assert!(text(&made).contains(pinned.split('@').nth(1).expect("a digest")), "`make push` says it: {}", text(&made));
    docker(&engine, &["image", "rm", "--force", &tag]);
    docker(&engine, &["pull", "--quiet", &pinned]);
    let image = |what: &str| inspected(&engine, "image", &pinned, what);
    assert_eq!((image(".Config.User"), image(".Config.Entrypoint")), (json!("65532:65532"), json!(["/hello"])));
    assert_eq!(image(".Config.Healthcheck.Test"), json!(["CMD", "/hello", "health"]));
    let size = image(".Size").as_u64().expect("a number");
    assert!(size < MOST_BYTES, "{size} bytes");

    let port = Port::reserve();
    let (number, token) = (format!("PORT={}", port.number), "AUTH_TOKEN=0123456789abcdef0123456789abcdef");
    let run = ["run", "--detach", "--network", "host", "--env", &number, "--env", token];
    let hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", &pinned];
    let id = docker(&engine, &[&run[..], &hardened].concat());
    let id = id.trim();
    let url = format!("http://127.0.0.1:{}/health", port.number);
    wait("hello answers", SOON, || {
        let asked = Command::new("curl").args(["--silent", "--fail", &url]).output().expect("curl runs");
        asked.status.success().then_some(())
    });
    wait("its health check says so", SOON * 2, || {
        (inspected(&engine, "container", id, ".State.Health.Status") == "healthy").then_some(())
    });
    let pid = inspected(&engine, "container", id, ".State.Pid");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    assert!(status.contains("Uid:\t65532\t65532"), "{status}");
    docker(&engine, &["rm", "--force", id]);
}
