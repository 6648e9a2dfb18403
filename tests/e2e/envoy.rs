//! A real Envoy as the edge, told over xDS.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use bowline_tests::client::{Answer, curl, target, tls_of};
use bowline_tests::load::Load;
use bowline_tests::machine::{Process, processes};
use bowline_tests::port::Port;
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::up::Up;
use bowline_tests::wire::Wire;
use bowline_tests::wire2::{self, Way};
use bowline_tests::{Bowline, SOON, envoy, path, text, wait};
use nix::sys::signal::Signal;

use crate::canary::{CANARY, answering, begin, release, released, taken_back};

/// An Envoy of 100 MB is read from disk first, and starts more slowly than an edge of Bowline's.
pub(crate) const START: Duration = Duration::from_secs(60);

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

fn app(bowline: &Bowline, name: &str, toml: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    write(&folder, toml);
    folder
}

fn write(folder: &Path, toml: &str) {
    let service = "[service.web]\nrun = \"python3 server.py\"\nhealth = { path = \"/health\", interval = \"300ms\" }\n";
    let toml = format!("{service}[route.main]\nto = \"web\"\n{toml}");
    std::fs::write(folder.join("bowline.toml"), toml).expect("a test's file");
}

fn up(bowline: &Bowline, folder: &Path) -> Up {
    assert!(envoy().exists(), "run scripts/setup first: {} is missing", envoy().display());
    Up::start_with(bowline, folder, &["--edge", "envoy"], START)
}

/// One request in each version, which must be answered alike, with the answer's head.
fn each(bowline: &Bowline, url: &str, args: &[&str]) -> Answer {
    let answers = VERSIONS.map(|version| curl(&bowline.ca(), url, &[args, &[version, "--include"]].concat()));
    assert_eq!(answers[0].status, answers[1].status, "{args:?}: {} {}", answers[0].text(), answers[1].text());
    let [_, second] = answers;
    second
}

/// A body in each version. By curl nothing is heard of an answer behind which a stream is reset.
fn posted(bowline: &Bowline, url: &str, body: &str, announced: bool) -> [u16; 2] {
    let (ca, (name, to)) = (bowline.ca(), target(url));
    let chunks: &[&str] = if announced { &[] } else { &["-H", "Transfer-Encoding: chunked"] };
    let first = curl(&ca, url, &[&["--http1.1", "-d", body], chunks].concat()).status;
    let request = http::Request::post(url).version(http::Version::HTTP_2);
    let request = if announced { request.header("content-length", body.len()) } else { request };
    let way = Way { from: ([127, 0, 0, 1], 0).into(), to, name, tls: tls_of(&ca, rustls::DEFAULT_VERSIONS, &[b"h2"]) };
    let request = request.body(()).expect("a request");
    [first, wire2::ask(&way, request, body.as_bytes()).expect("an answer").status]
}

