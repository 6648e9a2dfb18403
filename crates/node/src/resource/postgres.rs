//! PostgreSQL: its folder and configuration, then its role, database and first contents.
//!
//! The node is the server's administrator `bowline` by who it is: `pg_ident.conf` maps the node's own user on the
//! private Unix socket to it, and no password for it exists. Apps come over loopback with SCRAM.
//!
//! A script runs as the app's role, on a connection of its own (the node's user may be that role, too): no `RESET ROLE`
//! leads to the administrator.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::instance::StopSignal;
use bowline_core::resource::{Access, InitScript, Prepared, ResourceKey, Trouble};
use futures_util::SinkExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::failure::{self, foreign, unusable};
use super::mariadb::LOGIN_SECONDS;
use super::packages::{self, Installed};
use super::script::{Dialect, Statement, statements};
use super::site::{Site, memory};
use crate::others;

/// The administrator.
const ADMIN: &str = "bowline";
/// People who may look and change nothing.
pub(super) const READERS: &str = "bowline_readers";
/// How connections that make roles and contents call themselves: a later one ends an earlier one.
const NAME: &str = "bowline-provision";
/// A server that listens answers at once, or is busy beyond use.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Connections of an app's workers; each costs some memory.
const CONNECTIONS: u32 = 100;

/// Binary found, folder made, configuration written.
pub(super) fn prepare(site: &Site<'_>) -> Result<Prepared, Trouble> {
    let installed = choose(site)?;
    site.make_folders()?;
    write_config(site)?;
    let maker = maker(site);
    site.make_data(maker, |new, lock| {
        let mut initdb = Command::new(installed.binary.with_file_name("initdb"));
        initdb.arg("-D").arg(new).args(["-U", ADMIN, "--auth-local=peer", "--auth-host=scram-sha-256"]);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions"]);
        site.run(initdb, maker, lock)
    })?;
    let (binary, data) = (installed.binary.display().to_string(), site.data().display().to_string());
    let file = |name: &str| format!("{name}_file={}", site.config(conf(name)).display());
    let (config, hba, ident) = (file("config"), file("hba"), file("ident"));
    let command = [&binary, "-D", &data, "-c", &config, "-c", &hba, "-c", &ident];
    Ok(site.prepared(&command, StopSignal::Int, installed.version))
}

fn conf(name: &str) -> &'static str {
    match name {
        "hba" => "pg_hba.conf",
        "ident" => "pg_ident.conf",
        _ => "postgresql.conf",
    }
}

/// `initdb` refuses root and users without a name; what it makes is given to the server's own user afterwards.
fn maker(site: &Site<'_>) -> Option<u32> {
    let uid = |name: &str| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    site.uid().map(|own| uid("postgres").or_else(|| uid("nobody")).unwrap_or(own))
}

/// The version of the data, else the wanted one, else the newest.
fn choose(site: &Site<'_>) -> Result<Installed, Trouble> {
    let (key, wanted) = (site.key, site.server.version);
    let data = version_of_data(site)?;
    let major = data.as_deref().and_then(|version| version.parse::<u16>().ok());
    if let (Some(data), Some(wanted)) = (&data, wanted)
        && major != Some(wanted)
    {
        return Err(packages::other_version(key, data, wanted, &migration(key, data, wanted)));
    }
    let found = packages::postgres();
    let version = major.or(wanted);
    let fits = found.iter().rfind(|one| version.is_none_or(|version| one.major == version)).cloned();
    let package = version.map_or_else(|| "postgresql".to_owned(), |version| format!("postgresql-{version}"));
    fits.ok_or_else(|| packages::missing(key, version, &found, &package))
}

/// As the data say it, which are the server's to change.
fn version_of_data(site: &Site<'_>) -> Result<Option<String>, Trouble> {
    /// `9.6`, `15`
    const LONGEST: usize = 16;
    let path = site.data().join("PG_VERSION");
    let bytes = match others::read_small(&path, LONGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failure::file(site.key, "read", &path, &error)),
    };
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "it holds no version");
        return Err(failure::file(site.key, "use", &path, &error));
    }
    Ok(Some(text))
}

