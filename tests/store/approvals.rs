//! Lists of approvals.

use std::time::Duration;

use stepwell::model::ApprovalStatus;
use stepwell::store::{ApprovalFilter, Page, Period};

use crate::databases::{START, on_both};
use crate::fixtures::{acme, approval, decided, instance, load, name, step};

#[test]
fn approvals_are_listed_by_approver_and_status_oldest_first() {
    on_both(|store, _| async move {
        let mut instance = instance(&store).await;
        let asked: Vec<_> = ["bob", "eve", "bob", "bob"]
            .map(|user| approval(&instance, user, START))
            .to_vec();
        let mut commit = step(&instance);
        commit.change.new_approvals.clone_from(&asked);
        store.commit(commit).await.expect("commits");
        instance.version += 1;
        let [one, two, three, four] = asked.as_slice() else {
            unreachable!("four were asked")
        };
        let mut commit = step(&instance);
        commit.change.decided = vec![decided(one, ApprovalStatus::Approved)];
        store.commit(commit).await.expect("commits");
        let list = |approver: Option<&'static str>, status, page: Page| {
            let store = store.clone();
            async move {
                let listed = store
                    .approvals(&acme(), approver, status, &page)
                    .await
                    .expect("lists");
                listed
                    .iter()
                    .map(|approval| approval.id)
                    .collect::<Vec<_>>()
            }
        };
        let pending = Some(ApprovalStatus::Pending);
        assert_eq!(
            list(Some("bob"), pending, Page::first(9)).await,
            [three.id, four.id]
        );
        assert_eq!(
            list(Some("bob"), pending, Page::first(1)).await,
            [three.id],
            "from the cache"
        );
        assert_eq!(
            list(
                Some("bob"),
                pending,
                Page {
                    after: Some(three.id),
                    limit: 9
                }
            )
            .await,
            [four.id]
        );
        assert_eq!(
            list(Some("bob"), None, Page::first(9)).await,
            [one.id, three.id, four.id]
        );
        assert_eq!(
            list(None, pending, Page::first(9)).await,
            [two.id, three.id, four.id]
        );
        assert_eq!(list(None, None, Page::first(2)).await, [one.id, two.id]);
        assert_eq!(
            list(Some("bob"), Some(ApprovalStatus::Approved), Page::first(9)).await,
            [one.id]
        );
        let row = store
            .approval(&acme(), one.id)
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(
            (row.status, row.comment.as_deref()),
            (ApprovalStatus::Approved, Some("so be it"))
        );
        assert_eq!(row.decided_at, Some(START));
        assert_eq!(
            store
                .instance_approvals(&acme(), instance.id, 9)
                .await
                .expect("lists")
                .len(),
            4
        );
        assert_eq!(load(&store, instance.id).await.approvals.len(), 4);
    });
}

#[test]
fn approvals_are_listed_by_instance_step_and_time() {
    on_both(|store, _| async move {
        let (first, second) = (instance(&store).await, instance(&store).await);
        let at = |seconds| START.after(Duration::from_secs(seconds));
        // Later approvals expire sooner.
        let mut asked: Vec<_> = [(&first, 30), (&first, 20), (&second, 10)]
            .into_iter()
            .map(|(instance, expires)| approval(instance, "bob", at(expires)))
            .collect();
        for (index, asked) in (0..).zip(&mut asked) {
            asked.created_at = at(index);
        }
        let [one, two, three] = asked.as_mut_slice() else {
            unreachable!("three were asked")
        };
        two.step = "later".parse().expect("is a step id");
        let mut commit = step(&first);
        commit.change.new_approvals = vec![one.clone(), two.clone()];
        store.commit(commit).await.expect("commits");
        let mut commit = step(&second);
        commit.change.new_approvals = vec![three.clone()];
        store.commit(commit).await.expect("commits");
        let everything = ApprovalFilter::default;
        let (bob, pending) = (Some("bob".to_owned()), Some(ApprovalStatus::Pending));
        let created = Period {
            from: Some(at(1)),
            to: None,
        };
        let expires = Period {
            from: None,
            to: Some(at(25)),
        };
        let cases = [
            (everything(), vec![one.id, two.id, three.id]),
            (
                ApprovalFilter {
                    instance: Some(first.id),
                    ..everything()
                },
                vec![one.id, two.id],
            ),
            (
                ApprovalFilter {
                    instance: Some(first.id),
                    step: Some(two.step.clone()),
                    ..everything()
                },
                vec![two.id],
            ),
            (
                ApprovalFilter {
                    created,
                    ..everything()
                },
                vec![two.id, three.id],
            ),
            (
                ApprovalFilter {
                    expires,
                    ..everything()
                },
                vec![three.id, two.id],
            ),
            (
                ApprovalFilter {
                    status: pending,
                    expires,
                    ..everything()
                },
                vec![three.id, two.id],
            ),
            (
                ApprovalFilter {
                    approver: bob.clone(),
                    status: pending,
                    created,
                    ..everything()
                },
                vec![two.id, three.id],
            ),
            (
                ApprovalFilter {
                    approver: bob.clone(),
                    status: pending,
                    ..everything()
                },
                vec![one.id, two.id, three.id],
            ),
            (
                ApprovalFilter {
                    approver: Some("eve".to_owned()),
                    created,
                    ..everything()
                },
                vec![],
            ),
            (
                ApprovalFilter {
                    approver: bob,
                    created,
                    expires,
                    ..everything()
                },
                vec![three.id, two.id],
            ),
        ];
        for (filter, expected) in cases {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = store
                    .approvals_where(&acme(), &filter, &Page { after, limit: 2 })
                    .await
                    .expect("lists");
                let Some(last) = page.last() else { break };
                after = Some(filter.cursor(last));
                listed.extend(page.iter().map(|approval| approval.id));
            }
            assert_eq!(listed, expected, "{filter:?}");
            let theirs = store
                .approvals_where(&name("rival"), &filter, &Page::first(9))
                .await
                .expect("lists");
            assert_eq!(theirs, [], "{filter:?}");
        }
    });
}

#[test]
fn another_teams_approvals_are_not_there() {
    on_both(|store, _| async move {
        let instance = instance(&store).await;
        let asked = approval(&instance, "bob", START);
        let mut commit = step(&instance);
        commit.change.new_approvals.push(asked.clone());
        store.commit(commit).await.expect("commits");
        let rival = name("rival");
        assert!(
            store
                .approval(&rival, asked.id)
                .await
                .expect("reads")
                .is_none()
        );
        assert!(
            store
                .instance_approvals(&rival, instance.id, 9)
                .await
                .expect("lists")
                .is_empty()
        );
        for approver in [None, Some("bob")] {
            let listed = store
                .approvals(
                    &rival,
                    approver,
                    Some(ApprovalStatus::Pending),
                    &Page::first(9),
                )
                .await;
            assert!(listed.expect("lists").is_empty());
        }
    });
}
