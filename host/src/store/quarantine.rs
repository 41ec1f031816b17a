//! Instances that were being driven when their host crashed, and quarantine for those that were in too many crashes.
//!
//! A crash counts for an instance that a driver was working on ([`super::in_hand`]). Its next commit sets the count back,
//! so only what crashes again and again without getting anywhere collects more. An instance in quarantine wakes at no
//! time, so that no host drives it; a person releases or cancels it.

use uuid::Uuid;

use super::backend::on;
use super::sql::{Bind, Sql};
use super::stale::Stale;
use super::{Core, Store, StoreError, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::Name;

/// Instances that are counted in one statement.
const COUNTED_MAX: usize = 500;

const RELEASE: &str = "UPDATE workflow_instances SET quarantined_at = NULL, crashes = 0, wake_at = $3, \
    updated_at = $3, owner = $4, version = version + 1 WHERE id = $1 AND team = $2 AND quarantined_at IS NOT NULL";

/// Counts those of a team, or of all.
pub(super) fn count(team: Option<&Name>) -> Sql {
    let mut sql = Sql::new("SELECT COUNT(*) FROM workflow_instances");
    sql.index_on_sqlite(Some("idx_workflow_instances_quarantined"))
        .push(" WHERE quarantined_at IS NOT NULL");
    sql.and("team =", team.map(|team| team.as_str().into()));
    sql
}

impl Core {
    /// Counts a crash for these instances, and puts those in quarantine that were in `crashes_max` in a row.
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
            let mut writing = self.backend.begin().await?;
            let rows: Vec<(String, Uuid, i64, Option<String>)> = sql.rows(&mut writing).await?;
            let mut stale = Vec::with_capacity(rows.len());
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
                stale.push(Stale::Instance {
                    team: parse::<Name>("an instance's team", &team)?,
                    id,
                });
            }
            self.commit(writing, &stale).await?;
        }
        Ok(())
    }
}

impl Store {
    /// Notes that a driver works on the instance: should the process crash now, the crash counts for it.
    pub fn take_in_hand(&self, id: Uuid) {
        self.core().in_hand.take(id);
    }

    /// Notes that the driver rests.
    pub fn put_down(&self, id: Uuid) {
        self.core().in_hand.put_down(id);
    }

    /// Ends the quarantine of a team's instance, which is due at once. Returns whether there was one.
    ///
    /// # Errors
    /// The database's.
    pub async fn release(&self, team: &Name, id: Uuid, now: Timestamp) -> Result<bool, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let core = store.core();
            let mut writing = core.backend.begin().await?;
            let released = on!(writing, c => sqlx::query(RELEASE)
                .bind(id)
                .bind(team.as_str())
                .bind(now.as_micros())
                .bind(core.owner())
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            core.commit(writing, &[Stale::Instance { team, id }])
                .await?;
            Ok(released > 0)
        })
        .await
    }

    /// Returns how many instances of a team, or of all, are in quarantine.
    ///
    /// # Errors
    /// The database's.
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
