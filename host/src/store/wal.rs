//! Keeps SQLite's write-ahead log from growing without end.
//!
//! SQLite writes the log back into the database by itself after every 1,000 pages, but begins it anew only when no
//! reader looks at it, and with many readers there always is one. So before a transaction begins, and only if the file
//! has grown too large, the writer waits for the readers that are there and cuts it off; new readers find everything in
//! the database by then and do not hold it up. What surprises: somebody else's program can read for hours (a backup).
//! We wait for it only shortly, and again only when the log has grown by as much once more.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::SqliteConnection;

/// As long as the longest of our own reads is likely to take. Meanwhile no step is committed.
const WAIT_FOR_READERS: &str = "PRAGMA busy_timeout = 250";

/// The log of one database.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    bytes_max: u64,
    /// No attempt is made while the file is smaller than this.
    tolerated: AtomicU64,
}

impl Wal {
    /// Of the database in the file `database`.
    pub(super) fn of(database: &Path, bytes_max: u64) -> Self {
        let mut path = OsString::from(database);
        path.push("-wal");
        Self {
            path: path.into(),
            bytes_max,
            tolerated: AtomicU64::new(bytes_max),
        }
    }

    /// Cuts the log off if it is too large. `writer` must be outside of a transaction.
    pub(super) async fn bound(&self, writer: &mut SqliteConnection, busy_timeout: &'static str) {
        // One call of the operating system, far quicker than the transaction that follows.
        let Ok(bytes) = std::fs::metadata(&self.path).map(|file| file.len()) else {
            return;
        };
        if bytes <= self.bytes_max {
            // The reader that was in the way has gone, and SQLite has begun the log anew.
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
            // The transaction that follows meets the same trouble, and tells whoever asked for it.
            Err(error) => tracing::warn!(%error, bytes, "could not cut SQLite's log off"),
        }
    }
}

/// Whether the log is empty now; if not, there was a reader.
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
