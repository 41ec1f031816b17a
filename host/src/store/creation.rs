//! Creation of instances, by clients or as the effect of a step.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::backend::Connection;
use super::rows::{self, Column};
use super::usage::{Amounts, ROW_BYTES};
use super::{StoreError, error, signed, to_json};
use crate::clock::Timestamp;
use crate::model::{Instance, NewInstance, RequestHash, StartFingerprint};

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

/// A new instance whose JSON is already written.
pub(super) struct NewRow {
    pub(super) instance: Instance,
    pub(super) idempotency_key: Option<String>,
    /// Set only together with an idempotency key.
    request_hash: Option<RequestHash>,
    /// The host that creates the instance and owns it.
    owner: Uuid,
    traceparent: Option<String>,
    pins: String,
}

impl NewRow {
    pub(super) fn new(mut new: NewInstance, owner: Uuid) -> Result<Self, StoreError> {
        let idempotency_key = new.idempotency_key.take();
        let request_hash = idempotency_key
            .is_some()
            .then(|| StartFingerprint::from(&new).hash());
        let instance = Instance::from(new);
        let traceparent = instance.traceparent.map(|parent| parent.to_string());
        let pins = to_json(&instance.pins)?;
        Ok(Self {
            instance,
            idempotency_key,
            request_hash,
            owner,
            traceparent,
            pins,
        })
    }

    /// The workflow id and the idempotency key, if there is a key.
    pub(super) fn key(&self) -> Option<Key<'_>> {
        self.idempotency_key
            .as_deref()
            .map(|key| (self.instance.workflow_id, key))
    }

    /// Returns how much the instance adds to its team's usage.
    pub(super) fn amounts(&self) -> Amounts {
        Amounts {
            unfinished: 1,
            bytes: ROW_BYTES + signed(self.bytes()),
        }
    }

    /// The total size of the texts that have no small bound, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.pins.len() + self.instance.input.len() + self.instance.metadata.len()
    }
}

/// A workflow id, and the idempotency key of one of its instances.
pub(super) type Key<'a> = (Uuid, &'a str);

/// Inserts instances in an open transaction, and returns the results in the order of `new`.
pub(super) async fn insert(
    connection: &mut Connection,
    new: &[&NewRow],
) -> Result<Vec<Created>, StoreError> {
    // Only a taken key is accepted silently; a duplicate id is a bug and stays an error.
    let sql = "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, entity_type, \
        entity_id, project_id, started_by, status, current_step, version, input, metadata, depth, idempotency_key, \
        created_at, started_at, updated_at, wake_at, owner, traceparent, root_id, request_hash) SELECT * FROM {rows} WHERE given.column1 IS NOT NULL \
        ON CONFLICT (workflow_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING";
    let columns = [
        Column::Uuid(|new: &&NewRow| new.instance.id),
        Column::Text(|new| new.instance.team.as_str()),
        Column::Uuid(|new| new.instance.workflow_id),
        Column::Text(|new| new.instance.workflow.as_str()),
        Column::Integer(|new| i64::from(new.instance.workflow_version)),
        Column::Text(|new| &new.pins),
        Column::MaybeText(|new| new.instance.entity_type.as_deref()),
        Column::MaybeText(|new| new.instance.entity_id.as_deref()),
        Column::MaybeText(|new| new.instance.project_id.as_deref()),
        Column::Text(|new| &new.instance.started_by),
        Column::Text(|new| new.instance.status.as_str()),
        Column::MaybeText(|new| new.instance.current_step.as_ref().map(|step| step.as_str())),
        Column::Integer(|new| signed(new.instance.version)),
        Column::Text(|new| new.instance.input.as_str()),
        Column::Text(|new| new.instance.metadata.as_str()),
        Column::Integer(|new| i64::from(new.instance.depth)),
        Column::MaybeText(|new| new.idempotency_key.as_deref()),
        Column::Integer(|new| new.instance.created_at.as_micros()),
        Column::Integer(|new| new.instance.started_at.as_micros()),
        Column::Integer(|new| new.instance.updated_at.as_micros()),
        Column::MaybeInteger(|new| new.instance.wake_at.map(Timestamp::as_micros)),
        Column::Uuid(|new| new.owner),
        Column::MaybeText(|new| new.traceparent.as_deref()),
        Column::MaybeUuid(|new| new.instance.root_id),
        Column::MaybeBytes(|new| new.request_hash.as_ref().map(RequestHash::as_slice)),
    ];
    let inserted = rows::execute(connection, sql, &columns, new).await?;
    let fresh = |new: &&NewRow| Created {
        id: new.instance.id,
        existing: false,
        same_request: true,
    };
    if usize::try_from(inserted) == Ok(new.len()) {
        return Ok(new.iter().map(fresh).collect());
    }
    // A row whose key was taken gets the id of the existing instance.
    let keys: Vec<Key> = new.iter().filter_map(|new| new.key()).collect();
    let known = with_keys(connection, &keys).await?;
    let created = new.iter().map(|new| match new.key() {
        None => Ok(fresh(new)),
        Some((workflow, key)) => {
            let holder = known.get(&(workflow, key.to_owned())).copied();
            let lost = || {
                error::corrupt(
                    "an instance that was neither created nor there",
                    new.instance.id,
                )
            };
            let holder = holder.ok_or_else(lost)?;
            let same_request = new
                .request_hash
                .as_ref()
                .is_none_or(|hash| holder.answers(hash));
            Ok(Created {
                id: holder.id,
                existing: holder.id != new.instance.id,
                same_request,
            })
        }
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
