//! Many commits in one transaction: what each of them reads, and its outcome.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use stepwell::model::{
    ApprovalStatus, Guard, Instance, InstanceStatus, NewInstance, StorageWrite, WriteAction,
};
use stepwell::store::{
    CommitError, Created, INVALID_VALUE, InstanceUpdate, NOT_A_NUMBER, StepCommit, Store,
    StoreError,
};
use uuid::Uuid;

use crate::databases::{Database, START, on_both_databases};
use crate::fixtures::{
    acme, approval, decided, guarded, instance, key, keyed, load, new_instance, put, read, step,
    workflow,
};

/// A job of the committer.
#[derive(Clone)]
enum Job {
    Step(Box<StepCommit>),
    Create(Box<NewInstance>),
}

/// The outcome of a job, without ids and times.
#[derive(Clone, Debug, PartialEq, Eq)]
enum JobOutcome {
    Written,
    Created { existing: bool },
    Conflict,
    Rejected(&'static str),
}

async fn submit(store: Store, job: Job) -> JobOutcome {
    match job {
        Job::Step(commit) => match store.commit(*commit).await {
            Ok(()) => JobOutcome::Written,
            Err(CommitError::Conflict(_)) => JobOutcome::Conflict,
            Err(CommitError::Rejected { code, .. }) => JobOutcome::Rejected(code),
            Err(CommitError::Store(error)) => panic!("{error}"),
        },
        Job::Create(new) => match store.create_instances(vec![*new]).await.as_deref() {
            Ok([Created { existing, .. }]) => JobOutcome::Created {
                existing: *existing,
            },
            Err(StoreError::Constraint(_)) => JobOutcome::Conflict,
            other => panic!("{other:?}"),
        },
    }
}

/// Submits jobs so that one transaction writes all of them, in this order.
async fn in_one_group(database: &Database, store: &Store, jobs: Vec<Job>) -> Vec<JobOutcome> {
    let decoy = instance(store).await;
    let held = database.hold_writes().await;
    // The committer takes this job and waits for the database; the other jobs gather meanwhile.
    let mut calls: Vec<Pin<Box<dyn Future<Output = JobOutcome> + Send>>> = Vec::new();
    let (before, count) = (store.commit_stats(), jobs.len());
    for job in std::iter::once(Job::Step(Box::new(step(&decoy)))).chain(jobs) {
        let mut call = Box::pin(submit(store.clone(), job));
        // One poll puts the job into the queue.
        let polled = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "nobody can write now");
        calls.push(call);
        while calls.len() == 1 && store.commit_stats().queue > 0 {
            tokio::task::yield_now().await;
        }
    }
    held.release().await;
    let mut ends = Vec::new();
    for call in calls {
        ends.push(call.await);
    }
    assert_eq!(ends.remove(0), JobOutcome::Written);
    let after = store.commit_stats();
    // One group if the committer still gathered when the other jobs came: then the decoy is part of
    // it.
    let groups = after.groups - before.groups;
    assert!(
        (1..=2).contains(&groups),
        "{count} jobs were to be one group"
    );
    ends
}

fn create(new: NewInstance) -> Job {
    Job::Create(Box::new(new))
}

fn writes(instance: &Instance, writes: Vec<StorageWrite>) -> Job {
    let mut commit = step(instance);
    commit.effects.storage = writes;
    Job::Step(Box::new(commit))
}

fn increment(text: &str, by: i64) -> StorageWrite {
    StorageWrite {
        key: key(text),
        action: WriteAction::Increment(by),
        guard: None,
    }
}

fn delete(text: &str) -> StorageWrite {
    StorageWrite {
        key: key(text),
        action: WriteAction::Delete,
        guard: None,
    }
}

async fn instances(store: &Store, count: usize) -> Vec<Instance> {
    let workflow = workflow(store, &acme()).await;
    let new: Vec<_> = (0..count).map(|_| new_instance(&workflow)).collect();
    store
        .create_instances(new.clone())
        .await
        .expect("are created");
    new.into_iter().map(Instance::from).collect()
}