fn migration(key: &ResourceKey, data: &str, wanted: u16) -> String {
    let id = &key.id;
    format!(
        "write version = {data} in [{id}] to go on as before; to move, write a second table, [{}.NEW] with version = \
         {wanted}, bring both up, and run: pg_dump --no-owner --exclude-schema=bowline URL_OF_{id} >FILE; {}",
        id.kind,
        key.app.command("data import", &format!("{}.NEW FILE", id.kind))
    )
}

fn write_config(site: &Site<'_>) -> Result<(), Trouble> {
    const MIB: u64 = 1 << 20;
    let memory = memory();
    // Apps need the rest; the kernel's cache serves the database, too.
    let shared = (memory / 16).clamp(32 * MIB, 1024 * MIB) / MIB;
    let maintenance = (memory / 64).clamp(16 * MIB, 256 * MIB) / MIB;
    let cache = (memory / 4).max(64 * MIB) / MIB;
    let (port, socket) = (site.server.port, text(&site.socket));
    let settings = format!(
        "# Written by Bowline before every start.\n\
         listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = {socket}\n\
         unix_socket_permissions = 0700\nmax_connections = {CONNECTIONS}\npassword_encryption = 'scram-sha-256'\n\
         authentication_timeout = {LOGIN_SECONDS}s\n\
         fsync = on\nfull_page_writes = on\nsynchronous_commit = on\n\
         shared_buffers = {shared}MB\neffective_cache_size = {cache}MB\nmaintenance_work_mem = {maintenance}MB\n\
         max_wal_size = 1GB\nmin_wal_size = 80MB\n\
         logging_collector = off\nlog_destination = 'stderr'\nlog_line_prefix = '%q[%u] '\nlog_timezone = 'UTC'\n\
         timezone = 'UTC'\ndatestyle = 'iso, ymd'\nlc_messages = 'C'\nlog_parameter_max_length = 0\n\
         log_parameter_max_length_on_error = 0\n"
    );
    // No line for any other database or role, and none for any other address.
    let name = bowline_core::resource::own_name(&site.key.id.name);
    let hba = format!(
        "local all {ADMIN} peer map={ADMIN}\nlocal {name} {name} peer map={ADMIN}\n\
         host {name} +{name} 127.0.0.1/32 scram-sha-256\nhost {name} +{READERS} 127.0.0.1/32 scram-sha-256\n"
    );
    let own = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(own).ok().flatten().map(|user| user.name).ok_or_else(|| {
        let fault = Fault::new(FaultKind::Invalid, format!("{} of {} cannot be prepared", site.key.id, site.key.app));
        let fault = fault.caused_by(format!("the user {own}, as whom Bowline runs, has no name on this machine"));
        failure::lasting(fault.hint("add the user to /etc/passwd"))
    })?;
    site.write_config("postgresql.conf", &settings)?;
    site.write_config("pg_hba.conf", &hba)?;
    site.write_config("pg_ident.conf", &format!("{ADMIN} \"{user}\" {ADMIN}\n{ADMIN} \"{user}\" {name}\n"))
}

/// A text in `postgresql.conf`.
fn text(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\\', "\\\\").replace('\'', "''"))
}

/// A name in SQL.
pub(super) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What the owner of a database may have set for whoever comes to it, and the administrator must not be led by.
const OWN_SETTINGS: &str = "-c search_path=pg_catalog -c default_transaction_read_only=off -c synchronous_commit=on";

/// The administrator's connection to one database.
pub(super) async fn connect(site: &Site<'_>, database: &str, called: &str) -> Result<Client, Trouble> {
    let mut config = Config::new();
    config.user(ADMIN).dbname(database).application_name(called).options(OWN_SETTINGS);
    open(site, config, "the server does not let its administrator in").await
}

/// The app's own role in its own database.
async fn connect_as(site: &Site<'_>, access: &Access) -> Result<Client, Trouble> {
    let mut config = Config::new();
    config.user(&access.user).dbname(&access.database).application_name(NAME);
    open(site, config, "the server does not let the app's role in").await
}

