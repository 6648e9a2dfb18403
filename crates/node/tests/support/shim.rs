//! The shim alone, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    bowline_node::shim::main()
}
