//! What is said of releases, and which one is gone back to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Fault;

/// The releases of an app that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Releases {
    pub env: String,
    pub app: String,
    /// The newest first.
    pub releases: Vec<Release>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// Counted from 1 per app and environment; never used again.
    pub number: u32,
    pub state: ReleaseState,
    /// Its routes are served now.
    pub serves: bool,
    pub created: u64,
    /// By service, the digest of what was built: 64 hexadecimal digits.
    pub artifacts: BTreeMap<String, String>,
    /// By service, the interpreter that it was built for: `python 3.11.2`. Services without one are left out.
    pub runtimes: BTreeMap<String, String>,
    /// Digest of the resolved file.
    pub configuration: String,
    /// The version of each secret that it was made with.
    pub secrets: BTreeMap<String, u32>,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// On its way to take over, or undone before it came to anything.
    Pending,
    /// The one that serves, or would if the app were not stopped.
    Stable,
    /// It has served; it can be gone back to.
    Superseded,
    /// It was rejected, and is not tried again.
    Failed,
}

/// The body of `POST /v1/apps/{env}/{app}/rollback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct Rollback {
    /// Absent: the one that served before the stable one, by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u32>,
}

/// The body of `POST /v1/apps/{env}/{app}/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct Restart {
    /// Absent: all that run processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// The body of `POST /v1/apps/{env}/{app}/scale`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scale {
    /// May be left out where one alone runs processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// At least 1.
    pub replicas: u16,
}

/// What is being undone now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Aborted {
    /// Absent: nothing was under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<u64>,
}
