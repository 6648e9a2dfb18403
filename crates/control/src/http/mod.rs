//! The API, version 1 of `bowline_api::wire`, on the Unix socket and behind the edge, and the admin port.

mod access;
mod admin;
pub(crate) mod answer;
mod changes;
mod console;
mod data;
mod endpoints;
pub(crate) mod journal;
mod lines;
pub(crate) mod listen;
pub(crate) mod memory;
mod outside;
mod peer;
mod port;
mod rates;
mod releases;
pub(crate) mod scrape;
mod seats;
mod session;
mod socket;
mod source;
mod tokens;

use endpoints::{router, router_outside};
pub use socket::bind_outer;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bowline_api::wire;
use bowline_core::access::TokenId;
use bowline_core::app::ResourceKind;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{
    AppKey, AppName, DigestError, EnvName, NameError, ReleaseNumber, ResourceName, RunNumber, SecretName, ServiceName,
};
use bowline_core::job::{Finished, RunId, Task};
use bowline_core::log::LogQuery;
use bowline_core::route::{EdgeEngine, Maintenance};
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use http_body_util::{BodyExt, Limited};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::folder::{self, dotenv};
use crate::form::{self, StoredRun};
use crate::jobs::secret_index;
use crate::reconcile::effects::SecretMeta;
use crate::reconcile::request::{Answer, Door, Request};
use crate::reconcile::runs::finished_form;
use crate::secrets::Vault;
use crate::sources::Sources;
use crate::store::{EventRecord, Store, StoreError};
use crate::tokens::Tokens;
use crate::{CheckCall, LogCall, SessionCall};
use access::{Caller, told};
use answer::{Refusal, RefusalReason, json};
use journal::Journals;
use peer::Owner;
use rates::Rates;
use seats::Seats;

/// Pieces of a log on their way from the node to a client.
const LOG_PIECES: usize = 2;

/// Threads that read store and folders for answers, at once: others wait without one.
const READINGS: usize = 16;

/// Most events in one answer, and how many where none are asked for.
const MAX_EVENTS: u32 = 1_000;
const DEFAULT_EVENTS: u32 = 100;

/// What the API answers from.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) door: Door,
    pub(crate) journals: Journals,
    pub(crate) logs: mpsc::Sender<LogCall>,
    pub(crate) sessions: mpsc::Sender<SessionCall>,
    pub(crate) checks: mpsc::Sender<CheckCall>,
    pub(crate) seats: Seats,
    pub(crate) rates: Rates,
    /// Threads that are left of [`READINGS`].
    pub(crate) readings: Arc<Semaphore>,
    /// Without a store the daemon is degraded: status and shutdown work, and the rest is refused with this fault.
    pub(crate) kept: Result<Kept, Fault>,
    pub(crate) version: String,
    /// What a folder may ask for depends on it.
    pub(crate) edge: EdgeEngine,
    pub(crate) owner: Owner,
    pub(crate) metrics: scrape::Metrics,
}

/// What outlives the daemon, for questions that need no look at the world.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) sources: Sources,
    pub(crate) tokens: Tokens,
}

impl Api {
    /// Store and vault, or why there are none.
    fn kept(&self) -> Result<&Kept, Refusal> {
        self.kept.as_ref().map_err(|fault| Refusal::unavailable(fault.clone()))
    }

    /// Runs what blocks on the disk beside the others. The threads are the daemon's, for all apps: however many ask, most are
    /// left to what runs.
    async fn beside<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let thread = Arc::clone(&self.readings).acquire_owned().await.expect("it is never closed");
        let done = tokio::task::spawn_blocking(move || {
            // Held to the end, also of work that nobody waits for any more.
            let _thread = thread;
            work()
        });
        done.await.map_err(|e| Fault::new(FaultKind::Failed, format!("{what} broke off")).source(&e))
    }

    async fn ask(&self, request: Request) -> Result<Response, Refusal> {
        self.door.ask(request).await.map(Answer::into_response)
    }

    /// What a whole folder is read for.
    async fn ask_in_turn(&self, request: Request) -> Result<Response, Refusal> {
        self.door.ask_in_turn(request).await.map(Answer::into_response)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Status(status) => json(StatusCode::OK, &*status),
            Self::Accepted(accepted) => json(StatusCode::ACCEPTED, &accepted),
            Self::Plan(plan) => json(StatusCode::OK, &*plan),
            Self::Aborted(aborted) => json(StatusCode::OK, &aborted),
            Self::Stopped(stopped) => json(StatusCode::OK, &stopped),
            Self::Maintained(maintained) => json(StatusCode::OK, &maintained),
            Self::SecretSet(set) => json(StatusCode::OK, &set),
            Self::RunStarted(run) => json(StatusCode::ACCEPTED, &*run),
            Self::Run(run) => json(StatusCode::OK, &*run),
            // Told from the store, by whoever asked for the run.
            Self::RunOver(_) => StatusCode::NO_CONTENT.into_response(),
            Self::SecretRemoved
            | Self::HandedOver
            | Self::Returned
            | Self::Vitals(_)
            | Self::Session(_)
            | Self::Recorded
            | Self::Reached(_)
            | Self::KeptReleases(_) => StatusCode::NO_CONTENT.into_response(),
            Self::DataList(list) => json(StatusCode::OK, &list),
            Self::Lent(lent) => json(StatusCode::OK, &data::lent(*lent)),
            Self::Filled(filled) => json(StatusCode::OK, &filled),
            Self::Removed(removed) => json(StatusCode::OK, &removed),
        }
    }
}

