//! The schema. Tests beside the queries check that they use its indexes.

use crate::databases::{Kind, on_both_databases};

/// The names of indexes from the specification.
const INDEXES: [&str; 20] = [
    "idx_workflows_status",
    "idx_workflows_created_at",
    "idx_workflows_status_created",
    "idx_workflow_instances_workflow_id",
    "idx_workflow_instances_entity",
    "idx_workflow_instances_project_id",
    "idx_workflow_instances_status",
    "idx_workflow_instances_started_by",
    "idx_workflow_instances_status_created",
    "idx_workflow_instances_workflow_status",
    "idx_workflow_instances_started_at",
    "idx_workflow_approvals_instance_id",
    "idx_workflow_approvals_approver_id",
    "idx_workflow_approvals_status",
    "idx_workflow_approvals_approver_status",
    "idx_workflow_approvals_instance_step",
    "idx_workflow_approvals_expires_at",
    "idx_workflow_approvals_status_expires",
    "idx_workflow_approvals_created_at",
    "idx_workflow_approvals_approver_status_created",
];

#[test]
fn every_index_of_the_specification_is_there_by_its_name() {
    on_both_databases(|database| async move {
        database.open().await.close().await;
        let indexes = match database.kind {
            Kind::Sqlite => {
                database
                    .sql("SELECT name FROM sqlite_schema WHERE type = 'index'")
                    .await
            }
            Kind::Postgres => {
                database
                    .sql("SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public'")
                    .await
            }
        };
        for index in INDEXES {
            assert!(
                indexes.iter().any(|name| name == index),
                "{index} is missing from {indexes:?}"
            );
        }
    });
}

#[test]
fn the_twins_have_the_same_tables_columns_and_indexes() {
    let outline = |text: &str| {
        let words = text
            .replace(" STRICT", "")
            .replace(", WITHOUT ROWID", "")
            .replace(" COLLATE \"C\"", "");
        let types = words
            .replace(" UUID", " BLOB")
            .replace(" BYTEA", " BLOB")
            .replace(" BIGINT", " INTEGER");
        let calls = types.replace("gen_random_uuid()", "randomblob(16)");
        let nil = calls.replace(
            "'00000000-0000-0000-0000-000000000000'",
            "x'00000000000000000000000000000000'",
        );
        // Several hosts write to one Postgres database, and versions of entries must differ over all of them. A SQLite
        // file has one, which counts in memory. And only Postgres has a use for room on its pages.
        let own = |line: &str| {
            line.starts_with("CREATE SEQUENCE") || line.contains(" SET (fillfactor = ")
        };
        let lines = nil
            .lines()
            .filter(|line| !line.starts_with("--") && !own(line));
        lines
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join("\n")
            .trim_end()
            .to_owned()
    };
    for (sqlite, postgres) in [
        (
            include_str!("../../migrations/sqlite/0001_foundation.sql"),
            include_str!("../../migrations/postgres/0001_foundation.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0016_attempt_logs.sql"),
            include_str!("../../migrations/postgres/0016_attempt_logs.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0002_retention.sql"),
            include_str!("../../migrations/postgres/0002_retention.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0004_history.sql"),
            include_str!("../../migrations/postgres/0004_history.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0007_traceparent.sql"),
            include_str!("../../migrations/postgres/0007_traceparent.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0008_room_for_updates.sql"),
            include_str!("../../migrations/postgres/0008_room_for_updates.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0005_alerts.sql"),
            include_str!("../../migrations/postgres/0005_alerts.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0006_audit.sql"),
            include_str!("../../migrations/postgres/0006_audit.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0003_hosts.sql"),
            include_str!("../../migrations/postgres/0003_hosts.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0009_audit_actor.sql"),
            include_str!("../../migrations/postgres/0009_audit_actor.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0011_budgets.sql"),
            include_str!("../../migrations/postgres/0011_budgets.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0012_quotas.sql"),
            include_str!("../../migrations/postgres/0012_quotas.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0013_access.sql"),
            include_str!("../../migrations/postgres/0013_access.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0014_written.sql"),
            include_str!("../../migrations/postgres/0014_written.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0015_workflow_versions.sql"),
            include_str!("../../migrations/postgres/0015_workflow_versions.sql"),
        ),
        (
            include_str!("../../migrations/sqlite/0017_children.sql"),
            include_str!("../../migrations/postgres/0017_children.sql"),
        ),
    ] {
        assert_eq!(outline(sqlite), outline(postgres));
    }
}
