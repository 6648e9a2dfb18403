use std::process::ExitCode;

use bowline_core::fault::Fault;

use crate::args::Serve;
use crate::daemon;
use crate::paths::Paths;

pub(super) fn run(args: Serve, paths: &Paths) -> Result<ExitCode, Fault> {
    daemon::main(args, paths)
}
