//! What the grammar knows and no backend carries yet.

use crate::acme::is_provable;
use crate::app::{
    AbortRule, App, DatabaseSource, Environment, LogSink, Origin, Probe, Protocol, RateBy, RedisSource, Route, Scale,
    SecretSource, Service, Strategy, Tls, Value,
};
use crate::fault::{Fault, FaultKind};
use crate::id::{ResourceName, ServiceName};
use crate::route::{LOCAL, routed};

/// A key of the file that this version cannot carry out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Unsupported {
    /// `postgres.db`, `route.main.allow`
    pub path: String,
    pub why: &'static str,
}

impl Unsupported {
    /// All of them as one failure. `None` if there are none.
    pub fn fault(all: &[Self]) -> Option<Fault> {
        let first = all.first()?;
        let message = match all.len() {
            1 => format!("this version of Bowline cannot do {}", first.path),
            n => format!("this version of Bowline cannot do {n} things that the file asks for"),
        };
        let fault = Fault::new(FaultKind::Invalid, message);
        let fault = all.iter().fold(fault, |fault, one| fault.caused_by(one.to_string()));
        Some(fault.hint("take them out, or override them in [environment.local]"))
    }
}

/// All of them, by path. A plan of an app that has any is refused: nothing that the file says is ignored.
pub fn unsupported(app: &App) -> Vec<Unsupported> {
    let mut found = Found::default();
    found.app(app);
    let routed = routed(app);
    for (name, service) in &app.services {
        found.service(&format!("service.{name}"), service);
        found.scale(&format!("service.{name}.scale"), service, routed.contains(name));
    }
    for (name, route) in &app.routes {
        found.route(&format!("route.{name}"), route, app.environment.name.as_str() == LOCAL);
    }
    found.0.sort();
    found.0
}

const HERE: &str =
    "`local` is the machine and the person in front of it: there is nowhere else to go, nobody else to ask";
const STARTS_READY: &str =
    "whether it is alive is asked only of an instance that is ready, and `health.grace` is the time for that";
const ONE_PORT: &str = "only one process can have a `port`: two releases of the service cannot stand beside each other";
const ONLY_TEXT: &str = "a build of static files is given plain text only: what it is given is published";
const ONE_NUMBER: &str = "`min` and `max` are the same number: there is nothing to scale";
const IMAGE: &str =
    "a server runs what it builds: say it of the environment that is a cluster, `[environment.NAME.image]`";
const NO_BACKUP: &str = "backups are not made yet";
const NO_LATENCY: &str = "objectives of latency are not watched yet; `availability` is";
const NO_WEBHOOK: &str = "alerts go out by Alertmanager: `bowline add alertmanager`";

#[derive(Default)]
struct Found(Vec<Unsupported>);

impl Found {
    fn add(&mut self, when: bool, path: impl Into<String>, why: &'static str) {
        if when {
            self.0.push(Unsupported { path: path.into(), why });
        }
    }

    fn rollout(&mut self, app: &App) {
        let by_shares = match app.rollout.strategy {
            Strategy::Rolling => false,
            Strategy::Canary { .. } | Strategy::BlueGreen => true,
        };
        let routed = routed(app);
        let of = |name: &ServiceName| app.services.get(name);
        let fixed = routed.iter().any(|name| of(name).is_some_and(|service| service.fixed_port.is_some()));
        self.add(by_shares && fixed, "rollout.strategy", ONE_PORT);
        let is_process =
            |name: &&ServiceName| of(name).is_some_and(|service| !matches!(service.origin, Origin::Static { .. }));
        let process = routed.iter().find(is_process);
        self.add(
            by_shares && process.is_none(),
            "rollout.strategy",
            "nothing of it runs that gets requests: files are switched at once",
        );
        let compares = app.rollout.abort.iter().any(AbortRule::compares);
        self.add(
            !by_shares && compares,
            "rollout.abort",
            "a rolling release stands beside no stable one that it could be compared with",
        );
        let unwatched = !by_shares && !app.rollout.abort.is_empty() && app.rollout.watch.is_zero();
        self.add(
            unwatched,
            "rollout.abort",
            "a rolling release is held to limits after its promotion: say how long with `watch`",
        );
    }

