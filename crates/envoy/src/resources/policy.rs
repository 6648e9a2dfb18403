//! What a request must pass, as filters: each is in the chain of every listener, off, and on where a route says so. The first is always on.
//!
//! Order: whose trace it is of, then maintenance, then who may come, then a client's rate (a wrong proof counts against it), then the proof, then a route's rate (which
//! strangers must not use up), then the files in its body, then which release, and at last what does not announce its length.

use bowline_core::app::RateBy;
use bowline_core::route::{Gate, Policies, Proof, RateLimit, Rule};
use bowline_core::units::Share;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{any, header, seconds, trace};
use crate::upload;

const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const RBAC_HERE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
const LUA: &str = "envoy.extensions.filters.http.lua.v3.Lua";
const LUA_HERE: &str = "envoy.extensions.filters.http.lua.v3.LuaPerRoute";
const LIMIT: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const BUFFER: &str = "envoy.extensions.filters.http.buffer.v3.Buffer";
const BUFFER_HERE: &str = "envoy.extensions.filters.http.buffer.v3.BufferPerRoute";
const COMPRESSOR: &str = "envoy.extensions.filters.http.compressor.v3.Compressor";
const COMPRESSOR_HERE: &str = "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute";
const GZIP: &str = "envoy.extensions.compression.gzip.compressor.v3.Gzip";
const HEADERS: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const HEADERS_HERE: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute";
const EXTERNAL: &str = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const EXTERNAL_HERE: &str = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// Names of the filters.
const INSIDE: &str = "bowline.maintenance.inside";
const MAINTENANCE: &str = "bowline.maintenance";
const ALLOW: &str = "bowline.allow";
const CLIENT_RATE: &str = "bowline.rate.client";
const AUTH: &str = "bowline.auth";
const ROUTE_RATE: &str = "bowline.rate.route";
const LENGTH: &str = "bowline.length";
const STEER: &str = "bowline.steer";
const BODY: &str = "bowline.body";
const COMPRESS: &str = "bowline.compress";
const RESERVED: &str = "bowline.reserved";

/// Bodies that do not announce their length are held until they are whole: Envoy has no other filter that bounds them. No more than is held of
/// any other body whose other side is slow, since a client may have a hundred at once over one connection.
pub(super) const HELD: u64 = 256 << 10;

/// Clients that one limit remembers.
const CLIENTS: u32 = 16 << 10;

/// Shorter answers are not compressed: they are sent in as many packets as they are.
const COMPRESSED_FROM: u32 = 1024;

/// The filters of a listener, the router at their end.
///
/// `uploads`: there is a filter of uploads to be asked. `sample`: see [`trace::script`].
pub(super) fn filters(uploads: bool, sample: Option<Share>) -> Vec<Value> {
    let off = |name: &str, config: Value| json!({ "name": name, "typed_config": config, "disabled": true });
    let script = |code: &str| any(LUA, json!({ "default_source_code": { "inline_string": code } }));
    let limit = || any(LIMIT, json!({ "stat_prefix": "bowline" }));
    let gzip = any(GZIP, json!({ "compression_level": "COMPRESSION_LEVEL_4" }));
    let compressor = json!({
        "compressor_library": { "name": "gzip", "typed_config": gzip },
        "response_direction_config": { "common_config": { "min_content_length": COMPRESSED_FROM } },
    });
    // Bowline's own words: the filters before have heard those that are for them.
    let reserved =
        json!({ "request_mutations": [{ "remove_on_match": { "key_matcher": { "prefix": "x-bowline-" } } }] });
    let judge =
        if uploads { vec![off(upload::NAME, judge()), off(LENGTH, any(HEADERS, json!({})))] } else { Vec::new() };
    let before = vec![
        json!({ "name": trace::NAME, "typed_config": script(&trace::script(sample)) }),
        off(INSIDE, any(RBAC, json!({ "shadow_rules_stat_prefix": "maintenance_" }))),
        off(MAINTENANCE, script(include_str!("maintenance.lua"))),
        off(ALLOW, any(RBAC, json!({}))),
        off(CLIENT_RATE, limit()),
        off(AUTH, script(include_str!("auth.lua"))),
        off(ROUTE_RATE, limit()),
    ];
    let behind = vec![
        off(STEER, script(include_str!("steer.lua"))),
        off(BODY, any(BUFFER, json!({ "max_request_bytes": HELD }))),
        off(COMPRESS, any(COMPRESSOR, compressor)),
        json!({ "name": RESERVED, "typed_config": any(HEADERS, json!({ "mutations": reserved })) }),
        json!({ "name": "bowline.router", "typed_config": any(ROUTER, json!({ "suppress_envoy_headers": true })) }),
    ];
    before.into_iter().chain(judge).chain(behind).collect()
}

/// Has a body judged while it streams, and the head held back until its first bytes are. Who judges is told nothing but what is looked at;
/// that it is not there, or fails, refuses the request.
fn judge() -> Value {
    let told = [":path", "content-type", "content-encoding", "content-length"].map(|name| json!({ "exact": name }));
    any(
        EXTERNAL,
        json!({
            "grpc_service": { "envoy_grpc": { "cluster_name": upload::NAME } },
            "failure_mode_allow": false,
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_header_mode": "SKIP",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SKIP",
            },
            "forward_rules": { "allowed_headers": { "patterns": told } },
            "metadata_options": { "receiving_namespaces": { "untyped": [upload::NAME] } },
            "route_cache_action": "RETAIN",
        }),
    )
}

