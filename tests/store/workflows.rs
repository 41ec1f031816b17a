//! Workflows and their versions.

use std::time::Duration;

use stepwell::model::{Definition, WorkflowStatus};
use stepwell::store::{Cursor, Page, Period, PlanError, StoreError, WorkflowFilter};

use crate::databases::{START, on_both, on_both_databases};
use crate::fixtures::{acme, definition, name};

#[test]
fn the_same_definition_again_changes_nothing() {
    on_both(|store, clock| async move {
        let first = store
            .apply_workflow(&acme(), definition("expense", "a"), "ann")
            .await
            .expect("applies");
        assert!(first.changed && first.version.version == 1);
        clock.advance(std::time::Duration::from_secs(1));
        let again = store
            .apply_workflow(&acme(), definition("expense", "a"), "bob")
            .await
            .expect("applies");
        assert!(!again.changed && again.version.version == 1 && again.version.created_by == "ann");
        let listed = store
            .workflows(&acme(), &WorkflowFilter::default(), &Page::first(9))
            .await
            .expect("lists");
        assert_eq!(
            listed.first().map(|one| one.updated_at),
            Some(first.version.created_at)
        );
        let other = store
            .apply_workflow(&acme(), definition("expense", "b"), "bob")
            .await
            .expect("applies");
        assert!(other.changed && other.version.version == 2);
        assert_eq!(other.version.workflow_id, first.version.workflow_id);
        let old = store
            .workflow_version(&acme(), &name("expense"), 1)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(old.definition.source, first.version.definition.source);
        assert!(
            store
                .workflow_version(&acme(), &name("expense"), 3)
                .await
                .expect("reads")
                .is_none()
        );
    });
}

#[test]
fn definitions_applied_at_once_get_versions_of_their_own() {
    on_both(|store, _| async move {
        let mut tasks = tokio::task::JoinSet::new();
        for index in 0..12 {
            let store = store.clone();
            tasks.spawn(async move {
                let definition = definition("expense", &format!("plugin-{index}"));
                store
                    .apply_workflow(&acme(), definition, "ann")
                    .await
                    .expect("applies")
                    .version
                    .version
            });
        }
        let mut versions = tasks.join_all().await;
        versions.sort_unstable();
        assert_eq!(versions, (1..=12).collect::<Vec<_>>());
    });
}

#[test]
fn workflows_are_listed_by_name_page_by_page() {
    on_both(|store, _| async move {
        for workflow in ["b", "ab", "a-c", "a"] {
            store
                .apply_workflow(&acme(), definition(workflow, "x"), "ann")
                .await
                .expect("applies");
        }
        let first = store
            .workflows(&acme(), &WorkflowFilter::default(), &Page::first(3))
            .await
            .expect("lists");
        let names: Vec<_> = first.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "a-c", "ab"]);
        let page = Page {
            after: first.last().map(|one| Cursor {
                at: None,
                key: one.name.clone(),
            }),
            limit: 3,
        };
        let second = store
            .workflows(&acme(), &WorkflowFilter::default(), &page)
            .await
            .expect("lists");
        assert_eq!(
            second
                .iter()
                .map(|one| one.name.as_str())
                .collect::<Vec<_>>(),
            ["b"]
        );
    });
}

#[test]
fn workflows_of_a_period_are_listed_newest_first() {
    on_both(|store, clock| async move {
        for workflow in ["b", "a", "d", "c"] {
            store
                .apply_workflow(&acme(), definition(workflow, "x"), "ann")
                .await
                .expect("applies");
            clock.advance(Duration::from_secs(1));
        }
        let at = |seconds| Some(START.after(Duration::from_secs(seconds)));
        let created = Period {
            from: at(1),
            to: at(4),
        };
        let cases = [
            (
                WorkflowFilter {
                    status: None,
                    created,
                },
                vec!["c", "d", "a"],
            ),
            (
                WorkflowFilter {
                    status: Some(WorkflowStatus::Active),
                    created,
                },
                vec!["c", "d", "a"],
            ),
            (
                WorkflowFilter {
                    status: Some(WorkflowStatus::Active),
                    ..WorkflowFilter::default()
                },
                vec!["a", "b", "c", "d"],
            ),
            (
                WorkflowFilter {
                    status: Some(WorkflowStatus::Archived),
                    ..WorkflowFilter::default()
                },
                vec![],
            ),
        ];
        for (filter, expected) in cases {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store
                    .workflows(&acme(), &filter, &Page { after, limit: 2 })
                    .await
                    .expect("lists");
                let Some(last) = page.last() else { break };
                after = Some(filter.cursor(last));
                listed.extend(page.iter().map(|one| one.name.to_string()));
            }
            assert_eq!(listed, expected, "{filter:?}");
        }
    });
}

