//! The limit of the database and the disk: groups of steps written by hand.
//!
//! A task drains a queue and writes all queued steps as one transaction of two statements, for any
//! number of steps: new states of instances, and attempts. SQLite gets the values as a list of
//! rows, whose length is rounded up to a power of two so that each statement is prepared once.
//! PostgreSQL gets one array for each column. Each step is acknowledged after COMMIT. As in the
//! store, the caller formats the JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};
use stepwell::clock::Timestamp;
use stepwell::config::Config;
use stepwell::model::Attempt;
use stepwell::store::StepCommit;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::databases::Connection;
use crate::support::AnyError;

/// The host that owns the instances. Every commit writes it.
const OWNER: Uuid = Uuid::from_u128(1);

/// A handle of the task that writes.
pub struct Floor {
    queue: mpsc::Sender<Job>,
    groups: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
    writer: JoinHandle<Connection>,
}

struct Job {
    commit: StepCommit,
    attempt: Attempt,
    output: String,
    done: oneshot::Sender<()>,
}

impl Floor {
    /// Starts the task. `connection` is to a database with the host's schema that has no other
    /// writer.
    pub async fn start(mut connection: Connection) -> Result<Self, AnyError> {
        connection.set_like_ours().await?;
        let config = Config::defaults()?.database;
        let (queue, mut jobs) = mpsc::channel(config.commit_queue_max);
        let (groups, commits) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writer = tokio::spawn({
            let (groups, commits) = (Arc::clone(&groups), Arc::clone(&commits));
            async move {
                let mut group = Vec::new();
                while jobs.recv_many(&mut group, config.commit_group_max).await > 0 {
                    write(&mut connection, &group)
                        .await
                        .expect("the database writes");
                    groups.fetch_add(1, Ordering::Relaxed);
                    commits.fetch_add(group.len() as u64, Ordering::Relaxed);
                    for job in group.drain(..) {
                        // The client waits for this message.
                        let _ = job.done.send(());
                    }
                }
                connection
            }
        });
        Ok(Self {
            queue,
            groups,
            commits,
            writer,
        })
    }

    /// Writes the queued steps and closes the connection.
    pub async fn stop(self) -> Result<(), AnyError> {
        drop(self.queue);
        self.writer.await?.close().await
    }

    /// Returns the numbers of transactions and of steps in them.
    pub fn counted(&self) -> (u64, u64) {
        (
            self.groups.load(Ordering::Relaxed),
            self.commits.load(Ordering::Relaxed),
        )
    }

    /// Writes one step. Returns when the step is durable.
    pub async fn commit(&self, mut commit: StepCommit) -> Result<(), AnyError> {
        let attempt = commit
            .change
            .attempts
            .pop()
            .ok_or("a step has an attempt")?;
        let output = serde_json::to_string(&attempt.output)?;
        let (done, written) = oneshot::channel();
        let job = Job {
            commit,
            attempt,
            output,
            done,
        };
        self.queue
            .send(job)
            .await
            .map_err(|_| "the writer has ended")?;
        Ok(written.await?)
    }
}

impl Job {
    fn id(&self) -> Uuid {
        self.commit.instance.id
    }

    fn version(&self) -> i64 {
        i64::try_from(self.commit.instance.version).unwrap_or(i64::MAX)
    }

    fn current_step(&self) -> Option<&str> {
        self.commit
            .instance
            .current_step
            .as_ref()
            .map(|step| step.as_str())
    }
}

async fn write(connection: &mut Connection, jobs: &[Job]) -> Result<(), AnyError> {
    match connection {
        Connection::Sqlite(connection) => {
            sqlx::raw_sql("BEGIN IMMEDIATE")
                .execute(&mut *connection)
                .await?;
            let updated = update_in_sqlite(connection, jobs).await?;
            assert_eq!(
                updated,
                jobs.len() as u64,
                "a step met an instance that had changed"
            );
            insert_in_sqlite(connection, jobs).await?;
            sqlx::raw_sql("COMMIT").execute(connection).await?;
        }
        Connection::Postgres(connection) => {
            sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
            let updated = update_in_postgres(connection, jobs).await?;
            assert_eq!(
                updated,
                jobs.len() as u64,
                "a step met an instance that had changed"
            );
            insert_in_postgres(connection, jobs).await?;
            sqlx::raw_sql("COMMIT").execute(connection).await?;
        }
    }
    Ok(())
}

/// Returns the SQL of a list of rows with `columns` parameters each. Unbound parameters are NULL.
fn values(jobs: &[Job], columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    vec![row; jobs.len().next_power_of_two()].join(", ")
}

