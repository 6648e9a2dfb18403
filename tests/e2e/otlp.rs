//! Metrics, logs and traces to a collector: what it gets, and what becomes of it when it is not there.

mod collector;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bowline_tests::client::{Answer, curl};
use bowline_tests::server::Server;
use bowline_tests::{Bowline, SOON, envoy, path, text, wait};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;

use collector::{Collector, Mood, said};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// In `server.toml`.
const ENVOY: &str = "edge = \"envoy\"\n";

/// A server with a collector, and what `traced` is deployed to it.
struct Observed {
    bowline: Bowline,
    server: Option<Server>,
    config: PathBuf,
}

impl Observed {
    fn start(collector: &Collector, more: &str) -> Self {
        Self::behind("", collector, more)
    }

    /// `edge`: what `server.toml` says of it.
    fn behind(edge: &str, collector: &Collector, more: &str) -> Self {
        let bowline = Bowline::new();
        let config = bowline.folder("etc").join("server.toml");
        let headers = bowline.folder("etc").join("otlp.headers");
        std::fs::write(&headers, "Authorization: Bearer t0ken\n").expect("a file of the test");
        let text = format!(
            "{edge}[otlp]\nendpoint = \"{}\"\nheaders = \"{}\"\ninterval = \"1s\"\n{more}",
            collector.endpoint(),
            headers.display()
        );
        std::fs::write(&config, text).expect("a file of the test");
        let mut observed = Self { bowline, server: None, config };
        observed.serve(&["127.0.0.1:0"; 2]);
        let folder = observed.bowline.app("traced", "traced");
        let output = observed.bowline.run(&["deploy", path(&folder), "--env", "production"]);
        assert!(output.status.success(), "{}", text_of(&output));
        observed
    }

    fn serve(&mut self, [http, https]: &[&str; 2]) {
        let args = ["--http", http, "--https", https, "--admin", "0", "--config", path(&self.config)];
        self.server = Some(Server::start_with(&self.bowline, &[], &args));
    }

    fn address(&self, what: &str) -> String {
        self.bowline.status().pointer(what).and_then(Value::as_str).expect("an address").to_owned()
    }

    /// What the app says that it was asked with.
    fn ask(&self, of: &str, args: &[&str]) -> Answer {
        let url = format!("http://{}{of}", self.address("/edge/http"));
        curl(&self.bowline.ca(), &url, &[args, &["--header", "Host: traced.localhost"]].concat())
    }

    fn metrics(&self) -> String {
        curl(&self.bowline.ca(), &format!("http://{}/metrics", self.address("/daemon/admin")), &[]).text()
    }

    /// The sum of all series that begin so.
    fn counted(&self, series: &str) -> f64 {
        let text = self.metrics();
        let values = text.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    }

    fn events(&self, kind: &str) -> usize {
        let all = self.bowline.json(&["events", "-n", "1000"])["events"].clone();
        all.as_array().expect("events").iter().filter(|event| event["event"] == kind).count()
    }
}

fn text_of(output: &std::process::Output) -> String {
    text(output)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn span_of(collector: &Collector, path: &str) -> Span {
    wait(&format!("the span of {path}"), SOON, || collector.span(path))
}

#[test]
fn a_request_is_a_span_of_the_clients_trace_and_the_parent_of_the_apps() {
    let collector = Collector::start(Mood::Takes);
    expect_spans(&Observed::start(&collector, ""), &collector);
}

#[test]
fn envoy_is_a_span_of_a_trace_as_the_embedded_edge_is() {
    assert!(envoy().exists(), "run scripts/setup first: {} is missing", envoy().display());
    let collector = Collector::start(Mood::Takes);
    let observed = Observed::behind(ENVOY, &collector, "");
    expect_spans(&observed, &collector);
    let notes = observed.bowline.status()["daemon"]["notes"].clone();
    assert!(notes.as_array().is_none_or(Vec::is_empty), "{notes}");

    // What is answered without the app is one, too.
    let nowhere = format!("http://{}/nowhere", observed.address("/edge/http"));
    let told = curl(&observed.bowline.ca(), &nowhere, &["--header", "Host: other.localhost"]);
    assert_eq!(told.status, 404);
    let span = span_of(&collector, "/nowhere");
    assert_eq!((span.name.as_str(), said(&span.attributes, "bowline.blame").as_deref()), ("GET", Some("client")));

    // Nothing hostile is any span's parent.
    let broken = format!("traceparent: ff-{TRACE}-{PARENT}-01");
    let told = observed.ask("/broken", &["--header", &broken]).text();
    let span = span_of(&collector, "/broken");
    assert_eq!(told, format!("00-{}-{}-03", hex(&span.trace_id), hex(&span.span_id)));
    assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE, "{span:?}");
}

