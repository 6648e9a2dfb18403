//! What the admin port exposes, read from the latest observations at the moment of a scrape: nothing is counted here.
//!
//! Names and labels follow OpenTelemetry's semantic conventions for HTTP in their Prometheus form.

mod apps;
pub(crate) mod exposition;
mod family;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_core::id::{AppKey, Generation, InstanceId, ReleaseNumber, ResourceName, ServiceName, SlotId};
use bowline_core::instance::{InstanceObservation, Observations, Phase};
use bowline_core::job::{Outcome, TaskKey};
use bowline_core::route::{DURATION_BOUNDS, EdgeObservation, EdgeStatus, Histogram, SIZE_BOUNDS, Series, SeriesKey};
use bowline_core::scale::{Bound, Report};
use bowline_core::time::Timestamp;
use bowline_core::units::float;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use crate::config::{ControlConfig, Links};
use crate::otlp::{Counts, Signal, Tally};
use crate::store::Store;
pub(crate) use apps::{AppVitals, Scraped};
use family::Families;
pub(crate) use family::{Began, Family, Kind, Labels, Row, Value};

/// What only the reconcile loop knows, taken at a scrape.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Vitals {
    pub(crate) apps: Vec<AppVitals>,
    pub(crate) instances: Vec<InstanceVitals>,
    /// Those that the table leads to.
    pub(crate) routed: BTreeSet<InstanceId>,
    /// Host and the moment its certificate ends.
    pub(crate) certificates: Vec<(String, Timestamp)>,
    /// Names whose certificate comes from an authority, and the orders in a row that gave none.
    pub(crate) failed_orders: Vec<(String, u32)>,
    /// Of the table that the edge should serve.
    pub(crate) edge_generation: Generation,
    pub(crate) degraded: bool,
    pub(crate) jobs: Vec<JobVitals>,
    pub(crate) scalers: Vec<ScalerVitals>,
}

/// A service whose number of instances follows its load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScalerVitals {
    pub(crate) key: AppKey,
    pub(crate) service: ServiceName,
    /// The bounds of the file.
    pub(crate) min: u16,
    pub(crate) max: u16,
    /// The number that is in effect, and of them those that get requests.
    pub(crate) desired: u16,
    pub(crate) ready: u16,
    /// `None`: it was not looked at yet.
    pub(crate) report: Option<Report>,
}