    fn app(&mut self, app: &App) {
        for ((kind, name), database) in &app.databases {
            self.add(database.backup.is_some(), format!("{kind}.{name}.backup"), NO_BACKUP);
        }
        for (name, redis) in &app.redis {
            self.add(redis.backup.is_some(), format!("redis.{name}.backup"), NO_BACKUP);
        }
        for (name, bucket) in &app.buckets {
            let path = format!("bucket.{name}");
            self.add(bucket.external.is_none(), &path, "no S3 server is run yet; give `url`, or use a volume");
            self.add(bucket.backup.is_some(), format!("{path}.backup"), NO_BACKUP);
        }
        for (name, volume) in &app.volumes {
            self.add(volume.backup.is_some(), format!("volume.{name}.backup"), NO_BACKUP);
        }
        for (name, source) in &app.secrets {
            let external = match source {
                SecretSource::Store { .. } | SecretSource::File(_) => false,
                SecretSource::Aws(_) | SecretSource::Vault(_) => true,
            };
            self.add(external, format!("secret.{name}.source"), "only Bowline's own store and \"file:…\" are read yet");
        }
        let homeless = app.release.before.is_some() && app.home().is_none();
        self.add(
            homeless,
            "release.before",
            "nothing says in which build it runs: build one service, or call one `web`",
        );
        let Environment { name, protected, id, server, kubernetes } = &app.environment;
        let path = |key: &str| format!("environment.{name}.{key}");
        self.add(kubernetes.is_some(), path("kubernetes"), "it is a cluster's: `bowline render kubernetes` reads it");
        let here = name.as_str() == LOCAL;
        self.add(*protected && here, path("protected"), HERE);
        self.add(id.is_some() && here, path("id"), HERE);
        self.add(server.is_some() && here, path("server"), HERE);
        let elsewhere = |name: &ResourceName| {
            let databases = app.databases.iter().filter(|((_, known), _)| known == name);
            let redis = app.redis.get(name).is_some_and(|redis| matches!(redis.source, RedisSource::External { .. }));
            redis || databases.into_iter().any(|(_, one)| matches!(one.source, DatabaseSource::External { .. }))
        };
        let elsewhere = app.release.snapshot.iter().any(elsewhere);
        self.add(elsewhere, "release.snapshot", "data that lie elsewhere are backed up by whoever keeps them");
        self.rollout(app);
        let slo = app.slo.as_ref();
        self.add(slo.is_some_and(|slo| slo.latency.is_some()), "slo.latency", NO_LATENCY);
        self.add(slo.is_some_and(|slo| slo.notify.is_some()), "slo.notify", NO_WEBHOOK);
        self.add(app.image.is_some(), "image", IMAGE);
        let sink = match &app.logs {
            Some(LogSink::Otlp) => {
                "where the server has a collector (`[otlp]` of server.toml), the logs of all apps go there"
            }
            Some(LogSink::SyslogTls { .. }) | None => "logs are not sent to syslog yet; `bowline logs` reads them",
        };
        self.add(app.logs.is_some(), "logs", sink);
    }

    fn service(&mut self, path: &str, service: &Service) {
        let origin = match service.origin {
            Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Static { .. } => None,
            Origin::Image(_) => Some("image"),
            Origin::Dockerfile { .. } => Some("dockerfile"),
        };
        if let Some(origin) = origin {
            self.add(
                true,
                format!("{path}.{origin}"),
                "a server runs what it builds by itself, in containers, too: say `run`, or nothing to detect it; a cluster takes it",
            );
        }
        let grace = service.alive.as_ref().is_some_and(|alive| alive.probe.grace != Probe::default().grace);
        self.add(grace, format!("{path}.alive.grace"), STARTS_READY);
        if matches!(service.origin, Origin::Static { .. }) {
            for (variable, value) in &service.env {
                let text = matches!(value, Value::Text(_));
                self.add(!text, format!("{path}.env.{variable}"), ONLY_TEXT);
            }
        }
        let copies = service.fixed_port.is_some() && service.scale.min > 1;
        self.add(copies, format!("{path}.scale"), "a service with a fixed `port` has one copy");
        let unread = match (&service.origin, service.protocol) {
            (Origin::Static { .. }, _) => Some("files are served by the edge, which counts for itself"),
            (_, Protocol::H2c) => Some("metrics are read over HTTP/1.1"),
            (_, Protocol::Http1) => None,
        };
        if let Some(why) = unread {
            self.add(service.metrics.is_some(), format!("{path}.metrics"), why);
        }
    }

