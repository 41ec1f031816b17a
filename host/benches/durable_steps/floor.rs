//! What the disk and SQLite allow: the rows of ours, written by hand.
//!
//! A task drains a queue and writes all that it finds as one transaction of at most four statements, whatever their
//! number: instances, attempts, and new states of instances, which go on or end. An instance is created, then gets three steps; each is
//! answered after COMMIT. The texts in the rows are copied from an instance that ours has completed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, QueryBuilder, Row, Sqlite, SqliteConnection};
use stepwell::clock::Clock;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::support::Anything;

const SCHEMA: [&str; 3] = [
    include_str!("../../../migrations/sqlite/0001_foundation.sql"),
    include_str!("../../../migrations/sqlite/0002_retention.sql"),
    include_str!("../../../migrations/sqlite/0003_hosts.sql"),
];
const STEPS: [&str; 3] = ["one", "two", "three"];
/// `database.commit_group_max`
const GROUP_MAX: usize = 256;

/// The way to the task that writes.
pub struct Floor {
    queue: mpsc::Sender<Job>,
    groups: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
}

/// What ours has written for one instance.
struct Texts {
    workflow_id: Uuid,
    pins: String,
    input: String,
    metadata: String,
    output: String,
    plugin: String,
}

enum Work {
    Create,
    /// The step with this index.
    Finish(usize),
}

struct Job {
    id: Uuid,
    /// Microseconds.
    at: i64,
    work: Work,
    done: oneshot::Sender<()>,
}

impl Floor {
    /// Makes an empty database with ours's schema, and reads in ours what to write.
    pub async fn open(path: &Path, ours: &Path) -> Result<Self, Anything> {
        let texts = Texts::read(ours).await?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .statement_cache_capacity(1_024);
        let mut connection = options.connect().await?;
        for migration in SCHEMA {
            sqlx::raw_sql(migration).execute(&mut connection).await?;
        }
        sqlx::query("INSERT INTO workflows VALUES ($1, 'default', 'bench', '', 'active', 1, 'operator', 0, 0)")
            .bind(texts.workflow_id)
            .execute(&mut connection)
            .await?;
        sqlx::query("INSERT INTO workflow_versions VALUES ($1, 1, '{}', 'operator', 0)")
            .bind(texts.workflow_id)
            .execute(&mut connection)
            .await?;
        let (queue, mut jobs) = mpsc::channel(1_024);
        let floor = Self { queue, groups: Arc::default(), commits: Arc::default() };
        let (groups, commits) = (Arc::clone(&floor.groups), Arc::clone(&floor.commits));
        tokio::spawn(async move {
            let mut group = Vec::new();
            while jobs.recv_many(&mut group, GROUP_MAX).await > 0 {
                write(&mut connection, &texts, &group).await.expect("SQLite writes");
                groups.fetch_add(1, Ordering::Relaxed);
                commits.fetch_add(group.len() as u64, Ordering::Relaxed);
                for job in group.drain(..) {
                    // The client waits until then.
                    let _ = job.done.send(());
                }
            }
        });
        Ok(floor)
    }

    /// Transactions, and jobs in them.
    pub fn counted(&self) -> (u64, u64) {
        (self.groups.load(Ordering::Relaxed), self.commits.load(Ordering::Relaxed))
    }

    /// One instance from its creation to its end.
    pub async fn instance(self: Arc<Self>) -> Result<Arc<Self>, Anything> {
        let id = Clock::System.new_id();
        self.commit(id, Work::Create).await?;
        for step in 0..STEPS.len() {
            self.commit(id, Work::Finish(step)).await?;
        }
        Ok(self)
    }

    async fn commit(&self, id: Uuid, work: Work) -> Result<(), Anything> {
        let (done, written) = oneshot::channel();
        let job = Job { id, at: Clock::System.now().as_micros(), work, done };
        self.queue.send(job).await.map_err(|_| "the writer has ended")?;
        Ok(written.await?)
    }
}

impl Texts {
    async fn read(path: &Path) -> Result<Self, Anything> {
        let mut connection = SqliteConnectOptions::new().filename(path).connect().await?;
        let row = sqlx::query(
            "SELECT i.workflow_id, i.pins, i.input, i.metadata, i.output, a.plugin, a.output = i.output AS same \
             FROM workflow_instances AS i JOIN step_attempts AS a ON a.instance_id = i.id \
             WHERE i.status = 'completed' LIMIT 1",
        )
        .fetch_one(&mut connection)
        .await?;
        if !row.try_get::<bool, _>("same")? {
            return Err("the output of the steps is not that of the instance".into());
        }
        Ok(Self {
            workflow_id: row.try_get("workflow_id")?,
            pins: row.try_get("pins")?,
            input: row.try_get("input")?,
            metadata: row.try_get("metadata")?,
            output: row.try_get("output")?,
            plugin: row.try_get("plugin")?,
        })
    }
}

