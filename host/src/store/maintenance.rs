//! Refresh of the query planner's statistics after bulk work.
//!
//! Both databases count written rows: SQLite for the connection that writes, PostgreSQL for each
//! table. On SQLite, other connections would keep the statistics that they have already read. So
//! the statistics table is dropped and created again in one transaction: that changes the schema,
//! and every connection reads the schema and the statistics again.

use std::sync::atomic::{AtomicI64, Ordering};

use super::backend::{Backend, Connection};
use super::{Store, StoreError, signed};

/// The tables that grow.
const TABLES: [(&str, &str); 7] = [
    ("workflows", "ANALYZE workflows"),
    ("workflow_instances", "ANALYZE workflow_instances"),
    ("step_attempts", "ANALYZE step_attempts"),
    ("attempt_logs", "ANALYZE attempt_logs"),
    ("workflow_approvals", "ANALYZE workflow_approvals"),
    ("plugin_storage", "ANALYZE plugin_storage"),
    ("history_points", "ANALYZE history_points"),
];
/// Rebuilds all statistics of SQLite. A table that was emptied has no row in `sqlite_stat1`, like a
/// table that was never analysed.
const SQLITE_ANALYZE: &str = "DROP TABLE IF EXISTS sqlite_stat1; ANALYZE";
const NEVER: i64 = -1;

/// The time of the last refresh, counted in written rows.
#[derive(Debug)]
pub(super) struct Statistics {
    rows: u64,
    /// SQLite's `total_changes()` at the last refresh, or [`NEVER`].
    made_at: AtomicI64,
}

impl Statistics {
    /// Statistics that are refreshed after `rows` written rows.
    pub(super) fn new(rows: u64) -> Self {
        Self {
            rows,
            made_at: AtomicI64::new(NEVER),
        }
    }
}

impl Store {
    /// Refreshes the planner's statistics if many rows were written since the last refresh, and
    /// returns whether it did. Cheap otherwise. On SQLite the first call always refreshes, because
    /// the number of rows written earlier is unknown.
    ///
    /// # Errors
    /// Any error of the database.
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
    // A new connection counts from 0.
    if made_at != NEVER && changes.abs_diff(made_at) < statistics.rows {
        return Ok(false);
    }
    drop(connection);
    let mut transaction = backend.begin().await?;
    transaction.execute(SQLITE_ANALYZE).await?;
    let changes = total_changes(&mut transaction).await?;
    transaction.commit().await?;
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

/// Analyses the tables with many changes. The server's autovacuum does the same, but later, by
/// default when a tenth of a table has changed, and only if it is enabled.
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
