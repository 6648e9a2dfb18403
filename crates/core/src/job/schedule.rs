//! When a schedule is due: civil arithmetic of UTC days.

use crate::app::Schedule;
use crate::time::Timestamp;

const MINUTE_MS: u64 = 60_000;
const MINUTES_OF_A_DAY: u64 = 1_440;

/// The Gregorian calendar repeats after 400 years, which are whole weeks: what does not match within never does.
const DAYS_OF_A_CYCLE: u64 = 146_097;

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Day {
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    /// 0 is Sunday.
    weekday: u64,
}

impl Day {
    /// Of the days since 1970-01-01, a Thursday. After Hinnant, "chrono-compatible low-level date algorithms" (2013): years
    /// that begin in March have their leap day last.
    fn of(days: u64) -> Self {
        const DAYS_TO_1970: u64 = 719_468;
        let day_of_era = (days + DAYS_TO_1970) % DAYS_OF_A_CYCLE;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        Self {
            month: if from_march < 10 { from_march + 3 } else { from_march - 9 },
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            weekday: (days + 4) % 7,
        }
    }
}

impl Schedule {
    /// The first moment after `at` that matches; a whole minute. `None`: there is none.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let first = at.0 / MINUTE_MS + 1;
        let today = first / MINUTES_OF_A_DAY;
        (today..=today + DAYS_OF_A_CYCLE).find_map(|day| {
            let from = if day == today { first % MINUTES_OF_A_DAY } else { 0 };
            let minute = self.matches_day(Day::of(day)).then(|| self.first_minute(from)).flatten()?;
            day.checked_mul(MINUTES_OF_A_DAY)?.checked_add(minute)?.checked_mul(MINUTE_MS).map(Timestamp)
        })
    }

    /// POSIX crontab: where both day fields are restricted, either may match.
    fn matches_day(&self, day: Day) -> bool {
        let (of_month, of_week) = (self.days >> day.day & 1 == 1, self.weekdays >> day.weekday & 1 == 1);
        let matches = if self.either_day { of_month || of_week } else { of_month && of_week };
        matches && self.months >> day.month & 1 == 1
    }

    /// The first minute of a day that matches, not before `from`.
    fn first_minute(&self, from: u64) -> Option<u64> {
        (from / 60..24).filter(|hour| self.hours >> hour & 1 == 1).find_map(|hour| {
            let first = if hour == from / 60 { from % 60 } else { 0 };
            (first..60).find(|minute| self.minutes >> minute & 1 == 1).map(|minute| hour * 60 + minute)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::backoff::mix;

    const ALL: Schedule = Schedule {
        text: String::new(),
        minutes: (1 << 60) - 1,
        hours: (1 << 24) - 1,
        days: u32::MAX - 1,
        months: 0x1ffe,
        weekdays: 0x7f,
        either_day: false,
    };

    /// A calendar that counts minute by minute, and knows nothing but the lengths of months.
    #[derive(Clone, Copy)]
    struct Calendar {
        at: u64,
        year: u64,
        month: u64,
        day: u64,
        hour: u64,
        minute: u64,
        weekday: u64,
    }

    impl Calendar {
        const EPOCH: Self = Self { at: 0, year: 1970, month: 1, day: 1, hour: 0, minute: 0, weekday: 4 };

        fn days_of_month(&self) -> u64 {
            let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
            match self.month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            }
        }

        fn next_day(&mut self) {
            self.weekday = (self.weekday + 1) % 7;
            self.day += 1;
            if self.day > self.days_of_month() {
                (self.day, self.month) = (1, self.month + 1);
            }
            if self.month > 12 {
                (self.month, self.year) = (1, self.year + 1);
            }
        }

        fn next_minute(&mut self) {
            (self.at, self.minute) = (self.at + MINUTE_MS, self.minute + 1);
            if self.minute == 60 {
                (self.minute, self.hour) = (0, self.hour + 1);
            }
            if self.hour == 24 {
                self.hour = 0;
                self.next_day();
            }
        }

        fn matches(&self, s: &Schedule) -> bool {
            let bit = |bits: u64, value: u64| bits & (1 << value) != 0;
            let (day, weekday) = (bit(s.days.into(), self.day), bit(s.weekdays.into(), self.weekday));
            let days = if s.either_day { day | weekday } else { day & weekday };
            days && bit(s.minutes, self.minute) && bit(s.hours.into(), self.hour) && bit(s.months.into(), self.month)
        }
    }

    /// Midnight of a day.
    fn midnight(year: u64, month: u64, day: u64) -> Calendar {
        let mut calendar = Calendar::EPOCH;
        while (calendar.year, calendar.month, calendar.day) != (year, month, day) {
            calendar.at += MINUTES_OF_A_DAY * MINUTE_MS;
            calendar.next_day();
        }
        calendar
    }

    fn check(schedule: &Schedule, from: Timestamp, (year, month, day): (u64, u64, u64), minute: u64) {
        let expected = Timestamp(midnight(year, month, day).at + minute * MINUTE_MS);
        assert_eq!(schedule.next_after(from), Some(expected), "{schedule:?}");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let mut calendar = Calendar::EPOCH;
        for day in 0..200_000 {
            let expected = Day { month: calendar.month, day: calendar.day, weekday: calendar.weekday };
            assert_eq!(Day::of(day), expected, "day {day}");
            calendar.next_day();
        }
        assert!(calendar.year > 2_500, "the exception of 2400 is among them");
    }

    /// Every moment of some weeks, for many schedules: the next one is the first minute that the calendar matches.
    #[test]
    fn the_next_moment_is_the_first_that_matches() {
        for seed in 0..150_u64 {
            let random = |salt: u64| mix(seed, salt);
            // Few bits in some fields, all in others; the last months of leap and other years are among the windows.
            let thin = |salt: u64, bits: u64| if random(salt) & 3 == 0 { bits } else { bits & random(salt + 100) };
            let schedule = Schedule {
                text: format!("seed {seed}"),
                minutes: thin(1, ALL.minutes) | 1 << (random(2) % 60),
                hours: u32::try_from(thin(3, ALL.hours.into()) | 1 << (random(4) % 24)).unwrap(),
                days: u32::try_from(thin(5, ALL.days.into()) | 1 << (random(6) % 31 + 1)).unwrap(),
                months: u16::try_from(thin(7, ALL.months.into()) | 1 << (random(8) % 12 + 1)).unwrap(),
                weekdays: u8::try_from(thin(9, ALL.weekdays.into())).unwrap(),
                either_day: random(10) & 1 == 0,
            };
            let mut calendar = midnight(1970 + random(11) % 140, random(12) % 12 + 1, 1);
            let mut from = calendar.at;
            for _ in 0..MINUTES_OF_A_DAY * 20 {
                calendar.next_minute();
                if calendar.matches(&schedule) {
                    let expected = Some(Timestamp(calendar.at));
                    let asked = [from, (from + calendar.at) / 2, calendar.at - 1];
                    for at in asked {
                        assert_eq!(schedule.next_after(Timestamp(at)), expected, "after {at}: {schedule:?}");
                    }
                    from = calendar.at;
                }
            }
            let beyond = schedule.next_after(Timestamp(from));
            assert!(beyond.is_none_or(|next| next.0 > calendar.at), "{beyond:?} was left out: {schedule:?}");
        }
    }

    #[test]
    fn leap_days_come_when_they_come() {
        let leap = Schedule { days: 1 << 29, months: 1 << 2, hours: 1, minutes: 1, ..ALL };
        check(&leap, Timestamp(midnight(2026, 1, 1).at), (2028, 2, 29), 0);
        check(&leap, Timestamp(midnight(2096, 2, 29).at), (2104, 2, 29), 0);
        let on_sundays = Schedule { weekdays: 1, ..leap.clone() };
        check(&on_sundays, Timestamp(midnight(2072, 2, 28).at), (2088, 2, 29), 0);
        check(&on_sundays, Timestamp(midnight(2088, 2, 29).at), (2128, 2, 29), 0);
        let or_sundays = Schedule { either_day: true, ..on_sundays };
        check(&or_sundays, Timestamp(midnight(2027, 2, 27).at), (2027, 2, 28), 0);
    }

    #[test]
    fn a_moment_that_matches_is_not_after_itself() {
        let at = midnight(2026, 3, 1).at + 3 * 60 * MINUTE_MS;
        let daily = Schedule { hours: 1 << 3, minutes: 1, ..ALL };
        check(&daily, Timestamp(at - 1), (2026, 3, 1), 180);
        check(&daily, Timestamp(at), (2026, 3, 2), 180);
        check(&daily, Timestamp(at + 1), (2026, 3, 2), 180);
        check(&ALL, Timestamp(at), (2026, 3, 1), 181);
    }

    #[test]
    fn what_never_matches_has_no_next_moment() {
        let never = Schedule { days: 1 << 30, months: 1 << 2, ..ALL };
        assert_eq!(never.next_after(Timestamp(0)), None);
        assert_eq!(ALL.next_after(Timestamp(u64::MAX)), None);
        assert_eq!(Schedule { minutes: 0, ..ALL }.next_after(Timestamp(7)), None);
    }
}