async fn open(site: &Site<'_>, mut config: Config, step: &str) -> Result<Client, Trouble> {
    config.host_path(&site.socket).port(site.server.port.get());
    // Its own limit is of the connection alone: one that is taken and never answered would be waited for without end.
    let Ok(connected) = tokio::time::timeout(CONNECT_WITHIN, config.connect(NoTls)).await else {
        let late = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {CONNECT_WITHIN:?}"));
        return Err(unusable(site.key, step, &late));
    };
    match connected {
        Ok((client, connection)) => {
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to a database ended");
                }
            });
            Ok(client)
        }
        Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
            let said = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
            Err(failure::soon(said))
        }
        Err(error) => Err(unusable(site.key, step, &error)),
    }
}

/// Role, database, marker and first contents.
pub(super) async fn provision(site: &Site<'_>, access: &Access, init: Option<&InitScript>) -> Result<(), Trouble> {
    let admin = connect(site, "postgres", NAME).await?;
    end_earlier(site, &admin).await?;
    make_role(site, &admin, access).await?;
    make_database(site, &admin, access).await?;
    let mut client = connect(site, &access.database, NAME).await?;
    match marker(site, &client).await? {
        Marker::Filled(found) if found != access.environment => {
            return Err(foreign(site.key, &found, &access.environment));
        }
        Marker::Filled(_) => return Ok(()),
        Marker::None if is_empty(site, &client).await? => mark(site, &client, access, false).await?,
        // It was filled by somebody else: a restored folder.
        Marker::None => return mark(site, &client, access, true).await,
        // No app was let in: nothing is lost. A script that ended its own transaction may have left something.
        Marker::Begun => {
            drop(client);
            drop_database(site, &admin, access).await?;
            make_database(site, &admin, access).await?;
            client = connect(site, &access.database, NAME).await?;
            mark(site, &client, access, false).await?;
        }
    }
    fill(site, access, init).await?;
    note_whole(site, &client).await
}

/// What the database says of itself.
enum Marker {
    None,
    /// The first contents were begun.
    Begun,
    /// In the environment of this identity.
    Filled(String),
}

/// A daemon that was killed may have left a script running: it is ended, and its transaction with it.
async fn end_earlier(site: &Site<'_>, admin: &Client) -> Result<(), Trouble> {
    const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE application_name = $1 AND pid <> pg_backend_pid()";
    let ended =
        admin.query(END, &[&NAME]).await.map_err(|error| unusable(site.key, "ending an earlier attempt", &error))?;
    match ended.is_empty() {
        true => Ok(()),
        false => Err(failure::soon("an earlier attempt at its contents to end")),
    }
}

async fn make_role(site: &Site<'_>, admin: &Client, access: &Access) -> Result<(), Trouble> {
    let failed = |error| unusable(site.key, "making its role", &error);
    let role = name(&access.user);
    let known = admin.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&access.user]).await.map_err(failed)?;
    if known.is_none() {
        admin.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.map_err(failed)?;
    }
    // What is sent is what the server keeps: the password itself appears in no statement and no log.
    let verifier = postgres_protocol::password::scram_sha_256(access.password.expose());
    let alter = format!("ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD {}", literal(&verifier));
    admin.batch_execute(&alter).await.map_err(failed)
}

async fn make_database(site: &Site<'_>, admin: &Client, access: &Access) -> Result<(), Trouble> {
    let failed = |error| unusable(site.key, "making its database", &error);
    let known = admin.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&access.database]).await;
    let (database, role) = (name(&access.database), name(&access.user));
    if known.map_err(failed)?.is_none() {
        let create = format!("CREATE DATABASE {database} OWNER {role} TEMPLATE template0 ENCODING 'UTF8'");
        admin.batch_execute(&create).await.map_err(failed)?;
    }
    admin.batch_execute(&format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC")).await.map_err(failed)
}

