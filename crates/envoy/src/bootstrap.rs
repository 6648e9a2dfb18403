//! What Envoy is started with: where it is told what to serve, or all that it serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::bounds::Bounds;
use crate::resources::{Resources, address, ads, any};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The cluster of the daemon's xDS server: also what requests to it name as their host, which has no slash.
const DAEMON: &str = "bowline-daemon";

const TIMERS: &str = "envoy.config.overload.v3.ScaleTimersOverloadActionConfig";

/// What idle times come down to, in percent, before the heap is full.
const LEAST_TIME: f64 = 5.0;

/// A stream that holds 128 KiB, half of what one may, is among those that are reset: a power of two.
const LARGE_STREAM: u32 = 17;

/// Only its own user asks Envoy what it does, or tells it to end.
const SOCKET_MODE: u32 = 0o600;

/// Of an Envoy that asks the daemon on `xds` and answers it on `admin`.
pub(crate) fn dynamic(xds: &Path, admin: &Path, bounds: Bounds) -> Value {
    let back_off = json!({ "base_interval": "0.1s", "max_interval": "1s" });
    let service = json!({ "envoy_grpc": { "cluster_name": DAEMON, "retry_policy": { "retry_back_off": back_off } } });
    let endpoint = json!({ "endpoint": { "address": pipe(xds) } });
    let http2 = any(OPTIONS, json!({ "explicit_http_config": { "http2_protocol_options": {} } }));
    json!({
        "node": { "id": "bowline", "cluster": "bowline" },
        "admin": administration(Administration::Socket(admin)),
        "layered_runtime": runtime(),
        "overload_manager": overload(bounds),
        "dynamic_resources": {
            "ads_config": { "api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service] },
            "cds_config": ads(),
            "lds_config": ads(),
        },
        "static_resources": { "clusters": [{
            "name": DAEMON,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": { "cluster_name": DAEMON, "endpoints": [{ "lb_endpoints": [endpoint] }] },
            "typed_extension_protocol_options": { (OPTIONS): http2 },
        }] },
    })
}

/// Envoy refuses regular expressions of more than 100 steps, and a table with one of them whole: a guarded path of some length has more.
fn runtime() -> Value {
    const STEPS: u32 = 1_000_000;
    json!({ "layers": [{ "name": "bowline", "static_layer": { "re2.max_program_size.error_level": STEPS } }] })
}

/// Whoever takes all connections takes none of those that ask what Envoy does: one that does not answer would be replaced.
fn administration(at: Administration<'_>) -> Value {
    let address = match at {
        Administration::Port(port) => address(port),
        Administration::Socket(path) => json!({ "pipe": { "path": path.to_string_lossy(), "mode": SOCKET_MODE } }),
    };
    json!({ "address": address, "ignore_global_conn_limit": true })
}

/// What is given up, one after the other, where the heap comes near its bound: what lies in it unused, time for clients that let it pass,
/// connections that are kept, streams of HTTP/2 that hold most, and at last new requests. One of HTTP/1 holds no more than its connection may.
fn overload(bounds: Bounds) -> Value {
    let monitor = |name: &str, kind: &str, config: Value| {
        let kind = format!("envoy.extensions.resource_monitors.{kind}");
        json!({ "name": format!("envoy.resource_monitors.{name}"), "typed_config": any(&kind, config) })
    };
    let heap = json!({ "max_heap_size_bytes": bounds.heap });
    let connections = json!({ "max_active_downstream_connections": bounds.connections });
    let of_heap = |name: &str, mut trigger: Value| {
        trigger["name"] = "envoy.resource_monitors.fixed_heap".into();
        json!({ "name": format!("envoy.overload_actions.{name}"), "triggers": [trigger] })
    };
    let at = |share: f64| json!({ "threshold": { "value": share } });
    let between = |from: f64, to: f64| json!({ "scaled": { "scaling_threshold": from, "saturation_threshold": to } });
    let shorter = |timer: &str| json!({ "timer": timer, "min_scale": { "value": LEAST_TIME } });
    let timers = ["HTTP_DOWNSTREAM_CONNECTION_IDLE", "HTTP_DOWNSTREAM_STREAM_IDLE"].map(shorter);
    let mut in_time = of_heap("reduce_timeouts", between(0.8, 0.95));
    in_time["typed_config"] = any(TIMERS, json!({ "timer_scale_factors": timers }));
    json!({
        "refresh_interval": "0.25s",
        "resource_monitors": [
            monitor("fixed_heap", "fixed_heap.v3.FixedHeapConfig", heap),
            monitor("global_downstream_max_connections", "downstream_connections.v3.DownstreamConnectionsConfig", connections),
        ],
        "actions": [
            of_heap("shrink_heap", at(0.8)),
            in_time,
            of_heap("disable_http_keepalive", at(0.85)),
            of_heap("reset_high_memory_stream", between(0.85, 0.95)),
            of_heap("stop_accepting_requests", at(0.95)),
        ],
        "buffer_factory_config": { "minimum_account_to_track_power_of_two": LARGE_STREAM },
    })
}

fn pipe(path: &Path) -> Value {
    json!({ "pipe": { "path": path.to_string_lossy() } })
}

/// What a fixed Envoy reads from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// `HOST.pem` and `HOST.key` of each host of HTTPS.
    pub certificates: &'a Path,
    pub admin: Administration<'a>,
}

