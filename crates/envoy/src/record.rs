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

/// Series that are kept. Where they are full, those that rest make room, then those of the app that has the most; what finds none is dropped and
/// counted.
const MAX_SERIES: usize = 10_000;

/// Looks without a request after which a series may be forgotten: ten minutes of four looks a second, longer than anyone scrapes apart, so that
/// its last count has been read. Most are of releases that are gone.
const RESTS_AFTER: u64 = 2400;

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
    /// See [`Self::begun`].
    began: u64,
    most: usize,
    /// Each with the look that it changed in.
    series: BTreeMap<SeriesKey, (Series, u64)>,
    /// How many of them each app has.
    shares: BTreeMap<AppKey, usize>,
    traffic: BTreeMap<PoolId, Counted>,
    failed: BTreeMap<InstanceId, u32>,
    refused: BTreeMap<String, u64>,
    dropped: u64,
    looks: u64,
    /// The look in which those that rest were forgotten last.
    swept: u64,
}

impl Totals {
    /// `began`: another number each time.
    pub(crate) fn new(began: u64) -> Self {
        Self {
            began,
            most: MAX_SERIES,
            series: BTreeMap::new(),
            shares: BTreeMap::new(),
            traffic: BTreeMap::new(),
            failed: BTreeMap::new(),
            refused: BTreeMap::new(),
            dropped: 0,
            looks: 0,
            swept: 0,
        }
    }

    /// The name of a counting that begins now, see [`Counted::began`]: what is counted anew has another one.
    pub(crate) fn begun(&self) -> u64 {
        self.began.wrapping_add(self.looks).max(1)
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
        let began = self.begun();
        if let Some(pool) = line.pool(&key).filter(|_| is_true(&line.judged) && !is_true(&line.look)) {
            let new = || Counted { began, ..Counted::default() };
            let counted = self.traffic.entry(pool).or_insert_with(new);
            counted.counters.record(line.status(), micros(line.turn_us.or(line.duration_us)));
        }
    }

    fn count(&mut self, key: &SeriesKey, line: &Line) {
        if !self.series.contains_key(key) {
            if !self.has_room(&key.key) {
                self.dropped += 1;
                return;
            }
            *self.shares.entry(key.key.clone()).or_default() += 1;
        }
        let (series, changed) = self.series.entry(key.clone()).or_default();
        *changed = self.looks;
        record(&mut series.duration, &DURATION_BOUNDS, micros(line.duration_us).as_secs_f64());
        record(&mut series.request_size, &SIZE_BOUNDS, float(line.bytes_in));
        record(&mut series.response_size, &SIZE_BOUNDS, float(line.bytes_out));
    }

    /// Whether one more series of this app can be kept, others forgotten if need be.
    fn has_room(&mut self, app: &AppKey) -> bool {
        if self.series.len() >= self.most && self.swept < self.looks {
            self.swept = self.looks;
            let looks = self.looks;
            self.series.retain(|_, (_, changed)| looks - *changed < RESTS_AFTER);
            self.shares.clear();
            for key in self.series.keys() {
                *self.shares.entry(key.key.clone()).or_default() += 1;
            }
        }
        self.series.len() < self.most || self.makes_way(app)
    }

    /// Forgets one series of the app that has the most, if it has more than this one would have.
    fn makes_way(&mut self, app: &AppKey) -> bool {
        let own = self.shares.get(app).copied().unwrap_or(0);
        let Some((largest, share)) = self.shares.iter_mut().max_by_key(|(_, share)| **share) else { return false };
        if *share <= own + 1 {
            return false;
        }
        let of_largest = self.series.iter().filter(|(key, _)| key.key == *largest);
        let Some(oldest) = of_largest.min_by_key(|(_, (_, changed))| *changed).map(|(key, _)| key.clone()) else {
            return false;
        };
        *share -= 1;
        self.series.remove(&oldest);
        true
    }

    /// One look has passed. Forgets instances and pools that are gone.
    pub(crate) fn pass(&mut self, is_there: impl Fn(&InstanceId) -> bool, is_led_to: impl Fn(&PoolId) -> bool) {
        self.looks += 1;
        self.failed.retain(|instance, _| is_there(instance));
        self.traffic.retain(|pool, _| is_led_to(pool));
    }

    pub(crate) fn put(&self, seen: &mut EdgeObservation) {
        seen.series = self.series.iter().map(|(key, (series, _))| (key.clone(), series.clone())).collect();
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

    /// A line of this app that nothing else has the labels of.
    fn labelled(app: &str, number: usize) -> String {
        line(200).replace("shop", app).replace("\"template\":\"/\"", &format!("\"template\":\"/{number}\""))
    }

    const MOST: usize = 20;

    fn full() -> Totals {
        let mut totals = Totals { most: MOST, ..Totals::new(7) };
        (0..MOST).for_each(|number| totals.add(labelled("shop", number).as_bytes()));
        assert_eq!((totals.series.len(), totals.dropped), (MOST, 0));
        totals
    }

    fn series_of(totals: &Totals, app: &str) -> usize {
        totals.series.keys().filter(|key| key.key.app.as_str() == app).count()
    }

    #[test]
    fn series_that_rest_make_room() {
        let mut totals = full();
        totals.add(labelled("shop", MOST).as_bytes());
        assert_eq!((totals.series.len(), totals.dropped), (MOST, 1), "all have just been used");
        for _ in 0..RESTS_AFTER {
            totals.pass(|_| true, |_| true);
            totals.add(labelled("shop", 7).as_bytes());
        }
        totals.add(labelled("shop", MOST).as_bytes());
        assert_eq!((totals.series.len(), totals.dropped), (2, 1), "the one that is used, and the new one");
        assert_eq!(totals.shares.values().copied().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn no_app_takes_the_room_of_another() {
        let mut totals = full();
        let half = MOST / 2;
        (0..half + 10).for_each(|number| totals.add(labelled("board", number).as_bytes()));
        assert_eq!((series_of(&totals, "board"), series_of(&totals, "shop")), (half, half));
        assert_eq!(totals.dropped, 10);
        totals.add(labelled("news", 1).as_bytes());
        assert_eq!((series_of(&totals, "news"), totals.series.len()), (1, MOST));
    }

    #[test]
    fn pools_that_are_gone_are_forgotten() {
        let mut totals = Totals::new(7);
        totals.add(line(200).as_bytes());
        totals.pass(|_| true, |_| true);
        assert_eq!(totals.traffic.len(), 1);
        totals.pass(|_| true, |_| false);
        assert!(totals.traffic.is_empty());
        totals.add(line(200).as_bytes());
        let began: Vec<u64> = totals.traffic.values().map(|counted| counted.began).collect();
        assert_eq!(began, [9], "what is counted anew has another name");
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
