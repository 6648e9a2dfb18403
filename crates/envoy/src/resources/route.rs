//! Rules as routes: several for one rule, since a WebSocket, a call of gRPC and a body without a length are each told other bounds.

use bowline_core::app::{HostName, PathPrefix, PlainHttp, Protocol};
use bowline_core::route::{Action, CLIENT_FIELD, Cohort, Policies, Rule, RuleId, Split, Table};
use bowline_core::upload::UploadFault;
use serde_json::{Map, Value, json};

use super::{Input, TOO_LARGE, cluster, cluster_name, header, literal, policy, seconds};

/// Over what a route is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// `https`: where the same is served over TLS.
    Plain {
        https: Option<u16>,
    },
    Tls,
}

/// The usual port of HTTPS.
const HTTPS_PORT: u16 = 443;

/// Fields that say who asks, whose word is Bowline's, or that are for one hop: what a client says in them goes nowhere. Those that begin
/// with `x-bowline-` go by a filter.
const NOT_FOR_APPS: [&str; 11] = [
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-envoy-external-address",
    "proxy-authorization",
    POOL,
    CLIENT_FIELD,
];

/// Where the script of shares says which cluster it is.
const POOL: &str = "bowline-pool";

/// Who asks, as RFC 7239 has it: an address of IPv6 in brackets, and so in quotes.
const FORWARDED: &str = "for=%CEL(source.address.startsWith('[') ? '\"[' : '')%%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\
    %CEL(source.address.startsWith('[') ? ']\"' : '')%;proto=%REQ(X-FORWARDED-PROTO)%;host=\"%REQ(:AUTHORITY)%\"";

/// What may be asked twice where nothing was answered (RFC 9110, 9.2.2), as far as it has no body.
const REPEATABLE: &str = "GET|HEAD|OPTIONS|PUT|DELETE";

/// What is neither well-formed nor supported, whatever is wrong with it.
const MALFORMED: &str = "The request is not well-formed, or asks for something that is not supported.";

/// Paths that apps read in different ways, so that what guards one reading is not asked for another; Envoy leaves them as they are. Dots before
/// a parameter, which servlet containers cut off before they resolve dots; what is another path when it is decoded twice; bytes that UTF-8
/// forbids, which hide dots and slashes from whoever reads it strictly.
const AMBIGUOUS: &str = "(?i).*(?:/\\.\\.?(?:;|%3b)|%25[0-9a-f]{2}|%c[01]|%e0%[89]|%ed%[ab]|%f0%8|%f[5-9a-f]).*";

/// Behind the name of a segment: its parameters, which servlet containers cut off (RFC 3986, 3.3).
const PARAMETERS: &str = "(?:(?:;|%3b)[^/]*)?";

/// A host with its routes.
pub(super) fn host(name: &str, domain: &str, routes: Vec<Value>) -> Value {
    let first = domain.strip_prefix("*.").map(below).into_iter().chain([no_trace(), no_path()]);
    json!({ "name": name, "domains": [domain], "routes": first.chain(routes).collect::<Vec<_>>() })
}

/// A wildcard is one label; Envoy takes any number of them for it.
fn below(rest: &str) -> Value {
    let pattern = format!("(?i).+\\..+\\.{}(:[0-9]+)?", escaped(rest));
    unknown_host(&json!({ "prefix": "/", "headers": [fits(":authority", &pattern)] }))
}

pub(super) fn unknown_host(matching: &Value) -> Value {
    answer(matching, "unknown-host", 404, "No app is served under this host name here.")
}

/// For proxies, and never passed on (RFC 9110, 9.3.8): an answer would have what proxies have added, tokens too.
fn no_trace() -> Value {
    answer(&json!({ "prefix": "/", "headers": [fits(":method", "TRACE")] }), "method-not-allowed", 405, MALFORMED)
}

fn no_path() -> Value {
    answer(&json!({ "safe_regex": { "regex": AMBIGUOUS } }), "ambiguous-path", 400, MALFORMED)
}

