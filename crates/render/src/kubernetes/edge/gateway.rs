//! HTTPRoutes of the Gateway API, and the policies of Envoy Gateway beside them.

use bowline_core::app::{Access, Auth, DEFAULT_BODY, HostName, RateBy, Route, RouteTo};
use bowline_core::id::RouteName;
use bowline_core::units::{Bytes, Rate};
use serde_json::{Value, json};

use super::{Edge, Url, certificate, of_route, redirects, time};
use crate::kubernetes::Ctx;
use crate::object::{Out, Wave};

const GROUP: &str = "gateway.networking.k8s.io";
const ROUTES: &str = "gateway.networking.k8s.io/v1";
const POLICIES: &str = "gateway.envoyproxy.io/v1alpha1";

/// What the Gateway's listeners are to be called.
const PLAIN: &str = "http";
const SECURE: &str = "https";

pub(super) fn put(ctx: &Ctx<'_>, edge: &Edge, name: &RouteName, route: &Route, out: &mut Out) {
    let Edge::Gateway { namespace, name: gateway, envoy } = edge else { return };
    let object = ctx.named(&[name.as_str()]);
    let parent = |section: Option<&str>| {
        let mut parent = json!({ "name": gateway });
        namespace.iter().for_each(|namespace| parent["namespace"] = json!(namespace));
        section.iter().for_each(|section| parent["sectionName"] = json!(section));
        parent
    };
    let redirects = redirects(ctx, route);
    let section = match route.tls {
        bowline_core::app::Tls::Off => Some(PLAIN),
        bowline_core::app::Tls::Auto | bowline_core::app::Tls::Acme | bowline_core::app::Tls::Local => {
            redirects.then_some(SECURE)
        }
    };
    let rule = rule(ctx, name, route, out);
    put_route(ctx, object.clone(), &route.hosts, &parent(section), rule, out);
    if redirects {
        let filter = json!({ "type": "RequestRedirect", "requestRedirect": { "scheme": "https", "statusCode": 308 } });
        let rule = json!({ "matches": [matches(route)], "filters": [filter] });
        put_route(ctx, of_route(ctx, name, "plain"), &route.hosts, &parent(Some(PLAIN)), rule, out);
    }
    if *envoy {
        policies(ctx, name, &object, route, out);
    }
}

fn put_route(ctx: &Ctx<'_>, object: String, hosts: &[HostName], parent: &Value, rule: Value, out: &mut Out) {
    let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    let body = json!({
        "apiVersion": ROUTES,
        "kind": "HTTPRoute",
        "metadata": ctx.meta(object, "edge"),
        "spec": { "parentRefs": [parent], "hostnames": hosts, "rules": [rule] },
    });
    out.put(Wave::Edge, &body);
}

fn matches(route: &Route) -> Value {
    json!({ "path": { "type": "PathPrefix", "value": route.path.as_str() } })
}

