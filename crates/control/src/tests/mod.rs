//! The loop against a world of its own: a real store in a temporary folder, and a node and an edge that do what they
//! are told. No thread runs and no clock ticks but the simulation's, so that a crash can be put after every effect.

mod acme;
mod back;
mod certificate;
mod collect;
mod collector;
mod crash;
mod hosts;
mod leaving;
mod left_out;
mod live;
mod plans;
mod refused;
mod rolled;
mod room;
mod rounds;
mod runs;
mod scaling;
mod unread;
mod verbs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::wire::{self, ChangeStep};
use bowline_core::access::Scope;
use bowline_core::acme::Pace;
use bowline_core::app::Command;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, Digest, EnvName, Generation, InstanceId, Port, ReleaseNumber, ServiceName};
use bowline_core::instance::{
    Exit, ExitCause, HealthState, InstanceObservation, InstanceOrder, InstanceSpec, NodeDesired, Observations, Phase,
    Usage,
};
use bowline_core::job::Task;
use bowline_core::release::{Artifact, BuildRequest, Built, Foreseen};
use bowline_core::resource::data::DataDone;
use bowline_core::route::{ApiSite, EdgeDesired, EdgeEngine, EdgeObservation, EdgeStatus, Part, Refusal, Rule};
use bowline_core::scale::{Machine, Windows};
use bowline_core::time::{Mono, Timestamp};
use bowline_core::units::Bytes;
use tempfile::TempDir;

use crate::certs::{self, CertCache, LocalCa};
use crate::config::{Ended, Keep, Mode};
use crate::reconcile::acme::Authority;
use crate::reconcile::change::ChangeForm;
use crate::reconcile::credentials::Salt;
use crate::reconcile::effects::{Effect, Input, Now, Purpose, Reading, Ticket};
use crate::reconcile::given::Given;
use crate::reconcile::load::load;
use crate::reconcile::pending::Pending;
use crate::reconcile::release::Place;
use crate::reconcile::request::{Answer, Reply, Request};
use crate::reconcile::{About, Loop};
use crate::secrets::{Keyring, Vault, snapshot as sealed};
use crate::store::{Store, Users};
use crate::{folder, jobs, snapshot};

/// What instances of the fake node do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Passes its health at once.
    Good,
    /// Runs, and its health never passes.
    NeverHealthy,
    /// Prints and exits with code 3.
    Exits,
}

/// What runs of jobs do on the fake node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JobBehaviour {
    /// Print, and exit with this code before anybody looks.
    Exits(i32),
    /// Run until they are told otherwise.
    Stay,
}

/// Why the simulation stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// Nothing is left to do.
    Quiet,
    /// The daemon is gone after this many effects.
    Crashed,
    Exited(Ended),
}

/// Everything that outlives a daemon.
struct World {
    dir: TempDir,
    runtime: tokio::runtime::Runtime,
    now: Now,
    instances: BTreeMap<InstanceId, InstanceObservation>,
    specs: BTreeMap<InstanceId, Arc<InstanceSpec>>,
    edge: EdgeObservation,
    table: Option<Arc<EdgeDesired>>,
    /// The edge does not take routes that are called so.
    refuses: Option<&'static str>,
    /// It does not answer when it is told of routes that are called so; and what that was.
    deaf_to: Option<&'static str>,
    unheard: Option<Arc<EdgeDesired>>,
    /// Whatever it is told.
    always_refused: Vec<Refusal>,
    behaviour: Behaviour,
    /// What runs of jobs do.
    jobs: JobBehaviour,
    /// How often each run was started.
    starts: BTreeMap<InstanceId, u32>,
    /// Of the machine.
    boot: String,
    build: Result<(), Fault>,
    /// What becomes of snapshots, and those that were asked for.
    snapshot: Result<(), Fault>,
    snapshots: Vec<ReleaseNumber>,
    /// What the build finds, where the file says no `run`.
    detected: Option<Command>,
    /// User of the last build.
    built_by: Option<u32>,
    /// Fields of `artifacts`: another digest is another build.
    source: u8,
    /// The interpreter that builds find.
    interpreter: Option<String>,
    /// The sources that were built.
    sealed: BTreeSet<u8>,
    mode: Mode,
    users: Users,
    answers: BTreeMap<Ticket, Reply>,
    told: Vec<(u64, ChangeStep)>,
    /// Of node and edge, in the order in which they were handed out.
    generations: (Vec<Generation>, Vec<Generation>),
    /// The store answers only when the world has nothing new to show.
    slow_store: bool,
    /// How often a store job is refused before it is done.
    refuse_writes: u32,
    /// Instances go on when they are told to stop.
    stubborn: bool,
    /// The last collection: what it keeps.
    kept: Option<Keep>,
    /// The phases of rollouts are refused.
    refuse_phases: bool,
    /// Where an app had a ready endpoint in the table, and then none.
    outages: u32,
    /// Public names get their certificates from it.
    authority: Option<acme::FakeAuthority>,
    /// Of the next daemon.
    api: Option<Arc<ApiSite>>,
    given: Option<Given>,
    next_ticket: u64,
    next_port: u16,
}

