//! Reads and writes of many instances at once.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use stepwell::model::{InstanceStatus, Json};
use stepwell::store::{InstanceState, Store};
use uuid::Uuid;

use crate::databases::{Kind, START, on_both, on_both_databases};
use crate::fixtures::{acme, definition, load, name, new_instance, step, workflow};

/// Creates instances of team acme and returns their ids.
async fn instances(store: &Store, count: usize) -> Vec<Uuid> {
    let version = workflow(store, &acme()).await;
    let new: Vec<_> = (0..count).map(|_| new_instance(&version)).collect();
    let ids = new.iter().map(|new| new.id).collect();
    store.create_instances(new).await.expect("are created");
    ids
}

/// Creates an instance of another team.
async fn theirs(store: &Store) -> Uuid {
    let rival = name("rival");
    let version = store
        .apply_workflow(&rival, definition("expense", "x"), "eve")
        .await
        .expect("applies")
        .version;
    let new = new_instance(&version);
    let id = new.id;
    store.create_instances(vec![new]).await.expect("is created");
    id
}

fn running(id: Uuid) -> Option<InstanceState> {
    Some(InstanceState {
        id,
        status: InstanceStatus::Running,
        current_step: None,
    })
}

#[test]
fn states_are_answered_in_the_order_asked() {
    on_both(|store, _| async move {
        let ids = instances(&store, 3).await;
        let theirs = theirs(&store).await;
        let [first, second, third] = ids[..] else {
            unreachable!("three were created")
        };
        // One of them is cached, the others are not.
        store
            .instance(&acme(), second)
            .await
            .expect("reads")
            .expect("is there");
        let asked = [third, Uuid::nil(), second, theirs, first, second, third];
        let states = store.instance_states(&acme(), &asked).await.expect("reads");
        let (first_state, second_state, third_state) =
            (running(first), running(second), running(third));
        let expected = [
            third_state.clone(),
            None,
            second_state.clone(),
            None,
            first_state,
            second_state,
            third_state,
        ];
        assert_eq!(states, expected);
        assert_eq!(
            store.instance_states(&acme(), &[]).await.expect("reads"),
            []
        );
    });
}

#[test]
fn a_state_is_never_older_than_the_last_commit() {
    on_both(|store, _| async move {
        let ids = instances(&store, 2).await;
        store
            .instance(&acme(), ids[0])
            .await
            .expect("reads")
            .expect("is there");
        for id in &ids {
            let mut wait = step(&load(&store, *id).await.instance);
            wait.instance.status = InstanceStatus::Waiting;
            wait.instance.current_step = Some("check".parse().expect("is a step id"));
            store.commit(wait).await.expect("commits");
        }
        for state in store.instance_states(&acme(), &ids).await.expect("reads") {
            let state = state.expect("is there");
            assert_eq!(state.status, InstanceStatus::Waiting);
            assert_eq!(
                state.current_step.expect("waits at a step").as_str(),
                "check"
            );
        }
    });
}

#[test]
fn metadata_of_many_instances_is_replaced_and_what_is_not_there_is_told() {
    on_both(|store, clock| async move {
        let ids = instances(&store, 1_000).await;
        let theirs = theirs(&store).await;
        store
            .instance(&acme(), ids[7])
            .await
            .expect("reads")
            .expect("is there");
        clock.advance(Duration::from_secs(5));
        let values: Vec<_> = (0..1_000)
            .map(|number| Json::from(json!({ "number": number })))
            .collect();
        let mine = Json::from(json!({ "mine": true }));
        let mut metadata: Vec<_> = ids.iter().copied().zip(&values).collect();
        metadata.extend([(theirs, &mine), (Uuid::nil(), &mine), (ids[0], &mine)]);
        let written = store
            .replace_metadata(&acme(), metadata)
            .await
            .expect("writes");
        assert_eq!(written, ids.iter().copied().collect());
        // Of two values the later one wins. A cached instance is read anew. The version stays, so
        // no step conflicts.
        for (number, expected) in [(0, &mine), (7, &values[7]), (999, &values[999])] {
            let instance = store
                .instance(&acme(), ids[number])
                .await
                .expect("reads")
                .expect("is there");
            assert_eq!((&instance.metadata, instance.version), (expected, 1));
            assert_eq!(instance.updated_at, START.after(Duration::from_secs(5)));
        }
        let untouched = store
            .instance(&name("rival"), theirs)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(untouched.metadata, json!({}));
        assert_eq!(
            store
                .replace_metadata(&acme(), [])
                .await
                .expect("is nothing")
                .len(),
            0
        );
    });
}

#[test]
fn metadata_and_steps_that_are_written_at_the_same_time_do_not_block_each_other() {
    // On Postgres, two transactions that lock the same rows in different orders would be a deadlock.
    on_both_databases(|database| async move {
        let store = database.open().await;
        let ids = instances(&store, 100).await;
        let mut loaded = Vec::new();
        for id in &ids {
            loaded.push(load(&store, *id).await.instance);
        }
        let labels = {
            let (store, ids) = (store.clone(), ids.clone());
            tokio::spawn(async move {
                for round in 0..30 {
                    let value = Json::from(json!({ "round": round }));
                    let written = store
                        .replace_metadata(&acme(), ids.iter().map(|id| (*id, &value)))
                        .await;
                    assert_eq!(written.expect("writes").len(), 100);
                }
            })
        };
        for _ in 0..10 {
            let mut steps = tokio::task::JoinSet::new();
            // The other way round, as the committer may get them.
            for instance in loaded.iter().rev() {
                let (store, commit) = (store.clone(), step(instance));
                steps.spawn(async move { store.commit(commit).await });
            }
            while let Some(committed) = steps.join_next().await {
                committed.expect("no panic").expect("commits");
            }
            loaded.iter_mut().for_each(|instance| instance.version += 1);
        }
        labels.await.expect("no panic");
        assert_eq!(store.commit_stats().failed, 0);
        for id in &ids {
            let instance = load(&store, *id).await.instance;
            assert_eq!(
                (instance.version, instance.metadata),
                (11, json!({ "round": 29 }).into())
            );
        }
        store.close().await;
    });
}

#[test]
fn a_row_that_somebody_has_locked_is_waited_for() {
    on_both_databases(|database| async move {
        if database.kind == Kind::Sqlite {
            // SQLite has one writer, so no row is locked.
            return;
        }
        let store = database.open().await;
        let ids = instances(&store, 3).await;
        let mut other = PgConnection::connect(&database.config.database.url)
            .await
            .expect("connects");
        let mut locking = other.begin().await.expect("begins");
        let lock =
            sqlx::query("SELECT id FROM workflow_instances WHERE id = $1 FOR UPDATE").bind(ids[1]);
        lock.execute(&mut *locking).await.expect("locks");
        let value = Json::from(json!({ "labelled": true }));
        let writing = {
            let (store, ids, value) = (store.clone(), ids.clone(), value.clone());
            tokio::spawn(async move {
                store
                    .replace_metadata(&acme(), ids.iter().map(|id| (*id, &value)))
                    .await
            })
        };
        // The others are written while the locked one is waited for.
        for id in [ids[0], ids[2]] {
            while load(&store, id).await.instance.metadata != value {
                assert!(
                    !writing.is_finished(),
                    "the others were not written before the locked one"
                );
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(load(&store, ids[1]).await.instance.metadata, json!({}));
        locking.rollback().await.expect("rolls back");
        assert_eq!(writing.await.expect("no panic").expect("writes").len(), 3);
        assert_eq!(load(&store, ids[1]).await.instance.metadata, value);
        store.close().await;
    });
}