#[test]
fn an_archived_workflow_takes_no_instances_and_no_versions_until_it_is_unarchived() {
    on_both(|store, _| async move {
        let expense = name("expense");
        let set = async |team: &str, status| {
            store
                .set_workflow_status(&name(team), &expense, status)
                .await
                .expect("writes")
        };
        let archived = async || {
            let filter = WorkflowFilter {
                status: Some(WorkflowStatus::Archived),
                ..WorkflowFilter::default()
            };
            store
                .workflows(&acme(), &filter, &Page::first(9))
                .await
                .expect("lists")
                .len()
        };
        assert!(
            !set("acme", WorkflowStatus::Archived).await,
            "there is none yet"
        );
        store
            .apply_workflow(&acme(), definition("expense", "a"), "ann")
            .await
            .expect("applies");
        // The workflow is cached now, and must be invalidated.
        let current = store
            .current_workflow(&acme(), &expense)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(
            (current.status, archived().await),
            (WorkflowStatus::Active, 0)
        );
        assert!(
            !set("rival", WorkflowStatus::Archived).await,
            "it is another team's"
        );
        assert!(set("acme", WorkflowStatus::Archived).await);
        assert!(
            !set("acme", WorkflowStatus::Archived).await,
            "it is already"
        );
        let current = store
            .current_workflow(&acme(), &expense)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(
            (current.status, current.newest.version, archived().await),
            (WorkflowStatus::Archived, 1, 1)
        );
        let planned = store.plan(&acme(), &expense).await.expect_err("takes none");
        assert!(
            matches!(planned, PlanError::Archived { workflow_id } if workflow_id == current.newest.workflow_id)
        );
        let same = store
            .apply_workflow(&acme(), definition("expense", "a"), "ann")
            .await
            .expect("is nothing new");
        assert_eq!(
            (same.changed, same.status),
            (false, WorkflowStatus::Archived)
        );
        let refused = store
            .apply_workflow(&acme(), definition("expense", "b"), "ann")
            .await
            .expect_err("is new");
        assert!(
            matches!(&refused, StoreError::Archived(name) if *name == expense),
            "{refused}"
        );
        assert!(
            store
                .workflow_version(&acme(), &expense, 2)
                .await
                .expect("reads")
                .is_none()
        );
        assert!(set("acme", WorkflowStatus::Active).await);
        assert_eq!(archived().await, 0);
        let applied = store
            .apply_workflow(&acme(), definition("expense", "b"), "ann")
            .await
            .expect("applies");
        assert_eq!(
            (applied.version.version, applied.status),
            (2, WorkflowStatus::Active)
        );
    });
}

#[test]
fn another_teams_workflow_is_not_there() {
    on_both(|store, _| async move {
        store
            .apply_workflow(&acme(), definition("expense", "a"), "ann")
            .await
            .expect("applies");
        let rival = name("rival");
        assert!(
            store
                .workflow(&rival, &name("expense"))
                .await
                .expect("reads")
                .is_none()
        );
        assert!(
            store
                .workflow_version(&rival, &name("expense"), 1)
                .await
                .expect("reads")
                .is_none()
        );
        assert!(
            store
                .workflows(&rival, &WorkflowFilter::default(), &Page::first(9))
                .await
                .expect("lists")
                .is_empty()
        );
        let theirs = store
            .apply_workflow(&rival, definition("expense", "b"), "eve")
            .await
            .expect("applies");
        assert_eq!(theirs.version.version, 1);
    });
}

#[test]
fn a_definition_stored_before_starter_may_approve_keeps_its_meaning() {
    on_both_databases(|database| async move {
        let text = "name: ask\nsteps: [{ id: it, approval: { title: a, approvers: [b], expires_in: 1h } }]";
        let parsed = || Definition::parse(text).expect("is valid");
        let may = |definition: &Definition| {
            definition
                .source
                .steps
                .first()
                .and_then(|step| step.approval.as_ref()?.starter_may_approve)
        };
        let store = database.open().await;
        store
            .apply_workflow(&acme(), parsed(), "ann")
            .await
            .expect("applies");
        store.close().await;
        // As the migration leaves it.
        database
            .sql("UPDATE workflow_versions SET rules = 1 RETURNING created_by")
            .await;
        let store = database.open().await;
        let old = store
            .workflow(&acme(), &name("ask"))
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(may(&old.definition), Some(true), "it says what it means");
        let applied = store
            .apply_workflow(&acme(), parsed(), "ann")
            .await
            .expect("applies");
        assert_eq!(
            (applied.changed, may(&applied.version.definition)),
            (true, None),
            "what is applied now means what is said now"
        );
        let again = store
            .workflow_version(&acme(), &name("ask"), 1)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(may(&again.definition), Some(true));
        assert!(
            !store
                .apply_workflow(&acme(), parsed(), "ann")
                .await
                .expect("applies")
                .changed
        );
        store.close().await;
    });
}
