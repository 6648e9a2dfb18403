//! What a cluster does not carry: each is refused by its key, with what to do instead.

use std::collections::BTreeMap;

use bowline_core::app::{
    Access, App, Auth, Backup, Bucket, Database, DatabaseSource, Environment, Health, Hsts, HttpCheck, Job,
    KubernetesSettings, Limit, Origin, PlainHttp, Probe, Protocol, RateBy, Redis, RedisSource, Reference,
    ReferenceField, ReleaseHooks, Rollout, Route, RouteTo, Scale, SecretSource, Service, Slo, Strategy, Tls, Transfer,
    Value, Variables, Volume,
};
use bowline_core::id::ServiceName;
use bowline_core::release::{Unsupported, has_volume};
use bowline_core::resource::ResourceId;

use crate::input::{Api, Input};
use crate::kubernetes::{
    Ctx, Edge, Seen, Url, address_refused, backend, beside, certificate, is_held_alone, is_named, is_shared, written,
};

/// All keys of an app that a cluster of this kind does not carry, by path.
pub fn unsupported(input: &Input<'_>) -> Vec<Unsupported> {
    let ctx = Ctx::of(input);
    let mut found = Found { ctx: &ctx, edge: Edge::of(input), all: Vec::new() };
    found.app();
    found.names();
    let mut all = found.all;
    all.sort();
    all.dedup();
    all
}

const FILES: &str = "nothing in a cluster serves files yet: let the app serve them";
const OF_H2C: &str = "a kubelet asks for paths by HTTP/1.1, which an `h2c` service does not speak: `health = { grpc = \"\" }` or `\"tcp\"`";
const NO_BACKUP: &str = "backups are not made yet; CloudNativePG and Velero make them in a cluster";
const BY_CPU: &str = "a cluster knows no requests in flight without an adapter: say `cpu`";
const NO_REST: &str = "nothing in a cluster holds requests until an instance has started: say at least 1";
const ONE_NUMBER: &str = "`min` and `max` are the same number: there is nothing to scale";
const ONE_OF: &str = "only a URL is handed on as it is: refer to `url`, and let the app take it apart";
const NO_RELEASE: &str = "a release has no number before it is deployed: take the variable out";
const NO_DAEMON: &str = "there is no daemon in a cluster: ask Prometheus there";
const STEPS: &str =
    "a cluster rolls by itself: say `strategy = \"rolling\"` for this environment, or `kubernetes.rollouts = \"argo\"`";
const SHARES: &str = "Argo Rollouts is told shares of an Ingress of ingress-nginx: say `--api ingress-nginx`, or `strategy = \"blue-green\"`";
const ONE_DISK: &str =
    "two releases cannot have a volume that one node at a time has: say `strategy = \"rolling\"` for this environment";
const JUDGED: &str = "nothing in a cluster judges a release by its requests: take it out for this environment";
const UNWATCHED: &str =
    "nothing in a cluster judges a release by its requests: say `watch = \"0s\"` for this environment";
const BODIES: &str =
    "nothing in front of a cluster's pods looks into bodies: `upload = \"off\"` says that the app does";
const ANNOTATED: &str =
    "this ingress controller is not known to carry it: `--api ingress-nginx` if it is that, or `kubernetes.gateway`";
const OF_ENVOY: &str = "the Gateway API has no such rule: `--api envoy-gateway` if the Gateway is Envoy's";
const BY_GATEWAY: &str = "an Ingress does not carry it: say `kubernetes.gateway` of an Envoy Gateway";
// Its annotation `permanent-redirect` takes no variable of nginx (validator URLIsValidRegex): the path of a request would be lost.
const NO_REDIRECT: &str = "an Ingress carries no redirect that keeps the path of a request: say `kubernetes.gateway`, or let a service answer it";
const SHARED: &str = "several pods have it, so that its storage must be ReadWriteMany, which a cluster's default seldom is: say a class that is by \
                      `kubernetes.storage_class`, or let one pod alone have it (`services`, `scale = 1`)";
const TAKEN: &str = "an object of it would be called as that of another table: give one of them another name";
const BOTH_DAYS: &str =
    "a CronJob runs on either of two days, and this is both: say one of them as `*`, and let the job look at the other";
