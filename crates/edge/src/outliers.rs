//! Instances that are left out because their requests fail: the core's machine at work on endpoints. Workers count without a lock; who has
//! come to a number of failures in a row is told from here.

use std::collections::BTreeSet;
use std::time::Instant;

use bowline_core::id::InstanceId;
use bowline_core::route::outlier::{Effect, Input, Outliers};
use bowline_core::time::Mono;

use crate::route::Compiler;

#[derive(Debug)]
pub(crate) struct Watch {
    machine: Outliers,
    begun: Instant,
    /// How often an instance was left out.
    total: u64,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { machine: Outliers::default(), begun: Instant::now(), total: 0 }
    }

    /// Another table is served.
    pub(crate) fn table(&mut self, compiler: &mut Compiler) {
        let changed = compiler.take_changed();
        self.handle(Input::Changed(changed), compiler);
    }

    /// Looks who has failed since, and whose time is over.
    pub(crate) fn look(&mut self, compiler: &Compiler) {
        let due = self.machine.next_deadline().is_some_and(|at| at <= self.now());
        let failing = compiler.failing();
        if due {
            self.handle(Input::Tick, compiler);
        }
        for instance in failing {
            self.handle(Input::Failing(instance), compiler);
        }
    }

    /// Who is left out now, and how often that was done.
    pub(crate) fn seen(&self) -> (BTreeSet<&InstanceId>, u64) {
        (self.machine.left_out().map(|(instance, _)| instance).collect(), self.total)
    }

    fn now(&self) -> Mono {
        Mono(self.begun.elapsed())
    }

    fn handle(&mut self, input: Input, compiler: &Compiler) {
        let before = self.machine.left_out().next().is_some();
        for effect in self.machine.handle(input, self.now()) {
            match effect {
                Effect::LeaveOut { instance, time } => {
                    self.total += 1;
                    tracing::info!(%instance, ?time, "an instance is left out");
                }
                Effect::LetIn { instance } => tracing::info!(%instance, "an instance is let in again"),
            }
        }
        let left_out = self.seen().0;
        // Mostly nobody is, and nobody was. Of one that has another address, the endpoint is a new one.
        if before || !left_out.is_empty() {
            compiler.leave_out(&left_out);
        }
    }
}