/// Updates instances without naming any indexed column, because SQLite rewrites the indexes of
/// every named column.
async fn update_in_sqlite(connection: &mut SqliteConnection, jobs: &[Job]) -> sqlx::Result<u64> {
    let sql = format!(
        "UPDATE workflow_instances SET current_step = v.column4, version = version + 1, output = v.column5, \
         failure = v.column6, updated_at = v.column7 FROM (VALUES {}) AS v \
         WHERE workflow_instances.id = v.column1 AND workflow_instances.version = v.column2 \
         AND workflow_instances.status = v.column3",
        values(jobs, 7)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for job in jobs {
        let instance = &job.commit.instance;
        query = query
            .bind(instance.id)
            .bind(job.version())
            .bind(instance.status.as_str())
            .bind(job.current_step())
            .bind(None::<&str>)
            .bind(None::<&str>)
            .bind(instance.updated_at.as_micros());
    }
    Ok(query.execute(connection).await?.rows_affected())
}

async fn insert_in_sqlite(connection: &mut SqliteConnection, jobs: &[Job]) -> sqlx::Result<()> {
    let sql = format!(
        "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, failure, started_at, \
         finished_at, retry_at) SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
        values(jobs, 10)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for job in jobs {
        let attempt = &job.attempt;
        query = query
            .bind(attempt.instance_id)
            .bind(attempt.step.as_str())
            .bind(i64::from(attempt.number))
            .bind(attempt.outcome.as_str())
            .bind(attempt.plugin.as_deref())
            .bind(job.output.as_str())
            .bind(None::<&str>)
            .bind(attempt.started_at.as_micros())
            .bind(attempt.finished_at.as_micros())
            .bind(attempt.retry_at.map(Timestamp::as_micros));
    }
    query.execute(connection).await.map(|_| ())
}

/// Returns one column of the group.
fn column<'a, T>(jobs: &'a [Job], value: impl Fn(&'a Job) -> T) -> Vec<T> {
    jobs.iter().map(value).collect()
}

async fn update_in_postgres(connection: &mut PgConnection, jobs: &[Job]) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "UPDATE workflow_instances AS i SET status = v.status, current_step = v.current_step, \
         version = i.version + 1, output = v.output, failure = v.failure, updated_at = v.updated_at, \
         completed_at = v.completed_at, wake_at = v.wake_at, owner = v.owner \
         FROM UNNEST($1::UUID[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::BIGINT[], \
             $8::BIGINT[], $9::BIGINT[], $10::UUID[]) \
             AS v (id, version, status, current_step, output, failure, updated_at, completed_at, wake_at, owner) \
         WHERE i.id = v.id AND i.version = v.version",
    )
    .bind(column(jobs, Job::id))
    .bind(column(jobs, Job::version))
    .bind(column(jobs, |job| job.commit.instance.status.as_str()))
    .bind(column(jobs, Job::current_step))
    .bind(column(jobs, |_| None::<&str>))
    .bind(column(jobs, |_| None::<&str>))
    .bind(column(jobs, |job| job.commit.instance.updated_at.as_micros()))
    .bind(column(jobs, |job| job.commit.instance.completed_at.map(Timestamp::as_micros)))
    .bind(column(jobs, |job| job.commit.instance.wake_at.map(Timestamp::as_micros)))
    .bind(column(jobs, |_| OWNER))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn insert_in_postgres(connection: &mut PgConnection, jobs: &[Job]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, failure, started_at, \
         finished_at, retry_at) \
         SELECT * FROM UNNEST($1::UUID[], $2::TEXT[], $3::BIGINT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], \
             $8::BIGINT[], $9::BIGINT[], $10::BIGINT[])",
    )
    .bind(column(jobs, Job::id))
    .bind(column(jobs, |job| job.attempt.step.as_str()))
    .bind(column(jobs, |job| i64::from(job.attempt.number)))
    .bind(column(jobs, |job| job.attempt.outcome.as_str()))
    .bind(column(jobs, |job| job.attempt.plugin.as_deref()))
    .bind(column(jobs, |job| job.output.as_str()))
    .bind(column(jobs, |_| None::<&str>))
    .bind(column(jobs, |job| job.attempt.started_at.as_micros()))
    .bind(column(jobs, |job| job.attempt.finished_at.as_micros()))
    .bind(column(jobs, |job| job.attempt.retry_at.map(Timestamp::as_micros)))
    .execute(connection)
    .await
    .map(|_| ())
}
