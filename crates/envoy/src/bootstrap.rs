//! What Envoy is started with: where it is told what to serve, or all that it serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::resources::{Resources, ads, any};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The cluster of the daemon's xDS server: also what requests to it name as their host, which has no slash.
const DAEMON: &str = "bowline-daemon";

/// Only its own user asks Envoy what it does, or tells it to end.
const SOCKET_MODE: u32 = 0o600;

/// Of an Envoy that asks the daemon on `xds` and answers it on `admin`.
pub(crate) fn dynamic(xds: &Path, admin: &Path) -> Value {
    let back_off = json!({ "base_interval": "0.1s", "max_interval": "1s" });
    let service = json!({ "envoy_grpc": { "cluster_name": DAEMON, "retry_policy": { "retry_back_off": back_off } } });
    let endpoint = json!({ "endpoint": { "address": pipe(xds) } });
    let http2 = any(OPTIONS, json!({ "explicit_http_config": { "http2_protocol_options": {} } }));
    json!({
        "node": { "id": "bowline", "cluster": "bowline" },
        "admin": { "address": { "pipe": { "path": admin.to_string_lossy(), "mode": SOCKET_MODE } } },
        "layered_runtime": runtime(),
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

fn pipe(path: &Path) -> Value {
    json!({ "pipe": { "path": path.to_string_lossy() } })
}

/// What a fixed Envoy reads from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// `HOST.pem` and `HOST.key` of each host of HTTPS.
    pub certificates: &'a Path,
    pub admin: SocketAddr,
}

/// Of an Envoy that serves these resources and asks nobody: keys are named, and not in it.
pub fn fixed(resources: &Resources, files: Files<'_>) -> Value {
    let clusters =
        resources.clusters.iter().map(|(name, cluster)| cluster_with(cluster, resources.endpoints.get(name)));
    let listeners = resources.listeners.values().map(|listener| {
        let mut listener = listener.clone();
        settle(&mut listener, &resources.routes, files.certificates);
        listener
    });
    json!({
        "node": { "id": "bowline", "cluster": "bowline" },
        "admin": { "address": { "socket_address": { "address": files.admin.ip().to_string(), "port_value": files.admin.port() } } },
        "layered_runtime": runtime(),
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

    #[test]
    fn it_is_a_bootstrap_of_envoy() {
        let text = dynamic(Path::new("/run/bowline/a/envoy.xds.sock"), Path::new("/run/bowline/a/envoy.admin.sock"));
        encode("envoy.config.bootstrap.v3.Bootstrap", &text).unwrap();
    }
}
