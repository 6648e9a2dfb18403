//! TERM and INT that come while a daemon cannot act on them: before it serves, and while another binary takes its place.
//!
//! A signal that was caught is known only to who caught it, and goes with its memory; one that is blocked waits in the kernel, also
//! across execve(2). So whatever is caught too late is sent again to the process itself, blocked until the next binary listens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_core::fault::{Fault, FaultKind};
use nix::sys::signal::{SigSet, Signal, raise};
use signal_hook::{SigId, flag, low_level};

const STOPS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// Notes that one came.
#[derive(Debug)]
pub(crate) struct Stops {
    came: Arc<AtomicBool>,
    /// What lets a second one end the process, until it serves.
    impatient: Mutex<Vec<SigId>>,
}

impl Stops {
    /// From now on the first one does not end the process by itself, and a second one does until [`Self::tell`]: whoever starts a daemon that
    /// does not get ready need not wait for it. On the first thread, before there are others: they block what it blocks.
    pub(crate) fn watch() -> Result<Self, Fault> {
        let came = Arc::new(AtomicBool::new(false));
        let failed =
            |error: &dyn std::error::Error| Fault::new(FaultKind::Failed, "signals cannot be caught").source(error);
        let mut impatient = Vec::new();
        for stop in STOPS {
            // In this order: the one that is noted first is not its own second.
            let second = flag::register_conditional_default(stop as i32, Arc::clone(&came));
            impatient.push(second.map_err(|error| failed(&error))?);
            flag::register(stop as i32, Arc::clone(&came)).map_err(|error| failed(&error))?;
        }
        // What a binary before this one has left waiting comes here and now.
        SigSet::from_iter(STOPS).thread_unblock().map_err(|error| failed(&error))?;
        Ok(Self { came, impatient: Mutex::new(impatient) })
    }

    /// To those who listen since: what has come before. From now on it is they who end the process, in an orderly way.
    pub(crate) fn tell(&self) {
        for second in self.impatient.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            low_level::unregister(second);
        }
        if self.came.load(Ordering::Acquire) {
            // It is the process's own.
            let _ = raise(Signal::SIGTERM);
        }
    }

    /// For the binary that is executed next, by this thread. Whoever would have acted on a stop has not, or no other binary would be executed.
    /// `takes_them`: whether it looks for stops that wait. One that does not would be deaf to all: it gets the mask that it knows, and a
    /// stop of this moment is lost to it.
    ///
    /// So may one be that comes between this and the execution, where a thread that hangs in the disk has outlived its runtime: there
    /// the kernel may choose that thread for it.
    pub(crate) fn leave(&self, takes_them: bool) {
        let stops = SigSet::from_iter(STOPS);
        match takes_them {
            true if stops.thread_block().is_ok() => self.tell(),
            // As they are when this fails.
            true => {}
            false => drop(stops.thread_unblock()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(stop: Signal) -> bool {
        SigSet::thread_get_mask().unwrap().contains(stop)
    }

    /// The mask is the thread's own, as each test has one.
    #[test]
    fn a_binary_is_left_stops_that_wait_only_if_it_looks_for_them() {
        let stops = Stops { came: Arc::default(), impatient: Mutex::default() };
        stops.leave(true);
        assert!(STOPS.into_iter().all(blocks));
        // The one that was to take over could not be executed, and the one before is an older one.
        stops.leave(false);
        assert!(!STOPS.into_iter().any(blocks));
    }
}
