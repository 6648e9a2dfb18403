//! Variables: those that say where a database is become references, secrets become secrets, the rest is written.

use std::collections::BTreeMap;

use bowline_core::app::{Reference, ReferenceField, RouteTo, Value, VarName, VarNameError};
use bowline_core::id::ServiceName;

use super::Translation;
use super::interpolate::interpolate;
use super::resources::{Kind, Resource};
use super::yaml::{Data, Node};
use crate::survey::{is_secret_name, secret_in};

/// Text and line of each variable.
type Given = BTreeMap<String, (String, u32)>;

impl Translation<'_> {
    /// What `env_file` and `environment` give a service; the latter wins.
    pub(super) fn variables_given(&self, _service: &str, node: &Node) -> Given {
        let mut all = Given::new();
        for item in node.get("env_file").map(Node::items).unwrap_or_default() {
            let path = item.text().or_else(|| item.get("path")?.text()).unwrap_or("").trim_start_matches("./");
            let given = self.input.env_files.get(path);
            all.extend(given.into_iter().flatten().map(|(name, text)| (name.clone(), (text.clone(), item.line))));
        }
        let Some(environment) = node.get("environment") else { return all };
        for (name, text, line) in pairs(environment) {
            let text = match text {
                Some(text) => interpolate(&text, self.input.variables).text,
                // Passed through from the shell.
                None => self.input.variables.get(&name).cloned().unwrap_or_default(),
            };
            all.insert(name, (text, line));
        }
        all
    }

    pub(super) fn variables_of(&mut self, service: &str, node: &Node) {
        let Some((name, _)) = self.services.get(service).cloned() else { return };
        for item in node.get("env_file").map(Node::items).unwrap_or_default() {
            let path = item.text().or_else(|| item.get("path")?.text()).unwrap_or("").trim_start_matches("./");
            if !self.input.env_files.contains_key(path) {
                self.leave(
                    item,
                    format!("services.{service}.env_file: {path}"),
                    "it cannot be read: write its variables into [env]",
                );
            }
        }
        let missing = self.missing(node);
        for (variable, (text, line)) in self.variables_given(service, node) {
            let what = format!("services.{service}.environment.{variable}");
            let key = match VarName::new(&variable) {
                Ok(key) => key,
                // Bowline gives it to every instance.
                Err(VarNameError::Reserved(_)) => continue,
                Err(VarNameError::Form) => {
                    self.draft.leave(self.input.file, line, what, "a variable is made of letters, digits and '_'");
                    continue;
                }
            };
            if missing.contains(&variable) {
                if is_secret_name(&variable) {
                    let value = self.draft.secret(&variable, bowline_core::readiness::SecretKind::Token);
                    self.draft.put(Some(&name), key, value);
                } else {
                    self.draft.leave(
                        self.input.file,
                        line,
                        what,
                        "it has no value here: write one into the service's env",
                    );
                }
                continue;
            }
            match self.reference(&variable, &text) {
                Some(value) => {
                    self.say_dialect(&variable, &text, line, &what);
                    self.draft.put(Some(&name), key, value);
                }
                None => {
                    self.say_host(&text, line, &what);
                    match secret_in(&variable, &text) {
                        Some((kind, _)) => {
                            let value = self.draft.secret(&variable, kind);
                            self.draft.put(Some(&name), key, value);
                        }
                        None => self.draft.put(Some(&name), key, Value::Text(text)),
                    }
                }
            }
        }
    }

    /// Variables of `environment` that ask for others without a value.
    fn missing(&self, node: &Node) -> Vec<String> {
        let Some(environment) = node.get("environment") else { return Vec::new() };
        let asks = |text: Option<&String>, name: &String| match text {
            Some(text) => !interpolate(text, self.input.variables).missing.is_empty(),
            None => !self.input.variables.contains_key(name),
        };
        let pairs = pairs(environment).into_iter();
        pairs.filter(|(name, text, _)| asks(text.as_ref(), name)).map(|(name, _, _)| name).collect()
    }

    /// The part of a database, or the service, that a value names.
    fn reference(&self, variable: &str, text: &str) -> Option<Value> {
        if let Some((host, has_path)) = url_host(text) {
            if let Some(resource) = self.resources.get(host) {
                return is_url_of(resource.kind, text).then(|| resource.value(ReferenceField::Url));
            }
            let (service, _) = self.services.get(host)?;
            let routed = self.draft.app.routes.values().any(|route| route.to == RouteTo::Service(service.clone()));
            return (routed && !has_path).then(|| Value::From(Reference::ServiceUrl(ServiceName::clone(service))));
        }
        if let Some(resource) = self.resources.get(text) {
            return Some(resource.value(ReferenceField::Host));
        }
        let mut found =
            self.resources.values().filter_map(|resource| Some(resource.value(field(resource, variable, text)?)));
        // Two databases with the same password: nothing says which is meant.
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// `postgresql+asyncpg://`: the driver in a URL's scheme is not what a reference gives.
    fn say_dialect(&mut self, variable: &str, text: &str, line: u32, what: &str) {
        let Some(scheme) = text.split("://").next().filter(|s| s.contains('+') && text.contains("://")) else { return };
        let todo = format!("{variable} is now a plain URL, without the driver of {scheme}: name it in the code");
        self.draft.leave(self.input.file, line, what, todo);
    }

    /// A host of the file's network in a value that is kept as it is.
    fn say_host(&mut self, text: &str, line: u32, what: &str) {
        let host =
            url_host(text).map(|(host, _)| host).or_else(|| text.split_once(':').map(|(host, _)| host)).unwrap_or(text);
        let todo = match (self.resources.get(host), self.services.get(host)) {
            (Some(_), _) => {
                "give it as { from = … } with the parts it is made of: url, host, port, user, password, database"
            }
            (None, Some(_)) => {
                "services reach each other by a route: give that one a route, and { from = \"service.NAME.url\" }"
            }
            (None, None) => return,
        };
        self.draft.leave(self.input.file, line, what, todo);
    }
}

