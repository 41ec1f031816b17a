//! The attempts of one instance for its page: the newest ones, with their outputs as far as they
//! fit into a size limit.

use uuid::Uuid;

use super::backend::{Connection, with_backend};
use super::instances::AttemptRow;
use super::{Store, StoreError, signed, unsigned};
use crate::model::{Attempt, Name, StepAddress};

/// The largest number of attempts on an instance's page. An instance with 200 steps may have
/// 20,000.
const SHOWN_MAX: u32 = 500;
/// The size of an attempt without its output and its failure, in bytes.
const ATTEMPT_BYTES: usize = 512;

/// The newest attempts of an instance, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct ShownAttempts {
    /// The attempts.
    pub attempts: Vec<ShownAttempt>,
    /// The number of earlier attempts that are left out.
    pub omitted: u64,
}

/// An attempt, possibly without its output.
#[derive(Clone, Debug)]
pub struct ShownAttempt {
    /// The attempt.
    pub attempt: Attempt,
    /// The size in bytes of an output that is left out.
    pub output_omitted_bytes: Option<u64>,
}

impl ShownAttempts {
    /// Returns true if any output is left out.
    pub fn lacks_outputs(&self) -> bool {
        self.attempts
            .iter()
            .any(|shown| shown.output_omitted_bytes.is_some())
    }
}

#[derive(sqlx::FromRow)]
struct ShownRow {
    #[sqlx(flatten)]
    attempt: AttemptRow,
    omitted_bytes: Option<i64>,
}

const SUMS: &str = "SELECT COUNT(attempt.step), CAST(COALESCE(SUM(OCTET_LENGTH(attempt.output)), 0) AS BIGINT), \
    CAST(COALESCE(SUM(OCTET_LENGTH(attempt.failure)), 0) AS BIGINT) FROM workflow_instances AS instance \
    LEFT JOIN step_attempts AS attempt ON attempt.instance_id = instance.id \
    WHERE instance.id = $1 AND instance.team = $2";

const ALL: &str = "SELECT instance_id, step, number, outcome, plugin, output, failure, started_at, finished_at, \
    retry_at, CAST(NULL AS BIGINT) AS omitted_bytes \
    FROM step_attempts WHERE instance_id = $1 ORDER BY finished_at, started_at, step, number";

/// Selects attempts with the outputs that fit. From newest to oldest, all outputs are left out from
/// the first one that does not fit. Outputs that are left out are not read, because the sizes are
/// determined first.
const FITTING: &str = "SELECT attempt.instance_id, attempt.step, attempt.number, attempt.outcome, attempt.plugin, \
    CASE WHEN sized.total <= $2 THEN attempt.output END AS output, attempt.failure, attempt.started_at, \
    attempt.finished_at, attempt.retry_at, CASE WHEN sized.total > $2 THEN sized.bytes END AS omitted_bytes \
    FROM (SELECT step, number, CAST(OCTET_LENGTH(output) AS BIGINT) AS bytes, \
        SUM(COALESCE(OCTET_LENGTH(output), 0)) \
            OVER (ORDER BY finished_at DESC, started_at DESC, step DESC, number DESC) AS total \
        FROM step_attempts WHERE instance_id = $1 \
        ORDER BY finished_at DESC, started_at DESC, step DESC, number DESC LIMIT $3) AS sized \
    JOIN step_attempts AS attempt \
        ON attempt.instance_id = $1 AND attempt.step = sized.step AND attempt.number = sized.number \
    ORDER BY attempt.finished_at, attempt.started_at, attempt.step, attempt.number";

impl Store {
    /// Returns the newest attempts of a team's instance, with outputs as far as all texts fit into
    /// `bytes_max`. Empty if there is no such instance.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn attempts(
        &self,
        team: &Name,
        id: Uuid,
        bytes_max: usize,
    ) -> Result<ShownAttempts, StoreError> {
        let (store, team) = (self.clone(), team.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let (count, output_bytes, failure_bytes): (i64, i64, i64) = with_backend!(connection, c => sqlx::query_as(SUMS)
                .bind(id)
                .bind(team.as_str())
                .fetch_one(c)
                .await)?;
            let [count, output_bytes, failure_bytes]: [usize; 3] =
                [unsigned("a count", count)?, unsigned("a size", output_bytes)?, unsigned("a size", failure_bytes)?];
            if count == 0 {
                return Ok(ShownAttempts::default());
            }
            let shown_max = usize::try_from(SHOWN_MAX).unwrap_or(usize::MAX);
            let others = failure_bytes + count.min(shown_max) * ATTEMPT_BYTES;
            let room = bytes_max.saturating_sub(others);
            let mut rows = Vec::new();
            let fit = count <= shown_max && output_bytes <= room;
            if fit {
                rows = all(&mut connection, id).await?;
            }
            // An attempt may have ended since the sums were read.
            if !fit || rows.iter().map(ShownRow::output_bytes).sum::<usize>() > room {
                rows = fitting(&mut connection, id, room).await?;
            }
            drop(connection);
            let omitted = count.saturating_sub(rows.len()) as u64;
            let attempts = rows.into_iter().map(ShownRow::into_shown).collect::<Result<_, _>>()?;
            Ok(ShownAttempts { attempts, omitted })
        })
        .await
    }

    /// Returns one attempt at a step of a team's instance.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn attempt(
        &self,
        team: &Name,
        id: Uuid,
        step: &StepAddress,
        number: u32,
    ) -> Result<Option<Attempt>, StoreError> {
        let (store, team, step) = (self.clone(), team.clone(), step.clone());
        self.detached(async move {
            let mut connection = store.read().await?;
            let row: Option<AttemptRow> = with_backend!(connection, c => sqlx::query_as(
                "SELECT attempt.instance_id, attempt.step, attempt.number, attempt.outcome, attempt.plugin, \
                 attempt.output, attempt.failure, attempt.started_at, attempt.finished_at, attempt.retry_at \
                 FROM workflow_instances AS instance JOIN step_attempts AS attempt \
                 ON attempt.instance_id = instance.id \
                 WHERE instance.id = $1 AND instance.team = $2 AND attempt.step = $3 AND attempt.number = $4",
            )
            .bind(id)
            .bind(team.as_str())
            .bind(step.as_str())
            .bind(signed(number))
            .fetch_optional(c)
            .await)?;
            row.map(AttemptRow::into_attempt).transpose()
        })
        .await
    }
}

impl ShownRow {
    fn output_bytes(&self) -> usize {
        self.attempt.output.as_ref().map_or(0, String::len)
    }

    fn into_shown(self) -> Result<ShownAttempt, StoreError> {
        let output_omitted_bytes = self
            .omitted_bytes
            .map(|bytes| unsigned("a size", bytes))
            .transpose()?;
        Ok(ShownAttempt {
            attempt: self.attempt.into_attempt()?,
            output_omitted_bytes,
        })
    }
}

async fn all(connection: &mut Connection, id: Uuid) -> Result<Vec<ShownRow>, StoreError> {
    Ok(with_backend!(connection, c => sqlx::query_as(ALL).bind(id).fetch_all(c).await)?)
}

async fn fitting(
    connection: &mut Connection,
    id: Uuid,
    bytes_max: usize,
) -> Result<Vec<ShownRow>, StoreError> {
    let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
    Ok(with_backend!(connection, c => sqlx::query_as(FITTING)
        .bind(id)
        .bind(bytes_max)
        .bind(signed(SHOWN_MAX))
        .fetch_all(c)
        .await)?)
}
