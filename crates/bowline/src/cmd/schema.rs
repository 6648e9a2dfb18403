use std::process::ExitCode;

use bowline_core::fault::Fault;

use crate::args::Schema;
use crate::ui::Ui;

pub(super) fn run(args: &Schema, ui: &Ui) -> Result<ExitCode, Fault> {
    let schema = if args.server { bowline_spec::server::schema() } else { bowline_spec::schema() };
    ui.raw(&serde_json::to_string_pretty(&schema).expect("a JSON value prints"));
    Ok(ExitCode::SUCCESS)
}
