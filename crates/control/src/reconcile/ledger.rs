//! What everything on the machine is given, uses, or is to have: what is left of it bounds what scales, and what is kept warm.

use std::collections::BTreeMap;

use bowline_core::app::Limits;
use bowline_core::id::{AppKey, ReleaseNumber, ServiceName};
use bowline_core::instance::Phase;
use bowline_core::rollout::{Memory, Plan};
use bowline_core::scale::{Machine, Room, Taken};
use bowline_core::units::{Bytes, MilliCpu};

use super::Loop;

/// One service of one release: beside it, another release of the same service takes room like anybody else.
type Owner = (AppKey, ServiceName, ReleaseNumber);

#[derive(Debug)]
pub(crate) struct Ledger {
    machine: Machine,
    /// Of all servers.
    servers: Bytes,
    entries: BTreeMap<Owner, Entry>,
}

/// The instances of one owner.
#[derive(Debug, Default)]
struct Entry {
    limits: Limits,
    /// That are there.
    count: u16,
    /// That are to be.
    wanted: u16,
    /// What those that are there are given, or use.
    memory: Bytes,
    /// What the largest of them uses.
    seen: Bytes,
}

impl Entry {
    /// What is to be there is counted before it is: whoever comes next would be given the same room.
    fn taken(&self) -> Taken {
        let each = self.limits.memory.unwrap_or(self.seen);
        let missing = u64::from(self.wanted.saturating_sub(self.count));
        let cores = self.limits.cpu.unwrap_or(MilliCpu(0)).0.saturating_mul(self.wanted.max(self.count).into());
        let memory = self.memory.0.saturating_add(missing.saturating_mul(each.0));
        Taken { memory: Bytes(memory), cores: MilliCpu(cores) }
    }
}

impl Ledger {
    /// Another number of instances was decided.
    pub(crate) fn book(&mut self, owner: &Owner, wanted: u16) {
        if let Some(entry) = self.entries.get_mut(owner) {
            entry.wanted = wanted;
        }
    }

    /// For how many instances there is room.
    pub(crate) fn room(&self, owner: &Owner, limits: Limits) -> Room {
        let mut taken = Taken { memory: self.servers, cores: MilliCpu(0) };
        for other in self.entries.iter().filter(|(other, _)| *other != owner).map(|(_, entry)| entry.taken()) {
            taken.memory.0 = taken.memory.0.saturating_add(other.memory.0);
            taken.cores.0 = taken.cores.0.saturating_add(other.cores.0);
        }
        let seen = self.entries.get(owner).map(|entry| entry.seen).unwrap_or_default();
        Room::of(self.machine, taken, limits, seen)
    }

    /// Whether there is memory for a promoted release and for what is kept warm beside it. An instance without a limit takes as much
    /// as the largest of either release uses: what has everything now will use what the one before has used.
    pub(crate) fn memory_for(&self, key: &AppKey, plan: &Plan) -> Memory {
        let others = self.entries.iter().filter(|((of, ..), _)| of != key).map(|(_, entry)| entry.taken().memory.0);
        let taken = others.fold(self.servers.0, u64::saturating_add);
        let seen = |name: &ServiceName| {
            let own = self.entries.iter().filter(|((of, service, _), _)| of == key && service == name);
            own.map(|(_, entry)| entry.seen).max().unwrap_or_default()
        };
        let each = |name: &ServiceName, release: ReleaseNumber| {
            let entry = self.entries.get(&(key.clone(), name.clone(), release));
            entry.and_then(|entry| entry.limits.memory).unwrap_or_else(|| seen(name))
        };
        Memory::of(self.machine, Bytes(taken), plan.memory_of_both(each))
    }
}

impl Loop {
    pub(crate) fn ledger(&self) -> Ledger {
        let servers = Bytes(self.node.resources.values().map(|seen| seen.usage.memory.0).sum());
        let mut entries: BTreeMap<Owner, Entry> = BTreeMap::new();
        let limits_of = |(key, service, release): &Owner| {
            let found = self.apps.get(key).and_then(|app| app.release(*release));
            let service = found.and_then(|(release, _)| release.app().services.get(service));
            service.map(|service| service.limits).unwrap_or_default()
        };
        let new = |owner: &Owner| Entry { limits: limits_of(owner), ..Entry::default() };
        for (id, seen) in &self.node.instances {
            let uses = match seen.phase {
                Phase::Preparing(_) | Phase::Starting | Phase::Running { .. } | Phase::Stopping { .. } => {
                    seen.usage.memory
                }
                Phase::Exited(_) | Phase::Refused(_) => continue,
            };
            let owner = (id.slot.key.clone(), id.slot.service.clone(), id.slot.release);
            let entry = entries.entry(owner).or_insert_with_key(new);
            entry.count = entry.count.saturating_add(1);
            entry.memory.0 = entry.memory.0.saturating_add(entry.limits.memory.unwrap_or(uses).0);
            entry.seen = entry.seen.max(uses);
        }
        for (key, app) in &self.apps {
            for set in &app.sets {
                let owner = (key.clone(), set.service.clone(), set.release);
                let entry = entries.entry(owner).or_insert_with_key(new);
                entry.wanted = entry.wanted.saturating_add(set.replicas);
            }
        }
        Ledger { machine: self.place.machine, servers, entries }
    }
}
