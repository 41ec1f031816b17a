//! Budgets of descendants and quotas of teams: refusals, and counts that match the rows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::clock::Timestamp;
use stepwell::model::{
    ApprovalStatus, Attempt, Failure, Instance, InstanceStatus, Name, NewInstance, StorageWrite,
    WriteAction,
};
use stepwell::store::{
    CommitError, DESCENDANTS_EXHAUSTED, Finished, Page, QUOTA_STORED, QUOTA_UNFINISHED,
    QUOTA_VERSIONS, ROOT_CANCELLED, Store, StoreError, TeamUsage, WorkflowFilter, WorkflowVersion,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::databases::{Database, Kind, START, on_both, on_both_databases, on_postgres};
use crate::fixtures::{
    acme, approval, attempt, decided, definition, instance, key, keyed, load, name, new_instance,
    plugin, put, step, workflow, write,
};
use crate::hosts::eventually;

async fn open_with(database: &mut Database, unfinished: u64, bytes: u64) -> Store {
    database.config.quotas.unfinished_instances_max = unfinished;
    database.config.quotas.stored_bytes_max = bytes;
    database.open().await
}

fn usage(store: &Store, team: &Name) -> TeamUsage {
    store.team_usage(Some(team)).pop().expect("one team")
}

fn child(version: &WorkflowVersion, root: Uuid) -> NewInstance {
    NewInstance {
        root_id: Some(root),
        depth: 1,
        ..new_instance(version)
    }
}

async fn create(store: &Store, new: NewInstance) -> Instance {
    let id = new.id;
    store.create_instances(vec![new]).await.expect("is created");
    load(store, id).await.instance
}

/// Commits a step of the instance that creates `count` instances.
async fn breed(
    store: &Store,
    version: &WorkflowVersion,
    parent: &Instance,
    count: usize,
) -> Result<(), CommitError> {
    let mut commit = step(parent);
    commit.effects.instances = (0..count).map(|_| child(version, parent.root())).collect();
    store.commit(commit).await
}

async fn end(store: &Store, instance: &Instance) {
    let mut commit = step(instance);
    commit.instance.status = InstanceStatus::Completed;
    commit.instance.output = Some(json!("done").into());
    commit.instance.completed_at = Some(START);
    commit.instance.wake_at = None;
    store.commit(commit).await.expect("commits");
}

fn code(result: &Result<(), CommitError>) -> &'static str {
    match result {
        Ok(()) => "done",
        Err(error) => error.reason(),
    }
}

/// Checks that the stored counts match the rows: a recount corrects nothing.
async fn assert_counted_rightly(store: &Store) {
    assert_eq!(store.recount_usage().await.expect("counts"), []);
}

async fn descendants(database: &Database, root: Uuid) -> usize {
    let id = match database.kind {
        Kind::Sqlite => format!("x'{}'", root.simple()),
        Kind::Postgres => format!("'{root}'"),
    };
    database
        .sql(&format!(
            "SELECT team FROM workflow_instances WHERE root_id = {id}"
        ))
        .await
        .len()
}

