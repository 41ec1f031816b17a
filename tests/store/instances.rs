//! Creating, finding and listing instances.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use stepwell::model::{Attempt, InstanceStatus};
use stepwell::store::{Created, Cursor, InstanceFilter, Page, Period, StoreError};
use uuid::Uuid;

use crate::databases::{START, on_both};
use crate::fixtures::{
    acme, attempt, definition, instance, keyed, load, name, new_instance, step, workflow,
};

#[test]
fn an_idempotency_key_creates_one_instance_of_its_workflow() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let with_key = |key: &str| keyed(new_instance(&version), key);
        let first = with_key("one");
        let created = store
            .create_instances(vec![first.clone()])
            .await
            .expect("is created");
        assert_eq!(
            created,
            [Created {
                id: first.id,
                existing: false,
                same_request: true
            }]
        );
        // Again, twice in one batch, with a new one and one without a key between them.
        let (new, plain) = (with_key("two"), new_instance(&version));
        let batch = vec![
            with_key("one"),
            new.clone(),
            plain.clone(),
            with_key("two"),
            with_key("one"),
        ];
        let created = store.create_instances(batch).await.expect("are created");
        let expected = [
            (first.id, true),
            (new.id, false),
            (plain.id, false),
            (new.id, true),
            (first.id, true),
        ];
        assert_eq!(
            created,
            expected.map(|(id, existing)| Created {
                id,
                existing,
                same_request: true
            })
        );
        // The key is another one in another workflow.
        let other = store
            .apply_workflow(&acme(), definition("other", "x"), "ann")
            .await
            .expect("applies")
            .version;
        let elsewhere = keyed(new_instance(&other), "one");
        let created = store
            .create_instances(vec![elsewhere.clone()])
            .await
            .expect("is created");
        assert_eq!(
            created,
            [Created {
                id: elsewhere.id,
                existing: false,
                same_request: true
            }]
        );
        // Many keys are looked up together; one that nobody has used, or used in another workflow, is not there.
        let key = |workflow: Uuid, key: &str| (workflow, key.to_owned());
        let (mine, theirs) = (version.workflow_id, other.workflow_id);
        let asked = vec![
            key(mine, "two"),
            key(mine, "one"),
            key(mine, "one"),
            key(mine, "three"),
            key(theirs, "one"),
        ];
        let found = store.instances_with_keys(asked).await.expect("reads");
        let found: HashMap<_, _> = found
            .into_iter()
            .map(|(key, holder)| (key, holder.id))
            .collect();
        let expected = [
            (key(mine, "one"), first.id),
            (key(mine, "two"), new.id),
            (key(theirs, "one"), elsewhere.id),
        ];
        assert_eq!(found, expected.into());
        assert_eq!(
            store.instances_with_keys(vec![]).await.expect("reads"),
            [].into()
        );
    });
}

#[test]
fn many_instances_are_created_at_once_in_order() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let new: Vec<_> = (0..5_000).map(|_| new_instance(&version)).collect();
        let created = store
            .create_instances(new.clone())
            .await
            .expect("are created");
        let expected: Vec<_> = new
            .iter()
            .map(|new| Created {
                id: new.id,
                existing: false,
                same_request: true,
            })
            .collect();
        assert_eq!(created, expected);
        let counted = store.count_instances(&acme()).await.expect("counts");
        assert_eq!(counted, [(InstanceStatus::Running, 5_000)]);
        assert_eq!(
            store
                .create_instances(Vec::new())
                .await
                .expect("is nothing"),
            []
        );
    });
}

#[test]
fn an_id_that_is_taken_creates_none_of_the_batch() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let taken = new_instance(&version);
        store
            .create_instances(vec![taken.clone()])
            .await
            .expect("is created");
        let other = new_instance(&version);
        assert!(
            store
                .create_instances(vec![other.clone(), taken])
                .await
                .is_err()
        );
        assert!(store.load(other.id).await.expect("loads").is_none());
    });
}

