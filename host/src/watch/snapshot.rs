//! The present in one small document: what a live view shows at a glance. The whole is at `/workflow-metrics/stats`.

use serde_json::{Value, json};

use super::Watch;
use crate::model::Name;

impl Watch {
    /// The numbers of this moment, as `team` may see them; without a team, all. Counters are those since the start.
    pub(super) fn snapshot(&self, team: Option<&Name>) -> Value {
        let parts = &self.0.parts;
        let stats = parts.monitor.stats(team);
        let caches: Vec<_> = parts
            .store
            .cache_stats()
            .into_iter()
            .map(|cache| json!({ "kind": cache.kind, "hit_rate": cache.hit_rate, "entries": cache.entries }))
            .collect();
        json!({
            "at": parts.clock.now(),
            "uptime_seconds": stats.uptime_seconds,
            "operations": stats.operations,
            "lifecycle": stats.lifecycle,
            "approvals": stats.approvals,
            "batches": stats.batches,
            "caches": caches,
            "queue_depth": parts.store.commit_stats().queue,
            "running": parts.engine.driven(),
        })
    }
}
