//! Resources on a simulated machine: the daemon is ended after any effect, servers are killed at any time, and the
//! database must be filled once, served by one copy, and ready in the end.

#[path = "sim/rng.rs"]
mod rng;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{Cage, Command, Limits, Probe, ResourceKind};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, AppName, EnvName, Incarnation, InstanceId, Port, ReleaseNumber, ResourceName};
use bowline_core::instance::{
    Exit, ExitCause, HealthState, InstanceObservation, InstanceOrder, InstanceSpec, Observations, Phase, PortChoice,
    Reach, Readiness, StopSignal, Usage,
};
use bowline_core::resource::{
    Access, Effect, External, Input, Left, Managed, Nature, Prepared, ResourceId, ResourceKey, ResourcePhase,
    ResourceSpec, Resources, Server, Trouble,
};
use bowline_core::secret::Secret;
use bowline_core::time::{Mono, Timestamp};
use rng::Rng;

fn key() -> ResourceKey {
    let app =
        AppKey { env: EnvName::new("local").expect("a valid one"), app: AppName::new("shop").expect("a valid one") };
    ResourceKey {
        app,
        id: ResourceId { kind: ResourceKind::Postgres, name: ResourceName::new("db").expect("a valid one") },
    }
}

fn spec(password: &str, port: u16) -> Arc<ResourceSpec> {
    Arc::new(ResourceSpec::Managed(Managed {
        server: Server {
            folder: PathBuf::from("/data"),
            version: None,
            persist: true,
            port: Port::new(port).expect("a valid one"),
            uid: None,
            admin: None,
        },
        access: Access {
            user: "app_db".into(),
            database: "app_db".into(),
            password: Secret::new(password),
            environment: "e".into(),
        },
        init: None,
    }))
}

fn instance_spec(port: u16) -> Arc<InstanceSpec> {
    Arc::new(InstanceSpec {
        id: InstanceId { slot: key().slot(), incarnation: Incarnation(0) },
        root: PathBuf::from("/data/config"),
        run: Command("postgres".into()),
        env: BTreeMap::new(),
        secret_files: Vec::new(),
        tools: None,
        packages: Vec::new(),
        port: PortChoice::Fixed(Port::new(port).expect("a valid one")),
        health: Some(Readiness::Tcp(Probe::default())),
        protocol: Default::default(),
        alive: None,
        limits: Limits::default(),
        uid: None,
        reach: Reach::App,
        volumes: Vec::new(),
        writable: Vec::new(),
        cage: Cage::Best,
        stop: StopSignal::Int,
        grace: Duration::from_secs(10),
    })
}

/// What outlives the daemon.
struct Machine {
    now: Mono,
    desired: BTreeMap<ResourceKey, Arc<ResourceSpec>>,
    /// The folder is there.
    made: bool,
    /// How often the contents were made whole.
    filled: u32,
    /// The password that the server knows.
    password: Option<Secret>,
    instances: BTreeMap<InstanceId, Phase>,
    /// Orders to stop a server that is wanted.
    stops: u32,
}

impl Machine {
    fn new() -> Self {
        Self {
            now: Mono(Duration::from_secs(50)),
            desired: [(key(), spec("first", 15_000))].into(),
            made: false,
            filled: 0,
            password: None,
            instances: BTreeMap::new(),
            stops: 0,
        }
    }

    fn alive(&self) -> Vec<&InstanceId> {
        let lives = self.instances.iter().filter(|(_, phase)| matches!(phase, Phase::Running { .. }));
        lives.map(|(id, _)| id).collect()
    }

    fn observe(&self) -> Observations {
        let seen = |phase: &Phase| InstanceObservation {
            health: match phase {
                Phase::Running { .. } => HealthState::Passing { since: Timestamp(1) },
                Phase::Preparing(_)
                | Phase::Starting
                | Phase::Stopping { .. }
                | Phase::Exited(_)
                | Phase::Refused(_) => HealthState::Unknown,
            },
            phase: phase.clone(),
            alive: HealthState::Unknown,
            usage: Usage::default(),
            unenforced: Vec::new(),
            dropped_lines: 0,
            container: None,
        };
        let instances = self.instances.iter().map(|(id, phase)| (id.clone(), seen(phase))).collect();
        Observations { adopted: true, instances, ..Observations::default() }
    }

