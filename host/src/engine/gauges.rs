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
    /// Attempts that have a place for more than 8 MiB of memory.
    pub large_attempts_running: usize,
    /// `runtime.large_attempts_max`
    pub large_attempts_max: usize,
    /// Attempts that wait for such a place. They run and hold a place of the pool.
    pub large_attempts_waiting: usize,
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

impl EngineGauges {
    /// Returns name, help and value of each gauge, for Prometheus.
    pub fn families(self) -> [(&'static str, &'static str, u64); 13] {
        let Self {
            active_instances,
            active_instances_max,
            attempts_running,
            attempts_max,
            attempts_waiting,
            large_attempts_running,
            large_attempts_max,
            large_attempts_waiting,
            batch_chunks_running,
            batch_chunks_waiting,
            in_hand_bytes,
            contended_entries,
            turns_waiting,
        } = self;
        [
            (
                "stepwell_instances_active",
                "Workflow instances that are driven now.",
                active_instances as u64,
            ),
            (
                "stepwell_instances_active_limit",
                "Most that may: engine.active_instances_max.",
                active_instances_max as u64,
            ),
            (
                "stepwell_attempts_running",
                "Attempts of steps that run now: places of the pool in use.",
                attempts_running as u64,
            ),
            (
                "stepwell_attempts_limit",
                "Places of the pool: runtime.attempts_max.",
                attempts_max as u64,
            ),
            (
                "stepwell_attempts_waiting",
                "Attempts of steps that wait for a place: the queue.",
                attempts_waiting as u64,
            ),
            (
                "stepwell_large_attempts_running",
                "Attempts of steps that have a place for more than 8 MiB of memory.",
                large_attempts_running as u64,
            ),
            (
                "stepwell_large_attempts_limit",
                "Such places: runtime.large_attempts_max.",
                large_attempts_max as u64,
            ),
            (
                "stepwell_large_attempts_waiting",
                "Attempts of steps that wait for such a place.",
                large_attempts_waiting as u64,
            ),
            (
                "stepwell_batch_chunks_running",
                "Chunks of clients' batches that are worked on.",
                batch_chunks_running as u64,
            ),
            (
                "stepwell_batch_chunks_waiting",
                "Chunks that wait: batch.concurrency.",
                batch_chunks_waiting as u64,
            ),
            (
                "stepwell_instances_in_hand_bytes",
                "Bytes of the inputs and outputs of instances that are driven: engine.in_hand_bytes_max.",
                in_hand_bytes,
            ),
            (
                "stepwell_contended_entries",
                "Storage entries whose writers take turns.",
                contended_entries as u64,
            ),
            (
                "stepwell_turns_waiting",
                "Instances that wait for their turn to write such an entry.",
                turns_waiting as u64,
            ),
        ]
    }
}

impl Engine {
    /// Returns the current load. Each number is read at its own moment.
    pub fn gauges(&self) -> EngineGauges {
        let core = self.core();
        let (active_instances, active_instances_max) = core.active.count();
        let (attempts_running, attempts_max, attempts_waiting) = core.admission.count();
        let (large_attempts_running, large_attempts_max, large_attempts_waiting) =
            self.0.runtime.large_attempts();
        let (batch_chunks_running, batch_chunks_waiting) = self.0.chunks.load();
        let turns = core.turns.load();
        EngineGauges {
            active_instances,
            active_instances_max,
            attempts_running,
            attempts_max,
            attempts_waiting,
            large_attempts_running,
            large_attempts_max,
            large_attempts_waiting,
            batch_chunks_running,
            batch_chunks_waiting,
            in_hand_bytes: core.in_hand.stats().bytes,
            contended_entries: turns.keys,
            turns_waiting: turns.waiting,
        }
    }
}