const STORE: &str =
    "a cluster reads it by the External Secrets Operator: `--api external-secrets`, and `kubernetes.secret_store`";
/// Kubernetes takes no such path, and Compose reads what follows as options.
pub(crate) const PARTED: &str = "a container has nothing mounted at a path with `:` in it: give it another";
/// Kubernetes takes a ConfigMap of at most 1 MiB, the rest of the object included.
const MAX_SCRIPT: usize = 1_000_000;

struct Found<'a, 'c> {
    ctx: &'c Ctx<'a>,
    edge: Edge,
    all: Vec<Unsupported>,
}

impl Found<'_, '_> {
    fn add(&mut self, when: bool, path: impl Into<String>, why: &'static str) {
        if when {
            self.all.push(Unsupported { path: path.into(), why });
        }
    }

    fn app(&mut self) {
        let app = self.ctx.app;
        let App {
            name: _,
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
            // Where it is pushed to is the business of whoever pushes; its login is a pull secret.
            image: _,
            logs,
            environment,
        } = app;
        for (name, service) in services {
            self.service(name, service);
            self.variables(&format!("service.{name}.env"), name, &service.env);
        }
        for (name, job) in jobs {
            let Job { run: _, build_of: _, schedule, env, timeout: _ } = job;
            let both = schedule.as_ref().is_some_and(|schedule| written(schedule).is_none());
            self.add(both, format!("job.{name}.schedule"), BOTH_DAYS);
            let home = self.ctx.home_of(name);
            let why = "nothing says in which build it runs: say `build_of`";
            self.add(home.is_none(), format!("job.{name}"), why);
            home.into_iter().for_each(|home| self.variables(&format!("job.{name}.env"), home, env));
        }
        // Those of the app are given to every service and job; what one cannot have is refused once.
        services.keys().for_each(|name| self.variables("env", name, env));
        for (name, source) in secrets {
            self.secret(&format!("secret.{name}"), source);
        }
        self.data(
            databases.iter().map(|((kind, name), one)| (ResourceId { kind: (*kind).into(), name: name.clone() }, one)),
        );
        for (name, one) in redis {
            let Redis { source: RedisSource::Managed { .. } | RedisSource::External { .. }, backup } = one;
            self.backup(&format!("redis.{name}"), *backup);
        }
        for (name, volume) in volumes {
            let Volume { services: _, path, size: _, backup } = volume;
            self.add(path.as_deref().is_some_and(is_parted), format!("volume.{name}.path"), PARTED);
            let shared = is_shared(self.ctx, name) && self.ctx.settings().storage_class.is_none();
            self.add(shared, format!("volume.{name}"), SHARED);
            self.backup(&format!("volume.{name}"), *backup);
        }
        for (name, bucket) in buckets {
            let Bucket { external, backup } = bucket;
            let why = "no S3 server is run in a cluster: give `url`, or use a volume";
            self.add(external.is_none(), format!("bucket.{name}"), why);
            self.backup(&format!("bucket.{name}"), *backup);
        }
        self.places();
        for (name, route) in routes.iter().filter(|(_, route)| !route.hosts.is_empty()) {
            self.route(&format!("route.{name}"), route);
        }
        self.whole(release, rollout, slo.as_ref());
        self.add(logs.is_some(), "logs", "logs are the cluster's own to collect: take it out for this environment");
        self.environment(environment);
    }

