//! The reconcile loop: one synchronous `handle(input, now)`, effects as data, and a next deadline.
//!
//! Every input ends in the same look at the world ([`Loop::reconcile`]): what is wanted follows from apps and their
//! rollouts, the machine of slots turns it into orders and endpoints, and what has changed goes out. A hint of what
//! has changed is never taken.
//!
//! Architecture invariant: no I/O, no clock, no await. A phase of a rollout is stored before what follows from it is
//! published; nothing is ordered from the node before it has adopted what runs.

mod abort;
pub(crate) mod acme;
mod apply;
pub(crate) mod back;
pub(crate) mod change;
mod collect;
mod collector;
pub(crate) mod course;
pub(crate) mod credentials;
mod data;
pub(crate) mod degraded;
pub(crate) mod effects;
pub(crate) mod events;
pub(crate) mod given;
mod ledger;
pub(crate) mod load;
mod maintenance;
pub(crate) mod pending;
mod plan;
mod promote;
mod publish;
pub(crate) mod release;
pub(crate) mod request;
pub(crate) mod resources;
mod rollout;
pub(crate) mod rounds;
pub(crate) mod runs;
pub(crate) mod scaling;
mod secret_verbs;
pub(crate) mod session;
mod snapshots;
mod status;
mod stop;
mod unread;
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::wire::{self, ChangeStep};
use bowline_core::acme::Pace;
use bowline_core::fault::Fault;
use bowline_core::id::{AppKey, EnvName, EnvironmentId, ReleaseNumber};
use bowline_core::instance::{Observations, Publish, Slots, World as SlotsWorld};
use bowline_core::job::{Jobs, RunId};
use bowline_core::resource::ResourceKey;
use bowline_core::route::{EdgeDesired, EdgeEngine, EdgeObservation, EdgeStatus, PoolId};
use bowline_core::time::{Humane, Mono, Timestamp};

use self::acme::Acme;
use self::change::ChangeId;
use self::collector::Collector;
use self::data::DataWork;
use self::effects::{Effect, Input, Job, JobId, Now, Outcome, Purpose, ReadOrder, Ticket, Write};
use self::load::Loaded;
use self::maintenance::Maintained;
use self::pending::Pending;
use self::publish::Published;
use self::release::Place;
use self::request::{Answer, Request};
use self::resources::Kept;
use self::snapshots::Taken;
use self::stop::Ending;
use self::world::Apps;
use crate::certs::Leaf;
use crate::config::Mode;
use crate::http::answer::Refusal;

/// How long a write waits that the store has refused, before it is tried again.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// How long the status of a daemon that has just started waits until node and edge have said what there is.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// What a daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) mode: Mode,
    pub(crate) started: Timestamp,
    pub(crate) admin: Option<String>,
    pub(crate) edge: EdgeEngine,
    pub(crate) state_dir: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) about: About,
    pub(crate) place: Place,
    pub(crate) apps: Apps,
    /// Those that an app has come to.
    environments: BTreeMap<EnvName, EnvironmentId>,
    pub(crate) slots: Slots,
    pub(crate) jobs: Jobs,
    /// The servers that the store knows, of all apps.
    pub(crate) resources: BTreeMap<ResourceKey, Kept>,
    /// Pools whose instances wait for no resource any more.
    pub(crate) opened: BTreeSet<PoolId>,
    /// Artifacts are to be looked through.
    to_collect: bool,
    /// An edge may tell until then where apps were served that cannot be read.
    unplaced: Option<Mono>,
    pub(crate) node: Arc<Observations>,
    /// The same without the runs of jobs, which are not kept running.
    kept_running: Arc<Observations>,
    pub(crate) edge: Arc<EdgeObservation>,
    pub(crate) published: Published,
    /// A rollout has begun to ask for the edge's word on a table that the edge serves already.
    is_answered: bool,
    /// `None`: all certificates are the local CA's.
    acme: Option<Acme>,
    pub(crate) pending: BTreeMap<JobId, Pending>,
    /// Writes that the store has refused and that must not be lost.
    retries: Vec<(Mono, JobId, Job)>,
    /// Those that it has refused at least once, and has not taken since.
    refused: BTreeSet<JobId>,
    /// Inputs that wait: for the store, since the fate of an app is written by one job at a time, or until it is known what runs.
    pub(crate) deferred: Vec<Input>,
    /// Those who ask for the status, and until when they wait for a settled world.
    curious: Vec<(Ticket, Mono)>,
    /// Those who wait until the edge serves what they have changed.
    maintained: Vec<Maintained>,
    /// The releases that one-offs were made of, by session.
    one_offs: BTreeMap<String, (AppKey, ReleaseNumber)>,
    /// Those who wait until a run is over.
    followers: Vec<(Ticket, RunId)>,
    /// What the node is doing with data.
    data: BTreeMap<Ticket, DataWork>,
    /// Of releases that wait for one.
    snapshots: BTreeMap<(AppKey, ReleaseNumber), Taken>,
    /// Questions about data that came before it was known what runs.
    early: Vec<(Ticket, Request)>,
    /// Those whose folder is being read: nothing of it has begun.
    reading: BTreeSet<Ticket>,
    /// The plans that were shown.
    shown: plan::Shown,
    /// What the collector does not take as it should.
    collector: Collector,
    pub(crate) ending: Option<Ending>,
    next_job: u64,
    pub(crate) effects: Vec<Effect>,
}

