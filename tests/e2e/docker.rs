//! Instances as containers of Docker, and of Podman by the same API: the same apps, the same verbs, the same promises.

mod data;
mod hanging;
mod limits;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bowline_fault_points::{Point, Role};
use bowline_tests::client::curl;
use bowline_tests::engine::{Container, Engine, Kind};
use bowline_tests::load::Load;
use bowline_tests::machine::Process;
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::up::Up;
use bowline_tests::{BUILD, Bowline, SOON, path, text, wait};
use serde_json::Value;

use crate::canary::{CANARY, answering};

/// A first image is made of some packages of this machine.
const IMAGE: Duration = BUILD;

/// A daemon whose instances are containers, with an app. It ends before its engine.
struct Scene {
    up: Up,
    bowline: Bowline,
    engine: Engine,
    name: &'static str,
}

impl Scene {
    /// `more`: of `bowline.toml`.
    fn set(kind: Kind, name: &'static str, more: &str) -> Self {
        let (engine, bowline) = (Engine::start(kind), Bowline::new());
        let folder = app(&bowline, name, more);
        Self::with(engine, bowline, name, &folder)
    }

    fn with(engine: Engine, bowline: Bowline, name: &'static str, folder: &Path) -> Self {
        let up = Up::start_with(&bowline, folder, &["--runtime", "docker", "--engine", path(&engine.socket())], IMAGE);
        Self { up, bowline, engine, name }
    }

    fn get(&self, at: &str) -> String {
        curl(&self.bowline.ca(), &format!("{}{at}", self.up.https()), &[]).text()
    }

    /// Fails if there is more than one copy.
    fn only_copy(&self) -> Container {
        wait("exactly one copy runs", SOON, || match self.engine.containers(self.name).as_slice() {
            [one] => Some(one.clone()),
            _ => None,
        })
    }

    fn answers(&self) {
        wait("the app answers", SOON, || self.get("/").starts_with("hello from").then_some(()));
    }

