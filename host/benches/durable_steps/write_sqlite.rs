//! The floor's statements on SQLite: at most four in a transaction, each with a list of rows.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{Finished, Group, Job, OWNER, STEPS, Texts};

/// Writes a group. Returns the number of updated instances.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    texts: &Texts,
    group: &Group<'_>,
) -> sqlx::Result<u64> {
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await?;
    if !group.created.is_empty() {
        create(connection, texts, &group.created).await?;
    }
    let mut updated = 0;
    if !group.finished.is_empty() {
        add_attempts(connection, texts, &group.finished).await?;
        // SQLite rewrites the indexes of every column that a statement names, so only the last step
        // names them.
        let (last, others): (Vec<_>, Vec<_>) = group
            .finished
            .iter()
            .partition(|finished| finished.is_last());
        if !others.is_empty() {
            updated += go_on(connection, &others).await?;
        }
        if !last.is_empty() {
            updated += end(connection, texts, &last).await?;
        }
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(updated)
}

async fn create(
    connection: &mut SqliteConnection,
    texts: &Texts,
    jobs: &[&Job],
) -> sqlx::Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, entity_type, \
         entity_id, project_id, started_by, status, current_step, version, input, metadata, depth, idempotency_key, \
         created_at, started_at, updated_at, wake_at, owner) ",
    );
    query.push_values(jobs, |mut row, job| {
        row.push_bind(job.id)
            .push_bind("default")
            .push_bind(texts.workflow_id)
            .push_bind("bench")
            .push_bind(1)
            .push_bind(texts.pins.as_str())
            .push_bind(None::<&str>)
            .push_bind(None::<&str>)
            .push_bind(None::<&str>)
            .push_bind("operator")
            .push_bind("running")
            .push_bind(None::<&str>)
            .push_bind(1)
            .push_bind(texts.input.as_str())
            .push_bind(texts.metadata.as_str())
            .push_bind(0)
            .push_bind(None::<&str>)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(OWNER);
    });
    query.build().execute(connection).await.map(|_| ())
}

async fn add_attempts(
    connection: &mut SqliteConnection,
    texts: &Texts,
    finished: &[Finished<'_>],
) -> sqlx::Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO step_attempts (instance_id, step, number, outcome, plugin, output, failure, started_at, \
         finished_at, retry_at) ",
    );
    query.push_values(finished, |mut row, Finished { job, step }| {
        row.push_bind(job.id)
            .push_bind(STEPS.get(*step).copied())
            .push_bind(1)
            .push_bind("completed")
            .push_bind(texts.plugin.as_str())
            .push_bind(texts.output.as_str())
            .push_bind(None::<&str>)
            .push_bind(job.at)
            .push_bind(job.at)
            .push_bind(None::<i64>);
    });
    query.build().execute(connection).await.map(|_| ())
}

async fn go_on(connection: &mut SqliteConnection, finished: &[&Finished<'_>]) -> sqlx::Result<u64> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "UPDATE workflow_instances SET current_step = v.column3, version = version + 1, updated_at = v.column4 FROM (",
    );
    query.push_values(finished, |mut row, finished| {
        row.push_bind(finished.job.id)
            .push_bind(finished.version())
            .push_bind(finished.next_step())
            .push_bind(finished.job.at);
    });
    query.push(
        ") AS v WHERE workflow_instances.id = v.column1 AND workflow_instances.version = v.column2",
    );
    Ok(query.build().execute(connection).await?.rows_affected())
}

async fn end(
    connection: &mut SqliteConnection,
    texts: &Texts,
    finished: &[&Finished<'_>],
) -> sqlx::Result<u64> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "UPDATE workflow_instances SET status = 'completed', current_step = NULL, version = version + 1, \
         output = v.column3, updated_at = v.column4, completed_at = v.column4, wake_at = NULL FROM (",
    );
    query.push_values(finished, |mut row, finished| {
        row.push_bind(finished.job.id)
            .push_bind(finished.version())
            .push_bind(texts.output.as_str())
            .push_bind(finished.job.at);
    });
    query.push(
        ") AS v WHERE workflow_instances.id = v.column1 AND workflow_instances.version = v.column2",
    );
    Ok(query.build().execute(connection).await?.rows_affected())
}
