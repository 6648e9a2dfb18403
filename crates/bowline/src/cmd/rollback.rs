use std::process::ExitCode;
use std::time::Instant;

use bowline_api::wire;
use bowline_core::fault::Fault;
use serde::Serialize;

use super::follow::{self, Interrupts};
use super::logs::only_app;
use crate::args::Rollback;
use crate::paths::Paths;
use crate::session::Session;
use crate::ui::{Tone, Ui};

/// The last line with `--json`; the steps before it are those of `up`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    Ready { app: &'a str, release: u32, urls: &'a [String], ms: u128 },
}

pub(super) async fn run(args: Rollback, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let Rollback { app, release, env } = args;
    // An app has a letter first: a number alone is a release.
    let (app, release) = match (app.as_deref().and_then(|text| text.parse().ok()), release) {
        (Some(number), None) => (None, Some(number)),
        (_, release) => (app, release),
    };
    let began = Instant::now();
    let mut interrupts = Interrupts::new()?;
    let session = Session::join(paths).await?;
    let app = match app {
        Some(app) => app,
        None => only_app(&session.client, &env, "rollback APP").await?,
    };
    let accepted = session.client.roll_back(&env, &app, wire::Rollback { release }).await?;
    let done = tokio::select! {
        done = follow::to_its_end(&session.client, &app, accepted.change, false, ui) => done?,
        () = interrupts.next() => return Ok(follow::left(&app, ui)),
    };
    let took = began.elapsed();
    ui.object(&Said::Ready { app: &app, release: done.release, urls: &done.urls, ms: took.as_millis() });
    ui.say(format!(
        "  {} {} release {} serves again, after {:.1} s",
        ui.paint(Tone::Strong, &app),
        ui.paint(Tone::Good, "is back:"),
        done.release,
        took.as_secs_f64()
    ));
    Ok(ExitCode::SUCCESS)
}
