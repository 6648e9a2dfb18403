use std::process::ExitCode;

use bowline_core::fault::Fault;
use clap::CommandFactory;

use crate::args::Cli;
use crate::ui::Ui;

pub(super) fn run(shell: clap_complete::Shell, ui: &Ui) -> Result<ExitCode, Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bowline", &mut script);
    ui.raw(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}
