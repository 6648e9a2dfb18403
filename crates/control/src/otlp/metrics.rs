//! Families of series as metrics, cumulative: the names and labels of `/metrics`, those of OpenTelemetry's conventions as it writes them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bowline_core::time::Timestamp;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};

use super::attribute::{Origin, integer, text};
use super::nanos;
use crate::metrics::{Began, Family, Kind, Labels, Row, Value};

/// Series whose beginning is remembered though they are gone, at most: they may come back.
const MOST_REMEMBERED: usize = 32_768;

/// Names that are written with dots, and their units.
const CONVENTIONS: [(&str, &str, &str); 4] = [
    ("http_server_request_duration_seconds", "http.server.request.duration", "s"),
    ("http_server_request_body_size_bytes", "http.server.request.body.size", "By"),
    ("http_server_response_body_size_bytes", "http.server.response.body.size", "By"),
    ("http_server_active_requests", "http.server.active_requests", "{request}"),
];

/// What is exposed as a gauge and is a sum that falls, too: over instances, it is added up.
const UP_AND_DOWN: [&str; 1] = ["http_server_active_requests"];

/// Units by the end of a name.
const UNITS: [(&str, &str); 4] = [("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1"), ("_cores", "{core}")];

/// Since when series count.
#[derive(Debug, Default)]
pub(super) struct Beginnings {
    known: BTreeMap<u64, Known>,
    /// When it was looked last.
    before: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    start: Timestamp,
    /// As it was said.
    began: Option<Timestamp>,
    last: f64,
    seen: Timestamp,
}

impl Beginnings {
    /// When the count began that is `value` now. `began`: what is known of it.
    fn of(&mut self, series: u64, value: f64, began: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let before = self.before.unwrap_or(now);
        let start = match (self.known.get(&series), began) {
            (Some(known), Some(began)) if known.began.is_none_or(|before| began > before) => began.min(now),
            // It was forgotten and counts anew: after it was looked last.
            (Some(known), _) if value < known.last => before,
            (Some(known), _) => known.start,
            (None, Some(began)) => began.min(now),
            (None, None) => now,
        };
        self.known.insert(series, Known { start, began, last: value, seen: now });
        start
    }

    /// All have been asked for.
    fn looked(&mut self, now: Timestamp) {
        self.before = Some(now);
        if self.known.len() > MOST_REMEMBERED {
            self.known.retain(|_, known| known.seen == now);
        }
    }
}

/// The request, and how many data points it has.
pub(super) fn request(
    families: &[Family],
    beginnings: &mut Beginnings,
    origin: &Origin,
    now: Timestamp,
) -> (ExportMetricsServiceRequest, u64) {
    // Nothing is said of a count whose beginning will be known: it would be told anew.
    let said = |family: &&Family| family.rows.iter().any(is_said);
    let metrics: Vec<Metric> = families.iter().filter(said).map(|family| metric(family, beginnings, now)).collect();
    beginnings.looked(now);
    let points = families.iter().flat_map(|family| &family.rows).filter(|row| is_said(row)).count() as u64;
    let scope = Some(origin.scope("bowline"));
    let scope_metrics = vec![ScopeMetrics { scope, metrics, ..ScopeMetrics::default() }];
    let resource = Some(origin.bowline());
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    (ExportMetricsServiceRequest { resource_metrics }, points)
}

fn is_said(row: &Row) -> bool {
    row.began != Began::Unsaid
}

fn metric(family: &Family, beginnings: &mut Beginnings, now: Timestamp) -> Metric {
    let rows = || family.rows.iter().filter(|row| is_said(row));
    let mut start = |row: &Row, value: f64| {
        let mut hasher = DefaultHasher::new();
        (&family.name, &row.labels).hash(&mut hasher);
        let began = match row.began {
            Began::At(at) => Some(at),
            Began::Unknown | Began::Unsaid => None,
        };
        nanos(beginnings.of(hasher.finish(), value, began, now))
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Gauge if UP_AND_DOWN.contains(&&*family.name) => {
            // That it falls is no beginning.
            let points = rows().filter_map(|row| number(row, start(row, 0.0), now));
            let data_points = points.collect();
            Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: false })
        }
        Kind::Gauge => {
            let points = rows().filter_map(|row| number(row, 0, now));
            Data::Gauge(Gauge { data_points: points.collect() })
        }
        Kind::Counter => {
            let points = rows().filter_map(|row| match row.value {
                Value::Number(value) => number(row, start(row, value), now),
                Value::Histogram { .. } => None,
            });
            let data_points = points.collect();
            Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true })
        }
        Kind::Histogram => {
            let points = rows().filter_map(|row| histogram(row, &mut start, now));
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality: cumulative })
        }
    };
    let (name, unit) = name_and_unit(&family.name);
    let description = family.help.to_owned();
    Metric { name: name.to_owned(), description, unit: unit.to_owned(), data: Some(data), ..Metric::default() }
}

