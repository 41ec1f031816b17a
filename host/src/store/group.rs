//! Writes what many callers want written in one transaction, with a number of statements that does not depend on how
//! many they are.
//!
//! It looks, decides and writes: reads what the callers' conditions are about, decides in memory and in their order who
//! is refused, and writes the rest, one statement for each kind of row. Most steps have no condition but the version of
//! their instance, and that the approvals which they decide are pending, and nearly all find it so; a group of those
//! looks at nothing, and its UPDATEs count. If a row is missing then, all is taken back and done again with a look. Only
//! when the database refuses a row for a reason of its own, which nobody could see beforehand, does each job get a
//! savepoint.

use std::collections::{BTreeSet, HashSet};

use uuid::Uuid;

use super::backend::Connection;
use super::commit::{self, PreparedCommit, StepCommit};
use super::creation::{self, Created, Key, NewRow};
use super::stale::Stale;
use super::storage_writes::{Entries, Versions};
use super::{CommitError, Core, StoreError};
use crate::model::{Name, TraceParent};

/// What a row costs beside its long texts and values: its parameters, and its place in the log.
const ROW_BYTES: usize = 512;

/// Something to be written.
pub(super) enum Work {
    Step(Box<PreparedCommit>),
    Create(Vec<NewRow>),
}

/// What became of it.
pub(super) enum Written {
    Step,
    Created(Vec<Created>),
}

type Outcome = Result<Written, CommitError>;

impl Work {
    /// How much memory and log it needs, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Step(commit) => commit.rows() * ROW_BYTES + commit.bytes(),
            Self::Create(new) => new.iter().map(|new| ROW_BYTES + new.bytes()).sum(),
        }
    }

    /// The span that waits for it, if that is recorded.
    pub(super) fn trace(&self) -> Option<TraceParent> {
        match self {
            Self::Step(prepared) => prepared.commit.trace,
            // Those that are created together were asked for together.
            Self::Create(new) => new.first().and_then(|new| new.instance.traceparent),
        }
    }

    fn step(&self) -> Option<&PreparedCommit> {
        match self {
            Self::Step(commit) => Some(commit),
            Self::Create(_) => None,
        }
    }

    /// The instances that it creates.
    fn created(&self) -> &[NewRow] {
        match self {
            Self::Step(commit) => &commit.instances,
            Self::Create(new) => new,
        }
    }

    /// Whether something may refuse it that its UPDATEs do not tell.
    fn has_conditions(&self) -> bool {
        self.step().is_some_and(|prepared| {
            prepared.looked_at().next().is_some() || prepared.instances.iter().any(|new| new.idempotency_key.is_some())
        })
    }

    /// What is out of date once it is written.
    fn stale(&self) -> Vec<Stale> {
        let teams: BTreeSet<&Name> = self.created().iter().map(|new| &new.instance.team).collect();
        let mut stale: Vec<_> = teams.into_iter().map(|team| Stale::NewInstances { team: team.clone() }).collect();
        let Some(prepared) = self.step() else { return stale };
        let commit = &prepared.commit;
        let team = &commit.instance.team;
        let changed = std::iter::once(commit.instance.id).chain(commit.effects.metadata.iter().map(|(id, _)| *id));
        stale.extend(changed.map(|id| Stale::Instance { team: team.clone(), id }));
        let written = commit.effects.storage.iter().map(|write| write.key.clone());
        stale.extend(written.map(|key| Stale::Entry { team: team.clone(), key }));
        let asked = commit.change.new_approvals.iter().map(|approval| &approval.approver_id);
        let approvers = asked.chain(commit.change.decided.iter().map(|approval| &approval.approver_id));
        stale.extend(approvers.map(|approver| Stale::Approver { team: team.clone(), approver: approver.clone() }));
        stale
    }
}