async fn drop_database(site: &Site<'_>, admin: &Client, access: &Access) -> Result<(), Trouble> {
    let drop = format!("DROP DATABASE {} WITH (FORCE)", name(&access.database));
    admin.batch_execute(&drop).await.map_err(|error| unusable(site.key, "removing half-made contents", &error))
}

async fn marker(site: &Site<'_>, client: &Client) -> Result<Marker, Trouble> {
    let failed = |error| unusable(site.key, "reading its marker", &error);
    let table = client.query_one("SELECT to_regclass('bowline.marker') IS NOT NULL", &[]).await.map_err(failed)?;
    if !table.get::<_, bool>(0) {
        return Ok(Marker::None);
    }
    let row = client.query_opt("SELECT environment, filled FROM bowline.marker", &[]).await.map_err(failed)?;
    Ok(match row {
        None => Marker::None,
        Some(row) if row.get::<_, bool>(1) => Marker::Filled(row.get(0)),
        Some(_) => Marker::Begun,
    })
}

/// Nothing of anybody's is in it.
pub(super) async fn is_empty(site: &Site<'_>, client: &Client) -> Result<bool, Trouble> {
    const COUNT: &str = "SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'bowline')) \
                         AND NOT EXISTS (SELECT FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' \
                         AND nspname NOT IN ('information_schema', 'bowline', 'public'))";
    let row = client.query_one(COUNT, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| unusable(site.key, "looking into the database", &error))
}

async fn mark(site: &Site<'_>, client: &Client, access: &Access, filled: bool) -> Result<(), Trouble> {
    let make = format!(
        "BEGIN; CREATE SCHEMA IF NOT EXISTS bowline; REVOKE ALL ON SCHEMA bowline FROM PUBLIC; \
         CREATE TABLE IF NOT EXISTS bowline.marker (one bool PRIMARY KEY DEFAULT true CHECK (one), \
         environment text NOT NULL, resource text NOT NULL, filled bool NOT NULL); \
         INSERT INTO bowline.marker (environment, resource, filled) VALUES ({}, {}, {filled}) \
         ON CONFLICT (one) DO NOTHING; COMMIT",
        literal(&access.environment),
        literal(&site.key.to_string()),
    );
    client.batch_execute(&make).await.map_err(|error| unusable(site.key, "writing its marker", &error))
}

/// Runs the script, if there is one, in one transaction.
async fn fill(site: &Site<'_>, access: &Access, init: Option<&InitScript>) -> Result<(), Trouble> {
    let Some(init) = init else { return Ok(()) };
    let failed = |error| unusable(site.key, "filling it for the first time", &error);
    let app = connect_as(site, access).await?;
    app.batch_execute("BEGIN").await.map_err(failed)?;
    let own = transaction(&app).await.map_err(failed)?;
    for statement in statements(&init.sql, Dialect::Postgres) {
        if statement.text.starts_with('\\') {
            return Err(of_psql(site, init, statement));
        }
        let done = match statement.data {
            Some(data) => copy(&app, statement.text, data).await,
            None => app.batch_execute(statement.text).await,
        };
        done.map_err(|error| refused(site, init, statement, &error))?;
    }
    if transaction(&app).await.map_err(failed)? != own {
        return Err(ends_itself(site, init));
    }
    // Constraints that were deferred are looked at here.
    let end = Statement { line: init.sql.lines().count(), text: "", data: None };
    app.batch_execute("COMMIT").await.map_err(|error| refused(site, init, end, &error))
}

/// Before any app is let in: committed, and read back.
async fn note_whole(site: &Site<'_>, client: &Client) -> Result<(), Trouble> {
    let failed = |error| unusable(site.key, "noting that its contents are whole", &error);
    client.execute("UPDATE bowline.marker SET filled = true", &[]).await.map_err(failed)?;
    match marker(site, client).await? {
        Marker::Filled(_) => Ok(()),
        Marker::Begun | Marker::None => {
            let fault = Fault::new(FaultKind::Failed, format!("{} of {} cannot be used", site.key.id, site.key.app));
            let fault = fault.caused_by("its marker does not say what was written to it");
            Err(failure::passing(fault.hint("look at the disk; it is tried again by itself")))
        }
    }
}

