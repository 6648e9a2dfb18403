//! `[service.NAME]` and `[job.NAME]`.

use bowline_core::app::{
    Cage, Command, GrpcCheck, Health, HttpCheck, Job, Limits, Origin, Probe, Protocol, Scale, Service, StaticFiles,
    Variables,
};
use bowline_core::id::Port;

use std::time::Duration;

use super::{Reader, Section, ShortOr};
use crate::diagnostic::Diagnostic;
use crate::literal;

pub(crate) const JOB_TIMEOUT: Duration = Duration::from_secs(3600);

/// A service of which nothing is written: all is detected.
pub(crate) fn detected() -> Service {
    Service {
        origin: Origin::Folder { dir: ".".to_owned(), build: None },
        run: None,
        packages: Vec::new(),
        runtime: None,
        fixed_port: None,
        protocol: Protocol::default(),
        health: None,
        alive: None,
        drain: Service::DRAIN,
        scale: Scale::default(),
        limits: Limits::default(),
        writable: Vec::new(),
        metrics: None,
        cage: Cage::default(),
        env: Variables::new(),
    }
}

impl Reader {
    pub(super) fn service(&mut self, s: &Section<'_>) -> Service {
        let service = Service {
            origin: self.origin(s),
            run: self.parsed(s, "run", literal::command),
            packages: self.list(s, "packages", literal::package).unwrap_or_default(),
            runtime: self.parsed(s, "runtime", literal::runtime),
            fixed_port: self.integer(s, "port").and_then(Port::new),
            protocol: match self.word(s, "protocol") {
                Some(1) => Protocol::H2c,
                Some(_) | None => Protocol::Http1,
            },
            health: self.health(s),
            alive: self.section(s, "alive").and_then(|alive| self.http_check(&alive)),
            drain: self.parsed(s, "drain", literal::duration).unwrap_or(Service::DRAIN),
            scale: self.scale(s).unwrap_or_default(),
            limits: self.section(s, "limits").map(|limits| self.limits(&limits)).unwrap_or_default(),
            writable: self.list(s, "writable", literal::relative_below).unwrap_or_default(),
            metrics: self.parsed(s, "metrics", literal::url_path),
            cage: match self.word(s, "cage") {
                Some(1) => Cage::Required,
                Some(_) | None => Cage::Best,
            },
            env: self.variables(s, "env"),
        };
        self.check_one_copy(s, &service);
        self.check_grpc(s, &service);
        service
    }

    fn origin(&mut self, s: &Section<'_>) -> Origin {
        let dir = self.parsed(s, "dir", literal::relative).unwrap_or_else(|| ".".to_owned());
        let build: Option<Command> = self.parsed(s, "build", literal::build);
        let build_of = self.parsed(s, "build_of", literal::name).map(Origin::BuildOf);
        let image = self.parsed(s, "image", literal::image).map(Origin::Image);
        let dockerfile = self.parsed(s, "dockerfile", literal::relative_below);
        let files = self.section(s, "static").and_then(|files| self.static_files(&files));
        match (build_of.or(image), dockerfile, files) {
            (Some(origin), _, _) => origin,
            (None, Some(file), _) => Origin::Dockerfile { dir, file },
            (None, None, Some(files)) => Origin::Static { dir, build, files },
            (None, None, None) => Origin::Folder { dir, build },
        }
    }

    fn static_files(&mut self, s: &Section<'_>) -> Option<StaticFiles> {
        let fallback = self.parsed(s, "fallback", literal::relative_below);
        let cache = self.parsed(s, "cache", literal::duration).unwrap_or(StaticFiles::CACHE);
        Some(StaticFiles { dir: self.parsed(s, "dir", literal::relative)?, fallback, cache })
    }

    fn health(&mut self, s: &Section<'_>) -> Option<Health> {
        match self.word_or_table(s, "health")? {
            ShortOr::Short(()) => Some(Health::Tcp(Probe::default())),
            ShortOr::Table(table) if table.has("grpc") => {
                let probe = self.probe(&table);
                self.parsed(&table, "grpc", literal::grpc_service)
                    .map(|service| Health::Grpc(GrpcCheck { service, probe }))
            }
            ShortOr::Table(table) if table.has("path") => self.http_check(&table).map(Health::Http),
            ShortOr::Table(table) => Some(Health::Tcp(self.probe(&table))),
        }
    }

