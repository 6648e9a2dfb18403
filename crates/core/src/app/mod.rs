//! The App: what one `bowline.toml` means in one environment, parsed and valid.
//!
//! `spec` turns text into these types and back; nothing here knows TOML or JSON. Every default that the file may
//! leave out is filled in, except what only detection can know (`run`, `build`), which stays `None`.

mod names;
mod policy;
pub mod procfile;
mod resource;
#[cfg(test)]
pub(crate) mod sample;
mod service;
mod value;

use std::collections::BTreeMap;
use std::time::Duration;

pub use names::{LOCAL_NAMES, LOCAL_NETWORKS};
pub use policy::{
    Access, Auth, BodyLimit, DEFAULT_BODY, HostName, HostNameError, Hsts, Limit, PathPrefix, PathPrefixError,
    PlainHttp, RateBy, Route, RouteTo, Tls, Transfer, Upload,
};
pub use resource::{Backup, Bucket, Database, DatabaseKind, DatabaseSource, Redis, RedisSource, ResourceKind, Volume};
pub use service::{Cage, GrpcCheck, Health, HttpCheck, Limits, Origin, Probe, Protocol, Scale, Service, StaticFiles};
pub use value::{Delivery, Reference, ReferenceField, SecretSource, Value, VarName, VarNameError};

use crate::id::{AppName, EnvName, EnvironmentId, JobName, ResourceName, RouteName, SecretName, ServiceName};
use crate::units::Share;

/// A command as it is written in the file, run by `/bin/sh -c`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command(pub String);

/// Environment variables, by name.
pub type Variables = BTreeMap<VarName, Value>;

/// One app in one environment.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    pub name: AppName,
    pub services: BTreeMap<ServiceName, Service>,
    pub jobs: BTreeMap<JobName, Job>,
    /// For every service and job; a service's own value of the same name wins.
    pub env: Variables,
    pub secrets: BTreeMap<SecretName, SecretSource>,
    /// `postgres` and `mariadb` tables. A name is unique within its kind.
    pub databases: BTreeMap<(DatabaseKind, ResourceName), Database>,
    pub redis: BTreeMap<ResourceName, Redis>,
    pub volumes: BTreeMap<ResourceName, Volume>,
    pub buckets: BTreeMap<ResourceName, Bucket>,
    pub routes: BTreeMap<RouteName, Route>,
    pub release: ReleaseHooks,
    pub rollout: Rollout,
    pub slo: Option<Slo>,
    pub image: Option<ImagePush>,
    pub logs: Option<LogSink>,
    pub environment: Environment,
}

impl App {
    /// The service in whose build commands run that name none: the only one that is built, else `web`. `None`: the file
    /// leaves it open.
    pub fn home(&self) -> Option<&ServiceName> {
        let built = |service: &&Service| !matches!(service.origin, Origin::BuildOf(_) | Origin::Static { .. });
        let mut roots = self.services.iter().filter(|(_, service)| built(service)).map(|(name, _)| name);
        match (roots.next(), roots.next()) {
            (Some(only), None) => Some(only),
            (None, _) => None,
            (Some(_), Some(_)) => {
                self.services.iter().filter(|(_, s)| built(s)).map(|(n, _)| n).find(|n| n.as_str() == WEB)
            }
        }
    }

    /// The system packages that the build of a service names; in it may run other services, too.
    pub fn packages(&self, service: &ServiceName) -> &[String] {
        let Some(service) = self.services.get(service) else { return &[] };
        let built = match &service.origin {
            Origin::BuildOf(other) => self.services.get(other),
            Origin::Folder { .. } | Origin::Image(_) | Origin::Dockerfile { .. } | Origin::Static { .. } => {
                Some(service)
            }
        };
        built.map_or(&[], |built| &built.packages)
    }
}

/// The service that is meant where several would do.
const WEB: &str = "web";

/// `[job.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub run: Command,
    /// The service whose build it runs in; `None` when the app has one service.
    pub build_of: Option<ServiceName>,
    /// `None`: only on demand. UTC.
    pub schedule: Option<Schedule>,
    pub env: Variables,
    /// Killed after this long. Default 1 h.
    pub timeout: Duration,
}

