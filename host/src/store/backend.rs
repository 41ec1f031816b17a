//! Pools, connections and transactions of both databases, and the macro [`with_backend!`].
//!
//! Each SQL text is written once and runs on both databases. [`Transaction`] sends `BEGIN` and
//! `COMMIT` itself, and closes its connection unless the transaction ended cleanly. sqlx's own
//! `Transaction` is avoided for two reasons. It counts nested transactions, and the count stays
//! wrong when SQLite rolls back by itself because the disk is full, so the only writer would remain
//! broken. And on Postgres a `begin` that is dropped half-way returns a connection with an open
//! transaction to the pool.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Sqlite, SqliteConnection};

use super::StoreError;
use super::reach::reach;
use super::rows::{self, Column, SQLITE_ROWS_MAX};
use super::wal::Wal;
use crate::config::{Config, DatabaseConfig, Synchronous};

/// Runs one body with the connection of either database.
macro_rules! with_backend {
    ($connection:expr, $c:ident => $body:expr) => {
        match $connection.conn() {
            $crate::store::backend::Conn::Sqlite($c) => $body,
            $crate::store::backend::Conn::Postgres($c) => $body,
        }
    };
    ($connection:expr, $c:ident: $Database:ident => $body:expr) => {
        match $connection.conn() {
            $crate::store::backend::Conn::Sqlite($c) => {
                type $Database = sqlx::Sqlite;
                $body
            }
            $crate::store::backend::Conn::Postgres($c) => {
                type $Database = sqlx::Postgres;
                $body
            }
        }
    };
}
pub(super) use with_backend;

/// The oldest SQLite that is accepted. Older versions can corrupt a WAL database when the log is
/// reset.
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);
/// A transaction that has not begun after this time is waiting for a lock.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Restores the writer's timeout after a shorter one.
const BUSY_TIMEOUT_SQL: &str = "PRAGMA busy_timeout = 5000";
/// The number of index rows that ANALYZE samples. Enough to tell which values are rare, and fast
/// for any table size.
const ANALYSIS_LIMIT: &str = "1000";
const STATEMENTS_CACHED: usize = 200;
/// The page cache of SQLite's writer, 64 MiB. A thousand new instances touch some thousand pages in
/// a dozen indexes. With SQLite's default of 2 MiB, a transaction writes pages out and reads them
/// again before it ends.
const WRITER_CACHE: &str = "-65536";
/// The number of rows that SQLite's thread reads ahead: enough for a page, a batch, or the
/// instances that are due. With a smaller buffer, the two threads wake each other for every further
/// row.
const ROWS_BUFFERED: usize = 1_024;

/// The connection pools of one database.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    /// A pool for reads, and one connection that writes.
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
        wal: Arc<Wal>,
        /// True if the last transaction could not begin, or is still waiting to.
        blocked: Arc<AtomicBool>,
    },
    /// One pool for reads and writes.
    Postgres(PgPool),
}

/// A pooled connection to either database.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// The connection that [`with_backend!`] passes to its body.
pub(super) enum Conn<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

/// The location of the database.
#[derive(Clone, Debug)]
pub(super) enum Address {
    File(PathBuf),
    Server(Box<PgConnectOptions>),
}

impl Backend {
    /// The name of the database system in OpenTelemetry.
    pub(super) const fn system(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "postgresql",
        }
    }
}

