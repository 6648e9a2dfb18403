//! Wire types of API version 1: JSON over HTTP/1.1, on the daemon's Unix socket, and over HTTPS on the host that `server.toml` names, where
//! each request has a token: `Authorization: Bearer TOKEN`. Times are milliseconds since 1970-01-01 UTC, sizes are bytes.
//!
//! | method and path | body → answer |
//! |---|---|
//! | `GET /v1/version` | → [`Version`] |
//! | `GET /v1/whoami` | → [`WhoAmI`] |
//! | `GET /v1/openapi.json` | → this API as an OpenAPI 3.1 document |
//! | `GET /v1/metrics` | → metrics in Prometheus's text format |
//! | `GET /v1/metrics/targets` | → instances that have metrics of their own, as Prometheus's `http_sd_configs` reads it |
//! | `GET /v1/metrics/edge` | → what an Envoy that is the edge counts itself; 404 with the embedded edge |
//! | `GET /v1/metrics/instances/{env}/{instance}` | → those of one, with Bowline's labels; 502 if they cannot be read |
//! | `GET /v1/status` | → [`Status`] |
//! | `POST /v1/apps` | [`Apply`] → 202 [`Accepted`] |
//! | `POST /v1/plans` | [`Apply`] without `plan` → [`Plan`]; nothing is done |
//! | `GET /v1/changes/{id}` | → [`ChangeEvent`] lines from the change's beginning until it has ended |
//! | `POST /v1/apps/{env}/{app}/stop` | [`Stop`] → [`Stopped`] when nothing of it runs any more |
//! | `GET /v1/apps/{env}/{app}/releases` | → [`Releases`] |
//! | `POST /v1/apps/{env}/{app}/rollback` | [`Rollback`] → 202 [`Accepted`]; 409 while another change runs |
//! | `POST /v1/apps/{env}/{app}/restart` | [`Restart`] → 202 [`Accepted`] |
//! | `POST /v1/apps/{env}/{app}/scale` | [`Scale`] → 202 [`Accepted`] |
//! | `POST /v1/apps/{env}/{app}/promote` | → 202 [`Accepted`]: a release that is judged, looked at or watched is taken as it is |
//! | `POST /v1/apps/{env}/{app}/abort` | → [`Aborted`]; the change ends as `failed` when all is as before |
//! | `PUT /v1/apps/{env}/{app}/maintenance` | [`Maintenance`] → [`Maintained`] when the edge serves it |
//! | `DELETE /v1/apps/{env}/{app}/maintenance` | → [`Maintained`] when the edge serves all again |
//! | `POST /v1/apps/{env}/{app}/jobs/{job}/run` | → 202 [`Run`], recorded and about to start; 409 while one is under way |
//! | `POST /v1/apps/{env}/{app}/jobs/{job}/stop` | → [`Run`] when it has ended |
//! | `GET /v1/apps/{env}/{app}/runs/{number}?…` ([`RunQuery`]) | → [`Run`] |
//! | `GET /v1/logs?…` ([`LogsQuery`]) | → [`LogLine`] lines |
//! | `GET /v1/events?…` ([`EventsQuery`]) | → [`Events`] |
//! | `GET /v1/secrets/{env}/{app}` | → [`Secrets`] |
//! | `PUT /v1/secrets/{env}/{app}/{name}` | the value as raw bytes → [`SecretSet`] |
//! | `DELETE /v1/secrets/{env}/{app}/{name}` | → 204 |
//! | `POST /v1/apps/{env}/{app}/sessions` | [`Session`] → 101, see below |
//! | `POST /v1/sources/{env}/{app}` | [`Source`] → [`Offered`] |
//! | `PUT /v1/contents/{env}/{app}/{content}` | what a file of that app holds, as raw bytes → 204 |
//! | `POST /v1/sources/{env}/{app}/{source}` | → [`Placed`] when all contents have arrived |
//! | `GET /v1/data?…` ([`DataQuery`]) | → [`DataList`] |
//! | `POST /v1/data/{env}/{app}/{data}/leases` | [`Lend`] → [`Lent`]; `{data}` is `postgres.db`, `volume.files`, … |
//! | `DELETE /v1/data/{env}/{app}/{data}/leases/{user}` | → 204 when its sessions have ended |
//! | `PUT /v1/data/{env}/{app}/{data}/content` | [`Fill`] → [`Filled`]; volumes only |
//! | `GET /v1/data/{env}/{app}/{data}/archive` | [`FillQuery`] → 204 if it may be filled now |
//! | `PUT /v1/data/{env}/{app}/{data}/archive` | [`FillQuery`], an archive of tar → [`Filled`]; volumes only |
//! | `DELETE /v1/data/{env}/{app}/{data}?…` ([`RemoveQuery`]) | → [`Removed`] |
//! | `GET /v1/tokens` | → [`Tokens`] |
//! | `POST /v1/tokens` | [`NewToken`] → 201 [`CreatedToken`], which alone shows the token |
//! | `DELETE /v1/tokens/{token}` | → [`TokenInfo`]; `{token}` is its name or its id |
//! | `POST /v1/shutdown` | → [`Stopped`] when all is stopped, just before the daemon exits |
//! | `POST /v1/upgrade` | [`Upgrade`] → 204 just before another binary takes the daemon's place |
//!
//! *Lines* are `application/x-ndjson`: one JSON object per line. A refusal is a [`Fault`] with status 400 (invalid), 401 (no token, or none that
//! holds), 403 (refused), 404, 409 (another change runs, or the same job), 429 (too often without a token that holds), 500 (failed) or
//! 503 (degraded).
//!
//! A session is asked for with `Connection: Upgrade` and `Upgrade: bowline-session/1`. Over HTTPS [`Session`] is not the body but
//! the field `Bowline-Session`, as JSON in ASCII, since an edge takes no body with an upgrade. After the 101 the connection carries
//! frames: one byte that says what it is, four bytes of length (big-endian), and so many bytes, at most 65,536.
//!
//! | from the client | | |
//! |---|---|---|
//! | 0 | input | at least one byte, and only one such frame for each frame 16 |
//! | 1 | the input has ended | empty; a terminal ignores it |
//! | 2 | the terminal's size | columns and rows, two bytes each |
//! | 3 | a signal for the command and its process group | its number: 1 HUP, 2 INT, 3 QUIT, 10 USR1, 12 USR2 or 15 TERM |
//!
//! | from the daemon | | |
//! |---|---|---|
//! | 16 | one more frame of input is taken | empty |
//! | 17, 18 | standard output, standard error | with a terminal all of it is 17 |
//! | 19 | how it ended, [`SessionEnd`] as JSON | the last frame; nothing that the session started is left |
//!
//! A client that closes the connection leaves, and everything that the session started is killed. So it is with one that sends
//! anything else.

