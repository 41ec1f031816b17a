//! Writes the jobs of many callers in one transaction. The number of statements does not depend on
//! the number of jobs.
//!
//! A group is written in three phases. First the rows that the jobs' conditions refer to are read.
//! Then each job is accepted or refused, in memory and in the order of the queue. Then the accepted
//! jobs are written, with one statement for each kind of row.
//!
//! Most steps have only two conditions: the version of their instance, and that the approvals which
//! they decide are pending. Nearly always both hold. A group of such steps skips the first phase
//! and checks the row counts of its UPDATEs instead. If a row is missing, the transaction is rolled
//! back and the group is written again with all three phases.
//!
//! If the database itself refuses a row, for a reason that cannot be foreseen, the group is written
//! again with a savepoint for each job.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use uuid::Uuid;

use super::backend::Connection;
use super::children;
use super::commit::{self, PreparedCommit, StepCommit};
use super::creation::{self, Created, Key};
use super::invalidation::Invalidation;
use super::rows::StatementBatch;
use super::storage_writes::{Entries, Versions};
use super::trees::{self, Trees};
use super::usage::{Amounts, Changes, change};
use super::{CommitError, Core, StoreError};
use crate::model::{Name, NewInstance, TraceParent};

/// The estimated cost of a row without its long texts and values, in bytes: its parameters, and its
/// place in the database log.
const ROW_BYTES: usize = 512;

/// The work of one job: a step, or the creation of instances.
pub(super) enum Work {
    Step(Box<PreparedCommit>),
    Create(Vec<NewInstance>),
}

/// The result of a job that was written.
pub(super) enum JobResult {
    Step,
    Created(Vec<Created>),
}

type Outcome = Result<JobResult, CommitError>;

impl Work {
    /// The estimated need for memory and database log, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Step(commit) => commit.rows() * ROW_BYTES + commit.bytes(),
            Self::Create(new) => new.iter().map(|new| ROW_BYTES + creation::bytes(new)).sum(),
        }
    }

    /// The span that waits for the work, if the instance is traced.
    pub(super) fn trace(&self) -> Option<TraceParent> {
        match self {
            Self::Step(prepared) => prepared.commit.trace,
            // Instances that are created together come from one request, so the first one's span
            // stands for all.
            Self::Create(new) => new.first().and_then(|new| new.traceparent),
        }
    }

    /// The team of a step; `None` for a creation.
    pub(super) fn team(&self) -> Option<&Name> {
        self.step().map(|prepared| &prepared.commit.instance.team)
    }

    fn step(&self) -> Option<&PreparedCommit> {
        match self {
            Self::Step(commit) => Some(commit),
            Self::Create(_) => None,
        }
    }

    /// The instances that the work creates.
    fn created(&self) -> &[NewInstance] {
        match self {
            Self::Step(commit) => commit.created(),
            Self::Create(new) => new,
        }
    }

    /// Returns whether the work has a condition that the row counts of its UPDATEs do not check.
    fn has_conditions(&self) -> bool {
        self.step().is_some_and(|prepared| {
            prepared.looked_at().next().is_some() || !prepared.created().is_empty()
        })
    }

    /// Lists the cache entries that the work makes out of date.
    fn invalidations(&self) -> Vec<Invalidation> {
        let teams: BTreeSet<&Name> = self.created().iter().map(|new| &new.team).collect();
        let mut invalidations: Vec<_> = teams
            .into_iter()
            .map(|team| Invalidation::NewInstances { team: team.clone() })
            .collect();
        let Some(prepared) = self.step() else {
            return invalidations;
        };
        let commit = &prepared.commit;
        let team = &commit.instance.team;
        let stopped = commit.change.stopped_children.iter().copied();
        let changed = std::iter::once(commit.instance.id)
            .chain(prepared.metadata.keys().copied())
            .chain(stopped);
        invalidations.extend(changed.map(|id| Invalidation::Instance {
            team: team.clone(),
            id,
        }));
        let written = commit.effects.storage.iter().map(|write| write.key.clone());
        invalidations.extend(written.map(|key| Invalidation::Entry {
            team: team.clone(),
            key,
        }));
        let asked = commit
            .change
            .new_approvals
            .iter()
            .map(|approval| &approval.approver_id);
        let approvers = asked.chain(
            commit
                .change
                .decided
                .iter()
                .map(|approval| &approval.approver_id),
        );
        invalidations.extend(approvers.map(|approver| Invalidation::Approver {
            team: team.clone(),
            approver: approver.clone(),
        }));
        invalidations
    }
}

