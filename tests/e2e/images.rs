//! `bowline image`: what is built is one digest wherever it is built, goes to a real registry and comes back, and runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bowline_fault_points::Point;
use bowline_tests::engine::{self, Engine};
use bowline_tests::port::Port;
use bowline_tests::registry::Registry;
use bowline_tests::{Bowline, SOON, copy, path, root, set_mode, text, wait};

/// With a login folder of its own, in which nothing of the caller's is.
fn image(bowline: &Bowline, args: &[&str]) -> Command {
    let mut command = bowline.command(&[&["image"], args].concat());
    command.env("DOCKER_CONFIG", bowline.folder("docker")).env_remove("SOURCE_DATE_EPOCH");
    command
}

fn said(bowline: &Bowline, args: &[&str]) -> serde_json::Value {
    let output = image(bowline, &[args, &["--json"]].concat()).output().expect("the binary runs");
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", text(&output)))
}

fn fails(bowline: &Bowline, args: &[&str], code: i32) -> String {
    let output = image(bowline, args).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
    text(&output)
}

fn login(bowline: &Bowline, host: &str, password: &str) -> Output {
    let mut login = image(bowline, &["login", host, "--user", "ann"]);
    let mut login = login.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    login.stdin.take().expect("it is piped").write_all(format!("{password}\n").as_bytes()).expect("it reads");
    login.wait_with_output().expect("it ends")
}

/// An app of one program in C, in a folder of this name, compiled with these words.
fn program(bowline: &Bowline, folder: &str, flags: &str, source: &str) -> PathBuf {
    let folder = bowline.folder(folder);
    std::fs::write(folder.join("main.c"), source).expect("a file of the test");
    let file = format!(
        "app = \"greeter\"\n[service.web]\nbuild = \"cc {flags} -o greet main.c\"\nrun = \"./greet --port 1\"\n"
    );
    std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
    folder
}

#[test]
fn the_example_stands_on_nothing_and_says_what_it_is_made_of() {
    let bowline = Bowline::new();
    let folder = bowline.folder("hello");
    copy(&root().join("examples/hello"), &folder);
    let built = said(&bowline, &["build", path(&folder)]);
    assert_eq!((&built["image"], &built["base"]), (&"localhost/hello-web".into(), &"scratch".into()));
    let shown = said(&bowline, &["inspect", "localhost/hello-web"]);
    assert_eq!(shown["config"]["config"]["Entrypoint"], serde_json::json!(["/app/bin/hello"]));
    let bill = image(&bowline, &["sbom", "localhost/hello-web"]).output().expect("the binary runs");
    let bill: serde_json::Value = serde_json::from_slice(&bill.stdout).expect("a bill of materials");
    let components = bill["components"].as_array().expect("components");
    for made_of in ["pkg:golang/stdlib@", "pkg:deb/debian/ca-certificates@", "pkg:deb/debian/tzdata@"] {
        let is_it = |one: &serde_json::Value| one["purl"].as_str().is_some_and(|purl| purl.starts_with(made_of));
        assert_eq!(components.iter().filter(|one| is_it(one)).count(), 1, "{made_of} in {bill}");
    }
    assert_eq!(components.len(), 3, "{bill}");
}

