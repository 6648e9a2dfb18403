//! Certificates of an ACME authority: a real one (Pebble), which asks the real edge back.

mod pebble;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bowline_fault_points::Point;
use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, path, text, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::pebble::Pebble;
use crate::points::OF_ORDERS;

/// Orders that failed are tried again after so much less time.
const FASTER: u32 = 60;

/// A server that asks an authority, and what it takes to start it again.
struct Scene {
    bowline: Bowline,
    pebble: Pebble,
    server: Option<Server>,
    args: Vec<String>,
    http: String,
    https: String,
}

impl Scene {
    /// `more`: of `[acme]`, and after it.
    fn new(more: &str) -> Self {
        Self::with(more, &[])
    }

    /// `flags`: of the server.
    fn with(more: &str, flags: &[&str]) -> Self {
        let (bowline, pebble) = (Bowline::new(), Pebble::plan());
        bowline.scale_faster(FASTER);
        let config = bowline.folder("etc").join("server.toml");
        let (directory, ca) = (pebble.directory(), pebble.ca());
        let acme =
            format!("[acme]\ndirectory = \"{directory}\"\ncontact = \"ops@example.com\"\nca = \"{}\"\n", path(&ca));
        std::fs::write(&config, format!("{acme}{more}")).expect("a file of the test");
        let args = ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "0", "--config", path(&config)];
        let args = [&args[..], flags].concat();
        let server = Server::start_with(&bowline, &[], &args);
        let edge = bowline.status()["edge"].clone();
        let address = |what: &str| edge[what].as_str().expect("an address").to_owned();
        let (http, https) = (address("http"), address("https"));
        let server = Some(server);
        Self { args: args.into_iter().map(str::to_owned).collect(), bowline, pebble, server, http, https }
    }

    /// Its authority asks this server back.
    fn start_pebble(&mut self) {
        let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let (http, https) = (port(&self.http), port(&self.https));
        self.pebble.start(http, https);
    }

    /// Brings out an app on this host.
    fn try_deploy(&self, name: &'static str, host: &str) -> Output {
        let folder = self.bowline.app(name, "plain");
        let file = folder.join("bowline.toml");
        let plain = std::fs::read_to_string(&file).expect("the fixture's file");
        let route = format!("[route.main]\nto = \"web\"\n[environment.production]\nroute.main.hosts = [\"{host}\"]\n");
        std::fs::write(&file, format!("{plain}\n{route}")).expect("a file of the test");
        self.bowline.run(&["deploy", path(&folder), "--env", "production"])
    }

    fn deploy(&self, name: &'static str, host: &str) {
        let output = self.try_deploy(name, host);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// The first certificate that a client sees who believes this CA, as text; what it fails with otherwise.
    fn seen(&self, host: &str, ca: &Path) -> Result<String, String> {
        let address = format!("{host}:{}:127.0.0.1", self.https.rsplit(':').next().expect("a port"));
        let url = format!("https://{host}:{}/", self.https.rsplit(':').next().expect("a port"));
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert", path(ca), "--resolve", &address])
            .args(["--output", "/dev/null", "--write-out", "%{http_code}\n%{certs}", &url])
            .output()
            .expect("curl is installed by scripts/setup");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(text(&output)),
        }
    }

    fn plain(&self, host: &str) -> u16 {
        let (url, field) = (format!("http://{}/", self.http), format!("Host: {host}"));
        curl(&self.pebble.ca(), &url, &["--header", &field]).status
    }

    /// Waits until the host has a certificate of the authority.
    fn certified(&self, host: &str) -> String {
        let root = self.pebble.root();
        wait(&format!("{host} has a certificate of the authority"), SOON * 2, || self.seen(host, &root).ok())
    }

    fn events(&self, kind: &str) -> Vec<Value> {
        let all = self.bowline.json(&["events", "-n", "1000"])["events"].clone();
        let all = all.as_array().expect("events").iter().filter(|event| event["event"] == kind);
        all.cloned().collect()
    }

    fn start_server(&mut self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.server = Some(Server::start_with(&self.bowline, &[], &args));
    }

    fn restart(&mut self) {
        let server = self.server.take().expect("it runs");
        assert!(server.end(Signal::SIGTERM).success());
        self.start_server();
    }

    /// Starts the server again if it has died, as its supervisor would.
    fn supervise(&mut self) {
        if self.server.as_mut().is_none_or(|server| server.has_ended().is_some()) {
            self.start_server();
        }
    }
}

