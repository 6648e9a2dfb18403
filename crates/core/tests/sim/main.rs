//! A whole node on a fake clock: the machines, a fake node, a fake edge, a daemon that dies at any effect.
//!
//! `BOWLINE_SIM_SEED=17 cargo test -p bowline-core --test sim` runs one seed, and prints what happened;
//! `BOWLINE_SIM_SEEDS=100000` runs so many.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this whole crate is a test")]

mod check;
mod daemon;
mod edge;
mod node;
mod rng;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{
    Access, App, Cage, Command, Environment, Health, HttpCheck, Limit, Limits, Origin, PathPrefix, Probe, ReleaseHooks,
    Rollout as RolloutTable, Route, RouteTo, Scale, Service, Strategy, Tls,
};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, EnvName, InstanceId, Port, ReleaseNumber, RouteName, ServiceName};
use bowline_core::rollout::Phase;
use bowline_core::route::Site;
use bowline_core::time::Mono;

use check::{Broken, Invariant, broken};
use daemon::{Daemon, Mutation, Outside, Stop, Store, config_of};
use edge::{Edge, Sent};
use node::{Faults, Node, Profile};
use rng::Rng;

const RELEASES: u32 = 4;

/// Of the normal test: some ten seconds. `BOWLINE_SIM_SEEDS` asks for more.
const SEEDS: u64 = 500;

