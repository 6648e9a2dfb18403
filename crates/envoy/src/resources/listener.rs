//! Listeners: one for plain HTTP, one for HTTPS with a filter chain for each name that has a certificate.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bowline_core::app::HostName;
use bowline_core::route::{CHALLENGE_PATH, Certificate, Challenge, SiteTls, Table};
use serde_json::{Value, json};

use super::route::{self, Over};
use super::{Input, Resources, access, address, any, cluster, header, policy, replies};

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

/// A handshake that proves a name (RFC 8737).
const ACME: &str = "acme-tls/1";

/// The listener of plain HTTP, and its routes.
const HTTP: &str = "http";
pub(crate) const HTTPS: &str = "https";

/// What a client may take, as the embedded edge has it.
const HEAD_TIME: &str = "10s";
const IDLE: &str = "60s";
const HANDSHAKE: &str = "10s";
const HEAD_KIB: u32 = 32;
const HEADERS: u32 = 100;
const STREAMS: u32 = 100;

/// What is held of a connection before its other side is waited for; Envoy's own bound is 1 MiB. As much of a body is told to the upload filter
/// at once.
const BUFFER: u32 = 256 << 10;

/// The same of all streams of a connection of HTTP/2; Envoy's own bound is 24 MiB.
const CONNECTION_WINDOW: u32 = 1 << 20;

pub(super) fn all(input: Input<'_>, all: &mut Resources) {
    plain(input, all);
    if let Some(https) = input.listen.https {
        let chains = secure(input, all);
        // Without a name there is nothing to answer a handshake with, and Envoy takes no listener without a chain.
        if !chains.is_empty() {
            let listener = json!({
                "name": HTTPS,
                "address": address(https),
                "listener_filters": [{ "name": "tls", "typed_config": any(INSPECTOR, json!({})) }],
                "listener_filters_timeout": HANDSHAKE,
                "filter_chains": chains,
                "enable_reuse_port": false,
                "per_connection_buffer_limit_bytes": BUFFER,
            });
            all.listeners.insert(HTTPS.to_owned(), listener);
        }
    }
}

fn has_certificate(input: Input<'_>, host: &HostName) -> bool {
    input.desired.certificates.contains_key(host)
}

fn plain(input: Input<'_>, all: &mut Resources) {
    let table = &input.desired.table;
    let https = input.listen.https.map(|address| address.port());
    let over = Over::Plain { https };
    let mut hosts: BTreeMap<&HostName, Vec<Value>> = BTreeMap::new();
    for (host, challenge) in &table.challenges {
        if let Challenge::Http { token, answer } = challenge {
            hosts.entry(host).or_default().push(proof(token, answer));
        }
    }
    for (host, site) in &table.sites {
        hosts.entry(host).or_default().extend(route::of_rules(&site.rules, input, over, has_certificate(input, host)));
    }
    let api = table.api.as_ref().map(|api| &api.host);
    let of = |(host, mut routes): (&HostName, Vec<Value>)| {
        // A host that is only asked whether it leads here.
        if !table.sites.contains_key(host) {
            routes.push(unknown());
        }
        route::host(host.as_str(), host.as_str(), routes)
    };
    let mut configured: Vec<Value> = hosts.into_iter().filter(|(host, _)| Some(*host) != api).map(of).collect();
    configured.extend(api.map(|host| route::to_api(host, over)));
    configured.push(route::host("*", "*", vec![if table.generation.0 == 0 { starting() } else { unknown() }]));
    all.routes.insert(HTTP.to_owned(), route::configuration(HTTP, configured));
    let listener = json!({
        "name": HTTP,
        "address": address(input.listen.http),
        "filter_chains": [{ "filters": [manager(HTTP, HTTP, input)] }],
        // One socket for all workers: closing one of several would lose its queue.
        "enable_reuse_port": false,
        "per_connection_buffer_limit_bytes": BUFFER,
    });
    all.listeners.insert(HTTP.to_owned(), listener);
}

fn unknown() -> Value {
    route::unknown_host(&json!({ "prefix": "/" }))
}

fn starting() -> Value {
    let sentence = "The edge is up, but was not told yet what to serve. Try again in a moment.";
    route::answer(&json!({ "prefix": "/" }), "starting", 503, sentence)
}

/// What an authority is answered that asks whether a name leads here (RFC 8555, 8.3).
fn proof(token: &str, answer: &str) -> Value {
    json!({
        "name": "bowline/challenge",
        "match": { "path": format!("{CHALLENGE_PATH}{token}") },
        "direct_response": { "status": 200, "body": { "inline_string": answer } },
        "response_headers_to_add": [header("content-type", "application/octet-stream"), header("cache-control", "no-store")],
    })
}

