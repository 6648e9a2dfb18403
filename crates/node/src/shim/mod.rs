//! The shim: one small process per incarnation of an instance, which outlives the daemon.
//!
//! The daemon starts `bowline shim` with its configuration in a memory file as standard input. The outer process takes
//! the slot's lock, makes namespaces where the machine allows them, forks the inner one, writes the shim record, answers
//! on standard output and leaves. The inner process is the first of the PID namespace (the app never is): whatever kills
//! it takes the whole tree along. Without namespaces it is a subreaper, and what a `kill -9` of it leaves behind is
//! found by its mark in the environment before the slot is used again.
//!
//! Architecture invariants: one thread, no tokio, at most 1.5 MB of private memory; it never restarts its child; it holds
//! the lock of its slot from before the app starts until after nothing of the app is left and the exit record is durable;
//! secrets are dropped once the app has been executed.

pub(crate) mod contract;

mod child;
mod inner;
mod layer;
mod life;
pub(crate) mod log;
pub(crate) mod outer;
pub(crate) mod place;

use std::process::ExitCode;

pub(crate) use layer::written;

/// The environment variable that every process of an instance carries.
pub(crate) const MARK: &str = "BOWLINE_MARK";

/// The whole process of `bowline shim`. Must be called before threads are started.
pub fn main() -> ExitCode {
    outer::run()
}
