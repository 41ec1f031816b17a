//! Loading of instances, one or many at once, with all data that the transition rules need.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::instances::{AttemptRow, InstanceRow};
use super::rows::{self, Column};
use super::{Store, StoreError, WorkflowVersion, approvals, children, error, unsigned};
use crate::model::{Approval, Attempt, Child, Instance, Name};

/// An instance with all data that decides its next transition. Never cached, except for the
/// immutable definition.
#[derive(Clone, Debug)]
pub struct LoadedInstance {
    /// The instance.
    pub instance: Instance,
    /// The workflow version that the instance runs.
    pub definition: Arc<WorkflowVersion>,
    /// The attempts, in the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// The approvals, in the order in which they were requested.
    pub approvals: Vec<Approval>,
    /// The children whose steps have not ended, in the order in which they were started.
    pub children: Vec<Child>,
    /// True if the outputs of further children that have ended were too large to be loaded as well.
    pub more_children: bool,
    /// True if this host owns the instance.
    pub ours: bool,
}

/// SQLite does not reorder a CROSS JOIN, so it looks up each id.
const INSTANCES: &str = "SELECT seen.id, seen.team, seen.workflow_id, seen.workflow, seen.workflow_version, seen.pins, \
    seen.entity_type, seen.entity_id, seen.project_id, seen.started_by, seen.status, seen.current_step, seen.version, \
    seen.input, seen.output, seen.metadata, seen.failure, seen.depth, seen.root_id, seen.parent_id, \
    seen.parent_step, seen.parent_waits, seen.children_ended, seen.cancel_requested_at, seen.created_at, seen.started_at, \
    seen.updated_at, seen.completed_at, seen.wake_at, seen.owner, seen.traceparent, seen.crashes, seen.quarantined_at \
    FROM {rows} CROSS JOIN workflow_instances AS seen WHERE seen.id = given.column1";

const ATTEMPTS: &str = "SELECT seen.instance_id, seen.step, seen.number, seen.outcome, seen.plugin, seen.output, \
    seen.failure, seen.started_at, seen.finished_at, seen.retry_at \
    FROM {rows} CROSS JOIN step_attempts AS seen WHERE seen.instance_id = given.column1 \
    ORDER BY seen.finished_at, seen.started_at, seen.step, seen.number";

/// Selects the size of an instance's texts in bytes. Neither database reads the texts for that.
const BYTES: &str = "SELECT CAST(octet_length(input) + octet_length(metadata) + COALESCE(octet_length(output), 0) + \
    COALESCE((SELECT SUM(octet_length(step_attempts.output)) FROM step_attempts WHERE instance_id = $1), 0) AS BIGINT) \
    FROM workflow_instances WHERE id = $1";

