//! One step's commit: the instance, its attempts and approvals, and the effects of the attempt, all or nothing.
//!
//! What costs CPU (writing JSON) happens in the caller's task, before the committer. Here are the rows of many commits
//! and the statements that write them, one for each kind of row; who may write is decided in [`super::group`].

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::backend::Connection;
use super::creation::NewRow;
use super::rows::{self, Column};
use super::storage_writes::{looked_at, written};
use super::usage::{Amounts, Changes, ROW_BYTES, change};
use super::{CommitError, StoreError, signed, to_json};
use crate::clock::Timestamp;
use crate::model::transition::{Change, DecidedApproval};
use crate::model::{
    ApprovalStatus, Attempt, Effects, EntryKey, Instance, Json, Name, NewApproval, TraceParent,
    WriteAction,
};

/// Those of the given instances that have the given version.
pub(super) const CURRENT: &str = "SELECT seen.id FROM {rows} CROSS JOIN workflow_instances AS seen \
    WHERE seen.id = given.column1 AND seen.version = given.column2{lock}";
/// Those of the given approvals of the given instances that wait.
pub(super) const PENDING: &str = "SELECT seen.id FROM {rows} CROSS JOIN workflow_approvals AS seen \
    WHERE seen.id = given.column1 AND seen.instance_id = given.column2 AND seen.status = 'pending'{lock}";
/// Those that stay where they are in every index. SQLite writes an index anew if a statement names one of its columns,
/// whatever the values are; so this one names none.
pub(super) const UPDATE_IN_PLACE: &str = "UPDATE workflow_instances SET current_step = given.column4, \
    version = version + 1, output = given.column5, failure = given.column6, updated_at = given.column7, \
    crashes = CASE WHEN workflow_instances.quarantined_at IS NULL THEN 0 ELSE workflow_instances.crashes END FROM {rows} \
    WHERE workflow_instances.id = given.column1 AND workflow_instances.version = given.column2 \
    AND workflow_instances.status = given.column3 AND workflow_instances.completed_at IS given.column8 \
    AND workflow_instances.wake_at IS given.column9 AND workflow_instances.owner = given.column10";
/// What never changes is not written: when it began, for one. An instance that ends leaves quarantine.
pub(super) const UPDATE_INSTANCES: &str = "UPDATE workflow_instances SET status = given.column3, \
    current_step = given.column4, version = version + 1, output = given.column5, failure = given.column6, \
    updated_at = given.column7, completed_at = given.column8, wake_at = given.column9, owner = given.column10, \
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

/// What one event did to an instance, with the effects of the attempt that led to it.
#[derive(Clone, Debug)]
pub struct StepCommit {
    /// The new state. Its `version` is still the one that was loaded: the row must have it, and gets the next; the
    /// caller adds 1 to its own copy afterwards. Its `metadata` is not written: that is an effect.
    pub instance: Instance,
    /// What the event added.
    pub change: Change,
    /// What the attempt wants to have written.
    pub effects: Effects,
    /// From here on count the times to live of storage entries.
    pub now: Timestamp,
    /// The span that waits for it, if that is recorded.
    pub trace: Option<TraceParent>,
}

