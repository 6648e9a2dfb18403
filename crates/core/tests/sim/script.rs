//! What is done to a system, all decided before it starts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::{
    AbortRule, Access, App, Cage, Command, Environment, Health, HostName, HttpCheck, Limit, Limits, Origin, PathPrefix,
    Probe, Protocol, ReleaseHooks, Rollout as RolloutTable, Route, RouteTo, Scale, Service, Step, Strategy, Tls,
    Transfer,
};
use bowline_core::id::{AppKey, AppName, EnvName, Port, RouteName, ServiceName};
use bowline_core::time::Mono;
use bowline_core::units::{Share, Weight};

use crate::cover::{Effect, RARE, SCALED, WATCHED};
use crate::load::{BUSY, EACH, Load};
use crate::manner::{Behaviour, GOOD};
use crate::node::Profile;
use crate::rng::Rng;

const RELEASES: u32 = 4;

/// Other commands than releases, between them.
const OTHERS: u32 = 4;

/// What somebody asks for when nothing else is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Deploy,
    /// To the release that served before.
    RollBack,
    Restart,
    /// So many of `web`.
    Scale(u16),
}

/// What is done to the system, all decided before it starts.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) calm: bool,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) apps: Vec<Arc<App>>,
    /// Of each release.
    pub(crate) behaviours: Vec<Behaviour>,
    /// Each not before its time.
    pub(crate) ops: Vec<(Mono, Op)>,
    /// A person aborts it, so long after it began.
    pub(crate) aborts: Vec<Option<Duration>>,
    /// A person aborts whatever there is at these times, and there may be nothing.
    pub(crate) idle_aborts: Vec<Mono>,
    /// Effects until each crash of the daemon.
    pub(crate) crashes: Vec<u32>,
    /// It dies besides at the first effect of this kind: some are rare.
    pub(crate) aim: Option<Effect>,
    pub(crate) faults_end: Mono,
    /// Of `web`, in those whose load says how many there are.
    pub(crate) load: Load,
    /// In these no edge tells what it has counted; after each there is another one, which counts anew.
    pub(crate) unseen: Vec<(Mono, Mono)>,
    /// In these nobody asks for anything.
    pub(crate) lulls: Vec<(Mono, Mono)>,
    /// Of the edge, which dies, or takes nothing for a while: by these random numbers.
    pub(crate) fates: Option<u64>,
}

/// Of a route that the edge does not take. Each release has one of its own besides, by which it is known.
const ODD: &str = "odd";

/// The edge does not take the routes of such a release.
pub(crate) fn has_odd_routes(app: &App) -> bool {
    app.routes.keys().any(is_odd)
}

pub(crate) fn is_odd(route: &RouteName) -> bool {
    route.as_str() == ODD
}

/// It does not take where its instances are.
pub(crate) fn has_odd_instances(app: &App) -> bool {
    app.services.values().any(|service| is_odd_protocol(service.protocol))
}

pub(crate) fn is_odd_protocol(protocol: Protocol) -> bool {
    protocol != Protocol::default()
}

/// As good as all others, but that the edge takes it.
pub(crate) fn made_even(app: &mut App) {
    app.routes.retain(|name, _| !is_odd(name));
    app.services.values_mut().for_each(|service| service.protocol = Protocol::default());
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn service(health: Option<Health>, replicas: u16) -> Service {
    Service {
        origin: Origin::Folder { dir: ".".into(), build: None },
        run: Some(Command("app".into())),
        packages: Vec::new(),
        runtime: None,
        fixed_port: None,
        protocol: Default::default(),
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

pub(crate) fn name(text: &str) -> ServiceName {
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
        transfer: Transfer::default(),
    };
    (RouteName::new(to).unwrap(), route)
}

fn host(app: &str) -> HostName {
    HostName::new(&format!("{app}.localhost")).unwrap()
}

pub(crate) fn app(app: &str, services: BTreeMap<ServiceName, Service>, mut routes: BTreeMap<RouteName, Route>) -> App {
    routes.values_mut().for_each(|route| route.hosts = vec![host(app)]);
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
            // In `local` every release rolls.
            name: EnvName::new("server").unwrap(),
            protected: false,
            id: None,
            server: None,
            kubernetes: None,
        },
    }
}

