//! Crash counts of instances, and quarantine for instances that were driven in too many crashes.
//!
//! A crash of a host counts for each instance that one of its drivers was working on
//! ([`super::driven_instances`]). The next commit of the instance resets the count, so only an
//! instance that crashes again and again without progress accumulates more. An instance in
//! quarantine has no wake-up time, so no host drives it. A person must release or cancel it.

use uuid::Uuid;

use super::backend::with_backend;
use super::invalidation::Invalidation;
use super::sql::{Bind, Sql};
use super::{Core, Store, StoreError, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::Name;

/// The largest number of instances counted in one statement.
const COUNTED_MAX: usize = 500;

const RELEASE: &str = "UPDATE workflow_instances SET quarantined_at = NULL, crashes = 0, wake_at = $3, \
    updated_at = $3, owner = $4, version = version + 1 WHERE id = $1 AND team = $2 AND quarantined_at IS NOT NULL";

/// Counts the instances in quarantine of one team or of all teams.
pub(super) fn count(team: Option<&Name>) -> Sql {
    let mut sql = Sql::new("SELECT COUNT(*) FROM workflow_instances");
    sql.index_on_sqlite(Some("idx_workflow_instances_quarantined"))
        .push(" WHERE quarantined_at IS NOT NULL");
    sql.and("team =", team.map(|team| team.as_str().into()));
    sql
}

impl Core {
    /// Counts a crash for these instances. An instance with `crashes_max` crashes in a row is put
    /// in quarantine.
    pub(super) async fn count_crashes(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        let now = self.clock.now().as_micros();
        for ids in ids.chunks(COUNTED_MAX) {
            let mut sql = Sql::new(
                "UPDATE workflow_instances SET crashes = crashes + 1, version = version + 1, ",
            );
            let most = signed(self.crashes_max);
            sql.push("quarantined_at = CASE WHEN crashes + 1 >= ")
                .bind(Bind::Number(most));
            sql.push(" THEN ").bind(Bind::Number(now));
            sql.push(" END, wake_at = CASE WHEN crashes + 1 < ")
                .bind(Bind::Number(most));
            sql.push(
                " THEN wake_at END WHERE completed_at IS NULL AND quarantined_at IS NULL AND id",
            );
            sql.within(ids.iter().copied().map(Bind::Id))
                .push(" RETURNING team, id, crashes, current_step");
            let mut transaction = self.backend.begin().await?;
            let rows: Vec<(String, Uuid, i64, Option<String>)> = sql.rows(&mut transaction).await?;
            let mut invalidations = Vec::with_capacity(rows.len());
            for (team, id, crashes, step) in rows {
                if crashes >= most {
                    tracing::error!(
                        %team, instance = %id, crashes, step,
                        "an instance is in quarantine: it was being driven whenever its host crashed; look at the step, \
                         then `stepwell release {id}` or `stepwell cancel {id}`"
                    );
                } else {
                    tracing::warn!(%team, instance = %id, crashes, step, "an instance was being driven when its host crashed");
                }
                invalidations.push(Invalidation::Instance {
                    team: parse::<Name>("an instance's team", &team)?,
                    id,
                });
            }
            self.commit(transaction, &invalidations).await?;
        }
        Ok(())
    }
}

impl Store {
    /// Records that a driver works on the instance. If the process crashes now, the crash counts
    /// for the instance.
    pub fn take_in_hand(&self, id: Uuid) {
        self.core().driven_instances.take(id);
    }

    /// Records that the driver no longer works on the instance.
    pub fn put_down(&self, id: Uuid) {
        self.core().driven_instances.put_down(id);
    }

    /// Ends the quarantine of a team's instance, which becomes due at once. Returns whether the
    /// instance was in quarantine.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn release(&self, team: &Name, id: Uuid, now: Timestamp) -> Result<bool, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let core = store.core();
            let mut transaction = core.backend.begin().await?;
            let released = with_backend!(transaction, c => sqlx::query(RELEASE)
                .bind(id)
                .bind(team.as_str())
                .bind(now.as_micros())
                .bind(core.owner())
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            core.commit(transaction, &[Invalidation::Instance { team, id }])
                .await?;
            Ok(released > 0)
        })
        .await
    }

    /// Returns the number of instances in quarantine of one team or of all teams.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn count_quarantined(&self, team: Option<&Name>) -> Result<u64, StoreError> {
        let (store, sql) = (self.clone(), count(team));
        self.detached(async move {
            let mut connection = store.core().backend.read().await?;
            let rows: Vec<(i64,)> = sql.rows(&mut connection).await?;
            unsigned("a count", rows.first().map_or(0, |row| row.0))
        })
        .await
    }
}