mod data;
mod plan;
mod release;
mod rollout;
mod source;
mod status;
mod token;

use std::collections::BTreeMap;

use bowline_core::fault;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bound;

pub use data::{DataInfo, DataList, DataQuery, Fill, FillQuery, Filled, Lend, Lent, RemoveQuery, Removed, Rights};
pub use plan::{
    Plan, PlanDifference, PlanOutcome, PlanRisk, PlannedBuild, PlannedSecret, PlannedService, PlannedTransition,
};
pub use release::{Aborted, Release, ReleaseState, Releases, Restart, Rollback, Scale};
pub use rollout::{
    Rollout, RolloutFigures, RolloutNow, RolloutOutcome, RolloutRule, RolloutSentence, RolloutStage, RolloutStep,
    RolloutStrategy, RolloutTally, RolloutVerdict, RolloutWeight,
};
pub use source::{MAX_MANIFEST, Offered, Placed, Source, SourceEntry, SourceError};
pub use status::{
    AppState, AppStatus, CertificateIssuer, CertificateStatus, ChangeStatus, DaemonStatus, DiskStatus, EdgeEngine,
    EdgeState, EdgeStatus, InstanceRole, InstanceStatus, JobStatus, Mode, ResourceStatus, ScaleStatus, ServiceStatus,
    Status, VolumeStatus,
};

pub use token::{CreatedToken, NewToken, Role, TokenInfo, Tokens, WhoAmI};

/// The media type of line-by-line answers.
pub const NDJSON: &str = "application/x-ndjson";

/// Largest secret value, in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

/// Largest JSON body that the daemon reads, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Of the daemon's binary.
    pub version: String,
    /// Versions of this API that it speaks.
    pub api: Vec<u32>,
    /// What was added to a version since, where a daemon that does not know it would do something else than it is asked: `artifact`, which is
    /// [`Apply::built`]. Absent of one that knows none of it.
    #[serde(default)]
    pub knows: Vec<String>,
}

/// One of [`Version::knows`].
pub const ARTIFACT: &str = "artifact";

impl Version {
    /// Of this build, whose version this is.
    pub fn of(version: impl Into<String>) -> Self {
        Self { version: version.into(), api: vec![1], knows: vec![ARTIFACT.to_owned()] }
    }
}

