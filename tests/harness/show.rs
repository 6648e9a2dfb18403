//! Releases, rollbacks and upgrades of a Rust app under an open load: every request that was scheduled must get status 200, and header
//! and body of the same release: while one takes the place of another of either, else of the one that serves. Every WebSocket must be
//! told before it is closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bowline_load::plan::Body;
use bowline_load::{
    Bytes, Expect, Gaps, HeaderExpect, HeaderName, Load, Method, Pace, PerSecond, Plan, Report, Share, StatusCode,
    StatusExpect, Target, Template,
};

use crate::client::{curl, target, tls};
use crate::server::Server;
use crate::wire::{GOING_AWAY, Wire};
use crate::{BUILD, Bowline, SOON, path, text, wait};

/// Of the app, and of its folder.
const NAME: &str = "releases";

/// What is done, and under how much.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Requests a second; half over a connection of their own, a tenth with a body.
    pub rate: f64,
    pub deploys: usize,
    /// Between them, evenly.
    pub rollbacks: usize,
    /// Each of the daemon and of the edge.
    pub upgrades: usize,
    /// Held open over each deploy and rollback.
    pub sockets: usize,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// While releases came and went.
    pub releases: Stage,
    /// While daemon and edge were swapped.
    pub upgrades: Stage,
    /// How long each took.
    pub deploys: Vec<Duration>,
    pub rollbacks: Vec<Duration>,
    pub swaps: Vec<Duration>,
}

/// What there was to see from outside meanwhile.
#[derive(Debug)]
pub struct Stage {
    /// Of the requests.
    pub report: Report,
    pub sockets: Sockets,
    pub queues: Queues,
}

/// Connections that came to a listener of this machine and found no room: of all listeners, the edge's among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queues {
    /// Its accept queue was full (`ListenOverflows`).
    pub overflows: u64,
    /// For whatever cause (`ListenDrops`).
    pub drops: u64,
}

/// WebSockets that were open when their instance, or their edge, gave way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sockets {
    /// Close 1001, then the end.
    pub told: usize,
    /// The end without a word.
    pub cut: usize,
    /// Still open.
    pub open: usize,
}

/// A server with the app's first release.
struct Scene {
    server: Server,
    bowline: Bowline,
    folder: PathBuf,
    url: String,
    /// The newest release, by its number; its source says the same.
    version: usize,
    serves: usize,
}

/// Does it all.
///
/// # Panics
/// If something that is no request fails: a deploy, an upgrade.
pub fn run(script: Script) -> Outcome {
    let mut scene = Scene::set();
    let begun = Queues::now();
    let load = scene.load(script);
    let (mut sockets, mut deploys, mut rollbacks) = (Sockets::default(), Vec::new(), Vec::new());
    for number in 1..=script.deploys {
        let new = scene.version + 1;
        let held = scene.sockets(script.sockets);
        deploys.push(scene.changes(&load, new, Scene::deploy));
        held.into_iter().for_each(|socket| sockets.count(socket.end()));
        let due = number * script.rollbacks / script.deploys;
        if due > rollbacks.len() {
            let held = scene.sockets(script.sockets);
            rollbacks.push(scene.changes(&load, new - 1, Scene::roll_back));
            held.into_iter().for_each(|socket| sockets.count(socket.end()));
        }
    }
    let releases = Stage { report: ended(load), sockets, queues: Queues::now().since(begun) };
    let begun = Queues::now();
    let (load, open) = (scene.load(script), scene.sockets(script.sockets));
    let binaries = [scene.bowline.other_binary(0), scene.bowline.other_binary(1)];
    let swaps = (0..script.upgrades).map(|round| scene.upgrade(&binaries[round % 2])).collect();
    let report = ended(load);
    let mut sockets = Sockets::default();
    open.iter().for_each(|socket| sockets.count(socket.now()));
    let upgrades = Stage { report, sockets, queues: Queues::now().since(begun) };
    Outcome { releases, upgrades, deploys, rollbacks, swaps }
}

/// Once it has gone on for a little while after whatever was done to it.
fn ended(load: Load) -> Report {
    let before = load.progress().offered;
    wait("the load goes on", SOON, || (load.progress().offered >= before + 50).then_some(()));
    load.stop();
    load.report().expect("the load ends")
}

/// What a release answers.
fn answer_of(release: usize) -> Expect {
    let name = HeaderName::from_static("x-bowline-release");
    Expect {
        status: StatusExpect::Exactly(StatusCode::OK),
        headers: vec![HeaderExpect { name, any_of: vec![release.to_string()] }],
        body: Some(Bytes::from(format!("hello from {NAME}, version v{release},"))),
    }
}

impl Queues {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/net/netstat").expect("counters of the kernel");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).map(str::split_whitespace);
        let (names, values) = lines.next().zip(lines.next()).expect("names and values of TCP's counters");
        let mut queues = Self::default();
        for (name, value) in names.zip(values) {
            match name {
                "ListenOverflows" => queues.overflows = value.parse().expect("a count"),
                "ListenDrops" => queues.drops = value.parse().expect("a count"),
                _ => {}
            }
        }
        queues
    }

    fn since(self, before: Self) -> Self {
        Self { overflows: self.overflows - before.overflows, drops: self.drops - before.drops }
    }
}

