//! What Prometheus, Alertmanager and Grafana read of Bowline: scrape configuration, rules, alerts, dashboards.
//!
//! Architecture invariant: pure. What goes in are names and addresses, what comes out are files' texts; verbs write them.

mod alerting;
mod dashboards;
mod panels;
pub(crate) mod rules;
mod scrape;
pub mod service;

pub use crate::file::File;
pub use alerting::Alerting;
pub use dashboards::Grafana;
pub use scrape::{RemoteWrite, Scrape, Source};

/// Above every file that is not JSON.
const HEAD: &str = "# Written by `bowline`; `bowline render` writes it anew.\n\n";

/// Where the daemon of a machine serves its metrics, unless it is told otherwise.
pub const METRICS: &str = "127.0.0.1:7070";

/// As a scalar of YAML, which takes every string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
