//! Instances that steps of other instances have started.
//!
//! A child that ends makes its waiting parent due, in the transaction of its end. That is no change
//! of the parent: the parent's version stays, and its driver may commit meanwhile. So a lost wake-up
//! must be excluded in another way. The end adds one to the parent's `children_ended`, and each
//! commit of the parent states the number that it has seen. If there are more by then, the parent
//! stays due. On Postgres the lock of the parent's row puts the two in an order.
//!
//! A child whose parent waits no more is marked in the transaction of the parent's change. The mark
//! is a change of the child, so an attempt that runs meanwhile has no effect any more. The driver of
//! the child then cancels it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::commit::PreparedCommit;
use super::rows::{self, Column};
use super::{Store, StoreError, error, from_json, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::{Child, ChildEnd, Failure, Instance, InstanceStatus, Json, Parent};

/// Most bytes of children's outputs that are loaded at once. The first output may be larger.
const OUTPUT_BYTES_MAX: u64 = 8 * 1_024 * 1_024;

pub(super) const LINKS: &str = "SELECT id, parent_step, workflow FROM workflow_instances \
    WHERE parent_id = $1 AND team = $2 ORDER BY id LIMIT $3";

/// A child of an instance, for display.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct ChildLink {
    /// The id of the child.
    pub id: Uuid,
    /// The address of the step that started it.
    #[sqlx(rename = "parent_step")]
    pub step: String,
    /// The workflow's name.
    pub workflow: String,
}

impl Store {
    /// Returns the first `limit` children of an instance, in the order in which they were started.
    /// Reads nothing if no step of its workflow starts another one.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn children(
        &self,
        instance: &Instance,
        limit: u32,
    ) -> Result<Vec<ChildLink>, StoreError> {
        let (team, id) = (instance.team.clone(), instance.id);
        let version = self
            .workflow_version(&team, &instance.workflow, instance.workflow_version)
            .await?;
        if !version.is_some_and(|version| version.definition.starts_children()) {
            return Ok(Vec::new());
        }
        let store = self.clone();
        self.detached(async move {
            let mut connection = store.read().await?;
            Ok(with_backend!(connection, c => sqlx::query_as(LINKS)
                .bind(id)
                .bind(team.as_str())
                .bind(signed(limit))
                .fetch_all(c)
                .await)?)
        })
        .await
    }
}

/// Makes parents due. An instance that no host drives becomes the committing host's own, because its
/// owner may be gone for good.
pub(super) const WAKE_PARENTS: &str = "UPDATE workflow_instances SET \
    children_ended = workflow_instances.children_ended + given.column2, \
    owner = CASE WHEN workflow_instances.wake_at IS NULL THEN given.column4 ELSE workflow_instances.owner END, \
    wake_at = CASE WHEN workflow_instances.quarantined_at IS NOT NULL \
    OR workflow_instances.wake_at < given.column3 THEN workflow_instances.wake_at ELSE given.column3 END \
    FROM {rows} WHERE workflow_instances.id = given.column1 AND workflow_instances.completed_at IS NULL";
/// Marks children that are to be cancelled, also those in quarantine. A child that has ended is marked
/// too, so that it is not loaded with its parent again, but does not change otherwise.
pub(super) const STOP_CHILDREN: &str = "UPDATE workflow_instances SET cancel_requested_at = given.column2, \
    version = version + CASE WHEN workflow_instances.completed_at IS NULL THEN 1 ELSE 0 END, \
    owner = CASE WHEN workflow_instances.wake_at IS NULL THEN given.column3 ELSE workflow_instances.owner END, \
    wake_at = CASE WHEN workflow_instances.completed_at IS NULL THEN given.column2 END \
    FROM {rows} WHERE workflow_instances.id = given.column1 AND workflow_instances.cancel_requested_at IS NULL";
/// Selects the children of instances whose steps have no attempt and still wait, and the size of their
/// outputs.
pub(super) const CHILDREN: &str = "SELECT seen.id, seen.parent_id, seen.parent_step, seen.parent_waits, seen.workflow, \
    seen.status, seen.failure, seen.created_at, CAST(COALESCE(octet_length(seen.output), 0) AS BIGINT) AS output_bytes \
    FROM {rows} CROSS JOIN workflow_instances AS seen WHERE seen.parent_id = given.column1 \
    AND seen.cancel_requested_at IS NULL AND NOT EXISTS (SELECT 1 FROM step_attempts AS settled WHERE settled.instance_id = seen.parent_id \
    AND settled.step = seen.parent_step) ORDER BY seen.id";
const OUTPUTS: &str = "SELECT seen.id, seen.output FROM {rows} CROSS JOIN workflow_instances AS seen \
    WHERE seen.id = given.column1";
/// Selects the given instances that an unfinished parent waits for, or has waited for.
pub(super) const AWAITED: &str = "SELECT seen.id FROM {rows} CROSS JOIN workflow_instances AS seen \
    JOIN workflow_instances AS parent ON parent.id = seen.parent_id \
    WHERE seen.id = given.column1 AND seen.parent_waits = 1 AND parent.completed_at IS NULL";

