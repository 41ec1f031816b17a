//! The effect of events on an instance.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use stepwell_model::approval::ApprovalStatus;
use stepwell_model::definition::{
    ApprovalSource, DefinitionSource, OnExpiry, OnReject, Retry, StepSource, WaitField, WaitSource,
};
use stepwell_model::transition::{Change, DecisionError, Event, Progress};
use stepwell_model::{Blame, Decision, Definition, Failure, InstanceStatus};
use uuid::Uuid;

use crate::progress::{Stage, expense, failure};

#[test]
fn steps_run_in_order_and_an_unneeded_approval_is_skipped() {
    let mut stage = expense();
    assert_eq!(stage.ready().as_deref(), Some("score"));
    stage.complete(json!({ "risk": 10 }));
    assert_eq!(stage.ready().as_deref(), Some("pay"));
    assert!(stage.pending().is_empty());
    let run = stage.progress.next_run(stage.now).expect("is ready");
    let input = stage.progress.input_for(run.step).expect("fits");
    assert_eq!(input, json!({ "amount": 12, "note": "risk 10" }));
    stage.complete(json!("paid"));
    assert_eq!(stage.status(), "completed");
    assert_eq!(stage.progress.instance.output, Some(json!("paid").into()));
}

#[test]
fn now_is_when_the_step_became_ready_for_each_attempt_and_after_a_restart() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: a, plugin: p, step: s, input: '${now}' }
  - { id: b, plugin: p, step: s, needs: [a], input: '${now}' }
  - { id: c, plugin: p, step: s, when: \"now == timestamp('1970-01-01T00:00:08Z')\" }
output: '${now}'
",
        json!({}),
    );
    let input = |stage: &Stage| {
        let run = stage.progress.next_run(stage.now).expect("is ready");
        stage.progress.input_for(run.step).expect("fits")
    };
    let later = |stage: &mut Stage| stage.now = stage.now.after(Duration::from_secs(1));
    assert_eq!(
        input(&stage),
        json!("1970-01-01T00:00:01Z"),
        "when it was started"
    );
    later(&mut stage);
    assert_eq!(input(&stage), json!("1970-01-01T00:00:01Z"));
    stage.complete(json!(1));
    later(&mut stage);
    assert_eq!(
        input(&stage),
        json!("1970-01-01T00:00:02Z"),
        "when `a` was settled"
    );
    stage.fail(true);
    stage.wait(Duration::from_secs(5));
    assert_eq!(
        input(&stage),
        json!("1970-01-01T00:00:02Z"),
        "the same for the next attempt"
    );
    let restored = Progress::restore(
        stage.progress.instance.clone(),
        Arc::clone(&stage.progress.definition),
        &stage.attempts,
        Vec::new(),
    );
    let run = restored.next_run(stage.now).expect("is ready");
    assert_eq!(
        restored.input_for(run.step).expect("fits"),
        input(&stage),
        "and after a restart"
    );
    stage.complete(json!(2));
    assert_eq!(
        stage.ready().as_deref(),
        Some("c"),
        "`when` has the step's time"
    );
    later(&mut stage);
    stage.complete(json!(3));
    assert_eq!(
        stage.progress.instance.output,
        Some(json!("1970-01-01T00:00:09Z").into())
    );
}

#[test]
fn steps_whose_needs_are_settled_are_ready_together_and_end_in_any_order() {
    let definition = "
name: w
steps:
  - { id: a, plugin: p, step: s }
  - { id: b, needs: [], plugin: p, step: s }
  - { id: c, needs: [a], plugin: p, step: s }
  - { id: d, needs: [a, b], plugin: p, step: s }
output: { a: '${steps.a.output}', b: '${steps.b.output}', c: '${steps.c.output}', d: '${steps.d.output}' }
";
    let ready = |stage: &Stage| -> Vec<String> {
        let runs = stage.progress.ready_runs(stage.now);
        runs.map(|run| run.step.to_string()).collect()
    };
    let mut stage = Stage::new(definition, json!({}));
    assert_eq!(ready(&stage), ["a", "b"]);
    stage.finish_nth(1, Err(failure(true)));
    assert_eq!(ready(&stage), ["a"], "`b` waits for its retry");
    let retry_at = stage.progress.next_event_at(stage.now).expect("a retry");
    stage.complete(json!("a"));
    assert_eq!(ready(&stage), ["c"]);
    stage.wait(retry_at.since(stage.now));
    assert_eq!(ready(&stage), ["b", "c"]);
    assert_eq!(stage.progress.next_event_at(stage.now), None);
    stage.finish_nth(1, Ok(json!("c")));
    stage.finish_nth(0, Ok(json!("b")));
    assert_eq!(ready(&stage), ["d"]);
    stage.complete(json!("d"));
    assert_eq!(stage.status(), "completed");
    assert_eq!(
        stage.progress.instance.output,
        Some(json!({ "a": "a", "b": "b", "c": "c", "d": "d" }).into())
    );
}

