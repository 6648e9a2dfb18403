//! TERM and INT.

use bowline_core::fault::{Fault, FaultKind};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, Fault> {
        let failed = |error: std::io::Error| Fault::new(FaultKind::Failed, "signals cannot be caught").source(&error);
        let catch = |kind| signal(kind).map_err(failed);
        Ok(Self { term: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        let caught = tokio::select! {
            caught = self.term.recv() => caught,
            caught = self.interrupt.recv() => caught,
        };
        if caught.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
