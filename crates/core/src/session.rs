//! Sessions: a command that somebody is attached to, in an instance's cage.

use std::sync::Arc;

use crate::fault::Fault;
use crate::instance::InstanceSpec;

/// Most bytes in one piece of input or output.
pub const MAX_PIECE: usize = 32 * 1024;

/// Everything one session needs, decided; the node makes no choice but the id of a one-off instance.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSpec {
    pub place: SessionPlace,
    /// The instance that is entered, or what a one-off instance is made of: then of its id only slot and incarnation are
    /// replaced, and its `run` is not executed.
    pub instance: Arc<InstanceSpec>,
    /// The program, looked for in the instance's `PATH`, and its arguments. Not empty.
    pub command: Vec<String>,
    /// `None`: three pipes.
    pub terminal: Option<Terminal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPlace {
    /// Beside what the instance runs; the session ends with it.
    Inside,
    /// An instance of its own, made like those of the service and gone with the session: it serves nothing, is not watched,
    /// and has no part in the service's log. It ends with the last order to run anything of the app.
    OneOff,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    pub size: WindowSize,
    /// `$TERM`, where the instance has none.
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

/// What whoever is attached says beside input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionControl {
    /// Of the terminal; without one it means nothing.
    Resize(WindowSize),
    /// For the command and its process group.
    Signal(SessionSignal),
}

/// Signals that may be sent to a command. KILL is not among them: leaving does that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionSignal {
    Hangup,
    Interrupt,
    Quit,
    User1,
    User2,
    Terminate,
}

impl SessionSignal {
    pub const ALL: [Self; 6] = [Self::Hangup, Self::Interrupt, Self::Quit, Self::User1, Self::User2, Self::Terminate];

    /// Its number on Linux (signal(7)), alike on x86-64 and arm64.
    pub fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Quit => 3,
            Self::User1 => 10,
            Self::User2 => 12,
            Self::Terminate => 15,
        }
    }

    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

/// A piece of output, at most [`MAX_PIECE`] bytes. With a terminal all of it is `Stdout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// How a session ended. Nothing that it started is left then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    Code(i32),
    Signal(i32),
    /// There is no such program (`code` 127), or it cannot be executed (126), as a shell would say.
    NotExecuted {
        code: i32,
        fault: Fault,
    },
    /// Whoever was attached went away: it was killed.
    Left,
    /// It could not be started, or was ended by something else.
    Broken(Fault),
}
