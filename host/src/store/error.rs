//! Errors of the store.

use std::sync::Arc;

use super::reach::plainly;
use crate::model::{EntryKey, Name};

/// A failure of the store. Messages fit after "failed to …" and tell the reader a remedy.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The row does not exist, or belongs to another team.
    #[error("there is no such thing")]
    NotFound,
    /// The item cannot be deleted while others use it; the sentence names the users.
    #[error("{0}")]
    InUse(String),
    /// The workflow of this name is archived.
    #[error(
        "the workflow `{0}` is archived and takes no new instances and versions; `stepwell workflow unarchive {0}` brings it back"
    )]
    Archived(Name),
    /// The row is not in the state that the client's precondition names; the sentence says which
    /// state it is in.
    #[error("{0}")]
    Precondition(String),
    /// The token is the last operator token that has not expired.
    #[error(
        "this is the last operator token that has not expired: make another one first (`stepwell token create NAME -p \
         operator`), or revoke it all the same with ?force=true (`stepwell token revoke --force`)"
    )]
    LastOperator,
    /// Another process has the database; the sentence says how to find that process.
    #[error("{0}")]
    Locked(String),
    /// A newer program has migrated the database.
    #[error(
        "the database has schema version {found}, and this program knows versions up to {known}: install the program \
         that last used this database, or a newer one"
    )]
    NewerSchema {
        /// The schema version of the database.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// The settings cannot work.
    #[error("{0}")]
    Settings(String),
    /// The database refuses a value, for example a text with a NUL character on Postgres.
    #[error("the database cannot hold a value: {0}")]
    Value(String),
    /// A statement violated a constraint, because two writers raced for one row.
    #[error("a row changed meanwhile ({0}); try again")]
    Constraint(String),
    /// A quota of the team is used up.
    #[error("{message}")]
    Quota {
        /// [`QUOTA_UNFINISHED`], [`QUOTA_STORED`] or [`QUOTA_VERSIONS`].
        code: &'static str,
        /// One sentence that names the quota and a remedy.
        message: String,
    },
    /// A page cursor belongs to a list in another order.
    #[error(
        "the cursor is of a list in another order: begin again without it, or ask as for the page that gave it"
    )]
    Cursor,
    /// The store was closed.
    #[error("the store is closed: the host is shutting down")]
    Closed,
    /// The database's disk is full, and nothing was written. Reads still work, and writes work
    /// again once the disk has room.
    #[error("the database's disk is full: {0}")]
    Full(Arc<sqlx::Error>),
    /// The database cannot be reached, or is too slow.
    #[error("the database is unavailable: {}", plainly(.0))]
    Unavailable(Arc<sqlx::Error>),
    /// Another program holds SQLite's write lock, and a transaction has waited for it for a while.
    /// Reads still work.
    #[error(
        "another program holds the write lock of the database's file, and nothing can be written before it lets go: end \
         it (`fuser` with the name of the file tells which it is)"
    )]
    WriteLock,
    /// The disk under the database failed. The state of the last commits on the disk is unknown
    /// until the database is read again, so the store stops writing and the process should restart.
    #[error("the disk failed under the database: {0}; look at it, and start again")]
    Broken(Arc<sqlx::Error>),
    /// A row does not make sense: another program changed the database, or the database is damaged.
    #[error("the database holds what it should not: {0}")]
    Corrupt(String),
}

/// A failure to commit a step. Nothing was written, except that after [`CommitError::Store`] the
/// commit may have happened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The instance, an approval or a guarded entry changed meanwhile. The caller loads the
    /// instance again and runs the step again.
    #[error("{0} changed meanwhile")]
    Conflict(Conflict),
    /// The commit would be refused every time. The step fails for good, and the guest is blamed.
    #[error("{message}")]
    Rejected {
        /// A stable code, for [`crate::model::Failure::code`].
        code: &'static str,
        /// The reason, in one sentence.
        message: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The row that a commit found changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// An entry of plugin storage whose guard no longer holds. Writers of one entry can take turns.
    Entry(EntryKey),
    /// Any other row, described for people.
    Row(String),
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Entry(key) => write!(
                formatter,
                "entry '{}' of bucket {}",
                key.key.escape_debug(),
                key.space
            ),
            Self::Row(what) => formatter.write_str(what),
        }
    }
}

/// Code of [`CommitError::Rejected`]: an increment found a value that is not a decimal 64-bit
/// number.
pub const NOT_A_NUMBER: &str = "not-a-number";
/// Code of [`CommitError::Rejected`] and [`StoreError::Quota`]: the team has too many unfinished
/// instances.
pub const QUOTA_UNFINISHED: &str = "quota-unfinished-instances";
/// Code of [`CommitError::Rejected`] and [`StoreError::Quota`]: the team stores too many bytes.
pub const QUOTA_STORED: &str = "quota-stored-bytes";
/// Code of [`StoreError::Quota`]: the team has too many versions of workflows.
pub const QUOTA_VERSIONS: &str = "quota-workflow-versions";
/// Code of [`CommitError::Rejected`]: too many instances descend from one root.
pub const DESCENDANTS_EXHAUSTED: &str = "descendants-exhausted";
/// Code of [`CommitError::Rejected`]: the root was cancelled together with its descendants.
pub const ROOT_CANCELLED: &str = "root-cancelled";
/// Code of [`CommitError::Rejected`]: one of the databases cannot hold a text or value.
pub const INVALID_VALUE: &str = "invalid-value";

