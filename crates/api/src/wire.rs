//! Wire types of API version 1: JSON over HTTP/1.1. Times are milliseconds since 1970-01-01 UTC, sizes are bytes.
//!
//! | method and path | body → answer |
//! |---|---|
//! | `GET /v1/version` | → [`Version`] |
//! | `GET /v1/status` | → [`Status`] |
//! | `POST /v1/apps` | [`Apply`] → 202 [`Accepted`] |
//! | `GET /v1/changes/{id}` | → [`ChangeEvent`] lines from the change's beginning until it has ended |
//! | `POST /v1/apps/{env}/{app}/stop` | [`Stop`] → [`Stopped`] when nothing of it runs any more |
//! | `PUT /v1/apps/{env}/{app}/maintenance` | [`Maintenance`] → [`Maintained`] when the edge serves it |
//! | `DELETE /v1/apps/{env}/{app}/maintenance` | → [`Maintained`] when the edge serves all again |
//! | `GET /v1/logs?…` ([`LogsQuery`]) | → [`LogLine`] lines |
//! | `GET /v1/events?…` ([`EventsQuery`]) | → [`Events`] |
//! | `GET /v1/secrets/{env}/{app}` | → [`Secrets`] |
//! | `PUT /v1/secrets/{env}/{app}/{name}` | the value as raw bytes → [`SecretSet`] |
//! | `DELETE /v1/secrets/{env}/{app}/{name}` | → 204 |
//! | `POST /v1/shutdown` | → [`Stopped`] when all is stopped, just before the daemon exits |
//!
//! *Lines* are `application/x-ndjson`: one JSON object per line. A refusal is a [`Fault`] with status 400 (invalid),
//! 403 (refused), 404, 409 (another change runs), 500 (failed) or 503 (degraded).

use std::collections::BTreeMap;

use bowline_core::fault;
use serde::{Deserialize, Serialize};

/// The media type of line-by-line answers.
pub const NDJSON: &str = "application/x-ndjson";

/// Largest secret value, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

/// Largest JSON body that the daemon reads, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the daemon's binary.
    pub version: String,
    /// Versions of this API that it speaks.
    pub api: Vec<u32>,
}

/// Why something failed, for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: FaultKind,
    pub error: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caused_by: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Preformatted text: a snippet with a caret, the end of an output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    Failed,
    Invalid,
    Refused,
    Unreachable,
}

impl From<fault::Fault> for Fault {
    fn from(f: fault::Fault) -> Self {
        let kind = match f.kind {
            fault::FaultKind::Failed => FaultKind::Failed,
            fault::FaultKind::Invalid => FaultKind::Invalid,
            fault::FaultKind::Refused => FaultKind::Refused,
            fault::FaultKind::Unreachable => FaultKind::Unreachable,
        };
        Self { kind, error: f.message, caused_by: f.causes, hint: f.hint, detail: f.detail }
    }
}

impl From<Fault> for fault::Fault {
    fn from(f: Fault) -> Self {
        let kind = match f.kind {
            FaultKind::Failed => fault::FaultKind::Failed,
            FaultKind::Invalid => fault::FaultKind::Invalid,
            FaultKind::Refused => fault::FaultKind::Refused,
            FaultKind::Unreachable => fault::FaultKind::Unreachable,
        };
        Self { kind, message: f.error, causes: f.caused_by, hint: f.hint, detail: f.detail }
    }
}

/// Apply the app of a folder on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// Absolute path of the folder; the daemon reads `bowline.toml` in it, if there is one.
    pub dir: String,
    pub env: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub change: u64,
    pub env: String,
    pub app: String,
}

