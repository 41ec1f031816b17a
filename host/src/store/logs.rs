//! The log lines of attempts: a page of them, and their deletion by age.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::backend::with_backend;
use super::{Page, Store, StoreError, from_json, parse, signed, unsigned};
use crate::clock::Timestamp;
use crate::model::effects::LogLine;
use crate::model::{Name, StepAddress};

/// Most attempts of a page. The lines of an attempt have up to `limits.log_bytes_max`.
const ATTEMPTS_MAX: u32 = 50;
/// Rows deleted in one transaction.
const DELETED_MAX: u32 = 500;

/// A page of an instance's logs: the attempts that ended first come first.
pub(super) const PAGE: &str = "SELECT log.finished_at, log.step, log.number, log.dropped, log.lines \
    FROM workflow_instances AS instance JOIN attempt_logs AS log ON log.instance_id = instance.id \
    WHERE instance.id = $1 AND instance.team = $2 AND ($3 = '' OR log.step = $3) \
    AND (log.finished_at, log.step, log.number) > ($4, $5, $6) \
    ORDER BY log.finished_at, log.step, log.number LIMIT $7";

/// Deletes the oldest logs, so many that the transaction is short.
const DELETE: &str = "DELETE FROM attempt_logs WHERE (instance_id, finished_at, step, number) IN \
    (SELECT instance_id, finished_at, step, number FROM attempt_logs WHERE finished_at < $1 \
    ORDER BY finished_at LIMIT $2)";

/// The log of one attempt.
#[derive(Clone, Debug)]
pub struct StoredLog {
    /// The end of the attempt.
    pub finished_at: Timestamp,
    /// The step.
    pub step: StepAddress,
    /// The number of the attempt.
    pub number: u32,
    /// Number of lines that were dropped because of the limits of an attempt.
    pub dropped: u32,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// The place of an attempt in the order of logs. Its text is `<microseconds>.<number>.<step>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCursor {
    at: Timestamp,
    number: u32,
    step: String,
}

impl StoredLog {
    /// Returns the cursor of a page that ends with this attempt.
    pub fn cursor(&self) -> LogCursor {
        LogCursor {
            at: self.finished_at,
            number: self.number,
            step: self.step.as_str().to_owned(),
        }
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, number) = (self.at.as_micros(), self.number);
        write!(formatter, "{at}.{number}.{}", self.step)
    }
}

impl FromStr for LogCursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (at, rest) = text.split_once('.')?;
            let (number, step) = rest.split_once('.')?;
            let step: StepAddress = step.parse().ok()?;
            Some(Self {
                at: Timestamp::from_micros(at.parse().ok()?),
                number: number.parse().ok()?,
                step: step.as_str().to_owned(),
            })
        };
        parsed().ok_or("use the 'next' of the previous page")
    }
}

#[derive(sqlx::FromRow)]
struct LogRow {
    finished_at: i64,
    step: String,
    number: i64,
    dropped: i64,
    lines: String,
}

impl LogRow {
    fn into_log(self) -> Result<StoredLog, StoreError> {
        Ok(StoredLog {
            finished_at: Timestamp::from_micros(self.finished_at),
            step: parse("the step of a log", &self.step)?,
            number: unsigned("the number of an attempt", self.number)?,
            dropped: unsigned("a number of lines", self.dropped)?,
            lines: from_json("the lines of a log", &self.lines)?,
        })
    }
}

/// A page of logs.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    /// The logs, in the order in which the attempts ended.
    pub logs: Vec<StoredLog>,
    /// True if more logs may follow.
    pub more: bool,
}

impl Store {
    /// Returns a page of the logs of a team's instance, at most 50 attempts. Empty if there is no
    /// such instance. With a step, only of that step.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn logs(
        &self,
        team: &Name,
        id: Uuid,
        step: Option<StepAddress>,
        page: &Page<LogCursor>,
    ) -> Result<LogPage, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        let limit = page.limit.min(ATTEMPTS_MAX);
        let after = page.after.clone().unwrap_or(LogCursor {
            at: Timestamp::from_micros(i64::MIN),
            number: 0,
            step: String::new(),
        });
        self.detached(async move {
            let mut connection = store.read().await?;
            let rows: Vec<LogRow> = with_backend!(connection, c => sqlx::query_as(PAGE)
                .bind(id)
                .bind(team.as_str())
                .bind(step.as_ref().map_or("", StepAddress::as_str))
                .bind(after.at.as_micros())
                .bind(after.step.as_str())
                .bind(signed(after.number))
                .bind(signed(limit))
                .fetch_all(c)
                .await)?;
            let more = u32::try_from(rows.len()).is_ok_and(|count| count >= limit);
            let logs = rows.into_iter().map(LogRow::into_log);
            let logs = logs.collect::<Result<_, _>>()?;
            Ok(LogPage { logs, more })
        })
        .await
    }

    /// Deletes some logs of attempts that ended before a time, and returns their number. 0 if there
    /// are no more.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn delete_old_logs(&self, before: Timestamp) -> Result<u64, StoreError> {
        let store = self.clone();
        self.detached(async move {
            let mut transaction = store.core().backend.begin().await?;
            let deleted = with_backend!(transaction, c => sqlx::query(DELETE)
                .bind(before.as_micros())
                .bind(signed(DELETED_MAX))
                .execute(c)
                .await
                .map(|done| done.rows_affected()))?;
            store.core().commit(transaction, &[]).await?;
            Ok(deleted)
        })
        .await
    }
}
