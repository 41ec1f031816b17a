//! What is done now and then beside the instances: giving back the space of what has run out, in the database and in the
//! caches, deleting finished instances, making the planner's statistics anew.
//!
//! Everything here works in small transactions, so that steps are committed in between, and ends when the engine is
//! drained. What was left undone is found again the next time.

use std::time::Duration;

use super::Engine;
use crate::clock::Timestamp;
use crate::model::Name;
use crate::store::{
    AuditBounds, Finished, FinishedBatch, FinishedCounts, FinishedPlace, StoreError,
};

const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const SWEEP_ENTRIES: u32 = 500;
/// Gives the memory back of what has run out and is not asked for again. Looking costs about a microsecond for each
/// entry of each cache.
const CACHES_INTERVAL: Duration = Duration::from_secs(60);
/// As far as a first run may be put off: a sum with the time now that is too large would be a panic.
const FIRST_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Also how often it is warned that the last operator token expires.
const OPERATORS_INTERVAL: Duration = Duration::from_secs(12 * 3_600);
const OPERATORS_NOTICE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Looking costs a statement or two.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(60);
/// Transactions of one request: a second or two of work.
const REQUEST_BATCHES: u32 = 20;

impl Engine {
    pub(super) fn spawn_housekeeping(&self) {
        self.spawn_every(SWEEP_INTERVAL, |engine| async move { engine.sweep().await });
        self.spawn_every(STATISTICS_INTERVAL, |engine| async move {
            engine.refresh_statistics().await
        });
        self.spawn_every(self.0.retention.interval, |engine| async move {
            engine.tidy_audit().await
        });
        self.spawn_every(OPERATORS_INTERVAL, |engine| async move {
            engine.watch_operators().await
        });
        self.spawn_every(CACHES_INTERVAL, |engine| async move {
            engine.tidy_caches().await
        });
        self.spawn_every(self.0.retention.interval, |engine| async move {
            engine.tidy_idempotency_keys().await
        });
        let (first, recount) = (
            self.0.quotas.recount_interval,
            self.0.quotas.recount_interval,
        );
        self.spawn_every_after(first, recount, |engine| async move {
            engine.recount_usage().await
        });
        if !self.0.retention.finished_instances.is_zero() {
            self.spawn_every(self.0.retention.interval, |engine| async move {
                engine.retain().await
            });
        }
    }

    /// Does it at once, and then again and again until the engine is drained.
    fn spawn_every<F: Future<Output = ()> + Send>(
        &self,
        interval: Duration,
        work: impl Fn(Self) -> F + Send + Sync + 'static,
    ) {
        self.spawn_every_after(Duration::ZERO, interval, work);
    }

