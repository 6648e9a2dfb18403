//! An app as a file of Compose: its services with their limits and health, its databases, volumes and networks, secrets by variables.
//!
//! What stands in front of the app is not of it: the ports of services that routes lead to are open on loopback, for a proxy of the machine.

mod database;
mod refused;

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::{App, Health, Limits, LogSink, Origin, Probe, SecretSource, Service, Variables};
use bowline_core::id::{AppKey, ResourceName, SecretName, ServiceName};
use bowline_core::release::{ImageRef, Reference, has_volume, job_variables, variables};
use bowline_core::resource::ResourceId;
use bowline_core::route::routed;
use bowline_core::units::MilliCpu;
use serde_json::{Map, Value, json};

use crate::kubernetes::{Refused, size, words};
use crate::server::{Server, externals, servers};
use crate::told::{Place, Told, told};
use crate::yaml;

/// One app, and what its services run.
#[derive(Debug, Clone, Copy)]
pub struct Composed<'a> {
    pub key: &'a AppKey,
    pub app: &'a App,
    /// By service; of a database by [`ServiceName::of_resource`].
    pub images: &'a BTreeMap<ServiceName, ImageRef>,
    /// The Dockerfile that builds a service, below the folder of the app.
    pub builds: &'a BTreeMap<ServiceName, String>,
    /// The folder of the app, as the file that is written reaches it.
    pub context: &'a str,
    pub scripts: &'a BTreeMap<ResourceId, String>,
}

/// `compose.yaml`, and what goes with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    pub body: Value,
    pub text: String,
    /// Variables that must be set where it is started, each with what it holds.
    pub needs: Vec<String>,
    pub notes: Vec<String>,
}

/// Where files of secrets lie.
const FILES: &str = "/run/secrets";
/// Where an app listens that has no `port`.
const PORT: u16 = 8080;
/// From TERM to KILL, beyond what outstanding requests may take, in seconds.
const END: u64 = 10;
/// In a row, until Docker calls it unhealthy.
const FAILURES: u32 = 3;
/// The services of Compose beside those of the app.
const BEFORE: &str = "release-before";

/// The app as a project of Compose.
///
/// # Errors
/// Keys that Compose does not carry, else services of which nobody says what they run.
pub fn compose(input: &Composed<'_>) -> Result<Project, Refused> {
    let refused = refused::all(input);
    if !refused.is_empty() {
        return Err(Refused::Keys(refused));
    }
    let missing: Vec<ServiceName> =
        input.app.services.keys().filter(|name| runs(input, name).is_none()).cloned().collect();
    if !missing.is_empty() {
        return Err(Refused::Images(missing));
    }
    let mut out = Out::default();
    let mut project = Written { input, servers: servers(input.app), next: 0 };
    let mut services = Map::new();
    for (name, service) in &input.app.services {
        services.insert(name.to_string(), project.service(name, service, &mut out));
    }
    project.jobs(&mut services, &mut out);
    for server in &project.servers {
        services.insert(word(&server.id), database::service(input, server, &mut out));
    }
    beside(input.app, &mut out);
    let body = project.whole(services, &out);
    let text = yaml::print(&body);
    Ok(Project { body, text, needs: out.needs.into_values().collect(), notes: out.notes })
}

/// What is said of keys that are not carried and need not be.
fn beside(app: &App, out: &mut Out) {
    for (name, ca) in externals(app) {
        out.note(format!("{name} is elsewhere: the app verifies it with {ca} itself, nothing of Compose asks it"));
    }
    for (name, route) in app.routes.iter().filter(|(_, route)| route.hosts.is_empty()) {
        let keys = refused::of_proxy(route);
        if !keys.is_empty() {
            out.note(format!(
                "route {name}: what comes by the open port is asked nothing of {}; a proxy in front would",
                keys.join(", ")
            ));
        }
    }
}

/// What is gathered beside the services.
#[derive(Debug, Default)]
struct Out {
    configs: Map<String, Value>,
    secrets: Map<String, Value>,
    volumes: BTreeSet<String>,
    /// By variable.
    needs: BTreeMap<String, String>,
    notes: Vec<String>,
}

