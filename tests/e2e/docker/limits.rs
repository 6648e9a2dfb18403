//! What an instance uses and may use: its container's, whoever counts.

use std::time::Duration;

use bowline_tests::client::curl;
use bowline_tests::engine::{Engine, Kind};
use bowline_tests::{Bowline, SOON, text, wait};

use super::{Scene, app};

const APP: &str = "docker-limits";
const MEMORY: u64 = 128 << 20;
/// What the app keeps of it.
const KEPT: u64 = 64 << 20;
/// So long the app asks for all processors.
const BURNS: Duration = Duration::from_secs(5);

/// Keeps memory, takes more than it may have, or all processor time there is for a while, in two processes; says how much it got.
const GREEDY: &str = r#"
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEPT = []

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def burn(seconds):
    before = os.times()
    child = os.fork()
    spin(seconds)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    after = os.times()
    used = lambda of: of.user + of.system + of.children_user + of.children_system
    return str(used(after) - used(before))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        what, _, amount = self.path.strip("/").partition("/")
        if what == "keep":
            KEPT.append(b"x" * int(amount))
            text = "kept"
        else:
            text = burn(float(amount)) if what == "burn" else "hello from " + os.environ["BOWLINE_INSTANCE"]
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

#[test]
fn what_an_instance_uses_is_its_containers_and_its_limits_hold() {
    let (engine, bowline) = (Engine::start(Kind::Docker), Bowline::new());
    let folder = app(&bowline, APP, "limits = { memory = \"128MiB\", cpu = 0.5 }\n");
    std::fs::write(folder.join("server.py"), GREEDY).expect("a file of the test");
    let scene = Scene::with(engine, bowline, APP, &folder);
    // Memory, as the engine counts it, too.
    assert_eq!(scene.get(&format!("/keep/{KEPT}")), "kept");
    let copy = scene.only_copy();
    let of_engine = || {
        let stats = scene.engine.ask("GET", &format!("/containers/{}/stats?stream=false&one-shot=true", copy.name));
        stats["memory_stats"]["usage"].as_u64().expect("the engine counts memory")
    };
    let told =
        wait("its memory is known", SOON, || scene.instance()["memory_bytes"].as_u64().filter(|all| *all >= KEPT));
    assert!(told < MEMORY && told.abs_diff(of_engine()) < KEPT / 2, "{told}, and the engine says {}", of_engine());
    assert_eq!(scene.metric("bowline_instance_memory_limit_bytes"), Some(134_217_728.0));
    let measured = |bytes: &f64| *bytes >= 67_108_864.0 && *bytes < 134_217_728.0;
    wait("the same is in the metrics", SOON, || scene.metric("bowline_instance_memory_bytes").filter(measured));
    // Processor time: half of one, however much there is.
    let seconds = BURNS.as_secs_f64();
    let used: f64 = scene.get(&format!("/burn/{seconds}")).parse().expect("seconds");
    assert!(used > seconds * 0.1 && used < seconds * 0.8, "{used} s of processor time in {seconds} s");
    let of_burning = |counted: &f64| *counted >= used;
    let counted = |what: Option<f64>| what.filter(of_burning);
    wait("it is counted", SOON, || counted(scene.metric("bowline_instance_cpu_seconds_total")));
    let of_status = || scene.instance()["cpu_us"].as_u64().map(|us| Duration::from_micros(us).as_secs_f64());
    wait("in the status, too", SOON, || counted(of_status()));
    // More memory than it may have: it is killed, another one comes, and why is told.
    scene.answers();
    let _ = curl(&scene.bowline.ca(), &format!("{}/keep/{MEMORY}", scene.up.https()), &[]);
    let events = || text(&scene.bowline.run(&["events", APP]));
    wait("why it ended is told", SOON, || events().contains("memory limit").then_some(()));
    scene.answers();
    assert_ne!(scene.instance()["restarts"], 0);
    assert_ne!(scene.only_copy().first, copy.first);
}
