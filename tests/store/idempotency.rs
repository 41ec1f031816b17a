//! Idempotency keys, of instances and of other requests.

use serde_json::json;
use stepwell::model::NewInstance;
use stepwell::store::{CommitError, KeyedRequest, Reservation, Store};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::databases::{START, on_both, on_both_databases};
use crate::fixtures::{acme, keyed, load, name, new_instance, step, workflow};

#[test]
fn a_key_with_another_request_is_told_apart_from_a_repeated_one() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let new = || new_instance(&version);
        let first = store
            .create_instances(vec![keyed(new(), "k")])
            .await
            .expect("is created")[0];
        assert!(!first.existing && first.same_request);
        let ask = async |new: NewInstance| {
            store
                .create_instances(vec![keyed(new, "k")])
                .await
                .expect("is answered")[0]
        };
        let again = ask(new()).await;
        assert!(again.existing && again.same_request && again.id == first.id);
        let others = [
            NewInstance {
                input: json!({ "amount": 12.6 }).into(),
                ..new()
            },
            NewInstance {
                entity_type: None,
                ..new()
            },
            NewInstance {
                entity_id: Some("4712".to_owned()),
                ..new()
            },
            NewInstance {
                project_id: None,
                ..new()
            },
        ];
        for other in others {
            let answered = ask(other).await;
            assert!(answered.existing && !answered.same_request && answered.id == first.id);
        }
        // The user and the time are no part of the request.
        let later = NewInstance {
            started_by: "bob".to_owned(),
            depth: 3,
            ..new()
        };
        assert!(ask(later).await.same_request);
        // In one batch, the first of two is created and the other is told apart.
        let with = |input: i32| {
            let input = json!(input).into();
            keyed(NewInstance { input, ..new() }, "two")
        };
        let both = store
            .create_instances(vec![with(1), with(2)])
            .await
            .expect("are answered");
        assert_eq!(
            both.iter()
                .map(|one| (one.existing, one.same_request))
                .collect::<Vec<_>>(),
            [(false, true), (true, false)]
        );
        // An instance without a stored request hash matches any request.
        database
            .sql("UPDATE workflow_instances SET request_hash = NULL")
            .await;
        let answered = ask(NewInstance {
            input: json!("else").into(),
            ..new()
        })
        .await;
        assert!(answered.existing && answered.same_request && answered.id == first.id);
        store.close().await;
    });
}

#[test]
fn concurrent_requests_with_one_key_have_one_winner() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let mut tasks = JoinSet::new();
        for number in 0..30 {
            let new = NewInstance {
                input: json!(number % 3).into(),
                ..new_instance(&version)
            };
            let new = keyed(new, "k");
            let store = store.clone();
            tasks.spawn(async move {
                (
                    number % 3,
                    store
                        .create_instances(vec![new])
                        .await
                        .expect("is answered")[0],
                )
            });
        }
        let answers = tasks.join_all().await;
        let (winner, created) = answers
            .iter()
            .find(|(_, one)| !one.existing)
            .copied()
            .expect("one is created");
        for (asked, one) in answers {
            assert_eq!((one.id, one.same_request), (created.id, asked == winner));
        }
    });
}

#[test]
fn a_step_that_creates_with_a_key_that_is_taken_is_a_conflict() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let keyed = keyed(new_instance(&version), "k");
        let first = store
            .create_instances(vec![keyed.clone()])
            .await
            .expect("is created")[0];
        let mut commit = step(&load(&store, first.id).await.instance);
        commit.effects.instances = vec![NewInstance {
            id: Uuid::now_v7(),
            ..keyed
        }];
        assert!(matches!(
            store.commit(commit).await,
            Err(CommitError::Conflict(_))
        ));
        let holders = store
            .instances_with_keys(vec![(version.workflow_id, "k".to_owned())])
            .await
            .expect("reads");
        let holder = holders.values().next().expect("is there");
        assert!(
            holder.id == first.id && holder.request_hash.is_some() && !holder.answers(&[0; 32])
        );
    });
}

fn request(key: &str, hash: u8) -> KeyedRequest {
    KeyedRequest {
        team: acme(),
        route: "POST /workflows",
        key: key.to_owned(),
        hash: [hash; 32],
    }
}

async fn reserve(store: &Store, request: KeyedRequest) -> Reservation {
    store
        .reserve_idempotency_key(request, 3)
        .await
        .expect("answers")
}

#[test]
fn a_request_is_answered_again_and_another_with_its_key_is_refused() {
    on_both(|store, _| async move {
        assert_eq!(reserve(&store, request("k", 1)).await, Reservation::Open);
        // The request is under way or broken off: only the same request may be tried again.
        assert_eq!(reserve(&store, request("k", 1)).await, Reservation::Open);
        assert_eq!(
            reserve(&store, request("k", 2)).await,
            Reservation::OtherRequest
        );
        store
            .keep_answer(request("k", 1), "first".to_owned())
            .await
            .expect("is kept");
        store
            .keep_answer(request("k", 1), "second".to_owned())
            .await
            .expect("is passed over");
        assert_eq!(
            reserve(&store, request("k", 1)).await,
            Reservation::Answered("first".to_owned())
        );
        assert_eq!(
            reserve(&store, request("k", 2)).await,
            Reservation::OtherRequest
        );
        // A key with a response is kept; the key of a failed request is released.
        store
            .release_idempotency_key(request("k", 1))
            .await
            .expect("is passed over");
        assert_eq!(
            reserve(&store, request("k", 1)).await,
            Reservation::Answered("first".to_owned())
        );
        assert_eq!(reserve(&store, request("bad", 1)).await, Reservation::Open);
        store
            .release_idempotency_key(request("bad", 1))
            .await
            .expect("is given back");
        assert_eq!(reserve(&store, request("bad", 2)).await, Reservation::Open);
        // Other routes and teams have keys of their own.
        let elsewhere = KeyedRequest {
            route: "POST /plugins",
            ..request("k", 9)
        };
        assert_eq!(reserve(&store, elsewhere).await, Reservation::Open);
        let theirs = KeyedRequest {
            team: name("rival"),
            ..request("k", 9)
        };
        assert_eq!(reserve(&store, theirs).await, Reservation::Open);
        // Three are the most of acme, until old ones are forgotten.
        assert_eq!(
            reserve(&store, request("more", 1)).await,
            Reservation::Exhausted
        );
        assert_eq!(
            reserve(&store, request("k", 1)).await,
            Reservation::Answered("first".to_owned())
        );
        assert_eq!(
            store
                .delete_old_idempotency_keys(START)
                .await
                .expect("deletes"),
            0
        );
        let later = START.after(std::time::Duration::from_secs(1));
        assert_eq!(
            store
                .delete_old_idempotency_keys(later)
                .await
                .expect("deletes"),
            4
        );
        assert_eq!(reserve(&store, request("k", 2)).await, Reservation::Open);
    });
}
