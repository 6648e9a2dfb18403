//! One look of the loop's machines at ten thousand simulated instances: slots, orders, endpoints, the table. Not a whole turn of the
//! daemon: it has the store, the status and the channels to node and edge besides.
//!
//! A hundred apps of a hundred instances. Three worlds: everything as before; one instance has just ended; all of them have
//! just become unhealthy, which makes every endpoint and the table anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bowline_core::app::App;
use bowline_core::id::{AppKey, Generation, Incarnation, InstanceId, Port, ReleaseNumber, Slot, SlotId};
use bowline_core::instance::{
    Exit, ExitCause, HealthState, InstanceObservation, InstanceSpec, Observations, Phase, PortChoice, Reach, Readiness,
    Slots, StopSignal, Usage, Wanted, World,
};
use bowline_core::rollout::{Scales, Set, steady};
use bowline_core::route::{Cohort, Credentials, PoolId, Serving, Tables, compile, routed};
use bowline_core::time::{Mono, Timestamp};
use bowline_spec::{Defaults, parse};
use serde_json::{Value, json};

use crate::figure::Runs;
use crate::{say, setting};

const APPS: u32 = 100;
const INSTANCES: u16 = 100;
/// Aim in milliseconds.
const AIM: f64 = 20.0;
const RELEASE: ReleaseNumber = ReleaseNumber(1);

struct Node {
    apps: Vec<(AppKey, App, Vec<Set>)>,
    wanted: BTreeMap<PoolId, Wanted>,
    seen: Observations,
    slots: Slots,
    tables: Tables,
    now: Mono,
}

pub(crate) fn run() -> anyhow::Result<Value> {
    let rounds = setting("BENCH_ROUNDS", 7)?;
    let (mut steady, mut one, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut node = Node::new()?;
        node.settle()?;
        steady.push(node.look()?);
        node.ends_one();
        one.push(node.look()?);
        node.all_fail();
        all.push(node.look()?);
    }
    say(&format!(
        "| {} instances, one look of the machines¹ | ms, median (min–max) | aim, ms |",
        APPS * u32::from(INSTANCES)
    ));
    say("|---|---|---|");
    let line = |name: &str, runs: Vec<f64>| {
        let runs = Runs::new(runs);
        say(&format!("| {name} | {:.2} ({:.2}–{:.2}) | {AIM} |", runs.median(), runs.min(), runs.max()));
        runs.json()
    };
    let figures = json!({
        "aim_ms": AIM,
        "nothing_new_ms": line("nothing is new", steady),
        "one_ends_ms": line("one has ended", one),
        "all_fail_ms": line("all have become unhealthy", all),
    });
    say("");
    say(
        "¹ slots, orders, endpoints and the compiled table. Store, status, rollouts, scaling and the channels to node and edge are not in it.",
    );
    Ok(figures)
}

impl Node {
    fn new() -> anyhow::Result<Self> {
        let env = "production".parse()?;
        let text = format!("[service.web]\nrun = \"serve\"\nscale = {INSTANCES}\n[route.main]\nto = \"web\"\n");
        let (mut apps, mut wanted) = (Vec::new(), BTreeMap::new());
        for number in 0..APPS {
            let hosts = format!("[environment.production]\nroute.main.hosts = [\"app-{number}.example\"]\n");
            let file = format!("app = \"app-{number}\"\n{text}{hosts}");
            let app =
                parse(&file, "bowline.toml", &env, &Defaults::default()).map_err(|all| anyhow::anyhow!("{all}"))?.app;
            let key = AppKey { env: env.clone(), app: app.name.clone() };
            let sets = steady(&app, RELEASE, &Scales::new());
            for set in &sets {
                let pool =
                    PoolId { key: key.clone(), service: set.service.clone(), release: RELEASE, cohort: Cohort::Whole };
                let service = app.services.get(&set.service).context("the app has its service")?;
                let spec = Arc::new(spec(&pool, &app));
                wanted.insert(
                    pool,
                    Wanted { replicas: set.replicas, baseline: 0, spec, drain: service.drain, replaced: None },
                );
            }
            apps.push((key, app, sets));
        }
        let seen = Observations { adopted: true, ..Observations::default() };
        Ok(Self { apps, wanted, seen, slots: Slots::new(), tables: Tables::new(), now: Mono(Duration::from_secs(1)) })
    }

