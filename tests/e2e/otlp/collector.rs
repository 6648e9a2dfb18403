//! An OpenTelemetry collector that keeps what it is sent, and answers as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use bowline_tests::port::Port;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Takes,
    /// It has no time for so many seconds.
    Later(u32),
    /// It takes a request and never answers.
    Hangs,
    Refuses,
    /// Of spans one is not taken, of each request.
    Rejects,
}

#[derive(Debug, Default)]
struct Kept {
    metrics: Vec<Metric>,
    resources: Vec<Resource>,
    /// Each with what it is said of.
    logs: Vec<(Resource, LogRecord)>,
    spans: Vec<Span>,
    authorizations: Vec<String>,
    /// Requests, whatever came of them.
    asked: usize,
}

#[derive(Debug)]
pub(super) struct Collector {
    port: Port,
    mood: Arc<Mutex<Mood>>,
    kept: Arc<Mutex<Kept>>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("nothing panics while it is held")
}

impl Collector {
    /// It has its address, and does not listen yet.
    pub(super) fn away() -> Self {
        let (mood, kept) = (Arc::new(Mutex::new(Mood::Takes)), Arc::default());
        Self { port: Port::reserve(), mood, kept }
    }

    pub(super) fn start(mood: Mood) -> Self {
        let collector = Self::away();
        collector.is(mood);
        collector.listen();
        collector
    }

    pub(super) fn is(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    pub(super) fn listen(&self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port.number)).expect("the port is held");
        let (mood, kept) = (Arc::clone(&self.mood), Arc::clone(&self.kept));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mood, kept) = (Arc::clone(&mood), Arc::clone(&kept));
                let stream = stream.expect("a connection");
                std::thread::spawn(move || serve(stream, &mood, &kept));
            }
        });
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/otlp/", self.port.number)
    }

    pub(super) fn asked(&self) -> usize {
        lock(&self.kept).asked
    }

    pub(super) fn authorizations(&self) -> Vec<String> {
        lock(&self.kept).authorizations.clone()
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        lock(&self.kept).spans.clone()
    }

    /// The span of the request for this path.
    pub(super) fn span(&self, path: &str) -> Option<Span> {
        self.spans().into_iter().find(|span| said(&span.attributes, "url.path").as_deref() == Some(path))
    }

    /// The lines with this body.
    pub(super) fn lines(&self, body: &str) -> Vec<(Resource, LogRecord)> {
        let text = Value::StringValue(body.to_owned());
        let is_it = |(_, record): &&(Resource, LogRecord)| {
            record.body.as_ref().and_then(|body| body.value.as_ref()) == Some(&text)
        };
        lock(&self.kept).logs.iter().filter(is_it).cloned().collect()
    }

    /// The newest of a metric.
    pub(super) fn metric(&self, name: &str) -> Option<Metric> {
        lock(&self.kept).metrics.iter().rev().find(|metric| metric.name == name).cloned()
    }

    /// Of who sends metrics.
    pub(super) fn resource(&self) -> Option<Resource> {
        lock(&self.kept).resources.last().cloned()
    }

    /// The newest durations of requests of this path's prefix with this status.
    pub(super) fn durations(&self, status: u16) -> Option<HistogramDataPoint> {
        let Some(Data::Histogram(histogram)) = self.metric("http.server.request.duration")?.data else { return None };
        let status = status.to_string();
        let is_it = |point: &HistogramDataPoint| {
            said(&point.attributes, "http.response.status_code").as_deref() == Some(&status)
                && said(&point.attributes, "app").as_deref() == Some("traced")
        };
        histogram.data_points.into_iter().find(is_it)
    }
}

/// An attribute as text.
pub(super) fn said(attributes: &[KeyValue], key: &str) -> Option<String> {
    match attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(_)
        | Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => None,
    }
}

fn serve(stream: TcpStream, mood: &Mutex<Mood>, kept: &Mutex<Kept>) {
    let mut answers = stream.try_clone().expect("a descriptor");
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = request(&mut reader) {
        lock(kept).asked += 1;
        let mood = *lock(mood);
        let (status, more, body) = match mood {
            Mood::Hangs => return drop(reader.read_to_end(&mut Vec::new())),
            Mood::Later(seconds) => ("503 Service Unavailable", format!("Retry-After: {seconds}\r\n"), Vec::new()),
            Mood::Refuses => ("401 Unauthorized", String::new(), Vec::new()),
            Mood::Takes | Mood::Rejects => ("200 OK", String::new(), keep(&head, &body, mood, kept)),
        };
        let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n", body.len());
        if answers.write_all(&[head.as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

/// Head and body of the next request, the latter as it was before it was compressed.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_ascii_lowercase()),
        }
    }
    let field =
        |name: &str| head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
    assert_eq!(field("content-type").as_deref(), Some("application/x-protobuf"), "{head:?}");
    assert_eq!(field("content-encoding").as_deref(), Some("gzip"), "{head:?}");
    let mut body = vec![0; field("content-length").expect("a length").parse().expect("a number")];
    reader.read_exact(&mut body).ok()?;
    let mut whole = Vec::new();
    flate2::read::GzDecoder::new(&*body).read_to_end(&mut whole).expect("gzip");
    Some((head, whole))
}

/// What is answered to it.
fn keep(head: &[String], body: &[u8], mood: Mood, kept: &Mutex<Kept>) -> Vec<u8> {
    let mut kept = lock(kept);
    let authorization = head.iter().find_map(|line| line.strip_prefix("authorization: "));
    kept.authorizations.extend(authorization.map(str::to_owned));
    match head[0].as_str() {
        "post /otlp/v1/metrics http/1.1" => {
            for group in ExportMetricsServiceRequest::decode(body).expect("metrics").resource_metrics {
                kept.resources.extend(group.resource);
                kept.metrics.extend(group.scope_metrics.into_iter().flat_map(|scope| scope.metrics));
            }
        }
        "post /otlp/v1/logs http/1.1" => {
            for group in ExportLogsServiceRequest::decode(body).expect("logs").resource_logs {
                let resource = group.resource.expect("who has printed it");
                let records = group.scope_logs.into_iter().flat_map(|scope| scope.log_records);
                kept.logs.extend(records.map(|record| (resource.clone(), record)));
            }
        }
        "post /otlp/v1/traces http/1.1" => {
            let groups = ExportTraceServiceRequest::decode(body).expect("traces").resource_spans;
            let scopes = groups.into_iter().flat_map(|group| group.scope_spans);
            kept.spans.extend(scopes.flat_map(|scope| scope.spans));
            if mood == Mood::Rejects {
                let part = ExportTracePartialSuccess { rejected_spans: 1, error_message: "one is too old".to_owned() };
                return ExportTraceServiceResponse { partial_success: Some(part) }.encode_to_vec();
            }
        }
        other => panic!("asked for {other}"),
    }
    Vec::new()
}
