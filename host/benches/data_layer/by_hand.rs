//! The limit of the databases and the disk when instances are created: the same rows, written by
//! hand.
//!
//! A transaction is BEGIN, one statement for each 256 rows (SQLite) or for all rows (PostgreSQL),
//! and COMMIT, on a connection of its own. Formatting JSON is part of the time, as it is in the
//! store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgConnection, SqliteConnection};
use stepwell::clock::Timestamp;
use stepwell::model::{Instance, NewInstance};
use stepwell::store::WorkflowVersion;
use uuid::Uuid;

use crate::databases::{Connection, Database};
use crate::steps;
use crate::support::AnyError;

const INTO: &str = "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, entity_type, \
    entity_id, project_id, started_by, status, current_step, version, input, metadata, depth, created_at, started_at, \
    updated_at, wake_at, owner)";
const COLUMNS: usize = 21;
const SQLITE_ROWS_MAX: usize = 256;
/// The host that owns the instances.
const OWNER: Uuid = Uuid::from_u128(1);

/// A new instance with its JSON as text.
struct Row {
    instance: Instance,
    pins: String,
    input: String,
    metadata: String,
}

impl Row {
    fn new(new: NewInstance) -> Result<Self, AnyError> {
        let pins = new.pins.json().to_string();
        let instance = Instance::from(new);
        let (input, metadata) = (instance.input.to_string(), instance.metadata.to_string());
        Ok(Self {
            instance,
            pins,
            input,
            metadata,
        })
    }

    fn version(&self) -> i64 {
        i64::try_from(self.instance.version).unwrap_or(i64::MAX)
    }

    fn current_step(&self) -> Option<&str> {
        self.instance
            .current_step
            .as_ref()
            .map(|step| step.as_str())
    }
}

/// A connection to a database that has no other writer.
pub struct HandWritten {
    connection: Connection,
    /// The workflow version that the instances run.
    workflow: Arc<WorkflowVersion>,
}

impl HandWritten {
    /// Opens a connection with the durability, memory and checks of the store's connections.
    pub async fn open(database: &Database) -> Result<Self, AnyError> {
        let store = database.open().await?;
        let workflow = steps::workflow(&store).await?;
        store.close().await;
        let mut connection = database.connect().await?;
        connection.set_like_ours().await?;
        Ok(Self {
            connection,
            workflow,
        })
    }

    /// Creates `count` instances in one transaction. Returns the time it took.
    pub async fn create(&mut self, count: usize) -> Result<Duration, AnyError> {
        let new: Vec<_> = (0..count)
            .map(|_| steps::new_instance(&self.workflow))
            .collect();
        let start = Instant::now();
        let rows = new
            .into_iter()
            .map(Row::new)
            .collect::<Result<Vec<_>, _>>()?;
        match &mut self.connection {
            Connection::Sqlite(connection) => {
                sqlx::raw_sql("BEGIN IMMEDIATE")
                    .execute(&mut *connection)
                    .await?;
                for rows in rows.chunks(SQLITE_ROWS_MAX) {
                    into_sqlite(connection, rows).await?;
                }
                sqlx::raw_sql("COMMIT").execute(connection).await?;
            }
            Connection::Postgres(connection) => {
                sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
                into_postgres(connection, &rows).await?;
                sqlx::raw_sql("COMMIT").execute(connection).await?;
            }
        }
        Ok(start.elapsed())
    }

    pub async fn close(self) -> Result<(), AnyError> {
        self.connection.close().await
    }
}

async fn into_sqlite(connection: &mut SqliteConnection, rows: &[Row]) -> sqlx::Result<()> {
    let row = format!("({})", vec!["?"; COLUMNS].join(", "));
    // Lengths are powers of two, so that each statement is prepared once. Unbound parameters are
    // NULL.
    let values = vec![row; rows.len().next_power_of_two()].join(", ");
    let sql = format!("{INTO} SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for row in rows {
        let Instance {
            id,
            team,
            workflow_id,
            workflow,
            workflow_version,
            started_by,
            status,
            depth,
            ..
        } = &row.instance;
        query = query
            .bind(id)
            .bind(team.as_str())
            .bind(workflow_id)
            .bind(workflow.as_str())
            .bind(i64::from(*workflow_version))
            .bind(row.pins.as_str())
            .bind(row.instance.entity_type.as_deref())
            .bind(row.instance.entity_id.as_deref())
            .bind(row.instance.project_id.as_deref())
            .bind(started_by.as_str())
            .bind(status.as_str())
            .bind(row.current_step())
            .bind(row.version())
            .bind(row.input.as_str())
            .bind(row.metadata.as_str())
            .bind(i64::from(*depth))
            .bind(row.instance.created_at.as_micros())
            .bind(row.instance.started_at.as_micros())
            .bind(row.instance.updated_at.as_micros())
            .bind(row.instance.wake_at.map(Timestamp::as_micros))
            .bind(OWNER);
    }
    query.execute(connection).await.map(|_| ())
}

async fn into_postgres(connection: &mut PgConnection, rows: &[Row]) -> sqlx::Result<()> {
    fn column<'a, T>(rows: &'a [Row], value: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    let sql = format!(
        "{INTO} SELECT * FROM UNNEST($1::UUID[], $2::TEXT[], $3::UUID[], $4::TEXT[], $5::BIGINT[], $6::TEXT[], \
         $7::TEXT[], $8::TEXT[], $9::TEXT[], $10::TEXT[], $11::TEXT[], $12::TEXT[], $13::BIGINT[], $14::TEXT[], \
         $15::TEXT[], $16::BIGINT[], $17::BIGINT[], $18::BIGINT[], $19::BIGINT[], $20::BIGINT[], $21::UUID[])"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(column(rows, |row| row.instance.id))
        .bind(column(rows, |row| row.instance.team.as_str()))
        .bind(column(rows, |row| row.instance.workflow_id))
        .bind(column(rows, |row| row.instance.workflow.as_str()))
        .bind(column(rows, |row| i64::from(row.instance.workflow_version)))
        .bind(column(rows, |row| row.pins.as_str()))
        .bind(column(rows, |row| row.instance.entity_type.as_deref()))
        .bind(column(rows, |row| row.instance.entity_id.as_deref()))
        .bind(column(rows, |row| row.instance.project_id.as_deref()))
        .bind(column(rows, |row| row.instance.started_by.as_str()))
        .bind(column(rows, |row| row.instance.status.as_str()))
        .bind(column(rows, Row::current_step))
        .bind(column(rows, Row::version))
        .bind(column(rows, |row| row.input.as_str()))
        .bind(column(rows, |row| row.metadata.as_str()))
        .bind(column(rows, |row| i64::from(row.instance.depth)))
        .bind(column(rows, |row| row.instance.created_at.as_micros()))
        .bind(column(rows, |row| row.instance.started_at.as_micros()))
        .bind(column(rows, |row| row.instance.updated_at.as_micros()))
        .bind(column(rows, |row| {
            row.instance.wake_at.map(Timestamp::as_micros)
        }))
        .bind(column(rows, |_| OWNER))
        .execute(connection)
        .await
        .map(|_| ())
}