fn rule(ctx: &Ctx<'_>, name: &RouteName, route: &Route, out: &mut Out) -> Value {
    let mut rule = json!({ "matches": [matches(route)] });
    let mut filters = Vec::new();
    match &route.to {
        RouteTo::Service(service) => {
            rule["backendRefs"] = json!([{ "name": ctx.named(&[service.as_str()]), "port": 80 }]);
            rule["timeouts"] = json!({ "request": time(route.limit.timeout) });
            out.note(format!(
                "route.{name}: a Gateway counts `timeout`, {}, until the end of an answer; Bowline's own edge until it begins",
                time(route.limit.timeout)
            ));
            if route.strip {
                let rewrite = json!({ "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } });
                filters.push(json!({ "type": "URLRewrite", "urlRewrite": rewrite }));
            }
        }
        RouteTo::Redirect(url) => filters.extend(Url::parse(url).map(|url| redirect(&url, route))),
        RouteTo::Deny => {
            let object = of_route(ctx, name, "deny");
            let body = json!({
                "apiVersion": POLICIES,
                "kind": "HTTPRouteFilter",
                "metadata": ctx.meta(object.clone(), "edge"),
                "spec": { "directResponse": { "statusCode": 403 } },
            });
            out.put(Wave::Config, &body);
            let reference = json!({ "group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": object });
            filters.push(json!({ "type": "ExtensionRef", "extensionRef": reference }));
        }
    }
    if let Some(hsts) = route.transfer.hsts {
        let set = json!([{ "name": "Strict-Transport-Security", "value": hsts.to_string() }]);
        filters.push(json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": set } }));
    }
    if !filters.is_empty() {
        rule["filters"] = json!(filters);
    }
    rule
}

/// The whole path is appended to that of the URL.
fn redirect(url: &Url<'_>, route: &Route) -> Value {
    let path = format!("{}{}", url.path, route.path.as_str().trim_end_matches('/'));
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let mut to = json!({
        "scheme": url.scheme,
        "hostname": url.host,
        "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": path },
        "statusCode": 308,
    });
    url.port.iter().for_each(|port| to["port"] = json!(port));
    json!({ "type": "RequestRedirect", "requestRedirect": to })
}

fn policies(ctx: &Ctx<'_>, name: &RouteName, object: &str, route: &Route, out: &mut Out) {
    let target = json!([{ "group": GROUP, "kind": "HTTPRoute", "name": object }]);
    let mut put = |kind: &str, spec: Value| {
        let mut spec = spec;
        if spec.as_object().is_some_and(|spec| spec.is_empty()) {
            return;
        }
        spec["targetRefs"] = target.clone();
        let metadata = ctx.meta(object.to_owned(), "edge");
        // There before the route that it guards, and gone after it.
        out.put(Wave::Config, &json!({ "apiVersion": POLICIES, "kind": kind, "metadata": metadata, "spec": spec }));
    };
    put("SecurityPolicy", security(ctx, name, &route.access));
    put("BackendTrafficPolicy", traffic(route));
    if route.limit.rate.is_some() {
        out.note(format!("route.{name}: each proxy of the Gateway counts its `limit.rate` for itself"));
    }
    if route.limit.body.0 == DEFAULT_BODY && matches!(route.to, RouteTo::Service(_)) {
        out.note(format!(
            "route.{name}: bodies are bounded only where `limit.body` says so, since Envoy Gateway holds them in memory until they are whole"
        ));
    }
}

fn security(ctx: &Ctx<'_>, name: &RouteName, access: &Access) -> Value {
    let mut spec = json!({});
    if !access.allow.is_empty() {
        let networks: Vec<String> = access.allow.iter().map(ToString::to_string).collect();
        let rule = json!({ "name": "allow", "action": "Allow", "principal": { "clientCIDRs": networks } });
        spec["authorization"] = json!({ "defaultAction": "Deny", "rules": [rule] });
    }
    let key = |secret: String, header: &str| {
        json!({
            "credentialRefs": [{ "group": "", "kind": "Secret", "name": secret }],
            "extractFrom": [{ "headers": [header] }],
        })
    };
    match &access.auth {
        None => {}
        Some(Auth::Header { name, secret }) => spec["apiKeyAuth"] = key(ctx.secret(secret), name),
        Some(Auth::Bearer { .. }) => spec["apiKeyAuth"] = key(of_route(ctx, name, "auth"), "authorization"),
        Some(Auth::Basic { .. }) => {
            spec["basicAuth"] = json!({ "users": { "name": of_route(ctx, name, "auth") } });
        }
    }
    spec
}

fn traffic(route: &Route) -> Value {
    let mut spec = json!({});
    if route.transfer.compress {
        spec["compression"] = json!([{ "type": "Gzip" }]);
    }
    if let Some(rate) = route.limit.rate {
        let mut rule = json!({ "limit": { "requests": rate.count, "unit": unit(rate) } });
        match route.limit.by {
            RateBy::Client => {
                let of = |network: &str| json!({ "sourceCIDR": { "type": "Distinct", "value": network } });
                rule["clientSelectors"] = json!([of("0.0.0.0/0")]);
                let mut other = rule.clone();
                other["clientSelectors"] = json!([of("::/0")]);
                spec["rateLimit"] = json!({ "type": "Local", "local": { "rules": [rule, other] } });
            }
            RateBy::Route => spec["rateLimit"] = json!({ "type": "Local", "local": { "rules": [rule] } }),
        }
    }
    if route.limit.body.0 != DEFAULT_BODY {
        let Bytes(most) = route.limit.body.0;
        spec["requestBuffer"] = json!({ "limit": quantity(most) });
    }
    spec
}

fn quantity(bytes: u64) -> String {
    Bytes(bytes).to_string().trim_end_matches('B').to_owned()
}

fn unit(rate: Rate) -> &'static str {
    match rate.per.as_secs() {
        1 => "Second",
        60 => "Minute",
        3600 => "Hour",
        _ => "Day",
    }
}

/// What whoever keeps the Gateway must have there, and what lets it read the certificates.
pub(super) fn listeners(ctx: &Ctx<'_>, namespace: Option<&str>, name: &str, secure: &[HostName], out: &mut Out) {
    if ctx.app.routes.values().all(|route| route.hosts.is_empty()) {
        return;
    }
    let secrets: Vec<String> = secure.iter().map(certificate).collect();
    let with = match secrets.is_empty() {
        true => String::new(),
        false => format!(", and `{SECURE}` with certificateRefs to {} of this namespace", secrets.join(", ")),
    };
    out.note(format!("Gateway {name} must have a listener `{PLAIN}`{with}, which let routes of this namespace in"));
    let Some(namespace) = namespace.filter(|_| !secrets.is_empty()) else { return };
    let to: Vec<Value> = secrets.iter().map(|name| json!({ "group": "", "kind": "Secret", "name": name })).collect();
    let body = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": ctx.meta(ctx.named(&["certificates"]), "edge"),
        "spec": { "from": [{ "group": GROUP, "kind": "Gateway", "namespace": namespace }], "to": to },
    });
    out.put(Wave::Edge, &body);
}
