//! The commit of one step: the instance, its attempts and approvals, and the effects of the
//! attempt, all or nothing.
//!
//! The caller's task writes the JSON, which costs CPU, before the commit reaches the committer.
//! This module has the rows of many commits and the statements that write the rows, one statement
//! for each kind of row. [`super::group`] decides which commits may be written.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::backend::Connection;
use super::creation;
use super::rows::{self, Column, StatementBatch};
use super::storage_writes::{looked_at, written};
use super::usage::{Amounts, Changes, ROW_BYTES, change};
use super::{CommitError, StoreError, signed, to_json};
use crate::clock::Timestamp;
use crate::model::transition::{Change, DecidedApproval};
use crate::model::{
    ApprovalStatus, Attempt, AttemptLog, Effects, EntryKey, Failure, Instance, InstanceStatus,
    Json, Name, NewApproval, NewInstance, StepAddress, TraceParent, WriteAction,
};

/// Selects the given instances that still have the given version.
pub(super) const CURRENT: &str = "SELECT seen.id FROM {rows} CROSS JOIN workflow_instances AS seen \
    WHERE seen.id = given.column1 AND seen.version = given.column2{lock}";
/// Selects the given approvals that are still pending.
pub(super) const PENDING: &str = "SELECT seen.id FROM {rows} CROSS JOIN workflow_approvals AS seen \
    WHERE seen.id = given.column1 AND seen.instance_id = given.column2 AND seen.status = 'pending'{lock}";
/// Updates the instances whose indexed columns keep their values. SQLite rewrites an index whenever
/// a statement assigns one of its columns, even the same value; so this statement assigns no
/// indexed column.
pub(super) const UPDATE_IN_PLACE: &str = "UPDATE workflow_instances SET current_step = given.column4, \
    version = version + 1, output = given.column5, failure = given.column6, updated_at = given.column7, \
    crashes = CASE WHEN workflow_instances.quarantined_at IS NULL THEN 0 ELSE workflow_instances.crashes END FROM {rows} \
    WHERE workflow_instances.id = given.column1 AND workflow_instances.version = given.column2 \
    AND workflow_instances.status = given.column3 AND workflow_instances.completed_at IS given.column8 \
    AND workflow_instances.wake_at IS given.column9 AND workflow_instances.owner = given.column10";
/// Updates instances, indexed columns included. Columns that never change, such as the start time,
/// are not written. An instance that ends leaves quarantine. An instance stays due if more of its
/// children have ended than the commit has seen.
pub(super) const UPDATE_INSTANCES: &str = "UPDATE workflow_instances SET status = given.column3, \
    current_step = given.column4, version = version + 1, output = given.column5, failure = given.column6, \
    updated_at = given.column7, completed_at = given.column8, owner = given.column10, \
    wake_at = CASE WHEN given.column8 IS NULL AND workflow_instances.quarantined_at IS NULL \
    AND workflow_instances.children_ended > given.column11 THEN given.column7 ELSE given.column9 END, \
    crashes = CASE WHEN workflow_instances.quarantined_at IS NULL THEN 0 ELSE workflow_instances.crashes END, \
    quarantined_at = CASE WHEN given.column8 IS NULL THEN workflow_instances.quarantined_at END FROM {rows} WHERE workflow_instances.id = given.column1 AND workflow_instances.version = given.column2";
pub(super) const DECIDE_APPROVALS: &str = "UPDATE workflow_approvals SET status = given.column3, \
    comment = given.column4, decided_at = given.column5 FROM {rows} WHERE workflow_approvals.id = given.column1 \
    AND workflow_approvals.instance_id = given.column2 AND workflow_approvals.status = 'pending'";
pub(super) const UPDATE_METADATA: &str = "UPDATE workflow_instances SET metadata = given.column3, \
    updated_at = given.column4 FROM {rows} \
    WHERE workflow_instances.id = given.column1 AND workflow_instances.team = given.column2";

const METADATA_BYTES: &str = "SELECT seen.id, CAST(octet_length(seen.metadata) AS BIGINT) \
    FROM {rows} CROSS JOIN workflow_instances AS seen WHERE seen.id = given.column1 AND seen.team = given.column2";

