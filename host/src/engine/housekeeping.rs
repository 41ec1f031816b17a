//! Periodic work beside the instances: frees expired entries in the database and the caches,
//! deletes finished instances, and refreshes the query planner's statistics.
//!
//! All work runs in small transactions, so that steps can commit in between, and stops when the
//! engine drains. The next run does what was left undone.

use std::time::Duration;

use super::Engine;
use crate::clock::Timestamp;
use crate::model::Name;
use crate::store::{
    AuditBounds, Finished, FinishedBatch, FinishedCounts, FinishedPlace, StoreError,
};

const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const SWEEP_ENTRIES: u32 = 500;
/// Removes expired entries that are not read any more from memory. A scan costs about a microsecond
/// for each entry of each cache.
const CACHES_INTERVAL: Duration = Duration::from_secs(60);
/// Longest delay of a first run. A larger value could overflow when added to the current time,
/// which would panic.
const FIRST_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Also the interval of the warning that the last operator token expires.
const OPERATORS_INTERVAL: Duration = Duration::from_secs(12 * 3_600);
const OPERATORS_NOTICE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// A check costs a statement or two.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(60);
/// Most transactions of one request: a second or two of work.
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
        if !self.0.retention.logs.is_zero() {
            self.spawn_every(self.0.retention.interval, |engine| async move {
                engine.tidy_logs().await
            });
        }
        if !self.0.retention.finished_instances.is_zero() {
            self.spawn_every(self.0.retention.interval, |engine| async move {
                engine.retain().await
            });
        }
    }

    /// Runs `work` at once, and then at every interval until the engine drains.
    fn spawn_every<F: Future<Output = ()> + Send>(
        &self,
        interval: Duration,
        work: impl Fn(Self) -> F + Send + Sync + 'static,
    ) {
        self.spawn_every_after(Duration::ZERO, interval, work);
    }

    /// Runs `work` like [`Engine::spawn_every`], but first waits for `first`.
    fn spawn_every_after<F: Future<Output = ()> + Send>(
        &self,
        first: Duration,
        interval: Duration,
        work: impl Fn(Self) -> F + Send + Sync + 'static,
    ) {
        let engine = self.clone();
        self.core().drivers.spawn(async move {
            let first = engine.core().clock.monotonic() + first.min(FIRST_MAX);
            let mut ticks = tokio::time::interval_at(first.into(), interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = engine.core().stop.cancelled() => return,
                    _ = ticks.tick() => work(engine.clone()).await,
                }
            }
        });
    }

    /// Deletes expired storage entries. Reads ignore them already; this only frees the space.
    async fn sweep(&self) {
        loop {
            match self.0.store.delete_expired_entries(SWEEP_ENTRIES).await {
                Ok(deleted)
                    if deleted == u64::from(SWEEP_ENTRIES) && !self.core().stop.is_cancelled() => {}
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
        // Off the request threads: a scan of full caches takes a few hundredths of a second.
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
            Some(at) if at <= self.core().clock.now().after(OPERATORS_NOTICE) => {
                tracing::warn!(expires_at = %at, "the last operator token expires soon; {hint}");
            }
            _ => {}
        }
    }

    /// Deletes audit entries beyond the bounds of `[audit]`.
    async fn tidy_audit(&self) {
        let before = self.core().clock.now().before(self.0.audit.keep);
        let bounds = AuditBounds {
            rows: self.0.audit.rows_per_team_max,
            cheap_rows: self.0.audit.cheap_rows_per_team_max,
        };
        while !self.core().stop.is_cancelled() {
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

    /// Deletes idempotency keys older than `[idempotency]` allows.
    async fn tidy_idempotency_keys(&self) {
        let before = self.core().clock.now().before(self.0.idempotency.keep);
        while !self.core().stop.is_cancelled() {
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

    /// Deletes log lines older than `retention.logs`.
    async fn tidy_logs(&self) {
        let before = self.core().clock.now().before(self.0.retention.logs);
        while !self.core().stop.is_cancelled() {
            match self.0.store.delete_old_logs(before).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not delete old log lines; the next run goes on");
                    return;
                }
            }
        }
    }

    /// Recounts the usage of teams.
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

    /// Deletes finished instances older than `[retention]` allows.
    async fn retain(&self) {
        let before = self
            .core()
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

    /// Deletes instances that ended before a time, with their attempts, approvals and storage. With
    /// `dry_run` it only counts them. Each call handles a bounded part, from `place` on, and
    /// returns the place of the next part.
    ///
    /// # Errors
    /// Database errors. Instances deleted before the error stay deleted.
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
            let measurement = self
                .core()
                .monitor
                .measure(None, "delete_finished_instances");
            let batch = self
                .0
                .store
                .delete_finished(finished, place, self.0.retention.batch)
                .await?;
            measurement.succeed();
            self.core()
                .monitor
                .record_instances_deleted(finished.team.as_ref(), batch.counts.instances);
            counts += batch.counts;
            place = batch.next;
            if place.is_none() || self.core().stop.is_cancelled() {
                break;
            }
        }
        Ok(FinishedBatch {
            counts,
            next: place,
        })
    }
}
