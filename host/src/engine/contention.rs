//! Turns for storage entries that many steps want to write at the same time.
//!
//! Guards are optimistic: of the steps that read the same version of an entry, one commits and the
//! others run again. With many writers most runs are wasted, and chance decides which writer
//! commits. So after a few conflicts the writers of an entry take turns: a step has its turn from
//! before the attempt until its commit. Turns are local to this host. Between hosts, and
//! against writers that have had no conflict yet, guards still decide.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Core;
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

/// The conflicts of a step since its last commit.
#[derive(Default)]
pub(super) struct Contention {
    /// Number of conflicts in a row.
    pub(super) conflicts: u32,
    /// A failure to record for the attempt with this number instead of running it.
    pub(super) forced: Option<(u32, Failure)>,
    /// The entries to take turns at. At most as many as there were conflicts.
    entries: BTreeSet<EntryKey>,
    /// The turns held, one for each of `entries`.
    held: Vec<FairPermit<(Name, EntryKey)>>,
}

impl Core {
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

    /// Waits after a conflict: for turns at contended entries, otherwise for a random time.
    pub(super) async fn give_way(&self, team: &Name, contention: &mut Contention) {
        if contention.held.len() == contention.entries.len() {
            return self.back_off(contention.conflicts).await;
        }
        // All turns are released and then taken in the order of the keys, so that two drivers never
        // wait for each other.
        contention.held.clear();
        for entry in &contention.entries {
            let turn = self.0.turns.acquire(&(team.clone(), entry.clone())).await;
            contention.held.push(turn);
        }
    }

    /// Sleeps for a random time of up to 32 ms, longer after each conflict. Randomness keeps two
    /// drivers from colliding again.
    pub(super) async fn back_off(&self, conflicts: u32) {
        let most = 1_u64 << conflicts.min(6);
        let chance = self.0.random.chance();
        let pause = Duration::from_micros(most * 500).mul_f64(1.0 - chance);
        self.0.clock.sleep(pause).await;
    }
}
