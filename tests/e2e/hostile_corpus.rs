//! The corpus of `tests/hostile` against the real edge: nothing of it gets through, over HTTP/1 and HTTP/2; and the conformance
//! tests of HTTP/2.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, root, text, tool};
use serde_json::json;

/// What lets in at `/token`.
const TOKEN: &str = "hostile-token";
/// Who gets in at `/people`.
const PEOPLE: &str = "ann:hostile-password\n";

/// The app whose bytes all go on to `upstream`.
fn app(bowline: &Bowline, name: &str, upstream: &str) -> PathBuf {
    let folder = bowline.folder(name);
    bowline_tests::copy(&root().join("tests/hostile/app"), &folder);
    let file = folder.join("bowline.toml");
    let toml = std::fs::read_to_string(&file).expect("the app's file").replace("@UPSTREAM@", upstream);
    std::fs::write(&file, toml).expect("a file of the test");
    for (secret, value) in [("hostile", TOKEN), ("people", PEOPLE)] {
        let file = bowline.folder("secrets").join(secret);
        std::fs::write(&file, value).expect("a file of the test");
        let set = bowline.run(&["secret", "set", name, secret, "--file", path(&file)]);
        assert!(set.status.success(), "{}", text(&set));
    }
    folder
}

/// The program that sends and judges, and has the upstream.
struct Runner(Child);

impl Runner {
    fn start() -> (Self, BufReader<std::process::ChildStdout>) {
        let mut command = Command::new(tool("python"));
        command.arg(root().join("tests/hostile/run.py")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the set-up has made it");
        let stdout = child.stdout.take().expect("a pipe");
        (Self(child), BufReader::new(stdout))
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Where a test failed before it had its say.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The port of `http://HOST:PORT`, or of `ADDRESS:PORT`.
fn port(address: &str) -> &str {
    address.trim_end_matches('/').rsplit_once(':').expect("a port").1
}

#[test]
fn nothing_of_the_hostile_corpus_is_let_through() {
    let bowline = Bowline::new();
    let (mut runner, mut said) = Runner::start();
    let mut upstream = String::new();
    said.read_line(&mut upstream).expect("it says where its upstream is");
    let _up = Up::start(&bowline, &app(&bowline, "hostile", port(upstream.trim())), SOON);
    let edge = &bowline.status()["edge"];
    let logs: &Path = &bowline.state().join("logs/edge/access.log");
    let about = json!({ "peer": "bowline", "host": "hostile.localhost", "http": edge["http"], "https": edge["https"],
        "ca": bowline.ca(), "pids": [edge["pid"]], "access_log": logs });
    let mut stdin = runner.0.stdin.take().expect("a pipe");
    writeln!(stdin, "{about}").expect("it reads");
    drop(stdin);
    let mut outcome = String::new();
    said.read_to_string(&mut outcome).expect("UTF-8");
    let ended = runner.0.wait().expect("it was started");
    assert!(ended.success() && outcome.contains(" 0 let through, 0 not as they must be"), "{outcome}");
}

/// What h2spec says at its end. All of it passes, so nothing is excepted; a test more or less is looked at.
const CONFORMS: &str = "145 tests, 145 passed, 0 skipped, 0 failed";

#[test]
fn the_edge_conforms_to_http2() {
    let bowline = Bowline::new();
    let folder = bowline.app("hostile-h2spec", "plain");
    // The name that every resolver knows.
    let toml = "[service.web]\nrun = \"python3 server.py\"\n[route.main]\nto = \"web\"\n\
        [environment.local]\nroute.main.hosts = [\"localhost\"]\n";
    std::fs::write(folder.join("bowline.toml"), toml).expect("a file of the test");
    let up = Up::start(&bowline, &folder, SOON);
    let https = up.https();
    let mut h2spec = Command::new(tool("h2spec"));
    // What it asks for has to be longer than the windows it gives.
    h2spec.args(["--tls", "--insecure", "--timeout", "10", "--path", "/bytes/100000"]);
    let output = h2spec.args(["--host", "localhost", "--port", port(&https)]).output().expect("the set-up has made it");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(CONFORMS), "{said}");
}
