//! `bowline upload-filter`: the process that judges uploads for an Envoy of the daemon's.

use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_envoy::{FilterArgs, Hold};

use crate::args::UploadFilter;

/// Logs to stderr, which is a file of the state's.
pub(super) fn run(args: UploadFilter) -> Result<ExitCode, Fault> {
    crate::log::to_own_file();
    bowline_node::slice::of_the_edge();
    match bowline_envoy::judge_uploads(&FilterArgs { socket: args.socket, hold: Hold::Kept }, || ()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Fault::new(FaultKind::Failed, "uploads cannot be judged").source(&error)),
    }
}
