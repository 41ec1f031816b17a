//! Deletion of finished instances.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use stepwell::clock::Timestamp;
use stepwell::model::{
    ApprovalStatus, AttemptLog, EntryKey, InstanceStatus, Json, Name, Space, StorageWrite,
    WriteAction,
};
use stepwell::store::{
    Finished, FinishedBatch, FinishedCounts, FinishedPlace, InstanceFilter, LogPage, Page, Store,
    WorkflowVersion,
};
use uuid::Uuid;

use crate::databases::{START, on_both, on_both_databases};
use crate::fixtures::{
    acme, approval, attempt, decided, keyed, load, name, new_instance, put, read, step, workflow,
    write,
};

fn days(days: u64) -> Timestamp {
    START.after(Duration::from_secs(days * 86_400))
}

fn entry(id: Uuid) -> EntryKey {
    EntryKey {
        space: Space::Instance(id),
        key: "seen".to_owned(),
    }
}

/// Creates an instance with an attempt, an approval and a storage entry. It ended at this time;
/// without a time it still runs.
async fn instance(store: &Store, version: &WorkflowVersion, ended: Option<Timestamp>) -> Uuid {
    let new = new_instance(version);
    let id = new.id;
    store.create_instances(vec![new]).await.expect("is created");
    let mut instance = load(store, id).await.instance;
    let mut commit = step(&instance);
    commit.change.attempts.push(attempt(&instance, 1));
    let asked = approval(&instance, "bob", START);
    commit.change.new_approvals.push(asked.clone());
    let action = WriteAction::Put {
        value: b"yes".to_vec(),
        ttl_ms: None,
    };
    commit.effects.storage = vec![StorageWrite {
        key: entry(id),
        action,
        guard: None,
    }];
    commit.effects.logs = vec![log(1, START)];
    store.commit(commit).await.expect("commits");
    instance.version += 1;
    if let Some(ended) = ended {
        let mut commit = step(&instance);
        commit.instance.status = InstanceStatus::Completed;
        commit.instance.wake_at = None;
        commit.instance.completed_at = Some(ended);
        commit
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Cancelled));
        store.commit(commit).await.expect("commits");
    }
    id
}

async fn entry_of(store: &Store, team: &Name, id: Uuid) -> bool {
    store
        .entries(team, &[entry(id)])
        .await
        .expect("reads")
        .into_iter()
        .flatten()
        .next()
        .is_some()
}

fn counts(instances: u64) -> FinishedCounts {
    FinishedCounts {
        instances,
        attempts: instances,
        approvals: instances,
        entries: instances,
    }
}

/// Runs batch after batch until none is left. Returns the totals and the number of batches.
async fn all<F>(mut batch: impl FnMut(Option<FinishedPlace>) -> F) -> (FinishedCounts, u32)
where
    F: Future<Output = FinishedBatch>,
{
    let (mut total, mut batches, mut place) = (FinishedCounts::default(), 0, None);
    loop {
        let done = batch(place).await;
        total += done.counts;
        batches += 1;
        // As it comes back from a client.
        place = done
            .next
            .map(|next| next.to_string().parse().expect("survives its text"));
        if place.is_none() {
            return (total, batches);
        }
    }
}

async fn count(store: &Store, finished: &Finished, limit: u32) -> FinishedCounts {
    all(async |place| {
        store
            .count_finished(finished, place, limit)
            .await
            .expect("counts")
    })
    .await
    .0
}

async fn delete(store: &Store, finished: &Finished, limit: u32) -> FinishedCounts {
    all(async |place| {
        store
            .delete_finished(finished, place, limit)
            .await
            .expect("deletes")
    })
    .await
    .0
}