impl Out {
    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// A variable of whoever starts the project, as it is asked for in the file.
    fn variable(&mut self, variable: &str, what: &str) -> String {
        self.needs.insert(variable.to_owned(), format!("{variable} must be set: {what}"));
        format!("${{{variable}:?{what}}}")
    }
}

/// `POSTGRES_DB_PASSWORD`
fn held(id: &ResourceId) -> String {
    format!("{}_{}_PASSWORD", id.kind, id.name).replace('-', "_").to_ascii_uppercase()
}

/// Compose writes it into the container as that begins, and refuses to where nothing can be written: a file of the machine it mounts.
fn is_written(app: &App, name: &SecretName) -> bool {
    !matches!(app.secrets.get(name), Some(SecretSource::File(_)))
}

fn variable_of(name: &SecretName) -> String {
    name.as_str().replace('-', "_").to_ascii_uppercase()
}

/// What its service, its volume and its name in the network are called.
fn word(id: &ResourceId) -> String {
    format!("{}-{}", id.kind, id.name)
}

fn asked(id: &ResourceId, out: &mut Out) -> String {
    out.variable(&held(id), &format!("the password of {id}, which stays as it is, openssl rand -hex 32"))
}

/// Text that Compose leaves as it is.
fn plain(text: &str) -> String {
    text.replace('$', "$$")
}

fn plain_words(words: &[String]) -> Vec<String> {
    words.iter().map(|word| plain(word)).collect()
}

/// Its `image`, or its `build`.
fn runs(input: &Composed<'_>, name: &ServiceName) -> Option<(&'static str, Value)> {
    if let Some(image) = input.images.get(name) {
        return Some(("image", json!(image.to_string())));
    }
    let build = |dir: &str, file: &str| {
        let context = if dir == "." { input.context.to_owned() } else { format!("{}/{dir}", input.context) };
        ("build", json!({ "context": plain(&context), "dockerfile": plain(file) }))
    };
    match &input.app.services.get(name)?.origin {
        Origin::BuildOf(of) => runs(input, of),
        Origin::Image(text) => {
            text.parse::<Reference>().ok()?.pinned().map(|image| ("image", json!(image.to_string())))
        }
        Origin::Dockerfile { dir, file } => Some(build(dir, file)),
        Origin::Folder { .. } => input.builds.get(name).map(|file| build(".", file)),
        Origin::Static { .. } => None,
    }
}

/// Names within the project.
struct Here<'a> {
    app: &'a App,
    service: &'a ServiceName,
}

impl Place for Here<'_> {
    fn host(&self, id: &ResourceId) -> String {
        word(id)
    }

    fn service(&self, name: &ServiceName) -> String {
        let port = self.app.services.get(name).map_or(PORT, port);
        format!("http://{name}:{port}")
    }

    fn volume(&self, name: &ResourceName) -> Option<String> {
        mounted(self.app, self.service).into_iter().find(|(known, _)| *known == name).map(|(_, path)| path)
    }
}

fn mounted<'a>(app: &'a App, service: &ServiceName) -> Vec<(&'a ResourceName, String)> {
    let mine = app.volumes.iter().filter(|(name, _)| has_volume(app, service, name));
    mine.map(|(name, volume)| (name, volume.path.clone().unwrap_or_else(|| format!("/volumes/{name}")))).collect()
}

fn port(service: &Service) -> u16 {
    service.fixed_port.map_or(PORT, |port| port.get())
}

struct Written<'a> {
    input: &'a Composed<'a>,
    servers: Vec<Server>,
    /// The first port of the machine that is not taken.
    next: u16,
}

