//! Leases of MariaDB: accounts with an event that drops them.
//!
//! Views and routines run as whoever made them, and nobody can make them another's: what is imported is made by the
//! app's own account, which gets a second password for as long as that takes.

use bowline_core::resource::data::{Lease, Rights};
use bowline_core::resource::{Access, Trouble};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::{SESSIONS, STATEMENT_LIMIT, utc};
use crate::resource::failure::unusable;
use crate::resource::mariadb::{OWN, connect, grant_pattern, name, native_hash};
use crate::resource::postgres::literal;
use crate::resource::site::Site;

pub(super) async fn lend(site: &Site<'_>, access: &Access, lease: &Lease) -> Result<(String, bool), Trouble> {
    let mut admin = connect(site, None).await?;
    let failed = |error: mysql_async::Error| unusable(site.key, "making an account for a while", &error);
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ?";
    let tables: Option<u64> = admin.exec_first(tables, (&access.database,)).await.map_err(failed)?;
    let hash = native_hash(lease.password.expose());
    let statements = match lease.rights {
        Rights::Read => account(access, lease, &hash, "SELECT, SHOW VIEW"),
        Rights::Write => account(access, lease, &hash, "ALL PRIVILEGES"),
        Rights::Import => vec![passwords(access, &[&native_hash(access.password.expose()), &hash])],
    };
    for statement in statements {
        admin.query_drop(statement).await.map_err(failed)?;
    }
    let user = match lease.rights {
        Rights::Read | Rights::Write => lease.user.clone(),
        Rights::Import => access.user.clone(),
    };
    Ok((user, tables == Some(0)))
}

fn at_loopback(user: &str) -> String {
    format!("{}@'127.0.0.1'", literal(user))
}

fn account(access: &Access, lease: &Lease, hash: &str, rights: &str) -> Vec<String> {
    let (account, event) = (at_loopback(&lease.user), name(&lease.user));
    let (limit, until) = (STATEMENT_LIMIT.as_secs(), utc(lease.until));
    vec![
        format!(
            "CREATE USER {account} IDENTIFIED BY PASSWORD '{hash}' WITH MAX_STATEMENT_TIME {limit} \
             MAX_USER_CONNECTIONS {SESSIONS}"
        ),
        format!("GRANT {rights} ON {}.* TO {account}", grant_pattern(&name(&access.database))),
        "SET GLOBAL event_scheduler = ON".to_owned(),
        format!("CREATE EVENT {OWN}.{event} ON SCHEDULE AT '{until}' DO DROP USER IF EXISTS {account}"),
    ]
}

/// The app's account is let in by any of these.
fn passwords(access: &Access, hashes: &[&str]) -> String {
    let one = |hash: &&str| format!("mysql_native_password USING '{hash}'");
    let ways: Vec<String> = hashes.iter().map(one).collect();
    format!("ALTER USER {} IDENTIFIED VIA {}", at_loopback(&access.user), ways.join(" OR "))
}

/// Ends its sessions. The app's own account is left with its own password.
pub(super) async fn end(site: &Site<'_>, access: &Access, user: &str) -> Result<(), Trouble> {
    let mut admin = connect(site, None).await?;
    let failed = |error: mysql_async::Error| unusable(site.key, "removing an account that is over", &error);
    if user == access.user {
        let own = native_hash(access.password.expose());
        return admin.query_drop(passwords(access, &[&own])).await.map_err(failed);
    }
    let drop = format!("DROP USER IF EXISTS {}", at_loopback(user));
    admin.query_drop(drop).await.map_err(failed)?;
    let sessions = "SELECT id FROM information_schema.processlist WHERE user = ?";
    let sessions: Vec<u64> = admin.exec(sessions, (user,)).await.map_err(failed)?;
    for session in sessions {
        // It may have ended meanwhile.
        let _ = admin.query_drop(format!("KILL {session}")).await;
    }
    admin.query_drop(format!("DROP EVENT IF EXISTS {OWN}.{}", name(user))).await.map_err(failed)
}

pub(super) async fn names(site: &Site<'_>) -> Result<Vec<String>, Trouble> {
    let mut admin = connect(site, None).await?;
    let failed = |error: mysql_async::Error| unusable(site.key, "looking for accounts that are over", &error);
    // One that its event has dropped may still have sessions.
    let mut names =
        select(&mut admin, "SELECT user FROM mysql.user WHERE user LIKE 'lease\\_%'").await.map_err(failed)?;
    let open = "SELECT DISTINCT user FROM information_schema.processlist WHERE user LIKE 'lease\\_%'";
    names.extend(select(&mut admin, open).await.map_err(failed)?);
    Ok(names)
}

async fn select(admin: &mut Conn, query: &str) -> Result<Vec<String>, mysql_async::Error> {
    admin.query(query).await
}
