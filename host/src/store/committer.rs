//! The committer: one task that writes the jobs of many callers in one transaction.
//!
//! While one group is being committed, the next gathers in the queue. So groups grow by themselves
//! when the disk is slow, and a lone job never waits for others. A conflict undoes only its own job
//! (see [`super::group`]). Callers get their result after COMMIT and after the caches have dropped
//! the entries that were written.
//!
//! The queue is fair ([`super::job_queues`]), and the jobs of one team take effect in their order. It
//! is bounded by jobs and by bytes, with half of both for one team; a caller that finds its part full
//! waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::commit::{PreparedCommit, StepCommit};
use super::creation::Created;
use super::group::{self, JobResult, Work};
use super::invalidation::Invalidation;
use super::job_queues::{JobQueues, Queued};
use super::storage_writes::Versions;
use super::{CommitError, Conflict, Core, Store, StoreError};
use crate::byte_budget::{Budget, Charge};
use crate::config::DatabaseConfig;
use crate::model::{Name, NewInstance};
use crate::trace::{Span, SpanKind};

/// Statistics of the committer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommitStats {
    /// Committed transactions.
    pub groups: u64,
    /// Jobs written by those transactions: steps, and creations of instances.
    pub commits: u64,
    /// Jobs refused because a row had changed meanwhile.
    pub conflicts: u64,
    /// Jobs refused because they can never be written.
    pub rejected: u64,
    /// Jobs not written because the database failed.
    pub failed: u64,
    /// The largest number of jobs in one transaction.
    pub largest_group: u64,
    /// Jobs in the queue now.
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
    queued: AtomicU64,
}

/// The sending side of the committer's queue.
pub(super) struct Committer {
    queue: mpsc::UnboundedSender<Sent>,
    /// The room for jobs that wait or are being written. It bounds the queue.
    room: Budget,
    /// The room that the smallest job takes, so that the budget bounds the number of jobs too.
    room_min: u64,
    closing: CancellationToken,
    counters: Arc<Counters>,
}

/// Work for the committer, and the channel for its result.
struct Job {
    work: Work,
    reply: ReplySender,
    _room: Charge,
}

/// A job on its way to the queue of its team.
struct Sent {
    team: Name,
    queued: Queued<Job>,
}

enum ReplySender {
    Step(oneshot::Sender<Result<(), CommitError>>),
    Create(oneshot::Sender<Result<Vec<Created>, StoreError>>),
}

impl Committer {
    pub(super) fn start(core: Arc<Core>, config: &DatabaseConfig) -> Self {
        let (queue, jobs) = mpsc::unbounded_channel();
        let room_max = config.commit_queue_bytes_max as u64;
        let closing = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let tasks = core.tasks.clone();
        let task = Task {
            core,
            queue: jobs,
            waiting: JobQueues::default(),
            closing: closing.clone(),
            jobs_max: config.commit_group_max.max(1),
            bytes_max: config.commit_group_bytes_max,
            versions: Versions::default(),
            counters: Arc::clone(&counters),
        };
        tasks.spawn(task.run());
        Self {
            queue,
            room: Budget::new(room_max, room_max.div_ceil(2)),
            room_min: room_max / config.commit_queue_max.max(1) as u64,
            closing,
            counters,
        }
    }

    /// Refuses new jobs; queued jobs are still written.
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
            queue: read(&self.counters.queued),
        }
    }

    /// Waits for room in the queue and then for the result. The job is written even if the caller
    /// is dropped while it waits for the result.
    async fn submit<T>(
        &self,
        team: Name,
        work: Work,
        reply: impl FnOnce(oneshot::Sender<T>) -> ReplySender,
    ) -> Result<T, StoreError> {
        let (sender, answered) = oneshot::channel();
        let bytes = work.bytes();
        // A job larger than the team's part of the room waits until it can have all of it.
        let room = self.room.take(&team, self.room_min.max(bytes as u64)).await;
        let job = Job {
            work,
            reply: reply(sender),
            _room: room,
        };
        let queued = Queued { job, bytes };
        self.counters.queued.fetch_add(1, Ordering::Relaxed);
        if self.queue.send(Sent { team, queued }).is_err() {
            self.counters.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::Closed);
        }
        answered.await.map_err(|_| StoreError::Closed)
    }
}

