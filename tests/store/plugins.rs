//! Plugin versions do not change, and are not deleted while they are needed.

use stepwell::model::InstanceStatus;
use stepwell::store::{Page, PluginInsert, StoreError};

use crate::databases::{START, on_both};
use crate::fixtures::{acme, definition, load, name, new_instance, plugin, step, workflow};

#[test]
fn a_version_is_stored_once_and_never_replaced() {
    on_both(|store, _| async move {
        let upload = plugin(&acme(), "expense", "1.0.0", "aa");
        let inserted = store
            .insert_plugin_version(upload.clone(), vec![1, 2, 3])
            .await
            .expect("is stored");
        assert!(matches!(&inserted, PluginInsert::Inserted(version) if **version == upload));
        let again = plugin(&acme(), "expense", "1.0.0", "aa");
        let existing = store
            .insert_plugin_version(again, vec![1, 2, 3])
            .await
            .expect("answers");
        assert!(matches!(&existing, PluginInsert::Existing(version) if **version == upload));
        let other = plugin(&acme(), "expense", "1.0.0", "bb");
        let conflict = store
            .insert_plugin_version(other.clone(), vec![4])
            .await
            .expect("answers");
        assert!(matches!(&conflict, PluginInsert::Conflict(version) if **version == upload));
        assert_eq!(
            store.component_bytes(upload.id).await.expect("reads"),
            Some(vec![1, 2, 3])
        );
        assert_eq!(store.component_bytes(other.id).await.expect("reads"), None);
        // Another team may use the same name and version.
        let theirs = plugin(&name("rival"), "expense", "1.0.0", "bb");
        let inserted = store
            .insert_plugin_version(theirs, vec![4])
            .await
            .expect("is stored");
        assert!(matches!(inserted, PluginInsert::Inserted(_)));
    });
}

#[test]
fn a_plugin_reference_resolves_to_its_version_or_the_newest_upload() {
    on_both(|store, _| async move {
        for version in ["2.0.0", "1.5.0"] {
            store
                .insert_plugin_version(plugin(&acme(), "expense", version, version), vec![])
                .await
                .expect("is stored");
        }
        for (reference, expected) in [
            ("expense", Some("1.5.0")),
            ("expense@2.0.0", Some("2.0.0")),
            ("expense@3.0.0", None),
            ("other", None),
        ] {
            let reference = reference.parse().expect("is a reference");
            for _ in 0..2 {
                let resolved = store
                    .resolve_plugin(&acme(), &reference)
                    .await
                    .expect("reads");
                let version = resolved
                    .as_ref()
                    .map(|version| version.manifest.version.as_str());
                assert_eq!(version, expected, "{reference}");
                let by_id = match &resolved {
                    Some(version) => store.plugin_version(version.id).await.expect("reads"),
                    None => None,
                };
                assert_eq!(by_id, resolved);
                assert!(
                    store
                        .resolve_plugin(&name("rival"), &reference)
                        .await
                        .expect("reads")
                        .is_none()
                );
            }
        }
    });
}

#[test]
fn versions_are_listed_newest_first_page_by_page() {
    on_both(|store, _| async move {
        for (plugin_name, version) in [("a", "1.0.0"), ("b", "1.0.0"), ("a", "1.1.0")] {
            store
                .insert_plugin_version(plugin(&acme(), plugin_name, version, "d"), vec![])
                .await
                .expect("is stored");
        }
        let labels = |versions: &[std::sync::Arc<stepwell::model::PluginVersion>]| {
            versions
                .iter()
                .map(|version| version.label())
                .collect::<Vec<_>>()
        };
        let first = store
            .plugin_versions(&acme(), None, &Page::first(2))
            .await
            .expect("lists");
        assert_eq!(labels(&first), ["a@1.1.0", "b@1.0.0"]);
        let after = first.last().map(|version| version.id);
        let second = store
            .plugin_versions(&acme(), None, &Page { after, limit: 2 })
            .await
            .expect("lists");
        assert_eq!(labels(&second), ["a@1.0.0"]);
        let named = store
            .plugin_versions(&acme(), Some(&name("a")), &Page::first(9))
            .await
            .expect("lists");
        assert_eq!(labels(&named), ["a@1.1.0", "a@1.0.0"]);
        assert!(
            store
                .plugin_versions(&name("rival"), None, &Page::first(9))
                .await
                .expect("lists")
                .is_empty()
        );
    });
}

