//! Bounds the size of SQLite's write-ahead log.
//!
//! A checkpoint copies the log into the database and syncs it. By default SQLite's writer does that
//! in each COMMIT that finds 1,000 pages in the log, and this COMMIT takes ten times as long as the
//! others. Here a task with a connection of its own makes the checkpoints, while the writer goes on
//! ([`super::checkpoints`]). SQLite starts the log anew only if a checkpoint has left nothing, and
//! beside a busy writer a few pages are always left. So when the log is long, the writer copies
//! these pages before its next transaction.
//!
//! The log cannot start anew while a reader uses it. With many readers there is always one. So when
//! the log file is too large, the writer waits for the present readers before it begins a
//! transaction, and then truncates the log. Readers that start meanwhile find everything in the
//! database and do not delay the writer.
//!
//! Another program, such as a backup, can read for hours. The writer waits for it only briefly, and
//! tries again only once the log has grown by the same amount again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::sync::{Mutex, Notify};

use super::StoreError;

/// Pages that are not in the database yet and cause a checkpoint: SQLite's default. The log has most
/// pages several times, and a checkpoint writes each page once.
const CHECKPOINT_PAGES: i64 = 1_000;
/// The most checkpoints in a row. SQLite syncs the database only if the writer has added nothing
/// since the checkpoint began, which is likely for the second one, because it copies little.
const CHECKPOINTS_IN_A_ROW: usize = 4;
/// Pages of a log that the writer makes start anew. Readers look a page up in one index for each
/// 4,096 pages of the log.
const LONG_PAGES: i64 = 4_000;

/// The longest wait for readers, 250 ms: about as long as the longest read of the host takes. No
/// step is committed during the wait.
const WAIT_FOR_READERS: &str = "PRAGMA busy_timeout = 250";

/// The write-ahead log of one database.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    bytes_max: u64,
    /// The file size in bytes up to which no truncation is tried.
    tolerated: AtomicU64,
    /// Options of the connection that makes checkpoints.
    options: SqliteConnectOptions,
    /// Notified when a transaction begins.
    written: Notify,
    /// True if the log is so long that the writer shall copy the rest of it.
    is_long: AtomicBool,
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
    pub(super) fn of(database: &Path, bytes_max: u64, options: SqliteConnectOptions) -> Self {
        let mut path = OsString::from(database);
        path.push("-wal");
        Self {
            path: path.into(),
            bytes_max,
            tolerated: AtomicU64::new(bytes_max),
            options,
            written: Notify::new(),
            is_long: AtomicBool::new(false),
            checkpointing: Mutex::const_new(()),
        }
    }

    /// Copies the rest of a long log into the database, and truncates the log if the file is too
    /// large. `writer` must be outside a transaction.
    pub(super) async fn bound(&self, writer: &mut SqliteConnection, busy_timeout: &'static str) {
        self.written.notify_one();
        if self.is_long.swap(false, Ordering::Relaxed)
            && let Ok(_turn) = self.checkpointing.try_lock()
            && let Err(error) = pragma(writer, CHECKPOINT).await
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
        match cut_off(writer, busy_timeout).await {
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
        if pages.all - pages.copied < CHECKPOINT_PAGES {
            return Ok(());
        }
        let _turn = self.checkpointing.lock().await;
        for _ in 0..CHECKPOINTS_IN_A_ROW {
            pragma(connection, CHECKPOINT).await?;
            pages = pragma(connection, LOOK).await?;
            if pages.all == pages.copied {
                break;
            }
        }
        self.is_long
            .store(pages.all >= LONG_PAGES, Ordering::Relaxed);
        Ok(())
    }
}

/// Copies as much of the log as possible, without waiting for readers or the writer.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// Copies nothing.
const LOOK: &str = "PRAGMA wal_checkpoint(NOOP)";

/// Runs one of the two pragmas.
async fn pragma(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<Pages, sqlx::Error> {
    let (_, all, copied): (i64, i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(Pages { all, copied })
}

/// Truncates the log. Returns false if a reader prevented it.
async fn cut_off(
    writer: &mut SqliteConnection,
    busy_timeout: &'static str,
) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql(WAIT_FOR_READERS)
        .execute(&mut *writer)
        .await?;
    let result = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(&mut *writer)
        .await;
    sqlx::raw_sql(busy_timeout).execute(&mut *writer).await?;
    let (busy, _, _): (i64, i64, i64) = result?;
    Ok(busy == 0)
}
