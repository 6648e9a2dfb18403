//! Canaries on simulated traffic, judged by Bowline's verdicts and by the fixed thresholds of Flagger and Argo
//! Rollouts.
//!
//! Each run is one rollout of one service over the default steps: requests come at random (Poisson) at the service's
//! rate, each goes to the canary, its baseline or the rest of the stable release by weight, fails with its release's
//! share of errors and takes a time from a log-normal distribution. The seed of a run is its number, so that all judges
//! get the same services and the same random numbers until their decisions differ.

mod judges;
mod traffic;

use bowline_core::rollout::ASKS_AFTER;
use serde_json::{Value, json};

use crate::figure::Runs;
use crate::{say, setting};
use judges::{Argo, Bowline, Flagger, Judge, Move};
use traffic::{LOOK, Service, Traffic};

/// The default of `[rollout] steps`: percent and seconds.
const STEPS: [(u32, u32); 3] = [(5, 60), (25, 120), (50, 120)];

/// Seconds beyond the time of a step for which its rollout is followed: nobody answers when a human is asked, and it is held on.
const FOLLOWED: u32 = 3_600;

/// How a canary differs from the stable release.
#[derive(Clone, Copy)]
struct Fault {
    name: &'static str,
    /// Added to the stable release's share of errors.
    errors: f64,
    /// Times that its answers take.
    slower: f64,
}

const SAME: Fault = Fault { name: "identical", errors: 0.0, slower: 1.0 };

const FAULTS: [Fault; 7] = [
    Fault { name: "errors + 1 point", errors: 0.01, slower: 1.0 },
    Fault { name: "errors + 2 points", errors: 0.02, slower: 1.0 },
    Fault { name: "errors + 5 points", errors: 0.05, slower: 1.0 },
    Fault { name: "errors + 50 points", errors: 0.5, slower: 1.0 },
    Fault { name: "times × 1.5 (p99 389 ms)", errors: 0.0, slower: 1.5 },
    Fault { name: "times × 2 (p99 518 ms)", errors: 0.0, slower: 2.0 },
    Fault { name: "times × 3 (p99 777 ms)", errors: 0.0, slower: 3.0 },
];

/// A judge that has seen nothing yet.
type Fresh = fn() -> Box<dyn Judge>;

const JUDGES: [(&str, Fresh); 3] = [
    ("Bowline", || Box::new(Bowline)),
    ("Flagger", || Box::<Flagger>::default()),
    ("Argo Rollouts", || Box::<Argo>::default()),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Aborted,
    Promoted,
    /// Neither, for as long as it was followed.
    Held,
}

/// What became of one rollout.
struct Outcome {
    end: End,
    /// When that was.
    seconds: u32,
    /// When a human was asked first.
    asked: Option<u32>,
    /// Requests that the canary answered worse than the stable release would have until it ended or a human was asked, as a part
    /// of those that the service gets in the time of the steps.
    hurt: f64,
    /// The errors of the stable release.
    errors: f64,
    /// Requests a second.
    rate: f64,
}

pub(crate) fn run() -> anyhow::Result<Value> {
    let identical = setting("BENCH_CANARIES", 2_000)?;
    let faulty = setting("BENCH_FAULTY", 500)?;
    let alike = JUDGES.map(|(_, judge)| outcomes(identical, SAME, judge));
    let found = FAULTS.map(|fault| JUDGES.map(|(_, judge)| outcomes(faulty, fault, judge)));
    let mut result = serde_json::Map::new();
    result.insert(SAME.name.to_owned(), show_identical(identical, &alike));
    result.insert("long step".to_owned(), show_long(identical));
    say(&format!("\n{faulty} canaries each, of services as above:\n"));
    say(
        "| the canary | judge | aborted | promoted unasked | a human is asked² | passed by itself after asking³ | aborted by itself after asking³ | seconds to the abort, median (9 of 10 within) | requests hurt⁴ |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    for (fault, judged) in FAULTS.iter().zip(&found) {
        let of_judges = JUDGES
            .iter()
            .zip(judged)
            .map(|((judge, _), outcomes)| (judge.to_string(), show_fault(fault.name, judge, outcomes)));
        result.insert(fault.name.to_owned(), of_judges.collect::<serde_json::Map<_, _>>().into());
    }
    result.insert("by_rate".to_owned(), show_by_rate(&alike[0], &found));
    NOTES.iter().for_each(|line| say(line));
    Ok(result.into())
}

