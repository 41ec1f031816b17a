//! Instances that steps of other instances have started.

use std::time::Duration;

use stepwell::model::{Definition, Instance, InstanceStatus, Json, NewInstance, Parent};
use stepwell::store::{Finished, Store};
use uuid::Uuid;

use crate::databases::{START, on_both};
use crate::fixtures::{acme, load, new_instance, step, workflow};

/// Creates a parent, and a child that it waits for.
async fn family(store: &Store) -> (Instance, Instance) {
    let child = workflow(store, &acme()).await;
    let text = "name: parent\nsteps: [{ id: call, workflow: expense }]";
    let definition = Definition::parse(text).expect("is valid");
    let parent = store.apply_workflow(&acme(), definition, "ann").await;
    let parent = new_instance(&parent.expect("applies").version);
    let child = NewInstance {
        root_id: Some(parent.id),
        parent: Some(Parent {
            id: parent.id,
            step: "call".parse().expect("is an address"),
            waits: true,
        }),
        ..new_instance(&child)
    };
    let ids = [parent.id, child.id];
    let created = store.create_instances(vec![parent, child]).await;
    created.expect("are created");
    (
        load(store, ids[0]).await.instance,
        load(store, ids[1]).await.instance,
    )
}

async fn end(store: &Store, instance: &Instance) {
    let mut commit = step(instance);
    commit.instance.status = InstanceStatus::Completed;
    commit.instance.output = Some(stored("7"));
    commit.instance.wake_at = None;
    commit.instance.completed_at = Some(START);
    store.commit(commit).await.expect("commits");
}

fn stored(text: &str) -> Json {
    Json::stored(text.to_owned())
}

#[test]
fn a_parent_that_commits_a_stale_copy_stays_due() {
    on_both(|store, _| async move {
        let (stale, child) = family(&store).await;
        end(&store, &child).await;
        let mut commit = step(&stale);
        commit.instance.status = InstanceStatus::Waiting;
        commit.instance.wake_at = None;
        store.commit(commit).await.expect("is no conflict");
        let loaded = load(&store, stale.id).await;
        assert_eq!(loaded.instance.status, InstanceStatus::Waiting);
        assert_eq!(loaded.instance.wake_at, Some(stale.updated_at));
        assert_eq!(loaded.instance.children_ended, 1);
        let found = loaded.children.first().expect("is there");
        assert_eq!(found.id, child.id);
        let output = found.end.as_ref().and_then(|end| end.output.clone());
        assert_eq!(output, Some(stored("7")));
        // A commit that has seen the end may rest.
        let mut commit = step(&loaded.instance);
        commit.instance.wake_at = None;
        store.commit(commit).await.expect("commits");
        assert_eq!(load(&store, stale.id).await.instance.wake_at, None);
    });
}

#[test]
fn a_child_that_is_stopped_takes_no_more_effects() {
    on_both(|store, _| async move {
        let (parent, child) = family(&store).await;
        let mut commit = step(&parent);
        commit.instance.status = InstanceStatus::Cancelled;
        commit.instance.completed_at = Some(START);
        commit.instance.wake_at = None;
        commit.change.stopped_children = vec![child.id, Uuid::nil()];
        store.commit(commit).await.expect("commits");
        let stopped = load(&store, child.id).await.instance;
        assert_eq!(stopped.cancel_requested_at, Some(parent.updated_at));
        assert_eq!(stopped.wake_at, Some(parent.updated_at));
        store
            .commit(step(&child))
            .await
            .expect_err("the version is old");
        end(&store, &stopped).await;
        let parent = load(&store, parent.id).await.instance;
        assert_eq!((parent.wake_at, parent.children_ended), (None, 0));
    });
}

#[test]
fn a_child_that_has_ended_unseen_is_stopped_without_a_change_and_loaded_no_more() {
    on_both(|store, _| async move {
        let (parent, child) = family(&store).await;
        end(&store, &child).await;
        let ended = load(&store, child.id).await.instance;
        let loaded = load(&store, parent.id).await;
        assert_eq!(loaded.children.len(), 1);
        let mut commit = step(&loaded.instance);
        commit.change.stopped_children = vec![child.id];
        store.commit(commit).await.expect("commits");
        assert_eq!(load(&store, parent.id).await.children, []);
        let stopped = load(&store, child.id).await.instance;
        assert_eq!(stopped.cancel_requested_at, Some(parent.updated_at));
        let kept = Instance {
            cancel_requested_at: None,
            ..stopped
        };
        assert_eq!(kept, ended);
    });
}

#[test]
fn a_child_is_kept_until_its_parent_has_ended() {
    on_both(|store, _| async move {
        let (parent, child) = family(&store).await;
        end(&store, &child).await;
        let finished = Finished {
            team: Some(acme()),
            before: START.after(Duration::from_secs(1)),
        };
        let delete = async || {
            let deleted = store.delete_finished(&finished, None, 100).await;
            deleted.expect("deletes").counts.instances
        };
        assert_eq!(delete().await, 0);
        end(&store, &load(&store, parent.id).await.instance).await;
        assert_eq!(delete().await, 2);
    });
}