#[test]
fn a_version_that_an_unfinished_instance_is_pinned_to_is_not_deleted() {
    on_both(|store, _| async move {
        let upload = plugin(&acme(), "audit", "1.0.0", "aa");
        store
            .insert_plugin_version(upload.clone(), vec![1])
            .await
            .expect("is stored");
        let version = workflow(&store, &acme()).await;
        let mut new = new_instance(&version);
        new.pins = [("audit".to_owned(), upload.id)].into();
        store
            .create_instances(vec![new.clone()])
            .await
            .expect("is created");
        let delete = || async {
            store
                .delete_plugin_version(&acme(), &name("audit"), "1.0.0")
                .await
        };
        let refused = delete().await.expect_err("is refused");
        assert!(
            matches!(&refused, StoreError::InUse(why) if why.contains("1 instance")),
            "{refused}"
        );
        assert_eq!(
            store.component_bytes(upload.id).await.expect("reads"),
            Some(vec![1])
        );
        let mut end = step(&load(&store, new.id).await.instance);
        end.instance.status = InstanceStatus::Completed;
        end.instance.wake_at = None;
        end.instance.completed_at = Some(START);
        store.commit(end).await.expect("commits");
        delete().await.expect("is deleted");
        assert_eq!(store.component_bytes(upload.id).await.expect("reads"), None);
        assert!(
            store
                .plugin_version(upload.id)
                .await
                .expect("reads")
                .is_none()
        );
        assert!(matches!(delete().await, Err(StoreError::NotFound)));
    });
}

#[test]
fn a_version_that_a_workflow_cannot_do_without_is_not_deleted() {
    on_both(|store, _| async move {
        for version in ["1.0.0", "1.1.0"] {
            store
                .insert_plugin_version(plugin(&acme(), "expense", version, version), vec![])
                .await
                .expect("is stored");
        }
        store
            .apply_workflow(&acme(), definition("loose", "expense"), "ann")
            .await
            .expect("applies");
        store
            .apply_workflow(&acme(), definition("strict", "expense@1.1.0"), "ann")
            .await
            .expect("applies");
        let delete = |version: &'static str| {
            let store = store.clone();
            async move {
                store
                    .delete_plugin_version(&acme(), &name("expense"), version)
                    .await
            }
        };
        let refused = delete("1.1.0").await.expect_err("is refused");
        assert!(
            matches!(&refused, StoreError::InUse(why) if why.contains("workflow strict")),
            "{refused}"
        );
        delete("1.0.0")
            .await
            .expect("the loose one can use the other");
        // An old version of a definition needs nothing.
        store
            .apply_workflow(&acme(), definition("strict", "other"), "ann")
            .await
            .expect("applies");
        let refused = delete("1.1.0").await.expect_err("is refused");
        assert!(
            matches!(&refused, StoreError::InUse(why) if why.contains("workflow loose")),
            "{refused}"
        );
        store
            .apply_workflow(&acme(), definition("loose", "expense-two"), "ann")
            .await
            .expect("applies");
        delete("1.1.0").await.expect("is deleted");
    });
}

#[test]
fn another_teams_version_cannot_be_deleted() {
    on_both(|store, _| async move {
        let upload = plugin(&acme(), "expense", "1.0.0", "aa");
        store
            .insert_plugin_version(upload.clone(), vec![1])
            .await
            .expect("is stored");
        let refused = store
            .delete_plugin_version(&name("rival"), &name("expense"), "1.0.0")
            .await;
        assert!(matches!(refused, Err(StoreError::NotFound)));
        assert_eq!(
            store.component_bytes(upload.id).await.expect("reads"),
            Some(vec![1])
        );
    });
}