impl Loop {
    /// The loop over what the store holds, and the first effects. Nothing is ordered yet.
    pub(crate) fn start(
        about: About,
        place: Place,
        loaded: Loaded,
        snapshot: Option<&EdgeDesired>,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let published = Published::new(loaded.epoch, snapshot);
        let acme = place.acme.as_ref().map(|authority| Acme::new(authority, now));
        let acme = acme.or_else(|| Acme::left(&place.left));
        let mut this = Self {
            about,
            place,
            apps: Apps::new(),
            environments: loaded.environments,
            slots: Slots::new(),
            jobs: Jobs::new(),
            resources: BTreeMap::new(),
            opened: BTreeSet::new(),
            to_collect: true,
            unplaced: None,
            node: Arc::default(),
            kept_running: Arc::default(),
            edge: Arc::default(),
            published,
            is_answered: false,
            acme,
            pending: BTreeMap::new(),
            retries: Vec::new(),
            refused: BTreeSet::new(),
            deferred: Vec::new(),
            curious: Vec::new(),
            maintained: Vec::new(),
            one_offs: BTreeMap::new(),
            followers: Vec::new(),
            data: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            early: Vec::new(),
            reading: BTreeSet::new(),
            shown: plan::Shown::default(),
            collector: Collector::default(),
            ending: None,
            next_job: 0,
            effects: Vec::new(),
        };
        for app in loaded.apps {
            this.take_up(app, snapshot, now);
        }
        this.unplaced = (snapshot.is_none() && this.has_unread()).then(|| now.mono + SETTLE_LIMIT);
        if this.place.acme.as_ref().is_some_and(|authority| authority.kept.lost) {
            this.record(vec![events::orders_lost(Pace::WINDOW, now.wall)]);
        }
        this.reconcile(now);
        let effects = std::mem::take(&mut this.effects);
        (this, effects)
    }

