//! Tests of query plans on both databases, with statistics of tables that are neither empty nor
//! evenly distributed. No query may scan a whole table or sort rows that an index could deliver in
//! order. Every index must be used by a query.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::backend::Connection;
use super::rows::{self, Column};
use super::sql::{Bind, Sql};
use super::{ApprovalFilter, Cursor, InstanceFilter, Page, Period, Store, WorkflowFilter};
use super::{AuditFilter, HistoryQuery, HistoryStep, SeriesKind};
use super::{
    alerts, approvals, audit, children, commit, creation, history, idempotency, instances,
    metadata, quarantine, retention, silences, statuses, storage_writes, trees, workflows,
};
use crate::clock::Timestamp;
use crate::model::{
    ApprovalStatus, Definition, InstanceStatus, Name, NewInstance, Parent, WorkflowStatus,
};

#[path = "../../../tests/store/databases.rs"]
#[expect(dead_code, reason = "the store's other tests need more of it")]
mod databases;
#[path = "../../../tests/store/postgres.rs"]
#[expect(dead_code, reason = "as above")]
mod postgres;
mod queries;

use databases::{Database, Kind, START, on_both_databases};
use queries::queries;

/// The number of seeded instances. Small enough that Postgres samples every row for its statistics,
/// so the statistics are the same in each run.
const INSTANCES: u32 = 12_000;
const PAGE: u32 = 50;

fn name(text: &str) -> Name {
    text.parse().expect("is a name")
}

fn seconds(seconds: u32) -> Timestamp {
    START.after(Duration::from_secs(seconds.into()))
}

