use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::Fault;

use crate::ui::Ui;

pub(super) fn run(ui: &Ui) -> Result<ExitCode, Fault> {
    let version = wire::Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: vec![1] };
    ui.object(&version);
    ui.say(format!("bowline {}", version.version));
    Ok(ExitCode::SUCCESS)
}
