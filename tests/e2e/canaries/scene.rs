//! An app whose releases behave as a test says, under an open load of which every request is accounted for.

use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use bowline_fault_points::Point;
use bowline_load::plan::Body;
use bowline_load::tally::Kind;
use bowline_load::{
    Bytes, Expect, Gaps, HeaderExpect, HeaderName, Load, Method, Pace, PerSecond, Plan, Report, Share, Target, Template,
};
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::whole::Whole;
use bowline_tests::{Bowline, SOON, path, text, wait};
use serde_json::Value;

/// Requests a second.
const RATE: f64 = 200.0;

/// Of the app's own failures, and of nothing else.
const OWN_FAILURE: u16 = 599;

/// How long a canary may take that is judged by the seconds.
const JUDGED: Duration = Duration::from_secs(90);

/// What `mood.py` says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mood {
    /// Of a hundred requests so many fail.
    pub(super) errors: u32,
    pub(super) delay_ms: u32,
    /// It fails whatever comes after so many.
    pub(super) good_for: Option<u32>,
    /// What each request takes of memory for good.
    pub(super) leaks_kib: u32,
}

/// A server with one app that is judged.
pub(super) struct Scene {
    server: Server,
    pub(super) bowline: Bowline,
    name: &'static str,
    folder: PathBuf,
    url: String,
    releases: u64,
    others: usize,
}

impl Scene {
    /// With its first release.
    pub(super) fn set(name: &'static str, mood: Mood) -> Self {
        let bowline = Bowline::new();
        let server = Server::start(&bowline);
        let folder = bowline.app(name, "moody");
        let mut scene = Self { server, bowline, name, folder, url: String::new(), releases: 0, others: 0 };
        let output = scene.deploy(mood, "").wait_with_output().expect("it was started");
        assert!(output.status.success(), "{}", text(&output));
        let https = scene.bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
        scene.url = format!("https://{name}.localhost:{}", https.rsplit(':').next().expect("a port"));
        scene
    }

