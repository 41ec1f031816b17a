//! Replacement of metadata by clients, for many instances at once. Metadata that steps replace is
//! an effect, and [`super::commit`] writes it.
//!
//! On Postgres, rows that another transaction has locked are skipped at first, and then written one
//! by one while no other lock is held. The committer's transaction locks many instances in the
//! order in which their steps ended. Waiting for one of those locks while holding another would be
//! a deadlock, and the steps of a whole group would have to run again.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use super::backend::Connection;
use super::commit::{Lock, UPDATE_METADATA, metadata_bytes};
use super::invalidation::Invalidation;
use super::rows::{self, Column};
use super::usage::{Amounts, Changes};
use super::{CommitError, Store, StoreError, signed, statuses};
use crate::clock::Timestamp;
use crate::model::{Json, Name};

/// The treatment of rows that another transaction has locked. SQLite has one writer and no locked
/// rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Locked {
    LeaveOut,
    WaitFor,
}

/// Updates metadata as [`UPDATE_METADATA`] does, but skips locked rows. For Postgres.
pub(super) const UPDATE_FREE: &str = "WITH free AS (SELECT seen.id, given.column3 AS metadata, given.column4 AS updated_at \
    FROM {rows} CROSS JOIN workflow_instances AS seen WHERE seen.id = given.column1 AND seen.team = given.column2{lock} \
    SKIP LOCKED) UPDATE workflow_instances SET metadata = free.metadata, updated_at = free.updated_at FROM free \
    WHERE workflow_instances.id = free.id RETURNING workflow_instances.id";

impl Store {
    /// Replaces the metadata of a team's instances, and returns the ids of the instances that
    /// exist. If an id occurs twice, the later value counts. The version of an instance stays the
    /// same, because metadata decides nothing and a label must not make a running step fail.
    ///
    /// # Errors
    /// Errors of the database, and [`StoreError::Quota`]. After an error of the database some of
    /// the metadata may have been written; the call can be repeated.
    pub async fn replace_metadata(
        &self,
        team: &Name,
        metadata: impl IntoIterator<Item = (Uuid, &Json)>,
    ) -> Result<HashSet<Uuid>, StoreError> {
        let mut rows = BTreeMap::new();
        for (id, value) in metadata {
            rows.insert(id, value.clone());
        }
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        // Counted as if nothing was replaced: a team without room for that has practically reached
        // its quota.
        let bytes = Amounts::bytes(signed(rows.values().map(Json::len).sum::<usize>()));
        self.core()
            .usage
            .check(team, Amounts::default(), bytes)
            .map_err(CommitError::for_creation)?;
        let (store, team, rows) = (self.clone(), team.clone(), Vec::from_iter(rows));
        self.detached(async move { store.write_metadata(&team, &rows).await })
            .await
    }

    async fn write_metadata(
        &self,
        team: &Name,
        rows: &[(Uuid, Json)],
    ) -> Result<HashSet<Uuid>, StoreError> {
        let mut written =
            HashSet::from_iter(self.update_metadata(team, rows, Locked::LeaveOut).await?);
        let mut left: BTreeMap<_, _> = rows.iter().map(|row| (row.0, row)).collect();
        left.retain(|id, _| !written.contains(id));
        if left.is_empty() {
            return Ok(written);
        }
        let mut connection = self.read().await?;
        let there =
            statuses::read_states(&mut connection, team, &Vec::from_iter(left.keys().copied()))
                .await?;
        drop(connection);
        for row in there.iter().filter_map(|state| left.get(&state.id)) {
            written.extend(
                self.update_metadata(team, std::slice::from_ref(*row), Locked::WaitFor)
                    .await?,
            );
        }
        Ok(written)
    }

    /// Writes metadata in one transaction, and returns the ids of the updated instances.
    async fn update_metadata(
        &self,
        team: &Name,
        rows: &[(Uuid, Json)],
        locked: Locked,
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut transaction = self.core().backend.begin().await?;
        let ids: Vec<_> = rows.iter().map(|(id, _)| (*id, team.as_str())).collect();
        let before = metadata_bytes(&mut transaction, &ids, Lock::None).await?;
        let written: HashSet<Uuid> =
            HashSet::from_iter(update(&mut transaction, team, rows, self.now(), locked).await?);
        let more = rows
            .iter()
            .filter(|(id, _)| written.contains(id))
            .map(|(id, metadata)| {
                signed(metadata.len()) - before.get(id).copied().unwrap_or_default()
            });
        let changes = Changes::from([(team.clone(), Amounts::bytes(more.sum()))]);
        let invalidations: Vec<_> = written
            .iter()
            .map(|id| Invalidation::Instance {
                team: team.clone(),
                id: *id,
            })
            .collect();
        self.core()
            .commit_counted(transaction, &invalidations, &changes)
            .await?;
        Ok(written.into_iter().collect())
    }
}

async fn update(
    connection: &mut Connection,
    team: &Name,
    rows: &[(Uuid, Json)],
    now: Timestamp,
    locked: Locked,
) -> Result<Vec<Uuid>, StoreError> {
    type Row<'a> = (Uuid, &'a Name, &'a str, Timestamp);
    let columns = [
        Column::Uuid(|(id, ..): &Row| *id),
        Column::Text(|(_, team, ..)| team.as_str()),
        Column::Text(|(_, _, metadata, _)| metadata),
        Column::Integer(|(.., now)| now.as_micros()),
    ];
    let given: Vec<Row> = rows
        .iter()
        .map(|(id, metadata)| (*id, team, metadata.as_str(), now))
        .collect();
    let sql = match connection {
        Connection::Postgres(_) if locked == Locked::LeaveOut => UPDATE_FREE.to_owned(),
        Connection::Postgres(_) | Connection::Sqlite(_) => {
            format!("{UPDATE_METADATA} RETURNING workflow_instances.id")
        }
    };
    let written: Vec<(Uuid,)> = rows::fetch(connection, &sql, &columns, &given).await?;
    Ok(written.into_iter().map(|(id,)| id).collect())
}
