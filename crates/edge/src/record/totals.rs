//! The process's totals, added up from the workers' reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use bowline_core::id::{AppKey, ServiceName};
use bowline_core::route::{Held, Histogram, PoolId, Series, SeriesKey};
use bowline_core::scale::Demand;
use bowline_core::verdict::Counted;

use super::{Counts, Flown, Report};
use crate::route::{Compiler, Labels};
use crate::wire::{DemandFrame, HeldFrame, ObservationFrame, SeriesFrame, TrafficFrame};

/// Series that a process keeps: about 700 bytes each. Where they are full, those that rest make room; what finds none is
/// dropped and counted.
const MAX_SERIES: usize = 4096;

/// Rounds without a request after which a series may be forgotten: ten minutes of four reports a second, longer than anyone scrapes
/// apart, so that its last count has been read. Most are of releases that are gone.
const RESTS_AFTER: u64 = 2400;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Each with the round that it changed in.
    series: BTreeMap<SeriesKey, (Series, u64)>,
    changed: BTreeSet<SeriesKey>,
    /// Of pools that a rollout goes by.
    traffic: BTreeMap<PoolId, Counted>,
    /// Of services whose number of instances changes with the load.
    demand: BTreeMap<(AppKey, ServiceName), Demand>,
    /// Of those of them that anybody has waited for.
    held: BTreeMap<(AppKey, ServiceName), Held>,
    forgotten: Vec<SeriesKey>,
    round: u64,
    frame: ObservationFrame,
}

fn add(histogram: &mut Histogram, counts: &[u64], sum: f64) {
    histogram.counts.resize(counts.len(), 0);
    for (total, count) in histogram.counts.iter_mut().zip(counts) {
        *total += count;
    }
    histogram.sum += sum;
}

fn add_counts(series: &mut Series, counts: &Counts) {
    add(&mut series.duration, &counts.duration, counts.duration_sum);
    add(&mut series.request_size, &counts.request, counts.request_sum);
    add(&mut series.response_size, &counts.response, counts.response_sum);
}

/// The name of a counting that begins now. No two begin within one nanosecond: reports are rounds apart.
fn begun() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn requests(counts: &Counts) -> u64 {
    counts.duration.iter().sum()
}

impl Totals {
    /// Adds one round of reports, one of each worker.
    pub(crate) fn add(&mut self, reports: Vec<Report>, compiler: &Compiler) {
        self.round += 1;
        self.traffic.retain(|pool, _| compiler.is_judged(pool));
        self.count_on(compiler.counted());
        self.frame.connections_open = reports.iter().map(|report| report.connections_open).sum();
        for report in reports {
            self.frame.series_dropped += report.dropped;
            self.frame.connections_total += report.connections;
            self.frame.handshakes_total += report.handshakes;
            self.frame.handshakes_failed += report.handshakes_failed;
            self.frame.retries_total += report.retries;
            self.frame.retries_refused += report.retries_refused;
            for (reason, count) in report.refused {
                *self.frame.refused.entry(reason.to_owned()).or_default() += count;
            }
            for (labels, counters) in report.traffic {
                if let Some(pool) = compiler.labels(labels).and_then(Labels::pool) {
                    let new = || Counted { began: begun(), ..Counted::default() };
                    self.traffic.entry(pool).or_insert_with(new).counters.merge(&counters);
                }
            }
            for (labels, flown) in report.flown {
                let Some(labels) = compiler.labels(labels) else { continue };
                let service = labels.service.clone().map(|service| (labels.key.clone(), service));
                if let Some(service) = service {
                    self.add_flown(service, flown);
                }
            }
            for (key, counts) in report.series {
                let Some(labels) = compiler.labels(key.labels) else { continue };
                let key = SeriesKey {
                    key: labels.key.clone(),
                    service: labels.service.clone(),
                    release: labels.release,
                    method: key.method,
                    route: labels.prefix.clone(),
                    status: key.status,
                };
                if !self.series.contains_key(&key) && !self.has_room() {
                    self.frame.series_dropped += requests(&counts);
                    continue;
                }
                let (series, changed) = self.series.entry(key.clone()).or_default();
                add_counts(series, &counts);
                *changed = self.round;
                self.changed.insert(key);
            }
        }
    }

    fn add_flown(&mut self, service: (AppKey, ServiceName), flown: Flown) {
        let Some(demand) = self.demand.get_mut(&service) else { return };
        demand.busy += flown.busy;
        demand.waiting += flown.waiting;
        if flown.held > 0 || !flown.failed.is_empty() {
            let held = self.held.entry(service).or_default();
            held.total += flown.held;
            for (reason, count) in flown.failed {
                *held.failed.entry(reason.to_owned()).or_default() += count;
            }
        }
    }