async fn write(connection: &mut SqliteConnection, texts: &Texts, group: &[Job]) -> sqlx::Result<()> {
    let created: Vec<&Job> = group.iter().filter(|job| matches!(job.work, Work::Create)).collect();
    let finished: Vec<(&Job, usize)> = group
        .iter()
        .filter_map(|job| match job.work {
            Work::Create => None,
            Work::Finish(step) => Some((job, step)),
        })
        .collect();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    if !created.is_empty() {
        create(connection, texts, &created).await?;
    }
    if !finished.is_empty() {
        finish(connection, texts, &finished).await?;
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}

async fn create(connection: &mut SqliteConnection, texts: &Texts, jobs: &[&Job]) -> sqlx::Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, entity_type, \
         entity_id, project_id, started_by, status, current_step, version, input, metadata, depth, idempotency_key, \
         created_at, started_at, updated_at, wake_at) ",
    );
    query.push_values(jobs, |mut row, job| {
        row.push_bind(job.id)
            .push_bind("default")
            .push_bind(texts.workflow_id)
            .push_bind("bench")
            .push_bind(1)
            .push_bind(texts.pins.as_str())
            .push_bind(None::<&str>)
            .push_bind(None::<&str>)
            .push_bind(None::<&str>)
            .push_bind("operator")
            .push_bind("running")
            .push_bind(None::<&str>)
            .push_bind(1)
            .push_bind(texts.input.as_str())
            .push_bind(texts.metadata.as_str())
            .push_bind(0)
            .push_bind(None::<&str>)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(job.at);
    });
    query.build().execute(connection).await.map(|_| ())
}

async fn finish(connection: &mut SqliteConnection, texts: &Texts, jobs: &[(&Job, usize)]) -> sqlx::Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, failure, started_at, \
         finished_at, retry_at) ",
    );
    query.push_values(jobs, |mut row, (job, step)| {
        row.push_bind(job.id)
            .push_bind(STEPS.get(*step).copied())
            .push_bind(1)
            .push_bind("completed")
            .push_bind(texts.plugin.as_str())
            .push_bind(texts.output.as_str())
            .push_bind(None::<&str>)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(None::<i64>);
    });
    query.build().execute(&mut *connection).await?;
    // SQLite writes the indexes of every column anew that a statement names, so only the last step names them.
    let (last, others): (Vec<_>, Vec<_>) = jobs.iter().partition(|(_, step)| step + 1 == STEPS.len());
    let mut updated = 0;
    if !others.is_empty() {
        let mut query = QueryBuilder::<Sqlite>::new(
            "UPDATE workflow_instances SET current_step = v.column3, version = version + 1, updated_at = v.column4 FROM (",
        );
        query.push_values(others, |mut row, (job, step)| {
            row.push_bind(job.id)
                .push_bind(i64::try_from(step + 1).unwrap_or_default())
                .push_bind(STEPS.get(step + 1).copied())
                .push_bind(job.at);
        });
        query.push(") AS v WHERE workflow_instances.id = v.column1 AND workflow_instances.version = v.column2");
        updated += query.build().execute(&mut *connection).await?.rows_affected();
    }
    if !last.is_empty() {
        let mut query = QueryBuilder::<Sqlite>::new(
            "UPDATE workflow_instances SET status = 'completed', current_step = NULL, version = version + 1, \
             output = v.column3, updated_at = v.column4, completed_at = v.column4, wake_at = NULL FROM (",
        );
        query.push_values(last, |mut row, (job, step)| {
            row.push_bind(job.id)
                .push_bind(i64::try_from(step + 1).unwrap_or_default())
                .push_bind(texts.output.as_str())
                .push_bind(job.at);
        });
        query.push(") AS v WHERE workflow_instances.id = v.column1 AND workflow_instances.version = v.column2");
        updated += query.build().execute(connection).await?.rows_affected();
    }
    assert_eq!(updated, jobs.len() as u64, "a step met an instance that had changed");
    Ok(())
}
