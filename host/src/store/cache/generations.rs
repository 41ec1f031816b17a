//! Invalidation of lists by generation: a number for each team and kind of list that every write
//! increments.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Name;

/// The number of counters. Teams may share a counter, which only invalidates a list too early.
const SLOTS: usize = 1_024;

/// The kind of rows in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) enum ListKind {
    Workflows,
    Instances,
    Approvals,
}

/// The generation numbers. A write increments one number, however many lists it invalidates.
pub(in crate::store) struct Generations {
    slots: Vec<AtomicU64>,
    hasher: RandomState,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Generations {
    /// Returns the current generation. Call this function before reading the database.
    pub(in crate::store) fn of(&self, team: &Name, kind: ListKind) -> u64 {
        self.slot(team, kind).load(Ordering::SeqCst)
    }

    /// Starts a new generation. Call this function after COMMIT and before the writer gets its
    /// result.
    pub(in crate::store) fn bump(&self, team: &Name, kind: ListKind) {
        self.slot(team, kind).fetch_add(1, Ordering::SeqCst);
    }

    fn slot(&self, team: &Name, kind: ListKind) -> &AtomicU64 {
        let hash = self.hasher.hash_one((team, kind));
        let slot = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        self.slots.get(slot).expect("there are SLOTS slots")
    }
}
