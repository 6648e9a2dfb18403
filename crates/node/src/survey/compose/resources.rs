//! Images of databases become resources.

use bowline_core::app::{Database, DatabaseKind, DatabaseSource, Redis, RedisSource, Reference, ReferenceField, Value};
use bowline_core::id::ResourceName;

use super::Translation;
use super::yaml::Node;
use crate::survey::draft::resource_name;

/// A service of the file that Bowline runs as a resource.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub kind: Kind,
    pub name: ResourceName,
    /// What the file gives it: to be recognised in other services' variables.
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    MariaDb,
    Redis,
}

impl Kind {
    /// Of an image, by the last part of its name.
    fn of(image: &str) -> Option<Self> {
        let name = image.rsplit('/').next().unwrap_or(image);
        match name.split([':', '@']).next().unwrap_or(name) {
            "postgres" | "postgresql" | "postgis" | "pgvector" | "timescaledb" => Some(Self::Postgres),
            "mariadb" | "mysql" | "mysql-server" => Some(Self::MariaDb),
            "redis" | "valkey" | "redis-stack-server" => Some(Self::Redis),
            _ => None,
        }
    }

    pub(super) fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MariaDb => 3306,
            Self::Redis => 6379,
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::Redis => "redis",
        }
    }
}

impl Resource {
    pub(super) fn value(&self, field: ReferenceField) -> Value {
        Value::From(match self.kind {
            Kind::Postgres => Reference::Database(DatabaseKind::Postgres, self.name.clone(), field),
            Kind::MariaDb => Reference::Database(DatabaseKind::MariaDb, self.name.clone(), field),
            Kind::Redis => Reference::Redis(self.name.clone(), field),
        })
    }
}

impl Translation<'_> {
    /// Takes a service whose image is a database's.
    pub(super) fn resource(&mut self, service: &str, node: &Node) {
        let what = format!("services.{service}");
        let Some(image) = node.get("image").and_then(|node| self.text(node, &what)) else { return };
        let Some(kind) = Kind::of(&image).filter(|_| node.get("build").is_none()) else { return };
        let name = resource_name(service);
        let key = format!("{}.{name}", kind.table());
        let given = |names: &[&str]| {
            let all = self.variables_given(service, node);
            names.iter().find_map(|name| all.iter().find(|(n, _)| n == name).map(|(_, (text, _))| text.clone()))
        };
        let user = given(&["POSTGRES_USER", "MYSQL_USER", "MARIADB_USER"]);
        let password = given(&["POSTGRES_PASSWORD", "MYSQL_PASSWORD", "MARIADB_PASSWORD", "MYSQL_ROOT_PASSWORD"]);
        let database = given(&["POSTGRES_DB", "MYSQL_DATABASE", "MARIADB_DATABASE"]);
        match kind {
            Kind::Postgres => self.database(DatabaseKind::Postgres, &name, node, &what),
            Kind::MariaDb => self.database(DatabaseKind::MariaDb, &name, node, &what),
            Kind::Redis => {
                let persist = node
                    .get("command")
                    .is_some_and(|c| c.items().iter().filter_map(Node::text).any(|text| text.contains("appendonly")))
                    || node.get("volumes").is_some();
                let source = RedisSource::Managed { version: None, persist };
                self.draft.app.redis.insert(name.clone(), Redis { source, backup: None });
            }
        }
        if let Some((_, version)) = image.rsplit_once(':') {
            self.draft.comment(
                &key,
                format!(
                    "The compose file has {image}; here it is the newest of this machine, unless version = N is said."
                ),
            );
            if !version.starts_with(|c: char| c.is_ascii_digit()) && version != "latest" && version != "alpine" {
                self.leave(node, format!("{what}.image: {image}"), "its extensions must be on the machine");
            }
        }
        if image.contains("mysql") {
            self.leave(
                node,
                format!("{what}.image: {image}"),
                "MariaDB runs in its place: it speaks MySQL's protocol; look at what differs",
            );
        }
        self.draft.found.push(format!("{}: {service} is {image} → {key}", self.input.file));
        if node.get("volumes").is_some() {
            self.leave(
                node,
                format!("{what}: its data"),
                "they stay in Docker's volume: dump them there, and load the dump here",
            );
        }
        if let Some(ports) = node.get("ports") {
            self.leave(ports, format!("{what}.ports"), "a database is reached by this app's instances only");
        }
        self.resources.insert(service.to_owned(), Resource { kind, name, user, password, database });
    }

    fn database(&mut self, kind: DatabaseKind, name: &ResourceName, node: &Node, what: &str) {
        let scripts = node.get("volumes").map(Node::items).unwrap_or_default().iter().filter_map(|volume| {
            let (source, target) = match volume.text() {
                Some(text) => text.split_once(':')?,
                None => (volume.get("source")?.text()?, volume.get("target")?.text()?),
            };
            target.contains("docker-entrypoint-initdb.d").then(|| source.trim_start_matches("./").to_owned())
        });
        let scripts: Vec<String> = scripts.collect();
        let script = scripts.iter().find(|path| path.ends_with(".sql") && self.input.survey.files.contains(*path));
        let init = script.cloned();
        if init.is_none() && !scripts.is_empty() {
            self.leave(
                node,
                format!("{what}: scripts of docker-entrypoint-initdb.d"),
                "name one SQL file: init = \"…\"",
            );
        }
        let database = Database { source: DatabaseSource::Managed { version: None }, init, backup: None };
        self.draft.app.databases.insert((kind, name.clone()), database);
    }
}
