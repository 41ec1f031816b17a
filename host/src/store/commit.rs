//! One step's commit: the instance, its attempts and approvals, and the effects of the attempt, all or nothing.
//!
//! What costs CPU (writing JSON) happens in the caller's task, before the committer; what decides (versions, guards)
//! happens here, inside the transaction.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::backend::{BINDS_MAX, Connection, on};
use super::creation::{self, NewRow};
use super::storage::{self, Versions};
use super::{CommitError, StoreError, signed, to_json};
use crate::clock::Timestamp;
use crate::model::transition::{Change, DecidedApproval};
use crate::model::{ApprovalStatus, Effects, Instance, NewApproval};

/// Statements with more rows than this are not kept prepared: there would be one for every number of rows.
pub(super) const PREPARED_ROWS_MAX: usize = 16;

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
}

/// A commit with its JSON written.
pub(super) struct PreparedCommit {
    pub(super) commit: StepCommit,
    output: Option<String>,
    failure: Option<String>,
    /// Output and failure of each attempt.
    attempts: Vec<(Option<String>, Option<String>)>,
    instances: Vec<NewRow>,
    /// The last one for each instance.
    metadata: BTreeMap<Uuid, String>,
}

impl PreparedCommit {
    pub(super) fn new(mut commit: StepCommit) -> Result<Self, StoreError> {
        let output = commit.instance.output.as_ref().map(to_json).transpose()?;
        let failure = commit.instance.failure.as_ref().map(to_json).transpose()?;
        let attempts = commit.change.attempts.iter().map(|attempt| {
            let output = attempt.output.as_ref().map(to_json).transpose()?;
            Ok((output, attempt.failure.as_ref().map(to_json).transpose()?))
        });
        let attempts = attempts.collect::<Result<_, StoreError>>()?;
        let instances = std::mem::take(&mut commit.effects.instances);
        let instances = instances.into_iter().map(NewRow::new).collect::<Result<_, _>>()?;
        let metadata = commit.effects.metadata.iter().map(|(id, value)| Ok((*id, to_json(value)?)));
        let metadata = metadata.collect::<Result<_, StoreError>>()?;
        Ok(Self { commit, output, failure, attempts, instances, metadata })
    }

    /// The instances that it creates.
    pub(super) fn instances(&self) -> &[NewRow] {
        &self.instances
    }

    /// Writes all of it into an open transaction. After an error the caller rolls back to before it.
    pub(super) async fn write(&self, connection: &mut Connection, versions: &Versions) -> Result<(), CommitError> {
        // The guard comes first: most conflicts are found by one statement.
        self.update_instance(connection).await?;
        self.insert_attempts(connection).await?;
        let change = &self.commit.change;
        let instance = &self.commit.instance;
        // An approval can be asked for and cancelled by one event, so the new ones come first.
        insert_approvals(connection, instance, &change.new_approvals).await?;
        decide_approvals(connection, instance.id, &change.decided, instance.updated_at).await?;
        let effects = &self.commit.effects;
        storage::write(connection, &instance.team, &effects.storage, self.commit.now, versions).await?;
        self.create_instances(connection).await?;
        self.update_metadata(connection).await
    }

    async fn update_instance(&self, connection: &mut Connection) -> Result<(), CommitError> {
        let instance = &self.commit.instance;
        let updated = on!(connection, c => sqlx::query(
            "UPDATE workflow_instances SET status = $3, current_step = $4, version = version + 1, output = $5, \
             failure = $6, started_at = $7, updated_at = $8, completed_at = $9, wake_at = $10 \
             WHERE id = $1 AND version = $2",
        )
        .bind(instance.id)
        .bind(signed(instance.version))
        .bind(instance.status.as_str())
        .bind(instance.current_step.as_ref().map(|step| step.as_str()))
        .bind(self.output.as_deref())
        .bind(self.failure.as_deref())
        .bind(instance.started_at.as_micros())
        .bind(instance.updated_at.as_micros())
        .bind(instance.completed_at.map(Timestamp::as_micros))
        .bind(instance.wake_at.map(Timestamp::as_micros))
        .execute(c)
        .await
        .map(|done| done.rows_affected()))?;
        if updated == 1 { Ok(()) } else { Err(CommitError::Conflict(format!("instance {}", instance.id))) }
    }

