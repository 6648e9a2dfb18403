//! `bowline image`: what is built is one digest wherever it is built, goes to a real registry and comes back, and runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bowline_tests::registry::Registry;
use bowline_tests::{Bowline, copy, path, root, set_mode, text};

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
    let purl = bill["components"][0]["purl"].as_str().unwrap_or_default();
    assert!(purl.starts_with("pkg:golang/stdlib@"), "{bill}");
}

#[test]
fn two_builds_are_one_digest_that_a_registry_takes_once_and_gives_back() {
    let (one, other, registry) = (Bowline::new(), Bowline::new(), Registry::start());
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

/// Unpacks an archive as an engine does, layer over layer.
fn unpacked(bowline: &Bowline, archive: &Path) -> PathBuf {
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
    into
}

#[test]
fn a_program_with_libraries_runs_on_what_its_image_holds() {
    let bowline = Bowline::new();
    let source = "#include <stdio.h>\n#include <pwd.h>\nint main(void) { struct passwd *app = getpwuid(65532); puts(app ? app->pw_name : \"nobody\"); return 0; }\n";
    let folder = program(&bowline, "greeter", "", source);
    let archive = bowline.folder("out").join("greeter.tar");
    let built = said(&bowline, &["build", path(&folder), "--archive", path(&archive)]);
    assert_eq!((&built["base"], &built["image"]), (&"machine".into(), &"localhost/greeter-web".into()));
    let root = unpacked(&bowline, &archive);
    let into = path(&root);
    let command: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["chroot", into, "/app/greet"],
        false => &["unshare", "--user", "--map-root-user", "chroot", into, "/app/greet"],
    };
    let ran =
        Command::new(command[0]).args(&command[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    let ran = ran.expect("it runs");
    assert_eq!(text(&ran), "app\n", "its own libraries find its own user");
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
