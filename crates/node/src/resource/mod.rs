//! Databases and caches: between what is wanted of this node and the driver.
//!
//! The driver knows only instances. This task turns resources into instances of release 0 and back
//! ([`bowline_core::resource::Resources`] decides), prepares their folders, and makes their roles and contents over the
//! server's own Unix socket.
//!
//! Architecture invariant: nothing here starts or stops a server; the driver's shims do.

mod elsewhere;
mod failure;
pub(crate) mod lease;
mod mariadb;
mod packages;
mod postgres;
mod redis;
pub(crate) mod script;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::instance::{NodeDesired, Observations};
use bowline_core::resource::{
    Effect, Input, Managed, Nature, Prepared, ResourceKey, ResourceSpec, Resources, Round, Trouble,
};
use bowline_core::time::Mono;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::cage::ports::{GateError, Told};
use crate::driver::Context;
use site::Site;

/// Answers that wait for the loop. Each resource has at most a few under way.
const ANSWERS: usize = 64;

/// Between two ticks: a deadline that does not move costs no processor.
const SHORTEST_TICK: Duration = Duration::from_millis(5);

/// How a step beside the loop ended.
enum Answer {
    Prepared(ResourceKey, Round, Result<Prepared, Trouble>),
    Probed(ResourceKey, Round, Result<Option<String>, Trouble>),
    Provisioned(ResourceKey, Round, Result<(), Trouble>),
}

/// Writes down what is in a Redis that runs.
///
/// # Errors
/// It runs elsewhere, or does not answer to the end.
pub(crate) async fn dump_redis(
    run_dir: &Path,
    key: &ResourceKey,
    spec: &ResourceSpec,
    to: &mut (dyn AsyncWrite + Unpin + Send),
) -> Result<(), Fault> {
    let managed = spec.managed().ok_or_else(|| wrong_kind(key).fault)?;
    redis::dump(&Site::new(key, &managed.server, run_dir), to).await.map_err(|trouble| trouble.fault)
}

/// The ends of the channels to both sides.
pub(crate) struct Ends {
    /// From control.
    pub desired: watch::Receiver<Arc<NodeDesired>>,
    /// To control.
    pub told: watch::Sender<Arc<Observations>>,
    /// To the driver.
    pub orders: watch::Sender<Arc<NodeDesired>>,
    /// From the driver.
    pub seen: watch::Receiver<Arc<Observations>>,
}

pub(crate) struct Interposer {
    ends: Ends,
    context: Arc<Context>,
    /// The gate has been told of them.
    closed: Option<Told>,
    machine: Resources,
    zero: Instant,
    answers: mpsc::Sender<Answer>,
    results: mpsc::Receiver<Answer>,
    /// Servers that are only left.
    left: BTreeSet<ResourceKey>,
    /// The latest of each: an earlier one must not undo what a later one has done.
    provisions: BTreeMap<ResourceKey, AbortHandle>,
}

impl Interposer {
    pub(crate) fn new(context: Arc<Context>, ends: Ends) -> Self {
        let (answers, results) = mpsc::channel(ANSWERS);
        let (machine, left, provisions) = (Resources::new(), BTreeSet::new(), BTreeMap::new());
        Self { ends, context, closed: None, left, machine, zero: Instant::now(), answers, results, provisions }
    }

    /// Until control's sender is dropped; servers go on running.
    pub(crate) async fn run(mut self) {
        let mut ticked = Instant::now();
        loop {
            let deadline = self.machine.next_deadline().map(|at| (self.zero + at.0).max(ticked + SHORTEST_TICK));
            let effects = tokio::select! {
                changed = self.ends.desired.changed() => match changed {
                    Ok(()) => {
                        let desired = Arc::clone(&self.ends.desired.borrow_and_update());
                        self.close_ports(&desired).await;
                        self.watch_left(&desired);
                        self.handle(Input::Desired(&desired.resources))
                    }
                    Err(_) => return,
                },
                Ok(()) = self.ends.seen.changed() => {
                    let seen = Arc::clone(&self.ends.seen.borrow_and_update());
                    self.handle(Input::Node(&seen))
                }
                Some(answer) = self.results.recv() => match answer {
                    Answer::Prepared(key, round, result) => self.handle(Input::Prepared(key, round, result)),
                    Answer::Probed(key, round, result) => self.handle(Input::Probed(key, round, result)),
                    Answer::Provisioned(key, round, result) => self.handle(Input::Provisioned(key, round, result)),
                },
                () = sleep_until(deadline) => {
                    ticked = Instant::now();
                    self.handle(Input::Tick)
                }
            };
            effects.into_iter().for_each(|effect| self.carry_out(effect));
            self.order();
            self.tell();
        }
    }

    /// A database's port is nobody else's for as long as it is wanted, whether the server runs or not; and the admin port is
    /// open to those who may watch before they start.
    async fn close_ports(&mut self, desired: &NodeDesired) {
        let wanted = desired.resources.iter();
        let wanted = wanted.filter_map(|(key, spec)| spec.listens().map(|(port, uid)| (key.app.clone(), port, uid)));
        let wanted = Told { databases: wanted.collect(), watchers: desired.watchers.clone() };
        if self.closed.as_ref() == Some(&wanted) {
            return;
        }
        self.closed = Some(wanted.clone());
        let context = Arc::clone(&self.context);
        match tokio::task::spawn_blocking(move || context.gate.tell(wanted)).await {
            Ok(Ok(()) | Err(GateError::NotRoot)) => {}
            Ok(Err(error)) => tracing::warn!(%error, source = ?error.source(), "ports of databases are not closed"),
            Err(error) => tracing::error!(%error, "ports of databases could not be closed"),
        }
    }

