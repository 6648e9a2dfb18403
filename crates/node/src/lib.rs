//! One machine: instances as processes under shims, builds, logs, volumes.
//!
//! [`spawn`] starts the driver, which follows a desired state and reports observations; [`shim::main`] is the whole of
//! `bowline shim`, [`builder::main`] that of `bowline builder`. Nothing here reads the environment or the command line: paths and binaries come with [`NodeConfig`].
//!
//! Architecture invariant: nothing in memory is the truth. A driver that starts finds what an earlier one left running.

pub mod build;
pub mod builder;
mod cage;
mod cgroup;
mod data;
mod disk;
mod driver;
mod engine;
mod health;
mod layout;
mod logs;
mod others;
mod packages;
mod procfs;
mod resource;
mod session;
pub mod shim;
pub mod slice;
pub mod survey;
mod volume;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::Fault;
use bowline_core::id::{Port, ServiceName};
use bowline_core::instance::{Busy, NodeDesired, Observations};
use bowline_core::log::{LogFeed, LogLine, LogQuery};
use bowline_core::release::{Artifact, BuildProgress, BuildRequest, Built, Foreseen, Kept};
use bowline_core::resource::data::{DataDone, DataOrder};
use bowline_core::session::{SessionControl, SessionEnd, SessionOutput, SessionSpec};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use data::last_words;
pub use disk::room_for;
pub use driver::keep_binary;
pub use engine::{Engine, EngineError};
pub use logs::{check_pattern, matcher};
pub use packages::Packages;
pub use procfs::{listener, memory_rollup};
pub use resource::script::breaks_transaction;

/// A log file is put aside when it would become larger: 10 MiB.
pub const LOG_BYTES: u64 = 10 << 20;
/// Log files of one slot, the one that is written to included.
pub const LOG_FILES: u32 = 5;
/// Builds, looks ahead, checks, log queries, sessions and orders on data that wait to be taken.
const CALLS: usize = 32;

/// A build, where its live output goes, and where its end goes. Dropping the receiver of the end cancels the build.
pub type BuildCall = (BuildRequest, mpsc::Sender<BuildProgress>, oneshot::Sender<Result<Built, Fault>>);
/// What is to be kept of releases: all others may go. Nothing is removed that was asked for, or built, after
/// this was sent.
pub type Keep = Arc<Kept>;
/// Artifacts that are about to be run again, and where it goes whether they still can be.
pub type CheckCall = (Vec<Artifact>, oneshot::Sender<Result<(), Fault>>);
/// What a build would give, asked before it is.
pub type ForesightCall = (BuildRequest, oneshot::Sender<Result<BTreeMap<ServiceName, Foreseen>, Fault>>);
/// A question to the logs, and where the lines go, in pieces of bounded size. Dropping the receiver ends it.
pub type LogCall = (LogQuery, mpsc::Sender<Vec<LogLine>>);
/// The same of all apps, from a moment on.
pub type FeedCall = (LogFeed, mpsc::Sender<Vec<LogLine>>);
/// What a person asks of data, and where the answer goes.
pub type DataCall = (DataOrder, oneshot::Sender<Result<DataDone, Fault>>);

/// A session: input, of which the end is the command's end of input; what else is said to it; its output; and, when all of that
/// is sent, how it ended. Dropping the sender of the second is leaving: everything that the session started is killed.
pub type SessionCall = (
    SessionSpec,
    mpsc::Receiver<Vec<u8>>,
    mpsc::Receiver<SessionControl>,
    mpsc::Sender<SessionOutput>,
    oneshot::Sender<SessionEnd>,
);

/// What an image is made of: an artifact, where it lies on this machine, and what is started in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// All that a build has left: the release folder, and what lies beside it.
    pub artifact: PathBuf,
    /// The release folder: where the command starts.
    pub root: PathBuf,
    /// As `/bin/sh -c` reads it.
    pub run: String,
    /// The `PATH` it is started with.
    pub search: String,
    /// System packages that it may start programs of.
    pub packages: Vec<String>,
}
/// The name that an image is to have, and where an archive of it goes, which an engine loads: a file without a name, read from its start.
pub type ImageCall = (ImageRequest, String, oneshot::Sender<Result<std::fs::File, Fault>>);

