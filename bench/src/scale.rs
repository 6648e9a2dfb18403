//! A load that grows ten times, met by Bowline's scaler and by the HorizontalPodAutoscaler of Kubernetes: simulated, on the same
//! traces; and a real one, met by a real daemon.

mod real;
mod scalers;
mod world;

use serde_json::{Value, json};

use crate::figure::Runs;
use crate::{say, setting};
use scalers::{Bowline, Hpa, Scaler};
use world::{World, met};

/// Seconds: a small load, ten times as much, and the small one again until everything is given back.
const SMALL: u32 = 300;
const LARGE: u32 = 600;
const AGAIN: u32 = 900;

/// Seconds: as long as the longest time between two looks.
const PHASES: u32 = 15;

/// A scaler that has seen nothing yet.
type Fresh = fn() -> Box<dyn Scaler>;

const SCALERS: [(&str, Fresh); 4] = [
    ("Bowline, in flight", || Box::new(Bowline::by_requests())),
    ("HPA, in flight", || Box::new(Hpa::by_requests())),
    ("Bowline, processor", || Box::new(Bowline::by_cpu())),
    ("HPA, processor", || Box::new(Hpa::by_cpu())),
];

/// What became of one trace.
struct Outcome {
    /// Seconds from the step until what is ready carries it, and until nobody waits any more.
    enough: Option<f64>,
    calm: Option<f64>,
    most: u16,
    /// Turns from more to fewer or back, beyond the two that the trace has.
    turns: u32,
    late: f64,
    /// Instances × seconds, as a part of what the load needs.
    spent: f64,
}

pub(crate) fn run() -> anyhow::Result<Value> {
    let traces = setting("BENCH_TRACES", 100)?;
    say(&format!(
        "{traces} simulated traces: 50 requests a second for {SMALL} s and up to 14 more, 500 for {LARGE} s, 50 again for {AGAIN} s (Poisson), 100 ms each; an instance \
         carries 14 at once, its target is 10 (70 %), and takes 3 s to start; between 1 and 20 of them. At its target, the small load needs 1 and the \
         large one 5.\n"
    ));
    say(
        "| scaler | seconds to enough capacity¹, median (worst) | seconds until nobody queues², median | most instances, median (worst) | turns too many³ | requests later than 1 s | instances × seconds⁴ |",
    );
    say("|---|---|---|---|---|---|---|");
    let mut result = serde_json::Map::new();
    for (name, fresh) in SCALERS {
        let outcomes: Vec<Outcome> = (0..traces).map(|seed| step(seed, &mut *fresh())).collect();
        result.insert(name.to_owned(), show(name, &outcomes));
    }
    result.insert("steady".to_owned(), show_steady(traces));
    NOTES.iter().for_each(|line| say(line));
    let seconds = setting("BENCH_STEP", 420)?;
    if seconds > 0 {
        result.insert("real".to_owned(), real::run(seconds)?);
    }
    Ok(result.into())
}

const NOTES: [&str; 9] = [
    "",
    "¹ from the step until the instances that are ready carry what comes. ² until what has queued up meanwhile is answered. ³ changes of direction beyond up once and",
    "down once, over all traces. ⁴ of those that exist, as a multiple of what the targets need.",
    "",
    "- Bowline: averages over 60 s and, in a rush, 6 s; processor time over at most 30 s; a look each 2 s; down after 300 s; at most ten times\n  what is ready at once, and more when that has been ready for 6 s.",
    "- HPA: `ceil(current · value / target)` each 15 s with a tolerance of 0.1, up by at most 4 or 100 % each 15 s, down by the largest of 300 s (its defaults,",
    "  `--horizontal-pod-autoscaler-sync-period` and `behavior`); a metric is the average of the last 15 s (metrics-server's resolution), of pods that are ready.",
    "- Both see the same arrivals until their decisions differ. Instances start and stop alike: only the rules differ.",
    "- An instance that is full queues; what queues is in flight.",
];

fn step(seed: u32, scaler: &mut dyn Scaler) -> Outcome {
    // Whoever looks now and then meets the step at another moment in each trace.
    let small = SMALL + seed % PHASES;
    let rate = |second: u32| if (small..small + LARGE).contains(&second) { 500.0 } else { 50.0 };
    let mut world = World::new(seed);
    let (mut enough, mut calm, mut most) = (None, None, 0);
    let (mut changes, mut needed) = (Vec::new(), 0.0);
    for second in 0..small + LARGE + AGAIN {
        let before = world.target();
        world.second(rate(second), scaler);
        if world.target() != before {
            changes.push(world.target() > before);
        }
        most = most.max(world.target());
        needed += if rate(second) > 100.0 { 5.0 } else { 1.0 };
        let since = second.checked_sub(small).filter(|since| *since < LARGE).map(|since| f64::from(since + 1));
        if let Some(since) = since {
            enough = enough.or((world.carries() >= rate(second)).then_some(since));
            calm = calm.or((enough.is_some() && met(&world)).then_some(since));
        }
    }
    let turns = changes.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let turns = u32::try_from(turns).unwrap_or(u32::MAX).saturating_sub(1);
    Outcome { enough, calm, most, turns, late: world.late(), spent: world.spent() / needed }
}

fn show(name: &str, outcomes: &[Outcome]) -> Value {
    let of =
        |value: fn(&Outcome) -> Option<f64>| Runs::new(outcomes.iter().map(|one| value(one).unwrap_or(f64::INFINITY)));
    let (enough, calm) = (of(|one| one.enough), of(|one| one.calm));
    let most = of(|one| Some(f64::from(one.most)));
    let (late, spent) = (of(|one| Some(one.late)), of(|one| Some(one.spent)));
    let turns: u32 = outcomes.iter().map(|one| one.turns).sum();
    say(&format!(
        "| {name} | {:.0} ({:.0}) | {:.0} | {:.0} ({:.0}) | {turns} | {:.2} % | {:.2} |",
        enough.median(),
        enough.max(),
        calm.median(),
        most.median(),
        most.max(),
        100.0 * late.median(),
        spent.median()
    ));
    json!({
        "enough_s": enough.json(), "calm_s": calm.json(), "most": most.json(), "turns": turns,
        "late": late.json(), "spent": spent.json(),
    })
}

/// No step at all: an hour just on the border between two numbers.
fn show_steady(traces: u32) -> Value {
    const HOUR: u32 = 3_600;
    say(&format!(
        "\nAn hour at 300 requests a second, just on the border between 3 and 4 instances, {traces} traces: changes an hour, after the first 10 minutes.\n"
    ));
    say("| scaler | median | worst |");
    say("|---|---|---|");
    let mut result = serde_json::Map::new();
    for (name, fresh) in SCALERS {
        let changes = |seed| {
            let (mut world, mut scaler, mut changes) = (World::new(seed), fresh(), 0_u32);
            for second in 0..HOUR {
                let before = world.target();
                world.second(300.0, &mut *scaler);
                changes += u32::from(second >= 600 && world.target() != before);
            }
            f64::from(changes)
        };
        let runs = Runs::new((0..traces).map(changes));
        say(&format!("| {name} | {:.0} | {:.0} |", runs.median(), runs.max()));
        result.insert(name.to_owned(), runs.json());
    }
    result.into()
}
