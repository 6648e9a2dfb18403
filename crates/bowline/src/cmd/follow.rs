//! Following a change to its end: what every command does that begins one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bowline_api::{Client, ClientError, wire};
use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::command_words;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::progress::Progress;
use crate::session::Session;
use crate::target::Target;
use crate::ui::{self, Tone, Ui};

/// With `--json`: one object per line, told apart by `kind`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    /// `change` tells the steps of this command's change from those of another's that it waits for.
    Step { app: &'a str, change: u64, step: &'a wire::ChangeEvent },
    /// The end of a command that steers what runs.
    Ready { app: &'a str, release: u32, urls: &'a [String], ms: u128 },
}

/// How long a daemon may be away while a change is followed.
const AWAY: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// What is left of a step is counted down.
const TICK: Duration = Duration::from_secs(1);

/// A daemon that dies again and again is left to its owner.
pub(super) const MAX_REJOINS: usize = 10;

/// A change, and what it is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Followed<'a> {
    pub(super) env: &'a str,
    pub(super) app: &'a str,
    pub(super) change: u64,
}

/// How a change ended that came to something.
pub(super) struct Done {
    pub(super) release: u32,
    pub(super) cached: bool,
    pub(super) urls: Vec<String>,
}

/// A step of a change, for programs.
pub(super) fn say(app: &str, change: u64, step: &wire::ChangeEvent, ui: &Ui) {
    ui.object(&Said::Step { app, change, step });
}

/// Shows the steps of a change until it has ended, over the deaths and upgrades of daemons. `many`: several apps are followed,
/// and each is named.
pub(super) async fn to_its_end(
    (target, client): (&Target, &Client),
    Followed { env, app, change }: Followed<'_>,
    many: bool,
    ui: &Ui,
) -> Result<Done, ClientError> {
    let mut rejoined: Option<Session> = None;
    // A daemon that was only out of reach tells all of it again.
    let mut seen = Vec::new();
    for rejoins in 0.. {
        let client = rejoined.as_ref().map_or(client, |session| &session.client);
        match attempt(client, (app, change), &mut seen, many, ui).await {
            Ok(end) => return end.map_err(ClientError::Refused),
            Err(error) if rejoins < MAX_REJOINS && is_away(&error) => {}
            Err(error) => return Err(error),
        }
        ui.say(format!("    {}", ui.paint(Tone::Warning, "the daemon is out of reach: it is waited for")));
        rejoined = Some(rejoin(target).await.map_err(|fault| ClientError::Refused(gone(env, app, fault)))?);
        ui.say("    it is reached again, and goes on with this");
    }
    unreachable!("the last attempt returns")
}

/// One that died is started again by who supervises it, one that is replaced is there in a moment.
pub(super) async fn rejoin(target: &Target) -> Result<Session, Fault> {
    let began = Instant::now();
    loop {
        match target.join().await {
            Err(fault) if fault.kind == FaultKind::Unreachable && began.elapsed() < AWAY => {
                tokio::time::sleep(PAUSE).await;
            }
            end => return end,
        }
    }
}

/// The daemon, or the way to it, is not there now.
pub(super) fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Broken(_)
        | ClientError::NotBegun(_)
        | ClientError::Unreachable { .. }
        | ClientError::Dial { .. }
        | ClientError::Https { .. }
        | ClientError::NoDaemon { .. } => true,
        ClientError::Refused(fault) => fault.kind == FaultKind::Unreachable,
        ClientError::Unreadable(_) | ClientError::Busy(_) => false,
    }
}

/// It is not given up by that: what is stored of it is taken up by the next daemon.
fn gone(env: &str, app: &str, why: Fault) -> Fault {
    let fault = Fault::new(FaultKind::Unreachable, format!("the daemon went away while {app} was being changed"));
    let fault = why.causes.into_iter().fold(fault.caused_by(why.message), Fault::caused_by);
    let fault = why.detail.into_iter().fold(fault, Fault::detail);
    let shows = status_of(env, app);
    fault.hint(format!("the next daemon goes on with it, unless it was building; then {shows} shows it"))
}