/// A commit with its JSON written.
pub(super) struct PreparedCommit {
    pub(super) commit: StepCommit,
    /// The host that commits looks after the instance from now on.
    owner: Uuid,
    failure: Option<String>,
    attempts: Vec<AttemptRow>,
    pub(super) instances: Vec<NewRow>,
    /// The last one for each instance.
    metadata: BTreeMap<Uuid, Json>,
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
        let instances = std::mem::take(&mut commit.effects.instances);
        let instances = instances
            .into_iter()
            .map(|new| NewRow::new(new, owner))
            .collect::<Result<_, _>>()?;
        // The caches are told of it by the effects.
        let metadata = commit.effects.metadata.iter().cloned().collect();
        Ok(Self {
            commit,
            owner,
            failure,
            attempts,
            instances,
            metadata,
        })
    }

    /// The entries for whose writes it matters what is there.
    pub(super) fn looked_at(&self) -> impl Iterator<Item = (&Name, &EntryKey)> {
        looked_at(&self.commit.instance.team, &self.commit.effects.storage)
    }

    /// The entries that it writes.
    pub(super) fn written(&self) -> impl Iterator<Item = (&Name, &EntryKey)> {
        written(&self.commit.instance.team, &self.commit.effects.storage)
    }

    /// Returns what it adds to what its team has, without the entries and metadata that it replaces.
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
        for new in &self.instances {
            amounts += new.amounts();
        }
        amounts
    }

    /// Whether a guest made something that needs room: an output, an instance, an entry, metadata. Nothing else waits
    /// for a quota, so that what failed, was decided or was cancelled is always written.
    pub(super) fn needs_room(&self) -> bool {
        let puts = |action: &WriteAction| !matches!(action, WriteAction::Delete);
        self.attempts
            .iter()
            .any(|row| row.attempt.output.is_some() && row.attempt.plugin.is_some())
            || !self.instances.is_empty()
            || !self.metadata.is_empty()
            || self
                .commit
                .effects
                .storage
                .iter()
                .any(|write| puts(&write.action))
    }

    /// Bytes of the metadata that it writes.
    pub(super) fn metadata_bytes(&self) -> i64 {
        signed(
            self.metadata
                .values()
                .map(|metadata| metadata.len())
                .sum::<usize>(),
        )
    }

    /// How many rows it writes.
    pub(super) fn rows(&self) -> usize {
        let StepCommit {
            change, effects, ..
        } = &self.commit;
        1 + self.attempts.len()
            + change.new_approvals.len()
            + change.decided.len()
            + effects.storage.len()
            + self.instances.len()
            + self.metadata.len()
    }

    /// Bytes of the texts and values that have no small bound.
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
        let texts = self
            .instances
            .iter()
            .map(NewRow::bytes)
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

/// Those whose instance has the version that they saw. On Postgres their instances are locked.
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

/// Of the approvals that are decided, those that are still pending. On Postgres they are locked.
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

/// The new states. Each commit must meet the version that it saw.
pub(super) async fn update_instances(
    connection: &mut Connection,
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
    ];
    let mut updated = match connection {
        Connection::Sqlite(_) => {
            rows::execute(connection, UPDATE_IN_PLACE, &columns, commits).await?
        }
        // It looks at the values, and leaves indexes alone whose columns stay the same.
        Connection::Postgres(_) => 0,
    };
    if usize::try_from(updated) != Ok(commits.len()) {
        // Those that were updated have another version now, and are left out.
        updated += rows::execute(connection, UPDATE_INSTANCES, &columns, commits).await?;
    }
    all("an instance", commits.len(), updated)
}

pub(super) async fn insert_attempts(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<(), StoreError> {
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
    rows::execute(connection, sql, &columns, &attempts)
        .await
        .map(|_| ())
}

pub(super) async fn insert_approvals(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<(), StoreError> {
    type Row<'a> = (&'a Instance, &'a NewApproval);
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
    rows::execute(connection, sql, &columns, &approvals.collect::<Vec<_>>())
        .await
        .map(|_| ())
}

/// Each of them must still be pending: an approval is decided once.
pub(super) async fn decide_approvals(
    connection: &mut Connection,
    commits: &[&PreparedCommit],
) -> Result<(), CommitError> {
    type Row<'a> = (&'a Instance, &'a DecidedApproval);
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
    all(
        "an approval",
        decided.len(),
        rows::execute(connection, DECIDE_APPROVALS, &columns, &decided).await?,
    )
}

/// Of instances of the same team; others are left alone without a word, as if they were not there. The version is
/// not touched: metadata decides nothing, and a running step must not fail because somebody labelled its instance.
/// Adds to `changes` by how much longer it has become.
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
    // The last one for each instance stays.
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

/// True if rows that are read are locked on Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// Until the end of the transaction.
    Take,
    /// Not at all.
    None,
}

/// Returns how many bytes the metadata of those instances have that are there and of these teams.
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

/// A row that was not there, or not as it was expected, says so by its absence. Whose it was is asked in a second try.
fn all(what: &str, wanted: usize, affected: u64) -> Result<(), CommitError> {
    if usize::try_from(affected) == Ok(wanted) {
        Ok(())
    } else {
        Err(CommitError::conflict(what))
    }
}
