use std::time::Duration;

use bowline_core::app::{AbortRule, LatencyObjective, Step};
use bowline_core::time::Humane;
use bowline_core::units::{Share, Weight};
use bowline_core::verdict::Histogram;

use super::{Read, Wrong, duration, positive, share};

/// `5% for 1m`
pub(crate) fn step(text: &str) -> Read<Step> {
    let wrong = || Wrong::hint("this is not a step", "write \"5% for 1m\"");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [weight, "for", hold] = words[..] else { return Err(wrong()) };
    let percent = weight.strip_suffix('%').filter(|w| w.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
    let weight = match percent.parse().ok().and_then(Weight::new) {
        Some(weight) if weight.get() > 0 => weight,
        Some(_) | None => return Err(Wrong::new("the share of a step is a whole number from 1% to 100%")),
    };
    Ok(Step { weight, hold: duration(hold)? })
}

pub(crate) fn print_step(step: &Step) -> String {
    format!("{}% for {}", step.weight.get(), Humane(step.hold))
}

/// `error_rate > 1%`, `error_rate > stable + 0.5%`, `p99 > 500ms`, `p99 > stable + 100ms`, with a limit that can be exceeded.
pub(crate) fn abort_rule(text: &str) -> Read<AbortRule> {
    let rule = any_abort_rule(text)?;
    match rule {
        AbortRule::ErrorRateAboveStable(above) => below_whole(above, "error_rate > stable + 0.5%")?,
        AbortRule::ErrorRate(limit) => below_whole(limit, "error_rate > 1%")?,
        AbortRule::LatencyAboveStable { above, .. } => measurable(above)?,
        AbortRule::Latency { limit, .. } => measurable(limit)?,
    }
    Ok(rule)
}

/// The same with any limit.
pub(crate) fn any_abort_rule(text: &str) -> Read<AbortRule> {
    let wrong = || {
        let hint =
            "write \"error_rate > 1%\", \"error_rate > stable + 0.5%\", \"p99 > 500ms\" or \"p99 > stable + 100ms\"";
        Wrong::hint("this is not a rule", hint)
    };
    let (measure, limit) = text.split_once('>').ok_or_else(wrong)?;
    let (measure, limit) = (measure.trim(), limit.trim());
    let above = match limit.strip_prefix("stable") {
        Some(rest) => Some(rest.trim_start().strip_prefix('+').ok_or_else(wrong)?.trim_start()),
        None => None,
    };
    if measure == "error_rate" {
        return match above {
            Some(above) => share(above).map(AbortRule::ErrorRateAboveStable),
            None => share(limit).map(AbortRule::ErrorRate),
        };
    }
    let quantile = measure.strip_prefix('p').ok_or_else(wrong)?;
    match share(&format!("{quantile}%")) {
        Ok(quantile) if quantile.ppm() > 0 && quantile < Share::WHOLE => Ok(match above {
            Some(above) => AbortRule::LatencyAboveStable { quantile, above: duration(above)? },
            None => AbortRule::Latency { quantile, limit: positive(limit)? },
        }),
        Ok(_) => Err(Wrong::new("a quantile lies between p0 and p100")),
        Err(_) => Err(wrong()),
    }
}

/// A limit of a share that can be exceeded.
fn below_whole(limit: Share, example: &str) -> Read<()> {
    if limit < Share::WHOLE {
        return Ok(());
    }
    let hint = format!("no more than all requests fail: write a share below 100%, as in \"{example}\"");
    Err(Wrong::hint("this limit is never exceeded", hint))
}

/// A limit of time that can be exceeded.
fn measurable(limit: Duration) -> Read<()> {
    if limit <= Histogram::LONGEST {
        return Ok(());
    }
    let hint = format!("write {} at most: what takes longer is not told apart", Humane(Histogram::LONGEST));
    Err(Wrong::hint("this limit is never exceeded", hint))
}

pub(crate) fn print_abort_rule(rule: &AbortRule) -> String {
    let name = |quantile: Share| format!("p{}", quantile.to_string().trim_end_matches('%'));
    match rule {
        AbortRule::ErrorRate(limit) => format!("error_rate > {limit}"),
        AbortRule::ErrorRateAboveStable(above) => format!("error_rate > stable + {above}"),
        AbortRule::Latency { quantile, limit } => format!("{} > {}", name(*quantile), Humane(*limit)),
        AbortRule::LatencyAboveStable { quantile, above } => {
            format!("{} > stable + {}", name(*quantile), Humane(*above))
        }
    }
}

/// `99% under 300ms`
pub(crate) fn latency_objective(text: &str) -> Read<LatencyObjective> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [part, "under", limit] = words[..] else {
        return Err(Wrong::hint("this is not a latency objective", "write \"99% under 300ms\""));
    };
    Ok(LatencyObjective { share: share(part)?, under: positive(limit)? })
}

pub(crate) fn print_latency_objective(objective: &LatencyObjective) -> String {
    format!("{} under {}", objective.share, Humane(objective.under))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_to_what_they_were_read_from() {
        for text in ["5% for 1m", "100% for 0ms"] {
            assert_eq!(print_step(&step(text).unwrap()), text);
        }
        let compared = ["error_rate > stable + 0.5%", "p99 > stable + 100ms", "p50 > stable + 0ms"];
        for text in ["error_rate > 1%", "p99 > 500ms", "p99.9 > 1s"].into_iter().chain(compared) {
            assert_eq!(print_abort_rule(&abort_rule(text).unwrap()), text);
        }
        assert_eq!(abort_rule("error_rate>stable+0.5%"), abort_rule("error_rate > stable + 0.5%"));
        assert_eq!(print_latency_objective(&latency_objective("99%  under 300ms").unwrap()), "99% under 300ms");
    }

    #[test]
    fn a_limit_that_nothing_exceeds_is_none() {
        let never = ["error_rate > 100%", "error_rate > stable + 100%", "p99 > 513s", "p99 > stable + 9m"];
        for text in never {
            assert_eq!(abort_rule(text).unwrap_err().message, "this limit is never exceeded", "{text:?}");
            let stored = any_abort_rule(text).unwrap();
            assert_eq!(any_abort_rule(&print_abort_rule(&stored)), Ok(stored), "{text:?}");
        }
        for text in ["error_rate > 99.9999%", "error_rate > stable + 99%", "p99 > 512s", "error_rate > 0%"] {
            assert!(abort_rule(text).is_ok(), "{text:?}");
        }
        assert!(abort_rule("error_rate > 101%").is_err());
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in ["", "5%", "5% for", "0% for 1m", "101% for 1m", "5.5% for 1m", "+5% for 1m", "5% for 1m x"] {
            assert!(step(text).is_err(), "{text:?}");
        }
        let absolute =
            ["", "error_rate", "error_rate < 1%", "errors > 1%", "p100 > 1s", "p0 > 1s", "p99 > 0s", "p99 > 1%"];
        let compared = [
            "error_rate > stable",
            "p99 > stable",
            "p99 > stable + 1%",
            "p100 > stable + 1s",
            "error_rate > stable + 1s",
        ];
        for text in absolute.into_iter().chain(compared) {
            assert!(abort_rule(text).is_err(), "{text:?}");
        }
    }
}