#[test]
fn a_wait_ends_at_its_time_whatever_happens_meanwhile() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: cool_down, wait: { for: 24h } }
  - { id: due, needs: [], wait: { until: '${input.due}' } }
  - { id: past, needs: [], wait: { until: 1970-01-01T00:00:00Z } }
  - { id: after, needs: [cool_down, due], plugin: p, step: s, input: '${steps.due.output.until}' }
",
        json!({ "due": "1970-01-01T00:00:31Z" }),
    );
    // The instance begins one second after 1970 began.
    assert_eq!((stage.status(), stage.ready()), ("waiting", None));
    let instance = &stage.progress.instance;
    assert_eq!(
        instance.current_step.as_ref().map(|step| step.as_str()),
        Some("cool_down")
    );
    assert_eq!(
        instance.wake_at,
        Some(stage.now.after(Duration::from_secs(30)))
    );
    assert!(
        stage.progress.steps.settled_at("past").is_some(),
        "a time in the past has come"
    );

    let change = stage.wait(Duration::from_secs(29));
    assert_eq!(change.attempts, []);
    stage.progress = stage.restored();
    let change = stage.wait(Duration::from_secs(2));
    assert_eq!(change.attempts.len(), 1, "{change:?}");
    assert_eq!(change.attempts[0].step.as_str(), "due");
    assert_eq!(
        change.attempts[0].output,
        Some(json!({ "until": "1970-01-01T00:00:31.000000Z" }).into())
    );
    let day = stage
        .progress
        .instance
        .created_at
        .after(Duration::from_secs(24 * 3_600));
    assert_eq!(stage.progress.instance.wake_at, Some(day));
    stage.wait(day.since(stage.now));
    assert_eq!(
        (stage.status(), stage.ready().as_deref()),
        ("running", Some("after"))
    );
    let input = stage
        .progress
        .input_for(&"after".parse().expect("is a step id"));
    assert_eq!(input.expect("fits"), json!("1970-01-01T00:00:31.000000Z"));
}

#[test]
fn a_wait_whose_time_is_none_fails_the_instance_with_the_reason() {
    let stage = Stage::new(
        "name: w\nsteps: [{ id: a, wait: { until: '${input.due}' } }]",
        json!({ "due": "tomorrow" }),
    );
    let failure = stage.progress.instance.failure.as_ref().expect("failed");
    assert_eq!(failure.code, "expression");
    assert!(
        failure
            .message
            .contains("step `a`: `wait.until`: 'tomorrow' is not a time"),
        "{failure:?}"
    );
}

#[test]
fn cancelling_ends_a_wait() {
    let mut stage = Stage::new("name: w\nsteps: [{ id: a, wait: { for: 1h } }]", json!({}));
    stage
        .apply(Event::Cancelled {
            by: "ann".to_owned(),
        })
        .expect("is no decision");
    assert_eq!(
        (stage.status(), stage.progress.instance.wake_at),
        ("cancelled", None)
    );
    assert_eq!(stage.wait(Duration::from_secs(3_600)).attempts, []);
}

#[test]
fn an_instance_whose_steps_follow_each_other_is_due_since_the_first_of_them() {
    let mut stage = expense();
    let created_at = stage.progress.instance.created_at;
    stage.now = stage.now.after(Duration::from_secs(5));
    stage.complete(json!({ "risk": 10 }));
    assert_eq!(stage.ready().as_deref(), Some("pay"));
    assert_eq!(stage.progress.instance.wake_at, Some(created_at));
}

