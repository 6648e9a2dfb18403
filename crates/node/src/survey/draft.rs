//! A `bowline.toml` in the making: the app, why each choice was made, and what is left to a person.

use std::collections::BTreeMap;

use bowline_core::app::{
    App, Command, Delivery, Health, HttpCheck, Limits, Origin, Probe, RouteTo, SecretSource, Service, Value, VarName,
};
use bowline_core::fault::Fault;
use bowline_core::id::{MAX_NAME, ResourceName, SecretName, ServiceName};
use bowline_core::readiness::{SecretKind, Seen, WriteKind};
use bowline_core::units::{Bytes, MilliCpu};

use super::{Survey, secret_in};
use crate::build::Found;

/// What one instance of a small app is content with: where it is not, `bowline status` shows it.
const MEMORY: Bytes = Bytes(512 << 20);
const CPU: MilliCpu = MilliCpu(1000);

/// A file that is not written yet.
#[derive(Debug, Clone)]
pub struct Draft {
    pub app: App,
    /// By key path: what is written above the key.
    pub comments: BTreeMap<String, Vec<String>>,
    /// What was found, and what follows from it.
    pub found: Vec<String>,
    /// What was not translated.
    pub left: Vec<Left>,
    /// To be run before the first `up`.
    pub commands: Vec<String>,
}

/// Something that another tool's file says and the draft does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    pub file: String,
    /// From 1.
    pub line: u32,
    /// `services.web.privileged`
    pub what: String,
    pub todo: String,
}

impl Draft {
    /// From what a folder without a file is taken for.
    pub fn new(app: App) -> Self {
        Self { app, comments: BTreeMap::new(), found: Vec::new(), left: Vec::new(), commands: Vec::new() }
    }

    pub(super) fn comment(&mut self, key: impl Into<String>, text: impl Into<String>) {
        let (lines, text) = (self.comments.entry(key.into()).or_default(), text.into());
        if !lines.contains(&text) {
            lines.push(text);
        }
    }

    /// From a folder without a compose file: what a build finds there, else the command of its Dockerfile.
    pub fn of_folder(base: App, survey: &Survey, found: Result<Found, Fault>) -> Self {
        let mut draft = Self::new(base);
        match (found, survey.dockerfile("Dockerfile").filter(|file| file.command.as_deref().is_some_and(is_writable))) {
            (Ok(found), _) if found.procfile => draft.processes(found),
            (Ok(found), _) => draft.detected(found),
            (Err(_), Some(dockerfile)) => draft.dockerfile(dockerfile),
            (Err(fault), None) => {
                let todo = fault.hint.unwrap_or_else(|| "say what runs with `run`".to_owned());
                draft.leave("bowline.toml", 0, fault.causes.first().cloned().unwrap_or(fault.message), todo);
            }
        }
        draft
    }

    /// What is detected stays unwritten: it is detected again, and follows the code.
    fn detected(&mut self, found: Found) {
        for service in found.services {
            let why = service.why.iter().map(|why| format!("{}: {why}", service.name));
            self.found.extend(why);
        }
    }

    /// The processes of a Procfile, written out.
    fn processes(&mut self, found: Found) {
        let Some(pattern) = self.app.services.values().next().cloned() else { return };
        self.app.services.clear();
        if let Some(release) = found.release {
            self.found.push("Procfile: release → release.before".to_owned());
            self.app.release.before = Some(release);
        }
        for service in found.services {
            self.found.push(format!("Procfile: {0} → service.{0}", service.name));
            if service.build_of.is_none() {
                self.found.extend(service.why.iter().map(|why| format!("{}: {why}", service.name)));
            }
            let origin = service.build_of.map_or_else(|| pattern.origin.clone(), Origin::BuildOf);
            let written = Service { run: service.run, origin, ..pattern.clone() };
            self.app.services.insert(service.name, written);
        }
        let web = ServiceName::new("web").expect("web is a name");
        if !self.app.services.contains_key(&web) {
            self.app.routes.clear();
        }
    }

