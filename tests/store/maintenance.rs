//! The planner's statistics, and SQLite's log.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Connection as _, Executor as _};
use stepwell::store::{InstanceFilter, Page, Store};

use crate::databases::{Database, Kind, on_both_databases};
use crate::fixtures::{acme, instance, new_instance, put, step, workflow};

fn log_bytes(database: &Database) -> u64 {
    let path = database.config.data_dir.join("stepwell.db-wal");
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// Commits a step that writes a quarter of a MiB.
async fn write_much(store: &Store, instance: &mut stepwell::model::Instance) {
    let mut commit = step(instance);
    // Another value each time: SQLite does not write what stays the same.
    commit.effects.storage = vec![put(
        "large",
        &format!("{:08}", instance.version).repeat(32 << 10),
    )];
    store.commit(commit).await.expect("commits");
    instance.version += 1;
}

#[test]
fn statistics_are_made_after_much_was_written_and_not_before() {
    on_both_databases(|mut database| async move {
        database.config.database.analyze_rows = 500;
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        // SQLite has not counted writes from before the host started, so the first call always
        // makes statistics.
        assert_eq!(
            store.refresh_statistics().await.expect("analyzes"),
            database.kind == Kind::Sqlite
        );
        store
            .create_instances((0..100).map(|_| new_instance(&version)).collect())
            .await
            .expect("are created");
        assert!(
            !store.refresh_statistics().await.expect("looks"),
            "that was not much"
        );
        store
            .create_instances((0..1_000).map(|_| new_instance(&version)).collect())
            .await
            .expect("are created");
        if database.kind == Kind::Postgres {
            // PostgreSQL's sessions report their writes when they end, or now and then.
            store.close().await;
        }
        let store = if database.kind == Kind::Postgres {
            database.open().await
        } else {
            store
        };
        let rows = || async {
            match database.kind {
                Kind::Sqlite => database.sql("SELECT stat FROM sqlite_stat1 WHERE idx = 'idx_workflow_instances_status'").await,
                Kind::Postgres => database.sql("SELECT CAST(CAST(reltuples AS BIGINT) AS TEXT) FROM pg_class WHERE relname = 'workflow_instances'").await,
            }
        };
        while !store.refresh_statistics().await.expect("analyzes") {
            tokio::task::yield_now().await;
        }
        let known = rows().await;
        assert!(
            known
                .iter()
                .any(|known| known.split(' ').next() == Some("1100")),
            "{known:?}"
        );
        assert!(
            !store.refresh_statistics().await.expect("looks"),
            "once is enough"
        );
        store.close().await;
    });
}

#[test]
fn the_log_stays_small_while_much_is_written_and_read() {
    on_both_databases(|mut database| async move {
        if database.kind != Kind::Sqlite {
            return;
        }
        database.config.database.wal_bytes_max = 4 << 20;
        let store = database.open().await;
        let mut instance = instance(&store).await;
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (store, over) = (store.clone(), std::sync::Arc::clone(&over));
            readers.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    // Cached values are returned without a query.
                    store.clear_caches(None, None);
                    tokio::task::yield_now().await;
                    store
                        .instances(&acme(), &InstanceFilter::default(), &Page::first(50))
                        .await
                        .expect("lists");
                }
            });
        }
        let mut largest = 0;
        // 64 MiB.
        for _ in 0..256 {
            write_much(&store, &mut instance).await;
            largest = largest.max(log_bytes(&database));
        }
        over.store(true, Ordering::SeqCst);
        readers.join_all().await;
        // The bound, and the transaction that crosses it with the pages of its trees.
        assert!(
            largest <= (4 << 20) + (1 << 20),
            "the log had {largest} bytes"
        );
        store.close().await;
    });
}

#[test]
fn a_reader_that_holds_the_log_up_stops_nobody_and_the_log_is_cut_off_after_it() {
    on_both_databases(|mut database| async move {
        if database.kind != Kind::Sqlite {
            return;
        }
        database.config.database.wal_bytes_max = 2 << 20;
        let store = database.open().await;
        let mut instance = instance(&store).await;
        let mut backup = sqlx::SqliteConnection::connect(&database.config.database_url())
            .await
            .expect("connects");
        backup.execute("BEGIN").await.expect("begins");
        backup
            .execute("SELECT COUNT(*) FROM workflow_instances")
            .await
            .expect("reads");
        for _ in 0..24 {
            write_much(&store, &mut instance).await;
        }
        let held = log_bytes(&database);
        assert!(
            held > 4 << 20,
            "SQLite can't begin the log anew while somebody reads it: {held} bytes"
        );
        backup.execute("COMMIT").await.expect("ends");
        // As much again, and the writer looks again.
        for _ in 0..24 {
            write_much(&store, &mut instance).await;
        }
        let after = log_bytes(&database);
        assert!(
            after <= 3 << 20,
            "the log still has {after} bytes, and had {held}"
        );
        assert_eq!(
            store
                .load(instance.id)
                .await
                .expect("loads")
                .map(|one| one.instance.version),
            Some(instance.version)
        );
        store.close().await;
    });
}