#[test]
fn envoy_records_no_more_than_it_is_told_to() {
    let collector = Collector::start(Mood::Takes);
    let observed = Observed::behind(ENVOY, &collector, "sample = \"0%\"\n");
    assert!(observed.ask("/begun", &[]).text().ends_with("-02"), "it is not recorded");
    let given = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    observed.ask("/given", &["--header", &given]);
    span_of(&collector, "/given");
    assert!(collector.span("/begun").is_none(), "it came before, and is no span");
}

/// Of one edge, which is not said here.
fn expect_spans(observed: &Observed, collector: &Collector) {
    let given = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let told = observed.ask("/given", &["--header", &given]).text();
    let span = span_of(collector, "/given");
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex(&span.span_id)), "the app's span is its child");
    assert_eq!((span.name.as_str(), span.kind), ("GET /", 2));
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/"),
        ("http.response.status_code", "200"),
        ("server.address", "traced.localhost"),
        ("client.address", "127.0.0.1"),
        ("bowline.app", "traced"),
        ("bowline.release", "1"),
    ] {
        assert_eq!(said(&span.attributes, key).as_deref(), Some(value), "{key}: {span:?}");
    }
    assert!(span.start_time_unix_nano < span.end_time_unix_nano && span.status.is_none(), "{span:?}");

    // One line of JSON, which names the span, and one that is none.
    let (resource, record) =
        wait("the line of the app", SOON, || collector.lines("asked for /given").into_iter().next());
    assert_eq!((hex(&record.trace_id).as_str(), &record.span_id), (TRACE, &span.span_id));
    assert_eq!((record.severity_number, record.severity_text.as_str()), (13, "warn"));
    assert_eq!(said(&record.attributes, "n").as_deref(), Some("7"));
    assert_eq!(said(&record.attributes, "log.iostream").as_deref(), Some("stdout"));
    for (key, value) in [
        ("service.name", "traced"),
        ("service.version", "1"),
        ("service.instance.id", "production/traced.web.r1.0.1"),
        ("deployment.environment.name", "production"),
        ("bowline.service", "web"),
    ] {
        assert_eq!(said(&resource.attributes, key).as_deref(), Some(value), "{key}: {resource:?}");
    }
    let plain = wait("its other line", SOON, || collector.lines("plain /given").into_iter().next()).1;
    assert_eq!((plain.severity_number, said(&plain.attributes, "log.iostream").as_deref()), (0, Some("stderr")));

    let begun = observed.ask("/fails", &[]).text();
    let span = span_of(collector, "/fails");
    assert_eq!(begun, format!("00-{}-{}-03", hex(&span.trace_id), hex(&span.span_id)));
    assert!(span.parent_span_id.is_empty(), "the trace begins with it");
    let unsampled = format!("traceparent: 00-{TRACE}-{PARENT}-00");
    assert_eq!(observed.ask("/unsampled", &["--header", &unsampled]).text(), unsampled["traceparent: ".len()..]);
    assert_eq!(observed.ask("/fail", &[]).status, 503);
    let failed = span_of(collector, "/fail");
    assert_eq!(said(&failed.attributes, "error.type").as_deref(), Some("503"));
    assert_eq!(failed.status.map(|status| status.code), Some(2));
    assert!(collector.span("/unsampled").is_none(), "it came before, and is no span");
    assert!(collector.authorizations().iter().all(|token| token == "bearer t0ken"));
    assert!(!observed.metrics().contains("t0ken"));
}