/// Where the administration of a fixed Envoy answers. It shows all that Envoy was started with, digests of secrets included.
#[derive(Debug, Clone, Copy)]
pub enum Administration<'a> {
    /// Whoever gets there.
    Port(SocketAddr),
    /// Its own user alone.
    Socket(&'a Path),
}

/// Of an Envoy that serves these resources and asks nobody: keys are named, and not in it.
pub fn fixed(resources: &Resources, files: Files<'_>, bounds: Bounds) -> Value {
    let clusters =
        resources.clusters.iter().map(|(name, cluster)| cluster_with(cluster, resources.endpoints.get(name)));
    let listeners = resources.listeners.values().map(|listener| {
        let mut listener = listener.clone();
        settle(&mut listener, &resources.routes, files.certificates);
        listener
    });
    json!({
        "node": { "id": "bowline", "cluster": "bowline" },
        "admin": administration(files.admin),
        "layered_runtime": runtime(),
        "overload_manager": overload(bounds),
        "static_resources": {
            "clusters": clusters.collect::<Vec<_>>(),
            "listeners": listeners.collect::<Vec<_>>(),
        },
    })
}

fn cluster_with(cluster: &Value, endpoints: Option<&Value>) -> Value {
    let mut cluster = cluster.clone();
    if let (Some(fields), Some(endpoints)) = (cluster.as_object_mut(), endpoints) {
        fields.remove("eds_cluster_config");
        fields.insert("type".to_owned(), "STATIC".into());
        fields.insert("load_assignment".to_owned(), endpoints.clone());
    }
    cluster
}

/// Puts what is asked for elsewhere in its place: routes, and the files of certificates.
fn settle(value: &mut Value, routes: &BTreeMap<String, Value>, certificates: &Path) {
    match value {
        Value::Object(fields) => {
            if let Some(config) =
                fields.remove("rds").and_then(|rds| routes.get(rds["route_config_name"].as_str()?).cloned())
            {
                fields.insert("route_config".to_owned(), config);
            }
            if let Some(secrets) = fields.remove("tls_certificate_sds_secret_configs") {
                let file = |name: &Value, end: &str| {
                    let name = name.as_str().unwrap_or_default().replace('*', "_");
                    json!({ "filename": certificates.join(format!("{name}.{end}")).to_string_lossy() })
                };
                let of = |secret: &Value| json!({ "certificate_chain": file(&secret["name"], "pem"), "private_key": file(&secret["name"], "key") });
                let all: Vec<Value> = secrets.as_array().into_iter().flatten().map(of).collect();
                fields.insert("tls_certificates".to_owned(), all.into());
            }
            fields.values_mut().for_each(|value| settle(value, routes, certificates));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| settle(value, routes, certificates)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::encode;

    const BOUNDS: Bounds = Bounds { heap: 256 << 20, connections: 4096 };

    fn told() -> Value {
        dynamic(Path::new("/run/bowline/a/envoy.xds.sock"), Path::new("/run/bowline/a/envoy.admin.sock"), BOUNDS)
    }

    #[test]
    fn it_is_a_bootstrap_of_envoy() {
        let mut text = told();
        for monitor in text["overload_manager"]["resource_monitors"].as_array_mut().unwrap() {
            // Not among the messages that are held to the API here: Envoy itself is asked of them, by `bowline render envoy`.
            assert!(monitor.as_object_mut().unwrap().remove("typed_config").is_some());
        }
        encode("envoy.config.bootstrap.v3.Bootstrap", &text).unwrap();
    }

    #[test]
    fn heap_and_connections_are_bounded_and_the_administration_is_not() {
        let text = told();
        let monitors = &text["overload_manager"]["resource_monitors"];
        assert_eq!(monitors[0]["typed_config"]["max_heap_size_bytes"], 256 << 20);
        assert_eq!(monitors[1]["typed_config"]["max_active_downstream_connections"], 4096);
        assert_eq!(text["admin"]["ignore_global_conn_limit"], true);
        let named = |action: &Value| action["name"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        let actions: Vec<String> = text["overload_manager"]["actions"].as_array().unwrap().iter().map(named).collect();
        let last = ["reset_high_memory_stream", "stop_accepting_requests"];
        assert_eq!(actions[..3], ["shrink_heap", "reduce_timeouts", "disable_http_keepalive"]);
        assert_eq!(actions[3..], last);
    }
}
