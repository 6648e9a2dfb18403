//! Following a change to its end: what every command does that begins one.

use std::process::ExitCode;
use std::time::Instant;

use bowline_api::{Client, ClientError, wire};
use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::progress::Progress;
use crate::ui::{Tone, Ui};

/// With `--json`: one object per line, told apart by `kind`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    /// `change` tells the steps of this command's change from those of another's that it waits for.
    Step { app: &'a str, change: u64, step: &'a wire::ChangeEvent },
    /// The end of a command that steers what runs.
    Ready { app: &'a str, release: u32, urls: &'a [String], ms: u128 },
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

/// Shows the steps of a change until it has ended. `many`: several apps are followed, and each is named.
pub(super) async fn to_its_end(
    client: &Client,
    app: &str,
    change: u64,
    many: bool,
    ui: &Ui,
) -> Result<Done, ClientError> {
    let mut steps = client.change(change).await?;
    let mut progress = Progress::new(ui, many.then_some(app));
    while let Some(event) = steps.next().await? {
        say(app, change, &event, ui);
        progress.step(&event.what);
        match event.what {
            wire::ChangeStep::Done { release, cached, urls } => return Ok(Done { release, cached, urls }),
            wire::ChangeStep::Failed { fault } => return Err(ClientError::Refused(fault.into())),
            wire::ChangeStep::Phase { .. }
            | wire::ChangeStep::Note { .. }
            | wire::ChangeStep::Work { .. }
            | wire::ChangeStep::Line { .. }
            | wire::ChangeStep::Waiting { .. } => {}
        }
    }
    let fault = Fault::new(FaultKind::Failed, format!("the change of {app} ended without a result"));
    Err(ClientError::Refused(fault.hint("`bowline status` shows what runs")))
}

/// Follows a change to its end and says what has become of it: `words` of the release. Ctrl-C leaves it going on.
pub(super) async fn and_say(
    client: &Client,
    (app, change): (&str, u64),
    words: impl Fn(u32) -> String,
    interrupts: &mut Interrupts,
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    let began = Instant::now();
    let done = tokio::select! {
        done = to_its_end(client, app, change, false, ui) => done?,
        () = interrupts.next() => return Ok(left(app, ui)),
    };
    let took = began.elapsed();
    ui.object(&Said::Ready { app, release: done.release, urls: &done.urls, ms: took.as_millis() });
    let words = words(done.release);
    ui.say(format!("  {} {words}, after {:.1} s", ui.paint(Tone::Strong, app), took.as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

/// `APP` or `APP.SERVICE`.
pub(super) fn app_and_service(target: &str) -> (String, Option<String>) {
    match target.split_once('.') {
        Some((app, service)) => (app.to_owned(), Some(service.to_owned())),
        None => (target.to_owned(), None),
    }
}

/// Ctrl-C while a change is followed that needs nobody to go on.
pub(super) fn left(app: &str, ui: &Ui) -> ExitCode {
    ui.aside(format!("  it goes on without this command; `bowline status {app}` shows how far it is"));
    ExitCode::from(INTERRUPTED)
}
