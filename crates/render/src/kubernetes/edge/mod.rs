//! How requests come in: through a Gateway that somebody keeps, or through an ingress controller.

mod address;
mod gateway;
mod ingress;

use std::time::Duration;

use bowline_core::app::{Auth, HostName, KubernetesSettings, PlainHttp, Route, Tls};
use bowline_core::id::RouteName;
use bowline_core::units::Bytes;
use serde_json::json;

pub(crate) use address::refused as address_refused;
pub(crate) use ingress::{backend, expressions};

use super::{Ctx, SECRET_KEY, config};
use crate::input::{Api, Input};
use crate::names;
use crate::need::Needed;
use crate::object::{Out, Wave};

/// What requests come in through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edge {
    /// `envoy`: it is Envoy Gateway's, which has policies of its own.
    Gateway { namespace: Option<String>, name: String, envoy: bool },
    /// `nginx`: it is said to be ingress-nginx, which is told by annotations. Of another one nothing is known but the standard.
    Ingress { class: Option<String>, nginx: bool },
}

impl Edge {
    pub(crate) fn of(input: &Input<'_>) -> Self {
        let KubernetesSettings { ingress_class, gateway, .. } =
            input.app.environment.kubernetes.clone().unwrap_or_default();
        if let Some(gateway) = gateway {
            let (namespace, name) = match gateway.split_once('/') {
                Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
                None => (None, gateway),
            };
            return Self::Gateway { namespace, name, envoy: input.apis.contains(&Api::EnvoyGateway) };
        }
        // Not by the class: another controller of that name reads none of the annotations, and lets all through.
        Self::Ingress { class: ingress_class, nginx: input.apis.contains(&Api::IngressNginx) }
    }
}

pub(super) fn put(ctx: &Ctx<'_>, out: &mut Out) {
    let edge = Edge::of(ctx.input);
    let mut hosts = Vec::new();
    for (name, route) in &ctx.app.routes {
        if route.hosts.is_empty() {
            out.note(format!("route.{name} has no hosts in {}: nothing leads there", ctx.key.env));
            continue;
        }
        if let Some(auth) = &route.access.auth {
            credentials(ctx, name, auth, &edge, out);
        }
        let is_secure = route.tls != Tls::Off;
        hosts
            .extend(route.hosts.iter().filter(|host| is_secure && !hosts.contains(*host)).cloned().collect::<Vec<_>>());
        match &edge {
            Edge::Gateway { .. } => gateway::put(ctx, &edge, name, route, out),
            Edge::Ingress { class, nginx } => ingress::put(ctx, class.as_deref(), *nginx, name, route, out),
        }
    }
    certificates(ctx, &hosts, out);
    address::note(ctx, &edge, out);
    match &edge {
        Edge::Gateway { namespace, name, .. } => gateway::listeners(ctx, namespace.as_deref(), name, &hosts, out),
        Edge::Ingress { .. } => {}
    }
    let restricted = ctx.app.routes.values().any(|route| !route.hosts.is_empty() && !route.access.allow.is_empty());
    if restricted {
        out.note(
            "`allow` sees the address that the balancer tells: its Service must have `externalTrafficPolicy: Local`, or the proxy trust \
             the PROXY protocol or X-Forwarded-For of the balancer alone",
        );
    }
}

/// A certificate for each host, where somebody issues them; else the secrets must be there.
fn certificates(ctx: &Ctx<'_>, hosts: &[HostName], out: &mut Out) {
    let Some(issuer) = ctx.settings().issuer else {
        for host in hosts {
            out.need(certificate(host), "tls.crt", Needed::Certificate { host: host.clone() });
        }
        return;
    };
    let (kind, issuer) = match issuer.split_once('/') {
        Some((kind, issuer)) => (kind.to_owned(), issuer.to_owned()),
        None => ("ClusterIssuer".to_owned(), issuer),
    };
    for host in hosts {
        if host.is_wildcard() {
            out.note(format!("{host} is a wildcard: issuer {issuer} must prove it by DNS-01"));
        }
        let name = certificate(host);
        let body = json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": ctx.meta(name.clone(), "edge"),
            "spec": {
                "secretName": name,
                "dnsNames": [host.as_str()],
                "issuerRef": { "group": "cert-manager.io", "kind": kind, "name": issuer },
            },
        });
        out.put(Wave::Edge, &body);
    }
}

/// The secret with the certificate of a host, and the Certificate that fills it.
pub(crate) fn certificate(host: &HostName) -> String {
    names::join(&[&slug(host), "tls"], names::LABEL)
}