type Handled = Result<Response, Refusal>;

async fn not_found() -> Refusal {
    Refusal::not_found(
        Fault::new(FaultKind::Invalid, "the daemon knows no such path and method")
            .hint("the command may be newer than the daemon: stop it with `bowline down` and start it again"),
    )
}

async fn version(State(api): State<Api>) -> Response {
    json(StatusCode::OK, &wire::Version::of(api.version))
}

async fn openapi(State(api): State<Api>) -> Response {
    json(StatusCode::OK, &bowline_api::openapi::document(&api.version))
}

async fn status(State(api): State<Api>, caller: Caller) -> Handled {
    let mut answer = api.door.ask(Request::Status).await?;
    if let Answer::Status(status) = &mut answer {
        status.daemon.private_bytes = memory::private_bytes();
        status.apps.retain(|app| covers(&caller, &app.env, &app.app));
        if !caller.covers_all() {
            // They name apps, and files of the server.
            status.daemon.notes.clear();
            status.daemon.disk.iter_mut().for_each(|disk| disk.growing = None);
        }
    }
    Ok(answer.into_response())
}

async fn shutdown(State(api): State<Api>) -> Handled {
    api.ask(Request::Shutdown).await
}

async fn upgrade(State(api): State<Api>, body: Body) -> Handled {
    let wire::Upgrade { binary } = read_json(body).await?;
    let digest = binary.parse().map_err(|error: DigestError| {
        Fault::new(FaultKind::Invalid, "the binary is not named by its digest").source(&error)
    })?;
    api.ask(Request::HandOver(digest)).await
}

/// Whether an app that is shown is for the one who asks.
fn covers(caller: &Caller, env: &str, app: &str) -> bool {
    app_key(env, app).map_or_else(|_| caller.covers_all(), |key| caller.covers(&key))
}

async fn apply(State(api): State<Api>, caller: Caller, body: Body) -> Handled {
    let mut apply: wire::Apply = read_json(body).await?;
    let plan = apply.plan.take().map(|hash| {
        hash.parse().map_err(|error: DigestError| {
            Fault::new(FaultKind::Invalid, format!("{hash:?} is not the hash of a plan")).source(&error)
        })
    });
    let plan = plan.transpose()?;
    if let Caller::Token(token) = &caller {
        let key = sent(&api, &caller, &apply).await?;
        told(&api, token, "apply a folder to", Some(&key)).await?;
    }
    let is_planned = plan.is_some();
    let request = Request::Apply(apply, plan, caller.scope());
    match is_planned {
        true => api.ask_in_turn(request).await,
        false => api.ask(request).await,
    }
}

async fn plan(State(api): State<Api>, caller: Caller, body: Body) -> Handled {
    let apply: wire::Apply = read_json(body).await?;
    if apply.plan.is_some() {
        return Err(Fault::new(FaultKind::Invalid, "a plan is asked for with the hash of a plan")
            .hint("leave `plan` out, or apply it: POST /v1/apps")
            .into());
    }
    if let Caller::Token(_) = &caller {
        sent(&api, &caller, &apply).await?;
    }
    api.ask_in_turn(Request::Plan(apply, caller.scope())).await
}

/// The app of a folder, for whoever comes from elsewhere: only what was sent, and is theirs.
async fn sent(api: &Api, caller: &Caller, apply: &wire::Apply) -> Result<AppKey, Refusal> {
    let (state, asked, edge) = (api.kept()?.vault.state().to_owned(), apply.clone(), api.edge);
    let key = api.beside("reading the folder", move || folder::sent(&asked, &state, edge)).await??;
    caller.require(&key)?;
    Ok(key)
}

