//! After a write was acknowledged, nobody reads what was there before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;
use stepwell::model::{ApprovalStatus, InstanceStatus};
use stepwell::store::{Page, Store};

use crate::databases::{START, on_both};
use crate::fixtures::{acme, approval, decided, definition, instance, name, plugin, put, read, step, workflow, write};

fn hits(store: &Store, kind: &str) -> u64 {
    store.cache_stats().iter().filter(|stats| stats.kind == kind).map(|stats| stats.hits).sum()
}

#[test]
fn reads_are_cached_and_counted() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let version = workflow(&store, &acme()).await;
        write(&store, &mut instance, vec![put("a", "1")], START).await.expect("commits");
        for _ in 0..2 {
            read(&store, "a").await.expect("is there");
            assert_eq!(read(&store, "absent").await, None);
            store.instance(&acme(), instance.id).await.expect("reads").expect("is there");
            store.workflow(&acme(), &version.name).await.expect("reads").expect("is there");
            store.workflow_version(&acme(), &version.name, 1).await.expect("reads").expect("is there");
            store
                .approvals(&acme(), Some("bob"), Some(ApprovalStatus::Pending), &Page::first(10))
                .await
                .expect("lists");
        }
        for (kind, expected) in [("storage", 2), ("instances", 1), ("workflows", 1), ("pending_approvals", 1)] {
            assert_eq!(hits(&store, kind), expected, "{kind}");
        }
        store.clear_caches(Some(&name("rival")));
        read(&store, "a").await.expect("is there");
        assert_eq!(hits(&store, "storage"), 3, "another team's entries are left alone");
        store.clear_caches(Some(&acme()));
        read(&store, "a").await.expect("is there");
        assert_eq!(hits(&store, "storage"), 3);
    });
}

#[test]
fn every_acknowledged_write_is_seen_by_the_next_read() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let asked = approval(&instance, "bob", START);
        let first = Page::first(9);
        let pending = || store.approvals(&asked.team, Some("bob"), Some(ApprovalStatus::Pending), &first);
        assert_eq!(read(&store, "a").await, None);
        assert_eq!(pending().await.expect("lists"), []);
        let before = store.instance(&acme(), instance.id).await.expect("reads").expect("is there");
        let mut commit = step(&instance);
        commit.instance.status = InstanceStatus::Waiting;
        commit.change.new_approvals.push(asked.clone());
        commit.effects.storage = vec![put("a", "1")];
        commit.effects.metadata = vec![(instance.id, json!({ "x": 1 }))];
        store.commit(commit).await.expect("commits");
        instance.version += 1;
        assert_eq!(read(&store, "a").await.map(|(value, _)| value).as_deref(), Some("1"));
        assert_eq!(pending().await.expect("lists").len(), 1);
        let after = store.instance(&acme(), instance.id).await.expect("reads").expect("is there");
        assert_eq!((after.version, after.status), (before.version + 1, InstanceStatus::Waiting));
        assert_eq!(after.metadata, json!({ "x": 1 }));
        let mut decide = step(&instance);
        decide.change.decided.push(decided(&asked, ApprovalStatus::Approved));
        store.commit(decide).await.expect("commits");
        assert_eq!(pending().await.expect("lists"), []);
    });
}

#[test]
fn a_new_version_replaces_the_cached_one_of_workflows_and_plugins() {
    on_both(|store, _| async move {
        let first = workflow(&store, &acme()).await;
        store.workflow(&acme(), &first.name).await.expect("reads");
        store.apply_workflow(&acme(), definition("expense", "other"), "ann").await.expect("applies");
        let newest = store.workflow(&acme(), &first.name).await.expect("reads").expect("is there");
        assert_eq!(newest.version, 2);
        let reference = "expense".parse().expect("is a reference");
        assert!(store.resolve_plugin(&acme(), &reference).await.expect("reads").is_none());
        for version in ["1.0.0", "1.1.0"] {
            let upload = plugin(&acme(), "expense", version, version);
            store.insert_plugin_version(upload, vec![1, 2, 3]).await.expect("is stored");
            let resolved = store.resolve_plugin(&acme(), &reference).await.expect("reads").expect("is there");
            assert_eq!(resolved.manifest.version, version);
        }
        store.delete_plugin_version(&acme(), &name("expense"), "1.1.0").await.expect("is deleted");
        let resolved = store.resolve_plugin(&acme(), &reference).await.expect("reads").expect("is there");
        assert_eq!(resolved.manifest.version, "1.0.0");
    });
}

#[test]
fn readers_that_race_a_writer_never_see_less_than_was_acknowledged() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        write(&store, &mut instance, vec![put("counter", "0")], START).await.expect("commits");
        let acknowledged = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (store, acknowledged, over) = (store.clone(), Arc::clone(&acknowledged), Arc::clone(&over));
            readers.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    let (value, _) = read(&store, "counter").await.expect("is there");
                    let value: u64 = value.parse().expect("is a number");
                    assert!(value >= least, "read {value} after {least} was acknowledged");
                    tokio::task::yield_now().await;
                }
            });
        }
        for value in 1..=100_u64 {
            write(&store, &mut instance, vec![put("counter", &value.to_string())], START).await.expect("commits");
            acknowledged.store(value, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
        while let Some(result) = readers.join_next().await {
            result.expect("no reader was served old data");
        }
    });
}
