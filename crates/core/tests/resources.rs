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
use bowline_core::id::{AppKey, AppName, EnvName, Incarnation, InstanceId, Port, ResourceName};
use bowline_core::instance::{
    Exit, ExitCause, HealthState, InstanceObservation, InstanceOrder, InstanceSpec, Observations, Phase, PortChoice,
    Reach, Readiness, StopSignal, Usage,
};
use bowline_core::resource::{
    Access, Effect, Input, Managed, Nature, Prepared, ResourceId, ResourceKey, ResourcePhase, ResourceSpec, Resources,
    Server, Trouble,
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
        port: PortChoice::Fixed(Port::new(port).expect("a valid one")),
        health: Some(Readiness::Tcp(Probe::default())),
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
                Phase::Starting | Phase::Stopping { .. } | Phase::Exited(_) | Phase::Refused(_) => HealthState::Unknown,
            },
            phase: phase.clone(),
            alive: HealthState::Unknown,
            usage: Usage::default(),
            unenforced: Vec::new(),
            dropped_lines: 0,
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
