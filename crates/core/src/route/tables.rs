//! Which instances may still be given requests, by the tables that edges may serve.

use std::collections::{BTreeMap, BTreeSet};

use super::Table;
use crate::id::{Generation, InstanceId};

/// Who may be given new requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Reachable {
    /// The edge serves a table that this daemon did not make: anyone.
    #[default]
    Anyone,
    Only(BTreeSet<InstanceId>),
}

impl Reachable {
    pub fn contains(&self, id: &InstanceId) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(ids) => ids.contains(id),
        }
    }
}

/// The tables sent that may still be served.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    sent: BTreeMap<Generation, BTreeSet<InstanceId>>,
    /// One of `sent` is known to be served, or was.
    known: bool,
}

impl Tables {
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called before a table is handed to the edge.
    pub fn sent(&mut self, table: &Table) {
        let endpoints = table.pools.values().flat_map(|pool| pool.endpoints.keys().cloned()).collect();
        self.sent.insert(table.generation, endpoints);
    }

    /// To be called with every `EdgeObservation::serving`. Forgets older tables.
    pub fn serving(&mut self, generation: Option<Generation>) {
        if let Some(generation) = generation.filter(|g| self.sent.contains_key(g)) {
            self.sent = self.sent.split_off(&generation);
            self.known = true;
        }
    }

    pub fn reachable(&self) -> Reachable {
        match self.known {
            true => Reachable::Only(self.sent.values().flatten().cloned().collect()),
            false => Reachable::Anyone,
        }
    }
}
