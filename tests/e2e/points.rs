//! `kill -9` at every step of a release, under load: at each fault point that the code has, whoever comes to it dies.
//! Afterwards the app is of the release before or of the one that was asked for, whole, with one copy per slot, and nothing is
//! left behind.
//!
//! A few points are armed at once, which die one after the other as releases come to them. Where it is the daemon that dies, a
//! shim dies with it, at the next point the process of an instance. `BOWLINE_POINTS=alone` arms each alone, and for the second
//! and the third time that somebody comes to it, too: once with a shim, once with an instance and once with nobody (`make attack`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use bowline_fault_points::{Point, Role};
use bowline_tests::client::curl;
use bowline_tests::engine::{Engine, Kind};
use bowline_tests::load::{Failed, Load};
use bowline_tests::machine::{Process, processes};
use bowline_tests::server::{ANY_PORTS, Server};
use bowline_tests::whole::{Whole, app, entries};
use bowline_tests::{Bowline, SOON, path, text, wait};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Points armed at once, where each is not armed alone.
const AT_ONCE: usize = 4;

/// Besides one for each point, so many verbs are run until all have struck.
const MORE_VERBS: usize = 3;

/// Instances of the app.
const SCALE: usize = 2;

/// What makes a release come to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Deploy,
    /// With a host that has no certificate yet.
    DeployHost,
    /// One that exits at once, and is undone.
    DeployBroken,
    RollBack,
    Restart,
    /// With data that are kept as they are, and a command that runs, before it.
    DeployMigration,
}

/// Counts the releases that it ran before, and takes long enough to be seen.
const MIGRATION: &str = "[release]\nbefore = \"echo $BOWLINE_RELEASE >> $BOWLINE_VOLUME_DATA/ran && sleep 0.5\"\n\
                         snapshot = [\"data\"]\n[volume.data]\n";

/// What an answer begins with, before the number of its source.
const SOURCE: &str = "source ";

fn verb(point: Point) -> Verb {
    if matches!(point, Point::CertificateOrdered | Point::CertificateMade) {
        Verb::DeployHost
    } else if matches!(point, Point::AbortUnstored | Point::AbortStored | Point::UndoneUnstored | Point::UndoneStored) {
        Verb::DeployBroken
    } else if matches!(point, Point::BackUnstored | Point::BackStored) {
        Verb::RollBack
    } else if matches!(
        point,
        Point::RoundUnstored
            | Point::RoundStored
            | Point::RoundPhaseUnstored
            | Point::RoundPhaseStored
            | Point::RoundEndUnstored
            | Point::RoundEndStored
    ) {
        Verb::Restart
    } else if matches!(
        point,
        Point::DataSnapshotOrdered
            | Point::DataSnapshotWritten
            | Point::DataSnapshotPlaced
            | Point::DataSnapshotTaken
            | Point::RunUnstored
            | Point::RunStored
            | Point::RunBeganUnstored
            | Point::RunBeganStored
            | Point::RunEndUnstored
            | Point::RunEndStored
    ) {
        Verb::DeployMigration
    } else {
        Verb::Deploy
    }
}

/// Who dies with the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// Of one instance, which it takes along.
    Shim,
    /// An app's own process.
    Instance,
    Nobody,
}

/// Each point has each of them in as many rounds; in the first, neighbours have different ones, and somebody always dies.
fn victim(point: Point, later: usize) -> Victim {
    let index = Point::ALL.iter().position(|one| *one == point).expect("all are there");
    let first = [Victim::Shim, Victim::Instance];
    let second = [Victim::Instance, Victim::Shim];
    match (point.role(), later) {
        (Role::Daemon, 0) => first[index % 2],
        (Role::Daemon, 1) => second[index % 2],
        (Role::Daemon | Role::Builder | Role::Shim | Role::Edge | Role::Image, _) => Victim::Nobody,
    }
}

/// What the edge leads to: a release, and the number of the source that its instances were made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Serving {
    release: u64,
    source: usize,
}

