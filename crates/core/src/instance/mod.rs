//! Instances: what a node is told to run, what it reports, and the machine that keeps slots filled.

pub(crate) mod backoff;
mod busy;
mod failure;
mod observation;
mod order;
mod preparing;
mod slot;
mod slots;
mod status;

pub(crate) use preparing::Preparing;

pub use busy::{Activity, Busy};
pub use failure::{Failure, FailureCause};
pub use observation::{
    Awaited, DiskObservation, DiskPlace, Exit, ExitCause, HealthState, InstanceObservation, Observations, Phase, Usage,
    VolumeObservation,
};
pub use order::{
    EnvValue, InstanceOrder, InstanceSpec, NodeDesired, PortChoice, Reach, SecretFile, StopSignal, VolumeMount,
};
pub use slots::{Publish, Slots, Wanted, World};
pub(crate) use status::{Rough, Times};
pub use status::{SlotState, SlotStatus, Transition, WaitsOn};

use std::time::Duration;

use crate::app::{GrpcCheck, Health, HttpCheck, Probe, Service};

/// How long a first page may take that nobody named as a health check.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What gates traffic to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// `GET path` must be answered with 2xx or 3xx.
    Http(HttpCheck),
    /// The health service of gRPC must say `SERVING`.
    Grpc(GrpcCheck),
    /// `GET /` must be answered in HTTP, with whatever status: what is asked of a service that a route leads to and that
    /// names no check. A connect alone would not do: servers that fork listen before their workers have loaded the app.
    Answer(Probe),
    /// A connect must succeed.
    Tcp(Probe),
}

impl Readiness {
    /// As the file says; else an answer where a route leads to the service; else nothing but staying up.
    pub fn of(service: &Service, routed: bool) -> Option<Self> {
        match (&service.health, routed) {
            (Some(Health::Http(check)), _) => Some(Self::Http(check.clone())),
            (Some(Health::Grpc(check)), _) => Some(Self::Grpc(check.clone())),
            (Some(Health::Tcp(probe)), _) => Some(Self::Tcp(*probe)),
            (None, true) => Some(Self::Answer(Probe { timeout: ANSWER_TIMEOUT, ..Probe::default() })),
            (None, false) => None,
        }
    }

    pub fn probe(&self) -> Probe {
        match self {
            Self::Http(check) => check.probe,
            Self::Grpc(check) => check.probe,
            Self::Answer(probe) | Self::Tcp(probe) => *probe,
        }
    }
}
