//! A PostgreSQL server that stops in the middle of work and returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stepwell::clock::Clock;
use stepwell::config::Config;
use stepwell::model::{Instance, StorageWrite, WriteAction};
use stepwell::store::{CommitError, Store, StoreError};
use uuid::Uuid;

use crate::fixtures::{acme, key, load, new_instance, read, step, workflow};
use crate::postgres::{PrivateServer, WITHOUT_POSTGRES};

const CLIENTS: u64 = 8;
const RESTARTS: u64 = 3;
/// Commits acknowledged between one restart and the next.
const COMMITS: u64 = 150;

/// Returns the version of an instance; repeats the query until the server responds.
async fn version(store: &Store, id: Uuid) -> u64 {
    loop {
        // An attempt waits for a connection, so this does not spin.
        if let Ok(loaded) = store.load(id).await {
            return loaded.expect("is there").instance.version;
        }
    }
}

/// Adds 1 to a counter again and again, in a commit each. Returns the number of commits.
async fn count_up(store: Store, mut instance: Instance, acknowledged: Arc<AtomicU64>) -> u64 {
    let first = instance.version;
    while acknowledged.load(Ordering::SeqCst) < (RESTARTS + 1) * COMMITS {
        let mut commit = step(&instance);
        commit.effects.storage = vec![StorageWrite {
            key: key("counter"),
            action: WriteAction::Increment(1),
            guard: None,
        }];
        match store.commit(commit).await {
            Ok(()) => {
                acknowledged.fetch_add(1, Ordering::SeqCst);
                instance.version += 1;
            }
            Err(CommitError::Store(_)) => {
                let now = version(&store, instance.id).await;
                assert!(
                    now == instance.version || now == instance.version + 1,
                    "{now} after {}",
                    instance.version
                );
                instance.version = now;
            }
            Err(other) => panic!("nobody else writes: {other}"),
        }
    }
    instance.version - first
}

#[test]
fn a_server_that_restarts_under_load_loses_nothing_and_doubles_nothing() {
    if std::env::var_os(WITHOUT_POSTGRES).is_some() {
        return;
    }
    let mut server = PrivateServer::start();
    let mut config = Config::defaults().expect("the defaults load");
    config.database.url = server.url("postgres");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(async move {
        let store = Store::open(&config, Clock::System).await.expect("opens");
        let workflow = workflow(&store, &acme()).await;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let new = new_instance(&workflow);
            store
                .create_instances(vec![new.clone()])
                .await
                .expect("is created");
            clients.spawn(count_up(
                store.clone(),
                new.into(),
                Arc::clone(&acknowledged),
            ));
        }
        for restart in 1..=RESTARTS {
            while acknowledged.load(Ordering::SeqCst) < restart * COMMITS {
                tokio::task::yield_now().await;
            }
            server = tokio::task::spawn_blocking(move || {
                server.restart();
                server
            })
            .await
            .expect("restarts");
        }
        let mut written = 0;
        while let Some(client) = clients.join_next().await {
            written += client.expect("no client panics");
        }
        // Every commit that the versions of the instances know of is in the counter, once.
        assert!(written >= acknowledged.load(Ordering::SeqCst));
        let (counter, _) = read(&store, "counter").await.expect("is there");
        assert_eq!(counter, written.to_string());
        // The lock was lost with its session, and was taken again.
        store.ping().await.expect("answers");
        assert!(matches!(
            Store::open(&config, Clock::System).await,
            Err(StoreError::Locked(_))
        ));
        let instance = new_instance(&workflow);
        store
            .create_instances(vec![instance.clone()])
            .await
            .expect("is created");
        assert_eq!(load(&store, instance.id).await.instance.version, 1);
        store.close().await;
    });
}