#[test]
fn old_finished_instances_are_deleted_with_all_their_rows_and_nothing_else_is() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let rival = name("rival");
        let (ours, theirs) = (
            workflow(&store, &acme()).await,
            workflow(&store, &rival).await,
        );
        let mut old = Vec::new();
        for day in [1, 1, 2, 3, 4] {
            old.push(instance(&store, &ours, Some(days(day))).await);
        }
        let young = instance(&store, &ours, Some(days(10))).await;
        let running = instance(&store, &ours, None).await;
        let foreign = instance(&store, &theirs, Some(days(1))).await;
        let mut shared = load(&store, running).await.instance;
        write(&store, &mut shared, vec![put("ledger", "kept")], START)
            .await
            .expect("commits");
        let [first, ..] = old.as_slice() else {
            unreachable!("five were made")
        };
        // In the caches.
        assert!(
            store
                .instance(&acme(), *first)
                .await
                .expect("reads")
                .is_some()
        );
        assert!(entry_of(&store, &acme(), *first).await);

        let finished = Finished {
            team: Some(acme()),
            before: days(10),
        };
        assert_eq!(
            count(&store, &finished, 2).await,
            counts(5),
            "a dry run counts"
        );
        assert!(
            store.load(*first).await.expect("loads").is_some(),
            "and writes nothing"
        );
        assert_eq!(delete(&store, &finished, 2).await, counts(5));
        assert_eq!(
            delete(&store, &finished, 2).await,
            counts(0),
            "the second time there is nothing left"
        );

        for id in old {
            assert!(store.load(id).await.expect("loads").is_none());
            assert!(
                store.instance(&acme(), id).await.expect("reads").is_none(),
                "the cache has forgotten it"
            );
            assert!(!entry_of(&store, &acme(), id).await, "its bucket is empty");
            assert!(
                store
                    .attempts(&acme(), id, 1 << 20)
                    .await
                    .expect("reads")
                    .attempts
                    .is_empty()
            );
        }
        for id in [young, running] {
            let loaded = load(&store, id).await;
            assert_eq!((loaded.attempts.len(), loaded.approvals.len()), (1, 1));
            assert!(entry_of(&store, &acme(), id).await);
        }
        assert!(
            entry_of(&store, &rival, foreign).await,
            "another team's is untouched"
        );
        assert!(
            read(&store, "ledger").await.is_some(),
            "so is a bucket that is not an instance's"
        );
        let rows = database
            .sql(
                "SELECT CAST((SELECT COUNT(*) FROM step_attempts) AS TEXT) UNION ALL \
                 SELECT CAST((SELECT COUNT(*) FROM workflow_approvals) AS TEXT) UNION ALL \
                 SELECT CAST((SELECT COUNT(*) FROM plugin_storage) AS TEXT) UNION ALL \
                 SELECT CAST((SELECT COUNT(*) FROM attempt_logs) AS TEXT)",
            )
            .await;
        assert_eq!(rows, ["3", "3", "4", "3"]);
        store.close().await;
    });
}

fn log(number: u32, finished_at: Timestamp) -> AttemptLog {
    let line = "{\"at\":\"2026-04-01T12:30:00Z\",\"level\":\"warn\",\"line\":\"text\"}";
    AttemptLog {
        step: "check".parse().expect("is an address"),
        number,
        finished_at,
        dropped: 2,
        lines: Json::stored(format!("[{line}]")),
    }
}

#[test]
fn logs_are_read_in_pages_by_their_team_and_deleted_by_age() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let new = new_instance(&version);
        let id = new.id;
        store.create_instances(vec![new]).await.expect("is created");
        let instance = load(&store, id).await.instance;
        let mut commit = step(&instance);
        commit.effects.logs = (1..=5)
            .map(|number| log(number, days(u64::from(number))))
            .collect();
        store.commit(commit).await.expect("commits");
        let page = |after, limit| Page { after, limit };
        let numbers = |page: &LogPage| page.logs.iter().map(|log| log.number).collect::<Vec<_>>();
        let first = store
            .logs(&acme(), id, None, &page(None, 2))
            .await
            .expect("reads");
        assert_eq!((numbers(&first), first.more), (vec![1, 2], true));
        assert_eq!(
            (first.logs[0].dropped, first.logs[0].lines[0].line.as_str()),
            (2, "text")
        );
        let after = first
            .logs
            .last()
            .map(|log| log.cursor().to_string().parse().expect("is a cursor"));
        let rest = store
            .logs(&acme(), id, None, &page(after, 9))
            .await
            .expect("reads");
        assert_eq!((numbers(&rest), rest.more), (vec![3, 4, 5], false));
        let other = Some("other".parse().expect("is an address"));
        let none = store
            .logs(&acme(), id, other, &page(None, 9))
            .await
            .expect("reads");
        assert!(none.logs.is_empty());
        let foreign = store
            .logs(&name("rival"), id, None, &page(None, 9))
            .await
            .expect("reads");
        assert!(foreign.logs.is_empty());
        assert_eq!(store.delete_old_logs(days(4)).await.expect("deletes"), 3);
        assert_eq!(store.delete_old_logs(days(4)).await.expect("deletes"), 0);
        let left = store
            .logs(&acme(), id, None, &page(None, 9))
            .await
            .expect("reads");
        assert_eq!(numbers(&left), [4, 5]);
    });
}