/// Marks the children that the commits no longer wait for. This is the first write of a group, so
/// that a child is locked before its parent, as at the end of a child.
pub(super) async fn stop(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<(), StoreError> {
    type Row = (Uuid, Timestamp, Uuid);
    let columns = [
        Column::Uuid(|row: &Row| row.0),
        Column::Integer(|row| row.1.as_micros()),
        Column::Uuid(|row| row.2),
    ];
    let stopped = commits.iter().flat_map(|prepared| {
        let commit = &prepared.commit;
        let ids = commit.change.stopped_children.iter();
        ids.map(|id| (*id, commit.instance.updated_at, prepared.owner))
    });
    let stopped: BTreeSet<Row> = stopped.collect();
    if stopped.is_empty() {
        return Ok(());
    }
    let stopped = Vec::from_iter(stopped);
    rows::execute(connection, STOP_CHILDREN, &columns, &stopped)
        .await
        .map(|_| ())
}

/// Makes the parents due that wait for the instances which end. This is the last write of a group.
pub(super) async fn wake_parents(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<(), StoreError> {
    type Row = (Uuid, i64, Timestamp, Uuid);
    let mut ended: BTreeMap<Uuid, Row> = BTreeMap::new();
    for prepared in commits {
        if let Some(parent) = prepared.ended_for() {
            let now = prepared.commit.instance.updated_at;
            let row = ended.entry(parent);
            row.or_insert((parent, 0, now, prepared.owner)).1 += 1;
        }
    }
    if ended.is_empty() {
        return Ok(());
    }
    let columns = [
        Column::Uuid(|row: &Row| row.0),
        Column::Integer(|row| row.1),
        Column::Integer(|row| row.2.as_micros()),
        Column::Uuid(|row| row.3),
    ];
    let ended: Vec<_> = ended.into_values().collect();
    rows::execute(connection, WAKE_PARENTS, &columns, &ended)
        .await
        .map(|_| ())
}

/// Returns those of the instances that an unfinished parent waits for, or has waited for. They must
/// not be deleted: the parent may not have seen the end yet.
pub(super) async fn awaited(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<BTreeSet<Uuid>, StoreError> {
    let columns = [Column::Uuid(|id: &Uuid| *id)];
    let found: Vec<(Uuid,)> = rows::fetch(connection, AWAITED, &columns, ids).await?;
    Ok(found.into_iter().map(|(id,)| id).collect())
}

/// Returns the step that has started an instance.
pub(super) fn parent(
    id: Option<Uuid>,
    step: Option<String>,
    waits: i64,
) -> Result<Option<Parent>, StoreError> {
    let (Some(id), Some(step)) = (id, step) else {
        return Ok(None);
    };
    Ok(Some(Parent {
        id,
        step: parse("the step of an instance's parent", &step)?,
        waits: waits != 0,
    }))
}

#[derive(sqlx::FromRow)]
struct ChildRow {
    id: Uuid,
    parent_id: Uuid,
    parent_step: String,
    parent_waits: i64,
    workflow: String,
    status: String,
    failure: Option<String>,
    created_at: i64,
    output_bytes: i64,
}

/// The children of an instance whose steps have not ended.
#[derive(Default)]
pub(super) struct Children {
    pub(super) children: Vec<Child>,
    /// True if the outputs of some children that have ended are not loaded.
    pub(super) more: bool,
}

/// Loads the children of instances whose steps have not ended.
pub(super) async fn of_instances(
    connection: &mut Connection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Children>, StoreError> {
    let columns = [Column::Uuid(|id: &Uuid| *id)];
    let found: Vec<ChildRow> = rows::fetch(connection, CHILDREN, &columns, ids).await?;
    let mut parents: HashMap<Uuid, (Children, u64)> = HashMap::new();
    let mut with_output: Vec<Uuid> = Vec::new();
    for row in found {
        let (family, bytes) = parents.entry(row.parent_id).or_default();
        let status = InstanceStatus::parse(&row.status);
        let status = status.ok_or_else(|| error::corrupt("an instance's status", &row.status))?;
        let output_bytes: u64 = unsigned("a size", row.output_bytes)?;
        let awaited = row.parent_waits != 0;
        let mut has_end = awaited && status.is_final();
        if has_end && output_bytes > 0 {
            has_end = *bytes == 0 || *bytes + output_bytes <= OUTPUT_BYTES_MAX;
            if has_end {
                *bytes += output_bytes;
                with_output.push(row.id);
            } else {
                family.more = true;
            }
        }
        let failure = error::readable(
            row.failure
                .map(|text| from_json::<Failure>("an instance's failure", &text)),
        );
        family.children.push(Child {
            id: row.id,
            step: parse("the step of an instance's parent", &row.parent_step)?,
            workflow: parse("an instance's workflow", &row.workflow)?,
            awaited,
            created_at: Timestamp::from_micros(row.created_at),
            exists: true,
            end: has_end.then_some(ChildEnd {
                status,
                output: None,
                failure,
            }),
        });
    }
    let outputs: Vec<(Uuid, Option<String>)> =
        rows::fetch(connection, OUTPUTS, &columns, &with_output).await?;
    let mut outputs: HashMap<Uuid, Option<String>> = outputs.into_iter().collect();
    let families = parents.into_iter().map(|(parent, (mut family, _))| {
        for child in &mut family.children {
            if let Some(end) = &mut child.end {
                end.output = outputs.remove(&child.id).flatten().map(Json::stored);
            }
        }
        (parent, family)
    });
    Ok(families.collect())
}
