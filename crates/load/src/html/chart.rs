//! Pictures as SVG.

use std::fmt::Write;

use crate::report::{Report, Time, Times};

use super::{grouped, time};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// The colour, the name, and what of a slot it shows.
type Series<T> = (&'static str, &'static str, fn(&Time) -> T);

/// Where values lie in a picture.
struct Plane {
    svg: String,
    /// The greatest value of each direction, and the least one upwards.
    x_max: f64,
    y_min: f64,
    y_max: f64,
    log: bool,
}

/// p50, p90 and the slowest of each slot, on a logarithmic scale: what matters lies decades apart.
pub(super) fn latency(times: &Times) -> String {
    let values = || times.slots.iter().flat_map(|slot| [slot.p50_us, slot.max_us]).flatten().map(number);
    let least = values().fold(f64::INFINITY, f64::min);
    let greatest = values().fold(0.0, f64::max);
    if greatest <= 0.0 {
        return empty();
    }
    let mut plane =
        Plane::new(seconds(times, times.slots.len()), decade(least).max(1.0), decade(greatest) * 10.0, true);
    let mut y = plane.y_min;
    while y <= plane.y_max {
        plane.line_at(y, &time(rounded(y)));
        y *= 10.0;
    }
    plane.time_axis();
    let series: [Series<Option<u64>>; 3] = [
        ("top", "slowest", |slot| slot.max_us),
        ("high", "p90", |slot| slot.p90_us),
        ("low", "p50", |slot| slot.p50_us),
    ];
    for (class, name, of) in series {
        let points = |(i, slot): (usize, &Time)| (middle(times, i), of(slot).map(number));
        plane.curve(class, name, times.slots.iter().enumerate().map(points));
    }
    legend(&series.map(|(class, name, _)| (class, name))) + &plane.finish("latency over time")
}

/// Due, answered and failed, each second.
pub(super) fn rates(times: &Times) -> String {
    let per_second = |n: u64| number(n) * 1e3 / number(times.width_ms.max(1));
    let greatest = times.slots.iter().map(|slot| per_second(slot.due.max(slot.answered))).fold(0.0, f64::max);
    if greatest <= 0.0 {
        return empty();
    }
    let step = step(greatest);
    let mut plane = Plane::new(seconds(times, times.slots.len()), 0.0, (greatest / step).ceil() * step, false);
    let mut y = 0.0;
    while y <= plane.y_max {
        plane.line_at(y, &grouped(rounded(y)));
        y += step;
    }
    plane.time_axis();
    let series: [Series<u64>; 3] = [
        ("high", "due", |slot| slot.due),
        ("low", "answered", |slot| slot.answered),
        ("top", "failed", |slot| slot.failed),
    ];
    for (class, name, of) in series {
        let points = |(i, slot): (usize, &Time)| (middle(times, i), Some(per_second(of(slot))));
        plane.curve(class, name, times.slots.iter().enumerate().map(points));
    }
    legend(&series.map(|(class, name, _)| (class, name))) + &plane.finish("requests over time")
}

/// Latency and service against the part of the requests, drawn so that each nine takes the same room.
pub(super) fn quantiles(report: &Report) -> String {
    let samples = report.latency.samples;
    if samples == 0 {
        return empty();
    }
    // As far as there are ten samples above.
    let nines = (number(samples) / 10.0).log10().clamp(1.0, 5.0);
    let greatest = number(report.latency.max_us.max(report.service.max_us)).max(1.0);
    let least = number(report.latency.min_us.min(report.service.min_us).max(1));
    let mut plane = Plane::new(nines, decade(least), decade(greatest) * 10.0, true);
    let mut y = plane.y_min;
    while y <= plane.y_max {
        plane.line_at(y, &time(rounded(y)));
        y *= 10.0;
    }
    for (at, name) in
        [(0.0, "0 %"), (std::f64::consts::LOG10_2, "p50"), (1.0, "p90"), (2.0, "p99"), (3.0, "p99.9"), (4.0, "p99.99")]
    {
        if at <= nines {
            plane.mark(at, name);
        }
    }
    let series =
        [("high", "latency, from when due", &report.latency), ("low", "service, from when sent", &report.service)];
    for (class, name, of) in series {
        let mut below = 0;
        let points = of.steps.iter().filter_map(|step| {
            below += step.samples;
            let above = 1.0 - number(below) / number(of.samples.max(1));
            let at = -above.max(1e-9).log10();
            (at <= nines).then_some((at, Some(number(step.up_to_us))))
        });
        plane.curve(class, name, points.collect::<Vec<_>>().into_iter());
    }
    legend(&series.map(|(class, name, _)| (class, name))) + &plane.finish("latency by part of the requests")
}

