use std::process::ExitCode;

use bowline_core::fault::Fault;

use crate::paths::Paths;
use crate::session::Session;
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