/// Writes all in one transaction; an error is everybody's.
pub(super) async fn write(core: &Core, versions: &Versions, works: &[&Work]) -> Result<Vec<Outcome>, StoreError> {
    for looking in [works.iter().any(|work| work.has_conditions()), true] {
        let mut writing = core.backend.begin().await?;
        match write_in_order(&mut writing, versions, works, looking).await {
            Ok(outcomes) => {
                core.commit(writing, &stale(works)).await?;
                return Ok(outcomes);
            }
            Err(error) if error.is_the_jobs_own() => {
                writing.rollback().await?;
                if !matches!(error, CommitError::Conflict(_)) {
                    break;
                }
            }
            Err(error) => return Err(error.for_creation()),
        }
    }
    write_each(core, versions, works).await
}

/// Writes each behind a savepoint, so that one that is refused takes back only itself.
async fn write_each(core: &Core, versions: &Versions, works: &[&Work]) -> Result<Vec<Outcome>, StoreError> {
    let mut writing = core.backend.begin().await?;
    let mut outcomes = Vec::with_capacity(works.len());
    for work in works {
        writing.execute("SAVEPOINT job").await?;
        match write_in_order(&mut writing, versions, &[*work], true).await {
            Ok(written) => outcomes.extend(written),
            Err(error) if error.is_the_jobs_own() => {
                writing.execute("ROLLBACK TO SAVEPOINT job").await?;
                outcomes.push(Err(error));
            }
            Err(error) => return Err(error.for_creation()),
        }
        writing.execute("RELEASE SAVEPOINT job").await?;
    }
    core.commit(writing, &stale(works)).await?;
    Ok(outcomes)
}

/// Each once: the steps of a group are of few teams and ask few approvers.
fn stale(works: &[&Work]) -> Vec<Stale> {
    let stale: HashSet<Stale> = works.iter().flat_map(|work| work.stale()).collect();
    stale.into_iter().collect()
}

/// One UPDATE changes a row once, and an INSERT comes after it. So work on an instance that earlier work has changed
/// or created begins a batch of its own.
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
        touched.extend(work.created().iter().map(|new| new.instance.id));
        count += 1;
    }
    batches.push(rest);
    batches
}

/// After an error the caller rolls back to before it.
async fn write_in_order(
    connection: &mut Connection,
    versions: &Versions,
    works: &[&Work],
    looking: bool,
) -> Result<Vec<Outcome>, CommitError> {
    let mut outcomes = Vec::with_capacity(works.len());
    for batch in batches(works) {
        let mut seen = if looking { Seen::look(connection, batch).await? } else { Seen::default() };
        let verdicts: Vec<_> = batch.iter().map(|work| seen.decide(work, versions)).collect();
        if !looking && verdicts.iter().any(Result::is_err) {
            return Err(CommitError::Conflict("a commit, without a look at its instance,".to_owned()));
        }
        let accepted: Vec<&Work> =
            batch.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok()).map(|(work, _)| *work).collect();
        let mut written = write_accepted(connection, &accepted, seen.entries).await?.into_iter();
        for verdict in verdicts {
            outcomes.push(verdict.and_then(|()| written.next().ok_or_else(lost)));
        }
    }
    Ok(outcomes)
}

fn lost() -> CommitError {
    StoreError::Corrupt("the outcome of a commit is missing".to_owned()).into()
}

/// What the conditions of a batch are about: as it is, and then as those leave it that were decided to be written.
#[derive(Default)]
struct Seen<'a> {
    /// None if nobody has looked.
    rows: Option<SeenRows>,
    entries: Entries<'a>,
}

struct SeenRows {
    /// Instances that have the version that their commit saw.
    current: HashSet<Uuid>,
    /// Approvals that are pending.
    pending: HashSet<Uuid>,
    /// Idempotency keys that are taken.
    keys: HashSet<(Uuid, String)>,
}

