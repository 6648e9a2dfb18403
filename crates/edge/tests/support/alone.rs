//! The edge without the rest of the binary: what the link starts in tests.

use std::path::PathBuf;
use std::process::ExitCode;

use bowline_edge::EdgeArgs;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str| value(name).and_then(|text| text.parse().ok());
    let (Some(control_fd), Some(log_dir)) = (number("--control-fd"), value("--log-dir")) else {
        return ExitCode::from(2);
    };
    let workers = value("--workers").and_then(|text| text.parse().ok()).unwrap_or(0);
    let log_dir = PathBuf::from(log_dir);
    let successor = args.iter().any(|arg| arg == "--successor");
    let args = EdgeArgs {
        control_fd,
        http_fd: number("--http-fd"),
        https_fd: number("--https-fd"),
        log_dir,
        workers,
        successor,
    };
    match bowline_edge::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
