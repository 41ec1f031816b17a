//! Commits of steps: one step writes all or nothing, and many steps share a transaction.

use std::future::poll_fn;
use std::task::Poll;

use serde_json::json;
use stepwell::model::{ApprovalStatus, Guard, InstanceStatus, StorageWrite, WriteAction};
use stepwell::store::{CommitError, INVALID_VALUE, NOT_A_NUMBER, StepCommit, Store};

use crate::databases::{START, on_both};
use crate::fixtures::{
    acme, approval, attempt, decided, guarded, instance, key, keyed, load, name, new_instance, put,
    read, step, workflow, write,
};

/// Returns a commit that writes a row of every kind.
fn full(
    instance: &stepwell::model::Instance,
    workflow: &stepwell::store::WorkflowVersion,
) -> StepCommit {
    let mut commit = step(instance);
    commit.instance.status = InstanceStatus::Waiting;
    commit.change.attempts.push(attempt(instance, 1));
    commit
        .change
        .new_approvals
        .push(approval(instance, "bob", START));
    commit.effects.storage = vec![put("paid", "yes")];
    commit.effects.instances = vec![new_instance(workflow)];
    commit.effects.metadata = vec![(instance.id, json!({ "label": "new" }).into())];
    commit
}

async fn assert_nothing_of(commit: &StepCommit, store: &Store) {
    let loaded = load(store, commit.instance.id).await;
    assert_eq!(loaded.instance.status, InstanceStatus::Running);
    assert_eq!(loaded.instance.metadata, json!({}));
    assert_eq!(loaded.attempts, []);
    assert_eq!(loaded.approvals, []);
    assert_eq!(read(store, "paid").await, None);
    for new in &commit.effects.instances {
        assert!(store.load(new.id).await.expect("loads").is_none());
    }
}

#[test]
fn a_commit_writes_all_of_it() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let instance = instance(&store).await;
        let commit = full(&instance, &workflow);
        store.commit(commit.clone()).await.expect("commits");
        let loaded = load(&store, instance.id).await;
        assert_eq!(loaded.instance.status, InstanceStatus::Waiting);
        assert_eq!(loaded.instance.version, instance.version + 1);
        assert_eq!(loaded.instance.metadata, json!({ "label": "new" }));
        assert_eq!(loaded.instance.input, instance.input);
        assert_eq!(loaded.attempts, commit.change.attempts);
        assert_eq!(loaded.approvals.len(), 1);
        assert_eq!(
            read(&store, "paid")
                .await
                .map(|(value, _)| value)
                .as_deref(),
            Some("yes")
        );
        let created = load(&store, commit.effects.instances.first().expect("one").id).await;
        assert_eq!(created.instance.wake_at, Some(START));
    });
}

#[test]
fn a_stale_version_is_a_conflict_and_writes_nothing() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let mut stale = instance(&store).await;
        stale.version -= 1;
        let commit = full(&stale, &workflow);
        let error = store.commit(commit.clone()).await.expect_err("is refused");
        assert!(
            matches!(&error, CommitError::Conflict(what) if what.to_string().contains(&stale.id.to_string())),
            "{error}"
        );
        assert_nothing_of(&commit, &store).await;
    });
}

#[test]
fn an_entry_that_must_be_absent_and_is_not_is_a_conflict_and_writes_nothing() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let mut other = instance(&store).await;
        write(&store, &mut other, vec![put("seat", "taken")], START)
            .await
            .expect("commits");
        let instance = instance(&store).await;
        let mut commit = full(&instance, &workflow);
        commit
            .effects
            .storage
            .push(guarded(put("seat", "mine"), Guard::Absent));
        let error = store.commit(commit.clone()).await.expect_err("is refused");
        assert!(
            matches!(&error, CommitError::Conflict(what) if what.to_string().contains("seat")),
            "{error}"
        );
        assert_nothing_of(&commit, &store).await;
        assert_eq!(
            read(&store, "seat")
                .await
                .map(|(value, _)| value)
                .as_deref(),
            Some("taken")
        );
    });
}