/// Writes all jobs in one transaction. An error fails the whole group.
pub(super) async fn write(
    core: &Core,
    versions: &Versions,
    works: &[&Work],
) -> Result<Vec<Outcome>, StoreError> {
    core.settle_usage().await?;
    for looking in [works.iter().any(|work| work.has_conditions()), true] {
        let mut transaction = core.backend.begin().await?;
        let mut changes = Changes::new();
        match write_in_order(
            core,
            &mut transaction,
            versions,
            works,
            looking,
            &mut changes,
        )
        .await
        {
            Ok(outcomes) => {
                core.commit_counted(transaction, &invalidations(works), &changes)
                    .await?;
                return Ok(outcomes);
            }
            Err(error) if error.is_the_jobs_own() => {
                transaction.rollback().await?;
                if !matches!(error, CommitError::Conflict(_)) {
                    break;
                }
            }
            Err(error) => return Err(error.for_creation()),
        }
    }
    write_each(core, versions, works).await
}

/// Writes each job behind a savepoint, so that a refusal undoes only its own job.
async fn write_each(
    core: &Core,
    versions: &Versions,
    works: &[&Work],
) -> Result<Vec<Outcome>, StoreError> {
    let mut transaction = core.backend.begin().await?;
    let mut outcomes = Vec::with_capacity(works.len());
    let mut changes = Changes::new();
    for work in works {
        transaction.execute("SAVEPOINT job").await?;
        let mut with_this = changes.clone();
        match write_in_order(
            core,
            &mut transaction,
            versions,
            &[*work],
            true,
            &mut with_this,
        )
        .await
        {
            Ok(written) => {
                outcomes.extend(written);
                changes = with_this;
            }
            Err(error) if error.is_the_jobs_own() => {
                transaction.execute("ROLLBACK TO SAVEPOINT job").await?;
                outcomes.push(Err(error));
            }
            Err(error) => return Err(error.for_creation()),
        }
        transaction.execute("RELEASE SAVEPOINT job").await?;
    }
    core.commit_counted(transaction, &invalidations(works), &changes)
        .await?;
    Ok(outcomes)
}

/// Collects the invalidations of a group without duplicates. The steps of a group often have teams
/// and approvers in common.
fn invalidations(works: &[&Work]) -> Vec<Invalidation> {
    let invalidations: HashSet<Invalidation> =
        works.iter().flat_map(|work| work.invalidations()).collect();
    invalidations.into_iter().collect()
}

/// Splits jobs into batches that one round of statements can write. One UPDATE changes a row once,
/// and INSERTs come after UPDATEs, so a step of an instance that the batch has already changed or
/// created starts a new batch.
fn batches<'a, 'w>(works: &'a [&'w Work]) -> Vec<&'a [&'w Work]> {
    let mut batches = Vec::new();
    let mut touched = HashSet::new();
    let mut rest = works;
    let mut count = 0;
    for work in works {
        let changed = work.step().map(|prepared| prepared.commit.instance.id);
        if changed.is_some_and(|id| touched.contains(&id)) {
            let (batch, after) = rest.split_at(count);
            batches.push(batch);
            (rest, count) = (after, 0);
            touched.clear();
        }
        touched.extend(changed);
        touched.extend(work.created().iter().map(|new| new.id));
        count += 1;
    }
    batches.push(rest);
    batches
}

/// Writes jobs in their order. On an error the caller must roll back to the state before the call.
/// Adds the change of each team's usage to `changes`.
async fn write_in_order(
    core: &Core,
    connection: &mut Connection,
    versions: &Versions,
    works: &[&Work],
    looking: bool,
    changes: &mut Changes,
) -> Result<Vec<Outcome>, CommitError> {
    let mut outcomes = Vec::with_capacity(works.len());
    for batch in batches(works) {
        let mut seen = PreconditionRows::read(core, connection, batch, looking, changes).await?;
        let verdicts: Vec<_> = batch
            .iter()
            .map(|work| seen.decide(work, versions))
            .collect();
        if !looking && verdicts.iter().any(Result::is_err) {
            return Err(CommitError::conflict(
                "a commit, without a look at its instance,",
            ));
        }
        let accepted: Vec<&Work> = batch
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| verdict.is_ok())
            .map(|(work, _)| *work)
            .collect();
        *changes = seen.changes;
        let mut written =
            write_accepted(connection, core.owner(), &accepted, seen.entries, changes)
                .await?
                .into_iter();
        for verdict in verdicts {
            outcomes.push(verdict.and_then(|()| written.next().ok_or_else(lost)));
        }
    }
    Ok(outcomes)
}

