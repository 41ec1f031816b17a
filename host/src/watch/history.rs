//! Writes the monitor's numbers into the history and deletes what is too old.
//!
//! What surprises: what could not be written is not lost and not written twice. It stays in [`Unwritten`] and is a part
//! of the next write, which replaces what the failed one may have written after all.

use std::collections::HashMap;

use super::WatchParts;
use super::unwritten::{Unwritten, counted};
use crate::clock::Timestamp;
use crate::store::{Counted, HistoryStep, Series, SeriesKind, StoreError};

/// Transactions of one tick that delete: what is more is left for the next.
const DELETIONS_MAX: u32 = 20;

/// What the history remembers from one tick to the next.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    unwritten: Unwritten,
    /// What counters that are not the monitor's showed the last time.
    seen: HashMap<String, u64>,
    /// When it was last looked for what is too old.
    tidied: Option<Timestamp>,
}

impl Recorder {
    /// Takes what was counted since the last call, and writes all that is to be written.
    pub(super) async fn tick(&mut self, parts: &WatchParts) {
        let interval = parts.monitor.drain();
        let (at, now) = (interval.from, interval.to);
        let host = self.of_the_store(parts);
        self.unwritten.count(at, counted(interval).chain(host));
        let written = self.write(parts).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "could not write the history; the next tick writes it too");
        }
        // Not the present: the next interval begins where this one ends, in a step that may be over by now.
        let given_up = self.unwritten.forget(now, parts.history.unwritten_max);
        if given_up > 0 {
            tracing::warn!(
                given_up,
                "the history has too many points that could not be written, and loses some"
            );
        }
        if written.is_ok() {
            self.tidy(parts).await;
        }
    }

    async fn write(&mut self, parts: &WatchParts) -> Result<(), StoreError> {
        for place in self.unwritten.unread() {
            let own = parts.store.own_history(place.0, place.1).await?;
            self.unwritten.read(place, own);
        }
        loop {
            let points = self.unwritten.changed();
            if points.is_empty() {
                return Ok(());
            }
            let batch = parts.history.batch as usize;
            let (written, result) = parts.store.write_history(points, batch).await;
            self.unwritten.settle(written);
            match result {
                // A value that the database cannot hold would be in the way for ever.
                Err(error @ StoreError::Value(_)) => {
                    tracing::error!(%error, "gives up points of the history that the database refuses");
                    self.unwritten.settle(batch);
                }
                result => return result,
            }
        }
    }

    /// What the store and the engine know themselves: counters as what was added since the last tick, and gauges.
    fn of_the_store(&mut self, parts: &WatchParts) -> Vec<(Series, Counted)> {
        let mut counted = Vec::new();
        let series = |kind, name| Series {
            team: None,
            kind,
            name,
        };
        let commits = parts.store.commit_stats();
        let mut counters = vec![
            ("commits".to_owned(), commits.commits),
            ("commit_groups".to_owned(), commits.groups),
            ("commit_conflicts".to_owned(), commits.conflicts),
        ];
        let engine = parts.engine.gauges();
        let mut gauges = vec![
            ("queue_depth".to_owned(), engine.attempts_waiting as u64),
            ("running".to_owned(), engine.attempts_running as u64),
            (
                "active_instances".to_owned(),
                engine.active_instances as u64,
            ),
            ("commit_queue".to_owned(), commits.queue),
        ];
        for cache in parts.store.cache_stats() {
            counters.push((format!("cache_hits{{{}}}", cache.kind), cache.hits));
            counters.push((format!("cache_misses{{{}}}", cache.kind), cache.misses));
            gauges.push((format!("cache_entries{{{}}}", cache.kind), cache.entries));
        }
        for (name, now) in counters {
            let before = self.seen.insert(name.clone(), now).unwrap_or(0);
            if now > before {
                counted.push((
                    series(SeriesKind::Counter, name),
                    Counted::Events(now - before),
                ));
            }
        }
        for (name, now) in gauges {
            counted.push((
                series(SeriesKind::Gauge, name),
                Counted::Level {
                    sum: now,
                    samples: 1,
                },
            ));
        }
        counted
    }

    /// Deletes what is too old, at most once a minute.
    async fn tidy(&mut self, parts: &WatchParts) {
        let now = parts.clock.now();
        let minute = HistoryStep::Minute.begin(now);
        if self.tidied == Some(minute) {
            return;
        }
        self.tidied = Some(minute);
        if let Err(error) = tidy(parts, now).await {
            tracing::warn!(%error, "could not delete old points of the history; the next run goes on");
        }
    }
}

async fn tidy(parts: &WatchParts, now: Timestamp) -> Result<(), StoreError> {
    let mut deletions = 0;
    for step in HistoryStep::ALL {
        let before = now.before(parts.history.keep(step.seconds()));
        while deletions < DELETIONS_MAX {
            deletions += 1;
            let batch = parts.history.batch;
            if parts.store.delete_history(step, before, batch).await? < u64::from(batch) {
                break;
            }
        }
    }
    if HistoryStep::Hour.begin(now) == HistoryStep::Minute.begin(now) {
        parts.store.delete_empty_series().await?;
    }
    Ok(())
}
