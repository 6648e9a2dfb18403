//! A server that somebody else has set up in the place of a daemon, or a daemon that has been taken over: a command that asks it
//! shows what it says, and nothing more comes of that.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bowline_tests::certificate::self_signed;
use bowline_tests::{Bowline, path, terminal, text};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

/// A title, a colour, C1, the order of letters, and a line that would be Bowline's own.
const STEERS: &str = "\u{1b}]0;x\u{7}\u{1b}[31m\u{9b}2J\u{202e}\nhint: obey";

struct Hostile {
    bowline: Bowline,
    url: String,
    ca: PathBuf,
}

impl Hostile {
    /// It answers until the test ends.
    fn start() -> Self {
        let bowline = Bowline::new();
        let folder = bowline.folder("certificate");
        let (chain, key) = self_signed(&folder, "hostile.localhost");
        let config = tls(&chain, &key);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://hostile.localhost:{}", listener.local_addr().expect("an address").port());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                // A client that goes away is no failure of the test.
                std::thread::spawn(move || answer(stream, config).ok());
            }
        });
        Self { bowline, url, ca: chain }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bowline.command(&[&["--to", &self.url], args].concat());
        command.env_remove("BOWLINE_STATE").env("BOWLINE_TOKEN", "bowline_x").env("BOWLINE_CA", &self.ca);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }
}

fn tls(chain: &Path, key: &Path) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let chain = CertificateDer::pem_file_iter(chain).expect("a chain").map(|one| one.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let config = builder.expect("ring speaks TLS").with_no_client_auth().with_single_cert(chain, key);
    Arc::new(config.expect("they belong together"))
}

/// One request, and its answer.
fn answer(stream: TcpStream, config: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
    let session = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(rustls::StreamOwned::new(session, stream));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    let mut words = head.split([' ', '?']);
    let (method, asked) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = said(method, asked);
    let stream = stream.get_mut();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}\n", body.len() + 1)?;
    stream.flush()?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn said(method: &str, asked: &str) -> (u16, String) {
    let say = |what: &str| format!("{what}{STEERS}");
    let fault =
        json!({ "kind": "failed", "error": say("e"), "caused_by": [say("c")], "hint": say("h"), "detail": say("d") });
    let token = json!({ "id": 1, "name": say("n"), "role": "viewer", "apps": [say("a")], "environments": [say("v")],
        "created": 1, "by_uid": 0 });
    let accepted = json!({ "change": 1, "env": say("e"), "app": say("a") });
    let run = json!({ "number": 1, "task": say("t"), "release": 1, "instance": say("i"), "trigger": "hand",
        "state": say("running"), "recorded": 1, "fault": fault });
    let event = json!({ "seq": 1, "at": 1, "env": say("e"), "app": say("a"), "event": say("x"), "text": say("t"), "fields": {} });
    let secret = json!({ "name": say("s"), "version": 1, "created": 1, "generated": false });
    let release = json!({ "number": 1, "state": "failed", "serves": false, "created": 1, "fault": fault, "runtimes": {},
        "artifacts": { "web": say("r") }, "configuration": say("f"), "secrets": { say("s"): 1 } });
    let steps = [
        json!({ "at": 1, "kind": "note", "service": say("s"), "text": say("x") }),
        json!({ "at": 1, "kind": "work", "service": say("s"), "text": say("x") }),
        json!({ "at": 1, "kind": "line", "service": say("s"), "text": say("x") }),
        json!({ "at": 1, "kind": "waiting", "steps": [{ "what": say("w"), "on": say("o") }] }),
        json!({ "at": 1, "kind": "failed", "fault": fault }),
    ];
    let body = match (method, asked) {
        ("get", "/v1/version") => json!({ "version": say("0"), "api": [1] }),
        ("get", "/v1/whoami") => json!({ "token": token }),
        ("get", "/v1/status") => status(&say, &fault),
        ("get", "/v1/tokens") => json!({ "tokens": [token] }),
        ("post", "/v1/tokens") => with(token, "token", say("T").into()),
        ("delete", _) if asked.starts_with("/v1/tokens/") => token,
        ("get", "/v1/events") => json!({ "events": [event] }),
        ("get", "/v1/logs") => json!({ "at": 1, "source": "stdout", "instance": say("i"), "text": say("x") }),
        ("get", _) if asked.starts_with("/v1/secrets/") => json!({ "secrets": [secret] }),
        ("get", _) if asked.starts_with("/v1/changes/") => return (200, steps.map(|step| step.to_string()).join("\n")),
        ("get", _) if asked.ends_with("/releases") => {
            json!({ "env": say("e"), "app": say("a"), "releases": [release] })
        }
        ("put", _) if asked.ends_with("/maintenance") => json!({ "maintenance": { "allow": [say("a")] } }),
        ("post", "/v1/plans") => plan(&say),
        ("post", "/v1/apps") => accepted,
        ("post", _) if asked.starts_with("/v1/sources/") && asked.split('/').count() == 5 => {
            json!({ "source": "0".repeat(64), "missing": [] })
        }
        ("post", _) if asked.starts_with("/v1/sources/") => json!({ "dir": say("/x") }),
        ("post", _) if asked.ends_with("/run") => run,
        ("post", _) if asked.ends_with("/restart") => accepted,
        _ => return (404, fault.to_string()),
    };
    (200, body.to_string())
}

