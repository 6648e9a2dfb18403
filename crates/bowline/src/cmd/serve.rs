mod install;
mod upgrade;

use std::path::Path;
use std::process::ExitCode;

use bowline_core::fault::Fault;

use crate::args::Serve;
use crate::daemon;
use crate::paths::Paths;
use crate::ui::Ui;

pub(super) fn run(args: Serve, state: Option<&Path>, ui: &Ui) -> Result<ExitCode, Fault> {
    match (args.install, args.upgrade) {
        (true, _) => install::run(&args, state, ui),
        (false, true) => super::client(upgrade::run(&Paths::of_live(state)?, ui)),
        (false, false) => daemon::main(args, &Paths::of_server(state)?, ui),
    }
}
