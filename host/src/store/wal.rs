//! Bounds the size of SQLite's write-ahead log.
//!
//! A checkpoint copies the log into the database and syncs it. By default SQLite's writer does that
//! in each COMMIT that finds 1,000 pages in the log, and this COMMIT takes ten times as long as the
//! others. Here a task with a connection of its own makes the checkpoints, while the writer goes on
//! ([`super::checkpoints`]).
//!
//! A log that starts anew overwrites its file. This is worth much, because a COMMIT that makes the
//! file longer also waits for the file system's journal. But SQLite starts the log anew only if a
//! checkpoint has left nothing and no reader uses the log. Beside a busy writer a few pages are
//! always left, and there is always a reader. So the task copies and syncs all but a few pages. Then
//! the writer copies these before its next transaction, and waits a few milliseconds for the present
//! readers. Readers that start meanwhile find everything in the database and do not delay the writer.
//!
//! A longer read makes the log grow. When its file is too large, the writer waits longer for the
//! readers, and then truncates the file.
//!
//! Another program, such as a backup, can read for hours. The writer waits for it only briefly, and
//! tries again only once the log has grown by the same amount again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{Mutex, Notify};

use super::StoreError;

/// Pages that are not in the database yet and cause a checkpoint: SQLite's default. The log has most
/// pages several times, and a checkpoint writes each page once.
const CHECKPOINT_PAGES: i64 = 1_000;
/// The most checkpoints in a row. Each has less to copy than the one before, because the writer has
/// had less time.
const CHECKPOINTS_IN_A_ROW: usize = 4;
/// Pages that are left to the writer, which copies and syncs them in a few milliseconds.
const REST_PAGES: i64 = 64;
/// Pages of a log that the writer makes start anew even if more than [`REST_PAGES`] are left. Readers
/// look a page up in one index for each 4,096 pages of the log.
const LONG_PAGES: i64 = 4_000;

/// The longest wait for the readers of a log that starts anew: a few times as long as most reads of
/// the host take. No step is committed during the wait.
const WAIT_BRIEFLY: &str = "PRAGMA busy_timeout = 8";
/// The longest wait for the readers of a log file that is too large, 250 ms: about as long as the
/// longest read of the host takes.
const WAIT_FOR_READERS: &str = "PRAGMA busy_timeout = 250";

/// The write-ahead log of one database.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    bytes_max: u64,
    /// The file size in bytes up to which no truncation is tried.
    tolerated: AtomicU64,
    /// The database, for syncing it. It must be closed after all connections: when a process closes
    /// a file, it loses its locks on it.
    database: Arc<File>,
    /// Options of the connection that makes checkpoints.
    options: SqliteConnectOptions,
    /// Notified when a transaction begins.
    written: Notify,
    /// True if the writer shall copy the rest of the log, so that it starts anew.
    ends: AtomicBool,
    /// Held during checkpoints. A connection fails if another one makes a checkpoint.
    checkpointing: Mutex<()>,
}

/// Numbers of pages of the log.
struct Pages {
    all: i64,
    /// Pages that are in the database too.
    copied: i64,
}