impl Address {
    pub(super) fn of(config: &Config) -> Result<Self, StoreError> {
        let url = config.database_url();
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('?') || path == ":memory:" {
                return Err(StoreError::Settings(format!(
                    "database.url '{url}' names no file: write sqlite:PATH"
                )));
            }
            return Ok(Self::File(path.into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            // The error may quote the URL, and with it the password.
            let options = PgConnectOptions::from_str(&url).map_err(|_| {
                StoreError::Settings(
                    "database.url is not a Postgres address: write postgres://USER:PASSWORD@HOST/DATABASE".to_owned(),
                )
            })?;
            let database = &config.database;
            let milliseconds = |timeout: Duration| timeout.as_millis().to_string();
            let options = options
                .application_name("stepwell")
                .statement_cache_capacity(STATEMENTS_CACHED)
                .options([
                    (
                        "statement_timeout",
                        milliseconds(database.statement_timeout),
                    ),
                    ("lock_timeout", milliseconds(database.lock_timeout)),
                    (
                        "idle_in_transaction_session_timeout",
                        milliseconds(database.idle_in_transaction_timeout),
                    ),
                    // All our queries have an index. Postgres keeps a plan until a table has new
                    // statistics; a plan made while the table was small would scan the whole table,
                    // however large it has become.
                    ("enable_seqscan", "off".to_owned()),
                    // A query without an index now looks expensive to the planner, and expensive
                    // plans would be compiled first.
                    ("jit", "off".to_owned()),
                ]);
            return Ok(Self::Server(Box::new(options)));
        }
        Err(StoreError::Settings(
            "database.url must begin with sqlite: or postgres:// (or be empty for SQLite in data_dir)".to_owned(),
        ))
    }
}

impl Backend {
    /// Opens the pools. The caller must already hold the lock of a SQLite file.
    pub(super) async fn connect(
        address: &Address,
        config: &DatabaseConfig,
    ) -> Result<Self, StoreError> {
        match address {
            Address::File(path) => Self::connect_sqlite(path, config).await,
            Address::Server(options) => {
                reach(options, config.acquire_timeout).await?;
                let pool = PoolOptions::<Postgres>::new()
                    // One more connection listens to other hosts.
                    .max_connections(config.connections_max.max(2).saturating_add(1))
                    .acquire_timeout(config.acquire_timeout)
                    .max_lifetime(config.connection_lifetime)
                    .connect_with((**options).clone())
                    .await?;
                Ok(Self::Postgres(pool))
            }
        }
    }

    async fn connect_sqlite(path: &Path, config: &DatabaseConfig) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROWS_BUFFERED)
            .statement_cache_capacity(STATEMENTS_CACHED)
            // All our queries have an index. With statistics the planner would rather index the
            // rows that a statement brings along, and scan the whole table.
            .pragma("automatic_index", "OFF");
        let writing = options
            .clone()
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match config.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Normal => SqliteSynchronous::Normal,
            })
            .pragma("cache_size", WRITER_CACHE)
            // A task makes the checkpoints, so that no commit waits for one.
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", config.wal_bytes_max.to_string())
            .pragma("analysis_limit", ANALYSIS_LIMIT);
        // SQLite's connections do not go stale, and reopening one discards its prepared statements.
        let pool = || {
            PoolOptions::<Sqlite>::new()
                .acquire_timeout(config.acquire_timeout)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let write = pool()
            .max_connections(1)
            .connect_with(writing.clone())
            .await?;
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&write)
            .await?;
        if parse_version(&version) < Some(SQLITE_VERSION_MIN) {
            let (major, minor, patch) = SQLITE_VERSION_MIN;
            return Err(StoreError::Settings(format!(
                "this program was built with SQLite {version}, which can corrupt its log: rebuild it with \
                 {major}.{minor}.{patch} or newer"
            )));
        }
        let reading = options.pragma("query_only", "ON");
        let read = pool()
            .max_connections(config.connections_max.max(1))
            .connect_with(reading)
            .await?;
        let wal = Wal::of(path, config.wal_bytes_max, writing)
            .map_err(|error| StoreError::from(sqlx::Error::Io(error)))?;
        Ok(Self::Sqlite {
            read,
            write,
            wal: Arc::new(wal),
            blocked: Arc::default(),
        })
    }

    /// Acquires a connection for reads.
    pub(super) async fn read(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite { read, .. } => Connection::Sqlite(read.acquire().await?),
            Self::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
        })
    }

    /// Acquires a connection that may write, outside a transaction.
    pub(super) async fn write(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite { write, .. } => Connection::Sqlite(write.acquire().await?),
            Self::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
        })
    }

    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<Transaction, StoreError> {
        let mut transaction = Transaction {
            connection: self.write().await?,
            last: None,
            ended: false,
        };
        if let (Self::Sqlite { wal, .. }, Connection::Sqlite(writer)) =
            (self, &mut transaction.connection)
        {
            wal.bound(writer, BUSY_TIMEOUT_SQL).await;
        }
        self.begin_in(&mut transaction).await?;
        Ok(transaction)
    }

    /// Checks that SQLite's write lock, which another program may hold, can be taken. Writes
    /// nothing, and does not wait for the writer while it works. A PostgreSQL server has no such
    /// lock.
    ///
    /// # Errors
    /// [`StoreError::WriteLock`] while another program holds the lock.
    pub(super) async fn check_writable(&self) -> Result<(), StoreError> {
        let Self::Sqlite { write, blocked, .. } = self else {
            return Ok(());
        };
        let Some(connection) = write.try_acquire() else {
            return match blocked.load(Ordering::Relaxed) {
                true => Err(StoreError::WriteLock),
                false => Ok(()),
            };
        };
        let mut transaction = Transaction {
            connection: Connection::Sqlite(connection),
            last: None,
            ended: false,
        };
        self.begin_in(&mut transaction).await?;
        transaction.rollback().await
    }

    /// Executes `BEGIN`. Sets `blocked` while the transaction waits for SQLite's lock.
    async fn begin_in(&self, transaction: &mut Transaction) -> Result<(), StoreError> {
        let Self::Sqlite { blocked, .. } = self else {
            return transaction.execute("BEGIN").await;
        };
        // IMMEDIATE takes SQLite's write lock at once, so the transaction cannot fail half-way for
        // lack of the lock.
        let begun = transaction.execute("BEGIN IMMEDIATE");
        tokio::pin!(begun);
        let begun = match tokio::time::timeout(BLOCKED_AFTER, &mut begun).await {
            Ok(begun) => begun,
            Err(_) => {
                blocked.store(true, Ordering::Relaxed);
                begun.await
            }
        };
        blocked.store(begun.is_err(), Ordering::Relaxed);
        begun
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { read, write, .. } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Connection {
    pub(super) fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(connection) => Conn::Sqlite(connection),
            Self::Postgres(connection) => Conn::Postgres(connection),
        }
    }

    /// Runs a statement without parameters.
    pub(super) async fn execute(&mut self, sql: &'static str) -> Result<(), StoreError> {
        with_backend!(self, c => sqlx::raw_sql(sql).execute(c).await.map(|_| ()))?;
        Ok(())
    }
}

