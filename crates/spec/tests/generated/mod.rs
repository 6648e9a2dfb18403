//! Apps over all of the grammar, such as the parser gives: every reference leads somewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::app::{
    AbortRule, Access, App, Auth, Backup, BodyLimit, Bucket, Cage, Command, Database, DatabaseKind, DatabaseSource,
    Delivery, Environment, GrpcCheck, Health, HostName, Hsts, HttpCheck, ImagePush, Job, KubernetesSettings,
    LatencyObjective, Limit, Limits, LogSink, Origin, PathPrefix, PlainHttp, Probe, Protocol, RateBy, Redis,
    RedisSource, Reference, ReferenceField, ReleaseHooks, Rollout, Rollouts, Route, RouteTo, Scale, Schedule,
    SecretSource, Service, Slo, StaticFiles, Step, Target, Tls, Transfer, Upload, Value, VarName, Variables, Volume,
};
use bowline_core::id::{
    AppName, EnvName, EnvironmentId, JobName, Port, ResourceName, RouteName, SecretName, ServiceName,
};
use bowline_core::units::{Bytes, MilliCpu, Rate, Share, Weight};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

fn name<N: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = N> {
    "[a-z][a-z0-9-]{0,8}".prop_map(|text| text.parse().unwrap())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}[a-z]",
        "[a-zé漢\"'\\\\#=\t\n]{0,8}x",
        Just("gunicorn app:app --bind 0.0.0.0:$PORT".to_owned())
    ]
}

fn command() -> impl Strategy<Value = Command> {
    text().prop_map(Command)
}

fn path() -> impl Strategy<Value = String> {
    "[a-z]{1,6}(/[a-zA-Z0-9_]{1,6}){0,2}"
}

fn duration() -> impl Strategy<Value = Duration> {
    let unit = select(vec![1_u64, 1_000, 60_000, 3_600_000, 86_400_000]);
    (1_u64..1000, unit).prop_map(|(count, unit)| Duration::from_millis(count * unit))
}

fn size() -> impl Strategy<Value = Bytes> {
    (1_u64..5000, 0_u32..40).prop_map(|(count, shift)| Bytes(count << shift))
}

fn share() -> impl Strategy<Value = Share> {
    (1_u32..1_000_000).prop_map(|ppm| Share::from_ppm(ppm).unwrap())
}

fn pick<T: Clone>(from: &[T], index: Index) -> T {
    from[index.index(from.len())].clone()
}

/// What values may refer to.
#[derive(Debug, Clone, Default)]
struct Targets {
    services: Vec<ServiceName>,
    databases: Vec<(DatabaseKind, ResourceName)>,
    redis: Vec<ResourceName>,
    volumes: Vec<ResourceName>,
    buckets: Vec<ResourceName>,
}

fn reference(targets: &Targets, kind: u8, index: Index, field: Index) -> Reference {
    use ReferenceField::{Database, Endpoint, Host, Key, Name, Password, Port, Region, Secret, Url, User};
    match kind {
        0 if !targets.databases.is_empty() => {
            let (kind, name) = pick(&targets.databases, index);
            Reference::Database(kind, name, pick(&[Url, Host, Port, Database, User, Password], field))
        }
        1 if !targets.redis.is_empty() => {
            Reference::Redis(pick(&targets.redis, index), pick(&[Url, Host, Port, Password], field))
        }
        2 if !targets.volumes.is_empty() => Reference::VolumePath(pick(&targets.volumes, index)),
        3 if !targets.buckets.is_empty() => {
            Reference::Bucket(pick(&targets.buckets, index), pick(&[Url, Endpoint, Name, Region, Key, Secret], field))
        }
        4 if !targets.services.is_empty() => Reference::ServiceUrl(pick(&targets.services, index)),
        _ => pick(&[Reference::AppName, Reference::AppEnv, Reference::AppRelease, Reference::Metrics], index),
    }
}