    fn end(&mut self, id: &InstanceId, cause: ExitCause) {
        let exit = Exit { cause, at: Timestamp(2), last_lines: Vec::new() };
        self.instances.insert(id.clone(), Phase::Exited(exit));
    }

    /// As the driver does.
    fn follow(&mut self, orders: &BTreeMap<InstanceId, InstanceOrder>) {
        for id in self.instances.keys().cloned().collect::<Vec<_>>() {
            let lives = matches!(self.instances[&id], Phase::Running { .. });
            match (orders.get(&id), lives) {
                (None | Some(InstanceOrder::Stop), true) => {
                    self.stops += u32::from(self.desired.contains_key(&key()));
                    self.end(&id, ExitCause::Stopped);
                }
                (None, false) => drop(self.instances.remove(&id)),
                (Some(InstanceOrder::Run(_) | InstanceOrder::Keep), _) | (Some(InstanceOrder::Stop), false) => {}
            }
        }
        for (id, order) in orders {
            let InstanceOrder::Run(spec) = order else { continue };
            // One that has ended is not started again.
            if self.instances.contains_key(id) || !self.alive().is_empty() {
                continue;
            }
            assert!(self.made, "a server is started only on a folder that was made");
            let PortChoice::Fixed(port) = spec.port else { panic!("a server has one port") };
            self.instances.insert(id.clone(), Phase::Running { pid: 7, port, since: Timestamp(1) });
        }
    }
}

/// One life of the daemon.
#[derive(Default)]
struct Daemon {
    resources: Resources,
    effects: Vec<Effect>,
}

impl Daemon {
    fn handle(&mut self, machine: &mut Machine, input: Input<'_>, rng: &mut Rng) {
        self.effects.extend(self.resources.handle(input, machine.now, rng.next()));
        if let Some(orders) = self.resources.orders() {
            machine.follow(&orders);
        }
        assert!(machine.alive().len() <= 1, "one copy");
    }

    fn look(&mut self, machine: &mut Machine, rng: &mut Rng) {
        let desired = machine.desired.clone();
        self.handle(machine, Input::Desired(&desired), rng);
        let seen = machine.observe();
        self.handle(machine, Input::Node(&seen), rng);
    }

    /// Carries out one effect; the answer may be lost with the daemon.
    fn carry_out(&mut self, machine: &mut Machine, effect: Effect, answer: bool, rng: &mut Rng) {
        let trouble = |nature| Trouble { fault: Fault::new(FaultKind::Failed, "not now"), nature };
        let input = match effect {
            Effect::Prepare(key, round, spec) => {
                let ResourceSpec::Managed(Managed { server, .. }) = &*spec else { panic!("it is run here") };
                let result = match rng.below(4) {
                    0 => Err(trouble(Nature::Passing)),
                    1 => Err(trouble(Nature::Soon)),
                    _ => {
                        machine.made = true;
                        Ok(Prepared { spec: instance_spec(server.port.get()), version: "15.1".into() })
                    }
                };
                Input::Prepared(key, round, result)
            }
            Effect::Provision(key, round, spec) => {
                let ResourceSpec::Managed(Managed { access, .. }) = &*spec else { panic!("it is run here") };
                let result = match (machine.alive().is_empty(), rng.below(4)) {
                    (true, _) | (_, 0) => Err(trouble(Nature::Passing)),
                    (false, _) => {
                        machine.filled = machine.filled.max(1);
                        machine.password = Some(access.password.clone());
                        Ok(())
                    }
                };
                Input::Provisioned(key, round, result)
            }
            Effect::Probe(..) => panic!("nothing is elsewhere"),
        };
        if answer {
            self.handle(machine, input, rng);
        }
    }

    fn phase(&self, now: Mono) -> Option<ResourcePhase> {
        self.resources.observe(now).get(&key()).map(|seen| seen.phase.clone())
    }

