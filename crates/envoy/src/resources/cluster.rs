//! Pools as clusters: one for each release of a service, so that its figures are its own.

use std::net::SocketAddr;
use std::path::Path;

use bowline_core::app::Protocol;
use bowline_core::id::InstanceId;
use bowline_core::route::outlier::FAILURES;
use bowline_core::route::retry::{LEAST, SHARE};
use bowline_core::route::{Cohort, PoolId};
use serde_json::{Value, json};

use super::{Told, address, any};
use crate::upload;

/// The cluster of the daemon's API.
pub(super) const API: &str = "bowline/api";

/// Requests that may be at the daemon at once.
const API_REQUESTS: u32 = 256;

/// Connections to instances live this long without a request: gunicorn closes at 2 s, Node.js and uvicorn at 5 s.
const IDLE: &str = "1s";

/// Envoy's own bound is 1024, of connections as of requests: what may be under way is for instances to say.
const NO_BOUND: u32 = 1_000_000;

/// What is on its way back from the upload filter of one body, and of all on a connection.
const UPLOAD_WINDOW: u32 = 64 << 10;
const UPLOADS_WINDOW: u32 = 1 << 20;

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn of(name: &str, id: &PoolId, told: &Told) -> Value {
    let cohort = match id.cohort {
        Cohort::Whole => "whole",
        Cohort::Baseline => "baseline",
    };
    let thresholds = json!({
        "max_connections": NO_BOUND,
        "max_pending_requests": NO_BOUND,
        "max_requests": NO_BOUND,
        // As the embedded edge. Of an instance that dies all that it was asked is tried once more at the same time: Envoy's bound
        // is of those, not of a time.
        "retry_budget": { "budget_percent": { "value": 100.0 / f64::from(SHARE) }, "min_retry_concurrency": LEAST },
    });
    json!({
        "name": name,
        // Of a name with dots, Envoy's metrics take the first part alone for the cluster's.
        "alt_stat_name": name.replace('.', "/"),
        "type": "EDS",
        "eds_cluster_config": { "eds_config": ads() },
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        // Where nobody is left but who is drained or left out for failing, they are asked: to be without anybody is worse.
        "common_lb_config": {
            "healthy_panic_threshold": { "value": 1.0 },
            // Envoy would tell its workers up to a second later that one is drained.
            "update_merge_window": "0s",
        },
        "circuit_breakers": { "thresholds": [thresholds] },
        "outlier_detection": outliers(),
        "typed_extension_protocol_options": { (OPTIONS): options(told.pool.protocol) },
        "metadata": { "filter_metadata": { "bowline": {
            "env": id.key.env.as_str(),
            "app": id.key.app.as_str(),
            "service": id.service.as_str(),
            "release": id.release.0,
            "cohort": cohort,
        } } },
    })
}

/// Passive health as `core::route::outlier` has it.
fn outliers() -> Value {
    json!({
        "consecutive_5xx": FAILURES,
        "enforcing_consecutive_5xx": 100,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "10s",
        "max_ejection_time": "300s",
        "max_ejection_percent": 50,
    })
}

fn options(protocol: Protocol) -> Value {
    let config = match protocol {
        Protocol::Http1 => json!({ "http_protocol_options": {} }),
        Protocol::H2c => json!({ "http2_protocol_options": {} }),
    };
    any(OPTIONS, json!({ "explicit_http_config": config, "common_http_protocol_options": { "idle_timeout": IDLE } }))
}

pub(crate) fn ads() -> Value {
    // A resource is waited for, however long it takes: without it there is nothing to serve.
    json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" })
}

pub(super) fn endpoints(name: &str, told: &Told) -> Value {
    let ready = told.pool.endpoints.iter().map(|(id, at)| endpoint(id, *at, "HEALTHY"));
    let drained = told.draining.endpoints.iter().filter(|(id, _)| !told.pool.endpoints.contains_key(*id));
    let drained = drained.map(|(id, at)| endpoint(id, *at, "DRAINING"));
    let all: Vec<Value> = ready.chain(drained).collect();
    json!({ "cluster_name": name, "endpoints": [{ "locality": {}, "lb_endpoints": all }] })
}

fn endpoint(id: &InstanceId, at: SocketAddr, health: &str) -> Value {
    json!({
        "endpoint": { "address": address(at) },
        "health_status": health,
        "metadata": { "filter_metadata": { "bowline": { "instance": id.to_string(), "release": id.slot.release.0 } } },
    })
}

/// The upload filter behind its Unix socket.
pub(super) fn uploads(socket: &Path) -> Value {
    let endpoint = json!({ "endpoint": { "address": { "pipe": { "path": socket.to_string_lossy() } } } });
    let http2 = json!({
        "initial_stream_window_size": UPLOAD_WINDOW,
        "initial_connection_window_size": UPLOADS_WINDOW,
        // Within a stream Envoy waits for a word of the filter as long as the route's idle time. One that has stopped is found out by this.
        "connection_keepalive": { "interval": "1s", "timeout": "3s" },
    });
    let http2 = any(OPTIONS, json!({ "explicit_http_config": { "http2_protocol_options": http2 } }));
    json!({
        "name": upload::NAME,
        "alt_stat_name": upload::NAME.replace('.', "/"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": upload::NAME, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        "circuit_breakers": { "thresholds": [{
            "max_pending_requests": upload::ASKED_AT_ONCE,
            "max_requests": upload::ASKED_AT_ONCE,
        }] },
        "typed_extension_protocol_options": { (OPTIONS): http2 },
    })
}

/// The daemon behind its Unix socket.
pub(super) fn api(socket: &Path) -> Value {
    let endpoint = json!({ "endpoint": { "address": { "pipe": { "path": socket.to_string_lossy() } } } });
    json!({
        "name": API,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": API, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        "circuit_breakers": { "thresholds": [{ "max_connections": API_REQUESTS, "max_requests": API_REQUESTS }] },
        "typed_extension_protocol_options": { (OPTIONS): options(Protocol::Http1) },
    })
}