/// What is done to the system, all decided before it starts.
struct Script {
    calm: bool,
    profiles: Vec<Profile>,
    apps: Vec<Arc<App>>,
    /// Not before.
    deploys: Vec<Mono>,
    /// A person aborts the deploy, so long after it began.
    aborts: Vec<Option<Duration>>,
    /// Effects until each crash of the daemon.
    crashes: Vec<u32>,
    faults_end: Mono,
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn service(health: Option<Health>, replicas: u16) -> Service {
    Service {
        origin: Origin::Folder { dir: ".".into(), build: None },
        run: Some(Command("app".into())),
        packages: Vec::new(),
        runtime: None,
        fixed_port: None,
        health,
        alive: None,
        drain: secs(20),
        scale: Scale { min: replicas, max: replicas, cpu: None, in_flight: None },
        limits: Limits::default(),
        writable: Vec::new(),
        metrics: None,
        cage: Cage::Best,
        env: BTreeMap::new(),
    }
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn route(path: &str, to: &str) -> (RouteName, Route) {
    let route = Route {
        hosts: Vec::new(),
        path: PathPrefix::new(path).unwrap(),
        strip: false,
        to: RouteTo::Service(name(to)),
        tls: Tls::Auto,
        access: Access::default(),
        limit: Limit::default(),
        upload: None,
    };
    (RouteName::new(to).unwrap(), route)
}

fn app(app: &str, services: BTreeMap<ServiceName, Service>, routes: BTreeMap<RouteName, Route>) -> App {
    App {
        name: AppName::new(app).unwrap(),
        services,
        jobs: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        databases: BTreeMap::new(),
        redis: BTreeMap::new(),
        volumes: BTreeMap::new(),
        buckets: BTreeMap::new(),
        routes,
        release: ReleaseHooks::default(),
        rollout: RolloutTable { strategy: Strategy::Rolling, abort: Vec::new(), watch: Duration::ZERO },
        slo: None,
        image: None,
        logs: None,
        environment: Environment {
            name: EnvName::new("local").unwrap(),
            protected: false,
            server: None,
            kubernetes: None,
        },
    }
}

fn key(app: &str) -> AppKey {
    AppKey { env: EnvName::new("local").unwrap(), app: AppName::new(app).unwrap() }
}

/// `web` rolls; `worker` has no route; `api`, in some, has a fixed port.
fn shop(rng: &mut Rng, with_api: bool) -> App {
    let replicas = |rng: &mut Rng| u16::try_from(1 + rng.below(3)).unwrap();
    let http = || HttpCheck { path: "/ready".into(), probe: Probe { grace: secs(10), ..Probe::default() } };
    let mut web = service(Some(Health::Http(http())), replicas(rng));
    web.alive = (rng.below(2) == 0).then(http);
    let worker = service(None, replicas(rng));
    let mut services: BTreeMap<_, _> = [(name("web"), web), (name("worker"), worker)].into();
    let mut routes: BTreeMap<_, _> = [route("/", "web")].into();
    if with_api {
        let mut api = service(None, 1);
        api.fixed_port = Port::new(3000);
        services.insert(name("api"), api);
        routes.extend([route("/api", "api")]);
    }
    app("shop", services, routes)
}

impl Script {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let calm = seed.is_multiple_of(2);
        let with_api = rng.below(3) == 0;
        let profiles = [Profile::Good, Profile::NeverReady, Profile::ExitsAtOnce, Profile::Refused];
        let profile = |rng: &mut Rng| match rng.below(2) {
            0 => Profile::Good,
            _ => profiles[usize::try_from(rng.below(4)).unwrap()],
        };
        let mut at = Mono::default();
        let deploys = (0..RELEASES).map(|_| {
            at = at + Duration::from_millis(rng.below(30_000));
            at
        });
        Self {
            calm,
            deploys: deploys.collect(),
            profiles: (0..RELEASES).map(|_| profile(&mut rng)).collect(),
            apps: (0..RELEASES).map(|_| Arc::new(shop(&mut rng, with_api))).collect(),
            aborts: (0..RELEASES)
                .map(|_| (rng.below(4) == 0).then(|| Duration::from_millis(rng.below(15_000))))
                .collect(),
            crashes: (0..rng.below(4)).map(|_| u32::try_from(rng.below(30)).unwrap()).collect(),
            faults_end: Mono(secs(120)),
        }
    }
}

struct Sim {
    script: Script,
    mutation: Option<Mutation>,
    now: Mono,
    rng: Rng,
    node: Node,
    edge: Edge,
    store: Store,
    daemon: Option<Daemon>,
    back: Mono,
    fuse: Option<u32>,
    deployed: usize,
    began: Mono,
    abort_at: Option<Mono>,
    was_full: bool,
    started: usize,
    others: Option<BTreeMap<bowline_core::app::HostName, Site>>,
    verbose: bool,
}

/// So long after the last fault everything must have settled: deadlines of a rollout of three services and the way
/// back, doubled.
const SETTLED_AFTER: Duration = secs_const(1500);

const fn secs_const(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Sim {
    fn new(seed: u64, mut script: Script, mutation: Option<Mutation>) -> Self {
        let mut rng = Rng(seed ^ 0x5eed);
        let faults = Faults { wild: !script.calm, end: script.faults_end };
        let fuse = script.crashes.pop();
        let mut store = Store::new();
        store.entry(key("other")).or_default().revisions.insert(
            ReleaseNumber(1),
            Arc::new(app("other", [(name("web"), service(None, 1))].into(), BTreeMap::new())),
        );
        let shop = store.entry(key("shop")).or_default();
        shop.revisions.extend((1..).map(ReleaseNumber).zip(script.apps.iter().cloned()));
        let mut sim = Self {
            mutation,
            now: Mono::default(),
            node: Node::new(rng.fork(), faults),
            edge: Edge::new(rng.fork()),
            rng,
            store,
            daemon: None,
            back: Mono::default(),
            fuse,
            deployed: 0,
            began: Mono::default(),
            abort_at: None,
            was_full: false,
            started: 0,
            others: None,
            script,
            verbose: false,
        };
        sim.daemon = Some(Daemon::start(&mut sim.store, &sim.edge, mutation, sim.now));
        sim.with_daemon(|daemon, out, now| {
            daemon.deploy(out, &key("other"), ReleaseNumber(1), now);
            Ok(())
        })
        .unwrap_or_else(|_| unreachable!("nothing has happened yet"));
        sim
    }

    /// Runs a piece of the daemon; it may die in it.
    fn with_daemon(
        &mut self,
        run: impl FnOnce(&mut Daemon, &mut Outside<'_>, Mono) -> Result<(), Stop>,
    ) -> Result<(), Broken> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let mut out = Outside {
            store: &mut self.store,
            node: &mut self.node,
            edge: &mut self.edge,
            mutation: self.mutation,
            fuse: &mut self.fuse,
            calm: self.script.calm,
            random: self.rng.next(),
        };
        match run(&mut daemon, &mut out, self.now) {
            Ok(()) => self.daemon = Some(daemon),
            Err(Stop::Broken(broken)) => return Err(broken),
            Err(Stop::Crash) => {
                self.say("the daemon dies");
                self.back = self.now + Duration::from_millis(100 + self.rng.below(5000));
                self.node.crash(self.back);
                self.edge.crash();
                self.fuse = self.script.crashes.pop();
            }
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        if self.verbose {
            println!("{:>9.3}s {text}", self.now.0.as_secs_f64());
        }
    }

    fn run(&mut self) -> Result<Vec<(ReleaseNumber, Phase)>, Broken> {
        let end = self.script.faults_end + SETTLED_AFTER;
        while let Some(next) = self.next_event().filter(|next| *next < end) {
            self.now = next;
            let profiles = self.script.profiles.clone();
            let shop = key("shop");
            let profile = |id: &InstanceId| match id.slot.key == shop {
                true => profiles[usize::try_from(id.slot.release.0 - 1).unwrap()],
                false => Profile::Good,
            };
            self.node.advance(self.now, &profile);
            self.edge.advance(self.now);
            let procs = &self.node.procs;
            self.edge.forget(|id| procs.get(id).is_some_and(node::Proc::lives));
            if self.daemon.is_none() && self.now >= self.back {
                self.say("the daemon is back");
                self.daemon = Some(Daemon::start(&mut self.store, &self.edge, self.mutation, self.now));
            }
            self.check_started()?;
            self.command()?;
            self.with_daemon(|daemon, out, now| daemon.tick(out, now))?;
            self.check()?;
        }
        self.settled()?;
        Ok(self.store[&key("shop")].ended.clone())
    }

    fn next_event(&self) -> Option<Mono> {
        let deadline = self.daemon.as_ref().and_then(Daemon::next_deadline);
        let deadline = deadline.filter(|_| self.mutation != Some(Mutation::NeverWakes));
        let tick = self.now + Duration::from_millis(1);
        let back = self.daemon.is_none().then_some(self.back.max(tick));
        let idle = self.store[&key("shop")].change.is_none() && self.daemon.is_some();
        let deploy = self.script.deploys.get(self.deployed).filter(|_| idle).map(|at| (*at).max(tick));
        let events = [
            deadline.map(|at| at.max(tick)),
            back,
            deploy,
            self.abort_at.filter(|at| *at > self.now),
            self.node.next_event(self.now),
            self.edge.next_event(self.now),
        ];
        events.into_iter().flatten().min()
    }

    fn command(&mut self) -> Result<(), Broken> {
        let shop = key("shop");
        let idle = self.store[&shop].change.is_none();
        if self.daemon.is_none() {
            return Ok(());
        }
        if idle && self.script.deploys.get(self.deployed).is_some_and(|at| self.now >= *at) {
            let release = ReleaseNumber(u32::try_from(self.deployed + 1).unwrap());
            self.say(&format!("deploy r{release}: {:?}", self.script.profiles[self.deployed]));
            self.abort_at = self.script.aborts[self.deployed].map(|after| self.now + after);
            self.deployed += 1;
            self.began = self.now;
            self.with_daemon(|daemon, out, now| {
                daemon.deploy(out, &shop, release, now);
                Ok(())
            })
        } else if !idle && self.abort_at.is_some_and(|at| self.now >= at) {
            self.say("abort");
            self.abort_at = None;
            let reason = Fault::new(FaultKind::Failed, "aborted by hand");
            self.with_daemon(|daemon, out, now| daemon.abort(out, &key("shop"), reason, now))
        } else {
            Ok(())
        }
    }

    fn check(&mut self) -> Result<(), Broken> {
        if let Some(slot) = self.node.doubled() {
            return Err(broken(Invariant::OneCopy, format!("two copies of {slot}")));
        }
        self.check_others()?;
        self.check_requests()?;
        self.check_capacity()
    }

    fn check_started(&mut self) -> Result<(), Broken> {
        for (id, spec) in &self.node.started[self.started..] {
            if spec.env["CONFIG"] != config_of(id.slot.release) {
                return Err(broken(Invariant::Pinned, format!("{id} runs with the values {:?}", spec.env["CONFIG"])));
            }
            let record = &self.store[&id.slot.key];
            let ended = record.ended.iter().filter(|(release, _)| *release == id.slot.release).count();
            let again = record.change.as_ref().is_some_and(|(release, ..)| record.rejected.contains(release));
            if again && ended > 0 {
                return Err(broken(Invariant::NoRetry, format!("{id} is started after it was rejected")));
            }
            if record.rejected.contains(&id.slot.release) {
                return Err(broken(Invariant::NothingLeft, format!("{id} is started after it was rejected")));
            }
        }
        self.started = self.node.started.len();
        Ok(())
    }

    fn check_others(&mut self) -> Result<(), Broken> {
        let Some(table) = &self.edge.table else { return Ok(()) };
        if self.store[&key("other")].stable.is_none() {
            return Ok(());
        }
        let of = |site: &&Site| site.rules.iter().any(|rule| rule.id.key == key("other"));
        let sites: BTreeMap<_, _> =
            table.sites.iter().filter(|(_, site)| of(site)).map(|(h, s)| (h.clone(), s.clone())).collect();
        match &self.others {
            Some(before) if *before != sites => {
                Err(broken(Invariant::OthersUntouched, format!("other was {before:?}, is {sites:?}")))
            }
            _ => {
                self.others = (!sites.is_empty()).then_some(sites);
                Ok(())
            }
        }
    }

    /// In a calm world no request is refused, and none reaches what is not ready.
    fn check_requests(&mut self) -> Result<(), Broken> {
        let stopping = |id: &&InstanceId| self.node.procs.get(*id).is_some_and(node::Proc::is_told_to_stop);
        let served = self.edge.table.iter().flat_map(|table| table.pools.values());
        let stopping = served.flat_map(|pool| pool.endpoints.keys()).find(stopping);
        if let Some(id) = stopping.filter(|_| self.script.calm) {
            return Err(broken(Invariant::TrafficToReady, format!("{id} is served and stopping")));
        }
        let sent = self.edge.request(&key("shop"), &name("web"), self.now);
        match sent {
            Sent::To(id) if self.script.calm => match self.node.procs.get(&id) {
                Some(proc) if proc.answers(self.now) => Ok(()),
                Some(_) | None => Err(broken(Invariant::TrafficToReady, format!("{id} gets a request, not ready"))),
            },
            Sent::Nowhere | Sent::Unknown if self.script.calm && self.was_full => {
                Err(broken(Invariant::Capacity, format!("a request ends: {sent:?}")))
            }
            Sent::To(_) | Sent::Nowhere | Sent::Unknown => Ok(()),
        }
    }

    fn check_capacity(&mut self) -> Result<(), Broken> {
        let record = &self.store[&key("shop")];
        let (Some(stable), Some(table), true) = (record.stable, &self.edge.table, self.script.calm) else {
            return Ok(());
        };
        let wanted = |release| record.revisions[&release].services["web"].scale.min;
        let releases = record.change.iter().map(|(release, ..)| *release).chain([stable]);
        let before = record.ended.iter().filter(|(_, phase)| *phase == Phase::Done).map(|(release, _)| *release);
        // What was promoted a moment ago may not have reached the edge yet.
        let floor = releases.chain(before).map(wanted).min().unwrap_or(0);
        let web = table.pools.iter().filter(|(id, _)| id.key == key("shop") && id.service == name("web"));
        let answers = |id: &&InstanceId| self.node.procs.get(*id).is_some_and(|proc| proc.answers(self.now));
        let ready = web.flat_map(|(_, pool)| pool.endpoints.keys()).filter(answers).count();
        if ready >= usize::from(floor) {
            self.was_full = true;
        } else if self.was_full {
            return Err(broken(Invariant::Capacity, format!("{ready} of web are ready, {floor} at least are wanted")));
        }
        Ok(())
    }

    fn settled(&self) -> Result<(), Broken> {
        let not = |text: String| Err(Broken { invariant: Invariant::Converges, text });
        let record = &self.store[&key("shop")];
        if let Some((release, phase, _)) = &record.change {
            return not(format!("r{release} is still in {phase}"));
        }
        if self.deployed < self.script.deploys.len() || self.daemon.is_none() {
            return not(format!("only {} releases were deployed", self.deployed));
        }
        let mut wanted: BTreeMap<(AppKey, ServiceName, ReleaseNumber), usize> = BTreeMap::new();
        for (key, record) in &self.store {
            for (release, app) in record.stable.iter().map(|release| (*release, &record.revisions[release])) {
                wanted.extend(
                    app.services.iter().map(|(n, s)| ((key.clone(), n.clone(), release), usize::from(s.scale.min))),
                );
            }
        }
        let mut runs: BTreeMap<(AppKey, ServiceName, ReleaseNumber), usize> = BTreeMap::new();
        for (id, proc) in self.node.procs.iter().filter(|(_, proc)| proc.lives()) {
            if !proc.answers(self.now) {
                return not(format!("{id} lives and does not answer: {proc:?}"));
            }
            *runs.entry((id.slot.key.clone(), id.slot.service.clone(), id.slot.release)).or_default() += 1;
        }
        if runs != wanted {
            return not(format!("wanted {wanted:?}, runs {runs:?}"));
        }
        let served = self.edge.table.iter().flat_map(|table| &table.pools);
        for (pool, endpoints) in served {
            let count = wanted.get(&(pool.key.clone(), pool.service.clone(), pool.release)).copied().unwrap_or(0);
            if endpoints.endpoints.len() != count {
                return not(format!("{pool:?} is served by {} of {count}", endpoints.endpoints.len()));
            }
        }
        self.expected_end()
    }

    /// In a calm world the profile alone decides how a rollout ends, whatever was killed.
    fn expected_end(&self) -> Result<(), Broken> {
        let record = &self.store[&key("shop")];
        for (i, (release, phase)) in record.ended.iter().enumerate() {
            let at = usize::try_from(release.0 - 1).unwrap();
            let good = self.script.profiles[at] == Profile::Good;
            let ok = match phase {
                Phase::Done => good,
                Phase::RolledBack | Phase::Failed => !self.script.calm || !good || self.script.aborts[at].is_some(),
                Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Watch | Phase::Abort(_) => false,
            };
            if !ok || i != at {
                let text = format!("r{release}, which is {:?}, ended as {phase}", self.script.profiles[at]);
                return Err(Broken { invariant: Invariant::SameEnd, text });
            }
        }
        Ok(())
    }
}

fn run(seed: u64, mutation: Option<Mutation>, verbose: bool) -> Result<Vec<(ReleaseNumber, Phase)>, Broken> {
    let mut sim = Sim::new(seed, Script::new(seed), mutation);
    sim.verbose = verbose;
    sim.run()
}

fn variable(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "the test is asked for a seed from outside")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = variable("BOWLINE_SIM_SEED") {
        println!(
            "seed {seed}: {:?}",
            run(seed, None, true).unwrap_or_else(|b| panic!("{:?}: {}", b.invariant, b.text))
        );
        return;
    }
    for seed in 0..variable("BOWLINE_SIM_SEEDS").unwrap_or(SEEDS) {
        if let Err(broken) = run(seed, None, false) {
            panic!("BOWLINE_SIM_SEED={seed}: {:?}: {}", broken.invariant, broken.text);
        }
    }
}

/// Crash and replay at every effect of a few calm worlds.
#[test]
fn a_crash_at_any_effect_ends_where_no_crash_ends() {
    for seed in (0..8).step_by(2) {
        let end = |crash: Option<u32>| {
            let mut script = Script::new(seed);
            script.aborts.fill(None);
            script.crashes = crash.into_iter().collect();
            let mut sim = Sim::new(seed, script, None);
            let ended =
                sim.run().unwrap_or_else(|b| panic!("seed {seed}, crash {crash:?}: {:?}: {}", b.invariant, b.text));
            (ended, sim.fuse)
        };
        let (expected, _) = end(None);
        for effect in 0.. {
            let (ended, unused) = end(Some(effect));
            assert_eq!(ended, expected, "seed {seed}, crash at effect {effect}");
            if unused.is_some() {
                assert!(effect > 20, "a whole run has more than {effect} effects");
                break;
            }
        }
    }
}

#[test]
fn planted_bugs_are_caught_by_their_invariant() {
    let check = |mutation: Mutation, expected: Invariant| {
        let caught = (0..200).find_map(|seed| run(seed, Some(mutation), false).err());
        let caught = caught.unwrap_or_else(|| panic!("{mutation:?} is not caught"));
        assert_eq!(caught.invariant, expected, "{mutation:?}: {}", caught.text);
    };
    check(Mutation::OneFewer, Invariant::Capacity);
    check(Mutation::ServesStarting, Invariant::TrafficToReady);
    check(Mutation::StopsWithoutDrain, Invariant::TrafficToReady);
    check(Mutation::WrongWeights, Invariant::Weights);
    check(Mutation::StableRetiresEarly, Invariant::StableRetiresLast);
    check(Mutation::WeightAfterAbort, Invariant::NoWeightAfterAbort);
    check(Mutation::ForgetsPhase, Invariant::Bounded);
    check(Mutation::LeavesBehind, Invariant::NothingLeft);
    check(Mutation::ForgetsChange, Invariant::SameEnd);
    check(Mutation::Retries, Invariant::NoRetry);
    check(Mutation::NewestConfig, Invariant::Pinned);
    check(Mutation::DropsOthers, Invariant::OthersUntouched);
    check(Mutation::NeverWakes, Invariant::Converges);
    check(Mutation::TwoCopies, Invariant::OneCopy);
}
