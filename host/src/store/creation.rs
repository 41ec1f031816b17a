//! Creation of instances, by clients or as the effect of a step.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::backend::Connection;
use super::rows::{self, Column};
use super::usage::{Amounts, ROW_BYTES};
use super::{StoreError, error, signed};
use crate::model::{InstanceStatus, NewInstance, RequestHash};

/// The result of creating an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Created {
    /// The id of the instance. If the idempotency key was used before in the workflow, the id of
    /// the existing instance.
    pub id: Uuid,
    /// True if the instance already existed.
    pub existing: bool,
    /// True if the instance is new, or if an equal request created it, so that it is the right
    /// result for this request. Also true for an existing instance from before request hashes were
    /// stored.
    #[serde(skip)]
    pub same_request: bool,
}

/// The instance that has an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHolder {
    /// The id of the instance.
    pub id: Uuid,
    /// The hash of the request that created the instance; `None` for an instance from before
    /// request hashes were stored.
    pub request_hash: Option<RequestHash>,
}

impl KeyHolder {
    /// Returns whether the instance is the right result for this request.
    pub fn answers(&self, request_hash: &RequestHash) -> bool {
        self.request_hash.is_none_or(|known| known == *request_hash)
    }
}

/// Instances by workflow id and idempotency key.
pub type KeyHolders = HashMap<(Uuid, String), KeyHolder>;

/// Returns the workflow id and the idempotency key, if there is a key.
pub(super) fn key(new: &NewInstance) -> Option<Key<'_>> {
    let key = new.idempotency_key.as_ref()?;
    Some((new.workflow_id, &key.text))
}

/// Returns how much a new instance adds to its team's usage.
pub(super) fn amounts(new: &NewInstance) -> Amounts {
    Amounts {
        unfinished: 1,
        versions: 0,
        bytes: ROW_BYTES + signed(bytes(new)),
    }
}

/// Returns the total size of the texts that have no small bound, in bytes.
pub(super) fn bytes(new: &NewInstance) -> usize {
    new.pins.json().len() + new.input.len() + NO_METADATA.len()
}

/// The metadata of a new instance.
const NO_METADATA: &str = "{}";

/// A workflow id, and the idempotency key of one of its instances.
pub(super) type Key<'a> = (Uuid, &'a str);

/// Inserts instances in an open transaction, and returns the results in the order of `new`. `owner`
/// is the host that creates them. They get the state of `Instance::from(new)`.
pub(super) async fn insert(
    connection: &mut Connection,
    owner: Uuid,
    new: &[&NewInstance],
) -> Result<Vec<Created>, StoreError> {
    // Only a taken key is accepted silently; a duplicate id is a bug and stays an error.
    let sql = "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, entity_type, \
        entity_id, project_id, started_by, status, version, input, metadata, depth, idempotency_key, \
        created_at, started_at, updated_at, wake_at, owner, traceparent, root_id, request_hash, \
        parent_id, parent_step, parent_waits) SELECT * FROM {rows} WHERE given.column1 IS NOT NULL \
        ON CONFLICT (workflow_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING";
    type Row<'a> = (&'a NewInstance, Uuid);
    let columns = [
        Column::Uuid(|(new, _): &Row| new.id),
        Column::Text(|(new, _)| new.team.as_str()),
        Column::Uuid(|(new, _)| new.workflow_id),
        Column::Text(|(new, _)| new.workflow.as_str()),
        Column::Integer(|(new, _)| i64::from(new.workflow_version)),
        Column::Text(|(new, _)| new.pins.json().as_str()),
        Column::MaybeText(|(new, _)| new.entity_type.as_deref()),
        Column::MaybeText(|(new, _)| new.entity_id.as_deref()),
        Column::MaybeText(|(new, _)| new.project_id.as_deref()),
        Column::Text(|(new, _)| &new.started_by),
        Column::Text(|_| InstanceStatus::Running.as_str()),
        Column::Integer(|_| 1),
        Column::Text(|(new, _)| new.input.as_str()),
        Column::Text(|_| NO_METADATA),
        Column::Integer(|(new, _)| i64::from(new.depth)),
        Column::MaybeText(|(new, _)| key(new).map(|(_, key)| key)),
        Column::Integer(|(new, _)| new.created_at.as_micros()),
        Column::Integer(|(new, _)| new.created_at.as_micros()),
        Column::Integer(|(new, _)| new.created_at.as_micros()),
        Column::Integer(|(new, _)| new.created_at.as_micros()),
        Column::Uuid(|(_, owner)| *owner),
        Column::MaybeDisplay(|(new, _)| new.traceparent.map(|parent| parent.to_string())),
        Column::MaybeUuid(|(new, _)| new.root_id),
        Column::MaybeBytes(|(new, _)| {
            let key = new.idempotency_key.as_ref()?;
            Some(key.request_hash.as_slice())
        }),
        Column::MaybeUuid(|(new, _)| new.parent.as_ref().map(|parent| parent.id)),
        Column::MaybeText(|(new, _)| new.parent.as_ref().map(|parent| parent.step.as_str())),
        Column::Integer(|(new, _)| {
            i64::from(new.parent.as_ref().is_some_and(|parent| parent.waits))
        }),
    ];
    let rows: Vec<Row> = new.iter().map(|new| (*new, owner)).collect();
    let inserted = rows::execute(connection, sql, &columns, &rows).await?;
    let fresh = |new: &&NewInstance| Created {
        id: new.id,
        existing: false,
        same_request: true,
    };
    if usize::try_from(inserted) == Ok(new.len()) {
        return Ok(new.iter().map(fresh).collect());
    }
    // A row whose key was taken gets the id of the existing instance.
    let keys: Vec<Key> = new.iter().filter_map(|new| key(new)).collect();
    let known = with_keys(connection, &keys).await?;
    let created = new.iter().map(|new| {
        let Some(key) = &new.idempotency_key else {
            return Ok(fresh(new));
        };
        let holder = known.get(&(new.workflow_id, key.text.clone())).copied();
        let lost = || error::corrupt("an instance that was neither created nor there", new.id);
        let holder = holder.ok_or_else(lost)?;
        Ok(Created {
            id: holder.id,
            existing: holder.id != new.id,
            same_request: holder.answers(&key.request_hash),
        })
    });
    created.collect()
}

/// Selects the instances of the given workflows with the given idempotency keys.
pub(super) const WITH_KEYS: &str = "SELECT seen.workflow_id, seen.idempotency_key, seen.id, seen.request_hash \
    FROM {rows} CROSS JOIN workflow_instances AS seen WHERE seen.workflow_id = given.column1 \
    AND seen.idempotency_key = given.column2 AND seen.idempotency_key IS NOT NULL";

/// Returns the instances that have these keys.
pub(super) async fn with_keys(
    connection: &mut Connection,
    keys: &[Key<'_>],
) -> Result<KeyHolders, StoreError> {
    let columns = [Column::Uuid(|key: &Key| key.0), Column::Text(|key| key.1)];
    let found: Vec<(Uuid, String, Uuid, Option<Vec<u8>>)> =
        rows::fetch(connection, WITH_KEYS, &columns, keys).await?;
    let holder = |(workflow, key, id, hash): (Uuid, String, Uuid, Option<Vec<u8>>)| {
        let request_hash = hash.map(RequestHash::try_from).transpose();
        let request_hash = request_hash.map_err(|_| error::corrupt("the hash of a request", id))?;
        Ok(((workflow, key), KeyHolder { id, request_hash }))
    };
    found.into_iter().map(holder).collect()
}
