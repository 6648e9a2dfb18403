//! The tables, and how an older form becomes the current one.
//!
//! Architecture invariant: no secondary index and no rowid table. Every table is one tree whose inner nodes hold rows
//! too, so that a scan sees every byte that a lookup trusts.

use rusqlite::Connection;

use super::error::StoreError;
use super::table::Table;

pub(super) const META: Table = Table { name: "meta", columns: &["name", "value"], key: 1 };

pub(super) const APPS: Table =
    Table { name: "apps", columns: &["env", "app", "folder", "uid", "wanted", "generation", "created"], key: 2 };

pub(super) const REVISIONS: Table = Table {
    name: "revisions",
    columns: &["env", "app", "number", "spec", "artifacts", "secrets", "created", "state", "reason"],
    key: 3,
};

pub(super) const ROLLOUTS: Table = Table { name: "rollouts", columns: &["env", "app", "version", "state"], key: 2 };

pub(super) const EVENTS: Table =
    Table { name: "events", columns: &["sequence", "at", "env", "app", "kind", "message", "fields"], key: 1 };

pub(super) const SECRETS: Table = Table {
    name: "secrets",
    columns: &["env", "app", "name", "version", "sealed", "wrapped_key", "created", "created_by", "revoked"],
    key: 4,
};

pub(super) const RESOURCES: Table =
    Table { name: "resources", columns: &["env", "app", "kind", "name", "uid", "port", "created", "init"], key: 4 };

pub(super) const JOBS: Table = Table { name: "jobs", columns: &["env", "app", "job", "schedule", "counted"], key: 3 };

pub(super) const RUNS: Table =
    Table { name: "runs", columns: &["env", "app", "number", "task", "ended", "version", "state"], key: 3 };

pub(super) const TOKENS: Table = Table {
    name: "tokens",
    columns: &["id", "name", "digest", "role", "scope", "created", "created_by", "expires", "used", "revoked"],
    key: 1,
};

/// One step forward: what it runs, and the tables as they are afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    pub(super) sql: &'static str,
    pub(super) tables: &'static [Table],
}

/// From nothing to the current form. A step is never changed once it has been released; a new one is appended.
pub(super) const MIGRATIONS: &[Migration] = &[Migration {
    sql: "
    CREATE TABLE commits(
        one INTEGER PRIMARY KEY CHECK (one = 1), form INTEGER NOT NULL, sequence INTEGER NOT NULL, rows INTEGER NOT NULL,
        sum BLOB NOT NULL, previous BLOB NOT NULL, chain BLOB NOT NULL, key BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE meta(name TEXT NOT NULL PRIMARY KEY, value ANY, mac BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE apps(
        env TEXT NOT NULL, app TEXT NOT NULL, folder BLOB NOT NULL, uid INTEGER NOT NULL, wanted TEXT NOT NULL,
        generation INTEGER NOT NULL, created INTEGER NOT NULL, mac BLOB NOT NULL, PRIMARY KEY (env, app)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE revisions(
        env TEXT NOT NULL, app TEXT NOT NULL, number INTEGER NOT NULL, spec TEXT NOT NULL, artifacts TEXT NOT NULL,
        secrets TEXT NOT NULL, created INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT, mac BLOB NOT NULL,
        PRIMARY KEY (env, app, number), FOREIGN KEY (env, app) REFERENCES apps
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE rollouts(
        env TEXT NOT NULL, app TEXT NOT NULL, version INTEGER NOT NULL, state TEXT NOT NULL, mac BLOB NOT NULL,
        PRIMARY KEY (env, app), FOREIGN KEY (env, app) REFERENCES apps
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events(
        sequence INTEGER NOT NULL PRIMARY KEY, at INTEGER NOT NULL, env TEXT, app TEXT, kind TEXT NOT NULL,
        message TEXT NOT NULL, fields TEXT NOT NULL, mac BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE secrets(
        env TEXT NOT NULL, app TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, sealed BLOB,
        wrapped_key BLOB, created INTEGER NOT NULL, created_by INTEGER NOT NULL, revoked INTEGER, mac BLOB NOT NULL,
        PRIMARY KEY (env, app, name, version)
    ) STRICT, WITHOUT ROWID;",
    tables: &[META, APPS, REVISIONS, ROLLOUTS, EVENTS, SECRETS],
}, Migration {
    sql: "
    CREATE TABLE resources(
        env TEXT NOT NULL, app TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, uid INTEGER NOT NULL,
        port INTEGER NOT NULL, created INTEGER NOT NULL, init TEXT, mac BLOB NOT NULL,
        PRIMARY KEY (env, app, kind, name), FOREIGN KEY (env, app) REFERENCES apps
    ) STRICT, WITHOUT ROWID;",
    tables: &[META, APPS, REVISIONS, ROLLOUTS, EVENTS, SECRETS, RESOURCES],
}, Migration {
    sql: "
    CREATE TABLE jobs(
        env TEXT NOT NULL, app TEXT NOT NULL, job TEXT NOT NULL, schedule TEXT NOT NULL, counted INTEGER NOT NULL,
        mac BLOB NOT NULL, PRIMARY KEY (env, app, job), FOREIGN KEY (env, app) REFERENCES apps
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE runs(
        env TEXT NOT NULL, app TEXT NOT NULL, number INTEGER NOT NULL, task TEXT NOT NULL, ended INTEGER,
        version INTEGER NOT NULL, state TEXT NOT NULL, mac BLOB NOT NULL,
        PRIMARY KEY (env, app, number), FOREIGN KEY (env, app) REFERENCES apps
    ) STRICT, WITHOUT ROWID;",
    tables: &[META, APPS, REVISIONS, ROLLOUTS, EVENTS, SECRETS, RESOURCES, JOBS, RUNS],
}, Migration {
    sql: "
    CREATE TABLE tokens(
        id INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, role TEXT NOT NULL, scope TEXT NOT NULL,
        created INTEGER NOT NULL, created_by INTEGER NOT NULL, expires INTEGER, used INTEGER, revoked INTEGER,
        mac BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;",
    tables: &[META, APPS, REVISIONS, ROLLOUTS, EVENTS, SECRETS, RESOURCES, JOBS, RUNS, TOKENS],
}];

/// The number of steps taken.
pub(super) fn form(migrations: &[Migration]) -> u32 {
    u32::try_from(migrations.len()).expect("a handful of migrations")
}

/// The schema must be, letter by letter, what the migrations make: a flipped bit in a column's type or name changes
/// how rows are found.
pub(super) fn verify(conn: &Connection, migrations: &[Migration]) -> Result<(), StoreError> {
    let fresh = Connection::open_in_memory()?;
    for migration in migrations {
        fresh.execute_batch(migration.sql)?;
    }
    let (expected, found) = (definitions(&fresh)?, definitions(conn)?);
    match expected == found {
        true => Ok(()),
        false => {
            let wrong = expected.iter().zip(&found).find(|(e, f)| e != f);
            let name = wrong.map_or("(count)", |(expected, _)| expected.1.as_str());
            Err(StoreError::corrupt("sqlite_schema", name))
        }
    }
}

type Definition = (String, String, String, Option<String>);

fn definitions(conn: &Connection) -> Result<Vec<Definition>, StoreError> {
    let mut statement = conn.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