    fn dockerfile(&mut self, dockerfile: super::Dockerfile) {
        let Some(run) = dockerfile.command else { return };
        self.found.push(format!("Dockerfile: its command is {run} → run"));
        let name = self.app.services.keys().next().cloned();
        let Some(service) = name.as_ref().and_then(|name| self.app.services.get_mut(name)) else { return };
        let port = dockerfile.expose.first().copied();
        let portable = port.map_or(run.clone(), |port| super::compose::with_port(&run, port));
        if portable == run && !run.contains("PORT") {
            service.fixed_port = port.and_then(bowline_core::id::Port::new);
        }
        service.run = Some(command(portable));
        if let Some(name) = name {
            let words = "From the Dockerfile. Nothing is built from it: write `build` if the folder must be built.";
            self.comment(format!("service.{name}.run"), words);
        }
    }

    /// Fills in what the code says about each service: a health path, a port, limits.
    pub fn look_at_code(&mut self, survey: &Survey) {
        let names: Vec<ServiceName> = self.app.services.keys().cloned().collect();
        for name in names {
            let Some(service) = self.app.services.get(&name) else { continue };
            let Some(dir) = self.dir_of(service).map(str::to_owned) else { continue };
            let started = service.run.is_some() || survey.started(&dir).is_some();
            if !started || matches!(service.origin, Origin::Static { .. }) {
                continue;
            }
            let routed = self.app.routes.values().any(|route| route.to == RouteTo::Service(name.clone()));
            if routed {
                self.health(&name, &dir, survey);
                self.port(&name, &dir, survey);
            }
            self.limits(&name);
        }
        self.stored(survey);
    }

    /// The folder whose code a service runs.
    fn dir_of<'s>(&'s self, service: &'s Service) -> Option<&'s str> {
        let service = match &service.origin {
            Origin::BuildOf(other) => self.app.services.get(other)?,
            Origin::Folder { .. } | Origin::Static { .. } | Origin::Dockerfile { .. } | Origin::Image(_) => service,
        };
        match &service.origin {
            Origin::Folder { dir, .. } | Origin::Static { dir, .. } | Origin::Dockerfile { dir, .. } => Some(dir),
            Origin::BuildOf(_) | Origin::Image(_) => None,
        }
    }

    fn health(&mut self, name: &ServiceName, dir: &str, survey: &Survey) {
        let Some(service) = self.app.services.get_mut(name).filter(|service| service.health.is_none()) else { return };
        let found = survey.below(dir).find_map(|s| {
            let Seen::HealthRoute { path } = &s.seen else { return None };
            Some((path.clone(), format!("{}:{}", s.file, s.line)))
        });
        match found {
            Some((path, place)) => {
                self.found.push(format!("{name}: {place} answers {path} → health"));
                service.health = Some(Health::Http(HttpCheck { path, probe: Probe::default() }));
                self.comment(format!("service.{name}.health"), format!("Found in {place}. It gates traffic."));
            }
            None => self.comment(
                format!("service.{name}"),
                "No health route was found: any answer to GET / counts. Better: health = { path = \"/healthz\" }",
            ),
        }
    }

    fn port(&mut self, name: &ServiceName, dir: &str, survey: &Survey) {
        let reads = survey.below(dir).any(|s| s.seen == Seen::ReadsPort);
        let listens = survey.below(dir).find_map(|s| {
            let Seen::ListensOn { port } = s.seen else { return None };
            Some((port, format!("{}:{}", s.file, s.line)))
        });
        let Some(service) = self.app.services.get_mut(name) else { return };
        let command = service.run.as_ref().map(|run| run.0.clone()).or_else(|| survey.started(dir).map(|s| s.command));
        let serves = command.is_some_and(|c| ["gunicorn", "uvicorn", "PORT"].iter().any(|known| c.contains(known)));
        let (Some((port, place)), false) = (listens, reads || serves || service.fixed_port.is_some()) else { return };
        service.fixed_port = bowline_core::id::Port::new(port);
        service.scale.min = 1;
        service.scale.max = 1;
        self.found.push(format!("{name}: {place} listens on {port}, whatever $PORT says → port"));
        self.comment(
            format!("service.{name}.port"),
            format!("{place} listens on it. With $PORT there could be two copies and releases without a gap."),
        );
    }

