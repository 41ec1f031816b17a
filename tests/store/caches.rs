//! After a write is acknowledged, no reader gets the earlier value.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use stepwell::model::{ApprovalStatus, InstanceStatus};
use stepwell::store::{CacheKind, CacheStats, InstanceFilter, Page, Store, WorkflowFilter};
use tokio::task::JoinSet;

use crate::databases::{START, on_both};
use crate::fixtures::{
    acme, approval, decided, definition, instance, key, name, new_instance, plugin, put, read,
    step, workflow, write,
};

fn stats(store: &Store, kind: CacheKind) -> CacheStats {
    store
        .cache_stats()
        .into_iter()
        .find(|stats| stats.kind == kind.as_str())
        .expect("is cached")
}

fn hits(store: &Store, kind: CacheKind) -> u64 {
    stats(store, kind).hits
}

#[test]
fn reads_are_cached_and_counted() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let version = workflow(&store, &acme()).await;
        write(&store, &mut instance, vec![put("a", "1")], START)
            .await
            .expect("commits");
        for _ in 0..2 {
            read(&store, "a").await.expect("is there");
            assert_eq!(read(&store, "absent").await, None);
            store
                .instance(&acme(), instance.id)
                .await
                .expect("reads")
                .expect("is there");
            store
                .workflow(&acme(), &version.name)
                .await
                .expect("reads")
                .expect("is there");
            store
                .workflow_version(&acme(), &version.name, 1)
                .await
                .expect("reads")
                .expect("is there");
            store
                .approvals(
                    &acme(),
                    Some("bob"),
                    Some(ApprovalStatus::Pending),
                    &Page::first(10),
                )
                .await
                .expect("lists");
        }
        for (kind, expected) in [
            (CacheKind::Storage, 2),
            (CacheKind::Instances, 1),
            (CacheKind::Workflows, 1),
            (CacheKind::PendingApprovals, 1),
        ] {
            assert_eq!(hits(&store, kind), expected, "{kind}");
        }
        assert_eq!(store.clear_caches(None, Some(&name("rival"))).total(), 0);
        read(&store, "a").await.expect("is there");
        assert_eq!(
            hits(&store, CacheKind::Storage),
            3,
            "another team's entries are left alone"
        );
        let removed = store.clear_caches(Some(CacheKind::Storage), Some(&acme()));
        assert_eq!(
            removed.kinds().collect::<Vec<_>>(),
            [(CacheKind::Storage, 2)]
        );
        read(&store, "a").await.expect("is there");
        assert_eq!(hits(&store, CacheKind::Storage), 3);
        assert!(store.clear_caches(None, Some(&acme())).total() >= 4);
        assert_eq!(
            store.clear_caches(None, None).total(),
            0,
            "only acme read anything"
        );
    });
}

#[test]
fn expired_cache_entries_are_read_again_and_can_be_cleaned_up() {
    on_both(|store, clock| async move {
        let version = workflow(&store, &acme()).await;
        let get = async || store.workflow(&acme(), &version.name).await;
        get().await.expect("reads");
        clock.advance(Duration::from_secs(3_600));
        get().await.expect("reads");
        let seen = stats(&store, CacheKind::Workflows);
        assert_eq!(
            (seen.hits, seen.loads, seen.expired, seen.entries),
            (0, 2, 1, 1)
        );
        assert_eq!(store.clean_up_caches().total(), 0);
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(
            store.clean_up_caches().kinds().collect::<Vec<_>>(),
            [(CacheKind::Workflows, 1)]
        );
    });
}

