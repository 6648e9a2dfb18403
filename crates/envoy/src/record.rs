//! What was answered, from the lines of the access log: series by labels, and what a rollout goes by.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::app::PathPrefix;
use bowline_core::id::{AppKey, AppName, EnvName, InstanceId, ReleaseNumber, ServiceName};
use bowline_core::route::outlier::FAILURES;
use bowline_core::route::{
    Cohort, DURATION_BOUNDS, EdgeObservation, Histogram, Method, PoolId, SIZE_BOUNDS, Series, SeriesKey,
};
use bowline_core::verdict::{CLIENT_LEFT, Counted, FIRST_FAILURE};
use serde::Deserialize;
use serde_json::Value;

use crate::upload;

/// Series that are kept; what has other labels is only counted as dropped.
const MAX_SERIES: usize = 10_000;

/// A line, as [`crate::resources`] has Envoy write it.
#[derive(Debug, Default, Deserialize)]
struct Line {
    env: Option<String>,
    app: Option<String>,
    service: Option<String>,
    template: Option<String>,
    #[serde(default)]
    release: Value,
    cohort: Option<String>,
    instance: Option<String>,
    #[serde(default)]
    judged: Value,
    #[serde(default)]
    look: Value,
    #[serde(default)]
    method: String,
    #[serde(default)]
    status: u16,
    duration_us: Option<i64>,
    turn_us: Option<i64>,
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    bytes_out: u64,
    reason: Option<String>,
    /// Envoy's own word for why.
    detail: Option<String>,
}

/// Counters of one daemon's life.
#[derive(Debug)]
pub(crate) struct Totals {
    /// See [`Counted::began`].
    began: u64,
    series: BTreeMap<SeriesKey, Series>,
    traffic: BTreeMap<PoolId, Counted>,
    failed: BTreeMap<InstanceId, u32>,
    refused: BTreeMap<String, u64>,
    dropped: u64,
}

impl Totals {
    /// `began`: another number each time.
    pub(crate) fn new(began: u64) -> Self {
        let (series, traffic) = (BTreeMap::new(), BTreeMap::new());
        Self { began, series, traffic, failed: BTreeMap::new(), refused: BTreeMap::new(), dropped: 0 }
    }

    pub(crate) fn began(&self) -> u64 {
        self.began
    }

    /// Counts what one line says; what is no line of Envoy's is none.
    pub(crate) fn add(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
        let Some(key) = line.key() else {
            let reason = line.reason.as_deref().or(line.detail.as_deref()).map_or_else(String::new, code);
            *self.refused.entry(reason).or_default() += 1;
            return;
        };
        self.count(&key, &line);
        if line.reason.as_deref() == Some(upload::AWAY) {
            return;
        }
        if let Some(instance) = line.instance.as_deref().and_then(|text| text.parse::<InstanceId>().ok()) {
            match line.status() {
                FIRST_FAILURE.. => *self.failed.entry(instance).or_default() += 1,
                _ => drop(self.failed.remove(&instance)),
            }
        }
        if let Some(pool) = line.pool(&key).filter(|_| is_true(&line.judged) && !is_true(&line.look)) {
            let new = || Counted { began: self.began, ..Counted::default() };
            let counted = self.traffic.entry(pool).or_insert_with(new);
            counted.counters.record(line.status(), micros(line.turn_us.or(line.duration_us)));
        }
    }

    fn count(&mut self, key: &SeriesKey, line: &Line) {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(key) {
            self.dropped += 1;
            return;
        }
        let series = self.series.entry(key.clone()).or_default();
        record(&mut series.duration, &DURATION_BOUNDS, micros(line.duration_us).as_secs_f64());
        record(&mut series.request_size, &SIZE_BOUNDS, float(line.bytes_in));
        record(&mut series.response_size, &SIZE_BOUNDS, float(line.bytes_out));
    }

    /// Forgets instances that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&InstanceId) -> bool) {
        self.failed.retain(|instance, _| is_there(instance));
    }

    pub(crate) fn put(&self, seen: &mut EdgeObservation) {
        seen.series.clone_from(&self.series);
        seen.traffic.clone_from(&self.traffic);
        seen.refused.clone_from(&self.refused);
        seen.series_dropped = self.dropped;
        let many = self.failed.iter().filter(|(_, failed)| **failed >= FAILURES);
        seen.streaks = many.map(|(instance, failed)| (instance.clone(), *failed)).collect();
    }
}

impl Line {
    /// As counted: nobody was there to be answered where there is none.
    fn status(&self) -> u16 {
        if self.status == 0 { CLIENT_LEFT } else { self.status }
    }

    fn key(&self) -> Option<SeriesKey> {
        let env = EnvName::new(self.env.as_deref()?).ok()?;
        let app = AppName::new(self.app.as_deref()?).ok()?;
        // What was given to no instance is no service's either.
        let release = self.release();
        let service = release.and(self.service.as_deref()).and_then(|name| ServiceName::new(name).ok());
        Some(SeriesKey {
            key: AppKey { env, app },
            service,
            release,
            method: Method::of(self.method.as_bytes()),
            route: PathPrefix::new(self.template.as_deref()?).ok()?,
            status: self.status(),
        })
    }