#[test]
fn metrics_say_what_a_scrape_says() {
    let collector = Collector::start(Mood::Takes);
    let observed = Observed::start(&collector, "sample = \"0%\"\n");
    for number in 0..7 {
        assert!(observed.ask(&format!("/{number}"), &[]).text().ends_with("-02"), "no trace is recorded");
    }
    const SERIES: &str =
        "http_server_request_duration_seconds_count{app=\"traced\",env=\"production\",service=\"web\",release=\"1\"";
    wait("seven requests are counted", SOON, || (observed.counted(SERIES) >= 7.0).then_some(()));
    let point = wait("they are sent", SOON, || collector.durations(200).filter(|point| point.count == 7));
    assert_eq!(observed.counted(SERIES), 7.0);
    let text = observed.metrics();
    let buckets = text.lines().filter(|line| {
        line.starts_with("http_server_request_duration_seconds_bucket{") && line.contains("http_route=\"/\"")
    });
    let scraped: Vec<u64> =
        buckets.map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a count")).collect();
    let below: Vec<u64> = point
        .bucket_counts
        .iter()
        .scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
        .collect();
    assert_eq!(below, scraped, "{text}");
    assert_eq!(point.explicit_bounds.len() + 1, point.bucket_counts.len());
    assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano < point.time_unix_nano);
    let resource = collector.resource().expect("who sends");
    assert_eq!(said(&resource.attributes, "service.name").as_deref(), Some("bowline"));
    assert!(said(&resource.attributes, "host.name").is_some());
    // Each family that is exposed is sent, by its name or by that of the conventions.
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        let name = if kind == "counter" { name.trim_end_matches("_total") } else { name };
        let dotted = match name {
            "http_server_active_requests" => "http.server.active_requests".to_owned(),
            name if name.starts_with("http_server_") => {
                let name = name.trim_end_matches("_seconds").trim_end_matches("_bytes");
                name.replace('_', ".")
            }
            name => name.to_owned(),
        };
        wait(&format!("{dotted} is sent"), SOON, || collector.metric(&dotted));
    }
    let Some(Data::Sum(sum)) = collector.metric("bowline_edge_connections_accepted").and_then(|one| one.data) else {
        panic!("no sum")
    };
    assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
    assert!(collector.spans().is_empty());
}

#[test]
fn what_happens_while_no_daemon_runs_is_sent_by_the_next_and_counts_go_on() {
    let collector = Collector::start(Mood::Takes);
    let mut observed = Observed::start(&collector, "");
    observed.ask("/before", &[]);
    span_of(&collector, "/before");
    // Of the newest millisecond, lines may come again.
    observed.ask("/newest", &[]);
    wait("the newest line", SOON, || collector.lines("plain /newest").into_iter().next());
    let before = wait("it is counted", SOON, || collector.durations(200).filter(|point| point.count == 2));
    let [http, https] = ["/edge/http", "/edge/https"].map(|what| observed.address(what));
    let url = format!("http://{http}/meanwhile");
    let ended = observed.server.take().expect("it runs").end(Signal::SIGTERM);
    assert!(ended.success());
    let told = curl(&observed.bowline.ca(), &url, &["--header", "Host: traced.localhost"]).text();
    observed.serve(&[&http, &https]);
    let span = span_of(&collector, "/meanwhile");
    assert!(told.contains(&hex(&span.span_id)), "{told}");
    wait("the app's line", SOON, || collector.lines("asked for /meanwhile").into_iter().next());
    let after = wait("all are counted", SOON, || collector.durations(200).filter(|point| point.count == 3));
    assert_eq!(after.start_time_unix_nano, before.start_time_unix_nano, "the edge has counted on");
    assert_eq!(collector.lines("asked for /before").len(), 1, "what was sent is not sent again");

    // Another edge counts anew.
    let edge = i32::try_from(observed.bowline.edge()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(edge), Signal::SIGKILL).expect("it runs");
    wait("another edge answers", SOON, || {
        let seen = observed.bowline.status();
        (seen["edge"]["pid"].as_i64() != Some(edge.into()) && seen["edge"]["state"] == "serving").then_some(())
    });
    observed.ask("/anew", &[]);
    let anew = wait("it is counted anew", SOON, || {
        collector.durations(200).filter(|point| point.count == 1 && point.time_unix_nano > after.time_unix_nano)
    });
    assert!(anew.start_time_unix_nano > after.start_time_unix_nano, "{anew:?}");
}

