//! What Prometheus, Alertmanager and Grafana read of Bowline: scrape configuration, rules, alerts, dashboards.
//!
//! Architecture invariant: pure. What goes in are names and addresses, what comes out are files' texts; verbs write them.

mod alerting;
mod dashboards;
mod panels;
mod rules;
mod scrape;
pub(crate) mod service;

pub(crate) use alerting::Alerting;
pub(crate) use dashboards::Grafana;
pub(crate) use scrape::{RemoteWrite, Scrape, Source};

/// Above every file that is not JSON.
const HEAD: &str = "# Written by `bowline`; `bowline render` writes it anew.\n\n";

/// Where the daemon of a machine serves its metrics, unless it is told otherwise.
pub(crate) const METRICS: &str = "127.0.0.1:7070";

/// A file below the folder that it is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// `rules/alerts.yml`
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// As a scalar of YAML, which takes every string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