fn set(bowline: &Bowline, app: &str, name: &str, value: &str) {
    let file = bowline.folder("secrets").join(name);
    std::fs::write(&file, value).expect("a test's file");
    let output = bowline.run(&["secret", "set", app, name, "--file", path(&file)]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn envoy_serves_and_tells_what_it_serves() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-serves", "hsts = { age = \"1h\" }\ncompress = true\n"));
    let status = bowline.status();
    assert_eq!(status["edge"]["engine"], "envoy", "{status}");
    let process = Process { pid: bowline.edge() };
    assert!(process.arguments()[0].ends_with("envoy"), "{:?}", process.arguments());
    let answer = each(&bowline, &up.https(), &[]);
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("hello from ") && answer.version == "2", "{}", answer.text());
    assert_eq!(curl(&bowline.ca(), &up.http(), &[]).status, 200);
    let big = each(&bowline, &format!("{}/bytes/100000", up.https()), &["-H", "Accept-Encoding: identity"]);
    assert!(big.body.len() > 100_000);
    assert_eq!(curl(&bowline.ca(), &up.http(), &["-H", "Host: nobody.localhost"]).status, 404);
    let other = ["--connect-to", "::127.0.0.1:", "-H", "Host: other.localhost"];
    assert_eq!(each(&bowline, &up.https(), &other).status, 421, "a connection for another name");
    let line = wait("the access log tells of it", SOON, || {
        let log = bowline.json_text(&["logs", "envoy-serves", "--access"]);
        log.lines().find(|line| line.contains("\"access\"") && line.contains("/bytes/100000")).map(str::to_owned)
    });
    for part in ["envoy-serves", "web", "200", "GET", "127.0.0.1", "r1.0"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    wait("requests are counted by release", SOON, || {
        let metrics = curl(&bowline.ca(), &format!("{}/metrics", up.admin()), &[]).text();
        let counted = metrics.lines().any(|line| {
            let of_release = line.contains("release=\"1\"") && line.contains("service=\"web\"");
            of_release && line.contains("_count{") && line.contains("duration") && line.contains("200")
        });
        counted.then_some(())
    });
    assert!(up.interrupt().success());
    wait("Envoy is gone", SOON, || (!process.runs()).then_some(()));
}

#[test]
fn envoy_lets_in_only_who_may_come() {
    const TOKEN: &str = "canary-3c1f-envoy-token";
    let bowline = Bowline::new();
    let routes = "auth = { header = \"X-Auth-Token\", secret = \"api-token\" }\n\
        [route.people]\npath = \"/people\"\nto = \"web\"\nauth = { basic = { secret = \"people\" } }\n\
        [route.robots]\npath = \"/robots\"\nto = \"web\"\nauth = { bearer = { secret = \"api-token\" } }\n\
        [route.outside]\npath = \"/inside\"\nto = \"web\"\nallow = [\"192.0.2.0/24\"]\n\
        [route.within]\npath = \"/here\"\nto = \"web\"\nallow = [\"127.0.0.0/8\"]\n\
        [route.often]\npath = \"/often\"\nto = \"web\"\nlimit = { rate = \"3/h\" }\n\
        [route.small]\npath = \"/small\"\nto = \"web\"\nlimit = { body = \"1KiB\" }\n\
        [route.no]\npath = \"/no\"\ndeny = true\n";
    // The first address that is told is that of `main`: they come in the order of names.
    let folder = app(&bowline, "envoy-policies", routes);
    let refused =
        bowline.fails(&["up", path(&folder), "--edge", "envoy", "--http", "0", "--https", "0", "--admin", "0"], 2);
    assert!(refused.contains("api-token") && refused.contains("people"), "{refused}");
    set(&bowline, "envoy-policies", "api-token", TOKEN);
    set(&bowline, "envoy-policies", "people", "ann:canary-password\nbob:other\n");
    let up = up(&bowline, &folder);
    let get = |path: &str, args: &[&str]| each(&bowline, &format!("{}{path}", up.https()), args);
    let token = format!("X-Auth-Token: {TOKEN}");
    assert_eq!(get("/", &["-H", &token]).status, 200);
    assert_eq!(get("/", &[]).status, 403);
    assert_eq!(get("/", &["-H", "X-Auth-Token: other"]).status, 403);
    assert_eq!(get("/", &["-H", &token, "-H", &token]).status, 403, "two tokens are none");
    let wanted = get("/people", &[]);
    assert_eq!(wanted.status, 401);
    assert!(wanted.text().to_lowercase().contains("www-authenticate: basic realm="), "{}", wanted.text());
    assert_eq!(get("/people", &["-u", "ann:canary-password"]).status, 200);
    assert_eq!(get("/people", &["-u", "bob:other"]).status, 200);
    assert_eq!(get("/people", &["-u", "ann:other"]).status, 401);
    assert_eq!(get("/PEOPLE", &[]).status, 401, "no spelling leads past it");
    assert_eq!(get("/robots", &["-H", "Authorization: Bearer nonsense"]).status, 401);
    assert_eq!(get("/robots", &["-H", &format!("Authorization: Bearer {TOKEN}")]).status, 200);
    let long = format!("Authorization: Bearer {}{TOKEN}", " ".repeat(5000));
    assert_eq!(get("/robots", &["-H", &long]).status, 401, "nothing is computed with so much");
    assert_eq!(get("/inside", &["-H", "X-Forwarded-For: 192.0.2.1"]).status, 403, "nobody is believed");
    assert_eq!(get("/here", &[]).status, 200);
    assert_eq!(get("/no", &["-H", &token]).status, 403);
    let often: Vec<u16> =
        (0..5).map(|_| curl(&bowline.ca(), &format!("{}/often", up.https()), &["--http1.1"]).status).collect();
    assert_eq!(often, [200, 200, 200, 429, 429]);
    let refused = curl(&bowline.ca(), &format!("{}/often", up.https()), &["--http2", "--include"]);
    assert!(refused.text().contains("retry-after: 1200"), "{}", refused.text());
    let (fits, large) = ("x".repeat(1000), "x".repeat(2000));
    let small = format!("{}/small", up.https());
    let post = |body: &str, announced| posted(&bowline, &small, body, announced);
    assert_eq!(post(&fits, true), [200, 200]);
    assert_eq!(post(&large, true), [413, 413]);
    // The last frame of a stream is not counted.
    assert_eq!(post(&"x".repeat(40_000), false), [413, 413], "announced or not");

    for verb in [["status"].as_slice(), &["logs"], &["logs", "--access"], &["events"]] {
        assert!(!bowline.json_text(verb).contains("canary-"), "{verb:?} shows a secret");
    }
    assert_eq!(bowline.files_with(b"canary-"), Vec::<PathBuf>::new());
}