#[test]
fn an_entry_with_another_version_is_a_conflict_and_writes_nothing() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let mut other = instance(&store).await;
        write(&store, &mut other, vec![put("seat", "taken")], START)
            .await
            .expect("commits");
        let (_, version) = read(&store, "seat").await.expect("is there");
        let instance = instance(&store).await;
        for guard in [
            Guard::Version(version - 1),
            Guard::Version(version + 1),
            Guard::Version(u64::MAX),
        ] {
            let mut commit = full(&instance, &workflow);
            commit
                .effects
                .storage
                .push(guarded(put("seat", "mine"), guard));
            let error = store.commit(commit.clone()).await.expect_err("is refused");
            assert!(matches!(error, CommitError::Conflict(_)), "{error}");
            assert_nothing_of(&commit, &store).await;
        }
        let mut commit = full(&instance, &workflow);
        commit
            .effects
            .storage
            .push(guarded(put("missing", "mine"), Guard::Version(version)));
        assert!(matches!(
            store.commit(commit.clone()).await,
            Err(CommitError::Conflict(_))
        ));
        assert_nothing_of(&commit, &store).await;
    });
}

#[test]
fn guards_that_hold_let_the_commit_through() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        write(
            &store,
            &mut instance,
            vec![guarded(put("seat", "a"), Guard::Absent)],
            START,
        )
        .await
        .expect("commits");
        let (_, version) = read(&store, "seat").await.expect("is there");
        let guard = Guard::Version(version);
        write(
            &store,
            &mut instance,
            vec![guarded(put("seat", "b"), guard)],
            START,
        )
        .await
        .expect("commits");
        let (value, newer) = read(&store, "seat").await.expect("is there");
        assert_eq!(value, "b");
        assert!(newer > version);
        let delete = StorageWrite {
            key: key("seat"),
            action: WriteAction::Delete,
            guard: Some(Guard::Version(newer)),
        };
        write(&store, &mut instance, vec![delete], START)
            .await
            .expect("commits");
        assert_eq!(read(&store, "seat").await, None);
    });
}

#[test]
fn an_approval_that_was_decided_meanwhile_is_a_conflict_and_writes_nothing() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let asked = approval(&instance, "bob", START);
        let mut ask = step(&instance);
        ask.change.new_approvals.push(asked.clone());
        store.commit(ask).await.expect("commits");
        instance.version += 1;
        let mut decide = step(&instance);
        decide
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Approved));
        store.commit(decide).await.expect("commits");
        instance.version += 1;
        let mut again = step(&instance);
        again
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Rejected));
        again.effects.storage = vec![put("paid", "yes")];
        assert!(matches!(
            store.commit(again).await,
            Err(CommitError::Conflict(_))
        ));
        let loaded = load(&store, instance.id).await;
        assert_eq!(loaded.instance.version, instance.version);
        assert_eq!(
            loaded.approvals.first().map(|approval| approval.status),
            Some(ApprovalStatus::Approved)
        );
        assert_eq!(read(&store, "paid").await, None);
    });
}

#[test]
fn an_approval_may_be_asked_for_and_cancelled_by_one_event() {
    on_both(|store, _| async move {
        let instance = instance(&store).await;
        let asked = approval(&instance, "bob", START);
        let mut commit = step(&instance);
        commit
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Cancelled));
        commit.change.new_approvals.push(asked);
        store.commit(commit).await.expect("commits");
        let statuses: Vec<_> = load(&store, instance.id)
            .await
            .approvals
            .iter()
            .map(|one| one.status)
            .collect();
        assert_eq!(statuses, [ApprovalStatus::Cancelled]);
    });
}

#[test]
fn an_idempotency_key_taken_meanwhile_is_a_conflict_and_writes_nothing() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let first = keyed(new_instance(&workflow), "invoice-1");
        store
            .create_instances(vec![first])
            .await
            .expect("is created");
        let instance = instance(&store).await;
        let mut commit = full(&instance, &workflow);
        let second = keyed(new_instance(&workflow), "invoice-1");
        commit.effects.instances.push(second);
        let error = store.commit(commit.clone()).await.expect_err("is refused");
        assert!(
            matches!(&error, CommitError::Conflict(what) if what.to_string().contains("invoice-1")),
            "{error}"
        );
        assert_nothing_of(&commit, &store).await;
    });
}

