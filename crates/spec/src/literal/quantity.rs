use std::time::Duration;

use bowline_core::units::{Bytes, MilliCpu, Rate, Share};

use super::{Read, Wrong};

/// Longer than anything that is waited for, and far from overflowing a clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// `300ms`, `30s`, `5m`, `1h`, `1d`, `1y` (365 days).
pub(crate) fn duration(text: &str) -> Read<Duration> {
    let wrong = || Wrong::hint("this is not a duration", "write 300ms, 30s, 5m, 1h or 1d");
    let (count, unit) = digits(text).ok_or_else(wrong)?;
    let unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "y" => 365 * 86_400_000,
        "" => return Err(Wrong::hint("a duration has a unit", format!("write \"{text}s\" for seconds"))),
        _ => return Err(wrong()),
    };
    match count.checked_mul(unit).map(Duration::from_millis) {
        Some(duration) if duration <= LONGEST => Ok(duration),
        Some(_) | None => Err(Wrong::new("a duration is at most 100 years")),
    }
}

/// A duration that is not zero.
pub(crate) fn positive(text: &str) -> Read<Duration> {
    match duration(text)? {
        Duration::ZERO => Err(Wrong::new("this cannot be zero")),
        duration => Ok(duration),
    }
}

/// `64KiB`, `20MiB`, `1GiB`. Not zero.
pub(crate) fn size(text: &str) -> Read<Bytes> {
    let wrong = || Wrong::hint("this is not a size", "write 64KiB, 20MiB or 1GiB");
    let (count, unit) = digits(text).ok_or_else(wrong)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "K" | "M" | "G" | "T" | "k" | "KB" | "kB" | "MB" | "GB" | "TB" => {
            let binary = unit[..1].to_ascii_uppercase();
            return Err(Wrong::hint("sizes are counted in powers of 1024", format!("write \"{count}{binary}iB\"")));
        }
        _ => return Err(wrong()),
    };
    match count.checked_mul(1 << shift) {
        Some(0) => Err(Wrong::new("this cannot be zero")),
        // TOML and JSON integers, and file offsets, are signed.
        Some(bytes) if bytes <= i64::MAX as u64 => Ok(Bytes(bytes)),
        Some(_) | None => Err(Wrong::new("a size is below 8388608TiB")),
    }
}

/// `70%`, `99.9%`, with at most four digits after the point.
pub(crate) fn share(text: &str) -> Read<Share> {
    let wrong = || Wrong::hint("this is not a share", "write 70% or 99.9%");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    let ppm = decimal(number, 4).ok_or_else(wrong)?;
    u32::try_from(ppm).ok().and_then(Share::from_ppm).ok_or_else(|| Wrong::new("a share is at most 100%"))
}

/// A share that something is kept at: not zero.
pub(crate) fn target_share(text: &str) -> Read<Share> {
    match share(text)? {
        share if share.ppm() == 0 => Err(Wrong::new("this cannot be zero")),
        share => Ok(share),
    }
}

/// A plain decimal number times 10^`places`; `None` when it has more digits after the point.
fn decimal(text: &str, places: usize) -> Option<u64> {
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || part.is_some_and(|p| !plain(p)) {
        return None;
    }
    let part = part.unwrap_or("").trim_end_matches('0');
    if part.len() > places {
        return None;
    }
    format!("{whole}{part:0<places$}").parse().ok()
}

/// `50/s`, `10/m`, `1000/h`, `5000/d`.
pub(crate) fn rate(text: &str) -> Read<Rate> {
    let wrong = || Wrong::hint("this is not a rate", "write 50/s, 10/m, 1000/h or 5000/d");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let per = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    match digits(count) {
        Some((0, "")) => Err(Wrong::hint("a rate of zero lets nobody in", "deny = true refuses every request")),
        Some((count, "")) => match u32::try_from(count) {
            Ok(count) => Ok(Rate { count, per: Duration::from_secs(per) }),
            Err(_) => Err(Wrong::new("a rate counts at most 4294967295")),
        },
        Some(_) | None => Err(wrong()),
    }
}

/// `1.0`, `0.25`: from a thousandth of a core to 1024.
pub(crate) fn cpu(text: &str) -> Read<MilliCpu> {
    let wrong = || Wrong::hint("this is not a number of cores", "write 1.0 or 0.25, at least 0.001, at most 1024");
    let milli = decimal(text, 3).filter(|milli| (1..=1_024_000).contains(milli)).ok_or_else(wrong)?;
    u32::try_from(milli).map(MilliCpu).map_err(|_| wrong())
}

pub(crate) fn print_cpu(cpu: MilliCpu) -> String {
    let (whole, part) = (cpu.0 / 1000, cpu.0 % 1000);
    match part {
        0 => format!("{whole}.0"),
        _ => format!("{whole}.{}", format!("{part:03}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_core::time::Humane;

    #[test]
    fn quantities_print_to_what_they_were_read_from() {
        for text in ["0ms", "300ms", "90s", "5m", "1h", "7d"] {
            assert_eq!(Humane(duration(text).unwrap()).to_string(), text);
        }
        for text in ["1B", "64KiB", "20MiB", "3GiB", "1TiB"] {
            assert_eq!(size(text).unwrap().to_string(), text);
        }
        for text in ["0%", "70%", "99.9%", "0.0005%", "100%"] {
            assert_eq!(share(text).unwrap().to_string(), text);
        }
        for text in ["50/s", "10/m", "1000/h", "5000/d"] {
            assert_eq!(rate(text).unwrap().to_string(), text);
        }
        for text in ["1.0", "0.25", "0.001", "1024.0"] {
            assert_eq!(print_cpu(cpu(text).unwrap()), text);
        }
        assert_eq!(duration("1y"), duration("365d"));
        assert_eq!(cpu("2"), cpu("2.000"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        let check = |refused: bool, text: &str| assert!(refused, "{text:?}");
        for text in ["", "s", "30", "-1s", "1.5s", "1 s", "1S", "101y", "99999999999999999999d", "３s"] {
            check(duration(text).is_err(), text);
        }
        for text in ["", "0B", "10", "10MB", "1.5GiB", "9000000TiB", "MiB"] {
            check(size(text).is_err(), text);
        }
        for text in ["", "%", "70", "101%", "-1%", ".5%", "1.%", "0.00001%", "1e1%"] {
            check(share(text).is_err(), text);
        }
        for text in ["", "0/s", "50", "50/w", "/s", "1.5/s", "5000000000/s"] {
            check(rate(text).is_err(), text);
        }
        for text in ["", "0", "0.0", "1e3", "nan", "inf", "-1", "0.0001", "1025"] {
            check(cpu(text).is_err(), text);
        }
    }
}
