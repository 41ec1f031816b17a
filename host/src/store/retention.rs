//! Deletion of finished instances by the time they ended, together with their attempts, their
//! approvals and the bucket `instance:<id>`.
//!
//! A batch is one short transaction, so that on SQLite, which has one writer, steps can be
//! committed between two batches. A batch covers one team, as the index does; a caller that deletes
//! for all teams is led from team to team. An instance's idempotency key is deleted too, and can be
//! used again.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::invalidation::Invalidation;
use super::listing::{self, Cursor, Order, PageQuery, Period};
use super::sql::{Bind, Sql};
use super::usage::{self, Amounts, Changes};
use super::{Store, StoreError, children, parse, trees, unsigned};
use crate::clock::Timestamp;
use crate::model::{EntryKey, Name, Space};

/// A selection of finished instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The team; `None` for all teams.
    pub team: Option<Name>,
    /// Only instances that ended before this time.
    pub before: Timestamp,
}

/// The number of rows of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FinishedCounts {
    /// Finished instances.
    pub instances: u64,
    /// Attempts of the instances.
    pub attempts: u64,
    /// Approvals of the instances.
    pub approvals: u64,
    /// Storage entries in the instances' buckets.
    pub entries: u64,
}

impl std::ops::AddAssign for FinishedCounts {
    fn add_assign(&mut self, other: Self) {
        self.instances += other.instances;
        self.attempts += other.attempts;
        self.approvals += other.approvals;
        self.entries += other.entries;
    }
}

/// A batch of finished instances, and the place where the next batch begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedBatch {
    /// The rows in this batch.
    pub counts: FinishedCounts,
    /// The next place; `None` if this was the last batch.
    pub next: Option<FinishedPlace>,
}

/// The place where a batch begins. Its text is `<team>` or `<team>/<cursor>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedPlace {
    /// The team whose instances the batch covers.
    pub team: Name,
    /// The last instance of the previous batch; `None` to begin with the first.
    pub after: Option<Cursor>,
}

impl fmt::Display for FinishedPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.after {
            Some(after) => write!(formatter, "{}/{after}", self.team),
            None => self.team.fmt(formatter),
        }
    }
}

impl FromStr for FinishedPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (team, after) = match text.split_once('/') {
            Some((team, after)) => (team, Some(after.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            team: team.parse().map_err(|error| format!("{error}"))?,
            after,
        })
    }
}

/// Builds the SQL that finds a batch. Instances that ended first come first.
pub(super) fn batch(team: &Name, before: Timestamp, after: Option<Cursor>, limit: u32) -> Sql {
    let mut sql = Sql::new("SELECT id, completed_at FROM workflow_instances WHERE team = ");
    sql.bind(team.as_str().into());
    // Only final instances have a completion time, and they stay final.
    let period = Period {
        from: None,
        to: Some(before),
    };
    let after = after.map(|after| Cursor {
        at: after.at,
        key: Bind::Id(after.key),
    });
    listing::push_page(
        &mut sql,
        PageQuery {
            order: Order::Completed,
            key: "id",
            descending: false,
        },
        period,
        after,
        limit,
    );
    sql
}

/// Selects the first team after `$1` that has finished instances, whenever they ended.
pub(super) const NEXT_TEAM: &str =
    "SELECT MIN(team) FROM workflow_instances WHERE completed_at IS NOT NULL AND team > $1";

/// Deleted rows, with the keys to invalidate in the caches.
struct Deleted {
    counts: FinishedCounts,
    entries: Vec<EntryKey>,
}