#[test]
fn an_address_is_a_host_beside_names() {
    let bowline = Bowline::new();
    let _server = Server::start_with(&bowline, &[], &[&ANY_PORTS[..], &["--edge", "envoy"]].concat());
    let hosts = "[environment.production.route.main]\nhosts = [\"127.0.0.1\", \"named.localhost\"]\n";
    let folder = app(&bowline, "envoy-address", hosts);
    let output = bowline.run(&["deploy", path(&folder), "--env", "production"]);
    assert!(output.status.success(), "{}", text(&output));
    let status = bowline.status();
    let (_, port) = status["edge"]["https"].as_str().and_then(|at| at.rsplit_once(':')).expect("an address");
    let to = format!("::127.0.0.1:{port}");
    for host in ["127.0.0.1", "named.localhost"] {
        let answer = each(&bowline, &format!("https://{host}:{port}/"), &["--connect-to", &to]);
        assert_eq!(answer.status, 200, "{host} has its own certificate and its own routes: {}", answer.text());
    }
}

#[test]
fn envoy_answers_503_while_an_app_is_worked_on() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-maintenance", ""));
    let run = |args: &[&str]| {
        let output = bowline.run(&[&["maintenance"], args].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    let answers = |status: u16, what: &str| {
        wait(what, SOON, || (each(&bowline, &up.https(), &[]).status == status).then_some(()));
    };
    run(&["on", "envoy-maintenance"]);
    answers(503, "everyone is told to come back");
    let told = each(&bowline, &up.https(), &[]).text().to_lowercase();
    assert!(told.contains("retry-after: 60"), "{told}");
    run(&["on", "envoy-maintenance", "--allow", "127.0.0.1"]);
    answers(200, "those who are let in are");
    run(&["on", "envoy-maintenance", "--allow", "192.0.2.0/24"]);
    answers(503, "and nobody else");
    run(&["off", "envoy-maintenance"]);
    answers(200, "it is over");
}

#[test]
fn a_release_behind_envoy_drops_nothing() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "envoy-release", "");
    let up = up(&bowline, &folder);
    let load = Load::start(&up.https(), "/", &bowline.ca());
    for release in 2..4 {
        write(&folder, &format!("[service.web.env]\nGREETING = \"{release}\"\n"));
        let output = bowline.run(&["up", path(&folder), "--detach"]);
        assert!(output.status.success(), "{}", text(&output));
        load.more();
        let env = curl(&bowline.ca(), &format!("{}/env", up.https()), &[]).text();
        assert!(env.contains(&format!("GREETING={release}")), "{env}");
    }
    load.stop().expect_no_failure("while two releases took over");
}

