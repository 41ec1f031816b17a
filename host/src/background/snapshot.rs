//! A small document about the present for live views. All numbers are at `/workflow-metrics/stats`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::BackgroundTasks;
use crate::model::Name;
use crate::monitor::{BatchStats, SummaryContext, Window};

impl BackgroundTasks {
    /// Returns the last minute as the team may see it; without a team, the sum over all teams. Must
    /// not be called on a thread that serves requests, because it sums the windows of all
    /// operations.
    pub(super) fn snapshot(&self, team: Option<&Name>) -> Value {
        let parts = &self.0.parts;
        let context = SummaryContext {
            healthy: true,
            cache_hit_rate: None,
            alerts_firing: None,
        };
        let summary = parts.monitor.summary(team, Window::Minute, context);
        let caches: Vec<_> = parts
            .store
            .cache_stats()
            .into_iter()
            .map(|cache| {
                json!({
                    "kind": cache.kind,
                    "hit_rate": cache.hit_rate,
                    "hits": cache.hits,
                    "misses": cache.misses,
                    "entries": cache.entries,
                })
            })
            .collect();
        let engine = parts.engine.gauges();
        json!({
            "at": parts.clock.now(),
            "window": Window::Minute,
            "uptime_seconds": summary.uptime_seconds,
            "operations": summary.operations,
            "lifecycle": summary.lifecycle,
            "approvals": summary.approvals,
            "slowest": summary.slowest,
            "most_errors": summary.most_errors,
            "batches": batches(&parts.monitor.batches(team, Window::Minute)),
            "caches": caches,
            "queue_depth": engine.attempts_waiting,
            "running": engine.attempts_running,
            "active_instances": engine.active_instances,
            "commit_queue": parts.store.commit_stats().queue,
        })
    }
}

/// Sums all bulk calls of a minute.
fn batches(batches: &BTreeMap<String, BatchStats>) -> Value {
    let sum = |of: fn(&BatchStats) -> u64| batches.values().map(of).fold(0, u64::saturating_add);
    let (calls, items) = (sum(|batch| batch.calls), sum(|batch| batch.items));
    json!({
        "calls": calls,
        "items_per_minute": items,
        "avg_items": if calls > 0 { items as f64 / calls as f64 } else { 0.0 },
    })
}
