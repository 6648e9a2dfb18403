//! Lines of the access log as spans: what the edge did, as a server, whichever edge has written them.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::log::LogLine;
use bowline_core::route::Table;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde::Deserialize;

use super::attribute::{Origin, id, integer, text};
use super::nanos;

/// Sampled; that the trace's id is random; that it is known whether the parent is elsewhere; that it is (`SpanFlags`).
const SAMPLED: u32 = 1;
const RANDOM: u32 = 2;
const KNOWS_PARENT: u32 = 0x100;
const PARENT_ELSEWHERE: u32 = 0x200;

/// By environment, app and name, the paths that routes begin with.
pub(super) type Routes = BTreeMap<(String, String, String), String>;

pub(super) fn routes(table: &Table) -> Routes {
    let rules = table.sites.values().flat_map(|site| &site.rules);
    let name =
        |id: &bowline_core::route::RuleId| (id.key.env.to_string(), id.key.app.to_string(), id.route.to_string());
    rules.map(|rule| (name(&rule.id), rule.prefix.to_string())).collect()
}

/// What a line says.
#[derive(Deserialize)]
struct Line {
    app: Option<String>,
    env: Option<String>,
    route: Option<String>,
    service: Option<String>,
    release: Option<u64>,
    instance: Option<String>,
    method: String,
    host: String,
    path: String,
    status: u16,
    /// What an instance has said, as Envoy has read it.
    grpc_status: Option<i64>,
    #[serde(default)]
    duration_ms: f64,
    /// Of Envoy, whose milliseconds are whole.
    duration_us: Option<i64>,
    bytes_in: u64,
    bytes_out: u64,
    client: String,
    protocol: String,
    #[serde(default)]
    tls: String,
    trace_id: String,
    span_id: String,
    parent_span_id: Option<String>,
    #[serde(default)]
    trace_random: bool,
    request_id: Option<String>,
    blame: Option<String>,
    reason: Option<String>,
    /// Envoy's own word for why.
    detail: Option<String>,
}

/// How that begins of an answer that its instance has broken off.
const CUT: &str = "upstream_reset_after_response_started";

/// Behind it there is a tunnel, which ends no other way.
const SWITCHING_PROTOCOLS: u16 = 101;

impl Line {
    fn of(text: &str) -> Option<Self> {
        let said: Self = serde_json::from_str(text).ok()?;
        let is_cut = said.detail.as_deref().is_some_and(|detail| detail.starts_with(CUT));
        Some(match is_cut && said.status != SWITCHING_PROTOCOLS {
            true => Self { blame: Some("upstream".to_owned()), reason: Some("upstream-closed".to_owned()), ..said },
            false => said,
        })
    }
}

/// The request for these lines, and how many spans there are.
pub(super) fn request(lines: &[LogLine], routes: &Routes, origin: &Origin) -> (ExportTraceServiceRequest, u64) {
    let spans: Vec<Span> = lines.iter().filter_map(|line| span(line, routes)).collect();
    let count = spans.len() as u64;
    let scope_spans = vec![ScopeSpans { scope: Some(origin.scope("bowline.edge")), spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: Some(origin.bowline()), scope_spans, ..ResourceSpans::default() };
    (ExportTraceServiceRequest { resource_spans: vec![resource_spans] }, count)
}

/// A line is written when its request has ended.
fn span(line: &LogLine, routes: &Routes) -> Option<Span> {
    let said = Line::of(&line.text)?;
    let prefix = match (&said.env, &said.app, &said.route) {
        (Some(env), Some(app), Some(route)) => routes.get(&(env.clone(), app.clone(), route.clone())),
        (_, _, _) => None,
    };
    let method = known_method(&said.method);
    let name = match (method, prefix) {
        (Some(method), Some(prefix)) => format!("{method} {prefix}"),
        (Some(method), None) => method.to_owned(),
        (None, Some(prefix)) => format!("HTTP {prefix}"),
        (None, None) => "HTTP".to_owned(),
    };
    let took = match said.duration_us.and_then(|micros| u64::try_from(micros).ok()) {
        Some(micros) => Duration::from_micros(micros),
        None => Duration::try_from_secs_f64(said.duration_ms / 1000.0).ok()?,
    };
    let ended = nanos(line.at);
    let parent_span_id = said.parent_span_id.as_deref().and_then(id::<8>);
    let elsewhere = if parent_span_id.is_some() { PARENT_ELSEWHERE } else { 0 };
    let random = if said.trace_random { RANDOM } else { 0 };
    let failure = failure(&said);
    Some(Span {
        trace_id: id::<16>(&said.trace_id)?,
        span_id: id::<8>(&said.span_id)?,
        parent_span_id: parent_span_id.unwrap_or_default(),
        flags: SAMPLED | random | KNOWS_PARENT | elsewhere,
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: ended.saturating_sub(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
        end_time_unix_nano: ended,
        attributes: attributes(&said, method, prefix, failure.as_deref()),
        status: failure
            .map(|_| Status { message: said.reason.clone().unwrap_or_default(), code: StatusCode::Error.into() }),
        ..Span::default()
    })
}

/// By what a request has failed. Of a server, what the client has brought upon itself is no failure.
fn failure(said: &Line) -> Option<String> {
    let call = said.grpc_status.and_then(failed_call);
    let is_one = said.status >= 500 || call.is_some() || matches!(said.blame.as_deref(), Some("upstream" | "bowline"));
    let by = || said.reason.clone().or(call.map(str::to_owned)).unwrap_or_else(|| said.status.to_string());
    is_one.then(by)
}

/// Codes of gRPC that are a server's errors (OpenTelemetry's conventions for gRPC).
fn failed_call(code: i64) -> Option<&'static str> {
    match code {
        2 => Some("UNKNOWN"),
        4 => Some("DEADLINE_EXCEEDED"),
        12 => Some("UNIMPLEMENTED"),
        13 => Some("INTERNAL"),
        14 => Some("UNAVAILABLE"),
        15 => Some("DATA_LOSS"),
        _ => None,
    }
}

/// Envoy has the host as the client has said it.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

/// `None`: it is called `_OTHER`.
fn known_method(method: &str) -> Option<&str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.contains(&method).then_some(method)
}

