//! Instances as items of a list, without input and output, which may have a megabyte each. Inputs
//! and outputs of one page are read when a client asks for them, as far as they fit into a size
//! limit.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::cache::Loaded;
use super::sql::{Bind, Sql};
use super::{Store, StoreError, children, error, from_json, parse, unsigned};
use crate::clock::Timestamp;
use crate::model::{Failure, InstanceStatus, Json, Name, Parent, StepAddress, TraceParent};

/// The columns of [`SummaryRow`]. Lists read no other columns.
pub(super) const COLUMNS: &str = "id, workflow, workflow_version, entity_type, entity_id, project_id, started_by, \
    status, current_step, version, metadata, failure, root_id, parent_id, parent_step, parent_waits, crashes, quarantined_at, traceparent, \
    created_at, started_at, updated_at, completed_at";

/// An instance as an item of a list.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceSummary {
    /// The id of the instance.
    pub id: Uuid,
    /// The workflow's name.
    pub workflow: Name,
    /// The workflow version that the instance is pinned to.
    pub workflow_version: u32,
    /// The type of the entity that the instance is for.
    pub entity_type: Option<String>,
    /// The id of that entity.
    pub entity_id: Option<String>,
    /// The project of the instance.
    pub project_id: Option<String>,
    /// The user who started the instance, or `plugin:<name>`.
    pub started_by: String,
    /// The status.
    pub status: InstanceStatus,
    /// The step that runs or waits.
    pub current_step: Option<StepAddress>,
    /// A version that grows with every commit.
    pub version: u64,
    /// A JSON object of at most 64 KiB, as it is stored.
    pub metadata: Json,
    /// The reason why the instance was rejected, failed or cancelled.
    pub failure: Option<Failure>,
    /// The instance at the top of the chain of creations; `None` if a client started the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_id: Option<Uuid>,
    /// The `workflow:` step that started the instance; `None` if a client or a guest did.
    #[serde(flatten)]
    pub parent: Option<Parent>,
    /// The number of successive crashes of a host while it drove the instance.
    #[serde(skip_serializing_if = "crate::model::instance::is_zero")]
    pub crashes: u32,
    /// The time since which the instance is in quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined_at: Option<Timestamp>,
    /// The span that created the instance, if the instance is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
    /// The time of creation.
    pub created_at: Timestamp,
    /// The time at which the first step became ready.
    pub started_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The time at which the instance ended.
    pub completed_at: Option<Timestamp>,
}

/// The stored input and output of an instance.
#[derive(Clone, Debug)]
pub struct InstancePayload {
    /// The input.
    pub input: Json,
    /// The output; `None` until the instance has ended.
    pub output: Option<Json>,
}

#[derive(sqlx::FromRow)]
pub(super) struct SummaryRow {
    id: Uuid,
    workflow: String,
    workflow_version: i64,
    entity_type: Option<String>,
    entity_id: Option<String>,
    project_id: Option<String>,
    started_by: String,
    status: String,
    current_step: Option<String>,
    version: i64,
    metadata: String,
    failure: Option<String>,
    root_id: Option<Uuid>,
    parent_id: Option<Uuid>,
    parent_step: Option<String>,
    parent_waits: i64,
    crashes: i64,
    quarantined_at: Option<i64>,
    traceparent: Option<String>,
    created_at: i64,
    started_at: i64,
    updated_at: i64,
    completed_at: Option<i64>,
}

impl SummaryRow {
    fn bytes(&self) -> usize {
        512 + self.metadata.len() + self.failure.as_ref().map_or(0, String::len)
    }