#[test]
fn siblings_that_create_at_the_same_time_stay_within_their_budget() {
    on_both_databases(|mut database| async move {
        database.config.limits.batch_descendants_max = 50;
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let root = create(&store, new_instance(&version)).await;
        let mut parents = vec![root.clone()];
        for _ in 0..19 {
            parents.push(create(&store, child(&version, root.id)).await);
        }
        let mut tasks = JoinSet::new();
        for parent in parents {
            let (store, version) = (store.clone(), version.clone());
            tasks.spawn(async move { code(&breed(&store, &version, &parent, 7).await) });
        }
        let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
        for code in tasks.join_all().await {
            *codes.entry(code).or_default() += 1;
        }
        assert_eq!(
            codes,
            BTreeMap::from([("done", 7), (DESCENDANTS_EXHAUSTED, 13)])
        );
        assert_eq!(descendants(&database, root.id).await, 19 + 49);
        // One descendant is left, for a step that creates no more. Another root has a budget of its
        // own.
        let parent = create(&store, child(&version, root.id)).await;
        assert_eq!(
            code(&breed(&store, &version, &parent, 2).await),
            DESCENDANTS_EXHAUSTED
        );
        assert_eq!(code(&breed(&store, &version, &parent, 1).await), "done");
        let other = create(&store, new_instance(&version)).await;
        assert_eq!(code(&breed(&store, &version, &other, 50).await), "done");
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn siblings_on_two_hosts_stay_within_their_budget() {
    on_postgres(|mut database| async move {
        database.config.limits.batch_descendants_max = 30;
        let hosts = [
            database.another_host().open().await,
            database.another_host().open().await,
        ];
        let version = workflow(&hosts[0], &acme()).await;
        let root = create(&hosts[0], new_instance(&version)).await;
        let mut tasks = JoinSet::new();
        for number in 0..40 {
            let (store, version) = (hosts[number % 2].clone(), version.clone());
            let parent = create(&store, child(&version, root.id)).await;
            tasks.spawn(async move { code(&breed(&store, &version, &parent, 1).await) });
        }
        let done = tasks
            .join_all()
            .await
            .into_iter()
            .filter(|code| *code == "done")
            .count();
        assert_eq!(done, 30);
        assert_eq!(descendants(&database, root.id).await, 40 + 30);
        for store in hosts {
            store.close().await;
        }
    });
}

#[test]
fn a_budget_survives_a_restart_and_ends_with_the_last_of_its_instances() {
    on_both_databases(|mut database| async move {
        database.config.limits.batch_descendants_max = 3;
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let mut root = create(&store, new_instance(&version)).await;
        assert_eq!(code(&breed(&store, &version, &root, 2).await), "done");
        root.version += 1;
        store.close().await;
        let store = database.open().await;
        assert_eq!(
            code(&breed(&store, &version, &root, 2).await),
            DESCENDANTS_EXHAUSTED
        );
        // The root is deleted and a descendant is left: the budget stays.
        end(&store, &root).await;
        let all = Finished {
            team: None,
            before: START.after(Duration::from_secs(1)),
        };
        assert_eq!(
            store
                .delete_finished(&all, None, 100)
                .await
                .expect("deletes")
                .counts
                .instances,
            1
        );
        let left = store
            .unfinished_descendants(root.id, Uuid::nil(), 100)
            .await
            .expect("reads");
        assert_eq!(left.len(), 2);
        let one = load(&store, left[0]).await.instance;
        assert_eq!(
            code(&breed(&store, &version, &one, 2).await),
            DESCENDANTS_EXHAUSTED
        );
        assert_eq!(
            database.sql("SELECT 'x' FROM instance_trees").await.len(),
            1
        );
        for id in left {
            end(&store, &load(&store, id).await.instance).await;
        }
        assert_eq!(
            store
                .delete_finished(&all, None, 100)
                .await
                .expect("deletes")
                .counts
                .instances,
            2
        );
        assert_eq!(
            database.sql("SELECT 'x' FROM instance_trees").await.len(),
            0
        );
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn nothing_descends_from_a_root_that_was_stopped() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let root = create(&store, new_instance(&version)).await;
        let mut tasks = JoinSet::new();
        for _ in 0..20 {
            let (store, version) = (store.clone(), version.clone());
            let parent = create(&store, child(&version, root.id)).await;
            tasks.spawn(async move { code(&breed(&store, &version, &parent, 2).await) });
        }
        store
            .stop_descendants(root.id, START)
            .await
            .expect("is written");
        let before = store
            .unfinished_descendants(root.id, Uuid::nil(), 1_000)
            .await
            .expect("reads");
        for code in tasks.join_all().await {
            assert!(matches!(code, "done" | ROOT_CANCELLED), "{code}");
        }
        let after = store
            .unfinished_descendants(root.id, Uuid::nil(), 1_000)
            .await
            .expect("reads");
        assert_eq!(
            before, after,
            "whoever was refused has created nothing, and nobody came later"
        );
        // Again is the same; and pages follow each other.
        store
            .stop_descendants(root.id, START)
            .await
            .expect("is written");
        assert_eq!(
            code(&breed(&store, &version, &root, 1).await),
            ROOT_CANCELLED
        );
        let mut paged = Vec::new();
        loop {
            let last = paged.last().copied().unwrap_or_default();
            let page = store
                .unfinished_descendants(root.id, last, 7)
                .await
                .expect("reads");
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, after);
    });
}

#[test]
fn a_team_at_its_quota_of_instances_starts_none_until_one_has_ended() {
    on_both_databases(|mut database| async move {
        let store = open_with(&mut database, 3, 0).await;
        let version = workflow(&store, &acme()).await;
        let first = create(&store, new_instance(&version)).await;
        let keyed = keyed(new_instance(&version), "k");
        let second = create(&store, keyed.clone()).await;
        // A batch that does not fit is refused as a whole, and its parts are tried alone by the engine.
        let batch = vec![new_instance(&version), new_instance(&version)];
        let refused = store.create_instances(batch).await.expect_err("is refused");
        assert!(
            matches!(
                refused,
                StoreError::Quota {
                    code: QUOTA_UNFINISHED,
                    ..
                }
            ),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("may have 3 instances"),
            "{refused}"
        );
        create(&store, new_instance(&version)).await;
        assert!(
            store
                .create_instances(vec![new_instance(&version)])
                .await
                .is_err()
        );
        // Existing instances take no more room.
        let again = NewInstance {
            id: Uuid::now_v7(),
            ..keyed
        };
        let created = store
            .create_instances(vec![again])
            .await
            .expect("is answered");
        assert!(created[0].existing && created[0].id == second.id);
        // A step that creates is refused with all its effects; a step that ends its instance is
        // written.
        assert_eq!(
            code(&breed(&store, &version, &first, 1).await),
            QUOTA_UNFINISHED
        );
        assert_eq!(usage(&store, &acme()).unfinished_instances, 3);
        // The other team does not notice.
        let rival = workflow(&store, &name("rival")).await;
        create(&store, new_instance(&rival)).await;
        end(&store, &first).await;
        create(&store, new_instance(&version)).await;
        assert!(
            store
                .create_instances(vec![new_instance(&version)])
                .await
                .is_err()
        );
        let counted = usage(&store, &acme());
        assert_eq!(
            (
                counted.unfinished_instances,
                counted.unfinished_instances_max
            ),
            (3, Some(3))
        );
        assert_eq!(counted.stored_bytes_max, None);
        assert_counted_rightly(&store).await;
        store.close().await;
        // The counts are the same after a restart.
        let store = database.open().await;
        assert_eq!(usage(&store, &acme()), counted);
        assert!(
            store
                .create_instances(vec![new_instance(&version)])
                .await
                .is_err()
        );
        store.close().await;
    });
}

#[test]
fn instances_that_are_started_at_the_same_time_stay_within_the_quota() {
    on_both_databases(|mut database| async move {
        let store = open_with(&mut database, 10, 0).await;
        let version = workflow(&store, &acme()).await;
        let mut tasks = JoinSet::new();
        for _ in 0..50 {
            let (store, new) = (store.clone(), new_instance(&version));
            tasks.spawn(async move { store.create_instances(vec![new]).await.is_ok() });
        }
        assert_eq!(
            tasks
                .join_all()
                .await
                .into_iter()
                .filter(|created| *created)
                .count(),
            10
        );
        assert_eq!(usage(&store, &acme()).unfinished_instances, 10);
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn a_team_at_its_quota_of_workflow_versions_applies_nothing_new() {
    on_both_databases(|mut database| async move {
        database.config.quotas.workflow_versions_max = 3;
        let store = database.open().await;
        for (workflow, plugin) in [("one", "a"), ("one", "b"), ("two", "a")] {
            let new = store
                .apply_workflow(&acme(), definition(workflow, plugin), "ann")
                .await;
            assert!(new.expect("applies").changed);
        }
        for (workflow, plugin) in [("one", "c"), ("three", "a")] {
            let refused = store
                .apply_workflow(&acme(), definition(workflow, plugin), "ann")
                .await
                .expect_err("is refused");
            assert!(
                matches!(
                    &refused,
                    StoreError::Quota { code: QUOTA_VERSIONS, message } if message.contains("3 versions of workflows")
                ),
                "{refused}"
            );
        }
        let page = store
            .workflows(&acme(), &WorkflowFilter::default(), &Page::first(10))
            .await
            .expect("lists");
        let listed: Vec<_> = page
            .iter()
            .map(|workflow| (workflow.name.as_str(), workflow.latest_version))
            .collect();
        assert_eq!(listed, [("one", 2), ("two", 1)]);
        // The newest definition again is no version, and another team has a quota of its own.
        let same = store
            .apply_workflow(&acme(), definition("one", "b"), "ann")
            .await;
        assert!(!same.expect("applies").changed);
        workflow(&store, &name("rival")).await;
        let counted = usage(&store, &acme());
        assert_eq!(
            (counted.workflow_versions, counted.workflow_versions_max),
            (3, Some(3))
        );
        assert_counted_rightly(&store).await;
        store.close().await;
        // The versions of a database of the last release are counted.
        for sql in [
            "ALTER TABLE team_usage DROP COLUMN workflow_versions",
            "DELETE FROM _sqlx_migrations WHERE version = 15",
        ] {
            database.sql(sql).await;
        }
        let store = database.open().await;
        assert_eq!(usage(&store, &acme()), counted);
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn hosts_know_of_each_other_what_a_team_has() {
    on_postgres(|mut database| async move {
        database.config.quotas.unfinished_instances_max = 4;
        database.config.hosts.renewal = Duration::from_millis(20);
        let hosts = [
            database.another_host().open().await,
            database.another_host().open().await,
        ];
        let version = workflow(&hosts[0], &acme()).await;
        let mut created = Vec::new();
        for number in 0..4 {
            created.push(create(&hosts[number % 2], new_instance(&version)).await);
        }
        for store in &hosts {
            eventually("the other's are known", async || {
                usage(store, &acme()).unfinished_instances == 4
            })
            .await;
            assert!(
                store
                    .create_instances(vec![new_instance(&version)])
                    .await
                    .is_err()
            );
        }
        // One host ends what the other has created: its own number is then less than nothing, and the sum is right.
        for one in &created {
            end(&hosts[1], one).await;
        }
        for store in &hosts {
            eventually("nothing is left", async || {
                usage(store, &acme()).unfinished_instances == 0
            })
            .await;
            assert_counted_rightly(store).await;
        }
        for store in hosts {
            store.close().await;
        }
    });
}

fn output(instance: &Instance, number: u32, bytes: usize) -> Attempt {
    Attempt {
        output: Some(Value::String("x".repeat(bytes)).into()),
        ..attempt(instance, number)
    }
}

#[test]
fn effects_beyond_the_quota_of_bytes_are_refused_and_endings_are_written() {
    on_both_databases(|mut database| async move {
        let store = open_with(&mut database, 0, 100_000).await;
        let mut instance = instance(&store).await;
        write(
            &store,
            &mut instance,
            vec![put("big", &"x".repeat(60_000))],
            START,
        )
        .await
        .expect("fits");
        let before = usage(&store, &acme()).stored_bytes;
        assert!((61_000..70_000).contains(&before), "{before}");
        // A value of the same size fits as a replacement, but not as a second entry.
        write(
            &store,
            &mut instance,
            vec![put("big", &"y".repeat(60_000))],
            START,
        )
        .await
        .expect("fits");
        assert_eq!(usage(&store, &acme()).stored_bytes, before);
        let refused = write(
            &store,
            &mut instance,
            vec![put("other", &"x".repeat(60_000))],
            START,
        )
        .await;
        assert_eq!(code(&refused), QUOTA_STORED);
        let mut commit = step(&instance);
        commit.change.attempts.push(output(&instance, 1, 60_000));
        let refused = store.commit(commit).await;
        assert_eq!(code(&refused), QUOTA_STORED);
        assert!(
            refused
                .expect_err("is refused")
                .to_string()
                .contains("100000 bytes")
        );
        let mut commit = step(&instance);
        commit
            .effects
            .metadata
            .push((instance.id, json!({ "note": "x".repeat(60_000) }).into()));
        assert_eq!(code(&store.commit(commit).await), QUOTA_STORED);
        let version = workflow(&store, &acme()).await;
        let large = NewInstance {
            input: Value::String("x".repeat(60_000)).into(),
            ..new_instance(&version)
        };
        let refused = store
            .create_instances(vec![large])
            .await
            .expect_err("is refused");
        assert!(
            matches!(
                refused,
                StoreError::Quota {
                    code: QUOTA_STORED,
                    ..
                }
            ),
            "{refused}"
        );
        let metadata = json!({ "note": "x".repeat(60_000) }).into();
        let refused = store
            .replace_metadata(&acme(), [(instance.id, &metadata)])
            .await
            .expect_err("is refused");
        assert!(
            matches!(
                refused,
                StoreError::Quota {
                    code: QUOTA_STORED,
                    ..
                }
            ),
            "{refused}"
        );
        assert_eq!(usage(&store, &acme()).stored_bytes, before);
        // Another team has room.
        let rival = workflow(&store, &name("rival")).await;
        let large = NewInstance {
            input: Value::String("x".repeat(60_000)).into(),
            ..new_instance(&rival)
        };
        create(&store, large).await;
        // A failed step and the end of the instance are written at any quota.
        let failure = Failure::fatal(
            QUOTA_STORED,
            stepwell::model::Blame::Guest,
            "x".repeat(4_000),
        );
        let mut commit = step(&instance);
        commit.change.attempts = (1..=10)
            .map(|number| Attempt {
                output: None,
                failure: Some(failure.clone()),
                ..attempt(&instance, number)
            })
            .collect();
        commit.instance.failure = Some(failure);
        commit.instance.status = InstanceStatus::Failed;
        commit.instance.completed_at = Some(START);
        commit.instance.wake_at = None;
        store.commit(commit).await.expect("is written");
        assert!(usage(&store, &acme()).stored_bytes > 100_000);
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn bytes_are_given_back_by_what_deletes_and_what_runs_out() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let mut instance = instance(&store).await;
        let mut commit = step(&instance);
        let asked = approval(&instance, "bob", START);
        commit.change.attempts.push(output(&instance, 1, 5_000));
        commit.change.new_approvals.push(asked.clone());
        commit
            .effects
            .metadata
            .push((instance.id, json!({ "note": "x".repeat(1_000) }).into()));
        commit.effects.storage = vec![
            put("stays", "xyz"),
            put("goes", &"x".repeat(2_000)),
            StorageWrite {
                key: key("runs-out"),
                action: WriteAction::Put {
                    value: vec![7; 3_000],
                    ttl_ms: Some(1_000),
                },
                guard: None,
            },
            StorageWrite {
                key: key("counter"),
                action: WriteAction::Increment(41),
                guard: None,
            },
        ];
        store.commit(commit).await.expect("commits");
        instance.version += 1;
        assert_counted_rightly(&store).await;
        let mut commit = step(&instance);
        commit
            .change
            .decided
            .push(decided(&asked, ApprovalStatus::Approved));
        commit
            .effects
            .metadata
            .push((instance.id, json!({}).into()));
        commit.effects.storage = vec![
            StorageWrite {
                key: key("goes"),
                action: WriteAction::Delete,
                guard: None,
            },
            StorageWrite {
                key: key("nothing"),
                action: WriteAction::Delete,
                guard: None,
            },
            StorageWrite {
                key: key("counter"),
                action: WriteAction::Increment(1_000_000),
                guard: None,
            },
        ];
        store.commit(commit).await.expect("commits");
        instance.version += 1;
        assert_counted_rightly(&store).await;
        database.clock.advance(Duration::from_secs(2));
        assert_eq!(store.delete_expired_entries(100).await.expect("deletes"), 1);
        assert_counted_rightly(&store).await;
        let metadata = json!({ "label": "by a client" }).into();
        let labelled = store
            .replace_metadata(&acme(), [(instance.id, &metadata)])
            .await
            .expect("writes");
        assert_eq!(labelled.len(), 1);
        assert_counted_rightly(&store).await;
        end(&store, &instance).await;
        assert!(usage(&store, &acme()).stored_bytes > 5_000);
        let all = Finished {
            team: None,
            before: START.after(Duration::from_secs(10)),
        };
        assert_eq!(
            store
                .delete_finished(&all, None, 100)
                .await
                .expect("deletes")
                .counts
                .instances,
            1
        );
        let left = usage(&store, &acme());
        // The two entries of the shared bucket.
        assert_eq!(
            (left.unfinished_instances, left.stored_bytes),
            (0, 512 + 5 + 3 + 512 + 7 + 7)
        );
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn steps_of_one_group_are_counted_one_after_the_other() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let held = database.hold_writes().await;
        let mut tasks = JoinSet::new();
        for number in 0..30_usize {
            let (store, new) = (store.clone(), new_instance(&version));
            tasks.spawn(async move {
                let mut instance = create(&store, new).await;
                let value = "x".repeat(number * 10);
                write(&store, &mut instance, vec![put("same", &value)], START)
                    .await
                    .expect("commits");
                let taken = instance.clone();
                let refused = store.commit(StaleVersion(&taken).step()).await;
                assert!(refused.is_err());
                end(&store, &instance).await;
            });
        }
        held.release().await;
        tasks.join_all().await;
        assert_eq!(usage(&store, &acme()).unfinished_instances, 0);
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

/// An instance whose commits name an old version and write an entry.
struct StaleVersion<'a>(&'a Instance);

impl StaleVersion<'_> {
    fn step(&self) -> stepwell::store::StepCommit {
        let mut commit = step(self.0);
        commit.instance.version -= 1;
        commit.effects.storage = vec![put("never", "written")];
        commit
    }
}

#[test]
fn a_recount_corrects_wrong_usage() {
    on_both_databases(|mut database| async move {
        let store = open_with(&mut database, 5, 0).await;
        let version = workflow(&store, &acme()).await;
        create(&store, new_instance(&version)).await;
        let counted = usage(&store, &acme());
        store.close().await;
        database
            .sql("UPDATE team_usage SET unfinished = 77, stored_bytes = -5, workflow_versions = 3")
            .await;
        database
            .sql("INSERT INTO team_usage SELECT 'ghost', host, 9, 9, 9 FROM team_usage")
            .await;
        let store = database.open().await;
        assert_eq!(usage(&store, &acme()).unfinished_instances, 77);
        assert!(
            store
                .create_instances(vec![new_instance(&version)])
                .await
                .is_err()
        );
        assert_eq!(
            store.recount_usage().await.expect("counts"),
            [acme(), name("ghost")]
        );
        assert_eq!(usage(&store, &acme()), counted);
        assert_eq!(usage(&store, &name("ghost")).unfinished_instances, 0);
        create(&store, new_instance(&version)).await;
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

/// Reverts a database to the schema before budgets and quotas.
async fn take_back(database: &Database) {
    for sql in [
        "DROP INDEX idx_workflow_instances_root_id",
        "ALTER TABLE workflow_instances DROP COLUMN root_id",
        "ALTER TABLE workflow_instances DROP COLUMN request_hash",
        "DROP TABLE instance_trees",
        "DROP TABLE idempotency_keys",
        "DROP TABLE team_usage",
        "DELETE FROM _sqlx_migrations WHERE version IN (11, 12, 15)",
    ] {
        database.sql(sql).await;
    }
}

#[test]
fn a_database_of_the_last_version_is_counted_and_its_instances_go_on() {
    on_both_databases(|mut database| async move {
        database.config.limits.batch_descendants_max = 2;
        let store = database.open().await;
        let version = workflow(&store, &acme()).await;
        let keyed = keyed(new_instance(&version), "k");
        let mut first = create(&store, keyed.clone()).await;
        let mut commit = step(&first);
        commit.change.attempts.push(output(&first, 1, 3_000));
        commit
            .change
            .new_approvals
            .push(approval(&first, "bob", START));
        commit.effects.storage = vec![put("a", "1"), put("b", &"x".repeat(9_000))];
        store.commit(commit).await.expect("commits");
        first.version += 1;
        end(&store, &create(&store, new_instance(&version)).await).await;
        let child = create(&store, child(&version, first.id)).await;
        let rival = workflow(&store, &name("rival")).await;
        create(&store, new_instance(&rival)).await;
        let upload = plugin(&acme(), "expense", "1.0.0", "aa");
        store
            .insert_plugin_version(upload, vec![7; 1_000])
            .await
            .expect("is stored");
        let counted = store.team_usage(None);
        store.close().await;
        take_back(&database).await;
        let store = database.open().await;
        assert_eq!(store.team_usage(None), counted);
        assert_counted_rightly(&store).await;
        // A key without a stored request hash matches any request; a migrated instance is its own
        // root.
        let other = NewInstance {
            id: Uuid::now_v7(),
            input: json!("something else").into(),
            ..keyed
        };
        let created = store
            .create_instances(vec![other])
            .await
            .expect("is answered");
        assert!(created[0].existing && created[0].same_request && created[0].id == first.id);
        let orphan = load(&store, child.id).await.instance;
        assert_eq!(orphan.root_id, None);
        assert_eq!(
            code(&breed(&store, &version, &orphan, 3).await),
            DESCENDANTS_EXHAUSTED
        );
        assert_eq!(code(&breed(&store, &version, &orphan, 2).await), "done");
        end(&store, &first).await;
        assert_counted_rightly(&store).await;
        store.close().await;
    });
}

#[test]
fn far_times_are_stored_as_times_that_can_be_shown() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let mut instance = instance(&store).await;
        let action = WriteAction::Put {
            value: b"1".to_vec(),
            ttl_ms: Some(u64::MAX),
        };
        let far = StorageWrite {
            key: key("far"),
            action,
            guard: None,
        };
        write(&store, &mut instance, vec![far], START)
            .await
            .expect("commits");
        let entry = store
            .entries(&acme(), &[key("far")])
            .await
            .expect("reads")
            .pop()
            .flatten()
            .expect("is there");
        assert_eq!(entry.expires_at, Some(Timestamp::MAX));
        store.close().await;
    });
}
