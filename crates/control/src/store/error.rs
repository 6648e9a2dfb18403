//! Why the store refuses, and what an operator does next.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, ReleaseNumber, SecretName};
use rusqlite::ErrorCode;

/// Everything that can go wrong with the store. Cloned to each request of a group that fails together.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the store is damaged: table {table}, {row}")]
    Corrupt { table: String, row: String },
    /// Its checksum is right: another version wrote it.
    #[error("the store holds what this Bowline does not know: table {table}, {what}")]
    Unknown { table: String, what: String },
    #[error("the store has lost commits: it holds {have}, {want} were acknowledged")]
    LostCommits { have: u64, want: u64 },
    #[error("the store's head file is older than the database: it says {head}, the database holds {have}")]
    HeadStale { have: u64, head: u64 },
    #[error("the database and its head file do not belong together: they differ at commit {sequence}")]
    HeadForeign { sequence: u64 },
    #[error("the store's head file is damaged: {0}")]
    HeadDamaged(&'static str),
    #[error("the store's head file is missing: {0}")]
    HeadMissing(PathBuf),
    #[error("the store's database is missing or empty: {0}")]
    DatabaseMissing(PathBuf),
    #[error("the store was written with another master key")]
    ForeignKey,
    #[error("the store was written by a newer Bowline: its form is {found}, this one knows {known}")]
    TooNew { found: u32, known: u32 },
    #[error("another process has the store open: {0}")]
    InUse(PathBuf),
    #[error("no space is left for the store")]
    DiskFull,
    #[error("the database refused")]
    Sqlite(#[source] Arc<rusqlite::Error>),
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("the change is in the database, but was not confirmed by the head file")]
    Unconfirmed(#[source] Arc<std::io::Error>),
    #[error("the store is closed")]
    Closed,
    #[error("{key} belongs to another folder: {first}")]
    FolderTaken { key: AppKey, first: PathBuf, asked: PathBuf },
    #[error("there is no app {0}")]
    NoApp(AppKey),
    #[error("{key} has no release {number}")]
    NoRevision { key: AppKey, number: ReleaseNumber },
    #[error("{key} has no secret {name}")]
    NoSecret { key: AppKey, name: SecretName },
    #[error("a secret could not be sealed: {0}")]
    Seal(&'static str),
    #[error("all user ids for apps are taken, from {first} to {last}")]
    UidsExhausted { first: u32, last: u32 },
    #[error("no port for a database is free, from {first} to {last}")]
    PortsExhausted { first: u16, last: u16 },
}

impl StoreError {
    pub(super) fn corrupt(table: &str, row: impl Into<String>) -> Self {
        Self::Corrupt { table: table.to_owned(), row: row.into() }
    }

    pub(super) fn unknown(table: &str, what: impl Into<String>) -> Self {
        Self::Unknown { table: table.to_owned(), what: what.into() }
    }

    /// What it is about is whole, and another version's.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull,
            Some(_) | None => Self::Io { what, path, source: Arc::new(error) },
        }
    }

    /// The file itself is wrong: no retry helps, and nothing may be written over it.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. }
            | Self::Unknown { .. }
            | Self::LostCommits { .. }
            | Self::HeadStale { .. }
            | Self::HeadForeign { .. }
            | Self::HeadDamaged(_)
            | Self::HeadMissing(_)
            | Self::DatabaseMissing(_)
            | Self::ForeignKey
            | Self::TooNew { .. } => true,
            Self::InUse(_)
            | Self::DiskFull
            | Self::Sqlite(_)
            | Self::Io { .. }
            | Self::Unconfirmed(_)
            | Self::Closed
            | Self::FolderTaken { .. }
            | Self::NoApp(_)
            | Self::NoRevision { .. }
            | Self::NoSecret { .. }
            | Self::Seal(_)
            | Self::UidsExhausted { .. }
            | Self::PortsExhausted { .. } => false,
        }
    }

    fn kind(&self) -> FaultKind {
        match self {
            Self::FolderTaken { .. }
            | Self::InUse(_)
            | Self::ForeignKey
            | Self::TooNew { .. }
            | Self::Unknown { .. } => FaultKind::Refused,
            Self::NoApp(_) | Self::NoRevision { .. } | Self::NoSecret { .. } => FaultKind::Invalid,
            Self::Closed => FaultKind::Unreachable,
            Self::Corrupt { .. }
            | Self::LostCommits { .. }
            | Self::HeadStale { .. }
            | Self::HeadForeign { .. }
            | Self::HeadDamaged(_)
            | Self::HeadMissing(_)
            | Self::DatabaseMissing(_)
            | Self::DiskFull
            | Self::Sqlite(_)
            | Self::Io { .. }
            | Self::Unconfirmed(_)
            | Self::Seal(_)
            | Self::UidsExhausted { .. }
            | Self::PortsExhausted { .. } => FaultKind::Failed,
        }
    }

    fn hint(&self) -> String {
        const KEEP: &str = "nothing was changed and running apps go on serving; copy store.db, store.db-wal, store.head \
                            and master.key away before anything else, then restore all four from one backup";
        match self {
            Self::Corrupt { .. } | Self::LostCommits { .. } | Self::HeadStale { .. } | Self::HeadForeign { .. } => {
                KEEP.into()
            }
            Self::HeadDamaged(_) | Self::HeadMissing(_) | Self::DatabaseMissing(_) => KEEP.into(),
            Self::ForeignKey => {
                "put the master.key back that belongs to this store.db; without it no secret can be opened".into()
            }
            Self::Unknown { .. } | Self::TooNew { .. } => "run the newer Bowline, or restore a backup made before the upgrade".into(),
            Self::InUse(path) => format!("one daemon owns a state folder; see who holds it: fuser {}", path.display()),
            Self::DiskFull => {
                "nothing acknowledged is lost; free some space on the state folder's disk and try again".into()
            }
            Self::Sqlite(_) | Self::Io { .. } | Self::Unconfirmed(_) => {
                "nothing acknowledged is lost; look at the disk (dmesg, df) and whether the path of the state folder is one \
                 that files can be opened at (SQLite takes paths of at most 512 bytes), and try again"
                    .into()
            }
            Self::Closed => "the daemon is stopping; run the command again".into(),
            Self::FolderTaken { first, asked, .. } => format!(
                "{} and {} cannot both be it: give one another `name` in its bowline.toml, or another --state",
                first.display(),
                asked.display()
            ),
            Self::NoApp(_) => "bowline status lists the apps".into(),
            Self::NoRevision { .. } => "bowline releases lists the releases".into(),
            Self::NoSecret { key, name } => format!("set it with: {}", key.command("secret set", name.as_str())),
            Self::PortsExhausted { .. } => "end what listens there and run the command again".into(),
            Self::Seal(_) => "is this master.key the one that belongs to the state folder? restore both from one backup".into(),
            Self::UidsExhausted { .. } => {
                "remove apps that are not used any more, or run others with a --state of their own".into()
            }
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::corrupt("(database)", error.to_string())
            }
            // The statements are fixed: what SQLite does not understand is the schema.
            Some(ErrorCode::Unknown) => Self::corrupt("(database)", error.to_string()),
            Some(_) => Self::Sqlite(Arc::new(error)),
            // Not from SQLite: a value is not what its column holds.
            None => Self::corrupt("(database)", error.to_string()),
        }
    }
}

impl From<&StoreError> for Fault {
    fn from(error: &StoreError) -> Self {
        let mut fault = Self::new(error.kind(), error.to_string());
        if let Some(cause) = std::error::Error::source(error) {
            fault = fault.source(cause);
        }
        fault.hint(error.hint())
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}
