//! Leases of Redis: users of its access list, in memory only: a server that starts anew knows none.

use bowline_core::resource::data::{Lease, Rights};
use bowline_core::resource::{Access, Trouble};
use redis::RedisError;

use crate::resource::failure::unusable;
use crate::resource::redis::{RULES, connect, hash};
use crate::resource::site::Site;

/// Looks, and changes nothing.
const READ_RULES: &str = "~* &* +@read +@connection +info -@admin";

pub(super) async fn lend(site: &Site<'_>, _: &Access, lease: &Lease) -> Result<(String, bool), Trouble> {
    let mut admin = connect(site).await?;
    let failed = |error: RedisError| unusable(site.key, "making a user for a while", &error);
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut admin).await.map_err(failed)?;
    let rules = match lease.rights {
        Rights::Read => READ_RULES,
        Rights::Write | Rights::Import => RULES,
    };
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg(&lease.user).arg("reset").arg("on").arg(format!("#{}", hash(&lease.password)));
    rules.split(' ').for_each(|rule| {
        user.arg(rule);
    });
    user.exec_async(&mut admin).await.map_err(failed)?;
    Ok((lease.user.clone(), keys == 0))
}

/// Ends its sessions, too.
pub(super) async fn end(site: &Site<'_>, user: &str) -> Result<(), Trouble> {
    let mut admin = connect(site).await?;
    let failed = |error: RedisError| unusable(site.key, "removing a user that is over", &error);
    redis::cmd("ACL").arg("DELUSER").arg(user).exec_async(&mut admin).await.map_err(failed)
}

pub(super) async fn names(site: &Site<'_>) -> Result<Vec<String>, Trouble> {
    let mut admin = connect(site).await?;
    let users = redis::cmd("ACL").arg("USERS").query_async(&mut admin).await;
    users.map_err(|error| unusable(site.key, "looking for users that are over", &error))
}