fn variables(targets: &Targets) -> impl Strategy<Value = Variables> + use<> {
    let targets = targets.clone();
    let from = any::<(u8, Index, Index)>()
        .prop_map(move |(kind, index, field)| Value::From(reference(&targets, kind % 6, index, field)));
    let delivery = select(vec![Delivery::Environment, Delivery::File]);
    let value = prop_oneof![
        text().prop_map(Value::Text),
        Just(Value::Text(String::new())),
        from,
        (name(), delivery).prop_map(|(name, delivery)| Value::Secret { name, delivery }),
    ];
    btree_map("[A-Z_][A-Z0-9_a-z]{0,6}".prop_filter_map("reserved", |n| VarName::new(&n).ok()), value, 0..3)
}

fn probe() -> impl Strategy<Value = Probe> {
    let other = (duration(), duration(), duration(), duration())
        .prop_map(|(interval, idle_interval, timeout, grace)| Probe { interval, idle_interval, timeout, grace });
    prop_oneof![Just(Probe::default()), other]
}

fn check() -> impl Strategy<Value = HttpCheck> {
    ("/[a-z?=]{0,6}", probe()).prop_map(|(path, probe)| HttpCheck { path, probe })
}

fn scale() -> impl Strategy<Value = Scale> {
    let bounds = (0_u16..5, 1_u16..9, option::of(share()), option::of(1_u32..100));
    prop_oneof![
        Just(Scale::default()),
        (0_u16..5).prop_map(|n| Scale { min: n, max: n, cpu: None, in_flight: None }),
        bounds.prop_map(|(min, more, cpu, in_flight)| Scale { min, max: min.max(more), cpu, in_flight }),
    ]
}

fn folder() -> impl Strategy<Value = Origin> {
    (prop_oneof![Just(".".to_owned()), path()], option::of(prop_oneof![Just(Command(String::new())), command()]))
        .prop_map(|(dir, build)| Origin::Folder { dir, build })
}

/// The origin of a service that is not the first: `first` is built.
fn origin(first: ServiceName) -> impl Strategy<Value = Origin> {
    let files = (path(), option::of(path()), duration()).prop_map(|(dir, fallback, cache)| StaticFiles {
        dir,
        fallback,
        cache,
    });
    prop_oneof![
        3 => folder(),
        1 => Just(Origin::BuildOf(first)),
        1 => Just(Origin::Image("registry.example.com:5000/a/b:1.4".to_owned())),
        1 => (path(), path()).prop_map(|(dir, file)| Origin::Dockerfile { dir, file }),
        1 => (path(), option::of(command()), files)
            .prop_map(|(dir, build, files)| Origin::Static { dir, build, files }),
    ]
}

fn service<O: Strategy<Value = Origin>>(origin: O, targets: &Targets) -> impl Strategy<Value = Service> + use<O> {
    let grpc = (select(vec!["", "shop.v1.Cart"]), probe())
        .prop_map(|(service, probe)| Health::Grpc(GrpcCheck { service: service.to_owned(), probe }));
    let health = prop_oneof![check().prop_map(Health::Http), grpc, probe().prop_map(Health::Tcp)];
    let health = (option::of(health), select(vec![Protocol::Http1, Protocol::H2c]));
    let what = (
        origin,
        option::of(command()),
        subsequence(vec!["libpq-dev".to_owned(), "g++".to_owned()], 0..=2),
        option::of(Just("python 3.11".to_owned())),
    );
    let how = (option::of(1_u16..), health, option::of(check()), duration(), scale());
    let limits = (option::of(size()), option::of((1_u32..100_000).prop_map(MilliCpu)));
    let rest = (
        limits,
        btree_set(path(), 0..3),
        option::of(Just("/metrics".to_owned())),
        select(vec![Cage::Best, Cage::Required]),
    );
    (what, how, rest, variables(targets)).prop_map(|(what, how, rest, env)| {
        let (origin, run, packages, runtime) = what;
        let (port, (health, protocol), alive, drain, scale) = how;
        let protocol = if matches!(health, Some(Health::Grpc(_))) { Protocol::H2c } else { protocol };
        let ((memory, cpu), writable, metrics, cage) = rest;
        let built = matches!(origin, Origin::Folder { .. } | Origin::Static { .. });
        let fixed_port = port.and_then(Port::new).filter(|_| scale.max <= 1);
        let service = Service {
            packages: if built { packages } else { Vec::new() },
            origin,
            run,
            runtime,
            fixed_port,
            protocol,
            health,
            alive,
            drain,
            scale,
            limits: Limits { memory, cpu },
            writable: writable.into_iter().collect(),
            metrics,
            cage,
            env,
        };
        match service.origin {
            Origin::Static { .. } => without_process(service),
            Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Image(_) | Origin::Dockerfile { .. } => service,
        }
    })
}

