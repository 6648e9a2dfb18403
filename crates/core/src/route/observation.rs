//! What an edge reports: which table it serves, what is outstanding, and counters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::{PoolId, RuleId, Table};
use crate::app::{HostName, PathPrefix};
use crate::fault::Fault;
use crate::id::{AppKey, Generation, InstanceId, ReleaseNumber, ServiceName};
use crate::scale::Demand;
use crate::time::Timestamp;
use crate::verdict::Counted;

/// The state of an edge, coalesced: always the latest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EdgeObservation {
    pub status: EdgeStatus,
    /// The generation that every worker of the edge serves.
    pub serving: Option<Generation>,
    pub http: Option<SocketAddr>,
    pub https: Option<SocketAddr>,
    /// Requests and tunnels not finished, by instance. Absent: none.
    pub outstanding: BTreeMap<InstanceId, u32>,
    /// Instances that get no requests for now, because those before failed.
    pub left_out: BTreeSet<InstanceId>,
    /// Instances whose last requests have all failed, and how many those were: [`super::outlier::FAILURES`] at least.
    pub streaks: BTreeMap<InstanceId, u32>,
    /// Of an edge that was found, as it served it; `None` as soon as it is told what to serve.
    pub table: Option<Arc<Table>>,
    /// How often one was, since the edge's start.
    pub left_out_total: u64,
    /// Why it does not serve all that it was last told, and goes on with what it had of the rest.
    pub refusal: Option<Fault>,
    /// What it does not do of that, each by itself.
    pub refusals: Vec<Refusal>,
    /// Counters since the edge's start.
    pub series: BTreeMap<SeriesKey, Series>,
    /// Of pools whose requests a rollout goes by, what they have answered.
    pub traffic: BTreeMap<PoolId, Counted>,
    /// Of services whose number of instances changes with the load; an edge that is another one counts anew.
    pub demand: BTreeMap<(AppKey, ServiceName), Demand>,
    /// Of those services, the ones that anybody has waited for.
    pub held: BTreeMap<(AppKey, ServiceName), Held>,
    pub connections_open: u64,
    pub connections_total: u64,
    pub handshakes_total: u64,
    pub handshakes_failed: u64,
    /// Requests that went to another instance, because one had failed them.
    pub retries_total: u64,
    /// Those that did not, because too many had.
    pub retries_refused: u64,
    /// Requests refused before a route was found, by reason code.
    pub refused: BTreeMap<String, u64>,
    /// Series not recorded because there were too many.
    pub series_dropped: u64,
    /// Access log lines not written because the disk could not take them.
    pub access_lines_dropped: u64,
    /// Private memory of the edge process in bytes.
    pub private_bytes: u64,
    pub pid: u32,
    /// When its counters began; `None`: it does not say.
    pub began: Option<Timestamp>,
}

/// What an edge does not do of what it was told last: it goes on with what it had of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whose it is; empty: of nobody in particular, or nobody knows.
    pub apps: BTreeSet<AppKey>,
    pub part: Part,
    pub fault: Fault,
}

/// What of a table is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// That it can be reached at all.
    Pool(PoolId),
    /// All routes of a host.
    Host(HostName),
    /// One route, which answers an error; all others are served.
    Route(RuleId),
    /// Of a host.
    Certificate(HostName),
    /// Routes of which nobody knows whose they are.
    Routes,
    /// Where it listens: what is led from there waits until that is taken. Of all apps with a host that is not reached otherwise.
    Listener,
    /// All of it.
    Table,
    /// Nothing of an app.
    Other,
}

impl EdgeObservation {
    /// The first thing that it does not do for an app.
    pub fn fault_of(&self, key: &AppKey) -> Option<&Fault> {
        self.refusals.iter().find(|refusal| refusal.apps.contains(key)).map(|refusal| &refusal.fault)
    }
}

/// Requests that found no instance of a service that is started when somebody asks, since the edge began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Those that waited for one.
    pub total: u64,
    /// Those that were not let wait, or waited in vain, by the code of the reason.
    pub failed: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EdgeStatus {
    /// Not connected yet.
    #[default]
    Starting,
    Connected,
    /// It died or does not answer; it is being restarted with the same sockets.
    Lost(Fault),
}

/// A request's method, bounded: what is not known is `_OTHER` (OpenTelemetry semantic conventions for HTTP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Other,
}

impl Method {
    pub const ALL: [Self; 8] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Delete, Self::Options, Self::Patch, Self::Other];

    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Other => "_OTHER",
        }
    }
}

/// The labels of a request's series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    pub key: AppKey,
    /// `None`: a redirect or a refusal.
    pub service: Option<ServiceName>,
    pub release: Option<ReleaseNumber>,
    pub method: Method,
    /// The route's template, never the raw path.
    pub route: PathPrefix,
    pub status: u16,
}

/// Upper bounds of the duration histogram in seconds (OpenTelemetry semantic conventions for HTTP).
pub const DURATION_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Upper bounds of the body size histograms in bytes.
pub const SIZE_BOUNDS: [f64; 6] = [1024.0, 16384.0, 262144.0, 1048576.0, 16777216.0, 268435456.0];

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    pub duration: Histogram,
    pub request_size: Histogram,
    pub response_size: Histogram,
}

/// Counts per bucket, not cumulated; one more than there are bounds, for what lies above.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    pub counts: Vec<u64>,
    pub sum: f64,
}