pub(crate) fn key(app: &str) -> AppKey {
    AppKey { env: EnvName::new("local").unwrap(), app: AppName::new(app).unwrap() }
}

/// Longer than this one answer in ten may take.
pub(crate) const SLOW: Duration = Duration::from_millis(50);

/// How each release comes out. Limits are wide, since requests are few.
fn rollout(rng: &mut Rng, watch: Duration) -> RolloutTable {
    let step = |percent, hold| Step { weight: Weight::new(percent).unwrap(), hold: secs(hold) };
    let strategy = match rng.below(6) {
        0 | 1 => Strategy::Canary { steps: vec![step(25, 1 + rng.below(10)), step(60, 1 + rng.below(10))] },
        2 => Strategy::BlueGreen,
        _ => Strategy::Rolling,
    };
    let quantile = Share::from_ppm(900_000).unwrap();
    let abort = vec![
        AbortRule::ErrorRate(Share::from_ppm(300_000).unwrap()),
        AbortRule::Latency { quantile, limit: SLOW },
        AbortRule::LatencyAboveStable { quantile, above: Duration::from_millis(20) },
    ];
    RolloutTable { strategy, abort, watch }
}

/// `web` rolls; `worker` has no route; `api`, in some, has a fixed port.
fn shop(rng: &mut Rng, with_api: bool, rollout: RolloutTable) -> App {
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
    let mut shop = app("shop", services, routes);
    shop.rollout = rollout;
    shop
}

/// Bounds, between which the load says how many: by requests in flight, by processor time, or by both.
fn between(rng: &mut Rng, seed: u64) -> Scale {
    let min = u16::try_from([0, 0, 1, 2][usize::try_from(rng.below(4)).unwrap()]).unwrap();
    let max = min + 1 + u16::try_from(rng.below(6)).unwrap();
    let (cpu, in_flight) = match seed % 9 {
        2 => (Some(BUSY), None),
        5 => (Some(BUSY), Some(EACH)),
        _ => (None, Some(EACH)),
    };
    Scale { min, max, cpu, in_flight }
}

/// What a person reads of it.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.calm { "calm" } else { "wild" })?;
        let mut profiles = self.profiles.iter();
        for ((at, op), abort) in self.ops.iter().zip(&self.aborts) {
            write!(f, "\n  {:?} from {:.3}s", op, at.0.as_secs_f64())?;
            if *op == Op::Deploy
                && let Some(profile) = profiles.next()
            {
                write!(f, ", {profile:?}")?;
                let release = self.profiles.len() - profiles.len() - 1;
                write!(f, ", {:?}, {:?}", self.apps[release].rollout.strategy, self.behaviours[release])?;
                let Scale { min, max, .. } = self.apps[release].services[&name("web")].scale;
                write!(f, ", {min} to {max}")?;
                if has_odd_routes(&self.apps[release]) || has_odd_instances(&self.apps[release]) {
                    f.write_str(", refused by the edge")?;
                }
            }
            if let Some(after) = abort {
                write!(f, ", aborted after {:.3}s", after.as_secs_f64())?;
            }
        }
        write!(f, "\n  {:?}", self.load)?;
        write!(f, "\n  nothing is told of answers: {:?}; nobody asks: {:?}", self.unseen, self.lulls)?;
        write!(f, "\n  fates of the edge: {:?}", self.fates)?;
        write!(f, "\n  aborts at any time: {:?}", self.idle_aborts)?;
        write!(f, "\n  effects until crashes, the last first: {:?}; at the first {:?}", self.crashes, self.aim)
    }
}

