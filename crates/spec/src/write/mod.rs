//! From the app to the tree that reads as the same app. TOML text and canonical JSON are two spellings of it.

mod json;
mod resource;
mod service;
mod toml;

pub(crate) use json::json;
pub(crate) use toml::toml;

use std::fmt::Display;
use std::time::Duration;

use bowline_core::app::{App, Delivery, HostName, Rollouts, Strategy, Value, Variables};
use bowline_core::id::SecretName;
use bowline_core::time::Humane;

use crate::literal;
use crate::read::LOCAL;
use crate::tree::{Data, Node, Table};

/// Whether values that are the defaults are written too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What is stored: a later version with other defaults reads the same app.
    Full,
    /// What people read.
    Brief,
}

/// A table that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    table: Table,
    detail: Detail,
}

impl Writer {
    fn new(detail: Detail) -> Self {
        Self { table: Table::default(), detail }
    }

    /// A table within this one, if anything is in it.
    fn inner(&mut self, key: &str, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::new(self.detail);
        write(&mut inner);
        if !inner.table.0.is_empty() {
            self.table.put(key, Data::Table(inner.table));
        }
    }

    /// The tables `[key.NAME]`; `empty` says whether the key is written without any.
    fn named<N: Display, T>(
        &mut self,
        key: &str,
        tables: impl IntoIterator<Item = (N, T)>,
        empty: bool,
        write: impl Fn(&mut Self, T),
    ) {
        let mut all = Table::default();
        for (name, value) in tables {
            let mut inner = Self::new(self.detail);
            write(&mut inner, value);
            all.put(name.to_string(), Data::Table(inner.table));
        }
        if empty || !all.0.is_empty() {
            self.table.put(key, Data::Table(all));
        }
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.table.put(key, Data::Text(value.to_string()));
    }

    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// Left out when it is the default and only people read.
    fn default<T: PartialEq>(&mut self, key: &str, value: &T, default: &T, data: impl FnOnce(&T) -> Data) {
        if self.detail == Detail::Full || value != default {
            self.table.put(key, data(value));
        }
    }

    fn duration(&mut self, key: &str, value: Duration, default: Duration) {
        self.default(key, &value, &default, |d| Data::Text(Humane(*d).to_string()));
    }

    fn integer(&mut self, key: &str, value: Option<impl Into<i128>>) {
        if let Some(value) = value {
            self.table.put(key, Data::Integer(value.into()));
        }
    }

    fn boolean(&mut self, key: &str, value: bool, default: bool) {
        self.default(key, &value, &default, |b| Data::Bool(*b));
    }

    /// Left out when it is empty.
    fn list<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let items: Vec<Node> = values.into_iter().map(|v| node(Data::Text(v.to_string()))).collect();
        if !items.is_empty() {
            self.table.put(key, Data::List(items));
        }
    }

    fn secret(&mut self, key: &str, name: Option<&SecretName>) {
        if let Some(name) = name {
            self.inner(key, |w| w.text("secret", name));
        }
    }

    fn variables(&mut self, variables: &Variables) {
        self.inner("env", |w| {
            for (name, value) in variables {
                match value {
                    Value::Text(text) => w.text(name.as_str(), text),
                    Value::From(reference) => {
                        w.inner(name.as_str(), |w| w.text("from", literal::print_reference(reference)));
                    }
                    Value::Secret { name: secret, delivery } => w.inner(name.as_str(), |w| {
                        w.text("secret", secret);
                        w.default("as", delivery, &Delivery::Environment, |delivery| {
                            Data::Text(match delivery {
                                Delivery::Environment => "env".to_owned(),
                                Delivery::File => "file".to_owned(),
                            })
                        });
                    }),
                }
            }
        });
    }
}

fn node(data: Data) -> Node {
    Node { span: 0..0, data }
}

