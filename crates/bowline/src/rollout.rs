//! How a rollout is drawn: what the new release carries as a bar, and what the last look said in figures.

use std::time::Duration;

use bowline_api::wire::{
    RolloutFigures, RolloutNow, RolloutSentence, RolloutStage, RolloutStrategy, RolloutVerdict, Waiting,
};

use crate::ui::Tone;

/// Cells of a bar where there is room, and where there is not.
const CELLS: usize = 20;
const FEW_CELLS: usize = 10;

/// Below so many columns there is no room for a long bar.
const NARROW: usize = 64;

/// Services whose verdicts are drawn; more would push the bar off a small terminal.
const MOST: usize = 4;

/// It is worth a picture: something moves by shares, or is watched.
pub(crate) fn is_drawn(now: &RolloutNow) -> bool {
    let moves = now.strategy != RolloutStrategy::Rolling && now.stable.is_some();
    match now.stage {
        RolloutStage::Preparing | RolloutStage::Ended => false,
        RolloutStage::Step | RolloutStage::Completing | RolloutStage::Undoing => moves,
        RolloutStage::Watching => true,
    }
}

/// `[█████░░░░░░░░░░░░░░░] 25%  step 2 of 4  1:12 left`. `at`: the daemon's time.
pub(crate) fn headline(now: &RolloutNow, at: u64, columns: usize) -> String {
    let cells = if columns < NARROW { FEW_CELLS } else { CELLS };
    let left = left(now, at).map(|left| format!("  {left}")).unwrap_or_default();
    format!("{} {}%  {}{left}", bar(now.weight, cells), now.weight, place(now))
}

/// The headline or a verdict says what this does: what was judged, and how long it still takes.
pub(crate) fn says(now: &RolloutNow, step: &Waiting, at: u64) -> bool {
    let counts_down = now.asks.or(now.ends).is_some_and(|end| at < end);
    now.verdicts.iter().any(|one| one.text == step.on) || counts_down && step.what == format!("r{}", now.candidate)
}

/// At least one cell of anything, and all only of everything.
fn bar(weight: u8, cells: usize) -> String {
    let full = match usize::from(weight) {
        0 => 0,
        100.. => cells,
        some => (some * cells).div_ceil(100).clamp(1, cells - 1),
    };
    format!("[{}{}]", "█".repeat(full), "░".repeat(cells - full))
}

/// `step 2 of 4`
pub(crate) fn place(now: &RolloutNow) -> String {
    match (now.stage, now.step) {
        (RolloutStage::Preparing, _) => "preparing".to_owned(),
        (RolloutStage::Step, Some(step)) => format!("step {step} of {}", now.of),
        (RolloutStage::Step, None) => "under way".to_owned(),
        (RolloutStage::Completing, _) => "completing".to_owned(),
        (RolloutStage::Watching, _) => "watched".to_owned(),
        (RolloutStage::Undoing, _) => "taken back".to_owned(),
        (RolloutStage::Ended, _) => "over".to_owned(),
    }
}

/// `1:12 left`, and beyond the end of a step that is held what is done about it.
fn left(now: &RolloutNow, at: u64) -> Option<String> {
    match (now.ends, now.asks) {
        (Some(ends), _) if at < ends => Some(format!("{} left", clock(Duration::from_millis(ends - at)))),
        (_, Some(asks)) if at >= asks => Some("promote or abort?".to_owned()),
        (Some(_), _) if now.stage == RolloutStage::Step => Some("held".to_owned()),
        (_, _) => None,
    }
}

