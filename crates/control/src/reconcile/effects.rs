//! What goes into the reconcile loop and what comes out of it, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bowline_api::wire::{self, ChangeStep};
use bowline_core::access::Scope;
use bowline_core::acme;
use bowline_core::app::{App, HostName};
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, Digest, EnvironmentId, ReleaseNumber, RunNumber, SecretName, ServiceName};
use bowline_core::instance::{NodeDesired, Observations};
use bowline_core::release::{Artifact, BuildProgress, BuildRequest, Built, Foreseen, SecretVersion};
use bowline_core::resource::data::{DataDone, DataOrder};
use bowline_core::resource::{ResourceId, ResourceKey};
use bowline_core::rollout::Scales;
use bowline_core::route::{Certificate, EdgeDesired, EdgeObservation, Maintenance};
use bowline_core::secret::Secret;
use bowline_core::time::{Mono, Timestamp};

use super::back::{GoBack, WentBack};
use super::change::{ChangeForm, ChangeId};
use super::release::Release;
use super::request::{Reply, Request};
use super::resources::Kept;
use super::rounds::BeginRound;
use crate::certs::Leaf;
use crate::certs::acme::Report;
use crate::config::{Ended, Keep};
use crate::otlp::{Health, Signal};
use crate::store::{AppRecord, JobRecord, NewEvent, RevisionState, RunRecord, Users, Wanted};

/// The moment of an input, and a random number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) mono: Mono,
    pub(crate) wall: Timestamp,
    pub(crate) random: u64,
}

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Work for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobId(pub(crate) u64);

#[derive(Debug)]
pub(crate) enum Input {
    Asked(Ticket, Request),
    /// A folder was read for an apply.
    Read(Ticket, Result<Box<Reading>, Fault>),
    Stored(JobId, Result<Outcome, Fault>),
    Progress(ChangeId, BuildProgress),
    Built(ChangeId, Result<Built, Fault>),
    Certified(BTreeMap<HostName, Result<Leaf, Fault>>),
    /// The files of the API's certificate are others: what they hold, or why it cannot be served.
    Renewed(Result<Certificate, Fault>),
    /// An order of a certificate has gone on, or is over.
    Acme(Report),
    /// The node has done what was asked of it.
    Data(Ticket, Result<DataDone, Fault>),
    /// Data were kept as they are, for a release.
    Snapshotted(AppKey, ReleaseNumber, Result<DataDone, Fault>),
    Node(Arc<Observations>),
    Edge(Arc<EdgeObservation>),
    /// What a collector does with what it is sent has changed.
    Collector(Signal, Health),
    /// A deadline has passed.
    Tick,
    /// TERM or INT.
    Terminate,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    Answer(Ticket, Reply),
    /// A step of a change, for those who follow it.
    Tell(ChangeId, ChangeStep),
    /// Read the folder of an app and its file; if it is for a plan, also what a build would give.
    Read(Ticket, ReadOrder),
    Store(JobId, Job),
    Build(ChangeId, BuildRequest),
    /// The result is not wanted any more.
    CancelBuild(ChangeId),
    /// Artifacts in which none of these roots lies may go.
    Collect(Keep),
    Certify(Vec<HostName>),
    /// What an authority is asked, and what is kept of that: in this order.
    Acme(acme::Effect),
    Data(Ticket, DataOrder),
    /// Keep data as they are, for a release.
    TakeSnapshot(AppKey, ReleaseNumber, DataOrder),
    /// It is not wanted any more.
    CancelSnapshot(AppKey, ReleaseNumber),
    Node(Arc<NodeDesired>),
    Edge(Arc<EdgeDesired>),
    /// Seal it, so that the next daemon can feed the edge before its store is open.
    Snapshot(Arc<EdgeDesired>),
    Exit(Ended),
}

/// Why a folder is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To bring it out, as it is.
    Apply,
    /// To bring it out, if that does what the plan with this hash showed.
    Planned(Digest),
    /// To say what that would do.
    Plan,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReadOrder {
    pub(crate) apply: wire::Apply,
    pub(crate) purpose: Purpose,
    /// The apps that whoever asks speaks for.
    pub(crate) scope: Scope,
}

