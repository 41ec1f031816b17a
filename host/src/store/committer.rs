//! The committer: one task that writes what many callers want written in one transaction.
//!
//! While one group is being committed the next gathers in the queue, so groups grow by themselves when the disk is
//! slow, and a lone commit waits for nobody. A conflict takes back that job only.
//! Callers are answered after COMMIT, and after the caches have forgotten what was written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::backend::Connection;
use super::commit::{PreparedCommit, StepCommit};
use super::creation::{self, Created, NewRow};
use super::stale::Stale;
use super::storage::Versions;
use super::{CommitError, Core, Store, StoreError};
use crate::config::DatabaseConfig;
use crate::model::{Name, NewInstance};

/// How the committer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommitStats {
    /// Transactions that were committed.
    pub groups: u64,
    /// Jobs in them that were written: steps, and creations of instances.
    pub commits: u64,
    /// Jobs that were refused because something had changed meanwhile.
    pub conflicts: u64,
    /// Jobs that were refused because they can never be written.
    pub rejected: u64,
    /// Jobs that were not written because the database failed.
    pub failed: u64,
    /// Most jobs in one transaction.
    pub largest_group: u64,
    /// Jobs that wait now.
    pub queue: u64,
}

#[derive(Default)]
struct Counters {
    groups: AtomicU64,
    commits: AtomicU64,
    conflicts: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    largest_group: AtomicU64,
}

/// The way to the committer's task.
pub(super) struct Committer {
    queue: mpsc::Sender<Job>,
    closing: CancellationToken,
    counters: Arc<Counters>,
}

/// Something to be written, and who wants to know.
enum Job {
    Step(Box<PreparedCommit>, oneshot::Sender<Result<(), CommitError>>),
    Create(Vec<NewRow>, oneshot::Sender<Result<Vec<Created>, StoreError>>),
}

/// What became of a job.
enum Written {
    Step,
    Created(Vec<Created>),
}

impl Committer {
    pub(super) fn start(core: Arc<Core>, config: &DatabaseConfig) -> Self {
        let (queue, jobs) = mpsc::channel(config.commit_queue_max.max(1));
        let closing = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let tasks = core.tasks.clone();
        tasks.spawn(run(core, jobs, closing.clone(), config.commit_group_max.max(1), Arc::clone(&counters)));
        Self { queue, closing, counters }
    }

    /// Takes no more jobs; what is queued is still written.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    pub(super) fn stats(&self) -> CommitStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitStats {
            groups: read(&self.counters.groups),
            commits: read(&self.counters.commits),
            conflicts: read(&self.counters.conflicts),
            rejected: read(&self.counters.rejected),
            failed: read(&self.counters.failed),
            largest_group: read(&self.counters.largest_group),
            queue: u64::try_from(self.queue.max_capacity().saturating_sub(self.queue.capacity())).unwrap_or(u64::MAX),
        }
    }

    /// Waits for a place in the queue, and then for the answer. A caller that is dropped while it waits for the answer
    /// changes nothing: the job is written.
    async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(job(answer)).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)
    }
}

impl Store {
    /// Writes one step, all or nothing, and answers when it is durable.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::Rejected`] leave nothing written. After [`CommitError::Store`] it
    /// may have been written or not: load the instance to find out.
    pub async fn commit(&self, commit: StepCommit) -> Result<(), CommitError> {
        let prepared = Box::new(PreparedCommit::new(commit)?);
        self.inner.committer.submit(|answer| Job::Step(prepared, answer)).await?
    }

    /// Creates instances in one transaction, and answers in their order.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the workflow version does not exist or an id is taken: none is created then.
    pub async fn create_instances(&self, new: Vec<NewInstance>) -> Result<Vec<Created>, StoreError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let rows = new.into_iter().map(NewRow::new).collect::<Result<Vec<_>, _>>()?;
        self.inner.committer.submit(|answer| Job::Create(rows, answer)).await?
    }
}

async fn run(
    core: Arc<Core>,
    mut queue: mpsc::Receiver<Job>,
    closing: CancellationToken,
    group_max: usize,
    counters: Arc<Counters>,
) {
    let versions = Arc::new(Versions::default());
    loop {
        let mut jobs = Vec::new();
        tokio::select! {
            biased;
            // After this, sends fail and what is queued is still received.
            () = closing.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            _ = queue.recv_many(&mut jobs, group_max) => {}
        }
        if jobs.is_empty() {
            return;
        }
        // A task for each group: should it panic, its callers learn that it is over and the next group goes on.
        let (core, counters, versions) = (Arc::clone(&core), Arc::clone(&counters), Arc::clone(&versions));
        let tasks = core.tasks.clone();
        let group = tasks.spawn(async move { commit_group(&core, &counters, &versions, jobs).await });
        if let Err(error) = group.await {
            tracing::error!(%error, "a group of commits broke off; its steps will be run again");
        }
    }
}

async fn commit_group(core: &Core, counters: &Counters, versions: &Versions, jobs: Vec<Job>) {
    let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
    let written = write_group(core, versions, &jobs).await;
    match written {
        Ok(results) => {
            counters.groups.fetch_add(1, Ordering::Relaxed);
            counters.largest_group.fetch_max(count, Ordering::Relaxed);
            for (job, result) in jobs.into_iter().zip(results) {
                counters.count(&result);
                job.answer(result);
            }
        }
        Err(error) => {
            tracing::error!(%error, jobs = count, "failed to commit a group");
            counters.failed.fetch_add(count, Ordering::Relaxed);
            for job in jobs {
                job.answer(Err(CommitError::Store(error.clone())));
            }
        }
    }
}

