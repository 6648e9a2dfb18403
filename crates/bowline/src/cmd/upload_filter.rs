//! `bowline upload-filter`: the process that judges uploads for Envoy.

use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_envoy::FilterArgs;

use crate::args::UploadFilter;

/// Logs to stderr, which is a file of the state's.
pub(super) fn run(args: UploadFilter) -> Result<ExitCode, Fault> {
    crate::log::to_own_file();
    bowline_node::slice::of_the_edge();
    match bowline_envoy::judge_uploads(&FilterArgs { socket: args.socket }) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Fault::new(FaultKind::Failed, "uploads cannot be judged").source(&error)),
    }
}