const NOTES: [&str; 14] = [
    "",
    "¹ errors of the stable release. ² 5 minutes after the time of a step that has not passed (`ASKS_AFTER`): `bowline promote` or `bowline abort` would end it, and",
    "nobody answers here. ³ of all canaries: the step is held on and judged as before, here for an hour after its time. Those that a human was asked about and that",
    "neither passed nor were aborted are still held then. ⁴ requests that the canary failed, or (times) answered after more than the stable release's p99, where the",
    "stable release would not have, until it ended or a human was asked; as a part of what the service gets in the 5 minutes of the steps, mean over all runs",
    "whatever their end.",
    "",
    "- \"aborted\" counts those that were aborted after a human was asked, too.",
    "- Bowline: `abort = [\"error_rate > 1%\", \"p99 > 500ms\", \"error_rate > stable + 0.5%\", \"p99 > stable + 50ms\"]`, a look each 5 s.",
    "- Flagger, as documented: success rate at least 99 %, p99 at most 500 ms, over 1 minute, each minute; rolled back at the 5th check that failed. A check without",
    "  requests has failed; one that failed does not advance.",
    "- Argo Rollouts, as documented: success rate at least 95 %, aborted at the 4th measurement that failed or the 5th in a row without requests; steps go by time. There",
    "  it measures each 5 minutes; here each minute, since the steps last 5.",
    "- Weights and times of the steps are the same for all (5% for 1m, 25% for 2m, 50% for 2m): only the rules differ.",
];

fn outcomes(runs: u32, fault: Fault, judge: Fresh) -> Vec<Outcome> {
    (0..runs).map(|seed| rollout(seed, fault, &mut *judge())).collect()
}

fn rollout(seed: u32, fault: Fault, judge: &mut dyn Judge) -> Outcome {
    let mut traffic = Traffic::new(Service::drawn(seed), fault.errors, fault.slower);
    let (mut step, mut in_step, mut seconds) = (0, 0, 0);
    let (mut end, mut asked) = (None, None);
    while end.is_none() {
        traffic.look(STEPS[step].0);
        in_step += LOOK;
        seconds += LOOK;
        let over = in_step >= STEPS[step].1;
        end = match judge.look(&traffic, seconds, over) {
            Move::Abort => Some(End::Aborted),
            Move::Promote => Some(End::Promoted),
            Move::Next if step + 1 == STEPS.len() => Some(End::Promoted),
            Move::Next => {
                (step, in_step) = (step + 1, 0);
                traffic.begin_step();
                None
            }
            Move::Hold if in_step >= STEPS[step].1 + FOLLOWED => Some(End::Held),
            Move::Hold => {
                let asks = u64::from(in_step) >= u64::from(STEPS[step].1) + ASKS_AFTER.as_secs();
                asked = asked.or(asks.then(|| (seconds, traffic.hurt())));
                None
            }
        };
    }
    let service = traffic.service();
    let hurt = asked.map_or(traffic.hurt(), |(_, hurt)| hurt);
    Outcome {
        end: end.unwrap_or(End::Held),
        seconds,
        asked: asked.map(|(seconds, _)| seconds),
        hurt: hurt / (service.rate * STEPS.map(|(_, seconds)| f64::from(seconds)).iter().sum::<f64>()),
        errors: service.errors,
        rate: service.rate,
    }
}

impl Outcome {
    fn aborted(&self) -> bool {
        self.end == End::Aborted
    }

    fn promoted_unasked(&self) -> bool {
        self.end == End::Promoted && self.asked.is_none()
    }

    fn asked(&self) -> bool {
        self.asked.is_some()
    }

    fn passed_after_asking(&self) -> bool {
        self.end == End::Promoted && self.asked.is_some()
    }

    fn aborted_after_asking(&self) -> bool {
        self.aborted() && self.asked.is_some()
    }
}

type Is = fn(&Outcome) -> bool;

/// The columns, in their order.
const PARTS: [(&str, Is); 5] = [
    ("aborted", Outcome::aborted),
    ("promoted_unasked", Outcome::promoted_unasked),
    ("asked", Outcome::asked),
    ("passed_after_asking", Outcome::passed_after_asking),
    ("aborted_after_asking", Outcome::aborted_after_asking),
];

fn part(outcomes: &[&Outcome], is: Is) -> f64 {
    let count = outcomes.iter().filter(|outcome| is(outcome)).count();
    ratio(count, outcomes.len())
}

/// All of [`PARTS`].
fn parts(outcomes: &[&Outcome]) -> [f64; 5] {
    PARTS.map(|(_, is)| part(outcomes, is))
}

