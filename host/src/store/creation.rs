//! Creating instances, alone or as the effect of a step.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::backend::{BINDS_MAX, Connection, on};
use super::commit::PREPARED_ROWS_MAX;
use super::{StoreError, error, signed, to_json};
use crate::clock::Timestamp;
use crate::model::{Instance, NewInstance};

/// What became of a new instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Created {
    /// Its id; or, if its idempotency key was used before in that workflow, the first's.
    pub id: Uuid,
    /// Whether it was the first's.
    pub existing: bool,
}

/// A new instance with its JSON written.
pub(super) struct NewRow {
    pub(super) instance: Instance,
    pub(super) idempotency_key: Option<String>,
    pins: String,
    input: String,
    metadata: String,
}

impl NewRow {
    pub(super) fn new(mut new: NewInstance) -> Result<Self, StoreError> {
        let idempotency_key = new.idempotency_key.take();
        let instance = Instance::from(new);
        let pins = to_json(&instance.pins)?;
        let input = to_json(&instance.input)?;
        let metadata = to_json(&instance.metadata)?;
        Ok(Self { instance, idempotency_key, pins, input, metadata })
    }
}

/// Inserts them into an open transaction, and answers in their order.
pub(super) async fn insert(connection: &mut Connection, rows: &[NewRow]) -> Result<Vec<Created>, StoreError> {
    const COLUMNS: usize = 21;
    let mut inserted = HashSet::with_capacity(rows.len());
    for rows in rows.chunks(BINDS_MAX / COLUMNS) {
        let ids: Vec<Uuid> = on!(connection, c: Database => {
            let mut query = QueryBuilder::<Database>::new(
                "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, \
                 entity_type, entity_id, project_id, started_by, status, current_step, version, input, metadata, \
                 depth, idempotency_key, created_at, started_at, updated_at, wake_at) ",
            );
            query.push_values(rows, |mut row, new| {
                let instance = &new.instance;
                row.push_bind(instance.id)
                    .push_bind(instance.team.as_str())
                    .push_bind(instance.workflow_id)
                    .push_bind(instance.workflow.as_str())
                    .push_bind(i64::from(instance.workflow_version))
                    .push_bind(new.pins.as_str())
                    .push_bind(instance.entity_type.as_deref())
                    .push_bind(instance.entity_id.as_deref())
                    .push_bind(instance.project_id.as_deref())
                    .push_bind(instance.started_by.as_str())
                    .push_bind(instance.status.as_str())
                    .push_bind(instance.current_step.as_ref().map(|step| step.as_str()))
                    .push_bind(signed(instance.version))
                    .push_bind(new.input.as_str())
                    .push_bind(new.metadata.as_str())
                    .push_bind(i64::from(instance.depth))
                    .push_bind(new.idempotency_key.as_deref())
                    .push_bind(instance.created_at.as_micros())
                    .push_bind(instance.started_at.as_micros())
                    .push_bind(instance.updated_at.as_micros())
                    .push_bind(instance.wake_at.map(Timestamp::as_micros));
            });
            // Only the key may be taken; an id that is there already is a mistake and stays an error.
            query.push(
                " ON CONFLICT (workflow_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id",
            );
            query.build_query_scalar().persistent(rows.len() <= PREPARED_ROWS_MAX).fetch_all(c).await
        })?;
        inserted.extend(ids);
    }
    let known = existing(connection, rows, &inserted).await?;
    rows.iter()
        .map(|row| {
            if inserted.contains(&row.instance.id) {
                return Ok(Created { id: row.instance.id, existing: false });
            }
            let key = (row.instance.workflow_id, row.idempotency_key.as_deref().unwrap_or_default());
            let id = known.get(&(key.0, key.1.to_owned())).copied();
            let id =
                id.ok_or_else(|| error::corrupt("an instance that was neither created nor there", row.instance.id))?;
            Ok(Created { id, existing: true })
        })
        .collect()
}

/// The ids of those whose keys were taken.
async fn existing(
    connection: &mut Connection,
    rows: &[NewRow],
    inserted: &HashSet<Uuid>,
) -> Result<HashMap<(Uuid, String), Uuid>, StoreError> {
    let mut wanted: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !inserted.contains(&row.instance.id)) {
        wanted.entry(row.instance.workflow_id).or_default().extend(row.idempotency_key.as_deref());
    }
    let mut known = HashMap::new();
    for (workflow, keys) in wanted {
        for keys in keys.chunks(BINDS_MAX - 1) {
            let found: Vec<(String, Uuid)> = on!(connection, c: Database => {
                let mut query = QueryBuilder::<Database>::new(
                    "SELECT idempotency_key, id FROM workflow_instances WHERE workflow_id = ",
                );
                query.push_bind(workflow).push(" AND idempotency_key IN (");
                let mut list = query.separated(", ");
                for key in keys {
                    list.push_bind(*key);
                }
                query.push(")");
                query.build_query_as().persistent(keys.len() <= PREPARED_ROWS_MAX).fetch_all(c).await
            })?;
            known.extend(found.into_iter().map(|(key, id)| ((workflow, key), id)));
        }
    }
    Ok(known)
}