async fn stop(State(api): State<Api>, caller: Caller, Path((env, app)): Path<(String, String)>, body: Body) -> Handled {
    let key = app_key(&env, &app)?;
    let wire::Stop { shutdown_when_idle } = read_json(body).await?;
    api.ask(Request::Stop { key, shutdown_when_idle, by_uid: caller.actor() }).await
}

async fn maintain(
    State(api): State<Api>,
    caller: Caller,
    Path((env, app)): Path<(String, String)>,
    body: Body,
) -> Handled {
    let key = app_key(&env, &app)?;
    let wire::Maintenance { allow } = read_json(body).await?;
    let allow = allow.iter().map(|text| network(text)).collect::<Result<_, _>>()?;
    api.ask(Request::Maintain { key, wanted: Some(Maintenance { allow }), by_uid: caller.actor() }).await
}

async fn end_maintenance(State(api): State<Api>, caller: Caller, Path((env, app)): Path<(String, String)>) -> Handled {
    let key = app_key(&env, &app)?;
    api.ask(Request::Maintain { key, wanted: None, by_uid: caller.actor() }).await
}

fn network(text: &str) -> Result<IpNet, Refusal> {
    text.parse().map_err(|error: ipnet::AddrParseError| {
        Fault::new(FaultKind::Invalid, format!("{text:?} is no network"))
            .source(&error)
            .hint("write an address and the length of its prefix: 192.0.2.0/24")
            .into()
    })
}

type JobPath = Path<(String, String, String)>;

async fn run_job(State(api): State<Api>, caller: Caller, Path((env, app, job)): JobPath) -> Handled {
    let key = app_key(&env, &app)?;
    told_run(&api, Request::RunJob { key, job, by_uid: caller.actor() }).await
}

async fn stop_job(State(api): State<Api>, caller: Caller, Path((env, app, job)): JobPath) -> Handled {
    let key = app_key(&env, &app)?;
    told_run(&api, Request::StopJob { key, job, by_uid: caller.actor() }).await
}

async fn run(
    State(api): State<Api>,
    path: Result<Path<(String, String, u32)>, PathRejection>,
    query: Result<Query<wire::RunQuery>, QueryRejection>,
) -> Handled {
    let Path((env, app, number)) = path.map_err(|error| misunderstood(&error))?;
    let Query(wire::RunQuery { wait }) = query.map_err(|error| misunderstood(&error))?;
    let run = RunId { app: app_key(&env, &app)?, number: RunNumber(number) };
    told_run(&api, Request::FollowRun { run, wait }).await
}

/// A run that is over is told from the store.
async fn told_run(api: &Api, request: Request) -> Handled {
    let answer = api.door.ask(request).await?;
    if let Answer::RunOver(run) = &answer {
        return stored_run(api, run);
    }
    Ok(answer.into_response())
}

fn stored_run(api: &Api, id: &RunId) -> Handled {
    let RunId { app, number } = id;
    let unknown = || {
        let fault = Fault::new(FaultKind::Invalid, format!("run {number} of {app} is not known"));
        Refusal::not_found(fault.hint("`bowline status` shows the last run of each job; old ones are forgotten"))
    };
    let record = api.kept()?.store.read(|view| view.run(app, *number)).map_err(Fault::from)?.ok_or_else(unknown)?;
    let unreadable = |error| {
        Fault::new(FaultKind::Failed, format!("run {number} of {app} cannot be read from the store")).source(&error)
    };
    let StoredRun { run, end, .. } = form::read_run(record).map_err(unreadable)?;
    let end = end.ok_or_else(unknown)?;
    Ok(json(StatusCode::OK, &finished_form(&Finished { run, end })))
}

async fn logs(
    State(api): State<Api>,
    caller: Caller,
    query: Result<Query<wire::LogsQuery>, QueryRejection>,
) -> Handled {
    let Query(query) = query.map_err(|error| misunderstood(&error))?;
    let query = log_query(query)?;
    caller.require(&query.key)?;
    let known = api.kept()?.store.read(|view| view.app(&query.key)).map_err(Fault::from)?;
    known.ok_or_else(|| Refusal::unknown_app(&query.key))?;
    let seat = api.seats.take(&caller)?;
    let (sender, receiver) = mpsc::channel(LOG_PIECES);
    api.logs.send((query, sender)).await.map_err(|_| Refusal::leaving())?;
    Ok(lines::of_logs(receiver, seat))
}

