//! The planner's statistics, made anew after bulk work.
//!
//! Both databases count what was written: SQLite for the connection that writes, PostgreSQL for each table. What
//! surprises: on SQLite, connections other than the one that ran ANALYZE would go on with the statistics that they have
//! read. The table of statistics is therefore made anew too, in one transaction: that changes the schema, and every
//! connection reads it again.

use std::sync::atomic::{AtomicI64, Ordering};

use super::backend::{Backend, Connection};
use super::{Store, StoreError, signed};

/// The tables that grow.
const TABLES: [(&str, &str); 6] = [
    ("workflows", "ANALYZE workflows"),
    ("workflow_instances", "ANALYZE workflow_instances"),
    ("step_attempts", "ANALYZE step_attempts"),
    ("workflow_approvals", "ANALYZE workflow_approvals"),
    ("plugin_storage", "ANALYZE plugin_storage"),
    ("history_points", "ANALYZE history_points"),
];
/// A table that was emptied has no row in `sqlite_stat1`, and neither has one that was never looked at.
const SQLITE_ANALYZE: &str = "DROP TABLE IF EXISTS sqlite_stat1; ANALYZE";
const NEVER: i64 = -1;

/// When the statistics were made, counted in written rows.
#[derive(Debug)]
pub(super) struct Statistics {
    rows: u64,
    /// SQLite's `total_changes()` at that time.
    made_at: AtomicI64,
}

impl Statistics {
    /// To be made anew after `rows` written rows.
    pub(super) fn new(rows: u64) -> Self {
        Self {
            rows,
            made_at: AtomicI64::new(NEVER),
        }
    }
}

impl Store {
    /// Makes the planner's statistics anew if much was written since, and says whether it did. Cheap otherwise. The
    /// first call on SQLite does, because nobody knows what was written before.
    ///
    /// # Errors
    /// The database's.
    pub async fn refresh_statistics(&self) -> Result<bool, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let core = store.core();
            match &core.backend {
                Backend::Sqlite { .. } => refresh_sqlite(&core.backend, &core.statistics).await,
                Backend::Postgres(_) => refresh_postgres(&core.backend, core.statistics.rows).await,
            }
        })
        .await
    }
}

async fn refresh_sqlite(backend: &Backend, statistics: &Statistics) -> Result<bool, StoreError> {
    let made_at = statistics.made_at.load(Ordering::Relaxed);
    let mut connection = backend.write().await?;
    let changes = total_changes(&mut connection).await?;
    // A connection that was opened anew counts from 0.
    if made_at != NEVER && changes.abs_diff(made_at) < statistics.rows {
        return Ok(false);
    }
    drop(connection);
    let mut writing = backend.begin().await?;
    writing.execute(SQLITE_ANALYZE).await?;
    let changes = total_changes(&mut writing).await?;
    writing.commit().await?;
    statistics.made_at.store(changes, Ordering::Relaxed);
    Ok(true)
}

async fn total_changes(connection: &mut Connection) -> Result<i64, StoreError> {
    match connection {
        Connection::Sqlite(connection) => Ok(sqlx::query_scalar("SELECT total_changes()")
            .fetch_one(&mut **connection)
            .await?),
        Connection::Postgres(_) => Ok(0),
    }
}

/// The server does the same, later: by default when a tenth of a table has changed, and if it was not told to leave it.
async fn refresh_postgres(backend: &Backend, rows: u64) -> Result<bool, StoreError> {
    let mut connection = backend.write().await?;
    let changed: Vec<String> =
        match &mut connection {
            Connection::Sqlite(_) => Vec::new(),
            Connection::Postgres(connection) => sqlx::query_scalar(
                "SELECT relname::text FROM pg_stat_user_tables WHERE schemaname = current_schema() \
                 AND n_mod_since_analyze >= GREATEST($1, n_live_tup / 10)",
            )
            .bind(signed(rows))
            .fetch_all(&mut **connection)
            .await?,
        };
    let mut refreshed = false;
    for (table, analyze) in TABLES {
        if changed.iter().any(|name| name == table) {
            connection.execute(analyze).await?;
            refreshed = true;
        }
    }
    Ok(refreshed)
}