    async fn insert_attempts(&self, connection: &mut Connection) -> Result<(), CommitError> {
        const COLUMNS: usize = 10;
        let rows: Vec<_> = self.commit.change.attempts.iter().zip(&self.attempts).collect();
        for rows in rows.chunks(BINDS_MAX / COLUMNS) {
            on!(connection, c: Database => {
                let mut query = QueryBuilder::<Database>::new(
                    "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, failure, \
                     started_at, finished_at, retry_at) ",
                );
                query.push_values(rows, |mut row, (attempt, (output, failure))| {
                    row.push_bind(attempt.instance_id)
                        .push_bind(attempt.step.as_str())
                        .push_bind(i64::from(attempt.number))
                        .push_bind(attempt.outcome.as_str())
                        .push_bind(attempt.plugin.as_deref())
                        .push_bind(output.as_deref())
                        .push_bind(failure.as_deref())
                        .push_bind(attempt.started_at.as_micros())
                        .push_bind(attempt.finished_at.as_micros())
                        .push_bind(attempt.retry_at.map(Timestamp::as_micros));
                });
                query.build().persistent(rows.len() <= PREPARED_ROWS_MAX).execute(c).await.map(|_| ())
            })?;
        }
        Ok(())
    }

    async fn create_instances(&self, connection: &mut Connection) -> Result<(), CommitError> {
        let created = creation::insert(connection, &self.instances).await?;
        for (created, row) in created.iter().zip(&self.instances) {
            if created.existing {
                // The step was told that the key was free. It runs again and is told otherwise.
                let key = row.idempotency_key.as_deref().unwrap_or_default();
                return Err(CommitError::Conflict(format!("the idempotency key '{}'", key.escape_debug())));
            }
        }
        Ok(())
    }

    /// Of instances of the same team; others are left alone without a word, as if they were not there. The version is
    /// not touched: metadata decides nothing, and a running step must not fail because somebody labelled its instance.
    async fn update_metadata(&self, connection: &mut Connection) -> Result<(), CommitError> {
        let rows: Vec<_> = self.metadata.iter().collect();
        for rows in rows.chunks(BINDS_MAX / 2 - 1) {
            on!(connection, c: Database => {
                let mut query = QueryBuilder::<Database>::new(
                    "UPDATE workflow_instances SET metadata = v.column2, updated_at = ",
                );
                query.push_bind(self.commit.now.as_micros()).push(" FROM (");
                query.push_values(rows, |mut row, (id, metadata)| {
                    row.push_bind(**id).push_bind(metadata.as_str());
                });
                query.push(") AS v WHERE workflow_instances.id = v.column1 AND workflow_instances.team = ");
                query.push_bind(self.commit.instance.team.as_str());
                query.build().persistent(rows.len() <= PREPARED_ROWS_MAX).execute(c).await.map(|_| ())
            })?;
        }
        Ok(())
    }
}

async fn insert_approvals(
    connection: &mut Connection,
    instance: &Instance,
    approvals: &[NewApproval],
) -> Result<(), CommitError> {
    const COLUMNS: usize = 11;
    for rows in approvals.chunks(BINDS_MAX / COLUMNS) {
        on!(connection, c: Database => {
            let mut query = QueryBuilder::<Database>::new(
                "INSERT INTO workflow_approvals (id, team, instance_id, workflow, step, approver_id, title, quorum, \
                 status, created_at, expires_at) ",
            );
            query.push_values(rows, |mut row, approval| {
                row.push_bind(approval.id)
                    .push_bind(approval.team.as_str())
                    .push_bind(approval.instance_id)
                    .push_bind(instance.workflow.as_str())
                    .push_bind(approval.step.as_str())
                    .push_bind(approval.approver_id.as_str())
                    .push_bind(approval.title.as_str())
                    .push_bind(i64::from(approval.quorum))
                    .push_bind(ApprovalStatus::Pending.as_str())
                    .push_bind(approval.created_at.as_micros())
                    .push_bind(approval.expires_at.as_micros());
            });
            query.build().persistent(rows.len() <= PREPARED_ROWS_MAX).execute(c).await.map(|_| ())
        })?;
    }
    Ok(())
}

/// Each of them must still be pending: an approval is decided once.
async fn decide_approvals(
    connection: &mut Connection,
    instance: Uuid,
    decided: &[DecidedApproval],
    at: Timestamp,
) -> Result<(), CommitError> {
    const COLUMNS: usize = 3;
    for rows in decided.chunks(BINDS_MAX / COLUMNS - 1) {
        let updated = on!(connection, c: Database => {
            let mut query = QueryBuilder::<Database>::new(
                "UPDATE workflow_approvals SET status = v.column2, comment = v.column3, decided_at = ",
            );
            query.push_bind(at.as_micros()).push(" FROM (");
            query.push_values(rows, |mut row, approval| {
                row.push_bind(approval.id)
                    .push_bind(approval.status.as_str())
                    .push_bind(approval.comment.as_deref());
            });
            query.push(
                ") AS v WHERE workflow_approvals.id = v.column1 AND workflow_approvals.status = 'pending' \
                 AND workflow_approvals.instance_id = ",
            );
            query.push_bind(instance);
            query.build().persistent(rows.len() <= PREPARED_ROWS_MAX).execute(c).await.map(|done| done.rows_affected())
        })?;
        if usize::try_from(updated) != Ok(rows.len()) {
            return Err(CommitError::Conflict(format!("an approval of instance {instance}")));
        }
    }
    Ok(())
}