async fn value(store: &Store, text: &str) -> Option<String> {
    read(store, text).await.map(|(value, _)| value)
}

#[test]
fn each_commit_sees_what_those_before_it_wrote() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let all = instances(&store, 8).await;
        let [a, b, c, d, e, f, g, h] = all.as_slice() else {
            panic!("there are eight")
        };
        let jobs = vec![
            writes(a, vec![guarded(put("seat", "a"), Guard::Absent)]),
            writes(
                b,
                vec![guarded(put("seat", "b"), Guard::Absent), put("of b", "x")],
            ),
            writes(c, vec![put("counter", "5"), put("text", "five")]),
            writes(d, vec![increment("counter", 2)]),
            writes(e, vec![increment("text", 1), put("of e", "x")]),
            writes(f, vec![delete("seat"), increment("counter", 10)]),
            writes(g, vec![guarded(put("seat", "g"), Guard::Absent)]),
            writes(h, vec![delete("counter"), delete("text")]),
        ];
        let ends = in_one_group(&database, &store, jobs).await;
        let (ok, conflict) = (JobOutcome::Written, JobOutcome::Conflict);
        let rejected = JobOutcome::Rejected(NOT_A_NUMBER);
        assert_eq!(
            ends,
            [
                ok.clone(),
                conflict,
                ok.clone(),
                ok.clone(),
                rejected,
                ok.clone(),
                ok.clone(),
                ok
            ]
        );
        assert_eq!(value(&store, "seat").await.as_deref(), Some("g"));
        for gone in ["counter", "text", "of b", "of e"] {
            assert_eq!(value(&store, gone).await, None, "{gone}");
        }
        store.close().await;
    });
}

#[test]
fn refused_jobs_do_not_affect_later_jobs_of_their_group() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let mut all = instances(&store, 3).await;
        let mut stale = all.pop().expect("there are three");
        stale.version += 7;
        let [a, b] = all.as_slice() else {
            panic!("two are left")
        };
        let jobs = vec![
            writes(&stale, vec![guarded(put("seat", "stale"), Guard::Absent)]),
            writes(
                a,
                vec![guarded(put("seat", "a"), Guard::Absent), put("nul\0", "x")],
            ),
            writes(b, vec![guarded(put("seat", "b"), Guard::Absent)]),
        ];
        let ends = in_one_group(&database, &store, jobs).await;
        assert_eq!(
            ends,
            [
                JobOutcome::Conflict,
                JobOutcome::Rejected(INVALID_VALUE),
                JobOutcome::Written
            ]
        );
        assert_eq!(value(&store, "seat").await.as_deref(), Some("b"));
        assert_eq!(load(&store, a.id).await.instance.version, 1);
        store.close().await;
    });
}