/// A transaction that may write. Unless it is committed or rolled back cleanly, its connection is
/// closed, which also rolls back.
#[derive(Debug)]
pub(super) struct Transaction {
    connection: Connection,
    /// The statement that is sent together with COMMIT.
    last: Option<(String, SqliteArguments)>,
    ended: bool,
}

impl Transaction {
    /// Writes rows as the last statement of the transaction. SQLite gets it together with COMMIT,
    /// which saves a round trip to its thread; an error is then returned by
    /// [`Transaction::commit`].
    pub(super) async fn write_last<R>(
        &mut self,
        sql: &str,
        columns: &[Column<R>],
        rows: &[R],
    ) -> Result<(), StoreError> {
        let is_sqlite = matches!(self.connection, Connection::Sqlite(_));
        if is_sqlite && self.last.is_none() && (1..=SQLITE_ROWS_MAX).contains(&rows.len()) {
            self.last = Some(rows::sqlite(sql, columns, rows)?);
            return Ok(());
        }
        rows::execute(&mut self.connection, sql, columns, rows)
            .await
            .map(|_| ())
    }

    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        match (self.last.take(), &mut self.connection) {
            (Some((sql, arguments)), Connection::Sqlite(connection)) => {
                sqlx::query_with(AssertSqlSafe(sql + "; COMMIT"), arguments)
                    .execute(&mut **connection)
                    .await?;
            }
            (_, connection) => connection.execute("COMMIT").await?,
        }
        self.ended = true;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> Result<(), StoreError> {
        self.connection.execute("ROLLBACK").await?;
        self.ended = true;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            match &mut self.connection {
                Connection::Sqlite(connection) => connection.close_on_drop(),
                Connection::Postgres(connection) => connection.close_on_drop(),
            }
        }
    }
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("3.51.3") >= Some(SQLITE_VERSION_MIN));
        assert!(parse_version("3.100.0") >= Some(SQLITE_VERSION_MIN));
        assert!(parse_version("3.51.2") < Some(SQLITE_VERSION_MIN));
        assert!(parse_version("garbage") < Some(SQLITE_VERSION_MIN));
    }
}