    /// Until nothing is left to do but to wait for a failure.
    fn settle(&mut self, machine: &mut Machine, rng: &mut Rng) {
        for _ in 0..400 {
            self.look(machine, rng);
            if let Some(effect) = self.effects.pop() {
                self.carry_out(machine, effect, true, rng);
                continue;
            }
            if self.phase(machine.now) == Some(ResourcePhase::Ready) || machine.desired.is_empty() {
                return;
            }
            let next = self.resources.next_deadline().unwrap_or(machine.now + Duration::from_secs(1));
            machine.now = next.max(machine.now + Duration::from_millis(1));
            self.handle(machine, Input::Tick, rng);
        }
        panic!("it does not get ready: {:?}, {:?}", self.phase(machine.now), machine.instances);
    }
}

fn run(seed: u64) {
    let mut rng = Rng(seed).fork();
    let (mut machine, mut daemon) = (Machine::new(), Daemon::default());
    for _ in 0..rng.below(60) {
        daemon.look(&mut machine, &mut rng);
        match rng.below(10) {
            0 => daemon = Daemon::default(),
            1 => {
                let victim = machine.alive().first().map(|id| (*id).clone());
                victim.iter().for_each(|id| machine.end(id, ExitCause::Signal(9)));
            }
            2 => machine.now = machine.now + Duration::from_secs(rng.below(90)),
            3 => machine.now = machine.now + Duration::from_millis(rng.below(900)),
            _ => match daemon.effects.pop() {
                // The daemon dies between the work and its answer.
                Some(effect) if rng.below(5) == 0 => {
                    daemon.carry_out(&mut machine, effect, false, &mut rng);
                    daemon = Daemon::default();
                }
                Some(effect) => daemon.carry_out(&mut machine, effect, true, &mut rng),
                None => daemon.handle(&mut machine, Input::Tick, &mut rng),
            },
        }
    }
    daemon.settle(&mut machine, &mut rng);
    assert_eq!((machine.alive().len(), machine.filled), (1, 1));
    assert_eq!(machine.stops, 0, "a wanted server is never told to stop");

    // Another daemon takes over what runs.
    let served: Vec<InstanceId> = machine.alive().into_iter().cloned().collect();
    daemon = Daemon::default();
    daemon.settle(&mut machine, &mut rng);
    assert_eq!(machine.alive(), served.iter().collect::<Vec<_>>(), "adopted");

    // A password is taken up by the server that runs; a port needs another one.
    machine.desired = [(key(), spec("second", 15_000))].into();
    daemon.settle(&mut machine, &mut rng);
    assert_eq!(machine.alive(), served.iter().collect::<Vec<_>>(), "no restart for a password");
    assert_eq!(machine.password, Some(Secret::new("second")));
    machine.desired = [(key(), spec("second", 15_001))].into();
    daemon.settle(&mut machine, &mut rng);
    assert_ne!(machine.alive(), served.iter().collect::<Vec<_>>(), "another port is another server");

    machine.desired.clear();
    daemon.settle(&mut machine, &mut rng);
    assert!(machine.alive().is_empty(), "what is not wanted is stopped");
    daemon.look(&mut machine, &mut rng);
    assert!(daemon.resources.observe(machine.now).is_empty());
}

