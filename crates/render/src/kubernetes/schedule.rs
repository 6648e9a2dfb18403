//! A schedule of the file as the controller of CronJobs reads one, by robfig/cron.
//!
//! Where both days are said, that takes either, unless one of the fields is `*` (or has it in its list, or `*/1`): with `*/2` it takes either, too,
//! where crontab wants both as soon as a field begins with `*`. Its Sunday is 0 alone, so that no range ends with it.

use bowline_core::app::Schedule;

/// All days of a month, and of a week.
const MONTH: u32 = 0xffff_fffe;
const WEEK: u8 = 0x7f;

/// `None`: it means days that are both, of which neither is any day.
pub(crate) fn written(schedule: &Schedule) -> Option<String> {
    let [minute, hour, day, month, weekday] = schedule.text.split(' ').collect::<Vec<_>>()[..] else { return None };
    let (any_day, any_weekday) = (schedule.days == MONTH, schedule.weekdays == WEEK);
    let weekdays = of_week(weekday, schedule.weekdays);
    let (day, weekday) = match (any_day, any_weekday) {
        (true, true) => ("*", "*"),
        // Either is any day.
        (true, false) | (false, true) if schedule.either_day => ("*", "*"),
        (true, false) => ("*", weekdays.as_str()),
        (false, true) => (day, "*"),
        (false, false) if schedule.either_day => (day, weekdays.as_str()),
        (false, false) => return None,
    };
    Some([minute, hour, day, month, weekday].join(" "))
}

/// Its days by their numbers, but for what is read alike.
fn of_week(text: &str, days: u8) -> String {
    let is_step = text.strip_prefix("*/").is_some_and(|step| step.bytes().all(|b| b.is_ascii_digit()));
    let is_plain = !["/", "7", "-0", "-sun"].iter().any(|other| text.to_ascii_lowercase().contains(other));
    if is_step || is_plain {
        return text.to_owned();
    }
    let days: Vec<String> = (0..7_u8).filter(|day| days & (1 << day) != 0).map(|day| day.to_string()).collect();
    days.join(",")
}

#[cfg(test)]
mod tests {
    use bowline_core::id::{EnvName, JobName};
    use bowline_spec::{Defaults, parse};

    use super::*;

    fn schedule(text: &str) -> Schedule {
        let toml = format!("[service.web]\nrun = \"a\"\n[job.x]\nrun = \"b\"\nschedule = \"{text}\"\n");
        let defaults = Defaults { folder_name: "shop".to_owned(), ..Default::default() };
        let app = parse(&toml, "bowline.toml", &EnvName::new("production").unwrap(), &defaults).unwrap().app;
        app.jobs[&JobName::new("x").unwrap()].schedule.clone().unwrap()
    }

    #[test]
    fn days_are_those_of_the_file() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(written(&schedule(text)).as_deref(), expected, "{text}");
        };
        check("*/15 8-18 * * mon-fri", Some("*/15 8-18 * * mon-fri"));
        check("0 3 * * 7", Some("0 3 * * 0"));
        check("0 3 * * 0", Some("0 3 * * 0"));
        check("0 3 * * */2", Some("0 3 * * */2"));
        // Ranges that end with Sunday.
        check("0 3 * * fri-sun", Some("0 3 * * 0,5,6"));
        check("0 3 * * 5-0", Some("0 3 * * 0,5,6"));
        check("0 3 1 * 6-7", Some("0 3 1 * 0,6"));
        // Both days, of which one is any.
        check("0 3 */2 * *", Some("0 3 */2 * *"));
        check("0 3 */2 * 0-6", Some("0 3 */2 * *"));
        check("0 3 */1 * mon", Some("0 3 * * mon"));
        check("0 3 */2 * mon", None);
        check("0 3 1 * */2", None);
        check("0 3 */2 * */2", None);
        // Either day, of which one is any.
        check("0 3 1 * mon", Some("0 3 1 * mon"));
        check("0 3 1-31 * mon", Some("0 3 * * *"));
        check("0 3 1,* * mon", Some("0 3 * * *"));
        check("0 3 1 * 0-6", Some("0 3 * * *"));
    }
}
