//! MariaDB: its folder and configuration, then its user, database and first contents.
//!
//! The node is the server's administrator by who it is: the one account besides the app's is authenticated by the
//! user behind the private Unix socket (`unix_socket`), and no password for it exists. DDL commits by itself, so a
//! script is not one transaction: a marker says that it was begun, and a database that was begun and not finished is
//! made anew, unless an app may have been let in.
//!
//! A script runs as the app, on a connection of its own: what it may not do fails, what it creates is the app's, and
//! what it leaves set ends with it.

use std::process::Command;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::instance::StopSignal;
use bowline_core::resource::{Access, InitScript, Prepared, ResourceKey, Trouble};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use super::failure::{self, foreign, unusable};
use super::packages::{self, Installed};
use super::postgres::{literal, script_refused};
use super::script::{Dialect, statements};
use super::site::{Site, memory};

/// Holds the markers of Bowline; no app may look into it.
pub(super) const OWN: &str = "bowline";
/// A server that listens answers at once, or is busy beyond use.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Connections of an app's workers.
const CONNECTIONS: u32 = 150;
/// Whoever says nothing gives up its connection by then. The longest round trip of a busy machine is far below.
pub(super) const LOGIN_SECONDS: u32 = 5;

/// Binary found, folder made, configuration written.
pub(super) fn prepare(site: &Site<'_>) -> Result<Prepared, Trouble> {
    let (key, wanted) = (site.key, site.server.version);
    let found = packages::only(&["/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"]);
    let fits = found.clone().filter(|one| wanted.is_none_or(|wanted| one.major == wanted));
    let found: Vec<_> = found.into_iter().collect();
    let installed = fits.ok_or_else(|| packages::missing(key, wanted, &found, "mariadb-server"))?;
    check_version(site, &installed)?;
    site.make_folders()?;
    write_config(site)?;
    let config = format!("--defaults-file={}", site.config("my.cnf").display());
    let user = administrator(site.key)?;
    let mut made = !site.config(VERSION).exists();
    site.make_data(site.uid(), |new, lock| {
        made = true;
        let mut install = Command::new("/usr/bin/mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", new.display()));
        install.args(["--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve"]);
        install.arg(format!("--auth-root-socket-user={user}"));
        site.run(install, site.uid(), lock)
    })?;
    if made {
        site.write_config(VERSION, &format!("{}\n", installed.version))?;
    }
    let binary = installed.binary.display().to_string();
    Ok(site.prepared(&[&binary, &config], StopSignal::Term, installed.version))
}

/// The name of the user as whom this process runs: the only administrator.
fn administrator(key: &ResourceKey) -> Result<String, Trouble> {
    let own = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(own).ok().flatten().map(|user| user.name);
    user.ok_or_else(|| {
        let fault = Fault::new(FaultKind::Invalid, format!("{} of {} cannot be prepared", key.id, key.app));
        let fault = fault.caused_by(format!("the user {own}, as whom Bowline runs, has no name on this machine"));
        failure::lasting(fault.hint("add the user to /etc/passwd"))
    })
}

/// Which server made the data: MariaDB itself writes it down only when it upgrades them.
const VERSION: &str = "version";

fn check_version(site: &Site<'_>, installed: &Installed) -> Result<(), Trouble> {
    let Ok(made_by) = std::fs::read_to_string(site.config(VERSION)) else { return Ok(()) };
    let (made_by, own) = (packages::series(made_by.trim()), installed.series());
    if made_by == own {
        return Ok(());
    }
    let how = format!(
        "install MariaDB {made_by} again to go on as before; to move, dump the data with mariadb-dump there, write \
         another table, [{}.NEW], and load them into it with MariaDB {own}",
        site.key.id.kind
    );
    Err(packages::other_version(site.key, &made_by, own, &how))
}

