//! `https://` targets: a daemon behind the host of its API, with tokens, seen from an empty folder elsewhere.

mod cut;
mod data;
mod lives;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bowline_tests::certificate::self_signed;
use bowline_tests::client::curl;
use bowline_tests::machine::processes;
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, path, text, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A server whose API is reached from elsewhere.
struct Outside {
    bowline: Bowline,
    server: Option<Server>,
    args: Vec<String>,
    /// `https://bowline-api.localhost:PORT`
    url: String,
    http: String,
}

impl Outside {
    fn start() -> Self {
        Self::start_with(Bowline::new(), "")
    }

    /// With more in `[api]`.
    fn start_with(bowline: Bowline, more: &str) -> Self {
        Self::start_of(bowline, &format!("[api]\nhost = \"bowline-api.localhost\"\n{more}"))
    }

    /// With this `server.toml`.
    fn start_of(bowline: Bowline, text: &str) -> Self {
        let config = bowline.folder("etc").join("server.toml");
        std::fs::write(&config, text).expect("a file of the test");
        let any = ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "0", "--config", path(&config)];
        let server = Server::start_with(&bowline, &[], &any);
        let edge = bowline.status()["edge"].clone();
        let address = |what: &str| edge[what].as_str().expect("an address").to_owned();
        let url = format!("https://bowline-api.localhost:{}", port(&address("https")));
        let args =
            ["--http", &address("http"), "--https", &address("https"), "--admin", "0", "--config", path(&config)];
        let args = args.map(str::to_owned).to_vec();
        Self { server: Some(server), args, url, http: address("http"), bowline }
    }

    /// Makes a token on the server.
    fn token(&self, name: &str, args: &[&str]) -> String {
        let made = self.bowline.json(&[&["token", "create", name], args].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    /// A command elsewhere, which knows the URL, the CA and a token.
    fn command(&self, token: &str, args: &[&str]) -> Command {
        let mut command = self.bowline.command(&[&["--to", &self.url], args].concat());
        command.env_remove("BOWLINE_STATE").env("BOWLINE_TOKEN", token).env("BOWLINE_CA", self.bowline.ca());
        command.current_dir(self.bowline.folder("elsewhere"));
        command
    }

    fn run(&self, token: &str, args: &[&str]) -> Output {
        self.command(token, args).output().expect("the binary runs")
    }

    /// Fails with this code, and says this.
    fn fails(&self, token: &str, args: &[&str], code: i32, words: &str) {
        let output = self.run(token, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{args:?}: {}", text(&output));
    }

    /// Keeps a token for the user who has this folder of settings.
    fn login(&self, config: &Path, token: &str) -> Output {
        let ca = self.bowline.ca();
        let mut login = self.bowline.command(&["login", &self.url, "--ca", path(&ca), "--json"]);
        login.env_remove("BOWLINE_TOKEN").env("XDG_CONFIG_HOME", config);
        let mut login =
            login.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        login.stdin.take().expect("a pipe").write_all(format!("{token}\n").as_bytes()).expect("it reads");
        login.wait_with_output().expect("it was started")
    }

    fn lines(&self, token: &str, args: &[&str]) -> Vec<Value> {
        let output = self.run(token, &[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        let all = String::from_utf8_lossy(&output.stdout).into_owned();
        all.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn json(&self, token: &str, args: &[&str]) -> Value {
        self.lines(token, args).pop().expect("an answer")
    }

    /// Asks the API itself. Returns the status and the answer.
    fn ask(&self, token: &str, method: &str, what: &str, body: &str) -> (u16, Value) {
        let (url, bearer) = (format!("{}{what}", self.url), format!("Authorization: Bearer {token}"));
        let answer = curl(&self.bowline.ca(), &url, &["-X", method, "-H", &bearer, "--data", body]);
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// Kills the daemon as nothing should, and starts it again where it listened.
    fn restart(&mut self) {
        let before = self.server.take().expect("it runs");
        before.end(Signal::SIGKILL);
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.server = Some(Server::start_with(&self.bowline, &[], &args));
    }
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("a port").1
}

fn app(bowline: &Bowline, name: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    let host = format!("[environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n");
    std::fs::write(&file, format!("{plain}\n[route.main]\nto = \"web\"\n{host}")).expect("a file of the test");
    std::fs::write(folder.join("large.bin"), vec![7; 3 << 20]).expect("a file of the test");
    folder
}

/// A line that is written later reaches who follows.
fn follows_logs(outside: &Outside, token: &str, logs: &[&str]) {
    let mut follow = outside.command(token, logs);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let (sender, received) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let app_url = format!("https://https-deploy.localhost:{}/followed", port(&outside.url));
    assert_eq!(curl(&outside.bowline.ca(), &app_url, &[]).status, 200);
    wait("a line that was written later is followed", SOON, || {
        received.try_iter().any(|line| line.contains("/followed")).then_some(())
    });
    follow.kill().and_then(|()| follow.wait()).expect("a child of this test");
    drop(received);
    reader.join().expect("no panic");
}

/// A mebibyte through `cat`, both ways at once.
fn passes_through(mut command: Command) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let feeder = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 1 << 20]));
    let output = child.wait_with_output().expect("it was started");
    assert!(feeder.join().expect("no panic").is_ok());
    assert!(
        output.status.success() && output.stdout == vec![b'x'; 1 << 20],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn an_app_is_brought_out_and_operated_with_a_token_alone() {
    let mut outside = Outside::start();
    let token = outside.token("ci", &["--role", "deployer", "--app", "https-deploy", "--env", "production"]);
    let operator = outside.token("ops", &["--role", "operator"]);
    let folder = app(&outside.bowline, "https-deploy");
    let steps = outside.lines(&token, &["deploy", path(&folder), "--env", "production"]);
    let of_kind = |kind: &str| steps.iter().find(|line| line["kind"] == kind).unwrap_or(&Value::Null).clone();
    assert!(of_kind("sent")["bytes"].as_u64() > Some(3 << 20), "{steps:#?}");
    assert_eq!(of_kind("ready")["release"], 1, "{steps:#?}");
    assert!(steps.iter().any(|line| line["kind"] == "step"), "it was followed: {steps:#?}");

    let of_app = |verb: &[&'static str]| [verb, &["https-deploy", "--env", "production"]].concat();
    let status = outside.json(&token, &["status", "--env", "production"]);
    assert_eq!((&status["apps"][0]["app"], &status["apps"][0]["state"]), (&"https-deploy".into(), &"ready".into()));
    assert_eq!(outside.json(&token, &of_app(&["releases"]))["releases"][0]["serves"], true);
    let restarted = outside.run(&token, &of_app(&["restart"]));
    assert!(restarted.status.success(), "{}", text(&restarted));
    let events = outside.json(&token, &of_app(&["events"]))["events"].clone();
    let events = events.as_array().expect("events");
    let by_token = |event: &&Value| event["event"] == "token.used" && event["fields"]["token"] == "ci";
    let told: Vec<&str> = events.iter().filter(by_token).filter_map(|event| event["fields"]["what"].as_str()).collect();
    assert_eq!(told, ["apply a folder to", "restart"]);
    let restart = events.iter().find(|event| event["event"] == "restart.began").expect("the restart is told");
    assert_eq!((&restart["fields"]["by_token"], &restart["fields"]["by_uid"]), (&"1".into(), &Value::Null));

    follows_logs(&outside, &token, &of_app(&["logs", "--follow", "--json"]));
    let exec = ["exec", "https-deploy.web", "--env", "production", "--", "cat"];
    outside.fails(&token, &exec, 3, "its role is deployer");
    passes_through(outside.command(&operator, &exec));

    outside.restart();
    wait("the same token lets in at the next daemon", SOON, || {
        let status = outside.run(&token, &["status", "--env", "production", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        (status["apps"][0]["state"] == "ready").then_some(())
    });
    let again = outside.lines(&token, &["deploy", path(&folder), "--env", "production"]);
    assert!(again.iter().any(|line| line["kind"] == "ready" && line["release"] == 1), "{again:#?}");

    // Where nothing is said, it goes where the environment belongs.
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the app's file");
    let there = format!("[environment.production]\nserver = \"{}\"", outside.url);
    std::fs::write(&file, plain.replace("[environment.production]", &there)).expect("a file of the test");
    let config = outside.bowline.folder("config");
    let belongs = || {
        let words = ["deploy", path(&folder), "--env", "production", "--detach", "--json"];
        let mut belongs = outside.bowline.command(&words);
        belongs.env_remove("BOWLINE_STATE").env("XDG_CONFIG_HOME", &config).env("BOWLINE_CA", outside.bowline.ca());
        belongs
    };
    // A token of the environment is for whom the command names, not for whom a folder names.
    let refused = belongs().env("BOWLINE_TOKEN", &token).output().expect("the binary runs");
    assert!(refused.status.code() == Some(3) && text(&refused).contains("not sent where a folder says"), "{refused:?}");
    let kept = outside.login(&config, &token);
    assert!(kept.status.success(), "{}", text(&kept));
    let belongs = belongs().output().expect("the binary runs");
    assert!(belongs.status.success() && text(&belongs).contains("accepted"), "{}", text(&belongs));
    for token in [&token, &operator] {
        assert_eq!(outside.bowline.files_with(token.as_bytes()), Vec::<PathBuf>::new(), "a token lies nowhere");
    }
}

#[test]
fn a_token_does_what_its_role_and_its_scope_say_and_nothing_else() {
    let outside = Outside::start();
    let folder = app(&outside.bowline, "https-roles");
    let deploy = ["deploy", path(&folder), "--env", "production"];
    let viewer = outside.token("viewer", &["--role", "viewer"]);
    outside.fails(&viewer, &deploy, 3, "its role is viewer");
    let other = outside.token("other", &["--role", "deployer", "--app", "https-other"]);
    outside.fails(&other, &deploy, 3, "token other is not for production/https-roles");
    let beta = outside.token("beta", &["--role", "deployer", "--env", "beta"]);
    outside.fails(&beta, &deploy, 3, "it is for all apps in beta");
    assert!(!outside.bowline.json_text(&["events"]).contains("change.began"), "nothing was begun");
    let admin = outside.token("admin", &["--role", "admin"]);
    outside.lines(&admin, &deploy);

    // Of an app that is not theirs they see nothing, whatever they ask.
    let scoped = outside.json(&other, &["status", "--env", "production"]);
    assert_eq!(scoped["apps"], json!([]));
    let (_, accepted) = outside.ask(&admin, "POST", "/v1/apps/production/https-roles/restart", "{}");
    let change = format!("/v1/changes/{}", accepted["change"]);
    assert_eq!(outside.ask(&viewer, "GET", &change, "").0, 200);
    assert_eq!(outside.ask(&other, "GET", &change, "").0, 404);
    assert_eq!(outside.ask(&other, "GET", "/v1/logs?env=production&app=https-roles", "").0, 403);
    let (_, events) = outside.ask(&other, "GET", "/v1/events", "");
    assert_eq!(events["events"], json!([]));
    assert_eq!(outside.ask(&other, "GET", "/v1/data", "").1["data"], json!([]));

    // Neither do folders and files of the server become theirs.
    for dir in ["/etc", path(&folder), path(&outside.bowline.state().join("sources/production/https-roles"))] {
        let (status, fault) =
            outside.ask(&admin, "POST", "/v1/apps", &json!({ "dir": dir, "env": "production" }).to_string());
        assert_eq!((status, &fault["error"]), (403, &"only what was sent is applied from elsewhere".into()), "{dir}");
    }
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the app's file");
    let thief = format!(
        "{plain}\n[env]\nSTOLEN = {{ secret = \"stolen\" }}\n[secret.stolen]\nsource = \"file:/etc/hostname\"\n"
    );
    std::fs::write(&file, thief).expect("a file of the test");
    outside.fails(&admin, &deploy, 3, "secret.stolen.source names a file of the server");
    std::fs::write(&file, plain.replace("https-roles.localhost", "bowline-api.localhost")).expect("a file of the test");
    outside.fails(&admin, &deploy, 3, "the host of this server's API");

    let writer = outside.token("writer", &["--role", "secret-writer", "--app", "https-roles"]);
    let mut set = outside.command(&writer, &["secret", "set", "https-roles", "key", "--env", "production"]);
    let mut set = set.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    set.stdin.take().expect("a pipe").write_all(b"value-of-key").expect("it reads");
    let set = set.wait_with_output().expect("it was started");
    assert!(set.status.success(), "{}", text(&set));
    let listed = outside.json(&writer, &["secret", "list", "https-roles", "--env", "production"]);
    assert_eq!((&listed["secrets"][0]["by_token"], &listed["secrets"][0]["generated"]), (&5.into(), &false.into()));
    outside.fails(&writer, &["status"], 3, "its role is secret-writer");
    outside.fails(&viewer, &["token", "list"], 3, "it needs one of: auditor, admin");
    for what in ["/v1/shutdown", "/v1/upgrade"] {
        assert_eq!(outside.ask(&admin, "POST", what, "{}").0, 403, "{what} is for the machine alone");
    }
    outside.fails(&admin, &["down"], 2, "for this machine alone");
    let down = ["down", "https-roles", "--env", "production"];
    outside.fails(&viewer, &down, 3, "its role is viewer");
    assert_eq!(outside.json(&admin, &down), json!({ "apps": ["production/https-roles"], "daemon": false }));
    assert_eq!(outside.json(&admin, &["status", "--env", "production"])["apps"][0]["state"], "stopped");
    let events = outside.bowline.json_text(&["events"]);
    assert!(events.lines().any(|one| one.contains("app.stopping") && one.contains("by_uid")), "{events}");
    let restart = ["restart", "https-roles", "--env", "production"];
    outside.fails(&admin, &restart, 3, "start it: bowline deploy --env production");
    outside.fails(&admin, &["down", "https-roles"], 2, "another environment wants `--env`");
    outside.fails(&admin, &["down", "https-nobody", "--env", "production"], 2, "hint:");
}

/// A file that claims a host and a path, to be written into an app's folder.
fn claiming(folder: &Path, host: &str, path: &str) {
    let file = folder.join("bowline.toml");
    let text = std::fs::read_to_string(&file).expect("the app's file");
    let (begin, _) = text.split_once("\n[route.main]").expect("a route");
    let route = format!("[route.main]\nto = \"web\"\nhosts = [\"{host}\"]\npath = \"{path}\"\n");
    std::fs::write(&file, format!("{begin}\n{route}")).expect("a file of the test");
}

#[test]
fn a_token_gets_no_part_of_another_apps_host_and_none_of_its_files() {
    let outside = Outside::start();
    let (shop, board) = (app(&outside.bowline, "https-shop"), app(&outside.bowline, "https-board"));
    let of = |app: &str, env: &str| {
        outside.token(&format!("{app}-{env}"), &["--role", "deployer", "--app", app, "--env", env])
    };
    let (owner, other, beta) =
        (of("https-shop", "production"), of("https-board", "production"), of("https-shop", "beta"));
    std::fs::write(shop.join("own.txt"), "of the shop alone").expect("a file of the test");
    outside.lines(&owner, &["deploy", path(&shop), "--env", "production"]);

    claiming(&board, "https-shop.localhost", "/login");
    let deploy = ["deploy", path(&board), "--env", "production"];
    outside.fails(&other, &deploy, 3, "https-shop.localhost belongs to production/https-shop");
    outside.fails(&other, &deploy, 3, "a token that is for production/https-shop, too");
    outside.fails(
        &other,
        &["plan", path(&board), "--env", "production"],
        3,
        "cannot be served on https-shop.localhost",
    );
    let stop = json!({ "shutdown_when_idle": false }).to_string();
    assert_eq!(outside.ask(&owner, "POST", "/v1/apps/production/https-shop/stop", &stop).0, 200);
    let in_beta = ["deploy", path(&shop), "--env", "beta"];
    claiming(&shop, "https-shop.localhost", "/");
    outside.fails(&beta, &in_beta, 3, "belongs to production/https-shop");

    // Both are for whoever is for all apps.
    let admin = outside.token("all", &["--role", "deployer"]);
    outside.lines(&admin, &deploy);
    outside.lines(&other, &deploy);

    // What was sent for one app is not there for another that names its digest, and is not put there for it.
    let sent = outside.bowline.state().join("sources/.contents/production/https-shop");
    let is_own = |file: &std::fs::DirEntry| std::fs::read(file.path()).is_ok_and(|text| text == b"of the shop alone");
    let sent = std::fs::read_dir(&sent).expect("what was sent").flatten().find(is_own).expect("a content");
    let (digest, size) = (sent.file_name(), sent.metadata().expect("a file").len());
    let file = json!({ "kind": "file", "size": size, "content": digest.to_str() });
    let (status, offered) = outside.ask(
        &other,
        "POST",
        "/v1/sources/production/https-board",
        &json!({ "entries": { "stolen": file } }).to_string(),
    );
    assert_eq!((status, &offered["missing"]), (200, &json!([digest.to_str()])));
    let place = format!("/v1/sources/production/https-board/{}", offered["source"].as_str().expect("a digest"));
    assert_eq!(outside.ask(&other, "POST", &place, "").0, 400);
    assert_eq!(
        outside.ask(&other, "PUT", &format!("/v1/contents/production/https-shop/{}", "0".repeat(64)), "x").0,
        403
    );
}

#[test]
fn who_has_no_token_that_holds_is_not_let_in() {
    let outside = Outside::start();
    let token = outside.token("ci", &["--role", "viewer", "--expires", "never"]);
    assert!(token.starts_with("bowline_"), "{token}");
    assert!(outside.run(&token, &["status"]).status.success());
    outside.fails("", &["status"], 3, "there is no token for");
    outside.fails("bowline_wrong", &["status"], 3, "does not know that token");
    outside.fails("bowline_wrong", &["status"], 3, "bowline login");
    let short = outside.token("short", &["--role", "viewer", "--expires", "1s"]);
    wait("it is over", SOON, || (outside.run(&short, &["status"]).status.code() == Some(3)).then_some(()));
    outside.fails(&short, &["status"], 3, "the token is over");
    let listed = outside.bowline.json_text(&["token", "list"]);
    assert!(listed.contains("\"short\"") && !listed.contains(&token) && listed.contains("\"used\""), "{listed}");
    let revoked = outside.bowline.json(&["token", "revoke", "ci"]);
    assert!(revoked["revoked"].is_u64(), "{revoked}");
    outside.fails(&token, &["status"], 3, "the token was revoked");
    assert!(outside.bowline.fails(&["token", "revoke", "ci"], 2).contains("no token"));
    assert!(outside.bowline.fails(&["token", "create", "x", "--role", "root"], 2).contains("deployer"));
    let events = outside.bowline.json_text(&["events"]);
    assert!(
        events.contains("token.created") && events.contains("token.revoked") && !events.contains(&token),
        "{events}"
    );

    // Never in clear: not by the client, and not by the edge.
    assert!(outside.bowline.fails(&["status", "--to", "http://bowline-api.localhost"], 2).contains("no place"));
    let holds = outside.token("holds", &["--role", "viewer"]);
    let (plain, bearer) = (format!("http://{}/v1/version", outside.http), format!("Authorization: Bearer {holds}"));
    let answer = curl(&outside.bowline.ca(), &plain, &["-H", "Host: bowline-api.localhost", "-H", &bearer]);
    assert!(answer.status == 403 && answer.text().contains("HTTPS only"), "{}", answer.text());
    let mut untrusting = outside.command(&holds, &["status"]);
    let untrusting = untrusting.env_remove("BOWLINE_CA").output().expect("the binary runs");
    assert_eq!(untrusting.status.code(), Some(4), "{}", text(&untrusting));
    assert!(text(&untrusting).contains("BOWLINE_CA"), "{}", text(&untrusting));

    // Whoever tries without end is told to wait; a token that holds lets in nevertheless.
    let tried: Vec<u16> = (0..20).map(|n| outside.ask(&format!("bowline_{n}"), "GET", "/v1/status", "").0).collect();
    assert!(tried.contains(&429), "{tried:?}");
    assert_eq!(outside.ask(&holds, "GET", "/v1/status", "").0, 200);
    let log = std::fs::read_to_string(outside.bowline.folder("parent").join("journal")).expect("the daemon's log");
    assert!(log.contains("a client was not let in") && !log.contains("bowline_1"), "{log}");
    for token in [&token, &short, &holds] {
        assert_eq!(outside.bowline.files_with(token.as_bytes()), Vec::<PathBuf>::new(), "a token lies nowhere");
    }
}

#[test]
fn what_a_token_has_opened_ends_with_it() {
    let outside = Outside::start();
    let deployer = outside.token("ci", &["--role", "deployer"]);
    let folder = app(&outside.bowline, "https-over");
    let deployed = outside.run(&deployer, &["deploy", path(&folder), "--env", "production"]);
    assert!(deployed.status.success(), "{}", text(&deployed));
    let exec = ["exec", "https-over.web", "--env", "production", "--", "sh", "-c", "echo begun; exec sleep 61423"];
    let logs = ["logs", "https-over", "--env", "production", "--follow"];
    let sleeps = || processes().into_iter().filter(|one| one.arguments() == ["sleep", "61423"]).count();
    for (expires, words) in [("1h", "the token was revoked"), ("10s", "the token is over")] {
        let token = outside.token("ops", &["--role", "operator", "--expires", expires]);
        let begin = |args: &[&str]| {
            let mut command = outside.command(&token, args);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
        };
        let (mut exec, mut logs) = (begin(&exec), begin(&logs));
        let mut begun = String::new();
        BufReader::new(exec.stdout.as_mut().expect("a pipe")).read_line(&mut begun).expect("it reads");
        BufReader::new(logs.stdout.as_mut().expect("a pipe")).read_line(&mut begun).expect("it reads");
        assert!(begun.starts_with("begun\n") && begun.len() > 6, "{begun}");
        if expires == "1h" {
            let said = text(&outside.bowline.run(&["token", "revoke", "ops"]));
            assert!(said.contains("had open has ended"), "{said}");
        }
        for (what, child) in [("the session", exec), ("the lines", logs)] {
            let output = child.wait_with_output().expect("it was started");
            assert!(!output.status.success(), "{what}: {}", text(&output));
            assert!(what == "the lines" || text(&output).contains(words), "{what}: {}", text(&output));
        }
        wait("nothing of the session is left", SOON, || (sleeps() == 0).then_some(()));
    }
}

#[test]
fn a_login_is_kept_for_its_user_alone() {
    let outside = Outside::start();
    assert_eq!(outside.bowline.status()["edge"]["api"], outside.url.clone());
    let token = outside.token("ann", &["--role", "viewer"]);
    let config = outside.bowline.folder("config");
    let command = |args: &[&str]| {
        let mut command = outside.command("", args);
        command.env_remove("BOWLINE_CA").env("XDG_CONFIG_HOME", &config);
        command
    };
    let wrong = outside.login(&config, "bowline_wrong");
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong));
    let file = config.join("bowline/tokens.json");
    assert!(!file.exists(), "what does not hold is not kept");
    let done = outside.login(&config, &token);
    assert!(done.status.success(), "{}", text(&done));
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((&said["url"], &said["token"]["name"]), (&outside.url.clone().into(), &"ann".into()));
    assert_eq!(mode(&file), 0o600);
    assert!(!text(&done).contains(&token));
    let status = command(&["status"]).output().expect("the binary runs");
    assert!(status.status.success(), "the token and the CA are known: {}", text(&status));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a file of the test");
    let refused = command(&["status"]).output().expect("the binary runs");
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("is not yours alone"), "{}", text(&refused));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn the_api_is_there_again_after_an_upgrade() {
    let outside = Outside::start();
    let token = outside.token("ci", &["--role", "viewer"]);
    let mut upgraded = outside.bowline.command_of(&outside.bowline.other_binary(1), &["serve", "--upgrade", "--json"]);
    let upgraded = upgraded.output().expect("the binary runs");
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    wait("the same address and token lead to the daemon", SOON, || {
        outside.run(&token, &["status"]).status.success().then_some(())
    });
}

/// A chain and its key for the API's host, in files of this folder.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    self_signed(folder, "bowline-api.localhost")
}

#[test]
fn a_certificate_in_files_is_the_apis() {
    let bowline = Bowline::new();
    let (chain, key) = certificate(&bowline.folder("certificate"));
    let files = format!("certificate = \"{}\"\nkey = \"{}\"\n", path(&chain), path(&key));
    let outside = Outside::start_with(bowline, &files);
    let token = outside.token("ci", &["--role", "viewer"]);
    let status = outside.command(&token, &["status"]).env("BOWLINE_CA", &chain).output().expect("the binary runs");
    assert!(status.status.success(), "{}", text(&status));
    outside.fails(&token, &["status"], 4, "certificate");
}

#[test]
fn the_api_describes_itself() {
    let outside = Outside::start();
    let token = outside.token("reader", &["--role", "secret-writer"]);
    let (status, document) = outside.ask(&token, "GET", "/v1/openapi.json", "");
    assert_eq!((status, &document["openapi"]), (200, &"3.1.0".into()));
    assert_eq!(outside.ask("bowline_wrong", "GET", "/v1/openapi.json", "").0, 401);
    let (_, me) = outside.ask(&token, "GET", "/v1/whoami", "");
    assert_eq!(me["token"]["role"], "secret-writer");
    let viewer = outside.token("viewer", &["--role", "viewer"]);
    let (status, fault) = outside.ask(&viewer, "GET", "/v1/data?env=a&env=b", "");
    assert_eq!((status, fault["caused_by"].as_array().map(Vec::len)), (400, Some(1)), "it is said once: {fault}");
    let properties = document["components"]["schemas"]["TokenInfo"]["properties"].as_object().expect("a shape");
    for field in me["token"].as_object().expect("a token").keys() {
        assert!(properties.contains_key(field), "{field} is sent and not described");
    }
}

/// The page that is held equal to what a daemon answers, as the validator of others reads it.
#[test]
fn the_document_is_valid_to_others() {
    let bowline = Bowline::new();
    let venv = bowline.folder("venv");
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().expect("python3-venv is installed by scripts/setup");
        assert!(output.status.success(), "{program} {args:?}: {}", text(&output));
    };
    run("python3", &["-m", "venv", path(&venv)]);
    let of_venv = |name: &str| venv.join("bin").join(name).display().to_string();
    run(&of_venv("pip"), &["install", "--quiet", "openapi-spec-validator==0.9.0"]);
    run(&of_venv("openapi-spec-validator"), &[path(&bowline_tests::root().join("docs/reference/openapi.json"))]);
}