impl Scene {
    fn set() -> Self {
        let bowline = Bowline::new();
        let server = Server::start(&bowline);
        let folder = bowline.app(NAME, "rust-releases");
        let mut scene = Self { server, bowline, folder, url: String::new(), version: 0, serves: 1 };
        scene.deploy();
        let https = scene.bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
        scene.url = format!("https://{NAME}.localhost:{}", https.rsplit(':').next().expect("a port"));
        scene
    }

    /// Until it is stopped.
    fn load(&self, script: Script) -> Load {
        let mut plan = Plan::new(Target::parse(&self.url).expect("a URL"));
        plan.roots = std::fs::read(self.bowline.ca()).expect("the local CA");
        let rate = PerSecond::new(script.rate).expect("a rate");
        plan.pace = Pace::Open { from: rate, to: rate, gaps: Gaps::Even };
        plan.duration = Duration::from_secs(24 * 3_600);
        plan.new_connections = Share::from_ppm(500_000).expect("a half");
        let mut post = Template::new(Method::POST);
        post.body = Body::Bytes(Bytes::from(vec![b'b'; 1_000]));
        let mut get = Template::new(Method::GET);
        (post.weight, get.weight) = (1, 9);
        plan.requests = vec![get, post];
        plan.expect = answer_of(self.serves);
        let load = Load::start(plan).expect("a load that can be generated");
        wait("the load goes on", SOON, || (load.progress().succeeded > 50).then_some(()));
        load
    }

    /// To another release, by this work.
    fn changes(&mut self, load: &Load, to: usize, work: impl FnOnce(&mut Self)) -> Duration {
        load.expect(vec![answer_of(self.serves), answer_of(to)]);
        let began = Instant::now();
        work(self);
        let took = began.elapsed();
        load.expect(vec![answer_of(to)]);
        self.serves = to;
        took
    }

    fn deploy(&mut self) {
        self.version += 1;
        let source = self.folder.join("src/main.rs");
        let code = std::fs::read_to_string(crate::fixture("rust-releases/src/main.rs")).expect("a fixture");
        std::fs::write(source, code.replace("\"first\"", &format!("\"v{}\"", self.version)))
            .expect("a file of the test");
        let mut command = self.bowline.command(&["deploy", path(&self.folder), "--env", "production"]);
        let output = command.output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        self.answers(self.version);
    }

    /// To the release before.
    fn roll_back(&mut self) {
        let output = self.bowline.run(&["rollback", NAME, "--env", "production"]);
        assert!(output.status.success(), "{}", text(&output));
        self.answers(self.version - 1);
    }

    /// A change that is done is what everybody gets.
    fn answers(&self, version: usize) {
        if !self.url.is_empty() {
            let answer = curl(&self.bowline.ca(), &self.url, &[]).text();
            assert!(answer.contains(&format!("version v{version},")), "{answer}");
        }
    }

    fn upgrade(&mut self, to: &std::path::Path) -> Duration {
        let (daemon, edge) = (self.server.pid(), self.bowline.edge());
        let began = Instant::now();
        let output = self.bowline.command_of(to, &["serve", "--upgrade"]).output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        let took = began.elapsed();
        assert_eq!(self.bowline.daemon(), daemon, "the main process stays");
        assert_ne!(self.bowline.edge(), edge, "another edge");
        took
    }

    fn sockets(&self, count: usize) -> Vec<Socket> {
        (0..count).map(|_| Socket::open(&self.url, &tls(&self.bowline.ca()))).collect()
    }
}

impl Sockets {
    fn count(&mut self, fate: Option<Fate>) {
        match fate {
            Some(Fate::Told) => self.told += 1,
            Some(Fate::Cut(_)) => self.cut += 1,
            None => self.open += 1,
        }
    }
}

/// How a WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Told,
    Cut(String),
}

/// An open WebSocket, on a thread of its own, which says nothing and hears what it is told.
struct Socket {
    fate: Receiver<Fate>,
}

impl Socket {
    fn open(url: &str, tls: &Arc<rustls::ClientConfig>) -> Self {
        let (host, address) = target(url);
        let wire = Wire::connect(address).and_then(|wire| wire.secured(&host, tls));
        let mut wire = wire.expect("the edge listens");
        let answer = wire.ask_for_websocket(&host, "/ws", "").expect("an answer");
        assert_eq!(answer.status, 101, "{answer:?}");
        wire.wait_for(BUILD).expect("a timeout");
        let (sender, fate) = channel();
        std::thread::spawn(move || {
            let told = wire.rest();
            let fate = match told.as_ref().is_ok_and(|told| *told == GOING_AWAY) {
                true => Fate::Told,
                false => Fate::Cut(format!("{told:x?}")),
            };
            // A test that has failed waits for none.
            let _ = sender.send(fate);
        });
        Self { fate }
    }

    fn now(&self) -> Option<Fate> {
        self.fate.try_recv().ok()
    }

    /// `None`: it is open for longer than anything here takes.
    fn end(self) -> Option<Fate> {
        self.fate.recv_timeout(SOON).ok()
    }
}