/// What a folder holds: parsed, valid, and supported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reading {
    pub(crate) purpose: Purpose,
    /// See [`ReadOrder::scope`].
    pub(crate) scope: Scope,
    pub(crate) key: AppKey,
    /// Which the app belongs to.
    pub(crate) folder: PathBuf,
    /// What is built. Another one than `folder` where it was sent from elsewhere.
    pub(crate) source: PathBuf,
    pub(crate) app: Arc<App>,
    /// It is an artifact: nothing of it is built.
    pub(crate) built: bool,
    /// The servers that Bowline is to run, and the SQL that fills an empty one.
    pub(crate) resources: BTreeMap<ResourceId, Option<String>>,
    /// The `.env` beside the file, packed.
    pub(crate) dotenv: Option<Secret>,
    /// The secrets whose source is a file, as it is now.
    pub(crate) files: BTreeMap<SecretName, Secret>,
    /// The folder that the app was applied from before, if that is gone.
    pub(crate) moved: Option<PathBuf>,
    /// What is set when the folder is read.
    pub(crate) secrets: SecretIndex,
    /// Of `dotenv` and `files`, those that are not what is kept of them.
    pub(crate) renewed: BTreeSet<SecretName>,
    /// What a build would give, if it is for a plan.
    pub(crate) foreseen: Option<BTreeMap<ServiceName, Foreseen>>,
    /// For people: what was found beside the file.
    pub(crate) notes: Vec<String>,
}

/// One transaction. All of it is durable, or none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Job {
    /// Makes the app known and gives the change its id; makes secrets that generate themselves, and a new version of
    /// the one that holds the `.env` if that has changed.
    Begin(Box<Begin>),
    /// Numbers and stores a revision; answers with the release, its secrets opened.
    Release {
        change: ChangeId,
        draft: Box<Draft>,
        from: Option<ReleaseNumber>,
        cached: bool,
        at: Timestamp,
    },
    Back(Box<GoBack>),
    BeginRound(Box<BeginRound>),
    Write(Vec<Write>),
    SetSecret {
        key: AppKey,
        name: SecretName,
        value: Secret,
        by_uid: Option<u32>,
        at: Timestamp,
    },
    RemoveSecret {
        key: AppKey,
        name: SecretName,
        by_uid: Option<u32>,
        at: Timestamp,
    },
}

/// What is made before a change has its id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Begin {
    pub(crate) key: AppKey,
    pub(crate) folder: PathBuf,
    /// The plan that it is held to.
    pub(crate) plan: Option<Digest>,
    pub(crate) generate: Vec<SecretName>,
    pub(crate) dotenv: Option<Secret>,
    /// Each is a new version if it has changed.
    pub(crate) files: BTreeMap<SecretName, Secret>,
    /// Whom new apps and databases run as.
    pub(crate) users: Users,
    /// Where the app lay before its folder was moved.
    pub(crate) moved: Option<PathBuf>,
    /// The servers that the file asks Bowline to run, and what fills them: each gets a port, a user and passwords.
    pub(crate) resources: BTreeMap<ResourceId, Option<String>>,
    pub(crate) at: Timestamp,
}

/// A revision before it has a number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) key: AppKey,
    pub(crate) app: Arc<App>,
    pub(crate) artifacts: BTreeMap<ServiceName, Artifact>,
    pub(crate) secrets: BTreeMap<SecretName, SecretVersion>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Write {
    Event(NewEvent),
    Wanted(AppKey, Wanted),
    Revision(AppKey, ReleaseNumber, RevisionState),
    Change(AppKey, ChangeForm),
    ChangeEnded(AppKey),
    /// It is not kept any more, and neither is what was built for it.
    ForgetRevision(AppKey, ReleaseNumber),
    Maintenance(AppKey, Option<Maintenance>),
    Scales(AppKey, Scales),
    Run(Box<RunRecord>),
    /// It is over; nothing else of it is known.
    RunOver(AppKey, RunNumber, Timestamp),
    Counted(JobRecord),
    /// Its data are gone: port, user and passwords go, too.
    ForgetResource(ResourceKey, Timestamp),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Begun { change: ChangeId, app: AppRecord, environment: EnvironmentId, secrets: SecretIndex, resources: Vec<Kept> },
    Released(Box<Release>),
    WentBack(Box<WentBack>),
    RoundBegun(ChangeId),
    Written,
    SecretSet(SecretMeta),
    SecretRemoved,
}

/// What the loop knows of an app's secrets: the newest valid version of each.
pub(crate) type SecretIndex = BTreeMap<SecretName, SecretMeta>;

/// One version of a secret; never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretMeta {
    pub(crate) name: SecretName,
    pub(crate) version: SecretVersion,
    pub(crate) created: Timestamp,
    /// `None`: Bowline made it.
    pub(crate) by_uid: Option<u32>,
}
