//! The number of sessions on PostgreSQL, and how long a session may keep others waiting.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use stepwell::model::ApprovalStatus;
use stepwell::store::{Page, StoreError};
use tokio::task::JoinSet;

use crate::databases::{START, on_postgres};
use crate::fixtures::{acme, approval, decided, definition, load, new_instance, step, workflow};
use crate::hosts::eventually;

/// Much longer than any call takes that need not wait, even on a busy machine.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(600);

#[test]
fn each_session_has_the_timeouts_of_the_settings() {
    on_postgres(|mut database| async move {
        database.config.database.statement_timeout = Duration::from_millis(11_000);
        database.config.database.lock_timeout = Duration::from_millis(12_000);
        database.config.database.idle_in_transaction_timeout = Duration::from_millis(13_000);
        let store = database.open().await;
        // A trigger records the settings of the store's session.
        for sql in [
            "CREATE TABLE told (what TEXT)",
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO told VALUES \
             (current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' ' \
             || current_setting('idle_in_transaction_session_timeout')); RETURN NEW; END $$",
            "CREATE TRIGGER tell BEFORE INSERT ON workflows FOR EACH ROW EXECUTE FUNCTION tell()",
        ] {
            database.sql(sql).await;
        }
        store
            .apply_workflow(&acme(), definition("expense", "a"), "ann")
            .await
            .expect("applies");
        assert_eq!(database.sql("SELECT what FROM told").await, ["11s 12s 13s"]);
        store.close().await;
    });
}

#[test]
fn a_write_that_exceeds_a_timeout_fails_and_the_next_is_written() {
    on_postgres(|mut database| async move {
        for (lock_timeout, statement_timeout, expected) in [
            (SHORT, LONG, "lock timeout"),
            (LONG, SHORT, "statement timeout"),
        ] {
            database.config.database.lock_timeout = lock_timeout;
            database.config.database.statement_timeout = statement_timeout;
            let store = database.open().await;
            let version = workflow(&store, &acme()).await;
            let held = database.hold_writes().await;
            let error = store
                .create_instances(vec![new_instance(&version)])
                .await
                .expect_err("is given up");
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            held.release().await;
            store
                .create_instances(vec![new_instance(&version)])
                .await
                .expect("the next is written");
            store.close().await;
        }
    });
}

#[test]
fn a_store_has_no_more_sessions_than_it_may_and_who_finds_none_free_is_told() {
    on_postgres(|mut database| async move {
        database.config.database.connections_max = 2;
        database.config.database.acquire_timeout = SHORT;
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let new = new_instance(&version);
        let id = new.id;
        store.create_instances(vec![new]).await.expect("is created");
        let mut held = PgConnection::connect(&database.config.database.url)
            .await
            .expect("connects");
        let lock = "BEGIN; LOCK TABLE workflow_instances IN ACCESS EXCLUSIVE MODE";
        sqlx::raw_sql(lock).execute(&mut held).await.expect("locks");
        // Readers that wait for the lock have all sessions but the one that listens.
        let mut readers = JoinSet::new();
        for _ in 0..10 {
            let store = store.clone();
            readers.spawn(async move { store.load(id).await.map(|loaded| loaded.is_some()) });
        }
        let mut refused = 0;
        while refused < 8 {
            let read = readers
                .join_next()
                .await
                .expect("two wait")
                .expect("no panic");
            let error = read.expect_err("found no session");
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            refused += 1;
        }
        let sessions = database
            .sql(
                "SELECT CAST(COUNT(*) AS TEXT) FROM pg_stat_activity \
                 WHERE application_name = 'stepwell' AND datname = current_database()",
            )
            .await;
        assert_eq!(sessions, ["3"]);
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut held)
            .await
            .expect("ends");
        while let Some(read) = readers.join_next().await {
            assert!(read.expect("no panic").expect("reads"), "is there");
        }
        let listed = || async {
            store
                .instances(&acme(), &Default::default(), &Page::first(9))
                .await
        };
        eventually("all goes on", async || {
            listed().await.is_ok_and(|listed| listed.len() == 1)
        })
        .await;
        store.close().await;
    });
}

#[test]
fn no_session_reads_a_whole_table_that_has_grown_since_its_plans_were_made() {
    on_postgres(|database| async move {
        let scans = async || {
            // Sessions report their statistics when they end.
            let sessions = "SELECT 'there' FROM pg_stat_activity \
                WHERE application_name = 'stepwell' AND datname = current_database()";
            eventually("the sessions have ended", async || {
                database.sql(sessions).await.is_empty()
            })
            .await;
            let counted = "SELECT relname || ' ' || seq_scan FROM pg_stat_user_tables \
                WHERE relname IN ('workflow_instances', 'workflow_approvals') ORDER BY relname";
            database.sql(counted).await
        };
        database.open().await.close().await;
        // No ANALYZE runs meanwhile, as in the first minute of a new database.
        for table in ["workflow_instances", "workflow_approvals"] {
            database
                .sql(&format!(
                    "ALTER TABLE {table} SET (autovacuum_enabled = off)"
                ))
                .await;
        }
        let before = scans().await;
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        // A plan is kept after it was made five times.
        for count in [1, 1, 1, 1, 1, 1, 1, 500, 1] {
            let new: Vec<_> = (0..count).map(|_| new_instance(&version)).collect();
            let id = new.first().expect("is there").id;
            store.create_instances(new).await.expect("are created");
            let instance = load(&store, id).await.instance;
            let mut wait = step(&instance);
            let asked = approval(&instance, "bob", START.after(LONG));
            wait.change.new_approvals = vec![asked.clone()];
            store.commit(wait).await.expect("commits");
            let metadata = stepwell::model::Json::from(json!({ "count": count }));
            let labelled = store
                .replace_metadata(&acme(), [(id, &metadata)])
                .await
                .expect("writes");
            assert!(labelled.contains(&id));
            store
                .approvals_by_id(&acme(), vec![asked.id])
                .await
                .expect("reads");
            let mut decide = step(&load(&store, id).await.instance);
            decide.change.decided = vec![decided(&asked, ApprovalStatus::Approved)];
            store.commit(decide).await.expect("commits");
            store.instance_states(&acme(), &[id]).await.expect("reads");
        }
        store.close().await;
        assert_eq!(scans().await, before);
    });
}