#[test]
fn a_collector_that_is_away_is_told_of_once_and_gets_what_has_waited() {
    let collector = Collector::away();
    let observed = Observed::start(&collector, "");
    let told = observed.ask("/early", &[]).text();
    wait("it is told", SOON, || (observed.events("otlp.silent") > 0).then_some(()));
    let note = observed.bowline.status()["daemon"]["notes"][0].to_string();
    assert!(note.contains("the collector does not answer") && note.contains("cannot be reached"), "{note}");
    collector.is(Mood::Later(1));
    collector.listen();
    let asked = wait("it is asked", SOON, || Some(collector.asked()).filter(|asked| *asked >= 3));
    collector.is(Mood::Takes);
    let span = span_of(&collector, "/early");
    assert!(told.contains(&hex(&span.span_id)) && asked >= 3);
    wait("the app's line", SOON, || collector.lines("asked for /early").into_iter().next());
    let calm = Duration::from_secs(60);
    wait("its return is told", calm + SOON, || (observed.events("otlp.answers") == 1).then_some(()));
    assert_eq!(observed.events("otlp.silent"), 1);
    assert!(observed.bowline.status()["daemon"]["notes"].as_array().is_none_or(Vec::is_empty));
    assert!(observed.counted("bowline_otlp_failures_total{signal=\"traces\"") >= 3.0);
    assert_eq!(observed.counted("bowline_otlp_dropped_total"), 0.0, "all was kept");

    collector.is(Mood::Rejects);
    observed.ask("/rejected", &[]);
    let rejected = "bowline_otlp_dropped_total{signal=\"traces\",reason=\"rejected\"}";
    wait("what is not taken is counted", SOON, || (observed.counted(rejected) >= 1.0).then_some(()));
    collector.is(Mood::Refuses);
    observed.ask("/refused", &[]);
    let refused = "bowline_otlp_dropped_total{signal=\"traces\",reason=\"refused\"}";
    wait("what is refused is counted", SOON, || (observed.counted(refused) >= 1.0).then_some(()));
    wait("and told", SOON, || (observed.events("otlp.silent") == 2).then_some(()));
    let note = observed.bowline.status()["daemon"]["notes"][0].to_string();
    assert!(note.contains("refuses") && note.contains("401"), "{note}");
}

#[test]
fn a_collector_that_hangs_holds_up_nobody() {
    let collector = Collector::start(Mood::Hangs);
    let mut observed = Observed::start(&collector, "");
    wait("it is asked", SOON, || (collector.asked() >= 2).then_some(()));
    for number in 0..20 {
        assert_eq!(observed.ask(&format!("/{number}"), &["--max-time", "20"]).status, 200);
    }
    wait("it waits", SOON, || (observed.counted("bowline_otlp_waiting_bytes{signal=\"traces\"}") > 0.0).then_some(()));
    let begun = Instant::now();
    assert!(observed.server.take().expect("it runs").end(Signal::SIGTERM).success());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
