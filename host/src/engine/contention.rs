//! Storage entries that many steps want to write at the same time.
//!
//! Guards are optimistic: of the steps that read the same version of an entry, one commits and the others run again. With
//! many writers that is a waste, and chance decides who ever gets through. So after a few conflicts the writers of an
//! entry take turns: a driver holds its turn from before the attempt until its commit. Turns are this host's alone;
//! between hosts, and towards writers that have met no conflict yet, guards decide as before.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::Engine;
use super::driver::Verdict;
use crate::fair_queue::{FairLimits, FairPermit, FairQueue};
use crate::model::{EntryKey, Failure, Name};
use crate::store::Conflict;

/// A first in, first out lock for each entry.
pub(super) type Turns = FairQueue<(Name, EntryKey)>;

/// A lock for each entry that has a writer who takes turns; no entry has a limit but its own.
pub(super) fn turns() -> Turns {
    FairQueue::new(FairLimits {
        total: usize::MAX,
        per_key: 1,
        reserve: 0,
    })
}

/// The conflicts of a driver since its last commit.
#[derive(Default)]
pub(super) struct Contention {
    /// How many in a row.
    pub(super) conflicts: u32,
    /// A failure to record instead of running the next attempt, after too many conflicts.
    pub(super) verdict: Option<Verdict>,
    /// The entries to take turns at. At most as many as there were conflicts.
    entries: BTreeSet<EntryKey>,
    /// One for each of the entries, once they are taken.
    held: Vec<FairPermit<(Name, EntryKey)>>,
    /// For an instance that was being driven in a crash: few of those are driven at the same time.
    pub(super) suspect: Option<FairPermit<Name>>,
    /// Ends the instance when it is loaded again, because the database refuses what should happen to it.
    pub(super) refused: Option<Failure>,
}

impl Contention {
    /// After a commit: others may write the entries.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

impl Engine {
    /// Notes a conflict. Returns whether the step may run again before its retry policy is asked.
    pub(super) fn note_conflict(
        &self,
        team: &Name,
        contention: &mut Contention,
        conflict: &Conflict,
    ) -> bool {
        contention.conflicts += 1;
        if let Conflict::Entry(entry) = conflict {
            let contended = self.0.turns.load_of(&(team.clone(), entry.clone())).keys > 0;
            if contended || contention.conflicts >= self.0.config.conflict_turns_after {
                contention.entries.insert(entry.clone());
            }
        }
        contention.conflicts <= self.0.config.conflict_retries_max
    }

    /// Lets others go first after a conflict: by turns at the entries that are contended, or by chance. Returns false if
    /// the waiting room is full: the instance stays due.
    pub(super) async fn give_way(
        &self,
        team: &Name,
        id: Uuid,
        contention: &mut Contention,
    ) -> bool {
        if contention.held.len() == contention.entries.len() {
            self.back_off(contention.conflicts).await;
            return true;
        }
        // In the order of the keys, and all anew, so that two drivers never wait for each other.
        contention.held.clear();
        let keys: Vec<_> = contention
            .entries
            .iter()
            .map(|entry| (team.clone(), entry.clone()))
            .collect();
        let mut waiting = None;
        for key in &keys {
            if let Some(turn) = self.0.turns.try_acquire(key) {
                contention.held.push(turn);
                continue;
            }
            if waiting.is_none() {
                waiting = self.wait(team, id);
                if waiting.is_none() {
                    contention.held.clear();
                    return false;
                }
            }
            tokio::select! {
                turn = self.0.turns.acquire(key) => contention.held.push(turn),
                () = self.0.stop.cancelled() => return true,
            }
        }
        true
    }

    /// Lets others go first, for longer and longer. Without chance, two that collided would collide again.
    async fn back_off(&self, conflicts: u32) {
        let most = 1_u64 << conflicts.min(6);
        tokio::time::sleep(Duration::from_micros(most * 500).mul_f64(1.0 - chance())).await;
    }
}

/// A number from 0 to less than 1. Without randomness it is 0.
pub(super) fn chance() -> f64 {
    let mut random = [0; 1];
    let _ = getrandom::fill(&mut random);
    let [byte] = random;
    f64::from(byte) / 256.0
}
