//! MariaDB: its folder and configuration, then its user, database and first contents.
//!
//! The node is the server's administrator by who it is: the one account besides the app's is authenticated by the
//! user behind the private Unix socket (`unix_socket`), and no password for it exists. DDL commits by itself, so a
//! script is not one transaction: a marker says that it was begun, and a database that was begun and not finished is
//! made anew.

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
    site.make_data(site.uid(), |new, lock| {
        let mut install = Command::new("/usr/bin/mariadb-install-db");
        install.arg("--no-defaults").arg(format!("--datadir={}", new.display()));
        install.args(["--auth-root-authentication-method=socket", "--skip-test-db", "--skip-name-resolve"]);
        install.arg(format!("--auth-root-socket-user={user}"));
        site.run(install, site.uid(), lock)
    })?;
    site.write_config(VERSION, &format!("{}\n", installed.version))?;
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
    let made_by = made_by.trim();
    match made_by.split('.').next().and_then(|major| major.parse::<u16>().ok()) {
        Some(major) if major != installed.major => {
            let how = format!(
                "install MariaDB {major} again to go on as before; to move, dump the data with mariadb-dump there, write \
                 another table, [{}.NEW], and load them into it with MariaDB {}",
                site.key.id.kind, installed.major
            );
            Err(packages::other_version(site.key, made_by, installed.major, &how))
        }
        Some(_) | None => Ok(()),
    }
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
             skip-name-resolve\nmax_connections = {CONNECTIONS}\nlocal_infile = OFF\nsymbolic-links = OFF\n\
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

/// User, database, marker and first contents.
pub(super) async fn provision(site: &Site<'_>, access: &Access, init: Option<&InitScript>) -> Result<(), Trouble> {
    let mut admin = connect(site, None).await?;
    lock(site, &mut admin).await?;
    let failed = |error: mysql_async::Error| unusable(site.key, "making its user and database", &error);
    for statement in setup(access) {
        admin.query_drop(statement).await.map_err(failed)?;
    }
    let marker = "SELECT environment, filled FROM bowline.marker WHERE one = 1";
    let found: Option<(String, bool)> = admin.query_first(marker).await.map_err(failed)?;
    let database = name(&access.database);
    match found {
        Some((found, true)) if found != access.environment => {
            return Err(foreign(site.key, &found, &access.environment));
        }
        Some((_, true)) => return Ok(()),
        // It was begun and not finished; no app was let in: nothing is lost.
        Some((_, false)) => {
            admin.query_drop(format!("DROP DATABASE {database}")).await.map_err(failed)?;
            admin.query_drop(create_database(access)).await.map_err(failed)?;
        }
        None => {
            let empty = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ?";
            let tables: Option<u64> = admin.exec_first(empty, (&access.database,)).await.map_err(failed)?;
            let filled = tables.unwrap_or(0) > 0;
            let insert = "INSERT INTO bowline.marker (one, environment, filled) VALUES (1, ?, ?)";
            admin.exec_drop(insert, (&access.environment, filled)).await.map_err(failed)?;
            if filled {
                return Ok(());
            }
        }
    }
    fill(site, &mut admin, access, init).await
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

async fn fill(site: &Site<'_>, admin: &mut Conn, access: &Access, init: Option<&InitScript>) -> Result<(), Trouble> {
    let failed = |error: mysql_async::Error| unusable(site.key, "filling it for the first time", &error);
    if let Some(init) = init {
        admin.query_drop(format!("USE {}", name(&access.database))).await.map_err(failed)?;
        for statement in statements(&init.sql, Dialect::MariaDb) {
            let Err(error) = admin.query_drop(statement.text).await else { continue };
            let mysql_async::Error::Server(said) = &error else { return Err(failed(error)) };
            let line = statement.line + line_within(&said.message);
            return Err(script_refused(site.key, init, line, &said.message, [None, None]));
        }
    }
    admin.query_drop("UPDATE bowline.marker SET filled = TRUE").await.map_err(failed)
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