/// `1:12`, `1:00:05`; what has begun counts whole.
fn clock(left: Duration) -> String {
    let s = left.as_millis().div_ceil(1_000);
    match s / 3_600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        h => format!("{h}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

/// One for each service, as long as there are few.
pub(crate) fn verdicts(now: &RolloutNow) -> Vec<(Tone, String)> {
    let mut lines: Vec<_> = now.verdicts.iter().take(MOST).map(|one| (tone(one.verdict), verdict(one))).collect();
    if let Some(more) = now.verdicts.len().checked_sub(MOST).filter(|more| *more > 0) {
        lines.push((Tone::Faint, format!("and {more} more")));
    }
    lines
}

fn tone(sentence: RolloutSentence) -> Tone {
    match sentence {
        RolloutSentence::Pass => Tone::Good,
        RolloutSentence::Fail => Tone::Bad,
        RolloutSentence::TooFewData | RolloutSentence::StableBroken => Tone::Warning,
    }
}

/// `web: passes · canary 3 of 2,100 failed, stable 2 of 2,080 · 99% within 41ms, stable 39ms`: what matters first, since a narrow
/// terminal shows no more.
pub(crate) fn verdict(one: &RolloutVerdict) -> String {
    let sentence = match one.verdict {
        RolloutSentence::Pass => "passes".to_owned(),
        // Why is the whole of it.
        RolloutSentence::Fail | RolloutSentence::StableBroken => return format!("{}: {}", one.service, one.text),
        RolloutSentence::TooFewData if let Some(dark) = &one.dark => return format!("{}: holds: {dark}", one.service),
        // Beside nothing, it is watched, and nothing is held up.
        RolloutSentence::TooFewData if one.stable.is_none() => "too few to tell".to_owned(),
        RolloutSentence::TooFewData => holds(one),
    };
    let of = |seen: &RolloutFigures| format!("{} of {}", grouped(seen.failed), grouped(seen.requests));
    let canary = if one.stable.is_some() { "canary " } else { "" };
    let beside = one.baseline.as_ref().map(|seen| format!(", stable {}", of(seen))).unwrap_or_default();
    let p99 = |seen: &RolloutFigures| seen.p99_us.map(latency);
    let speed = p99(&one.canary).map(|canary| match one.baseline.as_ref().and_then(p99) {
        Some(stable) => format!(" · 99% within {canary}, stable {stable}"),
        None => format!(" · 99% within {canary}"),
    });
    format!("{}: {sentence} · {canary}{} failed{beside}{}", one.service, of(&one.canary), speed.unwrap_or_default())
}

/// What a step that is held waits for.
fn holds(one: &RolloutVerdict) -> String {
    let missing = one.rules.iter().filter_map(|rule| {
        let needs = rule.needs?;
        // Who compares needs as many of both.
        let compares = rule.limit.starts_with("stable") || rule.what.contains("stable");
        let baseline = rule.baseline.filter(|_| compares).map_or(u64::MAX, |seen| seen.of);
        Some(needs.saturating_sub(rule.canary.of.min(baseline)))
    });
    let above = one.rules.iter().find_map(|rule| {
        let more = format!("more than {} {}", rule.limit, rule.what);
        match rule.state.as_str() {
            "nothing_beside" => Some(format!("holds: {more}, stable has had no requests")),
            "stable_away" => Some(format!("holds: {more}, no instance of stable is ready")),
            "doubtful" => Some(format!("holds: {more}, which may be chance")),
            "stable_too" => Some(format!("holds: {more}, as of stable")),
            _ => None,
        }
    });
    match (above, missing.max()) {
        (Some(above), _) => above,
        (None, Some(0 | 1)) => "waits for 1 more request".to_owned(),
        (None, Some(missing)) => format!("waits for {} more requests", grouped(missing)),
        (None, None) => "holds".to_owned(),
    }
}

/// `release 2 carries 25%, step 2 of 4`: for where nothing moves.
pub(crate) fn line(now: &RolloutNow, at: u64) -> String {
    let left = left(now, at).map(|left| format!(", {left}")).unwrap_or_default();
    format!("release {} carries {}%, {}{left}", now.candidate, now.weight, place(now))
}

/// `41ms`, to three digits
fn latency(us: u64) -> String {
    let rounded = |value: u64, per: u64| value.div_ceil(per);
    match us {
        0..10_000 => format!("{}.{}ms", rounded(us, 100) / 10, rounded(us, 100) % 10),
        10_000..10_000_000 => format!("{}ms", rounded(us, 1_000)),
        _ => format!("{}s", rounded(us, 1_000_000)),
    }
}

/// `2,100`
fn grouped(n: u64) -> String {
    match n / 1_000 {
        0 => n.to_string(),
        above => format!("{},{:03}", grouped(above), n % 1_000),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bowline_api::wire::{RolloutRule, RolloutTally};

    use super::*;

    /// A canary in the second of four steps, at second 100, which is judged until second 172.
    pub(crate) fn canary(weight: u8) -> RolloutNow {
        RolloutNow {
            strategy: RolloutStrategy::Canary,
            stable: Some(1),
            candidate: 2,
            stage: RolloutStage::Step,
            step: Some(2),
            of: 4,
            weight,
            since: 90_000,
            ends: Some(172_000),
            asks: Some(472_000),
            gives_up: None,
            verdicts: vec![seen(RolloutSentence::Pass, None)],
        }
    }

    pub(crate) fn seen(verdict: RolloutSentence, needs: Option<u64>) -> RolloutVerdict {
        let figures = |failed, requests, p99| RolloutFigures { requests, failed, p50_us: None, p99_us: p99 };
        let tally = |bad, of| RolloutTally { bad, of };
        let state = if needs.is_some() { "too_few" } else { "doubtful" };
        RolloutVerdict {
            service: "web".into(),
            verdict,
            text: "canary 41 of 2,100 failed, stable 3 of 2,080; limit 1%; aborting".into(),
            canary: figures(3, 2_100, Some(40_600)),
            baseline: Some(figures(2, 2_080, Some(9_950))),
            stable: Some(figures(20, 20_800, None)),
            dark: None,
            rules: vec![RolloutRule {
                what: "failed".into(),
                limit: "1%".into(),
                state: state.into(),
                needs,
                canary: tally(3, 2_100),
                baseline: Some(tally(2, 2_080)),
                stable: None,
            }],
        }
    }

    #[test]
    fn a_bar_is_full_only_when_all_is_carried() {
        let check = |weight, cells, expected: &str| assert_eq!(bar(weight, cells), expected, "{weight}");
        check(0, 10, "[░░░░░░░░░░]");
        check(1, 10, "[█░░░░░░░░░]");
        check(25, 20, "[█████░░░░░░░░░░░░░░░]");
        check(99, 10, "[█████████░]");
        check(100, 10, "[██████████]");
    }

    #[test]
    fn the_headline_says_how_far_and_how_long() {
        let check = |now: &RolloutNow, at, columns, expected: &str| assert_eq!(headline(now, at, columns), expected);
        check(&canary(25), 100_000, 80, "[█████░░░░░░░░░░░░░░░] 25%  step 2 of 4  1:12 left");
        check(&canary(25), 171_001, 40, "[███░░░░░░░] 25%  step 2 of 4  0:01 left");
        check(&canary(25), 172_000, 40, "[███░░░░░░░] 25%  step 2 of 4  held");
        check(&canary(25), 472_000, 40, "[███░░░░░░░] 25%  step 2 of 4  promote or abort?");
        let watched = RolloutNow { stage: RolloutStage::Watching, step: None, ends: Some(4_100_000), ..canary(100) };
        check(&watched, 100_000, 40, "[██████████] 100%  watched  1:06:40 left");
        let looked_at = RolloutNow { ends: None, asks: Some(90_000), of: 1, step: Some(1), ..canary(0) };
        check(&looked_at, 100_000, 40, "[░░░░░░░░░░] 0%  step 1 of 1  promote or abort?");
    }

    #[test]
    fn a_verdict_reads_as_a_sentence() {
        let check = |one: &RolloutVerdict, expected: &str| assert_eq!(verdict(one), expected);
        let figures = "canary 3 of 2,100 failed, stable 2 of 2,080 · 99% within 41ms, stable 10.0ms";
        check(&seen(RolloutSentence::Pass, None), &format!("web: passes · {figures}"));
        let waits = seen(RolloutSentence::TooFewData, Some(2_280));
        check(&waits, &format!("web: waits for 180 more requests · {figures}"));
        let doubtful = seen(RolloutSentence::TooFewData, None);
        check(&doubtful, &format!("web: holds: more than 1% failed, which may be chance · {figures}"));
        let in_state = |state: &str| {
            let mut one = seen(RolloutSentence::TooFewData, None);
            one.rules[0].state = state.into();
            one
        };
        let alone = in_state("nothing_beside");
        check(&alone, &format!("web: holds: more than 1% failed, stable has had no requests · {figures}"));
        check(&in_state("stable_too"), &format!("web: holds: more than 1% failed, as of stable · {figures}"));
        let failed = "web: canary 41 of 2,100 failed, stable 3 of 2,080; limit 1%; aborting";
        check(&seen(RolloutSentence::Fail, None), failed);
        let dark = "instance 2 of the canary has answered nobody for 15s: its last 10 requests failed";
        let held = RolloutVerdict { dark: Some(dark.into()), ..seen(RolloutSentence::TooFewData, None) };
        assert_eq!(verdict(&held), format!("web: holds: {dark}"));
        let alone = |sentence| RolloutVerdict { baseline: None, stable: None, ..seen(sentence, Some(3_000)) };
        check(&alone(RolloutSentence::Pass), "web: passes · 3 of 2,100 failed · 99% within 41ms");
        check(&alone(RolloutSentence::TooFewData), "web: too few to tell · 3 of 2,100 failed · 99% within 41ms");
    }

    #[test]
    fn what_rolls_is_not_drawn_until_it_is_watched() {
        let rolling = RolloutNow { strategy: RolloutStrategy::Rolling, ..canary(50) };
        assert!(!is_drawn(&rolling) && is_drawn(&canary(0)));
        assert!(is_drawn(&RolloutNow { stage: RolloutStage::Watching, ..rolling }));
        assert!(!is_drawn(&RolloutNow { stable: None, ..canary(100) }), "the first release carries everything");
    }
}
