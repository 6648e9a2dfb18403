use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_api::{Client, wire};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::env_option;

use super::follow;
use crate::args::Logs;
use crate::interrupts::INTERRUPTED;
use crate::session::Session;
use crate::target::Target;
use crate::ui::{Tone, Ui};

/// A daemon that breaks off again and again is left to its owner.
const MAX_REJOINS: usize = 10;
const REJOINED: Duration = Duration::from_secs(60);
/// How far lines of several instances may be out of step, in ms.
const OVERLAP: u64 = 2_000;
/// So many lines are known again.
const MOST_SEEN: usize = 20_000;

pub(super) async fn run(args: Logs, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    if let Some(pattern) = &args.grep {
        bowline_node::check_pattern(pattern).map_err(|why| {
            Fault::new(FaultKind::Invalid, "--grep is no regular expression")
                .detail(why)
                .hint("put a backslash before a character that is meant as it is: '\\('")
        })?;
    }
    let session = target.join().await?;
    let app = match args.app {
        Some(app) => app,
        None => only_app(&session.client, &args.env, "logs APP").await?,
    };
    let query = wire::LogsQuery {
        env: args.env,
        app,
        service: args.service,
        release: args.release,
        since: args.since.map(|age| now().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
        tail: args.tail,
        follow: args.follow,
        grep: args.grep,
        access: args.access,
    };
    tokio::select! {
        shown = show(query, (target, &session), ui) => shown.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// To their end. Of a daemon elsewhere they are followed over its upgrades and restarts.
async fn show(query: wire::LogsQuery, (target, session): (&Target, &Session), ui: &Ui) -> Result<(), Fault> {
    let rejoins = query.follow && target.is_elsewhere();
    let (mut thread, mut rejoined) = (Thread::new(query), Vec::new());
    let mut session = Cow::Borrowed(session);
    loop {
        let mut lines = session.client.logs(&thread.query).await?;
        let end = loop {
            match lines.next().await {
                Ok(Some(line)) if thread.is_new(&line) => print(&line, None, ui),
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        rejoined.retain(|at: &Instant| at.elapsed() < REJOINED);
        match end {
            None if !rejoins => return Ok(()),
            Some(error) if !rejoins || !follow::is_away(&error) || rejoined.len() >= MAX_REJOINS => {
                return Err(error.into());
            }
            None if rejoined.len() >= MAX_REJOINS => return Ok(()),
            None | Some(_) => {}
        }
        rejoined.push(Instant::now());
        session = Cow::Owned(follow::rejoin(target).await?);
        thread.take_up();
    }
}

/// Where a log is taken up again that was broken off. What time it is says the log, not the clock of this machine.
struct Thread {
    query: wire::LogsQuery,
    /// What was seen of the last moments: instances are not read in step.
    seen: VecDeque<wire::LogLine>,
    /// What will be told again, and how often.
    again: HashMap<wire::LogLine, usize>,
    /// When the line was written that came last, in ms: one from a clock that was set back since does not hide those after it.
    last: Option<u64>,
}

impl Thread {
    fn new(query: wire::LogsQuery) -> Self {
        Self { query, seen: VecDeque::new(), again: HashMap::new(), last: None }
    }

    fn is_new(&mut self, line: &wire::LogLine) -> bool {
        if let Some(times) = self.again.get_mut(line).filter(|times| **times > 0) {
            *times -= 1;
            return false;
        }
        self.last = Some(line.at);
        if self.seen.len() == MOST_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(line.clone());
        true
    }

    /// From a little before it was broken off. Where nothing was seen, it begins as it was asked for.
    fn take_up(&mut self) {
        let Some(last) = self.last else { return };
        let since = last.saturating_sub(OVERLAP);
        self.query = wire::LogsQuery { since: Some(since), tail: None, ..self.query.clone() };
        self.seen.retain(|line| line.at >= since);
        self.again.clear();
        for line in &self.seen {
            *self.again.entry(line.clone()).or_default() += 1;
        }
    }
}

/// The one that is meant where none is named; `usage` says how one is.
pub(super) async fn only_app(client: &Client, env: &str, usage: &str) -> Result<String, Fault> {
    let (here, elsewhere): (Vec<_>, Vec<_>) = client.status().await?.apps.into_iter().partition(|a| a.env == env);
    let mut apps: Vec<String> = here.into_iter().map(|a| a.app).collect();
    match (apps.pop(), apps.is_empty()) {
        (Some(app), true) => Ok(app),
        (None, _) => {
            let elsewhere: BTreeSet<String> = elsewhere.iter().map(|a| env_option(&a.env)).collect();
            let fault = Fault::new(FaultKind::Invalid, format!("no app is known in {env}"));
            Err(match elsewhere.is_empty() {
                true => fault.hint("`bowline up DIR` runs one"),
                false => fault.hint(format!(
                    "there are some elsewhere: bowline {usage}{}",
                    elsewhere.into_iter().collect::<Vec<_>>().join(", or")
                )),
            })
        }
        (Some(app), false) => Err(Fault::new(FaultKind::Invalid, "several apps are known here")
            .caused_by(format!("{}, {app}", apps.join(", ")))
            .hint(format!("say which one: bowline {usage}"))),
    }
}

/// `app`: named in front where several apps are followed at once.
pub(super) fn print(line: &wire::LogLine, app: Option<&str>, ui: &Ui) {
    ui.object(line);
    if ui.is_json() {
        return;
    }
    let source = match line.source {
        wire::LogSource::Access => "access".to_owned(),
        wire::LogSource::Stdout | wire::LogSource::Stderr | wire::LogSource::Bowline => {
            line.instance.as_deref().map_or_else(|| "-".to_owned(), short)
        }
    };
    let source = match app {
        Some(app) => format!("{app} {source}"),
        None => source,
    };
    let hue = source.bytes().fold(0_usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(b)));
    let text = match line.source {
        wire::LogSource::Bowline => ui.paint(Tone::Faint, &line.text),
        wire::LogSource::Stdout | wire::LogSource::Stderr | wire::LogSource::Access => line.text.clone(),
    };
    let time = ui.paint(Tone::Faint, time(line.at));
    ui.say(format!("{time} {} {text}", ui.paint(Tone::Source(hue), format!("{source:<8}"))));
}

/// `local/uploads.web.r3.0.1` → `web.0`; of a database or a job its name.
fn short(instance: &str) -> String {
    match instance.parse::<bowline_core::id::InstanceId>() {
        Ok(id) if id.slot.service.resource().is_some() => id.slot.service.spelled(),
        Ok(id) => format!("{}.{}", id.slot.service, id.slot.slot),
        Err(_) => instance.to_owned(),
    }
}

/// `2026-01-31 12:00:00.123` UTC, seconds with their thousandths.
pub(super) fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        Err(_) => ms.to_string(),
    }
}

/// Milliseconds since 1970-01-01 UTC.
pub(super) fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, text: &str) -> wire::LogLine {
        wire::LogLine { at, source: wire::LogSource::Stdout, instance: None, text: text.to_owned() }
    }

    fn thread() -> Thread {
        Thread::new(wire::LogsQuery { tail: Some(5), ..wire::LogsQuery::default() })
    }

    #[test]
    fn what_is_told_again_is_shown_once() {
        let mut thread = thread();
        let (a, b) = (line(9_500, "a"), line(9_500, "b"));
        assert!(thread.is_new(&a) && thread.is_new(&a) && thread.is_new(&b), "whatever was said twice is shown twice");
        thread.take_up();
        assert_eq!((thread.query.since, thread.query.tail), (Some(7_500), None));
        assert!(!thread.is_new(&a) && !thread.is_new(&b) && !thread.is_new(&a));
        assert!(thread.is_new(&a) && thread.is_new(&line(9_000, "late")));
        thread.is_new(&line(20_000, "c"));
        thread.take_up();
        assert_eq!(thread.again.len(), 1, "only the last moments are known");
    }

    #[test]
    fn no_clock_but_that_of_the_lines_says_where_it_goes_on() {
        let mut thread = thread();
        thread.take_up();
        assert_eq!((thread.query.since, thread.query.tail), (None, Some(5)), "nothing was seen: it begins anew");
        // An app's clock was ahead for a moment.
        thread.is_new(&line(500_000, "ahead"));
        thread.is_new(&line(10_000, "set back"));
        thread.take_up();
        assert_eq!(thread.query.since, Some(8_000));
        assert!(!thread.is_new(&line(10_000, "set back")) && !thread.is_new(&line(500_000, "ahead")));
        assert!(thread.is_new(&line(10_500, "after it")));
    }

    #[test]
    fn a_chatty_app_is_told_again_in_no_time() {
        let mut thread = thread();
        let lines: Vec<_> = (0..MOST_SEEN).map(|n| line(9_000, &format!("line {n}"))).collect();
        lines.iter().for_each(|line| assert!(thread.is_new(line)));
        thread.take_up();
        let began = Instant::now();
        // The worst order for whoever looks through all that it knows.
        lines.iter().rev().for_each(|line| assert!(!thread.is_new(line)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}