/// Why something failed, for an operator. What is long is cut and says so: `error` and `hint` after 4 KiB, all of `caused_by` after
/// 8 KiB, and of `detail` the last 32 KiB are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        Self {
            kind,
            error: bound::text(f.message),
            caused_by: bound::causes(f.causes),
            hint: f.hint.map(bound::text),
            detail: f.detail.map(bound::detail),
        }
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Apply {
    /// Absolute path of the folder; the daemon reads `bowline.toml` in it, if there is one.
    pub dir: String,
    pub env: String,
    /// The hash of a [`Plan`]: refused if it would do anything else now than that plan showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The folder holds what was built: no service of it is built, whatever the file says.
    #[serde(default)]
    pub built: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    pub change: u64,
    pub env: String,
    pub app: String,
}

/// One step of a change, as it happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeEvent {
    pub at: u64,
    #[serde(flatten)]
    pub what: ChangeStep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        /// Where its rollout is; absent where that is as it was told last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<Box<RolloutNow>>,
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
    /// Of a newer daemon: a kind that this client does not know, and passes over.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangePhase {
    Parse,
    Guard,
    Build,
    Release,
    Rollout,
    /// Of the instances of the release that serves.
    Restart,
    /// Their number changes.
    Scale,
}

/// `what` cannot go on before `on`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waiting {
    /// `web.r3.0`
    pub what: String,
    /// `health: connection refused, 12s of 30s`
    pub on: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A run of a job, or of what is to run before a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Counted per app and environment.
    pub number: u32,
    /// `job.cleanup`, `release.before`: what `GET /v1/logs` takes as its service.
    pub task: String,
    pub release: u32,
    /// `local/uploads.job_cleanup.r3.0.17`
    pub instance: String,
    /// `schedule`, `hand`, `release`
    pub trigger: String,
    /// The occurrence of its schedule, the first of those that were missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_uid: Option<u32>,
    /// The id of the token that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_token: Option<u32>,
    /// `waiting`, `running`, `stopping`; over: `succeeded`, `failed`, `signalled`, `out_of_memory`, `timed_out`, `stopped`,
    /// `lost`, `refused`
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_on: Option<String>,
    /// Before it started.
    pub recorded: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it did not succeed, with the end of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// The query string of `GET /v1/apps/{env}/{app}/runs/{number}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct RunQuery {
    /// Answer when it is over.
    #[serde(default)]
    pub wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct Stop {
    /// Stop the daemon, too, when this was the last app that runs.
    #[serde(default)]
    pub shutdown_when_idle: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stopped {
    /// `local/uploads`
    pub apps: Vec<String>,
    /// The daemon exits now.
    pub daemon: bool,
}

/// Another binary for the daemon and its edge. It goes on as the same process, with the same sockets and settings; where that
/// binary does not start, the one before goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upgrade {
    /// The digest of a copy that is kept in the state folder, `bin/DIGEST/bowline`: 64 hexadecimal digits.
    pub binary: String,
}

/// The body of `PUT /v1/apps/{env}/{app}/maintenance`; `DELETE` ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct Maintenance {
    /// Networks that are still answered: `192.0.2.0/24`.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// What holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Maintained {
    /// Absent: everyone is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// A command to be attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    pub place: SessionPlace,
    /// May be left out where the app has one that runs processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The slot of the instance that is entered; by default the first that is ready. Not for a one-off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u16>,
    /// The program, looked for in the instance's `PATH`, and its arguments.
    pub command: Vec<String>,
    /// Absent: three pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionPlace {
    /// In an instance that runs; the session ends with it.
    Inside,
    /// In an instance of the stable release that is made for it.
    OneOff,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Terminal {
    pub columns: u16,
    pub rows: u16,
    /// `$TERM`, where the instance has none: at most 64 letters, digits, `+`, `-`, `.` and `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SessionEnd {
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    /// 127: there is no such program; 126: it cannot be executed.
    NotExecuted {
        code: i32,
        fault: Fault,
    },
    /// It could not be started, or its instance ended first.
    Broken {
        fault: Fault,
    },
}

/// The query string of `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    pub at: u64,
    pub source: LogSource,
    /// `local/uploads.web.r3.0.1`; access lines have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    Stdout,
    Stderr,
    Access,
    Bowline,
}

/// The query string of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Events {
    /// By rising sequence number.
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Secrets {
    pub secrets: Vec<SecretInfo>,
}

/// What is known of a secret; never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretInfo {
    pub name: String,
    pub version: u32,
    pub created: u64,
    /// The user that set it; absent if Bowline generated it, or a token was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_uid: Option<u32>,
    /// The id of the token that set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_token: Option<u32>,
    pub generated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretSet {
    pub name: String,
    pub version: u32,
}