    /// Everything that is ordered runs and passes.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.look()?;
        for (number, id) in (10_000_u16..).zip(self.slots.orders().context("nothing is adopted")?.into_keys()) {
            let port = Port::new(number).context("a port")?;
            let phase = Phase::Running { pid: number.into(), port, since: Timestamp(0) };
            self.seen.instances.insert(id, observation(phase, HealthState::Passing { since: Timestamp(0) }));
        }
        self.look()?;
        let endpoints: usize = self.slots.endpoints().values().map(|pool| pool.endpoints.len()).sum();
        ensure!(endpoints == self.seen.instances.len() && endpoints > 0, "{endpoints} are ready");
        Ok(())
    }

    fn ends_one(&mut self) {
        if let Some(seen) = self.seen.instances.values_mut().next() {
            let exit = Exit { cause: ExitCause::Code(1), at: Timestamp(0), last_lines: Vec::new() };
            *seen = observation(Phase::Exited(exit), HealthState::Unknown);
        }
    }

    fn all_fail(&mut self) {
        for seen in self.seen.instances.values_mut() {
            seen.health = HealthState::Failing { failures: 3, reason: "connection refused".to_owned() };
        }
    }

    /// What the machines do at each turn of the loop, in milliseconds.
    fn look(&mut self) -> anyhow::Result<f64> {
        let (nothing, untrusted) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        let credentials: BTreeMap<_, Credentials> = BTreeMap::new();
        self.now = self.now + Duration::from_secs(1);
        let began = Instant::now();
        let (reachable, outstanding) = (self.tables.reachable(), BTreeMap::new());
        let world = World { wanted: &self.wanted, node: &self.seen, reachable: &reachable, outstanding: &outstanding };
        self.slots.handle(world, self.now, 1);
        let orders = self.slots.orders();
        let endpoints = self.slots.endpoints();
        let apps = self.apps.iter();
        let serving: Vec<Serving<'_>> = apps
            .map(|(key, app, sets)| Serving {
                key,
                app,
                sets,
                credentials: &credentials,
                maintenance: None,
                judged: &nothing,
                trusted: &untrusted,
            })
            .collect();
        let table = compile(Generation(1), &serving, &endpoints, &BTreeMap::new())
            .map_err(|conflict| anyhow::anyhow!("{conflict}"))?;
        let due = self.slots.next_deadline();
        let took = began.elapsed();
        std::hint::black_box((orders, table, due));
        Ok(took.as_secs_f64() * 1e3)
    }
}

fn observation(phase: Phase, health: HealthState) -> InstanceObservation {
    InstanceObservation {
        phase,
        health,
        alive: HealthState::Unknown,
        usage: Usage::default(),
        unenforced: Vec::new(),
        dropped_lines: 0,
    }
}

fn spec(pool: &PoolId, app: &App) -> InstanceSpec {
    let service = &app.services[&pool.service];
    let slot = SlotId { key: pool.key.clone(), service: pool.service.clone(), release: pool.release, slot: Slot(0) };
    InstanceSpec {
        id: InstanceId { slot, incarnation: Incarnation(0) },
        root: "/release".into(),
        run: bowline_core::app::Command("serve".to_owned()),
        env: BTreeMap::new(),
        secret_files: Vec::new(),
        tools: None,
        port: PortChoice::Any,
        reach: Reach::Edge,
        protocol: service.protocol,
        health: Readiness::of(service, routed(app).contains(&pool.service)),
        alive: None,
        limits: service.limits,
        uid: None,
        volumes: Vec::new(),
        writable: Vec::new(),
        cage: service.cage,
        stop: StopSignal::Term,
        grace: Duration::from_secs(10),
    }
}
