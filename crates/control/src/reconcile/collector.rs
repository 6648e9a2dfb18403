//! Whether the collector of `[otlp]` takes what it is sent: said once when it does not, and once when it does again.

use std::collections::BTreeMap;

use super::Loop;
use super::effects::Now;
use super::events;
use crate::otlp::{Health, Signal};

/// The signals that it does not take.
#[derive(Debug, Default)]
pub(super) struct Collector(BTreeMap<Signal, Health>);

impl Collector {
    /// For people: which, and why. `None`: all is taken.
    pub(super) fn trouble(&self) -> Option<String> {
        let (_, health) = self.0.first_key_value()?;
        let signals: Vec<&str> = self.0.keys().map(|signal| signal.as_str()).collect();
        let signals = signals.join(", ");
        Some(match health {
            Health::Silent(why) => format!("the collector does not answer, {signals} wait: {why}"),
            Health::Refuses(why) => format!("the collector refuses {signals}: {why}"),
            Health::Unsent(why) => format!("nothing is sent to the collector, {signals} wait: {why}"),
            Health::Takes => return None,
        })
    }
}

impl Loop {
    pub(super) fn collector_became(&mut self, signal: Signal, health: Health, now: Now) {
        let before = self.collector.trouble();
        match health {
            Health::Takes => self.collector.0.remove(&signal),
            Health::Silent(_) | Health::Refuses(_) | Health::Unsent(_) => self.collector.0.insert(signal, health),
        };
        match (before, self.collector.trouble()) {
            (None, Some(why)) => {
                tracing::warn!(why, "telemetry is not taken");
                self.record(vec![events::collector_silent(&why, now.wall)]);
            }
            (Some(_), None) => {
                tracing::info!("telemetry is taken again");
                self.record(vec![events::collector_answers(now.wall)]);
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}
