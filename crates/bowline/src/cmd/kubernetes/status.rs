//! `bowline status` of a cluster: what serves, and what each pod waits on.

use std::process::ExitCode;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_kube::history::{self, State};
use bowline_kube::look::{self, Seen, Stands};
use bowline_kube::{Cluster, Id, Owner, Refusal, now_ms};
use bowline_render::label;
use serde::Serialize;
use serde_json::Value;

use super::Place;
use crate::args::Status;
use crate::ui::{self, Tone, Ui};

/// Where operators keep what they bring up.
const ARGO: (&str, &str) = ("argoproj.io/v1alpha1", "rollouts");
const CLOUDNATIVE_PG: (&str, &str) = ("postgresql.cnpg.io/v1", "clusters");

#[derive(Debug, Serialize)]
struct Answer {
    context: String,
    apps: Vec<App>,
}

#[derive(Debug, Serialize)]
struct App {
    app: String,
    env: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<u32>,
    /// One that is coming out, or was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<u32>,
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Service {
    name: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_on: Option<String>,
    instances: Vec<Instance>,
}

#[derive(Debug, Serialize)]
struct Instance {
    pod: String,
    ready: bool,
    phase: String,
    restarts: i64,
    /// In milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
}

pub(super) async fn run(args: Status, place: Place<'_>, ui: &Ui) -> Result<ExitCode, Fault> {
    let cluster = place.join().await?;
    let unread = |refusal: Refusal| refusal.fault(format!("{} cannot be looked at", cluster.target()));
    let mut owners = cluster.owners().await.map_err(unread)?;
    if let Some(app) = &args.app {
        owners.retain(|owner| owner.app == label(app) && owner.env == label(&args.env));
        if owners.is_empty() {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("no app {app} is known in {} of {}", args.env, cluster.target()),
            )
            .hint("`bowline status` with the same --to lists all"));
        }
    }
    let mut answer = Answer { context: cluster.target(), apps: Vec::new() };
    for owner in owners {
        // Seven lists at once are much to remember.
        answer.apps.push(Box::pin(of(&cluster, owner)).await.map_err(unread)?);
    }
    ui.object(&answer);
    ui.say(ui.paint(Tone::Strong, &answer.context));
    answer.apps.iter().for_each(|app| show(app, ui));
    if answer.apps.is_empty() {
        ui.say("\n  no apps; `bowline deploy DIR` brings one out");
    }
    Ok(ExitCode::SUCCESS)
}

/// Of an operator, which not every cluster has, and which not everybody may look at.
async fn served(cluster: &Cluster, (api, kind): (&str, &str), query: &str) -> Result<Vec<Value>, Refusal> {
    match cluster.list(&cluster.of(api, kind), query).await {
        Err(refusal) if refusal.is_absent() || refusal.is_forbidden() => Ok(Vec::new()),
        answer => answer,
    }
}

async fn of(cluster: &Cluster, owner: Owner) -> Result<App, Refusal> {
    let query = format!("&labelSelector={}", owner.selector());
    let apps = |kind| cluster.of("apps/v1", kind);
    let (deployments, stateful, all) = (apps("deployments"), apps("statefulsets"), apps("replicasets"));
    let pods = cluster.core("pods");
    let (releases, deployments, stateful, rollouts, clusters, sets, mut pods) = tokio::try_join!(
        cluster.releases(&owner),
        cluster.list(&deployments, &query),
        cluster.list(&stateful, &query),
        served(cluster, ARGO, &query),
        served(cluster, CLOUDNATIVE_PG, &query),
        cluster.list(&all, &query),
        cluster.list(&pods, &query),
    )?;
    for one in &clusters {
        pods.extend(cluster.operated(&Id { kind: "Cluster".to_owned(), ..Id::of(one) }).await?);
    }
    let events = cluster.list(&cluster.core("events"), "&fieldSelector=type%3DWarning").await.unwrap_or_default();
    // Items of a list do not say their kind.
    let kinds = [("Deployment", deployments), ("Rollout", rollouts), ("StatefulSet", stateful), ("Cluster", clusters)];
    let workloads = kinds.into_iter().flat_map(|(kind, all)| {
        all.into_iter().map(move |mut one| {
            one["kind"] = kind.into();
            one
        })
    });
    let services = workloads.map(|workload| {
        let look = look::look(Seen { workload: &workload, sets: &sets, pods: &pods, events: &events });
        let waits_on = match look.stands {
            Stands::Ready => None,
            Stands::Waits(on) => Some(on),
            Stands::Trouble(trouble) => Some(trouble.to_string()),
        };
        let own = pods.iter().filter(|pod| is_of(pod, &workload, &sets));
        Service { name: look.what.clone(), ready: waits_on.is_none(), waits_on, instances: own.map(instance).collect() }
    });
    let services = services.collect();
    let pending = releases.last().filter(|last| last.state == State::Pending).map(|last| last.number);
    let release = history::serving(&releases).map(|release| release.number);
    Ok(App { app: owner.app, env: owner.env, release, pending, services })
}

fn is_of(pod: &Value, workload: &Value, sets: &[Value]) -> bool {
    let uid = &workload["metadata"]["uid"];
    look::is_of(pod, uid) || sets.iter().any(|set| look::is_of(set, uid) && look::is_of(pod, &set["metadata"]["uid"]))
}

fn instance(pod: &Value) -> Instance {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let since = pod["status"]["startTime"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    Instance {
        pod: text(&pod["metadata"]["name"]),
        ready: look::is_ready(pod),
        phase: match pod["metadata"]["deletionTimestamp"].is_null() {
            true => text(&pod["status"]["phase"]).to_lowercase(),
            false => "ending".to_owned(),
        },
        restarts: containers.map(|one| one["restartCount"].as_i64().unwrap_or_default()).sum(),
        since: since.and_then(|time| u64::try_from(time.as_millisecond()).ok()),
    }
}

fn show(app: &App, ui: &Ui) {
    let release = app.release.map_or_else(|| "no release serves".to_owned(), |number| format!("release {number}"));
    let is_ready = app.release.is_some() && app.services.iter().all(|service| service.ready);
    let state = if is_ready { ui.paint(Tone::Good, "ready") } else { ui.paint(Tone::Warning, "not ready") };
    ui.say(format!("\n{} {state}  {release}", ui.paint(Tone::Strong, format!("{}/{}", app.env, app.app))));
    if let Some(pending) = app.pending {
        ui.say(format!(
            "  {} release {pending}, or whoever brought it out was cut off",
            ui.paint(Tone::Warning, "coming out:")
        ));
    }
    for service in &app.services {
        if let Some(on) = &service.waits_on {
            ui.say(format!("  {} waits on {on}", service.name));
        }
    }
    let row = |service: &Service, one: &Instance| {
        let since = one.since.map(|since| ui::duration(Duration::from_millis(now_ms().saturating_sub(since))));
        let (tone, state) = if one.ready { (Tone::Good, "ready") } else { (Tone::Warning, one.phase.as_str()) };
        vec![
            service.name.clone(),
            one.pod.clone(),
            ui.paint(tone, state),
            since.unwrap_or_else(|| "-".to_owned()),
            one.restarts.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> =
        app.services.iter().flat_map(|service| service.instances.iter().map(move |one| row(service, one))).collect();
    if !rows.is_empty() {
        ui.table(&["SERVICE", "POD", "STATE", "UP", "RESTARTS"], &rows);
    }
}
