//! Databases as their images run them, wherever: what is asked of them, and what is written down for their first start.

use std::collections::BTreeMap;

use bowline_core::app::{App, DatabaseSource, RedisSource, ResourceKind};
use bowline_core::resource::ResourceId;

/// What is particular to a kind.
pub(crate) struct Kind {
    pub(crate) repository: &'static str,
    /// Where the file names none: the newest that the image's tags knew when this was written.
    pub(crate) version: u16,
    pub(crate) data: &'static str,
    /// Folders that it writes to beside its data.
    pub(crate) scratch: &'static [(&'static str, &'static str)],
    pub(crate) port: u16,
}

const POSTGRES: Kind = Kind {
    repository: "docker.io/library/postgres",
    version: 17,
    // Not where the image looks by itself: that differs from version to version.
    data: "/data",
    scratch: &[("tmp", "/tmp"), ("run", "/var/run/postgresql")],
    port: 5432,
};
const MARIADB: Kind = Kind {
    repository: "docker.io/library/mariadb",
    version: 11,
    data: "/var/lib/mysql",
    scratch: &[("tmp", "/tmp"), ("run", "/run/mysqld")],
    port: 3306,
};
const REDIS: Kind =
    Kind { repository: "docker.io/library/redis", version: 7, data: "/data", scratch: &[("tmp", "/tmp")], port: 6379 };

/// The user of the official images.
pub(crate) const USER: i64 = 999;
/// To write everything down, in seconds.
pub(crate) const GRACE: i64 = 60;
/// Where the images run what is there once, on an empty database.
pub(crate) const INIT: &str = "/docker-entrypoint-initdb.d";
/// Where its configuration lies.
pub(crate) const CONFIG: &str = "/etc/bowline";
/// PostgreSQL's folder within its disk.
pub(crate) const PGDATA: &str = "/data/pgdata";

/// What makes the app's role and database, run by the image.
const MAKE: &str = "make.sh";
/// The first contents, as the file of the app has them.
pub(crate) const INIT_FILE: &str = "init.sql";
const HBA: &str = "pg_hba.conf";

pub(crate) fn kind_of(kind: ResourceKind) -> &'static Kind {
    match kind {
        ResourceKind::Postgres => &POSTGRES,
        ResourceKind::MariaDb => &MARIADB,
        ResourceKind::Redis => &REDIS,
    }
}

/// A database of the app that runs beside it.
pub(crate) struct Server {
    pub(crate) id: ResourceId,
    pub(crate) version: Option<u16>,
    /// Its data outlive its container.
    pub(crate) persists: bool,
}

impl Server {
    /// The tag of its image.
    pub(crate) fn tag(&self) -> u16 {
        self.version.unwrap_or(kind_of(self.id.kind).version)
    }
}

pub(crate) fn servers(app: &App) -> Vec<Server> {
    let databases = app.databases.iter().filter_map(|((kind, name), database)| match database.source {
        DatabaseSource::Managed { version } => {
            let id = ResourceId { kind: ResourceKind::from(*kind), name: name.clone() };
            Some(Server { id, version, persists: true })
        }
        DatabaseSource::External { .. } => None,
    });
    let redis = app.redis.iter().filter_map(|(name, redis)| match redis.source {
        RedisSource::Managed { version, persist } => {
            let id = ResourceId { kind: ResourceKind::Redis, name: name.clone() };
            Some(Server { id, version, persists: persist })
        }
        RedisSource::External { .. } => None,
    });
    databases.chain(redis).collect()
}

/// Servers elsewhere whose CA is said, and the secret that holds it.
pub(crate) fn externals(app: &App) -> Vec<(String, &bowline_core::id::SecretName)> {
    let databases = app.databases.iter().filter_map(|((kind, name), one)| match &one.source {
        DatabaseSource::External { url: _, ca } => Some((format!("{kind}.{name}"), ca.as_ref()?)),
        DatabaseSource::Managed { .. } => None,
    });
    let redis = app.redis.iter().filter_map(|(name, one)| match &one.source {
        RedisSource::External { url: _, ca } => Some((format!("redis.{name}"), ca.as_ref()?)),
        RedisSource::Managed { .. } => None,
    });
    databases.chain(redis).collect()
}

/// The file that the image runs on an empty disk.
pub(crate) fn once(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Postgres => MAKE,
        ResourceKind::MariaDb | ResourceKind::Redis => INIT_FILE,
    }
}