fn write_config(site: &Site<'_>) -> Result<(), Trouble> {
    const MIB: u64 = 1 << 20;
    let pool = (memory() / 16).clamp(64 * MIB, 1024 * MIB) / MIB;
    let (port, data) = (site.server.port, site.data().display().to_string());
    let socket = site.socket.join("mariadb.sock").display().to_string();
    site.write_config(
        "my.cnf",
        &format!(
            "# Written by Bowline before every start.\n\
             [mariadbd]\ndatadir = \"{data}\"\nsocket = \"{socket}\"\nbind-address = 127.0.0.1\nport = {port}\n\
             skip-name-resolve\nmax_connections = {CONNECTIONS}\nconnect_timeout = {LOGIN_SECONDS}\nlocal_infile = OFF\nsymbolic-links = OFF\n\
             pid-file = \"{data}/server.pid\"\n\
             character-set-server = utf8mb4\ncollation-server = utf8mb4_unicode_ci\n\
             sql_mode = STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION\n\
             innodb_flush_log_at_trx_commit = 1\ninnodb_doublewrite = ON\ninnodb_buffer_pool_size = {pool}M\n\
             innodb_log_file_size = 96M\nperformance_schema = OFF\nskip-log-bin\ndefault-time-zone = '+00:00'\n"
        ),
    )
}

/// A name in SQL.
pub(super) fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The administrator's connection.
pub(super) async fn connect(site: &Site<'_>, database: Option<&str>) -> Result<Conn, Trouble> {
    let user = administrator(site.key)?;
    let socket = site.socket.join("mariadb.sock").display().to_string();
    let opts = OptsBuilder::default().socket(Some(socket)).prefer_socket(true).user(Some(user)).db_name(database);
    let failed =
        |error: &dyn std::error::Error| unusable(site.key, "the server does not let its administrator in", error);
    match tokio::time::timeout(CONNECT_WITHIN, Conn::new(opts)).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(failed(&error)),
        Err(late) => Err(failed(&late)),
    }
}

/// The app's own connection, over loopback as the app comes itself: its account is known there only.
///
/// The caller holds a connection over the private socket, so the server lives; it would have ended if another process
/// had its port.
async fn connect_as(site: &Site<'_>, access: &Access) -> Result<Conn, Trouble> {
    let password = String::from_utf8_lossy(access.password.expose()).into_owned();
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(site.server.port.get())
        .prefer_socket(false)
        .user(Some(access.user.clone()))
        .pass(Some(password))
        .db_name(Some(access.database.clone()));
    let failed = |error: &dyn std::error::Error| unusable(site.key, "the server does not let the app in", error);
    match tokio::time::timeout(CONNECT_WITHIN, Conn::new(opts)).await {
        Ok(Ok(conn)) => Ok(conn),
        Ok(Err(error)) => Err(failed(&error)),
        Err(late) => Err(failed(&late)),
    }
}

/// User, database, marker and first contents.
pub(super) async fn provision(site: &Site<'_>, access: &Access, init: Option<&InitScript>) -> Result<(), Trouble> {
    let mut admin = connect(site, None).await?;
    lock(site, &mut admin).await?;
    let failed = |error: mysql_async::Error| unusable(site.key, "making its user and database", &error);
    for statement in setup(access) {
        admin.query_drop(statement).await.map_err(failed)?;
    }
    match marker(site, &mut admin).await? {
        Some((found, _)) if found != access.environment => {
            return Err(foreign(site.key, &found, &access.environment));
        }
        Some((_, Contents::Whole)) => return Ok(()),
        Some((_, Contents::Unsure)) => return Err(unsure(site)),
        Some((_, Contents::Begun)) => {
            end_script(site, &mut admin, access).await?;
            admin.query_drop(format!("DROP DATABASE {}", name(&access.database))).await.map_err(failed)?;
            admin.query_drop(create_database(access)).await.map_err(failed)?;
        }
        None => {
            let empty = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ?";
            let tables: Option<u64> = admin.exec_first(empty, (&access.database,)).await.map_err(failed)?;
            // It was filled by somebody else: a restored folder.
            let there = tables.unwrap_or(0) > 0;
            let insert = "INSERT INTO bowline.marker (one, environment, filled, let_in) VALUES (1, ?, ?, ?)";
            admin.exec_drop(insert, (&access.environment, there, there)).await.map_err(failed)?;
            if there {
                return Ok(());
            }
        }
    }
    fill(site, access, init).await?;
    note_whole(site, &mut admin).await
}