#[test]
fn without_a_team_it_goes_from_team_to_team() {
    on_both(|store, _| async move {
        let mut instances = 0;
        for team in ["bravo", "acme", "delta", "coral"] {
            let version = workflow(&store, &name(team)).await;
            for day in 1..=3 {
                // The instance of team coral ended too late.
                let ended = if team == "coral" {
                    days(day + 90)
                } else {
                    days(day)
                };
                instance(&store, &version, Some(ended)).await;
                instances += 1;
            }
            instance(&store, &version, None).await;
        }
        let finished = Finished {
            team: None,
            before: days(90),
        };
        let counted = all(async |place| {
            store
                .count_finished(&finished, place, 3)
                .await
                .expect("counts")
        })
        .await;
        assert_eq!(counted.0, counts(instances - 3));
        assert_eq!(delete(&store, &finished, 2).await, counts(instances - 3));
        for (team, left) in [("acme", 1), ("bravo", 1), ("coral", 4), ("delta", 1)] {
            let listed = store
                .instances(&name(team), &InstanceFilter::default(), &Page::first(9))
                .await;
            assert_eq!(listed.expect("lists").len(), left, "{team}");
        }
    });
}

#[test]
fn a_retention_cursor_of_another_team_does_not_lead_to_its_instances() {
    on_both(|store, _| async move {
        let rival = name("rival");
        let theirs = instance(&store, &*workflow(&store, &rival).await, Some(days(1))).await;
        let finished = Finished {
            team: Some(acme()),
            before: days(9),
        };
        let place = FinishedPlace {
            team: rival,
            after: None,
        };
        let done = store
            .delete_finished(&finished, Some(place), 9)
            .await
            .expect("deletes");
        assert_eq!(
            done,
            FinishedBatch {
                counts: counts(0),
                next: None
            }
        );
        assert!(store.load(theirs).await.expect("loads").is_some());
    });
}

#[test]
fn the_idempotency_key_of_a_deleted_instance_is_free_again() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let keyed = || keyed(new_instance(&version), "once");
        let first = keyed();
        store
            .create_instances(vec![first.clone()])
            .await
            .expect("is created");
        let mut end = step(&load(&store, first.id).await.instance);
        end.instance.status = InstanceStatus::Failed;
        end.instance.completed_at = Some(days(1));
        end.instance.wake_at = None;
        store.commit(end).await.expect("commits");
        let again = store
            .create_instances(vec![keyed()])
            .await
            .expect("answers");
        assert_eq!(
            again.first().map(|created| (created.id, created.existing)),
            Some((first.id, true))
        );
        delete(
            &store,
            &Finished {
                team: None,
                before: days(2),
            },
            9,
        )
        .await;
        let second = keyed();
        let created = store
            .create_instances(vec![second.clone()])
            .await
            .expect("is created");
        assert_eq!(
            created
                .first()
                .map(|created| (created.id, created.existing)),
            Some((second.id, false))
        );
    });
}

#[test]
fn steps_are_committed_between_the_batches() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        for _ in 0..60 {
            instance(&store, &version, Some(days(1))).await;
        }
        let mut running = load(&store, instance(&store, &version, None).await)
            .await
            .instance;
        let (over, commits) = (AtomicBool::new(false), AtomicU64::new(0));
        let deleting = async {
            let finished = Finished {
                team: None,
                before: days(2),
            };
            let deleted = all(async |place| {
                store
                    .delete_finished(&finished, place, 1)
                    .await
                    .expect("deletes")
            })
            .await;
            over.store(true, Ordering::SeqCst);
            deleted
        };
        let committing = async {
            while !over.load(Ordering::SeqCst) {
                write(&store, &mut running, vec![put("a", "1")], START)
                    .await
                    .expect("commits");
                commits.fetch_add(1, Ordering::SeqCst);
            }
        };
        let (deleted, ()) = tokio::join!(deleting, committing);
        assert_eq!(deleted.0, counts(60));
        // The commit under way at the end may have been the only one; a second one ran between two
        // batches.
        assert!(
            commits.into_inner() > 1,
            "{} batches let nobody through",
            deleted.1
        );
    });
}