#[test]
fn two_builds_are_one_digest_that_a_registry_takes_once_and_gives_back() {
    let (one, other, registry) = (Bowline::new(), Bowline::new(), Registry::guarded());
    let name = format!("{}/acme/hello:1", registry.host());
    let source = "int main(void) { return 0; }\n";
    let built = said(&one, &["build", path(&program(&one, "hello", "-static", source)), "--tag", &name]);
    let again = said(&other, &["build", path(&program(&other, "another-folder", "-static", source)), "--tag", &name]);
    assert_eq!((&built["digest"], &built["base"]), (&again["digest"], &"scratch".into()));
    let digest = built["digest"].as_str().expect("a digest");

    let refused = fails(&one, &["push", &name], 3);
    assert!(refused.contains("nobody has logged in") && refused.contains("bowline image login"), "{refused}");
    let wrong = login(&one, registry.host(), "sesam");
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong));
    assert!(fails(&one, &["push", &name], 3).contains("nobody has logged in"), "a wrong password is not kept");
    let right = login(&one, registry.host(), "sesame");
    assert!(right.status.success(), "{}", text(&right));
    assert!(!text(&right).contains("sesame"));
    let pushed = said(&one, &["push", &name]);
    assert_eq!((&pushed["digest"], &pushed["sent"]), (&built["digest"], &3.into()));
    let layers = registry.asked("PUT /v2/acme/hello/blobs/");
    let again = said(&one, &["push", &name]);
    assert_eq!((&again["sent"], &again["there"]), (&0.into(), &3.into()));
    assert_eq!(registry.asked("PUT /v2/acme/hello/blobs/"), layers);

    // By a helper that another machine may have.
    let helper = other.folder("bin").join("docker-credential-vault");
    let script = "#!/bin/sh\nread -r host\n[ \"$1\" = get ] || exit 1\necho \"{\\\"ServerURL\\\":\\\"$host\\\",\\\"Username\\\":\\\"ann\\\",\\\"Secret\\\":\\\"sesame\\\"}\"\n";
    std::fs::write(&helper, script).expect("a file of the test");
    set_mode(&helper, 0o755);
    let config = format!(r#"{{"credHelpers":{{"{}":"vault"}}}}"#, registry.host());
    std::fs::write(other.folder("docker").join("config.json"), config).expect("a file of the test");
    let pinned = format!("{}/acme/hello@{digest}", registry.host());
    let search = format!("{}:{}", path(&other.folder("bin")), std::env::var("PATH").expect("a PATH"));
    let third = Bowline::new();
    std::fs::copy(other.folder("docker").join("config.json"), third.folder("docker").join("config.json"))
        .expect("a copy");
    assert!(fails(&third, &["pull", &pinned], 1).contains("docker-credential-vault cannot be run"));
    let pulled = image(&third, &["pull", &pinned]).env("PATH", &search).output().expect("the binary runs");
    assert!(pulled.status.success(), "{}", text(&pulled));
    let shown = said(&third, &["inspect", &pinned]);
    assert_eq!(shown["config"]["config"]["User"], "65532:65532");
    assert_eq!(shown["config"]["config"]["Entrypoint"], serde_json::json!(["/app/greet", "--port", "1"]));
    assert_eq!((&shown["digest"], &shown["config"]["created"]), (&built["digest"], &"1970-01-01T00:00:00Z".into()));

    let bill = image(&one, &["sbom", &name]).output().expect("the binary runs");
    assert!(text(&bill).contains(digest), "{}", text(&bill));
    let beside = registry.folder().join(format!("acme/hello/_manifests/tags/{}", digest.replace(':', "-")));
    assert!(beside.is_dir(), "a bill of materials lies beside the image");
}

/// Runs what an image starts, in a root of what it holds and with its environment alone: unpacked as an engine does it, layer over
/// layer.
fn run(bowline: &Bowline, archive: &Path) -> String {
    let (parts, into) = (bowline.folder("parts"), bowline.folder("root"));
    let tar = |args: &[&str]| {
        let done = Command::new("tar").args(args).output().expect("tar runs");
        assert!(done.status.success(), "{args:?}: {}", text(&done));
    };
    tar(&["-xf", path(archive), "-C", path(&parts)]);
    let manifest = std::fs::read(parts.join("manifest.json")).expect("what Docker reads");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    for layer in manifest[0]["Layers"].as_array().expect("layers") {
        tar(&["-xzf", path(&parts.join(layer.as_str().expect("a path"))), "-C", path(&into)]);
    }
    let config = std::fs::read(parts.join(manifest[0]["Config"].as_str().expect("a path"))).expect("its settings");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    let words = |key: &str| -> Vec<String> {
        let words = config["config"][key].as_array().into_iter().flatten();
        words.map(|word| word.as_str().expect("text").to_owned()).collect()
    };
    let workdir = config["config"]["WorkingDir"].as_str().expect("a folder");
    let as_app: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["--setgid", "65532", "--setuid", "65532"],
        false => &["--user", "--map-root-user"],
    };
    let mut command = Command::new("unshare");
    command.args(as_app).args(["--root", path(&into), "--wd", workdir]).args(words("Entrypoint"));
    command.stdin(Stdio::null()).env_clear();
    command.envs(words("Env").iter().filter_map(|line| line.split_once('=')));
    text(&command.output().expect("unshare runs"))
}

