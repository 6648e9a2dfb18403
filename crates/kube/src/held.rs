//! What of an app stays as it is, whatever the cluster is found to have now: data have one holder, and what routes come in through is not
//! forgotten where nobody may look at it.

use serde_json::Value;

use crate::history::{self, Release, State};
use crate::look;
use crate::object::Object;
use crate::refusal::Refusal;

const OPERATOR: &str = "postgresql.cnpg.io/";
const ENVOY: &str = "gateway.envoyproxy.io/";
const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// Who holds the data of an app's PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// CloudNativePG.
    Operator,
    /// A StatefulSet.
    Alone,
}

impl Holder {
    /// By an object that it would have, or has.
    pub fn of(body: &Value) -> Option<Self> {
        let is_server = || look::component(body).starts_with("postgres-");
        match body["kind"].as_str()? {
            "StatefulSet" | "PersistentVolumeClaim" => is_server().then_some(Self::Alone),
            "Cluster" => body["apiVersion"].as_str()?.starts_with(OPERATOR).then_some(Self::Operator),
            _ => None,
        }
    }
}

/// By what serves, else by the newest release that has one: data outlive what ran them. `None`: no record speaks.
pub fn holder(releases: &[Release]) -> Option<Holder> {
    let serving = history::serving(releases);
    let before = releases.iter().rev().filter(|release| release.state == State::Served);
    let others = releases.iter().rev().filter(|release| release.state != State::Served);
    let all = serving.into_iter().chain(before).chain(others).flat_map(|release| &release.objects);
    all.map(|object| &object.body).find_map(Holder::of)
}