    /// As [`Engine::spawn_every`], but waits at first.
    fn spawn_every_after<F: Future<Output = ()> + Send>(
        &self,
        first: Duration,
        interval: Duration,
        work: impl Fn(Self) -> F + Send + Sync + 'static,
    ) {
        let engine = self.clone();
        self.0.drivers.spawn(async move {
            let first = engine.0.clock.monotonic() + first.min(FIRST_MAX);
            let mut ticks = tokio::time::interval_at(first.into(), interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = engine.0.stop.cancelled() => return,
                    _ = ticks.tick() => work(engine.clone()).await,
                }
            }
        });
    }

    /// Removes storage entries that have run out. They count as gone before that; this only gives the space back.
    async fn sweep(&self) {
        loop {
            match self.0.store.delete_expired_entries(SWEEP_ENTRIES).await {
                Ok(deleted)
                    if deleted == u64::from(SWEEP_ENTRIES) && !self.0.stop.is_cancelled() => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "could not remove storage entries that have run out");
                    return;
                }
            }
        }
    }

    async fn tidy_caches(&self) {
        let store = self.0.store.clone();
        // Away from the threads of requests: with full caches it takes a few hundredths of a second.
        match tokio::task::spawn_blocking(move || store.clean_up_caches().total()).await {
            Ok(0) => {}
            Ok(entries) => tracing::debug!(entries, "removed what had run out from the caches"),
            Err(error) => tracing::warn!(%error, "could not tidy the caches"),
        }
    }

    async fn refresh_statistics(&self) {
        if let Err(error) = self.0.store.refresh_statistics().await {
            tracing::warn!(%error, "could not make the planner's statistics anew");
        }
    }

    /// Warns before the last operator token expires.
    async fn watch_operators(&self) {
        let operators = match self.0.store.operator_tokens().await {
            Ok(operators) => operators,
            Err(error) => {
                tracing::warn!(%error, "could not look when the operators' tokens expire");
                return;
            }
        };
        let hint = "make another one: `stepwell token create NAME -p operator`, with --data-dir if none is valid any more";
        match operators.last_expires_at {
            _ if operators.count == 0 => tracing::warn!("there is no valid operator token; {hint}"),
            Some(at) if at <= self.0.clock.now().after(OPERATORS_NOTICE) => {
                tracing::warn!(expires_at = %at, "the last operator token expires soon; {hint}");
            }
            _ => {}
        }
    }

    /// Deletes what `[audit]` does not keep.
    async fn tidy_audit(&self) {
        let before = self.0.clock.now().before(self.0.audit.keep);
        let bounds = AuditBounds {
            rows: self.0.audit.rows_per_team_max,
            cheap_rows: self.0.audit.cheap_rows_per_team_max,
        };
        while !self.0.stop.is_cancelled() {
            match self.0.store.delete_old_audit(before, bounds).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not delete old entries of the audit; the next run goes on");
                    return;
                }
            }
        }
    }

    /// Forgets requests that are older than `[idempotency]` says.
    async fn tidy_idempotency_keys(&self) {
        let before = self.0.clock.now().before(self.0.idempotency.keep);
        while !self.0.stop.is_cancelled() {
            match self.0.store.delete_old_idempotency_keys(before).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not forget old idempotency keys; the next run goes on");
                    return;
                }
            }
        }
    }

    /// Counts again what teams have.
    async fn recount_usage(&self) {
        match self.0.store.recount_usage().await {
            Ok(teams) => {
                for team in teams {
                    tracing::warn!(%team, "what the team has was counted wrongly, and is put right");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not count again what teams have; the next run does")
            }
        }
    }

    /// Deletes what `[retention]` does not keep.
    async fn retain(&self) {
        let before = self
            .0
            .clock
            .now()
            .before(self.0.retention.finished_instances);
        let finished = Finished { team: None, before };
        let FinishedCounts {
            instances,
            attempts,
            approvals,
            entries,
        } = match self.delete(&finished, None, u32::MAX).await {
            Ok(batch) => batch.counts,
            Err(error) => {
                tracing::warn!(%error, "could not delete finished instances; the next run goes on");
                return;
            }
        };
        tracing::info!(instances, attempts, approvals, entries, %before, "deleted finished instances");
    }

    /// Deletes instances that ended before a time, with their attempts, approvals and storage, or counts how much that
    /// would be. Does a bounded part, from `place` on; the answer says where the next part begins.
    ///
    /// # Errors
    /// The database's. What was deleted before stays deleted.
    pub async fn finished(
        &self,
        team: Option<Name>,
        before: Timestamp,
        place: Option<FinishedPlace>,
        dry_run: bool,
    ) -> Result<FinishedBatch, StoreError> {
        let finished = Finished { team, before };
        if dry_run {
            return self.count(&finished, place).await;
        }
        self.delete(&finished, place, REQUEST_BATCHES).await
    }

    async fn count(
        &self,
        finished: &Finished,
        mut place: Option<FinishedPlace>,
    ) -> Result<FinishedBatch, StoreError> {
        let mut counts = FinishedCounts::default();
        for _ in 0..REQUEST_BATCHES {
            let batch = self
                .0
                .store
                .count_finished(finished, place, self.0.retention.batch)
                .await?;
            counts += batch.counts;
            place = batch.next;
            if place.is_none() {
                break;
            }
        }
        Ok(FinishedBatch {
            counts,
            next: place,
        })
    }

    async fn delete(
        &self,
        finished: &Finished,
        mut place: Option<FinishedPlace>,
        batches: u32,
    ) -> Result<FinishedBatch, StoreError> {
        let mut counts = FinishedCounts::default();
        for _ in 0..batches {
            let measurement = self.0.monitor.measure(None, "delete_finished_instances");
            let batch = self
                .0
                .store
                .delete_finished(finished, place, self.0.retention.batch)
                .await?;
            measurement.succeed();
            self.0
                .monitor
                .record_instances_deleted(finished.team.as_ref(), batch.counts.instances);
            counts += batch.counts;
            place = batch.next;
            if place.is_none() || self.0.stop.is_cancelled() {
                break;
            }
        }
        Ok(FinishedBatch {
            counts,
            next: place,
        })
    }
}