/// A job that has run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobVitals {
    pub(crate) task: TaskKey,
    pub(crate) running: bool,
    /// Runs that ended in this daemon's life, by outcome.
    pub(crate) totals: [(&'static str, u64); Outcome::ALL.len()],
    pub(crate) last_success: Option<Timestamp>,
    /// Of the last run that is over.
    pub(crate) last_duration: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceVitals {
    pub(crate) id: InstanceId,
    /// `starting`, `ready`, `unready`, `draining`, `stopped`, `crashed`
    pub(crate) state: &'static str,
    pub(crate) restarts: u32,
}

/// The states of an instance, as labels: one series each, 1 for the one it is in.
const STATES: [&str; 6] = ["starting", "ready", "unready", "draining", "stopped", "crashed"];

/// Where a scrape puts the vitals before the registry is encoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct VitalsSlot(Arc<Mutex<Arc<Vitals>>>);

impl VitalsSlot {
    pub(crate) fn put(&self, vitals: Vitals) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(vitals);
    }

    fn get(&self) -> Arc<Vitals> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Series of apps that were more than are passed on, by service.
#[derive(Debug, Default)]
pub(crate) struct Dropped(Mutex<BTreeMap<Labels, u64>>);

impl Dropped {
    pub(crate) fn count(&self, slot: &SlotId, series: usize) {
        if series > 0 {
            let of_service = of_service(&slot.key, &slot.service);
            *self.lock().entry(of_service).or_default() += u64::try_from(series).unwrap_or(u64::MAX);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all metrics are read from.
pub(crate) struct World {
    pub(crate) version: String,
    /// When this daemon did.
    pub(crate) started: Timestamp,
    pub(crate) node: watch::Receiver<Arc<Observations>>,
    pub(crate) edge: watch::Receiver<Arc<EdgeObservation>>,
    pub(crate) vitals: VitalsSlot,
    pub(crate) dropped: Dropped,
    pub(crate) store: Option<Store>,
    /// `None`: nothing is sent to a collector.
    pub(crate) exported: Option<Arc<Tally>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(config: &ControlConfig, links: &Links, store: Option<Store>, started: Timestamp) -> Self {
        Self {
            version: config.version.clone(),
            started,
            node: links.node.clone(),
            edge: links.edge.clone(),
            vitals: VitalsSlot::default(),
            dropped: Dropped::default(),
            store,
            exported: config.otlp.is_some().then(Arc::default),
        }
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let node = Arc::clone(&self.node.borrow());
        let edge = Arc::clone(&self.edge.borrow());
        let vitals = self.vitals.get();
        let mut families = Families::default();
        let out = &mut families;
        requests(out, &edge, &vitals);
        edge_itself(out, &edge, &vitals);
        instances(out, &node, &vitals);
        scaling(out, &edge, &vitals);
        jobs(out, &vitals, self.started);
        apps::encode(out, &vitals.apps);
        disk(out, &node);
        if let Some(store) = &self.store {
            apps::secrets(out, store, &vitals.apps);
        }
        let sequence = self.store.as_ref().and_then(|store| store.read(|view| view.newest_event()).ok());
        daemon(out, &self.version, &vitals, sequence);
        out.counter(
            "bowline_app_series_dropped",
            "Series of an app's own metrics that were not passed on because an instance had too many",
            Some(self.started),
            self.dropped.lock().iter().map(|(labels, n)| (labels.clone(), float(*n))),
        );
        if let Some(tally) = &self.exported {
            exported(out, tally, self.started);
        }
        families.0
    }
}

/// As it is registered.
#[derive(Debug)]
pub(crate) struct Exposed(pub(crate) Arc<World>);

impl Collector for Exposed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.families().iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

/// What the collector was sent.
fn exported(out: &mut Families, tally: &Tally, started: Timestamp) {
    let of = |signal: Signal| vec![("signal", signal.as_str().to_owned())];
    let totals = tally.totals();
    let each = |pick: fn(&Counts) -> u64| totals.iter().map(move |(signal, counts)| (of(*signal), float(pick(counts))));
    out.counter(
        "bowline_otlp_exported",
        "Spans, log lines and data points that the collector has taken",
        Some(started),
        each(|counts| counts.exported),
    );
    out.counter(
        "bowline_otlp_requests",
        "Requests that the collector has taken whole or in part",
        Some(started),
        each(|counts| counts.requests),
    );
    out.counter(
        "bowline_otlp_failures",
        "Requests that the collector has not taken, and those that are tried again",
        Some(started),
        each(|counts| counts.failures),
    );
    out.counter(
        "bowline_otlp_dropped",
        "Spans, log lines and data points that the collector did not get, by reason",
        Some(started),
        totals.iter().flat_map(|(signal, counts)| {
            counts.dropped.iter().map(move |(reason, n)| {
                let mut labels = of(*signal);
                labels.push(("reason", reason.as_str().to_owned()));
                (labels, float(*n))
            })
        }),
    );
    out.gauge("bowline_otlp_waiting_bytes", "What waits to be sent to the collector", each(|counts| counts.waiting));
}

/// Of what the edge counts. An Envoy never says it.
fn began(edge: &EdgeObservation) -> Began {
    match edge.began {
        Some(at) => Began::At(at),
        None if edge.connections_total > 0 => Began::Unknown,
        None => Began::Unsaid,
    }
}

/// One series without labels.
fn single(value: f64) -> [(Labels, f64); 1] {
    [(Labels::new(), value)]
}

fn of_app(key: &AppKey, service: Option<&ServiceName>, release: Option<ReleaseNumber>) -> Labels {
    vec![
        ("app", key.app.to_string()),
        ("env", key.env.to_string()),
        ("service", service.map(ToString::to_string).unwrap_or_default()),
        ("release", release.map(|r| r.to_string()).unwrap_or_default()),
    ]
}

fn of_series(key: &SeriesKey) -> Labels {
    let mut labels = of_app(&key.key, key.service.as_ref(), key.release);
    labels.push(("http_request_method", key.method.as_str().to_owned()));
    labels.push(("http_route", key.route.to_string()));
    labels.push(("http_response_status_code", key.status.to_string()));
    labels
}

/// What tells an instance's series from those of all others.
pub(crate) fn of_instance(id: &InstanceId) -> Labels {
    let mut labels = of_app(&id.slot.key, Some(&id.slot.service), Some(id.slot.release));
    labels.push(("instance", id.to_string()));
    labels
}

/// Whole seconds and milliseconds as seconds.
fn seconds(at: Timestamp) -> f64 {
    float(at.0) / 1000.0
}

fn requests(out: &mut Families, edge: &EdgeObservation, vitals: &Vitals) {
    let series = |pick: fn(&Series) -> &Histogram| edge.series.iter().map(move |(k, s)| (of_series(k), pick(s)));
    out.histogram(
        (
            "http_server_request_duration_seconds",
            "Time from the request's head to the last byte of the answer",
            &DURATION_BOUNDS,
        ),
        began(edge),
        series(|s| &s.duration),
    );
    out.histogram(
        ("http_server_request_body_size_bytes", "Size of request bodies", &SIZE_BOUNDS),
        began(edge),
        series(|s| &s.request_size),
    );
    out.histogram(
        ("http_server_response_body_size_bytes", "Size of response bodies", &SIZE_BOUNDS),
        began(edge),
        series(|s| &s.response_size),
    );
    // The edge tells of busy instances only; a series that comes and goes cannot be summed over time.
    let idle = vitals.routed.iter().map(|id| (id, &0));
    let active: BTreeMap<_, _> = idle.chain(&edge.outstanding).collect();
    out.gauge(
        "http_server_active_requests",
        "Requests and tunnels that are not finished",
        active.into_iter().map(|(id, n)| (of_instance(id), f64::from(*n))),
    );
}

fn edge_itself(out: &mut Families, edge: &EdgeObservation, vitals: &Vitals) {
    let up = matches!(edge.status, EdgeStatus::Connected);
    out.gauge("bowline_edge_up", "Whether the edge process is connected to the daemon", single(up.into()));
    out.gauge("bowline_edge_connections", "Open connections of clients", single(float(edge.connections_open)));
    out.counter(
        "bowline_edge_connections_accepted",
        "Connections accepted from clients",
        began(edge),
        single(float(edge.connections_total)),
    );
    let handshakes =
        [("ok", edge.handshakes_total.saturating_sub(edge.handshakes_failed)), ("failed", edge.handshakes_failed)];
    out.counter(
        "bowline_edge_tls_handshakes",
        "TLS handshakes by result",
        began(edge),
        handshakes.map(|(result, n)| (vec![("result", result.to_owned())], float(n))),
    );
    out.counter(
        "bowline_edge_refused",
        "Requests refused before a route was found, by reason",
        began(edge),
        edge.refused.iter().map(|(reason, n)| (vec![("reason", reason.clone())], float(*n))),
    );
    out.gauge(
        "bowline_instance_left_out",
        "1 for an instance that gets no requests for a while, because those before failed",
        edge.left_out.iter().map(|id| (of_instance(id), 1.0)),
    );
    out.counter(
        "bowline_edge_left_out",
        "How often an instance was left out for a while",
        began(edge),
        single(float(edge.left_out_total)),
    );
    out.counter(
        "bowline_edge_retries",
        "Requests that an instance had failed, by whether they went to another one",
        began(edge),
        [("tried", edge.retries_total), ("refused", edge.retries_refused)]
            .map(|(result, n)| (vec![("result", result.to_owned())], float(n))),
    );
    out.counter(
        "bowline_edge_series_dropped",
        "Series not recorded because there were too many",
        began(edge),
        single(float(edge.series_dropped)),
    );
    out.gauge(
        "bowline_edge_private_memory_bytes",
        "Private memory of the edge process",
        single(float(edge.private_bytes)),
    );
    out.gauge(
        "bowline_edge_table_generation",
        "Generation of the table that the edge should serve, and of the one that it serves",
        [("desired", Some(vitals.edge_generation)), ("serving", edge.serving)]
            .into_iter()
            .filter_map(|(which, g)| Some((vec![("table", which.to_owned())], float(g?.0)))),
    );
}

fn instances(out: &mut Families, node: &Observations, vitals: &Vitals) {
    out.counter_each(
        "bowline_instance_cpu_seconds",
        "Processor time of an instance since its start",
        node.instances.iter().map(|(id, o)| (of_instance(id), float(o.usage.cpu_us) / 1e6, runs_since(o))),
    );
    out.gauge(
        "bowline_instance_memory_bytes",
        "Memory of an instance",
        node.instances.iter().map(|(id, o)| (of_instance(id), float(o.usage.memory.0))),
    );
    out.counter_each(
        "bowline_instance_log_lines_dropped",
        "Log lines lost because the disk could not take them",
        node.instances.iter().map(|(id, o)| (of_instance(id), float(o.dropped_lines), runs_since(o))),
    );
    out.counter(
        "bowline_instance_restarts",
        "How often the slot of an instance was started again",
        None,
        vitals.instances.iter().map(|i| (of_slot(&i.id), f64::from(i.restarts))),
    );
    out.gauge(
        "bowline_instance_state",
        "1 for the state that the slot's instance is in",
        vitals.instances.iter().flat_map(|i| STATES.map(|state| (in_state(&i.id, state), (i.state == state).into()))),
    );
}

fn runs_since(instance: &InstanceObservation) -> Option<Timestamp> {
    match instance.phase {
        Phase::Running { since, .. } => Some(since),
        Phase::Preparing(_) | Phase::Starting | Phase::Stopping { .. } | Phase::Exited(_) | Phase::Refused(_) => None,
    }
}

fn of_service(key: &AppKey, service: &ServiceName) -> Labels {
    vec![("app", key.app.to_string()), ("env", key.env.to_string()), ("service", service.to_string())]
}

fn scaling(out: &mut Families, edge: &EdgeObservation, vitals: &Vitals) {
    type Number = fn(&ScalerVitals) -> Option<u16>;
    let numbers: [(&str, &str, Number); 6] = [
        ("min", "Instances that a service has at least, by its file", |scaler| Some(scaler.min)),
        ("max", "Instances that a service has at most, by its file", |scaler| Some(scaler.max)),
        ("desired", "Instances that a service is to have", |scaler| Some(scaler.desired)),
        ("ready", "Instances of a service that get requests", |scaler| Some(scaler.ready)),
        ("wanted", "Instances that the load asks for, whatever the bounds", |scaler| Some(scaler.report?.wanted)),
        ("allowed", "Instances that file, memory and cores allow at most", |scaler| Some(scaler.report?.allowed)),
    ];
    for (name, help, number) in numbers {
        let row = |scaler: &ScalerVitals| Some((of_service(&scaler.key, &scaler.service), f64::from(number(scaler)?)));
        out.gauge(&format!("bowline_scaler_{name}_instances"), help, vitals.scalers.iter().filter_map(row));
    }
    out.gauge(
        "bowline_scaler_bound",
        "1 for the bound that keeps a service from as many instances as its load asks for",
        vitals.scalers.iter().flat_map(|scaler| {
            let holds = scaler.report.and_then(|report| report.bound);
            Bound::ALL.map(|bound| {
                let mut labels = of_service(&scaler.key, &scaler.service);
                labels.push(("bound", bound.as_str().to_owned()));
                (labels, (holds == Some(bound)).into())
            })
        }),
    );
    held(out, edge)
}

fn held(out: &mut Families, edge: &EdgeObservation) {
    // What an edge has said that is gone is not so now.
    let now = edge.demand.iter().filter(|_| edge.status == EdgeStatus::Connected);
    out.gauge(
        "bowline_held_requests",
        "Requests that wait for an instance to start",
        now.map(|((key, service), demand)| (of_service(key, service), demand.waiting.into())),
    );
    out.counter(
        "bowline_holds",
        "Requests that had to wait for an instance to start",
        began(edge),
        edge.demand.keys().map(|of @ (key, service)| {
            (of_service(key, service), float(edge.held.get(of).map_or(0, |held| held.total)))
        }),
    );
    out.counter(
        "bowline_holds_failed",
        "Requests that found no instance and were not held, or not until one had started, by reason",
        began(edge),
        edge.held.iter().flat_map(|((key, service), held)| {
            held.failed.iter().map(move |(reason, n)| {
                let mut labels = of_service(key, service);
                labels.push(("reason", reason.clone()));
                (labels, float(*n))
            })
        }),
    );
}

fn disk(out: &mut Families, node: &Observations) {
    let of_volume = |(key, name): &(AppKey, ResourceName)| {
        let mut labels = of_app(key, None, None);
        labels.push(("volume", name.to_string()));
        labels
    };
    out.gauge(
        "bowline_disk_free_bytes",
        "What is free for ordinary users where the state lies",
        node.disk.iter().map(|disk| (Labels::new(), float(disk.free.0))),
    );
    out.gauge(
        "bowline_disk_total_bytes",
        "Size of the disk where the state lies",
        node.disk.iter().map(|disk| (Labels::new(), float(disk.total.0))),
    );
    out.gauge(
        "bowline_volume_size_bytes",
        "What a volume may hold",
        node.volumes.iter().filter_map(|(key, seen)| Some((of_volume(key), float(seen.size?.0)))),
    );
    out.gauge(
        "bowline_volume_used_bytes",
        "What a volume with a size holds",
        node.volumes.iter().filter_map(|(key, seen)| Some((of_volume(key), float(seen.used?.0)))),
    );
}

/// Without the incarnation: these series go on when an instance is started again.
fn of_slot(id: &InstanceId) -> Labels {
    let mut labels = of_app(&id.slot.key, Some(&id.slot.service), Some(id.slot.release));
    labels.push(("slot", id.slot.slot.to_string()));
    labels
}

fn in_state(id: &InstanceId, state: &str) -> Labels {
    let mut labels = of_slot(id);
    labels.push(("state", state.to_owned()));
    labels
}

fn jobs(out: &mut Families, vitals: &Vitals, started: Timestamp) {
    let of_job = |job: &JobVitals| {
        let TaskKey { app, task } = &job.task;
        vec![("app", app.app.to_string()), ("env", app.env.to_string()), ("job", task.to_string())]
    };
    out.counter(
        "bowline_job_runs",
        "Runs of a job that ended since the daemon started, by outcome",
        Some(started),
        vitals.jobs.iter().flat_map(|job| {
            job.totals.iter().map(move |(outcome, n)| {
                let mut labels = of_job(job);
                labels.push(("outcome", (*outcome).to_owned()));
                (labels, float(*n))
            })
        }),
    );
    out.gauge(
        "bowline_job_running",
        "1 while a run of the job is under way",
        vitals.jobs.iter().map(|job| (of_job(job), job.running.into())),
    );
    out.gauge(
        "bowline_job_last_success_timestamp_seconds",
        "When the job succeeded last",
        vitals.jobs.iter().filter_map(|job| Some((of_job(job), seconds(job.last_success?)))),
    );
    out.gauge(
        "bowline_job_last_duration_seconds",
        "How long the job's last run took",
        vitals.jobs.iter().filter_map(|job| Some((of_job(job), job.last_duration?.as_secs_f64()))),
    );
}

fn daemon(out: &mut Families, version: &str, vitals: &Vitals, sequence: Option<u64>) {
    out.gauge(
        "bowline_certificate_expiry_timestamp_seconds",
        "When the certificate of a host ends",
        vitals.certificates.iter().map(|(host, end)| (vec![("host", host.clone())], seconds(*end))),
    );
    out.gauge(
        "bowline_certificate_failed_orders",
        "Orders in a row that gave a host no certificate, the one under way among them",
        vitals.failed_orders.iter().map(|(host, count)| (vec![("host", host.clone())], f64::from(*count))),
    );
    out.gauge(
        "bowline_store_sequence",
        "Sequence number of the last event in the store",
        sequence.map(|n| (Labels::new(), float(n))),
    );
    out.gauge("bowline_degraded", "1 while the store is refused", single(vitals.degraded.into()));
    out.gauge("bowline_build_info", "The daemon's version", [(vec![("version", version.to_owned())], 1.0)])
}

/// OpenMetrics text in the older Prometheus text format 0.0.4: there a counter's family is named with its `_total`,
/// and units and the end mark do not exist.
pub(crate) fn as_prometheus_text(open_metrics: &str) -> String {
    let counters: Vec<&str> =
        open_metrics.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|l| *l != "# EOF" && !l.starts_with("# UNIT ")) {
        let comment =
            line.strip_prefix("# ").and_then(|l| l.split_once(' ')).filter(|(k, _)| matches!(*k, "HELP" | "TYPE"));
        match comment.and_then(|(keyword, rest)| Some((keyword, rest.split_once(' ')?))) {
            Some((keyword, (name, rest))) if counters.contains(&name) => {
                out.push_str(&format!("# {keyword} {name}_total {rest}\n"));
            }
            Some(_) | None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}