#[test]
fn whatever_is_killed_one_server_is_ready_and_filled_once() {
    for seed in 0..500 {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// A daemon whose server runs and is ready.
fn ready(rng: &mut Rng) -> (Machine, Daemon, InstanceId) {
    let (mut machine, mut daemon) = (Machine::new(), Daemon::default());
    daemon.settle(&mut machine, rng);
    let server = machine.alive()[0].clone();
    (machine, daemon, server)
}

fn versioned(version: u16) -> Arc<ResourceSpec> {
    let mut spec = Arc::unwrap_or_clone(spec("first", 15_000));
    if let ResourceSpec::Managed(managed) = &mut spec {
        managed.server.version = Some(version);
    }
    Arc::new(spec)
}

#[test]
fn a_server_runs_on_until_the_next_one_is_prepared() {
    let mut rng = Rng(1);
    let (mut machine, mut daemon, server) = ready(&mut rng);
    for nature in [Nature::Lasting, Nature::Passing, Nature::Soon] {
        machine.desired = [(key(), spec("first", 15_001))].into();
        daemon.look(&mut machine, &mut rng);
        let Some(Effect::Prepare(_, round, _)) = daemon.effects.pop() else { panic!("the next one is prepared") };
        assert_eq!(machine.alive(), [&server]);
        let trouble = Trouble { fault: Fault::new(FaultKind::Invalid, "not to be had"), nature };
        daemon.handle(&mut machine, Input::Prepared(key(), round, Err(trouble)), &mut rng);
        daemon.look(&mut machine, &mut rng);
        assert_eq!((machine.alive(), machine.stops), (vec![&server], 0), "{nature:?}");
        let failing = matches!(daemon.phase(machine.now), Some(ResourcePhase::Failing { .. }));
        assert_eq!(failing, nature != Nature::Soon, "who waits for it is told");

        machine.desired = [(key(), spec("first", 15_000))].into();
        daemon.settle(&mut machine, &mut rng);
        assert_eq!((machine.alive(), machine.stops), (vec![&server], 0), "back, and nothing has happened");
    }
    machine.desired = [(key(), spec("first", 15_001))].into();
    daemon.settle(&mut machine, &mut rng);
    assert_ne!(machine.alive(), [&server]);
}

#[test]
fn a_version_that_runs_already_needs_no_restart() {
    let mut rng = Rng(1);
    let (mut machine, mut daemon, server) = ready(&mut rng);
    machine.desired = [(key(), versioned(15))].into();
    daemon.settle(&mut machine, &mut rng);
    assert_eq!((machine.alive(), machine.stops), (vec![&server], 0));
}

/// Nobody knows what this server is to be; with `known`, how to get into it.
fn left(known: bool) -> Arc<ResourceSpec> {
    let known = spec("first", 15_000).managed().filter(|_| known).cloned();
    Arc::new(ResourceSpec::Left(Left { port: Port::new(15_000).expect("a valid one"), uid: None, known }))
}

#[test]
fn a_server_that_is_only_to_be_left_goes_on_and_is_not_started_again() {
    for known in [true, false] {
        let mut rng = Rng(1);
        let (mut machine, _, server) = ready(&mut rng);
        let mut next = Daemon::default();
        machine.desired = [(key(), left(known))].into();
        next.look(&mut machine, &mut rng);
        next.look(&mut machine, &mut rng);
        assert_eq!((machine.alive(), machine.stops, next.effects.len()), (vec![&server], 0, 0));
        assert_eq!(next.resources.next_deadline(), None);
        let phase = next.phase(machine.now);
        let is_told = match phase {
            Some(ResourcePhase::Ready) => known,
            Some(ResourcePhase::Failing { lasting: true, .. }) => !known,
            _ => false,
        };
        assert!(is_told, "{phase:?}");
        // What is wanted of it is known again: it stays, however it is to persist.
        let mut wanted = Arc::unwrap_or_clone(spec("first", 15_000));
        if let ResourceSpec::Managed(managed) = &mut wanted {
            managed.server.persist = false;
        }
        machine.desired = [(key(), Arc::new(wanted))].into();
        next.settle(&mut machine, &mut rng);
        assert_eq!((machine.alive(), machine.stops), (vec![&server], 0));
        assert_eq!(next.phase(machine.now), Some(ResourcePhase::Ready));
        // One that ends while it is only left is not there any more.
        let mut last = Daemon::default();
        machine.desired = [(key(), left(known))].into();
        last.look(&mut machine, &mut rng);
        machine.end(&server, ExitCause::Code(1));
        last.look(&mut machine, &mut rng);
        last.look(&mut machine, &mut rng);
        assert_eq!((machine.alive(), last.phase(machine.now)), (Vec::<&InstanceId>::new(), None));
    }
}

#[test]
fn preparations_of_one_resource_never_overlap() {
    for seed in 0..200 {
        let mut rng = Rng(seed).fork();
        let (mut machine, mut daemon) = (Machine::new(), Daemon::default());
        let wanted = |rng: &mut Rng| match rng.below(4) {
            0 => BTreeMap::new(),
            1 => [(key(), spec("first", 15_001))].into(),
            2 => [(key(), spec("second", 15_000))].into(),
            _ => [(key(), spec("first", 15_000))].into(),
        };
        for _ in 0..rng.below(40) {
            machine.desired = wanted(&mut rng);
            daemon.look(&mut machine, &mut rng);
            machine.now = machine.now + Duration::from_secs(rng.below(90));
            daemon.handle(&mut machine, Input::Tick, &mut rng);
            let preparing = daemon.effects.iter().filter(|effect| matches!(effect, Effect::Prepare(..))).count();
            assert!(preparing <= 1, "seed {seed}: {:?}", daemon.effects);
            if rng.below(2) == 0 && !daemon.effects.is_empty() {
                let effect = daemon.effects.remove(0);
                daemon.carry_out(&mut machine, effect, true, &mut rng);
            }
        }
        machine.desired = [(key(), spec("last", 15_002))].into();
        daemon.settle(&mut machine, &mut rng);
        let ports = machine.instances.values().filter_map(|phase| match phase {
            Phase::Running { port, .. } => Some(port.get()),
            Phase::Preparing(_) | Phase::Starting | Phase::Stopping { .. } | Phase::Exited(_) | Phase::Refused(_) => {
                None
            }
        });
        assert_eq!(ports.collect::<Vec<_>>(), [15_002], "seed {seed}");
    }
}

#[test]
fn nothing_is_ordered_before_it_is_known_what_is_wanted() {
    let (mut machine, mut rng) = (Machine::new(), Rng(1));
    let mut first = Daemon::default();
    first.settle(&mut machine, &mut rng);
    let mut next = Daemon::default();
    let seen = machine.observe();
    next.handle(&mut machine, Input::Node(&seen), &mut rng);
    assert_eq!(next.resources.orders(), None);
    assert!(next.resources.observe(machine.now).is_empty() && next.effects.is_empty());
}

#[test]
fn a_server_elsewhere_counts_until_it_does_not_answer() {
    let mut machine = Resources::new();
    let at = |seconds| Mono(Duration::from_secs(seconds));
    let wanted = |release| -> BTreeMap<ResourceKey, Arc<ResourceSpec>> {
        let url = Secret::new("postgresql://u:w@h/d");
        let external = External { url, ca: None, release: ReleaseNumber(release) };
        [(key(), Arc::new(ResourceSpec::External(external)))].into()
    };
    let round = |effects: &[Effect]| match effects {
        [Effect::Probe(_, round, _)] => *round,
        other => panic!("one look is wanted: {other:?}"),
    };
    let phase = |machine: &Resources, now| machine.observe(now)[&key()].phase.clone();
    let away = || Trouble { fault: Fault::new(FaultKind::Unreachable, "away"), nature: Nature::Passing };

    machine.handle(Input::Desired(&wanted(1)), at(0), 1);
    let adopted = Observations { adopted: true, ..Observations::default() };
    let first = round(&machine.handle(Input::Node(&adopted), at(0), 1));
    assert_eq!(phase(&machine, at(0)), ResourcePhase::Preparing);
    machine.handle(Input::Probed(key(), first, Ok(Some("15.8".into()))), at(1), 1);
    assert_eq!(phase(&machine, at(1)), ResourcePhase::Ready);

    let again = machine.next_deadline().expect("it is asked again");
    let second = round(&machine.handle(Input::Tick, again, 1));
    assert_eq!(phase(&machine, again), ResourcePhase::Ready, "it counts as there while it is asked");
    machine.handle(Input::Probed(key(), first, Err(away())), again, 1);
    assert_eq!(phase(&machine, again), ResourcePhase::Ready, "an old answer is of no interest");
    machine.handle(Input::Probed(key(), second, Err(away())), again, 1);
    assert!(matches!(phase(&machine, again), ResourcePhase::Failing { attempts: 1, lasting: false, .. }));

    let later = machine.next_deadline().expect("it is tried again");
    let third = round(&machine.handle(Input::Tick, later, 1));
    machine.handle(Input::Probed(key(), third, Ok(None)), later, 1);
    assert_eq!(phase(&machine, later), ResourcePhase::Ready);
    round(&machine.handle(Input::Desired(&wanted(2)), later, 1));
    assert_eq!(phase(&machine, later), ResourcePhase::Preparing, "another release is answered by itself");
    assert_eq!(machine.orders(), Some(BTreeMap::new()), "nothing is run for it");
}