/// Instances are containers of this engine.
#[derive(Debug, Clone)]
pub struct Containers {
    pub engine: Engine,
    pub images: mpsc::Sender<ImageCall>,
    /// What is called so in the engine is of this state.
    pub state: String,
    /// One image is made at a time, for the next one may be the same, and none is removed meanwhile.
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Containers {
    /// Of the state in `folder`, whose lock the caller holds.
    ///
    /// # Errors
    /// What the state is called in engines cannot be read, or kept.
    pub fn of(folder: &Path, engine: Engine, images: mpsc::Sender<ImageCall>) -> io::Result<Self> {
        let layout = layout::Layout { state: folder.to_owned(), run: folder.to_owned() };
        let state = layout.in_engines(getrandom::u64().map_err(io::Error::other)?)?;
        Ok(Self { engine, images, state, making: Arc::default() })
    }
}

/// What a node is given.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Everything that must survive. Absolute.
    pub state_dir: PathBuf,
    /// On a tmpfs where the machine has one. Absolute.
    pub run_dir: PathBuf,
    /// Run as `EXE shim …` and `EXE builder`, from a copy kept in the state folder; a path below `STATE/bin` is taken as such a copy.
    pub exe: PathBuf,
    /// The daemon's environment, of which builds see a named part. See [`build::BuildConfig`].
    pub environment: BTreeMap<String, String>,
    /// The edge's user, where it has one of its own: it and root may connect to every instance.
    pub edge_uid: Option<u32>,
    /// The admin port, where there is one: no app may connect to it.
    pub admin: Option<Port>,
    /// Use namespaces where the machine allows them. Default: yes.
    pub namespaces: bool,
    /// See [`LOG_BYTES`].
    pub log_bytes: u64,
    /// See [`LOG_FILES`].
    pub log_files: u32,
    /// `None`: instances are processes of this machine.
    pub containers: Option<Containers>,
}

impl NodeConfig {
    /// With the defaults of everything else.
    pub fn new(state_dir: PathBuf, run_dir: PathBuf, exe: PathBuf) -> Self {
        Self {
            state_dir,
            run_dir,
            exe,
            environment: BTreeMap::new(),
            edge_uid: None,
            admin: None,
            namespaces: true,
            log_bytes: LOG_BYTES,
            log_files: LOG_FILES,
            containers: None,
        }
    }
}

/// The node's end of the channels. Dropping `desired` ends the driver; what runs goes on running.
#[derive(Debug)]
pub struct Handle {
    pub desired: watch::Sender<Arc<NodeDesired>>,
    pub observed: watch::Receiver<Arc<Observations>>,
    /// Which apps have requests; the instances of others are checked less often. Until it is said: all may.
    pub busy: watch::Sender<Arc<Busy>>,
    pub builds: mpsc::Sender<BuildCall>,
    pub collections: mpsc::UnboundedSender<Keep>,
    pub checks: mpsc::Sender<CheckCall>,
    pub foresights: mpsc::Sender<ForesightCall>,
    pub logs: mpsc::Sender<LogCall>,
    pub feeds: mpsc::Sender<FeedCall>,
    pub sessions: mpsc::Sender<SessionCall>,
    /// Ends when `desired` is dropped and nothing of any session is left.
    pub sessions_over: JoinHandle<()>,
    pub data: mpsc::Sender<DataCall>,
}

/// How often what builds keep for later ones is looked at: on a disk that is almost full nothing is sent before some of it is gone.
const CACHES_EVERY: Duration = Duration::from_mins(10);

/// Starts the node's tasks on the current tokio runtime.
///
/// Until `Observations::adopted`, nothing is started; until a first desired state is sent, nothing is stopped.
pub fn spawn(config: NodeConfig) -> Handle {
    let (desired, desired_receiver) = watch::channel(Arc::default());
    let (told, observed) = watch::channel(Arc::default());
    let (orders, ordered) = watch::channel(Arc::default());
    let (seen_sender, seen) = watch::channel(Arc::default());
    let (busy, who_is_busy) = watch::channel(Arc::default());
    let (builds, build_calls) = mpsc::channel(CALLS);
    // At most one for each promotion; the newest makes those before it needless.
    let (collections, keeps) = mpsc::unbounded_channel();
    let (checks, check_calls) = mpsc::channel(CALLS);
    let (foresights, foresight_calls) = mpsc::channel(CALLS);
    let (logs, log_calls) = mpsc::channel(CALLS);
    let (feeds, feed_calls) = mpsc::channel(CALLS);
    let (sessions, session_calls) = mpsc::channel(CALLS);
    let (data, data_calls) = mpsc::channel(CALLS);
    let context = Arc::new(driver::Context::new(config));
    tokio::spawn(take_builds(build_config(&context.config), context.config.containers.clone(), build_calls, keeps));
    tokio::spawn(take_checks(build_config(&context.config), check_calls));
    tokio::spawn(take_foresights(build_config(&context.config), foresight_calls));
    tokio::spawn(take_log_calls(context.layout.clone(), log_calls, feed_calls));
    tokio::spawn(data::take(Arc::clone(&context), data_calls));
    let sessions_over = tokio::spawn(session::take(context.clone(), desired_receiver.clone(), session_calls));
    let ends = resource::Ends { desired: desired_receiver, told, orders, seen };
    tokio::spawn(resource::Interposer::new(Arc::clone(&context), ends).run());
    tokio::spawn(driver::Driver::new(context, ordered, seen_sender, who_is_busy).run());
    Handle {
        desired,
        observed,
        busy,
        builds,
        collections,
        checks,
        foresights,
        logs,
        feeds,
        sessions,
        sessions_over,
        data,
    }
}

