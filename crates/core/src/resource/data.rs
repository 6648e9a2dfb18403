//! What a person asks of data: how much there is, to be let in for a while, to fill, to remove.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ResourceId, ResourceKey, ResourceSpec};
use crate::app::ResourceKind;
use crate::id::{AppKey, NameError, ReleaseNumber, ResourceName};
use crate::instance::VolumeMount;
use crate::secret::Secret;
use crate::time::Timestamp;

/// The table of volumes in the file, and the first half of their names here.
const VOLUME: &str = "volume";

/// Data of an app: a database, a cache or a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataId {
    Server(ResourceId),
    Volume(ResourceName),
}

/// Why a text names no data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataIdError {
    #[error("KIND.NAME is wanted: postgres.db, redis.cache, volume.files")]
    Form,
    #[error("{0:?} is no kind: postgres, mariadb, redis, volume")]
    Kind(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl DataId {
    /// `postgres.db`, `volume.files`.
    pub fn parse(text: &str) -> Result<Self, DataIdError> {
        let (kind, name) = text.split_once('.').ok_or(DataIdError::Form)?;
        if kind == VOLUME {
            return Ok(Self::Volume(ResourceName::new(name)?));
        }
        let kind = ResourceKind::of(kind).ok_or_else(|| DataIdError::Kind(kind.to_owned()))?;
        Ok(Self::Server(ResourceId { kind, name: ResourceName::new(name)? }))
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Server(id) => id.kind.as_str(),
            Self::Volume(_) => VOLUME,
        }
    }

    pub fn name(&self) -> &ResourceName {
        match self {
            Self::Server(id) => &id.name,
            Self::Volume(name) => name,
        }
    }
}

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind(), self.name())
    }
}

/// Credentials of a person for a while. The name says until when they hold, so that nothing else has to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub user: String,
    pub password: Secret,
    pub until: Timestamp,
    pub rights: Rights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Sees everything, changes nothing; a statement that takes long is ended.
    Read,
    /// What the app may do; what is made belongs to the app. A statement that takes long is ended.
    Write,
    /// The same, for as long as it takes.
    Import,
}

/// What the names of leases begin with; no role of an app does.
const LEASE: &str = "lease_";

/// `lease_UNTIL_RANDOM`, both hexadecimal; the first in seconds since 1970.
pub fn lease_name(until: Timestamp, random: u64) -> String {
    format!("{LEASE}{:x}_{random:016x}", until.0.div_ceil(1_000))
}

/// Until when credentials of this name hold; `None`: it is not the name of a lease.
pub fn lease_end(name: &str) -> Option<Timestamp> {
    let (until, random) = name.strip_prefix(LEASE)?.split_once('_')?;
    u64::from_str_radix(random, 16).ok()?;
    Some(Timestamp(u64::from_str_radix(until, 16).ok()?.checked_mul(1_000)?))
}

/// The largest archive that a volume is filled with from elsewhere, in bytes. What there is room for is less.
pub const MAX_ARCHIVE: u64 = 1 << 40;

/// What a volume is filled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FillSource {
    /// A folder or an archive of this machine, named by its owner.
    Here(PathBuf),
    /// An archive of tar that is not compressed, as it came from elsewhere: nothing of it is done but as the app's own user.
    Sent(PathBuf),
}

/// Asked of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataOrder {
    /// Everything below the folders of servers and of volumes, by app.
    Measure { servers: PathBuf, volumes: PathBuf },
    /// Let somebody into a server that runs.
    Lend { key: ResourceKey, server: Arc<ResourceSpec>, lease: Lease },
    /// They are done.
    Return { key: ResourceKey, server: Arc<ResourceSpec>, user: String },
    /// Whether the folder of a volume may be filled: that it is empty, or nothing uses what is to be replaced.
    MayFill { volume: PathBuf, replace: bool },
    /// Copies a folder or an archive into the folder of a volume. `uid`: the app's own user.
    Fill { volume: PathBuf, uid: Option<u32>, source: FillSource, replace: bool },
    /// Keeps data as they are now in a folder, whole or not at all. One that is there already is left as it is. `uid`: the app's own
    /// user.
    Snapshot { into: PathBuf, release: ReleaseNumber, of: Vec<SnapshotOf>, uid: Option<u32> },
    /// Removes a folder with all that is in it: at once as far as anyone can see.
    Discard { folder: PathBuf },
}

/// Of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotOf {
    /// A server that runs.
    Server {
        key: ResourceKey,
        server: Arc<ResourceSpec>,
    },
    Volume {
        app: AppKey,
        volume: VolumeMount,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDone {
    Measured(Vec<Measured>),
    Lent {
        /// Who the credentials are for the server: a lease's own name, or the app's.
        user: String,
        /// Nothing of anybody's was in it when they were made.
        empty: bool,
    },
    Returned,
    Fillable,
    Filled {
        files: u64,
    },
    /// How large its files are.
    Snapshotted {
        bytes: u64,
    },
    /// Whether there was anything.
    Discarded(bool),
}

/// Data found on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    pub app: AppKey,
    pub id: DataId,
    /// What they take on the disk.
    pub bytes: u64,
    /// When the folder was made, where the file system tells.
    pub since: Option<Timestamp>,
    /// What made the data, where it is written beside them: `15`.
    pub version: Option<String>,
    /// Names of what lies beside a volume and has not come into it: what it was to be filled with is whole there.
    pub beside: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_named_by_kind_and_name() {
        for text in ["postgres.db", "mariadb.a-1", "redis.cache", "volume.files"] {
            assert_eq!(DataId::parse(text).map(|id| id.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(DataId::parse("db"), Err(DataIdError::Form));
        assert_eq!(DataId::parse("oracle.db"), Err(DataIdError::Kind("oracle".into())));
        assert!(matches!(DataId::parse("volume.a/b"), Err(DataIdError::Name(_))));
    }

    #[test]
    fn the_name_of_a_lease_says_when_it_ends() {
        let name = lease_name(Timestamp(1_700_000_000_123), 7);
        assert_eq!(lease_end(&name), Some(Timestamp(1_700_000_001_000)), "{name}");
        for other in ["app_db", "lease_", "lease_zz_00", "lease_10_", "lease_10_app", "default"] {
            assert_eq!(lease_end(other), None, "{other}");
        }
    }
}