/// What the marker says of the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    /// Not finished, and no app was let in: nothing is lost with them.
    Begun,
    /// As they should be; an app may have been let in.
    Whole,
    /// Not noted as finished, yet an app may have been let in: never to be removed.
    Unsure,
}

async fn marker(site: &Site<'_>, admin: &mut Conn) -> Result<Option<(String, Contents)>, Trouble> {
    const READ: &str = "SELECT environment, filled, let_in FROM bowline.marker WHERE one = 1";
    let failed = |error: mysql_async::Error| unusable(site.key, "reading its marker", &error);
    let found: Option<(String, bool, bool)> = admin.query_first(READ).await.map_err(failed)?;
    Ok(found.map(|(environment, filled, let_in)| {
        let contents = match (filled, let_in) {
            (true, _) => Contents::Whole,
            (false, true) => Contents::Unsure,
            (false, false) => Contents::Begun,
        };
        (environment, contents)
    }))
}

/// Before any app is let in: committed, and read back by a connection that has not written it.
async fn note_whole(site: &Site<'_>, admin: &mut Conn) -> Result<(), Trouble> {
    let failed = |error: mysql_async::Error| unusable(site.key, "noting that its contents are whole", &error);
    let mut fresh = connect(site, Some(OWN)).await?;
    for statement in ["START TRANSACTION", "UPDATE marker SET filled = TRUE, let_in = TRUE WHERE one = 1", "COMMIT"] {
        fresh.query_drop(statement).await.map_err(failed)?;
    }
    match marker(site, admin).await? {
        Some((_, Contents::Whole)) => Ok(()),
        Some((_, Contents::Begun | Contents::Unsure)) | None => {
            let fault = Fault::new(FaultKind::Failed, format!("{} of {} cannot be used", site.key.id, site.key.app));
            let fault = fault.caused_by("its marker does not say what was written to it");
            Err(failure::passing(fault.hint("look at the disk; it is tried again by itself")))
        }
    }
}

fn unsure(site: &Site<'_>) -> Trouble {
    let fault = Fault::new(FaultKind::Refused, format!("{} of {} may be incomplete", site.key.id, site.key.app))
        .caused_by("its first contents are not noted as whole, yet an app may have written to it: it is left as it is");
    let socket = site.socket.join("mariadb.sock");
    failure::lasting(fault.hint(format!(
        "look into it: mariadb --socket={} {}; if nothing is missing, say so there: UPDATE {OWN}.marker SET filled = TRUE",
        socket.display(),
        bowline_core::resource::own_name(&site.key.id.name)
    )))
}

/// The script of a daemon that was killed may still run: nobody but a script has come as the app so far.
async fn end_script(site: &Site<'_>, admin: &mut Conn, access: &Access) -> Result<(), Trouble> {
    let failed = |error: mysql_async::Error| unusable(site.key, "ending an earlier attempt", &error);
    let find = "SELECT id FROM information_schema.processlist WHERE user = ?";
    let running: Vec<u64> = admin.exec(find, (&access.user,)).await.map_err(failed)?;
    for id in &running {
        // It may have ended meanwhile.
        let _ = admin.query_drop(format!("KILL {id}")).await;
    }
    match running.is_empty() {
        true => Ok(()),
        false => Err(failure::soon("an earlier attempt at its contents to end")),
    }
}

/// One at a time: a daemon that was killed may have left a script running, which is ended first.
async fn lock(site: &Site<'_>, admin: &mut Conn) -> Result<(), Trouble> {
    let failed = |error: mysql_async::Error| unusable(site.key, "ending an earlier attempt", &error);
    let holder: Option<Option<u64>> =
        admin.query_first("SELECT IS_USED_LOCK('bowline.provision')").await.map_err(failed)?;
    if let Some(Some(holder)) = holder {
        // It may have ended meanwhile.
        let _ = admin.query_drop(format!("KILL {holder}")).await;
        return Err(failure::soon("an earlier attempt at its contents to end"));
    }
    let got: Option<Option<u8>> = admin.query_first("SELECT GET_LOCK('bowline.provision', 0)").await.map_err(failed)?;
    match got {
        Some(Some(1)) => Ok(()),
        Some(_) | None => Err(failure::soon("an earlier attempt at its contents to end")),
    }
}