#[test]
fn an_increment_of_what_is_no_number_is_rejected_with_a_name_and_writes_nothing() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let mut other = instance(&store).await;
        let long = format!("{}1", "0".repeat(60));
        let values = ["twelve", "", "1.5", "99999999999999999999", long.as_str()];
        for (index, value) in values.into_iter().enumerate() {
            let counter = format!("counter-{index}");
            write(&store, &mut other, vec![put(&counter, value)], START)
                .await
                .expect("commits");
            let instance = instance(&store).await;
            let mut commit = full(&instance, &workflow);
            commit.effects.storage.push(increment(&counter, 1));
            let error = store.commit(commit.clone()).await.expect_err("is refused");
            assert!(
                matches!(
                    error,
                    CommitError::Rejected {
                        code: NOT_A_NUMBER,
                        ..
                    }
                ),
                "{error}"
            );
            assert_nothing_of(&commit, &store).await;
        }
        assert_eq!(store.commit_stats().rejected, 5);
    });
}

fn increment(text: &str, by: i64) -> StorageWrite {
    StorageWrite {
        key: key(text),
        action: WriteAction::Increment(by),
        guard: None,
    }
}

#[test]
fn increments_count_from_zero_and_saturate() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        for (by, expected) in [
            (5, "5"),
            (-7, "-2"),
            (i64::MAX, "9223372036854775805"),
            (9, "9223372036854775807"),
        ] {
            write(&store, &mut instance, vec![increment("counter", by)], START)
                .await
                .expect("commits");
            assert_eq!(
                read(&store, "counter")
                    .await
                    .map(|(value, _)| value)
                    .as_deref(),
                Some(expected)
            );
        }
    });
}

#[test]
fn concurrent_increments_of_one_counter_are_all_counted() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let new: Vec<_> = (0..60).map(|_| new_instance(&workflow)).collect();
        store
            .create_instances(new.clone())
            .await
            .expect("are created");
        let mut tasks = tokio::task::JoinSet::new();
        for new in new {
            let store = store.clone();
            tasks.spawn(async move {
                let mut commit = step(&new.into());
                commit.effects.storage = vec![increment("counter", 1)];
                store.commit(commit).await
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.expect("no panic").expect("commits");
        }
        assert_eq!(
            read(&store, "counter")
                .await
                .map(|(value, _)| value)
                .as_deref(),
            Some("60")
        );
    });
}

#[test]
fn a_conflict_takes_back_its_own_job_only() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let new: Vec<_> = (0..200).map(|_| new_instance(&workflow)).collect();
        store
            .create_instances(new.clone())
            .await
            .expect("are created");
        let mut tasks = tokio::task::JoinSet::new();
        for (index, new) in new.into_iter().enumerate() {
            let store = store.clone();
            tasks.spawn(async move {
                let mut commit = step(&new.into());
                commit.effects.storage = vec![put(&format!("key-{index}"), "written")];
                match index % 4 {
                    1 => commit.instance.version += 1,
                    2 => commit
                        .effects
                        .storage
                        .push(guarded(put("never", "x"), Guard::Version(1))),
                    3 => commit.effects.storage.push(put("nul\0", "x")),
                    _ => {}
                }
                (index, store.commit(commit).await)
            });
        }
        while let Some(result) = tasks.join_next().await {
            let (index, result) = result.expect("no panic");
            let written = read(&store, &format!("key-{index}")).await.is_some();
            match index % 4 {
                0 => assert!(result.is_ok() && written, "{index}: {result:?}"),
                3 => assert!(
                    matches!(
                        result,
                        Err(CommitError::Rejected {
                            code: INVALID_VALUE,
                            ..
                        })
                    ) && !written,
                    "{index}: {result:?}"
                ),
                _ => assert!(
                    matches!(result, Err(CommitError::Conflict(_))) && !written,
                    "{index}: {result:?}"
                ),
            }
        }
        let stats = store.commit_stats();
        assert_eq!(
            (stats.commits, stats.conflicts, stats.rejected, stats.failed),
            (51, 100, 50, 0)
        );
        assert!(stats.largest_group > 1 && stats.groups < 201, "{stats:?}");
    });
}