    pub(crate) fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        self.take(input, now);
        self.reconcile(now);
        std::mem::take(&mut self.effects)
    }

    fn take(&mut self, input: Input, now: Now) {
        match input {
            Input::Asked(ticket, request) => self.asked(ticket, request, now),
            Input::Read(ticket, reading) => self.read(ticket, reading, now),
            Input::Stored(job, result) => self.stored(job, result, now),
            Input::Progress(change, progress) => self.progressed(change, progress),
            Input::Built(change, result) => self.built(change, result, now),
            Input::Certified(leaves) => self.certified(leaves, now),
            Input::Renewed(renewed) => self.renewed(renewed, now),
            Input::Acme(report) => self.reported(report, now),
            Input::Data(ticket, result) => self.data_done(ticket, result, now),
            Input::Snapshotted(key, release, result) => self.snapshotted(&key, release, result, now),
            Input::Node(node) => {
                let before = std::mem::replace(&mut self.node, node);
                self.kept_running = runs::without(&self.node);
                self.record_resources(&before, now);
                if self.node.adopted && !before.adopted {
                    self.ask_deferred(now);
                }
            }
            Input::Edge(edge) => {
                let before = std::mem::replace(&mut self.edge, edge);
                self.record_left_out(&before, now);
            }
            Input::Collector(signal, health) => self.collector_became(signal, health, now),
            Input::Tick => self.retry(now),
            Input::Terminate => self.terminate(now),
        }
    }

    /// When to call `handle` with a tick if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let rollouts = self.apps.values().filter_map(|app| app.rolling()?.machine.next_deadline()).min();
        let rounds = self.apps.values().filter_map(|app| app.rounding()?.machine.next_deadline()).min();
        let hold = match self.slots.publish() {
            Publish::Hold { until } => until,
            Publish::Now => None,
        };
        let retry = self.retries.iter().map(|(at, ..)| *at).min();
        let promoted = self.apps.values().filter_map(|app| Some(app.promoted?.until)).min();
        let curious = self.curious.iter().map(|(_, at)| *at).min();
        let maintained = self.maintained.iter().map(|one| one.until).min();
        let published = self.published.next_deadline();
        let (slots, jobs) = (self.slots.next_deadline(), self.jobs.next_deadline());
        let (scaling, acme) = (self.next_scaling(), self.acme.as_ref().and_then(Acme::next_deadline));
        let machines =
            [slots, jobs, acme, rollouts, rounds, scaling, hold, retry, promoted, curious, maintained, published];
        let unplaced = self.unplaced.filter(|_| matches!(self.slots.publish(), Publish::Now));
        machines.into_iter().flatten().chain(unplaced).min()
    }

    fn asked(&mut self, ticket: Ticket, request: Request, now: Now) {
        let always =
            matches!(request, Request::Status | Request::Vitals | Request::Shutdown | Request::SessionEnded { .. });
        if let Some(refusal) = self.not_begun().filter(|_| !always) {
            return self.refuse(ticket, refusal);
        }
        if matches!(request, Request::Data { .. }) && !self.is_settled() {
            return self.early.push((ticket, request));
        }
        match request {
            Request::Status => self.curious.push((ticket, now.mono + SETTLE_LIMIT)),
            Request::Vitals => {
                let vitals = Answer::Vitals(Box::new(self.vitals(now)));
                self.answer(ticket, vitals);
            }
            Request::KeptReleases { key, for_change } => self.kept_releases(ticket, &key, for_change),
            Request::RollBack { key, to, scope, by_uid } => self.roll_back(ticket, key, (to, &scope), by_uid, now),
            Request::Restart { key, service, by_uid } => self.restart(ticket, key, service.as_deref(), by_uid, now),
            Request::Scale { key, service, replicas, machine, by_uid } => {
                self.scale(ticket, key, (service.as_deref(), replicas), machine, by_uid, now);
            }
            Request::Promote { key, by_uid } => self.promote(ticket, key, by_uid, now),
            Request::Abort { key, by_uid } => self.abort(ticket, key, by_uid, now),
            Request::Apply(apply, plan, scope) => {
                let purpose = plan.map_or(Purpose::Apply, Purpose::Planned);
                self.read_folder(ticket, ReadOrder { apply, purpose, scope });
            }
            Request::Plan(apply, scope) => {
                self.read_folder(ticket, ReadOrder { apply, purpose: Purpose::Plan, scope });
            }
            Request::Stop { key, shutdown_when_idle, by_uid } => {
                self.stop(ticket, key, (shutdown_when_idle, by_uid), now)
            }
            Request::Shutdown => self.shut_down(Some(ticket), now),
            Request::HandOver(binary) => self.hand_over(ticket, binary, now),
            Request::Maintain { key, wanted, by_uid } => self.maintain(ticket, key, wanted, by_uid, now),
            Request::RunJob { key, job, by_uid } => self.run_job(ticket, &key, &job, by_uid, now),
            Request::StopJob { key, job, by_uid } => self.stop_job(ticket, &key, &job, by_uid, now),
            Request::FollowRun { run, wait } => self.follow_run(ticket, run, wait),
            Request::SetSecret { key, name, value, by_uid } => {
                self.set_secret(ticket, key, name, value, by_uid, now);
            }
            Request::RemoveSecret { key, name, by_uid } => self.remove_secret(ticket, key, name, by_uid, now),
            // A daemon that has just started does not say that nothing runs before it has looked.
            Request::Session { .. } if !self.node.adopted => self.deferred.push(Input::Asked(ticket, request)),
            Request::Session { key, wanted, by_uid } => self.open_session(ticket, key, &wanted, by_uid, now),
            Request::SessionEnded { record, end } => self.session_ended(ticket, &record, &end, now),
            Request::DataList(query) => self.list_data(ticket, query),
            Request::Data { key, id, verb, by_uid } => self.data_asked(ticket, key, id, verb, by_uid, now),
        }
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.push(Effect::Answer(ticket, Ok(answer)));
    }

    pub(crate) fn refuse(&mut self, ticket: Ticket, refusal: impl Into<Refusal>) {
        self.effects.push(Effect::Answer(ticket, Err(refusal.into())));
    }

    pub(crate) fn tell(&mut self, change: ChangeId, step: ChangeStep) {
        self.effects.push(Effect::Tell(change, step));
    }

    /// Hands work to the store; `pending` says what goes on when it is done.
    pub(crate) fn store(&mut self, job: Job, pending: Pending) -> JobId {
        self.next_job += 1;
        let id = JobId(self.next_job);
        self.pending.insert(id, pending);
        self.effects.push(Effect::Store(id, job));
        id
    }

    /// Events, for which nothing waits.
    pub(crate) fn record(&mut self, events: Vec<crate::store::NewEvent>) {
        if !events.is_empty() {
            self.store(Job::Write(events.into_iter().map(Write::Event).collect()), Pending::Nothing);
        }
    }

    fn stored(&mut self, job: JobId, result: Result<Outcome, Fault>, now: Now) {
        self.refused.remove(&job);
        let Some(pending) = self.pending.remove(&job) else { return };
        match (pending, result) {
            // Of a change that was dropped meanwhile: written later, it would bring that change back.
            (Pending::Phase { key, owed, .. }, Err(fault))
                if self.apps.get(&key).is_none_or(|app| app.storing != Some(job)) =>
            {
                if let Some((ticket, _)) = owed {
                    self.refuse(ticket, fault);
                }
            }
            (Pending::Phase { key, entered, job: again, owed }, Err(fault)) => {
                tracing::error!(app = %key, error = %fault, causes = ?fault.causes, "phase of a rollout not stored");
                self.pending.insert(job, Pending::Phase { key, entered, job: again.clone(), owed: None });
                self.retries.push((now.mono + STORE_RETRY, job, again));
                self.refused.insert(job);
                if let Some((ticket, _)) = owed {
                    let again = format!("it is tried again every {}: `bowline status` shows it", Humane(STORE_RETRY));
                    self.refuse(ticket, fault.hint(again));
                }
            }
            (Pending::Concluded { run, job: again }, Err(fault)) => {
                tracing::error!(app = %run.app, run = run.number.0, error = %fault, "end of a run not stored");
                self.pending.insert(job, Pending::Concluded { run, job: again.clone() });
                self.retries.push((now.mono + STORE_RETRY, job, again));
            }
            (pending, result) => self.resume(pending, result, now),
        }
        self.ask_deferred(now);
    }

    fn ask_deferred(&mut self, now: Now) {
        for input in std::mem::take(&mut self.deferred) {
            self.take(input, now);
        }
    }

    fn retry(&mut self, now: Now) {
        let (due, later) = std::mem::take(&mut self.retries).into_iter().partition(|(at, ..)| *at <= now.mono);
        self.retries = later;
        let due: Vec<(Mono, JobId, Job)> = due;
        self.effects.extend(due.into_iter().map(|(_, id, job)| Effect::Store(id, job)));
    }

    /// The store has refused it, and it is tried again.
    pub(crate) fn waits_for_retry(&self, job: JobId) -> bool {
        self.retries.iter().any(|(_, id, _)| *id == job)
    }

    /// Nobody waits for this write any more, if it has been refused before.
    pub(crate) fn forget_retry(&mut self, job: JobId) -> bool {
        let before = self.retries.len();
        self.retries.retain(|(_, id, _)| *id != job);
        let forgotten = self.retries.len() < before;
        if forgotten {
            self.refused.remove(&job);
            self.pending.remove(&job);
        }
        forgotten
    }

    fn certified(&mut self, leaves: BTreeMap<bowline_core::app::HostName, Result<Leaf, Fault>>, now: Now) {
        for (host, result) in leaves {
            if let Err(fault) = &result {
                tracing::warn!(%host, error = %fault, causes = ?fault.causes, "no certificate");
                self.record(vec![events::uncertified(&host, fault, now.wall)]);
            }
            self.published.certified(host, result.ok(), now.mono);
        }
    }

    /// One look at the world.
    fn reconcile(&mut self, now: Now) {
        let serving = self.edge.serving;
        self.published.edge_serves(serving, &mut self.effects);
        self.drive_slots(now);
        if self.node.adopted {
            self.drive_snapshots();
            self.drive_runs(now);
            self.drive_rollouts(now);
            self.keep_ports();
            self.drive_rounds(now);
            self.drive_scaling(now);
            // What the rollouts have freed or asked for is ordered at once, not with the next input.
            self.drive_slots(now);
        }
        self.publish(now);
        if self.is_answered {
            // The edge had this table before: there is nothing to wait for. What follows is stored first, and handed out after that.
            self.drive_rollouts(now);
        }
        self.take_up_early(now);
        self.collect();
        self.tell_waits(now);
        self.tell_ends(now);
        self.end_stops(now);
        self.tell_maintained(now);
        self.tell_status(now);
    }

    /// A daemon that has just started does not say that nothing runs before it has looked.
    fn tell_status(&mut self, now: Now) {
        let known = !matches!(self.edge.status, EdgeStatus::Starting);
        let settled = known && self.node.adopted && matches!(self.slots.publish(), Publish::Now);
        let (due, later) =
            std::mem::take(&mut self.curious).into_iter().partition(|(_, at)| settled || *at <= now.mono);
        self.curious = later;
        let due: Vec<(Ticket, Mono)> = due;
        for (ticket, _) in due {
            let status = Answer::Status(Box::new(self.status(now)));
            self.answer(ticket, status);
        }
    }

    pub(crate) fn drive_slots(&mut self, now: Now) {
        self.apps.values_mut().for_each(world::AppWorld::settle);
        let wanted = self.apps.values().flat_map(|app| app.wanted()).collect();
        let wanted = self.let_in(wanted);
        let (reachable, node) = (self.published.tables.reachable(), self.without_unread());
        let world =
            SlotsWorld { wanted: &wanted, node: &node, reachable: &reachable, outstanding: &self.edge.outstanding };
        let transitions = self.slots.handle(world, now.mono, now.random);
        let mut recorded = Vec::new();
        for transition in &transitions {
            let (instance, state, was) = (&transition.instance, transition.state, transition.was);
            tracing::info!(%instance, %state, %was, "instance");
            let app = self.apps.get_mut(&instance.slot.key).filter(|app| app.live == Some(instance.slot.release));
            let scaler = app.and_then(|app| app.scalers.get_mut(&instance.slot.service));
            if let Some(scaler) = scaler.filter(|_| transition.fell()) {
                scaler.fell(now.mono);
            }
            recorded.push(events::instance(transition, now.wall));
        }
        self.record(recorded);
    }

    /// Whom the edge leaves out for a while, and lets in again; who is gone is no news.
    fn record_left_out(&mut self, before: &EdgeObservation, now: Now) {
        let (out, was) = (&self.edge.left_out, &before.left_out);
        let routed = self.published.routed();
        let back = was.difference(out).filter(|id| routed.contains(*id));
        let news = out.difference(was).map(|id| (id, true)).chain(back.map(|id| (id, false)));
        let recorded: Vec<_> = news.map(|(id, is_out)| events::left_out(id, is_out, now.wall)).collect();
        self.record(recorded);
    }

    /// While a change is being stored, shares stay as they were before it. In a daemon that has just started, those are of the time
    /// when it had looked at no instance: the edge goes on with its table until they are settled anew. A store that refuses keeps nobody waiting:
    /// the others' instances may have moved.
    fn awaits_store(&self) -> bool {
        let is_stored = |job: &JobId| !self.refused.contains(job);
        !self.published.has_table() && self.apps.values().filter_map(|app| app.storing.as_ref()).any(is_stored)
    }

    fn publish(&mut self, now: Now) {
        self.is_answered = false;
        if let Some(mut orders) = self.slots.orders() {
            orders.extend(self.jobs.orders());
            for (id, order) in self.unread_orders() {
                orders.entry(id).or_insert(order);
            }
            let resources = self.wanted_resources(now);
            let apps = (self.running_apps(), self.watchers());
            self.published.orders(orders, resources, apps, &mut self.effects);
        }
        match self.slots.publish() {
            Publish::Hold { .. } => return self.drive_acme(now),
            Publish::Now if self.awaits_edge(now) => return,
            Publish::Now => self.drive_acme(now),
        }
        if self.awaits_store() {
            return;
        }
        let mut endpoints = self.slots.endpoints();
        endpoints.extend(self.unread_endpoints());
        let leaving = self.slots.leaving();
        self.published.table((&self.apps, &self.place), &endpoints, leaving, (now.mono, now.wall), &mut self.effects);
        let asking = self.asking_edge();
        self.is_answered = self.published.ask(&asking) && self.node.adopted;
    }
}

impl From<Mode> for wire::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Local => Self::Local,
            Mode::Server => Self::Server,
        }
    }
}