    fn release(&self) -> Option<ReleaseNumber> {
        let number = match &self.release {
            // A number of protobuf's `Struct` is a double.
            Value::Number(number) => number.as_f64()?.to_string().parse().ok()?,
            Value::String(text) => text.parse().ok()?,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        Some(ReleaseNumber(number))
    }

    fn pool(&self, key: &SeriesKey) -> Option<PoolId> {
        let cohort = match self.cohort.as_deref()? {
            "baseline" => Cohort::Baseline,
            _ => Cohort::Whole,
        };
        Some(PoolId { key: key.key.clone(), service: key.service.clone()?, release: key.release?, cohort })
    }
}

/// Of a detail such as `direct_response` or `http1.codec_error{why}`, what does not depend on the request.
fn code(detail: &str) -> String {
    let end = detail.find(['{', '[', ' ']).unwrap_or(detail.len());
    detail[..end].to_owned()
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(is) => *is,
        Value::String(text) => text == "true",
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

fn micros(micros: Option<i64>) -> Duration {
    Duration::from_micros(micros.and_then(|micros| u64::try_from(micros).ok()).unwrap_or(0))
}

#[expect(clippy::cast_precision_loss, reason = "sizes of bodies: half a byte in petabytes")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

fn record(histogram: &mut Histogram, bounds: &[f64], value: f64) {
    histogram.counts.resize(bounds.len() + 1, 0);
    let bucket = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
    histogram.counts[bucket] += 1;
    histogram.sum += value;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"app":"shop","env":"local","route":"main","template":"/","service":"web","judged":true,"release":3,
        "cohort":"whole","instance":"local/shop.web.r3.0.1","method":"GET","status":STATUS,"duration_us":7000,"turn_us":6000,
        "bytes_in":0,"bytes_out":12}"#;

    fn seen(lines: &[String]) -> EdgeObservation {
        let mut totals = Totals::new(7);
        lines.iter().for_each(|line| totals.add(line.as_bytes()));
        let mut seen = EdgeObservation::default();
        totals.put(&mut seen);
        seen
    }

    fn line(status: u16) -> String {
        LINE.replace("STATUS", &status.to_string())
    }

    #[test]
    fn a_line_is_counted_by_its_labels_and_for_its_pool() {
        let seen = seen(&[line(200), line(200), line(500), line(0)]);
        let statuses: Vec<_> = seen.series.iter().map(|(key, one)| (key.status, one.duration.counts[1])).collect();
        assert_eq!(statuses, [(200, 2), (499, 1), (500, 1)]);
        let key = seen.series.keys().next().unwrap();
        assert_eq!((key.release, key.method, key.route.as_str()), (Some(ReleaseNumber(3)), Method::Get, "/"));
        let (pool, counted) = seen.traffic.first_key_value().unwrap();
        assert_eq!((pool.release, counted.began), (ReleaseNumber(3), 7));
        assert_eq!((counted.counters.requests, counted.counters.failures), (3, 1), "of whom one left nothing is known");
    }

    #[test]
    fn a_look_is_not_judged_and_a_failing_instance_is_told() {
        let look = line(200).replace("\"judged\"", "\"look\":true,\"judged\"");
        assert!(seen(&[look]).traffic.is_empty());
        let failing: Vec<String> = (0..FAILURES).map(|_| line(503)).collect();
        assert_eq!(seen(&failing).streaks.into_values().collect::<Vec<_>>(), [FAILURES]);
        let mended: Vec<String> = failing.into_iter().chain([line(200)]).collect();
        assert!(seen(&mended).streaks.is_empty());
    }

    #[test]
    fn what_nobody_judged_is_no_fault_of_its_instance() {
        let unjudged = line(503).replace("\"judged\"", "\"reason\":\"upload-filter-away\",\"judged\"");
        let seen = seen(&vec![unjudged; FAILURES as usize]);
        assert_eq!(seen.series.keys().map(|key| key.status).collect::<Vec<_>>(), [503]);
        assert!(seen.streaks.is_empty() && seen.traffic.is_empty());
    }

    #[test]
    fn what_found_no_route_is_refused_by_its_reason() {
        let malformed = r#"{"method":"GET","status":400,"detail":"http1.codec_error{why it is}"}"#.to_owned();
        let unknown = r#"{"method":"GET","status":404,"reason":"unknown-host","detail":"direct_response"}"#.to_owned();
        let seen = seen(&[malformed, unknown, "no line".to_owned()]);
        assert_eq!(
            seen.refused,
            [("http1.codec_error", 1), ("unknown-host", 1)].map(|(code, n)| (code.to_owned(), n)).into()
        );
        assert!(seen.series.is_empty());
    }
}
