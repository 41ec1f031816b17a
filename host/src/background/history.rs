//! Writes the monitor's numbers into the history and deletes old points.
//!
//! A failed write loses no numbers and writes none twice. They stay in [`HistoryBuffer`] and are
//! part of the next write, which replaces what the failed write may have stored after all.

use std::collections::HashMap;

use super::BackgroundParts;
use super::history_buffer::{HistoryBuffer, counted};
use crate::clock::Timestamp;
use crate::store::{HistoryStep, Series, SeriesCounts, SeriesKind, StoreError};

/// Maximum number of deleting transactions in one tick. The next ticks delete the rest.
const DELETIONS_MAX: u32 = 20;

/// State of the history that is kept from one tick to the next.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    buffer: HistoryBuffer,
    /// The last values of counters that the store keeps.
    seen: HashMap<String, u64>,
    /// The minute of the last deletion of old points.
    tidied: Option<Timestamp>,
}

impl Recorder {
    /// Takes the numbers recorded since the last call, and writes all unwritten points.
    pub(super) async fn tick(&mut self, parts: &BackgroundParts) {
        let interval = parts.monitor.drain();
        let (at, now) = (interval.from, interval.to);
        let host = self.of_the_store(parts);
        self.buffer.count(at, counted(interval).chain(host));
        let written = self.write(parts).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "could not write the history; the next tick writes it too");
        }
        // `now` is the end of the interval, not the present: the next interval begins there, in a
        // step that may be over by the present.
        let given_up = self.buffer.forget(now, parts.history.unwritten_max);
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

    async fn write(&mut self, parts: &BackgroundParts) -> Result<(), StoreError> {
        for place in self.buffer.unread() {
            let own = parts.store.own_history(place.0, place.1).await?;
            self.buffer.read(place, own);
        }
        loop {
            let points = self.buffer.changed();
            if points.is_empty() {
                return Ok(());
            }
            let batch = parts.history.batch as usize;
            let (written, result) = parts.store.write_history(points, batch).await;
            self.buffer.settle(written);
            match result {
                // A value that the database cannot store would block all later writes.
                Err(error @ StoreError::Value(_)) => {
                    tracing::error!(%error, "gives up points of the history that the database refuses");
                    self.buffer.settle(batch);
                }
                result => return result,
            }
        }
    }

    /// Returns the numbers of the store and the engine: counters as the increase since the last
    /// tick, and gauges.
    fn of_the_store(&mut self, parts: &BackgroundParts) -> Vec<(Series, SeriesCounts)> {
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
                    SeriesCounts::Events(now - before),
                ));
            }
        }
        for (name, now) in gauges {
            counted.push((
                series(SeriesKind::Gauge, name),
                SeriesCounts::Level {
                    sum: now,
                    samples: 1,
                },
            ));
        }
        counted
    }

    /// Deletes old points, at most once a minute.
    async fn tidy(&mut self, parts: &BackgroundParts) {
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

async fn tidy(parts: &BackgroundParts, now: Timestamp) -> Result<(), StoreError> {
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