fn without_process(service: Service) -> Service {
    Service {
        run: None,
        fixed_port: None,
        protocol: Protocol::Http1,
        health: None,
        alive: None,
        drain: Duration::from_secs(30),
        scale: Scale::default(),
        limits: Limits::default(),
        writable: Vec::new(),
        metrics: None,
        cage: Cage::Best,
        ..service
    }
}

fn backup() -> impl Strategy<Value = Option<Backup>> {
    let backup = (duration(), 1_u16..100, option::of(duration()));
    option::of(backup.prop_map(|(every, keep, drill)| Backup { every, keep, drill }))
}

fn database() -> impl Strategy<Value = Database> {
    let source = prop_oneof![
        option::of(1_u16..30).prop_map(|version| DatabaseSource::Managed { version }),
        (name(), option::of(name())).prop_map(|(url, ca)| DatabaseSource::External { url, ca }),
    ];
    (source, option::of(path()), backup()).prop_map(|(source, init, backup)| {
        let init = init.filter(|_| matches!(source, DatabaseSource::Managed { .. }));
        Database { source, init, backup }
    })
}

fn redis() -> impl Strategy<Value = Redis> {
    let source = prop_oneof![
        (option::of(1_u16..30), any::<bool>()).prop_map(|(version, persist)| RedisSource::Managed { version, persist }),
        (name(), option::of(name())).prop_map(|(url, ca)| RedisSource::External { url, ca }),
    ];
    (source, backup()).prop_map(|(source, backup)| Redis { source, backup })
}

fn volumes(services: Vec<ServiceName>) -> impl Strategy<Value = BTreeMap<ResourceName, Volume>> {
    let most = services.len();
    let volume = (option::of(subsequence(services, 0..=most)), any::<bool>(), option::of(size()), backup());
    btree_map(name::<ResourceName>(), volume, 0..3).prop_map(|volumes| {
        let volume = |(name, (services, mounted, size, backup)): (ResourceName, (_, bool, _, _))| {
            let path = mounted.then(|| format!("/data/{name}"));
            (name, Volume { services, path, size, backup })
        };
        volumes.into_iter().map(volume).collect()
    })
}

fn resources(services: Vec<ServiceName>) -> impl Strategy<Value = Resources> {
    let kind = select(vec![DatabaseKind::Postgres, DatabaseKind::MariaDb]);
    let bucket = (option::of(name()), backup()).prop_map(|(external, backup)| Bucket { external, backup });
    let all = (
        btree_map((kind, name()), database(), 0..3),
        btree_map(name(), redis(), 0..2),
        volumes(services),
        btree_map(name(), bucket, 0..2),
    );
    all.prop_map(|(databases, redis, volumes, buckets)| Resources { databases, redis, volumes, buckets })
}

#[derive(Debug, Clone)]
struct Resources {
    databases: BTreeMap<(DatabaseKind, ResourceName), Database>,
    redis: BTreeMap<ResourceName, Redis>,
    volumes: BTreeMap<ResourceName, Volume>,
    buckets: BTreeMap<ResourceName, Bucket>,
}

