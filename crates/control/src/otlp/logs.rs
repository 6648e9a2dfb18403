//! What instances print as records of a log, each line by itself. What is a JSON object is taken apart.

use std::collections::BTreeMap;

use bowline_core::id::InstanceId;
use bowline_core::log::{LogLine, LogSource};
use bowline_core::release::Stream;
use bowline_core::time::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::{Map, Value as Json};

use super::attribute::{Origin, attribute, id, integer, resource, text};
use super::nanos;

/// Fields of a line that become attributes; the others are counted.
const MOST_FIELDS: usize = 64;

/// Which stream it was.
const STREAM: &str = "log.iostream";

/// By which names loggers say these things.
const LEVELS: [&str; 6] = ["level", "severity", "lvl", "log.level", "levelname", "severity_text"];
const MESSAGES: [&str; 3] = ["message", "msg", "body"];
const TRACES: [&str; 4] = ["trace_id", "traceId", "trace.id", "otelTraceID"];
const SPANS: [&str; 4] = ["span_id", "spanId", "span.id", "otelSpanID"];

/// The request for these lines, and how many there are.
pub(super) fn request(lines: Vec<LogLine>, origin: &Origin, now: Timestamp) -> (ExportLogsServiceRequest, u64) {
    // By instance, what it printed itself and what Bowline said of it.
    let mut instances: BTreeMap<InstanceId, [Vec<LogRecord>; 2]> = BTreeMap::new();
    let mut count = 0;
    for LogLine { at, source, text } in lines {
        let (instance, record, who) = match source {
            LogSource::App { instance, stream } => (instance, printed(text, stream, at), 0),
            LogSource::Bowline { instance } => (instance, said(text, at), 1),
            LogSource::Access => continue,
        };
        let record = LogRecord { observed_time_unix_nano: nanos(now), ..record };
        instances.entry(instance).or_default()[who].push(record);
        count += 1;
    }
    let of_instance = |(id, [own, said]): (InstanceId, [Vec<LogRecord>; 2])| {
        let scopes = [(None, own), (Some(origin.scope("bowline")), said)];
        let scopes = scopes.into_iter().filter(|(_, records)| !records.is_empty());
        let scope_logs = scopes.map(|(scope, log_records)| ScopeLogs { scope, log_records, ..ScopeLogs::default() });
        let resource = Some(of(&id, origin));
        ResourceLogs { resource, scope_logs: scope_logs.collect(), ..ResourceLogs::default() }
    };
    (ExportLogsServiceRequest { resource_logs: instances.into_iter().map(of_instance).collect() }, count)
}

fn of(id: &InstanceId, origin: &Origin) -> Resource {
    let slot = &id.slot;
    resource([
        text("service.name", slot.key.app.as_str()),
        text("service.version", slot.release.to_string()),
        text("service.instance.id", id.to_string()),
        text("deployment.environment.name", slot.key.env.as_str()),
        text("host.name", &origin.host),
        text("bowline.service", slot.service.as_str()),
        integer("bowline.release", slot.release.0.into()),
    ])
}

fn body(text: String) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(text)) })
}

fn said(line: String, at: Timestamp) -> LogRecord {
    LogRecord {
        time_unix_nano: nanos(at),
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: body(line),
        ..LogRecord::default()
    }
}

fn printed(line: String, stream: Stream, at: Timestamp) -> LogRecord {
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let record = match object(&line) {
        Some(fields) => structured(fields, line),
        None => LogRecord { body: body(line), ..LogRecord::default() },
    };
    let mut attributes = vec![text(STREAM, stream)];
    attributes.extend(record.attributes);
    LogRecord { time_unix_nano: nanos(at), attributes, ..record }
}

fn object(line: &str) -> Option<Map<String, Json>> {
    let is_likely = line.starts_with('{') && line.ends_with('}');
    is_likely.then(|| serde_json::from_str(line).ok()).flatten()
}

