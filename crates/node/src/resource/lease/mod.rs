//! People and tools in a server for a while: credentials of their own, which end.
//!
//! The name of a lease says until when it holds, so nothing has to be kept beside the server: whoever looks into it
//! knows what is over. PostgreSQL and MariaDB end it by themselves; sessions that go on, and Redis, which knows no end,
//! are ended by the node, also after it was started again.

mod mariadb;
mod postgres;
mod redis;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::data::{DataDone, Lease, lease_end};
use bowline_core::resource::{Access, Managed, ResourceKey, ResourceSpec};
use bowline_core::time::Timestamp;

use super::site::Site;
use super::{Trouble, wrong_kind};

/// Between two attempts to end what is over, where the server cannot be asked.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// After so many it is left to the next start of the server, which is looked at again.
const ATTEMPTS: u32 = 20;
/// A statement of a person that takes longer is ended.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);
/// Sessions of one lease.
const SESSIONS: u32 = 8;

/// Makes the credentials.
pub(crate) async fn lend(
    run_dir: &Path,
    key: &ResourceKey,
    spec: &Arc<ResourceSpec>,
    lease: &Lease,
) -> Result<DataDone, Fault> {
    let Managed { server, access, .. } = managed(key, spec)?;
    let site = Site::new(key, server, run_dir);
    let lent = match key.id.kind {
        ResourceKind::Postgres => postgres::lend(&site, access, lease).await,
        ResourceKind::MariaDb => mariadb::lend(&site, access, lease).await,
        ResourceKind::Redis => redis::lend(&site, access, lease).await,
    };
    let (user, empty) = lent.map_err(|trouble| trouble.fault)?;
    watch(key.clone(), Arc::clone(spec), run_dir.to_owned());
    Ok(DataDone::Lent { user, empty })
}

/// Ends them before their time.
pub(crate) async fn give_back(
    run_dir: &Path,
    key: &ResourceKey,
    spec: &ResourceSpec,
    user: &str,
) -> Result<DataDone, Fault> {
    let Managed { server, access, .. } = managed(key, spec)?;
    let site = Site::new(key, server, run_dir);
    let own = key.id.kind == ResourceKind::MariaDb && user == access.user;
    if lease_end(user).is_none() && !own {
        let fault = Fault::new(FaultKind::Refused, format!("{user} is not let in to {} for a while", key.id));
        return Err(fault.hint("`bowline events` shows who is"));
    }
    let ended = match key.id.kind {
        ResourceKind::Postgres => postgres::end(&site, access, user).await,
        ResourceKind::MariaDb => mariadb::end(&site, access, user).await,
        ResourceKind::Redis => redis::end(&site, user).await,
    };
    ended.map(|()| DataDone::Returned).map_err(|trouble| trouble.fault)
}

fn managed<'s>(key: &ResourceKey, spec: &'s ResourceSpec) -> Result<&'s Managed, Fault> {
    spec.managed().ok_or_else(|| wrong_kind(key).fault)
}

/// Ends each lease of a server when it is over, until there is none. Several of these do no harm to each other.
pub(super) fn watch(key: ResourceKey, spec: Arc<ResourceSpec>, run_dir: PathBuf) {
    tokio::spawn(async move {
        let Some(Managed { server, access, .. }) = spec.managed() else { return };
        let site = Site::new(&key, server, &run_dir);
        let mut failures = 0;
        while failures < ATTEMPTS {
            let wait = match sweep(&site, access).await {
                Ok(None) => return,
                Ok(Some(next)) => {
                    failures = 0;
                    Duration::from_millis(next.0.saturating_sub(now().0))
                }
                Err(trouble) => {
                    tracing::debug!(%key, error = %trouble.fault, "leases not looked at");
                    failures += 1;
                    ASK_AGAIN
                }
            };
            tokio::time::sleep(wait.max(Duration::from_secs(1))).await;
        }
    });
}

/// Ends what is over; when the next one is.
async fn sweep(site: &Site<'_>, access: &Access) -> Result<Option<Timestamp>, Trouble> {
    let names = match site.key.id.kind {
        ResourceKind::Postgres => postgres::names(site).await?,
        ResourceKind::MariaDb => mariadb::names(site).await?,
        ResourceKind::Redis => redis::names(site).await?,
    };
    let mut next: Option<Timestamp> = None;
    for (name, end) in names.iter().filter_map(|name| Some((name, lease_end(name)?))) {
        if end > now() {
            next = Some(next.map_or(end, |next| next.min(end)));
            continue;
        }
        match site.key.id.kind {
            ResourceKind::Postgres => postgres::end(site, access, name).await?,
            ResourceKind::MariaDb => mariadb::end(site, access, name).await?,
            ResourceKind::Redis => redis::end(site, name).await?,
        }
        tracing::info!(resource = %site.key, lease = %name, "lease ended");
    }
    Ok(next)
}

fn now() -> Timestamp {
    Timestamp(crate::shim::outer::now_ms())
}

/// `2026-01-31 12:00:00`, UTC.
fn utc(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_servers_in_utc() {
        assert_eq!(utc(Timestamp(1_700_000_000_999)), "2023-11-14 22:13:20");
    }
}