#[test]
fn a_group_writes_steps_whose_instance_moves_on_and_steps_whose_instance_stays_where_it_is() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let all = instances(&store, 5).await;
        let [stays, waits, wakes, ends, mut stale] = all.try_into().expect("there are five");
        let change = |instance: &Instance, change: fn(&mut InstanceUpdate)| {
            let mut commit = step(instance);
            commit.instance.updated_at = START.after(Duration::from_secs(7));
            commit.instance.current_step = Some("check".parse().expect("is a step id"));
            change(&mut commit.instance);
            commit
        };
        let mut commits = vec![
            change(&stays, |_| {}),
            change(&waits, |instance| instance.status = InstanceStatus::Waiting),
            change(&wakes, |instance| {
                instance.wake_at = Some(START.after(Duration::from_secs(9)))
            }),
            change(&ends, |instance| {
                instance.status = InstanceStatus::Completed;
                instance.output = Some(json!({ "fine": true }).into());
                instance.completed_at = Some(START.after(Duration::from_secs(7)));
                instance.wake_at = None;
            }),
        ];
        stale.version += 7;
        for written in [
            commits.clone(),
            vec![change(&stays, |instance| instance.version += 1)],
        ] {
            let jobs = written.iter().cloned().chain([change(&stale, |_| {})]);
            let found = in_one_group(
                &database,
                &store,
                jobs.map(|commit| Job::Step(Box::new(commit))).collect(),
            )
            .await;
            let mut expected = vec![JobOutcome::Written; written.len()];
            expected.push(JobOutcome::Conflict);
            assert_eq!(found, expected);
        }
        commits[0].instance.version += 1;
        for (commit, before) in commits.into_iter().zip([stays, waits, wakes, ends]) {
            let update = commit.instance;
            let expected = Instance {
                version: update.version + 1,
                status: update.status,
                current_step: update.current_step,
                output: update.output,
                failure: update.failure,
                updated_at: update.updated_at,
                completed_at: update.completed_at,
                wake_at: update.wake_at,
                ..before
            };
            assert_eq!(load(&store, expected.id).await.instance, expected);
        }
        store.close().await;
    });
}

#[test]
fn a_decision_on_what_is_not_pending_takes_back_only_itself() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let mut commits = Vec::new();
        for instance in instances(&store, 3).await {
            let asked = approval(&instance, "bob", START.after(Duration::from_secs(60)));
            let mut ask = step(&instance);
            ask.change.new_approvals.push(asked.clone());
            store.commit(ask).await.expect("commits");
            let mut decide = step(&instance);
            decide.instance.version += 1;
            decide
                .change
                .decided
                .push(decided(&asked, ApprovalStatus::Approved));
            commits.push(decide);
        }
        commits[1].change.decided[0].id = Uuid::nil();
        let jobs = commits
            .iter()
            .cloned()
            .map(|commit| Job::Step(Box::new(commit)));
        let ends = in_one_group(&database, &store, jobs.collect()).await;
        assert_eq!(
            ends,
            [
                JobOutcome::Written,
                JobOutcome::Conflict,
                JobOutcome::Written
            ]
        );
        for (commit, expected) in commits.iter().zip([
            ApprovalStatus::Approved,
            ApprovalStatus::Pending,
            ApprovalStatus::Approved,
        ]) {
            let loaded = load(&store, commit.instance.id).await;
            assert_eq!(loaded.approvals[0].status, expected);
        }
        store.close().await;
    });
}

#[test]
fn commits_of_one_instance_follow_each_other() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let workflow = workflow(&store, &acme()).await;
        let new = new_instance(&workflow);
        let first = Instance::from(new.clone());
        let mut second = first.clone();
        second.version += 1;
        let jobs = vec![
            writes(&first, vec![put("early", "x")]),
            create(new),
            writes(&first, vec![increment("counter", 1)]),
            writes(&second, vec![increment("counter", 1)]),
            writes(&second, vec![increment("counter", 1)]),
        ];
        let ends = in_one_group(&database, &store, jobs).await;
        let created = JobOutcome::Created { existing: false };
        assert_eq!(
            ends,
            [
                JobOutcome::Conflict,
                created,
                JobOutcome::Written,
                JobOutcome::Written,
                JobOutcome::Conflict
            ]
        );
        assert_eq!(value(&store, "counter").await.as_deref(), Some("2"));
        assert_eq!(
            load(&store, first.id).await.instance.version,
            first.version + 2
        );
        store.close().await;
    });
}

