//! Servers that Bowline runs for an app: what each is given once and keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Port};
use bowline_core::resource::{ResourceId, ResourceKey};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;

use super::BOWLINE;
use crate::reconcile::resources::{Kept, admin_name, password_name};
use crate::secrets::Vault;
use crate::store::{ResourceRecord, Store, StoreError, Tx};

/// Below the ports of instances (20,000 to 29,999) and below every common ephemeral range: a server that is stopped for
/// a while finds its port free.
const PORTS: Range<u16> = 15_000..20_000;

/// All that is chosen outside of the transaction.
#[derive(Debug)]
pub(super) struct Servers {
    wanted: BTreeMap<ResourceId, Option<String>>,
    /// Free a moment ago; more than are needed, since another change may take one meanwhile.
    ports: Vec<Port>,
}

/// Makes the passwords that are missing and looks for ports.
pub(super) async fn prepare(
    store: &Store,
    vault: &Vault,
    key: &AppKey,
    wanted: BTreeMap<ResourceId, Option<String>>,
    at: Timestamp,
) -> Result<Servers, Fault> {
    for id in wanted.keys() {
        for name in [Some(password_name(id)), admin_name(id)].into_iter().flatten() {
            vault.ensure(key, &name, at, BOWLINE).await?;
        }
    }
    let ports = match wanted.is_empty() {
        true => Vec::new(),
        false => {
            let (count, random) = (wanted.len() * 2, getrandom::u64().map_err(super::no_random)?);
            let taken = store.read(|view| view.ports())?.into_iter().map(Port::get).collect();
            free_ports(count, &taken, random)
        }
    };
    Ok(Servers { wanted, ports })
}

/// From a random place on: two daemons on one machine then hardly ever meet.
fn free_ports(count: usize, taken: &BTreeSet<u16>, random: u64) -> Vec<Port> {
    let first = u16::try_from(random % PORTS.len() as u64).map_or(PORTS.start, |offset| PORTS.start + offset);
    let free = |port: &u16| !taken.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (first..PORTS.end).chain(PORTS.start..first).filter(free).take(count).filter_map(Port::new).collect()
}

impl Servers {
    pub(super) fn register(self, tx: &mut Tx<'_>, app: &AppKey, at: Timestamp) -> Result<(), StoreError> {
        let taken = tx.ports()?;
        let mut ports = self.ports.into_iter().filter(|port| !taken.contains(port));
        for (id, init) in self.wanted {
            let key = ResourceKey { app: app.clone(), id };
            let record = match tx.resource(&key)? {
                Some(known) => known,
                None => {
                    let port =
                        ports.next().ok_or(StoreError::PortsExhausted { first: PORTS.start, last: PORTS.end - 1 })?;
                    tx.register_resource(&key, port, at)?
                }
            };
            if record.init != init {
                tx.set_init(&record, init)?;
            }
        }
        Ok(())
    }
}

/// The servers of an app that the store knows, those included that no file names any more.
pub(crate) fn kept(vault: &Vault, app: &AppKey) -> Result<Vec<Kept>, Fault> {
    known(vault, app)?.into_iter().map(|(_, kept)| kept).collect()
}

/// A server as it is known without its passwords, and with them.
pub(crate) type Known = (ResourceRecord, Result<Kept, Fault>);

/// The same, also where a password does not open.
pub(crate) fn known(vault: &Vault, app: &AppKey) -> Result<Vec<Known>, Fault> {
    let (records, environment) =
        vault.store().read(|view| Ok((view.resources_of(app)?, view.environment(&app.env)?)))?;
    let environment = environment.map(|id| id.to_string()).unwrap_or_default();
    let open = |name| -> Result<Secret, Fault> {
        let newest = vault.store().read(|view| view.newest_secret(app, &name))?;
        let newest = newest.ok_or_else(|| {
            Fault::new(FaultKind::Failed, format!("the password {name} of {app} is not in the store"))
                .hint("apply the folder again: it is made anew")
        })?;
        Ok(vault.reveal(app, &name, newest.version)?)
    };
    let one = |record: ResourceRecord| {
        let id = record.key.id.clone();
        let (password, admin) = (open(password_name(&id))?, admin_name(&id).map(open).transpose()?);
        Ok(Kept { record, password, admin, environment: environment.clone() })
    };
    Ok(records.into_iter().map(|record| (record.clone(), one(record))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_differ_wherever_the_search_begins() {
        for random in [0, 4_999, 5_000, u64::MAX] {
            let taken = BTreeSet::from([PORTS.start, PORTS.start + 1]);
            let ports: BTreeSet<u16> = free_ports(10, &taken, random).into_iter().map(Port::get).collect();
            assert_eq!(ports.len(), 10, "{random}");
            assert!(ports.iter().all(|port| PORTS.contains(port) && !taken.contains(port)), "{ports:?}");
        }
    }
}
