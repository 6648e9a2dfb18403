//! The shim and the builder alone, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).is_some_and(|role| role == "builder") {
        true => bowline_node::builder::main(),
        false => bowline_node::shim::main(),
    }
}