fn empty() -> String {
    "<p class=\"faint\">No request was answered.</p>\n".to_owned()
}

fn legend(series: &[(&str, &str)]) -> String {
    let one = |(class, name): &(&str, &str)| format!("<span><i style=\"background:var(--{class})\"></i>{name}</span>");
    format!("<div class=\"legend\">{}</div>\n", series.iter().map(one).collect::<String>())
}

impl Plane {
    fn new(x_max: f64, y_min: f64, y_max: f64, log: bool) -> Self {
        Self { svg: String::new(), x_max: x_max.max(1e-3), y_min, y_max, log }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max
    }

    fn y(&self, value: f64) -> f64 {
        let part = match self.log {
            true => (value.max(self.y_min) / self.y_min).log10() / (self.y_max / self.y_min).log10(),
            false => (value - self.y_min) / (self.y_max - self.y_min),
        };
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    }

    fn line_at(&mut self, value: f64, name: &str) {
        let y = self.y(value);
        let _ = writeln!(
            self.svg,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
        );
    }

    fn mark(&mut self, value: f64, name: &str) {
        let (x, foot) = (self.x(value), HEIGHT - BOTTOM);
        let _ = writeln!(
            self.svg,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{foot:.1}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            foot + 17.0,
        );
    }

    fn time_axis(&mut self) {
        let step = step(self.x_max);
        let mut at = 0.0;
        while at <= self.x_max {
            self.mark(at, &format!("{} s", (at * 10.0).round() / 10.0));
            at += step;
        }
    }

    /// A line through the points; broken where one is missing.
    fn curve(&mut self, class: &str, name: &str, points: impl Iterator<Item = (f64, Option<f64>)>) {
        let mut path = String::new();
        let mut pen_up = true;
        for (x, y) in points {
            match y {
                Some(y) => {
                    let letter = if pen_up { 'M' } else { 'L' };
                    let _ = write!(path, "{letter}{:.1} {:.1}", self.x(x), self.y(y));
                    pen_up = false;
                }
                None => pen_up = true,
            }
        }
        let _ = writeln!(
            self.svg,
            "<path class=\"line\" stroke=\"var(--{class})\" d=\"{path}\"><title>{name}</title></path>"
        );
    }

    fn finish(self, label: &str) -> String {
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n{}</svg>\n", self.svg)
    }
}

fn middle(times: &Times, index: usize) -> f64 {
    seconds(times, index) + number(times.width_ms) / 2e3
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred slots")]
fn seconds(times: &Times, slots: usize) -> f64 {
    slots as f64 * number(times.width_ms) / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a picture has a thousand points")]
fn number(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "marks of an axis are small and positive")]
fn rounded(value: f64) -> u64 {
    value.round() as u64
}

/// The power of ten at or below a value.
fn decade(value: f64) -> f64 {
    10_f64.powf(value.max(1.0).log10().floor())
}

/// 1, 2 or 5 times a power of ten, so that an axis has from four to ten steps.
fn step(span: f64) -> f64 {
    let power = 10_f64.powf((span.max(1e-6) / 4.0).log10().floor());
    let times = span / 4.0 / power;
    power
        * if times >= 5.0 {
            5.0
        } else if times >= 2.0 {
            2.0
        } else {
            1.0
        }
}
