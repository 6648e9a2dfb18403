//! What is counted, and how it is read at `/metrics`.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Extensions are those that are configured, so there are few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Extension {
    pub extension: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub files: Family<Extension, Counter>,
    pub bytes: Counter,
    pub refused: Family<Reason, Counter>,
    pub stored: Gauge<i64, AtomicI64>,
    pub in_flight: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("uploads");
        let files = Family::default();
        registry.register("files", "Files accepted, by extension", files.clone());
        let bytes = Counter::default();
        registry.register_with_unit("accepted", "Bytes of accepted files", Unit::Bytes, bytes.clone());
        let refused = Family::default();
        registry.register("refused", "Uploads refused, by reason", refused.clone());
        let stored = Gauge::default();
        registry.register("files_stored", "Files in the folder or bucket", stored.clone());
        let in_flight = Gauge::default();
        registry.register("in_flight", "Uploads being received", in_flight.clone());
        Self { registry, files, bytes, refused, stored, in_flight }
    }
}

impl Metrics {
    /// In the OpenMetrics text format.
    pub fn text(&self) -> String {
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
        metrics.files.get_or_create(&Extension { extension: "txt".to_owned() }).inc();
        metrics.bytes.inc_by(7);
        metrics.refused.get_or_create(&Reason { reason: "extension" }).inc();
        metrics.stored.set(3);
        let text = metrics.text();
        for line in [
            "uploads_files_total{extension=\"txt\"} 1",
            "uploads_accepted_bytes_total 7",
            "uploads_refused_total{reason=\"extension\"} 1",
            "uploads_files_stored 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