    /// Another app of the same server, at this URL.
    pub(super) fn neighbour(&mut self, name: &str) -> String {
        let folder = self.bowline.app(name, "moody");
        std::fs::write(folder.join("mood.py"), mood(Mood::default())).expect("a file of the test");
        std::fs::write(folder.join("bowline.toml"), file(name, "")).expect("a file of the test");
        let output = self.bowline.run(&["deploy", path(&folder), "--env", "production"]);
        assert!(output.status.success(), "{}", text(&output));
        self.others += 1;
        self.url.replace(self.name, name)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Begins to bring out the next release. `rollout`: the table of that name.
    pub(super) fn deploy(&mut self, of: Mood, rollout: &str) -> Child {
        self.releases += 1;
        // Each differs from the one before, whatever it behaves like.
        let mood = format!("{}# {}\n", mood(of), self.releases);
        std::fs::write(self.folder.join("mood.py"), mood).expect("a file of the test");
        std::fs::write(self.folder.join("bowline.toml"), file(self.name, rollout)).expect("a file of the test");
        let mut command = self.bowline.command(&["deploy", path(&self.folder), "--env", "production"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }

    /// A verb about this app.
    pub(super) fn begin(&self, verb: &str) -> Child {
        let mut command = self.bowline.command(&[verb, self.name, "--env", "production"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }

    /// Waits until the newest release has come to this phase, by the events.
    pub(super) fn comes_to(&mut self, phase: &str) {
        wait(&format!("{} comes to {phase}", self.name), JUDGED, || {
            self.supervise();
            self.phases(self.releases).iter().any(|(_, now)| now == phase).then_some(())
        });
    }

    /// `kill -9` of the daemon; the next one shows the change where it was.
    pub(super) fn kill(&mut self) {
        self.bowline.kill_daemon();
        self.server = Server::start(&self.bowline);
        wait("the next daemon goes on with the change", SOON, || (!self.waits().is_empty()).then_some(()));
    }

    /// `serve --upgrade` to another binary, which goes on with the change where it was.
    pub(super) fn upgrade(&self, to: usize) {
        let (phases, pids, edge) = (self.phases(self.releases), self.pids(), self.bowline.edge());
        let other = self.bowline.other_binary(to);
        let output = self.bowline.command_of(&other, &["serve", "--upgrade"]).output().expect("the binary runs");
        assert!(output.status.success(), "{}", text(&output));
        wait("the next daemon goes on with the change", SOON, || (!self.waits().is_empty()).then_some(()));
        assert_ne!(self.bowline.edge(), edge, "another edge");
        let (now, left) = (self.phases(self.releases), self.pids());
        assert!(now.starts_with(&phases), "it goes on where it was: {phases:?}, {now:?}");
        assert!(left.iter().all(|pid| pids.contains(pid)), "no instance has noticed: {pids:?}, {left:?}");
    }

    /// What the change waits on, as status says it.
    pub(super) fn waits(&self) -> String {
        let app = bowline_tests::whole::app(&self.bowline, self.name);
        let waits = app.map(|(_, app)| app["change"]["waits_on"].clone());
        waits
            .filter(|waits| waits.as_array().is_some_and(|all| !all.is_empty()))
            .map_or(String::new(), |w| w.to_string())
    }

    /// A daemon that has died is started again, as a supervisor would.
    fn supervise(&mut self) {
        if self.server.has_ended().is_some() {
            self.server = Server::begin(&self.bowline, &[], &ANY_PORTS);
        }
    }

    /// The daemon dies when it comes to this point, which it does; the next one is started.
    pub(super) fn dies_at(&mut self, point: Point) {
        wait(&format!("the daemon dies at {point:?}"), JUDGED, || {
            self.supervise();
            self.bowline.armed(&[point]).is_empty().then_some(())
        });
    }

    /// What somebody who followed it was told in the end.
    pub(super) fn told(&mut self, mut client: Child) -> Output {
        wait("the client is told", JUDGED, || {
            self.supervise();
            client.try_wait().expect("the child can be waited for")
        });
        client.wait_with_output().expect("it was started")
    }

    /// Waits until this release serves, whole, and nothing of any other is left.
    pub(super) fn settles(&mut self, release: u64) {
        let deadline = Instant::now() + SOON * 2;
        loop {
            self.supervise();
            let Self { bowline, name, url, others, .. } = &*self;
            let found = Whole { bowline, name, url, scale: 1, others: *others }.release();
            if found == Ok(release) {
                return;
            }
            assert!(Instant::now() < deadline, "{release} was to serve: {found:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Of a release, what was left and what was entered, in order.
    fn phases(&self, release: u64) -> Vec<(String, String)> {
        let output = self.bowline.run(&["events", self.name, "--env", "production", "--limit", "1000", "--json"]);
        let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
        let events = answer["events"].as_array().cloned().unwrap_or_default();
        let field = |event: &Value, name: &str| event["fields"][name].as_str().unwrap_or_default().to_owned();
        let of_rollout =
            events.iter().filter(|event| event["event"].as_str().is_some_and(|e| e.starts_with("rollout.")));
        let own = of_rollout.filter(|event| field(event, "release") == release.to_string());
        own.map(|event| (field(event, "was"), field(event, "phase"))).collect()
    }

    /// Every transition of the newest release has its event, once, and they are these.
    pub(super) fn tells(&self, expected: &[&str]) {
        let phases = self.phases(self.releases);
        let entered: Vec<&str> = phases.iter().map(|(_, phase)| phase.as_str()).collect();
        assert_eq!(entered, expected, "of release {}", self.releases);
        let left: Vec<&str> = phases.iter().map(|(was, _)| was.as_str()).collect();
        assert_eq!(left[0], "prepare");
        assert_eq!(left[1..], entered[..entered.len() - 1], "each begins where the one before ended");
    }

    /// Who serves release 1: aborted canaries must leave it alone.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.bowline.processes_of(self.name).iter().map(|process| process.pid).collect()
    }

    /// Requests that are due by a schedule until it is ended, a tenth of them over connections of their own.
    pub(super) fn load(&self, url: &str) -> Load {
        let mut plan = Plan::new(Target::parse(url).expect("a URL"));
        plan.roots = std::fs::read(self.bowline.ca()).expect("the local CA");
        let rate = PerSecond::new(RATE).expect("a rate");
        plan.pace = Pace::Open { from: rate, to: rate, gaps: Gaps::Even };
        plan.duration = Duration::from_secs(3_600);
        plan.new_connections = Share::from_ppm(100_000).expect("a tenth");
        plan.timeout = SOON;
        let mut get = Template::new(Method::GET);
        get.body = Body::None;
        plan.requests = vec![get];
        let numbers = (1..20).map(|number: u64| number.to_string()).collect();
        let release = HeaderExpect { name: HeaderName::from_static("x-bowline-release"), any_of: numbers };
        let body = Some(Bytes::from_static(b"hello from "));
        plan.expect = Expect { headers: vec![release], body, ..Expect::default() };
        let load = Load::start(plan).expect("a load that can be generated");
        wait("the load goes on", SOON, || (load.progress().offered > 50).then_some(()));
        load
    }
}

/// Ends a load once it has gone on for a little while. Every request that was due has been answered, by the app: with what was
/// expected or with the app's own failure. Returns how many of those there were.
pub(super) fn own_failures(load: Load) -> u64 {
    let before = load.progress().offered;
    wait("the load goes on", SOON, || (load.progress().offered >= before + 50).then_some(()));
    load.stop();
    let Report { counts, statuses, errors, failures, .. } = load.report().expect("the load ends");
    let lost: Vec<_> = failures.iter().filter(|failure| !failure.detail.contains("599")).collect();
    let own = statuses.get(&OWN_FAILURE).copied().unwrap_or_default();
    let others: Vec<_> = statuses.keys().filter(|status| ![200, OWN_FAILURE].contains(status)).collect();
    assert!(others.is_empty() && errors.keys().all(|kind| *kind == Kind::Status), "{statuses:?}, {errors:?}: {lost:?}");
    assert_eq!((counts.failed, counts.unfinished, counts.dropped), (own, 0, 0), "{lost:?}");
    assert_eq!(counts.succeeded + own, counts.offered, "every request that was due has its answer");
    assert_eq!(statuses.get(&200), Some(&counts.succeeded));
    own
}

fn mood(Mood { errors, delay_ms, good_for, leaks_kib }: Mood) -> String {
    let good_for = good_for.map_or_else(|| "None".to_owned(), |n| n.to_string());
    let leaks = format!("LEAKS = {leaks_kib} * 1024\n");
    format!("ERRORS = {errors} / 100\nDELAY = {delay_ms} / 1000\nGOOD_FOR = {good_for}\n{leaks}")
}

fn file(name: &str, rollout: &str) -> String {
    let rollout = if rollout.is_empty() { String::new() } else { format!("[rollout]\n{rollout}\n") };
    format!(
        "[service.web]\nrun = \"python3 server.py\"\nhealth = {{ path = \"/health\", interval = \"300ms\" }}\n\
         [route.main]\nto = \"web\"\n{rollout}[environment.production]\nroute.main.hosts = [\"{name}.localhost\"]\n"
    )
}
