//! What the admin port exposes, read from the latest observations at the moment of a scrape: nothing is counted here.
//!
//! Names and labels follow OpenTelemetry's semantic conventions for HTTP in their Prometheus form.

mod apps;
pub(crate) mod exposition;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_core::id::{AppKey, Generation, InstanceId, ReleaseNumber, ResourceName, ServiceName, SlotId};
use bowline_core::instance::Observations;
use bowline_core::job::{Outcome, TaskKey};
use bowline_core::route::{DURATION_BOUNDS, EdgeObservation, EdgeStatus, Histogram, SIZE_BOUNDS, Series, SeriesKey};
use bowline_core::scale::{Bound, Report};
use bowline_core::time::Timestamp;
use bowline_core::units::float;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::store::Store;
pub(crate) use apps::{AppVitals, Scraped};

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
#[derive(Debug, Clone, Default)]
pub(crate) struct Dropped(Family<Labels, Counter>);

impl Dropped {
    pub(crate) fn count(&self, slot: &SlotId, series: usize) {
        let of_service = of_service(&slot.key, &slot.service);
        self.0.get_or_create(&of_service).inc_by(u64::try_from(series).unwrap_or(u64::MAX));
    }
}

/// Registers all of control's metrics.
pub(crate) fn register(
    registry: &mut Registry,
    version: &str,
    node: watch::Receiver<Arc<Observations>>,
    edge: watch::Receiver<Arc<EdgeObservation>>,
    store: Option<Store>,
) -> (VitalsSlot, Dropped) {
    let vitals = VitalsSlot::default();
    let version = version.to_owned();
    registry.register_collector(Box::new(World { version, node, edge, vitals: vitals.clone(), store }));
    let dropped = Dropped::default();
    registry.register(
        "bowline_app_series_dropped",
        "Series of an app's own metrics that were not passed on because an instance had too many",
        dropped.0.clone(),
    );
    (vitals, dropped)
}

struct World {
    version: String,
    node: watch::Receiver<Arc<Observations>>,
    edge: watch::Receiver<Arc<EdgeObservation>>,
    vitals: VitalsSlot,
    store: Option<Store>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl Collector for World {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let node = Arc::clone(&self.node.borrow());
        let edge = Arc::clone(&self.edge.borrow());
        let vitals = self.vitals.get();
        let out = &mut Families(&mut encoder);
        requests(out, &edge, &vitals)?;
        edge_itself(out, &edge, &vitals)?;
        instances(out, &node, &vitals)?;
        scaling(out, &edge, &vitals)?;
        jobs(out, &vitals)?;
        apps::encode(out, &vitals.apps)?;
        disk(out, &node)?;
        if let Some(store) = &self.store {
            apps::secrets(out, store, &vitals.apps)?;
        }
        let sequence = self.store.as_ref().and_then(|store| store.read(|view| view.newest_event()).ok());
        daemon(out, &self.version, &vitals, sequence)
    }
}

