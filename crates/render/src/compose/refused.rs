//! What Compose does not carry: each by its key, with what to do instead.

use bowline_core::app::Delivery;
use bowline_core::app::{
    Access, App, Backup, Bucket, Database, Environment, Job, Limit, LogSink, Origin, Redis, ReleaseHooks, Rollout,
    Route, RouteTo, Scale, SecretSource, Service, Strategy, Transfer, Value, Variables, Volume,
};
use bowline_core::id::ServiceName;
use bowline_core::release::Unsupported;
use bowline_core::resource::ResourceId;

use super::{BEFORE, Composed, held, variable_of, word};
use crate::server::servers;
use crate::unsupported::{PARTED, is_parted, refused};

const PROXY: &str = "nothing of Compose stands in front of an app: take it out for this environment, and say it in the proxy of the machine";
const NO_BACKUP: &str = "Compose makes no backups: take it out for this environment";
const ONE_NUMBER: &str = "Compose runs one number of copies: say `scale = N` for this environment";
const ROLLS: &str = "Compose ends the old before it starts the new: say `strategy = \"rolling\"` for this environment";
const JUDGED: &str = "nothing in Compose judges a release by its requests: take it out for this environment";
const ELSEWHERE: &str =
    "Compose reads no store of secrets: take `source` out for this environment, and set the variable";
const AS_FILE: &str =
    "Compose hands a secret of a file on as a file: say `as = \"file\"`, or take its `source` out for this environment";
const TAKEN: &str = "a service of Compose would be called as another: give one of them another name";

pub(super) fn all(input: &Composed<'_>) -> Vec<Unsupported> {
    let mut found = Found { input, all: Vec::new() };
    found.app();
    found.names();
    found.all.sort();
    found.all.dedup();
    found.all
}

struct Found<'a> {
    input: &'a Composed<'a>,
    all: Vec<Unsupported>,
}