fn log_query(query: wire::LogsQuery) -> Result<LogQuery, Refusal> {
    Ok(LogQuery {
        key: app_key(&query.env, &query.app)?,
        service: query.service.map(|s| service_name(&s)).transpose()?,
        release: query.release.map(ReleaseNumber),
        since: query.since.map(Timestamp),
        tail: query.tail,
        follow: query.follow,
        grep: query.grep,
        access: query.access,
    })
}

async fn events(
    State(api): State<Api>,
    caller: Caller,
    query: Result<Query<wire::EventsQuery>, QueryRejection>,
) -> Handled {
    let store = api.kept()?.store.clone();
    let Query(query) = query.map_err(|error| misunderstood(&error))?;
    let events = api.beside("reading the events", move || read_events(&store, &caller, &query)).await??;
    Ok(json(StatusCode::OK, &wire::Events { events }))
}

/// The newest of one app, of one environment or of all; with `after`, the oldest above it.
fn read_events(store: &Store, caller: &Caller, query: &wire::EventsQuery) -> Result<Vec<wire::Event>, Refusal> {
    let limit = query.limit.unwrap_or(DEFAULT_EVENTS).min(MAX_EVENTS);
    let app = match (&query.env, &query.app) {
        (Some(env), Some(app)) => Some(app_key(env, app)?),
        (Some(_) | None, Some(_) | None) => None,
    };
    let matches = |record: &EventRecord| {
        let is = |want: &Option<String>, have: Option<&str>| want.as_deref().is_none_or(|want| have == Some(want));
        let key = record.key.as_ref();
        // What is of no app, tokens and the daemon, is for those to whom all apps are open.
        let theirs = key.map_or_else(|| caller.covers_all(), |key| caller.covers(key));
        theirs && is(&query.env, key.map(|k| k.env.as_str())) && is(&query.app, key.map(|k| k.app.as_str()))
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let records = store.read(|view| match (query.after, &app) {
        (Some(after), _) => some_of(limit, after, matches, |after, size| view.events_after(after, size)),
        (None, Some(key)) if caller.covers(key) => {
            view.last_events(Some(key), u32::try_from(limit).unwrap_or(u32::MAX))
        }
        (None, Some(_)) => Ok(Vec::new()),
        (None, None) => {
            let newest = some_of(limit, u64::MAX, matches, |before, size| view.events_before(before, size));
            newest.map(|newest| newest.into_iter().rev().collect())
        }
    });
    Ok(records.map_err(Fault::from)?.into_iter().map(event).collect())
}

/// The first that match, page by page: no more is read than is asked for. `page`: those behind a number, at most so many.
fn some_of(
    limit: usize,
    mut behind: u64,
    matches: impl Fn(&EventRecord) -> bool,
    page: impl Fn(u64, u32) -> Result<Vec<EventRecord>, StoreError>,
) -> Result<Vec<EventRecord>, StoreError> {
    let (mut found, mut size) = (Vec::new(), u32::try_from(limit).unwrap_or(MAX_EVENTS).clamp(1, MAX_EVENTS));
    while found.len() < limit {
        let records = page(behind, size)?;
        let Some(last) = records.last() else { break };
        behind = last.sequence;
        found.extend(records.into_iter().filter(&matches));
        // Where few match, it does not take a query for each.
        size = size.saturating_mul(2).min(MAX_EVENTS);
    }
    found.truncate(limit);
    Ok(found)
}

fn event(record: EventRecord) -> wire::Event {
    let mut fields: BTreeMap<String, Value> = serde_json::from_str(&record.fields).unwrap_or_default();
    let actor = fields.get("by_uid").and_then(Value::as_u64).and_then(|actor| u32::try_from(actor).ok());
    if let Some(token) = actor.and_then(TokenId::of_actor) {
        fields.remove("by_uid");
        fields.insert("by_token".to_owned(), token.0.into());
    }
    let text = |value: Value| match value {
        Value::String(text) => text,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    wire::Event {
        seq: record.sequence,
        at: record.at.0,
        env: record.key.as_ref().map(|key| key.env.to_string()),
        app: record.key.as_ref().map(|key| key.app.to_string()),
        event: record.kind,
        text: record.message,
        fields: fields.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, text(v))).collect(),
    }
}

