//! A service: its account, its Deployment, and the Service by which others reach it.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::app::{Health, Origin, Probe, Protocol, Service as AppService};
use bowline_core::id::ServiceName;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, Service, ServiceAccount,
    ServicePort, ServiceSpec, SleepAction, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Ctx, HTTP, matching, pod, probe, rollout, run, storage};
use crate::input::Api;
use crate::object::{Out, Wave};

/// Until every proxy has heard that a pod ends, in seconds: it is asked until then, and what is outstanding has `drain` after that.
const HEARD: i64 = 10;
/// From TERM to KILL.
const END: i64 = 10;
/// The least that a rollout waits for a pod, as Kubernetes does by itself.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn put(ctx: &Ctx<'_>, name: &ServiceName, out: &mut Out) {
    let Some(service) = ctx.app.services.get(name) else { return };
    let (word, object) = (name.as_str(), ctx.named(&[name.as_str()]));
    out.put(
        Wave::Config,
        &ServiceAccount {
            metadata: ctx.meta(object.clone(), word),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
    );
    notes(ctx, name, service, out);
    let listens = ctx.listens(name);
    let way = reached(ctx, name, service);
    if listens {
        out.put(Wave::Workload, &way);
    }
    let template = template(ctx, name, service, listens, out);
    let spec = DeploymentSpec {
        // A HorizontalPodAutoscaler says how many there are.
        replicas: (!service.scale.is_automatic()).then(|| service.scale.min.into()),
        selector: matching(ctx.selector(word)),
        strategy: Some(strategy(ctx, name)),
        progress_deadline_seconds: Some(patience(service)),
        template,
        ..DeploymentSpec::default()
    };
    let deployment = Deployment { metadata: ctx.meta(object, word), spec: Some(spec), status: None };
    match rollout::is_argo(ctx, name) {
        true => rollout::put(ctx, name, &deployment, &way, out),
        false => out.put(Wave::Workload, &deployment),
    }
}

fn notes(ctx: &Ctx<'_>, name: &ServiceName, service: &AppService, out: &mut Out) {
    if service.health.is_none() && ctx.routed.contains(name) {
        out.note(format!("{name} says no `health`: it gets requests as soon as its port is open"));
    }
    let image = match &service.origin {
        Origin::Image(_) => "its image",
        Origin::Dockerfile { .. } => "its Dockerfile",
        Origin::Folder { .. } | Origin::BuildOf(_) | Origin::Static { .. } => return,
    };
    out.note(format!("{name} runs as the user of {image}, which must be a number and not root (USER 65532)"));
}

fn template(ctx: &Ctx<'_>, name: &ServiceName, service: &AppService, listens: bool, out: &mut Out) -> PodTemplateSpec {
    // The image of a build has the command of the service that it is the build of.
    let is_own = matches!(service.origin, Origin::Folder { .. })
        || ctx.input.images.contains_key(name) && matches!(service.origin, Origin::BuildOf(_));
    let command = service.run.as_ref().filter(|_| !is_own).map(|command| run::words(&command.0));
    let wanted = pod::Wanted {
        component: name.as_str(),
        parts: &[name.as_str()],
        service: name,
        variables: ctx.variables(name),
        command,
    };
    let mut template = pod::of(ctx, wanted, out);
    if let Some(spec) = &mut template.spec {
        spec.termination_grace_period_seconds = Some(grace(service, listens));
        spec.topology_spread_constraints = spread(ctx, name, service);
        dress(spec, service, listens);
    }
    let metadata = template.metadata.get_or_insert_default();
    metadata.annotations = scraped(ctx, service);
    template
}

/// What a container has that answers.
fn dress(spec: &mut PodSpec, service: &AppService, listens: bool) {
    let Some(container) = spec.containers.first_mut() else { return };
    let port = probe::port(service);
    let variable = EnvVar { name: "PORT".to_owned(), value: Some(port.to_string()), value_from: None };
    container.env.get_or_insert_default().insert(0, variable);
    if !listens {
        return;
    }
    let probes = probe::of(service, listens);
    let seconds = HEARD + i64::from(probe::seconds(service.drain));
    // Before TERM, at which many an app drops what it is answering.
    let sleep = LifecycleHandler { sleep: Some(SleepAction { seconds }), ..LifecycleHandler::default() };
    let port = ContainerPort { name: Some(HTTP.to_owned()), container_port: port, ..ContainerPort::default() };
    *container = Container {
        ports: Some(vec![port]),
        readiness_probe: probes.readiness,
        liveness_probe: probes.liveness,
        startup_probe: probes.startup,
        lifecycle: Some(Lifecycle { pre_stop: Some(sleep), ..Lifecycle::default() }),
        ..std::mem::take(container)
    };
}

/// All that an end may take, what comes before TERM included. What nobody asks has its `drain` after TERM.
fn grace(service: &AppService, listens: bool) -> i64 {
    let drain = i64::from(probe::seconds(service.drain));
    END + drain + if listens { HEARD } else { 0 }
}

/// Two tries of a pod to become ready, and what lies between.
fn patience(service: &AppService) -> i32 {
    let times = match &service.health {
        Some(Health::Http(check)) => check.probe,
        Some(Health::Grpc(check)) => check.probe,
        Some(Health::Tcp(probe)) => *probe,
        None => Probe::default(),
    };
    let twice = times.grace.saturating_mul(2).saturating_add(Duration::from_secs(60));
    probe::seconds(twice.max(PATIENCE))
}

/// One more before one less. A disk that one node at a time may have is let go first.
fn strategy(ctx: &Ctx<'_>, name: &ServiceName) -> DeploymentStrategy {
    if storage::is_held_alone(ctx, name) {
        return DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None };
    }
    let rolling =
        RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
    DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) }
}

/// Over zones and machines, as far as there are several.
fn spread(ctx: &Ctx<'_>, name: &ServiceName, service: &AppService) -> Option<Vec<TopologySpreadConstraint>> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(matching(ctx.selector(name.as_str()))),
        ..TopologySpreadConstraint::default()
    };
    (service.scale.max > 1).then(|| vec![over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")])
}

/// For whoever scrapes by annotations; where the Prometheus Operator is, there is a ServiceMonitor.
fn scraped(ctx: &Ctx<'_>, service: &AppService) -> Option<BTreeMap<String, String>> {
    let path = service.metrics.as_ref().filter(|_| !ctx.has(Api::Prometheus))?;
    let said = [("scrape", "true".to_owned()), ("port", probe::port(service).to_string()), ("path", path.clone())];
    Some(said.into_iter().map(|(name, value)| (format!("prometheus.io/{name}"), value)).collect())
}

fn reached(ctx: &Ctx<'_>, name: &ServiceName, service: &AppService) -> Service {
    let app_protocol = match service.protocol {
        Protocol::Http1 => "http",
        Protocol::H2c => "kubernetes.io/h2c",
    };
    let port = ServicePort {
        name: Some(HTTP.to_owned()),
        port: 80,
        target_port: Some(IntOrString::String(HTTP.to_owned())),
        app_protocol: Some(app_protocol.to_owned()),
        ..ServicePort::default()
    };
    let spec =
        ServiceSpec { selector: Some(ctx.selector(name.as_str())), ports: Some(vec![port]), ..ServiceSpec::default() };
    Service { metadata: ctx.meta(ctx.named(&[name.as_str()]), name.as_str()), spec: Some(spec), status: None }
}