/// What routes come in through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge<'a> {
    /// `NAME`, `NAMESPACE/NAME`
    Gateway(&'a str),
    /// `None`: the default of the cluster.
    Class(Option<&'a str>),
}

/// Whether the known controller runs this: as it is seen, and where nobody may look, as what serves was told. What is not there is run by
/// nobody.
///
/// # Errors
/// The server could not just then, which says nothing of it.
pub fn is_run(seen: Result<bool, Refusal>, edge: Edge<'_>, releases: &[Release]) -> Result<bool, Refusal> {
    match seen {
        Err(refusal) if refusal.is_absent() => Ok(false),
        Err(refusal) if refusal.is_forbidden() => Ok(is_known(edge, releases)),
        seen => seen,
    }
}

/// Whether what serves comes in through this, and says to it what the controller understands that is known: ingress-nginx, or Envoy
/// Gateway.
fn is_known(edge: Edge<'_>, releases: &[Release]) -> bool {
    let objects: &[Object] = history::serving(releases).map_or(&[], |release| &release.objects);
    let all = |kind: &'static str| objects.iter().map(|object| &object.body).filter(move |body| body["kind"] == kind);
    match edge {
        Edge::Class(class) => all("Ingress").any(|body| {
            let annotations = body["metadata"]["annotations"].as_object();
            let is_said = annotations.is_some_and(|said| said.keys().any(|key| key.starts_with(NGINX)));
            is_said && body["spec"]["ingressClassName"].as_str() == class
        }),
        Edge::Gateway(gateway) => {
            let (namespace, name) = gateway.split_once('/').map_or((None, gateway), |(one, two)| (Some(one), two));
            let is_it = |body: &Value| {
                let parent = &body["spec"]["parentRefs"][0];
                parent["name"] == name && parent["namespace"].as_str() == namespace
            };
            let is_told =
                |object: &Object| object.body["apiVersion"].as_str().is_some_and(|api| api.starts_with(ENVOY));
            all("HTTPRoute").any(is_it) && objects.iter().any(is_told)
        }
    }
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;
    use crate::object::Stage;

    fn release(number: u32, state: State, bodies: Vec<Value>) -> Release {
        let objects = bodies.into_iter().map(|body| Object { stage: Stage::Data, body }).collect();
        Release { state, served: Some(u64::from(number)), ..Release::begun(number, 0, objects) }
    }

    fn of(kind: &str, component: &str) -> Value {
        let metadata = json!({ "name": "shop", "labels": { "app.kubernetes.io/component": component } });
        json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": metadata })
    }

    #[test]
    fn a_database_stays_with_what_holds_its_data() {
        let cache = || vec![of("StatefulSet", "redis-cache"), of("PersistentVolumeClaim", "volume-files")];
        let alone = || [cache(), vec![of("StatefulSet", "postgres-db")]].concat();
        let operated = || vec![json!({ "apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster" })];
        let check = |releases: &[Release], expected: Option<Holder>| assert_eq!(holder(releases), expected);
        check(&[], None);
        check(&[release(1, State::Serves, cache())], None);
        check(&[release(1, State::Serves, alone())], Some(Holder::Alone));
        check(&[release(1, State::Serves, vec![of("PersistentVolumeClaim", "postgres-db")])], Some(Holder::Alone));
        check(&[release(1, State::Serves, operated())], Some(Holder::Operator));
        check(&[release(1, State::Serves, alone()), release(2, State::Rejected, operated())], Some(Holder::Alone));
        // The one that serves has none any more, and its disk is there still.
        check(&[release(1, State::Served, alone()), release(2, State::Serves, cache())], Some(Holder::Alone));
        check(&[release(1, State::Rejected, alone())], Some(Holder::Alone));
    }

    #[test]
    fn what_serves_says_what_its_controller_understands() {
        let ingress = |class: Option<&str>, annotation: &str| {
            let metadata = json!({ "name": "shop-main", "annotations": { annotation: "1m" } });
            json!({ "kind": "Ingress", "metadata": metadata, "spec": { "ingressClassName": class } })
        };
        let nginx = |class| ingress(class, "nginx.ingress.kubernetes.io/proxy-body-size");
        let route = |parent: Value| json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": { "parentRefs": [parent] } });
        let policy = || json!({ "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "BackendTrafficPolicy" });
        let check = |bodies: Vec<Value>, edge: Edge<'_>, expected: bool| {
            let serves = release(1, State::Serves, bodies.clone());
            assert_eq!(is_known(edge, &[serves]), expected, "{bodies:?}");
            assert!(!is_known(edge, &[release(1, State::Served, bodies)]));
        };
        check(vec![nginx(Some("public"))], Edge::Class(Some("public")), true);
        check(vec![nginx(None)], Edge::Class(None), true);
        check(vec![nginx(Some("public"))], Edge::Class(Some("other")), false);
        check(vec![ingress(Some("public"), "cert-manager.io/issuer")], Edge::Class(Some("public")), false);
        let within = json!({ "name": "public", "namespace": "infra" });
        check(vec![route(within.clone()), policy()], Edge::Gateway("infra/public"), true);
        check(vec![route(within.clone()), policy()], Edge::Gateway("public"), false);
        check(vec![route(json!({ "name": "public" })), policy()], Edge::Gateway("public"), true);
        check(vec![route(within)], Edge::Gateway("infra/public"), false);
        check(vec![nginx(None)], Edge::Gateway("infra/public"), false);
    }

    #[test]
    fn a_server_that_cannot_just_then_changes_nothing_of_what_is_told() {
        let annotations = json!({ "nginx.ingress.kubernetes.io/proxy-body-size": "1m" });
        let ingress = json!({ "kind": "Ingress", "metadata": { "name": "shop-main", "annotations": annotations } });
        let serves = [release(1, State::Serves, vec![ingress])];
        let check = |code: u16, releases: &[Release], expected: Option<bool>| {
            let status = serde_json::from_value(json!({ "code": code })).unwrap();
            let refusal = Refusal::Status(Box::new(status));
            assert_eq!(is_run(Err(refusal), Edge::Class(None), releases).ok(), expected, "{code}");
        };
        check(503, &serves, None);
        check(429, &serves, None);
        check(404, &serves, Some(false));
        check(403, &serves, Some(true));
        check(403, &[], Some(false));
        let slow = Refusal::Slow(std::time::Duration::from_secs(30));
        assert!(is_run(Err(slow), Edge::Class(None), &serves).is_err());
        assert!(matches!(is_run(Ok(false), Edge::Class(None), &serves), Ok(false)), "it is seen to be another's");
    }
}