impl Store {
    /// Counts the rows that [`Store::delete_finished`] with the same arguments would delete. Writes
    /// nothing.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn count_finished(
        &self,
        finished: &Finished,
        place: Option<FinishedPlace>,
        limit: u32,
    ) -> Result<FinishedBatch, StoreError> {
        let (store, finished) = (self.clone(), finished.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let BatchIds { team, ids, next } =
                find(&mut connection, &finished, place, limit, "").await?;
            let counts = match team {
                Some(team) if !ids.is_empty() => count(&mut connection, &team, &ids).await?,
                _ => FinishedCounts::default(),
            };
            Ok(FinishedBatch { counts, next })
        })
        .await
    }

    /// Deletes at most `limit` finished instances of one team in one transaction. The caller starts
    /// with `place` = `None`, and repeats the call with the returned `next` to delete all.
    /// Instances that another transaction has locked are skipped, and left for a later run.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_finished(
        &self,
        finished: &Finished,
        place: Option<FinishedPlace>,
        limit: u32,
    ) -> Result<FinishedBatch, StoreError> {
        let (store, finished) = (self.clone(), finished.clone());
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let lock = match *transaction {
                Connection::Sqlite(_) => "",
                // A statement that updates the metadata of many instances locks them in an unknown
                // order. Waiting for one lock while holding another could be a deadlock.
                Connection::Postgres(_) => " FOR UPDATE SKIP LOCKED",
            };
            let BatchIds { team, ids, next } =
                find(&mut transaction, &finished, place, limit, lock).await?;
            let Some(team) = team.filter(|_| !ids.is_empty()) else {
                transaction.rollback().await?;
                return Ok(FinishedBatch {
                    counts: FinishedCounts::default(),
                    next,
                });
            };
            let mut changes = Changes::new();
            usage::change(
                &mut changes,
                &team,
                Amounts::bytes(-stored_bytes(&mut transaction, &team, &ids).await?),
            );
            let deleted = delete(&mut transaction, &team, &ids).await?;
            let instances = ids.into_iter().map(|id| Invalidation::Instance {
                team: team.clone(),
                id,
            });
            let entries = deleted.entries.into_iter().map(|key| Invalidation::Entry {
                team: team.clone(),
                key,
            });
            let approvals = Invalidation::DecidedApprovals { team: team.clone() };
            let invalidations: Vec<_> = instances.chain(entries).chain([approvals]).collect();
            store
                .core()
                .commit_counted(transaction, &invalidations, &changes)
                .await?;
            Ok(FinishedBatch {
                counts: deleted.counts,
                next,
            })
        })
        .await
    }
}

/// The ids of one batch.
struct BatchIds {
    /// The team of the batch; `None` if no team has finished instances.
    team: Option<Name>,
    ids: Vec<Uuid>,
    next: Option<FinishedPlace>,
}

async fn find(
    connection: &mut Connection,
    finished: &Finished,
    place: Option<FinishedPlace>,
    limit: u32,
    lock: &str,
) -> Result<BatchIds, StoreError> {
    let Some(FinishedPlace { team, after }) = begin(connection, finished, place).await? else {
        return Ok(BatchIds {
            team: None,
            ids: Vec::new(),
            next: None,
        });
    };
    let mut batch = batch(&team, finished.before, after, limit);
    batch.push(lock);
    let found: Vec<(Uuid, i64)> = batch.rows(connection).await?;
    let next = next(connection, finished, team.clone(), &found, limit).await?;
    let mut ids: Vec<Uuid> = found.into_iter().map(|(id, _)| id).collect();
    let awaited = children::awaited(connection, &ids).await?;
    ids.retain(|id| !awaited.contains(id));
    Ok(BatchIds {
        team: Some(team),
        ids,
        next,
    })
}

/// Returns the place where the batch begins; `None` if no team has finished instances.
async fn begin(
    connection: &mut Connection,
    finished: &Finished,
    place: Option<FinishedPlace>,
) -> Result<Option<FinishedPlace>, StoreError> {
    match (place, &finished.team) {
        (Some(place), None) => Ok(Some(place)),
        (Some(place), Some(team)) if place.team == *team => Ok(Some(place)),
        (_, Some(team)) => Ok(Some(FinishedPlace {
            team: team.clone(),
            after: None,
        })),
        // Every name is greater than the empty text.
        (None, None) => next_team(connection, "").await,
    }
}

/// Returns the place where the next batch begins; `None` after the last batch.
async fn next(
    connection: &mut Connection,
    finished: &Finished,
    team: Name,
    found: &[(Uuid, i64)],
    limit: u32,
) -> Result<Option<FinishedPlace>, StoreError> {
    match found.last() {
        Some((id, at)) if u32::try_from(found.len()).is_ok_and(|count| count >= limit) => {
            let after = Cursor {
                at: Some(Timestamp::from_micros(*at)),
                key: *id,
            };
            Ok(Some(FinishedPlace {
                team,
                after: Some(after),
            }))
        }
        _ if finished.team.is_some() => Ok(None),
        _ => next_team(connection, team.as_str()).await,
    }
}

async fn next_team(
    connection: &mut Connection,
    after: &str,
) -> Result<Option<FinishedPlace>, StoreError> {
    let team: Option<String> = with_backend!(connection, c => sqlx::query_scalar(NEXT_TEAM).bind(after).fetch_one(c).await)?;
    let team = team
        .map(|team| parse("an instance's team", &team))
        .transpose()?;
    Ok(team.map(|team| FinishedPlace { team, after: None }))
}

fn of_instances(text: &str, ids: &[Uuid]) -> Sql {
    let mut sql = Sql::new(text);
    sql.within(ids.iter().copied().map(Bind::Id));
    sql
}

