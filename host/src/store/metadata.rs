//! Metadata that clients replace, for many instances at once. What steps replace is an effect, and is written by
//! [`super::commit`].
//!
//! What surprises: on Postgres, rows that somebody else has locked are left out at first, and written one by one when
//! nothing else is held. The committer's transaction locks many instances in the order in which their steps ended; to
//! wait for one of those while holding another would be a deadlock, and the steps of a whole group would run again.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::backend::{Connection, on};
use super::rows::BINDS_MAX;
use super::stale::Stale;
use super::{Store, StoreError, statuses, to_json};
use crate::clock::Timestamp;
use crate::model::Name;

/// What a statement does about a row that another transaction has locked. SQLite has one writer and knows no such rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Locked {
    LeaveOut,
    WaitFor,
}

impl Store {
    /// Replaces the metadata of a team's instances, and answers the ids of those that are there. Of two values for one
    /// instance the later counts. The version of an instance is not touched: metadata decides nothing, and a running
    /// step must not fail because somebody labelled its instance.
    ///
    /// # Errors
    /// The database's. Some of it may have been written then, and it may be asked for again.
    pub async fn replace_metadata(
        &self,
        team: &Name,
        metadata: impl IntoIterator<Item = (Uuid, &Value)>,
    ) -> Result<HashSet<Uuid>, StoreError> {
        let mut rows = BTreeMap::new();
        for (id, value) in metadata {
            rows.insert(id, to_json(value)?);
        }
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        let (store, team, rows) = (self.clone(), team.clone(), Vec::from_iter(rows));
        self.detached(async move { store.write_metadata(&team, &rows).await }).await
    }

    async fn write_metadata(&self, team: &Name, rows: &[(Uuid, String)]) -> Result<HashSet<Uuid>, StoreError> {
        let mut written = HashSet::new();
        for rows in rows.chunks(BINDS_MAX / 2 - 1) {
            written.extend(self.update_metadata(team, rows, Locked::LeaveOut).await?);
        }
        let mut left: BTreeMap<_, _> = rows.iter().map(|row| (row.0, row)).collect();
        left.retain(|id, _| !written.contains(id));
        if left.is_empty() {
            return Ok(written);
        }
        let mut connection = self.core().backend.read().await?;
        let there = statuses::read_states(&mut connection, team, &Vec::from_iter(left.keys().copied())).await?;
        drop(connection);
        for row in there.iter().filter_map(|state| left.get(&state.id)) {
            written.extend(self.update_metadata(team, std::slice::from_ref(*row), Locked::WaitFor).await?);
        }
        Ok(written)
    }

    /// One transaction.
    async fn update_metadata(
        &self,
        team: &Name,
        rows: &[(Uuid, String)],
        locked: Locked,
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut writing = self.core().backend.begin().await?;
        let written = update(&mut writing, team, rows, self.now(), locked).await?;
        let stale: Vec<_> = written.iter().map(|id| Stale::Instance { team: team.clone(), id: *id }).collect();
        self.core().commit(writing, &stale).await?;
        Ok(written)
    }
}

async fn update(
    connection: &mut Connection,
    team: &Name,
    rows: &[(Uuid, String)],
    now: Timestamp,
    locked: Locked,
) -> Result<Vec<Uuid>, StoreError> {
    let lock = match connection {
        Connection::Postgres(_) if locked == Locked::LeaveOut => " FOR UPDATE OF i SKIP LOCKED",
        Connection::Postgres(_) | Connection::Sqlite(_) => "",
    };
    Ok(on!(connection, c: Database => {
        let mut query = QueryBuilder::<Database>::new("WITH given (id, metadata) AS (");
        query.push_values(rows, |mut row, (id, metadata)| {
            row.push_bind(*id).push_bind(metadata.as_str());
        });
        query.push("), free AS (SELECT i.id FROM given JOIN workflow_instances AS i ON i.id = given.id WHERE i.team = ");
        query.push_bind(team.as_str()).push(lock);
        query.push(") UPDATE workflow_instances SET metadata = given.metadata, updated_at = ");
        query.push_bind(now.as_micros());
        query.push(" FROM given WHERE workflow_instances.id = given.id AND workflow_instances.id IN (SELECT id FROM free)");
        query.push(" RETURNING workflow_instances.id");
        // There is a text for every number of rows.
        query.build_query_scalar().persistent(rows.len() == 1).fetch_all(c).await
    })?)
}