#[test]
fn instances_are_listed_by_what_they_are_about_newest_first() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let other = store
            .apply_workflow(&acme(), definition("other", "x"), "ann")
            .await
            .expect("applies")
            .version;
        let at = |seconds| START.after(Duration::from_secs(seconds));
        let mut first = new_instance(&version);
        first.created_at = at(1);
        let mut second = new_instance(&version);
        second.created_at = at(2);
        second.entity_id = Some("4712".to_owned());
        second.project_id = None;
        let mut third = new_instance(&other);
        third.created_at = at(3);
        third.entity_type = None;
        third.entity_id = None;
        third.started_by = "plugin:expense".to_owned();
        let all = [third.id, second.id, first.id];
        store
            .create_instances(vec![first.clone(), second.clone(), third.clone()])
            .await
            .expect("are created");
        let mut wait = step(&load(&store, second.id).await.instance);
        wait.instance.status = InstanceStatus::Waiting;
        store.commit(wait).await.expect("commits");
        let list = |filter: InstanceFilter, page: Page<Cursor>| {
            let store = store.clone();
            async move {
                let listed = store
                    .instances(&acme(), &filter, &page)
                    .await
                    .expect("lists");
                listed
                    .iter()
                    .map(|instance| instance.id)
                    .collect::<Vec<_>>()
            }
        };
        let everything = InstanceFilter::default;
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(list(everything(), Page::first(9)).await, all);
        let after = Cursor {
            at: Some(at(3)),
            key: third.id,
        };
        assert_eq!(
            list(
                everything(),
                Page {
                    after: Some(after),
                    limit: 1
                }
            )
            .await,
            [second.id]
        );
        let ann = InstanceFilter {
            started_by: text("ann"),
            ..everything()
        };
        let after = Cursor {
            at: None,
            key: second.id,
        };
        assert_eq!(
            list(
                ann,
                Page {
                    after: Some(after),
                    limit: 9
                }
            )
            .await,
            [first.id]
        );
        let period = |from, to| Period {
            from: Some(at(from)),
            to: Some(at(to)),
        };
        let cases = [
            (
                InstanceFilter {
                    workflow: Some(name("expense")),
                    ..everything()
                },
                vec![second.id, first.id],
            ),
            (
                InstanceFilter {
                    workflow: Some(name("missing")),
                    ..everything()
                },
                vec![],
            ),
            (
                InstanceFilter {
                    status: Some(InstanceStatus::Waiting),
                    ..everything()
                },
                vec![second.id],
            ),
            (
                InstanceFilter {
                    entity_type: text("invoice"),
                    ..everything()
                },
                vec![second.id, first.id],
            ),
            (
                InstanceFilter {
                    entity_type: text("invoice"),
                    entity_id: text("4712"),
                    ..everything()
                },
                vec![second.id],
            ),
            (
                InstanceFilter {
                    project_id: text("apollo"),
                    ..everything()
                },
                vec![third.id, first.id],
            ),
            (
                InstanceFilter {
                    started_by: text("plugin:expense"),
                    ..everything()
                },
                vec![third.id],
            ),
            (
                InstanceFilter {
                    started_by: text("ann"),
                    status: Some(InstanceStatus::Running),
                    ..everything()
                },
                vec![first.id],
            ),
            (
                InstanceFilter {
                    created: period(1, 3),
                    ..everything()
                },
                vec![second.id, first.id],
            ),
            (
                InstanceFilter {
                    created: period(4, 9),
                    ..everything()
                },
                vec![],
            ),
            (
                InstanceFilter {
                    created: Period {
                        from: None,
                        to: Some(at(2)),
                    },
                    ..everything()
                },
                vec![first.id],
            ),
            (
                InstanceFilter {
                    status: Some(InstanceStatus::Running),
                    created: period(2, 9),
                    ..everything()
                },
                vec![third.id],
            ),
            (
                InstanceFilter {
                    started: period(0, 2),
                    ..everything()
                },
                vec![first.id],
            ),
            (
                InstanceFilter {
                    created: period(1, 4),
                    started: period(2, 4),
                    ..everything()
                },
                vec![third.id, second.id],
            ),
        ];
        for (filter, expected) in cases {
            assert_eq!(
                list(filter.clone(), Page::first(9)).await,
                expected,
                "{filter:?}"
            );
        }
        let mut counted = store.count_instances(&acme()).await.expect("counts");
        counted.sort_unstable();
        assert_eq!(
            counted,
            [(InstanceStatus::Running, 2), (InstanceStatus::Waiting, 1)]
        );
    });
}