/// What it starts from, by the names of files. `own`: the app's role and database.
pub(crate) fn files(kind: ResourceKind, own: &str, script: Option<&str>) -> BTreeMap<String, String> {
    let first = script.map(|script| (INIT_FILE.to_owned(), script.to_owned()));
    match kind {
        ResourceKind::Postgres => {
            let made = [(MAKE.to_owned(), make(own, script.is_some())), (HBA.to_owned(), hba(own))];
            made.into_iter().chain(first).collect()
        }
        ResourceKind::MariaDb => first.into_iter().collect(),
        ResourceKind::Redis => BTreeMap::new(),
    }
}

/// The image's own administrator is let in from within the container alone, whatever its password.
fn hba(own: &str) -> String {
    format!("local all postgres trust\nlocal {own} {own} trust\nhost {own} {own} all scram-sha-256\n")
}

fn make(own: &str, filled: bool) -> String {
    const PSQL: &str = "psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet";
    let admin = format!("{PSQL} --username=postgres --dbname=postgres");
    let fill = format!("{PSQL} --username={own} --dbname={own} --single-transaction --file={CONFIG}/{INIT_FILE}\n");
    let fill = if filled { fill.as_str() } else { "" };
    format!(
        "# Once, on an empty disk: the app's role, which is no superuser, its database, and the first contents as that role.\n\
         # Its password comes last: nobody gets into half of it.\n\
         {admin} <<'SQL'\n\
         CREATE ROLE {own} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;\n\
         CREATE DATABASE {own} OWNER {own} TEMPLATE template0 ENCODING 'UTF8';\n\
         REVOKE ALL ON DATABASE {own} FROM PUBLIC;\n\
         SQL\n\
         {fill}{admin} <<'SQL'\n\
         \\set password `printf %s \"$POSTGRES_PASSWORD\"`\n\
         ALTER ROLE {own} PASSWORD :'password';\n\
         SQL\n"
    )
}

/// What the container is started with where it is not what the image has by itself. `durable`: writes go to its disk.
pub(crate) fn arguments(kind: ResourceKind) -> Option<Vec<String>> {
    match kind {
        ResourceKind::Postgres => Some(words(&["postgres", "-c", &format!("hba_file={CONFIG}/{HBA}")])),
        ResourceKind::MariaDb | ResourceKind::Redis => None,
    }
}

/// Redis knows no file for its password, and arguments are seen by whoever lists processes. `password`: a word of the shell.
pub(crate) fn redis(password: &str, persists: bool) -> Vec<String> {
    let durable = if persists { "--appendonly yes" } else { "--appendonly no --save \"\"" };
    let script = format!(
        "umask 077; printf 'requirepass %s\\n' \"{password}\" > /tmp/redis.conf; exec redis-server /tmp/redis.conf {durable}"
    );
    words(&["/bin/sh", "-c", &script])
}

/// Asked within the container, and answered where the app gets in. `password`: a word of the shell.
pub(crate) fn is_ready(kind: ResourceKind, own: &str, password: &str) -> Vec<String> {
    let postgres = format!(
        "PGPASSWORD=\"{password}\" psql --no-psqlrc -qAtX -h 127.0.0.1 -U {own} -d {own} -c 'SELECT 1' >/dev/null"
    );
    let redis = format!("REDISCLI_AUTH=\"{password}\" redis-cli ping | grep -q PONG");
    match kind {
        ResourceKind::Postgres => words(&["/bin/sh", "-c", &postgres]),
        ResourceKind::MariaDb => words(&["healthcheck.sh", "--connect", "--innodb_initialized"]),
        ResourceKind::Redis => words(&["/bin/sh", "-c", &redis]),
    }
}

/// The same, as far as the server itself goes: what is wrong with the app's role is mended by no new start.
pub(crate) fn is_alive(kind: ResourceKind, own: &str, password: &str) -> Vec<String> {
    match kind {
        ResourceKind::Postgres => words(&["pg_isready", "-q", "-h", "127.0.0.1"]),
        ResourceKind::MariaDb | ResourceKind::Redis => is_ready(kind, own, password),
    }
}

/// Ends when the server at `host` answers, which its name leads to when it is ready.
pub(crate) fn wait_for(kind: ResourceKind, host: &str) -> Vec<String> {
    let port = kind_of(kind).port;
    let asked = match kind {
        ResourceKind::Postgres => format!("pg_isready -q -h {host} -p {port}"),
        ResourceKind::MariaDb => format!("mariadb-admin --connect-timeout=2 -h {host} -P {port} ping"),
        // Without the password it is told that there is one, by a server that is there.
        ResourceKind::Redis => format!("redis-cli -h {host} -p {port} ping"),
    };
    words(&["/bin/sh", "-c", &format!("until {asked} >/dev/null 2>&1; do sleep 1; done")])
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}
