use std::process::ExitCode;

use bowline_api::ClientError;
use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

use super::command_words;
use super::follow::{self, Followed};
use super::logs::only_app;
use crate::args::Abort;
use crate::interrupts::Interrupts;
use crate::target::Target;
use crate::ui::{Tone, Ui};

/// The last line with `--json`; before it come the steps of the change.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    /// Without `change` nothing was under way.
    Aborted { app: &'a str, change: Option<u64> },
}

pub(super) async fn run(args: Abort, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let mut interrupts = Interrupts::new()?;
    let session = target.join().await?;
    let app = match args.app {
        Some(app) => app,
        None => only_app(&session.client, &args.env, "abort APP").await?,
    };
    let Some(change) = session.client.abort(&args.env, &app).await?.change else {
        ui.object(&Said::Aborted { app: &app, change: None });
        ui.say(format!("  nothing of {app} is under way: there is nothing to abort"));
        return Ok(ExitCode::SUCCESS);
    };
    let followed = Followed { env: &args.env, app: &app, change };
    let end = tokio::select! {
        end = follow::to_its_end((target, &session.client), followed, false, ui) => end,
        () = interrupts.next() => return Ok(follow::left(&args.env, &app, ui)),
    };
    match end {
        // It came to nothing, as it should.
        Err(ClientError::Refused(fault)) if fault.kind == FaultKind::Failed => {
            ui.object(&Said::Aborted { app: &app, change: Some(change) });
            let became = fault.causes.last().map(String::as_str).unwrap_or_default();
            ui.say(format!("  {} {} {became}", ui.paint(Tone::Strong, &app), ui.paint(Tone::Good, "is as it was:")));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
        Ok(done) => Err(Fault::new(FaultKind::Failed, format!("change {change} of {app} could not be aborted"))
            .caused_by(format!("it had ended before: release {} serves", done.release))
            .hint(format!("bowline rollback {}", command_words(&app, &args.env)))),
    }
}
