//! Tests of storing the text of a definition as it was applied.

use stepwell::model::{Definition, WorkflowStatus};

use crate::databases::{on_both, on_both_databases};
use crate::fixtures::{acme, name};

const TEXT: &str = "# Pays.\nname: pay\nsteps: [{ id: it, plugin: p, step: s }]\n";

#[test]
fn the_text_of_each_version_is_kept_and_other_comments_replace_it() {
    on_both(|store, _| async move {
        let apply = async |text: &str| {
            let definition = Definition::parse(text).expect("is valid");
            store
                .apply_workflow(&acme(), definition, "ann")
                .await
                .expect("applies")
        };
        let text = async |version| {
            store
                .workflow_text(&acme(), &name("pay"), version)
                .await
                .expect("reads")
        };
        assert_eq!(text(None).await, None);
        assert!(apply(TEXT).await.changed);
        assert_eq!(text(None).await, Some(Some(TEXT.to_owned())));
        let commented = TEXT.replace("Pays", "Pays all");
        assert!(!apply(&commented).await.changed, "the same definition");
        assert_eq!(text(Some(1)).await, Some(Some(commented.clone())));
        let second = TEXT.replace("step: s", "step: t");
        assert_eq!(apply(&second).await.version.version, 2);
        assert_eq!(text(None).await, Some(Some(second)));
        assert_eq!(text(Some(1)).await, Some(Some(commented)));
        assert_eq!(text(Some(3)).await, None);
        let theirs = store
            .workflow_text(&name("rival"), &name("pay"), None)
            .await;
        assert_eq!(theirs.expect("reads"), None, "another team's");
    });
}

#[test]
fn a_definition_without_a_text_replaces_none() {
    on_both(|store, _| async move {
        let written = Definition::parse(TEXT).expect("is valid");
        let made = Definition::check(written.source.clone()).expect("is valid");
        store
            .apply_workflow(&acme(), written, "ann")
            .await
            .expect("applies");
        store
            .apply_workflow(&acme(), made, "ann")
            .await
            .expect("applies");
        let text = store
            .workflow_text(&acme(), &name("pay"), None)
            .await
            .expect("reads");
        assert_eq!(text, Some(Some(TEXT.to_owned())));
    });
}

#[test]
fn an_archived_workflow_keeps_its_text() {
    on_both(|store, _| async move {
        let parsed = |text: &str| Definition::parse(text).expect("is valid");
        store
            .apply_workflow(&acme(), parsed(TEXT), "ann")
            .await
            .expect("applies");
        let archived = store
            .set_workflow_status(&acme(), &name("pay"), WorkflowStatus::Archived)
            .await;
        assert!(archived.expect("archives"));
        let other = TEXT.replace("Pays", "Paid");
        let applied = store
            .apply_workflow(&acme(), parsed(&other), "ann")
            .await
            .expect("applies");
        assert!(!applied.changed);
        let text = store
            .workflow_text(&acme(), &name("pay"), None)
            .await
            .expect("reads");
        assert_eq!(text, Some(Some(TEXT.to_owned())));
    });
}

#[test]
fn a_version_from_before_texts_were_kept_gets_its_text_when_it_is_applied_again() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let parsed = || Definition::parse(TEXT).expect("is valid");
        store
            .apply_workflow(&acme(), parsed(), "ann")
            .await
            .expect("applies");
        // NULL, as for rows that existed before the migration.
        database
            .sql("UPDATE workflow_versions SET written = NULL RETURNING created_by")
            .await;
        let text = async || {
            store
                .workflow_text(&acme(), &name("pay"), None)
                .await
                .expect("reads")
        };
        assert_eq!(text().await, Some(None));
        assert!(
            !store
                .apply_workflow(&acme(), parsed(), "ann")
                .await
                .expect("applies")
                .changed
        );
        assert_eq!(text().await, Some(Some(TEXT.to_owned())));
        store.close().await;
    });
}