/// One state with one app, which is released again and again.
struct Scene {
    server: Server,
    bowline: Bowline,
    /// What has its instances as containers. It ends last.
    engine: Option<Engine>,
    name: &'static str,
    folder: PathBuf,
    url: String,
    /// Sources and hosts that there were.
    versions: usize,
    /// When it was whole last.
    serves: Serving,
    /// Daemon points that have not struck yet, and who is to die there, too.
    armed: BTreeMap<Point, Victim>,
    /// Since the load began: from before each kill of a shim or an instance until its process was gone.
    killed: Vec<RangeInclusive<Instant>>,
    /// Nobody was killed since it was whole, so that another one serves when the next one dies.
    can_spare: bool,
}

impl Scene {
    fn set(name: &'static str, engine: Option<Engine>) -> Self {
        let bowline = Bowline::new();
        let mut server = begin(&bowline, engine.as_ref());
        server.hears("READY=1", "the first one");
        let folder = bowline.app(name, "plain");
        let serves = Serving { release: 0, source: 0 };
        let (url, armed, killed) = (String::new(), BTreeMap::new(), Vec::new());
        let mut scene =
            Self { server, bowline, engine, name, folder, url, versions: 0, serves, armed, killed, can_spare: false };
        scene.write(&[], "");
        let output = scene.run(Verb::Deploy);
        assert!(output.status.success(), "{}", text(&output));
        let https = scene.bowline.status()["edge"]["https"].as_str().expect("an address").to_owned();
        let port = https.rsplit(':').next().expect("a port").to_owned();
        scene.url = format!("https://{name}.localhost:{port}");
        scene.settled(&[]);
        scene
    }

    fn write(&self, more_hosts: &[String], more: &str) {
        let hosts: Vec<String> =
            [self.name.to_owned()].iter().chain(more_hosts).map(|n| format!("\"{n}.localhost\"")).collect();
        let toml = format!(
            "[service.web]\nbuild = \"true\"\nrun = \"python3 server.py\"\nscale = {SCALE}\n\
             health = {{ path = \"/health\", interval = \"200ms\" }}\n[route.main]\nto = \"web\"\n\
             [environment.production]\nroute.main.hosts = [{}]\n{more}",
            hosts.join(", ")
        );
        std::fs::write(self.folder.join("bowline.toml"), toml).expect("a file of the test");
    }

