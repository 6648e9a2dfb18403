use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::Fault;

use crate::ui::Ui;

pub(super) fn run(ui: &Ui) -> Result<ExitCode, Fault> {
    let version = wire::Version::of(env!("CARGO_PKG_VERSION"));
    ui.object(&version);
    ui.say(format!("bowline {}", version.version));
    Ok(ExitCode::SUCCESS)
}