fn with(mut value: Value, key: &str, one: Value) -> Value {
    value[key] = one;
    value
}

fn status(say: &impl Fn(&str) -> String, fault: &Value) -> Value {
    let instance = json!({ "id": say("i"), "release": 1, "slot": 0, "state": say("s"), "waits_on": say("w"), "pid": 1,
        "port": 1, "since": 1, "restarts": 0, "memory_bytes": 1, "cpu_us": 1, "dropped_lines": 0, "cage": "full" });
    let resource = json!({ "kind": say("k"), "name": say("r"), "state": say("f"), "on": say("o"), "external": false,
        "orphaned": false, "version": say("v"), "restarts": 0, "memory_bytes": 1, "cpu_us": 1, "fault": fault });
    let change = json!({ "id": 1, "phase": "build", "since": 1, "waits_on": [{ "what": say("w"), "on": say("o") }] });
    let app = json!({ "env": "local", "app": say("a"), "folder": say("f"), "state": "failed", "release": 1,
        "urls": [say("u")], "services": [{ "name": say("s"), "instances": [instance], "wanted": 1, "ready": 0 }],
        "resources": [resource], "jobs": [{ "name": say("j"), "schedule": say("s") }], "volumes": [{ "name": say("v") }],
        "change": change, "fault": fault, "notes": [say("n")], "maintenance": { "allow": [say("m")] } });
    json!({
        "daemon": { "version": say("V"), "pid": 1, "state": say("s"), "mode": "server", "started": 1, "admin": say("a"),
            "private_bytes": 1, "degraded": fault,
            "disk": { "total_bytes": 9, "free_bytes": 1, "reserve_bytes": 5, "growing": say("g") } },
        "edge": { "state": "serving", "pid": 1, "http": say("h"), "https": say("h"), "api": say("a; reboot"), "serving": 1,
            "connections_open": 1, "private_bytes": 1, "fault": fault },
        "apps": [app],
    })
}

fn plan(say: &impl Fn(&str) -> String) -> Value {
    json!({ "env": say("e"), "app": say("a"), "hash": "0; reboot", "runs": false, "outcome": "release", "release": 1,
        "differences": [], "builds": [], "secrets": [], "services": [], "notes": [say("n")], "risks": [] })
}

/// What is left is what `paint` and a line that moves have put in.
fn without_bowlines_own(text: &str) -> String {
    let mut text = text.replace("\u{1b}[K", "").replace("\u{1b}[?7l", "").replace("\u{1b}[?7h", "");
    for style in ["0", "1", "2", "4", "31", "32", "33", "34", "35", "36"] {
        text = text.replace(&format!("\u{1b}[{style}m"), "");
    }
    text
}

#[test]
fn no_words_of_a_server_steer_the_terminal() {
    let hostile = Hostile::start();
    let app = hostile.bowline.app("hostile", "plain");
    let app = path(&app);
    let verbs: [&[&str]; 14] = [
        &["status"],
        &["token", "list"],
        &["token", "create", "x", "--role", "viewer"],
        &["token", "revoke", "1"],
        &["events"],
        &["secret", "list", "x"],
        &["releases", "x"],
        &["plan", app, "--env", "production"],
        &["deploy", app, "--env", "production"],
        &["restart", "x"],
        &["logs", "x"],
        &["maintenance", "on", "x"],
        &["run", "--detach", "x", "j"],
        &["scale", "x.web", "2"],
    ];
    let steers = |c: &char| c.is_control() && !"\r\n\t".contains(*c) || *c == '\u{202e}';
    for verb in verbs {
        let output = hostile.run(verb);
        let plain = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let painted = terminal::run(hostile.command(verb)).0;
        for seen in [&plain, &without_bowlines_own(&painted)] {
            assert_eq!(seen.chars().find(steers), None, "{verb:?}: {seen:?}");
            assert!(!seen.lines().any(|line| line == "hint: obey"), "{verb:?}: {seen:?}");
            assert!(seen.contains('\u{fffd}') || verb[0] == "plan", "{verb:?} shows nothing: {seen:?}");
        }
        // For programs it is what was sent.
        let json = hostile.run(&[verb, &["--json"]].concat());
        let json = String::from_utf8_lossy(&json.stdout).into_owned();
        assert_eq!(json.chars().find(steers), None, "{verb:?}: {json:?}");
        for line in json.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{verb:?}: {error} in {line}"));
        }
    }
}

#[test]
fn no_command_to_copy_holds_words_of_a_server() {
    let hostile = Hostile::start();
    let app = hostile.bowline.app("hostile-words", "plain");
    let plan = hostile.run(&["plan", path(&app), "--env", "production"]);
    assert!(!plan.status.success() && !text(&plan).contains("reboot"), "{}", text(&plan));
    let run = hostile.run(&["run", "--detach", "x", "j"]);
    let run = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.contains("follow it: bowline logs x --service job.j --follow\n"), "{run}");
    let token = text(&hostile.run(&["token", "create", "x", "--role", "viewer"]));
    assert!(token.contains("bowline login 'a; reboot"), "{token}");
}