    fn limits(&mut self, name: &ServiceName) {
        let Some(service) = self.app.services.get_mut(name) else { return };
        if service.limits == Limits::default() {
            service.limits = Limits { memory: Some(MEMORY), cpu: Some(CPU) };
            self.comment(format!("service.{name}.limits"), "A proposal: `bowline status` shows what it takes.");
        }
    }

    /// Data beside the code die with the release.
    fn stored(&mut self, survey: &Survey) {
        let kept = survey.sightings.iter().find_map(|s| {
            let Seen::Writes { kind: WriteKind::Sqlite | WriteKind::Uploads, path } = &s.seen else { return None };
            Some((path.clone(), format!("{}:{}", s.file, s.line)))
        });
        let Some((path, place)) = kept.filter(|_| self.app.volumes.is_empty()) else { return };
        self.left.push(Left {
            file: place.rsplit_once(':').map_or(place.clone(), |(file, _)| file.to_owned()),
            line: place.rsplit_once(':').and_then(|(_, line)| line.parse().ok()).unwrap_or(1),
            what: format!("{path} is written beside the code"),
            todo: "add [volume.data], and write to the folder that $BOWLINE_VOLUME_DATA names".to_owned(),
        });
    }

    /// Sets a variable of a service, or of all. Secrets become references; their values stay where they are.
    pub fn variable(&mut self, service: Option<&ServiceName>, name: &str, value: &str) {
        let Ok(variable) = VarName::new(name) else { return };
        let value = match secret_in(name, value) {
            Some((kind, _)) => self.secret(name, kind),
            None => Value::Text(value.to_owned()),
        };
        self.put(service, variable, value);
    }

    pub(super) fn put(&mut self, service: Option<&ServiceName>, name: VarName, value: Value) {
        let variables = match service {
            Some(service) => self.app.services.get_mut(service).map(|service| &mut service.env),
            None => Some(&mut self.app.env),
        };
        if let Some(variables) = variables {
            variables.insert(name, value);
        }
    }

    /// A secret named after a variable. What only the app itself must know is made by Bowline.
    pub(super) fn secret(&mut self, variable: &str, kind: SecretKind) -> Value {
        let name = SecretName::new(&name_of(variable, "secret")).expect("made of what names are made of");
        let own = ["SECRET_KEY", "SECRET_KEY_BASE", "SESSION_SECRET", "JWT_SECRET", "COOKIE_SECRET", "APP_SECRET"];
        let generate = own.contains(&variable) || kind == SecretKind::SessionKey;
        if !self.app.secrets.contains_key(&name) {
            let key = format!("secret.{name}");
            match generate {
                true => self.comment(key, format!("{variable}: only the app must know it, so it is made once.")),
                false => {
                    let command = format!("bowline secret set {} {name}", self.app.name);
                    self.comment(key, format!("{variable}: `{command}` sets it."));
                    self.commands.push(command);
                }
            }
            self.app.secrets.insert(name.clone(), SecretSource::Store { generate });
        }
        Value::Secret { name, delivery: Delivery::Environment }
    }

    pub(super) fn leave(&mut self, file: &str, line: u32, what: impl Into<String>, todo: impl Into<String>) {
        self.left.push(Left { file: file.to_owned(), line, what: what.into(), todo: todo.into() });
    }
}

/// Somebody else's name as one of ours: `My_API` → `my-api`.
pub(super) fn name_of(text: &str, otherwise: &str) -> String {
    let plain = text.chars().map(|c| c.to_ascii_lowercase());
    let plain: String = plain.map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let joined = plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let start = joined.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let cut: String = start.chars().take(MAX_NAME).collect();
    match cut.trim_end_matches('-') {
        "" => otherwise.to_owned(),
        name => name.to_owned(),
    }
}

pub(super) fn service_name(text: &str) -> ServiceName {
    ServiceName::new(&name_of(text, "service")).expect("made of what names are made of")
}

pub(super) fn resource_name(text: &str) -> ResourceName {
    ResourceName::new(&name_of(text, "data")).expect("made of what names are made of")
}

/// Whether the grammar takes it as a command.
pub(super) fn is_writable(command: &str) -> bool {
    !command.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
}

pub(super) fn command(text: impl Into<String>) -> Command {
    Command(text.into())
}