    /// Each service that is counted has its place, though nothing came in for it; who waits is counted anew.
    fn count_on(&mut self, counted: BTreeSet<(AppKey, ServiceName)>) {
        self.demand.retain(|service, _| counted.contains(service));
        self.held.retain(|service, _| counted.contains(service));
        for service in counted {
            let new = || Demand { began: begun(), ..Demand::default() };
            self.demand.entry(service).or_insert_with(new).waiting = 0;
        }
    }

    fn demand(&self) -> Vec<DemandFrame> {
        self.demand.iter().map(|(service, demand)| DemandFrame::new(service, *demand)).collect()
    }

    fn held(&self) -> Vec<HeldFrame> {
        self.held.iter().map(|(service, held)| HeldFrame::new(service, held)).collect()
    }

    fn traffic(&self) -> Vec<TrafficFrame> {
        self.traffic.iter().map(|(pool, counted)| TrafficFrame::new(pool, counted)).collect()
    }

    /// Whether one more series can be kept, those forgotten that rest if need be.
    fn has_room(&mut self) -> bool {
        if self.series.len() >= MAX_SERIES {
            let rests = |changed: u64| self.round - changed >= RESTS_AFTER;
            self.forgotten.extend(self.series.extract_if(.., |_, (_, changed)| rests(*changed)).map(|(key, _)| key));
        }
        self.series.len() < MAX_SERIES
    }

    /// What changed since the frame before.
    pub(crate) fn changes(&mut self) -> ObservationFrame {
        let changed = std::mem::take(&mut self.changed);
        let series = changed.iter().filter_map(|key| Some(SeriesFrame::new(key, &self.series.get(key)?.0)));
        let forgotten = std::mem::take(&mut self.forgotten);
        let forgotten = forgotten.iter().filter(|key| !self.series.contains_key(key));
        ObservationFrame {
            series: series.collect(),
            traffic: self.traffic(),
            demand: self.demand(),
            held: self.held(),
            forgotten: forgotten.map(|key| SeriesFrame::new(key, &Series::default())).collect(),
            ..self.frame.clone()
        }
    }

    /// Everything, for a daemon that has just come.
    pub(crate) fn all(&self) -> ObservationFrame {
        let series = self.series.iter().map(|(key, (series, _))| SeriesFrame::new(key, series));
        ObservationFrame {
            whole: true,
            series: series.collect(),
            traffic: self.traffic(),
            demand: self.demand(),
            held: self.held(),
            ..self.frame.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;

    use bowline_core::route::{EdgeObservation, Method};

    use super::*;
    use crate::record::{Counts, ShardKey};
    use crate::route::LabelId;

    /// One request with this status, which is enough to tell series apart.
    fn report(status: u16) -> Report {
        let key = ShardKey { labels: LabelId(0), method: Method::Get, status };
        let mut counts = Counts::default();
        counts.duration[0] = 1;
        Report { series: HashMap::from([(key, counts)]), ..Report::default() }
    }

    #[test]
    fn what_is_counted_anew_has_another_name() {
        let instance: bowline_core::id::InstanceId = "local/board.web.r1.0.1".parse().unwrap();
        let service = (instance.slot.key, instance.slot.service);
        let mut totals = Totals::default();
        totals.count_on([service.clone()].into());
        let began = totals.demand[&service].began;
        let busy = std::time::Duration::from_secs(1);
        totals.add_flown(service.clone(), Flown { busy, ..Flown::default() });
        totals.count_on([service.clone()].into());
        assert_eq!(totals.demand[&service], Demand { began, busy, waiting: 0 });
        totals.count_on(BTreeSet::new());
        totals.count_on([service.clone()].into());
        assert!(totals.demand[&service].began > began && totals.demand[&service].busy.is_zero());
    }

    #[test]
    fn series_that_rest_make_room_and_are_gone_for_the_daemon_too() {
        let compiler = Compiler::with_one_label();
        let (mut totals, mut seen) = (Totals::default(), EdgeObservation::default());
        let mut tell = |totals: &mut Totals| {
            totals.changes().apply(&mut seen);
            (seen.series.len(), seen.series_dropped)
        };
        let full = u16::try_from(MAX_SERIES).unwrap();
        totals.add((0..full).map(report).collect(), &compiler);
        assert_eq!(tell(&mut totals), (MAX_SERIES, 0));
        totals.add(vec![report(full)], &compiler);
        assert_eq!(tell(&mut totals), (MAX_SERIES, 1), "all have just been used");
        for _ in 0..RESTS_AFTER {
            totals.add(vec![report(7)], &compiler);
        }
        totals.add(vec![report(full)], &compiler);
        assert_eq!(tell(&mut totals), (2, 1), "the one that is used, and the new one");
        let mut late = EdgeObservation { series: seen.series.clone(), ..EdgeObservation::default() };
        late.series
            .extend(seen.series.iter().map(|(key, series)| (SeriesKey { status: 1, ..key.clone() }, series.clone())));
        totals.all().apply(&mut late);
        assert_eq!(late.series, seen.series, "what was missed meanwhile is made up for");
    }
}
