//! Statuses of many instances, for batches of status queries.
//!
//! This module reads whole instances from the cache but never adds any. An instance may hold
//! megabytes of JSON, and a status query must not load a thousand of them for a thousand short
//! words.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::backend::Connection;
use super::rows::{self, Column};
use super::{Store, StoreError, error, parse};
use crate::model::{Instance, InstanceStatus, Name, StepAddress};

/// The status of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceState {
    /// The id of the instance.
    pub id: Uuid,
    /// The status.
    pub status: InstanceStatus,
    /// The step that runs or waits.
    pub current_step: Option<StepAddress>,
}

impl From<&Instance> for InstanceState {
    fn from(instance: &Instance) -> Self {
        Self {
            id: instance.id,
            status: instance.status,
            current_step: instance.current_step.clone(),
        }
    }
}

#[derive(sqlx::FromRow)]
struct StateRow {
    id: Uuid,
    status: String,
    current_step: Option<String>,
}

impl StateRow {
    fn into_state(self) -> Result<InstanceState, StoreError> {
        let status = InstanceStatus::parse(&self.status);
        Ok(InstanceState {
            id: self.id,
            status: status.ok_or_else(|| error::corrupt("an instance's status", &self.status))?,
            current_step: self
                .current_step
                .map(|step| parse::<StepAddress>("an instance's step", &step))
                .transpose()?,
        })
    }
}

/// SQLite does not reorder a CROSS JOIN, so it looks up each id.
pub(super) const STATES: &str = "SELECT seen.id, seen.status, seen.current_step \
    FROM {rows} CROSS JOIN workflow_instances AS seen WHERE seen.id = given.column1 AND seen.team = given.column2";

impl Store {
    /// Returns the statuses of a team's instances in the order of `ids`, with `None` for a missing
    /// instance and for one of another team. Reads all instances that are not cached with one
    /// SELECT.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn instance_states(
        &self,
        team: &Name,
        ids: &[Uuid],
    ) -> Result<Vec<Option<InstanceState>>, StoreError> {
        let mut states = self.cached_states(team, ids);
        let unknown = |(id, state): (&Uuid, &Option<InstanceState>)| state.is_none().then_some(*id);
        let unknown: Vec<_> = ids.iter().zip(&states).filter_map(unknown).collect();
        if !unknown.is_empty() {
            let read = self.read_states(team, unknown).await?;
            for (id, state) in ids
                .iter()
                .zip(&mut states)
                .filter(|(_, state)| state.is_none())
            {
                *state = read.get(id).cloned();
            }
        }
        Ok(states)
    }

    /// Returns statuses as [`Store::instance_states`] does, but only from the cache; `None` for an
    /// instance that is not cached.
    pub fn cached_states(&self, team: &Name, ids: &[Uuid]) -> Vec<Option<InstanceState>> {
        let cache = &self.core().caches.instances;
        let state = |id: &Uuid| {
            cache
                .get(&(team.clone(), *id), 0)
                .flatten()
                .map(|instance| (&*instance).into())
        };
        ids.iter().map(state).collect()
    }

    /// Returns statuses by id, only from the database. Missing instances and instances of other
    /// teams have no entry.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn read_states(
        &self,
        team: &Name,
        mut ids: Vec<Uuid>,
    ) -> Result<HashMap<Uuid, InstanceState>, StoreError> {
        ids.sort_unstable();
        ids.dedup();
        let (store, team) = (self.clone(), team.clone());
        let read = self.detached(async move {
            let mut connection = store.read().await?;
            let states = read_states(&mut connection, &team, &ids).await?;
            connection.charge_rows(states.len());
            Ok(states)
        });
        Ok(read
            .await?
            .into_iter()
            .map(|state| (state.id, state))
            .collect())
    }
}

/// Returns the statuses of those instances that belong to the team, in any order.
pub(super) async fn read_states(
    connection: &mut Connection,
    team: &Name,
    ids: &[Uuid],
) -> Result<Vec<InstanceState>, StoreError> {
    let columns = [
        Column::Uuid(|row: &(Uuid, &str)| row.0),
        Column::Text(|row| row.1),
    ];
    let asked: Vec<_> = ids.iter().map(|id| (*id, team.as_str())).collect();
    let found: Vec<StateRow> = rows::fetch(connection, STATES, &columns, &asked).await?;
    found.into_iter().map(StateRow::into_state).collect()
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::super::backend::with_backend;
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::config::Config;

    #[tokio::test]
    async fn states_are_found_by_their_ids() {
        let config = Config::defaults().expect("the defaults load");
        let clock = Clock::manual(Timestamp::from_micros(0));
        let store = Store::open_in_memory(&config, clock).await.expect("opens");
        let sql = STATES.replace("{rows}", "(VALUES (?, ?), (?, ?)) AS given");
        let mut connection = store.read().await.expect("connects");
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> =
            with_backend!(connection, c => sqlx::query_as(explain).fetch_all(c).await)
                .expect("explains");
        let plan: Vec<_> = plan.into_iter().map(|row| row.3).collect();
        assert!(
            plan.iter()
                .any(|step| step.starts_with("SEARCH seen USING INDEX")),
            "{plan:?}"
        );
        assert!(
            !plan.iter().any(|step| step.starts_with("SCAN seen")),
            "{plan:?}"
        );
        drop(connection);
        store.close().await;
    }
}
