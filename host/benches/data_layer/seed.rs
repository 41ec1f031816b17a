//! Rows that look like a year of use, created inside the database.
//!
//! One team has 6 of 10 instances, in 20 workflows; 99 other teams have a workflow each. Instances
//! are numbered from the newest to the oldest, one every 30 s. The number of unfinished instances
//! does not depend on the length of the history: of the newest 1,000 every fifth runs and every
//! fifth waits for an approval. All others have ended, nearly all of them completed. Every instance
//! has had one approval. 10,000 people start instances and approve them. Only the first 20 have
//! pending approvals, about six each in the large team. Every entity has three instances.

use indicatif::{ProgressBar, ProgressStyle};
use stepwell::model::{Definition, Name};
use uuid::Uuid;

use crate::databases::{Connection, Database, Kind, Place};
use crate::support::AnyError;

/// Number of workflows of the large team.
pub const WORKFLOWS: u64 = 20;
/// Number of people that start instances and approve them.
pub const PEOPLE: u64 = 10_000;
/// Number of instances of one entity.
pub const PER_ENTITY: u64 = 3;
/// Number of people with pending approvals.
pub const APPROVERS: u64 = 20;
/// The time when the newest instance was created, in microseconds.
pub const NEWEST: i64 = 1_795_000_000_000_000;

const OTHER_TEAMS: u64 = 99;
const SECONDS_BETWEEN: u64 = 30;
const ROWS_AT_ONCE: u64 = 100_000;
/// Random values of a row are its number times `H` or `K`, modulo `MODULUS`.
const H: u64 = 2_654_435_761;
const K: u64 = 2_246_822_519;
const MODULUS: u64 = 1 << 32;

/// Returns the large team.
pub fn team() -> Name {
    "acme".parse().expect("is a name")
}

/// Returns the team and the name of a workflow.
pub fn workflow(number: u64) -> (Name, Name) {
    let team = if number < WORKFLOWS {
        team()
    } else {
        format!("team-{number}").parse().expect("is a name")
    };
    (team, format!("flow-{number}").parse().expect("is a name"))
}

/// Returns the definition of every workflow.
pub fn definition(name: &Name) -> Definition {
    let text = format!("{{name: {name}, steps: [{{id: check, plugin: expense, step: check}}]}}");
    Definition::parse(&text).expect("is a definition")
}

/// Creates a database with `rows` instances and approvals. If `bare` is true, also creates a copy
/// without the named indexes. Both are closed.
pub async fn fill(
    place: &Place,
    rows: u64,
    bare: bool,
) -> Result<(Database, Option<Database>), AnyError> {
    let database = place.create().await?;
    let mut connection = database.connect().await?;
    connection.execute(loading(place.kind)).await?;
    let indexes = indexes(&mut connection).await?;
    // The third word is the name.
    for name in indexes
        .iter()
        .filter_map(|index| index.split_whitespace().nth(2))
    {
        connection.execute(format!("DROP INDEX {name}")).await?;
    }
    workflows(&mut connection, WORKFLOWS + OTHER_TEAMS).await?;
    let progress = ProgressBar::new(2 * rows + indexes.len() as u64 * rows / 4);
    progress.set_style(ProgressStyle::with_template(
        "{msg} {wide_bar} {percent} %",
    )?);
    progress.set_message(format!("{rows} rows in {}", place.kind.name()));
    for from in (0..rows).step_by(usize::try_from(ROWS_AT_ONCE)?) {
        let to = rows.min(from + ROWS_AT_ONCE);
        connection.execute(instances(place.kind, from, to)).await?;
        progress.inc(to - from);
        connection.execute(approvals(place.kind, from, to)).await?;
        progress.inc(to - from);
    }
    let copy = if bare {
        connection.close().await?;
        let copy = place.copy(&database).await?;
        let mut bare = copy.connect().await?;
        bare.execute(loading(place.kind)).await?;
        if place.kind == Kind::Sqlite {
            // The store's SQL names this index. Here it only has the team's rows in the order of
            // the list.
            bare.execute(
                "CREATE INDEX idx_workflow_instances_status ON workflow_instances (team, id)",
            )
            .await?;
        }
        finish(bare).await?;
        connection = database.connect().await?;
        connection.execute(loading(place.kind)).await?;
        Some(copy)
    } else {
        None
    };
    for index in indexes {
        connection.execute(index).await?;
        progress.inc(rows / 4);
    }
    finish(connection).await?;
    progress.finish_and_clear();
    Ok((database, copy))
}