/// A schedule of five cron fields, each expanded to the set of values that match. UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// As it was written, for printing.
    pub text: String,
    /// Bit i: minute i, 0 to 59.
    pub minutes: u64,
    /// Bit i: hour i, 0 to 23.
    pub hours: u32,
    /// Bit i: day i of the month, 1 to 31.
    pub days: u32,
    /// Bit i: month i, 1 to 12.
    pub months: u16,
    /// Bit i: day i of the week, 0 (Sunday) to 6.
    pub weekdays: u8,
    /// Both day fields are restricted: either may match (POSIX crontab).
    pub either_day: bool,
}

/// `[release]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReleaseHooks {
    /// Once per release, before any instance starts.
    pub before: Option<Command>,
    /// Resources snapshotted before `before` runs.
    pub snapshot: Vec<ResourceName>,
}

/// `[rollout]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub strategy: Strategy,
    pub abort: Vec<AbortRule>,
    /// After promotion, still rolled back by itself. Default 10 m for canary and blue-green, 0 for rolling.
    pub watch: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    Rolling,
    Canary { steps: Vec<Step> },
    BlueGreen,
}

/// How long a judged release is watched after promotion.
const WATCH: Duration = Duration::from_secs(600);

impl Strategy {
    /// What `watch` is where it is not said. A rolling release is judged by readiness alone, so that nothing is left to watch.
    pub fn watch(&self) -> Duration {
        match self {
            Self::Rolling => Duration::ZERO,
            Self::Canary { .. } | Self::BlueGreen => WATCH,
        }
    }
}

/// `"5% for 1m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub weight: crate::units::Weight,
    pub hold: Duration,
}

/// A limit whose passing aborts a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortRule {
    /// `error_rate > 1%`
    ErrorRate(Share),
    /// `error_rate > stable + 0.5%`
    ErrorRateAboveStable(Share),
    /// `p99 > 500ms`; the quantile in parts per million.
    Latency { quantile: Share, limit: Duration },
    /// `p99 > stable + 100ms`
    LatencyAboveStable { quantile: Share, above: Duration },
}

impl AbortRule {
    /// It needs a stable release beside the new one.
    pub fn compares(&self) -> bool {
        match self {
            Self::ErrorRateAboveStable(_) | Self::LatencyAboveStable { .. } => true,
            Self::ErrorRate(_) | Self::Latency { .. } => false,
        }
    }
}

/// `[slo]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slo {
    pub availability: Option<Share>,
    /// `"99% under 300ms"`
    pub latency: Option<LatencyObjective>,
    /// A webhook's URL.
    pub notify: Option<SecretName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyObjective {
    pub share: Share,
    pub under: Duration,
}

/// `[image]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePush {
    pub push: String,
    pub login: Option<SecretName>,
}

/// `[logs] to = …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSink {
    /// `syslog+tls://HOST:PORT`
    SyslogTls {
        host: String,
        port: u16,
    },
    Otlp,
}

/// `[environment.NAME]`, what is not an override of another table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub name: EnvName,
    pub protected: bool,
    /// The environment that is meant: a target that holds another one of this name refuses. `None`: any.
    pub id: Option<EnvironmentId>,
    /// The default of `--to`, as written.
    pub server: Option<Target>,
    pub kubernetes: Option<KubernetesSettings>,
}

/// Where an app runs: the value of `--to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Local,
    Ssh { user: Option<String>, host: String, port: Option<u16> },
    Https { url: String },
    Kubernetes { context: Option<String>, namespace: Option<String> },
}

/// `kubernetes = { … }` of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KubernetesSettings {
    pub ingress_class: Option<String>,
    /// `[NAMESPACE/]NAME` of a Gateway, instead of an ingress class.
    pub gateway: Option<String>,
    pub issuer: Option<String>,
    pub address: Option<String>,
    pub storage_class: Option<String>,
    pub node_pool: Option<String>,
    /// `[KIND/]NAME` of a store of the External Secrets Operator.
    pub secret_store: Option<String>,
    /// Who carries out what a Deployment does not: shares of the traffic, and a release beside another.
    pub rollouts: Option<Rollouts>,
}

/// A controller of rollouts in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollouts {
    /// Argo Rollouts.
    Argo,
}