/// The whole file of one environment.
pub(crate) fn app(app: &App, detail: Detail) -> Table {
    let mut w = Writer::new(detail);
    w.text("app", &app.name);
    w.named("service", &app.services, true, |w, service| w.service(service));
    w.variables(&app.env);
    w.named("secret", &app.secrets, false, |w, source| w.secret_source(source));
    w.named("job", &app.jobs, false, |w, job| w.job(job));
    w.inner("release", |w| {
        w.optional("before", app.release.before.as_ref().map(|c| &c.0));
        w.list("snapshot", &app.release.snapshot);
    });
    w.databases(app);
    w.named("redis", &app.redis, false, |w, redis| w.redis(redis));
    w.named("volume", &app.volumes, false, |w, volume| w.volume(volume));
    w.named("bucket", &app.buckets, false, |w, bucket| w.bucket(bucket));
    w.named("route", &app.routes, true, |w, route| w.route(route));
    w.rollout(app);
    w.inner("slo", |w| {
        let Some(slo) = &app.slo else { return };
        w.optional("availability", slo.availability);
        w.optional("latency", slo.latency.as_ref().map(literal::print_latency_objective));
        w.secret("notify", slo.notify.as_ref());
    });
    if app.slo.is_some() && w.table.get("slo").is_none() {
        w.table.put("slo", Data::Table(Table::default()));
    }
    w.inner("image", |w| {
        let Some(image) = &app.image else { return };
        w.text("push", &image.push);
        w.secret("login", image.login.as_ref());
    });
    w.inner("logs", |w| w.optional("to", app.logs.as_ref().map(literal::print_log_sink)));
    w.environment(app);
    w.table
}

impl Writer {
    fn rollout(&mut self, app: &App) {
        let rollout = &app.rollout;
        self.inner("rollout", |w| {
            let (name, steps) = match &rollout.strategy {
                Strategy::Rolling => ("rolling", None),
                Strategy::Canary { steps } => ("canary", Some(steps)),
                Strategy::BlueGreen => ("blue-green", None),
            };
            w.default("strategy", &name, &"rolling", |name| Data::Text((*name).to_owned()));
            w.list("steps", steps.into_iter().flatten().map(literal::print_step));
            w.list("abort", rollout.abort.iter().map(literal::print_abort_rule));
            w.duration("watch", rollout.watch, rollout.strategy.watch());
        });
    }

    fn environment(&mut self, app: &App) {
        let environment = &app.environment;
        let detail = self.detail;
        let mut own = Self::new(detail);
        own.boolean("protected", environment.protected, false);
        own.optional("id", environment.id);
        own.optional("server", environment.server.as_ref().map(literal::print_target));
        if let Some(settings) = &environment.kubernetes {
            let mut w = Self::new(detail);
            w.optional("ingress_class", settings.ingress_class.as_ref());
            w.optional("gateway", settings.gateway.as_ref());
            w.optional("issuer", settings.issuer.as_ref());
            w.optional("address", settings.address.as_ref());
            w.optional("storage_class", settings.storage_class.as_ref());
            w.optional("node_pool", settings.node_pool.as_ref());
            w.optional("secret_store", settings.secret_store.as_ref());
            w.optional("rollouts", settings.rollouts.map(|Rollouts::Argo| "argo"));
            own.table.put("kubernetes", Data::Table(w.table));
        }
        if own.table.0.is_empty() {
            return;
        }
        let mut environments = Table::default();
        environments.put(environment.name.as_str(), Data::Table(own.table));
        self.table.put("environment", Data::Table(environments));
    }
}

/// For `local`, moves the hosts of the routes to where the file has them: in the environment's own table.
pub(crate) fn local_hosts_to_overrides(app: &App, table: &mut Table) {
    if app.environment.name.as_str() != LOCAL {
        return;
    }
    let mut routes = Table::default();
    for (name, route) in app.routes.iter().filter(|(_, route)| !route.hosts.is_empty()) {
        let mut w = Writer::new(Detail::Brief);
        w.list("hosts", route.hosts.iter().map(HostName::as_str));
        routes.put(name.as_str(), Data::Table(w.table));
        if let Some(written) = table_mut(table, "route").and_then(|routes| table_mut(routes, name.as_str())) {
            written.0.remove("hosts");
        }
    }
    if routes.0.is_empty() {
        return;
    }
    if table.get("environment").is_none() {
        table.put("environment", Data::Table(Table::default()));
    }
    let Some(environments) = table_mut(table, "environment") else { return };
    if environments.get(LOCAL).is_none() {
        environments.put(LOCAL, Data::Table(Table::default()));
    }
    if let Some(local) = table_mut(environments, LOCAL) {
        local.put("route", Data::Table(routes));
    }
}

fn table_mut<'t>(table: &'t mut Table, key: &str) -> Option<&'t mut Table> {
    match &mut table.0.get_mut(key)?.node.data {
        Data::Table(inner) => Some(inner),
        Data::Text(_) | Data::Integer(_) | Data::Float(_) | Data::Bool(_) | Data::Date | Data::List(_) => None,
    }
}
