//! What a cluster has beside Kubernetes. What may not be looked at counts as not there, unless what serves was told of it: keys that need
//! it are refused, not guessed.

use std::collections::BTreeSet;

use bowline_core::app::{App, DatabaseSource, ResourceKind};
use bowline_core::fault::Fault;
use bowline_kube::held::{Edge, Holder, holder, is_run};
use bowline_kube::history::Release;
use bowline_kube::{Cluster, Id, Refusal};
use bowline_render::{Api, Secrets, kubernetes};
use serde_json::Value;

use super::Telling;
use crate::cmd::render::Loaded;

/// Groups by which an API is known to be there.
const GROUPS: [(Api, &str); 4] = [
    (Api::CertManager, "cert-manager.io"),
    (Api::CloudNativePg, "postgresql.cnpg.io"),
    (Api::ExternalSecrets, "external-secrets.io"),
    (Api::Prometheus, "monitoring.coreos.com"),
];
/// What a class of ingress-nginx says of itself, and one of Envoy Gateway.
const NGINX: &str = "k8s.io/ingress-nginx";
const ENVOY: &str = "gateway.envoyproxy.io/gatewayclass-controller";

/// `said`: what it is said to have.
pub(super) async fn found(
    cluster: &mut Cluster,
    releases: &[Release],
    (loaded, said): (&Loaded, &[Api]),
    telling: &mut Telling<'_>,
) -> Result<BTreeSet<Api>, Fault> {
    let groups = cluster.groups().await;
    let groups =
        groups.map_err(|refusal| refusal.fault(format!("{} does not say what it serves", cluster.target())))?;
    let there = GROUPS.into_iter().filter(|(_, group)| groups.contains(*group)).map(|(api, _)| api);
    let mut apis: BTreeSet<Api> = there.chain(said.iter().copied()).collect();
    apis.extend(edge(cluster, &loaded.app, releases).await?);
    if has_postgres(&loaded.app) {
        let known = match holder(releases) {
            Some(known) => Some(known),
            None => there_already(cluster, loaded, &apis).await?,
        };
        match known {
            Some(Holder::Operator) => drop(apis.insert(Api::CloudNativePg)),
            Some(Holder::Alone) if apis.remove(&Api::CloudNativePg) => telling.note(
                "its PostgreSQL stays the StatefulSet that holds its data: CloudNativePG would begin with an empty one"
                    .to_owned(),
            ),
            Some(Holder::Alone) | None => {}
        }
    }
    Ok(apis)
}

/// Of its own: one that is elsewhere has its data there.
fn has_postgres(app: &App) -> bool {
    app.databases.iter().any(|((kind, _), database)| {
        let is_here = matches!(database.source, DatabaseSource::Managed { .. });
        is_here && ResourceKind::from(*kind) == ResourceKind::Postgres
    })
}

/// Who holds data of which no release is known any more, or which `kubectl` has made: what either would have is looked for by its name.
async fn there_already(cluster: &mut Cluster, loaded: &Loaded, apis: &BTreeSet<Api>) -> Result<Option<Holder>, Fault> {
    // Without the operator there is no other way.
    if !apis.contains(&Api::CloudNativePg) {
        return Ok(None);
    }
    let alone: BTreeSet<Api> = apis.iter().copied().filter(|api| *api != Api::CloudNativePg).collect();
    let mut wanted: Vec<(Holder, Id)> = Vec::new();
    for apis in [apis, &alone] {
        // What is refused either way is said when the one that is meant is rendered.
        let rendered = kubernetes(&loaded.input_with(Secrets::Named, apis));
        let objects = rendered.map(|manifests| manifests.objects).unwrap_or_default();
        wanted.extend(objects.iter().filter_map(|one| Some((Holder::of(&one.body)?, Id::of(&one.body)))));
    }
    let ids: Vec<Id> = wanted.iter().map(|(_, id)| id.clone()).collect();
    let there = cluster.first_there(&ids).await;
    let there = there.map_err(|refusal| refusal.fault("whether there are data of its PostgreSQL cannot be seen"))?;
    Ok(there.and_then(|there| wanted.iter().find(|(_, id)| id == there)).map(|(holder, _)| *holder))
}

/// Who runs what the routes come in through. A server that could not just then says nothing of it; who may not look has what serves by
/// what was found or said before.
async fn edge(cluster: &Cluster, app: &App, releases: &[Release]) -> Result<Option<Api>, Fault> {
    if app.routes.is_empty() {
        return Ok(None);
    }
    let settings = app.environment.kubernetes.clone().unwrap_or_default();
    let (edge, api) = match &settings.gateway {
        Some(gateway) => (Edge::Gateway(gateway), Api::EnvoyGateway),
        None => (Edge::Class(settings.ingress_class.as_deref()), Api::IngressNginx),
    };
    let seen = is_run_by(cluster, edge).await;
    let is_it = is_run(seen, edge, releases);
    let is_it = is_it.map_err(|refusal| refusal.fault("what the routes come in through cannot be looked at"))?;
    Ok(is_it.then_some(api))
}

/// Whether it is run by the controller that is known.
async fn is_run_by(cluster: &Cluster, edge: Edge<'_>) -> Result<bool, Refusal> {
    const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1";
    const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
    let classes = match edge {
        Edge::Gateway(gateway) => {
            let (namespace, name) = gateway.split_once('/').unwrap_or((cluster.namespace(), gateway));
            let gateway = cluster.get(&format!("{ROUTES}/namespaces/{namespace}/gateways/{name}")).await?;
            let Some(class) = gateway["spec"]["gatewayClassName"].as_str() else { return Ok(false) };
            let class = cluster.get(&format!("{ROUTES}/gatewayclasses/{class}")).await?;
            return Ok(class["spec"]["controllerName"] == ENVOY);
        }
        Edge::Class(Some(class)) => vec![cluster.get(&format!("{CLASSES}/{class}")).await?],
        Edge::Class(None) => cluster.list(CLASSES, "").await?.into_iter().filter(is_default).collect(),
    };
    Ok(are_nginx(&classes))
}

fn is_default(class: &Value) -> bool {
    class["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true"
}

/// Of several defaults it is not known which one is taken.
fn are_nginx(classes: &[Value]) -> bool {
    !classes.is_empty() && classes.iter().all(|class| class["spec"]["controller"] == NGINX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_class_is_what_its_controller_says() {
        let class = |controller: &str| json!({ "metadata": { "name": "nginx" }, "spec": { "controller": controller } });
        assert!(are_nginx(&[class(NGINX)]));
        assert!(!are_nginx(&[class("traefik.io/ingress-controller")]));
        assert!(!are_nginx(&[class(NGINX), class("traefik.io/ingress-controller")]));
        assert!(!are_nginx(&[]));
        let mut default = class(NGINX);
        assert!(!is_default(&default));
        default["metadata"]["annotations"] = json!({ "ingressclass.kubernetes.io/is-default-class": "true" });
        assert!(is_default(&default));
    }
}