#[test]
fn a_row_that_the_database_refuses_fails_its_own_job_only() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        let mut dangling = new_instance(&workflow);
        dangling.workflow_version = 99;
        let id = dangling.id;
        let good = new_instance(&workflow);
        let (refused, created) = tokio::join!(
            store.create_instances(vec![dangling]),
            store.create_instances(vec![good.clone()])
        );
        assert!(
            matches!(refused, Err(stepwell::store::StoreError::Constraint(_))),
            "{refused:?}"
        );
        assert_eq!(
            created
                .expect("is created")
                .first()
                .map(|created| created.id),
            Some(good.id)
        );
        assert!(store.load(id).await.expect("loads").is_none());
    });
}

#[test]
fn a_text_too_long_for_an_index_fails_its_own_job_only() {
    on_both(|store, _| async move {
        let workflow = workflow(&store, &acme()).await;
        // Postgres indexes at most 2,704 bytes after compression; SQLite does not mind.
        let key: String = (0..1_000)
            .map(|_| uuid::Uuid::now_v7().simple().to_string())
            .collect();
        let (long, good) = (
            keyed(new_instance(&workflow), &key),
            new_instance(&workflow),
        );
        let (answer, created) = tokio::join!(
            store.create_instances(vec![long]),
            store.create_instances(vec![good.clone()])
        );
        assert!(
            matches!(answer, Ok(_) | Err(stepwell::store::StoreError::Value(_))),
            "{answer:?}"
        );
        assert_eq!(
            created
                .expect("is created")
                .first()
                .map(|created| created.id),
            Some(good.id)
        );
    });
}

#[test]
fn metadata_of_another_teams_instance_is_left_alone() {
    on_both(|store, _| async move {
        let mine = instance(&store).await;
        let theirs = workflow(&store, &name("rival")).await;
        let theirs = new_instance(&theirs);
        store
            .create_instances(vec![theirs.clone()])
            .await
            .expect("is created");
        let mut commit = step(&mine);
        commit.effects.metadata = vec![(theirs.id, json!({ "stolen": true }).into())];
        store.commit(commit).await.expect("commits");
        assert_eq!(load(&store, theirs.id).await.instance.metadata, json!({}));
    });
}

#[test]
fn metadata_does_not_make_a_running_instance_conflict() {
    on_both(|store, _| async move {
        let (labelled, labels) = (instance(&store).await, instance(&store).await);
        let mut commit = step(&labels);
        commit.effects.metadata = vec![
            (labelled.id, json!({ "a": 1 }).into()),
            (labelled.id, json!({ "b": 2 }).into()),
        ];
        store.commit(commit).await.expect("commits");
        store
            .commit(step(&labelled))
            .await
            .expect("commits with the version it was loaded with");
        assert_eq!(
            load(&store, labelled.id).await.instance.metadata,
            json!({ "b": 2 })
        );
    });
}

#[test]
fn a_commit_whose_caller_is_gone_is_written() {
    on_both(|store, _| async move {
        let instance = instance(&store).await;
        let mut commit = step(&instance);
        commit.effects.storage = vec![put("paid", "yes")];
        // One poll puts the job into the queue, and then the caller is gone.
        let mut call = Box::pin(store.commit(commit));
        let _ = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        drop(call);
        // The queue is first in, first out.
        let version = workflow(&store, &acme()).await;
        store
            .create_instances(vec![new_instance(&version)])
            .await
            .expect("is created");
        assert_eq!(
            load(&store, instance.id).await.instance.version,
            instance.version + 1
        );
    });
}