#[test]
fn a_decision_makes_an_instance_due_at_once() {
    let mut stage = expense();
    stage.complete(json!({ "risk": 90 }));
    assert!(
        stage
            .progress
            .instance
            .wake_at
            .expect("an approval runs out")
            > stage.now
    );
    stage.now = stage.now.after(Duration::from_secs(5));
    stage.decide("bob", Decision::Approve).expect("is pending");
    stage.decide("eve", Decision::Approve).expect("is pending");
    assert_eq!(stage.ready().as_deref(), Some("pay"));
    assert_eq!(stage.progress.instance.wake_at, Some(stage.now));
}

#[test]
fn a_quorum_of_approvers_lets_the_instance_go_on_and_frees_the_others() {
    let mut stage = expense();
    let change = stage.complete(json!({ "risk": 90 }));
    assert_eq!(change.new_approvals.len(), 3);
    assert_eq!(change.new_approvals[0].title, "Expense of 12");
    assert_eq!(stage.status(), "waiting");
    stage.decide("bob", Decision::Approve).expect("is pending");
    assert_eq!(stage.status(), "waiting");
    stage.decide("eve", Decision::Approve).expect("is pending");
    assert_eq!(stage.ready().as_deref(), Some("pay"));
    assert!(stage.pending().is_empty());
    let late = stage
        .decide("joe", Decision::Approve)
        .expect_err("is not needed any more");
    assert!(
        matches!(
            late,
            DecisionError::NotPending {
                status: ApprovalStatus::Cancelled,
                at: Some(_)
            }
        ),
        "{late}"
    );
    let output = stage.progress.steps.get("manager").expect("is there");
    let output = output.output().expect("is settled");
    let output: Value = serde_json::from_str(output).expect("is JSON");
    assert_eq!(output["decided_by"], json!(["bob", "eve"]));
}

#[test]
fn one_rejection_rejects() {
    let mut stage = expense();
    stage.complete(json!({ "risk": 90 }));
    stage.decide("eve", Decision::Reject).expect("is pending");
    assert_eq!(stage.status(), "rejected");
    assert!(stage.pending().is_empty());
    let failure = stage.progress.instance.failure.clone().expect("says why");
    assert_eq!(failure.message, "eve rejected \"Expense of 12\": because");
    assert!(stage.decide("bob", Decision::Approve).is_err());
}

#[test]
fn nobody_can_decide_after_the_expiry_even_before_the_engine_has_looked() {
    let mut stage = expense();
    stage.complete(json!({ "risk": 90 }));
    stage.now = stage.now.after(Duration::from_secs(3_600));
    let late = stage
        .decide("bob", Decision::Approve)
        .expect_err("is too late");
    assert!(
        matches!(
            late,
            DecisionError::NotPending {
                status: ApprovalStatus::Expired,
                ..
            }
        ),
        "{late}"
    );
    stage.wait(Duration::ZERO);
    assert_eq!(stage.status(), "rejected");
    assert_eq!(
        stage
            .progress
            .instance
            .failure
            .as_ref()
            .map(|failure| failure.code.as_str()),
        Some("approval-expired")
    );
}