fn create_database(access: &Access) -> String {
    format!("CREATE DATABASE IF NOT EXISTS {} CHARACTER SET utf8mb4", name(&access.database))
}

fn setup(access: &Access) -> Vec<String> {
    let (user, database) = (literal(&access.user), name(&access.database));
    // The hash that the server keeps: the password itself appears in no statement and no log.
    let hash = native_hash(access.password.expose());
    let hosts = ["127.0.0.1"].map(|host| format!("{user}@'{host}'"));
    let mut all = vec![
        create_database(access),
        format!("CREATE DATABASE IF NOT EXISTS {OWN}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {OWN}.marker (one TINYINT PRIMARY KEY, environment VARCHAR(64) NOT NULL, \
             filled BOOLEAN NOT NULL) ENGINE = InnoDB"
        ),
        // Of a marker that was written without it nothing is known.
        format!("ALTER TABLE {OWN}.marker ADD COLUMN IF NOT EXISTS let_in BOOLEAN NOT NULL DEFAULT TRUE"),
    ];
    for account in hosts {
        all.push(format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED BY PASSWORD '{hash}'"));
        all.push(format!("ALTER USER {account} IDENTIFIED BY PASSWORD '{hash}'"));
        all.push(format!("GRANT ALL PRIVILEGES ON {}.* TO {account}", grant_pattern(&database)));
    }
    all
}

/// In a grant `_` stands for any character.
pub(super) fn grant_pattern(database: &str) -> String {
    database.replace('_', "\\_")
}

/// `mysql_native_password`: `*` and SHA-1 of the SHA-1, in upper-case hexadecimal.
pub(super) fn native_hash(password: &[u8]) -> String {
    use sha1::{Digest as _, Sha1};
    let twice = Sha1::digest(Sha1::digest(password));
    twice.iter().fold(String::from("*"), |mut text, byte| {
        use std::fmt::Write as _;
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// Runs the script, if there is one. What it left uncommitted is committed: it has come to its end.
async fn fill(site: &Site<'_>, access: &Access, init: Option<&InitScript>) -> Result<(), Trouble> {
    let Some(init) = init else { return Ok(()) };
    let mut app = connect_as(site, access).await?;
    for statement in statements(&init.sql, Dialect::MariaDb) {
        let Err(error) = app.query_drop(statement.text).await else { continue };
        return Err(refused(site, init, statement.line, error));
    }
    let end = init.sql.lines().count();
    app.query_drop("COMMIT").await.map_err(|error| refused(site, init, end, error))
}

/// A statement of the script failed: where, and what the server said.
fn refused(site: &Site<'_>, init: &InitScript, line: usize, error: mysql_async::Error) -> Trouble {
    /// `ER_SPECIFIC_ACCESS_DENIED_ERROR`: what a dump's `DEFINER` asks for.
    const NEEDS_MORE: u16 = 1227;
    let mysql_async::Error::Server(said) = &error else {
        return unusable(site.key, "filling it for the first time", &error);
    };
    let definer = "it runs as the app's own user: take DEFINER = … and global settings out of the dump";
    let advice = Some(definer).filter(|_| said.code == NEEDS_MORE);
    script_refused(site.key, init, line + line_within(&said.message), &said.message, (advice, None))
}

/// `… near 'x' at line 3`: counted from 1 within the statement.
fn line_within(message: &str) -> usize {
    let number = message.rsplit_once(" at line ").and_then(|(_, number)| number.trim().parse::<usize>().ok());
    number.map_or(0, |number| number.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_servers_own() {
        // SELECT PASSWORD('password')
        assert_eq!(native_hash(b"password"), "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
    }

    #[test]
    fn lines_within_a_statement_are_read_from_the_message() {
        assert_eq!(line_within("You have an error … near 'x' at line 3"), 2);
        assert_eq!(line_within("Table 'a' already exists"), 0);
    }
}
