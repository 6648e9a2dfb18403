//! `bowline`: the command line, the daemon, the edge and the shim in one binary.

mod args;
mod cmd;
mod daemon;
mod file;
mod paths;
mod progress;
mod session;
mod ui;
mod users;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A shim lives as long as its app and must stay small: nothing else of the binary is initialised for it.
    if std::env::args_os().nth(1).is_some_and(|role| role == "shim") {
        return bowline_node::shim::main();
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
