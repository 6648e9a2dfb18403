use bowline_core::app::{
    Auth, Cage, Command, GrpcCheck, Health, HttpCheck, Job, Limit, Origin, PlainHttp, Probe, Protocol, RateBy, Route,
    RouteTo, Scale, Service, StaticFiles, Tls,
};
use bowline_core::time::Humane;

use super::{Detail, Writer};
use crate::literal;
use crate::read::JOB_TIMEOUT;
use crate::tree::Data;

impl Writer {
    pub(super) fn service(&mut self, service: &Service) {
        self.origin(&service.origin);
        self.list("packages", &service.packages);
        self.optional("runtime", service.runtime.as_ref());
        self.variables(&service.env);
        if matches!(service.origin, Origin::Static { .. }) {
            // What is left speaks of a process.
            return;
        }
        self.optional("run", service.run.as_ref().map(|c| &c.0));
        self.integer("port", service.fixed_port.map(|port| port.get()));
        self.default("protocol", &service.protocol, &Protocol::Http1, |protocol| {
            Data::Text(match protocol {
                Protocol::Http1 => "http/1.1".to_owned(),
                Protocol::H2c => "h2c".to_owned(),
            })
        });
        match &service.health {
            None => {}
            Some(Health::Grpc(GrpcCheck { service, probe })) => self.inner("health", |w| {
                w.text("grpc", service);
                w.probe(w.detail, *probe);
            }),
            Some(Health::Tcp(probe)) if *probe == Probe::default() && self.brief() => self.text("health", "tcp"),
            Some(Health::Tcp(probe)) => self.inner("health", |w| w.probe(Detail::Full, *probe)),
            Some(Health::Http(check)) => self.inner("health", |w| w.http_check(check)),
        }
        if let Some(alive) = &service.alive {
            self.inner("alive", |w| w.http_check(alive));
        }
        self.duration("drain", service.drain, Service::DRAIN);
        self.scale(service.scale);
        self.inner("limits", |w| {
            w.optional("memory", service.limits.memory);
            if let Some(cpu) = service.limits.cpu {
                w.table.put("cpu", Data::Float(literal::print_cpu(cpu)));
            }
        });
        self.list("writable", &service.writable);
        self.optional("metrics", service.metrics.as_ref());
        self.default("cage", &service.cage, &Cage::Best, |cage| {
            Data::Text(match cage {
                Cage::Best => "best".to_owned(),
                Cage::Required => "required".to_owned(),
            })
        });
    }

    fn brief(&self) -> bool {
        self.detail == Detail::Brief
    }

    fn origin(&mut self, origin: &Origin) {
        match origin {
            Origin::Folder { dir, build } => self.folder(dir, build.as_ref()),
            Origin::BuildOf(service) => self.text("build_of", service),
            Origin::Image(image) => self.text("image", image),
            Origin::Dockerfile { dir, file } => {
                self.folder(dir, None);
                self.text("dockerfile", file);
            }
            Origin::Static { dir, build, files } => {
                self.folder(dir, build.as_ref());
                self.inner("static", |w| {
                    w.text("dir", &files.dir);
                    w.optional("fallback", files.fallback.as_ref());
                    w.duration("cache", files.cache, StaticFiles::CACHE);
                });
            }
        }
    }

    fn folder(&mut self, dir: &str, build: Option<&Command>) {
        self.default("dir", &dir, &".", |dir| Data::Text((*dir).to_owned()));
        self.optional("build", build.map(|c| &c.0));
    }

    fn http_check(&mut self, check: &HttpCheck) {
        self.text("path", &check.path);
        self.probe(self.detail, check.probe);
    }

    fn probe(&mut self, detail: Detail, probe: Probe) {
        let default = Probe::default();
        let mut w = Self::new(detail);
        w.duration("interval", probe.interval, default.interval);
        w.duration("idle_interval", probe.idle_interval, default.idle_interval);
        w.duration("timeout", probe.timeout, default.timeout);
        w.duration("grace", probe.grace, default.grace);
        self.table.0.extend(w.table.0);
    }

    fn scale(&mut self, scale: Scale) {
        let plain = Scale { min: scale.min, max: scale.min, ..Scale::default() };
        if scale == plain {
            self.default("scale", &scale, &Scale::default(), |scale| Data::Integer(scale.min.into()));
            return;
        }
        self.inner("scale", |w| {
            w.integer("min", Some(scale.min));
            w.integer("max", Some(scale.max));
            w.optional("cpu", scale.cpu);
            w.integer("in_flight", scale.in_flight);
        });
    }

    pub(super) fn job(&mut self, job: &Job) {
        self.text("run", &job.run.0);
        self.optional("build_of", job.build_of.as_ref());
        self.optional("schedule", job.schedule.as_ref().map(|s| &s.text));
        self.duration("timeout", job.timeout, JOB_TIMEOUT);
        self.variables(&job.env);
    }

    pub(super) fn route(&mut self, route: &Route) {
        self.list("hosts", &route.hosts);
        self.default("path", &route.path.as_str(), &"/", |path| Data::Text((*path).to_owned()));
        match &route.to {
            RouteTo::Service(service) => {
                self.text("to", service);
                self.boolean("strip", route.strip, false);
            }
            RouteTo::Redirect(url) => self.text("redirect", url),
            RouteTo::Deny => self.table.put("deny", Data::Bool(true)),
        }
        self.default("tls", &route.tls, &Tls::Auto, |tls| {
            Data::Text(match tls {
                Tls::Auto => "auto".to_owned(),
                Tls::Acme => "acme".to_owned(),
                Tls::Local => "local".to_owned(),
                Tls::Off => "off".to_owned(),
            })
        });
        self.transfer(route);
        self.list("allow", &route.access.allow);
        match &route.access.auth {
            None => {}
            Some(Auth::Header { name, secret }) => self.inner("auth", |w| {
                w.text("header", name);
                w.text("secret", secret);
            }),
            Some(Auth::Bearer { secret }) => self.inner("auth", |w| w.secret("bearer", Some(secret))),
            Some(Auth::Basic { secret }) => self.inner("auth", |w| w.secret("basic", Some(secret))),
        }
        self.inner("limit", |w| w.limit(&route.limit));
        self.inner("upload", |w| w.list("extensions", route.upload.iter().flat_map(|u| &u.extensions)));
    }

    fn transfer(&mut self, route: &Route) {
        self.optional(
            "http",
            route.transfer.http.map(|http| match http {
                PlainHttp::Serve => "serve",
                PlainHttp::Redirect => "redirect",
            }),
        );
        self.inner("hsts", |w| {
            let Some(hsts) = route.transfer.hsts else { return };
            w.text("age", Humane(hsts.age));
            w.boolean("subdomains", hsts.subdomains, false);
            w.boolean("preload", hsts.preload, false);
        });
        self.boolean("compress", route.transfer.compress, false);
    }

    fn limit(&mut self, limit: &Limit) {
        let default = Limit::default();
        if let Some(rate) = limit.rate {
            self.text("rate", rate);
            self.default("by", &limit.by, &default.by, |by| {
                Data::Text(match by {
                    RateBy::Client => "client".to_owned(),
                    RateBy::Route => "route".to_owned(),
                })
            });
        }
        self.default("body", &limit.body, &default.body, |body| Data::Text(body.0.to_string()));
        self.duration("timeout", limit.timeout, default.timeout);
        self.duration("idle", limit.idle, default.idle);
    }
}