#[test]
fn lists_are_cached_until_their_team_writes() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let all = InstanceFilter::default();
        let first = Page::first(9);
        let asked = approval(&instance, "bob", START);
        let count = async |store: &Store| {
            let instances = store
                .instances(&acme(), &all, &Page::first(9))
                .await
                .expect("lists")
                .len();
            let approvals = store
                .approvals(&acme(), None, None, &Page::first(9))
                .await
                .expect("lists")
                .len();
            let workflows = store
                .workflows(&acme(), &WorkflowFilter::default(), &Page::first(9))
                .await
                .expect("lists")
                .len();
            (instances, approvals, workflows)
        };
        assert_eq!(count(&store).await, (1, 0, 1));
        assert_eq!(count(&store).await, (1, 0, 1));
        let lists = [
            CacheKind::InstanceLists,
            CacheKind::ApprovalLists,
            CacheKind::WorkflowLists,
        ];
        assert_eq!(lists.map(|kind| hits(&store, kind)), [1, 1, 1]);
        let running = InstanceFilter {
            status: Some(InstanceStatus::Running),
            ..all.clone()
        };
        assert_eq!(
            store
                .instances(&acme(), &running, &first)
                .await
                .expect("lists")
                .len(),
            1
        );
        assert_eq!(
            store
                .instances(&acme(), &all, &Page::first(1))
                .await
                .expect("lists")
                .len(),
            1
        );
        assert!(
            store
                .instances(&name("rival"), &all, &first)
                .await
                .expect("lists")
                .is_empty()
        );
        assert_eq!(
            hits(&store, CacheKind::InstanceLists),
            1,
            "each question has an answer of its own"
        );

        let mut commit = step(&instance);
        commit.instance.status = InstanceStatus::Waiting;
        commit.change.new_approvals.push(asked.clone());
        store.commit(commit).await.expect("commits");
        instance.version += 1;
        assert_eq!(count(&store).await, (1, 1, 1));
        assert!(
            store
                .instances(&acme(), &running, &first)
                .await
                .expect("lists")
                .is_empty()
        );
        let version = workflow(&store, &acme()).await;
        store
            .create_instances(vec![new_instance(&version)])
            .await
            .expect("creates");
        store
            .apply_workflow(&acme(), definition("other", "expense"), "ann")
            .await
            .expect("applies");
        assert_eq!(count(&store).await, (2, 1, 2));
        let mut decide = step(&instance);
        decide
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Approved));
        store.commit(decide).await.expect("commits");
        let status = Some(ApprovalStatus::Approved);
        assert_eq!(
            store
                .approvals(&acme(), None, status, &Page::first(9))
                .await
                .expect("lists")
                .len(),
            1
        );
    });
}

#[test]
fn absence_is_remembered_until_creation() {
    on_both(|store, _| async move {
        let reference = "expense@1.0.0".parse().expect("is a reference");
        let upload = plugin(&acme(), "expense", "1.0.0", "digest");
        for _ in 0..2 {
            assert!(
                store
                    .workflow(&acme(), &name("expense"))
                    .await
                    .expect("reads")
                    .is_none()
            );
            assert!(
                store
                    .workflow_version(&acme(), &name("expense"), 1)
                    .await
                    .expect("reads")
                    .is_none()
            );
            assert!(
                store
                    .resolve_plugin(&acme(), &reference)
                    .await
                    .expect("reads")
                    .is_none()
            );
            assert!(
                store
                    .plugin_version(upload.id)
                    .await
                    .expect("reads")
                    .is_none()
            );
            assert_eq!(store.entry(&acme(), &key("a")).await.expect("reads"), None);
        }
        for kind in [
            CacheKind::Workflows,
            CacheKind::WorkflowVersions,
            CacheKind::PluginReferences,
            CacheKind::PluginVersions,
            CacheKind::Storage,
        ] {
            assert_eq!(
                (hits(&store, kind), stats(&store, kind).loads),
                (1, 1),
                "{kind}"
            );
        }
        let version = workflow(&store, &acme()).await;
        let new = new_instance(&version);
        assert!(
            store
                .workflow(&acme(), &name("expense"))
                .await
                .expect("reads")
                .is_some()
        );
        assert!(
            store
                .workflow_version(&acme(), &name("expense"), 1)
                .await
                .expect("reads")
                .is_some()
        );
        store
            .insert_plugin_version(upload.clone(), vec![1])
            .await
            .expect("is stored");
        assert!(
            store
                .resolve_plugin(&acme(), &reference)
                .await
                .expect("reads")
                .is_some()
        );
        assert!(
            store
                .plugin_version(upload.id)
                .await
                .expect("reads")
                .is_some()
        );
        // Instances are not announced one by one, so their absence is not remembered.
        assert!(
            store
                .instance(&acme(), new.id)
                .await
                .expect("reads")
                .is_none()
        );
        let id = new.id;
        store.create_instances(vec![new]).await.expect("creates");
        assert!(store.instance(&acme(), id).await.expect("reads").is_some());
    });
}

#[test]
fn a_hundred_concurrent_readers_share_one_load() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let version = workflow(&store, &acme()).await;
        let entries: Vec<_> = (0..50)
            .map(|number| put(&number.to_string(), "x"))
            .collect();
        let keys: Vec<_> = entries.iter().map(|write| write.key.clone()).collect();
        write(&store, &mut instance, entries, START)
            .await
            .expect("commits");
        let mut tasks = JoinSet::new();
        for number in 0..100 {
            let (store, version, keys) = (store.clone(), Arc::clone(&version), keys.clone());
            tasks.spawn(async move {
                let found = store
                    .workflow(&acme(), &version.name)
                    .await
                    .expect("reads")
                    .expect("is there");
                assert_eq!(found.version, 1);
                // Each call asks for other keys; other calls ask for each of them too.
                let wanted: Vec<_> = keys.iter().skip(number / 4).take(25).cloned().collect();
                let found = store.entries(&acme(), &wanted).await.expect("reads");
                assert!(found.len() == 25 && found.iter().all(Option::is_some));
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.expect("reads");
        }
        let seen = stats(&store, CacheKind::Workflows);
        assert_eq!(
            (seen.loads, seen.hits + seen.misses, seen.misses),
            (1, 100, seen.coalesced + 1)
        );
        let seen = stats(&store, CacheKind::Storage);
        assert_eq!((seen.loads, seen.hits + seen.misses), (49, 2_500));
    });
}