#[test]
fn a_name_is_proven_over_http_and_until_then_it_has_no_certificate() {
    let mut scene = Scene::new("challenge = \"http-01\"\n");
    let host = "http.shop.example.com";
    scene.deploy("acme-http", host);
    let failed = wait("the order fails", SOON, || scene.events("certificate.failed").pop());
    assert!(failed["text"].as_str().is_some_and(|text| text.contains("cannot be reached")), "{failed}");
    assert_eq!(scene.plain(host), 200, "HTTP goes on");
    let refused = scene.seen(host, &scene.pebble.ca()).expect_err("nothing is signed");
    assert!(refused.contains("alert"), "{refused}");
    scene.start_pebble();
    let seen = scene.certified(host);
    assert!(seen.starts_with("200"), "{seen}");
    let issued = |scene: &Scene| scene.events("certificate.issued").len();
    wait("it is recorded", SOON, || (issued(&scene) == 1).then_some(()));
    // The next daemon has it from the disk, and orders nothing.
    scene.restart();
    assert_eq!(scene.certified(host), seen, "the same certificate");
    assert_eq!(issued(&scene), 1);
    let state = scene.bowline.state();
    let kept = |path: &std::path::PathBuf| path.starts_with(&state) && !path.starts_with(state.join("bin"));
    let clear: Vec<_> = scene.bowline.files_with(b"-----BEGIN").into_iter().filter(kept).collect();
    assert!(clear.is_empty(), "what is kept is sealed: {clear:?}");
}

#[test]
fn a_name_is_proven_in_a_handshake() {
    let mut scene = Scene::new("challenge = \"tls-alpn-01\"\n");
    scene.start_pebble();
    let host = "tls.shop.example.com";
    scene.deploy("acme-tls", host);
    let seen = scene.certified(host);
    assert!(seen.starts_with("200"), "{seen}");
}

/// The same proofs, shown by a real Envoy, which has no address for HTTPS until there is something to show.
#[test]
fn names_are_proven_behind_envoy_too() {
    for (challenge, host) in [("http-01", "http.envoy.example.com"), ("tls-alpn-01", "tls.envoy.example.com")] {
        let mut scene = Scene::with(&format!("challenge = \"{challenge}\"\n"), &["--edge", "envoy"]);
        scene.start_pebble();
        scene.deploy("acme-envoy", host);
        let seen = scene.certified(host);
        assert!(seen.starts_with("200"), "{challenge}: {seen}");
    }
}

#[test]
fn a_certificate_is_renewed_and_kept_while_its_authority_is_away() {
    let mut scene = Scene::new("");
    scene.pebble.life = 30;
    scene.start_pebble();
    let host = "renewed.shop.example.com";
    scene.deploy("acme-renewed", host);
    let first = scene.certified(host);
    let renewed = wait("it is renewed", SOON * 2, || {
        let seen = scene.seen(host, &scene.pebble.root()).expect("it is served all the while");
        (seen != first).then_some(seen)
    });
    let root = scene.pebble.root();
    scene.pebble.stop();
    let failed = wait("the authority is missed", SOON * 2, || scene.events("certificate.failed").pop());
    let said = failed["text"].as_str().expect("words");
    assert!(said.contains("keeps its certificate, which"), "{said}");
    let seen = scene.seen(host, &root);
    // What is out of date is served all the same, and a client that looks says so.
    assert!(seen.as_ref().is_ok_and(|seen| *seen == renewed) || seen.is_err_and(|why| why.contains("expired")));
    // It comes back without its data: with another root, and without the account.
    scene.start_pebble();
    scene.certified(host);
}

#[test]
fn a_name_that_does_not_lead_here_is_said_with_what_the_authority_found() {
    let mut scene = Scene::new("challenge = \"http-01\"\n");
    // It asks where nobody is.
    scene.pebble.start(1, 1);
    let host = "astray.shop.example.com";
    scene.deploy("acme-astray", host);
    let failed = wait("the order fails", SOON, || scene.events("certificate.failed").pop());
    let said = failed["text"].as_str().expect("words");
    assert!(said.contains("found no proof by http-01") && said.contains("refused"), "{said}");
    assert_eq!(scene.plain(host), 200, "HTTP goes on");
}

