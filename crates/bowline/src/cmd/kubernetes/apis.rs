//! What a cluster has beside Kubernetes. What may not be looked at counts as not there: keys that need it are refused, not guessed.

use std::collections::BTreeSet;

use bowline_core::app::{App, ResourceKind};
use bowline_core::fault::Fault;
use bowline_kube::history::{self, Release, State};
use bowline_kube::{Cluster, Owner, look};
use bowline_render::Api;
use serde_json::Value;

use super::Telling;

/// Groups by which an API is known to be there.
const GROUPS: [(Api, &str); 4] = [
    (Api::CertManager, "cert-manager.io"),
    (Api::CloudNativePg, OPERATOR),
    (Api::ExternalSecrets, "external-secrets.io"),
    (Api::Prometheus, "monitoring.coreos.com"),
];
const OPERATOR: &str = "postgresql.cnpg.io";
/// What a class of ingress-nginx says of itself, and one of Envoy Gateway.
const NGINX: &str = "k8s.io/ingress-nginx";
const ENVOY: &str = "gateway.envoyproxy.io/gatewayclass-controller";

/// `said`: what it is said to have.
pub(super) async fn found(
    cluster: &Cluster,
    owner: &Owner,
    (app, said): (&App, &[Api]),
    telling: &mut Telling<'_>,
) -> Result<BTreeSet<Api>, Fault> {
    let groups = cluster.groups().await;
    let groups =
        groups.map_err(|refusal| refusal.fault(format!("{} does not say what it serves", cluster.target())))?;
    let there = GROUPS.into_iter().filter(|(_, group)| groups.contains(*group)).map(|(api, _)| api);
    let mut apis: BTreeSet<Api> = there.chain(said.iter().copied()).collect();
    apis.extend(edge(cluster, app).await);
    let releases = cluster.releases(owner).await;
    let releases = releases.map_err(|refusal| refusal.fault(format!("the releases of {owner} cannot be read")))?;
    match holder(&releases) {
        Some(Holder::Operator) => drop(apis.insert(Api::CloudNativePg)),
        Some(Holder::Alone) if apis.remove(&Api::CloudNativePg) => telling.note(
            "its PostgreSQL stays the StatefulSet that holds its data: CloudNativePG would begin with an empty one"
                .to_owned(),
        ),
        Some(Holder::Alone) | None => {}
    }
    Ok(apis)
}

/// Who runs what the routes come in through.
async fn edge(cluster: &Cluster, app: &App) -> Option<Api> {
    const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1";
    const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
    let settings = app.environment.kubernetes.clone().unwrap_or_default();
    if let Some(gateway) = &settings.gateway {
        let (namespace, name) = gateway.split_once('/').unwrap_or((cluster.namespace(), gateway));
        let gateway = cluster.get(&format!("{ROUTES}/namespaces/{namespace}/gateways/{name}")).await.ok()?;
        let class = gateway["spec"]["gatewayClassName"].as_str()?;
        let class = cluster.get(&format!("{ROUTES}/gatewayclasses/{class}")).await.ok()?;
        return (class["spec"]["controllerName"] == ENVOY).then_some(Api::EnvoyGateway);
    }
    let classes = match &settings.ingress_class {
        Some(class) => vec![cluster.get(&format!("{CLASSES}/{class}")).await.ok()?],
        None => cluster.list(CLASSES, "").await.ok()?.into_iter().filter(is_default).collect(),
    };
    are_nginx(&classes).then_some(Api::IngressNginx)
}

fn is_default(class: &Value) -> bool {
    class["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true"
}

/// Of several defaults it is not known which one is taken.
fn are_nginx(classes: &[Value]) -> bool {
    !classes.is_empty() && classes.iter().all(|class| class["spec"]["controller"] == NGINX)
}

/// Who holds the data of an app's PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// CloudNativePG.
    Operator,
    /// A StatefulSet.
    Alone,
}

/// By what serves, else by the newest release that has one: data outlive what ran them.
fn holder(releases: &[Release]) -> Option<Holder> {
    let serving = history::serving(releases);
    let before = releases.iter().rev().filter(|release| release.state == State::Served);
    let others = releases.iter().rev().filter(|release| release.state != State::Served);
    let component = format!("{}-", ResourceKind::Postgres.as_str());
    let of = |body: &Value| match body["kind"].as_str()? {
        "StatefulSet" => look::component(body).starts_with(&component).then_some(Holder::Alone),
        "Cluster" => body["apiVersion"].as_str()?.starts_with(OPERATOR).then_some(Holder::Operator),
        _ => None,
    };
    serving.into_iter().chain(before).chain(others).flat_map(|release| &release.objects).find_map(|one| of(&one.body))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bowline_kube::{Object, Stage};
    use serde_json::json;

    use super::*;

    fn release(number: u32, state: State, bodies: Vec<Value>) -> Release {
        let objects = bodies.into_iter().map(|body| Object { stage: Stage::Data, body }).collect();
        let served = Some(u64::from(number));
        Release { number, at: 0, served, state, images: BTreeMap::new(), why: None, objects, beat: None }
    }

    fn set(component: &str) -> Value {
        let metadata = json!({ "name": "shop", "labels": { "app.kubernetes.io/component": component } });
        json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata })
    }

    #[test]
    fn a_database_stays_with_what_holds_its_data() {
        let (alone, cache) = (|| vec![set("redis-cache"), set("postgres-db")], || vec![set("redis-cache")]);
        let operated = || vec![json!({ "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster" })];
        let check = |releases: &[Release], expected: Option<Holder>| assert_eq!(holder(releases), expected);
        check(&[], None);
        check(&[release(1, State::Serves, cache())], None);
        check(&[release(1, State::Serves, alone())], Some(Holder::Alone));
        check(&[release(1, State::Serves, operated())], Some(Holder::Operator));
        check(&[release(1, State::Serves, alone()), release(2, State::Rejected, operated())], Some(Holder::Alone));
        // The one that serves has none any more, and its disk is there still.
        check(&[release(1, State::Served, alone()), release(2, State::Serves, cache())], Some(Holder::Alone));
        check(&[release(1, State::Rejected, alone())], Some(Holder::Alone));
    }

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