fn route(services: Vec<ServiceName>) -> impl Strategy<Value = Route> {
    let to = prop_oneof![
        3 => select(services).prop_map(RouteTo::Service),
        1 => Just(RouteTo::Redirect("https://example.com:8443/a".to_owned())),
        1 => Just(RouteTo::Deny),
    ];
    let auth = prop_oneof![
        name().prop_map(|secret| Auth::Header { name: "x-auth-token".to_owned(), secret }),
        name().prop_map(|secret| Auth::Bearer { secret }),
        name().prop_map(|secret| Auth::Basic { secret }),
    ];
    let allow = vec!["10.0.0.0/8", "203.0.113.7/32", "2001:db8::/32", "0.0.0.0/0"];
    let allow = subsequence(allow, 0..=3).prop_map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect());
    let rate = (1_u32.., select(vec![1_u64, 60, 3600, 86_400]), select(vec![RateBy::Client, RateBy::Route]))
        .prop_map(|(count, per, by)| (Rate { count, per: Duration::from_secs(per) }, by));
    let limit = (option::of(rate), size(), duration(), duration()).prop_map(|(rate, body, timeout, idle)| Limit {
        by: rate.map_or(RateBy::Client, |(_, by)| by),
        rate: rate.map(|(rate, _)| rate),
        body: BodyLimit(body),
        timeout,
        idle,
    });
    let limit = prop_oneof![Just(Limit::default()), limit];
    let extensions = subsequence(vec!["txt", "pdf", "png"], 1..=3);
    let upload = extensions.prop_map(|all| Upload { extensions: all.iter().map(|e| (*e).to_owned()).collect() });
    let tls = select(vec![Tls::Auto, Tls::Local, Tls::Off]);
    let what = (to, "(/[a-z]{1,3}){0,2}", any::<bool>(), (tls, transfer()));
    (what, (allow, option::of(auth)), limit, option::of(upload)).prop_map(|(what, (allow, auth), limit, upload)| {
        let (to, path, strip, (tls, transfer)) = what;
        let transfer = if tls == Tls::Off { Transfer::default() } else { transfer };
        let service = matches!(to, RouteTo::Service(_));
        let path = PathPrefix::new(&format!("/{}", path.trim_start_matches('/'))).unwrap();
        let access = Access { allow, auth };
        Route {
            hosts: Vec::new(),
            path,
            strip: strip && service,
            upload: upload.filter(|_| service),
            to,
            tls,
            access,
            limit,
            transfer,
        }
    })
}

fn transfer() -> impl Strategy<Value = Transfer> {
    let hsts = (duration(), any::<bool>(), any::<bool>()).prop_map(|(age, subdomains, preload)| Hsts {
        preload: preload && subdomains && age >= Hsts::PRELOAD_AGE,
        age,
        subdomains,
    });
    (option::of(select(vec![PlainHttp::Serve, PlainHttp::Redirect])), option::of(hsts), any::<bool>())
        .prop_map(|(http, hsts, compress)| Transfer { http, hsts, compress })
}

/// Hosts are made of the route's name, so that no two routes claim one.
fn routes(services: Vec<ServiceName>) -> impl Strategy<Value = BTreeMap<RouteName, Route>> {
    btree_map(name::<RouteName>(), (route(services), 1_usize..3), 0..4).prop_map(|routes| {
        let with_hosts = |(name, (mut route, count)): (RouteName, (Route, usize))| {
            let hosts = ["example.com", "*.example.org"].map(|h| match h.strip_prefix("*.") {
                Some(rest) => format!("*.{}.{rest}", name.as_str().trim_end_matches('-')),
                None => format!("{}.{h}", name.as_str().trim_end_matches('-')),
            });
            // `a` and `a-` would trim to one host: a distinct path keeps them apart.
            if name.as_str().ends_with('-') {
                route.hosts.clear();
                route.path = PathPrefix::new(&format!("/{name}")).unwrap();
            } else {
                route.hosts = hosts[..count].iter().map(|h| HostName::new(h).unwrap()).collect();
            }
            (name, route)
        };
        routes.into_iter().map(with_hosts).collect()
    })
}