async fn secrets(State(api): State<Api>, Path((env, app)): Path<(String, String)>) -> Handled {
    let key = app_key(&env, &app)?;
    let records = api.kept()?.vault.list(&key).map_err(Fault::from)?;
    let info = |meta: SecretMeta| wire::SecretInfo {
        name: meta.name.to_string(),
        version: meta.version.0,
        created: meta.created.0,
        by_uid: meta.by_uid.filter(|uid| TokenId::of_actor(*uid).is_none()),
        by_token: meta.by_uid.and_then(TokenId::of_actor).map(|token| token.0),
        generated: meta.by_uid.is_none(),
    };
    let known =
        secret_index(records).into_values().filter(|meta| !dotenv::is_reserved(&meta.name) && !meta.name.is_own());
    Ok(json(StatusCode::OK, &wire::Secrets { secrets: known.map(info).collect() }))
}

type SecretPath = Path<(String, String, String)>;

async fn set_secret(State(api): State<Api>, caller: Caller, Path((env, app, name)): SecretPath, body: Body) -> Handled {
    let (key, name) = (app_key(&env, &app)?, secret_name(&name)?);
    let value = read(body, wire::MAX_SECRET).await?;
    if value.is_empty() {
        let fault = Fault::new(FaultKind::Invalid, format!("the value of secret {name} is empty"));
        return Err(fault.hint("give the value on standard input").into());
    }
    api.ask(Request::SetSecret { key, name, value: Secret::new(value), by_uid: caller.actor() }).await
}

async fn remove_secret(State(api): State<Api>, caller: Caller, Path((env, app, name)): SecretPath) -> Handled {
    let (key, name) = (app_key(&env, &app)?, secret_name(&name)?);
    api.ask(Request::RemoveSecret { key, name, by_uid: caller.actor() }).await
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = read(body, wire::MAX_BODY).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Fault::new(FaultKind::Invalid, "the request's body is not understood").source(&error).into())
}

/// The whole body, at most `limit` bytes.
async fn read(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal {
            reason: RefusalReason::TooLarge,
            fault: Fault::new(FaultKind::Invalid, format!("the body has more than {limit} bytes")),
        }),
        Err(error) => {
            Err(Fault::new(FaultKind::Invalid, "the request's body did not arrive whole").source(&*error).into())
        }
    }
}

/// What is wrong with a path or a query has the words of its sources in its own.
fn misunderstood(error: &dyn std::error::Error) -> Refusal {
    Fault::new(FaultKind::Invalid, "the request is not understood").caused_by(error.to_string()).into()
}

fn app_key(env: &str, app: &str) -> Result<AppKey, Refusal> {
    let env = EnvName::new(env).map_err(|e| bad_name(env, &e))?;
    let app = AppName::new(app).map_err(|e| bad_name(app, &e))?;
    Ok(AppKey { env, app })
}

/// A service of the file, the server of a resource (`postgres.db`), or the runs of a job (`job.cleanup`).
fn service_name(name: &str) -> Result<ServiceName, Refusal> {
    if let Ok(task) = name.parse::<Task>() {
        return Ok(task.service());
    }
    let server = name.split_once('.').and_then(|(kind, of)| {
        let (kind, of) = (ResourceKind::of(kind)?, ResourceName::new(of).ok()?);
        Some(ServiceName::of_resource(kind.as_str(), &of))
    });
    server.map_or_else(|| ServiceName::new(name).map_err(|e| bad_name(name, &e)), Ok)
}

fn secret_name(name: &str) -> Result<SecretName, Refusal> {
    SecretName::new(name).map_err(|e| bad_name(name, &e))
}

fn bad_name(name: &str, error: &NameError) -> Refusal {
    Fault::new(FaultKind::Invalid, format!("{name:?} is not a name")).source(error).into()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn no_more_events_are_read_than_are_asked_for() {
        let record = |sequence: u64| EventRecord {
            sequence,
            at: Timestamp(0),
            key: None,
            kind: String::new(),
            message: String::new(),
            fields: String::new(),
        };
        let read = Cell::new(0);
        let page = |after: u64, size: u32| {
            let records: Vec<_> = (after + 1..=10_000).take(size as usize).map(record).collect();
            read.set(read.get() + records.len());
            Ok(records)
        };
        let check = |limit, after, every: u64, expected: &[u64], most| {
            read.set(0);
            let found = some_of(limit, after, |record| record.sequence % every == 0, page).unwrap();
            assert_eq!(found.iter().map(|record| record.sequence).collect::<Vec<_>>(), expected);
            assert!(read.get() <= most, "{} were read", read.get());
        };
        check(1, 0, 1, &[1], 1);
        check(2, 7, 1, &[8, 9], 2);
        check(2, 0, 5, &[5, 10], 14);
        check(0, 0, 1, &[], 0);
        check(9, 9_998, 1, &[9_999, 10_000], 2);
    }
}
