//! The limit of the disk and the databases: the rows of the host, written by hand.
//!
//! A task drains a queue and writes all queued jobs as one transaction of a few statements, for any
//! number of jobs: instances, attempts, and new states of instances. An instance is created and
//! then gets three steps. Each job is acknowledged after COMMIT. The texts in the rows are copied
//! from an instance that the host completed. The statements are in `write_sqlite.rs` and
//! `write_postgres.rs`.

#[path = "write_postgres.rs"]
mod postgres;
#[path = "write_sqlite.rs"]
mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stepwell::clock::Clock;
use stepwell::config::Config;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::databases::{Connection, Database};
use super::support::AnyError;

const STEPS: [&str; 3] = ["one", "two", "three"];
/// Statements that create the workflow of the instances.
const WORKFLOW: [&str; 2] = [
    "INSERT INTO workflows (id, team, name, description, status, latest_version, created_by, created_at, updated_at) \
     VALUES ($1, 'default', 'bench', '', 'active', 1, 'operator', 0, 0)",
    "INSERT INTO workflow_versions (workflow_id, version, source, created_by, created_at) \
     VALUES ($1, 1, '{}', 'operator', 0)",
];
/// The host that owns the instances.
const OWNER: Uuid = Uuid::from_u128(1);

/// A handle of the task that writes.
pub struct Floor {
    queue: mpsc::Sender<Job>,
    groups: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
}

/// Texts that the host wrote for one instance.
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
    /// Finishes the step with this index.
    Finish(usize),
}

struct Job {
    id: Uuid,
    /// The time in microseconds.
    at: i64,
    work: Work,
    done: oneshot::Sender<()>,
}

/// Jobs that are written in one transaction.
struct Group<'a> {
    created: Vec<&'a Job>,
    finished: Vec<Finished<'a>>,
}

#[derive(Clone, Copy)]
struct Finished<'a> {
    job: &'a Job,
    /// The index of the step.
    step: usize,
}

impl Floor {
    /// Opens an empty database with the host's schema. Copies texts from the database `ours`.
    pub async fn open(database: &Database, ours: &Database) -> Result<Self, AnyError> {
        let texts = Texts::read(&mut ours.connect().await?).await?;
        let mut connection = database.connect().await?;
        connection.set_like_ours().await?;
        for sql in WORKFLOW {
            match &mut connection {
                Connection::Sqlite(connection) => {
                    sqlx::query(sql)
                        .bind(texts.workflow_id)
                        .execute(connection)
                        .await
                        .map(|_| ())?;
                }
                Connection::Postgres(connection) => {
                    sqlx::query(sql)
                        .bind(texts.workflow_id)
                        .execute(connection)
                        .await
                        .map(|_| ())?;
                }
            }
        }
        let config = Config::defaults()?.database;
        let (queue, mut jobs) = mpsc::channel(config.commit_queue_max);
        let floor = Self {
            queue,
            groups: Arc::default(),
            commits: Arc::default(),
        };
        let (groups, commits) = (Arc::clone(&floor.groups), Arc::clone(&floor.commits));
        tokio::spawn(async move {
            let mut group = Vec::new();
            while jobs.recv_many(&mut group, config.commit_group_max).await > 0 {
                write(&mut connection, &texts, &group)
                    .await
                    .expect("the database writes");
                groups.fetch_add(1, Ordering::Relaxed);
                commits.fetch_add(group.len() as u64, Ordering::Relaxed);
                for job in group.drain(..) {
                    // The client waits for this message.
                    let _ = job.done.send(());
                }
            }
        });
        Ok(floor)
    }

    /// Returns the numbers of transactions and of jobs in them.
    pub fn counted(&self) -> (u64, u64) {
        (
            self.groups.load(Ordering::Relaxed),
            self.commits.load(Ordering::Relaxed),
        )
    }

    /// Runs one instance from its creation to its end.
    pub async fn instance(self: Arc<Self>) -> Result<Arc<Self>, AnyError> {
        let id = Clock::System.new_id();
        self.commit(id, Work::Create).await?;
        for step in 0..STEPS.len() {
            self.commit(id, Work::Finish(step)).await?;
        }
        Ok(self)
    }

    async fn commit(&self, id: Uuid, work: Work) -> Result<(), AnyError> {
        let (done, written) = oneshot::channel();
        let job = Job {
            id,
            at: Clock::System.now().as_micros(),
            work,
            done,
        };
        self.queue
            .send(job)
            .await
            .map_err(|_| "the writer has ended")?;
        Ok(written.await?)
    }
}

impl Texts {
    async fn read(connection: &mut Connection) -> Result<Self, AnyError> {
        let sql = "SELECT i.workflow_id, i.pins, i.input, i.metadata, i.output, a.plugin, a.output \
            FROM workflow_instances AS i JOIN step_attempts AS a ON a.instance_id = i.id \
            WHERE i.status = 'completed' LIMIT 1";
        let row: (Uuid, String, String, String, String, String, String) = match connection {
            Connection::Sqlite(connection) => sqlx::query_as(sql).fetch_one(connection).await?,
            Connection::Postgres(connection) => sqlx::query_as(sql).fetch_one(connection).await?,
        };
        let (workflow_id, pins, input, metadata, output, plugin, of_step) = row;
        let texts = Self {
            workflow_id,
            pins,
            input,
            metadata,
            output,
            plugin,
        };
        if texts.output == of_step {
            Ok(texts)
        } else {
            Err("a step's output is not its instance's".into())
        }
    }
}

impl Finished<'_> {
    fn is_last(&self) -> bool {
        self.step + 1 == STEPS.len()
    }

    fn next_step(&self) -> Option<&'static str> {
        STEPS.get(self.step + 1).copied()
    }

    /// Returns the version of the instance before this step. The creation sets version 1.
    fn version(&self) -> i64 {
        i64::try_from(self.step + 1).unwrap_or_default()
    }
}

async fn write(connection: &mut Connection, texts: &Texts, jobs: &[Job]) -> sqlx::Result<()> {
    let mut group = Group {
        created: Vec::new(),
        finished: Vec::new(),
    };
    for job in jobs {
        match job.work {
            Work::Create => group.created.push(job),
            Work::Finish(step) => group.finished.push(Finished { job, step }),
        }
    }
    let updated = match connection {
        Connection::Sqlite(connection) => sqlite::write(connection, texts, &group).await?,
        Connection::Postgres(connection) => postgres::write(connection, texts, &group).await?,
    };
    assert_eq!(
        updated,
        group.finished.len() as u64,
        "a step met an instance that had changed"
    );
    Ok(())
}