    fn whole(&mut self, release: &ReleaseHooks, rollout: &Rollout, slo: Option<&Slo>) {
        let ReleaseHooks { before, snapshot } = release;
        let homeless = before.is_some() && self.ctx.app.home().is_none();
        let why = "nothing says in which build it runs: build one service, or call one `web`";
        self.add(homeless, "release.before", why);
        self.add(
            !snapshot.is_empty(),
            "release.snapshot",
            "no snapshot is taken in a cluster: take it out for this environment",
        );
        let Rollout { strategy, abort, watch } = rollout;
        let (stepped, in_shares) = match strategy {
            Strategy::Rolling => (false, false),
            Strategy::Canary { steps: _ } => (true, true),
            Strategy::BlueGreen => (true, false),
        };
        let argo = self.ctx.settings().rollouts.is_some();
        let by_nginx = matches!(self.edge, Edge::Ingress { nginx: true, .. });
        let has_hosts = self.ctx.app.routes.values().any(|route| !route.hosts.is_empty());
        self.add(stepped && !argo, "rollout.strategy", STEPS);
        self.add(argo && in_shares && !(by_nginx && has_hosts), "rollout.strategy", SHARES);
        let held = self.ctx.routed.iter().any(|service| is_held_alone(self.ctx, service));
        self.add(argo && stepped && held, "rollout.strategy", ONE_DISK);
        self.add(!abort.is_empty(), "rollout.abort", JUDGED);
        // Of a canary it is there without being said.
        self.add(!watch.is_zero() && *watch != strategy.watch(), "rollout.watch", UNWATCHED);
        let Some(Slo { availability, latency, notify }) = slo else { return };
        let seen = self.ctx.has(Api::Prometheus) && Seen::of(self.ctx).is_some();
        let why = "it is watched by the Prometheus Operator over requests of a route with hosts: `--api prometheus`, and `--api ingress-nginx` \
                   or `--api envoy-gateway`";
        self.add(availability.is_some() && !seen, "slo.availability", why);
        self.add(latency.is_some(), "slo.latency", "objectives of latency are not watched yet; `availability` is");
        self.add(notify.is_some(), "slo.notify", "whom alerts go to is said in the cluster's Alertmanager");
    }

    fn environment(&mut self, environment: &Environment) {
        // Guards of whoever deploys; nothing of a rendered object.
        let Environment { name, protected: _, id: _, server: _, kubernetes } = environment;
        let Some(settings) = kubernetes else { return };
        let KubernetesSettings {
            ingress_class,
            gateway,
            issuer: _,
            address,
            storage_class: _,
            node_pool,
            secret_store: _,
            rollouts: _,
        } = settings;
        let path = |key: &str| format!("environment.{name}.kubernetes.{key}");
        let both = ingress_class.is_some() && gateway.is_some();
        self.add(both, path("ingress_class"), "requests come in one way: say it or `gateway`");
        let why = address.as_ref().and_then(|address| address_refused(&Edge::of(self.ctx.input), address));
        self.add(why.is_some(), path("address"), why.unwrap_or_default());
        let is_label = |pool: &String| {
            let (key, value) = pool.split_once('=').unwrap_or(("pool", pool));
            let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            let ends = |text: &str| {
                text.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            };
            let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
            [name, value].into_iter().all(|text| is_word(text) && ends(text) && text.len() <= 63)
                && key.split('/').count() <= 2
        };
        let why = "a pool is a label of nodes: \"KEY=VALUE\", or the value of `bowline.dev/pool`";
        self.add(node_pool.as_ref().is_some_and(|pool| !is_label(pool)), path("node_pool"), why);
    }

    fn backup(&mut self, path: &str, backup: Option<Backup>) {
        self.add(backup.is_some(), format!("{path}.backup"), NO_BACKUP);
    }

