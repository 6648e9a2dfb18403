//! Being told to stop.

use bowline_core::fault::{Fault, FaultKind};
use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a command that was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// What it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// A terminal sends it to whatever a command has started, too.
    Interrupt,
    Terminate,
}

/// Ctrl-C, or TERM as a supervisor sends it. Caught from the beginning, so that none is lost between two waits.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(crate) fn new() -> Result<Self, Fault> {
        let caught =
            |kind| signal(kind).map_err(|e| Fault::new(FaultKind::Failed, "signals cannot be caught").source(&e));
        Ok(Self { interrupt: caught(SignalKind::interrupt())?, terminate: caught(SignalKind::terminate())? })
    }

    /// Cancel-safe.
    pub(crate) async fn next(&mut self) {
        self.which().await;
    }

    /// What came until now was for something that has ended since.
    pub(crate) fn forget(&mut self) {
        while self.next().now_or_never().is_some() {}
    }

    /// Cancel-safe.
    pub(crate) async fn which(&mut self) -> Interruption {
        tokio::select! {
            _ = self.interrupt.recv() => Interruption::Interrupt,
            _ = self.terminate.recv() => Interruption::Terminate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_came_before_is_forgotten_and_what_comes_later_is_not() {
        let mut interrupts = Interrupts::new().unwrap();
        let mut witness = signal(SignalKind::interrupt()).unwrap();
        let interrupt = || nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT).unwrap();
        interrupt();
        witness.recv().await;
        interrupts.forget();
        assert_eq!(interrupts.next().now_or_never(), None);
        interrupt();
        interrupts.next().await;
    }
}