/// `COPY … FROM stdin`, in pieces: a dump's table may be larger than what one message takes.
async fn copy(client: &Client, statement: &str, data: &str) -> Result<(), tokio_postgres::Error> {
    const PIECE: usize = 64 << 10;
    let sink = client.copy_in::<_, Cursor<Vec<u8>>>(statement).await?;
    let mut sink = std::pin::pin!(sink);
    for piece in data.as_bytes().chunks(PIECE) {
        sink.send(Cursor::new(piece.to_vec())).await?;
    }
    sink.finish().await.map(drop)
}

fn of_psql(site: &Site<'_>, init: &InitScript, statement: Statement<'_>) -> Trouble {
    let word = statement.text.split_ascii_whitespace().next().unwrap_or_default();
    let message = format!("{word} is a command of psql, which does not run here");
    script_refused(site.key, init, statement.line, &message, (None, None))
}

async fn transaction(client: &Client) -> Result<String, tokio_postgres::Error> {
    Ok(client.query_one("SELECT pg_current_xact_id()::text", &[]).await?.get(0))
}

fn ends_itself(site: &Site<'_>, init: &InitScript) -> Trouble {
    let fault = Fault::new(FaultKind::Invalid, format!("{} of {} ends its own transaction", init.file, site.key.id))
        .caused_by("it runs in one transaction, so that it is done whole or not at all");
    failure::lasting(fault.hint(format!("take BEGIN, COMMIT and ROLLBACK out of {}", init.file)))
}

/// A statement of the script failed: where, and what the server said.
fn refused(site: &Site<'_>, init: &InitScript, statement: Statement<'_>, error: &tokio_postgres::Error) -> Trouble {
    let Some(said) = error.as_db_error() else { return unusable(site.key, "filling it for the first time", error) };
    let line = match said.position() {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => {
            let before = statement.text.chars().take(usize::try_from(*at).unwrap_or(1).saturating_sub(1));
            statement.line + before.filter(|c| *c == '\n').count()
        }
        Some(tokio_postgres::error::ErrorPosition::Internal { .. }) | None => {
            let own = statement.text.bytes().filter(|b| *b == b'\n').count();
            statement.line + statement.data.and_then(|_| line_of_copy(said.where_()?)).map_or(0, |line| own + line)
        }
    };
    let foreign = *said.code() == SqlState::UNDEFINED_OBJECT && said.message().starts_with("role ");
    let advice = "roles of another server are not known here: make the dump with pg_dump --no-owner --no-privileges";
    let advice = said.hint().or(Some(advice).filter(|_| foreign));
    script_refused(site.key, init, line, said.message(), (advice, said.detail()))
}

/// `COPY t, line 3, column a: "x"`: counted from 1 within the data.
fn line_of_copy(place: &str) -> Option<usize> {
    let (_, rest) = place.split_once(", line ")?;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

/// Of both kinds of databases. `quoted`: rows of the data among it, which are for whoever runs the command alone.
pub(super) fn script_refused(
    key: &ResourceKey,
    init: &InitScript,
    line: usize,
    message: &str,
    (advice, quoted): (Option<&str>, Option<&str>),
) -> Trouble {
    let fault = Fault::new(FaultKind::Invalid, format!("{} cannot fill {} of {}", init.file, key.id, key.app));
    let fault = fault.caused_by(format!("{}:{line}: {message}", init.file));
    let fault = advice.into_iter().fold(fault, Fault::caused_by);
    let text = init.sql.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let quoted = quoted.map(|quoted| format!("\n{quoted}")).unwrap_or_default();
    let fault = fault.detail(format!("{line:>5} | {text}{quoted}"));
    failure::lasting(fault.hint(format!("correct line {line} of {} and run the command again", init.file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_copied_data_are_read_from_where_it_happened() {
        let check = |place: &str, expected: Option<usize>| assert_eq!(line_of_copy(place), expected);
        check("COPY users, line 3, column id: \"x\"", Some(3));
        check("COPY users, line 12", Some(12));
        check("SQL function \"f\"", None);
    }
}