impl Written<'_> {
    fn service(&mut self, name: &ServiceName, service: &Service, out: &mut Out) -> Value {
        let app = self.input.app;
        let is_own = matches!(service.origin, Origin::Folder { .. } | Origin::Dockerfile { .. });
        let command = service.run.as_ref().filter(|_| !is_own).map(|command| words(&command.0));
        let mut body = self.container(name, service, &variables(app, name), command, out);
        body["environment"]["PORT"] = json!(port(service).to_string());
        body["restart"] = json!("unless-stopped");
        body["stop_grace_period"] = json!(format!("{}s", service.drain.as_secs().saturating_add(END)));
        body["deploy"]["replicas"] = json!(service.scale.max);
        if app.release.before.is_some() {
            body["depends_on"][BEFORE] = json!({ "condition": "service_completed_successfully" });
        }
        if routed(app).contains(name) {
            body["ports"] = json!([self.published(port(service), service.scale.max)]);
        }
        if let Some(health) = &service.health {
            body["healthcheck"] = times(health);
            out.note(format!(
                "{name}: Docker asks within the container, by the image's HEALTHCHECK; `health` says how often"
            ));
        }
        if service.alive.is_some() {
            out.note(format!(
                "{name}: Docker starts nothing anew because `alive` fails; what ends by itself is started again"
            ));
        }
        body
    }

    /// On loopback; copies have the ports that follow.
    fn published(&mut self, port: u16, copies: u16) -> String {
        let first = port.max(self.next);
        let last = first.saturating_add(copies.saturating_sub(1));
        self.next = last.saturating_add(1);
        match copies {
            ..=1 => format!("127.0.0.1:{first}:{port}"),
            _ => format!("127.0.0.1:{first}-{last}:{port}"),
        }
    }

    /// What all containers of the app have: they are as confined as it can be said.
    fn container(
        &self,
        name: &ServiceName,
        service: &Service,
        variables: &Variables,
        command: Option<Vec<String>>,
        out: &mut Out,
    ) -> Value {
        let app = self.input.app;
        let mut environment = Map::new();
        let mut files = BTreeSet::new();
        for (volume, path) in mounted(app, name) {
            let variable = volume.as_str().replace('-', "_").to_ascii_uppercase();
            environment.insert(format!("BOWLINE_VOLUME_{variable}"), json!(plain(&path)));
        }
        for (variable, value) in variables {
            let place = Here { app, service: name };
            let Some(told) = told(self.input.key, app, &place, value.clone()) else { continue };
            let value = match told {
                Told::Text(text) => plain(&text),
                Told::Secret(secret) => out.variable(&variable_of(&secret), &format!("secret {secret}")),
                Told::File(secret) => {
                    files.insert(secret.clone());
                    format!("{FILES}/{secret}")
                }
                Told::Password(id) => asked(&id, out),
                Told::Url { before, of, after } => format!("{before}{}{after}", asked(&of, out)),
            };
            environment.insert(variable.to_string(), json!(value));
        }
        let mut body = json!({
            "cap_drop": ["ALL"],
            "read_only": !files.iter().any(|secret| is_written(app, secret)),
            "security_opt": ["no-new-privileges:true"],
            "environment": environment,
            "tmpfs": tmpfs(service),
        });
        runs(self.input, name).into_iter().for_each(|(key, value)| body[key] = value);
        command.iter().for_each(|command| body["entrypoint"] = json!(plain_words(command)));
        self.beside(name, service.limits, &files, &mut body, out);
        body
    }

    /// Its volumes, files, limits, networks and databases.
    fn beside(
        &self,
        name: &ServiceName,
        limits: Limits,
        files: &BTreeSet<SecretName>,
        body: &mut Value,
        out: &mut Out,
    ) {
        let app = self.input.app;
        let volumes: Vec<Value> = mounted(app, name)
            .into_iter()
            .map(|(volume, path)| {
                out.volumes.insert(volume.to_string());
                json!({ "type": "volume", "source": volume.as_str(), "target": plain(&path) })
            })
            .collect();
        if !volumes.is_empty() {
            body["volumes"] = json!(volumes);
        }
        for secret in files {
            let source = self.secret(secret, out);
            out.secrets.insert(secret.to_string(), source);
        }
        if !files.is_empty() {
            body["secrets"] = json!(files.iter().map(SecretName::as_str).collect::<Vec<_>>());
        }
        if let Some(memory) = limits.memory {
            body["deploy"]["resources"]["limits"]["memory"] = json!(size(memory));
        }
        if let Some(MilliCpu(cpu)) = limits.cpu {
            let text = format!("{}.{:03}", cpu / 1000, cpu % 1000);
            body["deploy"]["resources"]["limits"]["cpus"] = json!(text.trim_end_matches('0').trim_end_matches('.'));
        }
        if !self.servers.is_empty() {
            body["networks"] = json!(["front", "back"]);
        }
        for server in &self.servers {
            body["depends_on"][word(&server.id)] = json!({ "condition": "service_healthy" });
        }
        if let Some(LogSink::SyslogTls { host, port }) = &app.logs {
            let options =
                json!({ "syslog-address": format!("tcp+tls://{host}:{port}"), "syslog-format": "rfc5424micro" });
            body["logging"] = json!({ "driver": "syslog", "options": options });
        }
    }

    fn secret(&self, name: &SecretName, out: &mut Out) -> Value {
        match self.input.app.secrets.get(name) {
            Some(SecretSource::File(path)) => json!({ "file": plain(path) }),
            Some(SecretSource::Store { .. } | SecretSource::Aws(_) | SecretSource::Vault(_)) | None => {
                let variable = variable_of(name);
                out.variable(&variable, &format!("secret {name}"));
                json!({ "environment": variable })
            }
        }
    }

    /// What runs once is started by its name alone, but for what comes before a release.
    fn jobs(&self, services: &mut Map<String, Value>, out: &mut Out) {
        let app = self.input.app;
        for (name, job) in &app.jobs {
            let Some(home) = job.build_of.as_ref().or_else(|| app.home()) else { continue };
            let Some(service) = app.services.get(home) else { continue };
            let command = Some(words(&job.run.0));
            let mut body = self.container(home, service, &job_variables(app, name), command, out);
            body["profiles"] = json!(["jobs"]);
            body["restart"] = json!("no");
            out.note(format!(
                "job {name} is run on demand: docker compose run --rm job-{name}; nothing ends it after its `timeout`"
            ));
            services.insert(format!("job-{name}"), body);
        }
        let Some((command, home)) = app.release.before.as_ref().zip(app.home()) else { return };
        let Some(service) = app.services.get(home) else { return };
        let mut body = self.container(home, service, &variables(app, home), Some(words(&command.0)), out);
        body["restart"] = json!("no");
        services.insert(BEFORE.to_owned(), body);
    }

    fn whole(&self, services: Map<String, Value>, out: &Out) -> Value {
        let mut body = json!({ "name": self.input.app.name.as_str(), "services": services });
        if !self.servers.is_empty() {
            // Databases ask nobody, and nobody but the app asks them.
            body["networks"] = json!({ "front": {}, "back": { "internal": true } });
        }
        let volumes: Map<String, Value> = out.volumes.iter().map(|name| (name.clone(), json!({}))).collect();
        for (key, all) in [("configs", &out.configs), ("secrets", &out.secrets), ("volumes", &volumes)] {
            if !all.is_empty() {
                body[key] = json!(all);
            }
        }
        body
    }
}

/// In memory, as all that ends with a container: its files cannot be written to.
fn tmpfs(service: &Service) -> Vec<String> {
    // Of the user that the image has.
    let folder = |path: String| format!("{path}:mode=1777");
    std::iter::once("/tmp".to_owned())
        .chain(service.writable.iter().map(|path| folder(plain(&format!("/app/{path}")))))
        .collect()
}

fn times(health: &Health) -> Value {
    let Probe { interval, idle_interval: _, timeout, grace } = match health {
        Health::Http(check) => check.probe,
        Health::Grpc(check) => check.probe,
        Health::Tcp(probe) => *probe,
    };
    let time = |duration: std::time::Duration| match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    };
    json!({
        "interval": time(interval), "timeout": time(timeout), "retries": FAILURES, "start_period": time(grace),
    })
}
