use std::borrow::Cow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_api::{Client, wire};
use bowline_core::fault::{Fault, FaultKind};

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
const MOST_SEEN: usize = 10_000;

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
    let now = now();
    let query = wire::LogsQuery {
        env: args.env,
        app,
        service: args.service,
        release: args.release,
        since: args.since.map(|age| now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
        tail: args.tail,
        follow: args.follow,
        grep: args.grep,
        access: args.access,
    };
    tokio::select! {
        shown = show(query, now, (target, &session), ui) => shown.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// To their end. Of a daemon elsewhere they are followed over its upgrades and restarts.
async fn show(
    query: wire::LogsQuery,
    began: u64,
    (target, session): (&Target, &Session),
    ui: &Ui,
) -> Result<(), Fault> {
    let rejoins = query.follow && target.is_elsewhere();
    let (mut thread, mut rejoined) = (Thread::new(query, began), Vec::new());
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

/// Where a log is taken up again that was broken off.
struct Thread {
    query: wire::LogsQuery,
    /// What was seen of the last moments: instances are not read in step.
    seen: Vec<wire::LogLine>,
    /// What will be told again.
    again: Vec<wire::LogLine>,
    latest: u64,
}

impl Thread {
    /// `began`: when it was asked for first, in ms.
    fn new(query: wire::LogsQuery, began: u64) -> Self {
        Self { query, seen: Vec::new(), again: Vec::new(), latest: began }
    }

    fn is_new(&mut self, line: &wire::LogLine) -> bool {
        if let Some(at) = self.again.iter().position(|seen| seen == line) {
            self.again.swap_remove(at);
            return false;
        }
        self.latest = self.latest.max(line.at);
        if self.seen.len() >= 2 * MOST_SEEN {
            self.seen.drain(..MOST_SEEN);
        }
        self.seen.push(line.clone());
        true
    }

    /// From a little before it was broken off.
    fn take_up(&mut self) {
        let since = self.latest.saturating_sub(OVERLAP);
        self.query = wire::LogsQuery { since: Some(since), tail: None, ..self.query.clone() };
        self.seen.retain(|line| line.at >= since);
        self.again.clone_from(&self.seen);
    }
}

/// The one that is meant where none is named; `usage` says how one is.
pub(super) async fn only_app(client: &Client, env: &str, usage: &str) -> Result<String, Fault> {
    let mut apps: Vec<String> =
        client.status().await?.apps.into_iter().filter(|a| a.env == env).map(|a| a.app).collect();
    match (apps.pop(), apps.is_empty()) {
        (Some(app), true) => Ok(app),
        (None, _) => {
            Err(Fault::new(FaultKind::Invalid, format!("no app is known in {env}")).hint("`bowline up DIR` runs one"))
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

    #[test]
    fn what_is_told_again_is_shown_once() {
        let line = |at: u64, text: &str| wire::LogLine {
            at,
            source: wire::LogSource::Stdout,
            instance: None,
            text: text.to_owned(),
        };
        let mut thread = Thread::new(wire::LogsQuery { tail: Some(5), ..wire::LogsQuery::default() }, 9_000);
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
}