fn of_buckets(text: &str, team: &Name, buckets: impl Iterator<Item = String>) -> Sql {
    let mut sql = Sql::new(text);
    sql.bind(team.as_str().into())
        .push(" AND space")
        .within(buckets.map(Bind::Text));
    sql
}

async fn count(
    connection: &mut Connection,
    team: &Name,
    ids: &[Uuid],
) -> Result<FinishedCounts, StoreError> {
    let buckets = ids.iter().map(|id| Space::Instance(*id).to_string());
    let mut counts = Vec::new();
    for sql in [
        of_instances("SELECT COUNT(*) FROM step_attempts WHERE instance_id", ids),
        of_instances(
            "SELECT COUNT(*) FROM workflow_approvals WHERE instance_id",
            ids,
        ),
        of_buckets(
            "SELECT COUNT(*) FROM plugin_storage WHERE team = ",
            team,
            buckets,
        ),
    ] {
        let rows: Vec<(i64,)> = sql.rows(connection).await?;
        counts.push(
            rows.first()
                .map_or(Ok(0), |(count,)| unsigned("a count", *count))?,
        );
    }
    let [attempts, approvals, entries] = counts.try_into().unwrap_or_default();
    Ok(FinishedCounts {
        instances: ids.len() as u64,
        attempts,
        approvals,
        entries,
    })
}

/// Returns the counted size of instances and their dependent rows, in bytes.
async fn stored_bytes(
    connection: &mut Connection,
    team: &Name,
    ids: &[Uuid],
) -> Result<i64, StoreError> {
    let buckets = ids.iter().map(|id| Space::Instance(*id).to_string());
    let mut bytes = 0;
    for (what, sql) in [
        (
            usage::INSTANCE_BYTES,
            of_instances(" FROM workflow_instances WHERE id", ids),
        ),
        (
            usage::ATTEMPT_BYTES,
            of_instances(" FROM step_attempts WHERE instance_id", ids),
        ),
        (
            usage::APPROVAL_BYTES,
            of_instances(" FROM workflow_approvals WHERE instance_id", ids),
        ),
        (
            usage::ENTRY_BYTES,
            of_buckets(" FROM plugin_storage WHERE team = ", team, buckets),
        ),
    ] {
        let rows: Vec<(i64,)> = sql
            .after(&format!("SELECT CAST(COALESCE(SUM({what}), 0) AS BIGINT)"))
            .rows(connection)
            .await?;
        bytes += rows.first().map_or(0, |(bytes,)| *bytes);
    }
    Ok(bytes)
}

async fn delete(
    connection: &mut Connection,
    team: &Name,
    ids: &[Uuid],
) -> Result<Deleted, StoreError> {
    let buckets: HashMap<String, Uuid> = ids
        .iter()
        .map(|id| (Space::Instance(*id).to_string(), *id))
        .collect();
    let attempts = of_instances("DELETE FROM step_attempts WHERE instance_id", ids)
        .execute(connection)
        .await?;
    let approvals = of_instances("DELETE FROM workflow_approvals WHERE instance_id", ids)
        .execute(connection)
        .await?;
    of_instances("DELETE FROM attempt_logs WHERE instance_id", ids)
        .execute(connection)
        .await?;
    let mut entries = of_buckets(
        "DELETE FROM plugin_storage WHERE team = ",
        team,
        buckets.keys().cloned(),
    );
    entries.push(" RETURNING space, key");
    let entries: Vec<(String, String)> = entries.rows(connection).await?;
    let roots = trees::roots_of(connection, ids).await?;
    let instances = of_instances("DELETE FROM workflow_instances WHERE id", ids)
        .execute(connection)
        .await?;
    trees::forget(connection, &roots).await?;
    let counts = FinishedCounts {
        instances,
        attempts,
        approvals,
        entries: entries.len() as u64,
    };
    let key = |(space, key): (String, String)| {
        buckets.get(&space).map(|id| EntryKey {
            space: Space::Instance(*id),
            key,
        })
    };
    Ok(Deleted {
        counts,
        entries: entries.into_iter().filter_map(key).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_text() {
        let team: Name = "acme".parse().expect("is a name");
        let cursor = Cursor {
            at: Some(Timestamp::from_micros(7)),
            key: Uuid::from_u128(9),
        };
        for after in [None, Some(cursor)] {
            let place = FinishedPlace {
                team: team.clone(),
                after,
            };
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for wrong in ["", "/", "acme/", "acme/7", "No Name", "acme/7.x"] {
            assert!(wrong.parse::<FinishedPlace>().is_err(), "{wrong}");
        }
    }
}