/// One of those that few scripts come to.
fn aim(rng: &mut Rng) -> Effect {
    let phase = RARE[usize::try_from(rng.below(RARE.len() as u64)).unwrap()];
    if rng.below(2) == 0 { Effect::Store(phase) } else { Effect::Stored(phase) }
}

/// None in half of them; short ones and long ones.
fn spans(rng: &mut Rng) -> Vec<(Mono, Mono)> {
    let number = if rng.below(2) == 0 { 0 } else { 1 + rng.below(3) };
    let one = |rng: &mut Rng| {
        let from = Mono(Duration::from_millis(rng.below(200_000)));
        let longest = if rng.below(2) == 0 { 5_000 } else { 30_000 };
        (from, from + Duration::from_millis(500 + rng.below(longest)))
    };
    (0..number).map(|_| one(rng)).collect()
}

/// Soon after the one before, or anywhere in the whole run.
fn fuse(rng: &mut Rng) -> u32 {
    let most = if rng.below(2) == 0 { 30 } else { 300 };
    u32::try_from(rng.below(most)).unwrap()
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let calm = seed.is_multiple_of(2);
        let with_api = rng.below(3) == 0;
        let profiles = [Profile::Good, Profile::NeverReady, Profile::ExitsAtOnce, Profile::Refused];
        let profile = |rng: &mut Rng| match rng.below(2) {
            0 => Profile::Good,
            _ => profiles[usize::try_from(rng.below(4)).unwrap()],
        };
        let mut at = Mono::default();
        let mut kinds = vec![Op::Deploy; usize::try_from(RELEASES - 1).unwrap()];
        kinds.extend((0..OTHERS).map(|_| match rng.below(3) {
            0 => Op::RollBack,
            1 => Op::Restart,
            _ => Op::Scale(u16::try_from(1 + rng.below(4)).unwrap()),
        }));
        for i in (1..kinds.len()).rev() {
            kinds.swap(i, usize::try_from(rng.below(i as u64 + 1)).unwrap());
        }
        let mut later = || {
            at = at + Duration::from_millis(rng.below(20_000));
            at
        };
        let ops: Vec<(Mono, Op)> = [Op::Deploy].into_iter().chain(kinds).map(|op| (later(), op)).collect();
        let scaled = seed % 3 == 2;
        let mut of_load = Rng(seed ^ 0x10ad);
        let watch = if rng.below(3) == 0 { secs(1 + rng.below(30)) } else { Duration::ZERO };
        let mut script = Self {
            calm,
            profiles: (0..RELEASES).map(|_| profile(&mut rng)).collect(),
            apps: (0..RELEASES)
                .map(|_| {
                    let rollout = rollout(&mut rng, watch);
                    let mut shop = shop(&mut rng, with_api, rollout);
                    if scaled && of_load.below(8) > 0 {
                        shop.services.get_mut(&name("web")).unwrap().scale = between(&mut of_load, seed);
                    }
                    Arc::new(shop)
                })
                .collect(),
            behaviours: (0..RELEASES).map(|_| Behaviour::any(&mut rng)).collect(),
            aborts: (0..ops.len())
                .map(|_| (rng.below(4) == 0).then(|| Duration::from_millis(rng.below(25_000))))
                .collect(),
            idle_aborts: (0..2).map(|_| Mono(Duration::from_millis(rng.below(120_000)))).collect(),
            ops,
            crashes: (0..rng.below(5)).map(|_| fuse(&mut rng)).collect(),
            aim: Some(match (aim(&mut rng), scaled && of_load.below(6) == 0) {
                (_, true) if of_load.below(2) == 0 => Effect::Store(SCALED),
                (_, true) => Effect::Stored(SCALED),
                (rare, false) => rare,
            }),
            faults_end: Mono(secs(120)),
            load: if scaled { Load::any(&mut of_load) } else { Load::default() },
            unseen: Vec::new(),
            lulls: Vec::new(),
            fates: None,
        };
        let mut of_requests = Rng(seed ^ 0xc0_0417);
        (script.unseen, script.lulls) = (spans(&mut of_requests), spans(&mut of_requests));
        // Of what is watched little is stored: in most of a watch no daemon would ever be missing.
        let mut of_watch = Rng(seed ^ 0x3a7c);
        if !watch.is_zero() && of_watch.below(2) == 0 {
            let is_before = of_watch.below(4) == 0;
            script.aim = Some(if is_before { Effect::Store(WATCHED) } else { Effect::Stored(WATCHED) });
        }
        script.has_dark_instances(&mut Rng(seed ^ 0xda4c));
        script.has_an_edge(&mut Rng(seed ^ 0xed9e), scaled);
        if scaled && of_load.below(2) == 0 {
            script.rests_before_its_last_release(&mut of_load);
        }
        script
    }

    /// Of some releases, which are as good as they must be otherwise, the second instance answers nobody. Most of them come out as a canary
    /// that has a second one in its first step.
    fn has_dark_instances(&mut self, rng: &mut Rng) {
        for (behaviour, app) in self.behaviours.iter_mut().zip(&mut self.apps) {
            let rare = if behaviour.is_good() { 3 } else { 5 };
            if rng.below(rare) > 0 {
                continue;
            }
            *behaviour = Behaviour { dark: Some(1), ..Behaviour::steady(GOOD) };
            if rng.below(8) == 0 {
                continue;
            }
            let app = Arc::make_mut(app);
            let step = |percent| Step { weight: Weight::new(percent).unwrap(), hold: secs(20) };
            app.rollout.strategy = Strategy::Canary { steps: vec![step(50), step(75)] };
            let scale = &mut app.services.get_mut(&name("web")).unwrap().scale;
            if scale.min == scale.max {
                let replicas = u16::try_from(3 + rng.below(3)).unwrap();
                *scale = Scale { min: replicas, max: replicas, ..*scale };
            }
        }
    }

    /// One that does not take everything; and, where the load does not say how many there are, one that is not always there.
    fn has_an_edge(&mut self, rng: &mut Rng, scaled: bool) {
        for (at, app) in self.apps.iter_mut().enumerate() {
            let app = Arc::make_mut(app);
            let denies = |name: &str| {
                let (_, route) = route(&format!("/{name}"), "web");
                (RouteName::new(name).unwrap(), Route { to: RouteTo::Deny, hosts: vec![host("shop")], ..route })
            };
            app.routes.extend([denies(&format!("of-{at}"))]);
            match rng.below(16) {
                0 => app.routes.extend([denies(ODD)]),
                // One that rolls gives what is ready its part at once: of such a one requests would be lost. In a wild world none of them may
                // be there when the edge is asked, and what it refuses later rolls nothing back.
                1 if self.calm && app.rollout.strategy != Strategy::Rolling => {
                    app.services.get_mut(&name("web")).unwrap().protocol = Protocol::H2c;
                }
                _ => {}
            }
        }
        self.fates = (!scaled && rng.below(2) == 0).then(|| rng.next());
    }

    /// Nobody asks for anything until all else is over; with the last release, or soon after, somebody does.
    fn rests_before_its_last_release(&mut self, rng: &mut Rng) {
        let from = Mono(secs(500 + rng.below(100)));
        let last = self.ops.iter().rposition(|(_, op)| *op == Op::Deploy).unwrap();
        self.ops[last..].iter_mut().for_each(|(at, _)| *at = (*at).max(from));
        self.load = Load::with_a_lull(from, rng);
        for app in &mut self.apps {
            let scale = &mut Arc::make_mut(app).services.get_mut(&name("web")).unwrap().scale;
            if scale.min < scale.max {
                scale.min = 0;
            }
        }
    }
}