/// The filter chains of HTTPS, with the routes and the certificates that they name.
fn secure(input: Input<'_>, all: &mut Resources) -> Vec<Value> {
    let table = &input.desired.table;
    let ranges = ranges(input.desired.certificates.keys());
    let mut chains = Vec::new();
    for (host, certificate) in input.desired.certificates.iter() {
        let Some(own) = own(table, host, input) else { continue };
        let (name, secret) = (format!("{HTTPS}/{host}"), host.to_string());
        all.secrets.insert(secret.clone(), secret_of(&secret, certificate));
        let misdirected = route::answer(
            &json!({ "prefix": "/" }),
            "misdirected",
            421,
            "This connection was opened for another host name.",
        );
        let hosts = vec![own, route::host("*", "*", vec![misdirected])];
        all.routes.insert(name.clone(), route::configuration(&name, hosts));
        chains.push(json!({
            "name": name,
            "filter_chain_match": names(host, &ranges),
            "transport_socket": tls(&secret, &["h2", "http/1.1"]),
            "transport_socket_connect_timeout": HANDSHAKE,
            "filters": [manager(HTTPS, &name, input)],
        }));
    }
    for (host, challenge) in &table.challenges {
        if let Challenge::Tls(certificate) = challenge {
            let secret = format!("acme/{host}");
            all.secrets.insert(secret.clone(), secret_of(&secret, certificate));
            let mut matching = names(host, &ranges);
            matching["application_protocols"] = json!([ACME]);
            chains.push(json!({
                "name": secret,
                "filter_chain_match": matching,
                "transport_socket": tls(&secret, &[ACME]),
                "filters": [manager(HTTPS, HTTP, input)],
            }));
        }
    }
    chains
}

/// What a name leads to over TLS.
fn own(table: &Table, host: &HostName, input: Input<'_>) -> Option<Value> {
    if let Some(api) = table.api.as_ref().filter(|api| api.host == *host) {
        return Some(route::to_api(&api.host, Over::Tls));
    }
    let site = table.sites.get(host).filter(|site| site.tls == SiteTls::Both)?;
    let routes = route::of_rules(&site.rules, input, Over::Tls, has_certificate(input, host));
    Some(route::host(host.as_str(), host.as_str(), routes))
}

/// Handshakes for this name. An address is asked for without one (RFC 6066, 3): it is where the connection came to.
fn names(host: &HostName, ranges: &[Value]) -> Value {
    match host.address() {
        Some(ip) => json!({ "prefix_ranges": [policy::cidr(&ip.into())] }),
        None if ranges.is_empty() => json!({ "server_names": [host.as_str()] }),
        None => json!({ "server_names": [host.as_str()], "prefix_ranges": ranges }),
    }
}

/// Where names are asked for: Envoy goes by where a connection came to first, and of the chains for that address it takes one or none. So names
/// stand beside each address that is a host, and beside all others. Empty: no address is a host.
fn ranges<'h>(hosts: impl Iterator<Item = &'h HostName>) -> Vec<Value> {
    const ALL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let mut ranges: Vec<Value> = hosts.filter_map(HostName::address).map(|ip| policy::cidr(&ip.into())).collect();
    if !ranges.is_empty() {
        ranges.extend(ALL.map(|ip| json!({ "address_prefix": ip.to_string(), "prefix_len": 0 })));
    }
    ranges
}

fn tls(secret: &str, protocols: &[&str]) -> Value {
    let certificate = json!([{ "name": secret, "sds_config": cluster::ads() }]);
    let context = json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3" },
        "alpn_protocols": protocols,
        "tls_certificate_sds_secret_configs": certificate,
    });
    json!({ "name": "tls", "typed_config": any(TLS, json!({ "common_tls_context": context })) })
}

fn secret_of(name: &str, certificate: &Certificate) -> Value {
    json!({
        "name": name,
        "tls_certificate": {
            "certificate_chain": { "inline_string": certificate.chain },
            "private_key": { "inline_bytes": BASE64_STANDARD.encode(certificate.key.expose()) },
        },
    })
}

/// The HTTP of one filter chain: what is exactly one well-formed request, as strictly as Envoy can be told to see to it.
fn manager(prefix: &str, routes: &str, input: Input<'_>) -> Value {
    let config = json!({
        "stat_prefix": prefix,
        "rds": { "route_config_name": routes, "config_source": cluster::ads() },
        "http_filters": policy::filters(input.uploads.is_some(), input.desired.table.sample),
        "access_log": [access::log(input.access_log)],
        "common_http_protocol_options": {
            "idle_timeout": IDLE,
            "max_headers_count": HEADERS,
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "http_protocol_options": { "accept_http_10": true },
        "http2_protocol_options": {
            "max_concurrent_streams": STREAMS,
            "initial_stream_window_size": BUFFER,
            "initial_connection_window_size": CONNECTION_WINDOW,
        },
        "max_request_headers_kb": HEAD_KIB,
        "request_headers_timeout": HEAD_TIME,
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "use_remote_address": true,
        "skip_xff_append": true,
        "preserve_external_request_id": true,
        "always_set_request_id_in_response": true,
        "server_header_transformation": "PASS_THROUGH",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "stream_error_on_invalid_http_message": false,
        "local_reply_config": { "mappers": replies::all() },
    });
    json!({ "name": "http", "typed_config": any(MANAGER, config) })
}
