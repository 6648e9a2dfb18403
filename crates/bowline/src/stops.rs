//! TERM and INT that come while a daemon cannot act on them: before it serves, and while another binary takes its place.
//!
//! A signal that was caught is known only to who caught it, and goes with its memory; one that is blocked waits in the kernel, also
//! across execve(2). So whatever is caught too late is sent again to the process itself, blocked until the next binary listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_core::fault::{Fault, FaultKind};
use nix::sys::signal::{SigSet, Signal, raise};
use signal_hook::flag;

const STOPS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// Notes that one came.
#[derive(Debug)]
pub(crate) struct Stops {
    came: Arc<AtomicBool>,
}

impl Stops {
    /// From now on none ends the process by itself. On the first thread, before there are others: they block what it blocks.
    pub(crate) fn watch() -> Result<Self, Fault> {
        let came = Arc::new(AtomicBool::new(false));
        let caught = STOPS.iter().try_for_each(|stop| flag::register(*stop as i32, Arc::clone(&came)).map(drop));
        let failed =
            |error: &dyn std::error::Error| Fault::new(FaultKind::Failed, "signals cannot be caught").source(error);
        caught.map_err(|error| failed(&error))?;
        // What a binary before this one has left waiting comes here and now.
        SigSet::from_iter(STOPS).thread_unblock().map_err(|error| failed(&error))?;
        Ok(Self { came })
    }

    /// To those who listen since: what has come before.
    pub(crate) fn tell(&self) {
        if self.came.load(Ordering::Acquire) {
            // It is the process's own.
            let _ = raise(Signal::SIGTERM);
        }
    }

    /// For the binary that is executed next, by this thread, after all others have ended. Whoever would have acted on a stop
    /// has not, or no other binary would be executed.
    pub(crate) fn leave(&self) {
        if SigSet::from_iter(STOPS).thread_block().is_ok() {
            self.tell();
        }
    }
}