/// `NAME: value` or `- NAME=value`; without a value it comes from the shell.
fn pairs(environment: &Node) -> Vec<(String, Option<String>, u32)> {
    let of_map =
        environment.entries().iter().map(|(name, node)| (name.clone(), node.text().map(str::to_owned), node.line));
    let of_list = match &environment.data {
        Data::List(items) => items.as_slice(),
        Data::Null | Data::Text(_) | Data::Map(_) => &[],
    };
    let of_list = of_list.iter().filter_map(|item| {
        let text = item.text()?;
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
        Some((name.trim().to_owned(), value, item.line))
    });
    of_map.chain(of_list).collect()
}

/// The host of a URL, and whether anything follows it and its port.
fn url_host(text: &str) -> Option<(&str, bool)> {
    let (_, rest) = text.split_once("://")?;
    let (authority, path) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    Some((host.split(':').next().unwrap_or(host), !path.is_empty()))
}

fn is_url_of(kind: Kind, text: &str) -> bool {
    let scheme = text.split("://").next().unwrap_or("");
    let scheme = scheme.split('+').next().unwrap_or(scheme);
    match kind {
        Kind::Postgres => matches!(scheme, "postgres" | "postgresql" | "postgis" | "psql"),
        Kind::MariaDb => matches!(scheme, "mysql" | "mariadb" | "mysql2"),
        Kind::Redis => matches!(scheme, "redis" | "rediss"),
    }
}

/// Which part of a database a variable is, by its name and its text.
fn field(resource: &Resource, variable: &str, text: &str) -> Option<ReferenceField> {
    let name = variable.to_ascii_uppercase();
    let hints: &[&str] = match resource.kind {
        Kind::Postgres => &["POSTGRES", "PG", "DB", "DATABASE", "SQL"],
        Kind::MariaDb => &["MYSQL", "MARIADB", "DB", "DATABASE", "SQL"],
        Kind::Redis => &["REDIS", "CACHE", "BROKER", "QUEUE"],
    };
    if !hints.iter().any(|hint| name.contains(hint)) {
        return None;
    }
    let is = |value: &Option<String>| value.as_deref() == Some(text);
    match () {
        () if name.ends_with("PORT") && text == resource.kind.port().to_string() => Some(ReferenceField::Port),
        () if (name.ends_with("PASSWORD") || name.ends_with("PASS")) && is(&resource.password) => {
            Some(ReferenceField::Password)
        }
        () if resource.kind == Kind::Redis => None,
        () if (name.ends_with("USER") || name.ends_with("USERNAME"))
            && (is(&resource.user) || resource.user.is_none()) =>
        {
            Some(ReferenceField::User)
        }
        () if ["DB", "DATABASE", "NAME"].iter().any(|end| name.ends_with(end)) && is(&resource.database) => {
            Some(ReferenceField::Database)
        }
        () => None,
    }
}
