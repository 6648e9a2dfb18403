//! What the store keeps, one type per table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bowline_core::access::{Role, Scope, TokenId};
use bowline_core::id::{AppKey, Digest, Generation, JobName, Port, ReleaseNumber, RunNumber, SecretName, TokenName};
use bowline_core::job::Task;
use bowline_core::release::SecretVersion;
use bowline_core::resource::ResourceKey;
use bowline_core::time::Timestamp;

/// An app in an environment, known since its first `up`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRecord {
    pub key: AppKey,
    /// The folder of its `bowline.toml`. Another folder is refused.
    pub folder: PathBuf,
    /// User and group of its instances when the node is root. Allocated once, never given to another app.
    pub uid: u32,
    pub wanted: Wanted,
    /// The desired-state generation of its last change.
    pub generation: Generation,
    pub created: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Running,
    Stopped,
}

/// A revision as it is handed in; the store gives it its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRevision {
    /// The resolved file as canonical JSON.
    pub app: String,
    /// JSON of what was built, by service.
    pub artifacts: String,
    pub secrets: BTreeMap<SecretName, SecretVersion>,
    pub created: Timestamp,
}

/// A revision. All but `state` is fixed from the moment it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionRecord {
    pub key: AppKey,
    pub number: ReleaseNumber,
    pub app: String,
    pub artifacts: String,
    pub secrets: BTreeMap<SecretName, SecretVersion>,
    pub created: Timestamp,
    pub state: RevisionState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevisionState {
    /// Stored, not yet promoted.
    Pending,
    /// The stable one.
    Active,
    /// Was active; can be rolled back to.
    Retired,
    /// Rejected; never retried.
    Failed { reason: String },
}

/// The rollout of an app that is under way: JSON that only the reconcile loop reads, with the version of its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRecord {
    pub key: AppKey,
    pub version: u32,
    pub state: String,
}

/// An event as it is handed in; the store gives it its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub at: Timestamp,
    pub key: Option<AppKey>,
    /// Constant, dotted: `rollout.promoted`.
    pub kind: String,
    /// For people. Holds no secret.
    pub message: String,
    /// A JSON object.
    pub fields: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// Counted from 1 without gaps, which dropped ones leave: see [`super::EVENTS_KEPT`].
    pub sequence: u64,
    pub at: Timestamp,
    pub key: Option<AppKey>,
    pub kind: String,
    pub message: String,
    pub fields: String,
}

/// A secret's value as it is stored: sealed under a data key, which is wrapped by the master key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedValue {
    pub sealed: Vec<u8>,
    pub wrapped_key: Vec<u8>,
}

impl std::fmt::Debug for SealedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedValue(…)")
    }
}

/// One version of a secret. Versions count from 1 and are never used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    pub key: AppKey,
    pub name: SecretName,
    pub version: SecretVersion,
    /// `None` once it is revoked: the value is wiped, the version stays taken.
    pub value: Option<SealedValue>,
    pub created: Timestamp,
    /// The user who set it, by peer credentials.
    pub created_by: u32,
    pub revoked: Option<Timestamp>,
}

/// A server that Bowline runs for an app. Outlives releases; its password is a secret of the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRecord {
    pub key: ResourceKey,
    /// User and group of the server when the node is root. Its files are this user's.
    pub uid: u32,
    /// On loopback; chosen once, so that clients find it again.
    pub port: Port,
    pub created: Timestamp,
    /// What fills an empty database, as it was when the folder was last applied.
    pub init: Option<String>,
}

/// How far the occurrences of a job's schedule are dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    pub app: AppKey,
    pub job: JobName,
    /// As it was written; another one counts anew.
    pub schedule: String,
    pub counted: Timestamp,
}

/// A run of a job, stored before it starts: JSON that only the reconcile loop reads, with the version of its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    pub app: AppKey,
    pub number: RunNumber,
    pub task: Task,
    /// `None`: it is under way.
    pub ended: Option<Timestamp>,
    pub version: u32,
    pub state: String,
}

/// A token that lets somebody use the API from elsewhere. The token itself is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: TokenId,
    /// Of one that holds at a time.
    pub name: TokenName,
    /// SHA-256 of the token, which has 256 random bits: nothing is won by guessing from it.
    pub digest: Digest,
    pub role: Role,
    pub scope: Scope,
    pub created: Timestamp,
    /// A user's id, or [`TokenId::actor`] of another token.
    pub created_by: u32,
    /// `None`: it does not end by itself.
    pub expires: Option<Timestamp>,
    /// To the day; `None`: never.
    pub used: Option<Timestamp>,
    pub revoked: Option<Timestamp>,
}

/// The ports that the edge got the last time, so that addresses stay the same over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgePorts {
    pub http: Port,
    pub https: Port,
    pub admin: Port,
}
