//! One look of the loop's machines at ten thousand simulated instances: slots, orders, endpoints, the table. Not a whole turn of the
//! daemon: it has the store, the status and the channels to node and edge besides.
//!
//! A hundred apps of a hundred instances. Three worlds: everything as before; one instance has just ended; all of them have
//! just become unhealthy, which makes every endpoint and the table anew. Then a hundred apps of a hundred hosts: their table, and what
//! an edge is told when one host more comes to it.

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
use bowline_core::route::{
    Changes, Cohort, Compiler, Credentials, EdgeDesired, PoolId, Serving, Table, Tables, routed,
};
use bowline_core::time::{Mono, Timestamp};
use bowline_spec::{Defaults, parse};
use serde_json::{Value, json};

use crate::figure::Runs;
use crate::{say, setting};

const APPS: u32 = 100;
const INSTANCES: u16 = 100;
const HOSTS: u32 = 100;
/// Aim in milliseconds.
const AIM: f64 = 20.0;
/// The same of a change of ten thousand routes, the edge's part included.
const CHANGE_AIM: f64 = 5.0;
const RELEASE: ReleaseNumber = ReleaseNumber(1);

struct Node {
    apps: Vec<(AppKey, Arc<App>, Vec<Set>)>,
    wanted: BTreeMap<PoolId, Wanted>,
    seen: Observations,
    slots: Slots,
    compiler: Compiler,
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
    let line = |name: &str, aim: f64, runs: Vec<f64>| {
        let runs = Runs::new(runs);
        say(&format!("| {name} | {:.2} ({:.2}–{:.2}) | {aim} |", runs.median(), runs.min(), runs.max()));
        runs.json()
    };
    let nothing_new = line("nothing is new", AIM, steady);
    let one_ends = line("one has ended", AIM, one);
    let all_fail = line("all have become unhealthy", AIM, all);
    let (mut first, mut same, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut hosts = Hosts::new()?;
        first.push(hosts.look()?);
        same.push(hosts.look()?);
        hosts.one_more()?;
        more.push(hosts.look()?);
    }
    say("");
    say(
        "¹ slots, orders, endpoints and the compiled table. Store, status, rollouts, scaling and the channels to node and edge are not in it.",
    );
    say("");
    say(&format!(
        "| the table of {} hosts, and what has changed of it | ms, median (min–max) | aim, ms |",
        APPS * HOSTS
    ));
    say("|---|---|---|");
    Ok(json!({
        "aim_ms": AIM,
        "nothing_new_ms": nothing_new,
        "one_ends_ms": one_ends,
        "all_fail_ms": all_fail,
        "first_table_ms": line("all of it is new", AIM, first),
        "same_table_ms": line("nothing is new", CHANGE_AIM, same),
        "one_more_host_ms": line("one host more", CHANGE_AIM, more),
    }))
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
            apps.push((key, Arc::new(app), sets));
        }
        let seen = Observations { adopted: true, ..Observations::default() };
        let (slots, compiler, tables) = (Slots::new(), Compiler::default(), Tables::new());
        Ok(Self { apps, wanted, seen, slots, compiler, tables, now: Mono(Duration::from_secs(1)) })
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
        let table = self
            .compiler
            .compile(Generation(1), &serving, &endpoints, &BTreeMap::new())
            .map_err(|conflict| anyhow::anyhow!("{conflict}"))?;
        let due = self.slots.next_deadline();
        let took = began.elapsed();
        std::hint::black_box((orders, table, due));
        Ok(took.as_secs_f64() * 1e3)
    }
}

/// Apps of many hosts, and the table of before.
struct Hosts {
    apps: Vec<(AppKey, Arc<App>, Vec<Set>)>,
    compiler: Compiler,
    before: EdgeDesired,
}

impl Hosts {
    fn new() -> anyhow::Result<Self> {
        let apps = (0..APPS).map(|number| of_hosts(number, HOSTS)).collect::<Result<_, _>>()?;
        Ok(Self { apps, compiler: Compiler::default(), before: EdgeDesired::default() })
    }

    fn one_more(&mut self) -> anyhow::Result<()> {
        self.apps[0] = of_hosts(0, HOSTS + 1)?;
        Ok(())
    }

    /// As the loop does it, and the link behind it, in milliseconds.
    fn look(&mut self) -> anyhow::Result<f64> {
        let (nothing, untrusted) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        let credentials: BTreeMap<_, Credentials> = BTreeMap::new();
        let serving = self.apps.iter().map(|(key, app, sets)| Serving {
            key,
            app,
            sets,
            credentials: &credentials,
            maintenance: None,
            judged: &nothing,
            trusted: &untrusted,
        });
        let serving: Vec<Serving<'_>> = serving.collect();
        let began = Instant::now();
        let generation = self.before.table.generation;
        let table = self.compiler.compile(generation, &serving, &BTreeMap::new(), &BTreeMap::new());
        let table = table.map_err(|conflict| anyhow::anyhow!("{conflict}"))?.sharing(&self.before.table);
        if table == *self.before.table {
            return Ok(began.elapsed().as_secs_f64() * 1e3);
        }
        let table = Table { generation: generation.next(), ..table };
        let after = EdgeDesired { table: Arc::new(table), certificates: Arc::clone(&self.before.certificates) };
        let changes = Changes::between(&self.before, &after);
        let took = began.elapsed();
        std::hint::black_box(changes);
        self.before = after;
        Ok(took.as_secs_f64() * 1e3)
    }
}

fn of_hosts(number: u32, hosts: u32) -> anyhow::Result<(AppKey, Arc<App>, Vec<Set>)> {
    let env = "production".parse()?;
    let names: Vec<String> = (0..hosts).map(|host| format!("\"h{host}.app-{number}.example\"")).collect();
    let text = format!(
        "app = \"app-{number}\"\n[service.web]\nrun = \"serve\"\n[route.main]\nto = \"web\"\n\
         [environment.production]\nroute.main.hosts = [{}]\n",
        names.join(", ")
    );
    let app = parse(&text, "bowline.toml", &env, &Defaults::default()).map_err(|all| anyhow::anyhow!("{all}"))?.app;
    let sets = steady(&app, RELEASE, &Scales::new());
    Ok((AppKey { env, app: app.name.clone() }, Arc::new(app), sets))
}

fn observation(phase: Phase, health: HealthState) -> InstanceObservation {
    InstanceObservation {
        phase,
        health,
        alive: HealthState::Unknown,
        usage: Usage::default(),
        unenforced: Vec::new(),
        dropped_lines: 0,
        container: None,
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
        packages: Vec::new(),
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
