//! The same with a real daemon, a real edge, and clients that ask again as soon as they are answered; and what the rule of the
//! HorizontalPodAutoscaler makes of what was recorded. Such clients have as many requests in flight however many instances there are,
//! so that another's decisions would have met the same load.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bowline_load::{Load, Pace, Plan, Report, Target};
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON};
use serde_json::{Value, json};

use super::scalers::{Hpa, IN_FLIGHT, SYNC, Scaler, Seen};
use crate::figure::{self, Runs};
use crate::say;

/// Each answer takes 300 ms.
const SERVER: &str = r#"import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path != "/health":
            time.sleep(0.3)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const FILE: &str = "[service.web]\nrun = \"python3 server.py\"\nscale = { min = 1, max = 8, in_flight = 10 }\n\
                    health = { path = \"/health\", interval = \"500ms\" }\n";

/// Before the step, in seconds: as long as Bowline's longest average.
const SMALL: u32 = 60;

/// Clients, and the instances that they need.
const FEW: u32 = 5;
const MANY: u32 = 50;
const NEEDED: u16 = 5;
/// `scale.max` of the file.
const MOST: u16 = 8;

/// Between two samples; each fourth is written down.
const EVERY: Duration = Duration::from_millis(250);
const WRITTEN: usize = 4;

/// As long as the longest average and the time of stabilisation: what is to be given back was given back then.
const SETTLED: u32 = 60 + 300;

/// What there was to see at once.
#[derive(Clone, Copy)]
struct Sample {
    /// Seconds since the step; before it, less than nothing.
    at: f64,
    wanted: u16,
    ready: u16,
    /// Requests under way, as the clients know it.
    in_flight: f64,
}

/// What became of the step.
#[derive(Default)]
struct Course {
    /// Seconds from the step until as many as are needed are wanted, and ready.
    wanted: Option<f64>,
    ready: Option<f64>,
    most: u16,
    /// Other numbers since the step, and turns from more to fewer or back among them.
    changes: u32,
    turns: u32,
}

pub(super) fn run(seconds: u32) -> anyhow::Result<Value> {
    let bowline = Bowline::new();
    let folder = bowline.folder("bench-scale");
    std::fs::write(folder.join("server.py"), SERVER)?;
    std::fs::write(folder.join("bowline.toml"), FILE)?;
    let up = Up::start(&bowline, &folder, SOON);
    let url = up.https();
    let mut trace = Vec::new();
    let small = under(&bowline, &url, FEW, SMALL, -f64::from(SMALL), &mut trace)?;
    let before = trace.last().map_or(0, |sample| sample.ready);
    let large = under(&bowline, &url, MANY, seconds, 0.0, &mut trace)?;
    ensure!(before == 1, "{before} instances were ready before the step");
    let failed = small.counts.failed + large.counts.failed;
    let own = Course::of(trace.iter().map(|sample| (sample.at, sample.wanted, sample.ready)));
    let starts = own.wanted.zip(own.ready).map(|(wanted, ready)| ready - wanted);
    let phases = (0..SYNC as u32).map(|phase| replay(&trace, f64::from(phase), starts));
    let others: Vec<Course> = phases.collect();
    let rows = show(seconds, &own, &others, failed);
    let written = trace.iter().step_by(WRITTEN);
    let written: Vec<String> = written
        .map(|sample| format!("{:.1} {} {} {}", sample.at, sample.wanted, sample.ready, sample.in_flight))
        .collect();
    Ok(json!({
        "step_s": seconds, "rows": rows, "failed": failed, "trace_at_wanted_ready_in_flight": written,
        "small": figure::of_load(&small)?, "large": figure::of_load(&large)?,
    }))
}

/// So many clients for so long; what there was to see is added to the trace.
fn under(
    bowline: &Bowline,
    url: &str,
    clients: u32,
    seconds: u32,
    from: f64,
    trace: &mut Vec<Sample>,
) -> anyhow::Result<Report> {
    let mut plan = Plan::new(Target::parse(url)?);
    plan.roots = std::fs::read(bowline.ca())?;
    plan.pace = Pace::Closed;
    (plan.connections, plan.duration) = (usize::try_from(clients)?, Duration::from_secs(seconds.into()));
    let load = Load::start(plan).map_err(|fault| anyhow::anyhow!("{fault}"))?;
    let begun = Instant::now();
    let mut next = Duration::ZERO;
    while !load.is_over() {
        std::thread::sleep(next.saturating_sub(begun.elapsed()));
        next = begun.elapsed().max(next) + EVERY;
        let service = bowline.status()["apps"][0]["services"][0].clone();
        let number = |name: &str| service[name].as_u64().and_then(|number| u16::try_from(number).ok()).unwrap_or(0);
        let progress = load.progress();
        let in_flight = progress.offered.saturating_sub(progress.succeeded + progress.failed);
        trace.push(Sample {
            at: from + begun.elapsed().as_secs_f64(),
            wanted: number("wanted"),
            ready: number("ready"),
            in_flight: in_flight as f64,
        });
    }
    load.report().map_err(|fault| anyhow::anyhow!("{fault}"))
}

