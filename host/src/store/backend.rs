//! The two databases behind one face: pools, connections, transactions, and [`on!`].
//!
//! Each SQL text stands once and runs on both. What surprises: [`Writing`] says `BEGIN` and `COMMIT` itself and closes
//! its connection unless it came to a clean end. sqlx's own `Transaction` keeps a depth that sticks when SQLite rolls
//! back on its own (disk full), and then the only writer would stay broken; and on Postgres, a `begin` that is dropped
//! half-way returns a connection with an open transaction to the pool.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection};

use super::StoreError;
use super::wal::Wal;
use crate::config::{Config, DatabaseConfig, Synchronous};

/// Runs one body on whichever database the connection belongs to.
macro_rules! on {
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
pub(super) use on;

/// What the bundled SQLite must be: older versions can corrupt a WAL database when the log is reset.
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the writer goes back to after it has waited for readers.
const BUSY_TIMEOUT_SQL: &str = "PRAGMA busy_timeout = 5000";
/// Rows of an index that ANALYZE looks at: enough to tell what is rare, and quick whatever the table's size.
const ANALYSIS_LIMIT: &str = "1000";
const STATEMENTS_CACHED: usize = 200;
/// What SQLite's writer keeps of the database, 64 MiB. A thousand new instances touch some thousand pages of a dozen
/// indexes; with SQLite's own 2 MiB, a transaction writes pages out and reads them again before it is over.
const WRITER_CACHE: &str = "-65536";
/// Rows that SQLite's thread hands over without waiting for who reads them: those of a page, of a batch, or of what is
/// due. With fewer, the two threads wake each other for every row of the rest.
const ROWS_BUFFERED: usize = 1_024;

/// The pools of one database.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    /// Many may read; one writes.
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
        wal: Arc<Wal>,
    },
    /// All may do both.
    Postgres(PgPool),
}

/// A connection of either kind.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// What [`on!`] runs its body on.
pub(super) enum Conn<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

/// Where the database is.
#[derive(Clone, Debug)]
pub(super) enum Address {
    File(PathBuf),
    Server(Box<PgConnectOptions>),
}

impl Backend {
    /// What OpenTelemetry calls it.
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
                    // What we ask has an index. A plan is kept for as long as the server has no new statistics of a table;
                    // one that was made while the table was small reads all of it, however large it has become since.
                    ("enable_seqscan", "off".to_owned()),
                    // What has no index is dear to the planner now, and dear plans are compiled first.
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
    /// Opens the pools. The database file's lock must be held by now.
    pub(super) async fn connect(
        address: &Address,
        config: &DatabaseConfig,
    ) -> Result<Self, StoreError> {
        match address {
            Address::File(path) => Self::connect_sqlite(path, config).await,
            Address::Server(options) => {
                let pool = PoolOptions::<Postgres>::new()
                    // One more listens to other hosts.
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
            // What we ask has an index. With statistics the planner would rather index the rows that a statement
            // brings along, and walk the whole table.
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
            .pragma("journal_size_limit", config.wal_bytes_max.to_string())
            .pragma("analysis_limit", ANALYSIS_LIMIT);
        // SQLite's connections do not go stale, and reopening one throws its prepared statements away.
        let pool = || {
            PoolOptions::<Sqlite>::new()
                .acquire_timeout(config.acquire_timeout)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let write = pool().max_connections(1).connect_with(writing).await?;
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
        Ok(Self::Sqlite {
            read,
            write,
            wal: Arc::new(Wal::of(path, config.wal_bytes_max)),
        })
    }

    /// A connection to read with.
    pub(super) async fn read(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite { read, .. } => Connection::Sqlite(read.acquire().await?),
            Self::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
        })
    }

    /// The connection that writes, outside a transaction: for migrations.
    pub(super) async fn write(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Sqlite { write, .. } => Connection::Sqlite(write.acquire().await?),
            Self::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
        })
    }

    /// Begins a transaction that writes.
    pub(super) async fn begin(&self) -> Result<Writing, StoreError> {
        let mut writing = Writing {
            connection: self.write().await?,
            ended: false,
        };
        if let (Self::Sqlite { wal, .. }, Connection::Sqlite(writer)) =
            (self, &mut writing.connection)
        {
            wal.bound(writer, BUSY_TIMEOUT_SQL).await;
        }
        // IMMEDIATE takes SQLite's write lock at once, so that it cannot fail half-way.
        let begin = match writing.connection {
            Connection::Sqlite(_) => "BEGIN IMMEDIATE",
            Connection::Postgres(_) => "BEGIN",
        };
        writing.execute(begin).await?;
        Ok(writing)
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
        on!(self, c => sqlx::raw_sql(sql).execute(c).await.map(|_| ()))?;
        Ok(())
    }
}

/// A transaction that writes. Unless it is committed or rolled back cleanly its connection is closed, which is a
/// rollback too.
#[derive(Debug)]
pub(super) struct Writing {
    connection: Connection,
    ended: bool,
}

impl Writing {
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.connection.execute("COMMIT").await?;
        self.ended = true;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> Result<(), StoreError> {
        self.connection.execute("ROLLBACK").await?;
        self.ended = true;
        Ok(())
    }
}

impl Deref for Writing {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for Writing {
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
