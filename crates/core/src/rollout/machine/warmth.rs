//! Whether what served before is kept warm beside the promoted release: as long as it is watched, if memory allows.

use super::Rollout;
use crate::id::{ReleaseNumber, ServiceName};
use crate::rollout::{AbortStage, Phase, Plan, Replicas};
use crate::scale::Machine;
use crate::units::Bytes;

/// Whether the machine's memory has room for the instances of both releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    #[default]
    Enough,
    Short,
}

impl Memory {
    /// `taken`: by everything else. `both`: [`Plan::memory_of_both`].
    pub fn of(machine: Machine, taken: Bytes, both: Bytes) -> Self {
        if taken.0.saturating_add(both.0) > machine.memory.0 { Self::Short } else { Self::Enough }
    }
}

impl Plan {
    /// What the promoted release and what is kept warm beside it take of memory, if an instance of a release of a service takes
    /// `each`.
    pub fn memory_of_both(&self, each: impl Fn(&ServiceName, ReleaseNumber) -> Bytes) -> Bytes {
        let of = |name: &ServiceName, release: Option<ReleaseNumber>, instances: u16| {
            release.map_or(0, |release| each(name, release).0.saturating_mul(instances.into()))
        };
        let both = |(name, Replicas { stable, candidate, .. }): (&ServiceName, &Replicas)| {
            of(name, self.stable, *stable).saturating_add(of(name, Some(self.candidate), *candidate))
        };
        Bytes(self.watched.iter().map(both).fold(0, u64::saturating_add))
    }

    fn keeps_warm(&self) -> bool {
        self.watched.values().any(|replicas| replicas.stable > 0)
    }
}

impl Rollout {
    /// After a crash: with the [`Self::is_cold`] that was stored last.
    #[must_use]
    pub fn being_cold(self, cold: bool) -> Self {
        Self { memory: if cold { Memory::Short } else { Memory::Enough }, ..self }
    }

    /// Its watch may come with the next look, and goes by [`Self::see_memory`].
    pub fn asks_for_memory(&self) -> bool {
        match self.phase {
            Phase::Prepare | Phase::Step(_) | Phase::Promote => self.plan.keeps_warm(),
            Phase::Watch | Phase::Done => false,
            Phase::Abort(_) | Phase::RolledBack | Phase::Failed => false,
        }
    }

    /// What was seen last before the edge had taken its routes counts. Later on nothing is started because there is room again, and nothing is taken
    /// away that the release needs if it is rolled back.
    pub fn see_memory(&mut self, memory: Memory) {
        if self.asks_for_memory() {
            self.memory = memory;
        }
    }

    /// It was promoted, and nothing is kept warm beside it because memory is short: a rollback starts it anew. To be stored with
    /// the phase.
    pub fn is_cold(&self) -> bool {
        let promoted = match self.phase {
            Phase::Watch => true,
            Phase::Abort(AbortStage::Clear(step) | AbortStage::Restore(step)) => self.is_after(step),
            Phase::Prepare | Phase::Step(_) | Phase::Promote | Phase::Abort(AbortStage::Drain) => false,
            Phase::Done | Phase::RolledBack | Phase::Failed => false,
        };
        promoted && self.memory == Memory::Short && self.plan.keeps_warm()
    }
}