#[test]
fn an_idempotency_key_goes_to_the_first_in_the_group() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        let workflow = workflow(&store, &acme()).await;
        let all = instances(&store, 2).await;
        let with_key = |text: &str| keyed(new_instance(&workflow), text);
        let creating = |instance: &Instance, text: &str| {
            let mut commit = step(instance);
            commit.effects.instances = vec![with_key(text)];
            Job::Step(Box::new(commit))
        };
        let [a, b] = all.as_slice() else {
            panic!("there are two")
        };
        let jobs = vec![
            create(with_key("one")),
            creating(a, "one"),
            creating(b, "two"),
            create(with_key("two")),
            create(with_key("three")),
        ];
        let ends = in_one_group(&database, &store, jobs).await;
        let created = |existing| JobOutcome::Created { existing };
        assert_eq!(
            ends,
            [
                created(false),
                JobOutcome::Conflict,
                JobOutcome::Written,
                created(true),
                created(false)
            ]
        );
        store.close().await;
    });
}

#[test]
fn a_group_ends_as_its_jobs_would_one_by_one() {
    on_both_databases(|database| async move {
        let store = database.open().await;
        // A small generator of its own: the same jobs on both databases, in every run.
        let mut state = 0x5eed_u64;
        let mut roll = move |sides: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        for round in 0..12 {
            let (grouped, single) = (instances(&store, 6).await, instances(&store, 6).await);
            let mut plan = Vec::new();
            for _ in 0..20 {
                let (who, stale, which, what) = (roll(6), roll(6) == 0, roll(3), roll(6));
                plan.push((usize::try_from(who).expect("is small"), stale, which, what));
            }
            // The same jobs in two worlds: other instances, other keys.
            let jobs = |world: &str, all: &[Instance]| {
                let mut versions = vec![1; all.len()];
                let jobs = plan.iter().map(|(who, stale, which, what)| {
                    let mut instance = all.get(*who).expect("is one of them").clone();
                    let version = versions.get_mut(*who).expect("is one of them");
                    // The version may be wrong if an earlier job is refused.
                    instance.version = if *stale { *version + 3 } else { *version };
                    *version += u64::from(!*stale);
                    let name = format!("{round}-{world}-{which}");
                    let write = match what {
                        0 => put(&name, "7"),
                        1 => put(&name, "seven"),
                        2 => guarded(put(&name, "1"), Guard::Absent),
                        3 => delete(&name),
                        _ => increment(&name, 1),
                    };
                    writes(&instance, vec![write])
                });
                jobs.collect::<Vec<_>>()
            };
            let ends = in_one_group(&database, &store, jobs("grouped", &grouped)).await;
            let mut expected = Vec::new();
            for job in jobs("single", &single) {
                expected.push(submit(store.clone(), job).await);
            }
            assert_eq!(ends, expected, "round {round}: {plan:?}");
            for which in 0..3 {
                let (grouped, single) = (
                    format!("{round}-grouped-{which}"),
                    format!("{round}-single-{which}"),
                );
                assert_eq!(
                    value(&store, &grouped).await,
                    value(&store, &single).await,
                    "round {round}: {plan:?}"
                );
            }
            for (grouped, single) in grouped.iter().zip(&single) {
                let version = async |id| load(&store, id).await.instance.version;
                assert_eq!(
                    version(grouped.id).await,
                    version(single.id).await,
                    "round {round}: {plan:?}"
                );
            }
        }
        store.close().await;
    });
}

#[test]
fn a_group_is_bounded_by_what_it_writes() {
    on_both_databases(|mut database| async move {
        database.config.database.commit_group_bytes_max = 100_000;
        database.config.database.commit_queue_bytes_max = 300_000;
        let store = database.open().await;
        let large = "x".repeat(60_000);
        let mut tasks = tokio::task::JoinSet::new();
        for (index, instance) in instances(&store, 20).await.into_iter().enumerate() {
            // One is larger than a group, and one than the queue.
            let value = large.repeat(match index {
                7 => 3,
                13 => 9,
                _ => 1,
            });
            let job = writes(&instance, vec![put(&format!("key-{index}"), &value)]);
            tasks.spawn(submit(store.clone(), job));
        }
        while let Some(end) = tasks.join_next().await {
            assert_eq!(end.expect("no panic"), JobOutcome::Written);
        }
        assert_eq!(store.commit_stats().largest_group, 1);
        store.close().await;
    });
}
