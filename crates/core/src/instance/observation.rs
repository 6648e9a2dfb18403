//! What a node reports, coalesced by instance: always the latest state, never a history.

use std::collections::BTreeMap;
use std::fmt;

use crate::fault::Fault;
use crate::id::{AppKey, Generation, InstanceId, Port, ResourceName};
use crate::resource::{ResourceKey, ResourceObservation};
use crate::time::Timestamp;
use crate::units::Bytes;

/// The world as a node sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observations {
    /// Every shim left by an earlier daemon has been found or found dead. Until then nothing may be started.
    pub adopted: bool,
    pub instances: BTreeMap<InstanceId, InstanceObservation>,
    pub resources: BTreeMap<ResourceKey, ResourceObservation>,
    /// The desired state that `resources` follows.
    pub ordered: Generation,
    /// Volumes that instances of this machine use, and all that have a size.
    pub volumes: BTreeMap<(AppKey, ResourceName), VolumeObservation>,
    /// `None`: not looked at yet.
    pub disk: Option<DiskObservation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeObservation {
    /// What it may hold, where that is enforced.
    pub size: Option<Bytes>,
    /// What it holds; measured only where it has a size and is in use.
    pub used: Option<Bytes>,
}

/// The disk that the state lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskObservation {
    pub total: Bytes,
    /// For ordinary users.
    pub free: Bytes,
    /// Below this, whoever fills it is looked for.
    pub reserve: Bytes,
    /// Who grows although there is less than the reserve, and is let go on: `volume files of local/uploads`.
    pub growing: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InstanceObservation {
    pub phase: Phase,
    pub health: HealthState,
    /// The service's own `alive` check, apart from `health`: it never gates traffic, three failures restart.
    pub alive: HealthState,
    pub usage: Usage,
    /// What the machine cannot enforce for it: `memory limit`, `own uid`, …
    pub unenforced: Vec<String>,
    /// Log lines lost because the disk could not take them.
    pub dropped_lines: u64,
    /// What its engine calls the container that it is.
    pub container: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// What it is started from, or by, is not there yet.
    Preparing(Awaited),
    /// The shim is being started.
    Starting,
    Running {
        pid: u32,
        port: Port,
        since: Timestamp,
    },
    /// TERM was sent.
    Stopping {
        pid: u32,
        port: Port,
    },
    /// Nothing of its process tree is left.
    Exited(Exit),
    /// It could not be started at all.
    Refused(Fault),
}

/// What a container needs before it can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// Images of others are made before its own.
    Turn,
    /// Its image is made.
    Image,
    /// Its engine does not answer.
    Engine { why: String },
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn => f.write_str("image: others are made before it"),
            Self::Image => f.write_str("image: being made"),
            Self::Engine { why } => write!(f, "engine: {why}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub cause: ExitCause,
    pub at: Timestamp,
    /// The end of its output, for the error message. At most 50 lines.
    pub last_lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitCause {
    Code(i32),
    Signal(i32),
    /// Its memory limit was hit.
    OutOfMemory,
    /// It was told to stop, and did.
    Stopped,
    /// It was told to stop and had to be killed after the grace time.
    Killed,
    /// The shim died; the tree was killed with it.
    ShimLost,
    /// The disk of the machine was almost full, and this instance went on filling it.
    FilledDisk {
        bytes: Bytes,
        place: DiskPlace,
    },
}

/// What of an instance lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPlace {
    /// Its temporary folder, and what it wrote beside its code.
    Scratch,
    /// A volume without a size.
    Volume(ResourceName),
}

impl fmt::Display for DiskPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch => f.write_str("its temporary folder and beside its code"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthState {
    /// Not asked yet, or nothing to ask.
    Unknown,
    Passing {
        since: Timestamp,
    },
    /// `failures` in a row; the reason of the last one (`connection refused`, `503`, `no answer within 1s`).
    Failing {
        failures: u32,
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub memory: Bytes,
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
}