impl Course {
    /// Of seconds since the step, what was wanted and what was ready.
    fn of(trace: impl Iterator<Item = (f64, u16, u16)>) -> Self {
        let (mut course, mut last, mut upward) = (Self::default(), None, None);
        for (at, wanted, ready) in trace.filter(|(at, ..)| *at >= 0.0) {
            course.most = course.most.max(wanted);
            course.wanted = course.wanted.or((wanted >= NEEDED).then_some(at));
            course.ready = course.ready.or((ready >= NEEDED).then_some(at));
            let before = last.replace(wanted).unwrap_or(wanted);
            if wanted != before {
                let rises = wanted > before;
                course.changes += 1;
                course.turns += u32::from(upward.replace(rises).is_some_and(|rose| rose != rises));
            }
        }
        course
    }
}

/// What the rule of the HPA makes of it, which looked first so many seconds after the trace begins. `starts`: how long the instances
/// took to be ready.
fn replay(trace: &[Sample], phase: f64, starts: Option<f64>) -> Course {
    let (mut scaler, mut target, mut busy) = (Hpa::by_requests().at_most(MOST), 1, 0.0);
    let begun = -f64::from(SMALL) + phase;
    let mut last = begun;
    let mut found = Vec::new();
    for sample in trace.iter().filter(|sample| sample.at >= begun) {
        busy += sample.in_flight * (sample.at - last);
        last = sample.at;
        let seen = Seen { now: sample.at - begun, target, ready: sample.ready, busy, used: 0.0 };
        target = scaler.look(seen);
        found.push((sample.at, target, 0));
    }
    let course = Course::of(found.into_iter());
    Course { ready: course.wanted.zip(starts).map(|(wanted, starts)| wanted + starts), ..course }
}

fn show(seconds: u32, own: &Course, others: &[Course], failed: u64) -> Value {
    say(&format!(
        "\nA real step, from {FEW} clients to {MANY} that ask again as soon as they are answered, 300 ms each, through TLS, `in_flight = {IN_FLIGHT}`, for \
         {seconds} s; {failed} requests failed. {} And what the HPA's rule makes of the same recorded requests in flight, at {} phases of its {SYNC:.0} s:\n",
        if seconds > SETTLED {
            "Longer than the time of stabilisation."
        } else {
            "Too short to see what is given back."
        },
        others.len(),
    ));
    say(
        "| scaler | seconds from the step until 5 instances are wanted | until 5 are ready | most wanted | changes of the number | turns |",
    );
    say("|---|---|---|---|---|---|");
    let own = show_courses("Bowline", std::slice::from_ref(own));
    let others = show_courses("HPA, recomputed⁵", others);
    say(
        "\n⁵ median (worst); its instances are taken to be ready as long after they are wanted as Bowline's were. Turns: from more to fewer, or back.",
    );
    json!({ "bowline": own, "hpa": others })
}

fn show_courses(name: &str, courses: &[Course]) -> Value {
    let runs = |value: fn(&Course) -> f64| Runs::new(courses.iter().map(value));
    let shown = |runs: &Runs, digits: usize| match courses {
        [_] => format!("{:.digits$}", runs.median()),
        _ => format!("{:.digits$} ({:.digits$})", runs.median(), runs.max()),
    };
    let wanted = runs(|course| course.wanted.unwrap_or(f64::INFINITY));
    let ready = runs(|course| course.ready.unwrap_or(f64::INFINITY));
    let most = runs(|course| f64::from(course.most));
    let (changes, turns) = (runs(|course| f64::from(course.changes)), runs(|course| f64::from(course.turns)));
    let cells = [(&wanted, 1), (&ready, 1), (&most, 0), (&changes, 0), (&turns, 0)];
    let cells = cells.map(|(runs, digits)| shown(runs, digits));
    say(&format!("| {name} | {} |", cells.join(" | ")));
    json!({
        "wanted_s": wanted.json(), "ready_s": ready.json(), "most": most.json(),
        "changes": changes.json(), "turns": turns.json(),
    })
}
