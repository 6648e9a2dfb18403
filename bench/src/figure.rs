//! Figures out of many runs.

use bowline_load::Report;
use serde_json::{Map, Value, json};

/// The values of one figure, one per run.
#[derive(Debug, Clone)]
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// `NaN` where there was no run.
    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "median": self.median(), "min": self.min(), "max": self.max(), "runs": self.0 })
    }
}

/// What a load came to, without its pictures.
pub(crate) fn of_load(report: &Report) -> anyhow::Result<Map<String, Value>> {
    let Value::Object(mut all) = serde_json::to_value(report)? else { anyhow::bail!("a report is an object") };
    all.remove("timeline");
    all.values_mut().filter_map(Value::as_object_mut).for_each(|part| drop(part.remove("steps")));
    Ok(all)
}

/// The machine's load averages, as the kernel says them.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