fn attributes(said: &Line, method: Option<&str>, prefix: Option<&String>, failure: Option<&str>) -> Vec<KeyValue> {
    let mut all = vec![
        text("http.request.method", method.unwrap_or("_OTHER")),
        text("url.path", &said.path),
        text("url.scheme", if said.tls.is_empty() { "http" } else { "https" }),
        text("server.address", without_port(&said.host)),
        text("client.address", &said.client),
        integer("http.request.body.size", said.bytes_in),
        integer("http.response.body.size", said.bytes_out),
    ];
    let mut say = |name: &str, value: Option<&str>| all.extend(value.map(|value| text(name, value)));
    say("http.request.method_original", method.is_none().then_some(&*said.method));
    say("http.route", prefix.map(String::as_str));
    let version = said.protocol.strip_prefix("HTTP/");
    say("network.protocol.version", version.map(|version| if version == "2.0" { "2" } else { version }));
    say("error.type", failure);
    say("bowline.blame", said.blame.as_deref());
    say("bowline.app", said.app.as_deref());
    say("bowline.env", said.env.as_deref());
    say("bowline.route", said.route.as_deref());
    say("bowline.service", said.service.as_deref());
    say("bowline.instance", said.instance.as_deref());
    say("bowline.request_id", said.request_id.as_deref());
    let mut count = |name: &str, value: Option<u64>| all.extend(value.map(|value| integer(name, value)));
    // 0: it ended before there was an answer.
    count("http.response.status_code", (said.status > 0).then_some(said.status.into()));
    count("rpc.grpc.status_code", said.grpc_status.and_then(|code| u64::try_from(code).ok()));
    count("bowline.release", said.release);
    all
}

#[cfg(test)]
mod tests {
    use bowline_core::log::LogSource;
    use bowline_core::time::Timestamp;

    use super::super::attribute::tests::{origin, shown};
    use super::*;

    const IDS: &str = r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","request_id":"r1","span_id":"00f067aa0ba902b7""#;

    fn line(fields: &str) -> LogLine {
        let text = format!(
            r#"{{"ts":"x",{fields},"method":"GET","host":"a.test","path":"/api/x","duration_ms":1.500,"bytes_in":1,"bytes_out":2,"client":"10.0.0.1","protocol":"HTTP/2.0",{IDS}}}"#
        );
        LogLine { at: Timestamp(1_000), source: LogSource::Access, text }
    }

    fn only(line: &LogLine) -> Span {
        let name = ["local", "shop", "main"].map(str::to_owned);
        let routes = Routes::from([(name.into(), "/api".to_owned())]);
        let (request, count) = request(std::slice::from_ref(line), &routes, &origin());
        assert_eq!(count, 1, "{line:?}");
        request.resource_spans[0].scope_spans[0].spans[0].clone()
    }

