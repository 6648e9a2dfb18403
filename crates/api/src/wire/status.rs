//! What runs, and what each pending step waits on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ChangePhase, Fault, Maintenance, Rollout, Run, Waiting};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub daemon: DaemonStatus,
    pub edge: EdgeStatus,
    pub apps: Vec<AppStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Where the state lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskStatus>,
    /// What a person should know: files of a certificate that cannot be served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The disk of the state. With less than the reserve, whoever fills it with temporary files is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStatus {
    pub total_bytes: u64,
    /// For ordinary users.
    pub free_bytes: u64,
    pub reserve_bytes: u64,
    /// Who goes on filling it: `volume files of local/uploads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growing: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Started by `bowline up`.
    Local,
    /// Started by `bowline serve`.
    Server,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeStatus {
    #[serde(default)]
    pub engine: EdgeEngine,
    pub state: EdgeState,
    pub pid: Option<u32>,
    pub http: Option<String>,
    pub https: Option<String>,
    /// Where the API is reached from elsewhere, with a token: `https://bowline.example.com`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Of the API's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    pub serving: Option<u64>,
    pub connections_open: u64,
    pub private_bytes: u64,
    /// Networks whose `X-Forwarded-For` is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Which proxy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EdgeEngine {
    /// Bowline's own edge.
    #[default]
    Bowline,
    /// A real Envoy.
    Envoy,
}

/// The certificate of one host, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateStatus {
    pub host: String,
    pub issuer: CertificateIssuer,
    /// Its end. `None`: there is none yet, or files that were given are not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
    /// When the next one is ordered or made. `None`: an order is under way, or no authority is asked any more and it is served until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<u64>,
    /// An order is under way, and waits for this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_on: Option<String>,
    /// Why the last order failed, if there was no other since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateIssuer {
    /// An ACME authority.
    Acme,
    /// The local CA.
    Local,
    /// Files of `server.toml`.
    Given,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EdgeState {
    Starting,
    Serving,
    Lost,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppStatus {
    pub env: String,
    /// Identity of the environment, a UUID: `environment.NAME.id` of a file is held to it. Absent where nothing was
    /// applied since daemons give one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_id: Option<String>,
    pub app: String,
    pub folder: String,
    pub state: AppState,
    /// The release that gets the traffic.
    pub release: Option<u32>,
    /// HTTP first.
    pub urls: Vec<String>,
    /// Of its hosts that are served over HTTPS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateStatus>,
    pub services: Vec<ServiceStatus>,
    /// Databases and caches, those that the file does not name any more included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceStatus>,
    /// Those of the stable release, and those of earlier ones that still run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
    /// The change that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeStatus>,
    /// How the last rollout went, until another change begins, the app is stopped, or the daemon ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled: Option<Rollout>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeStatus {
    pub id: u64,
    pub phase: ChangePhase,
    pub release: Option<u32>,
    pub since: u64,
    pub waits_on: Vec<Waiting>,
    /// How one release takes the place of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    pub name: String,
    /// Static files have none.
    pub instances: Vec<InstanceStatus>,
    pub wanted: u32,
    pub ready: u32,
    /// Absent: its file says one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleStatus>,
}

/// How the number of a service's instances follows its load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScaleStatus {
    pub min: u16,
    pub max: u16,
    /// Requests at once that one instance should carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// How busy an instance's cores should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// What the load asks for, whatever the bounds. Absent: it was not looked at yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u16>,
    /// The most that file and machine allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<u16>,
    /// What asks for it: `in_flight`, `panic`, `cpu`, `waiting`, `rest` or `unknown`.
    pub signal: String,
    /// The same for people.
    pub reason: String,
    /// What keeps it from having as many as are wanted: `min`, `max`, `memory` or `cores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounded: Option<String>,
    /// It goes down to so many if nothing asks for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_to: Option<u16>,
    /// In so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_in_s: Option<u64>,
}

/// A volume of an app that is in use or has a size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeStatus {
    pub name: String,
    /// What it may hold, where that is enforced; some of it the file system keeps for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Measured where it has a size and is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
}

/// A database or cache of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStatus {
    pub name: String,
    /// As the file has it, UTC; absent: only on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// When it is due next; absent while the app is stopped, and while a missed run is about to be made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The last run that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Run>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<u64>,
}

/// What an instance is there for while a release is judged or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceRole {
    /// Of the release on its way, until that carries everything.
    Candidate,
    /// A fresh one of the release before, beside a canary: what the canary is compared with.
    Baseline,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceStatus {
    /// `local/uploads.web.r3.0.1`
    pub id: String,
    pub release: u32,
    pub slot: u16,
    /// Absent for what serves whatever becomes of a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<InstanceRole>,
    /// `starting`, `ready`, `unready`, `draining`, `stopped`, `crashed`
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_on: Option<String>,
    pub pid: Option<u32>,
    /// What the engine calls the container that it is; absent where it is processes of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
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