/// Creates workflows with one version each. The first [`WORKFLOWS`] belong to the large team.
pub async fn workflows(connection: &mut Connection, count: u64) -> Result<(), AnyError> {
    let (kind, (_, first)) = (connection.kind(), workflow(0));
    let source = serde_json::to_string(&definition(&first).source)?.replace('\'', "''");
    let id = uuid(kind, "n", &workflow_millis("n"));
    let of_team = format!(
        "CASE WHEN n < {WORKFLOWS} THEN '{}' ELSE 'team-' || n END",
        team()
    );
    let numbers = numbers(0, count);
    connection
        .execute(format!(
            "WITH RECURSIVE {numbers} INSERT INTO workflows \
                 (id, team, name, description, status, latest_version, created_by, created_at, updated_at) \
             SELECT {id}, {of_team}, 'flow-' || n, '', 'active', 1, 'operator', {NEWEST}, {NEWEST} FROM numbers; \
             WITH RECURSIVE {numbers} INSERT INTO workflow_versions \
                 (workflow_id, version, source, created_by, created_at) \
             SELECT {id}, 1, replace('{source}', '{first}', 'flow-' || n), 'operator', {NEWEST} FROM numbers"
        ))
        .await
}

/// Returns the team of the instance with this number.
pub fn owner(number: u64) -> Name {
    let (h, k) = (number * H % MODULUS, number * K % MODULUS);
    workflow(if (h >> 8) % 10 < 6 {
        (k >> 9) % WORKFLOWS
    } else {
        WORKFLOWS + (k >> 9) % OTHER_TEAMS
    })
    .0
}

/// Returns the id of the instance with this number.
pub fn instance_id(number: u64) -> Uuid {
    let millis = NEWEST.unsigned_abs() / 1_000 - number * SECONDS_BETWEEN * 1_000;
    Uuid::from_u128(u128::from(millis) << 80 | 0x7000_8000_0000_0000_0000 | u128::from(number))
}

/// Returns SQL for the id that [`instance_id`] returns, from SQL for the number and the time.
fn uuid(kind: Kind, number: &str, millis: &str) -> String {
    match kind {
        Kind::Sqlite => format!("unhex(printf('%012x70008%015x', {millis}, {number}))"),
        Kind::Postgres => {
            format!(
                "CAST(lpad(to_hex({millis}), 12, '0') || '70008' || lpad(to_hex({number}), 15, '0') AS UUID)"
            )
        }
    }
}

fn instance_millis(number: &str) -> String {
    format!(
        "({} - {number} * {})",
        NEWEST / 1_000,
        SECONDS_BETWEEN * 1_000
    )
}

/// Returns SQL for the creation time of a workflow, which is before that of all instances.
fn workflow_millis(number: &str) -> String {
    format!("({} + {number})", NEWEST / 2_000)
}

fn numbers(from: u64, to: u64) -> String {
    format!(
        "numbers (n) AS (SELECT CAST({from} AS BIGINT) UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {to})"
    )
}

/// Returns SQL for the columns that an instance and its approval share, for each number. `h` and
/// `k` mix the number's bits.
fn drawn(from: u64, to: u64) -> String {
    let people = PEOPLE;
    format!(
        "{}, \
         mixed AS (SELECT n, (n * {H}) % {MODULUS} AS h, (n * {K}) % {MODULUS} AS k FROM numbers), \
         drawn AS (SELECT n, h, k, {} AS created_at, \
             CASE WHEN (h >> 8) % 10 < 6 THEN (k >> 9) % {WORKFLOWS} \
                  ELSE {WORKFLOWS} + (k >> 9) % {OTHER_TEAMS} END AS w, \
             CASE WHEN n < 1000 AND n % 5 = 0 THEN 'running' WHEN n < 1000 AND n % 5 = 1 THEN 'waiting' \
                  WHEN h % 100 = 0 THEN 'failed' WHEN h % 100 = 1 THEN 'rejected' WHEN h % 100 = 2 THEN 'cancelled' \
                  ELSE 'completed' END AS status, \
             'user-' || ((k >> 6) % {people}) AS starter, \
             'user-' || CASE WHEN n < 1000 AND n % 5 = 1 THEN n / 5 % {APPROVERS} \
                             ELSE (h >> 6) % {people} END AS approver \
             FROM mixed), \
         placed AS (SELECT drawn.*, \
             CASE WHEN w < {WORKFLOWS} THEN '{}' ELSE 'team-' || w END AS team FROM drawn)",
        numbers(from, to),
        format_args!("{} * 1000", instance_millis("n")),
        team(),
    )
}

