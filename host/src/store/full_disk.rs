//! Test: after SQLite has rolled back by itself because the disk is full, the only writer works
//! again.

use serde_json::json;
use uuid::Uuid;

use super::backend::Connection;
use super::{CommitError, StepCommit, Store, StoreError};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::model::transition::Change;
use crate::model::{
    Definition, Effects, EntryKey, Name, NewInstance, Space, StorageWrite, WriteAction,
};

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn team() -> Name {
    "acme".parse().expect("is a name")
}

async fn instance(store: &Store) -> Uuid {
    let definition =
        Definition::parse("{name: expense, steps: [{id: check, plugin: expense, step: check}]}");
    let version = store
        .apply_workflow(&team(), definition.expect("is one"), "ann")
        .await
        .expect("applies")
        .version;
    let id = Uuid::now_v7();
    let new = NewInstance {
        id,
        team: team(),
        workflow_id: version.workflow_id,
        workflow: version.name.clone(),
        workflow_version: 1,
        pins: [].into(),
        entity_type: None,
        entity_id: None,
        project_id: None,
        started_by: "ann".to_owned(),
        input: json!({}).into(),
        idempotency_key: None,
        depth: 0,
        root_id: None,
        parent: None,
        traceparent: None,
        created_at: NOW,
    };
    store.create_instances(vec![new]).await.expect("is created");
    id
}

async fn commit(store: &Store, id: Uuid, value: Vec<u8>) -> Result<(), CommitError> {
    let instance = store
        .load(id)
        .await
        .expect("loads")
        .expect("is there")
        .instance;
    let key = EntryKey {
        space: Space::Instance(id),
        key: "large".to_owned(),
    };
    let write = StorageWrite {
        key,
        action: WriteAction::Put {
            value,
            ttl_ms: None,
        },
        guard: None,
    };
    let effects = Effects {
        storage: vec![write],
        ..Effects::default()
    };
    store
        .commit(StepCommit {
            instance: (&instance).into(),
            change: Change::default(),
            effects,
            now: NOW,
            trace: None,
        })
        .await
}

#[tokio::test]
async fn a_full_disk_fails_the_commit_and_the_next_one_that_fits_is_written() {
    let config = Config::defaults().expect("the defaults load");
    let store = Store::open_in_memory(&config, Clock::manual(NOW))
        .await
        .expect("opens");
    let id = instance(&store).await;
    // The limit belongs to the connection, so a new connection acts like a disk with room again.
    let mut writer = store.core().backend.write().await.expect("connects");
    if let Connection::Sqlite(connection) = &mut writer {
        let pages: i64 = sqlx::query_scalar("PRAGMA max_page_count = 1")
            .fetch_one(&mut **connection)
            .await
            .expect("runs");
        assert!(
            pages > 1,
            "SQLite does not go below the pages that are there"
        );
    }
    drop(writer);
    let error = commit(&store, id, vec![7; 1 << 20])
        .await
        .expect_err("does not fit");
    assert!(
        matches!(&error, CommitError::Store(StoreError::Full(_))),
        "{error}"
    );
    let loaded = store
        .load(id)
        .await
        .expect("readers go on")
        .expect("is there");
    assert_eq!(loaded.instance.version, 1);
    commit(&store, id, vec![7; 1 << 20])
        .await
        .expect("writes again");
    assert_eq!(
        store
            .load(id)
            .await
            .expect("loads")
            .expect("is there")
            .instance
            .version,
        2
    );
    assert_eq!(store.commit_stats().failed, 1);
    store.close().await;
}