/// The columns of an instance that a commit writes, and those that its other rows need.
#[derive(Clone, Debug)]
pub struct InstanceUpdate {
    /// The instance's id.
    pub id: Uuid,
    /// The owner.
    pub team: Name,
    /// The workflow's name, for new approvals.
    pub workflow: Name,
    /// The instance at the top of the chain of creations, whose descendants are counted.
    pub root: Uuid,
    /// The instance whose step waits for the end of this one.
    pub waiting_parent: Option<Uuid>,
    /// The number of awaited children that had ended when the instance was loaded.
    pub children_ended: u64,
    /// The version that was loaded. The row must still have this version, and the commit increments
    /// it. The caller adds 1 to its own copy after the commit.
    pub version: u64,
    /// The new status.
    pub status: InstanceStatus,
    /// The step that runs or waits.
    pub current_step: Option<StepAddress>,
    /// The result of a completed instance.
    pub output: Option<Json>,
    /// The reason of a rejection, failure or cancellation.
    pub failure: Option<Failure>,
    /// The time of the change.
    pub updated_at: Timestamp,
    /// The time at which the status became final.
    pub completed_at: Option<Timestamp>,
    /// The time at which the engine must look at the instance next.
    pub wake_at: Option<Timestamp>,
}

impl From<&Instance> for InstanceUpdate {
    fn from(instance: &Instance) -> Self {
        Self {
            id: instance.id,
            team: instance.team.clone(),
            workflow: instance.workflow.clone(),
            root: instance.root(),
            waiting_parent: instance
                .parent
                .as_ref()
                .filter(|parent| parent.waits)
                .map(|parent| parent.id),
            children_ended: instance.children_ended,
            version: instance.version,
            status: instance.status,
            current_step: instance.current_step.clone(),
            output: instance.output.clone(),
            failure: instance.failure.clone(),
            updated_at: instance.updated_at,
            completed_at: instance.completed_at,
            wake_at: instance.wake_at,
        }
    }
}

/// The result of one event for an instance, with the effects of the attempt that led to the event.
#[derive(Clone, Debug)]
pub struct StepCommit {
    /// The new state of the instance.
    pub instance: InstanceUpdate,
    /// The attempts and approvals that the event added, and the approvals that it decided.
    pub change: Change,
    /// The writes that the attempt asked for.
    pub effects: Effects,
    /// The time from which the lifetimes of storage entries count.
    pub now: Timestamp,
    /// The span that waits for the commit, if the instance is traced.
    pub trace: Option<TraceParent>,
}

/// A commit whose JSON is already written.
pub(super) struct PreparedCommit {
    pub(super) commit: StepCommit,
    /// The host that commits; it owns the instance from then on.
    pub(super) owner: Uuid,
    failure: Option<String>,
    attempts: Vec<AttemptRow>,
    /// The last metadata written for each instance.
    pub(super) metadata: BTreeMap<Uuid, Json>,
}

struct AttemptRow {
    attempt: Attempt,
    failure: Option<String>,
}

impl PreparedCommit {
    pub(super) fn new(mut commit: StepCommit, owner: Uuid) -> Result<Self, StoreError> {
        let failure = commit.instance.failure.as_ref().map(to_json).transpose()?;
        let attempts = std::mem::take(&mut commit.change.attempts)
            .into_iter()
            .map(|attempt| {
                let failure = attempt.failure.as_ref().map(to_json).transpose()?;
                Ok(AttemptRow { attempt, failure })
            });
        let attempts = attempts.collect::<Result<_, StoreError>>()?;
        let metadata = std::mem::take(&mut commit.effects.metadata);
        let metadata = metadata.into_iter().collect();
        Ok(Self {
            commit,
            owner,
            failure,
            attempts,
            metadata,
        })
    }

    /// The instances that the step creates.
    pub(super) fn created(&self) -> &[NewInstance] {
        &self.commit.effects.instances
    }

    /// The instance whose step waits for the end that the commit writes.
    pub(super) fn ended_for(&self) -> Option<Uuid> {
        let instance = &self.commit.instance;
        instance
            .waiting_parent
            .filter(|_| instance.completed_at.is_some())
    }

    /// The entries that are read before the write, because of a guard or an increment.
    pub(super) fn looked_at(&self) -> impl Iterator<Item = (&Name, &EntryKey)> {
        looked_at(&self.commit.instance.team, &self.commit.effects.storage)
    }

    /// The entries that the commit writes.
    pub(super) fn written(&self) -> impl Iterator<Item = (&Name, &EntryKey)> {
        written(&self.commit.instance.team, &self.commit.effects.storage)
    }

