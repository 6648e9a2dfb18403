//! The wire form of an observation. Series are sent as they are, but only those that changed.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::app::PathPrefix;
use bowline_core::id::{AppKey, AppName, EnvName, Generation, InstanceId, ReleaseNumber, ServiceName};
use bowline_core::route::{Cohort, EdgeObservation, Held, Histogram, Method, PoolId, Series, SeriesKey};
use bowline_core::scale::Demand;
use bowline_core::time::Timestamp;
use bowline_core::verdict::{self, BUCKETS, Counted, Counters};
use serde::{Deserialize, Serialize};

use super::table::DesiredFrame;

/// What changed since the frame before; everything, in the first frame of a connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservationFrame {
    pub serving: Option<u64>,
    /// Whole: what is absent has nothing outstanding.
    pub outstanding: BTreeMap<String, u32>,
    /// All that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    #[serde(default)]
    pub left_out_total: u64,
    /// Of those whose last requests have all failed, how many those were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub streaks: BTreeMap<String, u32>,
    /// What is served: [`DesiredFrame::text`]. For a daemon that has just come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// It has every series: others that are known are gone.
    #[serde(default)]
    pub whole: bool,
    /// Totals of the series that changed.
    pub series: Vec<SeriesFrame>,
    /// All pools whose requests a rollout goes by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficFrame>,
    /// All services whose requests are counted for the number of their instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub demand: Vec<DemandFrame>,
    /// Those of them that anybody has waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldFrame>,
    /// Series that are gone; their counts mean nothing.
    #[serde(default)]
    pub forgotten: Vec<SeriesFrame>,
    pub connections_open: u64,
    pub connections_total: u64,
    pub handshakes_total: u64,
    pub handshakes_failed: u64,
    #[serde(default)]
    pub retries_total: u64,
    #[serde(default)]
    pub retries_refused: u64,
    pub refused: BTreeMap<String, u64>,
    pub series_dropped: u64,
    #[serde(default)]
    pub access_lines_dropped: u64,
    pub private_bytes: u64,
    /// When the counters began, in milliseconds since 1970. 0: of an edge that does not say.
    #[serde(default)]
    pub began: u64,
}

/// One series: its labels, then its histograms as counts and sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesFrame {
    env: String,
    app: String,
    service: Option<String>,
    release: Option<u32>,
    method: String,
    route: String,
    status: u16,
    duration: (Vec<u64>, f64),
    request_size: (Vec<u64>, f64),
    response_size: (Vec<u64>, f64),
}

impl SeriesFrame {
    pub fn new(key: &SeriesKey, series: &Series) -> Self {
        let histogram = |histogram: &Histogram| (histogram.counts.clone(), histogram.sum);
        Self {
            env: key.key.env.to_string(),
            app: key.key.app.to_string(),
            service: key.service.as_ref().map(ToString::to_string),
            release: key.release.map(|release| release.0),
            method: key.method.as_str().to_owned(),
            route: key.route.to_string(),
            status: key.status,
            duration: histogram(&series.duration),
            request_size: histogram(&series.request_size),
            response_size: histogram(&series.response_size),
        }
    }

    /// `None` when a label is not what this version knows: the series is left out.
    fn parse(&self) -> Option<(SeriesKey, Series)> {
        let histogram = |(counts, sum): &(Vec<u64>, f64)| Histogram { counts: counts.clone(), sum: *sum };
        let service = match &self.service {
            Some(name) => Some(ServiceName::new(name).ok()?),
            None => None,
        };
        let key = SeriesKey {
            key: AppKey { env: EnvName::new(&self.env).ok()?, app: AppName::new(&self.app).ok()? },
            service,
            release: self.release.map(ReleaseNumber),
            method: Method::of(self.method.as_bytes()),
            route: PathPrefix::new(&self.route).ok()?,
            status: self.status,
        };
        let series = Series {
            duration: histogram(&self.duration),
            request_size: histogram(&self.request_size),
            response_size: histogram(&self.response_size),
        };
        Some((key, series))
    }
}

/// What a pool has answered since it is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficFrame {
    env: String,
    app: String,
    service: String,
    release: u32,
    baseline: bool,
    /// When the counting began, as its name. 0: of an edge that does not say.
    #[serde(default)]
    began: u64,
    requests: u64,
    failures: u64,
    /// Buckets of the histogram that hold something, and what.
    latency: Vec<(usize, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<(usize, u64)>,
}

