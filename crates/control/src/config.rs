//! What a control room is started with, and the channels that connect it to the node and the edge.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::acme::Method;
use bowline_core::app::HostName;
use bowline_core::fault::Fault;
use bowline_core::id::{Digest, ServiceName};
use bowline_core::instance::{NodeDesired, Observations};
use bowline_core::log::{LogFeed, LogLine, LogQuery};
use bowline_core::release::{Artifact, BuildProgress, BuildRequest, Built, Foreseen, Kept};
use bowline_core::resource::data::{DataDone, DataOrder};
use bowline_core::route::{Certificate, EdgeDesired, EdgeEngine, EdgeObservation};
use bowline_core::session::{SessionControl, SessionEnd, SessionOutput, SessionSpec};
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};

use crate::store::Users;

/// A build asked of the node: its output as it comes, and its result.
pub type BuildCall = (BuildRequest, mpsc::Sender<BuildProgress>, oneshot::Sender<Result<Built, Fault>>);

/// What the node is to keep of releases.
pub type Keep = Arc<Kept>;

/// Whether artifacts can still be run as they were built.
pub type CheckCall = (Vec<Artifact>, oneshot::Sender<Result<(), Fault>>);

/// What a build would give, asked before it is.
pub type ForesightCall = (BuildRequest, oneshot::Sender<Result<BTreeMap<ServiceName, Foreseen>, Fault>>);

/// Log lines asked of the node, in pieces of bounded size; it stops when the receiver is dropped.
pub type LogCall = (LogQuery, mpsc::Sender<Vec<LogLine>>);

/// The same of all apps, from a moment on.
pub type FeedCall = (LogFeed, mpsc::Sender<Vec<LogLine>>);

/// A session asked of the node: input, which ends with its sender; what else is said; output; and how it ended. Dropping the
/// sender of the second kills everything that the session has started.
pub type SessionCall = (
    SessionSpec,
    mpsc::Receiver<Vec<u8>>,
    mpsc::Receiver<SessionControl>,
    mpsc::Sender<SessionOutput>,
    oneshot::Sender<SessionEnd>,
);
/// What a person asks of data, and where the node's answer goes.
pub type DataCall = (DataOrder, oneshot::Sender<Result<DataDone, Fault>>);

/// Who started the daemon, and so when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `bowline up`: ends with the last app; TERM stops everything.
    Local,
    /// `bowline serve`: TERM ends the daemon alone, and apps and edge go on.
    Server,
}

/// How long a build may take where nothing else is said.
pub const BUILD_TIME: Duration = Duration::from_secs(15 * 60);

/// What the control room needs to know and to own.
#[derive(Debug)]
pub struct ControlConfig {
    pub mode: Mode,
    /// Holds the store, the master key and the edge's snapshot.
    pub state_dir: PathBuf,
    /// Holds the local CA; per user, not per state.
    pub ca_dir: PathBuf,
    /// Bound, at `RUN/api.sock`, mode 0600.
    pub api: UnixListener,
    /// Bound, on loopback.
    pub admin: TcpListener,
    /// Whom new apps run as, if the daemon is root.
    pub users: Users,
    /// Other rooms may have registered their metrics.
    pub registry: Registry,
    /// The edge behind the links.
    pub edge: EdgeEngine,
    /// Its Unix socket that answers `GET /stats/prometheus`. `None`: what it counts, the daemon knows.
    pub edge_stats: Option<PathBuf>,
    /// Whose `X-Forwarded-*` and `Forwarded` the edge believes.
    pub trusted_proxies: Vec<IpNet>,
    /// Their connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// `None`: the API is on its Unix socket only.
    pub outside: Option<Outside>,
    /// Bound by [`crate::bind_outer`] at the `socket` of `outside`, where that is something.
    pub outer: Option<UnixListener>,
    /// `None`: all certificates are the local CA's.
    pub acme: Option<Acme>,
    /// A build that takes longer is killed. See [`BUILD_TIME`].
    pub build_time: Duration,
    /// `None`: telemetry goes nowhere.
    pub otlp: Option<crate::otlp::Settings>,
    /// Of the running binary.
    pub version: String,
}

/// The authority that public names get their certificates from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// URL of its directory.
    pub directory: String,
    /// Whom it writes to.
    pub contact: Option<String>,
    /// PEM file of those who are trusted to have signed its own server's certificate; `None`: the machine's.
    pub ca: Option<PathBuf>,
    /// How names are proven, one after the other; not empty.
    pub methods: Vec<Method>,
    /// The API's host gets its certificate there, too.
    pub api: bool,
}

/// The way to the API from elsewhere: through the edge, with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    pub host: HostName,
    /// `None`: the local CA makes one.
    pub certificate: Option<Certificate>,
    /// Why its files hold none that can be served: what was served last goes on until it ends, and then one of the local CA.
    pub refused: Option<Fault>,
    /// In a folder in which only the daemon makes files.
    pub socket: PathBuf,
    /// The edge's user, where it is another than the daemon's.
    pub edge_uid: Option<u32>,
}

/// The other rooms' ends of the channels.
#[derive(Debug)]
pub struct Links {
    pub node_desired: watch::Sender<Arc<NodeDesired>>,
    pub node: watch::Receiver<Arc<Observations>>,
    pub builds: mpsc::Sender<BuildCall>,
    /// Carried out before any build that is asked for later.
    pub collections: mpsc::UnboundedSender<Keep>,
    pub checks: mpsc::Sender<CheckCall>,
    pub foresights: mpsc::Sender<ForesightCall>,
    pub logs: mpsc::Sender<LogCall>,
    pub feeds: mpsc::Sender<FeedCall>,
    pub sessions: mpsc::Sender<SessionCall>,
    pub data: mpsc::Sender<DataCall>,
    pub edge_desired: watch::Sender<Arc<EdgeDesired>>,
    /// Where it listens is known when the control room starts: apps are told by which address they reach services.
    pub edge: watch::Receiver<Arc<EdgeObservation>>,
    /// What the files of [`Outside::certificate`] have come to hold, or why it cannot be served.
    pub renewals: mpsc::Receiver<Result<Certificate, Fault>>,
}

/// How the control room ended, and so what the binary does with the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// No instance runs any more: the edge is to be stopped, too.
    Stopped,
    /// Apps and edge are to go on without a daemon.
    LeftRunning,
    /// As `LeftRunning`, and the kept copy of this binary takes the daemon's place in the same process.
    HandedOver(Digest),
}
