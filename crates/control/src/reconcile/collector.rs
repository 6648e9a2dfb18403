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
        // Signals with the same trouble are said together.
        let mut troubles: Vec<(&Health, Vec<&str>)> = Vec::new();
        for (signal, health) in &self.0 {
            match troubles.iter_mut().find(|(known, _)| *known == health) {
                Some((_, signals)) => signals.push(signal.as_str()),
                None => troubles.push((health, vec![signal.as_str()])),
            }
        }
        let said = troubles.into_iter().filter_map(|(health, signals)| in_words(health, &signals.join(", ")));
        let said: Vec<String> = said.collect();
        (!said.is_empty()).then(|| said.join("; "))
    }
}

fn in_words(health: &Health, signals: &str) -> Option<String> {
    match health {
        Health::Silent(why) => Some(format!("the collector does not answer, {signals} wait: {why}")),
        Health::Refuses(why) => Some(format!("the collector refuses {signals}: {why}")),
        Health::Unsent(why) => Some(format!("nothing is sent to the collector, {signals} wait: {why}")),
        Health::Takes => None,
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
