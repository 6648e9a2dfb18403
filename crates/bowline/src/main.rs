//! `bowline`: the command line, the daemon, the edge, the shim and the builder in one binary.

mod activity;
mod args;
mod claim;
mod cmd;
mod credentials;
mod daemon;
mod edge;
mod file;
mod images;
mod interrupts;
mod log;
mod notify;
mod paths;
mod progress;
mod renewal;
mod rollout;
mod session;
mod settings;
mod stops;
mod target;
mod typed;
mod ui;
mod users;
mod value;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A shim lives as long as its app and must stay small, and each of these must have one thread: nothing else of the binary
    // is initialised for them.
    match std::env::args_os().nth(1) {
        Some(role) if bowline_node::shim::ROLES.iter().any(|own| role == *own) => return bowline_node::shim::main(),
        Some(role) if role == "builder" => return bowline_node::builder::main(),
        Some(_) | None => {}
    }
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(fault) => return ui::Ui::new(true).fault(&fault),
    };
    let ui = ui::Ui::new(cli.global.json);
    match cmd::run(cli, &ui) {
        Ok(code) => code,
        Err(fault) => ui.fault(&fault),
    }
}