    /// Returns how much the commit adds to the team's usage, without replaced entries and metadata.
    pub(super) fn amounts(&self) -> Amounts {
        let StepCommit {
            instance, change, ..
        } = &self.commit;
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let json = |json: &Option<Json>| json.as_ref().map_or(0, Json::len);
        let mut amounts = Amounts::default();
        if instance.completed_at.is_some() {
            amounts += Amounts {
                unfinished: -1,
                versions: 0,
                bytes: signed(json(&instance.output) + length(&self.failure)),
            };
        }
        let attempts = self
            .attempts
            .iter()
            .map(|row| json(&row.attempt.output) + length(&row.failure));
        let approvals = change
            .new_approvals
            .iter()
            .map(|approval| approval.title.len());
        for row in attempts.chain(approvals) {
            amounts += Amounts::bytes(ROW_BYTES + signed(row));
        }
        for approval in &change.decided {
            amounts += Amounts::bytes(signed(length(&approval.comment)));
        }
        for new in self.created() {
            amounts += creation::amounts(new);
        }
        amounts
    }

    /// Returns whether a guest made something that a quota must allow: an output, an instance, an
    /// entry or metadata. A quota stops nothing else, so failures, decisions and cancellations are
    /// always written.
    pub(super) fn needs_room(&self) -> bool {
        let puts = |action: &WriteAction| !matches!(action, WriteAction::Delete);
        self.attempts
            .iter()
            .any(|row| row.attempt.output.is_some() && row.attempt.plugin.is_some())
            || !self.created().is_empty()
            || !self.metadata.is_empty()
            || self
                .commit
                .effects
                .storage
                .iter()
                .any(|write| puts(&write.action))
    }

    /// The size of the metadata that the commit writes, in bytes.
    pub(super) fn metadata_bytes(&self) -> i64 {
        signed(
            self.metadata
                .values()
                .map(|metadata| metadata.len())
                .sum::<usize>(),
        )
    }

    /// The number of rows that the commit writes.
    pub(super) fn rows(&self) -> usize {
        let StepCommit {
            change, effects, ..
        } = &self.commit;
        1 + self.attempts.len()
            + change.new_approvals.len()
            + change.decided.len()
            + change.stopped_children.len()
            + usize::from(self.ended_for().is_some())
            + effects.storage.len()
            + effects.instances.len()
            + effects.logs.len()
            + self.metadata.len()
    }

    /// The total size of texts and values that have no small bound, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let json = |json: &Option<Json>| json.as_ref().map_or(0, Json::len);
        let StepCommit {
            instance,
            change,
            effects,
            ..
        } = &self.commit;
        let attempts = self
            .attempts
            .iter()
            .map(|row| json(&row.attempt.output) + length(&row.failure));
        let values = effects.storage.iter().map(|write| match &write.action {
            WriteAction::Put { value, .. } => value.len(),
            WriteAction::Delete | WriteAction::Increment(_) => 0,
        });
        let comments = change
            .decided
            .iter()
            .map(|approval| length(&approval.comment));
        let texts = effects
            .instances
            .iter()
            .map(creation::bytes)
            .chain(effects.logs.iter().map(|log| log.lines.len()))
            .chain(self.metadata.values().map(Json::len));
        json(&instance.output)
            + length(&self.failure)
            + attempts
                .chain(values)
                .chain(comments)
                .chain(texts)
                .sum::<usize>()
    }
}