/// One step of a change, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEvent {
    pub at: u64,
    #[serde(flatten)]
    pub what: ChangeStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ChangeStep {
    Phase {
        phase: ChangePhase,
    },
    /// What was found and why.
    Note {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        text: String,
    },
    /// What is being done now; the next step replaces it.
    Work {
        service: String,
        text: String,
    },
    /// A line of a build's output.
    Line {
        service: String,
        stream: Stream,
        text: String,
    },
    /// What the change waits on; replaces the list before.
    Waiting {
        steps: Vec<Waiting>,
    },
    Done {
        release: u32,
        /// The artifact was there already.
        cached: bool,
        urls: Vec<String>,
    },
    Failed {
        fault: Fault,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangePhase {
    Parse,
    Guard,
    Build,
    Release,
    Rollout,
}

/// `what` cannot go on before `on`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `web.r3.0`
    pub what: String,
    /// `health: connection refused, 12s of 30s`
    pub on: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub daemon: DaemonStatus,
    pub edge: EdgeStatus,
    pub apps: Vec<AppStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    pub version: String,
    pub pid: u32,
    pub state: String,
    pub mode: Mode,
    pub started: u64,
    /// The admin port.
    pub admin: Option<String>,
    /// Memory that only this process uses, in bytes.
    pub private_bytes: u64,
    /// Why the store is refused; the edge goes on serving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Started by `bowline up`.
    Local,
    /// Started by `bowline serve`.
    Server,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    pub state: EdgeState,
    pub pid: Option<u32>,
    pub http: Option<String>,
    pub https: Option<String>,
    pub serving: Option<u64>,
    pub connections_open: u64,
    pub private_bytes: u64,
    /// Networks whose `X-Forwarded-For` is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeState {
    Starting,
    Serving,
    Lost,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    pub env: String,
    pub app: String,
    pub folder: String,
    pub state: AppState,
    /// The release that gets the traffic.
    pub release: Option<u32>,
    /// HTTP first.
    pub urls: Vec<String>,
    pub services: Vec<ServiceStatus>,
    /// Databases and caches, those that the file does not name any more included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceStatus>,
    /// The change that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeStatus>,
    /// How the last change ended, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Only some are answered, all others get 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// What a person should know: limits that the machine cannot enforce, orphaned resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppState {
    /// All wanted instances are ready.
    Ready,
    /// Serving with fewer than wanted.
    Degraded,
    /// Nothing ready yet, or nothing any more.
    Down,
    /// The first release failed; nothing runs.
    Failed,
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeStatus {
    pub id: u64,
    pub phase: ChangePhase,
    pub release: Option<u32>,
    pub since: u64,
    pub waits_on: Vec<Waiting>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    /// Static files have none.
    pub instances: Vec<InstanceStatus>,
    pub wanted: u32,
    pub ready: u32,
}

/// A database or cache of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// `postgres`, `mariadb`, `redis`
    pub kind: String,
    pub name: String,
    /// `preparing`, `starting`, `ready`, `failing`, `stopping`, `stopped`
    pub state: String,
    /// What it waits on or fails with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// A server elsewhere, which Bowline does not run.
    pub external: bool,
    /// The file does not name it any more: its server is stopped, and its data are kept.
    pub orphaned: bool,
    /// Of the server: `15.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// On loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    pub restarts: u32,
    pub memory_bytes: u64,
    pub cpu_us: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// `local/uploads.web.r3.0.1`
    pub id: String,
    pub release: u32,
    pub slot: u16,
    /// `starting`, `ready`, `unready`, `draining`, `stopped`, `crashed`
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_on: Option<String>,
    pub pid: Option<u32>,
    pub port: Option<u16>,
    pub since: Option<u64>,
    pub restarts: u32,
    pub memory_bytes: u64,
    pub cpu_us: u64,
    pub dropped_lines: u64,
    /// `full`, or `partial`: then `unenforced` says what the machine cannot enforce. Absent while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cage: Option<String>,
    #[serde(default)]
    pub unenforced: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Stop {
    /// Stop the daemon, too, when this was the last app that runs.
    #[serde(default)]
    pub shutdown_when_idle: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// `local/uploads`
    pub apps: Vec<String>,
    /// The daemon exits now.
    pub daemon: bool,
}

/// The body of `PUT /v1/apps/{env}/{app}/maintenance`; `DELETE` ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Maintenance {
    /// Networks that are still answered: `192.0.2.0/24`.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// What holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintained {
    /// Absent: everyone is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// The query string of `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsQuery {
    pub env: String,
    pub app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    #[serde(default)]
    pub follow: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grep: Option<String>,
    #[serde(default)]
    pub access: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: u64,
    pub source: LogSource,
    /// `local/uploads.web.r3.0.1`; access lines have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    Stdout,
    Stderr,
    Access,
    Bowline,
}

/// The query string of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct EventsQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Only events with a higher sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The newest so many. Default 100, at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// By rising sequence number.
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub seq: u64,
    pub at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// A constant name: `release_promoted`.
    pub event: String,
    /// For people.
    pub text: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    pub secrets: Vec<SecretInfo>,
}

/// What is known of a secret; never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretInfo {
    pub name: String,
    pub version: u32,
    pub created: u64,
    /// The user that set it; absent if Bowline generated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_uid: Option<u32>,
    pub generated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSet {
    pub name: String,
    pub version: u32,
}
