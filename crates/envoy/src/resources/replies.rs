//! What Envoy answers by itself, said as the embedded edge says it: a line of text, or a page where a browser asks.

use serde_json::{Value, json};

use super::{any, header};
use crate::upload;

const EXPRESSION: &str = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";

/// A field of the answer that says why, and a sentence. Routes and scripts that answer by themselves say both already.
struct Reply {
    filter: Value,
    code: &'static str,
    sentence: &'static str,
    /// `None`: as Envoy has it.
    status: Option<u16>,
}

/// The first that fits counts.
pub(super) fn all() -> Vec<Value> {
    let known = known().into_iter().flat_map(|reply| [reply.mapper(true), reply.mapper(false)]);
    // What says itself why it is.
    known.chain([json!({ "filter": by_browsers(), "body_format_override": format(true) })]).collect()
}

/// Of a body that is larger than the route takes, and of one that did not come in time, whoever has found it.
pub(crate) const TOO_LARGE: &str = "The request's body is larger than this address accepts.";
pub(crate) const LATE: &str = "The request did not arrive in time.";

fn known() -> Vec<Reply> {
    let reply = |filter, code, status, sentence| Reply { filter, code, sentence, status };
    let by = |flags: &[&str]| json!({ "response_flag_filter": { "flags": flags } });
    let no_instance = "The app has no instance that is ready. Try again in a moment.";
    let closed = "The app's instance closed the connection without an answer.";
    let malformed = "The app's instance answered with something that is not well-formed HTTP.";
    let busy = "The daemon is asked by too many others at once. Try again in a moment.";
    let stranger = "Your address is not among those that are let in here.";
    let unjudged = "What is sent here is looked at first, and just now nobody does. Try again in a moment.";
    let overloaded = "This server has as much to do as it can. Try again in a moment.";
    vec![
        reply(detailed("overload"), "edge-overloaded", Some(503), overloaded),
        reply(detailed("ext_proc_error"), upload::AWAY, Some(503), unjudged),
        reply(by(&["UH", "NC"]), "no-ready-instance", Some(503), no_instance),
        reply(by(&["UF"]), "connect-failed", Some(502), "The app's instance does not accept connections."),
        reply(by(&["UC", "UR"]), "upstream-closed", Some(502), closed),
        reply(by(&["UPE"]), "malformed-answer", Some(502), malformed),
        reply(by(&["UO"]), "daemon-busy", Some(503), busy),
        reply(both(&by(&["SI"]), &of_status(408)), "body-timeout", None, LATE),
        reply(by(&["UT", "SI"]), "response-timeout", Some(504), "The app's instance did not answer in time."),
        reply(by(&["RL"]), "too-many-requests", None, "Too many requests came in too short a time."),
        reply(detailed("rbac_access_denied"), "not-allowed", None, stranger),
        reply(detailed("request_payload_too_large"), "body-too-large", None, TOO_LARGE),
    ]
}

impl Reply {
    fn mapper(&self, is_page: bool) -> Value {
        let filter = if is_page { both(&by_browsers(), &self.filter) } else { self.filter.clone() };
        let mut headers = vec![header("x-bowline-error", self.code), header("cache-control", "no-store")];
        if self.status == Some(503) {
            headers.push(header("retry-after", "1"));
        }
        let mut mapper = json!({
            "filter": filter,
            "body": { "inline_string": format!("{}\n", self.sentence) },
            "body_format_override": format(is_page),
            "headers_to_add": headers,
        });
        if let Some(status) = self.status {
            mapper["status_code"] = status.into();
        }
        mapper
    }
}

/// Architecture invariant: nothing that a client has said stands in a page.
fn format(is_page: bool) -> Value {
    let (kind, text) = match is_page {
        true => ("text/html; charset=utf-8", include_str!("page.html")),
        false => ("text/plain; charset=utf-8", "%LOCAL_REPLY_BODY%"),
    };
    json!({ "content_type": kind, "text_format_source": { "inline_string": text } })
}

fn by_browsers() -> Value {
    json!({ "header_filter": { "header": { "name": "accept", "string_match": { "contains": "text/html" } } } })
}

fn both(one: &Value, other: &Value) -> Value {
    json!({ "and_filter": { "filters": [one, other] } })
}

fn of_status(status: u16) -> Value {
    let value = json!({ "default_value": status, "runtime_key": "bowline.never" });
    json!({ "status_code_filter": { "comparison": { "op": "EQ", "value": value } } })
}

/// By the beginning of what Envoy calls the reason.
fn detailed(detail: &str) -> Value {
    let expression = format!("response.code_details.startsWith('{detail}')");
    json!({ "extension_filter": { "name": "detail", "typed_config": any(EXPRESSION, json!({ "expression": expression })) } })
}