fn jobs(
    built: Vec<ServiceName>,
    alone: bool,
    targets: &Targets,
) -> impl Strategy<Value = BTreeMap<JobName, Job>> + use<> {
    let schedule = select(vec![None, Some("0 3 * * *"), Some("*/15 8-18 * jan-mar mon,wed"), Some("5 4 1 * 7")]);
    let service = select(built).prop_map(Some);
    // An app with one service need not say which.
    let service = prop_oneof![service.clone(), if alone { Just(None).boxed() } else { service.boxed() }];
    let job = (command(), service, schedule, variables(targets), duration());
    let job = job.prop_map(|(run, build_of, schedule, env, timeout)| {
        let schedule = schedule.map(schedule_of);
        Job { run, build_of, schedule, env, timeout }
    });
    btree_map(name(), job, 0..2)
}

/// The parser's own reading: what a schedule means is tested where it is parsed.
fn schedule_of(text: &str) -> Schedule {
    let file = format!("[job.x]\nrun = \"x\"\nschedule = \"{text}\"\n");
    let env = EnvName::new("local").unwrap();
    let defaults = bowline_spec::Defaults { folder_name: String::new(), ..Default::default() };
    let parsed = bowline_spec::parse(&file, "x", &env, &defaults).unwrap();
    parsed.app.jobs["x"].schedule.clone().unwrap()
}

fn rollout() -> impl Strategy<Value = Rollout> {
    let step = |weight: u8, hold| Step { weight: Weight::new(weight).unwrap(), hold };
    let steps = btree_map(1_u8..=100, duration(), 1..4)
        .prop_map(move |steps| steps.into_iter().map(|(weight, hold)| step(weight, hold)).collect());
    let strategy = prop_oneof![
        Just(bowline_core::app::Strategy::Rolling),
        Just(bowline_core::app::Strategy::BlueGreen),
        steps.prop_map(|steps| bowline_core::app::Strategy::Canary { steps }),
    ];
    // None that nothing exceeds.
    let limit = || (1_u64..=512_000).prop_map(Duration::from_millis);
    let rule = prop_oneof![
        share().prop_map(AbortRule::ErrorRate),
        share().prop_map(AbortRule::ErrorRateAboveStable),
        (share(), limit()).prop_map(|(quantile, limit)| AbortRule::Latency { quantile, limit }),
        (share(), limit()).prop_map(|(quantile, above)| AbortRule::LatencyAboveStable { quantile, above }),
    ];
    let watch = prop_oneof![Just(Duration::ZERO), Just(Duration::from_secs(600)), duration()];
    (strategy, vec(rule, 0..3), watch).prop_map(|(strategy, abort, watch)| Rollout { strategy, abort, watch })
}

fn secrets() -> impl Strategy<Value = BTreeMap<SecretName, SecretSource>> {
    let source = prop_oneof![
        any::<bool>().prop_map(|generate| SecretSource::Store { generate }),
        "[!-~]([ -~]{0,8}[a-z])?".prop_map(SecretSource::Aws),
        "[!-~]([ -~]{0,8}[a-z])?".prop_map(SecretSource::Vault),
        Just(SecretSource::File("/etc/secret".to_owned())),
    ];
    btree_map(name(), source, 0..3)
}

fn environment() -> impl Strategy<Value = Environment> {
    let target = prop_oneof![
        Just(Target::Local),
        (option::of("[a-z]{1,4}"), option::of(1_u16..)).prop_map(|(user, port)| Target::Ssh {
            user,
            host: "a.example.com".to_owned(),
            port
        }),
        Just(Target::Https { url: "https://example.com".to_owned() }),
        (option::of("[a-z:/]{0,6}[a-z]"), option::of("[a-z]{1,6}"))
            .prop_map(|(context, namespace)| Target::Kubernetes { context, namespace }),
    ];
    let word = || option::of(Just("fast".to_owned()));
    let names = (word(), option::of(Just("infra/public".to_owned())), word(), option::of(Just(Rollouts::Argo)));
    let kubernetes =
        (names, word(), word(), word(), word()).prop_map(|((a, g, s, r), b, c, d, e)| KubernetesSettings {
            ingress_class: a,
            gateway: g,
            issuer: b,
            address: c,
            storage_class: d,
            node_pool: e,
            secret_store: s,
            rollouts: r,
        });
    // By their place alone: two apps of all strategies in one frame would not fit a thread's stack.
    let (target, kubernetes) = (target.boxed(), kubernetes.boxed());
    let env = prop_oneof![Just("local".parse().unwrap()), name::<EnvName>()];
    (
        env,
        any::<bool>(),
        option::of(any::<[u8; 16]>().prop_map(EnvironmentId)),
        option::of(target),
        option::of(kubernetes),
    )
        .prop_filter("reserved", |(name, ..)| !matches!(name.as_str(), "edge" | "locks"))
        .prop_map(|(name, protected, id, server, kubernetes)| Environment {
            name,
            protected,
            id,
            server,
            kubernetes,
        })
}