type Labels = Vec<(&'static str, String)>;

/// Writes whole families: a descriptor, then its series.
struct Families<'e, 'd>(&'e mut DescriptorEncoder<'d>);

impl Families<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.rows(name, help, MetricType::Counter, rows, |encoder, value| {
            encoder.encode_counter::<Labels, f64, f64>(&value, None)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        self.rows(name, help, MetricType::Gauge, rows, |encoder, value| encoder.encode_gauge(&value))
    }

    fn histogram<'h>(
        &mut self,
        (name, help, bounds): (&str, &str, &[f64]),
        rows: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) -> fmt::Result {
        self.rows(name, help, MetricType::Histogram, rows, |encoder, histogram| {
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(histogram.counts.iter().copied().chain(std::iter::repeat(0))).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            encoder.encode_histogram::<Labels>(histogram.sum, count, &buckets, None)
        })
    }

    fn rows<T>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels, T)>,
        write: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            write(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
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

fn requests(out: &mut Families<'_, '_>, edge: &EdgeObservation, vitals: &Vitals) -> fmt::Result {
    let series = |pick: fn(&Series) -> &Histogram| edge.series.iter().map(move |(k, s)| (of_series(k), pick(s)));
    out.histogram(
        (
            "http_server_request_duration_seconds",
            "Time from the request's head to the last byte of the answer",
            &DURATION_BOUNDS,
        ),
        series(|s| &s.duration),
    )?;
    out.histogram(
        ("http_server_request_body_size_bytes", "Size of request bodies", &SIZE_BOUNDS),
        series(|s| &s.request_size),
    )?;
    out.histogram(
        ("http_server_response_body_size_bytes", "Size of response bodies", &SIZE_BOUNDS),
        series(|s| &s.response_size),
    )?;
    // The edge tells of busy instances only; a series that comes and goes cannot be summed over time.
    let idle = vitals.routed.iter().map(|id| (id, &0));
    let active: BTreeMap<_, _> = idle.chain(&edge.outstanding).collect();
    out.gauge(
        "http_server_active_requests",
        "Requests and tunnels that are not finished",
        active.into_iter().map(|(id, n)| (of_instance(id), f64::from(*n))),
    )
}

fn edge_itself(out: &mut Families<'_, '_>, edge: &EdgeObservation, vitals: &Vitals) -> fmt::Result {
    let up = matches!(edge.status, EdgeStatus::Connected);
    out.gauge("bowline_edge_up", "Whether the edge process is connected to the daemon", single(up.into()))?;
    out.gauge("bowline_edge_connections", "Open connections of clients", single(float(edge.connections_open)))?;
    out.counter(
        "bowline_edge_connections_accepted",
        "Connections accepted from clients",
        single(float(edge.connections_total)),
    )?;
    let handshakes =
        [("ok", edge.handshakes_total.saturating_sub(edge.handshakes_failed)), ("failed", edge.handshakes_failed)];
    out.counter(
        "bowline_edge_tls_handshakes",
        "TLS handshakes by result",
        handshakes.map(|(result, n)| (vec![("result", result.to_owned())], float(n))),
    )?;
    out.counter(
        "bowline_edge_refused",
        "Requests refused before a route was found, by reason",
        edge.refused.iter().map(|(reason, n)| (vec![("reason", reason.clone())], float(*n))),
    )?;
    out.gauge(
        "bowline_instance_left_out",
        "1 for an instance that gets no requests for a while, because those before failed",
        edge.left_out.iter().map(|id| (of_instance(id), 1.0)),
    )?;
    out.counter(
        "bowline_edge_left_out",
        "How often an instance was left out for a while",
        single(float(edge.left_out_total)),
    )?;
    out.counter(
        "bowline_edge_retries",
        "Requests that an instance had failed, by whether they went to another one",
        [("tried", edge.retries_total), ("refused", edge.retries_refused)]
            .map(|(result, n)| (vec![("result", result.to_owned())], float(n))),
    )?;
    out.counter(
        "bowline_edge_series_dropped",
        "Series not recorded because there were too many",
        single(float(edge.series_dropped)),
    )?;
    out.gauge(
        "bowline_edge_private_memory_bytes",
        "Private memory of the edge process",
        single(float(edge.private_bytes)),
    )?;
    out.gauge(
        "bowline_edge_table_generation",
        "Generation of the table that the edge should serve, and of the one that it serves",
        [("desired", Some(vitals.edge_generation)), ("serving", edge.serving)]
            .into_iter()
            .filter_map(|(which, g)| Some((vec![("table", which.to_owned())], float(g?.0)))),
    )
}

fn instances(out: &mut Families<'_, '_>, node: &Observations, vitals: &Vitals) -> fmt::Result {
    out.counter(
        "bowline_instance_cpu_seconds",
        "Processor time of an instance since its start",
        node.instances.iter().map(|(id, o)| (of_instance(id), float(o.usage.cpu_us) / 1e6)),
    )?;
    out.gauge(
        "bowline_instance_memory_bytes",
        "Memory of an instance",
        node.instances.iter().map(|(id, o)| (of_instance(id), float(o.usage.memory.0))),
    )?;
    out.counter(
        "bowline_instance_log_lines_dropped",
        "Log lines lost because the disk could not take them",
        node.instances.iter().map(|(id, o)| (of_instance(id), float(o.dropped_lines))),
    )?;
    out.counter(
        "bowline_instance_restarts",
        "How often the slot of an instance was started again",
        vitals.instances.iter().map(|i| (of_slot(&i.id), f64::from(i.restarts))),
    )?;
    out.gauge(
        "bowline_instance_state",
        "1 for the state that the slot's instance is in",
        vitals.instances.iter().flat_map(|i| STATES.map(|state| (in_state(&i.id, state), (i.state == state).into()))),
    )
}

fn of_service(key: &AppKey, service: &ServiceName) -> Labels {
    vec![("app", key.app.to_string()), ("env", key.env.to_string()), ("service", service.to_string())]
}

fn scaling(out: &mut Families<'_, '_>, edge: &EdgeObservation, vitals: &Vitals) -> fmt::Result {
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
        out.gauge(&format!("bowline_scaler_{name}_instances"), help, vitals.scalers.iter().filter_map(row))?;
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
    )?;
    held(out, edge)
}

