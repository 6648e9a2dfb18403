mod install;

use std::path::Path;
use std::process::ExitCode;

use bowline_core::fault::Fault;

use crate::args::Serve;
use crate::daemon;
use crate::paths::Paths;
use crate::ui::Ui;

pub(super) fn run(args: Serve, state: Option<&Path>, ui: &Ui) -> Result<ExitCode, Fault> {
    match args.install {
        true => install::run(&args, state, ui),
        false => daemon::main(args, &Paths::of_server(state)?, ui),
    }
}
