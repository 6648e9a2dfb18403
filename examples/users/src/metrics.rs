//! What is counted, and how it is read at `/metrics`.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds. A page is read within the first three; the last is the limit of a query.
const BOUNDS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0];

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
struct Query {
    /// `ok`, or why not.
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connections {
    /// `idle` or `used`.
    state: &'static str,
}

type Count = Gauge<i64, AtomicI64>;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
    queries: Family<Query, Counter>,
    query_durations: Histogram,
    database_up: Count,
    pool_max: Count,
    pool_connections: Family<Connections, Count>,
    pool_waiting: Count,
}

fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("users");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit("http_request_duration", "Time to answer", Unit::Seconds, durations.clone());
        let queries = Family::default();
        registry.register("database_queries", "Queries, by what became of them", queries.clone());
        let query_durations = histogram();
        let help = "Time until the database answered or was given up, waiting for a connection included";
        registry.register_with_unit("database_query_duration", help, Unit::Seconds, query_durations.clone());
        let database_up = Count::default();
        registry.register("database_up", "1 if the last query was answered", database_up.clone());
        let pool_max = Count::default();
        registry.register("pool_max_connections", "Connections that may be open", pool_max.clone());
        let pool_connections = Family::default();
        registry.register("pool_connections", "Connections that are open", pool_connections.clone());
        let pool_waiting = Count::default();
        registry.register("pool_waiting", "Requests that wait for a connection", pool_waiting.clone());
        Self {
            registry,
            requests,
            durations,
            queries,
            query_durations,
            database_up,
            pool_max,
            pool_connections,
            pool_waiting,
        }
    }
}

impl Metrics {
    pub(crate) fn answered(&self, request: Request, took: Duration) {
        let route = Route { route: request.route.clone() };
        self.durations.get_or_create(&route).observe(took.as_secs_f64());
        self.requests.get_or_create(&request).inc();
    }

    pub(crate) fn queried(&self, outcome: &'static str, took: Duration) {
        self.queries.get_or_create(&Query { outcome }).inc();
        self.query_durations.observe(took.as_secs_f64());
    }

    pub(crate) fn database_is(&self, up: bool) {
        self.database_up.set(i64::from(up));
    }

    pub(crate) fn pool_is(&self, max: usize, open: usize, idle: usize, waiting: usize) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.pool_max.set(count(max));
        self.pool_connections.get_or_create(&Connections { state: "idle" }).set(count(idle));
        self.pool_connections.get_or_create(&Connections { state: "used" }).set(count(open.saturating_sub(idle)));
        self.pool_waiting.set(count(waiting));
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
        let request = Request { route: "/users".to_owned(), method: "GET", status: 200 };
        metrics.answered(request, Duration::from_millis(2));
        metrics.queried("ok", Duration::from_millis(1));
        metrics.database_is(true);
        metrics.pool_is(10, 4, 3, 2);
        let text = metrics.text();
        for line in [
            "users_http_requests_total{route=\"/users\",method=\"GET\",status=\"200\"} 1",
            "users_http_request_duration_seconds_count{route=\"/users\"} 1",
            "users_http_request_duration_seconds_bucket{le=\"0.001\",route=\"/users\"} 0",
            "users_database_queries_total{outcome=\"ok\"} 1",
            "users_database_query_duration_seconds_count 1",
            "users_database_up 1",
            "users_pool_max_connections 10",
            "users_pool_connections{state=\"idle\"} 3",
            "users_pool_connections{state=\"used\"} 1",
            "users_pool_waiting 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