fn name_and_unit(exposed: &str) -> (&str, &'static str) {
    if let Some((_, name, unit)) = CONVENTIONS.iter().find(|(known, ..)| *known == exposed) {
        return (name, unit);
    }
    let unit = UNITS.iter().find(|(end, _)| exposed.ends_with(end)).map_or("", |(_, unit)| unit);
    (exposed, unit)
}

fn number(row: &Row, start: u64, now: Timestamp) -> Option<NumberDataPoint> {
    let Value::Number(value) = row.value else { return None };
    Some(NumberDataPoint {
        attributes: attributes(&row.labels),
        start_time_unix_nano: start,
        time_unix_nano: nanos(now),
        value: Some(Number::AsDouble(value)),
        ..NumberDataPoint::default()
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53; only which is larger counts")]
fn histogram(row: &Row, start: &mut impl FnMut(&Row, f64) -> u64, now: Timestamp) -> Option<HistogramDataPoint> {
    let Value::Histogram { counts, sum, bounds } = &row.value else { return None };
    let count = counts.iter().sum::<u64>();
    Some(HistogramDataPoint {
        attributes: attributes(&row.labels),
        start_time_unix_nano: start(row, count as f64),
        time_unix_nano: nanos(now),
        count,
        sum: Some(*sum),
        bucket_counts: counts.clone(),
        explicit_bounds: bounds.to_vec(),
        ..HistogramDataPoint::default()
    })
}

/// What is not said is left out.
fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let said = labels.iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, value)| match (*name, value.parse()) {
        ("http_response_status_code", Ok(status)) => integer("http.response.status_code", status),
        ("http_request_method", _) => text("http.request.method", value),
        ("http_route", _) => text("http.route", value),
        (name, _) => text(name, value),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::attribute::tests::{origin, shown};
    use super::*;

    fn row(labels: &[(&'static str, &str)], value: Value, began: Option<u64>) -> Row {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Row { labels, value, began: began.map(Timestamp).into() }
    }

    fn family(name: &str, kind: Kind, rows: Vec<Row>) -> Family {
        Family { name: name.to_owned(), help: "Help", kind, rows }
    }

    fn metrics(families: &[Family]) -> Vec<Metric> {
        let (request, _) = request(families, &mut Beginnings::default(), &origin(), Timestamp(9_000));
        request.resource_metrics.into_iter().next().unwrap().scope_metrics.into_iter().next().unwrap().metrics
    }

    #[test]
    fn names_units_and_labels_are_those_of_the_conventions_where_there_are_some() {
        let labels = [
            ("app", "shop"),
            ("service", ""),
            ("http_request_method", "GET"),
            ("http_route", "/api"),
            ("http_response_status_code", "200"),
        ];
        let value = Value::Histogram { counts: vec![1, 0, 2], sum: 7.5, bounds: &[0.5, 1.0] };
        let duration =
            family("http_server_request_duration_seconds", Kind::Histogram, vec![row(&labels, value, Some(1_000))]);
        let got = metrics(&[duration]).remove(0);
        assert_eq!((got.name.as_str(), got.unit.as_str()), ("http.server.request.duration", "s"));
        let Some(Data::Histogram(histogram)) = got.data else { panic!("no histogram") };
        assert_eq!(histogram.aggregation_temporality, 2, "cumulative");
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum, &*point.bucket_counts), (3, Some(7.5), &[1, 0, 2][..]));
        assert_eq!(point.explicit_bounds, [0.5, 1.0]);
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1_000_000_000, 9_000_000_000));
        assert_eq!(
            shown(&point.attributes),
            ["app=shop", "http.request.method=GET", "http.route=/api", "http.response.status_code=200"]
        );
    }

    #[test]
    fn counters_are_sums_that_only_grow_and_gauges_are_gauges() {
        let cpu = row(&[("instance", "i")], Value::Number(2.5), Some(4_000));
        let memory = row(&[], Value::Number(4096.0), None);
        let got = metrics(&[
            family("bowline_instance_cpu_seconds", Kind::Counter, vec![cpu]),
            family("bowline_edge_private_memory_bytes", Kind::Gauge, vec![memory]),
        ]);
        assert_eq!((got[0].name.as_str(), got[0].unit.as_str()), ("bowline_instance_cpu_seconds", "s"));
        let Some(Data::Sum(sum)) = &got[0].data else { panic!("no sum") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        assert_eq!(sum.data_points[0].start_time_unix_nano, 4_000_000_000);
        assert_eq!(got[1].unit, "By");
        let Some(Data::Gauge(gauge)) = &got[1].data else { panic!("no gauge") };
        assert_eq!(gauge.data_points[0].value, Some(Number::AsDouble(4096.0)));
    }

    #[test]
    fn what_goes_up_and_down_is_added_up_and_has_one_beginning() {
        let mut beginnings = Beginnings::default();
        for (at, active) in (1..).zip([3.0, 1.0, 2.0]) {
            let row = row(&[("instance", "i")], Value::Number(active), None);
            let families = [family("http_server_active_requests", Kind::Gauge, vec![row])];
            let (request, _) = request(&families, &mut beginnings, &origin(), Timestamp(at * 1_000));
            let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
            let Some(Data::Sum(sum)) = &metric.data else { panic!("no sum") };
            assert_eq!((metric.name.as_str(), sum.is_monotonic), ("http.server.active_requests", false));
            let point = &sum.data_points[0];
            let expected = (Some(Number::AsDouble(active)), 1_000_000_000);
            assert_eq!((point.value, point.start_time_unix_nano), expected);
        }
    }

    #[test]
    fn what_is_not_counted_yet_is_not_sent() {
        let accepted = |began: Began| {
            let row = Row { began, ..row(&[], Value::Number(0.0), None) };
            family("bowline_edge_connections_accepted", Kind::Counter, vec![row])
        };
        let sent = |began: Began| {
            let (request, points) =
                request(&[accepted(began)], &mut Beginnings::default(), &origin(), Timestamp(9_000));
            (request.resource_metrics[0].scope_metrics[0].metrics.len(), points)
        };
        assert_eq!(sent(Began::Unsaid), (0, 0));
        assert_eq!(sent(Began::Unknown), (1, 1));
        assert_eq!(sent(Began::At(Timestamp(1))), (1, 1));
    }

    /// Values of one series as it is looked at each second, what is known of its beginning, and the one that is told.
    #[test]
    fn a_count_has_one_beginning_until_it_counts_anew() {
        let check = |looks: &[(f64, Option<u64>, u64)]| {
            let mut beginnings = Beginnings::default();
            for (at, (value, began, expected)) in (1..).zip(looks) {
                let now = Timestamp(at * 1_000);
                let got = beginnings.of(7, *value, began.map(Timestamp), now);
                beginnings.looked(now);
                assert_eq!(got, Timestamp(*expected), "look {at} of {looks:?}");
            }
        };
        // The daemon was started again, and the edge was not.
        check(&[(5.0, Some(300), 300), (6.0, Some(300), 300)]);
        // Another edge.
        check(&[(5.0, Some(300), 300), (1.0, Some(1_500), 1_500), (2.0, Some(1_500), 1_500)]);
        // The edge had forgotten the series meanwhile.
        check(&[(5.0, Some(300), 300), (5.0, Some(300), 300), (1.0, Some(300), 2_000), (2.0, Some(300), 2_000)]);
        // Nobody knows.
        check(&[(5.0, None, 1_000), (6.0, None, 1_000), (1.0, None, 2_000), (1.0, None, 2_000)]);
        // A clock that was put back.
        check(&[(5.0, Some(9_000), 1_000), (6.0, Some(9_000), 1_000)]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut beginnings = Beginnings::default();
        for series in 0..=u64::try_from(MOST_REMEMBERED).unwrap() {
            beginnings.of(series, 1.0, None, Timestamp(1));
        }
        beginnings.of(0, 1.0, None, Timestamp(2));
        beginnings.looked(Timestamp(2));
        assert_eq!(beginnings.known.len(), 1);
    }
}