/// Writes all jobs in one transaction; an error is everybody's.
///
/// Conflicts are rare, so the jobs are first written as if there were none. If one is refused, all is taken back and
/// written again with a savepoint before each job, which costs a statement for each.
async fn write_group(
    core: &Core,
    versions: &Versions,
    jobs: &[Job],
) -> Result<Vec<Result<Written, CommitError>>, StoreError> {
    match write_all(core, versions, jobs).await? {
        Some(results) => Ok(results),
        None => write_each(core, versions, jobs).await,
    }
}

/// Writes all jobs; or none, if one of several is refused.
async fn write_all(
    core: &Core,
    versions: &Versions,
    jobs: &[Job],
) -> Result<Option<Vec<Result<Written, CommitError>>>, StoreError> {
    let mut writing = core.backend.begin().await?;
    let mut results = Vec::with_capacity(jobs.len());
    for job in jobs {
        match job.write(&mut writing, versions).await {
            Ok(written) => results.push(Ok(written)),
            Err(error) if error.is_the_jobs_own() => {
                writing.rollback().await?;
                return Ok((jobs.len() == 1).then(|| vec![Err(error)]));
            }
            Err(CommitError::Store(error)) => return Err(error),
            Err(other) => return Err(other.for_creation()),
        }
    }
    core.commit(writing, &stale(jobs)).await?;
    Ok(Some(results))
}

/// Writes each job behind a savepoint, so that one that is refused takes back only itself.
async fn write_each(
    core: &Core,
    versions: &Versions,
    jobs: &[Job],
) -> Result<Vec<Result<Written, CommitError>>, StoreError> {
    let mut writing = core.backend.begin().await?;
    let mut results = Vec::with_capacity(jobs.len());
    let mut between = "SAVEPOINT job";
    for job in jobs {
        writing.execute(between).await?;
        let result = job.write(&mut writing, versions).await;
        between = match &result {
            Ok(_) => "RELEASE SAVEPOINT job; SAVEPOINT job",
            // The savepoint stays, and is the next job's.
            Err(error) if error.is_the_jobs_own() => "ROLLBACK TO SAVEPOINT job",
            Err(CommitError::Store(error)) => return Err(error.clone()),
            Err(other) => return Err(other.clone().for_creation()),
        };
        results.push(result);
    }
    if matches!(results.last(), Some(Err(_))) {
        writing.execute("ROLLBACK TO SAVEPOINT job").await?;
    }
    core.commit(writing, &stale(jobs)).await?;
    Ok(results)
}

fn stale(jobs: &[Job]) -> Vec<Stale> {
    jobs.iter().flat_map(Job::stale).collect()
}

/// The teams of new instances.
fn new_instances(rows: &[NewRow]) -> Vec<Stale> {
    let teams: BTreeSet<&Name> = rows.iter().map(|row| &row.instance.team).collect();
    teams.into_iter().map(|team| Stale::NewInstances { team: team.clone() }).collect()
}

impl Counters {
    fn count(&self, result: &Result<Written, CommitError>) {
        let counter = match result {
            Ok(_) => &self.commits,
            Err(CommitError::Conflict(_) | CommitError::Store(StoreError::Constraint(_))) => &self.conflicts,
            Err(_) => &self.rejected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Job {
    async fn write(&self, connection: &mut Connection, versions: &Versions) -> Result<Written, CommitError> {
        match self {
            Self::Step(commit, _) => commit.write(connection, versions).await.map(|()| Written::Step),
            Self::Create(rows, _) => Ok(Written::Created(creation::insert(connection, rows).await?)),
        }
    }

    /// What is out of date once it is written.
    fn stale(&self) -> Vec<Stale> {
        let prepared = match self {
            Self::Step(prepared, _) => prepared,
            Self::Create(rows, _) => return new_instances(rows),
        };
        let commit = &prepared.commit;
        let team = &commit.instance.team;
        let mut stale = new_instances(prepared.instances());
        let changed = std::iter::once(commit.instance.id).chain(commit.effects.metadata.iter().map(|(id, _)| *id));
        stale.extend(changed.map(|id| Stale::Instance { team: team.clone(), id }));
        let written = commit.effects.storage.iter().map(|write| write.key.clone());
        stale.extend(written.map(|key| Stale::Entry { team: team.clone(), key }));
        let asked = commit.change.new_approvals.iter().map(|approval| &approval.approver_id);
        let approvers = asked.chain(commit.change.decided.iter().map(|approval| &approval.approver_id));
        stale.extend(approvers.map(|approver| Stale::Approver { team: team.clone(), approver: approver.clone() }));
        stale
    }

    fn answer(self, result: Result<Written, CommitError>) {
        // A caller that has gone away wants no answer.
        match self {
            Self::Step(_, answer) => {
                let _ = answer.send(result.map(|_| ()).map_err(CommitError::for_step));
            }
            Self::Create(_, answer) => {
                let created = result.map(|written| match written {
                    Written::Created(created) => created,
                    Written::Step => Vec::new(),
                });
                let _ = answer.send(created.map_err(CommitError::for_creation));
            }
        }
    }
}