impl TrafficFrame {
    pub fn new(pool: &PoolId, Counted { began, counters }: &Counted) -> Self {
        Self {
            env: pool.key.env.to_string(),
            app: pool.key.app.to_string(),
            service: pool.service.to_string(),
            release: pool.release.0,
            baseline: pool.cohort == Cohort::Baseline,
            began: *began,
            requests: counters.requests,
            failures: counters.failures,
            latency: filled(&counters.latency),
            left: filled(&counters.left),
        }
    }

    /// `None` when it is not what this version knows.
    fn parse(&self) -> Option<(PoolId, Counted)> {
        let pool = PoolId {
            key: AppKey { env: EnvName::new(&self.env).ok()?, app: AppName::new(&self.app).ok()? },
            service: ServiceName::new(&self.service).ok()?,
            release: ReleaseNumber(self.release),
            cohort: if self.baseline { Cohort::Baseline } else { Cohort::Whole },
        };
        let (latency, left) = (histogram(&self.latency)?, histogram(&self.left)?);
        let counters = Counters { requests: self.requests, failures: self.failures, latency, left };
        Some((pool, Counted { began: self.began, counters }))
    }
}

fn filled(histogram: &verdict::Histogram) -> Vec<(usize, u64)> {
    histogram.counts().iter().copied().enumerate().filter(|(_, count)| *count > 0).collect()
}

/// `None` of buckets that this version does not have.
fn histogram(filled: &[(usize, u64)]) -> Option<verdict::Histogram> {
    let mut counts = [0; BUCKETS];
    for (bucket, count) in filled {
        *counts.get_mut(*bucket)? = *count;
    }
    Some(verdict::Histogram::from_counts(counts))
}

/// What comes in for one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DemandFrame {
    env: String,
    app: String,
    service: String,
    /// As of [`TrafficFrame`].
    #[serde(default)]
    began: u64,
    busy_us: u64,
    waiting: u32,
}

impl DemandFrame {
    pub fn new((key, service): &(AppKey, ServiceName), demand: Demand) -> Self {
        Self {
            env: key.env.to_string(),
            app: key.app.to_string(),
            service: service.to_string(),
            began: demand.began,
            busy_us: u64::try_from(demand.busy.as_micros()).unwrap_or(u64::MAX),
            waiting: demand.waiting,
        }
    }

    /// `None` when it is not what this version knows.
    fn parse(&self) -> Option<((AppKey, ServiceName), Demand)> {
        let key = AppKey { env: EnvName::new(&self.env).ok()?, app: AppName::new(&self.app).ok()? };
        let busy = Duration::from_micros(self.busy_us);
        let demand = Demand { began: self.began, busy, waiting: self.waiting };
        Some(((key, ServiceName::new(&self.service).ok()?), demand))
    }
}

/// What of one service's requests found no instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldFrame {
    env: String,
    app: String,
    service: String,
    total: u64,
    failed: BTreeMap<String, u64>,
}

impl HeldFrame {
    pub fn new((key, service): &(AppKey, ServiceName), held: &Held) -> Self {
        Self {
            env: key.env.to_string(),
            app: key.app.to_string(),
            service: service.to_string(),
            total: held.total,
            failed: held.failed.clone(),
        }
    }

    /// `None` when it is not what this version knows.
    fn parse(&self) -> Option<((AppKey, ServiceName), Held)> {
        let key = AppKey { env: EnvName::new(&self.env).ok()?, app: AppName::new(&self.app).ok()? };
        let held = Held { total: self.total, failed: self.failed.clone() };
        Some(((key, ServiceName::new(&self.service).ok()?), held))
    }
}