/// Returns the instances that still have the version that their commit saw. On Postgres the rows
/// are locked.
pub(super) async fn current(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<HashSet<Uuid>, StoreError> {
    let columns = [
        Column::Uuid(|prepared: &&PreparedCommit| prepared.commit.instance.id),
        Column::Integer(|prepared| signed(prepared.commit.instance.version)),
    ];
    let found: Vec<(Uuid,)> = rows::fetch(connection, CURRENT, &columns, commits).await?;
    Ok(found.into_iter().map(|(id,)| id).collect())
}

/// Returns the approvals decided by `commits` that are still pending. On Postgres the rows are
/// locked.
pub(super) async fn pending(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<HashSet<Uuid>, StoreError> {
    let columns = [
        Column::Uuid(|row: &(Uuid, Uuid)| row.0),
        Column::Uuid(|row| row.1),
    ];
    let decided = commits.iter().flat_map(|prepared| {
        let StepCommit {
            instance, change, ..
        } = &prepared.commit;
        change
            .decided
            .iter()
            .map(|approval| (approval.id, instance.id))
    });
    let found: Vec<(Uuid,)> =
        rows::fetch(connection, PENDING, &columns, &decided.collect::<Vec<_>>()).await?;
    Ok(found.into_iter().map(|(id,)| id).collect())
}

/// Writes the new states. A conflict if an instance no longer has the version that its commit saw.
pub(super) async fn update_instances(
    writes: &mut StatementBatch<'_>,
    commits: &[&PreparedCommit],
) -> Result<(), CommitError> {
    let columns = [
        Column::Uuid(|prepared: &&PreparedCommit| prepared.commit.instance.id),
        Column::Integer(|prepared| signed(prepared.commit.instance.version)),
        Column::Text(|prepared| prepared.commit.instance.status.as_str()),
        Column::MaybeText(|prepared| {
            prepared
                .commit
                .instance
                .current_step
                .as_ref()
                .map(|step| step.as_str())
        }),
        Column::MaybeText(|prepared| prepared.commit.instance.output.as_ref().map(Json::as_str)),
        Column::MaybeText(|prepared| prepared.failure.as_deref()),
        Column::Integer(|prepared| prepared.commit.instance.updated_at.as_micros()),
        Column::MaybeInteger(|prepared| {
            prepared
                .commit
                .instance
                .completed_at
                .map(Timestamp::as_micros)
        }),
        Column::MaybeInteger(|prepared| prepared.commit.instance.wake_at.map(Timestamp::as_micros)),
        Column::Uuid(|prepared| prepared.owner),
        Column::Integer(|prepared| signed(prepared.commit.instance.children_ended)),
    ];
    // SQLite tries to leave the row where it is in every index. Postgres does that by itself for
    // columns that keep their values. A row that the first statement updated has another version
    // now, so the second skips it.
    let statements: &[&str] = if writes.is_sqlite() {
        &[UPDATE_IN_PLACE, UPDATE_INSTANCES]
    } else {
        &[UPDATE_INSTANCES]
    };
    writes
        .change("an instance", statements, &columns, commits)
        .await
}

pub(super) async fn insert_attempts(
    writes: &mut StatementBatch<'_>,
    commits: &[&PreparedCommit],
) -> Result<(), CommitError> {
    let sql = "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, failure, started_at, \
        finished_at, retry_at) SELECT * FROM {rows} WHERE given.column1 IS NOT NULL";
    let columns = [
        Column::Uuid(|row: &&AttemptRow| row.attempt.instance_id),
        Column::Text(|row| row.attempt.step.as_str()),
        Column::Integer(|row| i64::from(row.attempt.number)),
        Column::Text(|row| row.attempt.outcome.as_str()),
        Column::MaybeText(|row| row.attempt.plugin.as_deref()),
        Column::MaybeText(|row| row.attempt.output.as_ref().map(Json::as_str)),
        Column::MaybeText(|row| row.failure.as_deref()),
        Column::Integer(|row| row.attempt.started_at.as_micros()),
        Column::Integer(|row| row.attempt.finished_at.as_micros()),
        Column::MaybeInteger(|row| row.attempt.retry_at.map(Timestamp::as_micros)),
    ];
    let attempts: Vec<_> = commits
        .iter()
        .flat_map(|prepared| &prepared.attempts)
        .collect();
    writes
        .change("an attempt", &[sql], &columns, &attempts)
        .await
}

/// Writes the log lines of attempts; no statement if none wrote any.
pub(super) async fn insert_logs(
    writes: &mut StatementBatch<'_>,
    commits: &[&PreparedCommit],
) -> Result<(), CommitError> {
    type Row<'a> = (Uuid, &'a AttemptLog);
    let sql = "INSERT INTO attempt_logs (instance_id, finished_at, step, number, dropped, lines) \
        SELECT * FROM {rows} WHERE given.column1 IS NOT NULL";
    let columns = [
        Column::Uuid(|(instance, _): &Row| *instance),
        Column::Integer(|(_, log)| log.finished_at.as_micros()),
        Column::Text(|(_, log)| log.step.as_str()),
        Column::Integer(|(_, log)| i64::from(log.number)),
        Column::Integer(|(_, log)| i64::from(log.dropped)),
        Column::Text(|(_, log)| log.lines.as_str()),
    ];
    let logs = commits.iter().flat_map(|prepared| {
        let StepCommit {
            instance, effects, ..
        } = &prepared.commit;
        effects.logs.iter().map(move |log| (instance.id, log))
    });
    let logs: Vec<_> = logs.collect();
    writes
        .change("the log of an attempt", &[sql], &columns, &logs)
        .await
}

pub(super) async fn insert_approvals(
    writes: &mut StatementBatch<'_>,
    commits: &[&PreparedCommit],
) -> Result<(), CommitError> {
    type Row<'a> = (&'a InstanceUpdate, &'a NewApproval);
    let sql = "INSERT INTO workflow_approvals (id, team, instance_id, workflow, step, approver_id, title, quorum, \
        status, created_at, expires_at) SELECT * FROM {rows} WHERE given.column1 IS NOT NULL";
    let columns = [
        Column::Uuid(|(_, approval): &Row| approval.id),
        Column::Text(|(_, approval)| approval.team.as_str()),
        Column::Uuid(|(_, approval)| approval.instance_id),
        Column::Text(|(instance, _)| instance.workflow.as_str()),
        Column::Text(|(_, approval)| approval.step.as_str()),
        Column::Text(|(_, approval)| &approval.approver_id),
        Column::Text(|(_, approval)| &approval.title),
        Column::Integer(|(_, approval)| i64::from(approval.quorum)),
        Column::Text(|_| ApprovalStatus::Pending.as_str()),
        Column::Integer(|(_, approval)| approval.created_at.as_micros()),
        Column::Integer(|(_, approval)| approval.expires_at.as_micros()),
    ];
    let approvals = commits.iter().flat_map(|prepared| {
        let StepCommit {
            instance, change, ..
        } = &prepared.commit;
        change
            .new_approvals
            .iter()
            .map(move |approval| (instance, approval))
    });
    let approvals: Vec<_> = approvals.collect();
    writes
        .change("an approval", &[sql], &columns, &approvals)
        .await
}

/// Decides approvals. A conflict unless all of them are still pending: an approval is decided once.
pub(super) async fn decide_approvals(
    writes: &mut StatementBatch<'_>,
    commits: &[&PreparedCommit],
) -> Result<(), CommitError> {
    type Row<'a> = (&'a InstanceUpdate, &'a DecidedApproval);
    let columns = [
        Column::Uuid(|(_, approval): &Row| approval.id),
        Column::Uuid(|(instance, _)| instance.id),
        Column::Text(|(_, approval)| approval.status.as_str()),
        Column::MaybeText(|(_, approval)| approval.comment.as_deref()),
        Column::Integer(|(instance, _)| instance.updated_at.as_micros()),
    ];
    let decided = commits.iter().flat_map(|prepared| {
        let StepCommit {
            instance, change, ..
        } = &prepared.commit;
        change
            .decided
            .iter()
            .map(move |approval| (instance, approval))
    });
    let decided: Vec<_> = decided.collect();
    writes
        .change("an approval", &[DECIDE_APPROVALS], &columns, &decided)
        .await
}

/// Writes metadata of instances of the step's team; ids of other teams are ignored. The version
/// stays the same, because metadata decides nothing and a label must not make a running step fail.
/// Adds the growth in bytes to `changes`.
pub(super) async fn update_metadata(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
    changes: &mut Changes,
) -> Result<(), StoreError> {
    type Row<'a> = (&'a Name, Uuid, Timestamp, &'a str);
    let columns = [
        Column::Uuid(|(_, id, _, _): &Row| *id),
        Column::Text(|(team, ..)| team.as_str()),
        Column::Text(|(_, _, _, metadata)| metadata),
        Column::Integer(|(_, _, now, _)| now.as_micros()),
    ];
    // Only the last metadata written for each instance is kept.
    let mut last: BTreeMap<(Uuid, &Name), Row> = BTreeMap::new();
    for prepared in commits {
        let team = &prepared.commit.instance.team;
        for (id, metadata) in &prepared.metadata {
            last.insert(
                (*id, team),
                (team, *id, prepared.commit.now, metadata.as_str()),
            );
        }
    }
    let rows = last.into_values().collect::<Vec<_>>();
    if rows.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = rows
        .iter()
        .map(|(team, id, ..)| (*id, team.as_str()))
        .collect();
    let known = metadata_bytes(connection, &ids, Lock::Take).await?;
    for (team, id, _, metadata) in &rows {
        if let Some(bytes) = known.get(id) {
            change(
                changes,
                team,
                Amounts::bytes(signed(metadata.len()) - bytes),
            );
        }
    }
    rows::execute(connection, UPDATE_METADATA, &columns, &rows)
        .await
        .map(|_| ())
}

/// A choice between locking the rows that are read and leaving them unlocked. Only Postgres locks
/// rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Lock the rows until the end of the transaction.
    Take,
    /// Lock no rows.
    None,
}

/// Returns the size of the metadata of each instance in bytes. Instances that do not exist or that
/// belong to another team are absent.
pub(super) async fn metadata_bytes(
    connection: &mut Connection,
    ids: &[(Uuid, &str)],
    lock: Lock,
) -> Result<HashMap<Uuid, i64>, StoreError> {
    let columns = [
        Column::Uuid(|row: &(Uuid, &str)| row.0),
        Column::Text(|row| row.1),
    ];
    let sql = if lock == Lock::Take {
        format!("{METADATA_BYTES}{{lock}}")
    } else {
        METADATA_BYTES.to_owned()
    };
    let found: Vec<(Uuid, i64)> = rows::fetch(connection, &sql, &columns, ids).await?;
    Ok(found.into_iter().collect())
}
