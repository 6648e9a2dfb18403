use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_edge::EdgeArgs;

use crate::args::Edge;

/// Logs to stderr, which is a file of the state's.
pub(super) fn run(args: Edge) -> Result<ExitCode, Fault> {
    crate::log::to_own_file();
    bowline_node::slice::of_the_edge();
    let args = EdgeArgs {
        control_fd: args.control_fd,
        http_fd: args.http_fd,
        https_fd: args.https_fd,
        log_dir: args.log_dir,
        workers: args.workers,
        successor: args.successor,
    };
    match bowline_edge::run(&args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Fault::new(FaultKind::Failed, "the edge cannot run").source(&error)),
    }
}
