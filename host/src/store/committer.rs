//! The committer: one task that writes what many callers want written in one transaction.
//!
//! While one group is being committed the next gathers in the queue, so groups grow by themselves when the disk is
//! slow, and a lone commit waits for nobody. Jobs take effect in the order of the queue, and a conflict takes back that
//! job only; how stands in [`super::group`]. Callers are answered after COMMIT, and after the caches have forgotten what
//! was written. The queue is bounded by jobs and by bytes, and who finds it full waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::commit::{PreparedCommit, StepCommit};
use super::creation::{Created, NewRow};
use super::group::{self, Work, Written};
use super::stale::Stale;
use super::storage_writes::Versions;
use super::{CommitError, Conflict, Core, Store, StoreError};
use crate::config::DatabaseConfig;
use crate::model::NewInstance;
use crate::trace::{Span, SpanKind};

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
    /// KiB that may still wait or be written.
    room: Arc<Semaphore>,
    room_max: u32,
    closing: CancellationToken,
    counters: Arc<Counters>,
}

/// Something to be written, and who wants to know.
struct Job {
    work: Work,
    bytes: usize,
    answer: Answer,
    _room: OwnedSemaphorePermit,
}

enum Answer {
    Step(oneshot::Sender<Result<(), CommitError>>),
    Create(oneshot::Sender<Result<Vec<Created>, StoreError>>),
}

impl Committer {
    pub(super) fn start(core: Arc<Core>, config: &DatabaseConfig) -> Self {
        let (queue, jobs) = mpsc::channel(config.commit_queue_max.max(1));
        let room_max = kib(config.commit_queue_bytes_max);
        let closing = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let tasks = core.tasks.clone();
        let task = Task {
            core,
            queue: jobs,
            next: None,
            closing: closing.clone(),
            jobs_max: config.commit_group_max.max(1),
            bytes_max: config.commit_group_bytes_max,
            versions: Versions::default(),
            counters: Arc::clone(&counters),
        };
        tasks.spawn(task.run());
        Self {
            queue,
            room: Arc::new(Semaphore::new(room_max as usize)),
            room_max,
            closing,
            counters,
        }
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
            queue: u64::try_from(
                self.queue
                    .max_capacity()
                    .saturating_sub(self.queue.capacity()),
            )
            .unwrap_or(u64::MAX),
        }
    }

    /// Waits for a place in the queue, and then for the answer. A caller that is dropped while it waits for the answer
    /// changes nothing: the job is written.
    async fn submit<T>(
        &self,
        work: Work,
        answer: impl FnOnce(oneshot::Sender<T>) -> Answer,
    ) -> Result<T, StoreError> {
        let (sender, answered) = oneshot::channel();
        let bytes = work.bytes();
        // What is larger than all the room there is waits until it is alone.
        let room = Arc::clone(&self.room)
            .acquire_many_owned(kib(bytes).min(self.room_max))
            .await;
        let job = Job {
            work,
            bytes,
            answer: answer(sender),
            _room: room.map_err(|_| StoreError::Closed)?,
        };
        self.queue.send(job).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)
    }
}

/// At least one.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1_024))
        .unwrap_or(u32::MAX)
        .clamp(1, u32::MAX >> 4)
}

impl Store {
    /// Writes one step, all or nothing, and answers when it is durable.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::Rejected`] leave nothing written. After [`CommitError::Store`] it
    /// may have been written or not: load the instance to find out.
    pub async fn commit(&self, commit: StepCommit) -> Result<(), CommitError> {
        let work = Work::Step(Box::new(PreparedCommit::new(commit, self.owner())?));
        self.inner.committer.submit(work, Answer::Step).await?
    }

    /// Creates instances in one transaction, and answers in their order.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the workflow version does not exist or an id is taken: none is created then.
    pub async fn create_instances(
        &self,
        new: Vec<NewInstance>,
    ) -> Result<Vec<Created>, StoreError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let work = Work::Create(
            new.into_iter()
                .map(|new| NewRow::new(new, self.owner()))
                .collect::<Result<_, _>>()?,
        );
        self.inner.committer.submit(work, Answer::Create).await?
    }
}

