//! Turns for storage entries that many steps want to write at the same time.
//!
//! Guards are optimistic: of the steps that read the same version of an entry, one commits and the
//! others run again. With many writers most runs are wasted, and chance decides which writer
//! commits. So after a few conflicts the writers of an entry take turns: a driver holds its turn
//! from before the attempt until its commit. Turns are local to this host. Between hosts, and
//! against writers that have had no conflict yet, guards still decide.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::Engine;
use super::driver::ForcedFailure;
use crate::fair_queue::{FairLimits, FairPermit, FairQueue};
use crate::model::{EntryKey, Failure, Name};
use crate::store::Conflict;

/// A first in, first out lock for each entry.
pub(super) type Turns = FairQueue<(Name, EntryKey)>;

/// Creates the locks. Each entry has one permit, and the total is unlimited.
pub(super) fn turns() -> Turns {
    FairQueue::new(FairLimits {
        total: usize::MAX,
        per_key: 1,
        reserve: 0,
    })
}

/// A driver's conflicts since its last commit.
#[derive(Default)]
pub(super) struct Contention {
    /// Number of conflicts in a row.
    pub(super) conflicts: u32,
    /// A failure to record instead of running the next attempt, after too many conflicts.
    pub(super) forced_failure: Option<ForcedFailure>,
    /// The entries to take turns at. At most as many as there were conflicts.
    entries: BTreeSet<EntryKey>,
    /// The turns held, one for each of `entries`.
    held: Vec<FairPermit<(Name, EntryKey)>>,
    /// A permit for an instance that was being driven in a crash. Few such instances run at the
    /// same time.
    pub(super) suspect: Option<FairPermit<Name>>,
    /// A refusal by the database that ends the instance when it is loaded again.
    pub(super) refused: Option<Failure>,
}

impl Contention {
    /// Forgets the conflicts and releases the turns, after a commit.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

impl Engine {
    /// Records a conflict. Returns true if the step may run again without asking its retry policy.
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

    /// Waits after a conflict: for turns at contended entries, otherwise for a random time. Returns
    /// false if the waiting room is full; the instance then stays due.
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
        // All turns are released and then taken in the order of the keys, so that two drivers never
        // wait for each other.
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

    /// Sleeps for a random time of up to 32 ms, longer after each conflict. Randomness keeps two
    /// drivers from colliding again.
    async fn back_off(&self, conflicts: u32) {
        let most = 1_u64 << conflicts.min(6);
        tokio::time::sleep(Duration::from_micros(most * 500).mul_f64(1.0 - chance())).await;
    }
}

/// Returns a random number from 0 to less than 1; always 0 if the system has no randomness.
pub(super) fn chance() -> f64 {
    let mut random = [0; 1];
    let _ = getrandom::fill(&mut random);
    let [byte] = random;
    f64::from(byte) / 256.0
}