#[test]
fn a_period_is_paged_by_its_time_and_equal_times_are_told_apart() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let mut new: Vec<_> = (0..9).map(|_| new_instance(&version)).collect();
        for (index, new) in (0..).zip(&mut new) {
            new.created_at = START.after(Duration::from_secs(index / 4));
        }
        let mut expected: Vec<_> = new.iter().map(|new| (new.created_at, new.id)).collect();
        expected.sort_unstable();
        expected.reverse();
        store.create_instances(new).await.expect("are created");
        for filter in [
            InstanceFilter::default(),
            InstanceFilter {
                created: Period {
                    from: Some(START),
                    to: None,
                },
                ..InstanceFilter::default()
            },
            InstanceFilter {
                started: Period {
                    from: Some(START),
                    to: None,
                },
                ..InstanceFilter::default()
            },
        ] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store
                    .instances(&acme(), &filter, &Page { after, limit: 2 })
                    .await
                    .expect("lists");
                listed.extend(
                    page.iter()
                        .map(|instance| (instance.created_at, instance.id)),
                );
                let Some(last) = page.last() else { break };
                after = Some(
                    filter
                        .cursor(last)
                        .to_string()
                        .parse()
                        .expect("survives its text"),
                );
            }
            assert_eq!(listed, expected, "{filter:?}");
        }
    });
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    on_both(|store, _| async move {
        let ann = InstanceFilter {
            started_by: Some("ann".to_owned()),
            ..InstanceFilter::default()
        };
        for (filter, at) in [(ann, Some(START)), (InstanceFilter::default(), None)] {
            let page = Page {
                after: Some(Cursor {
                    at,
                    key: Uuid::nil(),
                }),
                limit: 9,
            };
            let refused = store.instances(&acme(), &filter, &page).await;
            assert!(matches!(refused, Err(StoreError::Cursor)), "{refused:?}");
        }
    });
}

#[test]
fn due_instances_come_in_the_order_they_have_waited() {
    on_both(|store, _| async move {
        let version = workflow(&store, &acme()).await;
        let mut ids = Vec::new();
        for seconds in [30, 10, 20] {
            let mut new = new_instance(&version);
            new.created_at = START.after(Duration::from_secs(seconds));
            ids.push(new.id);
            store.create_instances(vec![new]).await.expect("is created");
        }
        let [late, first, second] = ids.as_slice() else {
            unreachable!("three were created")
        };
        let at = |seconds| START.after(Duration::from_secs(seconds));
        assert!(
            store
                .due_instances(&acme(), at(9), 10)
                .await
                .expect("reads")
                .is_empty()
        );
        assert_eq!(
            store
                .due_instances(&acme(), at(20), 10)
                .await
                .expect("reads"),
            [*first, *second]
        );
        assert_eq!(
            store
                .due_instances(&acme(), at(99), 2)
                .await
                .expect("reads"),
            [*first, *second]
        );
        for id in [first, second, late] {
            let mut end = step(&load(&store, *id).await.instance);
            end.instance.status = InstanceStatus::Completed;
            end.instance.wake_at = None;
            store.commit(end).await.expect("commits");
        }
        assert!(
            store
                .due_instances(&acme(), at(99), 10)
                .await
                .expect("reads")
                .is_empty()
        );
    });
}

