//! The access log: a line per request, with the fields of the embedded edge's, and those that the daemon counts by.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::any;

/// What a line says, by the key. What has no value is left out.
const FIELDS: [(&str, &str); 34] = [
    // When it ended, as with the embedded edge: lines are in the order of their times.
    ("ts", "%EMIT_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%"),
    ("app", "%METADATA(ROUTE:bowline:app)%"),
    ("env", "%METADATA(ROUTE:bowline:env)%"),
    ("route", "%METADATA(ROUTE:bowline:route)%"),
    ("template", "%METADATA(ROUTE:bowline:template)%"),
    ("service", "%METADATA(ROUTE:bowline:service)%"),
    ("judged", "%METADATA(ROUTE:bowline:judged)%"),
    // Of whom it was given to: what is refused here is no release's.
    ("release", "%METADATA(UPSTREAM_HOST:bowline:release)%"),
    ("cohort", "%METADATA(CLUSTER:bowline:cohort)%"),
    ("instance", "%METADATA(UPSTREAM_HOST:bowline:instance)%"),
    ("look", "%DYNAMIC_METADATA(bowline.steer:look)%"),
    ("method", "%REQ(:METHOD)%"),
    ("host", "%REQ(:AUTHORITY)%"),
    // Without its query: queries carry tokens.
    ("path", "%PATH(NQ:ORIG_OR_PATH)%"),
    ("status", "%RESPONSE_CODE%"),
    ("grpc_status", "%GRPC_STATUS_NUMBER%"),
    ("duration_ms", "%DURATION%"),
    ("duration_us", "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"),
    ("upstream_ms", "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:ms)%"),
    // From the request's last byte to the answer's first: how fast a client sends and reads says nothing of an instance.
    ("turn_us", "%COMMON_DURATION(US_TX_END:US_RX_BEG:us)%"),
    ("bytes_in", "%BYTES_RECEIVED%"),
    ("bytes_out", "%BYTES_SENT%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("protocol", "%CEL(request.protocol == 'HTTP/2' ? 'HTTP/2.0' : request.protocol)%"),
    ("tls", "%DOWNSTREAM_TLS_VERSION%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("trace_id", "%DYNAMIC_METADATA(bowline.trace:trace_id)%"),
    // Of what is recorded.
    ("span_id", "%DYNAMIC_METADATA(bowline.trace:span_id)%"),
    ("parent_span_id", "%DYNAMIC_METADATA(bowline.trace:parent_span_id)%"),
    ("trace_random", "%DYNAMIC_METADATA(bowline.trace:trace_random)%"),
    ("flags", "%RESPONSE_FLAGS%"),
    // Of an answer that has no reason the expression has no value, and so it is left out.
    ("blame", BLAME),
    ("reason", "%RESP(X-BOWLINE-ERROR)%"),
    ("detail", "%RESPONSE_CODE_DETAILS%"),
];

/// Whose fault it is that no app has answered.
const BLAME: &str = "%CEL(response.headers['x-bowline-error'] in ['starting', 'maintenance', 'not-carried', 'daemon-busy', 'edge-overloaded', 'upload-filter-away'] ? 'bowline' : \
    response.code < 500 ? 'client' : 'upstream')%";

pub(super) fn log(path: &Path) -> Value {
    let fields: Map<String, Value> = FIELDS.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    let config = json!({
        "path": path.to_string_lossy(),
        "log_format": { "json_format": fields, "omit_empty_values": true },
    });
    json!({ "name": "bowline.access", "typed_config": any("envoy.extensions.access_loggers.file.v3.FileAccessLog", config) })
}