    fn into_summary(self) -> Result<InstanceSummary, StoreError> {
        let status = InstanceStatus::parse(&self.status);
        Ok(InstanceSummary {
            id: self.id,
            workflow: parse("an instance's workflow", &self.workflow)?,
            workflow_version: unsigned("an instance's workflow version", self.workflow_version)?,
            entity_type: self.entity_type,
            entity_id: self.entity_id,
            project_id: self.project_id,
            started_by: self.started_by,
            status: status.ok_or_else(|| error::corrupt("an instance's status", &self.status))?,
            current_step: error::readable(
                self.current_step
                    .map(|step| parse::<StepAddress>("an instance's step", &step)),
            ),
            version: unsigned("an instance's version", self.version)?,
            metadata: Json::stored(self.metadata),
            failure: error::readable(
                self.failure
                    .map(|text| from_json::<Failure>("an instance's failure", &text)),
            ),
            root_id: self.root_id,
            parent: children::parent(self.parent_id, self.parent_step, self.parent_waits)?,
            crashes: unsigned("an instance's crashes", self.crashes)?,
            quarantined_at: self.quarantined_at.map(Timestamp::from_micros),
            traceparent: error::readable(
                self.traceparent
                    .map(|text| parse("an instance's traceparent", &text)),
            ),
            created_at: Timestamp::from_micros(self.created_at),
            started_at: Timestamp::from_micros(self.started_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            completed_at: self.completed_at.map(Timestamp::from_micros),
        })
    }
}

/// Converts a page of rows, and adds up its size in memory.
pub(super) fn page(
    rows: Vec<SummaryRow>,
) -> Result<Loaded<Arc<Vec<Arc<InstanceSummary>>>>, StoreError> {
    let bytes = rows.iter().map(SummaryRow::bytes).sum();
    let summaries = rows.into_iter().map(|row| row.into_summary().map(Arc::new));
    Ok(Loaded::new(
        Arc::new(summaries.collect::<Result<_, _>>()?),
        bytes,
    ))
}

/// Selects the sizes of input and output in bytes. Neither database reads a long text to determine
/// its length.
const SIZES: &str = "SELECT id, CAST(OCTET_LENGTH(input) + COALESCE(OCTET_LENGTH(output), 0) AS BIGINT) \
    FROM workflow_instances WHERE team = ";

impl Store {
    /// Returns the inputs and outputs of a team's instances, for as many of the first `ids` as fit
    /// into `bytes_max`, but for at least one. Also returns the number of those ids. An id among
    /// them whose instance no longer exists has no entry. Not cached.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn instance_payloads(
        &self,
        team: &Name,
        ids: Vec<Uuid>,
        bytes_max: usize,
    ) -> Result<(usize, HashMap<Uuid, InstancePayload>), StoreError> {
        if ids.is_empty() {
            return Ok((0, HashMap::new()));
        }
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let of = |columns: &str, ids: &[Uuid]| {
                let mut sql = Sql::new(columns);
                sql.bind(team.as_str().into())
                    .push(" AND id")
                    .within(ids.iter().copied().map(Bind::Id));
                sql
            };
            let sizes: Vec<(Uuid, i64)> = of(SIZES, &ids).rows(&mut connection).await?;
            let sizes: HashMap<Uuid, i64> = sizes.into_iter().collect();
            let mut bytes = 0;
            let fitting = ids.iter().take_while(|id| {
                bytes += sizes
                    .get(id)
                    .map_or(0, |size| usize::try_from(*size).unwrap_or(usize::MAX));
                bytes <= bytes_max
            });
            let count = fitting.count().max(1);
            let columns = "SELECT id, input, output FROM workflow_instances WHERE team = ";
            let rows: Vec<(Uuid, String, Option<String>)> =
                of(columns, ids.get(..count).unwrap_or_default())
                    .rows(&mut connection)
                    .await?;
            drop(connection);
            let mut payloads = HashMap::with_capacity(rows.len());
            for (id, input, output) in rows {
                let payload = InstancePayload {
                    input: Json::stored(input),
                    output: output.map(Json::stored),
                };
                payloads.insert(id, payload);
            }
            Ok((count, payloads))
        })
        .await
    }
}
