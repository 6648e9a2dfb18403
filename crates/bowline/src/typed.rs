//! What is typed and not shown.

use std::io::{self, Stdin, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::ui::Ui;

/// What would end or stop the command while the terminal shows nothing.
const ENDS: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP];

/// Reads a line from the terminal without showing it. Blocks the thread.
///
/// A signal that ends or stops the command does so when the terminal shows again what is typed; a command that goes on after it
/// was stopped asks again. Nothing is caught: what the signals do otherwise is as it was, here and afterwards.
pub(crate) fn typed(what: &str, ui: &Ui) -> io::Result<Vec<u8>> {
    loop {
        // What has arrived is delivered as soon as the terminal is what it was.
        if let Some(line) = Hidden::begin()?.line(what, ui)? {
            return Ok(line);
        }
    }
}

/// A terminal that does not show what is typed, and a thread that no signal interrupts.
struct Hidden {
    stdin: Stdin,
    shown: Termios,
    /// Before.
    mask: SigSet,
    arrived: SignalFd,
}

impl Hidden {
    fn begin() -> io::Result<Self> {
        let stdin = io::stdin();
        let shown = tcgetattr(&stdin)?;
        let ends = SigSet::from_iter(ENDS);
        let arrived = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC)?;
        let mask = SigSet::thread_get_mask()?;
        // From here on they wait: one that came earlier has ended the command before anything was hidden.
        ends.thread_block()?;
        let hidden = Self { stdin, shown, mask, arrived };
        let mut modes = hidden.shown.clone();
        modes.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&hidden.stdin, SetArg::TCSAFLUSH, &modes)?;
        Ok(hidden)
    }

    /// `None`: a signal came first.
    fn line(&self, what: &str, ui: &Ui) -> io::Result<Option<Vec<u8>>> {
        ui.ask(format!("{what} (not shown):"))?;
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut either = [readable(self.stdin.as_fd()), readable(self.arrived.as_fd())];
        let is_line = match poll(&mut either, PollTimeout::NONE) {
            Ok(_) => either[1].any() == Some(false),
            // It was stopped by what cannot be held back, and goes on.
            Err(Errno::EINTR) => false,
            Err(error) => return Err(error.into()),
        };
        let mut line = String::new();
        if is_line {
            self.stdin.read_line(&mut line)?;
        }
        writeln!(io::stderr())?;
        Ok(is_line.then(|| line.into_bytes()))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(&self.stdin, SetArg::TCSADRAIN, &self.shown);
        let _ = self.mask.thread_set_mask();
    }
}