#[test]
fn a_canary_behind_envoy_is_judged_by_what_it_answered() {
    let bowline = Bowline::new();
    let _server = Server::start_with(&bowline, &[], &[&ANY_PORTS[..], &["--edge", "envoy"]].concat());
    let (folder, url) = released(&bowline, "envoy-canary", CANARY);
    let load = Load::start_whole(&url, "/", &bowline.ca());
    answering(&folder, "self.answer(b\"second\")");
    let deploying = begin(&bowline, &folder);
    wait("browsers are given a place", SOON, || {
        let answer = curl(&bowline.ca(), &url, &["--include"]).text();
        answer.contains("set-cookie: bowline-release=").then_some(())
    });
    let look = |release: &str| curl(&bowline.ca(), &url, &["-H", &format!("x-bowline-preview: {release}")]);
    assert_eq!(look("2").text(), "second");
    assert!(look("1").text().contains("hello from "));
    assert_eq!(look("9").status, 200, "one that does not run is passed over");
    let output = deploying.wait_with_output().expect("it was started");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(release(&bowline), 2);
    load.stop().expect_no_failure("while a canary took over");
}

#[test]
fn envoy_outlives_the_daemon_and_is_started_again_when_it_dies() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "envoy-kills", "");
    let up = up(&bowline, &folder);
    let (daemon, envoy) = (Process { pid: bowline.daemon() }, bowline.edge());
    let load = Load::start(&up.https(), "/", &bowline.ca());
    daemon.kill();
    wait("the daemon is gone", SOON, || (!daemon.runs()).then_some(()));
    load.more();
    wait("the app is adopted", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    assert_eq!(bowline.edge(), envoy, "the same Envoy");
    load.stop().expect_no_failure("while the daemon was killed and came back");
    // The daemon that has come feeds the Envoy that it found.
    write(&folder, "[service.web.env]\nGREETING = \"2\"\n");
    let output = bowline.run(&["up", path(&folder), "--detach"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(curl(&bowline.ca(), &format!("{}/env", up.https()), &[]).text().contains("GREETING=2"));

    Process { pid: envoy }.kill();
    wait("another one serves on the same ports", START, || {
        let output = Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &up.http()]).output();
        (output.expect("curl runs").stdout == b"200").then_some(())
    });
    wait("it is another one", SOON, || (bowline.status()["edge"]["state"] == "serving").then_some(()));
    assert_ne!(bowline.edge(), envoy);
}

#[test]
fn a_canary_behind_envoy_that_fails_is_taken_back() {
    let bowline = Bowline::new();
    let _server = Server::start_with(&bowline, &[], &[&ANY_PORTS[..], &["--edge", "envoy"]].concat());
    taken_back(&bowline, "envoy-canary-bad");
}

/// By its listener on a port that somebody else has for a moment.
#[test]
fn what_envoy_refuses_is_said_holds_up_nobody_else_and_is_tried_again() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "envoy-taken", "");
    let up = up(&bowline, &folder);
    let (before, (_, http)) = (bowline.edge(), target(&up.http()));
    Process { pid: before }.kill();
    let taken = wait("the port is free", SOON, || TcpListener::bind(http).ok());
    wait("it is said why", START, || {
        let fault = bowline.status()["edge"]["fault"].clone();
        let why = fault["caused_by"].to_string();
        (fault["error"] == "Envoy refused a listener (`http`)" && why.contains("cannot bind")).then_some(())
    });
    wait("HTTPS is served", START, || is_answered(&bowline, &up.https()).then_some(()));
    write(&folder, "[service.web.env]\nGREETING = \"2\"\n");
    let output = bowline.run(&["up", path(&folder), "--detach"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("has not taken up"), "{}", text(&output));
    assert!(curl(&bowline.ca(), &format!("{}/env", up.https()), &[]).text().contains("GREETING=2"));
    drop(taken);
    wait("HTTP is served, too", START, || is_answered(&bowline, &up.http()).then_some(()));
    wait("nothing is wrong any more", SOON, || bowline.status()["edge"]["fault"].is_null().then_some(()));
    assert_ne!(bowline.edge(), before);
}

