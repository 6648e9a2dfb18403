//! What Bowline is to reach beside the others, and what it did.

use super::report::{Summary, summary};
use super::{Results, Row};
use crate::peer::Kind;

/// Of the core of load and upstream: beyond, the load limits what is measured, and rates rank nothing.
pub(crate) const TOO_BUSY: f64 = 0.8;

/// KB of 1,000 bytes.
const KILO: f64 = 1e3;

/// One aim and what was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aim {
    pub(crate) what: String,
    pub(crate) wanted: Wanted,
    /// `None`: what it is about was not measured.
    pub(crate) found: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Aim {
    fn new(what: impl Into<String>, wanted: Wanted, found: Option<f64>) -> Self {
        Self { what: what.into(), wanted, found }
    }

    pub(crate) fn is_met(&self) -> Option<bool> {
        let found = self.found?;
        Some(match self.wanted {
            Wanted::AtLeast(least) => found >= least,
            Wanted::AtMost(most) => found <= most,
            Wanted::Below(bound) => found < bound,
        })
    }
}

/// Those of what was measured.
pub(super) fn of(results: &Results) -> Vec<Aim> {
    let rows = |name: &str| results.timed.iter().find(|(scenario, _)| scenario.name == name);
    let mut aims = Vec::new();
    if let Some((scenario, rows)) = rows("small") {
        for (kind, least) in [(Kind::Nginx, 1.2), (Kind::Haproxy, 1.3), (Kind::Envoy, 4.0)] {
            aims.push(faster(scenario.name, least, kind, &|kind| summary(scenario, row(rows, kind)?)));
        }
        let core = |kind| Some(summary(scenario, row(rows, kind)?)?.core.median());
        let found = core(Kind::Bowline).zip(core(Kind::Nginx)).map(|(ours, theirs)| ours / theirs);
        aims.push(Aim::new("small: the core's time for a request, to nginx's", Wanted::AtMost(0.85), found));
    }
    for name in ["handshake", "resume", "streams-10", "streams-100"] {
        if let Some((scenario, rows)) = rows(name) {
            aims.push(faster(name, 1.0, Kind::Nginx, &|kind| summary(scenario, row(rows, kind)?)));
        }
    }
    if let Some((scenario, rows)) = rows("open") {
        let p99 = |kind| Some(summary(scenario, row(rows, kind)?)?.p99.median());
        let others = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Bowline).filter_map(p99);
        let found = p99(Kind::Bowline).map(|ours| ours / others.fold(f64::INFINITY, f64::min));
        aims.push(Aim::new("open: p99, to the best of the others", Wanted::Below(1.0), found));
    }
    if let Some(row) = results.connections.iter().find(|row| row.kind == Kind::Bowline) {
        let kilo = |bytes: &Result<f64, String>| bytes.as_ref().ok().map(|bytes| bytes / KILO);
        aims.push(Aim::new("an idle connection, KB", Wanted::AtMost(3.0), kilo(&row.plain)));
        aims.push(Aim::new("an idle TLS connection, KB", Wanted::AtMost(16.0), kilo(&row.tls)));
    }
    if let Some(row) = results.routes.iter().find(|row| row.kind == Kind::Bowline) {
        let figures = row.figures.as_ref().ok();
        aims.push(Aim::new(
            "10,000 routes: a change, ms",
            Wanted::AtMost(5.0),
            figures.and_then(|f| Some(f.changes.as_ref().ok()?.swap.median())),
        ));
        let lookup = figures.map(|f| f.last.median() / f.alone.median());
        aims.push(Aim::new(
            "10,000 routes: the core's time for a request, to that with one",
            Wanted::AtMost(1.1),
            lookup,
        ));
    }
    aims
}

pub(super) fn row(rows: &[Row], kind: Kind) -> Option<&Row> {
    rows.iter().find(|row| row.kind == kind)
}

/// Rates are compared, or where the load was what limits, the core's time.
fn faster(name: &str, least: f64, other: Kind, of: &dyn Fn(Kind) -> Option<Summary>) -> Aim {
    let pair = of(Kind::Bowline).zip(of(other));
    let is_limited = |summary: &Summary| summary.busy.median() > TOO_BUSY;
    let by_core = pair.as_ref().is_some_and(|(ours, theirs)| is_limited(ours) || is_limited(theirs));
    let found = pair.map(|(ours, theirs)| match by_core {
        true => theirs.core.median() / ours.core.median(),
        false => ours.rate.median() / theirs.rate.median(),
    });
    let by = if by_core { "as much in the core's time (the load was too busy for rates)" } else { "the rate" };
    Aim::new(format!("{name}: {by}, to {}", other.name()), Wanted::AtLeast(least), found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Runs;

    fn summary(rate: f64, core: f64, busy: f64) -> Summary {
        let runs = |value: f64| Runs::new([value]);
        Summary {
            rate: runs(rate),
            core: runs(core),
            busy: runs(busy),
            p50: runs(0.0),
            p99: runs(0.0),
            p999: runs(0.0),
        }
    }

    #[test]
    fn a_load_that_was_too_busy_ranks_by_the_cores_time() {
        let check = |busy: f64, expected: f64| {
            let of = |kind| match kind == Kind::Bowline {
                true => Some(summary(1_000.0, 10.0, busy)),
                false => Some(summary(900.0, 20.0, 0.5)),
            };
            assert_eq!(faster("small", 1.2, Kind::Nginx, &of).found, Some(expected), "{busy}");
        };
        check(0.79, 1_000.0 / 900.0);
        check(0.95, 2.0);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert_eq!(faster("small", 1.2, Kind::Nginx, &|_| None).is_met(), None);
        assert_eq!(Aim::new("", Wanted::AtMost(5.0), Some(5.1)).is_met(), Some(false));
        assert_eq!(Aim::new("", Wanted::AtLeast(1.0), Some(1.0)).is_met(), Some(true));
    }
}