fn lost() -> CommitError {
    StoreError::Corrupt("the outcome of a commit is missing".to_owned()).into()
}

/// The rows that preconditions refer to: as read from the database, then updated in memory as each
/// job is accepted.
struct PreconditionRows<'a> {
    core: &'a Core,
    /// `None` if the rows were not read.
    rows: Option<SeenRows>,
    entries: Entries<'a>,
    trees: Trees,
    /// The change of each team's usage by the accepted steps, without metadata.
    changes: Changes,
    /// The same, plus the instances that clients create, unless their idempotency keys are known to
    /// be taken.
    claimed: Changes,
}

struct SeenRows {
    /// Instances that still have the version that their commit saw.
    current: HashSet<Uuid>,
    /// Approvals that are still pending.
    pending: HashSet<Uuid>,
    /// Idempotency keys that are taken.
    keys: HashSet<(Uuid, String)>,
}

impl<'a> PreconditionRows<'a> {
    /// Reads the rows. Storage entries are always read, because a quota counts the bytes that a
    /// write replaces; the other rows are read only if `looking`.
    async fn read(
        core: &'a Core,
        connection: &mut Connection,
        batch: &[&'a Work],
        looking: bool,
        changes: &Changes,
    ) -> Result<Self, StoreError> {
        let steps: Vec<&'a PreparedCommit> = batch.iter().filter_map(|work| work.step()).collect();
        let mut rows = None;
        let mut trees = Trees::default();
        if looking {
            let keys: Vec<Key<'a>> = batch
                .iter()
                .flat_map(|work| work.created())
                .filter_map(creation::key)
                .collect();
            rows = Some(SeenRows {
                current: commit::current(connection, &steps).await?,
                pending: commit::pending(connection, &steps).await?,
                keys: creation::with_keys(connection, &keys)
                    .await?
                    .into_keys()
                    .collect(),
            });
            let creating = steps
                .iter()
                .filter(|prepared| !prepared.created().is_empty());
            let roots = creating.map(|prepared| prepared.commit.instance.root);
            trees = Trees::lock(connection, roots.collect()).await?;
        }
        let written = steps
            .iter()
            .flat_map(|prepared| prepared.written())
            .collect();
        let entries = Entries::look(connection, written).await?;
        Ok(Self {
            core,
            rows,
            entries,
            trees,
            changes: changes.clone(),
            claimed: changes.clone(),
        })
    }

    /// Accepts or refuses a job, given the jobs accepted before it.
    fn decide(&mut self, work: &'a Work, versions: &Versions) -> Result<(), CommitError> {
        match work {
            Work::Step(prepared) => self.decide_step(prepared, versions)?,
            Work::Create(new) => self.decide_creation(new)?,
        }
        if let Some(rows) = &mut self.rows {
            let taken = work.created().iter().filter_map(creation::key);
            rows.keys
                .extend(taken.map(|(workflow, key)| (workflow, key.to_owned())));
        }
        Ok(())
    }
}

impl<'a> PreconditionRows<'a> {
    /// Accepts a step if its conditions hold, its entries can be written and its team's quotas have
    /// room.
    fn decide_step(
        &mut self,
        prepared: &'a PreparedCommit,
        versions: &Versions,
    ) -> Result<(), CommitError> {
        if let Some(rows) = &self.rows {
            rows.check(prepared)?;
        }
        let StepCommit {
            instance,
            effects,
            now,
            ..
        } = &prepared.commit;
        let (team, mut amounts) = (&instance.team, prepared.amounts());
        let Self {
            core,
            entries,
            trees,
            claimed,
            ..
        } = self;
        let mut allow = |entries_bytes: i64| {
            amounts += Amounts::bytes(entries_bytes);
            if prepared.needs_room() {
                let created = i64::try_from(prepared.created().len()).unwrap_or(i64::MAX);
                let more = Amounts {
                    unfinished: created,
                    versions: 0,
                    bytes: amounts.bytes + prepared.metadata_bytes(),
                };
                core.usage
                    .check(team, claimed.get(team).copied().unwrap_or_default(), more)?;
            }
            match prepared.created().len() as u64 {
                0 => Ok(()),
                count => trees.take(instance.root, count, core.descendants_max),
            }
        };
        if effects.storage.is_empty() {
            allow(0)?;
        } else {
            entries.apply(team, &effects.storage, *now, versions.next(*now), allow)?;
        }
        change(&mut self.changes, team, amounts);
        change(&mut self.claimed, team, amounts);
        Ok(())
    }

