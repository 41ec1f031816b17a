//! Faults of sqlx when a caller is dropped or SQLite rolls back on its own; the store must survive
//! them.

use std::future::poll_fn;
use std::task::Poll;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, SqliteConnection};
use stepwell::store::Store;

use crate::databases::{Database, Kind, START, on_both_databases};
use crate::fixtures::{acme, definition, instance, new_instance, put, read, workflow, write};

/// The most polls before a future is dropped. Tests drop it after 1, 2, 3 polls and so on up to
/// this number.
const POLLS: usize = 12;

/// Polls a future at most this many times, when it is woken, and drops it. Returns true if it
/// completed.
async fn drop_after<T>(polls: usize, future: impl Future<Output = T>) -> bool {
    let mut future = Box::pin(future);
    let mut left = polls;
    poll_fn(move |context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Counts the sessions on this database that have a transaction open and do nothing.
async fn idle_in_transaction(database: &Database) -> usize {
    let idle = "SELECT pid::text FROM pg_stat_activity WHERE state = 'idle in transaction' \
        AND datname = current_database()";
    database.sql(idle).await.len()
}

#[test]
fn trap_a_begin_that_is_dropped_leaves_its_transaction_open_in_the_pool() {
    on_both_databases(|database| async move {
        if database.kind == Kind::Sqlite {
            return;
        }
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect(&database.config.database.url)
            .await;
        let pool = pool.expect("connects");
        let mut left_open = 0;
        // How many polls a `begin` takes is the scheduler's business, so each number gets many chances.
        for polls in (1..=POLLS).cycle().take(100 * POLLS) {
            drop_after(polls, async { pool.begin().await.map(drop) }).await;
            sqlx::query("SELECT 1")
                .execute(&pool)
                .await
                .expect("answers");
            left_open += idle_in_transaction(&database).await;
            if left_open > 0 {
                break;
            }
        }
        assert!(
            left_open > 0,
            "sqlx has mended it: `Transaction` may become sqlx's own transaction"
        );
        pool.close().await;
    });
}

#[tokio::test]
async fn trap_sqlx_believes_in_a_transaction_that_sqlite_has_rolled_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!(
        "sqlite:{}?mode=rwc",
        folder.path().join("full.db").display()
    );
    let mut connection = SqliteConnection::connect(&url).await.expect("connects");
    sqlx::raw_sql("CREATE TABLE t (value BLOB); PRAGMA max_page_count = 10")
        .execute(&mut connection)
        .await
        .expect("runs");
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .expect("begins");
    let full = sqlx::query("INSERT INTO t VALUES (zeroblob(1000000))")
        .execute(&mut *transaction)
        .await;
    assert!(full.is_err(), "ten pages do not hold it");
    // SQLite has rolled back on its own, but sqlx still counts an open transaction.
    let rolled_back = transaction.rollback().await;
    let again = connection.begin_with("BEGIN IMMEDIATE").await.map(drop);
    assert!(
        rolled_back.is_err() && again.is_err(),
        "sqlx has mended it: {rolled_back:?}, {again:?}"
    );
}

/// Makes calls of every kind that writes, and some that read, and drops each after this number of
/// polls.
async fn call_and_hang_up(store: &Store, polls: usize) {
    let version = workflow(store, &acme()).await;
    let mut instance = instance(store).await;
    drop_after(polls, store.create_instances(vec![new_instance(&version)])).await;
    drop_after(
        polls,
        store.apply_workflow(
            &acme(),
            definition("expense", &format!("plugin-{polls}")),
            "ann",
        ),
    )
    .await;
    drop_after(polls, store.delete_expired_entries(10)).await;
    drop_after(polls, store.load(instance.id)).await;
    drop_after(polls, store.plan(&acme(), &version.name)).await;
    drop_after(polls, store.ping()).await;
    drop_after(
        polls,
        write(store, &mut instance, vec![put("dropped", "x")], START),
    )
    .await;
}

#[test]
fn a_caller_that_hangs_up_at_any_moment_leaves_no_transaction_open() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        for polls in 1..=POLLS {
            call_and_hang_up(&store, polls).await;
        }
        let mut alive = instance(&store).await;
        write(&store, &mut alive, vec![put("alive", "yes")], START)
            .await
            .expect("commits");
        assert_eq!(
            read(&store, "alive")
                .await
                .map(|(value, _)| value)
                .as_deref(),
            Some("yes")
        );
        // The calls under way run to their end; then no session holds the database.
        store.close().await;
        let store = database.open().await;
        assert!(store.load(alive.id).await.expect("loads").is_some());
        if database.kind == Kind::Postgres {
            assert_eq!(idle_in_transaction(&database).await, 0);
        }
        database.hold_writes().await.release().await;
        store.close().await;
    });
}