impl Found<'_> {
    fn add(&mut self, when: bool, path: impl Into<String>, why: &'static str) {
        if when {
            self.all.push(Unsupported { path: path.into(), why });
        }
    }

    fn app(&mut self) {
        let app = self.input.app;
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
            // Whoever pulls has logged in.
            image: _,
            logs,
            environment,
        } = app;
        for (name, service) in services {
            self.service(name, service);
            self.variables(&format!("service.{name}.env"), name, &service.env);
            self.variables("env", name, env);
        }
        for (name, job) in jobs {
            let Job { run: _, build_of, schedule, env, timeout: _ } = job;
            let home = build_of.as_ref().or_else(|| app.home());
            self.add(home.is_none(), format!("job.{name}"), "nothing says in which build it runs: say `build_of`");
            home.into_iter().for_each(|home| self.variables(&format!("job.{name}.env"), home, env));
            let why = "Compose starts nothing by the clock: take it out for this environment, and let cron run the job";
            self.add(schedule.is_some(), format!("job.{name}.schedule"), why);
        }
        for (name, source) in secrets {
            let elsewhere = matches!(source, SecretSource::Aws(_) | SecretSource::Vault(_));
            self.add(elsewhere, format!("secret.{name}.source"), ELSEWHERE);
        }
        for ((kind, name), Database { source: _, init, backup }) in databases {
            let id = ResourceId { kind: (*kind).into(), name: name.clone() };
            self.backup(&id.to_string(), *backup);
            let managed = servers(app).iter().any(|server| server.id == id);
            let missing = managed && init.is_some() && !self.input.scripts.contains_key(&id);
            self.add(missing, format!("{id}.init"), "its file is not there");
        }
        for (name, Redis { source: _, backup }) in redis {
            self.backup(&format!("redis.{name}"), *backup);
        }
        for (name, Volume { services: _, path, size, backup }) in volumes {
            self.add(path.as_deref().is_some_and(is_parted), format!("volume.{name}.path"), PARTED);
            self.backup(&format!("volume.{name}"), *backup);
            let why = "volumes of Docker have no size: take it out for this environment";
            self.add(size.is_some(), format!("volume.{name}.size"), why);
        }
        for (name, Bucket { external, backup }) in buckets {
            self.backup(&format!("bucket.{name}"), *backup);
            let why = "no S3 server is run beside the app: give `url`, or use a volume";
            self.add(external.is_none(), format!("bucket.{name}"), why);
        }
        for (name, route) in routes.iter().filter(|(_, route)| !route.hosts.is_empty()) {
            self.route(&format!("route.{name}"), route);
        }
        self.release(release, rollout);
        self.add(slo.is_some(), "slo", "nothing of Compose counts requests: take it out for this environment");
        let why = "Compose has no exporter of OpenTelemetry: say `syslog+tls://…`, or take it out for this environment";
        self.add(matches!(logs, Some(LogSink::Otlp)), "logs.to", why);
        // Guards and settings of other targets.
        let Environment { name: _, protected: _, id: _, server: _, kubernetes: _ } = environment;
    }

    fn release(&mut self, release: &ReleaseHooks, rollout: &Rollout) {
        let ReleaseHooks { before, snapshot } = release;
        let homeless = before.is_some() && self.input.app.home().is_none();
        self.add(
            homeless,
            "release.before",
            "nothing says in which build it runs: build one service, or call one `web`",
        );
        let why = "Compose takes no snapshot: take it out for this environment";
        self.add(!snapshot.is_empty(), "release.snapshot", why);
        let Rollout { strategy, abort, watch } = rollout;
        let rolls = *strategy == Strategy::Rolling;
        self.add(!rolls, "rollout.strategy", ROLLS);
        self.add(!abort.is_empty(), "rollout.abort", JUDGED);
        self.add(rolls && !watch.is_zero(), "rollout.watch", JUDGED);
    }

    fn backup(&mut self, path: &str, backup: Option<Backup>) {
        self.add(backup.is_some(), format!("{path}.backup"), NO_BACKUP);
    }

    fn service(&mut self, name: &ServiceName, service: &Service) {
        let path = format!("service.{name}");
        let Service {
            origin,
            run: _,
            packages: _,
            runtime: _,
            fixed_port: _,
            protocol: _,
            health: _,
            // Told beside.
            alive: _,
            drain: _,
            scale,
            limits: _,
            writable,
            metrics: _,
            cage: _,
            env: _,
        } = service;
        match origin {
            Origin::Folder { .. } | Origin::BuildOf(_) => {
                self.add(writable.iter().any(|path| is_parted(path)), format!("{path}.writable"), PARTED);
            }
            Origin::Static { .. } => {
                let why = "nothing of Compose serves files: let the app serve them";
                self.add(true, format!("{path}.static"), why);
            }
            Origin::Image(_) | Origin::Dockerfile { .. } => {
                let why = "where the image keeps its files is not known: give it a volume with a `path`";
                self.add(!writable.is_empty(), format!("{path}.writable"), why);
            }
        }
        let Scale { min, max, cpu, in_flight } = *scale;
        self.add(min != max || cpu.is_some() || in_flight.is_some(), format!("{path}.scale"), ONE_NUMBER);
    }

    fn variables(&mut self, path: &str, service: &ServiceName, variables: &Variables) {
        for (variable, value) in variables {
            let why = match value {
                Value::Text(_) | Value::Secret { name: _, delivery: Delivery::File } => None,
                Value::Secret { name, delivery: Delivery::Environment } => {
                    let of_file = matches!(self.input.app.secrets.get(name), Some(SecretSource::File(_)));
                    of_file.then_some(AS_FILE)
                }
                Value::From(reference) => refused(self.input.app, service, reference),
            };
            why.into_iter().for_each(|why| self.add(true, format!("{path}.{variable}"), why));
        }
    }

    /// A host is the proxy's; so is all that is asked of requests to it.
    fn route(&mut self, path: &str, route: &Route) {
        of_proxy(route).into_iter().for_each(|key| self.add(true, format!("{path}.{key}"), PROXY));
    }

    /// Services of the file, databases and jobs are services alike; passwords and secrets are variables alike.
    fn names(&mut self) {
        let app = self.input.app;
        let mut taken: Vec<String> = servers(app).iter().map(|server| word(&server.id)).collect();
        taken.extend(app.jobs.keys().map(|name| format!("job-{name}")));
        taken.extend(app.release.before.iter().map(|_| BEFORE.to_owned()));
        for name in app.services.keys().filter(|name| taken.iter().any(|taken| taken == name.as_str())) {
            self.add(true, format!("service.{name}"), TAKEN);
        }
        let passwords: Vec<String> = servers(app).iter().map(|server| held(&server.id)).collect();
        let why = "its variable would be that of a database's password: give it another name";
        for name in bowline_core::release::wanted_secrets(app) {
            let (variable, key) = (variable_of(&name), format!("secret.{name}"));
            self.add(passwords.contains(&variable), key.clone(), why);
            let why = "its variable means something else to whoever starts it: give it another name";
            self.add(is_anothers(&variable), key, why);
        }
    }
}

/// Variables that are set in every shell, or that Compose and Docker go by.
fn is_anothers(variable: &str) -> bool {
    const OF_SHELLS: [&str; 12] =
        ["HOME", "HOSTNAME", "IFS", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "USER"];
    OF_SHELLS.contains(&variable) || ["COMPOSE_", "DOCKER_", "LC_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// The keys of a route that ask something of requests.
pub(super) fn of_proxy(route: &Route) -> Vec<&'static str> {
    let Route { hosts: _, path: prefix, strip, to, tls: _, access, limit, upload, transfer } = route;
    let Access { allow, auth } = access;
    let Limit { rate, by: _, body, timeout, idle } = limit;
    let Transfer { http, hsts, compress } = transfer;
    let default = Limit::default();
    let all = [
        ("path", prefix.as_str() != "/"),
        ("strip", *strip),
        ("redirect", matches!(to, RouteTo::Redirect(_))),
        ("deny", matches!(to, RouteTo::Deny)),
        ("allow", !allow.is_empty()),
        ("auth", auth.is_some()),
        ("limit.rate", rate.is_some()),
        ("limit.body", *body != default.body),
        ("limit.timeout", *timeout != default.timeout),
        ("limit.idle", *idle != default.idle),
        ("upload", upload.is_some()),
        ("http", http.is_some()),
        ("hsts", hsts.is_some()),
        ("compress", *compress),
    ];
    all.into_iter().filter(|(_, asks)| *asks).map(|(key, _)| key).collect()
}