impl ObservationFrame {
    /// Brings `seen` up to date.
    pub fn apply(&self, seen: &mut EdgeObservation) {
        let outstanding = self.outstanding.iter();
        seen.outstanding = outstanding.filter_map(|(id, n)| Some((id.parse::<InstanceId>().ok()?, *n))).collect();
        seen.left_out = self.left_out.iter().filter_map(|id| id.parse().ok()).collect();
        seen.left_out_total = self.left_out_total;
        seen.streaks = self.streaks.iter().filter_map(|(id, failed)| Some((id.parse().ok()?, *failed))).collect();
        if let Some(table) = self.table.as_deref().and_then(DesiredFrame::read) {
            seen.table = Some(table);
        }
        (seen.retries_total, seen.retries_refused) = (self.retries_total, self.retries_refused);
        if self.whole {
            seen.series.clear();
        }
        for (key, _) in self.forgotten.iter().filter_map(SeriesFrame::parse) {
            seen.series.remove(&key);
        }
        seen.series.extend(self.series.iter().filter_map(SeriesFrame::parse));
        seen.traffic = self.traffic.iter().filter_map(TrafficFrame::parse).collect();
        seen.demand = self.demand.iter().filter_map(DemandFrame::parse).collect();
        seen.held = self.held.iter().filter_map(HeldFrame::parse).collect();
        seen.serving = self.serving.map(Generation);
        seen.connections_open = self.connections_open;
        seen.connections_total = self.connections_total;
        seen.handshakes_total = self.handshakes_total;
        seen.handshakes_failed = self.handshakes_failed;
        seen.refused.clone_from(&self.refused);
        seen.series_dropped = self.series_dropped;
        seen.access_lines_dropped = self.access_lines_dropped;
        seen.private_bytes = self.private_bytes;
        seen.began = (self.began > 0).then_some(Timestamp(self.began));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_brings_an_observation_up_to_date() {
        let key = SeriesKey {
            key: AppKey { env: EnvName::new("local").unwrap(), app: AppName::new("board").unwrap() },
            service: Some(ServiceName::new("web").unwrap()),
            release: Some(ReleaseNumber(2)),
            method: Method::Post,
            route: PathPrefix::new("/api").unwrap(),
            status: 201,
        };
        let series = Series { duration: Histogram { counts: vec![1, 2], sum: 0.25 }, ..Series::default() };
        let web = (key.key.clone(), ServiceName::new("web").unwrap());
        let demand = Demand { began: 1_764_000_000_000_000_001, busy: Duration::from_millis(1500), waiting: 2 };
        let held = Held { total: 9, failed: BTreeMap::from([("start-timeout".to_owned(), 1)]) };
        let pool =
            PoolId { key: key.key.clone(), service: web.1.clone(), release: ReleaseNumber(2), cohort: Cohort::Whole };
        let mut counted = Counted { began: 1_764_000_000_000_000_000, ..Counted::default() };
        counted.counters.record(200, Duration::from_millis(5));
        counted.counters.record(499, Duration::from_secs(5));
        let frame = ObservationFrame {
            serving: Some(4),
            outstanding: BTreeMap::from([("local/board.web.r2.0.1".to_owned(), 3)]),
            left_out: vec!["local/board.web.r2.1.1".to_owned()],
            left_out_total: 3,
            streaks: BTreeMap::from([("local/board.web.r2.1.1".to_owned(), 15)]),
            series: vec![SeriesFrame::new(&key, &series)],
            demand: vec![DemandFrame::new(&web, demand)],
            held: vec![HeldFrame::new(&web, &held)],
            traffic: vec![TrafficFrame::new(&pool, &counted)],
            connections_open: 5,
            began: 1_764_000_000_000,
            ..ObservationFrame::default()
        };
        let frame: ObservationFrame = serde_json::from_str(&serde_json::to_string(&frame).unwrap()).unwrap();
        let mut seen = EdgeObservation::default();
        seen.outstanding.insert("local/board.web.r1.0.1".parse().unwrap(), 9);
        frame.apply(&mut seen);
        assert_eq!(seen.serving, Some(Generation(4)));
        assert_eq!(seen.outstanding, BTreeMap::from([("local/board.web.r2.0.1".parse().unwrap(), 3)]));
        assert_eq!(seen.left_out, ["local/board.web.r2.1.1".parse().unwrap()].into());
        assert_eq!(seen.left_out_total, 3);
        assert_eq!(seen.streaks, BTreeMap::from([("local/board.web.r2.1.1".parse().unwrap(), 15)]));
        assert_eq!(seen.series, BTreeMap::from([(key, series)]));
        assert_eq!(seen.demand, BTreeMap::from([(web.clone(), demand)]));
        assert_eq!(seen.held, BTreeMap::from([(web, held)]));
        assert_eq!(seen.traffic, BTreeMap::from([(pool, counted)]));
        assert_eq!((seen.connections_open, seen.began), (5, Some(Timestamp(1_764_000_000_000))));
    }
}