/// Of a line without a message, the whole is the message.
fn structured(mut fields: Map<String, Json>, line: String) -> LogRecord {
    let level = take(&mut fields, &LEVELS, severity);
    let message = take(&mut fields, &MESSAGES, |value| value.as_str().map(str::to_owned));
    let trace_id = take(&mut fields, &TRACES, |value| id::<16>(value.as_str()?)).unwrap_or_default();
    let span_id = take(&mut fields, &SPANS, |value| id::<8>(value.as_str()?)).unwrap_or_default();
    let (severity_number, severity_text) = match level {
        Some((number, text)) => (number.into(), text),
        None => (0, String::new()),
    };
    let all = fields.len();
    // Keys are not empty, and each is there once.
    let named = fields.into_iter().filter(|(name, _)| !name.is_empty() && name != STREAM);
    let (attributes, dropped) = match message {
        Some(_) => {
            let kept: Vec<_> = named.take(MOST_FIELDS).map(|(name, value)| field(&name, value)).collect();
            let dropped = all - kept.len();
            (kept, dropped)
        }
        None => (Vec::new(), 0),
    };
    LogRecord {
        severity_number,
        severity_text,
        body: body(message.unwrap_or(line)),
        attributes,
        dropped_attributes_count: u32::try_from(dropped).unwrap_or(u32::MAX),
        trace_id,
        span_id,
        ..LogRecord::default()
    }
}

/// The first of these fields that says it.
fn take<T>(fields: &mut Map<String, Json>, names: &[&str], read: impl Fn(&Json) -> Option<T>) -> Option<T> {
    let (name, value) = names.iter().find_map(|name| Some((*name, read(fields.get(*name)?)?)))?;
    fields.remove(name);
    Some(value)
}

fn field(name: &str, value: Json) -> KeyValue {
    match value {
        Json::String(value) => text(name, value),
        Json::Bool(value) => attribute(name, Value::BoolValue(value)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => attribute(name, Value::IntValue(whole)),
            (None, Some(broken)) => attribute(name, Value::DoubleValue(broken)),
            (None, None) => text(name, number.to_string()),
        },
        nested @ (Json::Null | Json::Array(_) | Json::Object(_)) => text(name, nested.to_string()),
    }
}

/// Words, and the numbers of pino and bunyan.
fn severity(level: &Json) -> Option<(SeverityNumber, String)> {
    let (said, word) = match level {
        Json::String(word) => (word.clone(), word.to_ascii_lowercase()),
        Json::Number(number) => {
            let word = match number.as_u64()? / 10 {
                1 => "trace",
                2 => "debug",
                3 => "info",
                4 => "warn",
                5 => "error",
                6 => "fatal",
                _ => return None,
            };
            (word.to_uppercase(), word.to_owned())
        }
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => return None,
    };
    let number = match word.as_str() {
        "trace" => SeverityNumber::Trace,
        "debug" | "fine" | "verbose" => SeverityNumber::Debug,
        "info" | "information" | "informational" | "log" => SeverityNumber::Info,
        "notice" => SeverityNumber::Info2,
        "warn" | "warning" => SeverityNumber::Warn,
        "error" | "err" => SeverityNumber::Error,
        "fatal" | "critical" | "crit" | "panic" | "alert" | "emergency" | "emerg" => SeverityNumber::Fatal,
        _ => return None,
    };
    Some((number, said))
}

#[cfg(test)]
mod tests {
    use super::super::attribute::tests::{origin, shown};
    use super::*;

    fn line(instance: &str, text: &str) -> LogLine {
        let source = LogSource::App { instance: instance.parse().unwrap(), stream: Stream::Stderr };
        LogLine { at: Timestamp(5), source, text: text.to_owned() }
    }

    fn text_of(record: &LogRecord) -> String {
        let Some(Value::StringValue(text)) = record.body.clone().unwrap().value else { panic!("{record:?}") };
        text
    }