fn build_config(config: &NodeConfig) -> build::BuildConfig {
    build::BuildConfig {
        state_dir: config.state_dir.clone(),
        run_dir: config.run_dir.clone(),
        exe: config.exe.clone(),
        environment: config.environment.clone(),
        namespaces: config.namespaces,
    }
}

/// What an earlier daemon's builds left is removed first: a build that was cut short is no artifact.
///
/// A collection runs before any build that was asked for after it: the artifact that such a build makes, or finds, is in
/// no list yet.
async fn take_builds(
    config: build::BuildConfig,
    containers: Option<Containers>,
    mut calls: mpsc::Receiver<BuildCall>,
    mut keeps: mpsc::UnboundedReceiver<Keep>,
) {
    let earlier = config.clone();
    match tokio::task::spawn_blocking(move || build::clean(&earlier)).await {
        Ok(Ok(_)) => {}
        Ok(Err(fault)) => tracing::warn!(error = %fault, causes = ?fault.causes, "what earlier builds left stays"),
        Err(error) => tracing::error!(%error, "what earlier builds left could not be looked at"),
    }
    let mut caches = tokio::time::interval(CACHES_EVERY);
    loop {
        let (request, progress, mut reply) = tokio::select! {
            _ = caches.tick() => {
                let config = config.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || remove_caches(&config)).await {
                    tracing::error!(%error, "caches of builds could not be looked at");
                }
                continue;
            }
            Some(keep) = keeps.recv() => {
                collect(&config, containers.as_ref(), keep, &mut keeps).await;
                continue;
            }
            call = calls.recv() => match call {
                Some(call) => call,
                None => return,
            },
        };
        if let Ok(keep) = keeps.try_recv() {
            collect(&config, containers.as_ref(), keep, &mut keeps).await;
        }
        let config = config.clone();
        tokio::spawn(async move {
            let built = tokio::select! {
                built = Box::pin(build::run(request, progress, &config)) => built,
                fault = disk::filled_by_a_build(config.state_dir.clone()) => Err(fault),
                // Nobody waits any more: dropping the build ends it.
                () = reply.closed() => return,
            };
            drop(reply.send(built));
        });
    }
}

/// Removes what builds have kept for later ones, where it is old or the disk is almost full. Blocks on the disk.
fn remove_caches(config: &build::BuildConfig) {
    match build::collect_caches(config) {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(count = gone.len(), "caches of builds removed"),
        Err(fault) => tracing::warn!(error = %fault, causes = ?fault.causes, "old caches of builds stay"),
    }
}

/// Removes what none of the newest list keeps.
async fn collect(
    config: &build::BuildConfig,
    containers: Option<&Containers>,
    mut keep: Keep,
    keeps: &mut mpsc::UnboundedReceiver<Keep>,
) {
    while let Ok(newer) = keeps.try_recv() {
        keep = newer;
    }
    let (config, containers) = (config.clone(), containers.cloned());
    let removed = move || {
        if let Some(containers) = &containers {
            driver::container::collect(&config.state_dir, &config.run_dir, containers, &keep);
        }
        if let Err(error) = data::collect_snapshots(&config.state_dir, &keep.roots) {
            tracing::warn!(%error, "old snapshots stay");
        }
        remove_caches(&config);
        build::collect(&config, &keep.roots)
    };
    match tokio::task::spawn_blocking(removed).await {
        Ok(Ok(gone)) if gone.is_empty() => {}
        Ok(Ok(gone)) => tracing::info!(count = gone.len(), "old artifacts removed"),
        Ok(Err(fault)) => tracing::warn!(error = %fault, causes = ?fault.causes, "old artifacts stay"),
        Err(error) => tracing::error!(%error, "old artifacts could not be looked at"),
    }
}

async fn take_checks(config: build::BuildConfig, mut calls: mpsc::Receiver<CheckCall>) {
    while let Some((artifacts, reply)) = calls.recv().await {
        let config = config.clone();
        // Whoever asked may have gone away.
        tokio::spawn(async move { drop(reply.send(build::check(artifacts, &config).await)) });
    }
}

async fn take_foresights(config: build::BuildConfig, mut calls: mpsc::Receiver<ForesightCall>) {
    while let Some((request, reply)) = calls.recv().await {
        let config = config.clone();
        // Whoever asked may have gone away.
        tokio::spawn(async move { drop(reply.send(Box::pin(build::foresee(request, &config)).await)) });
    }
}

async fn take_log_calls(
    layout: layout::Layout,
    mut queries: mpsc::Receiver<LogCall>,
    mut feeds: mpsc::Receiver<FeedCall>,
) {
    let threads = logs::threads();
    loop {
        let (layout, threads) = (layout.clone(), Arc::clone(&threads));
        tokio::select! {
            Some((query, out)) = queries.recv() => drop(tokio::spawn(logs::serve(layout, query, out, threads))),
            Some((feed, out)) = feeds.recv() => drop(tokio::spawn(logs::feed(layout, feed, out, threads))),
            else => return,
        }
    }
}