    fn http_check(&mut self, s: &Section<'_>) -> Option<HttpCheck> {
        let probe = self.probe(s);
        Some(HttpCheck { path: self.parsed(s, "path", literal::url_path)?, probe })
    }

    fn probe(&mut self, s: &Section<'_>) -> Probe {
        let default = Probe::default();
        Probe {
            interval: self.parsed(s, "interval", literal::positive).unwrap_or(default.interval),
            idle_interval: self.parsed(s, "idle_interval", literal::positive).unwrap_or(default.idle_interval),
            timeout: self.parsed(s, "timeout", literal::positive).unwrap_or(default.timeout),
            grace: self.parsed(s, "grace", literal::duration).unwrap_or(default.grace),
        }
    }

    fn scale(&mut self, s: &Section<'_>) -> Option<Scale> {
        let table = match self.integer_or_table(s, "scale")? {
            ShortOr::Short(n) => return Some(Scale { min: n, max: n, ..Scale::default() }),
            ShortOr::Table(table) => table,
        };
        let min = self.integer::<u16>(&table, "min");
        let max = self.integer::<u16>(&table, "max");
        if let (Some(low), Some(high)) = (min.or(Some(1)), max)
            && low > high
        {
            let message = format!("`{}` is {low}, more than `max`, {high}", table.path("min"));
            let (at, other) = match min {
                Some(_) => (table.path("min"), table.path("max")),
                None => (table.path("max"), table.path("max")),
            };
            let problem = Diagnostic::new(at.clone(), self.value_at(&at), message);
            let related = self.value_at(&other);
            self.push(if at == other { problem } else { problem.related(related, "`max` is here") });
        }
        let min = min.unwrap_or(1);
        Some(Scale {
            min,
            max: max.unwrap_or(min.max(1)).max(min),
            cpu: self.parsed(&table, "cpu", literal::target_share),
            in_flight: self.integer(&table, "in_flight"),
        })
    }

    fn limits(&mut self, s: &Section<'_>) -> Limits {
        Limits { memory: self.parsed(s, "memory", literal::size), cpu: self.number(s, "cpu", literal::cpu) }
    }

    /// An app that ignores `$PORT` cannot run twice on a machine.
    fn check_one_copy(&mut self, s: &Section<'_>, service: &Service) {
        if service.fixed_port.is_some() && service.scale.max > 1 {
            let at = match self.locations.contains_key(&s.path("scale.max")) {
                true => s.path("scale.max"),
                false => s.path("scale"),
            };
            let port = self.value_at(&s.path("port"));
            let message = format!("`{}` asks for {} copies of a service with a fixed `port`", at, service.scale.max);
            self.push(
                Diagnostic::new(at.clone(), self.value_at(&at), message)
                    .related(port, "two copies cannot listen here")
                    .hint(Some("listen on $PORT and remove `port`, or run one copy".to_owned())),
            );
        }
    }

    /// gRPC is HTTP/2, which an instance has to be asked in.
    fn check_grpc(&mut self, s: &Section<'_>, service: &Service) {
        if matches!(service.health, Some(Health::Grpc(_))) && service.protocol != Protocol::H2c {
            let at = s.path("health.grpc");
            let message = format!("`{at}` asks over HTTP/2, and the service speaks HTTP/1.1");
            self.push(
                Diagnostic::new(at.clone(), self.value_at(&at), message)
                    .hint(Some(format!("write `protocol = \"h2c\"` in [{}]", s.path("").trim_end_matches('.')))),
            );
        }
    }

    pub(super) fn job(&mut self, s: &Section<'_>) -> Option<Job> {
        let build_of = self.parsed(s, "build_of", literal::name);
        let schedule = self.parsed(s, "schedule", literal::schedule);
        let env = self.variables(s, "env");
        let timeout = self.parsed(s, "timeout", literal::positive).unwrap_or(JOB_TIMEOUT);
        Some(Job { run: self.parsed(s, "run", literal::command)?, build_of, schedule, env, timeout })
    }
}
