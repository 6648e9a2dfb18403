//! What the machine bears.

use super::{Bound, Policy};
use crate::app::Limits;
use crate::units::{Bytes, MilliCpu};

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    pub memory: Bytes,
    pub cores: u32,
}

/// What everything else on it is given or uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    pub memory: Bytes,
    /// Of limits only: what has none takes what is left.
    pub cores: MilliCpu,
}

/// How many instances of one service the machine bears. `None`: nothing is known that would bound them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    pub memory: Option<u16>,
    pub cores: Option<u16>,
}

impl Room {
    /// An instance takes its limit; of memory without one, as much as the largest of them was `seen` to use. One always has
    /// room, as one that is not scaled has.
    pub fn of(machine: Machine, taken: Taken, limits: Limits, seen: Bytes) -> Self {
        let each = limits.memory.unwrap_or(seen);
        let memory = fits(machine.memory.0.saturating_sub(taken.memory.0), each.0);
        let cores = u64::from(machine.cores).saturating_mul(1000).saturating_sub(taken.cores.0.into());
        Self { memory, cores: limits.cpu.and_then(|each| fits(cores, each.0.into())) }
    }

    /// At most so many, and what says so.
    pub(super) fn bounds(self, policy: &Policy) -> (u16, Bound) {
        let all = [(Some(policy.max), Bound::Max), (self.memory, Bound::Memory), (self.cores, Bound::Cores)];
        let least = all.into_iter().filter_map(|(most, bound)| Some((most?, bound))).min_by_key(|(most, _)| *most);
        let (most, bound) = least.unwrap_or((policy.max, Bound::Max));
        // What the file wants at least is not taken away, here as little as without autoscaling.
        (most.max(policy.min), bound)
    }
}

fn fits(room: u64, each: u64) -> Option<u16> {
    Some(u16::try_from(room.checked_div(each)?.max(1)).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_left_out_and_what_is_unknown_bounds_nothing() {
        let machine = Machine { memory: Bytes(1000), cores: 4 };
        let taken = Taken { memory: Bytes(200), cores: MilliCpu(1000) };
        let limits =
            |memory: Option<u64>, cpu: Option<u32>| Limits { memory: memory.map(Bytes), cpu: cpu.map(MilliCpu) };
        let of = |limits, seen| {
            let Room { memory, cores } = Room::of(machine, taken, limits, Bytes(seen));
            (memory, cores)
        };
        assert_eq!(of(limits(Some(100), Some(500)), 400), (Some(8), Some(6)));
        assert_eq!(of(limits(None, None), 300), (Some(2), None));
        assert_eq!(of(limits(None, None), 0), (None, None));
        assert_eq!(of(limits(Some(9000), Some(8000)), 0), (Some(1), Some(1)), "one always has room");
    }
}