impl Wal {
    /// The log of the database in the file `database`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn of(
        database: &Path,
        bytes_max: u64,
        options: SqliteConnectOptions,
    ) -> std::io::Result<Self> {
        let mut path = OsString::from(database);
        path.push("-wal");
        let database = OpenOptions::new().read(true).write(true).open(database)?;
        Ok(Self {
            path: path.into(),
            database: Arc::new(database),
            bytes_max,
            tolerated: AtomicU64::new(bytes_max),
            options,
            written: Notify::new(),
            ends: AtomicBool::new(false),
            checkpointing: Mutex::const_new(()),
        })
    }

    /// Makes the log start anew if only its rest is not in the database yet, and truncates it if the
    /// file is too large. `writer` must be outside a transaction.
    pub(super) async fn bound(&self, writer: &mut SqliteConnection, busy_timeout: &'static str) {
        self.written.notify_one();
        if self.ends.swap(false, Ordering::Relaxed)
            && let Ok(_turn) = self.checkpointing.try_lock()
            && let Err(error) = checkpoint(writer, RESTART, WAIT_BRIEFLY, busy_timeout).await
        {
            tracing::warn!(%error, "could not copy the rest of SQLite's log into the database");
        }
        // One system call, far cheaper than the transaction that follows.
        let Ok(bytes) = std::fs::metadata(&self.path).map(|file| file.len()) else {
            return;
        };
        if bytes <= self.bytes_max {
            // The reader that blocked the truncation has finished, and SQLite has restarted the
            // log.
            self.tolerated.store(self.bytes_max, Ordering::Relaxed);
            return;
        }
        if bytes <= self.tolerated.load(Ordering::Relaxed) {
            return;
        }
        let _turn = self.checkpointing.lock().await;
        match checkpoint(writer, TRUNCATE, WAIT_FOR_READERS, busy_timeout).await {
            Ok(true) => self.tolerated.store(self.bytes_max, Ordering::Relaxed),
            Ok(false) => {
                tracing::warn!(bytes, "a reader keeps SQLite's log from being cut off");
                self.tolerated
                    .store(bytes.saturating_add(self.bytes_max), Ordering::Relaxed);
            }
            // The transaction that follows fails in the same way, and its caller gets the error.
            Err(error) => tracing::warn!(%error, bytes, "could not cut SQLite's log off"),
        }
    }

    /// Waits until a transaction has begun.
    pub(super) async fn written(&self) {
        self.written.notified().await;
    }

    /// Makes a checkpoint if the log has grown enough since the last one.
    pub(super) async fn checkpoint(
        &self,
        connection: &mut Option<SqliteConnection>,
    ) -> Result<(), StoreError> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.options.connect().await?),
        };
        let mut pages = pragma(connection, LOOK).await?;
        if pages.left() < CHECKPOINT_PAGES {
            return Ok(());
        }
        let _turn = self.checkpointing.lock().await;
        for _ in 0..CHECKPOINTS_IN_A_ROW {
            pragma(connection, CHECKPOINT).await?;
            // SQLite syncs the database only if nothing is left. The writer then has less to sync.
            let database = Arc::clone(&self.database);
            tokio::task::spawn_blocking(move || database.sync_data())
                .await
                .map_err(std::io::Error::other)
                .flatten()
                .map_err(sqlx::Error::Io)?;
            pages = pragma(connection, LOOK).await?;
            if pages.left() <= REST_PAGES {
                break;
            }
        }
        let ends = pages.left() <= REST_PAGES || pages.all >= LONG_PAGES;
        self.ends.store(ends, Ordering::Relaxed);
        Ok(())
    }
}

impl Pages {
    /// Returns the number of pages that are not in the database yet.
    fn left(&self) -> i64 {
        self.all - self.copied
    }
}

/// Copies as much of the log as possible, without waiting for readers or the writer.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// Copies nothing.
const LOOK: &str = "PRAGMA wal_checkpoint(NOOP)";
/// Copies all, and waits until the next transaction can start the log anew.
const RESTART: &str = "PRAGMA wal_checkpoint(RESTART)";
/// Copies all, waits until nobody uses the log, and truncates it.
const TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Runs one of the two pragmas that do not wait.
async fn pragma(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<Pages, sqlx::Error> {
    let (_, all, copied): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(Pages { all, copied })
}

/// Runs one of the two pragmas that wait for readers. Returns false if a reader prevented it.
async fn checkpoint(
    writer: &mut SqliteConnection,
    sql: &'static str,
    wait: &'static str,
    busy_timeout: &'static str,
) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql(wait).execute(&mut *writer).await?;
    let result = sqlx::query_as(sql).fetch_one(&mut *writer).await;
    sqlx::raw_sql(busy_timeout).execute(&mut *writer).await?;
    let (busy, _, _): (i64, i64, i64) = result?;
    Ok(busy == 0)
}
