//! Bounds the size of SQLite's write-ahead log.
//!
//! SQLite copies the log into the database after every 1,000 pages, but it restarts the log only
//! when no reader uses the log. With many readers there is always one. So when the log file is too
//! large, the writer waits for the present readers before it begins a transaction, and then
//! truncates the log. Readers that start meanwhile find everything in the database and do not delay
//! the writer.
//!
//! Another program, such as a backup, can read for hours. The writer waits for it only briefly, and
//! tries again only once the log has grown by the same amount again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::SqliteConnection;

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
}

impl Wal {
    /// The log of the database in the file `database`.
    pub(super) fn of(database: &Path, bytes_max: u64) -> Self {
        let mut path = OsString::from(database);
        path.push("-wal");
        Self {
            path: path.into(),
            bytes_max,
            tolerated: AtomicU64::new(bytes_max),
        }
    }

    /// Truncates the log if the file is too large. `writer` must be outside a transaction.
    pub(super) async fn bound(&self, writer: &mut SqliteConnection, busy_timeout: &'static str) {
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