fn instances(kind: Kind, from: u64, to: u64) -> String {
    let (id, workflow) = (
        uuid(kind, "n", &instance_millis("n")),
        uuid(kind, "w", &workflow_millis("w")),
    );
    format!(
        "WITH RECURSIVE {} INSERT INTO workflow_instances (id, team, workflow_id, workflow, workflow_version, pins, \
             entity_type, entity_id, project_id, started_by, status, current_step, version, input, output, metadata, \
             depth, created_at, started_at, updated_at, completed_at, wake_at) \
         SELECT {id}, team, {workflow}, 'flow-' || w, 1, '{{\"expense\":\"{pinned}\"}}', 'invoice', \
             'invoice-' || (n / {PER_ENTITY}), 'project-' || ((h >> 11) % 1000), starter, status, \
             CASE WHEN status IN ('running', 'waiting') THEN 'check' END, 2, \
             '{{\"employee\":\"' || starter || '\",\"amount\":' || (h % 100000) || ',\"category\":\"travel\"}}', \
             CASE WHEN status = 'completed' THEN '{{\"approved\":true,\"by\":\"' || approver || '\"}}' END, '{{}}', 0, \
             created_at, created_at, created_at + 60000000, \
             CASE WHEN status NOT IN ('running', 'waiting') THEN created_at + 60000000 END, \
             CASE WHEN status = 'running' THEN created_at WHEN status = 'waiting' THEN created_at + 14400000000 END \
         FROM placed",
        drawn(from, to),
        pinned = Uuid::nil(),
    )
}

/// Inserts approvals. Half of the pending approvals have expired.
fn approvals(kind: Kind, from: u64, to: u64) -> String {
    let id = uuid(kind, "n", &instance_millis("n"));
    format!(
        "WITH RECURSIVE {} INSERT INTO workflow_approvals (id, team, instance_id, workflow, step, approver_id, title, \
             quorum, status, comment, created_at, expires_at, decided_at) \
         SELECT {id}, team, {id}, 'flow-' || w, 'check', approver, 'Expense of ' || starter, 1, \
             CASE status WHEN 'waiting' THEN 'pending' WHEN 'rejected' THEN 'rejected' ELSE 'approved' END, \
             CASE WHEN h % 4 = 0 THEN 'fine' END, created_at, created_at + 14400000000, \
             CASE WHEN status <> 'waiting' THEN created_at + 50000000 END \
         FROM placed",
        drawn(from, to),
    )
}

/// Returns settings for a session that loads rows. They are not durable, because lost rows can be
/// created again.
fn loading(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => {
            "PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000; \
             PRAGMA temp_store = MEMORY; PRAGMA threads = 2"
        }
        Kind::Postgres => {
            "SET synchronous_commit = off; SET session_replication_role = replica; SET maintenance_work_mem = '256MB'"
        }
    }
}

async fn finish(mut connection: Connection) -> Result<(), AnyError> {
    // The checkpoint's writes must not fall into the measurements.
    let sql = match connection.kind() {
        Kind::Sqlite => &["ANALYZE", "PRAGMA journal_mode = WAL"][..],
        Kind::Postgres => &["VACUUM ANALYZE", "CHECKPOINT"][..],
    };
    for sql in sql {
        connection.execute(*sql).await?;
    }
    connection.close().await
}

/// Returns the statements that created the named indexes of the two tables, without keys and
/// constraints.
async fn indexes(connection: &mut Connection) -> Result<Vec<String>, AnyError> {
    let sql = match connection.kind() {
        Kind::Sqlite => {
            "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name LIKE 'idx%' \
             AND tbl_name IN ('workflow_instances', 'workflow_approvals')"
        }
        Kind::Postgres => {
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'idx%' \
             AND tablename IN ('workflow_instances', 'workflow_approvals')"
        }
    };
    connection.texts(sql).await
}