fn named(parts: [f64; 5]) -> serde_json::Map<String, Value> {
    PARTS.iter().zip(parts).map(|((name, _), part)| ((*name).to_owned(), part.into())).collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of runs")]
fn ratio(count: usize, of: usize) -> f64 {
    count as f64 / of.max(1) as f64
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn show_identical(runs: u32, judged: &[Vec<Outcome>; 3]) -> Value {
    say(&format!(
        "{runs} services (1–500 requests a second, 0.1–2 % errors, both log-uniform; p99 259 ms), each with a canary that is as good:\n"
    ));
    say(
        "| judge | aborted | aborted, errors¹ up to 1 % | aborted, errors¹ above 1 % | promoted unasked | a human is asked² | passed by itself after asking³ | aborted by itself after asking³ | seconds to an end or to asking, median |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    let mut result = serde_json::Map::new();
    for ((judge, _), outcomes) in JUDGES.iter().zip(judged) {
        let all: Vec<_> = outcomes.iter().collect();
        let (low, high): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.errors <= 0.01);
        let first = |outcome: &Outcome| f64::from(outcome.asked.unwrap_or(outcome.seconds));
        let seconds = Runs::new(outcomes.iter().map(first)).median();
        let found = parts(&all);
        let (low, high) = (part(&low, Outcome::aborted), part(&high, Outcome::aborted));
        let [aborted, promoted, asked, passed, late] = found.map(percent);
        let count = outcomes.iter().filter(|outcome| outcome.aborted()).count();
        let (shown_low, shown_high) = (percent(low), percent(high));
        say(&format!(
            "| {judge} | {aborted} ({count}) | {shown_low} | {shown_high} | {promoted} | {asked} | {passed} | {late} | {seconds:.0} |"
        ));
        let mut value = named(found);
        value.insert("aborted_up_to_1_percent".to_owned(), low.into());
        value.insert("aborted_above_1_percent".to_owned(), high.into());
        value.insert("seconds_median".to_owned(), seconds.into());
        result.insert((*judge).to_owned(), value.into());
    }
    result.into()
}

/// The bound itself: one step of an hour at a quarter of the traffic, which nothing ends but an abort.
fn show_long(runs: u32) -> Value {
    const LOOKS: u32 = 3_600 / LOOK;
    let aborts = |seed: &u32| {
        let mut traffic = Traffic::new(Service::drawn(*seed).at_most(40.0), 0.0, 1.0);
        (0..LOOKS).any(|_| {
            traffic.look(25);
            judges::fails(&traffic)
        })
    };
    let aborted = (0..runs).filter(aborts).count();
    say(&format!(
        "\nA single step of an hour with {LOOKS} looks, canaries as good as above, at most 40 requests a second: Bowline aborts {} ({aborted} of {runs}).",
        percent(ratio(aborted, usize::try_from(runs).unwrap_or(usize::MAX)))
    ));
    json!({ "looks": LOOKS, "runs": runs, "aborted": aborted })
}

fn show_fault(fault: &str, judge: &str, outcomes: &[Outcome]) -> Value {
    let all: Vec<_> = outcomes.iter().collect();
    let aborts = all.iter().filter(|outcome| outcome.aborted());
    let mut seconds: Vec<_> = aborts.map(|outcome| outcome.seconds).collect();
    seconds.sort_unstable();
    let (median, late) = (seconds.get(seconds.len() / 2), seconds.get(seconds.len() * 9 / 10));
    let hurt = outcomes.iter().map(|outcome| outcome.hurt).sum::<f64>() / ratio(outcomes.len(), 1);
    let found = parts(&all);
    let times = match (median, late) {
        (Some(median), Some(late)) => format!("{median} ({late})"),
        _ => "—".to_owned(),
    };
    let shown = found.map(percent).join(" | ");
    say(&format!("| {fault} | {judge} | {shown} | {times} | {:.3} % |", 100.0 * hurt));
    let mut value = named(found);
    value.insert("hurt".to_owned(), hurt.into());
    value.insert("seconds_to_abort".to_owned(), json!({ "median": median, "within_9_of_10": late }));
    value.into()
}

/// Bowline's by the traffic of the service: what few requests can tell.
fn show_by_rate(alike: &[Outcome], found: &[[Vec<Outcome>; 3]; 7]) -> Value {
    const RATES: [(f64, f64); 4] = [(1.0, 5.0), (5.0, 25.0), (25.0, 100.0), (100.0, 501.0)];
    say(
        "\nBowline by requests a second: aborted / promoted unasked / a human is asked / passed by itself after asking, in percent:\n",
    );
    say("| the canary | 1–5 | 5–25 | 25–100 | 100–500 |");
    say("|---|---|---|---|---|");
    let mut result = serde_json::Map::new();
    let keeps_limits = alike.iter().filter(|outcome| outcome.errors <= 0.01).collect();
    let alike = [(SAME.name, alike.iter().collect()), ("identical, errors¹ up to 1 %", keeps_limits)];
    let faulty = FAULTS.iter().zip(found).map(|(fault, judged)| (fault.name, judged[0].iter().collect()));
    for (name, outcomes) in alike.into_iter().chain(faulty) {
        let outcomes: Vec<&Outcome> = outcomes;
        let cells = RATES.map(|(from, to)| {
            let those: Vec<_> = outcomes.iter().copied().filter(|one| (from..to).contains(&one.rate)).collect();
            parts(&those).map(|part| 100.0 * part)
        });
        let shown = cells.map(|[aborted, promoted, asked, passed, _]| {
            format!("{aborted:.1} / {promoted:.1} / {asked:.1} / {passed:.1}")
        });
        say(&format!("| {name} | {} |", shown.join(" | ")));
        result.insert(name.to_owned(), json!(cells));
    }
    result.into()
}
