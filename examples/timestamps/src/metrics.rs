//! What is counted, and how it is read at `/metrics`.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds. Redis answers within the first three; the last is the limit of a command.
const BOUNDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

/// Routes and methods are those that are served, everything else is `other`: clients cannot make series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Request {
    pub(crate) route: String,
    pub(crate) method: &'static str,
    pub(crate) status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Command {
    command: &'static str,
    /// `ok`, or why not.
    outcome: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
    commands: Family<Command, Counter>,
    command_durations: Histogram,
    redis_up: Gauge<i64, AtomicI64>,
}

fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("timestamps");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit("http_request_duration", "Time to answer", Unit::Seconds, durations.clone());
        let commands = Family::default();
        registry.register("redis_commands", "Commands to Redis, by what became of them", commands.clone());
        let command_durations = histogram();
        let help = "Time until Redis answered or was given up";
        registry.register_with_unit("redis_command_duration", help, Unit::Seconds, command_durations.clone());
        let redis_up = Gauge::default();
        registry.register("redis_up", "1 if the last command was answered", redis_up.clone());
        Self { registry, requests, durations, commands, command_durations, redis_up }
    }
}

impl Metrics {
    pub(crate) fn answered(&self, request: Request, took: Duration) {
        let route = Route { route: request.route.clone() };
        self.durations.get_or_create(&route).observe(took.as_secs_f64());
        self.requests.get_or_create(&request).inc();
    }

    pub(crate) fn commanded(&self, command: &'static str, outcome: &'static str, took: Duration) {
        self.commands.get_or_create(&Command { command, outcome }).inc();
        self.command_durations.observe(took.as_secs_f64());
    }

    pub(crate) fn redis_is(&self, up: bool) {
        self.redis_up.set(i64::from(up));
    }

    /// In the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String can always be written to");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_dashboards_use() {
        let metrics = Metrics::default();
        let request = Request { route: "/get".to_owned(), method: "GET", status: 200 };
        metrics.answered(request, Duration::from_millis(2));
        metrics.commanded("GET", "ok", Duration::from_millis(1));
        metrics.redis_is(true);
        let text = metrics.text();
        for line in [
            "timestamps_http_requests_total{route=\"/get\",method=\"GET\",status=\"200\"} 1",
            "timestamps_http_request_duration_seconds_count{route=\"/get\"} 1",
            "timestamps_http_request_duration_seconds_bucket{le=\"0.001\",route=\"/get\"} 0",
            "timestamps_redis_commands_total{command=\"GET\",outcome=\"ok\"} 1",
            "timestamps_redis_command_duration_seconds_count 1",
            "timestamps_redis_up 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