    /// `routed`: requests come to it through the edge.
    fn scale(&mut self, path: &str, service: &Service, routed: bool) {
        let Scale { min, max: _, cpu, in_flight } = service.scale;
        let is_automatic = service.scale.is_automatic();
        self.add(cpu.is_some() && !is_automatic, format!("{path}.cpu"), ONE_NUMBER);
        self.add(in_flight.is_some() && !is_automatic, format!("{path}.in_flight"), ONE_NUMBER);
        if !is_automatic || routed {
            return;
        }
        self.add(in_flight.is_some(), format!("{path}.in_flight"), "no route leads to it: no request of it is seen");
        self.add(
            cpu.is_none(),
            format!("{path}.max"),
            "no route leads to it: say `cpu`, which is seen without requests",
        );
        self.add(min == 0, format!("{path}.min"), "no route leads to it: nobody would start it again");
    }

    fn route(&mut self, path: &str, route: &Route, local: bool) {
        let unproven = match route.tls {
            Tls::Acme => !local && !route.hosts.iter().all(is_provable),
            Tls::Auto | Tls::Local | Tls::Off => false,
        };
        self.add(
            unproven,
            format!("{path}.tls"),
            "an authority is asked for single names, not for wildcards or addresses",
        );
        let by = match route.limit.by {
            RateBy::Client => false,
            RateBy::Route => route.limit.rate.is_none(),
        };
        self.add(by, format!("{path}.limit.by"), "it says how a rate is counted, and the route has no `rate`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::app::{
        Backup, Database, DatabaseKind, DatabaseSource, Delivery, HttpCheck, KubernetesSettings, Redis, RedisSource,
        StaticFiles, VarName, Volume, sample,
    };
    use crate::id::{ResourceName, SecretName};

    fn check(change: impl FnOnce(&mut App), expected: &[&str]) {
        let mut app = sample::app("shop", &["web"]);
        change(&mut app);
        let found: Vec<String> = unsupported(&app).into_iter().map(|one| one.path).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_carried_is_not_refused() {
        check(|_| {}, &[]);
        check(
            |app| {
                let web = app.services.get_mut("web").unwrap();
                web.fixed_port = crate::id::Port::new(3000);
                web.runtime = Some("python 3.11".into());
                web.packages.push("libpq-dev".into());
                let volume = Volume { services: None, path: Some("/data".into()), size: None, backup: None };
                app.volumes.insert(ResourceName::new("files").unwrap(), volume);
                let url = SecretName::new("database-url").unwrap();
                let source = DatabaseSource::External { url, ca: None };
                let name = (DatabaseKind::Postgres, ResourceName::new("db").unwrap());
                app.databases.insert(name, Database { source, init: None, backup: None });
            },
            &[],
        );
    }

    #[test]
    fn a_command_before_a_release_runs_in_a_build_that_the_file_tells() {
        let before = |app: &mut App| app.release.before = Some(crate::app::Command("migrate".into()));
        let with = |app: &mut App, name: &str| {
            drop(app.services.insert(ServiceName::new(name).unwrap(), sample::service()));
        };
        check(before, &[]);
        check(|app| (before(app), with(app, "api")).0, &[]);
        let only_others = |app: &mut App| {
            before(app);
            app.services.clear();
            ["api", "worker"].into_iter().for_each(|name| with(app, name));
        };
        check(only_others, &["release.before"]);
    }

    #[test]
    fn a_rollout_needs_what_it_goes_by() {
        let by = |strategy: Strategy| move |app: &mut App| app.rollout.strategy = strategy;
        let canary = || by(Strategy::Canary { steps: Vec::new() });
        check(canary(), &[]);
        check(by(Strategy::BlueGreen), &[]);
        let port = |app: &mut App| app.services.get_mut("web").unwrap().fixed_port = crate::id::Port::new(3000);
        check(|app| (canary()(app), port(app)).0, &["rollout.strategy"]);
        check(port, &[]);
        let rules = |app: &mut App| app.rollout.abort = vec![AbortRule::ErrorRate(crate::units::Share::WHOLE)];
        check(rules, &["rollout.abort"]);
        check(|app| (rules(app), app.rollout.watch = Duration::from_secs(60)).0, &[]);
        check(|app| (rules(app), canary()(app)).0, &[]);
    }

    #[test]
    fn what_is_scaled_is_seen_and_has_room_to_scale() {
        let by = |name: &'static str, scale: Scale| {
            move |app: &mut App| {
                let services = ["web", "worker"].map(|name| (ServiceName::new(name).unwrap(), sample::service()));
                app.services.extend(services);
                app.services.get_mut(name).unwrap().scale = scale;
            }
        };
        let cpu = crate::units::Share::from_ppm(700_000);
        let bounds = Scale { min: 0, max: 3, cpu: None, in_flight: None };
        check(by("web", bounds), &[]);
        check(by("web", Scale { cpu, in_flight: Some(5), ..bounds }), &[]);
        check(by("worker", Scale { min: 1, cpu, ..bounds }), &[]);
        check(by("worker", bounds), &["service.worker.scale.max", "service.worker.scale.min"]);
        check(by("worker", Scale { min: 1, cpu, in_flight: Some(5), ..bounds }), &["service.worker.scale.in_flight"]);
        let same = Scale { min: 3, cpu, in_flight: Some(5), ..bounds };
        check(by("web", same), &["service.web.scale.cpu", "service.web.scale.in_flight"]);
    }

    #[test]
    fn each_key_is_named() {
        check(
            |app| {
                let web = app.services.get_mut("web").unwrap();
                web.scale.in_flight = Some(5);
                web.origin = Origin::Image("example".into());
                let probe = Probe { grace: Duration::from_secs(5), ..Probe::default() };
                web.alive = Some(HttpCheck { path: "/live".into(), probe });
                app.environment.protected = true;
                app.environment.kubernetes = Some(KubernetesSettings::default());
                let backup = Backup { every: Duration::from_secs(1), keep: 7, drill: None };
                let source = RedisSource::External { url: SecretName::new("redis-url").unwrap(), ca: None };
                let redis = Redis { source, backup: Some(backup) };
                app.redis.insert(ResourceName::new("cache").unwrap(), redis);
                app.release.snapshot.push(ResourceName::new("cache").unwrap());
            },
            &[
                "environment.local.kubernetes",
                "environment.local.protected",
                "redis.cache.backup",
                "release.snapshot",
                "service.web.alive.grace",
                "service.web.image",
                "service.web.scale.in_flight",
            ],
        );
    }

    #[test]
    fn metrics_are_read_of_processes_that_speak_http1() {
        check(|app| app.services.get_mut("web").unwrap().metrics = Some("/metrics".into()), &[]);
        let h2c = |app: &mut App| {
            let web = app.services.get_mut("web").unwrap();
            (web.metrics, web.protocol) = (Some("/metrics".into()), Protocol::H2c);
        };
        check(h2c, &["service.web.metrics"]);
    }

    #[test]
    fn of_objectives_availability_is_watched() {
        let slo =
            |latency, notify| crate::app::Slo { availability: crate::units::Share::from_ppm(999_000), latency, notify };
        check(|app| app.slo = Some(slo(None, None)), &[]);
        let share = crate::units::Share::from_ppm(990_000).unwrap();
        let latency = crate::app::LatencyObjective { share, under: Duration::from_millis(300) };
        let all = slo(Some(latency), Some(SecretName::new("webhook").unwrap()));
        check(move |app| app.slo = Some(all), &["slo.latency", "slo.notify"]);
    }

    #[test]
    fn what_is_published_is_given_no_secret() {
        check(
            |app| {
                let web = app.services.get_mut("web").unwrap();
                let files = StaticFiles { dir: "dist".into(), fallback: None, cache: StaticFiles::CACHE };
                web.origin = Origin::Static { dir: ".".into(), build: None, files };
                let secret = Value::Secret { name: SecretName::new("key").unwrap(), delivery: Delivery::Environment };
                web.env.insert(VarName::new("TITLE").unwrap(), Value::Text("Shop".into()));
                web.env.insert(VarName::new("KEY").unwrap(), secret);
            },
            &["service.web.env.KEY"],
        );
    }
}