pub(super) fn configuration(name: &str, hosts: Vec<Value>) -> Value {
    json!({
        "name": name,
        "virtual_hosts": hosts,
        "ignore_port_in_host_matching": true,
        // What a route says itself comes last: the daemon is told who asks.
        "most_specific_header_mutations_wins": true,
        "request_headers_to_remove": NOT_FOR_APPS,
        "request_headers_to_add": [
            header("x-forwarded-for", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
            header("x-forwarded-host", "%REQ(:AUTHORITY)%"),
            header("forwarded", FORWARDED),
        ],
        // An app's own word for it counts for nothing.
        "response_headers_to_remove": ["x-bowline-error"],
        "response_headers_to_add": [header("x-bowline-release", "%METADATA(UPSTREAM_HOST:bowline:release)%")],
        // Pools come and go by themselves: a route to one that is not there yet is answered 503.
        "validate_clusters": false,
    })
}

/// The routes of one host's rules, in the order of precedence.
pub(super) fn of_rules(rules: &[Rule], input: Input<'_>, over: Over, has_certificate: bool) -> Vec<Value> {
    let mut all: Vec<Value> = rules.iter().flat_map(|rule| of_rule(rule, input, over, has_certificate)).collect();
    all.push(answer(
        &json!({ "prefix": "/" }),
        "no-route",
        404,
        "The app behind this host has no route for this path.",
    ));
    all
}

/// What is answered by Envoy itself.
pub(super) fn answer(matching: &Value, code: &str, status: u16, sentence: &str) -> Value {
    let mut headers = vec![
        header("content-type", "text/plain; charset=utf-8"),
        header("cache-control", "no-store"),
        header("x-bowline-error", code),
    ];
    if status == 503 {
        headers.push(header("retry-after", "1"));
    }
    json!({
        "match": matching,
        "direct_response": { "status": status, "body": { "inline_string": format!("{sentence}\n") } },
        "response_headers_to_add": headers,
    })
}

fn of_rule(rule: &Rule, input: Input<'_>, over: Over, has_certificate: bool) -> Vec<Value> {
    if let Over::Plain { https: Some(port) } = over
        && rule.transfer.http == PlainHttp::Redirect
        && has_certificate
    {
        return to_https(rule, port).map(|route| labelled(rule, route)).collect();
    }
    let mut routes = match &rule.action {
        _ if rule.policies.upload.is_some() && input.uploads.is_none() => vec![not_carried(rule)],
        Action::Files(_) => vec![not_carried(rule)],
        Action::Deny => vec![answer(&matching(rule, &[]), "denied", 403, "Nobody is let in here.")],
        Action::Redirect(to) => vec![redirect(rule, to)],
        Action::Forward { splits, judged, .. } => forward(rule, splits, *judged, &input.desired.table),
    };
    let on = policy::per_route(&rule.policies, &name_of(&rule.id), rule.transfer.compress);
    for route in &mut routes {
        let filters = route["typed_per_filter_config"].as_object_mut().map(std::mem::take).unwrap_or_default();
        route["typed_per_filter_config"] = on.clone().into_iter().chain(filters).collect::<Map<_, _>>().into();
        *route = labelled(rule, route.take());
        if let (Over::Tls, Some(hsts)) = (over, rule.transfer.hsts) {
            push(route, "response_headers_to_add", header("strict-transport-security", &literal(&hsts.to_string())));
        }
    }
    routes
}

/// `production/shop/main`
fn name_of(id: &RuleId) -> String {
    format!("{}/{}/{}", id.key.env, id.key.app, id.route)
}

/// Named, and with what the access log says of it.
fn labelled(rule: &Rule, mut route: Value) -> Value {
    let (service, judged) = match &rule.action {
        Action::Forward { service, judged, .. } => (Some(service.as_str()), *judged),
        Action::Files(files) => (Some(files.service.as_str()), false),
        Action::Redirect(_) | Action::Deny => (None, false),
    };
    let mut labels = json!({
        "env": rule.id.key.env.as_str(),
        "app": rule.id.key.app.as_str(),
        "route": rule.id.route.as_str(),
        "template": rule.prefix.as_str(),
    });
    if let Some(service) = service {
        labels["service"] = service.into();
    }
    if judged {
        labels["judged"] = true.into();
    }
    route["name"] = name_of(&rule.id).into();
    route["metadata"] = json!({ "filter_metadata": { "bowline": labels } });
    route
}

fn push(route: &mut Value, list: &str, value: Value) {
    match route[list].as_array_mut() {
        Some(all) => all.push(value),
        None => route[list] = json!([value]),
    }
}

/// Paths at or below the rule's prefix: a guarded rule has them in every spelling that an app may take for one of them.
fn matching(rule: &Rule, headers: &[Value]) -> Value {
    let mut matching = match rule.prefix == PathPrefix::root() {
        true => json!({ "prefix": "/" }),
        false if is_guarded(rule) => {
            json!({ "safe_regex": { "regex": format!("{}(?:/.*)?", covering(&rule.prefix)) } })
        }
        false => json!({ "path_separated_prefix": rule.prefix.as_str() }),
    };
    if !headers.is_empty() {
        matching["headers"] = headers.to_vec().into();
    }
    matching
}

/// A prefix as [`PathPrefix::covers`] reads it, which the embedded edge asks: in any case, without parameters, and with segments that hold
/// nothing else between its own.
fn covering(prefix: &PathPrefix) -> String {
    let segment = |name: &str| format!("(?:/\\.?{PARAMETERS})*/{}{PARAMETERS}", escaped(name));
    format!("(?i:{})", prefix.names().map(segment).collect::<String>())
}

fn is_guarded(rule: &Rule) -> bool {
    rule.action == Action::Deny || rule.policies != Policies::default()
}

/// The same over HTTPS: who has named a port comes to that of HTTPS, and who has not, to the usual one.
fn to_https(rule: &Rule, port: u16) -> impl Iterator<Item = Value> {
    let same = json!({ "https_redirect": true, "response_code": "PERMANENT_REDIRECT" });
    let mut other = same.clone();
    other["port_redirect"] = port.into();
    // Envoy drops the usual port of HTTP by itself.
    let named = (port != HTTPS_PORT)
        .then(|| json!({ "match": matching(rule, &[fits(":authority", ".*:[0-9]+")]), "redirect": other }));
    named.into_iter().chain([json!({ "match": matching(rule, &[]), "redirect": same })])
}

fn redirect(rule: &Rule, to: &str) -> Value {
    let (scheme, rest) = to.split_once("://").unwrap_or(("https", to));
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let mut redirect =
        json!({ "scheme_redirect": scheme, "host_redirect": authority, "response_code": "PERMANENT_REDIRECT" });
    let path = path.trim_end_matches('/');
    if !path.is_empty() {
        let pattern = json!({ "regex": "^(/.*)$" });
        let before = path.replace('\\', "\\\\");
        redirect["regex_rewrite"] = json!({ "pattern": pattern, "substitution": format!("/{before}\\1") });
    }
    json!({ "match": matching(rule, &[]), "redirect": redirect })
}

/// Of another edge: the plan of a release that wants it is refused.
fn not_carried(rule: &Rule) -> Value {
    answer_not_carried(&matching(rule, &[]))
}

pub(super) fn answer_not_carried(matching: &Value) -> Value {
    answer(matching, "not-carried", 503, "The edge of this server cannot do what this route asks for.")
}

fn present(name: &str) -> Value {
    json!({ "name": name, "present_match": true })
}

fn absent(name: &str) -> Value {
    json!({ "name": name, "present_match": true, "invert_match": true })
}

/// A field whose whole value is of this regular expression.
fn fits(name: &str, pattern: &str) -> Value {
    json!({ "name": name, "string_match": { "safe_regex": { "regex": pattern } } })
}

/// No body is announced.
fn bodiless() -> [Value; 2] {
    let mut none = fits("content-length", "0?");
    none["treat_missing_header_as_empty"] = true.into();
    [none, absent("transfer-encoding")]
}

fn forward(rule: &Rule, splits: &[Split], judged: bool, table: &Table) -> Vec<Value> {
    let Some(target) = Target::of(rule, splits, judged, table) else {
        return vec![answer(&matching(rule, &[]), "no-ready-instance", 503, "No instance of the app is ready.")];
    };
    let most = rule.body.0.0;
    let websocket = json!({ "name": "upgrade", "string_match": { "exact": "websocket", "ignore_case": true } });
    let call = json!({ "name": "content-type", "string_match": { "prefix": "application/grpc" } });
    let tunnel = match &rule.policies.upload {
        None => target.route(rule, &[websocket], rule.idle),
        // What passes through a tunnel is not seen.
        Some(_) => {
            answer(&matching(rule, &[websocket]), UploadFault::Tunnel.code(), 415, UploadFault::Tunnel.sentence())
        }
    };
    let plain = target.route(rule, &[present("content-length")], rule.timeout);
    let mut held = target.route(rule, &[absent("content-length")], rule.timeout);
    let [length, chunks] = bodiless();
    let mut again = target.route(rule, &[fits(":method", REPEATABLE), length, chunks], rule.timeout);
    again["route"]["retry_policy"] = retries(&format!("{UNHEARD},reset"));
    // A stream of HTTP/2 may have a body and announce nothing. Who judges a body counts it as well.
    for route in [&mut held, &mut again].into_iter().filter(|_| rule.policies.upload.is_none()) {
        if let Some(on) = route["typed_per_filter_config"].as_object_mut() {
            policy::hold(on, most);
        }
    }
    let mut routes: Vec<Value> = too_large(rule).into_iter().chain([tunnel]).collect();
    if target.calls {
        let mut call = target.route(rule, &[call], rule.timeout);
        // As long as its client waits.
        call["route"]["max_stream_duration"] = json!({ "grpc_timeout_header_max": "0s" });
        routes.push(call);
    }
    routes.extend([again, plain, held]);
    routes
}

/// Of a length that is announced and no number from 0 to the limit. Envoy's numbers have 63 bits, and a length may have 64: one beyond them
/// is in no range. `None`: no number is larger than the limit.
fn too_large(rule: &Rule) -> Option<Value> {
    let beyond = i64::try_from(rule.body.0.0).ok()?.checked_add(1)?;
    let allowed = json!({ "start": "0", "end": beyond.to_string() });
    let other = json!({ "name": "content-length", "range_match": allowed, "invert_match": true });
    let matching = matching(rule, &[present("content-length"), other]);
    Some(answer(&matching, "body-too-large", 413, TOO_LARGE))
}

/// Where a rule's requests go.
struct Target {
    /// Fields of a `RouteAction`.
    action: Value,
    /// Filters that it needs.
    on: Map<String, Value>,
    /// Its instances speak HTTP/2, as servers of gRPC do.
    calls: bool,
}

impl Target {
    /// `None`: nobody is there.
    fn of(rule: &Rule, splits: &[Split], judged: bool, table: &Table) -> Option<Self> {
        let pool = |split: &Split| table.pools.get(&split.pool);
        let is_there = |split: &&Split| pool(split).is_some_and(|pool| !pool.endpoints.is_empty());
        let there: Vec<&Split> = splits.iter().filter(is_there).collect();
        let calls = there.iter().any(|split| pool(split).is_some_and(|pool| pool.protocol == Protocol::H2c));
        let mut on = Map::new();
        let weighted: Vec<&&Split> = there.iter().filter(|split| split.weight.get() > 0).collect();
        let action = match (judged, weighted.as_slice()) {
            (true, _) if !there.is_empty() => {
                policy::steer(&mut on, &steering(splits, &there));
                json!({ "cluster_header": POOL })
            }
            (_, []) => return None,
            (_, [only]) => json!({ "cluster": cluster_name(&only.pool) }),
            (_, several) => {
                let of = |split: &&&Split| json!({ "name": cluster_name(&split.pool), "weight": split.weight.get() });
                json!({ "weighted_clusters": { "clusters": several.iter().map(of).collect::<Vec<_>>() } })
            }
        };
        policy::judged(&mut on, rule);
        let mut target = Self { action, on, calls };
        target.action["timeout"] = "0s".into();
        target.action["cluster_not_found_response_code"] = "SERVICE_UNAVAILABLE".into();
        target.action["retry_policy"] = retries(UNHEARD);
        if rule.strip && rule.prefix != PathPrefix::root() {
            let prefix = if is_guarded(rule) { covering(&rule.prefix) } else { escaped(rule.prefix.as_str()) };
            let pattern = format!("^{prefix}/?(.*)$");
            target.action["regex_rewrite"] = json!({ "pattern": { "regex": pattern }, "substitution": "/\\1" });
        }
        Some(target)
    }

    /// A route of it for requests with these fields, which may rest for so long.
    fn route(&self, rule: &Rule, headers: &[Value], idle: std::time::Duration) -> Value {
        let mut action = self.action.clone();
        action["idle_timeout"] = seconds(idle).into();
        json!({ "match": matching(rule, headers), "route": action, "typed_per_filter_config": self.on.clone() })
    }
}

/// The request has reached no instance.
const UNHEARD: &str = "connect-failure,refused-stream,reset-before-request";

/// Once more at another instance.
fn retries(on: &str) -> Value {
    let previous = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    json!({
        "retry_on": on,
        "num_retries": 2,
        "retry_host_predicate": [{ "name": "previous", "typed_config": super::any(previous, json!({})) }],
        "host_selection_retry_max_attempts": 3,
    })
}

/// From one candidate to the next the places are turned by so much: see the embedded edge, whose places these are.
const TURN: u64 = 37;

/// The pools in the order of their places: the candidate, the stable release, its baseline.
fn steering(splits: &[Split], there: &[&Split]) -> Value {
    let candidate = splits.iter().rev().map(|split| &split.pool).find(|pool| pool.cohort == Cohort::Whole);
    let order = |split: &&&Split| (Some(&split.pool) != candidate, split.pool.cohort == Cohort::Baseline);
    let mut sorted: Vec<&&Split> = there.iter().collect();
    sorted.sort_by_key(order);
    let pool = |split: &&&Split| {
        let mut pool = json!({ "cluster": cluster_name(&split.pool), "weight": split.weight.get() });
        if split.pool.cohort == Cohort::Whole {
            pool["look"] = split.pool.release.to_string().into();
        }
        pool
    };
    let pools: Vec<Value> = sorted.iter().map(pool).collect();
    let split = splits.iter().filter(|split| split.weight.get() > 0).count() > 1;
    let turn = candidate.map_or(0, |pool| u64::from(pool.release.0) * TURN % 100);
    json!({ "pools": pools, "split": split, "turn": turn })
}

/// As a regular expression that matches just this.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| (!c.is_ascii_alphanumeric() && c != '/').then_some('\\').into_iter().chain([c])).collect()
}

/// The daemon's API, over TLS only: requests carry tokens.
pub(super) fn to_api(host: &HostName, over: Over) -> Value {
    let routes = match over {
        Over::Tls => {
            let client = header(CLIENT_FIELD, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%");
            json!([{
                "name": cluster::API,
                "match": { "prefix": "/" },
                "route": { "cluster": cluster::API, "timeout": "0s", "idle_timeout": "3600s" },
                "request_headers_to_add": [client],
            }])
        }
        Over::Plain { .. } => {
            let sentence = "This address is answered over HTTPS only. A token that was sent here is to be revoked.";
            json!([answer(&json!({ "prefix": "/" }), "tls-wanted", 403, sentence)])
        }
    };
    json!({ "name": host.as_str(), "domains": [host.as_str()], "routes": routes })
}
