//! Families of series, whoever is told of them: gathered once, then written as text or sent.

use std::fmt;

use bowline_core::route::Histogram;
use bowline_core::time::Timestamp;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

pub(crate) type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    /// As it is exposed, a counter without its `_total`.
    pub(crate) name: String,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) labels: Labels,
    pub(crate) value: Value,
    pub(crate) began: Began,
}

/// Of what only grows, when that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Began {
    At(Timestamp),
    /// Nobody knows.
    Unknown,
    /// Who counts has not said it yet, nor what it has counted.
    Unsaid,
}

impl From<Option<Timestamp>> for Began {
    fn from(at: Option<Timestamp>) -> Self {
        at.map_or(Self::Unknown, Self::At)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    /// Counts between the bounds, the last one of what is above them all.
    Histogram {
        counts: Vec<u64>,
        sum: f64,
        bounds: &'static [f64],
    },
}

/// Those that there are, in their order.
#[derive(Debug, Default)]
pub(super) struct Families(pub(super) Vec<Family>);

impl Families {
    /// `began`: when all of them did.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &'static str,
        began: impl Into<Began>,
        rows: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let began = began.into();
        self.counter_each(name, help, rows.into_iter().map(|(labels, value)| (labels, value, began)));
    }

    /// Each began by itself.
    pub(super) fn counter_each<B: Into<Began>>(
        &mut self,
        name: &str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, f64, B)>,
    ) {
        let row = |(labels, value, began): (_, _, B)| Row { labels, value: Value::Number(value), began: began.into() };
        self.add(name, help, Kind::Counter, rows.into_iter().map(row).collect());
    }

    pub(super) fn gauge(&mut self, name: &str, help: &'static str, rows: impl IntoIterator<Item = (Labels, f64)>) {
        let row = |(labels, value)| Row { labels, value: Value::Number(value), began: Began::Unknown };
        self.add(name, help, Kind::Gauge, rows.into_iter().map(row).collect());
    }

    pub(super) fn histogram<'h>(
        &mut self,
        (name, help, bounds): (&str, &'static str, &'static [f64]),
        began: Began,
        rows: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) {
        let row = |(labels, histogram): (Labels, &Histogram)| {
            let counts = histogram.counts.iter().copied().chain(std::iter::repeat(0)).take(bounds.len() + 1).collect();
            Row { labels, value: Value::Histogram { counts, sum: histogram.sum, bounds }, began }
        };
        self.add(name, help, Kind::Histogram, rows.into_iter().map(row).collect());
    }

    fn add(&mut self, name: &str, help: &'static str, kind: Kind, rows: Vec<Row>) {
        if !rows.is_empty() {
            self.0.push(Family { name: name.to_owned(), help, kind, rows });
        }
    }
}

impl Family {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut family = encoder.encode_descriptor(&self.name, self.help, None, kind)?;
        for Row { labels, value, .. } in &self.rows {
            let mut series = family.encode_family(labels)?;
            match (value, self.kind) {
                (Value::Number(value), Kind::Counter) => series.encode_counter::<Labels, f64, f64>(value, None)?,
                (Value::Number(value), Kind::Gauge | Kind::Histogram) => series.encode_gauge(value)?,
                (Value::Histogram { counts, sum, bounds }, _) => {
                    let bounds = bounds.iter().copied().chain([f64::INFINITY]);
                    let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
                    series.encode_histogram::<Labels>(*sum, counts.iter().sum(), &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}
