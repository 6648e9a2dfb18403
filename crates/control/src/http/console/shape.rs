//! What the page is told. `console/src/wire.d.ts` says the same to its type checker.
//!
//! Architecture invariant: whoever has an account on the machine may read this. Each field is chosen: there is no output of an app
//! or a build, no text of a file, no variable and no secret. What `bowline status` gains is not shown here by itself.

use bowline_api::wire;
use bowline_core::id::AppKey;
use serde::Serialize;

use crate::store::{RevisionRecord, RevisionState};
use crate::traffic::{Answered, Carrier, Range, Row, SHOWN, Window};

/// What runs; told whole whenever it differs from what was told last.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Of this daemon's page: another one is loaded anew.
    pub(super) page: String,
    version: String,
    started: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<Trouble>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Disk>,
    edge: Edge,
    apps: Vec<App>,
}

/// Why something failed, without the output that a fault may carry, and what a server has quoted of its data.
#[derive(Debug, Serialize)]
struct Trouble {
    error: String,
    caused_by: Vec<String>,
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct Disk {
    total_bytes: u64,
    free_bytes: u64,
    reserve_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Edge {
    state: wire::EdgeState,
    connections: u64,
    fault: Option<Trouble>,
}

#[derive(Debug, Serialize)]
struct App {
    env: String,
    name: String,
    state: wire::AppState,
    release: Option<u32>,
    urls: Vec<String>,
    change: Option<Change>,
    /// How the last rollout went.
    rolled: Option<wire::Rollout>,
    /// How the last change ended, if it failed.
    fault: Option<Trouble>,
    maintenance: bool,
    services: Vec<Service>,
    resources: Vec<Resource>,
    volumes: Vec<wire::VolumeStatus>,
    jobs: Vec<Job>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Change {
    id: u64,
    phase: wire::ChangePhase,
    release: Option<u32>,
    since: u64,
    waits_on: Vec<wire::Waiting>,
    /// Numbers, names of services, and what Bowline itself says of them.
    rollout: Option<wire::Rollout>,
}

#[derive(Debug, Serialize)]
struct Service {
    name: String,
    wanted: u32,
    ready: u32,
    scale: Option<Scale>,
    instances: Vec<Instance>,
}

/// Of a service whose load says how many instances it has.
#[derive(Debug, Serialize)]
struct Scale {
    min: u16,
    max: u16,
    reason: String,
    bound: Option<String>,
    bounded: Option<String>,
}

#[derive(Debug, Serialize)]
struct Instance {
    id: String,
    release: u32,
    slot: u16,
    state: String,
    waits_on: Option<String>,
    since: Option<u64>,
    restarts: u32,
    memory_bytes: u64,
    cpu_us: u64,
}

#[derive(Debug, Serialize)]
struct Resource {
    kind: String,
    name: String,
    state: String,
    on: Option<String>,
    version: Option<String>,
    external: bool,
    orphaned: bool,
    restarts: u32,
    memory_bytes: u64,
    fault: Option<Trouble>,
}

#[derive(Debug, Serialize)]
struct Job {
    name: String,
    schedule: Option<String>,
    next: Option<u64>,
    /// Of the run that is under way.
    running: Option<String>,
    /// How the last run ended, and when.
    last: Option<String>,
    last_ended: Option<u64>,
}

/// What was answered since the client was told last. Also its clock, and the sign that the daemon lives: told every second.
#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    at: u64,
    /// The newest second; the oldest of the window is `seconds` - 1 before it.
    second: u64,
    seconds: u64,
    series: Vec<Series>,
}

#[derive(Debug, Serialize)]
struct Series {
    env: String,
    app: String,
    /// Absent: the edge itself.
    release: Option<u32>,
    minute: Minute,
    /// Second, requests, errors, and in milliseconds the median and the 99th percentile.
    seconds: Vec<(u64, u64, u64, f64, f64)>,
}

/// Longer looks back; told whole every few seconds.
#[derive(Debug, Serialize)]
pub(super) struct Longer {
    quarter: Look,
    day: Look,
}

#[derive(Debug, Serialize)]
struct Look {
    /// The newest step, by its number; the oldest is `steps` - 1 before it.
    newest: u64,
    steps: u64,
    /// Seconds of each.
    step: u64,
    series: Vec<LongSeries>,
}

#[derive(Debug, Serialize)]
struct LongSeries {
    env: String,
    app: String,
    release: Option<u32>,
    /// As in [`Series`], by the number of the step.
    points: Vec<(u64, u64, u64, f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Minute {
    requests: u64,
    errors: u64,
    /// In milliseconds; absent without requests.
    p50: Option<f64>,
    p99: Option<f64>,
}

/// What the store remembers; told whole whenever something has happened.
#[derive(Debug, Serialize)]
pub(super) struct History {
    /// The oldest first.
    pub(super) events: Vec<Event>,
    pub(super) releases: Vec<AppReleases>,
}

#[derive(Debug, Serialize)]
pub(super) struct AppReleases {
    env: String,
    app: String,
    /// The newest first.
    releases: Vec<Release>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Release {
    number: u32,
    created: u64,
    /// `pending`, `active`, `retired`, `failed`
    state: &'static str,
}

/// One of the last events.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    seq: u64,
    at: u64,
    env: Option<String>,
    app: Option<String>,
    event: String,
    text: String,
}

impl Shown {
    pub(super) fn new(page: String, status: wire::Status) -> Self {
        let wire::Status { daemon, edge, apps } = status;
        Self {
            page,
            version: daemon.version,
            started: daemon.started,
            degraded: daemon.degraded.map(Trouble::from),
            disk: daemon.disk.map(|disk| Disk {
                total_bytes: disk.total_bytes,
                free_bytes: disk.free_bytes,
                reserve_bytes: disk.reserve_bytes,
            }),
            edge: Edge { state: edge.state, connections: edge.connections_open, fault: edge.fault.map(Trouble::from) },
            apps: apps.into_iter().map(App::from).collect(),
        }
    }
}

impl From<wire::Fault> for Trouble {
    fn from(fault: wire::Fault) -> Self {
        Self { error: fault.error, caused_by: fault.caused_by, hint: fault.hint }
    }
}

impl From<wire::AppStatus> for App {
    fn from(app: wire::AppStatus) -> Self {
        Self {
            env: app.env,
            name: app.app,
            state: app.state,
            release: app.release,
            urls: app.urls,
            change: app.change.map(|change| Change {
                id: change.id,
                phase: change.phase,
                release: change.release,
                since: change.since,
                waits_on: change.waits_on,
                rollout: change.rollout,
            }),
            rolled: app.rolled,
            fault: app.fault.map(Trouble::from),
            maintenance: app.maintenance.is_some(),
            services: app.services.into_iter().map(Service::from).collect(),
            resources: app.resources.into_iter().map(Resource::from).collect(),
            volumes: app.volumes,
            jobs: app.jobs.into_iter().map(Job::from).collect(),
            notes: app.notes,
        }
    }
}

impl From<wire::ServiceStatus> for Service {
    fn from(service: wire::ServiceStatus) -> Self {
        let instance = |one: wire::InstanceStatus| Instance {
            id: one.id,
            release: one.release,
            slot: one.slot,
            state: one.state,
            waits_on: one.waits_on,
            since: one.since,
            restarts: one.restarts,
            memory_bytes: one.memory_bytes,
            cpu_us: one.cpu_us,
        };
        Self {
            name: service.name,
            wanted: service.wanted,
            ready: service.ready,
            scale: service.scale.map(Scale::from),
            instances: service.instances.into_iter().map(instance).collect(),
        }
    }
}

impl From<wire::ScaleStatus> for Scale {
    fn from(scale: wire::ScaleStatus) -> Self {
        let wire::ScaleStatus { min, max, reason, bound, bounded, .. } = scale;
        Self { min, max, reason, bound, bounded }
    }
}

impl From<wire::ResourceStatus> for Resource {
    fn from(resource: wire::ResourceStatus) -> Self {
        Self {
            kind: resource.kind,
            name: resource.name,
            state: resource.state,
            on: resource.on,
            version: resource.version,
            external: resource.external,
            orphaned: resource.orphaned,
            restarts: resource.restarts,
            memory_bytes: resource.memory_bytes,
            fault: resource.fault.map(Trouble::from),
        }
    }
}

impl From<wire::JobStatus> for Job {
    fn from(job: wire::JobStatus) -> Self {
        Self {
            name: job.name,
            schedule: job.schedule,
            next: job.next,
            running: job.run.map(|run| run.state),
            last_ended: job.last.as_ref().and_then(|run| run.ended),
            last: job.last.map(|run| run.state),
        }
    }
}

impl Traffic {
    /// `after`: the second that the client was told last.
    pub(super) fn new(at: u64, window: &Window, after: Option<u64>) -> Self {
        Self { at, second: window.newest(), seconds: SHOWN, series: window.after(after).map(Series::from).collect() }
    }
}

impl Longer {
    pub(super) fn new(window: &Window) -> Self {
        let look = |range: Range| {
            let (all, step) = range.seconds();
            let series = |((key, release), steps): (&Carrier, std::collections::BTreeMap<u64, Answered>)| LongSeries {
                env: key.env.to_string(),
                app: key.app.to_string(),
                release: release.map(|number| number.0),
                points: steps.iter().map(|(at, answered)| point(at / step, answered)).collect(),
            };
            Look {
                newest: window.newest() / step,
                steps: all / step,
                step,
                series: window.range(range).map(series).collect(),
            }
        };
        Self { quarter: look(Range::QuarterHour), day: look(Range::Day) }
    }
}

fn point(at: u64, answered: &Answered) -> (u64, u64, u64, f64, f64) {
    let ms = |part| answered.quantile(part).map(rounded).unwrap_or_default();
    (at, answered.requests, answered.errors, ms(0.5), ms(0.99))
}

impl From<Row<'_>> for Series {
    fn from(row: Row<'_>) -> Self {
        let (key, release) = row.carrier;
        let quantile = |answered: &Answered, part| answered.quantile(part).map(rounded);
        Self {
            env: key.env.to_string(),
            app: key.app.to_string(),
            release: release.map(|number| number.0),
            minute: Minute {
                requests: row.minute.requests,
                errors: row.minute.errors,
                p50: quantile(&row.minute, 0.5),
                p99: quantile(&row.minute, 0.99),
            },
            seconds: row.seconds.iter().map(|(at, answered)| point(*at, answered)).collect(),
        }
    }
}

/// To a tenth: the buckets are no finer.
fn rounded(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

impl AppReleases {
    pub(super) fn new(key: &AppKey, releases: Vec<Release>) -> Self {
        Self { env: key.env.to_string(), app: key.app.to_string(), releases }
    }
}

impl From<RevisionRecord> for Release {
    fn from(record: RevisionRecord) -> Self {
        let state = match record.state {
            RevisionState::Pending => "pending",
            RevisionState::Active => "active",
            RevisionState::Retired => "retired",
            RevisionState::Failed { .. } => "failed",
        };
        Self { number: record.number.0, created: record.created.0, state }
    }
}

impl From<wire::Event> for Event {
    fn from(event: wire::Event) -> Self {
        let text = told(&event.event, &event.text);
        Self { seq: event.seq, at: event.at, env: event.env, app: event.app, event: event.event, text }
    }
}

/// What happened, and not where on the disk.
fn told(event: &str, text: &str) -> String {
    match event {
        "change.began" => "a folder is applied".to_owned(),
        "app.moved" => "its folder was moved".to_owned(),
        "data.filled" => text.split(" from ").next().unwrap_or_default().to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_happened_and_not_where() {
        let check = |event: &str, text: &str, expected: &str| assert_eq!(told(event, text), expected);
        check("rollout.promote", "release 2: promote", "release 2: promote");
        check("change.began", "/home/ann/client is applied", "a folder is applied");
        check("data.filled", "volume.files is filled from /home/ann/x", "volume.files is filled");
    }
}
