//! The floor's statements on PostgreSQL: at most three in a transaction, each with an array for
//! each column that differs between rows.

use sqlx::PgConnection;

use super::{Finished, Group, Job, OWNER, STEPS, Texts};

/// Writes a group. Returns the number of updated instances.
pub(super) async fn write(
    connection: &mut PgConnection,
    texts: &Texts,
    group: &Group<'_>,
) -> sqlx::Result<u64> {
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    if !group.created.is_empty() {
        create(connection, texts, &group.created).await?;
    }
    let mut updated = 0;
    if !group.finished.is_empty() {
        updated = update(connection, texts, &group.finished).await?;
        add_attempts(connection, texts, &group.finished).await?;
    }
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(updated)
}

async fn create(connection: &mut PgConnection, texts: &Texts, jobs: &[&Job]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, started_by, status, \
         version, input, metadata, depth, created_at, started_at, updated_at, wake_at, owner) \
         SELECT v.id, 'default', $3, 'bench', 1, $4, 'operator', 'running', 1, $5, $6, 0, v.at, v.at, v.at, v.at, $7 \
         FROM UNNEST($1::UUID[], $2::BIGINT[]) AS v (id, at)",
    )
    .bind(column(jobs, |job| job.id))
    .bind(column(jobs, |job| job.at))
    .bind(texts.workflow_id)
    .bind(texts.pins.as_str())
    .bind(texts.input.as_str())
    .bind(texts.metadata.as_str())
    .bind(OWNER)
    .execute(connection)
    .await
    .map(|_| ())
}

/// Updates instances. PostgreSQL does not rewrite an index if the values of its columns stay the
/// same, even if the statement names them.
async fn update(
    connection: &mut PgConnection,
    texts: &Texts,
    finished: &[Finished<'_>],
) -> sqlx::Result<u64> {
    let at_end = |finished: &Finished<'_>| finished.is_last().then_some(finished.job.at);
    let done = sqlx::query(
        "UPDATE workflow_instances AS i SET status = v.status, current_step = v.current_step, \
         version = i.version + 1, output = v.output, updated_at = v.updated_at, completed_at = v.completed_at, \
         wake_at = CASE WHEN v.completed_at IS NULL THEN i.wake_at END \
         FROM UNNEST($1::UUID[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[], $7::BIGINT[]) \
             AS v (id, version, status, current_step, output, updated_at, completed_at) \
         WHERE i.id = v.id AND i.version = v.version",
    )
    .bind(column(finished, |finished| finished.job.id))
    .bind(column(finished, Finished::version))
    .bind(column(finished, |finished| if finished.is_last() { "completed" } else { "running" }))
    .bind(column(finished, Finished::next_step))
    .bind(column(finished, |finished| finished.is_last().then_some(texts.output.as_str())))
    .bind(column(finished, |finished| finished.job.at))
    .bind(column(finished, at_end))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn add_attempts(
    connection: &mut PgConnection,
    texts: &Texts,
    finished: &[Finished<'_>],
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, started_at, finished_at) \
         SELECT v.id, v.step, 1, 'completed', $4, $5, v.at, v.at \
         FROM UNNEST($1::UUID[], $2::TEXT[], $3::BIGINT[]) AS v (id, step, at)",
    )
    .bind(column(finished, |finished| finished.job.id))
    .bind(column(finished, |finished| STEPS.get(finished.step).copied()))
    .bind(column(finished, |finished| finished.job.at))
    .bind(texts.plugin.as_str())
    .bind(texts.output.as_str())
    .execute(connection)
    .await
    .map(|_| ())
}

/// Returns one column of the rows.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
