//! The app as it was built: what the file left to detection is written down, so that nobody asks for it again.

use std::collections::BTreeMap;

use super::Shape;
use crate::app::{App, Cage, Command, Limits, Origin, Protocol, Scale, Service, StaticFiles, Value};
use crate::fault::{Fault, FaultKind};
use crate::id::ServiceName;

/// A folder of static files whose file speaks of a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service {service} is static files, which have no process")]
pub struct NoProcess {
    pub service: ServiceName,
    /// The keys that only a process can keep: `scale`, `health`.
    pub keys: Vec<&'static str>,
}

impl From<NoProcess> for Fault {
    fn from(error: NoProcess) -> Self {
        let name = &error.service;
        let keys: Vec<String> = error.keys.iter().map(|key| format!("service.{name}.{key}")).collect();
        Self::new(FaultKind::Invalid, error.to_string())
            .caused_by(format!(
                "the folder was found to be a site and has no `run`, but the file says {}",
                keys.join(", ")
            ))
            .hint(format!("write [service.{name}] run = \"…\", or take the keys out"))
    }
}

/// `app` with the services that the build found to be static files said to be that. `shapes`: what it found of each.
///
/// # Errors
/// A service of those for which the file asks for what only a process has.
pub fn settle(app: &App, shapes: &BTreeMap<ServiceName, Shape>) -> Result<App, NoProcess> {
    let mut settled = app.clone();
    for (name, service) in &mut settled.services {
        let Some(Shape::Files { fallback }) = shapes.get(name) else { continue };
        let Some((dir, build)) = folder(app, &service.origin) else { continue };
        let keys = process_keys(service);
        if !keys.is_empty() {
            return Err(NoProcess { service: name.clone(), keys });
        }
        let files = StaticFiles { dir: ".".to_owned(), fallback: fallback.clone(), cache: StaticFiles::CACHE };
        service.origin = Origin::Static { dir, build, files };
    }
    Ok(settled)
}

/// The folder that is built for an origin. `None` for what says itself what it is.
fn folder<'a>(app: &'a App, mut origin: &'a Origin) -> Option<(String, Option<Command>)> {
    for _ in 0..=app.services.len() {
        match origin {
            Origin::Folder { dir, build } => return Some((dir.clone(), build.clone())),
            Origin::BuildOf(other) => origin = &app.services.get(other)?.origin,
            Origin::Static { .. } | Origin::Image(_) | Origin::Dockerfile { .. } => return None,
        }
    }
    None
}

fn process_keys(service: &Service) -> Vec<&'static str> {
    let said = [
        ("run", service.run.is_some()),
        ("port", service.fixed_port.is_some()),
        ("protocol", service.protocol != Protocol::default()),
        ("health", service.health.is_some()),
        ("alive", service.alive.is_some()),
        ("drain", service.drain != Service::DRAIN),
        ("scale", service.scale != Scale::default()),
        ("limits", service.limits != Limits::default()),
        ("writable", !service.writable.is_empty()),
        ("metrics", service.metrics.is_some()),
        ("cage", service.cage != Cage::default()),
        // A build is given text; all else only a process can be given.
        ("env", service.env.values().any(|value| !matches!(value, Value::Text(_)))),
    ];
    said.into_iter().filter_map(|(key, said)| said.then_some(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Reference, VarName, sample};

    fn name(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    /// `service: files` or `service: process`, after a build that found those of `files` to be static.
    fn check(app: &App, files: &[&str], expected: Result<&[&str], &[&'static str]>) {
        let found = |service: &ServiceName| match files.contains(&service.as_str()) {
            true => Shape::Files { fallback: None },
            false => Shape::Process,
        };
        let shapes = app.services.keys().map(|service| (service.clone(), found(service))).collect();
        let kinds = settle(app, &shapes).map(|app| {
            let kind = |service: &Service| matches!(service.origin, Origin::Static { .. });
            app.services
                .iter()
                .map(|(name, s)| format!("{name}: {}", if kind(s) { "files" } else { "process" }))
                .collect()
        });
        let expected: Result<Vec<String>, _> = expected.map(|kinds| kinds.iter().map(ToString::to_string).collect());
        assert_eq!(kinds.map_err(|error| error.keys), expected.map_err(<[_]>::to_vec));
    }

    #[test]
    fn what_was_found_to_be_files_is_said_to_be_files() {
        let mut app = sample::app("site", &["api", "docs", "web"]);
        check(&app, &[], Ok(&["api: process", "docs: process", "web: process"]));
        check(&app, &["web"], Ok(&["api: process", "docs: process", "web: files"]));
        app.services.get_mut(&name("docs")).unwrap().origin = Origin::BuildOf(name("web"));
        check(&app, &["docs", "web"], Ok(&["api: process", "docs: files", "web: files"]));
    }

    /// Gives `web` a variable that stands for something else.
    fn web_name(app: &mut App) {
        let web = app.services.get_mut(&name("web")).unwrap();
        web.env.insert(VarName::new("NAME").unwrap(), Value::From(Reference::AppName));
    }

    #[test]
    fn keys_of_a_process_are_refused_for_files() {
        let mut app = sample::app("site", &["web"]);
        let web = app.services.get_mut(&name("web")).unwrap();
        web.scale = Scale { min: 2, max: 2, ..Scale::default() };
        web.fixed_port = crate::id::Port::new(80);
        check(&app, &[], Ok(&["web: process"]));
        check(&app, &["web"], Err(&["port", "scale"]));
        let web = app.services.get_mut(&name("web")).unwrap();
        (web.scale, web.fixed_port, web.cage) = (Scale::default(), None, Cage::Required);
        web.env.insert(VarName::new("TITLE").unwrap(), Value::Text("Shop".into()));
        check(&app, &["web"], Err(&["cage"]));
        let web = app.services.get_mut(&name("web")).unwrap();
        web.cage = Cage::Best;
        check(&app, &["web"], Ok(&["web: files"]));
        web_name(&mut app);
        check(&app, &["web"], Err(&["env"]));
    }
}
