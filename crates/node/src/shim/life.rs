//! The life of an app under its shim, as a pure machine: TERM, grace, KILL of the whole tree.

use std::time::Duration;

use bowline_core::time::Mono;

use super::contract::End;

/// How the app's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The shim was told to stop.
    Terminate,
    /// `out_of_memory`: the kernel killed in this instance because of its memory limit.
    MainExited { status: Status, out_of_memory: bool },
    /// Nobody is left in the process group of the main process.
    GroupGone,
    /// The deadline has passed.
    Deadline,
    /// No descendant is left.
    TreeGone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// TERM, or the signal that the app wants instead, to the process group of the main process.
    TermGroup,
    /// KILL to everything that descends from the shim. Repeated until `TreeGone`.
    KillTree,
    /// Write the exit record and leave.
    Finish(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Running,
    /// `main_gone`: the rest of its group may still be finishing.
    Stopping {
        deadline: Mono,
        main_gone: bool,
    },
    Killing(End),
    Gone,
}

#[derive(Debug)]
pub(super) struct Life {
    state: State,
    grace: Duration,
}

impl Life {
    pub(super) fn new(grace: Duration) -> Self {
        Self { state: State::Running, grace }
    }

    pub(super) fn handle(&mut self, input: Input, now: Mono) -> Option<Effect> {
        let (state, effect) = match (&self.state, input) {
            (State::Running, Input::Terminate) => {
                (State::Stopping { deadline: now + self.grace, main_gone: false }, Effect::TermGroup)
            }
            // What the main process leaves behind when it ends by itself has no one to answer for it.
            (State::Running, Input::MainExited { status, out_of_memory }) => {
                (State::Killing(end(status, out_of_memory)), Effect::KillTree)
            }
            (State::Stopping { deadline, .. }, Input::MainExited { .. }) => {
                self.state = State::Stopping { deadline: *deadline, main_gone: true };
                return None;
            }
            (State::Stopping { main_gone: true, .. }, Input::GroupGone) => {
                (State::Killing(End::Stopped), Effect::KillTree)
            }
            (State::Stopping { deadline, .. }, Input::Deadline) if now >= *deadline => {
                (State::Killing(End::Killed), Effect::KillTree)
            }
            (State::Killing(_), Input::Deadline) => return Some(Effect::KillTree),
            (State::Killing(end), Input::TreeGone) => (State::Gone, Effect::Finish(end.clone())),
            (State::Running | State::Stopping { .. } | State::Killing(_) | State::Gone, _) => return None,
        };
        self.state = state;
        Some(effect)
    }

    /// Whether it was told to end.
    pub(super) fn is_ending(&self) -> bool {
        match self.state {
            State::Running => false,
            State::Stopping { .. } | State::Killing(_) | State::Gone => true,
        }
    }

    /// Whether the loop should look if the group is empty: no signal tells.
    pub(super) fn watches_group(&self) -> bool {
        matches!(self.state, State::Stopping { main_gone: true, .. })
    }

    /// How long to wait for something to happen; `None`: for ever.
    pub(super) fn patience(&self, now: Mono) -> Option<Duration> {
        /// Forks in progress escape a KILL; a group that empties sends no signal.
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        match &self.state {
            State::Running | State::Gone => None,
            State::Stopping { deadline, main_gone: true } => Some(deadline.since(now).min(LOOK_AGAIN)),
            State::Stopping { deadline, main_gone: false } => Some(deadline.since(now)),
            State::Killing(_) => Some(LOOK_AGAIN),
        }
    }
}

/// A shell that waited for a killed command exits with 128 + 9.
const KILLED_BELOW_SHELL: i32 = 128 + libc::SIGKILL;

fn end(status: Status, out_of_memory: bool) -> End {
    match status {
        Status::Signal(libc::SIGKILL) | Status::Code(KILLED_BELOW_SHELL) if out_of_memory => End::OutOfMemory,
        Status::Code(code) => End::Code(code),
        Status::Signal(signal) => End::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn exited(status: Status) -> Input {
        Input::MainExited { status, out_of_memory: false }
    }

    /// Inputs at seconds after the start, and all effects.
    fn check(inputs: &[(u64, Input)], expected: &[Effect]) {
        let mut life = Life::new(GRACE);
        let effects: Vec<Effect> =
            inputs.iter().filter_map(|(at, input)| life.handle(*input, Mono(Duration::from_secs(*at)))).collect();
        assert_eq!(effects, expected, "{inputs:?}");
    }

    #[test]
    fn an_app_that_exits_takes_its_tree_along() {
        let inputs = [(1, exited(Status::Code(3))), (1, Input::TreeGone)];
        check(&inputs, &[Effect::KillTree, Effect::Finish(End::Code(3))]);
    }

    #[test]
    fn an_app_that_obeys_is_stopped() {
        let inputs =
            [(1, Input::Terminate), (2, exited(Status::Signal(15))), (3, Input::GroupGone), (3, Input::TreeGone)];
        check(&inputs, &[Effect::TermGroup, Effect::KillTree, Effect::Finish(End::Stopped)]);
    }

    #[test]
    fn workers_that_outlive_their_parent_are_given_the_grace_time() {
        let inputs = [(1, Input::Terminate), (2, exited(Status::Code(0))), (9, Input::Deadline), (11, Input::Deadline)];
        check(&inputs, &[Effect::TermGroup, Effect::KillTree]);
    }

    #[test]
    fn an_app_that_ignores_term_is_killed_and_killed_again() {
        let inputs = [
            (1, Input::Terminate),
            (2, Input::Terminate),
            (10, Input::Deadline),
            (11, Input::Deadline),
            (12, Input::Deadline),
            (12, exited(Status::Signal(9))),
            (12, Input::TreeGone),
            (13, Input::Terminate),
        ];
        let kill = Effect::KillTree;
        check(&inputs, &[Effect::TermGroup, kill.clone(), kill, Effect::Finish(End::Killed)]);
    }

    #[test]
    fn the_memory_limit_is_the_cause_only_of_a_kill() {
        let check_end = |status, expected| assert_eq!(end(status, true), expected);
        check_end(Status::Signal(9), End::OutOfMemory);
        check_end(Status::Code(137), End::OutOfMemory);
        check_end(Status::Code(1), End::Code(1));
        assert_eq!(end(Status::Signal(9), false), End::Signal(9));
    }
}