/// With one daemon: how the change ended, or why this daemon does not say.
async fn attempt(
    client: &Client,
    (app, change): (&str, u64),
    seen: &mut Vec<wire::ChangeEvent>,
    many: bool,
    ui: &Ui,
) -> Result<Result<Done, Fault>, ClientError> {
    let mut steps = client.change(change).await?;
    let mut progress = Progress::new(ui, many.then_some(app));
    let before = seen.len();
    let mut ticker = interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let event = tokio::select! {
            event = steps.next() => match event? {
                Some(event) => event,
                None => break,
            },
            _ = ticker.tick() => {
                progress.tick();
                continue;
            }
        };
        if seen[..before].contains(&event) {
            continue;
        }
        seen.push(event.clone());
        say(app, change, &event, ui);
        progress.step(&event);
        match event.what {
            wire::ChangeStep::Done { release, cached, urls } => return Ok(Ok(Done { release, cached, urls })),
            // Of any kind: what a change could not reach is no daemon that is away.
            wire::ChangeStep::Failed { fault } => return Ok(Err(fault.into())),
            wire::ChangeStep::Phase { .. }
            | wire::ChangeStep::Note { .. }
            | wire::ChangeStep::Work { .. }
            | wire::ChangeStep::Line { .. }
            | wire::ChangeStep::Waiting { .. }
            | wire::ChangeStep::Unknown => {}
        }
    }
    Err(ClientError::Broken(format!("the change of {app} was told to no end").into()))
}

/// Follows a change to its end and says what has become of it: `words` of the release. Ctrl-C leaves it going on.
pub(super) async fn and_say(
    daemon: (&Target, &Client),
    followed: Followed<'_>,
    words: impl Fn(u32) -> String,
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let (began, app) = (Instant::now(), followed.app);
    let done = tokio::select! {
        done = to_its_end(daemon, followed, false, ui) => done?,
        () = interrupts.next() => return Ok(left(followed.env, app, ui)),
    };
    let words = words(done.release);
    ready(app, (done.release, &done.urls), words, began, ui);
    Ok(ExitCode::SUCCESS)
}

/// The end that a change should have.
pub(super) fn ready(app: &str, (release, urls): (u32, &[String]), words: String, began: Instant, ui: &Ui) {
    let took = began.elapsed();
    ui.object(&Said::Ready { app, release, urls, ms: took.as_millis() });
    ui.say(format!("  {} {words}{}", ui.paint(Tone::Strong, app), after(took)));
}

/// `, after 12.3 s`; of what was done at once, nothing.
fn after(took: Duration) -> String {
    match took.as_secs() {
        0 if took < Duration::from_millis(50) => String::new(),
        0..60 => format!(", after {:.1} s", took.as_secs_f64()),
        60.. => format!(", after {}", ui::duration(took)),
    }
}

/// `APP` or `APP.SERVICE`.
pub(super) fn app_and_service(target: &str) -> (String, Option<String>) {
    match target.split_once('.') {
        Some((app, service)) => (app.to_owned(), Some(service.to_owned())),
        None => (target.to_owned(), None),
    }
}

/// Ctrl-C while a change is followed that needs nobody to go on.
pub(super) fn left(env: &str, app: &str, ui: &Ui) -> ExitCode {
    ui.aside(format!("  it goes on without this command; {} shows how far it is", status_of(env, app)));
    ExitCode::from(INTERRUPTED)
}

/// The command that shows it, to be copied.
fn status_of(env: &str, app: &str) -> String {
    format!("`bowline status {}`", command_words(app, env))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_at_once_took_no_time() {
        let check = |ms, expected: &str| assert_eq!(after(Duration::from_millis(ms)), expected);
        check(49, "");
        check(60, ", after 0.1 s");
        check(59_940, ", after 59.9 s");
        check(61_000, ", after 1m 1s");
    }
}