    /// Accepts a creation if the quotas of its teams have room. An instance whose idempotency key
    /// is known to be taken needs no room.
    fn decide_creation(&mut self, new: &[NewInstance]) -> Result<(), CommitError> {
        let mut more = Changes::new();
        let mut own = HashSet::new();
        for row in new {
            let is_taken = |(workflow, key): Key<'_>| {
                self.rows
                    .as_ref()
                    .is_some_and(|rows| rows.keys.contains(&(workflow, key.to_owned())))
            };
            if creation::key(row).is_none_or(|key| !is_taken(key) && own.insert(key)) {
                change(&mut more, &row.team, creation::amounts(row));
            }
        }
        for (team, by) in &more {
            self.core.usage.check(
                team,
                self.claimed.get(team).copied().unwrap_or_default(),
                *by,
            )?;
        }
        more.iter()
            .for_each(|(team, by)| change(&mut self.claimed, team, *by));
        Ok(())
    }
}

impl SeenRows {
    /// Returns a conflict for the first condition that does not hold. Conditions on storage entries
    /// are checked elsewhere, after these.
    fn check(&self, prepared: &PreparedCommit) -> Result<(), CommitError> {
        let instance = &prepared.commit.instance;
        let change = &prepared.commit.change;
        if !self.current.contains(&instance.id) {
            return Err(CommitError::conflict(format!("instance {}", instance.id)));
        }
        // One event can request an approval and cancel it again.
        let asked: HashSet<Uuid> = change
            .new_approvals
            .iter()
            .map(|approval| approval.id)
            .collect();
        if change
            .decided
            .iter()
            .any(|one| !self.pending.contains(&one.id) && !asked.contains(&one.id))
        {
            return Err(CommitError::conflict(format!(
                "an approval of instance {}",
                instance.id
            )));
        }
        let mut own = HashSet::new();
        for key in prepared.created().iter().filter_map(creation::key) {
            if self.keys.contains(&(key.0, key.1.to_owned())) || !own.insert(key) {
                // The step was told that the key was free. The step runs again, and finds the key
                // taken.
                return Err(CommitError::conflict(format!(
                    "the idempotency key '{}'",
                    key.1.escape_debug()
                )));
            }
        }
        Ok(())
    }
}

async fn write_accepted(
    connection: &mut Connection,
    owner: Uuid,
    works: &[&Work],
    entries: Entries<'_>,
    changes: &mut Changes,
) -> Result<Vec<JobResult>, CommitError> {
    let steps: Vec<&PreparedCommit> = works.iter().filter_map(|work| work.step()).collect();
    children::stop(connection, &steps).await?;
    // The guarded UPDATE comes next, because it alone finds most conflicts.
    let mut writes = StatementBatch::new(connection, works.len());
    commit::update_instances(&mut writes, &steps).await?;
    commit::insert_attempts(&mut writes, &steps).await?;
    commit::insert_logs(&mut writes, &steps).await?;
    // One event can request an approval and cancel it again, so approvals are inserted before they
    // are decided.
    commit::insert_approvals(&mut writes, &steps).await?;
    commit::decide_approvals(&mut writes, &steps).await?;
    let connection = writes.finish().await?;
    entries.write(connection).await?;
    let new: Vec<&NewInstance> = works.iter().flat_map(|work| work.created()).collect();
    let mut created = creation::insert(connection, owner, &new).await?.into_iter();
    trees::add(connection, &created_of_roots(&steps)).await?;
    commit::update_metadata(connection, &steps, changes).await?;
    children::wake_parents(connection, &steps).await?;
    let written = works.iter().map(|work| {
        let created: Vec<_> = created.by_ref().take(work.created().len()).collect();
        match work {
            Work::Create(new) => {
                for (row, _) in new
                    .iter()
                    .zip(&created)
                    .filter(|(_, created)| !created.existing)
                {
                    change(changes, &row.team, creation::amounts(row));
                }
                Ok(JobResult::Created(created))
            }
            Work::Step(_) if created.iter().any(|created| created.existing) => {
                Err(CommitError::conflict("an idempotency key"))
            }
            Work::Step(_) => Ok(JobResult::Step),
        }
    });
    written.collect()
}

/// Returns the number of descendants that the steps create for each root.
fn created_of_roots(steps: &[&PreparedCommit]) -> BTreeMap<Uuid, u64> {
    let mut created = BTreeMap::new();
    for prepared in steps
        .iter()
        .filter(|prepared| !prepared.created().is_empty())
    {
        *created.entry(prepared.commit.instance.root).or_default() +=
            prepared.created().len() as u64;
    }
    created
}