    #[test]
    fn lines_are_of_the_instance_that_printed_them() {
        let [first, second] = ["local/shop.web.r3.0.2", "production/shop.web.r4.1.1"];
        let said = LogSource::Bowline { instance: first.parse().unwrap() };
        let said = LogLine { at: Timestamp(6), source: said, text: "started: pid 7".to_owned() };
        let lines = vec![line(first, "one"), line(second, "two"), said, line(first, "three")];
        let (request, count) = request(lines, &origin(), Timestamp(8));
        assert_eq!((request.resource_logs.len(), count), (2, 4));
        let of_first = &request.resource_logs[0];
        assert_eq!(
            shown(&of_first.resource.as_ref().unwrap().attributes),
            [
                "service.name=shop",
                "service.version=3",
                "service.instance.id=local/shop.web.r3.0.2",
                "deployment.environment.name=local",
                "host.name=box",
                "bowline.service=web",
                "bowline.release=3",
            ]
        );
        let [own, said] = of_first.scope_logs.as_slice() else { panic!("{of_first:?}") };
        assert_eq!(own.log_records.iter().map(text_of).collect::<Vec<_>>(), ["one", "three"]);
        assert_eq!(shown(&own.log_records[0].attributes), ["log.iostream=stderr"]);
        assert_eq!(own.log_records[0].time_unix_nano, 5_000_000);
        assert_eq!(own.log_records[0].observed_time_unix_nano, 8_000_000);
        assert_eq!((said.scope.as_ref().unwrap().name.as_str(), said.log_records.len()), ("bowline", 1));
    }

    #[test]
    fn what_loggers_say_in_json_is_understood() {
        let check = |text: &str, severity: SeverityNumber, message: &str, attributes: &[&str]| {
            let record = printed(text.to_owned(), Stream::Stdout, Timestamp(1));
            assert_eq!(record.severity_number, i32::from(severity), "{text}");
            assert_eq!(text_of(&record), message, "{text}");
            assert_eq!(shown(&record.attributes)[1..], *attributes, "{text}");
        };
        check(r#"{"level":"WARN","msg":"slow","took":1.5,"n":3}"#, SeverityNumber::Warn, "slow", &["n=3", "took=1.5"]);
        check(r#"{"level":50,"message":"bad","ok":false}"#, SeverityNumber::Error, "bad", &["ok=false"]);
        check(
            r#"{"severity":"critical","message":"m","at":{"a":[1]}}"#,
            SeverityNumber::Fatal,
            "m",
            &["at={\"a\":[1]}"],
        );
        check(r#"{"level":"odd","msg":"m"}"#, SeverityNumber::Unspecified, "m", &["level=odd"]);
        let whole = r#"{"level":"info","event":"x"}"#;
        check(whole, SeverityNumber::Info, whole, &[]);
        check("{not json}", SeverityNumber::Unspecified, "{not json}", &[]);
        check("plain", SeverityNumber::Unspecified, "plain", &[]);
        // Keys are there once, and none is empty.
        let odd = r#"{"msg":"m","":1,"log.iostream":"x","a":1,"a":2}"#;
        check(odd, SeverityNumber::Unspecified, "m", &["a=2"]);
        check("", SeverityNumber::Unspecified, "", &[]);
    }

    #[test]
    fn a_line_belongs_to_the_span_that_it_names() {
        let text = r#"{"msg":"m","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7"}"#;
        let record = printed(text.to_owned(), Stream::Stdout, Timestamp(1));
        assert_eq!((record.trace_id.len(), record.span_id.len(), record.attributes.len()), (16, 8, 1));
        let wrong = printed(r#"{"msg":"m","trace_id":"4bf9"}"#.to_owned(), Stream::Stdout, Timestamp(1));
        assert_eq!((wrong.trace_id.len(), &*shown(&wrong.attributes)[1]), (0, "trace_id=4bf9"));
    }

    #[test]
    fn fields_are_bounded() {
        let fields: Vec<String> = (0..70).map(|n| format!("\"f{n:02}\":{n}")).collect();
        let text = format!("{{\"msg\":\"m\",{}}}", fields.join(","));
        let record = printed(text, Stream::Stdout, Timestamp(1));
        assert_eq!((record.attributes.len(), record.dropped_attributes_count), (MOST_FIELDS + 1, 6));
    }
}
