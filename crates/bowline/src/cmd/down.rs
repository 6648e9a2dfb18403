use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::Fault;
use bowline_core::id::start_command;

use super::command_words;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::session::Session;
use crate::target::Target;
use crate::ui::{Tone, Ui};

/// A daemon that died is started again first: only a daemon knows all that it left running.
pub(super) async fn run(paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = Session::join_to_stop(paths).await?;
    let stopped = session.client.shutdown().await?;
    session.ended(paths).await?;
    ui.object(&stopped);
    for app in &stopped.apps {
        ui.say(format!("  {} {app}", ui.paint(Tone::Faint, "stopped")));
    }
    ui.say(format!("  {} the daemon of {}; data stay", ui.paint(Tone::Faint, "stopped"), paths.state.display()));
    Ok(ExitCode::SUCCESS)
}

/// Answers when nothing of it is left: what is under way is drained.
pub(super) async fn one(env: &str, app: &str, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = target.join().await?;
    let mut interrupts = Interrupts::new()?;
    let mut progress = Progress::new(ui, None);
    progress.moving(&format!("stopping {env}/{app}"));
    let stopped = tokio::select! {
        stopped = session.client.stop(env, app, wire::Stop::default()) => stopped?,
        () = interrupts.next() => {
            drop(progress);
            ui.aside(format!("  it is stopped all the same; `bowline status {}` shows it", command_words(app, env)));
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    drop(progress);
    ui.object(&stopped);
    ui.say(format!("  {} {env}/{app}; data stay", ui.paint(Tone::Faint, "stopped")));
    ui.say(format!("  start it again: {}, in its folder", start_command(env)));
    Ok(ExitCode::SUCCESS)
}
