//! A service whose releases take over in shares or all at once: a Rollout of Argo instead of a Deployment.

use bowline_core::app::{Rollouts, Route, RouteTo, Step, Strategy};
use bowline_core::id::ServiceName;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::Ctx;
use crate::object::{Out, Wave};

/// What the new release is reached by before it is the one.
const CANARY: &str = "canary";
const PREVIEW: &str = "preview";

/// It gets requests, and the file says how a release of it takes over.
pub(super) fn is_argo(ctx: &Ctx<'_>, name: &ServiceName) -> bool {
    let stepped = match ctx.app.rollout.strategy {
        Strategy::Rolling => false,
        Strategy::Canary { .. } | Strategy::BlueGreen => true,
    };
    stepped && ctx.settings().rollouts == Some(Rollouts::Argo) && ctx.routed.contains(name)
}

/// In the place of `deployment`. `service`: by which it is reached.
pub(super) fn put(ctx: &Ctx<'_>, name: &ServiceName, deployment: &Deployment, service: &Service, out: &mut Out) {
    let (strategy, beside) = match &ctx.app.rollout.strategy {
        Strategy::Canary { steps } => (canary(ctx, name, steps), CANARY),
        Strategy::BlueGreen => (blue_green(ctx, name), PREVIEW),
        Strategy::Rolling => return,
    };
    let mut other = service.clone();
    other.metadata.name = Some(ctx.named(&[name.as_str(), beside]));
    out.put(Wave::Workload, &other);
    let spec = deployment.spec.as_ref();
    let mut body = json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": deployment.metadata,
        "spec": {
            "selector": spec.map(|spec| &spec.selector),
            "template": spec.map(|spec| &spec.template),
            "strategy": strategy,
            "progressDeadlineSeconds": spec.and_then(|spec| spec.progress_deadline_seconds),
            // Pods that do not become ready take the release back.
            "progressDeadlineAbort": true,
        },
    });
    if let Some(replicas) = spec.and_then(|spec| spec.replicas) {
        body["spec"]["replicas"] = json!(replicas);
    }
    out.put(Wave::Workload, &body);
    out.note(
        "Argo Rollouts takes a release back whose pods do not become ready, and judges no requests: a step that fails them is aborted by \
         kubectl argo rollouts abort",
    );
}

/// Shares of the requests, by the Ingresses that lead there.
fn canary(ctx: &Ctx<'_>, name: &ServiceName, steps: &[Step]) -> Value {
    let leads =
        |route: &Route| !route.hosts.is_empty() && matches!(&route.to, RouteTo::Service(service) if service == name);
    let routes = ctx.app.routes.iter().filter(|(_, route)| leads(route));
    let ingresses: Vec<String> = routes.map(|(route, _)| ctx.named(&[route.as_str()])).collect();
    let steps: Vec<Value> = steps
        .iter()
        .flat_map(|step| {
            let seconds = super::probe::seconds(step.hold);
            [json!({ "setWeight": step.weight.get() }), json!({ "pause": { "duration": format!("{seconds}s") } })]
        })
        .collect();
    json!({
        "canary": {
            "stableService": ctx.named(&[name.as_str()]),
            "canaryService": ctx.named(&[name.as_str(), CANARY]),
            "trafficRouting": { "nginx": { "stableIngresses": ingresses } },
            "steps": steps,
        },
    })
}

fn blue_green(ctx: &Ctx<'_>, name: &ServiceName) -> Value {
    json!({
        "blueGreen": {
            "activeService": ctx.named(&[name.as_str()]),
            "previewService": ctx.named(&[name.as_str(), PREVIEW]),
            "autoPromotionEnabled": true,
        },
    })
}

/// The names of objects beside those of a service, by which a service of the file would be taken for one of them.
pub(crate) fn beside(ctx: &Ctx<'_>, name: &ServiceName) -> Option<String> {
    let word = match ctx.app.rollout.strategy {
        Strategy::Canary { .. } => CANARY,
        Strategy::BlueGreen => PREVIEW,
        Strategy::Rolling => return None,
    };
    is_argo(ctx, name).then(|| format!("{name}-{word}"))
}

/// What scales it.
pub(super) fn target(ctx: &Ctx<'_>, name: &ServiceName) -> (&'static str, &'static str) {
    match is_argo(ctx, name) {
        true => ("argoproj.io/v1alpha1", "Rollout"),
        false => ("apps/v1", "Deployment"),
    }
}