    fn data<'d>(&mut self, databases: impl Iterator<Item = (ResourceId, &'d Database)>) {
        for (id, database) in databases {
            let Database { source, init, backup } = database;
            self.backup(&id.to_string(), *backup);
            let DatabaseSource::Managed { version: _ } = source else { continue };
            let script = self.ctx.input.scripts.get(&id);
            let path = format!("{id}.init");
            self.add(init.is_some() && script.is_none(), &path, "its file is not there");
            let large = script.is_some_and(|script| script.len() > MAX_SCRIPT);
            self.add(large, path, "a ConfigMap holds at most 1 MB: load it by a job");
        }
    }

    fn secret(&mut self, path: &str, source: &SecretSource) {
        let elsewhere = match source {
            SecretSource::Store { generate: _ } | SecretSource::File(_) => false,
            SecretSource::Aws(_) | SecretSource::Vault(_) => true,
        };
        let read = self.ctx.has(Api::ExternalSecrets) && self.ctx.settings().secret_store.is_some();
        self.add(elsewhere && !read, format!("{path}.source"), STORE);
    }

    fn service(&mut self, name: &ServiceName, service: &Service) {
        let path = format!("service.{name}");
        let Service {
            origin,
            run: _,
            packages: _,
            runtime: _,
            fixed_port: _,
            protocol,
            health,
            alive,
            drain: _,
            scale,
            limits: _,
            writable,
            metrics: _,
            // As confined as `required` asks, always.
            cage: _,
            env: _,
        } = service;
        match origin {
            Origin::Folder { .. } | Origin::BuildOf(_) => {
                self.add(writable.iter().any(|path| is_parted(path)), format!("{path}.writable"), PARTED);
            }
            Origin::Static { .. } => self.add(true, format!("{path}.static"), FILES),
            Origin::Image(_) | Origin::Dockerfile { .. } => {
                let why = "where the image keeps its files is not known: give it a volume with a `path`";
                self.add(!writable.is_empty(), format!("{path}.writable"), why);
            }
        }
        if let Some(HttpCheck { path: _, probe: Probe { interval: _, idle_interval: _, timeout: _, grace } }) = alive {
            let other = *grace != Probe::default().grace;
            self.add(
                other,
                format!("{path}.alive.grace"),
                "only what is ready is asked: `health.grace` is the time for that",
            );
        }
        let is_h2c = *protocol == Protocol::H2c;
        let by_path = is_h2c && matches!(health, Some(Health::Http(_)));
        self.add(by_path, format!("{path}.health.path"), OF_H2C);
        self.add(is_h2c && alive.is_some(), format!("{path}.alive"), OF_H2C);
        self.scale(&format!("{path}.scale"), *scale);
    }

    fn scale(&mut self, path: &str, scale: Scale) {
        let Scale { min, max: _, cpu, in_flight } = scale;
        let is_automatic = scale.is_automatic();
        self.add(in_flight.is_some(), format!("{path}.in_flight"), BY_CPU);
        self.add(cpu.is_some() && !is_automatic, format!("{path}.cpu"), ONE_NUMBER);
        self.add(is_automatic && cpu.is_none() && in_flight.is_none(), format!("{path}.max"), BY_CPU);
        self.add(is_automatic && min == 0, format!("{path}.min"), NO_REST);
    }

    fn variables(&mut self, path: &str, service: &ServiceName, variables: &Variables) {
        for (variable, value) in variables {
            let Value::From(reference) = value else { continue };
            if let Some(why) = refused(self.ctx.app, service, reference) {
                self.add(true, format!("{path}.{variable}"), why);
            }
        }
    }

    /// What would be mounted over another.
    fn places(&mut self) {
        let app = self.ctx.app;
        for service in app.services.keys() {
            let writable = app.services.get(service).map(|service| service.writable.as_slice()).unwrap_or_default();
            let mut taken: Vec<String> = writable.iter().map(|path| format!("/app/{path}")).collect();
            for (volume, path) in self.ctx.volumes(service) {
                let path = path.trim_end_matches('/').to_owned();
                self.add(taken.contains(&path), format!("volume.{volume}.path"), "something else is mounted there");
                taken.push(path);
            }
        }
    }

    fn route(&mut self, path: &str, route: &Route) {
        let Route { hosts, path: prefix, strip, to, tls, access, limit, upload, transfer } = route;
        let why = "a cluster's edge knows hosts by their names, of letters, digits and '-'";
        self.add(!hosts.iter().all(is_named), format!("{path}.hosts"), why);
        // What the Gateway API takes in a path (RFC 3986, 3.3).
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-/._~!$&'()*+,;=:@".contains(c);
        let why = "a cluster's edge takes no such characters in a path";
        self.add(!prefix.as_str().chars().all(is_plain), format!("{path}.path"), why);
        let gateway = matches!(self.edge, Edge::Gateway { .. });
        match to {
            RouteTo::Service(_) => {}
            RouteTo::Redirect(url) => {
                let why = "a cluster's edge redirects to a name with a plain path: https://HOST/PATH";
                self.add(Url::parse(url).is_none(), format!("{path}.redirect"), why);
                self.add(!gateway, format!("{path}.redirect"), NO_REDIRECT);
            }
            RouteTo::Deny => self.by_edge(format!("{path}.deny"), Some(())),
        }
        if !gateway {
            let unserved = backend(self.ctx, route).is_none();
            self.add(
                unserved,
                path,
                "an Ingress must name a service, and the app has none with a port: say `kubernetes.gateway`",
            );
        }
        if *strip {
            self.by_edge(format!("{path}.strip"), None);
        }
        self.add(
            *tls == Tls::Local,
            format!("{path}.tls"),
            "a local CA is for one machine: say \"auto\", and `kubernetes.issuer`",
        );
        self.add(upload.is_some(), format!("{path}.upload"), BODIES);
        self.transfer(path, *transfer);
        self.access(path, access);
        // What is answered before a service is asked has no other limits.
        if matches!(to, RouteTo::Service(_)) {
            self.limit(path, limit);
        }
    }

    /// `policy`: only Envoy's Gateway has it; else any Gateway. Of Ingresses, that of ingress-nginx.
    fn by_edge(&mut self, path: String, policy: Option<()>) {
        match &self.edge {
            Edge::Gateway { envoy, .. } => self.add(policy.is_some() && !envoy, path, OF_ENVOY),
            Edge::Ingress { nginx, .. } => self.add(!nginx, path, ANNOTATED),
        }
    }

    fn transfer(&mut self, path: &str, transfer: Transfer) {
        let Transfer { http, hsts, compress } = transfer;
        match http {
            Some(PlainHttp::Redirect | PlainHttp::Serve) => self.by_edge(format!("{path}.http"), None),
            None => {}
        }
        let by_gateway = matches!(self.edge, Edge::Gateway { .. });
        if let Some(Hsts { age: _, subdomains: _, preload: _ }) = hsts {
            self.add(!by_gateway, format!("{path}.hsts"), BY_GATEWAY);
        }
        if compress {
            self.add(!by_gateway, format!("{path}.compress"), BY_GATEWAY);
            self.by_policy(format!("{path}.compress"));
        }
    }

    /// What a Gateway carries where it is Envoy's; an Ingress was asked before.
    fn by_policy(&mut self, path: String) {
        let other = matches!(self.edge, Edge::Gateway { envoy: false, .. });
        self.add(other, path, OF_ENVOY);
    }

    fn access(&mut self, path: &str, access: &Access) {
        let Access { allow, auth } = access;
        if !allow.is_empty() {
            self.by_edge(format!("{path}.allow"), Some(()));
        }
        match auth {
            None => {}
            Some(Auth::Basic { secret: _ }) => self.by_edge(format!("{path}.auth"), Some(())),
            Some(Auth::Header { name: _, secret: _ } | Auth::Bearer { secret: _ }) => {
                let by_gateway = matches!(self.edge, Edge::Gateway { .. });
                self.add(!by_gateway, format!("{path}.auth"), BY_GATEWAY);
                self.by_policy(format!("{path}.auth"));
            }
        }
    }

    fn limit(&mut self, path: &str, limit: &Limit) {
        let Limit { rate, by, body, timeout, idle } = limit;
        let default = Limit::default();
        let by_gateway = matches!(self.edge, Edge::Gateway { .. });
        if let Some(rate) = rate {
            self.by_edge(format!("{path}.limit.rate"), Some(()));
            let slow = !by_gateway && rate.per.as_secs() > 60;
            self.add(
                slow,
                format!("{path}.limit.rate"),
                "ingress-nginx counts by seconds and minutes: say it by one of them",
            );
            let shared = !by_gateway && *by == RateBy::Route;
            self.add(shared, format!("{path}.limit.by"), "ingress-nginx counts by client alone");
        }
        if *body != default.body {
            self.by_edge(format!("{path}.limit.body"), Some(()));
        }
        if *timeout != default.timeout {
            self.by_edge(format!("{path}.limit.timeout"), None);
        }
        let apart = by_gateway || idle != timeout;
        let why = "ingress-nginx has one time for both, a Gateway's is its owner's to set: take it out, or with ingress-nginx say the same as `timeout`";
        self.add(*idle != default.idle && apart, format!("{path}.limit.idle"), why);
    }

    /// Names of the file may be told apart by less than names of objects are.
    fn names(&mut self) {
        let ctx = self.ctx;
        let app = ctx.app;
        let data = app.databases.keys().map(|(kind, name)| (format!("{kind}.{name}"), format!("{kind}-{name}")));
        let data: Vec<_> =
            data.chain(app.redis.keys().map(|name| (format!("redis.{name}"), format!("redis-{name}")))).collect();
        let mut pods: Vec<(String, String)> = data.clone();
        pods.extend(app.jobs.keys().map(|name| (format!("job.{name}"), format!("job-{name}"))));
        pods.extend(app.release.before.iter().map(|_| ("release".to_owned(), "release-before".to_owned())));
        pods.extend(app.services.keys().map(|name| (format!("service.{name}"), name.to_string())));
        pods.extend(app.services.keys().filter_map(|name| Some(("rollout".to_owned(), beside(ctx, name)?))));
        self.twice(pods);
        let secrets = bowline_core::release::wanted_secrets(app);
        let mut held: Vec<(String, String)> =
            data.into_iter().map(|(key, word)| (key, ctx.named(&[word.as_str()]))).collect();
        held.extend(app.image.iter().map(|_| ("image".to_owned(), ctx.named(&["registry"]))));
        let routes = app.routes.iter().filter(|(_, route)| !route.hosts.is_empty());
        for (name, route) in routes.clone() {
            held.push((format!("route.{name}"), ctx.named(&[name.as_str(), "auth"])));
            let tls: std::collections::BTreeSet<String> = route.hosts.iter().map(certificate).collect();
            held.extend(tls.into_iter().map(|tls| (format!("tls of {tls}"), tls)));
        }
        held.sort();
        held.dedup();
        held.extend(secrets.iter().map(|name| (format!("secret.{name}"), ctx.secret(name))));
        self.twice(held);
        let mut edges = Vec::new();
        for (name, _) in routes {
            edges.push((format!("route.{name}"), name.to_string()));
            edges.push((format!("route.{name}"), format!("{name}-plain")));
        }
        self.twice(edges);
    }

    /// `(path, name)`: the later of two that have one name is refused.
    fn twice(&mut self, names: Vec<(String, String)>) {
        let mut first: BTreeMap<String, String> = BTreeMap::new();
        for (path, name) in names {
            let taken = first.get(&name).is_some_and(|known| *known != path);
            self.add(taken, path.clone(), TAKEN);
            first.entry(name).or_insert(path);
        }
    }
}