#[test]
fn every_acknowledged_write_is_seen_by_the_next_read() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let asked = approval(&instance, "bob", START);
        let first = Page::first(9);
        let pending = || {
            store.approvals(
                &asked.team,
                Some("bob"),
                Some(ApprovalStatus::Pending),
                &first,
            )
        };
        assert_eq!(read(&store, "a").await, None);
        assert_eq!(pending().await.expect("lists"), []);
        let before = store
            .instance(&acme(), instance.id)
            .await
            .expect("reads")
            .expect("is there");
        let mut commit = step(&instance);
        commit.instance.status = InstanceStatus::Waiting;
        commit.change.new_approvals.push(asked.clone());
        commit.effects.storage = vec![put("a", "1")];
        commit.effects.metadata = vec![(instance.id, json!({ "x": 1 }).into())];
        store.commit(commit).await.expect("commits");
        instance.version += 1;
        assert_eq!(
            read(&store, "a").await.map(|(value, _)| value).as_deref(),
            Some("1")
        );
        assert_eq!(pending().await.expect("lists").len(), 1);
        let after = store
            .instance(&acme(), instance.id)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(
            (after.version, after.status),
            (before.version + 1, InstanceStatus::Waiting)
        );
        assert_eq!(after.metadata, json!({ "x": 1 }));
        let mut decide = step(&instance);
        decide
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Approved));
        store.commit(decide).await.expect("commits");
        assert_eq!(pending().await.expect("lists"), []);
    });
}

#[test]
fn a_new_version_replaces_the_cached_one_of_workflows_and_plugins() {
    on_both(|store, _| async move {
        let first = workflow(&store, &acme()).await;
        store.workflow(&acme(), &first.name).await.expect("reads");
        store
            .apply_workflow(&acme(), definition("expense", "other"), "ann")
            .await
            .expect("applies");
        let newest = store
            .workflow(&acme(), &first.name)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(newest.version, 2);
        let reference = "expense".parse().expect("is a reference");
        assert!(
            store
                .resolve_plugin(&acme(), &reference)
                .await
                .expect("reads")
                .is_none()
        );
        for version in ["1.0.0", "1.1.0"] {
            let upload = plugin(&acme(), "expense", version, version);
            store
                .insert_plugin_version(upload, vec![1, 2, 3])
                .await
                .expect("is stored");
            let resolved = store
                .resolve_plugin(&acme(), &reference)
                .await
                .expect("reads")
                .expect("is there");
            assert_eq!(resolved.manifest.version, version);
        }
        store
            .delete_plugin_version(&acme(), &name("expense"), "1.1.0")
            .await
            .expect("is deleted");
        let resolved = store
            .resolve_plugin(&acme(), &reference)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(resolved.manifest.version, "1.0.0");
    });
}

#[test]
fn readers_that_race_a_writer_never_see_less_than_was_acknowledged() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        write(&store, &mut instance, vec![put("counter", "0")], START)
            .await
            .expect("commits");
        let id = instance.id;
        // Each write is a step of the instance, so the instance's version counts the writes.
        let first = instance.version;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (store, acknowledged, over) =
                (store.clone(), Arc::clone(&acknowledged), Arc::clone(&over));
            readers.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let (value, _) = read(&store, "counter").await.expect("is there");
                    let value: u64 = value.parse().expect("is a number");
                    assert!(
                        value >= least,
                        "read {value} after {least} was acknowledged"
                    );
                    let one = store
                        .instance(&acme(), id)
                        .await
                        .expect("reads")
                        .expect("is there");
                    assert!(
                        one.version >= first + least,
                        "{} was read after {least} was acknowledged",
                        one.version
                    );
                    let all = store
                        .instances(&acme(), &InstanceFilter::default(), &Page::first(1))
                        .await;
                    let listed = all.expect("lists").first().expect("is there").version;
                    assert!(
                        listed >= first + least,
                        "{listed} was listed after {least} was acknowledged"
                    );
                    tokio::task::yield_now().await;
                }
            });
        }
        for value in 1..=100_u64 {
            write(
                &store,
                &mut instance,
                vec![put("counter", &value.to_string())],
                START,
            )
            .await
            .expect("commits");
            acknowledged.store(value, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
        while let Some(result) = readers.join_next().await {
            result.expect("no reader was served old data");
        }
    });
}