    #[test]
    fn a_line_is_a_span_of_a_server() {
        let of = r#""app":"shop","env":"local","route":"main","service":"web","release":3,"instance":"local/shop.web.r3.0.1""#;
        let span = only(&line(&format!(r#"{of},"status":200,"tls":"TLSv1.3","parent_span_id":"aaaaaaaaaaaaaaaa""#)));
        assert_eq!((span.name.as_str(), span.kind), ("GET /api", 2));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (998_500_000, 1_000_000_000));
        assert_eq!((&*span.parent_span_id, span.flags), (&[0xaa; 8][..], 0x301));
        assert_eq!((span.trace_id[0], span.span_id[1]), (0x4b, 0xf0));
        assert!(span.status.is_none());
        let attributes = shown(&span.attributes);
        for expected in [
            "http.request.method=GET",
            "http.route=/api",
            "http.response.status_code=200",
            "url.path=/api/x",
            "url.scheme=https",
            "server.address=a.test",
            "client.address=10.0.0.1",
            "network.protocol.version=2",
            "bowline.app=shop",
            "bowline.release=3",
            "bowline.instance=local/shop.web.r3.0.1",
        ] {
            assert!(attributes.iter().any(|one| one == expected), "{expected}: {attributes:?}");
        }
        assert!(!attributes.iter().any(|one| one.starts_with("error.type")));
    }

    #[test]
    fn what_fails_says_by_what() {
        let check = |fields: &str, error: Option<&str>, is_error: bool| {
            let span = only(&line(fields));
            let attributes = shown(&span.attributes);
            let said = attributes.iter().find_map(|one| one.strip_prefix("error.type="));
            assert_eq!((said, span.status.is_some()), (error, is_error), "{fields}");
            assert_eq!((span.name.as_str(), span.parent_span_id.len(), span.flags), ("GET", 0, 0x101));
        };
        check(r#""status":503"#, Some("503"), true);
        check(r#""status":502,"blame":"upstream","reason":"connect-refused""#, Some("connect-refused"), true);
        check(r#""status":200,"blame":"upstream","reason":"body-cut""#, Some("body-cut"), true);
        check(r#""status":404"#, None, false);
        check(r#""status":0,"blame":"client","reason":"client-gone""#, None, false);
        for (code, name) in [(2, "UNKNOWN"), (4, "DEADLINE_EXCEEDED"), (12, "UNIMPLEMENTED"), (15, "DATA_LOSS")] {
            check(&format!(r#""status":200,"grpc_status":{code}"#), Some(name), true);
        }
        for code in [0, 1, 3, 5, 7, 8, 16] {
            check(&format!(r#""status":200,"grpc_status":{code}"#), None, false);
        }
        check(r#""status":502,"grpc_status":14,"blame":"upstream","reason":"reset""#, Some("reset"), true);
        // Of Envoy.
        let cut = r#""detail":"upstream_reset_after_response_started{connection_termination}""#;
        check(&format!(r#""status":200,{cut}"#), Some("upstream-closed"), true);
        check(&format!(r#""status":101,{cut}"#), None, false);
        check(r#""status":200,"detail":"via_upstream""#, None, false);
    }

    #[test]
    fn versions_are_those_of_the_protocol_and_a_random_id_is_said_to_be() {
        let check = |protocol: &str, expected: &str| {
            let mut line = line(r#""status":200,"trace_random":true"#);
            line.text = line.text.replace("HTTP/2.0", protocol);
            let span = only(&line);
            assert_eq!(span.flags, 0x103);
            let version = shown(&span.attributes).into_iter().find(|one| one.starts_with("network.protocol.version="));
            assert_eq!(version.as_deref(), Some(expected), "{protocol}");
        };
        check("HTTP/1.0", "network.protocol.version=1.0");
        check("HTTP/1.1", "network.protocol.version=1.1");
        check("HTTP/2.0", "network.protocol.version=2");
    }

    /// As Envoy writes it: keys in their order, whole milliseconds, the host with its port.
    #[test]
    fn a_line_of_envoy_is_a_span_likewise() {
        let check = |host: &str, length: &str, expected: (&str, u64)| {
            let text = format!(
                r#"{{"app":"shop","bytes_in":0,"bytes_out":2,"client":"::1","cohort":"whole",{length}"env":"local","grpc_status":-1,"host":"{host}","instance":"local/shop.web.r3.0.1","method":"GET","parent_span_id":"aaaaaaaaaaaaaaaa","path":"/api/x","protocol":"HTTP/1.1","release":3,"route":"main","service":"web","span_id":"00f067aa0ba902b7","status":200,"template":"/api","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","trace_random":true,"ts":"x"}}"#
            );
            let span = only(&LogLine { at: Timestamp(1_000), source: LogSource::Access, text });
            assert_eq!((span.name.as_str(), span.flags, span.status), ("GET /api", 0x303, None));
            let attributes = shown(&span.attributes);
            let address = attributes.iter().find_map(|one| one.strip_prefix("server.address="));
            assert_eq!((address, span.start_time_unix_nano), (Some(expected.0), expected.1), "{attributes:?}");
            assert!(!attributes.iter().any(|one| one.starts_with("rpc.")), "{attributes:?}");
        };
        check("a.test:8443", r#""duration_ms":1,"duration_us":1500,"#, ("a.test", 998_500_000));
        check("a.test", r#""duration_ms":2,"#, ("a.test", 998_000_000));
        check("[::1]:80", "", ("[::1]", 1_000_000_000));
        check("[::1]", "", ("[::1]", 1_000_000_000));
    }

    #[test]
    fn what_is_no_span_is_none() {
        let text = "{\"span_id\":\"x\"}".to_owned();
        let (_, count) =
            request(&[LogLine { at: Timestamp(1), source: LogSource::Access, text }], &Routes::new(), &origin());
        assert_eq!(count, 0);
    }
}