#[test]
fn the_daemon_dies_at_every_step_of_an_order() {
    let mut scene = Scene::new("challenge = \"http-01\"\n");
    scene.start_pebble();
    for (number, point) in OF_ORDERS.into_iter().enumerate() {
        let host = format!("step-{number}.shop.example.com");
        scene.bowline.arm(point, 0);
        // The daemon may die while the command still follows.
        let _ = scene.try_deploy("acme-steps", &host);
        let root = scene.pebble.root();
        let deadline = std::time::Instant::now() + SOON * 2;
        while scene.seen(&host, &root).is_err() {
            scene.supervise();
            assert!(std::time::Instant::now() < deadline, "{point} struck, and no certificate came");
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        assert_eq!(scene.bowline.armed(&[point]), [], "nobody came to it");
    }
}

#[test]
fn an_edge_that_dies_on_the_way_is_told_again_what_to_answer() {
    let mut scene = Scene::new("challenge = \"http-01\"\n");
    scene.start_pebble();
    let host = "edge.shop.example.com";
    scene.deploy("acme-edge", "first.shop.example.com");
    scene.certified("first.shop.example.com");
    // The table with the release's host, then the one with the challenge.
    scene.bowline.arm(Point::TableServed, 1);
    scene.deploy("acme-edge", host);
    scene.certified(host);
    assert_eq!(scene.bowline.armed(&[Point::TableServed]), [], "nobody came to it");
    let (root, edge) = (scene.pebble.root(), Process { pid: scene.bowline.edge() });
    scene.bowline.kill_daemon();
    assert!(edge.runs() && scene.seen(host, &root).is_ok(), "the edge has the certificate without a daemon");
    scene.supervise();
}

#[test]
fn the_apis_host_is_proven_and_clients_believe_the_authority() {
    let host = "api.shop.example.com";
    let mut scene = Scene::new(&format!("[api]\nhost = \"{host}\"\n"));
    let issuer = |scene: &Scene| scene.bowline.status()["edge"]["certificate"]["issuer"].clone();
    assert_eq!(issuer(&scene), "acme");
    assert!(scene.seen(host, &scene.bowline.ca()).is_err(), "the local CA does not stand in");
    scene.start_pebble();
    scene.certified(host);
    let made = scene.bowline.json(&["token", "create", "ci", "--role", "viewer"]);
    let token = made["token"].as_str().expect("a token");
    let url = format!("https://{host}:{}", scene.https.rsplit(':').next().expect("a port"));
    let (config, elsewhere) = (scene.bowline.folder("config"), scene.bowline.folder("elsewhere"));
    let names = elsewhere.join("hosts");
    std::fs::write(&names, format!("127.0.0.1 {host}\n")).expect("a file of the test");
    // On a machine whose list of names leads the host here.
    let client = |args: &[&str]| {
        let bound = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", bound, path(&names)];
        let mut command = scene.bowline.command_under(&wrapper, args);
        command.env("XDG_CONFIG_HOME", &config).current_dir(&elsewhere);
        for name in ["BOWLINE_STATE", "BOWLINE_TOKEN", "BOWLINE_CA"] {
            command.env_remove(name);
        }
        command
    };
    let login = |ca: &Path| {
        let mut login = client(&["login", &url, "--ca", path(ca), "--json"]);
        let mut login =
            login.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unshare runs");
        login.stdin.take().expect("a pipe").write_all(format!("{token}\n").as_bytes()).expect("it reads");
        login.wait_with_output().expect("it was started")
    };
    let wrong = login(&scene.bowline.ca());
    assert!(!wrong.status.success() && text(&wrong).contains(host), "the local CA has not signed it: {}", text(&wrong));
    let done = login(&scene.pebble.root());
    assert!(done.status.success(), "{}", text(&done));
    let status = client(&["status", "--to", &url, "--json"]).output().expect("unshare runs");
    assert!(status.status.success(), "the token and the CA are known: {}", text(&status));
    assert_eq!(issuer(&scene), "acme");
}
