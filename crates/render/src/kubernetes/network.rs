//! Who may speak to whom. Nobody may who is not named here.

use bowline_core::app::{Limit, Route, RouteTo};
use bowline_core::id::ServiceName;
use bowline_core::resource::ResourceId;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Ctx, HTTP, database, matching};
use crate::object::{Out, Wave};

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    let closed = NetworkPolicySpec {
        pod_selector: Some(matching(ctx.all_pods())),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ..NetworkPolicySpec::default()
    };
    put_policy(ctx, ctx.named(&[]), "network", closed, out);
    for name in ctx.app.services.keys().filter(|name| ctx.listens(name)) {
        service(ctx, name, out);
    }
    for id in database::managed(ctx) {
        server(ctx, &id, out);
    }
    passed(ctx, out);
}

/// What the edge asks of requests, it asks of those that come through it. Where its proxies run is not known here, and a rule that missed them would
/// cut the app off: so the port of a service with a route is open, and that is said.
fn passed(ctx: &Ctx<'_>, out: &mut Out) {
    let routes = ctx.app.routes.iter().filter(|(_, route)| !route.hosts.is_empty());
    let guarded: Vec<String> = routes
        .filter_map(|(name, route)| {
            let keys: Vec<String> = guards(route).into_iter().map(|key| format!("`{key}`")).collect();
            (!keys.is_empty()).then(|| format!("{} of route.{name}", keys.join(", ")))
        })
        .collect();
    if guarded.is_empty() {
        return;
    }
    let open = ctx.app.services.keys().filter(|name| ctx.listens(name) && is_open(ctx, name));
    let policies: Vec<String> = open.map(|name| format!("NetworkPolicy/{}", ctx.named(&[name.as_str()]))).collect();
    if policies.is_empty() {
        return;
    }
    out.note(format!(
        "the edge alone minds {}: pods of the cluster that ask a service by its own name pass it, since {} lets them in, as it is not known here where \
         the edge's proxies run; where others share the cluster, name as `from` there who may (the proxies, the app, who scrapes), or with `deploy`, \
         which sets that field, admit them alone by a policy of the whole cluster",
        guarded.join("; "),
        policies.join(", "),
    ));
}

/// The keys of a route that keep requests away.
fn guards(route: &Route) -> Vec<&'static str> {
    let limit = Limit::default();
    let all = [
        ("allow", !route.access.allow.is_empty()),
        ("auth", route.access.auth.is_some()),
        ("deny", matches!(route.to, RouteTo::Deny)),
        ("limit", route.limit.rate.is_some() || route.limit.body != limit.body),
    ];
    all.into_iter().filter(|(_, keeps)| *keeps).map(|(key, _)| key).collect()
}

/// Whether requests or scrapes come to it from outside the app.
fn is_open(ctx: &Ctx<'_>, name: &ServiceName) -> bool {
    ctx.routed.contains(name) || ctx.app.services.get(name).is_some_and(|service| service.metrics.is_some())
}

/// Its port is open to all where it is to be, else to the app.
fn service(ctx: &Ctx<'_>, name: &ServiceName, out: &mut Out) {
    let rule = NetworkPolicyIngressRule {
        from: (!is_open(ctx, name)).then(|| vec![peer(ctx)]),
        ports: Some(vec![port(IntOrString::String(HTTP.to_owned()), "TCP")]),
    };
    let spec = NetworkPolicySpec {
        pod_selector: Some(matching(ctx.selector(name.as_str()))),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(vec![rule]),
        egress: None,
    };
    put_policy(ctx, ctx.named(&[name.as_str()]), name.as_str(), spec, out);
}

/// Only the app comes in, and nothing goes out but questions to DNS.
fn server(ctx: &Ctx<'_>, id: &ResourceId, out: &mut Out) {
    let (object, component) = (database::object(ctx, id), database::component(id));
    let own_port = || port(IntOrString::Int(database::port(id.kind)), "TCP");
    let app = NetworkPolicyIngressRule { from: Some(vec![peer(ctx)]), ports: Some(vec![own_port()]) };
    let spec = if database::is_operated(ctx, id) {
        let pods = LabelSelector {
            match_labels: Some([("cnpg.io/cluster".to_owned(), object.clone())].into()),
            ..LabelSelector::default()
        };
        let itself = NetworkPolicyPeer { pod_selector: Some(pods.clone()), ..NetworkPolicyPeer::default() };
        let operator = LabelSelector {
            match_labels: Some([("app.kubernetes.io/name".to_owned(), "cloudnative-pg".to_owned())].into()),
            ..LabelSelector::default()
        };
        let operator = NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            pod_selector: Some(operator),
            ip_block: None,
        };
        let others = NetworkPolicyIngressRule {
            from: Some(vec![itself, operator]),
            ports: Some(vec![own_port(), port(IntOrString::Int(8000), "TCP")]),
        };
        NetworkPolicySpec {
            pod_selector: Some(pods),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![app, others]),
            // Its instances speak to the API server.
            egress: None,
        }
    } else {
        let dns = NetworkPolicyEgressRule {
            to: None,
            ports: Some(["UDP", "TCP"].map(|protocol| port(IntOrString::Int(53), protocol)).into()),
        };
        NetworkPolicySpec {
            pod_selector: Some(matching(ctx.selector(&component))),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![app]),
            egress: Some(vec![dns]),
        }
    };
    put_policy(ctx, object, &component, spec, out);
}

/// Any pod of the app.
fn peer(ctx: &Ctx<'_>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(matching(ctx.all_pods())), ..NetworkPolicyPeer::default() }
}

fn port(port: IntOrString, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(port), protocol: Some(protocol.to_owned()), end_port: None }
}

fn put_policy(ctx: &Ctx<'_>, name: String, component: &str, spec: NetworkPolicySpec, out: &mut Out) {
    out.put(Wave::Config, &NetworkPolicy { metadata: ctx.meta(name, component), spec: Some(spec) });
}
