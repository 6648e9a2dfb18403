//! The process's totals, added up from the workers' reports.

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::route::{Histogram, Series, SeriesKey};

use super::{Counts, Report};
use crate::route::Compiler;
use crate::wire::{ObservationFrame, SeriesFrame};

/// Series that a process keeps: about 700 bytes each. What is above is dropped and counted.
const MAX_SERIES: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    series: BTreeMap<SeriesKey, Series>,
    changed: BTreeSet<SeriesKey>,
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

fn requests(counts: &Counts) -> u64 {
    counts.duration.iter().sum()
}

impl Totals {
    /// Adds one round of reports, one of each worker.
    pub(crate) fn add(&mut self, reports: Vec<Report>, compiler: &Compiler) {
        self.frame.connections_open = reports.iter().map(|report| report.connections_open).sum();
        for report in reports {
            self.frame.series_dropped += report.dropped;
            self.frame.connections_total += report.connections;
            self.frame.handshakes_total += report.handshakes;
            self.frame.handshakes_failed += report.handshakes_failed;
            for (reason, count) in report.refused {
                *self.frame.refused.entry(reason.to_owned()).or_default() += count;
            }
            for (key, counts) in report.series {
                let labels = compiler.labels(key.labels);
                let key = SeriesKey {
                    key: labels.key.clone(),
                    service: labels.service.clone(),
                    release: labels.release,
                    method: key.method,
                    route: labels.prefix.clone(),
                    status: key.status,
                };
                if self.series.len() >= MAX_SERIES && !self.series.contains_key(&key) {
                    self.frame.series_dropped += requests(&counts);
                    continue;
                }
                add_counts(self.series.entry(key.clone()).or_default(), &counts);
                self.changed.insert(key);
            }
        }
    }

    /// What changed since the frame before.
    pub(crate) fn changes(&mut self) -> ObservationFrame {
        let changed = std::mem::take(&mut self.changed);
        let series = changed.iter().filter_map(|key| Some(SeriesFrame::new(key, self.series.get(key)?)));
        ObservationFrame { series: series.collect(), ..self.frame.clone() }
    }

    /// Everything, for a daemon that has just come.
    pub(crate) fn all(&self) -> ObservationFrame {
        let series = self.series.iter().map(|(key, series)| SeriesFrame::new(key, series));
        ObservationFrame { series: series.collect(), ..self.frame.clone() }
    }
}
