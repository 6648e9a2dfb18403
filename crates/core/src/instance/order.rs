//! What a node is told to run: desired state with a generation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Readiness;
use crate::app::{Cage, Command, HttpCheck, Limits, Protocol};
use crate::id::{AppKey, Generation, InstanceId, Port, ResourceName};
use crate::resource::{ResourceKey, ResourceSpec};
use crate::secret::Secret;
use crate::units::Bytes;

/// Everything one incarnation needs, decided; the node makes no choice but the port.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceSpec {
    pub id: InstanceId,
    /// The release folder: the working directory of the command.
    pub root: PathBuf,
    /// Run by `/bin/sh -c`, with `exec` where it is a simple command.
    pub run: Command,
    /// The whole environment, but for what the node adds: `PORT`, `HOME`, `TMPDIR`, `PATH` if absent, `BOWLINE_…`.
    pub env: BTreeMap<String, EnvValue>,
    pub secret_files: Vec<SecretFile>,
    /// The `PATH` of its build, whatever `env` says: what lies beside those programs is shown to it. `None`: the system's.
    pub tools: Option<String>,
    /// System packages that it may start programs of.
    pub packages: Vec<String>,
    pub port: PortChoice,
    pub reach: Reach,
    /// What it speaks on its port.
    pub protocol: Protocol,
    pub health: Option<Readiness>,
    pub alive: Option<HttpCheck>,
    pub limits: Limits,
    /// User and group to run as when the node is root; `None`: as the node's own user.
    pub uid: Option<u32>,
    pub volumes: Vec<VolumeMount>,
    /// Paths in the release folder that the app must be able to write to; what it writes there dies with the instance.
    pub writable: Vec<String>,
    pub cage: Cage,
    pub stop: StopSignal,
    /// From that signal to KILL.
    pub grace: Duration,
}

/// What asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopSignal {
    #[default]
    Term,
    /// PostgreSQL waits for its clients to leave when it gets TERM, and ends their sessions when it gets INT.
    Int,
}

/// A value of an environment variable; the secret ones do not print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    Clear(String),
    Secret(Secret),
}

/// A secret delivered as a file: 0400 on a tmpfs of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The variable that holds the path.
    pub variable: String,
    pub name: String,
    pub value: Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// A free one, given as `$PORT`.
    Any,
    /// The app ignores `$PORT`.
    Fixed(Port),
}

/// Who may connect to an instance's port; from outside of the machine nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Root, the edge, and the instance's own user: requests come through the edge and its policies.
    Edge,
    /// Root, and the instances of the app that it belongs to: a database, which asks for a password besides.
    App,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    pub name: ResourceName,
    /// The folder that holds the data.
    pub source: PathBuf,
    /// Where it appears to the instance; `None`: only by `BOWLINE_VOLUME_NAME`.
    pub path: Option<String>,
    /// What it may hold; that much of the disk is reserved for it. `None`: unbounded.
    pub size: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum InstanceOrder {
    /// Start it if this incarnation was never started; leave it alone if it runs. One that has ended is not started
    /// again: a restart is a new incarnation.
    Run(Arc<InstanceSpec>),
    /// Leave it alone if it runs; never start it. It is being drained, or has ended and may still be sent requests.
    Keep,
    /// TERM, grace, KILL of the whole tree. An instance that is in no order at all is stopped, too.
    Stop,
}

/// All that a node should run. A node refuses a lower generation than it holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeDesired {
    pub generation: Generation,
    pub instances: BTreeMap<InstanceId, InstanceOrder>,
    /// Apps that are to run, whatever becomes of their instances meanwhile: one-offs of others end.
    pub running: BTreeSet<AppKey>,
    /// Apps that may read the metrics of all.
    pub watchers: BTreeSet<AppKey>,
    /// What is not listed is stopped; its data stay.
    pub resources: BTreeMap<ResourceKey, Arc<ResourceSpec>>,
    /// The generation with which `resources` became what they are.
    pub resources_since: Generation,
}
