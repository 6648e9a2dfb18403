//! Ingresses, and what ingress-nginx reads beside them.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::{Auth, HostName, Protocol, RateBy, Route, RouteTo, Tls};
use bowline_core::id::{RouteName, ServiceName};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{address, certificate, of_route, redirects, size};
use crate::kubernetes::{Ctx, HTTP, probe};
use crate::object::{Out, Wave};

const PREFIX: &str = "nginx.ingress.kubernetes.io";

pub(super) fn put(ctx: &Ctx<'_>, class: Option<&str>, nginx: bool, name: &RouteName, route: &Route, out: &mut Out) {
    // A route that leads to no service is answered before one is asked, and must name one all the same.
    let Some(service) = backend(ctx, route) else { return };
    let is_expression = nginx && expressions(ctx).contains(name);
    let mut annotations = if nginx { annotations(ctx, name, route, is_expression, out) } else { BTreeMap::new() };
    let of_gke = address::of_gke(class, nginx, ctx.settings().address.as_deref());
    let by_field = class.filter(|_| of_gke.is_none());
    annotations.extend(of_gke.into_iter().flatten().map(|(key, value)| (key.to_owned(), value)));
    let rules = route.hosts.iter().map(|host| rule(ctx, host, route, is_expression, &service)).collect();
    let tls =
        |host: &HostName| IngressTLS { hosts: Some(vec![host.to_string()]), secret_name: Some(certificate(host)) };
    let spec = IngressSpec {
        ingress_class_name: by_field.map(str::to_owned),
        tls: (route.tls != Tls::Off).then(|| route.hosts.iter().map(tls).collect()),
        rules: Some(rules),
        default_backend: None,
    };
    let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    let metadata = ObjectMeta { annotations, ..ctx.meta(ctx.named(&[name.as_str()]), "edge") };
    out.put(Wave::Edge, &Ingress { metadata, spec: Some(spec), status: None });
    if class.is_none() {
        out.note("no `ingress_class` and no `gateway` is said: the cluster's default ingress class serves the routes");
    }
    if !nginx {
        out.note(
            "limits of bodies and times are those of the cluster's ingress controller: `--api ingress-nginx` or `kubernetes.gateway` has \
             those of the file",
        );
    }
}

/// The service that is named in a rule.
pub(crate) fn backend(ctx: &Ctx<'_>, route: &Route) -> Option<ServiceName> {
    match &route.to {
        RouteTo::Service(service) => Some(service.clone()),
        RouteTo::Redirect(_) | RouteTo::Deny => ctx.app.services.keys().find(|name| ctx.listens(name)).cloned(),
    }
}

fn rule(ctx: &Ctx<'_>, host: &HostName, route: &Route, is_expression: bool, service: &ServiceName) -> IngressRule {
    let (path_type, path) = match is_expression {
        true => ("ImplementationSpecific", format!("{}(/|$)(.*)", escaped(route.path.as_str()))),
        false => ("Prefix", route.path.to_string()),
    };
    let port = ServiceBackendPort { name: Some(HTTP.to_owned()), number: None };
    let backend = IngressServiceBackend { name: ctx.named(&[service.as_str()]), port: Some(port) };
    let path = HTTPIngressPath {
        path: Some(path),
        path_type: path_type.to_owned(),
        backend: IngressBackend { service: Some(backend), resource: None },
    };
    IngressRule { host: Some(host.to_string()), http: Some(HTTPIngressRuleValue { paths: vec![path] }) }
}

fn strips(route: &Route) -> bool {
    route.strip && route.path.as_str() != "/"
}

/// ingress-nginx takes what is cut off, and a prefix of anything but letters, digits, `-` and `_`, as a regular expression alone.
fn must_be_expression(route: &Route) -> bool {
    strips(route) || !route.path.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "/-_".contains(c))
}

/// Routes whose paths are written as regular expressions: those that must be, and all that have a host in common with one of these.
///
/// Of a host with one such path ingress-nginx takes every path for an expression. A plain `/pub` would be `^/pub` there and have `/public`, too,
/// past what guards that. What is said of an Ingress holds for all of its hosts, so these are followed from one to the next. All lies at or below `/`: that stays.
pub(crate) fn expressions<'a>(ctx: &Ctx<'a>) -> BTreeSet<&'a RouteName> {
    let routes = || ctx.app.routes.iter().filter(|(_, route)| route.path.as_str() != "/");
    let mut found: BTreeSet<&RouteName> = routes()
        .filter(|(_, route)| !route.hosts.is_empty() && must_be_expression(route))
        .map(|(name, _)| name)
        .collect();
    loop {
        let hosts: BTreeSet<&HostName> =
            routes().filter(|(name, _)| found.contains(name)).flat_map(|(_, route)| &route.hosts).collect();
        let shares = |route: &Route| route.hosts.iter().any(|host| hosts.contains(host));
        let more: BTreeSet<&RouteName> = routes().filter(|(_, route)| shares(route)).map(|(name, _)| name).collect();
        if more == found {
            return found;
        }
        found = more;
    }
}

/// In a regular expression.
fn escaped(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_~".contains(c);
    path.chars().flat_map(|c| (!plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

fn annotations(
    ctx: &Ctx<'_>,
    name: &RouteName,
    route: &Route,
    is_expression: bool,
    out: &mut Out,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut say = |key: &str, value: String| _ = all.insert(format!("{PREFIX}/{key}"), value);
    match &route.to {
        RouteTo::Service(service) => {
            let protocol = ctx.app.services.get(service).map(|service| service.protocol).unwrap_or_default();
            if protocol == Protocol::H2c {
                say("backend-protocol", "GRPC".to_owned());
            }
            let timeout = probe::seconds(route.limit.timeout).to_string();
            say("proxy-body-size", size(route.limit.body.0));
            say("proxy-read-timeout", timeout.clone());
            say("proxy-send-timeout", timeout);
            // Bodies stream to the app as they come, as with Bowline's own edge.
            say("proxy-request-buffering", "off".to_owned());
        }
        // Refused by its key.
        RouteTo::Redirect(_) => {}
        RouteTo::Deny => say("denylist-source-range", "0.0.0.0/0,::/0".to_owned()),
    }
    if is_expression {
        say("use-regex", "true".to_owned());
    }
    if strips(route) {
        say("rewrite-target", "/$2".to_owned());
    }
    if route.tls != Tls::Off {
        say("ssl-redirect", redirects(ctx, route).to_string());
    }
    if !route.access.allow.is_empty() {
        let networks: Vec<String> = route.access.allow.iter().map(ToString::to_string).collect();
        say("allowlist-source-range", networks.join(","));
    }
    match &route.access.auth {
        Some(Auth::Basic { .. }) => {
            say("auth-type", "basic".to_owned());
            say("auth-secret", of_route(ctx, name, "auth"));
            say("auth-realm", ctx.key.app.to_string());
        }
        // Refused by its key.
        Some(Auth::Header { .. } | Auth::Bearer { .. }) | None => {}
    }
    if let (Some(rate), RateBy::Client) = (route.limit.rate, route.limit.by) {
        let key = if rate.per.as_secs() == 1 { "limit-rps" } else { "limit-rpm" };
        say(key, rate.count.to_string());
        say("limit-burst-multiplier", "1".to_owned());
        out.note(format!(
            "route.{name}: each proxy of ingress-nginx counts its `limit.rate` for itself, and answers 503 unless its `limit-req-status-code` is 429"
        ));
    }
    all
}
