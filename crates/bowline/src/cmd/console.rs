use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

use crate::paths::Paths;
use crate::session::Session;
use crate::ui::{Tone, Ui};

#[derive(Debug, Serialize)]
struct Console {
    url: String,
}

/// The address and nothing else: `xdg-open $(bowline console)`.
pub(super) async fn run(paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let status = Session::join(paths).await?.client.status().await?;
    let admin = status.daemon.admin.ok_or_else(|| {
        Fault::new(FaultKind::Failed, "the daemon has no admin port").hint("look at its log in the state folder")
    })?;
    let url = format!("http://{admin}/");
    ui.say(ui.paint(Tone::Link, &url));
    ui.object(&Console { url });
    Ok(ExitCode::SUCCESS)
}
