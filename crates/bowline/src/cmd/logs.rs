use std::process::ExitCode;

use bowline_api::{Client, wire};
use bowline_core::fault::{Fault, FaultKind};

use crate::args::Logs;
use crate::interrupts::INTERRUPTED;
use crate::target::Target;
use crate::ui::{Tone, Ui};

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
    let mut lines = session.client.logs(&query).await?;
    loop {
        tokio::select! {
            line = lines.next() => match line? {
                Some(line) => print(&line, None, ui),
                None => return Ok(ExitCode::SUCCESS),
            },
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(INTERRUPTED)),
        }
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