    fn run(&mut self, verb: Verb) -> Output {
        self.versions += 1;
        let (source, version) = (self.folder.join("server.py"), self.versions);
        let whole = std::fs::read_to_string(bowline_tests::fixture("plain").join("server.py")).expect("a fixture");
        let broken = "raise SystemExit('broken on purpose')\n";
        let whole = whole.replace("hello from ", &format!("{SOURCE}{version} of "));
        let code = if verb == Verb::DeployBroken { broken } else { whole.as_str() };
        std::fs::write(source, format!("{code}\n# {version}\n")).expect("a file of the test");
        if verb == Verb::DeployHost {
            self.write(&[format!("{}-{version}", self.name)], "");
        }
        if verb == Verb::DeployMigration {
            self.write(&[], MIGRATION);
        }
        let args = match verb {
            Verb::Deploy | Verb::DeployHost | Verb::DeployBroken | Verb::DeployMigration => {
                vec!["deploy", path(&self.folder), "--env", "production"]
            }
            Verb::RollBack => vec!["rollback", self.name, "--env", "production"],
            Verb::Restart => vec!["restart", self.name, "--env", "production"],
        };
        // Who follows a change waits for the next daemon, which is started meanwhile, as a supervisor would.
        let mut client = self.bowline.command(&args);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let client = std::thread::spawn(move || client.wait_with_output().expect("it was started"));
        while !client.is_finished() {
            self.supervise();
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        client.join().expect("no panic")
    }

    /// A daemon that has died is started again, once somebody else has died, too.
    fn supervise(&mut self) {
        if self.server.has_ended().is_none() {
            return;
        }
        let points: Vec<Point> = self.armed.keys().copied().collect();
        let left = self.bowline.armed(&points);
        for point in points.into_iter().filter(|point| !left.contains(point)) {
            match self.armed[&point] {
                Victim::Nobody => drop(self.armed.remove(&point)),
                victim if self.can_spare => {
                    self.kill(point, victim);
                    self.armed.remove(&point);
                }
                // It is armed again.
                Victim::Shim | Victim::Instance => {}
            }
        }
        if self.server.has_ended().is_some() {
            self.server = begin(&self.bowline, self.engine.as_ref());
        }
    }

    /// One that serves, starts or ends, another one each time.
    fn kill(&mut self, point: Point, victim: Victim) {
        let turn = self.killed.len();
        let began = Instant::now();
        let process = wait(&format!("somebody is there to die with the daemon at {point}"), SOON, || {
            let running = self.bowline.processes_of(self.name).into_iter();
            let of_service =
                |p: &Process| p.environment("BOWLINE_INSTANCE").is_some_and(|name| name.contains(".web.r"));
            let running: Vec<Process> = running.filter(of_service).collect();
            let process = running.get(turn % running.len().max(1))?;
            let dies = match victim {
                Victim::Instance | Victim::Nobody => process.pid,
                Victim::Shim => shim_of(&process.environment("BOWLINE_INSTANCE")?)?.pid,
            };
            match kill(Pid::from_raw(i32::try_from(dies).expect("a pid")), Signal::SIGKILL) {
                Ok(()) => Some(process.clone()),
                // It has ended by itself meanwhile.
                Err(Errno::ESRCH) => None,
                Err(error) => panic!("{point}: {error}"),
            }
        });
        // A container outlives its shim until there is a daemon again.
        let is_left = self.engine.is_some() && victim == Victim::Shim;
        wait("whoever was killed is gone", SOON * 2, || {
            if is_left && self.server.has_ended().is_some() {
                self.server = begin(&self.bowline, self.engine.as_ref());
            }
            (!process.runs()).then_some(())
        });
        self.killed.push(began..=Instant::now());
        self.can_spare = false;
    }

    /// Lets these strike, each once, while `verb` is run as often as it takes.
    fn strike(&mut self, points: &[Point], later: usize) {
        let verb = verb(points[0]);
        self.killed.clear();
        let load = Load::start(&self.url, "/", &self.bowline.ca());
        points.iter().for_each(|point| self.bowline.arm(*point, later));
        let of_daemon = points.iter().filter(|point| point.role() == Role::Daemon);
        self.armed = of_daemon.map(|point| (*point, victim(*point, later))).collect();
        for _ in 0..points.len() + later + MORE_VERBS {
            let left = self.bowline.armed(points);
            let again = self.armed.keys().filter(|point| !left.contains(point));
            again.for_each(|point| self.bowline.arm(*point, later));
            let back = (verb == Verb::RollBack).then(|| self.deploy_twice(points));
            let before = self.serves;
            assert_eq!(self.serving(), Some(before.release), "{points:?}: nothing changes by itself");
            let output = self.run(verb);
            let said = text(&output);
            let tidy = output.status.success() || (said.matches("error:").count() == 1 && said.contains("hint:"));
            assert!(tidy, "{points:?}, {later} times later: {said}");
            let after = self.settled(points);
            let asked_for = self.asked_for(verb, before, back, after);
            assert!(asked_for || after == before, "{points:?}: {verb:?} from {before:?} led to {after:?}");
            assert!(asked_for || !output.status.success(), "{points:?}: done, it says, and {after:?} serves: {said}");
            if verb == Verb::DeployMigration {
                self.migrated_once(points, before.release, after.release);
            }
            if self.bowline.armed(points).is_empty() && self.armed.is_empty() {
                break;
            }
        }
        let armed = self.bowline.armed(points);
        assert!(armed.is_empty() && self.armed.is_empty(), "nobody came to {armed:?}, or died at {:?}", self.armed);
        self.judge(load, points);
    }

    /// Whether this is what a change led to that was made as it was asked for.
    fn asked_for(&self, verb: Verb, before: Serving, back: Option<Serving>, after: Serving) -> bool {
        match verb {
            Verb::Deploy | Verb::DeployHost | Verb::DeployMigration => {
                after.source == self.versions && after.release > before.release
            }
            Verb::RollBack => Some(after) == back,
            Verb::Restart => after == before,
            Verb::DeployBroken => false,
        }
    }

    /// No request fails but those that were under way when an instance was killed, or the edge. What an instance has been asked
    /// and has not answered dies with it: nobody else may be asked the same. Whoever is asked afterwards is another one.
    fn judge(&self, load: Load, points: &[Point]) {
        let tally = load.stop();
        if points.iter().any(|point| point.role() == Role::Edge) {
            // What it was serving breaks; whoever comes meanwhile waits.
            assert!(!tally.failed.iter().any(|failed| failed.why.contains("refused")), "{:?}", tally.failed);
            return;
        }
        let excused =
            |failed: &Failed| !failed.why.contains("refused") && self.killed.iter().any(|killed| failed.meets(killed));
        let failed: Vec<&Failed> = tally.failed.iter().filter(|failed| !excused(failed)).collect();
        assert!(failed.is_empty(), "while somebody died at {points:?} ({:?}): {failed:?}", self.killed);
    }

    /// What runs before a release ran once for each, and for the one that serves; data were kept as they were before that.
    fn migrated_once(&self, points: &[Point], before: u64, serving: u64) {
        let state = self.bowline.state();
        let ran = std::fs::read_to_string(state.join("volumes/production").join(self.name).join("data/ran"));
        let ran: Vec<u64> = ran.unwrap_or_default().lines().map(|line| line.parse().expect("a release")).collect();
        let once: BTreeSet<u64> = ran.iter().copied().collect();
        assert_eq!(once.len(), ran.len(), "{points:?}: it ran before {ran:?}");
        assert!(serving == before || once.contains(&serving), "{points:?}: it never ran before {serving}, but {ran:?}");
        let snapshots = state.join("snapshots/production").join(self.name);
        let kept = entries(&snapshots);
        assert!(kept.iter().all(|name| name.parse::<u64>().is_ok()), "{points:?}: left behind: {kept:?}");
        for release in kept.iter().filter_map(|name| name.parse::<u64>().ok()) {
            let tar = snapshots.join(format!("{release}/volume.data.tar"));
            let read = Command::new("tar").arg("--extract").arg("--to-stdout").arg("--file").arg(tar).output();
            let read = read.expect("tar is there");
            assert!(read.status.success(), "{points:?}: of release {release}: {read:?}");
            let before = ran.iter().take_while(|number| **number != release).map(|number| format!("{number}\n"));
            let before: String = before.collect();
            assert_eq!(String::from_utf8_lossy(&read.stdout), before, "{points:?}: as they were before {release}");
        }
        assert!(once.iter().filter(|number| **number == serving).all(|number| kept.contains(&number.to_string())));
    }

    /// So that there is one to go back to: releases that were undone may have pushed out the others.
    /// Gives the first.
    fn deploy_twice(&mut self, points: &[Point]) -> Serving {
        let [first, _] = [(), ()].map(|()| {
            let before = self.serves;
            let output = self.run(Verb::Deploy);
            assert!(output.status.success(), "{}", text(&output));
            let after = self.settled(points);
            assert!(self.asked_for(Verb::Deploy, before, None, after), "{points:?}: {before:?} led to {after:?}");
            after
        });
        first
    }

    /// What serves, once all is whole; a daemon that has died is started again, as its supervisor would.
    fn settled(&mut self, points: &[Point]) -> Serving {
        let deadline = Instant::now() + SOON * 2;
        loop {
            self.supervise();
            let lacks = match self.whole() {
                Ok(release) => {
                    self.serves = Serving { release, source: self.source() };
                    self.can_spare = true;
                    return self.serves;
                }
                Err(why) => why,
            };
            assert!(Instant::now() < deadline, "{points:?} struck, and it is not whole again: {lacks}");
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
    }

    fn serving(&self) -> Option<u64> {
        app(&self.bowline, self.name)?.1["release"].as_u64()
    }

    /// The number of the source that answers.
    fn source(&self) -> usize {
        let said = curl(&self.bowline.ca(), &self.url, &[]).text();
        let number = said.strip_prefix(SOURCE).and_then(|said| said.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("of which source is {said:?}?"))
    }

    fn whole(&self) -> Result<u64, String> {
        let Self { bowline, name, url, .. } = self;
        let release = Whole { bowline, name, url, scale: SCALE, others: 0 }.release()?;
        match self.engine.as_ref().map(Engine::all) {
            Some(containers) if containers.len() != SCALE => Err(format!("the engine has {containers:?}")),
            Some(_) | None => Ok(release),
        }
    }
}

fn begin(bowline: &Bowline, engine: Option<&Engine>) -> Server {
    let socket = engine.map(Engine::socket);
    let runtime = socket.iter().flat_map(|socket| ["--runtime", "docker", "--engine", path(socket)]);
    Server::begin(bowline, &[], &ANY_PORTS.into_iter().chain(runtime).collect::<Vec<_>>())
}

/// Of an instance by its name, be it a container or not.
fn shim_of(instance: &str) -> Option<Process> {
    let is_shim = |process: &Process| {
        let words = process.arguments();
        words.get(1).is_some_and(|role| role == "shim") && words.get(2).is_some_and(|id| id == instance)
    };
    processes().into_iter().find(is_shim)
}

fn alone() -> bool {
    std::env::var("BOWLINE_POINTS").is_ok_and(|text| text == "alone")
}

/// Lets all of these strike.
fn walk(name: &'static str, engine: Option<Engine>, points: &[Point]) {
    let mut scene = Scene::set(name, engine);
    let (at_once, times) = if alone() { (1, 3) } else { (AT_ONCE, 1) };
    for later in 0..times {
        for together in points.chunk_by(|a, b| verb(*a) == verb(*b) && a.role() == b.role()) {
            together.chunks(at_once).for_each(|points| scene.strike(points, later));
        }
    }
}

/// Those of orders at an authority are walked with one, in `acme`.
pub(crate) const OF_ORDERS: [Point; 7] = [
    Point::OrderNoted,
    Point::OrderPlaced,
    Point::ChallengeServed,
    Point::ChallengeAnnounced,
    Point::OrderFinalised,
    Point::OrderKept,
    Point::OrderTaken,
];

/// Of all points those of one test, so that none is left out.
fn share(test: usize) -> Vec<Point> {
    let is_deploy = |point: &Point| verb(*point) == Verb::Deploy && point.role() == Role::Daemon;
    // Those of images are walked in `images`: no release comes to them.
    let is_of_release = |point: &Point| !OF_ORDERS.contains(point) && point.role() != Role::Image;
    let all = Point::ALL.iter().copied().filter(is_of_release);
    let (deploy, other): (Vec<Point>, Vec<Point>) = all.partition(is_deploy);
    let half = deploy.len() / 2;
    let (first, second) = deploy.split_at(half);
    let is_before = |point: &Point| verb(*point) == Verb::DeployMigration;
    let (before, other): (Vec<Point>, Vec<Point>) = other.into_iter().partition(is_before);
    match test {
        0 => first.to_vec(),
        1 => second.to_vec(),
        2 => before,
        _ => other,
    }
}

#[test]
fn the_daemon_dies_at_every_step_of_a_release_until_it_starts() {
    walk("points-first", None, &share(0));
}

#[test]
fn the_daemon_dies_at_every_step_of_a_release_from_its_start_to_its_end() {
    walk("points-second", None, &share(1));
}

#[test]
fn the_daemon_dies_at_every_step_of_what_comes_before_a_release() {
    walk("points-before", None, &share(2));
}

#[test]
fn builder_shim_and_edge_die_at_every_step_and_the_daemon_in_other_changes() {
    let mut points = share(3);
    // The namespace's first process is what tells, and without root there may be none.
    points.retain(|point| *point != Point::BuilderEnded || nix::unistd::geteuid().is_root());
    walk("points-others", None, &points);
}

/// Steps at which a daemon has to find again what an engine has; the others are the same whatever runs the instances.
const OF_INSTANCES: [Point; 8] = [
    Point::ReleaseStored,
    Point::NodeOrdered,
    Point::InstanceStarting,
    Point::InstanceStarted,
    Point::InstanceStopping,
    Point::InstanceEnded,
    Point::InstanceConcluded,
    Point::InstanceCleaned,
];

#[test]
fn the_daemon_dies_at_every_step_of_an_instance_that_is_a_container() {
    let points = if alone() { [share(0), share(1)].concat() } else { OF_INSTANCES.to_vec() };
    walk("points-docker", Some(Engine::start(Kind::Docker)), &points);
}

/// What is shipped has none of it: neither the variable nor a name.
#[test]
fn the_binary_under_test_has_fault_points() {
    let binary = std::fs::read(bowline_tests::binary()).expect("the binary under test");
    let has = |what: &str| memchr::memmem::find(&binary, what.as_bytes()).is_some();
    assert!(has(bowline_fault_points::VARIABLE) && has(Point::ReleaseStored.name()));
}