/// Returns true for SQLITE_FULL, for SQLITE_IOERR_SHMSIZE (no room for the index of SQLite's log),
/// and for Postgres' `disk_full`.
fn is_full_disk(code: &str) -> bool {
    matches!(code, "13" | "4874" | "53100")
}

/// Returns true for SQLITE_BUSY and its extended codes _RECOVERY and _SNAPSHOT.
fn is_write_lock(code: &str) -> bool {
    matches!(code, "5" | "261" | "517")
}

/// Returns true for SQLITE_IOERR and its extended codes, which have SQLITE_IOERR's number in their
/// lowest byte. A full disk has a code of its own. Codes of Postgres have five characters and are
/// excluded: a Postgres server handles failures of its disk itself, and stops.
fn is_disk_failure(code: &str) -> bool {
    const SQLITE_IOERR: u32 = 10;
    code.len() < 5
        && code
            .parse::<u32>()
            .is_ok_and(|code| code & 0xff == SQLITE_IOERR)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(problem) = &error {
            let code = problem.code().unwrap_or_default();
            // SQLSTATE classes about values: 21 cardinality, 22 data, 54 limits, such as a text too
            // long for an index. The shorter codes are SQLite's SQLITE_TOOBIG and SQLITE_MISMATCH.
            let about_values = code.len() == 5
                && ["21", "22", "54"]
                    .iter()
                    .any(|class| code.starts_with(class));
            if about_values || matches!(code.as_ref(), "18" | "20") {
                return Self::Value(problem.message().to_owned());
            }
            if is_full_disk(&code) {
                return Self::Full(Arc::new(error));
            }
            if is_write_lock(&code) {
                return Self::WriteLock;
            }
            if is_disk_failure(&code) {
                return Self::Broken(Arc::new(error));
            }
            if !matches!(problem.kind(), sqlx::error::ErrorKind::Other) {
                return Self::Constraint(problem.message().to_owned());
            }
        }
        match error {
            sqlx::Error::PoolClosed => Self::Closed,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_) => Self::Corrupt(error.to_string()),
            other => Self::Unavailable(Arc::new(other)),
        }
    }
}

impl From<sqlx::Error> for CommitError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl CommitError {
    pub(super) fn conflict(what: impl Into<String>) -> Self {
        Self::Conflict(Conflict::Row(what.into()))
    }

    /// Returns a short code, for traces.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::Rejected { code, .. } => code,
            Self::Store(_) => "database",
        }
    }

    /// Returns whether the transaction can continue after this job was rolled back to its
    /// savepoint. Any other error may already have ended the transaction: SQLite rolls back by
    /// itself when the disk is full.
    pub(super) fn is_the_jobs_own(&self) -> bool {
        matches!(
            self,
            Self::Conflict(_)
                | Self::Rejected { .. }
                | Self::Store(
                    StoreError::Value(_) | StoreError::Constraint(_) | StoreError::NotFound
                )
        )
    }

    /// Converts the error for the caller of a step's commit.
    pub(super) fn for_step(self) -> Self {
        match self {
            Self::Store(StoreError::Value(message)) => Self::Rejected {
                code: INVALID_VALUE,
                message,
            },
            Self::Store(StoreError::Constraint(message)) => {
                Self::conflict(format!("a row ({message})"))
            }
            other => other,
        }
    }

    /// Converts the error for the caller of a creation, or for all callers of a failed group.
    pub(super) fn for_creation(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Conflict(what) => StoreError::Constraint(what.to_string()),
            Self::Rejected {
                code: code @ (QUOTA_UNFINISHED | QUOTA_STORED | QUOTA_VERSIONS),
                message,
            } => StoreError::Quota { code, message },
            Self::Rejected { message, .. } => StoreError::Value(message),
        }
    }
}

/// Returns a non-essential part of a row, or `None` with an error in the log if the part cannot be
/// read. One damaged text must not make a whole list unreadable.
pub(super) fn readable<T>(part: Option<Result<T, StoreError>>) -> Option<T> {
    part?
        .inspect_err(
            |error| tracing::error!(%error, "a part of a row cannot be read and is left out"),
        )
        .ok()
}

/// The error for a row that does not parse.
pub(super) fn corrupt(what: &str, problem: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_cannot_be_read_is_left_out() {
        assert_eq!(readable(Some(Ok(1))), Some(1));
        assert_eq!(
            readable::<u8>(Some(Err(corrupt("an instance's failure", "no JSON")))),
            None
        );
        assert_eq!(readable::<u8>(None), None);
    }

    #[test]
    fn only_errors_of_the_disk_are_fatal() {
        // SQLITE_IOERR itself, then _WRITE, _FSYNC and _TRUNCATE.
        assert!(
            ["10", "778", "1034", "1546"]
                .into_iter()
                .all(is_disk_failure)
        );
        // SQLITE_BUSY, _FULL, _CORRUPT, _CONSTRAINT_UNIQUE; Postgres: io_error, disk_full, and one
        // whose lowest byte is 10.
        let others = ["5", "13", "11", "2067", "58030", "53100", "40714", ""];
        assert!(!others.into_iter().any(is_disk_failure));
        assert!(["13", "53100", "4874"].into_iter().all(is_full_disk) && !is_full_disk("10"));
        assert!(["5", "261", "517"].into_iter().all(is_write_lock) && !is_write_lock("55P03"));
    }
}