#[test]
fn a_program_with_libraries_runs_on_what_its_image_holds() {
    let bowline = Bowline::new();
    let source = "#include <stdio.h>\n#include <pwd.h>\nint main(void) { struct passwd *app = getpwuid(65532); puts(app ? app->pw_name : \"nobody\"); return 0; }\n";
    let folder = program(&bowline, "greeter", "", source);
    let archive = bowline.folder("out").join("greeter.tar");
    let built = said(&bowline, &["build", path(&folder), "--archive", path(&archive)]);
    assert_eq!((&built["base"], &built["image"]), (&"machine".into(), &"localhost/greeter-web".into()));
    assert_eq!(run(&bowline, &archive), "app\n", "its own libraries find its own user");
    let bill = image(&bowline, &["sbom", "localhost/greeter-web"]).output().expect("the binary runs");
    assert!(text(&bill).contains("pkg:deb/debian/libc6@"), "{}", text(&bill));
}

#[test]
fn what_cannot_be_an_image_says_why() {
    let bowline = Bowline::new();
    let absent = fails(&bowline, &["push", "registry.example/acme/none:1"], 2);
    assert!(absent.contains("there is no image registry.example/acme/none:1 here"), "{absent}");
    let wrong = fails(&bowline, &["inspect", "Acme/Shop"], 2);
    assert!(wrong.contains("error"), "{wrong}");
    let folder = bowline.folder("nothing");
    let file = "app = \"nothing\"\n[service.web]\nrun = \"no-such-program-anywhere\"\n";
    std::fs::write(folder.join("bowline.toml"), file).expect("a file of the test");
    let nowhere = fails(&bowline, &["build", path(&folder)], 2);
    assert!(nowhere.contains("no-such-program-anywhere"), "{nowhere}");
}

/// Files of an app in a folder of this name.
fn app(bowline: &Bowline, folder: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = bowline.folder(folder);
    for (name, content) in files {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().expect("it has one")).expect("a folder of the test");
        std::fs::write(file, content).expect("a file of the test");
    }
    folder
}

/// Builds it in two states whose paths differ in length, too, with the interpreters that are packages of this machine, and gives
/// the one digest and what the image says when it is run.
fn built_twice(files: &[(&str, &str)]) -> String {
    let one = Bowline::new();
    let other = Bowline::with_state(one.folder(&"far/".repeat(20)).join("state"));
    let digest = |bowline: &Bowline, archive: &Path| {
        let folder = app(bowline, "app", files);
        let args = ["build", path(&folder), "--archive", path(archive), "--json"];
        let cargo = std::env::var("HOME").map(|home| format!("{home}/.cargo/bin")).unwrap_or_default();
        let search = format!("/usr/bin:/bin:/usr/sbin:/sbin:{cargo}");
        let built = image(bowline, &args).env("PATH", search).output().expect("the binary runs");
        assert!(built.status.success(), "{}", text(&built));
        let built: serde_json::Value = serde_json::from_slice(&built.stdout).expect("JSON");
        assert!(!built["notes"].to_string().contains("compiled in"), "{built}");
        built["digest"].as_str().expect("a digest").to_owned()
    };
    let archive = one.folder("out").join("app.tar");
    let again = other.folder("out").join("app.tar");
    assert_eq!(digest(&one, &archive), digest(&other, &again));
    run(&one, &archive)
}

#[test]
fn an_app_of_python_runs_where_its_image_has_it() {
    let said = built_twice(&[
        ("requirements.txt", "gunicorn==23.0.0\n"),
        ("app.py", "import json, ssl\ndef app(environ, start): return []\n"),
        (
            "bowline.toml",
            "app = \"shop\"\n[service.web]\nrun = \"gunicorn --check-config app:app && gunicorn --version && python -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)'\"\n",
        ),
    ]);
    assert!(said.contains("gunicorn (version 23.0.0)"), "{said}");
    assert!(said.ends_with("True\n"), "whom it trusts is where it looks: {said}");
}

