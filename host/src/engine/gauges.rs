//! The engine's load at this moment.

use serde::Serialize;

use super::Engine;

/// Current load of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EngineGauges {
    /// Instances whose drivers hold an active slot.
    pub active_instances: usize,
    /// `engine.active_instances_max`
    pub active_instances_max: usize,
    /// Attempts that have a place.
    pub attempts_running: usize,
    /// `runtime.attempts_max`
    pub attempts_max: usize,
    /// Attempts that wait for a place, their team's or a common one. Their drivers hold no slot.
    pub attempts_waiting: usize,
    /// Running chunks of clients' batches.
    pub batch_chunks_running: usize,
    /// Chunks of clients' batches that wait for one of the `batch.concurrency` places.
    pub batch_chunks_waiting: usize,
    /// Bytes of driven instances. Instances smaller than 64 KiB are not counted.
    pub in_hand_bytes: u64,
    /// Storage entries whose writers take turns.
    pub contended_entries: usize,
    /// Instances that wait for their turn to write an entry. Their drivers hold no slot.
    pub turns_waiting: usize,
}

impl Engine {
    /// Returns the current load. Each number is read at its own moment.
    pub fn gauges(&self) -> EngineGauges {
        let (active_instances, active_instances_max) = self.0.active.count();
        let (attempts_running, attempts_max, attempts_waiting) = self.0.admission.count();
        let (batch_chunks_running, batch_chunks_waiting) = self.0.chunks.load();
        let turns = self.0.turns.load();
        EngineGauges {
            active_instances,
            active_instances_max,
            attempts_running,
            attempts_max,
            attempts_waiting,
            batch_chunks_running,
            batch_chunks_waiting,
            in_hand_bytes: self.0.in_hand.stats().bytes,
            contended_entries: turns.keys,
            turns_waiting: turns.waiting,
        }
    }
}