impl<'a> Seen<'a> {
    async fn look(connection: &mut Connection, batch: &[&'a Work]) -> Result<Self, StoreError> {
        let steps: Vec<&'a PreparedCommit> = batch.iter().filter_map(|work| work.step()).collect();
        let keys: Vec<Key<'a>> = batch.iter().flat_map(|work| work.created()).filter_map(NewRow::key).collect();
        let rows = SeenRows {
            current: commit::current(connection, &steps).await?,
            pending: commit::pending(connection, &steps).await?,
            keys: creation::with_keys(connection, &keys).await?.into_keys().collect(),
        };
        let looked_at = steps.iter().flat_map(|prepared| prepared.looked_at()).collect();
        Ok(Self { rows: Some(rows), entries: Entries::look(connection, looked_at).await? })
    }

    /// Whether work may be written after all that was decided before it.
    fn decide(&mut self, work: &'a Work, versions: &Versions) -> Result<(), CommitError> {
        if let Some(prepared) = work.step() {
            if let Some(rows) = &self.rows {
                rows.check(prepared)?;
            }
            let StepCommit { instance, effects, now, .. } = &prepared.commit;
            if !effects.storage.is_empty() {
                self.entries.apply(&instance.team, &effects.storage, *now, versions.next(*now))?;
            }
        }
        if let Some(rows) = &mut self.rows {
            let taken = work.created().iter().filter_map(NewRow::key);
            rows.keys.extend(taken.map(|(workflow, key)| (workflow, key.to_owned())));
        }
        Ok(())
    }
}

impl SeenRows {
    /// The first condition of a commit that does not hold; those on entries come after these.
    fn check(&self, prepared: &PreparedCommit) -> Result<(), CommitError> {
        let instance = &prepared.commit.instance;
        let change = &prepared.commit.change;
        if !self.current.contains(&instance.id) {
            return Err(CommitError::Conflict(format!("instance {}", instance.id)));
        }
        // An approval can be asked for and cancelled by one event.
        let asked: HashSet<Uuid> = change.new_approvals.iter().map(|approval| approval.id).collect();
        if change.decided.iter().any(|one| !self.pending.contains(&one.id) && !asked.contains(&one.id)) {
            return Err(CommitError::Conflict(format!("an approval of instance {}", instance.id)));
        }
        let mut own = HashSet::new();
        for key in prepared.instances.iter().filter_map(NewRow::key) {
            if self.keys.contains(&(key.0, key.1.to_owned())) || !own.insert(key) {
                // The step was told that the key was free. It runs again and is told otherwise.
                return Err(CommitError::Conflict(format!("the idempotency key '{}'", key.1.escape_debug())));
            }
        }
        Ok(())
    }
}

async fn write_accepted(
    connection: &mut Connection,
    works: &[&Work],
    entries: Entries<'_>,
) -> Result<Vec<Written>, CommitError> {
    let steps: Vec<&PreparedCommit> = works.iter().filter_map(|work| work.step()).collect();
    // The guard comes first: most conflicts are found by one statement.
    commit::update_instances(connection, &steps).await?;
    commit::insert_attempts(connection, &steps).await?;
    // An approval can be asked for and cancelled by one event, so the new ones come first.
    commit::insert_approvals(connection, &steps).await?;
    commit::decide_approvals(connection, &steps).await?;
    entries.write(connection).await?;
    let new: Vec<&NewRow> = works.iter().flat_map(|work| work.created()).collect();
    let mut created = creation::insert(connection, &new).await?.into_iter();
    commit::update_metadata(connection, &steps).await?;
    let written = works.iter().map(|work| {
        let created: Vec<_> = created.by_ref().take(work.created().len()).collect();
        match work {
            Work::Create(_) => Ok(Written::Created(created)),
            Work::Step(_) if created.iter().any(|created| created.existing) => {
                Err(CommitError::Conflict("an idempotency key".to_owned()))
            }
            Work::Step(_) => Ok(Written::Step),
        }
    });
    written.collect()
}
