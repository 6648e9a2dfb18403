//! Databases, caches and volumes, and what people ask of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The query string of `GET /v1/data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct DataQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataList {
    /// By environment, app, kind and name.
    pub data: Vec<DataInfo>,
}

/// A database, a cache or a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataInfo {
    pub env: String,
    pub app: String,
    /// `postgres`, `mariadb`, `redis`, `volume`
    pub kind: String,
    pub name: String,
    /// Of servers as in [`ResourceStatus`]; of volumes `in use` while the app runs, else `idle`.
    pub state: String,
    /// What it waits on or fails with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// A server elsewhere: nothing of it lies here.
    pub external: bool,
    /// The app's file does not name it any more; the data are kept.
    pub orphaned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What it takes on the disk, where it lies here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it was made, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Of volumes: folders beside it with what it was to be filled with and what its own entries keep out. The next start of the daemon
    /// tries again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
}

/// Credentials for somebody, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lend {
    pub rights: Rights,
    /// How long they hold: 60 to 604,800.
    pub seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rights {
    /// Sees everything, changes nothing.
    Read,
    /// What the app may do; what is made belongs to the app.
    Write,
    /// The same without limits of time for a statement.
    Import,
}

/// Holds a password: shown to nobody but who asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lent {
    /// A server elsewhere: the credentials are the app's own and do not end.
    pub external: bool,
    pub url: String,
    pub host: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Nothing was in it when they were made; absent for a server elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<bool>,
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").field("user", &self.user).field("until", &self.until).finish_non_exhaustive()
    }
}

/// Fill a volume from a folder or an archive of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fill {
    /// Absolute path.
    pub source: String,
    /// In the place of what is there; only while the app is stopped.
    #[serde(default)]
    pub replace: bool,
}

/// The query string of `GET` and `PUT /v1/data/{env}/{app}/{data}/archive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct FillQuery {
    /// In the place of what is there; only while the app is stopped.
    #[serde(default)]
    pub replace: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Filled {
    pub files: u64,
}

/// The query string of `DELETE /v1/data/{env}/{app}/{data}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct RemoveQuery {
    /// Although the app's file names it; only while the app is stopped.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// `local/shop.postgres.db`
    pub removed: String,
}
