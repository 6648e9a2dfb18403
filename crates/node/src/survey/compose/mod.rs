//! `compose.yaml` as an app: services, databases, volumes, ports and variables. What Bowline has no word for is named,
//! with what to do instead; nothing is dropped in silence. Follows the Compose specification.

mod interpolate;
mod resources;
mod services;
mod variables;
mod yaml;

use std::collections::BTreeMap;

use bowline_core::app::{App, Route, Service};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppName, MAX_NAME, ServiceName};

use super::Survey;
use super::draft::{Draft, name_of, service_name};
use interpolate::interpolate;
use resources::Resource;
pub(super) use services::with_port;
use yaml::Node;
pub use yaml::YamlError;

/// In the order in which docker looks for them.
pub const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// What a translation is made from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What errors call it, below the folder.
    pub file: &'a str,
    pub text: &'a str,
    pub survey: &'a Survey,
    /// The `.env` beside it, for `${NAME}`.
    pub variables: &'a BTreeMap<String, String>,
    /// Files of variables, by their paths below the folder, as `env_file` names them.
    pub env_files: &'a BTreeMap<String, BTreeMap<String, String>>,
}

/// The files of variables that a compose file names: to be read before it is translated.
pub fn env_files(text: &str) -> Vec<String> {
    let Ok(root) = yaml::parse(text) else { return Vec::new() };
    let services = root.get("services").map(Node::entries).unwrap_or_default();
    let named = services.iter().filter_map(|(_, service)| service.get("env_file")).flat_map(Node::items);
    let paths = named.filter_map(|item| item.text().or_else(|| item.get("path")?.text()));
    paths.map(|path| path.trim_start_matches("./").to_owned()).collect()
}

/// The app that a compose file describes.
///
/// # Errors
/// It is no YAML, too large, or has no services that Bowline could run.
pub fn translate(input: Input<'_>, base: App) -> Result<Draft, Fault> {
    let refused = |why: String| {
        Fault::new(FaultKind::Invalid, format!("{} cannot be translated", input.file))
            .caused_by(why)
            .hint("mend it, or move it aside: then the folder itself is looked at")
    };
    let root = yaml::parse(input.text).map_err(|error| refused(error.to_string()))?;
    let services = root.get("services").map(Node::entries).unwrap_or_default();
    if services.is_empty() {
        return Err(refused("it has no services".to_owned()));
    }
    let mut translation = Translation::new(input, base);
    translation.top(&root);
    for (name, node) in services {
        translation.resource(name, node);
    }
    for (name, node) in services {
        translation.service(name, node);
    }
    for (name, node) in services {
        translation.variables_of(name, node);
    }
    let mut draft = translation.finish();
    if draft.app.services.is_empty() {
        return Err(refused("none of its services has code in this folder".to_owned()));
    }
    draft.found.sort();
    draft.found.dedup();
    draft.left.sort();
    draft.left.dedup();
    Ok(draft)
}

struct Translation<'a> {
    input: Input<'a>,
    draft: Draft,
    /// Services that became databases, by their names in the file.
    resources: BTreeMap<String, Resource>,
    /// Services that are the app's own, with the port that they listen on.
    services: BTreeMap<String, (ServiceName, Option<u16>)>,
    /// The route of a folder without a file, as a pattern for others.
    route: Option<Route>,
}

impl<'a> Translation<'a> {
    fn new(input: Input<'a>, mut base: App) -> Self {
        base.services.clear();
        let route = std::mem::take(&mut base.routes).into_values().next();
        let (resources, services) = (BTreeMap::new(), BTreeMap::new());
        Self { input, draft: Draft::new(base), resources, services, route }
    }

    fn leave(&mut self, node: &Node, what: impl Into<String>, todo: impl Into<String>) {
        self.draft.leave(self.input.file, node.line, what, todo);
    }

    /// A value with its variables filled in; those without a value are named once.
    fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        let done = interpolate(node.text()?, self.input.variables);
        for name in &done.missing {
            self.leave(
                node,
                format!("{what}: ${name}"),
                format!("it has no value here: write it, or set {name} in .env"),
            );
        }
        Some(done.text)
    }

    fn top(&mut self, root: &Node) {
        for (key, node) in root.entries() {
            match key.as_str() {
                "services" | "version" | "networks" => {}
                "volumes" => self.external_volumes(node),
                "name" => {
                    if let Some(name) = node.text().and_then(|text| AppName::new(&name_of(text, "app")).ok()) {
                        self.draft.app.name = name;
                    }
                }
                "secrets" | "configs" => self.leave(
                    node,
                    key,
                    "give each as a variable: NAME = { secret = \"name\", as = \"file\" } holds the path of a file",
                ),
                "include" => self.leave(node, key, "run init on what it includes, and put the tables together"),
                extension if extension.starts_with("x-") => {}
                _ => self.leave(node, key, "Bowline has no such thing"),
            }
        }
    }

    fn external_volumes(&mut self, volumes: &Node) {
        for (name, node) in volumes.entries() {
            let external = node.get("external").and_then(Node::text) == Some("true");
            if external || node.get("driver_opts").is_some() {
                let todo = format!("it lies outside: copy its files into the volume {} once", name_of(name, "data"));
                self.leave(node, format!("volumes.{name}"), todo);
            }
        }
    }

    fn finish(mut self) -> Draft {
        let apps: Vec<&ServiceName> = self.services.values().map(|(name, _)| name).collect();
        let said = apps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.draft.found.push(format!("{}: services {said}", self.input.file));
        self.draft
    }
}

/// The name of a service of the app, told from those that other names became already: `a_b` and `a-b` are two.
fn unique(name: &str, taken: &BTreeMap<ServiceName, Service>) -> ServiceName {
    let numbered = (2..).map(|n: u32| {
        let short: String = name_of(name, "service").chars().take(MAX_NAME - 6).collect();
        service_name(&format!("{short}-{n}"))
    });
    let mut names = std::iter::once(service_name(name)).chain(numbered);
    names.find(|name| !taken.contains_key(name)).expect("there are more numbers than services")
}

#[cfg(test)]
mod tests;
