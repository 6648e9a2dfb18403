//! The routes that show releases and steer them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, Digest, ReleaseNumber, ServiceName};
use bowline_core::release::Artifact;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::access::Caller;
use super::answer::{Refusal, json};
use super::{Api, Handled, app_key, memory, read_json};
use crate::folder::dotenv;
use crate::form;
use crate::reconcile::back::{BackTo, KeptReleases, target};
use crate::reconcile::release::snapshot_folder;
use crate::reconcile::request::{Answer, Request};
use crate::store::{RevisionRecord, RevisionState};

type AppPath = Path<(String, String)>;

pub(super) async fn list(State(api): State<Api>, Path((env, app)): AppPath) -> Handled {
    let key = app_key(&env, &app)?;
    let kept = kept(&api, &key, false).await?;
    let rows = revisions(&api, &key)?.into_iter().rev().filter(|row| kept.numbers.contains(&row.number));
    let releases = rows.map(|row| form_of(row, &kept)).collect::<Result<_, _>>()?;
    Ok(json(StatusCode::OK, &wire::Releases { env, app, releases }))
}

pub(super) async fn roll_back(
    State(api): State<Api>,
    caller: Caller,
    Path((env, app)): AppPath,
    body: Body,
) -> Handled {
    let key = app_key(&env, &app)?;
    let wire::Rollback { release } = read_json(body).await?;
    let kept = kept(&api, &key, true).await?;
    let rows = revisions(&api, &key)?;
    let row = target(&key, rows.clone(), &kept, release.map(ReleaseNumber))?;
    let app = bowline_spec::canonical::from_json(&row.app).map_err(|error| unreadable(&row, &error))?;
    check(&api, &row, artifacts(&row)?).await?;
    // Not every release that asks for it has one: it may have failed for want of it, or be like another that was gone back to.
    let state_dir = api.kept()?.vault.state();
    let later =
        rows.iter().map(|later| later.number).filter(|later| *later > row.number && kept.numbers.contains(later));
    let snapshots = later.filter(|later| snapshot_folder(state_dir, &key, *later).is_dir()).collect();
    let to = BackTo { number: row.number, app: Arc::new(app), snapshots };
    api.ask(Request::RollBack { key, to, scope: caller.scope(), by_uid: caller.actor() }).await
}

pub(super) async fn restart(State(api): State<Api>, caller: Caller, Path((env, app)): AppPath, body: Body) -> Handled {
    let key = app_key(&env, &app)?;
    let wire::Restart { service } = read_json(body).await?;
    api.ask(Request::Restart { key, service, by_uid: caller.actor() }).await
}

pub(super) async fn scale(State(api): State<Api>, caller: Caller, Path((env, app)): AppPath, body: Body) -> Handled {
    let key = app_key(&env, &app)?;
    let wire::Scale { service, replicas } = read_json(body).await?;
    let machine = memory::machine();
    api.ask(Request::Scale { key, service, replicas, machine, by_uid: caller.actor() }).await
}

pub(super) async fn promote(State(api): State<Api>, caller: Caller, Path((env, app)): AppPath) -> Handled {
    let key = app_key(&env, &app)?;
    api.ask(Request::Promote { key, by_uid: caller.actor() }).await
}

pub(super) async fn abort(State(api): State<Api>, caller: Caller, Path((env, app)): AppPath) -> Handled {
    let key = app_key(&env, &app)?;
    api.ask(Request::Abort { key, by_uid: caller.actor() }).await
}

async fn kept(api: &Api, key: &AppKey, for_change: bool) -> Result<KeptReleases, Refusal> {
    let answer = api.door.ask(Request::KeptReleases { key: key.clone(), for_change }).await?;
    let Answer::KeptReleases(kept) = answer else {
        return Err(Fault::new(FaultKind::Failed, "the daemon answered another question").into());
    };
    Ok(kept)
}

fn revisions(api: &Api, key: &AppKey) -> Result<Vec<RevisionRecord>, Refusal> {
    Ok(api.kept()?.store.read(|view| view.known_revisions(key)).map_err(Fault::from)?)
}

fn artifacts(row: &RevisionRecord) -> Result<BTreeMap<ServiceName, Artifact>, Fault> {
    form::read_built(&row.artifacts).map_err(|error| unreadable(row, &error))
}

fn unreadable(row: &RevisionRecord, error: &dyn std::error::Error) -> Fault {
    let message = format!("release {} of {} cannot be read from the store", row.number, row.key);
    Fault::new(FaultKind::Failed, message).source(error).hint("run the newer Bowline")
}

/// Asks the node whether it can still be run as it was built.
async fn check(api: &Api, row: &RevisionRecord, artifacts: BTreeMap<ServiceName, Artifact>) -> Result<(), Refusal> {
    let (reply, answer) = oneshot::channel();
    let asked = api.checks.send((artifacts.into_values().collect(), reply)).await;
    asked.map_err(|_| Refusal::leaving())?;
    // All is read for it, which takes longer than a daemon waits that ends.
    let checked = tokio::select! {
        checked = answer => checked.map_err(|_| Refusal::leaving())?,
        () = api.door.closed() => return Err(Refusal::leaving()),
    };
    let Err(why) = checked else { return Ok(()) };
    let fault = Fault::new(why.kind, format!("{} cannot go back to release {}", row.key, row.number));
    let fault = why.causes.into_iter().fold(fault.caused_by(why.message), Fault::caused_by);
    Err(Fault { hint: why.hint, ..fault }.into())
}

fn form_of(row: RevisionRecord, kept: &KeptReleases) -> Result<wire::Release, Fault> {
    let artifacts = artifacts(&row)?;
    let (state, fault) = match &row.state {
        RevisionState::Pending => (wire::ReleaseState::Pending, None),
        RevisionState::Active => (wire::ReleaseState::Stable, None),
        RevisionState::Retired => (wire::ReleaseState::Superseded, None),
        RevisionState::Failed { reason } => (wire::ReleaseState::Failed, Some(form::read_fault(reason).into())),
    };
    let runtime = |(name, artifact): (&ServiceName, &Artifact)| Some((name.to_string(), artifact.runtime.clone()?));
    Ok(wire::Release {
        number: row.number.0,
        state,
        serves: kept.live == Some(row.number),
        created: row.created.0,
        runtimes: artifacts.iter().filter_map(runtime).collect(),
        artifacts: artifacts.iter().map(|(name, artifact)| (name.to_string(), artifact.digest.to_string())).collect(),
        configuration: Digest(Sha256::digest(row.app.as_bytes()).into()).to_string(),
        secrets: row.secrets.iter().map(|(name, version)| (dotenv::spelled(name), version.0)).collect(),
        fault,
    })
}
