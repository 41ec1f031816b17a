//! When lists are out of date: a number for each team and noun, which every write counts up.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Name;

/// Teams share a number now and then, which costs a list that would still have been good.
const SLOTS: usize = 1_024;

/// What lists are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) enum Noun {
    Workflows,
    Instances,
    Approvals,
}

/// The numbers. A write adds one to one of them, whatever the number of lists that are out of date by it.
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
    /// To be read before the database is.
    pub(in crate::store) fn of(&self, team: &Name, noun: Noun) -> u64 {
        self.slot(team, noun).load(Ordering::SeqCst)
    }

    /// To be called after the database was written and before the writer is answered.
    pub(in crate::store) fn end(&self, team: &Name, noun: Noun) {
        self.slot(team, noun).fetch_add(1, Ordering::SeqCst);
    }

    fn slot(&self, team: &Name, noun: Noun) -> &AtomicU64 {
        let hash = self.hasher.hash_one((team, noun));
        let slot = usize::try_from(hash % SLOTS as u64).unwrap_or(0);
        self.slots.get(slot).expect("there are SLOTS slots")
    }
}
