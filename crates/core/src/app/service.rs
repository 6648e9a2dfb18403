//! `[service.NAME]`: what runs, how it is checked, how many and how large.

use std::time::Duration;

use super::{Command, Variables};
use crate::id::{Port, ServiceName};
use crate::units::{Bytes, MilliCpu, Share};

/// One process type.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub origin: Origin,
    /// Omitted: detected. Never set for static files.
    pub run: Option<Command>,
    /// System packages that the app needs, to be built or to run.
    pub packages: Vec<String>,
    /// `python 3.11`, recorded with the release.
    pub runtime: Option<String>,
    /// Only for apps that ignore `$PORT`: one copy, stop-first.
    pub fixed_port: Option<Port>,
    /// What its instances speak.
    pub protocol: Protocol,
    /// What gates traffic. `None`: any HTTP answer to `GET /` where a route leads here, else staying up.
    pub health: Option<Health>,
    /// Restarts the instance after three failures.
    pub alive: Option<HttpCheck>,
    /// How long outstanding requests may take before TERM. Default 30 s.
    pub drain: Duration,
    pub scale: Scale,
    pub limits: Limits,
    /// Paths below the app folder that the app may write to.
    pub writable: Vec<String>,
    /// Path of the app's own metrics.
    pub metrics: Option<String>,
    pub cage: Cage,
    pub env: Variables,
}

impl Service {
    /// `drain` where the file does not say it.
    pub const DRAIN: Duration = Duration::from_secs(30);
}

/// Where a service's files come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// A folder below the file's, built by `build` (`None`: detected; empty: nothing to build).
    Folder { dir: String, build: Option<Command> },
    /// The build of another service.
    BuildOf(ServiceName),
    /// An image from a registry.
    Image(String),
    /// An image built from this Dockerfile in `dir`.
    Dockerfile { dir: String, file: String },
    /// No process: the edge serves these files, after `build` ran in `dir`.
    Static { dir: String, build: Option<Command>, files: StaticFiles },
}

/// `static = { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticFiles {
    /// Below the service's `dir`.
    pub dir: String,
    /// Served where no file matches: single-page apps.
    pub fallback: Option<String>,
    /// `Cache-Control: max-age` of everything but HTML. Default 1 h.
    pub cache: Duration,
}

impl StaticFiles {
    /// `cache` where the file does not say it.
    pub const CACHE: Duration = Duration::from_secs(3600);
}

/// What the instances of a service speak on their port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS and without asking first (RFC 9113, 3.3): what gRPC servers speak.
    H2c,
}

/// What tells that an instance may get traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Http(HttpCheck),
    Grpc(GrpcCheck),
    Tcp(Probe),
}

/// A GET that must be answered with 2xx or 3xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Starts with `/`.
    pub path: String,
    pub probe: Probe,
}

/// `grpc.health.v1.Health/Check`, which must answer `SERVING`. Only of what speaks [`Protocol::H2c`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcCheck {
    /// The service that is asked for. Empty: the server as a whole.
    pub service: String,
    pub probe: Probe,
}

/// When a check runs and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub interval: Duration,
    /// From one check to the next while no requests come to the app; where it is shorter than `interval`, that holds.
    pub idle_interval: Duration,
    pub timeout: Duration,
    /// How long a new instance may take to become ready before it is restarted.
    pub grace: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            idle_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            grace: Duration::from_secs(30),
        }
    }
}

/// How many instances. `scale = 2` is `min = max = 2`; between two numbers the load says how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub min: u16,
    /// At least `min`.
    pub max: u16,
    pub cpu: Option<Share>,
    /// Requests at once that one instance should carry.
    pub in_flight: Option<u32>,
}

impl Scale {
    /// Its load says how many, between two bounds.
    pub fn is_automatic(self) -> bool {
        self.min < self.max
    }
}

impl Default for Scale {
    fn default() -> Self {
        Self { min: 1, max: 1, cpu: None, in_flight: None }
    }
}

/// What one instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub memory: Option<Bytes>,
    pub cpu: Option<MilliCpu>,
}

/// Whether a cage that the machine cannot enforce is accepted (and said in status) or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Cage {
    #[default]
    Best,
    Required,
}