    /// Accounts that end by themselves do so on servers that are only left, too: those are not provisioned.
    fn watch_left(&mut self, desired: &NodeDesired) {
        let is_left = |spec: &ResourceSpec| matches!(spec, ResourceSpec::Left(_));
        let left: BTreeSet<ResourceKey> =
            desired.resources.iter().filter(|(_, spec)| is_left(spec)).map(|(key, _)| key.clone()).collect();
        for key in left.difference(&self.left) {
            lease::watch(key.clone(), Arc::clone(&desired.resources[key]), self.context.config.run_dir.clone());
        }
        self.left = left;
    }

    fn now(&self) -> Mono {
        Mono(self.zero.elapsed())
    }

    fn handle(&mut self, input: Input<'_>) -> Vec<Effect> {
        // Random numbers only spread backoffs.
        let random = getrandom::u64().unwrap_or_default();
        let now = self.now();
        self.machine.handle(input, now, random)
    }

    fn carry_out(&mut self, effect: Effect) {
        let (answers, run_dir) = (self.answers.clone(), self.context.config.run_dir.clone());
        let provisioned = match &effect {
            Effect::Provision(key, ..) => Some(key.clone()),
            Effect::Prepare(..) | Effect::Probe(..) => None,
        };
        let task = tokio::spawn(async move {
            let answer = match effect {
                Effect::Prepare(key, round, spec) => {
                    let result = prepare(key.clone(), spec, run_dir).await;
                    Answer::Prepared(key, round, result)
                }
                Effect::Probe(key, round, spec) => {
                    let result = match &*spec {
                        ResourceSpec::External(external) => elsewhere::probe(&key, external).await,
                        ResourceSpec::Managed(_) | ResourceSpec::Left(_) => Err(wrong_kind(&key)),
                    };
                    Answer::Probed(key, round, result)
                }
                Effect::Provision(key, round, spec) => {
                    let result = provision(&key, &spec, &run_dir).await;
                    if result.is_ok() {
                        // Those that an earlier daemon has made end as they were meant to.
                        lease::watch(key.clone(), Arc::clone(&spec), run_dir);
                    }
                    Answer::Provisioned(key, round, result)
                }
            };
            // The loop is gone: a later one begins anew.
            let _ = answers.send(answer).await;
        });
        self.provisions.retain(|_, earlier| !earlier.is_finished());
        if let Some(earlier) = provisioned.and_then(|key| self.provisions.insert(key, task.abort_handle())) {
            earlier.abort();
        }
    }

    /// Both kinds of orders under control's generation.
    fn order(&self) {
        let Some(servers) = self.machine.orders() else { return };
        let desired = self.ends.desired.borrow().clone();
        let mut merged = NodeDesired { resources: BTreeMap::new(), ..(*desired).clone() };
        merged.instances.extend(servers);
        self.ends.orders.send_if_modified(|before| {
            let differs = **before != merged || before.generation != merged.generation;
            if differs {
                *before = Arc::new(merged);
            }
            differs
        });
    }

    /// Coalesced: nobody is woken when nothing changed.
    fn tell(&self) {
        let mut seen = (**self.ends.seen.borrow()).clone();
        seen.instances.retain(|id, _| ResourceKey::of_slot(&id.slot).is_none());
        seen.resources = self.machine.observe(self.now());
        seen.ordered = self.ends.desired.borrow().generation;
        self.ends.told.send_if_modified(|before| {
            let differs = **before != seen;
            if differs {
                *before = Arc::new(seen);
            }
            differs
        });
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The machine asks only for what the spec can do; a defect is said instead of hidden.
fn wrong_kind(key: &ResourceKey) -> Trouble {
    let fault = Fault::new(FaultKind::Failed, format!("{key} is not what it was ordered as"));
    Trouble { fault: fault.hint("this is a defect of Bowline: please report it"), nature: Nature::Lasting }
}

async fn prepare(key: ResourceKey, spec: Arc<ResourceSpec>, run_dir: PathBuf) -> Result<Prepared, Trouble> {
    let broken = |error: &dyn Error, key: &ResourceKey| {
        failure::passing(
            Fault::new(FaultKind::Failed, format!("{} of {} cannot be prepared", key.id, key.app)).source(error),
        )
    };
    let of = key.clone();
    let work = tokio::task::spawn_blocking(move || {
        let managed = spec.managed().ok_or_else(|| wrong_kind(&key))?;
        let site = Site::new(&key, &managed.server, &run_dir);
        match key.id.kind {
            ResourceKind::Postgres => postgres::prepare(&site),
            ResourceKind::MariaDb => mariadb::prepare(&site),
            ResourceKind::Redis => redis::prepare(&site, &managed.access),
        }
    });
    work.await.map_err(|error| broken(&error, &of))?
}

async fn provision(key: &ResourceKey, spec: &ResourceSpec, run_dir: &Path) -> Result<(), Trouble> {
    let Managed { server, access, init } = spec.managed().ok_or_else(|| wrong_kind(key))?;
    let site = Site::new(key, server, run_dir);
    match key.id.kind {
        ResourceKind::Postgres => postgres::provision(&site, access, init.as_ref()).await,
        ResourceKind::MariaDb => mariadb::provision(&site, access, init.as_ref()).await,
        ResourceKind::Redis => redis::provision(&site, access).await,
    }
}