/// Two hosts have two: `a-b.com` is `a--b-com`.
fn slug(host: &HostName) -> String {
    host.as_str().replace('-', "--").replace('.', "-").replace('*', "wildcard")
}

/// What a route's secret must be, and under which name.
fn credentials(ctx: &Ctx<'_>, name: &RouteName, auth: &Auth, edge: &Edge, out: &mut Out) {
    let object = of_route(ctx, name, "auth");
    match auth {
        Auth::Header { name: _, secret } => config::need(ctx, secret, out),
        Auth::Bearer { secret } => out.need(object, SECRET_KEY, Needed::Bearer { of: secret.clone() }),
        Auth::Basic { secret } => {
            let key = match edge {
                Edge::Gateway { .. } => ".htpasswd",
                Edge::Ingress { .. } => "auth",
            };
            out.need(object, key, Needed::Users { of: secret.clone() });
        }
    }
}

fn of_route(ctx: &Ctx<'_>, name: &RouteName, what: &str) -> String {
    ctx.named(&[name.as_str(), what])
}

/// Whether requests over plain HTTP are sent on to HTTPS.
fn redirects(ctx: &Ctx<'_>, route: &Route) -> bool {
    let unsaid = match route.tls {
        Tls::Acme => true,
        Tls::Auto => ctx.settings().issuer.is_some(),
        Tls::Local | Tls::Off => false,
    };
    route.tls != Tls::Off && route.transfer.http.map_or(unsaid, |http| http == PlainHttp::Redirect)
}

/// Where a redirect leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url<'t> {
    pub(crate) scheme: &'t str,
    pub(crate) host: &'t str,
    pub(crate) port: Option<u16>,
    /// Without a `/` at its end.
    pub(crate) path: &'t str,
}

impl<'t> Url<'t> {
    /// `scheme://name[:port][/path]`; `None`: an address, or more than that.
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match place.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (place, None),
        };
        let is_name = HostName::new(host).is_ok_and(|host| is_named(&host) && !host.is_wildcard());
        let is_plain = !path.contains(['?', '#', '%', '$', '"', '\\']);
        (is_name && is_plain).then(|| Self { scheme, host, port, path: path.trim_end_matches('/') })
    }
}

/// A host that an object may name: no address, and letters, digits and `-` alone.
pub(crate) fn is_named(host: &HostName) -> bool {
    host.address().is_none() && !host.as_str().contains('_')
}

/// As the Gateway API writes times (GEP-2257): at most five digits before a unit.
fn time(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let parts = match seconds {
        ..=99_999 => vec![(seconds, "s")],
        _ => vec![(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")],
    };
    let shown = parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}"));
    let text: String = shown.chain((millis > 0).then(|| format!("{millis}ms"))).collect();
    if text.is_empty() { "1ms".to_owned() } else { text }
}

/// As nginx writes sizes, and Docker.
pub(crate) fn size(Bytes(count): Bytes) -> String {
    match count {
        count if count > 0 && count.is_multiple_of(1 << 20) => format!("{}m", count >> 20),
        count if count > 0 && count.is_multiple_of(1 << 10) => format!("{}k", count >> 10),
        count => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_names() {
        let check = |text: &str, expected: Option<(&str, Option<u16>, &str)>| {
            assert_eq!(Url::parse(text).map(|url| (url.host, url.port, url.path)), expected, "{text}");
        };
        check("https://example.com:8443/a", Some(("example.com", Some(8443), "/a")));
        check("https://example.com/", Some(("example.com", None, "")));
        check("https://[::1]/", None);
        check("https://10.0.0.1", None);
        check("https://example.com/a?b=c", None);
    }

    #[test]
    fn times_and_sizes_are_as_their_readers_write_them() {
        assert_eq!(time(Duration::from_secs(60)), "60s");
        assert_eq!(time(Duration::from_millis(1500)), "1s500ms");
        assert_eq!(time(Duration::from_secs(86_400 * 2 + 61)), "48h1m1s");
        assert_eq!(size(Bytes(100 << 20)), "100m");
        assert_eq!(size(Bytes(256 << 10)), "256k");
        assert_eq!(size(Bytes(1000)), "1000");
    }

    #[test]
    fn two_hosts_have_two_certificates() {
        let of = |host: &str| certificate(&HostName::new(host).unwrap());
        assert_eq!(of("board.example.com"), "board-example-com-tls");
        assert_eq!(of("*.example.com"), "wildcard-example-com-tls");
        assert_ne!(of("a-b.example.com"), of("a.b.example.com"));
    }
}