/// One life of the daemon.
struct Daemon {
    machine: Loop,
    vault: Vault,
    store: Store,
    queue: VecDeque<Effect>,
    /// Jobs that a slow store has not done yet.
    jobs: VecDeque<Effect>,
    adopted: bool,
    seen_node: Option<Arc<Observations>>,
    seen_edge: Option<EdgeObservation>,
    effects_left: Option<usize>,
}

impl Daemon {
    /// Counts an effect; whether it is one too many.
    fn dies_now(&mut self) -> bool {
        match self.effects_left.as_mut().map(|left| (left.checked_sub(1), left)) {
            None => false,
            Some((None, _)) => true,
            Some((Some(less), left)) => {
                *left = less;
                false
            }
        }
    }
}

fn fault(message: &str) -> Fault {
    Fault::new(FaultKind::Failed, message)
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state", "ca", "app"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let world = Self {
            dir,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            now: Now { mono: Mono(Duration::from_secs(100)), wall: Timestamp(1_700_000_000_000), random: 7 },
            instances: BTreeMap::new(),
            specs: BTreeMap::new(),
            edge: EdgeObservation {
                status: EdgeStatus::Connected,
                http: Some("127.0.0.1:8080".parse().unwrap()),
                https: Some("127.0.0.1:8443".parse().unwrap()),
                ..EdgeObservation::default()
            },
            table: None,
            refuses: None,
            deaf_to: None,
            unheard: None,
            always_refused: Vec::new(),
            behaviour: Behaviour::Good,
            jobs: JobBehaviour::Exits(0),
            starts: BTreeMap::new(),
            boot: "boot-1".into(),
            build: Ok(()),
            snapshot: Ok(()),
            snapshots: Vec::new(),
            detected: Some(Command("detected".into())),
            built_by: None,
            source: 1,
            interpreter: None,
            sealed: BTreeSet::new(),
            mode: Mode::Local,
            users: Users::default(),
            answers: BTreeMap::new(),
            told: Vec::new(),
            generations: (Vec::new(), Vec::new()),
            slow_store: false,
            refuse_writes: 0,
            stubborn: false,
            kept: None,
            refuse_phases: false,
            outages: 0,
            authority: None,
            api: None,
            given: None,
            next_ticket: 0,
            next_port: 20_000,
        };
        world.write("bowline.toml", "app = \"shop\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n");
        world
    }

    fn folder(&self) -> PathBuf {
        std::fs::canonicalize(self.dir.path().join("app")).unwrap()
    }

    fn ca(&self) -> LocalCa {
        LocalCa::open_or_create(&self.dir.path().join("ca"), self.now.wall).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder().join(name), text).unwrap();
    }

    fn start(&mut self) -> Daemon {
        self.try_start().unwrap()
    }

    fn try_start(&mut self) -> Result<Daemon, Fault> {
        let keyring = Keyring::open_or_create(&self.state())?;
        let before = sealed::open(&self.state(), &keyring).unwrap();
        let before = before.map(|s| snapshot::decode(s.version, &s.payload).unwrap());
        let store = Store::open(&self.state(), keyring.store_keys())?;
        let (wall, state) = (self.now.wall, self.state());
        let (vault, loaded) = self.runtime.block_on(async {
            let vault = Vault::open(&state, keyring, store.clone()).await?;
            let loaded = load(&store, &vault, "0.0.0", wall).await?;
            Ok::<_, Fault>((vault, loaded))
        })?;
        let about = About {
            version: "0.0.0".into(),
            pid: 1,
            mode: self.mode,
            started: wall,
            admin: None,
            edge: EdgeEngine::Bowline,
            state_dir: self.state(),
        };
        let served = before.as_ref().map(|served| &*served.certificates);
        let place = Place {
            state_dir: self.state(),
            is_root: true,
            users: self.users,
            edge_http: self.edge.http,
            metrics: Some("http://127.0.0.1:7070/metrics".into()),
            salt: Salt::default(),
            trusted_proxies: [].into(),
            proxy_protocol: false,
            sample: None,
            api: self.api.clone(),
            given: self.given.clone(),
            acme: self.authority.as_ref().map(|authority| Authority {
                kept: self.kept_of_authority(&vault).load(),
                pace: Pace::default(),
                api: authority.api,
                local: CertCache::new(&self.state()).hosts(&self.ca(), &vault.keyring(), served, wall),
            }),
            left: match &self.authority {
                Some(_) => BTreeMap::new(),
                None => certs::acme::left(&self.state(), &vault.keys(), served, wall),
            },
            build_time: crate::config::BUILD_TIME,
            windows: Windows::default(),
            machine: Machine { memory: Bytes(8 << 30), cores: 4 },
            boot: self.boot.clone(),
        };
        let (machine, effects) = Loop::start(about, place, loaded, before.as_ref(), self.now);
        Ok(Daemon {
            machine,
            vault,
            store,
            queue: effects.into(),
            jobs: VecDeque::new(),
            adopted: false,
            seen_node: None,
            seen_edge: None,
            effects_left: None,
        })
    }

    fn ask(&mut self, daemon: &mut Daemon, request: Request) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.input(daemon, Input::Asked(ticket, request));
        ticket
    }

    fn apply(&mut self, daemon: &mut Daemon) -> Ticket {
        let order = self.order("local");
        self.ask(daemon, Request::Apply(order, None, Scope::default()))
    }

    /// To apply the world's folder.
    fn order(&self, env: &str) -> wire::Apply {
        wire::Apply { dir: self.folder().display().to_string(), env: env.into(), plan: None, built: false }
    }

    fn stop(&mut self, daemon: &mut Daemon) -> Ticket {
        self.ask(daemon, Request::Stop { key: shop(), shutdown_when_idle: false, by_uid: None })
    }

    fn input(&mut self, daemon: &mut Daemon, input: Input) {
        let effects = daemon.machine.handle(input, self.now);
        daemon.queue.extend(effects);
    }

    /// Goes on until nothing is left to do: effects first, then what the world shows, then the next deadline.
    fn run(&mut self, daemon: &mut Daemon) -> End {
        // Longer than any rollout, shorter than what runs before a release may take.
        let limit = self.now.mono + Duration::from_secs(1_800);
        loop {
            while let Some(effect) = daemon.queue.pop_front() {
                if self.slow_store && matches!(effect, Effect::Store(..)) {
                    daemon.jobs.push_back(effect);
                    continue;
                }
                if daemon.dies_now() {
                    daemon.queue.push_front(effect);
                    return End::Crashed;
                }
                if let Some(ended) = self.carry_out(daemon, effect) {
                    return End::Exited(ended);
                }
            }
            if self.show(daemon) {
                continue;
            }
            if let Some(job) = daemon.jobs.pop_front() {
                if daemon.dies_now() {
                    daemon.jobs.push_front(job);
                    return End::Crashed;
                }
                self.carry_out(daemon, job);
                continue;
            }
            match daemon.machine.next_deadline() {
                Some(at) if at <= limit && self.is_busy(daemon) => self.wait_until(daemon, at),
                Some(_) | None => return End::Quiet,
            }
        }
    }

    /// Whether somebody waits for something: otherwise time need not pass.
    fn is_busy(&self, daemon: &Daemon) -> bool {
        let machine = &daemon.machine;
        let waits = machine.apps.values().any(|app| app.change.is_some() || !app.stops.is_empty());
        let held = matches!(machine.slots.publish(), bowline_core::instance::Publish::Hold { .. });
        let promoted = machine.apps.values().any(|app| app.promoted.is_some());
        let lacks = self.lacks_certificate();
        waits || held || promoted || lacks || machine.ending.is_some()
    }

    fn wait_until(&mut self, daemon: &mut Daemon, at: Mono) {
        let step = at.since(self.now.mono).max(Duration::from_millis(1));
        self.now.mono = self.now.mono + step;
        self.now.wall = self.now.wall + step;
        self.now.random = self.now.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.input(daemon, Input::Tick);
    }

    /// Delivers what node and edge have to say, if it is new.
    fn show(&mut self, daemon: &mut Daemon) -> bool {
        let node = Arc::new(Observations {
            adopted: daemon.adopted,
            instances: self.instances.clone(),
            ..Observations::default()
        });
        daemon.adopted = true;
        if daemon.seen_node.as_ref() != Some(&node) {
            daemon.seen_node = Some(Arc::clone(&node));
            self.input(daemon, Input::Node(node));
            return true;
        }
        if daemon.seen_edge.as_ref() != Some(&self.edge) {
            daemon.seen_edge = Some(self.edge.clone());
            self.input(daemon, Input::Edge(Arc::new(self.edge.clone())));
            return true;
        }
        false
    }

    fn carry_out(&mut self, daemon: &mut Daemon, effect: Effect) -> Option<Ended> {
        match effect {
            Effect::Answer(ticket, reply) => drop(self.answers.insert(ticket, reply)),
            Effect::Tell(change, step) => self.told.push((change.0, step)),
            Effect::Read(ticket, order) => {
                let reading = folder::read(&order, &daemon.vault, EdgeEngine::Bowline)
                    .map(|reading| Box::new(self.foresee(reading)));
                self.input(daemon, Input::Read(ticket, reading));
            }
            Effect::Store(id, job) => {
                let phase = matches!(daemon.machine.pending.get(&id), Some(Pending::Phase { .. }) | None);
                let result = match self.refuse_writes.checked_sub(1) {
                    _ if self.refuse_phases && phase => Err(fault("no space is left for the store")),
                    Some(less) => {
                        self.refuse_writes = less;
                        Err(fault("no space is left for the store"))
                    }
                    None => self.runtime.block_on(jobs::run(&daemon.store, &daemon.vault, job)),
                };
                self.input(daemon, Input::Stored(id, result));
            }
            Effect::Build(change, request) => {
                self.built_by = request.uid;
                let built = self.build.clone().map(|()| self.built(&request));
                self.sealed.extend(built.is_ok().then_some(self.source));
                self.input(daemon, Input::Built(change, built));
            }
            Effect::CancelBuild(_) => {}
            Effect::Data(ticket, _) => {
                self.input(daemon, Input::Data(ticket, Err(fault("this node has no data"))));
            }
            Effect::TakeSnapshot(key, release, _) => {
                // Until then the node unmounts volumes that nothing uses which it has adopted.
                assert!(daemon.machine.node.adopted, "ordered before anything was adopted");
                self.snapshots.push(release);
                let done = self.snapshot.clone().map(|()| DataDone::Snapshotted { bytes: 1 });
                self.input(daemon, Input::Snapshotted(key, release, done));
            }
            Effect::CancelSnapshot(..) => {}
            Effect::Collect(keep) => self.kept = Some(keep),
            Effect::Certify(hosts) => {
                let ca = self.ca();
                let (certs, keyring) = (CertCache::new(&self.state()), daemon.vault.keyring());
                let leaf = |host| {
                    let leaf = certs.certificate(&ca, &keyring, std::slice::from_ref(&host), self.now.wall);
                    (host, leaf.map_err(Fault::from))
                };
                let leaves = hosts.into_iter().map(leaf).collect();
                self.input(daemon, Input::Certified(leaves));
            }
            Effect::Acme(effect) => self.asked_of_authority(daemon, effect),
            Effect::Node(desired) => {
                assert_stored(daemon, &desired);
                self.obey(&desired);
            }
            Effect::Edge(desired) => self.serve(desired),
            Effect::Snapshot(desired) => {
                let snapshot = sealed::Snapshot {
                    version: snapshot::VERSION,
                    generation: desired.table.generation,
                    payload: snapshot::encode(&desired),
                };
                sealed::seal(&self.state(), &daemon.vault.keyring(), &snapshot).unwrap();
            }
            Effect::Exit(ended) => return Some(ended),
        }
        None
    }

    fn built(&self, request: &BuildRequest) -> Built {
        let artifact = |(name, service): (&ServiceName, &bowline_core::app::Service)| {
            let artifact = Artifact {
                digest: Digest([self.source; 32]),
                root: self.state().join("artifacts").join(self.source.to_string()),
                run: service.run.clone().or_else(|| self.detected.clone()),
                fallback: None,
                env: BTreeMap::from([("PATH".to_owned(), "/venv/bin".to_owned())]),
                runtime: self.interpreter.clone(),
                detected: Vec::new(),
                cached: false,
            };
            (name.clone(), artifact)
        };
        Built { artifacts: request.app.services.iter().map(artifact).collect() }
    }

    fn foresee(&self, mut reading: Reading) -> Reading {
        if reading.purpose != Purpose::Apply {
            let foreseen = |(name, artifact): (ServiceName, Artifact)| {
                let foreseen = Foreseen::from(artifact);
                let artifact = foreseen.artifact.clone().filter(|_| self.sealed.contains(&self.source));
                (name, Foreseen { artifact, ..foreseen })
            };
            let built = self.built(&reading.foresight());
            reading.foreseen = Some(built.artifacts.into_iter().map(foreseen).collect());
        }
        reading
    }

    /// The fake node: an ordered incarnation that was never started is started; what is not ordered stops.
    fn obey(&mut self, desired: &NodeDesired) {
        self.generations.0.push(desired.generation);
        for (id, order) in &desired.instances {
            let InstanceOrder::Run(spec) = order else { continue };
            let is_run = Task::of_service(&id.slot.service).is_some();
            let known = if is_run { self.instances.contains_key(id) } else { self.specs.contains_key(id) };
            if !known {
                self.specs.insert(id.clone(), Arc::clone(spec));
                self.next_port += 1;
                let observed = if is_run { self.behave_as_run(id) } else { self.behave(self.next_port) };
                self.instances.insert(id.clone(), observed);
            }
        }
        // The node forgets a run that has ended and is in no order any more.
        self.instances.retain(|id, seen| {
            let is_run = Task::of_service(&id.slot.service).is_some();
            !is_run || !matches!(seen.phase, Phase::Exited(_)) || desired.instances.contains_key(id)
        });
        for (id, seen) in &mut self.instances {
            let lives = matches!(seen.phase, Phase::Running { .. });
            let kept = matches!(desired.instances.get(id), Some(InstanceOrder::Run(_) | InstanceOrder::Keep));
            if lives && !kept && !self.stubborn {
                let exit = Exit { cause: ExitCause::Stopped, at: self.now.wall, last_lines: Vec::new() };
                seen.phase = Phase::Exited(exit);
                seen.health = HealthState::Unknown;
            }
        }
    }

    fn behave(&self, port: u16) -> InstanceObservation {
        let running = Phase::Running { pid: 4_000, port: Port::new(port).unwrap(), since: self.now.wall };
        let exited =
            Exit { cause: ExitCause::Code(3), at: self.now.wall, last_lines: vec!["no module named flask".to_owned()] };
        let (phase, health) = match self.behaviour {
            Behaviour::Good => (running, HealthState::Passing { since: self.now.wall }),
            Behaviour::NeverHealthy => {
                (running, HealthState::Failing { failures: 3, reason: "connection refused".into() })
            }
            Behaviour::Exits => (Phase::Exited(exited), HealthState::Unknown),
        };
        let alive = HealthState::Unknown;
        let (usage, unenforced) = (Usage::default(), Vec::new());
        InstanceObservation { phase, health, alive, usage, unenforced, dropped_lines: 0, container: None }
    }

    fn behave_as_run(&mut self, id: &InstanceId) -> InstanceObservation {
        *self.starts.entry(id.clone()).or_default() += 1;
        let exit =
            |code| Exit { cause: ExitCause::Code(code), at: self.now.wall, last_lines: vec!["migrating".into()] };
        let phase = match self.jobs {
            JobBehaviour::Exits(code) => Phase::Exited(exit(code)),
            JobBehaviour::Stay => {
                Phase::Running { pid: 4_001, port: Port::new(self.next_port).unwrap(), since: self.now.wall }
            }
        };
        let (health, alive) = (HealthState::Unknown, HealthState::Unknown);
        InstanceObservation {
            phase,
            health,
            alive,
            usage: Usage::default(),
            unenforced: Vec::new(),
            dropped_lines: 0,
            container: None,
        }
    }

    /// The run that is under way ends by itself.
    fn finish_run(&mut self, code: i32) {
        let at = self.now.wall;
        let running = |(id, seen): &(&InstanceId, &mut InstanceObservation)| {
            Task::of_service(&id.slot.service).is_some() && matches!(seen.phase, Phase::Running { .. })
        };
        let (_, seen) = self.instances.iter_mut().find(running).expect("a run is under way");
        let exit = Exit { cause: ExitCause::Code(code), at, last_lines: vec!["migrating".into()] };
        seen.phase = Phase::Exited(exit);
    }

    /// Each run that was ever started, started once, as it prints.
    fn runs(&self) -> Vec<String> {
        assert!(self.starts.values().all(|times| *times == 1), "{:?}", self.starts);
        self.starts.keys().map(ToString::to_string).collect()
    }

    /// The fake edge refuses what is older than what it serves, as the real one does.
    fn serve(&mut self, desired: Arc<EdgeDesired>) {
        let mut rules = desired.table.sites.values().flat_map(|site| &site.rules);
        if self.deaf_to.is_some_and(|name| rules.any(|rule| rule.id.route.as_str() == name)) {
            self.unheard = Some(desired);
            return;
        }
        if self.edge.serving.is_some_and(|serving| serving >= desired.table.generation) {
            return;
        }
        self.generations.1.push(desired.table.generation);
        let endpoints = |d: &Arc<EdgeDesired>| d.table.pools.values().map(|p| p.endpoints.len()).sum::<usize>();
        let had = self.table.as_ref().is_some_and(|table| endpoints(table) > 0);
        if had && endpoints(&desired) == 0 {
            self.outages += 1;
        }
        self.edge.serving = Some(desired.table.generation);
        self.edge.table = None;
        let is_refused = |rule: &&Rule| Some(rule.id.route.as_str()) == self.refuses;
        let refused = desired.table.sites.iter().filter_map(|(host, site)| {
            let rule = site.rules.iter().find(is_refused)?;
            let fault = fault(&format!("Envoy refused routes of {}", rule.id.key)).caused_by("no such filter");
            Some(Refusal { apps: [rule.id.key.clone()].into(), part: Part::Host(host.clone()), fault })
        });
        self.edge.refusals = self.always_refused.iter().cloned().chain(refused).collect();
        self.table = Some(desired);
    }

    /// The edge answers again, and has what it was told meanwhile.
    fn hears(&mut self) {
        self.deaf_to = None;
        if let Some(desired) = self.unheard.take() {
            self.serve(desired);
        }
    }

    /// Instances that run, as they print.
    fn running(&self) -> Vec<String> {
        let runs = |seen: &InstanceObservation| matches!(seen.phase, Phase::Running { .. });
        self.instances.iter().filter(|(_, seen)| runs(seen)).map(|(id, _)| id.to_string()).collect()
    }

    /// Endpoints in the table that the edge serves.
    fn served(&self) -> Vec<String> {
        let table = self.table.as_ref().map(|desired| &desired.table);
        let pools = table.into_iter().flat_map(|table| table.pools.values());
        pools.flat_map(|pool| pool.endpoints.keys().map(ToString::to_string)).collect()
    }

    fn refusal(&self, ticket: Ticket) -> Fault {
        match self.answers.get(&ticket) {
            Some(Err(refusal)) => refusal.fault.clone(),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn answer(&self, ticket: Ticket) -> Answer {
        match self.answers.get(&ticket) {
            Some(Ok(answer)) => answer.clone(),
            other => panic!("not answered: {other:?}"),
        }
    }

    fn status(&mut self, daemon: &mut Daemon) -> wire::Status {
        let ticket = self.ask(daemon, Request::Status);
        self.run(daemon);
        let Answer::Status(status) = self.answer(ticket) else { panic!("another answer than a status") };
        *status
    }

    /// How the last change ended.
    fn last_end(&self) -> Option<&ChangeStep> {
        let ends = |step: &&ChangeStep| matches!(step, ChangeStep::Done { .. } | ChangeStep::Failed { .. });
        self.told.iter().rev().map(|(_, step)| step).find(ends)
    }
}

/// What follows from a phase is ordered only when the phase is stored: a release that is only decided runs nothing.
fn assert_stored(daemon: &Daemon, desired: &NodeDesired) {
    let row = daemon.store.read(|view| view.rollout(&shop())).unwrap();
    let form = row.map(|row| serde_json::from_str::<ChangeForm>(&row.state).unwrap());
    let Some(ChangeForm::Rollout { release, phase, .. }) = form else { return };
    let runs = |(id, order): (&InstanceId, &InstanceOrder)| {
        let of_service = Task::of_service(&id.slot.service).is_none();
        id.slot.release.0 == release && of_service && matches!(order, InstanceOrder::Run(_))
    };
    assert!(phase != "prepare" || !desired.instances.iter().any(runs), "release {release} is ordered in {phase}");
}

fn shop() -> AppKey {
    AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("shop").unwrap() }
}

/// Strictly rising: an older writer would be refused.
fn assert_rising(generations: &[Generation]) {
    assert!(generations.windows(2).all(|pair| pair[0] < pair[1]), "{generations:?}");
}