#[test]
fn retries_back_off_and_then_the_instance_fails() {
    let mut stage = expense();
    for delay in [1, 2] {
        stage.fail(true);
        assert_eq!(stage.status(), "running");
        assert_eq!(stage.ready(), None);
        assert_eq!(
            stage.progress.instance.wake_at,
            Some(stage.now.after(Duration::from_secs(delay)))
        );
        stage.wait(Duration::from_secs(delay));
        assert_eq!(stage.ready().as_deref(), Some("score"));
    }
    stage.fail(true);
    assert_eq!(stage.status(), "failed");
    assert_eq!(
        stage
            .attempts
            .iter()
            .map(|attempt| attempt.number)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
}

#[test]
fn a_fatal_failure_is_not_tried_again() {
    let mut stage = expense();
    stage.fail(false);
    assert_eq!(stage.status(), "failed");
}

#[test]
fn a_condition_that_does_not_fit_the_data_fails_the_instance_and_says_where() {
    let mut stage = expense();
    stage.complete(json!({ "risk": "high" }));
    assert_eq!(stage.status(), "failed");
    let failure = stage.progress.instance.failure.clone().expect("says why");
    assert_eq!(failure.code, "expression");
    assert!(
        failure.message.contains("steps.score.output.risk > 50"),
        "{}",
        failure.message
    );
}

#[test]
fn a_parallel_branch_runs_while_an_approval_waits() {
    let mut stage = Stage::new(
        "
name: w
steps:
  - { id: ask, approval: { title: t, approvers: [bob], expires_in: 1h } }
  - { id: other, needs: [], plugin: p, step: s }
  - { id: last, needs: [ask, other], plugin: p, step: s }
",
        Value::Null,
    );
    assert_eq!(stage.ready().as_deref(), Some("other"));
    stage.complete(json!(1));
    assert_eq!(stage.status(), "waiting");
    stage.decide("bob", Decision::Approve).expect("is pending");
    assert_eq!(stage.ready().as_deref(), Some("last"));
}

/// Returns an instance that ann started and whose approval asks ann and bob.
fn ann_asks(rule: &str) -> Stage {
    let definition = format!(
        "name: w\nsteps:\n  - {{ id: ask, approval: {{ title: \"For ${{input}}\", approvers: [ann, bob], expires_in: 1h{rule} }} }}"
    );
    Stage::new(&definition, json!("Acme \u{202e}000,1 RUE\0"))
}

#[test]
fn the_starter_may_approve_only_if_the_definition_says_so() {
    for rule in ["", ", starter_may_approve: false"] {
        let mut stage = ann_asks(rule);
        assert_eq!(
            stage.decide("ann", Decision::Approve),
            Err(DecisionError::Starter)
        );
        assert_eq!(stage.status(), "waiting");
        stage
            .decide("bob", Decision::Approve)
            .expect("bob did not start it");
        assert_eq!(stage.status(), "completed");
        let mut stage = ann_asks(rule);
        stage
            .decide("ann", Decision::Reject)
            .expect("nobody has to go on with what they started");
        assert_eq!(stage.status(), "rejected");
    }
    let mut stage = ann_asks(", starter_may_approve: true");
    stage
        .decide("ann", Decision::Approve)
        .expect("the definition says so");
    assert_eq!(stage.status(), "completed");
}

#[test]
fn definitions_from_before_the_rule_keep_their_meaning_and_say_it() {
    let mut source = ann_asks("").progress.definition.source.clone();
    source.let_starters_approve();
    assert_eq!(
        source.steps[0]
            .approval
            .as_ref()
            .expect("asks")
            .starter_may_approve,
        Some(true)
    );
    let mut explicit = ann_asks(", starter_may_approve: false")
        .progress
        .definition
        .source
        .clone();
    explicit.let_starters_approve();
    assert_eq!(
        explicit.steps[0]
            .approval
            .as_ref()
            .expect("asks")
            .starter_may_approve,
        Some(false)
    );
}

#[test]
fn a_title_is_made_harmless_where_it_is_made() {
    let stage = ann_asks("");
    assert_eq!(
        stage.progress.approvals[0].title,
        "For Acme \\u{202e}000,1 RUE\\u{0}"
    );
}

#[test]
fn a_cancelled_instance_asks_for_nothing_more() {
    let mut stage = expense();
    stage.complete(json!({ "risk": 90 }));
    stage
        .apply(Event::Cancelled {
            by: "ann".to_owned(),
        })
        .expect("is no decision");
    assert_eq!(stage.status(), "cancelled");
    assert!(stage.pending().is_empty());
    assert_eq!(stage.progress.instance.wake_at, None);
    assert!(stage.wait(Duration::from_secs(10_000)).attempts.is_empty());
}

/// Generates definitions of up to 7 steps that need any of the steps above them.
fn definitions() -> impl Strategy<Value = Arc<Definition>> {
    prop::collection::vec(
        (
            any::<u8>(),
            0..5_u8,
            prop::option::of(any::<bool>()),
            any::<bool>(),
        ),
        1..8,
    )
    .prop_map(|shapes| {
        let id = |index: usize| format!("s{index}").parse().expect("is a step id");
        let steps = shapes.into_iter().enumerate().map(
            |(index, (needs, kind, when, approve_on_expiry))| {
                let approval = (kind == 0).then(|| ApprovalSource {
                    title: "t".to_owned(),
                    approvers: vec!["bob".to_owned(), "eve".to_owned()],
                    quorum: 1 + u32::from(needs % 2),
                    expires_in: Duration::from_secs(60),
                    on_reject: OnReject::Fail,
                    on_expiry: if approve_on_expiry {
                        OnExpiry::Approve
                    } else {
                        OnExpiry::Reject
                    },
                    starter_may_approve: None,
                });
                let wait = (kind == 1).then(|| {
                    WaitField::Time(WaitSource {
                        duration: Some("30s".to_owned()),
                        until: None,
                    })
                });
                let runs = kind > 1;
                let plain = StepSource::of_plugin(
                    id(index),
                    &"p".parse().expect("is a name"),
                    "s".parse().expect("is a name"),
                );
                StepSource {
                    needs: Some(
                        (0..index)
                            .filter(|above| needs & (1 << above) != 0)
                            .map(id)
                            .collect(),
                    ),
                    when: when.map(|holds| holds.to_string()),
                    plugin: plain.plugin.clone().filter(|_| runs),
                    step: plain.step.clone().filter(|_| runs),
                    retry: runs.then(|| Retry {
                        max_attempts: 2,
                        ..Retry::default()
                    }),
                    approval,
                    wait,
                    ..plain
                }
            },
        );
        let name = "w".parse().expect("is a name");
        let source = DefinitionSource::of_steps(name, steps.collect());
        Arc::new(Definition::check(source).expect("is valid"))
    })
}

proptest! {
    /// Whatever happens, an instance ends. On the way it is never stuck, and it can be restored
    /// from what was stored.
    #[test]
    fn every_instance_ends_and_can_be_restored_at_any_time(
        definition in definitions(),
        choices in prop::collection::vec(any::<u8>(), 100),
    ) {
        let mut stage = Stage::of(definition, Value::Null);
        let mut choices = choices.into_iter();
        while !stage.progress.instance.status.is_final() {
            let choice = choices.next().expect("no instance takes a hundred events");
            let mut restored = stage.restored();
            let woken = restored.apply(Event::Woken, stage.now, &mut || Uuid::nil());
            prop_assert_eq!(woken.expect("is no decision"), Change::default());
            prop_assert_eq!(&restored.steps, &stage.progress.steps);
            prop_assert_eq!(&restored.instance, &stage.progress.instance);
            prop_assert!(stage.progress.instance.wake_at.is_some(), "an instance that has not ended is due at some time");
            let pending: Vec<_> = stage.pending().iter().map(|approval| approval.id).collect();
            // Steps that are ready at the same time may end in any order.
            let nth = usize::from(choice / 8);
            match (stage.ready().is_some(), pending.first(), choice % 8) {
                (true, _, 0) => { stage.finish_nth(nth, Err(failure(false))); }
                (true, _, 1 | 2) => { stage.finish_nth(nth, Err(failure(true))); }
                (true, None, _) | (true, Some(_), 3..=5) => { stage.finish_nth(nth, Ok(json!(1))); }
                (_, Some(id), 6) => {
                    let event = Event::Decided { approval_id: *id, decision: Decision::Reject, comment: None };
                    stage.apply(event).expect("is pending");
                }
                (_, Some(id), 7) => {
                    let event = Event::Decided { approval_id: *id, decision: Decision::Approve, comment: None };
                    stage.apply(event).expect("is pending");
                }
                _ => {
                    let wake_at = stage.progress.instance.wake_at.expect("was checked");
                    stage.wait(wake_at.since(stage.now));
                }
            }
        }
        prop_assert!(stage.pending().is_empty());
        prop_assert_eq!(stage.progress.instance.wake_at, None);
        prop_assert!(stage.progress.instance.completed_at.is_some());
        prop_assert_eq!(
            stage.progress.instance.failure.is_none(),
            stage.progress.instance.status == InstanceStatus::Completed
        );
    }
}

#[test]
fn an_instance_whose_commit_is_refused_for_good_ends_with_the_reason() {
    let mut stage = expense();
    let failure = Failure::fatal(
        "invalid-value",
        Blame::Definition,
        "the database cannot hold it",
    );
    stage
        .apply(Event::Refused {
            failure: failure.clone(),
        })
        .expect("is no decision");
    let recorded = Failure {
        step: Some("score".parse().expect("is an address")),
        at: Some(stage.now),
        ..failure
    };
    assert_eq!(
        (stage.status(), stage.progress.instance.failure.as_ref()),
        ("failed", Some(&recorded))
    );
    assert_eq!(stage.ready(), None);
}