fn held(out: &mut Families<'_, '_>, edge: &EdgeObservation) -> fmt::Result {
    // What an edge has said that is gone is not so now.
    let now = edge.demand.iter().filter(|_| edge.status == EdgeStatus::Connected);
    out.gauge(
        "bowline_held_requests",
        "Requests that wait for an instance to start",
        now.map(|((key, service), demand)| (of_service(key, service), demand.waiting.into())),
    )?;
    out.counter(
        "bowline_holds",
        "Requests that had to wait for an instance to start",
        edge.demand.keys().map(|of @ (key, service)| {
            (of_service(key, service), float(edge.held.get(of).map_or(0, |held| held.total)))
        }),
    )?;
    out.counter(
        "bowline_holds_failed",
        "Requests that found no instance and were not held, or not until one had started, by reason",
        edge.held.iter().flat_map(|((key, service), held)| {
            held.failed.iter().map(move |(reason, n)| {
                let mut labels = of_service(key, service);
                labels.push(("reason", reason.clone()));
                (labels, float(*n))
            })
        }),
    )
}

fn disk(out: &mut Families<'_, '_>, node: &Observations) -> fmt::Result {
    let of_volume = |(key, name): &(AppKey, ResourceName)| {
        let mut labels = of_app(key, None, None);
        labels.push(("volume", name.to_string()));
        labels
    };
    out.gauge(
        "bowline_disk_free_bytes",
        "What is free for ordinary users where the state lies",
        node.disk.iter().map(|disk| (Labels::new(), float(disk.free.0))),
    )?;
    out.gauge(
        "bowline_disk_total_bytes",
        "Size of the disk where the state lies",
        node.disk.iter().map(|disk| (Labels::new(), float(disk.total.0))),
    )?;
    out.gauge(
        "bowline_volume_size_bytes",
        "What a volume may hold",
        node.volumes.iter().filter_map(|(key, seen)| Some((of_volume(key), float(seen.size?.0)))),
    )?;
    out.gauge(
        "bowline_volume_used_bytes",
        "What a volume with a size holds",
        node.volumes.iter().filter_map(|(key, seen)| Some((of_volume(key), float(seen.used?.0)))),
    )
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

fn jobs(out: &mut Families<'_, '_>, vitals: &Vitals) -> fmt::Result {
    let of_job = |job: &JobVitals| {
        let TaskKey { app, task } = &job.task;
        vec![("app", app.app.to_string()), ("env", app.env.to_string()), ("job", task.to_string())]
    };
    out.counter(
        "bowline_job_runs",
        "Runs of a job that ended since the daemon started, by outcome",
        vitals.jobs.iter().flat_map(|job| {
            job.totals.iter().map(move |(outcome, n)| {
                let mut labels = of_job(job);
                labels.push(("outcome", (*outcome).to_owned()));
                (labels, float(*n))
            })
        }),
    )?;
    out.gauge(
        "bowline_job_running",
        "1 while a run of the job is under way",
        vitals.jobs.iter().map(|job| (of_job(job), job.running.into())),
    )?;
    out.gauge(
        "bowline_job_last_success_timestamp_seconds",
        "When the job succeeded last",
        vitals.jobs.iter().filter_map(|job| Some((of_job(job), seconds(job.last_success?)))),
    )?;
    out.gauge(
        "bowline_job_last_duration_seconds",
        "How long the job's last run took",
        vitals.jobs.iter().filter_map(|job| Some((of_job(job), job.last_duration?.as_secs_f64()))),
    )
}

fn daemon(out: &mut Families<'_, '_>, version: &str, vitals: &Vitals, sequence: Option<u64>) -> fmt::Result {
    out.gauge(
        "bowline_certificate_expiry_timestamp_seconds",
        "When the certificate of a host ends",
        vitals.certificates.iter().map(|(host, end)| (vec![("host", host.clone())], seconds(*end))),
    )?;
    out.gauge(
        "bowline_certificate_failed_orders",
        "Orders in a row that gave a host no certificate, the one under way among them",
        vitals.failed_orders.iter().map(|(host, count)| (vec![("host", host.clone())], f64::from(*count))),
    )?;
    out.gauge(
        "bowline_store_sequence",
        "Sequence number of the last event in the store",
        sequence.map(|n| (Labels::new(), float(n))),
    )?;
    out.gauge("bowline_degraded", "1 while the store is refused", single(vitals.degraded.into()))?;
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