#[test]
fn a_program_of_a_package_of_node_runs_in_its_image() {
    let said = built_twice(&[
        (
            "package.json",
            r#"{"name":"shop","version":"1.0.0","scripts":{"start":"greet --all"},"dependencies":{"greet":"file:./greet"}}"#,
        ),
        ("greet/package.json", r#"{"name":"greet","version":"1.0.0","bin":{"greet":"cli.js"}}"#),
        (
            "greet/cli.js",
            "#!/usr/bin/env node\nconsole.log(process.argv.slice(2), Intl.DateTimeFormat('en', {timeZone: 'Europe/Vienna'}).resolvedOptions().timeZone)\n",
        ),
    ]);
    assert_eq!(said, "[ '--all' ] Europe/Vienna\n");
}

#[test]
fn no_path_of_the_state_is_in_a_program_of_rust() {
    let said = built_twice(&[
        (
            "Cargo.toml",
            "[package]\nname = \"teller\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[profile.release]\ndebug = 2\n",
        ),
        ("Cargo.lock", "version = 3\n[[package]]\nname = \"teller\"\nversion = \"1.0.0\"\n"),
        // What a file of its own says under `build` is not lost.
        (".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"told\"]\n"),
        ("src/main.rs", "fn main() { println!(\"{}\", cfg!(told)); }\n"),
    ]);
    assert_eq!(said, "true\n");
}

/// Whatever has a name is whole, and nothing half written stays.
fn is_whole(bowline: &Bowline, names: &[&str]) {
    let listed = image(bowline, &["inspect", "--json"]).output().expect("the binary runs");
    let listed: Vec<serde_json::Value> =
        text(&listed).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for one in &listed {
        let name = one["image"].as_str().expect("a name");
        assert!(names.contains(&name), "{name}");
        let (written, bill) = (bowline.folder("out").join("whole.tar"), image(bowline, &["sbom", name]).output());
        said(bowline, &["load", name, "--archive", path(&written)]);
        assert!(bill.expect("the binary runs").status.success(), "{name} has its bill");
    }
    said(bowline, &["prune"]);
    let halves = Command::new("find").arg(bowline.state().join("images")).args(["-name", ".draft-*"]).output();
    assert_eq!(text(&halves.expect("find runs")), "");
}

#[test]
fn whatever_is_killed_nothing_half_made_looks_whole() {
    let (bowline, registry) = (Bowline::new(), Registry::start());
    let source = "int main(void) { return 0; }\n";
    let folder = program(&bowline, "hello", "-static", source);
    let name = format!("{}/acme/hello:1", registry.host());
    let other = format!("{}/acme/hello:2", registry.host());
    let build = ["build", path(&folder), "--tag", &name];
    let dies = |args: &[&str], point: Point, later: usize| {
        bowline.arm(point, later);
        let died = image(&bowline, args).output().expect("the binary runs");
        assert_eq!(bowline.armed(&[point]), [], "{point} {later} is reached: {}", text(&died));
        assert!(!died.status.success(), "{point} {later}: {}", text(&died));
    };
    // Two layers, the configuration, the manifest.
    for later in 0..4 {
        for point in [Point::BlobWritten, Point::BlobKept] {
            dies(&build, point, later);
            is_whole(&bowline, &[]);
        }
    }
    dies(&build, Point::ImageUnnamed, 0);
    is_whole(&bowline, &[]);
    dies(&build, Point::ImageNamed, 0);
    is_whole(&bowline, &[&name]);
    let digest = said(&bowline, &build)["digest"].clone();
    let push = ["push", name.as_str(), "--as", &other];
    dies(&push, Point::ImagePushing, 0);
    assert!(fails(&bowline, &["pull", &other], 1).contains("is not there"), "no name leads to half an image");
    dies(&push, Point::ImagePushed, 0);
    assert_eq!(said(&bowline, &["push", &name])["sent"], 0, "what is there is not sent again");
    said(&bowline, &["rm", &name]);
    said(&bowline, &["prune"]);
    for later in 0..3 {
        dies(&["pull", &name], Point::BlobWritten, later);
        is_whole(&bowline, &[]);
    }
    let pulled = said(&bowline, &["pull", &name]);
    assert_eq!(pulled["digest"], digest);
}

/// An app that Docker and its like build: a static program and nothing else.
fn by_dockerfile(bowline: &Bowline, more: &str) -> PathBuf {
    let text = format!("FROM scratch\nCOPY greet /greet\nENV MOOD=good\nEXPOSE 9000\n{more}ENTRYPOINT [\"/greet\"]\n");
    let file = "app = \"greeter\"\n[service.web]\ndir = \"web\"\ndockerfile = \"Dockerfile\"\n";
    let folder = app(bowline, "greeter", &[("bowline.toml", file), ("web/Dockerfile", &text)]);
    let source =
        "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"%d\\n\", (int)getuid()); return 0; }\n";
    std::fs::write(bowline.folder("source").join("greet.c"), source).expect("a file of the test");
    let into = folder.join("web/greet");
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-o", path(&into)]).arg(bowline.folder("source").join("greet.c"));
    assert!(compiler.status().expect("cc runs").success());
    folder
}

#[test]
fn a_dockerfile_is_built_by_docker_and_taken_in() {
    let (bowline, engine) = (Bowline::new(), Engine::start(engine::Kind::Docker));
    let folder = by_dockerfile(&bowline, "USER 1234\n");
    let said = |args: &[&str]| {
        let output = image(&bowline, args).env("DOCKER_HOST", engine.host()).output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let build = ["build", path(&folder), "--builder", "docker", "--load", "docker", "--json"];
    let built = said(&build);
    assert_eq!((&built["base"], &built["notes"]), (&"dockerfile".into(), &serde_json::json!([])));
    let shown = said(&["inspect", "localhost/greeter-web", "--json"]);
    let run = &shown["config"]["config"];
    assert_eq!((&run["User"], &run["Entrypoint"]), (&"1234".into(), &serde_json::json!(["/greet"])));
    assert_eq!(run["Labels"]["dev.bowline.app"], "greeter");
    assert_eq!(run["ExposedPorts"], serde_json::json!({ "9000/tcp": {} }));
    assert!(run["Env"].to_string().contains("MOOD=good"), "{run}");
    let ran = engine.command(&["run", "--rm", "--network", "none", "localhost/greeter-web:latest"]).output();
    assert_eq!(text(&ran.expect("docker runs")), "1234\n");
    // Made anew from files of another time, by an engine that remembers nothing: the same image.
    let pruned = engine.command(&["system", "prune", "--all", "--force"]).output().expect("docker runs");
    assert!(pruned.status.success(), "{}", text(&pruned));
    let touched = Command::new("touch").args(["-d", "2001-02-03", path(&folder.join("web/greet"))]).status();
    assert!(touched.expect("touch runs").success());
    assert_eq!(said(&build)["digest"], built["digest"]);
}

#[test]
fn a_dockerfile_is_built_by_buildah_too() {
    let bowline = Bowline::new();
    let folder = by_dockerfile(&bowline, "");
    let storage = bowline.folder("storage");
    let build = |args: &[&str]| {
        let mut build = image(&bowline, args);
        build.env("STORAGE_DRIVER", "vfs").env("BUILDAH_ISOLATION", "chroot").env("HOME", &storage);
        let settings = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            storage.join("graph").display(),
            storage.join("run").display()
        );
        std::fs::write(storage.join("storage.conf"), settings).expect("a file of the test");
        build.env("CONTAINERS_STORAGE_CONF", storage.join("storage.conf"));
        build.output().expect("the binary runs")
    };
    let built = build(&["build", path(&folder), "--builder", "buildah", "--json"]);
    assert!(built.status.success(), "{}", text(&built));
    let built: serde_json::Value = serde_json::from_slice(&built.stdout).expect("JSON");
    assert!(built["notes"].to_string().contains("as root"), "who runs it is said: {built}");
    let shown = said(&bowline, &["inspect", "localhost/greeter-web"]);
    assert_eq!(shown["config"]["config"]["Entrypoint"], serde_json::json!(["/greet"]));
    // The same by an engine of the same kind, when it is there: its store is its own.
    let podman = build(&["load", "localhost/greeter-web", "--into", "podman"]);
    assert!(podman.status.success(), "{}", text(&podman));
    assert!(text(&podman).contains("greeter-web"), "{}", text(&podman));
}

#[test]
fn without_an_engine_a_dockerfile_says_what_is_missing() {
    let bowline = Bowline::new();
    let folder = by_dockerfile(&bowline, "");
    let none = image(&bowline, &["build", path(&folder)]).env("PATH", bowline.folder("bin")).output();
    let none = none.expect("the binary runs");
    assert_eq!(none.status.code(), Some(2), "{}", text(&none));
    let words = text(&none);
    assert!(words.contains("there is no docker; there is no buildah; there is no podman"), "{words}");
    assert!(words.contains("hint: install Docker"), "{words}");
    std::fs::remove_file(folder.join("web/Dockerfile")).expect("it is there");
    assert!(fails(&bowline, &["build", path(&folder)], 2).contains("is no file"));
}

#[test]
fn an_image_runs_in_a_real_docker_as_nobody_of_the_machine() {
    let (bowline, engine) = (Bowline::new(), Engine::start(engine::Kind::Docker));
    let folder = bowline.folder("hello");
    copy(&root().join("examples/hello"), &folder);
    let built = image(&bowline, &["build", path(&folder), "--load", "docker", "--json"])
        .env("DOCKER_HOST", engine.host())
        .output()
        .expect("the binary runs");
    assert!(built.status.success(), "{}", text(&built));
    let docker = |args: &[&str]| {
        let done = engine.command(args).output().expect("docker runs");
        assert!(done.status.success(), "{args:?}: {}", text(&done));
        String::from_utf8(done.stdout).expect("text")
    };
    let labels = docker(&["image", "inspect", "--format", "{{json .Config.Labels}}", "localhost/hello-web:latest"]);
    let labels: serde_json::Value = serde_json::from_str(&labels).expect("JSON");
    assert_eq!((&labels["dev.bowline.app"], &labels["dev.bowline.service"]), (&"hello".into(), &"web".into()));
    let port = Port::reserve();
    let (number, token) = (format!("PORT={}", port.number), "AUTH_TOKEN=0123456789abcdef0123456789abcdef");
    let hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let run = ["run", "--detach", "--network", "host", "--env", &number, "--env", token];
    let id = docker(&[&run, &hardened[..], &["localhost/hello-web:latest"]].concat());
    let url = format!("http://127.0.0.1:{}/health", port.number);
    let answer = wait("hello answers", Duration::from_secs(30), || {
        let asked = Command::new("curl").args(["--silent", "--fail", &url]).output().expect("curl runs");
        asked.status.success().then_some(asked)
    });
    assert!(!answer.stdout.is_empty());
    let pid = docker(&["inspect", "--format", "{{.State.Pid}}", id.trim()]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).expect("it runs");
    assert!(status.contains("Uid:\t65532\t65532"), "{status}");
    docker(&["rm", "--force", id.trim()]);
}

/// The engine of a node, without Docker: images and containers in a folder of the test. It ends with this.
struct Containerd {
    child: Child,
    folder: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("containerd-").tempdir().expect("a folder of the test");
        let at = |name: &str| folder.path().join(name);
        // No server of a kubelet's, and nothing of the machine's own settings.
        std::fs::write(at("config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .expect("a file");
        let log = std::fs::File::create(at("log")).expect("a file of the test");
        let mut command = Command::new("containerd");
        command.args([
            "--config",
            path(&at("config.toml")),
            "--root",
            path(&at("root")),
            "--state",
            path(&at("state")),
        ]);
        command.args(["--address", path(&at("socket"))]).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = command.spawn().expect("containerd is there (scripts/setup)");
        let containerd = Self { child, folder };
        wait("containerd answers", SOON * 3, || {
            containerd.ctr(&["version"]).output().expect("ctr runs").status.success().then_some(())
        });
        containerd
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--namespace", "k8s.io"]).args(args).env("CONTAINERD_ADDRESS", self.socket());
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // TERM, so that it unmounts what it has mounted.
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A node's containerd, by its own command and by that of k3s, which passes it on to its containerd.
#[test]
fn a_nodes_containerd_takes_an_image_and_runs_it() {
    let (bowline, containerd) = (Bowline::new(), Containerd::start());
    let source = "#include <stdio.h>\nint main(void) { return puts(\"it runs\") < 0; }\n";
    let built = said(&bowline, &["build", path(&program(&bowline, "hello", "-static", source))]);
    let digest = built["digest"].as_str().expect("a digest");
    let bin = bowline.folder("bin");
    std::fs::write(bin.join("k3s"), "#!/bin/sh\nexec \"$@\"\n").expect("a file of the test");
    set_mode(&bin.join("k3s"), 0o755);
    let search = format!("{}:{}", path(&bin), std::env::var("PATH").expect("there is one"));
    let ctr = |args: &[&str]| {
        let done = containerd.ctr(args).output().expect("ctr runs");
        assert!(done.status.success(), "{args:?}: {}", text(&done));
        String::from_utf8(done.stdout).expect("text")
    };
    let name = "localhost/greeter-web:latest";
    for into in ["containerd", "k3s"] {
        let mut load = image(&bowline, &["load", "localhost/greeter-web", "--into", into]);
        load.env("PATH", &search).env("CONTAINERD_ADDRESS", containerd.socket()).env("CONTAINERD_NAMESPACE", "k8s.io");
        let done = load.output().expect("the binary runs");
        assert!(done.status.success(), "{into}: {}", text(&done));
        let listed = ctr(&["images", "list", &format!("name=={name}")]);
        assert!(listed.contains(digest) && listed.contains("linux/"), "the image itself, by its digest: {listed}");
        assert!(ctr(&["images", "check", &format!("name=={name}")]).contains("complete"), "all of its layers");
        assert_eq!(ctr(&["run", "--rm", name, into]), "it runs\n");
        ctr(&["images", "rm", "--sync", name]);
    }
}

/// Engines that are not at hand are given what they read, by the words that they know.
#[test]
fn clusters_are_given_an_archive_by_their_own_commands() {
    let bowline = Bowline::new();
    said(&bowline, &["build", path(&program(&bowline, "hello", "-static", "int main(void) { return 0; }\n"))]);
    let (bin, heard) = (bowline.folder("bin"), bowline.folder("heard"));
    for (program, from) in [("kind", "\"$3\""), ("minikube", "\"$3\""), ("k3s", "-"), ("ctr", "-")] {
        let heard = heard.display();
        let script = format!("#!/bin/sh\necho \"$@\" >{heard}/{program}\nexec cat {from} >{heard}/{program}.tar\n");
        std::fs::write(bin.join(program), script).expect("a file of the test");
        set_mode(&bin.join(program), 0o755);
    }
    let search = format!("{}:/usr/bin:/bin", path(&bin));
    let load = |args: &[&str]| {
        let args = [&["load", "localhost/greeter-web", "--into"], args].concat();
        let done = image(&bowline, &args).env("PATH", &search).output().expect("the binary runs");
        assert!(done.status.success(), "{args:?}: {}", text(&done));
        text(&done)
    };
    assert!(load(&["kind", "--cluster", "two"]).contains("$ kind load image-archive /"));
    load(&["minikube"]);
    load(&["k3s"]);
    load(&["containerd"]);
    let said_to = |program: &str| std::fs::read_to_string(heard.join(program)).expect("it was run");
    assert!(said_to("kind").starts_with("load image-archive /") && said_to("kind").ends_with("--name two\n"));
    assert!(said_to("minikube").starts_with("image load /"));
    assert_eq!(said_to("k3s"), "ctr images import -\n");
    assert_eq!(said_to("ctr"), "--namespace k8s.io images import -\n");
    let written = bowline.folder("out").join("hello.tar");
    said(&bowline, &["load", "localhost/greeter-web", "--archive", path(&written)]);
    let archive = std::fs::read(&written).expect("an archive");
    for program in ["kind", "minikube", "k3s", "ctr"] {
        assert!(std::fs::read(heard.join(format!("{program}.tar"))).expect("what it read") == archive, "{program}");
    }
    let refused = image(&bowline, &["load", "localhost/greeter-web", "--into", "docker", "--cluster", "two"]).output();
    assert!(text(&refused.expect("the binary runs")).contains("--cluster is for kind and minikube"));
    let absent = image(&bowline, &["load", "localhost/greeter-web", "--into", "podman"]).env("PATH", &bin).output();
    assert!(text(&absent.expect("the binary runs")).contains("podman cannot be run"));
}