/// Seeds five teams. One team has most of the instances and many workflows. Most instances have
/// completed, and few run or wait.
async fn seed(database: &Database, store: &Store) -> Uuid {
    let definition = |workflow: &str| {
        let text =
            format!("{{name: {workflow}, steps: [{{id: check, plugin: expense, step: check}}]}}");
        Definition::parse(&text).expect("is a definition")
    };
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for workflow in
        std::iter::once("expense".to_owned()).chain((1..40).map(|number| format!("other-{number}")))
    {
        ours.push(
            store
                .apply_workflow(&name("acme"), definition(&workflow), "ann")
                .await
                .expect("applies")
                .version,
        );
    }
    for team in ["bravo", "coral", "delta", "ember"] {
        others.push(
            store
                .apply_workflow(&name(team), definition("expense"), "ann")
                .await
                .expect("applies")
                .version,
        );
    }
    let mut new = Vec::new();
    for index in 0..INSTANCES {
        let versions = if index % 5 < 3 { &ours } else { &others };
        let version = versions
            .get(index as usize / 5 % versions.len())
            .expect("is in bounds");
        new.push(NewInstance {
            id: Uuid::now_v7(),
            team: version.team.clone(),
            workflow_id: version.workflow_id,
            workflow: version.name.clone(),
            workflow_version: 1,
            pins: [].into(),
            entity_type: (index % 3 > 0).then(|| "invoice".to_owned()),
            entity_id: (index % 3 > 0).then(|| format!("{}", index / 4)),
            project_id: (index % 2 > 0).then(|| format!("project-{}", index % 300)),
            started_by: format!("user-{}", index % 97),
            input: json!({ "amount": index }).into(),
            idempotency_key: None,
            depth: 0,
            root_id: (index % 10 == 9).then(|| Uuid::from_u128(index as u128 / 100)),
            parent: (index % 10 == 9).then(|| Parent {
                id: Uuid::from_u128(index as u128 / 100),
                step: "call".parse().expect("is an address"),
                waits: index % 20 == 9,
            }),
            traceparent: None,
            created_at: seconds(index),
        });
    }
    let one = new.first().map(|new| new.id).expect("there are some");
    store.create_instances(new).await.expect("are created");
    let (id, value) = match database.kind {
        Kind::Sqlite => ("randomblob(16)", "x'31'"),
        Kind::Postgres => ("gen_random_uuid()", "'1'::BYTEA"),
    };
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
    let micros = START.as_micros();
    for sql in [
        "UPDATE workflow_instances SET status = 'completed', wake_at = NULL, completed_at = created_at + 5000000 \
         WHERE started_by NOT IN ('user-1', 'user-2', 'user-3')"
            .to_owned(),
        "UPDATE workflow_instances SET status = 'waiting' WHERE started_by = 'user-1'".to_owned(),
        "UPDATE workflow_instances SET quarantined_at = created_at, wake_at = NULL WHERE started_by = 'user-2' \
         AND entity_type IS NULL"
            .to_owned(),
        "UPDATE workflow_instances SET status = 'failed' WHERE started_by IN ('user-4', 'user-5')".to_owned(),
        // Two approvals for each instance, and a third for some.
        format!(
            "INSERT INTO workflow_approvals (id, team, instance_id, workflow, step, approver_id, title, quorum, \
             status, created_at, expires_at) SELECT {id}, i.team, i.id, i.workflow, s.step, i.started_by, 'Pay?', 1, \
             CASE WHEN i.status = 'waiting' THEN 'pending' ELSE 'approved' END, i.created_at, \
             i.created_at + 86400000000 FROM workflow_instances i \
             JOIN (SELECT 'manager' AS step UNION ALL SELECT 'finance' UNION ALL SELECT 'board') s \
             ON s.step <> 'board' OR i.project_id IS NULL"
        ),
        format!(
            "{numbers} INSERT INTO history_series (id, team, kind, name) SELECT {id}, CASE WHEN i % 100 = 0 THEN '' \
             WHEN i % 100 = 1 THEN 'acme' ELSE 'team-' || (i / 20) END, CASE WHEN i % 3 = 0 THEN 'counter' \
             ELSE 'operation' END, 'number-' || CASE WHEN i % 100 < 2 THEN i ELSE i % 20 END FROM n WHERE i <= 1200"
        ),
        format!(
            "{numbers} INSERT INTO history_points (series_id, step, at, host, value, samples, timings) \
             SELECT s.id, CASE WHEN n.i <= 10 THEN 10 WHEN n.i <= 18 THEN 60 ELSE 3600 END, \
             {micros} + n.i * 10000000, s.id, 1, 0, {value} FROM n JOIN history_series s ON n.i <= 20"
        ),
        format!(
            "{numbers} INSERT INTO workflows (id, team, name, description, status, latest_version, created_by, \
             created_at, updated_at) \
             SELECT {id}, CASE WHEN i % 5 < 3 THEN 'acme' WHEN i % 2 = 0 THEN 'bravo' ELSE 'coral' END, 'w-' || i, '', \
             CASE WHEN i % 19 = 0 THEN 'archived' ELSE 'active' END, 1, 'ann', {micros} + i * 1000000, {micros} FROM n"
        ),
        format!(
            "INSERT INTO plugin_storage (team, space, key, value, version) \
             SELECT 'acme', 'counters', 'key-' || created_at, {value}, created_at FROM workflow_instances"
        ),
        format!(
            "{numbers} INSERT INTO alerts (id, host, team, rule, subject, severity, state, since, resolved_at, reading, \
             told) SELECT {id}, {id}, CASE WHEN i % 5 = 0 THEN '' WHEN i % 5 < 3 THEN 'acme' ELSE 'team-' || (i % 99) \
             END, 'error_rate', 'number-' || i, 'warning', CASE WHEN i % 100 = 0 THEN 'firing' ELSE 'resolved' END, \
             {micros} + i * 1000000, CASE WHEN i % 100 > 0 THEN {micros} + i * 1000000 END, 'text', \
             CASE WHEN i % 97 = 0 THEN 'firing' ELSE 'resolved' END FROM n"
        ),
        format!(
            "{numbers} INSERT INTO alert_silences (id, team, comment, created_by, created_at, until) \
             SELECT {id}, 'team-' || (i % 99), '', 'ann', {micros}, {micros} + i * 1000000 FROM n"
        ),
        format!(
            "{numbers} INSERT INTO audit (id, at, team, actor, actor_team, action, class, subject, detail, outcome, request_id) \
             SELECT {id}, {micros} + i * 1000000, CASE WHEN i % 5 = 0 THEN '' WHEN i % 20 = 1 THEN 'acme' \
             ELSE 'team-' || (i % 99) END, CASE WHEN i % 200 = 1 THEN 'seldom' ELSE 'user-' || (i % 7) END, \
             'acme', CASE WHEN i % 3 = 0 THEN 'token.create' ELSE 'cache.clear' END, \
             CASE WHEN i % 3 = 0 THEN 'token.create' ELSE 'cache.clear' END, 'thing-' || (i % 50), \
             'text', 'done', i FROM n"
        ),
        "ANALYZE".to_owned(),
    ] {
        database.sql(&sql).await;
    }
    assert_eq!(
        store.refresh_statistics().await.expect("analyzes"),
        database.kind == Kind::Sqlite
    );
    one
}

async fn plan_of_rows(store: &Store, sql: &str, columns: &[Column<()>], count: usize) -> String {
    let mut connection = store.core().backend.read().await.expect("connects");
    let given = vec![(); count];
    if matches!(connection, Connection::Sqlite(_)) {
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let lines: Vec<(i64, i64, i64, String)> =
            rows::fetch(&mut connection, &sql, columns, &given)
                .await
                .expect("explains");
        lines.into_iter().map(|line| line.3 + "\n").collect()
    } else {
        let lines: Vec<(String,)> =
            rows::fetch(&mut connection, &format!("EXPLAIN {sql}"), columns, &given)
                .await
                .expect("explains");
        lines.into_iter().map(|line| line.0 + "\n").collect()
    }
}

