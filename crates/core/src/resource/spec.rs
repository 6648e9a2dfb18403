//! What a node is told about resources, and what it reports.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::app::ResourceKind;
use crate::fault::Fault;
use crate::id::{AppKey, Port, ReleaseNumber, ResourceName, ServiceName, Slot, SlotId};
use crate::instance::{InstanceSpec, Usage};
use crate::secret::Secret;
use crate::time::Timestamp;

/// A resource of an app: `postgres.db`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    pub kind: ResourceKind,
    pub name: ResourceName,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.name)
    }
}

/// A resource of an app in one environment: `local/shop.postgres.db`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    pub app: AppKey,
    pub id: ResourceId,
}

impl ResourceKey {
    /// The slot of the server that Bowline runs for it.
    pub fn slot(&self) -> SlotId {
        let service = ServiceName::of_resource(self.id.kind.as_str(), &self.id.name);
        SlotId { key: self.app.clone(), service, release: ReleaseNumber(0), slot: Slot(0) }
    }

    /// The resource that a slot stands for; `None`: an instance of a service.
    pub fn of_slot(slot: &SlotId) -> Option<Self> {
        let (kind, name) = slot.service.resource()?;
        let id = ResourceId { kind: ResourceKind::of(kind)?, name: ResourceName::new(name).ok()? };
        Some(Self { app: slot.key.clone(), id })
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.app, self.id)
    }
}

/// One resource, decided; the node makes no choice but which of the machine's binaries runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceSpec {
    Managed(Managed),
    External(External),
    Left(Left),
}

impl ResourceSpec {
    /// `None`: it runs elsewhere, or nobody knows how to get into it.
    pub fn managed(&self) -> Option<&Managed> {
        match self {
            Self::Managed(managed) => Some(managed),
            Self::Left(left) => left.known.as_ref(),
            Self::External(_) => None,
        }
    }

    /// The port that nobody else is to come to, and whose it is; `None`: it runs elsewhere.
    pub fn listens(&self) -> Option<(Port, Option<u32>)> {
        match self {
            Self::Managed(managed) => Some((managed.server.port, managed.server.uid)),
            Self::Left(left) => Some((left.port, left.uid)),
            Self::External(_) => None,
        }
    }
}

/// A server of which nobody knows what it is to be: it is neither prepared, nor started, nor ended. One that runs goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub port: Port,
    pub uid: Option<u32>,
    /// How to get into it; `None`: its password cannot be read. Whether it persists is not known.
    pub known: Option<Managed>,
}

/// A server that Bowline runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Another one means a restart.
    pub server: Server,
    /// Another one is taken up by the running server.
    pub access: Access,
    /// Run once, on an empty database.
    pub init: Option<InitScript>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Holds the data; made if it is missing.
    pub folder: PathBuf,
    /// The major version; `None`: that of the data, else the newest that is installed.
    pub version: Option<u16>,
    /// Redis only: whether its data survive a restart.
    pub persist: bool,
    /// On loopback.
    pub port: Port,
    /// Its own user when the node is root; `None`: the node's own.
    pub uid: Option<u32>,
    /// Redis only, which knows no other way to tell the node from an app: the password of its administrator.
    pub admin: Option<Secret>,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Role, and owner of the database. Redis: the default user.
    pub user: String,
    pub database: String,
    pub password: Secret,
    /// The identity of the environment: a database that bears another one is refused.
    pub environment: String,
}

/// `init = "source/init.sql"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitScript {
    /// As the file names it, for messages.
    pub file: String,
    pub sql: Arc<str>,
}

/// A server elsewhere: looked at before a release that refers to it, and then again and again; never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    pub url: Secret,
    /// Certificates that the server's must be signed by, PEM.
    pub ca: Option<Secret>,
    /// Who asks: each release is answered with a look of its own.
    pub release: ReleaseNumber,
}

/// What came of preparing a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// Slot and incarnation of its id are replaced.
    pub spec: Arc<InstanceSpec>,
    /// `15.8`
    pub version: String,
}

/// Why a step did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub fault: Fault,
    pub nature: Nature,
}

/// What may be hoped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Nothing is wrong: it is not there yet.
    Soon,
    /// It may go away by itself.
    Passing,
    /// Somebody has to change something.
    Lasting,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ResourceObservation {
    pub phase: ResourcePhase,
    /// What the server calls itself: `15.8`.
    pub version: Option<String>,
    pub pid: Option<u32>,
    pub since: Option<Timestamp>,
    pub usage: Usage,
    /// Starts of the server before this one.
    pub restarts: u32,
    /// What the machine cannot enforce for it.
    pub unenforced: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ResourcePhase {
    /// Its folder is being made, or a server elsewhere is being asked.
    Preparing,
    /// The server starts, or its roles and contents are being made.
    Starting {
        on: String,
    },
    Ready,
    /// It is tried again by itself.
    Failing {
        fault: Fault,
        /// Failures in a row.
        attempts: u32,
        /// Nothing will change by itself.
        lasting: bool,
    },
    /// It is not wanted any more.
    Stopping,
}

impl ResourcePhase {
    /// For people: `starting: …`.
    pub fn describe(&self) -> String {
        match self {
            Self::Preparing => "preparing".to_owned(),
            Self::Starting { on } => format!("starting: {on}"),
            Self::Ready => "ready".to_owned(),
            Self::Failing { fault, attempts, lasting } => {
                let times = match lasting {
                    true => String::new(),
                    false => format!(", failed {}", crate::instance::Times(*attempts)),
                };
                format!("failing: {}{times}", fault.causes.first().unwrap_or(&fault.message))
            }
            Self::Stopping => "stopping".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sample;

    #[test]
    fn a_resource_is_one_slot_and_back() {
        for kind in ResourceKind::ALL {
            let id = ResourceId { kind, name: ResourceName::new("db-2").unwrap() };
            let key = ResourceKey { app: sample::key("local", "shop"), id };
            assert_eq!(ResourceKey::of_slot(&key.slot()), Some(key));
        }
        let mut slot = SlotId {
            key: sample::key("local", "shop"),
            service: ServiceName::new("web").unwrap(),
            release: ReleaseNumber(1),
            slot: Slot(0),
        };
        assert_eq!(ResourceKey::of_slot(&slot), None);
        slot.service = ServiceName::of_resource("oracle", &ResourceName::new("db").unwrap());
        assert_eq!(ResourceKey::of_slot(&slot), None);
    }
}