/// Of one that may not listen.
fn is_answered(bowline: &Bowline, url: &str) -> bool {
    let ca = bowline.ca();
    let args = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert", path(&ca), url];
    Command::new("curl").args(args).output().expect("curl runs").stdout == b"200"
}

#[test]
fn a_log_that_was_put_aside_by_a_daemon_which_died_is_begun_anew() {
    let bowline = Bowline::new();
    let up = up(&bowline, &app(&bowline, "envoy-log", ""));
    let log = bowline.state().join("logs/edge/access.log");
    bowline.kill_daemon();
    std::fs::rename(&log, log.with_extension("log.1")).expect("Envoy's log");
    wait("the next daemon is there", SOON, || (bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    wait("what is asked now is written where it is looked for", SOON, || {
        assert_eq!(curl(&bowline.ca(), &up.https(), &[]).status, 200);
        std::fs::read_to_string(&log).unwrap_or_default().contains("envoy-log").then_some(())
    });
    wait("and counted", SOON, || {
        let admin = bowline.status()["daemon"]["admin"].as_str().expect("an address").to_owned();
        let metrics = curl(&bowline.ca(), &format!("http://{admin}/metrics"), &[]).text();
        let counted =
            metrics.lines().find(|line| line.contains("duration") && line.contains("_count{app=\"envoy-log\""));
        counted.is_some_and(|line| !line.ends_with(" 0")).then_some(())
    });
}

#[test]
fn an_envoy_that_cannot_ask_yet_is_kept_and_asks_as_soon_as_it_can() {
    let bowline = Bowline::new();
    let args = [&ANY_PORTS[..], &["--edge", "envoy"]].concat();
    let server = Server::start_with(&bowline, &[], &args);
    released(&bowline, "envoy-unbound", CANARY);
    let (socket, before) = (bowline.api_socket().with_file_name("envoy.xds.sock"), Process { pid: bowline.edge() });
    server.end(Signal::SIGTERM);
    before.kill();
    wait("Envoy is gone", SOON, || (!before.runs()).then_some(()));
    std::fs::remove_file(&socket).expect("the server made it");
    std::fs::create_dir_all(socket.join("in the way")).expect("a folder in its place");
    let _next = Server::begin(&bowline, &[], &args);
    wait("it is said why", START, || {
        let output = bowline.run(&["status"]);
        text(&output).contains("envoy.xds.sock cannot be made").then_some(())
    });
    let envoy = bowline.edge();
    std::fs::remove_dir_all(&socket).expect("the folder is this test's");
    wait("it serves", START, || {
        let https = bowline.status()["edge"]["https"].as_str()?.rsplit_once(':')?.1.to_owned();
        is_answered(&bowline, &format!("https://envoy-unbound.localhost:{https}")).then_some(())
    });
    assert_eq!(bowline.edge(), envoy, "it is the same one");
    let bootstrap = socket.with_file_name("envoy.json");
    let of_state = |process: &Process| process.arguments().iter().any(|argument| argument == path(&bootstrap));
    assert_eq!(processes().iter().filter(|process| of_state(process)).count(), 1, "and the only one");
}

#[test]
fn what_envoy_cannot_do_is_refused_by_its_key() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "envoy-refuses", "[service.web.scale]\nmin = 0\nmax = 1\n");
    let args = ["--edge", "envoy", "--http", "0", "--https", "0", "--admin", "0"];
    let refused = bowline.fails(&[&["up", path(&folder)], &args[..]].concat(), 2);
    assert!(refused.contains("service.web.scale.min"), "{refused}");
    let proxies = bowline.fails(&[&["up", path(&folder), "--trusted-proxy", "10.0.0.0/8"], &args[..]].concat(), 2);
    assert!(proxies.contains("proxies in front"), "{proxies}");
}