pub(crate) fn is_parted(path: &str) -> bool {
    path.contains(':')
}

/// Why a variable cannot be told, wherever the app runs but beside a daemon.
pub(crate) fn refused(app: &App, service: &ServiceName, reference: &Reference) -> Option<&'static str> {
    match reference {
        Reference::AppName | Reference::AppEnv => None,
        Reference::AppRelease => Some(NO_RELEASE),
        Reference::Metrics => Some(NO_DAEMON),
        Reference::Database(kind, name, field) => {
            let one = app.databases.get(&(*kind, name.clone()))?;
            let elsewhere = matches!(one.source, DatabaseSource::External { .. });
            (elsewhere && *field != ReferenceField::Url).then_some(ONE_OF)
        }
        Reference::Redis(name, field) => {
            let elsewhere = matches!(app.redis.get(name)?.source, RedisSource::External { .. });
            (elsewhere && *field != ReferenceField::Url).then_some(ONE_OF)
        }
        // The bucket itself is refused where it has no URL.
        Reference::Bucket(_, field) => (*field != ReferenceField::Url).then_some(ONE_OF),
        Reference::VolumePath(name) => {
            let why = "the service does not have this volume: add it to `services` of the volume";
            (!has_volume(app, service, name)).then_some(why)
        }
        Reference::ServiceUrl(name) => {
            let files = matches!(app.services.get(name)?.origin, Origin::Static { .. });
            files.then_some(FILES)
        }
    }
}
