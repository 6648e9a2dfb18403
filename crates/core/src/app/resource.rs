//! Databases, volumes and buckets. They belong to (environment, app, name) and outlive releases.

use std::fmt;
use std::time::Duration;

use crate::id::{SecretName, ServiceName};
use crate::units::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DatabaseKind {
    Postgres,
    MariaDb,
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
        })
    }
}

/// What kind of server a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    Postgres,
    MariaDb,
    Redis,
}

impl ResourceKind {
    pub const ALL: [Self; 3] = [Self::Postgres, Self::MariaDb, Self::Redis];

    /// The name of its tables in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::Redis => "redis",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<DatabaseKind> for ResourceKind {
    fn from(kind: DatabaseKind) -> Self {
        match kind {
            DatabaseKind::Postgres => Self::Postgres,
            DatabaseKind::MariaDb => Self::MariaDb,
        }
    }
}

/// `[postgres.NAME]`, `[mariadb.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub source: DatabaseSource,
    /// Run once on an empty database.
    pub init: Option<String>,
    pub backup: Option<Backup>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseSource {
    /// Run by Bowline from the machine's packages; `None`: the newest found.
    Managed { version: Option<u16> },
    /// An external server.
    External { url: SecretName, ca: Option<SecretName> },
}

/// `[redis.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    pub source: RedisSource,
    pub backup: Option<Backup>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisSource {
    Managed { version: Option<u16>, persist: bool },
    External { url: SecretName, ca: Option<SecretName> },
}

/// `[volume.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// `None`: every service and job.
    pub services: Option<Vec<ServiceName>>,
    /// Where it is mounted, absolute. Always given as `BOWLINE_VOLUME_NAME` too.
    pub path: Option<String>,
    /// What it may hold. Reserved and enforced where Bowline runs as root; never shrunk. `None`: unbounded.
    pub size: Option<Bytes>,
    pub backup: Option<Backup>,
}

impl Volume {
    /// Whether one may appear at this absolute path: not over what a system keeps for itself, for its users and for
    /// programs, Bowline among them.
    pub fn may_be_mounted(path: &str) -> bool {
        const TAKEN: [&str; 18] = [
            "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "nix", "opt", "proc", "root",
            "run", "sbin", "sys", "tmp", "usr",
        ];
        let mut names = path.split('/').filter(|name| !name.is_empty());
        match names.next() {
            // Logs, queues, other programs' data; what a site serves is often there.
            Some("var") => names.next() == Some("www"),
            Some(top) => !TAKEN.contains(&top),
            None => false,
        }
    }
}

/// `[bucket.NAME]`: S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// `None`: a bucket that Bowline runs.
    pub external: Option<SecretName>,
    pub backup: Option<Backup>,
}

/// `backup = { every = "1d", keep = 7, drill = "7d" }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    pub every: Duration,
    /// How many are kept. Default 7.
    pub keep: u16,
    /// How often one is restored and compared. Default: never.
    pub drill: Option<Duration>,
}
