//! The shim: one small process per incarnation of an instance, which outlives the daemon.
//!
//! The daemon starts `bowline shim` with its configuration in a memory file as standard input. The outer process takes
//! the slot's lock, makes namespaces where the machine allows them, forks the inner one, writes the shim record, answers
//! on standard output and leaves. The inner process is the first of the PID namespace (the app never is): whatever kills
//! it takes the whole tree along. Without namespaces it is a subreaper, and what a `kill -9` of it leaves behind is
//! found by its mark in the environment before the slot is used again.
//!
//! Of an instance in a container the inner process is the one that makes it, reads its output, ends it, and removes it.
//!
//! Architecture invariants: one thread, and beside it the one that may wait for the log's disk; nothing is forked once that
//! one runs; no tokio; at most 1.5 MB of private memory; it never restarts its child; it holds
//! the lock of its slot from before the app starts until after nothing of the app is left and the exit record is durable;
//! secrets are dropped once the app has been executed.

pub(crate) mod contract;

mod child;
mod container;
mod inner;
mod layer;
mod life;
pub(crate) mod log;
pub(crate) mod outer;
pub(crate) mod place;
mod queue;
mod search;
pub(crate) mod session;

use std::process::ExitCode;

pub(crate) use container::remove_given;

/// The environment variable that every process of an instance carries.
pub(crate) const MARK: &str = "BOWLINE_MARK";

/// The environment variable that every process of a session carries, beside it.
pub(crate) const SESSION_MARK: &str = "BOWLINE_SESSION";

/// The first argument of a process that is the shim of an instance, or keeps a session in one.
pub const ROLES: [&str; 2] = ["shim", SESSION];
pub(crate) const SESSION: &str = "session";

/// The whole process of `bowline shim` and `bowline session`. Must be called before threads are started.
pub fn main() -> ExitCode {
    match std::env::args_os().nth(1).is_some_and(|role| role == SESSION) {
        true => session::run(),
        false => outer::run(),
    }
}