impl Store {
    /// Writes one step, all or nothing, and returns once the step is durable.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] and [`CommitError::Rejected`]: nothing was written.
    /// [`CommitError::Store`]: the step may have been written or not; load the instance to find
    /// out.
    pub async fn commit(&self, commit: StepCommit) -> Result<(), CommitError> {
        let team = commit.instance.team.clone();
        let work = Work::Step(Box::new(PreparedCommit::new(commit, self.owner())?));
        let committer = &self.inner.committer;
        committer.submit(team, work, ReplySender::Step).await?
    }

    /// Creates instances in one transaction, and returns the results in the order of `new`.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] if the workflow version does not exist or an id is taken. No
    /// instance is created then.
    pub async fn create_instances(
        &self,
        new: Vec<NewInstance>,
    ) -> Result<Vec<Created>, StoreError> {
        let Some(team) = new.first().map(|new| new.team.clone()) else {
            return Ok(Vec::new());
        };
        let committer = &self.inner.committer;
        let work = Work::Create(new);
        committer.submit(team, work, ReplySender::Create).await?
    }
}

struct Task {
    core: Arc<Core>,
    queue: mpsc::UnboundedReceiver<Sent>,
    /// Jobs that were taken from the queue and are in no group yet.
    waiting: JobQueues<Job>,
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
            // If a group panics, its callers get an error and the next group is still written.
            if AssertUnwindSafe(self.commit(jobs))
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!("a group of commits broke off; its steps will be run again");
            }
        }
    }

    /// Takes at least one job, and more as far as they fit in one group. Empty once the queue is
    /// closed and drained.
    async fn group(&mut self) -> Vec<Job> {
        if self.waiting.is_empty()
            && let Some(Sent { team, queued }) = self.first().await
        {
            self.waiting.push(&team, queued);
        }
        while let Ok(Sent { team, queued }) = self.queue.try_recv() {
            self.waiting.push(&team, queued);
        }
        let now = self.core.clock.monotonic();
        let jobs = self.waiting.take(now, self.jobs_max, self.bytes_max);
        let taken = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        self.counters.queued.fetch_sub(taken, Ordering::Relaxed);
        jobs
    }

    async fn first(&mut self) -> Option<Sent> {
        tokio::select! {
            biased;
            // From here on sends fail, and queued jobs are still received.
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
        // End the span before the callers get their results, because their spans must last longer.
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
                        // The step may have read the entry from this host's cache before the
                        // invalidation message of another host arrived. The next attempt reads the
                        // database.
                        self.core.caches.forget(&[Invalidation::Entry {
                            team: team.clone(),
                            key: key.clone(),
                        }]);
                    }
                    job.reply.send(outcome);
                }
            }
            Err(error) => {
                tracing::error!(%error, jobs = count, "failed to commit a group");
                self.core.notice(&error);
                self.counters.failed.fetch_add(count, Ordering::Relaxed);
                for job in jobs {
                    job.reply.send(Err(CommitError::Store(error.clone())));
                }
            }
        }
    }
}

impl Task {
    /// Starts the transaction's span, in the trace of the first traced job and linked with the
    /// traces of the others.
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
    fn count(&self, outcome: &Result<JobResult, CommitError>) {
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

impl ReplySender {
    fn send(self, outcome: Result<JobResult, CommitError>) {
        // A send fails if the caller was dropped, which is no error.
        match self {
            Self::Step(reply) => {
                let _ = reply.send(outcome.map(|_| ()).map_err(CommitError::for_step));
            }
            Self::Create(reply) => {
                let created = outcome.map(|written| match written {
                    JobResult::Created(created) => created,
                    JobResult::Step => Vec::new(),
                });
                let _ = reply.send(created.map_err(CommitError::for_creation));
            }
        }
    }
}