fn slo() -> impl Strategy<Value = Option<Slo>> {
    let latency = (share(), duration()).prop_map(|(share, under)| LatencyObjective { share, under });
    let slo = (option::of(share()), option::of(latency), option::of(name()));
    option::of(slo.prop_map(|(availability, latency, notify)| Slo { availability, latency, notify }))
}

fn services() -> impl Strategy<Value = Vec<ServiceName>> {
    btree_set(prop_oneof![2 => name::<ServiceName>(), 1 => Just("web".parse().unwrap())], 1..4)
        .prop_map(|names| names.into_iter().collect())
}

impl Resources {
    /// Names that a snapshot may name, each once.
    fn outliving(&self) -> Vec<ResourceName> {
        let names: std::collections::BTreeSet<_> = self.volumes.keys().chain(self.redis.keys()).cloned().collect();
        names.into_iter().collect()
    }
}

fn targets(services: &[ServiceName], resources: &Resources) -> Targets {
    Targets {
        services: services.to_vec(),
        databases: resources.databases.keys().cloned().collect(),
        redis: resources.redis.keys().cloned().collect(),
        volumes: resources.volumes.keys().cloned().collect(),
        buckets: resources.buckets.keys().cloned().collect(),
    }
}

/// Names first, then what refers to them.
pub(crate) fn app() -> impl Strategy<Value = App> {
    services()
        .prop_flat_map(|services| (Just(services.clone()), resources(services)))
        .prop_flat_map(|(services, resources)| {
            let targets = targets(&services, &resources);
            // Routes and jobs lead to the first service, which is always a process.
            let first = vec![services[0].clone()];
            let (head, rest) = services.split_first().unwrap();
            let head = service(folder(), &targets)
                .prop_map({
                    let n = head.clone();
                    move |s| (n.clone(), s)
                })
                .boxed();
            let rest = rest.iter().map(|n| {
                let n = n.clone();
                service(origin(services[0].clone()), &targets).prop_map(move |s| (n.clone(), s)).boxed()
            });
            let all: Vec<BoxedStrategy<(ServiceName, Service)>> = std::iter::once(head).chain(rest).collect();
            let snapshot = resources.outliving();
            let most = snapshot.len();
            let hooks = option::of((command(), subsequence(snapshot, 0..=most)));
            let logs = select(vec![
                None,
                Some(LogSink::Otlp),
                Some(LogSink::SyslogTls { host: "l.example.com".to_owned(), port: 6514 }),
            ]);
            let image = option::of(
                option::of(name()).prop_map(|login| ImagePush { push: "ghcr.io/acme/uploads".to_owned(), login }),
            );
            let one = (
                name::<AppName>(),
                all,
                jobs(first.clone(), services.len() == 1, &targets),
                variables(&targets),
                secrets(),
            );
            let two = (Just(resources), routes(first), hooks, rollout(), slo());
            (one, two, (image, logs, environment()))
        })
        .prop_map(|(one, two, (image, logs, environment))| {
            let (name, services, jobs, env, secrets) = one;
            let (resources, routes, hooks, rollout, slo) = two;
            let release =
                hooks.map(|(before, snapshot)| ReleaseHooks { before: Some(before), snapshot }).unwrap_or_default();
            let Resources { databases, redis, volumes, buckets } = resources;
            let services = services.into_iter().collect();
            App {
                name,
                services,
                jobs,
                env,
                secrets,
                databases,
                redis,
                volumes,
                buckets,
                routes,
                release,
                rollout,
                slo,
                image,
                logs,
                environment,
            }
        })
}