#[test]
fn another_teams_instance_is_not_there() {
    on_both(|store, _| async move {
        let instance = instance(&store).await;
        let mut commit = step(&instance);
        commit.change.attempts = vec![attempt(&instance, 1), attempt(&instance, 2)];
        store.commit(commit.clone()).await.expect("commits");
        let shown = store
            .attempts(&acme(), instance.id, 1 << 20)
            .await
            .expect("reads");
        let attempts: Vec<_> = shown
            .attempts
            .into_iter()
            .map(|shown| shown.attempt)
            .collect();
        assert_eq!(attempts, commit.change.attempts);
        let rival = name("rival");
        // Cached for its own team, it is still not there for another.
        assert!(
            store
                .instance(&acme(), instance.id)
                .await
                .expect("reads")
                .is_some()
        );
        assert!(
            store
                .instance(&rival, instance.id)
                .await
                .expect("reads")
                .is_none()
        );
        assert!(
            store
                .attempts(&rival, instance.id, 1 << 20)
                .await
                .expect("reads")
                .attempts
                .is_empty()
        );
        let step = attempts[0].step.clone();
        let attempt = store
            .attempt(&acme(), instance.id, &step, 2)
            .await
            .expect("reads");
        assert_eq!(attempt.as_ref(), attempts.get(1));
        assert!(
            store
                .attempt(&acme(), instance.id, &step, 3)
                .await
                .expect("reads")
                .is_none()
        );
        assert!(
            store
                .attempt(&rival, instance.id, &step, 2)
                .await
                .expect("reads")
                .is_none()
        );
        let (_, payloads) = store
            .instance_payloads(&rival, vec![instance.id], 1 << 20)
            .await
            .expect("reads");
        assert!(payloads.is_empty());
        let listed = store
            .instances(&rival, &InstanceFilter::default(), &Page::first(9))
            .await
            .expect("lists");
        assert!(listed.is_empty());
        assert!(
            store
                .count_instances(&rival)
                .await
                .expect("counts")
                .is_empty()
        );
    });
}

#[test]
fn outputs_are_read_as_far_as_they_fit() {
    on_both(|store, _| async move {
        let instance = instance(&store).await;
        let mut commit = step(&instance);
        commit.change.attempts = (1..=3)
            .map(|number| Attempt {
                output: Some(json!("x".repeat(998)).into()),
                ..attempt(&instance, number)
            })
            .collect();
        store.commit(commit).await.expect("commits");
        for (bytes_max, kept) in [(9_000, 3), (3_999, 2), (2_000, 0), (0, 0)] {
            let shown = store
                .attempts(&acme(), instance.id, bytes_max)
                .await
                .expect("reads");
            let outputs: Vec<_> = shown
                .attempts
                .iter()
                .map(|shown| shown.attempt.output.is_some())
                .collect();
            assert_eq!(
                outputs,
                [kept > 2, kept > 1, kept > 0],
                "the newest stay: {bytes_max}"
            );
            assert!(shown.attempts.iter().all(|shown| {
                shown.output_omitted_bytes == shown.attempt.output.is_none().then_some(1_000)
            }));
            assert_eq!((shown.omitted, shown.lacks_outputs()), (0, kept < 3));
        }
    });
}

#[test]
fn inputs_are_read_for_as_many_instances_as_fit() {
    on_both(|store, _| async move {
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(instance(&store).await.id);
        }
        let (count, payloads) = store
            .instance_payloads(&acme(), ids.clone(), 1 << 20)
            .await
            .expect("reads");
        assert_eq!((count, payloads.len()), (4, 4));
        let bytes = payloads[&ids[0]].input.len();
        assert!(payloads[&ids[0]].output.is_none());
        for (bytes_max, fitting) in [(0, 1), (2 * bytes, 2), (3 * bytes - 1, 2)] {
            let (count, payloads) = store
                .instance_payloads(&acme(), ids.clone(), bytes_max)
                .await
                .expect("reads");
            assert_eq!((count, payloads.len()), (fitting, fitting), "{bytes_max}");
            assert!(ids.iter().take(fitting).all(|id| payloads.contains_key(id)));
        }
    });
}
