//! Migration of the schema, forward only. Only one process migrates at a time; the caller ensures
//! that on SQLite, where sqlx's own lock does nothing.

use std::borrow::Cow;

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use super::StoreError;
use super::backend::Connection;

macro_rules! migrations {
    ($database:literal: $($version:literal $name:literal,)*) => {
        vec![$((
            $version,
            $name,
            include_str!(concat!("../../../migrations/", $database, "/", $version, "_", $name, ".sql")),
        ),)*]
    };
}

/// The advisory lock of migrations. Advisory locks are scoped to a database, so a constant
/// suffices.
const ADVISORY_LOCK: i64 = i64::from_be_bytes(*b"stepwell");

/// Runs the migrations that the database does not have yet.
pub(super) async fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let texts = match connection {
        Connection::Sqlite(_) => {
            migrations!(
                "sqlite": "0001" "foundation", "0002" "retention", "0003" "hosts", "0004" "history", "0005" "alerts",
                "0006" "audit", "0007" "traceparent", "0008" "room_for_updates", "0009" "audit_actor",
                "0010" "fair_shares", "0011" "budgets", "0012" "quotas", "0013" "access",
                "0014" "written", "0015" "workflow_versions", "0016" "attempt_logs",
                "0017" "children",
            )
        }
        Connection::Postgres(_) => {
            migrations!(
                "postgres": "0001" "foundation", "0002" "retention", "0003" "hosts", "0004" "history", "0005" "alerts",
                "0006" "audit", "0007" "traceparent", "0008" "room_for_updates", "0009" "audit_actor",
                "0010" "fair_shares", "0011" "budgets", "0012" "quotas", "0013" "access",
                "0014" "written", "0015" "workflow_versions", "0016" "attempt_logs",
                "0017" "children",
            )
        }
    };
    let migrations: Vec<_> = texts
        .into_iter()
        .map(|(version, name, sql)| {
            let version = version
                .parse()
                .expect("the number in a file name of ours is a number");
            Migration::new(
                version,
                Cow::Borrowed(name),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        })
        .collect();
    let known = migrations
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    let migrator = Migrator::with_migrations(migrations);
    let result = match connection {
        // The caller holds the lock of the database file.
        Connection::Sqlite(connection) => migrator.run_direct(None, &mut **connection, false).await,
        // Two hosts may start at the same time.
        Connection::Postgres(connection) => {
            sqlx::query("SELECT pg_advisory_lock($1)")
                .bind(ADVISORY_LOCK)
                .execute(&mut **connection)
                .await?;
            let result = migrator.run_direct(None, &mut **connection, false).await;
            sqlx::query("SELECT pg_advisory_unlock($1)")
                .bind(ADVISORY_LOCK)
                .execute(&mut **connection)
                .await?;
            result
        }
    };
    result.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => {
            StoreError::NewerSchema { found, known }
        }
        MigrateError::Execute(error) => error.into(),
        other => StoreError::Corrupt(format!(
            "its schema is not as this program left it: {other}"
        )),
    })
}
