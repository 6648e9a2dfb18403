use bowline_core::app::Schedule;

use super::{Read, Wrong};

/// One of the five fields.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    /// Names of its values, from `low` on.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[] },
    Field { name: "hour", low: 0, high: 23, names: &[] },
    Field { name: "day of the month", low: 1, high: 31, names: &[] },
    Field {
        name: "month",
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    // Sunday is 0 and 7.
    Field {
        name: "day of the week",
        low: 0,
        high: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"],
    },
];

/// Days of each month in a leap year.
const DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Five fields as in POSIX crontab, with names, ranges, lists and steps: `*/15 8-18 * * mon-fri`. UTC.
pub(crate) fn schedule(text: &str) -> Read<Schedule> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = words[..] else {
        return Err(Wrong::hint(
            format!("a schedule has five fields, this one has {}", words.len()),
            "minute hour day-of-month month day-of-week: \"0 3 * * *\" is every day at 3:00 UTC",
        ));
    };
    let [minutes, hours, days, months, weekdays] = FIELDS;
    let parsed = Schedule {
        text: words.join(" "),
        minutes: minutes.set(minute)?,
        hours: narrow(hours.set(hour)?),
        days: narrow(days.set(day)?),
        months: narrow(months.set(month)?),
        weekdays: sunday(weekdays.set(weekday)?),
        either_day: !day.starts_with('*') && !weekday.starts_with('*'),
    };
    let reachable =
        (1..=12).any(|m| parsed.months & (1 << m) != 0 && (1..=DAYS[m - 1]).any(|d| parsed.days & (1 << d) != 0));
    match reachable || parsed.either_day {
        true => Ok(parsed),
        false => Err(Wrong::new("no month of this schedule has such a day: it would never run")),
    }
}

/// The bits fit: `Field::set` keeps them below its `high`.
fn narrow<T: TryFrom<u64, Error: std::fmt::Debug>>(bits: u64) -> T {
    T::try_from(bits).expect("a field sets no bit above its highest value")
}

/// 7 is Sunday as well as 0.
fn sunday(bits: u64) -> u8 {
    narrow((bits & 0x7f) | (bits >> 7))
}

impl Field {
    fn set(&self, text: &str) -> Read<u64> {
        text.split(',').try_fold(0, |set, part| Ok(set | self.part(part)?))
    }

    /// `*`, `a`, `a-b`, each with `/step`.
    fn part(&self, part: &str) -> Read<u64> {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step = match step.map(|s| s.parse::<u32>().ok().filter(|_| s.bytes().all(|b| b.is_ascii_digit()))) {
            None => 1,
            Some(Some(step)) if step > 0 => step,
            Some(_) => return Err(self.wrong(part)),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.high),
            Some((low, high)) => (self.value(low)?, self.value(high)?),
            None if part.contains('/') => (self.value(range)?, self.high),
            None => (self.value(range)?, self.value(range)?),
        };
        // `fri-sun`: Sunday is the week's last day too.
        let high = if self.names.len() == 8 && high == 0 && low > 0 { 7 } else { high };
        if low > high {
            return Err(Wrong::new(format!("the {} range {range} runs backwards", self.name)));
        }
        Ok((low..=high).step_by(step as usize).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str) -> Read<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = || text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let value = match named {
            Some(index) => u32::try_from(index).ok().map(|index| index + self.low),
            None => number(),
        };
        value.filter(|v| (self.low..=self.high).contains(v)).ok_or_else(|| self.wrong(text))
    }

    fn wrong(&self, text: &str) -> Wrong {
        Wrong::new(format!("{text:?} is no {}: {} to {}, ranges, lists, steps", self.name, self.low, self.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: impl IntoIterator<Item = u32>) -> u64 {
        values.into_iter().fold(0, |set, v| set | 1 << v)
    }

    #[test]
    fn fields_expand() {
        let check = |field: usize, text: &str, expected: u64| {
            assert_eq!(FIELDS[field].set(text).unwrap(), expected, "{text}");
        };
        check(0, "*", bits(0..=59));
        check(0, "*/15", bits([0, 15, 30, 45]));
        check(0, "5/20", bits([5, 25, 45]));
        check(1, "8-18/5", bits([8, 13, 18]));
        check(1, "0,12,23", bits([0, 12, 23]));
        check(3, "jan-Mar,12", bits([1, 2, 3, 12]));
        check(4, "fri-sun", bits([5, 6, 7]));
    }

    #[test]
    fn days_follow_posix() {
        let either = |text: &str| schedule(text).unwrap().either_day;
        assert!(!either("0 3 * * 1"));
        assert!(!either("0 3 1 * *"));
        assert!(either("0 3 1 * mon"));
        assert_eq!(schedule("0 0 * * 7").unwrap().weekdays, 1);
        assert_eq!(schedule("0 0 29 2 *").unwrap().months, 1 << 2);
    }

    #[test]
    fn what_never_runs_or_is_no_schedule_is_refused() {
        let bad = ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8"];
        let worse =
            ["*/0 * * * *", "5-1 * * * *", "a * * * *", "+1 * * * *", ", * * * *", "0 0 31 2,4 *", "0 0 30 feb *"];
        for text in bad.into_iter().chain(worse) {
            assert!(schedule(text).is_err(), "{text:?}");
        }
    }
}