impl Store {
    /// Returns the size in bytes of the texts that [`Store::load`] would load; `None` if the
    /// instance does not exist.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn bytes_to_load(&self, id: Uuid) -> Result<Option<u64>, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            let bytes: Option<i64> =
                with_backend!(connection, c => sqlx::query_scalar(BYTES).bind(id).fetch_optional(c).await)?;
            bytes.map(|bytes| unsigned("a size", bytes)).transpose()
        })
        .await
    }

    /// Loads an instance of any team.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn load(&self, id: Uuid) -> Result<Option<LoadedInstance>, StoreError> {
        Ok(self.load_together(vec![id]).await?.pop())
    }

    /// Loads instances as [`Store::load_together`] does, but only those of one team. An instance of
    /// another team is not read, and costs no more than a missing one.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn load_of_team(
        &self,
        team: &Name,
        ids: Vec<Uuid>,
    ) -> Result<Vec<LoadedInstance>, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move { store.load_rows(Some(&team), &ids).await })
            .await
    }

    /// Loads instances of any team, in any order. The number of statements does not depend on the
    /// number of instances. Missing instances are left out. The `ids` must differ from each other.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn load_together(&self, ids: Vec<Uuid>) -> Result<Vec<LoadedInstance>, StoreError> {
        let store = self.clone();
        self.detached(async move { store.load_rows(None, &ids).await })
            .await
    }

    async fn load_rows(
        &self,
        team: Option<&Name>,
        ids: &[Uuid],
    ) -> Result<Vec<LoadedInstance>, StoreError> {
        let mut connection = self.read().await?;
        // Instances are read first. Rows that are read later can only be newer, and then the
        // instance's version is too old and the commit is refused. In the other order a commit with
        // outdated attempts could succeed.
        let instances: Vec<InstanceRow> = match team {
            Some(team) => of_team(&mut connection, team, ids).await?,
            None => of_each(&mut connection, INSTANCES, ids).await?,
        };
        if instances.is_empty() {
            return Ok(Vec::new());
        }
        let found: Vec<Uuid> = instances.iter().map(|row| row.id).collect();
        let ids = found.as_slice();
        let mut attempts: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
        for row in of_each::<AttemptRow>(&mut connection, ATTEMPTS, ids).await? {
            attempts
                .entry(row.instance_id)
                .or_default()
                .push(row.into_attempt()?);
        }
        let mut approvals: HashMap<Uuid, Vec<Approval>> = HashMap::new();
        for approval in approvals::of_instances(&mut connection, ids).await? {
            approvals
                .entry(approval.instance_id)
                .or_default()
                .push(approval);
        }
        drop(connection);
        let mut loaded = Vec::with_capacity(instances.len());
        for row in instances {
            let ours = row.owner == self.core().host.id;
            let instance = row.into_instance()?;
            let version = self
                .workflow_version(
                    &instance.team,
                    &instance.workflow,
                    instance.workflow_version,
                )
                .await?;
            let definition = version
                .ok_or_else(|| error::corrupt("an instance without its definition", instance.id))?;
            let attempts = attempts.remove(&instance.id).unwrap_or_default();
            let approvals = approvals.remove(&instance.id).unwrap_or_default();
            loaded.push(LoadedInstance {
                instance,
                definition,
                attempts,
                approvals,
                children: Vec::new(),
                more_children: false,
                ours,
            });
        }
        self.load_children(&mut loaded).await?;
        Ok(loaded)
    }

    /// Loads the children of the instances that have any. Like attempts, they may be newer than
    /// their parents.
    async fn load_children(&self, loaded: &mut [LoadedInstance]) -> Result<(), StoreError> {
        let parents = loaded
            .iter()
            .filter(|loaded| loaded.definition.definition.starts_children());
        let parents: Vec<Uuid> = parents.map(|loaded| loaded.instance.id).collect();
        if parents.is_empty() {
            return Ok(());
        }
        let mut connection = self.read().await?;
        let mut families = children::of_instances(&mut connection, &parents).await?;
        for one in loaded {
            let family = families.remove(&one.instance.id).unwrap_or_default();
            (one.children, one.more_children) = (family.children, family.more);
        }
        Ok(())
    }
}

async fn of_team(
    connection: &mut Connection,
    team: &Name,
    ids: &[Uuid],
) -> Result<Vec<InstanceRow>, StoreError> {
    let columns = [
        Column::Uuid(|row: &(Uuid, &str)| row.0),
        Column::Text(|row| row.1),
    ];
    let asked: Vec<_> = ids.iter().map(|id| (*id, team.as_str())).collect();
    rows::fetch(
        connection,
        &format!("{INSTANCES} AND seen.team = given.column2"),
        &columns,
        &asked,
    )
    .await
}

/// Runs a statement on a list of ids.
async fn of_each<T>(
    connection: &mut Connection,
    sql: &str,
    ids: &[Uuid],
) -> Result<Vec<T>, StoreError>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow>
        + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>
        + Send
        + Unpin,
{
    rows::fetch(connection, sql, &[Column::Uuid(|id: &Uuid| *id)], ids).await
}