    /// Of its one instance, as it is exposed.
    fn metric(&self, name: &str) -> Option<f64> {
        let metrics = curl(&self.bowline.ca(), &format!("{}/metrics", self.up.admin()), &[]).text();
        let (start, own) = (format!("{name}{{"), format!("app=\"{}\"", self.name));
        let line = metrics.lines().find(|line| line.starts_with(&start) && line.contains(&own))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    fn instance(&self) -> Value {
        self.bowline.status()["apps"][0]["services"][0]["instances"][0].clone()
    }
}

/// The fixture `plain` with more in its file.
fn app(bowline: &Bowline, name: &str, more: &str) -> PathBuf {
    let folder = bowline.app(name, "plain");
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the fixture's file");
    std::fs::write(&file, format!("{plain}{more}")).expect("a file of the test");
    folder
}

#[test]
fn an_app_in_docker_answers_and_what_dies_comes_back_once() {
    lives(Kind::Docker, "docker-lives");
}

#[test]
fn an_app_in_podman_answers_and_what_dies_comes_back_once() {
    lives(Kind::Podman, "podman-lives");
}

fn lives(kind: Kind, name: &'static str) {
    // More processors than the machine has.
    let scene = Scene::set(kind, name, "limits = { memory = \"96MiB\", cpu = 64 }\n");
    assert!(scene.get("/").starts_with("hello from"), "{}", scene.get("/"));
    is_closed(&scene);
    // An instance dies: one copy comes back, and the restart is counted.
    let first = scene.only_copy();
    first.first.kill();
    wait("the killed copy is gone", SOON, || (!first.first.runs()).then_some(()));
    scene.answers();
    let second = scene.only_copy();
    assert_eq!((&second.name, second.first == first.first), (&first.name, false), "of the same slot");
    assert_eq!(scene.instance()["restarts"], 1);
    // The daemon dies: the next one finds what runs.
    let load = Load::start(&scene.up.https(), "/", &scene.bowline.ca());
    let daemon = scene.bowline.daemon();
    Process { pid: daemon }.kill();
    wait("the daemon is gone", SOON, || (!Process { pid: daemon }.runs()).then_some(()));
    wait("the app is adopted", SOON, || (scene.bowline.status()["apps"][0]["state"] == "ready").then_some(()));
    assert_ne!(scene.bowline.daemon(), daemon, "another daemon");
    assert_eq!(scene.only_copy(), second, "the same container");
    load.stop().expect_no_failure("while the daemon was killed and came back");
    // Who keeps it dies: nothing is left of it, and another one comes.
    let shims: Vec<Process> = bowline_tests::machine::processes()
        .into_iter()
        .filter(|process| {
            let words = process.arguments();
            words.get(1).is_some_and(|word| word == "shim") && words.get(2).is_some_and(|id| id.contains(name))
        })
        .collect();
    let [shim] = shims.as_slice() else { panic!("one shim: {shims:?}") };
    shim.kill();
    wait("the container of a dead shim is gone", SOON, || (!second.first.runs()).then_some(()));
    scene.answers();
    scene.only_copy();
    // A person starts it anew by its engine, who does not go on with what nobody keeps.
    let before = scene.only_copy();
    let restarts = scene.instance()["restarts"].as_u64();
    let _ = scene.engine.command(&["restart", "--time", "5", &before.name]).output().expect("docker is there");
    wait("another one of its slot", SOON * 2, || {
        let now = scene.instance();
        (now["restarts"].as_u64() > restarts && now["state"] == "ready").then_some(())
    });
    scene.answers();
    assert_ne!(scene.only_copy().first, before.first);
    // Its engine removes it, as a person may.
    scene.engine.ask("DELETE", &format!("/containers/{}?force=true", first.name));
    scene.answers();
    scene.only_copy();
    is_joined(&scene);
    let down = scene.bowline.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(scene.engine.all(), [""; 0], "nothing is left in the engine");
}

/// A command beside the app, in its container or in one of its own, under the same locks.
fn is_joined(scene: &Scene) {
    let copy = scene.only_copy();
    let script =
        "echo $BOWLINE_APP; id -u; grep -E '^(CapEff|NoNewPrivs):' /proc/self/status; touch /etc/x || echo kept";
    for verb in ["exec", "run"] {
        let output = scene.bowline.run(&[verb, scene.name, "--", "sh", "-c", script]);
        assert!(output.status.success(), "{verb}: {}", text(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let uid = copy.first.uid().expect("it runs").to_string();
        let expected = [scene.name, &uid, "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "kept"];
        assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{verb}");
        let code = scene.bowline.run(&[verb, scene.name, "--", "sh", "-c", "exit 7"]).status.code();
        assert_eq!(code, Some(7), "{verb}");
    }
    let first = scene.bowline.run(&["exec", scene.name, "--", "cat", "/proc/1/comm"]);
    let init = std::fs::read_to_string(format!("/proc/{}/comm", copy.first.pid)).expect("it runs");
    assert_eq!(String::from_utf8_lossy(&first.stdout), init, "among the container's own processes");
    assert_eq!(scene.only_copy(), copy, "and nothing is left of the other one");
}

/// As the engine itself says.
fn is_closed(scene: &Scene) {
    let copy = scene.only_copy();
    let inspected = scene.engine.inspect(&copy.name);
    let host = &inspected["HostConfig"];
    assert_eq!(
        (&host["ReadonlyRootfs"], &host["NetworkMode"], &host["Init"]),
        (&true.into(), &"host".into(), &true.into())
    );
    assert_eq!((host["Memory"].as_u64(), host["MemorySwap"].as_u64()), (Some(96 << 20), Some(96 << 20)), "{host}");
    assert_eq!((host["CpuPeriod"].as_u64(), host["CpuQuota"].as_u64()), (Some(100_000), Some(6_400_000)), "{host}");
    assert!(host["PidsLimit"].as_u64().is_some_and(|most| most > 0 && most <= 4096), "{host}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", copy.first.pid)).expect("it runs");
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!((field("CapEff:"), field("CapBnd:")), ("0000000000000000".into(), "0000000000000000".into()));
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    assert!(copy.first.uid().is_some_and(|uid| uid != 0), "a user of its own");
    let labels = &inspected["Config"]["Labels"];
    assert_eq!((&labels["bowline.app"], &labels["bowline.service"]), (&scene.name.into(), &"web".into()));
    wait("what it uses is known", SOON, || {
        let usage = scene.instance();
        usage["memory_bytes"].as_u64().filter(|bytes| *bytes > 1 << 20 && *bytes < 96 << 20)
    });
}

#[test]
fn no_engine_is_an_error_that_says_what_to_do() {
    let bowline = Bowline::new();
    let folder = bowline.app("docker-none", "plain");
    let nowhere = bowline.folder("engine").join("docker.sock");
    let up = |runtime: &[&str], code| {
        bowline.fails(
            &[&["up", path(&folder), "--detach", "--http", "0", "--https", "0", "--admin", "0"], runtime].concat(),
            code,
        )
    };
    let said = up(&["--runtime", "docker", "--engine", path(&nowhere)], 1);
    assert!(said.contains("no container engine answers at") && said.contains("hint: start Docker"), "{said}");
    let remote = bowline
        .command(&["up", path(&folder), "--runtime", "docker"])
        .env("DOCKER_HOST", "tcp://192.0.2.1:2375")
        .output()
        .expect("the binary runs");
    assert_eq!(remote.status.code(), Some(2), "{}", text(&remote));
    assert!(text(&remote).contains("DOCKER_HOST=tcp://192.0.2.1:2375"), "{}", text(&remote));
    // A daemon is one or the other.
    let plain = bowline.run(&["up", path(&folder), "--detach", "--http", "0", "--https", "0", "--admin", "0"]);
    assert!(plain.status.success(), "{}", text(&plain));
    let other = up(&["--runtime", "docker", "--engine", path(&nowhere)], 3);
    assert!(other.contains("they are processes, and not containers of"), "{other}");
}

/// What the engine, its files and its API must not know.
const IN_ENVIRONMENT: &str = "of-the-environment-5d1f'x";
const IN_FILE: &str = "of-a-file-91c4";

#[test]
fn secrets_stay_out_of_docker_and_data_outlive_it() {
    keeps(Kind::Docker, "docker-keeps");
}

#[test]
fn secrets_stay_out_of_podman_and_data_outlive_it() {
    keeps(Kind::Podman, "podman-keeps");
}

/// Answers its own environment, keeps a number in its volume, and writes where it may.
const KEEPER: &str = r#"
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/count":
            at = os.environ["BOWLINE_VOLUME_FILES"] + "/count"
            same = "/data/count"
            count = int(open(same).read()) + 1 if os.path.exists(same) else 1
            open(at, "w").write(str(count))
            text = str(count)
        elif self.path == "/secrets":
            path = os.environ["TOKEN_FILE"]
            text = os.environ["TOKEN"] + "|" + open(path).read() + "|" + oct(os.stat(path).st_mode & 0o777)
        elif self.path == "/writes":
            text = ""
            for at in ["/tmp/x", "uploads/x", "beside", "/etc/x"]:
                try:
                    open(at, "w").write("x")
                    text += at + " "
                except OSError:
                    pass
            text += open("uploads/seed").read()
        elif self.path == "/leak":
            self.hoard = bytearray(512 << 20)
            text = "leaked"
        else:
            text = "hello from " + os.environ["BOWLINE_INSTANCE"]
            print("asked", flush=True)
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

print("begins", flush=True)
print("complains", file=sys.stderr, flush=True)
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn keeps(kind: Kind, name: &'static str) {
    let (engine, bowline) = (Engine::start(kind), Bowline::new());
    let folder = app(
        &bowline,
        name,
        "limits = { memory = \"128MiB\" }\nwritable = [\"uploads\"]\n\
         [env]\nTOKEN = { secret = \"token\" }\nTOKEN_FILE = { secret = \"cert\", as = \"file\" }\n[volume.files]\npath = \"/data\"\n",
    );
    std::fs::create_dir_all(folder.join("uploads")).expect("a folder of the test");
    for (file, content) in [("server.py", KEEPER), ("uploads/seed", "seed")] {
        std::fs::write(folder.join(file), content).expect("a file of the test");
    }
    // A daemon, for the secrets of an app that comes.
    let listen = ["--http", "0", "--https", "0", "--admin", "0"];
    let socket = engine.socket();
    let runtime = ["--runtime", "docker", "--engine", path(&socket)];
    let early = bowline.run(&[&["up", path(&folder), "--detach"], &listen[..], &runtime].concat());
    assert!(text(&early).contains("bowline secret set"), "{}", text(&early));
    for (secret, value) in [("token", IN_ENVIRONMENT), ("cert", IN_FILE)] {
        let file = bowline.folder("values").join(secret);
        std::fs::write(&file, value).expect("a file of the test");
        let set = bowline.run(&["secret", "set", name, secret, "--file", path(&file)]);
        assert!(set.status.success(), "{}", text(&set));
    }
    let mut scene = Scene::with(engine, bowline, name, &folder);
    assert_eq!(scene.get("/secrets"), format!("{IN_ENVIRONMENT}|{IN_FILE}|0o400"));
    assert_eq!(scene.get("/writes"), "/tmp/x uploads/x seed", "a root that cannot be written to");
    let copy = scene.only_copy();
    let inspected = scene.engine.inspect(&copy.name).to_string();
    let known = [inspected, scene.engine.ask("GET", "/containers/json?all=true").to_string()];
    // As it is written wherever a quote is escaped, too.
    for secret in [IN_ENVIRONMENT.trim_end_matches("'x"), IN_FILE] {
        assert!(known.iter().all(|text| !text.contains(secret)), "the engine says {secret}");
        let found =
            Command::new("grep").args(["-rlaF", secret, path(scene.engine.folder())]).output().expect("grep runs");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "the engine keeps {secret}");
        assert_eq!(scene.bowline.files_with(secret.as_bytes()), [""; 0].map(PathBuf::from));
    }
    let logs = || text(&scene.bowline.run(&["logs", name, "--env", "local"]));
    wait("its output is in its log", SOON, || {
        let logs = logs();
        ["begins", "complains"].iter().all(|line| logs.contains(line)).then_some(())
    });
    assert_eq!((scene.get("/count"), scene.get("/count")), ("1".into(), "2".into()));
    // The engine is started anew: nobody notices, and lines that were said meanwhile are there.
    let load = Load::start(&scene.up.https(), "/", &scene.bowline.ca());
    scene.engine.stop();
    load.more();
    scene.engine.go_on();
    load.more();
    load.stop().expect_no_failure("while the engine was started anew");
    assert_eq!(scene.only_copy(), copy, "the same container");
    assert_eq!(scene.get("/count"), "3");
    let asked = logs().matches("asked").count();
    scene.get("/");
    wait("what it says after that is in its log, too", SOON, || {
        (logs().matches("asked").count() > asked).then_some(())
    });
    // It dies while no engine is there: what it was is known when the engine is back, and another one runs.
    scene.engine.stop();
    copy.first.kill();
    wait("it is gone", SOON, || (!copy.first.runs()).then_some(()));
    scene.engine.go_on();
    wait("another one answers", SOON * 2, || (scene.get("/count") == "4").then_some(()));
    assert!(logs().contains("exited: signal 9"), "{}", logs());
    assert_ne!(scene.only_copy().first, copy.first);
    // More memory than it may have: only it dies, and why is said.
    let _ = scene.get("/leak");
    wait("why it died is said", SOON, || logs_say(&scene, "memory limit").then_some(()));
    wait("another one answers", SOON * 2, || (scene.get("/count") == "5").then_some(()));
}

#[test]
fn an_engine_that_takes_its_containers_along_has_them_again() {
    let (engine, bowline) = (Engine::start_mortal(Kind::Docker), Bowline::new());
    let folder = app(&bowline, "docker-anew", "");
    let mut scene = Scene::with(engine, bowline, "docker-anew", &folder);
    let copy = scene.only_copy();
    scene.engine.stop();
    assert!(!copy.first.runs(), "it went with its engine");
    scene.engine.go_on();
    wait("another one answers", SOON * 2, || scene.get("/").starts_with("hello from").then_some(()));
    assert_ne!(scene.only_copy().first, copy.first);
}

fn logs_say(scene: &Scene, what: &str) -> bool {
    text(&scene.bowline.run(&["logs", scene.name, "--env", "local"])).contains(what)
}

/// What is promised: so many releases of each kind under load, and no request lost.
const ROLLING: usize = 20;
const CANARIES: usize = 5;

#[test]
fn rolling_and_canary_releases_in_docker_lose_no_request() {
    releases(Kind::Docker, "docker-releases", ROLLING, CANARIES);
}

#[test]
fn rolling_and_canary_releases_in_podman_lose_no_request() {
    releases(Kind::Podman, "podman-releases", 3, 1);
}

/// A server whose instances are containers of this engine.
fn serve(bowline: &Bowline, engine: &Engine) -> Server {
    let socket = engine.socket();
    Server::start_with(bowline, &[], &[&ANY_PORTS[..], &["--runtime", "docker", "--engine", path(&socket)]].concat())
}

/// A server whose instances are containers, with an app that is deployed again and again, and says which one it is.
struct Deploys {
    /// It ends first, and its engine last.
    server: Server,
    bowline: Bowline,
    engine: Engine,
    name: String,
    folder: PathBuf,
    code: String,
}

impl Deploys {
    /// `more`: tables of `bowline.toml`.
    fn set(kind: Kind, name: &str, scale: usize, more: &str) -> Self {
        let (engine, bowline) = (Engine::start(kind), Bowline::new());
        let server = serve(&bowline, &engine);
        let route = format!("[environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n");
        let folder = app(&bowline, name, &format!("scale = {scale}\n[route.main]\nto = \"web\"\n{more}{route}"));
        let code = std::fs::read_to_string(folder.join("server.py")).expect("a file of the test");
        Self { server, bowline, engine, name: name.to_owned(), folder, code }
    }

    /// Of the same state, when the one before is gone.
    fn next_daemon(&mut self) {
        let next = serve(&self.bowline, &self.engine);
        drop(std::mem::replace(&mut self.server, next));
    }

    /// What deploys the one that says this number.
    fn command(&self, number: usize) -> Command {
        std::fs::write(self.folder.join("server.py"), &self.code).expect("a file of the test");
        answering(&self.folder, &format!("self.answer(b\"hello from {number}\")"));
        self.bowline.command(&["deploy", path(&self.folder), "--env", "production"])
    }

    fn try_deploy(&self, number: usize) -> Output {
        self.command(number).output().expect("the binary runs")
    }

    fn deploy(&self, number: usize) {
        let output = self.try_deploy(number);
        assert!(output.status.success(), "{}", text(&output));
    }

    fn url(&self) -> String {
        let https = self.bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
        format!("https://{}.localhost:{}", self.name, https.rsplit(':').next().expect("a port"))
    }

    fn get(&self) -> String {
        curl(&self.bowline.ca(), &self.url(), &[]).text()
    }
}

fn releases(kind: Kind, name: &str, rolling: usize, canaries: usize) {
    let scene = Deploys::set(kind, name, 2, "");
    scene.deploy(0);
    assert!(scene.engine.images().iter().any(|name| name.ends_with(".r1")));
    let says = |number: usize| assert_eq!(scene.get(), format!("hello from {number}"));
    let load = Load::start_whole(&scene.url(), "/", &scene.bowline.ca());
    for number in 1..=rolling {
        scene.deploy(number);
        says(number);
    }
    let file = scene.folder.join("bowline.toml");
    let rolls = std::fs::read_to_string(&file).expect("a file of the test");
    std::fs::write(&file, format!("{rolls}\n[rollout]\n{CANARY}\n")).expect("a file of the test");
    for number in rolling + 1..=rolling + canaries {
        scene.deploy(number);
        says(number);
    }
    let rolled_back = scene.bowline.run(&["rollback", name, "--env", "production"]);
    assert!(rolled_back.status.success(), "{}", text(&rolled_back));
    says(rolling + canaries - 1);
    wait("only what serves is left", SOON * 2, || (scene.engine.containers(name).len() == 2).then_some(()));
    // What a release leaves is looked for when the next one is done.
    scene.deploy(rolling + canaries + 1);
    load.stop().expect_no_failure("while releases came and went");
    let is_kept = |release: &str| scene.engine.images().iter().any(|name| name.ends_with(release));
    wait("images of old releases are gone", SOON, || (!is_kept(".r1")).then_some(()));
    assert!(is_kept(&format!(".r{}", rolling + canaries + 2)), "what can be gone back to is there");
    wait("only what serves is left", SOON * 2, || (scene.engine.containers(name).len() == 2).then_some(()));
}

#[test]
fn what_runs_before_a_release_and_jobs_run_in_containers_with_the_volume() {
    let told = "$(cat /proc/1/comm) >> $BOWLINE_VOLUME_DATA/ran\"";
    let more = format!(
        "[volume.data]\nsize = \"64MiB\"\n[release]\nbefore = \"echo $BOWLINE_RELEASE {told}\nsnapshot = [\"data\"]\n[job.tell]\nrun = \"echo job {told}\n"
    );
    let scene = Deploys::set(Kind::Docker, "docker-before", 1, &more);
    scene.deploy(0);
    scene.deploy(1);
    let ran = scene.bowline.run(&["run", &scene.name, "tell", "--env", "production"]);
    assert!(ran.status.success(), "{}", text(&ran));
    let file = scene.bowline.state().join("volumes/production").join(&scene.name).join("data/ran");
    let lines = std::fs::read_to_string(file).expect("the volume is mounted while it is used");
    assert_eq!(lines, "1 docker-init\n2 docker-init\njob docker-init\n");
    wait("what serves is left alone", SOON, || (scene.engine.all().len() == 1).then_some(()));
}

#[test]
fn wherever_a_shim_dies_one_container_is_left() {
    let scene = Deploys::set(Kind::Docker, "docker-points", 1, "");
    scene.deploy(0);
    let points = Point::ALL.iter().copied().filter(|point| point.role() == Role::Shim);
    for (number, point) in points.enumerate() {
        let before = wait(&format!("it answers before {}", point.name()), SOON * 2, || {
            Some(scene.get()).filter(|answer| answer.starts_with("hello from"))
        });
        scene.bowline.arm(point, 0);
        // The new one's shim comes to it, or the old one's.
        let output = scene.try_deploy(number + 1);
        wait(&format!("{} strikes", point.name()), SOON, || scene.bowline.armed(&[point]).is_empty().then_some(()));
        let after = wait(&format!("it answers after {}", point.name()), SOON * 2, || {
            Some(scene.get()).filter(|answer| answer.starts_with("hello from"))
        });
        let deployed = format!("hello from {}", number + 1);
        assert!(
            after == deployed || (after == before && !output.status.success()),
            "{}: {}",
            point.name(),
            text(&output)
        );
        wait(&format!("one is left after {}", point.name()), SOON * 2, || {
            let all = (scene.engine.containers(&scene.name).len(), scene.engine.all().len());
            (all == (1, 1)).then_some(())
        });
    }
}