struct Task {
    core: Arc<Core>,
    queue: mpsc::Receiver<Job>,
    /// Taken from the queue, and did not fit into the last group.
    next: Option<Job>,
    closing: CancellationToken,
    jobs_max: usize,
    bytes_max: usize,
    versions: Versions,
    counters: Arc<Counters>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let jobs = self.group().await;
            if jobs.is_empty() {
                return;
            }
            // Should it panic, its callers learn that it is over and the next group goes on.
            if AssertUnwindSafe(self.commit(jobs))
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!("a group of commits broke off; its steps will be run again");
            }
        }
    }

    /// What waits, as far as it fits, and at least one job; nothing at the end.
    async fn group(&mut self) -> Vec<Job> {
        let first = match self.next.take() {
            Some(job) => Some(job),
            None => self.first().await,
        };
        let mut bytes = first.as_ref().map_or(0, |job| job.bytes);
        let mut jobs: Vec<Job> = first.into_iter().collect();
        while !jobs.is_empty() && jobs.len() < self.jobs_max {
            let Ok(job) = self.queue.try_recv() else {
                break;
            };
            bytes = bytes.saturating_add(job.bytes);
            if bytes > self.bytes_max {
                self.next = Some(job);
                break;
            }
            jobs.push(job);
        }
        jobs
    }

    async fn first(&mut self) -> Option<Job> {
        tokio::select! {
            biased;
            // After this, sends fail and what is queued is still received.
            () = self.closing.cancelled(), if !self.queue.is_closed() => {}
            job = self.queue.recv() => return job,
        }
        self.queue.close();
        self.queue.recv().await
    }

    async fn commit(&self, jobs: Vec<Job>) {
        let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        let works: Vec<&Work> = jobs.iter().map(|job| &job.work).collect();
        let mut span = self.span(&works);
        let written = group::write(&self.core, &self.versions, &works).await;
        if written.is_err() {
            span.fail("database");
        }
        // Before the callers are answered, whose own spans last longer.
        drop(span);
        match written {
            Ok(outcomes) => {
                self.counters.groups.fetch_add(1, Ordering::Relaxed);
                self.counters
                    .largest_group
                    .fetch_max(count, Ordering::Relaxed);
                for (job, outcome) in jobs.into_iter().zip(outcomes) {
                    self.counters.count(&outcome);
                    if let (Err(CommitError::Conflict(Conflict::Entry(key))), Some(team)) =
                        (&outcome, job.work.team())
                    {
                        // What it read may come from this host's cache, if another host wrote the entry and the message
                        // is still on its way. The next try reads the database.
                        self.core.caches.forget(&[Stale::Entry {
                            team: team.clone(),
                            key: key.clone(),
                        }]);
                    }
                    job.answer.send(outcome);
                }
            }
            Err(error) => {
                tracing::error!(%error, jobs = count, "failed to commit a group");
                self.core.notice(&error);
                self.counters.failed.fetch_add(count, Ordering::Relaxed);
                for job in jobs {
                    job.answer.send(Err(CommitError::Store(error.clone())));
                }
            }
        }
    }
}

impl Task {
    /// What the transaction is recorded as: in the trace of the first that is recorded, and linked with the others.
    fn span(&self, works: &[&Work]) -> Span {
        let mut traces = works.iter().filter_map(|work| work.trace());
        let Some(first) = traces.next() else {
            return Span::none();
        };
        let mut span = self
            .core
            .tracer
            .child(SpanKind::Client, Some(first))
            .named("commit group");
        span.set("db.system.name", self.core.backend.system());
        span.set("db.operation.name", "COMMIT");
        span.set("db.operation.batch.size", works.len());
        span.link(traces);
        span
    }
}

impl Counters {
    fn count(&self, outcome: &Result<Written, CommitError>) {
        let counter = match outcome {
            Ok(_) => &self.commits,
            Err(CommitError::Conflict(_) | CommitError::Store(StoreError::Constraint(_))) => {
                &self.conflicts
            }
            Err(_) => &self.rejected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Answer {
    fn send(self, outcome: Result<Written, CommitError>) {
        // A caller that has gone away wants no answer.
        match self {
            Self::Step(answer) => {
                let _ = answer.send(outcome.map(|_| ()).map_err(CommitError::for_step));
            }
            Self::Create(answer) => {
                let created = outcome.map(|written| match written {
                    Written::Created(created) => created,
                    Written::Step => Vec::new(),
                });
                let _ = answer.send(created.map_err(CommitError::for_creation));
            }
        }
    }
}
