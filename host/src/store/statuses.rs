//! Where many instances stand, for batches of status queries.
//!
//! What surprises: this reads whole instances from the cache, but never puts one there. An instance may hold megabytes
//! of JSON, and a thousand of them are not read to learn a thousand short words.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::backend::{BINDS_MAX, Connection, on};
use super::commit::PREPARED_ROWS_MAX;
use super::{Store, StoreError, error, parse};
use crate::model::{Instance, InstanceStatus, Name, StepId};

/// Where one instance stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceState {
    /// Which one.
    pub id: Uuid,
    /// Where it stands.
    pub status: InstanceStatus,
    /// The step that runs or waits.
    pub current_step: Option<StepId>,
}

impl From<&Instance> for InstanceState {
    fn from(instance: &Instance) -> Self {
        Self { id: instance.id, status: instance.status, current_step: instance.current_step.clone() }
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
            current_step: self.current_step.map(|step| parse::<StepId>("an instance's step", &step)).transpose()?,
        })
    }
}

impl Store {
    /// Where a team's instances stand, in the order of `ids`; none for one that is not there, or is another team's. One
    /// SELECT for all that are not cached.
    ///
    /// # Errors
    /// The database's.
    pub async fn instance_states(&self, team: &Name, ids: &[Uuid]) -> Result<Vec<Option<InstanceState>>, StoreError> {
        let mut known = HashMap::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match self.core().caches.instances.get(&(team.clone(), *id)) {
                Some(instance) => drop(known.insert(*id, InstanceState::from(&*instance))),
                None => unknown.push(*id),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let (store, team) = (self.clone(), team.clone());
            let read = self.detached(async move {
                let mut connection = store.core().backend.read().await?;
                read_states(&mut connection, &team, &unknown).await
            });
            known.extend(read.await?.into_iter().map(|state| (state.id, state)));
        }
        Ok(ids.iter().map(|id| known.get(id).cloned()).collect())
    }
}

/// Those of these instances that the team has, in any order.
pub(super) async fn read_states(
    connection: &mut Connection,
    team: &Name,
    ids: &[Uuid],
) -> Result<Vec<InstanceState>, StoreError> {
    let mut states = Vec::with_capacity(ids.len());
    for ids in ids.chunks(BINDS_MAX - 1) {
        let rows: Vec<StateRow> = on!(connection, c: Database => {
            let mut query = select::<Database>(team, ids);
            query.build_query_as().persistent(ids.len() <= PREPARED_ROWS_MAX).fetch_all(c).await
        })?;
        for row in rows {
            states.push(row.into_state()?);
        }
    }
    Ok(states)
}

fn select<DB>(team: &Name, ids: &[Uuid]) -> QueryBuilder<DB>
where
    DB: sqlx::Database<Arguments: Default>,
    for<'t> String: sqlx::Encode<'t, DB> + sqlx::Type<DB>,
    for<'t> Uuid: sqlx::Encode<'t, DB> + sqlx::Type<DB>,
{
    let mut query = QueryBuilder::new("SELECT id, status, current_step FROM workflow_instances WHERE team = ");
    query.push_bind(team.to_string()).push(" AND id IN (");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(*id);
    }
    query.push(")");
    query
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Sqlite};

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::config::Config;

    #[tokio::test]
    async fn states_are_found_by_their_ids() {
        let config = Config::defaults().expect("the defaults load");
        let clock = Clock::manual(Timestamp::from_micros(0));
        let store = Store::open_in_memory(&config, clock).await.expect("opens");
        let sql = select::<Sqlite>(&"acme".parse().expect("is a name"), &[Uuid::nil(), Uuid::max()]).into_string();
        let mut connection = store.core().backend.read().await.expect("connects");
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> =
            on!(connection, c => sqlx::query_as(explain).fetch_all(c).await).expect("explains");
        let plan: Vec<_> = plan.into_iter().map(|row| row.3).collect();
        assert!(plan.iter().all(|step| step.starts_with("SEARCH workflow_instances USING INDEX")), "{plan:?}");
        drop(connection);
        store.close().await;
    }
}