#[test]
fn an_envoy_that_is_too_old_is_refused_before_anything_is_served() {
    let bowline = Bowline::new();
    let folder = app(&bowline, "envoy-old", "");
    let old = bowline.folder("old").join("envoy");
    std::fs::write(&old, "#!/bin/sh\necho 'envoy  version: 1234/1.37.5/Clean/RELEASE/BoringSSL'\n").expect("a file");
    std::fs::set_permissions(&old, Permissions::from_mode(0o755)).expect("a file of the test");
    let args = ["up", path(&folder), "--edge", "envoy", "--http", "0", "--https", "0", "--admin", "0"];
    let output = bowline.command(&args).env("BOWLINE_ENVOY", &old).output().expect("the binary runs");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("it is Envoy 1.37, and 1.40 or later is wanted") && said.contains("hint:"), "{said}");
}

/// Until it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, or now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is answered to a request for `/denied`.
fn denied(at: SocketAddr) -> std::io::Result<String> {
    let mut wire = Wire::connect(at)?;
    wire.send(b"GET /denied HTTP/1.1\r\nHost: envoy-heap.localhost\r\n\r\n")?;
    let answer = wire.answer_to("GET")?;
    Ok(answer.field("x-bowline-error").unwrap_or_default().to_owned())
}

#[test]
fn a_full_heap_refuses_others_until_those_who_hold_it_are_cut() {
    let bowline = Bowline::new();
    let routes = "tls = \"off\"\n[route.no]\ntls = \"off\"\npath = \"/denied\"\ndeny = true\n";
    let folder = app(&bowline, "envoy-heap", routes);
    let ports = [Port::reserve(), Port::reserve()];
    let [http, admin] = ports.each_ref().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port.number)));
    let (said, log) = ([http, admin].map(|at| at.to_string()), bowline.folder("logs").join("access.log"));
    let args = ["render", "envoy", path(&folder), "--env", "local", "--endpoint", "web=127.0.0.1:9"];
    let where_to = ["--http", &said[0], "--admin", &said[1], "--access-log", path(&log)];
    let output = bowline.run(&[&args[..], &where_to].concat());
    assert!(output.status.success(), "{}", text(&output));
    let mut rendered: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // As much as it needs by itself, and a little more.
    let heap = &mut rendered["overload_manager"]["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"];
    *heap = (24 << 20).into();
    let file = bowline.folder("rendered").join("envoy.json");
    std::fs::write(&file, rendered.to_string()).expect("a test's file");
    let mut command = Command::new(envoy());
    command.args(["-c", path(&file), "--disable-hot-restart", "--log-level", "error"]);
    let _envoy = Running(command.spawn().expect("Envoy runs"));
    wait("it serves", START, || (denied(http).ok()? == "denied").then_some(()));

    // Held until they are whole, which they never are.
    let part = [
        &b"POST / HTTP/1.1\r\nHost: envoy-heap.localhost\r\nTransfer-Encoding: chunked\r\n\r\n32000\r\n"[..],
        &[b'x'; 0x32000],
    ]
    .concat();
    let mut held = Vec::new();
    wait("so many of them that there is no room for others", SOON, || {
        let mut wire = Wire::connect(http).ok()?;
        // Who is refused may be so in the middle.
        let _ = wire.send(&part);
        held.push(wire);
        (denied(http).ok()? == "edge-overloaded").then_some(())
    });
    assert!(held.len() > 20, "not by little: {}", held.len());
    wait("they have a twentieth of their time, which is over", SOON, || (denied(http).ok()? == "denied").then_some(()));
}