async fn plan(store: &Store, sql: Sql) -> String {
    let mut connection = store.core().backend.read().await.expect("connects");
    let lines: Vec<String> = if matches!(connection, Connection::Sqlite(_)) {
        let rows: Vec<(i64, i64, i64, String)> = sql
            .explained("EXPLAIN QUERY PLAN")
            .rows(&mut connection)
            .await
            .expect("explains");
        rows.into_iter().map(|row| row.3).collect()
    } else {
        let rows: Vec<(String,)> = sql
            .explained("EXPLAIN")
            .rows(&mut connection)
            .await
            .expect("explains");
        rows.into_iter().map(|row| row.0).collect()
    };
    lines.join("\n")
}

/// Returns the lines that must not be in a plan.
fn wrongs(plan: &str) -> Vec<&str> {
    // A SQLite scan that names an index reads the rows in index order, for example for a MIN or a
    // small subquery. The recursive table `teams` has no index, and all its rows are wanted.
    let scans =
        |line: &str| line.contains("SCAN") && !line.contains("INDEX") && line != "SCAN teams";
    // Postgres may sort rows that it found by an index if all of them fit on a page.
    let sorts =
        |line: &str| line.contains("Sort  (cost") && rows(line).is_none_or(|rows| rows > PAGE);
    let sorts = |line: &str| {
        line.contains("TEMP B-TREE") || line.contains("Incremental Sort") || sorts(line)
    };
    plan.lines()
        .filter(|line| scans(line) || sorts(line) || line.contains("Seq Scan"))
        .collect()
}

/// Parses the number of rows that Postgres expects.
fn rows(line: &str) -> Option<u32> {
    line.split("rows=").nth(1)?.split(' ').next()?.parse().ok()
}

#[test]
fn every_index_is_used_and_nothing_is_sorted() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let one = seed(&database, &store).await;
        let mut findings = Vec::new();
        for (index, sql) in queries(one) {
            let text = sql.text().to_owned();
            let plan = plan(&store, sql).await;
            let used = plan
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .any(|word| word == index);
            if !used || !wrongs(&plan).is_empty() {
                findings.push(format!("{index}: {text}\n{plan}"));
            }
        }
        assert!(findings.is_empty(), "{}", findings.join("\n\n"));
        store.close().await;
    });
}

/// The statements that look rows up by given rows, with the columns of the given rows.
fn by_given_rows(kind: Kind) -> Vec<(&'static str, Vec<Column<()>>)> {
    let id = || Column::Uuid(|()| Uuid::nil());
    let number = || Column::Integer(|()| 1);
    let text = || Column::Text(|()| "acme");
    let one_database_only = match kind {
        Kind::Sqlite => (
            commit::UPDATE_IN_PLACE,
            vec![
                id(),
                number(),
                text(),
                text(),
                text(),
                text(),
                number(),
                number(),
                number(),
                id(),
                number(),
            ],
        ),
        Kind::Postgres => (metadata::UPDATE_FREE, vec![id(), text(), text(), number()]),
    };
    vec![
        one_database_only,
        (commit::CURRENT, vec![id(), number()]),
        (commit::PENDING, vec![id(), id()]),
        (
            commit::UPDATE_INSTANCES,
            vec![
                id(),
                number(),
                text(),
                text(),
                text(),
                text(),
                number(),
                Column::MaybeInteger(|()| None),
                Column::MaybeInteger(|()| None),
                id(),
                number(),
            ],
        ),
        (
            commit::DECIDE_APPROVALS,
            vec![id(), id(), text(), text(), number()],
        ),
        (
            commit::UPDATE_METADATA,
            vec![id(), text(), text(), number()],
        ),
        (creation::WITH_KEYS, vec![id(), text()]),
        (children::WAKE_PARENTS, vec![id(), number(), number(), id()]),
        (children::STOP_CHILDREN, vec![id(), number(), id()]),
        (children::CHILDREN, vec![id()]),
        (children::AWAITED, vec![id()]),
        (statuses::STATES, vec![id(), text()]),
        (storage_writes::DELETE, vec![text(), text(), text()]),
    ]
}

#[test]
fn no_group_of_writes_walks_a_table() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        seed(&database, &store).await;
        let mut findings = Vec::new();
        for (sql, columns) in by_given_rows(database.kind) {
            for count in [1, 16] {
                let plan = plan_of_rows(&store, sql, &columns, count).await;
                // SQLite's name for the given rows differs between its versions.
                let walks = |line: &str| {
                    line.contains("AUTOMATIC")
                        || line.contains("SCAN workflow_")
                        || line.contains("SCAN plugin_")
                        || line.contains("Seq Scan")
                };
                if plan.lines().any(walks) {
                    findings.push(format!("{count} rows: {sql}\n{plan}"));
                }
            }
        }
        assert!(findings.is_empty(), "{}", findings.join("\n\n"));
        store.close().await;
    });
}