/// What is let in, if the rule says what: judged, and counted.
pub(super) fn judged(on: &mut Map<String, Value>, rule: &Rule) {
    let Some(metadata) = upload::metadata(rule) else { return };
    let metadata = metadata.map(|(key, value)| json!({ "key": key, "value": value }));
    on.insert(
        upload::NAME.to_owned(),
        any(EXTERNAL_HERE, json!({ "overrides": { "grpc_initial_metadata": metadata } })),
    );
    // Envoy drops the length of what might be changed. It is not, and apps rely on it.
    let mut length = header("content-length", &format!("%DYNAMIC_METADATA({}:{})%", upload::NAME, upload::LENGTH));
    length["keep_empty_value"] = false.into();
    let mutations = json!({ "request_mutations": [{ "append": length }] });
    on.insert(LENGTH.to_owned(), any(HEADERS_HERE, json!({ "mutations": mutations })));
}

/// What a route switches on of them.
pub(super) fn per_route(policies: &Policies, name: &str, compress: bool) -> Map<String, Value> {
    let mut on = Map::new();
    if let Some(maintenance) = &policies.maintenance {
        if !maintenance.allow.is_empty() {
            let rules =
                json!({ "shadow_rules": rules(&maintenance.allow), "shadow_rules_stat_prefix": "maintenance_" });
            on.insert(INSIDE.to_owned(), any(RBAC_HERE, json!({ "rbac": rules })));
        }
        on.insert(MAINTENANCE.to_owned(), any(LUA_HERE, json!({ "filter_context": {} })));
    }
    if !policies.allow.is_empty() {
        on.insert(ALLOW.to_owned(), any(RBAC_HERE, json!({ "rbac": { "rules": rules(&policies.allow) } })));
    }
    if let Some(limit) = &policies.rate {
        let filter = match limit.by {
            RateBy::Client => CLIENT_RATE,
            RateBy::Route => ROUTE_RATE,
        };
        on.insert(filter.to_owned(), rate(limit, name));
    }
    if let Some(gate) = &policies.auth {
        on.insert(AUTH.to_owned(), any(LUA_HERE, json!({ "filter_context": proof(gate) })));
    }
    if compress {
        let here = json!({ "overrides": { "response_direction_config": {} } });
        on.insert(COMPRESS.to_owned(), any(COMPRESSOR_HERE, here));
    }
    on
}

/// A body without a length: held, up to `bytes`.
pub(super) fn hold(on: &mut Map<String, Value>, bytes: u64) {
    let most = bytes.min(HELD);
    on.insert(BODY.to_owned(), any(BUFFER_HERE, json!({ "buffer": { "max_request_bytes": most } })));
}

/// Which of several pools a request belongs to.
pub(super) fn steer(on: &mut Map<String, Value>, context: &Value) {
    on.insert(STEER.to_owned(), any(LUA_HERE, json!({ "filter_context": context })));
}

/// Lets these in, and nobody else.
fn rules(networks: &[IpNet]) -> Value {
    let principals: Vec<Value> = networks.iter().map(|network| json!({ "remote_ip": cidr(network) })).collect();
    let policy = json!({ "permissions": [{ "any": true }], "principals": principals });
    json!({ "action": "ALLOW", "policies": { "inside": policy } })
}

pub(super) fn cidr(network: &IpNet) -> Value {
    json!({ "address_prefix": network.network().to_string(), "prefix_len": network.prefix_len() })
}

fn rate(limit: &RateLimit, name: &str) -> Value {
    let bucket = json!({
        "max_tokens": limit.rate.count,
        "tokens_per_fill": limit.rate.count,
        "fill_interval": seconds(limit.rate.per),
    });
    let always = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    let step = limit.rate.per.as_secs_f64() / f64::from(limit.rate.count.max(1));
    // When the next token is there, at the latest.
    let wait = format!("{}", step.ceil().max(1.0));
    let mut config = json!({
        "stat_prefix": name,
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
        "response_headers_to_add": [header("retry-after", &wait), header("x-bowline-error", "too-many-requests")],
    });
    if limit.by == RateBy::Client {
        config["token_bucket"] = json!({ "max_tokens": NEVER, "tokens_per_fill": NEVER, "fill_interval": "1s" });
        config["descriptors"] = json!([{ "entries": [{ "key": CLIENT }], "token_bucket": bucket }]);
        config["rate_limits"] = json!([{ "actions": [{ (CLIENT): { "v6_prefix_mask_len": NETWORK } }] }]);
        config["max_dynamic_descriptors"] = CLIENTS.into();
    }
    any(LIMIT, config)
}

/// Who counts as one client: an address of IPv4, or a network of so many bits of IPv6, of which whoever has one has all addresses.
const CLIENT: &str = "masked_remote_address";
const NETWORK: u32 = 64;

/// All clients together are not limited where each of them is.
const NEVER: u32 = 1_000_000_000;

fn proof(gate: &Gate) -> Value {
    let digests: Vec<String> = gate.credentials.digests.iter().map(|digest| hex(digest)).collect();
    let (kind, name) = match &gate.proof {
        Proof::Header(name) => ("header", name.as_str()),
        Proof::Bearer => ("bearer", ""),
        Proof::Basic => ("basic", ""),
    };
    json!({ "kind": kind, "name": name, "salt": hex(&gate.credentials.salt), "digests": digests })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
