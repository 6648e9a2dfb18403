//! Leases of PostgreSQL: roles with `VALID UNTIL`.

use bowline_core::resource::data::{Lease, Rights};
use bowline_core::resource::{Access, Trouble};
use tokio_postgres::Client;

use super::{SESSIONS, STATEMENT_LIMIT, utc};
use crate::resource::failure::unusable;
use crate::resource::postgres::{READERS, connect, is_empty, literal, name};
use crate::resource::site::Site;

/// How these connections call themselves.
const NAME: &str = "bowline-lease";

pub(super) async fn lend(site: &Site<'_>, access: &Access, lease: &Lease) -> Result<(String, bool), Trouble> {
    let admin = connect(site, &access.database, NAME).await?;
    let empty = is_empty(site, &admin).await?;
    let failed = |error| unusable(site.key, "making a role for a while", &error);
    if lease.rights == Rights::Read {
        let known = admin.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&READERS]).await.map_err(failed)?;
        if known.is_none() {
            admin.batch_execute(&format!("CREATE ROLE {READERS} NOLOGIN")).await.map_err(failed)?;
        }
        // A server that has run since before readers were known reads its rules anew.
        admin.batch_execute("SELECT pg_reload_conf()").await.map_err(failed)?;
    }
    admin.batch_execute(&statements(access, lease)).await.map_err(failed)?;
    Ok((lease.user.clone(), empty))
}

fn statements(access: &Access, lease: &Lease) -> String {
    let (user, role, database) = (name(&lease.user), name(&access.user), name(&access.database));
    let verifier = postgres_protocol::password::scram_sha_256(lease.password.expose());
    let (verifier, until) = (literal(&verifier), utc(lease.until));
    let mut all = vec![format!(
        "CREATE ROLE {user} LOGIN PASSWORD {verifier} VALID UNTIL '{until}+00' CONNECTION LIMIT {SESSIONS}"
    )];
    match lease.rights {
        Rights::Read => {
            all.push(format!("GRANT {READERS}, pg_read_all_data TO {user}"));
            all.push(format!("GRANT CONNECT ON DATABASE {database} TO {user}"));
            all.push(format!("ALTER ROLE {user} SET default_transaction_read_only = on"));
        }
        // What they make is the app's.
        Rights::Write | Rights::Import => {
            all.push(format!("GRANT {role} TO {user}"));
            all.push(format!("ALTER ROLE {user} SET role = {}", literal(&access.user)));
        }
    }
    match lease.rights {
        // Every statement of a person gets into the server's log.
        Rights::Read | Rights::Write => {
            all.push(format!("ALTER ROLE {user} SET statement_timeout = '{}s'", STATEMENT_LIMIT.as_secs()));
            all.push(format!("ALTER ROLE {user} SET idle_in_transaction_session_timeout = '5min'"));
            all.push(format!("ALTER ROLE {user} SET log_statement = 'all'"));
        }
        Rights::Import => {}
    }
    format!("BEGIN; {}; COMMIT", all.join("; "))
}

/// Ends its sessions; what it owns is the app's.
pub(super) async fn end(site: &Site<'_>, access: &Access, user: &str) -> Result<(), Trouble> {
    let admin = connect(site, &access.database, NAME).await?;
    let failed = |error| unusable(site.key, "removing a role that is over", &error);
    if !names_of(site, &admin).await?.iter().any(|known| known == user) {
        return Ok(());
    }
    let (quoted, role) = (name(user), name(&access.user));
    admin.batch_execute(&format!("ALTER ROLE {quoted} NOLOGIN")).await.map_err(failed)?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    admin.query(end, &[&user]).await.map_err(failed)?;
    let drop =
        format!("BEGIN; REASSIGN OWNED BY {quoted} TO {role}; DROP OWNED BY {quoted}; DROP ROLE {quoted}; COMMIT");
    admin.batch_execute(&drop).await.map_err(failed)
}

pub(super) async fn names(site: &Site<'_>) -> Result<Vec<String>, Trouble> {
    let admin = connect(site, "postgres", NAME).await?;
    names_of(site, &admin).await
}

async fn names_of(site: &Site<'_>, admin: &Client) -> Result<Vec<String>, Trouble> {
    let rows = admin.query("SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'lease\\_%'", &[]).await;
    let rows = rows.map_err(|error| unusable(site.key, "looking for roles that are over", &error))?;
    Ok(rows.into_iter().map(|row| row.get(0)).collect())
}
