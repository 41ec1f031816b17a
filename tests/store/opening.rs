//! Opening and closing a store, and exclusive access to its files.

use stepwell::clock::Clock;
use stepwell::config::Config;
use stepwell::store::{Store, StoreError};

use crate::databases::{Kind, START, end_sessions, on_both, on_both_databases};
use crate::fixtures::{
    acme, attempt, instance, load, name, new_instance, plugin, put, read, step, workflow, write,
};

#[test]
fn a_second_store_on_one_file_or_one_data_directory_is_refused_with_what_to_do() {
    on_both_databases(|database| async move {
        let first = database.open().await;
        let error = database.try_open().await.expect_err("is refused");
        let message = error.to_string();
        assert!(matches!(error, StoreError::Locked(_)), "{message}");
        let named = match database.kind {
            Kind::Sqlite => ["stepwell.db.lock", "database.url"],
            Kind::Postgres => ["host.id", "data_dir of its own"],
        };
        assert!(
            named.iter().all(|named| message.contains(named)),
            "{message}"
        );
        first.ping().await.expect("the first goes on");
        first.close().await;
        database.open().await.close().await;
    });
}

#[test]
fn everything_is_there_after_a_close() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let instance = instance(&store).await;
        let mut commit = step(&instance);
        commit.change.attempts.push(attempt(&instance, 1));
        commit.effects.storage = vec![put("paid", "yes")];
        store.commit(commit).await.expect("commits");
        let upload = plugin(&acme(), "expense", "1.0.0", "aa");
        store
            .insert_plugin_version(upload.clone(), vec![7; 100_000])
            .await
            .expect("is stored");
        let before = load(&store, instance.id).await;
        let entry = read(&store, "paid").await;
        store.close().await;
        let store = database.open().await;
        let after = load(&store, instance.id).await;
        assert_eq!(after.instance, before.instance);
        assert_eq!(after.attempts, before.attempts);
        assert_eq!(
            after.definition.definition.source,
            before.definition.definition.source
        );
        assert_eq!(read(&store, "paid").await, entry);
        assert_eq!(
            store.component_bytes(upload.id).await.expect("reads"),
            Some(vec![7; 100_000])
        );
        store.close().await;
    });
}

#[test]
fn a_schema_newer_than_the_program_is_refused() {
    on_both_databases(|database| async move {
        database.open().await.close().await;
        database
            .sql(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 SELECT 9999, description, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1",
            )
            .await;
        let error = database.try_open().await.expect_err("is refused");
        assert!(
            matches!(
                error,
                StoreError::NewerSchema {
                    found: 9999,
                    known: 17
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("newer"), "{error}");
        // The refusal released the database: the next open fails for the same reason, not as a
        // second process.
        assert!(matches!(
            database.try_open().await,
            Err(StoreError::NewerSchema { .. })
        ));
    });
}

#[test]
fn a_closed_store_says_so_and_what_was_queued_is_written() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let new: Vec<_> = (0..50).map(|_| new_instance(&version)).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for new in new.clone() {
            let store = store.clone();
            tasks.spawn(async move { (new.id, store.create_instances(vec![new]).await) });
        }
        tokio::task::yield_now().await;
        store.close().await;
        let mut created = Vec::new();
        while let Some(result) = tasks.join_next().await {
            match result.expect("no panic") {
                (id, Ok(_)) => created.push(id),
                (_, Err(error)) => assert!(matches!(error, StoreError::Closed), "{error}"),
            }
        }
        assert!(matches!(store.ping().await, Err(StoreError::Closed)));
        assert!(matches!(
            store.load(version.workflow_id).await,
            Err(StoreError::Closed)
        ));
        store.close().await;
        let store = database.open().await;
        for id in created {
            assert!(store.load(id).await.expect("loads").is_some());
        }
        store.close().await;
    });
}

#[test]
fn a_private_store_works_and_leaves_nothing() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let config = Config::defaults().expect("the defaults load");
        let store = Store::open_in_memory(&config, Clock::manual(START))
            .await
            .expect("opens");
        let other = Store::open_in_memory(&config, Clock::manual(START))
            .await
            .expect("opens");
        workflow(&store, &acme()).await;
        assert!(
            other
                .workflow(&acme(), &name("expense"))
                .await
                .expect("reads")
                .is_none()
        );
        store.close().await;
        other.close().await;
    });
}

#[test]
fn an_address_of_no_known_database_is_refused_without_showing_it() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        for url in [
            "mysql://root:secret@host/db",
            "sqlite:",
            "sqlite::memory:",
            "postgres://u:secret@host:nonsense/db",
        ] {
            let mut config = Config::defaults().expect("the defaults load");
            config.database.url = url.to_owned();
            let error = Store::open(&config, Clock::System)
                .await
                .expect_err("is refused");
            assert!(matches!(error, StoreError::Settings(_)), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    });
}

#[test]
fn ping_and_statistics_answer() {
    on_both(|store, _| async move {
        store.ping().await.expect("answers");
        let instance = instance(&store).await;
        store.commit(step(&instance)).await.expect("commits");
        let stats = store.commit_stats();
        assert_eq!((stats.groups, stats.commits, stats.queue), (2, 2, 0));
        assert!(
            serde_json::to_string(&store.cache_stats())
                .expect("serializes")
                .contains("pending_approvals")
        );
    });
}

#[test]
fn a_host_whose_sessions_the_server_has_ended_goes_on() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let mut instance = instance(&store).await;
        if database.kind == Kind::Postgres {
            end_sessions(&database).await;
        }
        store.ping().await.expect("answers");
        write(&store, &mut instance, vec![put("paid", "yes")], START)
            .await
            .expect("commits");
        assert!(read(&store, "paid").await.is_some());
        store.close().await;
    });
}
